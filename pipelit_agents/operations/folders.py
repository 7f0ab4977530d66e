"""Folders that other accounts can write to, and files with secrets that they can read."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from pipelit_agents.operations.git import secret_files_in_repository
from pipelit_agents.operations.secret_files import secret_files
from pipelit_agents.sealing.keyring import Keyring

__all__ = ["folder_problems", "open_copies", "others_can_write"]


def folder_problems(folders: Iterable[Path]) -> list[str]:
    """Return the folders in which other accounts can create or replace files."""
    found = []
    for folder in dict.fromkeys(folders):
        try:
            state = folder.stat()
        except OSError:
            continue
        if os.name != "posix":
            return []
        if others_can_write(state):
            found.append(f"{folder} ({stat.filemode(state.st_mode)})")
    return found


def others_can_write(state: os.stat_result) -> bool:
    """Return whether accounts other than its owner can write to a file or a folder."""
    mode = state.st_mode
    return bool(mode & stat.S_IWOTH or (mode & stat.S_IWGRP and _is_shared(state)))


def _is_shared(state: os.stat_result) -> bool:
    """Whether a folder's group has members other than its owner.

    Many systems create a group for each account.
    """
    import grp
    import pwd

    try:
        group, owner = grp.getgrgid(state.st_gid), pwd.getpwuid(state.st_uid)
    except KeyError:
        return True
    return group.gr_name != owner.pw_name or any(each != owner.pw_name for each in group.gr_mem)


def _is_mounted(path: Path) -> bool:
    """Whether Docker or Kubernetes has mounted a file, so that no other account can read it."""
    return path.resolve().is_relative_to("/run/secrets") or (path.parent / "..data").is_symlink()


def open_copies(
    folder: Path, keyring: Keyring | None, named: Sequence[Path] = ()
) -> tuple[int, list[str]]:
    """Find the files with secrets other than ``.env`` that other accounts can read.

    Args:
        folder: The folder of ``.env``.
        keyring: The keys to search for.
        named: Files with secrets that settings name.

    Returns:
        The number of other files with secrets, and those that other accounts can read.
    """
    named = [each for each in named if each.is_file() and not _is_mounted(each)]
    below = secret_files_in_repository(folder, keyring)
    found = dict.fromkeys([*secret_files(folder, keyring), *named, *below])
    found.pop(folder / ".env", None)
    wide = []
    for path in found:
        mode = path.stat().st_mode
        if os.name == "posix" and mode & 0o077:
            wide.append(f"{path} ({stat.filemode(mode)})")
    return len(found), wide
