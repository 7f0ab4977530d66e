"""Require that people can answer before they are asked, so that nobody waits in vain.

Whether an answer counts is decided again, by `approvals/`, when it is given and when it is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipelit_agents._core import Core
from pipelit_agents.accounts.lookup import find_active_person
from pipelit_agents.errors import SecondFactorError, UserInactive

__all__ = ["no_possible_approver", "require_possible", "without_second_factor"]


def require_possible(core: Core, steps: Iterable[tuple[Sequence[str], int]]) -> None:
    """Require that the people of one step can answer.

    Args:
        core: The database of the accounts.
        steps: The people of each step, and how many of them must approve.

    Raises:
        UserNotFound: A name has no account.
        NotPermitted: A name isn't a person's.
        SecondFactorError: Too few people can answer; the message has each reason.
    """
    problems: dict[str, str] = {}
    possible, most = False, 0
    with core.database.reading() as connection:
        for names, at_least in steps:
            able = 0
            for name in names:
                try:
                    if find_active_person(connection, name).totp_secret is not None:
                        able += 1
                    else:
                        problems[name] = without_second_factor(name)
                except UserInactive as error:
                    problems[name] = str(error)
            possible, most = possible or able >= at_least, max(most, able)
    if not possible:
        raise no_possible_approver(problems.values(), "too few" if most else "none")


def without_second_factor(name: str) -> str:
    """Return the reason why a person without a second factor can't approve."""
    return f"{name!r} has no second factor: pipelit-agents mfa enroll {name}"


def no_possible_approver(reasons: Iterable[str], able: str = "none") -> SecondFactorError:
    """Return the error for approvers of whom too few can answer, with each one's reason."""
    return SecondFactorError(f"{able} of the approvers can approve: {'; '.join(reasons)}")
