"""The node of a local child that proves its answers."""

from __future__ import annotations

from functools import partial

from langchain_core.runnables import RunnableConfig
from langgraph.runtime import RunControl

from ..child import VerifiedChild
from ..steps import GraphStep, Step
from .attempts import acontained, contained
from .containment import Containment
from .isolation import MaskedChildErrors
from .link import Parent
from .results import AnswerUpdate, Order, SpawnResult
from .run import run_of

__all__ = ["bound_node"]


def bound_node(parent: Parent, child: VerifiedChild) -> Step:
    """Return the node that calls a local child and verifies its proof."""

    def run(order: Order, config: RunnableConfig) -> AnswerUpdate:
        spawn = run_of(config)
        spawn.emit("running", order)
        inherited, challenge = parent.config(order, config), parent.challenge(order)

        def work(control: RunControl | None) -> object:
            request = parent.make_request(spawn, child, order, challenge)
            with parent.limited(order), MaskedChildErrors(partial(parent.interrupt, order)):
                return child.answer(request, inherited, control)

        def verify_answer(answer: object) -> SpawnResult:
            return parent.verify_answer(order, challenge, answer)

        return parent.finish(order, spawn, contained(parent, work, verify_answer))

    async def arun(order: Order, config: RunnableConfig) -> AnswerUpdate:
        spawn = run_of(config)
        spawn.emit("running", order)
        inherited, challenge = parent.config(order, config), parent.challenge(order)

        async def work() -> object:
            request = await parent.amake_request(spawn, child, order, challenge)
            masked = MaskedChildErrors(partial(parent.interrupt, order))
            with parent.limited(order), masked, Containment():
                return await child.aanswer(request, inherited)

        async def verify_answer(answer: object) -> SpawnResult:
            return await parent.averify_answer(order, challenge, answer)

        return parent.finish(order, spawn, await acontained(parent, work, verify_answer))

    return GraphStep(run, arun, child.graph)
