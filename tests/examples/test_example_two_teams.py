"""examples/two_teams: team A uses what team B's agent has proven, and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import example_runs
import fresh
import pytest
from integration_pages import environment

# Both graphs in one process, without servers: what passes between them goes through the proxy's
# function.
IN_ONE_PROCESS = """
import base64, json, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from teams import introduce, open_team
from wire import Proxy
from pipelit_agents.graphs import VerifiedChild, spawn_and_await

folder = Path.cwd()
team_a, team_b = open_team(folder, "team_a"), open_team(folder, "team_b")
for _ in range(2):
    introduce(team_a, team_b)
os.chdir(folder / "team_b")
sys.path.insert(0, os.getcwd())
from reader_graph import reader

proxy = Proxy()

class Proxied(VerifiedChild):
    def answer(self, request, config, control=None):
        envelope = super().answer(request, config, control)
        payload = base64.urlsafe_b64encode(envelope["payload"]).decode().rstrip("=")
        body = proxy.pass_on(json.dumps({"envelope": {**envelope, "payload": payload}}).encode())
        payload = json.loads(body)["envelope"]["payload"]
        return {**envelope, "payload": base64.urlsafe_b64decode(payload + "==")}

child = Proxied(graph=reader.graph, agent=reader.agent, accept_from=reader.accept_from)
lead = team_a.agent("agent_lead")
delegate = spawn_and_await(lead, {"agent_reader": child}, on_failure="collect")
task = {"agent": "agent_reader", "input": {"text": "Owls hunt. Owls sleep."}}
for proxy.meddles in (False, True):
    (result,) = delegate.invoke({"tasks": [task]})["results"]
    print(json.dumps([result["status"], result["output"], proxy.changed]))
"""


@pytest.mark.process
def test_a_proven_answer_is_used_and_a_changed_one_refused(tmp_path: Path) -> None:
    """The teams are introduced once, also if the example is run twice."""
    example = str(example_runs.EXAMPLES / "two_teams")
    done = fresh.run(IN_ONE_PROCESS, environment(), example, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    proven, changed = map(json.loads, done.stdout.splitlines())
    assert proven == ["verified", {"summary": "about owls, hunt, sleep"}, 0]
    assert changed == ["refused", None, 1]


@pytest.mark.process
@pytest.mark.everywhere
def test_two_servers_do_what_the_readme_says(tmp_path: Path) -> None:
    """The whole example, with both servers; `test_remote_page` starts two in every run."""
    done = example_runs.run("two_teams/two_teams.py", tmp_path)
    assert done.returncode == 0, done.stderr
    (block,) = example_runs.blocks("two_teams")
    assert re.fullmatch(example_runs.pattern(block), done.stdout.strip()), done.stdout


def test_both_servers_ask_for_keys_as_the_page_says() -> None:
    """The teams' langgraph.json are those of docs/remote.md, but for the graphs."""
    ours = [
        json.loads((example_runs.EXAMPLES / "two_teams" / team / "langgraph.json").read_text())
        for team in ("team_a", "team_b")
    ]
    whole = json.loads((example_runs.ROOT / "langgraph.json").read_text())
    for each in ours:
        assert each | {"graphs": {}} == whole | {"graphs": {}}
