"""What ``pipelit-agents desk`` prints."""

from __future__ import annotations

import pytest
from terminal import Terminal

from pipelit_agents import Pipelit


@pytest.mark.process
def test_it_says_where_it_listens_and_where_people_go(
    pipelit: Pipelit, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a public URL both, and no token as there is an operator; Ctrl-C ends it."""
    monkeypatch.setenv("FIELD_ENCRYPTION_KEY", key)
    monkeypatch.setenv("PIPELIT_DATABASE_URL", pipelit.database_url)
    public = "https://desk.example.com"
    words = ("--port", "0", "--public-url", public, "--behind-proxy", "127.0.0.1")
    desk = Terminal("desk", *words)
    said = desk.until("listens on: http://127.0.0.1:")
    assert f"  address: {public}\n" in said
    assert "set-up token" not in said
    desk.type("\x03")
    assert desk.end()[0] == 0
