"""Collect everything that could be written of a value: the texts and bytes to search.

A large state is serialized into one buffer by one pass in C. Values that this pass can't handle
are walked in Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, AnyStr, Final, cast

import ormsgpack

from pipelit_agents.credentials.leak_guard.own_forms import (
    Budget,
    has_own_forms,
    is_plain_model,
    own_forms,
)
from pipelit_agents.credentials.leak_guard.patterns import Patterns
from pipelit_agents.credentials.leak_guard.stored import by_type, stored_values
from pipelit_agents.credentials.secret import Secret

__all__ = [
    "CONTAINERS",
    "LEAVES",
    "MAX_ROUNDS",
    "Written",
    "as_bytes",
    "large_number",
    "shows_a_number",
    "written",
]

# More parts than any state has. A value that makes new objects while it is read never ends.
_MAX_PARTS: Final = 20_000_000
_MAX_WALKED: Final = 300
# Up to _MAX_COLLECTED parts with at least _LONG_TEXT characters each on average, walking is faster
# than a pass in C.
_MAX_COLLECTED: Final = 20_000
_LONG_TEXT: Final = 500
# Longer texts are searched separately instead of being copied into a joined text.
_MAX_JOINED: Final = 4096
# Numbers in this range may be a secret of digits that is stored as a number.
_MIN_NUMBER: Final = 10_000_000
_NUMBER_END: Final = 2**64
_MAX_DIGITS: Final = 21
# The most models in one pass in C. With more, models may refer to each other without end.
_MAX_MODELS: Final = 300_000
# Own forms may contain further values with own forms. This limits the rounds.
MAX_ROUNDS: Final = 12
_SEPARATOR: Final = "\n\0\n"
CONTAINERS: Final = frozenset({dict, list, tuple, set, frozenset})
LEAVES: Final = frozenset({bool, int, float, complex, type(None)})
_NUMBERS: Final = frozenset({int, float})
_PACKING: Final = (
    ormsgpack.OPT_NON_STR_KEYS
    | ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_ENUM
    | ormsgpack.OPT_PASSTHROUGH_SUBCLASS
    | ormsgpack.OPT_PASSTHROUGH_UUID
)


@dataclass(repr=False)
class Written:
    """The texts and bytes that could be written of a value, as a snapshot.

    Two snapshots are equal if their texts and bytes are. A snapshot refers to the value's texts,
    and to copies of everything mutable.

    Attributes:
        texts: The value's texts.
        data: The value's bytes, and what was serialized in C.
        secret: A ``Secret`` in the value, or None.
        unknown: Objects that can't be searched, each with the reason.
    """

    texts: list[str] = field(default_factory=list)
    data: list[bytes] = field(default_factory=list)
    secret: Secret | None = field(default=None, compare=False)
    unknown: list[tuple[object, str]] = field(default_factory=list, compare=False)

    @cached_property
    def size(self) -> int:
        """The number of characters and bytes."""
        return sum(map(len, self.texts)) + sum(map(len, self.data))

    def holds_any(self, patterns: Patterns) -> bool:
        """Return whether one of the secrets is in it."""
        # Search everything even after a hit, so that the duration reveals nothing.
        found = [patterns.in_text(each) for each in _joined(self.texts, _SEPARATOR)]
        found += [patterns.in_bytes(each) for each in _joined(self.data, _SEPARATOR.encode())]
        numbers = [packed for form in patterns.forms for packed in _packed_numbers(form)]
        found += [packed in each for packed in numbers for each in self.data]
        return any(found)

    def forms_in(self, forms: list[bytes]) -> set[bytes]:
        """Return the forms of secrets that are in it."""
        # Count every form in one buffer, so that the duration doesn't reveal what was found.
        whole = _SEPARATOR.join(self.texts).encode("utf-8", "surrogatepass")
        found = set()
        for form in forms:
            times = whole.count(form) + sum(each.count(form) for each in self.data)
            for packed in _packed_numbers(form):
                times += sum(each.count(packed) for each in self.data)
            if times:
                found.add(form)
        return found


def written(value: object, *, already_searched: Sequence[object] = ()) -> Written:
    """Collect what could be written of a value: its stored children and its own forms.

    Args:
        value: Any value.
        already_searched: Objects that were searched before and are skipped.
    """
    made = Written()
    seen: dict[int, object] = {id(each): each for each in already_searched}
    waiting = [value]
    budget = Budget()
    for _ in range(MAX_ROUNDS):
        found = _walk(waiting, seen, at_most=_MAX_WALKED) or _pack(waiting, seen)
        found.add_to(made)
        if not found.with_own_forms and not found.more:
            break
        waiting = found.more
        answers = own_forms(found.with_own_forms, budget)
        for each, answer in zip(found.with_own_forms, answers, strict=True):
            waiting += [inner for _, inner in answer.parts]
            if answer.unknown:
                made.unknown.append((each, answer.unknown))
    # Only values whose forms contain ever new values of their kind take all rounds.
    return made


@dataclass(repr=False)
class _Pass(Written):
    """The results of one pass over values, and the values left for the next pass."""

    numbers: list[int] = field(default_factory=list)
    with_own_forms: list[object] = field(default_factory=list)
    more: list[object] = field(default_factory=list)

    def number(self, value: int) -> None:
        """Record a number that may be a secret of digits."""
        if -_MIN_NUMBER < value < _MIN_NUMBER:
            return
        value = abs(value)
        if value < _NUMBER_END:
            self.numbers.append(value)
        else:
            # Python refuses to convert very large numbers.
            with suppress(ValueError):
                self.texts.append(str(value))

    def parts_of(self, value: object, kind: type) -> list[object]:
        """Record a text, bytes, a number or a secret; return what else the value stores."""
        if issubclass(kind, Secret):
            self.secret = cast(Secret, value)
            return []
        if issubclass(kind, str):
            self.texts.append(str.__str__(value))
        elif issubclass(kind, int):
            self.number(int.__int__(cast(int, value)))
        elif issubclass(kind, float):
            self.number(large_number(value))
        elif (data := as_bytes(value)) is not None:
            self.data.append(data)
        if has_own_forms(kind):
            self.with_own_forms.append(value)
        return stored_values(value)

    def add_to(self, made: Written) -> None:
        made.texts += self.texts
        made.data += self.data
        made.unknown += self.unknown
        made.secret = made.secret or self.secret
        if self.numbers:
            made.data.append(ormsgpack.packb(self.numbers))


def _parts_of_model(model: Any) -> object:
    # Most objects in a large state are messages, so this is faster than the general way.
    extra, private = model.__pydantic_extra__, model.__pydantic_private__
    return [model.__dict__, extra, private] if extra or private else model.__dict__


def _walk(waiting: list[object], seen: dict[int, object], *, at_most: int) -> _Pass | None:
    """Walk through values of any depth, with cycles, shared parts and foreign objects.

    Returns:
        What was found; None if there are more than ``at_most`` small parts and no shared ones, so
        that a pass in C is faster. That pass visits a shared part once per reference, which may
        never end, so values with shared parts are always walked.
    """
    found = _Pass()
    met: dict[int, object] = {}
    # Any: these are told apart by their exact type, because isinstance may run foreign code.
    stack: list[Any] = list(waiting)
    shared = False
    count = 0
    while stack:
        each = stack.pop()
        kind = type(each)
        count += 1
        if count > at_most:
            if at_most >= _MAX_PARTS:
                found.unknown.append((waiting[0], f"it has more than {_MAX_PARTS:,} parts"))
                break
            if shared:
                at_most = _MAX_PARTS
            elif count < _MAX_COLLECTED and sum(map(len, found.texts)) >= _LONG_TEXT * count:
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
        if kind is float and (number := large_number(each)):
            found.number(number)
        if kind in LEAVES or (kind in CONTAINERS and not each):
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
            if type(each[0]) in _NUMBERS:
                # The numbers may be the bytes of a text.
                found.data.append(bytes(n for n in each if type(n) is int and 0 <= n < 256))
            stack.extend(each)
        elif is_plain_model(kind):
            try:
                stack.append(_parts_of_model(each))
            except AttributeError:
                # It isn't complete.
                stack.extend(stored_values(each))
        else:
            stack.extend(found.parts_of(each, kind))
    seen.update(met)
    return found


def _pack(waiting: list[object], seen: dict[int, object]) -> _Pass:
    """Serialize values in C, which calls back for every object that isn't plain data."""
    found = _Pass()
    met: dict[int, object] = {}
    left = iter(range(_MAX_MODELS))

    def unpacked(each: object) -> object:
        kind = type(each)
        if is_plain_model(kind):
            # Counting models is faster than remembering them, and ends cycles between them.
            next(left)
            return _parts_of_model(each)
        # Objects may refer to each other in a circle. Keep them, so that their ids aren't reused.
        if id(each) in met or id(each) in seen:
            return None
        if _is_leaf_type(kind):
            # It has few parts, and is visited once for each reference.
            found.more += found.parts_of(each, kind)
            return None
        met[id(each)] = each
        return found.parts_of(each, kind)

    try:
        found.data.append(ormsgpack.packb(waiting, default=unpacked, option=_PACKING))
    except Exception:
        whole = _walk(waiting, seen, at_most=_MAX_PARTS)
        # With this limit, the walk never returns None.
        return whole if whole is not None else _Pass()
    seen.update(met)
    return found


@by_type
def _is_leaf_type(kind: type) -> bool:
    try:
        return issubclass(kind, str | bytes | bytearray | memoryview | int | Secret)
    except Exception:
        return False


def as_bytes(value: object) -> bytes | None:
    """Return a text or bytes as bytes; None for any other value."""
    # By type: isinstance also reads __class__, which may run any code.
    kind = type(value)
    if kind is bytes:
        return cast(bytes, value)
    if not _is_leaf_type(kind) or issubclass(kind, int | Secret):
        return None
    if issubclass(kind, str):
        return str.encode(cast(str, value), "utf-8", "surrogatepass")
    try:
        return bytes(memoryview(cast(bytes, value)))
    except Exception:
        # A released view has no content.
        return b""


def large_number(value: object) -> int:
    """Return a number without sign and fraction, if its digits may be a secret; otherwise 0."""
    kind = type(value)
    found = 0
    if issubclass(kind, int):
        found = abs(int.__int__(cast(int, value)))
    elif issubclass(kind, float):
        plain = abs(float.__float__(cast(float, value)))
        # A larger number isn't displayed by its digits.
        found = int(plain) if plain < _NUMBER_END and plain.is_integer() else 0
    return found if _MIN_NUMBER <= found < _NUMBER_END else 0


def shows_a_number(value: object, patterns: Patterns) -> str | None:
    """Return the name of the credential whose secret consists of a number's digits, or None."""
    number = large_number(value)
    return patterns.forms.get(b"%d" % number) if number else None


def _packed_numbers(form: bytes) -> list[bytes]:
    """Return a secret of digits as the numbers that serialized data may contain."""
    number = int(form) if form.isdigit() and len(form) < _MAX_DIGITS else 0
    if not _MIN_NUMBER <= number < _NUMBER_END:
        return []
    found = [ormsgpack.packb(number)]
    if number < _NUMBER_END // 2:
        found.append(ormsgpack.packb(-number))
    if int(float(number)) == number:
        found += [ormsgpack.packb(float(number)), ormsgpack.packb(-float(number))]
    return found


def _joined(parts: list[AnyStr], separator: AnyStr) -> list[AnyStr]:
    """Join the short parts, because each search has a fixed cost."""
    short = [each for each in parts if len(each) <= _MAX_JOINED]
    return [each for each in parts if len(each) > _MAX_JOINED] + (
        [separator.join(short)] if short else []
    )
