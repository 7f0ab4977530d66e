"""Run ``decide.lua`` in Redis, and read its answer."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Sequence
from importlib.resources import files
from secrets import token_hex
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from pipelit_agents._forks import reset_in_forked_children
from pipelit_agents.ledger.attempts import Verdict
from pipelit_agents.ledger.redis_url import RedisUnusable, connect, named_errors, report_eviction

if TYPE_CHECKING:
    from pipelit_agents.ledger.redis_url import Client

__all__ = ["Answer", "Script"]


class Answer(NamedTuple):
    """What the script decided.

    Attributes:
        verdict: The decision.
        at: The moment by Redis's clock, or the one that was passed; Unix seconds.
        step: The spent step, if the code was accepted.
        wait: Seconds to wait, if the code wasn't evaluated.
        version: The lane's version.
        in_a_row: The lane's failures in a row.
        locked_until: The end of the lane's lock.
        reason: The true reason.
    """

    verdict: Verdict
    at: float
    step: int
    wait: float | None
    version: int
    in_a_row: int
    locked_until: float
    reason: str


class Script:
    """The script, and the connections of one address.

    Args:
        url: The address, as ``connect`` reads it; used at the first call.

    Attributes:
        ahead: How far Redis's clock is ahead of this machine's, in seconds, by the last answer.
    """

    def __init__(self, url: str) -> None:
        self.ahead: float = 0.0
        self._url = url
        self._text: Final = (files(__package__) / "decide.lua").read_text("utf-8")
        self._sha: Final = hashlib.sha1(self._text.encode(), usedforsecurity=False).hexdigest()
        self.reset_after_fork()
        reset_in_forked_children(self)

    def reset_after_fork(self) -> None:
        """Forget the connections in a forked child, where the sockets are the parent's."""
        self._client: Client | None = None
        # A thread that is interrupted while it connects can connect again.
        self._opening = threading.RLock()

    @property
    def client(self) -> Client:
        """The client, which is connected at first use."""
        client = self._client
        if client is None:
            with self._opening:
                client = self._client
                if client is None:
                    client = connect(self._url)
                    report_eviction(client, self._url)
                    # A handler that interrupted this thread may have connected already.
                    if self._client is None:
                        self._client = client
                    client = self._client
        return client

    def close(self) -> None:
        """Close all connections. The next use opens new ones."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def ping(self) -> None:
        """Ask the server something.

        Raises:
            RedisUnusable: It can't be reached, or it refuses.
        """
        with named_errors(self._url):
            self.client.info("server")

    def decide(self, keys: Sequence[str], attempt: str, *values: str) -> Answer | None:
        """Run the script once.

        Args:
            keys: Of the lane, and of what is spent.
            attempt: The first argument, without the word that identifies this call.
            values: The other arguments.

        Returns:
            The answer; None if the steps that were tried are too far from Redis's clock.

        Raises:
            RedisUnusable: It can't be reached, refuses, or returns the answer of another call.
        """
        token = token_hex(8)
        answer = self._run(keys, (f"{attempt} {token}", *values))
        if not isinstance(answer, bytes) or not answer.startswith(f"{token} ".encode()):
            # A call that was interrupted has left its answer on the connection.
            self._client = None
            raise RedisUnusable("Redis's answer is another call's")
        _, verdict, at, step, wait, version, in_a_row, locked_until, reason = answer.decode().split(
            " ", 8
        )
        self.ahead = float(at) - time.time()
        if verdict == "clock":
            return None
        return Answer(
            cast("Verdict", verdict),
            float(at),
            int(step),
            None if wait == "-" else float(wait),
            int(version),
            int(in_a_row),
            float(locked_until),
            reason,
        )

    def _run(self, keys: Sequence[str], values: Sequence[str]) -> object:
        with named_errors(self._url):
            client = self.client
            # If it isn't installed, connecting has raised an error.
            from redis.exceptions import NoScriptError

            try:
                try:
                    return client.evalsha(self._sha, len(keys), *keys, *values)
                except NoScriptError:
                    # The server was flushed or replaced. This stores the script again.
                    return client.eval(self._text, len(keys), *keys, *values)
            except Exception:
                raise
            except BaseException:
                # An interrupted call leaves its answer on the connection, for the next call.
                self._client = None
                raise
