"""Verify, before any task is sent, that a child holds its secret."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

from pipelit_agents import Agent
from pipelit_agents._threads import Apart, Stuck
from pipelit_agents.credentials.limits import limited_to
from pipelit_agents.protocol.binding import Challenge, Proof

from ..child import VerifiedChild
from .isolation import PARENT_ERRORS, MaskedChildErrors, NoEnvelope
from .run import Run
from .timeouts import forget_result

__all__ = ["MAX_HUNG_CALLS", "POSSESSION_PREFETCH_TIMEOUT", "Possession"]

# How long one proof of possession is reused within a run, in seconds. Each answer still needs its
# own proof.
POSSESSION_TTL: Final = 1.0
# How long the plan waits for proofs of possession before the tasks start, in seconds.
POSSESSION_PREFETCH_TIMEOUT: Final = 0.1
# How long a child may take to prove possession, in seconds, unless its timeout is shorter.
POSSESSION_TIMEOUT: Final = 10.0
# How many calls of a child may hang at once, each on a separate thread.
MAX_HUNG_CALLS: Final = 32


class Possession:
    """The proofs of possession of one child.

    The child's code runs on a separate thread, where it can't block anything else.

    Args:
        lead: The agent that verifies.
        name: The child's agent.
        timeout: How long the child may take for a task, in seconds; None for no limit.
        apart: Runs the child's calls, and counts them by its name. By default this child has one
            of its own.
        limit: The credentials that the child's code may open; None for no limit.
    """

    def __init__(
        self,
        lead: Agent,
        name: str,
        timeout: float | None,
        apart: Apart | None = None,
        limit: frozenset[str] | None = None,
    ) -> None:
        self._lead = lead
        self._name = name
        self.timeout: float = (
            POSSESSION_TIMEOUT if timeout is None else min(timeout, POSSESSION_TIMEOUT)
        )
        self._apart = apart or Apart(MAX_HUNG_CALLS)
        self._limit = limit

    def require(self, run: Run, child: VerifiedChild) -> None:
        """Verify that the child holds its secret, unless it proved that a moment ago.

        Raises:
            PipelitError: The child doesn't hold its secret.
            Stuck: The child didn't answer within the timeout.
        """
        if self._is_proven(run):
            return
        challenge = self._lead.challenge(self._name)
        prove = partial(self._prove, child, challenge)
        proof = self._apart.run(prove, within=self.timeout, of=self._name)
        self._lead.verify_possession(proof, challenge=challenge)
        run.possession_proven[self._name] = self._lead.now()

    async def arequire(self, run: Run, child: VerifiedChild) -> None:
        """Async form of ``require``."""
        if self._is_proven(run):
            return
        # Many tasks of a child start at the same moment, so they share one check. If the proof is
        # wrong, each task runs its own check and is refused by itself. If the child hangs, no
        # further check is started.
        check = run.proving_possession.get(self._name)
        first = check is None or check.done()
        if check is None or check.done():
            check = self.start(run, child)
        try:
            # Shielded: the cancellation of one task must not cancel the others' check.
            await asyncio.shield(check)
        except (Stuck, *PARENT_ERRORS):
            raise
        except Exception:
            if first:
                raise
            if not self._is_proven(run):
                await self._averify(run, child)

    def start(self, run: Run, child: VerifiedChild) -> asyncio.Future[None]:
        """Start a check on the event loop that all tasks of the child share."""

        def forget(task: asyncio.Task[None]) -> None:
            if run.proving_possession.get(self._name) is task:
                del run.proving_possession[self._name]
            forget_result(task)

        check = asyncio.create_task(self._averify(run, child))
        run.proving_possession[self._name] = check
        check.add_done_callback(forget)
        return check

    async def _averify(self, run: Run, child: VerifiedChild) -> None:
        challenge = self._lead.challenge(self._name)
        prove = partial(self._prove, child, challenge)
        proof = await self._apart.arun(prove, within=self.timeout, of=self._name)
        await self._lead.averify_possession(proof, challenge=challenge)
        run.possession_proven[self._name] = self._lead.now()

    def _prove(self, child: VerifiedChild, challenge: Challenge) -> Proof:
        with limited_to(self._limit), MaskedChildErrors():
            # Read the fields here: the answer may be any object, and run code when it is read.
            proof = child.prove_possession(challenge)
            if type(proof) is not Proof or type(proof.step) is not int:
                raise NoEnvelope
            value = proof.value
            if type(value) is not str:
                raise NoEnvelope
            return Proof(self._name, self._lead.username, proof.step, value)

    def _is_proven(self, run: Run) -> bool:
        proven = run.possession_proven.get(self._name, -POSSESSION_TTL)
        return 0 <= self._lead.now() - proven < POSSESSION_TTL
