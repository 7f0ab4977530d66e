"""Inspect the types in a graph's schema: types that can't be carried, and known classes.

A reader that shares the schema knows its classes, so it can rebuild values of these classes.
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
from typing import Any, Final, NamedTuple
from weakref import WeakKeyDictionary

import typing_extensions
from langchain_core.documents import Document
from langchain_core.messages import BaseMessage
from pydantic import BaseModel, TypeAdapter

from .objects import Known, KnownClass, class_name, is_secret, object_form
from .types import AnyGraph
from .values import is_carried

__all__ = ["known_classes", "known_inputs", "known_outputs", "uncarried_outputs"]

_WRAPPERS: Final = frozenset(
    {typing_extensions.Required, typing_extensions.NotRequired, typing_extensions.ReadOnly}
    | {typing.Required, typing.NotRequired, typing.Final, typing.ClassVar}
)
_MANY: Final = (
    *(list, tuple, set, frozenset, dict, collections.deque, collections.abc.Mapping),
    *(collections.abc.Sequence, collections.abc.Set, collections.abc.Iterable),
)
# Types that don't restrict the values.
_OPEN: Final = frozenset({object, type(None), Any})


def known_classes(classes: Iterable[type]) -> Known:
    """Return the classes that a user names, and the classes of their fields.

    Raises:
        TypeError: A class isn't an enum, pydantic model, dataclass or named tuple.
    """
    walk = _SchemaWalk()
    for cls in classes:
        if not isinstance(cls, type) or not object_form(cls):
            raise TypeError(
                f"answer_types: {cls!r} must be an Enum, a pydantic model, a dataclass or a "
                "NamedTuple"
            )
        walk.visit(cls, cls.__name__)
    return walk.known()


def known_outputs(graph: AnyGraph) -> Known:
    """Return the classes in a graph's output schema."""
    return _inspected(graph).outputs


def known_inputs(graph: AnyGraph) -> Known:
    """Return the classes in a graph's input schema."""
    return _inspected(graph).inputs


def uncarried_outputs(graph: AnyGraph) -> list[str]:
    """Return a message for each path in a graph's output schema that can't be carried."""
    return _inspected(graph).problems


class _Found(NamedTuple):
    inputs: Known
    outputs: Known
    problems: list[str]


_FOUND: Final[WeakKeyDictionary[AnyGraph, _Found]] = WeakKeyDictionary()
_LOCK: Final = threading.Lock()


def _inspected(graph: AnyGraph) -> _Found:
    with _LOCK:
        found = _FOUND.get(graph)
    if found is None:
        inputs, outputs = _SchemaWalk(), _SchemaWalk()
        for walk, names in ((inputs, graph.input_channels), (outputs, graph.output_channels)):
            for name in [names] if isinstance(names, str) else names:
                # A graph's one unnamed channel is its whole state.
                hint = getattr(graph.channels.get(name), "ValueType", Any)
                walk.visit(hint, "" if name.startswith("__") else name)
        found = _Found(inputs.known(), outputs.known(), outputs.problems)
        with _LOCK:
            _FOUND[graph] = found
    return found


class _SchemaWalk:
    """A walk over type hints."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.classes: dict[str, set[type]] = {}
        self._seen: dict[type, bool] = {}

    def known(self) -> Known:
        """Return the classes by name. Leave out names that several classes share."""
        found = {class_name(Document): KnownClass(Document, "model", TypeAdapter(Document))}
        for name, classes in self.classes.items():
            (cls, *more) = classes
            if name and not more and not _holds_messages(cls, set()):
                try:
                    found[name] = KnownClass(cls, object_form(cls), TypeAdapter(cls))
                except Exception:  # noqa: S112 - pydantic has no schema for it: it stays a dict
                    continue
        return found

    def visit(self, hint: object, path: str) -> bool:
        """Visit a type hint. Return whether none of its values can be carried."""
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

    def _visit_each(self, parts: Iterable[tuple[str, object]]) -> bool:
        # Visit all of them, because each adds its path to the problems.
        return any([self.visit(hint, path) for path, hint in parts])  # noqa: C419

    def _visit_union(self, args: Collection[object], path: str) -> bool:
        before = len(self.problems)
        bad = [self.visit(each, path) for each in args]
        if not all(bad):
            # At least one member can be carried, and the value may be of that type.
            del self.problems[before:]
        return all(bad)

    def _visit_class(self, cls: type, path: str) -> bool:
        if cls in self._seen:
            # For a recursive class the outer visit reports the problem.
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
        self.problems.append(f"{path or 'the output'} is of type {kind}: {why}")
        return True


def _under(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _unwrapped(hint: object) -> object:
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
    # Values may be of a class that can be carried.
    protocol = getattr(cls, "_is_protocol", False)
    return protocol or inspect.isabstract(cls) or cls.__module__ in ("typing", "collections.abc")


def _fields(cls: type) -> Mapping[str, object]:
    if issubclass(cls, Enum):
        return {}
    if issubclass(cls, BaseModel):
        return {
            name: field.annotation for name, field in cls.model_fields.items() if not field.exclude
        }
    try:
        hints = typing_extensions.get_type_hints(cls)
    except Exception:
        # A hint holds a name that is only imported for type checking.
        return {}
    if dataclasses.is_dataclass(cls):
        names = [field.name for field in dataclasses.fields(cls)]
    elif issubclass(cls, tuple):
        names = list(getattr(cls, "_fields", ()))
    else:
        names = list(hints)
    return {name: hints.get(name, Any) for name in names}


def _holds_messages(hint: object, seen: set[type]) -> bool:
    """Return whether a value could hold messages, which are filtered before a class is built."""
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
