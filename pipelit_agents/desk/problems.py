"""Errors as problem documents (RFC 9457), in the words of the library."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, Final

from pydantic import BaseModel, Field
from starlette.responses import Response

from pipelit_agents.errors import (
    AccountError,
    ApprovalClosed,
    AuditTampered,
    AuthenticationError,
    CodeUnavailable,
    ConfigurationError,
    CredentialNotAllowed,
    InvalidUsername,
    LastOperator,
    MalformedCode,
    NobodyAuthenticated,
    NotPermitted,
    PayloadError,
    PeerLocked,
    PipelitError,
    RateLimited,
    StorageError,
    UnsealError,
    UserNotFound,
    VerificationError,
)

__all__ = [
    "FieldProblem",
    "Problem",
    "ProblemDocument",
    "library_input",
    "problem_of",
    "response_of",
]

PROBLEM_TYPE: Final = "application/problem+json"
# The same for a missing key, a wrong one, one that was revoked or has expired, and other schemes.
UNAUTHENTICATED: Final = "a valid API key is needed: Authorization: Bearer plit_…"
UNEXPECTED: Final = "the request failed in the server; the server's log says where"
UNAVAILABLE: Final = "the desk can't answer now; an operator finds the reason in the server's log"
# Of a request with a thousand wrong fields, a person reads the first ones.
_MAX_ERRORS: Final = 20
# Characters; the name of an unknown field is the client's.
_MAX_FIELD: Final = 200
_NO_ACCOUNT: Final = re.compile(r"there is no account [^:;]+(?=[:;] )")
_URN: Final = "urn:pipelit-agents:problem:"


class FieldProblem(BaseModel):
    """What is wrong with one field of a request."""

    field: str = Field(description="The field, for example `body.username`.")
    message: str = Field(description="What is wrong with it, without its value.")


class ProblemDocument(BaseModel):
    """An error, as RFC 9457 describes it."""

    type: str = Field(description="`urn:pipelit-agents:problem:` and the kind of the problem.")
    title: str = Field(description="The words of the HTTP status.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What happened and how to fix it. It holds no secret.")
    errors: list[FieldProblem] | None = Field(
        default=None, description="The fields that can't be accepted."
    )
    retry_after: int | None = Field(
        default=None, description="Seconds to wait before another attempt."
    )


class Problem(Exception):
    """An error that the desk answers with.

    Args:
        status: The HTTP status.
        slug: The kind of the problem, the end of its ``type``.
        detail: What happened, and how to fix it. Never a secret.
        errors: Each field that can't be accepted, with a message.
        retry_after: Seconds to wait, if another attempt may succeed then.
        headers: More headers of the answer.
    """

    def __init__(
        self,
        status: int,
        slug: str,
        detail: str,
        *,
        errors: Sequence[tuple[str, str]] = (),
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.slug = slug
        self.detail = detail
        self.errors: tuple[tuple[str, str], ...] = tuple(errors)
        self.retry_after: int | None = (
            None if retry_after is None else max(1, math.ceil(retry_after))
        )
        self.headers: dict[str, str] = dict(headers or {})


def unauthenticated() -> Problem:
    """Return the one problem of every request without a valid key."""
    challenge = {"WWW-Authenticate": "Bearer"}
    return Problem(401, "unauthenticated", UNAUTHENTICATED, headers=challenge)


def not_found(detail: str = "there is nothing here") -> Problem:
    """Return the problem of what isn't there, or isn't the caller's."""
    return Problem(404, "not-found", detail)


def invalid_fields(errors: Sequence[Mapping[str, Any]]) -> Problem:
    """Return the problem of a request whose fields can't be accepted.

    Args:
        errors: What pydantic says of the fields. Their values aren't repeated.
    """
    named = [
        (
            ".".join(map(str, each["loc"]))[:_MAX_FIELD],
            str(each["msg"]).removeprefix("Value error, "),
        )
        for each in errors[:_MAX_ERRORS]
    ]
    return Problem(422, "invalid", "the request has fields that can't be accepted", errors=named)


def problem_of(error: PipelitError, *, to_operator: bool = False) -> Problem:
    """Return the problem for an error of the library.

    Args:
        error: The error.
        to_operator: Whether the caller is an operator, who may read about settings.
    """
    detail = str(error)
    match error:
        case AuthenticationError():
            return unauthenticated()
        case StorageError() | ConfigurationError() | UnsealError():
            return Problem(503, "unavailable", detail if to_operator else UNAVAILABLE)
        case RateLimited(retry_after=seconds) | PeerLocked(retry_after=seconds):
            return Problem(429, "too-many-attempts", detail, retry_after=seconds)
        case CodeUnavailable(retry_after=seconds):
            return Problem(503, "code-unavailable", detail, retry_after=seconds)
        case MalformedCode() | InvalidUsername() | PayloadError():
            return Problem(422, "invalid", detail)
        case VerificationError():
            return Problem(403, "code-rejected", detail)
        case UserNotFound() if found := _NO_ACCOUNT.match(detail):
            # The rest names methods and commands, for those who have a program or a shell.
            return Problem(404, "not-found", f"{found[0]} here")
        case LookupError():
            return Problem(404, "not-found", detail)
        case ApprovalClosed() | AuditTampered() | LastOperator():
            return Problem(409, "conflict", detail)
        case NotPermitted() | NobodyAuthenticated() | CredentialNotAllowed():
            return Problem(403, "not-permitted", detail)
        case AccountError():
            return Problem(409, "conflict", detail)
        case _:
            return unexpected()


def unexpected() -> Problem:
    """Return the problem of an error that nobody expected. It says nothing of the error."""
    return Problem(500, "unexpected", UNEXPECTED)


def response_of(problem: Problem) -> Response:
    """Return the answer for a problem."""
    document: dict[str, object] = {
        "type": f"{_URN}{problem.slug}",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
    }
    headers = dict(problem.headers)
    if problem.errors:
        document["errors"] = [{"field": name, "message": why} for name, why in problem.errors]
    if problem.retry_after is not None:
        document["retry_after"] = problem.retry_after
        headers["Retry-After"] = str(problem.retry_after)
    # Lone surrogates of a request's JSON can't be written in UTF-8, but as ASCII.
    body = json.dumps(document).encode()
    return Response(body, problem.status, headers, media_type=PROBLEM_TYPE)


@contextmanager
def library_input(*fields: str) -> Iterator[None]:
    """Answer 422 if the library refuses an argument with a ``ValueError`` or a ``TypeError``.

    Use it around the one call whose arguments come from the request. Elsewhere these errors are
    faults of the desk, and answered with 500.

    Args:
        *fields: The fields of the request that the call takes, for ``errors``. With several, the
            first one whose last part the message begins with is named, or else none.

    Example:
        ```python
        with library_input("body.expires_at"):
            key = home.users.issue_api_key(username, name=body.name, expires_at=body.expires_at)
        ```
    """
    try:
        yield
    except PipelitError:
        raise
    except (ValueError, TypeError, OverflowError) as error:
        message = str(error)
        named = [each for each in fields if message.startswith(each.rpartition(".")[2])]
        chosen = named[:1] or (list(fields) if len(fields) == 1 else [])
        errors = [(each, message) for each in chosen]
        raise Problem(422, "invalid", message, errors=errors) from None
