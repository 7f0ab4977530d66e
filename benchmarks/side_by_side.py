"""What each piece of work costs, beside something else that does the like, in one run.

Run it with ``make bench``. Both sides of a row take turns, so that a machine that gets slower in
the middle does so for both. It prints a table of ratios, and writes ``RESULTS.md`` and a picture.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import hashlib
import hmac
import itertools
import operator
import os
import platform
import resource
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import Annotated, Any
from unittest import mock

import growth
import leak_search
import picture
from cryptography.fernet import Fernet
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from typing_extensions import TypedDict

from pipelit_agents import Agent, Keyring, Pipelit, VerificationPolicy
from pipelit_agents.credentials.leak_guard.search import refuse_leak
from pipelit_agents.graphs import SpawnResult, SpawnTask, spawn_and_await, verified_child

HERE = Path(__file__).parent
DECIDE = files("pipelit_agents.ledger") / "decide.lua"
PACKAGES = ("langgraph", "langchain-core", "sqlalchemy", "cryptography", "redis", "django-otp")


@dataclass
class Row:
    """One line of the table.

    Attributes:
        work: What was done.
        beside: What it is compared with.
        goal: The largest ratio that was hoped for; None where none was named.
        ours: Seconds (or bytes) of each turn.
        theirs: The other side's.
        least: The same of a part of ours that can't be left out, done as barely as can be.
        unit: What they are.
    """

    work: str
    beside: str
    goal: float | None
    ours: list[float]
    theirs: list[float]
    least: list[float] | None = None
    unit: str = field(default="s", kw_only=True)

    @property
    def ratios(self) -> list[float]:
        """Ours by theirs, of each turn: a machine that changed its pace did so for both."""
        return self._by_theirs(self.ours)

    @property
    def ratio(self) -> float:
        """The median of the turns' ratios."""
        return median(self.ratios)

    @property
    def limit(self) -> float | None:
        """The same for what can't be left out."""
        return None if self.least is None else median(self._by_theirs(self.least))

    @property
    def spread(self) -> tuple[float, float]:
        """The middle half of the turns' ratios."""
        if len(self.ratios) < 3:
            return min(self.ratios), max(self.ratios)
        low, _, high = quantiles(self.ratios, n=4)
        return low, high

    @property
    def verdict(self) -> str:
        """Whether the goal was met."""
        if self.goal is None:
            return ""
        return "met" if self.ratio <= self.goal else "missed"

    def _by_theirs(self, side: list[float]) -> list[float]:
        return [a / b for a, b in zip(side, self.theirs, strict=True)]


def clocked(*calls: Callable[[], float], times: int, each: int = 1) -> list[list[float]]:
    """Seconds a call of each side, taking turns, as the calls say; the first turn isn't counted.

    Who is first in a turn is last in the next.
    """
    found: list[list[float]] = [[] for _ in calls]
    for turn in range(times + 1):
        sides = list(zip(found, calls, strict=True))
        for side, call in sides if turn % 2 else reversed(sides):
            gc.collect()
            spent = sum(call() for _ in range(each))
            if turn:
                side.append(spent / each)
    return found


def seconds(call: Callable[[], Any], calls: int = 1) -> float:
    """How long so many calls take."""
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return time.perf_counter() - start


def turns(*calls: Callable[[], Any], times: int, each: int = 1) -> list[list[float]]:
    """As :func:`clocked`, of calls that don't say how long they took."""
    sides = [lambda call=call: seconds(call, each) / each for call in calls]
    return clocked(*sides, times=times)


def verifying(lead: Agent, child: Agent, now: list[float]) -> Callable[[], float]:
    """Verifies a code that wasn't given before; making it isn't in the seconds."""
    steps = codes(child, lead, now)

    def verify() -> float:
        code = next(steps)
        return seconds(lambda: lead.verify_peer("agent_child", code))

    return verify


def codes(prover: Agent, verifier: Agent, now: list[float]) -> Iterator[str]:
    """Codes that weren't given before, without end."""
    while True:
        now[0] += 30
        yield prover.totp_code(audience=verifier.username).code


def sent_to_the_script(verify: Callable[[], object]) -> tuple[tuple[str, ...], list[str]]:
    """Return the keys and the arguments that the ledger sends to its script in one call."""
    import redis

    sent: list[tuple[str, ...]] = []
    evalsha = redis.Redis.evalsha

    def recorded(client: redis.Redis, sha: str, count: int, *arguments: str) -> object:
        sent.append(arguments)
        return evalsha(client, sha, count, *arguments)

    with mock.patch.object(redis.Redis, "evalsha", recorded):
        verify()
    (arguments,) = sent
    return arguments[:2], list(arguments[2:])


@contextmanager
def domain(folder: Path, **settings: Any) -> Iterator[tuple[Pipelit, Agent, Agent, list[float]]]:
    """A Pipelit with two agents, and the clock that it goes by."""
    now = [1_800_000_000.0]
    given = {
        "database_url": f"sqlite:///{folder}/{time.perf_counter_ns()}.db",
        "encryption_keys": [Keyring.generate_key()],
        "clock": lambda: now[0],
    }
    with Pipelit(**{**given, **settings}) as pipelit:
        pipelit.create_schema()
        pipelit.users.create("alice")
        for name in ("agent_lead", "agent_child"):
            pipelit.users.create_agent(name, owner="alice", purpose="a benchmark")
        yield pipelit, pipelit.agent("agent_lead"), pipelit.agent("agent_child"), now


def path_of(pipelit: Pipelit) -> Path:
    """The file of its database."""
    return Path(pipelit._database.engine.url.database or "")


@contextmanager
def on_record(pipelit: Pipelit) -> Iterator[Callable[[], None]]:
    """What no check does without, by ``sqlite3`` alone: both accounts read, one row committed."""
    connection = sqlite3.connect(path_of(pipelit), isolation_level=None)
    connection.execute("PRAGMA synchronous=NORMAL")
    values = (0.0, "agent_lead", "agent_child", "verify.proof", "ok", "", "", "", "")

    def write_down() -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(
            "SELECT username, active, totp_secret FROM pipelit_users WHERE username IN (?, ?)",
            values[1:3],
        ).fetchall()
        connection.execute(
            "INSERT INTO pipelit_audit (at, actor, subject, action, outcome, reason, run, node, "
            "thread) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            values,
        )
        connection.execute("COMMIT")

    try:
        yield write_down
    finally:
        connection.close()


def prepared(call: Callable[[Any], Any], make: Callable[[], Any], count: int) -> Callable[[], Any]:
    """A call whose arguments were made beforehand, so that making them isn't timed."""
    ready = [make() for _ in range(count)]
    return lambda: call(ready.pop())


# Each function below makes one row, or some.


def verify_embedded(folder: Path, times: int) -> Iterator[Row]:
    """A code by a row in SQLite, beside django-otp's, both with WAL and ``synchronous=NORMAL``."""
    import django_side

    with domain(folder) as (_, lead, child, now), django_side.device(folder) as check:
        found = clocked(verifying(lead, child, now), check, times=times, each=50)
    yield Row("`verify_peer`, embedded", "django-otp, SQLite WAL", 0.35, *found)


def verify_redis(folder: Path, times: int) -> Iterator[Row]:
    """A code by the Redis ledger, beside six round trips to the same server."""
    import redis

    sys.path.insert(0, str(HERE.parent / "tests" / "support"))
    from redis_server import RedisServer

    home = folder / "redis"
    home.mkdir()
    server = RedisServer(home)
    server.start()
    try:
        with (
            domain(folder, redis_url=server.url) as (pipelit, lead, child, now),
            on_record(pipelit) as write_down,
        ):
            client = redis.Redis.from_url(server.url)

            def trips() -> None:
                client.get("lock")
                client.get("step")
                client.ttl("fails")
                client.incr("fails")
                client.expire("fails", 60)
                client.set("step", "1", ex=90)

            keys, values = sent_to_the_script(verifying(lead, child, now))
            # Keys of its own, so that the two sides don't spend each other's steps.
            keys = tuple(f"{key}:bare" for key in keys)
            sha = client.script_load(DECIDE.read_text())
            steps = itertools.count(60_000_000)

            def decide() -> None:
                step = next(steps)
                # The moment, and the first and last step that are tried; the rest stays as it was.
                _, _, _, *rest = values[0].split(" ")
                attempt = " ".join([f"{step * 30}.0", str(step - 1), str(step + 1), *rest])
                answer = client.evalsha(sha, 2, *keys, attempt, values[1], "", str(step), "")
                if b" accepted " not in answer:
                    raise RuntimeError(f"the script refused: {answer!r}")
                write_down()

            found = clocked(
                verifying(lead, child, now),
                lambda: seconds(trips),
                lambda: seconds(decide),
                times=times,
                each=50,
            )
            client.close()
    finally:
        server.kill()
    yield Row("`verify_peer`, Redis ledger", "6 Redis round trips", 0.35, *found)


def verify_proof(folder: Path, times: int) -> Iterator[Row]:
    """A proof with its audit row, beside the bare computation."""
    key, payload = Fernet.generate_key(), b"an answer" * 20
    fernet = Fernet(key)
    token = fernet.encrypt(b"s" * 52)
    each = 50

    def bare() -> None:
        hmac.digest(fernet.decrypt(token), payload, "sha256")

    with domain(folder) as (pipelit, lead, child, _now):

        def made() -> Any:
            challenge = lead.challenge("agent_child")
            return challenge, child.prove(challenge.value, payload, verifier="agent_lead")

        def check(both: Any) -> None:
            lead.verify_proof(both[1], challenge=both[0], payload=payload)

        with on_record(pipelit) as write_down:

            def least() -> None:
                bare()
                write_down()

            ready = prepared(check, made, each * (times + 1))
            found = turns(ready, bare, least, times=times, each=each)
        yield Row("`verify_proof`, with its audit row", "HMAC and Fernet, bare", 3, *found)

        # A hundred at once, as the children of a spawn are checked.
        async def together(ready: list[Any]) -> None:
            await asyncio.gather(
                *(lead.averify_proof(proof, challenge=c, payload=payload) for c, proof in ready)
            )

        loop = asyncio.new_event_loop()

        def at_once() -> float:
            ready = [made() for _ in range(100)]
            gc.collect()
            return seconds(lambda: loop.run_until_complete(together(ready))) / 100

        found = clocked(at_once, lambda: seconds(bare, 100) / 100, times=times)
        loop.close()
        yield Row("`averify_proof`, 100 at once", "HMAC and Fernet, bare", 3, *found)


class _Work(TypedDict, total=False):
    q: str
    a: str


class _Plain(TypedDict, total=False):
    tasks: list[Any]
    results: Annotated[list[Any], operator.add]


class _Ours(TypedDict, total=False):
    tasks: list[SpawnTask]
    results: list[SpawnResult]


def _answer(state: _Work) -> _Work:
    return {"a": state["q"].upper()}


async def _aanswer(state: _Work) -> _Work:
    return _answer(state)


def spawns(pipelit: Pipelit, way: str) -> tuple[Any, Any]:
    """The verified graph and the plain one, of the same child, ``sync`` or ``async``.

    Each node is a plain function of its way: what LangGraph runs quickest.
    """
    builder = StateGraph(_Work)
    builder.add_node("work", _answer if way == "sync" else _aanswer)
    builder.add_edge(START, "work")
    child = builder.compile()

    def run(given: Any) -> Any:
        return {"results": [child.invoke(given)]}

    async def arun(given: Any) -> Any:
        return {"results": [await child.ainvoke(given)]}

    plain = StateGraph(_Plain)
    plain.add_node("plan", lambda state: {})
    plain.add_node("child", run if way == "sync" else arun)
    plain.add_edge(START, "plan")
    plain.add_conditional_edges(
        "plan", lambda state: [Send("child", each["input"]) for each in state["tasks"]], ["child"]
    )
    plain.add_edge("child", END)

    verified = verified_child(child, pipelit.agent("agent_child"))
    ours = StateGraph(_Ours)
    ours.add_node(
        "delegate", spawn_and_await(pipelit.agent("agent_lead"), {"agent_child": verified})
    )
    ours.add_edge(START, "delegate")
    ours.add_edge("delegate", END)
    return ours.compile(), plain.compile()


def tasks(count: int) -> dict[str, Any]:
    """So many tasks for the one child."""
    return {"tasks": [{"agent": "agent_child", "input": {"q": f"q{n}"}} for n in range(count)]}


def spawn(folder: Path, times: int) -> Iterator[Row]:
    """A spawn whose children are verified, beside the same children by ``Send``.

    For the sync way also what the children's proofs and their checks cost, one after the other,
    beside ``Send``: there few are checked together.
    """
    with domain(folder) as (pipelit, lead, child, _now):

        def prove_and_check(many: int) -> None:
            for _ in range(many):
                challenge = lead.challenge("agent_child")
                proof = child.prove(challenge.value, b"{}", verifier="agent_lead")
                lead.verify_proof(proof, challenge=challenge, payload=b"{}")

        for way, run in (
            ("async", lambda graph, given: asyncio.run(graph.ainvoke(given))),
            ("sync", lambda graph, given: graph.invoke(given)),
        ):
            ours, plain = spawns(pipelit, way)
            for many in (1, 10, 100, 1000):
                given = tasks(many)
                found = turns(
                    partial(run, ours, given),
                    partial(run, plain, given),
                    *([partial(prove_and_check, many)] if way == "sync" else []),
                    times=times if many < 1000 else max(3, times * 3 // 5),
                )
                if way == "sync":
                    found[2] = [sum(both) for both in zip(found[1], found[2], strict=True)]
                goal = 1.2 if many >= 100 else None
                yield Row(f"verified spawn of {many:,}, {way}", "LangGraph `Send`", goal, *found)


def inject(folder: Path, times: int) -> Iterator[Row]:
    """A node with one injected credential, beside one that reads the environment."""
    os.environ["BENCHMARK_KEY"] = "sk-" + "b" * 40
    with ExitStack() as stack:
        pipelit, *_ = stack.enter_context(domain(folder))
        pipelit.credentials.put("openai", "sk-" + "b" * 40, kind="llm", created_by="alice")

        @pipelit.credentials.inject(api_key="openai")
        def with_key(state: _Work, *, api_key: Any) -> _Work:
            return {"a": str(len(api_key.get_secret_value()))}

        def by_environment(state: _Work) -> _Work:
            return {"a": str(len(os.environ["BENCHMARK_KEY"]))}

        graphs = []
        for name, node in (("ours", with_key), ("theirs", by_environment)):
            saver = stack.enter_context(SqliteSaver.from_conn_string(f"{folder}/{name}.ckpt"))
            builder = StateGraph(_Work)
            builder.add_node("call", node)
            builder.add_edge(START, "call")
            graphs.append(builder.compile(checkpointer=saver))
        thread = [0]

        def run(graph: Any) -> None:
            thread[0] += 1
            graph.invoke({"q": "x"}, {"configurable": {"thread_id": str(thread[0])}})

        found = turns(lambda: run(graphs[0]), lambda: run(graphs[1]), times=times * 2, each=10)
    yield Row("a node with `inject`, SqliteSaver", "the same by `os.environ`", 1.15, *found)


def search(folder: Path, times: int) -> Iterator[Row]:
    """The search for a leaked secret, beside ``json.dumps`` of the state."""
    for make in (leak_search.documents, leak_search.rows, leak_search.messages):
        for size in (1, 50):
            state = make(size)
            found = turns(
                lambda state=state: refuse_leak(state, {leak_search.SECRET: "openai"}),
                lambda state=state: leak_search.dumped(state),
                times=times if size == 1 else max(3, times // 4),
            )
            yield Row(f"leak search, {size} MB of {make.__name__}", "`json.dumps`", 0.5, *found)


def authenticate(folder: Path, times: int) -> Iterator[Row]:
    """A Bearer key looked up, beside the bare hash and read."""
    with domain(folder) as (pipelit, *_):
        key = pipelit.users.issue_api_key("alice", name="b").api_key.get_secret_value()
        pipelit.users.authenticate(key)
        with closing(sqlite3.connect(path_of(pipelit))) as connection, connection:
            identity = key.split("_")[1]

            def bare() -> None:
                hashlib.sha256(key.encode()).hexdigest()
                connection.execute(
                    "SELECT digest, username FROM pipelit_api_keys WHERE id = ?", (identity,)
                ).fetchone()

            found = turns(lambda: pipelit.users.authenticate(key), bare, times=times, each=200)
        connection.close()
    yield Row("`authenticate(bearer)`", "SHA-256 and `sqlite3`, bare", 4, *found)


def flooded(folder: Path, times: int) -> Iterator[Row]:
    """A valid key at a server that 400 connections flood with wrong ones, beside an idle server.

    By the slowest of a hundred requests.
    """
    from pipelit_agents.server import make_auth

    with domain(folder) as (pipelit, *_):
        key = pipelit.users.issue_api_key("alice", name="b").api_key.get_secret_value()
        check: Any = make_auth(pipelit)._authenticate_handler
        wrong = f"plit_{'0' * 12}_{'A' * 43}"

        async def ask(token: str, source: str) -> None:
            header = (b"authorization", f"Bearer {token}".encode())
            await check(dict([header]), {"client": (source, 1), "headers": [header]})

        async def flood() -> None:
            while True:
                with suppress(Exception):
                    await ask(wrong, "203.0.113.9")

        async def slowest(connections: int) -> float:
            floods = [asyncio.create_task(flood()) for _ in range(connections)]
            spent = []
            for _ in range(300):
                await asyncio.sleep(0.002)
                start = time.perf_counter()
                await ask(key, "203.0.113.9")
                spent.append(time.perf_counter() - start)
            for each in floods:
                each.cancel()
            await asyncio.gather(*floods, return_exceptions=True)
            return quantiles(spent, n=100)[-1]

        loop = asyncio.new_event_loop()
        found = clocked(
            lambda: loop.run_until_complete(slowest(400)),
            lambda: loop.run_until_complete(slowest(0)),
            times=times,
        )
        loop.close()
    yield Row("a valid key in a flood, p99", "the same server, idle", 5, *found)


def start(folder: Path, times: int) -> Iterator[Row]:
    """The command's help, beside an import of LangGraph; whole processes."""

    def ran(*command: str) -> Callable[[], Any]:
        return lambda: subprocess.run(  # noqa: S603 - this Python, and fixed words
            [sys.executable, *command], check=True, capture_output=True, cwd=folder
        )

    found = turns(
        ran("-m", "pipelit_agents.cli", "--help"),
        ran("-c", "import langgraph.graph"),
        times=max(3, times // 2),
    )
    yield Row("`pipelit-agents --help`", "`import langgraph.graph`", 0.3, *found)


def store(folder: Path, times: int) -> Iterator[Row]:
    """Verifications and credentials with 100,000 others in the store, beside 100."""
    policy = VerificationPolicy(agents_per_owner=10**6)
    with ExitStack() as stack:
        sides = []
        for size in (100_000, 100):
            pipelit, lead, child, now = stack.enter_context(domain(folder, policy=policy))
            pipelit.users.create_agent("agent_0", owner="alice", purpose="is there")
            growth.fill(pipelit, 1, size)
            growth.fill_credentials(pipelit, size)
            sides.append((pipelit.credentials, verifying(lead, child, now)))
        (many, verify_many), (few, verify_few) = sides
        spent = clocked(verify_many, verify_few, times=times, each=50)
        opened = turns(
            lambda: many.get("credential_7"),
            lambda: few.get("credential_7"),
            times=times,
            each=50,
        )
    yield Row("`verify_peer`, 100,000 agents", "100 agents", 1.2, *spent)
    yield Row("`credentials.get`, 100,000 there", "100 there", 1.2, *opened)


def memory(folder: Path, times: int) -> Iterator[Row]:
    """The most memory that a process takes for 1,000 children at once, beside unverified ones."""

    def taken(name: str) -> float:
        done = subprocess.run(  # noqa: S603 - this Python, and fixed words
            [sys.executable, __file__, "--memory", name],
            check=True, capture_output=True, text=True, cwd=folder,
        )  # fmt: skip
        return float(done.stdout)

    sides = clocked(lambda: taken("ours"), lambda: taken("plain"), times=3)
    yield Row("memory, 1,000 verified at once", "unverified", 1.2, *sides, unit="B")


def most_memory(which: str) -> None:
    """Prints the most bytes that this process took."""
    with TemporaryDirectory(prefix="bench-") as folder, domain(Path(folder)) as (pipelit, *_):
        graph = spawns(pipelit, "async")[which == "plain"]
        asyncio.run(graph.ainvoke(tasks(1000)))
    status = Path("/proc/self/status")
    if status.exists():
        # Of this program alone: what getrusage says may be its parent's, from before it began.
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        print(int(line.split()[1]) * 1024)
    else:
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


ROWS: Sequence[Callable[[Path, int], Iterator[Row]]] = (
    verify_embedded, verify_redis, verify_proof, spawn, inject, search, authenticate, flooded,
    start, store, memory,
)  # fmt: skip


def shown(value: float, unit: str) -> str:
    """A time or a size, for people."""
    if unit == "B":
        return f"{value / 2**20:,.0f} MB"
    return f"{value * 1e6:,.0f} µs" if value < 0.01 else f"{value * 1e3:,.0f} ms"


def table(rows: Sequence[Row]) -> str:
    """The table in Markdown."""
    lines = [
        "| work | compared with | ours | theirs | ratio | middle half | goal | | lower bound |",
        "|---|---|---:|---:|---:|---:|---:|---|---:|",
    ]
    for row in rows:
        low, high = row.spread
        goal = "" if row.goal is None else f"≤ {row.goal:g}"
        least = "" if row.limit is None else f"{row.limit:.2f}"
        lines.append(
            f"| {row.work} | {row.beside} | {shown(median(row.ours), row.unit)} "
            f"| {shown(median(row.theirs), row.unit)} | {row.ratio:.2f} | {low:.2f} to {high:.2f} "
            f"| {goal} | {row.verdict} | {least} |"
        )
    return "\n".join(lines)


def machine() -> str:
    """What it ran on, in a class and no name."""
    system = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return f"{system}, Python {platform.python_version()}"


def main() -> None:
    """Prints the table; with ``--write``, keeps it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", nargs="+", default=[""], help="rows whose function has one of these in its name"
    )
    parser.add_argument("--times", type=int, default=15, help="turns of each side")
    parser.add_argument("--write", action="store_true", help="write RESULTS.md and results.svg")
    parser.add_argument("--memory", choices=("ours", "plain"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.memory:
        most_memory(chosen.memory)
        return
    rows: list[Row] = []
    with TemporaryDirectory(prefix="bench-") as folder:
        for make in ROWS:
            if any(each in make.__name__ for each in chosen.only):
                for row in make(Path(folder), chosen.times):
                    rows.append(row)
                    print(f"{row.work}: {row.ratio:.2f} {row.verdict}", file=sys.stderr)
    print(table(rows))
    if chosen.write:
        versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
        (HERE / "RESULTS.md").write_text(
            f"# Side by side\n\nWritten by `make bench` on {datetime.now(UTC):%Y-%m-%d}: "
            f"{machine()}; {versions}.\n\nThe two sides took turns. Each ratio is the median of "
            "the ratios of all turns, and the next column has their middle half. Times are "
            "medians, and sizes are maximums. The lower bound is the ratio of the work that can't "
            f"be left out. [README.md](README.md) says what each row does.\n\n{table(rows)}\n\n"
            "![Each row's ratio, divided by its goal.](results.svg)\n"
        )
        picture.main()


if __name__ == "__main__":
    main()
