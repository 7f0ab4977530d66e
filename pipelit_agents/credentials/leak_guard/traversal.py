"""What a value holds: the one place that knows how containers and objects keep things.

A value is looked into in two ways. What it keeps (items, attributes, slots, closures) is read from
the interpreter's own structures, which runs nobody's code. What it could be written as (its ``str``
and ``repr``, its pickle, what LangGraph's serializer writes of it) is asked of the value, which may
run anybody's code: on a thread of its own, and for a limited time. So a type that nobody here knows
is searched too.

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
    "Answer",
    "Unsearched",
    "answers",
    "asks",
    "contents",
    "insides",
    "is_a_plain_model",
    "kept_in",
    "members_of",
    "shown",
    "slots_of",
    "state_of",
]

_Inside = tuple[Any, Any]
_Look = Callable[[Any], Iterable[_Inside]]

# Seconds that the code of one value may take, and that of all values of one search.
PATIENCE: Final = 2.0
SECONDS: Final = 6.0
_HANGS: Final = f"its own code doesn't end within {PATIENCE:g} s"
# Seconds for which values of a type aren't asked in a way that one of them didn't answer.
_NOT_ASKED_AGAIN: Final = 300.0
# How many parts of something that makes them while it is read are looked at.
_ITEMS: Final = 250_000
# Up to so many bytes, an array of wide numbers is read as text too.
_WIDE: Final = 65_536
_APART: Final = Apart(most=16)

# Held by reference, never written out: what they refer to is the program, not data.
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
# Their text says all of them, and comes from the standard library alone.
_VALUES: Final = frozenset(
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
# What these show is what they keep, so it needn't be asked for.
_SHOWING_WHAT_THEY_KEEP: Final = frozenset(
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
_WITHOUT_SECRETS: Final = frozenset({"langchain_core", "langgraph", "pipelit_agents"})
_CODE: Final = frozenset(
    {types.FunctionType, types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType}
)
# What LangGraph's serializer calls, of any type that has it.
_HOOKS: Final = ("model_dump", "get_secret_value", "dict", "_asdict")
_NOT_LOOKED_AT: Final = frozenset({"__dict__", "__weakref__", "_abc_impl", "__module__", "__doc__"})


class Unsearched:
    """What no search looks into, because it holds the secrets by its nature."""


class Answer(NamedTuple):
    """What a value said when it was asked how it could be written.

    Attributes:
        parts: What was found, each with its place.
        unknown: Why it can't be known what the value holds; empty where it can.
    """

    parts: list[_Inside]
    unknown: str


class _Plan(NamedTuple):
    """How to look into values of a type: without running code of others, and by asking."""

    kept: tuple[_Look, ...]
    asked: tuple[_Look, ...]


def insides(value: Any, *, code: bool = False) -> list[_Inside]:
    """What a value holds, one level deep, each with its place: a position, a key or a name.

    Args:
        value: Anything.
        code: Whether to look into functions, and into generators that wait to go on. What only
            shows values doesn't show these.
    """
    kind: Any = type(value)
    if not code and kind in _CODE:
        return []
    found = _kept(value)
    if asks(kind):
        found += answers([value])[0].parts
    return found


def insides_of(values: Sequence[Any]) -> list[list[_Inside]]:
    """As :func:`insides` of each: those that have to be asked are asked on one thread, in turn."""
    found = [[] if type(each) in _CODE else _kept(each) for each in values]
    asked = [
        place for place, each in enumerate(values) if type(each) not in _CODE and asks(type(each))
    ]
    replies = answers([values[place] for place in asked], seconds=SECONDS * len(asked))
    for place, reply in zip(asked, replies, strict=True):
        found[place] += reply.parts
    return found


def contents(value: Any) -> Any:
    """What a value keeps, without the places, and without asking it."""
    kind: Any = type(value)
    if is_a_plain_model(kind):
        with suppress(Exception):
            extra, private = value.__pydantic_extra__, value.__pydantic_private__
            kept = value.__dict__
            return [kept, extra, private] if extra or private else kept
    return [inner for _, inner in _kept(value)]


def kept_in(value: Any) -> list[_Inside]:
    """What a value keeps, each with its place, without asking it: nobody's code runs."""
    return _kept(value)


def asks(kind: Any) -> bool:
    """Whether values of a type have to be asked, too."""
    return bool(_plan(kind).asked)


def shown(value: Any) -> str:
    """The ``str`` and ``repr`` of a value; empty where it has none, or takes too long."""
    found: list[str] = []

    def look(each: Any) -> list[_Inside]:
        for show in (str, repr):
            with suppress(Exception):
                found.append(show(each))
        return []

    _ask([(value, (look,))], SECONDS)
    return "".join(found)


def answers(values: Sequence[Any], *, seconds: float = SECONDS) -> list[Answer]:
    """Ask values how they could be written.

    Their own code runs for this, on another thread: what it raises is no answer, and what it
    doesn't finish in time is given up.

    Args:
        values: One answer comes for each, in their order.
        seconds: How long it may take in all.
    """
    kinds: list[Any] = [type(each) for each in values]
    return _ask(
        [(each, _plan(kind).asked) for each, kind in zip(values, kinds, strict=True)], seconds
    )


def _ask(questions: Sequence[tuple[Any, tuple[_Look, ...]]], seconds: float) -> list[Answer]:
    made: list[Answer] = []
    until = monotonic() + seconds
    while len(made) < len(questions):
        left = until - monotonic()
        if left <= 0:
            reason = f"its parts together take longer than {SECONDS:g} s"
            return made + [_unanswered(value, [], reason) for value, _ in questions[len(made) :]]
        asking = _Asking(questions[len(made) :])
        reason = _HANGS
        within = min(PATIENCE, left)
        stuck = False
        try:
            _APART.run(asking, within=within)
        except Stuck:
            # With less time than that, or after other values, it may not be this one's doing.
            stuck = within == PATIENCE
        except Exception:
            # None can be started when the interpreter ends.
            reason = "there is no thread to ask it on"
        answered, parts = asking.end()
        made += answered
        # As long as it goes on from value to value, it may.
        if not answered:
            if stuck:
                _HUNG.add(type(questions[len(made)][0]), asking.look)
            made.append(_unanswered(questions[len(made)][0], parts, reason))
    return made


def _unanswered(value: Any, parts: list[_Inside], reason: str) -> Answer:
    # What shows what it keeps has been searched; others hold nobody knows what.
    return Answer(parts, "" if _kept(value) else reason)


class _Hung:
    """Types whose values took too long to answer, so that not each node waits for them again.

    After a while they are asked again: it may have been a database that was slow for once.
    """

    def __init__(self) -> None:
        self._until: WeakKeyDictionary[Any, dict[Any, float]] = WeakKeyDictionary()

    def add(self, kind: Any, look: Any) -> None:
        with suppress(Exception):
            if look not in _plan(kind).asked:
                return
            self._until.setdefault(kind, {})[look] = monotonic() + _NOT_ASKED_AGAIN

    def has(self, kind: Any, look: Any) -> bool:
        if not self._until:
            return False
        with suppress(Exception):
            return self._until.get(kind, {}).get(look, 0.0) > monotonic()
        return False


_HUNG: Final = _Hung()


class _GivenUp(BaseException):
    """Raised in a thread whose value takes too long."""


class _Asking:
    """Asks one value after the other; a thread's work."""

    def __init__(self, questions: Sequence[tuple[Any, tuple[_Look, ...]]]) -> None:
        self._questions = questions
        self._lock = threading.Lock()
        self._over = False
        self._thread = 0
        self._answered: list[Answer] = []
        self._parts: list[_Inside] = []
        self.look: Any = None

    def __call__(self) -> None:
        self._thread = threading.get_ident()
        try:
            for value, looks in self._questions:
                self._parts = []
                self._answered.append(self._answer(value, looks, self._parts))
        except _GivenUp:
            pass
        finally:
            with self._lock:
                self._over = True

    def _answer(self, value: Any, looks: tuple[_Look, ...], parts: list[_Inside]) -> Answer:
        skipped = False
        for look in looks:
            if _HUNG.has(type(value), look):
                skipped = True
                continue
            self.look = look
            try:
                for each in look(value):
                    parts.append(each)
                    if len(parts) > _ITEMS:
                        return Answer(parts, f"it has more than {_ITEMS:,} parts")
            except _GivenUp:
                raise
            except BaseException:  # noqa: S112 - what raises writes nothing, not even by exit()
                continue
        return _unanswered(value, parts, _HANGS) if skipped else Answer(parts, "")

    def end(self) -> tuple[list[Answer], list[_Inside]]:
        """Stop the thread where it still runs, and return what was answered until then."""
        with self._lock:
            if not self._over and self._thread:
                self._over = True
                # An endless loop would take a processor for good. The thread can't end before the
                # lock is released, so that the number is still its own.
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self._thread), ctypes.py_object(_GivenUp)
                )
            return list(self._answered), list(self._parts)


# How to look into a type


def _kept(value: Any) -> list[_Inside]:
    found: list[_Inside] = []
    kind: Any = type(value)
    for look in _plan(kind).kept:
        with suppress(Exception):
            found += look(value)
    return found


@lru_cache(maxsize=4096)
def _plan(kind: Any) -> _Plan:
    try:
        return _planned(kind)
    except Exception:
        # A metaclass of somebody's: nothing of the type itself is asked.
        return _Plan((), (_of_a_text, _of_the_serializer))


def _planned(kind: Any) -> _Plan:
    if issubclass(kind, _OPAQUE) or issubclass(kind, Unsearched):
        return _Plan((), ())
    if kind in _VALUES:
        return _Plan((_of_a_value,), ())
    kept, asked = _by_its_kind(kind)
    if not issubclass(kind, _ATTRIBUTES_ARE_REFERENCES):
        if any("__dict__" in each.__dict__ for each in kind.__mro__):
            kept.append(state_of)
        if slots := _slots_in_c(kind):
            kept.append(lambda value: _of_slots(value, slots))
        if dataclasses.is_dataclass(kind):
            # A default that the class keeps is written too.
            defaults = [(each.name, each.default) for each in dataclasses.fields(kind)]
            kept.append(lambda value: defaults)
    return _Plan(tuple(kept), (*asked, *_forms_of(kind)))


_ATTRIBUTES_ARE_REFERENCES: Final = (type, types.FunctionType)


def _by_its_kind(kind: Any) -> tuple[list[_Look], list[_Look]]:
    """How to look into what isn't an attribute: without running its code, and by running it."""
    for base, look in _BY_BASE:
        if issubclass(kind, base):
            return [look], []
    ours: list[_Look] = []
    trusted = kind.__module__.partition(".")[0] in ("array", "numpy", "pandas")
    # Of the type, not the value: a pydantic model takes its time to say that it has no such thing.
    if hasattr(kind, "tobytes") and hasattr(kind, "tolist"):
        ours.append(_of_an_array)
    elif hasattr(kind, "tolist") and hasattr(kind, "numpy"):
        # A tensor holds numbers only, and would make a tensor of each of them.
        pass
    elif hasattr(kind, "columns") and hasattr(kind, "to_numpy"):
        ours.append(_of_a_table)
    elif hasattr(kind, "tolist") and hasattr(kind, "dtype"):
        ours.append(_of_a_column)
    elif issubclass(kind, Mapping):
        if _is_its_own(kind, "__iter__"):
            ours.append(_of_a_mapping)
    elif issubclass(kind, os.PathLike):
        ours.append(lambda value: [("", os.fspath(value))])
    elif issubclass(kind, Collection) and _is_its_own(kind, "__iter__"):
        ours.append(enumerate)
    return (ours, []) if trusted else ([], ours)


def _forms_of(kind: Any) -> list[_Look]:
    """What to ask of a type whose values may be written as more than what they keep."""
    if issubclass(kind, type):
        return [_of_a_text] if _is_its_own(kind, "__repr__") else []
    if _is_a_table(kind) or issubclass(kind, types.FunctionType):
        return []
    found: list[_Look] = []
    if any(_is_its_own(kind, name) for name in ("__str__", "__repr__")):
        found.append(_of_a_text)
    pickled = ("__reduce__", "__reduce_ex__", "__getstate__", "__getnewargs__")
    if kind in copyreg.dispatch_table or any(_is_its_own(kind, name) for name in pickled):
        found.append(_of_a_pickle)
    if any(_is_its_own(kind, name) for name in _HOOKS) or _is_written_otherwise(kind):
        found.append(_of_the_serializer)
    if found and not issubclass(kind, BaseModel | BaseException):
        found.append(_of_a_buffer)
    return found


def _is_a_table(kind: Any) -> bool:
    return hasattr(kind, "tolist") or (hasattr(kind, "columns") and hasattr(kind, "to_numpy"))


def _is_its_own(kind: Any, name: str) -> bool:
    """Whether a type's method may tell more than what its values keep."""
    owner = next((each for each in kind.__mro__ if name in each.__dict__), object)
    method = owner.__dict__.get(name)
    if method is None or owner in _KEPT_IN_C or _is_of_the_trusted(owner.__module__):
        return False
    if issubclass(owner, BaseException) and owner.__module__ == "builtins":
        return False
    # Those of dataclasses and named tuples are made in their modules.
    variables = getattr(method, "__globals__", None)
    made_in = variables.get("__name__") if isinstance(variables, dict) else None
    return not _is_of_the_trusted(made_in)


def _is_of_the_trusted(module: Any) -> bool:
    if not isinstance(module, str):
        return False
    return module.partition(".")[0] in _SHOWING_WHAT_THEY_KEEP or module.startswith("namedtuple_")


def _is_written_otherwise(kind: Any) -> bool:
    """Whether a pydantic model says itself how it is written."""
    decorators = getattr(kind, "__pydantic_decorators__", None)
    names = ("computed_fields", "field_serializers", "model_serializers")
    return any(getattr(decorators, name, None) for name in names)


@lru_cache(maxsize=4096)
def is_a_plain_model(kind: Any) -> bool:
    """Whether a type is a pydantic model that keeps nothing in slots of its own."""
    try:
        plain = issubclass(kind, BaseModel) and kind.__getattribute__ is object.__getattribute__
        return plain and not _plan(kind).asked and set(slots_of(kind)) <= _OF_MODELS
    except Exception:
        return False


_OF_MODELS: Final = frozenset({"__pydantic_extra__", "__pydantic_private__"})


@lru_cache(maxsize=4096)
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


def _slots_in_c(kind: Any) -> tuple[tuple[str, Any], ...]:
    # Not by getattr: a class may have taken that over.
    found = [(each, name) for name in slots_of(kind) for each in kind.__mro__]
    members = [(name, each.__dict__.get(name)) for each, name in found]
    return tuple((n, each) for n, each in members if isinstance(each, types.MemberDescriptorType))


def _of_slots(value: Any, slots: tuple[tuple[str, Any], ...]) -> Iterator[_Inside]:
    for name, member in slots:
        # It may be empty.
        with suppress(AttributeError):
            yield name, member.__get__(value)


@lru_cache(maxsize=4096)
def _dictionary(kind: Any) -> Any:
    found = [each.__dict__.get("__dict__") for each in kind.__mro__]
    return next((each for each in found if isinstance(each, types.GetSetDescriptorType)), None)


def state_of(value: Any) -> list[_Inside]:
    """What an object keeps in its dictionary."""
    # Not by getattr: a class may have taken that over.
    kind: Any = type(value)
    kept = _dictionary(kind)
    try:
        found = value.__dict__ if kept is None else kept.__get__(value)
    except Exception:
        return []
    return list(dict.items(found)) if isinstance(found, dict) else []


def members_of(error: BaseException) -> Iterator[str]:
    """What C keeps of an exception outside its dictionary, such as an OSError's strerror."""
    for kind in type(error).__mro__:
        for name, found in vars(kind).items():
            kept = isinstance(found, types.MemberDescriptorType | types.GetSetDescriptorType)
            if kept and not name.startswith("__"):
                yield name


# What is read, without running anybody's code


def _of_a_value(value: Any) -> list[_Inside]:
    return [("", str(value))]


def _of_a_moment(value: Any) -> list[_Inside]:
    # Its zone may be anybody's, and writes itself.
    base = datetime if isinstance(value, datetime) else time
    zone = base.tzinfo.__get__(value)
    if type(value) is base and (zone is None or type(zone) is timezone):
        return [("", str(value)), ("", value.isoformat()), ("tzinfo", zone)]
    return [("tzinfo", zone)]


def _of_items(value: Any) -> Iterator[_Inside]:
    for key, each in dict.items(value):
        yield "<key>", key
        yield key, each


def _of_a_defaultdict(value: Any) -> Iterator[_Inside]:
    yield "default_factory", value.default_factory
    yield from _of_items(value)


def _of_an_exception(error: BaseException) -> Iterator[_Inside]:
    yield "args", BaseException.args.__get__(error)  # type: ignore[attr-defined]
    yield "__cause__", BaseException.__cause__.__get__(error)  # type: ignore[union-attr]
    yield "__context__", BaseException.__context__.__get__(error)  # type: ignore[union-attr]
    for name in members_of(error):
        with suppress(Exception):
            yield name, object.__getattribute__(error, name)


def _of_a_partial(value: Any) -> list[_Inside]:
    kept = functools.partial.__reduce__(value)[2]
    return [("func", kept[0]), ("args", kept[1]), ("keywords", kept[2])]


def _of_a_function(value: Any) -> Iterator[_Inside]:
    module = value.__module__ if isinstance(value.__module__, str) else ""
    if _is_named(value) or module.partition(".")[0] in _WITHOUT_SECRETS:
        # It is written as a reference to its name.
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


def _of_a_class(value: Any) -> Iterator[_Inside]:
    yield "", type.__repr__(value)
    if not _is_named(value):
        for name, each in type.__getattribute__(value, "__dict__").items():
            if name not in _NOT_LOOKED_AT:
                yield name, each


def _is_named(value: Any) -> bool:
    """Whether a function or class is what its module knows under its name, as pickle asks."""
    name = value.__qualname__
    if not isinstance(name, str) or "<" in name:
        return False
    found: Any = sys.modules.get(value.__module__)
    for part in name.split("."):
        found = getattr(found, "__dict__", {}).get(part)
        if isinstance(found, staticmethod | classmethod):
            found = found.__func__
    return found is value


def _of_a_bound_method(value: Any) -> list[_Inside]:
    return [("__self__", value.__self__), ("__func__", getattr(value, "__func__", None))]


def _of_a_builtin(value: Any) -> list[_Inside]:
    return [("__self__", value.__self__)]


def _of_a_wrapper(value: Any) -> list[_Inside]:
    return [("__func__", value.__func__)]


def _of_a_property(value: Any) -> list[_Inside]:
    return [("fget", value.fget), ("fset", value.fset), ("fdel", value.fdel)]


def _of_a_frame(value: Any) -> list[_Inside]:
    # Of what was begun and waits to go on.
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
_NOTHING_ELSE: Final = (object, type(...), type(NotImplemented), types.SimpleNamespace)
# Whose own methods show and pickle what is read above.
_KEPT_IN_C: Final = frozenset(
    {
        each
        for base in (*(base for base, _ in _BY_BASE), _NOTHING_ELSE, tuple(_VALUES))
        for each in (base if isinstance(base, tuple) else (base,))
    }
)


# What is asked, and may run anybody's code


def _of_a_text(value: Any) -> Iterator[_Inside]:
    for show in (str, repr):
        with suppress(Exception):
            yield "", show(value)


def _of_a_pickle(value: Any) -> Iterator[_Inside]:
    made = copyreg.dispatch_table.get(type(value))
    reduced = made(value) if made is not None else value.__reduce_ex__(2)
    if not isinstance(reduced, tuple):
        return
    for part in reduced[:3]:
        yield "", part
    for items in reduced[3:5]:
        yield from enumerate(items or ())


def _of_the_serializer(value: Any) -> Iterator[_Inside]:
    # Late: LangGraph isn't imported with the package.
    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

    yield "", JsonPlusSerializer().dumps_typed(value)[1]


def _of_a_buffer(value: Any) -> Iterator[_Inside]:
    with memoryview(value) as seen:
        yield "", seen.tobytes()


def _of_a_mapping(value: Mapping[Any, Any]) -> Iterator[_Inside]:
    for key, each in value.items():
        yield "<key>", key
        yield key, each


def _of_an_array(value: Any) -> Iterator[_Inside]:
    # Of text, objects and records by its items, of bytes as it lies in memory; numbers hold none.
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.ndarray):
        # A masked array shows less than is written of it.
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
        elif getattr(value, "nbytes", size * len(value)) <= _WIDE:
            # Bytes of text that were taken for wider numbers, or code points.
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
    found: list[_Inside] = [("name", getattr(value, "name", None)), *_categories(value)]
    if hasattr(value, "index"):
        found.append(("index", value.index))
    return [*found, *enumerate(value.tolist())]


def _categories(column: Any) -> list[_Inside]:
    # They are written whether or not the column has one of them.
    found = getattr(column.dtype, "categories", None)
    return [] if found is None else [("categories", list(found))]


def _of_a_table(value: Any) -> list[_Inside]:
    found: list[_Inside] = [("columns", list(value.columns))]
    if hasattr(value, "index"):
        found += [("index", value.index.tolist()), ("index", list(value.index.names))]
    # A column of numbers holds none, and is the large part of most tables.
    columns = value.items() if hasattr(value, "items") else zip(value.columns, value, strict=True)
    for name, column in columns:
        if getattr(column.dtype, "kind", "O") not in "biufcmM":
            found.append((name, column.tolist() if hasattr(column, "tolist") else list(column)))
            found += _categories(column)
    return found
