"""Operations that check and then act, with another process's operation between the two."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import Clock
from interleaved import interleaved

from pipelit_agents import Agent, Pipelit
from pipelit_agents.errors import AuthenticationError, CredentialExists

BACKENDS = ("postgres",)
SECRET = base64.b32encode(b"0123456789abcdef0123").decode()


@pytest.fixture
def second(pipelit: Pipelit, settings: dict[str, Any], clock: Clock) -> Iterator[Pipelit]:
    """Another process's Pipelit on the same database."""
    with Pipelit(**settings, clock=clock) as made:
        yield made


def enrol(pipelit: Pipelit, name: str) -> None:
    """Enrol a peer; all of them have the same secret."""
    uri = f"otpauth://totp/{name}?secret={SECRET}"
    pipelit.users.enroll_peer(uri, name=name, domain="there")


def test_two_peers_with_one_secret(
    pipelit: Pipelit, second: Pipelit, database_url: str, writer: Agent
) -> None:
    """They are enrolled at once, under two names: one of them is refused."""
    one, other = interleaved(
        database_url,
        pipelit,
        "INSERT INTO pipelit_users",
        lambda: enrol(pipelit, "agent_one"),
        lambda: enrol(second, "agent_two"),
    )
    assert one is None
    assert isinstance(other, ValueError)
    assert [each.username for each in pipelit.users.list() if each.kind == "peer"] == ["agent_one"]


def test_a_credential_that_is_stored_while_an_agent_is_made(
    pipelit: Pipelit, second: Pipelit, database_url: str, writer: Agent
) -> None:
    """The new agent's key doesn't replace it: no agent is made, and that is on record."""
    name = "agent-key.agent_helper"
    refused, stored = interleaved(
        database_url,
        pipelit,
        "INSERT INTO pipelit_users",
        lambda: pipelit.provision_agent(writer, purpose="helps", username="agent_helper"),
        lambda: second.credentials.put(name, "precious-1234", kind="llm", created_by="alice"),
    )
    assert isinstance(refused, CredentialExists)
    assert pipelit.credentials.get(name) == stored
    assert "agent_helper" not in [each.username for each in pipelit.users.list()]
    (entry,) = pipelit.audit.list(action="agent.create", outcome="refused")
    assert entry.reason == "credential is there"


def test_a_key_of_a_peer_that_is_enrolled_again(
    pipelit: Pipelit, second: Pipelit, database_url: str
) -> None:
    """It was issued before that, and ends with the others."""
    enrol(pipelit, "agent_one")

    def again() -> None:
        second.users.deactivate("agent_one")
        enrol(second, "agent_one")

    issued, _ = interleaved(
        database_url,
        pipelit,
        "INSERT INTO pipelit_api_keys",
        lambda: pipelit.users.issue_api_key("agent_one", name="a key"),
        again,
    )
    with pytest.raises(AuthenticationError):
        pipelit.users.authenticate(issued.api_key.get_secret_value())
