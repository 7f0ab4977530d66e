"""What a developer does wrong by hand: told what it was, in which argument, and the fix."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from spawning import graph_of

from pipelit_agents import Agent, Keyring, Pipelit, VerificationPolicy
from pipelit_agents.errors import ApiKeyNotFound, CredentialError
from pipelit_agents.graphs import approve_with_totp, spawn_and_await, verified_child
from pipelit_agents.middleware import CredentialMiddleware
from pipelit_agents.tools import SpawnAndAwait

BACKENDS = False
EXACT = b"c" * 32


class World:
    """A Pipelit with what the mistakes are made with."""

    def __init__(self, pipelit: Pipelit) -> None:
        self.pipelit = pipelit
        self.users, self.credentials = pipelit.users, pipelit.credentials
        self.users.create_agent("agent_child", owner="alice", purpose="works")
        self.agent, self.other = pipelit.agent("agent_writer"), pipelit.agent("agent_child")
        self.child = verified_child(graph_of(), self.other)

    def put(self, **changed: Any) -> Any:
        """Puts a credential, with something changed."""
        given = {"value": "secret-secret", "kind": "llm", "created_by": "alice"} | changed
        return self.credentials.put("x", **given)

    def spawn(self, **changed: Any) -> Any:
        """Makes a spawn node, with something changed."""
        given = {"children": {"agent_child": self.child}} | changed
        return spawn_and_await(given.pop("lead", self.agent), **given)

    def run(self, tasks: Any) -> Any:
        """Runs a spawn node on something that is no list of tasks."""
        return self.spawn().invoke({"tasks": tasks})


Mistake = Callable[[World], Any]
MISTAKES: dict[str, tuple[Mistake, str]] = {
    "no name": (
        lambda w: w.users.create(None),
        "username must be a username, as text, not None",
    ),
    "a name's form": (lambda w: w.users.create("Alice"), "lower-case letters a-z"),
    "a name twice": (lambda w: w.users.create("alice"), "choose another name"),
    "an unknown owner": (
        lambda w: w.users.create_agent("agent_x", owner="nobody", purpose="x"),
        "create a person with users.create",
    ),
    "no purpose": (
        lambda w: w.users.create_agent("agent_x", owner="alice", purpose=None),
        "purpose must be text, not NoneType",
    ),
    "a person for an agent": (lambda w: w.users.rotate_totp("alice"), "agents list"),
    "seconds for a timedelta": (
        lambda w: w.users.rotate_totp("agent_writer", overlap=5),
        r"timedelta\(minutes=5\)",
    ),
    "a negative overlap": (
        lambda w: w.users.rotate_totp("agent_writer", overlap=timedelta(-1)),
        "ends the old secret now",
    ),
    "a date as text": (
        lambda w: w.users.issue_api_key("alice", name="k", expires_at="2030"),
        "expires_at must be a datetime",
    ),
    "a date that is past": (
        lambda w: w.users.issue_api_key(
            "alice", name="k", expires_at=datetime(2020, 1, 1, tzinfo=UTC)
        ),
        "pass a later time",
    ),
    "a key without a name": (
        lambda w: w.users.issue_api_key("alice", name=None),
        "name must be text",
    ),
    "a key's secret for its id": (
        lambda w: w.users.revoke_api_key(
            w.users.issue_api_key("alice", name="k").api_key.get_secret_value()
        ),
        "pass the 12 characters between the underscores",
    ),
    "a SecretStr for a token": (
        lambda w: w.users.authenticate(w.users.issue_api_key("alice", name="k").api_key),
        r"api_key\.get_secret_value\(\)",
    ),
    "a TotpCode for its code": (
        lambda w: w.other.verify_peer("agent_writer", w.agent.totp_code(audience="agent_child")),
        r"not TotpCode: pass its \.code",
    ),
    "a creator by name": (
        lambda w: w.pipelit.provision_agent("agent_writer", purpose="x"),
        "creator must be a handle",
    ),
    "a handle for a username": (
        lambda w: w.agent.verify_peer(w.agent, "12345678"),
        r"username must be a username, as text, not Agent: pass its \.username",
    ),
    "a handle for a list of approvers": (
        lambda w: w.pipelit.mfa.require_approved("0" * 64, approvers=w.agent),
        "approvers must be a list of usernames.*not Agent",
    ),
    "hours for a datetime": (
        lambda w: w.pipelit.audit.list(since="2h"),
        r"since must be a datetime",
    ),
    "one approver for a list": (
        lambda w: w.pipelit.mfa.require_approved("0" * 64, approvers="alice"),
        "approvers must be a list of usernames",
    ),
    "a key that isn't set": (
        lambda w: Pipelit(database_url="sqlite:///x.db", encryption_keys=[None]),
        "its item 1 is NoneType",
    ),
    "two slashes": (
        lambda w: Pipelit(
            database_url="sqlite://agents.db", encryption_keys=[Keyring.generate_key()]
        ).users.list(),
        "three slashes, sqlite:///agents.db",
    ),
    "a Pipelit for its credentials": (
        lambda w: CredentialMiddleware(w.pipelit, model="openai:x", credential="x"),
        r"credentials must be pipelit\.credentials",
    ),
    "an agent for nothing": (
        lambda w: w.users.create_agent("agent_x", owner="alice", purpose=" "),
        "purpose must say what the agent is for",
    ),
    "an agent for nothing any more": (
        lambda w: w.users.change_agent("agent_child", purpose=""),
        "purpose must say what the agent is for",
    ),
    "a handle for an allow list": (
        lambda w: w.put(allow=w.agent),
        r'allow must be a list of usernames: \["NAME"\], not Agent',
    ),
    "handles in an allow list": (
        lambda w: w.put(allow=[w.agent]),
        r"allow must be a username, as text, not Agent: pass its \.username",
    ),
    "tools without parameters": (
        lambda w: CredentialMiddleware(w.credentials, tools={"search": "serper"}),
        "tools has to map parameters to credentials",
    ),
    "another form of a credential's name": (
        lambda w: w.credentials.get("OpenAI"),
        "is not the name of a credential",
    ),
    "a field for a credential": (
        lambda w: w.credentials.get("x:user"),
        "open its fields with inject or reveal",
    ),
    "a challenge cut short": (
        lambda w: w.agent.prove(b"x", b"y", verifier="agent_child"),
        "challenge must be the verifier's 32 bytes",
    ),
    "text for bytes": (
        lambda w: w.agent.prove(EXACT, "y", verifier="agent_child"),
        "payload must be the exact bytes, not str",
    ),
    "no proof": (
        lambda w: w.agent.verify_proof(
            None, challenge=w.agent.challenge("agent_child"), payload=b""
        ),
        "the Challenge that this agent made and kept",
    ),
    "a challenge's value": (
        lambda w: w.other.verify_proof(
            w.agent.prove(EXACT, b"", verifier="agent_child"), challenge=EXACT, payload=b""
        ),
        "the Challenge that this agent made and kept",
    ),
    "a credential of nobody": (
        lambda w: w.put(created_by=None),
        "created_by must be the name of",
    ),
    "a credential of no kind": (lambda w: w.put(kind=None), "kind must be 1 to 64"),
    "one name for a list": (lambda w: w.put(allow="alice"), "allow must be a list of usernames"),
    "a list of public fields": (lambda w: w.put(public=["a"]), "public must be a mapping"),
    "inject for a name": (
        lambda w: w.credentials.inject("agent_writer", key="x"),
        r'pipelit\.agent\("agent_lead"\)',
    ),
    "inject a number": (
        lambda w: w.credentials.inject(key=5),
        "key must be the name of a credential",
    ),
    "inject without a parameter": (
        lambda w: w.credentials.inject(key="x")(lambda state: state),
        r"\(state, \*, key\)",
    ),
    "a list of children": (lambda w: w.spawn(children=[w.child]), "children must be a dict"),
    "a lead by name": (lambda w: w.spawn(lead="agent_writer"), "lead must be a handle"),
    "a lead as its child": (
        lambda w: w.spawn(children={"agent_writer": verified_child(graph_of(), w.agent)}),
        "create another agent for the child",
    ),
    "a timeout as text": (lambda w: w.spawn(timeout="5"), "timeout must be a number or None"),
    "no bytes for an answer": (lambda w: w.spawn(max_answer_bytes=0), "max_answer_bytes"),
    "a proof of nobody": (
        lambda w: w.spawn(proof={"agent_x": "bound"}),
        "the children are agent_child",
    ),
    "a task for a list": (
        lambda w: w.run({"agent": "agent_child", "input": {}}),
        "tasks must be a list",
    ),
    "text for tasks": (lambda w: w.run("agent_child"), "tasks must be a list"),
    "an object in a task": (
        lambda w: w.run([{"agent": "agent_child", "input": {"q": object()}}]),
        r"tasks\[0\]\.input: q: a value of type object can't be carried",
    ),
    "an unknown child": (
        lambda w: w.run([{"agent": "agent_x", "input": {}}]),
        "the children are agent_child",
    ),
    "a tool of nobody": (
        lambda w: SpawnAndAwait(agent="agent_writer", children={}),  # type: ignore[arg-type]
        "^agent must be a handle",
    ),
    "an agent for a Pipelit": (
        lambda w: approve_with_totp(w.agent, approvers=["alice"], reason="x"),  # type: ignore[arg-type]
        "pipelit must be the Pipelit",
    ),
    "a class for a checkpointer": (
        lambda w: w.pipelit.sealed_saver(InMemorySaver),  # type: ignore[arg-type]
        "saver must be a checkpointer",
    ),
    "a negative limit": (lambda w: w.pipelit.audit.list(limit=-1), "limit must be at least 1"),
    "a limit as text": (
        lambda w: VerificationPolicy(lock_after="ten"),  # type: ignore[arg-type]
        "lock_after must be a whole number, not str",
    ),
    "a folder that can't be": (
        lambda w: Pipelit(
            database_url="sqlite:////proc/x/a.db", encryption_keys=[Keyring.generate_key()]
        ).create_schema(),
        "PIPELIT_DATABASE_URL",
    ),
}


@pytest.fixture
def world(pipelit: Pipelit, writer: Agent) -> World:
    """The Pipelit that the mistakes are made with."""
    return World(pipelit)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_with_its_mend(world: World, mistake: str) -> None:
    """The message says which argument, and what to give in its place."""
    make, words = MISTAKES[mistake]
    with pytest.raises(Exception, match=words) as caught:
        make(world)
    # One of ours, or Python's for an argument: nothing from below.
    assert isinstance(caught.value, TypeError | ValueError) or type(
        caught.value
    ).__module__.startswith("pipelit_agents")


def test_a_key_given_for_its_id_is_not_repeated(world: World) -> None:
    """Not a piece of its secret stands in the message."""
    key = world.users.issue_api_key("alice", name="k").api_key.get_secret_value()
    with pytest.raises(ApiKeyNotFound) as caught:
        world.users.revoke_api_key(key)
    assert key[18:24] not in str(caught.value)


def test_an_agent_of_another_database_opens_nothing(world: World, tmp_path: Path) -> None:
    """A handle of the same name elsewhere isn't the account that a credential is kept for."""
    world.put(allow=["agent_writer"])
    with Pipelit(
        database_url=f"sqlite:///{tmp_path}/other.db", encryption_keys=[Keyring.generate_key()]
    ) as other:
        other.create_schema()
        other.users.create("mallory")
        other.users.create_agent("agent_writer", owner="mallory", purpose="x")
        node = world.credentials.inject(other.agent("agent_writer"), key="x")(_returns_nothing)
        with pytest.raises(CredentialError, match="belongs to another Pipelit"):
            graph_of(node).invoke({"q": "x"})


def _returns_nothing(state: Any, *, key: Any) -> dict[str, Any]:
    return {}


def test_a_list_of_names_is_kept_as_it_is(world: World) -> None:
    """What the mistake looks like when it is right."""
    assert world.put(allow=["agent_writer"]).allow == ("agent_writer",)
