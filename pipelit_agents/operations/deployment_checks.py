"""Check a deployment against the production checklist."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Final

from pipelit_agents.errors import PipelitError
from pipelit_agents.ledger.redis_url import RedisUnusable
from pipelit_agents.operations.checks import (
    accounts,
    audit,
    database,
    desk,
    encryption_keys,
    files,
    langgraph_server,
    ledger,
    redis,
    web,
)
from pipelit_agents.operations.checks.deployment import Deployment, DeploymentCheck, Installation
from pipelit_agents.operations.checks.finding import NoDatabase, NotApplicable

__all__ = ["Check", "Installation", "check_deployment", "every_check"]

# In the order of the report. Each function that `deployment_check` decorates is a check.
_MODULES: Final[tuple[ModuleType, ...]] = (
    database, encryption_keys, files, ledger, redis, web, desk, langgraph_server, accounts, audit,
)  # fmt: skip
# Why a check matters that found nothing, because something else prevented it from looking.
_UNKNOWN: Final = ""


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check.

    Attributes:
        name: The check's short name.
        ok: Whether the check passed; None if it doesn't apply.
        found: What was found.
        why: Why it matters; empty if the check couldn't look, so nothing is known.
        fix: The command or setting that fixes it; empty if there is nothing to fix, or ``found``
            is an error that says how.
    """

    name: str
    ok: bool | None
    found: str
    why: str
    fix: str


def check_deployment(
    installation: Installation, folder: Path, environ: Mapping[str, str], *, deploy: bool
) -> list[Check]:
    """Run all checks. A check that can't be completed counts as failed.

    Args:
        installation: The accounts, keys and ledger.
        folder: The folder of ``.env`` and ``langgraph.json``.
        environ: The environment; it takes precedence over ``.env``.
        deploy: Run the checks for production too.
    """
    deployment, every = Deployment(installation, folder, environ), every_check()
    selected = [each for each in every if each.always]
    if deploy:
        selected += [each for each in every if not each.always]
    return _without_repeated_errors([_run(each, deployment) for each in selected])


def every_check() -> list[DeploymentCheck]:
    """Return all checks, in the order of the modules and of their functions."""
    return [
        each
        for module in _MODULES
        for each in vars(module).values()
        if isinstance(each, DeploymentCheck)
    ]


def _run(check: DeploymentCheck, deployment: Deployment) -> Check:
    name, why = check.name, check.why
    try:
        found, fix = check.look(deployment)
    except NotApplicable as nothing:
        return Check(name, None, str(nothing), why, "")
    except NoDatabase:
        return Check(name, False, "there is no database", _UNKNOWN, "pipelit-agents init")
    except (PipelitError, RedisUnusable) as error:
        # The error says how to fix it.
        return Check(name, False, str(error), _UNKNOWN, "")
    except Exception as error:
        # An unexpected error's message may contain a secret.
        found = f"the check failed ({type(error).__name__})"
        return Check(
            name, False, found, _UNKNOWN, "find out whether what it checks was edited by hand"
        )
    return Check(name, not fix, found, why, fix)


def _without_repeated_errors(checks: Iterable[Check]) -> list[Check]:
    """Keep an error that several checks share only at the first, and refer the others to it."""
    first: dict[str, str] = {}
    found = []
    for check in checks:
        name = first.setdefault(check.found, check.name)
        if check.ok is False and check.why == _UNKNOWN and name != check.name:
            check = replace(check, found=f"not checked, for the same reason as {name!r}", fix="")
        found.append(check)
    return found
