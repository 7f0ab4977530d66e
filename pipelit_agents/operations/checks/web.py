"""Checks of what a web application reads: URLs without TLS, debug modes, CORS and SECRET_KEY."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Final

from sqlalchemy import select

from pipelit_agents.database.models import CredentialRow
from pipelit_agents.operations.addresses import clear_http, clear_traces, is_yes
from pipelit_agents.operations.checks.deployment import Deployment, deployment_check
from pipelit_agents.operations.checks.finding import (
    Finding,
    NotApplicable,
    listed,
    passed,
    with_notes,
)

__all__ = ["child_urls", "cors", "debug", "public_url", "secret_key", "tracing"]

# Characters.
_MIN_SECRET_LENGTH: Final = 32
_MIN_DISTINCT_CHARACTERS: Final = 10
_DEFAULT_SECRETS: Final = re.compile(
    r"django-insecure-.*|.*(change[-_ ]?me|your[-_ ]?secret|insecure|default|example).*|secret.*",
    re.IGNORECASE,
)
_PUBLIC_URL: Final = re.compile(
    r"(?:\A|_)(PUBLIC|BASE|SERVER|API|SITE|READER|CHILD\w*|PIPELIT\w*)_URL\Z"
)
# URLs of pages and of namespaces. No key is sent to these.
_PAGE_URL: Final = re.compile(
    r"(?:\A|_)(DOCS?|DOCUMENTATION|SCHEMA|NAMESPACE|NS|SPEC|VOCABULARY|HELP|SUPPORT|HOMEPAGE|TERMS"
    r"|PRIVACY|LICEN[SC]E|LOGO|ICON|IMAGE|AVATAR|REPO|REPOSITORY|BLOG)_URL\Z"
)
_NO: Final = frozenset({"", "0", "false", "no", "off", "n", "f"})
_CORS: Final = re.compile(r"(\w*CORS\w*(ORIGIN|ALL)\w*|ALLOWED_ORIGINS)\Z")


@deployment_check("tracing", why="traces contain states and prompts, and are sent with an API key")
def tracing(deployment: Deployment) -> Finding:
    """Traces are sent over TLS."""
    found, notes = clear_traces(deployment.environ)
    if found:
        return Finding(f"{listed(found)}: traces are sent without TLS", f"{found[0]}=https://…")
    return with_notes([f"{each} sends traces without TLS" for each in notes])


@deployment_check("public URL", why="without TLS, others can read Bearer keys")
def public_url(deployment: Deployment) -> Finding:
    """The URLs to which keys are sent begin with ``https://``."""
    named = {
        name: value
        for name, value in deployment.environ.items()
        if _PUBLIC_URL.search(name) or (name.endswith("_URL") and deployment.is_set_here(name))
        if not _PAGE_URL.search(name)
    }
    found, notes = clear_http(named)
    if found:
        return Finding(f"http:// in {listed(found)}", f"{found[0]}=https://…")
    if not any("http" in value for value in named.values()):
        raise NotApplicable("none is set")
    return with_notes([f"http:// in {each}" for each in notes])


@deployment_check("child URLs", why="without TLS, others can read the child's API key")
def child_urls(deployment: Deployment) -> Finding:
    """The URLs in the public fields of credentials begin with ``https://``."""
    with deployment.reading() as connection:
        rows = connection.execute(select(CredentialRow.name, CredentialRow.public)).all()
    # The spaces separate addresses.
    found, notes = clear_http({row.name: " ".join(_texts(row.public)) for row in rows})
    if found:
        return Finding(
            f"http:// in the public fields of {listed(found)}",
            f"pipelit-agents credentials put {found[0]} … --public base_url=https://…",
        )
    return with_notes([f"http:// in the public fields of {each}" for each in notes])


@deployment_check("SECRET_KEY", why="anyone who knows it can sign sessions")
def secret_key(deployment: Deployment) -> Finding:
    """A web framework's key is generated, and long enough."""
    named = {
        name: value
        for name, value in sorted(deployment.environ.items())
        if re.search(r"(\A|_)SECRET_KEY\Z", name)
    }
    if not named:
        raise NotApplicable("it isn't set; pipelit-agents itself doesn't need it")
    for name, secret in named.items():
        fix = f'{name}=$(python -c "import secrets; print(secrets.token_urlsafe(48))")'
        if _DEFAULT_SECRETS.fullmatch(secret):
            return Finding(f"{name} is a default", fix)
        if len(secret) < _MIN_SECRET_LENGTH:
            return Finding(f"{name} has only {len(secret)} characters", fix)
        if len(set(secret)) < _MIN_DISTINCT_CHARACTERS:
            return Finding(f"{name} has too few different characters", fix)
    return passed()


@deployment_check("DEBUG", why="error pages show settings and local variables")
def debug(deployment: Deployment) -> Finding:
    """No debug mode is on."""
    on = [
        name
        for name, value in sorted(deployment.environ.items())
        if re.search(r"(\A|_)DEBUG(_MODE)?\Z", name) and value.strip().lower() not in _NO
    ]
    return Finding(f"{listed(on)} is on", f"{on[0]}=false") if on else passed()


@deployment_check("CORS", why="any site could send requests from a user's browser")
def cors(deployment: Deployment) -> Finding:
    """No setting allows every site."""
    wide = [
        name
        for name, value in sorted(deployment.environ.items())
        if _CORS.match(name) and (is_yes(value) or re.search(r"\*|\.\+", value))
    ]
    if wide:
        return Finding(f"{listed(wide)} allows every site", f"{wide[0]}=https://your.site")
    return passed()


def _texts(public: str) -> Iterator[str]:
    """Yield the texts in a JSON value, at any depth."""
    level: list[object] = [json.loads(public)]
    while level:
        found = level.pop()
        if isinstance(found, str):
            yield found
        elif isinstance(found, dict):
            level += found.values()
        elif isinstance(found, list):
            level += found
