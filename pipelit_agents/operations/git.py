"""Files with secrets that git tracks, has in its history, or would add."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pipelit_agents.operations.secret_files import (
    MAX_FILES,
    content_holds_secrets,
    holds_secrets,
    is_small,
    may_hold_secrets,
    secret_files,
)
from pipelit_agents.sealing.keyring import Keyring

__all__ = ["git_troubles", "secret_files_in_repository"]

_MOST_TRACKED: Final = 5_000
# What git is asked to list of both: the names are looked at again.
_NAMES: Final = (":(icase)*env*", ":(icase)*compose*ml")
_GIT_PATIENCE: Final = 10.0
_MOST_VERSIONS: Final = 1_000
_LARGEST_VERSION: Final = 30_000
# A line of `git log --raw`: modes, objects before and after, what was done.
_RAW: Final = re.compile(r":(\d+) (\d+) ([0-9a-f]+) ([0-9a-f]+) [A-Z]\d*")
_FILE_MODE: Final = "100"


def secret_files_in_repository(folder: Path, keyring: Keyring | None) -> list[Path]:
    """The env files with secrets, in any folder of the repository, that git has or would take."""
    top, git = _top_of(folder), shutil.which("git")
    if top is None or git is None:
        return []
    asked = ("ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", *_NAMES)
    listed = (_ask_git(git, top, *asked) or "").split("\0")
    files = [top / each for each in dict.fromkeys(listed) if may_hold_secrets(Path(each))]
    return [path for path in filter(is_small, files[:MAX_FILES]) if holds_secrets(path, keyring)]


def _top_of(folder: Path) -> Path | None:
    return next((each for each in (folder, *folder.parents) if (each / ".git").exists()), None)


def git_troubles(
    folder: Path, keyring: Keyring | None, others: Sequence[Path] = ()
) -> list[str] | None:
    """The files with secrets that git has, had, or would take.

    Args:
        folder: Where to look.
        keyring: Whose keys to look for.
        others: Files and folders to look at too: the database.

    Returns:
        What is wrong; None where the folder is in no repository.
    """
    top = _top_of(folder)
    if top is None:
        return None
    git = shutil.which("git")
    listed = _ask_git(git, top, "ls-files", "-z") if git else None
    tracked_files = [top / each for each in (listed or "").split("\0")[:_MOST_TRACKED] if each]
    secret = [path for path in filter(is_small, tracked_files) if holds_secrets(path, keyring)]
    # .env also when the file is gone: it may be in the history.
    beside = [*secret_files(folder, keyring), *secret_files_in_repository(folder, keyring)]
    wanted = dict.fromkeys([folder / ".env", *beside, *secret, *map(_absolute, others)])
    inside = [each for each in wanted if each.is_relative_to(top)]
    if git is None:
        kept = [str(each) for each in inside if each.exists()]
        return ["git isn't installed here, so it can't be asked"] if kept else []
    found = []
    for path in inside:
        name = os.path.relpath(path, folder)
        tracked, history, ignored = (
            _ask_git(git, folder, "ls-files", "--", name),
            _ask_git(git, folder, "log", "--all", "-1", "--format=%H", "--", name),
            _ask_git(git, folder, "check-ignore", "--no-index", "--", name),
        )
        if None in (tracked, history, ignored):
            return [f"git can't be asked about {name}: see what `git status` says there"]
        if tracked:
            found.append(f"{name} is in git")
        elif history:
            found.append(f"{name} is in git's history")
        elif not ignored and path.exists():
            found.append(f"git would take {name}")
    earlier = _earlier_secrets(git, top, keyring)
    if earlier is None:
        found.append("git can't list the files of earlier commits: see git log --all --name-only")
    for path in earlier or ():
        name = os.path.relpath(path, folder)
        if path not in inside:
            found.append(f"{name} is in git's history")
    return found


def _absolute(path: Path) -> Path:
    # The last part stays: of a link git has the link.
    return path.parent.resolve() / path.name


def _earlier_secrets(git: str, top: Path, keyring: Keyring | None) -> list[Path] | None:
    """The env and Compose files of which a commit, branch or stash has a version with a secret.

    Returns:
        Their paths, whether they still exist or not; None if git can't be asked.
    """
    listed = _ask_git(
        git, top, "log", "--all", "--no-renames", "--raw", "--no-abbrev", "--format=", "-z",
        "--", *_NAMES,
    )  # fmt: skip
    if listed is None:
        return None
    versions: dict[tuple[Path, str], None] = {}
    words = iter(listed.split("\0"))
    for word in words:
        if raw := _RAW.fullmatch(word.strip()):
            path = top / next(words, "")
            # A shallow copy begins in the middle, so the object before a change counts too.
            for mode, version in zip(raw.groups()[:2], raw.groups()[2:], strict=True):
                if mode.startswith(_FILE_MODE) and may_hold_secrets(path):
                    versions[path, version] = None
    asked = list(versions)[:_MOST_VERSIONS]
    contents = _contents(git, top, [version for _, version in asked])
    secret = [
        path
        for path, version in asked
        # A version that isn't in this copy can't be looked at, and may hold anything.
        if version not in contents or content_holds_secrets(path, contents[version], keyring)
    ]
    return list(dict.fromkeys(secret))


def _contents(git: str, top: Path, versions: Sequence[str]) -> dict[str, bytes]:
    """The small ones of git's objects."""
    sizes = _ask_git(git, top, "cat-file", "--batch-check", said="\n".join(versions)) or ""
    rows = [row.split() for row in sizes.splitlines()]
    # A large file is no env file.
    found = {row[0]: b"" for row in rows if row[1:2] == ["blob"]}
    small = [row[0] for row in rows if row[0] in found and int(row[2]) <= _LARGEST_VERSION]
    rest = _asked_git(git, top, "cat-file", "--batch", said="\n".join(small)) or b""
    while rest:
        head, _, rest = rest.partition(b"\n")
        name, _, size = head.decode("ascii", "replace").split()
        found[name], rest = rest[: int(size)], rest[int(size) + 1 :]
    return found


def _ask_git(git: str, folder: Path, *words: str, said: str = "") -> str | None:
    done = _asked_git(git, folder, *words, said=said)
    return None if done is None else done.decode("utf-8", "replace").strip()


def _asked_git(git: str, folder: Path, *words: str, said: str = "") -> bytes | None:
    # A repository's own configuration could name programs to run.
    settings = (
        "core.fsmonitor=false", "core.hooksPath=/dev/null", "core.pager=cat",
        "log.showSignature=false",
    )  # fmt: skip
    options = [option for each in settings for option in ("-c", each)]
    magic = words[0] == "check-ignore" or words[-1].startswith(":(")
    literal = [] if magic else ["--literal-pathspecs"]
    ours = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(  # noqa: S603 - its own words, and the names of files
            [git, "--no-pager", *options, *literal, *words],
            cwd=folder,
            env={**ours, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
            # What a partial copy lacks isn't fetched; an older git knows only the second.
            | {"GIT_NO_LAZY_FETCH": "1", "GIT_ALLOW_PROTOCOL": "none"},
            input=said.encode(),
            capture_output=True,
            timeout=_GIT_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    # 1 is check-ignore's way of saying that nothing is ignored.
    if done.returncode not in (0, 1):
        return None
    return done.stdout
