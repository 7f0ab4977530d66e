"""The tests that every ledger has to pass, to be inherited by a test class of your own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelit_agents import VerificationPolicy
from pipelit_agents.errors import CodeRejected, PeerLocked, RateLimited, VerificationError
from pipelit_agents.ledger import Ledger, LedgerContext
from pipelit_agents.protocol.binding import PERIOD
from pipelit_agents.testing.ledger_parts import TOGETHER, WRONG, LedgerParts

__all__ = ["LedgerParts", "LedgerSuite"]


class LedgerSuite:
    """The behaviour of every ledger, as a class of tests.

    Inherit from it in a test file, in a class whose name begins with ``Test``, and write
    :meth:`make_ledger`. Each test makes an empty database; override the fixture
    ``ledger_database_url`` to test on another than SQLite.

    A "restart" in these tests is a second ledger of :meth:`make_ledger` on the same database, as a
    second process would make it. What the ledger counts in has to outlive the first.

    Example:
        ```python
        from pipelit_agents.testing import LedgerSuite


        class TestMyLedger(LedgerSuite):
            def make_ledger(self, context):
                return MyLedger(context.database, context.policy, context.clock)
        ```
    """

    policy = VerificationPolicy()

    def make_ledger(self, context: LedgerContext) -> Ledger:
        """Make the ledger that is tested; override it.

        Args:
            context: The database, the policy, and a clock that the tests turn.
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

    def test_of_threads_with_one_code_one_is_accepted(self, ledger_parts: LedgerParts) -> None:
        """Reading, deciding and writing are one step."""
        code = ledger_parts.code()
        assert ledger_parts.together(code) == 1

    def test_of_two_processes_with_one_code_one_is_accepted(
        self, ledger_parts: LedgerParts
    ) -> None:
        """Two ledgers on the same database share what is spent."""
        code = ledger_parts.code()
        other = ledger_parts.another()
        ledger_parts.verify(code)
        with pytest.raises(CodeRejected):
            other.agent("agent_verifier").verify_peer("agent_peer", code)

    def test_guesses_of_threads_are_all_counted(self, ledger_parts: LedgerParts) -> None:
        """However many guess at once, no more than ``failures_per_minute`` are evaluated."""
        ledger_parts.together(WRONG)
        reasons = [each.reason for each in ledger_parts.pipelit.audit.list(limit=TOGETHER)]
        assert reasons.count("wrong code") == ledger_parts.policy.failures_per_minute
        assert reasons.count("rate limited") == TOGETHER - reasons.count("wrong code")

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
