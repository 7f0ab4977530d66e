"""Search what outlives a node besides its return value: environment, context, tags, traces.

When a scope opens, the existing texts are recorded. When it closes, new texts are searched for the
secrets that were opened in it. Only data is searched (containers, dataclasses, pydantic models, the
attributes of the run's context): a client in the context may hold its own key.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Set
from contextlib import suppress
from contextvars import ContextVar, copy_context
from functools import partial
from typing import Any, Final

from pydantic import BaseModel

from pipelit_agents.credentials.leak_guard.masking import MASK, masked
from pipelit_agents.credentials.leak_guard.patterns import Patterns
from pipelit_agents.credentials.leak_guard.traversal import slots_of, state_of
from pipelit_agents.credentials.secret import Secret
from pipelit_agents.errors import SecretLeakError

__all__ = ["Surroundings"]

# More objects than a context, tags or metadata have. Larger values are searched up to this limit.
_MAX_OBJECTS: Final = 50_000
_ABSENT: Final = object()
# Context variables of these types are searched as data. Others may hold clients.
_DATA: Final = Mapping | list | tuple | set | deque

_Put = Callable[[Any], object]
_Found = tuple[str, Any, "_Put | None"]


class Surroundings:
    """The state of a node's surroundings when the node began.

    Args:
        config: The current runnable configuration inside the node.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._environment = _environment()
        self._variables = {
            variable: (value, _texts_of_data(value)) for variable, value in _variables()
        }
        self._names = _names()
        self._roots = list(_roots(config))
        self._texts = {
            text for where, value, _ in self._roots for _, text, _ in _texts(value, where, None)
        }

    def search(self, patterns: Patterns, sought: Callable[[], Patterns]) -> None:
        """Raise an error if the node left a secret in its surroundings.

        The secret is removed too, so that it doesn't remain after the error is handled.

        Args:
            patterns: The patterns of all open secrets.
            sought: Returns the patterns without secrets from the node's input. It is called only
                if one of ``patterns`` is found.

        Raises:
            SecretLeakError: A secret was found. The error names the path and the credential.
        """
        found = self._clean(patterns, sought)
        if found is not None:
            where, credential = found
            raise SecretLeakError(
                f"the secret of credential {credential!r} was left in {where}, where it would "
                "outlive the node. Pass it as an argument to the function that needs it",
                credential=credential,
                path=where,
            )

    def clean(self, patterns: Patterns, sought: Callable[[], Patterns]) -> None:
        """Remove secrets without raising an error, because the node has raised its own."""
        self._clean(patterns, sought)

    def _clean(self, every: Patterns, sought: Callable[[], Patterns]) -> tuple[str, str] | None:
        first: tuple[str, str] | None = None
        for where, text, put in self._new():
            if not _has_secret(text, every):
                continue
            patterns = sought()
            if not _has_secret(text, patterns):
                continue
            # The path may contain the secret, as the key of a mapping.
            first = first or (patterns.mask(where, MASK), _credential_in(text, patterns))
            if put is not None:
                # If the value can't be changed, the error still reports it.
                with suppress(Exception):
                    put(masked(text, patterns))
        return first

    def _new(self) -> Iterator[_Found]:
        yield from self._new_in_environment()
        yield from self._new_in_variables()
        for key, (name, rename) in _names().items():
            if name != self._names.get(key, (None,))[0]:
                yield f"the name of {key[0]}", name, rename
        for where, value, put in self._roots:
            for path, text, replace in _texts(value, where, put):
                if text not in self._texts:
                    yield path, text, replace

    def _new_in_environment(self) -> Iterator[_Found]:
        for name, value in _environment().items():
            before = self._environment.get(name)
            if value != before:
                yield f"os.environ[{name!r:.60}]", f"{name}={value}", partial(_reset, name, before)

    def _new_in_variables(self) -> Iterator[_Found]:
        for variable, value in _variables():
            before, known = self._variables.get(variable, (_ABSENT, frozenset()))
            where = f"the context variable {variable.name!r:.60}"
            if isinstance(before, _DATA):
                # The old value may have been changed in place, even if it was replaced since.
                for path, text, put in _texts(before, where, None):
                    if text not in known:
                        yield path, text, put
            if value is before or not isinstance(value, str | bytes | _DATA):
                continue
            for path, text, _ in _texts(value, where, None):
                if text not in known:
                    # A variable that had no value can't be unset from here.
                    yield path, text, partial(_restore, variable, before)


def _variables() -> list[tuple[ContextVar[Any], Any]]:
    from langchain_core.runnables.config import var_child_runnable_config

    # A node gets a copy of its configuration, which is searched separately.
    return [each for each in copy_context().items() if each[0] is not var_child_runnable_config]


def _texts_of_data(value: Any) -> Set[Any]:
    if isinstance(value, str | bytes):
        return {value}
    if not isinstance(value, _DATA):
        return frozenset()
    return {text for _, text, _ in _texts(value, "", None)}


def _environment() -> dict[str, str]:
    # Not dict(os.environ): another thread may remove a variable in between.
    found = ((name, os.environ.get(name)) for name in list(os.environ))
    return {name: value for name, value in found if value is not None}


def _reset(name: str, before: str | None, _: Any) -> None:
    if before is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = before


def _restore(variable: ContextVar[Any], before: Any, masked_value: Any) -> None:
    variable.set(masked_value if before is _ABSENT else before)


def _names() -> dict[tuple[str, Any], tuple[str, _Put]]:
    """Return the names of threads and of the current task, which logs and traces display."""
    found: dict[tuple[str, Any], tuple[str, _Put]] = {}
    for thread in threading.enumerate():
        found["a thread", thread.ident] = (thread.name, partial(setattr, thread, "name"))
    with suppress(RuntimeError):
        if (task := asyncio.current_task()) is not None:
            found["an asyncio task", id(task)] = (task.get_name(), task.set_name)
    return found


def _roots(config: Mapping[str, Any]) -> Iterator[_Found]:
    from langgraph.runtime import Runtime

    yield "config['tags']", config.get("tags"), None
    yield "config['metadata']", config.get("metadata"), None
    for key, value in (config.get("configurable") or {}).items():
        if isinstance(value, Runtime):
            if value.context is not None:
                yield "runtime.context", _searched_context(value.context), None
        elif not key.startswith("__"):
            yield f"config['configurable'][{key!r:.60}]", value, None
    yield from _of_langsmith()
    yield from _of_opentelemetry()


def _of_langsmith() -> Iterator[_Found]:
    # The run that traces the node itself. It is sent after the node has ended.
    helpers: Any = sys.modules.get("langsmith.run_helpers")
    tree = None if helpers is None else helpers.get_current_run_tree()
    if tree is not None:
        yield "LangSmith's run", _Attributes(tree, ("name", "tags", "extra", "events")), None


def _of_opentelemetry() -> Iterator[_Found]:
    # A span that began before the node ends after it, when its secrets can't be masked any more.
    trace: Any = sys.modules.get("opentelemetry.trace")
    if trace is not None:
        span = trace.get_current_span()
        if hasattr(span, "attributes"):
            yield "the current span", _Span(span), None


class _Attributes:
    """The attributes of an object of any class."""

    def __init__(self, value: Any, names: tuple[str, ...] | None = None) -> None:
        self._value = value
        self._names = names

    def found(self, where: str) -> list[_Found]:
        value = self._value
        return [
            (f"{where}.{name}", getattr(value, name, None), partial(self._put, name))
            for name in (_attributes(value) if self._names is None else self._names)
        ]

    def _put(self, name: str, masked_value: Any) -> None:
        if self._names is None:
            # The class may be frozen.
            object.__setattr__(self._value, name, masked_value)
        else:
            setattr(self._value, name, masked_value)


def _attributes(value: Any) -> list[str]:
    kind: Any = type(value)
    return [name for name, _ in state_of(value)] + list(slots_of(kind))


def _searched_context(context: Any) -> Any:
    # Search the attributes of a context of any class, but not other objects in it: they may be
    # clients.
    if isinstance(context, Mapping | BaseModel) or dataclasses.is_dataclass(context):
        return context
    kind: Any = type(context)
    kept = hasattr(context, "__dict__") or slots_of(kind)
    return _Attributes(context) if kept else context


class _Span:
    """An OpenTelemetry span, which has read-only properties and methods to change them."""

    def __init__(self, span: Any) -> None:
        self._span = span

    def found(self) -> Iterator[_Found]:
        span = self._span
        yield "name", span.name, span.update_name
        for key, value in dict(span.attributes or {}).items():
            yield f"attribute {key!r:.60}", value, partial(span.set_attribute, key)
        for event in getattr(span, "events", ()):
            # Events can't be changed or removed.
            yield f"event {event.name!r:.60}", [event.name, dict(event.attributes or {})], None


def _texts(value: Any, where: str, put: _Put | None) -> Iterator[_Found]:
    """Yield each text in data, with its path and the function that replaces it."""
    waiting: deque[_Found] = deque([(where, value, put)])
    seen: dict[int, Any] = {}
    while waiting and len(seen) < _MAX_OBJECTS:
        where, each, put = waiting.popleft()
        if isinstance(each, str | bytes):
            yield where, each, put
        elif isinstance(each, Secret | int | float | None) or id(each) in seen:
            continue
        else:
            seen[id(each)] = each
            with suppress(Exception):
                waiting.extend(_children(where, each, put))


def _children(where: str, value: Any, put: _Put | None) -> list[_Found]:
    if isinstance(value, _Span):
        return [(f"{where}, {name}", each, set_) for name, each, set_ in value.found()]
    if isinstance(value, Mapping):
        return _children_of_mapping(where, value)
    if isinstance(value, list | deque):
        return [
            (f"{where}[{i}]", each, partial(value.__setitem__, i)) for i, each in enumerate(value)
        ]
    if isinstance(value, tuple | frozenset):
        # An immutable container is replaced as a whole.
        return [(where, each, put and partial(_mask_whole, put)) for each in value]
    if isinstance(value, set):
        return [(where, each, partial(_replace_item, value, each)) for each in value]
    if isinstance(value, _Attributes):
        return value.found(where)
    if not (isinstance(value, BaseModel) or dataclasses.is_dataclass(value)):
        return []
    found: list[_Found] = []
    names = [*vars(value)] if hasattr(value, "__dict__") else []
    if dataclasses.is_dataclass(value):
        names += [each.name for each in dataclasses.fields(value) if each.name not in names]
    for name in names:
        set_ = partial(object.__setattr__, value, name)
        found.append((f"{where}.{name}", getattr(value, name, None), set_))
    for extra in ("__pydantic_extra__", "__pydantic_private__"):
        found += _children_of_mapping(where, getattr(value, extra, None) or {})
    return found


def _children_of_mapping(where: str, value: Mapping[Any, Any]) -> list[_Found]:
    found: list[_Found] = []
    for key, each in list(value.items()):
        drop: _Put | None = None
        put: _Put | None = None
        if isinstance(value, MutableMapping):
            drop, put = partial(_drop, value, key), partial(value.__setitem__, key)
        found += [(where, key, drop), (f"{where}[{key!r:.60}]", each, put)]
    return found


def _drop(value: MutableMapping[Any, Any], key: Any, _: Any) -> None:
    value.pop(key, None)


def _replace_item(value: set[Any], each: Any, masked_value: Any) -> None:
    value.discard(each)
    value.add(masked_value)


def _mask_whole(put: _Put, _: Any) -> None:
    put(MASK)


def _has_secret(text: Any, patterns: Patterns) -> bool:
    return patterns.in_bytes(text) if isinstance(text, bytes) else patterns.in_text(text)


def _credential_in(text: Any, patterns: Patterns) -> str:
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    return next((name for form, name in patterns.forms.items() if form in data), patterns.names)
