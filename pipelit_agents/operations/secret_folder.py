"""A folder of files with one secret each, which only their owner can read.

A secret is written to a file beside its own before the database knows of it, and gets its name
afterwards. So a process that is killed in between leaves a file that the next one recognizes.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Set
from contextlib import suppress
from pathlib import Path
from typing import Final

from pipelit_agents.errors import ConfigurationError

__all__ = ["SecretFolder"]

_NEW: Final = ".new"
# Bytes. An otpauth URI has a few hundred.
_MAX_SECRET_SIZE: Final = 4096


class SecretFolder:
    """A folder of secrets. Nothing is written before :meth:`write`.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._staged: dict[str, str] = {}
        self._adopted: set[str] = set()

    @property
    def staged(self) -> Mapping[str, str]:
        """The secrets by file name that :meth:`write` will write."""
        return self._staged

    @property
    def adopted(self) -> Set[str]:
        """The names of left over secrets that get their names."""
        return self._adopted

    def name_of(self, path: Path) -> str | None:
        """Return the name of a file in this folder, or None if the path is elsewhere."""
        with suppress(ValueError):
            return os.path.normpath(path.absolute().relative_to(self.path.absolute()))
        return None

    def read(self, name: str) -> str | None:
        """Return the secret in a file, or None if there is no such file.

        Raises:
            ConfigurationError: It can't be read, or isn't a regular file.
        """
        return self._staged.get(name) or self._content(self.path / name)

    def left_over(self, name: str) -> str | None:
        """Return a secret that a process wrote and gave no name to, or None."""
        return self._content(self._new(name))

    def stage(self, name: str, secret: str) -> None:
        """Add a file, or replace it."""
        self._staged[name] = secret

    def adopt(self, name: str) -> None:
        """Give a secret that was left over its name."""
        self._adopted.add(name)

    def is_open(self, name: str) -> bool:
        """Return whether other accounts can read or write a file."""
        return bool((self.path / name).lstat().st_mode & 0o077)

    def close(self, name: str) -> None:
        """Let only its owner read a file.

        Raises:
            ConfigurationError: The file belongs to another account.
        """
        try:
            (self.path / name).chmod(0o600, follow_symlinks=False)
        except NotImplementedError:
            (self.path / name).chmod(0o600)
        except OSError as error:
            raise self._error(self.path / name, "can't be made private", error) from None

    def write(self) -> None:
        """Write the staged secrets beside their files, and flush them to the disk.

        Raises:
            ConfigurationError: The folder or a file can't be written, or others can write to it.
        """
        for name, secret in self._staged.items():
            path = self._new(name)
            self._make(path.parent)
            try:
                path.unlink(missing_ok=True)
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
                with open(os.open(path, flags, 0o600), "w", encoding="utf-8") as file:  # noqa: PTH123
                    file.write(secret)
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                raise self._error(path, "can't be written", error) from None

    def discard(self) -> None:
        """Remove what :meth:`write` wrote."""
        for name in self._staged:
            with suppress(OSError):
                self._new(name).unlink(missing_ok=True)

    def publish(self) -> None:
        """Give the written secrets their names.

        Raises:
            ConfigurationError: The folder can't be written.
        """
        for name in (*self._staged, *self._adopted):
            path = self.path / name
            try:
                # Another process may have done the same meanwhile.
                with suppress(FileNotFoundError):
                    self._new(name).replace(path)
                _flush(path.parent)
            except OSError as error:
                raise self._error(path, "can't be written", error) from None

    def _new(self, name: str) -> Path:
        return self.path / f"{name}{_NEW}"

    def _make(self, folder: Path) -> None:
        for each in (
            *reversed(folder.relative_to(self.path).parents),
            folder.relative_to(self.path),
        ):
            path = self.path / each
            try:
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
                found = path.stat()
            except OSError as error:
                raise self._error(path, "can't be created", error) from None
            if found.st_mode & 0o022:
                raise ConfigurationError(
                    f"{path}: other accounts can write to it: chmod 700 it, or name another "
                    "folder in secrets"
                )

    def _content(self, path: Path) -> str | None:
        try:
            flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
            with open(os.open(path, flags), encoding="utf-8") as file:  # noqa: PTH123
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise ConfigurationError(f"{path}: isn't a regular file: move it away")
                return file.read(_MAX_SECRET_SIZE).removesuffix("\n")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except UnicodeDecodeError:
            raise ConfigurationError(f"{path}: isn't a file of one secret: move it away") from None
        except OSError as error:
            raise self._error(path, "can't be read", error) from None

    @staticmethod
    def _error(path: Path, what: str, error: OSError) -> ConfigurationError:
        return ConfigurationError(f"{path}: {what} ({error.strerror or type(error).__name__})")


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
