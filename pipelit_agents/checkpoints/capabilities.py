"""Give a sealed saver exactly the capabilities of the saver below it.

LangGraph takes a capability to be there if the class of a checkpointer overrides its method. So the
optional methods are in classes of their own, and the class of each sealed saver is made of those
whose methods the saver below has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final, ParamSpec, TypeAlias, TypeVar, cast

from langgraph.checkpoint.base import BaseCheckpointSaver

__all__ = ["AnySaver", "DeletesRuns", "DeletesThreads", "PrunesThreads", "acall", "call", "has"]
__all__ += ["has_async_methods", "in_thread", "with_capabilities"]

AnySaver: TypeAlias = BaseCheckpointSaver[Any]
S = TypeVar("S", bound=AnySaver)
P = ParamSpec("P")
R = TypeVar("R")

# Without one of them, LangGraph can't run a graph on an event loop.
_ASYNC_METHODS: Final = ("aget_tuple", "alist", "aput", "aput_writes")


class DeletesThreads(BaseCheckpointSaver[Any]):
    """A sealed saver over one that deletes threads."""

    _saver: AnySaver

    def delete_thread(self, thread_id: str) -> None:
        """Delete all checkpoints and writes of a thread."""
        call(self._saver, "delete_thread", thread_id)

    async def adelete_thread(self, thread_id: str) -> None:
        """As ``delete_thread``."""
        await acall(self._saver, "delete_thread", thread_id)


class DeletesRuns(BaseCheckpointSaver[Any]):
    """A sealed saver over one that deletes the checkpoints of runs."""

    _saver: AnySaver

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete all checkpoints and writes of runs.

        The saver below finds them by the copies of ``run_id`` that are stored in clear.
        """
        call(self._saver, "delete_for_runs", run_ids)

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """As ``delete_for_runs``."""
        await acall(self._saver, "delete_for_runs", run_ids)


class PrunesThreads(BaseCheckpointSaver[Any]):
    """A sealed saver over one that prunes threads."""

    _saver: AnySaver

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Delete checkpoints of threads.

        Args:
            thread_ids: The threads.
            strategy: ``keep_latest`` keeps the newest checkpoint of each namespace, ``delete``
                keeps none. The saver below may have more.
        """
        call(self._saver, "prune", thread_ids, strategy=strategy)

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """As ``prune``."""
        await acall(self._saver, "prune", thread_ids, strategy=strategy)


_OPTIONAL: Final[dict[str, type[AnySaver]]] = {
    "delete_thread": DeletesThreads,
    "delete_for_runs": DeletesRuns,
    "prune": PrunesThreads,
}

# The classes that were made, by the class of the sealed saver and that of the saver below.
_MADE: Final[dict[tuple[type[AnySaver], type[AnySaver]], type[AnySaver]]] = {}


def has(kind: type[AnySaver], method: str) -> bool:
    """Return whether a class of checkpointers has a method, in its sync or its async form."""
    return _overrides(kind, method) or _overrides(kind, f"a{method}")


def has_async_methods(kind: type[AnySaver]) -> bool:
    """Return whether a class of checkpointers works on an event loop."""
    # SqliteSaver has some of them, which only raise.
    return all(_overrides(kind, each) for each in _ASYNC_METHODS)


def _overrides(kind: type[AnySaver], method: str) -> bool:
    return getattr(kind, method) is not getattr(BaseCheckpointSaver, method)


def with_capabilities(kind: type[S], below: type[AnySaver], in_threads: type[AnySaver]) -> type[S]:
    """Return a subclass that overrides the methods that a saver of a class has.

    Args:
        kind: A class of sealed savers, which overrides what every saver has.
        below: The class of the saver below.
        in_threads: A subclass of the first of these classes, whose asynchronous methods call the
            synchronous ones. Its methods come behind those of an application's class.
    """
    if made := _MADE.get((kind, below)):
        return cast(type[S], made)
    bases: list[type[AnySaver]] = [kind]
    if not has_async_methods(below):
        # A class can't precede its own subclass.
        bases = [in_threads] if issubclass(in_threads, kind) else [kind, in_threads]
    bases += [mixin for name, mixin in _OPTIONAL.items() if has(below, name)]
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "_kind": kind}
    made = cast(type[S], type(kind.__name__, tuple(bases), names))
    _MADE[kind, below] = made
    return made


def call(saver: AnySaver, name: str, *args: object, **kwargs: object) -> None:
    """Call a method of a saver, which may have the asynchronous form alone."""
    if _overrides(type(saver), name):
        getattr(saver, name)(*args, **kwargs)
        return
    # An event loop may be running on this thread.
    with ThreadPoolExecutor(1, thread_name_prefix="pipelit-saver") as pool:
        work = getattr(saver, f"a{name}")
        pool.submit(lambda: asyncio.run(work(*args, **kwargs))).result()


async def acall(saver: AnySaver, name: str, *args: object, **kwargs: object) -> Any:
    """As ``call``; the synchronous form runs in a thread."""
    is_async = _overrides(type(saver), f"a{name}")
    if f"a{name}" in _ASYNC_METHODS:
        is_async = has_async_methods(type(saver))
    if is_async:
        return await getattr(saver, f"a{name}")(*args, **kwargs)
    return await in_thread(getattr(saver, name), *args, **kwargs)


async def in_thread(work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a call in a thread of the loop's, and wait for its end also if the task is cancelled.

    A thread can't be stopped, and what it writes must not come after what is done next.
    """
    job = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(job)
    except asyncio.CancelledError:
        with suppress(Exception):
            await job
        raise
