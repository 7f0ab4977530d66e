"""The audit over HTTP: filters, pages, an export that is bounded and stops, and verification."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from conftest import Clock
from internals import clock_of, database_of
from sqlalchemy import text

from pipelit_agents import Pipelit
from pipelit_agents.audit.records import entry, write
from pipelit_agents.audit.trail import AuditTrail
from pipelit_agents.desk import audit as audit_module


def note(pipelit: Pipelit, count: int, subject: str = "thing", **fields: str) -> None:
    """Write entries."""
    given: dict[str, Any] = {
        "actor": "alice", "action": "verify.audience", "outcome": "ok", "reason": "", **fields,
    }  # fmt: skip
    with database_of(pipelit).writing() as connection:
        write(
            connection,
            *(entry(at=clock_of(pipelit)(), subject=subject, **given) for _ in range(count)),
        )


def exported(client: httpx.Client, **filters: str) -> list[dict[str, Any]]:
    """Return the entries of an export."""
    answer = client.get("/audit/export", params=filters)
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in answer.text.splitlines()]


def test_entries_are_paged_and_filtered(
    operator: httpx.Client, pipelit: Pipelit, clock: Clock
) -> None:
    """The newest first; each filter alone and several together; every entry once."""
    note(pipelit, 5)
    clock.advance(10)
    note(pipelit, 2, "other", actor="bob", outcome="refused", person="carol")
    since = datetime.fromtimestamp(clock(), UTC).isoformat()
    for filters, count in (
        ({"subject": "thing"}, 5),
        ({"subject": "other"}, 2),
        ({"action": "verify."}, 7),
        ({"action": "verify"}, 0),
        ({"outcome": "refused", "actor": "bob"}, 2),
        ({"person": "carol"}, 2),
        ({"action": "verify.audience", "since": since}, 2),
    ):
        found = operator.get("/audit", params=filters).json()["items"]
        assert len(found) == count, filters
        assert exported(operator, **filters) == found[::-1], filters
    seen, after = [], {}
    while True:
        page = operator.get("/audit", params={"limit": 3, "subject": "thing", **after}).json()
        seen += [each["id"] for each in page["items"]]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert seen == sorted(set(seen), reverse=True)
    assert len(seen) == 5


MEANINGLESS: list[str] = [
    "outcome=maybe",
    "since=2026-01-01T00:00:00",
    "since=yesterday",
    "subject=%C3%A9",
    "action=verify%01",
    "subject=",
    "actor=" + "a" * 150,
    "after=x",
    "after=99999999999999999999",
    "limit=0",
    "limit=101",
    "limit=1e3",
]


def test_a_filter_that_cant_be_meant_is_a_422(operator: httpx.Client) -> None:
    """Also before an export begins: an answer with a 200 is never cut by it."""
    for query in MEANINGLESS:
        assert operator.get(f"/audit?{query}").status_code == 422, query
        if not query.startswith(("after", "limit")):
            assert operator.get(f"/audit/export?{query}").status_code == 422, query


def test_others_read_nothing_of_the_audit(member: httpx.Client, agent: httpx.Client) -> None:
    """It names everybody."""
    for client in (member, agent):
        for path in ("/audit", "/audit/export", "/audit/head", "/checks", "/encryption-keys"):
            assert client.get(path).status_code == 403
        assert client.post("/audit/verify", json={}).status_code == 403


def test_an_export_has_everything_in_order(
    operator: httpx.Client, pipelit: Pipelit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In batches, also those with numbers that were never assigned, and none twice."""
    monkeypatch.setattr(audit_module, "BATCH", 7)
    note(pipelit, 30)
    for number in (-5, 2**63 - 1):
        with database_of(pipelit).writing() as connection:
            connection.execute(
                text(
                    "INSERT INTO pipelit_audit (id, at, actor, subject, action, outcome, reason, "
                    "run, node, thread) VALUES (:n, 0, 'x', 'x', 'x', 'ok', '', '', '', '')"
                ),
                {"n": number},
            )
    found = [each["id"] for each in exported(operator)]
    assert found == sorted(set(found))
    assert (found[0], found[-1]) == (-5, 2**63 - 1)
    assert len(found) == len(pipelit.audit.list(limit=1000))


def test_an_export_is_recorded(operator: httpx.Client, pipelit: Pipelit) -> None:
    """With who got it and by which filters, not with what they say; it is in the export itself."""
    note(pipelit, 2)
    exported(operator, subject="thing", outcome="ok")
    last = exported(operator)[-1]
    assert (last["actor"], last["subject"], last["action"]) == ("alice", "audit", "audit.export")
    reasons = [each.reason for each in pipelit.audit.list(action="audit.export")]
    assert reasons == ["by subject, outcome", "all entries"]
    assert operator.get("/audit/export?outcome=maybe").status_code == 422
    assert len(pipelit.audit.list(action="audit.export")) == 2


async def test_an_export_reads_no_further_when_the_client_goes(
    desk_app: Any, desk_keys: dict[str, str], pipelit: Pipelit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads one batch after the other as the client takes them, and stops with the client."""
    monkeypatch.setattr(audit_module, "BATCH", 5)
    note(pipelit, 200)
    read: list[int] = []
    page = AuditTrail.page

    def counting(self: AuditTrail, **options: Any) -> Any:
        read.append(options["limit"])
        return page(self, **options)

    monkeypatch.setattr(AuditTrail, "page", counting)
    gone, sent, third = asyncio.Event(), [], asyncio.Event()

    async def receive() -> Any:
        if not sent:
            sent.append(b"")
            return {"type": "http.request", "body": b"", "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            sent.append(message["body"])
            if len(sent) == 4:
                third.set()
                # A client that takes nothing more.
                await asyncio.Event().wait()

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET",
        "path": "/api/v1/audit/export", "raw_path": b"/api/v1/audit/export", "query_string": b"",
        "root_path": "", "scheme": "http", "server": ("localhost", 80),
        "client": ("127.0.0.1", 4000),
        "headers": [
            (b"host", b"localhost"),
            (b"authorization", f"Bearer {desk_keys['alice']}".encode()),
        ],
    }  # fmt: skip
    running = asyncio.create_task(desk_app(scope, receive, send))
    await asyncio.wait_for(third.wait(), 10)
    assert len(read) == 3
    gone.set()
    await asyncio.wait_for(running, 10)
    assert len(read) == 3
    # It makes room for others.
    assert audit_module.EXPORTS.running == 0


def test_an_export_that_fails_isnt_whole(
    operator: httpx.Client, pipelit: Pipelit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error in the middle breaks the answer off, so that nobody takes a part for all of it."""
    monkeypatch.setattr(audit_module, "BATCH", 5)
    note(pipelit, 20)
    page, calls = AuditTrail.page, []

    def failing(self: AuditTrail, **options: Any) -> Any:
        calls.append(options)
        if len(calls) == 3:
            raise OSError("the disk is gone")
        return page(self, **options)

    monkeypatch.setattr(AuditTrail, "page", failing)
    # The transport of the test misses the end of the answer, as a client does.
    with pytest.raises(AssertionError):
        operator.get("/audit/export")
    assert len(calls) == 3


def test_a_bounded_number_of_exports_runs(operator: httpx.Client) -> None:
    """Four at a time; the next is a 429, as long as it hasn't begun."""
    with (
        audit_module.EXPORTS.begin(), audit_module.EXPORTS.begin(),
        audit_module.EXPORTS.begin(), audit_module.EXPORTS.begin(),
    ):  # fmt: skip
        answer = operator.get("/audit/export")
        assert (answer.status_code, answer.headers["Retry-After"]) == (429, "30")
    assert operator.get("/audit/export").status_code == 200


def test_the_trail_is_verified(operator: httpx.Client, pipelit: Pipelit) -> None:
    """A whole trail is whole, also against its heads; a changed one isn't, nor one that was cut."""
    note(pipelit, 5)
    assert operator.get("/audit/head").json()["number"] == 0
    pipelit.audit.seal()
    head = operator.get("/audit/head").json()
    assert head["number"] == 1
    for heads in ([], [head]):
        report = operator.post("/audit/verify", json={"heads": heads}).json()
        assert (report["whole"], report["problems"]) == (True, [])
    assert operator.post("/audit/verify").json()["whole"] is True
    other = operator.post("/audit/verify", json={"heads": [head | {"digest": "0" * 64}]}).json()
    assert other["whole"] is False
    with database_of(pipelit).writing() as connection:
        connection.execute(text("UPDATE pipelit_audit SET actor = 'eve' WHERE id = 2"))
    report = operator.post("/audit/verify", json={"heads": [head]}).json()
    assert report["whole"] is False
    assert "changed or reordered" in report["problems"][0]
    for heads in ([head] * 101, [head | {"number": "1"}], [{}], head):
        answer = operator.post("/audit/verify", json={"heads": heads})
        assert answer.status_code == 422, heads


@pytest.mark.slow
def test_a_report_is_bounded(
    operator: httpx.Client, pipelit: Pipelit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred problems are listed, and the others are counted."""
    note(pipelit, 130)
    pipelit.audit.seal(batch=1)
    with database_of(pipelit).writing() as connection:
        connection.execute(text("UPDATE pipelit_audit SET actor = 'eve' WHERE subject = 'thing'"))
    report = operator.post("/audit/verify", json={}).json()
    assert (len(report["problems"]), report["unlisted"]) == (100, 30)


def test_one_verification_runs_at_a_time(
    operator: httpx.Client,
    client_of: Callable[..., httpx.Client],
    desk_keys: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second is a 429, and the first isn't disturbed; after it there is room."""
    begun, go, answers = threading.Event(), threading.Event(), []
    verify = AuditTrail.verify

    def waiting(self: AuditTrail, heads: Any = ()) -> Any:
        begun.set()
        assert go.wait(10)
        return verify(self, heads)

    monkeypatch.setattr(AuditTrail, "verify", waiting)
    # A client has an event loop of its own, so another thread needs another client.
    other = client_of(desk_keys["alice"])
    first = threading.Thread(
        target=lambda: answers.append(other.post("/audit/verify", json={}).status_code),
        daemon=True,
    )
    first.start()
    assert begun.wait(10)
    second = operator.post("/audit/verify", json={})
    assert (second.status_code, second.json()["type"].rpartition(":")[2]) == (429, "busy")
    go.set()
    first.join(10)
    assert answers == [200]
    assert operator.post("/audit/verify", json={}).status_code == 200
