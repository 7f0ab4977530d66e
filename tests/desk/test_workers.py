"""The desk in several processes: they share a port, are replaced, and end together."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from desk_server import DeskServer, client
from redis_server import until

from pipelit_agents.desk import DeskSettings
from pipelit_agents.desk.workers import Workers
from pipelit_agents.errors import ConfigurationError


@pytest.fixture
def desk(tmp_path: Path) -> DeskServer:
    """A desk of two processes with an operator, that isn't started yet."""
    desk = DeskServer(tmp_path, PIPELIT_DESK_WORKERS="2")
    with desk.pipelit() as pipelit:
        pipelit.create_schema()
        pipelit.users.create("alice")
    return desk


def answers(desk: DeskServer) -> set[int]:
    """The statuses of a few requests, each with a connection of its own."""
    return {client().get(f"{desk.url}/ready").status_code for _ in range(8)}


@pytest.mark.process
def test_several_processes_serve_and_end_together(desk: DeskServer) -> None:
    """One that is killed is replaced, which the log says; a stop ends all of them."""
    with desk:
        first, *workers = desk.processes
        assert len(workers) == 2
        assert answers(desk) == {200}
        workers[0].kill()
        until(lambda: len({*desk.processes} - {first, workers[0]}) == 2)
        until(lambda: answers(desk) == {200})
        workers = desk.processes[1:]
    assert not any(each.is_running() for each in workers)
    assert "process 1 of the desk ended (-9)" in desk.log
    assert desk.log.count("The desk is ready.") == 1
    assert "Traceback" not in desk.log


@pytest.mark.process
def test_no_process_outlives_the_first(desk: DeskServer, tmp_path: Path) -> None:
    """It ends also if the first one is killed and can tell it nothing.

    Though its own processes share a port, no second desk listens on it by mistake.
    """
    other = DeskServer(
        tmp_path, database_url=desk.database_url, key=desk.key, PIPELIT_DESK_WORKERS="2"
    )
    with desk:
        other.port, other.url = desk.port, "http://127.0.0.1:1"
        with pytest.raises(RuntimeError, match=r"can't listen on 127\.0\.0\.1"):
            other.start()
        workers = desk.processes[1:]
        desk.kill()
        until(lambda: not any(each.is_running() for each in workers))


@pytest.mark.process
def test_processes_that_end_at_once_arent_started_forever(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What keeps them from serving would keep the next ones too."""
    monkeypatch.setattr("pipelit_agents.desk.workers.RESTART_DELAY", 0.0)

    def ends(listener: object, ready: Callable[[], None], parent: int) -> None:
        os._exit(3)

    children = {*psutil.Process().children()}
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ConfigurationError, match="again and again"):
        Workers(ends, [None, None]).run(lambda: None)  # type: ignore[list-item]
    assert signal.getsignal(signal.SIGTERM) is before
    assert "process 2 of the desk ended (3)" in caplog.text
    assert {*psutil.Process().children()} == children


def test_the_number_of_processes_is_bounded() -> None:
    """A mistake doesn't start thousands."""
    with pytest.raises(ConfigurationError, match="PIPELIT_DESK_WORKERS"):
        DeskSettings(workers=0)
    with pytest.raises(ConfigurationError, match="PIPELIT_DESK_WORKERS"):
        DeskSettings(workers=65)
