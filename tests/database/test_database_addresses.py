"""The options of an address: each is checked when it is first used."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from sqlalchemy import make_url

from pipelit_agents import Keyring, Pipelit
from pipelit_agents.database.server import server
from pipelit_agents.errors import ConfigurationError, PipelitError

ADDRESS = "postgresql+psycopg://someone:secret-word@127.0.0.1:1/db?"


def called_with(query: str) -> dict[str, object]:
    """What psycopg is called with, for an address with these options."""
    engine = server(make_url(ADDRESS + query), 1, wait=1)
    found: dict[str, object] = {}
    engine.dialect.connect = lambda *_args, **given: found.update(given)  # type: ignore[method-assign]
    with pytest.raises(AttributeError):
        engine.connect()
    return found


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("prepare_threshold=x", "such as 5, or None"),
        ("prepare_threshold=-1", "such as 5, or None"),
        ("prepare_threshold=%C2%B2", "such as 5, or None"),
        ("prepare_threshold=1&prepare_threshold=2", "such as 5, or None"),
        ("row_factory=dict_row", "'row_factory': pipelit-agents sets it itself"),
        ("cursor_factory=x", "'cursor_factory': pipelit-agents sets it itself"),
        ("autocommit=true", "'autocommit': pipelit-agents sets it itself"),
        ("preparethreshold=5", "write prepare_threshold"),
        ("connect_timout=5", "write connect_timeout"),
        ("SSLmode=require", "write sslmode"),
        ("nonsense=1", "'nonsense': neither .* has this option; leave it out"),
        ("connect_timeout=soon", "'connect_timeout': its value must be a whole number"),
        ("tcp_user_timeout=3.5", "'tcp_user_timeout': its value must be a whole number"),
        ("keepalives=yes", "'keepalives': its value must be a whole number"),
        ("sslmode=require&sslmode=disable", "'sslmode': it is set more than once"),
        ("client_encoding=latin1", "'client_encoding': .* must be utf8"),
        ("client_encoding=SQL_ASCII", "'client_encoding': .* must be utf8"),
    ],
)
def test_an_option_that_can_not_be_used_is_named(query: str, words: str) -> None:
    """It is a ConfigurationError with the setting, the option and the fix, from every call."""
    with Pipelit(database_url=ADDRESS + query, encryption_keys=[Keyring.generate_key()]) as pipelit:
        for use in (
            pipelit.create_schema,
            lambda: pipelit.users.get("alice"),
            lambda: pipelit.agent("agent_x").verify_peer("agent_y", "12345678"),
        ):
            with pytest.raises(ConfigurationError, match=words) as caught:
                use()
            assert "PIPELIT_DATABASE_URL" in str(caught.value)
            assert "secret-word" not in str(caught.value)


@pytest.mark.parametrize(
    ("query", "name", "value"),
    [
        ("", "prepare_threshold", None),
        ("prepare_threshold=0", "prepare_threshold", 0),
        ("prepare_threshold=5", "prepare_threshold", 5),
        ("prepare_threshold=None", "prepare_threshold", None),
        ("prepare_threshold=none", "prepare_threshold", None),
        ("", "target_session_attrs", "read-write"),
        ("target_session_attrs=any", "target_session_attrs", "any"),
        ("", "connect_timeout", "5"),
        ("connect_timeout=20", "connect_timeout", "20"),
        ("", "client_encoding", "utf8"),
        ("client_encoding=UTF-8", "client_encoding", "UTF-8"),
        ("sslmode=require", "sslmode", "require"),
        ("application_name=mine", "application_name", "mine"),
        ("options=-c%20search_path%3Dagents", "options", "-c search_path=agents"),
        ("host=a:5432&host=b:5433", "host", "a,b"),
        ("password=other", "password", "other"),
    ],
)
def test_an_option_reaches_the_driver(query: str, name: str, value: object) -> None:
    """As the kind of value that it takes; those that aren't there have our defaults."""
    assert called_with(query)[name] == value


@pytest.mark.parametrize("variable", ["PGTARGETSESSIONATTRS", "PGCONNECT_TIMEOUT"])
def test_the_environment_of_libpq_wins_over_our_defaults(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an operator has set there isn't overridden by a default of ours."""
    monkeypatch.setenv(variable, "7")
    names = {"PGTARGETSESSIONATTRS": "target_session_attrs", "PGCONNECT_TIMEOUT": "connect_timeout"}
    assert names[variable] not in called_with("")


@pytest.mark.parametrize("option", ["password", "sslpassword", "oauth_client_secret"])
def test_a_secret_option_is_in_no_message(option: str) -> None:
    """A password behind the question mark is hidden like the one before the host."""
    address = f"{ADDRESS}{option}=hunter2&connect_timeout=1"
    with Pipelit(database_url=address, encryption_keys=[Keyring.generate_key()]) as pipelit:
        assert "hunter2" not in pipelit.database_url
        with pytest.raises(PipelitError) as caught:
            pipelit.users.list()
    assert "hunter2" not in str(caught.value)
    assert "127.0.0.1:1" in str(caught.value)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("postgres://u:pw@db.example/app", "write postgresql+psycopg:// in place of postgres://"),
        ("sqlit:///agents.db", "it must be sqlite:///… or postgresql+psycopg://…"),
        ("mysql://u:pw@db.example/app", "it must be sqlite:///… or postgresql+psycopg://…"),
        ("agents.db", "it must be sqlite:///… or postgresql+psycopg://…"),
    ],
)
def test_another_address_is_refused_in_plain_words(address: str, says: str) -> None:
    """Also one that a hosting service gives, and nothing about the plugins of SQLAlchemy."""
    with (
        Pipelit(database_url=address, encryption_keys=[Keyring.generate_key()]) as pipelit,
        pytest.raises(ConfigurationError) as caught,
    ):
        pipelit.users.list()
    assert f"can be used here ({says}); for example: sqlite:///" in str(caught.value)
    assert "pw" not in str(caught.value)


def test_another_driver_is_refused() -> None:
    """Transactions are begun as psycopg 3 lets us; another driver wouldn't commit them."""
    with (
        Pipelit(
            database_url="postgresql+psycopg2://x@127.0.0.1:1/y",
            encryption_keys=[Keyring.generate_key()],
        ) as pipelit,
        pytest.raises(ConfigurationError, match="must be psycopg, not psycopg2"),
    ):
        pipelit.users.list()


# SQLite


@contextmanager
def as_nobody() -> Iterator[None]:
    """Under an account that owns none of the files, where the tests run as root."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another account")
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def opened(address: str) -> str:
    """What is said about an address when it is first used."""
    with (
        Pipelit(database_url=address, encryption_keys=[Keyring.generate_key()]) as pipelit,
        pytest.raises(ConfigurationError, match="PIPELIT_DATABASE_URL") as caught,
    ):
        pipelit.create_schema()
    return str(caught.value)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("timeout=abc", "'timeout': pipelit-agents sets it itself"),
        ("timeout=30", "'timeout': pipelit-agents sets it itself"),
        ("isolation_level=x", "'isolation_level': pipelit-agents sets it itself"),
        ("check_same_thread=x", "'check_same_thread': pipelit-agents sets it itself"),
        ("detect_types=x", "'detect_types': pipelit-agents sets it itself"),
        ("key=secret-word", "'key': SQLite addresses have no such option"),
        ("password=secret-word", "'password': SQLite addresses have no such option"),
        ("cached_statements=x", "'cached_statements': its value must be one whole number"),
        ("cached_statements=1&cached_statements=2", "must be one whole number"),
        ("uri=true", "must name a file by its path, not by an SQLite URI"),
    ],
)
def test_an_option_of_sqlite_that_can_not_be_used_is_named(
    query: str, words: str, tmp_path: Path
) -> None:
    """With the setting, and without its value; no file is made."""
    said = opened(f"sqlite:///{tmp_path}/agents.db?{query}")
    assert words in said
    assert "secret-word" not in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("query", ["", "?cached_statements=64"])
def test_an_option_of_sqlite_that_changes_no_promise_is_taken(query: str, tmp_path: Path) -> None:
    """How many statements are kept at hand is for the operator to say."""
    address = f"sqlite:///{tmp_path}/agents.db{query}"
    with Pipelit(database_url=address, encryption_keys=[Keyring.generate_key()]) as pipelit:
        pipelit.create_schema()
        assert pipelit.users.list() == []


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("", "it is empty"),
        ("  ", "it is empty"),
        ("'sqlite:///a.db'", "quotes"),
        (" sqlite:///a.db", "white space"),
        ("sqlite+pysqlcipher://:secret-word@/a.db", "the driver must be pysqlite"),
        ("sqlite+aiosqlite:///a.db", "asyncio"),
        ("sqlite:///file:/tmp/x.db?mode=ro&uri=true", "not by an SQLite URI"),
        ("sqlite:///file:x.db", "not by an SQLite URI"),
        ("sqlite://", "in memory"),
    ],
)
def test_what_is_wrong_with_an_address_is_said(
    address: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The true reason, and no password."""
    monkeypatch.chdir(tmp_path)
    said = opened(address)
    assert words in said
    assert "secret-word" not in said


def test_a_file_of_another_account_is_told_with_its_owner() -> None:
    """Where others may read it, and this account can't change that."""
    # Not below the folders of pytest, which nobody else may enter.
    with TemporaryDirectory() as folder:
        file = Path(folder, "agents.db")
        file.touch()
        file.chmod(0o666)
        file.parent.chmod(0o755)
        with as_nobody():
            assert "it belongs to 'root' (uid 0)" in opened(f"sqlite:///{file}")


@pytest.mark.parametrize("how", ["not entered", "too long"])
def test_a_folder_that_can_not_be_looked_at_is_a_finding(how: str, tmp_path: Path) -> None:
    """``check`` goes on, and says that the database can't be opened; it raises nothing."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    file = closed / ("a.db" if how == "not entered" else "a" * 300)
    with Pipelit(
        database_url=f"sqlite:///{file}", encryption_keys=[Keyring.generate_key()]
    ) as pipelit:
        if how == "not entered":
            with as_nobody():
                found = pipelit.check()
        else:
            found = pipelit.check()
    assert any(each.ok is False and str(file) in each.found for each in found)
