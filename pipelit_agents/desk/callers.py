"""Who calls: the account of an API key, its role, and the second factor for what is sensitive.

Every endpoint names one of ``AnyCaller``, ``PersonCaller``, ``OperatorCaller`` and
``AgentCaller`` first, and then ``Sensitive`` if it needs it. A sensitive endpoint calls
``factor.confirm()`` after it has found what the request is about, immediately before it acts: so a
code isn't spent on a request that can't succeed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from fastapi import Depends, Header, Request, Security
from fastapi.openapi.models import HTTPBearer
from fastapi.security.base import SecurityBase
from pydantic import SecretStr

from pipelit_agents.accounts.models import User
from pipelit_agents.accounts.permissions import ACTIONS, Action, may
from pipelit_agents.desk.problems import Problem, unauthenticated
from pipelit_agents.errors import AuthenticationError
from pipelit_agents.pipelit import Pipelit

__all__ = [
    "AgentCaller",
    "AnyCaller",
    "ApiKeyUsed",
    "Caller",
    "Ended",
    "Home",
    "OperatorCaller",
    "PersonCaller",
    "SecondFactor",
    "Sensitive",
    "SetUp",
    "Visit",
    "permitted",
    "require_current",
    "visit_of",
]

CODE_HEADER: Final = "Pipelit-Code"
# Where the desk keeps what it knows of a request, in the request's ASGI scope.
_VISIT: Final = "pipelit_agents.desk.visit"
_NEEDS_CODE: Final = f"this needs a code of your second factor: send it in the header {CODE_HEADER}"


@dataclass(frozen=True, slots=True)
class ApiKeyUsed:
    """The API key of a request.

    Attributes:
        id: Its public id, as in ``users.list_api_keys``.
    """

    id: str


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, as the database says at this request.

    Attributes:
        user: The account; it is active.
        key: The API key that was used.
    """

    user: User
    key: ApiKeyUsed

    @property
    def role(self) -> Literal["operator", "member", "agent"]:
        """``operator`` or ``member`` of people, and ``agent``."""
        return "agent" if self.user.kind != "human" else self.user.role or "member"


@dataclass(slots=True)
class Visit:
    """What the desk knows of one request.

    Attributes:
        home: The accounts that the desk serves.
        is_ready: Whether this desk can answer.
        caller: Who calls; None without a valid key.
        is_keyed: Whether its path is one that needs a key.
        sets_up: Whether the request has the set-up token instead of a key.
        body_problem: What is wrong with the body, if it isn't JSON that can be read.
    """

    home: Pipelit
    is_ready: Callable[[], Coroutine[Any, Any, bool]]
    caller: Caller | None = None
    is_keyed: bool = False
    sets_up: bool = False
    body_problem: Problem | None = None

    @property
    def by_operator(self) -> bool:
        """Whether an operator calls."""
        return self.caller is not None and self.caller.role == "operator"


class Ended(Exception):
    """The caller's key or role has ended while an answer is being sent."""


def require_current(home: Pipelit, caller: Caller) -> None:
    """Require that a caller's key is still valid, and that the account is as it was.

    Time has passed since the key was verified: a body arrived, a thread or the database was busy,
    or a part of a long answer was sent. It waits for the database.

    Raises:
        Problem: The key has ended, or the account was changed meanwhile.
    """
    try:
        now = home.users.holder_of_key(caller.key.id)
    except AuthenticationError:
        raise unauthenticated() from None
    if now != caller.user:
        raise Problem(403, "not-permitted", "your account was changed meanwhile: send this again")


def note_visit(scope: Any, visit: Visit) -> None:
    """Keep in a request's scope what the desk knows of it."""
    scope[_VISIT] = visit


def visit_of(request: Request) -> Visit:
    """Return what the desk knows of a request."""
    visit = request.scope.get(_VISIT)
    if not isinstance(visit, Visit):
        # The guards of `make_app` didn't see the request, so nobody is authenticated.
        raise unauthenticated()
    return visit


class _ApiKey(SecurityBase):
    """The dependency that returns who calls, an account of any role.

    The guards have authenticated the request. As a security scheme, it and the roles that an
    endpoint requires are in the API's description.
    """

    scheme_name = "api_key"
    model: HTTPBearer = HTTPBearer(
        description="An API key, `Authorization: Bearer plit_…`. The roles beside it are those "
        "that may call the endpoint."
    )

    async def __call__(self, request: Request) -> Caller:
        """Return who calls."""
        caller = visit_of(request).caller
        if caller is None:
            raise unauthenticated()
        if caller.user.kind == "peer":
            raise Problem(403, "not-permitted", "this is for people and agents of this database")
        return caller


any_caller: _ApiKey = _ApiKey()


def permitted(action: Action) -> Callable[[Caller], Coroutine[Any, Any, Caller]]:
    """Return a dependency that requires a role that may do something to somebody.

    To whom is the endpoint's question, which it asks with ``home.permissions.require``.

    Args:
        action: A row of the table of permissions, of which this asks the caller's column.

    Example:
        ```python
        AuditReader = Annotated[Caller, Depends(permitted("audit.read"))]
        ```
    """
    named = [role for role, reach in ACTIONS[action]._asdict().items() if reach != "none"]
    asked = Security(any_caller, scopes=named)

    async def caller(caller: Caller = asked) -> Caller:
        if not may(caller.user, action):
            raise Problem(403, "not-permitted", f"{caller.role}s may not do this: {action}")
        return caller

    return caller


def only(*roles: str) -> Callable[[Caller], Coroutine[Any, Any, Caller]]:
    """Return a dependency that requires one of some roles."""
    named = " and ".join(f"{each}s" for each in roles)
    asked = Security(any_caller, scopes=roles)

    async def caller(caller: Caller = asked) -> Caller:
        if caller.role not in roles:
            detail = f"this is for {named}, and your role is {caller.role}"
            raise Problem(403, "not-permitted", detail)
        return caller

    return caller


async def _set_up(request: Request) -> None:
    visit = visit_of(request)
    if not visit.sets_up:
        # Also for an API key.
        raise unauthenticated()


async def _home(request: Request) -> Pipelit:
    return visit_of(request).home


Home = Annotated[Pipelit, Depends(_home)]
AnyCaller = Annotated[Caller, Depends(any_caller)]
PersonCaller = Annotated[Caller, Depends(only("operator", "member"))]
OperatorCaller = Annotated[Caller, Depends(only("operator"))]
AgentCaller = Annotated[Caller, Depends(only("agent"))]
# A request with the set-up token, while there is no active operator.
SetUp = Annotated[None, Depends(_set_up)]


class SecondFactor:
    """The second factor of the person who calls.

    Args:
        home: The accounts.
        caller: Who calls.
        code: The header ``Pipelit-Code``.
    """

    def __init__(self, home: Pipelit, caller: Caller, code: SecretStr | None) -> None:
        self._home = home
        self._caller = caller
        self._code = code
        self.confirmed: bool = False

    def not_needed(self) -> None:
        """Say that this request isn't sensitive, as when people revoke their own API keys."""
        self.confirmed = True

    def confirm(self) -> None:
        """Require a code if the person has a second factor, and spend it.

        It waits for the database, so call it in a plain ``def`` endpoint, once, after everything
        that may refuse the request.

        Raises:
            Problem: The person has a second factor, and sent no code; or the person's key has
                ended since the request arrived.
            PipelitError: The code isn't accepted, as ``mfa.verify`` says.
        """
        person = self._caller.user.username
        if self._home.mfa.status(person).on:
            if self._code is None:
                raise Problem(403, "second-factor-required", _NEEDS_CODE)
            # The person's API key is verified, so failures count in the person's own lane.
            with self._home.acting_for(person):
                self._home.mfa.verify(person, self._code.get_secret_value())
        # All of this may have waited, and whoever revokes a stolen key believes it ended.
        require_current(self._home, self._caller)
        self.confirmed = True


async def _person(caller: AnyCaller) -> Caller:
    # `PersonCaller` would add its roles to those of the endpoint in the API's description.
    if caller.role == "agent":
        raise Problem(403, "not-permitted", "this is for people, and your role is agent")
    return caller


async def _second_factor(
    home: Home,
    caller: Annotated[Caller, Depends(_person)],
    code: Annotated[
        SecretStr | None,
        Header(
            alias=CODE_HEADER,
            max_length=64,
            description="A code of the caller's second factor, or a recovery code. It is needed "
            "if the second factor is on, and is spent by this request.",
        ),
    ] = None,
) -> AsyncIterator[SecondFactor]:
    factor = SecondFactor(home, caller, code)
    yield factor
    if not factor.confirmed:
        # An endpoint that forgets it would let everybody act who has only the key.
        raise RuntimeError("a sensitive endpoint didn't call confirm()")


# The scope: what follows the yield runs before the answer is sent.
Sensitive = Annotated[SecondFactor, Depends(_second_factor, scope="function")]
