"""Commands about questions to people and their answers: ``approvals``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Final, TextIO

import typer

from pipelit_agents._wording import typed_paths
from pipelit_agents._words import quoted, recordable
from pipelit_agents.cli._arguments import AsJson, example
from pipelit_agents.cli.failures import reporting
from pipelit_agents.cli.output import print_wrapped, show
from pipelit_agents.cli.prompts import at_a_terminal, read_code, read_secret
from pipelit_agents.cli.questions import (
    decision_document,
    decision_in_words,
    display,
    document,
    show_all,
    show_pending,
)
from pipelit_agents.cli.tables import show_table
from pipelit_agents.errors import (
    ApprovalClosed,
    ApprovalNotFound,
    CodeRejected,
    ConfigurationError,
    MalformedCode,
    NotPermitted,
)

if TYPE_CHECKING:
    from pipelit_agents import ApprovalDecision, ApprovalRequest, Pipelit

__all__ = ["approvals"]
approvals: typer.Typer = typer.Typer(
    help="List, answer, export and verify the questions to people, and their answers.",
    no_args_is_help=True,
)

Id = Annotated[
    str, typer.Argument(help="The question's id, as `approvals list` shows it.", metavar="ID")
]
User = Annotated[str, typer.Option("--user", help="The person who answers.")]

# The command can't tell whether the program that asked still waits.
_STILL_WAITS: Final = (
    "Each can be answered until its time is over, even if its program has ended.",
    "To end one: pipelit-agents approvals deny ID --user NAME",
)
# Codes that a person can type at the prompt until one is right.
_MAX_CODES: Final = 3
_LIMIT: Final = (
    "Holders of the encryption key could have forged all of this, and nobody else can verify it. "
    "More: approvals verify --help"
)


@approvals.command("list", epilog=example("approvals list --user alice"))
@reporting
def list_questions(
    *,
    user: Annotated[
        str | None, typer.Option("--user", help="Only questions that this person may answer now.")
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Also those that were answered, or have expired.")
    ] = False,
    limit: Annotated[
        int,
        typer.Option(help="The maximum number of questions, with --all.", metavar="NUMBER", min=1),
    ] = 100,
    as_json: AsJson = False,
) -> None:
    """List the questions that wait for an answer, oldest first."""
    from pipelit_agents import Pipelit

    with Pipelit.from_env() as pipelit:
        if user is not None:
            pipelit.users.get(user)  # Requires that there is such an account.
        found = (
            pipelit.approvals.register.list(limit=limit, person=user)
            if every
            else pipelit.approvals.pending(user)
        )
    if as_json:
        show_table([document(each) for each in found], (), as_json=True)
        return
    show_all(found) if every else show_pending(found, user)
    if found:
        typer.echo("For all of one: pipelit-agents approvals show ID")
    if found and not every:
        for line in _STILL_WAITS:
            print_wrapped(line)


@approvals.command("show", epilog=example("approvals show ID"))
@reporting
def show_question(identifier: Id, *, as_json: AsJson = False) -> None:
    """Show the exact question, and each answer with its person, time and factor.

    Characters that could hide something or change the order of reading are escaped. Letters of
    other alphabets and other signs are listed, because they may look like ASCII ones.
    """
    from pipelit_agents import Pipelit

    with Pipelit.from_env() as pipelit:
        question = _question(pipelit, identifier)
    if as_json:
        show("", document(question), as_json=True)
        return
    display(question, err=False)
    if question.state == "pending":
        print_wrapped(f"To answer: pipelit-agents approvals approve {question.id} --user NAME")


@approvals.command("approve", epilog=example("approvals approve ID --user alice"))
@reporting
def approve(identifier: Id, *, user: User, as_json: AsJson = False) -> None:
    """Display the exact question, then approve it with the person's code.

    Enter a code of the person's authenticator app, or a recovery code, at a hidden prompt. Without
    a terminal, the code is read from standard input. At the prompt, a wrong code can be
    corrected twice. The question goes to standard error.
    """
    from pipelit_agents import Pipelit

    with Pipelit.from_env() as pipelit:
        question = _answerable(pipelit, identifier, user, ("pending",))
        decision = _with_code(lambda code: pipelit.approvals.decide(question.id, user, code))
        state = pipelit.approvals.get(question.id).state
    title = "Approved." if state != "pending" else "Approved; others have to approve too."
    _show_decision(title, decision, state, as_json=as_json)


@approvals.command("deny", epilog=example("approvals deny ID --user alice --reason 'too much'"))
@reporting
def deny(
    identifier: Id,
    *,
    user: User,
    reason: Annotated[
        str, typer.Option(help="The reason, for the requester. An agent's model reads it.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Display the exact question, then deny it with the person's code.

    The code is read as `approvals approve` reads it. An approval can be denied until it is used.
    """
    from pipelit_agents import Pipelit

    with Pipelit.from_env() as pipelit:
        states = ("pending", "approved", "suspended")
        question = _answerable(pipelit, identifier, user, states)
        decision = _with_code(
            lambda code: pipelit.approvals.deny(question.id, user, code, reason=reason)
        )
    _show_decision("Denied.", decision, "denied", as_json=as_json)


@approvals.command("export", epilog=example("approvals export register.jsonl"))
@reporting
def export(
    path: Annotated[
        Path | None,
        typer.Argument(
            help="A file that doesn't exist yet; by default standard output.", metavar="FILE"
        ),
    ] = None,
    *,
    with_arguments: Annotated[
        bool,
        typer.Option(
            "--with-arguments",
            help="Also write the displayed values and the reasons of denials, unencrypted.",
        ),
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="With FILE, print one JSON document; the export always is."),
    ] = False,
) -> None:
    """Export the whole register as JSON Lines: questions, answers, uses, audit entries.

    The export has all tags, and its last line is a seal, so that `approvals verify FILE` detects a
    file that was edited or shortened. Also keep the encryption key that is in use at the time of
    the export. Times are Unix seconds. With --with-arguments, export only to a place where
    everybody may read the displayed values.
    """
    from pipelit_agents import Pipelit

    with Pipelit.from_env() as pipelit:
        if path is None:
            pipelit.approvals.register.export(sys.stdout.write, with_arguments=with_arguments)
            return
        with _new_file(path) as file:
            records = pipelit.approvals.register.export(file.write, with_arguments=with_arguments)
    fields = {
        "records": records,
        "file": str(path),
        "next": f"pipelit-agents approvals verify {typed_paths([path])}",
    }
    show("Exported.", fields, as_json=as_json)


@approvals.command("verify", epilog=example("approvals verify register.jsonl"))
@reporting
def verify(
    path: Annotated[
        Path | None,
        typer.Argument(help="An export; by default the register in the database.", metavar="FILE"),
    ] = None,
    *,
    against: Annotated[
        Path | None,
        typer.Option(
            help="An export that you kept. All of it must still be in the database, so that "
            "an older copy of the database is detected."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Verify the register, or an export of it. Exit code 1 means that something is wrong.

    The command verifies every tag. It also verifies that states, answers, uses and the audit agree:
    each use had enough valid approvals of the people who were asked, once, within the time limit.

    The command has limits. The tags are HMACs, so only those who have the encryption key can verify
    them, and all of them could also have forged the whole register. So it doesn't prove anything to
    people who don't trust you. If rows were deleted with entries of the audit that weren't sealed
    yet, or all of the database was replaced by an older copy, only an export that you kept shows it
    (--against). A code shows that the person's app or a recovery code was used, and not that the
    person read the question.
    """
    from pipelit_agents import Pipelit

    if path is not None and against is not None:
        raise ConfigurationError(
            "--against compares an export with the database: leave out either FILE or --against"
        )
    with Pipelit.from_env() as pipelit:
        register = pipelit.approvals.register
        if path is not None:
            with _existing_file("FILE", path) as file:
                report = register.verify(file)
        elif against is not None:
            with _existing_file("--against", against) as file:
                report = register.verify(kept=file)
        else:
            report = register.verify()
    fields: dict[str, object] = {
        "questions": report.questions,
        "answers": report.answers,
        "uses": report.uses,
        "whole": report.whole,
    }
    if as_json:
        show("", fields | {"problems": report.problems, "notes": report.notes}, as_json=True)
    else:
        show("", fields, as_json=False)
        for label, texts in (("PROBLEM", report.problems), ("note", report.notes)):
            for each in texts:
                print_wrapped(f"  {label}: {each}")
        print_wrapped(_LIMIT)
    if not report.whole:
        raise typer.Exit(1)


@contextmanager
def _new_file(path: Path) -> Iterator[TextIO]:
    try:
        # Who approved what is for the operator, not for everybody on this machine.
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise ConfigurationError(
            f"{path}: {error.strerror}; name a file that doesn't exist yet, in a folder that does"
        ) from None
    try:
        with os.fdopen(opened, "w", encoding="utf-8") as file:
            yield file
    except BaseException:
        # A part of an export is worth nothing, and would be in the way of the next one.
        path.unlink(missing_ok=True)
        raise


@contextmanager
def _existing_file(argument: str, path: Path) -> Iterator[BinaryIO]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise ConfigurationError(
            f"{argument} {path}: {error.strerror}; name a file that `approvals export` wrote"
        ) from None
    with file:
        yield file


def _question(pipelit: Pipelit, identifier: str) -> ApprovalRequest:
    try:
        return pipelit.approvals.get(identifier)
    except ApprovalNotFound as error:
        found = str(error).removesuffix(": ask again")
        raise ApprovalNotFound(f"{found}; see: pipelit-agents approvals list") from None


def _answerable(
    pipelit: Pipelit, identifier: str, user: str, states: Sequence[str]
) -> ApprovalRequest:
    """Display a question; fail before the prompt if there is nothing to answer or to type."""
    from pipelit_agents.accounts.second_factor import no_second_factor

    question = _question(pipelit, identifier)
    if question.state not in states:
        raise ApprovalClosed(
            f"the question {question.id} is {question.state}; for who answered it and when: "
            f"pipelit-agents approvals show {question.id}"
        )
    # The library refuses them too, but only after the prompt. The operator may know who is asked.
    asked = dict.fromkeys(name for step in question.steps for name in step.approvers)
    if user not in asked:
        raise NotPermitted(
            f"{quoted(user)} is not an approver here; approvers are {', '.join(asked)}",
            username=recordable(user),
        )
    if not pipelit.mfa.status(user).on:
        raise no_second_factor(user)
    display(question, err=True)
    return question


def _with_code(answer: Callable[[str], ApprovalDecision]) -> ApprovalDecision:
    """Read a code and answer with it; at a terminal, ask again after a wrong one."""
    for _ in range(_MAX_CODES - 1 if at_a_terminal() else 0):
        try:
            return answer(read_code("no code was typed"))
        # The error of a limit on wrong codes is another one, and ends this.
        except (CodeRejected, MalformedCode) as error:
            print_wrapped(f"{error} (to stop, press Ctrl-C)", err=True)
    return answer(read_secret("Code"))


def _show_decision(title: str, decision: ApprovalDecision, state: str, *, as_json: bool) -> None:
    fields: dict[str, object] = {"id": decision.id, "state": state, "digest": decision.digest}
    fields |= decision_document(decision) if as_json else decision_in_words(decision)
    show(title, fields, as_json=as_json)
