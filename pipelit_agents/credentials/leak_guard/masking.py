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
    children_of_each,
    display_text,
    has_own_forms,
    members_of,
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
# The most objects to search in a local variable, nearest first.
_MAX_NEAREST: Final = 500
_AT_ONCE: Final = 8
_CONTAINERS: Final = frozenset({dict, list, tuple, set, frozenset})

_LINKS: Final = ("__cause__", "__context__")
# These fields of an exception group are read-only, so the group is replaced by a new one.
_GROUP_FIELDS: Final = frozenset({"message", "exceptions"})


def redact(error: BaseException, revealed: Revealed) -> BaseException:
    """Remove the secrets from an exception, its notes, attributes, frames and whole chain.

    Objects that the exception refers to aren't changed. If one holds a secret, the exception
    refers to a copy without the secret from then on.

    Args:
        error: The exception that the node raised.
        revealed: Credential names by plaintext.

    Returns:
        The exception to raise: the same object without the secrets; another one of the same type
        if it can't be changed; or a ``SecretLeakError`` if neither is possible.
    """
    patterns = patterns_of(revealed)
    if not patterns.forms:
        return error
    try:
        return _Masking(patterns, copy_objects=True).of_an_exception(error)
    except Exception:
        # Without its cause and context, which were not searched.
        return _unmaskable(error, patterns)


def masked(value: Any, revealed: Revealed) -> Any:
    """Return a value without the secrets, for values that are only displayed: logs and traces.

    Args:
        value: Text, bytes, containers of them, or objects that are displayed by their text.
        revealed: Credential names by plaintext.

    Returns:
        The value itself if it holds no secret; otherwise a masked copy. The value isn't changed.
    """
    patterns = patterns_of(revealed)
    if not patterns.forms:
        return value
    try:
        return _Masking(patterns, copy_objects=False).of(value)
    except RecursionError:
        return MASK


def scrub(value: Any, revealed: Revealed) -> None:
    """Mask the secrets that a node has written into its input state, in place.

    Only data is changed: containers, messages, pydantic models and dataclasses. Other objects may
    be in use elsewhere.

    Args:
        value: The state.
        revealed: Credential names by plaintext.
    """
    masking = _Masking(patterns_of(revealed), copy_objects=True)
    waiting, seen = [value], {}
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen[id(each)] = each
        # If one object can't be changed, go on with the rest.
        with suppress(Exception):
            waiting += _scrub_shallow(each, masking)


def _scrub_shallow(value: Any, masking: _Masking) -> list[Any]:
    """Mask the direct children of a container, and return those that may contain more."""
    if isinstance(value, dict):
        before = list(value.items())
        after = [(masking.leaf(key), masking.leaf(each)) for key, each in before]
        if any(a[0] is not b[0] or a[1] is not b[1] for a, b in zip(after, before, strict=True)):
            value.clear()
            value.update(after)
        return [each for _, each in after]
    if isinstance(value, list | deque):
        for index, each in enumerate(value):
            if (clean := masking.leaf(each)) is not each:
                value[index] = clean
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
            if (clean := masking.leaf(each)) is not each:
                object.__setattr__(value, name, clean)
            found.append(clean)
        return found
    return []


class _Masking:
    """One pass over a value that will be displayed or raised.

    Args:
        patterns: The secrets to search for.
        copy_objects: Whether to replace objects by masked copies; otherwise they become text.
    """

    def __init__(self, patterns: Patterns, *, copy_objects: bool) -> None:
        self._patterns = patterns
        self._copy_objects = copy_objects
        # Masked values by the id of the original. The original is kept too, so that its id isn't
        # reused.
        self._made: dict[int, tuple[Any, Any]] = {}

    def leaf(self, value: Any) -> Any:
        """Mask a value that has no mutable parts; return any other value unchanged."""
        numbers = isinstance(value, list) and value and type(value[0]) is int
        if numbers and holds(value, self._patterns, opened=False):
            return MASK
        return self.of(value) if isinstance(value, str | bytes | tuple | frozenset) else value

    def of(self, value: Any) -> Any:
        """Return a value without the secrets."""
        if isinstance(value, str):
            return self._patterns.mask(value, MASK) if self._patterns.in_text(value) else value
        if isinstance(value, bytes):
            for form in self._patterns.forms:
                value = value.replace(form, MASK.encode())
            return value
        if type(value) in LEAVES or isinstance(value, Secret):
            return value
        if id(value) in self._made:
            return self._made[id(value)][1]
        if isinstance(value, BaseException):
            return self.of_an_exception(value) if self._copy_objects else self._as_text(value)
        if not self._reveals_anywhere(value):
            return value
        return self._rebuilt(value)

    def of_an_exception(self, error: BaseException) -> BaseException:
        """Mask an exception and its whole chain, without recursion: a chain has no length limit."""
        chain: list[BaseException] = []
        waiting: list[BaseException | None] = [error]
        while waiting:
            each = waiting.pop()
            if each is not None and id(each) not in self._made:
                self._keep(each, each)
                chain.append(each)
                waiting += [_read(each, name) for name in _LINKS]
                waiting += _group_members(each)
        # The members of a group come before the group, whatever else refers to them.
        chain.reverse()
        for each in sorted(chain, key=_Depths(chain).of):
            try:
                self._mask_in_place(each)
            except Exception:
                # An exception may run any code. If that fails, its text must not get out.
                self._keep(each, _unmaskable(each, self._patterns))
        # An exception may refer to one that was replaced after it.
        for each in chain:
            self._link(each)
        found: BaseException = self._made[id(error)][1]
        return found

    def _mask_in_place(self, error: BaseException) -> None:
        kind: Any = type(error)
        kept: Any = _read(error, "__dict__")
        for name, found in list(dict.items(kept)):
            if (clean := self.of(found)) is not found:
                kept[name] = clean
        fixed = False
        for name in ("args", *members_of(error), *slots_of(kind)):
            member = _c_member(kind, name)
            if member is None or name in _GROUP_FIELDS:
                continue
            try:
                found = member.__get__(error)
            except AttributeError:
                # The slot is empty.
                continue
            if (clean := self.of(found)) is not found:
                try:
                    # Not by setattr: a class may refuse or override it.
                    member.__set__(error, clean)
                except (AttributeError, TypeError):
                    fixed = True
        self._clear_frames(error)
        self._link(error)
        parts = _group_members(error)
        if fixed or self._reveals(error) or any(self._made[id(p)][1] is not p for p in parts):
            made = self._remade(error)
            if made is None or self._reveals(made):
                made = _unmaskable(error, self._patterns)
            for name in (*_LINKS, "__suppress_context__", "__traceback__"):
                _write(made, name, _read(error, name))
            if "__notes__" in kept:
                made.__notes__ = kept["__notes__"]
            self._keep(error, made)

    def _link(self, error: BaseException) -> None:
        """Point the cause and context of an exception and its replacement to the replacements."""
        for each in {
            id(error): error,
            id(self._made[id(error)][1]): self._made[id(error)][1],
        }.values():
            suppressed = _read(each, "__suppress_context__")
            for name in _LINKS:
                linked = _read(each, name)
                clean = self._made.get(id(linked), (None, linked))[1]
                if clean is not linked:
                    _write(each, name, clean)
            # Setting a cause sets this flag.
            if _read(each, "__suppress_context__") is not suppressed:
                _write(each, "__suppress_context__", suppressed)

    def _remade(self, error: BaseException) -> BaseException | None:
        """Make another exception of the same type; return None if that isn't possible."""
        with suppress(Exception):
            if type(error).__setattr__ is not BaseException.__setattr__:
                # Raising the new exception sets its links and traceback, which this class may
                # refuse.
                return None
            if issubclass(type(error), BaseExceptionGroup):
                parts = [self._made[id(each)][1] for each in _group_members(error)]
                return type(error)(
                    self.of(_c_member(BaseExceptionGroup, "message").__get__(error)), parts
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
        # Error trackers display local variables, up to a limit. A running frame can't be cleared.
        known: dict[int, tuple[Any, list[Any]]] = {}
        for frame, _ in traceback.walk_tb(_read(error, "__traceback__")):
            with suppress(RuntimeError):
                if _shows_nearby(frame.f_locals, self._patterns, known):
                    frame.clear()

    def _reveals(self, error: BaseException) -> bool:
        # Built-in exceptions display only what was masked, and their text may be endless.
        if issubclass(type(error), BaseExceptionGroup):
            message = _c_member(BaseExceptionGroup, "message").__get__(error)
            if self.of(message) is not message:
                return True
        kind = type(error)
        makers = {getattr(each, "__objclass__", kind) for each in (kind.__str__, kind.__repr__)}
        own = any(each.__module__ != "builtins" for each in makers)
        return own and self._displays(error)

    def _reveals_anywhere(self, value: Any) -> bool:
        if holds(value, self._patterns, opened=False):
            return True
        return (
            type(value) not in _CONTAINERS
            and not has_own_forms(type(value))
            and self._displays(value)
        )

    def _displays(self, value: Any) -> bool:
        return self._patterns.in_text(display_text(value))

    def _as_text(self, value: Any) -> Any:
        return MASK if self._reveals_anywhere(value) else value

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
            elif self._copy_objects:
                made = self._copied(value)
        if self._reveals_anywhere(made):
            made = MASK
        return self._keep(value, made)

    def _copied(self, value: Any) -> Any:
        kind: Any = type(value)
        if hasattr(kind, "__del__"):
            # The finalizer of a copy would close what the original still uses.
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
    """The nesting depth of exception groups: a group is deeper than each of its members."""

    def __init__(self, chain: Sequence[BaseException]) -> None:
        self._depths: dict[int, int] = {}
        for each in chain:
            self._measure(each)

    def of(self, error: BaseException) -> int:
        return self._depths[id(error)]

    def _measure(self, error: BaseException) -> None:
        # Without recursion: a group can be nested deeper than Python's recursion limit.
        waiting = [error]
        while waiting:
            parts = _group_members(waiting[-1])
            if missing := [each for each in parts if id(each) not in self._depths]:
                waiting += missing
            else:
                deepest = max((self._depths[id(each)] for each in parts), default=-1)
                self._depths[id(waiting.pop())] = deepest + 1


# These use BaseException's own descriptors: an exception's class may be frozen or run any code.


def _read(error: BaseException, name: str) -> Any:
    return BaseException.__dict__[name].__get__(error)


def _write(error: BaseException, name: str, value: Any) -> None:
    BaseException.__dict__[name].__set__(error, value)


def _group_members(error: BaseException) -> tuple[BaseException, ...]:
    if not issubclass(type(error), BaseExceptionGroup):
        return ()
    found: tuple[BaseException, ...] = _c_member(BaseExceptionGroup, "exceptions").__get__(error)
    return found


def _c_member(kind: Any, name: str) -> Any:
    """Return the C descriptor of a field; None if the field isn't implemented in C."""
    for each in kind.__mro__:
        found = each.__dict__.get(name)
        if isinstance(found, MemberDescriptorType | GetSetDescriptorType):
            return found
    return None


def _unmaskable(error: BaseException, patterns: Patterns) -> SecretLeakError:
    return leak_error(patterns.names, "", f"the text of an exception ({type(error).__name__})")


def _shows_nearby(value: Any, patterns: Patterns, known: dict[int, tuple[Any, list[Any]]]) -> bool:
    """Return whether a secret is within the first parts of a value, nearest first.

    Args:
        value: The value to search.
        patterns: The secrets.
        known: The values whose children are known, by ``id``: the value itself, and its children.
            The frames of an exception share most of them.
    """
    level: list[Any] = [value]
    seen: dict[int, Any] = {}
    while level:
        opened = []
        for each in level:
            if len(seen) >= _MAX_NEAREST:
                return False
            kind: Any = type(each)
            text = as_bytes(each) if kind is not memoryview else None
            if text is not None:
                if patterns.in_bytes(text):
                    return True
            elif kind not in LEAVES and not issubclass(kind, Secret) and id(each) not in seen:
                seen[id(each)] = each
                if not hasattr(kind, "tolist"):
                    opened.append(each)
        new = [each for each in opened if id(each) not in known]
        # Some at a time: one thread for each would take long, and all at once much memory.
        for start in range(0, len(new), _AT_ONCE):
            some = new[start : start + _AT_ONCE]
            for each, parts in zip(some, children_of_each(some), strict=True):
                known[id(each)] = each, [inner for _, inner in parts[:_MAX_NEAREST]]
        level = [inner for each in opened for inner in known[id(each)][1]]
    return False
