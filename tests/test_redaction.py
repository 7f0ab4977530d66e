"""Logs and traces lose what is open in this process, and only that."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import httpx
import langsmith
import pytest
from langsmith import traceable, tracing_context
from local_http import served
from pydantic import BaseModel, SecretStr

from pipelit_agents import Pipelit
from pipelit_agents.credentials.leak_guard import own_forms
from pipelit_agents.redaction import (
    RedactingFilter,
    anonymize,
    loguru_patcher,
    structlog_processor,
)

KEY = "sk-Zq/+8w_Canary-0123456789"


class Lines(logging.Handler):
    """Keeps what a formatter would have written, and the record's fields."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.shown.append(logging.Formatter().format(record))
        fields = {k: v for k, v in vars(record).items() if k != "exc_info"}
        self.shown.append(repr(fields))
        self.shown.append(
            json.dumps(fields, default=lambda each: getattr(each, "__dict__", None) or str(each))
        )


@pytest.fixture
def logged() -> Iterator[Lines]:
    """The lines of a logger whose handler has the filter."""
    handler = Lines()
    handler.addFilter(RedactingFilter())
    logger = logging.getLogger("app.part")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


@pytest.fixture
def in_a_node(pipelit: Pipelit) -> Callable[[Callable[[str], Any]], Any]:
    """Calls a function with a plaintext, inside the node that it was opened for."""
    pipelit.credentials.put("service", KEY, kind="api", created_by="alice")

    def call(function: Callable[[str], Any]) -> Any:
        @pipelit.credentials.inject(key="service")
        def node(*, key: SecretStr) -> None:
            function(key.get_secret_value())

        return node()

    return call


class Request:
    """Something that shows its key when it is printed."""

    def __repr__(self) -> str:
        return f"<Request Authorization={KEY}>"


class Silent:
    """Something that a JSON formatter writes by its attributes."""

    def __init__(self, key: str) -> None:
        self.key = key


class Settings(BaseModel):
    """Something that shows its input when it fails."""

    api_key: str
    timeout: int


def _logged(logger: logging.Logger, work: Callable[[], Any]) -> None:
    try:
        work()
    except Exception:
        logger.exception("failed")


@pytest.mark.parametrize(
    "log",
    [
        lambda logger, key: logger.warning(f"calling with {key}"),
        lambda logger, key: logger.warning("calling with %s and %d", key, 7),
        lambda logger, key: logger.warning("calling with %(k)s", {"k": key}),
        lambda logger, key: logger.warning("sent %r", Request()),
        lambda logger, key: logger.warning("sent", extra={"request": {"headers": [key]}}),
        lambda logger, key: logger.warning("%s%s", key[:8], key[8:]),
        lambda logger, key: logger.warning(ValueError(key)),
        lambda logger, key: logger.warning("header %s", key.encode()),
        lambda logger, key: logger.warning("x", exc_info=RuntimeError("no", key)),
        lambda logger, key: logger.warning("x", exc_info=ExceptionGroup(key, [ValueError(key)])),
        lambda logger, key: logger.warning("where", stack_info=True),
        lambda logger, key: logger.warning("x", extra={"error": ValueError(key)}),
        lambda logger, key: logger.warning("x", extra={"client": Silent(key)}),
        lambda logger, key: logger.warning("%s", [ValueError(key)]),
        lambda logger, key: _logged(logger, lambda: int(key)),
        lambda logger, key: _logged(logger, lambda: Settings(api_key=key)),
    ],
)
def test_no_record_shows_an_open_secret(logged: Lines, in_a_node: Any, log: Any) -> None:
    """Text, arguments, mappings, objects, extras and exceptions are masked."""
    in_a_node(lambda key: log(logging.getLogger("app.part"), key))
    assert KEY not in "".join(logged.shown)


def test_the_program_goes_on_with_what_was_logged(logged: Lines, in_a_node: Any) -> None:
    """Exception, request and arguments stay as they are: only the record is masked."""
    kept: list[Any] = []

    def log(key: str) -> None:
        request = httpx.Request("GET", "https://x.example", headers={"Authorization": key})
        error = httpx.ConnectError(f"refused {key}", request=request)
        try:
            raise error
        except httpx.ConnectError:
            logging.getLogger("app.part").exception("failed", extra={"sent": request})
        kept.extend([str(error) == f"refused {key}", request.headers["Authorization"] == key])

    in_a_node(log)
    assert kept == [True, True]
    assert "ConnectError: refused ****" in "".join(logged.shown)
    assert KEY not in "".join(logged.shown)


def test_a_record_that_cannot_be_formatted_is_masked(in_a_node: Any) -> None:
    """Arguments that don't fit the message are reported by logging itself: without the secret."""
    record = logging.makeLogRecord({"msg": "broken %d %d"})

    def log(key: str) -> None:
        record.args = (key,)
        assert RedactingFilter().filter(record)

    in_a_node(log)
    assert record.args == ("****",)


class BadRepr(Exception):
    def __repr__(self) -> str:
        raise RuntimeError


class BadText(Exception):
    def __str__(self) -> str:
        raise RuntimeError


class SlowRepr(Exception):
    def __repr__(self) -> str:
        time.sleep(3)
        return KEY


class SlowText(Exception):
    def __str__(self) -> str:
        time.sleep(3)
        return KEY


class BadSyntax(SyntaxError):
    """It can't be displayed at all."""

    @property  # type: ignore[override]
    def lineno(self) -> int:
        raise RuntimeError


class BadItems(dict[str, Any]):
    def items(self) -> Any:
        raise RuntimeError


@pytest.mark.slow
@pytest.mark.parametrize("kind", [BadRepr, BadText, SlowRepr, SlowText, BadSyntax])
@pytest.mark.parametrize(
    "log",
    [
        lambda logger, error: logger.error("x", exc_info=error),
        lambda logger, error: logger.error("x", extra={"error": error}),
        lambda logger, error: logger.error("x", extra={"info": (type(error), error, None)}),
        lambda logger, error: loguru_patcher(
            {"extra": {}, "message": "", "exception": (type(error), error, None)}
        ),
        lambda logger, error: structlog_processor(None, "", {"exc_info": error}),
    ],
)
def test_an_exception_of_any_class_is_logged(
    in_a_node: Any, monkeypatch: pytest.MonkeyPatch, kind: type[Exception], log: Any
) -> None:
    """Its code neither raises into the node nor stops it, and shows no secret."""
    monkeypatch.setattr(own_forms, "VALUE_TIMEOUT", 0.1)
    records: list[logging.LogRecord] = []
    logger = logging.Logger("app")
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    handler.addFilter(RedactingFilter())
    logger.addHandler(handler)

    def raise_and_log(key: str) -> None:
        try:
            raise kind(key)  # noqa: TRY301 - in a frame that holds the key
        except kind as error:
            log(logger, error)

    for work in (raise_and_log, lambda key: log(logger, kind("nothing"))):
        began = time.monotonic()
        in_a_node(work)
        assert time.monotonic() - began < 2.5
    for record in records:
        assert record.exc_info is None or record.exc_info[1].args == ("nothing",)  # type: ignore[union-attr]
        assert KEY not in f"{record.exc_text} {record.msg}"


@pytest.mark.parametrize(
    "extra", [{"a": BadItems(x=1)}, {"a": [BadItems(x=1)]}, {"info": BadItems(key=KEY)}]
)
def test_a_record_that_cannot_be_read_stops_no_node(
    logged: Lines, in_a_node: Any, extra: dict[str, Any]
) -> None:
    """Of a record with an object that fails to be searched, only the place is left."""
    in_a_node(lambda key: logging.getLogger("app.part").warning("x %s", key, extra=extra))
    shown = "".join(logged.shown)
    assert KEY not in shown
    assert "could not be searched" in shown
    assert "test_redaction.py" in shown


def test_other_records_pass_as_they_are(logged: Lines, in_a_node: Any) -> None:
    """A record without a secret keeps its message and its arguments; none is dropped."""
    seen: list[logging.LogRecord] = []
    logged.emit = seen.append  # type: ignore[method-assign]
    in_a_node(lambda key: logging.getLogger("app.part").warning("calls: %d", 7))
    logging.getLogger("app.part").warning("after %s", "it")
    assert [(each.msg, each.args) for each in seen] == [("calls: %d", (7,)), ("after %s", ("it",))]


def test_after_the_node_nothing_is_looked_for(logged: Lines, in_a_node: Any) -> None:
    """A secret that is no longer open is unknown: the filter keeps no list of them."""
    in_a_node(lambda key: None)
    logging.getLogger("app.part").warning(KEY)
    assert KEY in "".join(logged.shown)


@pytest.fixture
def langsmith_posts() -> Iterator[tuple[str, list[bytes]]]:
    """A server that takes what LangSmith's client sends."""
    posted: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def _take(self) -> None:
            posted.append(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
            body = json.dumps({}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_PATCH = do_GET = _take  # noqa: N815 - http.server's names

    with served(Handler) as address:
        yield address, posted


@pytest.mark.slow
@pytest.mark.parametrize("masked", [True, False])
def test_langsmith_is_sent_no_open_secret(
    in_a_node: Any, langsmith_posts: tuple[str, list[bytes]], masked: bool
) -> None:
    """A traced function's inputs, outputs and error reach LangSmith without the key."""
    url, posted = langsmith_posts
    client = langsmith.Client(
        api_url=url,
        api_key="for-a-test",
        anonymizer=anonymize if masked else None,
        auto_batch_tracing=False,
    )

    @traceable(client=client)
    def call(key: str, fail: bool) -> dict[str, list[str]]:
        if fail:
            raise ValueError(f"bad key {key}")
        return {"header": [key]}

    def work(key: str) -> None:
        with tracing_context(enabled=True, client=client):
            call(key, False)
            with pytest.raises(ValueError, match="bad key"):
                call(key, True)

    in_a_node(work)
    client.flush()
    sent = b"".join(posted)
    assert b"header" in sent
    assert (KEY.encode() in sent) is not masked
