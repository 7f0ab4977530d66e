"""The bound on refused questions: by asker, by action, by the minute, in bounded memory."""

from __future__ import annotations

import os
import threading

import pytest

from pipelit_agents.ledger.questions import MOST_REFUSED, QuestionLimit

BACKENDS = False


def fill(questions: QuestionLimit, asker: str = "a", action: str = "x", now: float = 0.0) -> None:
    """Counts as many as are answered in a minute."""
    for _ in range(MOST_REFUSED):
        questions.count(asker, action, now)


def test_each_asker_and_action_is_counted_by_itself() -> None:
    """One that asked too much waits, in that action alone, and nobody else does."""
    questions = QuestionLimit()
    fill(questions)
    assert questions.admit("a", "x", 1.0).wait == 59.0
    assert questions.admit("b", "x", 1.0).wait == 0.0
    assert questions.admit("a", "y", 1.0).wait == 0.0


def test_it_is_noted_once_a_minute() -> None:
    """However often it asks, one waiting is to be audited each minute."""
    questions = QuestionLimit()
    noted = 0
    for second in range(180):
        found = questions.admit("a", "x", float(second))
        if found.wait:
            noted += found.is_noted
        else:
            questions.count("a", "x", float(second))
    assert noted == 3


@pytest.mark.parametrize("now", [60.0, 1e9, -1.0, -1e9])
def test_a_minute_ends_and_a_clock_that_was_set_back_locks_nobody(now: float) -> None:
    """What isn't of the last minute counts no more, wherever the clock went."""
    questions = QuestionLimit()
    fill(questions, now=0.0)
    assert questions.admit("a", "x", now).wait == 0.0


def test_memory_is_bounded() -> None:
    """However many names ask, the newest few thousand are kept."""
    questions = QuestionLimit()
    for number in range(6000):
        questions.count(f"a{number}", "x", 0.0)
    assert len(questions._askers) == 4096
    for _ in range(1000):
        questions.count("a", "x", 0.0)
    assert len(questions._askers["a", "x"].refused) == MOST_REFUSED


@pytest.mark.process
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_has_a_lock_of_its_own() -> None:
    """A child that was forked while a thread held the lock goes on."""
    questions = QuestionLimit()
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with questions._lock:
            held.set()
            release.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)
    child = os.fork()
    if not child:
        fill(questions)
        os._exit(0 if questions.admit("a", "x", 1.0).wait else 1)
    _, status = os.waitpid(child, 0)
    release.set()
    thread.join()
    assert status == 0
