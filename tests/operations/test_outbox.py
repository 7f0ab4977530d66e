"""The claims of notices in a database with several writers."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyotp
import pytest
from conftest import Clock
from internals import database_of
from sqlalchemy import text

from pipelit_agents import ApprovalNotice, Pipelit

BACKENDS = ("sqlite", "postgres")


@pytest.mark.slow
def test_many_processes_share_a_round(
    pipelit: Pipelit, settings: dict[str, Any], clock: Clock
) -> None:
    """Each notice is sent by one of them, also when it is retried, and old rows are deleted."""
    uri = pyotp.parse_uri(pipelit.mfa.enroll("alice").get_secret_value())
    pipelit.mfa.confirm("alice", pyotp.TOTP(uri.secret).at(clock()))
    approvals = pipelit.approvals
    for number in range(3):
        approvals.request({"pay": number}, approvers=["alice"], expires_in=10)
    seen: Counter[str] = Counter()
    lock = threading.Lock()

    def fails_at_first(notice: ApprovalNotice) -> None:
        with lock:
            seen[notice.id] += 1
            if seen[notice.id] == 1:
                raise RuntimeError

    def all_at_once() -> list[bool]:
        together = threading.Barrier(3)

        def one() -> list[bool]:
            with Pipelit(**settings, clock=clock) as other:
                together.wait()
                results = other.approvals.notices.send_due(fails_at_first)
                return [each.delivered for each in results]

        with ThreadPoolExecutor(3) as pool:
            runs = [pool.submit(one) for _ in range(3)]
        return [each for run in runs for each in run.result()]

    assert all_at_once() == [False] * 3
    clock.advance(5)
    assert all_at_once() == [True] * 3
    assert set(seen.values()) == {2}
    clock.advance(5)
    approvals.request({"pay": 9}, approvers=["alice"])
    assert all_at_once() == [False]
    with database_of(pipelit).reading() as connection:
        assert connection.scalar(text("SELECT count(*) FROM pipelit_approval_notices")) == 1
