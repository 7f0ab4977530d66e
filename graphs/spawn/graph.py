"""The graph of a spawn: how it begins a run, or resumes the one that answers its tasks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.config import get_stream_writer
from langgraph.types import StateSnapshot

from pipelit_agents.errors import SpawnError

from ..siblings import with_siblings
from ..tool_gate import task_here
from ..types import AnyGraph, AnyStateGraph
from .calls import Call
from .isolation import ChildFailed
from .resume_values import waiting_tasks
from .run import RUN, Run, spawn_error
from .tasks import Terms, all_answer, has_other_credentials, marks_of_all, tasks_of
from .turns import is_repeat

__all__ = ["SpawnGraph", "ending_together"]


def ending_together(spawn: SpawnGraph) -> AbstractAsyncContextManager[None]:
    """Return a block that lets the calls of one LangGraph task end together.

    A call that waits for people would otherwise leave others behind, which have sent their tasks.

    Args:
        spawn: The spawn that is called. If its tasks need no approval, the block does nothing.
    """
    here = task_here()
    return with_siblings(here) if spawn.gated and any(here) else nullcontext()


class SpawnGraph(AnyStateGraph):
    """The compiled node. Create one with ``spawn_and_await``.

    Args:
        terms: The options of the node.
        max_concurrency: How many children run at once.
        gated: Whether tasks may need an approval.
        state_graph: Arguments of LangGraph's ``CompiledStateGraph``.
    """

    def __init__(
        self,
        *,
        terms: Terms,
        max_concurrency: int | None = None,
        gated: bool = False,
        **state_graph: Any,
    ) -> None:
        state_graph.pop("_serde_allowlist", None)
        super().__init__(**state_graph)
        self.terms = terms
        self.max_concurrency = max_concurrency
        self.gated = gated

    async def ainvoke(
        self,
        input: object,  # noqa: A002 - the name that LangGraph calls it by
        config: RunnableConfig | None = None,
        **options: Any,
    ) -> Any:
        """Invoke as LangGraph does.

        If people have to approve tasks, a call that fails or waits for them ends after the other
        calls of the same LangGraph task, which may have sent approved tasks.

        Raises:
            SpawnError: A child failed. The error is raised when its siblings have finished.
        """
        async with ending_together(self):
            return await super().ainvoke(input, config, **options)

    def stream(
        self,
        input: object,  # noqa: A002 - the name that LangGraph calls it by
        config: RunnableConfig | None = None,
        **options: Any,
    ) -> Iterator[Any]:
        """Stream as LangGraph does.

        Raises:
            SpawnError: A child failed. The error is raised when its siblings have finished.
        """
        call, run = self._begin(input, config)
        yield from self.proceed(call, run, input, config, options)

    def proceed(
        self,
        call: Call,
        run: Run,
        given: object,
        config: RunnableConfig | None,
        options: dict[str, Any],
    ) -> Iterator[Any]:
        """Continue ``stream`` when the call has its namespace."""
        if call.resuming:
            saved = self.get_state(call.record_config())
            self._compare_with_record(call, run, given, saved, call.parent())
        configured = self._configured(call, run, config)
        try:
            yield from super().stream(given, configured, **options)
        except ChildFailed:
            pass
        else:
            return
        with suppress(ValueError):  # no saver
            run.load_saved_results(self.get_state(call.record_config()))
        raise spawn_error(run)

    async def astream(
        self,
        input: object,  # noqa: A002 - the name that LangGraph calls it by
        config: RunnableConfig | None = None,
        **options: Any,
    ) -> AsyncIterator[Any]:
        """Async form of ``stream``."""
        call, run = self._begin(input, config)
        async for chunk in self.aproceed(call, run, input, config, options):
            yield chunk

    async def aproceed(
        self,
        call: Call,
        run: Run,
        given: object,
        config: RunnableConfig | None,
        options: dict[str, Any],
    ) -> AsyncIterator[Any]:
        """Async form of ``proceed``."""
        if call.resuming:
            saved = await self.aget_state(call.record_config())
            self._compare_with_record(call, run, given, saved, await call.aparent())
        configured = self._configured(call, run, config)
        try:
            async for chunk in super().astream(given, configured, **options):
                yield chunk
        except ChildFailed:
            pass
        else:
            return
        with suppress(ValueError):  # no saver
            run.load_saved_results(await self.aget_state(call.record_config()))
        raise spawn_error(run)

    def _begin(self, state: object, config: RunnableConfig | None) -> tuple[Call, Run]:
        # Nothing may be awaited before a call has its namespace: equal calls are distinguished by
        # their order.
        try:
            # Inside the node there would be a nested writer, which may have no destination.
            write: Callable[[object], None] | None = get_stream_writer()
        except (KeyError, RuntimeError):
            # The call is outside any graph, or in a runnable that isn't a graph.
            write = None
        call, run = Call(self, config), Run(write)
        run.alone = not call.nested and call.saver is None
        run.repeats = is_repeat(self, call.configurable)

        def digest() -> bytes:
            run.read = self.terms.read(tasks_of(state) or [])
            return self.terms.call_digest(self.get_name(), run.read)

        def same(other: AnyGraph) -> bool:
            # Both call the same agents, because the digests of their tasks are equal.
            return isinstance(other, SpawnGraph) and self.terms.is_same(
                other.terms, [each.agent for each in run.read or ()]
            )

        call.assign_namespace(digest, same)
        return call, run

    def _configured(self, call: Call, run: Run, config: RunnableConfig | None) -> RunnableConfig:
        configured = cast(
            RunnableConfig, {**(config or {}), "configurable": {**call.configurable, RUN: run}}
        )
        if self.max_concurrency is not None and configured.get("max_concurrency") is None:
            configured["max_concurrency"] = self.max_concurrency
        return configured

    def _compare_with_record(
        self,
        call: Call,
        run: Run,
        state: object,
        saved: StateSnapshot,
        parent: CheckpointTuple | None,
    ) -> None:
        """Compare the record with the input, and restart the run if they don't match.

        Raises:
            SpawnError: A task names a child that was removed.
        """
        if "tasks" not in saved.values:
            # The recorded run ended before it read its input.
            return
        tasks = tasks_of(state)
        if tasks is not None:
            if run.repeats:
                run.read = []
            elif run.read is None:
                run.read = self.terms.read(tasks)
            marks = marks_of_all(run.read)
            recorded = saved.values.get("requested")
            if recorded != marks and marks_of_all(self.terms.read(saved.values["tasks"])) != marks:
                call.restart()
                return
            if has_other_credentials(saved.values["tasks"], run.read):
                # The recorded orders would let the children open other credentials.
                call.restart()
                return
            if call.keyed and self.terms.has_other_forms(saved.values.get("forms"), run.read):
                call.restart()
                return
            gone = [each.problem for each in run.read if each.problem is not None]
            if not saved.tasks:
                results = saved.values.get("results")
                if not all_answer(results, run.read):
                    if gone and self.terms.on_failure == "raise":
                        raise SpawnError(self.terms.why_not_resumed(gone))
                    call.restart()
                    return
            elif gone and self.terms.on_failure == "raise":
                raise SpawnError(self.terms.why_not_resumed(gone))
        run.waiting = waiting_tasks(call.configurable, state, saved, parent)
