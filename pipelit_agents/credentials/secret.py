"""An opened secret, whose plaintext can be read in one way only."""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable
from contextlib import suppress
from typing import ClassVar, Final, NoReturn

from pydantic import SecretStr
from pydantic_core import SchemaSerializer, core_schema

from pipelit_agents.errors import CredentialScopeError

__all__ = ["Secret", "shown_end"]

_SHORTEST_SHOWN: Final = 12
# Characters of a secret's end that are looked at.
_LOOKED_AT: Final = 256
# What follows the last separator of a document, backwards, with the padding of Base64.
_BACKWARDS: Final = re.compile(r"=*[^\s\"'`=:;,&?@<>{}()\[\]|\\]*")


def _refuse(*_: object, **__: object) -> NoReturn:
    raise TypeError(
        "a Secret can't be copied, pickled or serialized: keep it out of state, stores and "
        "results, and call get_secret_value() where you use the plaintext"
    )


def _bytes(value: str) -> bytes:
    # compare_digest takes only ASCII strings or bytes, and a secret may contain any character.
    return value.encode("utf-8", errors="surrogatepass")


def shown_end(secret: str) -> str:
    """Return the last four characters of a secret, or nothing where they could be all of it.

    A document, such as JSON or a URL, may end with a short secret. So what follows its last
    separator has to have at least 12 characters.
    """
    found = _BACKWARDS.match(secret.rstrip()[-_LOOKED_AT:][::-1])
    end = found[0][::-1] if found else ""
    if "://" in secret:
        end = end.rpartition("/")[2]
    return end[-4:] if len(end) >= _SHORTEST_SHOWN else ""


class Secret(SecretStr):
    """The opened value of a credential, readable while its scope is open.

    A drop-in replacement for `pydantic.SecretStr`: fields of that type keep the same instance.
    `str`, `repr`, `print` and logging's ``%s`` display a mask. A secret hashes by identity,
    compares in constant time, and refuses pickle, copy, LangGraph's serializer and JSON. It also
    refuses f-strings, `str.format` and ``+``, which would send the mask instead of the secret. A
    model that holds it in a `SecretStr` field dumps pydantic's mask.

    Args:
        secret_value: The plaintext.
        credential: The name of the credential that it belongs to.

    Attributes:
        credential: The name of the credential that it belongs to.
    """

    # Slots keep the plaintext out of vars(), because some encoders fall back to __dict__.
    __slots__ = ("_length", "_mask", "_secret_value", "credential")

    def __init__(self, secret_value: str, *, credential: str = "") -> None:
        super().__init__(secret_value)
        self.credential: str = credential
        self._length = len(secret_value)
        self._mask = "****" + shown_end(secret_value)

    def get_secret_value(self) -> str:
        """Return the plaintext.

        Raises:
            CredentialScopeError: The node or tool that the secret was opened for has ended.
        """
        try:
            return self._secret_value
        except AttributeError:
            raise CredentialScopeError(
                f"the secret of credential {self.credential!r} can't be read any more: the node "
                "or tool that it was opened for has ended. Open it where you use it",
                credential=self.credential,
            ) from None

    def close(self) -> None:
        """Drop the plaintext permanently. Closing twice does nothing."""
        with suppress(AttributeError):
            del self._secret_value

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if isinstance(other, SecretStr):
            other = other.get_secret_value()
        if not isinstance(other, str):
            return NotImplemented
        return hmac.compare_digest(_bytes(self.get_secret_value()), _bytes(other))

    # A hash of the value would be an oracle, and would change when the scope closes.
    __hash__: ClassVar[Callable[[object], int]] = object.__hash__

    def __len__(self) -> int:
        return self._length

    def _display(self) -> str:
        return self._mask

    def _refuse_text(self, _: object = None) -> NoReturn:
        raise TypeError(
            f"the secret of credential {self.credential!r} was put into a text, which would "
            "contain its mask instead of the secret: use get_secret_value() where you send the "
            "plaintext, as in f'Bearer {key.get_secret_value()}', or {key!s} to get the mask"
        )

    # Otherwise a header with the mask would be sent, and the server would refuse it with no hint.
    __format__: ClassVar[Callable[..., NoReturn]] = _refuse_text
    __add__: Final = _refuse_text
    __radd__: Final = _refuse_text

    # LangGraph's serializer calls model_dump first and get_secret_value next. Unless these raise,
    # it writes the plaintext.
    model_dump: Final = _refuse
    model_dump_json: Final = _refuse
    __reduce__: ClassVar[Callable[..., NoReturn]] = _refuse
    __reduce_ex__: ClassVar[Callable[..., NoReturn]] = _refuse
    __getstate__: ClassVar[Callable[..., NoReturn]] = _refuse

    __pydantic_serializer__: SchemaSerializer = SchemaSerializer(
        core_schema.any_schema(
            serialization=core_schema.plain_serializer_function_ser_schema(
                _refuse, when_used="json"
            )
        )
    )
