"""Write values that JSON can't represent, and rebuild them.

A payload may come from an untrusted sender, so nothing is loaded or built by a name in it. A reader
builds the standard library's scalars and containers, each from a strictly validated form, and the
classes that the reader itself names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol, cast

from langgraph.store.base import Item

from pipelit_agents.errors import PayloadError
from pipelit_agents.protocol.payload import RESERVED, SecretFound, Tagged

from .objects import Known, is_a, is_secret, items_of, object_form, rebuilt_object, written_object
from .standard import BASES, READERS, WRITERS, as_base, of_numpy, tagged, uncarried

__all__ = ["converted", "is_carried", "keyed", "rebuilt"]


class _Pydantic1(Protocol):
    """A model of pydantic 1."""

    def dict(self) -> dict[str, object]: ...


def keyed(pairs: Iterable[tuple[object, object]]) -> Tagged:
    """Tag a dict whose keys JSON can't represent, or that look like a tag."""
    return tagged("dict", [[key, each] for key, each in pairs])


def converted(value: object, *, portable: bool) -> object:
    """Return the written form of a value, or the value itself if JSON can represent it.

    Args:
        value: A value of any type but JSON's own types.
        portable: Write a form for readers in any language, without class names and with lists
            instead of tuples.

    Raises:
        TypeError: The value can't be carried.
    """
    cls = type(value)
    write = WRITERS.get(cls)
    if write is not None:
        return write(value)
    if is_secret(cls):
        raise SecretFound("a secret doesn't leave its node; open it where it is used")
    form = object_form(cls)
    if form:
        return written_object(form, value, portable=portable)
    if issubclass(cls, tuple):
        items = items_of(value)
        return items if portable else tagged("tuple", items)
    if issubclass(cls, str | int | float) and cls.__module__ != "numpy":
        return value
    if issubclass(cls, Mapping | list):
        return value
    if is_a(value, Item):
        return value.dict()
    if callable(getattr(cls, "dict", None)) and hasattr(cls, "__fields__"):
        return cast(_Pydantic1, value).dict()
    for base in BASES:
        if issubclass(cls, base):
            return as_base(value, base)
    if cls.__module__ == "numpy":
        return of_numpy(value)
    raise uncarried(cls)


def is_carried(cls: type) -> bool:
    """Return whether values of a class can be carried, as far as the class shows."""
    if cls in WRITERS or object_form(cls):
        return True
    carried: tuple[type, ...] = (str, int, float, type(None), Mapping, list, tuple, Item, *BASES)
    return issubclass(cls, carried) or cls.__module__ == "numpy" or hasattr(cls, "__fields__")


def rebuilt(tag: str, data: object, known: Known) -> object:
    """Build the value that a tag describes from values that are already built.

    Raises:
        PayloadError: The tag is unknown, or its data has another form.
    """
    read = READERS.get(tag)
    try:
        if tag == f"{RESERVED}object__":
            return rebuilt_object(data, known)
        if read is not None:
            return read(data)
    except (ArithmeticError, AttributeError, TypeError, ValueError, LookupError):
        # The constructors raise these for data that a child made up.
        pass
    raise PayloadError("the payload holds a value of unknown form")
