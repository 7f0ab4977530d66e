"""What approvals need of people's accounts, and whether anybody can answer a question."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from pipelit_agents.approvals.arguments import no_possible_approver, no_second_factor
from pipelit_agents.errors import AccountError, UserInactive

if TYPE_CHECKING:
    from pipelit_agents.identity.evidence import Verification

__all__ = ["People", "require_possible"]


class VerifyCode(Protocol):
    """Verifies a code of a person's second factor."""

    def __call__(self, username: str, code: str, *, own: bool) -> Verification:
        """Verify a code, or raise the error that names the reason of the refusal."""


class People(NamedTuple):
    """Functions for people's accounts that approvals need.

    Attributes:
        require_active: Raises an AccountError unless this is an active person.
        has_factor: Returns whether the person's second factor is on.
        verify: Verifies a code of the person.
    """

    require_active: Callable[[str], None]
    has_factor: Callable[[str], bool]
    verify: VerifyCode


def require_possible(people: People, steps: Iterable[tuple[Sequence[str], int]]) -> None:
    """Require that the people of one step can answer, so that nobody waits in vain.

    Args:
        people: Looks up accounts.
        steps: The people of each step, and how many of them must approve.

    Raises:
        UserNotFound: A name has no account.
        NotPermitted: A name isn't a person's.
        SecondFactorError: Too few people can answer; the message has each reason.
    """
    problems: dict[str, str] = {}
    possible, most = False, 0
    for names, at_least in steps:
        able = 0
        for name in names:
            try:
                people.require_active(name)
                if people.has_factor(name):
                    able += 1
                else:
                    problems[name] = no_second_factor(name)
            except AccountError as error:
                if not isinstance(error, UserInactive):
                    raise
                problems[name] = str(error)
        possible, most = possible or able >= at_least, max(most, able)
    if not possible:
        raise no_possible_approver(problems.values(), "too few" if most else "none")
