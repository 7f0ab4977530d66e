"""The first code of a second factor: the enrolment that waits for it, and what is wrong with it."""

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

# What RFC 4226 recommends, and short enough for a small QR code.
SECRET_BYTES: Final = 20
FIRST_CODE_TRIES: Final = 5
# Ten minutes: how far the clock of a phone may be off, in steps, for its first code to be told from
# a wrong one.
_NEAR: Final = 600 // PERIOD
_STEP_BYTES: Final = 8


def too_many_first_codes(name: str, wait: float) -> PeerLocked:
    """Return the error for a person whose wrong first codes of a year are used up."""
    return PeerLocked(
        f"too many first codes of {name!r} were wrong within a year: the next one is evaluated in "
        f"{in_words(wait)}; this one wasn't, and the enrolment goes on. An operator can enrol at "
        f"once, with the phone at hand, at a terminal: pipelit-agents mfa enroll {name}",
        retry_after=wait,
        peer=name,
        verifier=name,
    )


def wrong_first_code(name: str, left: int) -> str:
    """Describe a wrong first code, and how many more end the enrolment."""
    if left <= 0:
        return (
            f"the code was not accepted; it was the fifth wrong one, so enrol again: "
            f"pipelit-agents mfa enroll {name}"
        )
    more = "1 more wrong code ends" if left == 1 else f"{left} more wrong codes end"
    return f"the code was not accepted; wait for the app's next one ({more} this enrolment)"


def read_pending(sealed: bytes) -> tuple[bytes, frozenset[int]]:
    """The secret of an enrolment, and the steps whose moments were told."""
    rest = sealed[SECRET_BYTES:]
    return sealed[:SECRET_BYTES], frozenset(
        int.from_bytes(rest[start : start + _STEP_BYTES], "big")
        for start in range(0, len(rest), _STEP_BYTES)
    )


def step_of_code(secret: bytes, code: str, now: float) -> int | None:
    """The time step nearest to now whose code this is; None if there is none within ten minutes."""
    present, found = int(now) // PERIOD, []
    for step in range(max(0, present - _NEAR), present + _NEAR + 1):
        if same(totp(secret, step * PERIOD, digits=PLAIN_DIGITS), code):
            found.append(step)
    return min(found, key=lambda step: abs(step - present), default=None)


def require_of_this_enrolment(name: str, secret: bytes, enrolled: SecretStr) -> None:
    """Refuse the URI of an enrolment that another one has replaced.

    Raises:
        SecondFactorError: It is another one.
    """
    shown = provisioning_uri(name, secret).get_secret_value()
    given = enrolled.get_secret_value().encode("utf-8", "surrogatepass")
    if not hmac.compare_digest(shown.encode(), given):
        raise SecondFactorError(
            f"enrolled isn't what mfa.enroll returned for the present enrolment of {name!r}: enrol "
            "again, or leave it out",
            username=name,
        )


def wrong_moment(ahead: int) -> str:
    """Describe a code that is right so many steps away from now."""
    if abs(ahead) <= FIRST_CODE_WINDOW:
        return (
            "the code was not accepted: it was typed before its time; wait for the app's next one"
        )
    minutes = max(1, round(abs(ahead) * PERIOD / 60))
    off = "1 minute" if minutes == 1 else f"{minutes} minutes"
    return (
        f"the code was not accepted: it is right for a clock that is about {off} "
        f"{'ahead' if ahead > 0 else 'behind'}. Set the phone's clock (automatic date and time) "
        "and type the app's next code; this one counts as no wrong code. If the phone shows the "
        "right time, the clock of this machine is off"
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
    core: Core, connection: Connection, name: str, secret: bytes, told: set[int], now: float
) -> None:
    """Write down whose moments were told, so that no code of them turns the factor on later.

    Whoever guesses the code of a moment to come would only have to wait for it. The steps are
    sealed with the secret, so that nobody takes them out who can write to the database.
    """
    purpose, oldest = pending_purpose(name), int(now) // PERIOD - 2 * _NEAR
    steps = b"".join(step.to_bytes(_STEP_BYTES, "big") for step in sorted(told) if step >= oldest)
    sealed = Sealed(core.keyring().seal(secret + steps, purpose), purpose)
    connection.execute(
        update(MfaPendingRow).where(MfaPendingRow.username == name).values(secret=sealed)
    )
    core.record(connection, name, name, "mfa.confirm", "code of another moment", outcome="refused")
