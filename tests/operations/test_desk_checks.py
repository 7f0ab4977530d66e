"""The checks of the desk's settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelit_agents import Pipelit

P = "PIPELIT_DESK_"
BEHIND = {f"{P}HOST": "0.0.0.0", f"{P}TRUSTED_PROXIES": "10.0.0.2"}  # noqa: S104 - a setting
GOOD = BEHIND | {
    f"{P}PUBLIC_URL": "https://desk.example.com",
    f"{P}CORS_ORIGINS": "https://admin.example.com",
    f"{P}ALLOWED_HOSTS": "desk.example.com",
}


@pytest.mark.parametrize(
    ("environ", "wrong"),
    [
        ({}, set()),
        ({f"{P}PORT": "8440"}, set()),
        ({f"{P}HOST": "::1"}, set()),
        (GOOD, set()),
        ({f"{P}HOST": "10.1.2.3"}, {"desk TLS"}),
        (BEHIND, {"desk TLS"}),
        (GOOD | {f"{P}PUBLIC_URL": "http://desk.example.com"}, {"desk TLS", "public URL"}),
        (GOOD | {f"{P}ALLOWED_HOSTS": "a.example.com, *"}, {"desk hosts"}),
        (GOOD | {f"{P}CORS_ORIGINS": "http://a.example.com"}, {"desk origins"}),
        (GOOD | {f"{P}CORS_ORIGINS": "*"}, {"CORS"}),
        (GOOD | {f"{P}DEBUG": "true"}, {"DEBUG"}),
    ],
    ids=[
        *("none", "port", "loopback", "good", "no TLS", "no public URL", "http", "every host"),
        *("origin by http", "every origin", "debug"),
    ],
)
def test_the_settings_of_the_desk(
    pipelit: Pipelit, tmp_path: Path, environ: dict[str, str], wrong: set[str]
) -> None:
    """What would show keys or let other sites in is found, each by the check that names it."""
    names = {"desk TLS", "desk hosts", "desk origins", "public URL", "CORS", "DEBUG"}
    found = pipelit.check(deploy=True, folder=tmp_path, environ=environ)
    assert {each.name for each in found if each.name in names and each.ok is False} == wrong
