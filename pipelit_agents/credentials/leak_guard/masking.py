"""Replace open secrets in values and exceptions by a mask."""

from __future__ import annotations

import dataclasses
import traceback
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from copy import copy
from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from pipelit_agents.credentials.leak_guard.patterns import Patterns
from pipelit_agents.credentials.leak_guard.search import (
    LEAVES,
    Revealed,
    holds,
    leak_error,
    patterns_of,
)
from pipelit_agents.credentials.leak_guard.traversal import (
    asks,
    insides_of,
    members_of,
    shown,
    slots_of,
    state_of,
)
from pipelit_agents.credentials.leak_guard.written import (
    as_bytes,
)
from pipelit_agents.credentials.secret import Secret
from pipelit_agents.errors import SecretLeakError

__all__ = ["MASK", "masked", "redact", "scrub"]

MASK: Final = "****"
# What of a local variable is looked at.
_NEAREST: Final = 500
_CONTAINERS: Final = frozenset({dict, list, tuple, set, frozenset})

_LINKS: Final = ("__cause__", "__context__")
# They can't be set; a group with other ones is made.
_OF_GROUPS: Final = frozenset({"message", "exceptions"})


def redact(error: BaseException, revealed: Revealed) -> BaseException:
    """Takes the secrets out of an exception, its notes, attributes, frames and whole chain.

    Objects that the exception refers to aren't changed: where one holds a secret, a copy without it
    takes its place.

    Args:
        error: What the node raised.
        revealed: Credential names by plaintext.

    Returns:
        What to raise in its place: the same object, without the secrets; one of the same type where
        it can't be changed; or a ``SecretLeakError`` where no such can be made.
    """
    patterns = patterns_of(revealed)
    if not patterns.forms:
        return error
    try:
        return _Masking(patterns, inside=True).of_an_exception(error)
    except Exception:
        # Without its links, which nobody has looked at.
        return _unmaskable(error, patterns)


def masked(value: Any, revealed: Revealed) -> Any:
    """A value without the secrets, for what is only shown: logs and traces.

    Args:
        value: Text, bytes, containers of them, or objects that would be shown by their text.
        revealed: Credential names by plaintext.

    Returns:
        The value itself where it holds none; else it is rebuilt. The value isn't changed.
    """
    patterns = patterns_of(revealed)
    if not patterns.forms:
        return value
    try:
        return _Masking(patterns, inside=False).of(value)
    except RecursionError:
        return MASK


def scrub(value: Any, revealed: Revealed) -> None:
    """Takes the secrets out of a state in place: a node has written one into what it was given.

    Only what is data by its nature is changed: containers, messages, pydantic models and
    dataclasses. Other objects may be anybody's.

    Args:
        value: The state.
        revealed: Credential names by plaintext.
    """
    masking = _Masking(patterns_of(revealed), inside=True)
    waiting, seen = [value], {}
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen[id(each)] = each
        # What can't be changed is somebody's property; the rest is masked still.
        with suppress(Exception):
            waiting += _scrubbed(each, masking)


def _scrubbed(value: Any, masking: _Masking) -> list[Any]:
    """Masks what stands in a container itself, and returns what may hold more."""
    if isinstance(value, dict):
        before = list(value.items())
        after = [(masking.leaf(key), masking.leaf(each)) for key, each in before]
        if any(a[0] is not b[0] or a[1] is not b[1] for a, b in zip(after, before, strict=True)):
            value.clear()
            value.update(after)
        return [each for _, each in after]
    if isinstance(value, list | deque):
        for place, each in enumerate(value):
            if (shown := masking.leaf(each)) is not each:
                value[place] = shown
        return list(value)
    if isinstance(value, set):
        kept_items = {masking.leaf(each) for each in value}
        if kept_items != value:
            value.clear()
            value |= kept_items
        return []
    if isinstance(value, bytearray):
        value[:] = masking.of(bytes(value))
        return []
    if isinstance(value, BaseModel) or dataclasses.is_dataclass(value):
        found = []
        kind: Any = type(value)
        names = [*dict(state_of(value)), *slots_of(kind)]
        for name in names:
            each = getattr(value, name, None)
            if (shown := masking.leaf(each)) is not each:
                object.__setattr__(value, name, shown)
            found.append(shown)
        return found
    return []


class _Masking:
    """One pass over what is to be shown or raised.

    Args:
        patterns: What to look for.
        inside: Whether objects are replaced by copies of their kind, or by text.
    """

    def __init__(self, patterns: Patterns, *, inside: bool) -> None:
        self._patterns = patterns
        self._inside = inside
        # Kept with what they were made of, so that no other object gets the same id meanwhile.
        self._made: dict[int, tuple[Any, Any]] = {}

    def leaf(self, value: Any) -> Any:
        """What has no parts that could be changed, masked; anything else as it is."""
        numbers = isinstance(value, list) and value and type(value[0]) is int
        if numbers and holds(value, self._patterns, opened=False):
            return MASK
        return self.of(value) if isinstance(value, str | bytes | tuple | frozenset) else value

    def of(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._patterns.mask(value, MASK) if self._patterns.within(value) else value
        if isinstance(value, bytes):
            for form in self._patterns.forms:
                value = value.replace(form, MASK.encode())
            return value
        if type(value) in LEAVES or isinstance(value, Secret):
            return value
        if id(value) in self._made:
            return self._made[id(value)][1]
        if isinstance(value, BaseException):
            return self.of_an_exception(value) if self._inside else self._as_text(value)
        if not self._shown_by(value):
            return value
        return self._rebuilt(value)

    def of_an_exception(self, error: BaseException) -> BaseException:
        """An exception and its whole chain, which may be longer than Python calls deep."""
        chain: list[BaseException] = []
        waiting: list[BaseException | None] = [error]
        while waiting:
            each = waiting.pop()
            if each is not None and id(each) not in self._made:
                self._keep(each, each)
                chain.append(each)
                waiting += [_read(each, name) for name in _LINKS]
                waiting += _parts_of(each)
        # The parts of a group before the group, whatever else refers to them.
        chain.reverse()
        for each in sorted(chain, key=_Depths(chain).of):
            try:
                self._mend(each)
            except Exception:
                # An exception may have any code of its own, and its text doesn't go out for that.
                self._keep(each, _unmaskable(each, self._patterns))
        # An exception may refer to one that was replaced after it.
        for each in chain:
            self._link(each)
        found: BaseException = self._made[id(error)][1]
        return found

    def _mend(self, error: BaseException) -> None:
        kind: Any = type(error)
        kept: Any = _read(error, "__dict__")
        for name, found in list(dict.items(kept)):
            if (shown := self.of(found)) is not found:
                kept[name] = shown
        fixed = False
        for name in ("args", *members_of(error), *slots_of(kind)):
            member = _member(kind, name)
            if member is None or name in _OF_GROUPS:
                continue
            try:
                found = member.__get__(error)
            except AttributeError:
                # It is empty.
                continue
            if (shown := self.of(found)) is not found:
                try:
                    # Not by setattr: a frozen class refuses it, and others do what they like.
                    member.__set__(error, shown)
                except (AttributeError, TypeError):
                    fixed = True
        self._clear_frames(error)
        self._link(error)
        parts = _parts_of(error)
        if fixed or self._tells(error) or any(self._made[id(p)][1] is not p for p in parts):
            made = self._remade(error)
            if made is None or self._tells(made):
                made = _unmaskable(error, self._patterns)
            for name in (*_LINKS, "__suppress_context__", "__traceback__"):
                _write(made, name, _read(error, name))
            if "__notes__" in kept:
                made.__notes__ = kept["__notes__"]
            self._keep(error, made)

    def _link(self, error: BaseException) -> None:
        """Let the links of an exception, and of what replaces it, lead to what replaces them."""
        for each in {
            id(error): error,
            id(self._made[id(error)][1]): self._made[id(error)][1],
        }.values():
            suppressed = _read(each, "__suppress_context__")
            for name in _LINKS:
                linked = _read(each, name)
                shown = self._made.get(id(linked), (None, linked))[1]
                if shown is not linked:
                    _write(each, name, shown)
            # A cause sets it.
            if _read(each, "__suppress_context__") is not suppressed:
                _write(each, "__suppress_context__", suppressed)

    def _remade(self, error: BaseException) -> BaseException | None:
        """Another exception of the type, where the text of this one can't be changed."""
        with suppress(Exception):
            if type(error).__setattr__ is not BaseException.__setattr__:
                # Whoever raises it sets its links and its traceback.
                return None
            if issubclass(type(error), BaseExceptionGroup):
                parts = [self._made[id(each)][1] for each in _parts_of(error)]
                return type(error)(
                    self.of(_member(BaseExceptionGroup, "message").__get__(error)), parts
                )
            if type(error) is ValidationError:
                return self._remade_by_pydantic(error)
        return None

    def _remade_by_pydantic(self, error: ValidationError) -> ValidationError:
        lines: list[InitErrorDetails] = []
        for each in error.errors(include_url=False):
            words = self.of(each["msg"]).replace("{", "{{").replace("}", "}}")
            lines.append(
                InitErrorDetails(
                    type=PydanticCustomError(each["type"], words),
                    loc=self.of(each["loc"]),
                    input=self.of(each["input"]),
                )
            )
        return ValidationError.from_exception_data(self.of(error.title), lines)

    def _clear_frames(self, error: BaseException) -> None:
        # Error trackers show local variables, the near end of them. Frames that still run keep
        # theirs.
        known: dict[int, tuple[Any, list[Any]]] = {}
        for frame, _ in traceback.walk_tb(_read(error, "__traceback__")):
            with suppress(RuntimeError):
                if _near(frame.f_locals, self._patterns, known):
                    frame.clear()

    def _tells(self, error: BaseException) -> bool:
        # What Python's own exceptions show is what was masked, and may be endless to write out.
        if issubclass(type(error), BaseExceptionGroup):
            message = _member(BaseExceptionGroup, "message").__get__(error)
            if self.of(message) is not message:
                return True
        kind = type(error)
        makers = {getattr(each, "__objclass__", kind) for each in (kind.__str__, kind.__repr__)}
        own = any(each.__module__ != "builtins" for each in makers)
        return own and self._shows(error)

    def _shown_by(self, value: Any) -> bool:
        if holds(value, self._patterns, opened=False):
            return True
        return type(value) not in _CONTAINERS and not asks(type(value)) and self._shows(value)

    def _shows(self, value: Any) -> bool:
        return self._patterns.within(shown(value))

    def _as_text(self, value: Any) -> Any:
        return MASK if self._shown_by(value) else value

    def _rebuilt(self, value: Any) -> Any:
        kind = type(value)
        made: Any = MASK
        with suppress(Exception):
            if kind in (list, set, frozenset):
                made = self._keep(value, [])
                made += [self.of(each) for each in value]
                if kind is not list:
                    made = kind(made)
            elif kind is tuple:
                made = tuple(self.of(each) for each in value)
            elif isinstance(value, tuple) and hasattr(kind, "_make"):
                made = kind._make(self.of(each) for each in value)
            elif kind is dict:
                made = self._keep(value, {})
                made.update({self.of(key): self.of(each) for key, each in value.items()})
            elif self._inside:
                made = self._copied(value)
        if self._shown_by(made):
            made = MASK
        return self._keep(value, made)

    def _copied(self, value: Any) -> Any:
        kind: Any = type(value)
        if hasattr(kind, "__del__"):
            # A second one of it would close what the first still uses.
            return MASK
        if isinstance(value, dict):
            made = self._keep(value, copy(value))
            for key in list(made):
                made[key] = self.of(made[key])
            return made
        made = self._keep(value, object.__new__(kind))
        for name, found in state_of(value):
            vars(made)[name] = self.of(found)
        for name in slots_of(kind):
            with suppress(AttributeError):
                object.__setattr__(made, name, self.of(getattr(value, name)))
        return made

    def _keep(self, value: Any, made: Any) -> Any:
        self._made[id(value)] = (value, made)
        return made


class _Depths:
    """How deep groups of exceptions are nested: a group is deeper than each of its parts."""

    def __init__(self, chain: Sequence[BaseException]) -> None:
        self._depths: dict[int, int] = {}
        for each in chain:
            self._measure(each)

    def of(self, error: BaseException) -> int:
        return self._depths[id(error)]

    def _measure(self, error: BaseException) -> None:
        # Without recursion: a group can't hold itself, but be nested deeper than Python calls.
        waiting = [error]
        while waiting:
            parts = _parts_of(waiting[-1])
            if missing := [each for each in parts if id(each) not in self._depths]:
                waiting += missing
            else:
                deepest = max((self._depths[id(each)] for each in parts), default=-1)
                self._depths[id(waiting.pop())] = deepest + 1


# Of an exception's class nothing is asked: it may be frozen, or do whatever it likes.


def _read(error: BaseException, name: str) -> Any:
    return BaseException.__dict__[name].__get__(error)


def _write(error: BaseException, name: str, value: Any) -> None:
    BaseException.__dict__[name].__set__(error, value)


def _parts_of(error: BaseException) -> tuple[BaseException, ...]:
    if not issubclass(type(error), BaseExceptionGroup):
        return ()
    found: tuple[BaseException, ...] = _member(BaseExceptionGroup, "exceptions").__get__(error)
    return found


def _member(kind: Any, name: str) -> Any:
    """What reads and sets something that C keeps of an object; None where C doesn't keep it."""
    for each in kind.__mro__:
        found = each.__dict__.get(name)
        if isinstance(found, MemberDescriptorType | GetSetDescriptorType):
            return found
    return None


def _unmaskable(error: BaseException, patterns: Patterns) -> SecretLeakError:
    return leak_error(patterns.names, "", f"the text of an exception ({type(error).__name__})")


def _near(value: Any, patterns: Patterns, known: dict[int, tuple[Any, list[Any]]]) -> bool:
    """Whether a secret stands within the first parts of a value, the nearest first.

    Args:
        value: What is searched.
        patterns: The secrets.
        known: What has been looked into, by its ``id``: itself, and its parts. Frames share most.
    """
    level: list[Any] = [value]
    seen: dict[int, Any] = {}
    while level:
        opened = []
        for each in level:
            if len(seen) >= _NEAREST:
                return False
            kind: Any = type(each)
            text = as_bytes(each) if kind is not memoryview else None
            if text is not None:
                if patterns.inside(text):
                    return True
            elif kind not in LEAVES and not issubclass(kind, Secret) and id(each) not in seen:
                seen[id(each)] = each
                if not hasattr(kind, "tolist"):
                    opened.append(each)
        new = [each for each in opened if id(each) not in known]
        for each, parts in zip(new, insides_of(new), strict=True):
            known[id(each)] = each, [inner for _, inner in parts[:_NEAREST]]
        level = [inner for each in opened for inner in known[id(each)][1]]
    return False
