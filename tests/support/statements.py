"""The statements that a database gets, also those that go past SQLAlchemy on the fast path."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from internals import database_of
from sqlalchemy import event

from pipelit_agents import Pipelit
from pipelit_agents.database.fast_path import Query, Statement


@contextmanager
def statements(pipelit: Pipelit) -> Iterator[list[str]]:
    """Collect the statements that are sent to the database."""
    sent: list[str] = []

    def collect(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    def collecting(run: Any) -> Any:
        def collected(statement: Statement, *given: Any) -> Any:
            sent.append(statement.sql)
            return run(statement, *given)

        return collected

    engine = database_of(pipelit).engine
    event.listen(engine, "before_cursor_execute", collect)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Query, "fetch_by", collecting(Query.fetch_by))
        patch.setattr(Statement, "write", collecting(Statement.write))
        yield sent
    event.remove(engine, "before_cursor_execute", collect)
