"""The handle of one agent: it makes codes and proofs, and verifies those of its peers."""

from __future__ import annotations

from typing import Final, NoReturn

from pipelit_agents._bounds import require_flag, require_seconds
from pipelit_agents._discretion import discreet
from pipelit_agents._run_context import run_context
from pipelit_agents._twins import off_the_loop
from pipelit_agents._wording import bindable
from pipelit_agents.database.engine import Database
from pipelit_agents.errors import ConfigurationError, InvalidUsername
from pipelit_agents.identity.bad_input import note_refusal
from pipelit_agents.identity.bindings import ProofRole, bind, require_challenge
from pipelit_agents.identity.codes import short_codes
from pipelit_agents.identity.evidence import TotpCode, Verification, utc
from pipelit_agents.identity.lookup import relation_to
from pipelit_agents.identity.proof_maker import ProofRequest
from pipelit_agents.identity.proof_verifier import ProofCheck, require_proof, why_spent
from pipelit_agents.identity.services import Identity
from pipelit_agents.identity.spent_requests import spend_request
from pipelit_agents.ledger.attempts import CodeKind
from pipelit_agents.otp import step_at
from pipelit_agents.protocol.binding import PERIOD, Challenge, Proof
from pipelit_agents.protocol.peering_uri import PeerRelation
from pipelit_agents.protocol.usernames import OPERATOR, require_username

__all__ = ["Agent", "require_handle"]


class Agent:
    """The handle by which code acts as one agent user. Any code that has it can act as the agent.

    Creating a handle reads nothing, so a mistyped name raises ``UserNotFound`` at the first use.
    The account is looked up at each use, so a deactivation or rotation takes effect immediately.
    Proofs that many threads or tasks make or verify at the same time share a transaction.

    Args:
        username: The agent user's name.
        identity: Makes and verifies codes and proofs.
        home: The ``Pipelit`` that made the handle.

    Raises:
        InvalidUsername: The name is not in its normal form.
    """

    __slots__ = ("_home", "_identity", "username")

    def __init__(self, username: str, identity: Identity, home: object) -> None:
        self.username: str = require_username(username)
        self._identity = identity
        self._home = home

    def totp_code(
        self,
        *,
        audience: str | None = None,
        message: str | None = None,
        check_audience: bool = False,
    ) -> TotpCode:
        """Make this agent's current code.

        An audience code shows that this agent made it for that verifier now. It doesn't show who
        sent it: anybody who obtains it can pass it to that verifier with another text. If the
        verifier has to rely on a text, bind the code to it with ``message``.

        Args:
            audience: The agent that will verify the code. For a peer, the code is made under the
                peering that this agent issued to its domain. A name that no account has isn't an
                error, because a program outside this database that has the agent's secret can
                verify codes too. If the name is mistyped, the verifier refuses the code; set
                ``check_audience`` to refuse the name. Without an audience the code is
                plain: anybody who knows the secret can verify it, and any authenticator app shows
                the same code.
            message: The exact text that the code is for, 1 to 4,000 characters. The code is valid
                only with this text (its UTF-8 bytes, without normalization). It needs an audience.
            check_audience: Make no code unless the audience is an active agent of this database.
                Set it if a model chose the name. Refusals are audited and all have the same
                message; after 20 refusals in a minute this agent has to wait.

        Returns:
            The code and the end of its time step. A verifier accepts one code of a peer for each
            time step of 30 seconds, whether it is bound to a message or not.

        Raises:
            AccountError: This agent doesn't exist, isn't an agent, or was deactivated.
            UserNotFound: The audience is a peer, and no peering was issued to its domain. Or
                ``check_audience`` is set, and there is no such active agent.
            RateLimited: Too many audiences were refused in the last minute.
            InvalidUsername: The audience is not a username, or is this agent.
            TypeError: The message isn't text, or ``check_audience`` isn't a bool.
            ValueError: The message can't be bound, or there is no audience for it.
            UnsealError: The secret can't be decrypted with this keyring.
        """
        if message is not None:
            if audience is None:
                raise ValueError(
                    "message: a plain code is made from the clock alone, so it can't be bound to "
                    "a message; name the audience that will verify it"
                )
            message = bindable(message)
        if audience is not None and require_username(audience, argument="audience") == (
            self.username
        ):
            raise InvalidUsername(
                "audience: an agent doesn't verify itself", username=self.username
            )
        if require_flag(check_audience, "check_audience") and audience is not None:
            self._identity.bad_input.require_audience(self.username, audience)
        step = int(self.now()) // PERIOD
        if audience is None:
            secret, relation = self._identity.secrets.own(self.username), ""
        else:
            secret, relation = self._identity.secrets.for_verifier(self.username, audience)
        (code,) = short_codes(secret, [step], self.username, audience, relation, message)
        return TotpCode(code, utc((step + 1) * PERIOD), audience, message)

    atotp_code: Final = off_the_loop(totp_code)

    @discreet
    def verify_peer(
        self,
        username: str,
        code: str,
        *,
        kind: CodeKind = "audience",
        message: str | None = None,
    ) -> Verification:
        """Verify another agent's short code, and spend it.

        A success shows that the peer made this code within the last 90 seconds, and for this agent
        if it is an audience code. It doesn't show who sent the code. A text sent with the code is
        proven only if it is the ``message`` that the code was made for.

        Args:
            username: The peer, exactly as its account is written.
            code: The digits; nothing is stripped.
            kind: ``audience`` accepts only codes made for this agent (RFC 6287, 8 digits).
                ``plain`` accepts codes of an authenticator app (RFC 6238, 6 digits). The
                developer chooses it, never a model.
            message: The exact text that came with the code. A code that was made for a message is
                valid only with that message, and any other code only without one.

        Returns:
            The evidence. A failure raises an exception.

        Raises:
            CodeRejected: The code is wrong, was spent, was made for another message, or there is
                no such active peer or verifier. Only the audit has the reason.
            MalformedCode: The input can't be a code or a username, names this agent itself, or the
                message can't be bound to a code. After 20 of them in a minute, further ones raise
                RateLimited.
            TypeError: The message isn't text, or the username is a handle.
            ValueError: The kind is unknown, or there is a message for a plain code.
            RateLimited: Too many failures of this agent about this peer in the last minute.
            PeerLocked: Too many failures in a row; see ``retry_after``.
            LedgerUnavailable: Attempts can't be counted, so nothing is accepted.
            UnsealError: The peer's secret can't be decrypted with this keyring.
        """
        return self._identity.codes.verify(self.username, username, code, kind, message)

    averify_peer: Final = off_the_loop(verify_peer)

    def challenge(self, prover: str, *, lifetime: float = 60.0) -> Challenge:
        """Make a challenge for one peer.

        Args:
            prover: The peer that will answer.
            lifetime: Seconds for which an answer is accepted, at most 366 days.

        Returns:
            A challenge for one verification. Send its ``value`` to the peer and keep the object.

        Raises:
            InvalidUsername: The prover is not a username.
            TypeError: The lifetime isn't a number.
            ValueError: The prover is this agent, or the lifetime is out of range.
        """
        if require_username(prover, argument="prover") == self.username:
            raise ValueError("prover: an agent doesn't verify itself")
        seconds = require_seconds(lifetime, "lifetime")
        now = self.now()
        return Challenge.mint(
            prover=prover, verifier=self.username, issued_at=now, expires_at=now + seconds
        )

    def prove(
        self,
        challenge: bytes,
        payload: bytes,
        *,
        verifier: str,
        request: bytes = b"",
        kind: str = "result",
        depth: int | None = None,
        relation: str | None = None,
    ) -> Proof:
        """Prove that this agent gives this answer to this request now.

        Args:
            challenge: The verifier's challenge value, 32 bytes.
            payload: The exact bytes of the answer.
            verifier: The agent that will verify the proof.
            request: The exact bytes of the request.
            kind: The kind of the payload.
            depth: The depth of the spawn, if it is one.
            relation: The id of a peering that this agent issued, to make the proof with its
                secret; an empty string for the agent's own secret. By default, the peering issued
                to the verifier's domain if the verifier is a peer here, otherwise the agent's own
                secret.

        Raises:
            AccountError: This agent doesn't exist, isn't an agent, or was deactivated.
            UserNotFound: This agent issued no such peering.
            UnsealError: The secret can't be decrypted with this keyring.
        """
        return self._identity.maker.make(
            self._proof_request(
                "spawn-result", challenge, verifier, request, depth, relation, kind, payload
            )
        )

    async def aprove(
        self,
        challenge: bytes,
        payload: bytes,
        *,
        verifier: str,
        request: bytes = b"",
        kind: str = "result",
        depth: int | None = None,
        relation: str | None = None,
    ) -> Proof:
        """As ``prove``, off the event loop."""
        return await self._identity.maker.amake(
            self._proof_request(
                "spawn-result", challenge, verifier, request, depth, relation, kind, payload
            )
        )

    def prove_request(
        self,
        challenge: bytes,
        request: bytes,
        *,
        verifier: str,
        depth: int | None = None,
        relation: str | None = None,
        answer_relation: str = "",
    ) -> Proof:
        """Prove that this agent makes this request to that child.

        Arguments and errors are those of ``prove``, except for ``answer_relation``.

        Args:
            challenge: As for ``prove``.
            request: The exact bytes of the request.
            verifier: The child.
            depth: The depth of the spawn.
            relation: The peering with whose secret this proof is made.
            answer_relation: The id of the peering with whose secret the child has to prove its
                answer; an empty string for none.
        """
        return self._identity.maker.make(
            self._proof_request(
                "spawn-request", challenge, verifier, request, depth, relation, answer_relation
            )
        )

    async def aprove_request(
        self,
        challenge: bytes,
        request: bytes,
        *,
        verifier: str,
        depth: int | None = None,
        relation: str | None = None,
        answer_relation: str = "",
    ) -> Proof:
        """As ``prove_request``, off the event loop."""
        return await self._identity.maker.amake(
            self._proof_request(
                "spawn-request", challenge, verifier, request, depth, relation, answer_relation
            )
        )

    def verify_proof(
        self,
        proof: Proof,
        *,
        challenge: Challenge,
        payload: bytes,
        request: bytes = b"",
        kind: str = "result",
        depth: int | None = None,
    ) -> Verification:
        """Verify that the challenged peer gave this answer to this request now.

        The challenge is spent in any case. A failure never locks an account, because a proof can't
        be guessed.

        Args:
            proof: The peer's proof.
            challenge: The challenge that this agent made; not one that was received.
            payload: The exact bytes received.
            request: The exact bytes sent.
            kind: The expected kind of the payload.
            depth: The depth of the spawn, if it is one.

        Raises:
            ProofRejected: The proof is not valid. Only the audit has the reason.
            UnsealError: The peer's secret can't be decrypted with this keyring.
        """
        return self._identity.proofs.verify(
            self._proof_check(proof, challenge, "spawn-result", request, depth, kind, payload)
        )

    async def averify_proof(
        self,
        proof: Proof,
        *,
        challenge: Challenge,
        payload: bytes,
        request: bytes = b"",
        kind: str = "result",
        depth: int | None = None,
    ) -> Verification:
        """As ``verify_proof``, off the event loop."""
        return await self._identity.proofs.averify(
            self._proof_check(proof, challenge, "spawn-result", request, depth, kind, payload)
        )

    def verify_possession(self, proof: Proof, *, challenge: Challenge) -> Verification:
        """Verify that the challenged peer has its secret, before it gets a request.

        A success isn't audited, because it decides nothing: the answer that follows is audited.
        Errors are those of ``verify_proof``.

        Args:
            proof: The peer's proof over an empty payload of the kind ``possession``.
            challenge: The challenge that this agent made.
        """
        return self._identity.proofs.verify(
            self._proof_check(
                proof, challenge, "spawn-result", b"", None, "possession", b"", quiet=True
            )
        )

    averify_possession: Final = off_the_loop(verify_possession)

    def verify_request(
        self,
        proof: Proof,
        *,
        challenge: Challenge,
        request: bytes,
        depth: int | None = None,
        answer_relation: str = "",
    ) -> Verification:
        """Verify that the challenge's prover makes this request to this agent.

        Otherwise as ``verify_proof``.

        Args:
            proof: The parent's proof.
            challenge: A ``Challenge`` made from the challenge that came with the proof.
            request: The exact bytes received.
            depth: The depth of the spawn.
            answer_relation: The peering that the request names for the answer. Compare it with
                ``relation_to``: a parent may name only its own domain's peering.
        """
        return self._identity.proofs.verify(
            self._proof_check(proof, challenge, "spawn-request", request, depth, answer_relation)
        )

    async def averify_request(
        self,
        proof: Proof,
        *,
        challenge: Challenge,
        request: bytes,
        depth: int | None = None,
        answer_relation: str = "",
    ) -> Verification:
        """As ``verify_request``, off the event loop."""
        return await self._identity.proofs.averify(
            self._proof_check(proof, challenge, "spawn-request", request, depth, answer_relation)
        )

    def require_active(self) -> None:
        """Require that this agent exists and is active.

        Raises:
            AccountError: It doesn't exist, isn't an agent, or was deactivated.
        """
        self._identity.secrets.own(self.username)

    arequire_active: Final = off_the_loop(require_active)

    def relation_to(self, verifier: str) -> PeerRelation | None:
        """Return the peerings by which this agent and a peer prove themselves to each other.

        Args:
            verifier: The peer, an agent of another domain.

        Returns:
            None if no peer of that name is enrolled here. A deactivated peer is returned too.

        Raises:
            AccountError: This agent doesn't exist, isn't an agent, or was deactivated.
            InvalidUsername: The verifier is not a username.
        """
        peer = require_username(verifier, argument="verifier")
        return relation_to(self._identity.core.database, self.username, peer)

    arelation_to: Final = off_the_loop(relation_to)

    def spend_request(self, parent: str, challenge: bytes, *, lifetime: float = 300.0) -> bool:
        """Mark a parent's request as used, for all processes of this database.

        Args:
            parent: The agent that made the request.
            challenge: The challenge that its proof answered.
            lifetime: Seconds for which the mark is stored, at most 366 days. It must be longer
                than the proof is valid.

        Returns:
            True the first time, and False afterwards. False is audited.

        Raises:
            InvalidUsername: The parent is not a username.
            TypeError: The lifetime isn't a number.
            ValueError: The lifetime is out of range, or the challenge isn't 32 bytes.
            StorageError: The mark can't be stored. Don't serve the request.
        """
        seconds = require_seconds(lifetime, "lifetime")
        require_username(parent, argument="parent")
        require_challenge(challenge)
        return spend_request(self._identity.core, self.username, parent, challenge, seconds)

    aspend_request: Final = off_the_loop(spend_request)

    def note_refusal(self, peer: str, action: str, reason: str) -> None:
        """Record in the audit that this agent refused a peer before any verification.

        Args:
            peer: The refused peer.
            action: The refused action: ``verify``, ``verify.audience``, ``verify.plain``,
                ``verify.proof`` or ``verify.request``.
            reason: The reason, 1 to 64 printable ASCII characters.

        Raises:
            AccountError: This agent doesn't exist, isn't an agent, or was deactivated. Nothing is
                recorded.
            TypeError: The peer isn't text.
            ValueError: The action is unknown, or the reason is malformed.
        """
        note_refusal(self._identity.core, self.username, peer, action, reason)

    def is_of(self, database: Database) -> bool:
        """Return whether this agent's account is in that database."""
        return self._identity.core.database.is_same_as(database)

    def now(self) -> float:
        """Return the time by the clock that dates this agent's proofs, Unix seconds.

        Raises:
            ConfigurationError: The clock returns something else.
        """
        at = self._identity.core.clock()
        try:
            now = float(at)
            step_at(now)
        except (TypeError, ValueError, OverflowError):
            raise ConfigurationError(
                "clock has to return Unix seconds from 1970 to the year 9999, as time.time does, "
                f"and returned {type(at).__name__}"
            ) from None
        return now

    def _proof_request(
        self,
        role: ProofRole,
        challenge: bytes,
        verifier: str,
        request: bytes,
        depth: int | None,
        relation: str | None,
        kind: str,
        payload: bytes | None = None,
    ) -> ProofRequest:
        prover = require_username(self.username)
        require_username(verifier, argument="verifier")
        require_challenge(challenge)
        binding = bind(role, prover, verifier, challenge, request, depth, kind, payload)
        if relation is not None and type(relation) is not str:
            raise TypeError(f"relation must be text or None, not {type(relation).__name__}")
        return ProofRequest(binding, relation, int(self.now()) // PERIOD)

    def _proof_check(
        self,
        proof: Proof,
        challenge: Challenge,
        role: ProofRole,
        request: bytes,
        depth: int | None,
        kind: str,
        payload: bytes | None = None,
        *,
        quiet: bool = False,
    ) -> ProofCheck:
        verifier = require_username(self.username)
        proof, question = require_proof(proof, challenge)
        binding = bind(
            role, question.prover, verifier, question.value, request, depth, kind, payload
        )
        if verifier == OPERATOR:
            self._identity.secrets.own(verifier)
        now, context = self.now(), run_context()
        unfit = why_spent(challenge, question, verifier)
        return ProofCheck(proof, question, binding, unfit, now, context, quiet)

    def __repr__(self) -> str:
        return f"Agent({self.username!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an Agent can't be pickled: any code that has it can act as the agent")


def require_handle(given: object, argument: str = "agent") -> Agent:
    """Return the argument if it is a handle, and not, for example, a username.

    Raises:
        TypeError: It isn't one. The message names the argument and how to get one.
    """
    if not isinstance(given, Agent):
        raise TypeError(f'{argument} must be a handle: pipelit.agent("agent_lead")')
    return given
