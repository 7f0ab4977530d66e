"""Use what each extra of the wheel brings, in an environment that has that extra and no other.

Run by ``make smoke`` with the name of the extra, or with ``base`` for the wheel without any.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from pipelit_agents import Keyring, Pipelit
from pipelit_agents.errors import PipelitError

# What each extra installs, by the names under which it is imported.
BRINGS = {
    "desk": ("fastapi", "uvicorn"),
    "langchain": ("langchain.agents",),
    "mcp": ("mcp",),
    "postgres": ("psycopg", "langgraph.checkpoint.postgres"),
    "redis": ("redis",),
    "sqlite": ("langgraph.checkpoint.sqlite",),
}


def base() -> None:
    """Create an agent, delegate to it, and see that each feature names the extra that it needs."""
    for module in ("pipelit_agents.graphs", "pipelit_agents.tools", "pipelit_agents.server"):
        importlib.import_module(module)
    _create_agent()
    assert "pipelit-agents[desk]" in _command("desk").stderr
    assert "pipelit-agents[mcp]" in _command("mcp", "agent_a").stderr
    assert "pipelit-agents[sqlite]" in _command("demo").stderr
    uses: dict[str, Callable[[], object]] = {
        "langchain": lambda: importlib.import_module("pipelit_agents.middleware"),
        "postgres": _ask_postgres,
        "redis": _ask_redis,
    }
    for extra, use in uses.items():
        assert f"pipelit-agents[{extra}]" in _refusal(use), extra


def _refusal(use: Callable[[], object]) -> str:
    try:
        use()
    except (PipelitError, ImportError) as error:
        return str(error)
    return "nothing"


def desk() -> None:
    """Make the desk's application."""
    from pipelit_agents.desk import DeskSettings, make_app

    with _pipelit() as pipelit:
        assert make_app(pipelit, DeskSettings()).openapi()["paths"]


def langchain() -> None:
    """Import each middleware."""
    middleware = importlib.import_module("pipelit_agents.middleware")
    assert [getattr(middleware, each) for each in middleware.__all__]


def mcp() -> None:
    """Start the MCP server for a client that says nothing and goes."""
    _create_agent()
    done = _command("mcp", "agent_a")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


def postgres() -> None:
    """Use a database in PostgreSQL that isn't there: no package is missing."""
    assert "pip install" not in _refusal(_ask_postgres)


def redis() -> None:
    """Use a Redis that isn't there: no package is missing."""
    assert "pip install" not in _refusal(_ask_redis)


def _ask_postgres() -> None:
    with _pipelit(database_url="postgresql+psycopg://nobody@127.0.0.1:9/none") as pipelit:
        pipelit.users.list()


def _ask_redis() -> None:
    with _pipelit(redis_url="redis://127.0.0.1:9/0") as pipelit:
        pipelit.check_ledger()


def sqlite() -> None:
    """Run the demo."""
    done = _command("demo", "--json")
    assert done.returncode == 0, done.stderr


def _create_agent() -> None:
    assert _command("users", "create", "alice").returncode == 0
    words = ("--owner", "alice", "--purpose", "tries an extra")
    assert _command("agents", "create", "agent_a", *words).returncode == 0


def _pipelit(**settings: str) -> Pipelit:
    settings = {"database_url": f"sqlite:///{Path.cwd() / 'agents.db'}"} | settings
    made = Pipelit(**settings, encryption_keys=[Keyring.generate_key()])  # type: ignore[arg-type]
    if "sqlite" in settings["database_url"]:
        made.create_schema()
    return made


def _command(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "pipelit_agents.cli", *words]
    return subprocess.run(command, input="", capture_output=True, text=True, check=False)


def main(name: str) -> None:
    """Try one extra, or none, in an empty folder with settings of its own."""
    uses: dict[str, Callable[[], None]] = {
        each.__name__: each for each in (base, desk, langchain, mcp, postgres, redis, sqlite)
    }
    for module in BRINGS.get(name, ()):
        importlib.import_module(module)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["FIELD_ENCRYPTION_KEY"] = Keyring.generate_key()
        assert _command("init").returncode == 0
        uses[name]()


if __name__ == "__main__":
    main(sys.argv[1])
