"""Logs and traces without the secrets that are open in this process.

A node that logs its key, or hands it to a tracer that callbacks don't see, is the mistake; the
filter and the anonymizer are put where these are made, and mask what is revealed at that moment.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from pipelit_agents.credentials.boundary import masked
from pipelit_agents.credentials.needles import Needles
from pipelit_agents.credentials.scope import open_needles

__all__ = ["RedactingFilter", "anonymize"]

_FORMATTER: Final = logging.Formatter()


class RedactingFilter(logging.Filter):
    """A filter for log handlers that masks every secret that is open in this process.

    Message, arguments, extra fields and the traceback lose the plaintext and its usual encodings;
    no record is dropped, and what was logged isn't changed. Add it to handlers: a logger's own
    filters don't see what its children log; of a ``QueueHandler`` to itself, as its listener runs
    later. A secret is masked while its node runs; what is logged of it later, or written by
    ``print``, is not.

    Example:
        ```python
        for handler in logging.getLogger().handlers:
            handler.addFilter(RedactingFilter())
        ```
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Masks the record in place and lets it pass."""
        for secrets in open_needles():
            self._mask(record, secrets)
        return True

    @staticmethod
    def _mask(record: logging.LogRecord, secrets: Needles) -> None:
        for name, value in list(vars(record).items()):
            if name != "exc_info":
                setattr(record, name, masked(value, secrets))
        if record.exc_info:
            # Rendered here: the exception itself goes on in the program, and stays as it is.
            shown = _FORMATTER.formatException(record.exc_info)
            if secrets.within(shown + repr(record.exc_info[1])):
                record.exc_info, record.exc_text = None, masked(shown, secrets)
        try:
            message = record.getMessage()
        except Exception:
            # The handler reports what is wrong with the arguments.
            return
        shown = masked(message, secrets)
        if shown != message:
            record.msg, record.args = shown, None


def anonymize(payload: dict[str, Any]) -> dict[str, Any]:
    """Masks every secret that is open in this process, for ``langsmith.Client(anonymizer=…)``.

    LangSmith calls it with a run's inputs, outputs, metadata and error while the run is recorded.

    Args:
        payload: JSON by nature; it isn't changed.

    Returns:
        The same without the secrets.

    Example:
        ```python
        tracer = LangChainTracer(client=langsmith.Client(anonymizer=anonymize))
        ```
    """
    shown = payload
    for secrets in open_needles():
        shown = masked(shown, secrets)
    return shown
