"""Settings: from the environment, or from ``.env`` in the working directory."""

from __future__ import annotations

from typing import Final

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from pipelit_agents.keyring import Keyring

__all__ = ["Settings"]

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
