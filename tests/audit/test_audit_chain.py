"""The audit trail against who can write to its tables and hasn't the key."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from conftest import Clock
from internals import clock_of, database_of, keyring_of
from sqlalchemy import text

from pipelit_agents import Keyring, Pipelit
from pipelit_agents.audit.records import entry, write
from pipelit_agents.audit.seals import AuditHead
from pipelit_agents.errors import AuditTampered, ConfigurationError, StorageError

BACKENDS = ("sqlite", "postgres")
# Stand in statements for an entry under the second seal, and the last one of it.
SECOND = "(SELECT last_id FROM pipelit_audit_seals WHERE number = 1) + 2"
LAST = "(SELECT last_id FROM pipelit_audit_seals WHERE number = 2)"


def note(pipelit: Pipelit, *names: str) -> None:
    """Records something about each name."""
    for name in names:
        with database_of(pipelit).writing() as connection:
            write(
                connection,
                entry(
                    at=clock_of(pipelit)(),
                    actor="alice",
                    subject=name,
                    action="verify.audience",
                    outcome="ok",
                    reason="",
                ),
            )


def change(pipelit: Pipelit, *statements: str) -> None:
    """Writes to the tables, as a thief with a pen would."""
    with database_of(pipelit).writing() as connection:
        for statement in statements:
            found = text(statement.replace("SECOND", SECOND).replace("LAST", LAST))
            assert connection.execute(found).rowcount > 0


@pytest.fixture
def sealed(pipelit: Pipelit) -> Pipelit:
    """Twelve entries under seals of five, and one after them."""
    taken = len(pipelit.audit.list())
    note(pipelit, *(f"subject{count}" for count in range(12 - taken)))
    assert pipelit.audit.seal(batch=5) == 12
    note(pipelit, "later")
    return pipelit


def test_a_trail_that_nobody_touched_is_whole(sealed: Pipelit) -> None:
    """What is sealed is counted as such, and what came later as not sealed yet."""
    report = sealed.audit.verify()
    assert (report.sealed, report.unsealed, report.pruned, report.problems) == (12, 1, 0, ())
    head = sealed.audit.head()
    assert (head.number, head.last_id) == (3, sealed.audit.list()[-2].id)
    assert sealed.audit.verify(head).problems == ()


FORGED = (
    "INSERT INTO pipelit_audit (id, at, actor, subject, action, outcome, reason, run, node) "
    "SELECT id + 1, at, actor, subject, action, outcome, reason, run, node FROM pipelit_audit "
    "WHERE id = SECOND"
)
CHANGES = {
    "an outcome changed": ["UPDATE pipelit_audit SET outcome = 'no' WHERE id = SECOND"],
    "a time changed": ["UPDATE pipelit_audit SET at = at + 1 WHERE id = SECOND"],
    "a thread changed": ["UPDATE pipelit_audit SET thread = 'x' WHERE id = SECOND"],
    "two exchanged": [
        "UPDATE pipelit_audit SET id = -1 WHERE id = SECOND",
        "UPDATE pipelit_audit SET id = SECOND WHERE id = SECOND + 1",
        "UPDATE pipelit_audit SET id = SECOND + 1 WHERE id = -1",
    ],
    "one removed": ["DELETE FROM pipelit_audit WHERE id = SECOND"],
    "one put between": ["DELETE FROM pipelit_audit WHERE id = SECOND + 1", FORGED],
    "all of a batch removed": [
        "DELETE FROM pipelit_audit WHERE id < SECOND + 4 AND id > SECOND - 2"
    ],
    "said to be pruned": [
        "DELETE FROM pipelit_audit WHERE id < SECOND + 4 AND id > SECOND - 2",
        "UPDATE pipelit_audit_seals SET pruned = mac WHERE number = 2",
    ],
    "a seal removed": ["DELETE FROM pipelit_audit_seals WHERE number = 2"],
    "a seal changed": ["UPDATE pipelit_audit_seals SET entries = 6 WHERE number = 2"],
    "a seal of other entries": [
        "UPDATE pipelit_audit_seals SET digest = (SELECT digest FROM pipelit_audit_seals b "
        "WHERE b.number = 1) WHERE number = 2"
    ],
}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_what_is_sealed_cant_be_changed_unseen(sealed: Pipelit, changes: list[str]) -> None:
    """Changed, removed, reordered, inserted, or its seal: the check names the seal."""
    change(sealed, *changes)
    problems = sealed.audit.verify().problems
    assert problems
    assert all(problem.startswith(("seal 2 ", "seal 3 ")) for problem in problems)


def test_a_cut_off_end_shows_against_a_head(sealed: Pipelit) -> None:
    """Without a head a cut-off end is no change; with one it is found."""
    head = sealed.audit.head()
    change(
        sealed,
        "DELETE FROM pipelit_audit WHERE id > LAST",
        "DELETE FROM pipelit_audit_seals WHERE number = 3",
    )
    assert sealed.audit.verify().problems == ()
    (problem,) = sealed.audit.verify(head).problems
    assert "newest seals were deleted" in problem
    # Nor by going on as if nothing had been.
    note(sealed, *(f"other{count}" for count in range(9)))
    sealed.audit.seal(batch=5)
    assert "newest seals were deleted" in sealed.audit.verify(head).problems[0]


def test_an_emptied_trail_shows_against_a_head(sealed: Pipelit) -> None:
    """All gone, seals too: only who kept a head can tell, and does."""
    head = AuditHead.from_json(sealed.audit.head().to_json())
    change(sealed, "DELETE FROM pipelit_audit", "DELETE FROM pipelit_audit_seals")
    assert "newest seals were deleted" in sealed.audit.verify(head).problems[0]


def test_a_chain_made_with_another_key_is_no_chain(
    sealed: Pipelit, settings: dict[str, Any]
) -> None:
    """Who has the tables, and a key of his own, can't write the trail anew."""
    change(sealed, "DELETE FROM pipelit_audit_seals")
    change(sealed, "DELETE FROM pipelit_encryption_key")
    with Pipelit(**settings | {"encryption_keys": [Keyring.generate_key()]}) as thief:
        thief.audit.seal()
    problems = sealed.audit.verify().problems
    assert problems
    assert all("not made with a key" in problem for problem in problems)


def test_entries_that_come_while_it_is_sealed_are_sealed_once(pipelit: Pipelit) -> None:
    """Many writers and two sealers at once: nothing is left out, nothing is under two seals."""
    taken = len(pipelit.audit.list(limit=1000))
    with ThreadPoolExecutor(6) as pool:
        writers = [pool.submit(note, pipelit, *(["x"] * 25)) for _ in range(4)]
        sealers = [
            pool.submit(lambda: [pipelit.audit.seal(batch=7) for _ in range(10)]) for _ in range(2)
        ]
        for each in (*writers, *sealers):
            each.result()
    pipelit.audit.seal()
    report = pipelit.audit.verify()
    assert (report.sealed, report.unsealed, report.problems) == (taken + 100, 0, ())


@pytest.mark.process
@pytest.mark.backends("sqlite", "postgres")
def test_a_killed_sealer_leaves_a_whole_trail(pipelit: Pipelit, settings: dict[str, Any]) -> None:
    """`kill -9` between seals: what was sealed is, the rest is sealed the next time."""
    note(pipelit, *(["x"] * 40))
    program = (
        "import os, sys, json\n"
        "from pipelit_agents import Pipelit\n"
        "pipelit = Pipelit(**json.loads(sys.argv[1]))\n"
        "batch, made = pipelit.audit.seals._seal_batch, []\n"
        "def kill(*given):\n"
        "    made.append(batch(*given))\n"
        "    len(made) == 3 and os.kill(os.getpid(), 9)\n"
        "    return made[-1]\n"
        "pipelit.audit.seals._seal_batch = kill\n"
        "pipelit.audit.seal(batch=5)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, json.dumps(settings)], check=False)
    assert done.returncode == -9
    assert pipelit.audit.verify().sealed == 15
    pipelit.audit.seal()
    report = pipelit.audit.verify()
    assert (report.unsealed, report.problems) == (0, ())


# What is kept for how long


def test_pruned_entries_leave_a_trail_that_can_be_checked(sealed: Pipelit, clock: Clock) -> None:
    """Whole batches go, the seals stay, and the head of before still fits."""
    head = sealed.audit.head()
    clock.advance(86_400)
    note(sealed, "new")
    sealed.audit.seal()
    before = datetime.fromtimestamp(clock(), UTC) - timedelta(hours=1)
    assert sealed.audit.prune(before) == 12
    report = sealed.audit.verify(head)
    assert (report.pruned, report.problems) == (12, ())
    # The newest batch stays, so that a new entry never gets an old number.
    assert sealed.audit.prune(datetime.fromtimestamp(clock() + 9, UTC)) == 0
    note(sealed, "newer")
    assert sealed.audit.seal() == 2
    assert sealed.audit.verify(head).problems == ()
    assert "audit.prune" in [entry.action for entry in sealed.audit.list()]
    assert sealed.audit.prune(before) == 0


WRONG_CLOCKS = {
    "in 31 years": 1e9,
    "in two days": 172_800,
    "never": float("inf"),
    "no time": float("nan"),
    "at the end of time": 1e300,
}


def dated(pipelit: Pipelit, at: float) -> None:
    """Records something with a time of its own, also one that the package itself never writes."""
    with database_of(pipelit).writing() as connection:
        row = entry(at=0.0, actor="a", subject="wrong", action="x", outcome="ok")
        write(connection, row | {"at": at})


@pytest.mark.backends("sqlite", "postgres")
@pytest.mark.parametrize("ahead", WRONG_CLOCKS.values(), ids=WRONG_CLOCKS)
@pytest.mark.parametrize("sealer_is_wrong", [False, True], ids=["", "and its sealer"])
def test_an_entry_from_a_clock_that_was_ahead_is_stepped_over(
    pipelit: Pipelit, clock: Clock, ahead: float, sealer_is_wrong: bool
) -> None:
    """It is listed and named, goes with its batch, and keeps nothing else from being pruned."""
    sqlite = database_of(pipelit).engine.dialect.name == "sqlite"
    if sqlite and ahead != ahead:
        pytest.skip("SQLite has no NaN")
    note(pipelit, "before")
    pipelit.audit.seal()
    dated(pipelit, clock() + ahead)
    assert any("dated in the future" in each for each in pipelit.audit.verify().notes)
    if sealer_is_wrong and ahead < 1e10:
        clock.advance(ahead)
        pipelit.audit.seal()
        clock.advance(-ahead)
    for name in ("after", "later"):
        note(pipelit, name)
        pipelit.audit.seal()
    report = pipelit.audit.verify()
    assert report.problems == ()
    assert bool(report.notes) is not (sealer_is_wrong and ahead < 1e10)
    assert "wrong" in [each.subject for each in pipelit.audit.list()]
    clock.advance(86_400)
    assert pipelit.audit.prune(datetime.fromtimestamp(clock() - 3600, UTC)) > 0
    assert [each.subject for each in pipelit.audit.list()] == ["later", "audit"]
    assert pipelit.audit.verify().problems == ()


@pytest.mark.parametrize("wrong", ["entries", "sealer", "entries and sealer"])
def test_a_clock_that_was_behind_deletes_nothing_early(
    pipelit: Pipelit, clock: Clock, wrong: str
) -> None:
    """Entries dated in 1970, or sealed then, don't go with the old ones before them."""
    note(pipelit, "before")
    pipelit.audit.seal()
    clock.advance(86_400)
    today = clock.now
    dated(pipelit, 5.0 if "entries" in wrong else today)
    clock.now = 10.0 if "sealer" in wrong else today
    pipelit.audit.seal()
    clock.now = today
    note(pipelit, "newest")
    pipelit.audit.seal()
    pipelit.audit.prune(datetime.fromtimestamp(clock() - 3600, UTC))
    assert [each.subject for each in pipelit.audit.list()] == ["wrong", "newest", "audit"]
    # In its time it goes.
    clock.advance(86_400)
    note(pipelit, "later")
    pipelit.audit.seal()
    pipelit.audit.prune(datetime.fromtimestamp(clock() - 3600, UTC))
    assert "wrong" not in [each.subject for each in pipelit.audit.list()]


def test_a_first_seal_from_a_clock_that_was_behind_deletes_nothing(
    pipelit: Pipelit, clock: Clock
) -> None:
    """Where every entry is later than its seal, it was the sealer's clock that was wrong."""
    today, clock.now = clock.now, 10.0
    pipelit.audit.seal()
    clock.now = today
    note(pipelit, "newest")
    pipelit.audit.seal()
    assert pipelit.audit.prune(datetime.fromtimestamp(clock() - 3600, UTC)) == 0


def test_an_entry_from_the_future_stays_until_what_follows_is_old(
    pipelit: Pipelit, clock: Clock
) -> None:
    """Nothing says how old it is but its place, so it isn't deleted with what came before it."""
    note(pipelit, "before")
    pipelit.audit.seal()
    clock.advance(86_400)
    dated(pipelit, clock() + 1e9)
    pipelit.audit.seal()
    note(pipelit, "newest")
    pipelit.audit.seal()
    pipelit.audit.prune(datetime.fromtimestamp(clock() - 3600, UTC))
    assert pipelit.audit.list()[0].subject == "wrong"


@pytest.mark.backends("sqlite")
def test_an_entry_without_a_time_doesnt_end_pruning(pipelit: Pipelit, clock: Clock) -> None:
    """What somebody wrote in place of a time is sealed as it is, named, listed and pruned."""
    note(pipelit, "odd")
    change(pipelit, "UPDATE pipelit_audit SET at = 'x' WHERE subject = 'odd'")
    pipelit.audit.seal()
    note(pipelit, "after")
    pipelit.audit.seal()
    assert "dated later than the seal" in pipelit.audit.verify().notes[0]
    assert next(each for each in pipelit.audit.list() if each.subject == "odd").at.year == 9999
    clock.advance(86_400)
    assert pipelit.audit.prune(datetime.fromtimestamp(clock() - 3600, UTC)) == 3


def test_nothing_is_pruned_over_a_change(sealed: Pipelit, clock: Clock) -> None:
    """Pruning isn't a way to lose the trace of a change."""
    change(sealed, CHANGES["an outcome changed"][0])
    clock.advance(86_400)
    with pytest.raises(AuditTampered, match="seal 2"):
        sealed.audit.prune(datetime.fromtimestamp(clock(), UTC))
    assert any("changed" in problem for problem in sealed.audit.verify().problems)


def test_what_was_pruned_is_on_record_also_if_it_stops(sealed: Pipelit, clock: Clock) -> None:
    """A change further on ends it when some batches are gone."""
    change(sealed, CHANGES["an outcome changed"][0])
    clock.advance(86_400)
    before = datetime.fromtimestamp(clock(), UTC)
    with pytest.raises(AuditTampered, match="seal 2"):
        sealed.audit.prune(before, by="alice")
    assert sealed.audit.verify().pruned
    (entry,) = sealed.audit.list(action="audit.prune")
    assert (entry.actor, entry.reason) == ("alice", f"10 before {before:%Y-%m-%d %H:%M}")


@pytest.mark.backends("sqlite")
def test_nothing_is_pruned_that_isnt_on_record(sealed: Pipelit, clock: Clock) -> None:
    """Nor is it when the process ends between the two."""
    with database_of(sealed).writing() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER refuse BEFORE INSERT ON pipelit_audit "
            "WHEN NEW.action = 'audit.prune' BEGIN SELECT RAISE(ABORT, 'full'); END"
        )
    clock.advance(86_400)
    with pytest.raises(StorageError, match="full"):
        sealed.audit.prune(datetime.fromtimestamp(clock(), UTC))
    assert sealed.audit.verify().pruned == 0


def test_a_seal_that_says_it_was_pruned_stops_pruning(sealed: Pipelit, clock: Clock) -> None:
    """A forged mark doesn't carry a changed batch past the check."""
    change(
        sealed,
        "UPDATE pipelit_audit SET outcome = 'no' WHERE id = 1",
        "UPDATE pipelit_audit_seals SET pruned = 'x' WHERE number = 1",
    )
    clock.advance(86_400)
    with pytest.raises(AuditTampered, match="seal 1"):
        sealed.audit.prune(datetime.fromtimestamp(clock(), UTC))


def test_two_that_prune_and_one_that_rotates_agree(sealed: Pipelit, clock: Clock) -> None:
    """At once, and no entry is taken for changed."""
    clock.advance(86_400)
    before = datetime.fromtimestamp(clock(), UTC)
    keyring = keyring_of(sealed)
    with ThreadPoolExecutor(3) as pool:
        pruned = [pool.submit(sealed.audit.prune, before) for _ in range(2)]
        tagged = pool.submit(sealed.audit.seals.retag, keyring)
        assert sum(each.result() for each in pruned) == 10
        tagged.result()
    assert sealed.audit.verify().problems == ()


@pytest.mark.backends("sqlite")
@pytest.mark.parametrize(
    "crafted",
    [
        "UPDATE pipelit_audit_seals SET mac = 'ä' WHERE number = 2",
        "UPDATE pipelit_audit_seals SET mac = x'00' WHERE number = 2",
        "UPDATE pipelit_audit_seals SET pruned = 'ä' WHERE number = 2",
        "UPDATE pipelit_audit_seals SET last_id = 'x' WHERE number = 2",
        "UPDATE pipelit_audit_seals SET sealed_at = 'x' WHERE number = 2",
        "UPDATE pipelit_audit_seals SET sealed_at = 0 WHERE number = 2",
        "UPDATE pipelit_audit SET at = 'x' WHERE id = SECOND",
        "UPDATE pipelit_audit SET reason = CAST(x'ff' AS TEXT) WHERE id = SECOND",
        "UPDATE pipelit_audit SET reason = x'00' WHERE id = SECOND",
    ],
)
def test_a_row_that_somebody_made_is_a_problem_and_no_accident(
    sealed: Pipelit, clock: Clock, crafted: str
) -> None:
    """What no program of ours writes is named; verify, prune, status and rotation don't break."""
    change(sealed, crafted)
    assert sealed.audit.verify().problems
    clock.advance(86_400)
    with pytest.raises((AuditTampered, StorageError)):
        sealed.audit.prune(datetime.fromtimestamp(clock(), UTC))
    sealed.keys.status()
    sealed.keys.rotate()


@pytest.mark.backends("sqlite")
def test_an_entry_that_somebody_made_is_sealed_as_it_is(sealed: Pipelit) -> None:
    """One odd row doesn't keep the others from being sealed."""
    change(
        sealed, "UPDATE pipelit_audit SET at = 'x' WHERE id = (SELECT max(id) FROM pipelit_audit)"
    )
    note(sealed, "after")
    assert sealed.audit.seal() == 2
    assert sealed.audit.verify().problems == ()


def test_nothing_is_built_on_a_seal_that_isnt_ours(sealed: Pipelit) -> None:
    """A seal far ahead doesn't make the sealer think that all is done."""
    change(
        sealed,
        "INSERT INTO pipelit_audit_seals (number, last_id, entries, digest, mac, sealed_at) "
        "VALUES (99, 1000000, 1, 'd', 'm', 1)",
    )
    with pytest.raises(AuditTampered, match="seal 99"):
        sealed.audit.seal()


def test_what_isnt_sealed_is_not_pruned(pipelit: Pipelit, clock: Clock) -> None:
    """However old: what no seal covers stays."""
    note(pipelit, "old")
    clock.advance(86_400)
    assert pipelit.audit.prune(datetime.fromtimestamp(clock(), UTC)) == 0
    assert "old" in [entry.subject for entry in pipelit.audit.list()]


# Keys


def test_seals_outlive_a_change_of_keys(sealed: Pipelit, settings: dict[str, Any]) -> None:
    """Under a newer key and the old one the trail is whole; tagged anew, under the newer alone."""
    newer = Keyring.generate_key()
    both = [newer, *settings["encryption_keys"]]
    with Pipelit(**settings | {"encryption_keys": both}) as rotating:
        assert rotating.audit.verify().problems == ()
        keyring = keyring_of(rotating)
        assert rotating.audit.seals.retag(keyring, only_count=True) == (0, 3, 0)
        assert rotating.audit.seals.retag(keyring) == (3, 0, 0)
    with Pipelit(**settings | {"encryption_keys": [newer]}) as after:
        assert after.audit.verify().problems == ()


# Reading


def test_filters_narrow_the_list(sealed: Pipelit) -> None:
    """By subject, actor, outcome and action; a group of actions ends with a dot."""
    every = sealed.audit.list()
    verified = [entry for entry in every if entry.action == "verify.audience"]
    for wanted, found in (
        ({"subject": "later"}, every[-1:]),
        ({"outcome": "refused"}, []),
        ({"action": "verify."}, verified),
        ({"action": "verify"}, []),
        ({"actor": "alice", "action": "verify.audience"}, verified),
    ):
        assert sealed.audit.list(**wanted) == found, wanted  # type: ignore[arg-type]


def test_since_is_a_moment(sealed: Pipelit, clock: Clock) -> None:
    """From a moment on; without a time zone it is refused, as is a head that is none."""
    clock.advance(100)
    note(sealed, "now")
    since = datetime.fromtimestamp(clock() - 1, UTC)
    assert [entry.subject for entry in sealed.audit.list(since=since)] == ["now"]
    call: Callable[..., Any] = sealed.audit.list
    with pytest.raises(ValueError, match="time zone"):
        call(since=datetime(2026, 1, 1))  # noqa: DTZ001 - the mistake that is meant
    with pytest.raises(ConfigurationError, match="audit head"):
        AuditHead.from_json("{}")
    with pytest.raises(ValueError, match="batch"):
        sealed.audit.seal(batch=0)
