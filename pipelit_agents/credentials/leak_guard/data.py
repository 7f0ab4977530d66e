"""Walk the data that a node can change: each value in it, with its path and a way to replace it.

Data are containers, pydantic models and dataclasses. Other objects aren't looked into: they may be
in use elsewhere, or may be clients that hold keys of their own.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import suppress
from functools import partial
from itertools import islice
from operator import setitem
from typing import Any, Final, NamedTuple

from pydantic import BaseModel

from pipelit_agents.credentials.leak_guard.patterns import MASK
from pipelit_agents.credentials.leak_guard.stored import dictionary_of, fields_in_c
from pipelit_agents.credentials.leak_guard.written import large_number
from pipelit_agents.credentials.secret import Secret

__all__ = ["Found", "Put", "attributes_of", "values_in"]

Put = Callable[[object], object]

_FROZEN: Final = (tuple, frozenset)
_CHANGEABLE: Final = (Mapping, list, deque, set, bytearray, BaseModel)


class Found(NamedTuple):
    """A value within data.

    Attributes:
        path: Its path, for an error message.
        value: The value.
        put: Stores another value in its place; None if that isn't possible.
    """

    path: str
    value: object
    put: Put | None


def values_in(root: Found, limit: int | None = None) -> Iterator[Found]:
    """Yield what can be replaced in data, outer values first: texts, bytes, large numbers, objects.

    Replace them from the last to the first, so that a value is replaced before its key.

    Args:
        root: Where to begin.
        limit: The most containers to look into, and the most parts of each.
    """
    waiting: deque[Found] = deque([root])
    seen: dict[int, object] = {}
    while waiting and (limit is None or len(seen) < limit):
        path, each, put = waiting.popleft()
        # An object may run any code when it is asked for its class.
        with suppress(Exception):
            if isinstance(each, str | bytes):
                yield Found(path, each, put)
            elif number := large_number(each):
                yield Found(path, str(number), put)
            elif not isinstance(each, Secret | int | float | None):
                if isinstance(each, list | tuple) and each and type(each[0]) is int:
                    # The numbers may be the bytes of a text.
                    data = bytes(n for n in each if type(n) is int and 0 <= n < 256)
                    yield Found(path, data, put and partial(_mask, put))
                # What can't be changed in place is replaced wherever it is.
                if not _is_changeable(each) and (id(each) in seen or not isinstance(each, _FROZEN)):
                    yield Found(path, each, put)
                if id(each) not in seen:
                    seen[id(each)] = each
                    waiting.extend(islice(_children(path, each, put), limit))


def _is_changeable(value: object) -> bool:
    """Return whether a value is data that can be changed in place."""
    return isinstance(value, _CHANGEABLE) or dataclasses.is_dataclass(value)


def _children(path: str, value: object, put: Put | None) -> Iterator[Found]:
    if isinstance(value, Mapping):
        mutable = value if isinstance(value, MutableMapping) else None
        for key, each in list(value.items()):
            rename = None if mutable is None else partial(_rename, mutable, key)
            replace = None if mutable is None else partial(setitem, mutable, key)
            yield Found(path, key, rename)
            yield Found(f"{path}[{key!r:.60}]", each, replace)
        if not isinstance(value, dict):
            # What it is made of, such as the mappings of a chain.
            yield from attributes_of(path, value)
    elif isinstance(value, bytearray):
        yield Found(path, bytes(value), partial(setitem, value, slice(None)))
    elif isinstance(value, list | deque):
        for index, each in enumerate(value):
            yield Found(f"{path}[{index}]", each, partial(setitem, value, index))
    elif isinstance(value, _FROZEN):
        items = list(value)
        for index, each in enumerate(items):
            rebuild = partial(_rebuild, put, value, items, index) if put else None
            yield Found(path, each, rebuild)
    elif isinstance(value, set):
        for each in list(value):
            yield Found(path, each, partial(_replace_item, value, each))
    elif _is_changeable(value):
        yield from attributes_of(path, value)


def attributes_of(path: str, value: object) -> Iterator[Found]:
    """Yield the attributes and slots of an object of any class; the class may be frozen."""
    attributes = dictionary_of(value)
    for name, each in list(dict.items(attributes)):
        yield Found(path, name, partial(_rename, attributes, name))
        yield Found(f"{path}.{name}", each, partial(object.__setattr__, value, str(name)))
    for name, field in fields_in_c(type(value)):
        # A slot may be empty.
        with suppress(AttributeError):
            put = partial(object.__setattr__, value, name)
            yield Found(f"{path}.{name}", field.__get__(value), put)


def _mask(put: Put, _: object) -> None:
    put(MASK)


def _rename(mapping: MutableMapping[object, object], key: object, new: object) -> None:
    mapping[new] = mapping.pop(key)


def _replace_item(items: set[object], old: object, new: object) -> None:
    items.discard(old)
    items.add(new)


def _rebuild(put: Put, old: Any, items: list[object], index: int, new: object) -> None:
    """Replace a tuple or frozen set by another one; Any: a named tuple is made by its class."""
    # The list is shared, so that the next replacement keeps this one.
    items[index] = new
    put(old._make(items) if hasattr(old, "_make") else type(old)(items))
