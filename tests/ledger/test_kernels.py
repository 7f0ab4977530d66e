"""One SQLite file under two kernels, as in a virtual machine beside its host: noticed and named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from conftest import Clock
from internals import database_of
from sqlalchemy import text

from pipelit_agents import Agent, Pipelit
from pipelit_agents.errors import CodeRejected, LedgerUnavailable
from pipelit_agents.ledger import Ledger, LedgerContext, RedisLedger, SqlLedger

BACKENDS = ("sqlite", "redis")
Machine = Callable[[str], Agent]


@pytest.fixture
def machine(settings: dict[str, Any], clock: Clock, editor: Agent) -> Iterator[Machine]:
    """Makes an editor on a machine with this boot id."""
    del editor
    url = settings["redis_url"]
    with ExitStack() as stack:

        def made(boot_id: str) -> Agent:
            def ledger(context: LedgerContext) -> Ledger:
                database, policy = context.database, context.policy
                if url:
                    return RedisLedger(database, policy, url, context.clock, lambda: boot_id)
                return SqlLedger(database, policy, context.clock, lambda: boot_id)

            other = Pipelit(**(settings | {"redis_url": None}), ledger=ledger, clock=clock)
            return stack.enter_context(other).agent("agent_editor")

        yield made


def code(writer: Agent) -> str:
    """A code for the editor."""
    return writer.totp_code(audience="agent_editor").code


def ledger_check(pipelit: Pipelit) -> Any:
    """The checklist's item about the ledger."""
    (found,) = (each for each in pipelit.check() if each.name == "ledger")
    return found


def alternate(clock: Clock, writer: Agent, *editors: Agent) -> None:
    """Each asks once; the first comes back to a file that the second has used."""
    for each in editors:
        with pytest.raises(CodeRejected):
            each.verify_peer("agent_writer", code(writer))
        clock.advance(1)


def test_two_kernels_are_named_on_both(
    pipelit: Pipelit, clock: Clock, writer: Agent, machine: Machine
) -> None:
    """From the first return on each is told why, with both boot ids and what to do."""
    host, guest = machine("aaaaaaaa-host"), machine("bbbbbbbb-guest")
    alternate(clock, writer, host, guest)
    for each in (host, guest, host):
        with pytest.raises(LedgerUnavailable, match="two kernels use this SQLite file") as caught:
            each.verify_peer("agent_writer", code(writer))
        for word in ("aaaaaaaa", "bbbbbbbb", "PostgreSQL", "PIPELIT_DATABASE_URL"):
            assert word in str(caught.value)
        clock.advance(1)
    found = ledger_check(pipelit)
    assert not found.ok
    assert "bbbbbbbb" in found.found
    assert "one of them" in found.fix


def test_a_restart_is_no_second_kernel(
    pipelit: Pipelit, clock: Clock, writer: Agent, machine: Machine
) -> None:
    """Boot ids that don't come back are those of one machine, however often it was started."""
    alternate(clock, writer, *(machine(f"{number}0000000-boot") for number in range(4)))
    assert ledger_check(pipelit).ok
    clock.advance(90)
    last = machine("30000000-boot")
    assert last.verify_peer("agent_writer", code(writer)).peer == "agent_writer"
    assert pipelit.audit.list(subject="ledger")[-1].reason == "boot id 30000000 after 20000000"


def test_it_works_again_when_one_of_them_has_ended(
    pipelit: Pipelit, clock: Clock, writer: Agent, machine: Machine
) -> None:
    """Refused for three periods after the last change, and named for an hour."""
    host, guest = machine("aaaaaaaa-host"), machine("bbbbbbbb-guest")
    alternate(clock, writer, host, guest)
    with pytest.raises(LedgerUnavailable):
        host.verify_peer("agent_writer", code(writer))
    alternate(clock, writer, host)
    clock.advance(90)
    assert host.verify_peer("agent_writer", code(writer)).peer == "agent_writer"
    assert not ledger_check(pipelit).ok
    clock.advance(3600)
    assert ledger_check(pipelit).ok


def test_a_volume_may_move_there_and_back(
    pipelit: Pipelit, clock: Clock, writer: Agent, machine: Machine
) -> None:
    """More than an hour later it is no use at the same time."""
    host, guest = machine("aaaaaaaa-host"), machine("bbbbbbbb-guest")
    alternate(clock, writer, host, guest)
    clock.advance(3601)
    alternate(clock, writer, host)
    assert ledger_check(pipelit).ok


def test_it_tells_nothing_of_peers_and_codes(
    pipelit: Pipelit, clock: Clock, writer: Agent, machine: Machine
) -> None:
    """A right code, a wrong one and an unknown peer get the same words."""
    host, guest = machine("aaaaaaaa-host"), machine("bbbbbbbb-guest")
    alternate(clock, writer, host, guest)
    said = []
    for number, (peer, shown) in enumerate(
        [("agent_writer", code(writer)), ("agent_writer", "00000000"), ("agent_none", "00000000")]
    ):
        with pytest.raises(LedgerUnavailable) as caught:
            (host, guest)[number % 2].verify_peer(peer, shown)
        said.append(str(caught.value).replace("aaaaaaaa", "x").replace("bbbbbbbb", "x"))
    assert len(set(said)) == 1


@pytest.mark.backends("sqlite")
@pytest.mark.parametrize("reason", ["", "nonsense", "boot id a after", "boot id " * 8])
def test_a_planted_entry_keeps_nobody_from_working(
    pipelit: Pipelit, clock: Clock, writer: Agent, machine: Machine, reason: str
) -> None:
    """What isn't of our form is passed over."""
    planted = {"at": clock(), "reason": reason[:64]}
    with database_of(pipelit).writing() as connection:
        connection.execute(
            text(
                "INSERT INTO pipelit_audit (at, actor, subject, action, outcome, reason, run, node)"
                " VALUES (:at, '', 'ledger', 'ledger.boot', 'ok', :reason, '', '')"
            ),
            planted,
        )
    alternate(clock, writer, machine("aaaaaaaa-host"))
    assert ledger_check(pipelit).ok


@pytest.mark.backends("sqlite")
def test_nobody_is_locked_out_by_it(
    pipelit: Pipelit, clock: Clock, writer: Agent, machine: Machine
) -> None:
    """Attempts that nobody decided count for nobody."""
    host, guest = machine("aaaaaaaa-host"), machine("bbbbbbbb-guest")
    alternate(clock, writer, host, guest)
    before = [each.failures for each in pipelit.users.lanes("agent_writer")]
    for number in range(40):
        with pytest.raises(LedgerUnavailable):
            (host, guest)[number % 2].verify_peer("agent_writer", "00000000")
    assert [each.failures for each in pipelit.users.lanes("agent_writer")] == before
