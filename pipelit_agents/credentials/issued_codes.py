"""Hand out the codes of other services' authenticators, each once in all processes.

A service accepts a code once, so two callers that send the same one get in each other's way. The
table ``pipelit_issued_codes`` has the last time step that was handed out for each seed. A caller
takes the present step, or the first one after the last, and waits until it begins.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from sqlalchemy import Connection

from pipelit_agents._core import Core
from pipelit_agents._otpauth import Authenticator
from pipelit_agents._wording import in_words
from pipelit_agents.credentials.authenticator import MAX_WAIT
from pipelit_agents.credentials.secret import Secret
from pipelit_agents.database.fast_path import Open, Query, Statement
from pipelit_agents.errors import CodeUnavailable, StorageError
from pipelit_agents.ledger.common import at_moment
from pipelit_agents.otp import hotp, step_at
from pipelit_agents.sealing.purposes import ISSUED_CODES

__all__ = ["Code", "Issued", "issue", "take_back_far_steps"]


class _Moment(NamedTuple):
    now: float


class _Last(NamedTuple):
    last_step: int


_SERVER_CLOCK: Final = Query(
    "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION) AS now", _Moment
)
_READ: Final = Query("SELECT last_step FROM pipelit_issued_codes WHERE id = :id", _Last)
_TAKE: Final = Statement(
    "INSERT INTO pipelit_issued_codes (id, last_step) VALUES (:id, :step) "
    "ON CONFLICT (id) DO UPDATE SET last_step = excluded.last_step "
    "WHERE pipelit_issued_codes.last_step < excluded.last_step"
)
_TAKE_BACK: Final = Statement(
    "UPDATE pipelit_issued_codes SET last_step = :present WHERE id = :id AND last_step > :latest"
)


class Issued(NamedTuple):
    """A code, and when it is valid.

    Attributes:
        code: The code.
        step: Its time step.
        wait: Seconds until the step begins; 0 if it has begun.
        sleep: How to wait, if not really.
    """

    code: str
    step: int
    wait: float
    sleep: Callable[[float], None] | None = None


class Code(Secret):
    """A code of another service, which nobody else gets.

    Args:
        issued: The code.
        credential: The reference that opened it.
    """

    __slots__ = ("_begins", "_sleep", "_wait")

    def __init__(self, issued: Issued, *, credential: str) -> None:
        super().__init__(issued.code, credential=credential)
        self._wait = issued.wait
        self._begins = time.monotonic() + issued.wait
        self._sleep = issued.sleep

    def settle(self) -> None:
        """Wait until the code is valid."""
        if self._sleep is not None:
            wait, self._wait = self._wait, 0.0
            self._sleep(wait)
        elif (left := self._begins - time.monotonic()) > 0:
            time.sleep(left)

    async def asettle(self) -> None:
        """As ``settle``; the event loop goes on meanwhile."""
        if self._sleep is not None:
            self.settle()
        elif (left := self._begins - time.monotonic()) > 0:
            await asyncio.sleep(left)


def issue(
    core: Core, connection: Open, credential: str, seed: Authenticator, longest_wait: float
) -> Issued:
    """Reserve the next time step of a seed that nobody has, in the caller's transaction.

    After the commit the step is taken, even if the process ends before it sends the code.

    Args:
        core: The keys, and the clock that all processes share.
        connection: The transaction. It ends before anybody waits.
        credential: The credential's name, for an error.
        seed: The seed. Credentials with the same seed share its steps.
        longest_wait: How long a caller may wait for the step, in seconds.

    Raises:
        CodeUnavailable: The step begins later. Nothing is reserved.
        StorageError: Another process has taken the step in spite of the lock.
    """
    core.database.lock(connection, f"code:{hashlib.sha256(_secret(seed)).hexdigest()}")
    now = _now(core, connection)
    ids = _ids(core, seed)
    rows = [row for each in ids for row in _READ.fetch(connection, {"id": each})]
    step = max(step_at(now, seed.period), *(row.last_step + 1 for row in rows), 0)
    wait = max(step * seed.period - now, 0.0)
    if wait > longest_wait:
        message = (
            f"credential {credential!r}: the codes of the next {in_words(wait)} are taken, and "
            f"callers wait {in_words(longest_wait)} at most: try again in {in_words(wait)}"
        )
        if wait > MAX_WAIT:
            message += (
                ". A clock was wrong when a code was opened: set the clock, and store the "
                "credential again"
            )
        raise CodeUnavailable(
            message,
            credential=credential,
            retry_after=wait,
        )
    # Under each key, so that a process that doesn't have the newest one yet finds it too.
    if not all(_TAKE.write(connection, {"id": each, "step": step}) for each in ids):
        raise StorageError(
            f"the code of credential {credential!r} was taken by another process at this moment: "
            "try again"
        )
    code = hotp(seed.secret, step, digits=seed.digits, algorithm=seed.algorithm)
    return Issued(code, step, wait, core.sleep)


def take_back_far_steps(core: Core, connection: Connection, seed: Authenticator) -> None:
    """Take back a reserved step that nobody can be waiting for, as its seed is stored again.

    A clock that was wrong once would otherwise keep a seed from ever giving a code. Steps that
    somebody may have just been given stay reserved: another credential with this seed, or this one
    before, may wait for as long as any may. So does the present step.
    """
    now = _now(core, connection)
    present, latest = step_at(now, seed.period), step_at(now + MAX_WAIT, seed.period)
    for each in _ids(core, seed):
        _TAKE_BACK.write(connection, {"id": each, "present": present, "latest": latest})


def _ids(core: Core, seed: Authenticator) -> list[str]:
    # Under the encryption keys, so that nobody can try seeds who has only the database. Steps of
    # another period have other numbers.
    period = str(seed.period).encode()
    return list(core.keyring().macs(ISSUED_CODES, _secret(seed), period))


def _secret(seed: Authenticator) -> bytes:
    # HMAC fills a key up with zeros, so with them and without them a seed gives the same codes.
    return seed.secret.rstrip(b"\0")


def _now(core: Core, connection: Open) -> float:
    if core.shared_clock is not None or connection.dialect.name == "sqlite":
        return at_moment(core.shared_clock, None)
    ((now,),) = _SERVER_CLOCK.fetch(connection, {})
    return now
