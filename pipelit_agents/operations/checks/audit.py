"""The check of the audit trail."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from pipelit_agents.operations.checks.deployment import Deployment, deployment_check
from pipelit_agents.operations.checks.finding import Finding, listed, passed

__all__ = ["trail"]

# Seconds.
_MAX_UNSEALED_TIME: Final = 86_400


@deployment_check("audit", why="changes to unsealed entries can't be detected")
def trail(deployment: Deployment) -> Finding:
    """The trail is unchanged, and its entries are sealed every day."""
    audit = deployment.installed.audit
    report = audit.verify()
    if report.problems:
        return Finding(listed(report.problems), "see: pipelit-agents audit verify")
    head = audit.head()
    if report.unsealed and not head.number:
        return Finding(
            f"none of the {report.unsealed} entries is sealed", "pipelit-agents audit seal"
        )
    age = deployment.now() - datetime.fromisoformat(head.at).timestamp()
    if report.unsealed and age > _MAX_UNSEALED_TIME:
        return Finding(
            f"{report.unsealed} entries aren't sealed; the last seal is {age / 3600:.0f} hours old",
            "run pipelit-agents audit seal from a timer",
        )
    return passed(f"{report.sealed} entries sealed, {report.unsealed} not sealed yet")
