"""A program that interrupts its own checks and proofs; tests/test_reentrancy.py runs it.

It prints one line of JSON: how often each outcome was seen. A deadlock ends it with a traceback.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import json
import os
import random
import signal
import sys
import threading
import time
import traceback
import weakref
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any

from pipelit_agents import Agent, Pipelit
from pipelit_agents.errors import StorageError

DEADLINE = 90
# What is interrupted for some time is so at least so often, however busy the machine is.
ENOUGH = 20
SEEN: Counter[str] = Counter()


def made(url: str, key: str) -> Pipelit:
    """The database that the test made."""
    return Pipelit(database_url=url, encryption_keys=[key])


class Work:
    """What is interrupted, and what interrupts it."""

    def __init__(self, pipelit: Pipelit) -> None:
        self.writer = pipelit.agent("agent_writer")
        self.editor = pipelit.agent("agent_editor")
        self.prove()

    def prove(self) -> None:
        """A proof."""
        self.writer.prove(b"c" * 32, b"x", verifier="agent_editor")

    def verify(self) -> None:
        """A proof, and its check."""
        challenge = self.editor.challenge("agent_writer")
        proof = self.writer.prove(challenge.value, b"x", verifier="agent_editor")
        assert self.editor.verify_proof(proof, challenge=challenge, payload=b"x")

    def code(self) -> None:
        """A code, which no ledger takes twice: refused or not, it isn't waited for."""
        try:
            self.editor.verify_peer("agent_writer", "00000000")
        except StorageError:
            raise
        except Exception:
            SEEN["code decided"] += 1

    def refuse(self) -> None:
        """A row of the audit."""
        self.editor.note_refusal("agent_writer", "verify.proof", "nested")

    def spend(self) -> None:
        """A request that is used up."""
        assert self.editor.spend_request("agent_writer", os.urandom(32))


def nested(ask: Callable[[], None], *, joins: bool = False) -> None:
    """Asks within something else; either it is done, or refused in the words for it."""
    began = time.monotonic()
    try:
        ask()
        SEEN["done"] += 1
    except StorageError as error:
        if "in the middle of" not in str(error):
            raise
        SEEN["refused"] += 1
    # Less than a thread's patience: whoever waits for itself is served after it all the same.
    if not joins:
        assert time.monotonic() - began < 4, "it waited"


def at_line(
    number: int, run: Callable[[], None], ask: Callable[[], None], *, joins: bool = False
) -> bool:
    """Runs something, interrupted at one line of it; False where it has fewer lines."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if event == "line":
            count += 1
            if count == number:
                nested(ask, joins=joins)
        return trace

    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(None)
    return count >= number


def every_line(pipelit: Pipelit, outer: str, inner: str, step: int) -> None:
    """Interrupts one operation by another at every so many lines, SQLAlchemy's own among them."""
    work = Work(pipelit)
    run, ask = getattr(work, outer), getattr(work, inner)
    number = 1
    while at_line(number, run, ask):
        number += step


def opening(url: str, key: str, inner: str, step: int) -> None:
    """The same while the database is opened, and its first connection is made."""
    warm = Work(made(url, key))
    number = 1
    while True:
        with made(url, key) as pipelit:
            there = Work.__new__(Work)
            there.writer, there.editor = map(pipelit.agent, ("agent_writer", "agent_editor"))
            if not at_line(number, there.verify, getattr(there, inner)):
                break
        warm.verify()
        number += step


def signals(pipelit: Pipelit, outer: str, inner: str, seconds: float) -> None:
    """Interrupts by a timer's signal, wherever it falls."""
    work = Work(pipelit)

    def arm() -> None:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0002, 0.003))  # noqa: S311

    def handle(*_: Any) -> None:
        nested(getattr(work, inner))
        arm()

    signal.signal(signal.SIGALRM, handle)
    arm()
    end = time.monotonic() + seconds
    while time.monotonic() < end or SEEN["done"] < ENOUGH:
        getattr(work, outer)()
        SEEN["outer"] += 1
    signal.setitimer(signal.ITIMER_REAL, 0)


def finalizers(pipelit: Pipelit, outer: str, inner: str, seconds: float) -> None:
    """Interrupts by the garbage collector, in each thread that has something to collect."""
    work = Work(pipelit)

    class Session:
        def __init__(self) -> None:
            self.me = self
            weakref.finalize(self, nested, getattr(work, inner))

        def __del__(self) -> None:
            nested(getattr(work, inner))

    gc.set_threshold(60)
    end = time.monotonic() + seconds

    def go_on() -> None:
        while time.monotonic() < end or SEEN["done"] < ENOUGH:
            Session()
            getattr(work, outer)()
            SEEN["outer"] += 1

    threads = [threading.Thread(target=go_on) for _ in range(3)]
    for each in threads:
        each.start()

    async def tasks() -> None:
        async def one() -> None:
            challenge = work.editor.challenge("agent_writer")
            proof = await work.writer.aprove(challenge.value, b"x", verifier="agent_editor")
            Session()
            await work.editor.averify_proof(proof, challenge=challenge, payload=b"x")

        while time.monotonic() < end:
            await asyncio.gather(*(one() for _ in range(10)))

    asyncio.run(tasks())
    for each in threads:
        each.join()
    gc.disable()


def joined(pipelit: Pipelit) -> None:
    """A handler that has another thread do it, and waits for that thread."""
    work = Work(pipelit)

    def ask() -> None:
        thread = threading.Thread(target=lambda: nested(work.prove, joins=True))
        thread.start()
        thread.join()

    # Before the turn is taken, within it, and after it.
    for number in (5, 60, 200):
        at_line(number, work.prove, ask, joins=True)


def forked(pipelit: Pipelit) -> None:
    """A handler that forks in the middle of a check: the child makes a proof by itself."""
    work = Work(pipelit)

    children = []

    def fork() -> None:
        child = os.fork()
        if child == 0:
            sys.settrace(None)
            # The parent's deadline is kept by a thread that isn't here.
            signal.alarm(DEADLINE)
            try:
                work.prove()
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(child)

    for number in range(1, 1000, 60):
        at_line(number, work.verify, fork)
        while children:
            assert os.waitpid(children.pop(), 0)[1] == 0
            SEEN["child"] += 1


def main(url: str, key: str, mode: str, *options: str) -> None:
    """Does one of them."""
    faulthandler.dump_traceback_later(DEADLINE, exit=True)
    if mode == "opening":
        opening(url, key, options[0], int(options[1]))
    else:
        with made(url, key) as pipelit:
            if mode == "every_line":
                every_line(pipelit, options[0], options[1], int(options[2]))
            elif mode in ("joined", "forked"):
                globals()[mode](pipelit)
            else:
                globals()[mode](pipelit, options[0], options[1], float(options[2]))
            Work(pipelit).verify()
    print(json.dumps(SEEN))


if __name__ == "__main__":
    assert Agent
    main(*sys.argv[1:])
