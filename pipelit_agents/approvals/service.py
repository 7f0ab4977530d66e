"""Approvals by people, bound to what they were shown; ``pipelit.approvals``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from pipelit_agents._discretion import discreet
from pipelit_agents._twins import off_the_loop
from pipelit_agents.approvals import tags
from pipelit_agents.approvals.arguments import (
    WEEK,
    require_approvers,
    require_lifetime,
    require_seconds,
)
from pipelit_agents.approvals.digest import canonical
from pipelit_agents.approvals.register import OPERATOR, Register, running_thread
from pipelit_agents.approvals.values import ApprovalDecision, ApprovalRequest, Verdict, Vote
from pipelit_agents.errors import (
    AccountError,
    ApprovalNotFound,
    NotPermitted,
    SecondFactorError,
    UserInactive,
)
from pipelit_agents.identity.acting import acting_person
from pipelit_agents.protocol.usernames import require_username

if TYPE_CHECKING:
    from pipelit_agents.identity.evidence import Verification

__all__ = ["Approvals", "People"]

_LONGEST_REASON: Final = 1000


class VerifyCode(Protocol):
    """Verifies a code of a person's second factor."""

    def __call__(self, username: str, code: str, *, own: bool) -> Verification:
        """Verify a code, or raise the error that says why it isn't good."""


class People(NamedTuple):
    """What approvals have to know about people, answered by their accounts.

    Attributes:
        require_active: Raises an AccountError unless this is an active person.
        has_factor: Returns whether the person's second factor is on.
        verify: Verifies a code of the person.
    """

    require_active: Callable[[str], None]
    has_factor: Callable[[str], bool]
    verify: VerifyCode


class Approvals:
    """Questions to people and their answers, in tables of their own; ``pipelit.approvals``.

    Each row has a tag (HMAC-SHA256) under a key derived from ``FIELD_ENCRYPTION_KEY``, so anyone
    who has the database and not the key can't make an approval. An approval is used up by one
    conditional write, once, whatever the clock does. It is void when it has expired, when a named
    approver denies the same thing afterwards, and when the person who gave it is deactivated or
    her second factor ends.

    Args:
        register: Where questions and answers are.
        people: Knows the people and verifies their codes.

    Example:
        ```python
        payment = {"pay": 90, "to": "bob"}
        question = pipelit.approvals.request(payment, approvers=["alice"], expires_in=900)
        pipelit.approvals.decide(question.id, "alice", code)      # alice's code, from her app
        pipelit.approvals.require(approval_digest(payment), approvers=["alice"])
        ...                                                       # pay
        ```
    """

    def __init__(self, register: Register, people: People) -> None:
        self._register = register
        self._people = people

    def request(
        self,
        what: Any,
        *,
        approvers: Sequence[str],
        expires_in: timedelta | float = WEEK,
        asked_by: str = OPERATOR,
        thread: str | None = None,
    ) -> ApprovalRequest:
        """Ask named people whether something may be done. The question is stored.

        Args:
            what: What is to be approved: text, or other JSON. It is stored encrypted; who may
                answer, until when, who asked and the digest are stored in clear.
            approvers: Who may answer; people (``users.create``), at least one of them with a
                second factor. The first who answers decides.
            expires_in: For how long it can be answered and its approval used: seconds or a
                timedelta, a year at most. By default a week.
            asked_by: Who asks: a username, or ``operator`` for your own code.
            thread: The LangGraph thread; by default the one that is running.

        Returns:
            The question. Its id is what the answer is given to.

        Raises:
            TypeError: An argument is of another type, or ``approvers`` is one name.
            ValueError: ``approvers`` is empty, or ``expires_in`` out of its range.
            PayloadError: ``what`` can't be carried as JSON, or is longer than 1 MiB.
            InvalidUsername: A name has another form.
            UserNotFound: An approver has no account.
            NotPermitted: An approver is no person: agents approve nothing.
            SecondFactorError: None of the approvers could answer; the message says why of each.
            ConfigurationError: There is no key.
        """
        names = require_approvers(approvers)
        lifetime = require_lifetime(expires_in)
        require_username(asked_by, argument="asked_by")
        if thread is not None and not isinstance(thread, str):
            raise TypeError("thread has to be text, the id of a LangGraph thread")
        shown = canonical(what)
        self._require_somebody(names)
        where = running_thread() if thread is None else thread
        return self._register.ask(shown, names, lifetime=lifetime, asked_by=asked_by, thread=where)

    arequest = off_the_loop(request)

    @discreet
    def decide(self, id: str, username: str, code: str) -> ApprovalDecision:  # noqa: A002 - its name on the page and in the question
        """Approve, by a person's code.

        Args:
            id: Of the question.
            username: Who approves; one of those who are asked.
            code: Six digits of the person's authenticator app, or a recovery code. It is spent.

        Returns:
            What was decided. It does not permit anything by itself: what acts calls
            :meth:`require`.

        Raises:
            ApprovalNotFound: There is no such question.
            ApprovalClosed: It was answered, or has expired.
            NotPermitted: The person isn't asked there.
            CodeRejected: The code is wrong or spent, or of somebody who can't approve (deactivated,
                without a second factor); which of them is in the audit only.
            VerificationError: As ``mfa.verify``: the limits hold here. Inside
                ``pipelit.acting_for(username)`` a person's attempts are counted apart from those
                of strangers.
            TypeError: The id or the code isn't text.
        """
        return self._answer(id, username, code, "approved", "")

    adecide = off_the_loop(decide)

    def deny(
        self,
        id: str,  # noqa: A002 - as above
        username: str,
        code: str | None = None,
        *,
        reason: str = "",
        unproven: bool = False,
    ) -> ApprovalDecision:
        """Deny, by a person's code, or for a person whom the application has authenticated.

        A denial ends the question, also after it was approved, until the approval is used. It also
        voids every approval of the same digest that wasn't used and that this person could have
        given.

        Args:
            id: Of the question.
            username: Who denies; one of those who are asked.
            code: As for :meth:`decide`. It can be left out inside ``pipelit.acting_for(username)``
                alone: otherwise anybody could stop what others want.
            reason: Why, for whoever asked; at most 1,000 characters, stored encrypted.
            unproven: Take a denial without a code from anybody. It ends this question alone, and
                only while nobody has answered it. It is for code that asked the question and can
                ask it again, as ``approve_with_totp`` does; never where strangers can call it.

        Raises:
            NotPermitted: There is no code, and the code that runs doesn't act for this person; or
                the person isn't asked there.
            ApprovalNotFound: There is no such question.
            ApprovalClosed: It was denied or used, or has expired.
            UserInactive: There is no code, and the person was deactivated.
            VerificationError: As :meth:`decide`.
            ValueError: The reason is too long.
        """
        if not isinstance(reason, str):
            raise TypeError("reason has to be text")
        if len(reason) > _LONGEST_REASON:
            raise ValueError(f"reason must be at most {_LONGEST_REASON:,} characters")
        if any("\ud800" <= character <= "\udfff" for character in reason):
            raise ValueError("reason: text with a lone surrogate can't be stored")
        if code is not None:
            return self._answer(id, username, code, "denied", reason)
        name = require_username(username)
        vouched = acting_person(self._register.database) == name
        if not vouched and not unproven:
            raise NotPermitted(
                f"a denial without a code of {name!r} is taken only from code that acts for this "
                f'person: give the code, or use: with pipelit.acting_for("{name}")',
                username=name,
            )
        self._register.require_open(_identifier(id), name, "denied")
        self._people.require_active(name)
        vote = Vote(name, "denied", "vouched" if vouched else "", reason=reason)
        return self._register.answer(id, vote, only_pending=not vouched)

    adeny = off_the_loop(deny)

    def require(
        self,
        approval: str,
        *,
        approvers: Sequence[str],
        within: timedelta | float = timedelta(hours=1),
    ) -> ApprovalDecision:
        """Make sure that a person approved exactly this, and use the approval up.

        For the step that acts: it asks the database, and not a graph's state, which anyone who may
        resume or update the graph can write. An approval is good once; if the process is killed
        after this has returned, it is used all the same.

        Args:
            approval: The digest of what is about to be done, ``approval_digest(what)``. Or the id
                of a question that your own code has kept: it doesn't say what was approved, so
                never take one from a graph's state or from a caller.
            approvers: Who may have approved it.
            within: How long ago at the most: seconds or a timedelta.

        Returns:
            The approval that was used.

        Raises:
            NotPermitted: There is none: nobody of them approved it, it was used, denied
                afterwards, has expired, the person was deactivated or has another second factor by
                now, or its record wasn't made under a key of ``FIELD_ENCRYPTION_KEY``.
            TypeError: ``approvers`` is one name, or another argument is of another type.
            ValueError: ``approvers`` is empty, or ``within`` is not positive.
            ConfigurationError: There is no key.
        """
        names = require_approvers(approvers)
        if not isinstance(approval, str):
            raise TypeError("give the id of a question, or approval_digest(what), as text")
        seconds = require_seconds("within", within)
        if not tags.is_id(approval) and not tags.is_digest(approval):
            raise NotPermitted(
                "this is neither the id of a question nor a digest, so nobody has approved it: "
                "give approval_digest(what)"
            )
        return self._register.use(approval, names, seconds)

    arequire = off_the_loop(require)

    def pending(self, person: str | None = None) -> Sequence[ApprovalRequest]:
        """Return the questions that can be answered now, oldest first.

        Args:
            person: Only those that this person is asked; by default all.

        Raises:
            InvalidUsername: The name has another form.
            ConfigurationError: There is no key.
        """
        if person is not None:
            require_username(person, argument="person")
        return self._register.pending(person)

    apending = off_the_loop(pending)

    def get(self, id: str) -> ApprovalRequest:  # noqa: A002 - as above
        """Return a question with what was answered.

        Raises:
            ApprovalNotFound: There is none, or its record wasn't made under a key of
                ``FIELD_ENCRYPTION_KEY``.
            UnsealError: What is shown doesn't open, or isn't what was asked.
        """
        return self._register.get(_identifier(id))

    aget = off_the_loop(get)

    def _answer(
        self,
        id: str,  # noqa: A002 - as above
        username: str,
        code: str,
        verdict: Verdict,
        reason: str,
    ) -> ApprovalDecision:
        name = require_username(username)
        # First whether it can be answered: a code that was spent is gone.
        self._register.require_open(_identifier(id), name, verdict)
        own = acting_person(self._register.database) == name
        # The factor that is on before the code is checked has to be the one that is on afterwards.
        factor = self._register.factor(name)
        found = self._people.verify(name, code, own=own)
        return self._register.answer(id, Vote(name, verdict, found.kind, factor, reason))

    def _require_somebody(self, names: Sequence[str]) -> None:
        # Before anybody waits for an approval that can't come.
        problems, able = [], False
        for name in names:
            try:
                self._people.require_active(name)
                able = able or self._people.has_factor(name)
                problems.append(f"{name!r} has no second factor: pipelit-agents mfa enroll {name}")
            except AccountError as error:
                if not isinstance(error, UserInactive):
                    raise
                problems.append(str(error))
        if not able:
            raise SecondFactorError(f"nobody of the approvers can approve: {'; '.join(problems)}")


def _identifier(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("id has to be text, the id of a question")
    if not tags.is_id(value):
        raise ApprovalNotFound(f"there is no question {value!r:.80} here: ask again")
    return value
