"""Name the parts of a credential that the leak guard searches for, and those that it doesn't."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from pipelit_agents.credentials.leak_guard.parts import parts
from pipelit_agents.credentials.leak_guard.recognition import Level, Part, Verdict, verdict

__all__ = ["DEFAULT_FIELD", "Described", "described"]

# The field name of a credential's only secret.
DEFAULT_FIELD: Final = "value"


class Described(NamedTuple):
    """The names of a credential's parts, by how the search treats them.

    Attributes:
        searched: Secrets that are searched for.
        short: Secrets that are too short to be searched for.
        common: Secrets that are too common to be searched for.
        public: Parts that aren't known to be secrets.
    """

    searched: tuple[str, ...]
    short: tuple[str, ...]
    common: tuple[str, ...]
    public: tuple[str, ...]


def described(fields: Mapping[str, str]) -> Described:
    """Return the names of the parts that are searched for, and of those that aren't.

    Args:
        fields: The credential's secrets by name.
    """
    found: dict[str, Verdict] = {}
    for name, secret in fields.items():
        # A whole secret is never too common: the user declared it to be a secret.
        whole = Part(name, secret.strip(), Level.CERTAIN)
        inner = [
            part._replace(path=_qualified_path(name, part.path, fields)) for part in parts(secret)
        ]
        for part in (whole, *(part for part in inner if part.path)):
            decided = verdict(part)
            if found.get(part.path) is not Verdict.SEARCHED and part.value:
                found[part.path] = decided
    return Described(*(tuple(path for path in found if found[path] is each) for each in Verdict))


def _qualified_path(name: str, path: str, fields: Mapping[str, str]) -> str:
    # If the only secret has no name, the names of its parts are enough.
    unnamed = list(fields) == [DEFAULT_FIELD] and path != DEFAULT_FIELD
    return path if not path or unnamed else f"{name}.{path}"
