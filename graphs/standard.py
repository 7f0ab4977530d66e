"""Write values of the standard library in tagged forms, and read them from strictly validated ones.

Only a value whose class is exactly one of these has a form of its own. A value of a subclass is
written as its base, if both are equal. Numpy's values are written as Python's.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from pathlib import Path, PosixPath, PurePath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Any, Final, TypeAlias, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

from pipelit_agents.protocol.payload import RESERVED, Tagged, WrittenInParts

from .envelope import from_base64, to_base64
from .types import Json

__all__ = ["BASES", "READERS", "WRITERS", "as_base", "collide", "of_numpy", "tagged", "uncarried"]

# The limit of Decimal128. A larger exponent would make a huge `int` from a few bytes.
_MAX_EXPONENT: Final = 6144
_MAX_DIGITS: Final = 4300
_MAX_NAME_LENGTH: Final = 100
# Different values of one hash in a set. By chance there are two or three.
_MAX_OF_ONE_HASH: Final = 64

_Moment = TypeVar("_Moment", datetime, time)
_Ip: TypeAlias = (
    IPv4Address | IPv4Interface | IPv4Network | IPv6Address | IPv6Interface | IPv6Network
)


def tagged(name: str, data: object) -> Tagged:
    """Tag the data of a value with the name of its form."""
    return Tagged({f"{RESERVED}{name}__": data})


def uncarried(cls: type) -> TypeError:
    """Return the error for a value of a class that can't be carried."""
    name = getattr(cls, "__name__", "")
    displayed = name[:_MAX_NAME_LENGTH] if type(name) is str else "?"
    return TypeError(
        f"a value of type {displayed} can't be carried: use text, numbers, dates, lists, sets, "
        "dicts, messages, or models and dataclasses of them"
    )


def _written_moment(value: datetime | time) -> Tagged:
    zone = value.tzinfo
    cls = datetime if isinstance(value, datetime) else time
    fields: dict[str, str | int] = {"iso": value.isoformat()}
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
    return tagged(cls.__name__, fields["iso"] if len(fields) == 1 else fields)


def _read_moment(cls: type[_Moment], form: re.Pattern[str], data: object) -> _Moment:
    fields = {"iso": data} if type(data) is str else data
    if type(fields) is not dict or not {"iso"} <= fields.keys() <= {"iso", "fold", "zone", "name"}:
        raise ValueError
    iso, fold = fields["iso"], fields.get("fold", 0)
    if (
        type(iso) is not str
        or not form.fullmatch(iso)
        or type(fold) is not int
        or fold not in (0, 1)
    ):
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


def _in_zone(found: _Moment, zone: object, offset: timedelta | None) -> _Moment:
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
    return tagged("decimal", str(value))


def _read_decimal(data: object) -> Decimal:
    if type(data) is not str or len(data) > 3 * _MAX_DIGITS or not _DECIMAL.fullmatch(data):
        raise ValueError
    found = Decimal(data)
    if _written_decimal(found) != tagged("decimal", data):
        raise ValueError
    return found


def _written_path(value: PurePath) -> Tagged:
    for cls in _PATHS.values():
        if isinstance(value, cls):
            return tagged("path", [cls.__name__, str(value)])
    raise uncarried(type(value))


def _read_path(data: object) -> PurePath:
    name, text = _items(data, 2)
    cls = _PATHS[name]
    if type(text) is not str:
        raise ValueError
    if issubclass(cls, Path) and not isinstance(Path(), cls):
        # A path of another operating system becomes a pure path, which can't access files.
        cls = PureWindowsPath if cls is WindowsPath else PurePosixPath
    return cls(text)


def _read_ip(data: object) -> _Ip:
    name, text = _items(data, 2)
    if type(text) is not str:
        raise ValueError
    found = _IPS[name](text)
    if str(found) != text:
        raise ValueError
    return found


def _read_timedelta(data: object) -> timedelta:
    parts = _items(data, 3)
    if set(map(type, parts)) != {int}:
        raise ValueError
    found = timedelta(*parts)
    if [found.days, found.seconds, found.microseconds] != parts:
        raise ValueError
    return found


def _read_date(data: object) -> date:
    if type(data) is not str or not _DATE.fullmatch(data):
        raise ValueError
    return date.fromisoformat(data)


def _read_uuid(data: object) -> UUID:
    if type(data) is not str or not _UUID.fullmatch(data):
        raise ValueError
    return UUID(data)


def _written_timezone(value: timezone) -> Tagged:
    offset, name = value.utcoffset(None), value.tzname(None)
    named = name != timezone(offset).tzname(None)
    return tagged("timezone", [offset, name if named else None])


def _read_timezone(data: object) -> timezone:
    offset, name = _items(data, 2)
    if type(offset) is not timedelta or type(name) not in (str, type(None)):
        raise ValueError
    return timezone(offset) if name is None else timezone(offset, name)


def _written_zone(value: ZoneInfo) -> Tagged:
    if value.key is None:
        raise TypeError("a time zone without a key can't be carried: use ZoneInfo(key)")
    return tagged("zone", value.key)


def _read_zone(data: object) -> ZoneInfo:
    if type(data) is not str or not _ZONE.fullmatch(data):
        raise ValueError
    return ZoneInfo(data)


def collide(items: Collection[object]) -> bool:
    """Return whether so many different items have one hash that a set of them would take forever.

    Numbers, and tuples of them, have the same hashes in each process. So a sender can choose values
    of which each is compared with all before it, for hours, while nothing else in the process runs.
    """
    hashes = [_hash(each) for each in items]
    often = {each for each, times in Counter(hashes).items() if times > _MAX_OF_ONE_HASH}
    of_hash: dict[object, list[object]] = {each: [] for each in often - {None}}
    for each, hashed in zip(items, hashes, strict=True):
        different = of_hash.get(hashed)
        if different is not None and each not in different:
            different.append(each)
            if len(different) > _MAX_OF_ONE_HASH:
                return True
    return False


def _hash(value: object) -> int | None:
    try:
        return hash(value)
    except Exception:
        # It can't be in a set. A class's own method may raise anything, also in a list.
        return None


def _require_fast(items: Collection[object]) -> None:
    if collide(items):
        raise ValueError


def _read_set(
    cls: Callable[[Iterable[object]], Collection[object]],
) -> Callable[[object], Collection[object]]:
    def read(data: object) -> Collection[object]:
        items = _items(data)
        _require_fast(items)
        found = cls(items)
        if len(found) != len(items):
            raise ValueError
        return found

    return read


def _read_deque(data: object) -> deque[object]:
    items, longest = _items(data, 2)
    if type(longest) not in (int, type(None)):
        raise ValueError
    found = deque(_items(items), longest)
    if len(found) != len(items):
        raise ValueError
    return found


def _read_dict(data: object) -> dict[object, object]:
    pairs = [_items(pair, 2) for pair in _items(data)]
    _require_fast([key for key, _ in pairs])
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


def _items(data: object, count: int | None = None) -> list[Any]:
    if type(data) is not list or count not in (None, len(data)):
        raise ValueError
    return data


def _written_set(name: str, value: Collection[object]) -> WrittenInParts:
    # Sorted, because Python's order differs between processes, and equal values need equal bytes.
    def build(walk: Callable[[object, str, int], Json]) -> Tagged:
        items = [walk(each, f"[{position}]", 2) for position, each in enumerate(value)]
        return tagged(name, sorted(items, key=_sortable))

    return WrittenInParts(build)


def _sortable(item: Json) -> str:
    return json.dumps(item, sort_keys=True)


def _written_memory(value: memoryview) -> Tagged:
    if value.format != "B" or value.ndim != 1:
        raise TypeError("a memoryview of anything but bytes can't be carried")
    return tagged("bytes", to_base64(value.tobytes()))


def as_base(value: Any, base: type) -> Tagged | WrittenInParts:
    """Return a subclass's value as a value of its base, if both are equal."""
    made: object
    convert: Callable[[object], object] = base
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
        made = convert(value)
    else:
        raise uncarried(type(value))
    if not made == value:
        # For example a pandas Timestamp with nanoseconds.
        raise TypeError(
            f"a value of type {type(value).__name__} can't be carried: as {base.__name__} it would "
            "be another value"
        )
    return WRITERS[base](made)


def of_numpy(value: Any) -> Json | bytes:
    """Return a value or an array of numpy as Python's numbers, text and lists."""
    numpy = sys.modules.get("numpy")
    if numpy is not None and type(value) is numpy.ndarray and value.dtype.kind in "biufU":
        listed: Json = value.tolist()
        return listed
    if numpy is not None and issubclass(type(value), numpy.generic):
        made: Json | bytes = value.item()
        if type(made) is float or (type(made) in (bool, int, str, bytes) and made == value):
            return made
    raise uncarried(type(value))


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
_IPS: Final[dict[str, type[_Ip]]] = {
    cls.__name__: cls
    for cls in (IPv4Interface, IPv6Interface, IPv4Address, IPv6Address, IPv4Network, IPv6Network)
}

# By the exact type, because a subclass can override anything.
WRITERS: Final[dict[type, Callable[[Any], Tagged | WrittenInParts]]] = {
    datetime: _written_moment,
    time: _written_moment,
    date: lambda value: tagged("date", value.isoformat()),
    timedelta: lambda v: tagged("timedelta", [v.days, v.seconds, v.microseconds]),
    timezone: _written_timezone,
    ZoneInfo: _written_zone,
    UUID: lambda value: tagged("uuid", str(value)),
    Decimal: _written_decimal,
    bytes: lambda value: tagged("bytes", to_base64(value)),
    bytearray: lambda value: tagged("bytearray", to_base64(bytes(value))),
    memoryview: _written_memory,
    set: lambda value: _written_set("set", value),
    frozenset: lambda value: _written_set("frozenset", value),
    deque: lambda value: tagged("deque", [list(value), value.maxlen]),
    **dict.fromkeys(_PATHS.values(), _written_path),
    **dict.fromkeys(_IPS.values(), lambda v: tagged("ip", [type(v).__name__, str(v)])),
}
# Subclasses come before their bases.
BASES: Final[tuple[type, ...]] = (
    *(datetime, date, time, timedelta, UUID, Decimal, bytes, bytearray, set, frozenset, deque),
    *(PurePath, *_IPS.values()),
)
READERS: Final[dict[str, Callable[[object], object]]] = {
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
