"""Fixtures that most tests use: a database of their own, a key, and a clock that they set.

The tests of a module that sets ``BACKENDS = True`` run on each backend, or on those that the module
names there. With ``--everywhere``, so do those of a module that sets nothing.
``@pytest.mark.backends("sqlite")`` names the backends of one test. ``@pytest.mark.backends`` says
that a test doesn't depend on them.

``--cases 2`` runs two cases of each test that needs a folder, on two kinds of database in turn.
Of a test that is marked ``slow`` it runs one with a folder or four without, of the others all.
``@pytest.mark.all_cases`` keeps all cases of a test, and ``@pytest.mark.everywhere`` leaves a test,
or a case, to a run with ``--everywhere``. The quick run, ``-m "not process"``, leaves out what is
marked ``slow``, and runs one case of each test that needs a folder and two of each other test that
isn't marked ``all_cases``.
"""

from __future__ import annotations

import gc
import inspect
import sqlite3
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from functools import cache
from itertools import zip_longest
from pathlib import Path
from shutil import copyfile
from typing import Any
from uuid import uuid4
from zlib import crc32

import hypothesis
import pytest
from blockbuster import BlockBuster
from compiled import share_compiled_statements
from internals import database_of

from pipelit_agents import Agent, Keyring, Pipelit

pytest_plugins = [
    "approving",
    "desk_client",
    "keeper",
    "postgres",
    "redis_server",
    "webhook_receiver",
]
BACKENDS = ("sqlite", "postgres", "redis")
# What the quick run tries of each property, of each test with many cases and a folder, and of each
# other test.
QUICK_EXAMPLES, QUICK_CASES, QUICK_PLAIN = 10, 1, 2
# What a run with --cases runs of a test that takes a fifth of a second or more.
SLOW_CASES, SLOW_PLAIN = 1, 4
# What a run with --cases tries of each property.
EXAMPLES = 30
# When garbage is collected: after how many new objects, and every how many times in older ones.
GARBAGE = (5_000, 10, 50)
# The agents that have a fixture: what each is for.
AGENTS = {
    "writer": "writes",
    "editor": "edits",
    "lead": "leads",
    "researcher": "looks things up",
}
# The name of a database whose copies get one each.
TO_BE_NAMED = "0123456789abcdef" * 2


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of a long run, with all kinds of databases, and of one with few cases."""
    parser.addoption("--everywhere", action="store_true", help="run more tests on all backends")
    parser.addoption(
        "--cases", type=int, help="run so many cases of each test that needs a folder; default all"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that uses a backend on all that its module or its mark names."""
    marked = metafunc.definition.get_closest_marker("backends")
    named = getattr(metafunc.module, "BACKENDS", None)
    if marked and not marked.args:
        marked, named = None, None
    everywhere = metafunc.config.getoption("everywhere") and named is not False
    if "backend" in metafunc.fixturenames and (marked or named or everywhere):
        listed = named if isinstance(named, tuple) else BACKENDS
        metafunc.parametrize("backend", marked.args if marked else listed, indirect=True)


# A test that uses one of these fixtures needs a server.
SERVERS = {
    "migrated_url",
    "own_postgres",
    "own_redis",
    "postgres_server",
    "postgres_url",
    "redis_server",
}
# The parameters that name a database or a checkpointer.
STORES = ("backend", "saver", "asaver", "saver_name", "saver_class", "kept", "akept")
# The audit events of a new process; `fresh` forks its processes from one that runs already.
STARTS = {"fresh.start", "os.fork", "os.forkpty", "os.posix_spawn", "subprocess.Popen"}
# The test that is running, if it isn't marked `process`.
_unmarked: str | None = None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what needs a server or another process: ``-m "not process"`` leaves it out."""
    for item in items:
        needs = SERVERS.intersection(getattr(item, "fixturenames", ()))
        if needs or _has_server(item) or "processes" in item.path.parts:
            item.add_marker("process")
    # The longest first, so that no process of a run waits for another at its end.
    items.sort(key=lambda item: "processes" not in item.path.parts)
    left_out: set[pytest.Item] = set()
    if not config.getoption("everywhere"):
        left_out.update(item for item in items if item.get_closest_marker("everywhere"))
    quick = _is_quick(config)
    cases = config.getoption("cases")
    run = [each for each in items if each not in left_out]
    slow = [each for each in run if each.get_closest_marker("slow")]
    if quick:
        left_out.update(slow)
        run = [each for each in run if not each.get_closest_marker("process")]
        run = [each for each in run if each not in left_out]
        left_out.update(_cases_left_out(run, QUICK_CASES))
        left_out.update(_cases_left_out(_without_all(run), QUICK_PLAIN, with_folder=False))
    elif cases is not None:
        left_out.update(_cases_left_out(_without_all(run), cases))
        left_out.update(_cases_left_out(_without_all(slow), SLOW_CASES))
        left_out.update(_cases_left_out(_without_all(slow), SLOW_PLAIN, with_folder=False))
    if left_out:
        config.hook.pytest_deselected(items=[each for each in items if each in left_out])
        items[:] = [each for each in items if each not in left_out]


def _is_quick(config: pytest.Config) -> bool:
    return bool(config.getoption("markexpr") == "not process")


def _without_all(items: list[pytest.Item]) -> list[pytest.Item]:
    return [each for each in items if not each.get_closest_marker("all_cases")]


def _cases_left_out(
    items: list[pytest.Item], most: int, *, with_folder: bool = True
) -> set[pytest.Item]:
    """Return all cases but a few of each test with many cases, of those with a folder or without.

    The same ones are left out each time. Each database keeps some, and each parameter some values.
    """
    tests: dict[str, dict[str, list[pytest.Item]]] = {}
    for item in items:
        if ("tmp_path" in getattr(item, "fixturenames", ())) == with_folder:
            stores = tests.setdefault(item.nodeid.partition("[")[0], {})
            stores.setdefault("-".join(_stores(item)), []).append(item)
    left_out: set[pytest.Item] = set()
    for name, found in tests.items():
        for cases in found.values():
            cases.sort(key=lambda item: crc32(item.nodeid.encode()))
        # Each test begins with another kind, so that the tests of a file have all kinds together.
        turn = crc32(name.partition("::")[2].encode()) % len(found)
        ordered = [*found.values()][turn:] + [*found.values()][:turn]
        in_turn = [each for cases in zip_longest(*ordered) for each in cases if each]
        left_out.update(in_turn[most:])
    return left_out


def _has_server(item: pytest.Item) -> bool:
    stores = _stores(item)
    return any(kind in each for each in stores for kind in ("postgres", "redis", "both"))


def _stores(item: pytest.Item) -> list[str]:
    found = getattr(item, "callspec", None)
    parameters = found.params if found else {}
    values = [parameters.get(name) for name in STORES]
    return [str(getattr(each, "__name__", each)).lower() for each in values]


def pytest_configure(config: pytest.Config) -> None:
    """Watch for processes that tests start; try fewer examples in a short run."""
    sys.addaudithook(_require_marker)
    share_compiled_statements()
    # The default of hypothesis, as of a whole run.
    examples = 100
    if _is_quick(config):
        examples = QUICK_EXAMPLES
    elif config.getoption("cases") is not None:
        examples = EXAMPLES
    # A busy machine takes long for an example, which is no fault of the property.
    hypothesis.settings.register_profile(
        "ours",
        max_examples=examples,
        deadline=None,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
    hypothesis.settings.load_profile("ours")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Remember whether the test may start processes."""
    global _unmarked
    _unmarked = None if item.get_closest_marker("process") else item.nodeid
    try:
        return (yield)
    finally:
        _unmarked = None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown() -> None:
    """Let a fixture of a whole file stop its processes after a test that isn't marked."""
    global _unmarked
    _unmarked = None


def _require_marker(event: str, arguments: tuple[Any, ...]) -> None:
    # Other programs, such as the git of a deployment check, start at once.
    another = event == "subprocess.Popen" and arguments[0] != sys.executable
    if _unmarked and event in STARTS and not another:
        raise AssertionError(f"{_unmarked} starts a process, so mark it: @pytest.mark.process")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the garbage collector away from modules and tests, which all live to the end.

    While they are collected, its searches would take a third of the time.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        # Each search of the oldest generation looks at all that was imported since: too often, it
        # would take a tenth of the time of all tests.
        gc.set_threshold(*GARBAGE)
        gc.enable()


@pytest.fixture(scope="session")
def little_garbage() -> None:
    """What is there already is out of the collector's sight, so that a test can collect often."""
    gc.collect()
    gc.freeze()


class Clock:
    """A clock that stays until a test advances it."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """Return the time, Unix seconds."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Move the clock forward."""
        self.now += seconds

    def sleep(self, seconds: float) -> None:
        """Move the clock forward instead of waiting."""
        self.now += seconds


@pytest.fixture(autouse=True)
def nothing_blocks(request: pytest.FixtureRequest) -> Iterator[None]:
    """In a coroutine test, fail if the library blocks the event loop.

    A call of a function that isn't a coroutine by the test itself may block: many tests do the same
    thing sync and async.
    """
    if not inspect.iscoroutinefunction(getattr(request.node, "obj", None)):
        yield
        return
    guard = _guard()
    guard.activate()
    yield
    guard.deactivate()


@cache
def _guard() -> BlockBuster:
    # One for all tests, because it looks up the modules' files for each function that it guards.
    guard = BlockBuster(["pipelit_agents", "pipelit_agents.graphs", "pipelit_agents.tools"])
    for each in guard.functions.values():
        allowed = each.can_block_predicate
        each.can_block_predicate = lambda *args, allowed=allowed, **options: (
            allowed(*args, **options) or _is_called_by_a_test()
        )
    return guard


def _is_called_by_a_test() -> bool:
    # Find the innermost frame of a test and what it called. This file's own frames are the guard's.
    here = str(Path(__file__).parent)
    called, caller = None, inspect.currentframe()
    while caller and (
        caller.f_code.co_filename == __file__ or not caller.f_code.co_filename.startswith(here)
    ):
        called, caller = caller, caller.f_back
    awaited = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
    return bool(caller and called and not called.f_code.co_flags & awaited)


@pytest.fixture
def clock() -> Clock:
    """The clock of the test's Pipelit."""
    return Clock()


@pytest.fixture(scope="session")
def shared_key() -> str:
    """The FIELD_ENCRYPTION_KEY of all tests in this process, with which agents are stored once."""
    return Keyring.generate_key()


@pytest.fixture
def key(shared_key: str) -> str:
    """The test's FIELD_ENCRYPTION_KEY."""
    return shared_key


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> str:
    """Where the accounts and the ledger are: sqlite, postgres, or sqlite with the ledger in redis.

    A test can also name ``both``: postgres with the ledger in redis.
    """
    return getattr(request, "param", "sqlite")


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with our tables, to be copied: migrating takes longer than most tests."""
    file = tmp_path_factory.mktemp("migrated") / "agents.db"
    with Pipelit(
        database_url=f"sqlite:///{file}", encryption_keys=[Keyring.generate_key()]
    ) as made:
        made.create_schema()
    # A plugin; imported at the top of this file, pytest would rewrite none of its asserts.
    from postgres import renaming

    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute(renaming(TO_BE_NAMED))
    return file


@pytest.fixture(scope="session")
def peopled_file(migrated_file: Path, shared_key: str) -> Callable[[tuple[str, ...]], Path]:
    """Return files with alice and agents of hers; making them takes longer than most tests."""

    @cache
    def having(roles: tuple[str, ...]) -> Path:
        file = migrated_file.with_name(f"{'-'.join(['alice', *roles])}.db")
        copyfile(having(roles[:-1]) if roles else migrated_file, file)
        url = f"sqlite:///{file}"
        if not roles:
            add_alice(url)
        else:
            with Pipelit(database_url=url, encryption_keys=[shared_key], clock=Clock()) as made:
                add_agent(made, roles[-1])
        return file

    return having


def add_alice(url: str) -> None:
    """Create alice at the time at which each test's clock begins; that needs no key."""
    settings: dict[str, Any] = {"encryption_keys": [Keyring.generate_key()], "clock": Clock()}
    with Pipelit(database_url=url, **settings) as made:
        made.users.create("alice")


def add_agent(pipelit: Pipelit, role: str) -> None:
    """Create one of the agents that have a fixture, or another one that `copied` names."""
    purpose = AGENTS.get(role, "takes part")
    pipelit.users.create_agent(f"agent_{role}", owner="alice", purpose=purpose)


@pytest.fixture
def peopled() -> None:
    """Requested by the fixture that needs a copy with alice in it."""


@pytest.fixture
def copied(backend: str, request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The agents that are in the test's database from the beginning, in the order of creation.

    A module whose tests need others can name those.
    """
    if backend not in ("sqlite", "redis") or "peopled" not in request.fixturenames:
        return ()
    return tuple(name for name in request.fixturenames if name in AGENTS)


@pytest.fixture
def database_url(
    backend: str, copied: tuple[str, ...], tmp_path: Path, request: pytest.FixtureRequest
) -> str:
    """An empty database, or a file that doesn't exist yet; in a test with `pipelit`, our tables."""
    if backend in ("postgres", "both"):
        return str(request.getfixturevalue("postgres_url"))
    file = tmp_path / "pipelit" / "agents.db"
    if "pipelit" in request.fixturenames:
        file.parent.mkdir(mode=0o700)
        if "peopled" in request.fixturenames:
            content = request.getfixturevalue("peopled_file")(copied).read_bytes()
        else:
            content = request.getfixturevalue("migrated_file").read_bytes()
        # A name of its own, as all tests use one Redis. SQL would take as long as the copy.
        file.write_bytes(content.replace(TO_BE_NAMED.encode(), uuid4().hex.encode()))
        file.chmod(0o600)
    return f"sqlite:///{file}"


@pytest.fixture
def redis_url(backend: str, request: pytest.FixtureRequest) -> str | None:
    """The address of the ledger, if it isn't in the database."""
    return request.getfixturevalue("redis_server").url if backend in ("redis", "both") else None


@pytest.fixture
def settings(database_url: str, redis_url: str | None, key: str) -> dict[str, Any]:
    """The arguments of a Pipelit on this test's backend, without the clock."""
    return {"database_url": database_url, "redis_url": redis_url, "encryption_keys": [key]}


@pytest.fixture
def pipelit(peopled: None, settings: dict[str, Any], clock: Clock) -> Iterator[Pipelit]:
    """A migrated database with alice in it."""
    with Pipelit(**settings, clock=clock) as made:
        # Many tests expect that it is open. No statement is run: compiling it takes a while.
        with database_of(made).reading():
            pass
        yield made


@pytest.fixture
def agent_of(pipelit: Pipelit, copied: tuple[str, ...]) -> Callable[[str], Agent]:
    """Return the handle of an agent that has a fixture, and create it if no copy has it."""

    def get(role: str) -> Agent:
        if role not in copied:
            add_agent(pipelit, role)
        return pipelit.agent(f"agent_{role}")

    return get


@pytest.fixture
def writer(agent_of: Callable[[str], Agent]) -> Agent:
    """An agent of alice's."""
    return agent_of("writer")


@pytest.fixture
def editor(agent_of: Callable[[str], Agent]) -> Agent:
    """Another agent of alice's."""
    return agent_of("editor")


@pytest.fixture
def lead(agent_of: Callable[[str], Agent]) -> Agent:
    """The parent's agent."""
    return agent_of("lead")


@pytest.fixture
def researcher(agent_of: Callable[[str], Agent]) -> Agent:
    """The child's agent."""
    return agent_of("researcher")
