"""No async method blocks the event loop; ``nothing_blocks`` in ``conftest.py`` watches over it.

Also over all other coroutine tests. It doesn't see psycopg wait, which does so in C; but the same
code runs on each backend.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from blockbuster import BlockingError
from conftest import Clock

import pipelit_agents
from pipelit_agents import Agent, Pipelit
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


@pytest.mark.backends("sqlite")
async def test_nobody_who_is_verified_queues_behind_the_loops_own_threads(
    writer: Agent, editor: Agent
) -> None:
    """LangGraph's synchronous nodes run there, and here every one of them waits for something."""
    released = threading.Event()
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(1))
    waiting = loop.run_in_executor(None, released.wait, 30)
    try:
        code = await writer.atotp_code(audience=editor.username)
        assert (await editor.averify_peer("agent_writer", code.code)).peer == "agent_writer"
        challenge = editor.challenge("agent_writer")
        proof = await writer.aprove(challenge.value, b"answer", verifier=editor.username)
        await editor.averify_proof(proof, challenge=challenge, payload=b"answer")
        assert not waiting.done()
    finally:
        released.set()
        await waiting


FORKED = """
import asyncio, os, sys
from pipelit_agents import Keyring, Pipelit

with Pipelit(database_url=sys.argv[1], encryption_keys=[Keyring.generate_key()]) as pipelit:
    pipelit.create_schema()
    asyncio.run(pipelit.users.alist())
    child = os.fork()
    if child == 0:
        asyncio.run(asyncio.wait_for(pipelit.users.alist(), 30))
        os._exit(7)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.process
@pytest.mark.backends("sqlite")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks on this system")
def test_a_forked_child_has_threads_of_its_own(tmp_path: Path) -> None:
    """Those that the parent used aren't there any more, and nobody waits for them."""
    command = [sys.executable, "-c", FORKED, f"sqlite:///{tmp_path}/forked.db"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.stdout.strip() == "7", ran.stderr
