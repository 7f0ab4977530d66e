"""Mask the secrets that are open in this process in logs, traces and error reports.

Use these filters and processors in case a node logs its key, or passes it to a tracer that doesn't
use callbacks. They mask the secrets that are open when the record is made. Nothing here requires
structlog, loguru, Sentry or OpenTelemetry to be installed. docs/logging.md describes each setup.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, MutableMapping
from functools import partial
from inspect import currentframe
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeGuard, TypeVar, cast

from pipelit_agents.credentials.leak_guard.frames import frames_hold_secret
from pipelit_agents.credentials.leak_guard.masking import MASK, masked
from pipelit_agents.credentials.leak_guard.own_forms import text_in_time
from pipelit_agents.credentials.leak_guard.patterns import Patterns
from pipelit_agents.credentials.scope import open_patterns

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor
else:
    # A base for type checkers only: at run time, OpenTelemetry needn't be installed, and its hooks
    # must reach `__getattr__`.
    SpanProcessor = object

__all__ = [
    "RedactingFilter",
    "RedactingSpanProcessor",
    "anonymize",
    "loguru_patcher",
    "redact",
    "sentry_before_breadcrumb",
    "sentry_before_send",
    "structlog_processor",
]

T = TypeVar("T")
_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
_FORMATTER: Final = logging.Formatter()
_EMPTY: Final = f"{MASK} (a record that could not be searched for open secrets)"
# How many levels deep exceptions are searched for in a logged value.
_MAX_DEPTH: Final = 4


def redact(value: T) -> T:
    """Return a value without the secrets that are open in this process, to display or send it.

    Args:
        value: Text, bytes, containers, exceptions, or objects that are displayed by their text.

    Returns:
        The value itself if it contains no secret. Otherwise a copy: containers are rebuilt, objects
        and exceptions become text. An exception or traceback whose frames hold a secret in a local
        variable becomes text too.
    """
    for secrets in open_patterns():
        value = _masked(value, secrets)
    return value


class RedactingFilter(logging.Filter):
    """A filter for log handlers that masks every secret that is open in this process.

    Message, arguments, extra fields and the traceback lose the plaintext and its usual encodings.
    No record is dropped, and the logged objects aren't changed. An exception whose frames hold a
    secret in a local variable is replaced by its plain traceback as text, so that no handler or
    formatter can display the variables. Of a record that can't be read, only its origin is left.

    Add the filter to handlers: a logger's filters don't apply to records of its child loggers. Add
    it to a ``QueueHandler`` itself, because its listener runs later. A secret is masked only while
    its node runs: later records, and output of ``print``, are not masked.

    Example:
        ```python
        for handler in logging.getLogger().handlers:
            handler.addFilter(RedactingFilter())
        ```
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Mask the record in place, and let it pass."""
        for secrets in open_patterns():
            try:
                self._mask(record, secrets)
            except Exception:
                # What is logged may run any code when it is read. Its failure isn't the node's.
                _empty(record)
        return True

    @staticmethod
    def _mask(record: logging.LogRecord, secrets: Patterns) -> None:
        for name, value in list(vars(record).items()):
            if name != "exc_info":
                setattr(record, name, _masked(value, secrets))
        if record.exc_info and (clean := _traceback(record.exc_info, secrets)) is not None:
            # Render it here: the exception itself is still in use, and must not be changed.
            record.exc_info, record.exc_text = None, clean
        try:
            message = record.getMessage()
        except Exception:
            # The handler reports errors in the arguments.
            return
        clean = masked(message, secrets)
        if clean != message:
            record.msg, record.args = clean, None


def structlog_processor(
    logger: object, method_name: str, event_dict: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Mask every open secret in a structlog event; a structlog processor.

    Put it before the processors that render exceptions (``dict_tracebacks``, ``format_exc_info``,
    ``ConsoleRenderer``) and the event. An exception that contains a secret, also in a local
    variable of a frame, is rendered here, as text under ``exception``.

    Args:
        logger: Unused.
        method_name: Unused.
        event_dict: The event.

    Returns:
        The event, masked.
    """
    for secrets in open_patterns():
        found = _without_frames(event_dict, secrets)
        event_dict = {masked(key, secrets): masked(each, secrets) for key, each in found.items()}
    return event_dict


def loguru_patcher(record: Any) -> None:
    """Mask every open secret in a loguru record; for ``logger.configure(patcher=…)``.

    Message and ``extra`` are masked. An exception that contains a secret, also in a local variable
    of a frame, is removed from the record, and its plain traceback is appended to the message.
    (With ``diagnose=True``, the default, loguru displays local variables.)

    Args:
        record: The record; it is changed in place.
    """
    for secrets in open_patterns():
        record["extra"] = _masked(record["extra"], secrets)
        record["message"] = masked(record["message"], secrets)
        if record["exception"] and (clean := _traceback(record["exception"], secrets)) is not None:
            record["exception"] = None
            record["message"] += f"\n{clean}"


def sentry_before_send(event: Any, hint: Mapping[str, Any]) -> Any:
    """Mask every open secret in a Sentry event; for ``sentry_sdk.init(before_send=…)``.

    An event that contains a secret, or whose frames hold one in a local variable, loses the
    variables of all frames. The function works as ``before_send_transaction`` and
    ``before_send_log`` too. It masks nothing in a transaction that ends after the node.

    Args:
        event: The event, as Sentry has serialized it; it isn't changed.
        hint: Sentry's hint for the event; its ``exc_info`` is searched.

    Returns:
        The event, masked.
    """
    for secrets in open_patterns():
        held = any(frames_hold_secret(each, secrets) for each in hint.get("exc_info") or ())
        # With attach_stacktrace, the event contains the running frames.
        held = held or ("threads" in event and frames_hold_secret(currentframe(), secrets))
        clean = masked(event, secrets)
        # Sentry truncates long values, and a search doesn't find a truncated secret.
        event = _without_variables(clean) if held or clean is not event else event
    return event


def sentry_before_breadcrumb(crumb: T, hint: Mapping[str, object]) -> T:
    """Mask every open secret in a breadcrumb; for ``sentry_sdk.init(before_breadcrumb=…)``.

    Breadcrumbs are sent with a later event, when the secret may be closed already.

    Args:
        crumb: The breadcrumb; it isn't changed.
        hint: Unused.

    Returns:
        The breadcrumb, masked.
    """
    return redact(crumb)


class RedactingSpanProcessor(SpanProcessor):  # type: ignore[misc] # its types are skipped
    """Mask every open secret in OpenTelemetry's spans, in front of another span processor.

    Spans are masked when they end, and the other processor gets a masked copy. A span that ends
    after the node that put a secret into it isn't masked here. For a span that was current when the
    node began, the secret is refused as a leak when the node ends.

    Args:
        processor: The processor that exports the spans, such as ``BatchSpanProcessor(exporter)``.

    Example:
        ```python
        provider.add_span_processor(RedactingSpanProcessor(BatchSpanProcessor(exporter)))
        ```
    """

    def __init__(self, processor: Any) -> None:
        self._processor = processor

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        """Pass the span on unchanged: it has not ended yet."""
        self._processor.on_start(span, parent_context)

    def on_end(self, span: Any) -> None:
        """Pass the span on, or a masked copy if it contains a secret."""
        self._processor.on_end(_masked_span(span))

    def shutdown(self) -> None:
        """Shut the other processor down."""
        self._processor.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Flush the other processor, and return whether it finished in time."""
        return bool(self._processor.force_flush(timeout_millis))

    def __getattr__(self, name: str) -> Any:
        # OpenTelemetry has further hooks, some without public names.
        if name == "_processor":
            raise AttributeError(name)
        return getattr(self._processor, name)


def anonymize(payload: dict[str, Any]) -> dict[str, Any]:
    """Mask every secret that is open in this process, for ``langsmith.Client(anonymizer=…)``.

    LangSmith calls it with a run's inputs, outputs, metadata and error when it records the run.

    Args:
        payload: JSON data; it isn't changed.

    Returns:
        The payload without the secrets.

    Example:
        ```python
        tracer = LangChainTracer(client=langsmith.Client(anonymizer=anonymize))
        ```
    """
    return redact(payload)


def _masked(value: T, secrets: Patterns) -> T:
    return cast(T, masked(_without_frames(value, secrets), secrets))


def _without_frames(value: Any, secrets: Patterns, depth: int = _MAX_DEPTH) -> Any:
    """Replace exceptions and frames that hold a secret by text; Any: of its type, or text."""
    if isinstance(value, BaseException | TracebackType | FrameType):
        if not frames_hold_secret(value, secrets):
            return value
        text = text_in_time(partial(str, value)) if isinstance(value, BaseException) else MASK
        return masked(f"{type(value).__name__}: {MASK if text is None else text}", secrets)
    if depth and isinstance(value, dict):
        made = {key: _without_frames(each, secrets, depth - 1) for key, each in value.items()}
        info = _exc_info(value.get("exc_info"))
        if info is not None and (clean := _traceback(info, secrets)) is not None:
            # structlog's own processors use the same key for the rendered text.
            del made["exc_info"]
            made["exception"] = clean
        return made if any(made.get(key) is not each for key, each in value.items()) else value
    if depth and type(value) in (list, tuple):
        if _is_exc_info(value) and (clean := _traceback(value, secrets)) is not None:
            return clean
        parts = [_without_frames(each, secrets, depth - 1) for each in value]
        if any(a is not b for a, b in zip(parts, value, strict=True)):
            return type(value)(parts)
    return value


def _exc_info(value: object) -> _ExcInfo | None:
    """Return the exception information for a value that structlog and logging accept, or None."""
    if isinstance(value, BaseException):
        return type(value), value, value.__traceback__
    if _is_exc_info(value):
        return value
    return sys.exc_info() if value and not isinstance(value, str | tuple) else None


def _is_exc_info(value: object) -> TypeGuard[_ExcInfo]:
    return isinstance(value, tuple) and len(value) == 3 and isinstance(value[1], BaseException)


def _traceback(info: _ExcInfo, secrets: Patterns) -> str | None:
    """Return the masked plain traceback of an exception; None if it contains no secret."""
    _, error, where = info
    if error is None:
        return None
    info = type(error), error, where
    rendered = text_in_time(partial(_FORMATTER.formatException, info))
    if rendered is None:
        return f"{type(error).__name__}: {MASK}"
    shown = text_in_time(partial(repr, error))
    if shown is not None and not (
        secrets.in_text(rendered + shown)
        or frames_hold_secret(error, secrets)
        or frames_hold_secret(where, secrets)
    ):
        return None
    return masked(rendered, secrets)


def _empty(record: logging.LogRecord) -> None:
    """Leave of a record only where it was made: it can't be searched."""
    made = logging.LogRecord(
        str(record.name),
        int(record.levelno),
        str(record.pathname),
        int(record.lineno),
        _EMPTY,
        (),
        None,
    )
    vars(record).clear()
    vars(record).update(vars(made))


def _without_variables(event: Any) -> Any:
    if isinstance(event, dict):
        return {
            key: _without_variables(each)
            for key, each in event.items()
            if not (key == "vars" and "function" in event)
        }
    return [_without_variables(each) for each in event] if isinstance(event, list) else event


# Any: OpenTelemetry needn't be installed.
def _masked_span(span: Any) -> Any:
    before = [span.name, span.status.description, *map(_attributes, (span, *span.links))]
    before += [_trace_state(each.context) for each in (span, *span.links)]
    before += [each for event in span.events for each in (event.name, _attributes(event))]
    clean = [redact(each) for each in before]
    # What holds no secret is returned itself.
    if all(a is b for a, b in zip(clean, before, strict=True)):
        return span
    # Imported late: the package is installed if there is a span.
    from opentelemetry.sdk.trace import Event, ReadableSpan
    from opentelemetry.trace import Link, Status

    rest = iter(clean)
    name, description, attributes = next(rest), next(rest), next(rest)
    of_links = [next(rest) for _ in span.links]
    contexts = [_context(each.context, next(rest)) for each in (span, *span.links)]
    return ReadableSpan(
        name=name,
        context=contexts[0],
        parent=span.parent,
        resource=span.resource,
        attributes=attributes,
        links=list(map(Link, contexts[1:], of_links)),
        events=[Event(next(rest), next(rest), timestamp=each.timestamp) for each in span.events],
        kind=span.kind,
        status=Status(span.status.status_code, description),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _attributes(of: Any) -> dict[str, object]:
    return dict(of.attributes or {})


def _trace_state(context: Any) -> dict[str, str]:
    return dict(context.trace_state or {})


def _context(context: Any, state: dict[str, str]) -> Any:
    """Return a span's context, without its trace state if masking changed that."""
    if state == _trace_state(context):
        return context
    # A mask may break the format of a trace state, so all of it is left out.
    return type(context)(context.trace_id, context.span_id, context.is_remote, context.trace_flags)
