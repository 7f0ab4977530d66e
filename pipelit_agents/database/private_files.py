"""Make a database file, and the files that SQLite creates beside it, readable only by its owner."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from pipelit_agents.database.process import PROCESS_LOCKS
from pipelit_agents.database.server import URL_SETTING
from pipelit_agents.errors import ConfigurationError, StorageError

__all__ = ["make_private"]

_WHY_CLOSED: Final = {
    errno.EISDIR: f"name a file in this folder in {URL_SETTING}, for example agents.db",
    errno.EROFS: "SQLite needs write access even for reading: mount the file system writable, or "
    f"name a file on another one in {URL_SETTING}",
    errno.ENOSPC: "free space on this disk",
    errno.ENOTDIR: f"a part of its path is a file, so correct the path in {URL_SETTING}",
    errno.ELOOP: f"a symbolic link leads to itself, so correct the path in {URL_SETTING}",
}


def make_private(path: Path, *, create: bool) -> None:
    """Restrict a database file, and the files beside it, to their owner (mode 600).

    Args:
        path: The file.
        create: Create the file if it is missing.

    Raises:
        ConfigurationError: The file can't be created or opened, or its mode can't be changed.
        StorageError: The file doesn't exist.
    """
    # Never open an existing file: when a process closes a file, the system releases all its locks
    # on the file, including those of SQLite's connections.
    try:
        with PROCESS_LOCKS.making:
            if create and not path.parent.exists():
                path.parent.mkdir(parents=True, mode=0o700)
            if create and not path.exists():
                # Resolve links, because O_EXCL doesn't follow them.
                target = os.path.realpath(path)
                with suppress(FileExistsError):
                    os.close(os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise _os_error(errno.EISDIR)
        if mode & 0o077:
            _take_from_others(path)
        effective = os.access in os.supports_effective_ids
        if not os.access(path, os.R_OK | os.W_OK, effective_ids=effective):
            flags = os.statvfs(path).f_flag if hasattr(os, "statvfs") else 0
            raise _os_error(errno.EROFS if flags & getattr(os, "ST_RDONLY", 0) else errno.EACCES)
    except FileNotFoundError:
        if create:
            raise ConfigurationError(
                f"no database can be created at {path.absolute()}; change {URL_SETTING}"
            ) from None
        raise StorageError(
            f"there is no database at {path.absolute()}: run it in the folder that has .env, or "
            "create a database with pipelit.create_schema() or: pipelit-agents init (setting: "
            f"{URL_SETTING})"
        ) from None
    except OSError as error:
        raise ConfigurationError(
            f"the database file {path.absolute()} can't be opened for writing ({error.strerror}): "
            + _WHY_CLOSED.get(error.errno or 0, f"change {URL_SETTING} or the folder's permissions")
        ) from None


def _take_from_others(path: Path) -> None:
    try:
        path.chmod(0o600)
    except PermissionError:
        raise ConfigurationError(
            f"other accounts can read the database file {path.absolute()}, and this account can't "
            f"change its permissions, because it belongs to {_owner(path)}: run this as that "
            f"account, or chmod 600 it and chown it to this account, or change {URL_SETTING}"
        ) from None


def _owner(path: Path) -> str:
    """Return the account that a file belongs to, for a message."""
    number = path.stat().st_uid
    try:
        import pwd

        return f"{pwd.getpwuid(number).pw_name!r} (uid {number})"
    except (ImportError, KeyError):
        return f"uid {number}"


def _os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
