"""``Pipelit(ledger=…)``: when a ledger of the user's own is made, and what is refused."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from conftest import Clock
from internals import database_of

from pipelit_agents import Keyring, Pipelit, VerificationPolicy
from pipelit_agents.errors import CodeRejected, ConfigurationError, LedgerUnavailable
from pipelit_agents.ledger import Attempt, Decision, LedgerContext, SqlLedger


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
