"""For whom the running code acts."""

from __future__ import annotations

import asyncio

import pytest
from internals import database_of

from pipelit_agents import Keyring, Pipelit
from pipelit_agents.errors import InvalidUsername
from pipelit_agents.identity.acting import acting_person


def test_it_ends_with_its_block_also_after_an_error(pipelit: Pipelit) -> None:
    """Nobody acts for a person before the block, after it, or after one that raised."""
    database = database_of(pipelit)
    assert acting_person(database) is None
    seen: list[str | None] = []

    def act() -> None:
        with pipelit.acting_for("alice"):
            seen.append(acting_person(database))
            with pipelit.acting_for("bob"):
                seen.append(acting_person(database))
            seen.append(acting_person(database))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        act()
    assert seen == ["alice", "bob", "alice"]
    assert acting_person(database) is None


def test_a_person_of_another_database_is_nobody_here(pipelit: Pipelit) -> None:
    """Two databases may both have an alice."""
    other = Pipelit(database_url="sqlite://", encryption_keys=[Keyring.generate_key()])
    with other.acting_for("alice"):
        assert acting_person(database_of(pipelit)) is None


def test_only_a_username_is_taken(pipelit: Pipelit) -> None:
    """A name in another form is refused where it is given."""
    with pytest.raises(InvalidUsername):
        pipelit.acting_for("Alice").__enter__()


async def test_tasks_that_overlap_act_for_their_own_person(pipelit: Pipelit) -> None:
    """Two tasks at one moment don't see each other's person."""
    seen: dict[str, str | None] = {}

    async def act(name: str) -> None:
        with pipelit.acting_for(name):
            await asyncio.sleep(0)
            seen[name] = await asyncio.to_thread(acting_person, database_of(pipelit))

    await asyncio.gather(act("alice"), act("bob"))
    assert seen == {"alice": "alice", "bob": "bob"}
