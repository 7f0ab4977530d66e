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

__all__ = ["git_problems", "secret_files_in_repository"]

_MAX_TRACKED_FILES: Final = 5_000
# Pathspecs of env files and Compose files. The names of the results are checked again.
_NAMES: Final = (":(icase)*env*", ":(icase)*compose*ml")
# Seconds.
_GIT_TIMEOUT: Final = 10.0
_MAX_VERSIONS: Final = 1_000
_MAX_VERSION_SIZE: Final = 30_000
# A line of `git log --raw`: modes and objects before and after the change, and its kind.
_RAW: Final = re.compile(r":(\d+) (\d+) ([0-9a-f]+) ([0-9a-f]+) [A-Z]\d*")
_FILE_MODE: Final = "100"


def secret_files_in_repository(folder: Path, keyring: Keyring | None) -> list[Path]:
    """Return the env files with secrets in the repository that git tracks or would add."""
    top, git = _top_of(folder), shutil.which("git")
    if top is None or git is None:
        return []
    command = ("ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", *_NAMES)
    listed = (_git_text(git, top, *command) or "").split("\0")
    files = [top / each for each in dict.fromkeys(listed) if may_hold_secrets(Path(each))]
    return [path for path in filter(is_small, files[:MAX_FILES]) if holds_secrets(path, keyring)]


def _top_of(folder: Path) -> Path | None:
    return next((each for each in (folder, *folder.parents) if (each / ".git").exists()), None)


def git_problems(
    folder: Path, keyring: Keyring | None, others: Sequence[Path] = ()
) -> list[str] | None:
    """Find the files with secrets that git tracks, has in its history, or would add.

    Args:
        folder: The folder to check.
        keyring: The keys to search for.
        others: Other files and folders that git must not have, such as the database.

    Returns:
        The problems; None if the folder isn't in a repository.
    """
    top = _top_of(folder)
    if top is None:
        return None
    git = shutil.which("git")
    listed = _git_text(git, top, "ls-files", "-z") if git else None
    tracked_files = [top / each for each in (listed or "").split("\0")[:_MAX_TRACKED_FILES] if each]
    secret = [path for path in filter(is_small, tracked_files) if holds_secrets(path, keyring)]
    # .env is included even if it doesn't exist, because it may be in the history.
    beside = [*secret_files(folder, keyring), *secret_files_in_repository(folder, keyring)]
    wanted = dict.fromkeys([folder / ".env", *beside, *secret, *map(_absolute, others)])
    inside = [each for each in wanted if each.is_relative_to(top)]
    if git is None:
        kept = [str(each) for each in inside if each.exists()]
        return ["git isn't installed here, so the repository can't be checked"] if kept else []
    found = []
    for path in inside:
        name = os.path.relpath(path, folder)
        tracked, history, ignored = (
            _git_text(git, folder, "ls-files", "--", name),
            _git_text(git, folder, "log", "--all", "-1", "--format=%H", "--", name),
            _git_text(git, folder, "check-ignore", "--no-index", "--", name),
        )
        if None in (tracked, history, ignored):
            return [f"git failed for {name}: run `git status` to see why"]
        if tracked:
            found.append(f"{name} is in git")
        elif history:
            found.append(f"{name} is in git's history")
        elif not ignored and path.exists():
            found.append(f"git would add {name}")
    earlier = _earlier_secrets(git, top, keyring)
    if earlier is None:
        found.append("git can't list the files of earlier commits: see git log --all --name-only")
    for path in earlier or ():
        name = os.path.relpath(path, folder)
        if path not in inside:
            found.append(f"{name} is in git's history")
    return found


def _absolute(path: Path) -> Path:
    # Don't resolve the last part, because git stores a link as a link.
    return path.parent.resolve() / path.name


def _earlier_secrets(git: str, top: Path, keyring: Keyring | None) -> list[Path] | None:
    """Find the env and Compose files that have a version with a secret in any commit or stash.

    Returns:
        Their paths, whether they still exist or not; None if git failed.
    """
    listed = _git_text(
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
            # Include the object before the change, because a shallow clone begins in the middle.
            for mode, version in zip(raw.groups()[:2], raw.groups()[2:], strict=True):
                if mode.startswith(_FILE_MODE) and may_hold_secrets(path):
                    versions[path, version] = None
    selected = list(versions)[:_MAX_VERSIONS]
    contents = _contents(git, top, [version for _, version in selected])
    secret = [
        path
        for path, version in selected
        # A version that is missing from this clone may contain a secret.
        if version not in contents or content_holds_secrets(path, contents[version], keyring)
    ]
    return list(dict.fromkeys(secret))


def _contents(git: str, top: Path, versions: Sequence[str]) -> dict[str, bytes]:
    """Return the contents of git objects, by name; empty for large ones."""
    sizes = _git_text(git, top, "cat-file", "--batch-check", stdin="\n".join(versions)) or ""
    rows = [row.split() for row in sizes.splitlines()]
    # A large file isn't an env file.
    found = {row[0]: b"" for row in rows if row[1:2] == ["blob"]}
    small = [row[0] for row in rows if row[0] in found and int(row[2]) <= _MAX_VERSION_SIZE]
    rest = _git_output(git, top, "cat-file", "--batch", stdin="\n".join(small)) or b""
    while rest:
        head, _, rest = rest.partition(b"\n")
        name, _, size = head.decode("ascii", "replace").split()
        found[name], rest = rest[: int(size)], rest[int(size) + 1 :]
    return found


def _git_text(git: str, folder: Path, *words: str, stdin: str = "") -> str | None:
    done = _git_output(git, folder, *words, stdin=stdin)
    return None if done is None else done.decode("utf-8", "replace").strip()


def _git_output(git: str, folder: Path, *words: str, stdin: str = "") -> bytes | None:
    # The repository's own configuration could name programs to run.
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
            # Don't fetch the objects that a partial clone lacks. Older versions of git know only
            # the second variable.
            | {"GIT_NO_LAZY_FETCH": "1", "GIT_ALLOW_PROTOCOL": "none"},
            input=stdin.encode(),
            capture_output=True,
            timeout=_GIT_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    # check-ignore exits with 1 if nothing is ignored.
    if done.returncode not in (0, 1):
        return None
    return done.stdout
