"""Roles of people: who is an operator, who stays one, and what each role may do."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, get_args

import pytest
from alembic import command
from conftest import Clock
from internals import database_of
from sqlalchemy import text

from pipelit_agents import Agent, Pipelit, User
from pipelit_agents.accounts.permissions import ACTIONS, Action, may
from pipelit_agents.database.schema import alembic_config
from pipelit_agents.errors import (
    InvalidUsername,
    LastOperator,
    NotPermitted,
    UserExists,
    UserInactive,
    UserNotFound,
)

BACKENDS = ("sqlite", "postgres")


def roles(pipelit: Pipelit) -> dict[str, str]:
    """The role of each account."""
    return {each.username: each.role for each in pipelit.users.list()}


def recorded(pipelit: Pipelit, action: str) -> list[tuple[str, str, str]]:
    """The actor, the subject and the reason of each entry of an action."""
    found = pipelit.audit.list(action=action)
    return [(each.actor, each.subject, each.reason) for each in found]


def test_the_first_person_is_an_operator(pipelit: Pipelit, writer: Agent) -> None:
    """Later people are members unless somebody says otherwise; agents have no role."""
    assert pipelit.users.create("bob").role == "member"
    assert pipelit.users.create("carol", role="operator").role == "operator"
    assert roles(pipelit) == {
        "agent_writer": "",
        "alice": "operator",
        "bob": "member",
        "carol": "operator",
    }
    assert recorded(pipelit, "human.create")[1:] == [
        ("operator", "bob", "member"),
        ("operator", "carol", "operator"),
    ]


def test_an_api_key_tells_the_role_of_this_moment(pipelit: Pipelit) -> None:
    """The account that a key authenticates has the role that it was given last."""
    bob = pipelit.users.create("bob").api_key.get_secret_value()
    assert pipelit.users.authenticate(bob).role == "member"
    assert pipelit.users.set_role("bob", "operator", by="alice").role == "operator"
    assert pipelit.users.authenticate(bob).role == "operator"
    assert recorded(pipelit, "user.role") == [("alice", "bob", "operator")]


def test_a_role_that_somebody_has_is_no_change(pipelit: Pipelit) -> None:
    """Nothing is recorded."""
    assert pipelit.users.set_role("alice", "operator").role == "operator"
    assert recorded(pipelit, "user.role") == []


@pytest.mark.parametrize("role", ["admin", "", "Operator", None, 1], ids=repr)
def test_another_word_is_no_role(pipelit: Pipelit, role: Any) -> None:
    """The error names both roles, and nothing is created."""
    with pytest.raises(ValueError, match="'operator' or 'member'"):
        pipelit.users.set_role("alice", role)
    if role is not None:
        with pytest.raises(ValueError, match="'operator' or 'member'"):
            pipelit.users.create("bob", role=role)
    assert roles(pipelit) == {"alice": "operator"}


def test_only_an_active_person_gets_a_role(pipelit: Pipelit, writer: Agent) -> None:
    """Agents have none, and what was deactivated stays as it was."""
    pipelit.users.create("bob")
    pipelit.users.deactivate("bob")
    with pytest.raises(NotPermitted, match="only people have a role"):
        pipelit.users.set_role("agent_writer", "operator")
    with pytest.raises(UserInactive):
        pipelit.users.set_role("bob", "operator")
    with pytest.raises(UserNotFound):
        pipelit.users.set_role("nobody", "operator")


def test_a_word_that_is_no_role_gives_no_right(pipelit: Pipelit) -> None:
    """What an older version or a stranger stored reads as a member."""
    with database_of(pipelit).writing() as connection:
        connection.execute(text("UPDATE pipelit_users SET role = 'root'"))
    assert pipelit.users.get("alice").role == "member"
    assert pipelit.users.has_operator() is False


@pytest.mark.parametrize(
    "take",
    [
        lambda users: users.set_role("alice", "member", by="bob"),
        lambda users: users.deactivate("alice", by="bob"),
        lambda users: users.deactivate("alice", by="alice"),
    ],
    ids=["demote", "deactivate", "oneself"],
)
def test_the_last_operator_stays(pipelit: Pipelit, take: Callable[[Any], object]) -> None:
    """Nobody takes it away by name; an inactive operator and a member aren't another one."""
    pipelit.users.create("bob")
    pipelit.users.create("carol", role="operator")
    pipelit.users.deactivate("carol")
    with pytest.raises(LastOperator, match="make another person an operator first"):
        take(pipelit.users)
    assert (pipelit.users.get("alice").role, pipelit.users.get("alice").active) == (
        "operator",
        True,
    )
    pipelit.users.set_role("bob", "operator")
    take(pipelit.users)


def test_your_own_code_can_take_the_last_operator(pipelit: Pipelit) -> None:
    """The process itself is trusted; then the next person becomes an operator."""
    pipelit.users.create("bob")
    pipelit.users.set_role("alice", "member")
    assert pipelit.users.has_operator() is False
    assert pipelit.users.create("carol").role == "operator"


def test_operators_who_demote_each_other_at_once_leave_one(pipelit: Pipelit) -> None:
    """Of any number of them, whoever is late finds that the other is the last one."""
    names = [f"op{number}" for number in range(6)]
    for name in names:
        pipelit.users.create(name, role="operator")
    pipelit.users.set_role("alice", "member")

    def take(number: int) -> bool:
        other = names[(number + 1) % len(names)]
        try:
            if number % 2:
                pipelit.users.deactivate(other, by=names[number])
            else:
                pipelit.users.set_role(other, "member", by=names[number])
        except LastOperator:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(take, range(6))) == 5
    left = [each for each in pipelit.users.list() if each.role == "operator" and each.active]
    assert len(left) == 1


def test_people_who_are_first_at_once_make_one_operator(pipelit: Pipelit) -> None:
    """Twins of a set-up don't both become operators."""
    pipelit.users.set_role("alice", "member")
    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(pipelit.users.create, [f"p{number}" for number in range(6)]))
    assert sorted(each.role for each in made) == ["member"] * 5 + ["operator"]


def test_a_first_operator_is_made_once(pipelit: Pipelit) -> None:
    """Of many at once one succeeds, and nobody does while there is an operator."""
    with pytest.raises(NotPermitted, match="there is an operator already"):
        pipelit.users.create_first_operator("bob")
    pipelit.users.deactivate("alice")
    with pytest.raises(UserExists):
        pipelit.users.create_first_operator("alice")

    def take(number: int) -> bool:
        try:
            pipelit.users.create_first_operator(f"p{number}")
        except NotPermitted:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(take, range(6))) == 1
    assert sorted(roles(pipelit).values()) == ["operator", "operator"]


def test_the_earliest_active_person_of_older_tables_is_an_operator(
    database_url: str, key: str, clock: Clock
) -> None:
    """All others become members, whatever they are called, and agents and peers get no role."""
    made = Pipelit(database_url=database_url, encryption_keys=[key], clock=clock)
    database = database_of(made)
    database.open(create=True)
    people = [
        ("gone", "human", None, "", False, 1.0),
        ("peer.agent", "human", None, "other", True, 2.0),
        ("zoe", "human", None, "", True, 3.0),
        ("adam", "human", None, "", True, 4.0),
        ("agent_a", "agent", "zoe", "", True, 0.0),
    ]
    with database.writing() as connection:
        config = alembic_config()
        config.attributes["connection"] = connection
        command.upgrade(config, "0015")
        for name, kind, owner, domain, active, at in people:
            connection.execute(
                text(
                    "INSERT INTO pipelit_users (username, kind, owner, root_owner, purpose, "
                    "active, may_create_agents, totp_previous_until, created_at, created_by, "
                    "domain) VALUES (:name, :kind, :owner, :name, '', :active, :no, 0, :at, 'o', "
                    ":domain)"
                ),
                {
                    "name": name,
                    "kind": kind,
                    "owner": owner,
                    "domain": domain,
                    "active": active,
                    "at": at,
                    "no": False,
                },
            )
        for number, (state, rule, approvers) in enumerate(
            [
                ("pending", "", '["zoe", "adam"]'),
                ("approved", "[]", '["zoe", "zoe"]'),
                ("approved", "", '["zoe"]'),
                ("denied", "", '["zoe"]'),
                ("pending", "", "planted"),
                ("pending", "", '{"zoe": 1}'),
            ]
        ):
            connection.execute(
                text(
                    "INSERT INTO pipelit_approvals (id, digest, approvers, asked_by, thread, "
                    "created_at, expires_at, state, mac, rule) VALUES (:id, 'd', :approvers, 'o', "
                    "'', 0, 9, :state, 'm', :rule)"
                ),
                {"id": f"q{number}", "approvers": approvers, "state": state, "rule": rule},
            )
    with made:
        made.create_schema()
        assert roles(made) == {
            "adam": "member",
            "agent_a": "",
            "gone": "member",
            "peer.agent": "",
            "zoe": "operator",
        }
        with database.reading() as connection:
            found = connection.execute(
                text("SELECT approval_id, username FROM pipelit_approval_people")
            ).all()
        assert {tuple(each) for each in found} == {("q0", "adam"), ("q0", "zoe"), ("q1", "zoe")}


ALICE = User(
    username="alice",
    kind="human",
    owner=None,
    root_owner="alice",
    purpose="",
    active=True,
    may_create_agents=False,
    created_at=None,  # type: ignore[arg-type]
    created_by="operator",
    role="operator",
)
MARY = replace(ALICE, username="mary", root_owner="mary", role="member")
HERS = replace(MARY, username="agent_m", kind="agent", owner="mary", role="")
DEEP = replace(HERS, username="agent_deep", owner="agent_m")
OTHER = replace(HERS, username="agent_o", owner="alice", root_owner="alice")
PEER = replace(MARY, username="p", root_owner="p", kind="peer", role="", domain="other")
EVERYBODY = [ALICE, MARY, HERS, DEEP, OTHER, PEER]


def test_every_action_is_in_the_table() -> None:
    """The type names the actions of the table and no others, and each belongs to somebody."""
    assert set(ACTIONS) == set(get_args(Action))
    assert all(set(reaches) != {"none"} for reaches in ACTIONS.values())


@pytest.mark.parametrize("action", ACTIONS)
def test_a_role_reaches_as_far_as_the_table_says(action: Action) -> None:
    """Own means oneself, a tree has the agents that one owns, and nobody reaches further."""
    for user in EVERYBODY:
        reach = dict(zip(("operator", "member", "agent"), ACTIONS[action], strict=True)).get(
            "agent" if user.kind == "agent" else user.role, "none"
        )
        assert may(user, action) == (reach != "none")
        assert not may(replace(user, active=False), action)
        for on in EVERYBODY:
            allowed = {
                "none": False,
                "self": on is user,
                "tree": on is user or (on.kind == "agent" and on.root_owner == user.username),
                "others": on is not user,
                "all": True,
            }[reach]
            assert may(user, action, on) == allowed


@pytest.mark.parametrize("action", ACTIONS)
def test_what_a_member_does_to_others_is_nothing(action: Action) -> None:
    """No action of a member or an agent reaches another person or that person's agents."""
    for user in (MARY, HERS, PEER):
        # Shared credentials belong to nobody; what lists them names no account.
        for on in (ALICE, OTHER, PEER):
            if on is not user and action != "credentials.shared.read":
                assert not may(user, action, on)


def test_what_is_out_of_reach_looks_like_what_is_not_there(pipelit: Pipelit) -> None:
    """A member can't tell by the error which accounts exist; an operator reaches all."""
    users, permissions = pipelit.users, pipelit.permissions
    users.create("mary")
    users.create_agent("agent_m", owner="mary", purpose="p")
    users.create_agent("agent_a", owner="alice", purpose="p")
    assert permissions.require("mary", "users.read", on="agent_m").username == "mary"
    assert permissions.require("alice", "users.read", on="agent_m").role == "operator"
    with pytest.raises(UserNotFound) as there:
        permissions.require("mary", "users.read", on="agent_a")
    with pytest.raises(UserNotFound) as missing:
        permissions.require("mary", "users.read", on="agent_b")
    assert str(there.value).replace("agent_a", "agent_b") == str(missing.value)
    assert vars(there.value) == {"username": "agent_a"}


async def test_what_a_role_lacks_is_refused_before_anybody_is_looked_up(pipelit: Pipelit) -> None:
    """The refusal names the action, and says nothing about the other account."""
    pipelit.users.create("mary")
    for on in ("alice", "nobody", None):
        with pytest.raises(NotPermitted, match=r"'mary' may not do this: users\.deactivate"):
            await pipelit.permissions.arequire("mary", "users.deactivate", on=on)
    with pytest.raises(NotPermitted, match="to itself"):
        pipelit.permissions.require("alice", "second_factor.reset", on="alice")
    pipelit.users.deactivate("mary")
    with pytest.raises(NotPermitted):
        pipelit.permissions.require("mary", "me.read")
    with pytest.raises(UserNotFound):
        pipelit.permissions.require("nobody", "me.read")
    with pytest.raises(InvalidUsername):
        pipelit.permissions.require("alice", "users.read", on="Not A Name")
    with pytest.raises(ValueError, match=r"no 'users\.destroy'"):
        pipelit.permissions.require("alice", "users.destroy")  # type: ignore[arg-type]


async def test_what_would_fail_is_refused_before(pipelit: Pipelit, writer: Agent) -> None:
    """So that nobody spends a code on it; the process itself needs no other operator."""
    users = pipelit.users
    with pytest.raises(LastOperator):
        users.require_another_operator("alice", by="alice")
    with pytest.raises(LastOperator):
        await users.arequire_another_operator("alice", by="bob")
    users.require_another_operator("alice")
    users.require_another_operator("agent_writer", by="alice")
    with pytest.raises(UserNotFound):
        users.require_another_operator("nobody", by="alice")
    users.create("bob", role="operator")
    users.require_another_operator("alice", by="alice")


async def test_who_may_own_an_agent(pipelit: Pipelit) -> None:
    """The same accounts as those for which an agent is created."""
    users = pipelit.users
    users.create_agent("agent_small", owner="alice", purpose="p", may_create_agents=False)
    users.create("gone")
    users.deactivate("gone")
    users.require_may_own_agent("alice")
    for owner, error in (
        ("nobody", UserNotFound),
        ("gone", UserInactive),
        ("agent_small", NotPermitted),
        ("NO", InvalidUsername),
    ):
        with pytest.raises(error):
            users.require_may_own_agent(owner)
        with pytest.raises(error):
            await users.arequire_may_own_agent(owner)
        with pytest.raises(error):
            users.create_agent("agent_x", owner=owner, purpose="p")


async def test_operators_without_a_second_factor(
    pipelit: Pipelit, enrolled: Callable[[str], Callable[[], str]]
) -> None:
    """Active ones only, by name; members are another matter."""
    users = pipelit.users
    users.create("olga", role="operator")
    users.create("gone", role="operator")
    users.deactivate("gone")
    users.create("bob")
    assert users.operators_without_second_factor() == ["alice", "olga"]
    assert users.operators_without_second_factor(limit=1) == ["alice"]
    enrolled("alice")
    assert await users.aoperators_without_second_factor() == ["olga"]
