"""A real desk under load: every request is answered rightly, and an answered change is kept.

``make load`` measures how long the answers take; no test here asserts a time.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from desk_load import Call, bearer, people, send, send_with_guessers
from desk_server import DeskServer
from keeper import ends_with_us
from redis_server import until

from pipelit_agents import Pipelit

pytestmark = pytest.mark.process

# Bytes that it may need more after the load: a few times what it needs by chance.
SLACK = 24_000_000


def test_every_request_of_a_mixed_load_is_answered_rightly(tmp_path: Path) -> None:
    """None is lost, each answer is the right one for its request, and memory stays bounded."""
    desk = DeskServer(tmp_path, started=ends_with_us)
    with desk.pipelit() as pipelit:
        pipelit.create_schema()
        calls = people(pipelit)
    with desk:
        many = {"clients": 20, "guessers": 2, "seconds": 1.0}
        first, guessed = asyncio.run(send_with_guessers(desk.url, calls, **many))
        before = desk.memory
        then, guessed_then = asyncio.run(
            send_with_guessers(desk.url, calls, **many, first=first.sent)
        )
        grown = desk.memory - before
    for found in (first, guessed, then, guessed_then):
        assert dict(found.lost) == {}
        assert found.wrong == []
        assert sum(found.statuses.values()) == found.sent
    assert min(first.sent, then.sent) > len(calls)
    assert grown < SLACK
    assert "Traceback" not in desk.log


@pytest.mark.backends("sqlite", "postgres")
def test_an_answered_change_outlives_a_kill(
    settings: dict[str, Any], pipelit: Pipelit, key: str, tmp_path: Path
) -> None:
    """After kill -9 under load, each change that was answered with success is there."""
    hers = pipelit.users.issue_api_key("alice", name="laptop").api_key.get_secret_value()
    url = settings["database_url"]
    desk = DeskServer(tmp_path, database_url=url, key=key, forked=True, started=ends_with_us)
    path, body = "/api/v1/credentials/own/load-{}", '{"kind": "token", "value": "of request {}"}'
    put = Call("put", "PUT", path, bearer(hers), body, right=(200, 201))
    desk.start()
    answered: list[int] = []
    load = threading.Thread(target=_load, args=(desk.url, put, answered.append))
    load.start()
    try:
        until(lambda: len(answered) > 30)
    finally:
        desk.kill()
        load.join()
    stored = {each.name for each in pipelit.credentials.list(person="alice")}
    assert {f"load-{number}" for number in answered} <= stored
    with desk:
        # It starts again on what the dead one has left, and serves the same key.
        again: list[int] = []
        _load(desk.url, put, again.append, first=1_000_000, seconds=0.1)
    assert again


def _load(
    url: str, call: Call, note: Callable[[int], None], *, first: int = 0, seconds: float = 30
) -> None:
    """Send one call again and again until the desk is gone, and note each success at once."""
    asyncio.run(
        send(url, [call], clients=8, seconds=seconds, first=first, answered=lambda _, n: note(n))
    )
