"""List what a value contains. Only this module knows how containers and objects store their parts.

There are two ways to look into a value:

- Its stored children (items, attributes, slots, closures) are read from the interpreter's own
  structures. This runs no foreign code.
- Its own forms are what its type makes of it: ``str`` and ``repr``, its pickle, and what
  LangGraph's serializer writes. Producing them may run any code, so it happens on a separate
  thread and for a limited time. This way, values of unknown types are searched too.

Nothing here raises.
"""

from __future__ import annotations

import copyreg
import ctypes
import dataclasses
import functools
import io
import os
import re
import sys
import threading
import types
import uuid
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from pathlib import PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from time import monotonic
from typing import Any, Final, NamedTuple
from weakref import WeakKeyDictionary
from zoneinfo import ZoneInfo

import ormsgpack
from pydantic import BaseModel

from pipelit_agents._threads import Apart, Stuck

__all__ = [
    "OwnForms",
    "Unsearched",
    "children_of",
    "children_of_each",
    "display_text",
    "has_own_forms",
    "is_plain_model",
    "members_of",
    "own_forms",
    "slots_of",
    "state_of",
    "stored_children",
    "stored_values",
]

_Child = tuple[Any, Any]
_Look = Callable[[Any], Iterable[_Child]]

# Seconds allowed for the code of one value, and for the code of all values in one search.
VALUE_TIMEOUT: Final = 2.0
SEARCH_TIMEOUT: Final = 6.0
_TIMED_OUT_REASON: Final = f"its own code doesn't end within {VALUE_TIMEOUT:g} s"
# Seconds until a form that timed out for a type is requested from that type again.
_RETRY_INTERVAL: Final = 300.0
# The most parts to read from an iterable that makes them on the fly.
_MAX_PARTS: Final = 250_000
# Arrays of wide numbers up to this size in bytes are also read as text.
_MAX_WIDE_ARRAY: Final = 65_536
_WORKERS: Final = Apart(most=16)

# These refer to the program, not to data, and are never written out.
_OPAQUE: Final = (
    types.ModuleType,
    types.CodeType,
    types.FrameType,
    types.TracebackType,
    types.WrapperDescriptorType,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
)
# The text of these values is complete, and only the standard library's code produces it.
_SELF_DESCRIBING: Final = frozenset(
    {
        Decimal,
        Fraction,
        IPv4Address,
        IPv4Interface,
        IPv4Network,
        IPv6Address,
        IPv6Interface,
        IPv6Network,
        PosixPath,
        PurePosixPath,
        PureWindowsPath,
        WindowsPath,
        ZoneInfo,
        date,
        timedelta,
        timezone,
    }
)
# Types from these packages write only what they store, so their own forms add nothing.
_TRUSTED_PACKAGES: Final = frozenset(
    {
        "collections",
        "dataclasses",
        "enum",
        "langchain_core",
        "langgraph",
        "pipelit_agents",
        "pydantic",
        "reprlib",
        "typing",
    }
)
_SECRET_FREE_PACKAGES: Final = frozenset({"langchain_core", "langgraph", "pipelit_agents"})
_CODE_TYPES: Final = frozenset(
    {types.FunctionType, types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType}
)
# LangGraph's serializer calls these methods on any type that has them.
_SERIALIZER_HOOKS: Final = ("model_dump", "get_secret_value", "dict", "_asdict")
_SKIPPED_ATTRIBUTES: Final = frozenset(
    {"__dict__", "__weakref__", "_abc_impl", "__module__", "__doc__"}
)


class Unsearched:
    """Mark a class whose instances hold secrets by design, so that no search looks into them."""


class OwnForms(NamedTuple):
    """The forms that a value's own code produced.

    Attributes:
        parts: The parts that were found, each with its key.
        unknown: The reason why the value could not be searched completely; empty if it was.
    """

    parts: list[_Child]
    unknown: str


class _Plan(NamedTuple):
    """How to look into values of a type: without running foreign code, and by running it."""

    stored: tuple[_Look, ...]
    own_forms: tuple[_Look, ...]


def children_of(value: Any, *, code: bool = False) -> list[_Child]:
    """Return the children of a value, one level deep, each with its position, key or name.

    Args:
        value: Any value.
        code: Whether to look into functions and suspended generators. Code that only displays
            values doesn't display these.
    """
    kind: Any = type(value)
    if not code and kind in _CODE_TYPES:
        return []
    found = _stored_children(value)
    if has_own_forms(kind):
        found += own_forms([value])[0].parts
    return found


def children_of_each(values: Sequence[Any]) -> list[list[_Child]]:
    """Return the children of each value as :func:`children_of` does, with one thread for all."""
    found = [[] if type(each) in _CODE_TYPES else _stored_children(each) for each in values]
    asked = [
        index
        for index, each in enumerate(values)
        if type(each) not in _CODE_TYPES and has_own_forms(type(each))
    ]
    replies = own_forms([values[index] for index in asked], seconds=SEARCH_TIMEOUT * len(asked))
    for index, reply in zip(asked, replies, strict=True):
        found[index] += reply.parts
    return found


def stored_values(value: Any) -> Any:
    """Return the stored children of a value, without their keys and without running its code."""
    kind: Any = type(value)
    if is_plain_model(kind):
        with suppress(Exception):
            extra, private = value.__pydantic_extra__, value.__pydantic_private__
            stored = value.__dict__
            return [stored, extra, private] if extra or private else stored
    return [inner for _, inner in _stored_children(value)]


def stored_children(value: Any) -> list[_Child]:
    """Return the stored children of a value, each with its key, without running its code."""
    return _stored_children(value)


def has_own_forms(kind: Any) -> bool:
    """Return whether values of a type have own forms that must be searched too."""
    return bool(_plan_for(kind).own_forms)


def display_text(value: Any) -> str:
    """Return the ``str`` and ``repr`` of a value; empty if both fail or take too long."""
    found: list[str] = []

    def look(each: Any) -> list[_Child]:
        for show in (str, repr):
            with suppress(Exception):
                found.append(show(each))
        return []

    _run_all([(value, (look,))], SEARCH_TIMEOUT)
    return "".join(found)


def own_forms(values: Sequence[Any], *, seconds: float = SEARCH_TIMEOUT) -> list[OwnForms]:
    """Return the own forms of values.

    The values' code runs on another thread. A form whose code raises is left out, and code that
    doesn't end in time is interrupted.

    Args:
        values: The values; the result has one entry for each, in the same order.
        seconds: The time limit for all of them together.
    """
    kinds: list[Any] = [type(each) for each in values]
    return _run_all(
        [(each, _plan_for(kind).own_forms) for each, kind in zip(values, kinds, strict=True)],
        seconds,
    )


def _run_all(work: Sequence[tuple[Any, tuple[_Look, ...]]], seconds: float) -> list[OwnForms]:
    made: list[OwnForms] = []
    until = monotonic() + seconds
    while len(made) < len(work):
        left = until - monotonic()
        if left <= 0:
            reason = f"its parts together take longer than {SEARCH_TIMEOUT:g} s"
            return made + [_incomplete(value, [], reason) for value, _ in work[len(made) :]]
        reader = _FormReader(work[len(made) :])
        reason = _TIMED_OUT_REASON
        within = min(VALUE_TIMEOUT, left)
        stuck = False
        try:
            _WORKERS.run(reader, within=within)
        except Stuck:
            # With a shorter limit, the earlier values may have used up the time.
            stuck = within == VALUE_TIMEOUT
        except Exception:
            # No thread can be started while the interpreter shuts down.
            reason = "no thread could be started to run its code"
        finished, parts = reader.end()
        made += finished
        # If some values were finished, the next round continues with the one that was not.
        if not finished:
            if stuck:
                _TIMED_OUT.add(type(work[len(made)][0]), reader.look)
            made.append(_incomplete(work[len(made)][0], parts, reason))
    return made


def _incomplete(value: Any, parts: list[_Child], reason: str) -> OwnForms:
    # A value with stored children has been searched by them. Without any, its content is unknown.
    return OwnForms(parts, "" if _stored_children(value) else reason)


class _TimedOutTypes:
    """Remember types whose code timed out, so that not every node waits for them again.

    An entry expires after a while, because the cause may be temporary, such as a slow database.
    """

    def __init__(self) -> None:
        self._until: WeakKeyDictionary[Any, dict[_Look, float]] = WeakKeyDictionary()

    def add(self, kind: Any, look: _Look | None) -> None:
        with suppress(Exception):
            if look not in _plan_for(kind).own_forms:
                return
            self._until.setdefault(kind, {})[look] = monotonic() + _RETRY_INTERVAL

    def has(self, kind: Any, look: _Look) -> bool:
        if not self._until:
            return False
        with suppress(Exception):
            return self._until.get(kind, {}).get(look, 0.0) > monotonic()
        return False


_TIMED_OUT: Final = _TimedOutTypes()


class _Interrupted(BaseException):
    """Raised in a worker thread whose value takes too long."""


class _FormReader:
    """Read the own forms of one value after the other, on a worker thread."""

    def __init__(self, work: Sequence[tuple[Any, tuple[_Look, ...]]]) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._done = False
        self._thread = 0
        self._finished: list[OwnForms] = []
        self._parts: list[_Child] = []
        self.look: _Look | None = None

    def __call__(self) -> None:
        self._thread = threading.get_ident()
        try:
            for value, looks in self._work:
                self._parts = []
                self._finished.append(self._forms(value, looks, self._parts))
        except _Interrupted:
            pass
        finally:
            with self._lock:
                self._done = True

    def _forms(self, value: Any, looks: tuple[_Look, ...], parts: list[_Child]) -> OwnForms:
        skipped = False
        for look in looks:
            if _TIMED_OUT.has(type(value), look):
                skipped = True
                continue
            self.look = look
            try:
                for each in look(value):
                    parts.append(each)
                    if len(parts) > _MAX_PARTS:
                        return OwnForms(parts, f"it has more than {_MAX_PARTS:,} parts")
            except _Interrupted:
                raise
            except BaseException:  # noqa: S112 - a form that raises is never written, even by exit()
                continue
        return _incomplete(value, parts, _TIMED_OUT_REASON) if skipped else OwnForms(parts, "")

    def end(self) -> tuple[list[OwnForms], list[_Child]]:
        """Stop the thread if it is still running, and return what it has finished."""
        with self._lock:
            if not self._done and self._thread:
                self._done = True
                # An endless loop would occupy a processor forever. The thread can't end before
                # the lock is released, so its identifier isn't reused yet.
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self._thread), ctypes.py_object(_Interrupted)
                )
            return list(self._finished), list(self._parts)


# How to look into a type


def _stored_children(value: Any) -> list[_Child]:
    found: list[_Child] = []
    kind: Any = type(value)
    for look in _plan_for(kind).stored:
        with suppress(Exception):
            found += look(value)
    return found


@lru_cache(maxsize=4096)
def _plan_for(kind: Any) -> _Plan:
    try:
        return _make_plan(kind)
    except Exception:
        # A foreign metaclass raised: use nothing that depends on the type itself.
        return _Plan((), (_of_a_text, _of_the_serializer))


def _make_plan(kind: Any) -> _Plan:
    if issubclass(kind, _OPAQUE) or issubclass(kind, Unsearched):
        return _Plan((), ())
    if kind in _SELF_DESCRIBING:
        return _Plan((_of_a_value,), ())
    stored, by_code = _by_kind(kind)
    if not issubclass(kind, _REFERENCED_BY_NAME):
        if any("__dict__" in each.__dict__ for each in kind.__mro__):
            stored.append(state_of)
        if slots := _slots_in_c(kind):
            stored.append(lambda value: _of_slots(value, slots))
        if dataclasses.is_dataclass(kind):
            # Defaults are stored on the class, and are written too.
            defaults = [(each.name, each.default) for each in dataclasses.fields(kind)]
            stored.append(lambda value: defaults)
    return _Plan(tuple(stored), (*by_code, *_own_forms_of(kind)))


_REFERENCED_BY_NAME: Final = (type, types.FunctionType)


def _by_kind(kind: Any) -> tuple[list[_Look], list[_Look]]:
    """Return how to look into what isn't an attribute: without foreign code, and by running it."""
    for base, look in _BY_BASE:
        if issubclass(kind, base):
            return [look], []
    ours: list[_Look] = []
    trusted = kind.__module__.partition(".")[0] in ("array", "numpy", "pandas")
    # Inspect the type and not the value: a failing hasattr on a pydantic model is slow.
    if hasattr(kind, "tobytes") and hasattr(kind, "tolist"):
        ours.append(_of_an_array)
    elif hasattr(kind, "tolist") and hasattr(kind, "numpy"):
        # A tensor holds only numbers, and iterating over it makes a tensor for each.
        pass
    elif hasattr(kind, "columns") and hasattr(kind, "to_numpy"):
        ours.append(_of_a_table)
    elif hasattr(kind, "tolist") and hasattr(kind, "dtype"):
        ours.append(_of_a_column)
    elif issubclass(kind, Mapping):
        if _overrides(kind, "__iter__"):
            ours.append(_of_a_mapping)
    elif issubclass(kind, os.PathLike):
        ours.append(lambda value: [("", os.fspath(value))])
    elif issubclass(kind, Collection) and _overrides(kind, "__iter__"):
        ours.append(enumerate)
    return (ours, []) if trusted else ([], ours)


def _own_forms_of(kind: Any) -> list[_Look]:
    """Return how to read the own forms of a type whose values may write more than they store."""
    if issubclass(kind, type):
        return [_of_a_text] if _overrides(kind, "__repr__") else []
    if _is_a_table(kind) or issubclass(kind, types.FunctionType):
        return []
    found: list[_Look] = []
    if any(_overrides(kind, name) for name in ("__str__", "__repr__")):
        found.append(_of_a_text)
    pickled = ("__reduce__", "__reduce_ex__", "__getstate__", "__getnewargs__")
    if kind in copyreg.dispatch_table or any(_overrides(kind, name) for name in pickled):
        found.append(_of_a_pickle)
    if any(_overrides(kind, name) for name in _SERIALIZER_HOOKS) or _has_custom_serializer(kind):
        found.append(_of_the_serializer)
    if found and not issubclass(kind, BaseModel | BaseException):
        found.append(_of_a_buffer)
    return found


def _is_a_table(kind: Any) -> bool:
    return hasattr(kind, "tolist") or (hasattr(kind, "columns") and hasattr(kind, "to_numpy"))


def _overrides(kind: Any, name: str) -> bool:
    """Return whether a type has a method of this name that may write more than a value stores."""
    owner = next((each for each in kind.__mro__ if name in each.__dict__), object)
    method = owner.__dict__.get(name)
    if method is None or owner in _C_TYPES or _is_trusted(owner.__module__):
        return False
    if issubclass(owner, BaseException) and owner.__module__ == "builtins":
        return False
    # Dataclasses and named tuples have methods that the standard library generates.
    variables = getattr(method, "__globals__", None)
    made_in = variables.get("__name__") if isinstance(variables, dict) else None
    return not _is_trusted(made_in)


def _is_trusted(module: Any) -> bool:
    if not isinstance(module, str):
        return False
    return module.partition(".")[0] in _TRUSTED_PACKAGES or module.startswith("namedtuple_")


def _has_custom_serializer(kind: Any) -> bool:
    """Return whether a pydantic model has serializers or computed fields of its own."""
    decorators = getattr(kind, "__pydantic_decorators__", None)
    names = ("computed_fields", "field_serializers", "model_serializers")
    return any(getattr(decorators, name, None) for name in names)


@lru_cache(maxsize=4096)
def is_plain_model(kind: Any) -> bool:
    """Return whether a type is a pydantic model without additional slots or own forms."""
    try:
        plain = issubclass(kind, BaseModel) and kind.__getattribute__ is object.__getattribute__
        return plain and not _plan_for(kind).own_forms and set(slots_of(kind)) <= _MODEL_SLOTS
    except Exception:
        return False


_MODEL_SLOTS: Final = frozenset({"__pydantic_extra__", "__pydantic_private__"})


@lru_cache(maxsize=4096)
def slots_of(kind: Any) -> tuple[str, ...]:
    """Return the names of a type's slots, in the form that ``getattr`` takes."""
    found = []
    for each in kind.__mro__:
        slots = each.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name.startswith("__") and not name.endswith("__"):
                name = f"_{each.__name__.lstrip('_')}{name}"
            # Instance dictionaries are read by state_of; fields_set holds only field names.
            if name not in ("__dict__", "__weakref__", "__pydantic_fields_set__"):
                found.append(name)
    return tuple(found)


def _slots_in_c(kind: Any) -> tuple[tuple[str, Any], ...]:
    # Not by getattr: a class may override it.
    found = [(each, name) for name in slots_of(kind) for each in kind.__mro__]
    members = [(name, each.__dict__.get(name)) for each, name in found]
    return tuple((n, each) for n, each in members if isinstance(each, types.MemberDescriptorType))


def _of_slots(value: Any, slots: tuple[tuple[str, Any], ...]) -> Iterator[_Child]:
    for name, member in slots:
        # The slot may be empty.
        with suppress(AttributeError):
            yield name, member.__get__(value)


@lru_cache(maxsize=4096)
def _dictionary(kind: Any) -> Any:
    found = [each.__dict__.get("__dict__") for each in kind.__mro__]
    return next((each for each in found if isinstance(each, types.GetSetDescriptorType)), None)


def state_of(value: Any) -> list[_Child]:
    """Return the items of an object's instance dictionary."""
    # Not by getattr: a class may override it.
    kind: Any = type(value)
    stored = _dictionary(kind)
    try:
        found = value.__dict__ if stored is None else stored.__get__(value)
    except Exception:
        return []
    return list(dict.items(found)) if isinstance(found, dict) else []


def members_of(error: BaseException) -> Iterator[str]:
    """Yield the names of an exception's C members, such as ``strerror`` of an OSError."""
    for kind in type(error).__mro__:
        for name, found in vars(kind).items():
            stored = isinstance(found, types.MemberDescriptorType | types.GetSetDescriptorType)
            if stored and not name.startswith("__"):
                yield name


# Stored children: reading them runs no foreign code


def _of_a_value(value: Any) -> list[_Child]:
    return [("", str(value))]


def _of_a_moment(value: Any) -> list[_Child]:
    # A time zone may be of any class, and formatting the value would run its code.
    base = datetime if isinstance(value, datetime) else time
    zone = base.tzinfo.__get__(value)
    if type(value) is base and (zone is None or type(zone) is timezone):
        return [("", str(value)), ("", value.isoformat()), ("tzinfo", zone)]
    return [("tzinfo", zone)]


def _of_items(value: Any) -> Iterator[_Child]:
    for key, each in dict.items(value):
        yield "<key>", key
        yield key, each


def _of_a_defaultdict(value: Any) -> Iterator[_Child]:
    yield "default_factory", value.default_factory
    yield from _of_items(value)


def _of_an_exception(error: BaseException) -> Iterator[_Child]:
    yield "args", BaseException.args.__get__(error)  # type: ignore[attr-defined]
    yield "__cause__", BaseException.__cause__.__get__(error)  # type: ignore[union-attr]
    yield "__context__", BaseException.__context__.__get__(error)  # type: ignore[union-attr]
    for name in members_of(error):
        with suppress(Exception):
            yield name, object.__getattribute__(error, name)


def _of_a_partial(value: Any) -> list[_Child]:
    stored = functools.partial.__reduce__(value)[2]
    return [("func", stored[0]), ("args", stored[1]), ("keywords", stored[2])]


def _of_a_function(value: Any) -> Iterator[_Child]:
    module = value.__module__ if isinstance(value.__module__, str) else ""
    if _is_importable(value) or module.partition(".")[0] in _SECRET_FREE_PACKAGES:
        # It is pickled as a reference to its name.
        return
    yield "__name__", value.__name__
    yield "__defaults__", value.__defaults__
    yield "__kwdefaults__", value.__kwdefaults__
    names = value.__code__.co_freevars
    for name, cell in zip(names, value.__closure__ or (), strict=False):
        # A cell may be empty.
        with suppress(ValueError):
            yield name, cell.cell_contents
    yield from value.__dict__.items()


def _of_a_class(value: Any) -> Iterator[_Child]:
    yield "", type.__repr__(value)
    if not _is_importable(value):
        for name, each in type.__getattribute__(value, "__dict__").items():
            if name not in _SKIPPED_ATTRIBUTES:
                yield name, each


def _is_importable(value: Any) -> bool:
    """Return whether a function or class can be imported by its name, as pickle requires."""
    name = value.__qualname__
    if not isinstance(name, str) or "<" in name:
        return False
    found: Any = sys.modules.get(value.__module__)
    for part in name.split("."):
        found = getattr(found, "__dict__", {}).get(part)
        if isinstance(found, staticmethod | classmethod):
            found = found.__func__
    return found is value


def _of_a_bound_method(value: Any) -> list[_Child]:
    return [("__self__", value.__self__), ("__func__", getattr(value, "__func__", None))]


def _of_a_builtin(value: Any) -> list[_Child]:
    return [("__self__", value.__self__)]


def _of_a_wrapper(value: Any) -> list[_Child]:
    return [("__func__", value.__func__)]


def _of_a_property(value: Any) -> list[_Child]:
    return [("fget", value.fget), ("fset", value.fset), ("fdel", value.fdel)]


def _of_a_frame(value: Any) -> list[_Child]:
    # The local variables of a suspended generator or coroutine.
    frames = [getattr(value, name, None) for name in ("gi_frame", "cr_frame", "ag_frame")]
    return [item for frame in frames if frame for item in frame.f_locals.items()]


_BY_BASE: Final[tuple[tuple[Any, _Look], ...]] = (
    (defaultdict, _of_a_defaultdict),
    (dict, _of_items),
    (list, lambda value: enumerate(list.__iter__(value))),
    (tuple, lambda value: enumerate(tuple.__iter__(value))),
    (set, lambda value: enumerate(set.__iter__(value))),
    (frozenset, lambda value: enumerate(frozenset.__iter__(value))),
    (deque, lambda value: enumerate(deque.__iter__(value))),
    ((str, bytes, bytearray, memoryview, int, float, complex), lambda value: []),
    ((type({}.keys()), type({}.values()), type({}.items())), enumerate),
    ((datetime, time), _of_a_moment),
    (date, lambda value: [("", f"{value.year:04}-{value.month:02}-{value.day:02}")]),
    (BaseException, _of_an_exception),
    (types.FunctionType, _of_a_function),
    (types.MethodType, _of_a_bound_method),
    ((types.BuiltinFunctionType, types.MethodWrapperType), _of_a_builtin),
    ((staticmethod, classmethod), _of_a_wrapper),
    (property, _of_a_property),
    (types.CellType, lambda value: [("", value.cell_contents)]),
    ((types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType), _of_a_frame),
    (type, _of_a_class),
    (functools.partial, _of_a_partial),
    (range, lambda value: []),
    (slice, lambda value: [("start", value.start), ("stop", value.stop), ("step", value.step)]),
    (re.Pattern, lambda value: [("pattern", value.pattern)]),
    (re.Match, lambda value: [("string", value.string)]),
    (uuid.UUID, lambda value: [("", str(uuid.UUID(int=value.int))), ("", f"{value.int:032x}")]),
    (io.StringIO, lambda value: [("", io.StringIO.getvalue(value))]),
    (io.BytesIO, lambda value: [("", io.BytesIO.getvalue(value))]),
    (ormsgpack.Ext, lambda value: [("", ormsgpack.packb(value))]),
)
_WITHOUT_CHILDREN: Final = (object, type(...), type(NotImplemented), types.SimpleNamespace)
# The methods of these types display and pickle only what is read above.
_C_TYPES: Final = frozenset(
    {
        each
        for base in (*(base for base, _ in _BY_BASE), _WITHOUT_CHILDREN, tuple(_SELF_DESCRIBING))
        for each in (base if isinstance(base, tuple) else (base,))
    }
)


# Own forms: reading them may run any code


def _of_a_text(value: Any) -> Iterator[_Child]:
    for show in (str, repr):
        with suppress(Exception):
            yield "", show(value)


def _of_a_pickle(value: Any) -> Iterator[_Child]:
    made = copyreg.dispatch_table.get(type(value))
    reduced = made(value) if made is not None else value.__reduce_ex__(2)
    if not isinstance(reduced, tuple):
        return
    for part in reduced[:3]:
        yield "", part
    for items in reduced[3:5]:
        yield from enumerate(items or ())


def _of_the_serializer(value: Any) -> Iterator[_Child]:
    # Imported late: importing the package must not import LangGraph.
    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

    yield "", JsonPlusSerializer().dumps_typed(value)[1]


def _of_a_buffer(value: Any) -> Iterator[_Child]:
    with memoryview(value) as seen:
        yield "", seen.tobytes()


def _of_a_mapping(value: Mapping[Any, Any]) -> Iterator[_Child]:
    for key, each in value.items():
        yield "<key>", key
        yield key, each


def _of_an_array(value: Any) -> Iterator[_Child]:
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
    elif kind in ("", "b", "i", "u", "f", "c", "m", "M"):
        size = getattr(value, "itemsize", 1)
        if size == 1:
            yield "", value.tobytes()
        elif getattr(value, "nbytes", size * len(value)) <= _MAX_WIDE_ARRAY:
            # The numbers may be code points, or the bytes of a text read as wider numbers.
            yield "", value.tobytes()
            if getattr(value, "typecode", "") == "u":
                yield "", value.tounicode()
            if kind in ("c", "m", "M"):
                return
            found = value.ravel().tolist() if kind else value.tolist()
            yield "", found if isinstance(found, list) else [found]


def _of_a_column(value: Any) -> Any:
    if getattr(value.dtype, "kind", "O") in "biufcmM":
        return []
    found: list[_Child] = [("name", getattr(value, "name", None)), *_categories(value)]
    if hasattr(value, "index"):
        found.append(("index", value.index))
    return [*found, *enumerate(value.tolist())]


def _categories(column: Any) -> list[_Child]:
    # Categories are serialized even if no row uses them.
    found = getattr(column.dtype, "categories", None)
    return [] if found is None else [("categories", list(found))]


def _of_a_table(value: Any) -> list[_Child]:
    found: list[_Child] = [("columns", list(value.columns))]
    if hasattr(value, "index"):
        found += [("index", value.index.tolist()), ("index", list(value.index.names))]
    # Skip columns of numbers: they hold no secrets, and are the largest part of most tables.
    columns = value.items() if hasattr(value, "items") else zip(value.columns, value, strict=True)
    for name, column in columns:
        if getattr(column.dtype, "kind", "O") not in "biufcmM":
            found.append((name, column.tolist() if hasattr(column, "tolist") else list(column)))
            found += _categories(column)
    return found
