"""Whether the desk runs, and whether it can answer: for load balancers, without a key."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from pipelit_agents._threads import aside
from pipelit_agents.desk.callers import visit_of
from pipelit_agents.errors import PipelitError
from pipelit_agents.pipelit import Pipelit

__all__ = ["Readiness", "health_routes"]

_LOG: Final = logging.getLogger(__name__)
# Seconds for which a result is given to others too, so that nobody keeps the database busy.
_TTL: Final = 1.0
# Seconds.
_TIMEOUT: Final = 5.0


class Readiness:
    """Ask the database, the key and the ledger, one at a time and at most once a second.

    Args:
        home: The accounts.
    """

    def __init__(self, home: Pipelit) -> None:
        self._home = home
        self._asked_at = -math.inf
        self._ready = False
        self._asking: asyncio.Task[bool] | None = None

    async def is_ready(self) -> bool:
        """Return whether all of them answer."""
        now = asyncio.get_running_loop().time()
        if now - self._asked_at < _TTL:
            return self._ready
        if self._asking is None or self._asking.get_loop() is not asyncio.get_running_loop():
            self._asking = asyncio.ensure_future(self._ask())
        try:
            # A database that hangs keeps one question waiting, and not one for each caller.
            return await asyncio.wait_for(asyncio.shield(self._asking), _TIMEOUT)
        except TimeoutError:
            return False

    async def _ask(self) -> bool:
        try:
            await aside(_require_ready, self._home)
            ready = True
        except PipelitError as error:
            if self._ready or self._asked_at == -math.inf:
                _LOG.error("the desk isn't ready: %s", error)
            ready = False
        finally:
            self._asking = None
        self._asked_at, self._ready = asyncio.get_running_loop().time(), ready
        return ready


def health_routes() -> list[BaseRoute]:
    """Return the routes ``/health``, which touches nothing, and ``/ready``."""
    return [Route("/health", _health, name="health"), Route("/ready", _ready, name="ready")]


async def _health(request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _ready(request: Request) -> Response:
    if await visit_of(request).is_ready():
        return JSONResponse({"status": "ok"})
    return JSONResponse({"status": "unavailable"}, 503)


def _require_ready(home: Pipelit) -> None:
    home.check_key()
    home.check_ledger()
