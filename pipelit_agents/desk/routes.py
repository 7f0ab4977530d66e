"""The routes of endpoints: each is a plain function, and waits for the database in one thread."""

from __future__ import annotations

import functools
import inspect
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final, ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar
from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from pipelit_agents._threads import aside
from pipelit_agents.desk.callers import Visit, require_current, visit_of

__all__ = ["DeskRoute", "takes_long"]

P = ParamSpec("P")
R = TypeVar("R")

# How many requests of an event loop work at a time, the short ones and the long ones. Most of the
# work needs Python's lock, so more threads would only take it from each other and from the loop.
_THREADS: Final = 4
_SHORT: Final[RunVar[CapacityLimiter]] = RunVar("pipelit_agents.desk.short")
_LONG: Final[RunVar[CapacityLimiter]] = RunVar("pipelit_agents.desk.long")
# The parameter by which FastAPI passes the request itself, beside those of an endpoint.
_REQUEST: Final = "the_request"
_LONG_ENDPOINTS: Final[set[Callable[..., Any]]] = set()


def takes_long(endpoint: Callable[P, R]) -> Callable[P, R]:
    """Let a plain endpoint that may take seconds wait for others of its kind only.

    Put it below the router's decorator.
    """
    _LONG_ENDPOINTS.add(endpoint)
    return endpoint


class DeskRoute(APIRoute):
    """A route whose plain function runs in a thread, and whose answer is validated without one.

    FastAPI hands the answer of a plain function to a second thread, which costs more than all of
    the validation. It also ignores parameters of the query that the function doesn't take, and
    here they are refused.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        # FastAPI makes the route again for the router that includes it, with this function.
        if _REQUEST not in inspect.signature(endpoint).parameters:
            endpoint = _exact(endpoint)
        super().__init__(path, endpoint, **options)


def _require_known_query(request: Request) -> None:
    """Refuse a request whose query has a parameter that its endpoint doesn't take, or one twice.

    Without its misspelt filter, a list would have items that nobody asked for. Of two values, a
    proxy may read another one than the desk.
    """
    route = request.scope.get("route")
    if not request.query_params or not isinstance(route, APIRoute):
        return
    taken = sorted(set(_parameters(route.dependant)))
    what = f"there are {', '.join(taken)}" if taken else "this path takes none"
    given = Counter(name for name, _ in request.query_params.multi_items())
    problems = dict.fromkeys(given.keys() - set(taken), f"there is no such parameter; {what}")
    for name, times in given.items():
        if times > 1:
            problems.setdefault(name, "the parameter is there twice")
    if problems:
        raise RequestValidationError(
            [{"loc": ("query", name), "msg": words} for name, words in sorted(problems.items())]
        )


def _parameters(dependant: Dependant) -> Iterator[str]:
    """Return the query's parameters that an endpoint and its dependencies take."""
    yield from (each.alias for each in dependant.query_params)
    for inner in dependant.dependencies:
        yield from _parameters(inner)


def _exact(endpoint: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
    """Return a function that refuses unknown parameters of the query, and then calls another.

    The caller's key is verified once more immediately before the call. A request may have waited
    for a thread, as long as others keep all of them busy.
    """
    called = _awaited(endpoint) if inspect.iscoroutinefunction(endpoint) else _in_thread(endpoint)

    @functools.wraps(endpoint)
    async def exact(*args: Any, **kwargs: Any) -> Any:
        request = kwargs.pop(_REQUEST)
        # Only now, so that a caller without permission doesn't learn which parameters there are.
        _require_known_query(request)
        return await called(visit_of(request), *args, **kwargs)

    declared = inspect.signature(endpoint)
    request = inspect.Parameter(_REQUEST, inspect.Parameter.KEYWORD_ONLY, annotation=Request)
    given = [*declared.parameters.values(), request]
    exact.__signature__ = declared.replace(parameters=given)  # type: ignore[attr-defined]
    return exact


def _in_thread(endpoint: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
    kind = _LONG if endpoint in _LONG_ENDPOINTS else _SHORT

    def work(visit: Visit, *args: Any, **kwargs: Any) -> Any:
        _require_current(visit)
        return endpoint(*args, **kwargs)

    async def waiting(visit: Visit, *args: Any, **kwargs: Any) -> Any:
        begun = functools.partial(work, visit, *args, **kwargs)
        return await to_thread.run_sync(begun, limiter=_limiter(kind))

    return waiting


def _awaited(endpoint: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
    async def waiting(visit: Visit, *args: Any, **kwargs: Any) -> Any:
        await aside(_require_current, visit)
        return await endpoint(*args, **kwargs)

    return waiting


def _require_current(visit: Visit) -> None:
    # A caller with the set-up token has no key.
    if visit.caller is not None:
        require_current(visit.home, visit.caller)


def _limiter(kind: RunVar[CapacityLimiter]) -> CapacityLimiter:
    """Return the limiter of the running event loop."""
    try:
        return kind.get()
    except LookupError:
        made = CapacityLimiter(_THREADS)
        kind.set(made)
        return made
