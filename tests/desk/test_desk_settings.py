"""The settings of the desk: where they are read, and what is wrong with one."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelit_agents.credentials.origins import is_loopback
from pipelit_agents.desk import DeskSettings
from pipelit_agents.desk.serving import require_private
from pipelit_agents.errors import ConfigurationError

P = "PIPELIT_DESK_"


def test_by_default_it_is_for_this_machine_only() -> None:
    """Nothing is open that nobody has opened."""
    found = DeskSettings(_env_file=None)
    assert found.host == "127.0.0.1"
    assert found.hosts == {"localhost", "127.0.0.1", "::1"}
    assert (found.cors_origins, found.trusted_proxies) == ((), ())
    assert not found.is_https
    require_private(found)


def test_arguments_come_before_the_environment_and_it_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A setting is what is nearest."""
    (tmp_path / ".env").write_text(
        f"{P}PORT=1\n{P}MAX_CONNECTIONS=2\n{P}RECEIVE_TIMEOUT=3\nOTHER=1\n"
    )
    monkeypatch.setenv(f"{P}PORT", "4")
    monkeypatch.setenv(f"{P}MAX_CONNECTIONS", "5")
    # Of another application.
    monkeypatch.setenv("PORT", "6")
    found = DeskSettings(_env_file=tmp_path / ".env", port=7)
    assert (found.port, found.max_connections, found.receive_timeout) == (7, 5, 3.0)


def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are compared as they are sent, in lower case; a public address is a name too."""
    monkeypatch.setenv(f"{P}ALLOWED_HOSTS", "Desk.Example.com, *.agents.example.com [::2]")
    monkeypatch.setenv(f"{P}PUBLIC_URL", "https://public.example.com/desk/")
    found = DeskSettings(_env_file=None, trusted_proxies=["10.1.2.3/8"])
    assert {"desk.example.com", "*.agents.example.com", "::2", "public.example.com"} < found.hosts
    assert found.public_url == "https://public.example.com/desk"
    assert found.is_https
    assert found.trusted_proxies == ("10.0.0.0/8",)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("PORT", "many", "whole number|valid integer"),
        ("PORT", "70000", "65535"),
        ("ALLOWED_HOSTS", "https://desk.example.com", "without scheme"),
        ("ALLOWED_HOSTS", "desk.example.com:8440", "without scheme"),
        ("ALLOWED_HOSTS", "a*b", "host name"),
        ("PUBLIC_URL", "desk.example.com", "https://"),
        ("PUBLIC_URL", "https://user:pw@desk.example.com", "user name"),
        ("PUBLIC_URL", "https://desk.example.com?x=1", "query"),
        ("PUBLIC_URL", "ftp://desk.example.com", "https://"),
        ("CORS_ORIGINS", "*", "never"),
        ("CORS_ORIGINS", "https://*.example.com", "never"),
        ("CORS_ORIGINS", "https://a.example.com/path", "one origin"),
        ("CORS_ORIGINS", "null", "one origin"),
        ("TRUSTED_PROXIES", "proxy.example.com", "address or a network"),
        ("TRUSTED_PROXIES", "0.0.0.0/0", "every address"),
        ("TRUSTED_PROXIES", "*", "address or a network"),
        ("SSL_CERTFILE", "/nowhere/cert.pem", "there is no file"),
        ("MAX_BODY_SIZE", "0", "1024"),
        ("RECEIVE_TIMEOUT", "0", "greater than 0"),
        ("RECEIVE_TIMEOUT", "nan", "."),
        ("DEBUG", "true", "no debug mode"),
    ],
)
def test_an_unusable_value_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    """The error has the name of the setting and what it should be."""
    monkeypatch.setenv(f"{P}{name}", value)
    with pytest.raises(ConfigurationError, match=f"{P}{name}: .*({says})"):
        DeskSettings(_env_file=None)


def test_a_typo_doesnt_mean_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that isn't there is refused, in the environment, in the file and as an argument."""
    (tmp_path / ".env").write_text(f"{P}ALOWED_HOSTS=desk.example.com\n")
    with pytest.raises(ConfigurationError, match="ALOWED_HOSTS"):
        DeskSettings(_env_file=tmp_path / ".env")
    for line in (f"{P}PORT: 1", f"{P}PORT", f"PIPELIT-DESK-PORT=1\n{P}HOST=::1"):
        (tmp_path / ".env").write_text(f"{line}\n")
        with pytest.raises(ConfigurationError, match=r"line 1 of .*PORT"):
            DeskSettings(_env_file=tmp_path / ".env")
    with pytest.raises(ConfigurationError, match="prot"):
        DeskSettings(_env_file=None, prot=1)
    monkeypatch.setenv(f"{P}TRUSTED_PROXY", "10.0.0.2")
    with pytest.raises(ConfigurationError, match="TRUSTED_PROXY"):
        DeskSettings(_env_file=None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "desk.example.com"])  # noqa: S104
def test_keys_arent_sent_in_clear(host: str, tmp_path: Path) -> None:
    """An address that others reach needs TLS, or a proxy that does it."""
    assert not is_loopback(host)
    with pytest.raises(ConfigurationError, match=r"SSL_CERTFILE.*behind-proxy"):
        require_private(DeskSettings(_env_file=None, host=host))
    require_private(DeskSettings(_env_file=None, host=host, trusted_proxies=["10.0.0.2"]))
    certificate = tmp_path / "cert.pem"
    certificate.touch()
    require_private(DeskSettings(_env_file=None, host=host, ssl_certfile=certificate))


def test_a_public_address_is_encrypted() -> None:
    """Behind a proxy too: people would send their keys to http://, before any proxy."""
    url = "http://desk.example.com"
    with pytest.raises(ConfigurationError, match=r"https://desk\.example\.com \(--public-url\)"):
        require_private(DeskSettings(_env_file=None, public_url=url, trusted_proxies=["10.0.0.2"]))
    for url in ("http://localhost:8440", "http://127.0.0.1", "http://[::1]:1", "https://x.example"):
        require_private(DeskSettings(_env_file=None, public_url=url))


def test_a_key_file_needs_its_certificate(tmp_path: Path) -> None:
    """One without the other would mean no TLS."""
    key = tmp_path / "key.pem"
    key.touch()
    with pytest.raises(ConfigurationError, match="SSL_CERTFILE"):
        DeskSettings(_env_file=None, ssl_keyfile=key)
