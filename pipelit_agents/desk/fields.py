"""The fields that requests and answers of many endpoints have, and the models' base classes."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, ClassVar, Final, TypeAlias

from fastapi import Path
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    StringConstraints,
    WithJsonSchema,
)

__all__ = [
    "Answer",
    "Code",
    "KeyId",
    "KeyName",
    "Moment",
    "NewExpiry",
    "NewUsername",
    "OnceShown",
    "Purpose",
    "Request",
    "UsernameInPath",
    "UsernameInQuery",
    "open_secret",
]

USERNAME_PATTERN: Final = r"^[a-z0-9][a-z0-9_.-]{0,148}$"
_BEGINNING: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ]")
_MAX_CODE: Final = 64
_MAX_PURPOSE: Final = 2000


class Request(BaseModel):
    """The base class of request bodies: unknown fields are refused, and nothing is converted."""

    # Errors go to the client and to logs, and the input may be a secret.
    model_config: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid", strict=True, hide_input_in_errors=True
    )


class Answer(BaseModel):
    """The base class of answers."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid", from_attributes=True, hide_input_in_errors=True
    )


def open_secret(secret: SecretStr) -> str:
    """Return the text of a secret that an answer displays once."""
    return secret.get_secret_value()


def _require_text(value: object) -> object:
    # pydantic would take a number, also in a string, for Unix seconds.
    if not isinstance(value, str) or _BEGINNING.match(value) is None:
        raise ValueError("must be text, for example 2027-01-31T12:00:00Z")
    return value


def _require_words(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty")
    return text


def _require_zone(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("must have a time zone, for example 2027-01-31T12:00:00Z")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("must be a time between the years 1 and 9999 in UTC") from None


# Its repr is masked, so neither a log nor a traceback of the answer shows it.
OnceShown: TypeAlias = Annotated[
    SecretStr,
    PlainSerializer(open_secret, return_type=str),
    # pydantic would call it "write only", and here it is read.
    WithJsonSchema({"type": "string"}),
]
Moment: TypeAlias = Annotated[
    datetime, Field(description="RFC 3339, UTC.", examples=["2026-10-31T12:00:00Z"])
]
NewExpiry: TypeAlias = Annotated[
    Annotated[
        datetime,
        # JSON has no times, so a strict model would refuse their text.
        Field(strict=False),
        BeforeValidator(_require_text),
        AfterValidator(_require_zone),
    ]
    | None,
    Field(
        description="The time from which the key isn't accepted: RFC 3339, with a time zone. By "
        "default it doesn't expire.",
        examples=["2027-01-31T12:00:00Z"],
    ),
]
NewUsername: TypeAlias = Annotated[
    str,
    Field(
        pattern=USERNAME_PATTERN,
        max_length=149,
        description="1 to 149 of the characters `a-z 0-9 _ . -`, beginning with a letter or digit.",
        examples=["alice"],
    ),
]
UsernameInPath: TypeAlias = Annotated[
    str,
    Path(pattern=USERNAME_PATTERN, max_length=149, description="The account.", examples=["alice"]),
]
UsernameInQuery: TypeAlias = Annotated[
    str, StringConstraints(pattern=USERNAME_PATTERN, max_length=149)
]
KeyId: TypeAlias = Annotated[
    str,
    Path(
        pattern=r"^[0-9a-f]{12}$",
        description="The key's public id, the middle part of the key.",
        examples=["0123456789ab"],
    ),
]
KeyName: TypeAlias = Annotated[
    str,
    AfterValidator(_require_words),
    Field(
        min_length=1,
        max_length=149,
        description="The name to list the key under.",
        examples=["laptop"],
    ),
]
Purpose: TypeAlias = Annotated[
    str,
    AfterValidator(_require_words),
    Field(
        min_length=1,
        max_length=_MAX_PURPOSE,
        description="The agent's purpose, in a few words.",
        examples=["writes reports"],
    ),
]
Code: TypeAlias = Annotated[
    SecretStr,
    Field(
        min_length=1,
        max_length=_MAX_CODE,
        description=(
            "Six digits of the authenticator app, or a recovery code, as people type "
            "them. Each code can be used once."
        ),
        examples=["123456"],
    ),
]
