"""Accounts: names, quotas, who may make whom, and how they end."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from conftest import Clock
from internals import database_of
from sqlalchemy import text

from pipelit_agents import Agent, Pipelit, User, VerificationPolicy
from pipelit_agents.errors import (
    ApiKeyNotFound,
    InvalidUsername,
    NotLocalAgent,
    NotPermitted,
    QuotaExceeded,
    StorageError,
    UserExists,
    UserInactive,
    UserNotFound,
)

# Where attempts are counted makes no difference here.
BACKENDS = ("sqlite", "postgres")


def names(pipelit: Pipelit) -> list[str]:
    """All accounts."""
    return [each.username for each in pipelit.users.list()]


def test_a_person_is_what_was_asked_for(pipelit: Pipelit, clock: Clock) -> None:
    """A person owns itself, is active, and was made by the operator unless somebody says so."""
    assert pipelit.users.get("alice") == User(
        username="alice",
        kind="human",
        owner=None,
        root_owner="alice",
        purpose="",
        active=True,
        may_create_agents=False,
        created_at=datetime.fromtimestamp(clock.now, UTC),
        created_by="operator",
        role="operator",
    )
    pipelit.users.create("bob", created_by="alice")
    assert pipelit.users.get("bob").created_by == "alice"


def test_an_agent_belongs_to_its_owner_and_to_the_owners_root(
    pipelit: Pipelit, writer: Agent
) -> None:
    """An agent made by an agent has that agent as owner, and the person as root owner."""
    pipelit.users.create_agent("agent_child", owner="agent_writer", purpose="helps")
    child = pipelit.users.get("agent_child")
    assert (child.kind, child.owner, child.root_owner, child.purpose, child.created_by) == (
        "agent",
        "agent_writer",
        "alice",
        "helps",
        "agent_writer",
    )


@pytest.mark.backends("sqlite")
def test_an_agent_is_created_by_the_person_who_asked(pipelit: Pipelit) -> None:
    """The account, its key and the audit name that person, and not the owner."""
    pipelit.users.create("olga")
    pipelit.users.create_agent("agent_b", owner="alice", purpose="p", created_by="olga")
    assert pipelit.users.get("agent_b").created_by == "olga"
    entries = pipelit.audit.list(subject="agent_b")
    assert {(each.actor, each.action) for each in entries} == {
        ("olga", "agent.create"),
        ("olga", "key.issue"),
    }


async def test_the_async_twin_does_the_same(pipelit: Pipelit) -> None:
    """``acreate_agent`` makes an agent like its twin."""
    made = await pipelit.users.acreate_agent("agent_async", owner="alice", purpose="p")
    assert pipelit.users.get(made.username).owner == "alice"


@pytest.mark.parametrize("name", ["a", "0", "a" * 149, "agent_x", "a.b-c_d", "9-lives", "alice2"])
def test_a_name_in_its_normal_form_is_taken_as_it_is(pipelit: Pipelit, name: str) -> None:
    """1 to 149 of a-z 0-9 _ . - are a name."""
    assert pipelit.users.create(name).username == name
    assert pipelit.users.get(name).username == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Alice",
        "ALICE",
        " alice2",
        "alice2 ",
        "alice2\n",
        "al ice",
        "_alice",
        "-alice",
        ".alice",
        "alice@example",
        "alice/..",
        "al\u0131ce",
        "\uff41lice",
        "ali\u0301ce",
        "alice\0",
        "a" * 150,
        "\ud800",
        None,
        7,
        b"alice2",
        ["alice2"],
    ],
)
def test_any_other_name_is_refused_everywhere(pipelit: Pipelit, name: Any) -> None:
    """Nothing is stripped, lowered or folded: the name is an InvalidUsername for every method."""
    users = pipelit.users
    for use in (
        lambda: users.create(name),
        lambda: users.create_agent(name, owner="alice", purpose="p"),
        lambda: users.create_agent("agent_x", owner=name, purpose="p"),
        lambda: users.get(name),
        lambda: users.deactivate(name),
        lambda: users.unlock(name),
        lambda: users.rotate_totp(name),
        lambda: users.issue_api_key(name, name="k"),
        lambda: users.list_api_keys(name),
        lambda: pipelit.agent(name),
    ):
        with pytest.raises(InvalidUsername) as caught:
            use()
        assert isinstance(caught.value, ValueError)
    assert names(pipelit) == ["alice"]


@pytest.mark.parametrize("taken", ["alice", "agent_writer", "operator"])
def test_a_name_is_given_once(pipelit: Pipelit, writer: Agent, taken: str) -> None:
    """A taken name is UserExists for people and agents, and so is the operator's in the audit."""
    with pytest.raises(UserExists) as caught:
        pipelit.users.create(taken)
    assert caught.value.username == taken
    with pytest.raises(UserExists):
        pipelit.users.create_agent(taken, owner="alice", purpose="p")
    assert names(pipelit) == ["agent_writer", "alice"]


def test_a_name_is_not_given_again_after_deactivation(pipelit: Pipelit, writer: Agent) -> None:
    """The name of an account that ended stays taken."""
    pipelit.users.deactivate("agent_writer")
    with pytest.raises(UserExists):
        pipelit.users.create_agent("agent_writer", owner="alice", purpose="p")


def test_of_many_threads_that_take_a_name_one_gets_it(pipelit: Pipelit) -> None:
    """A name is given to exactly one of those who ask at once."""

    def take(_: int) -> bool:
        try:
            pipelit.users.create_agent("agent_one", owner="alice", purpose="p")
        except UserExists:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(take, range(16))) == 1


def test_an_owner_has_to_be_there_and_active(pipelit: Pipelit) -> None:
    """Nobody makes agents for an owner that isn't there, or that ended."""
    with pytest.raises(UserNotFound):
        pipelit.users.create_agent("agent_x", owner="nobody", purpose="p")
    pipelit.users.create("bob")
    pipelit.users.deactivate("bob")
    with pytest.raises(UserInactive):
        pipelit.users.create_agent("agent_x", owner="bob", purpose="p")
    assert names(pipelit) == ["alice", "bob"]


def test_created_agents_can_not_create_unless_granted(pipelit: Pipelit, writer: Agent) -> None:
    """A person's agent may make agents, and those may not, unless that was granted."""
    users = pipelit.users
    users.create_agent("agent_child", owner="agent_writer", purpose="p")
    users.create_agent("agent_free", owner="agent_writer", purpose="p", may_create_agents=True)
    users.create_agent("agent_bound", owner="alice", purpose="p", may_create_agents=False)
    assert [
        users.get(f"agent_{each}").may_create_agents
        for each in ("writer", "child", "free", "bound")
    ] == [True, False, True, False]
    for owner in ("agent_child", "agent_bound"):
        with pytest.raises(NotPermitted) as caught:
            users.create_agent("agent_x", owner=owner, purpose="p")
        assert caught.value.username == owner
    users.create_agent("agent_x", owner="agent_free", purpose="p")


def test_the_quota_counts_all_agents_under_a_root_owner(pipelit: Pipelit) -> None:
    """20 agents in all, also those that agents made; another owner has its own 20."""
    users = pipelit.users
    users.create_agent("agent_0", owner="alice", purpose="p")
    for number in range(1, 20):
        owner = "alice" if number % 2 else "agent_0"
        users.create_agent(f"agent_{number}", owner=owner, purpose="p")
    for owner in ("alice", "agent_0"):
        with pytest.raises(QuotaExceeded) as caught:
            users.create_agent("agent_20", owner=owner, purpose="p")
        assert (caught.value.limit, caught.value.username) == (20, "alice")
    users.create("bob")
    users.create_agent("agent_20", owner="bob", purpose="p")
    users.deactivate("agent_19")
    users.create_agent("agent_21", owner="agent_0", purpose="p")
    with pytest.raises(QuotaExceeded):
        users.create_agent("agent_22", owner="alice", purpose="p")


def test_the_quota_holds_for_many_at_once(
    database_url: str, key: str, clock: Clock, pipelit: Pipelit
) -> None:
    """Of 16 that ask at once for 3 places exactly 3 get one."""
    policy = VerificationPolicy(agents_per_owner=3)
    with Pipelit(
        database_url=database_url, encryption_keys=[key], clock=clock, policy=policy
    ) as small:

        def take(number: int) -> bool:
            try:
                small.users.create_agent(f"agent_{number}", owner="alice", purpose="p")
            except QuotaExceeded:
                return False
            return True

        with ThreadPoolExecutor(16) as pool:
            assert sum(pool.map(take, range(16))) == 3


def test_deactivating_takes_everybody_below_along(pipelit: Pipelit, writer: Agent) -> None:
    """An account ends with all agents under it, however deep, and with nobody else."""
    users = pipelit.users
    owner = "agent_writer"
    for depth in range(4):
        users.create_agent(f"agent_{depth}", owner=owner, purpose="p", may_create_agents=True)
        owner = f"agent_{depth}"
    users.create_agent("agent_beside", owner="alice", purpose="p")
    users.create("bob")
    assert users.deactivate("agent_1", by="alice") == ["agent_1", "agent_2", "agent_3"]
    assert users.deactivate("alice") == ["agent_0", "agent_beside", "agent_writer", "alice"]
    assert users.deactivate("alice") == []
    assert [each.username for each in users.list() if each.active] == ["bob"]
    entries = pipelit.audit.list(subject="agent_3")
    assert (entries[-1].actor, entries[-1].action, entries[-1].reason) == (
        "alice",
        "user.deactivate",
        "with agent_1",
    )


def test_an_account_that_ended_gets_nothing_new(pipelit: Pipelit, writer: Agent) -> None:
    """No key, no secret and no agents for an account that was deactivated."""
    pipelit.users.deactivate("alice")
    for use in (
        lambda: pipelit.users.issue_api_key("alice", name="k"),
        lambda: pipelit.users.rotate_totp("agent_writer"),
        lambda: pipelit.users.create_agent("agent_x", owner="agent_writer", purpose="p"),
    ):
        with pytest.raises(UserInactive):
            use()


def test_people_have_no_secret_to_rotate_and_can_not_be_acted_as(pipelit: Pipelit) -> None:
    """For a person everything that an agent does is NotLocalAgent."""
    alice = pipelit.agent("alice")
    for use in (
        lambda: pipelit.users.rotate_totp("alice"),
        alice.totp_code,
        alice.require_active,
        lambda: alice.prove(b"c" * 32, b"", verifier="agent_x"),
        lambda: alice.prove_request(b"c" * 32, b"", verifier="agent_x"),
    ):
        with pytest.raises(NotLocalAgent) as caught:
            use()
        assert caught.value.username == "alice"


def test_an_overlap_is_not_negative(pipelit: Pipelit, writer: Agent) -> None:
    """A negative overlap is a ValueError, and rotates nothing."""
    before = writer.totp_code().code
    with pytest.raises(ValueError, match="overlap"):
        pipelit.users.rotate_totp("agent_writer", overlap=timedelta(seconds=-1))
    assert writer.totp_code().code == before


def test_who_is_not_there_is_not_found(pipelit: Pipelit) -> None:
    """Every method that takes an account says UserNotFound, which is a LookupError."""
    users = pipelit.users
    for use in (
        lambda: users.get("nobody"),
        lambda: users.deactivate("nobody"),
        lambda: users.unlock("nobody"),
        lambda: users.rotate_totp("nobody"),
        lambda: users.issue_api_key("nobody", name="k"),
        lambda: users.list_api_keys("nobody"),
    ):
        with pytest.raises(UserNotFound) as caught:
            use()
        assert isinstance(caught.value, LookupError)
    with pytest.raises(ApiKeyNotFound) as missing:
        users.revoke_api_key("nobody")
    assert isinstance(missing.value, LookupError)


def test_accounts_are_listed_by_name_and_by_root_owner(pipelit: Pipelit, writer: Agent) -> None:
    """The list is sorted, and can be of one root owner."""
    pipelit.users.create("bob")
    pipelit.users.create_agent("agent_bob", owner="bob", purpose="p")
    assert names(pipelit) == ["agent_bob", "agent_writer", "alice", "bob"]
    assert [each.username for each in pipelit.users.list(owner="bob")] == ["agent_bob", "bob"]


def test_a_failure_leaves_nothing_behind(pipelit: Pipelit) -> None:
    """When the account can't be made whole, there is no account, no key and no entry."""
    with database_of(pipelit).writing() as connection:
        connection.execute(text("DROP TABLE pipelit_api_keys"))
    before = pipelit.audit.list()
    with pytest.raises(StorageError):
        pipelit.users.create_agent("agent_x", owner="alice", purpose="p")
    assert names(pipelit) == ["alice"]
    assert pipelit.audit.list() == before


def test_text_that_is_no_text_is_refused(pipelit: Pipelit) -> None:
    """A lone surrogate, which JSON of a model may hold, is a StorageError."""
    with pytest.raises(StorageError, match="surrogate"):
        pipelit.users.create_agent("agent_x", owner="alice", purpose="\ud83d")
    assert names(pipelit) == ["alice"]


def test_secrets_are_shown_once_and_printed_never(pipelit: Pipelit, writer: Agent) -> None:
    """What is returned holds secrets as SecretStr, and no repr shows them."""
    new = pipelit.users.create_agent("agent_x", owner="alice", purpose="p")
    for secret in (new.api_key, new.provisioning_uri, pipelit.users.rotate_totp("agent_x")):
        assert secret.get_secret_value() not in repr((new, secret))
    assert new.provisioning_uri.get_secret_value().startswith(
        "otpauth://totp/pipelit-agents:agent_x?secret="
    )


def test_everything_that_decides_is_audited(pipelit: Pipelit, clock: Clock) -> None:
    """Each change of an account leaves an entry with its time, actor and subject."""
    users = pipelit.users
    start = pipelit.audit.list(limit=1)[0].id
    users.create_agent("agent_x", owner="alice", purpose="p")
    key = users.issue_api_key("agent_x", name="k", by="alice")
    users.revoke_api_key(key.id, by="alice")
    users.rotate_totp("agent_x", by="alice")
    users.unlock("agent_x", by="alice")
    users.deactivate("agent_x", by="alice")
    entries = pipelit.audit.list(after=start)
    assert [each.action for each in entries] == [
        "agent.create",
        "key.issue",
        "key.issue",
        "key.revoke",
        "totp.rotate",
        "user.unlock",
        "user.deactivate",
    ]
    assert {(each.actor, each.subject, each.outcome) for each in entries} == {
        ("alice", "agent_x", "ok")
    }
    assert {each.at for each in entries} == {datetime.fromtimestamp(clock.now, UTC)}
    assert pipelit.audit.list(actor="alice", limit=2) == entries[-2:]
