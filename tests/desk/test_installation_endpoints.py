"""Checks, encryption keys, the overview, and an agent that verifies a peer's code."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from conftest import Clock

from pipelit_agents import Agent, Pipelit
from pipelit_agents.desk import checks
from pipelit_agents.errors import VerificationError
from pipelit_agents.identity.evidence import utc
from pipelit_agents.operations.deployment_checks import Check

FAILED = Check("debug", False, "it is on", "pages show secrets", "unset DEBUG")
PASSED = Check("key", True, "ok", "", "")


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Each run of the checks: whether it was for production. They take a moment, so none is run."""
    runs: list[bool] = []

    def check(self: Pipelit, *, deploy: bool = False) -> list[Check]:
        runs.append(deploy)
        return [PASSED, FAILED] if deploy else [PASSED]

    monkeypatch.setattr(Pipelit, "check", check)
    return runs


# Checks and keys


def test_the_checks_of_this_server_are_run(
    operator: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the folder in which it was started; each with its result and its fix, and no secret."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("SECRET_KEY=insecure-0123456789\nDEBUG=1\n")
    few = operator.get("/checks")
    every = operator.get("/checks", params={"deploy": "true"})
    assert 0 < len(few.json()) < len(every.json())
    assert "insecure-0123456789" not in every.text
    failed = [each for each in every.json() if each["ok"] is False]
    assert all(each["fix"] or each["found"] for each in failed)
    assert failed


def test_a_result_is_given_out_again_for_some_seconds(
    operator: httpx.Client, ran: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each kind for itself; then they run again, and an overview takes the same result."""
    for _ in range(3):
        operator.get("/checks", params={"deploy": "true"})
        operator.get("/overview")
    assert ran == [True]
    operator.get("/checks")
    assert ran == [True, False]
    monkeypatch.setattr(checks, "FRESH", -1.0)
    operator.get("/checks", params={"deploy": "true"})
    assert ran == [True, False, True]


def test_checks_run_one_at_a_time(pipelit: Pipelit) -> None:
    """Few wait, so that they don't hold all threads; the others are a 429."""
    latest, begun, go = checks.Latest(), threading.Event(), threading.Event()
    results: list[object] = []

    def slow() -> int:
        begun.set()
        assert go.wait(10)
        return 1

    def get() -> None:
        results.append(latest.get(pipelit, "x", slow))

    threads = [threading.Thread(target=get, daemon=True) for _ in range(4)]
    threads[0].start()
    assert begun.wait(10)
    for each in threads[1:]:
        each.start()
    while latest.waiting.running < 4:
        pass
    with pytest.raises(Exception, match="too many checks"):
        latest.get(pipelit, "x", slow)
    go.set()
    for each in threads:
        each.join(10)
    assert results == [1, 1, 1, 1]
    assert latest.get(pipelit, "x", slow) == 1


def test_keys_are_counted_and_not_shown(operator: httpx.Client, key: str) -> None:
    """Names of keys, and how many values are under each."""
    answer = operator.get("/encryption-keys")
    found = answer.json()
    assert (len(found["keys"]), found["older"], found["unreadable"]) == (1, 0, [])
    assert found["newest"] > 0
    assert key not in answer.text


# The overview


def test_the_overview_has_what_concerns_the_caller(
    operator: httpx.Client,
    member: httpx.Client,
    enrolled: Callable[[str], Callable[[], str]],
    pipelit: Pipelit,
    clock: Clock,
    ran: list[bool],
    editor: Agent,
) -> None:
    """Own questions and keys; operators also see everybody's keys, failed checks and locks."""
    enrolled("bob")
    pipelit.approvals.request({"pay": 1}, approvers=["bob"])
    for name, days in (("alice", 3), ("bob", 5), ("bob", 30), ("agent_writer", 2)):
        until = utc(clock() + days * 86_400)
        pipelit.users.issue_api_key(name, name=f"{days} days", expires_at=until)
    for _ in range(12):
        with pytest.raises(VerificationError):
            editor.verify_peer("agent_writer", "00000000")
        clock.advance(70)
    all_of_it, own = operator.get("/overview").json(), member.get("/overview").json()
    assert (all_of_it["pending_approvals"], own["pending_approvals"]) == (0, 1)
    named = [(each["username"], each["name"]) for each in all_of_it["expiring_keys"]]
    assert named == [("agent_writer", "2 days"), ("alice", "3 days"), ("bob", "5 days")]
    assert [each["name"] for each in own["expiring_keys"]] == ["5 days"]
    assert (own["failed_checks"], own["locked"]) == (None, None)
    assert [each["name"] for each in all_of_it["failed_checks"]] == ["debug"]
    assert {each["username"] for each in all_of_it["locked"]} == {"agent_writer"}
    pipelit.users.create("olga", role="operator")
    assert own["operators_without_second_factor"] is None
    assert operator.get("/overview").json()["operators_without_second_factor"] == ["alice", "olga"]
    enrolled("alice")
    assert operator.get("/overview").json()["operators_without_second_factor"] == ["olga"]


# Verification


@pytest.fixture
def verified(agent: httpx.Client) -> Callable[..., httpx.Response]:
    """Let agent_writer verify a code over HTTP."""
    return lambda peer, code, **more: agent.post(
        "/verify", json={"peer": peer, "code": code, **more}
    )


def test_an_agent_verifies_a_peers_code(
    verified: Callable[..., httpx.Response], editor: Agent
) -> None:
    """Made for it, once; the answer is the evidence, with the text that the code is bound to."""
    code = editor.totp_code(audience="agent_writer", message="pay bob 90").code
    found = verified("agent_editor", code, message="pay bob 90")
    assert found.status_code == 200
    assert found.json() | {"verified_at": ""} == {
        "peer": "agent_editor", "verifier": "agent_writer", "kind": "audience",
        "verified_at": "", "message": "pay bob 90",
    }  # fmt: skip
    assert verified("agent_editor", code, message="pay bob 90").status_code == 403
    assert code not in found.text


def test_the_kind_is_what_the_request_says(
    verified: Callable[..., httpx.Response], editor: Agent, clock: Clock
) -> None:
    """A plain code is accepted only where it is asked for, as anybody with an app could make it."""
    code = editor.totp_code().code
    assert verified("agent_editor", code).status_code in (403, 422)
    assert verified("agent_editor", code, kind="plain").json()["kind"] == "plain"
    clock.advance(30)
    code = editor.totp_code().code
    assert verified("agent_editor", code, kind="plain", message="x").status_code == 422
    assert verified("agent_editor", code, kind="proof").status_code == 422


def test_failures_look_the_same(
    verified: Callable[..., httpx.Response],
    editor: Agent,
    lead: Agent,
    clock: Clock,
    pipelit: Pipelit,
) -> None:
    """A wrong code, a spent one, one for another, a person, nobody, and a deactivated agent."""
    spent = editor.totp_code(audience="agent_writer").code
    assert verified("agent_editor", spent).status_code == 200
    clock.advance(30)
    others = editor.totp_code(audience="agent_lead").code
    pipelit.users.deactivate("agent_lead")
    answers = [
        verified("agent_editor", "00000000"),
        verified("agent_editor", spent),
        verified("agent_editor", others),
        verified("alice", "00000000"),
        verified("agent_of_nobody", "00000000"),
        verified("agent_lead", "00000000"),
    ]
    assert {each.status_code for each in answers} == {403}
    assert len({each.text for each in answers}) == 1
    assert len({str(sorted(each.headers.items())) for each in answers}) == 1
    assert answers[0].json()["type"].endswith(":code-rejected")
    for peer in ("", "agent_writer", "Agent", "a\x00", "plit_0123456789ab_" + "x" * 43):
        answer = verified(peer, "00000000")
        assert (answer.status_code, "x" * 43 in answer.text) == (answer.status_code, False), peer
        assert answer.status_code in (403, 422)
    for code in ("", "1", "\uff11" * 8, "0" * 64):
        answer = verified("agent_editor", code)
        assert answer.status_code == 422
        assert not code or len(code) == 1 or code not in answer.text


def test_guessing_is_a_429_and_holds_up_nobody_else(
    verified: Callable[..., httpx.Response], editor: Agent, lead: Agent
) -> None:
    """The same for a peer that isn't there; another verifier still accepts the peer's code."""
    for peer in ("agent_editor", "agent_of_nobody"):
        answers = [verified(peer, f"{number:08}") for number in range(12)]
        refused = answers[-1]
        assert answers[0].status_code == 403
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) == refused.json()["retry_after"] > 0
    code = editor.totp_code(audience="agent_writer").code
    assert verified("agent_editor", code).status_code == 429
    assert lead.verify_peer("agent_editor", editor.totp_code(audience="agent_lead").code)


def test_people_verify_no_peers(operator: httpx.Client, member: httpx.Client) -> None:
    """A code is for the agent that calls, so nobody calls as another one."""
    for client in (operator, member):
        for body in ({"peer": "agent_writer", "code": "00000000"}, {"nonsense": 1}):
            assert client.post("/verify", json=body).status_code == 403
