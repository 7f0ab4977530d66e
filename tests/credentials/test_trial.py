"""``credentials.test``: what a service's answer says of a key, and that it goes nowhere else."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from certificates import certify
from internals import database_of
from redis_server import until
from sqlalchemy import text

from pipelit_agents import Agent, CredentialTest, Pipelit
from pipelit_agents.credentials.bounded_http import is_public
from pipelit_agents.credentials.model_lists import models_request
from pipelit_agents.credentials.opening import Opened, decrypted
from pipelit_agents.credentials.scope import Scope
from pipelit_agents.credentials.secret import Secret
from pipelit_agents.credentials.trial_request import Request
from pipelit_agents.credentials.trial_request import ask as really_ask
from pipelit_agents.credentials.trial_words import NOT_PUBLIC, Finding, by_error
from pipelit_agents.errors import (
    CredentialError,
    CredentialNotAllowed,
    CredentialNotFound,
    CredentialScopeError,
    NobodyAuthenticated,
    UnsealError,
)

KEY = "crm-0123456789-abcdef"
# Without it each client reads the certificates of the machine.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
SEED = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"


class Server:
    """Keeps what it is sent; each request's path says what it answers."""

    def __init__(self) -> None:
        self.url = ""
        self.seen: list[dict[str, str]] = []
        self.stop = threading.Event()
        self.left = threading.Event()

    @property
    def keys(self) -> list[bool]:
        """Of each request: whether it had the key."""
        return [KEY in repr(each) for each in self.seen]


@contextmanager
def serving(tls: Path | None = None) -> Iterator[Server]:
    """A server on a port of this machine, for the length of the block."""
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            server.seen.append(
                {"path": self.path, **{key.lower(): value for key, value in self.headers.items()}}
            )
            self.close_connection = True
            _, way, *rest = self.path.split("/", 2)
            with suppress(OSError):
                getattr(self, f"do_{way}", self.do_key)(*rest)

        def answer(self, status: int, *headers: tuple[str, str], reason: str = "said") -> None:
            self.send_response(status, reason)
            for name, value in headers:
                self.send_header(name, value)
            self.end_headers()

        def do_key(self, *_: str) -> None:
            self.answer(200 if server.keys[-1] else 401)

        def do_open(self, *_: str) -> None:
            self.answer(200)

        def do_busy(self, *_: str) -> None:
            self.answer(200 if len(server.seen) == 1 else 429)

        def do_session(self, *_: str) -> None:
            known = server.keys[-1] or "cookie" in server.seen[-1]
            self.answer(200 if known else 401, ("Set-Cookie", "session=1; Path=/"))

        def do_code(self, status: str) -> None:
            self.answer(int(status.partition("?")[0]) if server.keys[-1] else 401)

        def do_to(self, url: str) -> None:
            self.answer(307, ("Location", url))

        def do_close(self) -> None:
            """Answers nothing."""

        def do_slow(self) -> None:
            server.stop.wait(5)

        def do_drip(self) -> None:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            try:
                while not server.stop.wait(0.01):
                    self.wfile.write(b"X-A: a\r\n")
            except OSError:
                server.left.set()

        def do_endless(self) -> None:
            self.do_key()
            while not server.stop.is_set():
                self.wfile.write(KEY.encode() * 1000)

        def do_echo(self) -> None:
            self.answer(200 if server.keys[-1] else 401, ("X-Said", KEY), reason=KEY)
            self.wfile.write(KEY.encode())

        def log_message(self, *args: Any) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls)
            running.socket = context.wrap_socket(running.socket, server_side=True)
        running.daemon_threads = True
        running.handle_error = lambda *_: None  # type: ignore[method-assign]
        server.url = f"http{'' if tls is None else 's'}://localhost:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever, args=[0.02])
        thread.start()
        try:
            yield server
        finally:
            server.stop.set()
            running.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[Server, Server]]:
    """Two servers, so two origins."""
    with serving() as one, serving() as other:
        yield one, other


@pytest.fixture
def crm(running: tuple[Server, Server]) -> Server:
    """The service of the credential."""
    for each in running:
        each.seen = []
    return running[0]


@pytest.fixture
def stranger(running: tuple[Server, Server], crm: Server) -> Server:
    """A server that the credential isn't for."""
    return running[1]


def put(pipelit: Pipelit, value: Any = KEY, *, allow: Any = None, **public: Any) -> None:
    """Store the credential that is tested."""
    pipelit.credentials.put(
        "crm", value, kind="api", created_by="alice", public=public, allow=allow
    )


def entries(pipelit: Pipelit) -> list[tuple[str, str, str]]:
    """What the audit says of openings, the oldest first."""
    rows = [each for each in pipelit.audit.list() if each.action == "credential.reveal"]
    return [(row.actor, row.outcome, row.reason) for row in rows]


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
async def test_a_good_key_is_good_and_a_wrong_one_is_refused(
    crm: Server, pipelit: Pipelit, writer: Agent, asynchronous: bool
) -> None:
    """The service is asked with the key, then without it; one opening is on record, as a test."""
    found = []
    for value in (KEY, "crm-of-another-time-1"):
        put(pipelit, value, test_url=f"{crm.url}/key", allow=["agent_writer"])
        if asynchronous:
            found.append(await pipelit.credentials.atest("crm", agent=writer))
        else:
            found.append(pipelit.credentials.test("crm", agent=writer))
    assert [(each.outcome, each.status, each.server) for each in found] == [
        ("good", 200, crm.url),
        ("refused", 401, crm.url),
    ]
    assert [each.good for each in found] == [True, False]
    assert "store it with credentials put" in found[1].reason
    assert crm.keys == [True, False, False]
    assert crm.seen[0]["authorization"] == f"Bearer {KEY}"
    assert "authorization" not in crm.seen[1]
    assert entries(pipelit) == [("agent_writer", "ok", "test")] * 2


@pytest.mark.parametrize(
    ("path", "outcome", "reason"),
    [
        ("code/403", "refused", "no permission"),
        ("code/402", "refused", "no credit"),
        ("code/400", "unanswered", "says nothing about the key"),
        ("code/404", "unanswered", "correct the public field base_url or test_url"),
        ("code/429", "unanswered", "try again later"),
        ("code/500", "unanswered", "a fault of its own"),
        ("open", "untested", "the same answer without the key"),
        ("busy", "unanswered", "whether it refuses those without it"),
        ("session", "good", "accepts it"),
        ("close", "unanswered", "closed the connection"),
        ("slow", "unanswered", "no answer within 0.2 s"),
        ("drip", "unanswered", "no answer within 0.2 s"),
        ("endless", "good", "accepts it"),
    ],
    ids=lambda value: value if "/" in value or value.isalpha() else "",
)
def test_each_answer_has_an_outcome_and_a_reason(
    crm: Server, pipelit: Pipelit, path: str, outcome: str, reason: str
) -> None:
    """Also those of a server that hangs, that sends bytes without end, or that knows nobody."""
    put(pipelit, test_url=f"{crm.url}/{path}")
    # A busy machine may be slow where the time limit isn't what is tested.
    timeout = 0.2 if "0.2 s" in reason else 10.0
    found = pipelit.credentials.test("crm", timeout=timeout)
    assert (found.outcome, reason in found.reason) == (outcome, True), found
    # The connection doesn't go on in the background.
    assert path != "drip" or crm.left.wait(5)


def test_a_redirect_takes_the_key_nowhere(crm: Server, stranger: Server, pipelit: Pipelit) -> None:
    """It isn't followed, and its address isn't shown, as a server may put anything into it."""
    put(pipelit, test_url=f"{crm.url}/to/{stranger.url}/{KEY}", test_header="X-Api-Key")
    found = pipelit.credentials.test("crm")
    assert (found.outcome, found.status) == ("unanswered", 307)
    assert KEY not in repr(found)
    assert stranger.seen == []


@pytest.mark.parametrize("field", ["base_url", "test_url"])
def test_another_server_than_the_credentials_gets_nothing(
    crm: Server, stranger: Server, pipelit: Pipelit, field: str
) -> None:
    """The address to test is on the credential's server, and that is encrypted or here."""
    urls = {"base_url": crm.url, "test_url": stranger.url}
    if field == "test_url":
        urls = {"test_url": "http://crm.example.com/key"}
    put(pipelit, **urls)
    found = pipelit.credentials.test("crm")
    assert found.outcome == "unanswered"
    assert ("isn't for" if field == "base_url" else "unencrypted") in found.reason
    assert crm.seen == stranger.seen == []
    if field == "base_url":
        assert entries(pipelit) == [("", "ok", "test"), ("", "refused", "another origin")]


def test_what_a_server_repeats_is_neither_shown_nor_logged(
    crm: Server, pipelit: Pipelit, caplog: pytest.LogCaptureFixture
) -> None:
    """The key in its body, in a header and in its reason phrase; the body isn't read."""
    caplog.set_level(logging.DEBUG)
    put(pipelit, test_url=f"{crm.url}/echo")
    found = pipelit.credentials.test("crm")
    assert found.outcome == "good"
    assert KEY not in f"{found!r}{caplog.text}{pipelit.audit.list()!r}{found._repr_html_()}"
    # Other requests are logged as before.
    httpx.get(f"{crm.url}/open", verify=NO_TLS)
    assert "/open" in caplog.text


def test_a_proxy_or_netrc_of_the_environment_gets_nothing(
    crm: Server,
    stranger: Server,
    pipelit: Pipelit,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """A request to this machine takes no way around, and no other password is sent."""
    (tmp_path / "netrc").write_text("machine localhost login ann password of-the-netrc\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HTTP_PROXY", stranger.url)
    monkeypatch.setenv("ALL_PROXY", stranger.url)
    put(pipelit, test_url=f"{crm.url}/key")
    assert pipelit.credentials.test("crm").good
    assert stranger.seen == []
    assert "authorization" not in crm.seen[1]


def test_a_certificate_that_nobody_signed_stops_the_key(
    pipelit: Pipelit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The server must be who its address says, before it gets the key."""
    certificate = certify(tmp_path)
    with serving(certificate) as other:
        put(pipelit, test_url=f"{other.url}/key")
        found = pipelit.credentials.test("crm")
        assert found.outcome == "unanswered"
        assert "certificate isn't trusted, so the key wasn't sent" in found.reason
        assert other.seen == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert pipelit.credentials.test("crm").good


def test_nothing_at_an_address_is_no_answer(pipelit: Pipelit) -> None:
    """A port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    put(pipelit, test_url=f"http://127.0.0.1:{port}/")
    found = pipelit.credentials.test("crm")
    assert (found.outcome, found.status) == ("unanswered", None)
    assert "nothing answers at this address" in found.reason


def test_a_name_without_an_address_is_said() -> None:
    """As a resolver refuses it, below the errors of httpx."""
    error = httpx.ConnectError("all of it")
    error.__cause__ = socket.gaierror(-2, "Name or service not known")
    assert "can't be resolved" in by_error(error, 1.0)


def test_a_name_server_that_hangs_holds_up_no_exit(
    pipelit: Pipelit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python waits at exit for the threads in which asyncio looks names up, also for daemons."""
    answered, threads = threading.Event(), []

    def hanging(*_: Any, **__: Any) -> Any:
        threads.append(threading.current_thread().name)
        answered.wait(10)
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", hanging)
    put(pipelit, test_url="http://localhost:9/")
    found = pipelit.credentials.test("crm", timeout=0.1)
    answered.set()
    assert "no answer within 0.1 s" in found.reason
    assert threads == ["pipelit-apart"]


@pytest.mark.parametrize(
    ("value", "public", "name", "header", "sent"),
    [
        (KEY, {"test_header": "X-Api-Key", "test_scheme": ""}, "crm", "x-api-key", KEY),
        ({"id": "some-identifier", "key": KEY}, {}, "crm:key", "authorization", f"Bearer {KEY}"),
        (
            {"password": KEY},
            {"test_scheme": "Basic", "username": "ann"},
            "crm",
            "authorization",
            "Basic YW5uOmNybS0wMTIzNDU2Nzg5LWFiY2RlZg==",
        ),
    ],
    ids=["header", "field", "basic"],
)
def test_header_scheme_and_field_are_chosen(
    crm: Server, pipelit: Pipelit, value: Any, public: Any, name: str, header: str, sent: str
) -> None:
    """By public fields, which `http_auth` takes as arguments, and by the reference."""
    put(pipelit, value, test_url=f"{crm.url}/key", **public)
    pipelit.credentials.test(name)
    assert crm.seen[0][header] == sent


@pytest.mark.parametrize(
    ("public", "reason"),
    [
        ({"test_url": 5}, "can't be read as a URL"),
        ({"test_url": "https://ann:pw@localhost/"}, "must not hold a user or password"),
        ({"test_url": "https://localhost/", "test_header": 5}, "test_header must be the name"),
        ({"test_url": "https://localhost/", "test_scheme": "a b"}, "test_scheme must be one word"),
        ({"test_url": "https://localhost/", "test_scheme": "Basic"}, "no field 'username'"),
    ],
    ids=["url", "user", "header", "scheme", "basic"],
)
def test_a_public_field_that_cant_be_used_is_named(
    pipelit: Pipelit, public: Any, reason: str
) -> None:
    """Nothing is sent then."""
    put(pipelit, **public)
    found = pipelit.credentials.test("crm")
    assert (found.outcome, reason in found.reason) == ("unanswered", True), found


@pytest.mark.parametrize(
    ("public", "path", "header", "sent"),
    [
        ({"model": "openai:gpt-5-mini"}, "/models", "authorization", f"Bearer {KEY}"),
        ({"model": "gpt-5-mini"}, "/models", "authorization", f"Bearer {KEY}"),
        ({"model": "anthropic:claude"}, "/v1/models", "x-api-key", KEY),
        (
            {"model": "gemini-3", "model_provider": "google-genai"},
            "/v1beta/models",
            "x-goog-api-key",
            KEY,
        ),
        ({"model": "openrouter:x/y"}, "/key", "authorization", f"Bearer {KEY}"),
    ],
    ids=["openai", "by-name", "anthropic", "google", "openrouter"],
)
def test_a_models_key_is_tested_at_its_own_server(
    crm: Server, pipelit: Pipelit, public: Any, path: str, header: str, sent: str
) -> None:
    """The provider says path and header; ``base_url`` says where, and nobody else is asked."""
    put(pipelit, base_url=f"{crm.url}/", **public)
    assert pipelit.credentials.test("crm").good
    assert (crm.seen[0]["path"], crm.seen[0][header]) == (path, sent)
    assert ("anthropic-version" in crm.seen[1]) == (header == "x-api-key")
    assert crm.keys == [True, False]


def test_a_model_without_an_address_is_tested_at_its_provider() -> None:
    """Its documented one; a key that is for another server is never sent there."""
    request = models_request({"model": "openai:gpt-5-mini"})
    assert request == Request("https://api.openai.com/v1/models")
    for public in (
        {"model": "azure_openai:gpt-5"},
        {"model": "openai:gpt-5", "base_url": {"url": "https://a.example"}},
        {"model": "openai:gpt-5", "base_url": "https://a.example", "azure_endpoint": "https://b"},
        {"model": "openai:gpt-5", "client_options": {"api_endpoint": "a.example"}, "base_url": "b"},
        {"model": "bedrock:claude"},
        {"model": "ft:gpt-5:acme"},
    ):
        found = models_request(public)
        assert isinstance(found, Finding)
        assert found.outcome == "untested"
    within = models_request({"model": "gpt-5", "client_options": {"api_endpoint": "a.example"}})
    assert within == Request("a.example/models")


@pytest.mark.parametrize(
    ("model", "variable"),
    [
        ("openai:gpt-5", "OPENAI_API_BASE"),
        ("openai:gpt-5", "OPENAI_BASE_URL"),
        ("mistralai:x", "MISTRAL_BASE_URL"),
    ],
)
def test_a_key_for_the_environments_server_isnt_sent_to_the_provider(
    monkeypatch: pytest.MonkeyPatch, model: str, variable: str
) -> None:
    """LangChain would send it there: it may be the key of a proxy for models."""
    monkeypatch.setenv(variable, "https://models.example")
    found = models_request({"model": model})
    assert isinstance(found, Finding)
    assert (found.outcome, variable in found.reason) == ("untested", True)
    named = models_request({"model": model, "base_url": "https://a.example"})
    assert named == Request("https://a.example/models")


def test_google_refuses_a_key_by_another_status(crm: Server, pipelit: Pipelit) -> None:
    """It says 400 where others say 401."""
    public = {"model": "x", "model_provider": "google_genai"}
    put(pipelit, base_url=f"{crm.url}/code/400?", **public)
    assert pipelit.credentials.test("crm").outcome == "refused"


@pytest.mark.parametrize(
    ("value", "outcome", "reason"),
    [
        (f"otpauth://totp/acme:ann?secret={SEED}&issuer=acme", "good", "None was made"),
        (f"postgresql://ann:x@{KEY}@localhost/crm", "untested", "write %40"),
        (f"postgresql://ann:x@{KEY}/y@localhost/crm", "untested", "write %40"),
        (KEY, "untested", "nothing is known about how to test it"),
        ({"a-key": KEY, "another": "crm-0000000000"}, "untested", "for example crm:a-key"),
        ("sqlite:///of-the-test.db", "untested", "nothing is known"),
        (f"redis://ann:{KEY}@localhost/0", "untested", "nothing is known"),
        (f"mysql+pymysql://ann:{KEY}@localhost/crm", "untested", "isn't installed"),
        (f"mysql://ann:{KEY}@localhost:x/crm", "untested", "nothing is known"),
    ],
    ids=[
        "totp",
        "at-sign",
        "at-sign-and-slash",
        "else",
        "several",
        "file",
        "redis",
        "no-driver",
        "no-url",
    ],
)
def test_what_is_asked_of_nobody(pipelit: Pipelit, value: Any, outcome: str, reason: str) -> None:
    """A seed spends no code, a file isn't made, and of others nothing is known."""
    put(pipelit, value)
    found = pipelit.credentials.test("crm")
    assert (found.outcome, reason in found.reason) == (outcome, True), found
    assert KEY not in repr(found)
    assert SEED not in repr(found)
    assert not Path("of-the-test.db").exists()


@pytest.mark.parametrize(
    "public", [{"model": "openai:gpt-5"}, {"test_url": "https://a.example"}], ids=["model", "url"]
)
def test_a_seed_is_never_sent(pipelit: Pipelit, public: dict[str, Any]) -> None:
    """Whatever its public fields say."""
    put(pipelit, {"key": KEY, "totp": f"otpauth://totp/x?secret={SEED}"}, **public)
    for each in ("crm:totp", "crm:code"):
        found = pipelit.credentials.test(each)
        assert (found.outcome, found.server) == ("good", "")


def postgres_that_says(answer: bytes) -> Iterator[str]:
    """A server that refuses a connection in the words of PostgreSQL; its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    with connection:
                        connection.recv(8)
                        connection.sendall(b"N")
                        connection.recv(1000)
                        connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_database_refuses_a_password(pipelit: Pipelit, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever its error repeats, the password isn't shown or logged."""
    caplog.set_level(logging.DEBUG)
    fields = b"SFATAL\0C28P01\0Mpassword authentication failed: " + KEY.encode() + b"\0\0"
    answer = b"E" + (len(fields) + 4).to_bytes(4, "big") + fields
    for host in postgres_that_says(answer):
        put(pipelit, f"postgres://ann:{KEY}@{host}/crm?sslmode=prefer")
        found = pipelit.credentials.test("crm")
        assert (found.outcome, found.server) == ("refused", f"postgresql://{host}")
        assert "doesn't accept the user or the password" in found.reason
    found = pipelit.credentials.test("crm")
    assert found.outcome == "unanswered"
    assert KEY not in repr(found) + caplog.text


@pytest.mark.parametrize(
    "option",
    [
        "passfile=/etc/passwd",
        "sslkey=/etc/key",
        "service=x",
        "sslmode=prefer&Local_Infile=1",
        "driver=/tmp/evil.so",
        "driver=..%5Cevil.dll",
        "read_default_file=/etc/my.cnf",
    ],
)
def test_a_database_is_asked_with_no_file_of_this_machine(pipelit: Pipelit, option: str) -> None:
    """Options of drivers name files, which the server could get; the name isn't repeated."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        port = server.getsockname()[1]
        put(pipelit, f"postgresql+psycopg://ann:{KEY}@127.0.0.1:{port}/crm?{option}")
        found = pipelit.credentials.test("crm", timeout=1)
        assert (found.outcome, found.server) == ("untested", "")
        assert "name files of this machine" in found.reason
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.backends("postgres")
def test_a_database_accepts_a_connection_string(pipelit: Pipelit, postgres_url: str) -> None:
    """``SELECT 1``, with the driver that the string names."""
    put(pipelit, postgres_url)
    assert pipelit.credentials.test("crm").good


async def test_who_may_not_open_it_tests_nothing(
    crm: Server, pipelit: Pipelit, writer: Agent, editor: Agent
) -> None:
    """The list of accounts decides here too, and what is missing or public is said."""
    put(pipelit, test_url=f"{crm.url}/key", allow=[writer.username])
    for agent in (None, editor):
        with pytest.raises(CredentialNotAllowed):
            await pipelit.credentials.atest("crm", agent=agent)
    with pytest.raises(CredentialNotFound):
        pipelit.credentials.test("crn")
    put(pipelit, test_url=f"{crm.url}/key")
    with pytest.raises(CredentialError, match="needs no test") as caught:
        await pipelit.credentials.atest("crm:test_url")
    frames = [frame.f_locals for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
    assert KEY not in repr(frames)
    with pytest.raises(ValueError, match="timeout must be more than 0"):
        pipelit.credentials.test("crm", timeout=0)
    assert crm.seen == []


def test_a_changed_address_gets_nothing(crm: Server, stranger: Server, pipelit: Pipelit) -> None:
    """Who writes to the database can't have the key sent elsewhere."""
    put(pipelit, test_url=f"{crm.url}/key")
    with database_of(pipelit).writing() as connection:
        connection.execute(
            text("UPDATE pipelit_credentials SET public = replace(public, :a, :b)"),
            {"a": crm.url, "b": stranger.url},
        )
    with pytest.raises(UnsealError):
        pipelit.credentials.test("crm")
    assert crm.seen == stranger.seen == []


def test_a_result_can_be_shown(pipelit: Pipelit) -> None:
    """It has no secret, so it can be printed, compared and stored."""
    found = CredentialTest("crm", "good", "the service accepts it")
    assert found == CredentialTest("crm", "good", "the service accepts it")
    assert found.good


def test_a_persons_own_credential_is_tested(crm: Server, pipelit: Pipelit) -> None:
    """Hers is asked about, and the audit names her; once she is deactivated, it isn't opened."""
    put(pipelit, test_url=f"{crm.url}/key")
    own = {"kind": "api", "public": {"test_url": f"{crm.url}/key"}}
    pipelit.credentials.put("crm", "crm-of-alice-0001", created_by="alice", person="alice", **own)
    assert pipelit.credentials.test("crm").outcome == "good"
    assert pipelit.credentials.test("crm", person="alice").outcome == "refused"
    pipelit.users.deactivate("alice")
    with pytest.raises(NobodyAuthenticated, match="alice"):
        pipelit.credentials.test("crm", person="alice")
    opened = pipelit.audit.list(action="credential.reveal", person="alice")
    assert [(each.outcome, each.reason) for each in opened] == [
        ("ok", "test"),
        ("refused", "not an active person"),
    ]


def test_another_server_is_refused_on_the_tested_persons_record(
    crm: Server, stranger: Server, pipelit: Pipelit
) -> None:
    """The audit names whose credential is tested, and not who has it tested."""
    pipelit.users.create("bob")
    public = {"base_url": crm.url, "test_url": stranger.url}
    pipelit.credentials.put(
        "crm", KEY, kind="api", created_by="alice", person="alice", public=public
    )
    with pipelit.acting_for("bob"):
        assert pipelit.credentials.test("crm", person="alice").outcome == "unanswered"
    opened = pipelit.audit.list(action="credential.reveal")
    assert [(each.person, each.reason) for each in opened] == [
        ("alice", "test"),
        ("alice", "another origin"),
    ]


async def test_a_cancelled_test_closes_what_it_opens(
    pipelit: Pipelit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that opens the credential isn't waited for, and leaves no readable secret."""
    pipelit.credentials.put("crm", KEY, kind="api", created_by="alice")
    began, go = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    held: list[Secret] = []

    def opening(*arguments: Any, **options: Any) -> Opened:
        loop.call_soon_threadsafe(began.set)
        go.wait(30)
        return decrypted(*arguments, **options)

    class Noting(Scope):
        def hold(self, secret: Secret) -> Secret:
            held.append(secret)
            return super().hold(secret)

    monkeypatch.setattr("pipelit_agents.credentials.trial.decrypted", opening)
    monkeypatch.setattr("pipelit_agents.credentials.trial.Scope", Noting)
    test = asyncio.create_task(pipelit.credentials.atest("crm"))
    await began.wait()
    test.cancel()
    with pytest.raises(asyncio.CancelledError):
        await test
    go.set()
    await asyncio.to_thread(until, lambda: bool(held))
    with pytest.raises(CredentialScopeError):
        await asyncio.to_thread(until, lambda: not held[0].get_secret_value())


def test_ones_tests_that_hang_stop_nobody_elses(
    crm: Server, pipelit: Pipelit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alice may store an address that never answers, in a credential that Bob has too."""
    pipelit.users.create("bob")
    for person, path in (("alice", "slow"), ("bob", "key")):
        pipelit.credentials.put(
            "crm", KEY, kind="api", created_by=person, person=person,
            public={"test_url": f"{crm.url}/{path}"},
        )  # fmt: skip
    go = threading.Event()

    def ask(request: Request, *rest: Any, **options: Any) -> Finding:
        if request.url.endswith("slow"):
            go.wait(10)
        return really_ask(request, *rest, **options)

    monkeypatch.setattr("pipelit_agents.credentials.trial.ask", ask)
    monkeypatch.setattr("pipelit_agents.credentials.trial.GRACE", 0.0)
    for _ in range(5):
        late = pipelit.credentials.test("crm", person="alice", timeout=0.01)
        assert late.outcome == "unanswered"
    assert pipelit.credentials.test("crm", person="bob").outcome == "good"
    go.set()


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("127.0.0.1", False),
        ("10.0.0.8", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.100.100.200", False),
        ("168.63.129.16", False),
        ("0.0.0.0", False),  # noqa: S104 - an address to refuse
        ("224.0.0.1", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%lo", False),
        ("fd00::1", False),
        ("::ffff:127.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::5db8:d70e", True),
        ("64:ff9b:1::7f00:1", False),
        ("::7f00:1", False),
        ("::ffff:0:7f00:1", False),
        ("fec0::2", False),
        ("5f00::1", False),
        ("192.0.0.192", False),
        ("161.26.0.10", False),
        ("166.9.14.1", False),
        ("2002:7f00:1::", False),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", False),
        ("/run/postgresql", False),
        ("", False),
    ],
    ids=str,
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    """An address within an IPv6 address counts, and so do those of a cloud's own services."""
    assert is_public(address) is public


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "crm.example.com", "nobody.example"])
def test_a_test_of_public_servers_connects_to_no_other(
    crm: Server, pipelit: Pipelit, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A name of this machine, its address, a name that leads to it, and none: all look the same."""
    resolve = socket.getaddrinfo

    def lookup(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host == "nobody.example":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return resolve("127.0.0.1", *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    monkeypatch.setenv("HTTPS_PROXY", crm.url)
    scheme = "https" if name.endswith("example.com") or name.startswith("nobody") else "http"
    put(pipelit, test_url=crm.url.replace("http", scheme).replace("localhost", name) + "/key")
    found = pipelit.credentials.test("crm", public_only=True, by="bob")
    assert (found.outcome, found.reason, found.status) == ("unanswered", NOT_PUBLIC, None)
    assert crm.seen == []
    assert entries(pipelit) == [("bob", "ok", "test")]


def test_a_test_of_public_servers_doesnt_reach_this_machine_by_its_public_address(
    crm: Server, pipelit: Pipelit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a connection doesn't leave the machine, so no firewall before it sees it."""
    monkeypatch.setattr("pipelit_agents.credentials.bounded_http.is_public", lambda address: True)
    put(pipelit, test_url=f"{crm.url}/key")
    found = pipelit.credentials.test("crm", public_only=True)
    assert (found.outcome, found.reason) == ("unanswered", NOT_PUBLIC)
    assert crm.seen == []


def test_a_test_of_public_servers_tries_no_database(pipelit: Pipelit) -> None:
    """A driver connects by itself, and takes files of this machine as its options."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        port = server.getsockname()[1]
        put(pipelit, f"postgresql+psycopg://ann:long-password-1@127.0.0.1:{port}/crm")
        found = pipelit.credentials.test("crm", public_only=True)
        assert (found.outcome, "let an operator test it" in found.reason) == ("untested", True)
        with pytest.raises(BlockingIOError):
            server.accept()
