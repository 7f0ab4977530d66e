"""Ask people about a task before it is sent to its child.

The gate is in the node of the child, before anything of the child runs. So each task waits in a
LangGraph task of its own, and its siblings don't wait for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from itertools import count
from typing import Final, TypeAlias

from pipelit_agents import Agent, Approvers
from pipelit_agents._words import quoted
from pipelit_agents.approvals import ApprovalRequest
from pipelit_agents.approvals.calls import Call
from pipelit_agents.approvals.digest import MAX_SHOWN, canonical
from pipelit_agents.errors import NotPermitted, PayloadError, SecondFactorError
from pipelit_agents.operations.approval_notices import OnRequest
from pipelit_agents.pipelit import home_of
from pipelit_agents.protocol.payload import decode
from pipelit_agents.protocol.usernames import require_username

from ..tool_gate import Admitted, Gate, denial, lateness
from ..types import Json
from .results import AnswerUpdate, Order
from .tasks import credentials_of

__all__ = ["TaskApprovers", "TaskGate", "TaskGates"]

# One rule for all children, or a rule for each child by its name.
TaskApprovers: TypeAlias = Approvers | Mapping[str, Approvers] | None

_STOPPED: Final = (
    "the task was approved and sent before, and stopped at a question of its own. It isn't "
    "continued, because the approval was denied or has ended, and it isn't known whether it took "
    "effect. Find out whether it did before you send it again; that needs another approval"
)

# The tool of the questions, whatever the name of the graph is.
_TOOL: Final = "spawn_and_await"
# Stored in place of a result that isn't known, when this was reported.
_REPORTED: Final = b"reported"
_SENT_BEFORE: Final = (
    "the task was approved and sent before, and it isn't known whether it took effect, so it "
    "wasn't sent again. Find out whether it did before you send it again; that needs another "
    "approval"
)


class TaskGates:
    """The gates of the children of a spawn.

    Args:
        lead: The agent that sends the tasks, which the questions name.
        approvers: The people who are asked about the tasks of all children, or of each child by its
            name. None for nobody.
        on_request: Receives a notice of each question; None for none.

    Raises:
        TypeError: ``approvers`` isn't ``Approvers``, or a dict of them.
        ValueError: ``approvers`` is empty; or there is ``on_request`` without it.
        InvalidUsername: A name in ``approvers`` is malformed.
    """

    def __init__(
        self, lead: Agent, approvers: TaskApprovers, on_request: OnRequest | None = None
    ) -> None:
        self._all: TaskGate | None = None
        self._each: dict[str, TaskGate] = {}
        if approvers is None:
            if on_request is not None:
                raise ValueError("on_request belongs to approvers: pass approvers too")
            return
        if isinstance(approvers, Approvers):
            self._all = TaskGate(lead, approvers, on_request)
            return
        if not isinstance(approvers, Mapping):
            raise TypeError(
                "approvers must be Approvers([…]), or a dict of them by the child's name, not "
                f"{type(approvers).__name__}"
            )
        if not approvers:
            raise ValueError("approvers is empty: name a child, or leave it out")
        for child, rule in approvers.items():
            require_username(child, argument="approvers")
            if not isinstance(rule, Approvers):
                raise TypeError(
                    f"approvers[{quoted(child)}] must be Approvers([…]), not {type(rule).__name__}"
                )
            self._each[child] = TaskGate(lead, rule, on_request)

    @property
    def in_use(self) -> bool:
        """Whether there is a gate."""
        return self._all is not None or bool(self._each)

    def of(self, child: str) -> TaskGate | None:
        """Return the gate of a child; None if its tasks need no approval."""
        return self._all or self._each.get(child)

    def check(self, children: Iterable[str]) -> None:
        """Validate them against the children of a spawn.

        Raises:
            ValueError: They name something that isn't a child.
        """
        for child in sorted(self._each.keys() - set(children)):
            raise ValueError(
                f"approvers names {quoted(child)}, which isn't a child; the children are "
                f"{', '.join(sorted(children))}"
            )


class TaskGate:
    """Ask people before each task of a child is sent, and use their approval up.

    Args:
        lead: The agent that sends the tasks.
        rule: The people who are asked, and when.
        on_request: Receives a notice of each question; None for none.
    """

    def __init__(self, lead: Agent, rule: Approvers, on_request: OnRequest | None = None) -> None:
        home = home_of(lead)
        self.gate: Gate = Gate(home, rule, agent=lead, on_request=on_request)
        self._rule = rule
        self._calls = home.approvals.calls

    def prepare(self, order: Order) -> None:
        """Raise what would keep a task from waiting, before any task of the spawn is sent.

        Raises:
            ConfigurationError: The run has no thread or no checkpointer.
            Exception: The rule's function ``when`` raised it.
        """
        try:
            arguments = _arguments(order, order["agent"])
        except PayloadError:
            # The task is refused. Its siblings run.
            return
        self.gate.call_here(_TOOL, arguments, _call_id(order))
        self._rule.applies_to(arguments)

    def admit(self, order: Order, child: str, refused: Callable[[str], AnswerUpdate]) -> Admitted:
        """Return whether a task may be sent now, and use its approval up if it may.

        Args:
            order: The task.
            child: The child that it is sent to.
            refused: Returns the update of a task that isn't sent, or raises its failure.

        Raises:
            GraphInterrupt: People are asked, and haven't decided yet.
            ConfigurationError: The run has no thread or no checkpointer.
            StorageError: The database can't answer.
        """
        # A tool of this name can't exist, so that no tool inside of the child counts as admitted.
        label = f"a task of {child}"
        try:
            arguments = _arguments(order, child)
        except PayloadError as error:
            words = f"the task wasn't sent, because its input can't be displayed: {error}"
            return Admitted(label, None, refused(words))
        try:
            found = self._decided(order, child, arguments)
            if found is None:
                return Admitted(label)
            call, request = found
            why_not = self._why_not(call, request)
            if why_not is None:
                return self._start(label, call, refused)
        except (NotPermitted, PayloadError, SecondFactorError) as error:
            why_not = f"the task wasn't sent: {error}"
        return Admitted(label, None, refused(why_not))

    def _start(self, label: str, call: Call, refused: Callable[[str], AnswerUpdate]) -> Admitted:
        try:
            self._calls.start(call, self._rule)
        except NotPermitted:
            # Another run of the same task may have sent it just now.
            if self.gate.is_used(call):
                return Admitted(label, None, refused(_SENT_BEFORE))
            if self.gate.was_started(call):
                return Admitted(label, None, refused(_STOPPED))
            raise
        return Admitted(label, call)

    def _decided(
        self, order: Order, child: str, arguments: dict[str, Json]
    ) -> tuple[Call, ApprovalRequest] | None:
        """Return the last question about a task, decided; None if the task needs no approval.

        A node that runs again, after a retry or a resume, asks again if the task was sent and
        failed, or if nobody answered in time. An approval is for one attempt, and the question says
        which.
        """
        for attempt in count(1):
            asked = arguments if attempt == 1 else {**arguments, "attempt": attempt}
            call = self.gate.call_here(_TOOL, asked, _call_id(order))
            request = self._calls.find(call)
            if request is None:
                # A copy, so that the function can't change what people are asked.
                if attempt == 1 and not self._rule.applies_to(_arguments(order, child)):
                    return None
                request = self._calls.ask(call, self._rule)
            was_decided = self._calls.interrupts(call).waits is not None
            request = self.gate.wait(call, request)
            if request.state == "expired":
                ended = was_decided
            else:
                ended = request.state == "used" and self._calls.result(call) is not None
            if not ended:
                return call, request
        return None  # pragma: no cover - the attempts don't end

    def _why_not(self, call: Call, request: ApprovalRequest) -> str | None:
        """Return why a task isn't sent; None if it may be."""
        if request.state in ("denied", "expired") and self.gate.was_started(call):
            return _STOPPED
        if request.state == "denied":
            who, reason = denial(request)
            return f"the task wasn't sent, because {who or 'a person'} denied it{reason}"
        if request.state == "expired":
            return f"the task wasn't sent: {lateness(request)}. Send it again to ask again"
        if request.state == "used":
            self._calls.finish(call, _REPORTED)
            return _SENT_BEFORE
        return None


def _arguments(order: Order, child: str) -> dict[str, Json]:
    """Return what people approve: the input as it is sent, read from the very bytes.

    Raises:
        PayloadError: It is too long, or nested too deeply.
    """
    arguments: dict[str, Json] = {
        "agent": child,
        "input": decode(order["request"], limit=MAX_SHOWN),
    }
    if (named := credentials_of(order)) is not None:
        arguments["credentials"] = list[Json](sorted(named))
    canonical({"tool": _TOOL, "arguments": arguments})
    return arguments


def _call_id(order: Order) -> str:
    # Two inputs with the same JSON value may differ in the order of their keys.
    return f"{order['index']} {hashlib.sha256(order['request']).hexdigest()}"
