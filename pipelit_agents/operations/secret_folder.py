"""A folder of files with one secret each, which only their owner can read.

The folders and files belong to the account of the process, and only it can write to them. Otherwise
somebody else could put a file there, or read what is written; nothing is done then.

A secret is written to a new file beside its own before the database knows of it, and gets its name
afterwards. So a process that is killed in between leaves a file that the next one recognizes. One
run at a time uses the folder, until its files have their names, and removes only its own.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import Final, TextIO

from pipelit_agents.errors import ConfigurationError

__all__ = ["SecretFolder"]

_NEW: Final = r"(\.[0-9a-f]{16})?\.new"
# Bytes. An otpauth URI has a few hundred.
_MAX_SECRET_SIZE: Final = 4096


class SecretFolder:
    """A folder of secrets. Nothing is written before ``write``.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._staged: dict[str, str] = {}
        self._written: dict[str, Path] = {}
        self._adopted: dict[str, Path] = {}

    @property
    def staged(self) -> Mapping[str, str]:
        """The secrets by file name that ``write`` will write."""
        return self._staged

    @contextmanager
    def locked(self, *, make: bool) -> Iterator[None]:
        """Let no other run use the folder meanwhile.

        Args:
            make: Whether the folder is made if it isn't there.

        Raises:
            ConfigurationError: The folder can't be made or locked, or isn't private.
        """
        self.require_private()
        if make:
            self._make("_")
        with ExitStack() as held:
            try:
                held.enter_context(_lock(self.path))
            except FileNotFoundError:
                if make:
                    raise
            except OSError as error:
                raise self._error(self.path, "can't be locked", error) from None
            yield

    def require_private(self) -> None:
        """Check the folder, if it is there, also when nothing is read or written.

        Raises:
            ConfigurationError: It isn't a folder of this account that only it can write to.
        """
        self._require_private(self.path)

    def name_of(self, path: Path) -> str | None:
        """Return the name of a file in this folder, or None if the path is elsewhere."""
        with suppress(ValueError):
            return os.path.normpath(path.absolute().relative_to(self.path.absolute()))
        return None

    def read(self, name: str) -> str | None:
        """Return the secret in a file, or None if there is no such file.

        Raises:
            ConfigurationError: It can't be read, isn't a regular file of this account, or is in a
                folder that isn't private.
        """
        return self._staged.get(name) or self._content(name, self.path / name)

    def pending(self, name: str) -> str | None:
        """Return the secret that a file will have after ``publish``, if it gets one."""
        path = self._adopted.get(name)
        return self._staged.get(name) if path is None else self._content(name, path)

    def left_over(self, name: str) -> Iterator[tuple[Path, str]]:
        """Yield the secrets that processes wrote and gave no name to, with their files."""
        for folder in self._folders(name):
            self._require_private(folder)
        path = self.path / name
        try:
            found = sorted(path.parent.iterdir())
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._error(path.parent, "can't be read", error) from None
        for each in found:
            if re.fullmatch(re.escape(path.name) + _NEW, each.name):
                secret = self._content(name, each)
                if secret is not None:
                    yield each, secret

    def stage(self, name: str, secret: str) -> None:
        """Add a file, or replace it."""
        self._staged[name] = secret

    def adopt(self, name: str, path: Path) -> bool:
        """Give a secret that was left over its name, and return whether others could read it."""
        self._adopted[name] = path
        return bool(path.lstat().st_mode & 0o077)

    def is_open(self, name: str) -> bool:
        """Return whether other accounts can read or write a file."""
        return bool((self.path / name).lstat().st_mode & 0o077)

    def close(self, name: str) -> None:
        """Let only its owner read a file.

        Raises:
            ConfigurationError: The file belongs to another account.
        """
        self._make_private(self.path / name)

    def write(self) -> None:
        """Write the staged secrets beside their files, and flush them to the disk.

        Raises:
            ConfigurationError: The folder or a file can't be written, or others can write to it.
        """
        for name, secret in self._staged.items():
            path = self.path / f"{name}.{token_hex(8)}.new"
            self._make(name)
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
                descriptor = os.open(path, flags, 0o600)
                self._written[name] = path
                with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123
                    file.write(secret)
                    file.flush()
                    os.fsync(file.fileno())
                _flush(path.parent)
            except OSError as error:
                raise self._error(path, "can't be written", error) from None

    def discard(self) -> None:
        """Remove what ``write`` wrote, and nothing that was there before."""
        for path in self._written.values():
            with suppress(OSError):
                path.unlink()

    def publish(self) -> None:
        """Give the written and the adopted secrets their names.

        Raises:
            ConfigurationError: The folder can't be written, or a file isn't there any more.
        """
        for path in self._adopted.values():
            # It may be as others left it: a restored backup, a copy.
            self._make_private(path)
        for name, written in (self._written | self._adopted).items():
            path = self.path / name
            try:
                written.replace(path)
                _flush(path.parent)
            except OSError as error:
                raise self._error(path, "can't be written", error) from None

    def _folders(self, name: str) -> list[Path]:
        return [self.path / each for each in reversed(Path(name).parents)]

    def _make(self, name: str) -> None:
        for path in self._folders(name):
            try:
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise self._error(path, "can't be created", error) from None
            self._require_private(path)

    def _require_private(self, folder: Path) -> None:
        try:
            found = folder.lstat()
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._error(folder, "can't be read", error) from None
        if not stat.S_ISDIR(found.st_mode):
            raise ConfigurationError(
                f"{folder}: isn't a folder, or is a link: move it away, or name a folder in secrets"
            )
        _require_own(folder, found)
        if found.st_mode & 0o022:
            raise ConfigurationError(
                f"{folder}: other accounts can write to it: chmod 700 it, or name another "
                "folder in secrets"
            )

    def _content(self, name: str, path: Path) -> str | None:
        for folder in self._folders(name):
            self._require_private(folder)
        try:
            with self._opened(path) as file:
                return file.read(_MAX_SECRET_SIZE).removesuffix("\n")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except UnicodeDecodeError:
            raise ConfigurationError(f"{path}: isn't a file of one secret: move it away") from None
        except OSError as error:
            raise self._error(path, "can't be read", error) from None

    def _make_private(self, path: Path) -> None:
        try:
            with self._opened(path) as file:
                if os.name == "posix":
                    os.fchmod(file.fileno(), 0o600)
        except OSError as error:
            raise self._error(path, "can't be made private", error) from None

    @staticmethod
    @contextmanager
    def _opened(path: Path) -> Iterator[TextIO]:
        """Open a regular file of this account, and no link to one."""
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        with open(os.open(path, flags), encoding="utf-8") as file:  # noqa: PTH123
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise ConfigurationError(f"{path}: isn't a regular file: move it away")
            _require_own(path, found)
            yield file

    @staticmethod
    def _error(path: Path, what: str, error: OSError) -> ConfigurationError:
        return ConfigurationError(f"{path}: {what} ({error.strerror or type(error).__name__})")


def _require_own(path: Path, found: os.stat_result) -> None:
    if os.name == "posix" and found.st_uid != os.geteuid():
        raise ConfigurationError(
            f"{path}: belongs to another account (uid {found.st_uid}), which can read and change "
            "it: move it away, or chown it to the account that runs this"
        )


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    try:
        import fcntl
    except ModuleNotFoundError:  # On Windows, the user has to avoid concurrent calls.
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        # Closing the descriptor releases the lock.
        os.close(descriptor)


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
