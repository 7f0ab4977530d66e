"""The functions for people's accounts that approvals call. `accounts/` implements them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from pipelit_agents.identity.evidence import Verification

__all__ = ["People"]


class VerifyCode(Protocol):
    """Verifies a code of a person's second factor."""

    def __call__(self, username: str, code: str, *, own: bool) -> Verification:
        """Verify a code, or raise the error that names the reason of the refusal."""


class People(NamedTuple):
    """Functions for people's accounts that approvals need.

    Attributes:
        require_active: Raises an AccountError unless this is an active person.
        require_possible: Raises an error unless the people of one step could answer. It takes
            the people of each step, and how many of them must approve.
        verify: Verifies a code of the person.
    """

    require_active: Callable[[str], None]
    require_possible: Callable[[Iterable[tuple[Sequence[str], int]]], None]
    verify: VerifyCode
