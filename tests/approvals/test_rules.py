"""The rule of an approval: what it accepts, and who is asked under it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from approving import Approving

from pipelit_agents import Approvers, middleware
from pipelit_agents.errors import InvalidUsername, NotPermitted, SecondFactorError, UserNotFound


def test_a_rule_is_a_value() -> None:
    """Equal rules are equal, names count once, and times become seconds."""
    rule = Approvers(["alice", "bob", "alice"], at_least=2, expires_in=timedelta(minutes=15))
    assert rule.people == ("alice", "bob")
    assert rule.expires_in == rule.seconds == 900
    assert rule == Approvers(("alice", "bob"), at_least=2, expires_in=900)
    assert hash(rule) == hash(Approvers(("alice", "bob"), at_least=2, expires_in=900.0))
    with pytest.raises(AttributeError):
        rule.at_least = 1  # type: ignore[misc]
    assert middleware.Approvers is Approvers


def chained(length: int, **options: Any) -> Approvers:
    """Rules that follow each other."""
    rule = Approvers(["alice"], **options)
    for _ in range(length - 1):
        rule = Approvers(["alice"], escalate_to=rule, **options)
    return rule


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: Approvers("alice"), TypeError, "people must be a list of usernames.*not str"),
        (lambda: Approvers(5), TypeError, "people must be a list"),
        (lambda: Approvers([]), ValueError, "people is empty: name at least one person"),
        (lambda: Approvers(["Alice"]), InvalidUsername, "people 'Alice' is not a username"),
        (lambda: Approvers(["alice"], at_least=2), ValueError, "at_least is 2, but people has 1"),
        (lambda: Approvers(["a", "a"], at_least=2), ValueError, "1 different names: lower"),
        (lambda: Approvers(["alice"], at_least=0), ValueError, "at_least must be at least 1"),
        (lambda: Approvers(["alice"], at_least=True), TypeError, "at_least must be a whole number"),
        (lambda: Approvers(["alice"], at_least=1.0), TypeError, "at_least must be a whole number"),
        (lambda: Approvers(["alice"], expires_in=0), ValueError, "expires_in must be more than 0"),
        (lambda: Approvers(["alice"], expires_in=1e9), ValueError, "expires_in.*at most 366 days"),
        (lambda: Approvers(["alice"], expires_in="1h"), TypeError, "expires_in must be seconds or"),
        (lambda: Approvers(["alice"], expires_in=True), TypeError, "expires_in must be seconds"),
        (lambda: Approvers(["alice"], show="x"), TypeError, "show must be a function"),
        (lambda: Approvers(["alice"], when=True), TypeError, "when must be a function"),
        (lambda: Approvers(["alice"], not_requester=1), TypeError, "not_requester must be True"),
        (lambda: Approvers(["alice"], escalate_to=["bob"]), TypeError, r"must be Approvers\(…\)"),
        (lambda: chained(2, show=str), ValueError, "escalate_to has its own show or when"),
        (lambda: chained(2, when=bool), ValueError, "escalate_to has its own show or when"),
        (lambda: chained(6), ValueError, "escalate_to: at most 5 rules"),
        (
            lambda: chained(2, expires_in=timedelta(days=200)),
            ValueError,
            "escalate_to: the sum of all rules' expires_in must be at most 366 days",
        ),
    ],
)
def test_a_bad_argument_is_named(
    make: Callable[[], Approvers], error: type[Exception], says: str
) -> None:
    """When the rule is made, with what it must be."""
    with pytest.raises(error, match=says):
        make()


def test_five_rules_can_follow_each_other() -> None:
    """In their order."""
    assert len(list(chained(5).chain())) == 5


def test_when_says_which_calls_need_an_approval() -> None:
    """Without it all do; only True and False are answers, and its errors reach the caller."""
    assert Approvers(["alice"]).applies_to({})
    rule = Approvers(["alice"], when=lambda arguments: bool(arguments["amount"] > 50))
    assert [rule.applies_to({"amount": each}) for each in (51, 50)] == [True, False]
    with pytest.raises(KeyError):
        rule.applies_to({})
    with pytest.raises(TypeError, match="when must return True or False, not NoneType"):
        Approvers(["alice"], when=lambda arguments: None).applies_to({})  # type: ignore[arg-type, return-value]


# Who is asked


def test_people_of_all_steps_must_be_people(approving: Approving) -> None:
    """No agent and no stranger, in a later step neither."""
    approving.pipelit.users.create_agent("agent_x", owner="alice", purpose="x")
    for name, error in (("agent_x", NotPermitted), ("nobody", UserNotFound)):
        rule = Approvers(["alice"], escalate_to=Approvers([name]))
        with pytest.raises(error, match=name):
            approving.pipelit.approvals.request("x", approvers=rule)


def test_enough_people_of_a_step_can_answer(approving: Approving) -> None:
    """Or nobody is asked, with each one's reason; one step is enough."""
    approving.pipelit.users.create("erin")
    approving.pipelit.users.deactivate("bob")
    approvals = approving.pipelit.approvals
    two = Approvers(["alice", "bob", "erin"], at_least=2)
    with pytest.raises(SecondFactorError, match=r"too few .*'bob' was deactivated.*'erin' has no"):
        approvals.request("x", approvers=two)
    with pytest.raises(SecondFactorError, match="none of the approvers can approve"):
        approvals.request("x", approvers=Approvers(["bob", "erin"]))
    later = Approvers(["bob", "erin"], escalate_to=Approvers(["alice"]))
    assert approvals.request("x", approvers=later).state == "pending"


def test_the_requester_is_left_out(approving: Approving) -> None:
    """In the step that says so and in later ones: waiting makes nobody an approver."""
    rule = Approvers(
        ["alice", "bob"], not_requester=True, escalate_to=Approvers(["alice", "carol"])
    )
    approvals = approving.pipelit.approvals
    with approving.pipelit.acting_for("alice"):
        asked = approvals.request("x", approvers=rule)
    assert asked == approvals.get(asked.id)
    assert asked.asked_by == "alice"
    assert [step.approvers for step in asked.steps] == [("bob",), ("carol",)]
    with pytest.raises(NotPermitted, match="'alice' is not an approver here"):
        approvals.decide(asked.id, "alice", approving.code("alice"))
    named = approvals.request("x", approvers=rule, asked_by="bob")
    assert named.approvers == ("alice",)


def test_an_unknown_requester_is_refused(approving: Approving, writer_name: str) -> None:
    """Nobody, an agent, a name without an account: nobody can be left out."""
    rule = Approvers(["alice", "bob"], not_requester=True)
    for name in ("operator", writer_name, "nobody"):
        with pytest.raises(NotPermitted, match=r"pipelit\.acting_for\(username\)"):
            approving.pipelit.approvals.request("x", approvers=rule, asked_by=name)


@pytest.fixture
def writer_name(approving: Approving) -> str:
    """An agent's name."""
    made = approving.pipelit.users.create_agent("agent_writer", owner="alice", purpose="writes")
    return made.username


def test_without_the_requester_enough_others_must_remain(approving: Approving) -> None:
    """Or nobody is asked."""
    rule = Approvers(["alice", "bob"], at_least=2, not_requester=True)
    with pytest.raises(NotPermitted, match="1 of the 2 approvers that the rule needs"):
        approving.pipelit.approvals.request("x", approvers=rule, asked_by="alice")
    assert approving.pipelit.approvals.request("x", approvers=rule, asked_by="carol").at_least == 2


@pytest.mark.parametrize(
    ("options", "more", "says"),
    [
        ({"show": str}, {}, "show and when are for tool calls"),
        ({"when": bool}, {}, "show and when are for tool calls"),
        ({}, {"expires_in": 60}, "the rule has its own expires_in"),
    ],
    ids=["show", "when", "expires_in"],
)
def test_a_question_of_its_own_takes_no_part_for_calls(
    approving: Approving, options: dict[str, Any], more: dict[str, Any], says: str
) -> None:
    """What would be ignored is refused."""
    with pytest.raises(ValueError, match=says):
        approving.pipelit.approvals.request("x", approvers=Approvers(["alice"], **options), **more)


# Several approvals


def two_of_three() -> Approvers:
    """Two of alice, bob and carol."""
    return Approvers(["alice", "bob", "carol"], at_least=2, expires_in=timedelta(hours=1))


def refused(approving: Approving, question: str, says: str, *names: str, at_least: int = 1) -> None:
    """Nobody may act on a question, and the reason is given."""
    with pytest.raises(NotPermitted, match=says):
        approving.pipelit.approvals.require(
            question, approvers=names or ["alice", "bob", "carol"], at_least=at_least
        )


def test_it_is_pending_until_enough_have_approved(approving: Approving) -> None:
    """Two different people, each with a code; then it can be used once."""
    approvals = approving.pipelit.approvals
    asked = approvals.request("x", approvers=two_of_three())
    assert (asked.at_least, asked.approvers) == (2, ("alice", "bob", "carol"))
    approving.approve(asked.id, "bob")
    found = approvals.get(asked.id)
    assert (found.state, [each.actor for each in found.decisions]) == ("pending", ["bob"])
    refused(approving, asked.id, "1 of the 2 approvals that it needs are valid")
    assert approvals.pending("bob") == []
    assert [each.id for each in approvals.pending("carol")] == [asked.id]
    assert [each.id for each in approvals.pending()] == [asked.id]
    approving.approve(asked.id, "carol")
    found = approvals.get(asked.id)
    assert (found.state, [each.actor for each in found.decisions]) == ("approved", ["bob", "carol"])
    assert approvals.pending() == []
    used = approvals.require(asked.id, approvers=["alice", "bob", "carol"])
    assert used.actor == "carol"
    refused(approving, asked.id, "was approved, and the approval was used")


def test_nobody_approves_twice(approving: Approving) -> None:
    """It is refused before a code is spent."""
    approvals = approving.pipelit.approvals
    asked = approvals.request("x", approvers=two_of_three())
    approving.approve(asked.id, "alice")
    code = approving.code("alice")
    with pytest.raises(NotPermitted, match=r"already; it waits for bob, carol$"):
        approvals.decide(asked.id, "alice", code)
    approving.pipelit.mfa.verify("alice", code)
    assert approvals.get(asked.id).state == "pending"


def test_the_code_that_acts_can_demand_more(approving: Approving) -> None:
    """Of people and of their number; it can't demand less than the rule."""
    approvals = approving.pipelit.approvals
    asked = approvals.request("x", approvers=two_of_three())
    approving.approve(asked.id, "alice", "bob")
    refused(approving, asked.id, "1 of the 2 approvals", "alice")
    refused(approving, asked.id, "2 of the 3 approvals", at_least=3)
    refused(approving, asked.id, "1 of the 2 approvals", "bob", "carol", "mallory")
    approvals.require(asked.id, approvers=["alice", "bob"], at_least=2)
    plain = approvals.request("y", approvers=["alice", "bob"])
    approving.approve(plain.id, "alice")
    refused(approving, plain.id, "1 of the 2 approvals", "alice", "bob", at_least=2)
    with pytest.raises(TypeError, match="at_least"):
        approvals.require(plain.id, approvers=["alice"], at_least=True)


@pytest.mark.parametrize("ending", ["deactivated", "reset", "enrolled again"])
def test_who_leaves_counts_no_more(approving: Approving, ending: str) -> None:
    """Before the quorum and after it; then another person can approve in that place."""
    pipelit = approving.pipelit
    first, second = (pipelit.approvals.request(each, approvers=two_of_three()) for each in "xy")
    approving.approve(first.id, "alice")
    approving.approve(second.id, "alice", "bob")
    if ending == "deactivated":
        pipelit.users.deactivate("alice")
    elif ending == "reset":
        pipelit.mfa.reset("alice")
    else:
        pipelit.mfa.reset("alice")
        approving.enroll("alice")
    approving.approve(first.id, "bob")
    for each in (first, second):
        assert pipelit.approvals.get(each.id).state == "pending"
        refused(approving, each.id, "1 of the 2 approvals.*'alice' has since been deactivated, or")
    assert len(pipelit.approvals.pending("carol")) == 2
    approving.approve(first.id, "carol")
    # Alice, with the new factor, or carol.
    approving.approve(second.id, "alice" if ending == "enrolled again" else "carol")
    for each in (first, second):
        pipelit.approvals.require(each.id, approvers=["alice", "bob", "carol"])


def test_one_denial_denies(approving: Approving) -> None:
    """After one approval, and after all of them; nothing follows it."""
    approvals = approving.pipelit.approvals
    for names in (["alice"], ["alice", "bob"]):
        asked = approvals.request(names, approvers=two_of_three())
        approving.approve(asked.id, *names)
        approvals.deny(asked.id, "carol", approving.code("carol"), reason="too much")
        found = approvals.get(asked.id)
        assert (found.state, found.decisions[-1].reason) == ("denied", "too much")
        refused(approving, asked.id, "was denied")
        with pytest.raises(NotPermitted, match="was denied"):
            approvals.decide(asked.id, "bob", approving.code("bob"))


def test_what_was_approved_can_be_withdrawn(approving: Approving) -> None:
    """By one who approved, before the quorum and after it."""
    approvals = approving.pipelit.approvals
    for names in (["alice"], ["alice", "bob"]):
        asked = approvals.request(names, approvers=two_of_three())
        approving.approve(asked.id, *names)
        approvals.deny(asked.id, "alice", approving.code("alice"))
        assert approvals.get(asked.id).state == "denied"


def test_a_question_under_a_rule_expires(approving: Approving) -> None:
    """With one approval, and with both."""
    approvals = approving.pipelit.approvals
    for names in (["alice"], ["alice", "bob"]):
        asked = approvals.request(names, approvers=two_of_three())
        approving.approve(asked.id, *names)
        approving.clock.advance(3600)
        assert approvals.get(asked.id).state == "expired"
        refused(approving, asked.id, "has expired at")
        with pytest.raises(NotPermitted, match="has expired"):
            approvals.decide(asked.id, "carol", approving.code("carol"))


# Escalation


def escalating() -> Approvers:
    """Alice and bob for an hour, and then carol, or bob again."""
    later = Approvers(["carol", "bob"], expires_in=timedelta(hours=2))
    return Approvers(["alice", "bob"], at_least=2, expires_in=timedelta(hours=1), escalate_to=later)


def test_others_are_asked_when_a_step_ends(approving: Approving) -> None:
    """Not before, and the first ones not afterwards; both are told the time."""
    approvals, clock = approving.pipelit.approvals, approving.clock
    began = clock()
    asked = approvals.request("x", approvers=escalating())
    assert asked.escalates_at is not None
    assert (asked.escalates_at.timestamp(), asked.expires_at.timestamp()) == (
        began + 3600,
        began + 3 * 3600,
    )
    assert [(s.approvers, s.at_least) for s in asked.steps] == [
        (("alice", "bob"), 2),
        (("carol", "bob"), 1),
    ]
    assert approvals.pending("carol") == []
    code = approving.code("carol")
    for answer in (approvals.decide, approvals.deny):
        with pytest.raises(NotPermitted, match=r"'carol' is asked from 20\S+, if there is no dec"):
            answer(asked.id, "carol", code)
    approving.pipelit.mfa.verify("carol", code)
    clock.now = began + 3600
    found = approvals.get(asked.id)
    assert (found.approvers, found.at_least, found.escalates_at) == (("carol", "bob"), 1, None)
    assert [each.id for each in approvals.pending("carol")] == [asked.id]
    assert approvals.pending("alice") == []
    for answer in (approvals.decide, approvals.deny):
        with pytest.raises(NotPermitted, match=r"'alice' was asked until 20\S+; now carol, bob d"):
            answer(asked.id, "alice", approving.code("alice"))
    approving.approve(asked.id, "carol")
    used = approvals.require(asked.id, approvers=["alice", "bob", "carol"])
    assert used.actor == "carol"


def test_an_approval_counts_in_each_step_that_names_the_person(approving: Approving) -> None:
    """Bob's, given in the first step, is enough in the second; alice's counts in the first only."""
    approvals = approving.pipelit.approvals
    first = approvals.request("x", approvers=escalating())
    approving.approve(first.id, "alice")
    second = approvals.request("y", approvers=escalating())
    approving.approve(second.id, "bob")
    approving.clock.advance(3600)
    assert approvals.get(first.id).state == "pending"
    with pytest.raises(NotPermitted, match="none of the required approvers has approved it"):
        approvals.require(first.id, approvers=["alice", "bob"], within=timedelta(hours=2))
    assert approvals.get(second.id).state == "approved"
    assert [each.id for each in approvals.pending()] == [first.id]
    approvals.require(second.id, approvers=["bob"], within=timedelta(hours=2))


def test_a_step_that_was_decided_stays_decided(approving: Approving) -> None:
    """Its approval is good until the question expires, and its people can still withdraw."""
    approvals = approving.pipelit.approvals
    first, second = (approvals.request(each, approvers=escalating()) for each in "xy")
    for each in (first, second):
        approving.approve(each.id, "alice", "bob")
    approving.clock.advance(3600)
    assert approvals.get(first.id).state == "approved"
    approvals.require(first.id, approvers=["alice", "bob"], within=timedelta(hours=3))
    approvals.deny(second.id, "alice", approving.code("alice"))
    assert approvals.get(second.id).state == "denied"


def test_a_later_step_is_not_used_before_it_begins(approving: Approving) -> None:
    """Even if enough of its people have approved in the first one."""
    approvals = approving.pipelit.approvals
    asked = approvals.request("x", approvers=escalating())
    approving.approve(asked.id, "bob")
    refused(approving, asked.id, "1 of the 2 approvals")
    assert approvals.get(asked.id).state == "pending"


async def test_the_twins_take_a_rule(approving: Approving) -> None:
    """Asked, approved by two, and used off the event loop."""
    approvals = approving.pipelit.approvals
    asked = await approvals.arequest("x", approvers=two_of_three())
    for name in ("alice", "bob"):
        await approvals.adecide(asked.id, name, approving.code(name))
    used = await approvals.arequire(asked.id, approvers=["alice", "bob"], at_least=2)
    assert used.actor == "bob"
