"""Exceptions that say they are of another class: a child's exit goes by what they are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.errors import GraphDrained, GraphInterrupt, ParentCommand
from langgraph.types import Command, Interrupt
from spawning import CANARY, NAME, THREAD, Hostile, Work, graph_of, parent_of, parents_own, tasks

from pipelit_agents import Agent, Pipelit
from pipelit_agents.errors import (
    AuditTampered,
    ConfigurationError,
    CredentialError,
    LedgerUnavailable,
    PayloadError,
    PipelitError,
    RequestRefused,
    StorageError,
    UnsealError,
    UserInactive,
    VerificationError,
)
from pipelit_agents.graphs import RemoteChild, verified_child
from pipelit_agents.graphs.remote import RunLost, ServerUnauthorized, UnexpectedStatus, Unreachable

OTHER = "agent_other"
MODES = ["values", "updates", "custom", "messages", "tasks", "checkpoints", "debug"]


@pytest.fixture
def other(pipelit: Pipelit) -> Any:
    """A sibling that does its work."""
    pipelit.users.create_agent(OTHER, owner="alice", purpose="looks other things up")
    return verified_child(graph_of(lambda _: {"a": "fine"}), pipelit.agent(OTHER))


@pytest.fixture
def posing(pipelit: Pipelit) -> Agent:
    """The agent of another that doesn't."""
    pipelit.users.create_agent("agent_posing", owner="alice", purpose="looks nothing up")
    return pipelit.agent("agent_posing")


GIVEN = (NAME, OTHER)

BELIEVED: dict[str, type[BaseException]] = {
    cls.__name__: cls
    for cls in (
        *(RequestRefused, StorageError, LedgerUnavailable, ConfigurationError, CredentialError),
        *(UnsealError, UserInactive, PayloadError, VerificationError, AuditTampered, PipelitError),
        *(GraphInterrupt, GraphDrained, ParentCommand, asyncio.CancelledError),
        *(
            KeyboardInterrupt,
            SystemExit,
            GeneratorExit,
            StopIteration,
            UnexpectedStatus,
            ServerUnauthorized,
        ),
        *(ServerUnauthorized, Unreachable, TimeoutError, BaseExceptionGroup),
    )
}


def liar(base: type[BaseException], claimed: type[BaseException], after: int = 0) -> BaseException:
    """An exception that claims a class, for ever or for as many questions."""

    class Liar(base):  # type: ignore[misc, valid-type]
        asked = 0
        status = code = CANARY

        @property
        def __class__(self) -> Any:
            Liar.asked += 1
            return claimed if not after or Liar.asked <= after else UnexpectedStatus

        def __str__(self) -> str:
            raise claimed(CANARY)

    return Liar((Interrupt(CANARY, id="1"),))


async def ended(
    graph: Callable[[Any], Any], path: Path, asked: tuple[str, ...] = GIVEN
) -> list[list[str]]:
    """How the tasks ended, sync and async; and that nothing of the child's is in the parent."""
    found = []
    given: Any = {"tasks": [{"agent": name, "input": {"q": "x"}} for name in asked]}
    with SqliteSaver.from_conn_string(str(path)) as saver:
        made = graph(saver)
        said: list[Any] = list(made.stream(given, THREAD, stream_mode=MODES))
        state = made.get_state(THREAD)
        said.append((state, list(made.get_state_history(THREAD))))
        found.append([each["status"] for each in state.values["results"]])
    memory = graph(InMemorySaver())
    said += [chunk async for chunk in memory.astream(given, THREAD, stream_mode=MODES)]
    results = (await memory.aget_state(THREAD)).values["results"]
    found.append([each["status"] for each in results])
    assert CANARY not in repr(said) + repr(results)
    assert CANARY.encode() not in parents_own(path)
    return found


@pytest.mark.parametrize(("base", "timeout"), [(BaseException, None), (Exception, 30)])
@pytest.mark.parametrize("claimed", BELIEVED)
async def test_a_childs_class_cannot_raise_its_way_out(
    lead: Agent,
    researcher: Agent,
    other: Any,
    posing: Agent,
    tmp_path: Path,
    claimed: str,
    base: type[BaseException],
    timeout: float | None,
) -> None:
    """Raised in place of an answer or of a proof, it is refused in our words, and no sibling is."""

    class Own(Hostile):
        def answer(self, *_: Any) -> Any:
            raise liar(base, BELIEVED[claimed])

        async def aanswer(self, *_: Any) -> Any:
            raise liar(base, BELIEVED[claimed], after=2)

    class Posing(Hostile):
        def prove_possession(self, _: Any) -> Any:
            raise liar(base, BELIEVED[claimed])

    children = {
        NAME: Own(graph=graph_of(), agent=researcher),
        OTHER: other,
        "agent_posing": Posing(graph=graph_of(), agent=posing),
    }

    def graph(saver: Any) -> Any:
        return parent_of(lead, children, saver, on_failure="collect", timeout=timeout)

    found = await ended(graph, tmp_path / "checkpoints.db", (*GIVEN, "agent_posing"))
    assert found == [["refused", "verified", "refused"]] * 2


@pytest.mark.parametrize("claimed", BELIEVED)
async def test_a_childs_node_cannot_raise_its_way_out(
    lead: Agent,
    researcher: Agent,
    other: Any,
    tmp_path: Path,
    claimed: str,
) -> None:
    """A node of an honest child's graph that raises one ends its own task and nothing else."""

    def node(_: Work) -> Work:
        raise liar(BaseException, BELIEVED[claimed])

    children = {NAME: verified_child(graph_of(node), researcher), OTHER: other}

    def graph(saver: Any) -> Any:
        return parent_of(lead, children, saver, on_failure="collect")

    for found in await ended(graph, tmp_path / "checkpoints.db"):
        assert found[0] in ("refused", "failed")
        assert found[1] == "verified"


class ByMro(type):
    """A class that lists another among its bases."""

    def mro(cls) -> Any:
        return [cls, *RequestRefused.__mro__]

    def __instancecheck__(cls, _: object) -> bool:
        return True

    def __subclasscheck__(cls, _: object) -> bool:
        return True


class Raising(BaseException):
    """An exception that raises whatever is asked of it."""

    def __getattribute__(self, name: str) -> Any:
        raise StorageError(CANARY)


def _while_handling() -> BaseException:
    made = RuntimeError(CANARY)
    made.__context__ = made.__cause__ = KeyboardInterrupt(CANARY)
    return made


RAISED: dict[str, Callable[[], BaseException]] = {
    "a subclass of a refusal": lambda: type("Own", (RequestRefused,), {})(CANARY),
    "a subclass of an interrupt": lambda: type("Own", (GraphInterrupt,), {})(
        (Interrupt(CANARY, id="1"),)
    ),
    "a subclass of a cancellation": lambda: type("Own", (asyncio.CancelledError,), {})(CANARY),
    "a subclass of an exit": lambda: type("Own", (SystemExit,), {})(CANARY),
    "a subclass of a stop": lambda: type("Own", (KeyboardInterrupt,), {})(CANARY),
    "a subclass of a drain": lambda: type("Own", (GraphDrained,), {})(CANARY),
    "a subclass of a command": lambda: type("Own", (ParentCommand,), {})(
        Command(graph=Command.PARENT, update={"note": CANARY})
    ),
    "another order of bases": lambda: ByMro("Own", (RequestRefused,), {})(CANARY),
    "one that raises when asked": lambda: Raising(CANARY),
    "one raised while a stop was handled": _while_handling,
    "a group of a stop": lambda: BaseExceptionGroup(CANARY, [KeyboardInterrupt(CANARY)]),
    "a group of a refusal": lambda: ExceptionGroup(CANARY, [RequestRefused(CANARY)]),
    "a remote child's": lambda: Unreachable(),
    "another remote child's": lambda: UnexpectedStatus(CANARY),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("raised", RAISED)
async def test_what_is_nearly_believed_is_refused(
    lead: Agent,
    researcher: Agent,
    other: Any,
    tmp_path: Path,
    raised: str,
) -> None:
    """A subclass is the child's own class, whatever it extends, and a group is none of them."""

    class Own(Hostile):
        def answer(self, *_: Any) -> Any:
            raise RAISED[raised]()

        async def aanswer(self, *_: Any) -> Any:
            raise RAISED[raised]()

    children = {NAME: Own(graph=graph_of(), agent=researcher), OTHER: other}

    def graph(saver: Any) -> Any:
        return parent_of(lead, children, saver, on_failure="collect", timeout=30)

    assert await ended(graph, tmp_path / "checkpoints.db") == [["refused", "verified"]] * 2


@pytest.mark.parametrize(
    ("raised", "status"),
    [
        (lambda: liar(BaseException, Unreachable), "refused"),
        (lambda: liar(Exception, StorageError), "refused"),
        (lambda: type("Own", (StorageError,), {})(CANARY), "refused"),
        (lambda: GraphInterrupt((Interrupt(CANARY, id="1"),)), "refused"),
        (lambda: UnexpectedStatus(CANARY), "refused"),  # type: ignore[arg-type]
        (Unreachable, "unreachable"),
        (RunLost, "unreachable"),
        (ServerUnauthorized, "refused"),
    ],
)
async def test_a_class_that_stands_for_a_remote_child_is_heard_as_little(
    lead: Agent, researcher: Agent, other: Any, tmp_path: Path, raised: Any, status: str
) -> None:
    """A subclass of RemoteChild may say that its server is away, and nothing in words."""

    class Far(RemoteChild):
        async def answer(self, *_: Any, **__: Any) -> Any:
            raise raised()

    far = Far(
        NAME,
        url="http://127.0.0.1:9",
        graph=NAME,
        credential=None,
        headers={},
        patience=0.0,
    )

    def graph(saver: Any) -> Any:
        return parent_of(lead, {NAME: far, OTHER: other}, saver, on_failure="collect")

    assert await ended(graph, tmp_path / "checkpoints.db") == [[status, "verified"]] * 2


async def test_a_refusals_words_are_not_the_childs(lead: Agent, researcher: Agent) -> None:
    """A true RequestRefused is told in our words; nobody finds the child's behind it."""

    class Own(Hostile):
        def answer(self, *_: Any) -> Any:
            raise RequestRefused(CANARY) from StorageError(CANARY)

    graph = parent_of(lead, {NAME: Own(graph=graph_of(), agent=researcher)}, on_failure="collect")
    (result,) = graph.invoke(tasks("x"))["results"]
    assert result["error"] == "the child doesn't accept 'agent_lead': check its accept_from"
