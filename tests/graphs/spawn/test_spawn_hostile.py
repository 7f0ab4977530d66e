"""What a child may try beside a wrong envelope: raise anything, answer with anything, be anything.

Each attack runs twice at once, because LangGraph keeps what one of several parallel tasks raises
and only drops what a lone one does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import Clock
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.config import get_config, get_stream_writer
from langgraph.errors import (
    GraphDrained,
    GraphRecursionError,
    NodeCancelledError,
    ParentCommand,
)
from langgraph.graph import START, StateGraph
from langgraph.types import Command
from pydantic import SecretStr
from spawning import CANARY, NAME, THREAD, Hostile, Work, graph_of, hostile, parent_of, parents_own
from spawning import tasks as tasks_of
from typing_extensions import TypedDict

from pipelit_agents import Agent, Keyring, Pipelit, Proof
from pipelit_agents.errors import (
    ConfigurationError,
    LedgerUnavailable,
    PayloadError,
    ProofRejected,
    RequestRefused,
    SpawnError,
    StorageError,
    UnsealError,
    UserInactive,
)
from pipelit_agents.graphs import SpawnRequest, verified_child

MODES = ["values", "updates", "custom", "messages", "tasks", "checkpoints", "debug"]
GIVEN = tasks_of("x", "y")


def run(graph: Callable[..., Any], path: Path) -> tuple[list[str], Any]:
    """Runs a parent; how its tasks ended, and everything that it said."""
    with SqliteSaver.from_conn_string(str(path)) as saver:
        made = graph(saver)
        said: list[Any] = []
        try:
            said.extend(made.stream(GIVEN, THREAD, stream_mode=MODES))
        except SpawnError as error:
            said.append((str(error), error.results, error.__cause__, error.__context__))
            results = error.results
        else:
            results = made.get_state(THREAD).values["results"]
        said.append((made.get_state(THREAD), list(made.get_state_history(THREAD))))
    return [result["status"] for result in results], said


async def arun(graph: Callable[..., Any], path: Path) -> tuple[list[str], Any]:
    """As run, on the event loop."""
    async with AsyncSqliteSaver.from_conn_string(str(path)) as saver:
        made = graph(saver)
        said: list[Any] = []
        try:
            async for chunk in made.astream(GIVEN, THREAD, stream_mode=MODES):
                said.append(chunk)
        except SpawnError as error:
            said.append((str(error), error.results, error.__cause__, error.__context__))
            results = error.results
        else:
            results = (await made.aget_state(THREAD)).values["results"]
        said.append(await made.aget_state(THREAD))
    return [result["status"] for result in results], said


class OwnBase(BaseException):
    """What no `except Exception` catches."""


class Unprintable(Exception):
    """An exception that raises when it is looked at."""

    def __str__(self) -> str:
        raise StorageError(CANARY)

    __repr__ = __str__


def _noted() -> Exception:
    error = RuntimeError(CANARY)
    error.add_note(CANARY)
    error.__cause__ = ValueError(CANARY)
    return error


RAISED: dict[str, Callable[[], BaseException]] = {
    "an exception with notes and a cause": _noted,
    "a group": lambda: ExceptionGroup(CANARY, [ValueError(CANARY)]),
    "a group of anything": lambda: BaseExceptionGroup(CANARY, [OwnBase(CANARY)]),
    "one that can't be printed": lambda: Unprintable(CANARY),
    "a time-out": lambda: TimeoutError(CANARY),
    "a cancellation": lambda: asyncio.CancelledError(CANARY),
    "the end of a generator": lambda: GeneratorExit(CANARY),
    "the end of an iterator": lambda: StopIteration(CANARY),
    "the end of an async iterator": lambda: StopAsyncIteration(CANARY),
    "an own BaseException": lambda: OwnBase(CANARY),
    "our storage's": lambda: StorageError(CANARY),
    "our ledger's": lambda: LedgerUnavailable(CANARY),
    "our settings'": lambda: ConfigurationError(CANARY),
    "our keyring's": lambda: UnsealError(CANARY),
    "our accounts'": lambda: UserInactive(CANARY),
    "our verifier's": lambda: ProofRejected(CANARY),
    "our payload's": lambda: PayloadError(CANARY),
    "a refusal": lambda: RequestRefused(CANARY),
    "another spawn's": lambda: SpawnError(CANARY, results=[CANARY]),
    "a drain": lambda: GraphDrained(CANARY),
    "a cancelled node": lambda: NodeCancelledError(CANARY),
    "a recursion": lambda: GraphRecursionError(CANARY),
    "a command to the parent": lambda: ParentCommand(
        Command(graph=Command.PARENT, update={"note": CANARY}, goto="delegate")
    ),
    "a command to the root": lambda: ParentCommand(Command(graph="", update={"note": CANARY})),
}


def _raiser(make: Callable[[], BaseException]) -> Callable[..., Any]:
    def meddle(*_: Any) -> Any:
        raise make()

    return meddle


@pytest.mark.parametrize("on_failure", ["collect", "raise"])
@pytest.mark.parametrize("raised", RAISED)
def test_whatever_a_child_raises_is_refused_wordlessly(
    lead: Agent, researcher: Agent, tmp_path: Path, raised: str, on_failure: Any
) -> None:
    """Each is a refusal in our words; none of its own in state, namespaces, streams or history."""
    path = tmp_path / "checkpoints.db"
    child = hostile(researcher, _raiser(RAISED[raised]))
    ended, said = run(lambda s: parent_of(lead, {NAME: child}, s, on_failure=on_failure), path)
    assert ended == ["refused", "refused"]
    assert CANARY not in repr(said)
    assert CANARY.encode() not in parents_own(path)


@pytest.mark.parametrize("raised", RAISED)
async def test_whatever_a_child_raises_is_refused_on_the_event_loop(
    lead: Agent, researcher: Agent, tmp_path: Path, raised: str
) -> None:
    """The same, async, with and without a time-out of ours."""
    path = tmp_path / "checkpoints.db"
    child = hostile(researcher, _raiser(RAISED[raised]))
    ended, said = await arun(
        lambda s: parent_of(lead, {NAME: child}, s, on_failure="collect"), path
    )
    assert ended == ["refused", "refused"]
    graph = parent_of(lead, {NAME: child}, timeout=30, on_failure="collect")
    for state in (await graph.ainvoke(GIVEN), graph.invoke(GIVEN)):
        assert [result["status"] for result in state["results"]] == ended
        assert CANARY not in repr((said, state))
    assert CANARY.encode() not in parents_own(path)


# Answers that answer for themselves


class Fickle(dict[str, Any]):
    """A dict that raises our own storage's error when it is read."""

    def __getitem__(self, key: str) -> Any:
        raise StorageError(CANARY)

    __iter__ = keys = items = values = __len__ = __contains__ = __getitem__  # type: ignore[assignment]


class Claimed:
    """An object that claims to be a dict, and raises when it is asked."""

    @property
    def __class__(self) -> Any:  # type: ignore[override]
        raise StorageError(CANARY)

    def __eq__(self, _: object) -> bool:
        raise UnsealError(CANARY)

    def __hash__(self) -> int:
        return hash("kind")


class Agreeing(str):
    """A text that is equal to everything."""

    __hash__ = str.__hash__

    def __eq__(self, _: object) -> bool:
        return True

    def __ne__(self, _: object) -> bool:
        return False

    def encode(self, *_: Any) -> bytes:
        raise StorageError(CANARY)


class LongBytes(bytes):
    """Bytes that lie about their number."""

    def __len__(self) -> int:
        return 1

    def decode(self, *_: Any) -> str:
        return f'"{CANARY}"'


class Mapped(Mapping[str, Any]):
    """A mapping with the right keys, that answers otherwise each time it is read."""

    def __init__(self, envelope: dict[str, Any]) -> None:
        self.envelope, self.read = envelope, 0

    def __getitem__(self, key: str) -> Any:
        self.read += 1
        if key == "payload" and self.read > 1:
            return b'{"a":"' + CANARY.encode() + b'"}'
        return self.envelope[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.envelope)

    def __len__(self) -> int:
        return len(self.envelope)


ANSWERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a dict that raises": lambda e: Fickle(e),
    "a mapping": lambda e: Mapped(e),
    "what claims to be a dict": lambda _: Claimed(),
    "a key that raises": lambda e: (
        {k: v for k, v in e.items() if k != "kind"} | {Claimed(): "result"}
    ),
    "a key that agrees": lambda e: (
        {k: v for k, v in e.items() if k != "kind"} | {Agreeing("kind"): "result"}
    ),
    "a kind that agrees": lambda e: e | {"kind": Agreeing(CANARY)},
    "a kind that raises": lambda e: e | {"kind": Claimed()},
    "a proof that agrees": lambda e: e | {"proof": Agreeing("0" * 64)},
    "a proof with a line feed": lambda e: e | {"proof": e["proof"] + "\n"},
    "a proof in capitals": lambda e: e | {"proof": e["proof"].upper()},
    "bytes that lie": lambda e: e | {"payload": LongBytes(e["payload"])},
    "a bytearray": lambda e: e | {"payload": bytearray(e["payload"])},
    "a step of its own": lambda e: e | {"step": type("Step", (int,), {})(e["step"])},
    "a step as a float": lambda e: e | {"step": float(e["step"])},
    "a step below zero": lambda e: e | {"step": -1},
    "a step of 5000 digits": lambda e: e | {"step": 10**5000},
    "an empty dict": lambda _: {},
    "a tuple of two": lambda e: (e, e),
    "an envelope in an envelope": lambda e: {"envelope": e},
    "a list of pairs": lambda e: list(e.items()),
    "bare bytes": lambda _: CANARY.encode(),
    "an exception": lambda _: RuntimeError(CANARY),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_cannot_answer_for_itself(
    lead: Agent, researcher: Agent, tmp_path: Path, answer: str
) -> None:
    """Only plain types are read, once; whatever else an answer is made of, it is refused."""
    path = tmp_path / "checkpoints.db"
    child = hostile(researcher, lambda e, _: ANSWERS[answer](e), lambda _: {"a": CANARY})
    ended, said = run(lambda s: parent_of(lead, {NAME: child}, s, on_failure="collect"), path)
    assert ended == ["refused", "refused"]
    assert CANARY not in repr(said)
    assert CANARY.encode() not in parents_own(path)


SHOWN: dict[str, Callable[[Proof], Any]] = {
    "nothing": lambda _: None,
    "text": lambda _: CANARY,
    "an object": lambda _: Claimed(),
    "another's": lambda p: Proof("agent_other", p.verifier, p.step, "0" * 64),
    "an object like a proof": lambda p: type(
        "Likely", (), {"prover": p.prover, "verifier": p.verifier, "step": p.step, "value": p.value}
    )(),
    "a proof that agrees": lambda p: Proof(p.prover, p.verifier, p.step, Agreeing("0" * 64)),
    "an old step": lambda p: Proof(p.prover, p.verifier, p.step - 9, p.value),
}


@pytest.mark.parametrize("shown", SHOWN)
def test_what_shows_no_possession_never_runs(
    lead: Agent, researcher: Agent, tmp_path: Path, shown: str
) -> None:
    """A child that doesn't prove that it holds its secret is refused before a node of it ran."""
    ran: list[Any] = []

    class Posing(Hostile):
        def prove_possession(self, challenge: Any) -> Any:
            return SHOWN[shown](super().prove_possession(challenge))

    child = Posing(graph=graph_of(lambda state: ran.append(state) or {}), agent=researcher)
    path = tmp_path / "checkpoints.db"
    ended, said = run(lambda s: parent_of(lead, {NAME: child}, s, on_failure="collect"), path)
    assert (ended, ran) == (["refused", "refused"], [])
    assert CANARY not in repr(said)


@pytest.mark.parametrize("raised", RAISED)
async def test_what_possession_raises_is_refused_wordlessly(
    lead: Agent, researcher: Agent, tmp_path: Path, raised: str
) -> None:
    """The same holds for what is raised in place of a proof of possession, sync and async."""

    class Posing(Hostile):
        def prove_possession(self, challenge: Any) -> Any:
            raise RAISED[raised]()

    child = Posing(graph=graph_of(), agent=researcher)
    path = tmp_path / "checkpoints.db"

    def graph(saver: Any) -> Any:
        return parent_of(lead, {NAME: child}, saver, on_failure="collect")

    ended, said = run(graph, path)
    assert ended == ["refused", "refused"]
    state = await graph(None).ainvoke(GIVEN)
    assert [result["status"] for result in state["results"]] == ["refused", "refused"]
    assert CANARY not in repr((said, state))
    assert CANARY.encode() not in parents_own(path)


def test_a_name_that_changes_after_construction_gains_nothing(
    lead: Agent, researcher: Agent
) -> None:
    """What a child says of itself is asked once, when the node is made."""

    class Changing(Hostile):
        def __setattr__(self, name: str, value: Any) -> None:
            if name != "accept_from":
                super().__setattr__(name, value)

        made = False

        @property
        def accept_from(self) -> Any:  # type: ignore[override]
            if self.made:
                raise StorageError(CANARY)
            return None

    child = Changing(graph=graph_of(), agent=researcher)
    graph = parent_of(lead, {NAME: child}, on_failure="collect")
    child.made = True
    state = graph.invoke(GIVEN)
    assert [result["status"] for result in state["results"]] == ["refused", "refused"]
    assert CANARY not in repr(state)


def test_the_same_name_in_another_database_proves_nothing(
    lead: Agent, researcher: Agent, tmp_path: Path, clock: Clock
) -> None:
    """An answer proven by an agent of the same name, but of another database, is refused."""
    url = f"sqlite:///{tmp_path}/elsewhere.db"
    with Pipelit(
        database_url=url, encryption_keys=[Keyring.generate_key()], clock=clock
    ) as elsewhere:
        elsewhere.create_schema()
        elsewhere.users.create("mallory")
        elsewhere.users.create_agent(NAME, owner="mallory", purpose="impersonates")
        other = verified_child(graph_of(lambda _: {"a": CANARY}), elsewhere.agent(NAME))

        def sign(_: Any, request: SpawnRequest) -> Any:
            return other.answer(request, {})

        state = parent_of(lead, {NAME: hostile(researcher, sign)}, on_failure="collect").invoke(
            GIVEN
        )
    assert [result["status"] for result in state["results"]] == ["refused", "refused"]
    assert CANARY not in repr(state)


# Hostile graphs inside an honest child


def _command_by_node(_: Work) -> Any:
    return Command(graph=Command.PARENT, update={"note": CANARY}, goto="delegate")


def _command_raised(_: Work) -> Any:
    raise ParentCommand(Command(graph=Command.PARENT, update={"results": [CANARY]}))


def _cancelled(_: Work) -> Any:
    raise asyncio.CancelledError(CANARY)


def _own_base(_: Work) -> Any:
    raise OwnBase(CANARY)


def _drained(_: Work) -> Any:
    raise GraphDrained(CANARY)


@pytest.mark.parametrize("timeout", [None, 30])
@pytest.mark.parametrize(
    "node", [_command_by_node, _command_raised, _cancelled, _own_base, _drained]
)
async def test_a_node_that_leaves_by_another_exit_is_refused(
    lead: Agent, researcher: Agent, tmp_path: Path, node: Any, timeout: Any
) -> None:
    """What a child's own node raises or commands past its graph never reaches the parent."""
    path = tmp_path / "checkpoints.db"
    child = verified_child(graph_of(node), researcher)
    options: Any = {"timeout": timeout, "on_failure": "collect"}

    def graph(saver: Any) -> Any:
        return parent_of(lead, {NAME: child}, saver, **options)

    ended, said = run(graph, path)
    # A cancelled node is LangGraph's NodeCancelledError, and so a failure that the child proves.
    assert ended == ["failed" if node is _cancelled else "refused"] * 2
    assert CANARY not in repr(said)
    assert CANARY.encode() not in parents_own(path)
    state = await graph(None).ainvoke(GIVEN)
    assert [result["status"] for result in state["results"]] == ended
    assert CANARY not in repr(state)


@pytest.mark.parametrize("bound", [True, False])
async def test_nothing_that_a_child_streams_is_the_parents(
    lead: Agent, researcher: Agent, tmp_path: Path, bound: bool
) -> None:
    """Custom events and intermediate state of a child stay out of every stream mode."""

    def chatter(_: Work) -> Any:
        get_stream_writer()({"said": CANARY})
        return {"q": CANARY, "a": CANARY}

    builder = StateGraph(Work)
    builder.add_node("chatter", chatter)
    builder.add_node("last", lambda _: {"q": "x", "a": "y"})
    builder.add_edge(START, "chatter")
    builder.add_edge("chatter", "last")
    inner = builder.compile()
    child = verified_child(inner, researcher) if bound else inner
    options: Any = {} if bound else {"proof": {NAME: "unbound-totp"}, "on_failure": "collect"}

    def graph(saver: Any) -> Any:
        return parent_of(lead, {NAME: child}, saver, **options)

    path = tmp_path / "sync.db"
    ended, said = run(graph, path)
    assert ended == ["verified" if bound else "refused"] * 2
    _, asaid = await arun(graph, tmp_path / "async.db")
    assert CANARY not in repr((said, asaid))
    assert CANARY.encode() not in parents_own(path) + parents_own(tmp_path / "async.db")


async def test_a_cancelled_childs_words_are_not_behind_the_cancellation(
    lead: Agent, researcher: Agent
) -> None:
    """Not shown is not enough: what handles an exception may walk to what came before it."""
    begun = asyncio.Event()

    class Talking(Hostile):
        async def aanswer(self, request: Any, config: Any) -> Any:
            begun.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                raise asyncio.CancelledError(CANARY) from None

    graph = parent_of(lead, {NAME: Talking(graph=graph_of(), agent=researcher)})
    task = asyncio.create_task(graph.ainvoke(tasks_of("x")))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    error: BaseException | None = caught.value
    while error is not None:
        assert CANARY not in repr(error)
        error = error.__context__


def test_a_child_does_not_get_the_parents_writer(lead: Agent, researcher: Agent) -> None:
    """What the node shares with its steps isn't in the configuration that a child sees."""
    seen: dict[str, Any] = {}

    def look(_: Work) -> Any:
        seen.update(get_config()["configurable"])
        return {}

    parent_of(lead, {NAME: verified_child(graph_of(look), researcher)}).invoke(GIVEN)
    assert seen["__pipelit_depth"] == 1
    assert seen["__pipelit_run"] is None


# Children with an authenticator only


class _State(Work, total=False):
    code: Any
    output: Any


class _CodeAndOutput(TypedDict, total=False):
    code: Any
    output: Any


def unbound(lead: Agent, node: Any, saver: Any = None) -> Any:
    """A parent with a child that has an authenticator only."""
    builder = StateGraph(_State, output_schema=_CodeAndOutput)
    builder.add_node("work", node)
    builder.add_edge(START, "work")
    proof = {NAME: "unbound-totp"}
    return parent_of(lead, {NAME: builder.compile()}, saver, proof=proof, on_failure="collect")


def _fails(_: Any) -> Any:
    raise StorageError(CANARY)


UNBOUND: dict[str, Any] = {
    "an exception": _fails,
    "an own BaseException": _own_base,
    "a command": _command_raised,
    "a wrong code": lambda _: {"code": "000000", "output": CANARY},
    "a code with a blank": lambda _: {"code": "123456 ", "output": CANARY},
    "a code of its own kind": lambda _: {"code": Agreeing("000000"), "output": CANARY},
    "a number": lambda _: {"code": 123456, "output": CANARY},
    "no code": lambda _: {"output": CANARY},
    "no output": lambda _: {"code": "000000"},
    "an output that raises": lambda _: {"code": "000000", "output": Mapped({"a": Claimed()})},
    "a secret": lambda _: {"code": "000000", "output": SecretStr(CANARY)},
}


@pytest.mark.parametrize("attack", UNBOUND)
async def test_an_unbound_child_is_refused_wordlessly_too(
    lead: Agent, researcher: Agent, tmp_path: Path, attack: str
) -> None:
    """Without a good plain code nothing of an unbound child's is in the parent, sync and async."""
    path = tmp_path / "checkpoints.db"
    ended, said = run(lambda saver: unbound(lead, UNBOUND[attack], saver), path)
    assert ended == ["refused", "refused"]
    state = await unbound(lead, UNBOUND[attack]).ainvoke(GIVEN)
    assert [result["status"] for result in state["results"]] == ["refused", "refused"]
    assert CANARY not in repr((said, state))
    assert CANARY.encode() not in parents_own(path)


async def test_a_code_that_was_used_once_refuses_the_next_spawn(
    lead: Agent, researcher: Agent
) -> None:
    """A plain code is spent by the first child that shows it, also on the event loop."""
    code = researcher.totp_code().code
    graph = unbound(lead, lambda _: {"code": code, "output": "x"})
    given = tasks_of("x")
    (first,) = (await graph.ainvoke(given))["results"]
    (second,) = (await graph.ainvoke(given))["results"]
    assert (first["status"], first["bound"], second["status"]) == ("verified", False, "refused")


# What the audit says


@pytest.mark.parametrize(
    ("meddle", "reason"),
    [
        (lambda e, _: e, ""),
        (lambda e, _: e | {"payload": b"{}"}, "wrong proof"),
        (lambda e, _: e | {"step": e["step"] + 9}, "step out of range"),
        (lambda e, _: e | {"extra": 1}, "no envelope"),
        (_raiser(RAISED["an own BaseException"]), "no envelope"),
        (_raiser(RAISED["our storage's"]), "no envelope"),
        (lambda e, _: e | {"payload": b"x" * 2000}, "no payload, or too large"),
        (_raiser(RAISED["a refusal"]), "the child refused the request"),
    ],
    ids=["honest", "changed", "step", "extra keys", "raised", "storage", "large", "refused"],
)
async def test_each_result_is_audited_once_with_its_reason(
    pipelit: Pipelit, lead: Agent, researcher: Agent, meddle: Any, reason: str
) -> None:
    """Whatever becomes of a child's answer stands in the trail, with the true reason and node."""
    graph = parent_of(
        lead, {NAME: hostile(researcher, meddle)}, on_failure="collect", max_answer_bytes=1000
    )
    graph.invoke(tasks_of("x"))
    await graph.ainvoke(tasks_of("x"))
    rows = [each for each in pipelit.audit.list() if each.action == "verify.proof"]
    expected = ("agent_lead", NAME, "refused" if reason else "ok", reason, NAME)
    assert [(r.actor, r.subject, r.outcome, r.reason, r.node) for r in rows] == [expected] * 2


def test_an_unbound_refusal_is_audited(pipelit: Pipelit, lead: Agent, researcher: Agent) -> None:
    """Also what never came to be a code is in the trail."""
    unbound(lead, UNBOUND["no code"]).invoke(tasks_of("x"))
    (row,) = [each for each in pipelit.audit.list() if each.action == "verify.plain"]
    assert (row.subject, row.outcome, row.reason) == (NAME, "refused", "no envelope")
