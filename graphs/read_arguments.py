"""Read a tool call's arguments with the tool's schema, and write down what was read.

A schema may accept a value under several names, convert it, fill in what is missing, and ignore the
rest. Nobody may read a value, or decide by one, that isn't the one which the tool's function
receives.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import fields, is_dataclass
from functools import lru_cache
from itertools import product
from typing import Any, Final, NamedTuple, cast

from pydantic import AliasChoices, BaseModel, RootModel, create_model
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from pipelit_agents.errors import PayloadError
from pipelit_agents.protocol.payload import decode, encode

from .types import Json

__all__ = ["read_arguments"]

_MAX_BYTES: Final = 2**20
# LangChain adds these fields to the schema of a function with variable parameters, and passes them
# only if they were sent.
_VARIABLE: Final = frozenset({"args", "kwargs"})


def read_arguments(
    schema: type[BaseModel], sent: Mapping[str, Json], hidden: Mapping[str, object]
) -> dict[str, Json]:
    """Return arguments that the schema reads as it reads those that were sent.

    Each value has one name, which is the one that the model knows, and the form that the function
    receives. Values that the function doesn't receive are left out.

    Args:
        schema: The schema of the tool.
        sent: The arguments of the model.
        hidden: By their names, the values of the parameters that the tool hides from the model.

    Raises:
        PayloadError: A value was sent under two names, or is read as something that can't be
            displayed.
        ValidationError: The schema refuses the arguments.
    """
    made = _Schema(_without(schema, frozenset(hidden)), hidden)
    received = made.read(sent)
    # A value that is another one at each reading, such as a new id, can't be approved.
    same = made.same(received, sent)
    if len(same) == len(received):
        for names, by_alias in product((made.aliases(), {}), (True, False)):
            written = {
                names.get(name, name): form
                for name, value in received.items()
                for form in _forms(value, by_alias=by_alias)
            }
            if made.same(received, written) == same:
                return written
    shown: dict[str, Json] = {}
    for name, value in received.items():
        shown |= made.one(name, value, sent, written=name in same)
    if not same <= made.same(received, shown):
        raise PayloadError("the tool reads values from other arguments than its schema names")
    return shown


class _Schema(NamedTuple):
    """The schema of a tool, with the values of the parameters that the tool hides."""

    model: type[BaseModel]
    hidden: Mapping[str, object]

    def read(self, sent: Mapping[str, Json]) -> dict[str, object]:
        """Return what the tool's function receives, without what is generated at each reading."""
        made = self.model.model_validate({**self.hidden, **deepcopy(dict(sent))})
        found: dict[str, object] = {}
        for name, info in self.model.model_fields.items():
            left_out = name not in made.model_fields_set
            generated = left_out and info.default_factory is not None
            if name in self.hidden or generated or (left_out and name in _VARIABLE):
                continue
            found[name] = getattr(made, name)
        return {**found, **(made.model_extra or {})}

    def aliases(self) -> dict[str, str]:
        """Return the names by which the model knows parameters that have other names."""
        found = {name: _alias(info) for name, info in self.model.model_fields.items()}
        return {name: alias for name, alias in found.items() if alias is not None}

    def same(self, received: Mapping[str, object], sent: Mapping[str, Json]) -> set[str]:
        """Return the names of the values that are read from these arguments as they were."""
        again = self._read_again(sent)
        return {
            name
            for name, value in received.items()
            if name in again and _is_same(again[name], value)
        }

    def _read_again(self, written: Mapping[str, Json]) -> dict[str, object]:
        # A validator may raise anything about a form that no model has sent.
        with suppress(Exception):
            return self.read(written)
        return {}

    def one(
        self, name: str, value: object, sent: Mapping[str, Json], *, written: bool
    ) -> dict[str, Json]:
        """Return one value under its key: in its written form, else as it was sent."""
        keys = tuple(dict.fromkeys((self.aliases().get(name, name), name)))
        others = {key: each for key, each in sent.items() if key not in keys}
        for key, by_alias in product(keys, (True, False)):
            for form in _forms(value, by_alias=by_alias) if written else ():
                if _is_same(self._read_again({**others, key: form}).get(name), value):
                    return {key: form}
        found = [key for key in keys if key in sent]
        info = self.model.model_fields.get(name)
        if not found and info is not None and not info.is_required():
            # The tool's own value, which isn't JSON.
            return {}
        if len(found) > 1:
            raise PayloadError(f"{name} was sent as {' and as '.join(found)}: send it once")
        if not found:
            raise PayloadError(f"{name} is read from other arguments than {name}")
        if not all(_holds(form, sent[found[0]]) for form in _forms(value, by_alias=True)):
            raise PayloadError(
                f"{name} has parts that the tool ignores, or knows by other names: send only those "
                "of its schema"
            )
        return {found[0]: sent[found[0]]}


@lru_cache(maxsize=256)
def _without(schema: type[BaseModel], hidden: frozenset[str]) -> type[BaseModel]:
    """Return the schema in which anything is accepted for parameters that the tool hides."""
    replaced: Any = dict.fromkeys(schema.model_fields.keys() & hidden, (Any, None))
    if not replaced:
        return schema
    return create_model(schema.__name__, __base__=schema, **replaced)


def _alias(info: FieldInfo) -> str | None:
    alias = info.validation_alias or info.alias
    if isinstance(alias, AliasChoices):
        alias = next((each for each in alias.choices if isinstance(each, str)), None)
    return alias if isinstance(alias, str) else None


def _is_same(again: object, value: object) -> bool:
    return type(again) is type(value) and bool(again == value)


def _forms(value: object, *, by_alias: bool) -> list[Json]:
    """Return a value's written form in a list; an empty list if it has none."""
    try:
        return [decode(encode(_plain(value, by_alias=by_alias)), limit=_MAX_BYTES)]
    except (PayloadError, ValueError, TypeError, RecursionError):
        return []


def _plain(value: object, *, by_alias: bool) -> object:
    """Return a value as JSON, without what a class does to display its values in another way."""
    if isinstance(value, RootModel):
        return _plain(value.root, by_alias=by_alias)
    if isinstance(value, BaseModel):
        values = {
            (_alias(info) or name) if by_alias else name: getattr(value, name)
            for name, info in type(value).model_fields.items()
        }
        return _plain({**values, **(value.model_extra or {})}, by_alias=by_alias)
    if is_dataclass(value) and not isinstance(value, type):
        return {
            each.name: _plain(getattr(value, each.name), by_alias=by_alias)
            for each in fields(value)
        }
    if isinstance(value, Mapping):
        return {_key(key): _plain(each, by_alias=by_alias) for key, each in value.items()}
    if isinstance(value, set | frozenset):
        # Another process may have another order.
        return sorted((_plain(each, by_alias=by_alias) for each in value), key=json.dumps)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray):
        return [_plain(each, by_alias=by_alias) for each in value]
    return cast(object, to_jsonable_python(value))


def _key(key: object) -> str:
    (written,) = cast("dict[str, None]", to_jsonable_python({key: None}))
    return written


def _holds(read: Json, sent: Json) -> bool:
    """Return whether all parts that were sent are among those that were read."""
    if isinstance(sent, dict):
        return isinstance(read, dict) and all(
            key in read and _holds(read[key], each) for key, each in sent.items()
        )
    if isinstance(sent, list):
        return isinstance(read, list) and len(read) == len(sent) and all(map(_holds, read, sent))
    return True
