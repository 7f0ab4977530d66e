"""The rules as a pure function, the ledger in SQL and the one in Redis decide alike."""

from __future__ import annotations

import shutil
from contextlib import ExitStack, nullcontext
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from conftest import Clock
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from internals import clock_of, database_of, verify_person
from redis_server import RedisServer
from sqlalchemy import text
from test_ledger_suite import SpendingLedger, Store
from test_mfa import app_of

from pipelit_agents import Keyring, Pipelit, VerificationPolicy
from pipelit_agents.errors import VerificationError
from pipelit_agents.ledger.rules import Lane, Rules, class_of
from pipelit_agents.testing.ledger_parts import WatchedLedger

VERIFIERS = ("agent_b", "agent_c", "agent_x", "agent_y", "agent_gone", "agent_ghost")
PEERS = ("agent_a", "agent_nobody", "alice")
KINDS = ("audience", "plain")
LANES = (None, "self", "family", "others", "plain:agent_x", "nobody:agent_gone", "audience:agent_b")
STEPS = st.one_of(
    st.tuples(
        st.just("try"),
        st.sampled_from(VERIFIERS),
        st.sampled_from(PEERS),
        st.sampled_from(KINDS),
        st.sampled_from([None, -2, -1, 0, 0, 0, 1, 2]),
        # For whom the running code acts.
        st.sampled_from([None, None, "alice"]),
    ),
    st.tuples(st.just("person"), st.booleans(), st.sampled_from([None, -1, 0, 0, 1])),
    st.tuples(
        st.just("wrong"),
        st.sampled_from(VERIFIERS),
        st.sampled_from(KINDS),
        st.integers(1, 12),
    ),
    st.tuples(
        st.just("wait"),
        st.sampled_from(
            # As long as a lock, as a year's allowance; and clocks that were set back.
            [1, 29, 30, 59.5, 60, 61, 300, 901, 86_400, 40 * 86_400, 300 * 86_400, -45, -9e6]
        ),
    ),
    st.tuples(st.just("unlock"), st.sampled_from(LANES)),
    st.tuples(st.just("enrol")),
    st.tuples(st.just("deactivate"), st.sampled_from(["agent_x", "agent_c"])),
    st.tuples(st.just("rotate"), st.sampled_from([0, 45, 900])),
)
POLICIES = st.fixed_dictionaries(
    {
        "failures_per_minute": st.integers(1, 5),
        "lock_after": st.integers(1, 10),
        "lock_seconds": st.sampled_from([1, 59.5, 900]),
        "longest_lock_seconds": st.sampled_from([20 * 86_400, 30 * 86_400.5]),
        "own_lanes": st.integers(0, 2),
        "window": st.integers(0, 2),
    }
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Any]:
    """A database with agents of two owners and a person's factor in it, to be copied."""
    folder, key = tmp_path_factory.mktemp("prepared"), Keyring.generate_key()
    # Earlier than any moment to which a test sets the clock: a Redis that is new to a database in
    # which a step ahead of its clock was spent refuses for some periods, and SQL doesn't.
    clock = Clock(1_789_999_000.0)
    with Pipelit(
        database_url=f"sqlite:///{folder}/agents.db", encryption_keys=[key], clock=clock
    ) as pipelit:
        pipelit.create_schema()
        for owner, agents in (
            ("alice", ("agent_a", "agent_b", "agent_c", "agent_gone")),
            ("bob", ("agent_x", "agent_y")),
        ):
            pipelit.users.create(owner)
            for name in agents:
                pipelit.users.create_agent(name, owner=owner, purpose="takes part")
        pipelit.users.deactivate("agent_gone")
        app = app_of(pipelit.mfa.enroll("alice"))
        pipelit.mfa.confirm("alice", app.at(clock()))
    return folder / "agents.db", key, app


class _Confirmed:
    """What :func:`told` reads of an enrolment that was confirmed."""

    step = 0


def told(pipelit: Pipelit, act: Any) -> Any:
    """What a caller was told, and the true reason."""
    try:
        found: Any = act(pipelit).step
    except VerificationError as error:
        found = (type(error), getattr(error, "retry_after", None))
    return found, pipelit.audit.list(limit=1)[0].reason


def lanes(pipelit: Pipelit) -> Any:
    """What the database keeps of each lane.

    With what is owed of the year's allowance, to the millisecond. But for the ends of locks: where
    the clock was set back, Redis shortens them for itself.
    """
    query = text(
        "SELECT peer, scope, subject, in_a_row, whole_at "
        "FROM pipelit_ledger WHERE in_a_row > 0 OR whole_at > :now ORDER BY 1, 2, 3"
    )
    assert clock_of(pipelit) is not None
    now, rules = clock_of(pipelit)(), Rules(pipelit.policy)

    def owed(row: Any) -> float:
        lanes = class_of(row.scope, person=row.peer == "alice")
        owed = rules.seen(Lane(whole_at=row.whole_at), now, lanes).whole_at - now
        return round(max(0.0, owed), 3)

    with database_of(pipelit).reading() as connection:
        found = connection.execute(query, {"now": now}).all()
        return [(*row[:4], owed(row)) for row in found]


@settings(
    max_examples=settings().max_examples // 3,
    deadline=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.filter_too_much,
    ],
)
@given(limits=POLICIES, steps=st.lists(STEPS, min_size=5, max_size=40))
def test_both_decide_alike(
    prepared: tuple[Path, str, Any],
    own_redis: RedisServer,
    limits: dict[str, Any],
    steps: list[Any],
) -> None:
    """Outcome, time step, seconds to wait and true reason are the same after any history.

    And so is what the database keeps of the lanes, which outlives Redis.
    """
    try:
        policy = VerificationPolicy(**limits)
    except ValueError:
        assume(False)
    path, key, app = prepared
    own_redis.client().flushall()
    with TemporaryDirectory() as folder:
        clock = Clock()
        both = []
        for number, url in enumerate((None, own_redis.url)):
            shutil.copy(path, f"{folder}/{number}.db")
            both.append(
                Pipelit(
                    database_url=f"sqlite:///{folder}/{number}.db",
                    encryption_keys=[key],
                    redis_url=url,
                    policy=policy,
                    clock=clock,
                )
            )

        def compare(act: Any) -> None:
            seen = [told(each, act) for each in both]
            assert seen[0] == seen[1]

        # Since a rotation each has a secret of its own, and so codes of its own.
        def code_of(pipelit: Pipelit, audience: str | None, ahead: int) -> str:
            clock.advance(30 * ahead)
            code = pipelit.agent("agent_a").totp_code(audience=audience).code
            clock.advance(-30 * ahead)
            return code

        def tried(
            pipelit: Pipelit, verifier: str, peer: str, kind: Any, ahead: int | None, person: Any
        ) -> Any:
            given = "0" * (6 if kind == "plain" else 8)
            if ahead is not None and peer == "alice" and kind == "plain":
                given = app.at(clock() + 30 * ahead)
            elif ahead is not None:
                given = code_of(pipelit, verifier if kind == "audience" else None, ahead)
            with pipelit.acting_for(person) if person else nullcontext():
                return pipelit.agent(verifier).verify_peer(peer, given, kind=kind)

        for step in steps:
            if step[0] == "wait":
                clock.now = max(clock.now + step[1], 1_790_000_000.0)
            elif step[0] == "unlock":
                for each in both:
                    each.users.unlock("agent_a", lane=step[1])
                    each.users.unlock("alice", lane=step[1])
            elif step[0] == "enrol":
                # A new factor with the secret of before, so that one app makes the codes of both.
                for each in both:
                    each.mfa.reset("alice")
                    with pytest.MonkeyPatch.context() as patch:
                        patch.setattr("secrets.token_bytes", lambda _: app.byte_secret())
                        each.mfa.enroll("alice")
                compare(lambda p: p.mfa.confirm("alice", app.at(clock())) and _Confirmed)
            elif step[0] == "deactivate":
                for each in both:
                    each.users.deactivate(step[1])
            elif step[0] == "rotate":
                for each in both:
                    each.users.rotate_totp("agent_a", overlap=timedelta(seconds=step[1]))
            elif step[0] == "wrong":
                wrong = "0" * (6 if step[2] == "plain" else 8)
                for _ in range(step[3]):
                    compare(
                        lambda p, s=step, w=wrong: p.agent(s[1]).verify_peer(
                            "agent_a", w, kind=s[2]
                        )
                    )
            elif step[0] == "person":
                code = "000000" if step[2] is None else app.at(clock() + 30 * step[2])
                compare(lambda p, s=step, c=code: verify_person(p, "alice", c, own=s[1]))
            else:
                compare(lambda p, s=step: tried(p, *s[1:]))
            assert lanes(both[0]) == lanes(both[1])
        for each in both:
            each.close()


def kept(store: Store, rules: Rules, now: float) -> Any:
    """What the pure function has returned of each lane, as :func:`lanes` reads it from SQL."""
    found = []
    for (_, peer, scope, subject), (_, lane) in store.lanes.items():
        owed = rules.seen(lane, now, class_of(scope, person=peer == "alice")).whole_at - now
        if lane.in_a_row or lane.whole_at > now:
            found.append((peer, scope, subject, lane.in_a_row, round(max(0.0, owed), 3)))
    return sorted(found)


ATTEMPTS = st.one_of(
    st.tuples(
        st.just("try"),
        st.sampled_from(VERIFIERS),
        st.sampled_from(PEERS),
        st.sampled_from(KINDS),
        st.sampled_from([None, -2, -1, 0, 0, 0, 1, 2]),
        # Whether it is a code of the secret before.
        st.booleans(),
    ),
    st.tuples(
        st.just("wrong"),
        st.sampled_from(VERIFIERS),
        st.sampled_from(KINDS),
        st.integers(1, 12),
        # Seconds between them: as fast as can be, or so that the limit of a minute holds none.
        st.sampled_from([0, 61]),
    ),
    st.tuples(
        st.just("wait"),
        st.sampled_from([1, 29, 30, 59.5, 60, 61, 300, 901, 86_400, 40 * 86_400, 300 * 86_400]),
    ),
)


@settings(
    max_examples=settings().max_examples // 4,
    deadline=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.filter_too_much,
    ],
)
@given(
    limits=POLICIES,
    overlap=st.sampled_from([None, 45, 900, 86_400]),
    steps=st.lists(ATTEMPTS, min_size=5, max_size=30),
)
def test_the_pure_function_decides_like_both(
    prepared: tuple[Path, str, Any],
    own_redis: RedisServer,
    limits: dict[str, Any],
    overlap: int | None,
    steps: list[Any],
) -> None:
    """``rules.decide`` over a dict, SQL and the script: one decision, wait and reason.

    With one secret, and in the overlap of two. Verifiers have no lanes of their own here: which
    lane counts, the database says.
    """
    try:
        policy = VerificationPolicy(**(limits | {"own_lanes": 0}))
    except ValueError:
        assume(False)
    path, key, app = prepared
    own_redis.client().flushall()
    clock, store, rules = Clock(), Store(), Rules(policy)
    with TemporaryDirectory() as folder, ExitStack() as stack:
        all_three = []
        for number, ledger in enumerate(
            (
                {"ledger": WatchedLedger(lambda context: SpendingLedger(context, store)).make},
                {},
                {"redis_url": own_redis.url},
            )
        ):
            shutil.copy(path, f"{folder}/{number}.db")
            made = Pipelit(
                database_url=f"sqlite:///{folder}/{number}.db",
                encryption_keys=[key],
                policy=policy,
                clock=clock,
                **ledger,
            )
            all_three.append(stack.enter_context(made))
        shutil.copy(path, f"{folder}/before.db")
        url = f"sqlite:///{folder}/before.db"
        before = Pipelit(database_url=url, encryption_keys=[key], clock=clock)
        stack.enter_context(before)
        if overlap is not None:
            for each in all_three:
                each.users.rotate_totp("agent_a", overlap=timedelta(seconds=overlap))

        def shown(pipelit: Pipelit, step: Any) -> str:
            _, verifier, peer, kind, ahead, old = step
            if ahead is None:
                return "0" * (6 if kind == "plain" else 8)
            if peer == "alice" and kind == "plain":
                return str(app.at(clock() + 30 * ahead))
            clock.advance(30 * ahead)
            audience = verifier if kind == "audience" else None
            maker = (before if old else pipelit).agent("agent_a")
            code = maker.totp_code(audience=audience).code
            clock.advance(-30 * ahead)
            return code

        for step in steps:
            if step[0] == "wait":
                clock.advance(step[1])
                continue
            times = step[3] if step[0] == "wrong" else 1
            tried = (
                ("try", step[1], "agent_a", step[2], None, False) if step[0] == "wrong" else step
            )
            for _ in range(times):
                found = [
                    told(
                        each,
                        lambda p, s=tried: p.agent(s[1]).verify_peer(s[2], shown(p, s), kind=s[3]),
                    )
                    for each in all_three
                ]
                assert found[0] == found[1] == found[2]
                clock.advance(step[4] if step[0] == "wrong" else 0)
            assert kept(store, rules, clock()) == lanes(all_three[1])
