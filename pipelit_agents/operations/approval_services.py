"""``Approvals``: the decisions of `approvals/`, with lists, notices and the register."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pipelit_agents._bounds import require_count
from pipelit_agents._core import Core
from pipelit_agents._twins import off_the_loop
from pipelit_agents.approvals.people import People
from pipelit_agents.approvals.service import ApprovalService
from pipelit_agents.approvals.values import ApprovalRequest
from pipelit_agents.audit.trail import AuditTrail
from pipelit_agents.credentials.store import Credentials
from pipelit_agents.display import question_rows
from pipelit_agents.operations.approval_notices import ApprovalNotices
from pipelit_agents.operations.approval_pages import count_of_person, page_of_person
from pipelit_agents.operations.approval_register import ApprovalRegister
from pipelit_agents.operations.open_questions import pending
from pipelit_agents.paging import DEFAULT_LIMIT, MAX_LIMIT, Page, require_limit
from pipelit_agents.protocol.usernames import require_username

__all__ = ["Approvals"]


class Approvals(ApprovalService):
    """Questions to people and their answers; ``pipelit.approvals``.

    Each row has a tag (HMAC-SHA256) with a key derived from ``FIELD_ENCRYPTION_KEY``, so access to
    the database without the key isn't enough to make an approval. One conditional write uses up an
    approval, so it is used once, whatever the clock does. An approval is void when it has expired,
    when a named approver later denies the same value, and when the person who gave it is
    deactivated or ends the second factor.

    Args:
        core: The database, the keys that tag rows and encrypt displayed values, and the clock that
            all processes share.
        people: Looks up people and verifies their codes.
        credentials: Has the signing secrets of webhooks.
        audit: Has the entries with which the register is compared.

    Attributes:
        calls: The approvals of tool calls; for code that runs tools.
        notices: Notifies people that a question waits for them.
        register: Exports who approved what, and verifies it.

    Example:
        ```python
        payment = {"pay": 90, "to": "bob"}
        question = pipelit.approvals.request(payment, approvers=["alice"], expires_in=900)
        pipelit.approvals.decide(question.id, "alice", code)      # alice's code, from her app
        pipelit.approvals.require(approval_digest(payment), approvers=["alice"])
        ...                                                       # pay
        ```
    """

    def __init__(
        self, core: Core, people: People, credentials: Credentials, audit: AuditTrail
    ) -> None:
        super().__init__(core, people)
        self.register: ApprovalRegister = ApprovalRegister(core, audit)
        self.notices: ApprovalNotices = ApprovalNotices(core, self, credentials)

    def pending(self, person: str | None = None) -> Sequence[ApprovalRequest]:
        """Return the questions that can be answered now, oldest first.

        Args:
            person: Return only questions that this person may answer now, and hasn't approved; by
                default all.

        Raises:
            InvalidUsername: The username is malformed.
            ConfigurationError: There is no key, or it isn't this database's.
        """
        if person is not None:
            require_username(person, argument="person")
        return question_rows(pending(self._core, person))

    apending: Final = off_the_loop(pending)

    def page(
        self, person: str, *, after: str | None = None, limit: int = DEFAULT_LIMIT
    ) -> Page[ApprovalRequest]:
        """Return one page of the questions that a person may answer now, and hasn't approved.

        Those that expire soonest come first.

        Args:
            person: The person.
            after: The ``next`` of the page before; by default the first page.
            limit: The maximum number of questions, 1 to 1,000.

        Raises:
            InvalidUsername: The username is malformed.
            ConfigurationError: There is no key, or it isn't this database's.
            TypeError: ``limit`` isn't a whole number.
            ValueError: ``limit`` is out of range, or ``after`` isn't the ``next`` of a page.
        """
        require_limit(limit)
        name = require_username(person, argument="person")
        return page_of_person(self._core, name, after, limit)

    apage: Final = off_the_loop(page)

    def count_pending(self, person: str, *, most: int = 100) -> int:
        """Count the questions that a person may answer now, and hasn't approved.

        Args:
            person: The person.
            most: Where to stop counting, 1 to 1,000.

        Raises:
            InvalidUsername: The username is malformed.
            ConfigurationError: There is no key, or it isn't this database's.
            TypeError: ``most`` isn't a whole number.
            ValueError: ``most`` is out of range.
        """
        name = require_username(person, argument="person")
        return count_of_person(self._core, name, require_count(most, "most", most=MAX_LIMIT))

    acount_pending: Final = off_the_loop(count_pending)
