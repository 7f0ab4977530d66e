"""What could be written of a value, in one place to search: its texts and bytes.

A large state is written into one buffer by one pass in C. What that can't follow is walked.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from time import monotonic
from typing import Any, Final

import ormsgpack

from pipelit_agents.credentials.leak_guard.patterns import Patterns
from pipelit_agents.credentials.leak_guard.traversal import (
    SECONDS,
    answers,
    asks,
    contents,
    is_a_plain_model,
)
from pipelit_agents.credentials.secret import Secret

__all__ = ["ROUNDS", "Written", "as_bytes", "shows_a_number", "written"]

# More than any state has; what makes objects while it is looked at would never end.
_MOST: Final = 20_000_000
_FEW: Final = 300
# Up to so many parts, texts of so many characters a part are collected sooner than a pass in C
# writes them.
_MANY: Final = 20_000
_LONG: Final = 500
# Longer ones are searched by themselves, and not copied.
_LARGE: Final = 4096
# A text of digits that long may be a secret, and be kept as a number.
_SMALLEST: Final = 10_000_000
_LARGEST: Final = 2**64
_DIGITS: Final = 21
# So many models are written by a pass in C; with more they may be shared, and written without end.
_MODELS: Final = 300_000
# Asking a value gives further values, which are asked next.
ROUNDS: Final = 12
_BETWEEN: Final = "\n\0\n"
_CONTAINERS: Final = frozenset({dict, list, tuple, set, frozenset})
_LEAVES: Final = frozenset({bool, float, complex, type(None)})
_NUMBERS: Final = frozenset({int, float})
_EXACT: Final = frozenset({bytes, bytearray, memoryview})
_PACKING: Final = (
    ormsgpack.OPT_NON_STR_KEYS
    | ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_ENUM
    | ormsgpack.OPT_PASSTHROUGH_SUBCLASS
    | ormsgpack.OPT_PASSTHROUGH_UUID
)


class Written:
    """What could be written of a value.

    Two are equal if nothing between them differs. They refer to texts of the value, and to copies
    of what can be changed.

    Attributes:
        texts: Its texts.
        data: Its bytes, and what was packed.
        secret: A :class:`Secret` in it, or None.
        unknown: Objects that could not be searched, each with the reason.
    """

    __slots__ = ("_size", "data", "secret", "texts", "unknown")

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.data: list[bytes] = []
        self.secret: Secret | None = None
        self.unknown: list[tuple[Any, str]] = []
        self._size = -1

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Written):
            return NotImplemented
        return self.texts == other.texts and self.data == other.data

    __hash__ = None  # type: ignore[assignment]

    @property
    def size(self) -> int:
        """Characters and bytes that it has."""
        if self._size < 0:
            self._size = sum(map(len, self.texts)) + sum(map(len, self.data))
        return self._size

    def shows(self, patterns: Patterns) -> bool:
        """Whether one of the secrets is in it."""
        texts = _joined(self.texts, _BETWEEN)
        data = _joined(self.data, _BETWEEN.encode())
        # Each of them, also when one was found: how long it takes tells nothing.
        found = [patterns.within(each) for each in texts] + [patterns.inside(each) for each in data]
        numbers = [_packed_number(form) for form in patterns.forms if form.isdigit()]
        found += [number in each for number in numbers if number for each in data]
        return any(found)

    def holding(self, forms: list[bytes]) -> set[bytes]:
        """Which of some forms of secrets are in it."""
        # One buffer, and each form counted in it: how long that takes doesn't tell what was found.
        whole = _BETWEEN.join(self.texts).encode("utf-8", "surrogatepass")
        found = set()
        for form in forms:
            times = whole.count(form) + sum(each.count(form) for each in self.data)
            if form.isdigit() and (number := _packed_number(form)):
                times += sum(each.count(number) for each in self.data)
            if times:
                found.add(form)
        return found


def written(value: Any, *, besides: Sequence[Any] = ()) -> Written:
    """What could be written of a value: what it keeps, and what it says of itself.

    Args:
        value: Anything.
        besides: Objects that were searched already, and needn't be looked at again.
    """
    made = Written()
    seen: dict[int, Any] = {id(each): each for each in besides}
    waiting = [value]
    left = SECONDS
    for _ in range(ROUNDS):
        found = _walked(waiting, seen, at_most=_FEW) or _packed(waiting, seen)
        found.hand_over(made)
        if not found.asking and not found.more:
            return made
        began = monotonic()
        waiting = found.more
        for each, answer in zip(found.asking, answers(found.asking, seconds=left), strict=True):
            waiting += [inner for _, inner in answer.parts]
            if answer.unknown:
                made.unknown.append((each, answer.unknown))
        left -= monotonic() - began
    # What makes ever new objects of its kind, as a text does that gives texts, has been searched.
    return made


class _Pass:
    """What one pass over values found, and what it leaves to the next one."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.data: list[bytes] = []
        self.numbers: list[int] = []
        self.secret: Secret | None = None
        self.asking: list[Any] = []
        self.more: list[Any] = []
        self.unknown: list[tuple[Any, str]] = []

    def leaf(self, value: Any) -> None:
        """Takes what has a text or bytes of its own, or is a secret."""
        kind: Any = type(value)
        if issubclass(kind, Secret):
            self.secret = value
        elif issubclass(kind, str):
            self.texts.append(str.__str__(value))
        elif issubclass(kind, int):
            self.number(int.__int__(value))
        elif (data := as_bytes(value)) is not None:
            self.data.append(data)

    def number(self, value: int) -> None:
        """Takes a number that digits of a secret may have become."""
        if _SMALLEST <= value < _LARGEST:
            self.numbers.append(value)
        elif value >= _LARGEST:
            # Python refuses to write very long ones.
            with suppress(ValueError):
                self.texts.append(str(value))

    def hand_over(self, made: Written) -> None:
        made.texts += self.texts
        made.data += self.data
        made.unknown += self.unknown
        made.secret = made.secret or self.secret
        if self.numbers:
            made.data.append(ormsgpack.packb(self.numbers))


def _walked(waiting: list[Any], seen: dict[int, Any], *, at_most: int) -> _Pass | None:
    """Walks through values; no depth, cycle, shared part or foreign object ends it.

    Returns:
        None where there are more than ``at_most`` little things, and a pass in C may go on. Such
        a pass goes through what is shared as often as it is referred to, which may be without an
        end: so where anything is, the walk goes on itself.
    """
    found = _Pass()
    met: dict[int, Any] = {}
    stack = list(waiting)
    shared = False
    count = 0
    while stack:
        each = stack.pop()
        kind: Any = type(each)
        count += 1
        if count > at_most:
            if at_most >= _MOST:
                found.unknown.append((waiting[0], f"it has more than {_MOST:,} parts"))
                break
            if shared:
                at_most = _MOST
            elif count < _MANY and sum(map(len, found.texts)) >= _LONG * count:
                at_most *= 2
            else:
                return None
        if kind is str:
            if not seen or id(each) not in seen:
                found.texts.append(each)
            continue
        if kind is int:
            found.number(each)
            continue
        if kind in _LEAVES or (kind in _CONTAINERS and not each):
            continue
        if id(each) in met:
            shared = True
            continue
        if id(each) in seen:
            continue
        met[id(each)] = each
        if kind is dict:
            stack.extend(each)
            stack.extend(each.values())
        elif kind is list or kind is tuple:
            if type(each[0]) in _NUMBERS and _taken_as_numbers(each, found):
                continue
            if len(each) > _MANY and at_most < _MOST and not shared:
                return None
            stack.extend(each)
        elif not _is_like_a_leaf(kind):
            stack.extend(_inner(each, kind, found))
        else:
            found.leaf(each)
            if kind not in _EXACT and not issubclass(kind, Secret):
                stack.extend(_inner(each, kind, found))
    seen.update(met)
    return found


def _inner(value: Any, kind: Any, found: _Pass) -> Any:
    if asks(kind):
        found.asking.append(value)
    inner = contents(value)
    return [inner] if type(inner) is dict else inner


def _taken_as_numbers(values: Any, found: _Pass) -> bool:
    """Takes a list that begins with a number; whether nothing else is in it."""
    if len(values) <= _LARGE:
        # The bytes of a text, written out as numbers.
        found.data.append(bytes(n for n in values if type(n) is int and 0 <= n < 256))
        return False
    if type(values[-1]) not in _NUMBERS or type(values[len(values) // 2]) not in _NUMBERS:
        return False
    try:
        # Without a function for others it takes plain data alone.
        found.data.append(ormsgpack.packb(values, option=_PACKING))
    except Exception:
        return False
    return True


def _packed(waiting: list[Any], seen: dict[int, Any]) -> _Pass:
    found = _Pass()
    met: dict[int, Any] = {}
    models: dict[Any, bool] = {}
    left = iter(range(_MODELS))

    def unpacked(each: Any) -> Any:
        kind: Any = type(each)
        model = models.get(kind)
        if model is None:
            model = models[kind] = is_a_plain_model(kind)
        if model:
            # Most of a large state are messages, and this is called for each of them: so they are
            # counted instead of remembered. It ends where they refer to each other.
            next(left)
            extra, private = each.__pydantic_extra__, each.__pydantic_private__
            return [each.__dict__, extra, private] if extra or private else each.__dict__
        # Objects refer to each other in circles, and are kept so that none takes another's id.
        if id(each) in met or id(each) in seen:
            return None
        if _is_like_a_leaf(kind):
            found.leaf(each)
            if kind not in _EXACT and not issubclass(kind, Secret):
                found.more.append(contents(each))
                if asks(kind):
                    found.asking.append(each)
            return None
        met[id(each)] = each
        if asks(kind):
            found.asking.append(each)
        return contents(each)

    try:
        found.data.append(ormsgpack.packb(waiting, default=unpacked, option=_PACKING))
    except Exception:
        whole = _walked(waiting, seen, at_most=_MOST)
        # It gives up nowhere.
        return whole if whole is not None else _Pass()
    seen.update(met)
    return found


@lru_cache(maxsize=4096)
def _is_like_a_leaf(kind: Any) -> bool:
    try:
        return issubclass(kind, str | bytes | bytearray | memoryview | int | Secret)
    except Exception:
        return False


def as_bytes(value: Any) -> bytes | None:
    """A text or bytes as bytes; None for anything else."""
    # By the type: what isinstance asks, too, may be anybody's code.
    kind: Any = type(value)
    if kind is bytes:
        return value  # type: ignore[no-any-return]
    if not _is_like_a_leaf(kind) or issubclass(kind, int | Secret):
        return None
    if issubclass(kind, str):
        return str.encode(value, "utf-8", "surrogatepass")
    try:
        return bytes(memoryview(value))
    except Exception:
        # A view that was released shows nothing.
        return b""


def shows_a_number(value: Any, patterns: Patterns) -> str | None:
    """The credential whose secret is written with the digits of a number."""
    kind: Any = type(value)
    if not issubclass(kind, int) or not _SMALLEST <= int.__int__(value) < _LARGEST:
        return None
    return patterns.forms.get(b"%d" % int.__int__(value))


def _packed_number(form: bytes) -> bytes:
    number = int(form) if len(form) < _DIGITS else 0
    return ormsgpack.packb(number) if _SMALLEST <= number < _LARGEST else b""


def _joined(parts: list[Any], between: Any) -> list[Any]:
    """The parts, with the short ones put together: each search costs something."""
    short = [each for each in parts if len(each) <= _LARGE]
    return [each for each in parts if len(each) > _LARGE] + ([between.join(short)] if short else [])
