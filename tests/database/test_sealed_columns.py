"""Encrypted columns and tags of our own tables: what the models declare is enough."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from approving import Approving
from internals import database_of, keyring_of, stored_values_of
from key_rotation import newer, no_models, old
from langgraph.checkpoint.memory import InMemorySaver
from sqlalchemy import Column, Integer, MetaData, String, Table, insert, select, text, update
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from pipelit_agents import Approvers, EncryptedString, Keyring, Pipelit
from pipelit_agents.approvals import tags
from pipelit_agents.approvals.calls import Call
from pipelit_agents.database.models import Base, CredentialRow, UserRow
from pipelit_agents.database.row_encryption import RowEncryptedString, RowRules, row_rules, tag_of
from pipelit_agents.database.sealed_columns import sealed_tables, tag_columns
from pipelit_agents.errors import ConfigurationError
from pipelit_agents.sealing import purposes
from pipelit_agents.sealing.keyring import Sealed

__all__ = ["newer", "no_models", "old"]
BACKENDS = ("sqlite",)
NONE = InMemorySaver()


@pytest.fixture
def rotating(settings: dict[str, Any], pipelit: Pipelit, newer: str) -> Iterator[Pipelit]:
    """The same database with the newer key before the old one."""
    with Pipelit(**settings | {"encryption_keys": [newer, *settings["encryption_keys"]]}) as made:
        yield made


def note_purpose(owner: str, number: int) -> str:
    """The purpose of a note."""
    return f"note:{owner}:{number}"


@pytest.fixture
def notes(pipelit: Pipelit) -> Iterator[Table]:
    """One more table of ours, with an encrypted column and a key of two columns."""
    table = Table(
        "pipelit_notes",
        Base.metadata,
        Column("owner", String(9), primary_key=True),
        Column("number", Integer, primary_key=True),
        Column("note", RowEncryptedString(note_purpose, "owner", "number")),
    )
    try:
        table.create(database_of(pipelit).engine)
        yield table
    finally:
        Base.metadata.remove(table)


@pytest.fixture
def unbound(pipelit: Pipelit) -> Iterator[Table]:
    """One more table of ours, whose encrypted column declares no purpose."""
    table = Table(
        "pipelit_loose",
        Base.metadata,
        Column("id", Integer, primary_key=True),
        Column("token", EncryptedString()),
    )
    try:
        table.create(database_of(pipelit).engine)
        yield table
    finally:
        Base.metadata.remove(table)


def write(pipelit: Pipelit, table: Table, ring: Keyring, rows: int = 3) -> None:
    """Write notes that are encrypted under a keyring."""
    with database_of(pipelit).writing() as connection:
        for number in range(rows):
            purpose = note_purpose("alice", number)
            sealed = Sealed(ring.seal(f"note {number}", purpose), purpose)
            connection.execute(
                insert(table).values(owner="alice", number=number, note=sealed),
            )


def read(pipelit: Pipelit, table: Table, ring: Keyring) -> list[bytes]:
    """Decrypt the notes."""
    with database_of(pipelit).reading() as connection:
        found = connection.execute(select(table).order_by(table.c.number)).all()
    return [ring.unseal(row.note.token, note_purpose(row.owner, row.number)) for row in found]


# A new column


@pytest.mark.backends("sqlite", "postgres")
def test_a_new_table_is_counted_and_rotated(
    rotating: Pipelit, notes: Table, old: Keyring, newer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but the model has to change; more rows than a page, too."""
    monkeypatch.setattr("pipelit_agents.operations.own_values._PAGE", 2)
    rotating.keys.rotate()
    write(rotating, notes, old, 5)
    before = rotating.keys.status(checkpointers=[NONE])
    assert (before.older, before.columns, before.older_can_go) == (5, {}, False)
    done = rotating.keys.rotate(checkpointers=[NONE], batch=2)
    assert (done.resealed, done.status.older_can_go) == (5, True)
    assert read(rotating, notes, Keyring(newer)) == [b"note %d" % number for number in range(5)]


def test_a_moved_value_of_a_new_table_is_named(
    rotating: Pipelit, notes: Table, old: Keyring
) -> None:
    """It is checked for the purpose of its row, and the row is named by its whole key."""
    write(rotating, notes, old, 2)
    with database_of(rotating).writing() as connection:
        connection.execute(text("UPDATE pipelit_notes SET number = 9 WHERE number = 0"))
    status = rotating.keys.rotate(checkpointers=[NONE]).status
    assert status.unreadable == ("pipelit_notes.note of alice 9",)


def test_values_of_a_new_table_are_looked_at_before_a_key_is_named(
    rotating: Pipelit, notes: Table, settings: dict[str, Any], old: Keyring
) -> None:
    """If no row names the key, a key that decrypts none of them may encrypt nothing."""
    write(rotating, notes, old)
    with Pipelit(**settings | {"encryption_keys": [Keyring.generate_key()]}) as wrong:
        with pytest.raises(ConfigurationError, match="doesn't say which key is its own"):
            wrong.credentials.put("openai", "sk-1b2c3d4e5f6a", kind="llm", created_by="alice")
        with pytest.raises(ConfigurationError, match="can't decrypt"):
            wrong.check_key()
    assert rotating.check_key() is True


def test_unreadable_rows_of_a_new_table_are_forgotten(
    rotating: Pipelit, notes: Table, old: Keyring
) -> None:
    """Only these; by default the whole row is deleted."""
    write(rotating, notes, old, 2)
    lost = Keyring(Keyring.generate_key()).seal("x", note_purpose("bob", 7))
    with database_of(rotating).writing() as connection:
        connection.execute(
            insert(notes).values(owner="bob", number=7, note=Sealed(lost, "")),
        )
    assert rotating.keys.forget_unreadable() == ["notes bob 7"]
    assert read(rotating, notes, old) == [b"note 0", b"note 1"]
    assert rotating.keys.status().unreadable == ()


@pytest.mark.backends("sqlite", "postgres")
def test_a_value_that_is_replaced_meanwhile_is_not_forgotten(
    rotating: Pipelit, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process stores a credential again after it was found unreadable: it stays."""
    rotating.credentials.put("openai", "sk-1b2c3d4e5f6a", kind="llm", created_by="alice")
    newest = keyring_of(rotating)
    with database_of(rotating).writing() as connection:
        lost = Keyring(Keyring.generate_key()).seal("x", "y")
        connection.execute(update(CredentialRow).values(sealed=Sealed(lost, "")))
    found = list(stored_values_of(rotating).unreadable(newest))
    assert [each.key for each in found] == [("openai",)]
    rotating.credentials.put("openai", "sk-7g8h9i0j1k2l", kind="llm", created_by="alice")
    monkeypatch.setattr(stored_values_of(rotating), "unreadable", lambda _: iter(found))
    assert rotating.keys.forget_unreadable() == []
    assert rotating.credentials.get("openai").masked == "…1k2l"
    assert "keys.forget" not in {each.action for each in rotating.audit.list()}


def test_a_column_without_a_purpose_loses_nothing(
    rotating: Pipelit, unbound: Table, old: Keyring, newer: str
) -> None:
    """It is counted and rotated all the same: whatever its values are bound to stays."""
    rotating.keys.rotate()
    with database_of(rotating).writing() as connection:
        token = Sealed(old.seal("x", "anything"), "")
        connection.execute(insert(unbound).values(id=1, token=token))
    assert rotating.keys.status(checkpointers=[NONE]).older == 1
    assert rotating.keys.rotate(checkpointers=[NONE]).status.older_can_go
    with database_of(rotating).reading() as connection:
        stored = connection.scalars(select(unbound.c.token)).one()
    assert Keyring(newer).unseal(stored.token, "anything") == b"x"


# What the models declare


def without_purpose() -> list[str]:
    """The encrypted columns of our tables that aren't bound to their row."""
    return [
        f"{each.table.name}.{name}"
        for each in sealed_tables()
        for name, kind in each.columns.items()
        if not isinstance(kind, RowEncryptedString)
    ]


def test_every_encrypted_column_declares_its_purpose() -> None:
    """So a value that is copied to another row can't be decrypted there."""
    assert len(sealed_tables()) == 8
    assert without_purpose() == []


def test_a_column_without_a_purpose_is_noticed(unbound: Table) -> None:
    """The test above fails for it."""
    assert without_purpose() == ["pipelit_loose.token"]


@pytest.mark.parametrize("table", sealed_tables(), ids=lambda each: each.table.name)
def test_declarations_name_columns_that_are_there(table: Any) -> None:
    """Purposes, locks and the order of rows are made of the table's own columns."""
    assert set(table.columns) <= {column.name for column in table.needed}
    for name, kind in table.columns.items():
        assert table.table.c[name].type is kind
        made = kind.row_purpose(*map(str, kind.columns))
        for changed in kind.columns:
            others = (f"other {each}" if each == changed else each for each in kind.columns)
            assert kind.row_purpose(*others) != made, f"{name}: the purpose ignores {changed}"
    if table.rules.unreadable == "clear columns":
        assert all(table.table.c[name].nullable for name in table.columns)


def test_no_two_columns_have_the_same_purpose() -> None:
    """Except an agent's current and previous secret: one becomes the other."""
    made = [
        (kind.row_purpose, name)
        for each in sealed_tables()
        for name, kind in each.columns.items()
        if isinstance(kind, RowEncryptedString)
    ]
    shared = [name for purpose, name in made if [each for each, _ in made].count(purpose) > 1]
    assert shared == ["totp_secret", "totp_previous"]


def test_plaintext_is_refused_for_a_row() -> None:
    """The type doesn't know the row, and must not bind the value to anything else."""
    kind = UserRow.__table__.c.totp_secret.type
    assert isinstance(kind, RowEncryptedString)
    with pytest.raises(TypeError, match="encrypt the value for the purpose of its row first"):
        kind.sealed("JBSWY3DPEHPK3PXP")
    assert kind.sealed(None) is None


def test_a_copied_column_keeps_its_purpose() -> None:
    """In a mixin of two models, and in another metadata."""

    class Other(DeclarativeBase):
        """Of this test."""

    class Mixed:
        """Two tables have this column."""

        token: Mapped[Sealed | None] = mapped_column(
            RowEncryptedString(note_purpose, "owner", "id")
        )
        owner: Mapped[str]

    class First(Mixed, Other):
        """One of them."""

        __tablename__ = "first"
        __table_args__ = (row_rules(lock="{owner}:{id}"),)
        id: Mapped[int] = mapped_column(primary_key=True)

    class Second(Mixed, Other):
        """The other one."""

        __tablename__ = "second"
        id: Mapped[int] = mapped_column(primary_key=True)

    copied = MetaData()
    for table in Other.metadata.sorted_tables:
        table.to_metadata(copied)
    for metadata in (Other.metadata, copied):
        first, second = sealed_tables(metadata)
        assert [column.name for column in first.needed] == ["id", "token", "owner"]
        for each in (first, second):
            kind = each.columns["token"]
            assert isinstance(kind, RowEncryptedString)
            assert (kind.columns, kind.place) == (("owner", "id"), f"{each.table.name}.token")
        assert first.rules == RowRules("{owner}:{id}")
        assert second.rules == RowRules()


# Tags


def test_a_new_tag_is_named_until_a_service_tags_it_again(rotating: Pipelit) -> None:
    """By its name, or by a declaration of a kind that no service has."""
    rotating.keys.rotate()
    table = Table(
        "pipelit_tagged",
        Base.metadata,
        Column("id", Integer, primary_key=True),
        Column("row_mac", String(64)),
        Column("pruned", String(64), info=tag_of("invoices")),
    )
    try:
        status = rotating.keys.status(checkpointers=[NONE])
    finally:
        Base.metadata.remove(table)
    assert status.older_can_go is None
    assert status.not_counted == (
        "pipelit_tagged.row_mac, whose tags no rotation knows",
        "pipelit_tagged.pruned, whose tags no rotation knows",
    )
    assert rotating.keys.status(checkpointers=[NONE]).older_can_go


def test_every_tag_is_declared() -> None:
    """With what it is a tag of."""
    assert sorted((column.table.name, column.name, kind) for column, kind in tag_columns()) == [
        ("pipelit_approval_answers", "mac", "approvals"),
        ("pipelit_approvals", "mac", "approvals"),
        ("pipelit_audit_seals", "mac", "seals"),
        ("pipelit_audit_seals", "pruned", "seals"),
        ("pipelit_encryption_key", "mac", "database key"),
        ("pipelit_recovery_codes", "mac", "recovery codes"),
    ]


# What the services encrypt


def encrypt_everything(approving: Approving) -> None:
    """Let each service store a value in each of its encrypted columns."""
    pipelit = approving.pipelit
    pipelit.users.create_agent("agent_x", owner="alice", purpose="pays")
    pipelit.users.rotate_totp("agent_x", overlap=timedelta(hours=1))
    pipelit.users.issue_peering("agent_x", domain="other")
    pipelit.users.create("dave")
    pipelit.mfa.enroll("dave")
    for person in (None, "alice"):
        secret = "sk-1b2c3d4e5f6a"
        pipelit.credentials.put("openai", secret, kind="llm", created_by="alice", person=person)
    question = pipelit.approvals.request("pay 90", approvers=["alice"])
    pipelit.approvals.deny(question.id, "alice", approving.code("alice"), reason="too much")
    call, rule = Call("pay", {"amount": 9}, "call_1", "thread_1", "tools:1"), Approvers(["alice"])
    approving.approve(pipelit.approvals.calls.ask(call, rule).id, "alice")
    pipelit.approvals.calls.start(call, rule)
    pipelit.approvals.calls.finish(call, b"paid")


def test_each_column_is_encrypted_for_the_purpose_that_it_declares(
    approving: Approving, newer: str
) -> None:
    """Otherwise a rotation can't decrypt what the service has stored, and names it."""
    encrypt_everything(approving)
    stored = database_of(approving.pipelit)
    with stored.reading() as connection:
        empty = [
            f"{each.table.name}.{name}"
            for each in sealed_tables()
            for name in each.columns
            if not any(connection.scalars(select(each.table.c[name])))
        ]
    assert not empty, f"let encrypt_everything store a value in {empty}"
    keys = [newer, *approving.settings["encryption_keys"]]
    with Pipelit(**approving.settings | {"encryption_keys": keys}) as rotating:
        assert rotating.keys.rotate(checkpointers=[NONE]).status.unreadable == ()
    with Pipelit(**approving.settings | {"encryption_keys": [newer]}) as current:
        assert current.keys.status(checkpointers=[NONE]).unreadable == ()


# Purposes


def test_purposes_never_change() -> None:
    """Stored values are bound to these texts."""
    all_may = "acb0082f95be35ec08bea74282d65c44409fbd72e86ad81a9fc065a0fb7d6ab4"
    alice_may = "1187f0eeaadf9e400f59e8ea454bb000ba839adb8fd9ea61b55c8ddb16f16b9f"
    assert [
        purposes.totp_purpose("alice"),
        purposes.pending_purpose("alice"),
        purposes.peering_purpose("r"),
        purposes.approval_purpose("apr_1", "d"),
        purposes.reason_purpose("apr_1", "alice"),
        purposes.result_purpose("apr_1", 2),
        purposes.credential_purpose("openai", "llm", "{}", None),
        purposes.credential_hint_purpose("openai", "llm", "{}", '["alice"]'),
        purposes.person_credential_purpose("alice", "openai", "llm", "{}", None),
        purposes.person_credential_hint_purpose("alice", "openai", "llm", "{}", '["alice"]'),
        purposes.CHECKPOINTS,
        purposes.CHECKPOINT_BOX,
        purposes.CHECKPOINT_METADATA,
        purposes.CHECKPOINT_VALUE,
        purposes.APPROVAL_REQUEST,
        purposes.APPROVAL_ANSWER,
        purposes.APPROVAL_REGISTER,
        purposes.AUDIT_PRUNED,
        purposes.AUDIT_SEAL,
        purposes.DATABASE_KEY,
        purposes.DESK_SET_UP,
        purposes.ISSUED_CODES,
        purposes.RECOVERY_CODE,
    ] == [
        "user:alice:totp",
        "user:alice:totp:pending",
        "peering:r",
        "approval:apr_1:d:shown",
        "approval:apr_1:alice:reason",
        "approval:apr_1:2:result",
        f"credential:openai:{all_may}",
        f"credential:openai:{alice_may}:hint",
        f"person:alice:credential:openai:{all_may}",
        f"person:alice:credential:openai:{alice_may}:hint",
        "checkpoints",
        "box",
        "checkpoint metadata",
        "checkpoint",
        "approval-request",
        "approval",
        "approval-register",
        "audit-pruned",
        "audit-seal",
        "database-key",
        "desk-set-up",
        "issued-codes",
        "recovery-code",
    ]
    assert (tags.REQUEST, tags.ANSWER) == ("approval-request", "approval")


def test_no_purpose_is_left_out_above() -> None:
    """One that the list doesn't have could change unnoticed."""
    source = inspect.getsource(test_purposes_never_change)
    listed = set(re.findall(r"purposes\.(\w+)", source))
    assert listed == set(purposes.__all__) - {"holds"}
