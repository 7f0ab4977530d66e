"""A process that stands still inside a verification, to be killed there; for the fault tests."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import Any

import fresh

from pipelit_agents import Pipelit
from pipelit_agents.database.fast_path import Query, Statement, Transaction

AFTER = "after the verification"
PROGRAM = "import sys; sys.path.insert(0, sys.argv[1]); import killed; killed.main()"


def kill_at(settings: dict[str, Any], place: str, verifier: str, peer: str, code: str) -> None:
    """Verifies in a process of its own, which is killed before it does more.

    Args:
        settings: Of its Pipelit.
        place: ``COMMIT``, a part of a statement, or ``AFTER``: before what it is killed.
        verifier: Who verifies.
        peer: Who is verified.
        code: The code that is given.
    """
    given = json.dumps([settings, place, verifier, peer, code])
    assert fresh.killed_after_a_line(PROGRAM, str(Path(__file__).parent), given) == "there\n"


def main() -> None:
    """Verifies up to the place, says that it is there, and goes no further."""
    settings, place, verifier, peer, code = json.loads(sys.argv[2])
    pipelit = Pipelit(**settings)

    def stand(reached: bool) -> None:
        if reached:
            print("there", flush=True)
            threading.Event().wait()

    # A transaction that wrote nothing yet isn't what the test is about.
    written: list[bool] = []

    def standing_before(run: Any) -> Any:
        def stood(statement: Statement, *given: Any) -> Any:
            stand(place in statement.sql)
            done = run(statement, *given)
            if statement.sql.startswith("INSERT INTO pipelit_audit"):
                written.append(True)
            return done

        return stood

    setattr(Query, "fetch_by", standing_before(Query.fetch_by))  # noqa: B010 - a method of the class
    for name in ("write", "write_each"):
        setattr(Statement, name, standing_before(getattr(Statement, name)))
    commit = Transaction.commit

    def committing(transaction: Transaction) -> None:
        stand(place == "COMMIT" and bool(written))
        commit(transaction)

    setattr(Transaction, "commit", committing)  # noqa: B010 - a method of the class
    try:
        pipelit.agent(verifier).verify_peer(peer, code)
    finally:
        stand(place == AFTER)
