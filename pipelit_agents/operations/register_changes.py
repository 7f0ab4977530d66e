"""Compare a register with an export that was kept: what was deleted, and what was turned back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from pipelit_agents.errors import ConfigurationError
from pipelit_agents.operations.register_file import ExportedRegister
from pipelit_agents.operations.register_records import Question, Record, Row, name_of
from pipelit_agents.protocol.payload import Json
from pipelit_agents.sealing.keyring import Keyring

__all__ = ["Kept"]

# A question goes from one of these states to a later one, and never back. What is approved can
# be so again, and a call that was suspended is used again.
_ORDER: Final[Mapping[object, int]] = {"pending": 0, "approved": 1, "suspended": 2, "used": 2}
_LAST: Final = 3
# Columns that may change: a key was rotated, a person left, a denial followed, a call was started.
_CHANGING: Final = frozenset({"mac", "state", "denied_by", "starts", "asks", "waits"})


class Kept:
    """An export that was kept.

    Args:
        keyring: The keys of its seal.
    """

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._questions: dict[Json, Question] = {}
        self._problems: list[str] = []

    def read(self, lines: Iterable[bytes | str]) -> None:
        """Read the export.

        Raises:
            ConfigurationError: It isn't a complete export that was sealed with one of the keys, so
                nothing can be compared with it.
        """
        problems: list[str] = []
        exported = ExportedRegister(lines, problems.append)
        for record in exported.records():
            if isinstance(record, Question):
                self._questions[name_of(record.row.get("id"))] = record
        problem = exported.problem_of_seal(self._keyring)
        if problem or exported.head is None or problems:
            raise ConfigurationError(
                "the export that was kept can't be compared with: "
                f"{problem or (problems or ['it is no export'])[0]}"
            )

    def compare(self, record: Record) -> None:
        """Compare what the database has now."""
        if not isinstance(record, Question):
            return
        before = self._questions.pop(name_of(record.row.get("id")), None)
        if before is not None:
            name = f"question {name_of(record.row.get('id'))}"
            self._problems += [f"{name}: {each}" for each in _changes(before, record)]

    def problems(self) -> Iterator[str]:
        """Return the signs of changes, after the last record."""
        yield from self._problems
        for each in self._questions:
            yield f"question {each}: is in the export that was kept, and was deleted since"


def _changes(before: Question, now: Question) -> Iterator[str]:
    then, state = before.row.get("state"), now.row.get("state")
    if _constant(before.row) != _constant(now.row):
        yield "is another one than in the export that was kept"
    ended = then in ("denied", "expired") or (then == "used" and not before.row.get("call"))
    if _ORDER.get(state, _LAST) < _ORDER.get(then, _LAST) or (ended and state != then):
        yield (
            f"was {name_of(then)!r} in the export that was kept, and is {name_of(state)!r} now: an "
            "older row was restored"
        )
    answers = {_frozen(_constant(each.row)) for each in now.answers}
    for each in before.answers:
        if _frozen(_constant(each.row)) not in answers:
            yield (
                f"the answer {name_of(each.row.get('seq'))} of "
                f"{name_of(each.row.get('username'))} is in the export that was kept, and was "
                "deleted or changed since"
            )
    uses = {_frozen(each.row) for each in now.uses}
    if any(_frozen(each.row) not in uses for each in before.uses):
        yield "its use is in the export that was kept, and was deleted or changed since"


def _constant(row: Row) -> Row:
    return {name: value for name, value in row.items() if name not in _CHANGING}


def _frozen(row: Row) -> frozenset[tuple[str, str]]:
    # Values of rows are scalars, or the objects that stand for what JSON doesn't have.
    return frozenset((name, repr(value)) for name, value in row.items())
