"""The enrolment of a second factor: pending until its first code is right, then on, then ended."""

from __future__ import annotations

import hmac
import secrets
from typing import Final, NamedTuple

from pydantic import SecretStr
from sqlalchemy import Connection, delete, insert, select, update

from pipelit_agents._core import Core
from pipelit_agents._wording import in_words
from pipelit_agents.approvals.approvers import void_unused
from pipelit_agents.database.models import MfaPendingRow, RecoveryCodeRow, UserRow
from pipelit_agents.errors import (
    PeerLocked,
    SecondFactorError,
)
from pipelit_agents.identity.codes import PLAIN_DIGITS
from pipelit_agents.ledger.first_codes import charge_first_code, wait_for_first_code
from pipelit_agents.ledger.rules import Rules
from pipelit_agents.ledger.unlocking import begin_secret
from pipelit_agents.otp import totp
from pipelit_agents.policy import FIRST_CODE_WINDOW
from pipelit_agents.protocol.binding import PERIOD, same
from pipelit_agents.protocol.provisioning_uri import provisioning_uri
from pipelit_agents.sealing.keyring import Sealed
from pipelit_agents.sealing.purposes import holds, pending_purpose, totp_purpose

__all__ = ["FirstCode", "begin", "end", "evaluate", "pend_again", "turn_on"]

# RFC 4226 recommends this size, and it fits into a small QR code.
_SECRET_BYTES: Final = 20
_TRIES: Final = 5
# Time steps, ten minutes: if a phone's clock is off by at most this, its first code is recognized
# as a code of another time, not as a wrong one.
_MAX_CLOCK_OFFSET: Final = 600 // PERIOD
_STEP_BYTES: Final = 8


class FirstCode(NamedTuple):
    """What the first code of an enrolment showed.

    Attributes:
        refused: Why the code isn't accepted; empty if it is right.
        secret: The secret of the enrolment.
        pending: What is stored of the enrolment while it is pending, decrypted.
    """

    refused: str
    secret: bytes
    pending: bytes


def begin(core: Core, connection: Connection, name: str) -> bytes:
    """Replace a person's pending enrolment, and return the new secret."""
    secret = secrets.token_bytes(_SECRET_BYTES)
    connection.execute(delete(MfaPendingRow).where(MfaPendingRow.username == name))
    _insert(core, connection, name, secret)
    return secret


def evaluate(
    core: Core,
    rules: Rules,
    connection: Connection,
    name: str,
    code: str,
    enrolled: SecretStr | None,
) -> FirstCode:
    """Compare a code with the pending enrolment; count, or record, one that is refused.

    Args:
        core: The database, and the keys that encrypt secrets.
        rules: The limits.
        connection: The transaction.
        name: The person.
        code: Six digits.
        enrolled: The URI of the enrolment, from a caller who needn't guess.

    Raises:
        PeerLocked: Too many first codes were wrong within a year.
        SecondFactorError: There is no enrolment, or ``enrolled`` belongs to another one.
    """
    pending = connection.execute(
        select(MfaPendingRow.secret, MfaPendingRow.failures).where(MfaPendingRow.username == name)
    ).one_or_none()
    if pending is None:
        raise SecondFactorError(
            f"there is no enrolment for {name!r}: begin one with mfa.enroll or: "
            f"pipelit-agents mfa enroll {name}",
            username=name,
        )
    database, clock = core.database, core.shared_clock
    if enrolled is None:
        wait = wait_for_first_code(database, connection, name, rules=rules, clock=clock)
        if wait > 0:
            raise _too_many_codes(name, wait)
    whole = core.keyring().unseal(pending.secret.token, pending_purpose(name))
    secret, revealed = _read_pending(whole)
    if enrolled is not None:
        _require_of_this_enrolment(name, secret, enrolled)
    # The clock that decides about all codes, and spends this one next.
    now = core.shared_now(connection)
    step = _step_of_code(secret, code, now)
    if step is None:
        if enrolled is None:
            charge_first_code(database, connection, name, rules=rules, clock=clock)
        _count_wrong_code(core, connection, name, pending.failures + 1)
        return FirstCode(_wrong_code(name, _TRIES - pending.failures - 1), secret, whole)
    ahead = step - int(now) // PERIOD
    if abs(ahead) > FIRST_CODE_WINDOW or step in revealed:
        _record_other_moment(core, connection, name, secret, {*revealed, step}, now)
        return FirstCode(_wrong_moment(ahead), secret, whole)
    return FirstCode("", secret, whole)


def turn_on(core: Core, rules: Rules, connection: Connection, name: str, secret: bytes) -> None:
    """Make the secret of an enrolment a person's second factor."""
    purpose = totp_purpose(name)
    sealed = Sealed(core.fitting_keyring(connection).seal(secret, purpose), purpose)
    connection.execute(update(UserRow).where(UserRow.username == name).values(totp_secret=sealed))
    # Earlier guesses about this person don't prevent turning the factor on.
    begin_secret(
        core.database, connection, name, at=core.clock(), rules=rules, clock=core.shared_clock
    )
    connection.execute(delete(MfaPendingRow).where(MfaPendingRow.username == name))


def end(connection: Connection, name: str) -> None:
    """End a person's second factor, its recovery codes, and a pending enrolment."""
    # Unused approvals by this factor end with it.
    void_unused(connection, [name])
    row = update(UserRow).where(UserRow.username == name)
    connection.execute(row.values(totp_secret=None))
    connection.execute(delete(MfaPendingRow).where(MfaPendingRow.username == name))
    connection.execute(delete(RecoveryCodeRow).where(RecoveryCodeRow.username == name))


def pend_again(core: Core, name: str, first: FirstCode) -> None:
    """Make a second factor pending again, because nobody has received its recovery codes.

    If it was reset meanwhile, nothing changes. Another one may be on since then.
    """
    with core.database.writing(durable=True) as connection:
        core.database.lock(connection, f"account:{name}")
        on = connection.scalar(select(UserRow.totp_secret).where(UserRow.username == name))
        tokens = [] if on is None else [Sealed(on.token, totp_purpose(name))]
        if holds(core.keyring(), tokens, first.secret):
            end(connection, name)
            _insert(core, connection, name, first.pending)


def _insert(core: Core, connection: Connection, name: str, pending: bytes) -> None:
    purpose, keyring = pending_purpose(name), core.fitting_keyring(connection)
    row = {
        "username": name,
        "secret": Sealed(keyring.seal(pending, purpose), purpose),
        "failures": 0,
        "created_at": core.clock(),
    }
    connection.execute(insert(MfaPendingRow).values(row))


def _too_many_codes(name: str, wait: float) -> PeerLocked:
    """Return the error for a person who has used up the wrong first codes of a year."""
    return PeerLocked(
        f"too many first codes of {name!r} were wrong within a year: the next one is evaluated in "
        f"{in_words(wait)}. This one wasn't evaluated; the enrolment stays pending. An operator "
        f"with the phone at hand can enrol it now at a terminal: pipelit-agents mfa enroll {name}",
        retry_after=wait,
        peer=name,
        verifier=name,
    )


def _wrong_code(name: str, left: int) -> str:
    """Describe a wrong first code, and how many more wrong codes end the enrolment."""
    if left <= 0:
        return (
            f"the code was not accepted; it was the fifth wrong one, so enrol again: "
            f"pipelit-agents mfa enroll {name}"
        )
    more = "1 more wrong code ends" if left == 1 else f"{left} more wrong codes end"
    return f"the code was not accepted; wait for the app's next one ({more} this enrolment)"


def _read_pending(sealed: bytes) -> tuple[bytes, frozenset[int]]:
    """Return the secret of an enrolment, and the time steps that error messages have revealed."""
    rest = sealed[_SECRET_BYTES:]
    return sealed[:_SECRET_BYTES], frozenset(
        int.from_bytes(rest[start : start + _STEP_BYTES], "big")
        for start in range(0, len(rest), _STEP_BYTES)
    )


def _step_of_code(secret: bytes, code: str, now: float) -> int | None:
    """Return the nearest time step of this code; None if there is none within ten minutes."""
    present, found = int(now) // PERIOD, []
    for step in range(max(0, present - _MAX_CLOCK_OFFSET), present + _MAX_CLOCK_OFFSET + 1):
        if same(totp(secret, step * PERIOD, digits=PLAIN_DIGITS), code):
            found.append(step)
    return min(found, key=lambda step: abs(step - present), default=None)


def _require_of_this_enrolment(name: str, secret: bytes, enrolled: SecretStr) -> None:
    """Require that a URI belongs to the pending enrolment.

    Raises:
        SecondFactorError: It belongs to an enrolment that was replaced.
    """
    pending = provisioning_uri(name, secret).get_secret_value()
    actual = enrolled.get_secret_value().encode("utf-8", "surrogatepass")
    if not hmac.compare_digest(pending.encode(), actual):
        raise SecondFactorError(
            f"the pending enrolment of {name!r} is another one, such as one in another terminal: "
            "use a code of that one, or enrol again",
            username=name,
        )


def _wrong_moment(ahead: int) -> str:
    """Describe a code that is right for a time this number of steps away."""
    if abs(ahead) <= FIRST_CODE_WINDOW:
        return "the code was not accepted: it was typed too early; wait for the app's next one"
    minutes = max(1, round(abs(ahead) * PERIOD / 60))
    off = "1 minute" if minutes == 1 else f"{minutes} minutes"
    return (
        f"the code was not accepted: it is right for a clock that is about {off} "
        f"{'ahead' if ahead > 0 else 'behind'}. Set the phone's clock (automatic date and time) "
        "and type the app's next code. This one doesn't count as a wrong code. If the phone shows "
        "the right time, the clock of this machine is wrong"
    )


def _count_wrong_code(core: Core, connection: Connection, name: str, failures: int) -> None:
    """Count a wrong first code; the fifth one ends the enrolment."""
    row = MfaPendingRow.username == name
    if failures >= _TRIES:
        connection.execute(delete(MfaPendingRow).where(row))
    else:
        connection.execute(update(MfaPendingRow).where(row).values(failures=failures))
    core.record(connection, name, name, "mfa.confirm", "wrong code", outcome="refused")


def _record_other_moment(
    core: Core, connection: Connection, name: str, secret: bytes, revealed: set[int], now: float
) -> None:
    """Store the time steps that error messages have revealed, so that their codes stay refused.

    Otherwise an attacker who guesses the code of a later step would only have to wait for that
    step. The steps are encrypted together with the secret, so that write access to the database
    isn't enough to remove them.
    """
    purpose, oldest = pending_purpose(name), int(now) // PERIOD - 2 * _MAX_CLOCK_OFFSET
    kept = [step for step in sorted(revealed) if step >= oldest]
    steps = b"".join(step.to_bytes(_STEP_BYTES, "big") for step in kept)
    sealed = Sealed(core.fitting_keyring(connection).seal(secret + steps, purpose), purpose)
    connection.execute(
        update(MfaPendingRow).where(MfaPendingRow.username == name).values(secret=sealed)
    )
    core.record(connection, name, name, "mfa.confirm", "code of another moment", outcome="refused")
