"""A PostgreSQL primary and its standby: after a failover a process finds the primary by itself."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from internals import database_of
from keeper import Keeper
from postgres import PostgresServer

from pipelit_agents import Keyring, Pipelit
from pipelit_agents.errors import LedgerUnavailable, StorageError


class Pair(NamedTuple):
    """A primary and a standby that is a copy of it, with our tables and two agents."""

    primary: PostgresServer
    standby: PostgresServer
    key: str
    # A name that leads to one of them, as a service name does.
    service: Path

    def lead_to(self, server: PostgresServer) -> None:
        """Have the service's name lead to a server."""
        self.service.unlink(missing_ok=True)
        self.service.symlink_to(server.folder)

    def at(self, *folders: Path, more: str = "") -> Pipelit:
        """Use the database at one of these servers."""
        hosts = "&".join(
            f"host={each}:5432" if len(folders) > 1 else f"host={each}" for each in folders
        )
        return Pipelit(
            database_url=f"postgresql+psycopg://postgres@/postgres?{hosts}{more}",
            encryption_keys=[self.key],
        )


@pytest.fixture(scope="module")
def pair(keeper: Keeper) -> Iterator[Pair]:
    """Two servers, for all tests here: each of them takes half a second to start."""
    with keeper.own_folder() as first, keeper.own_folder() as second, keeper.own_folder() as third:
        pair = Pair(
            PostgresServer(first), PostgresServer(second), Keyring.generate_key(), third / "db"
        )
        with pair.primary as primary, pair.standby as standby:
            primary.start()
            with pair.at(first) as pipelit:
                pipelit.create_schema()
                pipelit.users.create("alice")
                for name in ("agent_editor", "agent_writer"):
                    pipelit.users.create_agent(name, owner="alice", purpose="takes part")
            primary.stop()
            shutil.copytree(first / "data", second / "data", copy_function=_copied)
            (second / "data" / "standby.signal").touch()
            shutil.copystat(first, second)
            for each in (second, *second.rglob("*")):
                shutil.chown(each, first.stat().st_uid, first.stat().st_gid)
            primary.start()
            standby.start()
            yield pair


def _copied(source: str, target: str) -> str:
    # The servers are stopped at once, and their locks are left.
    if not source.endswith("postmaster.pid"):
        shutil.copy2(source, target)
    return target


def check(pipelit: Pipelit) -> str:
    """One agent checks the other's code."""
    code = pipelit.agent("agent_writer").totp_code(audience="agent_editor").code
    return pipelit.agent("agent_editor").verify_peer("agent_writer", code).peer


def test_of_several_servers_the_primary_is_used(pair: Pair) -> None:
    """Whichever of them is named first: reads come from the primary too."""
    with pair.at(pair.standby.folder, pair.primary.folder) as pipelit:
        pipelit.users.create("bob")
        assert pipelit.users.get("bob").username == "bob"


def test_a_connection_to_a_standby_is_replaced(pair: Pair) -> None:
    """One that was made to a demoted primary ends with the first write that it refuses."""
    pair.lead_to(pair.standby)
    with pair.at(pair.service, more="&target_session_attrs=any") as pipelit:
        assert pipelit.users.get("alice").username == "alice"
        with pytest.raises(StorageError, match=r"Nothing was written.*try again"):
            pipelit.users.create("carol")
        with pytest.raises(LedgerUnavailable, match="nothing is accepted"):
            check(pipelit)
        pair.lead_to(pair.primary)
        assert pipelit.users.create("carol").username == "carol"
        assert check(pipelit) == "agent_writer"


def test_all_connections_of_the_pool_are_replaced(pair: Pair) -> None:
    """Also those that were in use elsewhere when one of them was refused, and only read."""
    pair.lead_to(pair.standby)
    with pair.at(pair.service, more="&target_session_attrs=any") as pipelit:
        with database_of(pipelit).reading():
            with pytest.raises(StorageError, match="Nothing was written"):
                pipelit.users.create("dora")
            pair.lead_to(pair.primary)
        assert pipelit.users.create("dora").username == "dora"
        assert pipelit.users.get("dora").username == "dora"


def test_no_connection_is_made_to_a_standby(pair: Pair) -> None:
    """It could be behind: what it says about accounts and keys isn't taken for the truth."""
    pair.lead_to(pair.standby)
    with pair.at(pair.service) as pipelit:
        with pytest.raises(StorageError, match=r"name the primary.*target_session_attrs=any"):
            pipelit.users.get("alice")
        with pytest.raises(LedgerUnavailable, match="standby"):
            pipelit.agent("agent_editor").verify_peer("agent_writer", "00000000")
        pair.lead_to(pair.primary)
        assert pipelit.users.create("erin").username == "erin"
