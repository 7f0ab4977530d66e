"""docs/integrations/langchain-mcp-adapters.md, with a server that wants a key."""

from __future__ import annotations

from pathlib import Path

import pytest
from integration_pages import follow, read, set_up
from test_mcp_adapters import serving


@pytest.mark.process
def test_the_page_does_what_it_says(tmp_path: Path) -> None:
    """The server gets the key with each request, and nothing else is needed."""
    page = read("langchain-mcp-adapters")
    set_up(tmp_path)
    with serving() as crm:
        follow(page, tmp_path, CRM_URL=crm.url)
    assert set(crm.seen) == {"Bearer crm-0123456789-abcdef"}
