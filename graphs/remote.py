"""A child on another machine: send requests over HTTP and read only the envelope."""

from __future__ import annotations

from typing import Final

import httpx
from langgraph.pregel.remote import RemoteGraph
from pydantic import SecretStr

import pipelit_agents.credentials.leak_guard.langgraph_io  # noqa: F401 - not on the loop at the first call
from pipelit_agents import Agent
from pipelit_agents._bounds import LONGEST_WAIT, require_seconds
from pipelit_agents._threads import aside
from pipelit_agents.credentials.origins import is_loopback
from pipelit_agents.credentials.rules import require_reference
from pipelit_agents.credentials.scope import opened_scope
from pipelit_agents.errors import CredentialError
from pipelit_agents.pipelit import home_of
from pipelit_agents.protocol.usernames import require_username

from .envelope import Envelope, EnvelopeDict, SpawnRequest
from .remote_http import RunLost, ServerUnauthorized, UnexpectedStatus, Unreachable, new_client
from .remote_run import RemoteRun, afterwards

__all__ = [
    "RemoteChild",
    "RunLost",
    "ServerUnauthorized",
    "UnexpectedStatus",
    "Unreachable",
    "remote_child",
]

# How many bytes an answer may have in addition to the payload.
_ENVELOPE_OVERHEAD: Final = 2**16


class RemoteChild:
    """A child on another server. Create one with ``remote_child``.

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
        self.url: str = _required_url(url)
        self.graph = graph
        self.credential = credential
        self._headers = headers
        self._patience = patience

    async def answer(self, request: SpawnRequest, lead: Agent, *, limit: int) -> EnvelopeDict:
        """Send a request to the child and wait for its answer.

        Afterwards the run's thread is deleted on the server, as far as the server allows it.

        Args:
            request: The request. Nothing else is sent but a thread's id.
            lead: The agent that sends the request and opens the credential.
            limit: The maximum size of the answer's payload, in bytes.

        Returns:
            The envelope's fields, as for a local child. They are not verified.

        Raises:
            Unreachable: The server was unavailable for longer than ``patience``.
            RunLost: The server lost the run, ended it, or delivered it to the child again.
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
                    home_of(lead).credentials.open_in,
                    scope,
                    self.credential,
                    agent=lead,
                    wait=False,
                )
                await scope.asettle()
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
            client = await aside(new_client, self.url, headers)
            run = RemoteRun(client, self.graph, patience=self._patience, child=self.name)
            try:
                await run.start(request)
                found = await run.output(limit * 4 // 3 + _ENVELOPE_OVERHEAD)
            except BaseException:
                await afterwards(run.abandon())
                raise
            await afterwards(run.finish())
        return Envelope.from_wire(found).to_dict()

    def __repr__(self) -> str:
        return f"RemoteChild({self.name!r}, url={self.url!r})"


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
    if parsed.scheme == "http" and not is_loopback(parsed.host):
        raise ValueError(
            f"url: http:// would send the API key to {parsed.host} unencrypted: use https:// "
            "(http:// is only for this machine)"
        )
    return str(parsed).rstrip("/")


def _require_sendable(credential: str, key: str) -> str:
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise CredentialError(
            f"credential {credential!r} holds no API key that can be sent: it must be one word "
            f"of ASCII; store it again with: pipelit-agents credentials put {credential} "
            "--kind … --created-by …",
            credential=credential,
        )
    return key
