"""The checklist, against a deployment in which everything is wrong, and the same one mended."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from redis_server import RedisServer
from sqlalchemy import text
from test_mfa import app_of

from pipelit_agents import Keyring, Pipelit
from pipelit_agents.checks import Check
from pipelit_agents.ledger.address import without_password

# Apache Airflow's documentation shows this one.
PRINTED = "81HqDtbqAywKSOumSha3BhWNOdQ26slT6K0YaZeZyPs="
YEAR = 365 * 86_400


def wrong(checks: Any) -> dict[str, Check]:
    """What isn't well, by name."""
    return {each.name: each for each in checks if each.ok is False}


class Deployment:
    """A folder with a .env, a database, and what stands in the environment."""

    def __init__(self, folder: Path, redis: RedisServer) -> None:
        self.folder = folder
        self.redis = redis
        self.redis_url = redis.url
        self.database = folder / "agents.db"
        self.old = Keyring.generate_key()
        self.keys = [self.old]
        self.environ: dict[str, str] = {}

    def opened(self, clock: Any = None) -> Pipelit:
        """Its Pipelit."""
        return Pipelit(
            database_url=f"sqlite:///{self.database}",
            encryption_keys=self.keys,
            redis_url=self.redis_url,
            clock=clock,
        )

    def check(self) -> dict[str, Check]:
        """What isn't well."""
        with self.opened() as pipelit:
            return wrong(pipelit.check(deploy=True, folder=self.folder, environ=self.environ))

    def serve(self, **config: Any) -> None:
        """Writes its langgraph.json."""
        served = {"graphs": {"lead": "x:y"}, **config}
        (self.folder / "langgraph.json").write_text(json.dumps(served))


@pytest.fixture
def bad(tmp_path: Path, own_redis: RedisServer) -> Deployment:
    """Everything is wrong with it; its Redis asks nobody for a password."""
    made = Deployment(tmp_path, own_redis)
    with made.opened() as pipelit:
        pipelit.create_schema()
    with made.opened(clock=lambda: time.time() - YEAR) as pipelit:
        pipelit.users.create("alice")
        pipelit.credentials.put(
            "child", "sk-123456789012", kind="api-key", created_by="alice",
            public={"base_url": "http://child.example", "port": 80},
        )  # fmt: skip
    made.keys = [PRINTED, made.old]
    env = tmp_path / ".env"
    env.write_text("DEBUG=True\nPUBLIC_URL=http://agents.example\nSECRET_KEY=changeme\n")
    env.chmod(0o644)
    made.database.chmod(0o644)
    made.environ = {"CORS_ALLOW_ORIGINS": "*"}
    made.serve()
    return made


FAULTS = {
    "key": ("documentation", "keys generate"),
    "env file": ("others may read", "chmod 600"),
    "database file": ("others may read", "chmod 600"),
    "newest key": ("older key", "rotate-key"),
    "redis password": ("without a password", "requirepass"),
    "public URL": ("PUBLIC_URL", "https://"),
    "child URLs": ("child", "credentials put child"),
    "SECRET_KEY": ("default", "token_urlsafe"),
    "DEBUG": ("DEBUG is on", "DEBUG=false"),
    "CORS": ("every site", "CORS_ALLOW_ORIGINS="),
    "server CORS": ("every site", "allow_origins"),
    "server auth": ("no API key", "pipelit_agents.server:auth"),
    "second factor": ("alice", "mfa enroll alice"),
    "API keys expire": ("1 never end", "--expires-in"),
    "API keys used": ("90 days", "keys revoke"),
    "audit": ("none is sealed", "audit seal"),
}


def test_every_fault_is_found_with_its_mend(bad: Deployment) -> None:
    """Sixteen faults, sixteen findings, each with what was found and what mends it."""
    found = bad.check()
    assert found.keys() == FAULTS.keys()
    for name, (says, mend) in FAULTS.items():
        assert says in found[name].found, name
        assert mend in found[name].mend, name
        assert found[name].why


def test_the_mended_one_has_none(bad: Deployment) -> None:
    """Each mend done, nothing is left to find."""
    for path in (bad.folder / ".env", bad.database):
        path.chmod(0o600)
    (bad.folder / ".env").write_text(
        f"DEBUG=False\nPUBLIC_URL=https://agents.example\nSECRET_KEY={Keyring.generate_key()}\n"
    )
    bad.environ = {"CORS_ALLOW_ORIGINS": "https://agents.example"}
    bad.serve(
        auth={"path": "pipelit_agents.server:auth", "disable_studio_auth": True},
        http={"cors": {"allow_origins": []}, "disable_meta": True},
    )
    new = Keyring.generate_key()
    bad.keys = [new, *bad.keys]
    bad.redis.client().config_set("requirepass", "s3cret")
    bad.redis_url = f"unix://:s3cret@{bad.redis.socket}"
    with bad.opened() as pipelit:
        pipelit.keys.rotate()
        pipelit.credentials.put(
            "child", "sk-123456789012", kind="api-key", created_by="alice",
            public={"base_url": "https://child.example", "here": "http://127.0.0.1:2024"},
        )  # fmt: skip
        (key,) = pipelit.users.list_api_keys("alice")
        pipelit.users.revoke_api_key(key.id)
        expiry = datetime.now(UTC) + timedelta(days=90)
        pipelit.users.issue_api_key("alice", name="ci", expires_at=expiry)
        app = app_of(pipelit.mfa.enroll("alice"))
        pipelit.mfa.confirm("alice", app.now())
        pipelit.audit.seal()
    bad.keys = [new]
    assert bad.check() == {}


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("[]", "server auth"),
        ("{", "server CORS"),
        ('{"http": "x"}', "server CORS"),
        ('{"auth": "x:y"}', "server auth"),
        ('{"http": {"cors": {"allow_origins": 5}}}', "server auth"),
        ('{"http": {"cors": {"allow_origin_regex": "https?://.*"}}}', "server CORS"),
    ],
)
def test_a_file_that_cant_be_read_is_not_well(
    pipelit: Pipelit, tmp_path: Path, content: str, name: str
) -> None:
    """Odd forms are findings, and no traceback."""
    (tmp_path / "langgraph.json").write_text(content)
    assert name in wrong(pipelit.check(deploy=True, folder=tmp_path, environ={}))


def test_an_env_file_that_cant_be_read_is_not_well(pipelit: Pipelit, tmp_path: Path) -> None:
    """What stands in it is unknown, and that is said."""
    (tmp_path / ".env").write_bytes(b"DEBUG=\xff\xfe")
    assert "unknown" in wrong(pipelit.check(folder=tmp_path, environ={}))["env file"].found


def test_looking_makes_no_database(tmp_path: Path) -> None:
    """Where there is none there is none afterwards."""
    url = f"sqlite:///{tmp_path}/sub/agents.db"
    with Pipelit(database_url=url, encryption_keys=[Keyring.generate_key()]) as pipelit:
        found = wrong(pipelit.check(deploy=True, folder=tmp_path, environ={}))
    assert found["tables"].mend == "pipelit-agents init"
    assert not (tmp_path / "sub").exists()


def test_an_address_that_cant_be_read_tells_no_password(tmp_path: Path) -> None:
    """A forgotten host makes the password the port: it isn't repeated."""
    url = "postgresql+psycopg://alice:S3cretPass/agents"
    with Pipelit(database_url=url, encryption_keys=[Keyring.generate_key()]) as pipelit:
        found = str(wrong(pipelit.check(deploy=True, folder=tmp_path, environ={})))
    assert "PIPELIT_DATABASE_URL" in found
    assert "S3cret" not in found


def test_nested_public_fields_are_read(pipelit: Pipelit, tmp_path: Path) -> None:
    """An address in a list in an object is an address."""
    pipelit.credentials.put(
        "deep", "sk-123456789012", kind="x", created_by="alice",
        public={"a": [{"url": "http://child.example"}], "b": "http://app.localhost:3000"},
    )  # fmt: skip
    found = wrong(pipelit.check(deploy=True, folder=tmp_path, environ={}))
    assert "deep" in found["child URLs"].found


def test_looking_changes_nothing(bad: Deployment) -> None:
    """A second look finds the same, but for the file that opening has made private."""
    assert bad.check().keys() - bad.check().keys() == {"database file"}
    assert (bad.folder / ".env").stat().st_mode & 0o777 == 0o644


def test_older_tables_are_found(tmp_path: Path) -> None:
    """What has to be migrated is said, and what can't be looked at is not well."""
    url = f"sqlite:///{tmp_path}/agents.db"
    with Pipelit(database_url=url, encryption_keys=[Keyring.generate_key()]) as pipelit:
        pipelit.create_schema()
        with pipelit._database.writing() as connection:
            connection.execute(text("UPDATE pipelit_version SET version_num = '0004'"))
        found = wrong(pipelit.check(folder=tmp_path, environ={}))
        assert found.keys() == {"tables"}
        assert found["tables"].mend == "pipelit-agents init"


def test_a_database_that_isnt_there_is_no_clean_bill(tmp_path: Path) -> None:
    """Without tables, and without a key: every item that needs them has failed."""
    with Pipelit(database_url=f"sqlite:///{tmp_path}/none.db", encryption_keys=[]) as pipelit:
        found = wrong(pipelit.check(deploy=True, folder=tmp_path, environ={}))
    assert {"key", "tables", "key opens", "newest key", "audit", "second factor"} <= found.keys()
    assert "FIELD_ENCRYPTION_KEY" in found["key"].found


@pytest.mark.parametrize(
    ("key", "says"),
    [
        (PRINTED, "documentation"),
        ("cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=", "documentation"),
        ("46BKJoQYlPPOexq0OhDZnIlNepKFf87WFwLbfzqDDho=", "documentation"),
        ("A" * 43 + "=", "repeats"),
        ("dGhpcyBpcyBhIHBhc3N3b3JkIG9mIDMyIGJ5dGVzISE=", "is text"),
    ],
)
def test_keys_that_were_not_drawn(key: str, says: str) -> None:
    """Printed somewhere, typed by hand, or all the same: what gives it away is said."""
    (found,) = Keyring(Keyring.generate_key(), key).weak()
    assert found.startswith("key 2")
    assert says in found
    assert key not in found


def test_drawn_keys_are_not_suspected() -> None:
    """A thousand fresh keys are fine."""
    assert Keyring(*(Keyring.generate_key() for _ in range(1000))).weak() == []


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({"SECRET_KEY": "django-insecure-abcdefghijklmnopqrstuvwxyz0123456789"}, "SECRET_KEY"),
        ({"SECRET_KEY": "short"}, "SECRET_KEY"),
        ({"SECRET_KEY": "a" * 40}, "SECRET_KEY"),
        ({"DJANGO_SECRET_KEY": "x"}, "SECRET_KEY"),
        ({"DJANGO_DEBUG": "1"}, "DEBUG"),
        ({"DEBUG_MODE": "2"}, "DEBUG"),
        ({"ALLOWED_ORIGINS": "*"}, "CORS"),
        ({"MY_PUBLIC_URL": "https://a.example,http://b.example"}, "public URL"),
        ({"PUBLIC_URL": "http://[bad"}, "public URL"),
        ({"CORS_ALLOW_ALL_ORIGINS": "true"}, "CORS"),
        ({"PIPELIT_PUBLIC_URL": "HTTP://agents.example"}, "public URL"),
        ({"READER_URL": "http://10.0.0.7:2024"}, "public URL"),
    ],
)
def test_what_stands_in_the_environment(
    pipelit: Pipelit, tmp_path: Path, environ: dict[str, str], name: str
) -> None:
    """Switches and addresses by the names that are usual."""
    assert name in wrong(pipelit.check(deploy=True, folder=tmp_path, environ=environ))
    harmless = {"DEBUG": "0", "READER_URL": "http://127.0.0.1:1", "CORS_ORIGINS": "https://a.b"}
    found = wrong(pipelit.check(deploy=True, folder=tmp_path, environ=harmless))
    assert not {"DEBUG", "CORS", "public URL"} & found.keys()


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"auth": {"path": "x:y"}}, "server auth"),
        ({"auth": {"path": "x:y", "disable_studio_auth": True}}, "server auth"),
        ({"http": {"cors": {"allow_origins": ["*"]}}}, "server CORS"),
        ({"http": {"cors": {"allow_origin_regex": ".*"}}}, "server CORS"),
    ],
)
def test_what_stands_in_langgraph_json(
    pipelit: Pipelit, tmp_path: Path, config: dict[str, Any], name: str
) -> None:
    """Each way that it leaves open is named."""
    (tmp_path / "langgraph.json").write_text(json.dumps(config))
    assert name in wrong(pipelit.check(deploy=True, folder=tmp_path, environ={}))


@pytest.mark.backends("postgres", "redis")
def test_a_clock_that_is_off_is_found(settings: dict[str, Any], tmp_path: Path) -> None:
    """Compared with the server that counts; two minutes are too much."""
    for ahead, found in ((0, set[str]()), (120, {"clock"})):
        with Pipelit(**settings, clock=lambda ahead=ahead: time.time() + ahead) as pipelit:
            pipelit.create_schema()
            checks = wrong(pipelit.check(folder=tmp_path, environ={}))
            assert checks.keys() == found
            assert not found or "-120" in checks["clock"].found


def test_the_address_without_its_password() -> None:
    """What a stranger would ask."""
    assert without_password("redis://:pw@host:6379/3") == "redis://host:6379/3"
    assert without_password("unix://user:p%40w@/tmp/r.sock?db=5") == "unix:///tmp/r.sock?db=5"
    assert (
        without_password("redis+sentinel://:pw@a:1,b:2/m?sentinel_password=x")
        == "redis+sentinel://a:1,b:2/m"
    )


async def test_it_is_looked_at_off_the_loop(pipelit: Pipelit, tmp_path: Path) -> None:
    """The twin blocks no loop."""
    found = await pipelit.acheck(deploy=True, folder=tmp_path, environ=dict(os.environ))
    assert "second factor" in wrong(found)
