"""Replace open secrets in values and exceptions by a mask."""

from __future__ import annotations

from contextlib import suppress
from copy import copy
from types import FrameType, TracebackType
from typing import Any, TypeVar, cast

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from pipelit_agents.credentials.leak_guard.data import Found, values_in
from pipelit_agents.credentials.leak_guard.frames import (
    LINKS,
    Frames,
    chain_of,
    members_of_group,
    read_field,
)
from pipelit_agents.credentials.leak_guard.own_forms import display_text, has_own_forms
from pipelit_agents.credentials.leak_guard.patterns import MASK, Patterns
from pipelit_agents.credentials.leak_guard.search import Revealed, holds, leak_error, patterns_of
from pipelit_agents.credentials.leak_guard.stored import fields_in_c, state_of
from pipelit_agents.credentials.leak_guard.written import CONTAINERS, LEAVES, shows_a_number
from pipelit_agents.credentials.secret import Secret
from pipelit_agents.errors import SecretLeakError

__all__ = ["MASK", "masked", "redact", "scrub"]

T = TypeVar("T")


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


def masked(value: T, revealed: Revealed) -> T:
    """Return a value without the secrets, for values that are only displayed: logs and traces.

    Args:
        value: Text, bytes, containers of them, or objects that are displayed by their text.
        revealed: Credential names by plaintext.

    Returns:
        The value itself if it holds no secret; otherwise a masked copy, or text in place of an
        object. The value isn't changed.
    """
    patterns = patterns_of(revealed)
    if not patterns.forms:
        return value
    try:
        return cast(T, _Masking(patterns, copy_objects=False).of(value))
    except RecursionError:
        return cast(T, MASK)


def scrub(value: object, revealed: Revealed) -> None:
    """Mask the secrets that a node has written into its input state, in place.

    Args:
        value: The state. Only data is changed; other objects are replaced by a mask.
        revealed: Credential names by plaintext.
    """
    patterns = patterns_of(revealed)
    for _, each, put in reversed(list(values_in(Found("", value, None)))):
        # If one object can't be changed, go on with the rest.
        with suppress(Exception):
            if put is not None and (clean := masked(each, patterns)) is not each:
                put(clean)


class _Masking:
    """One pass over a value that will be displayed or raised.

    Args:
        patterns: The secrets to search for.
        copy_objects: Whether to replace objects by masked copies; otherwise they become text.
    """

    def __init__(self, patterns: Patterns, *, copy_objects: bool) -> None:
        self._patterns = patterns
        self._copy_objects = copy_objects
        self._frames = Frames(patterns, clearing=True)
        # Masked values by the id of the original. The original is kept too, so that its id isn't
        # reused.
        self._made: dict[int, tuple[object, Any]] = {}

    def of(self, value: object) -> Any:
        """Return a value without the secrets; Any: of its type, or text in place of an object."""
        if isinstance(value, str):
            return self._patterns.mask(value) if self._patterns.in_text(value) else value
        if isinstance(value, bytes):
            for form in self._patterns.forms:
                value = value.replace(form, MASK.encode())
            return value
        if type(value) in LEAVES or isinstance(value, Secret):
            return value if shows_a_number(value, self._patterns) is None else MASK
        if id(value) in self._made:
            return self._made[id(value)][1]
        if isinstance(value, BaseException) and self._copy_objects:
            return self.of_an_exception(value)
        if not self._reveals(value):
            return value
        return MASK if isinstance(value, BaseException) else self._rebuilt(value)

    def of_an_exception(self, error: BaseException) -> BaseException:
        """Mask an exception and its whole chain, without recursion: a chain has no length limit."""
        chain = list(chain_of(error, self._made))
        for each in chain:
            self._keep(each, each)
        waiting, done = list(chain), set[int]()
        while waiting:
            each = waiting.pop()
            # The members of a group come before the group, whatever else refers to them.
            members = [part for part in members_of_group(each) if id(part) not in done]
            if members and id(each) not in done:
                waiting += [each, *members]
            elif id(each) not in done:
                done.add(id(each))
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
        kept = read_field(error, "__dict__")
        for name, found in list(dict.items(kept)):
            if (called := self.of(name)) is not name:
                del kept[name]
            if (clean := self.of(found)) is not found or called is not name:
                kept[called] = clean
        fixed = False
        for name, field in fields_in_c(type(error)):
            # A group's fields are read-only, so the group is replaced by a new one.
            if name in LINKS or field.__objclass__ is BaseExceptionGroup:
                continue
            with suppress(AttributeError):
                # A slot may be empty.
                found = field.__get__(error)
                if (clean := self.of(found)) is not found:
                    try:
                        # Not by setattr: a class may refuse or override it.
                        field.__set__(error, clean)
                    except (AttributeError, TypeError):
                        fixed = True
        self._clear_frames(error)
        self._link(error)
        parts = members_of_group(error)
        if fixed or self._shows(error) or any(self._made[id(p)][1] is not p for p in parts):
            made = self._remade(error)
            if made is None or self._shows(made):
                made = _unmaskable(error, self._patterns)
            for name in (*LINKS, "__suppress_context__", "__traceback__"):
                _write(made, name, read_field(error, name))
            if "__notes__" in kept:
                made.__notes__ = kept["__notes__"]
            self._keep(error, made)

    def _clear_frames(self, error: BaseException) -> None:
        """Clear the frames that show a secret; leave out of the traceback what can't be cleared."""
        before: TracebackType | None = None
        where: TracebackType | None = read_field(error, "__traceback__")
        while where is not None:
            if not self._is_cleared(where.tb_frame):
                # The namespace itself may be in use, such as an interpreter's that goes on.
                if before is None:
                    _write(error, "__traceback__", where.tb_next)
                else:
                    before.tb_next = where.tb_next
            else:
                before = where
            where = where.tb_next

    def _is_cleared(self, frame: FrameType) -> bool:
        """Return whether a frame shows no secret any more, or is still running."""
        if not self._frames.show_secret(frame):
            return True
        try:
            frame.clear()
        except RuntimeError:
            return True
        # Code of exec() and the body of a class keep their variables in a dictionary.
        return not frame.f_locals

    def _link(self, error: BaseException) -> None:
        """Point the cause and context of an exception and its replacement to the replacements."""
        for each in (error, self._made[id(error)][1]):
            suppressed = read_field(each, "__suppress_context__")
            for name in LINKS:
                linked = read_field(each, name)
                clean = self._made.get(id(linked), (None, linked))[1]
                if clean is not linked:
                    _write(each, name, clean)
            # Setting a cause sets this flag.
            if read_field(each, "__suppress_context__") is not suppressed:
                _write(each, "__suppress_context__", suppressed)

    def _remade(self, error: BaseException) -> BaseException | None:
        """Make another exception of the same type; return None if that isn't possible."""
        with suppress(Exception):
            if type(error).__setattr__ is not BaseException.__setattr__:
                # Raising the new exception sets its links and traceback, which this class may
                # refuse.
                return None
            if issubclass(type(error), BaseExceptionGroup):
                parts = [self._made[id(each)][1] for each in members_of_group(error)]
                return type(error)(self.of(_message(error)), parts)
            if type(error) is ValidationError:
                return self._remade_by_pydantic(error)
        return None

    def _remade_by_pydantic(self, error: ValidationError) -> ValidationError:
        lines: list[InitErrorDetails] = []
        for each in error.errors(include_url=False):
            words = self.of(each["msg"]).replace("{", "{{").replace("}", "}}")
            kind = PydanticCustomError(each["type"], words)
            loc, given = self.of(each["loc"]), self.of(each["input"])
            lines.append(InitErrorDetails(type=kind, loc=loc, input=given))
        return ValidationError.from_exception_data(self.of(error.title), lines)

    def _shows(self, error: BaseException) -> bool:
        """Return whether the text of an exception, whose fields were masked, shows a secret."""
        if issubclass(type(error), BaseExceptionGroup):
            message = _message(error)
            if self.of(message) is not message:
                return True
        # Built-in exceptions display only what was masked, and their text may be endless.
        kind = type(error)
        makers = {getattr(each, "__objclass__", kind) for each in (kind.__str__, kind.__repr__)}
        own = any(each.__module__ != "builtins" for each in makers)
        return own and self._patterns.in_text(display_text(error))

    def _reveals(self, value: object) -> bool:
        if holds(value, self._patterns, opened=False):
            return True
        # Own forms have been searched.
        text = (
            "" if type(value) in CONTAINERS or has_own_forms(type(value)) else display_text(value)
        )
        return self._patterns.in_text(text)

    def _rebuilt(self, value: object) -> object:
        kind: Any = type(value)
        made: Any = MASK
        with suppress(Exception):
            if isinstance(value, list | set | frozenset) and kind in CONTAINERS:
                made = self._keep(value, [])
                made += [self.of(each) for each in value]
                if kind is not list:
                    made = kind(made)
            elif isinstance(value, tuple) and (kind is tuple or hasattr(kind, "_make")):
                made = getattr(kind, "_make", tuple)([self.of(each) for each in value])
            elif isinstance(value, dict) and kind is dict:
                made = self._keep(value, {})
                made.update({self.of(key): self.of(each) for key, each in value.items()})
            elif self._copy_objects:
                made = self._copied(value)
        if self._reveals(made):
            made = MASK
        return self._keep(value, made)

    def _copied(self, value: object) -> object:
        kind = type(value)
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
            vars(made)[self.of(name)] = self.of(found)
        for _, field in fields_in_c(kind):
            with suppress(AttributeError):
                field.__set__(made, self.of(field.__get__(value)))
        return made

    def _keep(self, value: object, made: Any) -> Any:
        self._made[id(value)] = (value, made)
        return made


def _write(error: BaseException, name: str, value: object) -> None:
    BaseException.__dict__[name].__set__(error, value)


def _message(group: BaseException) -> str:
    found: str = BaseExceptionGroup.__dict__["message"].__get__(group)
    return found


def _unmaskable(error: BaseException, patterns: Patterns) -> SecretLeakError:
    return leak_error(patterns.names, "", f"the text of an exception ({type(error).__name__})")
