"""The audit trail: its entries with filters, an export, the chain's head, and verification."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Final, Literal, TypeAlias

from fastapi import APIRouter, Depends, Query
from fastapi.responses import StreamingResponse
from pydantic import AfterValidator, Field, StringConstraints
from starlette.types import Receive, Scope, Send

from pipelit_agents._threads import aside
from pipelit_agents.audit.records import AuditEntry
from pipelit_agents.audit.seals import AuditHead
from pipelit_agents.desk.at_once import AtOnce
from pipelit_agents.desk.callers import Caller, Ended, Home, permitted, require_current
from pipelit_agents.desk.fields import Answer, Moment, Request
from pipelit_agents.desk.paging import After, Limit, Page
from pipelit_agents.desk.problems import Problem, library_input
from pipelit_agents.desk.routes import DeskRoute, takes_long
from pipelit_agents.paging import DEFAULT_LIMIT
from pipelit_agents.paging import Page as LibraryPage
from pipelit_agents.pipelit import Pipelit

__all__ = ["Entry", "router"]

router: APIRouter = APIRouter(prefix="/audit", tags=["audit"], route_class=DeskRoute)

# Entries that an export has in memory at a time.
BATCH: Final = 500
EXPORTS: Final = AtOnce(4, in_all=4, what="exports", retry_after=30)
# One at a time, because it reads the whole trail.
_VERIFYING: Final = AtOnce(1, in_all=1, what="verifications of the audit", retry_after=5)
_MAX_HEADS: Final = 100
_MAX_LISTED: Final = 100
_NDJSON: Final = "application/x-ndjson"

AuditReader = Annotated[Caller, Depends(permitted("audit.read"))]
AuditVerifier = Annotated[Caller, Depends(permitted("audit.verify"))]
# What is recorded is printable ASCII.
Name: TypeAlias = Annotated[
    str, StringConstraints(min_length=1, max_length=149, pattern=r"^[ -~]+$")
]


def _require_zone(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("must have a time zone, for example 2027-01-31T12:00:00Z")
    try:
        moment.timestamp()
    except (OverflowError, ValueError):
        raise ValueError("must be a time between the years 1 and 9999") from None
    return moment


class Entry(Answer):
    """One decision."""

    id: int = Field(description="The entry's number; later entries have higher numbers.")
    at: Moment
    actor: str = Field(
        description="The account that requested the action; `operator` for code in the process "
        "and for the shell.",
        examples=["alice"],
    )
    subject: str = Field(description="The account or credential that the entry is about.")
    action: str = Field(description="The action.", examples=["verify.audience"])
    outcome: str = Field(description="`ok` or `refused`.", examples=["ok"])
    reason: str = Field(
        description="The true reason, even if the caller received a less specific one."
    )
    run: str = Field(description="The LangGraph run, or empty.")
    node: str = Field(description="The LangGraph node, or empty.")
    thread: str = Field(description="The LangGraph thread, or empty.")
    person: str = Field(
        description="The person for whom a credential was opened or whose own it is, or empty."
    )


class Filters:
    """Which entries are listed; a dependency."""

    def __init__(
        self,
        subject: Annotated[
            Name | None, Query(description="Only entries about this account or credential.")
        ] = None,
        actor: Annotated[Name | None, Query(description="Only requests of this account.")] = None,
        action: Annotated[
            str | None,
            Query(
                min_length=1,
                max_length=32,
                pattern=r"^[ -~]+$",
                description="Only this action, or a group of actions that ends with a dot, such "
                "as `verify.`",
            ),
        ] = None,
        outcome: Annotated[
            Literal["ok", "refused"] | None, Query(description="Only this outcome.")
        ] = None,
        person: Annotated[
            Name | None, Query(description="Only entries about this person's credentials.")
        ] = None,
        since: Annotated[
            Annotated[datetime, AfterValidator(_require_zone)] | None,
            Query(
                description="Only entries from this time on: RFC 3339, with a time zone.",
                examples=["2027-01-31T12:00:00Z"],
            ),
        ] = None,
    ) -> None:
        self._where: dict[str, Any] = {
            "subject": subject,
            "actor": actor,
            "action": action,
            "outcome": outcome,
            "person": person,
            "since": since,
        }

    @property
    def names(self) -> list[str]:
        """The names of the filters that are on."""
        return [name for name, value in self._where.items() if value is not None]

    def page(
        self, home: Pipelit, after: str | None, limit: int, *, oldest_first: bool = False
    ) -> LibraryPage[AuditEntry]:
        """Return a page of the entries."""
        with library_input("query.after"):
            return home.audit.page(
                after=after, limit=limit, oldest_first=oldest_first, **self._where
            )


Filtered = Annotated[Filters, Depends()]


class Head(Answer):
    """The chain head, the newest seal. Keep it where the database's users can't write."""

    number: int = Field(description="The seal's number, from 1; 0 if nothing is sealed.")
    last_id: int = Field(description="The last entry that the seal covers.")
    digest: str = Field(description="Over all entries up to this one.", examples=["0" * 64])
    at: str = Field(
        description="The time of sealing, ISO 8601 in UTC.", examples=["2027-01-31T12:00:00+00:00"]
    )


class KeptHead(Request):
    """A chain head that was kept, as `GET /audit/head` returned it."""

    number: int = Field(ge=0, le=2**31 - 1, description="The number of its seal.")
    last_id: int = Field(ge=-(2**63), le=2**63 - 1, description="The last entry that it covers.")
    digest: str = Field(max_length=64, description="Its digest.", examples=["0" * 64])
    at: str = Field(
        max_length=64,
        description="The time of its seal.",
        examples=["2027-01-31T12:00:00+00:00"],
    )


class Verify(Request):
    """What the trail is compared with."""

    heads: list[KeptHead] = Field(
        [],
        max_length=_MAX_HEADS,
        description="Heads that you kept. Without one, a deletion of the newest seals with their "
        "entries isn't detected.",
    )


class Report(Answer):
    """What a verification of the trail found."""

    whole: bool = Field(description="Whether there is no sign of a change.")
    sealed: int = Field(description="Entries under valid seals.")
    unsealed: int = Field(description="Entries that aren't sealed yet, and so aren't protected.")
    pruned: int = Field(description="Entries that were deleted by a process with the key.")
    doubtful: int = Field(description="Entries under seals that aren't valid.")
    outside: int = Field(description="Entries with numbers that were never assigned.")
    problems: list[str] = Field(
        description="The signs of changes, each with its position; at most 100."
    )
    notes: list[str] = Field(
        description="Unusual findings that aren't a sign of a change; at most 100."
    )
    unlisted: int = Field(description="The number of further problems and notes.")


@router.get("", summary="List entries")
def list_entries(
    home: Home,
    caller: AuditReader,
    filters: Filtered,
    limit: Limit = DEFAULT_LIMIT,
    after: After = None,
) -> Page[Entry]:
    """Return entries, the newest first.

    A page looks at a bounded number of entries, so with filters it may have few items, or none,
    although others follow: go on while `next` isn't null.
    """
    page = filters.page(home, after, limit)
    return Page[Entry].of(page, Entry.model_validate)


@router.get(
    "/export",
    summary="Export entries",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "One entry a line, as JSON, the oldest first. An answer that ends "
            "without an error is complete.",
            "content": {_NDJSON: {"schema": {"type": "string"}}},
        },
    },
)
async def export_entries(home: Home, caller: AuditReader, filters: Filtered) -> StreamingResponse:
    """Return all entries, in batches, from one transaction each.

    The audit records the account that received them. Entries that are written meanwhile are at
    the end. Entries of transactions that are still open aren't included. If the caller's key or
    role ends, the response is cut off.
    """
    return _Export(home, caller, filters)


class _Export(StreamingResponse):
    """An export; a bounded number of them runs at a time."""

    def __init__(self, home: Pipelit, caller: Caller, filters: Filters) -> None:
        headers = {"Content-Disposition": 'attachment; filename="audit.ndjson"'}
        super().__init__((), media_type=_NDJSON, headers=headers)
        self._home = home
        self._caller = caller
        self._filters = filters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, or refuse it before it begins."""
        home, caller, filters = self._home, self._caller, self._filters
        with EXPORTS.begin():
            await home.audit.arecord_export(by=caller.user.username, filters=filters.names)
            # What can't be read is an error, and not a document that ends early.
            first = await aside(partial(filters.page, home, None, BATCH, oldest_first=True))
            self.body_iterator = _lines(home, caller, filters, first)
            await super().__call__(scope, receive, send)


async def _lines(
    home: Pipelit, caller: Caller, filters: Filters, page: LibraryPage[AuditEntry]
) -> AsyncIterator[bytes]:
    # No transaction is open between two batches, and the server asks for the next one only when
    # the client has taken this one. If the client goes, it asks for none.
    while True:
        yield b"".join(_line(each) for each in page)
        if page.next is None:
            return
        page = await aside(_next, home, caller, filters, page.next)


def _next(home: Pipelit, caller: Caller, filters: Filters, after: str) -> LibraryPage[AuditEntry]:
    # A client may take hours for all of it.
    try:
        require_current(home, caller)
    except Problem:
        raise Ended from None
    return filters.page(home, after, BATCH, oldest_first=True)


def _line(entry: AuditEntry) -> bytes:
    return Entry.model_validate(entry).model_dump_json().encode() + b"\n"


@router.get("/head", summary="Get the chain head", responses={409: {}})
def get_head(home: Home, caller: AuditReader) -> Head:
    """Return the newest seal, to keep it elsewhere."""
    return Head.model_validate(home.audit.head())


@router.post("/verify", summary="Verify the trail")
@takes_long
def verify_trail(home: Home, caller: AuditVerifier, body: Verify | None = None) -> Report:
    """Verify the whole trail against its seals. One verification runs at a time in a process.

    It reads every entry: seconds for a million. Longer trails are verified in a shell, with
    `pipelit-agents audit verify`.
    """
    heads = [AuditHead(**each.model_dump()) for each in (body or Verify()).heads]
    with _VERIFYING.begin():
        found = home.audit.verify(heads)
    return Report(
        whole=not found.problems,
        sealed=found.sealed,
        unsealed=found.unsealed,
        pruned=found.pruned,
        doubtful=found.doubtful,
        outside=found.outside,
        problems=_cut(found.problems),
        notes=_cut(found.notes),
        unlisted=sum(max(0, len(each) - _MAX_LISTED) for each in (found.problems, found.notes)),
    )


def _cut(texts: Sequence[str]) -> list[str]:
    return list(texts[:_MAX_LISTED])
