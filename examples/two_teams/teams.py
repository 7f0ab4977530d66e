"""The two teams: a folder, a key and a database for each, and what they exchange once."""

from __future__ import annotations

import shutil
from pathlib import Path

from dotenv import dotenv_values

from pipelit_agents import Keyring, Pipelit
from pipelit_agents.errors import UserNotFound

HERE = Path(__file__).parent
KEY = "FIELD_ENCRYPTION_KEY"


def open_team(folder: Path, team: str) -> Pipelit:
    """Open a team's database, and make the files, the key and the accounts it lacks."""
    home = folder / team
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    for file in (HERE / team).iterdir():
        if file.is_file():
            shutil.copyfile(file, home / file.name)
    settings = home / ".env"
    if not settings.exists():
        settings.touch(0o600)
        settings.write_text(f"{KEY}={Keyring.generate_key()}\n")
    pipelit = Pipelit(
        database_url=f"sqlite:///{home / '.pipelit' / 'agents.db'}",
        encryption_keys=[dotenv_values(settings).get(KEY) or ""],
    )
    pipelit.create_schema()
    pipelit.apply(home / "accounts.yaml")
    return pipelit


def introduce(team_a: Pipelit, team_b: Pipelit) -> None:
    """Let each team verify the other's agent, and let A's lead reach B's server. Once is enough.

    On two machines, people carry these three secrets: ``pipelit-agents agents peering`` and
    ``agents enroll`` are the commands.
    """
    if not _knows(team_a, "agent_reader"):
        uri = team_b.users.issue_peering("agent_reader", domain="team_a").get_secret_value()
        team_a.users.enroll_peer(uri, name="agent_reader", domain="team_b")
    if not _knows(team_b, "agent_lead"):
        uri = team_a.users.issue_peering("agent_lead", domain="team_b").get_secret_value()
        team_b.users.enroll_peer(uri, name="agent_lead", domain="team_a")
    if not any(each.name == "reader-server" for each in team_a.credentials.list()):
        key = team_b.users.issue_api_key("agent_lead", name="the lead of team A").api_key
        team_a.credentials.put(
            "reader-server", key, kind="api-key", created_by="alice", allow=["agent_lead"]
        )


def _knows(pipelit: Pipelit, name: str) -> bool:
    try:
        pipelit.users.get(name)
    except UserNotFound:
        return False
    return True
