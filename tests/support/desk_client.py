"""Clients of the desk in this process: an operator, a member, an agent, and nobody.

Each fixture is an ``httpx.Client`` whose requests go straight to the application, so a request
takes milliseconds:

- ``operator``: alice, the first person, an operator
- ``member``: bob, a member
- ``agent``: ``agent_writer``, an agent of alice's
- ``nobody``: without a key
- ``desk_app``: the application; ``client_of(api_key)`` is a client with another key
- ``desk_keys``: the keys by name: ``alice``, ``bob`` and ``agent_writer``
- ``enrolled``: ``enrolled("alice")`` turns a second factor on, and returns what makes unused codes
- ``code_header(code)``: the header of a request that needs a code
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import httpx
import pyotp
import pytest

if TYPE_CHECKING:
    from conftest import Clock
    from fastapi import FastAPI

    from pipelit_agents import Agent, Pipelit
    from pipelit_agents.desk import DeskSettings

API = "/api/v1"
__all__ = ["API", "DeskTransport", "client_for", "code_header"]


class _Body(httpx.SyncByteStream):
    def __init__(self, content: bytes) -> None:
        self._content = content

    def __iter__(self) -> Iterator[bytes]:
        yield self._content


class DeskTransport(httpx.BaseTransport):
    """Call an ASGI application for a synchronous client, on one event loop of its own.

    Attributes:
        address: The address from which the requests come.
    """

    def __init__(self, app: Any, address: str = "127.0.0.1") -> None:
        self.address = address
        self._app = app
        self._runner = asyncio.Runner()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Answer a request; an exception of the application is raised in the test."""
        return self._runner.run(self._answer(request))

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        content = request.read()

        async def body() -> AsyncIterator[bytes]:
            yield content

        passed = httpx.Request(
            request.method,
            request.url,
            headers=request.headers,
            content=body() if content else None,
            extensions=request.extensions,
        )
        inner = httpx.ASGITransport(self._app, client=(self.address, 40_000))
        found = await inner.handle_async_request(passed)
        read = b"".join([each async for each in found.stream])  # type: ignore[union-attr]
        return httpx.Response(
            found.status_code, headers=found.headers, stream=_Body(read), request=request
        )

    def close(self) -> None:
        """Close the event loop."""
        self._runner.close()


def client_for(app: Any, api_key: str | None = None, *, address: str = "127.0.0.1") -> httpx.Client:
    """Return a client with a key, or without one. Paths begin at the prefix of the API."""
    headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
    return httpx.Client(
        transport=DeskTransport(app, address), base_url=f"http://localhost{API}", headers=headers
    )


def code_header(code: str) -> dict[str, str]:
    """Return the header with a code of the caller's second factor."""
    return {"Pipelit-Code": code}


@pytest.fixture
def enrolled(pipelit: Pipelit, clock: Clock) -> Callable[[str], Callable[[], str]]:
    """Turn on the second factor of a person, and return a function that makes unused codes."""

    def enroll(name: str) -> Callable[[], str]:
        app = pyotp.parse_uri(pipelit.mfa.enroll(name).get_secret_value())
        assert isinstance(app, pyotp.TOTP)
        pipelit.mfa.confirm(name, app.at(int(clock())))

        def code() -> str:
            clock.advance(30)
            return app.at(int(clock()))

        return code

    return enroll


@pytest.fixture
def desk_settings() -> DeskSettings:
    """The settings of the desk; override it in a module whose tests need others."""
    # Imported here, as other tests run without FastAPI and shouldn't wait for it.
    from pipelit_agents.desk import DeskSettings

    return DeskSettings(_env_file=None)


@pytest.fixture
def desk_app(pipelit: Pipelit, desk_settings: DeskSettings) -> FastAPI:
    """The desk of the test's Pipelit."""
    from pipelit_agents.desk import make_app

    return make_app(pipelit, desk_settings)


@pytest.fixture
def desk_keys(pipelit: Pipelit, writer: Agent) -> dict[str, str]:
    """An API key of alice, of bob, and of alice's agent."""
    pipelit.users.create("bob")
    return {
        name: pipelit.users.issue_api_key(name, name="desk").api_key.get_secret_value()
        for name in ("alice", "bob", "agent_writer")
    }


@pytest.fixture
def client_of(desk_app: FastAPI) -> Iterator[Callable[..., httpx.Client]]:
    """Make a client with an API key, or without one."""
    with ExitStack() as made:
        yield lambda api_key=None: made.enter_context(client_for(desk_app, api_key))


@pytest.fixture
def operator(client_of: Callable[..., httpx.Client], desk_keys: dict[str, str]) -> httpx.Client:
    """A client with alice's key, who is an operator."""
    return client_of(desk_keys["alice"])


@pytest.fixture
def member(client_of: Callable[..., httpx.Client], desk_keys: dict[str, str]) -> httpx.Client:
    """A client with bob's key, who is a member."""
    return client_of(desk_keys["bob"])


@pytest.fixture
def agent(client_of: Callable[..., httpx.Client], desk_keys: dict[str, str]) -> httpx.Client:
    """A client with the key of alice's agent."""
    return client_of(desk_keys["agent_writer"])


@pytest.fixture
def nobody(client_of: Callable[..., httpx.Client]) -> httpx.Client:
    """A client without a key."""
    return client_of()
