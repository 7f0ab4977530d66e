"""The first code of a second factor: the pending enrolment, and why a code is refused."""

from __future__ import annotations

import hmac
from typing import Final

from pydantic import SecretStr
from sqlalchemy import Connection, delete, update

from pipelit_agents._core import Core
from pipelit_agents._wording import in_words
from pipelit_agents.database.models import MfaPendingRow
from pipelit_agents.errors import (
    PeerLocked,
    SecondFactorError,
)
from pipelit_agents.identity.codes import PLAIN_DIGITS
from pipelit_agents.otp import totp
from pipelit_agents.policy import FIRST_CODE_WINDOW
from pipelit_agents.protocol.binding import PERIOD, same
from pipelit_agents.protocol.provisioning_uri import provisioning_uri
from pipelit_agents.sealing.keyring import Sealed
from pipelit_agents.sealing.purposes import pending_purpose

__all__ = [
    "count_wrong_code",
    "read_pending",
    "record_other_moment",
    "require_of_this_enrolment",
    "step_of_code",
    "too_many_first_codes",
    "wrong_first_code",
    "wrong_moment",
]

# RFC 4226 recommends this size, and it fits into a small QR code.
SECRET_BYTES: Final = 20
FIRST_CODE_TRIES: Final = 5
# Time steps, ten minutes: if a phone's clock is off by at most this, its first code is recognized
# as a code of another time, not as a wrong one.
_MAX_CLOCK_OFFSET: Final = 600 // PERIOD
_STEP_BYTES: Final = 8


def too_many_first_codes(name: str, wait: float) -> PeerLocked:
    """Return the error for a person who has used up the wrong first codes of a year."""
    return PeerLocked(
        f"too many first codes of {name!r} were wrong within a year: the next one is evaluated in "
        f"{in_words(wait)}. This one wasn't evaluated; the enrolment stays pending. An operator "
        f"with the phone at hand can enrol it now at a terminal: pipelit-agents mfa enroll {name}",
        retry_after=wait,
        peer=name,
        verifier=name,
    )


def wrong_first_code(name: str, left: int) -> str:
    """Describe a wrong first code, and how many more wrong codes end the enrolment."""
    if left <= 0:
        return (
            f"the code was not accepted; it was the fifth wrong one, so enrol again: "
            f"pipelit-agents mfa enroll {name}"
        )
    more = "1 more wrong code ends" if left == 1 else f"{left} more wrong codes end"
    return f"the code was not accepted; wait for the app's next one ({more} this enrolment)"


def read_pending(sealed: bytes) -> tuple[bytes, frozenset[int]]:
    """Return the secret of an enrolment, and the time steps that error messages have revealed."""
    rest = sealed[SECRET_BYTES:]
    return sealed[:SECRET_BYTES], frozenset(
        int.from_bytes(rest[start : start + _STEP_BYTES], "big")
        for start in range(0, len(rest), _STEP_BYTES)
    )


def step_of_code(secret: bytes, code: str, now: float) -> int | None:
    """Return the nearest time step of this code; None if there is none within ten minutes."""
    present, found = int(now) // PERIOD, []
    for step in range(max(0, present - _MAX_CLOCK_OFFSET), present + _MAX_CLOCK_OFFSET + 1):
        if same(totp(secret, step * PERIOD, digits=PLAIN_DIGITS), code):
            found.append(step)
    return min(found, key=lambda step: abs(step - present), default=None)


def require_of_this_enrolment(name: str, secret: bytes, enrolled: SecretStr) -> None:
    """Require that a URI belongs to the pending enrolment.

    Raises:
        SecondFactorError: It belongs to an enrolment that was replaced.
    """
    pending = provisioning_uri(name, secret).get_secret_value()
    actual = enrolled.get_secret_value().encode("utf-8", "surrogatepass")
    if not hmac.compare_digest(pending.encode(), actual):
        raise SecondFactorError(
            f"enrolled isn't what mfa.enroll returned for the pending enrolment of {name!r}: enrol "
            "again, or leave it out",
            username=name,
        )


def wrong_moment(ahead: int) -> str:
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


def count_wrong_code(core: Core, connection: Connection, name: str, failures: int) -> None:
    """Count a wrong first code; the fifth one ends the enrolment."""
    row = MfaPendingRow.username == name
    if failures >= FIRST_CODE_TRIES:
        connection.execute(delete(MfaPendingRow).where(row))
    else:
        connection.execute(update(MfaPendingRow).where(row).values(failures=failures))
    core.record(connection, name, name, "mfa.confirm", "wrong code", outcome="refused")


def record_other_moment(
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
    sealed = Sealed(core.keyring().seal(secret + steps, purpose), purpose)
    connection.execute(
        update(MfaPendingRow).where(MfaPendingRow.username == name).values(secret=sealed)
    )
    core.record(connection, name, name, "mfa.confirm", "code of another moment", outcome="refused")
