"""What each role may do. The desk uses this table, and your code can: ``pipelit.permissions``."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, NamedTuple, TypeAlias

from pipelit_agents._core import Core
from pipelit_agents._twins import off_the_loop
from pipelit_agents._words import quoted
from pipelit_agents.accounts.lookup import find_account, no_account, read_account
from pipelit_agents.accounts.models import User, user_of
from pipelit_agents.errors import NotPermitted
from pipelit_agents.protocol.usernames import require_username

__all__ = ["ACTIONS", "Action", "Permissions", "Reach", "Reaches", "may", "reach_of"]

# Whose things somebody reaches with an action: nobody's, only their own, those of themselves and
# of the agents that they own (directly or not), everybody's but their own, or everybody's.
Reach: TypeAlias = Literal["none", "self", "tree", "others", "all"]

Action: TypeAlias = Literal[
    "me.read",
    "overview.read",
    "users.read",
    "users.create",
    "users.change",
    "users.deactivate",
    "users.unlock",
    "lanes.read",
    "agents.create",
    "keys.read",
    "keys.issue",
    "keys.revoke",
    "second_factor.manage",
    "second_factor.reset",
    "credentials.own.read",
    "credentials.own.change",
    "credentials.own.test",
    "credentials.shared.read",
    "credentials.shared.change",
    "credentials.shared.test",
    "approvals.read",
    "approvals.answer",
    "approvals.register",
    "audit.read",
    "audit.verify",
    "checks.read",
    "encryption_keys.read",
    "peers.verify",
]


class Reaches(NamedTuple):
    """How far an action reaches for each role."""

    operator: Reach
    member: Reach
    agent: Reach


ACTIONS: Final[Mapping[Action, Reaches]] = MappingProxyType({
    #                                    operator  member  agent
    "me.read":                   Reaches("self",   "self", "self"),
    "overview.read":             Reaches("self",   "self", "none"),
    "users.read":                Reaches("all",    "tree", "none"),
    "users.create":              Reaches("all",    "none", "none"),
    "users.change":              Reaches("all",    "none", "none"),
    "users.deactivate":          Reaches("all",    "none", "none"),
    "users.unlock":              Reaches("all",    "none", "none"),
    "lanes.read":                Reaches("all",    "tree", "none"),
    "agents.create":             Reaches("all",    "none", "none"),
    "keys.read":                 Reaches("all",    "self", "none"),
    "keys.issue":                Reaches("all",    "self", "none"),
    "keys.revoke":               Reaches("all",    "self", "none"),
    "second_factor.manage":      Reaches("self",   "self", "none"),
    "second_factor.reset":       Reaches("others", "none", "none"),
    "credentials.own.read":      Reaches("self",   "self", "none"),
    "credentials.own.change":    Reaches("self",   "self", "none"),
    "credentials.own.test":      Reaches("self",   "self", "none"),
    "credentials.shared.read":   Reaches("all",    "all",  "none"),
    "credentials.shared.change": Reaches("all",    "none", "none"),
    "credentials.shared.test":   Reaches("all",    "none", "none"),
    "approvals.read":            Reaches("self",   "self", "none"),
    "approvals.answer":          Reaches("self",   "self", "none"),
    "approvals.register":        Reaches("all",    "none", "none"),
    "audit.read":                Reaches("all",    "none", "none"),
    "audit.verify":              Reaches("all",    "none", "none"),
    "checks.read":               Reaches("all",    "none", "none"),
    "encryption_keys.read":      Reaches("all",    "none", "none"),
    "peers.verify":              Reaches("none",   "none", "self"),
})  # fmt: skip


def reach_of(user: User, action: Action) -> Reach:
    """Return how far an action reaches for an account; ``none`` for a peer or an inactive one.

    Raises:
        ValueError: The table has no such action.
    """
    if not isinstance(action, str) or action not in ACTIONS:
        raise ValueError(f"action: the table of permissions has no {quoted(action)}")
    reaches = ACTIONS[action]
    if not user.active or user.kind == "peer":
        return "none"
    if user.kind == "agent":
        return reaches.agent
    return reaches.operator if user.role == "operator" else reaches.member


def may(user: User, action: Action, on: User | None = None) -> bool:
    """Return whether an account may do something; a pure function of its arguments.

    Args:
        user: Who acts.
        action: What is done.
        on: Whose account it is done to. By default the question is whether there is any account to
            which ``user`` may do it.
    """
    reach = reach_of(user, action)
    if on is None or reach in ("none", "all"):
        return reach != "none"
    itself = on.username == user.username
    if reach == "others":
        return not itself
    return itself or (reach == "tree" and on.kind == "agent" and on.root_owner == user.username)


class Permissions:
    """The roles' table for accounts of one database; ``pipelit.permissions``.

    Code in your process is trusted: no method of the library asks this table by itself, whatever
    it gets as ``by``. Ask where somebody else decides what is done.

    Args:
        core: The database.
    """

    def __init__(self, core: Core) -> None:
        self._database = core.database

    def require(self, username: str, action: Action, *, on: str | None = None) -> User:
        """Require that an account may do something, as it is stored now.

        Args:
            username: Who acts.
            action: What is done: a row of ``ACTIONS``.
            on: The account to which it is done; by default the action needs none.

        Returns:
            The account that acts.

        Raises:
            InvalidUsername: A username is malformed.
            UserNotFound: There is no account ``username``. Or there is no account ``on``, or it is
                out of reach: the words are the same, so that they don't tell which names exist.
            NotPermitted: The account may do this to nobody, or not to itself.
            ValueError: The table has no such action.
        """
        require_username(username)
        if on is not None:
            require_username(on, argument="on")
        with self._database.reading() as connection:
            user = user_of(find_account(connection, username))
            if not may(user, action):
                raise NotPermitted(_refusal(user, action), username=username)
            if on is None:
                return user
            row = read_account(connection, on)
        if row is None or not may(user, action, user_of(row)):
            if reach_of(user, action) == "others" and row is not None:
                raise NotPermitted(f"{_refusal(user, action)} (to itself)", username=username)
            raise no_account(on)
        return user

    arequire: Final = off_the_loop(require)


def _refusal(user: User, action: Action) -> str:
    return f"{user.username!r} may not do this: {action}"
