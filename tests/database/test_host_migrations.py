"""An application with Alembic migrations of its own, in the database that it shares with us."""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fresh
import pytest
from paths import ROOT
from sqlalchemy import create_engine, inspect

from pipelit_agents import EncryptedString, Pipelit
from pipelit_agents.database import include_name, render_item
from pipelit_agents.database.models import Base

MODELS = """
from sqlalchemy import Column, Integer, MetaData, String, Table
from pipelit_agents import EncryptedString

metadata = MetaData()
Table(
    "customers",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(40)),
    Column("token", EncryptedString()),
)
"""
PAGE = ROOT / "docs" / "shared-database.md"
(SHOWN,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
IMPORT = SHOWN.splitlines()[0]
CONFIGURED = "target_metadata=target_metadata"
ADDED = [each.strip() for each in SHOWN.splitlines() if "include_name=" in each or "item=" in each]


# What the command of that name does.
ALEMBIC = "from alembic.config import main; main(prog='alembic')"


def alembic(folder: Path, *arguments: str) -> str:
    """What Alembic's own command prints, in the application's folder."""
    done = fresh.run(ALEMBIC, os.environ, *arguments, folder=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def tables(url: str) -> set[str]:
    """The names of the tables that are there."""
    engine = create_engine(url)
    try:
        return set(inspect(engine).get_table_names())
    finally:
        engine.dispose()


@pytest.fixture
def application(tmp_path: Path, pipelit: Pipelit, settings: dict[str, Any]) -> Path:
    """An application with one table, set up by ``alembic init`` and the two lines of the page."""
    folder = tmp_path / "application"
    folder.mkdir()
    alembic(folder, "init", "migrations")
    (folder / "models.py").write_text(MODELS)
    ini = folder / "alembic.ini"
    url = settings["database_url"].replace("%", "%%")
    lines = ini.read_text().splitlines()
    changed = [
        f"sqlalchemy.url = {url}" if each.startswith("sqlalchemy.url") else each for each in lines
    ]
    ini.write_text("\n".join(changed))
    env = folder / "migrations" / "env.py"
    text = env.read_text()
    assert text.count(CONFIGURED) == 2
    assert len(ADDED) == 2
    env.write_text(
        text.replace(
            "target_metadata = None",
            f"from models import metadata as target_metadata\n{IMPORT}",
        ).replace(CONFIGURED, ", ".join([CONFIGURED, *[each.rstrip(",") for each in ADDED]]))
    )
    return folder


@pytest.mark.process
@pytest.mark.backends("sqlite", "postgres")
def test_autogenerate_plans_nothing_of_ours_and_its_migration_runs(
    application: Path, pipelit: Pipelit, settings: dict[str, Any]
) -> None:
    """The application's table is made, and accounts and audit are as they were."""
    before = tables(settings["database_url"])
    alembic(application, "revision", "--autogenerate", "-m", "customers")
    (written,) = (application / "migrations" / "versions").glob("*.py")
    text = written.read_text()
    assert "pipelit_" not in text.replace("from pipelit_agents import", "")
    assert text.count("EncryptedString()") == 1
    assert text.count("from pipelit_agents import EncryptedString") == 1
    alembic(application, "upgrade", "head")
    found = tables(settings["database_url"])
    assert found == before | {"customers", "alembic_version"}
    assert [each.username for each in pipelit.users.list()] == ["alice"]
    alembic(application, "check")
    alembic(application, "downgrade", "base")
    left = tables(settings["database_url"])
    assert left == before | {"alembic_version"}


@pytest.mark.process
def test_without_the_filter_our_tables_would_be_dropped(application: Path) -> None:
    """So the test above would find it."""
    env = application / "migrations" / "env.py"
    env.write_text(env.read_text().replace("include_name=include_name, ", ""))
    alembic(application, "revision", "--autogenerate", "-m", "all")
    (written,) = (application / "migrations" / "versions").glob("*.py")
    assert "op.drop_table('pipelit_users')" in written.read_text()


def test_every_table_of_ours_is_left_out() -> None:
    """The tables, their columns, indexes and constraints, and the version of the migrations."""
    for table in [*Base.metadata.tables, "pipelit_version"]:
        assert not include_name(table, "table", {"schema_name": None})
        for kind in ("column", "index", "unique_constraint", "foreign_key_constraint"):
            assert not include_name("x", kind, {"schema_name": None, "table_name": table})


@pytest.mark.parametrize(
    ("name", "kind", "parents"),
    [
        ("customers", "table", {"schema_name": None}),
        ("my_pipelit_notes", "table", {"schema_name": "public"}),
        ("pipelit_id", "column", {"schema_name": None, "table_name": "customers"}),
        (None, "schema", {}),
        ("pipelit_data", "schema", {}),
        ("x", "index", {}),
    ],
)
def test_all_else_is_the_applications(name: str | None, kind: str, parents: dict[str, Any]) -> None:
    """Names that only look like ours are not left out."""
    assert include_name(name, kind, parents)


def test_only_our_type_is_rendered_by_us() -> None:
    """Everything else stays Alembic's business."""
    context: Any = SimpleNamespace(imports=set())
    assert render_item("type", object(), context) is False
    assert render_item("table", EncryptedString(), context) is False
    assert context.imports == set()
    assert render_item("type", EncryptedString(), context) == "EncryptedString()"
    assert context.imports == {"from pipelit_agents import EncryptedString"}
