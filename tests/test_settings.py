"""Where the settings come from, and how a key is added to an env file."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelit_agents import Keyring, Pipelit
from pipelit_agents.errors import ConfigurationError
from pipelit_agents.settings import DEFAULT_DATABASE_URL, Settings, add_key, ensure_key

# The same in each process that collects these tests.
KEY, OLDER = (
    base64.urlsafe_b64encode(hashlib.sha256(each).digest()).decode() for each in (b"new", b"old")
)
MOUNT = shutil.which("mount") or "mount"
UNMOUNT = shutil.which("umount") or "umount"
SETTINGS = ("FIELD_ENCRYPTION_KEY", "PIPELIT_DATABASE_URL", "PIPELIT_REDIS_URL")


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty folder, and none of the settings in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(f"{name}_FILE", raising=False)


def value(setting: str) -> str:
    """What a setting is, wherever it stands."""
    read = Settings.read()
    return {
        "FIELD_ENCRYPTION_KEY": read.field_encryption_key.get_secret_value(),
        "PIPELIT_DATABASE_URL": read.database_url,
        "PIPELIT_REDIS_URL": read.redis_url.get_secret_value(),
    }[setting]


@pytest.mark.parametrize("where", ["environment", ".env"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_each_setting_can_stand_in_a_file(
    setting: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Docker and Kubernetes mount secrets, also with the line's end that ``echo`` adds."""
    file = tmp_path / "secret"
    file.write_text(f"{KEY}\n")
    if where == ".env":
        (tmp_path / ".env").write_text(f"{setting}_FILE={file}\n")
    else:
        monkeypatch.setenv(f"{setting}_FILE", str(file))
    assert value(setting) == KEY


@pytest.mark.parametrize("where", ["environment", ".env"])
@pytest.mark.parametrize(
    "variable",
    [
        "DATABASE_URL",
        "database_url",
        "DATABASE_URL_FILE",
        "REDIS_URL",
        "redis_url",
        "REDIS_URL_FILE",
        "ENCRYPTION_KEY",
        "ENCRYPTION_KEYS",
        "encryption_keys",
    ],
)
def test_variables_of_the_host_application_are_not_read(
    variable: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the documented names set something, in whatever case others are written."""
    if where == ".env":
        (tmp_path / ".env").write_text(f"{variable}=postgresql://host/application\n")
    else:
        monkeypatch.setenv(variable, "postgresql://host/application")
    assert {each: value(each) for each in SETTINGS} == {
        "FIELD_ENCRYPTION_KEY": "",
        "PIPELIT_DATABASE_URL": DEFAULT_DATABASE_URL,
        "PIPELIT_REDIS_URL": "",
    }


@pytest.mark.parametrize("where", ["environment", ".env", "argument"])
def test_the_address_is_ours_beside_that_of_the_host_application(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is set, it wins over a DATABASE_URL in either place."""
    ours = f"sqlite:///{tmp_path}/ours.db"
    line = f"PIPELIT_DATABASE_URL={ours}\n" if where == ".env" else ""
    (tmp_path / ".env").write_text(f"{line}DATABASE_URL=sqlite:///application.db\n")
    monkeypatch.setenv("DATABASE_URL", "sqlite:///application.db")
    if where == "environment":
        monkeypatch.setenv("PIPELIT_DATABASE_URL", ours)
    argued = where == "argument"
    made = Pipelit(database_url=ours, encryption_keys=[KEY]) if argued else Pipelit.from_env()
    with made as pipelit:
        pipelit.create_schema()
    assert (tmp_path / "ours.db").is_file()
    assert not (tmp_path / "application.db").exists()


def test_the_environments_file_wins_over_the_env_files_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the environment says, in either form, hides what .env says, in either form."""
    (tmp_path / "secret").write_text(KEY)
    (tmp_path / ".env").write_text(f"FIELD_ENCRYPTION_KEY={OLDER}\n")
    monkeypatch.setenv("FIELD_ENCRYPTION_KEY_FILE", "secret")
    assert value("FIELD_ENCRYPTION_KEY") == KEY
    monkeypatch.delenv("FIELD_ENCRYPTION_KEY_FILE")
    (tmp_path / ".env").write_text("FIELD_ENCRYPTION_KEY_FILE=missing\n")
    monkeypatch.setenv("FIELD_ENCRYPTION_KEY", OLDER)
    assert value("FIELD_ENCRYPTION_KEY") == OLDER


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_value_and_a_file_at_once_are_refused(
    setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can tell which is meant; neither is repeated."""
    (tmp_path / "secret").write_text(KEY)
    monkeypatch.setenv(f"{setting}_FILE", "secret")
    monkeypatch.setenv(setting, OLDER)
    with pytest.raises(ConfigurationError, match=f"{setting} and {setting}_FILE") as caught:
        value(setting)
    assert KEY not in str(caught.value)
    assert OLDER not in str(caught.value)


def test_a_variable_that_is_set_to_nothing_hides_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compose file that passes an unset variable on makes an empty one."""
    (tmp_path / "secret").write_text(KEY)
    monkeypatch.setenv("FIELD_ENCRYPTION_KEY", "")
    monkeypatch.setenv("FIELD_ENCRYPTION_KEY_FILE", "secret")
    assert len(Settings.read().keyring()) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "No such file"), (b"", "is empty"), (b" \n", "is empty"), (b"\xff\xfe", "UTF-8")],
)
def test_a_file_that_gives_nothing_is_named(
    content: bytes | None, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No key is made in its place, and no default is used in its place."""
    if content is not None:
        (tmp_path / "secret").write_bytes(content)
    for setting in SETTINGS:
        monkeypatch.setenv(f"{setting}_FILE", "secret")
        with pytest.raises(ConfigurationError, match=f"{setting}_FILE names secret.*{words}"):
            Settings.read()
        monkeypatch.delenv(f"{setting}_FILE")


def _make_pipe(path: Path) -> None:
    os.mkfifo(path)


def _make_endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _make_huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 34)


@pytest.mark.skipif(os.name != "posix", reason="pipes and devices are files on POSIX only")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_make_pipe, "isn't a regular file"),
        (_make_endless, "isn't a regular file"),
        (_make_huge, "longer than a setting"),
        (Path.mkdir, "Is a directory"),
        (None, "null"),
    ],
    ids=["pipe", "endless", "huge", "folder", "no name"],
)
def test_a_file_without_an_end_is_refused(
    make: Callable[[Path], None] | None,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody waits for a pipe that nobody writes to, and no memory is filled."""
    path = tmp_path / "secret"
    if make is not None:
        make(path)
        monkeypatch.setenv("FIELD_ENCRYPTION_KEY_FILE", str(path))
    else:
        Path(".env").write_text("FIELD_ENCRYPTION_KEY_FILE=a\0b\n")
    with pytest.raises(ConfigurationError, match=f"FIELD_ENCRYPTION_KEY_FILE names .*{words}"):
        Settings.read()


def test_init_makes_no_second_key_beside_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key of the file is the key."""
    (tmp_path / "secret").write_text(KEY)
    monkeypatch.setenv("FIELD_ENCRYPTION_KEY_FILE", "secret")
    assert ensure_key(Path(".env")) is None
    assert not Path(".env").exists()


def test_keys_may_stand_on_lines_of_their_own() -> None:
    """Commas and line ends both separate them, newest first."""
    for text in (f"{KEY},{OLDER}", f"{KEY}\n{OLDER}\n", f"{KEY},\n{OLDER}", f" {KEY} {OLDER} "):
        keyring = Keyring.parse(text)
        assert len(keyring) == 2
        assert keyring.fingerprint() == Keyring(KEY).fingerprint()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f'"{KEY}"', "quotes"),
        (f"'{KEY}'", "quotes"),
        (KEY.rstrip("="), "lacks the ="),
        ("ab" * 32, "hexadecimal"),
        (KEY[:20], "this has 20"),
    ],
)
def test_a_key_in_another_form_is_told_what_it_is(text: str, words: str) -> None:
    """The cause is named, and not a character of the key is repeated."""
    with pytest.raises(ConfigurationError, match=words) as caught:
        Keyring.parse(text)
    assert text.strip("'\"")[:12] not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///agents.db\n",
        " sqlite:///agents.db",
        "'sqlite:///agents.db'",
        "sqlite:///agents\n.db",
        "postgresql+psycopg://pip:first@SECONDHALF@127.0.0.1:5432/db",
    ],
)
def test_an_address_that_would_be_misread_is_refused(url: str, tmp_path: Path) -> None:
    """No file with a line's end in its name is made, and no half of a password is shown."""
    with pytest.raises(ConfigurationError, match="PIPELIT_DATABASE_URL") as caught:
        Pipelit(database_url=url, encryption_keys=[KEY]).create_schema()
    assert "SECONDHALF" not in str(caught.value)
    assert "first" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_white_space_around_an_address_of_the_environment_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As it is around a key."""
    monkeypatch.setenv("PIPELIT_DATABASE_URL", "sqlite:///agents.db\n")
    monkeypatch.setenv("PIPELIT_REDIS_URL", " redis://127.0.0.1/0\n")
    assert value("PIPELIT_DATABASE_URL") == "sqlite:///agents.db"
    assert value("PIPELIT_REDIS_URL") == "redis://127.0.0.1/0"


def keys_of(text: str) -> list[str]:
    """The keys that an env file with this text gives."""
    Path(".env").write_text(text)
    return value("FIELD_ENCRYPTION_KEY").replace("\n", "").split(",")


@pytest.mark.parametrize(
    ("text", "old"),
    [
        (f"FIELD_ENCRYPTION_KEY={KEY}\n", [KEY]),
        (f"FIELD_ENCRYPTION_KEY={KEY}", [KEY]),
        (f"export FIELD_ENCRYPTION_KEY = '{KEY}'\n", [KEY]),
        (f'FIELD_ENCRYPTION_KEY="{KEY},\n{OLDER}"\n', [KEY, OLDER]),
        (f'FIELD_ENCRYPTION_KEY="{KEY}\n{OLDER}"\n', [KEY, OLDER]),
        (f"FIELD_ENCRYPTION_KEY={KEY},{OLDER} # the second since May\n", [KEY, OLDER]),
        (f"FIELD_ENCRYPTION_KEY={KEY}\r\n", [KEY]),
    ],
)
def test_a_key_is_added_before_all_that_were_there(text: str, old: list[str]) -> None:
    """However they were written, each of the old keys still counts, in its order."""
    others = "# first\nOTHER='a\nb'\n", "LAST=1\n" if text.endswith("\n") else ""
    Path(".env").write_bytes(f"{others[0]}{text}{others[1]}".encode())
    assert add_key(Path(".env")) == Path(".env").resolve()
    fresh, *rest = value("FIELD_ENCRYPTION_KEY").split(",")
    assert rest == old
    assert fresh not in old
    after = Path(".env").read_bytes().decode()
    assert after.startswith(others[0])
    assert after.endswith(others[1] or fresh + "," + ",".join(old) + "\n")
    assert ("since May" in after) == ("since May" in text)
    assert not Path(".env.new").exists()


def test_a_link_stays_a_link_and_its_file_gets_the_key(tmp_path: Path) -> None:
    """A deploy tool's ``current/.env`` is a link to a shared file, and that file is meant."""
    shared = tmp_path / "shared"
    shared.mkdir()
    file = shared / "env"
    file.write_text(f"FIELD_ENCRYPTION_KEY={KEY}\n")
    Path(".env").symlink_to(file)
    assert add_key(Path(".env")) == file
    assert Path(".env").is_symlink()
    assert file.read_text().endswith(f",{KEY}\n")
    assert sorted(each.name for each in tmp_path.iterdir()) == [".env", "shared"]
    assert [each.name for each in shared.iterdir()] == ["env"]


@pytest.mark.skipif(os.name != "posix", reason="POSIX has these modes")
@pytest.mark.parametrize("mode", [0o600, 0o640])
def test_who_may_read_the_file_stays(mode: int) -> None:
    """A service's group that could read it can read it afterwards, and nobody else."""
    Path(".env").write_text(f"FIELD_ENCRYPTION_KEY={KEY}\n")
    Path(".env").chmod(mode)
    add_key(Path(".env"))
    assert Path(".env").stat().st_mode & 0o777 == mode


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root, to mount and to give away"
)
def test_the_owner_stays() -> None:
    """Root that adds a key doesn't take the file from the service's account."""
    Path(".env").write_text(f"FIELD_ENCRYPTION_KEY={KEY}\n")
    os.chown(".env", 65534, 65534)
    add_key(Path(".env"))
    found = Path(".env").stat()
    assert (found.st_uid, found.st_gid) == (65534, 65534)


@pytest.mark.process
@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root, to mount and to give away"
)
def test_a_file_that_is_a_mount_of_its_own_is_written_in_place(tmp_path: Path) -> None:
    """As ``docker run -v ./.env:/app/.env`` has it: the host's file gets the key."""
    host = tmp_path / "host.env"
    host.write_text(f"FIELD_ENCRYPTION_KEY={KEY}\nLAST=1\n")
    Path(".env").touch()
    if subprocess.run([MOUNT, "--bind", host, ".env"], check=False, capture_output=True).returncode:
        pytest.skip("this container may not mount")
    try:
        add_key(Path(".env"))
    finally:
        subprocess.run([UNMOUNT, ".env"], check=True)
    assert host.read_text().endswith(f",{KEY}\nLAST=1\n")
    assert not Path(".env.new").exists()


@pytest.mark.parametrize(
    "text",
    [
        "OTHER=1\n",
        f"FIELD_ENCRYPTION_KEY={KEY}\nFIELD_ENCRYPTION_KEY={OLDER}\n",
        "FIELD_ENCRYPTION_KEY=\n",
        "FIELD_ENCRYPTION_KEY_FILE=secret\n",
    ],
)
def test_where_it_isnt_clear_which_key_is_meant_nothing_changes(text: str, tmp_path: Path) -> None:
    """No key, two lines, an empty one, or a file elsewhere: refused, and the file is as it was."""
    (tmp_path / "secret").write_text(KEY)
    Path(".env").write_text(text)
    with pytest.raises(ConfigurationError, match="FIELD_ENCRYPTION_KEY"):
        add_key(Path(".env"))
    assert Path(".env").read_text() == text


def test_a_file_of_the_environment_is_where_the_key_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command names the setting, and leaves .env alone."""
    Path(".env").write_text(f"FIELD_ENCRYPTION_KEY={KEY}\n")
    (tmp_path / "secret").write_text(OLDER)
    monkeypatch.setenv("FIELD_ENCRYPTION_KEY_FILE", "secret")
    with pytest.raises(ConfigurationError, match=r"FIELD_ENCRYPTION_KEY_FILE.*keys generate"):
        add_key(Path(".env"))
    assert Path(".env").read_text() == f"FIELD_ENCRYPTION_KEY={KEY}\n"


@pytest.mark.process
def test_a_killed_process_loses_no_key(tmp_path: Path) -> None:
    """Killed while it replaces the file, the old content is there, and the new one beside it."""
    Path(".env").write_text(f"FIELD_ENCRYPTION_KEY={KEY}\n")
    program = (
        "import os, signal; from pathlib import Path\n"
        "Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from pipelit_agents.settings import add_key; add_key(Path('.env'))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    assert keys_of(Path(".env").read_text()) == [KEY]
    assert keys_of(Path(".env.new").read_text())[1:] == [KEY]


UNREAD = "line 1 of .env can't be read"
ALMOST = "line 1 of .env sets a name that is almost"
DAMAGED = {
    "no sign": ("A=1\n\n{name} {value}\n", "line 3 of .env can't be read"),
    "a colon": ("{name}: {value}\n", UNREAD),
    "a colon without a space": ("{name}:{value}\n", UNREAD),
    "a colon and a sign": ("{name}:{value}=\n", UNREAD),
    "an open quote": ("{name}='{value}\nA=1\n", UNREAD),
    "within another's quotes": ('A="x\n\n{name}={value}\nB="y\n', "line 3 of .env is within"),
    "text after quotes": ('{name}="{value}" x\n', UNREAD),
    "words": ("{words}={value}\n", UNREAD),
    "no value": ("{name}\n", UNREAD),
    "one letter more": ("{name}S={value}\n", ALMOST),
    "one letter less": ("{less}={value}\n", ALMOST),
    "letters that changed places": ("{swapped}={value}\n", ALMOST),
    "dashes": ("{dashes}={value}\n", ALMOST),
    "a file's name": ("{name}_FILES=/run/x\n", ALMOST),
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("case", DAMAGED)
def test_a_line_that_was_meant_to_be_a_setting_is_refused(
    case: str, setting: str, tmp_path: Path
) -> None:
    """The default would be used otherwise, as another database; the line's value isn't repeated."""
    text, expected = DAMAGED[case]
    names = {
        "name": setting,
        "words": setting.lower().replace("_", " "),
        "less": setting[:2] + setting[3:],
        "swapped": setting[0] + setting[2] + setting[1] + setting[3:],
        "dashes": setting.replace("_", "-"),
    }
    (tmp_path / ".env").write_text(text.format(value=KEY, **names))
    with pytest.raises(ConfigurationError) as refused:
        Settings.read()
    assert expected in str(refused.value)
    assert setting in str(refused.value)
    assert KEY not in str(refused.value)
    with pytest.raises(ConfigurationError):
        ensure_key(tmp_path / ".env")
    assert (tmp_path / ".env").read_text() == text.format(value=KEY, **names)


def test_a_misspelt_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the environment too."""
    monkeypatch.setenv("PIPELIT_DATABASE_URI", "postgresql://db/x")
    with pytest.raises(ConfigurationError, match="sets PIPELIT_DATABASE_URI"):
        Settings.read()


OTHERS = {
    "a comment": "# {name}=x\n",
    "empty": "{name}=\n",
    "the application's": "DATABASE_URL=x\nREDIS_URL=x\nENCRYPTION_KEY=x\nSECRET_KEY=x\n",
    "a damaged line": "A damaged line\nKEY=x\n",
    "a longer name": "{name}_ID=x\n{name}_OLD=x\n{name}_V1=x\nOLD_{name}=x\nTEST_{name}=x\n",
    "another product": "PIPELINE_DATABASE_URL=x\nPIPELINE_REDIS_URL=x\n",
    "another key": "FILE_ENCRYPTION_KEY=x\nSHIELD_ENCRYPTION_KEY=x\nPIPELIT_REDIS_USER=x\n",
    "quotes over two lines": 'A="x\n y"\n',
}


@pytest.mark.parametrize("case", OTHERS)
@pytest.mark.parametrize("setting", SETTINGS)
def test_other_lines_are_nobodys_business(
    setting: str, case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Comments, empty settings, settings of the application, and its damaged lines."""
    text = OTHERS[case].format(name=setting)
    (tmp_path / ".env").write_text(text)
    assert Settings.read().database_url in ("", "sqlite:///.pipelit/agents.db")
    (tmp_path / ".env").unlink()
    for line in text.splitlines():
        name, sign, _ = line.partition("=")
        if sign and name.isidentifier() and name != setting:
            monkeypatch.setenv(name, "x")
    assert Settings.read().database_url == "sqlite:///.pipelit/agents.db"


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_similar_name_beside_the_setting_is_accepted(setting: str, tmp_path: Path) -> None:
    """An old value that was kept under another name, for example."""
    (tmp_path / ".env").write_text(f"{setting}={KEY}\n{setting}_OLD=x\n{setting} y\n")
    assert value(setting) == KEY
