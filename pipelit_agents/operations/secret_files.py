"""Files that hold secrets: env files, Compose files, and files with one of the keys."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from dotenv import dotenv_values

from pipelit_agents.credentials.leak_guard.parts import inner_parts
from pipelit_agents.operations.secret_values import has_password, is_secret, is_secret_part
from pipelit_agents.sealing.keyring import Keyring

__all__ = [
    "MAX_FILES",
    "content_holds_secrets",
    "holds_secrets",
    "is_small",
    "may_hold_secrets",
    "secret_files",
]

_MAX_FILE_SIZE: Final = 1_000_000
MAX_FILES: Final = 500
_ENV_FILE: Final = re.compile(r"(\A|[._-])env(rc)?(\Z|[._~-])", re.IGNORECASE)
_COMPOSE_FILE: Final = re.compile(r"(docker-|podman-)?compose([._-].*)?\.ya?ml", re.IGNORECASE)
_NO_ENV_FILE: Final = (".py", ".md", ".rst", ".html")


def _small_files(folder: Path) -> Iterator[Path]:
    try:
        found = sorted(folder.iterdir())
    except OSError:
        return
    yield from filter(is_small, found[:MAX_FILES])


def is_small(path: Path) -> bool:
    """Whether a path is a regular file of at most 1 MB."""
    try:
        return path.is_file() and path.stat().st_size <= _MAX_FILE_SIZE
    except OSError:
        return False


def holds_secrets(path: Path, keyring: Keyring | None) -> bool:
    """Whether a file contains one of the keys, or is an env file that sets a secret."""
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return content_holds_secrets(path, content, keyring)


def _is_env_file(path: Path) -> bool:
    return bool(_ENV_FILE.search(path.name)) and path.suffix not in _NO_ENV_FILE


def content_holds_secrets(path: Path, content: bytes, keyring: Keyring | None) -> bool:
    """Whether the content of a file holds one of the keys, or sets a secret."""
    if keyring is not None and keyring.is_in(content):
        return True
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return False
    if _COMPOSE_FILE.fullmatch(path.name):
        # A password of lowercase letters is an image's default, for a developer's own machine.
        found = filter(is_secret_part, inner_parts(text))
        return has_password(text) or any(
            isinstance(each.value, bytes) or not re.fullmatch("[a-z]+", each.value)
            for each in found
        )
    if not _is_env_file(path):
        return False
    values = dotenv_values(stream=io.StringIO(text), interpolate=False)
    return any(is_secret(name, value or "") for name, value in values.items())


def may_hold_secrets(path: Path) -> bool:
    """Whether a path has the name of an env file or of a Compose file."""
    return _is_env_file(path) or _COMPOSE_FILE.fullmatch(path.name) is not None


def secret_files(folder: Path, keyring: Keyring | None) -> list[Path]:
    """Return the small files with secrets that are directly in a folder."""
    return [path for path in _small_files(folder) if holds_secrets(path, keyring)]
