"""A revealed secret, which leaves by one door only."""

from __future__ import annotations

import hmac
from contextlib import suppress
from typing import Any, NoReturn

from pydantic import SecretStr
from pydantic_core import SchemaSerializer, core_schema

from pipelit_agents.errors import CredentialScopeError

__all__ = ["Secret"]

_SHORTEST_SHOWN = 12


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise TypeError(
        "a Secret can't be copied, pickled or serialized: keep it out of state, stores and "
        "results, and call get_secret_value() where the plaintext is used"
    )


def _bytes(value: str) -> bytes:
    # compare_digest takes ASCII strings or bytes, and a secret may hold any character.
    return value.encode("utf-8", errors="surrogatepass")


class Secret(SecretStr):
    """The opened value of a credential, readable while its scope is open.

    A drop-in `pydantic.SecretStr`: fields of that type keep the same instance. `str`, `repr`,
    `print` and logging's ``%s`` show a mask. It hashes by identity, compares in constant time, and
    refuses pickle, copy, LangGraph's serializer and JSON. It also refuses to be put into a longer
    text by an f-string, `str.format` or ``+``, which would send the mask instead of the secret. A
    model that holds it in a `SecretStr` field dumps pydantic's mask.

    Args:
        secret_value: The plaintext.
        credential: The name of the credential that it belongs to.

    Attributes:
        credential: The name of the credential that it belongs to.
    """

    # Slots keep the plaintext out of vars(): encoders of last resort write __dict__.
    __slots__ = ("_length", "_mask", "_secret_value", "credential")

    def __init__(self, secret_value: str, *, credential: str = "") -> None:
        super().__init__(secret_value)
        self.credential = credential
        self._length = len(secret_value)
        self._mask = "****" + (secret_value[-4:] if self._length >= _SHORTEST_SHOWN else "")

    def get_secret_value(self) -> str:
        """Return the plaintext.

        Raises:
            CredentialScopeError: The node or tool that it was opened for has ended.
        """
        try:
            return self._secret_value
        except AttributeError:
            raise CredentialScopeError(
                f"the secret of credential {self.credential!r} can't be read any more: it was "
                "opened for a node or tool that has ended; open it where it is used",
                credential=self.credential,
            ) from None

    def close(self) -> None:
        """Drop the plaintext, for good. Closing twice does nothing."""
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

    # By value would be an oracle, and would change when the scope closes.
    __hash__ = object.__hash__

    def __len__(self) -> int:
        return self._length

    def _display(self) -> str:
        return self._mask

    def _refuse_text(self, _: object = None) -> NoReturn:
        raise TypeError(
            f"the secret of credential {self.credential!r} was put into a text, which would get "
            "its mask instead of the secret: use get_secret_value() where the plaintext is sent, "
            "as in f'Bearer {key.get_secret_value()}', or str() for the mask, as in {key!s}"
        )

    # A header with the mask in it would go out, and be refused elsewhere without a reason.
    __format__ = __add__ = __radd__ = _refuse_text

    # LangGraph's serializer asks for model_dump first, and for get_secret_value next: unless
    # this raises, the plaintext is written.
    model_dump = model_dump_json = _refuse
    __reduce__ = __reduce_ex__ = __getstate__ = _refuse

    __pydantic_serializer__ = SchemaSerializer(
        core_schema.any_schema(
            serialization=core_schema.plain_serializer_function_ser_schema(
                _refuse, when_used="json"
            )
        )
    )
