"""``Pipelit(ledger=…)``: when a ledger of the user's own is made, and what is refused."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import Clock
from internals import database_of
from test_ledger_suite import DictLedger, Store
from test_mfa import app_of

from pipelit_agents import Keyring, Pipelit, VerificationPolicy
from pipelit_agents.errors import (
    CodeRejected,
    ConfigurationError,
    LedgerUnavailable,
    PeerLocked,
    StorageError,
    VerificationError,
)
from pipelit_agents.ledger import (
    Attempt,
    CodeKind,
    Decision,
    LedgerContext,
    SqlLedger,
    record_decision,
)


class Noting:
    """A ledger in SQL that notes what it is asked."""

    def __init__(self, context: LedgerContext) -> None:
        self.context = context
        self.inner = SqlLedger(context.database, context.policy, context.clock)
        self.attempts: list[Attempt] = []
        self.closed = 0

    def decide(self, attempt: Attempt) -> Decision:
        self.attempts.append(attempt)
        return self.inner.decide(attempt)

    def check(self) -> str:
        return "a notebook"

    def close(self) -> None:
        self.closed += 1


def own(settings: dict[str, Any], **changed: Any) -> Pipelit:
    """A Pipelit with an argument changed."""
    return Pipelit(**(settings | {"redis_url": None} | changed))


def test_a_ledger_is_made_once_at_first_use(
    pipelit: Pipelit, settings: dict[str, Any], clock: Clock
) -> None:
    """Of the database, the policy and the clock; it decides, it is checked, and it is closed."""
    for name in ("agent_writer", "agent_editor"):
        pipelit.users.create_agent(name, owner="alice", purpose="takes part")
    made: list[Noting] = []

    def make(context: LedgerContext) -> Noting:
        made.append(Noting(context))
        return made[-1]

    policy = VerificationPolicy(window=2)
    with own(settings, ledger=make, policy=policy, clock=clock) as other:
        writer, editor = other.agent("agent_writer"), other.agent("agent_editor")
        code = writer.totp_code(audience="agent_editor").code
        assert made == []
        assert editor.verify_peer("agent_writer", code).peer == "agent_writer"
        with pytest.raises(CodeRejected):
            editor.verify_peer("agent_writer", code)
        assert other.check_ledger() == "a notebook"
        (found,) = (each for each in other.check() if each.name == "ledger")
        assert "a notebook" in found.found
    (ledger,) = made
    assert [each.peer for each in ledger.attempts] == ["agent_writer"] * 2
    assert (ledger.context.policy, ledger.context.clock) == (policy, clock)
    assert ledger.closed == 1


def test_many_threads_make_one_ledger(pipelit: Pipelit, settings: dict[str, Any]) -> None:
    """Threads that need it at the same moment wait for the one that makes it."""
    del pipelit
    made: list[Noting] = []
    ready = threading.Barrier(8)

    def make(context: LedgerContext) -> Noting:
        made.append(Noting(context))
        return made[-1]

    with own(settings, ledger=make) as other:

        def check() -> None:
            ready.wait(10)
            other.check_ledger()

        threads = [threading.Thread(target=check) for _ in range(8)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    assert len(made) == 1


def test_without_a_ledger_the_setting_decides(pipelit: Pipelit, redis_url: str | None) -> None:
    """``ledger=None`` is the ledger of the settings."""
    assert pipelit.check_ledger() == (redis_url or "the database")


async def _asynchronous(context: LedgerContext) -> Any:
    return context


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {"ledger": Noting, "redis_url": "redis://127.0.0.1"},
            ["ledger", "redis_url", "leave out"],
        ),
        ({"ledger": "redis://127.0.0.1"}, ["ledger", "LedgerContext", "str"]),
        ({"ledger": object()}, ["ledger", "LedgerContext", "object"]),
        ({"ledger": _asynchronous}, ["ledger", "synchronous"]),
    ],
)
def test_a_ledger_that_can_not_be_one_is_refused_at_once(
    settings: dict[str, Any], changed: dict[str, Any], words: list[str]
) -> None:
    """The message names the argument, and what to give instead."""
    with pytest.raises(ConfigurationError) as caught:
        own(settings, **changed)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("made", [None, object(), {}, type("Half", (), {"decide": print})()])
def test_what_is_no_ledger_accepts_nothing(
    pipelit: Pipelit, settings: dict[str, Any], clock: Clock, made: object
) -> None:
    """A function that returns something else is named at the first code."""
    for name in ("agent_writer", "agent_editor"):
        pipelit.users.create_agent(name, owner="alice", purpose="takes part")
    with own(settings, ledger=lambda _: made, clock=clock) as other:
        code = other.agent("agent_writer").totp_code(audience="agent_editor").code
        for act in (
            other.check_ledger,
            lambda: other.agent("agent_editor").verify_peer("agent_writer", code),
        ):
            with pytest.raises(ConfigurationError, match=type(made).__name__):
                act()


def test_from_env_refuses_two_ledgers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the environment names a Redis, the message names the setting."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FIELD_ENCRYPTION_KEY", Keyring.generate_key())
    monkeypatch.setenv("PIPELIT_REDIS_URL", "redis://127.0.0.1:1/0")
    refused = pytest.raises(ConfigurationError, match=r"ledger.*PIPELIT_REDIS_URL")
    with Pipelit.from_env(ledger=Noting) as other, refused:
        other.check_ledger()
    monkeypatch.delenv("PIPELIT_REDIS_URL")
    with Pipelit.from_env(ledger=Noting) as other:
        assert other.check_ledger() == "a notebook"


def test_a_ledger_that_can_not_count_accepts_nothing(
    pipelit: Pipelit, settings: dict[str, Any], clock: Clock
) -> None:
    """``LedgerUnavailable`` reaches the caller, and the code isn't accepted."""

    class Broken(Noting):
        def decide(self, attempt: Attempt) -> Decision:
            raise LedgerUnavailable("the notebook is wet", peer=attempt.peer)

    for name in ("agent_writer", "agent_editor"):
        pipelit.users.create_agent(name, owner="alice", purpose="takes part")
    with own(settings, ledger=Broken, clock=clock) as other:
        code = other.agent("agent_writer").totp_code(audience="agent_editor").code
        with pytest.raises(LedgerUnavailable, match="wet"):
            other.agent("agent_editor").verify_peer("agent_writer", code)


@pytest.mark.parametrize("verdict", ["refused", "denied", "Accepted", "", None, 1])
def test_only_the_word_accepted_accepts_a_code(
    pipelit: Pipelit, settings: dict[str, Any], clock: Clock, verdict: Any
) -> None:
    """Another verdict is an error of the ledger: nothing is accepted, and the audit has it."""
    for name in ("agent_writer", "agent_editor"):
        pipelit.users.create_agent(name, owner="alice", purpose="takes part")

    class Odd(Noting):
        def decide(self, attempt: Attempt) -> Decision:
            return self.inner.decide(attempt)._replace(verdict=verdict)

    with own(settings, ledger=Odd, clock=clock) as other:
        code = other.agent("agent_writer").totp_code(audience="agent_editor").code
        with pytest.raises(LedgerUnavailable, match="one of accepted, rejected, limited, locked"):
            other.agent("agent_editor").verify_peer("agent_writer", code)
        (last,) = other.audit.list(limit=1)
        assert (last.outcome, last.reason) == ("refused", "ledger unavailable")


def test_an_asynchronous_decision_is_refused(settings: dict[str, Any]) -> None:
    """A coroutine is no decision."""

    class Later(Noting):
        async def decide(self, attempt: Attempt) -> Decision:  # type: ignore[override]
            return self.inner.decide(attempt)

    with (
        own(settings, ledger=Later) as other,
        pytest.raises(ConfigurationError, match=r"Later, whose method decide\(\) is async"),
    ):
        other.check_ledger()


def test_the_database_is_closed_where_the_ledger_fails_to(
    pipelit: Pipelit, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the ledger's own close leaves no connection open."""

    class Stuck(Noting):
        def close(self) -> None:
            raise OSError("stuck")

    other = own(settings, ledger=Stuck)
    other.check_ledger()
    closed = []
    close = database_of(other).close
    monkeypatch.setattr(database_of(other), "close", lambda: closed.append(close()))
    with pytest.raises(OSError, match="stuck"):
        other.close()
    assert closed == [None]


@pytest.fixture
def two(
    pipelit: Pipelit, settings: dict[str, Any], clock: Clock
) -> Iterator[tuple[Pipelit, Pipelit]]:
    """A process with a ledger of its own, and one with the ledger of the settings."""
    for name in ("agent_writer", "agent_editor"):
        pipelit.users.create_agent(name, owner="alice", purpose="takes part")
    store = Store()
    with own(settings, ledger=lambda context: DictLedger(context, store), clock=clock) as other:
        yield other, pipelit


@pytest.mark.backends("sqlite", "postgres", "redis")
@pytest.mark.parametrize("kind", ["audience", "plain"])
@pytest.mark.parametrize("back", [False, True])
def test_a_code_is_spent_in_every_ledger(
    two: tuple[Pipelit, Pipelit], kind: CodeKind, back: bool
) -> None:
    """Whichever accepted it, the other refuses it as a replay."""
    first, second = reversed(two) if back else two
    audience = "agent_editor" if kind == "audience" else None
    code = first.agent("agent_writer").totp_code(audience=audience).code
    first.agent("agent_editor").verify_peer("agent_writer", code, kind=kind)
    with pytest.raises(CodeRejected):
        second.agent("agent_editor").verify_peer("agent_writer", code, kind=kind)
    assert second.audit.list(limit=1)[0].reason == "replay"


@pytest.mark.backends("sqlite", "postgres", "redis")
@pytest.mark.parametrize("back", [False, True])
def test_a_lock_holds_in_every_ledger(
    two: tuple[Pipelit, Pipelit], clock: Clock, back: bool
) -> None:
    """And ends in every ledger by an unlock; ``users.lanes`` shows it."""
    first, second = reversed(two) if back else two

    def lock() -> None:
        for number in range(10):
            if number == 5:
                clock.advance(61)
            with pytest.raises(CodeRejected):
                first.agent("agent_editor").verify_peer("agent_writer", "00000000")

    def verify(by: Pipelit) -> None:
        code = by.agent("agent_writer").totp_code(audience="agent_editor").code
        by.agent("agent_editor").verify_peer("agent_writer", code)

    lock()
    (lane,) = second.users.lanes("agent_writer")
    assert (lane.lane, lane.failures) == ("audience:agent_editor", 10)
    with pytest.raises(PeerLocked) as caught:
        verify(second)
    assert caught.value.retry_after == 900
    second.users.unlock("agent_writer")
    clock.advance(30)
    verify(second)
    clock.advance(30)
    verify(first)


@pytest.mark.backends("sqlite", "redis")
def test_a_spent_code_turns_no_factor_off(two: tuple[Pipelit, Pipelit], clock: Clock) -> None:
    """A code of a person that an own ledger has spent is spent for ``mfa.disable`` elsewhere."""
    first, second = two
    app = app_of(first.mfa.enroll("alice"))
    first.mfa.confirm("alice", app.at(clock()))
    clock.advance(60)
    first.mfa.verify("alice", app.at(clock()))
    with pytest.raises(CodeRejected):
        second.mfa.disable("alice", app.at(clock()))
    assert second.mfa.status("alice").on


class _Believing(DictLedger):
    """Records and returns a decision that it hasn't made."""

    decision: Decision

    def decide(self, attempt: Attempt) -> Decision:
        with self.database.deciding() as connection:
            return record_decision(connection, attempt, self.decision, "")


class _Unrecorded(DictLedger):
    """Returns a decision that it hasn't recorded."""

    def record(self, connection: Any, attempt: Attempt, decision: Decision, *_: Any) -> Any:
        return decision


class _Forgiving(DictLedger):
    """Takes no notice of an audit that can't be written."""

    def record(self, connection: Any, attempt: Attempt, decision: Decision, *_: Any) -> Any:
        with suppress(StorageError):
            raise StorageError("the disk is full")
        return decision


class _Uncommitted(DictLedger):
    """Rolls back what it has recorded."""

    def decide(self, attempt: Attempt) -> Decision:
        with self.database.deciding() as connection:
            self.database.deciding = lambda: nullcontext(connection)  # type: ignore[method-assign,assignment,return-value]
            try:
                return super().decide(attempt)
            finally:
                del self.database.deciding
                connection.rollback()


@pytest.mark.parametrize(
    ("ledger", "words"),
    [
        (_Unrecorded, "hasn't written"),
        (_Forgiving, "hasn't written"),
        (_Uncommitted, "hasn't committed"),
    ],
)
def test_what_is_not_written_is_not_accepted(
    two: tuple[Pipelit, Pipelit],
    settings: dict[str, Any],
    clock: Clock,
    ledger: type[DictLedger],
    words: str,
) -> None:
    """The error says what the ledger must do."""
    del two
    with own(settings, ledger=lambda context: ledger(context, Store()), clock=clock) as other:
        code = other.agent("agent_writer").totp_code(audience="agent_editor").code
        with pytest.raises(LedgerUnavailable, match=words):
            other.agent("agent_editor").verify_peer("agent_writer", code)


@pytest.mark.parametrize("step", [5, 60_000_000, -1, "5", None])
def test_only_a_code_that_is_right_is_accepted(
    two: tuple[Pipelit, Pipelit], settings: dict[str, Any], clock: Clock, step: Any
) -> None:
    """A ledger that says "accepted" without a comparison opens nothing."""
    del two
    _Believing.decision = Decision("accepted", clock(), step)
    with own(settings, ledger=lambda c: _Believing(c, Store()), clock=clock) as other:
        with pytest.raises(CodeRejected):
            other.agent("agent_editor").verify_peer("agent_writer", "00000000")
        assert other.audit.list(limit=1)[0].reason == "wrong code"


@pytest.mark.parametrize("at", [None, "now", float("nan"), float("inf"), True])
def test_a_moment_is_a_number(
    two: tuple[Pipelit, Pipelit], settings: dict[str, Any], clock: Clock, at: Any
) -> None:
    """``Decision.at`` is what the database's ledger decides by."""
    del two
    _Believing.decision = Decision("accepted", at, 60_000_000)
    with own(settings, ledger=lambda c: _Believing(c, Store()), clock=clock) as other:
        code = other.agent("agent_writer").totp_code(audience="agent_editor").code
        with pytest.raises(LedgerUnavailable, match=r"Decision\.at"):
            other.agent("agent_editor").verify_peer("agent_writer", code)


def test_a_stricter_ledger_is_believed(
    two: tuple[Pipelit, Pipelit], settings: dict[str, Any], clock: Clock
) -> None:
    """It may refuse what the database's ledger would accept, and that is a failure there too."""
    refused = Decision("rejected", clock())
    _Believing.decision = refused
    with own(settings, ledger=lambda c: _Believing(c, Store()), clock=clock) as other:
        code = other.agent("agent_writer").totp_code(audience="agent_editor").code
        with pytest.raises(CodeRejected):
            other.agent("agent_editor").verify_peer("agent_writer", code)
        (lane,) = other.users.lanes("agent_writer")
        assert lane.failures == 1
        for verdict, wait in (("limited", 7.0), ("locked", 8.0)):
            _Believing.decision = Decision(verdict, clock(), 0, wait)  # type: ignore[arg-type]
            with pytest.raises(VerificationError) as caught:
                other.agent("agent_editor").verify_peer("agent_writer", code)
            assert getattr(caught.value, "retry_after", None) == wait
    # In the ledger of the settings, what was refused isn't spent.
    two[1].agent("agent_editor").verify_peer("agent_writer", code)


def test_a_ledger_around_one_of_ours_is_guarded_by_it(
    two: tuple[Pipelit, Pipelit], settings: dict[str, Any], clock: Clock
) -> None:
    """One that says "accepted" where ``SqlLedger`` has refused accepts nothing."""
    del two

    class Generous(Noting):
        def decide(self, attempt: Attempt) -> Decision:
            self.inner.decide(attempt)
            return Decision("accepted", clock(), 60_000_000)

    with own(settings, ledger=Generous, clock=clock) as other, pytest.raises(CodeRejected):
        other.agent("agent_editor").verify_peer("agent_writer", "00000000")


@pytest.mark.process
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_makes_a_ledger_of_its_own(settings: dict[str, Any]) -> None:
    """What the parent's has opened isn't shared."""
    made: list[int] = []

    def make(context: LedgerContext) -> Noting:
        made.append(os.getpid())
        return Noting(context)

    with own(settings, ledger=make) as other:
        other.check_ledger()
        child = os.fork()
        if not child:
            other.check_ledger()
            os._exit(0 if made == [os.getppid(), os.getpid()] else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        other.check_ledger()
    assert made == [os.getpid()]
