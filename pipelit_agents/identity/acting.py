"""The person for whom the running code acts, as authenticated by an application or a server.

This decides in which lane a person's codes are counted, and whose own credentials are opened. A
model, a graph's state or a caller's ``configurable`` can't change it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar, Token
from inspect import CO_ASYNC_GENERATOR, CO_GENERATOR
from types import FrameType
from typing import Final, Literal, NamedTuple, TypeAlias

from pipelit_agents._forks import reset_in_forked_children
from pipelit_agents._run_context import is_cron_run
from pipelit_agents.database.engine import Database
from pipelit_agents.database.fast_path import Flag, Open, Query
from pipelit_agents.protocol.usernames import is_username, require_username

__all__ = [
    "Claim",
    "Standing",
    "acting_for",
    "acting_person",
    "acts_for",
    "claimed_person",
    "standing_of",
]

# What is known about the account of a name: see `standing_of`.
Standing: TypeAlias = Literal["person", "inactive", "no person", "unknown"]


class _Account(NamedTuple):
    kind: str
    domain: str
    active: Flag


_READ_ACCOUNT: Final = Query(
    "SELECT kind, domain, active FROM pipelit_users WHERE username = :username", _Account
)


_GENERATOR: Final = CO_GENERATOR | CO_ASYNC_GENERATOR
# This module and contextlib, between the caller and the block.
_SKIPPED: Final = (__file__, contextlib.__file__)
# The modules that run a generator for its one yield.
_WRAPPERS: Final = ("contextlib", "_pytest", "pytest", "anyio")
# Methods that end before the block that they begin.
_BEGINNINGS: Final = ("__enter__", "__aenter__")
# Studio's own authentication proves no person's API key.
_STUDIO: Final = "langgraph-studio-user"


class _Block:
    """One ``acting_for`` block.

    A thread or task that began inside of the block keeps a copy of the context variable. The flag
    is in this object, so it reaches every copy when the block ends. It doesn't reach a forked
    process, which may be a worker that goes on for others, so there the block has ended.

    Attributes:
        database: The database of the person's account.
        username: The person.
        outer: The block around this one.
        generator: The frame of the generator that the block is in, if it is in one.
        place: The thread and task in which the block began; None when it has ended.
        process: The process in which it began.
    """

    __slots__ = ("database", "generator", "outer", "place", "process", "username")

    def __init__(
        self,
        database: Database,
        username: str,
        outer: _Block | None,
        generator: FrameType | None,
    ) -> None:
        self.database = database
        self.username = username
        self.outer = outer
        self.generator = generator
        self.place: tuple[int, object] | None = _place()
        self.process = os.getpid()

    def end(self) -> None:
        """End the block, in all copies of the context variable."""
        self.generator = self.place = None

    @property
    def ended(self) -> bool:
        """Whether the block has ended."""
        return self.place is None or self.process != os.getpid()

    @property
    def is_left_open(self) -> bool:
        """Whether it is in a generator that waits at a ``yield`` here, while its consumer runs.

        A thread or task that began inside of the block is no consumer: there the generator may wait
        for the thread or task itself.
        """
        if self.ended or self.generator is None or self.place != _place():
            return False
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame is not self.generator:
            frame = frame.f_back
        return frame is None


class Claim(NamedTuple):
    """Who is said to act. Whether that is an active person has to be read from the database.

    Attributes:
        username: The name.
        vouched: Whether an application said so (``acting_for``), and not a server.
        ended: Whether the application's block has ended, so that nobody acts any more.
    """

    username: str
    vouched: bool
    ended: bool


_BLOCK: Final[ContextVar[_Block | None]] = ContextVar("pipelit_person", default=None)


class acting_for:  # noqa: N801 - used like a function
    """Set the person for whom a block acts; see ``Pipelit.acting_for``."""

    # Not contextlib's: that one decorates functions too, and an async function or a generator runs
    # after the call that it decorates.
    def __init__(self, database: Database, username: str) -> None:
        self._database = database
        self._username = username
        self._began: tuple[_Block, Token[_Block | None]] | None = None

    def __enter__(self) -> None:
        if self._began is not None:
            raise RuntimeError("a block acting_for(…) has begun before: make another for each with")
        name, outer, generator = require_username(self._username), _BLOCK.get(), _generator_around()
        _refuse_mixed(outer)
        if generator is not None:
            _refuse_another(_block_of(self._database), name)
        block = _Block(self._database, name, outer, generator)
        self._began = block, _BLOCK.set(block)

    def __exit__(self, *_: object) -> None:
        if self._began is not None:
            block, token = self._began
            block.end()
            # A generator with the block in it may be closed in another context, which has a copy.
            with suppress(ValueError, RuntimeError):
                _BLOCK.reset(token)


def acting_person(database: Database) -> str | None:
    """Return the username of the person for whom the running code acts, or None.

    ``acting_for`` takes precedence; once its block has ended, its copies in threads and tasks
    act for nobody. Otherwise, in a run of a LangGraph Server, it is the user that the server has
    authenticated, if that is an active person of this database. A run that a cron started doesn't
    count: the person isn't there, and can't type a code.

    Nothing else that a caller sends is trusted. An application may pass a client's ``configurable``
    on to a graph, but a client can write only JSON into it. So a user that is a mapping or a string
    is ignored; the server's user is an object. (The server itself refuses that key from clients.)

    On a server this reads the database, so call it where blocking is allowed.

    Args:
        database: The database of the accounts; a person of another database is ignored.
    """
    claim = _present_person(database)
    if claim is None:
        return None
    read = {"username": claim.username}
    if not claim.vouched and _standing(database.fetch(_READ_ACCOUNT, read)) != "person":
        return None
    return claim.username


def acts_for(database: Database, username: str) -> bool:
    """Return whether the running code acts for the account of that name.

    This reads no database, so the caller has to make sure that the account is an active person's.

    Args:
        database: The database of the accounts.
        username: The account.
    """
    claim = _present_person(database)
    return claim is not None and claim.username == username


def claimed_person(database: Database) -> Claim | None:
    """Return for whom the running code opens credentials, or None if nobody is authenticated.

    As ``acting_person``, with two differences: a run that a cron started counts for the person
    who made the cron, and nothing is read from the database. The caller has to check the account
    in the transaction of what it decides: see ``standing_of``.

    Args:
        database: The database of the accounts; a person of another database is ignored.
    """
    block = _block_of(database)
    if block is not None:
        return Claim(block.username, vouched=True, ended=block.ended)
    identity = _server_user()
    return None if identity is None else Claim(identity, vouched=False, ended=False)


def standing_of(connection: Open, username: str) -> Standing:
    """Return whether the account of a name is an active person's of this database.

    Args:
        connection: A transaction.
        username: The name.

    Returns:
        ``no person`` for an agent and for a peer; ``unknown`` if no account has that name.
    """
    return _standing(_READ_ACCOUNT.fetch(connection, {"username": username}))


def _standing(rows: Sequence[_Account]) -> Standing:
    for account in rows:
        if account.kind == "human" and account.domain == "":
            return "person" if account.active else "inactive"
        return "no person"
    return "unknown"


def _present_person(database: Database) -> Claim | None:
    """Return the claim of the person who is present; None for an ended block and a cron's run."""
    claim = claimed_person(database)
    if claim is None or claim.ended or (is_cron_run() and not claim.vouched):
        return None
    return claim


def _refuse_mixed(outer: _Block | None) -> None:
    """Refuse to begin a block while another one waits in a generator of the same context.

    Python doesn't restore a context variable when a generator goes on. So the generator would then
    act for the person of the newer block.

    Raises:
        RuntimeError: There is such a block.
    """
    while outer is not None:
        if outer.is_left_open:
            raise RuntimeError(
                f"a generator with a block acting_for({outer.username!r}) waits at a yield here, "
                "and would go on for the person of this block: read it to its end first, or read "
                "each generator in a task, thread or contextvars.copy_context() of its own"
            )
        outer = outer.outer


def _refuse_another(around: _Block | None, username: str) -> None:
    """Refuse to begin a generator's block inside the block of another person.

    The generator's consumer is in that block, and would act for the generator's person.

    Raises:
        RuntimeError: The block around it is another person's.
    """
    if around is not None and not around.ended and around.username != username:
        raise RuntimeError(
            f"a generator with a block acting_for({username!r}) is read here in the block "
            f"acting_for({around.username!r}), which would go on for {username!r}: read it outside "
            "of that block, or in a task, thread or contextvars.copy_context() of its own that "
            "begins outside"
        )


def _generator_around() -> FrameType | None:
    """Return the frame of the generator that begins a block now, if one does.

    A generator that is made a context manager or a fixture counts as none: what runs at its
    ``yield`` belongs to the block. But a generator may use such a context manager, or one that is a
    class.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_flags & _GENERATOR:
            driver = frame.f_back
            name = "" if driver is None else str(driver.f_globals.get("__name__"))
            if not name.startswith(_WRAPPERS):
                return frame
        elif code.co_filename not in _SKIPPED and code.co_name not in _BEGINNINGS:
            return None
        frame = frame.f_back
    return None


def _place() -> tuple[int, object]:
    """Return the running thread and task."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        # No event loop runs here.
        task = None
    return threading.get_ident(), task


def _block_of(database: Database) -> _Block | None:
    """Return the innermost block for a database: a block for another one inside hides nothing."""
    block = _BLOCK.get()
    while block is not None and not block.database.is_same_as(database):
        block = block.outer
    return block


def _server_user() -> str | None:
    user = _user_of_run()
    if user is None or isinstance(user, Mapping | list | str | int | float):
        return None
    if user is _FORKED.user:
        return None
    identity = getattr(user, "identity", None)
    if not isinstance(identity, str) or not is_username(identity) or identity == _STUDIO:
        return None
    return identity if getattr(user, "is_authenticated", False) is True else None


def _user_of_run() -> object | None:
    if "langgraph.runtime" not in sys.modules:
        # A run has imported it already; outside of a run the import would only cost time.
        return None
    from langgraph.runtime import get_runtime

    try:
        runtime = get_runtime()
    except (KeyError, RuntimeError):
        # There is no run.
        return None
    return getattr(getattr(runtime, "server_info", None), "user", None)


class _ForkedRun:
    """The run in which this process was forked: it goes on in the parent, and not here.

    Attributes:
        user: The server's user of that run.
    """

    def __init__(self) -> None:
        self.user: object | None = None
        reset_in_forked_children(self)

    def reset_after_fork(self) -> None:
        """Remember whose run it was."""
        self.user = _user_of_run()


_FORKED: Final = _ForkedRun()
