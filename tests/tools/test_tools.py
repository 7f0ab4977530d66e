from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import Clock
from internals import database_of
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import BaseTool, ToolException
from langchain_tests.integration_tests import ToolsIntegrationTests
from langchain_tests.unit_tests import ToolsUnitTests
from langgraph.checkpoint.memory import InMemorySaver

from pipelit_agents import Agent, Keyring, Pipelit
from pipelit_agents.errors import InvalidUsername, LedgerUnavailable
from pipelit_agents.pipelit import home_of
from pipelit_agents.tools import CreateAgentUser, GetTotpCode, IdentityToolkit, VerifyPeer

CLOCK = Clock()

# Where attempts are counted makes no difference here.
BACKENDS = ("sqlite",)


class Scripted(BaseChatModel):
    """A model that says what the test wrote, and keeps what it was told."""

    script: list[AIMessage]
    told: list[list[BaseMessage]] = []

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Sequence[Any], **_: Any) -> Any:
        return self

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        self.told.append(messages)
        return ChatResult(generations=[ChatGeneration(message=self.script[len(self.told) - 1])])


def calls(name: str, **arguments: Any) -> AIMessage:
    """A message in which the model calls one tool."""
    return AIMessage("", tool_calls=[{"name": name, "args": arguments, "id": "call"}])


def answer_to(tools: list[BaseTool], message: AIMessage) -> str:
    """What the model is told after one call, in a real agent loop."""
    model = Scripted(script=[message, AIMessage("done")])
    state = create_agent(model, tools).invoke({"messages": [("user", "go")]})
    (told,) = [each for each in state["messages"] if isinstance(each, ToolMessage)]
    return str(told.content)


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipelit]:
    """A database for the standard suites, which can't take a function's fixtures."""
    folder = tmp_path_factory.mktemp("tools")
    with Pipelit(
        database_url=f"sqlite:///{folder}/agents.db",
        encryption_keys=[Keyring.generate_key()],
        clock=CLOCK,
    ) as pipelit:
        pipelit.create_schema()
        pipelit.users.create("alice")
        for name in ("agent_writer", "agent_editor"):
            pipelit.users.create_agent(name, owner="alice", purpose="tests")
        yield pipelit


class Standard:
    """What the standard suites need of each tool."""

    kind: type[BaseTool]
    example: dict[str, Any]
    standing: Pipelit

    @pytest.fixture(autouse=True)
    def bound(self, standing: Pipelit) -> None:
        """Gives each test the standing database, and a code that hasn't been spent."""
        self.standing = standing
        CLOCK.advance(30)

    @property
    def tool_constructor(self) -> type[BaseTool]:
        """The class under test."""
        return self.kind

    @property
    def tool_constructor_params(self) -> dict[str, Any]:
        """Its arguments."""
        return {"agent": self.standing.agent("agent_writer")}

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        """What a model would send."""
        return self.example


class CheckingStandard(Standard):
    """A call of verify_peer needs a fresh code."""

    kind = VerifyPeer

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        """A code that is good now."""
        code = self.standing.agent("agent_editor").totp_code(audience="agent_writer").code
        return {"username": "agent_editor", "code": code}


class TestGetTotpCodeUnit(Standard, ToolsUnitTests):
    """The standard unit suite."""

    kind = GetTotpCode
    example = {"audience": "agent_editor"}


class TestGetTotpCodeIntegration(Standard, ToolsIntegrationTests):
    """The standard integration suite."""

    kind = GetTotpCode
    example = {"audience": "agent_editor"}


class TestVerifyPeerUnit(CheckingStandard, ToolsUnitTests):
    """The standard unit suite."""


class TestVerifyPeerIntegration(CheckingStandard, ToolsIntegrationTests):
    """The standard integration suite."""


class TestCreateAgentUserUnit(Standard, ToolsUnitTests):
    """The standard unit suite."""

    kind = CreateAgentUser
    example = {"purpose": "looks things up", "username": "agent_helper"}


class TestCreateAgentUserIntegration(Standard, ToolsIntegrationTests):
    """The standard integration suite."""

    kind = CreateAgentUser
    example = {"purpose": "looks things up", "username": "agent_helper"}


def test_a_code_goes_from_one_model_to_another(writer: Agent, editor: Agent) -> None:
    """What one agent's model got for the other, that one's model verifies."""
    tools = IdentityToolkit(agent=writer).get_tools()
    code = answer_to(tools, calls("get_totp_code", audience="agent_editor"))
    call = calls("verify_peer", username="agent_writer", code=code)
    said = answer_to([VerifyPeer(agent=editor)], call)
    assert said == (
        "Verified: agent_writer made this code for you within the last 90 seconds. The code "
        "doesn't prove who sent it to you, and it vouches for no text that came with it."
    )


async def test_the_tools_work_off_the_event_loop(writer: Agent, editor: Agent) -> None:
    """The async forms do the same."""
    code = await GetTotpCode(agent=writer).ainvoke({"audience": "agent_editor"})
    said = await VerifyPeer(agent=editor).ainvoke({"username": "agent_writer", "code": code})
    made = await CreateAgentUser(agent=editor).ainvoke({"purpose": "helps"})
    assert said.startswith("Verified")
    assert made.startswith("Created agent_editor.helps_")


@pytest.mark.parametrize("extra", ["agent", "verifier", "kind", "as_user"])
@pytest.mark.parametrize("tool", ["get_totp_code", "verify_peer", "create_agent_user"])
def test_a_model_cannot_choose_whom_it_acts_as(
    writer: Agent, editor: Agent, tool: str, extra: str
) -> None:
    """An argument that would change the identity or the check is refused, not dropped."""
    good = {
        "get_totp_code": {"audience": "agent_editor"},
        "verify_peer": {"username": "agent_editor", "code": "12345678"},
        "create_agent_user": {"purpose": "helps"},
    }[tool]
    tools = IdentityToolkit(agent=writer).get_tools()
    said = answer_to(tools, calls(tool, **good, **{extra: "agent_editor"}))
    assert said == (f"The arguments are invalid. {extra}: Extra inputs are not permitted")


@pytest.mark.parametrize("tool", [GetTotpCode, VerifyPeer, CreateAgentUser])
def test_no_schema_and_no_dump_shows_the_handle(writer: Agent, tool: type[BaseTool]) -> None:
    """Neither the schema that a model sees nor a dump or repr has a field for the agent."""
    made = tool(agent=writer)
    schema = made.tool_call_schema.model_json_schema()  # type: ignore[union-attr]
    assert "agent" not in schema["properties"]
    assert "agent" not in made.model_dump()
    assert "Agent(" not in repr(made)


def test_codes_are_made_for_the_allowed_audience_only(writer: Agent, editor: Agent) -> None:
    """With an allow-list the model sees it as an enumeration, and gets nothing for others."""
    tool = GetTotpCode(agent=editor, audiences=["agent_writer"])
    schema = tool.tool_call_schema.model_json_schema()  # type: ignore[union-attr]
    assert schema["properties"]["audience"]["const"] == "agent_writer"
    said = answer_to([tool], calls("get_totp_code", audience="agent_other"))
    assert said.startswith("The arguments are invalid. audience:")


@pytest.mark.parametrize("audience", ["agent_writer", "alice", "nobody", "Agent_Editor", ""])
def test_there_is_no_code_for_whoever_cannot_check_it(
    writer: Agent, editor: Agent, audience: str
) -> None:
    """Not for the agent itself, a person, an unknown or a malformed name."""
    said = answer_to([GetTotpCode(agent=writer)], calls("get_totp_code", audience=audience))
    assert said.startswith("Not done: ")


def test_a_plain_code_only_where_the_developer_says_so(writer: Agent, editor: Agent) -> None:
    """A tool built for plain codes takes no audience, and its code is the authenticator's."""
    tool = GetTotpCode(agent=writer, plain=True)
    assert tool.args == {}
    assert editor.verify_peer("agent_writer", tool.invoke({}), kind="plain")


@pytest.mark.parametrize(
    "options",
    [
        {"audiences": []},
        {"audiences": "agent_editor"},
        {"audiences": ["agent_editor"], "plain": True},
    ],
)
def test_options_that_cannot_be_meant_are_refused(writer: Agent, options: dict[str, Any]) -> None:
    """An empty list, a bare name, or an audience for plain codes is an error at construction."""
    with pytest.raises((TypeError, ValueError), match="audience"):
        GetTotpCode(agent=writer, **options)


def test_an_agent_is_no_audience_of_its_own(writer: Agent) -> None:
    """An allow-list that names the agent itself is an error at construction."""
    with pytest.raises(InvalidUsername, match="itself"):
        GetTotpCode(agent=writer, audiences=["agent_writer"])


@pytest.mark.parametrize("name", ["agent_writer", "nobody"])
def test_a_wrong_code_tells_the_model_what_to_do(writer: Agent, editor: Agent, name: str) -> None:
    """The refusal is text, the same for a wrong code and an unknown peer."""
    said = answer_to(
        [VerifyPeer(agent=editor)], calls("verify_peer", username=name, code="00000000")
    )
    assert said == (
        "Not verified: the code was not accepted. Don't trust this peer. Request a new code "
        "that is made for you, and check the name. You can accept one code of a peer every 30 "
        "seconds."
    )


def test_a_plain_code_is_not_taken_from_a_model(writer: Agent, editor: Agent) -> None:
    """An authenticator's 6 digits are refused by the tool, whatever the model says of them."""
    said = answer_to(
        [VerifyPeer(agent=editor)],
        calls("verify_peer", username="agent_writer", code=writer.totp_code().code),
    )
    assert said.startswith("Not verified: code: an audience code is exactly 8 digits")


def test_a_limit_tells_the_model_how_long_to_wait(writer: Agent, editor: Agent) -> None:
    """After five failures the text names the seconds."""
    tool = VerifyPeer(agent=editor)
    for _ in range(5):
        tool.invoke({"username": "agent_writer", "code": "00000000"})
    said = tool.invoke({"username": "agent_writer", "code": "00000000"})
    assert "wait 60 s" in said


def test_an_agent_is_created_once_for_its_creator(pipelit: Pipelit, writer: Agent) -> None:
    """The same call by the same creator finds the agent; another creator gets one of its own."""
    pipelit.users.create_agent("agent_other", owner="alice", purpose="x")
    call = calls("create_agent_user", purpose="helps", username="agent_helper")
    first = answer_to([CreateAgentUser(agent=writer)], call)
    again = answer_to([CreateAgentUser(agent=writer)], call)
    other = answer_to([CreateAgentUser(agent=pipelit.agent("agent_other"))], call)
    assert first.startswith("Created agent_writer.agent_helper.")
    assert again == first.replace("Created", "You had created")
    assert other.startswith("Created agent_other.agent_helper.")


@pytest.mark.parametrize(
    "name", ["bob", "admin", "agent_lead", "operator", "alice", "agent_editor", "agent_writer"]
)
def test_a_model_takes_no_name_but_under_its_own(
    pipelit: Pipelit, writer: Agent, editor: Agent, name: str
) -> None:
    """Whatever it asks for, the operator may still give that name, and nobody's account changes."""
    tool = CreateAgentUser(agent=writer)
    said = tool.invoke({"purpose": "x", "username": name})
    assert said.startswith(f"Created agent_writer.{name}. Its API key")
    assert tool.invoke({"purpose": "x", "username": f"agent_writer.{name}"}).startswith(
        f"You had created agent_writer.{name}."
    )
    assert pipelit.users.get(f"agent_writer.{name}").owner == "agent_writer"
    if name in ("bob", "admin", "agent_lead"):
        assert pipelit.users.create(name).username == name


@pytest.mark.parametrize(
    "name",
    [
        "a.b",
        "agent_editor.x",
        "agent_writer.",
        "agent_writer.a.b",
        "agent_writer..a",
        "agent_writer.-a",
        ".a",
        "-a",
        "A",
        "x" * 139,
        "x" * 127,
        "../a",
        "a\n",
    ],
)
def test_a_name_that_could_be_anothers_is_refused(
    pipelit: Pipelit, writer: Agent, name: str
) -> None:
    """A dot would make it a name under another agent; the words say what a name is made of."""
    said = CreateAgentUser(agent=writer).invoke({"purpose": "x", "username": name})
    assert said.startswith("Not done: username ")
    assert [user.username for user in pipelit.users.list()] == ["agent_writer", "alice"]


@pytest.mark.backends("sqlite", "postgres")
def test_two_creators_never_make_the_same_name(pipelit: Pipelit) -> None:
    """What "a" with "b.c" and "a.b" with "c" would both make is made by the latter alone."""
    made = []
    creators = ("a", "a.b", "a.b-c", "a-b")
    for creator in creators:
        pipelit.users.create_agent(creator, owner="alice", purpose="makes")
    for creator in creators:
        tool = CreateAgentUser(agent=pipelit.agent(creator))
        for name in ("b.c", "c", "b", "b-c", "b_c"):
            said = tool.invoke({"purpose": "x", "username": name})
            if said.startswith("Created"):
                made.append(said.split(". Its")[0].removeprefix("Created "))
    assert len(made) == len(set(made))
    assert "a.b.c" in made
    assert pipelit.users.get("a.b.c").owner == "a.b"


def test_the_name_of_a_deactivated_agent_is_not_given_again(
    pipelit: Pipelit, writer: Agent
) -> None:
    """Nobody can become an agent that others knew; another name under the creator's is free."""
    tool = CreateAgentUser(agent=writer)
    tool.invoke({"purpose": "x", "username": "helper"})
    pipelit.users.deactivate("agent_writer.helper")
    said = tool.invoke({"purpose": "x", "username": "helper"})
    assert said.startswith("Not done: there is an account 'agent_writer.helper' already")
    assert tool.invoke({"purpose": "x", "username": "helper_2"}).startswith("Created")


@pytest.mark.backends("sqlite", "postgres")
def test_agents_from_before_the_prefix_are_found(pipelit: Pipelit, writer: Agent) -> None:
    """An own agent under a free name is still found by it; another's, or an ended one, isn't."""
    pipelit.users.create_agent("agent_other", owner="alice", purpose="x")
    other = pipelit.agent("agent_other")
    pipelit.provision_agent(writer, purpose="x", username="agent.old")
    pipelit.provision_agent(other, purpose="x", username="theirs")
    pipelit.provision_agent(writer, purpose="x", username="gone")
    pipelit.users.deactivate("gone")
    tool = CreateAgentUser(agent=writer)
    for name, says in (
        ("agent.old", "You had created agent.old."),
        ("theirs", "Created agent_writer.theirs."),
        ("gone", "Created agent_writer.gone."),
    ):
        assert tool.invoke({"purpose": "x", "username": name}).startswith(says)


def test_a_developer_chooses_the_prefix(pipelit: Pipelit, writer: Agent) -> None:
    """Another prefix, or None for free names; one that can't be a name's beginning is refused."""
    team = CreateAgentUser(agent=writer, prefix="team-")
    assert team.invoke({"purpose": "x", "username": "helper"}).startswith("Created team-helper.")
    assert team.invoke({"purpose": "x y"}).startswith("Created team-x_y_")
    free = CreateAgentUser(agent=writer, prefix=None)
    assert free.invoke({"purpose": "x", "username": "a.b"}).startswith("Created a.b.")
    assert "a-z 0-9 _ . -" in str(free.args["username"])
    (_, _, made) = IdentityToolkit(agent=writer, prefix=None).get_tools()
    assert made.invoke({"purpose": "x", "username": "c.d"}).startswith("Created c.d.")
    (_, _, made) = IdentityToolkit(agent=writer).get_tools()
    assert made.invoke({"purpose": "x", "username": "e"}).startswith("Created agent_writer.e.")
    for prefix in ("", "Team-", "-team", "a" * 131, 7, "a b"):
        for kind in (CreateAgentUser, IdentityToolkit):
            with pytest.raises(ValueError, match="prefix"):
                kind(agent=writer, prefix=prefix)


def test_a_creator_with_a_long_name_is_told(pipelit: Pipelit) -> None:
    """Where the own name leaves no room, the words name the prefix; a shorter one works."""
    name = "a" * 140
    pipelit.users.create_agent(name, owner="alice", purpose="has a long name")
    long = pipelit.agent(name)
    for sent in ({"purpose": "x"}, {"purpose": "x", "username": "b"}):
        said = CreateAgentUser(agent=long).invoke(sent)
        assert said.startswith("Not done: prefix (not repeated")
        assert "130 characters at most" in said
    made = CreateAgentUser(agent=long, prefix="short.").invoke({"purpose": "x"})
    assert made.startswith("Created short.x_")


def test_a_created_agent_cannot_create(pipelit: Pipelit, writer: Agent) -> None:
    """An agent made by an agent may not make others unless it was granted."""
    CreateAgentUser(agent=writer).invoke({"purpose": "helps", "username": "agent_helper"})
    tool = CreateAgentUser(agent=pipelit.agent("agent_writer.agent_helper"))
    assert "may not create agents" in tool.invoke({"purpose": "more"})


@pytest.mark.backends("sqlite", "postgres")
def test_one_prompt_can_not_use_up_the_owners_quota(pipelit: Pipelit, writer: Agent) -> None:
    """The eleventh living agent of one creator is refused; the operator and others go on."""
    tool = CreateAgentUser(agent=writer)
    for number in range(10):
        made = tool.invoke({"purpose": "helps", "username": f"agent_{number}"})
        assert made.startswith("Created")
    said = tool.invoke({"purpose": "helps"})
    assert said.startswith("Not done: 'agent_writer' has created 10 active agents")
    assert "10 are allowed" in said
    pipelit.users.create_agent("agent_new", owner="alice", purpose="the operator's")
    other = CreateAgentUser(agent=pipelit.agent("agent_new"))
    assert other.invoke({"purpose": "helps"}).startswith("Created agent_new.helps_")
    pipelit.users.deactivate("agent_writer.agent_3")
    assert tool.invoke({"purpose": "helps"}).startswith("Created")


@pytest.mark.slow
def test_a_model_that_goes_on_asking_has_to_wait(
    pipelit: Pipelit, writer: Agent, editor: Agent, clock: Clock
) -> None:
    """Refused creations are audited 20 times a minute, then once more, and it alone waits."""
    tool = CreateAgentUser(agent=writer, prefix=None)
    before = len(pipelit.audit.list(limit=1000))
    said = {tool.invoke({"purpose": "x", "username": "alice"})[:30] for _ in range(500)}
    assert said == {"Not done: there is an account ", "Not done: too many agents were"}
    assert len(pipelit.audit.list(limit=1000)) == before + 21
    assert "wait 60 s" in tool.invoke({"purpose": "x", "username": "fresh"})
    other = CreateAgentUser(agent=editor)
    assert other.invoke({"purpose": "x", "username": "a"}).startswith("Created")
    clock.advance(60)
    assert tool.invoke({"purpose": "x", "username": "fresh"}).startswith("Created fresh.")


def test_the_key_reaches_neither_model_nor_checkpoint(pipelit: Pipelit, writer: Agent) -> None:
    """Of the new agent's key the model and the checkpoint see four characters, the creator all."""
    saver = InMemorySaver()
    call = calls("create_agent_user", purpose="helps", username="agent_helper")
    model = Scripted(script=[call, AIMessage("done")])
    graph = create_agent(model, [CreateAgentUser(agent=writer)], checkpointer=saver)
    graph.invoke({"messages": [("user", "go")]}, {"configurable": {"thread_id": "1"}})

    seen: list[str] = []

    @pipelit.credentials.inject(writer, key="agent-key.agent_writer.agent_helper")
    def look(*, key: Any) -> None:
        seen.append(key.get_secret_value())

    look()
    stored = repr(saver.storage) + repr(saver.blobs) + repr(saver.writes)
    assert seen[0].startswith("plit_")
    assert seen[0][:-4] not in stored + repr(model.told)
    assert seen[0].split("_", 2)[2][:20] not in stored + repr(model.told)
    assert seen[0][-4:] in stored


def test_broken_storage_is_for_the_developer(writer: Agent, editor: Agent, tmp_path: Path) -> None:
    """A database that can't count attempts ends the run; it isn't a text for the model."""
    pipelit = home_of(editor)
    with database_of(pipelit).writing() as connection:
        connection.exec_driver_sql("DROP TABLE pipelit_ledger")
    with pytest.raises(LedgerUnavailable):
        answer_to(
            [VerifyPeer(agent=editor)],
            calls("verify_peer", username="agent_writer", code="00000000"),
        )


def test_a_refusal_is_an_exception_where_the_developer_wants_it(editor: Agent) -> None:
    """With handle_tool_error=False the refusal is raised, with its cause."""
    tool = VerifyPeer(agent=editor, handle_tool_error=False)
    with pytest.raises(ToolException) as caught:
        tool.invoke({"username": "nobody", "code": "00000000"})
    assert type(caught.value.__cause__).__name__ == "CodeRejected"
