"""Explain, in the parent's own words, why a child's answer isn't used."""

from __future__ import annotations

from typing import NamedTuple

from pipelit_agents import Agent
from pipelit_agents._threads import Stuck
from pipelit_agents.errors import PayloadError, RequestRefused, UserNotFound, VerificationError
from pipelit_agents.pipelit import home_of

from ..remote import RunLost, ServerUnauthorized, UnexpectedStatus, Unreachable
from .isolation import ChildTimeout, UnanswerableInterrupt, UndisplayableInterrupt
from .results import Status

__all__ = ["Refusal", "refusal_for"]


class Refusal(NamedTuple):
    """Why an answer isn't used.

    Attributes:
        words: The message for the result. It quotes nothing of the child's.
        reason: The reason for the audit. Empty if the verifier already wrote it.
        status: The status of the result.
    """

    words: str
    reason: str
    status: Status = "refused"


def refusal_for(
    error: Exception, *, lead: Agent, name: str, timeout: float | None, possession_timeout: float
) -> Refusal:
    """Return why a child's answer isn't used.

    Args:
        error: The failure. It isn't quoted.
        lead: The agent that sent the request.
        name: The child's agent.
        timeout: How long the child may take, in seconds.
        possession_timeout: How long it may take to prove possession, in seconds.

    Raises:
        PipelitError: The parent's own database or key failed.
    """
    if isinstance(error, VerificationError):
        return Refusal("the answer is not proven to be this child's answer to this request", "")
    if isinstance(error, ChildTimeout):
        words = f"no answer within {timeout:g} seconds (timeout=)"
        return Refusal(words, "no answer in time", "timeout")
    if isinstance(error, UndisplayableInterrupt):
        return Refusal(
            "the child's interrupt can't be displayed: its value can't be carried, or is "
            "larger than max_answer_bytes",
            "interrupt can't be carried",
        )
    if isinstance(error, Stuck):
        return Refusal(
            f"the child didn't prove within {possession_timeout:g} seconds that it holds "
            "its secret, so the task wasn't sent",
            "no possession in time",
            "timeout",
        )
    if isinstance(error, RunLost):
        return Refusal(
            "the child's server lost the run, ended it, or delivered it again or too late: no "
            "answer was used, so you can send the task again",
            "run lost",
            "unreachable",
        )
    if isinstance(error, Unreachable):
        return Refusal(
            "the child's server is unavailable: no answer was used, so you can send the task again",
            "unreachable",
            "unreachable",
        )
    if isinstance(error, UnexpectedStatus):
        return Refusal(
            f"the child's server answered {error.status}: check the url, and that the server "
            "has a graph of that name",
            f"answered {error.status}",
        )
    if isinstance(error, ServerUnauthorized):
        return Refusal(
            "the child's server doesn't accept the API key: check the child's credential",
            "API key not accepted",
        )
    if isinstance(error, UnanswerableInterrupt):
        return Refusal(
            "the child was interrupted and waits for a person's answer, but this spawn runs "
            "outside a graph: call it in a graph that has a checkpointer",
            "interrupted outside a graph",
        )
    if isinstance(error, RequestRefused):
        words = f"the child doesn't accept {lead.username!r}: check its accept_from"
        return Refusal(words, "the child refused the request")
    if isinstance(error, PayloadError):
        words = "the answer can't be read as a payload, or is larger than max_answer_bytes"
        return Refusal(words, "no payload, or too large")
    return _account_problem(lead, name) or Refusal(
        "the child ended without a proven answer: its graph left around its output (as by "
        "Command.PARENT), it refused the request (accept_from), or its own account, "
        "database or key can't be used where it runs; its log says more",
        "no envelope",
    )


def _account_problem(lead: Agent, name: str) -> Refusal | None:
    try:
        account = home_of(lead).users.get(name)
    except UserNotFound:
        return Refusal(
            f"there is no account {name!r} in the lead's database; see all agents with: "
            "pipelit-agents agents list; create this one with: "
            f"pipelit-agents agents create {name} --owner … --purpose …",
            "peer unknown",
        )
    if not account.active:
        return Refusal(f"{name!r} was deactivated in the lead's database", "peer inactive")
    if account.kind == "human":
        return Refusal(f"{name!r} is a person: a child must be an agent", "peer is a person")
    return None
