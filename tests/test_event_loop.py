"""No async method blocks the event loop; ``nothing_blocks`` in ``conftest.py`` watches over it.

Also over all other coroutine tests. It doesn't see psycopg wait, which does so in C; but the same
code runs on each backend.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from blockbuster import BlockingError
from conftest import Clock

import pipelit_agents
from pipelit_agents import Pipelit
from pipelit_agents.errors import CodeRejected, StorageError

BACKENDS = True


def of_ours(program: str) -> Callable[..., Awaitable[Any]]:
    """A coroutine function that stands in our package, as it seems."""
    made: dict[str, Any] = {}
    place = Path(pipelit_agents.__file__).with_name("unheard_of.py")
    exec(compile(program, str(place), "exec"), made)  # noqa: S102 - our own words
    return made["work"]  # type: ignore[no-any-return]


@pytest.mark.backends("sqlite", "redis")
async def test_the_watch_sees_what_blocks(pipelit: Pipelit) -> None:
    """A coroutine of ours that asks the database by itself is noticed, awaited or in a task."""
    work = of_ours("async def work(pipelit):\n    pipelit.users.list()\n")
    with pytest.raises((BlockingError, StorageError), match="Blocking"):
        await work(pipelit)
    with pytest.raises((BlockingError, StorageError), match="Blocking"):
        await asyncio.create_task(work(pipelit))  # type: ignore[arg-type]


async def test_no_twin_blocks_also_when_it_is_the_first_to_open(
    pipelit: Pipelit, settings: dict[str, Any], clock: Clock
) -> None:
    """Each async method, called before any connection was made."""
    first = [Pipelit(**settings, clock=clock) for _ in range(6)]
    new = await first[0].users.acreate_agent("agent_writer", owner="alice", purpose="writes")
    await first[1].users.aauthenticate(new.api_key.get_secret_value())
    writer = first[2].agent("agent_writer")
    made = await first[3].aprovision_agent(first[3].agent("agent_writer"), purpose="edits")
    editor = first[4].agent(made.username)
    code = await writer.atotp_code(audience=editor.username)
    await editor.averify_peer("agent_writer", code.code)
    judge = first[5].agent(editor.username)
    with pytest.raises(CodeRejected):
        await judge.averify_peer("agent_writer", code.code)
    challenge = judge.challenge("agent_writer")
    proof = await writer.aprove(challenge.value, b"answer", verifier=judge.username)
    await judge.averify_proof(proof, challenge=challenge, payload=b"answer")
    for each in first:
        each.close()
