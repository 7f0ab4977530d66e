"""The credentials that the children of a spawn may open at most; a task can only narrow them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final, TypeAlias

from pipelit_agents._words import quoted
from pipelit_agents.credentials.limits import require_references

__all__ = ["REMOTE_OPENS_ITS_OWN", "Ceiling", "ChildCredentials"]

ChildCredentials: TypeAlias = Collection[str] | Mapping[str, Collection[str] | None] | None

REMOTE_OPENS_ITS_OWN: Final = (
    "is a child on another machine, and opens the credentials of its own deployment, which nothing "
    "here can limit"
)
_NONE: Final[frozenset[str]] = frozenset()


class Ceiling:
    """The credentials that each child may open at most.

    Args:
        credentials: Those of all children; or those of each child by its name, None for no limit;
            or None for no limit at all.

    Raises:
        TypeError: It isn't a list of text, or a dict of such lists.
        ValueError: It names too many.
        CredentialError: One of the names can't be that of a credential.
    """

    def __init__(self, credentials: ChildCredentials) -> None:
        self._all: frozenset[str] | None = None
        self._each: dict[str, frozenset[str] | None] | None = None
        if isinstance(credentials, Mapping):
            self._each = {
                child: None
                if names is None
                else require_references(f"credentials[{quoted(child)}]", names)
                for child, names in credentials.items()
            }
        elif credentials is not None:
            self._all = require_references("credentials", credentials)

    def of(self, child: str) -> frozenset[str] | None:
        """Return what a local child may open: none if a dict leaves it out; None for no limit."""
        return self._all if self._each is None else self._each.get(child, _NONE)

    def limits_remote(self, child: str) -> bool:
        """Return whether it is meant to limit a child on another machine, which it can't."""
        return (self._all if self._each is None else self._each.get(child)) is not None

    def check(self, local: Iterable[str], remote: Iterable[str]) -> None:
        """Validate it against the children of a spawn.

        Raises:
            ValueError: It names something that isn't a child, leaves out a local child, or limits a
                remote one.
        """
        local, remote = set(local), set(remote)
        for child in sorted(filter(self.limits_remote, remote)):
            others = ", ".join(f"{each!r}: […]" for each in sorted(local))
            fix = f"Name the others alone: credentials={{{others}}}" if local else "Leave it out"
            raise ValueError(f"credentials: {child!r} {REMOTE_OPENS_ITS_OWN}. {fix}")
        if self._each is None:
            return
        for child in self._each.keys() - local - remote:
            raise ValueError(
                f"credentials names {quoted(child)}, which isn't a child; the children are "
                f"{', '.join(sorted(local | remote))}"
            )
        for child in sorted(local - self._each.keys()):
            raise ValueError(
                f"credentials says nothing of the child {child!r}: add {child!r}: [] if it may "
                "open none, or None for no limit"
            )
