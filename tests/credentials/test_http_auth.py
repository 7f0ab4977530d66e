"""A credential in the header of HTTP requests: to its servers only, and nowhere kept."""

from __future__ import annotations

import base64
import copy
import json
import logging
import pickle
import ssl
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

import httpcore
import httpx
import httpx2
import pytest
from langgraph.graph import START, StateGraph
from local_http import served
from typing_extensions import TypedDict

from pipelit_agents import Agent, Pipelit
from pipelit_agents.errors import CredentialError, CredentialNotAllowed, SecretLeakError

KEY = "crm-0123456789-abcdef"
NEW = "crm-9876543210-fedcba"
# Without it each client reads the certificates of the machine.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
LIBRARIES: dict[str, Any] = {"httpx": httpx, "httpx2": httpx2}


class Server:
    """Keeps what it is sent, and answers by the path."""

    def __init__(self) -> None:
        self.url = ""
        self.keys = {KEY}
        self.seen: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.on_request: Callable[[], object] = lambda: None


@contextmanager
def serving() -> Iterator[Server]:
    """A server on a port of this machine, for the length of the block."""
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            server.bodies.append(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            server.seen.append({key.lower(): value for key, value in self.headers.items()})
            server.on_request()
            sent = json.dumps(server.seen[-1])
            status, location = 200, ""
            if self.path.startswith("/to/"):
                status, location = 307, self.path.removeprefix("/to/")
            elif self.path == "/gone":
                self.close_connection = True
                return
            elif self.path == "/keys" and not any(key in sent for key in server.keys):
                status = 401
            body = sent.encode() if self.path == "/echo" else b"{}"
            self.send_response(status)
            if location:
                self.send_header("Location", location)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST  # noqa: N815 - a name of http.server

    with served(Handler) as server.url:
        yield server


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Server, Server]]:
    """Two servers, so two origins."""
    with serving() as one, serving() as other:
        yield one, other


@pytest.fixture
def crm(servers: tuple[Server, Server], pipelit: Pipelit) -> Server:
    """A server, and a credential for it."""
    for each in servers:
        each.keys, each.on_request = {KEY}, lambda: None
        each.seen, each.bodies = [], []
    put(pipelit, servers[0])
    return servers[0]


@pytest.fixture
def stranger(servers: tuple[Server, Server], crm: Server) -> Server:
    """A server that the credential isn't for."""
    return servers[1]


def put(pipelit: Pipelit, server: Server, value: Any = KEY, **more: Any) -> None:
    """Store a credential whose public field says for which server it is."""
    public = {"base_url": f"{server.url}/v1", **more.pop("public", {})}
    pipelit.credentials.put("crm", value, kind="api", created_by="alice", public=public, **more)


def openings(pipelit: Pipelit) -> list[tuple[str, str, str]]:
    """What the audit says, the oldest first."""
    rows = [each for each in pipelit.audit.list() if each.action == "credential.reveal"]
    return [(row.actor, row.outcome, row.reason) for row in rows]


async def send(library: str, asynchronous: bool, url: str, auth: Any, **options: Any) -> Any:
    """Send a request with one of the libraries; the response, which was read."""
    method, follow = options.pop("method", "GET"), options.pop("follow_redirects", False)
    module = LIBRARIES[library]
    if asynchronous:
        async with module.AsyncClient(auth=auth, follow_redirects=follow, verify=NO_TLS) as client:
            return await client.request(method, url, **options)
    with module.Client(auth=auth, follow_redirects=follow, verify=NO_TLS) as client:
        return client.request(method, url, **options)


CLIENTS = [(name, mode) for name in LIBRARIES for mode in (False, True)]
each_client = pytest.mark.parametrize(
    ("library", "asynchronous"),
    CLIENTS,
    ids=[f"{name}-{'async' if mode else 'sync'}" for name, mode in CLIENTS],
)


def in_clear(response: Any) -> str:
    """All headers of all requests that a response refers to."""
    found = [response, *response.history]
    requests = [each.request for each in found] + [each.next_request for each in found]
    return repr([each.headers.raw for each in requests if each is not None])


@each_client
async def test_the_header_is_filled_for_the_request_only(
    crm: Server, pipelit: Pipelit, writer: Agent, library: str, asynchronous: bool
) -> None:
    """The server gets the key; the request shows a mask, and each opening is on record."""
    auth = pipelit.credentials.http_auth("crm", agent=writer)
    for _ in range(2):
        response = await send(library, asynchronous, f"{crm.url}/a", auth)
        assert response.status_code == 200
        assert response.request.headers["authorization"] == "****"
    assert [each["authorization"] for each in crm.seen] == [f"Bearer {KEY}"] * 2
    assert openings(pipelit) == [("agent_writer", "ok", "")] * 2
    assert KEY not in repr((auth, vars(auth)))


@pytest.mark.parametrize(
    ("value", "public", "options", "sent"),
    [
        (KEY, {}, {"header": "X-Api-Key", "scheme": None}, ("x-api-key", KEY)),
        (KEY, {}, {"scheme": "token"}, ("authorization", f"token {KEY}")),
        ({"key": KEY, "other": NEW}, {}, {"name": "crm:other"}, ("authorization", f"Bearer {NEW}")),
        (KEY, {"username": "ann"}, {"scheme": "basic"}, ("authorization", "ann:" + KEY)),
        (
            {"username": "ann-the-user", "password": KEY},
            {},
            {"scheme": "Basic"},
            ("authorization", "ann-the-user:" + KEY),
        ),
    ],
    ids=["header", "scheme", "field", "basic", "basic-fields"],
)
def test_header_scheme_and_field_are_chosen(
    crm: Server, pipelit: Pipelit, value: Any, public: Any, options: Any, sent: tuple[str, str]
) -> None:
    """Which header, which word before the secret, which of several secrets; Basic has a user."""
    put(pipelit, crm, value, public=public)
    text = sent[1]
    if "asic" in str(options.get("scheme")):
        text = "Basic " + base64.b64encode(text.encode()).decode()
    auth = pipelit.credentials.http_auth(**{"name": "crm"} | options)
    httpx.get(crm.url, verify=NO_TLS, auth=auth)
    assert crm.seen[0][sent[0]] == text


@each_client
async def test_another_server_gets_nothing(
    crm: Server, stranger: Server, pipelit: Pipelit, library: str, asynchronous: bool
) -> None:
    """A request to another server than the credential's, or the code's, isn't sent."""
    for origins in (None, [crm.url]):
        auth = pipelit.credentials.http_auth("crm", origins=origins)
        with pytest.raises(CredentialError, match=r"isn't for http://127\.0\.0\.1:\d+:"):
            await send(library, asynchronous, f"{stranger.url}/a", auth)
    assert stranger.seen == []
    assert openings(pipelit)[-1] == ("", "refused", "another origin")


@pytest.mark.parametrize("header", ["Authorization", "X-Api-Key"])
@each_client
async def test_a_redirect_elsewhere_takes_no_header_along(
    crm: Server,
    stranger: Server,
    pipelit: Pipelit,
    library: str,
    asynchronous: bool,
    header: str,
) -> None:
    """A server can't pass the key on: httpx follows it with most headers, which is refused."""
    auth = pipelit.credentials.http_auth("crm", header=header)
    url = f"{crm.url}/to/{stranger.url}/stolen"
    if header == "Authorization":
        await send(library, asynchronous, url, auth, follow_redirects=True)
        assert "authorization" not in stranger.seen[0]
    else:
        with pytest.raises(CredentialError, match="isn't for"):
            await send(library, asynchronous, url, auth, follow_redirects=True)
        assert stranger.seen == []
        assert openings(pipelit)[-1] == ("", "refused", "another origin")


@each_client
async def test_a_redirect_on_the_same_server_works(
    crm: Server, pipelit: Pipelit, library: str, asynchronous: bool
) -> None:
    """As of a path without its slash; no request of the chain keeps the key."""
    auth = pipelit.credentials.http_auth("crm", header="X-Api-Key", scheme=None)
    for follow in (True, False):
        response = await send(
            library, asynchronous, f"{crm.url}/to//a", auth, follow_redirects=follow
        )
        assert KEY not in in_clear(response)
    assert [each["x-api-key"] for each in crm.seen] == [KEY] * 3


@each_client
async def test_a_replaced_credential_is_tried_once(
    crm: Server, pipelit: Pipelit, library: str, asynchronous: bool
) -> None:
    """After a 401 the request is repeated with a new value; with the old one it isn't."""
    auth = pipelit.credentials.http_auth("crm")
    crm.keys = {NEW}
    options = {"method": "POST", "content": b"body"}
    response = await send(library, asynchronous, f"{crm.url}/keys", auth, **options)
    assert (response.status_code, len(crm.seen)) == (401, 1)
    replaced = iter([True])
    crm.on_request = lambda: put(pipelit, crm, NEW) if next(replaced, False) else None
    response = await send(library, asynchronous, f"{crm.url}/keys", auth, **options)
    assert response.status_code == 200
    assert [each["authorization"] for each in crm.seen[1:]] == [f"Bearer {KEY}", f"Bearer {NEW}"]
    assert crm.bodies == [b"body"] * 3
    assert NEW not in in_clear(response)
    assert KEY not in in_clear(response)


@each_client
async def test_a_request_that_fails_keeps_nothing(
    crm: Server,
    pipelit: Pipelit,
    library: str,
    asynchronous: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Neither the error, its request and its frames, nor the logs of the client hold the key."""
    caplog.set_level(logging.DEBUG)
    auth = pipelit.credentials.http_auth("crm", header="X-Api-Key", scheme=None)
    with pytest.raises(LIBRARIES[library].TransportError) as caught:
        await send(library, asynchronous, f"{crm.url}/gone", auth)
    error: Any = caught.value
    assert crm.seen[0]["x-api-key"] == KEY
    assert error.request.headers["x-api-key"] == "****"
    variables = [
        variable
        for each in (error, error.__cause__)
        for frame, _ in traceback.walk_tb(each.__traceback__)
        for variable in frame.f_locals.values()
    ]
    headers = [each.headers for each in variables if hasattr(each, "headers")]
    assert any("x-api-key" in str(each).lower() for each in headers)
    shown = [getattr(each, "raw", each) for each in headers]
    assert KEY not in repr((variables, shown)) + caplog.text


def shown_by(error: BaseException) -> str:
    """What an error tracker could read: its request, and the variables of all frames."""
    found: list[Any] = []
    chain: BaseException | None = error
    while chain is not None:
        found.append(chain)
        for frame, _ in traceback.walk_tb(chain.__traceback__):
            found += frame.f_locals.values()
        chain = chain.__cause__ or chain.__context__
    found += [one for each in found if isinstance(each, list) for one in each]
    for name in ("_request", "request"):
        found += [vars(each)[name] for each in found if name in getattr(each, "__dict__", {})]
    headers = [each.headers for each in found if hasattr(each, "headers")]
    return repr((found, [getattr(each, "raw", each) for each in headers]))


@pytest.mark.parametrize("way", ["refused", "failed", "proxy"])
@each_client
async def test_an_error_after_a_redirect_or_at_a_proxy_keeps_nothing(
    crm: Server,
    stranger: Server,
    pipelit: Pipelit,
    monkeypatch: pytest.MonkeyPatch,
    library: str,
    asynchronous: bool,
    way: str,
) -> None:
    """Requests that httpx makes of the first one, with its headers, are masked in all frames."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    if way == "proxy":
        monkeypatch.setenv("HTTP_PROXY", stranger.url)
    path = {"refused": f"to/{stranger.url}/a", "failed": "to//gone", "proxy": "a"}[way]
    auth = pipelit.credentials.http_auth("crm", header="X-Api-Key", scheme=None)
    failed = LIBRARIES[library].TransportError if way == "failed" else CredentialError
    with pytest.raises(failed) as caught:
        await send(library, asynchronous, f"{crm.url}/{path}", auth, follow_redirects=True)
    shown = shown_by(caught.value)
    assert "x-api-key" in shown.lower()
    assert KEY not in shown
    assert stranger.seen == []


def test_a_stream_is_sent_once(crm: Server, pipelit: Pipelit) -> None:
    """A body that can't be sent again isn't, whatever the server says."""
    crm.keys = {NEW}
    auth = pipelit.credentials.http_auth("crm")
    headers = {"Content-Length": "4"}
    response = httpx.post(f"{crm.url}/keys", content=iter([b"body"]), headers=headers, auth=auth)
    assert (response.status_code, crm.bodies) == (401, [b"body"])


def test_a_callers_own_trace_is_called_too(crm: Server, pipelit: Pipelit) -> None:
    """The extension of httpx by which redirects are watched stays the caller's."""
    events: list[str] = []
    extensions = {"trace": lambda event, details: events.append(event)}
    auth = pipelit.credentials.http_auth("crm")
    with httpx.Client(auth=auth) as client:
        response = client.get(crm.url, extensions=extensions)
    assert "http11.send_request_headers.started" in events
    assert response.request.extensions["trace"] is extensions["trace"]


class State(TypedDict, total=False):
    said: Any


def test_what_a_guarded_node_returns_is_searched_for_it(crm: Server, pipelit: Pipelit) -> None:
    """A server that sends the key back can't get it into the state of a node with the guard."""
    auth = pipelit.credentials.http_auth("crm")

    @pipelit.credentials.guard
    def node(state: State) -> State:
        return {"said": httpx.get(f"{crm.url}/echo", verify=NO_TLS, auth=auth).json()}

    graph = StateGraph(State).add_node(node).add_edge(START, "node").compile()
    with pytest.raises(SecretLeakError):
        graph.invoke({})


def test_who_may_not_open_it_sends_nothing(
    crm: Server, pipelit: Pipelit, writer: Agent, editor: Agent
) -> None:
    """The agent is the code's choice, and the credential's list decides, for each request."""
    put(pipelit, crm, allow=["agent_writer"])
    for agent in (None, editor):
        with pytest.raises(CredentialNotAllowed):
            httpx.get(
                crm.url, verify=NO_TLS, auth=pipelit.credentials.http_auth("crm", agent=agent)
            )
    assert crm.seen == []
    httpx.get(crm.url, verify=NO_TLS, auth=pipelit.credentials.http_auth("crm", agent=writer))
    assert len(crm.seen) == 1


@pytest.mark.parametrize(
    ("value", "public", "options", "message"),
    [
        (KEY, {"base_url": 5}, {}, "which server may receive it"),
        (KEY, {"base_url": "http://crm.example.com"}, {}, "unencrypted"),
        ({"a": KEY, "b": NEW}, {}, {}, "name the field to send"),
        (KEY, {}, {"name": "crm:base_url"}, "not one secret"),
        (KEY, {}, {"scheme": "Basic"}, "no field 'username'"),
        (
            {"username": "ann-the-user", "password": KEY},
            {},
            {"name": "crm:password", "scheme": "Basic"},
            r'^Basic needs username and password: pass http_auth\("crm", scheme="Basic"\), without',
        ),
        (f"{KEY}\r\nX-Admin: 1", {}, {}, "printable ASCII"),
    ],
    ids=["no-url", "plain-http", "several", "public", "no-user", "basic-field", "two-lines"],
)
def test_a_credential_that_cannot_be_sent_says_why(
    crm: Server, pipelit: Pipelit, value: Any, public: Any, options: Any, message: str
) -> None:
    """The error names what is missing in the credential, and nothing is sent."""
    put(pipelit, crm, value, public=public)
    options = {"name": "crm"} | options
    with pytest.raises(CredentialError, match=message) as caught:
        httpx.get(crm.url, verify=NO_TLS, auth=pipelit.credentials.http_auth(**options))
    assert KEY not in str(caught.value)
    assert crm.seen == []


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"origins": "https://a.example"}, TypeError, "origins must be a list"),
        ({"origins": []}, TypeError, "origins must be a list"),
        ({"origins": ["http://crm.example.com"]}, ValueError, "unencrypted"),
        ({"origins": ["https://u:p@a.example"]}, ValueError, "user or password"),
        ({"origins": ["a.example"]}, ValueError, "https://"),
        ({"origins": [5]}, TypeError, "must be a URL"),
        ({"header": "X Key"}, ValueError, "header must be"),
        ({"scheme": "Bearer\n"}, ValueError, "scheme must be"),
        ({"agent": "agent_lead"}, TypeError, "handle"),
    ],
    ids=["text", "none", "http", "user", "host", "number", "header", "scheme", "agent"],
)
def test_arguments_are_checked_when_it_is_made(
    pipelit: Pipelit, options: Any, kind: type[Exception], message: str
) -> None:
    """A wrong argument is named where it was written, before anything is sent."""
    with pytest.raises(kind, match=message):
        pipelit.credentials.http_auth("crm", **options)


def test_origins_are_compared_as_browsers_do(pipelit: Pipelit) -> None:
    """Case and the usual port don't matter; another port, scheme or host does."""
    auth: Any = pipelit.credentials.http_auth("crm", origins=["https://CRM.example.com:443/v1"])
    pipelit.credentials.put("crm", KEY, kind="api", created_by="alice")
    transport = httpx.MockTransport(lambda request: httpx.Response(200))
    with httpx.Client(auth=auth, transport=transport) as client:
        assert client.get("https://crm.example.com/x").status_code == 200
        for url in (
            "https://crm.example.com:8443",
            "http://crm.example.com",
            "https://example.com",
        ):
            with pytest.raises(CredentialError):
                client.get(url)


def test_international_names_of_servers_work(pipelit: Pipelit) -> None:
    """A client shows such a name in Unicode; what is sent has its ASCII form."""
    pipelit.credentials.put("crm", KEY, kind="api", created_by="alice")
    sent: list[object] = []

    def answer(request: httpx.Request) -> httpx.Response:
        url = httpcore.URL(scheme="https", host=request.url.raw_host, port=None, target="/")
        on_the_wire = httpcore.Request("GET", url, headers=request.headers.raw)
        about = {"request": on_the_wire}
        request.extensions["trace"]("http11.send_request_headers.started", about)
        sent.extend(value for key, value in on_the_wire.headers if key == b"X-Api-Key")
        return httpx.Response(200)

    for origin in ("https://bücher.example", "https://xn--bcher-kva.example"):
        auth = pipelit.credentials.http_auth("crm", origins=[origin], header="X-Api-Key", scheme="")
        with httpx.Client(auth=auth, transport=httpx.MockTransport(answer)) as client:
            client.get("https://bücher.example/x")
    assert sent == [KEY.encode()] * 2


def test_it_is_copied_with_settings_and_never_pickled(pipelit: Pipelit) -> None:
    """A client's settings may be copied; the database that it refers to stays in its process."""
    auth = pipelit.credentials.http_auth("crm")
    assert copy.deepcopy({"auth": auth})["auth"] is auth
    with pytest.raises(TypeError, match="in the process that sends"):
        pickle.dumps(auth)
