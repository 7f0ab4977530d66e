"""What every request passes before an endpoint: who calls, and the answers to errors."""

from __future__ import annotations

import logging
from typing import Any, Final

from starlette.types import ASGIApp, Receive, Scope, Send

from pipelit_agents.desk.callers import ApiKeyUsed, Caller, Visit, note_visit
from pipelit_agents.desk.problems import Problem, problem_of, response_of, unauthenticated
from pipelit_agents.desk.settings import DeskSettings
from pipelit_agents.errors import PipelitError
from pipelit_agents.pipelit import Pipelit

__all__ = ["Guards", "route_path"]

_LOG: Final = logging.getLogger(__name__)


class Guards:
    """Guard the endpoints of the desk.

    Args:
        app: The endpoints.
        home: The accounts.
        settings: The limits.
    """

    def __init__(self, app: ASGIApp, home: Pipelit, settings: DeskSettings) -> None:
        self._app = app
        self._home = home
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        visit = Visit(self._home)
        note_visit(scope, visit)
        try:
            if route_path(scope).startswith("/api/"):
                visit.caller = await self._authenticate(scope)
            await self._app(scope, receive, send)
        except Problem as problem:
            await response_of(problem)(scope, receive, send)
        except PipelitError as error:
            await response_of(problem_of(error))(scope, receive, send)

    async def _authenticate(self, scope: Scope) -> Caller:
        headers = [value for name, value in scope["headers"] if name == b"authorization"]
        scheme, _, token = (headers[0] if len(headers) == 1 else b"").partition(b" ")
        if scheme.lower() != b"bearer" or not token.isascii():
            raise unauthenticated()
        text = token.decode()
        user = await self._home.users.aauthenticate(text)
        return Caller(user, ApiKeyUsed(text.split("_")[1]))


def route_path(scope: Any) -> str:
    """Return the path below the prefix at which the desk is mounted."""
    path: str = scope["path"]
    prefix: str = scope.get("root_path", "")
    if not prefix or not path.startswith(prefix):
        return path
    return path[len(prefix) :]
