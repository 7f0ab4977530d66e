"""An argument of another type is refused where it is passed, by an error that names it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from pipelit_agents import Agent, Approvers, Keyring, Pipelit
from pipelit_agents.approvals import approval_digest
from pipelit_agents.errors import (
    ConfigurationError,
    InvalidUsername,
    PayloadError,
    UnsealError,
)
from pipelit_agents.server import make_auth

# Each test process has to give the same names to the cases.
KEY = "8Yv0rJmS2bXq7Wc1tNfKd5Zg9LhPz3EuAoVi6TsBwMk="


@pytest.mark.parametrize(
    ("argument", "value", "expected"),
    [
        ("database_url", Path("agents.db"), "must be text.*not PosixPath"),
        ("database_url", None, "must be text.*not NoneType"),
        ("redis_url", 5, "must be text.*not int"),
        ("redis_url", SecretStr("redis://u:hunter2@h/0"), "must be text.*not SecretStr"),
        ("policy", "strict", "must be a VerificationPolicy, not str"),
        ("policy", {"tries": 3}, "must be a VerificationPolicy, not dict"),
        ("clock", 5, "must be a function that returns Unix seconds, not int"),
        ("pool_size", "5", "must be a whole number"),
        ("ledger", "redis", "must be a function"),
        ("encryption_keys", None, "is a list of keys"),
        ("encryption_keys", 5, "is a list of keys"),
        ("encryption_keys", KEY.encode(), r"is bytes: .*\[key.decode\(\)\]"),
        ("encryption_keys", [b"a key"], "its item 1 is bytes"),
    ],
)
def test_the_facade_names_the_argument(argument: str, value: Any, expected: str) -> None:
    """It isn't accepted until it fails somewhere else, in words of Python's."""
    settings: dict[str, Any] = {
        "database_url": "sqlite:///agents.db",
        "encryption_keys": [Keyring.generate_key()],
    }
    with pytest.raises(ConfigurationError, match=f"^{argument}.*{expected}") as caught:
        Pipelit(**{**settings, argument: value})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("key", [[KEY], KEY.encode(), None], ids=["list", "bytes", "None"])
def test_a_keyring_takes_each_key_as_an_argument(key: Any) -> None:
    """A list, or what Fernet.generate_key() returns, is told apart from a key that is wrong."""
    with pytest.raises(ConfigurationError, match=r"key 1 is .*, not text: pass each key as an arg"):
        Keyring(key)


def test_nobody_is_asked_to_approve_nothing(pipelit: Pipelit) -> None:
    """None is what a function returns that forgot its return."""
    pipelit.mfa.enroll("alice")
    for ask in (
        lambda: pipelit.approvals.request(None, approvers=["alice"]),
        lambda: approval_digest(None),
    ):
        with pytest.raises(PayloadError, match="there is nothing to approve"):
            ask()
    assert approval_digest({"pay": None})


def test_a_tool_without_a_docstring_is_named(pipelit: Pipelit) -> None:
    """LangChain's own error doesn't say which of many functions it is."""

    def search(query: str, *, api_key: SecretStr) -> str:
        return query

    with pytest.raises(ValueError, match=r"search\(\) has no docstring: add one"):
        pipelit.credentials.tool(api_key="serper")(search)


def test_what_can_not_be_decrypted_is_named(
    pipelit: Pipelit, settings: dict[str, Any], writer: Any, editor: Any
) -> None:
    """The error says of which credential or agent, and where to look; not why."""
    pipelit.credentials.put("openai", "a value of some length", kind="llm", created_by="alice")
    other = Pipelit(**{**settings, "encryption_keys": [Keyring.generate_key()]})
    lookups = {
        "credential 'openai'": lambda: other.credentials.get("openai"),
        "the TOTP secret of 'agent_writer'": lambda: other.agent("agent_writer").totp_code(),
        "the TOTP secret of 'agent_editor'": lambda: other.agent("agent_writer").verify_peer(
            "agent_editor", "12345678"
        ),
    }
    with other:
        for what, work in lookups.items():
            with pytest.raises(UnsealError, match=f"^{what} can't be decrypted") as caught:
                work()
            assert "Is one set" in str(caught.value) or "is one set" in str(caught.value)
            assert "pipelit-agents check" in str(caught.value)


FLAGS: dict[str, Callable[[Pipelit, Any], object]] = {
    "may_create_agents": lambda p, flag: p.users.create_agent(
        "agent_new", owner="alice", purpose="p", may_create_agents=flag
    ),
    "may_create_agents of an agent": lambda p, flag: p.users.change_agent(
        "agent_writer", may_create_agents=flag
    ),
    "check_audience": lambda p, flag: p.agent("agent_writer").totp_code(
        audience="agent_nobody", check_audience=flag
    ),
    "unproven": lambda p, flag: p.approvals.deny("apr_" + "0" * 32, "alice", unproven=flag),
    "not_requester": lambda _, flag: Approvers(["alice"], not_requester=flag),
    "with_arguments": lambda p, flag: p.approvals.register.export(print, with_arguments=flag),
    "owner_filter": lambda p, flag: make_auth(p, owner_filter=flag),
    "dry_run": lambda p, flag: p.apply("accounts.yaml", dry_run=flag),
}


@pytest.mark.parametrize("flag", ["no", 1, 0, ""], ids=repr)
@pytest.mark.parametrize("name", FLAGS)
def test_a_flag_that_protects_is_true_or_false(
    pipelit: Pipelit, writer: Agent, name: str, flag: Any
) -> None:
    """What only looks like True or False doesn't switch a check off, or publish a value."""
    argument = name.partition(" ")[0]
    with pytest.raises(TypeError, match=f"^{argument} must be True or False, not "):
        FLAGS[name](pipelit, flag)


TEXTS: dict[str, Callable[[Pipelit, Any], object]] = {
    "subject": lambda p, it: p.audit.list(subject=it),
    "actor": lambda p, it: p.audit.page(actor=it),
    "action": lambda p, it: p.audit.list(action=it),
    "person": lambda p, it: p.audit.page(person=it),
    "owner": lambda p, it: p.users.list(owner=it),
    "uri": lambda p, it: p.users.enroll_peer(it, name="agent_peer", domain="other"),
    "heads": lambda p, it: p.audit.verify(it),
}


@pytest.mark.parametrize("value", [5, b"alice", ["alice"], object()], ids=lambda it: str(type(it)))
@pytest.mark.parametrize("argument", TEXTS)
def test_a_text_is_text(pipelit: Pipelit, argument: str, value: Any) -> None:
    """Another value would match nothing, as if there were nothing, or fail in the database."""
    with pytest.raises((TypeError, InvalidUsername), match=f"^{argument} must be "):
        TEXTS[argument](pipelit, value)


@pytest.mark.parametrize("heads", ["", b"", "{}", [""], None], ids=repr)
def test_a_line_is_no_head(pipelit: Pipelit, heads: Any) -> None:
    """An empty file isn't taken for a trail of which nobody kept a head."""
    with pytest.raises(TypeError, match="heads must be AuditHead or a list of them"):
        pipelit.audit.verify(heads)
    pipelit.audit.seal()
    assert pipelit.audit.verify(iter([pipelit.audit.head()])).problems == ()  # type: ignore[arg-type]
