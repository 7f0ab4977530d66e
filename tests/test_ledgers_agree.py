"""The ledger in SQL and the one in Redis decide alike, whatever is thrown at them."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from conftest import Clock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis_server import RedisServer

from pipelit_agents import Keyring, Pipelit, VerificationPolicy
from pipelit_agents.errors import VerificationError

VERIFIERS = ("agent_b", "agent_c", "agent_x")
KINDS = ("audience", "plain")
STEPS = st.one_of(
    st.tuples(
        st.just("try"),
        st.sampled_from(VERIFIERS),
        st.sampled_from(["agent_a", "agent_nobody"]),
        st.sampled_from(KINDS),
        st.sampled_from([None, -2, -1, 0, 0, 0, 1, 2]),
    ),
    st.tuples(st.just("wrong"), st.sampled_from(VERIFIERS), st.integers(1, 12)),
    st.tuples(st.just("wait"), st.sampled_from([1, 29, 30, 59.5, 60, 61, 300, 901, -45])),
    st.tuples(st.just("unlock")),
)
POLICIES = st.builds(
    VerificationPolicy,
    failures_per_minute=st.integers(1, 5),
    lock_after=st.integers(1, 10),
    lock_seconds=st.sampled_from([1, 59.5, 900]),
    owner_lock_after=st.integers(1, 20),
    switch_off_after=st.integers(5, 40),
    window=st.integers(0, 2),
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A database with agents of two owners in it, to be copied, and its key."""
    folder, key = tmp_path_factory.mktemp("prepared"), Keyring.generate_key()
    with Pipelit(
        database_url=f"sqlite:///{folder}/agents.db", encryption_keys=[key], clock=Clock()
    ) as pipelit:
        pipelit.create_schema()
        for owner, agents in (("alice", ("agent_a", "agent_b", "agent_c")), ("bob", ("agent_x",))):
            pipelit.users.create(owner)
            for name in agents:
                pipelit.users.create_agent(name, owner=owner, purpose="takes part")
    return folder / "agents.db", key


def decided(pipelit: Pipelit, verifier: str, peer: str, code: str, kind: Any) -> Any:
    """What a verifier was told, and the true reason."""
    try:
        told: Any = pipelit.agent(verifier).verify_peer(peer, code, kind=kind).step
    except VerificationError as error:
        told = (type(error), getattr(error, "retry_after", None))
    return told, pipelit.audit.list(limit=1)[0].reason


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(policy=POLICIES, steps=st.lists(STEPS, min_size=5, max_size=40))
def test_both_decide_alike(
    prepared: tuple[Path, str],
    own_redis: RedisServer,
    policy: VerificationPolicy,
    steps: list[Any],
) -> None:
    """Outcome, time step, seconds to wait and true reason are the same after any history."""
    path, key = prepared
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
        for step in steps:
            if step[0] == "wait":
                clock.advance(step[1])
            elif step[0] == "unlock":
                for each in both:
                    each.users.unlock("agent_a")
            elif step[0] == "wrong":
                for _ in range(step[2]):
                    seen = [
                        decided(each, step[1], "agent_a", "00000000", "audience") for each in both
                    ]
                    assert seen[0] == seen[1]
            else:
                _, verifier, peer, kind, ahead = step
                code = "0" * (6 if kind == "plain" else 8)
                if ahead is not None:
                    clock.advance(30 * ahead)
                    audience = verifier if kind == "audience" else None
                    code = both[0].agent("agent_a").totp_code(audience=audience).code
                    clock.advance(-30 * ahead)
                seen = [decided(each, verifier, peer, code, kind) for each in both]
                assert seen[0] == seen[1]
        for each in both:
            each.close()
