"""What is around a deployment: files, git, the environment, addresses and ``langgraph.json``.

Each function looks and changes nothing. It returns what is wrong, one sentence for each thing,
and none of them repeats a value: a value may be the secret that is in the wrong place. No code of
the application is imported.
"""

from __future__ import annotations

import ast
import enum
import io
import ipaddress
import os
import re
import shutil
import socket
import stat
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from dotenv import dotenv_values

from pipelit_agents.credentials.leak_guard.parts import inner_parts
from pipelit_agents.credentials.leak_guard.recognition import (
    Level,
    Part,
    Verdict,
    is_generated,
    is_token,
    level_of,
    verdict,
)
from pipelit_agents.sealing.keyring import Keyring

__all__ = [
    "Distance",
    "Found",
    "auth_troubles",
    "clear_http",
    "clear_postgres",
    "clear_redis",
    "clear_traces",
    "distance_in_clear",
    "distance_of",
    "folder_troubles",
    "git_troubles",
    "header_troubles",
    "holds_secrets",
    "is_clear",
    "open_copies",
    "origin_troubles",
    "secrets_of_server",
    "webhook_troubles",
]

_FALSE: Final = frozenset({"0", "false", "no", "off", "n", "f"})
# Names that Docker, Podman and Kubernetes give within their own networks.
_CONTAINER_DOMAINS: Final = (
    ".docker.internal", ".containers.internal", ".svc", ".svc.cluster.local",
)  # fmt: skip
_YES: Final = frozenset({"1", "true", "yes", "on", "t", "y"})
_LARGEST_FILE: Final = 1_000_000
_MOST_FILES: Final = 500
_MOST_TRACKED: Final = 5_000
_ENV_FILE: Final = re.compile(r"(\A|[._-])env(rc)?(\Z|[._~-])", re.IGNORECASE)
_COMPOSE_FILE: Final = re.compile(r"(docker-|podman-)?compose([._-].*)?\.ya?ml", re.IGNORECASE)
# What git is asked to list of both: the names are looked at again.
_NAMES: Final = (":(icase)*env*", ":(icase)*compose*ml")
_NO_ENV_FILE: Final = (".py", ".md", ".rst", ".html")
_GIT_PATIENCE: Final = 10.0
_MOST_VERSIONS: Final = 1_000
_LARGEST_VERSION: Final = 30_000
# A line of `git log --raw`: modes, objects before and after, what was done.
_RAW: Final = re.compile(r":(\d+) (\d+) ([0-9a-f]+) ([0-9a-f]+) [A-Z]\d*")
_FILE_MODE: Final = "100"
_HTTP: Final = re.compile(r"http://[^\s\"',}\\]*", re.IGNORECASE)

# Names of settings

_NO_SECRET: Final = re.compile(r"(\A|_)(PUBLIC|PUBLISHABLE|ANON)_", re.IGNORECASE)
# Something that says where a secret is, or that there is none yet.
_REFERENCE: Final = re.compile(
    r"\$\{?[A-Za-z_]\w*(:?[-?][^}]*)?\}?|\$\(.*|`.*|<[^>]*>|\{\{.*\}\}|(arn:|vault:|op://|secret://|projects/).*"
    r"|.*(change[-_ ]?me|your[-_ ]|example|placeholder|replace|todo|xxx|\.\.\.|…).*"
    r"|true|false|yes|no|on|off|none|null|[0-9]{0,5}|\*+",
    re.IGNORECASE,
)
_TELLING: Final = re.compile(
    r"(?<![\w-])(plit_[A-Za-z0-9]+_[\w-]{43}|sk-[\w-]{16,}|gh[pousr]_\w{30,}|github_pat_\w{30,}"
    r"|xox[abprs]-[\w-]{10,}|tvly-[\w-]{16,}|AKIA[A-Z0-9]{16}|lsv2_(pt|sk)_\w{20,}|AIza[\w-]{30,}"
    r"|[A-Za-z0-9_-]{43}=)(?![\w=-])|-----BEGIN [A-Z ]*PRIVATE KEY-----"
    r"|hooks\.slack\.com/(services|workflows|triggers)/\w+/\w+/\w{8,}"
    r"|discord(app)?\.com/api/webhooks/\d+/[\w-]{20,}"
)
_AUTH_SCHEME: Final = re.compile(r"\A(bearer|basic|token)\s+", re.IGNORECASE)
# Of a command: NAME=value, --option value, -u user:password.
_PAIRS: Final = re.compile(r"(?<!-)\b([A-Za-z_]\w*)=(\"[^\"]*\"|'[^']*'|\$\([^)]*\)|\S+)")
_OPTIONS: Final = re.compile(
    r"(?<!\S)--?(?!recv-key)([A-Za-z][\w-]+)[ =](\"[^\"]*\"|'[^']*'|[^\s-]\S*)"
)
_LOGINS: Final = re.compile(r"(?<!\S)(?:-u|--user)[ =]?[\"']?[^\s:\"']+:([^\s\"']+)")
# What names a version of a model or of an image.
_REVISION: Final = re.compile(r"(.*@)?(sha(256|512):)?([0-9a-f]{40}|[0-9a-f]{64})", re.IGNORECASE)
# A file of a package index, the archive of a commit.
_HASH: Final = re.compile(r"[0-9a-fA-F]{40,}(\.\w+)*")
_TRACING: Final = re.compile(
    r"(LANGSMITH|LANGCHAIN|OTEL_EXPORTER|OTLP|LANGFUSE|PHOENIX|SENTRY|LOGFIRE|MLFLOW|OPIK|ARIZE"
    r"|HELICONE|TRACELOOP|TRACING|TRACES|(\A|_)TRACE_|JAEGER|ZIPKIN|WANDB|WEAVE|DATADOG|(\A|_)DD_"
    r"|ELASTIC_APM|NEW_RELIC|HONEYCOMB|BRAINTRUST|COMET|LANGTRACE|LUNARY|GALILEO|SPLUNK)",
    re.IGNORECASE,
)

# Origins

# One label that nobody would mean, under what anyone can have a name in.
_OPEN_DOMAINS: Final = (
    "com", "net", "org", "io", "dev", "app", "ai", "co", "info", "biz", "xyz", "me", "cloud",
    "site", "online", "eu", "de", "uk", "us", "co.uk", "com.au", "vercel.app", "netlify.app",
    "pages.dev",
    "workers.dev", "github.io", "gitlab.io", "web.app", "firebaseapp.com", "herokuapp.com",
    "onrender.com", "fly.dev", "azurewebsites.net", "azurestaticapps.net", "cloudfront.net",
    "amplifyapp.com", "ngrok.io", "ngrok.app", "ngrok-free.app", "trycloudflare.com", "surge.sh",
)  # fmt: skip
_STRANGERS: Final = ("https://zq7.invalid", *(f"https://zq7.{each}" for each in _OPEN_DOMAINS))
# The second labels under which countries give names away: co.jp, com.br.
_SECOND_LABELS: Final = frozenset(
    {"ac", "co", "com", "edu", "go", "gob", "gov", "ne", "net", "or", "org"}
)
# Nobody can register a name under these.
_PRIVATE_DOMAINS: Final = frozenset(
    {"corp", "home", "internal", "lan", "local", "localhost", "test"}
)
_HOST: Final = re.compile(r"[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*")
# What in a pattern isn't a literal: classes, quantifiers, flags, escapes and dots that repeat.
_NO_LITERAL: Final = re.compile(
    r"\[\^?\]?[^\]]*\]|\{[0-9,]*\}|\(\?(?:P?<\w+>|[a-zA-Z]+[:)]|[:=!]|<[=!])|\\[A-Za-z0-9]|\.[*+?{]"
)
_MOST_LITERALS: Final = 20
_BARE_DOT: Final = re.compile(r"(?<!\\)\.(?![*+?{])")

_OUR_AUTH: Final = "pipelit_agents.server"
_OURS: Final = '"path": "pipelit_agents.server:auth"'


# Hosts


class Distance(enum.IntEnum):
    """How far away a host is."""

    HERE = 0
    """On this machine."""
    UNKNOWN = 1
    """A name without a dot: a service of Docker Compose, a machine of the same network."""
    ELSEWHERE = 2
    """On another machine."""


def distance_of(host: str | None) -> Distance:
    """How far away a host is, as far as its name says it."""
    name = unquote(host or "").strip("[]").rstrip(".").lower()
    # A path is a Unix socket, and nothing at all is the driver's default: one too.
    if not name or name.startswith(("/", "@")) or name == "localhost":
        return Distance.HERE
    if name.endswith(".localhost"):
        return Distance.HERE
    try:
        # 127.1, 0x7f000001
        short = (
            socket.inet_aton(name) if re.fullmatch(r"[0-9a-fx.]*[0-9][0-9a-fx.]*", name) else b""
        )
    except OSError:
        short = b""
    try:
        loopback = ipaddress.ip_address(short or name).is_loopback
    except ValueError:
        near = "." not in name or name.endswith(_CONTAINER_DOMAINS)
        return Distance.UNKNOWN if near else Distance.ELSEWHERE
    return Distance.HERE if loopback else Distance.ELSEWHERE


def distance_in_clear(value: str) -> Distance:
    """How far HTTP without TLS goes to the addresses in a value; ``HERE`` where there is none."""
    return max((_distance(each[0]) for each in _HTTP.finditer(value)), default=Distance.HERE)


def is_clear(value: str) -> bool:
    """Whether a value names an address, not of this machine, that is reached without TLS."""
    return distance_in_clear(value) > Distance.HERE


def _distance(url: str) -> Distance:
    try:
        return distance_of(urlsplit(url).hostname or "host.unknown")
    except ValueError:
        return Distance.ELSEWHERE


class Found(NamedTuple):
    """What was found at the addresses of servers.

    Attributes:
        troubles: What is wrong.
        notes: What is wrong unless the host is on this machine, or in a private network.
    """

    troubles: list[str]
    notes: list[str]

    def add(self, far: Distance, what: str) -> None:
        """Take up what is wrong at an address that is so far away."""
        if far is Distance.ELSEWHERE:
            self.troubles.append(what)
        elif far is Distance.UNKNOWN:
            self.notes.append(what.replace(" reaches ", " may reach "))


def clear_http(environ: Mapping[str, str]) -> Found:
    """The settings that name addresses that are reached over HTTP without TLS."""
    found = Found([], [])
    for name, value in sorted(environ.items()):
        found.add(distance_in_clear(value), name)
    return found


def clear_traces(environ: Mapping[str, str]) -> Found:
    """The settings that send traces, and with them states and prompts, without TLS."""
    found = clear_http({name: each for name, each in environ.items() if _TRACING.search(name)})
    for name, value in sorted(environ.items()):
        if re.fullmatch(r"OTEL_EXPORTER_OTLP(_\w+)?_INSECURE", name) and _is_yes(value):
            endpoint = name.removesuffix("INSECURE") + "ENDPOINT"
            # gRPC names a host and a port without a scheme.
            host = environ.get(endpoint, environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", ""))
            if "://" not in host and host:
                found.add(distance_of(host.rpartition(":")[0] or host), name)
    return found


def clear_redis(addresses: Mapping[str, str]) -> Found:
    """What is wrong with the addresses of Redis servers, by the name of the setting."""
    found = Found([], [])
    for name, address in sorted(addresses.items()):
        scheme, _, rest = address.strip().partition("://")
        scheme = re.split(r"[+-]", scheme.lower())[0].replace("valkey", "redis")
        if scheme not in ("redis", "rediss"):
            continue
        netloc, _, query = re.split(r"[/?#]", rest, maxsplit=1)[0], "", rest.partition("?")[2]
        hosts = [_host_of(each) for each in netloc.rpartition("@")[2].split(",")]
        far, options = max(map(distance_of, hosts)), parse_qs(query)
        checked = (options.get("ssl_cert_reqs") or [""])[-1].lower().removeprefix("cert_")
        if scheme == "redis":
            found.add(far, f"{name} reaches another machine without TLS")
        elif checked in ("none", "optional", "0", "1"):
            found.add(far, f"{name} doesn't check the server's certificate")
        elif (options.get("ssl_check_hostname") or [""])[-1].lower() in _FALSE:
            found.add(far, f"{name} doesn't check that the server's certificate has its name")
    return found


def clear_postgres(addresses: Mapping[str, str], environ: Mapping[str, str]) -> Found:
    """What is wrong with the addresses of PostgreSQL servers, by the name of the setting."""
    found = Found([], [])
    for name, address in sorted(addresses.items()):
        scheme, _, rest = address.strip().partition("://")
        if scheme.lower().partition("+")[0] not in ("postgresql", "postgres"):
            continue
        query = parse_qs(rest.partition("?")[2])
        netloc = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")[2]
        named = query.get("hostaddr") or query.get("host") or [netloc]
        hosts = [_host_of(each) for part in named for each in part.split(",")]
        hosts = [each or environ.get("PGHOST", "") for each in hosts]
        modes = query.get("sslmode") or query.get("ssl") or [environ.get("PGSSLMODE", "")]
        if modes[-1].lower() not in ("require", "verify-ca", "verify-full", "true"):
            said = f"sslmode={modes[-1]}" if modes[-1].isalpha() else "no sslmode"
            found.add(max(map(distance_of, hosts)), f"{name} reaches another machine with {said}")
    return found


def _host_of(text: str) -> str:
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text if text.count(":") > 1 else text.partition(":")[0]


def _is_yes(value: str) -> bool:
    return value.strip().lower() in _YES


# Files


def folder_troubles(folders: Iterable[Path]) -> list[str]:
    """The folders in which other accounts may put or replace files."""
    found = []
    for folder in dict.fromkeys(folders):
        try:
            state = folder.stat()
        except OSError:
            continue
        if os.name != "posix":
            return []
        if state.st_mode & stat.S_IWOTH or (state.st_mode & stat.S_IWGRP and _is_shared(state)):
            found.append(f"{folder} ({stat.filemode(state.st_mode)})")
    return found


def _is_shared(state: os.stat_result) -> bool:
    """Whether a group is more than its owner's own one, as many systems make for each account."""
    import grp
    import pwd

    try:
        group, owner = grp.getgrgid(state.st_gid), pwd.getpwuid(state.st_uid)
    except KeyError:
        return True
    return group.gr_name != owner.pw_name or any(each != owner.pw_name for each in group.gr_mem)


def _small_files(folder: Path) -> Iterator[Path]:
    try:
        found = sorted(folder.iterdir())
    except OSError:
        return
    yield from filter(_is_small, found[:_MOST_FILES])


def _is_small(path: Path) -> bool:
    try:
        return path.is_file() and path.stat().st_size <= _LARGEST_FILE
    except OSError:
        return False


def holds_secrets(path: Path, keyring: Keyring | None) -> bool:
    """Whether a file holds one of the keys, or is an env file that sets a secret."""
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return _is_with_secrets(path, content, keyring)


def _is_env_file(path: Path) -> bool:
    return bool(_ENV_FILE.search(path.name)) and path.suffix not in _NO_ENV_FILE


def _is_with_secrets(path: Path, content: bytes, keyring: Keyring | None) -> bool:
    if keyring is not None and keyring.is_in(content):
        return True
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return False
    if _COMPOSE_FILE.fullmatch(path.name):
        # A password of one word is an image's default, for a developer's own machine.
        found = filter(_is_meant, inner_parts(text))
        return _has_password(text) or any(
            isinstance(each.value, bytes) or not re.fullmatch("[a-z]+", each.value)
            for each in found
        )
    if not _is_env_file(path):
        return False
    values = dotenv_values(stream=io.StringIO(text), interpolate=False)
    return any(_is_secret(name, value or "") for name, value in values.items())


def _is_looked_into(path: Path) -> bool:
    return _is_env_file(path) or _COMPOSE_FILE.fullmatch(path.name) is not None


def _secret_files(folder: Path, keyring: Keyring | None) -> list[Path]:
    return [path for path in _small_files(folder) if holds_secrets(path, keyring)]


def _secret_files_below(folder: Path, keyring: Keyring | None) -> list[Path]:
    """The env files with secrets, in any folder of the repository, that git has or would take."""
    top, git = _top_of(folder), shutil.which("git")
    if top is None or git is None:
        return []
    asked = ("ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", *_NAMES)
    listed = (_ask_git(git, top, *asked) or "").split("\0")
    files = [top / each for each in dict.fromkeys(listed) if _is_looked_into(Path(each))]
    return [path for path in filter(_is_small, files[:_MOST_FILES]) if holds_secrets(path, keyring)]


def _top_of(folder: Path) -> Path | None:
    return next((each for each in (folder, *folder.parents) if (each / ".git").exists()), None)


def _is_mounted(path: Path) -> bool:
    """Whether Docker or Kubernetes has put a file there, where no other account is."""
    return path.resolve().is_relative_to("/run/secrets") or (path.parent / "..data").is_symlink()


def open_copies(
    folder: Path, keyring: Keyring | None, named: Sequence[Path] = ()
) -> tuple[int, list[str]]:
    """The files with secrets beside ``.env`` that other accounts may read.

    Args:
        folder: Where ``.env`` is.
        keyring: Whose keys to look for.
        named: Files that settings name as ones with secrets.

    Returns:
        How many files with secrets there are beside it, and the open ones of them.
    """
    named = [each for each in named if each.is_file() and not _is_mounted(each)]
    below = _secret_files_below(folder, keyring)
    found = dict.fromkeys([*_secret_files(folder, keyring), *named, *below])
    found.pop(folder / ".env", None)
    wide = []
    for path in found:
        mode = path.stat().st_mode
        if os.name == "posix" and mode & 0o077:
            wide.append(f"{path} ({stat.filemode(mode)})")
    return len(found), wide


def git_troubles(
    folder: Path, keyring: Keyring | None, others: Sequence[Path] = ()
) -> list[str] | None:
    """The files with secrets that git has, had, or would take.

    Args:
        folder: Where to look.
        keyring: Whose keys to look for.
        others: Files and folders to look at too: the database.

    Returns:
        What is wrong; None where the folder is in no repository.
    """
    top = _top_of(folder)
    if top is None:
        return None
    git = shutil.which("git")
    listed = _ask_git(git, top, "ls-files", "-z") if git else None
    tracked_files = [top / each for each in (listed or "").split("\0")[:_MOST_TRACKED] if each]
    secret = [path for path in filter(_is_small, tracked_files) if holds_secrets(path, keyring)]
    # .env also when the file is gone: it may be in the history.
    beside = [*_secret_files(folder, keyring), *_secret_files_below(folder, keyring)]
    wanted = dict.fromkeys([folder / ".env", *beside, *secret, *map(_absolute, others)])
    inside = [each for each in wanted if each.is_relative_to(top)]
    if git is None:
        kept = [str(each) for each in inside if each.exists()]
        return ["git isn't installed here, so it can't be asked"] if kept else []
    found = []
    for path in inside:
        name = os.path.relpath(path, folder)
        tracked, history, ignored = (
            _ask_git(git, folder, "ls-files", "--", name),
            _ask_git(git, folder, "log", "--all", "-1", "--format=%H", "--", name),
            _ask_git(git, folder, "check-ignore", "--no-index", "--", name),
        )
        if None in (tracked, history, ignored):
            return [f"git can't be asked about {name}: see what `git status` says there"]
        if tracked:
            found.append(f"{name} is in git")
        elif history:
            found.append(f"{name} is in git's history")
        elif not ignored and path.exists():
            found.append(f"git would take {name}")
    earlier = _earlier_secrets(git, top, keyring)
    if earlier is None:
        found.append("git can't list the files of earlier commits: see git log --all --name-only")
    for path in earlier or ():
        name = os.path.relpath(path, folder)
        if path not in inside:
            found.append(f"{name} is in git's history")
    return found


def _absolute(path: Path) -> Path:
    # The last part stays: of a link git has the link.
    return path.parent.resolve() / path.name


def _earlier_secrets(git: str, top: Path, keyring: Keyring | None) -> list[Path] | None:
    """The env and Compose files of which a commit, branch or stash has a version with a secret.

    Returns:
        Their paths, whether they still exist or not; None if git can't be asked.
    """
    listed = _ask_git(
        git, top, "log", "--all", "--no-renames", "--raw", "--no-abbrev", "--format=", "-z",
        "--", *_NAMES,
    )  # fmt: skip
    if listed is None:
        return None
    versions: dict[tuple[Path, str], None] = {}
    words = iter(listed.split("\0"))
    for word in words:
        if raw := _RAW.fullmatch(word.strip()):
            path = top / next(words, "")
            # A shallow copy begins in the middle, so the object before a change counts too.
            for mode, version in zip(raw.groups()[:2], raw.groups()[2:], strict=True):
                if mode.startswith(_FILE_MODE) and _is_looked_into(path):
                    versions[path, version] = None
    asked = list(versions)[:_MOST_VERSIONS]
    contents = _contents(git, top, [version for _, version in asked])
    secret = [
        path
        for path, version in asked
        # A version that isn't in this copy can't be looked at, and may hold anything.
        if version not in contents or _is_with_secrets(path, contents[version], keyring)
    ]
    return list(dict.fromkeys(secret))


def _contents(git: str, top: Path, versions: Sequence[str]) -> dict[str, bytes]:
    """The small ones of git's objects."""
    sizes = _ask_git(git, top, "cat-file", "--batch-check", said="\n".join(versions)) or ""
    rows = [row.split() for row in sizes.splitlines()]
    # A large file is no env file.
    found = {row[0]: b"" for row in rows if row[1:2] == ["blob"]}
    small = [row[0] for row in rows if row[0] in found and int(row[2]) <= _LARGEST_VERSION]
    rest = _asked_git(git, top, "cat-file", "--batch", said="\n".join(small)) or b""
    while rest:
        head, _, rest = rest.partition(b"\n")
        name, _, size = head.decode("ascii", "replace").split()
        found[name], rest = rest[: int(size)], rest[int(size) + 1 :]
    return found


def _ask_git(git: str, folder: Path, *words: str, said: str = "") -> str | None:
    done = _asked_git(git, folder, *words, said=said)
    return None if done is None else done.decode("utf-8", "replace").strip()


def _asked_git(git: str, folder: Path, *words: str, said: str = "") -> bytes | None:
    # A repository's own configuration could name programs to run.
    settings = (
        "core.fsmonitor=false", "core.hooksPath=/dev/null", "core.pager=cat",
        "log.showSignature=false",
    )  # fmt: skip
    options = [option for each in settings for option in ("-c", each)]
    magic = words[0] == "check-ignore" or words[-1].startswith(":(")
    literal = [] if magic else ["--literal-pathspecs"]
    ours = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(  # noqa: S603 - its own words, and the names of files
            [git, "--no-pager", *options, *literal, *words],
            cwd=folder,
            env={**ours, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
            # What a partial copy lacks isn't fetched; an older git knows only the second.
            | {"GIT_NO_LAZY_FETCH": "1", "GIT_ALLOW_PROTOCOL": "none"},
            input=said.encode(),
            capture_output=True,
            timeout=_GIT_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    # 1 is check-ignore's way of saying that nothing is ignored.
    if done.returncode not in (0, 1):
        return None
    return done.stdout


# langgraph.json


def _is_secret(name: str, value: str) -> bool:
    """Whether a setting is a secret, or has one within its value."""
    value = value.strip().strip("\"'")
    if not value or (_is_reference(value) and not re.search(r"[\s;=]|://", value)):
        return False
    if _holds(value):
        return True
    if _is_reference(value) or _NO_SECRET.search(name):
        return False
    level = level_of(name)
    if level is Level.UNKNOWN and not _is_generated(value):
        return False
    return verdict(Part("", value, level)) is not Verdict.PUBLIC


def _is_reference(value: str) -> bool:
    return _REFERENCE.fullmatch(_AUTH_SCHEME.sub("", value)) is not None


def _is_generated(word: str) -> bool:
    """Whether one word looks like a key, and not like the name of a version."""
    return (
        re.fullmatch(r"[\w+/=.~-]+", word) is not None
        and not _REVISION.fullmatch(word)
        and is_generated(word)
    )


def _holds(text: str) -> bool:
    """Whether a text has a secret in it, by its form or by the names in it."""
    return (
        _TELLING.search(text) is not None
        or _has_password(text)
        or any(is_token(word) for word in re.split(r"[\s\"'=,;<>()]+", text))
        or any(map(_is_meant, inner_parts(text)))
    )


def _is_meant(part: Part) -> bool:
    value = part.value
    if isinstance(value, bytes):
        return True
    # Lines without a name may be anything.
    unnamed = part.level <= Level.UNKNOWN or re.search(r"(\A|\.)line \d+\Z", part.path)
    if _is_reference(value) or (unnamed and not is_token(value)):
        return False
    if re.fullmatch(r"(.*\.)?path", part.path) and _HASH.fullmatch(value):
        return False
    if part.level < Level.SECRET:
        return verdict(part) is Verdict.SEARCHED and not _REVISION.fullmatch(value)
    return verdict(part) in (Verdict.SEARCHED, Verdict.SHORT)


def _has_password(value: str) -> bool:
    for found in re.finditer(r"[A-Za-z][\w+.-]*://[^\s/?#\"']*@", value):
        login = found[0].partition("://")[2][:-1]
        secret = login.partition(":")[2]
        if secret and not _REFERENCE.fullmatch(secret):
            return True
    return False


def secrets_of_server(served: Mapping[str, Any]) -> list[str]:
    """Where ``langgraph.json`` holds a secret."""
    found = []
    env = served.get("env")
    if isinstance(env, dict):
        secret = [name for name, value in env.items() if _is_secret(str(name), str(value))]
        found += [f"env.{name}" for name in secret]
    lines = served.get("dockerfile_lines")
    for line in lines if isinstance(lines, list) else []:
        found += [f"dockerfile_lines: {each}" for each in _secrets_of_a_command(str(line))]
    for key, text in _texts(served, ""):
        inside = key.startswith(("env.", "dockerfile_lines"))
        if not inside and _holds(text):
            found.append(key)
    return list(dict.fromkeys(found))


def _secrets_of_a_command(line: str) -> list[str]:
    """What a line of a Dockerfile holds: names of settings and options, or its instruction."""
    line = line.replace("\\n", "\n").strip()
    named = _PAIRS.findall(line)
    # ENV NAME value
    named += re.findall(r"\A(?:ENV|ARG)\s+(\w+)\s+([^\s=].*)", line, re.IGNORECASE)
    named += _OPTIONS.findall(line)
    found = [name for name, value in named if _is_secret(name, value)]
    if re.search(r"\b(curl|wget|https?)\b", line):
        logins = _LOGINS.findall(line)
        found += ["--user"] * any(not _is_reference(each) for each in logins)
    if found:
        return found
    rest = _PAIRS.sub(" ", line)
    # A command is in quotes where it is within another.
    pieces = [rest, *re.findall(r"[\"']([^\"']*)[\"']", rest)]
    words = re.split(r"[\s\"':,;|&]+", rest)
    if any(map(_holds, pieces)) or any("/" not in each and _is_drawn(each) for each in words):
        return [line.split()[0].upper()[:10]]
    return []


def _is_drawn(word: str) -> bool:
    is_hash = re.fullmatch(r"[0-9a-fA-F]+|sha\d+[-:].*", word)
    return not is_hash and not _is_reference(word) and _is_generated(word)


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, each in value.items():
            yield from _texts(each, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each, key)


def auth_troubles(
    folder: Path, auth: Mapping[str, Any], http: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """What lets a request in without an API key, each with its fix."""
    path, found = auth.get("path"), []
    if not path:
        whole = '"auth": {"path": "pipelit_agents.server:auth", "disable_studio_auth": true}'
        found.append(("langgraph.json asks for no API key", whole))
    elif trouble := _not_ours(folder, str(path)):
        found.append((f"auth.path names {path}, and {trouble}", _OURS))
    if path and auth.get("disable_studio_auth") is not True:
        found.append(("Studio's scheme goes around the API key", '"disable_studio_auth": true'))
    if auth.get("allow_langsmith_api_keys"):
        found.append(("LangSmith's API keys are accepted too", '"allow_langsmith_api_keys": false'))
    if path and http.get("disable_meta") is not True:
        meta = '"http": {"disable_meta": true}'
        found.append(("/info, /metrics and /docs ask for no key", meta))
    open_routes = http.get("enable_custom_route_auth") is not True
    if open_routes and (http.get("app") or "enable_custom_route_auth" in http):
        routes = '"http": {"enable_custom_route_auth": true}'
        found.append(("the routes of http.app ask for no key", routes))
    return found


def _not_ours(folder: Path, path: str) -> str:
    """What keeps an ``auth.path`` from being an authentication of ours; nothing if it is one."""
    where, colon, name = path.rpartition(":")
    if not colon or not name:
        return "that names no object: module:name or ./file.py:name"
    if where == _OUR_AUTH:
        return "" if name == "auth" else f"{_OUR_AUTH} has no {name} for it"
    found = _file_of(folder, where)
    if found is None:
        return "that file isn't here"
    try:
        tree = ast.parse(found.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return "that file can't be read as Python"
    if _is_of_ours(tree, name):
        return ""
    return (
        f"{name} there isn't made by {_OUR_AUTH}.make_auth: whom it lets in isn't known here, and "
        "this package's accounts, keys and limits aren't asked"
    )


def _file_of(folder: Path, where: str) -> Path | None:
    if where.endswith(".py") or "/" in where or "\\" in where:
        candidates = [folder / where]
    else:
        parts = where.split(".")
        roots = [folder, folder / "src"]
        candidates = [root.joinpath(*parts).with_suffix(".py") for root in roots]
        candidates += [root.joinpath(*parts, "__init__.py") for root in roots]
    return next((each for each in candidates if each.is_file()), None)


def _is_of_ours(tree: ast.Module, name: str) -> bool:
    """Whether a module's name is bound to ``auth`` or ``make_auth(…)`` of our server module."""
    # What our names are called in this module, and whether what was bound last is of ours.
    ours: dict[str, str] = {}
    bound = False
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            for each in node.names:
                kept = each.asname or each.name
                whole = f"{node.module}.{each.name}"
                ours.pop(kept, None)
                if node.level == 0 and whole.startswith("pipelit_agents"):
                    ours[kept] = whole
                if kept == name:
                    bound = ours.get(kept) == f"{_OUR_AUTH}.auth"
        elif isinstance(node, ast.Import):
            for each in node.names:
                if each.name.partition(".")[0] == "pipelit_agents":
                    kept = each.asname or "pipelit_agents"
                    ours[kept] = each.name if each.asname else kept
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(each, ast.Name) and each.id == name for each in targets):
                value = node.value.func if isinstance(node.value, ast.Call) else node.value
                wanted = "make_auth" if isinstance(node.value, ast.Call) else "auth"
                bound = _dotted(value, ours) == f"{_OUR_AUTH}.{wanted}"
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound = bound and node.name != name
    return bound


def _dotted(node: ast.AST | None, ours: Mapping[str, str]) -> str:
    if isinstance(node, ast.Name):
        return ours.get(node.id, "")
    if isinstance(node, ast.Attribute):
        before = _dotted(node.value, ours)
        return f"{before}.{node.attr}" if before else ""
    return ""


def origin_troubles(cors: Mapping[str, Any]) -> list[str]:
    """Which sites a CORS configuration lets in that nobody would mean."""
    found = []
    origins, pattern = cors.get("allow_origins"), cors.get("allow_origin_regex")
    listed = [origins] if isinstance(origins, str) else origins
    listed = listed if isinstance(listed, list) else [] if listed is None else ["*"]
    if any("*" in str(each) for each in listed):
        found.append("lets every site in")
    if any(str(each).strip().lower() == "null" for each in listed):
        found.append('lets "null" in, which is every sandboxed page and local file')
    if any(is_clear(str(each)) for each in listed):
        found.append("lets a site without TLS in")
    if pattern:
        found += _wide_pattern(pattern)
    if found and cors.get("allow_credentials") is True:
        found.append("and browsers may send cookies and keys along")
    return found


def _wide_pattern(pattern: object) -> list[str]:
    try:
        origins = re.compile(str(pattern))
    except re.error:
        return ["has an allow_origin_regex that is no regular expression"]
    strangers = [each for each in _STRANGERS if origins.fullmatch(each)]
    if _STRANGERS[0] in strangers:
        return ["lets every site in"]
    if strangers:
        domains = [each.partition(".")[2] for each in strangers]
        more = " and others" if len(domains) > 3 else ""
        return [f"lets every site of .{', .'.join(domains[:3])}{more} in"]
    if found := _unmeant(origins):
        return found
    outside = re.sub(r"\[[^\]]*\]", "", str(pattern))
    if _BARE_DOT.search(outside):
        return [r"has an allow_origin_regex whose dots aren't escaped (\.), so other names fit"]
    return []


def _unmeant(origins: re.Pattern[str]) -> list[str]:
    """What fits a pattern beside the names that it is meant for.

    The server asks for a match of the whole origin, so that is what is tried here.
    """
    literal = _NO_LITERAL.sub(" ", origins.pattern.replace("[.]", r"\."))
    literal = literal.replace(r"\.", ".").replace(r"\-", "-")
    runs = [each.lower() for each in _HOST.findall(literal)][:_MOST_LITERALS]
    words = [each for each in runs if each not in ("http", "https")]
    hosts = {each for each in words if "." in each} | {"localhost"}
    # As in app\.example\.(com|net).
    hosts |= {f"{host}.{each}" for host in hosts for each in words if _is_open(each)}

    # All names under what isn't anybody's own: .fr, .co.jp.
    open_ones = [each for each in words if _is_open(each) and each not in _OPEN_DOMAINS]
    fitting = [each for each in open_ones if _fits_one(origins, f"https://zq7.{each}", "zqx")]
    if fitting:
        return [f"lets every site of .{', .'.join(dict.fromkeys(fitting))} in"]

    found = []
    own = {_own_name(each) for each in hosts if not _is_open(each)} - {""}
    longer = [
        f"https://{before}{host}{after}"
        for host in (*own, *hosts)
        for before, after in (
            ("", ".zq7.invalid"), ("", "zq7.invalid"), ("", "-zq7.invalid"), ("", ":1.zq7.invalid")
        )
    ] + [f"https://{before}{host}" for host in own for before in ("zq7", "zq7-")]  # fmt: skip
    longer += [
        f"https://{word}{middle}zq7.{domain}"
        for word in words
        for middle in ("", "-")
        for domain in (*_OPEN_DOMAINS, *open_ones)
    ]
    longer += [f"https://{head}{word}.invalid" for head in ("", "zqx.") for word in words]
    if any(_fits_one(origins, each, "zqx") for each in longer):
        found.append("has an allow_origin_regex that also fits longer names, which strangers may")
        found[-1] += " register"
    heads = ["", "zqx.", "7.", *(f"{word}{end}." for word in words for end in ("", "zqx", "7"))]
    clear = [f"http://{head}{host}" for host in hosts for head in heads]
    if any(origins.fullmatch(each) and is_clear(each) for each in clear):
        found.append("lets a site without TLS in")
    return found


def _fits_one(origins: re.Pattern[str], origin: str, other: str) -> bool:
    """Whether an origin fits, or the same with letters or a digit only."""
    return any(origins.fullmatch(origin.replace("zq7", each)) for each in ("zq7", other, "7"))


def _is_open(domain: str) -> bool:
    """Whether anybody can have a name under a domain."""
    labels = domain.strip(".").split(".")
    if domain in _OPEN_DOMAINS:
        return True
    if labels[-1] in _PRIVATE_DOMAINS or not re.fullmatch("[a-z]{2,}", labels[-1]):
        return False
    return len(labels) == 1 or (
        len(labels) == 2 and len(labels[1]) == 2 and labels[0] in _SECOND_LABELS
    )


def _own_name(host: str) -> str:
    """The part of a name that somebody has registered, as far as these lists know."""
    labels = host.split(".")
    for count in (3, 2):
        if len(labels) >= count and _is_open(".".join(labels[1 - count :])):
            return ".".join(labels[-count:]).lstrip("-")
    return ""


def header_troubles(http: Mapping[str, Any]) -> list[str]:
    """Which headers with keys go into ``configurable``, and so into checkpoints, or into logs."""
    found = []
    for part, where in (
        ("configurable_headers", "checkpoints and traces"),
        ("logging_headers", "the logs"),
    ):
        rules = http.get(part)
        if not isinstance(rules, dict):
            continue
        includes = [*(rules.get("includes") or []), *(rules.get("include") or [])]
        excludes = [*(rules.get("excludes") or []), *(rules.get("exclude") or [])]
        for header in ("authorization", "x-api-key", "cookie"):
            taken = any(_fits(each, header) for each in includes)
            if taken and not any(_fits(each, header) for each in excludes):
                found.append(f"{part} puts the header {header} into {where}")
    return found


def _fits(pattern: object, header: str) -> bool:
    parts = map(re.escape, str(pattern).lower().split("*"))
    return re.fullmatch(".*".join(parts), header) is not None


def webhook_troubles(webhooks: Mapping[str, Any]) -> list[str]:
    """What a caller may make the server send, and where."""
    policy = webhooks.get("url")
    if not isinstance(policy, dict):
        return []
    found = []
    if policy.get("disable_loopback") is False:
        found.append("a webhook may call the server itself, past the API key (disable_loopback)")
    if policy.get("require_https") is False:
        found.append("a run's state may be sent without TLS (require_https)")
    return found
