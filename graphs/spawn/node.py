"""The parent's side of a spawn: run tasks on children and accept only proven answers.

LangGraph runs the children: each is a ``Send`` with its own task, namespace, stream and
cancellation. This module creates the challenges, and passes only verified answers to the parent.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import Final

from pipelit_agents import Agent
from pipelit_agents._threads import Apart
from pipelit_agents.identity.agent import require_handle
from pipelit_agents.operations.approval_notices import OnRequest

from ..messages import DEFAULT_MESSAGES, Acceptance, required_kinds
from ..remote import RemoteChild
from ..schemas import known_classes
from .assembly import assemble, called_children
from .ceiling import Ceiling, ChildCredentials
from .finding import FindChild, Finder, Found, FoundTerms, required_function
from .found_graph import FoundGraphs, FoundSpawnGraph
from .gates import TaskApprovers, TaskGates
from .graph import SpawnGraph
from .options import LinkOptions, OnFailure, check_children, check_options
from .results import Child, ProofKind
from .tasks import Terms

__all__ = ["spawn_and_await"]

_DEFAULT_MAX_BYTES: Final = 8 * 2**20


def spawn_and_await(
    lead: Agent,
    children: Mapping[str, Child] | FindChild,
    *,
    timeout: float | None = None,
    max_concurrency: int | None = None,
    max_depth: int = 3,
    on_failure: OnFailure = "raise",
    proof: Mapping[str, ProofKind] | None = None,
    max_answer_bytes: int = _DEFAULT_MAX_BYTES,
    name: str = "spawn_and_await",
    accept_messages: Collection[str] = DEFAULT_MESSAGES,
    tool_calls: bool = False,
    answer_types: Collection[type] = (),
    credentials: ChildCredentials = None,
    approvers: TaskApprovers = None,
    on_request: OnRequest | None = None,
) -> SpawnGraph:
    """Create a graph node that runs tasks on children and accepts only proven answers.

    The node reads ``state["tasks"]``, a list of ``{"agent": …, "input": …}``; a task may also name
    the ``credentials`` that its child needs. It writes
    ``state["results"]``, one ``SpawnResult`` for each task, in the same order. Declare both
    keys in the graph's state: LangGraph silently drops undeclared keys. The node emits
    ``{"type": "pipelit.spawn", "event": …, "agent": …, "index": …}`` on LangGraph's custom stream,
    with the event spawned, running, verified, refused or failed.

    When a node's function, a tool or a task calls the graph, the run is resumed by its input, in
    any order of calls. As a node, also of a sub-graph that is a node, it runs only tasks that were
    written after a spawn node last ran, or that a loop within the turn brings back. A later turn
    without new tasks has no results. A function that calls it, and ``Send``, supply their own
    tasks. When the node fails, LangGraph keeps the state from before the node, including
    ``results`` of an earlier turn. Each result names the request that it answers.

    Args:
        lead: The agent that sends requests and verifies answers.
        children: The children by the name of their agent. Each is a ``verified_child``; a
            ``remote_child`` or ``RemoteGraph`` that is a verified child on its server; or any
            compiled graph if ``proof`` is ``unbound-totp`` for it. Or a function from a name to a
            child that proves its answers, such as ``created_agents``. It is called once for
            each name in the tasks of a run, and again when a run is resumed or retried. It returns
            None or raises ``UserNotFound``, ``UserInactive``, ``NotLocalAgent`` or ``NotPermitted``
            for a name without a child; any other exception ends the run. The names may come from a
            model: they are usernames, and never the lead's. A task for a name without a child, or
            with a child that a dict may not have, gets the result ``refused``, as does one for a
            name that the function takes too long for. A synchronous function runs in a thread of
            its own. An async function works with ``ainvoke``, ``astream`` and ``aget_state`` only.
        timeout: How long one child may take, in seconds, at most 30 days; None for no limit. A
            child that takes longer is stopped at its next step. It is also how long a function may
            take to find one child; without a timeout, that is 60 seconds.
        max_concurrency: How many children run at once. The caller's config takes precedence.
        max_depth: How deep spawns may be nested.
        on_failure: ``raise`` raises ``SpawnError`` when all siblings have finished. With a
            checkpointer, a resume or a retry by LangGraph's ``RetryPolicy`` runs only the failed
            children again. ``collect`` puts failures in the results.
        proof: For each child ``bound`` (the default) or ``unbound-totp``: a graph whose output is
            exactly ``{"code": …, "output": …}``, with the plain code of its authenticator. The code
            proves that the agent is present, and nothing about the output. Children that a function
            finds are always ``bound``.
        max_answer_bytes: The maximum size of an answer, and of the interrupts of a child together.
        name: The graph's name, in traces and where one node calls several graphs. Two graphs with
            the same name, lead and tasks are distinguished by the names of their children's
            graphs, nodes and functions. If one function of yours creates several, pass different
            names. Functions that find children are compared with their values, such as a partial's
            arguments: equal calls of two that differ raise ``ConfigurationError``. Equal calls of
            one graph in a node are distinguished by their order only: if the
            first is left out when the node runs again, the second gets its record.
        accept_messages: The types of messages that answers may hold: ``ai``, ``human``, ``tool``,
            ``system``, ``function``, ``chat``, ``remove``. Others are omitted, and the result lists
            them. A proof authenticates the sender of a message, but doesn't make the message
            harmless to the state that it is added to.
        tool_calls: Whether messages in answers may call tools. If not, the calls are removed, as is
            content that calls a provider's tool.
        answer_types: Classes (enums, pydantic models, dataclasses, named tuples) that values in
            answers may be rebuilt as. The classes in the output schema of a local child are always
            known. A value of another class arrives in its JSON form.
        credentials: The credentials that the children may open at most, each as ``credential`` or
            ``credential:field``, and an empty list for none; or a dict of such lists by the child's
            name, with None for a child without a limit. None for no limit. A task's
            ``credentials`` and the limit of the parent's own task narrow it further. Another
            credential raises ``CredentialNotAllowed`` in the child, in its sub-graphs and in its
            own children. Children that a function finds, and that a dict doesn't name, open none.
            A child on another machine opens the credentials of its own deployment and can't be
            limited here. This is no boundary against hostile code in the same process.
        approvers: The people who are asked before a task is sent, to any child; or a dict of
            ``Approvers`` by the child's name, so that the tasks of other children need no approval.
            If ``children`` is a function, nothing tells you that a name in the dict is misspelled.
            A person approves exactly one task: ``{"agent": …, "input": …}``, with the input as it
            is sent, messages in their written form, and the task's ``credentials`` if it names
            some. The question interrupts the graph, which needs a checkpointer and a thread. Any
            resume wakes it, and the answer is read from the database. Each task waits by itself,
            before its child proves anything, and the time doesn't count for ``timeout``. A task
            that people denied, that nobody approved in time, or whose input can't be displayed as
            JSON of at most 1 MiB, has the result ``refused``, with the reason. An approval is used
            up before the task is sent. If the process is killed then, the task isn't sent again
            with it. With ``on_failure="raise"`` a resume or a retry asks again about a task that
            was sent and failed, as attempt 2, and about one that nobody approved in time; a denial
            stays. A name that a function finds and that the dict doesn't have needs no approval.
            At most 50 questions of a thread wait at once, or 200 of the person for whom it runs;
            further tasks are refused. Display a question as ``pipelit.approvals`` returns it: an
            interrupt that comes through a child holds what that child says.
        on_request: Receives a notice of each question: a function, or a webhook.

    Returns:
        A compiled graph, to be added as a node. When it runs, it also raises ``SpawnError`` if the
        state has no ``tasks``.

    Raises:
        TypeError: A child can't prove its answers, and ``proof`` doesn't allow that; or an option
            has the wrong type; or, when the node runs synchronously, the function is async.
        ValueError: A child's name isn't its agent's, a child needs ``accept_from``, or an option is
            out of range; or ``credentials`` names something that isn't a local child, or leaves
            one out; or ``approvers`` is empty or names something that isn't a child.
        CredentialError: A name in ``credentials`` can't be that of a credential. Whether there is
            such a credential is known when it is opened.
        InvalidUsername: A name in ``approvers`` is malformed.

    Example:
        ```python
        child = verified_child(research_graph, pipelit.agent("agent_researcher"))
        builder.add_node("delegate", spawn_and_await(lead, {"agent_researcher": child}))
        ```
    """
    require_handle(lead, "lead")
    counts = {
        "max_concurrency": max_concurrency,
        "max_depth": max_depth,
        "max_answer_bytes": max_answer_bytes,
    }
    check_options(timeout, counts, on_failure)
    accept = Acceptance(required_kinds(accept_messages), tool_calls)
    ceiling = Ceiling(credentials)
    gates = TaskGates(lead, approvers, on_request)
    options = LinkOptions(
        timeout,
        on_failure,
        max_answer_bytes,
        max_concurrency,
        accept,
        known_classes(answer_types),
        ceiling,
        gates,
    )
    assembled = partial(assemble, lead, options=options, max_depth=max_depth, name=name)
    kinds = dict(proof or {})
    if isinstance(children, Mapping):
        # Copied, because a child that is added later has no node.
        children = dict(children)
        check_children(lead, children, kinds)
        called = called_children(children)
        bound: dict[str, ProofKind] = dict.fromkeys(children, "bound")
        remote = {agent for agent, each in called.items() if isinstance(each, RemoteChild)}
        ceiling.check(called.keys() - remote, remote)
        gates.check(called)
        return assembled(
            called, Terms(lead.username, bound | kinds, remote, on_failure, accept, called, ceiling)
        )
    finder = Finder(lead, required_function(lead, children, kinds), timeout)

    def make(found: Found, apart: Apart | None = None) -> SpawnGraph:
        called = called_children(found.children)
        terms = FoundTerms(lead.username, on_failure, accept, called, finder, found.unfit, ceiling)
        return assembled(called, terms, apart=apart)

    none_yet = make(Found({}, {}, {}))
    return FoundSpawnGraph(finder=finder, graphs=FoundGraphs(make), **vars(none_yet))
