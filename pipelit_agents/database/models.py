"""The tables. Times are Unix seconds; usernames are stored in their normal form."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from pipelit_agents.database.conditions import EXPIRING_KEYS, KINDS_OF_ACCOUNTS, LOCKED_LANES
from pipelit_agents.database.key_row import KEY_TABLE
from pipelit_agents.database.row_encryption import RowEncryptedString, row_rules, tag_of
from pipelit_agents.sealing.keyring import Sealed
from pipelit_agents.sealing.purposes import (
    approval_purpose,
    credential_hint_purpose,
    credential_purpose,
    peering_purpose,
    pending_purpose,
    person_credential_hint_purpose,
    person_credential_purpose,
    reason_purpose,
    result_purpose,
    totp_purpose,
)

__all__ = [
    "ApiKeyRow",
    "ApprovalAnswerRow",
    "ApprovalNoticeRow",
    "ApprovalPersonRow",
    "ApprovalRow",
    "ApprovalUseRow",
    "AuditRow",
    "AuditSealRow",
    "Base",
    "CredentialRow",
    "EncryptionKeyRow",
    "EpochRow",
    "IssuedCodeRow",
    "LedgerRow",
    "MfaPendingRow",
    "PeeringRow",
    "PersonCredentialRow",
    "RecoveryCodeRow",
    "SpentRequestRow",
    "UserRow",
]

NAME = String(149)
# SQLite's integers have up to 64 bits, and only INTEGER keys are numbered automatically.
LONG = BigInteger().with_variant(Integer, "sqlite")
_TOTP = RowEncryptedString(totp_purpose, "username")


class Base(DeclarativeBase):
    """The tables of pipelit-agents. Their names begin with ``pipelit_``, unlike those of others."""


class UserRow(Base):
    """A person, an agent user, or a peer: an agent of another domain, which has a ``domain``.

    A peer's kind is ``human`` here, so code that doesn't read the domain can't use it as an agent.
    """

    __tablename__ = "pipelit_users"
    __table_args__: Any = (
        CheckConstraint("kind IN ('human', 'agent')", name="pipelit_users_kind"),
        CheckConstraint("kind = 'human' OR owner IS NOT NULL", name="pipelit_users_agent_owner"),
        Index("pipelit_users_root", "root_owner", "active"),
        # Of pages, which are sorted by name.
        Index("pipelit_users_owned", "owner", "username"),
        Index("pipelit_users_family", "root_owner", "username"),
        *(
            Index(
                f"pipelit_users_{name}",
                "username",
                sqlite_where=text(where),
                postgresql_where=text(where),
            )
            for name, where in KINDS_OF_ACCOUNTS.items()
        ),
        # An agent whose secret is lost keeps its account, and can get another secret.
        row_rules(lock="account:{username}", unreadable="clear columns"),
    )

    username: Mapped[str] = mapped_column(NAME, primary_key=True)
    kind: Mapped[str] = mapped_column(String(8))
    owner: Mapped[str | None] = mapped_column(ForeignKey("pipelit_users.username"))
    root_owner: Mapped[str] = mapped_column(NAME)
    purpose: Mapped[str] = mapped_column(Text, default="")
    active: Mapped[bool] = mapped_column(default=True)
    may_create_agents: Mapped[bool] = mapped_column(default=False)
    totp_secret: Mapped[Sealed | None] = mapped_column(_TOTP)
    totp_previous: Mapped[Sealed | None] = mapped_column(_TOTP)
    totp_previous_until: Mapped[float] = mapped_column(Float, default=0.0)
    created_at: Mapped[float] = mapped_column(Float)
    created_by: Mapped[str] = mapped_column(NAME)
    domain: Mapped[str] = mapped_column(NAME, server_default="")
    relation: Mapped[str] = mapped_column(String(32), server_default="")
    totp_generation: Mapped[int] = mapped_column(BigInteger, server_default="0")
    role: Mapped[str] = mapped_column(String(16), server_default="")


class PeeringRow(Base):
    """A secret with which one agent proves its identity to one other domain."""

    __tablename__ = "pipelit_peerings"
    __table_args__: Any = (
        UniqueConstraint("agent", "domain", name="pipelit_peerings_agent_domain"),
        row_rules(lock="account:{agent}"),
    )

    relation: Mapped[str] = mapped_column(String(32), primary_key=True)
    agent: Mapped[str] = mapped_column(ForeignKey("pipelit_users.username"))
    domain: Mapped[str] = mapped_column(NAME)
    secret: Mapped[Sealed] = mapped_column(RowEncryptedString(peering_purpose, "relation"))
    created_at: Mapped[float] = mapped_column(Float)
    created_by: Mapped[str] = mapped_column(NAME)


class SpentRequestRow(Base):
    """The digest of a request that was processed. It is refused until it expires."""

    __tablename__ = "pipelit_spent_requests"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    expires_at: Mapped[float] = mapped_column(Float, index=True)


class ApiKeyRow(Base):
    """An API key: its public id and the SHA-256 of its secret part, never the key."""

    __tablename__ = "pipelit_api_keys"
    __table_args__: Any = (
        Index("pipelit_api_keys_listed", "username", "created_at", "id"),
        *(
            Index(
                name,
                *columns,
                sqlite_where=text(EXPIRING_KEYS),
                postgresql_where=text(EXPIRING_KEYS),
            )
            for name, columns in (
                ("pipelit_api_keys_expiring", ("expires_at", "id")),
                ("pipelit_api_keys_expiring_of", ("username", "expires_at", "id")),
            )
        ),
    )

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    username: Mapped[str] = mapped_column(ForeignKey("pipelit_users.username"))
    name: Mapped[str] = mapped_column(String(149))
    digest: Mapped[str] = mapped_column(String(64))
    last_four: Mapped[str] = mapped_column(String(4))
    created_at: Mapped[float] = mapped_column(Float)
    created_by: Mapped[str] = mapped_column(NAME)
    expires_at: Mapped[float | None] = mapped_column(Float)
    revoked_at: Mapped[float | None] = mapped_column(Float)
    last_used_at: Mapped[float | None] = mapped_column(Float)


class CredentialRow(Base):
    """A named, encrypted secret with public fields."""

    __tablename__ = "pipelit_credentials"
    __table_args__: Any = (
        Index("pipelit_credentials_kind", "kind", "name"),
        row_rules(lock="credential:{name}"),
    )

    name: Mapped[str] = mapped_column(NAME, primary_key=True)
    kind: Mapped[str] = mapped_column(String(64))
    public: Mapped[str] = mapped_column(Text)
    allow: Mapped[str | None] = mapped_column(Text)
    sealed: Mapped[Sealed] = mapped_column(
        RowEncryptedString(credential_purpose, "name", "kind", "public", "allow")
    )
    hint: Mapped[Sealed] = mapped_column(
        RowEncryptedString(credential_hint_purpose, "name", "kind", "public", "allow")
    )
    created_at: Mapped[float] = mapped_column(Float)
    updated_at: Mapped[float] = mapped_column(Float)
    created_by: Mapped[str] = mapped_column(NAME)


class IssuedCodeRow(Base):
    """The last time step of another service's authenticator that was handed out.

    ``id`` is a digest of the seed under a key, so several credentials with one seed share a row.
    Rows are never deleted with a credential: a seed that is stored again goes on from its step.
    """

    __tablename__ = "pipelit_issued_codes"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    last_step: Mapped[int] = mapped_column(BigInteger)


class PersonCredentialRow(Base):
    """A credential that is one person's own, beside the shared one of the same name."""

    __tablename__ = "pipelit_person_credentials"
    __table_args__: Any = (
        Index("pipelit_person_credentials_kind", "person", "kind", "name"),
        row_rules(lock="credential:{person}:{name}"),
    )

    person: Mapped[str] = mapped_column(ForeignKey("pipelit_users.username"), primary_key=True)
    name: Mapped[str] = mapped_column(NAME, primary_key=True)
    kind: Mapped[str] = mapped_column(String(64))
    public: Mapped[str] = mapped_column(Text)
    allow: Mapped[str | None] = mapped_column(Text)
    sealed: Mapped[Sealed] = mapped_column(
        RowEncryptedString(person_credential_purpose, "person", "name", "kind", "public", "allow")
    )
    hint: Mapped[Sealed] = mapped_column(
        RowEncryptedString(
            person_credential_hint_purpose, "person", "name", "kind", "public", "allow"
        )
    )
    created_at: Mapped[float] = mapped_column(Float)
    updated_at: Mapped[float] = mapped_column(Float)
    created_by: Mapped[str] = mapped_column(NAME)


class LedgerRow(Base):
    """The failed attempts on a peer, and its codes that were used.

    ``scope`` and ``subject`` say what a row counts:

    - ``peer``: the used time steps of plain codes, and no failures.
    - ``pair``: one verifier's attempts on audience codes, with their used time steps.
    - ``plain``: one verifier's own attempts on plain codes.
    - ``self``, ``family`` and ``others``: attempts that are counted together.
    - ``nobody``: the attempts of a name that may verify nobody.

    The names aren't foreign keys: attempts on an account that doesn't exist are counted too.
    """

    __tablename__ = "pipelit_ledger"
    # Written when a lane is locked, and not at every code.
    __table_args__: Any = (
        Index(
            "pipelit_ledger_locked",
            "locked_until",
            sqlite_where=text(LOCKED_LANES),
            postgresql_where=text(LOCKED_LANES),
        ),
    )

    peer: Mapped[str] = mapped_column(NAME, primary_key=True)
    scope: Mapped[str] = mapped_column(String(8), primary_key=True)
    subject: Mapped[str] = mapped_column(NAME, primary_key=True)
    version: Mapped[int] = mapped_column(LONG)
    in_a_row: Mapped[int] = mapped_column(Integer)
    recent: Mapped[str] = mapped_column(Text)
    locked_until: Mapped[float] = mapped_column(Float)
    spent_step: Mapped[int] = mapped_column(BigInteger)
    unlocks: Mapped[int] = mapped_column(BigInteger, server_default="0")
    whole_at: Mapped[float] = mapped_column(Float, server_default="0")
    spent_previous: Mapped[int] = mapped_column(BigInteger, server_default="-1")
    # An unlock can move spent_step back. The used steps after it: "first-last" ranges, ascending.
    spent_ahead: Mapped[str] = mapped_column(Text, server_default="")


class EpochRow(Base):
    """One row: the boot of the machine during which the ledger is known to be complete.

    ``database_id`` is the database's own name, with which a ledger outside it tells databases
    apart. ``clock_offset`` is the wall clock minus the time since the machine was started.
    """

    __tablename__ = "pipelit_epoch"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    boot_id: Mapped[str] = mapped_column(String(64))
    changed_at: Mapped[float] = mapped_column(Float)
    database_id: Mapped[str] = mapped_column(String(32), server_default="")
    clock_offset: Mapped[float | None] = mapped_column(Float)


class EncryptionKeyRow(Base):
    """One row: the key that new values are encrypted under. See ``database/key_row.py``."""

    __tablename__ = KEY_TABLE

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    fingerprint: Mapped[str] = mapped_column(String(12))
    replaced: Mapped[str] = mapped_column(Text)
    mac: Mapped[str] = mapped_column(String(64), info=tag_of("database key"))


class AuditRow(Base):
    """An entry of the audit trail: a decision, its subject, and the reason. Never a secret."""

    __tablename__ = "pipelit_audit"
    __table_args__: Any = (Index("pipelit_audit_subject", "subject", "id"),)

    id: Mapped[int] = mapped_column(LONG, primary_key=True, autoincrement=True)
    at: Mapped[float] = mapped_column(Float)
    actor: Mapped[str] = mapped_column(NAME)
    subject: Mapped[str] = mapped_column(NAME)
    action: Mapped[str] = mapped_column(String(32))
    outcome: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(String(64))
    run: Mapped[str] = mapped_column(String(64))
    node: Mapped[str] = mapped_column(String(149))
    thread: Mapped[str] = mapped_column(NAME, server_default="")
    person: Mapped[str] = mapped_column(NAME, server_default="")


class AuditSealRow(Base):
    """The seal of a batch of the audit trail: a tagged hash over the batch and all earlier ones.

    ``pruned`` is a second tag. It is set when the batch's entries were deleted by someone who has
    the key. ``gaps`` is JSON: the numbers that an open transaction may still use, and those that it
    has used.
    """

    __tablename__ = "pipelit_audit_seals"

    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    last_id: Mapped[int] = mapped_column(BigInteger)
    entries: Mapped[int] = mapped_column(Integer)
    digest: Mapped[str] = mapped_column(String(64))
    mac: Mapped[str] = mapped_column(String(64), info=tag_of("seals"))
    sealed_at: Mapped[float] = mapped_column(Float)
    pruned: Mapped[str] = mapped_column(String(64), server_default="", info=tag_of("seals"))
    gaps: Mapped[str] = mapped_column(Text, server_default="")


class MfaPendingRow(Base):
    """A person's second factor that isn't on yet: no code of it was entered so far."""

    __tablename__ = "pipelit_mfa_pending"
    __table_args__: Any = (row_rules(lock="account:{username}"),)

    username: Mapped[str] = mapped_column(ForeignKey("pipelit_users.username"), primary_key=True)
    secret: Mapped[Sealed] = mapped_column(RowEncryptedString(pending_purpose, "username"))
    failures: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[float] = mapped_column(Float)


class RecoveryCodeRow(Base):
    """The SHA-256 of a recovery code, which works once.

    ``factor`` names the second factor that it belongs to, and ``mac`` is over the whole row: anyone
    who can write to the table could put in the digest of a code of their own choice.
    """

    __tablename__ = "pipelit_recovery_codes"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    username: Mapped[str] = mapped_column(ForeignKey("pipelit_users.username"), index=True)
    used_at: Mapped[float | None] = mapped_column(Float)
    factor: Mapped[str] = mapped_column(String(32), server_default="")
    mac: Mapped[str] = mapped_column(String(64), server_default="", info=tag_of("recovery codes"))


class ApprovalRow(Base):
    """A request for the approval of named people, and its state. The tag covers the state too."""

    __tablename__ = "pipelit_approvals"
    __table_args__: Any = (
        Index("pipelit_approvals_digest", "digest", "state"),
        Index("pipelit_approvals_open", "state", "expires_at"),
        Index("pipelit_approvals_asked", "created_at", "id"),
        # Of tool calls only, which are a part of all questions.
        Index(
            "pipelit_approvals_call",
            "call",
            sqlite_where=text("call <> ''"),
            postgresql_where=text("call <> ''"),
        ),
        row_rules(lock="approval:{digest}"),
    )

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64))
    shown: Mapped[Sealed | None] = mapped_column(
        RowEncryptedString(approval_purpose, "id", "digest")
    )
    approvers: Mapped[str] = mapped_column(Text)
    asked_by: Mapped[str] = mapped_column(NAME)
    thread: Mapped[str] = mapped_column(NAME)
    created_at: Mapped[float] = mapped_column(Float)
    expires_at: Mapped[float] = mapped_column(Float)
    state: Mapped[str] = mapped_column(String(16))
    denied_by: Mapped[str] = mapped_column(Text, server_default="")
    mac: Mapped[str] = mapped_column(String(64), info=tag_of("approvals"))
    agent: Mapped[str] = mapped_column(NAME, server_default="")
    rule: Mapped[str] = mapped_column(Text, server_default="")
    call: Mapped[str] = mapped_column(String(64), server_default="")
    starts: Mapped[int] = mapped_column(Integer, server_default="0")
    # The interrupts of the gate. They decide nothing, so no tag covers them.
    asks: Mapped[int] = mapped_column(Integer, server_default="0")
    waits: Mapped[int | None] = mapped_column(Integer)


class ApprovalPersonRow(Base):
    """Finds the open questions of one person; decides nothing, so it has no tag.

    Rows are deleted when their question is closed. The question says who may answer it, so a
    planted row shows nobody anything.
    """

    __tablename__ = "pipelit_approval_people"
    __table_args__: Any = (
        Index("pipelit_approval_people_soonest", "username", "expires_at", "approval_id"),
    )

    approval_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    username: Mapped[str] = mapped_column(NAME, primary_key=True)
    expires_at: Mapped[float] = mapped_column(Float)


class ApprovalAnswerRow(Base):
    """One person's answer to one request; its tag covers the request too.

    There is no foreign key: a denial counts even if its request was deleted.
    """

    __tablename__ = "pipelit_approval_answers"
    __table_args__: Any = (
        Index("pipelit_approval_answers_person", "username", "verdict"),
        row_rules(lock="approval:{digest}"),
    )

    seq: Mapped[int] = mapped_column(LONG, primary_key=True, autoincrement=True)
    approval_id: Mapped[str] = mapped_column(String(36), index=True)
    digest: Mapped[str] = mapped_column(String(64), index=True)
    username: Mapped[str] = mapped_column(NAME)
    verdict: Mapped[str] = mapped_column(String(16))
    factor_kind: Mapped[str] = mapped_column(String(16))
    factor: Mapped[str] = mapped_column(String(32))
    at: Mapped[float] = mapped_column(Float)
    reason: Mapped[Sealed | None] = mapped_column(
        RowEncryptedString(reason_purpose, "approval_id", "username")
    )
    mac: Mapped[str] = mapped_column(String(64), info=tag_of("approvals"))


class ApprovalUseRow(Base):
    """An approval that was used. Rows are never deleted, and they don't expire.

    A call that interrupted itself starts again, with a row for each start. Only the result is
    written later, once.
    """

    __tablename__ = "pipelit_approval_uses"
    __table_args__: Any = (row_rules(unreadable="clear columns"),)

    approval_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    start: Mapped[int] = mapped_column(
        Integer, primary_key=True, autoincrement=False, server_default="1"
    )
    used_at: Mapped[float] = mapped_column(Float)
    result: Mapped[Sealed | None] = mapped_column(
        RowEncryptedString(result_purpose, "approval_id", "start")
    )


class ApprovalNoticeRow(Base):
    """The attempts to notify the people of one step of a question; see ``operations/outbox.py``.

    It has no tag: it permits nothing, and a writer of the database could delete the question too.
    Rows are deleted when their question is closed.

    Attributes:
        due_at: The time of the next attempt; during an attempt, the time when it counts as lost.
        gone: The fingerprint of the address that refused it for good.
    """

    __tablename__ = "pipelit_approval_notices"

    approval_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    step: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    attempts: Mapped[int] = mapped_column(Integer)
    due_at: Mapped[float] = mapped_column(Float)
    delivered_at: Mapped[float | None] = mapped_column(Float)
    gone: Mapped[str] = mapped_column(String(64), server_default="")
