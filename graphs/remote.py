"""A child on another machine: asked over HTTP, heard by its envelope alone.

It speaks the API of LangGraph Server: start a run, wait for its output, cancel it. Streams are not
read, so that no event of a server's making reaches the parent.
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
from typing import Any, Final, TypeVar

import httpx
from langgraph.pregel.remote import RemoteGraph
from pydantic import SecretStr

import pipelit_agents.credentials.leak_guard.langgraph_io  # noqa: F401 - here, not on the loop at the first call
from pipelit_agents import Agent
from pipelit_agents._bounds import LONGEST_WAIT, require_seconds
from pipelit_agents._forks import reset_in_forked_children
from pipelit_agents._threads import aside
from pipelit_agents.credentials.scope import opened_scope
from pipelit_agents.errors import CredentialError, PayloadError
from pipelit_agents.identity.agent import home_of
from pipelit_agents.protocol.payload import decode
from pipelit_agents.protocol.usernames import require_username

from .envelope import Envelope, SpawnRequest

__all__ = ["RemoteChild", "ServerUnauthorized", "UnexpectedStatus", "Unreachable", "remote_child"]

T = TypeVar("T")

# Of an answer that isn't the envelope itself: a run's record, a list of runs, an error.
_MAX_RECORD_BYTES: Final = 2**20
_ENVELOPE_OVERHEAD: Final = 2**16
# A run's record and a list of runs have some hundred.
_MAX_BRACKETS: Final = 4096
_SMALL_BODY: Final = 2**16
_CANCEL_TIMEOUT: Final = 0.9
_MAX_PAUSE: Final = 5.0
_TIMEOUT: Final = httpx.Timeout(60.0, connect=5.0)
# Gone for now: overloaded, restarting, or a proxy in front of it that says so.
_TRANSIENT: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


class Unreachable(Exception):
    """The server can't be reached, or no longer knows the run.

    Attributes:
        status: The HTTP status, or 0 where there was none.
    """

    def __init__(self, status: int = 0) -> None:
        super().__init__()
        self.status = status


class ServerUnauthorized(Exception):
    """The server doesn't accept the credential."""


class UnexpectedStatus(Exception):
    """The server answers something else than it is asked for.

    Attributes:
        status: The HTTP status.
    """

    def __init__(self, status: int) -> None:
        super().__init__(f"the server answered {status}")
        self.status = status


class _Trust:
    """The certificates by which servers are checked, read once in a process.

    Reading them takes some 20 ms of CPU, which each call of a child would spend. Only they are
    shared: each call has connections of its own, so none is used by two event loops, or on both
    sides of a fork.
    """

    def __init__(self) -> None:
        self.reset_after_fork()
        reset_in_forked_children(self)

    def reset_after_fork(self) -> None:
        """Forgets the parent's: OpenSSL has locks in there, which another thread may hold."""
        self._lock = threading.Lock()
        self._read: tuple[Any, ssl.SSLContext] | None = None

    def context(self) -> ssl.SSLContext:
        """The context; another one where the environment or the file names other certificates."""
        source = _certificate_sources()
        with self._lock:
            if self._read is None or self._read[0] != source:
                context = httpx.create_ssl_context()
                context.set_alpn_protocols(["http/1.1"])
                # httpcore sets the same protocol again at each connection. OpenSSL would write that
                # into the context while another thread may be copying it.
                setattr(context, "set_alpn_protocols", _keep_protocols)  # noqa: B010 - for mypy
                self._read = source, context
            return self._read[1]


def _keep_protocols(_: Sequence[str]) -> None:
    return


def _certificate_sources() -> tuple[Any, ...]:
    # What httpx, and Python's ssl, would look at.
    found: list[Any] = [os.environ.get("SSLKEYLOGFILE")]
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
    """Drops the words beside the status: httpx logs them, and they are the server's."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        response.extensions.pop("reason_phrase", None)
        return response


class RemoteChild:
    """A child that is served elsewhere; made by :func:`remote_child`.

    Args:
        name: The child's agent.
        url: Where its server is.
        graph: What the server calls the graph, or an assistant's id.
        credential: The credential with the API key for that server; None for none.
        headers: More headers for each request.
        patience: Seconds that a server may be away while a run is awaited.
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

    async def answer(self, request: SpawnRequest, lead: Agent, *, limit: int) -> dict[str, Any]:
        """Has the child work on a request.

        Args:
            request: What is asked; nothing else goes out but a thread's id.
            lead: Who asks, and opens the credential.
            limit: How many bytes the answer's payload may have.

        Returns:
            The envelope's fields as they are for a local child; nothing in it is verified.

        Raises:
            Unreachable: The server was away for longer than ``patience``, or lost the run.
            UnexpectedStatus: It answers something else than it is asked for.
            ServerUnauthorized: It doesn't accept the credential.
            ProofRejected: What came isn't an envelope.
            PayloadError: What came is too large, or no JSON.
            CredentialError: The credential isn't there, or isn't for this agent.
            UnsealError: The credential doesn't open.
        """
        with opened_scope() as scope:
            headers = {name: value.get_secret_value() for name, value in self._headers.items()}
            if self.credential is not None:
                opened, _ = await aside(
                    lambda: home_of(lead).credentials.open_in(scope, self.credential, agent=lead)
                )
                if len(opened) != 1:
                    one = f"{self.credential}:{next(iter(opened), 'field')}"
                    raise CredentialError(
                        f"credential {self.credential!r} has several secrets: name the one that is "
                        f"the API key, as {one}",
                        credential=self.credential,
                    )
                key = next(iter(opened.values())).get_secret_value()
                headers["authorization"] = f"Bearer {_require_sendable(self.credential, key)}"
            # A compressed answer may be any size when it is unpacked.
            headers |= {"accept-encoding": "identity", "accept": "application/json"}
            # Off the loop: the first one reads the certificates of the machine.
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
            # With a transport of its own httpx asks no proxy that the environment names.
            transport=_NoReasonPhrase(verify=_TRUST.context()),
        )

    def __repr__(self) -> str:
        return f"RemoteChild({self.name!r}, url={self.url!r})"


class _Run:
    """One run on a thread of its own."""

    def __init__(self, client: httpx.AsyncClient, graph: str, patience: float) -> None:
        self._client = client
        self._graph = graph
        self._patience = patience
        self._runs = f"/threads/{uuid.uuid4()}/runs"
        self._id = ""

    async def start(self, request: SpawnRequest) -> None:
        body = {
            "assistant_id": self._graph,
            "input": {"request": request.to_wire()},
            "if_not_exists": "create",
            "multitask_strategy": "reject",
        }
        try:
            record = await self._call("POST", self._runs, json=body)
        except Unreachable as error:
            if error.status == 404:
                raise UnexpectedStatus(404) from None
            # It may have begun all the same, and isn't begun twice.
            begun = await self._started_runs()
            if not begun:
                raise
            record = begun[0]
        self._id = _run_id(record)

    async def output(self, limit: int) -> Any:
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
            # The connection was dropped, or closed with the run going on: it is joined again.
            await asyncio.sleep(pause)
            pause = min(2 * pause, _MAX_PAUSE, max(0.1, self._patience / 4))
        if broke and not _has_envelope(found):
            # A server that was started again begins the run again, and the child doesn't work
            # twice for one request.
            raise Unreachable
        return found

    async def _is_finished(self, found: Any) -> bool:
        if _has_envelope(found):
            return True
        record = await self._call("GET", f"{self._runs}/{self._id}")
        status = record.get("status") if isinstance(record, dict) else None
        return status not in ("pending", "running")

    async def cancel(self) -> None:
        records = [{"run_id": self._id}] if self._id else await self._started_runs()
        for record in records:
            await self._call("POST", f"{self._runs}/{_run_id(record)}/cancel")

    async def _started_runs(self) -> list[Any]:
        try:
            records = await self._call("GET", self._runs)
        except Unreachable:
            return []
        return records if isinstance(records, list) else []

    async def _call(
        self, method: str, path: str, *, limit: int = _MAX_RECORD_BYTES, **body: Any
    ) -> Any:
        received = bytearray()
        try:
            async with self._client.stream(method, path, **body) as response:
                async for chunk in response.aiter_raw():
                    received += chunk
                    if len(received) > limit:
                        break
        except httpx.TransportError:
            # Its words are the server's, and its request holds the key.
            raise Unreachable from None
        if sum(map(received.count, (b"{", b"["))) > _MAX_BRACKETS:
            # An envelope has two, and base64url none: parsing a forest costs more than sending it.
            raise PayloadError("what came is no envelope")
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
    """Names a child that is served by a LangGraph Server, for ``spawn_and_await``.

    The child's agent is an account of the parent's database, or a peer of another domain
    (``users.enroll_peer``). Its answers are verified like a local child's.

    Args:
        name: The child's agent, as its server knows it.
        url: Where the server is: ``https://…``, or ``http://`` on this machine. No proxy that the
            environment names is asked.
        credential: The credential that holds the API key for that server. It is opened while
            the server is called, and sent in the ``Authorization`` header. None sends none.
        graph: What the server calls the graph, or an assistant's id; by default the name.
        patience: Seconds that the server may be away while an answer is awaited.

    Returns:
        A child for ``spawn_and_await``.

    Raises:
        InvalidUsername: The name has another form.
        TypeError: Patience isn't a number.
        ValueError: The URL can't be used, or patience is negative or more than 30 days.

    Example:
        ```python
        pipelit.credentials.put("research-server", key, kind="api-key", created_by="alice")
        child = remote_child(
            "agent_researcher", url="https://research.example", credential="research-server"
        )
        builder.add_node("delegate", spawn_and_await(lead, {"agent_researcher": child}))
        ```
    """
    return RemoteChild(
        require_username(name, argument="name"),
        url=url,
        graph=graph or name,
        credential=credential,
        headers={},
        patience=require_seconds(patience, "patience", most=LONGEST_WAIT, zero=True),
    )


def from_remote_graph(name: str, graph: RemoteGraph) -> RemoteChild:
    """The child that a ``RemoteGraph`` reaches; its own client is used for its address and headers.

    Raises:
        ValueError: It has no address, or one that can't be used.
    """
    if graph.client is None:
        raise ValueError(f"child {name!r}: give its RemoteGraph a url, or use remote_child")
    client = graph.client.http.client
    kept = {
        header: SecretStr(value)
        for header, value in client.headers.items()
        if header not in _CLIENT_HEADERS
    }
    if "authorization" in kept:
        # RemoteGraph takes it from LANGSMITH_API_KEY by itself: it is none of this server's.
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
        raise ValueError("url: it can't be read as a URL; for example https://host") from None
    if parsed.scheme not in ("https", "http") or not parsed.host:
        raise ValueError("url: it has to begin with https:// and name a host")
    if parsed.userinfo or parsed.query or parsed.fragment:
        raise ValueError(
            "url: no user, password, query or fragment belongs in it; the key is a credential"
        )
    if parsed.scheme == "http" and not _is_loopback(parsed.host):
        raise ValueError(
            f"url: http:// would send the key to {parsed.host} in clear; use https:// "
            "(http:// is for this machine alone)"
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
    # Before a byte of its body is read.
    status = response.status_code
    if status in (401, 403):
        raise ServerUnauthorized
    if status in _TRANSIENT or status == 404:
        raise Unreachable(status)
    if not response.is_success:
        raise UnexpectedStatus(status)
    if response.headers.get("content-encoding", "identity") != "identity":
        raise ValueError("the server compressed what it was asked not to")


def _require_sendable(credential: str, key: str) -> str:
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise CredentialError(
            f"credential {credential!r} holds no API key that can be sent: it has to be one word "
            f"of ASCII; put it anew with: pipelit-agents credentials put {credential} "
            "--kind … --created-by …",
            credential=credential,
        )
    return key


def _has_envelope(found: Any) -> bool:
    return isinstance(found, dict) and "envelope" in found


def _run_id(record: Any) -> str:
    # It becomes part of a path, so it is nothing but a UUID.
    if not isinstance(record, dict):
        raise TypeError("a run is an object")
    return str(uuid.UUID(record.get("run_id")))
