"""The ledger: limits, locks, what is durable, and that nothing passes while it can't count."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import Clock
from internals import database_of, ledger_of
from sqlalchemy import create_engine, event, text
from test_mfa import app_of

from pipelit_agents import Agent, Pipelit, VerificationPolicy
from pipelit_agents.errors import (
    CodeRejected,
    LedgerUnavailable,
    PeerLocked,
    RateLimited,
    StorageError,
    UserNotFound,
    VerificationError,
)
from pipelit_agents.ledger import Account, Attempt, Decision, SqlLedger
from pipelit_agents.ledger.rules import Rules, class_of
from pipelit_agents.policy import YEAR
from pipelit_agents.protocol.binding import PERIOD

# The SQL is one; what else PostgreSQL may decide about is marked.
BACKENDS = ("sqlite", "redis")


def make(pipelit: Pipelit, name: str, owner: str = "alice") -> Agent:
    """Another agent."""
    pipelit.users.create_agent(name, owner=owner, purpose="takes part")
    return pipelit.agent(name)


def guess(verifier: Agent, peer: str, times: int = 1) -> list[VerificationError]:
    """Guesses wrong that many times; what came of it."""
    found = []
    for _ in range(times):
        with pytest.raises(VerificationError) as caught:
            # 8 digits; the code of the step 60 000 000 ± n is another with 1 - 3e-8.
            verifier.verify_peer(peer, "00000000")
        found.append(caught.value)
    return found


def guess_slowly(clock: Clock, verifier: Agent, peer: str, times: int) -> None:
    """Guesses wrong that many times, and waits whenever the limit of a minute would hold."""
    for number in range(times):
        if number % 5 == 0:
            clock.advance(61)
        assert [type(each) for each in guess(verifier, peer)] == [CodeRejected]


def verify(verifier: Agent, peer: Agent) -> None:
    """Verifies with the right code."""
    verifier.verify_peer(peer.username, peer.totp_code(audience=verifier.username).code)


def last_reason(pipelit: Pipelit) -> str:
    """The true reason of the last decision."""
    return pipelit.audit.list(limit=1)[0].reason


Restart = Callable[[VerificationPolicy], Agent]


@pytest.fixture
def restart(database_url: str, key: str, clock: Clock) -> Iterator[Restart]:
    """Makes an editor whose ledger believes that its machine was started again."""
    with ExitStack() as stack:

        def made(policy: VerificationPolicy) -> Agent:
            other = Pipelit(
                database_url=database_url,
                encryption_keys=[key],
                ledger=lambda context: SqlLedger(
                    context.database, context.policy, context.clock, lambda: "another life"
                ),
                policy=policy,
                clock=clock,
            )
            return stack.enter_context(other).agent("agent_editor")

        yield made


def reopened(pipelit: Pipelit, prepare: Callable[[Any], None]) -> None:
    """Opens the database anew, with something done to every connection."""
    pipelit.close()
    event.listen(database_of(pipelit).engine, "connect", lambda made, _: prepare(made))


# Limits


@pytest.mark.backends("sqlite", "postgres", "redis")
def test_after_five_failures_a_verifier_waits_and_others_do_not(
    pipelit: Pipelit, clock: Clock, writer: Agent, editor: Agent
) -> None:
    """Of 12 wrong guesses 7 are told to wait, the right code too, and C still verifies A."""
    found = guess(editor, "agent_writer", 12)
    assert [type(each) for each in found] == [CodeRejected] * 5 + [RateLimited] * 7
    assert {each.retry_after for each in found if isinstance(each, RateLimited)} == {60.0}
    with pytest.raises(RateLimited) as caught:
        verify(editor, writer)
    assert (caught.value.peer, caught.value.verifier) == ("agent_writer", "agent_editor")
    verify(make(pipelit, "agent_other"), writer)
    verify(editor, make(pipelit, "agent_else"))


def test_a_wait_ends_when_it_says(clock: Clock, writer: Agent, editor: Agent) -> None:
    """After ``retry_after`` seconds, and not a second earlier, a code is looked at again."""
    for _ in range(5):
        guess(editor, "agent_writer")
        clock.advance(4)
    limited = guess(editor, "agent_writer")[0]
    assert isinstance(limited, RateLimited)
    assert limited.retry_after == 40
    clock.advance(limited.retry_after - 1)
    with pytest.raises(RateLimited):
        verify(editor, writer)
    clock.advance(1)
    verify(editor, writer)


def test_attempts_while_waiting_are_not_counted(clock: Clock, writer: Agent, editor: Agent) -> None:
    """Being told to wait is no failure: a hundred of them lock nobody."""
    guess(editor, "agent_writer", 105)
    clock.advance(60)
    verify(editor, writer)


@pytest.mark.backends("sqlite", "postgres", "redis")
def test_ten_failures_in_a_row_lock_the_pair_for_15_minutes(
    pipelit: Pipelit, clock: Clock, writer: Agent, editor: Agent
) -> None:
    """After ten the pair is locked for 900 s, the right code too; C still verifies A."""
    guess_slowly(clock, editor, "agent_writer", 10)
    locked = guess(editor, "agent_writer")[0]
    assert isinstance(locked, PeerLocked)
    assert locked.retry_after == 900
    assert last_reason(pipelit) == "lane locked"
    verify(make(pipelit, "agent_other"), writer)
    clock.advance(899)
    with pytest.raises(PeerLocked):
        verify(editor, writer)
    clock.advance(1)
    verify(editor, writer)


@pytest.mark.backends("sqlite", "postgres", "redis")
def test_a_success_ends_the_row(clock: Clock, writer: Agent, editor: Agent) -> None:
    """Nine failures, a success and nine failures lock nobody."""
    for _ in range(2):
        guess_slowly(clock, editor, "agent_writer", 9)
        clock.advance(61)
        verify(editor, writer)


def test_locks_double_and_give_one_try_each(
    pipelit: Pipelit, clock: Clock, writer: Agent, editor: Agent
) -> None:
    """15 minutes, 30, an hour and so on up to 30 days; after each lock one guess is evaluated."""
    guess_slowly(clock, editor, "agent_writer", 10)
    seen = []
    for _ in range(15):
        waits = {each.retry_after for each in guess(editor, "agent_writer", 3)}  # type: ignore[attr-defined]
        (wait,) = waits
        seen.append(wait)
        clock.advance(wait)
        assert [type(each) for each in guess(editor, "agent_writer")] == [CodeRejected]
    month = 30 * 86_400
    assert seen == [min(900 * 2**number, month) for number in range(15)]
    clock.advance(month)
    verify(editor, writer)
    guess_slowly(clock, editor, "agent_writer", 10)
    locked = guess(editor, "agent_writer")[0]
    assert isinstance(locked, PeerLocked)
    assert locked.retry_after == 900


def test_a_lock_stays_the_longest_for_years(clock: Clock, writer: Agent, editor: Agent) -> None:
    """However many failures there were: each lock has an end, and it says when."""
    guess_slowly(clock, editor, "agent_writer", 10)
    for _ in range(80):
        locked = guess(editor, "agent_writer")[0]
        assert isinstance(locked, PeerLocked)
        assert locked.retry_after <= 30 * 86_400
        clock.advance(locked.retry_after)
        guess(editor, "agent_writer")
    locked = guess(editor, "agent_writer")[0]
    assert isinstance(locked, PeerLocked)
    clock.advance(locked.retry_after)
    verify(editor, writer)


def test_the_first_lock_of_a_lane_is_an_alarm(
    pipelit: Pipelit, clock: Clock, writer: Agent, editor: Agent
) -> None:
    """A row of its own in the audit, that can be filtered for; one for each row of failures."""
    guess_slowly(clock, editor, "agent_writer", 10)
    for _ in range(3):
        locked = guess(editor, "agent_writer")[0]
        assert isinstance(locked, PeerLocked)
        clock.advance(locked.retry_after)
        guess(editor, "agent_writer")
    (alarm,) = pipelit.audit.list(action="lane.lock")
    assert (alarm.actor, alarm.subject, alarm.outcome, alarm.reason) == (
        "agent_editor",
        "agent_writer",
        "refused",
        "locked lane: audience",
    )
    assert last_reason(pipelit) == "wrong code"


def hammer(pipelit: Pipelit, clock: Clock, peer: str) -> None:
    """A hundred failures in a row, by the agents of two owners."""
    for owner in ("bob", "carol"):
        pipelit.users.create(owner)
        for number in range(5):
            guess_slowly(clock, make(pipelit, f"agent_{owner}_{number}", owner), peer, 10)


def test_a_hundred_failures_of_others_lock_nobody_out(
    pipelit: Pipelit, clock: Clock, writer: Agent, editor: Agent
) -> None:
    """After 100 in a row by ten agents of two owners everybody else verifies, at once."""
    editor.verify_peer("agent_writer", writer.totp_code().code, kind="plain")
    hammer(pipelit, clock, "agent_writer")
    verify(editor, writer)
    verify(make(pipelit, "agent_of_alice"), writer)
    verify(make(pipelit, "agent_of_bob", "bob"), writer)
    editor.verify_peer("agent_writer", writer.totp_code().code, kind="plain")
    assert isinstance(guess(pipelit.agent("agent_carol_4"), "agent_writer")[0], PeerLocked)


def test_a_hundred_wrong_codes_said_to_one_verifier_close_its_own_lane_only(
    pipelit: Pipelit, clock: Clock, writer: Agent, editor: Agent
) -> None:
    """Strangers who talk to one verifier close that one; all others verify the peer at once."""
    evaluated = 0
    while evaluated < 40:
        (found,) = guess(editor, "agent_writer")
        evaluated += isinstance(found, CodeRejected)
        clock.advance(getattr(found, "retry_after", 0))
    for number in range(3):
        verify(make(pipelit, f"agent_{number}"), writer)
    make(pipelit, "agent_plain").verify_peer("agent_writer", writer.totp_code().code, kind="plain")


def wrong_plain(writer: Agent) -> str:
    """Six digits that aren't the present code, nor one beside it by more than chance."""
    return f"{(int(writer.totp_code().code) + 1) % 10**6:06d}"


def guess_plain(clock: Clock, verifier: Agent, writer: Agent, times: int) -> None:
    """Guesses plain codes that many times, whatever comes of it, and never waits for a minute."""
    for _ in range(times):
        with pytest.raises(VerificationError):
            verifier.verify_peer("agent_writer", wrong_plain(writer), kind="plain")
        clock.advance(13)


def verify_plain(clock: Clock, verifier: Agent, writer: Agent) -> None:
    """Verifies with the right plain code, and waits for the next one."""
    verifier.verify_peer("agent_writer", writer.totp_code().code, kind="plain")
    clock.advance(30)


def strangers_of(pipelit: Pipelit, count: int) -> list[Agent]:
    """Agents of another owner."""
    pipelit.users.create("bob")
    return [make(pipelit, f"agent_bob_{number}", "bob") for number in range(count)]


def test_who_was_shown_a_right_plain_code_has_a_lane_of_its_own(
    pipelit: Pipelit, clock: Clock, writer: Agent, editor: Agent
) -> None:
    """The first two verifiers of other owners keep theirs; strangers share one, and close it."""
    *known, late, stranger = strangers_of(pipelit, 4)
    for each in (*known, late):
        verify_plain(clock, each, writer)
    guess_plain(clock, stranger, writer, 12)
    for each in (stranger, late):
        with pytest.raises(PeerLocked):
            each.verify_peer("agent_writer", writer.totp_code().code, kind="plain")
    for each in (*known, editor):
        verify_plain(clock, each, writer)
    verify(stranger, writer)


@pytest.mark.slow
def test_strangers_never_close_the_lane_of_the_peers_family(
    pipelit: Pipelit, clock: Clock, writer: Agent, editor: Agent
) -> None:
    """Agents of another owner guess for a week; a new agent of the peer's owner verifies it."""
    (stranger,) = strangers_of(pipelit, 1)
    for _ in range(7 * 24):
        with pytest.raises(VerificationError):
            stranger.verify_peer("agent_writer", wrong_plain(writer), kind="plain")
        clock.advance(3600)
    verify_plain(clock, editor, writer)
    verify_plain(clock, make(pipelit, "agent_fresh"), writer)
    assert [each.lane for each in pipelit.users.lanes("agent_writer")] == ["others"]


def test_guesses_of_the_family_close_no_lane_of_others(
    pipelit: Pipelit, clock: Clock, writer: Agent, editor: Agent
) -> None:
    """An agent of the same owner closes the family's lane, and no other; ``unlock`` opens it."""
    (stranger,) = strangers_of(pipelit, 1)
    guess_plain(clock, editor, writer, 12)
    assert [each.lane for each in pipelit.users.lanes("agent_writer")] == ["family"]
    verify_plain(clock, stranger, writer)
    with pytest.raises(PeerLocked):
        verify_plain(clock, editor, writer)
    pipelit.users.unlock("agent_writer", lane="family")
    verify_plain(clock, editor, writer)


@pytest.mark.backends("sqlite", "postgres", "redis")
def test_own_lanes_are_given_up_when_their_verifiers_are_deactivated(
    pipelit: Pipelit, clock: Clock, writer: Agent
) -> None:
    """Agents that are thrown away hold no lane; the next has it, with what was counted in it."""
    throwaway, other, heir, stranger = strangers_of(pipelit, 4)
    verify_plain(clock, throwaway, writer)
    verify_plain(clock, other, writer)
    guess_plain(clock, throwaway, writer, 9)
    pipelit.users.deactivate("agent_bob_0")
    verify_plain(clock, heir, writer)
    guess_plain(clock, stranger, writer, 12)
    lanes = {each.lane: each.failures for each in pipelit.users.lanes("agent_writer")}
    assert lanes["plain:agent_bob_2"] == 9
    verify_plain(clock, heir, writer)
    verify_plain(clock, other, writer)
    lanes = {each.lane: each.failures for each in pipelit.users.lanes("agent_writer")}
    assert "plain:agent_bob_2" not in lanes


@pytest.mark.backends("postgres", "both")
@pytest.mark.parametrize("ended", ["agent_writer", "agent_editor"])
def test_a_deactivation_waits_until_an_accepted_code_is_written(
    pipelit: Pipelit,
    settings: dict[str, Any],
    clock: Clock,
    writer: Agent,
    editor: Agent,
    ended: str,
) -> None:
    """Of the peer or of the verifier: after it has returned, no code is accepted."""
    written, deactivated = threading.Event(), threading.Event()
    overtaken = []

    class Held:
        """Stops in the transaction, after everything is written."""

        def settle(self, *_: object) -> Decision:
            raise NotImplementedError("only for ledgers of the user's own")

        def note(self, decision: Decision) -> None:
            written.set()
            overtaken.append(deactivated.wait(0.4))

    def deactivate() -> None:
        written.wait(10)
        other.users.deactivate(ended)
        deactivated.set()

    def matches(account: Account | None, steps: range) -> list[int]:
        return [int(clock.now) // PERIOD]

    attempt = Attempt("agent_editor", "agent_writer", "audience", matches, guard=Held())
    with Pipelit(**settings, clock=clock) as other:
        thread = threading.Thread(target=deactivate)
        thread.start()
        assert ledger_of(pipelit).decide(attempt).verdict == "accepted"
        thread.join()
    assert overtaken == [False]
    assert not pipelit.users.get(ended).active


@pytest.mark.parametrize("who", ["ghost", "agent_gone", "alice", "bob"])
def test_who_may_verify_nobody_closes_no_lane_of_others(
    pipelit: Pipelit, clock: Clock, writer: Agent, editor: Agent, who: str
) -> None:
    """A handle of nobody, of a deactivated agent or of a person has a lane of its own alone.

    It is told the same as an agent that guesses, and its right codes are refused.
    """
    (stranger,) = strangers_of(pipelit, 1)
    make(pipelit, "agent_gone")
    pipelit.users.deactivate("agent_gone")
    guess_plain(clock, pipelit.agent(who), writer, 9)
    with pytest.raises(CodeRejected):
        pipelit.agent(who).verify_peer("agent_writer", writer.totp_code().code, kind="plain")
    assert last_reason(pipelit) == "verifier unknown or inactive"
    clock.advance(30)
    with pytest.raises(PeerLocked):
        pipelit.agent(who).verify_peer("agent_writer", writer.totp_code().code, kind="plain")
    assert [each.lane for each in pipelit.users.lanes("agent_writer")] == [f"nobody:{who}"]
    for each in (editor, stranger):
        verify_plain(clock, each, writer)


def test_agents_in_a_persons_run_do_not_close_her_own_lane(
    pipelit: Pipelit, clock: Clock, editor: Agent
) -> None:
    """What an agent guesses about her while the code acts for her is counted as a stranger's."""
    app = app_of(pipelit.mfa.enroll("alice"))
    pipelit.mfa.confirm("alice", app.at(clock()))
    clock.advance(60)
    with pipelit.acting_for("alice"):
        for _ in range(12):
            with pytest.raises(VerificationError):
                editor.verify_peer(
                    "alice", f"{(int(app.at(clock())) + 1) % 10**6:06d}", kind="plain"
                )
            clock.advance(13)
        assert [each.lane for each in pipelit.users.lanes("alice")] == ["others"]
        pipelit.mfa.verify("alice", app.at(clock()))


def test_a_right_code_forgives_only_so_many_guesses_a_year(
    pipelit: Pipelit, clock: Clock, writer: Agent, editor: Agent
) -> None:
    """Who guesses between the right codes of others is stopped: the count of failures stays."""
    evaluated, began = 0, clock.now
    while clock.now < began + 366 * 86_400:
        for _ in range(4):
            with pytest.raises(VerificationError) as caught:
                editor.verify_peer("agent_writer", "00000000")
            evaluated += isinstance(caught.value, CodeRejected)
        clock.advance(61)
        try:
            verify(editor, writer)
        except PeerLocked as error:
            clock.advance(error.retry_after)
            verify(editor, writer)
        clock.advance(3600)
    policy = pipelit.policy
    forgiven = policy.forgiven_in_a_year("audience")
    assert forgiven < evaluated <= forgiven + policy.tries_in_a_year()
    # No unlock and no new secret gives the lane more guesses.
    while not isinstance(guess(editor, "agent_writer")[0], PeerLocked):
        clock.advance(61)
    (locked,) = pipelit.users.unlock("agent_writer", lane="audience:agent_editor")
    assert (locked.lane, locked.allowance_used) == ("audience:agent_editor", True)
    pipelit.users.rotate_totp("agent_writer")
    with pytest.raises(PeerLocked) as held:
        verify(editor, writer)
    assert datetime.fromtimestamp(clock() + held.value.retry_after, UTC) == locked.locked_until
    # It opens by itself, and a right code is accepted.
    clock.advance(held.value.retry_after)
    verify(editor, writer)


@pytest.mark.parametrize("kind", ["audience", "plain"])
def test_a_guess_in_an_overlap_costs_two_and_a_used_up_lane_has_none(
    pipelit: Pipelit, clock: Clock, writer: Agent, editor: Agent, kind: Any
) -> None:
    """It may hit a code of either secret; without allowance the old secret's codes are refused."""
    rules, scope = Rules(pipelit.policy), "pair" if kind == "audience" else "family"
    lanes = class_of(scope, person=False)

    def code() -> str:
        audience = "agent_editor" if kind == "audience" else None
        return writer.totp_code(audience=audience).code

    def owed(change: str = "") -> float:
        where = f"WHERE peer = 'agent_writer' AND scope = '{scope}'"
        with database_of(pipelit).writing() as connection:
            if change:
                connection.execute(text(f"UPDATE pipelit_ledger SET {change} {where}"))  # noqa: S608
            query = f"SELECT whole_at FROM pipelit_ledger {where}"  # noqa: S608
            found = connection.scalar(text(query))
        return float(found or 0) - clock()

    def wrong() -> None:
        with pytest.raises(CodeRejected):
            editor.verify_peer("agent_writer", "0" * len(code()), kind=kind)

    old = code()
    pipelit.users.rotate_totp("agent_writer", overlap=timedelta(hours=1))
    wrong()
    assert owed() == pytest.approx(2 * rules.cost(lanes))
    # The old secret's code is good as long as a guess at either can be borne.
    used = clock() + 3 * YEAR - rules.cost(lanes)
    owed(f"whole_at = {used!r}")
    with pytest.raises(CodeRejected):
        editor.verify_peer("agent_writer", old, kind=kind)
    assert owed() == pytest.approx(3 * YEAR)
    editor.verify_peer("agent_writer", code(), kind=kind)
    owed("whole_at = 0")
    clock.advance(30)
    wrong()
    assert owed() == pytest.approx(2 * rules.cost(lanes))


@pytest.mark.slow
def test_codes_that_came_late_are_no_guesses(
    pipelit: Pipelit, clock: Clock, writer: Agent, editor: Agent
) -> None:
    """A slow model hands on expired codes all day: each right one ends the count of failures."""
    for _ in range(60):
        late = [writer.totp_code(audience="agent_editor").code for _ in range(4)]
        clock.advance(120)
        for code in late:
            with pytest.raises(CodeRejected):
                editor.verify_peer("agent_writer", code)
        assert last_reason(pipelit) == "wrong code"
        verify(editor, writer)
        clock.advance(30)


@pytest.mark.backends("sqlite", "postgres", "redis")
def test_unlocking_forgets_every_lock_and_nothing_that_was_spent(
    pipelit: Pipelit, clock: Clock, writer: Agent, editor: Agent
) -> None:
    """``unlock`` ends waits and locks of all verifiers, but a spent code stays spent."""
    code = writer.totp_code().code
    editor.verify_peer("agent_writer", code, kind="plain")
    other = make(pipelit, "agent_other")
    guess(editor, "agent_writer", 6)
    guess(other, "agent_writer", 6)
    pipelit.users.unlock("agent_writer")
    with pytest.raises(CodeRejected):
        other.verify_peer("agent_writer", code, kind="plain")
    assert last_reason(pipelit) == "replay"
    verify(editor, writer)
    with pytest.raises(UserNotFound):
        pipelit.users.unlock("agent_nobody")


@pytest.mark.parametrize("kind", ["audience", "plain"])
@pytest.mark.parametrize("back", [60, 90, 3600])
def test_an_unlock_by_a_clock_that_is_behind_makes_no_spent_code_good(
    pipelit: Pipelit, clock: Clock, writer: Agent, editor: Agent, kind: str, back: int
) -> None:
    """Also not the last but one; and new codes are good at once when the clock is right again."""
    codes = []
    for _ in range(2):
        clock.advance(30)
        audience = "agent_editor" if kind == "audience" else None
        codes.append(writer.totp_code(audience=audience).code)
        editor.verify_peer("agent_writer", codes[-1], kind=kind)  # type: ignore[arg-type]
    clock.advance(-back)
    pipelit.users.unlock("agent_writer")
    clock.advance(back)
    for code in codes:
        with pytest.raises(CodeRejected):
            editor.verify_peer("agent_writer", code, kind=kind)  # type: ignore[arg-type]
        assert last_reason(pipelit) == "replay"
    clock.advance(60)
    editor.verify_peer(
        "agent_writer",
        writer.totp_code(audience=audience).code,
        kind=kind,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("kind", ["audience", "plain"])
@pytest.mark.backends("sqlite", "postgres", "redis")
def test_what_was_spent_ahead_of_the_clock_stays_spent_when_its_moment_comes(
    pipelit: Pipelit, clock: Clock, writer: Agent, editor: Agent, kind: str
) -> None:
    """After two repairs by ``unlock`` each of three codes is refused, and those between aren't."""
    audience = "agent_editor" if kind == "audience" else None

    def code() -> str:
        return writer.totp_code(audience=audience).code

    spent = []
    for ahead in (600, 1200, 1800):
        clock.advance(ahead)
        spent.append((clock.now, code()))
        editor.verify_peer("agent_writer", spent[-1][1], kind=kind)  # type: ignore[arg-type]
        clock.advance(-ahead)
        if ahead != 600:
            pipelit.users.unlock("agent_writer")
            with pytest.raises(CodeRejected):
                # Redis lowers the step at the first attempt.
                editor.verify_peer("agent_writer", spent[-1][1], kind=kind)  # type: ignore[arg-type]
    for moment, each in spent:
        clock.now = moment - 120
        editor.verify_peer("agent_writer", code(), kind=kind)  # type: ignore[arg-type]
        clock.now = moment
        with pytest.raises(CodeRejected):
            editor.verify_peer("agent_writer", each, kind=kind)  # type: ignore[arg-type]
        assert last_reason(pipelit) == "replay"
        clock.advance(60)
        editor.verify_peer("agent_writer", code(), kind=kind)  # type: ignore[arg-type]


def test_an_account_that_is_not_there_is_limited_and_locked_the_same(
    pipelit: Pipelit, clock: Clock, writer: Agent, editor: Agent
) -> None:
    """Guesses about an unknown name meet the same refusals, waits and locks at the same points."""

    def seen(peer: str) -> list[tuple[type, str, float | None]]:
        found = []
        for _ in range(4):
            found += guess(editor, peer, 8)
            clock.advance(61)
        return [
            (type(each), str(each).replace(peer, "X"), getattr(each, "retry_after", None))
            for each in found
        ]

    ghost = seen("agent_ghost")
    assert ghost == seen("agent_writer")
    assert {kind for kind, _, _ in ghost} == {CodeRejected, RateLimited, PeerLocked}


@pytest.mark.slow
def test_nobody_is_born_locked(pipelit: Pipelit, clock: Clock, editor: Agent) -> None:
    """Guesses about a name before it was given don't lock the agent that gets it."""
    hammer(pipelit, clock, "agent_unborn")
    guess_slowly(clock, editor, "agent_unborn", 10)
    verify(editor, make(pipelit, "agent_unborn"))


def test_the_kinds_of_code_are_counted_apart(clock: Clock, writer: Agent, editor: Agent) -> None:
    """An audience code is good for its verifier alone, so its failures are no stranger's."""
    guess(editor, "agent_writer", 5)
    assert [type(each) for each in guess(editor, "agent_writer")] == [RateLimited]
    editor.verify_peer("agent_writer", writer.totp_code().code, kind="plain")


def test_a_policy_may_be_stricter(
    pipelit: Pipelit, settings: dict[str, Any], clock: Clock, writer: Agent, editor: Agent
) -> None:
    """A deployment's own limits hold."""
    policy = VerificationPolicy(failures_per_minute=1, lock_after=2, lock_seconds=60)
    with Pipelit(**settings, clock=clock, policy=policy) as other:
        strict = other.agent("agent_editor")
        assert [type(each) for each in guess(strict, "agent_writer", 2)] == [
            CodeRejected,
            RateLimited,
        ]
        clock.advance(60)
        guess(strict, "agent_writer")
        locked = guess(strict, "agent_writer")[0]
        assert isinstance(locked, PeerLocked)
        assert locked.retry_after == 60


@pytest.mark.parametrize(
    "wrong",
    [
        {"failures_per_minute": 0},
        {"lock_after": 0},
        {"lock_seconds": float("nan")},
        {"lock_seconds": float("inf")},
        {"lock_seconds": 1e9},
        {"longest_lock_seconds": 899},
        {"longest_lock_seconds": 1e9},
        {"own_lanes": -1},
        {"window": 3},
        {"window": -1},
        {"agents_per_owner": 0},
        {"agents_per_owner": 10**5000},
        {"agents_per_creator": 0},
        {"lock_after": 10**9 + 1},
    ],
)
def test_a_policy_that_breaks_a_promise_is_refused(wrong: dict[str, Any]) -> None:
    """A number out of range is a ValueError that names it."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        VerificationPolicy(**wrong)


@pytest.mark.parametrize(
    "name",
    [
        "failures_per_minute",
        "lock_after",
        "own_lanes",
        "window",
        "agents_per_owner",
        "agents_per_creator",
    ],
)
@pytest.mark.parametrize("value", [1.5, float("inf"), True])
def test_what_a_policy_counts_is_whole(name: str, value: Any) -> None:
    """Half a failure or half a step is a TypeError that names it; half a second of a lock isn't."""
    with pytest.raises(TypeError, match=f"{name} must be a whole number"):
        VerificationPolicy(**{name: value})
    assert VerificationPolicy(lock_seconds=1.5).lock_seconds == 1.5


@pytest.mark.parametrize(
    "wrong",
    [
        {"lock_after": 400},
        {"own_lanes": 40},
        {"longest_lock_seconds": 900},
        {"lock_seconds": 1.0, "longest_lock_seconds": 86_400},
        {"window": 2, "own_lanes": 5},
    ],
)
def test_a_policy_that_lets_guessing_succeed_is_refused(wrong: dict[str, Any]) -> None:
    """A year of guessing has to stay below 1 in 1,000; the error says what to change."""
    with pytest.raises(ValueError, match=r"1 in 1,000: lower lock_after, own_lanes or window, or"):
        VerificationPolicy(**wrong)


@pytest.mark.parametrize("window", [0, 1, 2])
@pytest.mark.parametrize("people", [True, False])
def test_a_policy_that_is_taken_keeps_the_promise(window: int, people: bool) -> None:
    """What it forgives is what the promise leaves room for, and not more."""
    policy = VerificationPolicy(window=window)
    assert policy.tries_in_a_year() == 32
    assert 0 < policy.chance_of_guessing(people=people) < 1e-3
    assert policy.forgiven_in_a_year("people" if people else "audience") >= 2
    more = policy.chance_of_guessing(people=people, audience_verifiers=1000)
    assert more == policy.chance_of_guessing(people=people) or not people


# Durability


class Mishap(Exception):
    pass


@pytest.mark.backends("sqlite")
def test_an_attempt_is_charged_though_the_callers_transaction_rolls_back(
    pipelit: Pipelit, database_url: str, writer: Agent, editor: Agent
) -> None:
    """In a transaction of the caller's on the same file, rolled back: spent and counted."""
    code = writer.totp_code(audience="agent_editor").code
    engine = create_engine(database_url)

    def work() -> None:
        with engine.begin() as connection:
            connection.exec_driver_sql("BEGIN")
            assert connection.scalar(text("SELECT count(*) FROM pipelit_users")) == 3
            editor.verify_peer("agent_writer", code)
            guess(editor, "agent_writer", 5)
            raise Mishap

    with pytest.raises(Mishap):
        work()
    engine.dispose()
    assert isinstance(guess(editor, "agent_writer")[0], RateLimited)
    pipelit.users.unlock("agent_writer")
    with pytest.raises(CodeRejected):
        editor.verify_peer("agent_writer", code)
    assert last_reason(pipelit) == "replay"


@pytest.mark.backends("sqlite", "postgres", "redis")
def test_an_attempt_inside_our_own_reading_transaction_is_charged(
    pipelit: Pipelit, writer: Agent, editor: Agent
) -> None:
    """A reader that saw the state before doesn't undo what was spent since."""
    code = writer.totp_code(audience="agent_editor").code
    with database_of(pipelit).reading() as connection:
        count = text("SELECT count(*) FROM pipelit_ledger")
        before = connection.scalar(count)
        editor.verify_peer("agent_writer", code)
        assert connection.scalar(count) == before
    with pytest.raises(CodeRejected):
        editor.verify_peer("agent_writer", code)


@pytest.mark.backends("sqlite", "postgres", "redis")
def test_limits_outlive_the_process(
    pipelit: Pipelit, settings: dict[str, Any], clock: Clock, writer: Agent, editor: Agent
) -> None:
    """What was counted and spent is there for a Pipelit that is made afterwards."""
    code = writer.totp_code(audience="agent_editor").code
    editor.verify_peer("agent_writer", code)
    guess(editor, "agent_writer", 5)
    pipelit.close()
    with Pipelit(**settings, clock=clock) as other:
        with pytest.raises(RateLimited):
            other.agent("agent_editor").verify_peer("agent_writer", code)
        clock.advance(60)
        with pytest.raises(CodeRejected):
            other.agent("agent_editor").verify_peer("agent_writer", code)


# Epochs


@pytest.mark.slow
@pytest.mark.backends("sqlite", "postgres")
@pytest.mark.parametrize("window", [0, 1, 2])
def test_after_a_restart_what_may_have_been_spent_is_refused(
    database_url: str, key: str, clock: Clock, window: int, restart: Restart
) -> None:
    """No code that could be spent before the change is good after it; younger ones are."""
    policy = VerificationPolicy(window=window, failures_per_minute=99)
    with Pipelit(
        database_url=database_url, encryption_keys=[key], clock=clock, policy=policy
    ) as pipelit:
        pipelit.create_schema()
        pipelit.users.create("alice")
        writer, editor = make(pipelit, "agent_writer"), make(pipelit, "agent_editor")
        codes = {}
        for step in range(-window, 8):
            clock.now = 1_800_000_000 + 30 * step
            codes[step] = writer.totp_code(audience="agent_editor").code
        clock.now = 1_800_000_000
        restarted = restart(pipelit.policy)
        accepted = []
        for present in range(6):
            clock.now = 1_800_000_000 + 30 * present
            for step in range(max(present - window, -window), present + window + 1):
                # Limits are another matter here.
                pipelit.users.unlock("agent_writer")
                try:
                    restarted.verify_peer("agent_writer", codes[step])
                    accepted.append(step)
                except CodeRejected:
                    assert last_reason(pipelit) in ("step from before a restart", "replay")
        # What was good in the moment of the change, ahead by the window, is never good again.
        assert accepted == list(range(window + 1, 6 + window))
        assert editor.username == restarted.username


@pytest.mark.backends("sqlite", "postgres")
@pytest.mark.parametrize("window", [0, 1, 2])
def test_a_code_from_ahead_is_refused_for_as_long_as_the_window_reaches_it(
    database_url: str, key: str, clock: Clock, window: int, restart: Restart
) -> None:
    """A code that was good before its time isn't good again at the end of its time either."""
    policy = VerificationPolicy(window=window)
    with Pipelit(
        database_url=database_url, encryption_keys=[key], clock=clock, policy=policy
    ) as pipelit:
        pipelit.create_schema()
        pipelit.users.create("alice")
        writer, editor = make(pipelit, "agent_writer"), make(pipelit, "agent_editor")
        clock.advance(30 * window)
        code = writer.totp_code(audience="agent_editor").code
        clock.advance(-30 * window)
        editor.verify_peer("agent_writer", code)
        with database_of(pipelit).writing() as connection:
            connection.execute(text("DELETE FROM pipelit_ledger"))
        restarted = restart(pipelit.policy)
        guess(restarted, "agent_writer")
        clock.advance(60 * window)
        with pytest.raises(CodeRejected):
            restarted.verify_peer("agent_writer", code)
        assert last_reason(pipelit) == "step from before a restart"


@pytest.mark.backends("sqlite", "postgres")
def test_a_spent_code_that_was_forgotten_is_not_good_again(
    pipelit: Pipelit, clock: Clock, writer: Agent, editor: Agent, restart: Restart
) -> None:
    """A power cut that undoes a commit doesn't make the code good for whoever saw it."""
    code = writer.totp_code(audience="agent_editor").code
    editor.verify_peer("agent_writer", code)
    with database_of(pipelit).writing() as connection:
        connection.execute(text("DELETE FROM pipelit_ledger"))
    restarted = restart(pipelit.policy)
    for _ in range(3):
        with pytest.raises(CodeRejected):
            restarted.verify_peer("agent_writer", code)
        clock.advance(30)
    assert last_reason(pipelit) == "wrong code"
    verify(restarted, writer)


@pytest.mark.backends("sqlite", "postgres")
def test_a_change_is_noticed_once(
    pipelit: Pipelit, clock: Clock, writer: Agent, editor: Agent, restart: Restart
) -> None:
    """The epoch is written down, so that a long run after a restart isn't refused."""
    restarted = restart(pipelit.policy)
    with pytest.raises(CodeRejected):
        verify(restarted, writer)
    for _ in range(5):
        clock.advance(60)
        verify(restarted, writer)


@pytest.mark.backends("sqlite", "postgres")
def test_a_change_is_noticed_while_a_limit_holds(
    pipelit: Pipelit, clock: Clock, writer: Agent, editor: Agent, restart: Restart
) -> None:
    """An attempt that isn't evaluated writes the change down all the same."""
    guess(editor, "agent_writer", 5)
    restarted = restart(pipelit.policy)
    assert [type(each) for each in guess(restarted, "agent_writer")] == [RateLimited]
    clock.advance(60)
    verify(restarted, writer)


@pytest.mark.backends("sqlite", "postgres")
def test_without_an_epoch_nothing_is_accepted(
    pipelit: Pipelit, clock: Clock, writer: Agent, editor: Agent
) -> None:
    """A database that lost its epoch can't say what it forgot, and refuses."""
    with database_of(pipelit).writing() as connection:
        connection.execute(text("DELETE FROM pipelit_epoch"))
    for _ in range(4):
        with pytest.raises(CodeRejected):
            verify(editor, writer)
        assert last_reason(pipelit) == "step from before a restart"
        clock.advance(120)


@pytest.mark.backends("redis")
def test_without_its_name_nothing_is_accepted(
    pipelit: Pipelit, clock: Clock, writer: Agent, editor: Agent
) -> None:
    """A database that lost its name can't find its counters in Redis, and refuses."""
    with database_of(pipelit).writing() as connection:
        connection.execute(text("DELETE FROM pipelit_epoch"))
    with pytest.raises(LedgerUnavailable, match="pipelit_epoch"):
        verify(editor, writer)


# Failure


def refuses(pipelit: Pipelit, verifier: Agent, peer: str, code: str) -> None:
    """The check is refused because attempts can't be counted, and names the setting."""
    with pytest.raises(LedgerUnavailable, match="PIPELIT_DATABASE_URL") as caught:
        verifier.verify_peer(peer, code)
    assert (caught.value.peer, caught.value.verifier) == (peer, verifier.username)
    assert code not in str(caught.value)


@pytest.mark.backends("sqlite")
def test_without_its_database_nothing_is_accepted(
    pipelit: Pipelit, database_url: str, writer: Agent, editor: Agent
) -> None:
    """When the file is gone every check is refused, of codes and of proofs."""
    code = writer.totp_code(audience="agent_editor").code
    challenge = editor.challenge("agent_writer")
    proof = writer.prove(challenge.value, b"", verifier="agent_editor")
    pipelit.close()
    Path(database_url.removeprefix("sqlite:///")).unlink()
    refuses(pipelit, editor, "agent_writer", code)
    with pytest.raises(StorageError, match="create_schema"):
        editor.verify_proof(proof, challenge=challenge, payload=b"")


@pytest.mark.backends("sqlite")
def test_with_a_damaged_database_nothing_is_accepted(
    pipelit: Pipelit, database_url: str, writer: Agent, editor: Agent
) -> None:
    """When the file is no database any more, every check is refused."""
    code = writer.totp_code(audience="agent_editor").code
    pipelit.close()
    Path(database_url.removeprefix("sqlite:///")).write_bytes(b"no database" * 1000)
    refuses(pipelit, editor, "agent_writer", code)


@pytest.mark.backends("sqlite")
def test_with_a_read_only_database_nothing_is_accepted(
    pipelit: Pipelit, writer: Agent, editor: Agent
) -> None:
    """A ledger that can be read but not written refuses, of codes and of proofs."""
    code = writer.totp_code(audience="agent_editor").code
    challenge = editor.challenge("agent_writer")
    proof = writer.prove(challenge.value, b"", verifier="agent_editor")
    reopened(pipelit, lambda made: made.execute("PRAGMA query_only = ON"))
    refuses(pipelit, editor, "agent_writer", code)
    with pytest.raises(StorageError, match="readonly"):
        editor.verify_proof(proof, challenge=challenge, payload=b"")
    pipelit.close()
    editor.verify_peer("agent_writer", code)


@pytest.mark.backends("sqlite")
def test_with_a_full_disk_nothing_is_accepted(
    pipelit: Pipelit, database_url: str, clock: Clock, writer: Agent, editor: Agent
) -> None:
    """When the database can't grow, the code is refused and stays unspent."""
    reopened(pipelit, lambda made: made.execute("PRAGMA max_page_count = 1"))
    code = ""

    def verify_on_and_on() -> None:
        nonlocal code
        for _ in range(2000):
            code = writer.totp_code(audience="agent_editor").code
            editor.verify_peer("agent_writer", code)
            clock.advance(60)

    with pytest.raises(LedgerUnavailable, match="full"):
        verify_on_and_on()
    refuses(pipelit, editor, "agent_writer", code)
    pipelit.close()
    editor.verify_peer("agent_writer", code)


@pytest.mark.backends("sqlite")
def test_a_caller_that_holds_the_write_lock_gets_a_refusal(
    pipelit: Pipelit, database_url: str, writer: Agent, editor: Agent
) -> None:
    """While another holds SQLite's write lock, a check that doesn't get it is refused."""
    code = writer.totp_code(audience="agent_editor").code
    reopened(pipelit, lambda made: made.execute("PRAGMA busy_timeout = 1"))
    holder = sqlite3.connect(database_url.removeprefix("sqlite:///"), isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    refuses(pipelit, editor, "agent_writer", code)
    holder.execute("ROLLBACK")
    holder.close()
    editor.verify_peer("agent_writer", code)
