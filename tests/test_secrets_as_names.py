"""A secret that is passed where a name belongs: it is neither repeated nor recorded nor stored."""

from __future__ import annotations

import inspect
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from internals import (
    PLAIN_NAME,
    WITHHELD,
    has_secret_form,
    may_be_secret,
    quoted,
    recordable,
)
from services import services_of, takes_transaction

from pipelit_agents import Agent, Pipelit
from pipelit_agents.credentials.scope import Scope
from pipelit_agents.errors import (
    CredentialError,
    CredentialNotFound,
    InvalidUsername,
    MalformedCode,
    NobodyAuthenticated,
    PipelitError,
    UserNotFound,
    VerificationError,
)
from pipelit_agents.graphs import remote_child
from pipelit_agents.ledger import Attempt, Decision, LedgerContext, record_decision
from pipelit_agents.middleware import CredentialMiddleware
from pipelit_agents.protocol.usernames import is_username

# The files of a SQLite database are searched for the secrets.
BACKENDS = False
# Secrets by their form; those of the first group may not be stored as a name either.
CERTAIN = {
    "a provider's key": "sk-proj-AbC123xyz789LMNop456",
    "a key in lower case": "ghp_0a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6q7r",
    "an API key of ours": "plit_0123456789ab_Zm9vYmFyYmF6cXV4MTIzNDU2Nzg5MGFiY2RlZmdoaWo",
    "a TOTP secret": "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP",
    "a TOTP secret in lower case": "jbsw y3dp ehpk 3pxp jbsw y3dp ehpk 3pxp",
    "a recovery code": "k7qm-x2ha-55tz-b3nd",
    "base64": "Zm9vYmFyYmF6cXV4MTIz+Dk5/GFi",
}
POSSIBLE = {
    "a code": "493017",
    "an audience code": "49301712",
    "a code in two groups": "493 017",
    "hexadecimal digits": "9f86d081884c7d659a2feaa0c55ad015",
    "a UUID": "3f2b8c1e-9d47-4a6b-8e15-c0ffee123456",
    "an address with a password": "postgresql://bob:hunter@db/agents",
    "a recovery code of letters": "kqqm-xxha-wetz-bznd",
    "a long password": "correcthorsebatterystaple",
}
SECRETS = CERTAIN | POSSIBLE
ORDINARY = [
    "agent_leed",
    "opnai",
    "Alice",
    "alice@example.com",
    "Zoë",
    "agent a",
    "../agent",
    "prod-us-east-1",
    "sk-team",
    "agent_007",
    "gpt-4o-2024-08-06",
    "agent_research_3fa4b2c1",
    "agent-key.agent_research_3fa4b2c1",
    "database:password",
    "",
]
# The names that a caller passes for something that exists, and for what is created.
FOUND = {
    "username", "name", "agent", "owner", "verifier", "prover", "parent", "peer", "audience",
    "key_id", "id", "approvers", "approval", "digest", "person", "lane", "reference", "references",
    "relation", "answer_relation", "domain", "subject", "actor", "kind", "action", "outcome",
    "prefix", "asked_by", "after", "root_owner", "on",
}  # fmt: skip
# What is only written down. An ordinary person's number may look like a code, so that is kept.
LABELS = {"by", "created_by", "purpose", "allow", "public"}
# Neither names nor labels, with the reason.
OTHER = {
    "code": "a secret itself; test_discretion.py",
    "bearer_token": "the same",
    "header": "the name of a header; it isn't stored",
    "scheme": "a word before a header's value; it isn't stored",
    "origins": "addresses; test_http_auth.py",
    "uri": "the same",
    "enrolled": "the same",
    "value": "the same",
    "database_url": "an address; test_database_addresses.py",
    "redis_url": "the same",
    "encryption_keys": "keys; test_discretion.py",
    "message": "text that a code is bound to; it isn't stored",
    "what": "a value to approve; it is encrypted",
    "challenge": "bytes",
    "payload": "bytes",
    "request": "bytes",
    "reason": "a reason that the caller's own code chose",
    "path": "a file",
    "folder": "a folder",
    "environ": "an environment",
    "clear_metadata": "names of fields, in code",
    "thread": "LangGraph's id of a thread, stored as it is",
    "filters": "names of filters, in code",
    "on_warning": "a function",
}
NEW = {
    ("users", "create", "username"),
    ("users", "create_agent", "username"),
    ("users", "issue_api_key", "name"),
    ("users", "issue_peering", "domain"),
    ("users", "enroll_peer", "name"),
    ("users", "enroll_peer", "domain"),
    ("pipelit", "provision_agent", "username"),
    ("pipelit", "provision_agent", "prefix"),
    ("credentials", "put", "name"),
    ("credentials", "put", "kind"),
    ("approvals", "request", "asked_by"),
}


def services(pipelit: Pipelit) -> dict[str, Any]:
    """Everything that a program holds, by name."""
    return services_of(pipelit) | {"pipelit": pipelit, "handle": pipelit.agent("agent_writer")}


def methods() -> Iterator[tuple[str, str, str]]:
    """Each public method with each of its parameters that takes text."""
    classes = {
        each: type(made)
        for each, made in services(Pipelit(database_url="sqlite://", encryption_keys=[])).items()
    }
    for service, cls in classes.items():
        for name, method in inspect.getmembers(cls, inspect.isfunction):
            twin = name.startswith("a") and hasattr(cls, name[1:])
            if name.startswith("_") or twin or takes_transaction(method):
                continue
            for parameter in inspect.signature(method).parameters.values():
                text = str(parameter.annotation)
                if any(each in text for each in ("str", "object", "Secret", "bytes")):
                    yield service, name, parameter.name


METHODS = sorted(methods())
CASES = [each for each in METHODS if each[2] in FOUND | LABELS and each[1] != "sealed_saver"]


# Parts of names: words, and beginnings of keys, groups of codes, suffixes and dates.
PARTS = [
    "agent", "sk", "key", "plit", "hf", "npm", "ya29", "eyja", "a", "b3", "x" * 15, "x" * 16,
    "abcd", "ab23", "abcdefgh", "abcd2345", "deadbeef", "3fa4b2c1", "2024", "08", "1", "333",
]  # fmt: skip


@given(st.lists(st.sampled_from(PARTS), min_size=1, max_size=4), st.sampled_from("_-."))
@example(["abcd2345", "abcdefgh_deadbeef"], "-")
@example(["abcd", "efgh", "ab23", "cdef"], "-")
@example(["kqqm", "xxha", "wetz", "bznd"], "-")
@example(["ab123", "cd456"], ".")
@example(["agent", "x" * 16], "_")
@example(["x" * 16, "agent"], "_")
def test_a_plain_name_is_judged_as_any_name(parts: list[str], mark: str) -> None:
    """The shortcut for plain names answers as the whole judgement does."""
    name = mark.join(parts)
    found = has_secret_form(name), may_be_secret(name)
    with mock.patch("pipelit_agents._words.PLAIN_NAME", re.compile("(?!)")):
        assert found == (has_secret_form(name), may_be_secret(name))


@pytest.mark.parametrize("name", ["alice", "agent_child", "agent_007", "billing-bot", "openai.eu"])
def test_most_names_are_plain(name: str) -> None:
    """Names as people choose them take the shortcut, so that a verification isn't slowed down."""
    assert PLAIN_NAME.match(name)


def test_each_parameter_is_one_of_these() -> None:
    """A parameter that is added to a public method is a name, a label or something else."""
    unknown = [each for each in METHODS if each[2] not in FOUND | LABELS | OTHER.keys()]
    assert not unknown, f"add them to FOUND, LABELS or OTHER: {unknown}"


def valid(service: str, method: str, name: str) -> Any:
    """What a call passes for the parameters that aren't tested."""
    people = service in ("mfa", "approvals") or method == "acting_for"
    samples = {
        "username": "alice" if people else "agent_new" if method.startswith("create") else "alice",
        "code": "493017" if people else "12345678",
        "digest": "0" * 64,
        "id": "x" * 22,
        "approval": "0" * 64,
        "approvers": ["alice"],
        "what": {"pay": 90},
        "name": "service",
        "agent": None if service == "credentials" else "agent_writer",
        "owner": "alice",
        "purpose": "writes",
        "domain": "other",
        "uri": "otpauth://totp/pipelit:service?secret=" + "JBSWY3DP" * 7 + "&algorithm=SHA256",
        "value": "a value that is long enough",
        "kind": "audience" if method == "verify_peer" else "llm",
        "created_by": "alice",
        "by": "alice",
        "peer": "agent_editor",
        "action": "verify",
        "reason": "refused",
        "challenge": b"x" * 32,
        "payload": b"{}",
        "request": b"{}",
        "verifier": "agent_editor",
        "parent": "agent_editor",
        "prover": "agent_editor",
        "reference": "service",
        "creator": None,
        "key_id": "0" * 12,
    }
    return samples.get(name)


def call(pipelit: Pipelit, service: str, method: str, parameter: str, secret: Any) -> str:
    """Call a method with a secret as one argument; return what it raised, warned or returned."""
    bound = getattr(services(pipelit)[service], method)
    said = []
    arguments: dict[str, Any] = {}
    for each in inspect.signature(bound).parameters.values():
        if each.name == parameter:
            listed = "Sequence" in str(each.annotation)
            value = {"extra": secret} if parameter == "public" else secret
            if each.kind is each.VAR_KEYWORD:
                arguments["api_key"] = value
            else:
                arguments[each.name] = [value] if listed else value
        elif each.default is each.empty and each.kind is not each.VAR_KEYWORD:
            sample = valid(service, method, each.name)
            arguments[each.name] = services(pipelit)["handle"] if each.name == "creator" else sample
    if parameter == "audience":
        arguments["check_audience"] = True
    # A call that can't be made would show nothing.
    inspect.signature(bound).bind(**arguments)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            try:
                made = bound(**arguments)
                if hasattr(made, "__enter__") and method in ("reveal", "acting_for"):
                    with made:
                        pass
            except (PipelitError, TypeError, ValueError) as error:
                said += [str(error), repr(error)]
                # An account may be named by a number, which attributes have as it was passed.
                said += [str(vars(error))] if has_secret_form(str(secret)) else []
    return "\n".join([*said, *(str(each.message) for each in caught)])


def forms_of(secret: str) -> set[str]:
    """A secret as it is written, and the beginning that a shortened text would have."""
    return {secret, repr(secret)[1:-1], secret[:13]} if len(secret) > 13 else {secret}


def trail(pipelit: Pipelit) -> str:
    """The whole audit, as text."""
    return "\n".join(map(str, pipelit.audit.list(limit=10_000)))


@pytest.mark.parametrize("case", CASES, ids=".".join)
def test_a_secret_as_a_name_is_not_repeated(
    pipelit: Pipelit,
    writer: Agent,
    editor: Agent,
    settings: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
    case: tuple[str, str, str],
) -> None:
    """No public method repeats it in an error, a warning, a log line, the audit or the database."""
    caplog.set_level(logging.DEBUG)
    only_certain = case[2] in LABELS or case in NEW
    for kind, secret in (CERTAIN if only_certain else SECRETS).items():
        said = call(pipelit, *case, secret) + caplog.text + trail(pipelit)
        assert not [each for each in forms_of(secret) if each in said], kind
    file = Path(settings["database_url"].removeprefix("sqlite:///"))
    content = b"".join(each.read_bytes() for each in file.parent.iterdir() if each.is_file())
    kept = [kind for kind, secret in CERTAIN.items() if secret.encode() in content]
    assert not kept


@pytest.mark.parametrize("kind", SECRETS)
def test_a_secret_as_the_name_of_a_credential_is_refused_when_it_is_declared(
    pipelit: Pipelit, kind: str
) -> None:
    """Decorators, the middleware and a remote child don't wait for the first call."""
    secret = SECRETS[kind]
    credentials = pipelit.credentials
    for declare in (
        lambda: credentials.inject(api_key=secret),
        lambda: credentials.tool(api_key=secret),
        lambda: CredentialMiddleware(credentials, model="openai:gpt-5", credential=secret),
        lambda: CredentialMiddleware(credentials, tools={"search": {"api_key": secret}}),
        lambda: remote_child("agent_child", url="https://child.example", credential=secret),
    ):
        if kind in CERTAIN or ":" in secret or " " in secret or kind == "hexadecimal digits":
            with pytest.raises(CredentialError, match="must be the name of a stored") as caught:
                declare()
            assert not [
                x for x in forms_of(secret) if x in str(caught.value) + str(vars(caught.value))
            ]
        elif kind not in ("a UUID",):
            # It may be a name; it is refused when it isn't found.
            declare()


@pytest.mark.parametrize("kind", SECRETS)
def test_what_a_node_raises_does_not_repeat_it(
    pipelit: Pipelit, writer: Agent, in_a_node: Callable[[Callable[[], Any]], Any], kind: str
) -> None:
    """LangGraph stores a node's error, and the audit has the refusal without the secret."""
    secret = SECRETS[kind]

    def reveal() -> None:
        with pipelit.credentials.reveal(secret, agent=writer):
            pass

    pipelit.credentials.put("service", "a value that is long enough", kind="k", created_by="alice")

    def reveal_a_field() -> None:
        with pipelit.credentials.reveal(f"service:{secret}"):
            pass

    for work in (reveal, reveal_a_field):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with pytest.raises(CredentialNotFound) as raised:
                in_a_node(work)
        said = f"{raised.value!r} {vars(raised.value)} {[str(x.message) for x in caught]}"
        said += trail(pipelit)
        assert not [each for each in forms_of(secret) if each in said]


@pytest.mark.parametrize("kind", SECRETS)
def test_a_secret_as_the_name_of_an_own_credential_is_not_recorded(
    pipelit: Pipelit, kind: str
) -> None:
    """Nobody is authenticated, so the refusal is recorded without a look for the credential."""
    with pytest.raises(NobodyAuthenticated):
        pipelit.credentials.open_in(Scope(), SECRETS[kind], per_person=True)
    assert not [each for each in forms_of(SECRETS[kind]) if each in trail(pipelit)]


@pytest.fixture
def in_a_node() -> Callable[[Callable[[], Any]], Any]:
    """Call a function where a node is running."""
    from langchain_core.runnables import RunnableLambda

    return lambda work: RunnableLambda(lambda _: work()).invoke(1)


@pytest.mark.parametrize("name", ORDINARY)
def test_an_ordinary_wrong_name_is_repeated(pipelit: Pipelit, writer: Agent, name: str) -> None:
    """Whoever made a typo reads it in the error, and the operator reads it in the audit."""
    assert not may_be_secret(name)
    with pytest.raises((UserNotFound, InvalidUsername)) as missing:
        pipelit.users.get(name)
    assert repr(name) in str(missing.value)
    assert missing.value.username == name
    with pytest.raises(CredentialNotFound) as unknown:
        pipelit.credentials.get(name)
    assert repr(name) in str(unknown.value)
    with pytest.raises(PipelitError):
        writer.verify_peer(name, "12345678")
    escaped = name.encode("ascii", "backslashreplace").decode()
    (entry,) = pipelit.audit.list(subject=escaped, actor="agent_writer")
    assert entry.outcome == "refused"


@pytest.mark.parametrize(
    "name", ["3f2b8c1e-9d47-4a6b-8e15-c0ffee123456", "20241129", "9f86d081884c7d65"]
)
def test_a_name_that_exists_is_recorded_whatever_its_form(
    pipelit: Pipelit, writer: Agent, name: str
) -> None:
    """Accounts may be named by number or UUID, and the audit says which one it was."""
    pipelit.users.create_agent(name, owner="alice", purpose="has an unusual name")
    with pytest.raises(PipelitError):
        writer.verify_peer(name, "12345678")
    with pytest.raises(MalformedCode):
        writer.verify_peer(name, "no code")
    pipelit.credentials.put(name, "a value that is long enough", kind="k", created_by=name)
    pipelit.credentials.note_refusal(name, writer, "value passed")
    found = [each.action for each in pipelit.audit.list(subject=name)]
    assert found[-4:] == ["verify.audience", "verify", "credential.put", "credential.reveal"]


def test_swapped_arguments_leave_no_code_behind(pipelit: Pipelit, writer: Agent) -> None:
    """A code in the place of the peer is still valid when the audit is read."""
    code = writer.totp_code(audience="agent_editor").code
    with pytest.raises(MalformedCode) as caught:
        writer.verify_peer(code, "agent_editor")
    assert code not in f"{caught.value!r} {vars(caught.value)} {trail(pipelit)}"
    assert pipelit.audit.list()[-1].subject == WITHHELD
    with pytest.raises(MalformedCode) as caught:
        pipelit.mfa.verify("493017", "alice")
    assert "493017" not in f"{caught.value!r} {vars(caught.value)} {trail(pipelit)}"


def test_a_malformed_name_leaves_no_password_behind(pipelit: Pipelit, writer: Agent) -> None:
    """What can't be a name at all is recorded as a refusal without it."""
    address = POSSIBLE["an address with a password"]
    for work in (
        lambda: pipelit.provision_agent(writer, purpose="x", username=address),
        lambda: writer.verify_peer(address, "12345678"),
    ):
        with pytest.raises(PipelitError) as caught:
            work()
        assert "hunter" not in f"{caught.value!r} {vars(caught.value)} {trail(pipelit)}"
        assert pipelit.audit.list()[-1].subject == WITHHELD


class Refusing:
    """A ledger of the user's own, which refuses everything in words of its own."""

    decided: Decision

    def __init__(self, context: LedgerContext) -> None:
        self.database = context.database

    def decide(self, attempt: Attempt) -> Decision:
        assert not has_secret_form(attempt.peer)
        assert not has_secret_form(attempt.verifier)
        with self.database.deciding() as connection:
            return record_decision(connection, attempt, self.decided, "its own words")

    def check(self) -> str:
        return "nowhere"

    def close(self) -> None:
        pass


@pytest.mark.slow
@pytest.mark.parametrize("verdict", ["", "rejected", "limited", "locked"])
def test_no_ledger_counts_or_records_a_secret(
    pipelit: Pipelit, settings: dict[str, Any], writer: Agent, verdict: Any
) -> None:
    """Whatever is decided, and in which ledger: a peer's name, a person's, or the handle's own."""
    Refusing.decided = Decision(verdict, 1.8e9, 0, 5.0)
    made = Pipelit(**settings | ({"ledger": Refusing, "redis_url": None} if verdict else {}))
    names = [secret for secret in SECRETS.values() if is_username(secret)]
    assert set(CERTAIN.values()) & set(names)
    with made as other:
        for secret in names:
            for _ in range(1 if verdict else 8):
                with pytest.raises(VerificationError):
                    other.agent(writer.username).verify_peer(secret, "00000000")
                with pytest.raises(VerificationError):
                    other.agent(secret).verify_peer("agent_nobody", "00000000")
                with pytest.raises(VerificationError):
                    other.mfa.verify(secret, "000000")
        assert {each.outcome for each in other.audit.list(actor=WITHHELD)} == {"refused"}
        assert not [each for each in names if each in trail(other)]
    file = Path(settings["database_url"].removeprefix("sqlite:///"))
    content = b"".join(each.read_bytes() for each in file.parent.iterdir() if each.is_file())
    assert not [each for each in CERTAIN.values() if each.encode() in content]


@pytest.mark.parametrize(
    "public",
    [
        {"api_key": "some words"},
        {"settings": {"password": "hunter2hunter2"}},
        {"hosts": ["db.example", "sk-proj-AbC123xyz789LMNop456"]},
        {"base_url": "ghp_0a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6q7r"},
        {"sk-proj-AbC123xyz789LMNop456": True},
    ],
)
def test_a_secret_in_public_is_refused(pipelit: Pipelit, public: dict[str, Any]) -> None:
    """By its name or by its form; public fields are stored and listed in clear."""
    with pytest.raises(CredentialError, match="public has a secret in the field") as caught:
        pipelit.credentials.put("service", "a value", kind="k", created_by="alice", public=public)
    assert "AbC123" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "public",
    [
        {"base_url": "https://api.example/v1", "model": "gpt-4o-2024-08-06"},
        {"auth_method": "password", "token_url": "https://login.example", "key_id": "AKIA123456"},
        {"password": "env:DB_PASSWORD", "api_key": ""},
        {"project": "3f2b8c1e-9d47-4a6b-8e15-c0ffee123456", "max_tokens": 4096, "key": None},
        {"commit": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b"},
    ],
)
def test_ordinary_public_fields_are_stored(pipelit: Pipelit, public: dict[str, Any]) -> None:
    """Addresses, models, identifiers and the names of secrets are none."""
    made = pipelit.credentials.put("service", "a value", kind="k", created_by="a", public=public)
    assert made.public == public


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_names_have_no_secret_form(name: str) -> None:
    """Neither the names above nor many of letters and digits are refused for a new account."""
    assert not has_secret_form(name)
    assert quoted(name) == repr(name)
    assert recordable(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "productionagent2",
        "helloworldagents",
        "aaaabbbbccccdddd",
        "sk-openai-prod",
        "key-management",
    ],
)
def test_words_that_resemble_a_code_may_be_names(pipelit: Pipelit, name: str) -> None:
    """Sixteen letters may be a recovery code, but they are a name as well."""
    assert pipelit.users.create(name).username == name


class Lying(str):
    """Text that answers otherwise when it is asked again."""

    def __str__(self) -> str:
        return "agent_leed"

    def __repr__(self) -> str:
        return "agent_leed"


def test_a_subclass_of_text_does_not_run_its_own_code() -> None:
    """What is judged is what is displayed."""
    secret = CERTAIN["a provider's key"]
    assert secret not in quoted(Lying(secret))
    assert recordable(Lying(secret)) == WITHHELD
    assert quoted(Lying("opnai")) == "'opnai'"
    assert recordable(7) == quoted(7) == "<int>"
