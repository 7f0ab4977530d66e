"""What is left of every ordinary mistake with a key, with pipelit-agents and without."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from canary import HONEST, KEY, MISTAKES, both, in_memory, in_postgres, in_sqlite

from pipelit_agents import Pipelit

SAVERS = ["InMemorySaver", "SqliteSaver", "PostgresSaver"]
# These leave nothing in a checkpoint: here on one saver, in `make canary` on all.
APART = ("streams ", "writes pieces", "logs ", "names ", "sets ", "adds ")
CASES = [
    (saver, name)
    for saver in SAVERS
    for name in MISTAKES
    if saver == "InMemorySaver" or not name.startswith(APART)
]


@pytest.mark.parametrize(("saver", "name"), CASES)
def test_no_mistake_leaves_the_key_anywhere(
    pipelit: Pipelit, tmp_path: Path, saver: str, name: str, request: pytest.FixtureRequest
) -> None:
    """With pipelit-agents the key is in no channel; without, the same node leaves it in one."""
    pipelit.credentials.put("service", KEY, kind="api", created_by="alice")
    make = {"InMemorySaver": in_memory, "SqliteSaver": in_sqlite}.get(saver)
    if make is None:
        make = in_postgres(request.getfixturevalue("postgres_url"))
    with ExitStack() as stack:
        protect = pipelit.credentials.inject(key="service")
        ours, theirs = both(name, protect, make, stack, tmp_path)
    assert ours.hits == dict.fromkeys(ours.hits, 0)
    assert sum(theirs.hits.values()) > 0
    assert (name, ours.ended) != (HONEST, "SecretLeakError")
