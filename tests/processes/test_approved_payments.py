"""Payments that people approve are made once, whoever is killed, and whoever wakes the agent."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fresh
import pyotp
import pytest
from test_mfa import app_of

from pipelit_agents import Pipelit

pytestmark = pytest.mark.process

NOW = 1_900_000_000.0
# An agent whose model pays once for each of the given amounts. It stops to be killed at a place.
AGENT = """
import os, sys, threading
from typing import Any
from langchain.agents import create_agent
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.sqlite import SqliteSaver
from pipelit_agents import Approvers, Pipelit
from pipelit_agents.approvals.calls import CallApprovals
from pipelit_agents.middleware import ApprovalMiddleware

place, folder, now, *amounts = sys.argv[1:]
pipelit = Pipelit.from_env(clock=lambda: float(now))

def stop(here):
    if here == place:
        os.write(1, b"there\\n")
        threading.Event().wait()

@tool
def send_money(amount: int, to: str) -> str:
    "Pay somebody."
    stop("before the payment")
    with open(f"{folder}/paid", "a") as paid:
        paid.write(f"{amount} to {to}\\n")
    stop("after the payment")
    return f"paid {amount} to {to}"

def stopping_after(name):
    real = getattr(CallApprovals, name)
    def stopped(*given, **named):
        done = real(*given, **named)
        stop(f"after {name}")
        return done
    setattr(CallApprovals, name, stopped)

for name in ("start", "finish"):
    stopping_after(name)

class Model(GenericFakeChatModel):
    def bind_tools(self, *_: Any, **__: Any) -> Any:
        return self

calls = [
    {"name": "send_money", "args": {"amount": int(amount), "to": "bob"}, "id": f"call_{amount}"}
    for amount in amounts
]
answers = [AIMessage("", tool_calls=calls)] if "first" in os.environ else []
model = Model(messages=iter([*answers, AIMessage("done")]))
with SqliteSaver.from_conn_string(f"{folder}/checkpoints.db") as saver:
    asking = ApprovalMiddleware(pipelit, {"send_money": Approvers(["alice", "bob", "carol"])})
    agent = create_agent(model, [send_money], middleware=[asking], checkpointer=saver)
    given = {"messages": [("user", "pay")]} if answers else None
    state = agent.invoke(given, {"configurable": {"thread_id": "1"}}, durability="sync")
    for message in state["messages"]:
        if isinstance(message, ToolMessage):
            print(message.content)
    print(len(state.get("__interrupt__", [])), "wait")
"""
DECIDE = """
import sys
from pipelit_agents import Pipelit
identifier, name, code, now = sys.argv[1:]
print(Pipelit.from_env(clock=lambda: float(now)).approvals.decide(identifier, name, code).actor)
"""


class Office:
    """Three people with their apps, and the processes in which they and the agent act."""

    def __init__(self, pipelit: Pipelit, folder: Path, environment: dict[str, str]) -> None:
        self.pipelit, self.folder, self.environment = pipelit, folder, environment
        self.apps: dict[str, pyotp.TOTP] = {}
        for name in ("alice", "bob", "carol"):
            pipelit.users.create(name)
            self.apps[name] = app_of(pipelit.mfa.enroll(name))
            pipelit.mfa.confirm(name, self.apps[name].at(NOW - 60))

    def agent(self, *amounts: int, first: bool = False) -> subprocess.CompletedProcess[str]:
        """Start or wake the agent in a process of its own."""
        environment = self.environment | ({"first": "1"} if first else {})
        words = map(str, ("", self.folder, NOW, *amounts))
        return fresh.run(AGENT, environment, *words)

    def wake(self, name: str) -> int:
        """Wake the agent in a process that goes on; its number."""
        words = map(str, ("", self.folder, NOW))
        folder, imports = self.folder, "langgraph.checkpoint.sqlite"
        says = folder / name
        return fresh.start(
            AGENT, self.environment, *words, folder=folder, says=says, imports=imports
        )

    def killed(self, place: str, *amounts: int) -> None:
        """Wake the agent, and kill its process at a place."""
        words = map(str, (place, self.folder, NOW, *amounts))
        assert fresh.killed_after_a_line(AGENT, *words) == "there\n"

    def decide(self, amount: int, name: str) -> str:
        """Let a person approve a payment, in a process of their own."""
        (found,) = [
            each.id
            for each in self.pipelit.approvals.pending()
            if each.arguments["amount"] == amount
        ]
        done = fresh.run(DECIDE, self.environment, found, name, self.apps[name].at(NOW), str(NOW))
        return done.stdout + done.stderr

    @property
    def paid(self) -> list[str]:
        """What was paid."""
        file = self.folder / "paid"
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def office(
    settings: dict[str, Any], key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Office]:
    """An office on this test's backend."""
    environment = {"FIELD_ENCRYPTION_KEY": key, "PIPELIT_DATABASE_URL": settings["database_url"]}
    if settings["redis_url"]:
        environment["PIPELIT_REDIS_URL"] = settings["redis_url"]
    for name in environment:
        monkeypatch.delenv(name, raising=False)
    # The codes with which people confirm their factors come before those with which they approve.
    moments = [NOW - 60]
    with Pipelit(**settings, clock=lambda: moments[-1]) as made:
        made.create_schema()
        found = Office(made, tmp_path, dict(os.environ) | environment)
        moments.append(NOW)
        yield found


UNKNOWN = "it isn't known whether it took effect"


@pytest.mark.parametrize(
    ("place", "paid", "told"),
    [
        ("after start", 0, UNKNOWN),
        ("before the payment", 0, UNKNOWN),
        ("after the payment", 1, UNKNOWN),
        ("after finish", 1, "paid 90 to bob"),
    ],
)
def test_a_killed_process_never_pays_twice(
    office: Office, place: str, paid: int, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between approval and checkpoint, the agent learns what is known, and goes on."""
    assert office.agent(90, first=True).stdout == "1 wait\n"
    assert office.decide(90, "alice") == "alice\n"
    for name, value in office.environment.items():
        monkeypatch.setenv(name, value)
    office.killed(place)
    for _ in range(2):
        woken = office.agent()
        assert told in woken.stdout, woken.stderr[-2000:]
        assert woken.stdout.endswith("0 wait\n")
        assert office.paid == ["90 to bob"] * paid


def test_three_people_answer_in_any_order_in_three_processes(office: Office) -> None:
    """What was answered is paid at the next run, once, and the others wait."""
    assert office.agent(1, 2, 3, first=True).stdout == "3 wait\n"
    assert office.decide(3, "carol") == "carol\n"
    assert office.agent().stdout.endswith("2 wait\n")
    assert office.paid == ["3 to bob"]
    assert office.decide(1, "alice") == "alice\n"
    assert office.decide(2, "bob") == "bob\n"
    assert office.agent().stdout.endswith("0 wait\n")
    assert sorted(office.paid) == ["1 to bob", "2 to bob", "3 to bob"]
    assert office.agent().returncode == 0
    assert len(office.paid) == 3


def test_processes_that_wake_the_agent_at_once_pay_once(office: Office) -> None:
    """However many processes resume one thread, each payment is made once."""
    office.agent(1, 2, 3, first=True)
    for amount, name in enumerate(("alice", "bob", "carol"), 1):
        office.decide(amount, name)
    wakers = [office.wake(f"waker {number}") for number in range(3)]
    assert [fresh.wait(each) for each in wakers] == [0, 0, 0]
    assert sorted(office.paid) == ["1 to bob", "2 to bob", "3 to bob"]
