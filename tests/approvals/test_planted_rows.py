"""Rows that somebody planted, with values of any type, keep nobody from asking and answering."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from itertools import product

import pytest
from approving import Approving

from pipelit_agents import Approvers, Keyring, Pipelit
from pipelit_agents.approvals.calls import Call
from pipelit_agents.errors import ApprovalNotFound, ConfigurationError

PAY = Call("send_money", {"to": "bob", "amount": 90}, "call_1", "thread_1", "tools:1", "agent_x")
RULE = Approvers(["alice", "bob"], expires_in=900)
# What SQLite stores in any column, and no row of ours has.
VALUES = (
    "CAST(x'61ff80' AS TEXT)",
    "x'61ff80'",
    "CAST(x'610062' AS TEXT)",
    "'zzz'",
    "9223372036854775807",
    "9e999",
    "replace(hex(zeroblob(20000)), '0', '[')",
)


def plant(approving: Approving, table: str, **fields: str) -> int:
    """Copy a row for each column and each value, with the value there; return how many are in."""
    planted = 0
    with closing(sqlite3.connect(approving.url.removeprefix("sqlite:///"))) as connection:
        names = [each[1] for each in connection.execute(f"PRAGMA table_info({table})")]
        for number, (name, value) in enumerate(product(names, VALUES[:3])):
            columns = {each: f'"{each}"' for each in names}
            columns |= {each: text.format(number) for each, text in fields.items()}
            columns[name] = value
            copied = (
                f"INSERT INTO {table} SELECT {', '.join(columns.values())} FROM {table} LIMIT 1"  # noqa: S608 - fixed words
            )
            # A primary key of SQLite that is a number has to be one.
            with suppress(sqlite3.IntegrityError):
                planted += connection.execute(copied).rowcount
        connection.commit()
    return planted


@pytest.mark.slow
def test_planted_rows_are_in_nobodys_way(approving: Approving) -> None:
    """Questions are listed, answered, used and notified, and what was planted is named."""
    approvals, calls = approving.pipelit.approvals, approving.pipelit.approvals.calls
    asked, answered = calls.ask(PAY, RULE), PAY._replace(call_id="call_2")
    approving.approve(calls.ask(answered, RULE).id, "alice")
    calls.start(answered, RULE)
    approvals.notices.send(asked.id, _fails)
    planted = plant(approving, "pipelit_approvals", id="'apr_' || '{0:032}'")
    planted += plant(
        approving, "pipelit_approval_answers", seq="90 + {}", approval_id=f"'{asked.id}'"
    )
    planted += plant(approving, "pipelit_approval_notices", step="2 + {}")
    assert planted > 70

    assert [each.id for each in approvals.pending("alice")] == [asked.id]
    assert [each.id for each in approvals.pending()] == [asked.id]
    assert approvals.get(asked.id).decisions == ()
    assert len(approvals.register.list()) == 2
    assert not approvals.register.verify().whole
    more = calls.ask(PAY._replace(call_id="call_3"), RULE)
    assert more.id in {each.id for each in approvals.notices.send_due(lambda _: None)}
    approving.approve(asked.id, "alice")
    calls.start(PAY, RULE)
    approvals.deny(more.id, "bob", approving.code("bob"))
    approving.pipelit.keys.rotate()
    assert approving.pipelit.keys.status().unreadable
    approving.pipelit.keys.forget_unreadable()
    assert approvals.register.list()[-1].id == more.id


def test_a_wrong_key_does_not_say_that_nothing_waits(approving: Approving) -> None:
    """All questions would be left out, as if they were planted, and nobody would answer."""
    asked = approving.pipelit.approvals.calls.ask(PAY, RULE)
    wrong = {**approving.settings, "encryption_keys": [Keyring.generate_key()]}
    with Pipelit(**wrong, clock=approving.clock) as other:
        for names in (
            other.approvals.pending,
            other.approvals.register.list,
            lambda: other.approvals.notices.send_due(_fails),
        ):
            with pytest.raises(ConfigurationError, match="FIELD_ENCRYPTION_KEY"):
                names()
    unknown = "apr_" + "0" * 32
    with pytest.raises(ApprovalNotFound, match=f"there is no question {unknown} here"):
        approving.pipelit.approvals.get(unknown)
    with pytest.raises(ApprovalNotFound, match="an id is apr_ and 32 hexadecimal digits"):
        approving.pipelit.approvals.get(asked.id[:-1])


@pytest.mark.parametrize("value", VALUES)
def test_a_changed_attempt_keeps_nobody_waiting(approving: Approving, value: str) -> None:
    """The rows of notices have no tag: what can't be a number or a time counts as none."""
    approvals = approving.pipelit.approvals
    asked = approvals.calls.ask(PAY, RULE)
    approvals.notices.send(asked.id, _fails)
    approving.change(f"UPDATE pipelit_approval_notices SET attempts = {value}, due_at = {value}")  # noqa: S608 - fixed words
    (sent,) = approvals.notices.send_due(lambda _: None)
    assert (sent.id, sent.attempt, sent.delivered) == (asked.id, 1, True)


def _fails(_: object) -> None:
    raise OSError
