"""Approvals of tool calls: one question for a call, and the tool starts at most once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from types import SimpleNamespace
from typing import Any

import pytest
from approving import Approving
from langgraph.graph import START, StateGraph
from postgres import PostgresServer

from pipelit_agents import Approvers, Keyring, Pipelit
from pipelit_agents.approvals import approval_digest
from pipelit_agents.approvals import calls as limits
from pipelit_agents.approvals.calls import Call, CallApprovals, Interrupts
from pipelit_agents.errors import (
    InvalidUsername,
    NotPermitted,
    PayloadError,
    SecondFactorError,
)
from pipelit_agents.identity.evidence import utc

PAY = Call("send_money", {"to": "bob", "amount": 90}, "call_1", "thread_1", "tools:1")
RULE = Approvers(["alice", "bob"], expires_in=900)
TWO = Approvers(["alice", "bob", "carol"], at_least=2, expires_in=900)


@pytest.fixture
def calls(approving: Approving) -> CallApprovals:
    """The approvals of tool calls."""
    return approving.pipelit.approvals.calls


def approved(approving: Approving, call: Call = PAY, rule: Approvers = RULE) -> str:
    """The id of the question of a call that enough people have approved."""
    asked = approving.pipelit.approvals.calls.ask(call, rule)
    approving.approve(asked.id, *asked.approvers[: asked.at_least])
    return asked.id


def refused(approving: Approving, says: str, call: Call = PAY, rule: Approvers = RULE) -> None:
    """The call may not start, and the reason is given."""
    with pytest.raises(NotPermitted, match=says):
        approving.pipelit.approvals.calls.start(call, rule)


@pytest.mark.parametrize("planted", ["soon", b"\x00", 9e99, -9e99])
def test_a_use_with_an_impossible_time_hides_nothing(
    approving: Approving, calls: CallApprovals, planted: object
) -> None:
    """Somebody who can write to the database can put anything there."""
    identifier = approved(approving)
    calls.start(PAY, RULE)
    approving.change("UPDATE pipelit_approval_uses SET used_at = :planted", planted=planted)
    found = approving.pipelit.approvals.get(identifier)
    assert (found.state, found.used_at) == ("used", None)


class Writing(Mapping[str, Any]):
    """Arguments whose own code writes to the database."""

    def __init__(self, pipelit: Pipelit) -> None:
        self.pipelit = pipelit
        self.reads = 0

    def __getitem__(self, name: str) -> Any:
        return PAY.arguments[name]

    def __len__(self) -> int:
        return len(PAY.arguments)

    def __iter__(self) -> Iterator[str]:
        self.reads += 1
        self.pipelit.users.create(f"reader_{self.reads}")
        return iter(PAY.arguments)


def test_arguments_are_read_outside_of_transactions(
    approving: Approving, calls: CallApprovals
) -> None:
    """Long ones keep no other writer waiting, and their code isn't refused the database."""
    arguments = Writing(approving.pipelit)
    call = PAY._replace(arguments=arguments)
    approved(approving, call)
    calls.waiting(call, 1)
    calls.waited(call, 1)
    calls.start(call, RULE)
    calls.suspend(call)
    calls.start(call, RULE)
    assert (calls.started(call), calls.interrupts(call)) == (True, Interrupts(1, 1))
    calls.finish(call, b"paid")
    assert calls.result(call) == b"paid"
    # Twice to ask: for the call's key, and for what is displayed.
    assert arguments.reads == 11


def test_a_call_is_asked_approved_and_run_once(approving: Approving, calls: CallApprovals) -> None:
    """With its exact arguments; its result can be read again."""
    call = PAY._replace(agent="agent_payer")
    assert calls.find(call) is None
    refused(approving, "nobody was asked about exactly this call")
    asked = calls.ask(call, RULE)
    assert (asked.tool, asked.arguments, asked.summary) == ("send_money", PAY.arguments, None)
    assert (asked.agent, asked.asked_by, asked.thread) == ("agent_payer",) * 2 + ("thread_1",)
    assert asked.shown == {"tool": "send_money", "arguments": {"to": "bob", "amount": 90}}
    assert asked.digest == approval_digest(asked.shown)
    assert calls.find(call) == calls.ask(call, RULE) == asked
    assert [each.id for each in approving.pipelit.approvals.pending("bob")] == [asked.id]
    refused(approving, "nobody has answered yet", call)
    approving.approve(asked.id, "bob")
    found = calls.find(call)
    assert found is not None
    assert (found.state, found.decisions[0].actor) == ("approved", "bob")
    assert (found.used_at, found.has_result) == (None, False)
    assert [each.actor for each in calls.start(call, RULE)] == ["bob"]
    assert calls.result(call) is None
    started = approving.pipelit.approvals.get(asked.id)
    assert (started.used_at, started.has_result) == (utc(approving.clock()), False)
    calls.finish(call, b"paid")
    assert calls.result(call) == b"paid"
    refused(approving, "was approved, and the approval was used", call)
    found = calls.find(call)
    assert found is not None
    assert (found.state, found.used_at, found.has_result) == ("used", started.used_at, True)
    entries = [
        (each.actor, each.subject, each.action, each.outcome, each.reason)
        for each in approving.pipelit.audit.list()
        if each.subject == asked.id or each.action == "approve"
    ]
    assert entries == [
        ("agent_payer", asked.id, "approval.request", "ok", asked.digest),
        ("operator", asked.id, "approval.use", "refused", "pending"),
        ("bob", "bob", "approve", "ok", asked.digest),
        ("operator", asked.id, "approval.use", "ok", asked.digest),
        ("operator", asked.id, "approval.use", "refused", "used"),
    ]


@pytest.mark.parametrize(
    "changed",
    [
        {"arguments": {"to": "bob", "amount": 900}},
        {"arguments": {"to": "bob", "amount": 90.0}},
        {"arguments": {"to": "bob", "amount": "90"}},
        {"arguments": {"to": "bob", "amount": 90, "note": None}},
        {"tool": "send_moneyc", "call_id": "all_1"},
        {"call_id": "call_2"},
        {"thread": "thread_2"},
        {"namespace": "tools:2"},
        {"thread": "thread_1tools", "namespace": ":1"},
    ],
    ids=["amount", "float", "text", "more", "tool", "id", "thread", "task", "shifted"],
)
def test_an_approval_is_of_one_call(approving: Approving, changed: dict[str, Any]) -> None:
    """Other arguments, another id, thread, task or tool: another question."""
    other = PAY._replace(**changed)
    first = approved(approving)
    refused(approving, "nobody was asked about exactly this call", other)
    second = approving.pipelit.approvals.calls.ask(other, RULE)
    assert second.id != first
    refused(approving, "nobody has answered yet", other)
    approving.pipelit.approvals.calls.start(PAY, RULE)


def test_the_order_of_arguments_makes_no_other_call(
    approving: Approving, calls: CallApprovals
) -> None:
    """They are the same JSON."""
    approved(approving)
    calls.start(PAY._replace(arguments={"amount": 90, "to": "bob"}), RULE)


def test_the_approval_of_a_call_is_of_no_use_elsewhere(
    approving: Approving, calls: CallApprovals
) -> None:
    """Not by its digest and not by its id, which a model may pass on."""
    asked = approved(approving)
    shown = approving.pipelit.approvals.get(asked).shown
    for wanted in (asked, approval_digest(shown)):
        with pytest.raises(NotPermitted, match="none of the approvers has approved this"):
            approving.pipelit.approvals.require(wanted, approvers=["alice", "bob"])
    plain = approving.pipelit.approvals.request(shown, approvers=["alice"])
    approving.approve(plain.id, "alice")
    other = PAY._replace(call_id="call_2")
    calls.ask(other, RULE)
    refused(approving, "nobody has answered yet", other)


def test_a_summary_is_beside_the_arguments(approving: Approving, calls: CallApprovals) -> None:
    """The digest is of both, and the function can't change the arguments."""

    def show(arguments: Any) -> object:
        arguments["amount"] = 1
        return {"words": f"pay {arguments['to']} a little"}

    asked = calls.ask(PAY, Approvers(["alice"], show=show))
    assert asked.arguments == {"to": "bob", "amount": 90}
    assert asked.summary == {"words": "pay bob a little"}
    assert asked.shown["summary"] == asked.summary
    assert asked.digest == approval_digest(asked.shown)
    assert approving.pipelit.approvals.get(asked.id) == asked


def test_bad_summaries_are_refused(calls: CallApprovals) -> None:
    """Nothing that isn't JSON is displayed; an error of the function reaches the caller."""
    with pytest.raises(PayloadError):
        calls.ask(PAY, Approvers(["alice"], show=lambda arguments: object()))
    with pytest.raises(KeyError):
        calls.ask(PAY, Approvers(["alice"], show=lambda arguments: arguments["none"]))
    assert calls.find(PAY) is None


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (PAY._replace(thread=""), NotPermitted, "with a checkpointer, and run it with a thread_id"),
        (PAY._replace(call_id=""), ValueError, "the id that the model gave it"),
        (PAY._replace(tool=""), ValueError, "the name of its tool"),
        (PAY._replace(thread=None), TypeError, "thread, namespace and agent must be text"),
        (PAY._replace(arguments=[1]), TypeError, "arguments must be a mapping"),
        (PAY._replace(arguments={"x": object()}), PayloadError, "x"),
        (PAY._replace(arguments={"x": "y" * 2**20}), PayloadError, "1048576 are allowed"),
        (PAY._replace(agent="Agent X"), InvalidUsername, "agent"),
    ],
    ids=["thread", "id", "tool", "no text", "list", "object", "too long", "agent"],
)
def test_a_bad_call_is_refused(
    calls: CallApprovals, call: Call, error: type[Exception], says: str
) -> None:
    """With what it must be."""
    with pytest.raises(error, match=says):
        calls.ask(call, RULE)


def test_a_rule_is_needed(calls: CallApprovals) -> None:
    """A list of names is none."""
    for method in (calls.ask, calls.start):
        with pytest.raises(TypeError, match=r"rule must be Approvers\(…\), not list"):
            method(PAY, ["alice"])  # type: ignore[arg-type]


def test_people_who_can_answer_are_needed(approving: Approving, calls: CallApprovals) -> None:
    """Before anything is stored."""
    approving.pipelit.users.deactivate("bob")
    with pytest.raises(SecondFactorError, match="'bob' was deactivated"):
        calls.ask(PAY, Approvers(["bob"]))
    assert calls.find(PAY) is None


# Who asks


def test_the_requester_is_the_acting_person(approving: Approving, calls: CallApprovals) -> None:
    """Else a name that code passes, else the agent, else the operator."""
    with approving.pipelit.acting_for("carol"):
        assert calls.ask(PAY._replace(agent="agent_x"), RULE).asked_by == "carol"
        thread = copy_context()
    assert thread.run(calls.ask, PAY._replace(call_id="6"), RULE).asked_by == "operator"
    named = calls.ask(PAY._replace(call_id="2"), RULE, requester="bob")
    assert named.asked_by == "bob"
    assert calls.ask(PAY._replace(call_id="3", agent="agent_x"), RULE).asked_by == "agent_x"
    assert calls.ask(PAY._replace(call_id="4"), RULE).asked_by == "operator"
    with pytest.raises(InvalidUsername, match="requester"):
        calls.ask(PAY._replace(call_id="5"), RULE, requester="A B")


@pytest.mark.parametrize("by", ["the person", "a cron", "a cron of no person"])
def test_on_a_server_the_requester_is_its_user(
    approving: Approving, calls: CallApprovals, by: str
) -> None:
    """In a run that a cron started too: it was made by that person."""
    name = "nobody" if by.endswith("no person") else "carol"
    rule = Approvers(["carol", "bob"], not_requester=name == "carol")
    user = SimpleNamespace(identity=name, is_authenticated=True)
    cron = {} if by == "the person" else {"cron_id": "0197"}

    def node(state: dict[str, Any]) -> dict[str, Any]:
        calls.ask(PAY, rule)
        return {}

    graph = StateGraph(dict).add_node("node", node).add_edge(START, "node").compile()
    graph.invoke({}, {"configurable": {"langgraph_auth_user": user, **cron}})
    asked = calls.find(PAY)
    assert asked is not None
    expected = ("carol", ("bob",)) if name == "carol" else ("operator", ("carol", "bob"))
    assert (asked.asked_by, asked.approvers) == expected


def test_the_requester_does_not_approve(approving: Approving, calls: CallApprovals) -> None:
    """If the rule says so: when it is asked, and also if only the rule of the running code does."""
    rule = Approvers(["alice", "bob"], not_requester=True)
    with pytest.raises(NotPermitted, match=r"pipelit\.acting_for\(username\)"):
        calls.ask(PAY, rule)
    with pytest.raises(NotPermitted, match="acting_for"):
        calls.ask(PAY._replace(agent="agent_x"), rule, requester="agent_x")
    with approving.pipelit.acting_for("alice"):
        asked = calls.ask(PAY, rule)
        assert asked.approvers == ("bob",)
        older = calls.ask(PAY._replace(call_id="2"), RULE)
    approving.approve(older.id, "alice")
    refused(approving, "none of the required", PAY._replace(call_id="2"), rule)
    unknown = calls.ask(PAY._replace(call_id="3"), RULE)
    approving.approve(unknown.id, "alice")
    refused(approving, "no person is known for whom", PAY._replace(call_id="3"), rule)
    approving.approve(asked.id, "bob")
    calls.start(PAY, rule)


# The rule at use


@pytest.mark.parametrize(
    ("now", "says"),
    [
        (Approvers(["carol"]), "none of the required approvers has approved it"),
        (Approvers(["alice", "bob"], at_least=2), "1 of the 2 approvals that it needs are valid"),
        (Approvers(["bob"], escalate_to=Approvers(["alice"])), "none of the required approvers"),
    ],
    ids=["others", "more", "later"],
)
def test_the_rule_of_the_running_code_counts(
    approving: Approving, calls: CallApprovals, now: Approvers, says: str
) -> None:
    """It may have changed since people were asked; both must allow the call."""
    asked = calls.ask(PAY, RULE)
    approving.approve(asked.id, "alice")
    refused(approving, says, rule=now)
    calls.start(PAY, Approvers(["carol", "alice"]))


@pytest.mark.parametrize(
    ("now", "says"),
    [
        (Approvers(["alice"], expires_in=60), "the rule allows it only until "),
        (
            Approvers(["alice"], expires_in=10, escalate_to=Approvers(["bob"], expires_in=5000)),
            "none of the required approvers has approved it",
        ),
    ],
    ids=["time", "step"],
)
def test_a_shorter_time_of_the_running_code_counts(
    approving: Approving, calls: CallApprovals, now: Approvers, says: str
) -> None:
    """It ends the time in which people could answer, and in which the approval can be used."""
    asked = calls.ask(PAY, RULE)
    approving.approve(asked.id, "alice")
    approving.clock.advance(60)
    refused(approving, says, rule=now)
    calls.start(PAY, Approvers(["alice"], expires_in=9000))


def test_a_late_answer_completes_no_earlier_step(
    approving: Approving, calls: CallApprovals
) -> None:
    """After an escalation, the rule of the later step counts; earlier answers count in it too."""
    both = Approvers(["alice", "bob"], at_least=2, expires_in=900)
    rule = Approvers(["alice"], expires_in=600, escalate_to=both)
    late = calls.ask(PAY, rule)
    approving.clock.advance(600)
    approving.approve(late.id, "alice")
    assert approving.pipelit.approvals.get(late.id).state == "pending"
    refused(approving, "1 of the 2 approvals that it needs are valid", rule=rule)
    approving.approve(late.id, "bob")
    assert len(calls.start(PAY, rule)) == 2
    in_time = PAY._replace(call_id="call_2")
    asked = calls.ask(in_time, rule)
    approving.approve(asked.id, "alice")
    approving.clock.advance(600)
    assert [each.actor for each in calls.start(in_time, rule)] == ["alice"]


def test_the_rule_of_the_question_counts(approving: Approving, calls: CallApprovals) -> None:
    """A rule that needs less makes one approval of two no more."""
    asked = calls.ask(PAY, TWO)
    approving.approve(asked.id, "alice")
    refused(approving, "1 of the 2 approvals", rule=Approvers(["alice", "bob", "carol"]))
    approving.approve(asked.id, "carol")
    assert [each.actor for each in calls.start(PAY, TWO)] == ["alice", "carol"]


def test_a_question_is_not_asked_again_under_another_rule(calls: CallApprovals) -> None:
    """What people see and who decides stays as it was asked."""
    asked = calls.ask(PAY, RULE)
    assert calls.ask(PAY, TWO) == asked


def test_an_approver_who_left_counts_no_more(approving: Approving, calls: CallApprovals) -> None:
    """Then others can approve."""
    asked = approved(approving, rule=TWO)
    approving.pipelit.users.deactivate("alice")
    refused(approving, "1 of the 2 approvals.*'alice' has since been deactivated", rule=TWO)
    found = calls.find(PAY)
    assert found is not None
    assert found.state == "pending"
    approving.approve(asked, "carol")
    assert [each.actor for each in calls.start(PAY, TWO)] == ["bob", "carol"]


def test_a_denied_call_does_not_start(approving: Approving, calls: CallApprovals) -> None:
    """After it was approved, too. Its twin in the same message is a question of its own."""
    other = PAY._replace(call_id="call_2")
    first, second = approved(approving), approved(approving, other)
    approving.pipelit.approvals.deny(first, "bob", approving.code("bob"), reason="a duplicate")
    refused(approving, "was denied")
    found = calls.find(PAY)
    assert found is not None
    assert (found.state, found.decisions[-1].reason) == ("denied", "a duplicate")
    assert calls.ask(PAY, RULE).state == "denied"
    assert approving.pipelit.approvals.get(second).state == "approved"
    calls.start(other, RULE)


def test_an_expired_call_does_not_start(approving: Approving, calls: CallApprovals) -> None:
    """Whether it was approved or not; and it isn't asked again."""
    approved(approving)
    calls.ask(PAY._replace(call_id="2"), RULE)
    approving.clock.advance(900)
    for call in (PAY, PAY._replace(call_id="2")):
        refused(approving, "has expired at", call)
        assert calls.ask(call, RULE).state == "expired"


# At most once


def test_twins_ask_one_question(approving: Approving) -> None:
    """Two processes with threads that all reach the call at once."""
    settings = approving.settings
    with Pipelit(**settings, clock=approving.clock) as other:
        both = [approving.pipelit, other]
        with ThreadPoolExecutor(8) as pool:
            asked = list(
                pool.map(lambda n: both[n % 2].approvals.calls.ask(PAY, RULE).id, range(16))
            )
    assert len(set(asked)) == len(approving.rows("pipelit_approvals")) == 1


def test_twins_start_a_call_once(approving: Approving) -> None:
    """Of all that start it at once, one may."""
    approved(approving)
    with Pipelit(**approving.settings, clock=approving.clock) as other:
        assert _started([approving.pipelit, other]) == 1


def _started(pipelits: list[Pipelit]) -> int:
    def start(number: int) -> bool:
        try:
            pipelits[number % 2].approvals.calls.start(PAY, RULE)
        except NotPermitted:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        return sum(pool.map(start, range(16)))


@pytest.fixture
def served(
    postgres_server: PostgresServer, postgres_url: str, approving: Approving
) -> Iterator[list[Pipelit]]:
    """Two Pipelits with a database of PostgreSQL, in which alice can approve."""
    settings: dict[str, Any] = {**approving.settings, "database_url": postgres_url}
    with (
        Pipelit(**settings, clock=approving.clock) as one,
        Pipelit(**settings, clock=approving.clock) as two,
    ):
        one.create_schema()
        one.users.create("alice")
        one.users.create("bob")
        approving.pipelit = one
        approving.enroll("alice")
        yield [one, two]


def test_twins_wait_for_each_other_on_a_server(served: list[Pipelit], approving: Approving) -> None:
    """They ask one question and start once, by locks of the server."""
    with ThreadPoolExecutor(8) as pool:
        asked = set(pool.map(lambda n: served[n % 2].approvals.calls.ask(PAY, RULE).id, range(16)))
    assert len(asked) == 1
    approving.approve(asked.pop(), "alice")
    assert _started(served) == 1
    calls = served[0].approvals.calls
    calls.suspend(PAY)
    assert _started(served) == 1
    calls.finish(PAY, b"paid")
    assert calls.result(PAY) == b"paid"


def test_a_call_that_interrupts_itself_starts_once_more(
    approving: Approving, calls: CallApprovals
) -> None:
    """Each time that it is suspended, and never without."""
    question = approved(approving)
    with pytest.raises(NotPermitted, match="isn't running"):
        calls.suspend(PAY)
    calls.start(PAY, RULE)
    for starts in (2, 3):
        calls.suspend(PAY)
        with pytest.raises(NotPermitted, match="isn't running: it can't be suspended"):
            calls.suspend(PAY)
        found = calls.find(PAY)
        assert found is not None
        assert found.state == "suspended"
        with pytest.raises(NotPermitted, match="isn't running: it can't be finished"):
            calls.finish(PAY, b"too early")
        assert [each.actor for each in calls.start(PAY, RULE)] == ["alice"]
        refused(approving, "the approval was used")
        uses = approving.rows("pipelit_approval_uses")
        assert [(each["approval_id"], each["start"]) for each in uses] == [
            (question, number + 1) for number in range(starts)
        ]
    calls.finish(PAY, b"paid")
    with pytest.raises(NotPermitted, match="isn't running"):
        calls.suspend(PAY)


@pytest.mark.parametrize(
    ("ending", "says"),
    [
        ("denied", "was denied"),
        ("deactivated", "none of the required|has since been deactivated"),
        ("reset", "has ended the second factor"),
        ("expired", "has expired at"),
    ],
)
def test_a_suspended_call_is_counted_again(
    approving: Approving, calls: CallApprovals, ending: str, says: str
) -> None:
    """What ends an approval also ends one whose call waits."""
    question = approved(approving)
    calls.start(PAY, RULE)
    calls.suspend(PAY)
    if ending == "denied":
        approving.pipelit.approvals.deny(question, "alice", approving.code("alice"))
    elif ending == "deactivated":
        approving.pipelit.users.deactivate("alice")
    elif ending == "reset":
        approving.pipelit.mfa.reset("alice")
    else:
        approving.clock.advance(900)
    refused(approving, says)


def test_a_suspended_call_is_not_approved_again(approving: Approving, calls: CallApprovals) -> None:
    """It was approved; another approval would say nothing."""
    question = approved(approving)
    calls.start(PAY, RULE)
    calls.suspend(PAY)
    with pytest.raises(NotPermitted, match="was approved, and the approval was used"):
        approving.approve(question, "bob")


def test_only_a_running_call_is_finished(approving: Approving, calls: CallApprovals) -> None:
    """Once; what is too long or None isn't kept."""
    with pytest.raises(NotPermitted, match="isn't running: it can't be finished"):
        calls.finish(PAY, b"paid")
    approved(approving)
    with pytest.raises(NotPermitted, match="isn't running"):
        calls.finish(PAY, b"paid")
    calls.start(PAY, RULE)
    calls.finish(PAY, None)
    calls.finish(PAY, b"x" * (2**20 + 1))
    assert calls.result(PAY) is None
    with pytest.raises(TypeError, match="result must be bytes or None, not str"):
        calls.finish(PAY, "paid")  # type: ignore[arg-type]
    for each in (b"paid \x00\xff", b"paid twice"):
        calls.finish(PAY, each)
    assert calls.result(PAY) == b"paid \x00\xff"


def test_a_result_is_stored_encrypted(approving: Approving, calls: CallApprovals) -> None:
    """And the arguments, too."""
    approved(approving)
    calls.start(PAY, RULE)
    calls.finish(PAY, b"to the otters")
    stored = repr(approving.rows("pipelit_approval_uses") + approving.rows("pipelit_approvals"))
    assert "otters" not in stored
    assert "send_money" not in stored


def test_interrupts_are_counted(calls: CallApprovals) -> None:
    """The most that were raised, and the first number that was replayed."""
    with pytest.raises(NotPermitted, match="nobody was asked about exactly this call"):
        calls.waiting(PAY, 1)
    calls.ask(PAY, RULE)
    assert calls.interrupts(PAY) == Interrupts(0, None)
    for count in (1, 3, 2):
        calls.waiting(PAY, count)
    assert calls.interrupts(PAY) == Interrupts(3, None)
    for count in (0, 2):
        calls.waited(PAY, count)
    assert calls.interrupts(PAY) == Interrupts(3, 0)
    for method in (calls.waiting, calls.waited):
        with pytest.raises(ValueError, match="count must be at least"):
            method(PAY, -1)


async def test_the_twins_do_the_same(approving: Approving, calls: CallApprovals) -> None:
    """Asked, found, started, suspended, finished and read off the event loop."""
    asked = await calls.aask(PAY, RULE)
    assert await calls.afind(PAY) == asked
    await calls.awaiting(PAY, 1)
    await calls.awaited(PAY, 1)
    assert await calls.ainterrupts(PAY) == Interrupts(1, 1)
    approving.approve(asked.id, "alice")
    await calls.astart(PAY, RULE)
    await calls.asuspend(PAY)
    await calls.astart(PAY, RULE)
    await calls.afinish(PAY, b"paid")
    assert await calls.aresult(PAY) == b"paid"


# Limits


def asks(calls: CallApprovals, count: int, **fields: Any) -> None:
    """Ask about many calls."""
    for number in range(count):
        calls.ask(PAY._replace(call_id=f"call_{number}", **fields), RULE)


def test_limits_of_waiting_questions() -> None:
    """As the pages say; the tests below lower them."""
    assert (limits.MAX_OF_PERSON, limits.MAX_OF_THREAD) == (200, 50)
    assert limits.MAX_DISPLAYED == 8 * 2**20


def test_a_thread_without_a_person_asks_so_many_questions(
    approving: Approving, calls: CallApprovals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then it waits; other threads don't, and one that is answered makes room."""
    monkeypatch.setattr(limits, "MAX_OF_THREAD", 3)
    asks(calls, 3)
    more = PAY._replace(call_id="more")
    with pytest.raises(NotPermitted, match="3 questions of this thread wait for an answer"):
        calls.ask(more, RULE)
    calls.ask(PAY._replace(call_id="call_0"), RULE)
    calls.ask(more._replace(thread="thread_2"), RULE)
    with approving.pipelit.acting_for("alice"):
        calls.ask(more._replace(call_id="hers"), RULE)
    found = calls.find(PAY._replace(call_id="call_0"))
    assert found is not None
    approving.approve(found.id, "alice")
    calls.ask(more, RULE)
    approving.clock.advance(900)
    asks(calls, 3, namespace="tools:2")


def test_waiting_questions_are_not_too_long_to_list(
    approving: Approving, calls: CallApprovals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who lists questions decrypts all of them, so a few huge ones are as bad as many."""
    monkeypatch.setattr(limits, "MAX_DISPLAYED", 20_000)
    long = PAY._replace(arguments={"to": "bob", "memo": "x" * 10_000})
    asked = calls.ask(long, RULE)
    calls.ask(long._replace(call_id="second"), RULE)
    with pytest.raises(NotPermitted, match=r"2 questions with 2\d,\d{3} bytes to read of this"):
        calls.ask(PAY._replace(call_id="short"), RULE)
    calls.ask(long._replace(thread="thread_2"), RULE)
    approving.approve(asked.id, "alice")
    calls.ask(PAY._replace(call_id="short"), RULE)


def test_a_person_asks_so_many_questions(
    approving: Approving, calls: CallApprovals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In all threads together; another person isn't blocked, and planted rows don't count."""
    monkeypatch.setattr(limits, "MAX_OF_PERSON", 3)
    approving.pipelit.approvals.request("x", approvers=["alice"], asked_by="carol")
    with approving.pipelit.acting_for("carol"):
        asks(calls, 2)
        approving.change(
            "INSERT INTO pipelit_approvals (id, digest, approvers, asked_by, thread, created_at, "
            "expires_at, state, mac, call) SELECT 'apr_' || substr(digest, 1, 20) || hex(rowid), "
            "digest, approvers, asked_by, thread, created_at, expires_at, state, mac, call "
            "FROM pipelit_approvals WHERE call <> '' LIMIT 10"
        )
        calls.ask(PAY._replace(call_id="last", thread="thread_2"), RULE)
        with pytest.raises(NotPermitted, match="3 questions of carol wait for an answer already"):
            calls.ask(PAY._replace(call_id="more", thread="thread_3"), RULE)
    with approving.pipelit.acting_for("bob"):
        calls.ask(PAY._replace(call_id="more"), RULE)


# Keys


@pytest.mark.slow
def test_a_rotation_takes_calls_along(approving: Approving, calls: CallApprovals) -> None:
    """Their questions, answers and results are good under the newer key alone."""
    question = approved(approving, rule=TWO)
    other = PAY._replace(call_id="2")
    approved(approving, other, TWO)
    calls.start(PAY, TWO)
    calls.finish(PAY, b"paid")
    newer = Keyring.generate_key()
    older = approving.settings["encryption_keys"]
    settings = approving.settings | {"encryption_keys": [newer, *older]}
    with Pipelit(**settings, clock=approving.clock) as rotating:
        assert rotating.approvals.calls.result(PAY) == b"paid"
        assert rotating.keys.rotate().status.older == 0
    settings = approving.settings | {"encryption_keys": [newer]}
    with Pipelit(**settings, clock=approving.clock) as alone:
        after = alone.keys.status()
        assert (after.older, after.unreadable) == (0, ())
        assert alone.approvals.get(question).state == "used"
        assert alone.approvals.calls.result(PAY) == b"paid"
        assert len(alone.approvals.calls.start(other, TWO)) == 2


def test_a_lost_key_loses_results_and_no_uses(approving: Approving, calls: CallApprovals) -> None:
    """Questions of a lost key are forgotten; that a call was started isn't."""
    approved(approving)
    calls.start(PAY, RULE)
    calls.finish(PAY, b"paid")
    settings = approving.settings | {"encryption_keys": [Keyring.generate_key()]}
    with Pipelit(**settings, clock=approving.clock) as other:
        other.keys.forget_unreadable()
        assert other.keys.status().unreadable == ()
        assert other.approvals.calls.find(PAY) is None
    (use,) = approving.rows("pipelit_approval_uses")
    assert (use["start"], use["result"]) == (1, None)
