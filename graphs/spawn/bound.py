"""The node of a local child that proves each of its answers."""

from __future__ import annotations

from functools import partial
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.runtime import RunControl

from ..child import ShowingStep, Step, VerifiedChild
from .attempts import acontained, contained
from .containment import Containment
from .isolation import MaskedChildErrors
from .link import Parent
from .results import Order, SpawnResult
from .run import run_of

__all__ = ["bound_node"]


def bound_node(parent: Parent, child: VerifiedChild) -> Step:
    """Return the node that asks a local child and verifies its proof."""

    def run(order: Order, config: RunnableConfig) -> dict[str, Any]:
        spawn = run_of(config)
        spawn.tell("running", order)
        inherited, challenge = parent.config(order, config), parent.challenge(order)

        def work(control: RunControl | None) -> Any:
            request = parent.ask(spawn, child, order, challenge)
            with MaskedChildErrors(partial(parent.interrupt, order)):
                return child.answer(request, inherited, control)

        def believe(answer: Any) -> SpawnResult:
            return parent.believe(order, challenge, answer)

        return parent.finish(order, spawn, contained(parent, work, believe))

    async def arun(order: Order, config: RunnableConfig) -> dict[str, Any]:
        spawn = run_of(config)
        spawn.tell("running", order)
        inherited, challenge = parent.config(order, config), parent.challenge(order)

        async def work() -> Any:
            request = await parent.aask(spawn, child, order, challenge)
            with MaskedChildErrors(partial(parent.interrupt, order)), Containment():
                return await child.aanswer(request, inherited)

        async def believe(answer: Any) -> SpawnResult:
            return await parent.abelieve(order, challenge, answer)

        return parent.finish(order, spawn, await acontained(parent, work, believe))

    return ShowingStep(run, arun, child.graph)
