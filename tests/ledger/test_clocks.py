"""Wrong clocks: what they wrote holds for no longer than it should, and un-spends nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, Literal

import pytest
from conftest import Clock
from internals import database_of
from redis import Redis
from sqlalchemy import text
from test_mfa import app_of

from pipelit_agents import Agent, Pipelit
from pipelit_agents.errors import (
    CodeRejected,
    PeerLocked,
    RateLimited,
    VerificationError,
)
from pipelit_agents.ledger import Ledger, LedgerContext, RedisLedger, SqlLedger

# The SQL is one; what else PostgreSQL may decide about is marked.
BACKENDS = ("sqlite", "redis")
DAY = 86_400.0
YEARS = 10 * 366 * DAY
NOW = 1_800_000_000.0

Kind = Literal["audience", "plain"]
KINDS: tuple[Kind, ...] = ("audience", "plain")


@pytest.fixture
def other(pipelit: Pipelit) -> Agent:
    """A third agent."""
    pipelit.users.create_agent("agent_other", owner="alice", purpose="takes part")
    return pipelit.agent("agent_other")


def code_of(writer: Agent, editor: Agent, kind: Kind) -> str:
    """A right code."""
    return writer.totp_code(audience=editor.username if kind == "audience" else None).code


def verify(editor: Agent, writer: Agent, kind: Kind = "audience") -> int:
    """Verifies with a right code; the step."""
    code = code_of(writer, editor, kind)
    return editor.verify_peer(writer.username, code, kind=kind).step


def refused(pipelit: Pipelit, editor: Agent, writer: Agent, kind: Kind = "audience") -> str:
    """A right code is refused in the words for a wrong one; the true reason."""
    with pytest.raises(CodeRejected, match=r"^the code was not accepted; wait 30 sec") as caught:
        verify(editor, writer, kind)
    assert type(caught.value) is CodeRejected
    return pipelit.audit.list(limit=1)[0].reason


def check_of(pipelit: Pipelit, name: str) -> Any:
    """An item of the checklist."""
    (found,) = (each for each in pipelit.check() if each.name == name)
    return found


def restarted(
    settings: dict[str, Any], clock: Callable[[], float], **life: Callable[[], Any]
) -> Iterator[Agent]:
    """An editor whose ledger is on a machine that was started again."""
    url = settings["redis_url"]

    def ledger(context: LedgerContext) -> Ledger:
        database, policy = context.database, context.policy
        if url:
            return RedisLedger(database, policy, url, context.clock, **life)
        return SqlLedger(database, policy, context.clock, **life)

    with Pipelit(**(settings | {"redis_url": None}), ledger=ledger, clock=clock) as other:
        yield other.agent("agent_editor")


@pytest.fixture
def again(settings: dict[str, Any], clock: Clock, editor: Agent) -> Iterator[Agent]:
    """The editor after a restart; nothing is known of the time since then."""
    yield from restarted(settings, clock, epoch=lambda: "another life")


@pytest.fixture
def up(clock: Clock) -> Clock:
    """The time since the boot, which a test moves beside the wall clock."""
    return Clock(1000.0)


@pytest.fixture
def timed(
    pipelit: Pipelit, settings: dict[str, Any], clock: Clock, up: Clock, editor: Agent
) -> Iterator[Agent]:
    """The editor on a machine that knows the time since its start."""
    yield from restarted(settings, clock, epoch=database_of(pipelit).epoch, uptime=up)


@pytest.fixture
def timed_again(
    settings: dict[str, Any], clock: Clock, up: Clock, editor: Agent
) -> Iterator[Agent]:
    """The same after a restart."""
    yield from restarted(settings, clock, epoch=lambda: "another life", uptime=up)


# A clock that was ahead


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ahead", [91.0, DAY, YEARS])
def test_a_step_that_was_spent_ahead_of_the_clock_is_named_and_repaired(
    pipelit: Pipelit, clock: Clock, writer: Agent, editor: Agent, kind: Kind, ahead: float
) -> None:
    """Refused as a wrong code is, and named in audit and check; ``unlock`` makes codes good again.

    But none that could have been spent until then: those of three periods.
    """
    clock.advance(ahead)
    verify(editor, writer, kind)
    clock.now = NOW
    assert refused(pipelit, editor, writer, kind) == "spent step ahead of the clock"
    found = check_of(pipelit, "moments")
    assert not found.ok
    assert "agent_writer" in found.found
    assert found.fix == "pipelit-agents agents unlock agent_writer"
    (trouble,) = (each for each in pipelit.users.lanes("agent_writer") if each.clock_trouble)
    assert trouble.lane == ("audience:agent_editor" if kind == "audience" else "spent")
    pipelit.users.unlock("agent_writer")
    for _ in range(2):
        assert refused(pipelit, editor, writer, kind) == "replay"
        clock.advance(30)
    verify(editor, writer, kind)
    assert check_of(pipelit, "moments").ok


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.backends("sqlite", "postgres", "redis")
def test_only_the_lane_that_is_named_is_repaired(
    pipelit: Pipelit, clock: Clock, writer: Agent, editor: Agent, other: Agent, kind: Kind
) -> None:
    """``unlock(lane=…)`` leaves the others as they are."""
    clock.advance(YEARS)
    verify(editor, writer, "audience")
    verify(editor, writer, "plain")
    clock.now = NOW
    lane = "audience:agent_editor" if kind == "audience" else "spent"
    pipelit.users.unlock("agent_writer", lane=lane)
    clock.advance(60)
    verify(editor, writer, kind)
    rest: Kind = "plain" if kind == "audience" else "audience"
    assert refused(pipelit, editor, writer, rest) == "spent step ahead of the clock"
    verify(other, writer)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.backends("sqlite", "postgres", "redis")
def test_a_new_secret_begins_unspent(
    pipelit: Pipelit, clock: Clock, writer: Agent, editor: Agent, kind: Kind
) -> None:
    """A rotation is a way out too, at once; and with the clock ahead nothing comes of it."""
    clock.advance(YEARS)
    verify(editor, writer, kind)
    pipelit.users.rotate_totp("agent_writer")
    verify(editor, writer, kind)
    clock.now = NOW
    assert refused(pipelit, editor, writer, kind) == "spent step ahead of the clock"
    pipelit.users.rotate_totp("agent_writer")
    verify(editor, writer, kind)
    assert refused(pipelit, editor, writer, kind) == "replay"


@pytest.mark.parametrize("kind", KINDS)
def test_a_spent_code_of_the_old_secret_stays_spent(
    pipelit: Pipelit, clock: Clock, writer: Agent, editor: Agent, kind: Kind
) -> None:
    """During the overlap of a rotation, and of a second one; each new secret is unspent."""
    codes = [code_of(writer, editor, kind)]
    editor.verify_peer("agent_writer", codes[0], kind=kind)
    for _ in range(2):
        pipelit.users.rotate_totp("agent_writer", overlap=timedelta(hours=1))
        with pytest.raises(CodeRejected):
            editor.verify_peer("agent_writer", codes[-1], kind=kind)
        assert pipelit.audit.list(limit=1)[0].reason == "replay"
        codes.append(code_of(writer, editor, kind))
        editor.verify_peer("agent_writer", codes[-1], kind=kind)
    for code in codes:
        with pytest.raises(CodeRejected):
            editor.verify_peer("agent_writer", code, kind=kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_ahead_of_the_old_secret_is_no_matter_of_the_new_one(
    pipelit: Pipelit, clock: Clock, writer: Agent, editor: Agent, kind: Kind
) -> None:
    """Rotated with an overlap after a clock was ahead: new codes are good, old ones aren't."""
    clock.advance(YEARS)
    verify(editor, writer, kind)
    clock.now = NOW
    old = code_of(writer, editor, kind)
    pipelit.users.rotate_totp("agent_writer", overlap=timedelta(hours=1))
    with pytest.raises(CodeRejected):
        editor.verify_peer("agent_writer", old, kind=kind)
    assert pipelit.audit.list(limit=1)[0].reason == "spent step ahead of the clock"
    verify(editor, writer, kind)


def test_a_person_enrols_again_after_a_clock_was_ahead(pipelit: Pipelit, clock: Clock) -> None:
    """After a reset her new factor can be turned on at once, and used."""

    def enrol() -> Any:
        app = app_of(pipelit.mfa.enroll("alice"))
        pipelit.mfa.confirm("alice", app.at(clock()))
        return app

    clock.advance(3 * 365 * DAY)
    enrol()
    clock.now = NOW
    pipelit.mfa.reset("alice")
    with pytest.raises(CodeRejected):
        pipelit.mfa.verify("alice", "000000")
    app = enrol()
    clock.advance(30)
    assert pipelit.mfa.verify("alice", app.at(clock())).step == int(clock()) // 30


def test_a_persons_factor_is_repaired_by_unlock(pipelit: Pipelit, clock: Clock) -> None:
    """Without a new enrolment too."""
    app = app_of(pipelit.mfa.enroll("alice"))
    clock.advance(YEARS)
    pipelit.mfa.confirm("alice", app.at(clock()))
    clock.now = NOW
    with pytest.raises(CodeRejected):
        pipelit.mfa.verify("alice", app.at(clock()))
    assert pipelit.audit.list(limit=1)[0].reason == "spent step ahead of the clock"
    pipelit.users.unlock("alice")
    clock.advance(60)
    pipelit.mfa.verify("alice", app.at(clock()))


@pytest.mark.parametrize("failures", [1, 5, 10])
def test_locks_and_waits_from_ahead_last_no_longer_than_others(
    pipelit: Pipelit, clock: Clock, writer: Agent, editor: Agent, failures: int
) -> None:
    """What was counted while the clock was ahead: a minute's wait, or a lock of fifteen minutes."""
    clock.advance(YEARS)
    for number in range(failures):
        clock.advance(61 if number == 5 else 0)
        with pytest.raises(CodeRejected):
            editor.verify_peer("agent_writer", "00000000")
    clock.now = NOW
    waited = 0.0
    while True:
        try:
            verify(editor, writer)
            break
        except (RateLimited, PeerLocked) as error:
            waited += error.retry_after
            clock.advance(error.retry_after)
    assert waited == {1: 0, 5: 60, 10: 900}[failures]


def test_an_unlock_ends_a_lock_from_ahead_at_once(
    pipelit: Pipelit, clock: Clock, writer: Agent, editor: Agent
) -> None:
    """And one that was made while the clock was ahead doesn't keep a later one from it."""
    clock.advance(YEARS)
    pipelit.users.unlock("agent_writer")
    clock.now = NOW
    for number in range(10):
        clock.advance(61 if number == 5 else 0)
        with pytest.raises(CodeRejected):
            editor.verify_peer("agent_writer", "00000000")
    with pytest.raises(PeerLocked):
        verify(editor, writer)
    pipelit.users.unlock("agent_writer")
    verify(editor, writer)


def test_an_allowance_that_was_used_up_ahead_comes_back(
    pipelit: Pipelit, clock: Clock, writer: Agent, editor: Agent
) -> None:
    """After an unlock the lane gets its guesses back month by month, and not after some years."""
    clock.advance(YEARS)
    with pytest.raises(CodeRejected):
        editor.verify_peer("agent_writer", "00000000")
    clock.now = NOW
    with pytest.raises(CodeRejected):
        editor.verify_peer("agent_writer", "00000000")
    (lane,) = pipelit.users.lanes("agent_writer")
    assert lane.allowance_used
    pipelit.users.unlock("agent_writer")
    # What is left isn't known, so the unlock ends the count of failures, and gives nothing more.
    assert not pipelit.users.lanes("agent_writer")
    clock.advance(40 * DAY)
    with pytest.raises(CodeRejected):
        editor.verify_peer("agent_writer", "00000000")
    (lane,) = pipelit.users.lanes("agent_writer")
    assert not lane.allowance_used
    assert not lane.clock_trouble


@pytest.mark.backends
def test_an_overlap_that_was_begun_ahead_is_named(
    pipelit: Pipelit, clock: Clock, writer: Agent
) -> None:
    """An old secret that stays good for years: the checklist says so, and what to do."""
    clock.advance(YEARS)
    pipelit.users.rotate_totp("agent_writer", overlap=timedelta(minutes=5))
    clock.now = NOW
    found = check_of(pipelit, "moments")
    assert "agent_writer" in found.found
    assert found.fix == "pipelit-agents agents rotate-totp agent_writer"
    pipelit.users.rotate_totp("agent_writer")
    assert check_of(pipelit, "moments").ok


@pytest.mark.backends("sqlite", "postgres", "redis")
def test_a_clock_that_is_far_behind_accepts_nothing(
    pipelit: Pipelit, clock: Clock, writer: Agent, editor: Agent
) -> None:
    """A machine without a battery, in 1970: refused and named; then codes are good, once."""
    verify(editor, writer)
    clock.now = 1000.0
    assert refused(pipelit, editor, writer) == "the clock is behind"
    assert "1970-01-01" in check_of(pipelit, "moments").found
    pipelit.users.unlock("agent_writer")
    clock.now = NOW
    assert refused(pipelit, editor, writer) in ("replay", "step from before a restart")
    clock.advance(60)
    verify(editor, writer)


# Restarts


@pytest.mark.parametrize("behind", [NOW - 1000.0, DAY, 3600.0, 31.0])
def test_a_clock_that_is_behind_at_the_start_makes_no_spent_code_good(
    pipelit: Pipelit, clock: Clock, writer: Agent, editor: Agent, again: Agent, behind: float
) -> None:
    """A power cut un-spends a code, the clock is behind, one check fails, NTP sets the clock."""
    code = code_of(writer, editor, "audience")
    editor.verify_peer("agent_writer", code)
    forget(pipelit)
    clock.advance(-behind)
    with pytest.raises(CodeRejected):
        again.verify_peer("agent_writer", "00000000")
    assert pipelit.audit.list(limit=1)[0].reason == "the clock is behind"
    clock.now = NOW + 20
    with pytest.raises(CodeRejected):
        again.verify_peer("agent_writer", code)
    assert pipelit.audit.list(limit=1)[0].reason == "step from before a restart"
    clock.now = NOW + 90
    verify(again, writer)


@pytest.mark.parametrize("behind", [NOW - 1000.0, DAY, 31.0, 6.0])
def test_with_the_time_since_the_start_too(
    pipelit: Pipelit,
    clock: Clock,
    up: Clock,
    writer: Agent,
    editor: Agent,
    timed_again: Agent,
    behind: float,
) -> None:
    """There the clock's step is seen, however often codes were checked before it."""
    code = code_of(writer, editor, "audience")
    editor.verify_peer("agent_writer", code)
    forget(pipelit)
    clock.advance(-behind)
    for _ in range(3):
        with pytest.raises(CodeRejected):
            timed_again.verify_peer("agent_writer", "00000000")
        for each in (clock, up):
            each.advance(1)
    clock.now = NOW + 10
    with pytest.raises(CodeRejected):
        timed_again.verify_peer("agent_writer", code)
    assert pipelit.audit.list(limit=1)[0].reason == "step from before a restart"
    clock.now, up.now = NOW + 100, up.now + 90
    verify(timed_again, writer)


@pytest.mark.backends("sqlite", "postgres", "redis")
def test_a_clock_that_is_set_begins_a_new_epoch(
    pipelit: Pipelit, clock: Clock, up: Clock, writer: Agent, timed: Agent
) -> None:
    """Set on, or back, within one life of the machine: three periods are refused, and audited."""
    verify(timed, writer)
    for step in (DAY, -DAY, 6.0, -6.0):
        for each in (clock, up):
            each.advance(90)
        verify(timed, writer)
        clock.advance(step)
        for _ in range(2):
            assert refused(pipelit, timed, writer) in (
                "step from before a restart",
                "spent step ahead of the clock",
                "replay",
            )
            for each in (clock, up):
                each.advance(30)
        (noted,) = pipelit.audit.list(action="ledger.clock", limit=1)
        assert noted.reason == f"the clock was set by {step:+.0f} s"
        pipelit.users.unlock("agent_writer")


def test_a_clock_that_runs_on_begins_none(
    pipelit: Pipelit, clock: Clock, up: Clock, writer: Agent, timed: Agent
) -> None:
    """Also not where it drifts a little, or where the machine sleeps."""
    for seconds in (30.0, 60.0, 10 * DAY, 400 * DAY):
        verify(timed, writer)
        clock.advance(seconds + 4.0)
        up.advance(seconds)
        verify(timed, writer)
        clock.advance(seconds - 4.0)
        up.advance(seconds)
    assert pipelit.audit.list(action="ledger.clock") == []


@pytest.mark.parametrize("ahead", [91.0, YEARS])
@pytest.mark.backends("sqlite", "postgres", "redis")
def test_an_epoch_ahead_of_the_clock_is_repaired_by_itself(
    pipelit: Pipelit, clock: Clock, writer: Agent, editor: Agent, again: Agent, ahead: float
) -> None:
    """Started with the clock ahead, one check fails: for three periods nothing, and then all."""
    clock.advance(ahead)
    with pytest.raises(CodeRejected):
        again.verify_peer("agent_writer", "00000000")
    clock.now = NOW
    assert "started" in check_of(pipelit, "moments").found
    pipelit.users.unlock("agent_writer")
    for _ in range(2):
        assert refused(pipelit, again, writer) == "step from before a restart"
        clock.advance(30)
    verify(again, writer)
    (noted,) = pipelit.audit.list(action="ledger.clock")
    assert noted.reason == "the epoch was ahead of the clock"
    assert check_of(pipelit, "moments").ok


@pytest.mark.backends("sqlite")
def test_this_machine_tells_the_time_since_its_start(pipelit: Pipelit) -> None:
    """Without a clock of a test's own, the ledger compares the wall clock with that."""
    uptime = database_of(pipelit).uptime
    assert uptime is not None
    before = uptime()
    assert uptime() >= before > 0


# Redis


def forget(pipelit: Pipelit) -> None:
    """What a power cut undoes, and a Redis on the same machine forgets."""
    with database_of(pipelit).writing() as connection:
        connection.execute(text("UPDATE pipelit_ledger SET spent_step = -1, spent_previous = -1"))
        named = connection.scalar(text("SELECT database_id FROM pipelit_epoch"))
    if url := pipelit._redis_url():
        with Redis.from_url(url) as forgetting:
            # Other tests use this Redis at the same time, so FLUSHALL would empty theirs as well.
            if keys := list(forgetting.scan_iter(f"pipelit:{named}:*")):
                forgetting.delete(*keys)


@pytest.mark.backends("redis")
def test_a_redis_that_was_started_with_its_clock_ahead_recovers(
    pipelit: Pipelit, clock: Clock, writer: Agent, editor: Agent, redis_url: str
) -> None:
    """The moment at which it may have forgotten is ahead of the clock: treated as now."""
    verify(editor, writer)
    with Redis.from_url(redis_url) as redis:
        for key in redis.keys("*:spent:*"):
            unlocks, generation, spent, _, run = redis.get(key).split()
            ahead = f"{NOW + YEARS:.6f}".encode()
            redis.set(key, b" ".join((unlocks, generation, spent, ahead, run)))
    clock.advance(30)
    assert refused(pipelit, editor, writer) == "step from before a restart"
    clock.advance(60)
    verify(editor, writer)


@pytest.mark.backends("redis")
def test_an_unlock_reaches_a_redis_that_heard_of_one_ahead_of_the_clock(
    pipelit: Pipelit, clock: Clock, writer: Agent, editor: Agent
) -> None:
    """Unlocked while the clock was ahead, and the database restored from before: unlocked again."""
    clock.advance(YEARS)
    pipelit.users.unlock("agent_writer")
    with pytest.raises(CodeRejected):
        editor.verify_peer("agent_writer", "00000000")
    clock.now = NOW
    with database_of(pipelit).writing() as connection:
        connection.execute(text("DELETE FROM pipelit_ledger"))
    for number in range(9):
        clock.advance(61 if number == 4 else 0)
        with pytest.raises(VerificationError):
            editor.verify_peer("agent_writer", "00000000")
    pipelit.users.unlock("agent_writer")
    verify(editor, writer)
