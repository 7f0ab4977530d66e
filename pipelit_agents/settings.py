"""Settings from the environment, from ``.env`` in the working directory, or from files.

For each setting, another one with the suffix ``_FILE`` can name a file with the value, such as a
mounted secret of Docker or Kubernetes.
"""

from __future__ import annotations

import errno
import io
import os
import re
from collections.abc import Mapping
from pathlib import Path
from stat import S_IMODE, S_ISREG
from typing import Any, ClassVar, Final, TextIO

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

from pipelit_agents._env_mistakes import misspelt_setting
from pipelit_agents.errors import ConfigurationError
from pipelit_agents.sealing.keyring import KEY_SETTING, Keyring

__all__ = ["Settings", "add_key", "ensure_key"]

KEY_FILE_SETTING: Final = f"{KEY_SETTING}_FILE"
DEFAULT_DATABASE_URL: Final = "sqlite:///.pipelit/agents.db"
# The errors of renaming a file onto a mounted file.
_MOUNT_ERRORS: Final = frozenset({errno.EBUSY, errno.EXDEV})
# Some hundred keys fit into it.
_MAX_FILE_SIZE: Final = 65_536
_COMMENT: Final = re.compile(r"[ \t]+#[^\r\n]*")


class Settings(BaseSettings):
    """The operator's settings. The environment takes precedence over ``.env``.

    Each setting can be in a file: ``FIELD_ENCRYPTION_KEY_FILE``, ``PIPELIT_DATABASE_URL_FILE`` and
    ``PIPELIT_REDIS_URL_FILE`` name a file with the value. White space around a value is ignored. No
    other variables are read, because ``DATABASE_URL`` and ``REDIS_URL`` usually belong to the host
    application.

    Attributes:
        field_encryption_key: ``FIELD_ENCRYPTION_KEY``, Fernet keys, newest first, separated by
            commas or white space.
        database_url: ``PIPELIT_DATABASE_URL``, an SQLAlchemy URL.
        redis_url: ``PIPELIT_REDIS_URL``, the Redis of the ledger; empty for a ledger in SQL.
    """

    # By alias only. If fields were also populated by name, pydantic-settings would read variables
    # with the fields' names, such as the host application's DATABASE_URL.
    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(env_file=".env", extra="ignore")

    field_encryption_key: SecretStr = Field(SecretStr(""), alias="FIELD_ENCRYPTION_KEY")
    database_url: str = Field(DEFAULT_DATABASE_URL, alias="PIPELIT_DATABASE_URL")
    redis_url: SecretStr = Field(SecretStr(""), alias="PIPELIT_REDIS_URL")

    @field_validator("*", mode="before")
    @classmethod
    def _strip(cls, value: object) -> object:
        # Secrets that were created with `echo … | base64` end with a newline.
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
            ConfigurationError: An existing file can't be read, a named file doesn't exist or is
                empty, a setting is set both as a value and as a file, or a damaged line or a
                misspelt name was meant to be a setting that isn't set.
        """
        try:
            settings = cls(_env_file=env_file)
            settings._require_no_mistake(Path(env_file))
        except (OSError, UnicodeDecodeError) as error:
            denied = isinstance(error, OSError)
            fix = "change its permissions" if denied else "save it in the encoding UTF-8"
            raise ConfigurationError(
                f"{env_file} exists but can't be read ({error}): {fix}, or start in another folder "
                "with the settings in the environment"
            ) from None
        return settings

    def _require_no_mistake(self, env_file: Path) -> None:
        # python-dotenv skips lines that it can't parse, and pydantic-settings unknown names. The
        # default would be used instead: another database, or no key.
        unset = {
            str(field.alias)
            for name, field in type(self).model_fields.items()
            if name not in self.model_fields_set
        }
        wanted = unset | {f"{each}_FILE" for each in unset}
        lines: list[Binding] = []
        if wanted and env_file.is_file():
            with env_file.open(encoding="utf-8") as file:
                lines = list(parse_stream(file))
        if problem := misspelt_setting(sorted(wanted), lines, os.environ, env_file):
            raise ConfigurationError(problem)

    def keyring(self) -> Keyring:
        """Return the keyring of ``FIELD_ENCRYPTION_KEY``.

        Raises:
            ConfigurationError: The setting isn't set, or isn't a key.
        """
        if os.environ.get(KEY_SETTING) == "" and not os.environ.get(KEY_FILE_SETTING):
            raise _hidden(Path(".env"))
        return Keyring.parse(self.field_encryption_key.get_secret_value())

    @property
    def has_key(self) -> bool:
        """Whether ``FIELD_ENCRYPTION_KEY`` isn't empty."""
        return bool(self.field_encryption_key.get_secret_value().strip())


class _Files(PydanticBaseSettingsSource):
    """Read the settings whose files are named in another source.

    Args:
        settings_cls: The settings.
        source: The environment, or an env file.
    """

    def __init__(self, settings_cls: type[BaseSettings], source: EnvSettingsSource) -> None:
        super().__init__(settings_cls)
        # The names are in lower case, as pydantic-settings stores them.
        self._named: Mapping[str, str | None] = source.env_vars
        # A line of .env is ignored if the environment has the setting in either form.
        self._below = isinstance(source, DotEnvSettingsSource)

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Read the file that the ``_FILE`` setting names, if it is set."""
        setting = str(field.alias)
        path = (self._named.get(f"{setting}_FILE".lower()) or "").strip()
        if not path or (self._below and os.environ.get(setting)):
            return None, setting, False
        if (self._named.get(setting.lower()) or "").strip():
            raise ConfigurationError(
                f"{setting} and {setting}_FILE are both set, but only one can be used: unset one"
            )
        return _content(f"{setting}_FILE", Path(path)), setting, False

    def __call__(self) -> dict[str, Any]:
        """Return the values from files."""
        found = {}
        for name, field in self.settings_cls.model_fields.items():
            value, key, _ = self.get_field_value(field, name)
            if value is not None:
                found[key] = value
        return found


def _content(setting: str, path: Path) -> str:
    try:
        value = _read(path).decode("utf-8-sig").strip()
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"{setting} names {path}, which can't be read ({_reason(error)}): mount the secret "
            "there, or make it readable by the account that runs this"
        ) from None
    if not value:
        raise ConfigurationError(f"{setting} names {path}, which is empty: put the value into it")
    return value


def _read(path: Path) -> bytes:
    """Read a file that holds a setting.

    Raises:
        OSError: It can't be read, or isn't a file that can be read again and again to its end.
        ValueError: No file can have this name.
    """
    # A pipe without a writer would be waited for, and some devices have no end. A pipe that has a
    # writer can be read only once, and each process reads its settings more than once.
    if not S_ISREG(path.stat().st_mode) and not path.is_dir():
        raise OSError(errno.EINVAL, "it isn't a regular file")
    with path.open("rb") as file:
        content = file.read(_MAX_FILE_SIZE + 1)
    if len(content) > _MAX_FILE_SIZE:
        raise OSError(errno.EFBIG, "it is longer than a setting")
    return content


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it isn't UTF-8 text"
    return (error.strerror if isinstance(error, OSError) else "") or str(error)


def ensure_key(env_file: Path) -> Path | None:
    """Generate a ``FIELD_ENCRYPTION_KEY`` in an env file, unless one is already set.

    The rest of the file is kept, and only its owner can read it afterwards. An existing key is
    never replaced, because the data that is encrypted with it would be lost. Of several concurrent
    calls, only one generates a key.

    Returns:
        The file if a key was generated; None if there was one.

    Raises:
        ConfigurationError: The file can't be read or written, or the existing key isn't valid.
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
            # Read again under the lock, because another process may have generated a key.
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
        f"{KEY_SETTING} is set to an empty string in the environment, which hides the key in "
        f"{env_file}: unset it"
    )


def add_key(env_file: Path) -> Path:
    """Put a new key before the keys of ``FIELD_ENCRYPTION_KEY`` in an env file.

    The rest of the file, its owner and its permissions are kept. If the file is a symbolic link,
    its target is changed. The new content is first written to another file beside it, so that no
    key is lost if the process is killed. A mounted file can't be replaced, so it is written in
    place.

    Returns:
        The file that was changed.

    Raises:
        ConfigurationError: The file has no key, the key is set elsewhere, or the file can't be read
            or written.
    """
    if outside := _is_outside(env_file):
        raise ConfigurationError(
            f"{outside}, so the key isn't in {env_file}: put a key from `pipelit-agents keys "
            "generate` before the existing one there"
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
            f"{env_file} can't be written ({error}): put a key from `pipelit-agents keys generate` "
            f"and a comma before the existing one, where {KEY_SETTING} is set"
        ) from None
    return target


def _is_outside(env_file: Path) -> str:
    """Return where the key is set if it isn't in the env file, for a message, or ``""``."""
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
    # pydantic-settings reads the file with python-dotenv. This undocumented function is its only
    # one that returns the positions of values in the text.
    bindings = list(parse_stream(io.StringIO(whole)))
    found = [each for each in bindings if each.key == KEY_SETTING]
    settings = Settings.read(env_file)
    if len(found) != 1 or not settings.has_key:
        raise ConfigurationError(
            f"{env_file} doesn't set {KEY_SETTING} exactly once: generate a key with "
            "pipelit-agents init, or put the new key before the old one by hand"
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


def _replace(target: Path, file: TextIO, content: str) -> None:
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
        if error.errno not in _MOUNT_ERRORS:
            beside.unlink()
            raise
        # Write in place. The new content is longer, so no old line is lost if this is interrupted,
        # and the complete content stays in the other file until this is done.
        file.seek(0)
        file.write(content)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())
        beside.unlink()


def _lock(descriptor: int) -> None:
    try:
        import fcntl
    except ModuleNotFoundError:  # On Windows, the user has to avoid concurrent calls.
        return
    # Closing the descriptor releases the lock.
    fcntl.flock(descriptor, fcntl.LOCK_EX)
