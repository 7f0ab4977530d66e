"""The services of a `Pipelit`, found and not listed, so that a test forgets no new one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from pipelit_agents import Pipelit


def services_of(pipelit: Pipelit) -> dict[str, Any]:
    """Return the services by the names of their attributes."""
    return {
        name: found
        for name, found in vars(pipelit).items()
        if not name.startswith("_") and name != "policy"
    }


def takes_transaction(method: Callable[..., Any]) -> bool:
    """Return whether a method works in a transaction of its caller, as ``create_in`` does."""
    return "connection" in inspect.signature(method).parameters
