"""Locks by name that end with their transaction: advisory locks of a PostgreSQL server."""

from __future__ import annotations

from functools import cache
from zlib import crc32

from pipelit_agents.database.fast_path import Open, Statement

__all__ = ["lock", "lock_key"]


def lock(connection: Open, *names: str, shared: bool = False) -> None:
    """Serialize transactions that lock the same name, until they end.

    SQLite already serializes writing transactions, so nothing is locked there.

    Args:
        connection: A connection in a transaction that hasn't yet read the data to protect.
        names: The names to lock, by kind and name: ``account:alice``. Lock kinds in the order
            operators, family, peers, account, ledger, credential, code. The lock of the encryption
            key may come anywhere: a transaction that locks it exclusively takes no other lock.
        shared: Take a shared lock, which conflicts only with exclusive ones.
    """
    if connection.dialect.name == "sqlite":
        return
    take = "pg_advisory_xact_lock_shared" if shared else "pg_advisory_xact_lock"
    keys = sorted({lock_key(name) for name in names})
    if keys:
        # In one order, so that two transactions can't wait for each other. Equal keys are taken
        # once.
        values = {f"kind{n}": kind for n, (kind, _) in enumerate(keys)}
        values |= {f"name{n}": name for n, (_, name) in enumerate(keys)}
        _locking(take, len(keys)).write(connection, values)


def lock_key(name: str) -> tuple[int, int]:
    """Return the two numbers of the server's lock for a name."""
    # An advisory lock is a pair of 32-bit numbers, in a space that is shared with the application.
    kind, _, which = name.partition(":")
    first, second = (crc32(part.encode()) for part in (f"pipelit {kind}", which))
    return first - 2**31, second - 2**31


@cache
def _locking(take: str, count: int) -> Statement:
    taken = ", ".join(f"{take}(:kind{n}, :name{n}) AS lock{n}" for n in range(count))
    return Statement(f"SELECT {taken}")
