"""The numbers of audit entries: who gave them, gaps, and transactions that end late."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier, Event
from typing import Any

import psycopg
import pytest
from conftest import Clock
from internals import database_of, identity_of
from sqlalchemy import text
from test_audit_chain import note

from pipelit_agents import Agent, Pipelit, Verification
from pipelit_agents.audit import seals as chain
from pipelit_agents.audit.numbering import Gaps, OpenGap, OpenTransactions, Ranges
from pipelit_agents.errors import (
    AuditTampered,
    CodeRejected,
    ConfigurationError,
    LedgerUnavailable,
    ProofRejected,
)

BACKENDS = ("sqlite", "postgres")
LARGEST = 2**63 - 1


def plant(pipelit: Pipelit, *numbers: int, at: float = 1_800_000_000.0) -> None:
    """Write entries under numbers of one's own, as somebody with the database alone can."""
    with database_of(pipelit).writing() as connection:
        for number in numbers:
            connection.execute(
                text(
                    "INSERT INTO pipelit_audit (id, at, actor, subject, action, outcome, reason, "
                    "run, node, thread) VALUES (:id, :at, 'alice', 'alice', 'approve', 'ok', '', "
                    "'', '', '')"
                ),
                {"id": number, "at": at},
            )


def counted(pipelit: Pipelit) -> int:
    """All entries that are in the database."""
    with database_of(pipelit).reading() as connection:
        return connection.scalar(text("SELECT count(*) FROM pipelit_audit")) or 0


def last_number(pipelit: Pipelit) -> int:
    """The number of the newest entry that was written by the library."""
    note(pipelit, "newest")
    return max(each.id for each in pipelit.audit.list(limit=10_000, subject="newest"))


# Numbers that nobody gave


@pytest.mark.parametrize(
    "number",
    [0, -1, -(2**63), LARGEST, LARGEST - 1, 2**62],
    ids=["zero", "minus one", "lowest", "highest", "almost highest", "far ahead"],
)
def test_a_number_that_was_never_given_is_named(pipelit: Pipelit, number: int) -> None:
    """Such an entry is listed, counted and named, before and after sealing, and never sealed."""
    note(pipelit, "honest")
    plant(pipelit, number)
    for _ in range(2):
        report = pipelit.audit.verify()
        assert report.outside == 1
        assert any(f"entry {number}:" in each for each in report.problems)
        assert report.sealed + report.unsealed + report.outside == counted(pipelit)
        assert number in [each.id for each in pipelit.audit.list(limit=10_000)]
        pipelit.audit.seal()
    assert report.unsealed == 0
    assert pipelit.audit.head().last_id != number
    with database_of(pipelit).writing() as connection:
        connection.execute(text("DELETE FROM pipelit_audit WHERE id = :id"), {"id": number})
    report = pipelit.audit.verify()
    assert (report.problems, report.unsealed, report.outside) == ((), 0, 0)


@pytest.mark.parametrize(
    "planted", [[LARGEST], [LARGEST, LARGEST - 1, -7], [2**40], [2**40 - 1], [2**62 + 5]], ids=str
)
def test_a_planted_number_locks_nobody_out(
    pipelit: Pipelit, writer: Agent, editor: Agent, planted: list[int]
) -> None:
    """Verifications go on, their entries have numbers that go up, and they can be sealed."""
    plant(pipelit, *planted)
    numbers = [last_number(pipelit) for _ in range(3)]
    code = writer.totp_code(audience="agent_editor").code
    assert editor.verify_peer("agent_writer", code)
    pipelit.audit.seal()
    numbers += [last_number(pipelit) for _ in range(3)]
    assert numbers == sorted(set(numbers))
    pipelit.audit.seal()
    report = pipelit.audit.verify()
    assert report.problems
    assert (report.unsealed, report.doubtful) == (0, 0)
    assert report.sealed + report.outside == counted(pipelit)


def ahead(pipelit: Pipelit, count: int) -> list[int]:
    """Plant entries where the numbering is next; their numbers."""
    last = last_number(pipelit)
    numbers = list(range(last + 1, last + 1 + count))
    plant(pipelit, *numbers)
    return numbers


@pytest.mark.backends("postgres")
@pytest.mark.parametrize("count", [1, 7])
def test_an_entry_planted_just_ahead_stops_nobody(
    pipelit: Pipelit, writer: Agent, editor: Agent, count: int
) -> None:
    """A code, a wrong code, proofs together and an operator's change are decided and recorded."""

    def named() -> bool:
        """Whether an entry says where the planted ones are."""
        (found,) = pipelit.audit.list(limit=1, action="audit.planted")
        return numbers[-1] <= int(found.reason.rsplit(" ", 1)[1]) < found.id

    numbers = ahead(pipelit, count)
    code = writer.totp_code(audience="agent_editor").code
    assert editor.verify_peer("agent_writer", code).peer == "agent_writer"
    assert named()
    numbers = ahead(pipelit, count)
    with pytest.raises(CodeRejected):
        editor.verify_peer("agent_writer", code)
    assert pipelit.audit.list(action="verify.audience", limit=1)[0].reason == "replay"
    numbers = ahead(pipelit, count)
    before = len(pipelit.audit.list(limit=1000, action="verify.proof"))
    challenges = [editor.challenge("agent_writer") for _ in range(5)]
    checks: Any = [
        editor._proof_check(
            writer.prove(each.value, b"x", verifier="agent_editor"),
            each,
            "spawn-result",
            b"",
            None,
            "result",
            b"x",
        )
        for each in challenges
    ]
    found: Any = identity_of(pipelit).proofs.verify_batch(checks)
    assert [(check, type(answer)) for check, answer in found] == [
        (each, Verification) for each in checks
    ]
    assert len(pipelit.audit.list(limit=1000, action="verify.proof")) == before + 5
    assert named()
    numbers = ahead(pipelit, count)
    pipelit.users.unlock("agent_writer")
    assert pipelit.audit.list(action="user.unlock", limit=1)
    assert not [each for each in pipelit.audit.verify().problems if "missing" in each]


@pytest.mark.backends("postgres")
def test_many_entries_planted_ahead_are_refused_in_words_until_the_numbering_is_past_them(
    pipelit: Pipelit, writer: Agent, editor: Agent
) -> None:
    """Nothing is decided that can't be recorded; the error says where, and to delete them."""
    numbers = ahead(pipelit, 250)
    code = writer.totp_code(audience="agent_editor").code
    says = r"the numbers of audit entries up to \d+ are taken: .*in pipelit_audit.*delete them"
    for _ in range(2):
        with pytest.raises(LedgerUnavailable, match=says):
            editor.verify_peer("agent_writer", code)
    assert editor.verify_peer("agent_writer", code).peer == "agent_writer"
    assert pipelit.audit.list(action="verify.audience", limit=1)[0].id > numbers[-1]


@pytest.mark.backends("sqlite")
def test_a_planted_number_below_the_bound_is_sealed_and_its_gap_is_named(pipelit: Pipelit) -> None:
    """The bound is 2**40 above the last sealed entry, also after a seal has moved it."""
    note(pipelit, "honest")
    pipelit.audit.seal()
    bound = pipelit.audit.head().last_id + 2**40
    plant(pipelit, bound, bound + 1)
    assert pipelit.audit.verify().outside == 2
    plant(pipelit, bound - 1)
    pipelit.audit.seal()
    assert pipelit.audit.head().last_id == bound - 1
    assert any("numbers have no entry" in each for each in pipelit.audit.verify().problems)


@pytest.mark.backends("sqlite")
def test_many_planted_numbers_are_counted_and_some_named(pipelit: Pipelit) -> None:
    """A thousand make one line."""
    plant(pipelit, *range(-1000, 0))
    (problem,) = pipelit.audit.verify().problems
    assert problem.startswith("entries -1000, -999, -998 and 997 more: outside the numbering")


@pytest.mark.backends("postgres")
def test_a_number_ahead_of_the_sequence_is_named_and_not_sealed(pipelit: Pipelit) -> None:
    """What the sequence hasn't given yet is nobody's, however near it is."""
    ahead = last_number(pipelit) + 3
    plant(pipelit, ahead)
    pipelit.audit.seal()
    report = pipelit.audit.verify()
    assert (report.outside, report.unsealed) == (1, 0)
    assert f"entry {ahead}:" in report.problems[0]
    note(pipelit, "a", "b")
    # Its number is stepped over, and named.
    note(pipelit, "taken")
    note(pipelit, "c")
    (found,) = pipelit.audit.list(limit=10, action="audit.planted")
    assert found.reason == f"planted entries among the numbers up to {ahead}"
    pipelit.audit.seal()
    assert pipelit.audit.verify().unsealed == 0


@pytest.mark.backends("sqlite")
@pytest.mark.parametrize("seals", [False, True], ids=["unsealed", "sealed"])
def test_sqlite_has_no_gaps_so_one_is_named(pipelit: Pipelit, seals: bool) -> None:
    """An entry removed before it was sealed, or put far ahead, leaves a gap; both are named."""
    note(pipelit, *"abcdef")
    pipelit.audit.seal(batch=3)
    note(pipelit, *"ghijkl")
    with database_of(pipelit).writing() as connection:
        connection.execute(text("DELETE FROM pipelit_audit WHERE subject IN ('h', 'i')"))
    if seals:
        pipelit.audit.seal(batch=3)
    (problem,) = pipelit.audit.verify().problems
    assert "2 " in problem
    assert "removed, or one was planted far ahead" in problem
    plant(pipelit, 5000)
    assert any("to 5000" in each for each in pipelit.audit.verify().problems)


@pytest.mark.backends("sqlite")
def test_a_trail_may_begin_anywhere(pipelit: Pipelit) -> None:
    """Who deleted old entries before the first seal has a whole trail all the same."""
    note(pipelit, *"abcdef")
    with database_of(pipelit).writing() as connection:
        connection.execute(text("DELETE FROM pipelit_audit WHERE id <= 4"))
    assert pipelit.audit.verify().problems == ()
    pipelit.audit.seal(batch=2)
    note(pipelit, "g")
    assert pipelit.audit.verify().problems == ()


def test_a_gap_that_is_filled_later_is_named(pipelit: Pipelit) -> None:
    """A number that was free when it was sealed over stays free."""
    note(pipelit, *"abc")
    free = last_number(pipelit) + 1
    if database_of(pipelit).engine.dialect.name == "sqlite":
        plant(pipelit, free + 1)
    else:
        with database_of(pipelit).writing() as connection:
            connection.execute(text("SELECT nextval('pipelit_audit_id_seq')"))
    note(pipelit, "d")
    pipelit.audit.seal()
    before = pipelit.audit.verify()
    plant(pipelit, free)
    pipelit.audit.seal()
    report = pipelit.audit.verify()
    assert any("removed or added" in each for each in report.problems)
    assert report.doubtful == counted(pipelit) == before.sealed + before.doubtful + 1


def test_entries_under_a_broken_seal_are_counted_too(pipelit: Pipelit) -> None:
    """Sealed are those under seals that are right; the others are doubtful, and none is lost."""
    note(pipelit, *"abcdefgh")
    pipelit.audit.seal(batch=4)
    with database_of(pipelit).writing() as connection:
        connection.execute(text("UPDATE pipelit_audit_seals SET mac = digest WHERE number = 2"))
    note(pipelit, "later")
    report = pipelit.audit.verify()
    assert (report.doubtful, report.unsealed) == (4, 1)
    assert report.sealed + 5 == counted(pipelit)


@pytest.mark.backends("postgres")
def test_numbers_out_of_order_are_refused_in_words(pipelit: Pipelit) -> None:
    """A sequence with a cache gives old numbers late, so nothing is sealed until it has none."""
    with database_of(pipelit).writing() as connection:
        connection.execute(text("ALTER SEQUENCE pipelit_audit_id_seq CACHE 20"))
    for ask in (pipelit.audit.seal, pipelit.audit.verify):
        with pytest.raises(ConfigurationError, match="CACHE 1"):
            ask()


# Transactions that end late


@pytest.fixture
def late(pipelit: Pipelit, postgres_url: str) -> Any:
    """Another program's transaction on the same database, without any of our limits."""
    with psycopg.connect(postgres_url.replace("+psycopg", "")) as connection:
        yield connection


INSERT = (
    "INSERT INTO pipelit_audit (at, actor, subject, action, outcome, reason, run, node, thread) "
    "VALUES (1800000000, 'a', 'late', 'x', 'ok', '', '', '', '')"
)


@pytest.mark.backends("postgres")
def test_no_verification_waits_for_the_sealer(
    pipelit: Pipelit, writer: Agent, editor: Agent, late: Any
) -> None:
    """Beside a transaction that is open and a sealer at work nobody waits for a lock."""
    late.execute(INSERT)
    stop, began = Event(), Barrier(2)

    def seal() -> int:
        began.wait()
        sealed = pipelit.audit.seal()
        while not stop.is_set():
            sealed += pipelit.audit.seal(batch=2)
        return sealed

    def is_waiting() -> bool:
        with database_of(pipelit).reading() as connection:
            return bool(
                connection.scalar(
                    text(
                        "SELECT count(*) FROM pg_locks WHERE NOT granted "
                        "AND relation = 'pipelit_audit'::regclass"
                    )
                )
            )

    with ThreadPoolExecutor(1) as pool:
        sealing = pool.submit(seal)
        began.wait()
        for _ in range(20):
            challenge = editor.challenge("agent_writer")
            proof = writer.prove(challenge.value, b"x", verifier="agent_editor")
            assert editor.verify_proof(proof, challenge=challenge, payload=b"x")
            with pytest.raises(ProofRejected):
                editor.verify_proof(proof, challenge=challenge, payload=b"y")
            assert not is_waiting()
        stop.set()
        assert sealing.result() > 0
    late.commit()
    pipelit.audit.seal()
    report = pipelit.audit.verify()
    assert (report.unsealed, report.problems) == (0, ())


@pytest.mark.backends("postgres")
def test_an_entry_that_is_committed_late_is_sealed_late(pipelit: Pipelit, late: Any) -> None:
    """What came after it is sealed at once; it is counted, sealed once, and then protected."""
    pipelit.audit.seal()
    late.execute(INSERT)
    note(pipelit, "after")
    late.execute(INSERT)
    note(pipelit, "last")
    assert pipelit.audit.seal() == 2
    report = pipelit.audit.verify()
    assert (report.unsealed, report.problems) == (0, ())
    assert "open transaction" in report.notes[0]
    assert pipelit.audit.seal() == 0
    late.commit()
    assert pipelit.audit.verify().unsealed == 2
    head = pipelit.audit.head()
    assert pipelit.audit.seal() == 2
    report = pipelit.audit.verify(head)
    assert (report.unsealed, report.problems, report.notes) == (0, (), ())
    assert report.sealed == counted(pipelit)
    with database_of(pipelit).writing() as connection:
        connection.execute(
            text("UPDATE pipelit_audit SET reason = 'x' WHERE subject = 'late' AND id > 3")
        )
    assert any("changed" in each for each in pipelit.audit.verify().problems)


@pytest.mark.backends("postgres")
def test_the_gap_of_a_transaction_that_gave_up_is_closed(pipelit: Pipelit, late: Any) -> None:
    """When it has rolled back, nobody can put an entry into its gap any more."""
    late.execute(INSERT)
    note(pipelit, "after")
    pipelit.audit.seal()
    numbers = {each.id for each in pipelit.audit.list(limit=1000)}
    (free,) = set(range(1, max(numbers))) - numbers
    assert pipelit.audit.verify().notes
    late.rollback()
    assert pipelit.audit.seal() == 0
    assert pipelit.audit.verify().notes == ()
    plant(pipelit, free)
    pipelit.audit.seal()
    assert any("removed or added" in each for each in pipelit.audit.verify().problems)


@pytest.mark.backends("postgres")
def test_a_gap_is_closed_by_the_seal_alone(pipelit: Pipelit, late: Any) -> None:
    """Nobody without the key reopens a gap, or says that an entry came late."""
    late.execute(INSERT)
    note(pipelit, "after")
    pipelit.audit.seal()
    late.rollback()
    stored = Gaps(open=(OpenGap(Ranges([(1, 1)]), ("3/1",)),)).to_json()
    with database_of(pipelit).writing() as connection:
        connection.execute(text("UPDATE pipelit_audit_seals SET gaps = :gaps"), {"gaps": stored})
    assert any("not made with a key" in each for each in pipelit.audit.verify().problems)
    note(pipelit, "more")
    with pytest.raises(AuditTampered):
        pipelit.audit.seal()


@pytest.mark.backends("postgres")
def test_who_only_reads_keeps_nothing_open(pipelit: Pipelit, late: Any) -> None:
    """An idle reader, and a dump with its table locks, are no writers."""
    late.execute("SELECT count(*) FROM pipelit_audit")
    late.execute("LOCK TABLE pipelit_audit, pipelit_audit_seals IN ACCESS SHARE MODE")
    with database_of(pipelit).writing() as connection:
        connection.execute(text("SELECT nextval('pipelit_audit_id_seq')"))
    note(pipelit, "after")
    pipelit.audit.seal()
    report = pipelit.audit.verify()
    assert (report.unsealed, report.problems, report.notes) == (0, (), ())


@pytest.mark.backends("postgres")
def test_late_entries_are_pruned_with_the_seal_that_covers_them(
    pipelit: Pipelit, late: Any, clock: Clock
) -> None:
    """Their seal is theirs, though their numbers are within an older one."""
    late.execute(INSERT)
    note(pipelit, "after")
    pipelit.audit.seal()
    clock.advance(86_400)
    note(pipelit, "new")
    pipelit.audit.seal()
    late.commit()
    before = datetime.fromtimestamp(clock(), UTC) - timedelta(hours=1)
    assert pipelit.audit.prune(before) == 3
    assert "late" in [each.subject for each in pipelit.audit.list()]
    assert pipelit.audit.seal() == 2
    clock.advance(86_400)
    for name in ("newer", "newest"):
        note(pipelit, name)
        pipelit.audit.seal()
    assert pipelit.audit.prune(before + timedelta(days=1)) == 3
    assert "late" not in [each.subject for each in pipelit.audit.list()]
    report = pipelit.audit.verify()
    assert (report.pruned, report.unsealed, report.problems) == (6, 1, ())


@pytest.mark.backends("postgres")
def test_with_too_many_gaps_the_sealer_stops_before_the_next(
    pipelit: Pipelit, late: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An old transaction doesn't make seals grow for ever, and nothing is lost by the limit."""
    monkeypatch.setattr("pipelit_agents.audit.seals._MAX_GAPS", 2)
    pipelit.audit.seal()
    for name in "abcd":
        late.execute(INSERT)
        note(pipelit, name)
    assert pipelit.audit.seal() == 2
    assert "too many numbers wait" in caplog.text
    report = pipelit.audit.verify()
    assert (report.unsealed, report.problems) == (2, ())
    late.commit()
    assert pipelit.audit.seal() == 6
    report = pipelit.audit.verify()
    assert (report.sealed, report.unsealed, report.problems) == (counted(pipelit), 0, ())


@pytest.mark.backends("postgres")
def test_every_entry_is_under_one_seal_whatever_happens_at_once(
    pipelit: Pipelit, postgres_url: str
) -> None:
    """Transactions that end early, late or in nothing, two sealers: none left out, none twice."""
    url, done = postgres_url.replace("+psycopg", ""), Event()

    def write(which: int) -> None:
        with psycopg.connect(url) as slow, psycopg.connect(url) as quick:
            for turn in range(12):
                slow.execute(INSERT)
                (number,) = quick.execute(f"{INSERT} RETURNING id").fetchone() or (0,)
                if (turn + which) % 3 == 0:
                    quick.rollback()
                    continue
                quick.commit()
                while turn % 4 == which and pipelit.audit.head().last_id < number:
                    assert not done.is_set()
                if turn % 4 == which:
                    (slow.rollback if turn % 8 == 1 else slow.commit)()

    def seal(batch: int) -> None:
        while not done.is_set():
            pipelit.audit.seal(batch=batch)

    with ThreadPoolExecutor(6) as pool:
        writers = [pool.submit(write, which) for which in range(4)]
        sealers = [pool.submit(seal, batch) for batch in (3, 11)]
        try:
            for each in writers:
                each.result()
        finally:
            done.set()
        for sealing in sealers:
            sealing.result()
    pipelit.audit.seal()
    report = pipelit.audit.verify()
    assert report.problems == report.notes == ()
    assert (report.sealed, report.unsealed) == (counted(pipelit), 0)
    with database_of(pipelit).reading() as connection:
        entries = connection.scalar(text("SELECT sum(entries) FROM pipelit_audit_seals"))
        gaps = list(connection.scalars(text("SELECT gaps FROM pipelit_audit_seals")))
    assert entries == counted(pipelit)
    assert any(Gaps.from_json(each).late for each in gaps), gaps


@pytest.mark.backends("sqlite")
def test_the_sealer_holds_sqlites_writer_for_one_row_only(
    pipelit: Pipelit, monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    """While the sealer reads and computes, another process writes without waiting."""
    note(pipelit, *("x" * 50))
    other = sqlite3.connect(
        database_url.removeprefix("sqlite:///"), timeout=0, check_same_thread=False
    )
    read: Callable[..., Any] = chain.read_ranges
    written = []

    def reading(*given: Any) -> Any:
        other.execute("UPDATE pipelit_users SET purpose = 'busy'")
        other.commit()
        written.append(given)
        return read(*given)

    monkeypatch.setattr(chain, "read_ranges", reading)
    pipelit.audit.seal(batch=10)
    other.close()
    assert len(written) > 5


# What a seal says of gaps


def test_ranges_hold_and_lose_numbers() -> None:
    """They merge what touches, and lose single numbers from the middle and the ends."""
    ranges = Ranges([(5, 9), (1, 2), (3, 3), (20, 20)])
    assert ranges.pairs == ((1, 3), (5, 9), (20, 20))
    assert [number for number in range(25) if number in ranges] == [1, 2, 3, *range(5, 10), 20]
    assert ranges.without([1, 7, 9, 20, 99]).pairs == ((2, 3), (5, 6), (8, 8))
    assert Ranges.of([3, 1, 2, 2]) == Ranges([(1, 3)])
    assert not Ranges()


@pytest.mark.parametrize(
    "stored",
    [
        "x", "{}", "[]", "null", '{"late":[],"open":[]}', '{"late":[[1]],"open":[]}',
        '{"late":[[true,1]],"open":[]}', '{"late":[[1.0,2]],"open":[]}',
        '{"late": [[1,2]],"open":[]}', '{"late":[[2,1]],"open":[],"more":1}',
        '{"late":[[1,2],[3,4]],"open":[]}', "[" * 100_000,
    ],
)  # fmt: skip
def test_gaps_have_one_form(stored: str) -> None:
    """What the library doesn't write isn't read."""
    with pytest.raises(ValueError, match="gaps of a seal"):
        Gaps.from_json(stored)


def test_gaps_come_back_as_they_were_stored() -> None:
    """And none are an empty text, so that earlier seals keep their tags."""
    gaps = Gaps(Ranges([(3, 4)]), (OpenGap(Ranges([(7, 7), (9, 12)]), ("3/17", "4/2")),))
    assert Gaps.from_json(gaps.to_json()) == gaps
    assert gaps.awaited == Ranges([(7, 7), (9, 12)])
    assert Gaps().to_json() == ""
    assert Gaps.from_json("") == Gaps()


def test_a_prepared_transaction_may_have_another_name_now() -> None:
    """A restart renames it, so where one is missing, the prepared ones are waited for."""
    now = OpenTransactions(("-1/755", "3/9", "5/1"), ("-1/755",))
    assert now.of(["3/9"]) == ("3/9",)
    assert now.of(["1/2", "3/9"]) == ("-1/755", "3/9")
    assert OpenTransactions(("3/9",)).of(["1/2"]) == ()
