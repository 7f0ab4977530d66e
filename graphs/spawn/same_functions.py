"""Compare two functions within one process: their code, and the values that they work with.

One piece of code may find the children of several tenants: as a partial, a method of several
objects, or an inner function. Two such functions are the same only if these values are.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache, partial
from types import CellType, CodeType, FunctionType, MethodType
from typing import Final

from .created import CreatedAgents

__all__ = ["is_same_function"]

# Compared by their value. All others are the same only if they are one object, because the `==` of
# a class may say anything.
_VALUES: Final = (str, bytes, int, float, complex, bool, type(None), CodeType)
_LRU_CACHE: Final = type(lru_cache(lambda: None))
_NOTHING: Final = object()


def is_same_function(one: object, other: object) -> bool:
    """Return whether two functions run the same code with the same values.

    Args:
        one: A function, partial, method or other object that is called.
        other: As above.
    """
    return _is_same(one, other, set())


def _is_same(one: object, other: object, compared: set[tuple[int, int]]) -> bool:
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if type(one) in _VALUES:
        return one == other
    # A function may refer to itself.
    pair = (id(one), id(other))
    if pair in compared:
        return True
    compared.add(pair)
    parts, others = _parts(one), _parts(other)
    return (
        parts is not None
        and others is not None
        and len(parts) == len(others)
        and all(_is_same(each, its, compared) for each, its in zip(parts, others, strict=True))
    )


def _parts(thing: object) -> tuple[object, ...] | None:
    """Return what makes a thing the same as another one; None if only the thing itself is."""
    parts: tuple[object, ...] | None = None
    if type(thing) is tuple:
        parts = thing
    elif isinstance(thing, CellType):
        # A cell is empty until its variable is assigned.
        parts = (getattr(thing, "cell_contents", _NOTHING),)
    elif type(thing) is partial:
        parts = (thing.func, thing.args, *_items(thing.keywords))
    elif isinstance(thing, MethodType):
        parts = (thing.__self__, thing.__func__)
    elif isinstance(thing, FunctionType):
        # What is wrapped is a part too. A decorator has it in its closure, with its own values.
        parts = (
            thing.__code__,
            thing.__globals__,
            thing.__closure__,
            thing.__defaults__,
            *_items(thing.__kwdefaults__ or {}),
        )
    elif type(thing) is CreatedAgents or isinstance(thing, _LRU_CACHE):
        parts = (thing.__wrapped__,)
    return parts


def _items(keywords: Mapping[str, object]) -> tuple[object, ...]:
    return tuple(sorted(keywords)), *(keywords[each] for each in sorted(keywords))
