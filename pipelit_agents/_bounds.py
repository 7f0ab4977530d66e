"""Checks of numbers and flags that callers pass: durations, counts, times, and True or False.

Each function returns a plain value in its range, or raises an error that names the argument and the
fix. A NaN, an infinity, a ``bool`` or a number of another class would pass a comparison such as
``value > 0``, and cause a failure or a wrong result much later.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from math import isfinite
from typing import Final

__all__ = [
    "LONGEST_LIFETIME",
    "LONGEST_WAIT",
    "require_count",
    "require_duration",
    "require_flag",
    "require_moment",
    "require_seconds",
    "require_span",
]

# Seconds, 30 days. Some systems can't wait for more than 49 days at a time.
LONGEST_WAIT: Final = 30 * 86_400
# Seconds, 366 days.
LONGEST_LIFETIME: Final = 366 * 86_400
# The maximum of an integer column in every supported database.
_MAX_COUNT: Final = 2**31 - 1
# Unix seconds. Python's datetime ends a year later, in any time zone.
_END_OF_TIME: Final = datetime(9999, 1, 1, tzinfo=UTC).timestamp()


def require_seconds(
    value: object, argument: str, *, most: int = LONGEST_LIFETIME, zero: bool = False, or_: str = ""
) -> float:
    """Return a number of seconds as a ``float``.

    Args:
        value: An ``int`` or a ``float``.
        argument: The argument's name, for the message.
        most: The largest accepted number.
        zero: Whether 0 is accepted.
        or_: Another accepted value, for the message, such as ``None``.

    Raises:
        TypeError: It isn't an ``int`` or a ``float``. A ``bool``, a ``Decimal`` and a
            ``timedelta`` are refused.
        ValueError: It isn't finite, or is out of range.
    """
    other = f", or {or_}" if or_ else ""
    if type(value) is not int and type(value) is not float:
        how = ": pass its total_seconds()" if isinstance(value, timedelta) else ""
        raise TypeError(
            f"{argument} must be a number{f' or {or_}' if or_ else ''}, of seconds, "
            f"not {type(value).__name__}{how}"
        )
    # An int is compared before the conversion: a large one fits neither a float nor a message.
    if not (value >= 0 if zero else value > 0):
        least = "at least 0" if zero else "more than 0"
        raise ValueError(f"{argument} must be {least} seconds{other}")
    if value > most:
        raise ValueError(f"{argument} must be at most {most:,} seconds{other}")
    return float(value)


def require_count(
    value: object, argument: str, *, least: int = 1, most: int = _MAX_COUNT, or_: str = ""
) -> int:
    """Return a whole number.

    Args:
        value: An ``int``.
        argument: The argument's name, for the message.
        least: The smallest accepted number.
        most: The largest accepted number.
        or_: Another accepted value, for the message, such as ``None``.

    Raises:
        TypeError: It isn't an ``int``. A ``bool`` and a ``float`` are refused.
        ValueError: It is out of range.
    """
    other = f", or {or_}" if or_ else ""
    if type(value) is not int:
        raise TypeError(
            f"{argument} must be a whole number{f' or {or_}' if or_ else ''}, "
            f"not {type(value).__name__}"
        )
    if value < least:
        raise ValueError(f"{argument} must be at least {least}{other}")
    if value > most:
        raise ValueError(f"{argument} must be at most {most:,}{other}")
    return value


def require_duration(
    value: object,
    argument: str,
    *,
    most: timedelta = timedelta(seconds=LONGEST_LIFETIME),
    zero: str = "",
) -> timedelta:
    """Return a duration of 0 or more.

    Args:
        value: A ``timedelta``.
        argument: The argument's name, for the message.
        most: The longest accepted duration.
        zero: The meaning of ``timedelta(0)``, for the message.

    Raises:
        TypeError: It isn't a ``timedelta``.
        ValueError: It is negative, or longer than ``most``.
    """
    if not isinstance(value, timedelta):
        raise TypeError(f"{argument} must be a timedelta, for example timedelta(minutes=5)")
    if value < timedelta(0):
        raise ValueError(
            f"{argument} must not be negative{f': timedelta(0) {zero}' if zero else ''}"
        )
    if value > most:
        raise ValueError(f"{argument} must be at most {most.days:,} days")
    return value


def require_span(value: object, argument: str, *, most: timedelta | None = None) -> float:
    """Return a duration in seconds, from a number of seconds or a ``timedelta``.

    Args:
        value: An ``int``, a ``float`` or a ``timedelta``.
        argument: The argument's name, for the message.
        most: The longest accepted duration; by default what a ``timedelta`` can be.

    Raises:
        TypeError: It is something else. A ``bool`` is refused.
        ValueError: It isn't more than 0, or is longer than ``most``.
    """
    if isinstance(value, timedelta):
        seconds: int | float = value.total_seconds()
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = int(value) if isinstance(value, int) else float(value)
    else:
        raise TypeError(f"{argument} must be seconds or a timedelta, not {type(value).__name__}")
    if not seconds > 0:
        raise ValueError(f"{argument} must be more than 0 seconds")
    # An int is compared before the conversion, as in `require_seconds`.
    longest = timedelta.max if most is None else most
    if seconds > longest.total_seconds():
        raise ValueError(f"{argument} must be at most {longest.days:,} days")
    return float(seconds)


def require_flag(value: object, argument: str) -> bool:
    """Return True or False.

    Any other value counts as one of them wherever it is tested: the text ``"no"`` as True, and None
    as False.

    Raises:
        TypeError: It is something else.
    """
    if type(value) is not bool:
        raise TypeError(f"{argument} must be True or False, not {type(value).__name__}")
    return value


def require_moment(value: object, argument: str) -> float:
    """Return a time as Unix seconds.

    Args:
        value: A ``datetime`` with a time zone.
        argument: The argument's name, for the message.

    Raises:
        TypeError: It isn't a ``datetime``.
        ValueError: It has no time zone, or is out of range.
    """
    if not isinstance(value, datetime):
        raise TypeError(
            f"{argument} must be a datetime, for example datetime.now(UTC) + timedelta(days=90)"
        )
    if value.tzinfo is None or value.utcoffset() is None:
        raise ValueError(f"{argument} needs a time zone, for example datetime.now(UTC)")
    at = value.timestamp()
    if not isfinite(at) or not 0 <= at < _END_OF_TIME:
        raise ValueError(f"{argument} must be from the year 1970 to the year 9998")
    return at
