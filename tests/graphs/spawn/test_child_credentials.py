"""What a child may open: what its spawn, its task and its parent's own task let it, and no more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from typing import Any

import httpx
import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ContextThreadPoolExecutor
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, RetryPolicy, interrupt
from pydantic import SecretStr
from spawning import NAME, THREAD, Lead, Work, graph_of, parent_of
from test_tools import Scripted, calls
from typing_extensions import TypedDict

from pipelit_agents import Agent, Pipelit
from pipelit_agents.credentials.limits import limited_to
from pipelit_agents.errors import CredentialError, CredentialNotAllowed, SpawnError
from pipelit_agents.graphs import (
    VerifiedChild,
    remote_child,
    spawn_and_await,
    verified_agent,
    verified_child,
)
from pipelit_agents.middleware import CredentialMiddleware, SpawnMiddleware
from pipelit_agents.tools import SpawnAndAwait

BACKENDS = False
GRANDCHILD = "agent_reader"
ONLY_GITHUB = {"github": "opened", "search": "refused", "database:user": "refused"}
ONLY_SEARCH = {"github": "refused", "search": "opened", "database:user": "refused"}
ONLY_USER = {"github": "refused", "search": "refused", "database:user": "opened"}
NOTHING = dict.fromkeys(ONLY_GITHUB, "refused")
ALL = dict.fromkeys(ONLY_GITHUB, "opened")


@pytest.fixture
def vault(pipelit: Pipelit) -> Pipelit:
    """A Pipelit with three credentials and two children."""
    for each in (NAME, GRANDCHILD):
        pipelit.users.create_agent(each, owner="alice", purpose="reads")
    for name in ("github", "search"):
        pipelit.credentials.put(name, f"{name}-0123456789-abcdef", kind="http", created_by="alice")
    fields = {"user": "reader-0123456789", "password": "words-of-0123456789"}
    pipelit.credentials.put("database", fields, kind="database", created_by="alice")
    return pipelit


def opened(pipelit: Pipelit, reference: str) -> str:
    """Whether a credential opens here."""

    @pipelit.credentials.inject(key=reference)
    def use(*, key: SecretStr) -> str:
        return "opened" if key.get_secret_value() else ""

    try:
        return use()
    except CredentialNotAllowed:
        return "refused"


def opens(pipelit: Pipelit) -> dict[str, str]:
    """Which credentials open here."""
    return {each: opened(pipelit, each) for each in ONLY_GITHUB}


def child_of(pipelit: Pipelit, node: Callable[..., Any], name: str = NAME) -> VerifiedChild:
    """A child that runs a node."""
    return verified_child(graph_of(node), pipelit.agent(name))


def opener(pipelit: Pipelit, name: str = NAME) -> VerifiedChild:
    """A child that says what it can open."""
    return child_of(pipelit, lambda state: {"a": opens(pipelit)}, name)


def asking(agent: str = NAME, **more: Any) -> Any:
    """A parent's input with one task."""
    return {"tasks": [{"agent": agent, "input": {"q": "?"}, **more}]}


def said(state: Any, at: int = 0) -> Any:
    """What a child answered."""
    return state["results"][at]["output"]["a"]


@pytest.mark.parametrize(
    ("ceiling", "named", "expected"),
    [
        pytest.param(None, None, ALL, id="no-limit"),
        pytest.param(["github"], None, ONLY_GITHUB, id="ceiling"),
        pytest.param({NAME: None}, None, ALL, id="no-ceiling-of-the-child"),
        pytest.param(None, ["github"], ONLY_GITHUB, id="task"),
        pytest.param(["github"], ["github", "search"], ONLY_GITHUB, id="task-cannot-widen"),
        pytest.param(["github", "search"], ["github"], ONLY_GITHUB, id="task-narrows"),
        pytest.param([], None, NOTHING, id="no-credential"),
        pytest.param(["github"], [], NOTHING, id="task-without-credential"),
        pytest.param(["database:user"], ["database"], ONLY_USER, id="field"),
    ],
)
async def test_a_child_opens_what_spawn_and_task_both_name(
    vault: Pipelit, lead: Agent, ceiling: Any, named: Any, expected: dict[str, str]
) -> None:
    """Sync and async."""
    graph = parent_of(lead, {NAME: opener(vault)}, credentials=ceiling)
    asked = asking() if named is None else asking(credentials=named)
    assert said(await asyncio.to_thread(graph.invoke, asked)) == expected
    assert said(await graph.ainvoke(asked)) == expected


def test_a_refusal_names_what_the_task_may_open_and_is_on_record(
    vault: Pipelit, lead: Agent
) -> None:
    """The child learns the same of a credential that exists and of one that doesn't."""
    found = []

    def node(state: Work) -> Work:
        for name in ("search", "unknown"):
            with pytest.raises(CredentialNotAllowed) as refused:
                vault.credentials.inject(vault.agent(NAME), key=name)(lambda *, key: None)()
            found.append((refused.value.credential, str(refused.value)))
        return {"a": "done"}

    parent_of(lead, {NAME: child_of(vault, node)}, credentials=["github"]).invoke(asking())
    for name, text in found:
        assert text.startswith(f"credential {name!r}: this task may open only 'github'. If it")
    entries = [each for each in vault.audit.list() if each.action == "credential.reveal"]
    assert [(each.actor, each.subject, each.outcome, each.reason) for each in entries] == [
        (NAME, name, "refused", "not for this task") for name in ("search", "unknown")
    ]


def test_a_field_of_a_limit_does_not_open_the_others(vault: Pipelit, lead: Agent) -> None:
    """Also not by all fields at once, by the only one, or by another in its name."""
    auth = vault.credentials.http_auth("database", origins=["https://db.example"])
    request = httpx.Request("GET", "https://db.example")

    def node(state: Work) -> Work:
        with pytest.raises(CredentialNotAllowed):
            next(auth.sync_auth_flow(request))
        references = ("database", "database:password", "database:user:password", "database:user")
        return {"a": [opened(vault, each) for each in references]}

    graph = parent_of(lead, {NAME: child_of(vault, node)}, credentials=["database:user"])
    assert said(graph.invoke(asking())) == ["refused", "refused", "refused", "opened"]


@pytest.mark.parametrize("named", [["github", "search"], None], ids=["more-names", "no-names"])
async def test_a_grandchild_opens_no_more_than_its_parent(
    vault: Pipelit, lead: Agent, named: Any
) -> None:
    """Whatever tasks the child writes, for a spawn with whatever ceiling."""
    inner = parent_of(
        vault.agent(NAME), {GRANDCHILD: opener(vault, GRANDCHILD)}, credentials=["github", "search"]
    )

    def node(state: Work) -> Work:
        return {"a": said(inner.invoke(asking(GRANDCHILD, credentials=named)))}

    async def anode(state: Work) -> Work:
        return {"a": said(await inner.ainvoke(asking(GRANDCHILD, credentials=named)))}

    graph = parent_of(lead, {NAME: child_of(vault, node)}, credentials=["search", "database"])
    assert said(await asyncio.to_thread(graph.invoke, asking())) == ONLY_SEARCH
    graph = parent_of(lead, {NAME: child_of(vault, anode)})
    assert said(await graph.ainvoke(asking(credentials=["search"]))) == ONLY_SEARCH


async def test_threads_and_tasks_of_a_child_have_its_limit(vault: Pipelit, lead: Agent) -> None:
    """Those that Python, LangChain and LangGraph start with the caller's context."""

    @task
    def step() -> dict[str, str]:
        return opens(vault)

    @entrypoint()
    def program(given: Any) -> dict[str, str]:
        return step().result()

    async def node(state: Work) -> Work:
        with ContextThreadPoolExecutor() as pool, ThreadPoolExecutor() as bare:
            found = [
                *pool.map(opens, [vault]),
                bare.submit(copy_context().run, opens, vault).result(),
                await asyncio.to_thread(opens, vault),
                await asyncio.to_thread(program.invoke, {}),
                await asyncio.create_task(asyncio.to_thread(opens, vault)),
            ]
        return {"a": found}

    graph = parent_of(lead, {NAME: child_of(vault, node)}, credentials=["github"])
    assert said(await graph.ainvoke(asking())) == [ONLY_GITHUB] * 5


async def test_two_children_at_once_have_their_own_limits(vault: Pipelit, lead: Agent) -> None:
    """Also two tasks of one child."""
    waiting: list[asyncio.Event] = []

    async def node(state: Work) -> Work:
        before = await asyncio.to_thread(opens, vault)
        waiting.append(asyncio.Event())
        if len(waiting) == 3:
            for each in waiting:
                each.set()
        await waiting[-1].wait()
        return {"a": [before, await asyncio.to_thread(opens, vault)]}

    children = {each: child_of(vault, node, each) for each in (NAME, GRANDCHILD)}
    graph = parent_of(
        lead, children, credentials={NAME: ["github", "search"], GRANDCHILD: ["search"]}
    )
    asked = [
        *asking(credentials=["github"])["tasks"],
        *asking(credentials=["search"])["tasks"],
        *asking(GRANDCHILD)["tasks"],
    ]
    state = await graph.ainvoke({"tasks": asked})
    assert [said(state, each) for each in range(3)] == [
        [ONLY_GITHUB] * 2,
        [ONLY_SEARCH] * 2,
        [ONLY_SEARCH] * 2,
    ]


def test_a_limit_holds_for_its_block_and_narrows_within(vault: Pipelit) -> None:
    """In any code, also if the block raises. A copy of its context keeps it."""
    with suppress(ValueError), limited_to(frozenset({"github", "database"})):
        with limited_to(None, frozenset({"github", "search"})):
            assert opens(vault) == ONLY_GITHUB
            copied = copy_context()
        assert opens(vault) == ALL | {"search": "refused"}
        raise ValueError
    assert opens(vault) == ALL
    assert copied.run(opens, vault) == ONLY_GITHUB


@pytest.mark.parametrize("timeout", [None, 30], ids=["no-timeout", "timeout"])
def test_the_limit_ends_with_the_child(vault: Pipelit, lead: Agent, timeout: float | None) -> None:
    """Whether it answers or fails, its parent opens everything again."""

    def node(state: Work) -> Work:
        if state["q"] == "fail":
            raise ValueError
        return {"a": opens(vault)}

    spawn = spawn_and_await(
        lead, {NAME: child_of(vault, node)}, credentials=[], timeout=timeout, on_failure="collect"
    )

    def parent(state: Lead) -> Lead:
        found = [said(spawn.invoke(asking())), opens(vault)]
        spawn.invoke({"tasks": [{"agent": NAME, "input": {"q": "fail"}}]})
        return {"note": [*found, opens(vault)]}  # type: ignore[typeddict-item]

    graph = StateGraph(Lead).add_node("parent", parent).add_edge(START, "parent").compile()
    assert graph.invoke({})["note"] == [NOTHING, ALL, ALL]


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
async def test_a_resumed_child_has_its_limit_again(
    vault: Pipelit, lead: Agent, asynchronous: bool
) -> None:
    """In a new process, so from the record and the code alone; its own children too."""
    saver = InMemorySaver()

    def graph() -> Any:
        inner = spawn_and_await(vault.agent(NAME), {GRANDCHILD: asker()})
        nested = StateGraph(Lead).add_node("inner", inner).add_edge(START, "inner").compile()

        def node(state: Work) -> Work:
            found = nested.invoke(asking(GRANDCHILD, credentials=["search", "github"]))
            return {"a": [opens(vault), said(found)]}

        async def anode(state: Work) -> Work:
            found = await nested.ainvoke(asking(GRANDCHILD, credentials=["search", "github"]))
            return {"a": [await asyncio.to_thread(opens, vault), said(found)]}

        child = child_of(vault, anode if asynchronous else node)
        return parent_of(lead, {NAME: child}, saver, credentials=["github", "search"])

    def asker() -> VerifiedChild:
        return child_of(
            vault, lambda state: {"a": (interrupt("go on?"), opens(vault))[1]}, GRANDCHILD
        )

    asked = asking(credentials=["github"])
    if asynchronous:
        assert "__interrupt__" in await graph().ainvoke(asked, THREAD)
        state = await graph().ainvoke(Command(resume="yes"), THREAD)
    else:
        assert "__interrupt__" in await asyncio.to_thread(graph().invoke, asked, THREAD)
        state = await asyncio.to_thread(graph().invoke, Command(resume="yes"), THREAD)
    assert said(state) == [ONLY_GITHUB, ONLY_GITHUB]


def test_a_narrower_ceiling_counts_for_a_run_that_waits(vault: Pipelit, lead: Agent) -> None:
    """The spawn of the code that resumes decides, not that of the code that began."""
    saver = InMemorySaver()
    child = child_of(vault, lambda state: {"a": (interrupt("go on?"), opens(vault))[1]})
    parent_of(lead, {NAME: child}, saver).invoke(asking(), THREAD)
    later = parent_of(lead, {NAME: child}, saver, credentials=["search"])
    assert said(later.invoke(Command(resume="yes"), THREAD)) == ONLY_SEARCH


def test_a_retried_child_has_its_limit_again(vault: Pipelit, lead: Agent) -> None:
    """LangGraph runs the failed child once more."""
    tried = []

    def node(state: Work) -> Work:
        tried.append(opens(vault))
        if len(tried) < 2:
            raise ValueError
        return {"a": "done"}

    builder = StateGraph(Lead)
    spawn = spawn_and_await(lead, {NAME: child_of(vault, node)}, credentials=["github"])
    retry = RetryPolicy(initial_interval=0, max_attempts=2, jitter=False, retry_on=SpawnError)
    builder.add_node("delegate", spawn, retry_policy=retry).add_edge(START, "delegate")
    builder.compile(checkpointer=InMemorySaver()).invoke(asking(credentials=["github"]), THREAD)
    assert tried == [ONLY_GITHUB] * 2


def test_tasks_that_name_other_credentials_are_other_tasks(vault: Pipelit, lead: Agent) -> None:
    """A node that is run again and narrows its task doesn't get the answer of the wider one."""
    spawn = spawn_and_await(lead, {NAME: opener(vault)})
    named: list[Any] = [["github"], ["search"], None]

    def node(state: Lead) -> Lead:
        answer = said(spawn.invoke(asking(credentials=named.pop(0))))
        interrupt("again?")
        return {"note": answer}

    graph = StateGraph(Lead).add_node("node", node).add_edge(START, "node")
    compiled = graph.compile(checkpointer=InMemorySaver())
    compiled.invoke({}, THREAD)
    assert compiled.invoke(Command(resume="yes"), THREAD)["note"] == ONLY_SEARCH


def test_calls_with_other_credentials_keep_their_own_records(vault: Pipelit, lead: Agent) -> None:
    """A node that is run again may make them in another order, and no child works twice."""
    ran: list[dict[str, str]] = []

    def work(state: Work) -> Work:
        ran.append(opens(vault))
        return {"a": ran[-1]}

    spawn = spawn_and_await(lead, {NAME: child_of(vault, work)})
    orders = [["github", "search"], ["search", "github"]]

    def node(state: Lead) -> Lead:
        answers = {each: said(spawn.invoke(asking(credentials=[each]))) for each in orders.pop()}
        interrupt("again?")
        return {"note": answers}  # type: ignore[typeddict-item]

    graph = StateGraph(Lead).add_node("node", node).add_edge(START, "node")
    compiled = graph.compile(checkpointer=InMemorySaver())
    compiled.invoke({}, THREAD)
    state = compiled.invoke(Command(resume="yes"), THREAD)
    assert state["note"] == {"github": ONLY_GITHUB, "search": ONLY_SEARCH}
    assert ran == [ONLY_SEARCH, ONLY_GITHUB]


def test_a_waiting_run_is_not_resumed_for_other_credentials(vault: Pipelit, lead: Agent) -> None:
    """LangGraph would go on with the recorded tasks, because the run's id is the same."""
    child = child_of(vault, lambda state: {"a": (interrupt("go on?"), opens(vault))[1]})
    spawn = spawn_and_await(lead, {NAME: child})
    spawn.checkpointer = InMemorySaver()
    same: RunnableConfig = {**THREAD, "metadata": {"run_id": "r1"}}
    for named in (["github"], ["search"]):
        spawn.invoke(asking(credentials=named), same)
    assert said(spawn.invoke(Command(resume="yes"), same)) == ONLY_SEARCH


def test_malformed_credentials_of_a_task_are_a_failure_in_words(
    vault: Pipelit, lead: Agent
) -> None:
    """No child runs, and what may be a key isn't repeated."""
    graph = parent_of(lead, {NAME: opener(vault)}, on_failure="collect")
    for named, words in (
        ("github", "list of credentials' names, such as ['github']"),
        (7, "not int"),
        ({"github": True}, "not dict"),
        ([7], "as text, not int"),
        (["GitHub Token"], "must be the name of a stored credential"),
        (["sk-proj-Zx81Kd02Lq93Vb"], "may be a secret"),
        (["github"] * 101, "at most 100"),
    ):
        (result,) = graph.invoke(asking(credentials=named))["results"]
        assert (result["status"], result["request"]) == ("failed", None)
        assert result["error"].startswith("tasks[0].credentials")
        assert words in result["error"]
        assert "Zx81" not in result["error"]
    with pytest.raises(SpawnError, match="credentials"):
        parent_of(lead, {NAME: opener(vault)}).invoke(asking(credentials=7))


def test_a_mistaken_ceiling_is_an_error_when_the_graph_is_built(
    vault: Pipelit, lead: Agent
) -> None:
    """It names the argument and the fix."""
    ceilings: list[tuple[Any, type[Exception], str]] = [
        ("github", TypeError, "credentials must be a list"),
        ({NAME: "github"}, TypeError, f"credentials['{NAME}'] must be"),
        ([None], TypeError, "as text, not NoneType"),
        (["My Key"], CredentialError, "a stored credential"),
        ({}, ValueError, f"add '{NAME}': [] if it may open none"),
        ({NAME: [], "agent_other": []}, ValueError, "'agent_other', which isn't"),
    ]
    for ceiling, error, words in ceilings:
        with pytest.raises(error) as raised:
            spawn_and_await(lead, {NAME: opener(vault)}, credentials=ceiling)
        assert words in str(raised.value)


def test_a_child_on_another_machine_cannot_be_limited(vault: Pipelit, lead: Agent) -> None:
    """Neither by the spawn nor by a task: it opens the credentials of its own deployment."""
    far = remote_child(GRANDCHILD, url="http://127.0.0.1:9", credential=None)
    children: Any = {NAME: opener(vault), GRANDCHILD: far}
    for ceiling in (["github"], {NAME: [], GRANDCHILD: []}):
        with pytest.raises(ValueError, match="own deployment") as raised:
            spawn_and_await(lead, children, credentials=ceiling)
        assert f"Name the others alone: credentials={{'{NAME}': […]}}" in str(raised.value)
    with pytest.raises(ValueError, match="Leave it out"):
        verified_agent(lead, far, credentials=[])
    for ceiling, named in (({NAME: []}, []), (["github"], None)):
        find: Any = children if isinstance(ceiling, dict) else children.get
        spawn = spawn_and_await(lead, find, credentials=ceiling, on_failure="collect")
        (result,) = spawn.invoke(asking(GRANDCHILD, credentials=named))["results"]
        assert result["status"] == "failed"
        assert "own deployment" in result["error"]


def test_a_limited_child_asks_a_remote_one_with_its_own_credentials_only(
    vault: Pipelit, lead: Agent
) -> None:
    """The API key for a server is a credential like any other. Nothing is sent."""
    far = remote_child(GRANDCHILD, url="http://127.0.0.1:9", credential="search")
    inner = spawn_and_await(vault.agent(NAME), {GRANDCHILD: far}, on_failure="collect")

    def node(state: Work) -> Work:
        return {"a": inner.invoke(asking(GRANDCHILD))["results"][0]["error"]}

    graph = parent_of(
        lead, {NAME: child_of(vault, node)}, credentials=["github"], on_failure="collect"
    )
    (result,) = graph.invoke(asking())["results"]
    assert "this task may open only 'github'" in result["error"]


def test_a_found_child_that_the_ceiling_leaves_out_opens_nothing(
    vault: Pipelit, lead: Agent
) -> None:
    """A function may find children that nobody thought of."""

    def find(name: str) -> VerifiedChild:
        return opener(vault, name)

    spawn = spawn_and_await(lead, find, credentials={NAME: ["github"]})
    state = spawn.invoke({"tasks": asking()["tasks"] + asking(GRANDCHILD)["tasks"]})
    assert [said(state), said(state, 1)] == [ONLY_GITHUB, NOTHING]


def test_a_child_with_a_plain_code_is_limited_too(vault: Pipelit, lead: Agent) -> None:
    """``unbound-totp`` is a way to prove an answer, and changes nothing else."""
    agent = vault.agent(NAME)

    class Coded(TypedDict, total=False):
        code: str
        output: dict[str, str]

    class Asked(Coded):
        q: str

    def node(state: Asked) -> Coded:
        return {"code": agent.totp_code().code, "output": opens(vault)}

    child = StateGraph(Asked, output_schema=Coded).add_node("work", node).add_edge(START, "work")
    graph = parent_of(
        lead, {NAME: child.compile()}, proof={NAME: "unbound-totp"}, credentials=["search"]
    )
    assert graph.invoke(asking())["results"][0]["output"] == ONLY_SEARCH


def test_what_the_parent_made_opens_within_the_childs_limit(vault: Pipelit, lead: Agent) -> None:
    """A header of httpx, a model without its key, and an injected function of a module."""
    sent = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request.headers["Authorization"])
        return httpx.Response(200)

    auth = vault.credentials.http_auth("github", origins=["https://api.example"])
    client = httpx.Client(transport=httpx.MockTransport(answer), auth=auth)
    model = CredentialMiddleware(
        vault.credentials, model="openai:gpt-5-mini", credential="github"
    ).model

    def node(state: Work) -> Work:
        for call in (lambda: client.get("https://api.example"), lambda: model.invoke("hello")):
            with pytest.raises(CredentialNotAllowed, match="this task may open only 'search'"):
                call()
        return {"a": opens(vault)}

    graph = parent_of(lead, {NAME: child_of(vault, node)}, credentials=["search"])
    assert said(graph.invoke(asking())) == ONLY_SEARCH
    assert sent == []
    client.get("https://api.example")
    assert sent == ["Bearer github-0123456789-abcdef"]


def test_the_childs_own_middleware_is_limited(vault: Pipelit, lead: Agent) -> None:
    """An agent of LangChain, whose tool has a secret that isn't for this task."""

    @vault.credentials.tool(key="search")
    def look_up(query: str, *, key: SecretStr) -> str:
        """Looks something up."""
        return "never"

    model = Scripted(script=[calls("look_up", query="otters")], told=[])
    child = verified_child(create_agent(model, [look_up]), vault.agent(NAME))
    spawn = spawn_and_await(lead, {NAME: child}, credentials=["github"], on_failure="collect")
    asked = {"agent": NAME, "input": {"messages": [("user", "go")]}}
    (result,) = spawn.invoke({"tasks": [asked]})["results"]
    assert "CredentialNotAllowed" in result["error"]


def test_a_model_cannot_name_credentials(vault: Pipelit, lead: Agent) -> None:
    """Its tool has the developer's ceiling, and the schema shows nothing of it."""
    tool = SpawnAndAwait(agent=lead, children={NAME: opener(vault)}, credentials=["github"])
    assert "credentials" not in str(tool.tool_call_schema.model_json_schema())
    middleware = SpawnMiddleware(
        agent=lead, children={NAME: opener(vault)}, credentials={NAME: ["github"]}
    )
    for each, more in ((tool, {}), (middleware.tool, {}), (tool, {"credentials": ["search"]})):
        message = calls("spawn_and_await", tasks=[{"agent": NAME, "input": {"q": "?"}, **more}])
        model = Scripted(script=[message, AIMessage("done")], told=[])
        state = create_agent(model, [each]).invoke({"messages": [("user", "go")]})
        heard = state["messages"][-2]
        if more:
            assert heard.status == "error"
        else:
            assert heard.artifact[0]["output"]["a"] == ONLY_GITHUB


def test_a_verified_agent_has_a_ceiling(vault: Pipelit, lead: Agent) -> None:
    """The same option, for its one child."""

    def node(state: dict[str, Any]) -> dict[str, Any]:
        return {"messages": [("ai", " ".join(opens(vault).values()))]}

    graph = StateGraph(MessagesState).add_node("work", node).add_edge(START, "work").compile()
    agent = verified_agent(lead, verified_child(graph, vault.agent(NAME)), credentials=["search"])
    state = agent.invoke({"messages": [("user", "go")]})
    assert state["messages"][-1].text == "refused opened refused"
