"""Find the plaintext of a credential in state, messages, files and log records."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from sqlalchemy import Table, select

from pipelit_agents import Pipelit
from pipelit_agents.credentials.authenticator import plaintext_of
from pipelit_agents.credentials.leak_guard.patterns import Patterns
from pipelit_agents.credentials.leak_guard.search import refuse_leak
from pipelit_agents.credentials.scope import open_patterns
from pipelit_agents.credentials.whose import Whose
from pipelit_agents.database.models import CredentialRow, PersonCredentialRow
from pipelit_agents.errors import SecretLeakError

__all__ = ["assert_no_leak"]


def assert_no_leak(value: Any, pipelit: Pipelit) -> None:
    """Fail if a value contains a credential's plaintext, in any form that the leak guard finds.

    Searches for all credentials that are stored in the database, and for those that are open in
    this process. For this it decrypts all of them and writes no entry to the audit: use it with a
    test database only.

    Args:
        value: A graph's state, messages, log records (``caplog.records``), text, bytes, or any
            object or container of them. Of a ``pathlib.Path``, it searches that
            file, or all files in that folder.
        pipelit: Where the credentials are stored.

    Raises:
        AssertionError: The value holds a secret. The message names the credential and the path to
            it within the value, never the secret.
        UnsealError: A stored credential doesn't open under the keys of ``pipelit``.

    Example:
        ```python
        state = graph.invoke({"messages": [("user", "What's the weather?")]})
        assert_no_leak([state, caplog.records, tmp_path], pipelit)
        ```
    """
    sought_for: list[Mapping[str, str] | Patterns] = [_stored(pipelit), *open_patterns()]
    for each, where in _parts(value):
        for sought in sought_for:
            try:
                refuse_leak(each, sought, where)
            except SecretLeakError as error:
                message = str(error)
            else:
                continue
            # Outside of the handler, so that nothing of the search is shown with it.
            raise AssertionError(message)


def _stored(pipelit: Pipelit) -> Mapping[str, str]:
    """Return the names of all stored credentials by plaintext, those of persons among them."""
    core, found = pipelit._core, dict[str, str]()
    with core.database.reading() as connection:
        rows = [
            row
            for model in (CredentialRow, PersonCredentialRow)
            for row in connection.execute(select(cast(Table, model.__table__)))
        ]
    for row in rows:
        whose = Whose(getattr(row, "person", None))
        purpose = whose.purpose(row.name, row.kind, row.public, row.allow)
        stored = json.loads(core.keyring().unseal(row.sealed.token, purpose))
        for field, secret in stored.items():
            found[plaintext_of(secret)] = row.name if field == "value" else f"{row.name}:{field}"
    return found


def _parts(value: Any) -> Iterator[tuple[Any, str]]:
    """Yield what is searched at once, and what it is called."""
    if isinstance(value, Path):
        files = sorted(value.rglob("*")) if value.is_dir() else [value]
        for file in files:
            if file.is_file():
                yield file.read_bytes(), f"the file {file}"
    elif isinstance(value, logging.LogRecord):
        yield _written(value), f"a log record of {value.name!r}"
    elif isinstance(value, list | tuple | set | frozenset):
        # One by one, as there may be records and paths among them.
        for each in value:
            yield from _parts(each)
    else:
        yield value, "the value"


def _written(record: logging.LogRecord) -> list[Any]:
    """Return what handlers write of a log record, and its attributes."""
    known = vars(logging.makeLogRecord({}))
    extra = {name: value for name, value in vars(record).items() if name not in known}
    error = record.exc_info[1] if record.exc_info else None
    raised = "".join(traceback.format_exception(error)) if error else ""
    return [record.getMessage(), record.exc_text, raised, extra]
