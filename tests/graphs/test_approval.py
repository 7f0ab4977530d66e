"""A node that a named person's code opens, and nothing else."""

from __future__ import annotations

import hashlib
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any

import pyotp
import pytest
from conftest import Clock
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command
from test_mfa import app_of, wrong
from typing_extensions import TypedDict

from pipelit_agents import Agent, Pipelit
from pipelit_agents.errors import InvalidUsername, NotPermitted, PayloadError, SecondFactorError
from pipelit_agents.graphs import Approval, approval_digest, approve_with_totp

BACKENDS = False
THREAD: RunnableConfig = {"configurable": {"thread_id": "1"}}


class Payment(TypedDict, total=False):
    """What is to be paid."""

    amount: int
    payee: str
    approval: Approval
    done: list[str]


Apps = dict[str, pyotp.TOTP]


@pytest.fixture
def apps(pipelit: Pipelit, clock: Clock) -> Apps:
    """Alice and bob with their apps, and carol without one."""
    found = {}
    for name in ("bob", "carol"):
        pipelit.users.create(name)
    for name in ("alice", "bob"):
        found[name] = app_of(pipelit.mfa.enroll(name))
        pipelit.mfa.confirm(name, found[name].at(clock()))
    clock.advance(30)
    return found


def paying(
    pipelit: Pipelit,
    *approvers: str,
    ran: list[str] | None = None,
    saver: Any = None,
    pay: Any = None,
) -> Any:
    """A graph that pays when it was approved, and cancels when it was denied."""
    seen = ran if ran is not None else []

    def note(what: str) -> Any:
        def node(state: Payment) -> Payment:
            seen.append(what)
            return {"done": [what]}

        return node

    gate = approve_with_totp(
        pipelit,
        approvers=approvers or ["alice", "carol"],
        reason=lambda state: {"pay": state["amount"], "to": state["payee"]},
    )
    builder = StateGraph(Payment)
    builder.add_node("approve", gate)
    builder.add_node("pay", pay or note("paid"))
    builder.add_node("cancel", note("cancelled"))
    builder.add_edge(START, "approve")
    builder.add_conditional_edges(
        "approve",
        lambda state: state["approval"]["outcome"],
        {"approved": "pay", "denied": "cancel"},
    )
    builder.add_edge("pay", END)
    builder.add_edge("cancel", END)
    return builder.compile(checkpointer=saver or InMemorySaver())


def question(answer: Any) -> Any:
    """What is asked."""
    (asked,) = answer["__interrupt__"]
    return asked.value


ASKED: Payment = {"amount": 12, "payee": "otters"}
SHOWN = {"pay": 12, "to": "otters"}


def test_a_named_persons_code_lets_it_go_on(pipelit: Pipelit, apps: Apps, clock: Clock) -> None:
    """Who approved, what was shown and its digest are in the state, and in the audit."""
    graph = paying(pipelit)
    asked = question(graph.invoke(ASKED, THREAD))
    digest = hashlib.sha256(b'{"pay":12,"to":"otters"}').hexdigest()
    assert asked == {
        "type": "pipelit.approval",
        "id": asked["id"],
        "shown": SHOWN,
        "digest": digest,
        "approvers": ["alice", "carol"],
        "expires_at": datetime.fromtimestamp(clock() + 7 * 86_400, UTC).isoformat(),
        "error": None,
    }
    code = apps["alice"].at(clock())
    state = graph.invoke(Command(resume={"username": "alice", "code": code}), THREAD)
    assert state["done"] == ["paid"]
    approval = state["approval"]
    assert (approval["outcome"], approval["by"], approval["proven"]) == ("approved", "alice", True)
    assert (approval["shown"], approval["digest"]) == (SHOWN, approval_digest(SHOWN))
    assert approval["id"] == asked["id"]
    assert state["amount"] == 12
    entry = pipelit.audit.list()[-1]
    assert (entry.actor, entry.action, entry.reason) == ("alice", "approve", digest)
    assert entry.thread == "1"


async def test_it_does_the_same_off_the_loop(pipelit: Pipelit, apps: Apps, clock: Clock) -> None:
    """Asked and resumed with await, without blocking the loop."""
    graph = paying(pipelit)
    await graph.ainvoke(ASKED, THREAD)
    code = apps["alice"].at(clock())
    answer = {"username": "alice", "code": code}
    assert (await graph.ainvoke(Command(resume=answer), THREAD))["done"] == ["paid"]


def test_a_wrong_code_asks_again_and_each_code_is_checked_once(
    pipelit: Pipelit, apps: Apps, clock: Clock
) -> None:
    """Three wrong ones and a good one make four checks, not ten."""
    graph = paying(pipelit)
    graph.invoke(ASKED, THREAD)
    bad = {"username": "alice", "code": wrong(apps["alice"], clock)}
    for _ in range(3):
        asked = question(graph.invoke(Command(resume=bad), THREAD))
        assert "not accepted" in asked["error"]
        assert asked["shown"] == SHOWN
    good = {"username": "alice", "code": apps["alice"].at(clock())}
    assert graph.invoke(Command(resume=good), THREAD)["done"] == ["paid"]
    checks = [e.outcome for e in pipelit.audit.list() if e.action == "verify.plain"]
    assert checks[-4:] == ["refused"] * 3 + ["ok"]
    assert len(checks) == 4 + 2


def test_the_limits_hold(pipelit: Pipelit, apps: Apps, clock: Clock) -> None:
    """After five wrong codes a good one has to wait, and it is said how long."""
    graph = paying(pipelit)
    graph.invoke(ASKED, THREAD)
    bad = {"username": "alice", "code": wrong(apps["alice"], clock)}
    for _ in range(5):
        graph.invoke(Command(resume=bad), THREAD)
    good = {"username": "alice", "code": apps["alice"].at(clock())}
    assert "wait" in question(graph.invoke(Command(resume=good), THREAD))["error"]


def test_a_code_approves_one_thing(pipelit: Pipelit, apps: Apps, clock: Clock) -> None:
    """The same code for two threads: the second is asked again."""
    graph = paying(pipelit)
    good = Command(resume={"username": "alice", "code": apps["alice"].at(clock())})
    for thread in ("1", "2"):
        graph.invoke(ASKED, {"configurable": {"thread_id": thread}})
    assert "done" in graph.invoke(good, {"configurable": {"thread_id": "1"}})
    again = graph.invoke(good, {"configurable": {"thread_id": "2"}})
    assert "not accepted" in question(again)["error"]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ({"username": "bob", "code": "bobs"}, "'bob' isn't an approver here"),
        ({"username": "bob", "deny": True}, "'bob' isn't an approver here"),
        ({"username": "carol", "code": "123456"}, "the code was not accepted"),
        ({"username": "alice", "code": "12345"}, "exactly 6 digits"),
        ({"username": "alice"}, "must be"),
        ({"username": "alice", "code": 123456}, "must be"),
        ({"username": "alice", "code": "123456", "deny": False}, "must be"),
        ({"username": ["alice"], "code": "123456"}, "must be"),
        ({"username": "alice", "code": "123456", "amount": 99}, "must be"),
        ("yes", "must be"),
        (True, "must be"),
    ],
)
def test_anything_else_asks_again(
    pipelit: Pipelit, apps: Apps, clock: Clock, answer: Any, says: str
) -> None:
    """Nobody's, a person's who isn't named, of one without an app, in another form: no way on.

    The words for a person without an app are those for a wrong code: anyone may answer.
    """
    if isinstance(answer, dict) and answer.get("code") == "bobs":
        answer = {**answer, "code": apps["bob"].at(clock())}
    ran: list[str] = []
    graph = paying(pipelit, ran=ran)
    graph.invoke(ASKED, THREAD)
    assert says in question(graph.invoke(Command(resume=answer), THREAD))["error"]
    assert not ran


@pytest.mark.parametrize("proven", [True, False])
def test_a_denial_takes_the_other_branch(
    pipelit: Pipelit, apps: Apps, clock: Clock, proven: bool
) -> None:
    """With a code it is proven, without one it counts too."""
    graph = paying(pipelit)
    graph.invoke(ASKED, THREAD)
    answer: dict[str, Any] = {"username": "alice", "deny": True}
    if proven:
        answer["code"] = apps["alice"].at(clock())
    state = graph.invoke(Command(resume=answer), THREAD)
    assert state["done"] == ["cancelled"]
    assert (state["approval"]["outcome"], state["approval"]["proven"]) == ("denied", proven)
    assert pipelit.audit.list()[-1].action == ("deny" if proven else "deny.unproven")


def test_a_denial_with_a_wrong_code_is_asked_again(
    pipelit: Pipelit, apps: Apps, clock: Clock
) -> None:
    """Who shows a code is held to it."""
    graph = paying(pipelit)
    graph.invoke(ASKED, THREAD)
    answer = {"username": "alice", "deny": True, "code": wrong(apps["alice"], clock)}
    assert "not accepted" in question(graph.invoke(Command(resume=answer), THREAD))["error"]


def test_what_is_shown_is_computed_once(pipelit: Pipelit, apps: Apps, clock: Clock) -> None:
    """A reason that would say something else the next time is recorded as it was shown."""
    said = iter(range(100))
    gate = approve_with_totp(pipelit, approvers=["alice"], reason=lambda _: f"number {next(said)}")
    builder = StateGraph(Payment)
    builder.add_node("approve", gate)
    builder.add_edge(START, "approve")
    graph = builder.compile(checkpointer=InMemorySaver())
    shown = question(graph.invoke(ASKED, THREAD))["shown"]
    bad = {"username": "alice", "code": wrong(apps["alice"], clock)}
    assert question(graph.invoke(Command(resume=bad), THREAD))["shown"] == shown
    good = {"username": "alice", "code": apps["alice"].at(clock())}
    state = graph.invoke(Command(resume=good), THREAD)
    assert state["approval"]["shown"] == shown == "number 0"


def test_an_account_that_is_deactivated_meanwhile_approves_nothing(
    pipelit: Pipelit, apps: Apps, clock: Clock
) -> None:
    """Named when the graph was built, gone when the answer comes."""
    graph = paying(pipelit)
    graph.invoke(ASKED, THREAD)
    pipelit.users.deactivate("alice")
    good = {"username": "alice", "code": apps["alice"].at(clock())}
    assert "not accepted" in question(graph.invoke(Command(resume=good), THREAD))["error"]
    assert pipelit.audit.list(limit=1)[0].reason == "inactive"


@pytest.mark.parametrize("acting", [False, True])
def test_a_denial_of_a_deactivated_approver_is_refused_like_a_wrong_code(
    pipelit: Pipelit, apps: Apps, clock: Clock, acting: bool
) -> None:
    """With a code, or without one, the words are those for a wrong code of an active approver."""
    graph = paying(pipelit)
    graph.invoke(ASKED, THREAD)

    def said(**answer: Any) -> str:
        resume = Command(resume={"username": "alice", **answer})
        return str(question(graph.invoke(resume, THREAD))["error"])

    wrong_code = said(code="000000")
    pipelit.users.deactivate("alice")
    with pipelit.acting_for("alice") if acting else nullcontext():
        assert said(deny=True) == said(deny=True, code="000000") == said(code="000000")
        assert said(deny=True) == wrong_code


def test_two_approvals_after_each_other_need_two_people(
    pipelit: Pipelit, apps: Apps, clock: Clock
) -> None:
    """Four eyes are two nodes, each with its own approver."""
    builder = StateGraph(Payment)
    for first, name in (("first", "alice"), ("second", "bob")):
        builder.add_node(first, approve_with_totp(pipelit, approvers=[name], reason="pay"))
    builder.add_edge(START, "first")
    builder.add_edge("first", "second")
    graph = builder.compile(checkpointer=InMemorySaver())
    graph.invoke(ASKED, THREAD)
    alices = {"username": "alice", "code": apps["alice"].at(clock())}
    assert question(graph.invoke(Command(resume=alices), THREAD))["approvers"] == ["bob"]
    bobs = {"username": "bob", "code": apps["bob"].at(clock())}
    assert graph.invoke(Command(resume=bobs), THREAD)["approval"]["by"] == "bob"


def test_what_is_wrong_with_the_node_is_said_at_once(pipelit: Pipelit, editor: Agent) -> None:
    """One name, no name, another form, and a reason that can't be shown."""
    with pytest.raises(TypeError, match="approvers must be a list of usernames"):
        approve_with_totp(pipelit, approvers="alice", reason="x")
    with pytest.raises(ValueError, match="empty"):
        approve_with_totp(pipelit, approvers=[], reason="x")
    with pytest.raises(InvalidUsername):
        approve_with_totp(pipelit, approvers=["Alice"], reason="x")
    with pytest.raises(PayloadError):
        approval_digest({"amount": float("nan")})
    with pytest.raises(
        SecondFactorError, match=r"none of the approvers can approve: .*isn't a person"
    ):
        paying(pipelit, editor.username, "carol").invoke(ASKED, THREAD)


# One question, one answer


def answer(apps: Apps, clock: Clock, **more: Any) -> Command[Any]:
    """Alice's answer with a fresh code."""
    clock.advance(30)
    return Command(resume={"username": "alice", "code": apps["alice"].at(clock()), **more})


def waiting(graph: Any, thread: RunnableConfig = THREAD) -> Any:
    """The checkpoint in which the gate waits."""
    return graph.get_state(thread, subgraphs=True).tasks[0].state


def test_the_question_is_in_the_register(pipelit: Pipelit, apps: Apps, clock: Clock) -> None:
    """With its thread; the approval is used by what acts, once, by its digest."""
    graph = paying(pipelit)
    asked = question(graph.invoke(ASKED, THREAD))
    (stored,) = pipelit.approvals.pending("alice")
    assert (stored.id, stored.shown, stored.thread) == (asked["id"], SHOWN, "1")
    graph.invoke(answer(apps, clock, id=asked["id"]), THREAD)
    assert pipelit.approvals.get(asked["id"]).state == "approved"
    used = pipelit.approvals.require(approval_digest(SHOWN), approvers=["alice"])
    assert (used.id, used.thread) == (asked["id"], "1")


def test_an_answer_to_another_question_is_refused(
    pipelit: Pipelit, apps: Apps, clock: Clock
) -> None:
    """The id of another thread's, or of one that was asked before: no code is spent on it."""
    graph = paying(pipelit)
    other = question(graph.invoke(ASKED, {"configurable": {"thread_id": "2"}}))["id"]
    own = question(graph.invoke(ASKED, THREAD))["id"]
    wrong_id = answer(apps, clock, id=other)
    again = question(graph.invoke(wrong_id, THREAD))
    assert "another request" in again["error"]
    assert again["id"] == own
    right = {**wrong_id.resume, "id": own}  # type: ignore[dict-item]
    assert graph.invoke(Command(resume=right), THREAD)["done"] == ["paid"]
    assert pipelit.approvals.get(other).state == "pending"


def test_an_expired_question_is_asked_again(pipelit: Pipelit, apps: Apps, clock: Clock) -> None:
    """Under another id, in words, and the code isn't spent."""
    graph = paying(pipelit)
    first = question(graph.invoke(ASKED, THREAD))
    clock.advance(8 * 86_400)
    late = answer(apps, clock)
    again = question(graph.invoke(late, THREAD))
    assert "expired" in again["error"]
    assert again["id"] != first["id"]
    assert (again["shown"], again["digest"]) == (first["shown"], first["digest"])
    assert graph.invoke(late, THREAD)["done"] == ["paid"]


def test_a_question_that_was_answered_is_not_answered_by_a_replay(
    pipelit: Pipelit, apps: Apps, clock: Clock
) -> None:
    """Back to the checkpoint in which the gate waited: the id is spent, and it is asked again."""
    graph = paying(pipelit)
    first = question(graph.invoke(ASKED, THREAD))
    earlier = waiting(graph).config
    good = answer(apps, clock)
    graph.invoke(good, THREAD)
    for again in (good, answer(apps, clock)):
        replayed = question(graph.invoke(again, earlier))
        assert "was approved already: ask again" in replayed["error"]
        assert replayed["id"] != first["id"]


def test_a_replay_of_what_comes_after_the_gate_acts_once(
    pipelit: Pipelit, apps: Apps, clock: Clock
) -> None:
    """LangGraph gives a finished gate's recorded answer; what acts asks the database."""
    paid: list[str] = []

    def pay(state: Payment) -> None:
        shown = {"pay": state["amount"], "to": state["payee"]}
        pipelit.approvals.require(approval_digest(shown), approvers=["alice"])
        paid.append("paid")

    graph = paying(pipelit, pay=pay)
    graph.invoke(ASKED, THREAD)
    earlier = graph.get_state(THREAD).config
    good = answer(apps, clock)
    graph.invoke(good, THREAD)
    for _ in range(2):
        with pytest.raises(NotPermitted, match="used"):
            graph.invoke(good, earlier)
    assert paid == ["paid"]


@pytest.mark.parametrize("change", ["id", "shown", "no id"])
def test_a_state_that_somebody_changed_is_asked_again(
    pipelit: Pipelit, apps: Apps, clock: Clock, change: str
) -> None:
    """Another thread's id, other words than were stored, or none, as from an earlier version."""
    graph = paying(pipelit)
    thread = {"configurable": {"thread_id": "2"}}
    other = question(graph.invoke(ASKED, thread))["id"]
    graph.invoke(ASKED, THREAD)
    values = {
        "id": {"id": other},
        "shown": {"shown": {"pay": 1, "to": "otters"}},
        "no id": {"id": ""},
    }[change]
    graph.update_state(waiting(graph).config, values, as_node="store")
    again = question(graph.invoke(answer(apps, clock), THREAD))
    assert again["error"]
    assert again["id"] not in ("", other)
    assert pipelit.approvals.get(other).state == "pending"
    assert again["digest"] == approval_digest(SHOWN)


def test_a_graph_that_asks_others_by_now_asks_again(
    pipelit: Pipelit, apps: Apps, clock: Clock
) -> None:
    """Deployed anew while the thread waits: who is off the list can't answer, who is on it can."""
    saver = InMemorySaver()
    graph = paying(pipelit, "bob", saver=saver)
    graph.invoke(ASKED, THREAD)
    newer = paying(pipelit, "alice", saver=saver)
    bobs = {"username": "bob", "code": apps["bob"].at(clock())}
    assert (
        "'bob' isn't an approver" in question(newer.invoke(Command(resume=bobs), THREAD))["error"]
    )
    again = question(newer.invoke(answer(apps, clock), THREAD))
    assert (again["approvers"], "other approvers" in again["error"]) == (["alice"], True)
    assert newer.invoke(answer(apps, clock), THREAD)["done"] == ["paid"]


def test_a_denial_without_a_code_ends_this_question_alone(
    pipelit: Pipelit, apps: Apps, clock: Clock
) -> None:
    """Whoever may resume one thread can't undo what alice approved in another."""
    graph = paying(pipelit)
    thread = {"configurable": {"thread_id": "2"}}
    for each in (THREAD, thread):
        graph.invoke(ASKED, each)
    graph.invoke(answer(apps, clock), thread)
    state = graph.invoke(Command(resume={"username": "alice", "deny": True}), THREAD)
    assert state["done"] == ["cancelled"]
    assert pipelit.approvals.get(state["approval"]["id"]).state == "denied"
    assert pipelit.approvals.require(approval_digest(SHOWN), approvers=["alice"]).thread == "2"


def test_a_denial_by_code_that_acts_for_her_is_hers(
    pipelit: Pipelit, apps: Apps, clock: Clock
) -> None:
    """It voids the same thing that was approved elsewhere; no code was checked, and it says so."""
    graph = paying(pipelit)
    graph.invoke(ASKED, THREAD)
    pipelit.mfa.approve("alice", apps["alice"].at(clock()), digest=approval_digest(SHOWN))
    with pipelit.acting_for("alice"):
        state = graph.invoke(Command(resume={"username": "alice", "deny": True}), THREAD)
    assert (state["done"], state["approval"]["proven"]) == (["cancelled"], False)
    assert pipelit.audit.list(limit=1)[0].action == "deny.vouched"
    with pytest.raises(NotPermitted, match="denied"):
        pipelit.approvals.require(approval_digest(SHOWN), approvers=["alice"])


def test_how_long_a_question_is_open_is_checked_at_once(pipelit: Pipelit) -> None:
    """Before anybody is asked."""
    with pytest.raises(ValueError, match="expires_in"):
        approve_with_totp(pipelit, approvers=["alice"], reason="x", expires_in=0)
    with pytest.raises(TypeError, match="expires_in"):
        approve_with_totp(pipelit, approvers=["alice"], reason="x", expires_in="1h")  # type: ignore[arg-type]
