"""One run on the server of a remote child, from its start to the deletion of its thread.

The calls are those that LangGraph Server and the engines with its API have in common. Streams
aren't read, so that no event of the server reaches the parent.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from typing import Final

import httpx

from .admission import STALE
from .envelope import SpawnRequest
from .remote_http import RunLost, ServerUnauthorized, UnexpectedStatus, Unreachable, call
from .types import Json

__all__ = ["RemoteRun", "afterwards", "clearing_up", "finish_clearing_up"]

_LOG: Final = logging.getLogger(__name__)
# Seconds between two questions about a run: the first, and the longest.
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0
# A pause is at least so much longer than the question before it took, up to so many seconds.
_IDLE_FACTOR: Final = 10
_BUSY_PAUSE: Final = 30.0
# Seconds. A join that took longer did wait for the run.
_WAITED: Final = 1.0
# Seconds for which a result waits for what is done after the answer, and that this may take.
_CLEAR_UP_TIMEOUT: Final = 3.0
_CLEAR_UP_LIMIT: Final = 30.0
# Seconds in which a start whose answer was not awaited shows on the server.
_START_PAUSES: Final = (0.0, 0.1, 0.3, 0.6)
_GOING_ON: Final = frozenset({"pending", "running"})
# An engine's names for a refusal of ours, for a run that somebody ended, and for one without owner.
_LOST_ERRORS: Final = frozenset({"RequestStale", "UserInterrupt", "RunNotFound", "IncompleteRun"})
# The same as texts, and how LangGraph Server and Aegra say that the workers of a run died.
_LOST_WORDS: Final = (
    STALE,
    "exceeded max attempts",
    "Max retries exceeded after repeated worker failures",
)
_SERVER_ERRORS: Final = (Unreachable, UnexpectedStatus, ServerUnauthorized)


class RemoteRun:
    """One run on a new thread of a server.

    Args:
        client: A client for the server. ``finish`` and ``abandon`` close it.
        graph: The graph's name on the server, or an assistant's id.
        patience: How long the server may be unavailable during the run, in seconds.
        child: The child's agent, for the log.
    """

    def __init__(
        self, client: httpx.AsyncClient, graph: str, *, patience: float, child: str
    ) -> None:
        self._client = client
        self._graph = graph
        self._patience = patience
        self._child = child
        self._thread = f"/threads/{uuid.uuid4()}"
        self._id = ""
        self._may_exist = False

    async def start(self, request: SpawnRequest) -> None:
        """Start the run. It isn't started twice, even if the server's answer gets lost."""
        body: Json = {
            "assistant_id": self._graph,
            "input": {"request": request.to_wire()},
            # Aegra ignores both: it creates each thread, and this one has no other run.
            "if_not_exists": "create",
            "multitask_strategy": "reject",
        }
        self._may_exist = True
        try:
            record = await call(self._client, "POST", f"{self._thread}/runs", body=body)
        except Unreachable as error:
            if error.status == 404:
                self._may_exist = False
                raise UnexpectedStatus(404) from None
            # The run may have started regardless, and must not be started twice.
            started = await self._started_runs()
            if not started:
                raise
            record = started[0]
        except (UnexpectedStatus, ServerUnauthorized):
            self._may_exist = False
            raise
        self._id = _run_id(record)

    async def output(self, limit: int) -> Json:
        """Wait until the run is over, and return its output.

        Args:
            limit: The maximum size of the output, in bytes.

        Raises:
            Unreachable: The server was unavailable for longer than the patience.
            RunLost: There is no envelope, because the server lost the run or ended it.
        """
        patience = _Patience(self._patience)
        pause = _FIRST_PAUSE
        while (ended := await self._ended(limit, patience)) is None:
            # The connection was lost or closed while the run continues: join the run again.
            await asyncio.sleep(min(pause, max(_FIRST_PAUSE, self._patience / 4)))
            pause = min(2 * pause, _LONGEST_PAUSE)
        found, status = ended
        # A restarted server starts the run again, but the child works on a request only once.
        if not _has_envelope(found) and (patience.broke or _is_lost(found, status)):
            raise RunLost
        return found

    async def _ended(self, limit: int, patience: _Patience) -> tuple[Json, str] | None:
        """Join the run once; return its output and status, or None if it isn't over."""
        began = time.monotonic()
        try:
            found, status = await self._joined(limit)
        except Unreachable as error:
            patience.broke = True
            patience.spend(error)
            return None
        if found is not None:
            return found, status
        idle = patience.broke or status not in _GOING_ON
        if idle and time.monotonic() - began < _WAITED:
            # The server was away, or says that the run is over, and nobody may be working on it.
            patience.spend(RunLost())
        else:
            patience.reset()
        return None

    async def _joined(self, limit: int) -> tuple[Json, str]:
        """Join the run, and ask for its status meanwhile: some engines answer a join late.

        An answer without an envelope counts only if it was asked for when the run was over: engines
        also answer a join before that.
        """
        join = asyncio.create_task(self._join(limit))
        try:
            status = await self._watch(join)
            if join.done() and _has_envelope(found := join.result()):
                return found, status
            if status in _GOING_ON:
                return None, status
            last = asyncio.create_task(self._join(limit))
            try:
                # The first join may be about to deliver a large answer.
                await asyncio.wait({join, last}, return_when=asyncio.FIRST_COMPLETED)
                if join.done() and not join.exception() and _has_envelope(join.result()):
                    return join.result(), status
                return await last, status
            finally:
                last.cancel()
                await asyncio.gather(last, return_exceptions=True)
        finally:
            join.cancel()
            await asyncio.gather(join, return_exceptions=True)

    async def _watch(self, join: asyncio.Task[Json]) -> str:
        """Ask for the run's status until the join ended, or the run is over."""
        pause = _FIRST_PAUSE
        while True:
            await asyncio.wait({join}, timeout=pause)
            if join.done():
                return "success" if _has_envelope(join.result()) else await self._status()
            asked_at = time.monotonic()
            # The join shows whether the server is away.
            with suppress(*_SERVER_ERRORS):
                status = await self._status()
                if status not in _GOING_ON:
                    return status
            # Many leads that ask a busy server would keep it from its work.
            took = time.monotonic() - asked_at
            pause = min(2 * pause, _LONGEST_PAUSE)
            pause = max(pause, min(_IDLE_FACTOR * took, _BUSY_PAUSE))

    async def _join(self, limit: int) -> Json:
        return await call(self._client, "GET", f"{self._thread}/runs/{self._id}/join", limit=limit)

    async def _status(self) -> str:
        record = await call(self._client, "GET", f"{self._thread}/runs/{self._id}")
        status = record.get("status") if isinstance(record, dict) else None
        return status if isinstance(status, str) and status else "unknown"

    async def finish(self) -> None:
        """Delete the thread of a run that is over, and close the client."""
        async with self._clearing():
            await self._delete_thread()

    async def abandon(self) -> None:
        """Cancel the run, delete its thread when it is over, and close the client."""
        async with self._clearing():
            if self._may_exist:
                # Whatever the server answers: its thread has to go.
                with suppress(Exception):
                    await self._cancel()
                await self._delete_thread()

    @asynccontextmanager
    async def _clearing(self) -> AsyncIterator[None]:
        try:
            yield
        except asyncio.CancelledError:
            self._note_kept("that took too long")
            raise
        finally:
            await self._client.aclose()

    async def _cancel(self) -> None:
        if not self._id:
            for pause in _START_PAUSES:
                await asyncio.sleep(pause)
                if started := await self._started_runs():
                    self._id = _run_id(started[0])
                    break
            else:
                return
        await call(self._client, "POST", f"{self._thread}/runs/{self._id}/cancel")
        pause = _FIRST_PAUSE
        # A run that isn't over would write to the deleted thread.
        while await self._status() in _GOING_ON:
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _delete_thread(self) -> None:
        """Delete the thread, which has the input and the answer in clear."""
        try:
            await call(self._client, "DELETE", self._thread)
        except Unreachable as error:
            if error.status != 404:
                self._note_kept(f"it answered {error.status}" if error.status else "it was away")
        except UnexpectedStatus as error:
            self._note_kept(f"it answered {error.status}")
        except ServerUnauthorized:
            self._note_kept("it doesn't allow that")

    def _note_kept(self, why: str) -> None:
        _LOG.warning(
            "the server of %s was asked to delete %s, which has the task and its answer, but %s",
            self._child,
            self._thread.strip("/").replace("threads/", "thread "),
            why,
        )

    async def _started_runs(self) -> list[Json]:
        try:
            records = await call(self._client, "GET", f"{self._thread}/runs")
        except Unreachable:
            return []
        return records if isinstance(records, list) else []


class _Patience:
    """How long a server may still be unavailable.

    Attributes:
        broke: Whether the line to the server broke since the run was started.
    """

    def __init__(self, seconds: float) -> None:
        self.broke = False
        self._seconds = seconds
        self._since: float | None = None

    def spend(self, problem: Unreachable) -> None:
        """Begin or go on waiting, or raise the problem if that took too long."""
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if now - self._since >= self._seconds:
            raise problem

    def reset(self) -> None:
        """Note that the server is available."""
        self._since = None


_left: ContextVar[set[asyncio.Task[None]] | None] = ContextVar("pipelit_left", default=None)
# The event loop holds tasks weakly.
_unfinished: Final[set[asyncio.Task[None]]] = set()


@asynccontextmanager
async def clearing_up() -> AsyncIterator[None]:
    """Wait at the end, for some seconds, until what ``afterwards`` has begun is done."""
    left: set[asyncio.Task[None]] = set()
    token = _left.set(left)
    try:
        yield
    finally:
        _left.reset(token)
        await _complete(left)


async def afterwards(work: Coroutine[object, None, None]) -> None:
    """Begin work that neither hides an answer nor delays it for long.

    Within ``clearing_up`` it is awaited at the end, and otherwise here, for some seconds. Then
    it goes on by itself, as long as the event loop does. Its errors have no effect.
    """
    task = asyncio.create_task(_limited(work))
    _unfinished.add(task)
    task.add_done_callback(_forget)
    left = _left.get()
    if left is None:
        await _complete({task})
    else:
        left.add(task)


async def finish_clearing_up() -> None:
    """Wait for what ``afterwards`` has begun on this event loop, before the loop ends."""
    here = asyncio.get_running_loop()
    mine = [each for each in list(_unfinished) if each.get_loop() is here]
    await asyncio.gather(*mine, return_exceptions=True)


async def _limited(work: Coroutine[object, None, None]) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(work, _CLEAR_UP_LIMIT)


async def _complete(tasks: set[asyncio.Task[None]]) -> None:
    if tasks:
        await asyncio.wait(tasks, timeout=_CLEAR_UP_TIMEOUT)


def _forget(task: asyncio.Task[None]) -> None:
    _unfinished.discard(task)
    if not task.cancelled() and task.exception() is not None:
        # The type alone: the error may hold the server's text.
        _LOG.warning("a run could not be cleared up: %s", type(task.exception()).__name__)


def _has_envelope(found: Json) -> bool:
    return isinstance(found, dict) and "envelope" in found


def _is_lost(found: Json, status: str) -> bool:
    """Whether a server says that a run without an envelope isn't a refusal of the child's.

    That isn't proven, and needn't be: nothing of the run is used in either case.
    """
    error = found.get("__error__") if isinstance(found, dict) else None
    if not isinstance(error, dict):
        # An engine that is stopped ends its runs so. Interrupts of the child's graph have a value.
        return status == "interrupted" and not found
    name, message = error.get("error"), error.get("message")
    return (isinstance(name, str) and name in _LOST_ERRORS) or (
        isinstance(message, str) and any(words in message for words in _LOST_WORDS)
    )


def _run_id(record: Json) -> str:
    # The id becomes part of a path, so only a UUID is accepted.
    identifier = record.get("run_id") if isinstance(record, dict) else None
    if not isinstance(identifier, str):
        raise TypeError("a run must be an object with an id")
    return str(uuid.UUID(identifier))
