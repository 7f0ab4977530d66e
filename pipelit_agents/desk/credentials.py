"""Credentials: store, list masked, test, delete; the shared ones, and the caller's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Annotated, Any, Literal, Self, TypeAlias

from fastapi import APIRouter, Depends, Header, Path, Query, Response
from pydantic import AfterValidator, Field, JsonValue, SecretStr, model_validator

from pipelit_agents._threads import aside
from pipelit_agents.accounts.permissions import Action, may
from pipelit_agents.credentials.rows import CredentialInfo
from pipelit_agents.desk.at_once import AtOnce
from pipelit_agents.desk.callers import Caller, Home, PersonCaller, Sensitive
from pipelit_agents.desk.fields import USERNAME_PATTERN, Answer, Moment, Request, UsernameInQuery
from pipelit_agents.desk.paging import After, Limit, Page
from pipelit_agents.desk.problems import Problem, library_input
from pipelit_agents.desk.routes import DeskRoute, takes_long
from pipelit_agents.errors import (
    AccountError,
    CredentialError,
    CredentialExists,
    CredentialNotAllowed,
    CredentialNotFound,
    UnknownAccountWarning,
)
from pipelit_agents.paging import DEFAULT_LIMIT
from pipelit_agents.pipelit import Pipelit

__all__ = ["Credential", "CredentialPut", "router"]

router: APIRouter = APIRouter(prefix="/credentials", tags=["credentials"], route_class=DeskRoute)

Scope: TypeAlias = Literal["shared", "own"]
# Seconds. A person waits for it, and proxies don't for more than a minute.
_TEST_TIMEOUT = 10.0
# How many tests run at a time: of one person, and of all. Each may wait for a hanging service.
_TESTS = AtOnce(2, in_all=16, what="tests of credentials", retry_after=_TEST_TIMEOUT)
# How many large secrets are stored at a time. Finding out what a document consists of takes a
# processor, and of a short one a millisecond.
STORING = AtOnce(2, in_all=8, what="requests that store large secrets", retry_after=1)
_LARGE_SECRET = 4_096
_MAX_SECRET = 131_072
_MAX_FIELDS = 32
# Characters of JSON: a list shows a hundred of them.
_MAX_PUBLIC = 16_384
_MAX_ALLOWED = 100
_OUT_OF_REACH = (
    "allow: members may name themselves and their own agents, and one of these names is another"
)

ScopeInPath: TypeAlias = Annotated[
    Scope, Path(description="`shared` for a shared credential, `own` for the caller's own one.")
]
NameInPath: TypeAlias = Annotated[
    str,
    Path(
        pattern=USERNAME_PATTERN,
        max_length=149,
        description="The credential's name: 1 to 149 of the characters `a-z 0-9 _ . -`, beginning "
        "with a letter or digit. None of these needs an escape in a URL.",
        examples=["openai"],
    ),
]
OnlyNew: TypeAlias = Annotated[
    Literal["*"] | None,
    Header(description="`*`: store it only if there is none of the name."),
]


def _require_printable(text: str) -> str:
    # Databases refuse some characters, and no kind has them.
    if not text.isprintable():
        raise ValueError("must be printable characters")
    return text


# It is named in warnings, which are logged.
FieldName: TypeAlias = Annotated[
    str, Field(min_length=1, max_length=64), AfterValidator(_require_printable)
]
SecretText: TypeAlias = Annotated[SecretStr, Field(min_length=1, max_length=_MAX_SECRET)]


def _require_short(public: dict[str, JsonValue]) -> dict[str, JsonValue]:
    if len(json.dumps(public, ensure_ascii=False)) > _MAX_PUBLIC:
        raise ValueError(f"must have at most {_MAX_PUBLIC:,} characters as JSON")
    return public


class Credential(Answer):
    """A credential without its secret."""

    scope: Scope = Field(description="`shared`, or `own` for a credential of the caller's own.")
    name: str = Field(description="The credential's name.", examples=["openai"])
    kind: str = Field(description="The use of the credential.", examples=["llm"])
    masked: str = Field(
        description="`…` and the last four characters of the secret, of several each by its name. "
        "Of a secret with fewer than 12 characters, also at the end of a document or a URL, and of "
        "an authenticator, nothing is shown. Where no key decrypts it, these words say so.",
        examples=["…wxyz"],
    )
    public: dict[str, JsonValue] = Field(
        description="The fields that aren't secret.", examples=[{"model": "openai:gpt-5-mini"}]
    )
    readable: bool = Field(
        description="Whether a key decrypts it. If none does, its fields and parts aren't known, "
        "and nobody may open it; it can be replaced and deleted."
    )
    created_by: str = Field(description="The account that stored it first.", examples=["alice"])
    allow: list[str] | None = Field(
        description="The only accounts that may open it; null if any account may."
    )
    created_at: Moment
    updated_at: Moment
    updated_by: str | None = Field(
        description="The account that stored it last; null if that isn't known, as for one that an "
        "earlier version stored.",
        examples=["alice"],
    )
    searched: list[str] = Field(
        description="The parts that are searched for in values that leave a node."
    )
    unsearched: list[str] = Field(
        description="The parts that aren't searched for: too short, too common, or not known to "
        "be secrets."
    )


class CredentialPut(Credential):
    """A credential as it was stored."""

    warnings: list[str] = Field(
        description="Sentences about what may not be as it was meant: secrets that can't be "
        "searched for well, and for operators also names in `allow` that no account has."
    )


class CredentialToStore(Request):
    """A secret to store, or several by name. Pass one of `value` and `fields`."""

    kind: str = Field(
        min_length=1, max_length=64, description="The use of the credential.", examples=["llm"]
    )
    value: SecretText | None = Field(
        None, description="The secret.", examples=["sk-an-example-0123456789"]
    )
    fields: dict[FieldName, SecretText] | None = Field(
        None,
        min_length=1,
        max_length=_MAX_FIELDS,
        description="Several secrets by name.",
    )
    public: (
        Annotated[dict[str, JsonValue], Field(max_length=100), AfterValidator(_require_short)]
        | None
    ) = Field(
        None,
        description="Fields that aren't secret, such as `base_url`, `model` or `test_url`. They "
        "are stored and listed in clear. At most 16,384 characters as JSON.",
    )
    allow: list[UsernameInQuery] | None = Field(
        None,
        min_length=1,
        max_length=_MAX_ALLOWED,
        description="The only accounts that may open it; by default any account may. Members may "
        "name themselves and their own agents.",
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.value is None) == (self.fields is None):
            raise ValueError("pass the secret as value, or several by name as fields")
        return self

    @property
    def secrets(self) -> SecretStr | Mapping[str, SecretStr]:
        """What is to be stored."""
        return self.fields if self.value is None else self.value  # type: ignore[return-value]

    @property
    def is_large(self) -> bool:
        """Whether it takes long to find out what the secrets consist of."""
        secrets = [self.value] if self.fields is None else self.fields.values()
        return sum(len(each) for each in secrets if each is not None) > _LARGE_SECRET


class CredentialTestRequest(Request):
    """How to test a credential."""

    field: str | None = Field(
        None,
        min_length=1,
        max_length=64,
        description="Which of several secrets to test.",
        examples=["password"],
    )
    agent: UsernameInQuery | None = Field(
        None,
        description="The agent that opens it, needed if only certain accounts may. Members may "
        "name their own agents.",
    )


class CredentialTestResult(Answer):
    """What a test found out. It has neither the secret nor what the service answered."""

    name: str = Field(description="The credential, or `credential:field`.", examples=["openai"])
    outcome: Literal["good", "refused", "unanswered", "untested"] = Field(
        description="`good`: its service accepts it. `refused`: its service doesn't. "
        "`unanswered`: the service couldn't be asked, or its answer says nothing about the "
        "credential. `untested`: there is no known way to test it."
    )
    reason: str = Field(description="The reason and the fix.", examples=["the service accepts it"])
    server: str = Field(
        description="The server that was asked; empty if none was.",
        examples=["https://api.openai.com"],
    )
    status: int | None = Field(
        description="The HTTP status of its answer; null if there is no answer."
    )


def _reaching(
    what: Literal["read", "change", "test"],
) -> Callable[[Caller, Scope], Coroutine[Any, Any, Caller]]:
    """Return a dependency that requires a role that may do something to a credential."""

    async def caller(caller: PersonCaller, scope: ScopeInPath) -> Caller:
        action: Action = f"credentials.{scope}.{what}"  # type: ignore[assignment]
        if not may(caller.user, action):
            raise Problem(403, "not-permitted", f"{caller.role}s may not do this: {action}")
        return caller

    return caller


Reader = Annotated[Caller, Depends(_reaching("read"))]
Changer = Annotated[Caller, Depends(_reaching("change"))]
Tester = Annotated[Caller, Depends(_reaching("test"))]


@router.get("", summary="List credentials")
def list_credentials(
    home: Home,
    caller: PersonCaller,
    scope: Annotated[
        Scope,
        Query(description="`shared` for a shared credential, `own` for the caller's own one."),
    ] = "shared",
    kind: Annotated[
        Annotated[str, AfterValidator(_require_printable)] | None,
        Query(min_length=1, max_length=64, description="Only credentials of this kind."),
    ] = None,
    limit: Limit = DEFAULT_LIMIT,
    after: After = None,
) -> Page[Credential]:
    """Return the shared credentials, or the caller's own, masked, in the order of their names."""
    person = _person(caller, scope)
    with library_input("query.after"):
        page = home.credentials.page(
            after=after, limit=limit, kind=kind, person=person, unreadable=True
        )
    return Page[Credential].of(page, _described)


@router.get("/{scope}/{name}", summary="Get a credential")
def get_credential(home: Home, caller: Reader, scope: ScopeInPath, name: NameInPath) -> Credential:
    """Return a credential, masked."""
    return _described(_stored(home, caller, scope, name))


@router.put(
    "/{scope}/{name}",
    summary="Store a credential",
    responses={
        201: {"model": CredentialPut, "description": "It is new."},
        409: {},
        412: {},
    },
)
@takes_long
def put_credential(
    home: Home,
    caller: Changer,
    factor: Sensitive,
    scope: ScopeInPath,
    name: NameInPath,
    body: CredentialToStore,
    response: Response,
    if_none_match: OnlyNew = None,
) -> CredentialPut:
    """Encrypt and store a secret. One of the same name is replaced, with all of its fields.

    With `If-None-Match: *` a credential that is there already isn't replaced: then the answer is
    412, also if another request stores it at the same time.

    The secret is never returned. `unsearched` in the answer names parts of it that may leave a
    node unnoticed.
    """
    if body.allow is not None:
        _require_reachable(home, caller, body.allow)
    is_new = not _exists(home, caller, scope, name)
    if if_none_match and not is_new:
        raise _exists_already(name)
    warned: list[Warning] = []
    with STORING.begin(caller.user.username) if body.is_large else nullcontext():
        factor.confirm()
        with _refusals("body"):
            info = home.credentials.put(
                name,
                body.secrets,
                kind=body.kind,
                created_by=caller.user.username,
                public=body.public,
                allow=body.allow,
                person=_person(caller, scope),
                replace=not if_none_match,
                on_warning=warned.append,
            )
    response.status_code = 201 if is_new else 200
    # Which names there are is for operators.
    told = [
        str(each)
        for each in warned
        if caller.role == "operator" or not isinstance(each, UnknownAccountWarning)
    ]
    return CredentialPut(**_described(info).model_dump(), warnings=told)


@router.delete(
    "/{scope}/{name}",
    status_code=204,
    summary="Delete a credential",
)
def delete_credential(
    home: Home, caller: Changer, factor: Sensitive, scope: ScopeInPath, name: NameInPath
) -> None:
    """Delete a credential. Each attempt to open it fails from then on."""
    if not _exists(home, caller, scope, name):
        raise _no_credential(name)
    factor.confirm()
    with _missing(name):
        home.credentials.delete(name, person=_person(caller, scope), by=caller.user.username)


@router.post(
    "/{scope}/{name}/test",
    summary="Test a credential",
    responses={409: {}},
)
async def try_credential(
    home: Home,
    caller: Tester,
    scope: ScopeInPath,
    name: NameInPath,
    body: CredentialTestRequest | None = None,
) -> CredentialTestResult:
    """Ask the credential's service once whether it accepts it, within ten seconds.

    For members only servers on the public internet are asked, and no database: otherwise a
    credential with another address would show what the desk's machine can reach. Each person can
    run two tests at a time.
    """
    asked = body or CredentialTestRequest()
    who = caller.user.username
    # It waits on a thread of its own and holds none of those that answer requests.
    with _TESTS.begin(who):
        agent = None
        if asked.agent is not None:
            await aside(_require_reachable, home, caller, [asked.agent], "agent", agents=True)
            agent = home.agent(asked.agent)
        await aside(_stored, home, caller, scope, name)
        with _missing(name), _refusals("body"):
            found = await home.credentials.atest(
                name if asked.field is None else f"{name}:{asked.field}",
                agent=agent,
                person=_person(caller, scope),
                timeout=_TEST_TIMEOUT,
                by=who,
                public_only=caller.role != "operator",
            )
    return CredentialTestResult.model_validate(found)


def _person(caller: Caller, scope: Scope) -> str | None:
    return caller.user.username if scope == "own" else None


def _stored(home: Pipelit, caller: Caller, scope: Scope, name: str) -> CredentialInfo:
    with _missing(name):
        # It can be seen, replaced and deleted, also if no key decrypts it.
        return home.credentials.get(name, person=_person(caller, scope), unreadable=True)


def _exists(home: Pipelit, caller: Caller, scope: Scope, name: str) -> bool:
    try:
        home.credentials.get(name, person=_person(caller, scope), unreadable=True)
    except CredentialNotFound:
        return False
    return True


@contextmanager
def _missing(name: str) -> Iterator[None]:
    """Say that there is none in words for those who have no shell."""
    try:
        yield
    except CredentialNotFound as error:
        if error.credential == name and f"{name!r} has no field" in str(error):
            raise Problem(404, "not-found", str(error)) from None
        raise _no_credential(name) from None


def _no_credential(name: str) -> Problem:
    return Problem(404, "not-found", f"there is no credential {name!r} here")


def _exists_already(name: str) -> Problem:
    words = f"there is a credential {name!r} here already: to replace it, leave out If-None-Match"
    return Problem(412, "exists", words)


@contextmanager
def _refusals(field: str) -> Iterator[None]:
    """Answer 422 with the library's words for what can't be a credential."""
    try:
        yield
    except (CredentialNotFound, CredentialNotAllowed):
        raise
    except CredentialExists as error:
        raise _exists_already(error.credential) from None
    except CredentialError as error:
        raise Problem(422, "invalid", str(error), errors=[(field, str(error))]) from None


def _require_reachable(
    home: Pipelit,
    caller: Caller,
    names: Sequence[str],
    argument: str = "allow",
    *,
    agents: bool = False,
) -> None:
    """Require that members name only accounts that they know of, so that nobody learns of others.

    The words are the same for an account that is somebody else's and for none.
    """
    if caller.role == "operator":
        return
    for each in names:
        try:
            account = home.users.get(each)
        except AccountError:
            reached = False
        else:
            reached = may(caller.user, "users.read", account)
            reached = reached and not (agents and account.kind != "agent")
        if not reached:
            words = _OUT_OF_REACH.replace("allow", argument, 1)
            raise Problem(422, "invalid", words, errors=[(f"body.{argument}", words)])


def _described(info: CredentialInfo) -> Credential:
    fields: dict[str, Any] = {
        name: getattr(info, name)
        for name in Credential.model_fields
        if name not in ("scope", "allow", "public", "searched", "unsearched")
    }
    return Credential(
        scope="shared" if info.person is None else "own",
        public=dict(info.public),
        allow=None if info.allow is None else list(info.allow),
        searched=list(info.searched),
        unsearched=list(info.unsearched),
        **fields,
    )
