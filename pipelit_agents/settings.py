"""Settings: from the environment, or from ``.env`` in the working directory."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from pipelit_agents.errors import ConfigurationError
from pipelit_agents.keyring import KEY_SETTING, Keyring

__all__ = ["Settings", "add_key", "ensure_key"]

_SETS_KEY: Final = re.compile(rf"\s*(?:export\s+)?{KEY_SETTING}\s*=")
DEFAULT_DATABASE_URL: Final = "sqlite:///.pipelit/agents.db"


class Settings(BaseSettings):
    """What an operator sets. The environment wins over ``.env``.

    Attributes:
        field_encryption_key: ``FIELD_ENCRYPTION_KEY``, Fernet keys, newest first, comma-separated.
        database_url: ``PIPELIT_DATABASE_URL``, an SQLAlchemy URL.
        redis_url: ``PIPELIT_REDIS_URL``, where the ledger is kept in Redis; empty for SQL.
    """

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", populate_by_name=True)

    field_encryption_key: SecretStr = Field(SecretStr(""), alias="FIELD_ENCRYPTION_KEY")
    database_url: str = Field(DEFAULT_DATABASE_URL, alias="PIPELIT_DATABASE_URL")
    redis_url: SecretStr = Field(SecretStr(""), alias="PIPELIT_REDIS_URL")

    @classmethod
    def read(cls, env_file: Path | str = ".env") -> Settings:
        """Reads the environment and the env file.

        Raises:
            ConfigurationError: The file is there and can't be read.
        """
        try:
            return cls(_env_file=env_file)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"{env_file} is there and can't be read ({error}): mend its permissions or its "
                "text (UTF-8), or set the settings in the environment from another folder"
            ) from None

    def keyring(self) -> Keyring:
        """The keyring of ``FIELD_ENCRYPTION_KEY``.

        Raises:
            ConfigurationError: It isn't set, or isn't a key.
        """
        if os.environ.get(KEY_SETTING) == "":
            raise _hidden(Path(".env"))
        return Keyring.parse(self.field_encryption_key.get_secret_value())

    @property
    def has_key(self) -> bool:
        """Whether there is anything in ``FIELD_ENCRYPTION_KEY``."""
        return bool(self.field_encryption_key.get_secret_value().strip())


def ensure_key(env_file: Path) -> Path | None:
    """Makes a fresh ``FIELD_ENCRYPTION_KEY`` in an env file, unless one is set anywhere.

    What else stands in the file stays. The file is made readable by its owner only. A key that is
    set is never replaced: what is sealed under it would be lost. Of several calls at once, one
    makes the key.

    Returns:
        The file, if a key was made; None if there was one.

    Raises:
        ConfigurationError: The file can't be read or written, or the key that is set is none.
    """
    settings = Settings.read(env_file)
    if settings.has_key:
        settings.keyring()
        if KEY_SETTING not in os.environ:
            env_file.chmod(0o600)
        return None
    if KEY_SETTING in os.environ:
        raise _hidden(env_file)
    try:
        descriptor = os.open(env_file, os.O_RDWR | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "r+", encoding="utf-8") as file:
            env_file.chmod(0o600)
            _lock(descriptor)
            # Somebody may have been quicker: under the lock it is read again.
            if Settings.read(env_file).has_key:
                return None
            before = file.read()
            start = "" if not before or before.endswith("\n") else "\n"
            file.write(f"{start}{KEY_SETTING}={Keyring.generate_key()}\n")
            file.flush()
            os.fsync(descriptor)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{env_file} can't be written ({error})") from None
    return env_file


def _hidden(env_file: Path) -> ConfigurationError:
    return ConfigurationError(
        f"{KEY_SETTING} is set to nothing in the environment, which hides the one in "
        f"{env_file}: unset it"
    )


def add_key(env_file: Path) -> Path:
    """Puts a fresh key before those of ``FIELD_ENCRYPTION_KEY`` in an env file.

    What else stands in the file stays, and the file is never half written.

    Returns:
        The file.

    Raises:
        ConfigurationError: There is no key in the file to put it before, the environment hides the
            file's, or the file can't be read or written.
    """
    if KEY_SETTING in os.environ:
        raise ConfigurationError(
            f"{KEY_SETTING} is set in the environment, which hides the one in {env_file}: put the "
            "key of `pipelit-agents keys generate` before it there"
        )
    try:
        descriptor = os.open(env_file, os.O_RDWR)
        with os.fdopen(descriptor, "r", encoding="utf-8") as file:
            _lock(descriptor)
            lines = file.read().splitlines(keepends=True)
            found = [number for number, line in enumerate(lines) if _SETS_KEY.match(line)]
            settings = Settings.read(env_file)
            if len(found) != 1 or not settings.has_key:
                raise ConfigurationError(
                    f"{env_file} has no one line that begins with {KEY_SETTING}=: make a key with "
                    "pipelit-agents init, or put one before the other by hand"
                )
            settings.keyring()
            old = settings.field_encryption_key.get_secret_value().strip()
            lines[found[0]] = f"{KEY_SETTING}={Keyring.generate_key()},{old}\n"
            beside = env_file.with_name(f"{env_file.name}.new")
            with os.fdopen(
                os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8"
            ) as new:
                new.writelines(lines)
                new.flush()
                os.fsync(new.fileno())
            beside.replace(env_file)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{env_file} can't be written ({error})") from None
    return env_file


def _lock(descriptor: int) -> None:
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows, where two of these at once are for the user to avoid
        return
    # It ends with the descriptor.
    fcntl.flock(descriptor, fcntl.LOCK_EX)
