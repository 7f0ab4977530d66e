"""Notify people, by a function or a webhook, that a question waits for them.

Users hold ``ApprovalNotices`` as ``pipelit.approvals.notices``.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import Context
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import partial
from itertools import zip_longest
from operator import attrgetter
from typing import Any, Final, NamedTuple, TypeAlias

from pipelit_agents._core import Core
from pipelit_agents._threads import Apart, Stuck, aside
from pipelit_agents._words import quoted, recordable
from pipelit_agents.approvals import rows, tags
from pipelit_agents.approvals.counting import state_of
from pipelit_agents.approvals.moment import Moment
from pipelit_agents.approvals.questions import ours
from pipelit_agents.approvals.service import ApprovalService
from pipelit_agents.approvals.values import ApprovalRequest
from pipelit_agents.credentials.store import Credentials
from pipelit_agents.display import html_of
from pipelit_agents.errors import ApprovalNotFound, PipelitError, UnsealError
from pipelit_agents.identity.evidence import utc
from pipelit_agents.operations import outbox
from pipelit_agents.operations.open_questions import may_be_open
from pipelit_agents.operations.webhooks import DELIVERED, Delivery, Webhook, post

__all__ = ["ApprovalNotice", "ApprovalNotices", "NoticeResult", "OnRequest", "require_on_request"]

_LOG: Final = logging.getLogger(__name__)
# Seconds that a function may take.
FUNCTION_TIME: Final = 10.0
# Seconds, after which a webhook that doesn't keep its own time is given up.
GRACE: Final = 1.0
# Failures in a row after which `send_due` leaves the rest to its next call.
_MAX_FAILURES: Final = 3
# A function may hang, and so may the name server of a webhook.
_APART: Final = Apart(4, in_all=64)
_TYPE: Final = "approval.requested"
# The fields of a notice that say something of the arguments.
_OF_ARGUMENTS: Final = ("arguments", "digest", "summary")


@dataclass(frozen=True, slots=True)
class ApprovalNotice:
    """A question that waits for people.

    Attributes:
        id: The question's id, for ``pipelit.approvals.decide`` and ``get``.
        tool: The tool whose call waits; empty for a question that isn't about a call.
        agent: The username of the agent that calls it, or an empty string.
        thread: The LangGraph thread, or an empty string.
        asked_by: The requester of the question.
        approvers: The people who may answer now.
        at_least: How many of them have to approve.
        expires_at: When the question ends, UTC.
        step: 1 for the people who are asked first, 2 for those of ``escalate_to``, and so on.
        digest: The digest of what is to be approved; see ``approval_digest``.
        arguments: The tool's arguments, or what is displayed if it isn't a call. None unless a
            webhook includes them.
        summary: The summary that the rule's ``show`` made. None unless a webhook includes it.
    """

    id: str
    tool: str
    agent: str
    thread: str
    asked_by: str
    approvers: tuple[str, ...]
    at_least: int
    expires_at: datetime
    step: int
    digest: str
    arguments: Any = None
    summary: Any = None

    def _repr_html_(self) -> str:
        return html_of(self, exact=("arguments", "summary"))


@dataclass(frozen=True, slots=True)
class NoticeResult:
    """The result of one notice.

    Attributes:
        id: The question's id.
        step: The step of the question whose people were notified.
        attempt: The number of the attempt, from 1.
        delivered: Whether the receiver has the notice.
        reason: Why it hasn't, and what to do; empty if it has.
        next_at: The earliest time of the next attempt, UTC; None if there is none.
    """

    id: str
    step: int
    attempt: int
    delivered: bool
    reason: str
    next_at: datetime | None

    def _repr_html_(self) -> str:
        return html_of(self)


OnRequest: TypeAlias = Callable[[ApprovalNotice], object] | Webhook


def require_on_request(on_request: object) -> OnRequest:
    """Return what receives notices.

    Raises:
        TypeError: It is neither a `Webhook` nor a function.
    """
    if isinstance(on_request, Webhook):
        return on_request
    if isinstance(on_request, type) or not callable(on_request):
        raise TypeError(
            "on_request must be a function of an ApprovalNotice, or "
            'Webhook("https://…", secret="CREDENTIAL"), not '
            f"{on_request.__name__ if isinstance(on_request, type) else type(on_request).__name__}"
        )
    return on_request


class _Attempt(NamedTuple):
    """A claimed attempt, and what it does."""

    claim: outbox.Claim
    question: ApprovalRequest
    on_request: OnRequest

    @property
    def within(self) -> float:
        return _time_of(self.on_request)

    @property
    def counted_as(self) -> str:
        """The name by which attempts that hang are counted."""
        on_request = self.on_request
        if isinstance(on_request, Webhook):
            return on_request.url
        # Not its identity: an application may make another function for each graph.
        return str(getattr(on_request, "__qualname__", type(on_request).__qualname__))

    @property
    def notice(self) -> ApprovalNotice:
        question = self.question
        notice = ApprovalNotice(
            id=question.id,
            tool=question.tool,
            agent=question.agent,
            thread=question.thread,
            asked_by=question.asked_by,
            approvers=question.approvers,
            at_least=question.at_least,
            expires_at=question.expires_at,
            step=self.claim.step,
            digest=question.digest,
        )
        on_request = self.on_request
        if not isinstance(on_request, Webhook) or not on_request.include_arguments:
            return notice
        arguments = question.arguments if question.tool else question.shown
        return replace(notice, arguments=arguments, summary=question.summary)

    @property
    def body(self) -> bytes:
        """The body of a webhook: the notice, as JSON."""
        data = asdict(self.notice)
        data["expires_at"] = self.notice.expires_at.isoformat()
        if not isinstance(self.on_request, Webhook) or not self.on_request.include_arguments:
            # A digest of few possible arguments would confirm a guess.
            for name in _OF_ARGUMENTS:
                del data[name]
        asked_at = self.question.steps[self.claim.step - 1].begins_at.isoformat()
        body = {"type": _TYPE, "timestamp": asked_at, "data": data}
        return json.dumps(body, separators=(",", ":")).encode()


class ApprovalNotices:
    """Notices of questions that wait for people; ``pipelit.approvals.notices``.

    The people of each step of a question are notified once, by whichever process is first. A failed
    attempt is repeated after 5 seconds, 15 seconds, a minute, 5 minutes, and so on to an hour, by
    the next call of ``send_due`` or the next run of the waiting tool, for as long as the
    question can be answered. A notice is delivered at least once: if a process is killed between
    the delivery and its record, the notice is sent again, so receivers ignore an id that they had
    before. Each attempt is in the audit trail.

    A function gets at most 10 seconds, and runs apart from the graph: it acts for nobody, and what
    it raises is only recorded. It has no arguments of the call in its notice; if it needs them, it
    calls ``pipelit.approvals.get(notice.id)``. An async function runs on the caller's event loop in
    the async methods, and otherwise on one of its own.

    Args:
        core: The database and the clocks.
        approvals: Has the questions.
        credentials: Has the signing secrets of webhooks.

    Example:
        ```python
        webhook = Webhook("https://hooks.example.com/approvals", secret="approvals-hook")
        pipelit.approvals.notices.send_due(webhook)      # in a job that runs every minute
        ```
    """

    def __init__(self, core: Core, approvals: ApprovalService, credentials: Credentials) -> None:
        self._core = core
        self._approvals = approvals
        self._credentials = credentials

    def send(self, id: str, on_request: OnRequest) -> bool:  # noqa: A002 - as in `Approvals`
        """Notify the people of a question's present step, if that is due.

        It raises nothing, and takes little longer than the timeout of the webhook.

        Args:
            id: The question's id.
            on_request: A function of an `ApprovalNotice`, or a `Webhook`.

        Returns:
            Whether this call has delivered the notice.
        """
        try:
            attempt = self._begin(id, on_request)
            return attempt is not None and self._end(attempt, self._deliver(attempt)).delivered
        except Exception as error:
            _log_failure(id, error)
            return False

    async def asend(self, id: str, on_request: OnRequest) -> bool:  # noqa: A002 - as in `Approvals`
        """As ``send``, off the event loop."""
        try:
            attempt = await aside(self._begin, id, on_request)
            if attempt is None:
                return False
            delivery = await self._adeliver(attempt)
            return (await aside(self._end, attempt, delivery)).delivered
        except Exception as error:
            _log_failure(id, error)
            return False

    def send_due(self, on_request: OnRequest) -> Sequence[NoticeResult]:
        """Send all notices that are due: new ones, repeated ones, and those of escalations.

        These are the notices of all questions that wait, whoever asked them. The requesters take
        turns, and those whose notices failed least are the first in each turn. Of one requester,
        notices with fewer attempts come first, and older ones before newer ones. After three
        failures in a row, the rest waits for the next call.

        Args:
            on_request: A function of an `ApprovalNotice`, or a `Webhook`.

        Returns:
            The result of each, in the order of sending; empty if none was due.

        Raises:
            TypeError: ``on_request`` is neither a function nor a `Webhook`.
            ConfigurationError: There is no key, or it isn't this database's.
            StorageError: The database can't be reached or isn't migrated.
        """
        results: list[NoticeResult] = []
        for identifier in self._due(require_on_request(on_request)):
            attempt = self._begin_if_there(identifier, on_request)
            if attempt is not None:
                results.append(self._end(attempt, self._deliver(attempt)))
                if _is_failing(results):
                    break
        return results

    async def asend_due(self, on_request: OnRequest) -> Sequence[NoticeResult]:
        """As ``send_due``, off the event loop."""
        results: list[NoticeResult] = []
        for identifier in await aside(self._due, require_on_request(on_request)):
            attempt = await aside(self._begin_if_there, identifier, on_request)
            if attempt is not None:
                delivery = await self._adeliver(attempt)
                results.append(await aside(self._end, attempt, delivery))
                if _is_failing(results):
                    break
        return results

    def _due(self, on_request: OnRequest) -> list[str]:
        """Return the questions whose notice is due, in the order in which they are sent."""
        with self._core.database.reading() as connection:
            moment = Moment.of(self._core, connection)
            now = moment.now
            read = rows.read_questions(connection, may_be_open(now), with_shown=False)
            found = {
                each.id: each
                for each in ours(moment, read)
                # What was approved waits again if the account of who gave it has ended.
                if each.state == "pending" or state_of(moment, each) == "pending"
            }
            steps = [
                (each.id, stored.index(tags.step_at(stored, now)) + 1)
                for each in found.values()
                for stored in (tags.steps_of(each),)
            ]
            waiting = outbox.waiting(connection, steps, now, _address(on_request))
        return _in_turns((found[each.approval_id].asked_by, each) for each in waiting)

    def _begin_if_there(self, identifier: str, on_request: OnRequest) -> _Attempt | None:
        try:
            return self._begin(identifier, on_request)
        except (ApprovalNotFound, UnsealError) as error:
            # It was deleted or changed. The others are sent nevertheless.
            _log_failure(identifier, error)
            return None

    def _begin(self, identifier: str, on_request: OnRequest) -> _Attempt | None:
        """Claim an attempt to deliver the notice of a question that waits."""
        require_on_request(on_request)
        question = self._approvals.get(identifier)
        if question.state != "pending":
            return None
        claim = outbox.claim(
            self._core,
            identifier,
            _present_step(question),
            _address(on_request),
            _time_of(on_request) + GRACE,
        )
        return None if claim is None else _Attempt(claim, question, on_request)

    def _end(self, attempt: _Attempt, delivery: Delivery) -> NoticeResult:
        """Record what became of an attempt."""
        claim = attempt.claim
        if not delivery.delivered:
            _LOG.warning("no notice of question %s: %s", claim.approval_id, delivery.words)
        due_at = outbox.settle(self._core, claim, delivery)
        return NoticeResult(
            claim.approval_id,
            claim.step,
            claim.attempt,
            delivery.delivered,
            delivery.words,
            None if due_at is None else utc(due_at),
        )

    def _deliver(self, attempt: _Attempt) -> Delivery:
        # In a context of its own: it isn't a part of the graph's run, acts for nobody, and no
        # limit of a task on credentials keeps the signing secret closed.
        run = partial(
            _APART.run, self._work(attempt), within=attempt.within + GRACE, of=attempt.counted_as
        )
        try:
            return Context().run(run)
        except Stuck:
            return _late(attempt)

    async def _adeliver(self, attempt: _Attempt) -> Delivery:
        function = attempt.on_request
        if not isinstance(function, Webhook) and _is_async(function):
            return await _on_this_loop(function, attempt)
        run = _APART.arun(self._work(attempt), within=attempt.within + GRACE, of=attempt.counted_as)
        try:
            return await asyncio.get_running_loop().create_task(run, context=Context())
        except Stuck:
            return _late(attempt)

    def _work(self, attempt: _Attempt) -> Callable[[], Delivery]:
        claim, on_request = attempt.claim, attempt.on_request
        if not isinstance(on_request, Webhook):
            return partial(_call, on_request, attempt.notice)
        identifier = f"{claim.approval_id}_{claim.step}"
        return partial(post, self._credentials, on_request, identifier, claim.at, attempt.body)


def _call(function: Callable[[ApprovalNotice], object], notice: ApprovalNotice) -> Delivery:
    """Call a function, on a thread of its own, and wait for it if it is async."""
    try:
        answer = function(notice)
        if inspect.isawaitable(answer):
            asyncio.run(_awaited(answer))
    except BaseException as error:
        # Also SystemExit: the application goes on, whatever a function does.
        return _raised(error)
    return DELIVERED


async def _on_this_loop(
    function: Callable[[ApprovalNotice], object], attempt: _Attempt
) -> Delivery:
    async def call() -> None:
        answer = function(attempt.notice)
        if inspect.isawaitable(answer):
            await answer

    task = asyncio.get_running_loop().create_task(call(), context=Context())
    try:
        # Not asyncio.timeout: a function that ignores its cancellation isn't waited for.
        await asyncio.wait([task], timeout=attempt.within)
    finally:
        task.cancel()
    if not task.done():
        return _late(attempt)
    if task.cancelled():
        return _raised(asyncio.CancelledError())
    error = task.exception()
    return DELIVERED if error is None else _raised(error)


async def _awaited(answer: Awaitable[object]) -> None:
    await answer


def _is_async(function: Callable[..., object]) -> bool:
    # An object may have an async method for it.
    method = getattr(function, "__call__", None)  # noqa: B004 - not whether it can be called
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(method)


def _raised(error: BaseException) -> Delivery:
    # Without its text, which may have anything in it.
    kind = recordable(type(error).__name__)
    return Delivery("function failed", f"the function on_request raised {kind}: correct it")


def _late(attempt: _Attempt) -> Delivery:
    what = "webhook" if isinstance(attempt.on_request, Webhook) else "function on_request"
    return Delivery("no answer in time", f"the {what} took longer than {attempt.within:g} s")


def _time_of(on_request: OnRequest) -> float:
    return on_request.timeout if isinstance(on_request, Webhook) else FUNCTION_TIME


def _address(on_request: OnRequest) -> str:
    return on_request.fingerprint if isinstance(on_request, Webhook) else ""


def _present_step(question: ApprovalRequest) -> int:
    """Return the number of the step that a question is in, from 1."""
    ends = [each.until for each in question.steps]
    last = len(ends)
    return last if question.escalates_at is None else ends.index(question.escalates_at) + 1


def _in_turns(waiting: Iterable[tuple[str, outbox.Waiting]]) -> list[str]:
    """Return the ids of the questions whose notice is due, in the order of sending.

    The requesters take turns, and those whose notices fail least are the first in each turn. So
    failing notices, of however many requesters, don't keep another requester's from being sent.

    Args:
        waiting: The requester and the notice; that of the oldest question first.
    """
    failures = Counter[str]()
    due = dict[str, list[outbox.Waiting]]()
    for asked_by, notice in waiting:
        failures[asked_by] += notice.attempts
        if notice.is_due:
            due.setdefault(asked_by, []).append(notice)
    # Of one requester, those that fail again and again come last.
    queues = [
        [each.approval_id for each in sorted(due[asked_by], key=attrgetter("attempts"))]
        for asked_by in sorted(due, key=failures.__getitem__)
    ]
    return [each for turn in zip_longest(*queues) for each in turn if each is not None]


def _is_failing(results: Sequence[NoticeResult]) -> bool:
    latest = results[-_MAX_FAILURES:]
    return len(latest) == _MAX_FAILURES and not any(each.delivered for each in latest)


def _log_failure(identifier: object, error: Exception) -> None:
    # The text of other errors than ours may have anything in it.
    words = str(error) if isinstance(error, PipelitError) else type(error).__name__
    _LOG.warning("no notice of question %s: %s", quoted(str(identifier)), words)
