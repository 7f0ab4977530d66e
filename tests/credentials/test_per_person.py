"""Each person's own credentials: they open for the person for whom the code acts, and nobody else.

Who that is comes from `pipelit.acting_for` or from a server's authentication alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import httpx
import pytest
from earlier_schema import take_back
from internals import database_of
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, interrupt
from pydantic import SecretStr
from spawning import parent_of, tasks
from sqlalchemy import text
from typing_extensions import TypedDict

from pipelit_agents import Agent, Keyring, Pipelit
from pipelit_agents.errors import (
    AccountError,
    CredentialError,
    CredentialNotAllowed,
    CredentialNotFound,
    NobodyAuthenticated,
    NoPersonalCredential,
    UnsealError,
    UserInactive,
)
from pipelit_agents.graphs import verified_child

KEYS = {
    None: "shared-0123456789-abcd",
    "alice": "alices-0123456789-abcd",
    "bob": "bobs-0123456789-abcdef",
}
OWNERS = {key: person or "shared" for person, key in KEYS.items()}


class State(TypedDict, total=False):
    """What the graphs of these tests pass on."""

    q: Any
    a: Any


class User:
    """A server's user, as langgraph-api passes it: an object."""

    def __init__(self, identity: str) -> None:
        self.identity = identity
        self.is_authenticated = True


@pytest.fixture
def people(pipelit: Pipelit) -> Pipelit:
    """Alice and Bob have a key of the same name each, and there is a shared one."""
    pipelit.users.create("bob")
    with database_of(pipelit).writing() as connection:
        for person, key in KEYS.items():
            pipelit.credentials.put_in(
                connection, "github", key, kind="http", created_by="alice", person=person,
                public={"host": f"{person or 'shared'}.example"},
            )  # fmt: skip
    return pipelit


@pytest.fixture
def whose(people: Pipelit) -> Callable[..., str]:
    """Whose key opens here: by a call of a tool, the smallest thing that runs."""
    return opener(people)


def opener(pipelit: Pipelit, **options: Any) -> Callable[..., str]:
    """A function that opens the key and says whose it is."""

    @pipelit.credentials.inject(token="github", **{"per_person": True, **options})
    def owner(*, token: SecretStr) -> str:
        return OWNERS[token.get_secret_value()]

    return owner


def graph_of(node: Any, **options: Any) -> Any:
    """A graph of this node alone."""
    return StateGraph(State).add_node("node", node).add_edge(START, "node").compile(**options)


def served(identity: Any, **configurable: Any) -> RunnableConfig:
    """The configuration that langgraph-api passes to a run of this user's."""
    return {"configurable": {"graph_id": "graph", "langgraph_auth_user": identity, **configurable}}


def reasons(pipelit: Pipelit, *fields: str) -> list[tuple[str, ...]]:
    """What is recorded of the openings."""
    entries = pipelit.audit.list(action="credential.reveal")
    return [tuple(getattr(each, field) for field in fields) for each in entries]


def test_each_persons_run_opens_the_persons_own(people: Pipelit, whose: Any) -> None:
    """The value and the public fields are the person's, and the record names person and node."""

    @people.credentials.inject(token="github", host="github:host", per_person=True)
    def node(state: State, *, token: SecretStr, host: str) -> State:
        return {"a": [OWNERS[token.get_secret_value()], host]}

    graph = graph_of(node)
    for person in ("alice", "bob"):
        with people.acting_for(person):
            assert graph.invoke({})["a"] == [person, f"{person}.example"]
    assert set(reasons(people, "person", "node", "outcome")) == {
        ("alice", "node", "ok"),
        ("bob", "node", "ok"),
    }


async def test_the_twins_open_the_same(people: Pipelit) -> None:
    """Reveal, areveal and a tool ask for the same person."""

    async def node(state: State) -> State:
        with people.credentials.reveal("github", per_person=True) as token:
            found = [OWNERS[token.get_secret_value()]]
        async with people.credentials.areveal("github", per_person=True) as token:
            return {"a": [*found, OWNERS[token.get_secret_value()]]}

    @people.credentials.tool(token="github", per_person=True)
    def ask(question: str, *, token: SecretStr) -> str:
        """Asks."""
        return OWNERS[token.get_secret_value()]

    guarded = people.credentials.guard(node)
    with people.acting_for("bob"):
        assert (await graph_of(guarded).ainvoke({}))["a"] == ["bob", "bob"]
        assert ask.invoke({"question": "x"}) == "bob"
        assert await ask.ainvoke({"question": "x"}) == "bob"


def test_without_per_person_the_shared_one_opens(people: Pipelit) -> None:
    """The own one is beside it; the record names the person nevertheless."""
    shared = opener(people, per_person=False)
    assert shared() == "shared"
    with people.acting_for("alice"):
        assert shared() == "shared"
    assert reasons(people, "person", "reason") == [("", ""), ("alice", "")]


def test_nobody_is_nobody(people: Pipelit, whose: Any) -> None:
    """Without an authenticated person nothing opens, and the error names the fix."""
    with pytest.raises(NobodyAuthenticated, match=r"pipelit\.acting_for.*fallback") as caught:
        whose()
    assert (caught.value.credential, caught.value.person) == ("github", "")
    assert reasons(people, "outcome", "reason") == [("refused", "nobody authenticated")]


def test_a_person_without_an_own_one_gets_nobody_elses(people: Pipelit, whose: Any) -> None:
    """The error names the person and the command; only a fallback opens the shared one."""
    people.users.create("carol")
    with people.acting_for("carol"):
        with pytest.raises(NoPersonalCredential, match=r"put github.*--person carol") as caught:
            whose()
        assert (caught.value.credential, caught.value.person) == ("github", "carol")
        assert opener(people, fallback="shared")() == "shared"
    assert opener(people, fallback="shared")() == "shared"
    with people.acting_for("alice"):
        assert opener(people, fallback="shared")() == "alice"
    assert reasons(people, "outcome", "reason", "person") == [
        ("refused", "no own value", "carol"),
        ("ok", "shared", "carol"),
        ("ok", "shared", ""),
        ("ok", "", "alice"),
    ]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"fallback": "shared"}, TypeError),
        ({"per_person": "github"}, TypeError),
        ({"per_person": True, "fallback": "github"}, ValueError),
        ({"per_person": True, "fallback": True}, TypeError),
    ],
    ids=["alone", "a parameter of that name", "another word", "no text"],
)
def test_the_two_arguments_are_checked(
    people: Pipelit, arguments: dict[str, Any], error: type[Exception]
) -> None:
    """A fallback needs per_person, and neither can be the name of a parameter."""
    with pytest.raises(error, match=r"per_person|fallback"):
        people.credentials.inject(token="github", **arguments)
    with pytest.raises(error), people.credentials.reveal("github", **arguments):
        pass


LIE = "bob"
LIES: dict[str, RunnableConfig] = {
    "configurable": {
        "configurable": {"user_id": LIE, "person": LIE, "langgraph_auth_user_id": LIE}
    },
    "metadata": {"metadata": {"owner": LIE, "langgraph_auth_user": {"identity": LIE}}},
    "header": {"configurable": {"x-user": LIE, "authorization": f"Bearer {LIE}"}},
    "a mapping as user": served({"identity": LIE, "is_authenticated": True}),
    "text as user": served(LIE),
}


@pytest.mark.parametrize("lie", list(LIES))
def test_no_lie_chooses_a_person(people: Pipelit, whose: Any, lie: str) -> None:
    """State, configurable, metadata and headers change nothing: the own one, or none."""
    graph = graph_of(lambda state: {"a": whose()})
    state = {"q": {"person": LIE, "langgraph_auth_user": {"identity": LIE}}}
    with people.acting_for("alice"):
        assert graph.invoke(state, LIES[lie])["a"] == "alice"
    with pytest.raises(NobodyAuthenticated):
        graph.invoke(state, LIES[lie])


def test_a_model_chooses_nobody(people: Pipelit) -> None:
    """A model that sends a person, or the arguments of the decorator, gets an error."""

    @people.credentials.tool(token="github", per_person=True)
    def ask(question: str, *, token: SecretStr) -> str:
        """Asks."""
        return OWNERS[token.get_secret_value()]

    agent = StateGraph(MessagesState).add_node("tools", ToolNode([ask]))
    graph = agent.add_edge(START, "tools").compile()
    for lie in ("person", "per_person", "fallback", "token"):
        call = {"name": "ask", "args": {"question": "x", lie: LIE}, "id": "1", "type": "tool_call"}
        with people.acting_for("alice"):
            answer = graph.invoke({"messages": [AIMessage("", tool_calls=[call])]})
        assert answer["messages"][-1].status == "error"
    assert reasons(people, "outcome") == []
    assert "per_person" not in str(ask.tool_call_schema.model_json_schema())


def test_a_servers_user_is_the_person(people: Pipelit, whose: Any, writer: Agent) -> None:
    """Also in a sub-graph, and in a run that a cron started; an agent's key is no person's."""
    inner = graph_of(lambda state: {"a": whose()})
    graph = graph_of(lambda state: inner.invoke(state))
    assert graph.invoke({}, served(User("alice")))["a"] == "alice"
    assert graph.invoke({}, served(User("bob"), cron_id="1"))["a"] == "bob"
    with people.acting_for("alice"):
        assert graph.invoke({}, served(User("bob")))["a"] == "alice"
    for other in ("agent_writer", "mallory", "operator", "langgraph-studio-user"):
        with pytest.raises(NobodyAuthenticated):
            graph.invoke({}, served(User(other)))
    fallback = graph_of(lambda state: {"a": opener(people, fallback="shared")()})
    assert fallback.invoke({}, served(User("agent_writer")))["a"] == "shared"


@pytest.mark.parametrize("name", ["agent_writer", "mallory", "operator"])
def test_only_a_person_can_be_vouched_for(people: Pipelit, writer: Agent, name: str) -> None:
    """An agent, an unknown name and the operator are refused, with a fallback too."""
    for fallback in (None, "shared"):
        with people.acting_for(name), pytest.raises(NobodyAuthenticated, match="no active person"):
            opener(people, fallback=fallback)()
    with pytest.raises(AccountError):
        people.credentials.put("github", KEYS["bob"], kind="http", created_by="a", person=name)


def test_a_peer_is_no_person(people: Pipelit, whose: Any) -> None:
    """A peer's account is stored as a person's, and yet is none."""
    with database_of(people).writing() as connection:
        connection.execute(
            text("UPDATE pipelit_users SET domain = 'partner' WHERE username = 'bob'")
        )
    with people.acting_for("bob"), pytest.raises(NobodyAuthenticated):
        whose()
    with pytest.raises(AccountError):
        people.credentials.list(person="bob")


def test_a_deactivated_person_opens_nothing(people: Pipelit, whose: Any) -> None:
    """Not between put and opening, nor by a fallback; what is stored is listed and deleted."""
    people.users.deactivate("bob")
    for open_ in (whose, opener(people, fallback="shared")):
        with people.acting_for("bob"), pytest.raises(NobodyAuthenticated) as caught:
            open_()
        assert caught.value.person == "bob"
        with pytest.raises(NobodyAuthenticated):
            graph_of(lambda state, open_=open_: {"a": open_()}).invoke({}, served(User("bob")))
    assert set(reasons(people, "reason", "person")) == {("not an active person", "bob")}
    with pytest.raises(UserInactive):
        people.credentials.put("github", KEYS["bob"], kind="http", created_by="a", person="bob")
    assert [each.person for each in people.credentials.list(person="bob")] == ["bob"]
    assert people.credentials.delete_all(person="bob") == 1
    assert people.credentials.list(person="bob") == []
    assert len(people.credentials.list(person="alice")) == len(people.credentials.list()) == 1


def test_a_block_that_has_ended_acts_for_nobody_in_its_threads(people: Pipelit, whose: Any) -> None:
    """A thread's copy of the context is of no use once the block has ended, also beneath a user."""
    go, seen = threading.Event(), []

    def late() -> None:
        go.wait(10)
        for config in ({}, served(User("bob"))):
            try:
                seen.append(graph_of(lambda state: {"a": whose()}).invoke({}, config)["a"])
            except CredentialError as error:
                seen.append(error)

    with people.acting_for("alice"):
        context = copy_context()
        thread = threading.Thread(target=context.run, args=(late,))
        thread.start()
    go.set()
    thread.join(10)
    assert [type(each) for each in seen] == [NobodyAuthenticated] * 2
    assert "has ended" in str(seen[0])
    assert seen[0].person == "alice"
    with pytest.raises(NobodyAuthenticated, match="has ended"):
        context.run(opener(people, fallback="shared"))
    assert set(reasons(people, "reason")) == {("acting_for has ended",)}


async def test_a_block_that_has_ended_acts_for_nobody_in_its_tasks(
    people: Pipelit, whose: Any
) -> None:
    """A task that outlives its block opens nothing; a block of its own works."""
    go = asyncio.Event()

    async def late() -> list[Any]:
        await go.wait()
        with pytest.raises(NobodyAuthenticated, match="has ended"):
            await asyncio.to_thread(whose)
        with people.acting_for("bob"):
            return [await asyncio.to_thread(whose)]

    with people.acting_for("alice"):
        task = asyncio.create_task(late())
        await asyncio.sleep(0)
    go.set()
    assert await task == ["bob"]


def test_blocks_that_overlap_don_t_meet(people: Pipelit, whose: Any) -> None:
    """Two threads at one moment, one of which raises in the middle, each act for their own."""
    both, graph = threading.Barrier(2, timeout=10), graph_of(lambda state: {"a": whose()})

    def act(person: str) -> list[str]:
        seen = []
        for turn in range(4):
            with contextlib.suppress(RuntimeError), people.acting_for(person):
                both.wait()
                seen.append(graph.invoke({})["a"])
                if person == "bob" and turn == 1:
                    raise RuntimeError
            with pytest.raises(NobodyAuthenticated):
                whose()
        return seen

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(act, ("alice", "bob"))) == [["alice"] * 4, ["bob"] * 4]


async def test_tasks_that_overlap_don_t_meet(people: Pipelit, whose: Any) -> None:
    """Many runs of one graph on one event loop open their own person's."""

    async def node(state: State) -> State:
        await asyncio.sleep(0)
        return {"a": await asyncio.to_thread(whose)}

    graph = graph_of(node)

    async def act(person: str) -> None:
        with people.acting_for(person):
            assert (await graph.ainvoke({}))["a"] == person

    await asyncio.gather(*(act(person) for person in ("alice", "bob") * 6))


def test_a_nested_block_replaces_the_outer_one(people: Pipelit, whose: Any) -> None:
    """For its length only, also if it raises."""
    with people.acting_for("alice"):
        with contextlib.suppress(ZeroDivisionError), people.acting_for("bob"):
            assert whose() == "bob"
            raise ZeroDivisionError
        assert whose() == "alice"


def test_a_resume_acts_for_who_resumes(people: Pipelit, whose: Any) -> None:
    """What was interrupted for Alice and is resumed for Bob opens Bob's, and never hers."""

    def node(state: State) -> State:
        before = whose()
        interrupt("?")
        return {"a": [before, whose()]}

    graph = graph_of(node, checkpointer=InMemorySaver())
    config: RunnableConfig = {"configurable": {"thread_id": "1"}}
    with people.acting_for("alice"):
        graph.invoke({}, config)
    with pytest.raises(NobodyAuthenticated):
        graph.invoke(Command(resume="x"), config)
    with people.acting_for("bob"):
        assert graph.invoke(Command(resume="x"), config)["a"] == ["bob", "bob"]


def test_a_stream_that_is_read_after_the_block_acts_for_nobody(people: Pipelit, whose: Any) -> None:
    """The nodes that begin after the block open nothing, and closing it late is harmless."""
    builder = StateGraph(State)
    builder.add_node("one", lambda state: {"a": whose()})
    builder.add_node("two", lambda state: {"a": whose()})
    builder.add_edge(START, "one").add_edge("one", "two")
    graph = builder.compile()
    with people.acting_for("alice"):
        stream = graph.stream({})
        assert next(stream) == {"one": {"a": "alice"}}
    with pytest.raises(NobodyAuthenticated):
        next(stream)

    def streaming() -> Iterator[Any]:
        with people.acting_for("alice"):
            yield from graph.stream({})

    kept = streaming()
    assert copy_context().run(next, kept) == {"one": {"a": "alice"}}
    kept.close()
    with pytest.raises(NobodyAuthenticated):
        whose()


@pytest.mark.parametrize(
    "copying",
    [
        "UPDATE pipelit_person_credentials SET sealed = (SELECT sealed FROM "
        "pipelit_person_credentials WHERE person = 'bob') WHERE person = 'alice'",
        "UPDATE pipelit_person_credentials SET person = 'carol' WHERE person = 'alice'; "
        "UPDATE pipelit_person_credentials SET person = 'alice' WHERE person = 'bob'",
        "UPDATE pipelit_person_credentials SET sealed = (SELECT sealed FROM pipelit_credentials), "
        "public = (SELECT public FROM pipelit_credentials)",
        "UPDATE pipelit_credentials SET (sealed, public, hint) = (SELECT sealed, public, hint FROM "
        "pipelit_person_credentials WHERE person = 'bob')",
        "UPDATE pipelit_person_credentials SET allow = '[\"agent_writer\"]'",
        "UPDATE pipelit_person_credentials SET sealed = hint",
    ],
    ids=["her value", "his row", "from the shared one", "to the shared one", "allow", "the mask"],
)
def test_a_ciphertext_elsewhere_does_not_open(people: Pipelit, whose: Any, copying: str) -> None:
    """Not for another person, in the other table, or beside other fields; nor by a fallback."""
    people.users.create("carol")
    with database_of(people).writing() as connection:
        for statement in copying.split("; "):
            connection.execute(text(statement))
    shared = "UPDATE pipelit_credentials" in copying
    for open_ in (opener(people, per_person=not shared), opener(people, fallback="shared")):
        person = "carol" if shared else "alice"
        with people.acting_for(person), pytest.raises(UnsealError):
            open_()


def test_a_persons_own_are_listed_and_deleted_alone(people: Pipelit) -> None:
    """Get, list, has_in and delete mean the shared one, or the named person's."""
    credentials = people.credentials
    assert [each.masked for each in credentials.list()] == ["…abcd"]
    assert credentials.get("github").person is None
    assert credentials.get("github", person="bob").public == {"host": "bob.example"}
    fields: dict[str, Any] = {"kind": "http", "public": {"host": "bob.example"}}
    with database_of(people).reading() as connection:
        assert credentials.has_in(connection, "github", KEYS["bob"], person="bob", **fields)
        assert not credentials.has_in(connection, "github", KEYS["bob"], **fields)
        assert not credentials.has_in(connection, "github", KEYS["bob"], person="alice", **fields)
    credentials.delete("github", person="alice", by="bob")
    with pytest.raises(CredentialNotFound) as caught:
        credentials.get("github", person="alice")
    assert caught.value.person == "alice"  # type: ignore[attr-defined]
    with pytest.raises(NoPersonalCredential):
        credentials.delete("github", person="alice")
    assert len(credentials.list()) == len(credentials.list(person="bob")) == 1
    (entry,) = people.audit.list(action="credential.delete")
    assert (entry.actor, entry.subject, entry.person) == ("bob", "github", "alice")
    with pytest.raises(AccountError):
        credentials.list(person="nobody-at-all")


def test_putting_again_replaces_the_persons_own(people: Pipelit, whose: Any) -> None:
    """The shared one and another person's stay."""
    people.credentials.put("github", KEYS["bob"], kind="x", created_by="alice", person="alice")
    with people.acting_for("alice"):
        assert whose() == "bob"
    assert opener(people, per_person=False)() == "shared"


def test_an_own_one_shows_who_stored_it_last(people: Pipelit) -> None:
    """Alice replaces what somebody else stored for her: in the trail, and in its description."""
    credentials = people.credentials
    for by in ("bob", "alice"):
        made = credentials.put("crm", KEYS["alice"], kind="http", created_by=by, person="alice")
    assert credentials.get("crm", person="alice") == made
    assert (made.created_by, made.updated_by, made.person) == ("bob", "alice", "alice")
    written = people.audit.list(action="credential.put", subject="crm")
    assert [(each.actor, each.person) for each in written] == [("bob", "alice"), ("alice", "alice")]


def test_the_error_names_the_persons_own(people: Pipelit) -> None:
    """Where only the person who acts has one of the name, it says how to open that."""
    open_ = opener(people, per_person=False)
    people.credentials.delete("github")
    with people.acting_for("alice"):
        with pytest.raises(CredentialNotFound, match=r"'alice' has an own one: .* per_person=True"):
            open_()
        people.credentials.delete("github", person="alice")
        with pytest.raises(CredentialNotFound) as error:
            open_()
    assert "per_person" not in str(error.value)
    # Bob has one, and isn't who acts.
    with pytest.raises(CredentialNotFound) as error:
        open_()
    assert "per_person" not in str(error.value)


def test_the_acting_person_may_be_on_the_list(people: Pipelit, writer: Agent) -> None:
    """A shared credential with `allow` opens for a person on the list, or an agent on it."""
    allow = ["bob", "agent_writer"]
    people.credentials.put("github", KEYS[None], kind="http", created_by="a", allow=allow)
    open_ = opener(people, per_person=False)
    with people.acting_for("bob"):
        assert open_() == "shared"
    assert opener(people, per_person=False, agent=writer)() == "shared"
    with people.acting_for("alice"):
        assert opener(people, per_person=False, agent=writer)() == "shared"
        with pytest.raises(CredentialNotAllowed, match="nor is 'alice'"):
            open_()
    # A name of an agent that somebody vouches for is no agent.
    for block in (people.acting_for("agent_writer"), contextlib.nullcontext()):
        with block, pytest.raises(CredentialNotAllowed):
            open_()
    with people.acting_for("bob"):
        context = copy_context()
    with pytest.raises(CredentialNotAllowed):
        context.run(open_)
    people.users.deactivate("bob")
    with people.acting_for("bob"), pytest.raises(CredentialNotAllowed):
        open_()


def test_the_list_of_an_own_one_restricts_agents(people: Pipelit, writer: Agent) -> None:
    """The person needs the agent then; a list of other persons alone is refused at put."""

    def put(*allow: str) -> None:
        people.credentials.put(
            "github", KEYS["alice"], kind="http", created_by="a", person="alice", allow=allow
        )

    put("agent_writer")
    with people.acting_for("alice"):
        assert opener(people, agent=writer)() == "alice"
        with pytest.raises(CredentialNotAllowed):
            opener(people)()
    with people.acting_for("bob"):
        assert opener(people, agent=writer)() == "bob"
    put("alice")
    with people.acting_for("alice"):
        assert opener(people)() == "alice"
    with pytest.raises(CredentialError, match="only other persons than 'alice'"):
        put("bob")


@pytest.mark.parametrize("user", ["served", "vouched for"])
def test_a_spawned_child_acts_for_its_parents_person(
    people: Pipelit, whose: Any, lead: Agent, researcher: Agent, user: str
) -> None:
    """Also after an interrupt; state that a model wrote for the child changes nothing."""

    def work(state: State) -> State:
        interrupt("?")
        return {"a": whose()}

    child = verified_child(graph_of(work), agent=researcher)
    parent = parent_of(lead, {"agent_researcher": child}, InMemorySaver())
    lie = {"langgraph_auth_user": {"identity": "alice"}, "person": "alice"}
    thread: Any = {"thread_id": "1"}
    config = served(User("bob"), **thread) if user == "served" else {"configurable": thread}
    for call in (tasks(lie), Command(resume="x")):
        with contextlib.nullcontext() if user == "served" else people.acting_for("bob"):
            ended = parent.invoke(call, config)
    assert [each["output"]["a"] for each in ended["results"]] == ["bob"]


async def test_a_request_is_sent_with_the_persons_own(people: Pipelit) -> None:
    """Outside of a run too: http_auth asks for the person at each request."""
    sent = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(OWNERS[request.headers["Authorization"].removeprefix("Bearer ")])
        return httpx.Response(200)

    url, transport = "https://github.example/", httpx.MockTransport(answer)
    auth = people.credentials.http_auth("github", per_person=True, origins=[url])
    mixed = people.credentials.http_auth(
        "github", per_person=True, fallback="shared", origins=[url]
    )

    def send() -> None:
        with httpx.Client(transport=transport) as client:
            for person in ("alice", "bob"):
                with people.acting_for(person):
                    client.get(url, auth=auth)
            with pytest.raises(NobodyAuthenticated):
                client.get(url, auth=auth)
            client.get(url, auth=mixed)
            with people.acting_for("alice"), pytest.raises(CredentialError, match="base_url"):
                client.get(url, auth=people.credentials.http_auth("github", per_person=True))

    send()
    async with httpx.AsyncClient(transport=transport) as asynchronous:
        with people.acting_for("bob"):
            await asynchronous.get(url, auth=auth)
            late = asyncio.create_task(asynchronous.get(url, auth=mixed))
        with pytest.raises(NobodyAuthenticated, match="has ended"):
            await late
    assert sent == ["alice", "bob", "shared", "bob"]
    with pytest.raises(TypeError):
        people.credentials.http_auth("github", fallback="shared")


@pytest.mark.slow
def test_keys_and_forget_see_own_values(
    people: Pipelit, whose: Any, settings: dict[str, Any]
) -> None:
    """Each value is counted, rotated, and deleted if no key decrypts it."""
    newer = Keyring.generate_key()
    before = people.keys.status(checkpointers=[InMemorySaver()]).newest
    with Pipelit(**settings | {"encryption_keys": [newer, *settings["encryption_keys"]]}) as both:
        both.keys.rotate(checkpointers=[InMemorySaver()])
    with Pipelit(**settings | {"encryption_keys": [newer]}) as rotated:
        status = rotated.keys.status(checkpointers=[InMemorySaver()])
        assert (status.newest, status.older, status.unreadable) == (before, 0, ())
        with rotated.acting_for("alice"):
            assert opener(rotated)() == "alice"
        with database_of(rotated).writing() as connection:
            connection.execute(
                text("UPDATE pipelit_person_credentials SET sealed = :lost WHERE person = 'bob'"),
                {"lost": Keyring(Keyring.generate_key()).seal("x", "y")},
            )
        unreadable = "pipelit_person_credentials.sealed of bob github"
        assert rotated.keys.status(checkpointers=[InMemorySaver()]).unreadable == (unreadable,)
        assert rotated.keys.forget_unreadable() == ["person_credentials bob github"]
        assert rotated.credentials.list(person="bob") == []


def test_the_seals_cover_the_person(people: Pipelit, whose: Any) -> None:
    """A person who is put in, replaced or removed is found; entries of before stay as sealed."""
    for person in ("alice", "bob"):
        with people.acting_for(person):
            whose()
    people.audit.seal()
    assert people.audit.verify().problems == ()
    for change in ("'bob' WHERE person = 'alice'", "'' WHERE person = 'bob'"):
        with database_of(people).writing() as connection:
            connection.execute(text(f"UPDATE pipelit_audit SET person = {change}"))  # noqa: S608
        assert people.audit.verify().problems


@pytest.mark.backends("sqlite")
def test_a_trail_from_before_stays_whole(pipelit: Pipelit, writer: Agent) -> None:
    """Seals of a database without the column and the table fit after the migration."""
    pipelit.audit.seal()
    with database_of(pipelit).writing() as connection:
        take_back(connection, "0011")
    pipelit.create_schema()
    assert pipelit.audit.verify().problems == ()
    pipelit.credentials.put("x", KEYS["bob"], kind="k", created_by="alice", person="alice")
    pipelit.audit.seal()
    report = pipelit.audit.verify()
    assert (report.problems, report.unsealed) == ((), 0)
    assert [each.person for each in pipelit.audit.list(person="alice")] == ["alice"]
