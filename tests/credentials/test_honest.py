"""No false alarms: honest nodes with every kind of credential open."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from credential_documents import DOCUMENTS
from honest import HONEST, LINES
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from pydantic import SecretStr
from typing_extensions import TypedDict

from pipelit_agents import Keyring, Pipelit
from pipelit_agents.credentials.leak_guard.patterns import Patterns
from pipelit_agents.errors import SecretLeakError

NAMES = [f"kinds:{kind}" for kind in DOCUMENTS]


class State(TypedDict, total=False):
    """What the graph passes on."""

    question: Any
    answer: Any


@pytest.fixture(scope="module")
def every_kind(tmp_path_factory: pytest.TempPathFactory) -> Pipelit:
    """One database with a credential of every kind."""
    folder = tmp_path_factory.mktemp("honest")
    pipelit = Pipelit(
        database_url=f"sqlite:///{folder}/agents.db", encryption_keys=[Keyring.generate_key()]
    )
    pipelit.create_schema()
    with warnings.catch_warnings():
        # Some of them are weak on purpose.
        warnings.simplefilter("ignore")
        secrets = {kind: secret for kind, (secret, _, _) in DOCUMENTS.items()}
        pipelit.credentials.put("kinds", secrets, kind="document", created_by="alice")
    return pipelit


def run(pipelit: Pipelit, references: dict[str, str], answer: Any, question: Any = None) -> Any:
    """What a graph of one node has in its state, when the node returned the answer."""

    @pipelit.credentials.guard
    def node(state: State) -> State:
        for reference in references.values():
            with pipelit.credentials.reveal(reference):
                pass
        return {"answer": answer}

    graph = StateGraph(State).add_node("node", node).add_edge(START, "node")
    return graph.compile(checkpointer=InMemorySaver()).invoke(
        {"question": question}, {"configurable": {"thread_id": "1"}}
    )


def test_the_corpus_is_large() -> None:
    """At least 200 different things that an honest node says."""
    assert len({repr(each) for each in HONEST}) >= 200


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES[::6])
def test_an_honest_node_with_a_secret_is_not_refused(every_kind: Pipelit, name: str) -> None:
    """A node gets a credential, and all of the corpus goes through it unchanged."""
    asked = [HumanMessage(line) for line in LINES]

    @every_kind.credentials.inject(key=name)
    def node(state: State, *, key: SecretStr) -> State:
        assert key.get_secret_value()
        return {"answer": HONEST}

    graph = StateGraph(State).add_node("node", node).add_edge(START, "node")
    found = graph.compile(checkpointer=InMemorySaver()).invoke(
        {"question": asked}, {"configurable": {"thread_id": name}}
    )
    assert found["answer"] == HONEST
    assert [each.content for each in asked] == LINES


@pytest.mark.slow
def test_an_honest_node_with_all_secrets_is_not_refused(every_kind: Pipelit) -> None:
    """One node has a credential of every kind open at once."""
    found = run(every_kind, dict(zip(NAMES, NAMES, strict=True)), HONEST)
    assert found["answer"] == HONEST


def test_each_answer_is_honest_by_itself() -> None:
    """None of the corpus is refused, searched one by one with the name of what is found."""
    patterns = {kind: Patterns({value: kind}) for kind, (value, _, _) in DOCUMENTS.items()}
    false = [
        (line, kind) for line in LINES for kind, each in patterns.items() if each.in_text(line)
    ]
    assert false == []


def test_a_node_that_is_not_honest_is_refused(every_kind: Pipelit) -> None:
    """The same node, the same corpus, and one secret in the middle of it."""
    answer = [*HONEST[:100], "the password is s3cr3t-value-1", *HONEST[100:]]
    with pytest.raises(SecretLeakError, match=r"answer\[100\]"):
        run(every_kind, {"key": NAMES[0]}, answer)
