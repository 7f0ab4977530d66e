"""An argument of another type is refused where it is passed, by an error that names it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from pipelit_agents import Keyring, Pipelit
from pipelit_agents.approvals import approval_digest
from pipelit_agents.errors import ConfigurationError, PayloadError, UnsealError

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
