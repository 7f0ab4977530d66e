"""Find the children of a spawn by a function, when the spawn runs.

The function is the developer's, but the names come from a state, and often from a model. A name is
validated before the function is asked, and what the function returns is validated as a child in a
dict is. A name without a child is refused in the same words for every reason: the reason would tell
a model which accounts exist.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from typing import Final, NamedTuple, TypeAlias

from pipelit_agents import Agent
from pipelit_agents._threads import Stuck
from pipelit_agents.errors import (
    AccountError,
    NotLocalAgent,
    NotPermitted,
    UserInactive,
    UserNotFound,
)
from pipelit_agents.pipelit import home_of, questions_of
from pipelit_agents.protocol.usernames import is_username

from ..messages import Acceptance
from ..remote import RemoteChild
from ..types import AnyGraph
from .asking import Asking, UnfitChild
from .ceiling import Ceiling
from .created import CreatedAgents
from .forms import form_of_function
from .options import check_child
from .results import Child
from .same_functions import is_same_function
from .tasks import ReadTask, Terms, listed_problems

__all__ = ["FindChild", "Finder", "Found", "FoundTerms", "named_agents", "required_function"]

FindChild: TypeAlias = Callable[[str], Child | Awaitable[Child | None] | None]

# With these errors the function says that it has no such child. All others end the run.
_NO_CHILD: Final = (UserNotFound, UserInactive, NotLocalAgent, NotPermitted)
_REASONS: Final[dict[type[BaseException], str]] = {
    UserNotFound: "child unknown",
    UserInactive: "child inactive",
    NotLocalAgent: "child is no agent of this database",
    NotPermitted: "child of another owner",
}
# The exceptions that mean that one name has no child now.
_OF_ONE_NAME: Final = (*_NO_CHILD, Stuck, UnfitChild)
_ADVICE: Final = "isn't an agent that this node can ask: check its name"
_ACTION: Final = "verify.proof"
_UNFIT: Final = "child doesn't fit"
_NO_FORM: Final = bytes(32)


class Found(NamedTuple):
    """The answers of the function for the names in some tasks.

    Attributes:
        children: The children by name.
        unfit: Why a child that the function returned isn't used, by name.
        refused: The reason for the audit, by name, for each name without a usable child.
    """

    children: dict[str, Child]
    unfit: dict[str, str]
    refused: dict[str, str]


class _Refused(NamedTuple):
    """Why a name has no child.

    Attributes:
        reason: For the audit.
        words: For the result, if it isn't what is said of every name without a child.
    """

    reason: str
    words: str = ""


class FoundTerms(Terms):
    """The options of a spawn whose children a function finds.

    Args:
        lead: The lead's name.
        on_failure: As for ``spawn_and_await``.
        accept: Which messages answers may hold.
        children: The children that were found. Before the function is asked there are none.
        finder: Asks the function.
        unfit: Why a child isn't used, by name.
        ceiling: The credentials that each child may open at most.
    """

    refuses = True

    def __init__(
        self,
        lead: str,
        on_failure: str,
        accept: Acceptance,
        children: Mapping[str, AnyGraph | RemoteChild],
        finder: Finder,
        unfit: Mapping[str, str],
        ceiling: Ceiling,
    ) -> None:
        remote = {name for name, each in children.items() if isinstance(each, RemoteChild)}
        super().__init__(
            lead, dict.fromkeys(children, "bound"), remote, on_failure, accept, children, ceiling
        )
        self._finder = finder
        self._unfit = unfit

    def why_no_child(self, agent: str) -> str:
        """Return why an agent isn't a child, to follow its name."""
        unfit = self._unfit.get(agent)
        return self._finder.advice if unfit is None else f"can't be asked: {unfit}"

    def why_not_resumed(self, problems: list[str]) -> str:
        """Return the message for a run that waits for agents that aren't admitted any more."""
        return f"this spawn waits for agents that can't be asked: {listed_problems(problems)}"

    def is_same(self, other: Terms, agents: Iterable[str]) -> bool:
        """Return whether the same function finds the children of both spawns."""
        return isinstance(other, FoundTerms) and self._finder.is_same(other._finder)

    def call_digest(self, name: str, read: list[ReadTask]) -> bytes:
        """Return a digest of a call: its tasks, function, lead and accepted messages.

        It doesn't depend on the children, because a call needs its digest before anything is
        awaited, and finds its record although an agent was deactivated since.
        """
        return hashlib.sha256(super().call_digest(name, read) + self._finder.form).digest()

    def record_of_forms(self, agents: Iterable[str]) -> dict[str, bytes]:
        """Return the forms of the children for the record, since the digest doesn't cover them."""
        return {"forms": b"".join(map(self._form, agents))}

    def has_other_forms(self, recorded: object, read: list[ReadTask]) -> bool:
        """Return whether a child has another form than when the record was written.

        A child that wasn't admitted then, or isn't now, doesn't count: its task is refused.
        """
        if not isinstance(recorded, bytes):
            return False
        forms = b"".join(self._form(each.agent) for each in read)
        size = len(_NO_FORM)
        pairs = (
            (recorded[at : at + size], forms[at : at + size]) for at in range(0, len(forms), size)
        )
        return any(then != now and _NO_FORM not in (then, now) for then, now in pairs)

    def _form(self, agent: str) -> bytes:
        return bytes.fromhex(self.forms.get(agent, "")) or _NO_FORM


class Finder:
    """Asks a function for the children that tasks name.

    Args:
        lead: The agent that sends requests.
        find: The function.
        timeout: How long it may take for one name, in seconds; None for the default.

    Attributes:
        advice: Why a name has no child and what to do, to follow the name in a message.
        form: A digest of its name, for comparison with another process.
    """

    def __init__(self, lead: Agent, find: FindChild, timeout: float | None) -> None:
        self._lead = lead
        self._find = find
        self._asking = Asking(find, timeout)
        self.advice: str = str(getattr(find, "advice", _ADVICE))
        self.form: bytes = form_of_function(find)

    def is_same(self, other: Finder) -> bool:
        """Return whether both ask the same function, which has the same values in its closure."""
        return is_same_function(self._find, other._find)

    def find(self, names: Iterable[str]) -> Found:
        """Ask for the child of each name.

        Raises:
            TypeError: The function is async.
        """
        return self._sorted({name: self.ask(name) for name in names})

    async def afind(self, names: Iterable[str]) -> Found:
        """Async form of ``find``."""
        return self._sorted({name: await self.aask(name) for name in names})

    def ask(self, name: str) -> object:
        """Return the child of a name as the function returned it, or why the name has none.

        Raises:
            TypeError: The function is async.
        """
        if reason := self._why_not_asked(name):
            return _Refused(reason)
        try:
            return self._asking.ask(name)
        except _OF_ONE_NAME as error:
            return self._refusal(error)

    async def aask(self, name: str) -> object:
        """Async form of ``ask``."""
        if reason := self._why_not_asked(name):
            return _Refused(reason)
        try:
            return await self._asking.aask(name)
        except _OF_ONE_NAME as error:
            return self._refusal(error)

    def _refusal(self, error: Exception) -> _Refused:
        if isinstance(error, Stuck):
            within = f"within {self._asking.timeout:g} seconds (timeout=)"
            return _Refused("child not found in time", f"it wasn't found {within}")
        if isinstance(error, UnfitChild):
            return _Refused(_UNFIT, str(error))
        # A function that has one message for every reason raises the true one as the cause.
        exact = type(error.__cause__ or error)
        return _Refused(_REASONS.get(exact, "child not permitted"))

    def _why_not_asked(self, name: str) -> str:
        if not is_username(name):
            return "malformed name"
        return "the lead itself" if name == self._lead.username else ""

    def _sorted(self, answers: Mapping[str, object]) -> Found:
        found = Found({}, {}, {})
        for name, answer in answers.items():
            if answer is None:
                found.refused[name] = _REASONS[UserNotFound]
            elif isinstance(answer, _Refused):
                found.refused[name] = answer.reason
                if answer.words:
                    found.unfit[name] = answer.words
            else:
                try:
                    found.children[name] = check_child(self._lead, name, answer)
                except (TypeError, ValueError) as error:
                    found.unfit[name] = str(error)
                    found.refused[name] = _UNFIT
        return found

    def note_refusals(self, found: Found) -> None:
        """Record in the audit which names have no child and why.

        At most 20 a minute for each lead, whatever the number of its spawns and tools.
        """
        questions = questions_of(self._lead)
        for name, reason in found.refused.items():
            now = self._lead.now()
            admitted = questions.admit(self._lead.username, _ACTION, now)
            if admitted.wait:
                if not admitted.is_noted:
                    return
                reason = "too many refused; more are not recorded"
            else:
                questions.count(self._lead.username, _ACTION, now)
            # A deactivated lead can't write to the audit. Its run ends with that error.
            with suppress(AccountError):
                self._lead.note_refusal(name, _ACTION, reason)


def required_function(lead: Agent, children: object, kinds: Mapping[str, str]) -> FindChild:
    """Return a function that finds children, unchanged.

    Raises:
        TypeError: It isn't a function.
        ValueError: It finds the agents of another lead, or a child is to prove itself otherwise.
    """
    if not callable(children):
        raise TypeError(
            'children must be a dict, {"agent_researcher": verified_child(…)}, or a function from '
            "a name to a child"
        )
    if isinstance(children, CreatedAgents) and not _is_same_agent(children.lead, lead):
        raise ValueError(
            f"children finds the agents that {children.lead.username!r} created, and the lead is "
            f"{lead.username!r}: use created_agents with this lead"
        )
    if kinds:
        raise ValueError(
            "proof: the children that a function finds always prove their answers; leave it out, "
            "or pass children as a dict"
        )
    return children


def _is_same_agent(one: Agent, other: Agent) -> bool:
    return one.username == other.username and home_of(one) is home_of(other)


def named_agents(tasks: object) -> list[str]:
    """Return the names of the agents in the tasks of a state, each once."""
    if not isinstance(tasks, list | tuple):
        return []
    names = (each.get("agent") for each in tasks if isinstance(each, Mapping))
    # Exactly `str`: a subclass could run its own code in the function.
    return list(dict.fromkeys(each for each in names if type(each) is str))
