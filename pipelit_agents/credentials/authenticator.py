"""The seeds of authenticators among a credential's secrets: what is stored, and what is shown.

A service that asks for codes gives its users a seed. Here it is stored as it is encrypted, and no
reference opens it: what opens is a code of it (``credentials/issued_codes.py``).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, TypeAlias

from pipelit_agents._bounds import require_seconds
from pipelit_agents._otpauth import (
    Authenticator,
    exported_accounts,
    is_export,
    is_otpauth,
    read_base32,
    read_otpauth,
)
from pipelit_agents._words import has_secret_form
from pipelit_agents.credentials.described import DEFAULT_FIELD
from pipelit_agents.errors import CredentialError

__all__ = [
    "CODE",
    "LONGEST_WAIT",
    "MAX_WAIT",
    "Separated",
    "Stored",
    "StoredSecret",
    "longest_wait",
    "plaintext_of",
    "seed_of",
    "separated",
]

# The field of a credential's only authenticator, and its name in references.
CODE: Final = "code"
# The public field that says how long a caller waits for a code, in seconds.
LONGEST_WAIT: Final = "longest_wait"
# The most that it may say.
MAX_WAIT: Final = 3600
_KIND: Final = "totp"
_MAX_LISTED: Final = 10
_SEVERAL: Final = "authenticators"
# A secret as it is encrypted: a text, or the seed of an authenticator. Earlier versions stored
# texts only, so a text of theirs is never taken for a seed.
StoredSecret: TypeAlias = str | Mapping[str, str | int]
Stored: TypeAlias = Mapping[str, StoredSecret]


class Separated(NamedTuple):
    """A credential's secrets, with the seeds apart from the texts.

    Attributes:
        texts: The secrets that open as they are, by name.
        stored: All secrets in the form in which they are encrypted.
        public: The public fields, with those of the authenticators.
    """

    texts: Mapping[str, str]
    stored: Stored
    public: Mapping[str, object] | None


def separated(
    name: str, kind: str, secrets: Mapping[str, str], public: Mapping[str, object] | None
) -> Separated:
    """Find the seeds among a credential's secrets.

    A secret is one if its whole text is the URI or the export of an authenticator app, or, for the
    only secret of the kind ``totp``, if it is Base32.

    Args:
        name: The credential.
        kind: Its kind.
        secrets: Its secrets by name.
        public: Its public fields.

    Raises:
        CredentialError: A seed can't be read, or a public field contradicts it.
    """
    alone = len(secrets) == 1
    seeds: dict[str, Authenticator] = {}
    stored: dict[str, StoredSecret] = {}
    for key, text in secrets.items():
        if not is_otpauth(text) and not (alone and kind == _KIND):
            stored[key] = text
            continue
        field = CODE if alone and key == DEFAULT_FIELD else key
        seeds[field] = _read(name, text)
        stored[field] = _stored(seeds[field])
    if not seeds:
        if kind == _KIND:
            raise CredentialError(
                f"credential {name!r}: none of its secrets is an otpauth:// URI, and the kind "
                f"'{_KIND}' is for codes of an authenticator: pass the URI, or name another kind",
                credential=name,
            )
        return Separated(secrets, secrets, public)
    texts = {key: text for key, text in stored.items() if isinstance(text, str)}
    return Separated(texts, stored, _with_authenticators(name, public, seeds))


def seed_of(stored: StoredSecret) -> Authenticator | None:
    """Return the seed that a secret is; None if it is a text."""
    if isinstance(stored, str):
        return None
    return Authenticator(
        base64.b32decode(str(stored["seed"])),
        digits=int(stored["digits"]),
        period=int(stored["period"]),
        algorithm=str(stored["algorithm"]),
    )


def plaintext_of(stored: StoredSecret) -> str:
    """Return a secret as a text: of an authenticator the seed in Base32, without padding."""
    return stored if isinstance(stored, str) else str(stored["seed"]).rstrip("=")


def longest_wait(public: Mapping[str, Any], seed: Authenticator) -> float:
    """Return how long a caller waits for a code, in seconds: by default three periods."""
    return float(public.get(LONGEST_WAIT, 3 * seed.period))


def _read(name: str, text: str) -> Authenticator:
    """Read a URI, an export of one account, or Base32."""
    try:
        if is_export(text):
            return read_otpauth(_only_uri(text))
        return read_otpauth(text) if is_otpauth(text) else Authenticator(read_base32(text))
    except ValueError as error:
        problem = str(error)
    raise CredentialError(f"credential {name!r}: {problem}", credential=name)


def _only_uri(export: str) -> str:
    accounts = exported_accounts(export)
    if len(accounts) > 1:
        labels = ["…" if has_secret_form(label) else repr(label) for label, _ in accounts]
        if len(labels) > _MAX_LISTED:
            labels = [*labels[:_MAX_LISTED], f"and {len(labels) - _MAX_LISTED} more"]
        raise ValueError(
            f"the export has several accounts ({', '.join(labels)}), and a credential is one: "
            "choose it with pipelit_agents.otp.migration_uris(export)[label]"
        )
    return accounts[0].uri


def _stored(seed: Authenticator) -> StoredSecret:
    return {
        "seed": base64.b32encode(seed.secret).decode("ascii"),
        "digits": seed.digits,
        "period": seed.period,
        "algorithm": seed.algorithm,
    }


def _with_authenticators(
    name: str, public: Mapping[str, object] | None, seeds: Mapping[str, Authenticator]
) -> Mapping[str, object]:
    given = dict(public or {})
    if LONGEST_WAIT in given:
        try:
            field = f"the public field {LONGEST_WAIT!r}"
            require_seconds(given[LONGEST_WAIT], field, most=MAX_WAIT)
        except (TypeError, ValueError) as error:
            raise CredentialError(f"credential {name!r}: {error}", credential=name) from None
    described = {key: _described(seed) for key, seed in seeds.items()}
    added = next(iter(described.values())) if len(seeds) == 1 else {_SEVERAL: described}
    for key, value in added.items():
        if given.setdefault(key, value) != value:
            raise CredentialError(
                f"credential {name!r}: the public field {key!r} is taken from the otpauth:// URI, "
                "and is another one there: leave it out",
                credential=name,
            )
    return given


def _has_key(label: str, seed: Authenticator) -> bool:
    letters = "".join(filter(str.isalnum, label)).upper()
    return has_secret_form(label) or _base32(seed) in letters


def _base32(seed: Authenticator) -> str:
    return base64.b32encode(seed.secret).decode("ascii").rstrip("=")


def _described(seed: Authenticator) -> dict[str, object]:
    labels = {"issuer": seed.issuer, "account": seed.account}
    return {
        # Public fields are listed in clear, so a label that may be a key, or has it, is left out.
        **{key: label for key, label in labels.items() if label and not _has_key(label, seed)},
        "digits": seed.digits,
        "period": seed.period,
        "algorithm": seed.algorithm.upper(),
    }
