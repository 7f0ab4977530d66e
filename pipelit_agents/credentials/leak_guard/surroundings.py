"""Search what outlives a node besides its return value: environment, context, tags, traces.

When a scope opens, the existing texts are recorded. When it closes, new texts are searched for the
secrets that were opened in it. Only data is searched, and the attributes of the run's context: a
client in the context may hold its own key.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from contextvars import ContextVar, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from pipelit_agents.credentials.leak_guard.data import Found, Put, attributes_of, values_in
from pipelit_agents.credentials.leak_guard.masking import masked
from pipelit_agents.credentials.leak_guard.patterns import Patterns
from pipelit_agents.errors import SecretLeakError

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

__all__ = ["Surroundings"]

# More objects than a context, tags or metadata have. Larger values are searched up to this limit,
# from the outside to the inside, because a large one would delay each node by seconds.
_MAX_OBJECTS: Final = 10_000
_ABSENT: Final = object()
# Context variables of these types are searched as data. Others may hold clients.
_DATA: Final = Mapping | list | tuple | set | deque

_Text = tuple[str, str | bytes, Put | None]
_Read = Callable[[], Iterable[Found]]


class Surroundings:
    """The state of a node's surroundings when the node began.

    Args:
        config: The current runnable configuration inside the node.
    """

    def __init__(self, config: RunnableConfig) -> None:
        self._environment = _environment()
        self._variables = {
            variable: (value, {text for _, text, _ in _texts_of_variable("", value)})
            for variable, value in _variables()
        }
        self._names = {key: name for key, name, _ in _names()}
        self._reads = list(_reads(config))
        self._texts = {text for _, text, _ in self._texts_read()}

    def clean(self, patterns: Patterns, sought: Callable[[], Patterns]) -> SecretLeakError | None:
        """Remove the secrets that the node left in its surroundings.

        Args:
            patterns: The patterns of all open secrets.
            sought: Returns the patterns without secrets from the node's input. It is called only
                if one of ``patterns`` is found.

        Returns:
            The error to raise if there was one; it names the path and the credential.
        """
        found = [each for each in self._new() if _has_secret(each[1], patterns)]
        if found:
            patterns = sought()
            found = [each for each in found if _has_secret(each[1], patterns)]
        for _, text, put in reversed(found):
            # If the value can't be changed, the error still reports it.
            with suppress(Exception):
                if put is not None:
                    put(masked(text, patterns))
        if not found:
            return None
        path, text, _ = found[0]
        # The path may contain the secret, as the key of a mapping.
        where, credential = patterns.mask(path), patterns.owner_in(text)
        return SecretLeakError(
            f"the secret of credential {credential!r} was left in {where}, where it would "
            "outlive the node. Pass it as an argument to the function that needs it",
            credential=credential,
            path=where,
        )

    def _new(self) -> Iterator[_Text]:
        for name, value in _environment().items():
            if value != (before := self._environment.get(name)):
                yield f"os.environ[{name!r:.60}]", f"{name}={value}", partial(_reset, name, before)
        yield from self._new_in_variables()
        for key, name, rename in _names():
            if name != self._names.get(key):
                yield f"the name of {key[0]}", name, rename
        yield from (each for each in self._texts_read() if each[1] not in self._texts)

    def _new_in_variables(self) -> Iterator[_Text]:
        for variable, value in _variables():
            before, known = self._variables.get(variable, (_ABSENT, set()))
            where = f"the context variable {variable.name!r:.60}"
            # The old value may have been changed in place, even if it was replaced since.
            found = list(_texts_of_variable(where, before)) if isinstance(before, _DATA) else []
            if value is not before:
                # A variable that had no value can't be unset from here.
                restore = partial(_restore, variable, before)
                found += [
                    (path, text, restore) for path, text, _ in _texts_of_variable(where, value)
                ]
            yield from (each for each in found if each[1] not in known)

    def _texts_read(self) -> Iterator[_Text]:
        for read in self._reads:
            for root in read():
                yield from _texts_in(root)


def _texts_in(root: Found) -> Iterator[_Text]:
    for path, each, put in values_in(root, _MAX_OBJECTS):
        if isinstance(each, str | bytes):
            yield path, each, put


def _texts_of_variable(where: str, value: object) -> Iterator[_Text]:
    if isinstance(value, str | bytes | _DATA):
        yield from _texts_in(Found(where, value, None))


def _variables() -> list[tuple[ContextVar[object], object]]:
    from langchain_core.runnables.config import var_child_runnable_config

    # A node gets a copy of its configuration, which is searched separately.
    return [each for each in copy_context().items() if each[0] is not var_child_runnable_config]


def _environment() -> dict[str, str]:
    # Not dict(os.environ): another thread may remove a variable in between.
    found = ((name, os.environ.get(name)) for name in list(os.environ))
    return {name: value for name, value in found if value is not None}


def _reset(name: str, before: str | None, _: object) -> None:
    if before is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = before


def _restore(variable: ContextVar[object], before: object, masked_value: object) -> None:
    variable.set(masked_value if before is _ABSENT else before)


def _names() -> Iterator[tuple[tuple[str, int | None], str, Put]]:
    """Yield the names of threads and of the current task, which logs and traces display."""
    for thread in threading.enumerate():
        yield ("a thread", thread.ident), thread.name, partial(setattr, thread, "name")
    with suppress(RuntimeError):
        if (task := asyncio.current_task()) is not None:
            yield ("an asyncio task", id(task)), task.get_name(), task.set_name


def _reads(config: RunnableConfig) -> Iterator[_Read]:
    """Yield functions that read what outlives the node; each is called at its begin and end."""
    from langgraph.runtime import Runtime

    roots = [Found(f"config[{name!r}]", config.get(name), None) for name in ("tags", "metadata")]
    for key, value in (config.get("configurable") or {}).items():
        if isinstance(value, Runtime):
            yield partial(_of_a_context, value.context)
        elif not key.startswith("__"):
            roots.append(Found(f"config['configurable'][{key!r:.60}]", value, None))
    yield lambda: roots
    # The run that traces the node itself. It is sent after the node has ended.
    helpers: Any = sys.modules.get("langsmith.run_helpers")
    if helpers is not None and (tree := helpers.get_current_run_tree()) is not None:
        yield partial(_of_a_run, tree)
    # A span that began before the node ends after it, when its secrets can't be masked any more.
    trace: Any = sys.modules.get("opentelemetry.trace")
    if trace is not None and hasattr(span := trace.get_current_span(), "attributes"):
        yield partial(_of_a_span, span)


def _of_a_context(context: object) -> Iterator[Found]:
    # Of any class, but not the objects in it: they may be clients.
    yield from attributes_of("runtime.context", context)
    if not dataclasses.is_dataclass(context):
        yield Found("runtime.context", context, None)


# Any: neither LangSmith nor OpenTelemetry must be installed.


def _of_a_run(tree: Any) -> Iterator[Found]:
    # LangSmith adds the node's own outputs to those that the node has set.
    for name in ("name", "tags", "extra", "events", "inputs", "outputs", "error", "attachments"):
        yield Found(
            f"LangSmith's run.{name}", getattr(tree, name, None), partial(setattr, tree, name)
        )


def _of_a_span(span: Any) -> Iterator[Found]:
    yield Found("the current span, name", span.name, span.update_name)
    yield Found("the current span, status", span.status.description, partial(_describe, span))
    for key, value in dict(span.attributes or {}).items():
        put = partial(span.set_attribute, key)
        yield Found(f"the current span, attribute {key!r:.60}", value, put)
    # Events and links can't be changed or removed.
    for event in getattr(span, "events", ()):
        found = [event.name, dict(event.attributes or {})]
        yield Found(f"the current span, event {event.name!r:.60}", found, None)
    for link in getattr(span, "links", ()):
        state = link.context.trace_state or {}
        yield Found("the current span, a link", [dict(link.attributes or {}), dict(state)], None)


def _describe(span: Any, text: object) -> None:
    span.set_status(type(span.status)(span.status.status_code, text))


def _has_secret(text: str | bytes, patterns: Patterns) -> bool:
    return patterns.in_bytes(text) if isinstance(text, bytes) else patterns.in_text(text)
