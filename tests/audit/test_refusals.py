"""Floods of wrong API keys: who is looked up, who waits, and what the audit keeps of them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from conftest import Clock
from internals import authentication_of, database_of
from langgraph_sdk import Auth
from sqlalchemy import text
from starlette.exceptions import HTTPException
from virtual_time import run

from pipelit_agents import Pipelit
from pipelit_agents.audit import refusals
from pipelit_agents.bearer import source_of
from pipelit_agents.errors import AuthenticationError, StorageError
from pipelit_agents.server import FailureBudget, FailureDelay, make_auth

BACKENDS = ("sqlite", "postgres")
FLOODING = "203.0.113.9"


class Server:
    """The authentication of a server, asked as the server asks it."""

    def __init__(self, pipelit: Pipelit) -> None:
        self.pipelit = pipelit
        self._handler = authentication_of(make_auth(pipelit))

    async def ask(self, key: str | None, source: Any = FLOODING) -> int:
        """The status of a request with that key."""
        headers = [] if key is None else [(b"authorization", b"Bearer " + key.encode())]
        client = (source, 1) if isinstance(source, str) else source
        try:
            await self._call(headers, client)
        except Auth.exceptions.HTTPException as error:
            return error.status_code
        except HTTPException as error:
            self.headers = error.headers or {}
            return error.status_code
        return 200

    async def _call(self, headers: list[tuple[bytes, bytes]], client: Any) -> None:
        scope = {"client": client, "headers": headers}
        await self._handler(headers=dict(headers), scope=scope)

    async def flood(self, count: int = 300, source: Any = FLOODING) -> list[int]:
        """So many requests at once, each with another key that isn't valid."""
        keys = [f"plit_{number:012x}_{'A' * 43}" for number in range(count)]
        return await asyncio.gather(*(self.ask(key, source) for key in keys))


class Aegra(Server):
    """It, asked as Aegra asks: the headers alone, by position, as text."""

    async def _call(self, headers: list[tuple[bytes, bytes]], client: Any) -> None:
        await self._handler({name.decode(): value.decode("latin-1") for name, value in headers})


@pytest.fixture
def server(pipelit: Pipelit) -> Server:
    """It, with alice in the database."""
    return Server(pipelit)


def issued(pipelit: Pipelit, name: str = "alice") -> str:
    """A fresh key, whose secret part has what also parts a key's three parts."""
    while True:
        key = pipelit.users.issue_api_key(name, name="k").api_key.get_secret_value()
        if key.count("_") > 2:
            return key


@pytest.fixture
def spent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A budget that practically doesn't come back: who gets in then doesn't by luck."""
    monkeypatch.setattr("pipelit_agents.bearer._SOURCE_BUDGET", (100, 1e-6))


@contextmanager
def without_keys(pipelit: Pipelit) -> Iterator[None]:
    """The table of API keys is away, so whoever asks for it gets an error."""
    with database_of(pipelit).writing() as connection:
        connection.execute(text("ALTER TABLE pipelit_api_keys RENAME TO away"))
    yield
    with database_of(pipelit).writing() as connection:
        connection.execute(text("ALTER TABLE away RENAME TO pipelit_api_keys"))


def refused(pipelit: Pipelit) -> list[tuple[str, str]]:
    """Whose refusals are in the audit, and why."""
    found = pipelit.audit.list(limit=10_000, action="authenticate", outcome="refused")
    return [(each.subject, each.reason) for each in found]


# Who waits


def test_refusals_really_wait(server: Server) -> None:
    """Each after the fifth is answered later, at last by two seconds, one after the other."""

    async def ask() -> list[float]:
        loop, times = asyncio.get_running_loop(), []
        for _ in range(12):
            before = loop.time()
            assert await server.ask(None) == 401
            times.append(round(loop.time() - before, 3))
        return times

    assert run(ask()) == [0.0] * 5 + [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


@pytest.mark.parametrize("count", [65, 400, 1500])
def test_of_a_flood_each_refusal_waits(server: Server, count: int) -> None:
    """However many come at once: all but the first are held back."""

    async def ask() -> list[float]:
        loop, done = asyncio.get_running_loop(), []

        async def one() -> None:
            before = loop.time()
            assert await server.ask(f"plit_{'0' * 12}_{'A' * 43}") in (401, 429)
            done.append(loop.time() - before)

        await asyncio.gather(*(one() for _ in range(count)))
        return done

    times = run(ask())
    assert sum(each < 0.05 for each in times) == 5
    assert sum(each > 1.9 for each in times) >= count - 10


def test_how_many_wait_is_bounded() -> None:
    """Above it the others are answered at once, so a flood fills no memory."""

    async def hold() -> list[float]:
        delay, loop, done = FailureDelay(), asyncio.get_running_loop(), []

        async def one() -> None:
            await delay.wait("here")
            done.append(loop.time())

        await asyncio.gather(*(one() for _ in range(3000)))
        return done

    times = run(hold())
    assert sum(each > 1000.0 for each in times) == 2048 - 5


def test_a_valid_key_waits_for_nobody(server: Server) -> None:
    """Not for a flood of its own source, nor of another, at any moment of it."""
    key = issued(server.pipelit)

    async def ask() -> list[float]:
        loop, times = asyncio.get_running_loop(), []
        flood = asyncio.create_task(server.flood(1000))
        for source in (FLOODING, "198.51.100.7", None) * 3:
            await asyncio.sleep(0.3)
            before = loop.time()
            assert await server.ask(key, source) == 200
            times.append(loop.time() - before)
        assert not flood.done() or loop.time() > 1002
        await flood
        return times

    assert run(ask()) == [0.0] * 9


# An engine that passes no address


@pytest.fixture
def aegra(pipelit: Pipelit) -> Aegra:
    """The same, on an engine whose callers are all one source."""
    return Aegra(pipelit)


@pytest.mark.backends("sqlite")
@pytest.mark.usefixtures("spent")
def test_on_an_engine_without_addresses_strangers_keep_nobody_out(aegra: Aegra) -> None:
    """All failures come from one source there, and a valid key gets in without a delay."""
    key = issued(aegra.pipelit)

    async def ask() -> list[float]:
        loop, times = asyncio.get_running_loop(), []
        assert {401, 429} == set(await aegra.flood())
        flood = asyncio.create_task(aegra.flood(1000))
        for _ in range(5):
            await asyncio.sleep(0.3)
            before = loop.time()
            assert await aegra.ask(key) == 200
            times.append(loop.time() - before)
        await flood
        return times

    assert run(ask()) == [0.0] * 5


@pytest.mark.backends("sqlite")
def test_an_engine_without_addresses_gets_the_sdks_exceptions(aegra: Aegra) -> None:
    """It writes the traceback of any other into its log, and calls it an error of the system."""

    async def status() -> int:
        with pytest.raises(Auth.exceptions.HTTPException) as refusal:
            await aegra._handler({"authorization": f"Bearer plit_{'0' * 12}_{'A' * 43}"})
        assert refusal.value.__cause__ is None
        assert refusal.value.__suppress_context__ or refusal.value.__context__ is None
        return refusal.value.status_code

    assert run(status()) == 401
    with without_keys(aegra.pipelit):
        assert run(status()) == 503


@pytest.mark.backends("sqlite")
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer {key}x"},
        {"authorization": "Bearer {key} {key}"},
        {"authorization": "Basic {key}"},
        {"authorization": "Bearer pl\u00eft"},
        {"authorization": "Bearer {key}", "Authorization": "Bearer {key}"},
        {"x-api-key": "{key}"},
    ],
    ids=["none", "longer", "two words", "basic", "not ASCII", "twice", "another header"],
)
def test_an_engine_that_passes_text_is_answered_as_one_that_passes_bytes(
    aegra: Aegra, headers: dict[str, str]
) -> None:
    """Whatever isn't exactly one valid key is 401 there too."""
    key = issued(aegra.pipelit)

    async def ask() -> None:
        assert await aegra.ask(key) == 200
        with pytest.raises(Auth.exceptions.HTTPException, match="401"):
            await aegra._handler({name: text.format(key=key) for name, text in headers.items()})

    run(ask())


# Who is looked up


def test_above_its_budget_a_source_is_refused_unseen(server: Server) -> None:
    """Then the database isn't asked; the answer is 429 with Retry-After, and refills with time."""

    async def ask() -> None:
        statuses = await server.flood()
        assert statuses == [401] * 100 + [429] * 200
        assert 1 <= int(server.headers["Retry-After"]) <= 5
        await asyncio.sleep(1)
        statuses = await server.flood(50, FLOODING)
        assert 401 in statuses
        assert 429 in statuses

    run(ask())


@pytest.mark.usefixtures("spent")
def test_unseen_means_that_the_database_isnt_asked(server: Server) -> None:
    """Nor are the valid keys read again for each: their table may be away meanwhile."""

    async def ask() -> None:
        await server.flood()
        with without_keys(server.pipelit):
            assert set(await server.flood(50)) == {429}
            await asyncio.sleep(5)
            assert set(await server.flood(50)) == {503}

    run(ask())


@pytest.mark.usefixtures("spent")
@pytest.mark.parametrize("used", [True, False], ids=["used before", "never used"])
def test_a_valid_key_gets_in_from_a_flooding_address(server: Server, used: bool) -> None:
    """Strangers behind one address keep nobody out of it, also not who comes for the first time."""
    key = issued(server.pipelit)

    async def ask() -> None:
        if used:
            assert await server.ask(key, "198.51.100.7") == 200
        await server.flood()
        for _ in range(5):
            assert await server.ask(key) == 200
            assert 429 in await server.flood(100)

    run(ask())


@pytest.mark.usefixtures("spent")
def test_a_key_made_during_a_flood_gets_in_when_retry_after_says(server: Server) -> None:
    """At most five seconds later, however many others try at that moment."""

    async def ask() -> None:
        await server.flood()
        key = await asyncio.to_thread(issued, server.pipelit)
        assert await server.ask(key) == 429
        wait = int(server.headers["Retry-After"])
        assert 1 <= wait <= 5
        flood = asyncio.create_task(server.flood(200))
        await asyncio.sleep(wait)
        assert await server.ask(key) == 200
        await flood

    run(ask())


@pytest.mark.usefixtures("spent")
def test_a_key_that_is_revoked_during_a_flood_is_refused_at_once(server: Server) -> None:
    """It is known as valid, and looked up all the same; then it has no more than others."""
    issued_key = server.pipelit.users.issue_api_key("alice", name="k")
    key = issued_key.api_key.get_secret_value()

    async def ask() -> None:
        await server.flood()
        assert await server.ask(key) == 200
        await asyncio.to_thread(server.pipelit.users.revoke_api_key, issued_key.id)
        assert await server.ask(key) == 401
        await server.flood(100)
        assert await server.ask(key) == 429
        assert ("alice", "revoked key") in await asyncio.to_thread(refused, server.pipelit)

    run(ask())


@pytest.mark.usefixtures("spent")
@pytest.mark.parametrize("wrong", ["another id", "upper case", "no prefix", "one more part"])
def test_a_right_secret_in_a_wrong_key_keeps_the_right_key_in(server: Server, wrong: str) -> None:
    """It is refused, and then the right key gets in, in the same seconds and later."""
    key = issued(server.pipelit)
    secret = key.split("_", 2)[-1]
    mistaken = {
        "another id": f"plit_{'0' * 12}_{secret}",
        "upper case": key.replace("plit", "PLIT", 1),
        "no prefix": f"x_y_{secret}",
        "one more part": f"plit_{'f' * 11}_{secret}",
    }[wrong]

    async def ask() -> None:
        await server.flood()
        for _ in range(3):
            assert await server.ask(mistaken) in (401, 429)
            assert await server.ask(key) == 200
            await asyncio.sleep(6)
            assert await server.ask(key) == 200

    run(ask())


@pytest.mark.usefixtures("spent")
def test_a_key_that_was_refused_is_read_again(server: Server) -> None:
    """Its account may be active again by a restored database: it isn't kept out for ever."""
    issued_key = server.pipelit.users.issue_api_key("alice", name="k")
    key = issued_key.api_key.get_secret_value()

    def revoked_at(value: float | None) -> None:
        with database_of(server.pipelit).writing() as connection:
            connection.execute(
                text("UPDATE pipelit_api_keys SET revoked_at = :value"), {"value": value}
            )

    async def ask() -> None:
        await server.flood()
        assert await server.ask(key) == 200
        await asyncio.to_thread(revoked_at, 1.0)
        assert await server.ask(key) == 401
        await asyncio.to_thread(revoked_at, None)
        assert await server.ask(key) == 429
        await asyncio.sleep(6)
        assert await server.ask(key) == 200

    run(ask())


@pytest.mark.usefixtures("spent")
def test_keys_that_arent_valid_any_more_arent_known(server: Server, clock: Clock) -> None:
    """Expired, revoked, of an account that was deactivated: a flood with them is unseen too."""
    users = server.pipelit.users
    soon = datetime.fromtimestamp(clock(), UTC) + timedelta(seconds=10)
    expired = users.issue_api_key("alice", name="k", expires_at=soon)
    revoked = users.issue_api_key("alice", name="k")
    users.revoke_api_key(revoked.id)
    left = users.create("left")
    users.deactivate("left")
    clock.advance(10)

    async def ask() -> None:
        await server.flood()
        for key in (expired.api_key, revoked.api_key, left.api_key):
            assert await server.ask(key.get_secret_value()) == 429

    run(ask())


def test_valid_keys_cost_no_budget(server: Server) -> None:
    """A hundred users behind one address, each many times."""
    key = issued(server.pipelit)

    async def ask() -> None:
        for _ in range(3):
            assert set(await asyncio.gather(*(server.ask(key) for _ in range(150)))) == {200}
        assert (await server.flood(90)).count(401) == 90

    run(ask())


@pytest.mark.slow
def test_many_sources_have_a_budget_together(server: Server) -> None:
    """A flood from a thousand addresses is bounded as well, and valid keys get in beside it."""
    key = issued(server.pipelit)

    async def ask() -> None:
        floods = [server.flood(2, f"10.1.{n // 250}.{n % 250}") for n in range(1000)]
        statuses = [each for flood in await asyncio.gather(*floods) for each in flood]
        assert statuses.count(401) == 400
        assert await server.ask(key) == 200

    run(ask())


def test_a_database_that_is_away_is_no_wrong_key(server: Server) -> None:
    """Below and above the budget: 503, never 401 for a key that nobody has looked at."""
    key = issued(server.pipelit)

    async def ask() -> None:
        with without_keys(server.pipelit):
            assert await server.ask(key) == 503
            assert set(await server.flood(200)) == {503}
        assert await server.ask(key) == 200

    run(ask())


SOURCES = {
    "192.0.2.1": ("192.0.2.1", "::ffff:192.0.2.1", "64:ff9b::192.0.2.1", "::ffff:c000:201"),
    "2001:db8:1:2::/64": ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", "2001:DB8:1:2:0::7"),
    "2001:db8:1:3::/64": ("2001:db8:1:3::1",),
    "fe80::/64": ("fe80::1%eth0", "fe80::2%eth1"),
    "": ("", "a name", "/run/x.sock", "1.2.3", "192.000.002.001", "2001:db8::1::2"),
}


def test_what_counts_as_one_source() -> None:
    """An IPv4 address in each of its forms, a /64 of IPv6, and all that is no address together."""
    for source, addresses in SOURCES.items():
        for address in addresses:
            assert source_of((address, 80)) == source, address
    for client in (None, (), "", {}, 7, (None, 1), (b"192.0.2.1", 1)):
        assert source_of(client) == "", client


def test_the_budget_is_bounded_and_comes_back() -> None:
    """Of four thousand sources each has its own; time never takes from it."""
    budget = FailureBudget()
    assert [budget.take("here", 5.0) for _ in range(100)] == [0.0] * 100
    assert budget.take("here", 5.0) == pytest.approx(0.1)
    assert budget.take("here", 3.0) == pytest.approx(0.1)
    assert budget.take("here", 3.1) == 0.0
    assert budget.take("elsewhere", 3.1) == 0.0
    budget.give_back("here")
    assert budget.take("here", 3.1) == 0.0
    budget.give_back("nobody")
    for number in range(5000):
        budget.take(f"{number}", 100.0 + number)
    assert len(budget._sources) == 4096


# What the audit keeps


def wrong(pipelit: Pipelit, count: int, key: str = f"plit_{'0' * 12}_{'A' * 43}") -> None:
    """Tries a key so many times."""
    for _ in range(count):
        with pytest.raises(AuthenticationError):
            pipelit.users.authenticate(key)


def test_of_a_flood_the_first_are_written_and_the_rest_is_counted(pipelit: Pipelit) -> None:
    """Twenty entries, and one that says how many more; no refusal is lost, none counted twice."""
    wrong(pipelit, 500)
    wrong(pipelit, 30, "nonsense")
    assert refused(pipelit) == [("", "unknown key")] * 20 + [("", "malformed key")] * 20
    pipelit.users.refusals.flush()
    pipelit.users.refusals.flush()
    assert refused(pipelit)[40:] == [
        ("", "unknown key: and 480 more"), ("", "malformed key: and 10 more"),
    ]  # fmt: skip


def test_a_long_flood_makes_an_entry_a_minute(pipelit: Pipelit, clock: Clock) -> None:
    """And when it is over, each refusal has its own entry again."""
    wrong(pipelit, 100)
    for _ in range(10):
        clock.advance(60)
        wrong(pipelit, 50)
    rows = refused(pipelit)
    assert len(rows) == 20 + 10 + 10
    assert rows[20:22] == [("", "unknown key: and 80 more"), ("", "unknown key")]
    clock.advance(3600)
    wrong(pipelit, 5)
    assert refused(pipelit)[-6:] == [("", "unknown key: and 49 more")] + [("", "unknown key")] * 5


def test_a_strangers_flood_hides_nobodys_revoked_key(pipelit: Pipelit) -> None:
    """Refusals of an account's own key are counted apart from those of others."""
    key = pipelit.users.issue_api_key("alice", name="k")
    pipelit.users.revoke_api_key(key.id)
    wrong(pipelit, 100)
    wrong(pipelit, 1, key.api_key.get_secret_value())
    assert refused(pipelit)[-1] == ("alice", "revoked key")


def test_what_was_counted_is_written_when_it_is_closed(
    pipelit: Pipelit, settings: dict[str, Any]
) -> None:
    """By ``close``, and by ``with``."""
    with Pipelit(**settings) as other:
        wrong(other, 25)
    assert refused(pipelit)[-1] == ("", "unknown key: and 5 more")


def test_what_was_counted_is_written_after_a_minute(
    pipelit: Pipelit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nobody asks again."""
    monkeypatch.setattr(refusals, "_INTERVAL", 0.01)
    monkeypatch.setattr(refusals, "_BURST", 0)
    wrong(pipelit, 1)
    while not refused(pipelit):
        pass
    assert refused(pipelit) == [("", "unknown key: and 1 more")]


@pytest.mark.process
@pytest.mark.backends("sqlite")
@pytest.mark.parametrize("end", ["", "os._exit(0)", "os.fork() and os.wait()"])
def test_a_process_that_ends_writes_what_it_counted(
    pipelit: Pipelit, database_url: str, end: str
) -> None:
    """One that is killed loses the count and not the first; a fork leaves it to its parent."""
    program = f"""
import os, sys
from pipelit_agents import Pipelit
from pipelit_agents.errors import AuthenticationError
pipelit = Pipelit(database_url=sys.argv[1], encryption_keys=[])
for _ in range(70):
    try:
        pipelit.users.authenticate("plit_{"0" * 12}_{"A" * 43}")
    except AuthenticationError:
        pass
{end}
"""
    subprocess.run([sys.executable, "-c", program, database_url], check=True, env=dict(os.environ))
    written = [("", "unknown key")] * 20
    if "_exit" not in end:
        written += [("", "unknown key: and 50 more")]
    assert refused(pipelit) == written


def test_what_cant_be_written_is_kept(pipelit: Pipelit) -> None:
    """While the audit is away, refusals are errors or counted, and none of the counted is lost."""
    wrong(pipelit, 30)
    with database_of(pipelit).writing() as connection:
        connection.execute(text("ALTER TABLE pipelit_audit RENAME TO away"))
    with pytest.raises(StorageError):
        pipelit.users.refusals.flush()
    pipelit.users.refusals.try_to_flush()
    with pytest.raises(StorageError):
        pipelit.users.authenticate("nonsense")
    wrong(pipelit, 1)
    with database_of(pipelit).writing() as connection:
        connection.execute(text("ALTER TABLE away RENAME TO pipelit_audit"))
    pipelit.users.refusals.flush()
    assert refused(pipelit)[20:] == [("", "unknown key: and 11 more")]


def test_how_many_kinds_are_counted_is_bounded(pipelit: Pipelit) -> None:
    """A thousand accounts' refusals are told apart; of more, the count is kept."""
    counted = pipelit.users.refusals
    for number in range(1500):
        counted.count(f"reason {number}")
    assert len(counted._kinds) <= 1001
    counted.flush()
    numbers = [int(reason.split()[-2]) for _, reason in refused(pipelit)]
    assert sum(numbers) == 1500
    assert len(numbers) <= 1001


def test_refusals_of_a_server_that_were_not_looked_up_are_counted(server: Server) -> None:
    """All in all as many as there were."""
    run(server.flood(300))
    server.pipelit.users.refusals.flush()
    assert sorted(set(refused(server.pipelit))) == [
        ("", "not looked up: and 200 more"),
        ("", "unknown key"),
        ("", "unknown key: and 80 more"),
    ]
