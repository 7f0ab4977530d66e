"""The ASGI application of the desk."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from pipelit_agents.desk import (
    agents,
    api_keys,
    approvals,
    audit,
    checks,
    credentials,
    me,
    overview,
    second_factor,
    set_up,
    users,
    verification,
)
from pipelit_agents.desk.arrivals import route_path
from pipelit_agents.desk.callers import any_caller, visit_of
from pipelit_agents.desk.description import described
from pipelit_agents.desk.guards import API_PREFIX, Guards, logged_problem_of
from pipelit_agents.desk.health import health_routes
from pipelit_agents.desk.pages import page_routes
from pipelit_agents.desk.problems import (
    Problem,
    invalid_fields,
    not_found,
    response_of,
    unexpected,
)
from pipelit_agents.desk.settings import DeskSettings
from pipelit_agents.errors import PipelitError
from pipelit_agents.pipelit import Pipelit

if TYPE_CHECKING:
    from fastapi.telemetry import TelemetryConfig

__all__ = ["make_app"]

# The routers of the endpoints that need an API key, below /api/v1.
ROUTERS: Final[tuple[APIRouter, ...]] = (
    me.router,
    users.router,
    agents.router,
    api_keys.router,
    second_factor.router,
    credentials.router,
    approvals.router,
    audit.router,
    checks.router,
    overview.router,
    verification.router,
)
# The routers of the endpoints that need something else, below /api/v1.
OPEN_ROUTERS: Final[tuple[APIRouter, ...]] = (set_up.router,)
# FastAPI would send exceptions, with their messages, to the global tracer. Older ones don't, and
# ignore the argument.
_NO_TELEMETRY: Final[TelemetryConfig] = {"tracing": False, "metrics": False, "logs": False}


class Desk(FastAPI):
    """The application that ``make_app`` returns.

    It only passes requests on to the guarded endpoints. So another application may take its routes,
    as a LangGraph Server does, and the guards stay with them and don't reach further.
    """

    def __init__(self, endpoints: FastAPI, guarded: ASGIApp) -> None:
        super().__init__(
            openapi_url=None,
            docs_url=None,
            redoc_url=None,
            # The redirect would be sent before the guards have seen the request.
            redirect_slashes=False,
            telemetry=_NO_TELEMETRY,
        )
        self._endpoints = endpoints
        self.router.routes.append(_Guarded(guarded))
        # Alone, it also answers what isn't there.
        self.router.default = guarded
        self._guarded = guarded
        self._own = len(self.router.routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, directly unless somebody has added routes or middleware."""
        if scope["type"] == "http" and self._is_untouched:
            await self._guarded(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    @property
    def _is_untouched(self) -> bool:
        extended = self.user_middleware or self.root_path
        return not extended and len(self.router.routes) == self._own

    def openapi(self) -> dict[str, Any]:
        """Return the description of the endpoints."""
        return self._endpoints.openapi()


class _Endpoints(FastAPI):
    """The endpoints behind the guards."""

    def openapi(self) -> dict[str, Any]:
        """Return the description of the endpoints."""
        if self.openapi_schema is None:
            self.openapi_schema = described(super().openapi())
        return self.openapi_schema


class _Made(NamedTuple):
    """Endpoints that were made, and their routers, so that no other router gets the same id."""

    endpoints: _Endpoints
    routers: tuple[APIRouter, ...]


_MADE: Final[dict[tuple[int, ...], _Made]] = {}


class _Guarded(BaseRoute):
    """All paths of the desk.

    Attributes:
        app: What answers. Servers that add middleware to routes replace it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Return whether a path is the desk's."""
        path = route_path(scope)
        own = path in ("", "/", "/health", "/ready") or path.startswith(("/api/", "/static/"))
        return (Match.FULL if own and scope["type"] == "http" else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        await self.app(scope, receive, send)


def make_app(pipelit: Pipelit, settings: DeskSettings | None = None) -> FastAPI:
    """Make the desk of one Pipelit, an ASGI application.

    It needs no lifespan, so you can also mount it in FastAPI or Starlette below a prefix, or name
    it as ``http.app`` of a LangGraph Server.

    Args:
        pipelit: The accounts, credentials and approvals.
        settings: The settings; by default those of the environment and of ``.env``.

    Raises:
        ConfigurationError: A setting can't be used; the message names it.

    Example:
        ```python
        app = make_app(Pipelit.from_env())
        ```
    """
    endpoints = _endpoints(ROUTERS, OPEN_ROUTERS)
    return Desk(endpoints, Guards(endpoints, pipelit, settings or DeskSettings()))


def _endpoints(routers: Sequence[APIRouter], open_routers: Sequence[APIRouter]) -> _Endpoints:
    """Return the endpoints, of which every desk of the process has the same.

    Making them takes a tenth of a second and more. They know no Pipelit: the one of the desk that
    got a request comes with the request, in its `Visit`.
    """
    # Routers can't be hashed.
    names = (*map(id, routers), 0, *map(id, open_routers))
    if names not in _MADE:
        _MADE[names] = _Made(_assembled(routers, open_routers), (*routers, *open_routers))
    return _MADE[names].endpoints


def _assembled(routers: Sequence[APIRouter], open_routers: Sequence[APIRouter]) -> _Endpoints:
    endpoints = _Endpoints(
        title="pipelit-agents desk",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=_operation_id,
        exception_handlers={
            HTTPException: _on_http,
            RequestValidationError: _on_invalid,
            Problem: _on_problem,
            PipelitError: _on_error,
            # The guards log it.
            Exception: _on_unexpected,
        },
        version=version("pipelit-agents"),
        telemetry=_NO_TELEMETRY,
    )
    keyed = APIRouter(prefix=API_PREFIX, dependencies=[Depends(any_caller)])
    for router in routers:
        keyed.include_router(router)

    async def description() -> Response:
        return JSONResponse(endpoints.openapi())

    keyed.add_api_route("/openapi.json", description, include_in_schema=False)
    endpoints.include_router(keyed)
    for router in open_routers:
        endpoints.include_router(router, prefix=API_PREFIX)
    endpoints.router.routes.extend([*health_routes(), *page_routes()])
    return endpoints


def _operation_id(route: APIRoute) -> str:
    return route.name


async def _on_http(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    if error.status_code == 404:
        return response_of(not_found())
    if error.status_code == 405:
        allowed = error.headers or {}
        return response_of(
            Problem(405, "method-not-allowed", "this path has no such method", headers=allowed)
        )
    return response_of(
        Problem(error.status_code, "refused", str(error.detail), headers=error.headers)
    )


async def _on_invalid(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    if (malformed := visit_of(request).body_problem) is not None:
        return response_of(malformed)
    return response_of(invalid_fields(error.errors()))


async def _on_problem(request: Request, error: Exception) -> Response:
    if not isinstance(error, Problem):
        raise error
    return response_of(error)


async def _on_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, PipelitError):
        raise error
    return response_of(logged_problem_of(error, visit_of(request)))


async def _on_unexpected(request: Request, error: Exception) -> Response:
    return response_of(unexpected())
