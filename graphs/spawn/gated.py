"""The node of a child whose tasks need an approval."""

from __future__ import annotations

from langchain_core.runnables import RunnableConfig

from ..steps import Step
from ..tool_gate import Admitted
from .gates import TaskGate
from .link import Parent
from .results import AnswerUpdate, Order, make_result
from .run import run_of

__all__ = ["gated_node"]


def gated_node(parent: Parent, gate: TaskGate, node: Step) -> Step:
    """Return the node of a child that sends a task only if people approved it.

    Args:
        parent: The link to the child.
        gate: Asks the people.
        node: The node of the child.
    """

    def admit(order: Order, config: RunnableConfig) -> Admitted:
        def refused(words: str) -> AnswerUpdate:
            result = make_result(parent.name, "refused", error=words)
            return parent.finish(order, run_of(config), result)

        return gate.admit(order, parent.name, refused)

    def run(order: Order, config: RunnableConfig) -> object:
        return gate.gate.run(lambda: admit(order, config), lambda: node.invoke(order, config))

    async def arun(order: Order, config: RunnableConfig) -> object:
        return await gate.gate.arun(
            lambda: admit(order, config), lambda: node.ainvoke(order, config)
        )

    return node.replaced(run, arun)
