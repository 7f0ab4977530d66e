"""Recovery codes of people: generated ten at a time, stored as digests, each used once."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from pydantic import SecretStr
from sqlalchemy import Connection, delete, insert, select, update

from pipelit_agents._core import Core
from pipelit_agents.accounts.lookup import read_account, why_no_code
from pipelit_agents.approvals.tags import key_age
from pipelit_agents.database.key_row import fitting_keyring, require_known
from pipelit_agents.database.models import RecoveryCodeRow
from pipelit_agents.errors import CodeRejected
from pipelit_agents.identity.evidence import Verification
from pipelit_agents.identity.factors import factor_id
from pipelit_agents.identity.totp_secrets import TotpSecrets
from pipelit_agents.protocol.binding import PERIOD
from pipelit_agents.sealing.keyring import Keyring
from pipelit_agents.sealing.purposes import RECOVERY_CODE

__all__ = ["RecoveryCodes", "digest_of_code"]

RECOVERY_CODES: Final = 10


def digest_of_code(name: str, code: str) -> str:
    """Return the digest under which a recovery code is stored."""
    return hashlib.sha256(f"{name}\0{code}".encode()).hexdigest()


def _recovery_fields(name: str, digest: str, factor: str, used_at: float | None) -> list[bytes]:
    used = "" if used_at is None else repr(used_at)
    return [str(each).encode("utf-8", "backslashreplace") for each in (name, digest, factor, used)]


class _Row(NamedTuple):
    """A recovery code as it is stored."""

    digest: str
    username: str
    used_at: float | None
    factor: str
    mac: str


_READ: Final = select(*(RecoveryCodeRow.__table__.c[each] for each in _Row._fields))


def _rows_of(connection: Connection, name: str) -> list[_Row]:
    rows = connection.execute(_READ.where(RecoveryCodeRow.username == name))
    return [_Row(*row) for row in rows]


def _tag_state(keyring: Keyring, row: _Row) -> str:
    fields = _recovery_fields(row.username, row.digest, row.factor, row.used_at)
    return key_age(keyring, RECOVERY_CODE, fields, row.mac)


class RecoveryCodes:
    """The recovery codes of one database.

    Args:
        core: The database, and the keys that tag the codes' digests.
        totp_secrets: Decrypts people's secrets, which their recovery codes are bound to.
    """

    def __init__(self, core: Core, totp_secrets: TotpSecrets) -> None:
        self._core = core
        self._totp_secrets = totp_secrets

    def replace(self, connection: Connection, name: str, secret: bytes) -> list[SecretStr]:
        """Replace a person's recovery codes, and return the new ones."""
        keyring, factor = self._core.fitting_keyring(connection), factor_id(name, secret)
        connection.execute(delete(RecoveryCodeRow).where(RecoveryCodeRow.username == name))
        codes = []
        for _ in range(RECOVERY_CODES):
            drawn = base64.b32encode(secrets.token_bytes(10)).decode("ascii")
            code = "-".join(drawn[start : start + 4] for start in range(0, 16, 4))
            digest = digest_of_code(name, code)
            connection.execute(
                insert(RecoveryCodeRow).values(
                    digest=digest,
                    username=name,
                    factor=factor,
                    mac=keyring.mac(RECOVERY_CODE, *_recovery_fields(name, digest, factor, None)),
                )
            )
            codes.append(SecretStr(code))
        return codes

    def verify(self, name: str, code: str) -> Verification:
        """Use a person's recovery code.

        Failures are recorded but lock nobody out, because 80 bits can't be guessed.

        Args:
            name: The person.
            code: Four groups of four characters with dashes.

        Raises:
            CodeRejected: The code is wrong or was used, or there is no such active person with a
                second factor.
        """
        now, digest = self._core.clock(), digest_of_code(name, code)
        with self._core.database.writing(durable=True) as connection:
            self._core.database.lock(connection, f"account:{name}", shared=True)
            user = read_account(connection, name)
            unfit = why_no_code(user)
            sealed = None if unfit or user is None else user.totp_secret
            factor = factor_id(name, self._totp_secrets.of_person(name, sealed))
            row = connection.execute(
                _READ.where(RecoveryCodeRow.digest == digest, RecoveryCodeRow.username == name)
            ).one_or_none()
            stored = None if row is None else _Row(*row)
            used = not unfit and self._use(connection, stored, factor, now)
            reason = "" if used else unfit or "wrong or used"
            self._core.record(
                connection,
                name,
                name,
                "verify.recovery",
                reason,
                outcome="refused" if reason else "ok",
            )
        if reason:
            raise CodeRejected(
                "the recovery code was not accepted: each can be used once",
                peer=name,
                verifier=name,
            )
        at = datetime.fromtimestamp(now, UTC)
        return Verification(name, name, "recovery", int(now) // PERIOD, at)

    def _use(self, connection: Connection, row: _Row | None, factor: str, now: float) -> bool:
        """Use a recovery code; return False if it was used or wasn't made by this library."""
        keyring = self._core.keyring()
        if row is None or row.used_at is not None or row.factor != factor:
            return False
        # A digest alone proves nothing: anyone with write access to the table could insert one.
        if _tag_state(keyring, row) == "foreign":
            return False
        keyring = self._core.fitting_keyring(connection)
        used = _recovery_fields(row.username, row.digest, factor, float(now))
        changed = connection.execute(
            update(RecoveryCodeRow)
            .where(
                RecoveryCodeRow.digest == row.digest,
                RecoveryCodeRow.used_at.is_(None),
                RecoveryCodeRow.mac == row.mac,
            )
            .values(used_at=float(now), mac=keyring.mac(RECOVERY_CODE, *used))
        )
        return changed.rowcount == 1

    def retag(self, keyring: Keyring, *, only_count: bool = False) -> tuple[int, int, int]:
        """Tag rows with the newest key if an older key tagged them.

        Returns:
            The numbers of rows that were tagged with the newest key, an older key, and no key.
        """
        counts = {"newest": 0, "older": 0, "foreign": 0}
        for name in self._usernames():
            with self._core.database.writing(durable=not only_count) as connection:
                self._core.database.lock(connection, f"account:{name}")
                if not only_count:
                    fitting_keyring(connection, keyring)
                for row in _rows_of(connection, name):
                    state = _tag_state(keyring, row)
                    counts[state] += 1
                    if state == "older" and not only_count:
                        fields = _recovery_fields(name, row.digest, row.factor, row.used_at)
                        connection.execute(
                            update(RecoveryCodeRow)
                            .where(RecoveryCodeRow.digest == row.digest)
                            .values(mac=keyring.mac(RECOVERY_CODE, *fields))
                        )
        return counts["newest"], counts["older"], counts["foreign"]

    def forget_foreign(
        self, keyring: Keyring, record: Callable[[Connection, str], None]
    ) -> list[str]:
        """Delete the recovery codes that none of the keys has tagged.

        Args:
            keyring: The keys.
            record: Records a person whose codes are deleted, in the transaction that does it.

        Returns:
            The usernames of the people whose codes were deleted.
        """
        gone = []
        for name in self._usernames():
            with self._core.database.writing(durable=True) as connection:
                self._core.database.lock(connection, f"account:{name}")
                require_known(connection, keyring)
                foreign = [
                    row.digest
                    for row in _rows_of(connection, name)
                    if _tag_state(keyring, row) == "foreign"
                ]
                connection.execute(
                    delete(RecoveryCodeRow).where(RecoveryCodeRow.digest.in_(foreign))
                )
                if foreign:
                    record(connection, name)
            gone += [name] if foreign else []
        return gone

    def _usernames(self) -> Sequence[str]:
        with self._core.database.reading() as connection:
            names = select(RecoveryCodeRow.username).distinct()
            return connection.scalars(names.order_by(RecoveryCodeRow.username)).all()
