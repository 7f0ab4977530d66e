"""Checks of the files with secrets: who else can read or replace them, and whether git has them."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pipelit_agents._wording import typed_paths
from pipelit_agents.credentials.leak_guard.recognition import Level, level_of
from pipelit_agents.errors import PipelitError
from pipelit_agents.operations.checks.deployment import Deployment, deployment_check
from pipelit_agents.operations.checks.finding import Finding, NotApplicable, listed, passed
from pipelit_agents.operations.folders import open_copies
from pipelit_agents.operations.git import git_problems

if TYPE_CHECKING:
    from pipelit_agents.sealing.keyring import Keyring

__all__ = ["copies", "database_file", "env_file", "folders", "git"]

# Settings whose name doesn't show that the file holds a secret.
_FILE_SETTINGS: Final = frozenset(
    {
        "GOOGLE_APPLICATION_CREDENTIALS", "KUBECONFIG", "PGPASSFILE", "PIPELIT_DATABASE_URL_FILE",
        "PIPELIT_REDIS_URL_FILE", "AWS_SHARED_CREDENTIALS_FILE", "DATABASE_URL_FILE",
    }
)  # fmt: skip


@deployment_check("env file", why="anyone who can read it has the key", always=True)
def env_file(deployment: Deployment) -> Finding:
    """Only its owner can read ``.env``."""
    file = deployment.folder / ".env"
    if deployment.env_is_readable and not file.exists():
        raise NotApplicable("there is no .env")
    if not deployment.env_is_readable or not file.is_file():
        return Finding(
            "it can't be read, so its content is unknown", f"make {file} a UTF-8 text file"
        )
    if os.name == "posix" and file.stat().st_mode & 0o077:
        mode = stat.filemode(file.stat().st_mode)
        return Finding(f"other accounts can read it ({mode})", f"chmod 600 {typed_paths([file])}")
    return passed()


@deployment_check(
    "database file", why="anyone who can read it has hashes, names and ciphertext", always=True
)
def database_file(deployment: Deployment) -> Finding:
    """Only their owner could read the files of an SQLite database before it was opened."""
    if not deployment.database_modes:
        if deployment.database_is_missing:
            raise NotApplicable("there is no file")
        unusable = deployment.database_url is None
        raise NotApplicable("the URL can't be used" if unusable else "a server is used")
    wide = [str(path) for path, mode in deployment.database_modes.items() if mode & 0o077]
    if wide:
        return Finding(
            f"other accounts could read {listed(wide)}",
            f"chmod 600 {typed_paths(wide)} (opening the database has just done this)",
        )
    return passed()


@deployment_check("git", why="every copy of a repository has all files of its history")
def git(deployment: Deployment) -> Finding:
    """No file with a secret is in git, in its history, or would be added."""
    others = [*_named_files(deployment), *deployment.database_modes]
    found = git_problems(deployment.folder.resolve(), _known_keys(deployment), others)
    if found is None:
        raise NotApplicable("the folder isn't in a repository")
    if not found:
        return passed()
    if all(each.startswith("git would add") for each in found):
        names = [each.removeprefix("git would add ") for each in found]
        return Finding(
            listed(found),
            f"add to .gitignore: {' '.join(names)}; in a Compose file, name a secret instead: "
            "${POSTGRES_PASSWORD}, with its value in .env",
        )
    return Finding(
        listed(found),
        "replace the secrets, because every copy of the repository has them: pipelit-agents "
        "keys add, then keys rotate --purge, and new keys from the issuers of the others; then "
        "git rm --cached, and a line for the file in .gitignore",
    )


@deployment_check("copies", why="a copy of .env contains the key too")
def copies(deployment: Deployment) -> Finding:
    """Only their owner can read the other files with secrets."""
    there, wide = open_copies(
        deployment.folder.resolve(), _known_keys(deployment), _named_files(deployment)
    )
    if wide:
        return Finding(
            f"other accounts can read secrets in {listed(wide)}",
            f"chmod 600 {_paths(wide)}; or delete the files that aren't used",
        )
    if not there:
        raise NotApplicable("there are no copies")
    return passed()


@deployment_check("folders", why="anyone who can write there can replace .env or the database")
def folders(deployment: Deployment) -> Finding:
    """Only their owner can create files in the folders of ``.env`` and of the database."""
    if os.name != "posix":
        raise NotApplicable("this system has no POSIX permissions")
    if wide := deployment.open_folders:
        return Finding(
            f"other accounts can create files in {listed(wide)}", f"chmod go-w {_paths(wide)}"
        )
    return passed()


def _paths(with_modes: list[str]) -> str:
    return typed_paths(each.rpartition(" (")[0] for each in with_modes)


def _known_keys(deployment: Deployment) -> Keyring | None:
    """Return the keyring, to search files for its keys; None if it can't be read."""
    try:
        return deployment.keyring()
    except PipelitError:
        return None


def _named_files(deployment: Deployment) -> list[Path]:
    """Return the secret files that settings name: the server's ``env``, ``…_KEY_FILE``."""
    folder, env = deployment.folder, deployment.served_or_nothing().get("env")
    named = [folder / env] if isinstance(env, str) and env else []
    for name, value in sorted(deployment.environ.items()):
        if _names_a_secret(name) and value.strip():
            # A relative path is relative to the working directory, which usually is the folder.
            there = Path(value.strip())
            named.append(there if there.is_file() else folder / there)
    return [each.parent.resolve() / each.name for each in named]


def _names_a_secret(name: str) -> bool:
    """Whether a setting's value is the path of a file with a secret."""
    if name in _FILE_SETTINGS:
        return True
    held = re.sub(r"_?(FILE|PATH)\Z", "", name)
    return held != name and level_of(held) >= Level.LIKELY
