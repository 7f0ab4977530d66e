"""Callers whose key, account or role ends while their request or its answer is on its way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from desk_client import API
from fastapi import FastAPI
from internals import busy_desk

from pipelit_agents import Pipelit
from pipelit_agents.desk import audit as audit_module
from pipelit_agents.desk.callers import SecondFactor

End = Callable[[Pipelit, str], object]


def holder(home: Pipelit, key: str) -> str:
    """Whose key it is."""
    return home.users.authenticate(key).username


ENDS: dict[str, tuple[End, int]] = {
    "revoked key": (lambda home, key: home.users.revoke_api_key(key.split("_")[1]), 401),
    "deactivated": (lambda home, key: home.users.deactivate(holder(home, key)), 401),
    "another role": (lambda home, key: home.users.set_role(holder(home, key), "member"), 403),
}
ended = pytest.mark.parametrize(("end", "status"), ENDS.values(), ids=ENDS)


async def send_to(
    desk: FastAPI,
    key: str,
    path: str,
    body: dict[str, Any] | None,
    during: Callable[[], object],
    after_parts: int = 0,
    method: str = "",
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
        "method": method or ("GET" if body is None else "POST"),
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


# Requests that have no factor to confirm; some have a code in their body, or need none.
WAITING: list[tuple[str, str, list[str]]] = [
    ("POST", "/approvals/{id}/approve", ["code", "digest"]),
    ("POST", "/approvals/{id}/deny", ["digest"]),
    ("POST", "/me/second-factor/recovery-codes", ["code"]),
    ("POST", "/me/second-factor/disable", ["code"]),
    ("DELETE", "/users/alice/keys/{key_id}", []),
    ("GET", "/users/alice/keys", []),
    ("GET", "/approvals", []),
]


@ended
@pytest.mark.parametrize(("method", "path", "fields"), WAITING, ids=[each[1] for each in WAITING])
async def test_a_request_that_waited_for_a_thread_does_nothing(
    pipelit: Pipelit,
    desk_app: FastAPI,
    desk_keys: dict[str, str],
    enrolled: Callable[[str], Callable[[], str]],
    method: str,
    path: str,
    fields: list[str],
    end: End,
    status: int,
) -> None:
    """Who keeps the threads busy doesn't have a stolen key act after it was revoked."""
    code, question = (
        enrolled("alice")(),
        pipelit.approvals.request({"pay": 90}, approvers=["alice"]),
    )
    other = pipelit.users.issue_api_key("alice", name="other")
    pipelit.users.create("carol", role="operator")
    key = desk_keys["alice"]
    sendable = {"code": code, "digest": question.digest}
    body = {each: sendable[each] for each in fields} or None
    with busy_desk() as one_waits:
        filled = path.format(id=question.id, key_id=other.id)
        sent = send_to(desk_app, key, filled, body, lambda: None, method=method)
        request = asyncio.create_task(sent)
        while not one_waits():
            assert not request.done()
            await asyncio.sleep(0)
        end(pipelit, key)
        before = [each.revoked_at for each in pipelit.users.list_api_keys("alice")]
        factor = pipelit.mfa.status("alice")
        state = pipelit.approvals.get(question.id).state
    assert (await request)[0]["status"] == status
    assert [each.revoked_at for each in pipelit.users.list_api_keys("alice")] == before
    assert pipelit.mfa.status("alice") == factor
    assert pipelit.approvals.get(question.id).state == state


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
