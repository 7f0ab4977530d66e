"""Verify proofs, and record each result in the audit before anybody gets it.

Proofs that are verified at the same time share a transaction, and so one state of the accounts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

from pipelit_agents._batching import Batching
from pipelit_agents._core import Core
from pipelit_agents._run_context import RunContext
from pipelit_agents._words import recordable
from pipelit_agents.audit.records import entry, write
from pipelit_agents.errors import ProofRejected
from pipelit_agents.identity.bindings import answer_to
from pipelit_agents.identity.evidence import Verification, utc, why_not_decided
from pipelit_agents.identity.lookup import AccountRow, read_accounts, why_no_audience
from pipelit_agents.identity.totp_secrets import TotpSecrets, Unseal, caching_unseal
from pipelit_agents.ledger.attempts import account_at
from pipelit_agents.protocol.binding import PERIOD, Binding, Challenge, Proof, Question, same

__all__ = ["ProofCheck", "ProofVerifier", "require_proof", "why_spent"]


class ProofCheck(NamedTuple):
    """A proof to be verified against the accounts as they are then.

    Attributes:
        proof: The proof.
        challenge: The challenge that it must answer.
        binding: What it must be bound to, still without the peering.
        unfit: Why no answer to this challenge can be accepted, or an empty string.
        now: The time of the verification, Unix seconds.
        context: The LangGraph run, node and thread, for the audit.
        quiet: Whether a success isn't audited.
    """

    proof: Proof
    challenge: Question
    binding: Binding
    unfit: str
    now: float
    context: RunContext
    quiet: bool = False

    @property
    def action(self) -> str:
        """The action, as the audit records it."""
        return "verify.request" if self.binding.role == "spawn-request" else "verify.proof"


Verified: TypeAlias = tuple[ProofCheck, Verification]


class ProofVerifier:
    """Verify the proofs of one database.

    Args:
        core: The database, and the keys that decrypt secrets.
        secrets: The secrets that proofs are made with.
    """

    def __init__(self, core: Core, secrets: TotpSecrets) -> None:
        self._core = core
        self._secrets = secrets
        self._batching = Batching(self.verify_batch, usable=self._require_deciding)

    def verify(self, check: ProofCheck) -> Verification:
        """Verify a proof and record the result in the audit; see ``Agent.verify_proof``."""
        return answer_to(check, self._batching.ask(check))

    async def averify(self, check: ProofCheck) -> Verification:
        """As ``verify``, for the event loop."""
        return answer_to(check, await self._batching.aask(check))

    def _require_deciding(self) -> None:
        with self._core.database.deciding():
            """Read nothing: a failure here isn't caused by a proof."""

    def verify_batch(self, checks: Sequence[ProofCheck]) -> Sequence[Verified | Exception]:
        """Verify a batch against one state of the accounts; record all before returning any."""
        names = {name for each in checks for name in (each.binding.verifier, each.binding.prover)}
        unseal = caching_unseal(self._core.keyring())
        answers: list[Verified | Exception] = []
        entries = []
        with self._core.database.deciding() as connection:
            rows = read_accounts(connection, *names)
            for each in checks:
                peer, verifier = each.binding.prover, each.binding.verifier
                try:
                    reason = self._why_rejected(each, rows, unseal)
                    answers.append(
                        ProofRejected(peer=peer, verifier=verifier)
                        if reason
                        else (
                            each,
                            Verification(peer, verifier, "proof", each.proof.step, utc(each.now)),
                        )
                    )
                except Exception as error:
                    # Only this verification fails; the others of the batch are decided.
                    answers.append(error)
                    reason = why_not_decided(error, "not decided")
                if reason or not each.quiet:
                    entries.append(
                        entry(
                            at=each.now,
                            actor=verifier if verifier in rows else recordable(verifier),
                            subject=peer if peer in rows else recordable(peer),
                            action=each.action,
                            outcome="refused" if reason else "ok",
                            reason=reason,
                            context=each.context,
                        )
                    )
            write(connection, *entries)
        return answers

    def _why_rejected(
        self, check: ProofCheck, rows: Mapping[str, AccountRow], unseal: Unseal
    ) -> str:
        """Return the reason, or an empty string if the proof is valid."""
        proof, challenge, now = check.proof, check.challenge, check.now
        peer, verifier = check.binding.prover, check.binding.verifier
        peer_row = rows.get(peer)
        account = None if peer_row is None else account_at(now, peer, peer_row)
        binding = check.binding._replace(relation=account.relation if account else "")
        present = int(now) // PERIOD
        timely = int(challenge.issued_at) // PERIOD - 1 <= proof.step <= present + 1
        # A step out of range may not be a time. It is replaced, so that it costs the same work.
        step = proof.step if timely else present
        secrets = self._secrets.of_account(account, unseal)
        matched = [each for each in secrets if same(binding.answer(each, step), proof.value)]
        if check.unfit:
            return check.unfit
        if (proof.prover, proof.verifier) != (peer, verifier):
            return "made by or for another"
        if why_no_audience(rows.get(verifier)):
            return "verifier unknown or inactive"
        if account is None or peer_row is None:
            return "peer unknown"
        if not peer_row.active:
            return "peer inactive"
        if not timely:
            return "step out of range"
        if not matched:
            return "no possession" if binding.kind == "possession" else "wrong proof"
        return "late" if now >= challenge.expires_at else ""


def require_proof(proof: object, challenge: object) -> tuple[Proof, Question]:
    """Return copies of exact types.

    A batch waits for each of its items, so no item may run its own code there, and none may hold
    a value that the database doesn't accept.
    """
    if type(proof) is not Proof or type(challenge) is not Challenge:
        raise TypeError(
            "proof must be a Proof, and challenge the Challenge that this agent made and kept"
        )
    try:
        fields = (proof.prover, proof.verifier, proof.step, proof.value)
    except AttributeError:
        raise TypeError("a Proof must be created by calling its class") from None
    return Proof(*fields), challenge.question()


def why_spent(challenge: Challenge, question: Question, verifier: str) -> str:
    """Spend a challenge; return why no answer to it can be accepted, or an empty string.

    It is spent before batching: of two concurrent verifications, one is refused in any order.
    """
    if not question.verifier == verifier != question.prover:
        return "challenge of another verifier"
    if not challenge.minted_here:
        return "challenge of another process"
    return "" if challenge.spend() else "challenge used before"
