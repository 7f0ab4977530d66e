"""Agents of ``create_agent`` whose model and tools get their keys by the middleware."""

from __future__ import annotations

import gc
import importlib
import sqlite3
import subprocess
import sys
import traceback
import weakref
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pytest
from canary import KEY as CANARY
from canary import Tracer, count
from langchain.agents import create_agent
from langchain.agents.middleware import (
    ModelFallbackMiddleware,
    ModelRetryMiddleware,
    ToolCallRequest,
)
from langchain.agents.structured_output import ProviderStrategy
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tools import InjectedToolArg, tool
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.config import get_store, get_stream_writer
from langgraph.prebuilt import ToolRuntime
from langgraph.store.memory import InMemoryStore
from openai_server import ChatServer
from pydantic import BaseModel, SecretStr
from secured import MODEL, OTHER, chat, served, stored

from pipelit_agents import Agent, Pipelit
from pipelit_agents.credentials.secret import Secret
from pipelit_agents.errors import (
    ConfigurationError,
    CredentialError,
    CredentialNotAllowed,
    CredentialScopeError,
    NobodyAuthenticated,
    SecretLeakError,
    UnusedCredentialWarning,
    UserInactive,
)
from pipelit_agents.middleware import CredentialMiddleware
from pipelit_agents.middleware.model_source import takes

__all__ = ["chat", "served", "stored"]
used: list[SecretStr] = []


@tool
def search(query: str, api_key: Annotated[SecretStr, InjectedToolArg]) -> str:
    """Searches the web."""
    used.append(api_key)
    return f"{query}, with {len(api_key.get_secret_value())} characters"


def agent_of(stored: Pipelit, tools: Any = (search,), **more: Any) -> Any:
    """An agent whose model and search tool are given their keys."""
    options = {"model_options": {"max_retries": 0}, "tools": {"search": {"api_key": "serper"}}}
    secured = CredentialMiddleware(
        stored.credentials, model=MODEL, credential="openai", **{**options, **more.pop("with_", {})}
    )
    middleware = [*more.pop("before", ()), secured]
    return create_agent(secured.model, list(tools), middleware=middleware, **more)


def asked(text: str) -> Any:
    """An agent's input."""
    return {"messages": [{"role": "user", "content": text}]}


async def test_the_server_is_shown_the_right_key(stored: Pipelit, chat: ChatServer) -> None:
    """Sync and async calls authorize with the stored key, at the address stored with it."""
    agent = agent_of(stored)
    assert agent.invoke(asked("hi"))["messages"][-1].text == "hello from the model"
    assert (await agent.ainvoke(asked("hi")))["messages"][-1].text == "hello from the model"
    assert chat.shown == [CANARY, CANARY]
    assert chat.requests[0]["model"] == "gpt-test"


def test_a_tool_gets_its_own_key(stored: Pipelit, chat: ChatServer) -> None:
    """The tool reads its key; the model's schema doesn't know of it, nor do the messages."""
    used.clear()
    result = agent_of(stored).invoke(asked("use search"))
    assert result["messages"][-1].text == f"found: otters, with {len(OTHER)} characters"
    (shown,) = chat.requests[0]["tools"]
    assert list(shown["function"]["parameters"]["properties"]) == ["query"]
    assert result["messages"][1].tool_calls[0]["args"] == {"query": "otters"}
    with pytest.raises(CredentialScopeError):
        used[0].get_secret_value()


async def test_the_model_and_its_tools_get_the_persons_own(
    stored: Pipelit, chat: ChatServer
) -> None:
    """Per person: at each call, in the agent and by the model alone; nobody gets nothing."""
    stored.users.create("bob")
    keys = {person: f"sk-{person}-0123456789-abcdef" for person in ("alice", "bob")}
    for person, key in keys.items():
        public = {"base_url": chat.base_url}
        put = partial(stored.credentials.put, created_by="alice", person=person)
        put("openai", key, kind="llm", public=public)
        put("serper", OTHER + person, kind="api")
    chat.keys = {*keys.values(), CANARY}
    agent = agent_of(stored, with_={"per_person": True})
    for person in keys:
        with stored.acting_for(person):
            found = agent.invoke(asked("use search"))["messages"][-1].text
            assert found == f"found: otters, with {len(OTHER + person)} characters"
            assert (await agent.ainvoke(asked("hi")))["messages"][-1].text == "hello from the model"
    assert chat.shown == [keys["alice"]] * 3 + [keys["bob"]] * 3
    with pytest.raises(NobodyAuthenticated):
        agent.invoke(asked("hi"))
    secured = CredentialMiddleware(
        stored.credentials, model=MODEL, credential="openai", per_person=True, fallback="shared"
    )
    chat.shown.clear()
    alone = RunnableLambda(lambda text: secured.model.invoke(text).text)
    with stored.acting_for("bob"):
        alone.invoke("hi")
    alone.invoke("hi")
    assert chat.shown == [keys["bob"], CANARY]
    with pytest.raises(TypeError, match="fallback"):
        agent_of(stored, with_={"fallback": "shared"})


async def test_parallel_tool_calls_get_a_key_each(stored: Pipelit) -> None:
    """Two calls at once don't share a scope: neither closes the other's key."""
    used.clear()
    for result in (
        agent_of(stored).invoke(asked("use search twice")),
        await agent_of(stored).ainvoke(asked("use search twice")),
    ):
        answers = [m.text for m in result["messages"] if isinstance(m, ToolMessage)]
        assert answers == [f"otters, with {len(OTHER)} characters"] * 2
    assert len({id(each) for each in used}) == 4


def test_nothing_of_it_is_stored_traced_or_streamed(stored: Pipelit, tmp_path: Path) -> None:
    """Checkpoints, traces and all streams of a run with model and tool hold neither key."""
    path = tmp_path / "checkpoints.db"
    tracer = Tracer()
    with SqliteSaver.from_conn_string(str(path)) as saver:
        agent = agent_of(stored, checkpointer=saver)
        config: Any = {"configurable": {"thread_id": "1"}, "callbacks": [tracer]}
        modes = ["values", "updates", "messages", "debug", "custom"]
        chunks = list(agent.stream(asked("use search"), config, stream_mode=modes, subgraphs=True))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA wal_checkpoint")
    found = b"".join(each.read_bytes() for each in tmp_path.glob("checkpoints.db*"))
    assert b"otters" in found
    for each in (found, tracer.seen, chunks):
        assert count(each) == 0
        assert OTHER not in (each.decode("latin-1") if isinstance(each, bytes) else repr(each))
    of_tools = [each for each in tracer.seen if "'run_type': 'tool'" in each]
    assert of_tools
    assert not any("api_key" in each for each in of_tools)


def test_tokens_arrive(stored: Pipelit) -> None:
    """With ``stream_mode="messages"`` the model's words come one by one."""
    stream = agent_of(stored).stream(asked("hi"), stream_mode="messages")
    words = [chunk.content for chunk, _ in stream if chunk.content]
    assert words == ["hello ", "from ", "the ", "model "]


def _all_of(error: BaseException) -> str:
    shown, waiting, seen = "", [error], set()
    while waiting:
        each: Any = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        shown += "".join(traceback.format_exception(each)) + repr((each.args, vars(each)))
        for carrier in (getattr(each, "request", None), getattr(each, "response", None)):
            headers = getattr(carrier, "headers", None)
            shown += repr(getattr(headers, "raw", headers)) + repr(getattr(carrier, "content", ""))
            inner = getattr(carrier, "_request", None)
            shown += repr(getattr(getattr(inner, "headers", None), "raw", ""))
        waiting += [each.__cause__, each.__context__]
    return shown


def test_a_refused_key_stands_nowhere_in_the_error(stored: Pipelit, chat: ChatServer) -> None:
    """The provider's error keeps its type and status; text, body and headers lose the key."""
    # Imported late, as it takes each test process a second, and one of them needs it.
    import openai

    chat.keys.clear()
    with pytest.raises(openai.AuthenticationError) as caught:
        agent_of(stored).invoke(asked("hi"))
    assert caught.value.status_code == 401
    assert "Incorrect API key provided: ****" in str(caught.value)
    assert CANARY not in _all_of(caught.value)


def test_a_replaced_credential_is_used_at_once(stored: Pipelit, chat: ChatServer) -> None:
    """The agent isn't built anew for a new key."""
    agent = agent_of(stored)
    agent.invoke(asked("hi"))
    chat.keys = {"sk-the-new-key-0987654321"}
    stored.credentials.put(
        "openai",
        "sk-the-new-key-0987654321",
        kind="llm",
        created_by="alice",
        public={"base_url": chat.base_url},
    )
    assert agent.invoke(asked("hi"))["messages"][-1].text == "hello from the model"


def test_the_model_is_dropped(stored: Pipelit, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the call neither the chat model nor its client is alive, with the key in it."""
    from langchain_openai import ChatOpenAI

    alive: list[weakref.ref[Any]] = []
    real = ChatOpenAI.model_post_init

    def watched(self: Any, *args: Any) -> None:
        real(self, *args)
        alive.append(weakref.ref(self))
        if self.root_client is not None:
            alive.append(weakref.ref(self.root_client))

    monkeypatch.setattr(ChatOpenAI, "model_post_init", watched)
    agent = agent_of(stored)
    agent.invoke(asked("hi"))
    gc.collect()
    assert alive
    assert [each() for each in alive] == [None] * len(alive)


def test_a_model_that_sends_the_parameter_is_refused(stored: Pipelit) -> None:
    """A value for the hidden parameter, whoever made it up, isn't passed to the tool."""
    used.clear()
    with pytest.raises(CredentialScopeError, match="api_key"):
        agent_of(stored).invoke(asked("send it"))
    assert used == []


@tool
def leaking(query: str, api_key: Annotated[SecretStr, InjectedToolArg]) -> str:
    """Searches the web."""
    return f"used {api_key.get_secret_value()}"


@tool
def failing(query: str, api_key: Annotated[SecretStr, InjectedToolArg]) -> str:
    """Searches the web."""
    raise ConnectionError(f"GET /?k={api_key.get_secret_value()}")


@tool
async def aleaking(query: str, api_key: Annotated[SecretStr, InjectedToolArg]) -> str:
    """Searches the web."""
    return f"used {api_key.get_secret_value()}"


@tool
def showing(query: str, api_key: SecretStr) -> str:
    """Searches the web."""
    return "ok"


for each in (leaking, failing, aleaking, showing):
    each.name = "search"


@pytest.mark.slow
async def test_a_tool_that_returns_or_raises_its_key(stored: Pipelit) -> None:
    """What a tool returns is refused; what it raises keeps its type and loses the key."""
    with pytest.raises(SecretLeakError):
        agent_of(stored, [leaking]).invoke(asked("use search"))
    with pytest.raises(SecretLeakError):
        await agent_of(stored, [aleaking]).ainvoke(asked("use search"))
    with pytest.raises(ConnectionError, match=r"\*\*\*\*") as caught:
        agent_of(stored, [failing]).invoke(asked("use search"))
    assert OTHER not in _all_of(caught.value)


def test_a_tool_that_shows_the_parameter_is_refused(stored: Pipelit) -> None:
    """A key is passed only where the model doesn't see the parameter; the error says how."""
    with pytest.raises(CredentialError, match="InjectedToolArg"):
        agent_of(stored, [showing]).invoke(asked("use search"))


async def test_a_tool_that_there_isnt_is_said_before_the_model_is_asked(
    stored: Pipelit, chat: ChatServer
) -> None:
    """A mistyped name would have the model asked for the key; agents are handles, not names."""
    agent = agent_of(stored, with_={"tools": {"serach": {"api_key": "serper"}}})
    with pytest.raises(ConfigurationError, match=r"'serach'.*its tools are search"):
        agent.invoke(asked("use search"))
    with pytest.raises(ConfigurationError, match="'serach'"):
        await agent.ainvoke(asked("use search"))
    assert chat.requests == []
    with pytest.raises(TypeError, match="handle"):
        CredentialMiddleware(stored.credentials, credential="openai", agent="agent_lead")  # type: ignore[arg-type]


def test_the_model_that_echoes_the_key_is_refused(stored: Pipelit, chat: ChatServer) -> None:
    """An answer that holds the key doesn't reach the state."""
    chat.answer = lambda messages: f"you sent {CANARY}"
    with pytest.raises(SecretLeakError):
        agent_of(stored).invoke(asked("hi"))


def test_who_may_not_open_it_sends_nothing(
    stored: Pipelit, chat: ChatServer, writer: Agent, editor: Agent
) -> None:
    """An account that the credential isn't kept for, and one that was deactivated, are refused."""
    stored.credentials.put(
        "openai",
        CANARY,
        kind="llm",
        created_by="alice",
        public={"base_url": chat.base_url},
        allow=["agent_writer"],
    )
    with pytest.raises(CredentialNotAllowed):
        agent_of(stored, with_={"agent": editor}).invoke(asked("hi"))
    agent = agent_of(stored, with_={"agent": writer})
    agent.invoke(asked("hi"))
    stored.users.deactivate("agent_writer")
    with pytest.raises(UserInactive):
        agent.invoke(asked("hi"))
    assert len(chat.shown) == 1


def test_each_opening_is_on_record(stored: Pipelit, writer: Agent) -> None:
    """The audit has credential, agent, thread, run and node of each model and tool call."""
    with SqliteSaver.from_conn_string(":memory:") as saver:
        agent = agent_of(stored, with_={"agent": writer}, checkpointer=saver)
        agent.invoke(asked("use search"), {"configurable": {"thread_id": "t7"}})
    rows = [each for each in stored.audit.list() if each.action == "credential.reveal"]
    assert [(row.actor, row.subject, row.outcome, row.thread) for row in rows] == [
        ("agent_writer", "openai", "ok", "t7"),
        ("agent_writer", "serper", "ok", "t7"),
        ("agent_writer", "openai", "ok", "t7"),
    ]
    assert [row.node for row in rows] == ["model", "tools", "model"]
    assert all(row.run for row in rows)


def test_the_model_may_be_named_with_the_key(stored: Pipelit, chat: ChatServer) -> None:
    """Without a model in code, the credential's public field says which."""
    public = {"base_url": chat.base_url, "model": MODEL}
    stored.credentials.put("openai", CANARY, kind="llm", created_by="alice", public=public)
    secured = CredentialMiddleware(stored.credentials, credential="openai")
    agent = create_agent(secured.model, [], middleware=[secured])
    assert agent.invoke(asked("hi"))["messages"][-1].text == "hello from the model"


def test_structured_answers_work(stored: Pipelit) -> None:
    """The provider's own structured output goes through the model that was put in."""

    class Size(BaseModel):
        """A size."""

        metres: int

    agent = agent_of(stored, (), response_format=ProviderStrategy(Size))
    assert agent.invoke(asked('{"metres": 7}'))["structured_response"] == Size(metres=7)


def test_retries_open_it_anew_and_fallbacks_have_their_own(
    stored: Pipelit, chat: ChatServer
) -> None:
    """Around the middleware, retries and fallbacks to another credential's model work."""
    import openai

    chat.keys = {"sk-second-0123456789"}
    stored.credentials.put(
        "second",
        "sk-second-0123456789",
        kind="llm",
        created_by="alice",
        public={"base_url": chat.base_url},
    )
    second = CredentialMiddleware(stored.credentials, model="openai:other", credential="second")
    retry = ModelRetryMiddleware(
        max_retries=1,
        retry_on=(openai.AuthenticationError,),
        initial_delay=0,
        on_failure="error",
    )
    first = CredentialMiddleware(
        stored.credentials,
        model=MODEL,
        credential="openai",
        model_options={"max_retries": 0},
    )
    agent = create_agent(
        first.model, [], middleware=[ModelFallbackMiddleware(second.model), retry, first, second]
    )
    assert agent.invoke(asked("hi"))["messages"][-1].text == "hello from the model"
    assert chat.shown == [CANARY, CANARY, "sk-second-0123456789"]
    assert chat.requests[0]["model"] == "other"


@pytest.mark.slow
def test_faulty_set_ups_say_what_to_mend(stored: Pipelit, chat: ChatServer) -> None:
    """Missing, clashing and ambiguous settings are named."""
    with pytest.raises(TypeError, match="needs a credential"):
        CredentialMiddleware(stored.credentials, model=MODEL)
    secured = CredentialMiddleware(stored.credentials, credential="openai")
    with pytest.raises(CredentialError, match="public field 'model'"):
        create_agent(secured.model, [], middleware=[secured]).invoke(asked("hi"))
    with pytest.raises(CredentialError, match="'api_key' is one of its secrets"):
        agent_of(stored, with_={"model_options": {"api_key": "x"}}).invoke(asked("hi"))
    with pytest.raises(CredentialScopeError, match="running node or tool"):
        secured.model.invoke("hi")
    of_tools = CredentialMiddleware(stored.credentials, tools={"search": {"k": "serper"}})
    with pytest.raises(CredentialScopeError, match="no credential"):
        create_agent(of_tools.model, []).invoke(asked("hi"))
    stored.credentials.put("serper", {"a": OTHER, "b": OTHER}, kind="api", created_by="alice")
    with pytest.raises(CredentialError, match="serper:a"):
        agent_of(stored).invoke(asked("use search"))
    for fields in ({"api_key": {"api_key": "serper:b"}},):
        agent = agent_of(stored, with_={"tools": {"search": fields["api_key"]}})
        assert "found" in agent.invoke(asked("use search"))["messages"][-1].text


@pytest.mark.parametrize(
    "model",
    [GenericFakeChatModel(messages=iter([])), GenericFakeChatModel],
    ids=["instance", "class"],
)
def test_a_built_model_is_refused(stored: Pipelit, model: Any) -> None:
    """A model is given by its name: one that is built already has a key, or none."""
    says = r'model must be a model.s name, such as "openai:gpt-5-mini", not GenericFake'
    with pytest.raises(TypeError, match=says):
        CredentialMiddleware(stored.credentials, model=model, credential="openai")


@pytest.mark.process
def test_the_core_does_without_langchain() -> None:
    """``import pipelit_agents`` doesn't import LangChain's agents."""
    code = "import pipelit_agents, sys; print('langchain' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_message_of_the_user_stays(stored: Pipelit) -> None:
    """The user's own words and the model's come back as they were."""
    messages = agent_of(stored).invoke(asked("hi"))["messages"]
    assert [type(each) for each in messages][1] is AIMessage
    assert messages[0].text == "hi"


DOORS: dict[str, Any] = {
    "the runtime's writer": lambda key, runtime, config: runtime.stream_writer({"k": key}),
    "get_stream_writer": lambda key, runtime, config: get_stream_writer()(key),
    "the runtime's store": lambda key, runtime, config: runtime.store.put(("a",), "k", {"v": key}),
    "get_store": lambda key, runtime, config: get_store().put(("a",), key, {"v": 1}),
    "a runnable by the runtime": lambda key, runtime, config: _same.invoke(key, runtime.config),
    "a runnable by the configuration": lambda key, runtime, config: _same.invoke(key, config),
    "the state": lambda key, runtime, config: runtime.state["messages"].append(key),
    "an exception": lambda key, runtime, config: _fail(key),
    "its result": lambda key, runtime, config: key,
}
_same: RunnableLambda[Any, Any] = RunnableLambda(lambda x: x)


def _fail(key: str) -> None:
    raise ConnectionError(f"401: {key}")


@pytest.mark.slow
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("handled", [False, True])
async def test_a_tools_doors_are_guarded(stored: Pipelit, door: str, handled: bool) -> None:
    """Writer, store, callbacks, state, errors and results of a tool that is given its key."""

    @tool
    def search(
        query: str,
        api_key: Annotated[SecretStr, InjectedToolArg],
        runtime: ToolRuntime,
        config: RunnableConfig,
    ) -> Any:
        """Searches the web."""
        return DOORS[door](api_key.get_secret_value(), runtime, config) or "ok"

    search.handle_tool_error = handled
    store, tracer = InMemoryStore(), Tracer()
    agent = agent_of(stored, (search,), store=store)
    config: Any = {"callbacks": [tracer]}
    modes = ["values", "updates", "messages", "custom", "debug"]
    seen: list[Any] = []
    with pytest.raises((SecretLeakError, ConnectionError)) as caught:
        seen.extend(agent.stream(asked("use search"), config, stream_mode=modes))
    with pytest.raises((SecretLeakError, ConnectionError)):
        seen.extend([each async for each in agent.astream_events(asked("use search"), config)])
    assert isinstance(caught.value, ConnectionError) is (door == "an exception")
    left = [seen, tracer.seen, store.search(("a",)), store.list_namespaces(), str(caught.value)]
    assert OTHER not in repr(left)


def test_one_credential_may_serve_two_models(stored: Pipelit, chat: ChatServer) -> None:
    """A fallback to another model under the same key is one agent's."""
    options: Any = {"credential": "openai", "model_options": {"max_retries": 0}}
    second = CredentialMiddleware(stored.credentials, model="openai:second", **options)
    first = CredentialMiddleware(stored.credentials, model="openai:first", **options)
    agent = create_agent(
        first.model, [], middleware=[ModelFallbackMiddleware(second.model), first, second]
    )
    assert agent.invoke(asked("hi"))["messages"][-1].text == "hello from the model"
    assert chat.requests[0]["model"] == "first"


def test_a_value_from_the_model_is_on_record(stored: Pipelit) -> None:
    """Who was refused for sending a value for a secret's parameter stands in the audit."""
    secured = CredentialMiddleware(
        stored.credentials, tools={"search": {"api_key": "serper"}}, agent=None
    )
    call = {"name": "search", "args": {"query": "x", "api_key": "mine"}, "id": "1"}
    request: Any = ToolCallRequest(call, search, {}, None)  # type: ignore[arg-type]
    with pytest.raises(CredentialScopeError):
        secured.wrap_tool_call(request, lambda _: None)
    entry = stored.audit.list(limit=1)[0]
    assert (entry.subject, entry.outcome, entry.reason) == ("serper", "refused", "value passed")


def test_a_tool_that_takes_plain_text_is_refused(stored: Pipelit) -> None:
    """A secret goes into a SecretStr: as text it would be validated, and shown to the model."""

    @tool
    def search(query: str, api_key: Annotated[str, InjectedToolArg]) -> str:
        """Searches the web."""
        return "never"

    with pytest.raises(CredentialError, match="Annotated\\[SecretStr, InjectedToolArg\\]"):
        agent_of(stored, (search,)).invoke(asked("use search"))


def test_a_credential_that_no_model_gets_is_warned_of(stored: Pipelit) -> None:
    """Beside a model of the caller's own the middleware's isn't called, and that is said."""
    secured = CredentialMiddleware(stored.credentials, model="openai:gpt-x", credential="openai")
    model = GenericFakeChatModel(messages=iter([AIMessage("hello")]))
    agent = create_agent(model, [], middleware=[secured])
    with pytest.warns(UnusedCredentialWarning, match=r"create_agent\(secured\.model"):
        agent.invoke({"messages": [("user", "hi")]})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "value", "missing"),
    [
        ("ollama:llama3", "sk-0123456789abcdef", "api_key"),
        ("ollama:llama3", {"token": "sk-0123456789abcdef"}, "token"),
        (MODEL, {"api_key": "sk-0123456789abcdef", "license": "lic-0123456789ab"}, "license"),
    ],
)
async def test_a_key_that_a_model_ignores_is_said(
    stored: Pipelit, model: str, value: Any, missing: str
) -> None:
    """A secret that the model's class doesn't know would be opened and never sent."""
    stored.credentials.put("other", value, kind="llm", created_by="alice")
    secured = CredentialMiddleware(stored.credentials, model=model, credential="other")
    agent = create_agent(secured.model, [], middleware=[secured])
    with pytest.raises(CredentialError, match=f"Chat.* has no parameter '{missing}'"):
        agent.invoke(asked("hi"))
    with pytest.raises(CredentialError, match="never sent"):
        await agent.ainvoke(asked("hi"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "taken"), [("api_key", True), ("openai_api_key", True), ("organisation", False)]
)
def test_a_models_parameters_are_known_by_name_and_alias(name: str, taken: bool) -> None:
    """A field's own name, its alias, and what a model renames on the way in count as taken."""
    from langchain_ollama import ChatOllama
    from langchain_openai import ChatOpenAI

    secret = Secret("sk-0123456789abcdef")
    built = ChatOpenAI(model="gpt-test", api_key="sk-other-0123456789")
    assert takes(built, name, secret) is taken
    renamed = ChatOpenAI(model="gpt-test", api_key=secret)
    assert takes(renamed, "organisation", secret)
    header = {"Authorization": f"Bearer {secret.get_secret_value()}"}
    sent = ChatOllama(model="llama3", client_kwargs={"headers": header})
    assert takes(sent, "api_key", secret)
    assert not takes(ChatOllama(model="llama3"), "api_key", secret)


@pytest.mark.parametrize("library", ["httpx", "httpx2"])
async def test_openais_clients_take_a_header_of_ours(
    stored: Pipelit, chat: ChatServer, library: str
) -> None:
    """``http_auth`` fills the header of a client that was made with another key."""
    import openai

    module: Any = importlib.import_module(library)
    auth = stored.credentials.http_auth("openai")
    message: Any = {"role": "user", "content": "hi"}
    with module.Client(auth=auth) as http:
        made = openai.OpenAI(http_client=http, api_key="none", base_url=chat.base_url)
        said = made.chat.completions.create(model="x", messages=[message])
    async with module.AsyncClient(auth=auth) as http:
        amade = openai.AsyncOpenAI(http_client=http, api_key="none", base_url=chat.base_url)
        asaid = await amade.chat.completions.create(model="x", messages=[message])
    assert {each.choices[0].message.content for each in (said, asaid)} == {"hello from the model"}
    assert chat.shown == [CANARY, CANARY]
