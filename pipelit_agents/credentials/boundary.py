"""What may not cross the end of a node: the plaintext of a secret that was opened in it.

What a node returns or yields is searched, in clear and as it looks in base64, hexadecimal, URLs and
JSON; what it raises loses the plaintext and keeps its type and chain. Values shorter than eight
characters aren't looked for: they would be found everywhere.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from types import GetSetDescriptorType, MemberDescriptorType, ModuleType
from typing import Any, Final
from urllib.parse import quote, quote_plus

import ormsgpack

from pipelit_agents.credentials.secret import Secret
from pipelit_agents.errors import SecretLeakError

__all__ = ["Unsearched", "masked", "redact", "refuse_leak"]

MASK: Final = "****"
_SHORTEST: Final = 8
_DEEPEST: Final = 200
_LEAVES: Final = frozenset({bool, int, float, complex, type(None)})
_PACKING: Final = (
    ormsgpack.OPT_NON_STR_KEYS
    | ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_SUBCLASS
)


class Unsearched:
    """What no search looks into, because it holds the secrets by its nature."""


def refuse_leak(
    value: Any, revealed: Mapping[str, str], where: str = "what the node returns"
) -> None:
    """Makes sure that a value holds none of the secrets.

    Args:
        value: What leaves the node: state, messages, commands, or anything with attributes.
        revealed: Credential names by plaintext.
        where: Which way out it is, for the message.

    Raises:
        SecretLeakError: It holds one. The error names the place and the credential, never the
            secret.
    """
    needles = [(each, name) for secret, name in revealed.items() for each in _forms(secret)]
    if not _suspicious(value, [needle for needle, _ in needles]):
        return
    try:
        for path, found in _texts(value, "", {}):
            if isinstance(found, Secret):
                raise _leak(found.credential, path, where)
            for needle, credential in needles:
                if needle in found:
                    raise _leak(credential, path, where)
    except RecursionError:
        # It is there, somewhere too deep to name.
        raise _leak(", ".join(sorted(set(revealed.values()))), "", where) from None


def redact(error: BaseException, revealed: Mapping[str, str]) -> None:
    """Takes the secrets out of an exception, its notes, attributes and whole chain, in place.

    Args:
        error: What the node raised; it stays the same object.
        revealed: Credential names by plaintext.

    Raises:
        SecretLeakError: A group of exceptions has one in its message, which Python never lets
            change.
    """
    needles = _needles(revealed)
    if not needles:
        return
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        each.args = _masked(each.args, needles, 0, inside=True)
        for name, found in list(vars(each).items()):
            vars(each)[name] = _masked(found, needles, 0, inside=True)
        for name in _members(each):
            with suppress(AttributeError, TypeError):
                found = getattr(each, name)
                if (shown := _masked(found, needles, 0, inside=True)) is not found:
                    setattr(each, name, shown)
        waiting += [each.__cause__, each.__context__]
        if isinstance(each, BaseExceptionGroup):
            waiting += each.exceptions
            refuse_leak(each.message, revealed, "the message of an exception group")


def masked(value: Any, revealed: Mapping[str, str]) -> Any:
    """A value without the secrets, for what is only shown: logs and traces.

    Args:
        value: Text, bytes, containers of them, or objects that would be shown by their text.
        revealed: Credential names by plaintext.

    Returns:
        The value, rebuilt where it held one.
    """
    needles = _needles(revealed)
    return _masked(value, needles, 0) if needles else value


def _members(error: BaseException) -> Iterator[str]:
    # What C keeps outside __dict__, such as an OSError's strerror, and slots.
    for kind in type(error).__mro__:
        for name, found in vars(kind).items():
            kept = isinstance(found, MemberDescriptorType | GetSetDescriptorType)
            if kept and not name.startswith("__"):
                yield name


def _needles(revealed: Mapping[str, str]) -> list[str]:
    return sorted(
        {form.decode() for secret in revealed for form in _forms(secret)}, key=len, reverse=True
    )


def _leak(credential: str, path: str, where: str) -> SecretLeakError:
    return SecretLeakError(
        f"the secret of credential {credential!r} stands in {where}, at "
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


def _suspicious(value: Any, needles: list[bytes]) -> bool:
    """Whether a value may hold a secret or a needle.

    It runs over every state, so it has to be fast: one pass in C writes all its texts into one
    buffer. What that can't follow is walked.
    """
    seen: dict[int, Any] = {}

    def unpacked(each: Any) -> Any:
        if isinstance(each, str):
            return str.__str__(each)
        if isinstance(each, int):
            return None
        if isinstance(each, bytearray | memoryview):
            return bytes(each)
        if isinstance(each, Secret):
            raise TypeError
        if id(each) in seen:
            return None
        # Objects refer to each other in circles, and are kept so that none takes another's id.
        seen[id(each)] = each
        if isinstance(each, Mapping):
            return list(each.items())
        return [*_items(each), *(inner for _, inner in _attributes(each))]

    try:
        packed = ormsgpack.packb(value, default=unpacked, option=_PACKING)
    except Exception:
        return _holds(value, needles)
    return any(needle in packed for needle in needles)


def _holds(value: Any, needles: list[bytes]) -> bool:
    """The same by a walk that no depth, cycle or foreign object ends."""
    texts: list[str] = []
    others: list[bytes] = []
    waiting: list[Any] = [value]
    seen: dict[int, Any] = {}
    while waiting:
        each = waiting.pop()
        kind = type(each)
        if kind is str:
            texts.append(each)
            continue
        if kind in _LEAVES or id(each) in seen:
            continue
        seen[id(each)] = each
        if kind is dict:
            waiting.extend(each)
            waiting.extend(each.values())
        elif kind is list or kind is tuple:
            waiting.extend(each)
        elif isinstance(each, Secret):
            return True
        elif isinstance(each, str):
            texts.append(str.__str__(each))
        elif isinstance(each, bytes | bytearray | memoryview):
            others.append(bytes(each))
        elif isinstance(each, Mapping):
            for key, inner in each.items():
                waiting += (key, inner)
        else:
            waiting.extend(_items(each))
            waiting.extend(inner for _, inner in _attributes(each))
    joined = "\n\0\n".join(texts)
    shown = [needle.decode("utf-8", "surrogatepass") for needle in needles]
    return any(needle in joined for needle in shown) or any(
        needle in text for text in others for needle in needles
    )


def _texts(value: Any, path: str, seen: dict[int, Any]) -> Iterator[tuple[str, bytes | Secret]]:
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
    if type(value) in _LEAVES or id(value) in seen:
        return
    # Kept, so that no other object gets the same id meanwhile.
    seen[id(value)] = value
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _texts(key, f"{path}.<key>" if path else "<key>", seen)
            name = key if isinstance(key, str) else repr(key)
            yield from _texts(each, f"{path}.{name}" if path else name, seen)
    else:
        for position, each in enumerate(_items(value)):
            yield from _texts(each, f"{path}[{position}]", seen)
        for name, each in _attributes(value):
            yield from _texts(each, f"{path}.{name}" if path else name, seen)


def _items(value: Any) -> Collection[Any]:
    # Of the type: a pydantic model takes its time to say that it has no such attribute.
    kind = type(value)
    if hasattr(kind, "tobytes") and hasattr(kind, "tolist"):
        # An array: of text or objects by its items, of numbers as it lies in memory.
        kind = getattr(getattr(value, "dtype", None), "kind", "")
        return value.tolist() if kind in ("O", "S", "U") else [value.tobytes()]
    return value if isinstance(value, Collection) and not isinstance(value, type) else ()


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    # Whatever an object keeps, whichever way: LangGraph's Send has slots, a model extra fields.
    if isinstance(value, BaseException):
        yield "args", value.args
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield field.name, getattr(value, field.name, None)
        return
    if isinstance(value, type | ModuleType | Unsearched) or callable(value):
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


def _masked(value: Any, needles: list[str], depth: int, *, inside: bool = False) -> Any:
    if depth > _DEEPEST:
        return MASK
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
        return type(value)(_masked(each, needles, depth + 1, inside=inside) for each in value)
    if type(value) is dict:
        return {
            _masked(key, needles, depth + 1, inside=inside): _masked(
                each, needles, depth + 1, inside=inside
            )
            for key, each in value.items()
        }
    if type(value) in _LEAVES or isinstance(value, BaseException | Secret):
        return value
    if inside:
        return _emptied(value, needles, depth)
    return MASK if _shows(value, needles) else value


def _emptied(value: Any, needles: list[str], depth: int) -> Any:
    # What an exception carries, a request or a response, keeps the rest of what it knows.
    forms = [needle.encode() for needle in needles]
    if not _suspicious(value, forms) and not _shows(value, needles):
        return value
    kept = getattr(value, "__dict__", None)
    if isinstance(kept, dict):
        for name, found in list(kept.items()):
            kept[name] = _masked(found, needles, depth + 1, inside=True)
    return MASK if _suspicious(value, forms) or _shows(value, needles) else value


def _shows(value: Any, needles: list[str]) -> bool:
    try:
        shown = str(value) + repr(value)
    except Exception:
        return True
    return any(needle in shown for needle in needles)
