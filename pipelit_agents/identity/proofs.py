"""Making and checking codes and proofs: the one module that opens TOTP secrets."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from secrets import token_bytes
from typing import Any, Final, NamedTuple, NoReturn

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
    KeyPlace,
    domain_of,
    key_place,
    numbered_names,
    read_accounts,
    read_peering,
    reading_accounts,
    unknown_account,
    why_no_audience,
)
from pipelit_agents.ledger.attempts import Account, Attempt, CodeKind, account_at
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
# What may be refused before there is anything to verify.
_REFUSABLE: Final = frozenset(
    {"verify", "verify.audience", "verify.plain", "verify.proof", "verify.request"}
)
_MAKING: Final = "code.make"
_REASON: Final = re.compile(r"[!-~](?:[ -~]{0,62}[!-~])?\Z")
# The year 5138. What is more may be milliseconds, and is looked at more closely.
_NOT_SECONDS: Final = 1e11
NO_PERSON: Final = "no person"
_NOT_DECIDED: Final[dict[type[Exception], str]] = {
    ConfigurationError: "a setting is unusable",
    UnsealError: "secret doesn't open",
}


class ProofRequest(NamedTuple):
    """A proof that an agent is to make, once its secret is open."""

    agent: str
    verifier: str
    relation: str | None
    answer: Callable[[bytes, str], Proof]


class ProofCheck(NamedTuple):
    """A proof that is to be checked, by what the database says then."""

    proof: Proof
    challenge: Question
    verifier: str
    role: ProofRole
    request: bytes
    kind: str
    payload: bytes | None
    depth: int | None
    quiet: bool
    # Why the challenge can't be answered at all, or nothing.
    unfit: str
    now: float
    context: RunContext

    @property
    def action(self) -> str:
        return "verify.request" if self.role == "spawn-request" else "verify.proof"


class Verifier:
    """Makes and checks codes and proofs of the agents of one database.

    Args:
        core: The database, the keys that decrypt secrets, the ledger that counts attempts and
            spends codes, and the clock that makes codes.

    Attributes:
        questions: Bounds the refused questions of each agent.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._database = core.database
        self._keyring = core.keyring
        self._ledger = core.ledger
        self._clock = core.clock
        self.questions = QuestionLimit()
        self._nobody = ""
        self._proofs = Batching(self._make_proofs, usable=self._require_reading)
        self._checks = Batching(self._check_proofs, usable=self._require_deciding)

    @property
    def database(self) -> Database:
        """Where the accounts are."""
        return self._database

    def now(self) -> float:
        """The local clock, Unix seconds.

        Raises:
            ConfigurationError: The clock returns something else.
        """
        given = self._clock()
        if type(given) is float and 0.0 <= given < _NOT_SECONDS:
            return given
        try:
            now = float(given)
            step_at(now)
        except (TypeError, ValueError, OverflowError):
            raise ConfigurationError(
                "clock has to return Unix seconds from 1970 to the year 9999, as time.time does, "
                f"and returned a {type(given).__name__} that isn't"
            ) from None
        return now

    def _require_reading(self) -> None:
        with self._database.reading():
            """Nothing is read: whatever fails here isn't in what was asked."""

    def _require_deciding(self) -> None:
        with self._database.deciding():
            """As above."""

    def own_key(self, username: str) -> bytes:
        """The secret of an agent that is about to answer.

        Raises:
            UserNotFound: No account has that name.
            NotLocalAgent: The account is no agent.
            UserInactive: It was deactivated.
            UnsealError: The secret doesn't open under this keyring.
        """
        return self._own_key(username, self._accounts(username, username).get(username))

    def proving_key(
        self, username: str, verifier: str, relation: str | None = None
    ) -> tuple[bytes, str]:
        """The secret by which an agent proves itself to a verifier, and the peering's id.

        Args:
            username: The agent.
            verifier: Who is to check.
            relation: The id of a peering that this agent issued; an empty string for the agent's
                own secret; None to go by what the verifier is here.

        Raises:
            UserNotFound: No account has that name, or the agent issued no such peering.
            NotLocalAgent: The account is no agent.
            UserInactive: It was deactivated.
            UnsealError: The secret doesn't open under this keyring.
        """
        with self._database.reading() as connection:
            rows = read_accounts(connection, username, verifier)
            place = key_place(connection, rows, username, verifier, relation)
        return self._proving_key(username, rows.get(username), place, self._keyring().unseal)

    def prove(self, asked: ProofRequest) -> Proof:
        """Makes a proof; see :meth:`Agent.prove`."""
        return self._proofs.ask(asked)

    async def aprove(self, asked: ProofRequest) -> Proof:
        """As :meth:`prove`, for the event loop."""
        return await self._proofs.aask(asked)

    def _make_proofs(self, asked: Sequence[ProofRequest]) -> Sequence[Proof | Exception]:
        """Makes the proofs that are wanted at once, each by what the database says now."""
        proofs: list[Proof | Exception] = []
        for each, found in zip(asked, self._open_keys(asked), strict=True):
            try:
                proofs.append(found if isinstance(found, Exception) else each.answer(*found))
            except Exception as error:
                # This one's alone, as in what follows.
                proofs.append(error)
        return proofs

    def _open_keys(self, asked: Sequence[ProofRequest]) -> Sequence[tuple[bytes, str] | Exception]:
        """What each proof is made by: a secret, and the id of its peering."""
        names = {name for each in asked for name in (each.agent, each.verifier)}
        rows = self._accounts(*names)
        if not any(
            each.relation or domain_of(rows, each.verifier, each.relation) for each in asked
        ):
            return self._keys_of(asked, rows, lambda _: OWN_SECRET)
        # Accounts and peerings of one moment.
        with self._database.reading() as connection:
            rows = read_accounts(connection, *names)
            return self._keys_of(
                asked,
                rows,
                lambda each: key_place(connection, rows, each.agent, each.verifier, each.relation),
            )

    def _keys_of(
        self,
        asked: Sequence[ProofRequest],
        rows: Mapping[str, Any],
        place_of: Callable[[ProofRequest], KeyPlace],
    ) -> Sequence[tuple[bytes, str] | Exception]:
        unseal = self._unsealing_once()
        found: dict[tuple[str, KeyPlace], tuple[bytes, str]] = {}
        keys: list[tuple[bytes, str] | Exception] = []
        for each in asked:
            try:
                place = place_of(each)
                key = found.get((each.agent, place))
                if key is None:
                    key = self._proving_key(each.agent, rows.get(each.agent), place, unseal)
                    found[each.agent, place] = key
                keys.append(key)
            except Exception as error:
                # This one's alone: the others that were asked with it get their proofs.
                keys.append(error)
        return keys

    def _proving_key(
        self, username: str, row: Any, place: KeyPlace, unseal: Callable[[str, str], bytes]
    ) -> tuple[bytes, str]:
        own = self._own_key(username, row, unseal)
        if not place.wanted:
            return own, ""
        if place.issued is None:
            domain, relation = place.domain, place.wanted
            which = f"to the domain {domain!r}" if domain else f"with the id {relation!r:.40}"
            shown = domain or "…"
            raise UserNotFound(
                f"no peering {which} was issued by {username!r}: issue one with "
                f'users.issue_peering("{username}", domain="{shown}")',
                username=username,
            )
        found = place.issued
        return unseal(found.secret, peering_purpose(found.relation)), found.relation

    def _unsealing_once(self) -> Callable[[str, str], bytes]:
        """Opens secrets for what is served together, each once."""
        keyring, opened = self._keyring(), dict[tuple[str, str], bytes]()

        def unseal(token: str, purpose: str) -> bytes:
            found = opened.get((token, purpose))
            if found is None:
                found = opened[token, purpose] = keyring.unseal(token, purpose)
            return found

        return unseal

    def relation_to(self, username: str, peer: str) -> PeerRelation | None:
        """How an agent and a peer prove themselves to each other; see :meth:`Agent.relation_to`."""
        with self._database.reading() as connection:
            rows = read_accounts(connection, username, peer)
            self._require_acting(username, rows.get(username))
            row = rows.get(peer)
            if row is None or not row.domain:
                return None
            issued = read_peering(connection, username, "", row.domain)
        return PeerRelation(row.domain, row.relation, issued.relation if issued else None)

    def spend_request(self, username: str, parent: str, challenge: bytes, lifetime: float) -> bool:
        """Marks a request as used; see :meth:`Agent.spend_request`."""
        now = self._clock()
        named = f"{username}\0{parent}\0".encode() + challenge
        request = {"digest": hashlib.sha256(named).hexdigest(), "expires_at": now + lifetime}
        # Who else is deleting them has them locked, and needs no help.
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
        """Make sure that a handle is of an agent of this database that may act."""
        if row is None:
            raise UserNotFound(
                f"there is no account {username!r}; make it with users.create_agent or: "
                f"pipelit-agents agents create {username} --owner … --purpose …",
                username=username,
            )
        if row.domain:
            raise NotLocalAgent(
                f"{username!r} is a peer of the domain {row.domain!r}: it is verified here, and "
                "can be acted as there alone",
                username=username,
            )
        if row.kind != "agent":
            raise NotLocalAgent(
                f"{username!r} is a person, and only agents can be acted as (pipelit-agents agents "
                "list)",
                username=username,
            )
        if not row.active:
            raise UserInactive(f"{username!r} was deactivated", username=username)

    def check_code(
        self, verifier: str, peer: object, code: object, kind: str, message: object = None
    ) -> Verification:
        """Checks a short code and spends it; see :meth:`Agent.verify_peer`."""
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
            self._malformed_question(
                verifier,
                name,
                f"code: {'a plain' if kind == 'plain' else 'an audience'} code is exactly "
                f"{digits} digits 0-9, without spaces{other_kind(code, kind)}",
            )
        if message is None:
            return self._check(verifier, name, code, kind)
        try:
            said = bindable(message)
        except ValueError as error:
            # It came with the code, so it is refused as a malformed code is.
            self._malformed_question(verifier, name, str(error))
        return replace(self._check(verifier, name, code, kind, said), message=said)

    def check_person(
        self, username: str, code: object, *, own: bool, unfit: str = "", first: bool = False
    ) -> Verification:
        """Checks a person's plain code and spends it: who shows it is who checks it.

        Args:
            username: Whose it has to be.
            code: Exactly six digits.
            own: Whether somebody asks who is authenticated as this person. Then failures count in
                her own lane, as they do while the running code acts for her; otherwise in the lane
                that all strangers share.
            unfit: Why no code of this account can be right: nobody's, an agent's, deactivated,
                without a second factor. It is refused like a wrong code, by the same statements
                and limits. What is counted for whoever is authenticated, or about an agent, isn't
                counted about this account.
            first: Whether it is the first code of an enrolment, and known to be right.

        Raises:
            VerificationError: As :meth:`Agent.verify_peer`.
        """
        given = self.require_plain_form(username, code)
        return self._check(username, username, given, "plain", own=own, unfit=unfit, first=first)

    def require_plain_form(self, username: str, code: object) -> str:
        """Returns a person's plain code, if it has the form of one.

        Raises:
            MalformedCode: It hasn't; it counts as no attempt.
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
        """Opens the secret of a person's second factor; without one, a decoy at the same cost.

        Raises:
            UnsealError: It doesn't open under this keyring.
        """
        account = None if sealed is None else Account(username, sealed.token, None)
        return self._unseal(account, self._keyring().unseal)[0]

    def _check(
        self,
        verifier: str,
        name: str,
        given: str,
        kind: str,
        message: str | None = None,
        *,
        own: bool = False,
        unfit: str = "",
        first: bool = False,
    ) -> Verification:
        def matches(account: Account | None, steps: range) -> Sequence[int]:
            # Every step under every key is compared, so that the time taken tells nothing.
            audience = None if kind == "plain" else verifier
            relation = account.relation if account else ""
            return [
                step
                for key in self._unseal(account, self._keyring().unseal)
                for step, code in zip(
                    steps, short_codes(key, steps, name, audience, relation, message), strict=True
                )
                if same(code, given)
            ]

        code_kind: CodeKind = "plain" if kind == "plain" else "audience"
        # What an agent asks is no doing of the person's whose run it is in.
        if code_kind == "plain" and not own and verifier == name:
            # Whether it is an active person, the ledger looks up as it decides.
            own = acts_for(self._database, name)
        try:
            attempt = Attempt(verifier, name, code_kind, matches, own, first=first)
            if unfit:
                # Where agents count about the same name, so that nobody learns from a wait there
                # whether it is a person's. An agent has other lanes, which aren't closed by this.
                shared = not own and unfit != NO_PERSON
                nobody = name if shared else unknown_account(name, own=own)
                attempt = Attempt(nobody, nobody, code_kind, matches, own, named=name, unfit=unfit)
            decision = self._ledger().decide(attempt)
        except (ConfigurationError, LedgerUnavailable, UnsealError) as error:
            if isinstance(error, LedgerUnavailable):
                error.peer, error.verifier = name, verifier
            if isinstance(error.__cause__, StorageError):
                # What couldn't be counted can't be written down either, and would wait once more.
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
                f"codes of {name!r} are not checked here for {in_words(wait)}",
                retry_after=wait,
                **who,
            )
        return Verification(name, verifier, kind, decision.step, utc(decision.at))

    def check_proof(self, check: ProofCheck) -> Verification:
        """Checks a proof and writes down what came out; see :meth:`Agent.verify_proof`."""
        return self._checks.ask(check)

    async def acheck_proof(self, check: ProofCheck) -> Verification:
        """As :meth:`check_proof`, for the event loop."""
        return await self._checks.aask(check)

    def _check_proofs(self, asked: Sequence[ProofCheck]) -> Sequence[Verification | Exception]:
        """Decides them by one state of the accounts, and writes all down before any is told."""
        names = {name for each in asked for name in (each.verifier, each.challenge.prover)}
        unseal = self._unsealing_once()
        answers: list[Verification | Exception] = []
        answer: Verification | Exception
        entries = []
        with self._database.deciding() as connection:
            rows = read_accounts(connection, *names)
            for each in asked:
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
                    # This one's alone: the others that were asked with it are decided.
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
        one, other = rows.get(verifier), rows.get(peer)
        account = None if other is None else account_at(now, peer, other)
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
        # A step out of range may be no time at all, and costs the same work as one in it.
        step = proof.step if timely else present
        keys = self._unseal(account, unseal)
        matched = [key for key in keys if same(binding.answer(key, step), proof.value)]
        if check.unfit:
            return check.unfit
        if (proof.prover, proof.verifier) != (peer, verifier):
            return "made by or for another"
        if one is None or one.kind != "agent" or not one.active or one.domain:
            return "verifier unknown or inactive"
        if account is None or other is None:
            return "peer unknown"
        if not other.active:
            return "peer inactive"
        if not timely:
            return "step out of range"
        if not matched:
            return "no possession" if check.kind == "possession" else "wrong proof"
        return "late" if now >= challenge.expires_at else ""

    def audit_refusal(self, verifier: str, peer: str, action: str, reason: str) -> None:
        """Records a refusal that was decided elsewhere; see :meth:`Agent.note_refusal`."""
        with self._database.deciding() as connection:
            own = read_accounts(connection, verifier, verifier).get(verifier)
            self._require_acting(verifier, own)
            _require_refusal(peer, action, reason)
            self._core.record(connection, verifier, peer, action, reason, outcome="refused")

    def _peer_name(self, verifier: str, peer: object) -> str:
        if not isinstance(peer, str) or not is_username(peer):
            self._malformed_question(
                verifier, str(peer), "username: it has to be written exactly as the account is"
            )
        if peer == verifier:
            self._malformed_question(verifier, peer, "username: an agent doesn't verify itself")
        return peer

    def _malformed(self, verifier: str, peer: str, message: str) -> NoReturn:
        with self._database.deciding() as connection:
            self._core.record(connection, verifier, peer, "verify", "malformed", outcome="refused")
        raise MalformedCode(message, peer=peer, verifier=verifier)

    def _malformed_question(self, verifier: str, peer: str, message: str) -> NoReturn:
        """Refuse what an agent asked and can't be right: never counted, and audited within bounds.

        Beyond 20 a minute this agent's malformed questions are refused unseen. What can be right
        is decided all the same: whoever sends an agent nonsense can't keep it from verifying.
        """
        now = self._clock()
        admitted = self.questions.admit(verifier, "verify", now)
        if not admitted.wait:
            self.questions.count(verifier, "verify", now)
        if not admitted.wait or admitted.is_noted:
            reason = "malformed; more of them are not recorded" if admitted.wait else "malformed"
            with self._database.deciding() as connection:
                own = read_accounts(connection, verifier, verifier).get(verifier)
                # A handle of nobody is told, and writes nothing.
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
        """Make sure that an audience is an active agent here; see :meth:`Agent.totp_code`."""
        now = self._clock()
        rows = self._accounts(username, audience)
        self._require_acting(username, rows.get(username))
        admitted = self.questions.admit(username, _MAKING, now)
        reason = why_no_audience(rows.get(audience))
        if not admitted.wait and not reason:
            return
        if not admitted.wait:
            self.questions.count(username, _MAKING, now)
        if not admitted.wait or admitted.is_noted:
            with self._database.deciding() as connection:
                shown = "too many questions; more are not recorded" if admitted.wait else reason
                self._core.record(connection, username, audience, _MAKING, shown, outcome="refused")
        if admitted.wait:
            raise RateLimited(
                f"too many questions about agents that aren't here: wait {in_words(admitted.wait)}",
                retry_after=admitted.wait,
            )
        # One and the same, so that nobody learns who was here.
        raise UserNotFound(f"there is no agent {audience!r}: check its name", username=audience)

    def _accounts(self, *names: str) -> dict[str, Any]:
        if len(names) > MAX_NAMES_AT_ONCE:
            with self._database.reading() as connection:
                return read_accounts(connection, *names)
        rows = self._database.fetch(reading_accounts(len(names)), numbered_names(names))
        return {row.username: row for row in rows}

    def _unseal(self, account: Account | None, unseal: Callable[[str, str], bytes]) -> list[bytes]:
        if account is None:
            # An account that isn't there costs the same work as one that is. What this key would
            # match is refused all the same, because there is no account.
            self._nobody = self._nobody or self._keyring().seal(token_bytes(32), totp_purpose(""))
            return [unseal(self._nobody, totp_purpose(""))]
        purpose = totp_purpose(account.username)
        tokens = (account.secret, account.previous)
        return [unseal(token, purpose) for token in tokens if token is not None]


def required_relation(relation: object) -> str:
    if type(relation) is not str or (relation and not is_relation(relation)):
        raise ValueError("answer_relation has to be the id of a peering, or an empty string")
    return relation


def require_challenge(challenge: object) -> None:
    if type(challenge) is not bytes or len(challenge) != 32:
        raise ValueError("challenge has to be the verifier's 32 bytes: the value of its Challenge")


def require_proof(proof: object, challenge: object) -> tuple[Proof, Question]:
    if type(proof) is not Proof or type(challenge) is not Challenge:
        raise TypeError(
            "what is checked is a Proof, against the Challenge that this agent made and kept"
        )
    try:
        fields = (proof.prover, proof.verifier, proof.step, proof.value)
    except AttributeError:
        raise TypeError("a Proof has to be made by calling its class") from None
    return Proof(*fields), challenge.question()


def _require_refusal(peer: object, action: object, reason: object) -> None:
    if not isinstance(peer, str):
        raise TypeError(f"peer has to be text, not {type(peer).__name__}")
    if type(action) is not str or action not in _REFUSABLE:
        raise ValueError(
            f"action has to be one of {', '.join(sorted(_REFUSABLE))}, not {action!r:.40}"
        )
    if type(reason) is not str or not _REASON.match(reason):
        raise ValueError(
            "reason has to be 1 to 64 printable ASCII characters without a space at either end: "
            "say why it was refused"
        )
