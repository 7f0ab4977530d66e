"""The node of a plain graph that answers with a TOTP code of its agent."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import cast

from langchain_core.runnables import RunnableConfig
from langgraph.runtime import RunControl

from pipelit_agents._threads import aside
from pipelit_agents.errors import PayloadError

from ..codec import state_from_bytes, state_to_bytes
from ..schemas import known_inputs
from ..steps import GraphStep, Step
from ..types import AnyGraph
from .attempts import acontained, contained
from .containment import Containment
from .isolation import MaskedChildErrors
from .link import Parent
from .results import AnswerUpdate, Order, SpawnResult
from .run import run_of

__all__ = ["unbound_node"]


def unbound_node(parent: Parent, child: AnyGraph) -> Step:
    """Return the node that calls a plain graph and verifies its agent's TOTP code."""
    graph = child

    def child_input(order: Order) -> object:
        known = known_inputs(graph)
        return state_from_bytes(order["request"], limit=len(order["request"]), known=known)

    def run(order: Order, config: RunnableConfig) -> AnswerUpdate:
        run_of(config).emit("running", order)
        inherited = parent.config(order, config)

        def work(control: RunControl | None) -> tuple[str, bytes]:
            with parent.limited(order), MaskedChildErrors(partial(parent.interrupt, order)):
                return _code_and_output(
                    graph.invoke(child_input(order), inherited, control=control)
                )

        verify_answer = partial(parent.verify_code, order)
        return parent.finish(order, run_of(config), contained(parent, work, verify_answer))

    async def arun(order: Order, config: RunnableConfig) -> AnswerUpdate:
        run_of(config).emit("running", order)
        inherited = parent.config(order, config)

        async def work() -> tuple[str, bytes]:
            masked = MaskedChildErrors(partial(parent.interrupt, order))
            with parent.limited(order), masked, Containment():
                return _code_and_output(await graph.ainvoke(child_input(order), inherited))

        async def verify_answer(answer: tuple[str, bytes]) -> SpawnResult:
            return await aside(parent.verify_code, order, answer)

        return parent.finish(order, run_of(config), await acontained(parent, work, verify_answer))

    return GraphStep(run, arun, graph)


def _code_and_output(answer: object) -> tuple[str, bytes]:
    fields = dict(cast(Mapping[object, object], answer))
    code = fields.get("code")
    if fields.keys() != {"code", "output"} or type(code) is not str:
        raise PayloadError("an unbound child has to answer with exactly 'code' and 'output'")
    return code, state_to_bytes(fields["output"])
