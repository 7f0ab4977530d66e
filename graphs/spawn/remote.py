"""The node of a child on another machine."""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import nullcontext
from typing import TypeVar, cast

from langchain_core.runnables import RunnableConfig

from pipelit_agents._threads import aside
from pipelit_agents.errors import ProofRejected

from ..remote import RemoteChild
from ..remote_run import clearing_up, finish_clearing_up
from ..steps import Step
from .attempts import acontained
from .containment import Containment
from .isolation import SERVER_ERRORS, MaskedChildErrors, NoEnvelope
from .link import Parent
from .results import AnswerUpdate, Order, SpawnResult
from .run import run_of
from .timeouts import GRACE

__all__ = ["remote_node"]

T = TypeVar("T")


def remote_node(parent: Parent, child: RemoteChild) -> Step:
    """Return the node that calls a child on another machine and verifies its proof."""

    async def arun(order: Order, config: RunnableConfig) -> AnswerUpdate:
        run_of(config).emit("running", order)
        challenge = parent.fresh_challenge()

        async def work() -> object:
            request = await aside(parent.make_remote_request, order, challenge)
            # A subclass of RemoteChild is not our code, so it is isolated like a local child.
            trusted = type(child) is RemoteChild
            with (
                nullcontext() if trusted else MaskedChildErrors(also=SERVER_ERRORS),
                nullcontext() if trusted else Containment(),
            ):
                try:
                    return await child.answer(request, parent.lead, limit=parent.max_bytes)
                except ProofRejected:
                    raise NoEnvelope from None

        async def verify_answer(answer: object) -> SpawnResult:
            return await aside(parent.verify_answer, order, challenge, answer)

        async with clearing_up():
            result = await acontained(parent, work, verify_answer)
        return parent.finish(order, run_of(config), result)

    def run(order: Order, config: RunnableConfig) -> AnswerUpdate:
        return _on_another_loop(lambda: arun(order, config))

    return Step(run, arun, child.name)


def _on_another_loop(work: Callable[[], Coroutine[object, None, T]]) -> T:
    # The calling thread may already run an event loop, as in a notebook.
    began: queue.SimpleQueue[tuple[asyncio.AbstractEventLoop, asyncio.Task[object]]]
    began, done = queue.SimpleQueue(), Future[T]()

    async def run_and_report() -> None:
        began.put((asyncio.get_running_loop(), cast(asyncio.Task[object], asyncio.current_task())))
        try:
            done.set_result(await work())
        except BaseException as error:
            # Set here, because closing the loop may wait for a DNS lookup.
            done.set_exception(error)
        # The caller has its result, and doesn't wait for this thread.
        await finish_clearing_up()

    def run() -> None:
        asyncio.run(run_and_report())

    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), daemon=True)
    thread.start()
    try:
        return done.result()
    except BaseException:
        if not done.done():
            # The calling thread was interrupted, so the other thread's run has to end too.
            loop, task = began.get()
            loop.call_soon_threadsafe(task.cancel)
            thread.join(GRACE)
        raise
