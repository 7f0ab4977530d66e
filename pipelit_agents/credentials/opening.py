"""The one rule by which a credential opens: decrypt it, compare its allow list, record the answer.

Injection, ``reveal`` and middleware all open credentials here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from pipelit_agents._core import Core
from pipelit_agents._discretion import discreet
from pipelit_agents._words import may_be_secret, quoted, recordable
from pipelit_agents.credentials.leak_guard.parts import DEFAULT_FIELD
from pipelit_agents.credentials.limits import refusal_beyond_limit
from pipelit_agents.credentials.secret import Secret
from pipelit_agents.credentials.stored import not_found
from pipelit_agents.database.fast_path import Query
from pipelit_agents.errors import (
    AccountError,
    ConfigurationError,
    CredentialError,
    CredentialNotAllowed,
    CredentialNotFound,
    UnsealError,
)
from pipelit_agents.identity.agent import Agent
from pipelit_agents.protocol.usernames import OPERATOR
from pipelit_agents.sealing.purposes import credential_purpose

__all__ = ["Opened", "decrypted", "open_field", "open_secret", "record_refusal"]


class _SealedRow(NamedTuple):
    kind: str
    public: str
    allow: str | None
    sealed: str


class _NamedRow(NamedTuple):
    name: str


_READ_SECRET: Final = Query(
    "SELECT kind, public, allow, sealed FROM pipelit_credentials WHERE name = :name", _SealedRow
)
_READ_NAME: Final = Query("SELECT name FROM pipelit_credentials WHERE name = :name", _NamedRow)
_REFUSALS: Final[dict[type[Exception], str]] = {
    ConfigurationError: "no key",
    CredentialNotFound: "not found",
    UnsealError: "doesn't open",
}


class Opened(NamedTuple):
    """The plaintext of a credential.

    Attributes:
        secrets: The secrets by name.
        public: The public fields that they are bound to.
    """

    secrets: Mapping[str, str]
    public: Mapping[str, Any]

    def only_field(self) -> str:
        """Return the name of the only secret; the default one if there are several."""
        return next(iter(self.secrets)) if len(self.secrets) == 1 else DEFAULT_FIELD


def record_refusal(core: Core, reference: str, agent: Agent | None, reason: str) -> None:
    """Record a refusal that was decided before the credential was read.

    Args:
        core: The database.
        reference: The credential, or ``credential:field``.
        agent: The agent that was refused, if known.
        reason: The reason, for the audit log.
    """
    actor = agent.username if agent is not None else ""
    if actor == OPERATOR:
        # The operator is not an account, so no handle acts for it.
        actor = ""
    with core.database.deciding() as connection:
        name = reference.partition(":")[0]
        if may_be_secret(name) and not _READ_NAME.fetch(connection, {"name": name}):
            name = recordable(name)
        core.record(connection, actor, name, "credential.reveal", reason, outcome="refused")


@discreet
def open_field(core: Core, reference: str, agent: Agent | None) -> object:
    """Return a secret field of a credential as a ``Secret``, or the value of a public field."""
    name, _, wanted = reference.partition(":")
    opened = decrypted(core, name, wanted or None, agent)
    wanted = wanted or opened.only_field()
    if wanted in opened.secrets:
        return Secret(opened.secrets[wanted], credential=reference)
    return opened.public[wanted]


def open_secret(core: Core, reference: str, agent: Agent | None) -> Secret:
    """Return a secret field of a credential.

    Raises:
        CredentialNotFound: It is a public field.
    """
    found = open_field(core, reference, agent)
    if not isinstance(found, Secret):
        raise CredentialNotFound(
            f"{reference!r} is a public field: read it with credentials.get",
            credential=reference.partition(":")[0],
        )
    return found


def decrypted(
    core: Core, name: str, wanted: str | None, agent: Agent | None, *, test: bool = False
) -> Opened:
    """Decrypt a credential for an agent, and record the answer.

    Args:
        core: The database, and the encryption keys.
        name: The credential.
        wanted: A field's name, None for the only field, or an empty string for all fields.
        agent: The agent that opens it; required for credentials with an ``allow`` list.
        test: Whether it is opened for `Credentials.test`, which the audit log then says.
    """
    if agent is not None and not agent.is_of(core.database):
        raise CredentialError(
            f"credential {quoted(name)}: {agent!r} belongs to another Pipelit",
            credential=recordable(name),
        )
    if (beyond := refusal_beyond_limit(name, wanted)) is not None:
        record_refusal(core, name, agent, "not for this task")
        raise beyond
    actor = ""
    if agent is not None:
        actor = agent.username
        try:
            # A handle outlives its account, but a deactivated account may not open anything.
            agent.require_active()
        except (AccountError, ConfigurationError, UnsealError) as error:
            reason = _REFUSALS.get(type(error), "agent can't act")
            record_refusal(core, name, agent, reason)
            raise
    opened, reason = Opened({}, {}), ""
    refused: Exception | None = None
    outcome = "refused"
    # Read, decrypt and record in one transaction, so that every answer is in the audit log.
    with core.database.deciding() as transaction:
        try:
            rows = _READ_SECRET.fetch(transaction, {"name": name})
            if not rows:
                raise not_found(name)
            (row,) = rows
            # Decrypt first: this also verifies the allow list, which is bound to the secret.
            purpose = credential_purpose(name, row.kind, row.public, row.allow)
            secrets = json.loads(core.keyring().unseal(row.sealed, purpose))
        except (ConfigurationError, CredentialNotFound, UnsealError) as error:
            refused, reason = error, _REFUSALS.get(type(error), "not opened")
            if isinstance(error, UnsealError):
                refused = UnsealError(what=f"credential {name!r}")
        else:
            opened = Opened(secrets, json.loads(row.public))
            if wanted is None:
                wanted = opened.only_field()
            if row.allow is not None and actor not in json.loads(row.allow):
                reason = "not allowed"
            elif wanted and wanted not in opened.secrets and wanted not in opened.public:
                reason = "no such field"
            else:
                outcome, reason = "ok", "test" if test else ""
        subject = recordable(name) if reason == "not found" else name
        core.record(transaction, actor, subject, "credential.reveal", reason, outcome=outcome)
    if refused is not None:
        raise refused
    if reason == "not allowed":
        raise _not_allowed(name, actor)
    if outcome == "refused":
        raise _no_such_field(name, wanted, opened)
    return opened


def _not_allowed(name: str, actor: str) -> CredentialNotAllowed:
    who = (
        f"{actor!r} is not one of them"
        if actor
        else 'no agent was passed: pass one, such as agent=pipelit.agent("agent_lead")'
    )
    return CredentialNotAllowed(
        f"credential {name!r} may be opened only by certain accounts, and {who}", credential=name
    )


def _no_such_field(name: str, wanted: str | None, opened: Opened) -> CredentialNotFound:
    if wanted == DEFAULT_FIELD:
        return CredentialNotFound(
            f"credential {name!r} has several secrets: name one, as "
            f"{name}:{next(iter(opened.secrets))}; there are {', '.join(opened.secrets)}",
            credential=name,
        )
    return CredentialNotFound(
        f"credential {name!r} has no field {quoted(wanted)}; it has "
        f"{sorted({*opened.secrets, *opened.public})}",
        credential=name,
    )
