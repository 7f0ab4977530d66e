"""Credentials: what is shown, who may open them, and what the audit says."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from conftest import Clock
from internals import database_of, keyring_of
from pydantic import SecretStr
from sqlalchemy import select, update

from pipelit_agents import Agent, CredentialInfo, Keyring, Pipelit, Secret
from pipelit_agents.database.models import CredentialRow
from pipelit_agents.errors import (
    ConfigurationError,
    CredentialError,
    CredentialExists,
    CredentialNotAllowed,
    CredentialNotFound,
    CredentialScopeError,
    InvalidUsername,
    ShortSecretWarning,
    UnknownAccountWarning,
    UnsealError,
    UserInactive,
    UserNotFound,
)
from pipelit_agents.sealing.keyring import Sealed
from pipelit_agents.sealing.purposes import credential_purpose

# Where attempts are counted makes no difference here.
BACKENDS = ("sqlite", "postgres")

VALUE = "sk-0123456789abcdef"


def opened(pipelit: Pipelit, reference: str, agent: Agent | None = None) -> str:
    """The plaintext of a credential, as a node gets it."""
    seen: list[str] = []

    @pipelit.credentials.inject(agent, secret=reference)
    def node(*, secret: SecretStr) -> None:
        seen.append(secret.get_secret_value())

    node()
    return seen[0]


def last(pipelit: Pipelit) -> tuple[str, str, str, str, str]:
    """The last entry of the audit."""
    entry = pipelit.audit.list(limit=1)[0]
    return entry.actor, entry.subject, entry.action, entry.outcome, entry.reason


def test_what_is_shown_of_a_credential(pipelit: Pipelit, clock: Clock) -> None:
    """All but the secret is shown, and of it the last four characters."""
    public = {"base_url": "https://x.example", "ids": [1, None, {"a": True}]}
    allow = ["bob", "alice", "bob"]
    made = pipelit.credentials.put(
        "openai",
        VALUE,
        kind="llm",
        created_by="alice",
        public=public,
        allow=allow,
    )
    at = datetime.fromtimestamp(clock.now, UTC)
    assert made == CredentialInfo(
        name="openai",
        kind="llm",
        masked="…cdef",
        public=public,
        created_by="alice",
        allow=("alice", "bob"),
        created_at=at,
        updated_at=at,
        searched=("value",),
        updated_by="alice",
    )
    assert pipelit.credentials.get("openai") == made
    assert pipelit.credentials.list() == [made]
    assert VALUE not in repr(made)


def test_a_short_secret_is_masked_whole(pipelit: Pipelit) -> None:
    """Of a secret with fewer than 12 characters nothing is shown."""
    assert pipelit.credentials.put("pin", "12345678901", kind="x", created_by="a").masked == "…"


@pytest.mark.parametrize(
    ("secret", "masked"),
    [
        ("MODE=production\nPIN=4821", "…"),
        ('{"user": "ann", "password": "pw12"}', "…"),
        ("https://example.com/login?k=abcd", "…"),
        ("https://example.com/hooks/abcd", "…"),
        ("postgresql://ann:long-password-1@db", "…"),
        ("line one of a note\nxyz9\n", "…"),
        ("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY==\n", "…EY=="),
        ("https://example.com/services/T0/XXXXXXXXXXXX1234", "…1234"),
        ("TOKEN=abcdefghijkl", "…ijkl"),
    ],
    ids=["env", "json", "query", "path", "no end", "lines", "base64", "hook", "assigned"],
)
def test_mask_shows_nothing_of_a_short_secret_in_a_document(
    pipelit: Pipelit, secret: str, masked: str
) -> None:
    """Its end may be a whole password or PIN; only the end of a long one is displayed."""
    info = pipelit.credentials.put("doc", secret, kind="x", created_by="a")
    assert info.masked == masked


def test_a_credential_is_for_all_unless_kept(pipelit: Pipelit, writer: Agent) -> None:
    """Without an allow-list it opens for any agent, and for code that names none."""
    pipelit.credentials.put("openai", VALUE, kind="llm", created_by="alice")
    for agent in (None, writer):
        assert opened(pipelit, "openai", agent) == VALUE
        actor = "" if agent is None else "agent_writer"
        assert last(pipelit) == (actor, "openai", "credential.reveal", "ok", "")


def test_a_kept_credential_opens_for_named_accounts_only(
    pipelit: Pipelit, writer: Agent, editor: Agent
) -> None:
    """Who isn't on the list is refused, and the audit knows who tried."""
    pipelit.credentials.put("openai", VALUE, kind="llm", created_by="a", allow=["agent_writer"])
    assert opened(pipelit, "openai", writer) == VALUE
    for agent, actor in ((editor, "agent_editor"), (None, "")):
        with pytest.raises(CredentialNotAllowed) as caught:
            opened(pipelit, "openai", agent)
        assert caught.value.credential == "openai"
        assert last(pipelit) == (actor, "openai", "credential.reveal", "refused", "not allowed")


def test_an_empty_list_keeps_it_from_everybody(pipelit: Pipelit, writer: Agent) -> None:
    """``allow=[]`` isn't taken for "anybody"."""
    pipelit.credentials.put("openai", VALUE, kind="llm", created_by="alice", allow=[])
    for agent in (writer, None):
        with pytest.raises(CredentialNotAllowed):
            opened(pipelit, "openai", agent)


def test_an_agent_that_ended_opens_nothing(pipelit: Pipelit, writer: Agent) -> None:
    """A handle of a deactivated or unknown agent opens nothing, also where all may; audited."""
    pipelit.credentials.put("openai", VALUE, kind="llm", created_by="alice")
    pipelit.users.deactivate("alice")
    for agent, error in ((writer, UserInactive), (pipelit.agent("agent_ghost"), UserNotFound)):
        with pytest.raises(error):
            opened(pipelit, "openai", agent)
        assert last(pipelit) == (
            agent.username,
            "openai",
            "credential.reveal",
            "refused",
            "agent can't act",
        )


def test_several_fields_are_opened_by_name(pipelit: Pipelit) -> None:
    """A credential of several secrets opens one field at a time."""
    value = {"user": "root", "password": SecretStr(VALUE)}
    made = pipelit.credentials.put("db", value, kind="database", created_by="alice")
    assert made.masked == "user=…, password=…cdef"
    assert opened(pipelit, "db:user") == "root"
    assert opened(pipelit, "db:password") == VALUE
    for reference in ("db", "db:", "db:nothing"):
        with pytest.raises(CredentialNotFound, match=r"has no field|has several secrets: name one"):
            opened(pipelit, reference)
        assert last(pipelit)[4] == "no such field"


def test_a_single_named_field_is_what_the_name_alone_opens(pipelit: Pipelit) -> None:
    """Where there is one field, its name may be left out."""
    pipelit.credentials.put("one", {"token": VALUE}, kind="x", created_by="alice")
    assert opened(pipelit, "one") == opened(pipelit, "one:token") == VALUE


def test_putting_again_replaces_all_but_its_beginning(pipelit: Pipelit, clock: Clock) -> None:
    """A second ``put`` replaces secret, kind, public, list and ``updated_by``, and no more."""
    pipelit.credentials.put(
        "openai", "old", kind="x", created_by="alice", public={"a": 1}, allow=["bob"]
    )
    clock.advance(10)
    made = pipelit.credentials.put("openai", VALUE, kind="llm", created_by="bob")
    assert (made.kind, dict(made.public), made.allow, made.created_by) == ("llm", {}, None, "alice")
    assert (made.updated_at - made.created_at).total_seconds() == 10
    assert made.updated_by == "bob"
    assert pipelit.credentials.list() == [made]
    assert opened(pipelit, "openai") == VALUE
    assert len(pipelit.credentials.list()) == 1


async def test_the_async_twin_does_the_same(pipelit: Pipelit) -> None:
    """``aput`` seals like its twin, and an async function gets the secret too."""
    await pipelit.credentials.aput("openai", VALUE, kind="llm", created_by="alice")

    @pipelit.credentials.inject(secret="openai")
    async def node(*, secret: SecretStr) -> bool:
        return secret.get_secret_value() == VALUE

    assert await node()


def test_the_list_can_be_of_one_kind(pipelit: Pipelit) -> None:
    """Credentials are listed by name, and by kind where one is given."""
    for name, kind in (("b", "llm"), ("a", "llm"), ("c", "web")):
        pipelit.credentials.put(name, VALUE, kind=kind, created_by="alice")
    assert [each.name for each in pipelit.credentials.list()] == ["a", "b", "c"]
    assert [each.name for each in pipelit.credentials.list(kind="llm")] == ["a", "b"]


def test_what_is_deleted_is_gone(pipelit: Pipelit) -> None:
    """A deleted credential is found no more, and who deleted it is audited."""
    pipelit.credentials.put("openai", VALUE, kind="llm", created_by="alice")
    pipelit.credentials.delete("openai", by="alice")
    assert last(pipelit)[:3] == ("alice", "openai", "credential.delete")
    for use in (
        lambda: pipelit.credentials.get("openai"),
        lambda: pipelit.credentials.delete("openai"),
        lambda: opened(pipelit, "openai"),
    ):
        with pytest.raises(CredentialNotFound) as caught:
            use()
        assert isinstance(caught.value, LookupError)
        assert caught.value.credential == "openai"


@pytest.mark.parametrize("name", ["", "Open AI", "openai:key", "openai\n", "a" * 150, None, 7])
def test_a_name_has_the_form_of_a_username(pipelit: Pipelit, name: Any) -> None:
    """Other names are a CredentialError that says what is allowed."""
    with pytest.raises(CredentialError, match="not a credential name"):
        pipelit.credentials.put(name, VALUE, kind="llm", created_by="alice")


@pytest.mark.parametrize(
    "value", ["", None, 7, b"bytes", {}, {"a": ""}, {"a": 7}, {7: "a"}, SecretStr(""), ["sk"]]
)
def test_a_value_is_text_and_not_empty(pipelit: Pipelit, value: Any) -> None:
    """Anything else is a CredentialError, and nothing is stored."""
    with pytest.raises(CredentialError):
        pipelit.credentials.put("openai", value, kind="llm", created_by="alice")
    assert pipelit.credentials.list() == []


@pytest.mark.parametrize("public", [{"a": object()}, {"a": float("nan")}, {"a": b"x"}])
def test_public_fields_are_json(pipelit: Pipelit, public: dict[str, Any]) -> None:
    """What isn't JSON is a CredentialError."""
    with pytest.raises(CredentialError, match="public must be valid JSON"):
        pipelit.credentials.put("openai", VALUE, kind="llm", created_by="alice", public=public)


def test_an_allow_list_holds_usernames(pipelit: Pipelit) -> None:
    """A name on the list that no account can have is refused, not passed over."""
    for allow in (["Agent_Writer"], [""], [None]):
        with pytest.raises(InvalidUsername):
            pipelit.credentials.put("x", VALUE, kind="llm", created_by="a", allow=allow)  # type: ignore[arg-type]


def test_an_allowed_name_without_an_account_is_warned_of(pipelit: Pipelit, writer: Agent) -> None:
    """It is stored, for an account that is still to come, and a typing error is seen."""
    allow = ["agent_writer", "agent_sendr"]
    with pytest.warns(UnknownAccountWarning) as caught:
        info = pipelit.credentials.put("x", VALUE, kind="llm", created_by="a", allow=allow)
    (warning,) = caught
    said = "credential 'x': allow names 'agent_sendr', which is no account"
    assert (str(warning.message), warning.filename) == (said, __file__)
    assert info.allow == ("agent_sendr", "agent_writer")


def test_a_revealed_secret_is_not_stored_again(pipelit: Pipelit) -> None:
    """A Secret that was opened can't be put back under a name of one's own."""
    pipelit.credentials.put("openai", VALUE, kind="llm", created_by="a", allow=["agent_writer"])
    with pytest.raises(CredentialScopeError):
        pipelit.credentials.put("mine", Secret(VALUE), kind="llm", created_by="b")
    assert [each.name for each in pipelit.credentials.list()] == ["openai"]


def test_any_text_comes_back(pipelit: Pipelit) -> None:
    """Secrets of any characters and lengths come back as they were."""
    for value in ("\n", "ключ\0✓", '"}', "x" * 100_000, "\ud800"):
        pipelit.credentials.put("openai", value, kind="llm", created_by="alice")
        assert opened(pipelit, "openai") == value


def test_outside_a_node_nothing_is_revealed(pipelit: Pipelit) -> None:
    """``reveal`` where nothing runs is a CredentialScopeError, opens nothing, and is on record."""
    pipelit.credentials.put("openai", VALUE, kind="llm", created_by="alice")
    before = pipelit.audit.list()
    with pytest.raises(CredentialScopeError), pipelit.credentials.reveal("openai"):
        pass
    (entry,) = pipelit.audit.list(after=before[-1].id)
    assert (entry.action, entry.subject) == ("credential.reveal", "openai")
    assert (entry.outcome, entry.reason) == ("refused", "outside a node")


@pytest.mark.parametrize("name", ["inject", "tool"])
def test_a_decorator_without_parentheses_says_so(pipelit: Pipelit, name: str) -> None:
    """The function arrives in the place of the agent."""
    with pytest.raises(TypeError, match="the decorator needs parentheses"):
        getattr(pipelit.credentials, name)(lambda state: state)


def test_inject_needs_a_credential(pipelit: Pipelit) -> None:
    """A decorator without a reference is refused when it is made."""
    with pytest.raises(TypeError, match="inject needs at least one parameter"):
        pipelit.credentials.inject()


def test_no_entry_of_the_audit_holds_a_secret(
    pipelit: Pipelit, writer: Agent, editor: Agent
) -> None:
    """After everything that was done, no entry has a code, a key, a secret or a proof."""
    secrets = [VALUE]
    pipelit.credentials.put("openai", VALUE, kind="llm", created_by="alice")
    opened(pipelit, "openai", writer)
    code = writer.totp_code(audience="agent_editor").code
    editor.verify_peer("agent_writer", code)
    key = pipelit.users.create("bob").api_key.get_secret_value()
    pipelit.users.authenticate(key)
    asked = editor.challenge("agent_writer")
    proof = writer.prove(asked.value, b"payload", verifier="agent_editor")
    editor.verify_proof(proof, challenge=asked, payload=b"payload")
    uri = pipelit.users.rotate_totp("agent_writer").get_secret_value()
    secrets += [code, key.split("_", 2)[2], proof.value, asked.value.hex()]
    secrets.append(uri.split("secret=")[1].split("&")[0])
    shown = repr(pipelit.audit.list(limit=1000))
    assert "verify.proof" in shown
    for each in secrets:
        assert each not in shown


@pytest.mark.parametrize("kind", ["", "x" * 65, "a\0b", "a\nb"])
def test_a_kind_is_a_few_printable_characters(pipelit: Pipelit, kind: str) -> None:
    """What one database would take and another not is refused by all."""
    with pytest.raises(CredentialError, match="kind"):
        pipelit.credentials.put("openai", VALUE, kind=kind, created_by="alice")


def test_a_secret_that_is_too_short_to_be_searched_for_is_said(pipelit: Pipelit) -> None:
    """It is sealed all the same; whoever puts it there knows what isn't watched."""
    with pytest.warns(ShortSecretWarning, match="'pin' has a secret of fewer than 8"):
        pipelit.credentials.put("pin", "abc1234", kind="pin", created_by="alice")
    assert opened(pipelit, "pin") == "abc1234"


@pytest.mark.parametrize("stored", ["user=…, password=…cdef", '["user=…, password=…cdef", [], []]'])
def test_what_an_earlier_version_stored_is_still_shown(pipelit: Pipelit, stored: str) -> None:
    """Its mask was sealed alone, then without ``updated_by``; putting it again adds the rest."""
    pipelit.credentials.put("db", VALUE, kind="llm", created_by="alice")
    with database_of(pipelit).writing() as connection:
        row = connection.execute(select(CredentialRow.__table__)).one()
        place = f"{credential_purpose(row.name, row.kind, row.public, row.allow)}:hint"
        old = Sealed(keyring_of(pipelit).seal(stored, place), place)
        connection.execute(update(CredentialRow).values(hint=old))
    shown = pipelit.credentials.get("db")
    assert (shown.masked, shown.searched) == ("user=…, password=…cdef", ())
    assert shown.updated_by is None
    made = pipelit.credentials.put("db", VALUE, kind="llm", created_by="alice")
    assert pipelit.credentials.get("db") == made
    assert (made.searched, made.updated_by) == (("value",), "alice")


def test_an_agent_is_taken_by_name(pipelit: Pipelit, writer: Agent) -> None:
    """`inject(agent=…)` and `tool(agent=…)` open as that agent, as the other classes take it."""
    pipelit.credentials.put("own", VALUE, kind="api", created_by="alice", allow=["agent_writer"])
    seen: list[str] = []

    @pipelit.credentials.inject(agent=writer, secret="own")
    def node(*, secret: SecretStr) -> None:
        seen.append(secret.get_secret_value())

    @pipelit.credentials.tool(agent=writer, secret="own")
    def fetch(url: str, *, secret: SecretStr) -> str:
        """Fetches."""
        seen.append(secret.get_secret_value())
        return url

    node()
    assert last(pipelit)[:4] == ("agent_writer", "own", "credential.reveal", "ok")
    assert fetch.invoke({"url": "x"}) == "x"
    assert seen == [VALUE, VALUE]
    assert list(fetch.args) == ["url"]


async def test_an_agent_by_name_may_be_refused(
    pipelit: Pipelit, writer: Agent, editor: Agent
) -> None:
    """Another agent's handle doesn't open what is kept for one; async nodes too."""
    pipelit.credentials.put("own", VALUE, kind="api", created_by="alice", allow=["agent_writer"])

    @pipelit.credentials.inject(agent=editor, secret="own")
    async def node(*, secret: SecretStr) -> None: ...

    with pytest.raises(CredentialNotAllowed, match="'agent_editor' is not one of them"):
        await node()


@pytest.mark.parametrize("agent", ["openai", "agent_writer", 7, object()])
def test_an_agent_by_name_has_to_be_a_handle(pipelit: Pipelit, agent: Any) -> None:
    """A name, which anybody could write, is no agent; nor is a parameter called so filled."""
    for decorator in (pipelit.credentials.inject, pipelit.credentials.tool):
        with pytest.raises(
            TypeError, match=r'pipelit\.agent\("agent_lead"\).*rename the parameter'
        ):
            decorator(agent=agent, secret="own")
    with pytest.raises(TypeError, match="needs at least one parameter"):
        pipelit.credentials.inject(agent=None)


def unreadable(pipelit: Pipelit, name: str) -> None:
    """Let no key decrypt a credential, and change what was bound to its secret."""
    with database_of(pipelit).writing() as connection:
        changed = {"hint": Sealed("broken", ""), "public": '{"base_url": "https://evil.example"}'}
        query = update(CredentialRow).where(CredentialRow.name == name)
        connection.execute(query.values(changed))


async def test_what_no_key_decrypts_can_be_listed(pipelit: Pipelit, clock: Clock) -> None:
    """Only if it is asked for, and with nothing that an attacker could have written."""
    for name in ("a", "b", "c"):
        pipelit.credentials.put(name, VALUE, kind="llm", created_by="alice")
    unreadable(pipelit, "b")
    credentials = pipelit.credentials
    for call in (credentials.list, credentials.page, lambda: credentials.get("b")):
        with pytest.raises(UnsealError):
            call()
    listed = credentials.list(unreadable=True)
    assert [(each.name, each.masked, each.readable) for each in listed] == [
        ("a", "…cdef", True),
        ("b", "can't be decrypted", False),
        ("c", "…cdef", True),
    ]
    assert (listed[1].public, listed[1].allow, listed[1].searched) == ({}, (), ())
    assert [each.updated_by for each in listed] == ["alice", None, "alice"]
    assert list(credentials.page(unreadable=True)) == listed
    assert list(await credentials.apage(unreadable=True)) == await credentials.alist(
        unreadable=True
    )
    assert await credentials.aget("b", unreadable=True) == listed[1]


def test_a_wrong_key_lists_nothing(pipelit: Pipelit, settings: dict[str, Any]) -> None:
    """The key is what has to be corrected."""
    pipelit.credentials.put("a", VALUE, kind="llm", created_by="alice")
    with Pipelit(**settings | {"encryption_keys": [Keyring.generate_key()]}) as other:
        for call in (other.credentials.list, other.credentials.page):
            with pytest.raises(ConfigurationError):
                call(unreadable=True)


async def test_one_that_is_there_can_be_left_as_it_is(pipelit: Pipelit) -> None:
    """With `replace=False`, the name has to be free: among the shared ones, or the person's own."""
    put, aput = pipelit.credentials.put, pipelit.credentials.aput
    for person in (None, "alice"):
        new = {"kind": "llm", "created_by": "alice", "person": person, "replace": False}
        first = put("openai", VALUE, **new)
        with pytest.raises(CredentialExists, match="already"):
            put("openai", "another-secret-0001", **new)
        with pytest.raises(CredentialExists):
            await aput("openai", "another-secret-0001", **new)
        assert pipelit.credentials.get("openai", person=person) == first


def test_warnings_can_be_called_for(pipelit: Pipelit, recwarn: pytest.WarningsRecorder) -> None:
    """Then Python's warnings get none of them."""
    found: list[Warning] = []
    pipelit.credentials.put(
        "pin", "1234", kind="x", created_by="a", allow=["nobody"], on_warning=found.append
    )
    assert [type(each) for each in found] == [ShortSecretWarning, UnknownAccountWarning]
    assert not recwarn.list
