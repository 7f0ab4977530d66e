"""Folders that other accounts can write to, and files with secrets that they can read."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from pipelit_agents.operations.git import secret_files_in_repository
from pipelit_agents.operations.secret_files import secret_files
from pipelit_agents.sealing.keyring import Keyring

__all__ = ["folder_troubles", "open_copies"]


def folder_troubles(folders: Iterable[Path]) -> list[str]:
    """The folders in which other accounts may put or replace files."""
    found = []
    for folder in dict.fromkeys(folders):
        try:
            state = folder.stat()
        except OSError:
            continue
        if os.name != "posix":
            return []
        if state.st_mode & stat.S_IWOTH or (state.st_mode & stat.S_IWGRP and _is_shared(state)):
            found.append(f"{folder} ({stat.filemode(state.st_mode)})")
    return found


def _is_shared(state: os.stat_result) -> bool:
    """Whether a group is more than its owner's own one, as many systems make for each account."""
    import grp
    import pwd

    try:
        group, owner = grp.getgrgid(state.st_gid), pwd.getpwuid(state.st_uid)
    except KeyError:
        return True
    return group.gr_name != owner.pw_name or any(each != owner.pw_name for each in group.gr_mem)


def _is_mounted(path: Path) -> bool:
    """Whether Docker or Kubernetes has put a file there, where no other account is."""
    return path.resolve().is_relative_to("/run/secrets") or (path.parent / "..data").is_symlink()


def open_copies(
    folder: Path, keyring: Keyring | None, named: Sequence[Path] = ()
) -> tuple[int, list[str]]:
    """The files with secrets beside ``.env`` that other accounts may read.

    Args:
        folder: Where ``.env`` is.
        keyring: Whose keys to look for.
        named: Files that settings name as ones with secrets.

    Returns:
        How many files with secrets there are beside it, and the open ones of them.
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
