"""Limit the credentials that the running code may open, such as to those that a task needs.

A limit is a context variable, so it reaches what runs in the context of its block: sub-graphs,
LangGraph's and LangChain's threads, ``asyncio.to_thread`` and tasks, also after the block ended. A
thread that code starts without its context isn't limited.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextvars import ContextVar, Token
from typing import Final

from pipelit_agents._words import quoted, recordable
from pipelit_agents.credentials.rules import require_reference
from pipelit_agents.errors import CredentialNotAllowed

__all__ = ["MAX_NAMED", "limited_to", "refusal_beyond_limit", "require_references"]

# How many credentials one limit may name.
MAX_NAMED: Final = 100
_MAX_LISTED: Final = 10

_LIMIT: Final[ContextVar[frozenset[str] | None]] = ContextVar(
    "pipelit_agents_credential_limit", default=None
)


def require_references(argument: str, references: object) -> frozenset[str]:
    """Return the credentials of a limit, each as ``credential`` or ``credential:field``.

    Raises:
        TypeError: It isn't a list of text.
        ValueError: It names too many.
        CredentialError: One of them can't be the name of a credential. It isn't repeated.
    """
    if not isinstance(references, Collection) or isinstance(references, str | bytes | Mapping):
        raise TypeError(
            f"{argument} must be a list of credentials' names, such as ['github'], or [] for none; "
            f"not {type(references).__name__}"
        )
    if len(references) > MAX_NAMED:
        raise ValueError(f"{argument} names {len(references)} credentials, and at most {MAX_NAMED}")
    # Copied, because a subclass of str could compare as it likes.
    return frozenset(str.__str__(require_reference(argument, each)) for each in references)


class limited_to:  # noqa: N801 - used like a function
    """Let the code in the block open only the named credentials, also through what it calls.

    A credential that is named without a field includes all of its fields. A limit inside another
    can only narrow it.

    Args:
        limits: Each the names of credentials; None for no limit. All of them apply.
    """

    __slots__ = ("_limits", "_token")

    def __init__(self, *limits: frozenset[str] | None) -> None:
        self._limits = limits

    def __enter__(self) -> None:
        limit = _LIMIT.get()
        for each in self._limits:
            limit = _narrowed(limit, each)
        self._token: Token[frozenset[str] | None] = _LIMIT.set(limit)

    def __exit__(self, *_: object) -> None:
        _LIMIT.reset(self._token)


def refusal_beyond_limit(name: str, wanted: str | None) -> CredentialNotAllowed | None:
    """Return the error for a credential that the running code may not open; None if it may.

    Args:
        name: The credential.
        wanted: The field, if the caller named one.
    """
    limit = _LIMIT.get()
    if limit is None or _covers(limit, f"{name}:{wanted}" if wanted else name):
        return None
    listed = ", ".join(map(quoted, sorted(limit)[:_MAX_LISTED]))
    if len(limit) > _MAX_LISTED:
        listed += f" and {len(limit) - _MAX_LISTED} more"
    field = f", field {quoted(wanted)}" if wanted else ""
    return CredentialNotAllowed(
        f"credential {quoted(name)}{field}: this task may open only {listed or 'none at all'}. If "
        "it needs another one, name that in credentials= of the parent's spawn, and in the task's "
        "'credentials' if it has them",
        credential=recordable(name),
    )


def _narrowed(one: frozenset[str] | None, other: frozenset[str] | None) -> frozenset[str] | None:
    if one is None or other is None:
        return other if one is None else one
    return frozenset(
        [each for each in one if _covers(other, each)]
        + [each for each in other if _covers(one, each)]
    )


def _covers(limit: frozenset[str], reference: str) -> bool:
    return reference in limit or reference.partition(":")[0] in limit
