"""What outlives a node although the node doesn't return it: environment, context, tags, traces.

When a scope opens, the texts that are there are noted; when it closes, new ones are searched for
the secrets that were opened in it. Only data is looked into (containers, dataclasses, pydantic
models, the attributes of the run's context): a client in the context may hold its key.
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

# More than a context, tags or metadata have; what is larger is searched up to here.
_MOST: Final = 50_000
_ABSENT: Final = object()
# What of a context variable is data; others may hold clients.
_DATA: Final = Mapping | list | tuple | set | deque

_Put = Callable[[Any], object]
_Found = tuple[str, Any, "_Put | None"]


class Surroundings:
    """What a node can leave something in, as it was when the node began.

    Args:
        config: The runnable configuration that is in force inside the node.
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

    def check(self, patterns: Patterns, sought: Callable[[], Patterns]) -> None:
        """Make sure that nothing that was left here by the node holds a secret.

        What does is taken out, so that it doesn't stay when the error has been handled.

        Args:
            patterns: What the open secrets look like.
            sought: Returns the same without what the node was given; asked where one is found.

        Raises:
            SecretLeakError: Something does. It names the place and the credential.
        """
        found = self._clean(patterns, sought)
        if found is not None:
            where, credential = found
            raise SecretLeakError(
                f"the secret of credential {credential!r} was left in {where} when the node ended, "
                "where it would outlive the node: pass it as an argument to what needs it",
                credential=credential,
                path=where,
            )

    def clean(self, patterns: Patterns, sought: Callable[[], Patterns]) -> None:
        """Take out what holds a secret, without an error: the node has failed by itself."""
        self._clean(patterns, sought)

    def _clean(self, every: Patterns, sought: Callable[[], Patterns]) -> tuple[str, str] | None:
        first: tuple[str, str] | None = None
        for where, text, put in self._new():
            if not _shows(text, every):
                continue
            patterns = sought()
            if not _shows(text, patterns):
                continue
            # A key of a mapping may be the secret, or hold it.
            first = first or (patterns.mask(where, MASK), _credential(text, patterns))
            if put is not None:
                # What can't be changed is somebody's property; the error tells of it.
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
                # It may have been changed in place, also where another took its place since.
                for path, text, put in _texts(before, where, None):
                    if text not in known:
                        yield path, text, put
            if value is before or not isinstance(value, str | bytes | _DATA):
                continue
            for path, text, _ in _texts(value, where, None):
                if text not in known:
                    # A variable that had no value can't get none again.
                    yield path, text, partial(_restore, variable, before)


def _variables() -> list[tuple[ContextVar[Any], Any]]:
    from langchain_core.runnables.config import var_child_runnable_config

    # What a node changes in its configuration, it changes in a copy, which is looked at by itself.
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


def _restore(variable: ContextVar[Any], before: Any, shown: Any) -> None:
    variable.set(shown if before is _ABSENT else before)


def _names() -> dict[tuple[str, Any], tuple[str, _Put]]:
    """The names of threads, and of the task that runs here: logs and traces show them."""
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
                yield "runtime.context", _whole(value.context), None
        elif not key.startswith("__"):
            yield f"config['configurable'][{key!r:.60}]", value, None
    yield from _of_langsmith()
    yield from _of_opentelemetry()


def _of_langsmith() -> Iterator[_Found]:
    # The run that the node itself is traced as: it is sent when the node has ended.
    helpers: Any = sys.modules.get("langsmith.run_helpers")
    tree = None if helpers is None else helpers.get_current_run_tree()
    if tree is not None:
        yield "LangSmith's run", _Attributes(tree, ("name", "tags", "extra", "events")), None


def _of_opentelemetry() -> Iterator[_Found]:
    # A span that began before the node ends after it, when no processor knows the secret any more.
    trace: Any = sys.modules.get("opentelemetry.trace")
    if trace is not None:
        span = trace.get_current_span()
        if hasattr(span, "attributes"):
            yield "the current span", _Span(span), None


class _Attributes:
    """The attributes of an object, whatever its class is."""

    def __init__(self, value: Any, names: tuple[str, ...] | None = None) -> None:
        self._value = value
        self._names = names

    def found(self, where: str) -> list[_Found]:
        value = self._value
        return [
            (f"{where}.{name}", getattr(value, name, None), partial(self._put, name))
            for name in (_attributes(value) if self._names is None else self._names)
        ]

    def _put(self, name: str, shown: Any) -> None:
        if self._names is None:
            # It may be frozen.
            object.__setattr__(self._value, name, shown)
        else:
            setattr(self._value, name, shown)


def _attributes(value: Any) -> list[str]:
    kind: Any = type(value)
    return [name for name, _ in state_of(value)] + list(slots_of(kind))


def _whole(context: Any) -> Any:
    # A context may be of any class; what else it refers to may be clients.
    if isinstance(context, Mapping | BaseModel) or dataclasses.is_dataclass(context):
        return context
    kind: Any = type(context)
    kept = hasattr(context, "__dict__") or slots_of(kind)
    return _Attributes(context) if kept else context


class _Span:
    """A span, which is read by properties and written by methods."""

    def __init__(self, span: Any) -> None:
        self._span = span

    def found(self) -> Iterator[_Found]:
        span = self._span
        yield "name", span.name, span.update_name
        for key, value in dict(span.attributes or {}).items():
            yield f"attribute {key!r:.60}", value, partial(span.set_attribute, key)
        for event in getattr(span, "events", ()):
            # Events can't be changed or taken back.
            yield f"event {event.name!r:.60}", [event.name, dict(event.attributes or {})], None


def _texts(value: Any, where: str, put: _Put | None) -> Iterator[_Found]:
    """Each text in data, with its place and what replaces it there."""
    waiting: deque[_Found] = deque([(where, value, put)])
    seen: dict[int, Any] = {}
    while waiting and len(seen) < _MOST:
        where, each, put = waiting.popleft()
        if isinstance(each, str | bytes):
            yield where, each, put
        elif isinstance(each, Secret | int | float | None) or id(each) in seen:
            continue
        else:
            seen[id(each)] = each
            with suppress(Exception):
                waiting.extend(_inside(where, each, put))


def _inside(where: str, value: Any, put: _Put | None) -> list[_Found]:
    if isinstance(value, _Span):
        return [(f"{where}, {name}", each, set_) for name, each, set_ in value.found()]
    if isinstance(value, Mapping):
        return _inside_a_mapping(where, value)
    if isinstance(value, list | deque):
        return [
            (f"{where}[{i}]", each, partial(value.__setitem__, i)) for i, each in enumerate(value)
        ]
    if isinstance(value, tuple | frozenset):
        # It is replaced as a whole, where it stands.
        return [(where, each, put and partial(_blank, put)) for each in value]
    if isinstance(value, set):
        return [(where, each, partial(_exchange, value, each)) for each in value]
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
        found += _inside_a_mapping(where, getattr(value, extra, None) or {})
    return found


def _inside_a_mapping(where: str, value: Mapping[Any, Any]) -> list[_Found]:
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


def _exchange(value: set[Any], each: Any, shown: Any) -> None:
    value.discard(each)
    value.add(shown)


def _blank(put: _Put, _: Any) -> None:
    put(MASK)


def _shows(text: Any, patterns: Patterns) -> bool:
    return patterns.inside(text) if isinstance(text, bytes) else patterns.within(text)


def _credential(text: Any, patterns: Patterns) -> str:
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    return next((name for form, name in patterns.forms.items() if form in data), patterns.names)
