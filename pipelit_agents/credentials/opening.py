"""The one rule by which a credential opens: decrypt it, compare its allow list, record the answer.

Injection, ``reveal`` and middleware all open credentials here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from pipelit_agents._core import Core
from pipelit_agents._discretion import discreet
from pipelit_agents._otpauth import Authenticator
from pipelit_agents._words import quoted, recordable
from pipelit_agents.audit.records import recorded_name
from pipelit_agents.credentials.authenticator import CODE, Stored, longest_wait, seed_of
from pipelit_agents.credentials.choice import Actor, Found, Rule, find
from pipelit_agents.credentials.described import DEFAULT_FIELD
from pipelit_agents.credentials.issued_codes import Code, Issued, issue
from pipelit_agents.credentials.limits import refusal_beyond_limit
from pipelit_agents.credentials.secret import Secret
from pipelit_agents.database.fast_path import Open, Query
from pipelit_agents.errors import (
    AccountError,
    CodeUnavailable,
    ConfigurationError,
    CredentialError,
    CredentialNotAllowed,
    CredentialNotFound,
    NobodyAuthenticated,
    NoPersonalCredential,
    UnsealError,
)
from pipelit_agents.identity.acting import claimed_person
from pipelit_agents.identity.agent import Agent
from pipelit_agents.protocol.usernames import OPERATOR

__all__ = ["Opened", "decrypted", "open_field", "open_secret", "record_refusal"]


class _NamedRow(NamedTuple):
    name: str


_READ_NAME: Final = Query(
    "SELECT name FROM pipelit_credentials WHERE name = :name "
    "UNION SELECT name FROM pipelit_person_credentials WHERE name = :name",
    _NamedRow,
)
_REFUSALS: Final[dict[type[Exception], str]] = {
    ConfigurationError: "no key",
    CredentialNotFound: "not found",
    NoPersonalCredential: "no own value",
    UnsealError: "doesn't open",
}


class Opened(NamedTuple):
    """What a reference opens of a credential.

    Attributes:
        secrets: The secrets by name. The seed of an authenticator isn't among them.
        public: The public fields that they are bound to.
        codes: The codes that were handed out, by the names of their authenticators.
        field: The field that the reference means; an empty string for all secrets.
    """

    secrets: Mapping[str, str]
    public: Mapping[str, Any]
    codes: Mapping[str, Issued]
    field: str

    def held(self, name: str) -> dict[str, Secret]:
        """Return what the reference means, unless it is a public field.

        Args:
            name: The credential.
        """
        found: dict[str, Secret] = {}
        for key in {**self.secrets, **self.codes}:
            if self.field in ("", key):
                reference = name if key == DEFAULT_FIELD else f"{name}:{key}"
                found[key] = (
                    Code(self.codes[key], credential=reference)
                    if key in self.codes
                    else Secret(self.secrets[key], credential=reference)
                )
        return found


class _Plain:
    """A decrypted credential.

    Attributes:
        texts: The secrets that open as they are, by name.
        seeds: The seeds of authenticators by name.
        public: The public fields.
        names: The names of all secrets.
    """

    def __init__(self, stored: Stored, public: Mapping[str, Any]) -> None:
        self.public = public
        self.names = tuple(stored)
        self.texts: dict[str, str] = {}
        self.seeds: dict[str, Authenticator] = {}
        for key, each in stored.items():
            if isinstance(each, str):
                self.texts[key] = each
            elif (seed := seed_of(each)) is not None:
                self.seeds[key] = seed

    def resolved(self, wanted: str | None) -> str:
        """Return the field that a reference means; an empty string for all texts."""
        if wanted is None or not (wanted or self.texts):
            return self.names[0] if len(self.names) == 1 else DEFAULT_FIELD
        if wanted == CODE and not self.has(CODE) and len(self.seeds) == 1:
            return next(iter(self.seeds))
        return wanted

    def has(self, field: str) -> bool:
        """Return whether it has a secret or a public field of this name."""
        return field in self.names or field in self.public


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
        core.record(
            connection,
            actor,
            recorded_name(connection, reference.partition(":")[0], _READ_NAME),
            "credential.reveal",
            reason,
            outcome="refused",
            person=Actor.read(connection, claimed_person(core.database)).recorded,
        )


@discreet
def open_field(core: Core, reference: str, agent: Agent | None, which: Rule) -> object:
    """Return a secret field of a credential as a ``Secret``, or the value of a public field."""
    name, _, wanted = reference.partition(":")
    opened = decrypted(core, name, wanted or None, agent, which)
    if opened.field in opened.codes:
        return Code(opened.codes[opened.field], credential=reference)
    if opened.field in opened.secrets:
        return Secret(opened.secrets[opened.field], credential=reference)
    return opened.public[opened.field]


def open_secret(core: Core, reference: str, agent: Agent | None, which: Rule) -> Secret:
    """Return a secret field of a credential.

    Raises:
        CredentialNotFound: It is a public field.
    """
    found = open_field(core, reference, agent, which)
    if not isinstance(found, Secret):
        raise CredentialNotFound(
            f"{reference!r} is a public field: read it with credentials.get",
            credential=reference.partition(":")[0],
        )
    return found


def decrypted(
    core: Core,
    name: str,
    wanted: str | None,
    agent: Agent | None,
    which: Rule,
    *,
    test: bool = False,
    by: str = "",
) -> Opened:
    """Decrypt a credential for an agent, and record the answer.

    Args:
        core: The database, and the encryption keys.
        name: The credential.
        wanted: A field's name, None for the only field, or an empty string for all fields. Of an
            authenticator a code is handed out, and with an empty string only where there is no
            other secret.
        agent: The agent that opens it. A credential with an ``allow`` list needs an agent or a
            person on the list.
        which: The shared credential, or the own one of the person for whom the code acts.
        test: Whether it is opened for `Credentials.test`, which the audit log then says. No code
            is handed out.
        by: The requester's name for the audit log, if no agent opens it.
    """
    actor = _admitted(core, name, wanted, agent)
    # Read, decrypt and record in one transaction, so that every answer is in the audit log, and
    # nobody opens anything for a person who was deactivated before.
    with core.database.deciding() as transaction:
        acting = Actor.read(transaction, claimed_person(core.database))
        answer = _decide(core, transaction, name, wanted, actor, which, acting, test=test)
        refused = isinstance(answer.result, Exception)
        core.record(
            transaction,
            actor or by,
            answer.subject,
            "credential.reveal",
            answer.reason,
            outcome="refused" if refused else "ok",
            person=acting.recorded if refused else acting.person,
        )
    if isinstance(answer.result, Exception):
        raise answer.result
    return answer.result


def _admitted(core: Core, name: str, wanted: str | None, agent: Agent | None) -> str:
    """Return the name of the agent that opens a credential; refuse one that may open nothing now.

    What is refused here is decided without a look at the credential.
    """
    if agent is not None and not agent.is_of(core.database):
        raise CredentialError(
            f"credential {quoted(name)}: {agent!r} belongs to another Pipelit",
            credential=recordable(name),
        )
    if (beyond := refusal_beyond_limit(name, wanted)) is not None:
        record_refusal(core, name, agent, "not for this task")
        raise beyond
    if agent is None:
        return ""
    try:
        # A handle outlives its account, but a deactivated account may not open anything.
        agent.require_active()
    except (AccountError, ConfigurationError, UnsealError) as error:
        record_refusal(core, name, agent, _REFUSALS.get(type(error), "agent can't act"))
        raise
    return agent.username


class _Answer(NamedTuple):
    """The answer to a request for a credential.

    Attributes:
        subject: The credential's name, for the audit log.
        reason: The reason of a refusal for the audit log; otherwise a note, or an empty string.
        result: What is opened, or the error for the caller.
    """

    subject: str
    reason: str
    result: Opened | Exception


def _decide(
    core: Core,
    transaction: Open,
    name: str,
    wanted: str | None,
    actor: str,
    which: Rule,
    acting: Actor,
    *,
    test: bool,
) -> _Answer:
    """Read a credential and decrypt it, if the agent or the person may open it."""
    found = find(transaction, name, which, acting)
    if not isinstance(found, Found):
        reason = _REFUSALS.get(type(found), "not opened")
        if isinstance(found, NobodyAuthenticated):
            reason = acting.why_refused
        return _Answer(recorded_name(transaction, name, _READ_NAME), reason, found)
    whose, row, note = found
    try:
        # Decrypt first: this also verifies the allow list, which is bound to the secret.
        purpose = whose.purpose(name, row.kind, row.public, row.allow)
        stored = json.loads(core.keyring().unseal(row.sealed, purpose))
    except ConfigurationError as error:
        return _Answer(name, _REFUSALS.get(type(error), "not opened"), error)
    except UnsealError:
        return _Answer(name, "doesn't open", UnsealError(what=whose.called(name)))
    plain = _Plain(stored, json.loads(row.public))
    field = plain.resolved(wanted)
    allowed = None if row.allow is None else json.loads(row.allow)
    if allowed is not None and actor not in allowed and acting.person not in allowed:
        return _Answer(name, "not allowed", _not_allowed(name, actor, acting.person))
    if field and not plain.has(field):
        return _Answer(name, "no such field", _no_such_field(name, field, plain))
    codes: dict[str, Issued] = {}
    if test:
        note = ", ".join(filter(None, (note, "test")))
    elif (seed := plain.seeds.get(field)) is not None:
        try:
            issued = issue(core, transaction, name, seed, longest_wait(plain.public, seed))
        except CodeUnavailable as error:
            return _Answer(name, "no free code", error)
        codes[field] = issued
        note = ", ".join(filter(None, (note, f"step {issued.step}")))
    return _Answer(name, note, Opened(plain.texts, plain.public, codes, field))


def _not_allowed(name: str, actor: str, person: str) -> CredentialNotAllowed:
    who = (
        f"{actor!r} is not one of them"
        if actor
        else 'no agent was passed: pass one, such as agent=pipelit.agent("agent_lead")'
    )
    also = f", nor is {person!r}, for whom the code acts" if person else ""
    return CredentialNotAllowed(
        f"credential {name!r} may be opened only by certain accounts, and {who}{also}",
        credential=name,
    )


def _no_such_field(name: str, wanted: str, plain: _Plain) -> CredentialNotFound:
    if wanted == DEFAULT_FIELD and len(plain.names) > 1:
        return CredentialNotFound(
            f"credential {name!r} has several secrets: name one, as "
            f"{name}:{plain.names[0]}; there are {', '.join(plain.names)}",
            credential=name,
        )
    return CredentialNotFound(
        f"credential {name!r} has no field {quoted(wanted)}; it has "
        f"{sorted({*plain.names, *plain.public})}",
        credential=name,
    )
