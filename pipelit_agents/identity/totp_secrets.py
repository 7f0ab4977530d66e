"""Decrypt TOTP secrets: those of agents that act here, and those of peers that are verified.

No other module of this folder decrypts them.
"""

from __future__ import annotations

from collections.abc import Callable
from secrets import token_bytes

from pipelit_agents._core import Core
from pipelit_agents._words import quoted
from pipelit_agents.errors import UnsealError, UserNotFound
from pipelit_agents.identity.lookup import (
    AccountRow,
    ProofKey,
    accounts_of,
    find_proof_key,
    read_accounts,
    require_local_agent,
)
from pipelit_agents.ledger.attempts import Account
from pipelit_agents.sealing.keyring import Keyring, Sealed
from pipelit_agents.sealing.purposes import peering_purpose, totp_purpose

__all__ = ["TotpSecrets", "caching_unseal", "proving_secret"]

Unseal = Callable[[str, str], bytes]


class TotpSecrets:
    """The TOTP secrets of one database.

    Args:
        core: The database, and the keys that decrypt secrets.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._decoy = ""

    def own(self, username: str) -> bytes:
        """Return the secret of an active agent.

        Raises:
            AccountError: As ``require_local_agent``.
            UnsealError: The secret can't be decrypted with this keyring.
        """
        found = accounts_of(self._core.database, username, username).get(username)
        row = require_local_agent(username, found)
        return _own_secret(row, self._core.keyring().unseal)

    def for_verifier(self, username: str, verifier: str) -> tuple[bytes, str]:
        """Return the secret with which an agent proves itself to a verifier, and the peering's id.

        Raises:
            AccountError: As ``require_local_agent``.
            UserNotFound: The verifier is a peer, and the agent issued no peering to its domain.
            UnsealError: The secret can't be decrypted with this keyring.
        """
        with self._core.database.reading() as connection:
            rows = read_accounts(connection, username, verifier)
            proof_key = find_proof_key(connection, rows, username, verifier, None)
        unseal = self._core.keyring().unseal
        return proving_secret(username, rows.get(username), proof_key, unseal)

    def of_account(self, account: Account | None, unseal: Unseal | None = None) -> list[bytes]:
        """Return the secrets of a peer; for a missing account a decoy, at the same cost.

        A match with the decoy has to be refused too, because there is no account.
        """
        unseal = unseal or self._core.keyring().unseal
        if account is None:
            if not self._decoy:
                self._decoy = self._core.keyring().seal(token_bytes(32), totp_purpose(""))
            return [unseal(self._decoy, totp_purpose(""))]
        purpose = totp_purpose(account.username)
        tokens = (account.secret, account.previous)
        try:
            return [unseal(token, purpose) for token in tokens if token is not None]
        except UnsealError:
            raise _unreadable(account.username) from None

    def of_person(self, username: str, sealed: Sealed | None) -> bytes:
        """Decrypt a person's secret, or a decoy at the same cost if there is none.

        Raises:
            UnsealError: It can't be decrypted with this keyring.
        """
        account = None if sealed is None else Account(username, sealed.token, None)
        return self.of_account(account)[0]


def _own_secret(row: AccountRow, unseal: Unseal) -> bytes:
    # An agent whose secret was lost with its key has none, and an empty text can't be decrypted.
    try:
        return unseal(row.totp_secret or "", totp_purpose(row.username))
    except UnsealError:
        raise _unreadable(row.username) from None


def _unreadable(username: str) -> UnsealError:
    """Return the error of a secret that can't be decrypted; it names the account."""
    return UnsealError(what=f"the TOTP secret of {username!r}")


def proving_secret(
    username: str, row: AccountRow | None, proof_key: ProofKey, unseal: Unseal
) -> tuple[bytes, str]:
    """Return the secret with which an agent makes a proof, and the peering's id.

    Raises:
        AccountError: As ``require_local_agent``.
        UserNotFound: The agent issued no such peering.
        UnsealError: A secret can't be decrypted.
    """
    own = _own_secret(require_local_agent(username, row), unseal)
    if not proof_key.wanted:
        return own, ""
    issued = proof_key.issued
    if issued is None:
        domain, relation = proof_key.domain, proof_key.wanted
        which = f"to the domain {domain!r}" if domain else f"with the id {quoted(relation)}"
        example = domain or "…"
        raise UserNotFound(
            f"no peering {which} was issued by {username!r}: issue one with "
            f'users.issue_peering("{username}", domain="{example}")',
            username=username,
        )
    return unseal(issued.secret, peering_purpose(issued.relation)), issued.relation


def caching_unseal(keyring: Keyring) -> Unseal:
    """Return a function that decrypts each secret of a batch once."""
    opened = dict[tuple[str, str], bytes]()

    def unseal(token: str, purpose: str) -> bytes:
        found = opened.get((token, purpose))
        if found is None:
            found = opened[token, purpose] = keyring.unseal(token, purpose)
        return found

    return unseal
