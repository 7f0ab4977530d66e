"""The tables. Times are Unix seconds; usernames stand in them in their one normal form."""

from __future__ import annotations

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
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from pipelit_agents.database.row_encryption import RowEncryptedString, row_rules, tag_of
from pipelit_agents.sealing.keyring import Sealed
from pipelit_agents.sealing.purposes import (
    approval_purpose,
    credential_hint_purpose,
    credential_purpose,
    peering_purpose,
    pending_purpose,
    reason_purpose,
    totp_purpose,
)

__all__ = [
    "ApiKeyRow",
    "ApprovalAnswerRow",
    "ApprovalRow",
    "ApprovalUseRow",
    "AuditRow",
    "AuditSealRow",
    "Base",
    "CredentialRow",
    "EpochRow",
    "LedgerRow",
    "MfaPendingRow",
    "PeeringRow",
    "RecoveryCodeRow",
    "SpentRequestRow",
    "UserRow",
]

NAME = String(149)
# SQLite's integers are as long as they have to be.
LONG = BigInteger().with_variant(Integer, "sqlite")
_TOTP = RowEncryptedString(totp_purpose, "username")


class Base(DeclarativeBase):
    """Tables of pipelit-agents; their names begin with ``pipelit_`` to live beside others."""


class UserRow(Base):
    """A person, an agent user, or a peer: an agent of another domain, which has a ``domain``.

    A peer's kind is ``human`` here, so that whatever doesn't look at the domain can't act as it.
    """

    __tablename__ = "pipelit_users"
    __table_args__ = (
        CheckConstraint("kind IN ('human', 'agent')", name="pipelit_users_kind"),
        CheckConstraint("kind = 'human' OR owner IS NOT NULL", name="pipelit_users_agent_owner"),
        Index("pipelit_users_root", "root_owner", "active"),
        # An agent whose secret is lost keeps its account, and can get another secret.
        row_rules(lock="account:{username}", newest_by="created_at", unreadable="clear columns"),
    )

    username: Mapped[str] = mapped_column(NAME, primary_key=True)
    kind: Mapped[str] = mapped_column(String(8))
    owner: Mapped[str | None] = mapped_column(ForeignKey("pipelit_users.username"), index=True)
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


class PeeringRow(Base):
    """A secret by which one agent proves itself to one other domain."""

    __tablename__ = "pipelit_peerings"
    __table_args__ = (
        UniqueConstraint("agent", "domain", name="pipelit_peerings_agent_domain"),
        row_rules(lock="account:{agent}", newest_by="created_at"),
    )

    relation: Mapped[str] = mapped_column(String(32), primary_key=True)
    agent: Mapped[str] = mapped_column(ForeignKey("pipelit_users.username"))
    domain: Mapped[str] = mapped_column(NAME)
    secret: Mapped[Sealed] = mapped_column(RowEncryptedString(peering_purpose, "relation"))
    created_at: Mapped[float] = mapped_column(Float)
    created_by: Mapped[str] = mapped_column(NAME)


class SpentRequestRow(Base):
    """The digest of a request that an agent has worked on; it is refused until it expires."""

    __tablename__ = "pipelit_spent_requests"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    expires_at: Mapped[float] = mapped_column(Float, index=True)


class ApiKeyRow(Base):
    """An API key: its public id and the SHA-256 of its secret part, never the key."""

    __tablename__ = "pipelit_api_keys"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    username: Mapped[str] = mapped_column(ForeignKey("pipelit_users.username"), index=True)
    name: Mapped[str] = mapped_column(String(149))
    digest: Mapped[str] = mapped_column(String(64))
    last_four: Mapped[str] = mapped_column(String(4))
    created_at: Mapped[float] = mapped_column(Float)
    created_by: Mapped[str] = mapped_column(NAME)
    expires_at: Mapped[float | None] = mapped_column(Float)
    revoked_at: Mapped[float | None] = mapped_column(Float)
    last_used_at: Mapped[float | None] = mapped_column(Float)


class CredentialRow(Base):
    """A named sealed secret with public fields."""

    __tablename__ = "pipelit_credentials"
    __table_args__ = (row_rules(lock="credential:{name}", newest_by="updated_at"),)

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


class LedgerRow(Base):
    """What was counted and spent about a peer.

    ``scope`` and ``subject`` say what a row is for: ``peer`` has the spent steps of plain codes and
    no failures; ``pair`` is the lane of one verifier's audience codes, with their spent steps;
    ``plain`` the own lane of one verifier for plain codes; ``self``, ``family`` and ``others`` are
    the shared lanes; ``nobody`` is the lane of one name that may verify nobody. The names are no
    foreign keys: an account that isn't there is counted like one that is.
    """

    __tablename__ = "pipelit_ledger"

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
    # Steps that an unlock made the last spent one go back behind; "first-last" ranges, ascending.
    spent_ahead: Mapped[str] = mapped_column(Text, server_default="")


class EpochRow(Base):
    """One row: the life of the machine in which the ledger was last known to forget nothing.

    And the database's own name, by which a ledger outside it tells databases apart.
    ``clock_offset`` is the wall clock minus the time since the machine was started.
    """

    __tablename__ = "pipelit_epoch"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    boot_id: Mapped[str] = mapped_column(String(64))
    changed_at: Mapped[float] = mapped_column(Float)
    database_id: Mapped[str] = mapped_column(String(32), server_default="")
    clock_offset: Mapped[float | None] = mapped_column(Float)


class AuditRow(Base):
    """What was decided, about whom, and why. Never a secret."""

    __tablename__ = "pipelit_audit"
    __table_args__ = (Index("pipelit_audit_subject", "subject", "id"),)

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


class AuditSealRow(Base):
    """The seal of a batch of the audit trail: a hash over it and all before it, under a key.

    ``pruned`` is a second tag, there when the batch's entries were deleted by who has the key.
    ``gaps`` is JSON: numbers that an open transaction may still fill, and those that it has filled.
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
    """A person's second factor that isn't on yet: nobody has shown a code of it."""

    __tablename__ = "pipelit_mfa_pending"
    __table_args__ = (row_rules(lock="account:{username}", newest_by="created_at"),)

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
    """A question to named people, and what came of it. The state is under the tag too."""

    __tablename__ = "pipelit_approvals"
    __table_args__ = (
        Index("pipelit_approvals_digest", "digest", "state"),
        Index("pipelit_approvals_open", "state", "expires_at"),
        row_rules(lock="approval:{digest}", newest_by="created_at"),
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


class ApprovalAnswerRow(Base):
    """What one person answered to one question; its tag covers the question too.

    No foreign key: a denial counts also where its question was deleted.
    """

    __tablename__ = "pipelit_approval_answers"
    __table_args__ = (
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
    """An approval that was used. Rows are only ever added, and they don't expire."""

    __tablename__ = "pipelit_approval_uses"

    approval_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    used_at: Mapped[float] = mapped_column(Float)
