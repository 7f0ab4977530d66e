"""Show questions to people: as tables, as JSON, and exactly as a person must see one."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import typer

from pipelit_agents.cli.output import encodable, moment, print_wrapped, safe
from pipelit_agents.cli.tables import Column, columns_of, show_table
from pipelit_agents.exact import exact_json, exact_line, unpadded, warnings
from pipelit_agents.protocol.usernames import OPERATOR

if TYPE_CHECKING:
    from pipelit_agents import ApprovalDecision, ApprovalRequest

__all__ = [
    "decision_document",
    "decision_in_words",
    "display",
    "document",
    "show_all",
    "show_pending",
]

# Characters of what is asked, in a wide terminal. A narrower one cuts it.
_MAX_WHAT: Final = 40
_PENDING: Final = columns_of(
    Column("id", "id", head=True),
    Column("what", "cut"),
    Column("asked by", "id"),
    Column("thread", "cut"),
    Column("asked", "time"),
    "left",
)
_ALL: Final = columns_of(
    Column("id", "id", head=True), Column("what", "cut"), "state", Column("asked", "time")
)
_NOTHING_WAITS: Final = "No question waits for {}. For all questions: add --all"
# After a crash, somebody has to find out whether these calls took effect.
_NO_RESULT: Final = ", and no result is stored: the tool is running, or its process ended before"
# Characters and lines that a terminal of 80 columns and 24 lines shows together with the facts.
_MAX_SCREEN: Final = 1_000
_MAX_LINES: Final = 12
_FACTORS: Final = {
    "plain": "a code of the authenticator app",
    "recovery": "a recovery code",
    "vouched": "no code; the application acted for the person",
    "": "no code; nobody was authenticated",
}


def show_pending(found: Sequence[ApprovalRequest], person: str | None = None) -> None:
    """Print a table of questions that wait for an answer, of one person or of anybody."""
    now = datetime.now(UTC)
    whose = "an answer" if person is None else f"an answer of {person} now"
    rows = [
        {
            "id": each.id,
            "what": _brief(each),
            "asked by": _asked_by(each),
            "thread": each.thread,
            "asked": each.created_at,
            "left": _left(each.expires_at, now),
        }
        for each in found
    ]
    show_table(rows, _PENDING, as_json=False, empty=_NOTHING_WAITS.format(whose))


def show_all(found: Sequence[ApprovalRequest]) -> None:
    """Print a table of questions in any state."""
    rows = [
        {
            "id": each.id,
            "what": _brief(each),
            "state": "unfinished" if _is_unfinished(each) else each.state,
            "asked": each.created_at,
        }
        for each in found
    ]
    show_table(rows, _ALL, as_json=False, empty="There are no questions.")


def display(question: ApprovalRequest, *, err: bool) -> None:
    """Print exactly what is asked, then the facts and the warnings.

    Args:
        question: The question.
        err: Print it on standard error, as a part of a prompt.
    """
    stream = sys.stderr if err else sys.stdout
    exact = exact_json(question.shown)
    shown = "only its digest is known" if question.shown is None else exact
    # Last what must be read: a long value scrolls away.
    for line in (shown, *_facts_and_answers(question, exact)):
        typer.echo(encodable(line, getattr(stream, "encoding", None)), err=err)
    for line in _warnings(question, exact):
        print_wrapped(line, err=err)


def _facts_and_answers(question: ApprovalRequest, exact: str) -> Iterator[str]:
    for name, value in _facts(question, exact).items():
        # A thread's id is the caller's, and could draw another fact on the next line.
        yield unpadded(safe(f"  {name}: {value}"))
    for step in question.steps:
        needed = "one of them" if step.at_least == 1 else f"{step.at_least} of them"
        yield safe(
            f"  asked from {moment(step.begins_at)} until {moment(step.until)}: "
            f"{', '.join(step.approvers)} ({needed})"
        )
    for each in question.decisions:
        reason = f", because {exact_json(each.reason)}" if each.reason else ""
        line = f"  {each.decision} by {each.actor} at {moment(each.at)}, with "
        yield unpadded(safe(f"{line}{_FACTORS.get(each.factor, each.factor)}{reason}"))


def _warnings(question: ApprovalRequest, exact: str) -> Iterator[str]:
    if _is_long(exact):
        yield (
            "  WARNING: the beginning may have scrolled away: read all of it with: pipelit-agents "
            f"approvals show {question.id} | less"
        )
    for sentence in warnings(question.shown):
        yield f"  WARNING: {sentence}"


def _facts(question: ApprovalRequest, exact: str) -> Mapping[str, str]:
    return {
        "id": question.id,
        **({"length of the text above": _length(exact)} if _is_long(exact) else {}),
        "digest": question.digest,
        "state": question.state + (_NO_RESULT if _is_unfinished(question) else ""),
        **({} if question.used_at is None else {"used at": moment(question.used_at)}),
        "asked by": _asked_by(question),
        "agent": question.agent or "none",
        "thread": question.thread or "none",
        "asked at": moment(question.created_at),
        "expires at": moment(question.expires_at),
    }


def _asked_by(question: ApprovalRequest) -> str:
    # "operator" is also a role of people. No command asks, so this was code without an account.
    return "the application" if question.asked_by == OPERATOR else question.asked_by


def _is_long(exact: str) -> bool:
    return len(exact) > _MAX_SCREEN or exact.count("\n") >= _MAX_LINES


def _length(exact: str) -> str:
    return f"{len(exact):,} characters in {exact.count(chr(10)) + 1:,} lines"


def document(question: ApprovalRequest) -> dict[str, object]:
    """Return a question for JSON."""
    return {
        "id": question.id,
        "state": question.state,
        "digest": question.digest,
        "tool": question.tool,
        "shown": question.shown,
        "warnings": warnings(question.shown),
        "asked_by": question.asked_by,
        "agent": question.agent,
        "thread": question.thread,
        "approvers": list(question.approvers),
        "at_least": question.at_least,
        "steps": [
            {
                "approvers": list(each.approvers),
                "at_least": each.at_least,
                "begins_at": moment(each.begins_at),
                "until": moment(each.until),
            }
            for each in question.steps
        ],
        "created_at": moment(question.created_at),
        "expires_at": moment(question.expires_at),
        "used_at": None if question.used_at is None else moment(question.used_at),
        "has_result": question.has_result,
        "decisions": [decision_document(each) for each in question.decisions],
    }


def decision_document(decision: ApprovalDecision) -> dict[str, object]:
    """Return an answer for JSON."""
    return {
        "actor": decision.actor,
        "decision": decision.decision,
        "factor": decision.factor,
        "proven": decision.proven,
        "at": moment(decision.at),
        "reason": decision.reason,
    }


def decision_in_words(decision: ApprovalDecision) -> dict[str, object]:
    """Return an answer for a person."""
    return {
        "answered by": decision.actor,
        "with": _FACTORS.get(decision.factor, decision.factor),
        "at": moment(decision.at),
        **({"reason": decision.reason} if decision.reason else {}),
    }


def _is_unfinished(question: ApprovalRequest) -> bool:
    return bool(question.tool) and question.state == "used" and not question.has_result


def _brief(question: ApprovalRequest) -> str:
    shown = question.shown
    if question.tool:
        return _text(question.tool)
    if shown is None:
        return _cut(question.digest, _MAX_WHAT)
    return _text(shown) if isinstance(shown, str) else exact_line(shown, _MAX_WHAT)


def _text(text: str) -> str:
    # One character more than fits, so that it is seen that more follow.
    return _cut(exact_json(text[: _MAX_WHAT + 1])[1:-1], _MAX_WHAT)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _left(until: datetime, now: datetime) -> str:
    """Return the time until a question expires, in its largest units: ``2d``, ``3h``, ``14m``."""
    seconds = max(0, int((until - now).total_seconds()))
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"
