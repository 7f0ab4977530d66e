"""Each request waits for the database in one thread, and not in a second one for its answer."""

from __future__ import annotations

import threading
from importlib import import_module
from pkgutil import iter_modules

import httpx
import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute

from pipelit_agents import Pipelit, desk
from pipelit_agents.desk.routes import DeskRoute


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
