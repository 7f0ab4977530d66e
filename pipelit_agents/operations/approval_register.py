"""The register of approvals: export it, and verify it; ``pipelit.approvals.register``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from sqlalchemy import Connection

from pipelit_agents._bounds import require_count, require_flag
from pipelit_agents._core import Core
from pipelit_agents._twins import off_the_loop
from pipelit_agents.approvals import tags
from pipelit_agents.approvals.moment import Moment
from pipelit_agents.approvals.questions import ours, stored_request
from pipelit_agents.approvals.values import ApprovalRequest
from pipelit_agents.audit.seal_rows import all_seals, is_formed, is_pruned
from pipelit_agents.audit.trail import AuditTrail
from pipelit_agents.database.key_row import check_fitting
from pipelit_agents.display import question_rows
from pipelit_agents.errors import ConfigurationError, UnsealError
from pipelit_agents.operations.approval_pages import page_of_all
from pipelit_agents.operations.register_changes import Kept
from pipelit_agents.operations.register_file import ExportedRegister, Head, write_register
from pipelit_agents.operations.register_rows import newest_questions, read_records
from pipelit_agents.operations.register_rules import RegisterReport, RegisterRules, iso
from pipelit_agents.paging import DEFAULT_LIMIT, Page, require_limit
from pipelit_agents.protocol.usernames import require_username
from pipelit_agents.sealing.keyring import Keyring

__all__ = ["ApprovalRegister"]

_NOT_OURS: Final = (
    "this isn't an export of the register, or its first line was changed: an export begins with a "
    "line of the type pipelit.approvals.register, version 1"
)


class ApprovalRegister:
    """The register of who approved what; ``pipelit.approvals.register``.

    It consists of all questions to people, their answers, the uses of approvals, and what the audit
    has of these. Each question and each answer has a tag (HMAC-SHA256) under a key that is derived
    from ``FIELD_ENCRYPTION_KEY``. So somebody who can write to the database but doesn't have the
    key can't add or change an approval undetected.

    A tag is no signature. Only those who have the key can verify it, and all of them could make it:
    the register proves nothing against the operator who has the key. It says that a code of a
    person's second factor was accepted, not that the person understood what was displayed. The time
    of a use has no tag; the audit has the same time. If rows and their entries of the audit were
    deleted before they were sealed, or the whole database was replaced by an older copy, only
    an export that you kept shows it: see ``kept``.

    Args:
        core: The database, the keys and the clocks.
        audit: The audit trail.

    Example:
        ```python
        with open("register.jsonl", "w", encoding="utf-8") as file:
            pipelit.approvals.register.export(file.write)
        with open("register.jsonl", "rb") as file:
            assert pipelit.approvals.register.verify(file).whole
        ```
    """

    def __init__(self, core: Core, audit: AuditTrail) -> None:
        self._core = core
        self._audit = audit

    def list(self, *, limit: int = 100, person: str | None = None) -> Sequence[ApprovalRequest]:
        """Return the newest questions in any state, oldest first.

        Questions that none of the keys has tagged, or whose displayed value can't be decrypted, are
        left out; ``verify`` names them.

        Args:
            limit: The maximum number of questions.
            person: Return only questions that this person was ever asked.

        Raises:
            TypeError: ``limit`` isn't a whole number.
            ValueError: ``limit`` is less than 1.
            InvalidUsername: The username is malformed.
            ConfigurationError: There is no key, or it isn't this database's.
        """
        require_count(limit, "limit")
        if person is not None:
            require_username(person, argument="person")
        found: list[ApprovalRequest] = []
        with self._core.database.reading() as connection:
            moment = Moment.of(self._core, connection)
            for row in ours(moment, newest_questions(connection, person)):
                if len(found) == limit:
                    break
                if person is None or person in tags.approvers_of(row.approvers):
                    with suppress(UnsealError):
                        found.append(stored_request(moment, row))
        return question_rows(found[::-1])

    alist: Final = off_the_loop(list)  # noqa: A003 - the method is meant

    def page(
        self, *, after: str | None = None, limit: int = DEFAULT_LIMIT
    ) -> Page[ApprovalRequest]:
        """Return one page of the questions in any state, newest first.

        What ``list`` leaves out is left out here too, so a page may be shorter than its limit.

        Args:
            after: The ``next`` of the page before; by default the first page.
            limit: The maximum number of questions, 1 to 1,000.

        Raises:
            ConfigurationError: There is no key, or it isn't this database's.
            TypeError: ``limit`` isn't a whole number.
            ValueError: ``limit`` is out of range, or ``after`` isn't the ``next`` of a page.
        """
        return page_of_all(self._core, after, require_limit(limit))

    apage: Final = off_the_loop(page)

    def export(self, write: Callable[[str], object], *, with_arguments: bool = False) -> int:
        """Export the whole register as JSON Lines, with all tags.

        The last line has the SHA-256 of all others and a tag over it, so that an edited or shorter
        file is detected. Keep the key with it: after a rotation, the older key is needed to verify
        it. Times are Unix seconds.

        Args:
            write: Receives each line, with its line break; for example the ``write`` of a file that
                was opened as UTF-8 text.
            with_arguments: Whether to decrypt what was displayed and the reasons of denials, and
                write them in clear. By default only their digests are written.

        Returns:
            The number of records: questions with their answers and uses, and entries of the audit.

        Raises:
            ConfigurationError: There is no key, or the newest one isn't this database's.
            StorageError: The database can't be reached.
            TypeError: ``with_arguments`` isn't a bool.
        """
        require_flag(with_arguments, "with_arguments")
        with self._reading() as (connection, keyring, head):
            # A seal under another key would be worth nothing to those who have this database's.
            check_fitting(connection, keyring)
            head = head._replace(with_arguments=with_arguments)
            records = read_records(connection, keyring, open_values=with_arguments)
            return write_register(keyring, head, records, write)

    aexport: Final = off_the_loop(export)

    def verify(
        self,
        lines: Iterable[bytes | str] | None = None,
        *,
        kept: Iterable[bytes | str] | None = None,
    ) -> RegisterReport:
        """Verify the register in the database, or one that was exported.

        Every tag is verified, and whether states, answers, uses and their times fit together: an
        approval is used once, in its time, after enough of the people who were asked approved it.
        Each question, answer and use must be in the audit, and each such entry of the audit in the
        register.

        Args:
            lines: An export: its lines, or a file that was opened in binary mode. By default the
                register in the database. Verifying an export reads no database.
            kept: An export of this database that you kept where its users can't write. All that is
                in it must still be in the database, with no earlier state. This detects a database
                that was replaced by an older copy.

        Returns:
            The findings. See ``ApprovalRegister`` for what they can't show.

        Raises:
            ConfigurationError: There is no key, or ``lines`` isn't an export of a register.
            StorageError: The database can't be reached.
            TypeError: Both are given.
        """
        if lines is None:
            return self._verify_database(kept)
        if kept is not None:
            raise TypeError("kept is compared with the database: leave out either lines or kept")
        return self._verify_export(lines)

    averify: Final = off_the_loop(verify)

    def _verify_export(self, lines: Iterable[bytes | str]) -> RegisterReport:
        keyring = self._core.keyring()
        problems: list[str] = []
        exported = ExportedRegister(lines, problems.append)
        if exported.head is None:
            raise ConfigurationError(_NOT_OURS)
        rules = RegisterRules(keyring, exported.head.pruned_until)
        for record in exported.records():
            rules.add(record)
            if rules.has_too_many:
                exported.stop("there are too many problems")
        sealed = exported.problem_of_seal(keyring)
        return rules.report(
            [*_audit(rules, exported.head), *([sealed] if sealed else []), *problems]
        )

    def _verify_database(self, kept: Iterable[bytes | str] | None) -> RegisterReport:
        before = Kept(self._core.keyring())
        if kept is not None:
            before.read(kept)
        with self._reading() as (connection, keyring, head):
            rules = RegisterRules(keyring, head.pruned_until)
            for record in read_records(connection, keyring, open_values=True):
                rules.add(record)
                before.compare(record)
        return rules.report([*_audit(rules, head), *before.problems()])

    @contextmanager
    def _reading(self) -> Iterator[tuple[Connection, Keyring, Head]]:
        keyring = self._core.keyring()
        audit = self._audit.verify()
        with self._core.database.reading() as connection:
            pruned = [
                each.sealed_at
                for each in all_seals(connection)
                if is_formed(each) and each.pruned and is_pruned(keyring, each)
            ]
            now = self._core.shared_now(connection)
            until = float(max(pruned, default=0.0))
            yield (
                connection,
                keyring,
                Head(now, False, until, audit.unsealed, len(audit.problems), keyring.fingerprint()),
            )


def _audit(rules: RegisterRules, head: Head) -> Iterator[str]:
    """Say what is wrong with the audit, and note how much of it isn't sealed."""
    if head.audit_unsealed:
        rules.note(
            f"{head.audit_unsealed} entries of the audit weren't sealed at "
            f"{iso(head.exported_at)}: nobody could tell if they were deleted together with their "
            "rows. Seal them often: pipelit-agents audit seal"
        )
    if head.audit_problems:
        yield (
            "the audit, which the register is compared with, was changed itself "
            f"({head.audit_problems} problems): pipelit-agents audit verify"
        )
