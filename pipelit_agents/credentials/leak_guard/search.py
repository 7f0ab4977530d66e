"""What may not cross the end of a node: the plaintext of a secret that was opened in it.

What a node returns or yields is searched; what it raises loses the plaintext and keeps its type and
chain. What a secret looks like, ``patterns`` knows, and where it may stand, ``insides``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pipelit_agents.credentials.leak_guard.patterns import Patterns
from pipelit_agents.credentials.leak_guard.traversal import (
    asks,
    insides,
)
from pipelit_agents.credentials.leak_guard.written import (
    ROUNDS,
    Written,
    as_bytes,
    shows_a_number,
    written,
)
from pipelit_agents.credentials.secret import Secret
from pipelit_agents.errors import SecretLeakError

__all__ = ["holds", "refuse_leak"]
_LONGEST_PATH: Final = 200
# More than any state has; what makes objects while it is looked at would never end.
_MOST: Final = 20_000_000
LEAVES: Final = frozenset({bool, int, float, complex, type(None)})

_NONE: Final[Mapping[int, str]] = {}

Revealed = Mapping[str, str] | Patterns


def refuse_leak(
    value: Any,
    revealed: Revealed,
    where: str = "what the node returns",
    *,
    besides: Sequence[Any] = (),
    plain: Mapping[int, str] = _NONE,
) -> None:
    """Makes sure that a value holds none of the secrets.

    Args:
        value: What leaves the node: state, messages, commands, or anything with attributes.
        revealed: Credential names by plaintext.
        where: Which way out it is, for the message.
        besides: Objects that were searched already.
        plain: Credential names by the ``id`` of texts that are an opened secret: no copy of what
            looks like it, but the secret.

    Raises:
        SecretLeakError: It holds one, or can't be searched. The error names the place and the
            credential, never the secret.
    """
    patterns = patterns_of(revealed)
    made = _written(value, besides)
    if made is not None:
        found = made.shows(patterns), not plain.keys().isdisjoint(map(id, made.texts))
        if not (made.secret or any(found)):
            if made.unknown:
                raise _unsearched(made.unknown[0][1], patterns, where)
            return
    _refuse(value, patterns, where, plain)
    # It is there, in a form that only the whole shows, such as a list of its bytes.
    raise leak_error(patterns.names, "", where)


def _refuse(value: Any, patterns: Patterns, where: str, plain: Mapping[int, str]) -> None:
    """Names the place of what was found."""
    waiting: list[tuple[Any, str, int]] = [(value, "", 0)]
    seen: dict[int, Any] = {}
    while waiting and len(seen) < _MOST:
        each, path, asked = waiting.pop()
        kind: Any = type(each)
        if issubclass(kind, Secret):
            raise leak_error(each.credential, path, where)
        if id(each) in plain:
            raise leak_error(plain[id(each)], path, where)
        text = as_bytes(each)
        if text is not None:
            for form, credential in patterns.forms.items():
                if form in text:
                    raise leak_error(credential, path, where)
        if (owner := shows_a_number(each, patterns)) is not None:
            raise leak_error(owner, path, where)
        if kind not in LEAVES and id(each) not in seen:
            seen[id(each)] = each
            asked += asks(kind)
            if asked <= ROUNDS:
                inner = [
                    (part, _under(path, place), asked) for place, part in insides(each, code=True)
                ]
                waiting.extend(reversed(inner))


def holds(
    value: Any, revealed: Revealed, *, opened: bool = True, besides: Sequence[Any] = ()
) -> bool:
    """Whether a value holds one of the secrets, or can't be searched.

    Args:
        value: Anything.
        revealed: Credential names by plaintext.
        opened: Whether a :class:`Secret` itself, and what can't be searched, count too.
        besides: Objects that were searched already.
    """
    patterns = patterns_of(revealed)
    made = _written(value, besides)
    if made is None:
        return True
    return made.shows(patterns) or (opened and bool(made.secret or made.unknown))


def _written(value: Any, besides: Sequence[Any] = ()) -> Written | None:
    """What could be written of a value; None where memory isn't enough for it."""
    try:
        return written(value, besides=besides)
    except MemoryError:
        return None


def patterns_of(revealed: Revealed) -> Patterns:
    return revealed if isinstance(revealed, Patterns) else Patterns(revealed)


def _under(path: str, place: Any) -> str:
    if type(place) is int:
        return f"{path}[{place}]"[:_LONGEST_PATH]
    name = place if isinstance(place, str) else repr(place)
    return (f"{path}.{name}" if path and name else path or name)[:_LONGEST_PATH]


def _unsearched(reason: str, patterns: Patterns, where: str) -> SecretLeakError:
    return SecretLeakError(
        f"{where} can't be searched for the secret of credential {patterns.names!r}: in it is an "
        f"object about which nothing is known, as {reason}; leave it out",
        credential=patterns.names,
    )


def leak_error(credential: str, path: str, where: str) -> SecretLeakError:
    return SecretLeakError(
        f"the secret of credential {credential!r} stands in {where}, at "
        f"{path or 'the value itself'}: leave it out, or it would be stored or sent",
        credential=credential,
        path=path,
    )
