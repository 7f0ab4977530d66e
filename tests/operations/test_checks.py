"""The checklist, against a deployment in which everything is wrong, and the same one fixed."""

from __future__ import annotations

import inspect
import json
import os
import pkgutil
import re
import shlex
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from shutil import copyfile, which
from typing import Any

import pytest
from honest import LINES
from later_migration import add_migration
from redis_server import RedisServer
from test_mfa import app_of

from pipelit_agents import Keyring, Pipelit
from pipelit_agents.ledger.redis_url import without_password
from pipelit_agents.operations import checks
from pipelit_agents.operations.addresses import is_clear
from pipelit_agents.operations.checks.deployment import DeploymentCheck
from pipelit_agents.operations.deployment_checks import Check, every_check
from pipelit_agents.operations.folders import open_copies
from pipelit_agents.operations.origins import origin_problems
from pipelit_agents.operations.server_settings import auth_problems, secrets_of_server

# Apache Airflow's documentation shows this one.
PRINTED = "81HqDtbqAywKSOumSha3BhWNOdQ26slT6K0YaZeZyPs="
YEAR = 365 * 86_400
GIT = which("git") or "git"


def wrong(checks: Any) -> dict[str, Check]:
    """What isn't well, by name."""
    return {each.name: each for each in checks if each.ok is False}


class Deployment:
    """A folder with a .env, a database, and what stands in the environment."""

    def __init__(self, folder: Path, redis: RedisServer | None = None) -> None:
        self.folder = folder
        self.redis = redis
        self.redis_url = redis.url if redis else None
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
    "env file": ("other accounts can read", "chmod 600"),
    "database file": ("other accounts could read", "chmod 600"),
    "newest key": ("older key", "keys rotate"),
    "redis password": ("without a password", "requirepass"),
    "public URL": ("PUBLIC_URL", "https://"),
    "child URLs": ("child", "credentials put child"),
    "SECRET_KEY": ("default", "token_urlsafe"),
    "DEBUG": ("DEBUG is on", "DEBUG=false"),
    "CORS": ("every site", "CORS_ALLOW_ORIGINS="),
    "server CORS": ("every site", "allow_origins"),
    "server auth": ("no API key", "pipelit_agents.server:auth"),
    "second factor": ("operators without one", "mfa enroll alice"),
    "API keys expire": ("1 never expire", "--expires-in"),
    "API keys used": ("90 days", "keys revoke"),
    "audit": ("none of the", "audit seal"),
}


@pytest.mark.slow
def test_a_new_key_goes_where_the_old_one_is_used(tmp_path: Path) -> None:
    """The key of an agent that an agent created is a credential; others are with their users."""
    made = Deployment(tmp_path)
    with made.opened() as pipelit:
        pipelit.create_schema()
        (alice,) = [pipelit.users.create("alice"), *pipelit.users.list_api_keys("alice")][1:]
        fix = made.check()["API keys expire"].fix
        assert fix is not None
        assert "put the new key where the old one is used" in fix
        pipelit.users.revoke_api_key(alice.id)
        expires = datetime.now(UTC) + timedelta(days=1)
        pipelit.users.create_agent(
            "agent_lead", owner="alice", purpose="leads", key_expires_at=expires
        )
        pipelit.provision_agent(pipelit.agent("agent_lead"), purpose="helps", username="agent_new")
        fix = made.check()["API keys expire"].fix
    assert fix is not None
    assert "put the new key into the credential agent-key.agent_new" in fix


def test_every_fault_is_found_with_its_mend(bad: Deployment) -> None:
    """Sixteen faults, sixteen findings, each with what was found and what fixes it."""
    found = bad.check()
    assert found.keys() == FAULTS.keys()
    for name, (says, fix) in FAULTS.items():
        assert says in found[name].found, name
        assert fix in found[name].fix, name
        assert found[name].why


def test_the_mended_one_has_none(bad: Deployment) -> None:
    """Each fix done, nothing is left to find."""
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
    assert found["tables"].fix == "pipelit-agents init"
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


def test_older_tables_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What must be migrated is said, and what can't be looked at is not well."""
    url = f"sqlite:///{tmp_path}/agents.db"
    with Pipelit(database_url=url, encryption_keys=[Keyring.generate_key()]) as pipelit:
        pipelit.create_schema()
        add_migration(tmp_path / "later", monkeypatch)
        found = wrong(pipelit.check(folder=tmp_path, environ={}))
        assert found.keys() == {"tables"}
        assert found["tables"].fix == "pipelit-agents init"


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


def test_no_check_is_forgotten() -> None:
    """Every function that returns a finding is a check, and every check is run."""
    found: list[DeploymentCheck] = []
    for each in pkgutil.iter_modules(checks.__path__):
        if each.name == "finding":
            continue
        module = import_module(f"{checks.__name__}.{each.name}")
        found += [made for made in vars(module).values() if isinstance(made, DeploymentCheck)]
        for name, value in vars(module).items():
            if inspect.isfunction(value) and value.__module__ == module.__name__:
                assert value.__annotations__.get("return") != "Finding", name
    run = every_check()
    assert sorted(each.name for each in found) == sorted(each.name for each in run)
    assert len({each.name for each in run}) == len(run)


async def test_it_is_looked_at_off_the_loop(pipelit: Pipelit, tmp_path: Path) -> None:
    """The twin blocks no loop."""
    found = await pipelit.acheck(deploy=True, folder=tmp_path, environ=dict(os.environ))
    assert "second factor" in wrong(found)


# What is around it


@pytest.fixture
def clean(tmp_path: Path, key: str, migrated_file: Path) -> Deployment:
    """A deployment as the pages describe it: nothing is wrong with it."""
    folder = tmp_path / "app"
    folder.mkdir(mode=0o755)
    env = folder / ".env"
    env.write_text(
        f"FIELD_ENCRYPTION_KEY={key}\nOPENAI_API_KEY=sk-proj-abcdefghijklmnopqrst\n"
        "LANGSMITH_TRACING=true\nLANGSMITH_ENDPOINT=https://traces.example\n"
    )
    env.chmod(0o600)
    (folder / ".env.example").write_text("FIELD_ENCRYPTION_KEY=\nOPENAI_API_KEY=sk-your-key-here\n")
    (folder / "env.py").write_text("TOKEN = read_token()\n")
    (folder / "compose.yml").write_text(
        "services:\n  redis: {image: redis}\n  db:\n    image: postgres@sha256:"
        + "0a1b2c3d" * 8
        + "\n    environment:\n      POSTGRES_PASSWORD: ${PGPASSWORD:?}\n      POSTGRES_USER: a\n"
        "  dev:\n    environment: [POSTGRES_PASSWORD=postgres]\n    env_file: .env\n"
    )
    (folder / ".gitignore").write_text(".env\n.env.*\n!.env.example\n.pipelit/\n*.db*\n")
    made = Deployment(folder)
    made.keys = [key]
    (folder / ".envrc").write_text("dotenv\nexport LOG_LEVEL=info\n")
    (folder / "server.crt").write_text("a certificate\n")
    made.environ = {
        "SSL_CERT_FILE": "server.crt",
        "SHARED_REDIS_URL": "rediss://:pw@redis.example:6379/0",
        "QUEUE_URL": "redis://127.0.0.1:6379/0",
        "OTHER_DATABASE_URL": "postgresql://u:p@db.example/x?sslmode=verify-full",
        "LOCAL_DATABASE_URL": "postgresql://u:p@/x?host=/var/run/postgresql",
    }
    made.serve(
        env={"LOG_LEVEL": "info", "MAX_TOKENS": "4096", "OPENAI_API_KEY": "${OPENAI_API_KEY}",
             "TOKENIZERS_PARALLELISM": "false", "KEYCLOAK_REALM": "agents"},
        auth={"path": "pipelit_agents.server:auth", "disable_studio_auth": True},
        http={"cors": {"allow_origins": ["https://app.example"],
                       "allow_origin_regex": r"https://[a-z-]+\.preview\.example\.com",
                       "allow_credentials": True},
              "disable_meta": True, "app": "./web.py:app", "enable_custom_route_auth": True,
              "configurable_headers": {"includes": ["x-*"], "excludes": ["x-api-key"]}},
        webhooks={"url": {"require_https": True}},
    )  # fmt: skip
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "all but the key")
    copyfile(migrated_file, made.database)
    made.database.chmod(0o600)
    return made


def git(folder: Path, *words: str) -> None:
    """Runs git as nobody in particular."""
    who = ("-c", "user.email=a@b.example", "-c", "user.name=a", "-c", "commit.gpgsign=false")
    subprocess.run([GIT, *who, *words], cwd=folder, check=True, capture_output=True)


def serve_with(**changes: Any) -> Callable[[Deployment], None]:
    """Changes parts of its langgraph.json, two levels deep."""

    def change(made: Deployment) -> None:
        file = made.folder / "langgraph.json"
        served = json.loads(file.read_text())
        for part, values in changes.items():
            if isinstance(values, dict):
                served.setdefault(part, {}).update(values)
            else:
                served[part] = values
        file.write_text(json.dumps(served))

    return change


def cors(**changes: Any) -> Callable[[Deployment], None]:
    """Changes its CORS."""
    plain = {"allow_origins": ["https://app.example"], "allow_credentials": True}
    return serve_with(http={"cors": {**plain, **changes}})


def environ(**changes: str) -> Callable[[Deployment], None]:
    """Sets something in its environment."""
    return lambda made: made.environ.update(changes)


def written(name: str, text: str, mode: int = 0o644) -> Callable[[Deployment], None]:
    """Writes a file; {key} stands for the key."""

    def write(made: Deployment) -> None:
        path = made.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text.replace("{key}", made.keys[0]))
        path.chmod(mode)

    return write


def in_git(name: str, text: str) -> Callable[[Deployment], None]:
    """Writes a private file and commits it."""

    def commit(made: Deployment) -> None:
        written(name, text, 0o600)(made)
        git(made.folder, "add", "--force", name)
        git(made.folder, "commit", "--quiet", "--message", "more")

    return commit


def staged(made: Deployment) -> None:
    """Puts .env into git's index."""
    git(made.folder, "add", "--force", ".env")


def once_in_git(made: Deployment) -> None:
    """Commits .env, and takes it out again."""
    git(made.folder, "add", "--force", ".env")
    git(made.folder, "commit", "--quiet", "--message", "with the key")
    git(made.folder, "rm", "--quiet", "--cached", ".env")
    git(made.folder, "commit", "--quiet", "--message", "without it")


def deleted(name: str, text: str) -> Callable[[Deployment], None]:
    """Commits a private file, and deletes it in the next commit."""

    def commit(made: Deployment) -> None:
        in_git(name, text)(made)
        git(made.folder, "rm", "--quiet", name)
        git(made.folder, "commit", "--quiet", "--message", "without it")

    return commit


def emptied(made: Deployment) -> None:
    """Commits an env file with a secret, and then the same file without it."""
    in_git("test.env", f"DB_PASSWORD={SECRET}\n")(made)
    in_git("test.env", "DB_PASSWORD=\n")(made)


def on_a_branch(made: Deployment) -> None:
    """Commits an env file on another branch only."""
    git(made.folder, "checkout", "--quiet", "-b", "other")
    in_git("sub/.env.prod", "A={key}\n")(made)
    git(made.folder, "checkout", "--quiet", "-")


def named_file(setting: str, mode: int) -> Callable[[Deployment], None]:
    """Writes a secret into a file that a setting names by a relative path."""

    def write(made: Deployment) -> None:
        written("password.txt", SECRET, mode)(made)
        made.environ[setting] = "password.txt"

    return write


def mode(name: str, bits: int) -> Callable[[Deployment], None]:
    """Changes who may use a file or folder."""
    return lambda made: (made.folder / name).chmod(bits)


SECRET = "k3v9Qz7LmX2wR8tY5bN1"
COMPOSE = f"services:\n  db:\n    environment:\n      POSTGRES_PASSWORD: {SECRET}\n"
CHECKED: list[tuple[Callable[[Deployment], None], str, str, str]] = [
    # Git
    (staged, "git", ".env is in git", "keys rotate"),
    (once_in_git, "git", ".env is in git's history", "keys rotate"),
    (written(".gitignore", "*.db*\n"), "git", "git would add .env", ".gitignore: .env"),
    (in_git("deploy/prod.env", f"DB_PASSWORD={SECRET}\n"), "git", "deploy/prod.env", "git rm"),
    (in_git("notes/todo.txt", "the key is {key}\n"), "git", "notes/todo.txt", "keys add"),
    (deleted("prod.env", "FIELD_ENCRYPTION_KEY={key}\n"), "git", "prod.env is in git's", "purge"),
    (deleted("a b/.ENVRC", f"export DB_PASSWORD={SECRET}\n"), "git", "a b/.ENVRC is in", "keys"),
    (emptied, "git", "test.env is in git's history", "keys rotate"),
    (on_a_branch, "git", "sub/.env.prod is in git's history", "keys rotate"),
    (named_file("DB_PASSWORD_FILE", 0o600), "git", "git would add password.txt", ".gitignore"),
    (written("deploy/api.env", f"DB_PASSWORD={SECRET}\n", 0o600), "git", "add deploy/api", "add"),
    (in_git("compose.yaml", COMPOSE), "git", "compose.yaml is in git", "keys rotate"),
    (deleted("ops/docker-compose.prod.yml", COMPOSE), "git", "prod.yml is in git's", "rotate"),
    # Copies and folders
    (named_file("FIELD_ENCRYPTION_KEY_FILE", 0o644), "copies", "password.txt", "chmod 600"),
    (named_file("GOOGLE_APPLICATION_CREDENTIALS", 0o640), "copies", "password.txt", "chmod 600"),
    (written("deploy/api.env", f"DB_PASSWORD={SECRET}\n"), "copies", "deploy/api.env", "chmod 600"),
    (written(".envrc", f"export DB_PASSWORD={SECRET}\n"), "copies", ".envrc", "chmod 600"),
    (written("docker-compose.yml", COMPOSE), "copies", "docker-compose.yml", "chmod 600"),
    (written("compose.yml", "environment: [K={key}]\n"), "copies", "compose.yml", "chmod 600"),
    (written(".env.bak", "FIELD_ENCRYPTION_KEY={key}\n"), "copies", ".env.bak", "chmod 600"),
    (written("prod.env", f"DB_PASSWORD={SECRET}\n", 0o640), "copies", "prod.env", "chmod 600"),
    (written(".env~", "A_TOKEN=ghp_" + "a1" * 18), "copies", ".env~", "chmod 600"),
    (mode(".", 0o777), "folders", "app (drwxrwxrwx)", "chmod go-w"),
    (mode(".", 0o1777), "folders", "app (drwxrwxrwt)", "chmod go-w"),
    # langgraph.json
    (serve_with(env={"FIELD_ENCRYPTION_KEY": "in-the-repo"}), "server secrets", "FIELD", ".env"),
    (serve_with(env={"DB_URL": f"mysql://u:{SECRET}@h/x"}), "server secrets", "env.DB_URL", ".env"),
    (serve_with(env={"STRIPE": "sk-" + SECRET}), "server secrets", "env.STRIPE", "replace them"),
    (serve_with(dockerfile_lines=[f"ENV HF_TOKEN={SECRET}"]), "server secrets", "HF_TOKEN", ".env"),
    (
        serve_with(dependencies=[f"git+https://x:{SECRET}@git.example/a.git"]),
        "server secrets", "dependencies", "replace them",
    ),
    (serve_with(env={"DEBUG": "true"}), "DEBUG", "DEBUG is on", "DEBUG=false"),
    (serve_with(env={"SECRET_KEY": "changeme"}), "SECRET_KEY", "default", "token_urlsafe"),
    (serve_with(auth={"path": "my_auth:anybody"}), "server auth", "doesn't exist", "server:auth"),
    (serve_with(auth={"path": ""}), "server auth", "no API key", "server:auth"),
    (serve_with(auth={"path": "pipelit_agents.server:open"}), "server auth", "no open", ":auth"),
    (serve_with(auth={"disable_studio_auth": False}), "server auth", "Studio", "disable_studio"),
    (serve_with(auth={"allow_langsmith_api_keys": True}), "server auth", "LangSmith", "keys"),
    (serve_with(http={"enable_custom_route_auth": False}), "server auth", "http.app", "route_auth"),
    (serve_with(http={"enable_custom_route_auth": None}), "server auth", "http.app", "route_auth"),
    (serve_with(http={"disable_meta": False}), "server auth", "/metrics", "disable_meta"),
    (cors(allow_origin_regex=r"https://.*\.(com|net|org|io|dev)"), "server CORS", ".com", "your"),
    (cors(allow_origin_regex=r"https://[^.]+\.vercel\.app"), "server CORS", ".vercel.app", "your"),
    (cors(allow_origin_regex=".*"), "server CORS", "every site, and browsers", "allow_origins"),
    (cors(allow_origin_regex="https://app.example.com"), "server CORS", "dots", "escaped"),
    (cors(allow_origin_regex="https://(app"), "server CORS", "isn't a regular", "escaped"),
    (cors(allow_origins=["*"], allow_credentials=True), "server CORS", "and browsers", "your.site"),
    (cors(allow_origins=["null"]), "server CORS", '"null"', "your.site"),
    (cors(allow_origins=["http://app.example"]), "server CORS", "without TLS", "https://your.site"),
    (environ(CORS_CONFIG='{"allow_origins": ["*"]}'), "server CORS", "every site", "your.site"),
    (
        serve_with(http={"configurable_headers": {"includes": ["*"]}}),
        "server headers", "authorization into checkpoints", "excludes",
    ),
    (
        serve_with(http={"logging_headers": {"include": ["Auth*"]}}),
        "server headers", "into the logs", "excludes",
    ),
    (
        serve_with(webhooks={"url": {"disable_loopback": False, "require_https": False}}),
        "server webhooks", "without an API key", "require_https",
    ),
    # Addresses
    (environ(LANGSMITH_ENDPOINT="http://traces.example:1984"), "tracing", "LANGSMITH_E", "https://"),
    (environ(LANGCHAIN_ENDPOINT="HTTP://10.0.0.8"), "tracing", "LANGCHAIN_ENDPOINT", "https://"),
    (
        environ(LANGSMITH_RUNS_ENDPOINTS='[{"api_url": "http://a.example", "api_key": "x"}]'),
        "tracing", "LANGSMITH_RUNS_ENDPOINTS", "https://",
    ),
    (
        environ(
            OTEL_EXPORTER_OTLP_ENDPOINT="otel.example:4317", OTEL_EXPORTER_OTLP_INSECURE="true"
        ),
        "tracing", "OTEL_EXPORTER_OTLP_INSECURE", "https://",
    ),
    (serve_with(env={"LANGFUSE_HOST": "http://fuse.example"}), "tracing", "LANGFUSE", "https:"),
    (environ(QUEUE_URL="redis://:pw@10.0.0.7:6379/0"), "redis TLS", "QUEUE_URL", "rediss://"),
    (
        environ(QUEUE_URL="redis+sentinel://localhost:26379,b.example:26379/m/0"),
        "redis TLS", "QUEUE_URL", "rediss://",
    ),
    (environ(DD_TRACE_AGENT_URL="http://dd.example:8126"), "tracing", "DD_TRACE", "https://"),
    (environ(QUEUE_URL="valkey://v.example"), "redis TLS", "QUEUE_URL", "rediss://"),
    (
        environ(QUEUE_URL="rediss://r.example/0?ssl_check_hostname=false"),
        "redis TLS", "for this host", "verification",
    ),
    (
        environ(QUEUE_URL="rediss://r.example:6379/0?ssl_cert_reqs=none"),
        "redis TLS", "certificate", "verification",
    ),
    (environ(DB="postgresql+psycopg://u:p@db.example/x"), "PostgreSQL TLS", "no sslmode", "verify"),
    (environ(DB="postgres://u@d.b/x?sslmode=prefer"), "PostgreSQL TLS", "sslmode=prefer", "verify"),
    (environ(DB="postgresql:///x?host=10.0.0.5"), "PostgreSQL TLS", "no sslmode", "verify-full"),
    (
        environ(DB="postgresql://localhost:5432,db.example:5432/x"),
        "PostgreSQL TLS", "no sslmode", "verify-full",
    ),
]  # fmt: skip


def test_a_clean_deployment_has_no_finding(clean: Deployment) -> None:
    """In git, with an example file, tracing, servers over TLS, origins, routes of its own."""
    assert clean.check() == {}


@pytest.mark.slow
def test_an_example_that_was_deleted_is_no_finding(clean: Deployment) -> None:
    """Names don't tell: an env file of an earlier commit is looked into."""
    deleted("old.env.sample", "FIELD_ENCRYPTION_KEY=\nDB_PASSWORD=your-password\n")(clean)
    deleted("environment.env", "LOG_LEVEL=info\n")(clean)
    assert clean.check() == {}


def in_rounds() -> list[list[tuple[Callable[[Deployment], None], str, str, str]]]:
    """All of them in few deployments: in each the next one of every item."""
    rounds: list[list[tuple[Callable[[Deployment], None], str, str, str]]] = []
    for each in CHECKED:
        turn = sum(each[1] in [name for _, name, _, _ in listed] for listed in rounds)
        rounds += [[]] * (turn == len(rounds))
        rounds[turn] = [*rounds[turn], each]
    return rounds


@pytest.mark.slow
@pytest.mark.parametrize("together", in_rounds())
def test_each_trouble_is_found_with_its_fix(
    clean: Deployment, together: list[tuple[Callable[[Deployment], None], str, str, str]]
) -> None:
    """One trouble of each item in a clean deployment: all are found, and no secret is repeated."""
    for change, _, _, _ in together:
        change(clean)
    found = clean.check()
    for _, name, says, fix in together:
        assert says in found[name].found
        assert fix in found[name].fix
    assert found.keys() <= {*(name for _, name, _, _ in together), "git", "copies"}
    told = str(found)
    assert SECRET not in told
    assert clean.keys[0] not in told


def test_a_fix_for_a_file_can_be_copied(tmp_path: Path, migrated_file: Path) -> None:
    """Whatever its folder is called."""
    folder = tmp_path / "my app"
    folder.mkdir()
    made = Deployment(folder)
    made.keys = [Keyring.generate_key()]
    copyfile(migrated_file, made.database)
    made.database.chmod(0o644)
    for name in (".env", ".env.bak"):
        (folder / name).write_text(f"FIELD_ENCRYPTION_KEY={made.keys[0]}\n")
        (folder / name).chmod(0o644)
    folder.chmod(0o777)
    found = made.check()
    for name in ("env file", "database file", "copies", "folders"):
        command = re.split(r" \(|; or ", found[name].fix)[0]
        assert all(Path(folder, each).exists() for each in shlex.split(command)[2:]), command


@pytest.mark.parametrize(
    ("source", "ours"),
    [
        ("from pipelit_agents.server import auth", True),
        ("from pipelit_agents.server import auth as mine", False),
        ("from pipelit_agents.server import make_auth\nauth = make_auth()", True),
        (
            "from pipelit_agents.server import make_auth as m\nauth: object = m(owner_filter=0)",
            True,
        ),
        ("from pipelit_agents import server\nauth = server.make_auth(p)", True),
        ("import pipelit_agents.server\nauth = pipelit_agents.server.make_auth(p)", True),
        ("import pipelit_agents.server as s\nauth = s.auth", True),
        ("from langgraph_sdk import Auth\nauth = Auth()", False),
        (
            "from pipelit_agents.server import auth\nfrom langgraph_sdk import Auth\nauth = Auth()",
            False,
        ),
        ("from pipelit_agents.server import auth\ndef auth(): pass", False),
        ("def make_auth(): ...\nauth = make_auth()", False),
        ("from .server import make_auth\nauth = make_auth()", False),
        ("auth = (", False),
        ("", False),
    ],
)
def test_an_auth_of_ours_is_told_from_others(tmp_path: Path, source: str, ours: bool) -> None:
    """By what the module binds the name to; the module is read, and not run."""
    (tmp_path / "my").mkdir()
    (tmp_path / "my" / "auth.py").write_text(source + "\nraise SystemExit\n" * ours)
    for path in ("my.auth:auth", "./my/auth.py:auth"):
        auth = {"path": path, "disable_studio_auth": True}
        assert (not auth_problems(tmp_path, auth, {"disable_meta": True})) == ours


@pytest.mark.slow
def test_no_repository_and_no_git_program(
    clean: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a repository it doesn't apply; in one, a git that can't be asked is a finding."""
    monkeypatch.setenv("PATH", str(clean.folder / "nothing"))
    assert "isn't installed" in clean.check()["git"].found
    (clean.folder / ".git").rename(clean.folder / "git")
    assert "git" not in clean.check()


@pytest.mark.slow
def test_git_runs_no_program_of_the_repositorys_own(clean: Deployment) -> None:
    """A repository's configuration may name programs; looking at it starts none of them."""
    seen = clean.folder / "seen"
    program = clean.folder / "program"
    program.write_text(
        f"#!/bin/sh\ntouch {seen}\ncat > {os.devnull}\necho '[GNUPG:] SIG_CREATED ' >&2\n"
        "echo -----BEGIN PGP SIGNATURE-----\n"
    )
    program.chmod(0o755)
    git(clean.folder, "config", "gpg.program", str(program))
    # The program that checks signatures runs where a commit has one.
    in_git("test.env", "A=1\n")(clean)
    git(clean.folder, "commit", "--quiet", "--amend", "--gpg-sign=a", "--message", "signed")
    seen.unlink()
    git(clean.folder, "config", "log.showSignature", "true")
    for setting in ("core.fsmonitor", "core.pager", "pager.log", "core.sshCommand"):
        git(clean.folder, "config", setting, str(program))
    assert "git" not in clean.check()
    assert not seen.exists()


def test_git_fetches_nothing_that_a_copy_lacks(clean: Deployment) -> None:
    """A partial copy's missing file may hold anything: it is a finding, and no remote is asked."""
    deleted("prod.env", "A=1\n")(clean)
    where = subprocess.check_output([GIT, "rev-parse", "HEAD~1:prod.env"], cwd=clean.folder)
    name = where.decode().strip()
    (clean.folder / ".git" / "objects" / name[:2] / name[2:]).unlink()
    seen = clean.folder / "seen"
    for setting, value in (
        ("core.repositoryFormatVersion", "1"), ("extensions.partialClone", "origin"),
        ("remote.origin.promisor", "true"), ("remote.origin.url", "ssh://127.0.0.1/a"),
        ("protocol.ssh.allow", "always"), ("core.sshCommand", f"touch {seen}; false"),
    ):  # fmt: skip
        git(clean.folder, "config", setting, value)
    assert "prod.env is in git's history" in clean.check()["git"].found
    assert not seen.exists()


@pytest.mark.slow
def test_a_group_of_ones_own_is_nobody_else(
    clean: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where each account has its own group, a folder that its group may change is private."""
    grp, pwd = pytest.importorskip("grp"), pytest.importorskip("pwd")
    clean.folder.chmod(0o775)
    owner = pwd.getpwuid(clean.folder.stat().st_uid).pw_name
    for name, members, found in ((owner, [], False), (owner, ["bob"], True), ("www", [], True)):
        group = grp.struct_group((name, "x", 1, members))
        monkeypatch.setattr(grp, "getgrgid", lambda _, group=group: group)
        assert ("folders" in clean.check()) == found


@pytest.mark.parametrize(
    ("address", "clear"),
    [
        ("http://localhost@evil.example/", True),
        ("http://localhost:x@evil.example/", True),
        ("http://notlocalhost/", True),
        ("http://[::1]:80/", False),
        ("http://127.8.8.8", False),
        ("http://app.localhost:3000/x", False),
        ("http://localhost.", False),
        ("http://0.0.0.0:80", True),
        ("http://169.254.169.254/", True),
        ("https://a.example,http://b.example", True),
        ("https://a.example/?next=https://b", False),
    ],
)
def test_this_machine_is_told_from_another(address: str, clear: bool) -> None:
    """By the host alone, whatever is written around it."""
    assert is_clear(address) == clear


JWT = f"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.{SECRET}{SECRET}"
SECRET_SETTINGS = {
    "MY_SECRET_VALUE": SECRET,
    "AUTH": f"Bearer {SECRET}",
    "BASIC": "Basic dXNlcjpodW50ZXItMjIyMg==",
    **{f"P{i}": f"{prefix}{SECRET}" for i, prefix in enumerate(
        ("glpat-", "hf_", "gsk_", "sk_live_", "npm_", "tvly-", "tvly-dev-", "pplx-", "dop_v1_")
    )},
    "J": JWT,
    "KEYWORDS": f"host=db.example user=u password={SECRET}",
    "PAIRS": f"Server=db;Uid=sa;Pwd={SECRET};",
    "SAS": f"https://a.blob.example/c?sv=2022&sig={SECRET}%2Fabc%3D",
    "SLACK": f"https://hooks.slack.com/services/T01ABCDEF23/B02GHIJKL45/{SECRET}abcd",
    "DISCORD": f"https://discord.com/api/webhooks/123456789012345678/{SECRET}{SECRET}",
    "JSON": f'{{"db": {{"password": "{SECRET}"}}}}',
    "DEFAULTED": f"${{DB:-postgresql://u:{SECRET}@db/x}}",
    "GITHUB_PAT": SECRET,
    "UNKNOWN": SECRET,
    "DB_PASS": "in-the-repo",
}  # fmt: skip
HARMLESS_SETTINGS = {
    "PRIMARY_KEY": "user_id", "CACHE_KEY": "app-cache", "SORT_KEY": "created_at",
    "MODEL": "openai:gpt-4o-mini-2024-07-18", "MAX_TOKENS": "4096", "AUTH_METHOD": "password",
    "REVISION": "3b5d4a1f0c9e8d7b6a5f4e3d2c1b0a9f8e7d6c5b", "KEY_PREFIX": "agents:",
    "IMAGE": "redis@sha256:" + "3b5d4a1f0c9e8d7b" * 4, "PASSWORD_FILE": "/run/secrets/pw",
    "API_KEY": "${API_KEY}", "AUTH": "Bearer ${TOKEN}", "TOKEN_URL": "https://a.example/token",
    "NEXT_PUBLIC_API_KEY": "pk-" + SECRET, "PASSWORD_MIN_LENGTH": "12",
    "DSN": "postgresql://app@db.example/x?sslmode=verify-full", "DB": "host=db.example user=app",
    "HOSTS": "redis:6379\npostgres:5432", "PROMPT": "Be kind.\nNever show a password.",
    "PROJECT": "5f2b1c9e-1111-4222-8333-944455556666", "S": "{{ secrets.api_key }}",
}  # fmt: skip
SECRET_COMMANDS = (
    f"RUN curl -H 'Authorization: Bearer {SECRET}' https://a.example",
    f'RUN curl --header "X-Api-Key: {SECRET}" https://a.example',
    f"RUN curl -u me:{SECRET} https://a.example",
    f"RUN pip config set global.index-url https://user:{SECRET}@pypi.example/simple",
    f"RUN echo 'machine git.example login x password {SECRET}' > ~/.netrc",
    f'RUN printf "machine git.example\\nlogin x\\npassword {SECRET}\\n" > ~/.netrc',
    f"RUN npm config set //npm.example/:_authToken {SECRET}",
    f"RUN docker login -u x --password {SECRET}",
    f"RUN export A=1 PGPASSWORD={SECRET} && psql",
    f"RUN redis-cli -a {SECRET} ping",
    f"ENV MY_SECRET_VALUE {SECRET}",
    f"ARG A=1 TOKEN='{SECRET}'",
)
HARMLESS_COMMANDS = (
    "ENV PRIMARY_KEY=user_id CACHE_KEY=app-cache",
    "RUN apt-get update && apt-get install -y --no-install-recommends git",
    'RUN curl -H "Authorization: Bearer $TOKEN" https://a.example',
    'RUN curl -H "Authorization: Bearer $(cat /run/secrets/t)" https://a.example',
    "RUN pip install --index-url https://u:${PW}@pypi.example/simple a",
    "RUN PASSWORD=$(cat /run/secrets/pw) ./x",
    "RUN --mount=type=secret,id=pip_token pip install x",
    "RUN pip install torch==2.1.0 --hash=sha256:" + "3b5d4a1f0c9e8d7b" * 4,
    "RUN gpg --keyserver keys.example --recv-keys 3B5D4A1F0C9E8D7B6A5F4E3D2C1B0A9F8E7D6C5B",
    "ADD --checksum=sha256:" + "3b5d4a1f0c9e8d7b" * 4 + " https://a.example/f.tgz /x",
    "RUN docker run -u app:app x",
)


@pytest.mark.parametrize("name", SECRET_SETTINGS)
def test_a_secret_in_a_setting_is_told_by_its_form(name: str) -> None:
    """Kinds of tokens, headers, connection strings, signed and secret addresses."""
    assert secrets_of_server({"env": {name: SECRET_SETTINGS[name]}}) == [f"env.{name}"]


@pytest.mark.parametrize("line", SECRET_COMMANDS)
def test_a_secret_in_a_command_is_found(line: str) -> None:
    """Headers, logins, options, files that are written; the value isn't repeated."""
    found = secrets_of_server({"dockerfile_lines": [line]})
    assert found
    assert SECRET not in str(found)


def test_settings_and_commands_without_a_secret_are_no_findings() -> None:
    """Keys of tables and caches, models, versions, and what names a secret that is elsewhere."""
    assert secrets_of_server({"env": HARMLESS_SETTINGS}) == []
    assert secrets_of_server({"dockerfile_lines": list(HARMLESS_COMMANDS)}) == []
    commit = "3b5d4a1f0c9e8d7b6a5f4e3d2c1b0a9f8e7d6c5b"
    harmless = [
        f"https://files.example/packages/{commit}{commit[:20]}/a-1.0-py3-none-any.whl",
        f"https://git.example/a/b/archive/{commit}.zip",
        f"git+https://git.example/a/b@{commit}",
    ]
    assert secrets_of_server({"dependencies": harmless}) == []


def test_honest_text_is_seldom_taken_for_a_secret() -> None:
    """Of the messages that honest nodes return, only identifiers and key forms are suspected."""
    lines = {str(i): each for i, each in enumerate(LINES)}
    found = [lines[each.removeprefix("env.")] for each in secrets_of_server({"env": lines})]
    told = re.compile(r".*(AKIA|BEGIN PRIVATE KEY|SELECT|[0-9a-f]{32}|\w+[-_]\w*\d\w{15,}).*")
    assert [each for each in found if not told.fullmatch(each)] == []
    assert len(found) < 10


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        (r"https://app\.example\.com.*", "longer names"),
        (r"https://app[.]example[.]com\S*", "longer names"),
        (r"https://app\.example\.(com|net)[a-z.]*", "longer names"),
        (r"https://app\.example\..*", "longer names"),
        (r".*example\.com", "longer names"),
        (r"https://[a-z]+example\.co\.uk", "longer names"),
        (r"https://myapp-\w+\.vercel\.app", "longer names"),
        (r"https://.*-team\.vercel\.app", "longer names"),
        (r"https://app-\d+\.com", "longer names"),
        (r"(?i)https://.+\.evil\.[a-z]+", "longer names"),
        (r"https?://localhost.*", "longer names"),
        (r"http://app\.example\.com", "without TLS"),
        (r"https?://(app|admin)\.example\.com", "without TLS"),
        (r"https?://[a-z]+\.example\.com(:\d+)?", "without TLS"),
        (r"https://.*\.jp", "every site of .jp"),
        (r"https://.*\.(ch|at)", "every site of .ch, .at"),
        (r"https://(a|b)\.example\.com|.*\.fr", "every site of .fr"),
        (r"https://[a-z]+\.com\.br", "every site of .com.br"),
    ],
)
def test_an_origin_that_strangers_can_have_is_found(pattern: str, says: str) -> None:
    """Longer names, other names under the same ending, and names without TLS."""
    assert says in ", ".join(origin_problems({"allow_origin_regex": pattern}))


@pytest.mark.parametrize(
    "pattern",
    [
        r"https://(app|admin)\.example\.com",
        r"^https://app\.example\.com(:\d+)?$",
        r"https://app[.]example[.](com|org)",
        r"https://([a-z]+\.)?example\.co\.uk",
        r"https://.*\.example\.com",
        r"https://.*-app\.example\.com",
        r"https://app-[a-z0-9]+\.example\.com",
        r"https://pr-\d+\.apps\.example\.co\.jp",
        r"https://[\w-]+\.my-app\.pages\.dev",
        r"https://[a-z]+\.corp\.internal",
        r"(?i:https://(?:www\.)?example\.de)",
        r"https?://(localhost|127\.0\.0\.1)(:\d+)?",
    ],
)
def test_a_pattern_of_ones_own_names_is_no_finding(pattern: str) -> None:
    """Names under a registered domain, other ports, and this machine."""
    assert origin_problems({"allow_origin_regex": pattern}) == []


NEARBY = {
    "redis TLS": {"QUEUE_URL": "redis://:pw@redis:6379/0"},
    "PostgreSQL TLS": {"DB": "postgresql://u:pw@db/x"},
    "tracing": {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://otel-collector:4318",
        "LANGFUSE_HOST": "http://host.docker.internal:3000",
    },
    "public URL": {"READER_URL": "http://reader:2024"},
}


def test_a_host_without_a_dot_is_a_note(pipelit: Pipelit, tmp_path: Path) -> None:
    """Whether a service of Compose is on this machine isn't known: it is said, and no failure."""
    together = {name: value for each in NEARBY.values() for name, value in each.items()}
    checks = {
        each.name: each for each in pipelit.check(deploy=True, folder=tmp_path, environ=together)
    }
    for name, settings in NEARBY.items():
        assert checks[name].ok, name
        assert all(each in checks[name].found for each in settings)
        assert "this is fine if" in checks[name].found
        assert "pw" not in checks[name].found


@pytest.mark.parametrize(
    "environ",
    [
        {"DB": "postgresql://u:p@%2Fvar%2Frun%2Fpostgresql/x", "Q": "redis://127.1:6379"},
        {"DB": "postgresql://u:p@h.example/x?hostaddr=127.0.0.1", "LANGFUSE_HOST": "http://127.1"},
        {"Q": "rediss://r.example?ssl_check_hostname=true", "PHOENIX_HOST": "http://0x7f000001"},
    ],
)
def test_this_machine_is_known_by_each_form_of_its_name(
    pipelit: Pipelit, tmp_path: Path, environ: dict[str, str]
) -> None:
    """Quoted sockets, short and hexadecimal addresses, and where libpq really connects to."""
    checks = {
        each.name: each for each in pipelit.check(deploy=True, folder=tmp_path, environ=environ)
    }
    for name in ("redis TLS", "PostgreSQL TLS", "tracing"):
        assert checks[name].ok is not False
        assert "this is fine if" not in checks[name].found


def test_the_address_of_a_page_takes_no_key(pipelit: Pipelit, tmp_path: Path) -> None:
    """Documentation and schemas are read by people or by name."""
    (tmp_path / ".env").write_text(
        "DOCS_URL=http://www.w3.org/TR\nJSON_SCHEMA_URL=http://s.example/a\n"
    )
    assert "public URL" not in wrong(pipelit.check(deploy=True, folder=tmp_path, environ={}))


def test_a_secret_that_is_mounted_may_have_any_mode(tmp_path: Path) -> None:
    """Kubernetes gives files through a link beside them; without it, others may read the file."""
    secret = tmp_path / "volume" / "key"
    secret.parent.mkdir()
    secret.write_text(SECRET)
    secret.chmod(0o644)
    assert len(open_copies(tmp_path, None, [secret])[1]) == 1
    (secret.parent / "..data").symlink_to(secret.parent)
    assert open_copies(tmp_path, None, [secret]) == (0, [])


def test_what_could_not_be_looked_at_has_no_reason(tmp_path: Path) -> None:
    """Without a database nobody is guessing codes, and with a bad URL no server is used."""
    for url in (f"sqlite:///{tmp_path}/none.db", "agents.db"):
        with Pipelit(database_url=url, encryption_keys=[Keyring.generate_key()]) as pipelit:
            checks = pipelit.check(folder=tmp_path, environ={})
        found = {each.name: each for each in checks}
        assert found["lanes"].ok is False
        assert not found["lanes"].why
        assert "server is used" not in found["database file"].found


def test_a_database_that_cant_be_reached_is_told_once(tmp_path: Path) -> None:
    """Every item that needs it has failed; the first says why, and the others name that one."""
    url = "postgresql+psycopg://alice:S3cretPass@127.0.0.1:1/agents"
    with Pipelit(database_url=url, encryption_keys=[Keyring.generate_key()]) as pipelit:
        checks = pipelit.check(deploy=True, folder=tmp_path, environ={})
    found = wrong(checks)
    whole = [each.name for each in found.values() if "PIPELIT_DATABASE_URL" in each.found]
    assert whole == ["tables"]
    for name in ("key opens", "ledger", "newest key", "API keys expire", "audit"):
        assert "'tables'" in found[name].found
        assert not found[name].fix
        assert not found[name].why
    assert "S3cret" not in str(checks)
