"""Make proofs. Concurrent requests get theirs from one state of the accounts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from pipelit_agents._batching import Batching
from pipelit_agents._core import Core
from pipelit_agents.identity.bindings import answer_to
from pipelit_agents.identity.lookup import (
    OWN_SECRET,
    AccountRow,
    ProofKey,
    accounts_of,
    domain_of,
    find_proof_key,
    read_accounts,
)
from pipelit_agents.identity.totp_secrets import caching_unseal, proving_secret
from pipelit_agents.protocol.binding import Binding, Proof

__all__ = ["ProofMaker", "ProofRequest"]


class ProofRequest(NamedTuple):
    """A proof to be made when the agent's secret is decrypted.

    Attributes:
        binding: What the proof is bound to, still without the peering.
        relation: The id of the peering with whose secret to make it; an empty string for the
            agent's own secret; None to decide by whether the verifier is a peer here.
        step: The time step.
    """

    binding: Binding
    relation: str | None
    step: int

    def answer(self, secret: bytes, relation: str) -> Proof:
        """Make the proof.

        Args:
            secret: The secret.
            relation: The id of the peering that the secret is of.
        """
        bound = self.binding._replace(relation=relation)
        return Proof(bound.prover, bound.verifier, self.step, bound.answer(secret, self.step))


Made: TypeAlias = tuple[ProofRequest, Proof]


class ProofMaker:
    """Make the proofs of the agents of one database.

    Args:
        core: The database, and the keys that decrypt secrets.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._batching = Batching(self._make_batch, usable=self._require_reading)

    def make(self, request: ProofRequest) -> Proof:
        """Make a proof; see ``Agent.prove``."""
        return answer_to(request, self._batching.ask(request))

    async def amake(self, request: ProofRequest) -> Proof:
        """As ``make``, for the event loop."""
        return answer_to(request, await self._batching.aask(request))

    def _require_reading(self) -> None:
        with self._core.database.reading():
            """Read nothing: a failure here isn't caused by a request."""

    def _make_batch(self, requests: Sequence[ProofRequest]) -> Sequence[Made | Exception]:
        """Make a batch of proofs from the current accounts."""
        database = self._core.database
        names = {name for each in requests for name in (each.binding.prover, each.binding.verifier)}
        rows = accounts_of(database, *names)
        if not any(
            each.relation or domain_of(rows, each.binding.verifier, each.relation)
            for each in requests
        ):
            return self._make_from(rows, requests, lambda _: OWN_SECRET)
        # One transaction, so that accounts and peerings are consistent.
        with database.reading() as connection:
            rows = read_accounts(connection, *names)
            return self._make_from(
                rows,
                requests,
                lambda each: find_proof_key(
                    connection, rows, each.binding.prover, each.binding.verifier, each.relation
                ),
            )

    def _make_from(
        self,
        rows: Mapping[str, AccountRow],
        requests: Sequence[ProofRequest],
        proof_key_of: Callable[[ProofRequest], ProofKey],
    ) -> Sequence[Made | Exception]:
        unseal = caching_unseal(self._core.keyring())
        proofs: list[Made | Exception] = []
        for each in requests:
            prover = each.binding.prover
            try:
                key = proof_key_of(each)
                secret, relation = proving_secret(prover, rows.get(prover), key, unseal)
                proofs.append((each, each.answer(secret, relation)))
            except Exception as error:
                # Only this request fails; the others of the batch get their proofs.
                proofs.append(error)
        return proofs
