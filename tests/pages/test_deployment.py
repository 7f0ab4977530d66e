"""The page docs/deployment.md, typed by hand against real servers."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import fresh
import pytest
from paths import ROOT
from redis_server import RedisServer

from pipelit_agents import Keyring, Pipelit
from pipelit_agents.errors import ConfigurationError, LedgerUnavailable

PAGE = (ROOT / "docs" / "deployment.md").read_text()
LINES = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)[0].splitlines()


def test_what_the_page_installs_is_offered() -> None:
    """The extras that it names are the package's, and bring the drivers."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (named,) = re.findall(r"pipelit-agents\[(.*)\]", LINES[0])
    wanted = [extras["optional-dependencies"][each][0] for each in named.split(",")]
    assert [re.split(r"\W", each)[0] for each in wanted] == ["psycopg", "redis"]


def test_its_commands_set_up_a_deployment(
    postgres_url: str, redis_server: RedisServer, tmp_path: Path, key: str
) -> None:
    """With the settings that it exports, `init` makes the tables and finds the Redis."""
    ours = {
        "FIELD_ENCRYPTION_KEY": key,
        "PIPELIT_DATABASE_URL": postgres_url.replace("postgresql:", "postgresql+psycopg:"),
        "PIPELIT_REDIS_URL": redis_server.url,
    }
    exported = [line.split()[1].partition("=")[0] for line in LINES if line.startswith("export")]
    assert exported == list(ours)
    words = shlex.split(LINES[-1])
    assert words[0] == "pipelit-agents"
    done = subprocess.run(
        [*fresh.command(), *words[1:], "--json"],
        cwd=tmp_path,
        env={**os.environ, **ours},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["attempts counted in"] == redis_server.url
    assert told["database"].startswith("postgresql+psycopg://postgres:***@/")
    with Pipelit(
        database_url=postgres_url, redis_url=redis_server.url, encryption_keys=[key]
    ) as pipelit:
        pipelit.users.create("alice")
        for name in ("agent_a", "agent_b"):
            pipelit.users.create_agent(name, owner="alice", purpose="takes part")
        code = pipelit.agent("agent_a").totp_code(audience="agent_b").code
        assert pipelit.agent("agent_b").verify_peer("agent_a", code).peer == "agent_a"


@pytest.mark.process
def test_init_says_when_redis_is_not_there(tmp_path: Path, key: str) -> None:
    """A ledger that can't be reached is found out when it is set up, by its setting."""
    done = subprocess.run(
        [*fresh.command(), "init"],
        cwd=tmp_path,
        env={
            **os.environ,
            "FIELD_ENCRYPTION_KEY": key,
            "PIPELIT_REDIS_URL": f"unix://:hunter2-secret@{tmp_path}/nothing.sock",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "PIPELIT_REDIS_URL" in done.stderr
    assert "hunter2-secret" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_where_attempts_are_counted_can_be_asked(
    database_url: str, redis_server: RedisServer, key: str
) -> None:
    """The database, a Redis without its password, or an error that names the setting."""
    settings = {"database_url": database_url, "encryption_keys": [key]}
    with Pipelit(**settings) as pipelit:  # type: ignore[arg-type]
        assert pipelit.check_ledger() == "the database"
    with Pipelit(**settings, redis_url=redis_server.url) as pipelit:  # type: ignore[arg-type]
        assert pipelit.check_ledger() == redis_server.url
    with (
        Pipelit(**settings, redis_url="redis+nonsense://x") as pipelit,  # type: ignore[arg-type]
        pytest.raises(ConfigurationError, match="PIPELIT_REDIS_URL"),
    ):
        pipelit.check_ledger()
    with (
        Pipelit(**settings, redis_url="redis://127.0.0.1:1") as pipelit,  # type: ignore[arg-type]
        pytest.raises(LedgerUnavailable, match="PIPELIT_REDIS_URL"),
    ):
        pipelit.check_ledger()


@pytest.mark.parametrize("url", ["mysql://u@h/d", "postgresql+asyncpg://u@h/d", "oracle://u@h/d"])
def test_other_databases_are_refused_by_name(url: str) -> None:
    """What isn't tested isn't used: the error names the setting and what it may be."""
    with (
        Pipelit(database_url=url, encryption_keys=[Keyring.generate_key()]) as pipelit,
        pytest.raises(ConfigurationError, match=r"PIPELIT_DATABASE_URL.*sqlite"),
    ):
        pipelit.users.list()
