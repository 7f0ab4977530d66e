"""Batching: what is asked at once is answered together, and nobody's failure is another's."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from internals import Batching
from redis_server import until

from pipelit_agents.errors import StorageError

BACKENDS = ("sqlite", "postgres")


class Server:
    """Doubles numbers, keeps what it was asked at once, and waits at a gate."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.entered = threading.Event()

    def __call__(self, asked: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(asked))
        self.entered.set()
        assert self.gate.wait(30)
        return [ValueError(f"no {each}") if each < 0 else 2 * each for each in asked]


@pytest.fixture
def server() -> Server:
    """A server whose gate is closed."""
    return Server()


def waiting(batching: Batching[int, int], count: int) -> None:
    """Returns when so many threads stand behind the one that is served."""
    until(lambda: len(batching._waiting) == count)


def one_and_two_behind(
    batching: Batching[int, int], server: Server, pool: ThreadPoolExecutor
) -> list[Future[int]]:
    """Asks 1, and 2 and 3 while it is being served."""
    first = pool.submit(batching.ask, 1)
    assert server.entered.wait(30)
    others = [pool.submit(batching.ask, number) for number in (2, 3)]
    waiting(batching, 2)
    server.gate.set()
    return [first, *others]


def asked_at_once(batching: Batching[int, int], server: Server, count: int) -> list[int]:
    """Asks so many numbers, all but the first while the first is being served."""
    with ThreadPoolExecutor(count) as pool:
        first = pool.submit(batching.ask, 0)
        assert server.entered.wait(30)
        others = [pool.submit(batching.ask, number) for number in range(1, count)]
        waiting(batching, count - 1)
        server.gate.set()
        return [each.result(30) for each in [first, *others]]


def test_threads_that_wait_are_served_together(server: Server) -> None:
    """The first is served alone; all that came meanwhile are the second batch."""
    assert asked_at_once(Batching(server), server, 20) == [2 * n for n in range(20)]
    assert [len(batch) for batch in server.batches] == [1, 19]


def test_a_batch_has_a_limit(server: Server) -> None:
    """However many wait, one batch serves so many at the most, and nobody is left."""
    assert asked_at_once(Batching(server, largest=4), server, 11) == [2 * n for n in range(11)]
    assert max(len(batch) for batch in server.batches) == 4


async def test_tasks_that_wait_are_served_together(server: Server) -> None:
    """A hundred tasks of one loop take two batches at the most, each in its own order."""
    server.gate.set()
    batching = Batching(server)
    assert await asyncio.gather(*map(batching.aask, range(100))) == [2 * n for n in range(100)]
    assert len(server.batches) <= 2


async def test_an_error_is_its_own_questions(server: Server) -> None:
    """One that has no answer raises where it was asked; the others have theirs."""
    server.gate.set()
    batching = Batching(server)
    answers = await asyncio.gather(*map(batching.aask, (1, -1, 2)), return_exceptions=True)
    assert (answers[0], answers[2], str(answers[1])) == (2, 4, "no -1")
    with pytest.raises(ValueError, match="no -5"):
        await asyncio.to_thread(batching.ask, -5)


async def test_a_server_that_fails_is_told_to_all() -> None:
    """Nobody takes silence for an answer, and the next are served again."""
    fails = [True]

    def serve(asked: Sequence[int]) -> list[int | Exception]:
        if fails[0]:
            raise StorageError("away")
        return list(asked)

    batching = Batching(serve)
    answers = await asyncio.gather(*map(batching.aask, range(5)), return_exceptions=True)
    assert [str(each) for each in answers] == ["away"] * 5
    with pytest.raises(StorageError):
        await asyncio.to_thread(batching.ask, 1)
    fails[0] = False
    assert await batching.aask(7) == await asyncio.to_thread(batching.ask, 7) == 7


def test_who_serves_and_is_interrupted_leaves_the_others_served(server: Server) -> None:
    """An interrupt ends the thread that it was meant for; who waited serves itself."""
    interrupted = [True]

    def serve(asked: Sequence[int]) -> Sequence[int | Exception]:
        answers = server(asked)
        if interrupted:
            interrupted.clear()
            raise KeyboardInterrupt
        return answers

    batching = Batching(serve)
    with ThreadPoolExecutor(4) as pool:
        first, *others = one_and_two_behind(batching, server, pool)
        assert [each.result(30) for each in others] == [4, 6]
        assert isinstance(first.exception(30), KeyboardInterrupt)


def test_an_interrupt_while_answers_are_handed_out_loses_none(server: Server) -> None:
    """Who had its answer keeps it; who hadn't is served by the next thread."""

    class Answers(list[int | Exception]):
        def __iter__(self) -> Iterator[int | Exception]:
            if len(self) == 2 and not once:
                once.append(True)
                yield self[0]
                raise KeyboardInterrupt
            yield from list.__iter__(self)

    once: list[bool] = []
    batching = Batching(lambda asked: Answers(server(asked)))
    with ThreadPoolExecutor(4) as pool:
        first, *others = one_and_two_behind(batching, server, pool)
        ended = [each.exception(30) or each.result(30) for each in (first, *others)]
    kinds = sorted(type(each).__name__ for each in ended)
    assert kinds == ["KeyboardInterrupt", "int", "int"]
    assert not batching._waiting


async def test_each_who_asked_gets_an_error_of_its_own() -> None:
    """What one does to the exception that it caught, or has on its way, no other sees."""

    def serve(asked: Sequence[int]) -> list[int | Exception]:
        raise StorageError("away")

    batching = Batching(serve)
    one, other = await asyncio.gather(*map(batching.aask, range(2)), return_exceptions=True)
    assert isinstance(one, StorageError)
    assert isinstance(other, StorageError)
    assert one is not other


async def test_a_cancelled_task_takes_nobody_with_it(server: Server) -> None:
    """Who asked with it is answered."""
    batching = Batching(server)
    tasks = [asyncio.ensure_future(batching.aask(number)) for number in range(4)]
    await asyncio.to_thread(server.entered.wait, 30)
    tasks[1].cancel()
    server.gate.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [answers[0], *answers[2:]] == [0, 4, 6]
    assert isinstance(answers[1], asyncio.CancelledError)


def test_each_loop_is_served(server: Server) -> None:
    """A loop after another, and two at once, in threads of their own."""
    server.gate.set()
    batching = Batching(server)

    async def ask(number: int) -> int:
        return await batching.aask(number)

    assert [asyncio.run(ask(number)) for number in (1, 2)] == [2, 4]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda number: asyncio.run(ask(number)), range(8))) == [
            2 * number for number in range(8)
        ]


@pytest.mark.process
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system doesn't fork")
def test_a_forked_child_waits_for_nobody_of_its_parent(server: Server) -> None:
    """A fork in the middle of a batch leaves no lock held in the child."""
    batching = Batching(server)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(batching.ask, 1)
        assert server.entered.wait(30)
        child = os.fork()
        if child == 0:
            server.gate.set()
            os._exit(0 if batching.ask(21) == 42 else 1)
        server.gate.set()
        assert os.waitpid(child, 0)[1] == 0
