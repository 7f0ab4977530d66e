"""Whether the value of a setting, or a text, holds a secret."""

from __future__ import annotations

import re
from typing import Final

from pipelit_agents.credentials.leak_guard.parts import inner_parts
from pipelit_agents.credentials.leak_guard.recognition import (
    Level,
    Part,
    Verdict,
    is_generated,
    is_token,
    level_of,
    verdict,
)

__all__ = [
    "has_password",
    "holds_secret",
    "is_generated_word",
    "is_reference",
    "is_secret",
    "is_secret_part",
]

_NO_SECRET: Final = re.compile(r"(\A|_)(PUBLIC|PUBLISHABLE|ANON)_", re.IGNORECASE)
# Values that refer to a secret, or are placeholders for one.
_REFERENCE: Final = re.compile(
    r"\$\{?[A-Za-z_]\w*(:?[-?][^}]*)?\}?|\$\(.*|`.*|<[^>]*>|\{\{.*\}\}|(arn:|vault:|op://|secret://|projects/).*"
    r"|.*(change[-_ ]?me|your[-_ ]|example|placeholder|replace|todo|xxx|\.\.\.|…).*"
    r"|true|false|yes|no|on|off|none|null|[0-9]{0,5}|\*+",
    re.IGNORECASE,
)
_TOKEN: Final = re.compile(
    r"(?<![\w-])(plit_[A-Za-z0-9]+_[\w-]{43}|sk-[\w-]{16,}|gh[pousr]_\w{30,}|github_pat_\w{30,}"
    r"|xox[abprs]-[\w-]{10,}|tvly-[\w-]{16,}|AKIA[A-Z0-9]{16}|lsv2_(pt|sk)_\w{20,}|AIza[\w-]{30,}"
    r"|[A-Za-z0-9_-]{43}=)(?![\w=-])|-----BEGIN [A-Z ]*PRIVATE KEY-----"
    r"|hooks\.slack\.com/(services|workflows|triggers)/\w+/\w+/\w{8,}"
    r"|discord(app)?\.com/api/webhooks/\d+/[\w-]{20,}"
)
_AUTH_SCHEME: Final = re.compile(r"\A(bearer|basic|token)\s+", re.IGNORECASE)
# The revision of a model, or the digest of an image.
_REVISION: Final = re.compile(r"(.*@)?(sha(256|512):)?([0-9a-f]{40}|[0-9a-f]{64})", re.IGNORECASE)
# The hash in the path of a package file, or of a commit's archive.
_HASH: Final = re.compile(r"[0-9a-fA-F]{40,}(\.\w+)*")


def is_secret(name: str, value: str) -> bool:
    """Whether a setting's value is a secret or contains one."""
    value = value.strip().strip("\"'")
    if not value or (is_reference(value) and not re.search(r"[\s;=]|://", value)):
        return False
    if holds_secret(value):
        return True
    if is_reference(value) or _NO_SECRET.search(name):
        return False
    level = level_of(name)
    if level is Level.UNKNOWN and not is_generated_word(value):
        return False
    return verdict(Part("", value, level)) is not Verdict.PUBLIC


def is_reference(value: str) -> bool:
    """Whether a value is a placeholder, or a reference to where the secret is kept."""
    return _REFERENCE.fullmatch(_AUTH_SCHEME.sub("", value)) is not None


def is_generated_word(word: str) -> bool:
    """Whether a word looks like a key and not like a revision."""
    return (
        re.fullmatch(r"[\w+/=.~-]+", word) is not None
        and not _REVISION.fullmatch(word)
        and is_generated(word)
    )


def holds_secret(text: str) -> bool:
    """Whether a text contains a secret, judging by its form or by the names in it."""
    return (
        _TOKEN.search(text) is not None
        or has_password(text)
        or any(is_token(word) for word in re.split(r"[\s\"'=,;<>()]+", text))
        or any(map(is_secret_part, inner_parts(text)))
    )


def is_secret_part(part: Part) -> bool:
    """Whether a part of a text is a secret by its form or by its name."""
    value = part.value
    if isinstance(value, bytes):
        return True
    # A line without a name can be anything, so only known token formats count.
    unnamed = part.level <= Level.UNKNOWN or re.search(r"(\A|\.)line \d+\Z", part.path)
    if is_reference(value) or (unnamed and not is_token(value)):
        return False
    if re.fullmatch(r"(.*\.)?path", part.path) and _HASH.fullmatch(value):
        return False
    if part.level < Level.SECRET:
        return verdict(part) is Verdict.SEARCHED and not _REVISION.fullmatch(value)
    return verdict(part) in (Verdict.SEARCHED, Verdict.SHORT)


def has_password(value: str) -> bool:
    """Whether a text has a URL with a password in it."""
    for found in re.finditer(r"[A-Za-z][\w+.-]*://[^\s/?#\"']*@", value):
        login = found[0].partition("://")[2][:-1]
        secret = login.partition(":")[2]
        if secret and not _REFERENCE.fullmatch(secret):
            return True
    return False
