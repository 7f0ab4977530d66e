"""A program that uses the library as its users do; its types are checked against the wheel."""

from __future__ import annotations

import tempfile
from typing import Literal, assert_type

from langgraph.graph import END, START, StateGraph
from pydantic import SecretStr
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from typing_extensions import TypedDict

from pipelit_agents import (
    Agent,
    CredentialInfo,
    EncryptedString,
    Keyring,
    NewAgent,
    NewUser,
    Page,
    Pipelit,
    Proof,
    Sealed,
    TotpCode,
    User,
    Verification,
    VerificationPolicy,
)
from pipelit_agents.desk import DeskSettings, make_app
from pipelit_agents.graphs import (
    RemoteChild,
    SpawnResult,
    SpawnTask,
    VerifiedAgent,
    remote_child,
    spawn_and_await,
    verified_agent,
    verified_child,
)
from pipelit_agents.otp import ocra, totp
from pipelit_agents.server import make_auth
from pipelit_agents.tools import (
    CreateAgentUser,
    GetTotpCode,
    IdentityToolkit,
    SpawnAndAwait,
    VerifyPeer,
)


class Base(DeclarativeBase):
    """The consumer's own tables."""


class Customer(Base):
    """A model of the consumer's with a sealed column."""

    __tablename__ = "customers"
    id: Mapped[int] = mapped_column(primary_key=True)
    token: Mapped[Sealed | None] = mapped_column(EncryptedString())


class Work(TypedDict, total=False):
    """A child's state."""

    text: str


class Lead(TypedDict, total=False):
    """A parent's state."""

    tasks: list[SpawnTask]
    results: list[SpawnResult]


def main() -> None:
    """Uses most of the public surface."""
    with tempfile.TemporaryDirectory() as folder:
        pipelit = Pipelit(
            database_url=f"sqlite:///{folder}/agents.db",
            encryption_keys=[Keyring.generate_key()],
            policy=VerificationPolicy(agents_per_owner=5),
        )
        with pipelit:
            pipelit.create_schema()
            owner = pipelit.users.create("alice")
            assert_type(owner.api_key, SecretStr)
            new = pipelit.users.create_agent("agent_a", owner="alice", purpose="writes")
            assert_type(new, NewAgent)
            pipelit.users.create_agent("agent_b", owner="alice", purpose="edits")
            assert_type(owner.role, Literal["operator", "member"])
            assert_type(pipelit.users.page(limit=2, kind="agent"), Page[User])
            assert_type(pipelit.credentials.page(), Page[CredentialInfo])
            assert_type(pipelit.permissions.require("alice", "users.read", on="agent_a"), User)
            user = pipelit.users.authenticate(new.api_key.get_secret_value())
            assert_type(user, User)

            writer, editor = pipelit.agent("agent_a"), pipelit.agent("agent_b")
            assert_type(writer, Agent)
            code = writer.totp_code(audience="agent_b")
            assert_type(code, TotpCode)
            assert_type(editor.verify_peer("agent_a", code.code), Verification)
            challenge = editor.challenge("agent_a")
            proof = writer.prove(challenge.value, b"answer", verifier="agent_b")
            assert_type(proof, Proof)
            editor.verify_proof(proof, challenge=challenge, payload=b"answer")

            builder = StateGraph(Work)
            builder.add_node("work", shout)
            builder.add_edge(START, "work")
            builder.add_edge("work", END)
            child = verified_child(builder.compile(), writer)
            lead = StateGraph(Lead)
            lead.add_node("delegate", spawn_and_await(editor, {"agent_a": child}))
            lead.add_edge(START, "delegate")
            task = SpawnTask(agent="agent_a", input={"text": "hello"})
            state = lead.compile().invoke({"tasks": [task]})
            print(state["results"][0]["status"], state["results"][0]["output"])

            uri = pipelit.users.issue_peering("agent_a", domain="elsewhere")
            assert_type(uri, SecretStr)
            away = remote_child("agent_a", url="https://child.example", credential="service")
            assert_type(away, RemoteChild)
            spawn_and_await(editor, {"agent_a": away}, timeout=60)
            worker = verified_agent(editor, away, timeout=60, history="last", on_failure="collect")
            assert_type(worker, VerifiedAgent)
            print(worker.as_tool(description="Knows all.").name)
            print(type(make_auth(pipelit)).__name__)

            pipelit.credentials.put("service", "s" * 20, kind="api", created_by="alice")

            @pipelit.credentials.inject(key="service")
            def call(state: Work, *, key: SecretStr) -> Work:
                return {"text": str(len(key.get_secret_value()))}

            print(call({"text": ""}))
            tools = [GetTotpCode(agent=writer), VerifyPeer(agent=writer)]
            print([tool.name for tool in [*tools, CreateAgentUser(agent=writer)]])
            print(len(IdentityToolkit(agent=writer).get_tools()))
            print(make_app(pipelit, DeskSettings(port=8441)).openapi()["info"]["title"])
            print(SpawnAndAwait(agent=editor, children={"agent_a": child}, timeout=60).name)
    print(totp(b"1" * 20, 59), ocra(b"1" * 20, "OCRA-1:HOTP-SHA1-6:QN08", "00000000"))


async def in_a_service(pipelit: Pipelit, agent: Agent) -> None:
    """The async twins have the types of the methods that they are named after."""
    async with pipelit:
        assert_type(await pipelit.users.acreate("bob"), NewUser)
        assert_type(await pipelit.users.aauthenticate("plit_x_y"), User)
        assert_type(await agent.averify_peer("agent_a", "12345678"), Verification)
        assert_type(await pipelit.credentials.aget("service"), CredentialInfo)
        await pipelit.users.adeactivate("bob", by="alice")
        await pipelit.users.acreate("bob", created_by=1)  # type: ignore[arg-type]


def shout(state: Work) -> Work:
    """A node."""
    return {"text": state["text"].upper()}


if __name__ == "__main__":
    main()
