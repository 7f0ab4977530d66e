"""Search values that leave a node for the plaintext of secrets that were opened in it.

``patterns`` defines what a secret looks like, and ``written`` what a value could be written as.
Exceptions aren't searched here: ``masking`` removes the plaintext from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, cast

from pipelit_agents.credentials.leak_guard.own_forms import Budget, children_of, has_own_forms
from pipelit_agents.credentials.leak_guard.patterns import Patterns
from pipelit_agents.credentials.leak_guard.written import (
    LEAVES,
    MAX_ROUNDS,
    Written,
    as_bytes,
    shows_a_number,
    written,
)
from pipelit_agents.credentials.secret import Secret
from pipelit_agents.errors import SecretLeakError

__all__ = ["holds", "refuse_leak"]
_MAX_PATH_LENGTH: Final = 200
# More objects than any state has. A value that makes new objects while it is read never ends.
_MAX_OBJECTS: Final = 20_000_000

_NO_PLAINTEXTS: Final[Mapping[int, str]] = {}

Revealed = Mapping[str, str] | Patterns


def refuse_leak(
    value: object,
    revealed: Revealed,
    where: str = "the node's return value",
    *,
    already_searched: Sequence[object] = (),
    plain: Mapping[int, str] = _NO_PLAINTEXTS,
    excused: Sequence[object] = (),
) -> None:
    """Raise an error if a value contains one of the secrets.

    Args:
        value: The value that leaves the node: state, messages, commands, or any object.
        revealed: Credential names by plaintext.
        where: What the value is, for the error message.
        already_searched: Objects that were searched before and are skipped.
        plain: Credential names by the ``id`` of the text objects that are opened secrets
            themselves, and not merely equal to one.
        excused: Objects that needn't be searchable, because they were in the input.

    Raises:
        SecretLeakError: The value contains a secret, or can't be searched. The error names the
            path and the credential, never the secret.
    """
    patterns = patterns_of(revealed)
    made = _written(value, already_searched)
    if made is not None:
        found = made.holds_any(patterns), not plain.keys().isdisjoint(map(id, made.texts))
        if not (made.secret or any(found)):
            ids = set(map(id, excused))
            for each, reason in made.unknown:
                if id(each) not in ids:
                    raise _unsearchable_error(reason, patterns, where)
            return
    _raise_located(value, patterns, where, plain)
    # The secret is there, in a form that spans several objects, such as a list of its bytes.
    raise leak_error(patterns.names, "", where)


def _raise_located(value: object, patterns: Patterns, where: str, plain: Mapping[int, str]) -> None:
    """Raise an error that names the path of the secret; return if no single object holds it."""
    waiting: list[tuple[object, str, int]] = [(value, "", 0)]
    seen: dict[int, object] = {}
    budget = Budget()
    while waiting and len(seen) < _MAX_OBJECTS:
        each, path, rounds = waiting.pop()
        kind = type(each)
        if issubclass(kind, Secret):
            raise leak_error(cast(Secret, each).credential, path, where)
        if id(each) in plain:
            raise leak_error(plain[id(each)], path, where)
        text = as_bytes(each)
        if text is not None and patterns.in_bytes(text):
            raise leak_error(patterns.owner_in(text), path, where)
        if (owner := shows_a_number(each, patterns)) is not None:
            raise leak_error(owner, path, where)
        if kind not in LEAVES and id(each) not in seen:
            seen[id(each)] = each
            rounds += has_own_forms(kind)
            if rounds <= MAX_ROUNDS:
                found = children_of(each, budget)
                inner = [(part, _joined_path(path, key), rounds) for key, part in found]
                waiting.extend(reversed(inner))


def holds(
    value: object,
    revealed: Revealed,
    *,
    opened: bool = True,
    already_searched: Sequence[object] = (),
) -> bool:
    """Return whether a value contains one of the secrets, or can't be searched.

    Args:
        value: object value.
        revealed: Credential names by plaintext.
        opened: Whether ``Secret`` objects, and objects that can't be searched, count too.
        already_searched: Objects that were searched before and are skipped.
    """
    patterns = patterns_of(revealed)
    made = _written(value, already_searched)
    if made is None:
        return True
    return made.holds_any(patterns) or (opened and bool(made.secret or made.unknown))


def _written(value: object, already_searched: Sequence[object] = ()) -> Written | None:
    """Collect the texts and bytes of a value; return None if memory runs out."""
    try:
        return written(value, already_searched=already_searched)
    except MemoryError:
        return None


def patterns_of(revealed: Revealed) -> Patterns:
    """Return the patterns of secrets; patterns themselves are returned unchanged."""
    return revealed if isinstance(revealed, Patterns) else Patterns(revealed)


def _joined_path(path: str, key: object) -> str:
    if type(key) is int:
        return f"{path}[{key}]"[:_MAX_PATH_LENGTH]
    name = key if isinstance(key, str) else repr(key)
    return (f"{path}.{name}" if path and name else path or name)[:_MAX_PATH_LENGTH]


def _unsearchable_error(reason: str, patterns: Patterns, where: str) -> SecretLeakError:
    return SecretLeakError(
        f"{where} can't be searched for the secret of credential {patterns.names!r}: it contains "
        f"an object that can't be read, because {reason}. Leave that object out",
        credential=patterns.names,
    )


def leak_error(credential: str, path: str, where: str) -> SecretLeakError:
    """Return the error for a secret that was found."""
    return SecretLeakError(
        f"the secret of credential {credential!r} is in {where}, at "
        f"{path or 'the value itself'}. Leave it out: it would be stored or sent",
        credential=credential,
        path=path,
    )
