"""Logs and traces without the secrets that are open in this process.

A node that logs its key, or hands it to a tracer that callbacks don't see, is the mistake; the
filter and the anonymizer are put where these are made, and mask what is revealed at that moment.
"""

from __future__ import annotations

import logging
from typing import Any

from pipelit_agents.credentials.boundary import masked, redact
from pipelit_agents.credentials.scope import open_secrets
from pipelit_agents.errors import SecretLeakError

__all__ = ["RedactingFilter", "anonymize"]


class RedactingFilter(logging.Filter):
    """A filter for log handlers that masks every secret that is open in this process.

    Message, arguments, extra fields and the exception with its chain lose the plaintext and its
    usual encodings; no record is dropped. Add it to handlers: a logger's own filters don't see
    what its children log. A secret is masked while its node runs; what is logged of it later, or
    written by ``print``, is not.

    Example:
        ```python
        for handler in logging.getLogger().handlers:
            handler.addFilter(RedactingFilter())
        ```
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Masks the record in place and lets it pass."""
        secrets = open_secrets()
        if not secrets:
            return True
        for name, value in list(vars(record).items()):
            if name != "exc_info":
                setattr(record, name, masked(value, secrets))
        if record.exc_info and record.exc_info[1] is not None:
            try:
                redact(record.exc_info[1], secrets)
            except SecretLeakError as leak:
                record.exc_info, record.exc_text = None, str(leak)
        try:
            message = record.getMessage()
        except Exception:
            # The handler reports what is wrong with the arguments.
            return True
        shown = masked(message, secrets)
        if shown != message:
            record.msg, record.args = shown, None
        return True


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
    shown: dict[str, Any] = masked(payload, open_secrets())
    return shown
