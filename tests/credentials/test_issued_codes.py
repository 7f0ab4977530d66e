"""Codes of other services: what gives them, who gets which, and that nobody gets the seed."""

from __future__ import annotations

import asyncio
import json
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import httpx
import pyotp
import pytest
from conftest import Clock
from internals import database_of, keyring_of
from langchain_core.tools import InjectedToolArg, tool
from pydantic import SecretStr
from sqlalchemy import select, text, update
from test_http_auth import NO_TLS, serving

from pipelit_agents import Agent, Keyring, Pipelit
from pipelit_agents.credentials.scope import Scope
from pipelit_agents.database.models import CredentialRow
from pipelit_agents.errors import (
    CodeUnavailable,
    CredentialError,
    CredentialNotAllowed,
    CredentialNotFound,
)
from pipelit_agents.otp import migration_uris
from pipelit_agents.sealing.keyring import Sealed
from pipelit_agents.sealing.purposes import credential_purpose

BACKENDS = ("sqlite",)
VECTORS = Path(__file__).parent.parent / "vectors" / "rfc6238.json"
SEED = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
URI = f"otpauth://totp/GitHub:alice?secret={SEED}&issuer=GitHub"
OTHER = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"
PASSWORD = "correct-horse-battery-9"


def opened(pipelit: Pipelit, reference: str, agent: Agent | None = None) -> Any:
    """What a node gets."""
    seen: list[Any] = []

    @pipelit.credentials.inject(agent, value=reference)
    def node(*, value: Any) -> None:
        seen.append(value.get_secret_value() if isinstance(value, SecretStr) else value)

    node()
    return seen[0]


def code_at(now: float, seed: str = SEED) -> str:
    """The code that a service expects."""
    return pyotp.TOTP(seed).at(int(now))


@pytest.fixture
def login(pipelit: Pipelit) -> Pipelit:
    """A Pipelit that gives codes for GitHub."""
    pipelit.credentials.put("github", URI, kind="totp", created_by="alice")
    return pipelit


# What is stored


def test_what_is_shown_of_an_authenticator(login: Pipelit) -> None:
    """What its URI says is public, and nothing of the seed is shown or searched for."""
    found = login.credentials.get("github")
    assert found.public == {
        "issuer": "GitHub",
        "account": "alice",
        "digits": 6,
        "period": 30,
        "algorithm": "SHA1",
    }
    assert (found.masked, found.searched, found.unsearched) == ("code=…", (), ())
    assert opened(login, "github:issuer") == "GitHub"


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "sha512"])
def test_codes_are_those_of_rfc_6238(pipelit: Pipelit, clock: Clock, algorithm: str) -> None:
    """Every vector of the RFC gives its code, of eight digits."""
    vectors = json.loads(VECTORS.read_text())["vectors"]
    mine = [each for each in vectors if each["algorithm"] == algorithm]
    assert len(mine) == 6
    uri = f"otpauth://totp/x?secret={mine[0]['secret_base32']}&digits=8&algorithm={algorithm}"
    pipelit.credentials.put("rfc", uri, kind="totp", created_by="alice")
    for each in mine:
        clock.now = each["unix_time"]
        assert opened(pipelit, "rfc:code") == each["code"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("hunter9-hunter2", "the secret isn't Base32: character 7"),
        (f"otpauth://hotp/x?secret={SEED}&counter=1", "the type is hotp"),
        ({"a": "one", "b": "two"}, "none of its secrets is an otpauth:// URI"),
    ],
    ids=["password", "counter", "no URI"],
)
def test_what_gives_no_code_is_refused(pipelit: Pipelit, value: Any, message: str) -> None:
    """For the kind ``totp`` the error says why, and repeats no secret."""
    with pytest.raises(CredentialError, match=message) as caught:
        pipelit.credentials.put("github", value, kind="totp", created_by="alice")
    assert caught.value.credential == "github"
    assert SEED not in str(caught.value)
    assert pipelit.credentials.list() == []


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        (f"otpauth://hotp/x?secret={SEED}", "the type is hotp"),
        (f'"{URI}"', "such as a quote"),
        (f"\ufeff{URI}", "invisible character"),
        (f"<{URI.replace('otpauth', 'otpauth-migration')}>", "must begin with"),
    ],
    ids=["counter", "quotes", "byte order mark", "export in brackets"],
)
def test_a_seed_that_would_open_as_a_text_is_refused(
    pipelit: Pipelit, uri: str, message: str
) -> None:
    """Of any kind, a URI that can't give codes isn't stored: a node would get its seed."""
    with pytest.raises(CredentialError, match=message) as caught:
        pipelit.credentials.put("x", {"otp": uri}, kind="login", created_by="alice")
    assert SEED not in str(caught.value)


def test_a_label_that_has_the_seed_is_no_public_field(pipelit: Pipelit) -> None:
    """Public fields are stored and listed in clear."""
    uri = f"otpauth://totp/x%20jbsw-y3dp%20{SEED[8:]}?secret={SEED}&issuer=Shop"
    made = pipelit.credentials.put("x", uri, kind="totp", created_by="alice")
    assert made.public.keys() == {"issuer", "digits", "period", "algorithm"}


def test_an_export_of_several_accounts_is_refused(pipelit: Pipelit) -> None:
    """The error lists their labels and names the function that separates them."""
    both = "otpauth-migration://offline?data=Cg4KCgAAAAAAAAAAAAAwAgoRCgoAAAAAAAAAAAAAEgFiMAI%3D"
    with pytest.raises(CredentialError, match=r"\('', 'b'\).*migration_uris"):
        pipelit.credentials.put("x", both, kind="totp", created_by="alice")
    one = "otpauth-migration://offline?data=ChEKCgAAAAAAAAAAAAASAWIwAg%3D%3D"
    assert pipelit.credentials.put("x", one, kind="totp", created_by="alice").public["account"] == (
        "b"
    )


def test_public_fields_that_contradict_the_uri_are_refused(pipelit: Pipelit) -> None:
    """They would say something else than what the codes are computed by."""
    for public in ({"digits": 8}, {"issuer": "GitLab"}, {"longest_wait": 0}, {"longest_wait": "x"}):
        with pytest.raises(CredentialError, match=next(iter(public))):
            pipelit.credentials.put("x", URI, kind="totp", created_by="alice", public=public)
    public = {"digits": 6, "url": "https://github.com"}
    made = pipelit.credentials.put("x", URI, kind="totp", created_by="alice", public=public)
    assert made.public["url"] == "https://github.com"


def test_a_login_has_a_password_and_codes(pipelit: Pipelit, clock: Clock) -> None:
    """Each opens by its own name; a credential as a whole has the password and spends no code."""
    value = {"password": PASSWORD, "totp": SecretStr(f"  {URI}\n")}
    made = pipelit.credentials.put(
        "login", value, kind="login", created_by="alice", public={"username": "bot"}
    )
    assert made.masked == "password=…ry-9, totp=…"
    scope = Scope()
    secrets, public = pipelit.credentials.open_in(scope, "login")
    assert {key: each.get_secret_value() for key, each in secrets.items()} == {"password": PASSWORD}
    assert public["username"] == "bot"
    assert opened(pipelit, "login:totp") == code_at(clock.now)
    assert opened(pipelit, "login:code") == code_at(clock.now)
    assert clock.now == 1_800_000_030
    with pytest.raises(CredentialNotFound, match="login:password; there are password, totp"):
        opened(pipelit, "login")


def test_several_authenticators_give_codes_by_name(pipelit: Pipelit, clock: Clock) -> None:
    """Each has its own steps, and what is public of each is by its name."""
    value = {"first": URI, "second": URI.replace(SEED, OTHER)}
    made = pipelit.credentials.put("two", value, kind="totp", created_by="alice")
    assert {key: each["account"] for key, each in made.public["authenticators"].items()} == {
        "first": "alice",
        "second": "alice",
    }
    assert opened(pipelit, "two:first") == code_at(clock.now)
    assert opened(pipelit, "two:second") == code_at(clock.now, OTHER)
    for reference in ("two", "two:code"):
        with pytest.raises(CredentialNotFound):
            opened(pipelit, reference)


def test_what_an_earlier_version_stored_opens_as_it_was(login: Pipelit) -> None:
    """A text of the kind ``totp`` stays a text, until it is stored again."""
    with database_of(login).writing() as connection:
        row = connection.execute(select(CredentialRow)).one()
        purpose = credential_purpose(row.name, row.kind, row.public, row.allow)
        token = keyring_of(login).seal(json.dumps({"value": URI}), purpose)
        connection.execute(update(CredentialRow).values(sealed=Sealed(token, purpose)))
    assert opened(login, "github") == URI


# Who gets which code


def test_each_code_is_handed_out_once(login: Pipelit, clock: Clock) -> None:
    """Who comes second gets the next one, when it has begun; the audit has the steps."""
    clock.advance(10)
    assert opened(login, "github:code") == code_at(1_800_000_000)
    assert clock.now == 1_800_000_010
    assert opened(login, "github") == code_at(1_800_000_030)
    assert clock.now == 1_800_000_030
    entries = login.audit.list(subject="github", limit=2)
    assert [(each.action, each.outcome, each.reason) for each in entries] == [
        ("credential.reveal", "ok", f"step {step}") for step in (60_000_000, 60_000_001)
    ]


def test_one_seed_has_one_row_of_steps(login: Pipelit, clock: Clock) -> None:
    """A second credential with it, and the same one deleted and stored again, go on from there."""
    assert opened(login, "github") == code_at(clock.now)
    login.credentials.put("again", SEED.lower(), kind="totp", created_by="alice")
    assert opened(login, "again") == code_at(1_800_000_030)
    login.credentials.delete("github")
    login.credentials.put("github", URI, kind="totp", created_by="alice")
    assert opened(login, "github") == code_at(1_800_000_060)
    # HMAC fills a key up with zeros.
    login.credentials.put("zeros", f"{SEED}AAAAAAAA", kind="totp", created_by="alice")
    assert opened(login, "zeros") == code_at(1_800_000_090)
    assert clock.now == 1_800_000_090


def test_nobody_waits_for_longer_than_three_periods(login: Pipelit, clock: Clock) -> None:
    """The error says in how many seconds there is a code, and is audited; nothing is reserved."""
    scope = Scope()
    for _ in range(4):
        login.credentials.open_in(scope, "github", wait=False)
    clock.advance(10)
    for _ in range(2):
        with pytest.raises(CodeUnavailable, match="try again in 110 s") as caught:
            opened(login, "github")
        assert (caught.value.retry_after, caught.value.credential) == (110, "github")
    (entry,) = login.audit.list(limit=1)
    assert (entry.outcome, entry.reason) == ("refused", "no free code")
    clock.advance(20)
    assert opened(login, "github") == code_at(1_800_000_120)


def test_a_credential_says_how_long_is_waited(pipelit: Pipelit, clock: Clock) -> None:
    """The public field ``longest_wait`` replaces the three periods."""
    pipelit.credentials.put(
        "x", URI, kind="totp", created_by="alice", public={"longest_wait": 29.5}
    )
    assert opened(pipelit, "x") == code_at(clock.now)
    with pytest.raises(CodeUnavailable):
        opened(pipelit, "x")
    clock.advance(1)
    assert opened(pipelit, "x") == code_at(1_800_000_030)


def test_a_clock_that_goes_back_repeats_no_code(login: Pipelit, clock: Clock) -> None:
    """The step isn't handed out again; two hours back there is none, until the seed is stored."""
    assert opened(login, "github") == code_at(1_800_000_000)
    clock.advance(-40)
    assert opened(login, "github") == code_at(1_800_000_030)
    clock.advance(-7200)
    with pytest.raises(CodeUnavailable, match="store the credential again"):
        opened(login, "github")
    login.credentials.put("github", URI, kind="totp", created_by="alice")
    # The present step may have been handed out before the clock was wrong.
    assert opened(login, "github") == code_at(1_800_000_060 - 7200)


def test_storing_a_seed_again_makes_no_code_good_again(login: Pipelit, clock: Clock) -> None:
    """Steps that somebody may just have sent stay reserved."""
    assert opened(login, "github") == code_at(clock.now)
    login.credentials.put("github", URI, kind="totp", created_by="alice")
    assert opened(login, "github") == code_at(1_800_000_030)


def test_a_shorter_wait_makes_no_code_good_again(login: Pipelit, clock: Clock) -> None:
    """Of the same seed, by another credential: those who wait have their steps already."""
    for _ in range(3):
        opened(login, "github")
    # They were handed out at one moment, to callers that wait.
    clock.now = 1_800_000_000
    login.credentials.put("other", URI, kind="totp", created_by="alice", public={"longest_wait": 1})
    with pytest.raises(CodeUnavailable) as caught:
        opened(login, "other")
    assert caught.value.retry_after == 90
    assert "clock" not in str(caught.value)


def test_a_repeated_key_gives_codes(login: Pipelit, settings: dict[str, Any]) -> None:
    """A setting may name a key twice: its row isn't taken for one of another process."""
    keys = settings["encryption_keys"] * 2
    with Pipelit(**settings | {"encryption_keys": keys}) as again:
        assert len(opened(again, "github")) == 6


def test_a_rotation_repeats_no_code(
    login: Pipelit, settings: dict[str, Any], clock: Clock, key: str
) -> None:
    """Steps are known under each key, so processes with the old, both or the new one agree."""
    newer = Keyring.generate_key()
    assert opened(login, "github") == code_at(1_800_000_000)
    with Pipelit(**settings | {"encryption_keys": [newer, key]}, clock=clock) as rotating:
        assert opened(rotating, "github") == code_at(1_800_000_030)
        assert opened(login, "github") == code_at(1_800_000_060)
        rotating.keys.rotate()
        assert opened(rotating, "github") == code_at(1_800_000_090)
    with Pipelit(**settings | {"encryption_keys": [newer]}, clock=clock) as rotated:
        assert opened(rotated, "github") == code_at(1_800_000_120)


@pytest.mark.backends("sqlite", "postgres")
def test_the_table_tells_nothing_of_a_seed(login: Pipelit) -> None:
    """Its row is a digest that needs the key, and a step; of the whole row nothing is public."""
    opened(login, "github")
    with database_of(login).reading() as connection:
        ((identifier, step),) = connection.execute(text("SELECT * FROM pipelit_issued_codes")).all()
    assert (len(identifier), step) == (64, 60_000_000)
    period = b"30"
    other = Keyring(Keyring.generate_key())
    seed = pyotp.TOTP(SEED).byte_secret()
    assert keyring_of(login).mac("issued-codes", seed, period) == identifier
    assert other.mac("issued-codes", seed, period) != identifier


def test_a_refused_agent_spends_no_code(login: Pipelit, writer: Agent, clock: Clock) -> None:
    """The list of accounts decides before a step is reserved."""
    login.credentials.put("github", URI, kind="totp", created_by="alice", allow=["agent_writer"])
    for _ in range(2):
        with pytest.raises(CredentialNotAllowed):
            opened(login, "github")
    assert opened(login, "github", writer) == code_at(1_800_000_000)
    assert clock.now == 1_800_000_000


# Nobody gets the seed


@pytest.mark.parametrize("field", ["seed", "secret", "value", "totp", "uri", "otpauth", "digits "])
def test_no_reference_opens_the_seed(login: Pipelit, field: str) -> None:
    """What it is stored as has no name."""
    for read in (
        lambda: opened(login, f"github:{field}"),
        lambda: login.credentials.open_in(Scope(), f"github:{field}")[0].popitem(),
    ):
        with pytest.raises((CredentialError, KeyError)):
            read()


def test_no_frame_of_an_error_shows_the_seed(login: Pipelit) -> None:
    """Where no code is free, or what is stored is no seed, an error tracker sees nothing of it."""
    for _ in range(4):
        login.credentials.open_in(Scope(), "github", wait=False)
    for work in (
        lambda: opened(login, "github"),
        lambda: login.credentials.open_in(Scope(), "github"),
        lambda: login.credentials.put("x", f"{URI}&period=0", kind="totp", created_by="alice"),
        lambda: migration_uris(f"otpauth-migration://offline?data={SEED}"),
    ):
        with pytest.raises((CredentialError, ValueError)) as caught:
            work()
        shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
        text = "".join(shown.format())
        assert SEED not in text
        assert repr(pyotp.TOTP(SEED).byte_secret())[2:-1] not in text


@pytest.fixture
def frozen(settings: dict[str, Any], login: Pipelit) -> Iterator[Pipelit]:
    """A Pipelit with a clock that can't be turned: who waits, really waits."""
    with Pipelit(**settings, clock=lambda: 1_800_000_001.0) as made:
        yield made


async def test_who_waits_keeps_nobody_from_working(
    frozen: Pipelit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Async callers wait on the event loop, in a node, a generator and a ``with`` block alike."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    seen: list[str] = []

    @frozen.credentials.inject(code="github")
    async def node(*, code: SecretStr) -> None:
        seen.append(code.get_secret_value())

    @frozen.credentials.inject(code="github")
    async def generator(*, code: SecretStr) -> Any:
        seen.append(code.get_secret_value())
        yield 1

    @frozen.credentials.guard
    async def revealing() -> None:
        async with frozen.credentials.areveal("github:code") as code:
            seen.append(code.get_secret_value())

    await node()
    assert [each async for each in generator()] == [1]
    await revealing()
    assert seen == [code_at(1_800_000_000 + 30 * step) for step in range(3)]
    assert [round(each, -1) for each in waits] == [30, 60]


def test_a_node_that_is_no_coroutine_waits_too(
    frozen: Pipelit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sleeps in its thread until the step begins, and no transaction is open meanwhile."""
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        frozen.users.create("bob")
        waits.append(seconds)

    assert opened(frozen, "github") == code_at(1_800_000_000)
    monkeypatch.setattr("time.sleep", sleep)
    assert opened(frozen, "github") == code_at(1_800_000_030)
    assert [round(each) for each in waits] == [29]


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
async def test_a_tool_of_an_agent_gets_a_code(login: Pipelit, clock: Clock, is_async: bool) -> None:
    """``CredentialMiddleware`` gives it, and waits for the next one."""
    from langgraph.prebuilt.tool_node import ToolCallRequest

    from pipelit_agents.middleware import CredentialMiddleware

    seen: list[str] = []

    @tool
    def log_in(code: Annotated[SecretStr, InjectedToolArg]) -> str:
        """Log in."""
        seen.append(code.get_secret_value())
        return "welcome"

    call: Any = {"name": "log_in", "args": {}, "id": "1", "type": "tool_call"}
    secured = CredentialMiddleware(login.credentials, tools={"log_in": {"code": "github:code"}})
    request = ToolCallRequest(tool_call=call, tool=log_in, state={}, runtime=None)  # type: ignore[arg-type]

    def handler(request: ToolCallRequest) -> Any:
        assert request.tool is not None
        return request.tool.invoke(request.tool_call)

    async def ahandler(request: ToolCallRequest) -> Any:
        assert request.tool is not None
        return await request.tool.ainvoke(request.tool_call)

    for _ in range(2):
        if is_async:
            await secured.awrap_tool_call(request, ahandler)
        else:
            secured.wrap_tool_call(request, handler)
    assert seen == [code_at(1_800_000_000), code_at(1_800_000_030)]
    assert clock.now == 1_800_000_030


def test_a_code_goes_into_a_header_once(login: Pipelit, clock: Clock) -> None:
    """A request waits for its code, and a 401 spends no second one."""
    with serving() as server:
        auth = login.credentials.http_auth(
            "github:code", origins=[server.url], header="X-OTP", scheme=None
        )

        async def send() -> None:
            async with httpx.AsyncClient(verify=NO_TLS, auth=auth) as client:
                await client.post(f"{server.url}/keys")

        with httpx.Client(verify=NO_TLS, auth=auth) as client:
            client.post(f"{server.url}/keys")
        asyncio.run(send())
    assert [each["x-otp"] for each in server.seen] == [
        code_at(1_800_000_000),
        code_at(1_800_000_030),
    ]
    assert clock.now == 1_800_000_030
