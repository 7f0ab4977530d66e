"""What is left of every ordinary mistake with a key, with pipelit-agents and without."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from shutil import copyfile

import pytest
from canary import HONEST, MISTAKES, Protect, both, in_memory, in_postgres, in_sqlite, protecting
from paths import ROOT

from pipelit_agents import Keyring, Pipelit
from pipelit_agents.testing import Clock

SAVERS = ["InMemorySaver", "SqliteSaver", "PostgresSaver"]
# These leave nothing in a checkpoint: here on one saver, in `make canary` on all.
APART = ("streams ", "writes pieces", "logs ", "names ", "sets ", "adds ")
# What a checkpoint has a place of its own for; the others are kept as one of these is.
PLACES = (
    *(HONEST, "returns it", "returns Command", "returns Send", "returns a message"),
    *("returns it as a key", "changes its input", "interrupts with it", "puts it into metadata"),
    *("goes to a node of its name", "task returns it", "subgraph interrupts with it"),
    "logs in with a code",
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each mistake on a saver; on those of databases, all with --everywhere."""
    if "saver" in metafunc.fixturenames:
        everywhere = metafunc.config.getoption("everywhere")
        cases = [
            (saver, name)
            for saver in SAVERS
            for name in MISTAKES
            if saver == "InMemorySaver"
            or name in PLACES
            or (everywhere and not name.startswith(APART))
        ]
        metafunc.parametrize(("saver", "name"), cases)


@pytest.fixture(scope="module")
def protect(migrated_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Protect]:
    """Gives the key to a node, from a store that all tests here read."""
    file = tmp_path_factory.mktemp("canary") / "agents.db"
    copyfile(migrated_file, file)
    file.chmod(0o600)
    keys = [Keyring.generate_key()]
    url = f"sqlite:///{file}"
    with Pipelit(database_url=url, encryption_keys=keys, clock=Clock()) as pipelit:
        pipelit.users.create("alice")
        yield protecting(pipelit)


def test_no_mistake_leaves_the_key_anywhere(
    protect: Protect, tmp_path: Path, saver: str, name: str, request: pytest.FixtureRequest
) -> None:
    """With pipelit-agents the key is in no channel; without, the same node leaves it in one."""
    make = {"InMemorySaver": in_memory, "SqliteSaver": in_sqlite}.get(saver)
    if make is None:
        make = in_postgres(request.getfixturevalue("postgres_url"))
    with ExitStack() as stack:
        ours, theirs = both(name, protect, make, stack, tmp_path)
    assert ours.hits == dict.fromkeys(ours.hits, 0)
    assert sum(theirs.hits.values()) > 0
    assert (name, ours.ended) != (HONEST, "SecretLeakError")


@pytest.mark.parametrize("page", ["README.md", "SECURITY.md"])
def test_the_pages_say_how_many_there_are(page: str) -> None:
    """The number of mistakes that a page names is that of `make canary`."""
    text = " ".join((ROOT / page).read_text().split())
    said = re.findall(r"`make canary`.{0,40}? (?:makes|tries) (\d+) ordinary", text)
    assert said == [str(len(MISTAKES.keys() - {HONEST}))]
