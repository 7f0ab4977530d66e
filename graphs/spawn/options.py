"""Refuse options and children that a spawn can't work with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langgraph.pregel import Pregel
from langgraph.pregel.remote import RemoteGraph

from pipelit_agents import Agent
from pipelit_agents._bounds import LONGEST_WAIT, require_count, require_seconds
from pipelit_agents.identity.agent import home_of
from pipelit_agents.protocol.usernames import require_username

from ..child import VerifiedChild
from ..remote import RemoteChild, from_remote_graph
from .results import JOIN, PLAN, UNASSIGNED, Child

__all__ = ["check_options"]


def check_options(
    lead: Agent,
    children: Mapping[str, Child],
    kinds: Mapping[str, str],
    timeout: float | None,
    counts: Mapping[str, int | None],
    on_failure: str,
) -> None:
    """Refuse options that a spawn can't work with.

    Raises:
        ValueError: One of them is out of its range, or unknown; the message names it.
    """
    if not isinstance(children, Mapping):
        raise TypeError('children has to be a dict: {"agent_researcher": verified_child(…)}')
    if not children:
        raise ValueError("children is empty: name at least one child")
    if on_failure not in ("raise", "collect"):
        raise ValueError(f"on_failure is 'raise' or 'collect', not {on_failure!r}")
    if timeout is not None:
        require_seconds(timeout, "timeout", most=LONGEST_WAIT, or_="None")
    for option, value in counts.items():
        if value is not None or option != "max_concurrency":
            require_count(value, option, or_="None" if option == "max_concurrency" else "")
    for name in kinds.keys() - children.keys():
        raise ValueError(
            f"proof names {name!r}, which is no child; the children are "
            f"{', '.join(sorted(children))}"
        )
    for name, child in children.items():
        _check_child(lead, name, child, kinds.get(name, "bound"))


def _check_child(lead: Agent, name: str, child: Any, kind: str) -> None:
    require_username(name, argument="child")
    if name in (PLAN, JOIN, UNASSIGNED):
        raise ValueError(f"child {name!r}: the name is taken by a step of the node itself")
    if name == lead.username:
        raise ValueError(f"child {name!r} is the lead: give the child an agent of its own")
    if kind not in ("bound", "unbound-totp"):
        raise ValueError(f"proof of {name!r} is 'bound' or 'unbound-totp', not {kind!r}")
    if kind == "unbound-totp":
        if not isinstance(child, Pregel):
            raise TypeError(f"child {name!r} has to be a compiled graph: builder.compile()")
        return
    if isinstance(child, RemoteGraph):
        from_remote_graph(name, child)
        return
    if isinstance(child, RemoteChild):
        if child.name != name:
            raise ValueError(f"child {name!r} answers as {child.name!r}: use one name")
        return
    if not isinstance(child, VerifiedChild):
        raise TypeError(
            f"child {name!r} can't prove its answers: wrap its graph with "
            f'verified_child(graph, pipelit.agent("{name}")), or accept a plain code for it with '
            f'proof={{"{name}": "unbound-totp"}}'
        )
    if child.agent.username != name:
        raise ValueError(f"child {name!r} answers as {child.agent.username!r}: use one name")
    if child.accept_from is None and home_of(child.agent) is not home_of(lead):
        raise ValueError(
            f"child {name!r} is of another Pipelit than {lead.username!r}, so it has to say whom "
            f'it works for: verified_child(…, accept_from=["{lead.username}"]) or ANYONE'
        )
