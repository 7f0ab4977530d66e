"""API keys: their shape, what is kept of them, and that every refusal sounds the same."""

from __future__ import annotations

import base64
import hashlib
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from conftest import Clock
from internals import database_of
from pydantic import SecretStr
from sqlalchemy import text

from pipelit_agents import Pipelit
from pipelit_agents.errors import ApiKeyNotFound, AuthenticationError

# Where attempts are counted makes no difference here.
BACKENDS = ("sqlite", "postgres")


@pytest.fixture
def token(pipelit: Pipelit) -> str:
    """A key of bob's."""
    return pipelit.users.create("bob").api_key.get_secret_value()


def rows(pipelit: Pipelit) -> list[Any]:
    """The keys as they are stored."""
    with database_of(pipelit).reading() as connection:
        return list(connection.execute(text("SELECT * FROM pipelit_api_keys ORDER BY created_at")))


def moment(clock: Clock, seconds: float = 0) -> datetime:
    """The clock's time."""
    return datetime.fromtimestamp(clock.now + seconds, UTC)


@pytest.mark.slow
def test_a_good_key_is_whose_it_is(pipelit: Pipelit, token: str) -> None:
    """A key authenticates the account that it was made for."""
    assert pipelit.users.authenticate(token).username == "bob"
    agent = pipelit.users.create_agent("agent_x", owner="bob", purpose="p")
    assert pipelit.users.authenticate(agent.api_key.get_secret_value()).kind == "agent"


async def test_the_async_twin_does_the_same(pipelit: Pipelit, token: str) -> None:
    """``aauthenticate`` accepts and refuses like its twin."""
    assert (await pipelit.users.aauthenticate(token)).username == "bob"
    with pytest.raises(AuthenticationError):
        await pipelit.users.aauthenticate(token + "x")


def test_the_shape_of_a_key(token: str) -> None:
    """A key is plit, an id without an underscore, and 43 characters from 32 bytes."""
    assert re.fullmatch(r"plit_[0-9a-f]{12}_[A-Za-z0-9_-]{43}", token)
    assert len(base64.urlsafe_b64decode(token.split("_", 2)[2] + "=")) == 32


def test_the_database_has_sha256_of_a_key_only(pipelit: Pipelit, token: str) -> None:
    """Of the secret part the digest and the last four characters are stored, and no more."""
    key_id, secret = token.split("_", 2)[1:]
    row = next(each for each in rows(pipelit) if each.id == key_id)
    assert (row.digest, row.last_four) == (
        hashlib.sha256(secret.encode()).hexdigest(),
        secret[-4:],
    )
    assert secret not in repr(tuple(row))


def test_every_refusal_sounds_the_same(pipelit: Pipelit, clock: Clock, token: str) -> None:
    """Malformed, unknown, forged, revoked, expired, inactive: one type and one message."""
    users = pipelit.users
    revoked = users.issue_api_key("bob", name="revoked")
    users.revoke_api_key(revoked.id)
    users.revoke_api_key(revoked.id)
    expired = users.issue_api_key("bob", name="expired", expires_at=moment(clock, 10))
    users.create("carol")
    inactive = users.issue_api_key("carol", name="inactive")
    users.deactivate("carol")
    agent = users.create_agent("agent_x", owner="bob", purpose="p")
    users.deactivate("agent_x")
    clock.advance(10)
    flipped = token[:-1] + ("A" if token[-1] != "A" else "B")
    other_id = f"plit_{revoked.id}_{token.split('_', 2)[2]}"
    cases: list[tuple[Any, str, str]] = [
        ("", "malformed key", ""),
        ("plit_", "malformed key", ""),
        (token + "\n", "malformed key", ""),
        (" " + token, "malformed key", ""),
        (token[:-1], "malformed key", ""),
        ("Bearer " + token, "malformed key", ""),
        (token.upper(), "malformed key", ""),
        (None, "malformed key", ""),
        (7, "malformed key", ""),
        (token.encode(), "malformed key", ""),
        ("plit_" + "0" * 12 + "_" + "A" * 43, "unknown key", ""),
        (flipped, "unknown key", ""),
        (other_id, "unknown key", ""),
        (revoked.api_key.get_secret_value(), "revoked key", "bob"),
        (expired.api_key.get_secret_value(), "expired key", "bob"),
        (inactive.api_key.get_secret_value(), "account inactive", "carol"),
        (agent.api_key.get_secret_value(), "account inactive", "agent_x"),
    ]
    for given, reason, who in cases:
        with pytest.raises(AuthenticationError) as caught:
            users.authenticate(given)
        assert str(caught.value) == str(AuthenticationError())
        entry = pipelit.audit.list(limit=1)[0]
        assert (entry.action, entry.outcome, entry.reason, entry.subject) == (
            "authenticate",
            "refused",
            reason,
            who,
        )
    assert users.authenticate(token).username == "bob"


def test_failed_tries_never_lock(pipelit: Pipelit, token: str) -> None:
    """After 200 forged keys the right one is accepted."""
    for number in range(200):
        with pytest.raises(AuthenticationError):
            pipelit.users.authenticate(f"{token[:18]}{number:043d}")
    assert pipelit.users.authenticate(token).username == "bob"


def test_an_expiring_key_is_good_until_then(pipelit: Pipelit, clock: Clock) -> None:
    """A key is accepted a second before it expires, and not when it does."""
    key = pipelit.users.issue_api_key("alice", name="k", expires_at=moment(clock, 100))
    clock.advance(99)
    assert pipelit.users.authenticate(key.api_key.get_secret_value())
    clock.advance(1)
    with pytest.raises(AuthenticationError):
        pipelit.users.authenticate(key.api_key.get_secret_value())


def test_an_expiry_has_a_time_zone_and_is_not_past(pipelit: Pipelit, clock: Clock) -> None:
    """A naive or past expiry is a ValueError that says so."""
    naive = moment(clock, 100).replace(tzinfo=None)
    with pytest.raises(ValueError, match="time zone"):
        pipelit.users.issue_api_key("alice", name="k", expires_at=naive)
    for seconds in (0, -1):
        with pytest.raises(ValueError, match="past"):
            pipelit.users.issue_api_key("alice", name="k", expires_at=moment(clock, seconds))


def test_the_last_use_is_written_at_most_once_a_minute(
    pipelit: Pipelit, clock: Clock, token: str
) -> None:
    """``last_used_at`` is written at the first use, and then when a minute has passed."""
    seen = []
    for _ in range(9):
        pipelit.users.authenticate(token)
        seen.append(pipelit.users.list_api_keys("bob")[0].last_used_at)
        clock.advance(20)
    start = datetime.fromtimestamp(1_800_000_000, UTC)
    assert seen == [start + timedelta(minutes=number // 3) for number in range(9)]
    entries = [each for each in pipelit.audit.list() if each.action == "authenticate"]
    assert len(entries) == 3


def test_a_refused_key_was_not_used(pipelit: Pipelit, token: str) -> None:
    """A failed try leaves ``last_used_at`` as it was."""
    with pytest.raises(AuthenticationError):
        pipelit.users.authenticate(token[:-4] + "AAAA")
    assert pipelit.users.list_api_keys("bob")[0].last_used_at is None


def test_a_list_of_keys_tells_them_apart_and_gives_none_away(
    pipelit: Pipelit, clock: Clock, token: str
) -> None:
    """The list has id, name, mask and times, oldest first, and no key."""
    clock.advance(1)
    more = pipelit.users.issue_api_key("bob", name="laptop", expires_at=moment(clock, 50))
    clock.advance(1)
    pipelit.users.revoke_api_key(more.id)
    first, second = pipelit.users.list_api_keys("bob")
    assert (first.name, first.masked, first.revoked_at) == ("first key", "…" + token[-4:], None)
    assert (second.id, second.name, second.expires_at, second.revoked_at) == (
        more.id,
        "laptop",
        moment(clock, 49),
        moment(clock),
    )
    shown = repr((first, second, more))
    assert token not in shown
    assert more.api_key.get_secret_value() not in shown


def test_revoking_one_key_leaves_the_others(pipelit: Pipelit, token: str) -> None:
    """A revoked key ends at once, and only that one."""
    more = pipelit.users.issue_api_key("bob", name="more")
    pipelit.users.revoke_api_key(more.id)
    with pytest.raises(AuthenticationError):
        pipelit.users.authenticate(more.api_key.get_secret_value())
    assert pipelit.users.authenticate(token)


@pytest.mark.backends("sqlite")
def test_a_key_of_another_account_is_no_key_of_this_one(pipelit: Pipelit, token: str) -> None:
    """Limited to an account, it revokes that one's only; another's has the words of no key."""
    key_id = token.split("_")[1]
    with pytest.raises(ApiKeyNotFound) as other:
        pipelit.users.revoke_api_key(key_id, username="alice")
    with pytest.raises(ApiKeyNotFound) as unknown:
        pipelit.users.revoke_api_key("0" * 12, username="alice")
    assert str(other.value) == str(unknown.value).replace("0" * 12, key_id)
    with pytest.raises(ApiKeyNotFound) as unread:
        pipelit.users.get_api_key(key_id, username="alice")
    assert str(unread.value) == str(other.value)
    assert pipelit.users.get_api_key(key_id, username="bob").masked == f"…{token[-4:]}"
    assert pipelit.users.authenticate(token)
    pipelit.users.revoke_api_key(key_id, username="bob")
    with pytest.raises(AuthenticationError):
        pipelit.users.authenticate(token)


@pytest.mark.parametrize(
    "given",
    [None, 7, 7.5, b"0123456789ab", ["0123456789ab"], SecretStr("0123456789ab"), True],
    ids=lambda given: type(given).__name__,
)
def test_an_id_that_is_no_text_revokes_nothing(pipelit: Pipelit, token: str, given: Any) -> None:
    """It is told what an id is, in the words for every wrong one, and never repeated."""
    with pytest.raises(ApiKeyNotFound, match="12 characters between the underscores") as caught:
        pipelit.users.revoke_api_key(given)
    assert "0123456789ab" not in str(caught.value)
    assert pipelit.users.authenticate(token)


def test_a_whole_key_given_for_its_id_is_not_repeated(pipelit: Pipelit, token: str) -> None:
    """Nor revoked: a wrong argument changes nothing."""
    for given in (token, token[:20], "plit_"):
        with pytest.raises(ApiKeyNotFound) as caught:
            pipelit.users.revoke_api_key(given)
        assert token.split("_", 2)[2] not in str(caught.value)
        assert token.split("_")[1] not in str(caught.value)
    assert pipelit.users.authenticate(token)


@pytest.mark.parametrize(
    "end",
    [
        lambda home, key_id: home.users.revoke_api_key(key_id),
        lambda home, key_id: home.users.deactivate("bob"),
    ],
    ids=["revoked", "deactivated"],
)
async def test_the_holder_of_a_key_is_known_while_it_is_valid(
    pipelit: Pipelit, token: str, end: Any
) -> None:
    """By its public id, also for the twin; then, and of no key, the refusal is the usual one."""
    key_id = token.split("_")[1]
    assert pipelit.users.holder_of_key(key_id) == pipelit.users.get("bob")
    assert await pipelit.users.aholder_of_key(key_id) == pipelit.users.get("bob")
    end(pipelit, key_id)
    for each in (key_id, "0" * 12):
        with pytest.raises(AuthenticationError):
            pipelit.users.holder_of_key(each)
    with pytest.raises(ApiKeyNotFound):
        pipelit.users.holder_of_key(token)
