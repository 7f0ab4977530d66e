"""Each request waits for the database in one thread, and not in a second one for its answer."""

from __future__ import annotations

import asyncio
import threading
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute

from pipelit_agents import Pipelit, desk
from pipelit_agents.desk.callers import Visit, note_visit
from pipelit_agents.desk.routes import DeskRoute, takes_long


def routes() -> list[APIRoute]:
    """The routes of all modules of the desk."""
    found = [import_module(f"{desk.__name__}.{each.name}") for each in iter_modules(desk.__path__)]
    routers = [each.router for each in found if isinstance(getattr(each, "router", 0), APIRouter)]
    return [each for router in routers for each in router.routes if isinstance(each, APIRoute)]


def test_every_endpoint_has_a_route_of_the_desk() -> None:
    """One without it would need a second thread for each answer."""
    assert len(routes()) > 30
    assert [each.path for each in routes() if not isinstance(each, DeskRoute)] == []


def test_an_endpoint_does_not_block_the_event_loop(
    pipelit: Pipelit, operator: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs in another thread than the loop, which is this one here."""
    ran: list[threading.Thread] = []
    real = pipelit.users.page

    def page(*given: object, **named: object) -> object:
        ran.append(threading.current_thread())
        return real(*given, **named)

    monkeypatch.setattr(pipelit.users, "page", page)
    assert operator.get("/users").status_code == 200
    assert ran
    assert threading.current_thread() not in ran


async def test_short_requests_wait_for_no_long_ones(pipelit: Pipelit) -> None:
    """However many long ones wait, each kind has threads of its own."""
    router = APIRouter(route_class=DeskRoute)
    begun, end = threading.Semaphore(0), threading.Event()

    @router.get("/long")
    @takes_long
    def long() -> str:
        begun.release()
        end.wait(30)
        return "long"

    @router.get("/short")
    def short() -> str:
        return "short"

    app = FastAPI()
    app.include_router(router)

    async def is_ready() -> bool:
        return True

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        note_visit(scope, Visit(pipelit, is_ready))
        await app(scope, receive, send)

    transport = httpx.ASGITransport(guarded)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        waiting = [asyncio.create_task(client.get("/long")) for _ in range(20)]
        assert await asyncio.to_thread(begun.acquire, timeout=30)
        try:
            assert (await asyncio.wait_for(client.get("/short"), 30)).json() == "short"
        finally:
            end.set()
        assert {(await each).json() for each in waiting} == {"long"}


@pytest.mark.parametrize(
    ("path", "query", "taken"),
    [
        ("/audit", "outcom=refused", "action, actor, "),
        ("/audit/export", "limt=1", "action, actor, "),
        ("/users", "Kind=agent", "after, kind, limit"),
        ("/approvals", "state=pending", "after, "),
        ("/me", "me=1", "this path takes none"),
    ],
)
def test_a_parameter_that_is_not_taken_is_refused(
    operator: httpx.Client,
    member: httpx.Client,
    nobody: httpx.Client,
    path: str,
    query: str,
    taken: str,
) -> None:
    """A filter that is misspelt isn't left out, and strangers learn nothing of the others."""
    assert operator.get(path).is_success
    answer = operator.get(f"{path}?{query}")
    (error,) = answer.json()["errors"]
    assert answer.status_code == 422
    assert error["field"] == f"query.{query.partition('=')[0]}"
    assert error["message"].startswith("there is no such parameter; ")
    assert taken in error["message"]
    assert nobody.get(f"{path}?{query}").status_code == 401
    may = member.get(path).is_success
    assert member.get(f"{path}?{query}").status_code == (422 if may else 403)


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/audit", "actor=alice&actor=bob"),
        ("/users", "limit=1&limit=100"),
        ("/credentials", "scope=own&scope=shared"),
        ("/credentials", "scope=own&scope=own"),
        ("/credentials", "scope=own&s%63ope=shared"),
    ],
)
def test_a_parameter_that_is_there_twice_is_refused(
    operator: httpx.Client, path: str, query: str
) -> None:
    """Which of its values counts, a proxy may decide otherwise."""
    answer = operator.get(f"{path}?{query}")
    (error,) = answer.json()["errors"]
    assert answer.status_code == 422
    assert error["field"] == f"query.{query.partition('=')[0]}"
    assert "twice" in error["message"]
