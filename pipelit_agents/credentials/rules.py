"""The rules of what a credential may be called and contain, as ``put`` applies them.

A rule refuses an argument with an error that doesn't repeat a secret, or returns a warning.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from pydantic import SecretStr
from sqlalchemy import Connection, select

from pipelit_agents._words import has_secret_form, quoted, recordable
from pipelit_agents.credentials.described import DEFAULT_FIELD, Described
from pipelit_agents.credentials.leak_guard.recognition import (
    MIN_LENGTH,
    Level,
    Part,
    Verdict,
    is_common,
    is_token,
    level_of,
    verdict,
)
from pipelit_agents.credentials.secret import Secret
from pipelit_agents.credentials.whose import Whose
from pipelit_agents.database.models import UserRow
from pipelit_agents.errors import (
    CommonSecretWarning,
    CredentialError,
    CredentialScopeError,
    ShortSecretWarning,
)
from pipelit_agents.protocol.usernames import is_username, require_list, require_new_username

__all__ = [
    "Fields",
    "require_fields",
    "require_reachable",
    "require_reference",
    "secrets_in",
    "unknown_accounts",
    "warnings_about",
]

_MAX_KIND_LENGTH: Final = 64
# Letters and digits in a row, as names and kinds have none: a key without a prefix.
_LONG: Final = re.compile(
    r"(?<![A-Za-z0-9])(?=[A-Za-z]*[0-9])(?=[0-9]*[A-Za-z])[A-Za-z0-9]{20,}(?![A-Za-z0-9])"
)
_CLEAR: Final = "it isn't repeated here, and it would be stored and listed in clear"


class Fields(NamedTuple):
    """The fields that a credential's secrets are bound to.

    Attributes:
        name: The name.
        kind: What it is for.
        public: The public fields, as JSON.
        allow: The only accounts that may open it, as JSON; None if any account may.
    """

    name: str
    kind: str
    public: str
    allow: str | None

    @classmethod
    def of(
        cls,
        name: str,
        kind: str,
        public: Mapping[str, object] | None,
        allow: Sequence[str] | None,
    ) -> Fields:
        """Return the fields in the form in which they are stored."""
        try:
            public_json = json.dumps(dict(public or {}), sort_keys=True, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise CredentialError(
                f"credential {name!r}: public must be valid JSON ({error})", credential=name
            ) from None
        if found := _secret_within(json.loads(public_json)):
            raise CredentialError(
                f"credential {name!r}: public has a secret in the field {quoted(found)}, and "
                'public fields are stored and listed in clear: pass it in value, as {"api_key": …}',
                credential=name,
            )
        if allow is None:
            return cls(name, kind, public_json, None)
        allowed = {require_new_username(each, argument="allow") for each in allow}
        return cls(name, kind, public_json, json.dumps(sorted(allowed)))


def require_fields(
    name: str,
    kind: str,
    created_by: str,
    public: Mapping[str, object] | None,
    allow: Sequence[str] | None,
) -> None:
    """Require that a credential can have these fields.

    Raises:
        CredentialError: One of them is unusable. The error says which.
    """
    if not is_username(name):
        raise CredentialError(
            f"name {quoted(name)} is not a credential name: use 1 to 149 of the characters "
            "a-z 0-9 _ . - and begin with a letter or digit",
            credential=recordable(name),
        )
    if _is_key(name):
        raise CredentialError(
            f"name has the form of a key: {_CLEAR}. If it is the secret, pass it as value, and as "
            'name what to call it, such as "openai"',
            credential=recordable(name),
        )
    problem = ""
    if not isinstance(kind, str) or not 0 < len(kind) <= _MAX_KIND_LENGTH or not kind.isprintable():
        problem = f"kind must be 1 to {_MAX_KIND_LENGTH} printable characters, not {quoted(kind)}"
    elif _is_key(kind):
        problem = f'kind has the form of a key: {_CLEAR}. Pass a word, such as "llm"'
    elif isinstance(created_by, str) and has_secret_form(created_by):
        problem = f"created_by has the form of a key: {_CLEAR}"
    elif not isinstance(created_by, str) or not 0 < len(created_by) < 150:
        problem = "created_by must be the name of the account that stores it, 1 to 149 characters"
    elif allow is not None and (why := _why_no_list(allow)):
        problem = why
    elif public is not None and not isinstance(public, Mapping):
        problem = 'public must be a mapping of fields, for example {"base_url": "https://…"}'
    if problem:
        raise CredentialError(f"credential {name!r}: {problem}", credential=name)


def _why_no_list(allow: object) -> str:
    try:
        require_list(allow, argument="allow")
    except TypeError as error:
        return str(error)
    return ""


def _is_key(label: str) -> bool:
    return has_secret_form(label) or _LONG.search(label) is not None


def _secret_within(public: object, path: str = "", level: Level = Level.UNKNOWN) -> str:
    """Return the path of the first public field that is surely a secret; empty if none is."""
    if isinstance(public, str):
        named = level >= Level.SECRET and verdict(Part("", public, level)) is not Verdict.PUBLIC
        formed = level > Level.PUBLIC and has_secret_form(public)
        return path if named or formed or is_token(public) else ""
    if isinstance(public, list):
        return next(filter(None, (_secret_within(each, path, level) for each in public)), "")
    for name, value in public.items() if isinstance(public, dict) else ():
        inner = f"{path}.{name}" if path else name
        if _is_key(name):
            return inner
        if found := _secret_within(value, inner, level_of(name)):
            return found
    return ""


def require_reference(argument: str, reference: object) -> str:
    """Return a reference, ``credential`` or ``credential:field``, unchanged if it can be one.

    Raises:
        TypeError: It isn't text.
        CredentialError: It has another form, or that of a key. It isn't repeated.
    """
    if not isinstance(reference, str):
        raise TypeError(
            f"{argument} must be the name of a credential, as text, not {type(reference).__name__}"
        )
    name, _, field = reference.partition(":")
    # What follows "://" isn't a field, but an address that may have a password in it.
    if is_username(name) and not field.startswith("//") and not any(map(_is_key, (name, field))):
        return reference
    raise CredentialError(
        f'{argument} must be the name of a stored credential, for example "openai" or '
        '"database:password". The value isn\'t repeated, because it may be a secret',
        credential=recordable(reference),
    )


def secrets_in(name: str, value: str | SecretStr | Mapping[str, str | SecretStr]) -> dict[str, str]:
    """Return the secrets of a credential by name.

    Raises:
        CredentialError: There is none, or one isn't text.
        CredentialScopeError: One is an open secret.
    """
    values = value if isinstance(value, Mapping) else {DEFAULT_FIELD: value}
    fields = {}
    for key, secret in values.items():
        if isinstance(secret, Secret):
            raise CredentialScopeError(
                f"credential {name!r}: an open secret can't be stored again", credential=name
            )
        plain = secret.get_secret_value() if isinstance(secret, SecretStr) else secret
        if not isinstance(plain, str) or not plain or not isinstance(key, str):
            raise CredentialError(
                f"credential {name!r}: value must be text, or texts by field name, none empty",
                credential=name,
            )
        if _is_key(key):
            raise CredentialError(
                f"credential {name!r}: the name of a field has the form of a key: {_CLEAR}",
                credential=name,
            )
        fields[key] = plain
    if not fields:
        raise CredentialError(f"credential {name!r}: value is empty", credential=name)
    return fields


def require_reachable(connection: Connection, fields: Fields, whose: Whose) -> None:
    """Require that somebody can open a person's own credential, by its ``allow``.

    Raises:
        CredentialError: It names other persons only. They never open what is this person's.
    """
    names: list[str] = json.loads(fields.allow or "[]")
    if whose.person is None or not names or whose.person in names:
        return
    others = select(UserRow.username).where(
        UserRow.username.in_(names), UserRow.kind == "human", UserRow.domain == ""
    )
    if set(connection.scalars(others)) >= set(names):
        raise CredentialError(
            f"credential {fields.name!r}: allow names only other persons than {whose.person!r}, "
            "whose credential it is, so nobody could open it: name the agents that may open it, "
            "or leave allow out",
            credential=fields.name,
        )


def unknown_accounts(connection: Connection, fields: Fields) -> Iterator[str]:
    """Yield a warning for each name in ``allow`` that no account has."""
    names: list[str] = json.loads(fields.allow or "[]")
    accounts = set(connection.scalars(select(UserRow.username).where(UserRow.username.in_(names))))
    for each in names:
        if each not in accounts:
            yield f"credential {fields.name!r}: allow names {quoted(each)}, which is no account"


def warnings_about(
    name: str, secrets: Mapping[str, str], found: Described
) -> Iterator[tuple[str, type[Warning]]]:
    """Yield warnings about secrets that can't be searched for well."""
    unsearched = "it is stored encrypted, but values that leave a node are not searched for it"
    if found.short:
        yield (
            f"credential {name!r} has a secret of fewer than {MIN_LENGTH} characters "
            f"({', '.join(found.short)}): {unsearched}",
            ShortSecretWarning,
        )
    if found.common:
        yield (
            f"credential {name!r} has a secret that is an ordinary word or number "
            f"({', '.join(found.common)}): {unsearched}, because ordinary text may contain it. "
            "Use a generated secret",
            CommonSecretWarning,
        )
    words = [
        key for key, each in secrets.items() if len(each) >= MIN_LENGTH and is_common(each.strip())
    ]
    if words:
        yield (
            f"credential {name!r} has a secret that is an ordinary word or number "
            f"({', '.join(words)}): values that leave a node are searched for it, so ordinary text "
            "that contains it is refused. Use a generated secret, and store values that aren't "
            "secret in public",
            CommonSecretWarning,
        )
