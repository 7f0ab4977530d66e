"""Pages: in order, whole, and as fast in a large database as in a small one."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from approving import Approving
from conftest import Clock
from internals import database_of
from sqlalchemy import event

from pipelit_agents import Agent, Page, Pipelit
from pipelit_agents.accounts import account_lanes
from pipelit_agents.errors import CodeRejected, InvalidUsername, UserNotFound
from pipelit_agents.protocol.provisioning_uri import provisioning_uri

MANY = 20_000
FEW = 200
# Numbers from 1, as names that come after those of the tests.
NUMBERS = (
    "WITH RECURSIVE n(i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i < {last}) "
    "INSERT INTO {table} ({columns}) SELECT {values} FROM n"
)
USER = "username, kind, owner, root_owner, purpose, active, may_create_agents, totp_previous_until, created_at, created_by, domain, role"  # noqa: E501
KEY = "id, username, name, digest, last_four, created_at, created_by, expires_at, revoked_at"
CREDENTIAL = "name, kind, public, sealed, hint, created_at, updated_at, created_by"
QUESTION = "id, digest, approvers, asked_by, thread, created_at, expires_at, state, mac, rule"
LANE = "peer, scope, subject, version, in_a_row, recent, locked_until, spent_step"
ENTRY = "at, actor, subject, action, outcome, reason, run, node"
# Rows that no page of the test shows, in each place where a page may have to pass them.
CROWD = (
    ("pipelit_users", USER, "'n' || i, 'human', NULL, 'n' || i, '', 1, 0, 0, 0, 'o', '', 'member'"),
    ("pipelit_users", USER, "'m' || i, 'agent', 'n1', 'n1', '', 1, 0, 0, 0, 'o', '', ''"),
    ("pipelit_users", USER, "'p' || i, 'human', NULL, 'p' || i, '', 1, 0, 0, 0, 'o', 'd', ''"),
    ("pipelit_api_keys", KEY, "'n' || i, 'n1', 'k', 'd', 'l', i, 'o', 9e9 + i, NULL"),
    ("pipelit_api_keys", KEY, "'r' || i, 'n2', 'k', 'd', 'l', i, 'o', 1800000001, 1"),
    ("pipelit_api_keys", KEY, "'o' || i, 'n2', 'k', 'd', 'l', i, 'o', 1000000000, NULL"),
    ("pipelit_api_keys", KEY, "'f' || i, 'n2', 'k', 'd', 'l', i, 'o', NULL, NULL"),
    ("pipelit_credentials", CREDENTIAL, "'n' || i, 'other', '{}', 's', 'h', 0, 0, 'o'"),
    (
        "pipelit_person_credentials",
        f"person, {CREDENTIAL}",
        "'n1', 'a' || i, 'llm', '{}', 's', 'h', 0, 0, 'o'",
    ),
    (
        "pipelit_approvals",
        QUESTION,
        """'n' || i, 'd', '["n1", "alice"]', 'o', '', i, 1800000500 + i, 'pending', 'm', ''""",
    ),
    (
        "pipelit_approvals",
        QUESTION,
        """'e' || i, 'd', '["alice"]', 'o', '', i, i, 'pending', 'm', ''""",
    ),
    ("pipelit_approval_people", "approval_id, username, expires_at", "'n' || i, 'n1', 9e9"),
    ("pipelit_approval_people", "approval_id, username, expires_at", "'e' || i, 'alice', i"),
    ("pipelit_ledger", LANE, "'n' || i, 'plain', 'x', 1, 1, '', 0, 0"),
    ("pipelit_ledger", LANE, "'n' || i, 'pair', 'x', 1, 1, '', 1000000000, 0"),
    ("pipelit_audit", ENTRY, "i, 'o', 'n' || i, 'crowd', 'ok', '', '', ''"),
)


def all_of(page: Callable[..., Page[Any]], **options: Any) -> list[Any]:
    """What is on all pages of two items, of which each but the last one is full."""
    found: list[Any] = []
    after = None
    while True:
        one = page(after=after, limit=2, **options)
        assert one.next is None or len(one) == 2
        found += one
        after = one.next
        if after is None:
            return found


@pytest.fixture
def family(pipelit: Pipelit) -> Pipelit:
    """Bob with three agents, one of which has another; carol, and a peer."""
    users = pipelit.users
    for name in ("bob", "carol"):
        users.create(name)
    for number in range(3):
        users.create_agent(f"agent_{number}", owner="bob", purpose="p")
    users.create_agent("agent_9", owner="agent_1", purpose="p")
    users.enroll_peer(provisioning_uri("peer.x", bytes(range(32))), name="peer.x", domain="there")
    return pipelit


# The filters of a page of accounts, and who is on it.
FILTERED: list[tuple[dict[str, Any], str]] = [
    ({}, "agent_0 agent_1 agent_2 agent_9 alice bob carol peer.x"),
    ({"kind": "human"}, "alice bob carol"),
    ({"kind": "agent"}, "agent_0 agent_1 agent_2 agent_9"),
    ({"kind": "peer"}, "peer.x"),
    ({"owner": "bob"}, "agent_0 agent_1 agent_2"),
    ({"owner": "agent_1"}, "agent_9"),
    ({"owner": "bob", "kind": "human"}, ""),
    ({"owner": "bob", "kind": "agent"}, "agent_0 agent_1 agent_2"),
    ({"root_owner": "bob"}, "agent_0 agent_1 agent_2 agent_9 bob"),
    ({"root_owner": "bob", "kind": "agent"}, "agent_0 agent_1 agent_2 agent_9"),
    ({"root_owner": "bob", "kind": "human"}, "bob"),
    ({"root_owner": "bob", "kind": "peer"}, ""),
    ({"root_owner": "peer.x"}, "peer.x"),
    ({"root_owner": "peer.x", "kind": "peer"}, "peer.x"),
    ({"root_owner": "bob", "owner": "agent_1"}, "agent_9"),
    ({"root_owner": "alice", "owner": "agent_1"}, ""),
    ({"root_owner": "bob", "owner": "nobody"}, ""),
]


@pytest.mark.backends("sqlite", "postgres")
def test_pages_of_accounts_have_all_that_fit(family: Pipelit) -> None:
    """Whatever the filters are, sorted by name."""
    for options, names in FILTERED:
        found = [each.username for each in all_of(family.users.page, **options)]
        assert (options, found) == (options, names.split())


@pytest.mark.backends("sqlite", "postgres")
def test_pages_of_keys_are_in_the_order_of_creation(pipelit: Pipelit, clock: Clock) -> None:
    """Also of keys from one moment, and of revoked ones."""
    for number in range(5):
        clock.advance(number % 2)
        pipelit.users.issue_api_key("alice", name=f"k{number}")
    pipelit.users.revoke_api_key(pipelit.users.list_api_keys("alice")[2].id)
    assert all_of(lambda **options: pipelit.users.page_api_keys("alice", **options)) == [
        *pipelit.users.list_api_keys("alice")
    ]
    with pytest.raises(UserNotFound):
        pipelit.users.page_api_keys("nobody")


@pytest.mark.backends("sqlite", "postgres")
async def test_pages_of_lanes_have_all_that_counted(
    pipelit: Pipelit, writer: Agent, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also past lanes that have counted nothing since a right code, however many those are."""
    for name in ("agent_a", "agent_b", "agent_c", "agent_d"):
        pipelit.users.create_agent(name, owner="alice", purpose="p")
        with pytest.raises(CodeRejected):
            pipelit.agent(name).verify_peer("agent_writer", "00000000")
        if name < "agent_c":
            code = writer.totp_code(audience=name).code
            assert pipelit.agent(name).verify_peer("agent_writer", code)
    listed = [*pipelit.users.lanes("agent_writer")]
    assert [each.lane for each in listed] == ["audience:agent_c", "audience:agent_d"]
    assert all_of(lambda **options: pipelit.users.page_lanes("agent_writer", **options)) == listed
    monkeypatch.setattr(account_lanes, "MOST_LANES", 1)
    page = await pipelit.users.apage_lanes("agent_writer")
    found = [*page]
    while page.next is not None:
        page = pipelit.users.page_lanes("agent_writer", after=page.next)
        found += page
    assert found == listed
    with pytest.raises(UserNotFound):
        pipelit.users.page_lanes("nobody")


@pytest.mark.backends("sqlite", "postgres")
def test_pages_of_credentials_are_sorted_by_name(pipelit: Pipelit) -> None:
    """Shared ones and a person's own ones apart, each of one kind or of all."""
    for person in (None, "alice"):
        for number in range(5):
            pipelit.credentials.put(
                f"c{number}",
                "sk-1b2c3d4e5f6a",
                kind=f"k{number % 2}",
                created_by="alice",
                person=person,
            )
        for kind in (None, "k0", "k1", "k2"):
            assert all_of(pipelit.credentials.page, person=person, kind=kind) == [
                *pipelit.credentials.list(person=person, kind=kind)
            ]


def test_keys_that_expire_soon_are_found(pipelit: Pipelit, clock: Clock) -> None:
    """Only those that are accepted now: not revoked, not expired, of an active account."""
    users = pipelit.users
    users.create("bob")
    users.create("gone")

    def issue(name: str, days: float, of: str = "alice") -> str:
        at = datetime.fromtimestamp(clock(), UTC) + timedelta(days=days)
        return users.issue_api_key(of, name=name, expires_at=at).id

    issue("late", 30)
    issue("second", 2)
    issue("bob's", 1, of="bob")
    issue("expired", 0.5)
    issue("gone", 1.5, of="gone")
    users.revoke_api_key(issue("revoked", 1.7))
    users.deactivate("gone")
    clock.advance(0.6 * 86_400)
    found = users.expiring_keys(timedelta(days=14))
    assert [(each.name, each.username) for each in found] == [("bob's", "bob"), ("second", "alice")]
    assert [e.name for e in users.expiring_keys(timedelta(days=14), username="alice")] == ["second"]
    assert [e.name for e in users.expiring_keys(timedelta(days=14), limit=1)] == ["bob's"]
    with pytest.raises(TypeError, match="within"):
        users.expiring_keys(14)  # type: ignore[arg-type]


def test_locked_lanes_of_all_accounts_are_found(approving: Approving) -> None:
    """The one that unlocks last comes first; not of names without an account, or deactivated."""
    users, now = approving.pipelit.users, approving.clock()
    users.create("gone")
    for name, until in {"bob": 60, "alice": 90, "mallory": -1, "gone": 70, "nobody": 80}.items():
        approving.change(
            "INSERT INTO pipelit_ledger (peer, scope, subject, version, in_a_row, recent, "
            "locked_until, spent_step) VALUES (:name, 'plain', 'x', 1, 9, '', :until, 0)",
            name=name,
            until=now + until,
        )
    users.deactivate("gone")
    assert [(each.username, each.lane.lane) for each in users.locked_lanes()] == [
        ("alice", "plain:x"),
        ("bob", "plain:x"),
    ]
    assert [each.username for each in users.locked_lanes(limit=1)] == ["alice"]
    users.unlock("alice")
    assert [each.username for each in users.locked_lanes()] == ["bob"]


def test_pages_of_questions_begin_with_what_expires_first(approving: Approving) -> None:
    """Only what waits for the person: not what is answered, closed, expired, or others' to say."""
    approvals = approving.pipelit.approvals

    def ask(name: str, seconds: float, *approvers: str) -> str:
        people = approvers or ("alice",)
        return approvals.request({"do": name}, approvers=people, expires_in=seconds).id

    def names(person: str) -> list[str]:
        shown = [each.shown["do"] for each in all_of(lambda **o: approvals.page(person, **o))]
        assert approvals.count_pending(person) == len(shown)
        return shown

    ask("third", 3000)
    ask("first", 1000)
    ask("bob's", 1500, "bob")
    ask("both", 2000, "alice", "bob")
    ask("expired", 10)
    approvals.decide(ask("approved", 2500), "alice", approving.code("alice"))
    approvals.deny(ask("denied", 2500), "alice", approving.code("alice"))
    assert names("alice") == ["first", "both", "third"]
    assert names("bob") == ["bob's", "both"]
    assert names("mallory") == []
    assert approvals.count_pending("alice", most=2) == 2
    # What was closed isn't looked for any more; what has expired is passed by its time.
    left = {(each["username"]) for each in approving.rows("pipelit_approval_people")}
    assert left == {"alice", "bob"}
    assert len(approving.rows("pipelit_approval_people")) == 6
    every = [each.shown["do"] for each in all_of(approvals.register.page)]
    assert sorted(every) == sorted(each.shown["do"] for each in approvals.register.list())
    asked = [each.created_at for each in all_of(approvals.register.page)]
    assert asked == sorted(asked, reverse=True)


def test_a_row_that_was_planted_moves_no_page(approving: Approving) -> None:
    """A finder with another time, of another question or for another person shows nothing."""
    approvals = approving.pipelit.approvals
    ids = [
        approvals.request({"do": n}, approvers=["alice"], expires_in=1000 + n).id for n in range(4)
    ]
    now = approving.clock()
    for id_, name, at in [
        (ids[0], "mallory", now + 1000),
        ("apr_" + "0" * 32, "alice", now + 5),
    ]:
        approving.change(
            "INSERT INTO pipelit_approval_people VALUES (:id, :name, :at)", id=id_, name=name, at=at
        )
    for number, value in enumerate(("'zzz'", "9e999", "x'61ff80'", "CAST(x'61ff80' AS TEXT)")):
        approving.change(
            "INSERT INTO pipelit_approval_people "  # noqa: S608 - fixed words
            f"VALUES ('apr_{number}', 'alice', {value})"
        )
        approving.change(
            "INSERT INTO pipelit_approvals (id, digest, approvers, asked_by, thread, created_at, "  # noqa: S608 - fixed words
            "expires_at, state, mac) "
            f"VALUES ({value}, 'd', '[\"alice\"]', 'o', '', {value}, {value}, 'pending', 'm')"
        )
    assert [each.id for each in all_of(lambda **o: approvals.page("alice", **o))] == ids
    assert {each.id for each in all_of(approvals.register.page)} == {*ids}
    assert all_of(lambda **o: approvals.page("mallory", **o)) == []
    # Another time for a question of hers: it isn't found, and all others are.
    approving.change(
        "UPDATE pipelit_approval_people SET expires_at = expires_at + 2 WHERE approval_id = :id",
        id=ids[1],
    )
    assert [each.id for each in all_of(lambda **o: approvals.page("alice", **o))] == [
        ids[0],
        ids[2],
        ids[3],
    ]


def test_pages_of_the_audit_go_both_ways(pipelit: Pipelit, clock: Clock) -> None:
    """The newest first, or the oldest, with the filters of the list."""
    for number in range(5):
        clock.advance(60)
        pipelit.users.create(f"u{number}")
        pipelit.users.deactivate(f"u{number}")
    since = datetime.fromtimestamp(clock() - 61, UTC)
    for options in (
        {},
        {"action": "user."},
        {"action": "human.create", "outcome": "ok"},
        {"subject": "u3"},
        {"actor": "operator", "person": ""},
        {"since": since},
        {"subject": "nobody"},
    ):
        wanted = [*pipelit.audit.list(**options)]  # type: ignore[arg-type]
        assert all_of(pipelit.audit.page, oldest_first=True, **options) == wanted
        assert all_of(pipelit.audit.page, **options) == wanted[::-1]
    with pytest.raises(ValueError, match="outcome must be"):
        pipelit.audit.page(outcome="good")


CALLS: list[Callable[[Pipelit, Any], object]] = [
    lambda p, after: p.users.page(after=after),
    lambda p, after: p.users.page_api_keys("alice", after=after),
    lambda p, after: p.users.page_lanes("alice", after=after),
    lambda p, after: p.credentials.page(after=after),
    lambda p, after: p.approvals.page("alice", after=after),
    lambda p, after: p.approvals.register.page(after=after),
    lambda p, after: p.audit.page(after=after),
]


@pytest.mark.parametrize(
    "after",
    ["", "%", "1,2,3", "nan,a", "a" * 200, "é", "\0", "\ud800", "1,'--", "9" * 30 + "é", 5, b"1"],
    ids=ascii,
)
def test_a_cursor_that_no_page_had_is_refused(pipelit: Pipelit, after: Any) -> None:
    """With an error about the argument, whatever it is."""
    for call in CALLS:
        with pytest.raises((InvalidUsername, TypeError, ValueError), match=r"^after "):
            call(pipelit, after)


@pytest.mark.parametrize("limit", [0, -1, 1001, 2**40, 1.0, "5", True, None], ids=repr)
def test_a_limit_is_a_number_up_to_a_thousand(pipelit: Pipelit, limit: Any) -> None:
    """Of every list."""
    for call in (
        lambda: pipelit.users.page(limit=limit),
        lambda: pipelit.users.page_api_keys("alice", limit=limit),
        lambda: pipelit.users.page_lanes("alice", limit=limit),
        lambda: pipelit.users.expiring_keys(timedelta(days=1), limit=limit),
        lambda: pipelit.users.locked_lanes(limit=limit),
        lambda: pipelit.credentials.page(limit=limit),
        lambda: pipelit.approvals.page("alice", limit=limit),
        lambda: pipelit.approvals.register.page(limit=limit),
        lambda: pipelit.audit.page(limit=limit),
    ):
        with pytest.raises((TypeError, ValueError), match="limit must be"):
            call()


# Each returns something in the test's database, past rows of the crowd where there can be some.
PAGES: dict[str, Callable[[Pipelit], Sequence[Any]]] = {
    "all accounts": lambda p: p.users.page(limit=2).items,
    "accounts after one": lambda p: p.users.page(limit=2, after="agent_0").items,
    "people": lambda p: p.users.page(limit=2, kind="human").items,
    "people after many": lambda p: p.users.page(limit=2, kind="human", after="zoe").items,
    "agents": lambda p: p.users.page(limit=2, kind="agent").items,
    "agents after many": lambda p: p.users.page(limit=2, kind="agent", after="n").items,
    "peers": lambda p: p.users.page(limit=2, kind="peer").items,
    "agents of an owner": lambda p: p.users.page(limit=5, owner="alice").items,
    "a family": lambda p: p.users.page(limit=9, root_owner="alice").items,
    "agents of a family": lambda p: p.users.page(limit=9, root_owner="alice", kind="agent").items,
    "a person of a family": lambda p: p.users.page(root_owner="n1", kind="human").items,
    "a peer of a family": lambda p: p.users.page(root_owner="p1", kind="peer").items,
    "an owner in a family": lambda p: p.users.page(owner="n1", root_owner="alice").items,
    "another kind of an owner": lambda p: p.users.page(owner="n1", kind="human").items,
    "whether there is an operator": lambda p: [p.users.has_operator()],
    "keys": lambda p: p.users.page_api_keys("alice", limit=9).items,
    "keys of many": lambda p: p.users.page_api_keys("n1", limit=2).items,
    "expiring keys": lambda p: p.users.expiring_keys(timedelta(days=9)),
    "expiring keys of one": lambda p: p.users.expiring_keys(timedelta(days=9), username="alice"),
    "locked lanes": lambda p: p.users.locked_lanes(),
    "shared credentials": lambda p: p.credentials.page(limit=1).items,
    "shared credentials of a kind": lambda p: p.credentials.page(limit=9, kind="llm").items,
    "own credentials": lambda p: p.credentials.page(limit=9, person="alice").items,
    "own credentials of a kind": lambda p: p.credentials.page(person="alice", kind="llm").items,
    "questions of a person": lambda p: p.approvals.page("alice", limit=5).items,
    "number of questions": lambda p: [p.approvals.count_pending("alice")],
    "register": lambda p: p.approvals.register.page(limit=1).items,
    "audit": lambda p: p.audit.page(limit=5).items,
    "audit from its beginning": lambda p: p.audit.page(limit=5, oldest_first=True).items,
    "audit of a subject": lambda p: p.audit.page(subject="alice").items,
}


@pytest.fixture
def crowded(approving: Approving) -> Approving:
    """Something on each page, beside 200 rows of each table that it has to pass by."""
    p, at = approving.pipelit, datetime.fromtimestamp(approving.clock(), UTC)
    p.users.create("zoe")
    p.users.create("zora")
    p.users.create_agent("agent_0", owner="alice", purpose="p")
    p.users.create_agent("z_agent", owner="alice", purpose="p")
    p.users.issue_api_key("alice", name="soon", expires_at=at + timedelta(days=1))
    for person in (None, "alice"):
        for name in ("a", "z"):
            p.credentials.put(name, "sk-1b2c3d4e5f6a", kind="llm", created_by="o", person=person)
    for _ in range(2):
        p.approvals.request("x", approvers=["alice"], expires_in=100)
    grow(approving, 1, FEW)
    approving.change(
        "INSERT INTO pipelit_ledger (peer, scope, subject, version, in_a_row, recent, "
        "locked_until, spent_step) VALUES ('alice', 'others', '', 1, 9, '', :until, 0)",
        until=approving.clock() + 60,
    )
    return approving


def grow(approving: Approving, first: int, last: int, only: str = "") -> None:
    """Add rows of the crowd to each table, or to one."""
    file = approving.url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("PRAGMA synchronous = OFF")
        for table, columns, values in CROWD:
            if only not in ("", table):
                continue
            connection.execute(
                NUMBERS.format(table=table, columns=columns, values=values, first=first, last=last)
            )


def steps(pipelit: Pipelit) -> dict[str, int]:
    """The steps of SQLite's machine for each page: each row that it reads takes some."""
    taken = 0

    def count(connection: Any, *_: object) -> None:
        connection.connection.driver_connection.set_progress_handler(tick, 1)

    def tick() -> int:
        nonlocal taken
        taken += 1
        return 0

    engine = database_of(pipelit).engine
    event.listen(engine, "before_cursor_execute", count)
    try:
        found = {}
        for name, page in PAGES.items():
            taken = 0
            assert page(pipelit) or name in ("an owner in a family", "another kind of an owner")
            found[name] = taken
        return found
    finally:
        event.remove(engine, "before_cursor_execute", count)


@pytest.mark.slow
def test_a_page_takes_the_same_time_in_a_large_database(crowded: Approving) -> None:
    """SQLite does the same work beside 200 rows as beside 20,000 in each table."""
    few = steps(crowded.pipelit)
    grow(crowded, FEW + 1, MANY)
    many = steps(crowded.pipelit)
    assert {name: (few[name], many[name]) for name in few if many[name] > few[name] + 20} == {}


def test_a_filter_of_the_audit_looks_at_a_number_of_entries(crowded: Approving) -> None:
    """What is rare is found after some pages, none of which looks at the whole trail."""
    grow(crowded, FEW + 1, MANY, "pipelit_audit")
    pages = 0
    after: str | None = None
    found: list[Any] = []
    while pages == 0 or after:
        page = crowded.pipelit.audit.page(after=after, action="user.role", actor="mallory")
        after, pages = page.next, pages + 1
        found += page
    assert found == []
    assert pages == 5
