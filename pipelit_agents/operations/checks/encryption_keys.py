"""Checks of ``FIELD_ENCRYPTION_KEY``: its strength, and what is encrypted with which key."""

from __future__ import annotations

from pipelit_agents.database.key_row import KEY_TABLE, KeyState, key_state
from pipelit_agents.operations.checks.deployment import Deployment, deployment_check
from pipelit_agents.operations.checks.finding import Finding, listed, passed

__all__ = ["database_key", "encrypted_values", "newest_key", "strength"]


@deployment_check("key", why="nothing is protected without a key that only you know", always=True)
def strength(deployment: Deployment) -> Finding:
    """No key is printed in a documentation, or was typed."""
    if weak := deployment.keyring().weak():
        return Finding("; ".join(weak), "pipelit-agents keys generate, then: keys rotate")
    return passed()


@deployment_check(
    "database key", why="nothing is encrypted under a key that isn't the database's", always=True
)
def database_key(deployment: Deployment) -> Finding:
    """The database names one of the keys, and the newest one wasn't replaced."""
    state = _state(deployment)
    if state == "missing":
        return passed("nothing was encrypted since the tables were made")
    if state in ("newest", "older"):
        return passed(f"the database names the {'newest' if state == 'newest' else 'older'} key")
    if state == "foreign":
        return Finding(
            f"the row of {KEY_TABLE} names a key that isn't set, or was changed",
            "set the database's key; if it is lost or the row was changed: pipelit-agents keys "
            "forget",
        )
    return Finding(
        "the newest key was replaced by keys rotate",
        "put the key that replaced it first, and restart the processes",
    )


@deployment_check("key opens", why="encrypted values can't be read without their key", always=True)
def encrypted_values(deployment: Deployment) -> Finding:
    """The keys decrypt every value."""
    status = deployment.installed.count_values(deployment.keyring())
    if status.unreadable:
        return Finding(
            f"no key can decrypt {listed(status.unreadable)}",
            "put back the key that encrypted them, after the newest one; or set them again: "
            "pipelit-agents credentials put NAME …, agents rotate-totp NAME, mfa reset NAME",
        )
    count = status.newest + sum(status.older.values())
    return passed(f"{count} encrypted values can be read" if count else "nothing is encrypted")


@deployment_check("newest key", why="you can't remove an older key while it is in use")
def newest_key(deployment: Deployment) -> Finding:
    """Every value is encrypted with the newest key."""
    status = deployment.installed.count_values(deployment.keyring())
    if older := sum(status.older.values()):
        return Finding(
            f"{older} values are encrypted with an older key", "pipelit-agents keys rotate"
        )
    if _state(deployment) == "older":
        return Finding("the database still names an older key", "pipelit-agents keys rotate")
    return passed(f"{status.newest} values are encrypted with the newest key")


def _state(deployment: Deployment) -> KeyState:
    with deployment.reading() as connection:
        return key_state(connection, deployment.keyring())
