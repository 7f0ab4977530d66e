"""Fill the header of an HTTP request with a credential, for as long as the request takes.

`Credentials.http_auth` makes the object. httpx, httpx2, MCP clients and the clients of model
providers take it as ``auth``.
"""

from __future__ import annotations

import base64
import importlib
import re
import sys
import traceback
from collections.abc import (
    AsyncGenerator,
    Callable,
    Generator,
    Mapping,
    MutableMapping,
    Sequence,
)
from contextlib import suppress
from functools import cache
from typing import Any, Final, NoReturn, Protocol

import httpx

from pipelit_agents._discretion import discreet
from pipelit_agents._threads import aside
from pipelit_agents.credentials.choice import Fallback, Rule, rule
from pipelit_agents.credentials.leak_guard.patterns import MASK
from pipelit_agents.credentials.origins import Origin, origin_in, origin_of
from pipelit_agents.credentials.rules import require_reference
from pipelit_agents.credentials.scope import Scope
from pipelit_agents.credentials.secret import Secret
from pipelit_agents.errors import CredentialError
from pipelit_agents.identity.agent import Agent, require_handle

__all__ = ["HttpAuth", "http_auth"]

_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_SCHEME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]*")
_UNAUTHORIZED: Final = 401
# Any: a request of httpx or of httpx2, which have the same attributes.
_Request = Any


class Opener(Protocol):
    """What `HttpAuth` asks of ``pipelit.credentials``."""

    def open_in(
        self,
        scope: Scope,
        name: str,
        *,
        agent: Agent | None,
        per_person: bool,
        fallback: Fallback,
        wait: bool,
    ) -> tuple[Mapping[str, Secret], Mapping[str, Any]]:
        """Open the secrets of a credential, and return them with its public fields."""
        ...

    def note_refusal(self, reference: str, agent: Agent | None, reason: str) -> None:
        """Record that a server may not receive it."""


class HttpAuth(httpx.Auth):
    """Send a credential in the header of each request to certain servers.

    Each request opens the credential again, and closes it when the response's header has arrived.
    Then the request shows a mask. After a 401 the credential is opened once more, and the request
    is repeated if it has changed.

    Args:
        credentials: ``pipelit.credentials``.
        reference: The credential, or ``credential:field``.
        agent: The agent that opens it.
        which: The shared one, or the own one of the person for whom each request is sent.
        origins: The servers that may receive it; None for the credential's ``base_url``.
        header: The header's name.
        scheme: What precedes the secret.
    """

    def __init__(
        self,
        credentials: Opener,
        reference: str,
        *,
        agent: Agent | None,
        which: Rule,
        origins: Sequence[Origin] | None,
        header: str,
        scheme: str,
    ) -> None:
        self._credentials = credentials
        self._reference = reference
        self._name = reference.partition(":")[0]
        self._agent = agent
        self._which = which
        self._origins = origins
        self._header = header
        self._scheme = scheme

    def sync_auth_flow(self, request: _Request) -> Generator[Any, Any, None]:
        """Fill the header; httpx calls this for each request."""
        use = _Use(self, request)
        try:
            use.fill(_tracing)
            use.settle()
            response = yield request
            use.responses.append(response)
            if use.may_repeat(response) and use.fill(_tracing):
                use.responses.append((yield request))
        except GeneratorExit as closed:
            # httpx closes this generator while an error is on its way to the caller.
            use.mask_in(closed.__context__)
            raise
        finally:
            use.close()

    def async_auth_flow(self, request: _Request) -> AsyncGenerator[Any, Any]:
        """As ``sync_auth_flow``; the credential is opened off the event loop."""
        use = _Use(self, request)
        return _Flow(self._async_flow(use, request), use)

    async def _async_flow(self, use: _Use, request: _Request) -> AsyncGenerator[Any, Any]:
        try:
            await aside(use.fill, _atracing)
            await use.asettle()
            response = yield request
            use.responses.append(response)
            if use.may_repeat(response) and await aside(use.fill, _atracing):
                use.responses.append((yield request))
        finally:
            use.close()

    @discreet
    def value(self, scope: Scope, origin: Origin) -> str:
        """Return the header's value for a request to an origin.

        Raises:
            CredentialError: The credential is missing, not allowed for this agent, or not for this
                origin, or it can't be sent in a header.
        """
        if self._origins is not None:
            self._require_origin(origin, self._origins)
        secrets, public = self._credentials.open_in(
            scope, self._reference, agent=self._agent, wait=False, **self._which.arguments
        )
        if self._origins is None:
            self._require_origin(origin, [self._own_origin(public)])
        wanted = "password" if self._scheme == "Basic" and "password" in secrets else None
        if not secrets or (wanted is None and len(secrets) > 1):
            raise CredentialError(
                f"{self._reference!r} is not one secret: name the field to send, for example "
                f"http_auth('{self._name}:{next(iter(secrets), 'token')}')",
                credential=self._name,
            )
        secret = secrets[wanted or next(iter(secrets))].get_secret_value()
        if self._scheme == "Basic":
            user = self._user(secrets, public)
            secret = base64.b64encode(f"{user}:{secret}".encode()).decode()
        _require_sendable(self._name, secret)
        return f"{self._scheme} {secret}" if self._scheme else secret

    def _user(self, secrets: Mapping[str, Secret], public: Mapping[str, Any]) -> str:
        """Return the username for Basic, which may be a public field or a secret one."""
        user = secrets.get("username", public.get("username"))
        if isinstance(user, Secret):
            return user.get_secret_value()
        if isinstance(user, str):
            return user
        if ":" in self._reference:
            # A reference with a field opens that field alone.
            raise CredentialError(
                f'Basic needs username and password: pass http_auth("{self._name}", '
                'scheme="Basic"), without a field',
                credential=self._name,
            )
        raise CredentialError(
            f"credential {self._name!r} has no field 'username', which Basic needs: add it as a "
            "public field or a secret one",
            credential=self._name,
        )

    def names(self, origin: Origin) -> bool:
        """Return whether an origin is one of those that the code names."""
        return origin in (self._origins or ())

    @property
    def header(self) -> str:
        """The header's name."""
        return self._header

    def refuse(self, origin: Origin) -> NoReturn:
        """Refuse an origin, on record."""
        self._credentials.note_refusal(self._reference, self._agent, "another origin")
        raise CredentialError(
            f"credential {self._name!r} isn't for {origin}: name the servers that may "
            "receive it in http_auth(origins=[…]), or in the credential's public field 'base_url'",
            credential=self._name,
        )

    def _require_origin(self, origin: Origin, allowed: Sequence[Origin]) -> None:
        if origin not in allowed:
            self.refuse(origin)

    def _own_origin(self, public: Mapping[str, Any]) -> Origin:
        try:
            return origin_of("base_url", public.get("base_url"))
        except (TypeError, ValueError) as error:
            raise CredentialError(
                f"credential {self._name!r} doesn't say which server may receive it: {error}. Name "
                "it in http_auth(origins=['https://…']), or in the public field 'base_url'",
                credential=self._name,
            ) from None

    def __repr__(self) -> str:
        return f"HttpAuth({self._reference!r}, header={self._header!r})"

    def __deepcopy__(self, memo: object = None) -> HttpAuth:
        # Settings of clients are copied deeply, and this one refers to the database.
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "an HttpAuth refers to a database, so it can't be pickled: call credentials.http_auth "
            "in the process that sends the requests"
        )


class _Flow(AsyncGenerator[Any, Any]):
    """An async generator that, when it is closed, knows the error on its way to the caller.

    Python tells a generator of that error when it closes it, but not an async one.
    """

    def __init__(self, flow: AsyncGenerator[Any, Any], use: _Use) -> None:
        self._flow = flow
        self._use = use

    async def asend(self, value: Any) -> Any:
        return await self._flow.asend(value)

    async def athrow(self, *error: Any) -> Any:
        return await self._flow.athrow(*error)

    async def aclose(self) -> None:
        self._use.mask_in(sys.exc_info()[1])
        await self._flow.aclose()


class _Use:
    """The header of one request, from when it is filled until it is masked."""

    def __init__(self, auth: HttpAuth, request: _Request) -> None:
        self.responses: list[Any] = []
        self._auth = auth
        self._request = request
        self._scope = Scope()
        self._origin = origin_in(request.url)
        self._extensions = request.extensions
        self._sent: list[Any] = []

    def fill(self, tracing: Callable[[_Use, Any], Callable[..., Any]]) -> bool:
        """Open the credential and fill the header; return whether it has changed."""
        before = self._request.headers.get(self._auth.header)
        self._request.headers[self._auth.header] = self._auth.value(self._scope, self._origin)
        # httpx takes most headers along when it follows a redirect. A documented extension of its
        # requests is called with each request on the wire.
        theirs = self._extensions.get("trace")
        self._request.extensions = {**self._extensions, "trace": tracing(self, theirs)}
        changed = bool(self._request.headers[self._auth.header] != before)
        if self._scope.closed:
            # A cancelled request doesn't wait for the thread that fills it.
            self._request.headers[self._auth.header] = MASK
        return changed

    def settle(self) -> None:
        """Wait until a code that was opened is valid."""
        self._scope.settle()

    async def asettle(self) -> None:
        """As ``settle``; the event loop goes on meanwhile."""
        await self._scope.asettle()

    def may_repeat(self, response: Any) -> bool:
        """Return whether the server refused the credential, and the body can be sent again."""
        # Another code is no other credential: it would be spent for the same answer.
        if response.status_code != _UNAUTHORIZED or self._scope.codes:
            return False
        with suppress(Exception):
            # A stream can be sent only once, and has no content.
            return isinstance(self._request.content, bytes)
        return False

    def on_the_wire(self, event: str, details: Mapping[str, Any]) -> Origin | None:
        """Mask a request that was sent; return the origin of one that must not be sent there."""
        if event.endswith("send_request_headers.started"):
            sent = details.get("request")
            if sent is not None and self._is_in(sent.headers):
                origin = origin_in(sent.url)
                if origin != self._origin and not self._auth.names(origin):
                    self._mask(sent)
                    return origin
                self._sent.append(sent)
        elif event.endswith(("send_request_headers.complete", "send_request_headers.failed")):
            for each in self._sent:
                self._mask(each)
            self._sent.clear()
        return None

    def refuse(self, origin: Origin) -> NoReturn:
        """Refuse to send the header to an origin."""
        self._auth.refuse(origin)

    def close(self) -> None:
        """Close the credential, and mask it in the request and in those of redirects."""
        requests = [self._request]
        for response in self.responses:
            for each in (response, *response.history):
                requests += [each.request, each.next_request]
        for request in requests:
            if request is not None:
                request.extensions = self._extensions
                if self._auth.header in request.headers:
                    request.headers[self._auth.header] = MASK
        self.responses.clear()
        self._scope.close()

    def mask_in(self, error: BaseException | None) -> None:
        """Mask the secret in what an error refers to: requests of redirects, and of a proxy."""
        value = self._request.headers.get(self._auth.header)
        if value in (None, MASK):
            return
        waiting, known = [error], {id(None)}
        while waiting:
            each: Any = waiting.pop()
            if id(each) in known:
                continue
            known.add(id(each))
            waiting += [each.__cause__, each.__context__]
            found = [
                local
                for frame, _ in traceback.walk_tb(each.__traceback__)
                for local in frame.f_locals.values()
            ]
            for local in (each, *found):
                for one in local if isinstance(local, list) else (local,):
                    self._mask_request_of(one, value)
                self._mask_pairs(local, value.encode())

    def _mask_request_of(self, holder: Any, value: str) -> None:
        """Mask a value in a request, or in that of a response or of an error."""
        # httpx raises an error if there is none, and a caller's own transport may do anything.
        reads: list[Callable[[], Any]] = [
            lambda: holder,
            lambda: holder.request,
            lambda: holder.next_request,
        ]
        for read in reads:
            with suppress(Exception):
                headers = read().headers
                # A client, too, may have a header of this name, with a value of its own.
                if isinstance(headers, MutableMapping):
                    if headers.get(self._auth.header) == value:
                        headers[self._auth.header] = MASK
                else:
                    self._mask_pairs(headers, value.encode())

    def _mask(self, sent: Any) -> None:
        self._mask_pairs(sent.headers)

    def _mask_pairs(self, headers: object, value: bytes | None = None) -> None:
        """Mask the header, or one value of it, among pairs of names and values, as on the wire."""
        name = self._auth.header.lower().encode()
        for place, pair in enumerate(headers if isinstance(headers, list) else ()):
            if not isinstance(pair, tuple) or len(pair) != 2:
                continue
            key, sent = pair
            if isinstance(key, bytes) and key.lower() == name and value in (None, sent):
                headers[place] = (key, MASK.encode())  # type: ignore[index]

    def _is_in(self, headers: Sequence[tuple[bytes, bytes]]) -> bool:
        name = self._auth.header.lower().encode()
        return any(key.lower() == name for key, _ in headers)


def _tracing(use: _Use, theirs: Any) -> Callable[..., Any]:
    def trace(event: str, details: Mapping[str, Any]) -> None:
        if (origin := use.on_the_wire(event, details)) is not None:
            use.refuse(origin)
        if theirs is not None:
            theirs(event, details)

    return trace


def _atracing(use: _Use, theirs: Any) -> Callable[..., Any]:
    async def trace(event: str, details: Mapping[str, Any]) -> None:
        if (origin := use.on_the_wire(event, details)) is not None:
            await aside(use.refuse, origin)
        if theirs is not None:
            await theirs(event, details)

    return trace


def http_auth(
    credentials: Opener,
    name: str,
    *,
    agent: Agent | None,
    per_person: bool,
    fallback: Fallback,
    origins: Sequence[str] | None,
    header: str,
    scheme: str | None,
) -> HttpAuth:
    """Check the arguments of `Credentials.http_auth`, and make its result."""
    require_reference("name", name)
    which = rule(per_person, fallback)
    if agent is not None:
        require_handle(agent)
    if isinstance(origins, str) or (origins is not None and not origins):
        raise TypeError(
            "origins must be a list of servers, for example ['https://crm.example.com']"
        )
    if not isinstance(header, str) or not _HEADER.fullmatch(header):
        raise ValueError("header must be the name of an HTTP header, for example 'X-Api-Key'")
    if not isinstance(scheme, str | None) or not _SCHEME.fullmatch(scheme or ""):
        raise ValueError("scheme must be one word, for example 'Bearer', or None for no word")
    return _kind()(
        credentials,
        name,
        agent=agent,
        which=which,
        origins=None if origins is None else [origin_of("origins", each) for each in origins],
        header=header,
        scheme="Basic" if (scheme or "").lower() == "basic" else scheme or "",
    )


@cache
def _kind() -> type[HttpAuth]:
    """Return the class, which is also a class of httpx2 where that is installed.

    The clients of OpenAI and Anthropic, and those of MCP 2, use httpx2. It has a class ``Auth`` of
    its own with the same methods.
    """
    try:
        other: Any = importlib.import_module("httpx2")
    except ImportError:
        return HttpAuth
    return type("HttpAuth", (HttpAuth, other.Auth), {"__module__": __name__})


def _require_sendable(name: str, text: str) -> None:
    if not text or not text.isascii() or not text.isprintable() or text.strip() != text:
        raise CredentialError(
            f"credential {name!r} can't be sent in a header: it must be printable ASCII without "
            "blanks around it",
            credential=name,
        )
