"""Run the demonstration with real graphs, a real checkpointer and real files.

A lead spawns three readers. Each analyses one text file and proves its answer. Then the lead
refuses three attacks, a node uses an encrypted key, which is searched for in every written file, a
payment waits for a person's code, and the audit trail is displayed.
"""

from __future__ import annotations

import hmac
import json
import secrets
import sqlite3
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, StateGraph
from langgraph.runtime import RunControl
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from typing_extensions import TypedDict

import pipelit_agents
from pipelit_agents import AuditEntry, Keyring, Pipelit
from pipelit_agents.errors import ConfigurationError

from ..child import ANYONE, VerifiedChild, verified_child
from ..envelope import EnvelopeDict, SpawnRequest
from ..spawn.node import spawn_and_await
from ..spawn.results import SpawnResult, SpawnTask
from ..spawn.run import EVENT
from ..types import AnyGraph
from .graphs import CREDENTIAL, lead_graph, reader_graph, sign
from .payment import AMOUNT, APPROVED, Attempt, attempts

__all__ = ["run"]

LEAD: Final = "lead"
READERS: Final = ("reader_1", "reader_2", "reader_3")
_MAX_CHARACTERS: Final = 200_000
# Characters of a name in a table.
_WIDTH: Final = 12


class _Report(TypedDict, total=False):
    report: str


class _Recorded(VerifiedChild):
    """An honest reader whose answers an attacker records."""

    recording: EnvelopeDict

    def answer(
        self, request: SpawnRequest, config: RunnableConfig, control: RunControl | None = None
    ) -> EnvelopeDict:
        self.recording = super().answer(request, config, control)
        return self.recording.copy()


class _Tampering(VerifiedChild):
    """A reader whose answer is changed in transit, after it was proven."""

    def answer(
        self, request: SpawnRequest, config: RunnableConfig, control: RunControl | None = None
    ) -> EnvelopeDict:
        envelope = super().answer(request, config, control)
        envelope["payload"] = envelope["payload"].replace(b'"words":', b'"words":1', 1)
        return envelope


class _Replaying(VerifiedChild):
    """A reader that replays a recorded answer of the real one."""

    recording: EnvelopeDict

    def answer(
        self, request: SpawnRequest, config: RunnableConfig, control: RunControl | None = None
    ) -> EnvelopeDict:
        return self.recording.copy()


def run(*, inputs: Sequence[Path] = (), model: str | None = None, as_json: bool = False) -> int:
    """Run the demonstration.

    Args:
        inputs: Up to three text files; by default documents of this project.
        model: A chat model, ``provider:name``. Its API key is read from the user's credential
            store, under the provider's name, together with public fields such as ``base_url``.
            Without a model the readers compute their summaries.
        as_json: Print one JSON document instead of tables.

    Returns:
        0 if all honest answers were verified, all attacks refused, and the approved payment was
        made once; otherwise 1.

    Raises:
        ConfigurationError: An input can't be read, or the model isn't available.
    """
    began = time.monotonic()
    files = _files(inputs)
    with ExitStack() as stack:
        own = stack.enter_context(Pipelit.from_env()) if model else None
        return _show(files, reader_graph(model, own), model, as_json=as_json, began=began)


def _show(
    files: list[Path],
    reader: AnyGraph,
    model: str | None,
    *,
    as_json: bool,
    began: float,
) -> int:
    console = Console(quiet=as_json)
    folder = Path(tempfile.mkdtemp(prefix="pipelit-demo-"))
    console.print(f"Working in [bold]{escape(str(folder))}[/] (you can delete it afterwards)")
    with _identities(folder / "agents.db") as pipelit:
        how = (
            f"the readers use {model}"
            if model
            else "the readers use no model (--model provider:name to use one)"
        )
        console.print(f"[bold]1. A lead spawns three readers[/]; {escape(how)}")
        recorded = _Recorded(graph=reader, agent=pipelit.agent(READERS[0]), accept_from=(LEAD,))
        children: dict[str, AnyGraph] = {READERS[0]: recorded}
        for name in READERS[1:]:
            children[name] = verified_child(reader, pipelit.agent(name), accept_from=[LEAD])
        key = f"rk-{secrets.token_urlsafe(32)}"
        pipelit.credentials.put(CREDENTIAL, key, kind="service", created_by="demo")
        checkpoints = folder / "checkpoints.db"
        state = _delegate(pipelit, children, files, checkpoints, console)
        console.print(_results_table(state["results"]))

        console.print("\n[bold]2. Three attacks on the same node[/]")
        attacks = _attacks(pipelit, reader_graph(), recorded.recording, files[0])
        console.print(_attacks_table(attacks))

        console.print("\n[bold]3. An encrypted key, used inside the node that signs the report[/]")
        found = _count(key, folder)
        naive = _count_without(key, folder / "without.db")
        signed = hmac.compare_digest(state["signature"], sign(state["report"], key))
        console.print(
            f"The report is signed with the key ({'verified' if signed else 'WRONG'}). The "
            f"written files contain the key [bold]{found}[/] times. Without pipelit-agents, with "
            f"the key in [italic]configurable[/], they contain it [bold]{naive}[/] times."
        )

        console.print("\n[bold]4. A payment of 90 that waits for a person's code[/]")
        with SqliteSaver.from_conn_string(str(folder / "payments.db")) as saver:
            tried = attempts(pipelit, saver)
        console.print(_payment_table(tried))

        console.print("\n[bold]5. The refusals in the audit trail[/], each with its reason")
        audit = pipelit.audit.list(limit=200)
        console.print(_audit_table([entry for entry in audit if entry.outcome == "refused"]))
    verified = all(result["status"] == "verified" for result in state["results"])
    refused = all(attack["status"] == "refused" for attack in attacks)
    paid = [each.paid for each in tried]
    approved = [each.attempt for each in tried].index(APPROVED)
    once = not any(paid[:approved]) and all(each == (AMOUNT,) for each in paid[approved:])
    good = verified and refused and signed and found == 0 and once
    took = time.monotonic() - began
    verdict = "[green]All as promised[/]" if good else "[red]NOT as promised[/]"
    console.print(f"{verdict}, in {took:.1f} s.")
    if as_json:
        document = {
            "ok": good,
            "model": model,
            "folder": str(folder),
            "results": state["results"],
            "attacks": attacks,
            "key_found_in_files": found,
            "key_found_without_pipelit_agents": naive,
            "payment": [each._asdict() for each in tried],
            "audit_rows": len(audit),
            "seconds": round(took, 2),
        }
        print(json.dumps(document, ensure_ascii=False, indent=2))  # noqa: T201 - the output asked for
    return 0 if good else 1


def _identities(path: Path) -> Pipelit:
    # The key exists in this process only, so the folder's data can't be decrypted afterwards.
    pipelit = Pipelit(database_url=f"sqlite:///{path}", encryption_keys=[Keyring.generate_key()])
    pipelit.create_schema()
    pipelit.users.create("demo")
    for name in (LEAD, *READERS):
        pipelit.users.create_agent(name, owner="demo", purpose="demonstration")
    return pipelit


def _files(inputs: Sequence[Path]) -> list[Path]:
    if len(inputs) > len(READERS):
        raise ConfigurationError(f"--input: at most {len(READERS)} files, one for each reader")
    package = Path(pipelit_agents.__file__).parent
    ours = [package.parent / name for name in ("README.md", "SECURITY.md", "CHANGELOG.md")]
    if not all(each.is_file() for each in ours):
        # A wheel has no documents, so use modules instead.
        ours = [package / name for name in ("errors.py", "otp.py", "policy.py")]
    files = [path.resolve() for path in inputs] or ours
    for path in files:
        try:
            _text(path)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"--input {path}: not a readable text file ({error})"
            ) from None
    return files


def _document(path: Path) -> dict[str, str]:
    return {"name": path.name, "text": _text(path)}


def _text(path: Path) -> str:
    with path.open(encoding="utf-8") as lines:
        return lines.read(_MAX_CHARACTERS)


def _delegate(
    pipelit: Pipelit,
    children: dict[str, AnyGraph],
    files: list[Path],
    checkpoints: Path,
    console: Console,
) -> dict[str, Any]:
    tasks = [
        SpawnTask(agent=name, input=_document(path))
        for name, path in zip(READERS, files, strict=False)
    ]
    progress = {task["agent"]: "waiting" for task in tasks}
    config = RunnableConfig(configurable={"thread_id": "demo"})
    builder = lead_graph(pipelit, pipelit.agent(LEAD), children)
    with SqliteSaver.from_conn_string(str(checkpoints)) as saver:
        graph = builder.compile(checkpointer=saver)
        with Live(_progress_table(progress, files), console=console, transient=True) as live:
            for event in graph.stream({"tasks": tasks}, config, stream_mode="custom"):
                if event.get("type") == EVENT:
                    progress[event["agent"]] = event["event"]
                    live.update(_progress_table(progress, files))
                    if not console.is_terminal:
                        console.print(f"  {event['agent']}: {event['event']}")
        return dict(graph.get_state(config).values)


def _attacks(
    pipelit: Pipelit, reader: AnyGraph, recording: EnvelopeDict, file: Path
) -> list[dict[str, str]]:
    name = READERS[0]
    true = pipelit.agent(name)
    replaying = _Replaying(graph=reader, agent=true)
    replaying.recording = recording
    found = []
    with (
        tempfile.TemporaryDirectory() as elsewhere,
        _identities(Path(elsewhere) / "agents.db") as other,
    ):
        hostile: dict[str, AnyGraph] = {
            "an impostor with the reader's name, but without its secret": verified_child(
                reader, other.agent(name), accept_from=ANYONE
            ),
            "the answer changed after it was proven": _Tampering(graph=reader, agent=true),
            "the reader's own earlier answer, replayed": replaying,
        }
        for attack, child in hostile.items():
            node = spawn_and_await(pipelit.agent(LEAD), {name: child}, on_failure="collect")
            task = SpawnTask(agent=name, input=_document(file))
            result = node.invoke({"tasks": [task]})["results"][0]
            answer = f"{result['status']}: {result['error']}"
            found.append({"attack": attack, "status": result["status"], "result": answer})
    return found


def _count(secret: str, folder: Path) -> int:
    return sum(path.read_bytes().count(secret.encode()) for path in folder.iterdir())


def _count_without(secret: str, path: Path) -> int:
    # For comparison: LangGraph stores a key that is passed as configuration.
    def node(state: _Report) -> _Report:
        return {"report": "signed"}

    builder = StateGraph(_Report)
    builder.add_node("report", node)
    builder.add_edge(START, "report")
    connection = sqlite3.connect(path, check_same_thread=False)
    try:
        graph = builder.compile(checkpointer=SqliteSaver(connection))
        graph.invoke({}, {"configurable": {"thread_id": "1", "service_credential": secret}})
        return _count(secret, path.parent)
    finally:
        connection.close()
        for each in path.parent.glob(f"{path.name}*"):
            each.unlink()


def _progress_table(progress: dict[str, str], files: list[Path]) -> Table:
    table = Table("child", "file", "state", box=SIMPLE_HEAD)
    for (name, state), path in zip(progress.items(), files, strict=False):
        table.add_row(name, escape(path.name), state)
    return table


def _results_table(results: list[SpawnResult]) -> Table:
    table = Table("child", "status", "time step", "file", "words", "summary", box=SIMPLE_HEAD)
    for column in table.columns[:3]:
        column.no_wrap = True
    for result in results:
        output = result["output"] or {}
        table.add_row(
            result["agent"],
            f"[green]{result['status']}[/]"
            if result["status"] == "verified"
            else f"[red]{result['status']}[/]",
            (result["proved_at"] or "")[11:19],
            escape(output.get("name", "")),
            str(output.get("words", "")),
            escape(str(output.get("summary") or result["error"])),
        )
    return table


def _attacks_table(attacks: list[dict[str, str]]) -> Table:
    table = Table("attack", "result for the lead", box=SIMPLE_HEAD)
    for attack in attacks:
        colour = "green" if attack["status"] == "refused" else "red"
        table.add_row(attack["attack"], f"[{colour}]{escape(attack['result'])}[/]")
    return table


def _payment_table(tried: Sequence[Attempt]) -> Table:
    table = Table("attempt", "result", "paid", box=SIMPLE_HEAD)
    for each in tried:
        good = each.paid == ((AMOUNT,) if each.attempt == APPROVED or each is tried[-1] else ())
        paid = ", ".join(map(str, each.paid)) or "nothing"
        colour = "green" if good else "red"
        table.add_row(each.attempt, escape(each.result), f"[{colour}]{paid}[/]")
    return table


def _audit_table(entries: Sequence[AuditEntry]) -> Table:
    table = Table("time", "actor", "about", "action", "reason", box=SIMPLE_HEAD)
    for column in table.columns[:4]:
        column.no_wrap = True
    for entry in entries:
        table.add_row(
            f"{entry.at:%H:%M:%S}",
            entry.actor,
            # The id of a question is long.
            entry.subject if len(entry.subject) <= _WIDTH else f"{entry.subject[: _WIDTH - 1]}…",
            entry.action,
            f"[red]{escape(entry.reason)}[/]",
        )
    return table
