"""Approvals over HTTP: who reads a question, what is displayed, and whose answer counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from conftest import Clock

from pipelit_agents import ApprovalRequest, Approvers, Pipelit
from pipelit_agents.approvals import approval_digest
from pipelit_agents.errors import NotPermitted, VerificationError

PAYMENT = {"pay": 90, "to": "bob"}
OTHER = "0" * 64


@pytest.fixture
def code_of(enrolled: Callable[[str], Callable[[], str]], desk_keys: Any) -> Callable[[], str]:
    """Alice has a second factor; each call returns an unused code."""
    return enrolled("alice")


@pytest.fixture
def question(code_of: Any, pipelit: Pipelit) -> ApprovalRequest:
    """A question to alice, asked by carol."""
    pipelit.users.create("carol")
    return pipelit.approvals.request(PAYMENT, approvers=["alice"], asked_by="carol")


@pytest.fixture
def carol(question: Any, pipelit: Pipelit, client_of: Callable[..., httpx.Client]) -> httpx.Client:
    """The member who asked."""
    return client_of(pipelit.users.issue_api_key("carol", name="x").api_key.get_secret_value())


def approved(
    client: httpx.Client, question: ApprovalRequest, code: str, digest: str = ""
) -> httpx.Response:
    """Approve a question."""
    body = {"code": code, "digest": digest or question.digest}
    return client.post(f"/approvals/{question.id}/approve", json=body)


def denied(client: httpx.Client, question: ApprovalRequest, **body: Any) -> httpx.Response:
    """Deny a question."""
    return client.post(f"/approvals/{question.id}/deny", json={"digest": question.digest, **body})


def test_an_approval_by_its_page_is_used_by_the_code_that_acts(
    operator: httpx.Client, question: ApprovalRequest, code_of: Callable[[], str], pipelit: Pipelit
) -> None:
    """It is listed, displayed, approved with a code, listed no more, and permits the action."""
    (listed,) = operator.get("/approvals").json()["items"]
    shown = operator.get(f"/approvals/{question.id}").json()
    assert (listed["id"], listed["brief"]) == (question.id, '{"pay": 90, "to": "bob"}')
    assert shown["shown"] == PAYMENT
    assert (shown["may_answer"], shown["state"]) == (True, "pending")
    answer = approved(operator, question, code_of(), shown["digest"])
    assert answer.status_code == 200
    assert (answer.json()["state"], answer.json()["decision"]["factor"]) == ("approved", "plain")
    assert operator.get("/approvals").json()["items"] == []
    pipelit.approvals.require(approval_digest(PAYMENT), approvers=["alice"])
    (kept,) = operator.get("/approvals/register").json()["items"]
    assert kept["state"] == "used"


def test_an_approval_is_of_what_was_displayed(
    operator: httpx.Client, question: ApprovalRequest, code_of: Callable[[], str], pipelit: Pipelit
) -> None:
    """Another digest is a 409 and spends no code; without a digest there is no answer at all."""
    other = pipelit.approvals.request({"pay": 900}, approvers=["alice"])
    code = code_of()
    for digest in (OTHER, other.digest):
        answer = approved(operator, question, code, digest)
        assert (answer.status_code, answer.json()["type"][-12:]) == (409, "other-digest")
        assert denied(operator, question, digest=digest).status_code == 409
    bare = operator.post(f"/approvals/{question.id}/approve", json={"code": code})
    assert bare.status_code == 422
    assert approved(operator, question, code).status_code == 200


NO_CODES: list[Any] = ["123456", "no code", "", "1" * 65, 123456]


def test_a_wrong_code_approves_nothing_and_isnt_repeated(
    operator: httpx.Client, question: ApprovalRequest
) -> None:
    """Nor does one that can't be a code; the answer doesn't hold it."""
    for code in NO_CODES:
        answer = approved(operator, question, code)
        assert answer.status_code in (403, 422), code
        assert not code or str(code) not in answer.text
        assert operator.get(f"/approvals/{question.id}").json()["state"] == "pending"


def test_a_spent_code_is_worthless(
    operator: httpx.Client, question: ApprovalRequest, code_of: Callable[[], str], pipelit: Pipelit
) -> None:
    """One code, one approval; of racing twins of a question the second is a 409."""
    other = pipelit.approvals.request({"pay": 900}, approvers=["alice"])
    code = code_of()
    assert approved(operator, question, code).status_code == 200
    assert approved(operator, other, code).json()["type"].endswith(":code-rejected")
    assert approved(operator, question, code_of()).status_code == 409
    assert pipelit.approvals.get(other.id).state == "pending"


def test_only_those_who_are_concerned_see_a_question(
    operator: httpx.Client,
    member: httpx.Client,
    carol: httpx.Client,
    agent: httpx.Client,
    question: ApprovalRequest,
    code_of: Callable[[], str],
) -> None:
    """For another member it is as if it weren't there; who asked reads it and can't answer it."""
    nothing = f"/approvals/apr_{'0' * 32}"
    for path in (f"/approvals/{question.id}", "/approvals/x", "/approvals/" + "x" * 300):
        hidden = member.get(path)
        assert (hidden.status_code, hidden.text) == (404, member.get(nothing).text)
    body = {"code": code_of(), "digest": question.digest}
    for verb in ("approve", "deny"):
        hidden = member.post(f"/approvals/{question.id}/{verb}", json=body)
        none = member.post(f"{nothing}/{verb}", json=body)
        assert (hidden.status_code, hidden.text) == (404, none.text)
        assert dict(hidden.headers) == dict(none.headers)
        assert carol.post(f"/approvals/{question.id}/{verb}", json=body).status_code == 403
        assert agent.post(f"/approvals/{question.id}/{verb}", json=body).status_code == 403
    assert member.get("/approvals").json()["items"] == []
    assert carol.get("/approvals").json()["items"] == []
    assert carol.get(f"/approvals/{question.id}").json()["may_answer"] is False
    assert agent.get(f"/approvals/{question.id}").status_code == 403
    assert operator.get(f"/approvals/{question.id}").json()["state"] == "pending"


def test_an_operator_reads_what_others_are_asked_and_cant_answer(
    operator: httpx.Client,
    member: httpx.Client,
    enrolled: Callable[[str], Callable[[], str]],
    code_of: Callable[[], str],
    pipelit: Pipelit,
) -> None:
    """A role gives nobody another person's say."""
    enrolled("bob")
    question = pipelit.approvals.request(PAYMENT, approvers=["bob"])
    assert operator.get(f"/approvals/{question.id}").json()["shown"] == PAYMENT
    assert operator.get("/approvals").json()["items"] == []
    assert approved(operator, question, code_of()).status_code == 403
    assert denied(operator, question).status_code == 403
    assert member.get("/approvals/register").status_code == 403
    assert [each["id"] for each in member.get("/approvals").json()["items"]] == [question.id]


def test_a_denial_ends_a_question(
    operator: httpx.Client, question: ApprovalRequest, code_of: Callable[[], str], pipelit: Pipelit
) -> None:
    """With a code it is proven, without one the key vouches; the reason is kept."""
    found = denied(operator, question, reason="too much").json()
    assert (found["state"], found["decision"]["factor"], found["decision"]["proven"]) == (
        "denied", "vouched", False,
    )  # fmt: skip
    assert found["decision"]["reason"] == "too much"
    again = pipelit.approvals.request({"pay": 1}, approvers=["alice"])
    assert denied(operator, again, code=code_of()).json()["decision"]["proven"] is True
    for question in (again, pipelit.approvals.request({"pay": 2}, approvers=["alice"])):
        assert denied(operator, question, reason="x" * 1001).status_code == 422
    raw = b'{"digest": "' + again.digest.encode() + b'", "reason": "\\ud800"}'
    answer = operator.post(
        f"/approvals/{again.id}/deny", content=raw, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code in (400, 409, 422)


def test_what_is_displayed_misleads_nobody(
    operator: httpx.Client, code_of: Any, pipelit: Pipelit
) -> None:
    """The exact value, an escaped form, and sentences about what looks like something else."""
    value = {
        "to": "b\u043eb\u202e",
        "big": 2**64 + 1,
        "html": "<script>alert(1)</script>",
        "deep": [[{"a": None}]],
    }
    question = pipelit.approvals.request(value, approvers=["alice"])
    shown = operator.get(f"/approvals/{question.id}").json()
    assert shown["shown"] == value
    assert "\\u202e" in shown["display"]
    assert "\u202e" not in shown["display"]
    assert str(2**64 + 1) in shown["display"]
    assert any("U+043E" in each for each in shown["warnings"])
    (listed,) = operator.get("/approvals").json()["items"]
    assert "\u202e" not in listed["brief"]
    assert len(listed["brief"]) <= 200


def test_a_list_doesnt_hold_all_that_is_asked(
    operator: httpx.Client, code_of: Any, pipelit: Pipelit
) -> None:
    """A megabyte each, a hundred on a page, would be a hundred megabytes."""
    for number in range(3):
        pipelit.approvals.request({"n": number, "text": "x" * 500_000}, approvers=["alice"])
    answer = operator.get("/approvals", params={"limit": 2})
    assert len(answer.content) < 4_000
    rest = operator.get("/approvals", params={"after": answer.json()["next"]}).json()
    assert (len(answer.json()["items"]), len(rest["items"]), rest["next"]) == (2, 1, None)
    assert operator.get("/approvals", params={"after": "x"}).status_code == 422


def test_a_rule_with_several_people_stays_open_until_enough_approved(
    operator: httpx.Client,
    member: httpx.Client,
    enrolled: Callable[[str], Callable[[], str]],
    code_of: Callable[[], str],
    pipelit: Pipelit,
) -> None:
    """Each answers with an own code; the same person twice isn't two."""
    bobs = enrolled("bob")
    rule = Approvers(["alice", "bob"], at_least=2, expires_in=900)
    question = pipelit.approvals.request(PAYMENT, approvers=rule)
    assert approved(operator, question, code_of()).json()["state"] == "pending"
    assert approved(operator, question, code_of()).status_code == 403
    assert approved(member, question, bobs()).json()["state"] == "approved"
    found = member.get(f"/approvals/{question.id}").json()
    assert [each["actor"] for each in found["decisions"]] == ["alice", "bob"]
    assert found["steps"][0]["at_least"] == 2


def test_an_expired_question_is_closed(
    operator: httpx.Client, code_of: Callable[[], str], pipelit: Pipelit, clock: Clock
) -> None:
    """It can be read, and not answered."""
    question = pipelit.approvals.request(PAYMENT, approvers=["alice"], expires_in=60)
    clock.advance(61)
    assert approved(operator, question, code_of()).status_code == 409
    assert operator.get(f"/approvals/{question.id}").json()["state"] == "expired"
    with pytest.raises(NotPermitted):
        pipelit.approvals.require(question.id, approvers=["alice"])


@pytest.mark.slow
def test_strangers_wrong_codes_keep_no_approver_out(
    operator: httpx.Client,
    member: httpx.Client,
    question: ApprovalRequest,
    code_of: Callable[[], str],
    pipelit: Pipelit,
) -> None:
    """Somebody without alice's key fails in another lane; her own failures are a 429 at last."""
    for _ in range(30):
        with pytest.raises(VerificationError):
            pipelit.approvals.decide(question.id, "alice", "000000")
    assert approved(operator, question, code_of()).status_code == 200
    other = pipelit.approvals.request({"pay": 1}, approvers=["alice"])
    statuses = [approved(operator, other, "000000") for _ in range(30)]
    assert statuses[0].status_code == 403
    assert statuses[-1].status_code == 429
    assert int(statuses[-1].headers["Retry-After"]) == statuses[-1].json()["retry_after"] > 0


def test_a_huge_question_stops_no_list(
    operator: httpx.Client, code_of: Callable[[], str], pipelit: Pipelit
) -> None:
    """Its display isn't longer than itself, whatever its form, and of a list it has one line."""
    what: Any = [0] * 20_000
    for _ in range(60):
        what = {"a": what}
    question = pipelit.approvals.request(what, approvers=["alice"])
    answer = operator.get(f"/approvals/{question.id}")
    assert answer.json()["shown"] == what
    assert len(answer.json()["display"]) < 65_000
    (listed,) = operator.get("/approvals").json()["items"]
    assert listed["brief"].startswith('{"a": {"a": ')
    assert len(listed["brief"]) == 200
