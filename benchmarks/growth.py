"""Verifications a second in stores of 1 to 100,000 agents, on each backend.

Beside those agents stand the 21 that verify and are verified.

Run it with ``make bench``. The servers are those of the tests; everything is on one machine, so
that a network is not in it. Codes are verified one after the other, by one process.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy import insert, select

from pipelit_agents import Keyring, Pipelit, VerificationPolicy
from pipelit_agents.database.models import CredentialRow, LedgerRow, UserRow

SIZES = (1, 10, 100, 1_000, 100_000)
TIMES = 400
PEERS = 20
BATCH = 10_000


@contextmanager
def backends() -> Iterator[dict[str, dict[str, Any]]]:
    """What a Pipelit on each backend is made of."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
    from postgres import PostgresServer
    from redis_server import RedisServer

    with ExitStack() as stack:
        folder, pg_folder, redis_folder = (
            Path(stack.enter_context(TemporaryDirectory(prefix="growth-"))) for _ in range(3)
        )
        postgres = stack.enter_context(PostgresServer(pg_folder))
        postgres.start()
        redis = RedisServer(redis_folder)
        redis.start()
        stack.callback(redis.kill)
        sqlite = "sqlite:///" + str(folder)
        yield {
            "sqlite": {"database_url": f"{sqlite}/one.db"},
            "postgres": {"database_url": postgres.url()},
            "redis": {"database_url": f"{sqlite}/two.db", "redis_url": redis.url},
        }


def fill(pipelit: Pipelit, there: int, wanted: int) -> None:
    """Adds agents, and to each a row of what was counted about it, as after some use."""
    with pipelit._database.writing() as connection:
        sample = connection.execute(
            select(UserRow.__table__).where(UserRow.username == "agent_0")
        ).one()
        for start in range(there, wanted, BATCH):
            names = [f"agent_{n}" for n in range(start, min(start + BATCH, wanted))]
            # Their secret opens for agent_0 only: they are there, and aren't verified.
            connection.execute(
                insert(UserRow), [sample._asdict() | {"username": name} for name in names]
            )
            row = {"subject": "", "version": 1, "in_a_row": 0, "recent": "", "locked_until": 0.0}
            connection.execute(
                insert(LedgerRow),
                [row | {"peer": name, "scope": "peer", "spent_step": 1} for name in names],
            )
    if pipelit._database.engine.dialect.name == "postgresql":
        with pipelit._database.writing() as connection:
            connection.exec_driver_sql("ANALYZE")


def fill_credentials(pipelit: Pipelit, wanted: int) -> None:
    """Adds credentials up to ``credential_<n>``; all but a few are copies that don't open."""
    for number in range(10):
        pipelit.credentials.put(
            f"credential_{number}", f"secret-{number:08}", kind="llm", created_by="alice"
        )
    with pipelit._database.writing() as connection:
        sample = connection.execute(
            select(CredentialRow.__table__).where(CredentialRow.name == "credential_0")
        ).one()
        for start in range(10, wanted, BATCH):
            numbers = range(start, min(start + BATCH, wanted))
            connection.execute(
                insert(CredentialRow),
                [sample._asdict() | {"name": f"credential_{number}"} for number in numbers],
            )


def measure(pipelit: Pipelit, now: list[float]) -> float:
    """Verifications a second; each of a code that wasn't given before."""
    editor = pipelit.agent("agent_editor")
    peers = [pipelit.agent(f"agent_peer_{number}") for number in range(PEERS)]
    spent = 0.0
    for number in range(TIMES):
        if number % PEERS == 0:
            now[0] += 90
        peer = peers[number % PEERS]
        code = peer.totp_code(audience=editor.username).code
        start = time.perf_counter()
        editor.verify_peer(peer.username, code)
        spent += time.perf_counter() - start
    return TIMES / spent


def main() -> None:
    """Prints the table."""
    print("verifications a second, one after the other, by agents in the store")
    print(f"{'backend':<10}" + "".join(f"{size:>10,}" for size in SIZES))
    policy = VerificationPolicy(agents_per_owner=10**6)
    with backends() as made:
        for name, settings in made.items():
            now = [1_800_000_000.0]
            keys = [Keyring.generate_key()]
            with Pipelit(
                **settings, encryption_keys=keys, policy=policy, clock=lambda now=now: now[0]
            ) as pipelit:
                pipelit.create_schema()
                pipelit.users.create("alice")
                # Those that are verified, beside those that are merely there.
                for each in ["0", "editor", *(f"peer_{number}" for number in range(PEERS))]:
                    pipelit.users.create_agent(f"agent_{each}", owner="alice", purpose="is there")
                there, found = 1, []
                for size in SIZES:
                    fill(pipelit, there, size)
                    there = size
                    found.append(measure(pipelit, now))
            print(f"{name:<10}" + "".join(f"{each:>10,.0f}" for each in found))


if __name__ == "__main__":
    main()
