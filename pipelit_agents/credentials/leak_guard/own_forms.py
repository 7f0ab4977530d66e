"""List what a value's own code makes of it: its text, its pickle, what a serializer writes.

Producing these forms may run any code, so it happens on a separate thread and for a limited time.
This way, values of unknown types are searched too. Nothing here raises.
"""

from __future__ import annotations

import copyreg
import ctypes
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, Final, NamedTuple
from weakref import WeakKeyDictionary

from pydantic import BaseModel

from pipelit_agents._threads import Apart, Stuck
from pipelit_agents.credentials.leak_guard.stored import (
    Child,
    Look,
    by_type,
    fields_in_c,
    is_opaque,
    is_trusted,
    is_trusted_array,
    items_look,
    overrides,
    stored_children,
    stored_values,
)

__all__ = [
    "Budget",
    "OwnForms",
    "children_of",
    "children_of_each",
    "display_text",
    "has_own_forms",
    "is_plain_model",
    "own_forms",
    "text_in_time",
]

# Seconds allowed for the code of one value, for the slow calls of one form of a type, and for the
# code of all values in one search.
VALUE_TIMEOUT: Final = 2.0
SEARCH_TIMEOUT: Final = 6.0
# Shorter calls don't count as slow, however many there are.
_SLOW_CALL: Final = 0.01
_TIMED_OUT_REASON: Final = f"its own code doesn't end within {VALUE_TIMEOUT:g} s"
# Seconds until a form that timed out for a type is requested from that type again: the cause may
# be temporary, such as a slow database.
_RETRY_INTERVAL: Final = 300.0
# The most parts to read from an iterable that makes them on the fly.
_MAX_PARTS: Final = 250_000
_WORKERS: Final = Apart(most=16)
_CODE_TYPES: Final = frozenset(
    {types.FunctionType, types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType}
)
_TEXTS: Final = ("__str__", "__repr__")
_PICKLED: Final = ("__reduce__", "__reduce_ex__", "__getstate__", "__getnewargs__")
# LangGraph's serializer calls these methods on any type that has them.
_SERIALIZER_HOOKS: Final = ("model_dump", "get_secret_value", "dict", "_asdict")
_MODEL_SLOTS: Final = frozenset({"__pydantic_extra__", "__pydantic_private__"})
_MODEL_HOOKS: Final = ("computed_fields", "field_serializers", "model_serializers")


class Budget:
    """The time that the code of values may take in one search.

    Attributes:
        left: Seconds until no more code is run.
    """

    def __init__(self) -> None:
        self.left = SEARCH_TIMEOUT
        self._spent: dict[tuple[type, Look], float] = {}

    def spend(self, kind: type, look: Look, seconds: float) -> None:
        """Record a call for a form; a type that was too slow in all isn't asked for it again."""
        if seconds >= _SLOW_CALL:
            spent = self._spent[kind, look] = self._spent.get((kind, look), 0.0) + seconds
            if spent > VALUE_TIMEOUT:
                _give_up(kind, look)


class OwnForms(NamedTuple):
    """The forms that a value's own code produced.

    Attributes:
        parts: The parts that were found, each with its key.
        unknown: The reason why the value could not be searched completely; empty if it was.
    """

    parts: list[Child]
    unknown: str


def children_of(value: object, budget: Budget) -> list[Child]:
    """Return the children of a value, one level deep: what it stores, and its own forms."""
    found = stored_children(value)
    return found + own_forms([value], budget)[0].parts if has_own_forms(type(value)) else found


def children_of_each(values: Sequence[object], budget: Budget) -> list[list[object]]:
    """Return the children of each value without keys, as code that displays values shows them.

    Such code doesn't look into functions and suspended generators. One thread reads all values.
    """
    forms = own_forms(values, budget)
    return [
        [inner for _, inner in made.parts]
        + ([] if type(each) in _CODE_TYPES else stored_values(each))
        for each, made in zip(values, forms, strict=True)
    ]


@by_type
def is_plain_model(kind: type) -> bool:
    """Return whether a type is a pydantic model without additional slots or own forms."""
    try:
        plain = issubclass(kind, BaseModel) and kind.__getattribute__ is object.__getattribute__
        slots = {name for name, _ in fields_in_c(kind)}
        return plain and not _looks_at(kind) and slots <= _MODEL_SLOTS
    except Exception:
        return False


def has_own_forms(kind: type) -> bool:
    """Return whether values of a type have own forms that must be searched too."""
    return bool(_looks_at(kind))


def display_text(value: object) -> str:
    """Return the ``str`` and ``repr`` of a value; empty if both fail or take too long."""
    # A look of its own, so that a timeout isn't remembered.
    (made,) = _read_all([(value, (lambda each: _of_a_text(each),))], Budget())
    return "".join(text for _, text in made.parts if isinstance(text, str))


def text_in_time(make: Callable[[], str]) -> str | None:
    """Return the text that code of a value makes; None if it fails or takes too long."""
    (made,) = _read_all([(make, (lambda call: [("", call())],))], Budget())
    return next((text for _, text in made.parts if isinstance(text, str)), None)


def own_forms(values: Sequence[object], budget: Budget) -> list[OwnForms]:
    """Return the own forms of values.

    The values' code runs on another thread. A form whose code raises is left out, and code that
    doesn't end in time is interrupted. A value whose code was not run to its end is unknown, unless
    its type was too slow before and it stores something that can be searched.

    Args:
        values: The values; the result has one entry for each, in the same order.
        budget: The time limit for all values of the search.
    """
    return _read_all([(each, _looks_at(type(each))) for each in values], budget)


_Work = Sequence[tuple[object, tuple[Look, ...]]]


def _read_all(work: _Work, budget: Budget) -> list[OwnForms]:
    made: list[OwnForms] = []
    while any(looks for _, looks in work[len(made) :]):
        if budget.left <= 0:
            reason = f"its parts together take longer than {SEARCH_TIMEOUT:g} s"
            return made + [_unread(*each, reason) for each in work[len(made) :]]
        reader = _Reader(work[len(made) :], budget)
        within = min(VALUE_TIMEOUT, budget.left)
        began = monotonic()
        stuck = False
        reason = "too many values hang, so that no thread could be started to run its code"
        try:
            _WORKERS.run(reader, within=within)
        except Stuck:
            # With a shorter limit, the earlier values may have used up the time.
            stuck = within == VALUE_TIMEOUT
        except Exception:
            # While the interpreter shuts down.
            reason = "no thread could be started to run its code"
        budget.left -= monotonic() - began
        finished, parts = reader.end()
        made += finished
        # If some values were finished, the next round continues with the one that was not.
        if not finished:
            value, looks = work[len(made)]
            if reader.look is None:
                made.append(_unread(value, looks, reason))
            elif stuck:
                _give_up(type(value), reader.look)
                made.append(_incomplete(value, parts, _TIMED_OUT_REASON))
            # Otherwise the budget is used up.
    return made + [OwnForms([], "")] * (len(work) - len(made))


def _incomplete(value: object, parts: list[Child], reason: str) -> OwnForms:
    # A value with stored children has been searched by them. Without any, its content is unknown.
    return OwnForms(parts, "" if stored_children(value) else reason)


def _unread(value: object, looks: tuple[Look, ...], reason: str) -> OwnForms:
    """Return what is known of a value whose code was not run."""
    if all(_has_timed_out(type(value), look) for look in looks):
        return _incomplete(value, [], _TIMED_OUT_REASON) if looks else OwnForms([], "")
    return OwnForms([], reason)


# By type, the forms that timed out, and until when: not every node is to wait for them again.
_timed_out: WeakKeyDictionary[type, dict[Look, float]] = WeakKeyDictionary()


def _give_up(kind: type, look: Look) -> None:
    with suppress(Exception):
        if look in _looks_at(kind):
            _timed_out.setdefault(kind, {})[look] = monotonic() + _RETRY_INTERVAL


def _has_timed_out(kind: type, look: Look) -> bool:
    with suppress(Exception):
        return bool(_timed_out) and _timed_out.get(kind, {}).get(look, 0.0) > monotonic()
    return False


class _Interrupted(BaseException):
    """Raised in a worker thread whose value takes too long."""


class _Reader:
    """Read the own forms of one value after the other, on a worker thread."""

    def __init__(self, work: _Work, budget: Budget) -> None:
        self.look: Look | None = None
        self._work = work
        self._budget = budget
        self._lock = threading.Lock()
        self._done = False
        self._thread = 0
        self._finished: list[OwnForms] = []
        self._parts: list[Child] = []

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

    def _forms(self, value: object, looks: tuple[Look, ...], parts: list[Child]) -> OwnForms:
        read = 0
        for look in looks:
            if _has_timed_out(type(value), look):
                continue
            self.look = look
            read += 1
            began = monotonic()
            try:
                for each in look(value):
                    parts.append(each)
                    if len(parts) > _MAX_PARTS:
                        return OwnForms(parts, f"it has more than {_MAX_PARTS:,} parts")
            except _Interrupted:
                raise
            except BaseException:  # noqa: S112 - a form that raises is never written, even by exit()
                continue
            finally:
                self._budget.spend(type(value), look, monotonic() - began)
        return (
            OwnForms(parts, "")
            if read == len(looks)
            else _incomplete(value, parts, _TIMED_OUT_REASON)
        )

    def end(self) -> tuple[list[OwnForms], list[Child]]:
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


@by_type
def _looks_at(kind: type) -> tuple[Look, ...]:
    """Return how to read the own forms of a type whose values may write more than they store."""
    try:
        return tuple(_make_looks(kind))
    except Exception:
        # A foreign metaclass raised: use nothing that depends on the type itself.
        return (_of_a_text, _of_the_serializer)


def _make_looks(kind: type) -> Iterator[Look]:
    if is_opaque(kind):
        return
    items = items_look(kind)
    if items is not None and not is_trusted_array(kind):
        yield items
    if issubclass(kind, type):
        if overrides(kind, "__repr__"):
            yield _of_a_text
        return
    table = hasattr(kind, "columns") and hasattr(kind, "to_numpy")
    if hasattr(kind, "tolist") or table or issubclass(kind, types.FunctionType):
        return
    text = any(overrides(kind, name) for name in _TEXTS)
    pickled = kind in copyreg.dispatch_table or any(overrides(kind, name) for name in _PICKLED)
    # A model may have serializers or computed fields of its own.
    decorators = getattr(kind, "__pydantic_decorators__", None)
    serialized = (
        any(overrides(kind, name) for name in _SERIALIZER_HOOKS)
        or any(getattr(decorators, name, None) for name in _MODEL_HOOKS)
        or (issubclass(kind, BaseModel) and _has_serializers(kind))
    )
    if text:
        yield _of_a_text
    if pickled:
        yield _of_a_pickle
    if serialized:
        yield _of_the_serializer
    buffered = not issubclass(kind, BaseModel | BaseException)
    if buffered and (text or pickled or serialized):
        yield _of_a_buffer


def _has_serializers(kind: type[BaseModel]) -> bool:
    """Return whether fields of a model are serialized by functions, by their annotations."""
    schema: object = kind.__pydantic_core_schema__
    if not isinstance(schema, dict):
        # It isn't built yet.
        return True
    waiting: list[object] = [schema]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            how = each.get("serialization")
            if isinstance(how, dict) and str(how.get("type")).startswith("function"):
                module = getattr(how.get("function"), "__module__", None)
                if not is_trusted(module):
                    return True
            # Other models are searched by themselves.
            if each.get("type") != "model" or each.get("cls") is kind:
                waiting += each.values()
        elif isinstance(each, list | tuple):
            waiting += each
    return False


def _of_a_text(value: object) -> Iterator[Child]:
    for show in (str, repr):
        with suppress(Exception):
            yield "", show(value)


def _of_a_pickle(value: object) -> Iterator[Child]:
    made = copyreg.dispatch_table.get(type(value))
    reduced: object = made(value) if made is not None else value.__reduce_ex__(2)
    if not isinstance(reduced, tuple):
        return
    for part in reduced[:3]:
        yield "", part
    for items in reduced[3:5]:
        yield from enumerate(items or ())


def _of_the_serializer(value: object) -> Iterator[Child]:
    # Imported late: importing the package must not import LangGraph.
    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

    yield "", JsonPlusSerializer().dumps_typed(value)[1]


def _of_a_buffer(value: Any) -> Iterator[Child]:
    # Any: not every type has a buffer, and the others raise.
    with memoryview(value) as seen:
        yield "", seen.tobytes()
