"""The settings of the desk, ``PIPELIT_DESK_…``, from the environment or from ``.env``."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable, Set
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, TypeAlias
from urllib.parse import urlsplit

from dotenv.parser import Binding, parse_stream
from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from pipelit_agents._env_mistakes import misspelt_setting
from pipelit_agents.errors import ConfigurationError

__all__ = ["DeskSettings"]

PREFIX: Final = "PIPELIT_DESK_"
LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "::1")
_HOST_NAME: Final = re.compile(r"(\*\.)?[a-z0-9]([a-z0-9._-]*[a-z0-9])?\Z")

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Listed: TypeAlias = Annotated[tuple[str, ...], NoDecode]


class DeskSettings(BaseSettings):
    """The settings of the desk.

    Arguments take precedence over the environment, and the environment over ``.env``. Each is a
    variable with the prefix ``PIPELIT_DESK_``, such as ``PIPELIT_DESK_PORT``. Lists are separated
    by commas.

    Attributes:
        host: The address to listen on, for the command ``desk``.
        port: The port to listen on.
        allowed_hosts: The host names by which clients reach the desk, without ports;
            ``*.example.com`` for all below a domain. The names of this machine itself
            (``localhost``) and the host of ``public_url`` are always allowed. ``*`` allows every
            name: only for a proxy that checks names itself.
        public_url: The URL by which people reach the desk, ``https://…``.
        cors_origins: The origins of other sites whose pages may call the API, ``https://…``.
            By default none.
        trusted_proxies: The addresses or networks of proxies, whose ``X-Forwarded-For`` and
            ``X-Forwarded-Proto`` are believed. Of nobody else these headers are believed.
        ssl_certfile: The file with the certificate for TLS.
        ssl_keyfile: The file with the certificate's private key, if it is another one.
        max_body_size: The maximum size of a request's body, in bytes.
        receive_timeout: How long a request's headers may take to arrive, and then its body, in
            seconds.
        workers: The number of processes that the command ``desk`` serves with. The limits of
            guessing, and of what runs at one time, are those of each process.
        max_connections: The maximum number of open connections of one process; more are answered
            with 503.
        debug: Whether error pages show details. The desk has none, so only false is accepted.

    Raises:
        ConfigurationError: A value can't be used, or there is no setting of that name. The message
            names the setting.

    Example:
        ```python
        settings = DeskSettings(public_url="https://desk.example.com", trusted_proxies=["10.0.0.2"])
        app = make_app(pipelit, settings)
        ```
    """

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        env_prefix=PREFIX, env_file=".env", extra="ignore", frozen=True, hide_input_in_errors=True
    )

    host: str = "127.0.0.1"
    port: int = Field(8440, ge=0, le=65_535)
    allowed_hosts: Listed = ()
    public_url: str = ""
    cors_origins: Listed = ()
    trusted_proxies: Listed = ()
    ssl_certfile: Path | None = None
    ssl_keyfile: Path | None = None
    max_body_size: int = Field(262_144, ge=1_024, le=16_777_216)
    receive_timeout: float = Field(10.0, gt=0, le=300)
    workers: int = Field(1, ge=1, le=64)
    max_connections: int = Field(500, ge=1, le=100_000)
    debug: bool = False

    def __init__(self, **values: Any) -> None:
        unknown = [each for each in values if each.lstrip("_") not in (*self._names(), "env_file")]
        if unknown:
            raise ConfigurationError(
                f"DeskSettings has no {unknown[0]}: it has {', '.join(sorted(self._names()))}"
            )
        try:
            super().__init__(**values)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            name = PREFIX + str(first["loc"][0] if first["loc"] else "").upper()
            said = str(first["msg"]).removeprefix("Value error, ")
            raise ConfigurationError(f"{name.rstrip('_')}: {said}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f".env exists but can't be read ({error})") from None
        _require_known(values.get("_env_file", ".env"), self._names(), self.model_fields_set)

    @classmethod
    def _names(cls) -> Iterable[str]:
        return cls.model_fields

    @field_validator("allowed_hosts", "cors_origins", "trusted_proxies", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(each for each in re.split(r"[,\s]+", value) if each)
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _read_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(_host_name, value))

    @field_validator("cors_origins")
    @classmethod
    def _read_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(_origin, value))

    @field_validator("trusted_proxies")
    @classmethod
    def _read_proxies(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(_network(each)) for each in value)

    @field_validator("public_url")
    @classmethod
    def _read_public_url(cls, value: str) -> str:
        if not value:
            return value
        try:
            parts = urlsplit(value)
            usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            usable = False
        if not usable or parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError(
                "it must be the address of the desk, such as https://desk.example.com, without a "
                "user name, a query or a fragment"
            )
        return value.rstrip("/")

    @field_validator("ssl_certfile", "ssl_keyfile", mode="before")
    @classmethod
    def _read_file(cls, value: object) -> object:
        if value == "":
            return None
        if isinstance(value, str | Path) and not Path(value).is_file():
            raise ValueError(f"there is no file {value}")
        return value

    @field_validator("debug")
    @classmethod
    def _refuse_debug(cls, value: bool) -> bool:
        if value:
            raise ValueError("the desk has no debug mode: its log says where a request failed")
        return value

    @model_validator(mode="after")
    def _require_both_files(self) -> DeskSettings:
        if self.ssl_keyfile is not None and self.ssl_certfile is None:
            raise ValueError(f"set {PREFIX}SSL_CERTFILE too, the certificate of the key")
        return self

    @property
    def hosts(self) -> frozenset[str]:
        """All names by which clients may reach the desk."""
        named = {urlsplit(self.public_url).hostname or ""} | set(self.allowed_hosts)
        if _is_address(self.host) and not ipaddress.ip_address(self.host).is_unspecified:
            named.add(self.host)
        return frozenset({*LOOPBACK_NAMES, *named} - {""})

    @property
    def proxies(self) -> tuple[Network, ...]:
        """The networks whose forwarded addresses are believed."""
        return tuple(map(_network, self.trusted_proxies))

    @property
    def is_https(self) -> bool:
        """Whether people reach the desk by HTTPS."""
        return self.ssl_certfile is not None or self.public_url.startswith("https://")


def _require_known(env_file: object, names: Iterable[str], given: Set[str]) -> None:
    """Require that every line and variable that was meant to be a setting is one.

    pydantic-settings ignores unknown names, and python-dotenv damaged lines. The default would be
    used instead.
    """
    known = {f"{PREFIX}{each.upper()}" for each in names}
    lines: list[Binding] = []
    if isinstance(env_file, str | os.PathLike) and Path(env_file).is_file():
        with Path(env_file).open(encoding="utf-8") as file:
            lines = list(parse_stream(file))
    for name in sorted({*os.environ, *(each.key for each in lines if each.key)}):
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            raise ConfigurationError(
                f"there is no setting {name}: correct the name, or unset it. There are "
                f"{', '.join(sorted(known))}"
            )
    unset = sorted(known - {f"{PREFIX}{each.upper()}" for each in given})
    if problem := misspelt_setting(unset, lines, os.environ, env_file):
        raise ConfigurationError(problem)


def _host_name(value: str) -> str:
    name = value.lower().removeprefix("[").removesuffix("]")
    if name == "*" or _HOST_NAME.match(name) or _is_address(name):
        return name
    raise ValueError(
        "each must be a host name without scheme, port and path, such as desk.example.com"
    )


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _origin(value: str) -> str:
    try:
        parts = urlsplit(value)
        is_origin = parts.scheme in ("http", "https") and bool(parts.hostname)
        is_origin = is_origin and value.lower() == f"{parts.scheme}://{parts.netloc}".lower()
    except ValueError:
        is_origin = False
    if not is_origin or "*" in value or "@" in value:
        raise ValueError("each must be one origin, such as https://admin.example.com; never *")
    return value.lower()


def _network(value: str) -> Network:
    try:
        network = ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise ValueError("each must be an address or a network, such as 10.0.0.0/8") from None
    if network.prefixlen == 0:
        raise ValueError("every address can't be a proxy: name the addresses of your proxies")
    return network
