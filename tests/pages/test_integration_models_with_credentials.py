"""docs/integrations/models-with-credentials.md, with a server that speaks as OpenAI's does."""

from __future__ import annotations

from pathlib import Path

import pytest
from integration_pages import follow, read, set_up
from openai_server import chat_server
from secured import answer

KEY = "sk-0123456789-abcdef"


@pytest.mark.process
def test_the_page_does_what_it_says(tmp_path: Path) -> None:
    """Each consumer of a model on the page sends the sealed key."""
    page = read("models-with-credentials")
    set_up(tmp_path)
    with chat_server(answer, KEY) as chat:
        follow(page, tmp_path, OPENAI_BASE_URL=chat.base_url)
    assert set(chat.shown) == {KEY}
