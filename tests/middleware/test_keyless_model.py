"""``secured.model`` wherever a node or a tool calls a model by itself."""

from __future__ import annotations

import asyncio
import copy
import gc
import inspect
import pickle
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any, TypedDict, cast

import pytest
import requests
from canary import KEY as CANARY
from canary import Tracer, count
from deepagents import create_deep_agent
from internals import agenerated, astreamed, generated, streamed, type_and_tracing
from langchain.agents import create_agent
from langchain.agents.middleware import (
    LLMToolSelectorMiddleware,
    ModelFallbackMiddleware,
    SummarizationMiddleware,
)
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.prompt_values import StringPromptValue
from langchain_core.runnables import ConfigurableField, RunnableConfig
from langchain_core.tools import tool
from langchain_core.tracers.context import collect_runs
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph_supervisor import create_supervisor
from langsmith import Client, tracing_context
from langsmith import utils as langsmith_utils
from openai_server import ChatServer
from pydantic import BaseModel, SecretStr
from requests.adapters import BaseAdapter
from secured import MODEL, chat, served, stored

from pipelit_agents import Agent, Pipelit
from pipelit_agents.errors import (
    ConfigurationError,
    CredentialNotAllowed,
    CredentialScopeError,
    SecretLeakError,
    UnusedCredentialWarning,
)
from pipelit_agents.middleware import CredentialMiddleware, model_source

__all__ = ["chat", "served", "stored"]
HELLO = "hello from the model"
SECOND = "sk-second-0123456789"


@tool
def search(query: str) -> str:
    """Searches the web."""
    return query


@tool
def look_up(query: str) -> str:
    """Looks into a book."""
    return query


class Size(BaseModel):
    """A size."""

    metres: int


def secured_by(stored: Pipelit, model: str = MODEL, **more: Any) -> CredentialMiddleware:
    """A middleware for a model, whose key is that of the test server."""
    options = {"credential": "openai", "model_options": {"max_retries": 0}, **more}
    return CredentialMiddleware(stored.credentials, model=model, **options)


def asked(*texts: str) -> Any:
    """A conversation, whose last message is the user's."""
    roles = ["user", "assistant"] * len(texts)
    kinds = roles[: len(texts)] if len(texts) % 2 else roles[1 : len(texts) + 1]
    return {
        "messages": [
            {"role": role, "content": text} for role, text in zip(kinds, texts, strict=True)
        ]
    }


def openings(stored: Pipelit) -> list[Any]:
    """What the audit says of credentials that were opened."""
    return [each for each in stored.audit.list() if each.action == "credential.reveal"]


class State(TypedDict, total=False):
    said: Any


def in_a_node(call: Callable[..., Any], *, config: Any = None, saver: Any = None) -> Any:
    """What a call returns in a running node."""

    def node(state: State, config: RunnableConfig) -> State:
        return {"said": call(config)}

    return _around(node, saver).invoke({}, config).get("said")


async def in_an_async_node(call: Callable[..., Any], *, config: Any = None) -> Any:
    """As `in_a_node`."""

    async def node(state: State, config: RunnableConfig) -> State:
        return {"said": await call(config)}

    return (await _around(node, None).ainvoke({}, config)).get("said")


def _around(node: Any, saver: Any) -> Any:
    graph = StateGraph(State)
    graph.add_node("call", node)
    graph.add_edge(START, "call")
    graph.add_edge("call", END)
    return graph.compile(saver)


def summarizing(secured: CredentialMiddleware) -> tuple[Any, Any]:
    """An agent that summarizes a long conversation."""
    summary = SummarizationMiddleware(
        model=secured.model, trigger=("messages", 3), keep=("messages", 1)
    )
    return create_agent(secured.model, [], middleware=[summary, secured]), asked(*"abcde")


def selecting(secured: CredentialMiddleware) -> tuple[Any, Any]:
    """An agent that lets a model choose among its tools."""
    selector = LLMToolSelectorMiddleware(model=secured.model, max_tools=1)
    agent = create_agent(secured.model, [search, look_up], middleware=[selector, secured])
    return agent, asked("hi")


def a_deep_conversation(secured: CredentialMiddleware) -> tuple[Any, Any]:
    """A deep agent whose conversation is too long."""
    agent = create_deep_agent(model=secured.model, middleware=[secured])
    return agent, asked(*["word " * 2000] * 13)


def a_deep_sub_agent(name: str) -> Callable[[CredentialMiddleware], tuple[Any, Any]]:
    """A deep agent that delegates to one of its sub-agents."""

    def made(secured: CredentialMiddleware) -> tuple[Any, Any]:
        helper: Any = {"name": "helper", "description": "helps", "system_prompt": "Help."}
        agent = create_deep_agent(model=secured.model, middleware=[secured], subagents=[helper])
        arguments = f'{{"description": "say hi", "subagent_type": "{name}"}}'
        return agent, asked(f"call task {arguments}")

    return made


def supervising(secured: CredentialMiddleware) -> tuple[Any, Any]:
    """A supervisor and its worker."""
    worker = create_agent(secured.model, [], middleware=[secured], name="worker")
    graph = create_supervisor([worker], model=secured.model, prompt="Delegate.")
    return graph.compile(), asked("call transfer_to_worker {}")


def remembering(secured: CredentialMiddleware) -> tuple[Any, Any]:
    """As langmem's managers do it: tools are bound when it is built, and again where it runs."""
    bound: Any = secured.model.bind_tools([look_up], tool_choice="look_up")

    def node(state: MessagesState) -> MessagesState:
        first = bound.invoke(state["messages"])
        return {"messages": [first, bound.bound.bind_tools([search]).invoke("hi")]}

    return StateGraph(MessagesState).add_node(node).add_edge(START, "node").compile(), asked("hi")


CONSUMERS: dict[str, tuple[Callable[[CredentialMiddleware], tuple[Any, Any]], int]] = {
    "summarization": (summarizing, 2),
    "tool-selection": (selecting, 2),
    "deepagents-long-conversation": (a_deep_conversation, 2),
    "deepagents-general-purpose": (a_deep_sub_agent("general-purpose"), 3),
    "deepagents-declared-sub-agent": (a_deep_sub_agent("helper"), 3),
    "supervisor": (supervising, 3),
    "memory-manager": (remembering, 2),
    "agent-without-the-middleware": (lambda secured: (create_agent(secured.model), asked("hi")), 1),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:create_react_agent")
@pytest.mark.parametrize("consumer", CONSUMERS)
async def test_what_calls_a_model_by_itself_gets_the_key(
    stored: Pipelit, chat: ChatServer, writer: Agent, consumer: str
) -> None:
    """Each call opens the key once, on record with the agent, and none of it is left behind."""
    build, calls = CONSUMERS[consumer]
    options = {"max_retries": 0, "profile": {"max_input_tokens": 20_000}}
    agent, given = build(secured_by(stored, agent=writer, model_options=options))
    tracer = Tracer()
    config: Any = {"callbacks": [tracer]}
    result = agent.invoke(given, config)
    chunks = [each async for each in agent.astream(given, config, stream_mode=["values", "debug"])]
    said = result["messages"][-1].text
    assert HELLO in said or "transferred back" in said
    assert chat.shown == [CANARY] * 2 * calls
    rows = openings(stored)
    assert {(row.actor, row.outcome, bool(row.node)) for row in rows} == {
        ("agent_writer", "ok", True)
    }
    assert len(rows) == 2 * calls
    assert count(tracer.seen, chunks, result) == 0


CALLS: dict[str, Callable[[Any, RunnableConfig], Any]] = {
    "invoke": lambda model, config: model.invoke("hi").text,
    "invoke-with-config": lambda model, config: model.invoke("hi", config).text,
    "stream": lambda model, config: "".join(each.text for each in model.stream("hi", config)),
    "batch": lambda model, config: model.batch(["hi", "hi"])[1].text,
    "generate": lambda model, config: model.generate([[HumanMessage("hi")]]).generations[0][0].text,
    "bound-tools": lambda model, config: model.bind_tools([search]).invoke("hi", config).text,
    "bound-stop": lambda model, config: model.bind(stop=["x"]).invoke("hi").text,
    "retry": lambda model, config: model.with_retry().invoke("hi").text,
    "chain": lambda model, config: (model | (lambda said: said.text)).invoke("hi", config),
}


@pytest.mark.parametrize("call", CALLS)
def test_each_way_of_calling_works(stored: Pipelit, chat: ChatServer, call: str) -> None:
    """Whatever a chat model has, the model without a key has in a node; traces hold no key."""
    tracer = Tracer()
    model = secured_by(stored).model
    said = in_a_node(lambda config: CALLS[call](model, config), config={"callbacks": [tracer]})
    assert said.strip() == HELLO
    assert set(chat.shown) == {CANARY}
    assert len(openings(stored)) == len(chat.shown)
    assert tracer.seen
    assert count(tracer.seen) == 0


ASYNC_CALLS: dict[str, Callable[[Any, RunnableConfig], Any]] = {
    "ainvoke": lambda model, config: _text(model.ainvoke("hi", config)),
    "astream": lambda model, config: _joined(model.astream("hi")),
    "abatch": lambda model, config: _text(model.abatch(["hi", "hi"])),
    "agenerate": lambda model, config: _text(model.agenerate([[HumanMessage("hi")]])),
    "structured": lambda model, config: _text(
        model.with_structured_output(Size, include_raw=True).ainvoke('{"metres": 7}', config)
    ),
    "events": lambda model, config: _joined(model.astream_events("hi", config)),
}


async def _text(awaited: Any) -> str:
    found = await awaited
    if isinstance(found, dict):
        assert found["parsed"] == Size(metres=7)
        return HELLO
    if hasattr(found, "generations"):
        return str(found.generations[0][0].text)
    return str((found[0] if isinstance(found, list) else found).text)


async def _joined(pieces: Any) -> str:
    found = [each async for each in pieces]
    if isinstance(found[0], dict):
        chunks = [each["data"]["chunk"] for each in found if each["event"].endswith("_stream")]
        return "".join(each.text for each in chunks)
    return "".join(each.text for each in found)


@pytest.mark.parametrize("call", ASYNC_CALLS)
async def test_each_async_way_of_calling_works(
    stored: Pipelit, chat: ChatServer, call: str
) -> None:
    """As the sync ones; the credential is opened off the event loop."""
    tracer = Tracer()
    model = secured_by(stored).model
    config: Any = {"callbacks": [tracer]}
    said = await in_an_async_node(lambda config: ASYNC_CALLS[call](model, config), config=config)
    assert said.strip() == HELLO
    assert set(chat.shown) == {CANARY}
    assert len(openings(stored)) == len(chat.shown)
    assert count(tracer.seen) == 0


@pytest.mark.filterwarnings("ignore:.*in beta")
async def test_what_reads_below_invoke_gets_the_key_too(stored: Pipelit) -> None:
    """The methods that LangChain's own machinery calls, and its events by content block, work."""
    model: Any = secured_by(stored).model.bind_tools([search])
    own = model.bound
    said = in_a_node(lambda _: str(model.stream_events("hi", version="v3").text))
    assert said.strip() == HELLO
    assert in_a_node(lambda _: generated(own, "hi").generations[0].text) == HELLO

    async def agenerate(_: Any) -> str:
        return str((await agenerated(own, "hi")).generations[0].text)

    assert await in_an_async_node(agenerate) == HELLO

    async def astream(_: Any) -> str:
        return "".join([each.text async for each in astreamed(own, "hi")])

    assert (await in_an_async_node(astream)).strip() == HELLO


OUTSIDE: dict[str, Callable[[Any], Any]] = {
    "invoke": lambda model: model.invoke("hi"),
    "stream": lambda model: list(model.stream("hi")),
    "batch": lambda model: model.batch(["hi"]),
    "bound": lambda model: model.bind_tools([search]).invoke("hi"),
    "structured": lambda model: model.with_structured_output(Size).invoke("hi"),
    "tokens": lambda model: model.get_num_tokens_from_messages([HumanMessage("hi")]),
}


@pytest.mark.parametrize("call", OUTSIDE)
def test_outside_of_a_node_it_is_refused(stored: Pipelit, chat: ChatServer, call: str) -> None:
    """Nothing is opened or sent where nothing runs, and the refusal is on record."""
    with pytest.raises(CredentialScopeError, match="inside a running node or tool"):
        OUTSIDE[call](secured_by(stored).model)
    (row,) = openings(stored)
    assert (row.outcome, row.reason) == ("refused", "outside a node")
    assert chat.shown == []


async def test_outside_of_a_node_it_is_refused_asynchronously(stored: Pipelit) -> None:
    """As the sync calls, with the refusal on record."""
    with pytest.raises(CredentialScopeError, match="inside a running node or tool"):
        await secured_by(stored).model.ainvoke("hi")
    with pytest.raises(CredentialScopeError, match="inside a running node or tool"):
        await anext(secured_by(stored).model.astream("hi"))
    assert [(row.outcome, row.reason) for row in openings(stored)] == [
        ("refused", "outside a node")
    ] * 2


def test_a_stream_that_outlives_its_node_is_refused(stored: Pipelit) -> None:
    """The key of a stream that somebody keeps is of no more use when its node has ended."""
    kept: list[Any] = []

    def call(_: Any) -> None:
        kept.append(secured_by(stored).model.stream("hi"))
        next(kept[0])

    in_a_node(call)
    with pytest.raises(CredentialScopeError, match="inside a running node or tool"):
        next(kept[0])
    assert list(kept[0]) == []


def test_who_may_not_open_it_is_refused(stored: Pipelit, chat: ChatServer, editor: Agent) -> None:
    """The model opens its key as the agent of its middleware, in any node."""
    stored.credentials.put("openai", CANARY, kind="llm", created_by="alice", allow=["agent_writer"])
    model = secured_by(stored, agent=editor).model
    with pytest.raises(CredentialNotAllowed):
        in_a_node(lambda _: model.invoke("hi"))
    assert chat.shown == []


def test_no_model_with_a_key_is_alive_after_a_call(
    stored: Pipelit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither what was bound before, nor streams and errors, keep the model that had the key."""
    from langchain_openai import ChatOpenAI

    alive: list[weakref.ref[Any]] = []
    real = ChatOpenAI.model_post_init

    def watched(self: Any, *args: Any) -> None:
        real(self, *args)
        alive.append(weakref.ref(self))

    monkeypatch.setattr(ChatOpenAI, "model_post_init", watched)
    model = secured_by(stored).model
    kept = [
        model,
        model.bind_tools([search]),
        model.with_structured_output(Size),
        model.with_retry(),
    ]

    def call(_: Any) -> None:
        for each in cast(list[Any], kept):
            each.invoke('{"metres": 7}')
        list(model.stream("hi"))

    in_a_node(call)
    gc.collect()
    assert len(alive) >= 5
    assert [each() for each in alive] == [None] * len(alive)


class Echoing(BaseChatModel):
    """Says its key, in small pieces if it is read in pieces."""

    api_key: SecretStr

    @property
    def _llm_type(self) -> str:
        return "echoing"

    def _said(self) -> str:
        return f"you sent {self.api_key.get_secret_value()}, thank you"

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage(self._said()))])

    def _stream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        said = self._said()
        for place in range(0, len(said), 3):
            piece = said[place : place + 3]
            if run_manager is not None:
                run_manager.on_llm_new_token(piece)
            yield ChatGenerationChunk(message=AIMessageChunk(piece))


ECHOES: dict[str, Callable[[Any, list[Any], RunnableConfig], Any]] = {
    "invoke": lambda model, seen, config: seen.append(model.invoke("hi")),
    "config": lambda model, seen, config: seen.append(model.invoke("hi", config)),
    "bound": lambda model, seen, config: seen.append(model.bind(stop=["x"]).invoke("hi")),
    "generate": lambda model, seen, config: seen.append(model.generate([[HumanMessage("hi")]])),
    "callbacks": lambda model, seen, config: seen.append(
        model.generate([[HumanMessage("hi")]], None, config["callbacks"].handlers)
    ),
    "stream": lambda model, seen, config: seen.extend(
        each.text for each in model.stream("hi", config)
    ),
    "below-stream": lambda model, seen, config: seen.extend(
        each.text for each in streamed(model, "hi")
    ),
}


@pytest.mark.parametrize("call", ECHOES)
def test_a_model_that_echoes_its_key_is_refused(
    stored: Pipelit, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """The answer is refused, and of one in pieces nobody gets more than the key's beginning."""
    monkeypatch.setattr(model_source, "init_chat_model", lambda _, **found: Echoing(**found))
    model, seen, tracer = secured_by(stored).model, cast(list[Any], []), Tracer()
    with pytest.raises(SecretLeakError):
        in_a_node(lambda config: ECHOES[call](model, seen, config), config={"callbacks": [tracer]})
    assert count(seen, tracer.seen) == 0
    assert CANARY[:12] not in "".join(map(str, [*seen, *tracer.seen]))


class Ends(BaseCallbackHandler):
    """Keeps what the ends of model runs are announced with."""

    def __init__(self) -> None:
        self.seen: list[object] = []
        self.errors = 0

    def on_llm_end(self, response: object, **kwargs: Any) -> None:
        """Keeps an answer."""
        self.seen.append((response, kwargs))

    def on_llm_error(self, error: BaseException, **kwargs: Any) -> None:
        """Keeps an error and its details."""
        self.errors += 1
        self.seen.append((error, kwargs))


REFUSED: dict[str, Callable[[Any], Any]] = {
    "invoke": lambda model: model.invoke("hi"),
    "stream": lambda model: list(model.stream("hi")),
    "structured": lambda model: model.with_structured_output(Size).invoke("hi"),
}


@pytest.mark.parametrize("call", REFUSED)
def test_what_a_provider_says_to_a_refused_key_reaches_no_callback(
    stored: Pipelit, chat: ChatServer, call: str
) -> None:
    """LangChain gives the body and the headers of the answer to callbacks, beside the error."""
    from openai import AuthenticationError

    chat.keys = set()
    ends, model = Ends(), secured_by(stored).model
    with collect_runs() as collected, pytest.raises(AuthenticationError):
        in_a_node(lambda _: REFUSED[call](model), config={"callbacks": [ends]})
    assert ends.errors == 1
    assert count(repr(ends.seen), *(str(each.model_dump()) for each in collected.traced_runs)) == 0


@pytest.mark.slow
async def test_what_a_provider_says_reaches_no_callback_asynchronously(
    stored: Pipelit, chat: ChatServer
) -> None:
    """As the sync calls, also of a node with the key that builds its model by itself."""
    from langchain_openai import ChatOpenAI
    from openai import AuthenticationError

    chat.keys = set()
    ends, model = Ends(), secured_by(stored).model

    @stored.credentials.inject(key="openai")
    async def own(_: object, *, key: SecretStr) -> None:
        await ChatOpenAI(base_url=chat.base_url, api_key=key, max_retries=0).ainvoke("hi")

    for each in (lambda _: model.ainvoke("hi"), own):
        with pytest.raises(AuthenticationError):
            await in_an_async_node(each, config={"callbacks": [ends]})
    assert ends.errors == 2
    assert count(repr(ends.seen)) == 0


def test_a_cache_keeps_no_answer_of_a_secured_model(stored: Pipelit, chat: ChatServer) -> None:
    """LangChain's cache would keep an echoed key, and give it out when the key is closed."""
    chat.answer = lambda _: f"you sent {CANARY}"
    model, cache = secured_by(stored).model, InMemoryCache()
    set_llm_cache(cache)
    try:
        with pytest.raises(SecretLeakError):
            in_a_node(lambda _: model.invoke("hi"))
    finally:
        set_llm_cache(None)
    assert vars(cache)["_cache"] == {}


@pytest.mark.parametrize(
    ("public", "message"),
    [
        ({"configurable_fields": "any"}, "configurable_fields can't be a public field"),
        ({"config_prefix": "a"}, "config_prefix can't be a public field"),
        ({"cache": True}, "cache can't be a public field"),
        ({"base_url": "http://models.example/v1"}, "base_url: http:// would send"),
    ],
    ids=["fields", "prefix", "cache", "unencrypted"],
)
def test_settings_that_would_give_the_key_to_others_are_refused(
    stored: Pipelit, public: Any, message: str
) -> None:
    """They are named before the model is built, as a public field and as an option."""
    stored.credentials.put("other", CANARY, kind="llm", created_by="alice", public=public)
    for options in ({"credential": "other"}, {"model_options": public}):
        model = secured_by(stored, **options).model
        with pytest.raises(ConfigurationError, match=message):
            in_a_node(lambda _, each=model: each.invoke("hi"))


ALONE: dict[str, Callable[[Any], Any]] = {
    "generate": lambda model: model.generate([[HumanMessage("hi")]]),
    "generate-stop": lambda model: model.generate([[HumanMessage("hi")]], ["x"], None),
    "generate_prompt": lambda model: model.generate_prompt([StringPromptValue(text="hi")]),
    "agenerate": lambda model: asyncio.run(model.agenerate([[HumanMessage("hi")]])),
    "invoke": lambda model: model.invoke("hi"),
}


class Posted(BaseAdapter):
    """Keeps what the client of LangSmith posts."""

    def __init__(self) -> None:
        super().__init__()
        self.bodies: list[bytes] = []

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        """Keeps a body, and says that it was accepted."""
        self.bodies.append(cast(bytes, request.body or b""))
        answer = requests.Response()
        answer.status_code, answer.request, answer.url = 202, request, str(request.url)
        return answer

    def close(self) -> None:
        """Closes nothing."""


@pytest.fixture
def langsmith(monkeypatch: pytest.MonkeyPatch) -> Iterator[Posted]:
    """LangSmith's tracing, which the environment turns on, without the network."""
    monkeypatch.setenv("LANGSMITH_TRACING", "true")
    langsmith_utils.get_env_var.cache_clear()
    posted, session = Posted(), requests.Session()
    client = Client("http://127.0.0.1:9", api_key="x", auto_batch_tracing=False, session=session)
    # After the client, which mounts an adapter of its own.
    session.mount("http://", posted)
    with tracing_context(client=client):
        yield posted
    monkeypatch.undo()
    langsmith_utils.get_env_var.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize("refused", [False, True], ids=["echoed", "refused"])
@pytest.mark.parametrize("call", ALONE)
def test_tracers_of_the_process_get_no_key(
    stored: Pipelit, chat: ChatServer, langsmith: Posted, call: str, refused: bool
) -> None:
    """LangChain adds them to a call without callbacks too: LangSmith's, and that of collect_runs.

    The provider repeats the key in its answer, or in its error.
    """
    from openai import AuthenticationError

    chat.answer, chat.keys = lambda _: f"you sent {CANARY}", set() if refused else {CANARY}
    model, runs = secured_by(stored).model, cast(list[Any], [])

    def asked_for(_: Any) -> None:
        with collect_runs() as collected:
            try:
                ALONE[call](model)
            finally:
                runs.extend(str(each.model_dump()) for each in collected.traced_runs)

    with pytest.raises(AuthenticationError if refused else SecretLeakError):
        in_a_node(asked_for)
    assert len(langsmith.bodies) > 1
    assert count(runs, *langsmith.bodies) == 0


class Tokens(BaseCallbackHandler):
    """Puts together what it is told."""

    def __init__(self) -> None:
        self.said = ""

    def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
        """Keeps a token."""
        self.said += str(token)


@pytest.mark.filterwarnings("ignore:.*in beta")
def test_tokens_of_a_run_that_langchain_began_are_searched(
    stored: Pipelit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LangChain's events by content block start the run themselves, with handlers of the caller."""
    monkeypatch.setattr(model_source, "init_chat_model", lambda _, **found: Echoing(**found))
    model: Any = secured_by(stored).model
    tokens = Tokens()

    def call(config: RunnableConfig) -> str:
        return str(model.stream_events("hi", {"callbacks": [tokens]}, version="v3").text)

    with pytest.raises(SecretLeakError):
        in_a_node(call)
    assert tokens.said.startswith("you sent ")
    assert CANARY[:12] not in tokens.said


@pytest.mark.slow
async def test_a_model_that_echoes_its_key_asynchronously_is_refused(
    stored: Pipelit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the sync calls, also for a graph's stream of messages."""
    monkeypatch.setattr(model_source, "init_chat_model", lambda _, **found: Echoing(**found))
    model, seen = secured_by(stored).model, cast(list[Any], [])

    async def streamed(_: Any) -> None:
        async for each in model.astream("hi"):
            seen.append(each.text)

    async def asked_for(_: Any) -> None:
        await model.ainvoke("hi")

    for call in (streamed, asked_for):
        with pytest.raises(SecretLeakError):
            await in_an_async_node(call)
    chunks = create_agent(model, []).astream(asked("hi"), stream_mode="messages")
    with pytest.raises(SecretLeakError):
        seen.extend([chunk.text async for chunk, _ in chunks])
    assert CANARY[:12] not in "".join(seen)


def test_copies_hold_no_key_and_no_database(stored: Pipelit) -> None:
    """Pickled or checkpointed, only the model's name is kept; copies in memory work."""
    model = secured_by(stored).model
    loaded = pickle.loads(pickle.dumps(model))  # noqa: S301 - its own
    assert loaded.model_name == "gpt-test"
    with pytest.raises(CredentialScopeError, match="no credential"):
        in_a_node(lambda _: loaded.invoke("hi"))
    saver = InMemorySaver()
    config: Any = {"configurable": {"thread_id": "1"}}
    in_a_node(lambda _: model, config=config, saver=saver)
    assert count(saver.storage, saver.blobs, repr(model), model.model_dump()) == 0
    assert in_a_node(lambda _: copy.deepcopy(model).invoke("hi").text) == HELLO
    secured = secured_by(stored)
    agent = create_agent(secured.model.model_copy(), [], middleware=[secured])
    assert agent.invoke(asked("hi"))["messages"][-1].text == HELLO


def test_a_caller_cannot_choose_where_the_key_is_sent(stored: Pipelit, chat: ChatServer) -> None:
    """Fields of the model can't be configured; between secured models a caller may choose."""
    model = secured_by(stored).model
    with pytest.raises(TypeError, match="configurable_alternatives"):
        model.configurable_fields(model_name=ConfigurableField("m"))
    either = model.configurable_alternatives(
        ConfigurableField("which"), other=secured_by(stored, "openai:other").model
    )
    config: Any = {"configurable": {"which": "other"}}
    in_a_node(lambda config: either.invoke("hi", config).text, config=config)
    assert chat.requests[-1]["model"] == "other"


def test_it_says_of_itself_what_the_real_model_says(stored: Pipelit) -> None:
    """What LangChain and its neighbours ask of a model is known without its key."""
    from langchain_openai import ChatOpenAI

    options = {"max_tokens": 100, "temperature": 0.5}
    model: Any = secured_by(stored, "openai:gpt-5", model_options=options).model
    real: Any = ChatOpenAI(model="gpt-5", api_key=SecretStr("x"), **options)
    assert model.profile == real.profile
    assert model.profile["structured_output"]
    for read in (
        type_and_tracing,
        lambda each: each.model_name,
        lambda each: each.max_tokens,
        lambda each: inspect.signature(each.bind_tools),
    ):
        assert read(model) == read(real)
    unknown: Any = CredentialMiddleware(stored.credentials, credential="openai").model
    assert (unknown.profile, unknown.model_name) == (None, "")
    assert not openings(stored)


@pytest.mark.parametrize("beside", [True, False], ids=["middleware", "model-alone"])
@pytest.mark.parametrize("model", ["openai:gpt-5", "openai:gpt-3.5-turbo"])
def test_structured_output_is_chosen_as_for_the_real_model(
    stored: Pipelit, chat: ChatServer, model: str, beside: bool
) -> None:
    """A schema goes to the provider where the model takes one, else it becomes a tool."""
    secured = secured_by(stored, model)
    chat.answer = lambda messages: (
        '{"metres": 7}' if model.endswith("5") else [("Size", {"metres": 7})]
    )
    agent = create_agent(
        secured.model, [], response_format=Size, middleware=[secured] if beside else []
    )
    assert agent.invoke(asked("hi"))["structured_response"] == Size(metres=7)
    assert ("response_format" in chat.requests[0]) is model.endswith("5")


@pytest.mark.slow
@pytest.mark.parametrize("order", ["fab", "afb", "abf", "fba", "bfa", "baf", "f"])
async def test_fallbacks_work_in_any_order_without_a_warning(
    stored: Pipelit, chat: ChatServer, order: str
) -> None:
    """The second model gets its own key wherever the middleware for fallbacks is."""
    public = {"base_url": chat.base_url}
    stored.credentials.put("second", SECOND, kind="llm", created_by="alice", public=public)
    chat.keys = {SECOND}
    first = secured_by(stored)
    second = secured_by(stored, "openai:other", credential="second")
    parts = {"f": ModelFallbackMiddleware(second.model), "a": first, "b": second}
    agent = create_agent(first.model, [], middleware=[parts[each] for each in order])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnusedCredentialWarning)
        assert agent.invoke(asked("hi"))["messages"][-1].text == HELLO
        assert (await agent.ainvoke(asked("hi")))["messages"][-1].text == HELLO
    assert chat.shown == [CANARY, SECOND] * 2


@pytest.mark.parametrize("order", ["fabc", "cfab", "acfb", "c"])
def test_a_credential_that_no_model_gets_is_warned_of_beside_fallbacks(
    stored: Pipelit, order: str
) -> None:
    """A model that nobody took can't be called, wherever its middleware is."""
    first, second, idle = (secured_by(stored, f"openai:{each}") for each in "abc")
    parts = {"f": ModelFallbackMiddleware(second.model), "a": first, "b": second, "c": idle}
    agent = create_agent(first.model, [], middleware=[parts[each] for each in order])
    with pytest.warns(UnusedCredentialWarning, match=r"create_agent\(secured\.model") as warned:
        agent.invoke(asked("hi"))
    assert len(warned) == 1
