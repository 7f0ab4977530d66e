"""docs/troubleshooting.md: the mistake of each heading is made, and the heading is what is said."""

from __future__ import annotations

import re
import socket
import sqlite3
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from command_line import typed
from conftest import Clock, add_alice
from desk_client import client_for
from engine import Engine
from internals import database_of, few_guesses
from langchain.agents import create_agent
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command
from later_migration import add_migration
from paths import TESTS
from pydantic import SecretStr
from sqlalchemy import text
from test_mfa import app_of
from test_troubleshooting_page import HEADINGS

from pipelit_agents import Approvers, Keyring, Pipelit, VerificationPolicy
from pipelit_agents.credentials.leak_guard import own_forms
from pipelit_agents.desk import DeskSettings, make_app
from pipelit_agents.errors import PipelitError, SpawnError
from pipelit_agents.graphs import (
    ANYONE,
    approval_digest,
    remote_child,
    spawn_and_await,
    verified_agent,
    verified_child,
)
from pipelit_agents.middleware import ApprovalMiddleware
from pipelit_agents.testing import ScriptedModel, tool_call

KEY = "wk-2718281828459045"
LEAD, RESEARCHER = "agent_lead", "agent_researcher"
# What needs another process, another user or a server is provoked by the test of that.
ELSEWHERE = {
    "the numbers of audit entries up to … are taken": (
        "audit/test_audit_numbers.py",
        "the numbers of audit entries up to",
    ),
    "this process was forked in the middle of a transaction of the database": (
        "processes/test_forks.py",
        "forked in the middle of a transaction",
    ),
    "the Redis at … evicts keys when its memory is full": (
        "processes/test_faults_redis.py",
        "evicts keys when its memory is full",
    ),
    "two kernels use this SQLite file": (
        "ledger/test_kernels.py",
        "two kernels use this SQLite file",
    ),
}


class State(MessagesState):
    """A state with one more field."""

    note: Any


def graph_of(node: Callable[..., Any] = lambda state: {}) -> Any:
    """A graph of one node."""
    return StateGraph(State).add_node("work", node).add_edge(START, "work").compile()


class World:
    """A folder as a reader has it: alice and bob, a lead and a researcher, and a credential."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, clock: Clock) -> None:
        self.folder, self.patch, self.clock = folder, patch, clock
        self.key, self.url = Keyring.generate_key(), f"sqlite:///{folder}/agents.db"
        self.pipelit = self.opened()
        self.pipelit.create_schema()
        add_alice(self.url)
        self.pipelit.users.create("bob")
        for name in (LEAD, RESEARCHER):
            self.pipelit.users.create_agent(name, owner="alice", purpose="x")
        self.put("weather")
        patch.chdir(folder)
        patch.setenv("FIELD_ENCRYPTION_KEY", self.key)
        patch.setenv("PIPELIT_DATABASE_URL", self.url)
        self.lead, self.researcher = (self.pipelit.agent(each) for each in (LEAD, RESEARCHER))

    def opened(self, *keys: str, **options: Any) -> Pipelit:
        """The library."""
        given = {"encryption_keys": [*(keys or [self.key])], "clock": self.clock}
        return Pipelit(**{"database_url": self.url, **given, **options})

    def put(self, name: str, secret: str = KEY, **options: Any) -> None:
        """Store a credential."""
        self.pipelit.credentials.put(name, secret, kind="http", created_by="alice", **options)

    def env(self, **variables: str | None) -> str:
        """What a command says in another environment."""
        for name, value in variables.items():
            self.patch.delenv(name, raising=False)
            if value is not None:
                self.patch.setenv(name, value)
        return self.command("code", LEAD)

    def command(self, *words: str, stdin: str = "") -> str:
        """What a command says that fails."""
        done = typed(*words, stdin=stdin)
        assert done.exit_code != 0, done.output
        return done.stderr

    def change(self, statement: str, **values: object) -> None:
        """Change rows as somebody can who has the database."""
        with database_of(self.pipelit).writing() as connection:
            connection.execute(text(statement), values)

    def inject(self, use: Callable[..., Any], name: str = "weather", **options: Any) -> Any:
        """Run a node that gets a secret."""

        def node(state: State, *, key: SecretStr) -> Any:
            return use(key)

        given = self.pipelit.credentials.inject(key=name, **options)(node)
        return graph_of(given).invoke({"messages": []})

    def enroll(self, name: str = "alice") -> Any:
        """Turn a second factor on, and return the app."""
        app = app_of(self.pipelit.mfa.enroll(name))
        self.pipelit.mfa.confirm(name, app.at(int(self.clock())))
        return app

    def spawn(self, child: Any = None, name: str = RESEARCHER, **options: Any) -> Any:
        """Give one task to a child."""
        child = verified_child(graph_of(), self.researcher) if child is None else child
        node = spawn_and_await(self.lead, {name: child}, **options)
        task = {"agent": name, "input": {"messages": [("user", "why?")]}}
        return node.invoke({"tasks": [task]})

    def remote(self, answer: Any = None, **options: Any) -> Any:
        """Give one task to a child on a server."""
        with Engine(answer or (lambda _: {}), **options) as server:
            child = remote_child(RESEARCHER, url=server.url, credential=None)
            return self.spawn(child)

    def guess(self, times: int, apart: float = 0) -> None:
        """Verify wrong codes."""
        for _ in range(times):
            try:
                self.lead.verify_peer(RESEARCHER, "00000000")
            except PipelitError as error:
                self.clock.advance(getattr(error, "retry_after", 0) or apart)
        self.lead.verify_peer(RESEARCHER, "00000000")

    def gated(self, tool: Any = None, **options: Any) -> Any:
        """An agent whose tool waits for alice."""
        self.enroll()
        asking = ApprovalMiddleware(self.pipelit, {"pay": Approvers(["alice"])})
        model = ScriptedModel(tool_call("pay", amount=90), "Done.")
        made = create_agent(model, [tool or pay], middleware=[asking], **options)
        return made.invoke({"messages": [("user", "Pay.")]}, {"configurable": {}})

    def desk(self, headers: dict[str, str] | None = None, path: str = "/users") -> str:
        """What the desk answers."""
        app = make_app(self.pipelit, DeskSettings(_env_file=None))
        with client_for(app) as client:
            return client.get(path, headers=headers or {}).text

    def api_key(self, name: str) -> dict[str, str]:
        """The header with a key."""
        made = self.pipelit.users.issue_api_key(name, name="laptop").api_key
        return {"Authorization": f"Bearer {made.get_secret_value()}"}


def pay(amount: int) -> str:
    """Pay somebody."""
    return f"paid {amount}"


def later_version(w: World) -> None:
    """Migrate with a newer version, and open with this one."""
    with w.patch.context() as later:
        add_migration(w.folder / "later", later)
        with w.opened() as newer:
            newer.create_schema()
    w.opened().users.list()


def rotated(w: World) -> None:
    """Use a key that `keys rotate` replaced."""
    newer = Keyring.generate_key()
    with w.opened(newer, w.key) as pipelit:
        pipelit.keys.rotate()
    with w.opened(w.key, newer) as pipelit:
        pipelit.users.create_agent("agent_x", owner="alice", purpose="x")


def unnamed_key(w: World) -> None:
    """Delete the row that names the key, and open with another one."""
    w.change("DELETE FROM pipelit_encryption_key")
    with w.opened(Keyring.generate_key()) as pipelit:
        pipelit.users.create_agent("agent_x", owner="alice", purpose="x")


def failing_source() -> str:
    """A secrets manager that is away."""
    raise ConnectionError("refused")


def unimportable(w: World, *modules: str) -> None:
    """Let modules be missing."""
    for each in modules:
        for name in [name for name in sys.modules if name == each or name.startswith(f"{each}.")]:
            w.patch.setitem(sys.modules, name, None)  # type: ignore[arg-type]
        w.patch.setitem(sys.modules, each, None)  # type: ignore[arg-type]


def without_redis(w: World) -> None:
    """Name a Redis without the package for it."""
    unimportable(w, "redis")
    w.opened(redis_url="redis://127.0.0.1:1").check_ledger()


def without_driver(w: World) -> None:
    """Name PostgreSQL without the package for it."""
    unimportable(w, "psycopg", "sqlalchemy.dialects.postgresql.psycopg")
    w.opened(database_url="postgresql+psycopg://u@127.0.0.1/d").users.list()


def without_desk(w: World) -> str:
    """Run the desk without the packages for it."""
    for name in [each for each in sys.modules if each.startswith("pipelit_agents.desk")]:
        w.patch.delitem(sys.modules, name)
    w.patch.setitem(sys.modules, "fastapi", None)  # type: ignore[arg-type]
    return w.command("desk")


def too_old(w: World) -> None:
    """Verify a code twice."""
    code = w.researcher.totp_code(audience=LEAD).code
    for _ in range(2):
        w.lead.verify_peer(RESEARCHER, code)


def many_agents(w: World) -> None:
    """Create more agents than one person may have."""
    with w.opened(policy=VerificationPolicy(agents_per_owner=2)) as pipelit:
        pipelit.users.create_agent("agent_x", owner="alice", purpose="x")


def kept_secret(w: World) -> str:
    """Read a secret after its node."""
    found: list[Any] = []
    w.inject(lambda key: found.append(key))
    return str(found[0].get_secret_value())


class Endless(Mapping[str, str]):
    """An object that makes parts for as long as it is asked."""

    def __getitem__(self, name: str) -> str:
        return name

    def __iter__(self) -> Iterator[str]:
        while True:
            yield "a"

    def __len__(self) -> int:
        return 1


def unsearchable(w: World) -> None:
    """Return an object that can't be searched to its end."""
    w.patch.setattr(own_forms, "VALUE_TIMEOUT", 0.05)
    w.inject(lambda key: {"note": Endless()})


def folder_below(w: World) -> str:
    """Run ``init`` in a folder below one that was set up."""
    (w.folder / ".env").write_text(f"FIELD_ENCRYPTION_KEY={w.key}\n")
    below = w.folder / "below"
    below.mkdir()
    w.patch.chdir(below)
    for name in ("FIELD_ENCRYPTION_KEY", "PIPELIT_DATABASE_URL"):
        w.patch.delenv(name)
    return typed("init").stdout


def owned_by_another(w: World) -> str:
    """Open a database file whose mode another account's process can't change."""

    def chmod(self: Path, mode: int, **_: object) -> None:
        raise PermissionError(self)

    (w.folder / "agents.db").chmod(0o644)
    w.patch.setattr(Path, "chmod", chmod)
    return w.env()


def interrupted(w: World) -> None:
    """Use the database in a callback of a transaction."""
    with database_of(w.pipelit).writing():
        w.pipelit.users.create("carol")


def short_secret(w: World) -> str:
    """Store a short secret."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        w.put("pin", "1234")
    return str(caught[0].message)


def limited_task(w: World) -> Any:
    """Open a credential that the spawn doesn't allow."""
    w.put("github")

    def node(state: State, *, key: SecretStr) -> Any:
        return {}

    graph = graph_of(w.pipelit.credentials.inject(key="github")(node))
    child = verified_child(graph, w.researcher)
    return w.spawn(child, credentials=["weather"])["results"]


def nobody_signed_in(w: World) -> None:
    """Open a person's own credential for nobody."""
    w.put("github", person="bob")
    w.inject(lambda key: {}, "github", per_person=True)


def no_own(w: World) -> None:
    """Open a credential that a person doesn't have."""
    w.put("github", person="bob")
    with w.pipelit.acting_for("alice"):
        w.inject(lambda key: {}, "github", per_person=True)


def other_answer(w: World) -> Any:
    """Let a child answer with another database's secret."""
    with w.opened(database_url=f"sqlite:///{w.folder}/other.db") as other:
        other.create_schema()
        other.users.create("alice")
        for name in (LEAD, RESEARCHER):
            other.users.create_agent(name, owner="alice", purpose="x")
        child = verified_child(graph_of(), other.agent(RESEARCHER), accept_from=ANYONE)
        return w.remote(child.invoke)


def other_name(w: World) -> None:
    """Give a verified agent the name of another account."""
    child = verified_child(graph_of(), w.researcher)
    w.pipelit.users.create_agent("agent_writer", owner="alice", purpose="x")
    worker = verified_agent(w.lead, child, name="agent_writer")
    worker.invoke({"messages": [("user", "why?")]})


def uninvited(w: World) -> Any:
    """Ask a child that answers only somebody else."""
    w.pipelit.users.create_agent("agent_writer", owner="alice", purpose="x")
    return w.spawn(verified_child(graph_of(), w.researcher, accept_from=["agent_writer"]))


def called_from_outside(w: World) -> str:
    """Serve a child that names no callers; its log has the reason."""
    child, said = verified_child(graph_of(), w.researcher), []

    def serve(value: Any) -> Any:
        try:
            return child.invoke(value)
        except PipelitError as error:
            said.append(str(error))
            return {"__error__": {"error": type(error).__name__, "message": "masked"}}

    with pytest.raises(SpawnError):
        w.remote(serve, statuses=["error"])
    return said[0]


def left_around(w: World) -> Any:
    """End a child's graph around its last node."""
    graph = graph_of(lambda _: Command(graph=Command.PARENT, goto="elsewhere"))
    return w.spawn(verified_child(graph, w.researcher))


def in_a_circle(w: World) -> Any:
    """Let a child spawn a child, deeper than is allowed."""
    w.pipelit.users.create_agent("agent_writer", owner="alice", purpose="x")
    inner = verified_child(graph_of(), w.pipelit.agent("agent_writer"))
    node = spawn_and_await(w.researcher, {"agent_writer": inner}, max_depth=1)

    def work(state: State) -> Any:
        node.invoke({"tasks": [{"agent": "agent_writer", "input": {"messages": []}}]})
        return {}

    return w.spawn(verified_child(graph_of(work), w.researcher), max_depth=1)


def around_the_gate(w: World) -> None:
    """Call a tool around the middleware that gates it."""
    from deepagents import create_deep_agent
    from langchain_core.tools import tool

    w.enroll()
    task = tool_call("task", description="pay", subagent_type="payer")
    payer: Any = {
        "name": "payer",
        "description": "pays",
        "system_prompt": "",
        "model": ScriptedModel(tool_call("pay", amount=90), "Done."),
    }
    agent = create_deep_agent(
        model=ScriptedModel(task, "Done."),
        tools=[tool(pay)],
        subagents=[payer],
        middleware=[ApprovalMiddleware(w.pipelit, {"pay": Approvers(["alice"])})],
        checkpointer=InMemorySaver(),
    )
    agent.invoke({"messages": [("user", "Pay.")]}, {"configurable": {"thread_id": "1"}})


def own_request(w: World) -> None:
    """Ask only the person who asks."""
    w.enroll()
    rule = Approvers(["alice"], not_requester=True)
    with w.pipelit.acting_for("alice"):
        w.pipelit.approvals.request({"pay": 90}, approvers=rule, asked_by="alice")


def denied_by_nobody(w: World) -> None:
    """Deny in a person's name without a code."""
    w.enroll()
    question = w.pipelit.approvals.request({"pay": 90}, approvers=["alice"])
    w.pipelit.approvals.deny(question.id, "alice")


def too_many_keys(w: World) -> str:
    """Try wrong API keys."""
    few_guesses(w.patch, 3)
    app = make_app(w.pipelit, DeskSettings(_env_file=None))
    with client_for(app, f"plit_0123456789ab_{'x' * 43}") as client:
        return [client.get("/users").text for _ in range(5)][-1]


def without_database(w: World) -> str:
    """Ask the desk while its database is gone."""
    header = w.api_key("alice")
    w.change("ALTER TABLE pipelit_users RENAME TO elsewhere")
    return w.desk(header)


def not_encrypted(w: World) -> Any:
    """Read a thread that was written without the sealed saver."""
    saver, thread = InMemorySaver(), {"configurable": {"thread_id": "1"}}
    builder = StateGraph(State).add_node("work", lambda _: {}).add_edge(START, "work")
    builder.compile(checkpointer=saver).invoke({"messages": [("user", "x")]}, thread)
    serializer = w.pipelit.checkpoint_serializer()
    saver.serde = serializer
    return builder.compile(checkpointer=saver).get_state(thread)


def other_metadata(w: World) -> Any:
    """Change what a checkpointer stores in clear."""
    thread: Any = {"configurable": {"thread_id": "1"}}
    with closing(sqlite3.connect(w.folder / "app.db", check_same_thread=False)) as connection:
        saver = w.pipelit.sealed_saver(SqliteSaver(connection))
        builder = StateGraph(State).add_node("work", lambda _: {}).add_edge(START, "work")
        graph = builder.compile(checkpointer=saver)
        graph.invoke({"messages": [("user", "x")]}, thread)
        connection.execute(
            "UPDATE checkpoints SET parent_checkpoint_id = checkpoint_id "
            "WHERE parent_checkpoint_id IS NOT NULL"
        )
        return graph.get_state(thread)


def busy_port(w: World) -> str:
    """Listen where somebody listens."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        return w.command("desk", "--port", str(other.getsockname()[1]))


# What a reader does, by the heading. It fails with the message, or returns it.
PROVOKED: dict[str, Callable[[World], Any]] = {
    "FIELD_ENCRYPTION_KEY is not set, so nothing can be encrypted or decrypted": lambda w: w.env(
        FIELD_ENCRYPTION_KEY=None
    ),
    "key … of … in FIELD_ENCRYPTION_KEY is not a Fernet key": lambda w: w.env(
        FIELD_ENCRYPTION_KEY="short"
    ),
    "FIELD_ENCRYPTION_KEY is set to an empty string in the environment": lambda w: w.env(
        FIELD_ENCRYPTION_KEY=""
    ),
    "… and …_FILE are both set, but only one can be used": lambda w: w.env(
        PIPELIT_DATABASE_URL_FILE="url.txt"
    ),
    "… names …, which can't be read": lambda w: w.env(
        FIELD_ENCRYPTION_KEY=None, FIELD_ENCRYPTION_KEY_FILE="key.txt"
    ),
    "… can't be read, so … isn't set": lambda w: (
        (w.folder / ".env").write_text("PIPELIT_DATABASE_URL sqlite:///agents.db\n"),
        w.env(PIPELIT_DATABASE_URL=None),
    ),
    "the environment sets …. If it is the setting …": lambda w: w.env(
        PIPELIT_DATABASE_URL=None, PIPELIT_DATABSE_URL="sqlite:///agents.db"
    ),
    "there is no setting …: correct the name, or unset it": lambda w: (
        w.patch.setenv("PIPELIT_DESK_PROT", "1"),
        w.command("desk"),
    ),
    "this database's key is …, which isn't in FIELD_ENCRYPTION_KEY": lambda w: w.opened(
        Keyring.generate_key()
    ).users.create_agent("agent_x", owner="alice", purpose="x"),
    "the newest key of FIELD_ENCRYPTION_KEY was replaced by …": rotated,
    "this database doesn't say which key is its own": unnamed_key,
    "… can't be decrypted: it was encrypted with another key or for another purpose, or it was "
    "changed": lambda w: w.env(FIELD_ENCRYPTION_KEY=Keyring.generate_key()),
    "encryption_keys: …, so nothing can be encrypted or decrypted": lambda w: (
        w.opened(encryption_keys=failing_source).agent(LEAD).totp_code()
    ),
    "there is no database at …": lambda w: w.env(PIPELIT_DATABASE_URL="sqlite:///nothing.db"),
    "this folder has its own … now, but … was set up before": folder_below,
    "the database file … can't be opened for writing": lambda w: w.env(
        PIPELIT_DATABASE_URL=f"sqlite:///{w.folder}"
    ),
    "other accounts can read the database file": owned_by_another,
    "this thread is in the middle of …, and a signal handler, a finalizer (__del__) or another "
    "callback": interrupted,
    "the database at … refused the request": lambda w: w.opened(
        database_url="postgresql+psycopg://u@127.0.0.1:1/d"
    ).users.list(),
    "a newer pipelit-agents (migration …; this version knows migrations up to …)": later_version,
    "… is not a database URL that can be used": lambda w: w.env(PIPELIT_DATABASE_URL="mysql://h/d"),
    "… before the first release (migration …), and this version can't migrate them": lambda w: (
        w.change("UPDATE pipelit_version SET version_num = '0001'"),
        w.opened().users.list(),
    ),
    "… names a database whose driver is not installed": without_driver,
    "… must name a file by its path: threads can't safely share an SQLite database in memory": (
        lambda w: w.env(PIPELIT_DATABASE_URL="sqlite://")
    ),
    "… is set, and redis-py is not installed": without_redis,
    "… is no address that can be used here": lambda w: w.opened(
        redis_url="127.0.0.1:6379"
    ).check_ledger(),
    "the Redis at … did not do what was asked": lambda w: w.opened(
        redis_url="redis://127.0.0.1:1"
    ).check_ledger(),
    "nothing is accepted while attempts can't be counted": lambda w: (
        w.opened(redis_url="redis://127.0.0.1:1").agent(LEAD).verify_peer(RESEARCHER, "12345678")
    ),
    "the code was not accepted": too_old,
    "too many failed codes about …": lambda w: [
        w.command("verify", LEAD, RESEARCHER, stdin="00000000") for _ in range(6)
    ],
    "codes of … are not evaluated here for …": lambda w: w.guess(12, 60),
    "there are more arguments than the command takes": lambda w: w.command("code", LEAD, "123456"),
    "the API key is not valid": lambda w: w.pipelit.users.authenticate(
        f"plit_0123456789ab_{'x' * 43}"
    ),
    "… is not a username: a username has …": lambda w: w.pipelit.users.create("Dora Smith"),
    "there is an account … already": lambda w: w.pipelit.users.create("alice"),
    "there is no account …; see all agents with: pipelit-agents agents list": lambda w: (
        w.pipelit.agent("agent_led").totp_code()
    ),
    "… is a person; code can act only as an agent": lambda w: w.pipelit.agent("alice").totp_code(),
    "… active agents, and … are allowed": many_agents,
    "… is the last operator: make another person an operator first": lambda w: (
        w.pipelit.users.deactivate("alice", by="alice")
    ),
    "credential … can be opened only inside a running node or tool": lambda w: (
        w.pipelit.credentials.reveal("weather").__enter__()
    ),
    "the secret of credential … is in …, at …": lambda w: w.inject(
        lambda key: {"messages": [("ai", key.get_secret_value())]}
    ),
    "… can't be searched for the secret of credential …": unsearchable,
    "the secret of credential … can't be read any more": kept_secret,
    "the secret of credential … was put into a text": lambda w: w.inject(
        lambda key: {"note": f"Bearer {key}"}
    ),
    "credential … may be opened only by certain accounts": lambda w: (
        w.put("github", allow=[LEAD]),
        w.inject(lambda key: {}, "github"),
    ),
    "credential …: this task may open only …": limited_task,
    "…, and nobody is authenticated here": nobody_signed_in,
    "… has no own credential …": no_own,
    "credential … has a secret of fewer than … characters": short_secret,
    "not every child gave a verified answer": lambda w: w.spawn(
        verified_child(graph_of(lambda _: 1 / 0), w.researcher)
    ),
    "the state has no 'tasks'": lambda w: spawn_and_await(
        w.lead, {RESEARCHER: verified_child(graph_of(), w.researcher)}
    ).invoke({}),
    "the answer is not proven to be this child's answer to this request": other_answer,
    "the verified agent … asks …, but … is another account": other_name,
    "the child doesn't accept …": uninvited,
    "… is called from outside, and needs accept_from": called_from_outside,
    "the child's server doesn't accept the API key": lambda w: w.remote(
        start=lambda _: (401, None)
    ),
    "the child's server answered …": lambda w: w.remote(start=lambda _: (404, None)),
    "the child ended without a proven answer": left_around,
    "spawns are nested … deep, and max_depth is …": in_a_circle,
    "this may not be done: …": lambda w: w.pipelit.approvals.require(
        approval_digest({"pay": 90}), approvers=["alice"]
    ),
    "… needs a person's approval, and this run can't wait for it": lambda w: w.gated(),
    "… needs a person's approval, but it is run without its gate": around_the_gate,
    "the requester … may not approve": own_request,
    "a denial without a code of …": denied_by_nobody,
    "the second factor of … is on: end it first with one of its codes": lambda w: (
        w.enroll(),
        w.pipelit.mfa.enroll("alice"),
    ),
    "the desk needs …: pip install 'pipelit-agents[desk]'": without_desk,
    "… is …, so others on the network could read API keys": lambda w: w.command(
        "desk", "--host", "192.0.2.1"
    ),
    "the desk can't listen on …, port …": busy_port,
    "the desk isn't served under this host name": lambda w: w.desk({"Host": "evil.example"}),
    "a valid API key is needed: Authorization: Bearer plit_…": lambda w: w.desk(),
    "too many API keys from this address were refused": too_many_keys,
    "the desk can't answer now; an operator finds the reason in the server's log": without_database,
    "… may not do this: …": lambda w: w.desk(w.api_key("bob"), "/audit"),
    "a checkpoint contains a value of kind … that is not encrypted": not_encrypted,
    "the data stored in clear differs from the encrypted copy": other_metadata,
}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Iterator[World]:
    """A reader's folder."""
    made = World(tmp_path, monkeypatch, clock)
    yield made
    made.pipelit.close()


def test_the_mistake_of_each_heading_is_made() -> None:
    """Here, or by a test that has what it needs."""
    assert PROVOKED.keys() | ELSEWHERE.keys() == set(HEADINGS)


@pytest.mark.parametrize("heading", ELSEWHERE)
def test_another_test_makes_the_mistake(heading: str) -> None:
    """And compares the message."""
    file, words = ELSEWHERE[heading]
    assert words in (TESTS / file).read_text()


@pytest.mark.parametrize("heading", PROVOKED)
def test_a_heading_is_what_the_mistake_says(world: World, heading: str) -> None:
    """Word for word, apart from the names and the numbers in it."""
    try:
        said = str(PROVOKED[heading](world))
    except Exception as error:
        said = str(error)
    fixed = ".{1,300}?".join(map(re.escape, heading.strip("… ").split("…")))
    assert re.search(fixed, said.replace("\\n", " ")), said
