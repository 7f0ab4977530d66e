"""Write values that JSON can't represent, and rebuild them.

A payload may come from an untrusted sender, so nothing is loaded or built by a name in it. A reader
builds the standard library's scalars and containers, each from a strictly validated form, and the
classes that the reader itself names.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum
from functools import cached_property
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from pathlib import (
    Path,
    PosixPath,
    PurePath,
    PurePosixPath,
    PureWindowsPath,
    WindowsPath,
)
from types import MappingProxyType
from typing import Any, Final, NamedTuple, cast
from uuid import UUID
from zoneinfo import ZoneInfo

from langgraph.store.base import Item
from pydantic import BaseModel, RootModel, TypeAdapter
from pydantic.dataclasses import is_pydantic_dataclass
from pydantic.fields import ModelPrivateAttr

from pipelit_agents.errors import PayloadError
from pipelit_agents.protocol.payload import RESERVED, SecretFound, Tagged, WrittenInParts

from .envelope import from_base64, to_base64

__all__ = [
    "Known",
    "KnownClass",
    "class_name",
    "converted",
    "is_carried",
    "is_secret",
    "keyed",
    "lost_parts",
    "object_form",
    "parts_of",
    "rebuilt",
]

# The limit of Decimal128. A larger exponent would make a huge `int` from a few bytes.
_MAX_EXPONENT: Final = 6144
_MAX_DIGITS: Final = 4300
_MAX_NAME_LENGTH: Final = 100
_MAX_LOST_PARTS: Final = 20
_MAX_LOST_LENGTH: Final = 200
_SERIALIZED: Final = "a value that its serializer changes"


class KnownClass(NamedTuple):
    """A class that values may be rebuilt as.

    Attributes:
        cls: The class.
        form: Its form, as :func:`object_form` returns it.
        adapter: Validates the values.
    """

    cls: type
    form: str
    adapter: TypeAdapter[Any]


Known = Mapping[str, KnownClass]


def class_name(cls: type) -> str:
    """Return a class's name in a payload."""
    module, name = getattr(cls, "__module__", ""), getattr(cls, "__qualname__", "")
    return f"{module}.{name}" if type(module) is type(name) is str else ""


def is_secret(cls: type) -> bool:
    """Return whether a class holds secrets: it has ``get_secret_value``, as pydantic's do."""
    return callable(getattr(cls, "get_secret_value", None))


def object_form(cls: type) -> str:
    """Return the form in which a user's class is written; empty for other classes."""
    if issubclass(cls, Enum):
        return "enum"
    if issubclass(cls, BaseModel):
        return "model"
    if dataclasses.is_dataclass(cls):
        return "dataclass"
    if issubclass(cls, tuple) and type(getattr(cls, "_fields", None)) is tuple:
        return "namedtuple"
    return ""


def keyed(pairs: list[tuple[Any, Any]]) -> Any:
    """Tag a dict whose keys JSON can't represent, or that look like a tag."""
    return _tagged("dict", [[key, each] for key, each in pairs])


def converted(value: Any, *, portable: bool) -> Any:
    """Return the written form of a value, or the value itself if JSON can represent it.

    Args:
        value: A value of any type but JSON's own types.
        portable: Write a form for readers in any language, without class names and with lists
            instead of tuples.

    Raises:
        TypeError: The value can't be carried.
    """
    cls = type(value)
    write = _WRITERS.get(cls)
    if write is not None:
        return write(value)
    if is_secret(cls):
        raise SecretFound("a secret doesn't leave its node; open it where it is used")
    form = object_form(cls)
    if form:
        return _object(form, cls, value, portable)
    if issubclass(cls, tuple):
        items = list(tuple.__iter__(value))
        return items if portable else _tagged("tuple", items)
    if issubclass(cls, str | int | float) and cls.__module__ != "numpy":
        return value
    if issubclass(cls, Mapping | list):
        return value
    if issubclass(cls, Item):
        return value.dict()
    if callable(getattr(cls, "dict", None)) and hasattr(cls, "__fields__"):
        return value.dict()  # A pydantic 1 model.
    for base in _BASES:
        if issubclass(cls, base):
            return _as_base(value, base)
    if cls.__module__ == "numpy":
        return _of_numpy(value)
    raise _uncarried(cls)


def is_carried(cls: type) -> bool:
    """Return whether values of a class can be carried, as far as the class shows."""
    if cls in _WRITERS or object_form(cls):
        return True
    carried: Any = (str, int, float, type(None), Mapping, list, tuple, Item, *_BASES)
    return issubclass(cls, carried) or cls.__module__ == "numpy" or hasattr(cls, "__fields__")


def rebuilt(tag: str, data: Any, known: Known) -> Any:
    """Build the value that a tag describes from values that are already built.

    Raises:
        PayloadError: The tag is unknown, or its data has another form.
    """
    read = _READERS.get(tag)
    try:
        if tag == f"{RESERVED}object__":
            return _rebuilt_object(data, known)
        if read is not None:
            return read(data)
    except (ArithmeticError, AttributeError, TypeError, ValueError, LookupError):
        # The constructors raise these for data that a child made up.
        pass
    raise PayloadError("the payload holds a value of unknown form")


def _tagged(name: str, data: Any) -> Tagged:
    return Tagged({f"{RESERVED}{name}__": data})


def _uncarried(cls: type) -> TypeError:
    name = getattr(cls, "__name__", "")
    displayed = name[:_MAX_NAME_LENGTH] if type(name) is str else "?"
    return TypeError(
        f"a value of type {displayed} can't be carried: use text, numbers, dates, lists, sets, "
        "dicts, messages, or models and dataclasses of them"
    )


# Users' classes


class _Parts(NamedTuple):
    """The written parts of an object.

    Attributes:
        data: The object's values. Objects inside them are still objects.
        lost: The parts that ``data`` lacks or changes. If there are any, the object can't be
            rebuilt.
    """

    data: Any
    lost: list[str]


def _object(form: str, cls: type, value: Any, portable: bool) -> Any:
    data, lost = _parts(form, value)
    if portable:
        return data
    # A list, because a dict could be confused with the object's own data.
    written = [form, class_name(cls), data]
    if lost:
        written.append([each[:_MAX_LOST_LENGTH] for each in lost[:_MAX_LOST_PARTS]])
    return _tagged("object", written)


def parts_of(value: Any) -> Any:
    """Return the written form of a user's object: a dict, a list, or the value of its root."""
    return _parts(object_form(type(value)), value).data


def _parts(form: str, value: Any) -> _Parts:
    cls: Any = type(value)
    if form == "enum":
        return _Parts(value.value, [])
    if form == "model":
        return _model_parts(value)
    if form == "namedtuple":
        return _Parts(list(tuple.__iter__(value)), _more_attributes(value, ()))
    fields = _fields(value)
    lost = _more_attributes(value, fields)
    if not is_pydantic_dataclass(cls):
        return _Parts(fields, lost)
    dumped = TypeAdapter(cls).dump_python(
        value, by_alias=False, serialize_as_any=True, warnings=False
    )
    parts = _as_serialized(fields, dumped, cls.__pydantic_fields__)
    return _Parts(parts.data, parts.lost + lost)


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def _more_attributes(value: Any, names: Collection[str]) -> list[str]:
    return [
        f"{name}: an attribute that isn't a field"
        for name in getattr(value, "__dict__", ())
        if name not in names and not isinstance(getattr(type(value), name, None), cached_property)
    ]


def _model_parts(value: BaseModel) -> _Parts:
    cls = type(value)
    dumped = _dumped(value)
    lost = [
        f"{name}: a private attribute"
        for name, each in (value.__pydantic_private__ or {}).items()
        if not _is_default(cls.__private_attributes__.get(name), each)
    ]
    if isinstance(value, RootModel):
        same = _agrees(value.root, dumped)
        return _Parts(value.root if same else dumped, lost if same else [*lost, _SERIALIZED])
    fields = _model_fields(value)
    computed = {name: getattr(value, name, None) for name in cls.model_computed_fields}
    parts = _as_serialized(fields, dumped, cls.model_fields, computed)
    return _Parts(parts.data, parts.lost + lost)


def _model_fields(value: BaseModel) -> dict[str, Any]:
    values = value.__dict__
    found = {name: values[name] for name in type(value).model_fields if name in values}
    return found | (value.model_extra or {})


def _dumped(value: BaseModel) -> Any:
    # `serialize_as_any` writes every field of a subclass, which pydantic otherwise leaves out if
    # only the base is declared. But it ignores serializers in annotations, which take precedence.
    full = value.model_dump(by_alias=False, serialize_as_any=True, warnings=False)
    declared = value.model_dump(by_alias=False, warnings=False)
    return _joined(declared, full)


def _joined(declared: Any, full: Any) -> Any:
    if type(declared) is not dict or type(full) is not dict or declared.keys() != full.keys():
        return full if _is_part(declared, full) else declared
    return {
        key: each if _is_part(declared[key], each) else declared[key] for key, each in full.items()
    }


def _is_part(declared: Any, full: Any) -> bool:
    if type(declared) is type(full) is dict:
        return all(key in full and _is_part(each, full[key]) for key, each in declared.items())
    if type(declared) is type(full) and isinstance(full, list | tuple):
        return len(declared) == len(full) and all(map(_is_part, declared, full))
    return _alike(declared, full)


def _as_serialized(
    fields: dict[str, Any],
    dumped: Any,
    described: Mapping[str, Any],
    computed: Mapping[str, Any] = MappingProxyType({}),
) -> _Parts:
    """Return the values of an object, except where its class serializes other values.

    Pydantic's form turns inner objects into dicts, so that a reader couldn't know their classes.
    Therefore the values themselves are written. But a serializer, or the exclusion of a field, may
    hide something: its result is written then.
    """
    if type(dumped) is not dict:
        return _Parts(dumped, [_SERIALIZED])
    data: dict[str, Any] = {}
    lost: list[str] = []
    for name, each in dumped.items():
        values = computed if name in computed else fields
        if name in values and _agrees(values[name], each):
            data[name] = values[name]
        else:
            data[name] = each
            if name not in computed:
                lost.append(f"{name}: {_SERIALIZED}")
    lost += [
        f"{name}: a field that is excluded"
        for name, each in fields.items()
        if name not in dumped and not _is_default(described.get(name), each)
    ]
    return _Parts(data, lost)


def _is_default(described: Any, value: Any) -> bool:
    # A rebuilt object gets the same default value.
    try:
        if isinstance(described, ModelPrivateAttr) and described.default_factory is not None:
            return _alike(cast(Any, described.default_factory)(), value)
        if isinstance(described, ModelPrivateAttr):
            return _alike(described.default, value)
        return _alike(described.get_default(call_default_factory=True), value)
    except Exception:
        # There is no default, or its factory needs validated data.
        return False


def _agrees(original: Any, dumped: Any) -> bool:
    """Return whether pydantic's form of a value is equal to it, except for inner classes."""
    cls, plain = type(original), type(dumped)
    form = object_form(cls)
    if original is dumped:
        return True
    if form == "model":
        return _alike(_dumped(original), dumped)
    if form == "dataclass":
        return plain is dict and _agree(_fields(original).items(), dumped.items())
    if form != "enum" and issubclass(cls, tuple):
        return plain in (cls, tuple) and _agree(tuple.__iter__(original), dumped)
    if issubclass(cls, list | deque):
        return issubclass(cls, plain) and _agree(original, dumped)
    if issubclass(cls, Mapping):
        return issubclass(plain, Mapping) and _agree(original.items(), dumped.items())
    if cls is plain:
        return _alike(original, dumped)
    # Such a subclass is written as its base anyway, so a reader loses nothing.
    return not form and issubclass(cls, plain) and plain is not object and bool(original == dumped)


def _agree(original: Iterable[Any], dumped: Iterable[Any]) -> bool:
    first, second = list(original), list(dumped)
    return len(first) == len(second) and all(map(_agrees, first, second))


def _alike(first: Any, second: Any) -> bool:
    """Return whether two values are equal and have the same types at all levels.

    Equality isn't enough: `True == 1`, and `Decimal("1.0") == Decimal("1.00")`.
    """
    cls = type(first)
    if cls is not type(second):
        return False
    if first is second:
        return True
    form = object_form(cls)
    if form == "model":
        return _alike(_model_fields(first), _model_fields(second))
    if form == "dataclass":
        return _alike(_fields(first), _fields(second))
    if form != "enum" and issubclass(cls, tuple | list | deque):
        same = getattr(first, "maxlen", None) == getattr(second, "maxlen", None)
        return same and len(first) == len(second) and all(map(_alike, first, second))
    if issubclass(cls, set | frozenset):
        return bool(first == second) and _alike_keys(first, second)
    if issubclass(cls, Mapping):
        return (
            len(first) == len(second)
            and _alike_keys(first, second)
            and all(_alike(each, second[key]) for key, each in first.items())
        )
    if issubclass(cls, float):
        return float.__repr__(first) == float.__repr__(second)
    if cls in _WRITERS:
        return bool(converted(first, portable=False) == converted(second, portable=False))
    return bool(first == second)


def _alike_keys(first: Iterable[Any], second: Iterable[Any]) -> bool:
    keys = {key: key for key in second}
    return all(key in keys and _alike(key, keys[key]) for key in first)


def _rebuilt_object(data: Any, known: Known) -> Any:
    form, name, content, *more = data if type(data) is list else []
    if form not in ("enum", "model", "dataclass", "namedtuple") or type(name) is not str:
        raise ValueError(form)
    plain = tuple(content) if form == "namedtuple" else content
    if more:
        lost_parts(more)
        return plain
    found = known.get(name)
    if found is None or found.form != form:
        return plain
    try:
        made = _made(found, content)
    except Exception:
        # The class's validators may raise anything about invalid data.
        return plain
    return plain if made is None else made


def lost_parts(more: list[Any]) -> list[str]:
    """Return the lost parts of a written object, which follow its content.

    Raises:
        ValueError: They aren't a list of texts.
    """
    (lost,) = more
    if type(lost) is not list or not lost or set(map(type, lost)) != {str}:
        raise ValueError
    return [each[:_MAX_LOST_LENGTH] for each in lost[:_MAX_LOST_PARTS]]


def _made(found: KnownClass, content: Any) -> Any:
    """Return an instance with exactly the values of the data, or None."""
    cls: Any = found.cls
    if found.form == "enum":
        made = cls(content)
        return made if _alike(made.value, content) else None
    # Copied, because a validator may change its input, which is compared afterwards.
    copied = copy.deepcopy(content)
    if found.form == "model":
        if isinstance(copied, dict):
            copied = {k: v for k, v in copied.items() if k not in cls.model_computed_fields}
        made = found.adapter.validate_python(copied, by_alias=False, by_name=True)
    else:
        made = found.adapter.validate_python(copied)
    if type(made) is not cls:
        return None
    data, lost = _parts(found.form, made)
    return made if not lost and _alike(data, content) else None


# Classes of the standard library


def _written_moment(value: datetime | time) -> Tagged:
    zone = value.tzinfo
    cls = datetime if isinstance(value, datetime) else time
    fields: dict[str, Any] = {"iso": value.isoformat()}
    if value.fold:
        fields["fold"] = 1
    if type(zone) is ZoneInfo:
        if zone.key is None:
            raise TypeError("a time zone without a key can't be carried: use ZoneInfo(key)")
        fields["zone"] = zone.key
    elif zone is not None and zone is not UTC:
        if value.utcoffset() is None:
            raise TypeError(
                f"a time zone of type {type(zone).__name__}, which has no offset without a date, "
                "can't be carried"
            )
        name = value.tzname()
        if name is not None and name != timezone(value.utcoffset() or timedelta()).tzname(None):
            fields["name"] = str(name)[:_MAX_NAME_LENGTH]
    return _tagged(cls.__name__, fields["iso"] if len(fields) == 1 else fields)


def _read_moment(cls: Any, form: re.Pattern[str], data: Any) -> Any:
    fields = {"iso": data} if type(data) is str else data
    if type(fields) is not dict or not {"iso"} <= fields.keys() <= {"iso", "fold", "zone", "name"}:
        raise ValueError
    iso, fold = fields["iso"], fields.get("fold", 0)
    if not form.fullmatch(iso) or type(fold) is not int or fold not in (0, 1):
        raise ValueError
    found = cls.fromisoformat(iso).replace(fold=fold)
    offset = found.utcoffset()
    zone, name = fields.get("zone"), fields.get("name")
    if zone is not None:
        return _in_zone(found, zone, offset)
    if name is not None:
        if offset is None or type(name) is not str:
            raise ValueError
        found = found.replace(tzinfo=timezone(offset, name[:_MAX_NAME_LENGTH]))
    return found


def _in_zone(found: Any, zone: Any, offset: timedelta | None) -> Any:
    if type(zone) is not str or not _ZONE.fullmatch(zone):
        raise ValueError
    try:
        tz: tzinfo | None = ZoneInfo(zone)
    except (LookupError, OSError, ValueError):
        tz = None
    if tz is not None and found.replace(tzinfo=tz).utcoffset() == offset:
        return found.replace(tzinfo=tz)
    if offset is None:
        raise ValueError(zone)
    # This machine doesn't know the zone, or has another rule for it. Keep the point in time.
    return found.replace(tzinfo=timezone(offset, zone))


def _written_decimal(value: Decimal) -> Tagged:
    if not value.is_finite():
        raise TypeError(f"{value} can't be carried")
    digits, exponent = value.as_tuple().digits, value.as_tuple().exponent
    if abs(value.adjusted()) > _MAX_EXPONENT or abs(int(exponent)) > _MAX_EXPONENT:
        raise TypeError(f"a Decimal with an exponent beyond {_MAX_EXPONENT} can't be carried")
    if len(digits) > _MAX_DIGITS:
        raise TypeError(f"a Decimal with more than {_MAX_DIGITS} digits can't be carried")
    return _tagged("decimal", str(value))


def _read_decimal(data: Any) -> Decimal:
    if type(data) is not str or len(data) > 3 * _MAX_DIGITS or not _DECIMAL.fullmatch(data):
        raise ValueError
    found = Decimal(data)
    if _written_decimal(found) != _tagged("decimal", data):
        raise ValueError
    return found


def _written_path(value: PurePath) -> Tagged:
    for cls in _PATHS.values():
        if isinstance(value, cls):
            return _tagged("path", [cls.__name__, str(value)])
    raise _uncarried(type(value))


def _read_path(data: Any) -> PurePath:
    name, text = _items(data, 2)
    cls = _PATHS[name]
    if type(text) is not str:
        raise ValueError
    if issubclass(cls, Path) and not isinstance(Path(), cls):
        # A path of another operating system becomes a pure path, which can't access files.
        cls = PureWindowsPath if cls is WindowsPath else PurePosixPath
    return cls(text)


def _read_ip(data: Any) -> Any:
    name, text = _items(data, 2)
    found = _IPS[name](text) if type(text) is str else None
    if str(found) != text:
        raise ValueError
    return found


def _read_timedelta(data: Any) -> timedelta:
    parts = _items(data, 3)
    if set(map(type, parts)) != {int}:
        raise ValueError
    found = timedelta(*parts)
    if [found.days, found.seconds, found.microseconds] != parts:
        raise ValueError
    return found


def _read_date(data: Any) -> date:
    if not _DATE.fullmatch(data):
        raise ValueError
    return date.fromisoformat(data)


def _read_uuid(data: Any) -> UUID:
    if not _UUID.fullmatch(data):
        raise ValueError
    return UUID(data)


def _written_timezone(value: timezone) -> Tagged:
    offset, name = value.utcoffset(None), value.tzname(None)
    named = name != timezone(offset).tzname(None)
    return _tagged("timezone", [offset, name if named else None])


def _read_timezone(data: Any) -> timezone:
    offset, name = _items(data, 2)
    if type(offset) is not timedelta or type(name) not in (str, type(None)):
        raise ValueError
    return timezone(offset) if name is None else timezone(offset, name)


def _written_zone(value: ZoneInfo) -> Tagged:
    if value.key is None:
        raise TypeError("a time zone without a key can't be carried: use ZoneInfo(key)")
    return _tagged("zone", value.key)


def _read_zone(data: Any) -> ZoneInfo:
    if not _ZONE.fullmatch(data):
        raise ValueError
    return ZoneInfo(data)


def _read_set(cls: Any) -> Callable[[Any], Any]:
    def read(data: Any) -> Any:
        found = cls(_items(data))
        if len(found) != len(data):
            raise ValueError
        return found

    return read


def _read_deque(data: Any) -> deque[Any]:
    items, longest = _items(data, 2)
    if type(longest) not in (int, type(None)):
        raise ValueError
    found = deque(_items(items), longest)
    if len(found) != len(items):
        raise ValueError
    return found


def _read_dict(data: Any) -> dict[Any, Any]:
    pairs = [_items(pair, 2) for pair in _items(data)]
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


def _items(data: Any, count: int | None = None) -> list[Any]:
    if type(data) is not list or count not in (None, len(data)):
        raise ValueError
    return data


def _written_set(name: str, value: Any) -> WrittenInParts:
    # Sorted, because Python's order differs between processes, and equal values need equal bytes.
    def build(walk: Callable[[Any, str, int], Any]) -> Any:
        items = [walk(each, f"[{position}]", 2) for position, each in enumerate(value)]
        return _tagged(name, sorted(items, key=_sortable))

    return WrittenInParts(build)


def _sortable(item: Any) -> str:
    return json.dumps(item, sort_keys=True)


def _written_memory(value: memoryview) -> Tagged:
    if value.format != "B" or value.ndim != 1:
        raise TypeError("a memoryview of anything but bytes can't be carried")
    return _tagged("bytes", to_base64(value.tobytes()))


def _as_base(value: Any, base: type) -> Any:
    """Return a subclass's value as a value of its base, if both are equal."""
    made: Any
    if issubclass(base, datetime):
        made = datetime.combine(date(value.year, value.month, value.day), value.timetz())
    elif issubclass(base, date):
        made = date(value.year, value.month, value.day)
    elif issubclass(base, time):
        made = time(
            value.hour, value.minute, value.second, value.microsecond, value.tzinfo, fold=value.fold
        )
    elif issubclass(base, timedelta):
        made = timedelta(value.days, value.seconds, value.microseconds)
    elif issubclass(base, PurePath):
        return _written_path(value)
    elif issubclass(base, UUID):
        made = UUID(int=value.int)
    elif issubclass(base, deque):
        made = deque(value, value.maxlen)
    elif base in _IPS.values() or base in (bytes, bytearray, set, frozenset, Decimal):
        made = cast(Any, base)(value)
    else:
        raise _uncarried(type(value))
    if not made == value:
        # For example a pandas Timestamp with nanoseconds.
        raise TypeError(
            f"a value of type {type(value).__name__} can't be carried: as {base.__name__} it would "
            "be another value"
        )
    return _WRITERS[base](made)


def _of_numpy(value: Any) -> Any:
    numpy = sys.modules.get("numpy")
    if numpy is not None and type(value) is numpy.ndarray and value.dtype.kind in "biufU":
        return value.tolist()
    if numpy is not None and issubclass(type(value), numpy.generic):
        made = value.item()
        if type(made) is float or (type(made) in (bool, int, str, bytes) and made == value):
            return made
    raise _uncarried(type(value))


_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_CLOCK: Final = r"[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{6})?"
_OFFSET: Final = r"([+-][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{6})?)?)?"
_DATETIME: Final = re.compile(f"{_DATE.pattern}T{_CLOCK}{_OFFSET}")
_TIME: Final = re.compile(f"{_CLOCK}{_OFFSET}")
_ZONE: Final = re.compile(r"[A-Za-z0-9_+-]{1,40}(/[A-Za-z0-9_+-]{1,40}){0,3}")
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_DECIMAL: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?(E[+-][0-9]{1,4})?")
_PATHS: Final[dict[str, type[PurePath]]] = {
    cls.__name__: cls for cls in (PosixPath, WindowsPath, PurePosixPath, PureWindowsPath)
}
_IPS: Final[dict[str, Any]] = {
    cls.__name__: cls
    for cls in (IPv4Interface, IPv6Interface, IPv4Address, IPv6Address, IPv4Network, IPv6Network)
}

# By the exact type, because a subclass can override anything.
_WRITERS: Final[dict[type, Callable[[Any], Any]]] = {
    datetime: _written_moment,
    time: _written_moment,
    date: lambda value: _tagged("date", value.isoformat()),
    timedelta: lambda v: _tagged("timedelta", [v.days, v.seconds, v.microseconds]),
    timezone: _written_timezone,
    ZoneInfo: _written_zone,
    UUID: lambda value: _tagged("uuid", str(value)),
    Decimal: _written_decimal,
    bytes: lambda value: _tagged("bytes", to_base64(value)),
    bytearray: lambda value: _tagged("bytearray", to_base64(bytes(value))),
    memoryview: _written_memory,
    set: lambda value: _written_set("set", value),
    frozenset: lambda value: _written_set("frozenset", value),
    deque: lambda value: _tagged("deque", [list(value), value.maxlen]),
    **dict.fromkeys(_PATHS.values(), _written_path),
    **dict.fromkeys(_IPS.values(), lambda v: _tagged("ip", [type(v).__name__, str(v)])),
}
# Subclasses come before their bases.
_BASES: Final[tuple[type, ...]] = (
    *(datetime, date, time, timedelta, UUID, Decimal, bytes, bytearray, set, frozenset, deque),
    *(PurePath, *_IPS.values()),
)
_READERS: Final[dict[str, Callable[[Any], Any]]] = {
    f"{RESERVED}{name}__": read
    for name, read in {
        "datetime": lambda data: _read_moment(datetime, _DATETIME, data),
        "time": lambda data: _read_moment(time, _TIME, data),
        "date": _read_date,
        "timedelta": _read_timedelta,
        "timezone": _read_timezone,
        "zone": _read_zone,
        "uuid": _read_uuid,
        "decimal": _read_decimal,
        "bytes": from_base64,
        "bytearray": lambda data: bytearray(from_base64(data)),
        "set": _read_set(set),
        "frozenset": _read_set(frozenset),
        "tuple": lambda data: tuple(_items(data)),
        "deque": _read_deque,
        "path": _read_path,
        "ip": _read_ip,
        "dict": _read_dict,
    }.items()
}
