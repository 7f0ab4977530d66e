"""Settings: from the environment, or from ``.env`` in the working directory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from pipelit_agents.errors import ConfigurationError
from pipelit_agents.keyring import KEY_SETTING, Keyring

__all__ = ["Settings", "ensure_key"]

DEFAULT_DATABASE_URL: Final = "sqlite:///.pipelit/agents.db"


class Settings(BaseSettings):
    """What an operator sets. The environment wins over ``.env``.

    Attributes:
        field_encryption_key: ``FIELD_ENCRYPTION_KEY``, Fernet keys, newest first, comma-separated.
        database_url: ``PIPELIT_DATABASE_URL``, an SQLAlchemy URL.
    """

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", populate_by_name=True)

    field_encryption_key: SecretStr = Field(SecretStr(""), alias="FIELD_ENCRYPTION_KEY")
    database_url: str = Field(DEFAULT_DATABASE_URL, alias="PIPELIT_DATABASE_URL")

    def keyring(self) -> Keyring:
        """The keyring of ``FIELD_ENCRYPTION_KEY``.

        Raises:
            ConfigurationError: It isn't set, or isn't a key.
        """
        return Keyring.parse(self.field_encryption_key.get_secret_value())


def ensure_key(env_file: Path) -> Path | None:
    """Makes a fresh ``FIELD_ENCRYPTION_KEY`` in an env file, unless one is set anywhere.

    What else stands in the file stays. The file is made readable by its owner only. A key that is
    set is never replaced: what is sealed under it would be lost.

    Returns:
        The file, if a key was made; None if there was one.

    Raises:
        ConfigurationError: The file can't be written, or the key that is set is none.
    """
    if Settings(_env_file=env_file).field_encryption_key.get_secret_value():
        Settings(_env_file=env_file).keyring()
        return None
    if KEY_SETTING in os.environ:
        raise ConfigurationError(
            f"{KEY_SETTING} is set to nothing in the environment, which hides the one in "
            f"{env_file}: unset it"
        )
    try:
        descriptor = os.open(env_file, os.O_RDWR | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "r+", encoding="utf-8") as file:
            env_file.chmod(0o600)
            before = file.read()
            start = "" if not before or before.endswith("\n") else "\n"
            file.write(f"{start}{KEY_SETTING}={Keyring.generate_key()}\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{env_file} can't be written ({error})") from None
    return env_file
