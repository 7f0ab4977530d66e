"""Checks of the settings of the desk, ``PIPELIT_DESK_…``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from pipelit_agents.credentials.origins import is_loopback
from pipelit_agents.operations.addresses import clear_http
from pipelit_agents.operations.checks.deployment import Deployment, deployment_check
from pipelit_agents.operations.checks.finding import (
    Finding,
    NotApplicable,
    listed,
    passed,
    with_notes,
)

__all__ = ["desk_hosts", "desk_origins", "desk_tls"]

_PREFIX: Final = "PIPELIT_DESK_"


@deployment_check("desk TLS", why="without TLS, others can read API keys and codes")
def desk_tls(deployment: Deployment) -> Finding:
    """The desk listens on this machine only, or it or a proxy before it does TLS."""
    found = _settings(deployment)
    proxied = bool(found.get("TRUSTED_PROXIES"))
    if is_loopback(found.get("HOST") or "127.0.0.1") and not proxied:
        return passed("it listens on this machine only")
    if not (found.get("SSL_CERTFILE") or proxied):
        return Finding(
            f"{_PREFIX}HOST is reached by others, and nothing does TLS",
            f"{_PREFIX}SSL_CERTFILE=… and {_PREFIX}SSL_KEYFILE=…, or {_PREFIX}TRUSTED_PROXIES=…",
        )
    if not found.get("PUBLIC_URL", "").startswith("https://"):
        return Finding(
            f"{_PREFIX}PUBLIC_URL isn't an https:// address, so browsers may come without TLS",
            f"{_PREFIX}PUBLIC_URL=https://…",
        )
    return passed()


@deployment_check("desk hosts", why="a page of another site could reach the desk by its own name")
def desk_hosts(deployment: Deployment) -> Finding:
    """The desk answers to its own names only."""
    found = _settings(deployment)
    if "*" in _list(found.get("ALLOWED_HOSTS", "")):
        return Finding(
            f"{_PREFIX}ALLOWED_HOSTS allows every name", f"{_PREFIX}ALLOWED_HOSTS=desk.your.site"
        )
    return passed()


@deployment_check("desk origins", why="others could change a page without TLS, and take its keys")
def desk_origins(deployment: Deployment) -> Finding:
    """Other sites that may call the desk are reached by HTTPS."""
    origins = _list(_settings(deployment).get("CORS_ORIGINS", ""))
    if not origins:
        return passed("no other site may call it")
    found, notes = clear_http({each: each for each in origins})
    if found:
        return Finding(
            f"http:// in {_PREFIX}CORS_ORIGINS: {listed(found)}", f"{_PREFIX}CORS_ORIGINS=https://…"
        )
    return with_notes([f"http:// in {each}" for each in notes])


def _settings(deployment: Deployment) -> Mapping[str, str]:
    """Return the settings that are set, without their prefix.

    Raises:
        NotApplicable: There are none.
    """
    found = {
        name.upper().removeprefix(_PREFIX): value.strip()
        for name, value in deployment.environ.items()
        if name.upper().startswith(_PREFIX)
    }
    if not found:
        raise NotApplicable(f"no {_PREFIX} setting is set; by default it is for this machine only")
    return found


def _list(value: str) -> list[str]:
    return [each for each in re.split(r"[,\s]+", value) if each]
