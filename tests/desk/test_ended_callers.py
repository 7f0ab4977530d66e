"""Callers whose key, account or role ends while their request or its answer is on its way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from desk_client import API
from fastapi import FastAPI

from pipelit_agents import Pipelit
from pipelit_agents.desk import audit as audit_module
from pipelit_agents.desk.callers import SecondFactor

End = Callable[[Pipelit, str], object]
ENDS: dict[str, tuple[End, int]] = {
    "revoked key": (lambda home, key: home.users.revoke_api_key(key.split("_")[1]), 401),
    "deactivated": (lambda home, _: home.users.deactivate("alice"), 401),
    "another role": (lambda home, _: home.users.set_role("alice", "member"), 403),
}
ended = pytest.mark.parametrize(("end", "status"), ENDS.values(), ids=ENDS)


async def send_to(
    desk: FastAPI,
    key: str,
    path: str,
    body: dict[str, Any] | None,
    during: Callable[[], object],
    after_parts: int = 0,
) -> list[Any]:
    """Send a request, do something before its body or after so many parts of its answer arrived."""
    sent: list[Any] = []
    content = b"" if body is None else json.dumps(body).encode()
    waiting = [] if body is None else [{"type": "http.request", "body": content}]

    async def receive() -> Any:
        if not waiting:
            await asyncio.Event().wait()
        during()
        return waiting.pop()

    async def send(message: Any) -> None:
        sent.append(message)
        if len(sent) == after_parts:
            during()

    headers = [(b"host", b"localhost"), (b"authorization", f"Bearer {key}".encode())]
    if body is not None:
        headers += [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
        ]
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET" if body is None else "POST",
        "scheme": "http",
        "path": f"{API}{path}",
        "raw_path": f"{API}{path}".encode(),
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    await desk(scope, receive, send)
    return sent


@ended
async def test_a_body_that_was_held_back_does_nothing(
    pipelit: Pipelit, desk_app: FastAPI, desk_keys: dict[str, str], end: End, status: int
) -> None:
    """Who has a stolen key can't keep requests ready for the moment when it is revoked."""
    key = desk_keys["alice"]
    body = {"username": "carol", "role": "operator"}
    sent = await send_to(desk_app, key, "/users", body, lambda: end(pipelit, key))
    assert sent[0]["status"] == status
    assert "carol" not in [each.username for each in pipelit.users.list()]


@ended
async def test_a_request_that_waited_for_a_code_does_nothing(
    pipelit: Pipelit,
    desk_app: FastAPI,
    desk_keys: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    end: End,
    status: int,
) -> None:
    """What is sensitive looks at the key once more, immediately before it acts."""
    key, confirm = desk_keys["alice"], SecondFactor.confirm

    def late(self: SecondFactor) -> None:
        end(pipelit, key)
        confirm(self)

    monkeypatch.setattr(SecondFactor, "confirm", late)
    body = {"username": "carol", "role": "operator"}
    sent = await send_to(desk_app, key, "/users", body, lambda: None)
    assert sent[0]["status"] == status
    assert "carol" not in [each.username for each in pipelit.users.list()]


@ended
async def test_an_export_ends_with_the_key(
    pipelit: Pipelit,
    desk_app: FastAPI,
    desk_keys: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    end: End,
    status: int,
) -> None:
    """A client that reads slowly gets nothing that is written after its key was revoked."""
    monkeypatch.setattr(audit_module, "BATCH", 2)
    key = desk_keys["alice"]
    sent = await send_to(
        desk_app, key, "/audit/export", None, lambda: end(pipelit, key), after_parts=2
    )
    parts = [each.get("body", b"") for each in sent[1:]]
    assert [len(each.splitlines()) for each in parts] == [2]
    # The server closes a connection whose answer has no end.
    assert sent[-1]["more_body"]
