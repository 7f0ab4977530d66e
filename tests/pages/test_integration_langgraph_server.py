"""docs/integrations/langgraph-server.md, with a real server."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

import pytest
from integration_pages import follow, read, set_up, write_files
from langgraph_server import LangGraphServer
from redis_server import free_port


@pytest.mark.process
def test_the_page_serves_and_asks(tmp_path: Path) -> None:
    """Its server is started by its own command, and the program prints what it says."""
    port = free_port()
    page = read("langgraph-server", {"2024": str(port)})
    (start,) = page.commands
    langgraph, dev, _, told, *options = shlex.split(start)
    assert (langgraph, dev, told) == ("langgraph", "dev", str(port))
    write_files(page, set_up(tmp_path))
    with LangGraphServer.of(tmp_path, {}, port=port, options=options):
        follow(dataclasses.replace(page, commands=[]), tmp_path)
