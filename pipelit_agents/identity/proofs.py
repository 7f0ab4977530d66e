"""Making and checking codes and proofs: the one module that opens TOTP secrets."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from secrets import token_bytes
from typing import Any, Final, Literal, NamedTuple, NoReturn
from urllib.parse import quote, urlencode

from pydantic import SecretStr
from sqlalchemy import Connection, delete, select, text

from pipelit_agents._bounds import require_seconds
from pipelit_agents._run_context import RunContext, run_context
from pipelit_agents._twins import off_the_loop
from pipelit_agents._wording import bindable, in_words
from pipelit_agents.audit.trail import entry, write
from pipelit_agents.database.engine import Database
from pipelit_agents.database.fast_path import Open, Statement
from pipelit_agents.database.models import SpentRequestRow
from pipelit_agents.display import html_of
from pipelit_agents.errors import (
    AccountError,
    CodeRejected,
    ConfigurationError,
    InvalidUsername,
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
from pipelit_agents.identity.batching import Gathering
from pipelit_agents.ledger.base import Account, Attempt, CodeKind, Ledger, account_at
from pipelit_agents.ledger.questions import QuestionLimit
from pipelit_agents.otp import step_at, totp
from pipelit_agents.protocol.binding import (
    CODE_SUITE,
    PERIOD,
    Binding,
    Challenge,
    Proof,
    Question,
    same,
)
from pipelit_agents.protocol.peering_uri import PeerRelation, is_relation
from pipelit_agents.protocol.usernames import OPERATOR, is_username, require_username
from pipelit_agents.sealing.keyring import Keyring, Sealed

__all__ = [
    "Agent",
    "TotpCode",
    "Verification",
    "Verifier",
    "base32_secret",
    "holds",
    "peering_purpose",
    "provisioning_uri",
    "totp_purpose",
]

ISSUER: Final = "pipelit-agents"
# What the ledger's columns take.
_LONGEST_NAME: Final = 149
PLAIN_DIGITS: Final = 6
AUDIENCE_DIGITS: Final = 8
_CODE_FORMS: Final = {
    "plain": re.compile(r"[0-9]{6}\Z"),
    "audience": re.compile(r"[0-9]{8}\Z"),
}
_READ: Final = (
    "SELECT username, kind, active, totp_secret, totp_previous, totp_previous_until, domain, "
    "relation FROM pipelit_users WHERE username IN "
)
# Neither is ever empty, so that an empty one finds nothing.
_READ_PEERING: Final = Statement(
    "SELECT relation, secret FROM pipelit_peerings "
    "WHERE agent = :agent AND (relation = :relation OR domain = :domain)"
)
_SPEND_REQUEST: Final = text(
    "INSERT INTO pipelit_spent_requests (digest, expires_at) VALUES (:digest, :expires_at) "
    "ON CONFLICT (digest) DO NOTHING"
)

_DEEPEST: Final = 2**31
# What may be refused before there is anything to verify.
_REFUSABLE: Final = frozenset(
    {"verify", "verify.audience", "verify.plain", "verify.proof", "verify.request"}
)
_MAKING: Final = "code.make"
_REASON: Final = re.compile(r"[!-~](?:[ -~]{0,62}[!-~])?\Z")
_LONGEST_KIND: Final = 64
# The year 5138. What is more may be milliseconds, and is looked at more closely.
_NOT_SECONDS: Final = 1e11
# How many names one statement looks up: some databases take 999 parameters.
_NAMES_AT_ONCE: Final = 400
NO_PERSON: Final = "no person"
_NOT_DECIDED: Final[dict[type[Exception], str]] = {
    ConfigurationError: "a setting is unusable",
    UnsealError: "secret doesn't open",
}

ProofRole = Literal["spawn-request", "spawn-result"]


@dataclass(frozen=True, slots=True)
class TotpCode:
    """A short code, for a person or a model to pass on.

    Attributes:
        code: Its digits: 6 of a plain code, 8 of an audience code.
        expires_at: The end of its time step, UTC.
        audience: Who alone may check it; None for a plain code.
        message: The exact text that it is bound to; None where it is bound to none.
    """

    code: str = field(repr=False)
    expires_at: datetime
    audience: str | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class Verification:
    """A peer was verified. There is no such object for a peer that wasn't.

    Attributes:
        peer: Who was verified.
        verifier: Who verified.
        kind: ``audience``, ``plain`` or ``proof``.
        step: The time step of the code or proof.
        verified_at: When, by the ledger's clock, UTC.
        message: The exact text that the peer bound its code to. Where it is None, the code says
            that the peer made it for this verifier, and nothing about what was said with it.
    """

    peer: str
    verifier: str
    kind: str
    step: int
    verified_at: datetime
    message: str | None = None

    def _repr_html_(self) -> str:
        return html_of(self)


def provisioning_uri(username: str, secret: bytes, relation: str = "") -> SecretStr:
    """The ``otpauth://totp/…`` URI of a secret, as authenticator apps read it."""
    fields = {"secret": base32_secret(secret), "issuer": ISSUER}
    query = urlencode(fields | ({"relation": relation} if relation else {}))
    return SecretStr(f"otpauth://totp/{quote(ISSUER)}:{quote(username)}?{query}")


def totp_purpose(username: str) -> str:
    """The place that a TOTP secret is sealed for."""
    return f"user:{username}:totp"


def peering_purpose(relation: str) -> str:
    """The place that the secret of an issued peering is sealed for."""
    return f"peering:{relation}"


def holds(keyring: Keyring, sealed: Iterable[Sealed], secret: bytes) -> bool:
    """Whether one of these sealed secrets is this one; what doesn't open isn't."""
    found = False
    for each in sealed:
        with suppress(UnsealError):
            found |= hmac.compare_digest(keyring.unseal(each.token, each.purpose), secret)
    return found


class _Asked(NamedTuple):
    """A proof that an agent is to make, once its secret is open."""

    agent: str
    verifier: str
    relation: str | None
    answer: Callable[[bytes, str], Proof]


class _Check(NamedTuple):
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
        database: Where the accounts are.
        keyring: Opens their secrets; called when one is needed.
        ledger: Counts attempts and spends codes; called when it is needed.
        clock: Makes codes and stamps proofs, Unix seconds.

    Attributes:
        questions: Bounds the refused questions of each agent.
    """

    def __init__(
        self,
        database: Database,
        keyring: Callable[[], Keyring],
        ledger: Callable[[], Ledger],
        clock: Callable[[], float],
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._ledger = ledger
        self._clock = clock
        self.questions = QuestionLimit()
        self._nobody = ""
        self._proofs = Gathering(self._make_proofs, usable=self._require_reading)
        self._checks = Gathering(self._check_proofs, usable=self._require_deciding)

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
            rows = _accounts_in(connection, username, verifier)
            place = _place_in(connection, rows, username, verifier, relation)
        return self._proving_key(username, rows.get(username), place, self._keyring().unseal)

    def prove(self, asked: _Asked) -> Proof:
        """Makes a proof; see :meth:`Agent.prove`."""
        return self._proofs.ask(asked)

    async def aprove(self, asked: _Asked) -> Proof:
        """As :meth:`prove`, for the event loop."""
        return await self._proofs.aask(asked)

    def _make_proofs(self, asked: Sequence[_Asked]) -> Sequence[Proof | Exception]:
        """Makes the proofs that are wanted at once, each by what the database says now."""
        proofs: list[Proof | Exception] = []
        for each, found in zip(asked, self._open_keys(asked), strict=True):
            try:
                proofs.append(found if isinstance(found, Exception) else each.answer(*found))
            except Exception as error:
                # This one's alone, as in what follows.
                proofs.append(error)
        return proofs

    def _open_keys(self, asked: Sequence[_Asked]) -> Sequence[tuple[bytes, str] | Exception]:
        """What each proof is made by: a secret, and the id of its peering."""
        names = {name for each in asked for name in (each.agent, each.verifier)}
        rows = self._accounts(*names)
        if not any(
            each.relation or _domain_of(rows, each.verifier, each.relation) for each in asked
        ):
            return self._keys_of(asked, rows, lambda _: _OWN)
        # Accounts and peerings of one moment.
        with self._database.reading() as connection:
            rows = _accounts_in(connection, *names)
            return self._keys_of(
                asked,
                rows,
                lambda each: _place_in(connection, rows, each.agent, each.verifier, each.relation),
            )

    def _keys_of(
        self,
        asked: Sequence[_Asked],
        rows: Mapping[str, Any],
        place_of: Callable[[_Asked], _Place],
    ) -> Sequence[tuple[bytes, str] | Exception]:
        unseal = self._unsealing_once()
        found: dict[tuple[str, _Place], tuple[bytes, str]] = {}
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
        self, username: str, row: Any, place: _Place, unseal: Callable[[str, str], bytes]
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
            rows = _accounts_in(connection, username, peer)
            self._require_acting(username, rows.get(username))
            row = rows.get(peer)
            if row is None or not row.domain:
                return None
            issued = _peering_in(connection, username, "", row.domain)
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
            own = _accounts_in(connection, username, username).get(username)
            self._require_acting(username, own)
            connection.execute(delete(SpentRequestRow).where(SpentRequestRow.digest.in_(expired)))
            first = connection.execute(_SPEND_REQUEST, request).rowcount == 1
            if not first:
                write(
                    connection,
                    entry(
                        at=now,
                        actor=username,
                        subject=parent,
                        action="verify.request",
                        outcome="refused",
                        reason="request used before",
                    ),
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
        if kind not in _CODE_FORMS:
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
            raise TypeError(_not_text(code))
        if not isinstance(code, str) or not _CODE_FORMS[kind].match(code):
            digits = PLAIN_DIGITS if kind == "plain" else AUDIENCE_DIGITS
            self._malformed_question(
                verifier,
                name,
                f"code: {'a plain' if kind == 'plain' else 'an audience'} code is exactly "
                f"{digits} digits 0-9, without spaces{_other_kind(code, kind)}",
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
            raise TypeError(_not_text(code))
        if not isinstance(code, str) or not _CODE_FORMS["plain"].match(code):
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
                    steps, _short_codes(key, steps, name, audience, relation, message), strict=True
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
                nobody = name if shared else _nobody(name, own=own)
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
                    self._record_refusal(connection, verifier, name, f"verify.{kind}", reason)
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
        return Verification(name, verifier, kind, decision.step, _utc(decision.at))

    def check_proof(self, check: _Check) -> Verification:
        """Checks a proof and writes down what came out; see :meth:`Agent.verify_proof`."""
        return self._checks.ask(check)

    async def acheck_proof(self, check: _Check) -> Verification:
        """As :meth:`check_proof`, for the event loop."""
        return await self._checks.aask(check)

    def _check_proofs(self, asked: Sequence[_Check]) -> Sequence[Verification | Exception]:
        """Decides them by one state of the accounts, and writes all down before any is told."""
        names = {name for each in asked for name in (each.verifier, each.challenge.prover)}
        unseal = self._unsealing_once()
        answers: list[Verification | Exception] = []
        answer: Verification | Exception
        entries = []
        with self._database.deciding() as connection:
            rows = _accounts_in(connection, *names)
            for each in asked:
                peer = each.challenge.prover
                try:
                    reason = self._reason_against(each, rows, unseal)
                    answer = (
                        ProofRejected(peer=peer, verifier=each.verifier)
                        if reason
                        else Verification(
                            peer, each.verifier, "proof", each.proof.step, _utc(each.now)
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
        self, check: _Check, rows: Mapping[str, Any], unseal: Callable[[str, str], bytes]
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
            own = _accounts_in(connection, verifier, verifier).get(verifier)
            self._require_acting(verifier, own)
            _require_refusal(peer, action, reason)
            self._record_refusal(connection, verifier, peer, action, reason)

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
            self._record_refusal(connection, verifier, peer, "verify", "malformed")
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
                own = _accounts_in(connection, verifier, verifier).get(verifier)
                # A handle of nobody is told, and writes nothing.
                with suppress(AccountError):
                    self._require_acting(verifier, own)
                    self._record_refusal(connection, verifier, peer, "verify", reason)
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
        reason = _why_no_audience(rows.get(audience))
        if not admitted.wait and not reason:
            return
        if not admitted.wait:
            self.questions.count(username, _MAKING, now)
        if not admitted.wait or admitted.is_noted:
            with self._database.deciding() as connection:
                shown = "too many questions; more are not recorded" if admitted.wait else reason
                self._record_refusal(connection, username, audience, _MAKING, shown)
        if admitted.wait:
            raise RateLimited(
                f"too many questions about agents that aren't here: wait {in_words(admitted.wait)}",
                retry_after=admitted.wait,
            )
        # One and the same, so that nobody learns who was here.
        raise UserNotFound(f"there is no agent {audience!r}: check its name", username=audience)

    def _record_refusal(
        self, connection: Open, actor: str, subject: str, action: str, reason: str
    ) -> None:
        write(
            connection,
            entry(
                at=self._clock(),
                actor=actor,
                subject=subject,
                action=action,
                outcome="refused",
                reason=reason,
            ),
        )

    def _accounts(self, *names: str) -> dict[str, Any]:
        if len(names) > _NAMES_AT_ONCE:
            with self._database.reading() as connection:
                return _accounts_in(connection, *names)
        rows = self._database.fetch(_reading(len(names)), _numbered(names))
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


class Agent:
    """The handle by which code acts as one agent user. Who holds it is that agent.

    It opens nothing when it is made; the account is looked up whenever it is needed, so that a
    deactivation or rotation holds at once. Proofs that many threads or tasks make or check at one
    moment share a transaction.

    Args:
        username: The agent user's name.
        verifier: Makes and checks codes and proofs.
        domain: The handle's ``Pipelit``; by it two handles can tell whether they share one.

    Raises:
        InvalidUsername: The name is not in its normal form.
    """

    __slots__ = ("_verifier", "domain", "username")

    def __init__(self, username: str, verifier: Verifier, domain: Any) -> None:
        self.username = require_username(username)
        self._verifier = verifier
        self.domain = domain

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
        (code,) = _short_codes(key, [step], self.username, audience, relation, message)
        return TotpCode(code, _utc((step + 1) * PERIOD), audience, message)

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
                _required_relation(answer_relation),
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
                _required_relation(answer_relation),
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
                _required_relation(answer_relation),
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
                _required_relation(answer_relation),
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
        _require_challenge(challenge)
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
    ) -> _Asked:
        prover = require_username(self.username)
        require_username(verifier, argument="verifier")
        _require_challenge(challenge)
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

        return _Asked(prover, verifier, relation, answer)

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
    ) -> _Check:
        verifier = require_username(self.username)
        # Copies of exact types: what is checked together waits for each, and nothing that was put
        # into one of them may run code there or be what the database doesn't take.
        shown, asked = _exactly(proof, challenge)
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
        return _Check(
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


def _nobody(name: str, *, own: bool) -> str:
    """Return the name under which failures about an account that can't be right are counted.

    No account has such a name, so none is ever locked by it. A person who can be right has one lane
    for who is authenticated as that person and one for all others, so here are two names as well.
    """
    lane = "-" if own else "--"
    if len(lane) + len(name) > _LONGEST_NAME:
        # No name has a "#" in it.
        return f"{lane}#{hashlib.sha256(name.encode()).hexdigest()}"
    return lane + name


@lru_cache(maxsize=64)
def _reading(count: int) -> Statement:
    return Statement(f"{_READ}({', '.join(f':name{number}' for number in range(count))})")


def _accounts_in(connection: Open, *names: str) -> dict[str, Any]:
    found = {}
    for some in _in_parts(names):
        for row in _reading(len(some)).fetch(connection, _numbered(some)):
            found[row.username] = row
    return found


def _in_parts(names: Sequence[str]) -> Iterable[Sequence[str]]:
    return (names[at : at + _NAMES_AT_ONCE] for at in range(0, len(names), _NAMES_AT_ONCE))


def _numbered(names: Sequence[str]) -> dict[str, str]:
    return {f"name{number}": name for number, name in enumerate(names)}


def _domain_of(rows: Mapping[str, Any], verifier: str, relation: str | None) -> str:
    peer = rows.get(verifier)
    return peer.domain if relation is None and peer is not None else ""


class _Place(NamedTuple):
    """Which of an agent's secrets a proof is made by."""

    domain: str
    wanted: str
    issued: Any


_OWN: Final = _Place("", "", None)


def _place_in(
    connection: Connection,
    rows: Mapping[str, Any],
    username: str,
    verifier: str,
    relation: str | None,
) -> _Place:
    domain = _domain_of(rows, verifier, relation)
    wanted = relation or domain
    issued = _peering_in(connection, username, relation or "", domain) if wanted else None
    return _Place(domain, wanted, issued)


def _peering_in(connection: Connection, agent: str, relation: str, domain: str) -> Any:
    if not domain and not is_relation(relation):
        return None
    names = {"agent": agent, "relation": relation, "domain": domain}
    found = _READ_PEERING.fetch(connection, names)
    return found[0] if found else None


def _why_no_audience(row: Any) -> str:
    if row is None:
        return "audience unknown"
    if row.domain:
        return "audience is a peer"
    if row.kind != "agent":
        return "audience is a person"
    return "" if row.active else "audience inactive"


def _short_codes(
    key: bytes,
    steps: Sequence[int],
    prover: str,
    audience: str | None,
    relation: str = "",
    message: str | None = None,
) -> list[str]:
    if audience is None:
        return [totp(key, step * PERIOD, digits=PLAIN_DIGITS) for step in steps]
    binding = Binding(
        role="audience-code",
        suite=CODE_SUITE,
        relation=relation,
        prover=prover,
        verifier=audience,
        kind="" if message is None else "message",
        payload=None if message is None else message.encode(),
    )
    return binding.answers(key, steps)


def _required_relation(relation: object) -> str:
    if type(relation) is not str or (relation and not is_relation(relation)):
        raise ValueError("answer_relation has to be the id of a peering, or an empty string")
    return relation


def _require_challenge(challenge: object) -> None:
    if type(challenge) is not bytes or len(challenge) != 32:
        raise ValueError("challenge has to be the verifier's 32 bytes: the value of its Challenge")


def _exactly(proof: object, challenge: object) -> tuple[Proof, Question]:
    if type(proof) is not Proof or type(challenge) is not Challenge:
        raise TypeError(
            "what is checked is a Proof, against the Challenge that this agent made and kept"
        )
    try:
        fields = (proof.prover, proof.verifier, proof.step, proof.value)
    except AttributeError:
        raise TypeError("a Proof has to be made by calling its class") from None
    return Proof(*fields), challenge.question()


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


def _other_kind(code: object, kind: str) -> str:
    if not isinstance(code, str):
        given = type(code).__name__
        return f" (this is a {given}{': await it' if given == 'coroutine' else ''})"
    if kind == "plain" and _CODE_FORMS["audience"].match(code):
        return "; with 8 digits it is an audience code: leave kind out"
    if kind == "audience" and _CODE_FORMS["plain"].match(code):
        return '; with 6 digits it is a plain code: kind="plain", or make one for an audience'
    return ""


def _not_text(code: TotpCode | SecretStr) -> str:
    mend = ".code" if isinstance(code, TotpCode) else ".get_secret_value()"
    return f"code has to be text, not {type(code).__name__}: give its {mend}"


def base32_secret(key: bytes) -> str:
    """A secret as ``otpauth://`` URIs and authenticator apps write it, without padding."""
    return base64.b32encode(key).decode("ascii").rstrip("=")


def _utc(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)
