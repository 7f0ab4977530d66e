"""Settings: from the environment, from ``.env`` in the working directory, or from files.

Each secret setting has a twin that ends in ``_FILE`` and names a file with the value, as Docker's
and Kubernetes' secrets are mounted.
"""

from __future__ import annotations

import errno
import io
import os
import re
from collections.abc import Mapping
from pathlib import Path
from stat import S_IMODE
from typing import Any, Final

from dotenv.parser import Binding, parse_stream
from pydantic import Field, SecretStr, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from pipelit_agents.errors import ConfigurationError
from pipelit_agents.sealing.keyring import KEY_SETTING, Keyring

__all__ = ["Settings", "add_key", "ensure_key"]

KEY_FILE_SETTING: Final = f"{KEY_SETTING}_FILE"
DEFAULT_DATABASE_URL: Final = "sqlite:///.pipelit/agents.db"
# What renaming onto a file says that is a mount of its own.
_MOUNTED: Final = frozenset({errno.EBUSY, errno.EXDEV})
_COMMENT: Final = re.compile(r"[ \t]+#[^\r\n]*")


class Settings(BaseSettings):
    """What an operator sets. The environment wins over ``.env``.

    Each setting can be given as a file: ``FIELD_ENCRYPTION_KEY_FILE``,
    ``PIPELIT_DATABASE_URL_FILE`` and ``PIPELIT_REDIS_URL_FILE`` name one that holds the value.
    White space around a value is left out. No other variable is read: ``DATABASE_URL`` and
    ``REDIS_URL`` are usually the host application's.

    Attributes:
        field_encryption_key: ``FIELD_ENCRYPTION_KEY``, Fernet keys, newest first, separated by
            commas or by white space.
        database_url: ``PIPELIT_DATABASE_URL``, an SQLAlchemy URL.
        redis_url: ``PIPELIT_REDIS_URL``, where the ledger is kept in Redis; empty for SQL.
    """

    # By alias only: where fields are also populated by name, pydantic-settings takes their names
    # for variables too, and so would read the host application's DATABASE_URL.
    model_config = SettingsConfigDict(env_file=".env", extra="ignore")

    field_encryption_key: SecretStr = Field(SecretStr(""), alias="FIELD_ENCRYPTION_KEY")
    database_url: str = Field(DEFAULT_DATABASE_URL, alias="PIPELIT_DATABASE_URL")
    redis_url: SecretStr = Field(SecretStr(""), alias="PIPELIT_REDIS_URL")

    @field_validator("*", mode="before")
    @classmethod
    def _strip(cls, value: Any) -> Any:
        # Secrets that were made by `echo … | base64` end in a newline.
        return value.strip() if isinstance(value, str) else value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Look for each setting and its file in the environment first, and then in ``.env``."""
        found: list[PydanticBaseSettingsSource] = [init_settings]
        for source in (env_settings, dotenv_settings):
            if isinstance(source, EnvSettingsSource):
                found.append(_Files(settings_cls, source))
            found.append(source)
        return tuple(found)

    @classmethod
    def read(cls, env_file: Path | str = ".env") -> Settings:
        """Read the environment, the env file, and the files that they name.

        Raises:
            ConfigurationError: A file is there and can't be read, or a file that is named isn't
                there or is empty, or a setting is given both as a value and as a file.
        """
        try:
            return cls(_env_file=env_file)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"{env_file} is there and can't be read ({error}): change its permissions or its "
                "text (UTF-8), or set the settings in the environment from another folder"
            ) from None

    def keyring(self) -> Keyring:
        """The keyring of ``FIELD_ENCRYPTION_KEY``.

        Raises:
            ConfigurationError: It isn't set, or isn't a key.
        """
        if os.environ.get(KEY_SETTING) == "" and not os.environ.get(KEY_FILE_SETTING):
            raise _hidden(Path(".env"))
        return Keyring.parse(self.field_encryption_key.get_secret_value())

    @property
    def has_key(self) -> bool:
        """Whether there is anything in ``FIELD_ENCRYPTION_KEY``."""
        return bool(self.field_encryption_key.get_secret_value().strip())


class _Files(PydanticBaseSettingsSource):
    """The settings whose files are named where another source looks.

    Args:
        settings_cls: The settings.
        source: The environment, or an env file.
    """

    def __init__(self, settings_cls: type[BaseSettings], source: EnvSettingsSource) -> None:
        super().__init__(settings_cls)
        # By name in lower case, as pydantic-settings keeps them.
        self._named: Mapping[str, str | None] = source.env_vars
        # A line of .env is passed over where the environment has the setting in either form.
        self._below = isinstance(source, DotEnvSettingsSource)

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Read the file that the setting's twin names, if it names one."""
        setting = str(field.alias)
        path = (self._named.get(f"{setting}_FILE".lower()) or "").strip()
        if not path or (self._below and os.environ.get(setting)):
            return None, setting, False
        if (self._named.get(setting.lower()) or "").strip():
            raise ConfigurationError(
                f"{setting} and {setting}_FILE are both set, and only one can be meant: unset one"
            )
        return _content(f"{setting}_FILE", Path(path)), setting, False

    def __call__(self) -> dict[str, Any]:
        """Return the values that stand in files."""
        found = {}
        for name, field in self.settings_cls.model_fields.items():
            value, key, _ = self.get_field_value(field, name)
            if value is not None:
                found[key] = value
        return found


def _content(setting: str, path: Path) -> str:
    try:
        value = path.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise ConfigurationError(
            f"{setting} names {path}, which can't be read ({why}): mount the secret there, or let "
            "the account that runs this read it"
        ) from None
    if not value:
        raise ConfigurationError(f"{setting} names {path}, which is empty: put the value into it")
    return value


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
        if env_file.exists() and not _is_outside(env_file):
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
    """Put a fresh key before those of ``FIELD_ENCRYPTION_KEY`` in an env file.

    Everything else in the file stays as it is, and so do its owner and who may read it. A symbolic
    link is followed, and the file that it names is changed. The new content is written beside the
    file first, so that no key is lost if the process is killed. A file that is a mount of its own
    can't be replaced; it is written in place.

    Returns:
        The file that was changed.

    Raises:
        ConfigurationError: The file has no key to put it before, the key is set elsewhere, or the
            file can't be read or written.
    """
    if outside := _is_outside(env_file):
        raise ConfigurationError(
            f"{outside}, so {env_file} isn't where the key is: put the key of `pipelit-agents keys "
            "generate` before it there"
        )
    try:
        target = env_file.resolve(strict=True)
        descriptor = os.open(target, os.O_RDWR)
        with os.fdopen(descriptor, "r+", encoding="utf-8", newline="") as file:
            _lock(descriptor)
            whole = file.read()
            changed = _with_fresh_key(env_file, whole)
            _replace(target, file, changed)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{env_file} can't be written ({error}): put the key of `pipelit-agents keys generate` "
            f"before the one that is there, with a comma, where {KEY_SETTING} is set"
        ) from None
    return target


def _is_outside(env_file: Path) -> str:
    """Where the key is set, if it isn't in the env file; for a message."""
    for name in (KEY_SETTING, KEY_FILE_SETTING):
        if name in os.environ:
            return f"{name} is set in the environment"
    try:
        with env_file.open(encoding="utf-8") as file:
            named = any(each.key == KEY_FILE_SETTING and each.value for each in parse_stream(file))
    except (OSError, UnicodeDecodeError):
        return ""
    return f"{KEY_FILE_SETTING} in {env_file} names a file" if named else ""


def _with_fresh_key(env_file: Path, whole: str) -> str:
    # python-dotenv reads the file for pydantic-settings; no other function of its tells where in
    # the text a value begins and ends, and its documentation doesn't name this one.
    bindings = list(parse_stream(io.StringIO(whole)))
    found = [each for each in bindings if each.key == KEY_SETTING]
    settings = Settings.read(env_file)
    if len(found) != 1 or not settings.has_key:
        raise ConfigurationError(
            f"{env_file} doesn't set {KEY_SETTING} just once: make a key with pipelit-agents init, "
            "or put one before the other by hand"
        )
    settings.keyring()
    old = re.split(r"[,\s]+", settings.field_encryption_key.get_secret_value().strip())
    keys = ",".join([Keyring.generate_key(), *filter(None, old)])
    return "".join(
        _rewritten(each, keys) if each is found[0] else each.original.string for each in bindings
    )


def _rewritten(binding: Binding, keys: str) -> str:
    text = binding.original.string
    body = text.rstrip("\r\n")
    before, _, value = body.partition("=")
    comment = _COMMENT.search(value) if not value.lstrip().startswith(("'", '"')) else None
    ending = text[len(body) :] or "\n"
    return f"{before}={keys}{comment[0] if comment else ''}{ending}"


def _replace(target: Path, file: Any, content: str) -> None:
    state = os.fstat(file.fileno())
    beside = target.with_name(f"{target.name}.new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as new:
        if os.name == "posix":
            made = os.fstat(descriptor)
            if (state.st_uid, state.st_gid) != (made.st_uid, made.st_gid):
                os.fchown(descriptor, state.st_uid, state.st_gid)
            os.fchmod(descriptor, S_IMODE(state.st_mode))
        new.write(content)
        new.flush()
        os.fsync(descriptor)
    try:
        beside.replace(target)
    except OSError as error:
        if error.errno not in _MOUNTED:
            beside.unlink()
            raise
        # Longer than before, so that nothing is cut off if it ends in the middle; and all of it
        # stays beside the file until this is done.
        file.seek(0)
        file.write(content)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())
        beside.unlink()


def _lock(descriptor: int) -> None:
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows, where two of these at once are for the user to avoid
        return
    # It ends with the descriptor.
    fcntl.flock(descriptor, fcntl.LOCK_EX)
