"""Ask people, take their answers and use approvals up: the base class of ``Approvals``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from pipelit_agents._bounds import require_count, require_flag, require_span
from pipelit_agents._core import Core
from pipelit_agents._discretion import discreet
from pipelit_agents._twins import off_the_loop
from pipelit_agents._words import quoted, recordable
from pipelit_agents.approvals import answers, questions, rules, usage
from pipelit_agents.approvals.approvers import current_factor
from pipelit_agents.approvals.arguments import WEEK, require_approvers, require_lifetime
from pipelit_agents.approvals.calls import CallApprovals
from pipelit_agents.approvals.digest import canonical
from pipelit_agents.approvals.moment import Moment
from pipelit_agents.approvals.people import People
from pipelit_agents.approvals.rules import Approvers, is_person, steps_for
from pipelit_agents.approvals.tags import Step, is_digest, is_id
from pipelit_agents.approvals.values import ApprovalDecision, ApprovalRequest, Verdict, Vote
from pipelit_agents.errors import ApprovalNotFound, NotPermitted
from pipelit_agents.identity.acting import acting_person
from pipelit_agents.protocol.usernames import OPERATOR, require_username

__all__ = ["ApprovalService"]

_MAX_REASON: Final = 1000


class ApprovalService:
    """The base class of ``Approvals``: what decides.

    Args:
        core: The database, the keys that tag rows and encrypt displayed values, and the clock that
            all processes share.
        people: Looks up people and verifies their codes.

    Attributes:
        calls: The approvals of tool calls; for code that runs tools.
    """

    def __init__(self, core: Core, people: People) -> None:
        self._core = core
        self._people = people
        self.calls: CallApprovals = CallApprovals(core, people)

    def request(
        self,
        what: object,
        *,
        approvers: Sequence[str] | Approvers,
        expires_in: timedelta | float = WEEK,
        asked_by: str = OPERATOR,
        thread: str | None = None,
    ) -> ApprovalRequest:
        """Ask named people whether something may be done. The question is stored.

        Args:
            what: The value to be approved: text or other JSON. It is stored encrypted. The
                approvers, the expiry, the requester and the digest are stored in clear.
            approvers: The people (``users.create``) who may answer; at least one of them needs a
                second factor. The first answer decides. Or a rule, ``Approvers(…)``, which can need
                several approvals, and has its own ``expires_in``.
            expires_in: The time in which the question can be answered and its approval used:
                seconds or a timedelta, a year at most. By default a week.
            asked_by: The requester: a username, or ``operator`` for your own code. Where a rule
                leaves out the requester, the default is the person for whom the code acts.
            thread: The LangGraph thread; by default the running one.

        Returns:
            The question. Its id identifies it in ``decide`` and ``deny``.

        Raises:
            TypeError: An argument is of another type, or ``approvers`` is one name.
            ValueError: ``approvers`` is empty, ``expires_in`` is out of range or beside a rule, or
                the rule has ``show`` or ``when``, which are for tool calls.
            PayloadError: ``what`` can't be represented as JSON, or is longer than 1 MiB.
            InvalidUsername: A name is malformed.
            UserNotFound: An approver has no account.
            NotPermitted: An approver isn't a person: agents can't approve. Or the rule leaves out
                the requester, and no person is known or too few others remain.
            SecondFactorError: Too few of the approvers could answer; the message has each reason.
            ConfigurationError: There is no key.
        """
        steps: Sequence[Step] = ()
        if not isinstance(approvers, Approvers):
            names, lifetime = require_approvers(approvers), require_lifetime(expires_in)
            steps = [Step(names, 1, 0.0, lifetime)]
        elif expires_in is not WEEK:
            raise ValueError("the rule has its own expires_in: Approvers(…, expires_in=…)")
        require_username(asked_by, argument="asked_by")
        if thread is not None and not isinstance(thread, str):
            raise TypeError("thread must be text, the id of a LangGraph thread")
        shown = canonical(what)
        if isinstance(approvers, Approvers):
            asked_by, steps = self._steps(approvers, asked_by)
        # Checked here, so that nobody waits for an approval that can't be given.
        self._people.require_possible([(step.people, step.at_least) for step in steps])
        with self._core.database.writing(durable=True) as connection:
            row = questions.add_question(
                Moment.of(self._core, connection),
                steps,
                ruled=isinstance(approvers, Approvers),
                asked_by=asked_by,
                thread=questions.running_thread() if thread is None else thread,
                shown=shown,
            )
        return questions.new_request(row, shown)

    arequest: Final = off_the_loop(request)

    @discreet
    def decide(self, id: str, username: str, code: str) -> ApprovalDecision:  # noqa: A002 - its name on the page and in the question
        """Approve, by a person's code.

        Args:
            id: The question's id.
            username: The person who approves; one of the approvers.
            code: Six digits of the person's authenticator app, or a recovery code. It is spent.

        Returns:
            The decision. It doesn't permit anything by itself: the code that acts has to call
            ``require``. If a rule needs several approvals, the question stays pending until
            enough people have approved.

        Raises:
            ApprovalNotFound: There is no such question.
            ApprovalClosed: It was answered, or has expired.
            NotPermitted: The person isn't one of the approvers, isn't asked now, or has approved
                already. No code was spent.
            CodeRejected: The code is wrong or spent, or the person can't approve (deactivated, or
                without a second factor). Only the audit has the reason.
            VerificationError: As ``mfa.verify``, with the same limits. Inside
                ``pipelit.acting_for(username)`` the person's attempts are counted apart from those
                of strangers.
            TypeError: The id or the code isn't text.
        """
        return self._answer(id, username, code, "approved")

    adecide: Final = off_the_loop(decide)

    @discreet
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

        A denial ends the question. It can follow an approval until the approval is used. It also
        voids every unused approval of the same digest that this person could have given; not those
        of tool calls, of which each is a question of its own.

        Args:
            id: The question's id.
            username: The person who denies; one of the approvers.
            code: As for ``decide``. It can be left out only inside
                ``pipelit.acting_for(username)``. Otherwise anybody could stop what others want.
            reason: The reason, for the requester; at most 1,000 characters, stored encrypted.
            unproven: Accept a denial without a code from anybody. It ends only this question, and
                only before it is answered. This is for code that asked the question and can ask it
                again, such as ``approve_with_totp``; never for code that strangers can call.

        Raises:
            NotPermitted: There is no code, and the running code doesn't act for this person. Or
                the person isn't one of the approvers, or isn't asked now.
            ApprovalNotFound: There is no such question.
            ApprovalClosed: It was denied or used, or has expired.
            UserInactive: There is no code, and the person was deactivated.
            VerificationError: As ``decide``.
            TypeError: ``reason`` isn't text, or ``unproven`` isn't a bool.
            ValueError: The reason is too long.
        """
        if not isinstance(reason, str):
            raise TypeError("reason must be text")
        if len(reason) > _MAX_REASON:
            raise ValueError(f"reason must be at most {_MAX_REASON:,} characters")
        if any("\ud800" <= character <= "\udfff" for character in reason):
            raise ValueError("reason: text with a lone surrogate can't be stored")
        require_flag(unproven, "unproven")
        if code is not None:
            return self._answer(id, username, code, "denied", reason)
        name = require_username(username)
        vouched = acting_person(self._core.database) == name
        if not vouched and not unproven:
            raise NotPermitted(
                f"a denial without a code of {quoted(name)} is accepted only from code that acts "
                "for this person: pass the code, or use: with pipelit.acting_for(username)",
                username=recordable(name),
            )
        answers.require_open(self._core, _identifier(id), name, "denied")
        self._people.require_active(name)
        vote = Vote(name, "denied", "vouched" if vouched else "", reason=reason)
        return answers.answer(self._core, id, vote, only_pending=not vouched)

    adeny: Final = off_the_loop(deny)

    def require(
        self,
        approval: str,
        *,
        approvers: Sequence[str],
        within: timedelta | float = timedelta(hours=1),
        at_least: int = 1,
    ) -> ApprovalDecision:
        """Require that people approved exactly this, and use up the approval.

        Call it in the step that acts. It reads the database, not a graph's state: anyone who may
        resume or update the graph can write the state. An approval can be used once. If the process
        is killed after this call has returned, the approval stays used.

        Args:
            approval: The digest of the action, ``approval_digest(what)``. Or the id of a question
                that your own code has stored. An id doesn't identify what was approved, so never
                accept one from a graph's state or from a caller.
            approvers: The people whose approval is accepted.
            within: The maximum age of the approval: seconds or a timedelta.
            at_least: How many of them must have approved. More than one can approve only a question
                whose rule needs several approvals. If the rule needs more, the rule counts.

        Returns:
            The approval that was used; of several, the last one that was needed.

        Raises:
            NotPermitted: There is no valid approval. None of the approvers approved it, it was
                used, was denied afterwards or has expired, the person was deactivated or has
                another second factor, or its record wasn't made with a key of
                ``FIELD_ENCRYPTION_KEY``.
            TypeError: ``approvers`` is one name, or another argument is of another type.
            ValueError: ``approvers`` is empty, or ``within`` or ``at_least`` is not positive.
            ConfigurationError: There is no key.
        """
        names = require_approvers(approvers)
        require_count(at_least, "at_least")
        if not isinstance(approval, str):
            raise TypeError("approval must be text: approval_digest(what), or a question's id")
        seconds = require_span(within, "within")
        if not is_id(approval) and not is_digest(approval):
            raise NotPermitted(
                "this is neither the id of a question nor a digest, so nobody has approved it: "
                "pass approval_digest(what)"
            )
        return usage.use(self._core, approval, names, seconds, at_least)

    arequire: Final = off_the_loop(require)

    def get(self, id: str) -> ApprovalRequest:  # noqa: A002 - as above
        """Return a question with its answers.

        Raises:
            ApprovalNotFound: There is none, or its record wasn't made with a key of
                ``FIELD_ENCRYPTION_KEY``.
            UnsealError: The displayed value can't be decrypted, or belongs to another question.
        """
        return questions.get(self._core, _identifier(id))

    aget: Final = off_the_loop(get)

    def _answer(
        self, identifier: object, username: str, code: str, verdict: Verdict, reason: str = ""
    ) -> ApprovalDecision:
        name = require_username(username)
        question = _identifier(identifier)
        # Checked before the code is verified, because that spends the code.
        answers.require_open(self._core, question, name, verdict)
        own = acting_person(self._core.database) == name
        # The same factor must be on before and after the code is verified.
        factor = current_factor(self._core, name)
        found = self._people.verify(name, code, own=own)
        vote = Vote(name, verdict, found.kind, factor, reason)
        return answers.answer(self._core, question, vote)

    def _steps(self, rule: Approvers, asked_by: str) -> tuple[str, Sequence[Step]]:
        if rule.show is not None or rule.when is not None:
            raise ValueError("the rule's show and when are for tool calls: pass what is displayed")
        leaves_out = any(each.not_requester for each in rule.chain())
        with self._core.database.reading() as connection:
            if asked_by == OPERATOR and leaves_out:
                asked_by = rules.acting_person(self._core.database, connection) or OPERATOR
            person = asked_by if is_person(connection, asked_by) else None
        return asked_by, steps_for(rule, person)


def _identifier(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("id must be text, the id of a question")
    if not is_id(value):
        raise ApprovalNotFound(
            f"there is no question {quoted(value)} here: an id is apr_ and 32 hexadecimal digits"
        )
    return value
