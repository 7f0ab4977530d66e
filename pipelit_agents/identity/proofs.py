"""Make and verify codes and proofs. No other module of this folder decrypts TOTP secrets."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from secrets import token_bytes
from typing import Any, Final, NamedTuple, NoReturn, get_args

from pydantic import SecretStr
from sqlalchemy import delete, select, text

from pipelit_agents._core import Core
from pipelit_agents._run_context import RunContext
from pipelit_agents._wording import bindable, in_words
from pipelit_agents.audit.records import entry, write
from pipelit_agents.database.engine import Database
from pipelit_agents.database.models import SpentRequestRow
from pipelit_agents.errors import (
    AccountError,
    CodeRejected,
    ConfigurationError,
    LedgerUnavailable,
    MalformedCode,
    NotLocalAgent,
    PeerLocked,
    ProofRejected,
    RateLimited,
    StorageError,
    UnsealError,
    UserInactive,
    UserNotFound,
)
from pipelit_agents.identity.acting import acts_for
from pipelit_agents.identity.batching import Batching
from pipelit_agents.identity.codes import (
    AUDIENCE_DIGITS,
    CODE_FORMS,
    PLAIN_DIGITS,
    not_text,
    other_kind,
    short_codes,
)
from pipelit_agents.identity.evidence import ProofRole, TotpCode, Verification, utc
from pipelit_agents.identity.lookup import (
    MAX_NAMES_AT_ONCE,
    OWN_SECRET,
    ProofKey,
    domain_of,
    find_proof_key,
    numbered_names,
    read_accounts,
    read_peering,
    reading_accounts,
    unknown_account,
    why_no_audience,
)
from pipelit_agents.ledger.attempts import Account, Attempt, CodeKind, Decision, Verdict, account_at
from pipelit_agents.ledger.common import Ledger
from pipelit_agents.ledger.questions import QuestionLimit
from pipelit_agents.otp import step_at
from pipelit_agents.protocol.binding import (
    PERIOD,
    Binding,
    Challenge,
    Proof,
    Question,
    same,
)
from pipelit_agents.protocol.peering_uri import PeerRelation, is_relation
from pipelit_agents.protocol.usernames import OPERATOR, is_username
from pipelit_agents.sealing.keyring import Sealed
from pipelit_agents.sealing.purposes import peering_purpose, totp_purpose

__all__ = ["Verifier"]
_SPEND_REQUEST: Final = text(
    "INSERT INTO pipelit_spent_requests (digest, expires_at) VALUES (:digest, :expires_at) "
    "ON CONFLICT (digest) DO NOTHING"
)
# Actions that can be refused before any verification.
_REFUSABLE_ACTIONS: Final = frozenset(
    {"verify", "verify.audience", "verify.plain", "verify.proof", "verify.request"}
)
_MAKE_CODE: Final = "code.make"
_REASON: Final = re.compile(r"[!-~](?:[ -~]{0,62}[!-~])?\Z")
# Unix seconds, the year 5138. A larger number may be milliseconds, so `step_at` checks it.
_PLAUSIBLE_SECONDS: Final = 1e11
NO_PERSON: Final = "no person"
_NOT_DECIDED: Final[dict[type[Exception], str]] = {
    ConfigurationError: "a setting is unusable",
    UnsealError: "secret doesn't open",
}


class ProofRequest(NamedTuple):
    """A proof to be made when the agent's secret is decrypted."""

    agent: str
    verifier: str
    relation: str | None
    answer: Callable[[bytes, str], Proof]


class ProofCheck(NamedTuple):
    """A proof to be verified against the accounts as they are then."""

    proof: Proof
    challenge: Question
    verifier: str
    role: ProofRole
    request: bytes
    kind: str
    payload: bytes | None
    depth: int | None
    quiet: bool
    # Why no answer to this challenge can be accepted, or an empty string.
    unfit: str
    now: float
    context: RunContext

    @property
    def action(self) -> str:
        """The action, as the audit records it."""
        return "verify.request" if self.role == "spawn-request" else "verify.proof"


class Verifier:
    """Make and verify codes and proofs of the agents of one database.

    Args:
        core: The database, the keys that decrypt secrets, the ledger that counts attempts and
            spends codes, and the clock for codes.

    Attributes:
        questions: Limits the refused requests of each agent.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._database = core.database
        self._keyring = core.keyring
        self._ledger = core.ledger
        self._clock = core.clock
        self.questions = QuestionLimit()
        self._decoy = ""
        self._proofs = Batching(self._make_proofs, usable=self._require_reading)
        self._checks = Batching(self._check_proofs, usable=self._require_deciding)

    @property
    def database(self) -> Database:
        """The database of the accounts."""
        return self._database

    def now(self) -> float:
        """Return the time of the local clock, Unix seconds.

        Raises:
            ConfigurationError: The clock returns something else.
        """
        at = self._clock()
        if type(at) is float and 0.0 <= at < _PLAUSIBLE_SECONDS:
            return at
        try:
            now = float(at)
            step_at(now)
        except (TypeError, ValueError, OverflowError):
            raise ConfigurationError(
                "clock has to return Unix seconds from 1970 to the year 9999, as time.time does, "
                f"and returned a {type(at).__name__} that isn't"
            ) from None
        return now

    def _require_reading(self) -> None:
        with self._database.reading():
            """Read nothing: a failure here isn't caused by a request."""

    def _require_deciding(self) -> None:
        with self._database.deciding():
            """Read nothing, as above."""

    def own_key(self, username: str) -> bytes:
        """Return the secret of an active agent.

        Raises:
            UserNotFound: No account has that name.
            NotLocalAgent: The account isn't an agent.
            UserInactive: It was deactivated.
            UnsealError: The secret can't be decrypted with this keyring.
        """
        return self._own_key(username, self._accounts(username, username).get(username))

    def proving_key(
        self, username: str, verifier: str, relation: str | None = None
    ) -> tuple[bytes, str]:
        """Return the secret with which an agent proves itself to a verifier, and the peering's id.

        Args:
            username: The agent.
            verifier: The agent that will verify.
            relation: The id of a peering that this agent issued; an empty string for the agent's
                own secret; None to decide by whether the verifier is a peer here.

        Raises:
            UserNotFound: No account has that name, or the agent issued no such peering.
            NotLocalAgent: The account isn't an agent.
            UserInactive: It was deactivated.
            UnsealError: The secret can't be decrypted with this keyring.
        """
        with self._database.reading() as connection:
            rows = read_accounts(connection, username, verifier)
            proof_key = find_proof_key(connection, rows, username, verifier, relation)
        return self._proving_key(username, rows.get(username), proof_key, self._keyring().unseal)

    def prove(self, request: ProofRequest) -> Proof:
        """Make a proof; see :meth:`Agent.prove`."""
        return self._proofs.ask(request)

    async def aprove(self, request: ProofRequest) -> Proof:
        """As :meth:`prove`, for the event loop."""
        return await self._proofs.aask(request)

    def _make_proofs(self, requests: Sequence[ProofRequest]) -> Sequence[Proof | Exception]:
        """Make a batch of proofs from the current accounts."""
        proofs: list[Proof | Exception] = []
        for each, found in zip(requests, self._proof_secrets(requests), strict=True):
            try:
                proofs.append(found if isinstance(found, Exception) else each.answer(*found))
            except Exception as error:
                # Only this request fails.
                proofs.append(error)
        return proofs

    def _proof_secrets(
        self, requests: Sequence[ProofRequest]
    ) -> Sequence[tuple[bytes, str] | Exception]:
        """Return the secret for each proof, and the id of its peering."""
        names = {name for each in requests for name in (each.agent, each.verifier)}
        rows = self._accounts(*names)
        if not any(
            each.relation or domain_of(rows, each.verifier, each.relation) for each in requests
        ):
            return self._decrypt_secrets(requests, rows, lambda _: OWN_SECRET)
        # One transaction, so that accounts and peerings are consistent.
        with self._database.reading() as connection:
            rows = read_accounts(connection, *names)
            return self._decrypt_secrets(
                requests,
                rows,
                lambda each: find_proof_key(
                    connection, rows, each.agent, each.verifier, each.relation
                ),
            )

    def _decrypt_secrets(
        self,
        requests: Sequence[ProofRequest],
        rows: Mapping[str, Any],
        proof_key_of: Callable[[ProofRequest], ProofKey],
    ) -> Sequence[tuple[bytes, str] | Exception]:
        unseal = self._caching_unseal()
        found: dict[tuple[str, ProofKey], tuple[bytes, str]] = {}
        keys: list[tuple[bytes, str] | Exception] = []
        for each in requests:
            try:
                proof_key = proof_key_of(each)
                key = found.get((each.agent, proof_key))
                if key is None:
                    key = self._proving_key(each.agent, rows.get(each.agent), proof_key, unseal)
                    found[each.agent, proof_key] = key
                keys.append(key)
            except Exception as error:
                # Only this request fails; the others of the batch get their proofs.
                keys.append(error)
        return keys

    def _proving_key(
        self, username: str, row: Any, proof_key: ProofKey, unseal: Callable[[str, str], bytes]
    ) -> tuple[bytes, str]:
        own = self._own_key(username, row, unseal)
        if not proof_key.wanted:
            return own, ""
        if proof_key.issued is None:
            domain, relation = proof_key.domain, proof_key.wanted
            which = f"to the domain {domain!r}" if domain else f"with the id {relation!r:.40}"
            example = domain or "…"
            raise UserNotFound(
                f"no peering {which} was issued by {username!r}: issue one with "
                f'users.issue_peering("{username}", domain="{example}")',
                username=username,
            )
        found = proof_key.issued
        return unseal(found.secret, peering_purpose(found.relation)), found.relation

    def _caching_unseal(self) -> Callable[[str, str], bytes]:
        """Return a function that decrypts each secret of a batch once."""
        keyring, opened = self._keyring(), dict[tuple[str, str], bytes]()

        def unseal(token: str, purpose: str) -> bytes:
            found = opened.get((token, purpose))
            if found is None:
                found = opened[token, purpose] = keyring.unseal(token, purpose)
            return found

        return unseal

    def relation_to(self, username: str, peer: str) -> PeerRelation | None:
        """Return the peerings of an agent and a peer; see :meth:`Agent.relation_to`."""
        with self._database.reading() as connection:
            rows = read_accounts(connection, username, peer)
            self._require_acting(username, rows.get(username))
            row = rows.get(peer)
            if row is None or not row.domain:
                return None
            issued = read_peering(connection, username, "", row.domain)
        return PeerRelation(row.domain, row.relation, issued.relation if issued else None)

    def spend_request(self, username: str, parent: str, challenge: bytes, lifetime: float) -> bool:
        """Mark a request as used; see :meth:`Agent.spend_request`."""
        now = self._clock()
        named = f"{username}\0{parent}\0".encode() + challenge
        request = {"digest": hashlib.sha256(named).hexdigest(), "expires_at": now + lifetime}
        # SKIP LOCKED: another process is already deleting these rows.
        expired = (
            select(SpentRequestRow.digest)
            .where(SpentRequestRow.expires_at <= now)
            .with_for_update(skip_locked=True)
        )
        with self._database.writing(durable=True) as connection:
            own = read_accounts(connection, username, username).get(username)
            self._require_acting(username, own)
            connection.execute(delete(SpentRequestRow).where(SpentRequestRow.digest.in_(expired)))
            first = connection.execute(_SPEND_REQUEST, request).rowcount == 1
            if not first:
                self._core.record(
                    connection,
                    username,
                    parent,
                    "verify.request",
                    "request used before",
                    outcome="refused",
                    at=now,
                )
        return first

    def _own_key(
        self, username: str, row: Any, unseal: Callable[[str, str], bytes] | None = None
    ) -> bytes:
        self._require_acting(username, row)
        return (unseal or self._keyring().unseal)(row.totp_secret, totp_purpose(username))

    @staticmethod
    def _require_acting(username: str, row: Any) -> None:
        """Require that a handle belongs to an active agent of this database."""
        if row is None:
            raise UserNotFound(
                f"there is no account {username!r}; create it with users.create_agent or: "
                f"pipelit-agents agents create {username} --owner … --purpose …",
                username=username,
            )
        if row.domain:
            raise NotLocalAgent(
                f"{username!r} is a peer of the domain {row.domain!r}: here it can be verified; "
                "code can act as this agent only in its own domain",
                username=username,
            )
        if row.kind != "agent":
            raise NotLocalAgent(
                f"{username!r} is a person; code can act only as an agent (pipelit-agents agents "
                "list)",
                username=username,
            )
        if not row.active:
            raise UserInactive(f"{username!r} was deactivated", username=username)

    def check_code(
        self, verifier: str, peer: object, code: object, kind: str, message: object = None
    ) -> Verification:
        """Verify a short code and spend it; see :meth:`Agent.verify_peer`."""
        if kind not in CODE_FORMS:
            raise ValueError(f"kind must be 'audience' or 'plain', not {kind!r}")
        if kind == "plain" and message is not None:
            raise ValueError(
                "message: a plain code is made from the clock alone, so it can't be bound to a "
                "message; leave message out, or ask the peer for an audience code"
            )
        if verifier == OPERATOR:
            self._require_acting(verifier, None)
        name = self._peer_name(verifier, peer)
        if isinstance(code, TotpCode | SecretStr):
            raise TypeError(not_text(code))
        if not isinstance(code, str) or not CODE_FORMS[kind].match(code):
            digits = PLAIN_DIGITS if kind == "plain" else AUDIENCE_DIGITS
            self._refuse_malformed(
                verifier,
                name,
                f"code: {'a plain' if kind == 'plain' else 'an audience'} code is exactly "
                f"{digits} digits 0-9, without spaces{other_kind(code, kind)}",
            )
        if message is None:
            return self._verify_code(verifier, name, code, kind)
        try:
            bound = bindable(message)
        except ValueError as error:
            # The message came with the code, so it is refused like a malformed code.
            self._refuse_malformed(verifier, name, str(error))
        return replace(self._verify_code(verifier, name, code, kind, bound), message=bound)

    def check_person(
        self, username: str, code: object, *, own: bool, unfit: str = "", first: bool = False
    ) -> Verification:
        """Verify a person's plain code and spend it. The person is both peer and verifier.

        Args:
            username: The person whose code it must be.
            code: Exactly six digits.
            own: Whether the caller is authenticated as this person. Then failures count in the
                person's own lane, as they do while the running code acts for the person.
                Otherwise they count in the lane that all strangers share.
            unfit: Why no code of this account can be right: it doesn't exist, isn't a person, was
                deactivated, or has no second factor. The code is refused like a wrong one, with
                the same statements and limits. Failures of an authenticated caller, or about an
                agent, aren't counted about this account.
            first: Whether it is the first code of an enrolment, and known to be right.

        Raises:
            VerificationError: As :meth:`Agent.verify_peer`.
        """
        plain = self.require_plain_form(username, code)
        return self._verify_code(
            username, username, plain, "plain", own=own, unfit=unfit, first=first
        )

    def require_plain_form(self, username: str, code: object) -> str:
        """Return a person's plain code if it is six digits.

        Raises:
            MalformedCode: It isn't; this doesn't count as an attempt.
            TypeError: It is an object that holds a code.
        """
        if isinstance(code, TotpCode | SecretStr):
            raise TypeError(not_text(code))
        if not isinstance(code, str) or not CODE_FORMS["plain"].match(code):
            self._malformed(
                username,
                username,
                f"code: the authenticator app shows exactly {PLAIN_DIGITS} digits 0-9, and a "
                "recovery code has 16 letters and digits (spaces and dashes make no difference)",
            )
        return code

    def person_secret(self, username: str, sealed: Sealed | None) -> bytes:
        """Decrypt a person's TOTP secret, or a decoy at the same cost if there is none.

        Raises:
            UnsealError: It can't be decrypted with this keyring.
        """
        account = None if sealed is None else Account(username, sealed.token, None)
        return self._unseal(account, self._keyring().unseal)[0]

    def _verify_code(
        self,
        verifier: str,
        name: str,
        typed: str,
        kind: str,
        message: str | None = None,
        *,
        own: bool = False,
        unfit: str = "",
        first: bool = False,
    ) -> Verification:
        def matches(account: Account | None, steps: range) -> Sequence[int]:
            # Every step is compared with every key, so that the duration reveals nothing.
            audience = None if kind == "plain" else verifier
            relation = account.relation if account else ""
            return [
                step
                for key in self._unseal(account, self._keyring().unseal)
                for step, code in zip(
                    steps, short_codes(key, steps, name, audience, relation, message), strict=True
                )
                if same(code, typed)
            ]

        code_kind: CodeKind = "plain" if kind == "plain" else "audience"
        # An agent's attempt isn't an attempt of the person in whose run it is made.
        if code_kind == "plain" and not own and verifier == name:
            # The ledger looks up whether the account is an active person when it decides.
            own = acts_for(self._database, name)
        try:
            attempt = Attempt(verifier, name, code_kind, matches, own, first=first)
            if unfit:
                # Counted in the same lane as agents' attempts about this name, so that a wait
                # doesn't reveal whether it is a person. An agent's own lanes aren't closed by this.
                shared = not own and unfit != NO_PERSON
                counted = name if shared else unknown_account(name, own=own)
                attempt = Attempt(
                    counted, counted, code_kind, matches, own, named=name, unfit=unfit
                )
            decision = _decide(self._ledger(), attempt)
        except (ConfigurationError, LedgerUnavailable, UnsealError) as error:
            if isinstance(error, LedgerUnavailable):
                error.peer, error.verifier = name, verifier
            if isinstance(error.__cause__, StorageError):
                # The same database would have to record this, and would only time out again.
                raise
            with suppress(StorageError):
                reason = _NOT_DECIDED.get(type(error), "ledger unavailable")
                with self._database.deciding() as connection:
                    self._core.record(
                        connection, verifier, name, f"verify.{kind}", reason, outcome="refused"
                    )
            raise
        who = {"peer": name, "verifier": verifier}
        if decision.verdict == "rejected":
            if verifier == name:
                raise CodeRejected("the code was not accepted; wait for the next one", **who)
            raise CodeRejected(**who)
        if decision.verdict == "limited":
            wait = decision.retry_after or 0.0
            raise RateLimited(
                f"too many failed codes about {name!r}: wait {in_words(wait)}",
                retry_after=wait,
                **who,
            )
        if decision.verdict == "locked":
            wait = decision.retry_after or 0.0
            raise PeerLocked(
                f"codes of {name!r} are not evaluated here for {in_words(wait)}",
                retry_after=wait,
                **who,
            )
        return Verification(name, verifier, kind, decision.step, utc(decision.at))

    def check_proof(self, check: ProofCheck) -> Verification:
        """Verify a proof and record the result in the audit; see :meth:`Agent.verify_proof`."""
        return self._checks.ask(check)

    async def acheck_proof(self, check: ProofCheck) -> Verification:
        """As :meth:`check_proof`, for the event loop."""
        return await self._checks.aask(check)

    def _check_proofs(self, checks: Sequence[ProofCheck]) -> Sequence[Verification | Exception]:
        """Verify a batch against one state of the accounts; record all before returning any."""
        names = {name for each in checks for name in (each.verifier, each.challenge.prover)}
        unseal = self._caching_unseal()
        answers: list[Verification | Exception] = []
        answer: Verification | Exception
        entries = []
        with self._database.deciding() as connection:
            rows = read_accounts(connection, *names)
            for each in checks:
                peer = each.challenge.prover
                try:
                    reason = self._reason_against(each, rows, unseal)
                    answer = (
                        ProofRejected(peer=peer, verifier=each.verifier)
                        if reason
                        else Verification(
                            peer, each.verifier, "proof", each.proof.step, utc(each.now)
                        )
                    )
                except Exception as error:
                    # Only this verification fails; the others of the batch are decided.
                    answer, reason = error, _NOT_DECIDED.get(type(error), "not decided")
                answers.append(answer)
                if reason or not each.quiet:
                    entries.append(
                        entry(
                            at=each.now,
                            actor=each.verifier,
                            subject=peer,
                            action=each.action,
                            outcome="ok" if type(answers[-1]) is Verification else "refused",
                            reason=reason,
                            context=each.context,
                        )
                    )
            write(connection, *entries)
        return answers

    def _reason_against(
        self, check: ProofCheck, rows: Mapping[str, Any], unseal: Callable[[str, str], bytes]
    ) -> str:
        proof, challenge, verifier = check.proof, check.challenge, check.verifier
        peer, now = challenge.prover, check.now
        verifier_row, peer_row = rows.get(verifier), rows.get(peer)
        account = None if peer_row is None else account_at(now, peer, peer_row)
        binding = Binding(
            role=check.role,
            relation=account.relation if account else "",
            prover=peer,
            verifier=verifier,
            challenge=challenge.value,
            depth=check.depth,
            request=check.request,
            kind=check.kind,
            payload=check.payload,
        )
        present = int(now) // PERIOD
        timely = int(challenge.issued_at) // PERIOD - 1 <= proof.step <= present + 1
        # A step out of range may not be a time. It is replaced, so that it costs the same work.
        step = proof.step if timely else present
        keys = self._unseal(account, unseal)
        matched = [key for key in keys if same(binding.answer(key, step), proof.value)]
        if check.unfit:
            return check.unfit
        if (proof.prover, proof.verifier) != (peer, verifier):
            return "made by or for another"
        if (
            verifier_row is None
            or verifier_row.kind != "agent"
            or not verifier_row.active
            or verifier_row.domain
        ):
            return "verifier unknown or inactive"
        if account is None or peer_row is None:
            return "peer unknown"
        if not peer_row.active:
            return "peer inactive"
        if not timely:
            return "step out of range"
        if not matched:
            return "no possession" if check.kind == "possession" else "wrong proof"
        return "late" if now >= challenge.expires_at else ""

    def audit_refusal(self, verifier: str, peer: str, action: str, reason: str) -> None:
        """Record a refusal that other code decided; see :meth:`Agent.note_refusal`."""
        with self._database.deciding() as connection:
            own = read_accounts(connection, verifier, verifier).get(verifier)
            self._require_acting(verifier, own)
            _require_refusal(peer, action, reason)
            self._core.record(connection, verifier, peer, action, reason, outcome="refused")

    def _peer_name(self, verifier: str, peer: object) -> str:
        if not isinstance(peer, str) or not is_username(peer):
            self._refuse_malformed(
                verifier, str(peer), "username: it must be written exactly as the account is"
            )
        if peer == verifier:
            self._refuse_malformed(verifier, peer, "username: an agent doesn't verify itself")
        return peer

    def _malformed(self, verifier: str, peer: str, message: str) -> NoReturn:
        with self._database.deciding() as connection:
            self._core.record(connection, verifier, peer, "verify", "malformed", outcome="refused")
        raise MalformedCode(message, peer=peer, verifier=verifier)

    def _refuse_malformed(self, verifier: str, peer: str, message: str) -> NoReturn:
        """Refuse a malformed input to an agent. It isn't counted, and few are audited.

        After 20 a minute, further malformed inputs of this agent raise RateLimited. Well-formed
        codes are still verified, so sending nonsense to an agent doesn't stop it from verifying.
        """
        now = self._clock()
        admitted = self.questions.admit(verifier, "verify", now)
        if not admitted.wait:
            self.questions.count(verifier, "verify", now)
        if not admitted.wait or admitted.is_noted:
            reason = "malformed; more of them are not recorded" if admitted.wait else "malformed"
            with self._database.deciding() as connection:
                own = read_accounts(connection, verifier, verifier).get(verifier)
                # A handle without an active account gets the same error, and records nothing.
                with suppress(AccountError):
                    self._require_acting(verifier, own)
                    self._core.record(
                        connection, verifier, peer, "verify", reason, outcome="refused"
                    )
        if admitted.wait:
            raise RateLimited(
                f"too many names, codes and messages that can't be right: wait "
                f"{in_words(admitted.wait)}",
                retry_after=admitted.wait,
                peer=peer,
                verifier=verifier,
            )
        raise MalformedCode(message, peer=peer, verifier=verifier)

    def require_audience(self, username: str, audience: str) -> None:
        """Require that an audience is an active agent here; see :meth:`Agent.totp_code`."""
        now = self._clock()
        rows = self._accounts(username, audience)
        self._require_acting(username, rows.get(username))
        admitted = self.questions.admit(username, _MAKE_CODE, now)
        reason = why_no_audience(rows.get(audience))
        if not admitted.wait and not reason:
            return
        if not admitted.wait:
            self.questions.count(username, _MAKE_CODE, now)
        if not admitted.wait or admitted.is_noted:
            with self._database.deciding() as connection:
                note = "too many questions; more are not recorded" if admitted.wait else reason
                self._core.record(
                    connection, username, audience, _MAKE_CODE, note, outcome="refused"
                )
        if admitted.wait:
            raise RateLimited(
                f"too many questions about agents that aren't here: wait {in_words(admitted.wait)}",
                retry_after=admitted.wait,
            )
        # The same message for every reason, so that it doesn't reveal which accounts exist.
        raise UserNotFound(f"there is no agent {audience!r}: check its name", username=audience)

    def _accounts(self, *names: str) -> dict[str, Any]:
        if len(names) > MAX_NAMES_AT_ONCE:
            with self._database.reading() as connection:
                return read_accounts(connection, *names)
        rows = self._database.fetch(reading_accounts(len(names)), numbered_names(names))
        return {row.username: row for row in rows}

    def _unseal(self, account: Account | None, unseal: Callable[[str, str], bytes]) -> list[bytes]:
        if account is None:
            # A missing account costs the same work as an existing one. A match with this key is
            # refused too, because there is no account.
            self._decoy = self._decoy or self._keyring().seal(token_bytes(32), totp_purpose(""))
            return [unseal(self._decoy, totp_purpose(""))]
        purpose = totp_purpose(account.username)
        tokens = (account.secret, account.previous)
        return [unseal(token, purpose) for token in tokens if token is not None]


def required_relation(relation: object) -> str:
    if type(relation) is not str or (relation and not is_relation(relation)):
        raise ValueError("answer_relation must be the id of a peering, or an empty string")
    return relation


def require_challenge(challenge: object) -> None:
    if type(challenge) is not bytes or len(challenge) != 32:
        raise ValueError("challenge must be the verifier's 32 bytes: the value of its Challenge")


def require_proof(proof: object, challenge: object) -> tuple[Proof, Question]:
    if type(proof) is not Proof or type(challenge) is not Challenge:
        raise TypeError(
            "proof must be a Proof, and challenge the Challenge that this agent made and kept"
        )
    try:
        fields = (proof.prover, proof.verifier, proof.step, proof.value)
    except AttributeError:
        raise TypeError("a Proof must be created by calling its class") from None
    return Proof(*fields), challenge.question()


def _require_refusal(peer: object, action: object, reason: object) -> None:
    if not isinstance(peer, str):
        raise TypeError(f"peer must be text, not {type(peer).__name__}")
    if type(action) is not str or action not in _REFUSABLE_ACTIONS:
        raise ValueError(
            f"action must be one of {', '.join(sorted(_REFUSABLE_ACTIONS))}, not {action!r:.40}"
        )
    if type(reason) is not str or not _REASON.match(reason):
        raise ValueError(
            "reason must be 1 to 64 printable ASCII characters without a space at either end: "
            "say why it was refused"
        )


def _decide(ledger: Ledger, attempt: Attempt) -> Decision:
    """Return the decision of a ledger, which may be the user's own.

    Raises:
        LedgerUnavailable: Its verdict is none of those that there are, so nothing is accepted.
    """
    decision = ledger.decide(attempt)
    verdict = getattr(decision, "verdict", decision)
    if verdict not in get_args(Verdict):
        raise LedgerUnavailable(
            f"nothing is accepted: the ledger returned the verdict {verdict!r:.40}, which must be "
            f"one of {', '.join(get_args(Verdict))}"
        )
    return decision
