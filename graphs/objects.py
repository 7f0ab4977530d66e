"""Write objects of users' classes, and rebuild those whose class the reader knows.

An object is written with the values of its fields. If its class serializes other values, these are
written instead, and the difference is listed: such an object isn't rebuilt.
"""

from __future__ import annotations

import copy
import dataclasses
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from enum import Enum
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias, TypeGuard, TypeVar, cast

from pydantic import BaseModel, RootModel, TypeAdapter
from pydantic.dataclasses import is_pydantic_dataclass
from pydantic.fields import FieldInfo, ModelPrivateAttr

from .standard import WRITERS, collide, tagged

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = [
    "Form",
    "Known",
    "KnownClass",
    "class_name",
    "is_a",
    "is_secret",
    "items_of",
    "lost_parts",
    "object_form",
    "parts_of",
    "rebuilt_object",
    "written_object",
]

_MAX_LOST_PARTS: Final = 20
_MAX_LOST_LENGTH: Final = 200
_SERIALIZED: Final = "a value that its serializer changes"

T = TypeVar("T")
Form: TypeAlias = Literal["", "enum", "model", "dataclass", "namedtuple"]


class KnownClass(NamedTuple):
    """A class that values may be rebuilt as.

    Attributes:
        cls: The class.
        form: Its form, as ``object_form`` returns it.
        adapter: Validates the values.
    """

    cls: type
    form: Form
    adapter: TypeAdapter[object]


Known = Mapping[str, KnownClass]


def class_name(cls: type) -> str:
    """Return a class's name in a payload."""
    module, name = getattr(cls, "__module__", ""), getattr(cls, "__qualname__", "")
    return f"{module}.{name}" if type(module) is type(name) is str else ""


def is_secret(cls: type) -> bool:
    """Return whether a class holds secrets: it has ``get_secret_value``, as pydantic's do."""
    return callable(getattr(cls, "get_secret_value", None))


def object_form(cls: type) -> Form:
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


class _Parts(NamedTuple):
    """The written parts of an object.

    Attributes:
        data: The object's values. Objects inside them are still objects.
        lost: The parts that ``data`` lacks or changes. If there are any, the object can't be
            rebuilt.
    """

    data: object
    lost: list[str]


def written_object(form: Form, value: object, *, portable: bool) -> object:
    """Return the written form of an object; in the portable form, its data only."""
    data, lost = _parts(form, value)
    if portable:
        return data
    # A list, because a dict could be confused with the object's own data.
    written = [form, class_name(type(value)), data]
    if lost:
        written.append([each[:_MAX_LOST_LENGTH] for each in lost[:_MAX_LOST_PARTS]])
    return tagged("object", written)


def parts_of(value: object) -> object:
    """Return the written form of a user's object: a dict, a list, or the value of its root."""
    return _parts(object_form(type(value)), value).data


def _parts(form: Form, value: object) -> _Parts:
    cls = type(value)
    if form == "enum":
        return _Parts(cast(Enum, value).value, [])
    if form == "model":
        return _model_parts(cast(BaseModel, value))
    if form == "namedtuple":
        return _Parts(items_of(value), _more_attributes(value, ()))
    fields = _fields(value)
    lost = _more_attributes(value, fields)
    if not is_pydantic_dataclass(cls):
        return _Parts(fields, lost)
    adapter: TypeAdapter[object] = TypeAdapter(cls)
    dumped = adapter.dump_python(value, by_alias=False, serialize_as_any=True, warnings=False)
    parts = _as_serialized(fields, dumped, cls.__pydantic_fields__)
    return _Parts(parts.data, parts.lost + lost)


def _fields(value: object) -> dict[str, object]:
    fields = dataclasses.fields(cast("DataclassInstance", value))
    return {field.name: getattr(value, field.name) for field in fields}


def items_of(value: object) -> list[object]:
    """Return the items of a tuple, not by the methods of a subclass, which can override them."""
    return list(tuple.__iter__(cast(tuple[object, ...], value)))


def _more_attributes(value: object, names: Collection[str]) -> list[str]:
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


def _model_fields(value: BaseModel) -> dict[str, object]:
    values = value.__dict__
    found = {name: values[name] for name in type(value).model_fields if name in values}
    return found | (value.model_extra or {})


def _dumped(value: BaseModel) -> object:
    # `serialize_as_any` writes every field of a subclass, which pydantic otherwise leaves out if
    # only the base is declared. But it ignores serializers in annotations, which take precedence.
    full: object = value.model_dump(by_alias=False, serialize_as_any=True, warnings=False)
    declared: object = value.model_dump(by_alias=False, warnings=False)
    return _joined(declared, full)


def _joined(declared: object, full: object) -> object:
    if type(declared) is not dict or type(full) is not dict or declared.keys() != full.keys():
        return full if _is_part(declared, full) else declared
    return {
        key: each if _is_part(declared[key], each) else declared[key] for key, each in full.items()
    }


def _is_part(declared: object, full: object) -> bool:
    if type(declared) is dict and type(full) is dict:
        return all(key in full and _is_part(each, full[key]) for key, each in declared.items())
    if (
        type(declared) is type(full)
        and isinstance(declared, list | tuple)
        and isinstance(full, list | tuple)
    ):
        return len(declared) == len(full) and all(map(_is_part, declared, full))
    return _alike(declared, full)


def _as_serialized(
    fields: Mapping[str, object],
    dumped: object,
    described: Mapping[str, FieldInfo],
    computed: Mapping[str, object] = MappingProxyType({}),
) -> _Parts:
    """Return the values of an object, except where its class serializes other values.

    Pydantic's form turns inner objects into dicts, so that a reader couldn't know their classes.
    Therefore the values themselves are written. But a serializer, or the exclusion of a field, may
    hide something: its result is written then.
    """
    if type(dumped) is not dict:
        return _Parts(dumped, [_SERIALIZED])
    data: dict[str, object] = {}
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


def _is_default(described: FieldInfo | ModelPrivateAttr | None, value: object) -> bool:
    # A rebuilt object gets the same default value.
    try:
        if isinstance(described, FieldInfo):
            return _alike(described.get_default(call_default_factory=True), value)
        if described is None or described.default_factory is None:
            return described is not None and _alike(described.default, value)
        return _alike(cast(Callable[[], object], described.default_factory)(), value)
    except Exception:
        # There is no default, or its factory needs validated data.
        return False


def is_a(value: object, *kinds: type[T]) -> TypeGuard[T]:
    """Return whether a value's type is one of these or a subclass.

    ``isinstance`` would also trust an object's own ``__class__``.
    """
    return issubclass(type(value), kinds)


def _is_mapping(value: object) -> TypeGuard[Mapping[object, object]]:
    return issubclass(type(value), Mapping)


def _agrees(original: object, dumped: object) -> bool:
    """Return whether pydantic's form of a value is equal to it, except for inner classes."""
    cls, plain = type(original), type(dumped)
    form = object_form(cls)
    if original is dumped:
        return True
    if form == "model":
        return _alike(_dumped(cast(BaseModel, original)), dumped)
    if form == "dataclass":
        return type(dumped) is dict and _agree(_fields(original).items(), dumped.items())
    if form != "enum" and is_a(original, tuple):
        return plain in (cls, tuple) and _agree(
            items_of(original), cast(tuple[object, ...], dumped)
        )
    if is_a(original, list, deque):
        return issubclass(cls, plain) and _agree(original, cast(Iterable[object], dumped))
    if _is_mapping(original):
        return _is_mapping(dumped) and _agree(original.items(), dumped.items())
    if cls is plain:
        return _alike(original, dumped)
    # Such a subclass is written as its base anyway, so a reader loses nothing.
    return not form and issubclass(cls, plain) and plain is not object and bool(original == dumped)


def _agree(original: Iterable[object], dumped: Iterable[object]) -> bool:
    first, second = list(original), list(dumped)
    return len(first) == len(second) and all(map(_agrees, first, second))


def _alike(first: object, second: object) -> bool:
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
        fields = (_model_fields(cast(BaseModel, each)) for each in (first, second))
        return _alike(*fields)
    if form == "dataclass":
        return _alike(_fields(first), _fields(second))
    if form != "enum" and is_a(first, tuple, list, deque) and is_a(second, tuple, list, deque):
        same = getattr(first, "maxlen", None) == getattr(second, "maxlen", None)
        return same and len(first) == len(second) and all(map(_alike, first, second))
    if is_a(first, set, frozenset) and is_a(second, set, frozenset):
        return bool(first == second) and _alike_keys(first, second)
    if _is_mapping(first) and _is_mapping(second):
        return (
            len(first) == len(second)
            and _alike_keys(first, second)
            and all(_alike(each, second[key]) for key, each in first.items())
        )
    if is_a(first, float) and is_a(second, float):
        return float.__repr__(first) == float.__repr__(second)
    write = WRITERS.get(cls)
    return bool(first == second if write is None else write(first) == write(second))


def _alike_keys(first: Iterable[object], second: Iterable[object]) -> bool:
    keys = {key: key for key in second}
    return all(key in keys and _alike(key, keys[key]) for key in first)


def rebuilt_object(data: object, known: Known) -> object:
    """Rebuild a written object; return its content if the reader doesn't know its class.

    Raises:
        ValueError: The data isn't a written object. Other errors are possible too.
    """
    form, name, content, *more = data if type(data) is list else []
    if form not in ("enum", "model", "dataclass", "namedtuple") or type(name) is not str:
        raise ValueError(form)
    plain = tuple(content) if form == "namedtuple" else content
    if more:
        lost_parts(more)
        return plain
    found = known.get(name)
    # The class may make a set of a list.
    if found is None or found.form != form or _has_colliding_list(content):
        return plain
    try:
        made = _made(found, content)
    except Exception:
        # The class's validators may raise anything about invalid data.
        return plain
    return plain if made is None else made


def _has_colliding_list(content: object) -> bool:
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list | tuple | deque):
            if collide(value):
                return True
            waiting.extend(value)
    return False


def lost_parts(more: list[object]) -> list[str]:
    """Return the lost parts of a written object, which follow its content.

    Raises:
        ValueError: They aren't a list of texts.
    """
    (lost,) = more
    if type(lost) is not list or not lost or set(map(type, lost)) != {str}:
        raise ValueError
    return [each[:_MAX_LOST_LENGTH] for each in lost[:_MAX_LOST_PARTS]]


def _made(found: KnownClass, content: object) -> object:
    """Return an instance with exactly the values of the data, or None."""
    if issubclass(found.cls, Enum):
        member = found.cls(content)
        return member if _alike(member.value, content) else None
    # Copied, because a validator may change its input, which is compared afterwards.
    copied = copy.deepcopy(content)
    if issubclass(found.cls, BaseModel):
        if isinstance(copied, dict):
            computed = found.cls.model_computed_fields
            copied = {key: each for key, each in copied.items() if key not in computed}
        made = found.adapter.validate_python(copied, by_alias=False, by_name=True)
    else:
        made = found.adapter.validate_python(copied)
    if type(made) is not found.cls:
        return None
    data, lost = _parts(found.form, made)
    return made if not lost and _alike(data, content) else None
