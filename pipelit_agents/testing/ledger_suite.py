"""The tests that every ledger has to pass, to be inherited by a test class of your own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest

from pipelit_agents import VerificationPolicy
from pipelit_agents.errors import (
    CodeRejected,
    PeerLocked,
    RateLimited,
    StorageError,
    VerificationError,
)
from pipelit_agents.ledger import CodeKind, Ledger, LedgerContext
from pipelit_agents.protocol.binding import PERIOD
from pipelit_agents.testing.ledger_history import live_through
from pipelit_agents.testing.ledger_parts import TOGETHER, WRONG, LedgerParts

__all__ = ["LedgerParts", "LedgerSuite"]

_YEAR: Final = 366 * 86_400.0
# More wrong guesses than any policy forgives in a year.
_MANY: Final = 400


class LedgerSuite:
    """The behaviour of every ledger, as a class of tests.

    Each decision is compared with that of the ledger in the database, which decides the same
    attempt by the same rules.

    Inherit from it in a test file, in a class whose name begins with ``Test``, and write
    ``make_ledger``. Each test makes an empty database. Override the fixture
    ``ledger_database_url`` to test on a database other than SQLite.

    A "restart" in these tests is a second ledger of ``make_ledger`` on the same database, as a
    second process would make it. The store of the ledger has to outlive the first one.

    Example:
        ```python
        from pipelit_agents.testing import LedgerSuite


        class TestMyLedger(LedgerSuite):
            def make_ledger(self, context):
                return MyLedger(context.database, context.policy, context.clock)
        ```
    """

    policy: VerificationPolicy = VerificationPolicy()

    def make_ledger(self, context: LedgerContext) -> Ledger:
        """Make the ledger that is tested; override it.

        Args:
            context: The database, the policy, and a clock that the tests move.
        """
        raise NotImplementedError(
            "write make_ledger(self, context) in the class that inherits from LedgerSuite"
        )

    @pytest.fixture
    def ledger_database_url(self, tmp_path: Path) -> str:
        """Return the URL of an empty database; override it to test on another."""
        return f"sqlite:///{tmp_path}/ledger-suite/agents.db"

    @pytest.fixture
    def ledger_parts(self, ledger_database_url: str) -> Iterator[LedgerParts]:
        """Make a database with two agents of one owner, and one of another."""
        with LedgerParts(self, ledger_database_url) as parts:
            yield parts

    def test_a_right_code_is_accepted(self, ledger_parts: LedgerParts) -> None:
        """With its time step and the moment, and an audit entry."""
        for kind in ("audience", "plain"):
            found = ledger_parts.verify(plain=kind == "plain")
            assert found.verified_at.timestamp() == ledger_parts.clock()
            assert ledger_parts.audited() == (f"verify.{kind}", "ok", "")
            ledger_parts.clock.advance(PERIOD)

    @pytest.mark.parametrize("plain", [False, True])
    def test_a_code_is_accepted_once(self, ledger_parts: LedgerParts, plain: bool) -> None:
        """The same code is refused, as long as it is in the window; the next one is good."""
        code = ledger_parts.code(plain=plain)
        ledger_parts.verify(code, plain=plain)
        for _ in range(2):
            with pytest.raises(CodeRejected):
                ledger_parts.verify(code, plain=plain)
            assert ledger_parts.audited() == (
                f"verify.{'plain' if plain else 'audience'}",
                "refused",
                "replay",
            )
            ledger_parts.clock.advance(PERIOD)
        ledger_parts.verify(plain=plain)

    def test_an_older_code_is_spent_by_a_newer_one(self, ledger_parts: LedgerParts) -> None:
        """After the code of a step, that of an earlier step isn't good any more."""
        older = ledger_parts.code()
        ledger_parts.clock.advance(PERIOD)
        ledger_parts.verify()
        with pytest.raises(CodeRejected):
            ledger_parts.verify(older)

    def test_a_plain_code_is_spent_for_every_verifier(self, ledger_parts: LedgerParts) -> None:
        """A plain code names no audience, so whoever sees it second can't use it."""
        code = ledger_parts.code(plain=True)
        ledger_parts.verify(code, plain=True)
        with pytest.raises(CodeRejected):
            ledger_parts.verify(code, plain=True, verifier="agent_stranger")
        assert ledger_parts.audited()[2] == "replay"

    def test_an_audience_code_is_spent_for_its_verifier_alone(
        self, ledger_parts: LedgerParts
    ) -> None:
        """Codes of the same step for two verifiers are two codes."""
        ledger_parts.verify()
        ledger_parts.verify(verifier="agent_stranger")

    def test_every_wrong_code_is_counted_and_audited(self, ledger_parts: LedgerParts) -> None:
        """After ``failures_per_minute`` wrong codes a right one waits, exactly as long as said."""
        most = ledger_parts.policy.failures_per_minute
        for number in range(most):
            assert type(ledger_parts.guess()) is CodeRejected, f"wrong code {number + 1} of {most}"
            assert ledger_parts.audited() == ("verify.audience", "refused", "wrong code")
        for _ in range(2):
            limited = ledger_parts.guess()
            assert isinstance(limited, RateLimited), "the limit of a minute doesn't hold"
            assert limited.retry_after == 60
            assert ledger_parts.audited() == ("verify.audience", "refused", "rate limited")
        with pytest.raises(RateLimited):
            ledger_parts.verify()
        ledger_parts.clock.advance(59)
        with pytest.raises(RateLimited):
            ledger_parts.verify()
        ledger_parts.clock.advance(1)
        ledger_parts.verify()

    def test_a_lane_is_locked_after_failures_in_a_row(self, ledger_parts: LedgerParts) -> None:
        """The first lock is audited, each further failure doubles it, and a right code ends it."""
        policy = ledger_parts.policy
        ledger_parts.lock()
        actions = [each.action for each in ledger_parts.pipelit.audit.list(limit=8)]
        assert "lane.lock" in actions, "the first lock of a lane is not in the audit"
        for times in (1, 2):
            locked = ledger_parts.guess()
            assert isinstance(locked, PeerLocked), "the lock doesn't hold"
            assert locked.retry_after == policy.lock_seconds * times
            with pytest.raises(PeerLocked):
                ledger_parts.verify()
            ledger_parts.clock.advance(policy.lock_seconds * times)
            assert type(ledger_parts.guess()) is CodeRejected
        ledger_parts.clock.advance(policy.lock_seconds * 4)
        ledger_parts.verify()
        assert type(ledger_parts.guess()) is CodeRejected
        ledger_parts.clock.advance(PERIOD)
        ledger_parts.verify()

    def test_a_lock_holds_nobody_else(self, ledger_parts: LedgerParts) -> None:
        """Other verifiers, other peers, and the verifier's plain codes have lanes of their own."""
        ledger_parts.lock()
        ledger_parts.verify(verifier="agent_stranger")
        ledger_parts.verify(verifier="agent_peer", peer="agent_verifier")
        ledger_parts.verify(plain=True)

    def test_plain_codes_are_counted_too(self, ledger_parts: LedgerParts) -> None:
        """Strangers' wrong plain codes don't hold the agents of the peer's own owner."""
        for _ in range(ledger_parts.policy.failures_per_minute):
            ledger_parts.guess(plain=True, verifier="agent_stranger")
        with pytest.raises(RateLimited):
            ledger_parts.verify(plain=True, verifier="agent_stranger")
        ledger_parts.verify(plain=True)

    def test_an_unlock_ends_the_lock(self, ledger_parts: LedgerParts) -> None:
        """``users.unlock`` writes to the database, and the ledger has to notice it."""
        code = ledger_parts.code()
        ledger_parts.verify(code)
        ledger_parts.lock()
        with pytest.raises(PeerLocked):
            ledger_parts.verify()
        ledger_parts.clock.advance(PERIOD)
        ledger_parts.pipelit.users.unlock("agent_peer")
        ledger_parts.verify()
        ledger_parts.guess()
        with pytest.raises(CodeRejected):
            ledger_parts.verify(code)

    def test_a_new_secret_is_unspent(self, ledger_parts: LedgerParts) -> None:
        """A code of the same time step is good under a new secret, and then spent."""
        ledger_parts.verify()
        ledger_parts.pipelit.users.rotate_totp("agent_peer")
        code = ledger_parts.code()
        ledger_parts.verify(code)
        with pytest.raises(CodeRejected):
            ledger_parts.verify(code)

    def test_a_deactivated_peer_is_refused(self, ledger_parts: LedgerParts) -> None:
        """Its right code is refused in the words for a wrong one; the audit has the reason."""
        code = ledger_parts.code()
        ledger_parts.pipelit.users.deactivate("agent_peer")
        with pytest.raises(CodeRejected):
            ledger_parts.verify(code)
        assert ledger_parts.audited() == ("verify.audience", "refused", "peer inactive")

    def test_an_unknown_peer_is_counted_like_a_known_one(self, ledger_parts: LedgerParts) -> None:
        """So that the answers don't tell whether there is such an account."""
        known = [_told(ledger_parts.guess()) for _ in range(7)]
        unknown = [_told(ledger_parts.guess(peer="agent_nobody")) for _ in range(7)]
        assert known == unknown

    def test_a_spent_code_stays_spent_after_a_restart(self, ledger_parts: LedgerParts) -> None:
        """A second process accepts no code that the first one accepted."""
        code, plain = ledger_parts.code(), ledger_parts.code(plain=True)
        ledger_parts.verify(code)
        ledger_parts.verify(plain, plain=True)
        ledger_parts.restart()
        with pytest.raises(CodeRejected):
            ledger_parts.verify(code)
        with pytest.raises(CodeRejected):
            ledger_parts.verify(plain, plain=True)
        ledger_parts.clock.advance(4 * PERIOD)
        ledger_parts.verify()

    def test_a_lock_outlives_a_restart(self, ledger_parts: LedgerParts) -> None:
        """A process that is started again gives a guesser no new guesses."""
        ledger_parts.lock()
        ledger_parts.restart()
        with pytest.raises(PeerLocked):
            ledger_parts.verify()

    @pytest.mark.parametrize("plain", [False, True])
    def test_a_code_stays_spent_while_it_is_good(
        self, ledger_parts: LedgerParts, plain: bool
    ) -> None:
        """Nothing of it is forgotten until the code isn't in the window any more."""
        code = ledger_parts.code(plain=plain, ahead=1)
        ledger_parts.verify(code, plain=plain)
        # Once, as a ledger may remember for a while after each attempt.
        ledger_parts.clock.advance(3 * PERIOD - 1)
        with pytest.raises(CodeRejected):
            ledger_parts.verify(code, plain=plain)
        assert ledger_parts.audited()[2] == "replay"

    def test_what_was_spent_stays_spent_in_an_overlap(self, ledger_parts: LedgerParts) -> None:
        """While the secret of before is good too, what was spent of it isn't."""
        audience, plain = ledger_parts.code(), ledger_parts.code(plain=True)
        ledger_parts.verify(audience)
        ledger_parts.verify(plain, plain=True)
        unspent = ledger_parts.code(verifier="agent_stranger")
        ledger_parts.pipelit.users.rotate_totp("agent_peer", overlap=timedelta(hours=1))
        for code in (audience, plain):
            with pytest.raises(CodeRejected):
                ledger_parts.verify(code, plain=code == plain)
            assert ledger_parts.audited()[2] == "replay"
        ledger_parts.verify(unspent, verifier="agent_stranger")

    def test_verifiers_of_plain_codes_share_their_guesses(self, ledger_parts: LedgerParts) -> None:
        """Agents of the peer's owner have one lane, and strangers another.

        Otherwise new agents would be new guesses.
        """
        for verifier in ("agent_verifier", "agent_stranger"):
            for _ in range(ledger_parts.policy.failures_per_minute):
                assert type(ledger_parts.guess(plain=True, verifier=verifier)) is CodeRejected
        for verifier in ("agent_colleague", "agent_other"):
            limited = ledger_parts.guess(plain=True, verifier=verifier)
            assert isinstance(limited, RateLimited), "each verifier has guesses of its own"

    def test_a_verifier_of_a_right_code_gets_a_lane_of_its_own(
        self, ledger_parts: LedgerParts
    ) -> None:
        """Other strangers' guesses don't hold it."""
        ledger_parts.verify(plain=True, verifier="agent_stranger")
        ledger_parts.clock.advance(PERIOD)
        for _ in range(ledger_parts.policy.failures_per_minute):
            ledger_parts.guess(plain=True, verifier="agent_other")
        ledger_parts.verify(plain=True, verifier="agent_stranger")

    def test_a_deactivated_verifier_is_refused(self, ledger_parts: LedgerParts) -> None:
        """Its right codes too, and its guesses count in no lane of others."""
        ledger_parts.pipelit.users.deactivate("agent_stranger")
        for plain in (False, True):
            code = ledger_parts.code(plain=plain, verifier="agent_stranger")
            with pytest.raises(CodeRejected):
                ledger_parts.verify(code, plain=plain, verifier="agent_stranger")
            assert ledger_parts.audited()[2] == "verifier unknown or inactive"
        for _ in range(ledger_parts.policy.failures_per_minute):
            ledger_parts.guess(plain=True, verifier="agent_stranger")
        ledger_parts.verify(plain=True, verifier="agent_other")

    def test_a_persons_own_lane_is_not_that_of_strangers(self, ledger_parts: LedgerParts) -> None:
        """Nobody else's wrong codes lock a person out."""
        ledger_parts.enrol()
        ledger_parts.clock.advance(PERIOD)
        for _ in range(ledger_parts.policy.failures_per_minute):
            ledger_parts.guess(plain=True, peer="alice")
        assert isinstance(ledger_parts.guess(plain=True, peer="alice"), RateLimited)
        ledger_parts.pipelit.mfa.verify("alice", ledger_parts.person_code())
        assert ledger_parts.audited()[:2] == ("verify.plain", "ok")

    def test_locks_grow_up_to_the_longest(self, ledger_parts: LedgerParts) -> None:
        """And a right code is accepted after each of them, however long they were."""
        policy, waited = ledger_parts.policy, 0.0
        ledger_parts.lock()
        while waited < policy.longest_lock_seconds:
            locked = ledger_parts.guess()
            assert isinstance(locked, PeerLocked)
            waited = locked.retry_after or 0.0
            ledger_parts.clock.advance(waited)
            if waited < policy.longest_lock_seconds:
                assert type(ledger_parts.guess()) is CodeRejected
        ledger_parts.verify()

    @pytest.mark.parametrize(
        ("verifier", "peer", "plain"),
        [
            ("agent_verifier", "agent_peer", False),
            ("agent_verifier", "agent_peer", True),
            ("agent_stranger", "agent_peer", True),
            ("agent_verifier", "alice", True),
        ],
    )
    def test_right_codes_forgive_only_so_many_guesses_a_year(
        self, ledger_parts: LedgerParts, verifier: str, peer: str, plain: bool
    ) -> None:
        """And neither does an unlock, so that nobody guesses between the right codes of others."""
        policy, who = ledger_parts.policy, {"verifier": verifier, "peer": peer}
        if peer == "alice":
            ledger_parts.enrol()

        def show() -> None:
            ledger_parts.clock.advance(PERIOD)
            code = ledger_parts.person_code() if peer == "alice" else None
            ledger_parts.verify(code, plain=plain, **who)

        def guess() -> VerificationError:
            ledger_parts.clock.advance(60 / policy.failures_per_minute + 1)
            return ledger_parts.guess(plain=plain, **who)

        # Few enough that right codes forgive them, and more in all than they may.
        for _ in range(_MANY // (policy.lock_after - 1) + 1):
            for _ in range(policy.lock_after - 1):
                if isinstance(guess(), PeerLocked):
                    break
            else:
                show()
                continue
            break
        else:
            pytest.fail("right codes forgive any number of wrong ones")
        ledger_parts.pipelit.users.unlock(peer)
        assert isinstance(guess(), PeerLocked), "an unlock gives back the guesses of a year"
        ledger_parts.clock.advance(policy.longest_lock_seconds)
        show()
        # A quarter of what may be used at once comes back in a year.
        ledger_parts.clock.advance(4 * _YEAR)
        show()
        for _ in range(2):
            refused = guess()
            assert type(refused) is CodeRejected, "the guesses of a year don't come back"
        show()

    def test_a_first_lock_is_audited_in_each_lane(self, ledger_parts: LedgerParts) -> None:
        """So that it can be watched for."""
        for verifier in ("agent_verifier", "agent_stranger"):
            for number in range(ledger_parts.policy.lock_after):
                if number and not number % ledger_parts.policy.failures_per_minute:
                    ledger_parts.clock.advance(60)
                ledger_parts.guess(plain=True, verifier=verifier)
            newest = ledger_parts.pipelit.audit.list(limit=2)
            actions = sorted(each.action for each in newest)
            assert actions == ["lane.lock", "verify.plain"], f"the audit has {actions}"

    def test_an_unlock_repairs_what_was_spent_ahead(self, ledger_parts: LedgerParts) -> None:
        """After a clock that was a day ahead, codes are good again, and none is good twice."""
        before = ledger_parts.clock()
        ledger_parts.clock.advance(86_400)
        ahead = ledger_parts.code()
        ledger_parts.verify(ahead)
        ledger_parts.clock.now = before
        with pytest.raises(CodeRejected):
            ledger_parts.verify()
        ledger_parts.pipelit.users.unlock("agent_peer")
        ledger_parts.clock.advance(4 * PERIOD)
        ledger_parts.verify()
        ledger_parts.clock.now = before + 86_400
        with pytest.raises(CodeRejected):
            ledger_parts.verify(ahead)

    def test_two_databases_are_counted_apart(
        self, ledger_parts: LedgerParts, tmp_path: Path
    ) -> None:
        """Guesses at a copy for tests lock nothing elsewhere, where both count in one store."""
        with LedgerParts(self, f"sqlite:///{tmp_path}/second/agents.db") as second:
            second.lock()
            second.verify(plain=True)
            ledger_parts.clock.now = second.clock.now
            ledger_parts.verify()
            ledger_parts.verify(plain=True)

    @pytest.mark.parametrize("seed", range(4))
    def test_it_decides_like_the_ledger_in_the_database(
        self, ledger_parts: LedgerParts, seed: int
    ) -> None:
        """In a made-up history: the same verdict, wait, reason and audit at each attempt."""
        live_through(ledger_parts, seed, steps=100)

    def test_of_threads_with_one_code_one_is_accepted(self, ledger_parts: LedgerParts) -> None:
        """Reading, deciding and writing are one step."""
        code = ledger_parts.code()
        assert ledger_parts.together(code) == 1

    @pytest.mark.parametrize("plain", [False, True])
    def test_an_attempt_in_the_middle_of_another(
        self, ledger_parts: LedgerParts, plain: bool
    ) -> None:
        """Of two processes with one code, one is accepted, wherever the other one is by then."""
        other = ledger_parts.another()
        code = ledger_parts.code(plain=plain)
        kind: CodeKind = "plain" if plain else "audience"
        # Another verifier is another lane, and a plain code is spent for both.
        second = "agent_stranger" if plain else "agent_verifier"
        accepted = ledger_parts.overlapping(
            lambda: ledger_parts.verify(code, plain=plain),
            lambda: other.agent(second).verify_peer("agent_peer", code, kind=kind),
        )
        assert sum(accepted) == 1

    def test_a_guess_in_the_middle_of_another(self, ledger_parts: LedgerParts) -> None:
        """Of two processes with one guess left, one has it."""
        other = ledger_parts.another()
        most = ledger_parts.policy.failures_per_minute
        for _ in range(most - 1):
            ledger_parts.guess()
        ledger_parts.overlapping(
            ledger_parts.guess,
            lambda: other.agent("agent_verifier").verify_peer("agent_peer", WRONG),
        )
        reasons = [each.reason for each in ledger_parts.pipelit.audit.list(limit=most + 1)]
        assert sorted(reasons) == ["rate limited"] + ["wrong code"] * most

    def test_of_two_processes_with_one_code_one_is_accepted(
        self, ledger_parts: LedgerParts
    ) -> None:
        """Two ledgers on the same database share what is spent."""
        code = ledger_parts.code()
        other = ledger_parts.another()
        ledger_parts.verify(code)
        with pytest.raises(CodeRejected):
            other.agent("agent_verifier").verify_peer("agent_peer", code)

    def test_the_database_knows_what_is_spent_and_locked(self, ledger_parts: LedgerParts) -> None:
        """A command counts there, and accepts nothing that this ledger would refuse."""
        ledger_parts.lock()
        code = ledger_parts.code(plain=True)
        ledger_parts.verify(code, plain=True)
        verifier = ledger_parts.in_the_database().agent("agent_verifier")
        with pytest.raises(CodeRejected):
            verifier.verify_peer("agent_peer", code, kind="plain")
        assert ledger_parts.audited()[2] == "replay", "the database doesn't know the spent code"
        with pytest.raises(VerificationError) as caught:
            verifier.verify_peer("agent_peer", WRONG)
        assert isinstance(caught.value, PeerLocked), "the database has not counted every failure"

    def test_guesses_of_threads_are_all_counted(self, ledger_parts: LedgerParts) -> None:
        """However many guess at once, no more than ``failures_per_minute`` are evaluated."""
        ledger_parts.together(WRONG)
        reasons = [each.reason for each in ledger_parts.pipelit.audit.list(limit=TOGETHER)]
        assert reasons.count("wrong code") == ledger_parts.policy.failures_per_minute
        assert reasons.count("rate limited") == TOGETHER - reasons.count("wrong code")

    def test_what_can_not_be_written_is_not_accepted(self, ledger_parts: LedgerParts) -> None:
        """If ``record_decision`` fails, so does ``decide``; the code may be spent or not."""
        code = ledger_parts.code()
        ledger_parts.stop_comparing()
        ledger_parts.watch.fails = True
        with pytest.raises(StorageError):
            ledger_parts.verify(code)
        with suppress(CodeRejected):
            ledger_parts.verify(code)
        with pytest.raises(CodeRejected):
            ledger_parts.verify(code)
        ledger_parts.clock.advance(PERIOD)
        ledger_parts.verify()

    def test_it_says_where_it_counts(self, ledger_parts: LedgerParts) -> None:
        """``check`` returns a text for people, without a password; ``close`` may be repeated."""
        said = ledger_parts.pipelit.check_ledger()
        assert isinstance(said, str)
        assert said
        for _ in range(2):
            ledger_parts.pipelit.close()
        ledger_parts.verify()


def _told(error: VerificationError) -> tuple[type[VerificationError], float | None]:
    return type(error), getattr(error, "retry_after", None)
