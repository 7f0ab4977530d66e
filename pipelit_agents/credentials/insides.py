"""What stands in a value: the one place that knows how containers and objects keep things.

Nothing here may raise: a foreign object that won't be looked into is searched by what it shows.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import os
import types
import uuid
from collections import UserString
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final

import ormsgpack

__all__ = ["Unsearched", "contents", "insides", "members_of", "slots_of", "state_of"]

_Inside = tuple[Any, Any]
_OPAQUE: Final = (
    type,
    range,
    types.ModuleType,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    types.MethodWrapperType,
    types.WrapperDescriptorType,
    types.MethodDescriptorType,
    types.CodeType,
    types.FrameType,
    types.TracebackType,
)


class Unsearched:
    """What no search looks into, because it holds the secrets by its nature."""


def insides(value: Any) -> list[_Inside]:
    """What stands in a value, one level deep, each with its place: a position, a key or a name."""
    found: list[_Inside] = []
    kind: Any = type(value)
    for look in _looks(kind):
        try:
            found.extend(look(value))
        except Exception:
            try:
                found.append(("<shown>", repr(value)))
            except Exception:
                return found
    return found


def contents(value: Any) -> list[Any]:
    """The same without the places, quicker where there is much of it."""
    kind: Any = type(value)
    slots = _slots_of_plain(kind)
    if slots is not None:
        # What won't be read like that is looked at by each of its parts.
        with suppress(Exception):
            return [*value.__dict__.values(), *[getattr(value, name, None) for name in slots]]
    return [inner for _, inner in insides(value)]


@lru_cache(maxsize=1024)
def _slots_of_plain(kind: Any) -> tuple[str, ...] | None:
    # Of what keeps all that it holds in a dictionary and slots, as pydantic's models do.
    looks = _looks(kind)
    plain = looks[:1] == (state_of,) and not dataclasses.is_dataclass(kind)
    return slots_of(kind) if plain else None


@lru_cache(maxsize=1024)
def _looks(kind: Any) -> tuple[Callable[[Any], Any], ...]:
    if issubclass(kind, _OPAQUE) or issubclass(kind, Unsearched):
        return ()
    looks: list[Callable[[Any], Any]] = []
    # Of the type, not the value: a pydantic model takes its time to say that it has no such thing.
    if hasattr(kind, "tobytes") and hasattr(kind, "tolist"):
        looks.append(_of_an_array)
    elif hasattr(kind, "tolist") and hasattr(kind, "numpy"):
        # A tensor holds numbers only, and would make a tensor of each of them.
        pass
    elif hasattr(kind, "columns") and hasattr(kind, "to_numpy"):
        looks.append(_of_a_table)
    elif issubclass(kind, Mapping):
        looks.append(_of_a_mapping)
    elif issubclass(kind, UserString | uuid.UUID):
        looks.append(lambda value: [("", str(value)), ("", getattr(value, "hex", ""))])
    elif issubclass(kind, os.PathLike):
        looks.append(lambda value: [("", os.fspath(value))])
    elif issubclass(kind, io.StringIO | io.BytesIO):
        looks.append(lambda value: [("", value.getvalue())])
    elif issubclass(kind, ormsgpack.Ext):
        looks.append(lambda value: [("", ormsgpack.packb(value))])
    elif issubclass(kind, functools.partial):
        looks.append(lambda value: [("args", value.args), ("keywords", value.keywords)])
    elif issubclass(kind, Collection) and not issubclass(kind, str | bytes):
        looks.append(enumerate)
    if issubclass(kind, BaseException):
        looks.append(_of_an_exception)
    looks.append(state_of)
    if slots := slots_of(kind):
        looks.append(lambda value: [(name, getattr(value, name, None)) for name in slots])
    if dataclasses.is_dataclass(kind):
        names = tuple(field.name for field in dataclasses.fields(kind))
        looks.append(lambda value: [(name, getattr(value, name, None)) for name in names])
    return tuple(looks)


@lru_cache(maxsize=1024)
def slots_of(kind: Any) -> tuple[str, ...]:
    """The names of a type's slots, as ``getattr`` takes them."""
    found = []
    for each in kind.__mro__:
        slots = each.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name.startswith("__") and not name.endswith("__"):
                name = f"_{each.__name__.lstrip('_')}{name}"
            # A pydantic model's are its dictionaries.
            if name not in ("__dict__", "__weakref__", "__pydantic_fields_set__"):
                found.append(name)
    return tuple(found)


def state_of(value: Any) -> list[_Inside]:
    """What an object keeps in its dictionary."""
    kept = getattr(value, "__dict__", None)
    return list(kept.items()) if isinstance(kept, Mapping) else []


def members_of(error: BaseException) -> Iterator[str]:
    """What C keeps of an exception outside its dictionary, such as an OSError's strerror."""
    for kind in type(error).__mro__:
        for name, found in vars(kind).items():
            kept = isinstance(found, types.MemberDescriptorType | types.GetSetDescriptorType)
            if kept and not name.startswith("__"):
                yield name


def _of_a_mapping(value: Mapping[Any, Any]) -> Iterator[_Inside]:
    for key, each in value.items():
        yield "<key>", key
        yield key, each


def _of_an_array(value: Any) -> list[_Inside]:
    # Of text, objects and records by its items, of bytes as it lies in memory; numbers hold none.
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    if kind and kind in "OSUVT":
        return list(enumerate(value.ravel().tolist()))
    return [("", value.tobytes())] if getattr(value, "itemsize", 1) == 1 else []


def _of_a_table(value: Any) -> list[_Inside]:
    found: list[_Inside] = [("columns", list(value.columns))]
    if hasattr(value, "index"):
        found += [("index", value.index.tolist()), ("index", list(value.index.names))]
    # A column of numbers holds none, and is the large part of most tables.
    columns = value.items() if hasattr(value, "items") else zip(value.columns, value, strict=True)
    for name, column in columns:
        if getattr(column.dtype, "kind", "O") not in "biufcmM":
            found.append((name, column.tolist() if hasattr(column, "tolist") else list(column)))
    return found


def _of_an_exception(error: BaseException) -> Iterator[_Inside]:
    yield "args", error.args
    yield "__cause__", error.__cause__
    yield "__context__", error.__context__
    for name in members_of(error):
        yield name, getattr(error, name, None)
    yield "<shown>", str(error)
