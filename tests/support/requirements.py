"""What a ``pip install`` brings, and which modules of this environment it doesn't."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, distributions
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from paths import ROOT

US = "pipelit-agents"
_SUFFIXES = (".py", ".so", ".pyd")
# Deep enough for packages that share a namespace, such as langgraph.checkpoint.sqlite.
_DEPTH = 4


def parsed(requirement: str) -> tuple[str, frozenset[str]]:
    """Return the name and the extras of what a reader installs, for example ``.[desk]``."""
    match = re.match(r"(\.|[\w.-]+)(?:\[([\w,. -]+)\])?(?=[\s@=<>!~;]|\Z)", requirement)
    assert match, f"pip can't install {requirement!r}"
    extras = (canonicalize_name(each.strip()) for each in (match[2] or "").split(",") if each)
    return US if match[1] == "." else canonicalize_name(match[1]), frozenset(extras)


def is_installed(requirement: str) -> bool:
    """Whether a package is installed here."""
    try:
        distribution(parsed(requirement)[0])
    except PackageNotFoundError:
        return False
    return True


def offered_extras(name: str) -> set[str]:
    """Return the extras of a package that is installed."""
    if name == US:
        return {canonicalize_name(each) for each in _project()["optional-dependencies"]}
    offered = distribution(name).metadata.get_all("Provides-Extra") or []
    return {canonicalize_name(each) for each in offered}


def hidden_from(installs: Sequence[str]) -> tuple[str, ...]:
    """Return the modules that somebody can't import who installs pipelit-agents and these."""
    return _hidden_from(closure(*sorted({*installs})))


@cache
def closure(*installs: str) -> frozenset[str]:
    """Return the packages that ``pip install`` brings, with pipelit-agents, by their names."""
    found: dict[str, frozenset[str]] = {}
    waiting = [parsed(US), *map(parsed, installs)]
    while waiting:
        name, extras = waiting.pop()
        if name in found and extras <= found[name]:
            continue
        extras |= found.get(name, frozenset())
        found[name] = extras
        waiting += [
            (canonicalize_name(each.name), frozenset(map(canonicalize_name, each.extras)))
            for each in _requirements(name)
            if each.marker is None
            or any(each.marker.evaluate({"extra": extra}) for extra in ("", *extras))
        ]
    return frozenset(found)


@cache
def _hidden_from(brought: frozenset[str]) -> tuple[str, ...]:
    owners = _owners()
    hidden: list[str] = []
    for module in sorted(owners, key=lambda name: name.count(".")):
        above = module.rpartition(".")[0]
        if not owners[module] & brought and (not above or owners[above] & brought):
            hidden.append(module)
    return tuple(hidden)


@cache
def _project() -> dict[str, Any]:
    # Not from what is installed, as that may be older than an extra.
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project


@cache
def _requirements(name: str) -> list[Requirement]:
    if name == US:
        extras = _project()["optional-dependencies"].items()
        more = [f'{each}; extra == "{extra}"' for extra, named in extras for each in named]
        return [Requirement(each) for each in [*_project()["dependencies"], *more]]
    try:
        return [Requirement(each) for each in distribution(name).requires or []]
    except PackageNotFoundError:
        # It is for another system or version of Python.
        return []


@cache
def _owners() -> dict[str, set[str]]:
    """Each module, and each package above it, with the packages of pip that have a file of it."""
    found: dict[str, set[str]] = {}
    for each in distributions():
        owner = canonicalize_name(each.name)
        for line in (each.read_text("RECORD") or "").splitlines():
            path = line.partition(",")[0]
            if not path.endswith(_SUFFIXES) or path.startswith((".", "/", "_")):
                continue
            *folders, file = path.split("/")
            names = [*folders, file.partition(".")[0]]
            for depth in range(1, min(len(names), _DEPTH) + 1):
                found.setdefault(".".join(names[:depth]), set()).add(owner)
    return found
