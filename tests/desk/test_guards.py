"""What every request passes: hosts, sizes, JSON, methods, paths, and the headers of answers."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from desk_client import API, DeskTransport
from fastapi import APIRouter, FastAPI
from pydantic import BaseModel, ConfigDict

from pipelit_agents import Pipelit
from pipelit_agents.desk import DeskSettings, app, make_app
from pipelit_agents.desk.callers import AnyCaller, OperatorCaller

router = APIRouter()
# What a client or a proxy sends.
Headers = dict[str, str]


class Thing(BaseModel):
    """A body."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Any


@router.get("/things/{name}")
def thing(caller: AnyCaller, name: str) -> str:
    """What is there."""
    return name


@router.post("/things")
def make(caller: OperatorCaller, body: Thing) -> object:
    """What is there now."""
    return body.name


@router.put("/optional")
def change(caller: OperatorCaller, body: Thing | None = None) -> str:
    """What needs no body."""
    return "changed"


@router.get("/broken")
def broken(caller: AnyCaller) -> None:
    """What fails."""
    raise ValueError("plit_secret_words")


@pytest.fixture(autouse=True)
def _example(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "ROUTERS", (router,))


async def ask(
    desk: FastAPI,
    method: str = "GET",
    path: str = f"{API}/things/x",
    *,
    headers: list[tuple[str, str]] | None = None,
    messages: list[dict[str, Any]] | None = None,
    **scope: Any,
) -> tuple[int, dict[str, str], bytes]:
    """Send a request that no client would send, and return status, headers and body."""
    sent: list[Any] = []
    waiting = list(messages or [{"type": "http.request", "body": b"", "more_body": False}])

    async def receive() -> Any:
        if waiting:
            return waiting.pop(0)
        return await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    named = headers if headers is not None else [("Host", "localhost")]
    await desk(
        {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode()) for name, value in named],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        | scope,
        receive,
        send,
    )
    answered = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], answered, b"".join(each.get("body", b"") for each in sent[1:])


# Hosts


NAMES: list[tuple[str, int]] = [
    ("localhost", 401),
    ("localhost:8440", 401),
    ("LOCALHOST.", 401),
    ("127.0.0.1:1", 401),
    ("[::1]:8440", 401),
    ("desk.example.com", 401),
    ("a.agents.example.com", 401),
    ("agents.example.com", 400),
    ("evil.example", 400),
    ("localhost.evil.example", 400),
    ("evil.example:localhost", 400),
    ("localhost@evil.example", 400),
    ("localhost/evil", 400),
    ("", 400),
    ("*", 400),
    ("[::1", 400),
]


def test_only_the_desks_names_are_served(pipelit: Pipelit) -> None:
    """A name that another site lets resolve to this machine gets nothing, not even the page."""
    desk = make_app(
        pipelit,
        DeskSettings(
            public_url="https://desk.example.com",
            allowed_hosts="*.agents.example.com",
            _env_file=None,
        ),
    )
    for host, status in NAMES:
        answers = [
            asyncio.run(ask(desk, path=path, headers=[("Host", host)]))[0]
            for path in (f"{API}/me", "/x")
        ]
        assert answers == [status, 404 if status == 401 else 400], host


async def test_a_host_is_named_once(desk_app: FastAPI) -> None:
    """Two names, or none, are refused; load balancers ask for the health by an address."""
    for headers in ([], [("Host", "localhost")] * 2):
        assert (await ask(desk_app, headers=headers))[0] == 400
    assert (await ask(desk_app, path="/health", headers=[("Host", "10.1.2.3")]))[0] == 200


# Paths, methods and headers


TRICKS: list[str] = [
    "/static/../app.py",
    "/static/%2e%2e/app.py",
    "/static/..%2fapp.py",
    "/static/..%5Capp.py",
    "/static\\..\\app.py",
    "//api/v1/me",
    "/api//v1/me",
    "/api/v1/./me",
    "/api/v1/me/..",
    "/api/v1/me%00",
    "/static/%00index.html",
    "/static/..",
]


async def test_a_path_with_two_meanings_is_refused(desk_app: FastAPI) -> None:
    """No path leads to another folder, or past a proxy's rules."""
    from urllib.parse import unquote

    for path in TRICKS:
        status, _, body = await ask(desk_app, path=unquote(path), raw_path=path.encode())
        assert (status, b"urn:pipelit-agents:problem" in body) == (400, True), path


async def test_files_outside_of_the_pages_arent_served(desk_app: FastAPI) -> None:
    """Only what is in the folder of the pages has a path."""
    for name in ("app.py", "/etc/passwd", "etc/passwd", ".", "~", "index.html/", "views"):
        assert (await ask(desk_app, path=f"/static/{name}"))[0] in (400, 404), name


async def test_too_much_is_refused(desk_app: FastAPI) -> None:
    """A long path, a long query, many headers and large ones are refused before anything else."""
    many = [("Host", "localhost"), *((f"X-{number}", "x") for number in range(70))]
    large = [("Host", "localhost"), ("X-Large", "x" * 20_000)]
    assert (await ask(desk_app, path="/" + "x" * 3_000))[0] == 414
    assert (await ask(desk_app, query_string=b"x" * 3_000))[0] == 414
    assert (await ask(desk_app, headers=many))[0] == 431
    assert (await ask(desk_app, headers=large))[0] == 431


async def test_other_methods_are_refused(desk_app: FastAPI) -> None:
    """TRACE would repeat the key, CONNECT is a proxy's, and invented ones mean nothing."""
    for method in ("TRACE", "CONNECT", "X"):
        assert (await ask(desk_app, method))[0] == 405


def test_a_method_that_a_path_lacks(operator: httpx.Client, nobody: httpx.Client) -> None:
    """The answer names the methods that there are, but not without a key."""
    answer = operator.delete("/things/x")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
    assert nobody.delete("/things/x").status_code == 401


# Bodies


BODIES: list[tuple[bytes, str]] = [
    (b"{", "JSON"),
    (b'{"name": 1, "name": 2}', "twice"),
    (b'{"name": {"x": 1, "x": 1}}', "twice"),
    (b'{"name": NaN}', "NaN"),
    (b'{"name": -Infinity}', "Infinity"),
    (b'{"name": "\xff"}', "UTF-8"),
    (b'\xef\xbb\xbf{"name": 1}', "JSON"),
    ('{"name": 1}'.encode("utf-16"), "UTF-8"),
    (b'{"name": "\\u0000"}', "NUL"),
    (b'{"name": "\\ud800"}', "half"),
    (b'{"name": ' + b"[" * 40 + b"]" * 40 + b"}", "nested"),
    (b'{"name": ' + b"[" * 100_000, "nested"),
    (b'{"name": ' + b'{"x":' * 40 + b"1" + b"}" * 41, "nested"),
    (b'{"name": ' + b"1" * 5_000 + b"}", "JSON"),
    (b'{"name": 1, "other": 2}', "accepted"),
    (b'["name"]', "accepted"),
    (b'"unreadable"', "accepted"),
]


def test_a_body_has_one_meaning(operator: httpx.Client) -> None:
    """JSON that programs read differently, or that no model has, is refused in words."""
    headers = {"Content-Type": "application/json"}
    for content, why in BODIES:
        answer = operator.post("/things", content=content, headers=headers)
        assert answer.status_code == 422, content[:24]
        assert why in json.dumps(answer.json()), content[:24]


def test_brackets_in_a_text_arent_levels(operator: httpx.Client) -> None:
    """A text may have as many brackets and quotes as it likes."""
    text = '[{"' * 5_000
    assert operator.post("/things", json={"name": text}).json() == text


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ('\\"', ""),
        ('\\"', "\\"),
        ('\\"[', ""),
        ("\\\\", ""),
        ("[", ""),
        ('\\"', '"'),
    ],
    ids=["quotes", "half an escape", "brackets", "backslashes", "levels", "with an end"],
)
def test_a_text_is_read_once_whatever_is_in_it(operator: httpx.Client, text: str, end: str) -> None:
    """The time for a body grows with its size alone, and so the event loop waits for nobody."""
    content = ('{"name": [' + "[]," * 40 + '"' + text * 20_000 + end).encode()
    began = time.thread_time()
    answer = operator.post("/things", content=content, headers={"Content-Type": "application/json"})
    assert time.thread_time() - began < 1
    assert answer.status_code == 422


def test_a_role_is_refused_before_a_body(member: httpx.Client) -> None:
    """Whoever may not act learns nothing of what a body should be."""
    headers = {"Content-Type": "application/json"}
    for content in (b"{", b'{"name": 1, "name": 2}', b"{}"):
        assert member.post("/things", content=content, headers=headers).status_code == 403


def test_a_body_that_cant_be_read_is_never_no_body(operator: httpx.Client) -> None:
    """Where a body may be left out, a malformed one is refused all the same."""
    headers = {"Content-Type": "application/json"}
    assert operator.put("/optional").json() == "changed"
    assert operator.put("/optional", content=b"{", headers=headers).status_code == 422


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Type": "application/json; charset=utf-16"},
        {"Content-Type": "application/jsonx"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ],
    ids=["none", "text", "form", "multipart", "utf-16", "another", "compressed"],
)
def test_a_body_is_json(operator: httpx.Client, headers: Headers) -> None:
    """Only JSON is read: a form of another site would need no preflight."""
    answer = operator.post("/things", content=b'{"name": 1}', headers=headers)
    assert answer.status_code == 415


def test_a_get_has_no_body(operator: httpx.Client) -> None:
    """A body that proxies may drop or keep is refused."""
    headers = {"Content-Type": "application/json"}
    assert operator.request("GET", "/things/x", content=b"{}", headers=headers).status_code == 400


async def _post(desk: FastAPI, key: str, *parts: bytes, length: int | None) -> tuple[int, Headers]:
    headers = [
        ("Host", "localhost"),
        ("Authorization", f"Bearer {key}"),
        ("Content-Type", "application/json"),
        ("Transfer-Encoding", "chunked") if length is None else ("Content-Length", str(length)),
    ]
    messages = [{"type": "http.request", "body": each, "more_body": True} for each in parts]
    status, answered, _ = await ask(
        desk, "POST", f"{API}/things", headers=headers, messages=messages
    )
    return status, answered


async def test_a_body_has_a_size_and_a_time(pipelit: Pipelit, desk_keys: dict[str, str]) -> None:
    """What is too large is refused when it is announced or when it arrives; so is what is slow."""
    desk = make_app(
        pipelit, DeskSettings(max_body_size=2_000, receive_timeout=0.05, _env_file=None)
    )
    key = desk_keys["alice"]
    assert (await _post(desk, key, length=3_000))[0] == 413
    status, headers = await _post(desk, key, *[b"x" * 500] * 9, length=None)
    # What is left of the body isn't the next request.
    assert (status, headers["connection"]) == (413, "close")
    assert (await _post(desk, key, b"{", length=None))[0] == 408


async def test_a_length_is_a_number(desk_app: FastAPI, desk_keys: dict[str, str]) -> None:
    """Content-Length is digits, once."""
    for values in (["-1"], ["+1"], ["1e3"], ["0x1"], ["9" * 30], ["1", "2"]):
        headers = [("Host", "localhost"), ("Authorization", f"Bearer {desk_keys['alice']}")]
        headers += [("Content-Length", each) for each in values]
        assert (await ask(desk_app, "POST", headers=headers))[0] == 400, values


async def test_without_a_key_no_body_is_received(desk_app: FastAPI) -> None:
    """Strangers are answered before their body is."""
    headers = [("Host", "localhost"), ("Content-Length", "100000000")]
    status, _, _ = await ask(desk_app, "POST", f"{API}/things", headers=headers, messages=[])
    assert status == 401


# Answers


@pytest.mark.parametrize("path", [f"{API}/things/x", "/", "/static/x", "/health", "/nothing"])
async def test_every_answer_is_closed(desk_app: FastAPI, path: str) -> None:
    """No answer is framed, sniffed, or runs what isn't the desk's own."""
    _, headers, _ = await ask(desk_app, path=path)
    policy = headers["content-security-policy"].split("; ")
    assert {
        "default-src 'none'",
        "script-src 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    } <= set(policy)
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in headers
    assert "strict-transport-security" not in headers
    assert "server" not in headers


async def test_nothing_of_the_api_is_kept(desk_app: FastAPI) -> None:
    """No cache keeps an answer of the API, and browsers ask whether a page has changed."""
    for path in (f"{API}/me", f"{API}/nothing", "/health"):
        assert (await ask(desk_app, path=path))[1]["cache-control"] == "no-store", path


async def test_https_stays_https(pipelit: Pipelit) -> None:
    """Where people come by HTTPS, their browsers never try HTTP again."""
    settings = DeskSettings(public_url="https://desk.example.com/", _env_file=None)
    _, headers, _ = await ask(make_app(pipelit, settings))
    assert headers["strict-transport-security"].startswith("max-age=")


def test_other_sites_are_shut_out(pipelit: Pipelit, operator: httpx.Client) -> None:
    """A page of another site gets no permission, not even for a preflight."""
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    answer = operator.options("/things", headers=asked | {"Authorization": ""})
    assert answer.status_code == 401
    assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_named_sites_may_call(pipelit: Pipelit) -> None:
    """An origin of the settings may call the API, with its own key and without cookies."""
    settings = DeskSettings(cors_origins="https://admin.example.com", _env_file=None)
    desk = make_app(pipelit, settings)
    for origin, allowed in (
        ("https://admin.example.com", "https://admin.example.com"),
        ("http://admin.example.com", None),
        ("https://admin.example.com.evil.example", None),
        ("null", None),
    ):
        headers = [("Host", "localhost"), ("Origin", origin)]
        asked = [*headers, ("Access-Control-Request-Method", "POST")]
        status, answered, _ = await ask(desk, "OPTIONS", headers=asked)
        assert (status, answered.get("access-control-allow-origin")) == (
            204 if allowed else 401,
            allowed,
        )
        assert "access-control-allow-credentials" not in answered
        _, answered, _ = await ask(desk, headers=headers)
        assert answered.get("access-control-allow-origin") == allowed
        assert answered["vary"] == "Origin"


def test_a_failure_says_nothing(
    operator: httpx.Client, caplog: pytest.LogCaptureFixture, desk_keys: dict[str, str]
) -> None:
    """The answer has fixed words, and the log says where it was without the error's words."""
    with caplog.at_level(logging.INFO):
        answer = operator.get("/broken", params={"secret": desk_keys["bob"]})
    assert (answer.status_code, answer.json()["type"]) == (
        500,
        "urn:pipelit-agents:problem:unexpected",
    )
    # The test's own client logs what it requests.
    logged = [each.message for each in caplog.records if each.name.startswith("pipelit_agents")]
    assert "test_guards.py" in logged[0]
    assert not [each for each in (*logged, answer.text) if "secret" in each or "plit_" in each]


def test_the_log_has_no_words_of_a_request(
    operator: httpx.Client, nobody: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    """The log of requests names the route, the caller and the status, and nothing typed."""
    with caplog.at_level(logging.INFO, "pipelit_agents.desk.access"):
        operator.get("/things/plit_typed_here?key=plit_typed_there")
        operator.get("/plit_typed")
        nobody.get("/things/plit_typed", headers={"Cookie": "plit_typed"})
    lines = [each.message.rpartition(" ")[0] for each in caplog.records]
    assert lines == [
        "127.0.0.1 alice GET /api/v1/things/{name} 200",
        "127.0.0.1 alice GET (not shown) 404",
        "127.0.0.1 - GET (not shown) 401",
    ]


async def test_web_sockets_are_closed(desk_app: FastAPI) -> None:
    """The desk has none, below no path."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    scope = {"type": "websocket", "path": f"{API}/me", "headers": [], "root_path": ""}
    await desk_app(scope, receive, send)
    assert sent == ["websocket.close"]


# Below a prefix, and behind proxies


def test_the_desk_is_mounted_below_a_prefix(
    pipelit: Pipelit, desk_keys: dict[str, str], client_of: Callable[..., httpx.Client]
) -> None:
    """Another application mounts it, and its own paths aren't guarded."""
    outer = FastAPI()
    outer.mount("/desk", make_app(pipelit, DeskSettings(_env_file=None)))

    @outer.get("/own")
    def own() -> str:
        return "own"

    with httpx.Client(transport=DeskTransport(outer), base_url="http://localhost") as client:
        assert client.get("/own").json() == "own"
        assert client.get(f"/desk{API}/things/x").status_code == 401
        headers = {"Authorization": f"Bearer {desk_keys['bob']}"}
        assert client.get(f"/desk{API}/things/x", headers=headers).json() == "x"
        assert client.get("/desk/nothing").headers["content-security-policy"]
        assert "content-security-policy" not in client.get("/nothing").headers


@pytest.mark.parametrize(
    ("client", "forwarded", "seen"),
    [
        ("10.0.0.2", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.2", "1.1.1.1, 203.0.113.9", "203.0.113.9"),
        ("10.0.0.2", "1.1.1.1, 203.0.113.9, 10.0.0.3", "203.0.113.9"),
        ("10.0.0.2", "203.0.113.9:4711", "203.0.113.9"),
        ("10.0.0.2", "[2001:db8::1]:4711", "2001:db8::1"),
        ("10.0.0.2", "unknown", "10.0.0.2"),
        ("10.0.0.2", "[::1", "10.0.0.2"),
        ("10.0.0.2", "fe80::1%\x9b31m, 10.0.0.3", "10.0.0.3"),
        ("10.0.0.2", "", "10.0.0.2"),
        ("203.0.113.7", "1.1.1.1", "203.0.113.7"),
    ],
)
async def test_only_proxies_are_believed(
    pipelit: Pipelit,
    caplog: pytest.LogCaptureFixture,
    client: str,
    forwarded: str,
    seen: str,
) -> None:
    """The client's address is what the nearest trusted proxies wrote, never what clients write."""
    desk = make_app(pipelit, DeskSettings(trusted_proxies="10.0.0.0/8", _env_file=None))
    headers = [("Host", "localhost"), ("X-Forwarded-For", forwarded)]
    with caplog.at_level(logging.INFO, "pipelit_agents.desk.access"):
        await ask(desk, headers=headers, client=(client, 1))
    assert caplog.records[-1].message.split()[0] == seen
