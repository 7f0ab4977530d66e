"""Let a tool run once, with the arguments that people approved, and not before.

The gate is in a copy of a tool (see ``gated_tool``), so it is where the arguments arrive after all
middleware. LangGraph runs a waiting task again from its start whenever the graph
is resumed. At each run the gate reads the answer from the database. A resume value only wakes it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from threading import Lock
from typing import Final, NamedTuple, TypeVar

from langchain_core.messages import ToolCall, ToolMessage
from langgraph.config import get_config
from langgraph.errors import GraphInterrupt
from langgraph.types import interrupt

from pipelit_agents import Agent, Approvers, Pipelit
from pipelit_agents._forks import reset_in_forked_children
from pipelit_agents._threads import handed_over, to_its_end
from pipelit_agents.approvals import ApprovalRequest
from pipelit_agents.approvals.calls import Call
from pipelit_agents.errors import (
    ConfigurationError,
    NotPermitted,
    PayloadError,
    PipelitError,
    SecondFactorError,
)
from pipelit_agents.identity.agent import require_handle
from pipelit_agents.operations.approval_notices import OnRequest, require_on_request

from .approval import QUESTION
from .call_arguments import json_object
from .gate_guard import running_gated
from .interrupts import RESUMED
from .siblings import with_siblings
from .spawn.internals import (
    NAMESPACE,
    SCRATCHPAD,
    THREAD_ID,
    Configurable,
    Scratchpad,
    keeps_checkpoints,
)
from .tool_results import error_to_bytes, is_suspended, result_from_bytes, result_to_bytes
from .types import Json

__all__ = [
    "Admitted",
    "Gate",
    "denial",
    "error_message",
    "lateness",
    "task_here",
    "undisplayable",
]

T = TypeVar("T")

_ASK_FIRST: Final = (
    "Find out whether it did before you call {tool} again; another call needs another approval"
)


class Admitted(NamedTuple):
    """The result of a gate: the tool may run, or something is returned in its place.

    Attributes:
        tool: The tool's name.
        call: The call whose approval was used up; None if it needed no approval.
        instead: What is returned in place of the tool's result; None if the tool may run.
        arguments: The arguments with which the tool has to start; None if the gate passes them.
    """

    tool: str
    call: Call | None = None
    instead: object = None
    arguments: Mapping[str, Json] | None = None


class Gate:
    """Ask people before each call of one tool, and use their approval up.

    Args:
        pipelit: The Pipelit with the approvers' accounts.
        rule: The people who are asked, and when.
        agent: The agent that calls the tool, named in the question; None for no agent.
        on_request: Delivers notices of questions; see ``approved_tool``.

    Raises:
        TypeError: An argument is of another type.
    """

    def __init__(
        self,
        pipelit: Pipelit,
        rule: Approvers,
        *,
        agent: Agent | None = None,
        on_request: OnRequest | None = None,
    ) -> None:
        if not isinstance(pipelit, Pipelit):
            raise TypeError("pipelit must be the Pipelit with the approvers' accounts")
        if not isinstance(rule, Approvers):
            raise TypeError(f"the rule must be Approvers([…]), not {type(rule).__name__}")
        if agent is not None:
            require_handle(agent)
        self.rule = rule
        self._calls = pipelit.approvals.calls
        self._agent = "" if agent is None else agent.username
        self._on_request = None if on_request is None else require_on_request(on_request)
        self._notices = pipelit.approvals.notices

    def admit(
        self,
        tool: str,
        arguments: Mapping[str, Json],
        call_id: str | None,
        *,
        always: bool = False,
    ) -> Admitted:
        """Return whether a call may run now, and use its approval up if it may.

        Args:
            tool: The tool's name.
            arguments: The exact arguments.
            call_id: The id that the model gave the call.
            always: Whether the call needs an approval, whatever the rule's ``when`` says.

        Raises:
            GraphInterrupt: People are asked, and haven't decided yet.
            ConfigurationError: The call has no id, or the run has no thread or no checkpointer.
            StorageError: The database can't answer.
        """
        if not call_id:
            raise ConfigurationError(
                f"{tool} needs a person's approval, which is given for one call of a model: call "
                'it with the whole call, as tool.invoke({"type": "tool_call", "id": …, "name": …, '
                '"args": …})'
            )
        call = self.call_here(tool, arguments, call_id)
        try:
            request = self._calls.find(call)
            if request is None:
                if not always and not self.rule.applies_to(json_object(arguments)):
                    return Admitted(tool)
                request = self._calls.ask(call, self.rule)
            request = self.wait(call, request)
            return self._use(call, request)
        except NotPermitted as error:
            return self._not_run(call, f"{tool} was not run: {error}")
        except (PayloadError, SecondFactorError) as error:
            return _refused(call, f"{tool} was not run: {error}")

    def admit_request(self, call: ToolCall) -> Admitted:
        """As ``admit``, for a call whose tool isn't known yet: with the model's arguments.

        What the tool's schema will read from them isn't known either, so ``when`` can't decide.
        """
        try:
            arguments = json_object(call["args"])
        except PayloadError as error:
            return undisplayable(call["name"], call["id"], error)
        admitted = self.admit(call["name"], arguments, call["id"], always=True)
        return admitted._replace(arguments=arguments)

    def run(self, admit: Callable[[], Admitted], run: Callable[[], T]) -> T | object:
        """Ask people if they weren't asked, and run the tool if they approved.

        Args:
            admit: Calls ``admit`` or ``admit_request``.
            run: Runs the tool.

        Returns:
            What the tool returned, or what is returned in its place.

        Raises:
            GraphInterrupt: People are asked, and haven't decided yet.
        """
        try:
            admitted = admit()
        except GraphInterrupt as waiting:
            if self._on_request is not None:
                self._notices.send(_asked_id(waiting), self._on_request)
            raise
        return self.finish(admitted, run)

    async def arun(
        self, admit: Callable[[], Admitted], run: Callable[[], Awaitable[T]]
    ) -> T | object:
        """As ``run``; the database is used off the event loop."""
        # A call of the same task that is being paid ends before this one interrupts the graph.
        async with with_siblings(task_here()):
            try:
                admitted = await handed_over(admit, self._give_back)
            except GraphInterrupt as waiting:
                if self._on_request is not None:
                    await self._notices.asend(_asked_id(waiting), self._on_request)
                raise
            return await self.afinish(admitted, run)

    def finish(self, admitted: Admitted, run: Callable[[], T]) -> T | object:
        """Run an admitted tool, and store what it returned.

        Args:
            admitted: The result of ``admit``.
            run: Runs the tool.

        Returns:
            What the tool returned, or what is returned in its place.
        """
        if admitted.instead is not None:
            return admitted.instead
        try:
            with running_gated(admitted.tool, admitted.arguments):
                result = run()
        except Exception as error:
            self._record_error(admitted, error)
            raise
        self._record_result(admitted, result)
        return result

    async def afinish(self, admitted: Admitted, run: Callable[[], Awaitable[T]]) -> T | object:
        """As ``finish``; the database is written off the event loop."""
        if admitted.instead is not None:
            return admitted.instead
        try:
            with running_gated(admitted.tool, admitted.arguments):
                result = await run()
        except Exception as error:
            await to_its_end(self._record_error, admitted, error)
            raise
        await to_its_end(self._record_result, admitted, result)
        return result

    def _give_back(self, admitted: Admitted) -> None:
        """Let a call start again that was admitted for a run that was cancelled by then."""
        if admitted.call is not None and admitted.instead is None:
            # If that fails, the call isn't run again, as if the process had been killed.
            with suppress(PipelitError):
                self._calls.suspend(admitted.call)

    def _record_result(self, admitted: Admitted, result: object) -> None:
        # The tool has run, so its result is returned even if it can't be stored. Then a second run
        # of the task can't tell what the tool did.
        with suppress(PipelitError):
            if admitted.call is not None:
                self._calls.finish(admitted.call, result_to_bytes(result))

    def _record_error(self, admitted: Admitted, error: Exception) -> None:
        if admitted.call is None:
            return
        if is_suspended(error):
            self._calls.suspend(admitted.call)
            return
        with suppress(PipelitError):
            self._calls.finish(admitted.call, error_to_bytes(error))

    def call_here(self, tool: str, arguments: Mapping[str, Json], call_id: str) -> Call:
        """Return a call that the running task makes.

        Raises:
            ConfigurationError: The run has no thread or no checkpointer.
        """
        thread, namespace = task_here()
        if not thread or not keeps_checkpoints(_configurable()):
            raise ConfigurationError(
                f"{tool} needs a person's approval, and this run can't wait for it: run it "
                "in a graph that is compiled with a checkpointer, with a thread_id in the "
                "configuration's configurable. A graph inside of it has to inherit the "
                "checkpointer: don't compile it with checkpointer=False"
            )
        return Call(tool, arguments, call_id, thread, namespace, self._agent)

    def wait(self, call: Call, request: ApprovalRequest) -> ApprovalRequest:
        """Interrupt the graph until there is a decision, and return the decided question.

        Raises:
            GraphInterrupt: There is no decision yet.
        """
        # LangGraph hands a task its resume values by the order of its interrupts. The tool may
        # interrupt too, so the gate has to take the same number of values at each later run.
        taken = 0
        while request.state == "pending":
            try:
                _interrupt(_question(request))
            except GraphInterrupt:
                self._calls.waiting(call, taken + 1)
                raise
            taken += 1
            request = self._calls.find(call) or request
        asks, waits = self._calls.interrupts(call)
        for _ in range(taken, asks if waits is None else waits):
            try:
                _interrupt(None)
            except GraphInterrupt:
                break
            taken += 1
        if waits is None:
            self._calls.waited(call, taken)
        _drop_old_value()
        return request

    def _use(self, call: Call, request: ApprovalRequest) -> Admitted:
        tool = call.tool
        if request.state == "denied":
            return self._not_run(call, _denial(tool, request))
        if request.state == "expired":
            return self._not_run(
                call, f"{tool} was not run: {lateness(request)}. Call {tool} again to ask again"
            )
        if request.state == "used":
            return self._used(call)
        try:
            self._calls.start(call, self.rule)
        except NotPermitted:
            # Another run of the same task may have started it just now, and may be paying.
            if not self.is_used(call):
                raise
            return self._used(call)
        return Admitted(tool, call)

    def _not_run(self, call: Call, words: str) -> Admitted:
        """Return a refusal: these words, unless the call was started before."""
        if self.was_started(call):
            words = (
                "This call was approved and started before, and stopped at a question of its own. "
                "It isn't continued, because the approval was denied or has ended, and it isn't "
                f"known whether it took effect. {_ASK_FIRST.format(tool=call.tool)}"
            )
        return _refused(call, words)

    def was_started(self, call: Call) -> bool:
        """Return whether a call was ever started."""
        return self._calls.started(call)

    def is_used(self, call: Call) -> bool:
        """Return whether the approval of a call was used up."""
        request = self._calls.find(call)
        return request is not None and request.state == "used"

    def _used(self, call: Call) -> Admitted:
        stored = self._calls.result(call)
        result = None if stored is None else result_from_bytes(stored)
        if result is None:
            return _refused(
                call,
                "This call was approved and started before, and it isn't known whether it took "
                f"effect. It isn't run again. {_ASK_FIRST.format(tool=call.tool)}",
            )
        if isinstance(result, str):
            return _refused(
                call,
                f"This call was approved and failed with {result}, and it isn't known whether it "
                f"took effect. It isn't run again. {_ASK_FIRST.format(tool=call.tool)}",
            )
        return Admitted(call.tool, call, result)


class _InterruptLock:
    """Lets one thread at a time take a resume value.

    A ``ToolNode`` runs several calls of one task in threads, which share the task's values.
    LangGraph counts a value and takes it in two steps.
    """

    def __init__(self) -> None:
        self.lock = Lock()
        reset_in_forked_children(self)

    def reset_after_fork(self) -> None:
        """Make a lock that no thread of the parent holds."""
        self.lock = Lock()


_INTERRUPTING: Final = _InterruptLock()


def _interrupt(value: object) -> None:
    with _INTERRUPTING.lock:
        interrupt(value)


def _configurable() -> Configurable:
    try:
        return get_config().get("configurable") or {}
    except RuntimeError:
        # Nothing is running.
        return {}


def task_here() -> tuple[str, str]:
    """Return the thread and the namespace of the running task; empty outside of a graph."""
    found = _configurable()
    return str(found.get(THREAD_ID) or ""), str(found.get(NAMESPACE) or "")


def _drop_old_value() -> None:
    """Drop a plain resume value of an earlier run from a run that is resumed by interrupt ids.

    LangGraph keeps the value with the checkpoint, and would hand what woke the gate to a question
    of the tool.
    """
    configurable = _configurable()
    if configurable.get(RESUMED):
        scratchpad: Scratchpad = configurable[SCRATCHPAD]
        scratchpad.get_null_resume(True)


def _question(request: ApprovalRequest) -> dict[str, object]:
    return {
        "type": QUESTION,
        "id": request.id,
        "tool": request.tool,
        "arguments": dict(request.arguments),
        "digest": request.digest,
        "summary": request.summary,
        "agent": request.agent,
        "approvers": list(request.approvers),
        "at_least": request.at_least,
        "expires_at": request.expires_at.isoformat(),
        "thread": request.thread,
    }


def _asked_id(waiting: GraphInterrupt) -> str:
    (asked,) = waiting.args[0]
    return str(asked.value["id"])


def _denial(tool: str, request: ApprovalRequest) -> str:
    who, reason = denial(request)
    return f"{tool} was not run. {who or 'A person'} denied the call{reason}"


def denial(request: ApprovalRequest) -> tuple[str, str]:
    """Return who denied a question last, and the reason after a colon; empty if not known."""
    denials = [each for each in request.decisions if each.decision == "denied"]
    if not denials:
        return "", ""
    return denials[-1].actor, f": {denials[-1].reason}" if denials[-1].reason else ""


def lateness(request: ApprovalRequest) -> str:
    """Return what wasn't done in time, and until when that was."""
    until = request.expires_at.isoformat(timespec="seconds")
    approved = sum(each.decision == "approved" for each in request.decisions)
    late = "its approval wasn't used" if approved >= request.at_least else "not approved"
    return f"{late} in time, which was until {until}"


def undisplayable(tool: str, call_id: str | None, error: PayloadError) -> Admitted:
    """Return the refusal of a call whose arguments aren't JSON."""
    words = f"{tool} was not run, because its arguments can't be displayed to anybody: {error}"
    return Admitted(tool, None, error_message(tool, call_id, words))


def _refused(call: Call, words: str) -> Admitted:
    return Admitted(call.tool, None, error_message(call.tool, call.call_id, words))


def error_message(tool: str, call_id: str | None, words: str) -> ToolMessage:
    """Return a refusal of a call, in words for the model."""
    return ToolMessage(words, name=tool, tool_call_id=call_id or "", status="error")
