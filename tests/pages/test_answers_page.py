"""docs/answers.md: its code runs as it stands, and its marks are those that are written."""

from __future__ import annotations

import re

import pytest
from paths import ROOT

from pipelit_agents import Pipelit
from pipelit_agents.graphs.standard import READERS

DOCS = ROOT / "docs"


def test_its_code_prints_what_it_says(
    pipelit: Pipelit,
    database_url: str,
    key: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As it stands on the page."""
    for name in ("agent_lead", "agent_researcher"):
        pipelit.users.create_agent(name, owner="alice", purpose="x")
    monkeypatch.setenv("FIELD_ENCRYPTION_KEY", key)
    monkeypatch.setenv("PIPELIT_DATABASE_URL", database_url)
    page = (DOCS / "answers.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    made = compile(code, "answers.md", "exec", dont_inherit=True)
    exec(made, {"__name__": "answers"})  # noqa: S102 - our own page
    said = capsys.readouterr().out.splitlines()
    assert said == ["2026 {'a book'}", "['ai']", "['messages[0]: a system message']"]
    for line in said:
        assert f"`{line}`" in page


def test_the_protocol_lists_each_mark() -> None:
    """A child in another language has to know all that may be in a task."""
    page = (DOCS / "protocol.md").read_text()
    for mark in (*READERS, "__pipelit_message__", "__pipelit_object__"):
        assert mark in page
