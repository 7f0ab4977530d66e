"""Notices of questions: at least once, by one sender at a time, and never in a graph's way."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from shutil import copyfile
from typing import Any

import fresh
import pytest
from approval_home import Home
from conftest import Clock
from internals import database_of
from sqlalchemy import text
from webhook_receiver import HOOK, SECRET, Receiver

from pipelit_agents import ApprovalNotice, Approvers, Pipelit, Webhook
from pipelit_agents.approvals.calls import Call
from pipelit_agents.errors import StorageError
from pipelit_agents.operations import approval_notices, outbox
from pipelit_agents.operations.approval_notices import OnRequest

ARGUMENTS = {"amount": 90, "to": "bob"}


@pytest.fixture(scope="module")
def home(migrated_file: Path, shared_key: str, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Enrolling takes longer than most tests, which get a copy."""
    file = tmp_path_factory.mktemp("notices") / "agents.db"
    copyfile(migrated_file, file)
    return Home(file, shared_key)


@pytest.fixture
def another(home: Home, tmp_path: Path, clock: Clock) -> Callable[[], Pipelit]:
    """Return what another process would have: the same database, by connections of its own."""
    url = home.copy(tmp_path / "agents.db")
    clock.advance(300)
    return lambda: Pipelit(database_url=url, encryption_keys=[home.key], clock=clock)


@pytest.fixture
def pipelit(another: Callable[[], Pipelit]) -> Iterator[Pipelit]:
    """A copy of the database with alice and bob."""
    with another() as made:
        yield made


@pytest.fixture
def webhook(receiver: Receiver) -> Webhook:
    """The server's address, with the secret."""
    return Webhook(receiver.url, secret=HOOK)


class Function:
    """Keeps the notices that it gets, and fails a number of times."""

    def __init__(self, failures: int = 0) -> None:
        self.seen: list[ApprovalNotice] = []
        self.failures = failures

    def __call__(self, notice: ApprovalNotice) -> None:
        self.seen.append(notice)
        if len(self.seen) <= self.failures:
            raise RuntimeError(f"{SECRET} isn't for logs")


def ask(pipelit: Pipelit, number: int = 1, **rule: Any) -> str:
    """Ask about a call of a tool, and return the question's id."""
    call = Call("send_money", ARGUMENTS, f"call_{number}", "thread-1", "", "")
    people = rule.pop("people", ["alice"])
    return pipelit.approvals.calls.ask(call, Approvers(people, **rule)).id


def sender(pipelit: Pipelit, way: str) -> Callable[[str, OnRequest], bool]:
    """Return `send`, or its twin on a loop."""
    notices = pipelit.approvals.notices
    if way == "send":
        return notices.send
    return lambda identifier, on_request: asyncio.run(notices.asend(identifier, on_request))


def entries(pipelit: Pipelit) -> list[tuple[str, str]]:
    """What the audit has of notices, the oldest first."""
    found = pipelit.audit.list(action="approval.notify")
    return [(each.outcome, each.reason) for each in found]


BOTH = pytest.mark.parametrize("way", ["send", "asend"])


@BOTH
def test_a_function_gets_one_notice(pipelit: Pipelit, way: str) -> None:
    """It learns who is asked for what, without arguments; a second call sends nothing."""
    function = Function()
    identifier = ask(pipelit, people=["alice", "bob"], at_least=2, expires_in=900)
    send = sender(pipelit, way)
    assert send(identifier, function) is True
    assert send(identifier, function) is False
    question = pipelit.approvals.get(identifier)
    assert function.seen == [
        ApprovalNotice(
            id=identifier,
            tool="send_money",
            agent="",
            thread="thread-1",
            asked_by="operator",
            approvers=("alice", "bob"),
            at_least=2,
            expires_at=question.expires_at,
            step=1,
            digest=question.digest,
        )
    ]
    assert entries(pipelit) == [("ok", "step 1")]


def test_a_webhook_has_no_arguments_unless_told_so(
    pipelit: Pipelit, receiver: Receiver, webhook: Webhook
) -> None:
    """Neither their digest, with which a guess could be confirmed, nor the summary."""
    summary = {"show": lambda arguments: f"Pay {arguments['amount']}"}
    first, second = ask(pipelit, 1, **summary), ask(pipelit, 2, **summary)
    pipelit.approvals.notices.send(first, webhook)
    with_arguments = Webhook(webhook.url, secret=HOOK, include_arguments=True)
    pipelit.approvals.notices.send(second, with_arguments)
    without, full = receiver.seen
    assert set(without.data) == {
        *("id", "tool", "agent", "thread", "asked_by", "approvers", "at_least", "expires_at"),
        "step",
    }
    assert b"90" not in without.body.replace(without.data["id"].encode(), b"")
    assert full.data["arguments"] == ARGUMENTS
    assert full.data["summary"] == "Pay 90"
    assert full.data["digest"] == pipelit.approvals.get(second).digest
    assert without.headers["webhook-id"] == f"{first}_1"


def test_a_question_that_is_no_call_has_what_is_displayed(
    pipelit: Pipelit, receiver: Receiver, webhook: Webhook
) -> None:
    """Its tool is empty."""
    identifier = pipelit.approvals.request({"pay": 90}, approvers=["alice"]).id
    with_arguments = Webhook(webhook.url, secret=HOOK, include_arguments=True)
    pipelit.approvals.notices.send(identifier, with_arguments)
    (request,) = receiver.seen
    assert (request.data["tool"], request.data["arguments"]) == ("", {"pay": 90})


def test_a_failure_is_retried_with_growing_delays(pipelit: Pipelit, clock: Clock) -> None:
    """Not before it is due, by whoever comes then; the same notice each time."""
    function = Function(failures=3)
    identifier = ask(pipelit)
    notices = pipelit.approvals.notices
    assert notices.send(identifier, function) is False
    for number, delay in enumerate((5, 15, 60), 1):
        clock.advance(delay - 0.5)
        assert notices.send(identifier, function) is False
        assert len(function.seen) == number
        clock.advance(0.5)
        assert notices.send(identifier, function) is (number == 3)
        assert len(function.seen) == number + 1
    assert len(set(function.seen)) == 1
    failed = ("refused", "step 1, function failed")
    assert entries(pipelit) == [failed, failed, failed, ("ok", "step 1")]


def test_each_delay_is_longer_until_an_hour() -> None:
    """When a receiver is up again after days, people hear of what waits within an hour."""
    assert list(outbox.DELAYS) == sorted(set(outbox.DELAYS))
    assert outbox.DELAYS[-1] == 3_600


def test_a_retry_of_a_webhook_has_the_same_id(
    pipelit: Pipelit, receiver: Receiver, webhook: Webhook, clock: Clock
) -> None:
    """And the time of its own attempt, so a receiver accepts it, and once."""
    identifier = ask(pipelit)
    receiver.status = 500
    pipelit.approvals.notices.send(identifier, webhook)
    receiver.status = 200
    clock.advance(5)
    assert pipelit.approvals.notices.send(identifier, webhook) is True
    first, second = (each.headers for each in receiver.seen)
    assert first["webhook-id"] == second["webhook-id"]
    assert int(second["webhook-timestamp"]) == int(first["webhook-timestamp"]) + 5
    assert receiver.seen[0].body == receiver.seen[1].body


def test_retry_after_postpones(
    pipelit: Pipelit, receiver: Receiver, webhook: Webhook, clock: Clock
) -> None:
    """A receiver that is busy says for how long."""
    ask(pipelit)
    receiver.status, receiver.headers = 503, {"retry-after": "120"}
    (result,) = pipelit.approvals.notices.send_due(webhook)
    assert result.next_at is not None
    assert result.next_at.timestamp() == clock() + 120
    clock.advance(119)
    assert pipelit.approvals.notices.send_due(webhook) == []


def test_gone_ends_the_notice_at_this_address(
    pipelit: Pipelit, receiver: Receiver, webhook: Webhook, clock: Clock
) -> None:
    """Another address still gets it."""
    ask(pipelit)
    receiver.status = 410
    (result,) = pipelit.approvals.notices.send_due(webhook)
    assert (result.delivered, result.next_at) == (False, None)
    clock.advance(86_400)
    assert pipelit.approvals.notices.send_due(webhook) == []
    receiver.status = 200
    (result,) = pipelit.approvals.notices.send_due(Webhook(f"{webhook.url}2", secret=HOOK))
    assert result.delivered


def test_while_one_sends_nobody_else_does(pipelit: Pipelit, another: Callable[[], Pipelit]) -> None:
    """The second process doesn't wait, and learns that it sent nothing."""
    identifier, late = ask(pipelit), Function()
    found: list[object] = []

    def function(_: ApprovalNotice) -> None:
        with another() as other:
            found.append(other.approvals.notices.send(identifier, late))
            found.append(other.approvals.notices.send_due(late))

    assert pipelit.approvals.notices.send(identifier, function) is True
    assert found == [False, []]
    assert late.seen == []


@contextmanager
def meanwhile(pipelit: Pipelit, act: Callable[[], object]) -> Iterator[None]:
    """Let something happen between what a process has read and what it then writes."""
    database = database_of(pipelit)
    writing, acts = database.writing, [act]

    def begin(**options: Any) -> Any:
        if acts:
            acts.pop()()
        return writing(**options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "writing", begin)
        yield


@pytest.mark.parametrize("failures", [0, 1], ids=["first", "retry"])
def test_of_two_that_saw_it_due_one_sends(
    pipelit: Pipelit, another: Callable[[], Pipelit], clock: Clock, failures: int
) -> None:
    """The claim is a conditional write: what a twin has claimed meanwhile isn't sent again."""
    identifier, function = ask(pipelit), Function(failures)
    for _ in range(failures):
        pipelit.approvals.notices.send(identifier, function)
        clock.advance(5)
    with another() as other:
        found: list[bool] = []
        with meanwhile(
            pipelit, lambda: found.append(other.approvals.notices.send(identifier, function))
        ):
            assert pipelit.approvals.notices.send(identifier, function) is False
    assert found == [True]
    assert len(function.seen) == failures + 1


def test_many_at_once_send_once(pipelit: Pipelit, another: Callable[[], Pipelit]) -> None:
    """Threads with connections of their own, all of which begin together."""
    identifier, function = ask(pipelit), Function()
    together = threading.Barrier(4)

    def send() -> bool:
        with another() as other:
            together.wait()
            return other.approvals.notices.send(identifier, function)

    with ThreadPoolExecutor(4) as pool:
        found = [each.result() for each in [pool.submit(send) for _ in range(4)]]
    assert sorted(found) == [False, False, False, True]
    assert len(function.seen) == 1


# Begins to send, and says so; then it is killed.
SENDER = """
import sys, threading
from pipelit_agents import Pipelit

url, key, identifier, now = sys.argv[1:]

def stand(notice):
    print("there", flush=True)
    threading.Event().wait()

pipelit = Pipelit(database_url=url, encryption_keys=[key], clock=lambda: float(now))
pipelit.approvals.notices.send(identifier, stand)
"""


@pytest.mark.process
def test_the_claim_of_a_killed_sender_ends(pipelit: Pipelit, home: Home, clock: Clock) -> None:
    """Nobody else sends while it may be alive; then somebody does."""
    identifier, function = ask(pipelit), Function()
    words = (pipelit.database_url, home.key, identifier, str(clock()))
    assert fresh.killed_after_a_line(SENDER, *words) == "there\n"
    clock.advance(approval_notices.FUNCTION_TIME + outbox.LEASE)
    assert pipelit.approvals.notices.send(identifier, function) is False
    clock.advance(2)
    assert pipelit.approvals.notices.send(identifier, function) is True
    assert len(function.seen) == 1


def test_what_was_sent_and_not_recorded_is_sent_again(
    pipelit: Pipelit, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At least once: the record of a delivery can be lost."""
    identifier, function = ask(pipelit), Function()

    def lost(*_: object) -> float:
        raise StorageError("the database is away")

    with monkeypatch.context() as patch:
        patch.setattr(outbox, "settle", lost)
        assert pipelit.approvals.notices.send(identifier, function) is False
    clock.advance(approval_notices.FUNCTION_TIME + outbox.LEASE + 2)
    assert pipelit.approvals.notices.send(identifier, function) is True
    assert len(function.seen) == 2


def test_a_late_failure_changes_no_later_attempt(
    pipelit: Pipelit, another: Callable[[], Pipelit], clock: Clock
) -> None:
    """A sender that was thought dead doesn't bring forward the retry of the next one."""
    identifier, function = ask(pipelit), Function(failures=1)

    def slow(_: ApprovalNotice) -> None:
        clock.advance(approval_notices.FUNCTION_TIME + outbox.LEASE + 2)
        with another() as other:
            assert other.approvals.notices.send(identifier, function) is False
        raise RuntimeError

    notices = pipelit.approvals.notices
    assert notices.send(identifier, slow) is False
    clock.advance(14)
    assert notices.send(identifier, function) is False
    assert len(function.seen) == 1
    clock.advance(1)
    assert notices.send(identifier, function) is True


def test_a_late_success_counts(
    pipelit: Pipelit, another: Callable[[], Pipelit], clock: Clock
) -> None:
    """The people have the notice, whoever has the claim now."""
    identifier, function = ask(pipelit), Function(failures=1)

    def slow(_: ApprovalNotice) -> None:
        clock.advance(approval_notices.FUNCTION_TIME + outbox.LEASE + 2)
        with another() as other:
            assert other.approvals.notices.send(identifier, function) is False

    assert pipelit.approvals.notices.send(identifier, slow) is True
    clock.advance(86_400)
    assert pipelit.approvals.notices.send_due(function) == []


def test_a_clock_that_was_wrong_keeps_nobody_waiting(pipelit: Pipelit, clock: Clock) -> None:
    """A retry that a wrong clock has put into another year is due now."""
    identifier, function = ask(pipelit), Function(failures=1)
    pipelit.approvals.notices.send(identifier, function)
    with database_of(pipelit).writing() as connection:
        later = {"due_at": clock() + 365 * 86_400}
        connection.execute(text("UPDATE pipelit_approval_notices SET due_at = :due_at"), later)
    assert pipelit.approvals.notices.send(identifier, function) is True


def raises(_: ApprovalNotice) -> None:
    """Ends the process, it thinks."""
    raise SystemExit(3)


async def araises(_: ApprovalNotice) -> None:
    """An async one."""
    raise RuntimeError(SECRET)


async def acancels(_: ApprovalNotice) -> None:
    """Cancels itself."""
    raise asyncio.CancelledError


@BOTH
@pytest.mark.parametrize("function", [raises, araises, acancels])
def test_what_a_function_raises_reaches_nobody(
    pipelit: Pipelit,
    way: str,
    function: Callable[[ApprovalNotice], object],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is recorded by its kind, without its text."""
    assert sender(pipelit, way)(ask(pipelit), function) is False
    assert entries(pipelit) == [("refused", "step 1, function failed")]
    assert "the function on_request raised" in caplog.text
    assert SECRET not in caplog.text


@BOTH
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_function_that_blocks_is_given_up(
    pipelit: Pipelit, way: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graph goes on without it."""
    monkeypatch.setattr(approval_notices, "FUNCTION_TIME", 0.02)
    monkeypatch.setattr(approval_notices, "GRACE", 0.02)
    stop = threading.Event()

    def blocks(_: ApprovalNotice) -> None:
        stop.wait(5)

    async def ablocks(_: ApprovalNotice) -> None:
        await asyncio.Event().wait()

    try:
        function = blocks if kind == "sync" else ablocks
        assert sender(pipelit, way)(ask(pipelit), function) is False
    finally:
        stop.set()
    assert entries(pipelit) == [("refused", "step 1, no answer in time")]


async def test_an_async_function_runs_on_the_callers_loop(pipelit: Pipelit) -> None:
    """So it can use the application's clients; without a loop it gets one of its own."""
    loops: list[asyncio.AbstractEventLoop] = []

    async def function(_: ApprovalNotice) -> None:
        loops.append(asyncio.get_running_loop())

    identifiers = [ask(pipelit, number) for number in (1, 2, 3)]
    notices = pipelit.approvals.notices
    assert await notices.asend(identifiers[0], function) is True
    assert await asyncio.to_thread(notices.send, identifiers[1], function) is True
    assert [each.delivered for each in await notices.asend_due(function)] == [True]
    here = asyncio.get_running_loop()
    assert [each is here for each in loops] == [True, False, True]


def test_a_function_acts_for_nobody(pipelit: Pipelit) -> None:
    """It runs apart from the person for whom the graph acts."""
    identifier, found = ask(pipelit), list[Exception]()

    def function(_: ApprovalNotice) -> None:
        try:
            pipelit.approvals.deny(identifier, "alice")
        except Exception as error:
            found.append(error)

    with pipelit.acting_for("alice"):
        assert pipelit.approvals.notices.send(identifier, function) is True
    assert "NotPermitted" in repr(found)


def test_a_task_with_few_credentials_still_signs(
    pipelit: Pipelit, receiver: Receiver, webhook: Webhook
) -> None:
    """The limit is the tool's, and the notice isn't the tool's work."""
    from pipelit_agents.credentials.limits import limited_to

    with limited_to(frozenset()):
        assert pipelit.approvals.notices.send(ask(pipelit), webhook) is True
    assert len(receiver.seen) == 1


@BOTH
@pytest.mark.parametrize(
    ("identifier", "on_request"),
    [("apr_" + "0" * 32, Function()), ("mine", Function()), (5, Function()), (None, "words")],
    ids=["unknown", "no-id", "no-text", "no-function"],
)
def test_sending_never_raises(
    pipelit: Pipelit, way: str, identifier: Any, on_request: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """What can't be sent is logged."""
    assert sender(pipelit, way)(identifier, on_request) is False
    assert "no notice of question" in caplog.text


def test_a_database_that_is_down_stops_no_graph(
    pipelit: Pipelit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`send` says False; `send_due`, which an operator calls, raises."""

    def down(*_: object, **__: object) -> None:
        raise StorageError("it is down")

    identifier = ask(pipelit)
    monkeypatch.setattr(database_of(pipelit), "reading", down)
    assert pipelit.approvals.notices.send(identifier, Function()) is False
    with pytest.raises(StorageError):
        pipelit.approvals.notices.send_due(Function())


def test_an_escalation_is_due_at_its_step(
    pipelit: Pipelit, receiver: Receiver, webhook: Webhook, clock: Clock
) -> None:
    """The next people are notified when it is their turn, and the earlier ones no longer."""
    identifier = ask(pipelit, expires_in=600, escalate_to=Approvers(["bob"], expires_in=300))
    notices = pipelit.approvals.notices
    assert len(notices.send_due(webhook)) == 1
    clock.advance(599)
    assert notices.send_due(webhook) == []
    clock.advance(1)
    assert [each.step for each in notices.send_due(webhook)] == [2]
    assert notices.send(identifier, webhook) is False
    first, second = receiver.seen
    assert (first.data["approvers"], second.data["approvers"]) == (["alice"], ["bob"])
    assert second.headers["webhook-id"] == f"{identifier}_2"
    clock.advance(300)
    assert notices.send_due(webhook) == []


def test_what_failed_in_its_time_is_not_sent_later(pipelit: Pipelit, clock: Clock) -> None:
    """Alice, whose turn is over, doesn't get the notice that failed in her time."""
    function = Function(failures=1)
    identifier = ask(pipelit, expires_in=600, escalate_to=Approvers(["bob"], expires_in=300))
    pipelit.approvals.notices.send(identifier, function)
    clock.advance(600)
    pipelit.approvals.notices.send_due(function)
    assert [each.approvers for each in function.seen] == [("alice",), ("bob",)]


@pytest.mark.parametrize("answer", ["decide", "deny"])
def test_what_was_answered_meanwhile_is_not_sent(
    pipelit: Pipelit, home: Home, clock: Clock, answer: str
) -> None:
    """A retry that is due after the answer is dropped."""
    function = Function(failures=1)
    identifier = ask(pipelit)
    notices = pipelit.approvals.notices
    notices.send(identifier, function)
    clock.advance(30)
    getattr(pipelit.approvals, answer)(identifier, "alice", home.apps["alice"].at(clock()))
    assert notices.send(identifier, function) is False
    assert notices.send_due(function) == []
    assert len(function.seen) == 1


def test_what_is_answered_during_a_round_is_not_sent(pipelit: Pipelit, clock: Clock) -> None:
    """Each question is looked at again before its notice is sent."""
    first = ask(pipelit, 1)
    clock.advance(1)
    second = ask(pipelit, 2)
    seen: list[str] = []

    def function(notice: ApprovalNotice) -> None:
        seen.append(notice.id)
        with pipelit.acting_for("alice"):
            pipelit.approvals.deny(second, "alice")

    pipelit.approvals.notices.send_due(function)
    assert seen == [first]


def test_an_expired_question_is_not_sent(pipelit: Pipelit, clock: Clock) -> None:
    """Nobody could answer it."""
    identifier, function = ask(pipelit, expires_in=60), Function()
    clock.advance(60)
    assert pipelit.approvals.notices.send(identifier, function) is False
    assert pipelit.approvals.notices.send_due(function) == []
    assert function.seen == []


def test_a_planted_question_is_not_sent(pipelit: Pipelit) -> None:
    """Who writes to the database without the key sends nobody a notice."""
    identifier, function = ask(pipelit), Function()
    with database_of(pipelit).writing() as connection:
        connection.execute(
            text("UPDATE pipelit_approvals SET approvers = :names"), {"names": '["bob"]'}
        )
    assert pipelit.approvals.notices.send(identifier, function) is False
    assert pipelit.approvals.notices.send_due(function) == []
    assert function.seen == []


def test_a_damaged_question_stops_no_other(pipelit: Pipelit, clock: Clock) -> None:
    """Who swaps what is displayed can't keep the notices of other questions from people."""
    damaged, function = ask(pipelit, 1), Function()
    clock.advance(1)
    good = ask(pipelit, 2)
    with database_of(pipelit).writing() as connection:
        swap = "UPDATE pipelit_approvals SET shown = :shown WHERE id = :id"
        connection.execute(text(swap), {"id": damaged, "shown": "gAAAAA"})
    assert [each.id for each in pipelit.approvals.notices.send_due(function)] == [good]
    assert pipelit.approvals.notices.send(damaged, function) is False
    assert [each.id for each in function.seen] == [good]


def test_a_receiver_that_is_down_is_left_alone(pipelit: Pipelit, clock: Clock) -> None:
    """After three failures the rest waits for the next round, and is then first."""
    identifiers = []
    for number in range(5):
        identifiers.append(ask(pipelit, number))
        clock.advance(1)
    function = Function(failures=3)
    first = pipelit.approvals.notices.send_due(function)
    assert [each.id for each in first] == identifiers[:3]
    second = pipelit.approvals.notices.send_due(function)
    assert [each.id for each in second] == identifiers[3:]
    clock.advance(5)
    assert len(pipelit.approvals.notices.send_due(function)) == 3


def test_requesters_take_turns(pipelit: Pipelit, clock: Clock) -> None:
    """However many notices of one requester fail, another's is sent in the same round."""
    failing = []
    for number in range(9):
        with pipelit.acting_for("bob"):
            failing.append(ask(pipelit, number))
        clock.advance(1)
    with pipelit.acting_for("alice"):
        hers = ask(pipelit, 9)

    def function(notice: ApprovalNotice) -> None:
        if notice.asked_by == "bob":
            raise RuntimeError

    sent = list(pipelit.approvals.notices.send_due(function))
    assert [each.id for each in sent] == [failing[0], hers, *failing[1:4]]
    # What was never tried comes before what failed, and in the order of asking.
    clock.advance(60)
    sent = list(pipelit.approvals.notices.send_due(function))
    assert [each.id for each in sent] == failing[4:7]


@pytest.mark.slow
def test_failing_requesters_together_keep_nobodys_notice_back(
    pipelit: Pipelit, clock: Clock
) -> None:
    """Three whose notices fail use up no round, however many of theirs are due before another's."""
    for number in range(9):
        call = Call("send_money", ARGUMENTS, f"call_{number}", f"thread-{number}", "", "")
        rule, requester = Approvers(["alice"]), f"mallory_{number % 3}"
        pipelit.approvals.calls.ask(call, rule, requester=requester)
        clock.advance(1)

    def function(notice: ApprovalNotice) -> None:
        if notice.asked_by != "alice":
            raise RuntimeError

    notices = pipelit.approvals.notices
    with pipelit.acting_for("alice"):
        hers = ask(pipelit, 9)
    # In the first round nobody knows yet whose notices fail.
    assert {each.delivered for each in notices.send_due(function)} == {False}
    assert [each.id for each in notices.send_due(function) if each.delivered] == [hers]
    for again in range(3):
        # All that failed are due again, and older.
        clock.advance(3600)
        with pipelit.acting_for("alice"):
            hers = ask(pipelit, 10 + again)
        first, *_ = notices.send_due(function)
        assert (first.id, first.delivered) == (hers, True)


def test_an_approval_that_ended_is_notified_again(
    pipelit: Pipelit, home: Home, clock: Clock
) -> None:
    """It waits for the next people when who gave it has left, and they hear of it."""
    identifier = ask(pipelit, expires_in=60, escalate_to=Approvers(["bob"], expires_in=60))
    function = Function()
    pipelit.approvals.notices.send(identifier, function)
    pipelit.approvals.decide(identifier, "alice", home.apps["alice"].at(clock()))
    pipelit.users.deactivate("alice")
    clock.advance(60)
    assert [each.step for each in pipelit.approvals.notices.send_due(function)] == [2]


def test_rows_of_closed_questions_are_deleted(pipelit: Pipelit, clock: Clock) -> None:
    """The table has the notices of open questions only."""
    for number in range(3):
        pipelit.approvals.notices.send(ask(pipelit, number, expires_in=60), Function())
    clock.advance(60)
    last = ask(pipelit, 9)
    pipelit.approvals.notices.send(last, Function())
    with database_of(pipelit).reading() as connection:
        found = connection.execute(text("SELECT approval_id FROM pipelit_approval_notices"))
        assert [each for (each,) in found] == [last]


@pytest.mark.parametrize("value", [None, "https://hooks.example", Webhook, Function])
def test_a_function_or_a_webhook_gets_notices(pipelit: Pipelit, value: Any) -> None:
    """A class is a mistake: each notice would make another object, and nobody would read it."""
    with pytest.raises(TypeError, match="on_request must be a function of an ApprovalNotice"):
        pipelit.approvals.notices.send_due(value)
