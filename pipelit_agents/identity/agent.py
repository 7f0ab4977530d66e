"""The handle of one agent: it makes codes and proofs, and checks those of its peers."""

from __future__ import annotations

from typing import Any, Final, Literal

from pipelit_agents._bounds import require_seconds
from pipelit_agents._run_context import run_context
from pipelit_agents._twins import off_the_loop
from pipelit_agents._wording import bindable
from pipelit_agents.database.engine import Database
from pipelit_agents.errors import (
    InvalidUsername,
)
from pipelit_agents.identity.codes import short_codes
from pipelit_agents.identity.evidence import ProofRole, TotpCode, Verification, utc
from pipelit_agents.identity.proofs import (
    ProofCheck,
    ProofRequest,
    Verifier,
    require_challenge,
    require_proof,
    required_relation,
)
from pipelit_agents.protocol.binding import (
    PERIOD,
    Binding,
    Challenge,
    Proof,
)
from pipelit_agents.protocol.peering_uri import PeerRelation
from pipelit_agents.protocol.usernames import OPERATOR, require_username

__all__ = ["Agent", "home_of"]

_DEEPEST: Final = 2**31
_LONGEST_KIND: Final = 64


class Agent:
    """The handle by which code acts as one agent user. Who holds it is that agent.

    It opens nothing when it is made; the account is looked up whenever it is needed, so that a
    deactivation or rotation holds at once. Proofs that many threads or tasks make or check at one
    moment share a transaction.

    Args:
        username: The agent user's name.
        verifier: Makes and checks codes and proofs.
        home: The ``Pipelit`` that made the handle.

    Raises:
        InvalidUsername: The name is not in its normal form.
    """

    __slots__ = ("_home", "_verifier", "username")

    def __init__(self, username: str, verifier: Verifier, home: Any) -> None:
        self.username = require_username(username)
        self._verifier = verifier
        self._home = home

    def totp_code(
        self,
        *,
        audience: str | None = None,
        message: str | None = None,
        check_audience: bool = False,
    ) -> TotpCode:
        """Makes this agent's present code.

        An audience code says that this agent made it for that verifier, now. It doesn't say who
        brings it: anybody who gets hold of it can hand it on to that verifier, with other words.
        Bind it to a message where the verifier is to rely on words.

        Args:
            audience: Who is to check it; a peer gets it under the peering that this agent issued
                to its domain. Without one the code is plain: it is good for anybody who knows the
                secret, any authenticator app shows the same.
            message: The exact text that the code is for, 1 to 4,000 characters; the code is good
                with this text alone (its UTF-8 bytes, nothing is normalized). It needs an
                audience.
            check_audience: Make no code for an audience that isn't an active agent of this
                database, where a model chose the name. Refusals are audited, and all look alike;
                after 20 in a minute this agent waits.

        Returns:
            The code and the end of its time step. A verifier accepts one code of a peer for each
            time step of 30 seconds, whether it is bound to a message or not.

        Raises:
            AccountError: This agent isn't there, is no agent, or was deactivated.
            UserNotFound: The audience is a peer, and no peering was issued to its domain; or it was
                to be checked, and there is no such active agent.
            RateLimited: Too many audiences were refused in the last minute.
            InvalidUsername: The audience is not a username, or is this agent.
            TypeError: The message isn't text.
            ValueError: The message can't be bound, or there is no audience for it.
            UnsealError: The secret doesn't open under this keyring.
        """
        if message is not None:
            if audience is None:
                raise ValueError(
                    "message: a plain code is made from the clock alone, so it can't be bound to "
                    "a message; name the audience that is to check it"
                )
            message = bindable(message)
        if audience is not None and require_username(audience, argument="audience") == (
            self.username
        ):
            raise InvalidUsername(
                "audience: an agent doesn't verify itself", username=self.username
            )
        if check_audience and audience is not None:
            self._verifier.require_audience(self.username, audience)
        step = int(self._verifier.now()) // PERIOD
        if audience is None:
            key, relation = self._verifier.own_key(self.username), ""
        else:
            key, relation = self._verifier.proving_key(self.username, audience)
        (code,) = short_codes(key, [step], self.username, audience, relation, message)
        return TotpCode(code, utc((step + 1) * PERIOD), audience, message)

    atotp_code = off_the_loop(totp_code)

    def verify_peer(
        self,
        username: str,
        code: str,
        *,
        kind: Literal["audience", "plain"] = "audience",
        message: str | None = None,
    ) -> Verification:
        """Checks another agent's short code, and spends it.

        A success says that the peer made this code, for this agent if it is an audience code,
        within the last 90 seconds. It doesn't say who brought the code. What was said with it is
        the peer's only where it is the ``message`` that the code was made for.

        Args:
            username: The peer, exactly as its account is written.
            code: The digits; nothing is stripped.
            kind: ``audience`` accepts codes made for this agent only (RFC 6287, 8 digits);
                ``plain`` those of an authenticator app (RFC 6238, 6 digits). It is for the
                developer to choose, never for a model.
            message: The exact text that came with the code. A code that was made for a message is
                good with that message alone, and one that was made for none is good without one.

        Returns:
            The evidence. There is no return for a failure.

        Raises:
            CodeRejected: The code is wrong, was spent, was made for another message, or there is
                no such active peer or verifier; which of them is in the audit only.
            MalformedCode: It can't be a code, or a username, names this agent itself, or the
                message can't be one that a code was bound to. After 20 of them in a minute,
                further ones are RateLimited.
            TypeError: The message isn't text.
            ValueError: The kind is unknown, or a message was given for a plain code.
            RateLimited: Too many failures of this agent about this peer in the last minute.
            PeerLocked: Too many failures in a row; ``retry_after`` says for how long.
            LedgerUnavailable: Attempts can't be counted, so nothing is accepted.
            UnsealError: The peer's secret doesn't open under this keyring.
        """
        return self._verifier.check_code(self.username, username, code, kind, message)

    averify_peer = off_the_loop(verify_peer)

    def challenge(self, prover: str, *, lifetime: float = 60.0) -> Challenge:
        """Asks one peer to prove itself.

        Args:
            prover: Who is to answer.
            lifetime: Seconds until no answer is accepted any more, at most 366 days.

        Returns:
            A challenge for one check; give its ``value`` to the peer and keep the object.

        Raises:
            InvalidUsername: The prover is not a username.
            TypeError: The lifetime isn't a number.
            ValueError: The prover is this agent, or the lifetime is out of range.
        """
        if require_username(prover, argument="prover") == self.username:
            raise ValueError("prover: an agent doesn't verify itself")
        seconds = require_seconds(lifetime, "lifetime")
        now = self._verifier.now()
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
        """Proves that this agent gives this answer to this request, now.

        Args:
            challenge: The verifier's challenge value, 32 bytes.
            payload: The exact bytes of the answer.
            verifier: Who is to check.
            request: The exact bytes that were asked.
            kind: What the payload is.
            depth: The depth of the spawn, if it is one.
            relation: The id of the peering, issued by this agent, to prove it under; an empty
                string for the agent's own secret. By default the peering issued to the domain of
                a verifier that is a peer here, and to others the agent's own secret.

        Raises:
            AccountError: This agent isn't there, is no agent, or was deactivated.
            UserNotFound: This agent issued no such peering.
            UnsealError: The secret doesn't open under this keyring.
        """
        return self._verifier.prove(
            self._asked(
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
        """As :meth:`prove`, off the event loop."""
        return await self._verifier.aprove(
            self._asked(
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
        """Proves that this agent asks this of that child.

        Args and errors as :meth:`prove`, and one more:

        Args:
            challenge: As there, and what follows too.
            request: The exact bytes that are asked.
            verifier: The child.
            depth: The depth of the spawn.
            relation: The peering that this proof is made under.
            answer_relation: The id of the peering that the child is asked to prove its answer
                under; an empty string for none.
        """
        return self._verifier.prove(
            self._asked(
                "spawn-request",
                challenge,
                verifier,
                request,
                depth,
                relation,
                required_relation(answer_relation),
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
        """As :meth:`prove_request`, off the event loop."""
        return await self._verifier.aprove(
            self._asked(
                "spawn-request",
                challenge,
                verifier,
                request,
                depth,
                relation,
                required_relation(answer_relation),
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
        """Checks that the challenged peer gave this answer to this request, now.

        The challenge is spent, whatever comes out. A failure never locks anybody: a proof can't
        be guessed.

        Args:
            proof: What the peer sent.
            challenge: What this agent asked; not what came back.
            payload: The exact bytes received.
            request: The exact bytes sent.
            kind: What the payload is to be.
            depth: The depth of the spawn, if it is one.

        Raises:
            ProofRejected: It doesn't show that; why is in the audit only.
            UnsealError: The peer's secret doesn't open under this keyring.
        """
        return self._verifier.check_proof(
            self._check(proof, challenge, "spawn-result", request, depth, kind, payload)
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
        """As :meth:`verify_proof`, off the event loop."""
        return await self._verifier.acheck_proof(
            self._check(proof, challenge, "spawn-result", request, depth, kind, payload)
        )

    def verify_possession(self, proof: Proof, *, challenge: Challenge) -> Verification:
        """Checks that the challenged peer holds its secret, before it is asked for anything.

        That alone decides nothing, so a success isn't audited: the answer that follows is. Errors
        as :meth:`verify_proof`.

        Args:
            proof: What the peer made over an empty payload of the kind ``possession``.
            challenge: What this agent asked.
        """
        return self._verifier.check_proof(
            self._check(proof, challenge, "spawn-result", b"", None, "possession", b"", quiet=True)
        )

    averify_possession = off_the_loop(verify_possession)

    def verify_request(
        self,
        proof: Proof,
        *,
        challenge: Challenge,
        request: bytes,
        depth: int | None = None,
        answer_relation: str = "",
    ) -> Verification:
        """Checks that the challenge's prover asks this of this agent. Otherwise as above.

        Args:
            proof: What the parent sent.
            challenge: Made of the challenge that came with it.
            request: The exact bytes received.
            depth: The depth of the spawn.
            answer_relation: The peering that the request names for the answer. Compare it with
                :meth:`relation_to`: a parent may name its own domain's only.
        """
        return self._verifier.check_proof(
            self._check(
                proof,
                challenge,
                "spawn-request",
                request,
                depth,
                required_relation(answer_relation),
            )
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
        """As :meth:`verify_request`, off the event loop."""
        return await self._verifier.acheck_proof(
            self._check(
                proof,
                challenge,
                "spawn-request",
                request,
                depth,
                required_relation(answer_relation),
            )
        )

    def require_active(self) -> None:
        """Makes sure that this agent is there and may act.

        Raises:
            AccountError: It isn't there, is no agent, or was deactivated.
        """
        self._verifier.own_key(self.username)

    arequire_active = off_the_loop(require_active)

    def relation_to(self, verifier: str) -> PeerRelation | None:
        """How this agent and a peer of another domain prove themselves to each other.

        Args:
            verifier: The peer.

        Returns:
            None where no peer of that name is enrolled here. A deactivated peer is still shown.

        Raises:
            AccountError: This agent isn't there, is no agent, or was deactivated.
            InvalidUsername: The verifier is not a username.
        """
        return self._verifier.relation_to(
            self.username, require_username(verifier, argument="verifier")
        )

    arelation_to = off_the_loop(relation_to)

    def spend_request(self, parent: str, challenge: bytes, *, lifetime: float = 300.0) -> bool:
        """Marks a parent's request as used, for all processes of this database.

        Args:
            parent: Who asked.
            challenge: The challenge that its proof answered.
            lifetime: Seconds for which it is remembered, at most 366 days: longer than the proof
                is good.

        Returns:
            True the first time. False from then on, which is audited.

        Raises:
            InvalidUsername: The parent is not a username.
            TypeError: The lifetime isn't a number.
            ValueError: The lifetime is out of range, or the challenge isn't 32 bytes.
            StorageError: It can't be remembered; don't work on it.
        """
        seconds = require_seconds(lifetime, "lifetime")
        require_username(parent, argument="parent")
        require_challenge(challenge)
        return self._verifier.spend_request(self.username, parent, challenge, seconds)

    aspend_request = off_the_loop(spend_request)

    def note_refusal(self, peer: str, action: str, reason: str) -> None:
        """Records that this agent refused a peer before there was anything to verify.

        Args:
            peer: Who was refused.
            action: What it was refused in: ``verify``, ``verify.audience``, ``verify.plain``,
                ``verify.proof`` or ``verify.request``.
            reason: Why, in 1 to 64 printable ASCII characters.

        Raises:
            AccountError: This agent isn't there, is no agent, or was deactivated; nothing is
                recorded.
            TypeError: The peer isn't text.
            ValueError: The action is another one, or the reason has another form.
        """
        self._verifier.audit_refusal(self.username, peer, action, reason)

    def is_of(self, database: Database) -> bool:
        """Whether this agent's account is in that database."""
        ours = self._verifier.database
        return ours is database or ours.url == database.url

    def now(self) -> float:
        """The clock that this agent's proofs are stamped by, Unix seconds."""
        return self._verifier.now()

    def _asked(
        self,
        role: ProofRole,
        challenge: bytes,
        verifier: str,
        request: bytes,
        depth: int | None,
        relation: str | None,
        kind: str = "",
        payload: bytes | None = None,
    ) -> ProofRequest:
        prover = require_username(self.username)
        require_username(verifier, argument="verifier")
        require_challenge(challenge)
        _require_bindable(request, depth, kind, payload)
        if relation is not None and type(relation) is not str:
            raise TypeError(f"relation has to be text or None, not {type(relation).__name__}")
        step = int(self._verifier.now()) // PERIOD

        def answer(key: bytes, peering: str) -> Proof:
            binding = Binding(
                role=role,
                relation=peering,
                prover=prover,
                verifier=verifier,
                challenge=challenge,
                depth=depth,
                request=request,
                kind=kind,
                payload=payload,
            )
            return Proof(prover, verifier, step, binding.answer(key, step))

        return ProofRequest(prover, verifier, relation, answer)

    def _check(
        self,
        proof: Proof,
        challenge: Challenge,
        role: ProofRole,
        request: bytes,
        depth: int | None,
        kind: str = "",
        payload: bytes | None = None,
        *,
        quiet: bool = False,
    ) -> ProofCheck:
        verifier = require_username(self.username)
        # Copies of exact types: what is checked together waits for each, and nothing that was put
        # into one of them may run code there or be what the database doesn't take.
        shown, asked = require_proof(proof, challenge)
        _require_bindable(request, depth, kind, payload)
        if verifier == OPERATOR:
            self._verifier.own_key(verifier)
        now, context = self._verifier.now(), run_context()
        if not asked.verifier == verifier != asked.prover:
            unfit = "challenge of another verifier"
        elif not challenge.minted_here:
            unfit = "challenge of another process"
        else:
            # Here, so that of two that check at once one is refused, however they are served.
            unfit = "" if challenge.spend() else "challenge used before"
        return ProofCheck(
            proof=shown,
            challenge=asked,
            verifier=verifier,
            role=role,
            request=request,
            kind=kind,
            payload=payload,
            depth=depth,
            quiet=quiet,
            unfit=unfit,
            now=now,
            context=context,
        )

    def __repr__(self) -> str:
        return f"Agent({self.username!r})"

    def __reduce__(self) -> Any:
        raise TypeError("an Agent is not pickled: whoever holds it is that agent")


def _require_bindable(request: object, depth: object, kind: object, payload: object) -> None:
    # Exact types: what is made or checked together waits for each, and nothing in it may run code.
    if type(request) is not bytes:
        raise TypeError(f"request has to be the exact bytes, not {type(request).__name__}")
    if payload is not None and type(payload) is not bytes:
        raise TypeError(f"payload has to be the exact bytes, not {type(payload).__name__}")
    if depth is not None and (type(depth) is not int or not 0 <= depth < _DEEPEST):
        raise ValueError(f"depth has to be a whole number from 0 to {_DEEPEST - 1}, or None")
    if type(kind) is not str or len(kind) > _LONGEST_KIND or not kind.isascii():
        raise ValueError(
            f"kind has to be ASCII text of at most {_LONGEST_KIND} characters, for example 'result'"
        )


def home_of(agent: Agent) -> Any:
    """Return the ``Pipelit`` that made a handle, for this package's own graphs and tools.

    A handle has no public attribute for it: whoever is given one agent isn't given all accounts.
    """
    return agent._home
