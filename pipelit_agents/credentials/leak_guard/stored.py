"""List what a value stores: items, attributes, slots, fields in C, closures, local variables.

These are read from the interpreter's own structures, so no foreign code runs, except for arrays of
``array``, NumPy and pandas, whose own code returns their items. Only a value's own code knows in
which other forms it can be written: see ``own_forms``, which also runs ``items_look`` for
collections of other types. Nothing here raises.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import io
import ipaddress
import os
import pathlib
import re
import sys
import types
import uuid
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any, Final, TypeVar
from zoneinfo import ZoneInfo

import ormsgpack

from pipelit_agents.credentials.leak_guard.recognition import MIN_LENGTH

__all__ = [
    "Child",
    "Field",
    "Look",
    "Unsearched",
    "by_type",
    "dictionary_of",
    "fields_in_c",
    "is_opaque",
    "is_trusted",
    "is_trusted_array",
    "items_look",
    "overrides",
    "state_of",
    "stored_children",
    "stored_values",
]

Child = tuple[object, object]
# Any: each look fits the types that its table or its caller names for it.
Look = Callable[[Any], Iterable[Child]]
T = TypeVar("T")
Field = MemberDescriptorType | GetSetDescriptorType

# Arrays of wide numbers up to this size in bytes are also read as text.
_MAX_WIDE_ARRAY: Final = 65_536
_SECRET_FREE_PACKAGES: Final = frozenset({"langchain_core", "langgraph", "pipelit_agents"})
# Types from these packages write only what they store, so their own forms add nothing.
_TRUSTED_PACKAGES: Final = _SECRET_FREE_PACKAGES | {
    *("collections", "dataclasses", "enum", "pydantic", "reprlib", "typing")
}
_SKIPPED_ATTRIBUTES: Final = frozenset(
    {"__dict__", "__weakref__", "_abc_impl", "__module__", "__doc__"}
)
# The instance dictionary is read by state_of, and frames by masking; fields_set holds only names.
_SKIPPED_FIELDS: Final = _SKIPPED_ATTRIBUTES | {
    *("__traceback__", "__suppress_context__", "__pydantic_fields_set__"),
    # Offsets of pointers.
    *("__vectorcalloffset__", "__dictoffset__", "__weaklistoffset__"),
}


def by_type(function: Callable[[type], T]) -> Callable[[type], T]:
    """Cache the results of a function of a type."""
    return lru_cache(maxsize=4096)(function)


class Unsearched:
    """Mark a class whose instances hold secrets by design, so that no search looks into them."""


def stored_children(value: object) -> list[Child]:
    """Return the stored children of a value, each with its position, key or name."""
    found: list[Child] = []
    for look in _looks_at(type(value)):
        with suppress(Exception):
            found += look(value)
    return found


def stored_values(value: object) -> list[object]:
    """Return the stored children of a value, without their keys."""
    return [inner for _, inner in stored_children(value)]


def state_of(value: object) -> list[Child]:
    """Return the items of an object's instance dictionary."""
    return list(dict.items(dictionary_of(value)))


def dictionary_of(value: object) -> dict[object, object]:
    """Return an object's instance dictionary; another one that is empty if it has none."""
    # Not by getattr: a class may override it.
    stored = _dictionary(type(value))
    try:
        found: object = value.__dict__ if stored is None else stored.__get__(value)
    except Exception:
        return {}
    return found if isinstance(found, dict) else {}


@by_type
def _dictionary(kind: type) -> Field | None:
    found = [each.__dict__.get("__dict__") for each in kind.__mro__]
    return next((each for each in found if isinstance(each, GetSetDescriptorType)), None)


@by_type
def fields_in_c(kind: type) -> tuple[tuple[str, Field], ...]:
    """Return the slots of a type and its other fields in C, such as ``strerror`` of an OSError."""
    # Only exceptions have computed fields that are data: other types' may run any code.
    fields = Field if issubclass(kind, BaseException) else MemberDescriptorType
    return tuple(
        (name, field)
        for each in kind.__mro__
        for name, field in each.__dict__.items()
        if isinstance(field, fields) and name not in _SKIPPED_FIELDS
    )


@by_type
def _looks_at(kind: type) -> tuple[Look, ...]:
    """Return how to look into values of a type without running foreign code."""
    try:
        if is_opaque(kind):
            return ()
        if kind in _SELF_DESCRIBING:
            return (lambda value: [("", str(value))],)
        looks = [next((look for base, look in _BY_BASE if issubclass(kind, base)), None)]
        if looks == [None] and is_trusted_array(kind):
            looks = [items_look(kind)]
        if not issubclass(kind, type | types.FunctionType):
            if any("__dict__" in each.__dict__ for each in kind.__mro__):
                looks.append(_of_attributes)
            if fields_in_c(kind):
                looks.append(_of_fields)
            if dataclasses.is_dataclass(kind):
                # Defaults are stored on the class, and are written too.
                defaults = [(each.name, each.default) for each in dataclasses.fields(kind)]
                looks.append(lambda value: defaults)
        return tuple(look for look in looks if look is not None)
    except Exception:
        # A foreign metaclass raised.
        return ()


def is_opaque(kind: type) -> bool:
    """Return whether a type's values refer to the program, not to data, or hold secrets."""
    return issubclass(kind, (*_PROGRAM, Unsearched))


def overrides(kind: type, name: str) -> bool:
    """Return whether a type has a method of this name that may write more than a value stores."""
    owner = next((each for each in kind.__mro__ if name in each.__dict__), object)
    method = owner.__dict__.get(name)
    if method is None or owner in _C_TYPES or is_trusted(owner.__module__):
        return False
    if issubclass(owner, BaseException) and owner.__module__ == "builtins":
        return False
    # Dataclasses and named tuples have methods that the standard library generates.
    variables = getattr(method, "__globals__", None)
    return not (isinstance(variables, dict) and is_trusted(variables.get("__name__")))


def is_trusted(module: object) -> bool:
    """Return whether a module is of a package whose code writes only what values store."""
    return isinstance(module, str) and (
        module.partition(".")[0] in _TRUSTED_PACKAGES or module.startswith("namedtuple_")
    )


def is_trusted_array(kind: type) -> bool:
    """Return whether a type is of a library of arrays, whose own code may run at once."""
    return kind.__module__.partition(".")[0] in ("array", "numpy", "pandas")


def items_look(kind: type) -> Look | None:
    """Return how to read the items of a type that no table knows; iterating may run any code."""
    if any(issubclass(kind, base) for base, _ in _BY_BASE):
        return None
    # Inspect the type and not the value: a failing hasattr on a pydantic model is slow.
    if hasattr(kind, "tolist"):
        if hasattr(kind, "tobytes"):
            return _of_an_array
        if hasattr(kind, "numpy"):
            # A tensor holds only numbers, and iterating over it makes a tensor for each.
            return None
    if hasattr(kind, "columns") and hasattr(kind, "to_numpy"):
        return _of_a_table
    if hasattr(kind, "tolist") and hasattr(kind, "dtype"):
        return _of_a_column
    if issubclass(kind, os.PathLike):
        return lambda value: [("", os.fspath(value))]
    if not (issubclass(kind, Collection) and overrides(kind, "__iter__")):
        return None
    return enumerate if not issubclass(kind, Mapping) else lambda value: _with_keys(value.items())


def _of_attributes(value: object) -> Iterator[Child]:
    return _with_names(state_of(value))


def _with_names(attributes: Iterable[Child]) -> Iterator[Child]:
    for name, each in attributes:
        # Names are written too. Most are too short to be secrets.
        if type(name) is not str or len(name) >= MIN_LENGTH:
            yield "<name>", name
        yield name, each


def _of_fields(value: object) -> Iterator[Child]:
    for name, field in fields_in_c(type(value)):
        # A slot may be empty.
        with suppress(Exception):
            yield name, field.__get__(value)


def _of_a_moment(value: datetime | time) -> list[Child]:
    # A time zone may be of any class, and formatting the value would run its code.
    base = datetime if isinstance(value, datetime) else time
    zone = base.tzinfo.__get__(value)
    if type(value) is base and (zone is None or type(zone) is timezone):
        return [("", str(value)), ("", value.isoformat()), ("tzinfo", zone)]
    return [("tzinfo", zone)]


def _with_keys(items: Iterable[Child]) -> Iterator[Child]:
    for key, each in items:
        yield "<key>", key
        yield key, each


def _of_a_function(value: types.FunctionType) -> Iterator[Child]:
    module = value.__module__ if isinstance(value.__module__, str) else ""
    if _is_importable(value) or module.partition(".")[0] in _SECRET_FREE_PACKAGES:
        # It is pickled as a reference to its name.
        return
    yield "__name__", value.__name__
    yield "__defaults__", value.__defaults__
    yield "__kwdefaults__", value.__kwdefaults__
    yield from zip(value.__code__.co_freevars, value.__closure__ or (), strict=False)
    yield from _with_names(value.__dict__.items())


def _of_a_class(value: type) -> Iterator[Child]:
    yield "", type.__repr__(value)
    if not _is_importable(value):
        attributes = type.__getattribute__(value, "__dict__").items()
        yield from _with_names(each for each in attributes if each[0] not in _SKIPPED_ATTRIBUTES)


def _is_importable(value: type | types.FunctionType) -> bool:
    """Return whether a function or class can be imported by its name, as pickle requires."""
    name = value.__qualname__
    if not isinstance(name, str) or "<" in name:
        return False
    found: object = sys.modules.get(value.__module__)
    for part in name.split("."):
        found = getattr(found, "__dict__", {}).get(part)
        if isinstance(found, staticmethod | classmethod):
            found = found.__func__
    return found is value


def _of_a_frame(value: object) -> list[Child]:
    # The local variables of a suspended generator or coroutine.
    frames = [getattr(value, name, None) for name in ("gi_frame", "cr_frame", "ag_frame")]
    return [item for frame in frames if frame for item in frame.f_locals.items()]


_ITERABLES: Final = (list, tuple, set, frozenset, deque)
_BY_BASE: Final[tuple[tuple[Any, Look], ...]] = (
    (dict, lambda value: _with_keys(dict.items(value))),
    *((each, lambda value, each=each: enumerate(each.__iter__(value))) for each in _ITERABLES),
    ((str, bytes, bytearray, memoryview, int, float, complex), lambda value: []),
    ((type({}.keys()), type({}.values()), type({}.items())), enumerate),
    ((datetime, time), _of_a_moment),
    (date, lambda value: [("", f"{value.year:04}-{value.month:02}-{value.day:02}")]),
    (types.FunctionType, _of_a_function),
    ((types.BuiltinFunctionType, types.MethodWrapperType), lambda v: [("__self__", v.__self__)]),
    (types.CellType, lambda value: [("", value.cell_contents)]),
    ((types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType), _of_a_frame),
    (type, _of_a_class),
    (uuid.UUID, lambda value: [("", str(uuid.UUID(int=value.int))), ("", f"{value.int:032x}")]),
    (io.StringIO, lambda value: [("", io.StringIO.getvalue(value))]),
    (io.BytesIO, lambda value: [("", io.BytesIO.getvalue(value))]),
    (ormsgpack.Ext, lambda value: [("", ormsgpack.packb(value))]),
    # These store everything in fields.
    ((BaseException, types.MethodType, staticmethod, classmethod, property), lambda value: []),
    ((functools.partial, range, slice, re.Pattern, re.Match), lambda value: []),
)
# The text of these values is complete, and only the standard library's code produces it.
_SELF_DESCRIBING: Final = frozenset(
    {
        *(ipaddress.IPv4Address, ipaddress.IPv4Interface, ipaddress.IPv4Network),
        *(ipaddress.IPv6Address, ipaddress.IPv6Interface, ipaddress.IPv6Network),
        *(pathlib.PosixPath, pathlib.PurePosixPath, pathlib.WindowsPath, pathlib.PureWindowsPath),
        *(Decimal, Fraction, date, timedelta, timezone, ZoneInfo),
    }
)
_WITHOUT_CHILDREN: Final = (object, type(...), type(NotImplemented), types.SimpleNamespace)
# The methods of these types display and pickle only what is read above.
_C_TYPES: Final = frozenset(
    {
        *(each for base, _ in _BY_BASE for each in (base if isinstance(base, tuple) else (base,))),
        *_WITHOUT_CHILDREN,
        *_SELF_DESCRIBING,
    }
)
# These refer to the program, not to data, and are never written out.
_PROGRAM: Final = (
    *(types.ModuleType, types.CodeType, types.FrameType, types.TracebackType),
    *(types.WrapperDescriptorType, types.MethodDescriptorType, types.ClassMethodDescriptorType),
    *(GetSetDescriptorType, MemberDescriptorType),
    # The loop refers to everything that runs in the process, and the error of each request on a
    # connection refers to the loop: searching it took ten seconds.
    *(asyncio.AbstractEventLoop, asyncio.BaseTransport),
)


# Arrays and tables of numpy, pandas, polars and array; Any: none of these is imported here


def _of_an_array(value: Any) -> Iterator[Child]:
    # Read text, objects and records item by item, and bytes straight from memory. Large arrays of
    # numbers hold no secrets.
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.ndarray):
        # A masked array displays less than what is serialized.
        value = numpy.asarray(value)
    dtype = getattr(value, "dtype", None)
    kind = getattr(dtype, "kind", "")
    if kind and kind in "OSUVT":
        yield "", repr(dtype)
        yield from enumerate(value.ravel().tolist())
        return
    size = getattr(value, "itemsize", 1)
    wide = size > 1
    if wide and getattr(value, "nbytes", size * len(value)) > _MAX_WIDE_ARRAY:
        return
    yield "", value.tobytes()
    if getattr(value, "typecode", "") == "u":
        yield "", value.tounicode()
    if wide and kind in ("", "b", "i", "u", "f"):
        # The numbers may be code points, or the bytes of a text read as wider numbers.
        found = value.ravel().tolist() if kind else value.tolist()
        yield "", found if isinstance(found, list) else [found]


def _of_a_column(value: Any) -> Iterator[Child]:
    for name in ("name", "names"):
        yield name, getattr(value, name, None)
    # Skip numbers: they hold no secrets, and are the largest part of most tables.
    if getattr(value.dtype, "kind", "O") not in "biufcmM":
        # Categories are serialized even if no row uses them.
        yield "categories", getattr(value.dtype, "categories", None)
        yield "index", getattr(value, "index", None)
        yield from enumerate(value.tolist())


def _of_a_table(value: Any) -> Iterator[Child]:
    yield "columns", value.columns
    yield "index", getattr(value, "index", None)
    yield from value.items() if hasattr(value, "items") else zip(value.columns, value, strict=True)
