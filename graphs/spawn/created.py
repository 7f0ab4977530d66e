"""Find the agents that an agent created, and build their graphs."""

from __future__ import annotations

import inspect
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NoReturn, TypeAlias

from langgraph.pregel import Pregel

from pipelit_agents import Agent
from pipelit_agents._forks import reset_in_forked_children
from pipelit_agents._twins import off_the_loop
from pipelit_agents._words import quoted, recordable
from pipelit_agents.accounts.models import User
from pipelit_agents.errors import (
    AccountError,
    NotLocalAgent,
    NotPermitted,
    UserInactive,
    UserNotFound,
)
from pipelit_agents.identity.agent import require_handle
from pipelit_agents.pipelit import home_of

from ..child import VerifiedChild, verified_child
from ..types import AnyGraph
from .asking import UnfitChild
from .results import Child

__all__ = ["BuildChild", "CreatedAgents", "created_agents"]

BuildChild: TypeAlias = Callable[[User], Child | None]

# How many built children are kept.
_MAX_CHILDREN: Final = 256


class CreatedAgents:
    """A function from a name to a child, which finds the agents that a lead's family created.

    Create one with ``created_agents``.

    Args:
        lead: The agent whose family it is.
        build: Builds the graph of an account.

    Attributes:
        lead: As above.
        advice: Why a name has no child and what to do, to follow the name in a message.
    """

    def __init__(self, lead: Agent, build: BuildChild) -> None:
        self.lead = lead
        self.advice: str = (
            f"isn't an active agent that {lead.username!r} created: create one with "
            "create_agent_user, and use the full username that it returns"
        )
        # The spawn compares functions by the developer's code.
        self.__wrapped__ = build
        self.reset_after_fork()
        reset_in_forked_children(self)

    def reset_after_fork(self) -> None:
        """Start without children in a forked child, with a lock that no thread holds."""
        self._lock = threading.Lock()
        self._children: OrderedDict[User, Child] = OrderedDict()

    def __call__(self, name: str) -> Child | None:
        """Return the child of an agent that the lead's family created.

        Raises:
            UserNotFound: There is no such active agent. The message is the same for every reason;
                the cause has the reason.
            TypeError: What was built can't be a child. The message says why.
        """
        users = home_of(self.lead).users
        try:
            account = users.get(name)
            self._require_created(account, users.get)
        except AccountError as error:
            raise UserNotFound(
                f"{quoted(name)} {self.advice}", username=recordable(name)
            ) from error
        with self._lock:
            if account in self._children:
                self._children.move_to_end(account)
                return self._children[account]
        child = self.__wrapped__(account)
        if child is None:
            return None
        if isinstance(child, Pregel) and not isinstance(child, VerifiedChild):
            child = self._verified(child, home_of(self.lead).agent(name))
        with self._lock:
            self._children[account] = child
            if len(self._children) > _MAX_CHILDREN:
                self._children.popitem(last=False)
        return child

    def _verified(self, graph: AnyGraph, agent: Agent) -> VerifiedChild:
        try:
            return verified_child(graph, agent, accept_from=[self.lead.username])
        except (TypeError, ValueError) as error:
            raise UnfitChild(str(error)) from error
        except Exception as error:
            # For example a NameError of an annotation. Its message is the developer's.
            raise UnfitChild(f"its graph can't be read ({type(error).__name__})") from error

    def living(self) -> Sequence[User]:
        """Return the accounts of all agents that can be asked now, sorted by name.

        Their purposes are texts of those who created them, often of a model.

        Raises:
            UserNotFound: The lead's account doesn't exist.
        """
        users = home_of(self.lead).users
        root = users.get(self.lead.username).root_owner
        family = {each.username: each for each in users.list(owner=root)}
        return [each for each in family.values() if self._is_created(each, family)]

    aliving: Final = off_the_loop(living)

    def _is_created(self, account: User, family: Mapping[str, User]) -> bool:
        try:
            self._require_created(account, family.__getitem__)
        except (AccountError, KeyError):
            return False
        return True

    def _require_created(self, account: User, get: Callable[[str], User]) -> None:
        """Require that an account is a living agent which the lead or one of its agents created.

        Raises:
            AccountError: It isn't. The type says why.
        """
        name, lead = account.username, self.lead.username
        if account.kind != "agent":
            raise NotLocalAgent(f"{name!r} is a {account.kind}, not an agent", username=name)
        if not account.active:
            raise UserInactive(f"{name!r} was deactivated", username=name)
        if name == lead or not self._is_below_lead(account, get):
            raise NotPermitted(f"{lead!r} didn't create {name!r}", username=name)

    def _is_below_lead(self, account: User, get: Callable[[str], User]) -> bool:
        # Each account in between has to be active too. A person has no owner, so the chain ends
        # there. In a changed database it may be a circle.
        seen, owner = {account.username}, account.owner
        while owner != self.lead.username:
            if owner is None or owner in seen:
                return False
            above = get(owner)
            if not above.active:
                return False
            seen.add(owner)
            owner = above.owner
        return True

    def __reduce__(self) -> NoReturn:
        raise TypeError("CreatedAgents can't be pickled: create it where it is used")


def created_agents(lead: Agent, *, build: BuildChild) -> CreatedAgents:
    """Return a function that finds the living agents that a lead's family created.

    Use it as ``children`` of ``spawn_and_await``, so that a graph can send tasks to agents that
    were created after the graph was compiled, for example by the tool ``create_agent_user``.

    It admits exactly the active agents of this database that the lead owns, or that an agent owns
    which the lead owns, and so on: no agents of other owners, no sibling or owner of the lead, no
    peers, no people, not the lead. The accounts are read for each run and again when a run is
    resumed or retried, so a deactivated agent isn't asked any more. Every refusal has the same
    message, because the reason would tell a model which names exist; the audit has the reason.

    Args:
        lead: The agent that sends the tasks.
        build: Builds the graph of an account. It gets the account (name, purpose, owner, no
            secrets), and is called again only if the account changed, or if 256 other children were
            built since. It may take as long as one child (``timeout`` of ``spawn_and_await``).
            It returns a compiled graph, which becomes a ``verified_child`` that accepts requests of
            the lead only; or a ``verified_child`` or ``remote_child`` of its own; or None for an
            agent that can't be asked. The purpose may be the text of a model:
            don't give the graph more rights because of it.

    Returns:
        The function. Its method ``living`` lists the agents that can be asked now.

    Raises:
        TypeError: ``lead`` isn't a handle, or ``build`` isn't a synchronous function.

    Example:
        ```python
        def build(account):
            return create_agent(model, system_prompt=f"Your task: {account.purpose}")


        tools = [
            CreateAgentUser(agent=lead),
            SpawnAndAwait(agent=lead, children=created_agents(lead, build=build)),
        ]
        ```
    """
    require_handle(lead, "lead")
    if not callable(build) or inspect.iscoroutinefunction(build):
        raise TypeError("build must be a synchronous function from an account to its graph")
    return CreatedAgents(lead, build)
