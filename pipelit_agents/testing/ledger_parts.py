"""What the tests of a ledger work with: a database, two processes' worth of it, and a watch."""

from __future__ import annotations

import secrets
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from contextvars import copy_context
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple, Protocol, TypeVar
from urllib.parse import parse_qs, urlsplit

import pytest
from sqlalchemy import make_url

from pipelit_agents import Agent, Keyring, Pipelit, Verification, VerificationPolicy, otp
from pipelit_agents.database.fast_path import Open
from pipelit_agents.errors import StorageError, VerificationError
from pipelit_agents.ledger import (
    Account,
    Attempt,
    CodeKind,
    Decision,
    Ledger,
    LedgerContext,
    LedgerFactory,
)
from pipelit_agents.ledger.attempts import Guard, Proposal
from pipelit_agents.ledger.own import Watch
from pipelit_agents.protocol.binding import PERIOD
from pipelit_agents.testing.clock import Clock

__all__ = ["LedgerParts", "MakesLedgers", "WatchedLedger"]

WRONG: Final = "00000000"
PLAIN_WRONG: Final = "000000"
TOGETHER: Final = 8
# Seconds, of a decision that needs milliseconds.
PATIENCE = 5.0
# Seconds that a second process is given to overtake the first. One that waits for it, waits longer.
_OVERTAKING: Final = 0.4
_ACCOUNTS: Final = {
    "alice": ("agent_peer", "agent_verifier", "agent_colleague"),
    "bob": ("agent_stranger", "agent_other"),
}
_R = TypeVar("_R")


class MakesLedgers(Protocol):
    """What the parts need of the suite."""

    policy: VerificationPolicy

    def make_ledger(self, context: LedgerContext) -> Ledger:
        """Make the ledger that is tested."""


class WatchedLedger:
    """The tested ledger, compared at each decision with the one in the database.

    What the database's ledger decides alone is known for each attempt, so a ledger that decides
    otherwise is found at once, and not only when a code was used twice.

    Args:
        make_ledger: Makes the ledger.

    Attributes:
        compared: Whether a difference is an error.
        fails: Whether the next decision can't be written.
        held: A function that is called once, in the middle of the next decision.
    """

    def __init__(self, make_ledger: LedgerFactory) -> None:
        self._make_ledger = make_ledger
        self._ledger: Ledger | None = None
        self.compared = True
        self.fails: bool = False
        self.held: Callable[[], None] | None = None

    def make(self, context: LedgerContext) -> WatchedLedger:
        """Make the ledger."""
        self._ledger = self._make_ledger(context)
        return self

    @property
    def ledger(self) -> Ledger:
        """The ledger."""
        assert self._ledger is not None
        return self._ledger

    def decide(self, attempt: Attempt) -> Decision:
        """Let the ledger decide, within some seconds, and compare.

        Raises:
            AssertionError: It decides otherwise than the database's ledger.
        """
        watch = attempt.guard
        assert isinstance(watch, Watch)
        guard: Guard = watch
        failing, self.fails = self.fails, False
        if failing:
            guard = _Failing()
        compare, held = attempt.matches, self.held
        self.held = None

        def matches(account: Account | None, steps: range) -> Sequence[int]:
            nonlocal held
            act, held = held, None
            if act is not None:
                act()
            return compare(account, steps)

        tried = attempt._replace(guard=guard, matches=matches)
        decision = within(lambda: self.ledger.decide(tried), "decide")
        assert not failing, (
            "the ledger has returned a decision that record_decision could not write: its error "
            "must reach the caller"
        )
        if self.compared:
            _require_same(watch, decision)
        return decision

    def check(self) -> str:
        """Return where the ledger counts."""
        return self.ledger.check()

    def close(self) -> None:
        """Close the ledger's connections."""
        self.ledger.close()


class _Failing:
    """A guard of a database that is full."""

    def settle(self, connection: Open, attempt: Attempt, proposal: Proposal) -> Decision:
        """Fail."""
        raise StorageError("the disk is full")

    def note(self, decision: Decision) -> None:
        """Fail."""
        raise StorageError("the disk is full")


def _require_same(watch: Watch, decision: Decision) -> None:
    settled, proposal, alone = watch.settled, watch.proposal, watch.alone
    assert settled is not None, "record_decision was not called, so nothing is in the audit"
    assert decision.verdict == settled.verdict, (
        f"the ledger returned {decision.verdict!r} where {settled.verdict!r} is in the audit: it "
        "must return what record_decision returns"
    )
    if proposal is None:
        # It uses a ledger of this package.
        return
    proposed, reason, locked = proposal
    assert alone is not None, (
        f"the ledger decided {proposed.verdict!r} where no limit holds the attempt"
    )
    assert (proposed.verdict, reason) == (alone.verdict, alone.reason), (
        f"the ledger decided {proposed.verdict!r}, {reason!r} where the rules decide "
        f"{alone.verdict!r}, {alone.reason!r}"
    )
    assert proposed.step == alone.step
    assert (proposed.retry_after is None) == (alone.retry_after is None)
    difference = (proposed.retry_after or 0.0) - (alone.retry_after or 0.0)
    assert abs(difference) < 1e-3, (
        f"retry_after is {proposed.retry_after} where the rules say {alone.retry_after}"
    )
    assert (locked is not None) == alone.first_lock, (
        "record_decision takes the lane in locked if, and only if, this failure has locked it for "
        "the first time"
    )


def within(act: Callable[[], _R], what: str) -> _R:
    """Return what a function returns, or fail if that takes too long.

    It runs in a thread of its own, as a lock that stays held can't be interrupted.
    """
    results: list[_R] = []
    errors: list[BaseException] = []
    context = copy_context()

    def run() -> None:
        try:
            results.append(context.run(act))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if errors:
        raise errors[0]
    assert results, (
        f"{what} has not returned within {PATIENCE:g} seconds: is a lock held that an earlier "
        "decision has not released?"
    )
    return results[0]


class _Prepared(NamedTuple):
    """The content of an SQLite file with the accounts, its key, and its name for a server."""

    content: bytes
    key: str
    database_id: str


@cache
def _prepared() -> _Prepared:
    # Migrating and creating the accounts takes ten times as long as most tests.
    key = Keyring.generate_key()
    with TemporaryDirectory() as folder:
        file = Path(folder) / "agents.db"
        url = f"sqlite:///{file}"
        with Pipelit(database_url=url, encryption_keys=[key], clock=Clock()) as made:
            _fill(made)
        with closing(sqlite3.connect(file)) as connection:
            (database_id,) = connection.execute("SELECT database_id FROM pipelit_epoch").fetchone()
        return _Prepared(file.read_bytes(), key, database_id)


def _copy_to(url: str) -> bool:
    """Copy the prepared file to an address; return False if a file is there, or it is a server."""
    parsed = make_url(url)
    file = Path(parsed.database or "")
    if parsed.get_backend_name() != "sqlite" or file.exists():
        return False
    prepared = _prepared()
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    file.touch(mode=0o600)
    # A name of its own, by which a ledger in a server tells databases apart.
    new = secrets.token_hex(len(prepared.database_id) // 2)
    file.write_bytes(prepared.content.replace(prepared.database_id.encode(), new.encode()))
    return True


def _fill(pipelit: Pipelit) -> None:
    pipelit.create_schema()
    for owner, names in _ACCOUNTS.items():
        pipelit.users.create(owner)
        for name in names:
            pipelit.users.create_agent(name, owner=owner, purpose="takes part")


class LedgerParts:
    """The parts that the tests of a ledger use, for tests of your own beside them.

    Attributes:
        pipelit: With the ledger that is tested. ``alice`` owns ``agent_peer``, ``agent_verifier``
            and ``agent_colleague``, and ``bob`` owns ``agent_stranger`` and ``agent_other``.
            ``alice`` has no second factor until ``enrol``.
        clock: The clock, which the tests move.
        policy: The limits.
    """

    def __init__(self, suite: MakesLedgers, database_url: str) -> None:
        self.policy: VerificationPolicy = suite.policy
        self.clock: Clock = Clock()
        self._suite = suite
        self._url = database_url
        self._keys = [_prepared().key]
        self._stack = ExitStack()
        self._secret = ""
        self._watched: dict[Pipelit, WatchedLedger] = {}
        self.pipelit: Pipelit = self.another()

    def __enter__(self) -> LedgerParts:
        if not _copy_to(self._url):
            _fill(self.pipelit)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def another(self) -> Pipelit:
        """Make a Pipelit as a second process would make it."""
        watched = WatchedLedger(self._suite.make_ledger)
        made = self._made(watched.make)
        self._watched[made] = watched
        return made

    def in_the_database(self) -> Pipelit:
        """Make a Pipelit whose ledger is the database's, as a command without settings has it."""
        return self._made(None)

    def _made(self, ledger: LedgerFactory | None) -> Pipelit:
        made = Pipelit(
            database_url=self._url,
            encryption_keys=self._keys,
            ledger=ledger,
            policy=self.policy,
            clock=self.clock,
        )
        return self._stack.enter_context(made)

    @property
    def watch(self) -> WatchedLedger:
        """The ledger of ``pipelit``."""
        return self._watched[self.pipelit]

    def stop_comparing(self) -> None:
        """Allow the ledger to refuse a code that the database's ledger would accept."""
        for each in self._watched.values():
            each.compared = False

    def enrol(self) -> None:
        """Turn on a second factor of ``alice``."""
        uri = self.pipelit.mfa.enroll("alice").get_secret_value()
        (self._secret,) = parse_qs(urlsplit(uri).query)["secret"]
        self.pipelit.mfa.confirm("alice", self.person_code())

    def person_code(self, ahead: int = 0) -> str:
        """Return the current code of ``alice``, or one that is a number of steps ahead."""
        return otp.totp(self._secret, self.clock() + ahead * PERIOD)

    def restart(self) -> None:
        """Close everything, and make it again."""
        self.pipelit.close()
        self.pipelit = self.another()

    def code(
        self,
        *,
        plain: bool = False,
        verifier: str = "agent_verifier",
        peer: str = "agent_peer",
        ahead: int = 0,
    ) -> str:
        """Return the current code of a peer, or one that is a number of steps ahead."""
        audience = None if plain else verifier
        self.clock.advance(ahead * PERIOD)
        try:
            return self.pipelit.agent(peer).totp_code(audience=audience).code
        finally:
            self.clock.advance(-ahead * PERIOD)

    def verify(
        self,
        code: str | None = None,
        *,
        plain: bool = False,
        verifier: str = "agent_verifier",
        peer: str = "agent_peer",
    ) -> Verification:
        """Verify a code; by default the current one."""
        if code is None:
            code = self.code(plain=plain, verifier=verifier, peer=peer)
        kind: CodeKind = "plain" if plain else "audience"
        return self.pipelit.agent(verifier).verify_peer(peer, code, kind=kind)

    def guess(
        self, *, plain: bool = False, verifier: str = "agent_verifier", peer: str = "agent_peer"
    ) -> VerificationError:
        """Verify a wrong code, and return the refusal."""
        code = PLAIN_WRONG if plain else WRONG
        with pytest.raises(VerificationError) as caught:
            self.verify(code, plain=plain, verifier=verifier, peer=peer)
        return caught.value

    def lock(self) -> None:
        """Guess until the lane of audience codes is locked."""
        for number in range(self.policy.lock_after):
            if number and not number % self.policy.failures_per_minute:
                self.clock.advance(60)
            self.guess()

    def audited(self) -> tuple[str, str, str]:
        """Return action, outcome and reason of the newest audit entry."""
        newest = self.pipelit.audit.list(limit=1)[0]
        return newest.action, newest.outcome, newest.reason

    def together(self, code: str) -> int:
        """Verify a code in several threads at once, and return how many were accepted."""
        ready = threading.Barrier(TOGETHER)
        verifier: Agent = self.pipelit.agent("agent_verifier")

        def show() -> object:
            ready.wait(PATIENCE)
            return verifier.verify_peer("agent_peer", code)

        return sum(_accepted(*[show] * TOGETHER))

    def overlapping(
        self, first: Callable[[], object], second: Callable[[], object]
    ) -> Sequence[bool]:
        """Begin an attempt in the middle of another, and return which of them were accepted.

        Args:
            first: An attempt in ``pipelit``. It is stopped where its code is compared, until
                the second one has ended or seems to wait for it.
            second: An attempt in a Pipelit of ``another``.
        """
        entered, ended = threading.Event(), threading.Event()

        def hold() -> None:
            entered.set()
            ended.wait(_OVERTAKING)

        def late() -> object:
            entered.wait(PATIENCE)
            try:
                return second()
            finally:
                ended.set()

        self.watch.held = hold
        return _accepted(first, late)


def _accepted(*acts: Callable[[], object]) -> Sequence[bool]:
    """Return which of several attempts, each in a thread of its own, were accepted."""
    found: dict[int, bool] = {}
    errors: list[BaseException] = []

    def run(number: int, act: Callable[[], object]) -> None:
        try:
            act()
            found[number] = True
        except VerificationError:
            found[number] = False
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=each, daemon=True) for each in enumerate(acts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * PATIENCE)
    if errors:
        raise errors[0]
    assert len(found) == len(acts), "an attempt in a thread of its own has not returned"
    return [found[number] for number in range(len(acts))]
