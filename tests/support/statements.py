"""The statements that a database gets, also those that go past SQLAlchemy on the fast path."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from internals import database_of
from sqlalchemy import event

from pipelit_agents import Pipelit
from pipelit_agents.database.fast_path import Query, Statement


@contextmanager
def before_each_statement(pipelit: Pipelit, call: Callable[[str], object]) -> Iterator[None]:
    """Call a function with each statement before the database gets it.

    A statement of the fast path doesn't know its Pipelit, so the function is called with those of
    all.
    """

    def before(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        call(statement)

    def calling(run: Any) -> Any:
        def called(statement: Statement, *given: Any) -> Any:
            call(statement.sql)
            return run(statement, *given)

        return called

    engine = database_of(pipelit).engine
    event.listen(engine, "before_cursor_execute", before)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Query, "fetch_by", calling(Query.fetch_by))
        patch.setattr(Statement, "write", calling(Statement.write))
        yield
    event.remove(engine, "before_cursor_execute", before)


@contextmanager
def statements(pipelit: Pipelit) -> Iterator[list[str]]:
    """Collect the statements that are sent to the database."""
    sent: list[str] = []
    with before_each_statement(pipelit, sent.append):
        yield sent
