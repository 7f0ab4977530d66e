"""A child on another machine: send requests over HTTP and read only the envelope.

The client uses the API of LangGraph Server: start a run, wait for its output, cancel it. It doesn't
read streams, so that no event of the server reaches the parent.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import ssl
import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import httpx
from langgraph.pregel.remote import RemoteGraph
from pydantic import SecretStr

import pipelit_agents.credentials.leak_guard.langgraph_io  # noqa: F401 - not on the loop at the first call
from pipelit_agents import Agent
from pipelit_agents._bounds import LONGEST_WAIT, require_seconds
from pipelit_agents._forks import reset_in_forked_children
from pipelit_agents._threads import aside
from pipelit_agents.credentials.scope import opened_scope
from pipelit_agents.credentials.stored import require_reference
from pipelit_agents.errors import CredentialError, PayloadError
from pipelit_agents.pipelit import home_of
from pipelit_agents.protocol.payload import decode
from pipelit_agents.protocol.usernames import require_username

from .envelope import Envelope, EnvelopeDict, SpawnRequest
from .types import Json

__all__ = ["RemoteChild", "ServerUnauthorized", "UnexpectedStatus", "Unreachable", "remote_child"]

# The maximum size of an answer other than an envelope: a run's record, a list of runs, an error.
_MAX_RECORD_BYTES: Final = 2**20
# How many bytes an answer may have in addition to the payload.
_ENVELOPE_OVERHEAD: Final = 2**16
# A run's record or a list of runs has about a hundred.
_MAX_BRACKETS: Final = 4096
# A body of fewer bytes is decoded on the event loop.
_SMALL_BODY: Final = 2**16
# Seconds.
_CANCEL_TIMEOUT: Final = 0.9
_MAX_PAUSE: Final = 5.0
_TIMEOUT: Final = httpx.Timeout(60.0, connect=5.0)
# The server is temporarily unavailable: overloaded, restarting, or a proxy reports one of these.
_TRANSIENT: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


class Unreachable(Exception):
    """The server can't be reached, or no longer knows the run.

    Attributes:
        status: The HTTP status, or 0 if there was none.
    """

    def __init__(self, status: int = 0) -> None:
        super().__init__()
        self.status = status


class ServerUnauthorized(Exception):
    """The server doesn't accept the credential."""


class UnexpectedStatus(Exception):
    """The server answered with an unexpected HTTP status.

    Attributes:
        status: The HTTP status.
    """

    def __init__(self, status: int) -> None:
        super().__init__(f"the server answered {status}")
        self.status = status


class _Trust:
    """The trusted certificates, read once per process.

    Reading them takes about 20 ms of CPU time, which each call of a child would spend. Only the
    certificates are shared. Each call opens new connections, so that no connection is used by two
    event loops or on both sides of a fork.
    """

    def __init__(self) -> None:
        self.reset_after_fork()
        reset_in_forked_children(self)

    def reset_after_fork(self) -> None:
        """Drop the parent process's context: another thread may hold its OpenSSL locks."""
        self._lock = threading.Lock()
        self._read: tuple[tuple[object, ...], ssl.SSLContext] | None = None

    def context(self) -> ssl.SSLContext:
        """Return the context. Read it again if the environment or a certificate file changed."""
        source = _certificate_sources()
        with self._lock:
            if self._read is None or self._read[0] != source:
                context = httpx.create_ssl_context()
                context.set_alpn_protocols(["http/1.1"])
                # httpcore sets the same protocol again at each connection. OpenSSL would write it
                # to the context while another thread may be copying it.
                setattr(context, "set_alpn_protocols", _keep_protocols)  # noqa: B010 - for mypy
                self._read = source, context
            return self._read[1]


def _keep_protocols(_: Sequence[str]) -> None:
    return


def _certificate_sources() -> tuple[object, ...]:
    # The sources that httpx and Python's ssl use.
    found: list[object] = [os.environ.get("SSLKEYLOGFILE")]
    for variable in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        path = os.environ.get(variable)
        found.append(path)
        if path:
            with suppress(OSError):
                about = Path(path).stat()
                found.append((about.st_mtime_ns, about.st_size, about.st_ino))
    return tuple(found)


_TRUST: Final = _Trust()


class _NoReasonPhrase(httpx.AsyncHTTPTransport):
    """Drop the reason phrase: httpx logs it, and the server controls its text."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        response.extensions.pop("reason_phrase", None)
        return response


class RemoteChild:
    """A child on another server. Create one with :func:`remote_child`.

    Args:
        name: The child's agent.
        url: The URL of its server.
        graph: The graph's name on the server, or an assistant's id.
        credential: The credential with the API key for that server; None for none.
        headers: Additional headers for each request.
        patience: How long the server may be unavailable during a run, in seconds.
    """

    def __init__(
        self,
        name: str,
        *,
        url: str,
        graph: str,
        credential: str | None,
        headers: dict[str, SecretStr],
        patience: float,
    ) -> None:
        self.name = name
        self.url = _required_url(url)
        self.graph = graph
        self.credential = credential
        self._headers = headers
        self._patience = patience

    async def answer(self, request: SpawnRequest, lead: Agent, *, limit: int) -> EnvelopeDict:
        """Send a request to the child and wait for its answer.

        Args:
            request: The request. Nothing else is sent but a thread's id.
            lead: The agent that sends the request and opens the credential.
            limit: The maximum size of the answer's payload, in bytes.

        Returns:
            The envelope's fields, as for a local child. They are not verified.

        Raises:
            Unreachable: The server was unavailable for longer than ``patience``, or lost the run.
            UnexpectedStatus: The server answered with an unexpected HTTP status.
            ServerUnauthorized: The server doesn't accept the credential.
            ProofRejected: The answer isn't an envelope.
            PayloadError: The answer is too large, or isn't JSON.
            CredentialError: The credential doesn't exist, or this agent may not open it.
            UnsealError: The credential can't be decrypted.
        """
        with opened_scope() as scope:
            headers = {name: value.get_secret_value() for name, value in self._headers.items()}
            if self.credential is not None:
                opened, _ = await aside(
                    home_of(lead).credentials.open_in, scope, self.credential, agent=lead
                )
                if len(opened) != 1:
                    one = f"{self.credential}:{next(iter(opened), 'field')}"
                    raise CredentialError(
                        f"credential {self.credential!r} has several secrets: name the field with "
                        f"the API key, for example {one}",
                        credential=self.credential,
                    )
                key = next(iter(opened.values())).get_secret_value()
                headers["authorization"] = f"Bearer {_require_sendable(self.credential, key)}"
            # A compressed answer could have any size after decompression.
            headers |= {"accept-encoding": "identity", "accept": "application/json"}
            # Not on the event loop: the first call reads the machine's certificates.
            made = await aside(self._client, headers)
            async with made as client:
                run = _Run(client, self.graph, self._patience)
                try:
                    await run.start(request)
                    found = await run.output(limit * 4 // 3 + _ENVELOPE_OVERHEAD)
                except BaseException:
                    with suppress(Exception):
                        await asyncio.wait_for(run.cancel(), _CANCEL_TIMEOUT)
                    raise
        return Envelope.from_wire(found).to_dict()

    def _client(self, headers: dict[str, str]) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self.url,
            headers=headers,
            timeout=_TIMEOUT,
            follow_redirects=False,
            event_hooks={"response": [_check_status]},
            # With an explicit transport httpx ignores proxies in the environment.
            transport=_NoReasonPhrase(verify=_TRUST.context()),
        )

    def __repr__(self) -> str:
        return f"RemoteChild({self.name!r}, url={self.url!r})"


class _Run:
    """One run on a new thread of the server."""

    def __init__(self, client: httpx.AsyncClient, graph: str, patience: float) -> None:
        self._client = client
        self._graph = graph
        self._patience = patience
        self._runs = f"/threads/{uuid.uuid4()}/runs"
        self._id = ""

    async def start(self, request: SpawnRequest) -> None:
        body: Json = {
            "assistant_id": self._graph,
            "input": {"request": request.to_wire()},
            "if_not_exists": "create",
            "multitask_strategy": "reject",
        }
        try:
            record = await self._call("POST", self._runs, body=body)
        except Unreachable as error:
            if error.status == 404:
                raise UnexpectedStatus(404) from None
            # The run may have started regardless, and must not be started twice.
            started = await self._started_runs()
            if not started:
                raise
            record = started[0]
        self._id = _run_id(record)

    async def output(self, limit: int) -> Json:
        away_since: float | None = None
        broke = False
        pause = 0.1
        while True:
            try:
                found = await self._call("GET", f"{self._runs}/{self._id}/join", limit=limit)
                if found is not None and await self._is_finished(found):
                    break
                away_since = None
            except Unreachable:
                broke = True
                now = time.monotonic()
                away_since = now if away_since is None else away_since
                if now - away_since >= self._patience:
                    raise
            # The connection was lost or closed while the run continues: join the run again.
            await asyncio.sleep(pause)
            pause = min(2 * pause, _MAX_PAUSE, max(0.1, self._patience / 4))
        if broke and not _has_envelope(found):
            # A restarted server starts the run again, but the child works on a request only once.
            raise Unreachable
        return found

    async def _is_finished(self, found: Json) -> bool:
        if _has_envelope(found):
            return True
        record = await self._call("GET", f"{self._runs}/{self._id}")
        status = record.get("status") if isinstance(record, dict) else None
        return status not in ("pending", "running")

    async def cancel(self) -> None:
        ids = [self._id] if self._id else map(_run_id, await self._started_runs())
        for identifier in ids:
            await self._call("POST", f"{self._runs}/{identifier}/cancel")

    async def _started_runs(self) -> list[Json]:
        try:
            records = await self._call("GET", self._runs)
        except Unreachable:
            return []
        return records if isinstance(records, list) else []

    async def _call(
        self, method: str, path: str, *, limit: int = _MAX_RECORD_BYTES, body: Json = None
    ) -> Json:
        received = bytearray()
        try:
            async with self._client.stream(method, path, json=body) as response:
                async for chunk in response.aiter_raw():
                    received += chunk
                    if len(received) > limit:
                        break
        except httpx.TransportError:
            # The error holds the server's text, and its request holds the key.
            raise Unreachable from None
        if sum(map(received.count, (b"{", b"["))) > _MAX_BRACKETS:
            # An envelope has two brackets, and base64url none. Deep nesting is cheap to send but
            # expensive to parse.
            raise PayloadError("the answer isn't an envelope")
        if len(received) < _SMALL_BODY:
            return decode(bytes(received), limit=limit) if received.strip() else None
        return await aside(lambda: decode(bytes(received), limit=limit))


def remote_child(
    name: str,
    *,
    url: str,
    credential: str | None,
    graph: str | None = None,
    patience: float = 30.0,
) -> RemoteChild:
    """Create a child that runs on a LangGraph Server, for ``spawn_and_await``.

    The child's agent is an account in the parent's database, or a peer of another domain
    (``users.enroll_peer``). Its answers are verified like a local child's.

    Args:
        name: The child's agent, as its server knows it.
        url: The server's URL: ``https://…``, or ``http://`` on this machine. Proxies in the
            environment are ignored.
        credential: The credential that holds the API key for that server. It is opened while
            the server is called, and sent in the ``Authorization`` header. None sends none.
        graph: The graph's name on the server, or an assistant's id. By default the child's name.
        patience: How long the server may be unavailable during a run, in seconds.

    Returns:
        A child for ``spawn_and_await``.

    Raises:
        InvalidUsername: ``name`` isn't a username.
        CredentialError: ``credential`` isn't the name of a credential.
        TypeError: ``patience`` isn't a number.
        ValueError: The URL can't be used, or ``patience`` is negative or more than 30 days.

    Example:
        ```python
        pipelit.credentials.put("research-server", key, kind="api-key", created_by="alice")
        child = remote_child(
            "agent_researcher", url="https://research.example", credential="research-server"
        )
        builder.add_node("delegate", spawn_and_await(lead, {"agent_researcher": child}))
        ```
    """
    if credential is not None:
        require_reference("credential", credential)
    return RemoteChild(
        require_username(name, argument="name"),
        url=url,
        graph=graph or name,
        credential=credential,
        headers={},
        patience=require_seconds(patience, "patience", most=LONGEST_WAIT, zero=True),
    )


def from_remote_graph(name: str, graph: RemoteGraph) -> RemoteChild:
    """Return the child that a ``RemoteGraph`` calls, with its client's URL and headers.

    Raises:
        ValueError: The graph has no URL, or one that can't be used.
    """
    if graph.client is None:
        raise ValueError(f"child {name!r}: pass url to its RemoteGraph, or use remote_child")
    client = graph.client.http.client
    kept = {
        header: SecretStr(value)
        for header, value in client.headers.items()
        if header not in _CLIENT_HEADERS
    }
    if "authorization" in kept:
        # RemoteGraph reads it from LANGSMITH_API_KEY, which isn't meant for this server.
        kept.pop("x-api-key", None)
    return RemoteChild(
        name,
        url=str(client.base_url),
        graph=graph.assistant_id,
        credential=None,
        headers=kept,
        patience=30.0,
    )


_CLIENT_HEADERS: Final = frozenset(
    {"accept", "accept-encoding", "connection", "user-agent", "host", "content-type"}
)


def _required_url(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError):
        raise ValueError("url can't be read as a URL: use for example https://host") from None
    if parsed.scheme not in ("https", "http") or not parsed.host:
        raise ValueError("url has to begin with https:// and name a host")
    if parsed.userinfo or parsed.query or parsed.fragment:
        raise ValueError(
            "url must not hold a user, password, query or fragment: pass the API key as credential"
        )
    if parsed.scheme == "http" and not _is_loopback(parsed.host):
        raise ValueError(
            f"url: http:// would send the API key to {parsed.host} unencrypted: use https:// "
            "(http:// is only for this machine)"
        )
    return str(parsed).rstrip("/")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def _check_status(response: httpx.Response) -> None:
    # Called before the body is read.
    status = response.status_code
    if status in (401, 403):
        raise ServerUnauthorized
    if status in _TRANSIENT or status == 404:
        raise Unreachable(status)
    if not response.is_success:
        raise UnexpectedStatus(status)
    if response.headers.get("content-encoding", "identity") != "identity":
        raise ValueError("the server compressed its answer, although the request forbids it")


def _require_sendable(credential: str, key: str) -> str:
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise CredentialError(
            f"credential {credential!r} holds no API key that can be sent: it must be one word "
            f"of ASCII; store it again with: pipelit-agents credentials put {credential} "
            "--kind … --created-by …",
            credential=credential,
        )
    return key


def _has_envelope(found: Json) -> bool:
    return isinstance(found, dict) and "envelope" in found


def _run_id(record: Json) -> str:
    # The id becomes part of a path, so only a UUID is accepted.
    identifier = record.get("run_id") if isinstance(record, dict) else None
    if not isinstance(identifier, str):
        raise TypeError("a run must be an object with an id")
    return str(uuid.UUID(identifier))
