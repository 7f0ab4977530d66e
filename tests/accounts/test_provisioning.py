"""Agents that make agents: one account each, its key for its creator alone, all of it on record."""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from conftest import Clock
from internals import WITHHELD, database_of
from langgraph.graph import END, START, StateGraph

from pipelit_agents import Agent, Keyring, Pipelit, ProvisionedAgent, VerificationPolicy
from pipelit_agents.errors import (
    AccountError,
    ConfigurationError,
    CredentialError,
    CredentialNotAllowed,
    InvalidUsername,
    NotLocalAgent,
    NotPermitted,
    QuotaExceeded,
    StorageError,
    UnsealError,
    UserExists,
    UserInactive,
    UserNotFound,
)

# Where attempts are counted makes no difference here.
BACKENDS = ("sqlite", "postgres")

# What these tests look at is the plaintext itself.
pytestmark = pytest.mark.filterwarnings("ignore::pipelit_agents.errors.UnguardedRevealWarning")


def in_a_node(work: Callable[[], Any]) -> Any:
    """Does it inside a running node, where secrets may be read."""
    seen: list[Any] = []

    def node(_state: dict[str, Any]) -> dict[str, Any]:
        seen.append(work())
        return {}

    builder = StateGraph(dict)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    builder.add_edge("node", END)
    builder.compile().invoke({"x": 1})
    return seen[0]


def opened(pipelit: Pipelit, credential: str, agent: Agent | None) -> str:
    """The plaintext of a credential, as its opener sees it."""

    def look() -> str:
        with pipelit.credentials.reveal(credential, agent=agent) as secret:
            return str(secret.get_secret_value())

    return str(in_a_node(look))


def trail(pipelit: Pipelit, subject: str) -> list[tuple[str, str, str, str]]:
    """What is on record about an account or credential."""
    return [
        (entry.actor, entry.action, entry.outcome, entry.reason)
        for entry in pipelit.audit.list(subject=subject)
    ]


def rows(pipelit: Pipelit) -> tuple[int, int, int]:
    """How many accounts, API keys and credentials there are."""
    with database_of(pipelit).reading() as connection:
        return tuple(  # type: ignore[return-value]
            connection.exec_driver_sql(f"SELECT COUNT(*) FROM {table}").scalar_one()  # noqa: S608
            for table in ("pipelit_users", "pipelit_api_keys", "pipelit_credentials")
        )


def test_the_made_agent_belongs_to_its_creator(pipelit: Pipelit, writer: Agent) -> None:
    """Its owner is the creating agent, its root owner that one's, and it may not make agents."""
    made = pipelit.provision_agent(writer, purpose="helps", username="agent_helper")
    user = pipelit.users.get("agent_helper")
    assert made.created
    assert (user.kind, user.owner, user.root_owner) == ("agent", "agent_writer", "alice")
    assert (user.purpose, user.created_by, user.may_create_agents) == (
        "helps",
        "agent_writer",
        False,
    )


def test_the_key_opens_for_its_creator_and_authenticates(pipelit: Pipelit, writer: Agent) -> None:
    """The credential holds the new agent's working API key, with the last four that were told."""
    made = pipelit.provision_agent(writer, purpose="helps", username="agent_helper")
    key = opened(pipelit, made.credential, writer)
    assert made.credential == "agent-key.agent_helper"
    assert made.last_four == key[-4:]
    assert pipelit.users.authenticate(key).username == "agent_helper"
    assert pipelit.credentials.get(made.credential).kind == "agent-key"


def test_the_key_opens_for_nobody_else(pipelit: Pipelit, writer: Agent, editor: Agent) -> None:
    """Neither another agent, nor the made agent, nor code without an agent can open it."""
    made = pipelit.provision_agent(writer, purpose="helps", username="agent_helper")
    for other in (editor, pipelit.agent("agent_helper"), None):
        with pytest.raises(CredentialNotAllowed):
            opened(pipelit, made.credential, other)


def test_the_result_does_not_hold_the_key(pipelit: Pipelit, writer: Agent) -> None:
    """What is returned shows four characters of the key's 43."""
    made = pipelit.provision_agent(writer, purpose="helps")
    key = opened(pipelit, made.credential, writer)
    secret = key.split("_", 2)[2]
    assert not [n for n in range(len(secret) - 5) if secret[n : n + 5] in repr(made)]


def test_the_same_call_finds_the_same_agent(pipelit: Pipelit, writer: Agent) -> None:
    """A repeated call makes nothing, tells the same, and leaves key and purpose as they were."""
    first = pipelit.provision_agent(writer, purpose="helps", username="agent_helper")
    key = opened(pipelit, first.credential, writer)
    again = pipelit.provision_agent(writer, purpose="other", username="agent_helper")
    assert again == ProvisionedAgent(
        first.username, first.credential, first.last_four, created=False
    )
    assert opened(pipelit, again.credential, writer) == key
    assert pipelit.users.get("agent_helper").purpose == "helps"
    assert trail(pipelit, "agent_helper")[-1] == ("agent_writer", "agent.create", "ok", "was there")


def test_sixteen_callers_make_one_agent(pipelit: Pipelit, writer: Agent) -> None:
    """Of sixteen threads with one name, one creates, and all are told of the same key."""
    before = rows(pipelit)
    together = threading.Barrier(16, timeout=60)

    def call(_: int) -> ProvisionedAgent:
        together.wait()
        return pipelit.provision_agent(writer, purpose="helps", username="agent_helper")

    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(call, range(16)))
    assert sum(each.created for each in made) == 1
    assert len({(each.username, each.credential, each.last_four) for each in made}) == 1
    assert rows(pipelit) == (before[0] + 1, before[1] + 1, before[2] + 1)


def test_sixteen_creators_of_one_name(pipelit: Pipelit) -> None:
    """Of sixteen agents that want one name, one gets it and all others are told it is taken."""
    agents = [pipelit.agent(f"agent_{number}") for number in range(16)]
    for agent in agents:
        pipelit.users.create_agent(agent.username, owner="alice", purpose="competes")
    together = threading.Barrier(16, timeout=60)

    def call(agent: Agent) -> str:
        together.wait()
        try:
            made = pipelit.provision_agent(agent, purpose="helps", username="agent_helper")
        except UserExists as error:
            return str(error)
        return f"created {made.created}"

    with ThreadPoolExecutor(16) as pool:
        said = list(pool.map(call, agents))
    assert (
        sorted(said)
        == ["created True"]
        + ["there is an account 'agent_helper' already: choose another name"] * 15
    )


@pytest.mark.slow
def test_racing_callers_stay_within_the_quota(database_url: str, key: str, clock: Clock) -> None:
    """Sixteen threads with names of their own make exactly as many agents as are allowed."""
    policy = VerificationPolicy(agents_per_owner=6)
    with Pipelit(
        database_url=database_url, encryption_keys=[key], clock=clock, policy=policy
    ) as pipelit:
        pipelit.create_schema()
        pipelit.users.create("alice")
        pipelit.users.create_agent("agent_writer", owner="alice", purpose="writes")
        writer = pipelit.agent("agent_writer")
        together = threading.Barrier(16, timeout=60)

        def call(number: int) -> bool:
            together.wait()
            try:
                pipelit.provision_agent(writer, purpose="helps", username=f"agent_{number}")
            except QuotaExceeded:
                return False
            return True

        with ThreadPoolExecutor(16) as pool:
            assert sum(pool.map(call, range(16))) == 5
        assert len([user for user in pipelit.users.list() if user.kind == "agent"]) == 6


@pytest.mark.slow
def test_a_taken_name_is_refused_in_the_same_words(pipelit: Pipelit, writer: Agent) -> None:
    """A person, others' agents, one's own deactivated or operator-made agent: one answer to all.

    The audit knows which it was.
    """
    pipelit.users.create("person")
    pipelit.users.create_agent("foreign", owner="alice", purpose="x")
    pipelit.users.create_agent("operators", owner="agent_writer", purpose="x")
    pipelit.provision_agent(writer, purpose="x", username="gone")
    pipelit.users.deactivate("gone")
    reasons = {
        "person": "taken by a person",
        "foreign": "taken by another owner's agent",
        "operators": "taken by an agent without a sealed key",
        "gone": "taken by a deactivated agent",
    }
    for name, reason in reasons.items():
        with pytest.raises(UserExists) as caught:
            pipelit.provision_agent(writer, purpose="x", username=name)
        assert str(caught.value) == f"there is an account {name!r} already: choose another name"
        assert trail(pipelit, name)[-1] == ("agent_writer", "agent.create", "refused", reason)


def test_a_name_is_made_from_the_purpose(pipelit: Pipelit, writer: Agent) -> None:
    """Without a username each call makes another agent, named after what it is for."""
    first = pipelit.provision_agent(writer, purpose="Checks Résumés, daily!")
    second = pipelit.provision_agent(writer, purpose="Checks Résumés, daily!")
    assert first.created
    assert second.created
    assert first.username != second.username
    assert re.fullmatch(r"agent_checks_resumes_daily_[0-9a-f]{8}", first.username)


@pytest.mark.parametrize("purpose", ["!", "書く", "x" * 5000, "../../etc/passwd", "A\0\n"])
def test_any_purpose_makes_a_name(pipelit: Pipelit, writer: Agent, purpose: str) -> None:
    """Whatever a model says of the purpose, the name made from it is a short username."""
    made = pipelit.provision_agent(writer, purpose=purpose)
    assert re.fullmatch(r"agent_([a-z0-9_]{1,40}_)?[0-9a-f]{8}", made.username)


def test_the_longest_name(pipelit: Pipelit, writer: Agent) -> None:
    """139 characters leave room for the credential's name; one more is an error that says so."""
    made = pipelit.provision_agent(writer, purpose="x", username="a" * 139)
    assert len(made.credential) == 149
    with pytest.raises(InvalidUsername, match="too long: 139 characters at most"):
        pipelit.provision_agent(writer, purpose="x", username="a" * 140)


@pytest.mark.parametrize("name", ["", "Agent_A", "agent a", "agent_a ", "../a", "a" * 150, None, 7])
def test_a_malformed_name_is_refused(pipelit: Pipelit, writer: Agent, name: Any) -> None:
    """A name in another form makes nothing; None alone asks for one to be made."""
    before = rows(pipelit)
    if name is None:
        assert pipelit.provision_agent(writer, purpose="x", username=name).created
        return
    with pytest.raises(InvalidUsername):
        pipelit.provision_agent(writer, purpose="x", username=name)
    assert rows(pipelit) == before
    recorded = "<int>" if name == 7 else WITHHELD if len(name) == 150 else name
    assert trail(pipelit, recorded)[-1][2:] == ("refused", "malformed name")


def test_a_deactivated_creator_is_refused(pipelit: Pipelit, writer: Agent) -> None:
    """It neither makes an agent nor finds the one that it had made."""
    pipelit.provision_agent(writer, purpose="x", username="agent_helper")
    pipelit.users.deactivate("agent_writer")
    for name in ("agent_helper", "agent_new", None):
        with pytest.raises(UserInactive):
            pipelit.provision_agent(writer, purpose="x", username=name)
    assert trail(pipelit, "agent_new")[-1][2:] == ("refused", "creator inactive")


def test_a_creator_has_to_be_an_agent(pipelit: Pipelit) -> None:
    """A handle on a person or on nobody makes nothing."""
    with pytest.raises(NotLocalAgent):
        pipelit.provision_agent(pipelit.agent("alice"), purpose="x", username="one")
    with pytest.raises(UserNotFound):
        pipelit.provision_agent(pipelit.agent("nobody"), purpose="x", username="two")
    assert trail(pipelit, "one")[-1] == ("alice", "agent.create", "refused", "creator is no agent")
    assert trail(pipelit, "two")[-1] == ("nobody", "agent.create", "refused", "creator unknown")


def test_a_creator_of_another_pipelit_is_refused(
    pipelit: Pipelit, writer: Agent, database_url: str, key: str
) -> None:
    """A handle makes agents through its own Pipelit only, even where the database is the same."""
    with (
        Pipelit(database_url=database_url, encryption_keys=[key]) as other,
        pytest.raises(ValueError, match="another Pipelit"),
    ):
        other.provision_agent(writer, purpose="x")


def test_a_made_agent_may_not_make_others_unless_granted(pipelit: Pipelit, writer: Agent) -> None:
    """An agent's agent is refused before it learns whether a name is taken; a granted one isn't."""
    pipelit.provision_agent(writer, purpose="x", username="agent_helper")
    for name in ("agent_new", "alice"):
        with pytest.raises(NotPermitted):
            pipelit.provision_agent(pipelit.agent("agent_helper"), purpose="x", username=name)
        assert trail(pipelit, name)[-1][2:] == ("refused", "not permitted")
    pipelit.users.create_agent("granted", owner="agent_writer", purpose="x", may_create_agents=True)
    assert pipelit.provision_agent(pipelit.agent("granted"), purpose="x").created


def test_the_quota_counts_per_root_owner(database_url: str, key: str, clock: Clock) -> None:
    """Agents of agents count; a deactivated one gives its place back; another owner has its own."""
    policy = VerificationPolicy(agents_per_owner=3)
    with Pipelit(
        database_url=database_url, encryption_keys=[key], clock=clock, policy=policy
    ) as pipelit:
        pipelit.create_schema()
        for owner in ("alice", "bob"):
            pipelit.users.create(owner)
            pipelit.users.create_agent(f"agent_{owner}", owner=owner, purpose="leads")
        mine, bobs = pipelit.agent("agent_alice"), pipelit.agent("agent_bob")
        pipelit.provision_agent(mine, purpose="x", username="one")
        pipelit.provision_agent(mine, purpose="x", username="two")
        with pytest.raises(QuotaExceeded) as caught:
            pipelit.provision_agent(mine, purpose="x", username="three")
        assert (caught.value.limit, caught.value.username) == (3, "alice")
        assert trail(pipelit, "three")[-1][2:] == ("refused", "quota used up")
        assert not pipelit.provision_agent(mine, purpose="x", username="one").created
        assert pipelit.provision_agent(bobs, purpose="x").created
        pipelit.users.deactivate("two")
        assert pipelit.provision_agent(mine, purpose="x", username="three").created


def small(settings: dict[str, Any], clock: Clock, **limits: int) -> Pipelit:
    """A Pipelit on the test's database, with limits of its own."""
    return Pipelit(**settings, clock=clock, policy=VerificationPolicy(**limits))


def test_what_a_creators_agents_make_counts_as_its_own(
    pipelit: Pipelit, settings: dict[str, Any], clock: Clock, writer: Agent, editor: Agent
) -> None:
    """A granted agent below has no quota beyond its creator's; one beside has its own."""
    with small(settings, clock, agents_per_creator=3) as limited:
        users = limited.users
        users.create_agent("below", owner="agent_writer", purpose="x", may_create_agents=True)
        users.create_agent("deeper", owner="below", purpose="x", may_create_agents=True)
        users.create_agent("deepest", owner="deeper", purpose="x")
        for creator in ("deeper", "below", "agent_writer"):
            with pytest.raises(QuotaExceeded) as caught:
                limited.provision_agent(limited.agent(creator), purpose="x", username="more")
            assert (caught.value.limit, caught.value.username) == (3, "agent_writer")
            assert trail(limited, "more")[-1][2:] == ("refused", "quota used up")
        assert limited.provision_agent(limited.agent("agent_editor"), purpose="x").created
        users.deactivate("deepest")
        assert limited.provision_agent(limited.agent("deeper"), purpose="x").created
        with pytest.raises(QuotaExceeded):
            limited.provision_agent(limited.agent("agent_writer"), purpose="x")


def test_a_quota_below_holds_too(
    pipelit: Pipelit, settings: dict[str, Any], clock: Clock, writer: Agent
) -> None:
    """The nearest agent that has its full number is the one that is named."""
    with small(settings, clock, agents_per_creator=2) as limited:
        limited.users.create_agent("granted", owner="alice", purpose="x")
        for number in range(2):
            limited.users.create_agent(f"made_{number}", owner="granted", purpose="x")
        with pytest.raises(QuotaExceeded) as caught:
            limited.users.create_agent("made_2", owner="granted", purpose="x")
        assert (caught.value.limit, caught.value.username) == (2, "granted")


def test_agents_leave_places_for_agents_that_people_make(
    pipelit: Pipelit, settings: dict[str, Any], clock: Clock
) -> None:
    """However many agents make agents, a quarter of the owner's places is never theirs."""
    with small(settings, clock, agents_per_owner=12, agents_per_creator=5) as limited:
        for name in ("one", "two"):
            limited.users.create_agent(name, owner="alice", purpose="x")
        made = 0
        for creator in ("one", "two") * 6:
            try:
                made += limited.provision_agent(limited.agent(creator), purpose="x").created
            except QuotaExceeded as error:
                refusal = error
        assert (made, refusal.limit, refusal.username) == (9, 9, "alice")
        limited.users.create_agent("three", owner="alice", purpose="the operator's")
        with pytest.raises(QuotaExceeded):
            limited.users.create_agent("four", owner="alice", purpose="the operator's")


@pytest.mark.slow
def test_racing_creators_stay_within_their_quotas(
    pipelit: Pipelit, settings: dict[str, Any], clock: Clock, writer: Agent, editor: Agent
) -> None:
    """Thirty-two threads of two creators make exactly as many as each may."""
    with small(settings, clock, agents_per_creator=4) as limited:
        agents = [limited.agent("agent_writer"), limited.agent("agent_editor")] * 16
        together = threading.Barrier(32, timeout=60)

        def call(agent: Agent) -> bool:
            together.wait()
            try:
                return limited.provision_agent(agent, purpose="helps").created
            except QuotaExceeded:
                return False

        with ThreadPoolExecutor(32) as pool:
            assert sum(pool.map(call, agents)) == 8
        owners = [user.owner for user in limited.users.list() if user.owner != "alice"]
        assert [owners.count(name) for name in ("agent_writer", "agent_editor")] == [4, 4]


def test_names_with_a_prefix(pipelit: Pipelit, writer: Agent) -> None:
    """The prefix is put before a name that doesn't have it; any purpose makes a name that fits."""
    for name, full in (("a", "w.a"), ("w.a", "w.a"), ("w", "w.w"), ("0_-", "w.0_-")):
        made = pipelit.provision_agent(writer, purpose="x", username=name, prefix="w.")
        assert made.username == full
        assert made.credential == f"agent-key.{full}"
    longest = pipelit.provision_agent(writer, purpose="y" * 99, prefix="p" * 129 + ".")
    assert re.fullmatch(r"p{129}\.[0-9a-f]{8}", longest.username)
    for prefix in ("p" * 130 + ".", "P.", ".", 7):
        with pytest.raises(InvalidUsername, match="prefix"):
            pipelit.provision_agent(writer, purpose="x", prefix=prefix)  # type: ignore[arg-type]


def test_a_credential_that_is_there_is_not_replaced(pipelit: Pipelit, writer: Agent) -> None:
    """Where the key's place is taken, neither account nor key is made and the secret stays."""
    pipelit.credentials.put("agent-key.agent_helper", "precious", kind="llm", created_by="alice")
    before = rows(pipelit)
    with pytest.raises(CredentialError, match=r"'agent-key\.agent_helper' already"):
        pipelit.provision_agent(writer, purpose="x", username="agent_helper")
    assert rows(pipelit) == before
    assert opened(pipelit, "agent-key.agent_helper", None) == "precious"
    assert trail(pipelit, "agent_helper")[-1][2:] == ("refused", "credential is there")


def test_a_deleted_credential_is_not_made_again(pipelit: Pipelit, writer: Agent) -> None:
    """An agent whose key an operator took away can't be had again by asking for its name."""
    made = pipelit.provision_agent(writer, purpose="x", username="agent_helper")
    pipelit.credentials.delete(made.credential)
    with pytest.raises(UserExists):
        pipelit.provision_agent(writer, purpose="x", username="agent_helper")


@pytest.mark.backends("sqlite")
def test_all_or_nothing(pipelit: Pipelit, writer: Agent) -> None:
    """Where the key can't be sealed away, there is no account and no API key either."""
    with database_of(pipelit).writing() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER refuse BEFORE INSERT ON pipelit_credentials "
            "BEGIN SELECT RAISE(ABORT, 'full'); END"
        )
    before = rows(pipelit)
    with pytest.raises(StorageError, match="full"):
        pipelit.provision_agent(writer, purpose="x", username="agent_helper")
    assert rows(pipelit) == before


def test_without_a_key_nothing_is_made(pipelit: Pipelit, writer: Agent, database_url: str) -> None:
    """No FIELD_ENCRYPTION_KEY, no agent: the error names the setting."""
    before = rows(pipelit)
    with Pipelit(database_url=database_url, encryption_keys=[]) as keyless:
        agent = keyless.agent("agent_writer")
        with pytest.raises(ConfigurationError, match="FIELD_ENCRYPTION_KEY"):
            keyless.provision_agent(agent, purpose="x", username="agent_helper")
    assert rows(pipelit) == before


def test_creation_is_on_record(pipelit: Pipelit, writer: Agent) -> None:
    """Account, key and credential each have a row that names the creator, and none a secret."""
    made = pipelit.provision_agent(writer, purpose="x", username="agent_helper")
    key = opened(pipelit, made.credential, writer)
    assert [row[:3] for row in trail(pipelit, "agent_helper")] == [
        ("agent_writer", "agent.create", "ok"),
        ("agent_writer", "key.issue", "ok"),
    ]
    assert ("agent_writer", "credential.put", "ok", "") in trail(pipelit, made.credential)
    assert key.split("_", 2)[2] not in repr(pipelit.audit.list())


@pytest.mark.backends("sqlite")
def test_the_file_does_not_hold_the_key(
    pipelit: Pipelit, writer: Agent, database_url: str, tmp_path: Path
) -> None:
    """The made agent's key stands nowhere in the database file, and another key opens nothing."""
    made = pipelit.provision_agent(writer, purpose="x", username="agent_helper")
    key = opened(pipelit, made.credential, writer)
    file = tmp_path / "pipelit" / "agents.db"
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert key.split("_", 2)[2].encode() not in file.read_bytes()
    with Pipelit(database_url=database_url, encryption_keys=[Keyring.generate_key()]) as thief:
        agent = thief.agent("agent_writer")
        with pytest.raises(UnsealError):
            opened(thief, made.credential, agent)


async def test_the_async_twin(pipelit: Pipelit, writer: Agent) -> None:
    """It makes the same agent, and refuses with the same exceptions."""
    made = await pipelit.aprovision_agent(writer, purpose="x", username="agent_helper")
    assert made == ProvisionedAgent(
        "agent_helper", "agent-key.agent_helper", made.last_four, created=True
    )
    with pytest.raises(AccountError):
        await pipelit.aprovision_agent(writer, purpose="x", username="alice")
