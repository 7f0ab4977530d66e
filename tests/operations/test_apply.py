"""Accounts from a file: what is made, what is left alone, what is refused, and what gets lost."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from command_line import typed
from conftest import Clock

from pipelit_agents import Pipelit
from pipelit_agents.errors import (
    AuthenticationError,
    ConfigurationError,
    PipelitError,
    WritableFileWarning,
)
from pipelit_agents.operations.accounts_file import AccountsFile
from pipelit_agents.operations.secret_folder import SecretFolder

BACKENDS = ("sqlite",)
ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
SECRET = "sk-proj-Zq81LmTc40Vx93Rb"
FILE = """
secrets: keys
people:
  ann:
    keys:
      laptop: {expires_in: 90d}
agents:
  agent_reader:
    owner: agent_boss
    purpose: reads
    provisioning_uri: true
  agent_boss:
    owner: ann
    purpose: leads
    keys:
      server:
      cron: {expires_at: 2030-01-31T00:00:00Z}
credentials:
  reader-server:
    kind: api-key
    created_by: ann
    allow: [agent_boss]
    value: {file: keys/agent_boss/server.key}
  crm:
    kind: service
    created_by: ann
    public: {host: crm.example}
    fields:
      password: {env: CRM_PASSWORD}
"""
ENVIRON = {"CRM_PASSWORD": SECRET}
Apply = Callable[..., list[str]]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The file, in a folder of its own."""
    folder = tmp_path / "declared"
    folder.mkdir()
    path = folder / "accounts.yaml"
    path.write_text(FILE)
    return path


@pytest.fixture
def apply(pipelit: Pipelit, file: Path) -> Apply:
    """Apply the file, or one that differs, and return what changed in short."""

    def applied(*changes: tuple[str, str], environ: Any = ENVIRON, **options: Any) -> list[str]:
        text = FILE
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        file.write_text(text)
        found = pipelit.apply(file, environ=environ, **options)
        return [f"{each.action} {each.what} {each.name}" for each in found]

    return applied


def secret(file: Path, name: str) -> str:
    """What is in one of the files."""
    return (file.parent / "keys" / name).read_text()


def living(pipelit: Pipelit, account: str) -> list[str]:
    """The names of an account's keys that aren't revoked."""
    return [each.name for each in pipelit.users.list_api_keys(account) if not each.revoked_at]


def everything(pipelit: Pipelit, file: Path) -> Any:
    """What a second application must not change."""
    folder = file.parent / "keys"
    files = sorted(folder.rglob("*")) if folder.exists() else []
    return (
        pipelit.audit.list(limit=10_000),
        [(each, each.lstat().st_mtime_ns, each.lstat().st_ino) for each in files],
    )


# What is made


def test_all_that_the_file_declares_is_made(pipelit: Pipelit, file: Path, apply: Apply) -> None:
    """People, agents below their owners, keys in private files, credentials of any source."""
    assert apply() == [
        "created person ann",
        "issued API key ann laptop",
        "created agent agent_boss",
        "issued API key agent_boss server",
        "issued API key agent_boss cron",
        "created agent agent_reader",
        "written provisioning URI agent_reader",
        "stored credential reader-server",
        "stored credential crm",
    ]
    names = ["agent_boss/cron.key", "agent_boss/server.key", "ann/laptop.key"]
    for name in (*names, "agent_reader/provisioning.uri"):
        path = file.parent / "keys" / name
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
    for name in names:
        user = pipelit.users.authenticate(secret(file, name))
        assert user.username == name.partition("/")[0]
    assert living(pipelit, "agent_reader") == []
    assert pipelit.users.get("agent_reader").owner == "agent_boss"
    assert secret(file, "agent_reader/provisioning.uri").startswith("otpauth://totp/")
    laptop, *_ = pipelit.users.list_api_keys("ann")
    assert laptop.expires_at == laptop.created_at + timedelta(days=90)
    assert pipelit.credentials.get("crm").public == {"host": "crm.example"}
    with_key = pipelit.credentials.get("reader-server")
    assert with_key.allow == ("agent_boss",)
    assert with_key.masked == f"…{secret(file, 'agent_boss/server.key')[-4:]}"


async def test_a_second_time_there_is_nothing_to_do(
    pipelit: Pipelit, file: Path, apply: Apply
) -> None:
    """No row and no file is written, sync and async; what isn't in the file stays."""
    apply()
    before = everything(pipelit, file)
    assert apply() == []
    assert await pipelit.aapply(file, environ=ENVIRON) == []
    assert everything(pipelit, file) == before
    assert pipelit.users.get("alice").active


def test_a_dry_run_says_the_same_and_changes_nothing(
    pipelit: Pipelit, file: Path, apply: Apply
) -> None:
    """Neither the database nor the folder, which isn't even made."""
    before = everything(pipelit, file)
    planned = apply(dry_run=True)
    assert everything(pipelit, file) == before
    assert not (file.parent / "keys").exists()
    assert apply() == planned


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        (("purpose: leads", "purpose: leads all"), ["changed agent agent_boss"]),
        (
            ("purpose: reads", "purpose: reads\n    may_create_agents: true"),
            ["changed agent agent_reader"],
        ),
        (("host: crm.example", "host: crm2.example"), ["stored credential crm"]),
        (("[agent_boss]", "[agent_boss, ann]"), ["stored credential reader-server"]),
        (("      server:", "      old:\n      server:"), ["issued API key agent_boss old"]),
        (
            ("2030-01-31T00:00:00Z", "2031-01-31T00:00:00+01:00"),
            ["issued API key agent_boss cron", "revoked API key agent_boss cron"],
        ),
        (("expires_in: 90d", "expires_in: 30d"), []),
        (("created_by: ann\n    public", "created_by: bob\n    public"), []),
    ],
    ids=["purpose", "right", "public", "allow", "another key", "expiry", "lifetime", "creator"],
)  # fmt: skip
def test_what_differs_is_changed_and_nothing_else(
    apply: Apply, change: tuple[str, str], changed: list[str]
) -> None:
    """And the next time there is nothing to do."""
    apply()
    assert apply(change) == changed
    assert apply(change) == []


def test_a_secret_that_changed_is_stored_again(pipelit: Pipelit, apply: Apply) -> None:
    """It is compared with the stored one, not by its last characters."""
    apply()
    assert apply(environ={"CRM_PASSWORD": f"x{SECRET[1:]}"}) == ["stored credential crm"]
    assert apply(environ={"CRM_PASSWORD": f"x{SECRET[1:]}"}) == []


# What is refused


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("owner: agent_boss", "owner: ann", "agents.agent_reader: owner is 'agent_boss' here"),
        ("owner: ann", "owner: nobody", "agents.agent_boss: owner is 'ann' here"),
        ("  agent_reader:\n", "  alice:\n", "agents.alice: there is a person of that name"),
        ("  ann:\n", "  agent_left:\n", "people.agent_left: there is an agent of that name"),
        ("  agent_reader:\n", "  agent_left:\n", "agents.agent_left: was deactivated"),
        ("CRM_PASSWORD", "NOT_SET", "credentials.crm: fields.password.env: 'NOT_SET' isn't set"),
        ("keys/agent_boss/server.key", "none", "credentials.reader-server: value.file: .* be read"),
        ("2030-01-31", "2020-01-31", "agents.agent_boss: .*is past"),
        ("host: crm.example", f"api_key: {SECRET}", "credentials.crm: .* public has a secret"),
    ],
    ids=["owner", "new owner", "person", "agent", "left", "env", "file", "past", "public"],
)
def test_what_cant_be_is_refused_and_nothing_is_changed(
    pipelit: Pipelit, file: Path, apply: Apply, old: str, new: str, says: str
) -> None:
    """In words with the path in the file, without a secret; also what could be is left out."""
    apply()
    pipelit.users.create_agent("agent_left", owner="ann", purpose="left")
    pipelit.users.deactivate("agent_left")
    before = everything(pipelit, file)
    with pytest.raises(ConfigurationError, match=says) as error:
        apply((old, new), ("purpose: leads", "purpose: changed"))
    assert SECRET not in str(error.value)
    assert everything(pipelit, file) == before


# A line is added to what is declared of this agent.
ADDED = ("    owner: agent_boss",)
MALFORMED = {
    "no field": ("purpose: reads", "purpos: x", r"agents\.agent_reader\.purpose: is missing"),
    "field": (*ADDED, "may_create: true", "may_create: there is no such field; there are owner"),
    "key field": ("90d", "90d, name: x", r"laptop\.name: there is no .*; there are expires_in,"),
    "top field": ("secrets: keys", "secret: keys", "secret: .*; there are secrets, people, agents"),
    "source field": ("{env: CRM", "{file: a, enc: CRM", r"\.enc: .*; there are file, env"),
    "null": ("purpose: reads", "purpose:", r"agents\.agent_reader\.purpose: is missing"),
    "blank": ("purpose: reads", "purpose: ' '", r"agent_reader\.purpose: must say what the"),
    "number": ("90d", "90", r"laptop\.expires_in: must be a duration, such as 90d or 12h"),
    "owner": ("owner: ann", "owner: Ann B", r"agent_boss\.owner: 'Ann B' is not a username"),
    "type": ("purpose: reads", "purpose: 3", r"agents\.agent_reader\.purpose: must be text"),
    "bool": (*ADDED, "may_create_agents: sure", "must be true or false"),
    "name": ("agent_reader", "Agent D", r"yaml: agents: 'Agent D' is not a username"),
    "key name": ("laptop", "../laptop", "also the name of its file"),
    "secret": ("{env: CRM_PASSWORD}", SECRET, r"fields\.password: a secret isn't written in this"),
    "two sources": ("{env: CRM_PASSWORD}", "{env: A, file: b}", "name one source"),
    "no source": ("{env: CRM_PASSWORD}", "{}", "name one source"),
    "both": ("kind: service", "kind: service\n    value: {env: A}", "either value or fields"),
    "lifetime": ("90d", "soon", r"people\.ann\.keys\.laptop\.expires_in: must be a duration"),
    "moment": ("2030-01-31T00:00:00Z", "2030-01-31T00:00:00", "time with a time zone"),
    "day": ("2030-01-31T00:00:00Z", "2030-01-31", "time with a time zone"),
    "twice": (*ADDED, "purpose: writes", "line 1.: this name is there twice"),
    "alias": ("purpose: reads", "purpose: &x reads\n  agent_b: *x", "aliases"),
    "no text": ("  ann:", "  1:", "isn't text"),
    "yaml": ("secrets: keys", "secrets: [keys", "line"),
    "folder": ("secrets: keys", "", "secrets is missing"),
    "role": ("  ann:\n", "  ann:\n    role: admin\n", r"ann\.role: must be operator or member"),
    "circle": ("owner: ann", "owner: agent_reader", "own each other"),
    "both kinds": ("  ann:\n", "  agent_boss:\n  ann:\n", "under people and under agents"),
    "tag": ("purpose: reads", "purpose: !!python/name:os.system", "."),
    "list": ("people:\n  ann:", "people:\n  - ann:", "people: must be a mapping"),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "says"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_file_is_refused_by_its_path(
    apply: Apply, old: str, new: str, says: str
) -> None:
    """Before anything is done; a value of the file isn't repeated."""
    new = f"{old}\n    {new}" if old in ADDED else new
    with pytest.raises(ConfigurationError, match=says) as error:
        apply((old, new))
    assert SECRET not in str(error.value)


UNREADABLE = {
    "number": ("purpose: reads", "purpose: " + "1:" * 400 + "1.5", "line 1.: this value can't be"),
    "digits": ("purpose: reads", "purpose: " + "1" * 5000, "line 1.: this value can't be read"),
    "day": ("purpose: reads", "purpose: 2030-02-31", "line 1.: this value can't be read"),
    "zone": ("2030-01-31T00:00:00Z", "2030-01-31T00:00:00+99:99", "line 1.: this value can't be"),
    "first": ("2030-01-31T00:00:00Z", "0001-01-01T00:00:00+14:00", r"keys\.cron\.expires_at: must"),
    "last": ("2030-01-31T00:00:00Z", "9999-12-31T23:59:59-14:00", r"keys\.cron\.expires_at: must"),
    "no number": ("purpose: reads", "purpose: !!int ''", "line 1.: tags"),
    "no time": ("purpose: reads", "purpose: !!timestamp x", "line 1.: tags"),
    "depth": ("purpose: reads", "purpose: " + "[" * 2000, r"accounts\.yaml: is nested too deeply"),
}


@pytest.mark.parametrize(("old", "new", "says"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_value_that_cant_be_read_is_refused_by_its_place(
    apply: Apply, old: str, new: str, says: str
) -> None:
    """Whatever the parser makes of it."""
    with pytest.raises(ConfigurationError, match=says):
        apply((old, new))


def test_agents_in_a_long_chain_are_ordered() -> None:
    """Each owner before what it owns; a circle is found at its end."""
    names = [f"agent_{n}" for n in range(1500)]
    owners = dict(zip(names, [*names[1:], "ann"], strict=True))
    agents = {name: {"owner": owner, "purpose": "x"} for name, owner in owners.items()}
    ordered = AccountsFile.model_validate({"agents": agents}).agents_by_owner()
    assert [name for name, _ in ordered] == names[::-1]
    agents[names[-1]]["owner"] = "agent_0"
    with pytest.raises(ConfigurationError, match=r"agents\.agent_0\.owner: .* own each other"):
        AccountsFile.model_validate({"agents": agents}).agents_by_owner()


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"- a", b"x" * 2_000_000, b"\x00"])
def test_what_is_no_such_file_is_refused(pipelit: Pipelit, file: Path, content: bytes) -> None:
    """Nothing at all declares nothing; other bytes are an error."""
    file.write_bytes(content)
    if not content:
        assert pipelit.apply(file) == []
        return
    with pytest.raises(ConfigurationError, match=r"accounts\.yaml"):
        pipelit.apply(file)


def test_a_person_has_the_role_that_is_declared(apply: Apply, pipelit: Pipelit) -> None:
    """Without one nothing changes; with one it is made so, and once."""
    apply()
    assert pipelit.users.get("ann").role == "member"
    declared = ("  ann:\n", "  ann:\n    role: operator\n")
    assert apply(declared, dry_run=True) == ["changed person ann"]
    assert pipelit.users.get("ann").role == "member"
    assert apply(declared) == ["changed person ann"]
    assert apply(declared) == []
    assert apply() == []
    assert pipelit.users.get("ann").role == "operator"
    added = ("  ann:\n", "  zoe: {role: operator}\n  ann:\n    role: member\n")
    assert apply(added) == ["created person zoe", "changed person ann"]
    assert pipelit.users.get("zoe").role == "operator"


def test_an_owner_that_isnt_there_is_to_be_declared(apply: Apply) -> None:
    """Where it is named in the file, and once."""
    with pytest.raises(ConfigurationError) as error:
        apply(("owner: ann", "owner: alicee"))
    assert "agents.agent_boss.owner: there is no account 'alicee': declare it under people" in str(
        error.value
    )
    assert "users.create" not in str(error.value)


@pytest.mark.parametrize("path", [{}, None, b"accounts.yaml"], ids=["dict", "None", "bytes"])
def test_what_is_no_path_is_refused(pipelit: Pipelit, path: Any) -> None:
    """The content of a file isn't its path."""
    with pytest.raises(TypeError, match=r"^path must be the path of a YAML file, not"):
        pipelit.apply(path)


AS_A_NAME = {
    "env": (
        "{env: CRM_PASSWORD}",
        f"{{env: {SECRET}}}",
        r"fields\.password\.env: must be the",
    ),
    "variable": ("CRM_PASSWORD", f"ghp_{SECRET[8:] * 2}", r"\.env: has the form of a key"),
    "file": ("{env: CRM_PASSWORD}", f"{{file: {SECRET}}}", r"\.file: has the form of a key"),
    "unsure file": ("{env: CRM_PASSWORD}", "{file: hunter2-Zq81LmTc}", r"file: \(not repeated"),
    "field": ("password: {env: CRM", f"{SECRET}: {{env: NO", r"crm: fields\.…\.env: 'NO_PASSWORD'"),
    "credential": ("  crm:", f"  {SECRET}:", r"credentials\.…: "),
    "key": ("laptop:", f"{SECRET.lower()}:", r"people\.ann\.keys: has the form of a key"),
    "folder": ("secrets: keys", f"secrets: {SECRET}", "secrets: has the form of a key"),
    "tag": ("people:\n", f"x: !!bool {SECRET}\npeople:\n", "line 3: tags"),
    "own tag": ("people:\n", f"x: !{SECRET} x\npeople:\n", "line 3: tags"),
}


@pytest.mark.parametrize(("old", "new", "says"), AS_A_NAME.values(), ids=AS_A_NAME)
def test_a_secret_in_the_place_of_a_name_isnt_repeated(
    pipelit: Pipelit, file: Path, apply: Apply, old: str, new: str, says: str
) -> None:
    """Neither in an error nor as the name of a file; nothing is made."""
    before = everything(pipelit, file)
    with pytest.raises(ConfigurationError, match=says) as error:
        apply((old, new))
    for part in (SECRET[8:], SECRET[8:].lower(), "Zq81LmTc"):
        assert part not in str(error.value)
    assert everything(pipelit, file) == before


@pytest.mark.parametrize("path", ['"a\\0b"', '"\\ud800"', '""'], ids=["nul", "surrogate", "none"])
@pytest.mark.parametrize("field", ["file", "secrets"])
def test_a_path_that_cant_be_is_refused_by_its_field(apply: Apply, field: str, path: str) -> None:
    """The system's own error names neither."""
    old = {"file": "keys/agent_boss/server.key", "secrets": "keys\npeople"}[field]
    with pytest.raises(ConfigurationError, match=rf"{field}: must be a path of 1 to"):
        apply((old, path if field == "file" else f"{path}\npeople"))


def test_a_file_that_isnt_there_is_named(pipelit: Pipelit, tmp_path: Path) -> None:
    """With the reason of the system."""
    with pytest.raises(ConfigurationError, match=r"none\.yaml: can't be read"):
        pipelit.apply(tmp_path / "none.yaml")


# What gets lost


def test_a_key_whose_file_is_missing_is_replaced(
    pipelit: Pipelit, file: Path, apply: Apply
) -> None:
    """It is revoked, the new one works, and the credential that holds it is stored again."""
    apply()
    lost = secret(file, "agent_boss/server.key")
    (file.parent / "keys" / "agent_boss" / "server.key").unlink()
    assert apply() == [
        "issued API key agent_boss server",
        "revoked API key agent_boss server",
        "stored credential reader-server",
    ]
    with pytest.raises(AuthenticationError):
        pipelit.users.authenticate(lost)
    assert pipelit.users.authenticate(secret(file, "agent_boss/server.key"))
    assert sorted(living(pipelit, "agent_boss")) == ["cron", "server"]


@pytest.mark.parametrize("how", ["revoked", "expired"])
def test_a_key_that_isnt_good_any_more_is_replaced(
    pipelit: Pipelit, file: Path, apply: Apply, clock: Clock, how: str
) -> None:
    """Revoked, or expired by itself: there is one good key again."""
    apply()
    path = file.parent / "keys" / "ann" / "laptop.key"
    if how == "revoked":
        pipelit.users.revoke_api_key(path.read_text().split("_")[1])
    else:
        clock.advance(91 * 86_400)
    assert apply()[0] == "issued API key ann laptop"
    assert pipelit.users.authenticate(path.read_text()).username == "ann"
    now = datetime.fromtimestamp(clock(), UTC)
    found = [each for each in pipelit.users.list_api_keys("ann") if not each.revoked_at]
    assert len([each for each in found if each.expires_at and each.expires_at > now]) == 1


@pytest.mark.parametrize("how", ["another account's", "another database's", "damaged", "empty"])
@pytest.mark.parametrize("when", ["new", "there"])
def test_a_file_with_something_else_isnt_overwritten(
    pipelit: Pipelit, file: Path, apply: Apply, how: str, when: str
) -> None:
    """It may be the only copy of a key of another database, if the wrong one was named."""
    if when == "there":
        apply()
    path = file.parent / "keys" / "ann" / "laptop.key"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    alices = pipelit.users.issue_api_key("alice", name="k").api_key.get_secret_value()
    content = {
        "another account's": alices,
        "another database's": f"plit_{'0' * 12}_{'A' * 43}",
        "damaged": path.read_text()[:-1] if path.exists() else alices[:-1],
        "empty": "",
    }[how]
    path.write_text(content)
    before = everything(pipelit, file)
    with pytest.raises(ConfigurationError, match=r"people\.ann: keys\.laptop: .*move that file"):
        apply()
    assert path.read_text() == content
    assert everything(pipelit, file) == before


def test_a_uri_whose_file_is_missing_is_replaced_with_the_secret(
    pipelit: Pipelit, file: Path, apply: Apply
) -> None:
    """The lost one is no good any more; a file that has another secret is left to the operator."""
    apply()
    path = file.parent / "keys" / "agent_reader" / "provisioning.uri"
    lost = path.read_text()
    path.unlink()
    assert apply() == ["changed agent agent_reader", "written provisioning URI agent_reader"]
    assert path.read_text() != lost
    path.write_text(lost)
    with pytest.raises(ConfigurationError, match="another TOTP secret than the agent: move"):
        apply()


class Killed(BaseException):
    """Stands for the end of a process."""


@pytest.mark.parametrize("before", ["write", "publish"])
def test_a_process_that_is_killed_loses_nothing(
    pipelit: Pipelit, file: Path, apply: Apply, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    """Before the commit there is nothing; after it, the files that have no name yet are found."""

    def killed(_: SecretFolder) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(SecretFolder, before, killed)
        patch.setattr(SecretFolder, "discard", lambda _: None)
        with pytest.raises(Killed):
            apply()
    done = apply()
    if before == "write":
        assert "created person ann" in done
    else:
        assert [each for each in done if not each.startswith("written ")] == []
        assert len(done) == 4
    assert apply() == []
    for name in ("agent_boss/cron.key", "agent_boss/server.key", "ann/laptop.key"):
        assert pipelit.users.authenticate(secret(file, name))
    assert sorted(living(pipelit, "agent_boss")) == ["cron", "server"]
    assert not list((file.parent / "keys").rglob("*.new"))


def test_a_process_that_is_killed_while_it_writes_loses_nothing(
    pipelit: Pipelit, file: Path, apply: Apply, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are there whose keys never were: they are overwritten."""
    write = SecretFolder.write

    def killed(folder: SecretFolder) -> None:
        write(folder)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(SecretFolder, "write", killed)
        patch.setattr(SecretFolder, "discard", lambda _: None)
        with pytest.raises(Killed):
            apply()
    assert list((file.parent / "keys").rglob("*.new"))
    assert "created person ann" in apply()
    assert apply() == []
    assert pipelit.users.authenticate(secret(file, "ann/laptop.key"))


def test_an_application_that_fails_leaves_no_file(
    pipelit: Pipelit, file: Path, apply: Apply, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk changes nothing, neither there nor in the database."""
    before = everything(pipelit, file)
    (file.parent / "keys").mkdir(mode=0o700)
    (file.parent / "keys" / "agent_reader").touch()
    with pytest.raises(ConfigurationError, match="agent_reader"):
        apply()
    assert not [each for each in (file.parent / "keys").rglob("*") if each.suffix == ".new"]
    assert everything(pipelit, file)[0] == before[0]


def test_a_run_that_is_refused_keeps_what_was_left_over(
    pipelit: Pipelit, file: Path, apply: Apply
) -> None:
    """It is the only copy of a living key, which the run would have replaced."""
    apply()
    path = file.parent / "keys" / "agent_boss" / "cron.key"
    left = path.rename(f"{path}.new")
    with pytest.raises(ConfigurationError, match="'CRM_PASSWORD' isn't set"):
        apply(("2030-01-31", "2031-01-31"), environ={})
    assert pipelit.users.authenticate(left.read_text()).username == "agent_boss"
    assert apply() == ["written API key agent_boss cron"]
    assert not left.exists()


def test_the_folder_is_locked_until_the_files_have_their_names(
    pipelit: Pipelit, file: Path, apply: Apply, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run would take, or replace, what isn't its own; a dry run would tell of it."""
    fcntl = pytest.importorskip("fcntl")
    found: list[str] = []

    def is_locked() -> bool:
        descriptor = os.open(file.parent / "keys", os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def after(name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        def stepped(*args: Any) -> Any:
            result = step(*args)
            if is_locked():
                found.append(name)
            return result

        return stepped

    for name in ("read", "write", "publish"):
        monkeypatch.setattr(SecretFolder, name, after(name, getattr(SecretFolder, name)))
    apply()
    assert {"read", "write", "publish"} == set(found)
    assert not is_locked()
    found.clear()
    pipelit.apply(file, environ=ENVIRON, dry_run=True)
    assert set(found) == {"read"}
    assert not is_locked()


def test_a_file_that_is_gone_before_it_has_its_name_is_an_error(
    file: Path, apply: Apply, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its key is lost; the next run replaces it."""
    publish = SecretFolder.publish

    def emptied(folder: SecretFolder) -> None:
        next((file.parent / "keys" / "ann").glob("*.new")).unlink()
        publish(folder)

    with monkeypatch.context() as patch:
        patch.setattr(SecretFolder, "publish", emptied)
        with pytest.raises(ConfigurationError, match=r"laptop\.key: can't be written"):
            apply()
    assert "issued API key ann laptop" in apply()
    assert apply() == []


@pytest.mark.backends("sqlite", "postgres")
def test_two_that_apply_at_once_do_it_once(
    settings: dict[str, Any], pipelit: Pipelit, file: Path
) -> None:
    """One waits for the other, then finds it done; every file has the key that is good."""
    from conftest import Clock as Stopped

    def once(_: int) -> int:
        with Pipelit(**settings, clock=Stopped()) as mine:
            return len(mine.apply(file, environ=ENVIRON))

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(once, range(4)))
    assert max(done) == 9
    for name in ("agent_boss/cron.key", "agent_boss/server.key", "ann/laptop.key"):
        assert pipelit.users.authenticate(secret(file, name))
    assert sorted(living(pipelit, "agent_boss")) == ["cron", "server"]
    assert pipelit.apply(file, environ=ENVIRON) == []


# Who can read it


def test_a_file_that_others_can_read_is_closed(file: Path, apply: Apply) -> None:
    """It is said, too, as the key may be known."""
    apply()
    path = file.parent / "keys" / "ann" / "laptop.key"
    path.chmod(0o644)
    assert apply() == ["closed API key ann laptop"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_folder_that_others_can_write_is_refused(
    pipelit: Pipelit, file: Path, apply: Apply
) -> None:
    """Somebody could put a link there; nothing is made."""
    (file.parent / "keys").mkdir()
    (file.parent / "keys").chmod(0o777)
    with pytest.raises(ConfigurationError, match="other accounts can write to it: chmod 700"):
        apply()
    with pytest.raises(PipelitError):
        pipelit.users.get("ann")


@pytest.mark.parametrize("options", [{}, {"dry_run": True}], ids=["real", "dry"])
@pytest.mark.parametrize("name", ["keys", "keys/ann"])
@pytest.mark.parametrize("how", ["writable", "link", "file", "another's"])
def test_a_folder_that_isnt_private_is_refused_in_every_run(
    file: Path, apply: Apply, how: str, name: str, options: dict[str, bool]
) -> None:
    """The secrets folder and an account's, also when there is nothing to write."""
    if how == "another's" and not ROOT:
        pytest.skip("of root only")
    apply()
    folder = file.parent / name
    if how == "writable":
        folder.chmod(0o770)
    elif how == "another's":
        os.chown(folder, 1234, -1)
    else:
        folder.rename(file.parent / "elsewhere")
        if how == "link":
            folder.symlink_to(file.parent / "elsewhere")
        else:
            folder.touch()
    with pytest.raises(ConfigurationError, match=rf"{name}: (other acc|isn't a folder|belongs to)"):
        apply(**options)


def test_a_secret_that_was_left_over_open_is_closed(file: Path, apply: Apply) -> None:
    """Before it gets its name; it is said, as it may be known."""
    apply()
    path = file.parent / "keys" / "ann" / "laptop.key"
    path.chmod(0o644)
    path.rename(f"{path}.new")
    assert apply() == ["written API key ann laptop"]
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(not ROOT, reason="of root only")
@pytest.mark.parametrize("name", ["laptop.key", "laptop.key.new"])
def test_a_file_of_another_account_isnt_used(file: Path, apply: Apply, name: str) -> None:
    """Its owner can read and change it, whatever its mode is."""
    apply()
    path = file.parent / "keys" / "ann" / "laptop.key"
    path.rename(path.with_name(name))
    os.chown(path.with_name(name), 1234, -1)
    with pytest.raises(ConfigurationError, match=rf"{name}: belongs to another account"):
        apply()


@pytest.mark.parametrize("how", ["writable", "another's"])
def test_a_file_that_others_can_write_is_warned_of(pipelit: Pipelit, file: Path, how: str) -> None:
    """An account that writes to it gives itself rights."""
    file.write_text("people: {ann: }")
    if how == "writable":
        file.chmod(0o666)
    elif ROOT:
        os.chown(file, 1234, -1)
    else:
        pytest.skip("of root only")
    with pytest.warns(WritableFileWarning, match=r"accounts\.yaml: other accounts can write"):
        pipelit.apply(file, dry_run=True)


@pytest.mark.parametrize("name", ["laptop.key", "laptop.key.new"])
def test_a_link_in_the_place_of_a_file_isnt_followed(
    file: Path, apply: Apply, tmp_path: Path, name: str
) -> None:
    """Whatever it leads to stays as it is."""
    target = tmp_path / "target"
    target.write_text("kept")
    (file.parent / "keys" / "ann").mkdir(parents=True, mode=0o700)
    (file.parent / "keys" / "ann" / name).symlink_to(target)
    if name == "laptop.key":
        with pytest.raises(ConfigurationError, match="can't be read"):
            apply()
    else:
        apply()
        assert secret(file, "ann/laptop.key").startswith("plit_")
    assert target.read_text() == "kept"


@pytest.mark.slow
def test_no_secret_is_printed_or_logged(
    file: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The command prints names and files, as a table and as JSON, and exits as asked."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.chdir(tmp_path)
    for name in ("FIELD_ENCRYPTION_KEY", "PIPELIT_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CRM_PASSWORD", SECRET)
    assert typed("init").exit_code == 0
    options = (["--check"], [], ["--json"], ["--check"])
    results = [typed("apply", str(file), *words) for words in options]
    assert [each.exit_code for each in results] == [1, 0, 0, 0]
    assert json.loads(results[2].stdout) == []
    assert "Everything fits" in results[3].stdout
    secrets = [each.read_text() for each in (file.parent / "keys").rglob("*") if each.is_file()]
    assert len(secrets) == 4
    for each in results:
        for hidden in (SECRET, *(found[-40:] for found in secrets)):
            assert hidden not in each.output
            assert hidden not in caplog.text


def test_a_check_that_fails_differs_from_changes(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are exit code 1: changes are a table or a list, an error is elsewhere or an object."""
    monkeypatch.chdir(tmp_path)
    for name in ("FIELD_ENCRYPTION_KEY", "PIPELIT_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    assert typed("init").exit_code == 0
    file.write_text("people: {ann: }")
    would_change = typed("apply", str(file), "--check", "--json")
    assert (would_change.exit_code, len(json.loads(would_change.stdout))) == (1, 1)
    file.write_text(f"people: !!bool {SECRET}")
    failed = typed("apply", str(file), "--check", "--json")
    assert failed.exit_code == 1
    assert json.loads(failed.stdout)["error"]["type"] == "ConfigurationError"
    plain = typed("apply", str(file), "--check")
    assert (plain.exit_code, plain.stdout) == (1, "")
    assert plain.stderr.startswith("error: ")
    assert SECRET not in plain.output + failed.output
