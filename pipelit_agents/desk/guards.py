"""What every request passes before an endpoint, and every answer before it is sent."""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections.abc import Iterable
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipelit_agents._threads import aside
from pipelit_agents.bearer import ApiKeyGate, KeyNotLookedUp, source_of, token_of
from pipelit_agents.desk.arrivals import (
    METHODS,
    forwarded,
    require_bounded,
    require_host,
    route_path,
)
from pipelit_agents.desk.bodies import (
    UNREADABLE,
    Disconnected,
    has_body,
    read_body,
    replayed,
    require_json,
)
from pipelit_agents.desk.callers import (
    CODE_HEADER,
    ApiKeyUsed,
    Caller,
    Ended,
    Visit,
    note_visit,
    require_current,
)
from pipelit_agents.desk.health import Readiness
from pipelit_agents.desk.problems import (
    Problem,
    problem_of,
    response_of,
    unauthenticated,
    unexpected,
)
from pipelit_agents.desk.set_up_token import SetUpTokens, may_be_set_up_token
from pipelit_agents.desk.settings import DeskSettings
from pipelit_agents.errors import PipelitError
from pipelit_agents.pipelit import Pipelit

__all__ = ["Guards", "logged_problem_of"]

API_PREFIX: Final = "/api/v1"
SET_UP_PATH: Final = f"{API_PREFIX}/setup"
_LOG: Final = logging.getLogger(__name__)
_ACCESS: Final = logging.getLogger("pipelit_agents.desk.access")
# Seconds until a client has to have taken a part of an answer.
_SEND_TIMEOUT: Final = 60.0
# Seconds for which browsers keep the answer to a preflight request.
_PREFLIGHT_TTL: Final = 600
_NAMELESS: Final = frozenset({"/health", "/ready"})
_PLAIN_PATHS: Final = _NAMELESS | {"/"}
_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


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
        self._hosts = settings.hosts
        self._proxies = settings.proxies
        self._origins = frozenset(each.encode() for each in settings.cors_origins)
        self._gate = ApiKeyGate(home)
        self._readiness = Readiness(home)
        self._set_up = SetUpTokens(home)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            # The desk has no web sockets; a server turns this into a 403.
            await send({"type": "websocket.close"})
            return
        scope = forwarded(scope, self._proxies)
        visit, began = Visit(self._home, self._readiness.is_ready), time.perf_counter()
        note_visit(scope, visit)
        answer = _Answer(send, self._headers(scope))
        try:
            await self._answer(scope, receive, answer, visit)
        except Disconnected:
            pass
        except Problem as problem:
            await answer.problem(problem, scope, receive)
        except PipelitError as error:
            await answer.problem(logged_problem_of(error, visit), scope, receive)
        except Ended:
            _LOG.warning("an answer was cut off, because its caller's key or role has ended")
        except _Stalled:
            _LOG.warning("a client took no part of its answer for %d seconds", _SEND_TIMEOUT)
        except Exception as error:
            _LOG.error("a request failed: %s", _where(error))
            await answer.problem(unexpected(), scope, receive)
        finally:
            _log_access(scope, visit, answer.status, time.perf_counter() - began)

    async def _answer(self, scope: Scope, receive: Receive, send: _Answer, visit: Visit) -> None:
        path = route_path(scope)
        require_bounded(scope)
        if path not in _NAMELESS:
            require_host(scope, self._hosts)
        if path == "/api" or path.startswith("/api/"):
            visit.is_keyed = True
            if self._is_preflight(scope):
                await Response(status_code=204)(scope, receive, send)
                return
            await self._authenticate(scope, path, visit)
        if has_body(scope):
            send.unread = True
            body = await read_body(
                scope,
                receive,
                most=self._settings.max_body_size,
                within=self._settings.receive_timeout,
            )
            send.unread = False
            if visit.caller is not None:
                await aside(require_current, self._home, visit.caller)
            try:
                require_json(body)
            except Problem as problem:
                visit.body_problem = problem
                body = UNREADABLE
            receive = replayed(body, receive)
        await self._app(scope, receive, send)

    async def _authenticate(self, scope: Scope, path: str, visit: Visit) -> None:
        """Find out who calls.

        Raises:
            Problem: There is no valid key, or it wasn't looked up.
            PipelitError: The database can't be asked.
        """
        if not any(name == b"authorization" for name, _ in scope["headers"]):
            raise unauthenticated()
        token, source = token_of(scope["headers"]), source_of(scope.get("client"))
        try:
            if path == SET_UP_PATH and may_be_set_up_token(token):
                await self._gate.require(source, self._set_up.accept(token))
                visit.sets_up = True
                return
            user = await self._gate.user_of(token, source)
        except KeyNotLookedUp as refused:
            raise Problem(
                429, "too-many-attempts", str(refused), retry_after=refused.retry_after
            ) from None
        visit.caller = Caller(user, ApiKeyUsed(token.split("_")[1]))

    def _is_preflight(self, scope: Scope) -> bool:
        asked = any(name == b"access-control-request-method" for name, _ in scope["headers"])
        return scope["method"] == "OPTIONS" and asked and self._origin(scope) is not None

    def _origin(self, scope: Scope) -> str | None:
        """Return the other site that sent a request, if it may."""
        named = [value.lower() for name, value in scope["headers"] if name == b"origin"]
        return named[0].decode() if len(named) == 1 and named[0] in self._origins else None

    def _headers(self, scope: Scope) -> dict[str, str]:
        """Return the headers of every answer to a request."""
        headers = dict(_HEADERS)
        if scope.get("scheme") == "https" or self._settings.is_https:
            headers["Strict-Transport-Security"] = "max-age=31536000"
        path = route_path(scope)
        if not (path in ("", "/") or path.startswith("/static/")):
            headers["Cache-Control"] = "no-store"
        if self._origins:
            headers["Vary"] = "Origin"
        if (origin := self._origin(scope)) is not None and path.startswith("/api/"):
            headers |= {
                "Access-Control-Allow-Origin": origin,
                "Access-Control-Expose-Headers": "Retry-After",
            }
            if scope["method"] == "OPTIONS":
                headers |= {
                    "Access-Control-Allow-Methods": ", ".join(METHODS),
                    "Access-Control-Allow-Headers": (
                        f"Authorization, Content-Type, If-None-Match, {CODE_HEADER}"
                    ),
                    "Access-Control-Max-Age": str(_PREFLIGHT_TTL),
                }
        return headers


class _Stalled(Exception):
    """The client takes nothing of its answer."""


class _Answer:
    """What an answer is sent with: it adds the headers, and ends for a client that takes nothing.

    Attributes:
        status: The HTTP status; 0 before the answer begins.
        unread: Whether a body of the request wasn't read to its end, so that no other request can
            follow on its connection.
    """

    def __init__(self, send: Send, headers: dict[str, str]) -> None:
        self._send = send
        self._headers = headers
        self.status = 0
        self.unread = False

    async def __call__(self, message: Message) -> None:
        """Send a part of the answer."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in self._headers.items():
                headers[name] = value
        try:
            async with asyncio.timeout(_SEND_TIMEOUT):
                await self._send(message)
        except TimeoutError:
            raise _Stalled from None

    async def problem(self, problem: Problem, scope: Scope, receive: Receive) -> None:
        """Answer with a problem, unless an answer has begun already.

        An answer that isn't whole is left so: then the server closes the connection.
        """
        if self.status:
            return
        response = response_of(problem)
        # What framing is refused, a proxy may have read otherwise: what follows isn't a request.
        closes = self.unread or problem.slug == "bad-request"
        if closes and scope.get("http_version", "1.1").startswith("1"):
            response.headers["Connection"] = "close"
        await response(scope, receive, self)


def logged_problem_of(error: PipelitError, visit: Visit) -> Problem:
    """Return the problem for an error of the library, and log what only operators may read."""
    problem = problem_of(error, to_operator=visit.by_operator)
    if problem.status == 503:
        _LOG.error("%s", error)
    elif problem.status == 500:
        _LOG.error("a request failed: %s", _where(error))
    return problem


def _where(error: BaseException) -> str:
    """Return the type of an error and where it was raised; its message may hold a secret."""
    frames: Iterable[traceback.FrameSummary] = traceback.extract_tb(error.__traceback__)[-5:]
    lines = [f"{each.filename}:{each.lineno} in {each.name}" for each in frames]
    return f"{type(error).__name__} at {', '.join(reversed(lines))}"


def _log_access(scope: Scope, visit: Visit, status: int, seconds: float) -> None:
    # Load balancers ask for these all the time.
    probed = route_path(scope) in _NAMELESS and status < 400
    level = logging.DEBUG if probed else logging.INFO
    if not _ACCESS.isEnabledFor(level):
        return
    client = scope.get("client")
    _ACCESS.log(
        level,
        "%s %s %s %s %d %.0fms",
        client[0] if client else "-",
        visit.caller.user.username if visit.caller else "-",
        scope["method"] if scope["method"] in METHODS else "-",
        _logged_path(scope, visit),
        status,
        seconds * 1000,
    )


def _logged_path(scope: Scope, visit: Visit) -> str:
    """Return the path of the route, as the request's own has what people type: once, a key."""
    path = route_path(scope)
    if path in _PLAIN_PATHS:
        return path
    if path.startswith("/static/"):
        return "/static/{name}"
    found = getattr(scope.get("route"), "path", None)
    if not isinstance(found, str) or not visit.is_keyed:
        return "(not shown)"
    # Newer versions of FastAPI leave out the prefix of the router.
    return found if found.startswith(API_PREFIX) else f"{API_PREFIX}{found}"
