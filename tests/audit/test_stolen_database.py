"""What a thief of the database file gets, and what comes of changing it behind our back."""

from __future__ import annotations

import base64
import hashlib
import json
import sqlite3
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from conftest import Clock
from pydantic import SecretStr

from pipelit_agents import Agent, Keyring, Pipelit
from pipelit_agents.errors import (
    AuthenticationError,
    ConfigurationError,
    CredentialNotAllowed,
    UnsealError,
)

# The thief opens the file himself.
BACKENDS = False
VALUE = "sk-live-3141592653589793"


def change(database_url: str, statement: str, *parameters: object) -> int:
    """Writes into the file, as a thief with a pen would."""
    file = sqlite3.connect(database_url.removeprefix("sqlite:///"))
    with file:
        changed = file.execute(statement, parameters).rowcount
    file.close()
    assert changed > 0
    return changed


def base32_of(uri: SecretStr) -> str:
    """The secret in an ``otpauth://`` URI."""
    return parse_qs(urlsplit(uri.get_secret_value()).query)["secret"][0]


def opened(pipelit: Pipelit, reference: str, agent: Agent | None = None) -> str:
    """The plaintext of a credential, as a node gets it."""
    seen: list[str] = []

    @pipelit.credentials.inject(agent, secret=reference)
    def node(*, secret: SecretStr) -> None:
        seen.append(secret.get_secret_value())

    node()
    return seen[0]


def test_no_byte_of_the_files_is_a_secret(
    pipelit: Pipelit, database_url: str, key: str, editor: Agent
) -> None:
    """The file, its -wal and its -shm hold no TOTP secret, no credential, no usable API key."""
    users = pipelit.users
    person = users.create("bob")
    new = users.create_agent("agent_bob", owner="bob", purpose="p")
    rotated = users.rotate_totp("agent_bob", overlap=timedelta(hours=1))
    more = users.issue_api_key("agent_bob", name="more")
    pipelit.credentials.put("openai", VALUE, kind="llm", created_by="bob")
    pipelit.credentials.put(
        "db", {"user": "root-of-all", "password": VALUE[::-1]}, kind="db", created_by="bob"
    )
    editor.verify_peer(
        "agent_bob", pipelit.agent("agent_bob").totp_code(audience="agent_editor").code
    )
    assert opened(pipelit, "openai") == VALUE
    secrets: list[bytes] = [VALUE.encode(), VALUE[::-1].encode(), b"root-of-all", key.encode()]
    for uri in (new.provisioning_uri, rotated):
        text = base32_of(uri)
        raw = base64.b32decode(text + "=" * (-len(text) % 8))
        assert len(raw) == 32
        secrets += [text.encode(), raw, raw.hex().encode(), base64.b64encode(raw)]
    for api_key in (person.api_key, new.api_key, more.api_key):
        token = api_key.get_secret_value()
        secret = token.split("_", 2)[2]
        secrets += [token.encode(), secret.encode(), base64.urlsafe_b64decode(secret + "=")]
    path = Path(database_url.removeprefix("sqlite:///"))
    files = sorted(path.parent.iterdir())
    assert [each.name for each in files] == ["agents.db", "agents.db-shm", "agents.db-wal"]
    content = b"".join(each.read_bytes() for each in files)
    assert b"agent_bob" in content
    for each in secrets:
        assert each not in content
    pipelit.close()
    content = b"".join(each.read_bytes() for each in path.parent.iterdir())
    assert b"agent_bob" in content
    for each in secrets:
        assert each not in content


def test_what_is_in_the_file_is_no_api_key(pipelit: Pipelit, database_url: str) -> None:
    """The stored digest is SHA-256 of the key's secret part, and doesn't authenticate."""
    token = pipelit.users.create("bob").api_key.get_secret_value()
    key_id, secret = token.split("_", 2)[1:]
    file = sqlite3.connect(database_url.removeprefix("sqlite:///"))
    stored = file.execute("SELECT digest FROM pipelit_api_keys WHERE id = ?", [key_id]).fetchone()
    file.close()
    assert stored[0] == hashlib.sha256(secret.encode()).hexdigest()
    for forged in (f"plit_{key_id}_{stored[0]}", f"plit_{key_id}_{stored[0][:43]}"):
        with pytest.raises(AuthenticationError):
            pipelit.users.authenticate(forged)


@pytest.mark.parametrize("column", ["totp_secret", "totp_previous"])
def test_a_totp_secret_moved_to_another_row_does_not_open(
    pipelit: Pipelit, database_url: str, writer: Agent, editor: Agent, column: str
) -> None:
    """Whoever writes an own secret beside another's name can't act or be verified as that one."""
    pipelit.users.create_agent("agent_judge", owner="alice", purpose="judges")
    judge = pipelit.agent("agent_judge")
    codes = [each.totp_code(audience="agent_judge").code for each in (writer, editor)]
    change(
        database_url,
        f"UPDATE pipelit_users SET {column} = (SELECT totp_secret FROM pipelit_users "  # noqa: S608
        "WHERE username = 'agent_editor'), totp_previous_until = 9e9 "
        "WHERE username = 'agent_writer'",
    )
    for code in codes:
        with pytest.raises(UnsealError):
            judge.verify_peer("agent_writer", code)
    assert pipelit.audit.list(limit=1)[0].reason == "secret doesn't open"
    challenge = judge.challenge("agent_writer")
    with pytest.raises(UnsealError):
        judge.verify_proof(
            editor.prove(challenge.value, b"", verifier="agent_judge"),
            challenge=challenge,
            payload=b"",
        )
    assert not challenge.spend()
    if column == "totp_secret":
        with pytest.raises(UnsealError):
            writer.totp_code()
    judge.verify_peer("agent_editor", codes[1])


def test_a_plain_secret_in_the_column_is_not_used(
    pipelit: Pipelit, database_url: str, writer: Agent
) -> None:
    """A secret that somebody wrote in clear isn't taken for one."""
    change(database_url, "UPDATE pipelit_users SET totp_secret = ?", base64.b32encode(b"1" * 32))
    with pytest.raises(UnsealError):
        writer.totp_code()


def test_a_secret_moved_to_a_person_makes_it_no_agent(
    pipelit: Pipelit, database_url: str, writer: Agent, editor: Agent
) -> None:
    """A ciphertext beside a person's name doesn't open either."""
    code = writer.totp_code(audience="agent_editor").code
    change(
        database_url,
        "UPDATE pipelit_users SET totp_secret = (SELECT totp_secret FROM pipelit_users "
        "WHERE username = 'agent_writer') WHERE username = 'alice'",
    )
    with pytest.raises(UnsealError):
        editor.verify_peer("alice", code)


def test_a_credential_moved_to_another_row_does_not_open(
    pipelit: Pipelit, database_url: str
) -> None:
    """A ciphertext beside another credential's name doesn't open."""
    for name in ("one", "two"):
        pipelit.credentials.put(name, VALUE, kind="llm", created_by="alice")
    assert opened(pipelit, "two") == VALUE
    change(
        database_url,
        "UPDATE pipelit_credentials SET sealed = (SELECT sealed FROM pipelit_credentials "
        "WHERE name = 'one') WHERE name = 'two'",
    )
    with pytest.raises(UnsealError):
        opened(pipelit, "two")
    entry = pipelit.audit.list(limit=1)[0]
    assert (entry.action, entry.outcome, entry.reason) == (
        "credential.reveal",
        "refused",
        "doesn't open",
    )


def test_a_hint_moved_into_the_secret_does_not_open(pipelit: Pipelit, database_url: str) -> None:
    """The mask and the secret are no ciphertexts of one place."""
    pipelit.credentials.put("one", VALUE, kind="llm", created_by="alice")
    change(database_url, "UPDATE pipelit_credentials SET hint = sealed")
    with pytest.raises(UnsealError):
        pipelit.credentials.get("one")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("public", json.dumps({"base_url": "https://evil.example"})),
        ("public", "{}"),
        ("public", "no JSON"),
        ("public", '{"base_url":  "https://good.example"}'),
        ("kind", "web"),
        ("kind", ""),
        ("allow", None),
        ("allow", "[]"),
        ("allow", "null"),
        ("allow", '["agent_editor"]'),
        ("allow", '["agent_editor", "agent_writer"]'),
        ("allow", '"agent_editor"'),
        ("allow", "5"),
        ("allow", "no JSON"),
    ],
)
def test_a_credential_whose_fields_were_changed_does_not_open(
    pipelit: Pipelit,
    database_url: str,
    writer: Agent,
    editor: Agent,
    column: str,
    value: str | None,
) -> None:
    """A base_url, kind or allow-list changed in the database doesn't get the secret or its mask."""
    pipelit.credentials.put(
        "openai",
        VALUE,
        kind="llm",
        created_by="alice",
        public={"base_url": "https://good.example"},
        allow=["agent_writer"],
    )
    assert opened(pipelit, "openai", writer) == VALUE
    change(database_url, f"UPDATE pipelit_credentials SET {column} = ?", value)  # noqa: S608
    for agent in (writer, editor, None):
        with pytest.raises(UnsealError):
            opened(pipelit, "openai", agent)
    for show in (lambda: pipelit.credentials.get("openai"), pipelit.credentials.list):
        with pytest.raises(UnsealError):
            show()


def test_the_allow_list_is_kept(pipelit: Pipelit, writer: Agent, editor: Agent) -> None:
    """Unchanged, the credential opens for whom it is kept, and for nobody else."""
    pipelit.credentials.put("openai", VALUE, kind="llm", created_by="alice", allow=["agent_writer"])
    assert opened(pipelit, "openai", writer) == VALUE
    for agent in (editor, None):
        with pytest.raises(CredentialNotAllowed):
            opened(pipelit, "openai", agent)


def uses(pipelit: Pipelit) -> list[Callable[[], object]]:
    """Everything that needs the key."""
    writer = pipelit.agent("agent_writer")
    return [
        writer.totp_code,
        lambda: writer.totp_code(audience="agent_editor"),
        lambda: writer.prove(b"c" * 32, b"", verifier="agent_editor"),
        lambda: pipelit.agent("agent_editor").verify_peer("agent_writer", "12345678"),
        lambda: opened(pipelit, "openai"),
        pipelit.credentials.list,
    ]


def test_under_a_wrong_key_nothing_opens(
    pipelit: Pipelit, database_url: str, clock: Clock, writer: Agent, editor: Agent
) -> None:
    """With another key everything that needs a secret is an UnsealError."""
    pipelit.credentials.put("openai", VALUE, kind="llm", created_by="alice")
    wrong = [Keyring.generate_key()]
    with Pipelit(database_url=database_url, encryption_keys=wrong, clock=clock) as other:
        for use in uses(other):
            with pytest.raises(UnsealError, match="FIELD_ENCRYPTION_KEY"):
                use()


def test_without_a_key_nothing_opens_and_nothing_is_stored(
    pipelit: Pipelit, database_url: str, clock: Clock, writer: Agent, editor: Agent
) -> None:
    """With no key everything is a ConfigurationError that names setting and command."""
    pipelit.credentials.put("openai", VALUE, kind="llm", created_by="alice")
    with Pipelit(database_url=database_url, encryption_keys=[], clock=clock) as other:
        for use in (
            *uses(other),
            lambda: other.users.create_agent("agent_new", owner="alice", purpose="p"),
            lambda: other.users.rotate_totp("agent_writer"),
            lambda: other.credentials.put("new", VALUE, kind="llm", created_by="alice"),
        ):
            with pytest.raises(ConfigurationError, match="FIELD_ENCRYPTION_KEY") as caught:
                use()
            assert "Keyring.generate_key()" in str(caught.value)
        assert [each.username for each in other.users.list()] == [
            "agent_editor",
            "agent_writer",
            "alice",
        ]
    assert [each.name for each in pipelit.credentials.list()] == ["openai"]
    assert writer.totp_code().code
