"""Assemble the graph of a spawn: one node for each child, between a plan and a join."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import cast

from langgraph.graph import END, START, StateGraph
from langgraph.pregel.remote import RemoteGraph

from pipelit_agents import Agent
from pipelit_agents._threads import Apart

from ..child import VerifiedChild
from ..remote import RemoteChild, from_remote_graph
from ..steps import Step
from ..types import AnyGraph
from .bound import bound_node
from .gated import gated_node
from .graph import SpawnGraph
from .join import join_node
from .link import Parent
from .options import LinkOptions
from .plan import plan_node, unassigned_node
from .remote import remote_node
from .results import (
    JOIN,
    PLAN,
    UNASSIGNED,
    Child,
    Order,
    SpawnInput,
    SpawnOutput,
    SpawnState,
)
from .run import Run
from .tasks import Terms
from .unbound import unbound_node

__all__ = ["assemble", "called_children"]


def called_children(children: Mapping[str, Child]) -> dict[str, AnyGraph | RemoteChild]:
    """Return the children as they are called: each ``RemoteGraph`` as a ``RemoteChild``."""
    return {
        agent: from_remote_graph(agent, each) if isinstance(each, RemoteGraph) else each
        for agent, each in children.items()
    }


def assemble(
    lead: Agent,
    called: Mapping[str, AnyGraph | RemoteChild],
    terms: Terms,
    options: LinkOptions,
    *,
    max_depth: int,
    name: str,
    apart: Apart | None = None,
) -> SpawnGraph:
    """Compile the graph of a spawn.

    Args:
        lead: The agent that sends requests and verifies answers.
        called: The children by name.
        terms: The options that affect the tasks.
        options: The options that apply to each child.
        max_depth: How deep spawns may be nested.
        name: The graph's name.
        apart: Runs the children's calls apart. By default each child has one of its own.
    """
    builder = StateGraph(SpawnState, input_schema=SpawnInput, output_schema=SpawnOutput)
    possession_checks: dict[str, Callable[[Run], asyncio.Future[None]]] = {}
    for agent, child in called.items():
        kind = terms.kinds[agent]
        parent = Parent(lead, agent, child, kind, options, apart)
        node: Step
        if isinstance(child, RemoteChild):
            node = remote_node(parent, child)
        elif kind == "unbound-totp":
            node = unbound_node(parent, child)
        else:
            node = bound_node(parent, cast(VerifiedChild, child))
            start = partial(parent.possession.start, child=cast(VerifiedChild, child))
            possession_checks[agent] = start
        if (gate := options.gates.of(agent)) is not None:
            # The child does nothing before people approved a task.
            possession_checks.pop(agent, None)
            node = gated_node(parent, gate, node)
        builder.add_node(agent, node, input_schema=Order)
        builder.add_edge(agent, JOIN)
    destinations = [*called, JOIN]
    if options.on_failure == "collect":
        builder.add_node(UNASSIGNED, unassigned_node(), input_schema=Order)
        builder.add_edge(UNASSIGNED, JOIN)
        destinations.append(UNASSIGNED)
    plan = plan_node(lead, terms, max_depth, possession_checks, options.gates)
    builder.add_node(PLAN, plan, destinations=tuple(destinations))
    builder.add_node(JOIN, join_node(terms), input_schema=SpawnState)
    builder.add_edge(START, PLAN)
    builder.add_edge(JOIN, END)
    compiled = builder.compile(name=name)
    return SpawnGraph(
        terms=terms,
        max_concurrency=options.max_concurrency,
        gated=options.gates.in_use,
        **vars(compiled),
    )
