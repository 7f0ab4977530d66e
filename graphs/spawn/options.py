"""Validate the options and children of a spawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from langgraph.pregel import Pregel
from langgraph.pregel.remote import RemoteGraph

from pipelit_agents import Agent
from pipelit_agents._bounds import LONGEST_WAIT, require_count, require_seconds
from pipelit_agents._words import quoted
from pipelit_agents.pipelit import home_of
from pipelit_agents.protocol.usernames import is_username, require_username

from ..child import VerifiedChild
from ..messages import Acceptance
from ..objects import Known
from ..remote import RemoteChild, from_remote_graph
from .ceiling import Ceiling
from .gates import TaskGates
from .results import JOIN, PLAN, UNASSIGNED, Child

__all__ = ["LinkOptions", "OnFailure", "check_child", "check_children", "check_options"]

OnFailure: TypeAlias = Literal["raise", "collect"]


@dataclass(frozen=True, slots=True)
class LinkOptions:
    """The options of a spawn that apply to each of its children.

    Attributes:
        timeout: How long a child may take, in seconds; None for no limit.
        on_failure: As for ``spawn_and_await``.
        max_bytes: The maximum size of an answer.
        max_concurrency: How many children run at once.
        accept: Which messages answers may hold.
        known: Classes that values in answers may be rebuilt as.
        ceiling: The credentials that each child may open at most.
        gates: Ask people before tasks are sent.
    """

    timeout: float | None
    on_failure: OnFailure
    max_bytes: int
    max_concurrency: int | None
    accept: Acceptance
    known: Known
    ceiling: Ceiling
    gates: TaskGates


def check_options(timeout: float | None, counts: Mapping[str, int | None], on_failure: str) -> None:
    """Validate the options of a spawn.

    Raises:
        TypeError: An option has the wrong type. The message names it.
        ValueError: An option is out of range or unknown. The message names it.
    """
    if on_failure not in ("raise", "collect"):
        raise ValueError(f"on_failure is 'raise' or 'collect', not {on_failure!r}")
    if timeout is not None:
        require_seconds(timeout, "timeout", most=LONGEST_WAIT, or_="None")
    for option, value in counts.items():
        if value is not None or option != "max_concurrency":
            require_count(value, option, or_="None" if option == "max_concurrency" else "")


def check_children(lead: Agent, children: Mapping[str, Child], kinds: Mapping[str, str]) -> None:
    """Validate the children of a spawn and how they prove their answers.

    Raises:
        TypeError: A child has the wrong type. The message names it.
        ValueError: A child's name is malformed or unknown. The message names it.
    """
    if not children:
        raise ValueError("children is empty: name at least one child")
    for name in kinds.keys() - children.keys():
        raise ValueError(
            f"proof names {name!r}, which isn't a child; the children are "
            f"{', '.join(sorted(children))}"
        )
    for name, child in children.items():
        _require_key(name, child)
        check_child(lead, name, child, kinds.get(name, "bound"))


def _require_key(name: object, child: Child) -> None:
    if isinstance(child, VerifiedChild):
        own, make = child.agent.username, f'pipelit.agent("{name}")'
    elif isinstance(child, RemoteChild):
        own, make = child.name, f'remote_child("{name}", …)'
    else:
        return
    # Another form than a username's is refused with the other rules of names.
    if is_username(name) and own != name:
        raise ValueError(
            f"children[{name!r}] is the child of {quoted(own)}: use that name as the key, or make "
            f"it with {make}"
        )


def check_child(lead: Agent, name: str, child: object, kind: str = "bound") -> Child:
    """Validate one child, and return it.

    Raises:
        TypeError: It can't prove its answers, or isn't a graph.
        ValueError: Its name isn't its agent's, or can't be a child's, or it needs ``accept_from``.
    """
    require_username(name, argument="child")
    if name in (PLAN, JOIN, UNASSIGNED):
        raise ValueError(f"child {name!r}: the node uses this name for one of its own steps")
    if name == lead.username:
        raise ValueError(f"child {name!r} is the lead: create another agent for the child")
    if kind not in ("bound", "unbound-totp"):
        raise ValueError(f"proof of {name!r} must be 'bound' or 'unbound-totp', not {kind!r}")
    if kind == "unbound-totp":
        if not isinstance(child, Pregel):
            raise TypeError(f"child {name!r} must be a compiled graph: builder.compile()")
        return child
    if isinstance(child, RemoteGraph):
        from_remote_graph(name, child)
        return child
    if isinstance(child, RemoteChild):
        if child.name != name:
            raise ValueError(
                f"child {name!r} answers as {quoted(child.name)}: make it with "
                f'remote_child("{name}", …)'
            )
        return child
    if not isinstance(child, VerifiedChild):
        raise TypeError(
            f"child {name!r} can't prove its answers: wrap its graph with "
            f'verified_child(graph, pipelit.agent("{name}")), or accept a plain code with '
            f'proof={{"{name}": "unbound-totp"}}'
        )
    if child.agent.username != name:
        raise ValueError(
            f"child {name!r} answers as {quoted(child.agent.username)}: make it with "
            f'pipelit.agent("{name}")'
        )
    if child.accept_from is None and home_of(child.agent) is not home_of(lead):
        raise ValueError(
            f"child {name!r} belongs to another Pipelit than {lead.username!r}, so it needs "
            f'accept_from: verified_child(…, accept_from=["{lead.username}"]) or ANYONE. '
            "Or use one Pipelit for both"
        )
    return child
