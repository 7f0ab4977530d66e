"""What may not cross the end of a node: the plaintext of a secret that was opened in it.

What a node returns or yields is searched, in clear and as it looks in base64, hexadecimal, URLs and
JSON; what it raises loses the plaintext and keeps its type and chain. Values shorter than eight
characters aren't looked for: they would be found everywhere.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote, quote_plus

from pipelit_agents.credentials.secret import Secret
from pipelit_agents.errors import SecretLeakError

__all__ = ["redact", "refuse_leak"]

MASK: Final = "****"
_SHORTEST: Final = 8
_DEEPEST: Final = 200
_LEAVES: Final = (bool, int, float, complex, type(None))


def refuse_leak(value: Any, revealed: Mapping[str, str]) -> None:
    """Makes sure that a value holds none of the secrets.

    Args:
        value: What leaves the node: state, messages, commands, or anything with attributes.
        revealed: Credential names by plaintext.

    Raises:
        SecretLeakError: It holds one. The error names the place and the credential, never the
            secret.
    """
    needles = [(each, name) for secret, name in revealed.items() for each in _forms(secret)]
    for path, found in _texts(value, "", 0, {}):
        if isinstance(found, Secret):
            raise _leak(found.credential, path)
        for needle, credential in needles:
            if needle in found:
                raise _leak(credential, path)


def redact(error: BaseException, revealed: Mapping[str, str]) -> None:
    """Takes the secrets out of an exception, its notes, attributes and whole chain, in place.

    Args:
        error: What the node raised; it stays the same object.
        revealed: Credential names by plaintext.
    """
    needles = sorted(
        {form.decode() for secret in revealed for form in _forms(secret)}, key=len, reverse=True
    )
    if not needles:
        return
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        each.args = _masked(each.args, needles, 0)
        for name, found in list(vars(each).items()):
            vars(each)[name] = _masked(found, needles, 0)
        waiting += [each.__cause__, each.__context__]
        if isinstance(each, BaseExceptionGroup):
            waiting += each.exceptions


def _leak(credential: str, path: str) -> SecretLeakError:
    return SecretLeakError(
        f"the secret of credential {credential!r} stands in what the node returns, at "
        f"{path or 'the value itself'}: leave it out, or it would be stored or sent",
        credential=credential,
        path=path,
    )


@lru_cache(maxsize=64)
def _forms(secret: str) -> tuple[bytes, ...]:
    if len(secret) < _SHORTEST:
        return ()
    plain = secret.encode("utf-8", "surrogatepass")
    forms = {plain, plain.hex().encode(), plain.hex().upper().encode()}
    forms |= {quote(plain, safe="").encode(), quote_plus(plain).encode()}
    forms |= {json.dumps(secret)[1:-1].encode(), repr(secret)[1:-1].encode("utf-8", "replace")}
    for shift in range(3):
        # What stands before it shifts a value's base64; what both alignments share is looked for.
        encoded = base64.b64encode(bytes(shift) + plain).rstrip(b"=")
        whole = encoded[(shift * 8 + 5) // 6 : (len(plain) + shift) * 8 // 6]
        forms |= {whole, whole.replace(b"+", b"-").replace(b"/", b"_")}
    return tuple(form for form in forms if len(form) >= _SHORTEST)


def _texts(
    value: Any, path: str, depth: int, seen: dict[int, Any]
) -> Iterator[tuple[str, bytes | Secret]]:
    """Every text in a value, as bytes, and every secret, with its path."""
    if isinstance(value, Secret):
        yield path, value
        return
    if isinstance(value, str):
        yield path, value.encode("utf-8", "surrogatepass")
        return
    if isinstance(value, bytes | bytearray | memoryview):
        yield path, bytes(value)
        return
    if isinstance(value, _LEAVES) or id(value) in seen or depth > _DEEPEST:
        return
    # Kept, so that no other object gets the same id meanwhile.
    seen[id(value)] = value
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _texts(key, f"{path}.<key>" if path else "<key>", depth + 1, seen)
            name = key if isinstance(key, str) else repr(key)
            yield from _texts(each, f"{path}.{name}" if path else name, depth + 1, seen)
    elif isinstance(value, list | tuple | set | frozenset):
        for position, each in enumerate(value):
            yield from _texts(each, f"{path}[{position}]", depth + 1, seen)
    else:
        for name, each in _attributes(value):
            yield from _texts(each, f"{path}.{name}" if path else name, depth + 1, seen)


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    # Whatever an object keeps, whichever way: LangGraph's Send has slots, a model extra fields.
    if isinstance(value, BaseException):
        yield "args", value.args
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield field.name, getattr(value, field.name, None)
        return
    if isinstance(value, type) or callable(value):
        return
    kept = getattr(value, "__dict__", None)
    if isinstance(kept, Mapping):
        yield from kept.items()
    extra = getattr(value, "__pydantic_extra__", None)
    if isinstance(extra, Mapping):
        yield from extra.items()
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if not name.startswith("__"):
                yield name, getattr(value, name, None)


def _masked(value: Any, needles: list[str], depth: int) -> Any:
    if depth > _DEEPEST:
        return value
    if isinstance(value, str):
        for needle in needles:
            if needle in value:
                value = value.replace(needle, MASK)
        return value
    if isinstance(value, bytes):
        for needle in needles:
            value = value.replace(needle.encode(), MASK.encode())
        return value
    if type(value) in (list, tuple, set, frozenset):
        return type(value)(_masked(each, needles, depth + 1) for each in value)
    if type(value) is dict:
        return {
            _masked(key, needles, depth + 1): _masked(each, needles, depth + 1)
            for key, each in value.items()
        }
    if isinstance(value, BaseException):
        return value
    try:
        # An object in an exception, a response or a request, shows itself by its text.
        shown = str(value) + repr(value)
    except Exception:
        return MASK
    return MASK if any(needle in shown for needle in needles) else value
