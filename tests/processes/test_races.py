"""Races: 8 processes of 25 threads each, at one moment, on every backend."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import racing
from internals import database_of
from login_page import login_page
from racing import PROCESSES, THREADS, Crowd, Outcome
from sqlalchemy import text

from pipelit_agents import Pipelit, VerificationPolicy

BACKENDS = True
EVERYBODY = PROCESSES * THREADS
POLICY = VerificationPolicy(agents_per_owner=10**6)


@pytest.fixture(scope="session")
def crowd() -> Iterator[Crowd]:
    """Processes of this test process, which wait for a race."""
    crowd = Crowd()
    yield crowd
    crowd.close()


@pytest.fixture
def pipelit(settings: dict[str, Any]) -> Iterator[Pipelit]:
    """An empty, migrated database; by the real clock."""
    with Pipelit(**settings, policy=POLICY) as made:
        yield made


def people(pipelit: Pipelit, count: int, each: int = 1) -> list[str]:
    """Agents, some of one owner each."""
    names = []
    for number in range(count):
        if number % each == 0:
            owner = pipelit.users.create(f"owner_{number}").username
        name = f"agent_{number}"
        pipelit.users.create_agent(name, owner=owner, purpose="takes part")
        names.append(name)
    return names


def audited(pipelit: Pipelit, subject: str, action: str) -> Counter[tuple[str, str]]:
    """How often each outcome with its reason stands in the audit."""
    query = text(
        "SELECT outcome, reason FROM pipelit_audit WHERE subject = :subject AND action = :action"
    )
    with database_of(pipelit).reading() as connection:
        rows = connection.execute(query, {"subject": subject, "action": action})
        return Counter((row.outcome, row.reason) for row in rows)


def names_of(outcomes: list[Outcome]) -> Counter[str]:
    """How often each outcome was handed out; what is no outcome of ours, in full."""
    return Counter(each.value if each.name == "surprise" else each.name for each in outcomes)


@pytest.mark.parametrize("kind", ["plain", "audience"])
def test_one_code_has_one_winner(
    pipelit: Pipelit, settings: dict[str, Any], crowd: Crowd, kind: str
) -> None:
    """Of 200 that give one right code at once exactly one is accepted, in each of four rounds.

    A plain code is given to eight verifiers, an audience code to its own one in all processes.
    """
    people(pipelit, PROCESSES)
    for number in range(4):
        peer = f"agent_peer_{number}"
        pipelit.users.create_agent(peer, owner="owner_0", purpose="is verified")
        audience = None if kind == "plain" else "agent_0"
        code = pipelit.agent(peer).totp_code(audience=audience).code
        given = [
            (audience or f"agent_{runner % PROCESSES}", peer, code, kind)
            for runner in range(EVERYBODY)
        ]
        outcomes = names_of(crowd.race(settings, POLICY, racing.verify, given))
        assert outcomes.pop("ok") == 1
        assert set(outcomes) <= {"CodeRejected", "RateLimited"}
        rows = audited(pipelit, peer, f"verify.{kind}")
        assert rows.pop(("ok", "")) == 1
        assert rows["refused", "replay"] == outcomes["CodeRejected"]
        assert rows["refused", "rate limited"] == outcomes["RateLimited"]
        assert rows.total() == EVERYBODY - 1


@pytest.mark.backends("sqlite", "postgres")
def test_no_code_of_another_service_is_handed_out_twice(
    pipelit: Pipelit, settings: dict[str, Any], crowd: Crowd
) -> None:
    """Of 100 that log in at once with one account, each gets a step of its own, without a gap.

    The page compares their codes with those of the next hour, and refuses one that it has seen.
    """
    with login_page() as page:
        pipelit.credentials.put(
            "shop",
            {"password": page.password, "totp": page.uri},
            kind="login",
            created_by="owner_0",
            public={"url": page.url, "longest_wait": 3600},
        )
        outcomes = crowd.race(settings, POLICY, racing.log_in, [("shop",)] * 100)
    assert Counter((each.name, each.value) for each in outcomes) == {("ok", 200): 100}
    rows = audited(pipelit, "shop", "credential.reveal")
    assert rows.pop(("ok", "")) == 100
    steps = sorted(int(reason.removeprefix("step ")) for _, reason in rows)
    assert steps == list(range(steps[0], steps[0] + 100))


@pytest.mark.backends("sqlite", "postgres", "redis", "both")
def test_of_200_guesses_at_once_five_are_evaluated(
    pipelit: Pipelit, settings: dict[str, Any], crowd: Crowd
) -> None:
    """However many guess for one verifier at once, the limit of a minute is never exceeded."""
    people(pipelit, 2)
    given = [("agent_0", "agent_1", f"{runner:08d}", "audience") for runner in range(EVERYBODY)]
    outcomes = names_of(crowd.race(settings, POLICY, racing.verify, given))
    assert outcomes == {"CodeRejected": 5, "RateLimited": EVERYBODY - 5}
    assert audited(pipelit, "agent_1", "verify.audience") == {
        ("refused", "wrong code"): 5,
        ("refused", "rate limited"): EVERYBODY - 5,
    }


@pytest.mark.backends("sqlite", "postgres", "redis", "both")
@pytest.mark.parametrize("kind", ["plain", "audience"])
def test_of_200_verifiers_that_guess_at_once(
    pipelit: Pipelit, settings: dict[str, Any], crowd: Crowd, kind: str
) -> None:
    """Plain codes: strangers share a lane, so five are evaluated. Audience codes: one each.

    Neither keeps the one who has verified the peer before from doing so again.
    """
    people(pipelit, EVERYBODY + 2, each=25)
    peer, judge = f"agent_{EVERYBODY + 1}", f"agent_{EVERYBODY}"
    code = pipelit.agent(peer).totp_code().code
    racing.verify(pipelit, judge, peer, code, "plain")
    wrong = "00000000" if kind == "audience" else f"{(int(code) + 1) % 10**6:06d}"
    given = [(f"agent_{runner}", peer, wrong, kind) for runner in range(EVERYBODY)]
    outcomes = names_of(crowd.race(settings, POLICY, racing.verify, given))
    evaluated = EVERYBODY if kind == "audience" else 5
    assert outcomes == Counter({"CodeRejected": evaluated, "RateLimited": EVERYBODY - evaluated})
    query = text(
        "SELECT sum(in_a_row) FROM pipelit_ledger "
        "WHERE peer = :peer AND scope IN ('pair', 'family', 'others')"
    )
    with database_of(pipelit).reading() as connection:
        assert connection.scalar(query, {"peer": peer}) == evaluated
    code = pipelit.agent(peer).totp_code(audience=judge).code
    racing.verify(pipelit, judge, peer, code, "audience")
    # Its own lane is there, and its code of this step is spent.
    again = racing.outcome(
        lambda: racing.verify(pipelit, judge, peer, pipelit.agent(peer).totp_code().code, "plain")
    )
    assert again.name in ("ok", "CodeRejected")


@pytest.mark.backends("sqlite", "postgres", "redis", "both")
def test_own_lanes_are_not_given_out_twice(
    pipelit: Pipelit, settings: dict[str, Any], crowd: Crowd
) -> None:
    """Where one may have a lane of its own, several winners at once make one lane."""
    people(pipelit, PROCESSES + 1)
    peer, one = f"agent_{PROCESSES}", VerificationPolicy(own_lanes=1)
    # The codes of three steps, oldest first, so that each has a winner.
    now, won = time.time(), 0
    codes = []
    for ahead in (-30, 0, 30):
        with Pipelit(**settings, clock=lambda a=ahead: now + a) as other:
            codes.append(other.agent(peer).totp_code().code)
    for number, code in enumerate(codes):
        # Others each time, as who has a lane is asked in it.
        runners = range(number, PROCESSES, 3)
        given = [(f"agent_{runner}", peer, code, "plain") for runner in runners]
        won += names_of(crowd.race(settings, one, racing.verify, given))["ok"]
        pipelit.users.unlock(peer, lane="others")
    assert won >= 2
    query = text("SELECT count(*) FROM pipelit_ledger WHERE peer = :peer AND scope = 'plain'")
    with database_of(pipelit).reading() as connection:
        assert connection.scalar(query, {"peer": peer}) == 1


def test_everybody_verifies_everybody(
    pipelit: Pipelit,
    settings: dict[str, Any],
    redis_url: str | None,
    crowd: Crowd,
    pytestconfig: pytest.Config,
) -> None:
    """Ten agents in 8 processes: no error but refusals, no code twice, no audit row lost.

    With codes, wrong codes, proofs and unlocks at once. Each outcome that a process was handed
    has exactly one row.
    """
    names = people(pipelit, 10, each=5)
    # One of them is enough to find what takes long to come.
    times = 20 if settings["database_url"].startswith("sqlite") and not redis_url else 10
    if pytestconfig.getoption("everywhere"):
        times *= 25
    given = [(seed, names, times) for seed in range(PROCESSES * 3)]
    outcomes = crowd.race(settings, POLICY, racing.soak, given)
    assert names_of(outcomes) == {"ok": len(given)}
    handed: Counter[tuple[str, ...]] = Counter()
    accepted: Counter[tuple[str, ...]] = Counter()
    for each in outcomes:
        handed += each.value[0]
        accepted.update(each.value[1])
    expected = {"ok", "CodeRejected", "RateLimited", "PeerLocked"}
    assert {each[-1] for each in handed} <= expected
    # A peer's step is accepted once; an audience code's for each verifier.
    assert set(accepted.values()) == {1}
    assert len(accepted) > 20
    written: Counter[tuple[str, ...]] = Counter()
    with database_of(pipelit).reading() as connection:
        query = text(
            "SELECT actor, subject, action, outcome, reason FROM pipelit_audit "
            "WHERE action LIKE 'verify.%' OR action = 'user.unlock'"
        )
        for row in connection.execute(query):
            said = {
                "": "ok",
                "wrong code": "CodeRejected",
                "replay": "CodeRejected",
                "rate limited": "RateLimited",
                "lane locked": "PeerLocked",
            }[row.reason]
            assert (row.outcome == "ok") is (said == "ok")
            written[row.actor, row.subject, row.action, said] += 1
    assert written == handed
    print(f"{handed.total()} outcomes: {Counter(e[2:] for e in handed.elements())}")


@pytest.mark.backends("sqlite", "postgres")
def test_a_name_is_given_once(pipelit: Pipelit, settings: dict[str, Any], crowd: Crowd) -> None:
    """Of 200 that make the same account at once one does; the others are told that it is taken."""
    people(pipelit, 4)
    given = [("agent_same", f"owner_{runner % 4}") for runner in range(EVERYBODY)]
    outcomes = names_of(crowd.race(settings, POLICY, racing.create, given))
    assert outcomes == {"ok": 1, "UserExists": EVERYBODY - 1}
    assert len(pipelit.users.list_api_keys("agent_same")) == 1


@pytest.mark.backends("sqlite", "postgres")
def test_provisioning_is_idempotent_under_a_race(
    pipelit: Pipelit, settings: dict[str, Any], crowd: Crowd
) -> None:
    """Of 200 calls of one creator for one name one makes the account, and all are told of it."""
    people(pipelit, 1)
    given = [("agent_same", "agent_0") for _ in range(EVERYBODY)]
    outcomes = crowd.race(settings, POLICY, racing.provision, given)
    assert names_of(outcomes) == {"ok": EVERYBODY}
    assert Counter(each.value for each in outcomes) == {
        ("agent_same", True): 1,
        ("agent_same", False): EVERYBODY - 1,
    }


@pytest.mark.backends("sqlite", "postgres")
def test_the_quota_holds_under_a_race(
    pipelit: Pipelit, settings: dict[str, Any], crowd: Crowd
) -> None:
    """Of 200 agents that are made at once under one root owner, as many are as are allowed."""
    people(pipelit, 1)
    owners = ("owner_0", "agent_0")
    given = [(f"agent_new_{each}", owners[each % 2]) for each in range(EVERYBODY)]
    outcomes = names_of(crowd.race(settings, VerificationPolicy(), racing.create, given))
    assert outcomes == {"ok": 19, "QuotaExceeded": EVERYBODY - 19}


@pytest.mark.backends("sqlite", "postgres")
def test_agents_come_and_go_and_none_is_orphaned(
    pipelit: Pipelit, settings: dict[str, Any], crowd: Crowd
) -> None:
    """Making, provisioning and ending at once: no deadlock, no living agent of an ended owner.

    Nor were there ever more than allowed, by the order of what was written down.
    """
    for name in ("alice", "bob"):
        pipelit.users.create(name)
    policy = VerificationPolicy(agents_per_owner=8)
    given = [(seed, 12) for seed in range(PROCESSES * 4)]
    outcomes = crowd.race(settings, policy, racing.come_and_go, given)
    assert names_of(outcomes) == {"ok": len(given)}
    seen = sum((each.value for each in outcomes), Counter())
    assert set(seen) <= {
        *("ok", "UserExists", "UserNotFound", "UserInactive", "NotPermitted"),
        *("NotLocalAgent", "QuotaExceeded"),
    }
    assert min(seen["ok"], seen["QuotaExceeded"]) > 10
    users = {each.username: each for each in pipelit.users.list()}
    for each in users.values():
        assert not each.active or each.owner is None or users[each.owner].active
    living: Counter[str] = Counter()
    changes = [
        each
        for each in pipelit.audit.list(limit=10**6)
        if each.action in ("agent.create", "user.deactivate") and each.outcome == "ok"
    ]
    for each in changes:
        if each.reason != "was there":
            root = users[each.subject].root_owner
            living[root] += 1 if each.action == "agent.create" else -1
            assert living[root] <= policy.agents_per_owner
    assert living == Counter(e.root_owner for e in users.values() if e.active and e.owner)
