"""What the types in a graph's schema show before it runs: what can't be carried, and what is known.

A reader that shares the schema knows its classes, so that values of them come back as themselves.
"""

from __future__ import annotations

import collections
import collections.abc
import dataclasses
import inspect
import threading
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from enum import Enum
from typing import Any, Final, NamedTuple, cast
from weakref import WeakKeyDictionary

import typing_extensions
from langchain_core.documents import Document
from langchain_core.messages import BaseMessage
from langgraph.pregel import Pregel
from pydantic import BaseModel, TypeAdapter

from .values import Known, KnownClass, class_name, is_carried, is_secret, object_form

__all__ = ["known_classes", "known_inputs", "known_outputs", "uncarried_outputs"]

_WRAPPERS: Final = frozenset(
    {typing_extensions.Required, typing_extensions.NotRequired, typing_extensions.ReadOnly}
    | {typing.Required, typing.NotRequired, typing.Final, typing.ClassVar}
)
_MANY: Final = (
    *(list, tuple, set, frozenset, dict, collections.deque, collections.abc.Mapping),
    *(collections.abc.Sequence, collections.abc.Set, collections.abc.Iterable),
)
# Types that say nothing of the values: anything may be behind them.
_OPEN: Final = frozenset({object, type(None), Any})


def known_classes(classes: Iterable[type]) -> Known:
    """The classes that a user names, and those in their fields.

    Raises:
        TypeError: One of them is no enum, pydantic model, dataclass or named tuple.
    """
    walk = _SchemaWalk()
    for cls in classes:
        if not isinstance(cls, type) or not object_form(cls):
            raise TypeError(
                f"answer_types: {cls!r} has to be an Enum, a pydantic model, a dataclass or a "
                "NamedTuple"
            )
        walk.visit(cls, cls.__name__)
    return walk.known()


def known_outputs(graph: Pregel[Any, Any, Any, Any]) -> Known:
    """The classes in a graph's output."""
    return _inspected(graph).outputs


def known_inputs(graph: Pregel[Any, Any, Any, Any]) -> Known:
    """The classes in a graph's input."""
    return _inspected(graph).inputs


def uncarried_outputs(graph: Pregel[Any, Any, Any, Any]) -> list[str]:
    """What of a graph's output can't be carried, as its schema shows it: each path and type."""
    return _inspected(graph).problems


class _Found(NamedTuple):
    inputs: Known
    outputs: Known
    problems: list[str]


_FOUND: Final[WeakKeyDictionary[Any, _Found]] = WeakKeyDictionary()
_LOCK: Final = threading.Lock()


def _inspected(graph: Pregel[Any, Any, Any, Any]) -> _Found:
    with _LOCK:
        found = _FOUND.get(graph)
    if found is None:
        given, made = _SchemaWalk(), _SchemaWalk()
        for walk, names in ((given, graph.input_channels), (made, graph.output_channels)):
            for name in [names] if isinstance(names, str) else names:
                # A graph's one unnamed channel is its whole state.
                hint = getattr(graph.channels.get(name), "ValueType", Any)
                walk.visit(hint, "" if name.startswith("__") else name)
        found = _Found(given.known(), made.known(), made.problems)
        with _LOCK:
            _FOUND[graph] = found
    return found


class _SchemaWalk:
    """A walk over type hints."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.classes: dict[str, set[type]] = {}
        self._seen: dict[Any, bool] = {}

    def known(self) -> Known:
        """The classes that were found, by name; two of one name are none."""
        found = {class_name(Document): KnownClass(Document, "model", TypeAdapter(Document))}
        for name, classes in self.classes.items():
            (cls, *more) = classes
            if name and not more and not _holds_messages(cls, set()):
                try:
                    found[name] = KnownClass(cls, object_form(cls), TypeAdapter(cls))
                except Exception:  # noqa: S112 - pydantic has no schema of it: it stays a dict
                    continue
        return found

    def visit(self, hint: Any, path: str) -> bool:
        """Looks visit a hint; whether no value of it can be carried."""
        hint = _unwrapped(hint)
        origin, args = typing.get_origin(hint), typing.get_args(hint)
        if origin in (typing.Union, types.UnionType):
            return self._visit_union(args, path)
        if origin is typing.Literal:
            for each in args:
                if isinstance(each, Enum):
                    self._class(type(each))
            return False
        if origin is type or origin is collections.abc.Callable:
            return self._problem(path, str(hint))
        if origin in _MANY:
            return self._visit_each((f"{path}[*]", each) for each in args if each is not ...)
        cls = origin or hint
        if not isinstance(cls, type) or cls in _OPEN:
            return False
        return self._visit_class(cls, path)

    def _visit_each(self, parts: Iterable[tuple[str, Any]]) -> bool:
        # All of them: each says its own path.
        return any([self.visit(hint, path) for path, hint in parts])  # noqa: C419

    def _visit_union(self, args: Collection[Any], path: str) -> bool:
        before = len(self.problems)
        bad = [self.visit(each, path) for each in args]
        if not all(bad):
            # One of them can be carried, and it may be that one.
            del self.problems[before:]
        return all(bad)

    def _visit_class(self, cls: type, path: str) -> bool:
        if cls in self._seen:
            # Of a class that holds itself the outer one says it.
            bad = self._seen[cls]
            return self._problem(path, cls.__name__) if bad else False
        self._seen[cls] = False
        self._seen[cls] = bad = self._visit_new_class(cls, path)
        return bad

    def _visit_new_class(self, cls: type, path: str) -> bool:
        if is_secret(cls):
            return self._problem(path, cls.__name__, "a secret doesn't leave its node")
        if issubclass(cls, BaseMessage):
            return False
        if typing_extensions.is_typeddict(cls) or object_form(cls):
            self._class(cls)
            return self._visit_each(
                (_under(path, name), each) for name, each in _fields(cls).items()
            )
        if is_carried(cls) or _is_open(cls):
            return False
        return self._problem(path, cls.__name__)

    def _class(self, cls: type) -> None:
        if object_form(cls):
            self.classes.setdefault(class_name(cls), set()).add(cls)

    def _problem(self, path: str, kind: str, why: str = "it can't be carried") -> bool:
        self.problems.append(f"{path or 'the output'} is a {kind}: {why}")
        return True


def _under(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _unwrapped(hint: Any) -> Any:
    while True:
        origin = typing.get_origin(hint)
        if origin in _WRAPPERS or origin in (typing.Annotated, typing_extensions.Annotated):
            hint = typing.get_args(hint)[0]
        elif hasattr(hint, "__supertype__"):  # NewType
            hint = hint.__supertype__
        elif isinstance(hint, typing_extensions.TypeAliasType):
            hint = hint.__value__
        else:
            return hint


def _is_open(cls: type) -> bool:
    # Values may be of a class that is carried.
    protocol = getattr(cls, "_is_protocol", False)
    return protocol or inspect.isabstract(cls) or cls.__module__ in ("typing", "collections.abc")


def _fields(cls: type) -> Mapping[str, Any]:
    if issubclass(cls, Enum):
        return {}
    if issubclass(cls, BaseModel):
        return {
            name: field.annotation for name, field in cls.model_fields.items() if not field.exclude
        }
    try:
        hints = typing_extensions.get_type_hints(cls)
    except Exception:
        # A name that only a type checker knows.
        return {}
    if dataclasses.is_dataclass(cls):
        names = [field.name for field in dataclasses.fields(cls)]
    elif issubclass(cls, tuple):
        names = list(cast(Any, cls)._fields)
    else:
        names = list(hints)
    return {name: hints.get(name, Any) for name in names}


def _holds_messages(hint: Any, seen: set[Any]) -> bool:
    """Whether a value of it could hold messages, which are judged before any class is made."""
    hint = _unwrapped(hint)
    args = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return False
    if args:
        return any(_holds_messages(each, seen) for each in args)
    if not isinstance(hint, type) or hint in seen:
        return False
    seen.add(hint)
    if issubclass(hint, BaseMessage):
        return True
    if object_form(hint) or typing_extensions.is_typeddict(hint):
        return any(_holds_messages(each, seen) for each in _fields(hint).values())
    return False
