"""Research a question with three agents, and publish the report that Alice approves.

Run ``python research.py``; ``python research.py --help`` lists the options.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import textwrap
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from langchain_core.runnables import RunnableConfig
from newsroom import LIE, lead, researcher
from research_home import HERE, Phone, open_folder

from pipelit_agents import Pipelit
from pipelit_agents.errors import PipelitError


def main() -> None:
    """Run the example, as the command line says."""
    options = _options()
    try:
        with open_folder(options.folder) as pipelit:
            phone = Phone(pipelit, "alice", options.folder / "alice-phone.json")
            if options.code:
                print(phone.next_code())
            else:
                research(pipelit, phone, options)
    except (PipelitError, OSError) as error:
        sys.exit(f"research.py: {error}\n(the database is in {options.folder})")
    except KeyboardInterrupt:
        sys.exit("\nresearch.py: stopped; the question can't be used any more")


def research(pipelit: Pipelit, phone: Phone, options: argparse.Namespace) -> None:
    """Run the lead with its agents, one of them an impostor if that was asked for."""
    with ExitStack() as stack:
        replaced = {}
        if options.impostor:
            # The impostor has an account of the same name in a database of her own, and so
            # another secret.
            hers = Path(stack.enter_context(TemporaryDirectory()))
            elsewhere = stack.enter_context(open_folder(hers))
            replaced["agent_figures"] = researcher(elsewhere, "agent_figures", LIE)
        agent = lead(pipelit, options.folder, model=options.model, replaced=replaced)
        _run(agent, pipelit, phone, options)


def _run(agent: Any, pipelit: Pipelit, phone: Phone, options: argparse.Namespace) -> None:
    thread: RunnableConfig = {"configurable": {"thread_id": str(uuid4())}}
    _say(f"1. agent_lead asks three agents: {options.question}")
    state = agent.invoke({"messages": [("user", options.question)]}, thread)
    _show_answers(state)
    while waiting := state.get("__interrupt__"):
        question = waiting[0].value
        _say("2. The report waits for alice. It isn't published.")
        _quote(question["arguments"]["text"])
        if options.wait:
            _wait_for_another_terminal(pipelit, question["id"], options.folder)
        else:
            _approve_here(pipelit, question["id"], phone)
        # The answer is in the database. This only wakes the graph.
        state = agent.invoke(None, thread)
    _say("3. The lead continues.")
    _quote(state["messages"][-1].text)


def _show_answers(state: dict[str, Any]) -> None:
    for message in state["messages"]:
        if message.type == "tool" and message.name == "spawn_and_await":
            for result in message.artifact or []:
                print(f"   {result['agent']:14} {result['status']}")
                output = result["output"]
                _quote(output["messages"][-1].text if output else result["error"])


def _approve_here(pipelit: Pipelit, question: str, phone: Phone) -> None:
    print("   alice takes the next code of her phone (that can take half a minute).")
    decision = pipelit.approvals.decide(question, "alice", phone.next_code())
    print(f"   alice: {decision.decision}")


def _wait_for_another_terminal(pipelit: Pipelit, question: str, folder: Path) -> None:
    print("   In another terminal, look at it and approve it:\n")
    print(f"     cd {shlex.quote(str(folder))}")
    print(f"     python {shlex.quote(str(HERE / 'research.py'))} --folder . --code")
    print(f"     pipelit-agents approvals approve {question} --user alice\n", flush=True)
    while pipelit.approvals.get(question).state == "pending":
        time.sleep(0.5)
    print(f"   alice: {pipelit.approvals.get(question).state}")


def _say(text: str) -> None:
    print("\n" + textwrap.fill(text, 79))


def _quote(text: str) -> None:
    for line in text.splitlines():
        print(textwrap.fill(line, 79, initial_indent="   | ", subsequent_indent="   | "))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("question", nargs="?", default="How do otters live?")
    parser.add_argument(
        "--model", help="a chat model, such as openai:gpt-5-mini; default: a script"
    )
    parser.add_argument("--impostor", action="store_true", help="another agent plays agent_figures")
    parser.add_argument("--wait", action="store_true", help="approve from another terminal")
    parser.add_argument("--code", action="store_true", help="print alice's next code, and end")
    parser.add_argument(
        "--folder", type=Path, default=HERE / ".data", help="the folder of the database"
    )
    options = parser.parse_args()
    if options.model and not all(options.model.partition(":")):
        parser.error("--model is provider:name, such as openai:gpt-5-mini")
    options.folder = options.folder.absolute()
    return options


if __name__ == "__main__":
    main()
