"""docs/logging.md: every recipe runs as it stands, and masks a node's key."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import fresh
import pytest
import structlog
from canary import KEY, count
from local_http import served
from loguru import logger as loguru_logger
from opentelemetry.sdk.trace import export
from opentelemetry.sdk.trace.export import ConsoleSpanExporter
from opentelemetry.trace import Link, SpanContext, StatusCode
from opentelemetry.trace.span import TraceState
from paths import ROOT, SUPPORT, TESTS
from pydantic import SecretStr
from rich.console import Console
from rich.logging import RichHandler

from pipelit_agents import Pipelit
from pipelit_agents.redaction import RedactingFilter

PAGE = (ROOT / "docs" / "logging.md").read_text()
RECIPES = {
    title: re.findall(r"```python\n(.*?)```", body, re.DOTALL)
    for title, body in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    if "```python" in body
}
Work = Callable[[str], Any]


def recipe(title: str, place: int = 0) -> dict[str, Any]:
    """What a block of the page defines."""
    made: dict[str, Any] = {}
    exec(RECIPES[title][place], made)  # noqa: S102 - the page's own code
    return made


@pytest.fixture
def in_a_node(pipelit: Pipelit) -> Callable[[Work], None]:
    """Call a function with a plaintext, inside the node that it was opened for."""
    pipelit.credentials.put("service", KEY, kind="api", created_by="alice")

    def call(function: Work) -> None:
        @pipelit.credentials.inject(key="service")
        def node(*, key: SecretStr) -> None:
            function(key.get_secret_value())

        node()

    return call


class Client:
    """Something that keeps a key and doesn't show it when it is printed."""

    def __init__(self, key: str) -> None:
        self.headers = {"Authorization": f"Bearer {key}"}


def fails(key: str) -> None:
    """Fail with a key in local variables alone, in the frame and in those that it called."""
    headers = {"Authorization": f"Bearer {key}"}

    def send(url: str) -> None:
        client = Client(headers["Authorization"])
        raise ConnectionError("no answer" if client else "")

    send("https://service.example")


def fails_in_a_chain(key: str) -> None:
    """Fail with a key in the frames of the cause."""
    try:
        fails(key)
    except ConnectionError as error:
        del key
        raise RuntimeError("gave up") from error


def fails_in_a_group(key: str) -> None:
    """Fail with a key in the frames of a group's part."""
    try:
        fails(key)
    except ConnectionError as error:
        caught = error
    del key
    raise ExceptionGroup("both", [caught, ValueError("other")])


def fails_with_a_long_list(key: str) -> None:
    """Fail with a key far behind what trackers show of a list."""
    lines = ["nothing"] * 5000 + [key]
    del key
    raise ConnectionError(str(len(lines)))


def honest(city: str) -> None:
    """Fail without a key."""
    raise ConnectionError(len(city))


FAILURES = [fails, fails_in_a_chain, fails_in_a_group, fails_with_a_long_list]


@contextmanager
def handled(handler: logging.Handler) -> Iterator[logging.Logger]:
    """A logger with one handler, and no other."""
    logger = logging.getLogger("logging_page")
    logger.addHandler(handler)
    logger.propagate = False
    yield logger
    logger.removeHandler(handler)
    logger.propagate = True


def test_each_block_is_run_here() -> None:
    """A recipe that is added must be run by a test."""
    assert {title: len(blocks) for title, blocks in RECIPES.items()} == {
        "logging": 1,
        "structlog": 2,
        "loguru": 1,
        "Sentry": 1,
        "OpenTelemetry": 1,
        "LangSmith": 1,
        "Anything else": 1,
    }


class WithLocals(logging.Formatter):
    """A formatter that shows local variables."""

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        return "".join(traceback.TracebackException(*ei, capture_locals=True).format())


def _rich(shown: io.StringIO) -> logging.Handler:
    console = Console(file=shown, width=200)
    return RichHandler(console=console, rich_tracebacks=True, tracebacks_show_locals=True)


def _with_locals(shown: io.StringIO) -> logging.Handler:
    handler = logging.StreamHandler(shown)
    handler.setFormatter(WithLocals())
    return handler


def _structlog(shown: io.StringIO) -> logging.Handler:
    handler = logging.StreamHandler(shown)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.dict_tracebacks,
                structlog.processors.JSONRenderer(),
            ]
        )
    )
    return handler


@pytest.mark.slow
@pytest.mark.parametrize("work", FAILURES)
@pytest.mark.parametrize("make", [_rich, _with_locals, _structlog])
def test_handlers_that_show_variables_show_no_key(
    in_a_node: Any, make: Callable[[io.StringIO], logging.Handler], work: Work
) -> None:
    """With the filter, handlers and formatters that show local variables get none with a key."""
    shown = io.StringIO()
    handler = make(shown)
    handler.addFilter(RedactingFilter())

    def node(key: str) -> None:
        # This frame is shown too, and must not be why the exception is masked.
        given = [key]
        del key
        with handled(handler) as logger:
            try:
                work(given.pop())
            except Exception as error:
                logger.exception("failed")
                logger.warning("failed", exc_info=error)
                logger.warning("failed", extra={"error": error, "info": sys.exc_info()})

    in_a_node(node)
    assert "failed" in shown.getvalue()
    if make is not _structlog:
        assert "Error" in shown.getvalue()
    assert not count(shown.getvalue())


@pytest.mark.slow
def test_variables_without_a_key_are_shown(in_a_node: Any) -> None:
    """An honest traceback keeps its local variables, and the Secret is shown masked."""
    shown = io.StringIO()
    handler = _with_locals(shown)
    handler.addFilter(RedactingFilter())

    def node(key: str) -> None:
        del key
        with handled(handler) as logger:
            try:
                honest("Bern")
            except ConnectionError:
                logger.exception("failed")

    in_a_node(node)
    assert "city = 'Bern'" in shown.getvalue()


def test_the_recipe_for_logging(in_a_node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines, tracebacks and warnings are masked by the handlers of the root logger."""
    shown = io.StringIO()
    handler = _with_locals(shown)
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [handler])
    recipe("logging")

    def node(key: str) -> None:
        logging.warning("with %s", key)
        warnings.warn(f"deprecated: {key}", stacklevel=1)
        try:
            fails(key)
        except ConnectionError:
            logging.exception("failed")

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            logging.captureWarnings(True)
            in_a_node(node)
    finally:
        logging.captureWarnings(False)
    assert "with ****" in shown.getvalue()
    assert "deprecated: ****" in shown.getvalue()
    assert "ConnectionError: no answer" in shown.getvalue()
    assert not count(shown.getvalue())


@pytest.mark.parametrize("work", FAILURES)
@pytest.mark.parametrize("place", [0, 1])
def test_the_recipes_for_structlog(in_a_node: Any, place: int, work: Work) -> None:
    """Events, bound values and dict tracebacks are masked, by loggers of both packages."""
    shown = io.StringIO()
    try:
        made = recipe("structlog", place)
        if place == 0:
            structlog.configure(logger_factory=structlog.PrintLoggerFactory(shown))
            _log_by_structlog(in_a_node, structlog.get_logger(), work)
        else:
            made["stream"].stream = shown
            logging.getLogger().removeHandler(made["stream"])
            with handled(made["stream"]) as logger:
                _log_by_structlog(
                    in_a_node,
                    structlog.wrap_logger(
                        logger,
                        processors=[structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
                        wrapper_class=structlog.stdlib.BoundLogger,
                    ),
                    work,
                )
                _log_by_logging(in_a_node, logger, work)
    finally:
        structlog.reset_defaults()
    lines = [json.loads(line) for line in shown.getvalue().splitlines()]
    assert lines[0] == {
        **lines[0],
        "event": "with ****",
        "headers": {"k": ["****"]},
        "bound": "****",
    }
    assert all("Error" in str(line.get("exception")) for line in lines[1:])
    assert not count(shown.getvalue())


def _log_by_structlog(in_a_node: Any, logger: Any, work: Work) -> None:
    def node(key: str) -> None:
        logger.bind(bound=key).warning(f"with {key}", headers={"k": [key]})
        try:
            work(key)
        except Exception as error:
            logger.exception("failed")
            logger.warning("failed", exc_info=error)
            logger.warning("failed", exc_info=sys.exc_info())

    in_a_node(node)


def _log_by_logging(in_a_node: Any, logger: logging.Logger, work: Work) -> None:
    def node(key: str) -> None:
        try:
            work(key)
        except Exception:
            logger.exception("failed")

    in_a_node(node)


def test_a_key_bound_to_structlogs_context_is_a_leak(in_a_node: Any) -> None:
    """What is bound outlives the function, and would stand in every later line."""
    from pipelit_agents.errors import SecretLeakError

    with pytest.raises(SecretLeakError, match="structlog_key"):
        in_a_node(lambda key: structlog.contextvars.bind_contextvars(key=key))
    assert not count(structlog.contextvars.get_contextvars())
    structlog.contextvars.clear_contextvars()


@pytest.mark.parametrize("work", FAILURES)
def test_the_recipe_for_loguru(in_a_node: Any, work: Work) -> None:
    """Messages, extras and tracebacks with diagnosis are masked; serialized records too."""
    shown = io.StringIO()
    loguru_logger.remove()
    loguru_logger.add(shown, diagnose=True, backtrace=True, format="{message} {extra}\n{exception}")
    loguru_logger.add(shown, diagnose=True, serialize=True)
    recipe("loguru")

    def node(key: str) -> None:
        loguru_logger.bind(k=key).info(f"with {key}")
        with loguru_logger.contextualize(k=[key]):
            loguru_logger.info("with {}", key)
        try:
            work(key)
        except Exception as error:
            loguru_logger.exception("failed")
            loguru_logger.opt(exception=error).info("failed")
        with loguru_logger.catch():
            work(key)

    try:
        in_a_node(node)
    finally:
        loguru_logger.remove()
        loguru_logger.configure(patcher=lambda record: None)
    assert "with ****" in shown.getvalue()
    assert "Error" in shown.getvalue()
    assert not count(shown.getvalue())


def test_the_recipe_for_opentelemetry(in_a_node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names, attributes, events, links and descriptions of spans in the node are masked."""
    shown = io.StringIO()
    # It writes to what was the standard output when its module was imported.
    monkeypatch.setattr(export, "ConsoleSpanExporter", partial(ConsoleSpanExporter, out=shown))
    provider = recipe("OpenTelemetry")["provider"]
    tracer = provider.get_tracer("app")

    def node(key: str) -> None:
        link = Link(SpanContext(1, 2, is_remote=False), {"k": key})
        state = TraceState([("app", key)])
        stated = Link(SpanContext(1, 2, is_remote=False, trace_state=state))
        with tracer.start_as_current_span(f"call {key}", links=[link, stated]) as span:
            span.set_attribute("headers", ["a", f"Bearer {key}"])
            span.add_event(f"sent {key}", {"k": key})
            span.set_status(StatusCode.ERROR, f"401 for {key}")
        with pytest.raises(ConnectionError), tracer.start_as_current_span("fails"):
            raise ConnectionError(f"bad key {key}")
        with tracer.start_as_current_span("honest") as span:
            span.set_attribute("city", "Bern")

    in_a_node(node)
    assert provider.force_flush()
    provider.shutdown()
    said = shown.getvalue()
    assert "call ****" in said
    assert "ConnectionError: bad key ****" in said
    assert '"city": "Bern"' in said
    assert not count(said)


def test_the_last_recipes(in_a_node: Any) -> None:
    """LangSmith's client masks; so does `redact`, and gives back what shows nothing as it is."""
    client = recipe("LangSmith")["tracer"].client
    redact = recipe("Anything else")["redact"]
    honest = {"a": [1]}

    def node(key: str) -> None:
        assert not count(client._hide_run_inputs({"k": key}))
        assert redact({"k": [key]}) == {"k": ["****"]}
        assert redact(honest) is honest
        try:
            fails(key)
        except ConnectionError as error:
            shown = [redact(error), redact({"tb": error.__traceback__}), redact([sys.exc_info()])]
        assert shown[:2] == ["ConnectionError: no answer", {"tb": "traceback: ****"}]
        assert shown[2][0].endswith("ConnectionError: no answer")

    in_a_node(node)


SENTRY = """
import logging, os, sys, tempfile
sys.path[:0] = TESTS
{recipe}
import httpx
from canary import KEY
from langgraph.graph import START, StateGraph
from pipelit_agents import Keyring, Pipelit
from test_logging_page import FAILURES, State
from typing import Any

url = f"sqlite:///{{tempfile.mkdtemp()}}/a.db"
pipelit = Pipelit(database_url=url, encryption_keys=[Keyring.generate_key()])
pipelit.create_schema()
pipelit.users.create("alice")
pipelit.credentials.put("service", KEY, kind="api", created_by="alice")

def go(work):
    @pipelit.credentials.inject(key="service")
    def node(state: State, *, key: Any) -> State:
        work(key.get_secret_value())
        return {{}}
    StateGraph(State).add_node("n", node).add_edge(START, "n").compile().invoke({{"x": 1}})
    sentry_sdk.capture_message("later")

def logs(key):
    logging.warning("with %s", key)
    sentry_sdk.add_breadcrumb(message=key, data={{"k": key}})
    try:
        httpx.get("http://127.0.0.1:9/?api_key=" + key)
    except httpx.HTTPError:
        logging.exception("no answer")

def captures(key):
    headers = "x" * 900 + key
    sentry_sdk.capture_message("in the node")

go(logs)
go(captures)
for work in FAILURES:
    def fails(key, work=work):
        try:
            work(key)
        except Exception as error:
            logging.exception("failed")
            sentry_sdk.capture_exception(error)
    go(fails)
sentry_sdk.init(os.environ["SENTRY_DSN"], traces_sample_rate=1.0, attach_stacktrace=True,
    before_send=sentry_before_send, before_send_transaction=sentry_before_send,
    before_breadcrumb=sentry_before_breadcrumb, max_value_length=1000)
go(captures)
def traced(key):
    with sentry_sdk.start_transaction(name="call " + key) as transaction:
        transaction.set_data("k", key)
go(traced)
sentry_sdk.flush()
"""


class State(dict[str, Any]):
    """What the graph of the Sentry test passes on."""


@pytest.mark.process
def test_the_recipe_for_sentry(tmp_path: Path) -> None:
    """Exceptions with variables, breadcrumbs, messages and transactions reach Sentry masked.

    In a process of its own (3 s), as sentry_sdk changes logging, threads and more for good.
    """
    posted: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            gzipped = self.headers.get("Content-Encoding") == "gzip"
            posted.append(zlib.decompress(data, 31) if gzipped else data)
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

    code = SENTRY.format(recipe=RECIPES["Sentry"][0]).replace(
        "TESTS", repr([str(SUPPORT), str(TESTS / "pages")])
    )
    with served(Handler) as address:
        dsn = f"{address.replace('://', '://public@')}/1"
        done = subprocess.run(
            fresh.command(code),
            cwd=tmp_path,
            env={"SENTRY_DSN": dsn, "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    sent = b"".join(posted)
    for expected in (b"no answer", b"gave up", b"in the node", b"call ****", b"later"):
        assert expected in sent
    assert not count(sent)
    assert KEY[:12].encode() not in sent
