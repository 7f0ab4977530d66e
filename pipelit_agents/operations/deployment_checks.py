"""Check a deployment against the production checklist."""

from __future__ import annotations

import json
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dotenv import dotenv_values
from sqlalchemy import select, text

from pipelit_agents.credentials.leak_guard.recognition import Level, level_of
from pipelit_agents.database.models import (
    ApiKeyRow,
    AuditRow,
    CredentialRow,
    EpochRow,
    LedgerRow,
    UserRow,
)
from pipelit_agents.errors import ConfigurationError, PipelitError
from pipelit_agents.ledger.attempts import is_person
from pipelit_agents.ledger.common import ledger_now
from pipelit_agents.ledger.lanes import lane_name
from pipelit_agents.ledger.machine import described, kernels_at
from pipelit_agents.ledger.redis_url import (
    RedisUnusable,
    connect,
    masked_address,
    named_errors,
    without_password,
)
from pipelit_agents.ledger.rules import EARLIEST, Lane, Rules, class_of, clock_trouble
from pipelit_agents.operations.addresses import (
    clear_http,
    clear_postgres,
    clear_redis,
    clear_traces,
)
from pipelit_agents.operations.folders import folder_problems, open_copies
from pipelit_agents.operations.git import git_problems
from pipelit_agents.operations.origins import origin_problems
from pipelit_agents.operations.server_settings import (
    auth_problems,
    header_problems,
    secrets_of_server,
    webhook_problems,
)
from pipelit_agents.policy import YEAR

if TYPE_CHECKING:
    from pipelit_agents.audit.trail import AuditTrail
    from pipelit_agents.database.engine import Database
    from pipelit_agents.operations.key_rotation import Keys
    from pipelit_agents.policy import VerificationPolicy
    from pipelit_agents.sealing.keyring import Keyring

__all__ = ["Check", "Deployment", "Installation"]

# Seconds.
_MAX_UNUSED_TIME: Final = 90 * 86_400
_MAX_UNSEALED_TIME: Final = 86_400
_MAX_CLOCK_DIFFERENCE: Final = 2.0
# Seconds. Codes are valid for up to a minute before and after their time.
_MAX_TIME_AHEAD: Final = 60.0
_SET_CLOCK: Final = "timedatectl set-ntp true"
# Characters.
_MIN_SECRET_LENGTH: Final = 32
_MIN_DISTINCT_CHARACTERS: Final = 10
_DEFAULT_SECRETS: Final = re.compile(
    r"django-insecure-.*|.*(change[-_ ]?me|your[-_ ]?secret|insecure|default|example).*|secret.*",
    re.IGNORECASE,
)
_YES: Final = frozenset({"1", "true", "yes", "on", "t", "y"})
_PUBLIC_URL: Final = re.compile(
    r"(?:\A|_)(PUBLIC|BASE|SERVER|API|SITE|READER|CHILD\w*|PIPELIT\w*)_URL\Z"
)
# URLs of pages and of namespaces. No key is sent to these.
_PAGE_URL: Final = re.compile(
    r"(?:\A|_)(DOCS?|DOCUMENTATION|SCHEMA|NAMESPACE|NS|SPEC|VOCABULARY|HELP|SUPPORT|HOMEPAGE|TERMS"
    r"|PRIVACY|LICEN[SC]E|LOGO|ICON|IMAGE|AVATAR|REPO|REPOSITORY|BLOG)_URL\Z"
)
_NO: Final = frozenset({"", "0", "false", "no", "off", "n", "f"})
_CORS: Final = re.compile(r"(\w*CORS\w*(ORIGIN|ALL)\w*|ALLOWED_ORIGINS)\Z")
_MAX_LISTED_NAMES: Final = 5
# Settings whose name doesn't show that the file holds a secret.
_FILE_SETTINGS: Final = frozenset(
    {
        "GOOGLE_APPLICATION_CREDENTIALS", "KUBECONFIG", "PGPASSFILE", "PIPELIT_DATABASE_URL_FILE",
        "PIPELIT_REDIS_URL_FILE", "AWS_SHARED_CREDENTIALS_FILE", "DATABASE_URL_FILE",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check.

    Attributes:
        name: The check's short name.
        ok: Whether the check passed; None if it doesn't apply.
        found: What was found.
        why: Why it matters.
        fix: The command or setting that fixes it; empty if there is nothing to fix.
    """

    name: str
    ok: bool | None
    found: str
    why: str
    fix: str


# What was found, and the fix. The fix is empty if the check passed.
Finding = tuple[str, str]
_OK: Final = "ok"
# The message of the error already names its fix.
_FIX_THE_ERROR: Final = "fix this error, and check again"


class _NotApplicable(Exception):
    """The check doesn't apply to this deployment."""


def _is_missing(path: Path) -> bool:
    """Whether a file doesn't exist; False if that can't be determined."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False


@dataclass(frozen=True)
class Installation:
    """The parts of a running installation that the checks look at.

    Attributes:
        database: The accounts, credentials and audit.
        keyring: Returns the keyring.
        redis_url: Returns the Redis address, or an empty string.
        check_ledger: Ensures that attempts can be counted, and returns where.
        keys: Counts the values that are encrypted with each key.
        audit: The audit trail.
        policy: The limits of verification.
        clock: Returns Unix seconds; None for the clock of each machine.
    """

    database: Database
    keyring: Callable[[], Keyring]
    redis_url: Callable[[], str]
    check_ledger: Callable[[], str]
    keys: Keys
    audit: AuditTrail
    policy: VerificationPolicy
    clock: Callable[[], float] | None


class Deployment:
    """An installation with its files, settings and servers, checked for production.

    Args:
        installation: The accounts, keys and ledger.
        folder: The folder of ``.env`` and ``langgraph.json``.
        environ: The environment; it takes precedence over ``.env``.
    """

    def __init__(
        self, installation: Installation, folder: Path, environ: Mapping[str, str]
    ) -> None:
        self._installation = installation
        self._database = installation.database
        self._folder = folder
        self._now = installation.clock or time.time
        file = folder / ".env"
        self._readable = True
        try:
            in_file = dotenv_values(file) if file.is_file() else {}
        except (OSError, UnicodeDecodeError):
            in_file, self._readable = {}, False
        self._in_file = {name: value for name, value in in_file.items() if value}
        self._env = self._in_file | dict(environ)
        self._served_env = self._env_of_server()
        self._env = self._served_env | self._env
        # Read the modes first, because opening the database makes its file private.
        self._modes = self._file_modes()
        self._wide_folders = folder_problems([folder.resolve(), *self._database_folder()])
        url = self._database.url
        self._missing = (
            url is not None
            and url.get_backend_name() == "sqlite"
            and _is_missing(Path(url.database or ""))
        )

    def checks(self, *, deploy: bool) -> list[Check]:
        """Run all checks. A check that can't be completed counts as failed.

        Args:
            deploy: Run the checks for production too.
        """
        selected = [*_BASIC_CHECKS, *(_PRODUCTION_CHECKS if deploy else ())]
        return _without_repeated_errors([self._check(*each) for each in selected])

    def _check(self, name: str, look: Callable[[Deployment], Finding], why: str) -> Check:
        if self._missing and name in _DATABASE_CHECKS:
            return Check(name, False, "there is no database", why, "pipelit-agents init")
        try:
            found, fix = look(self)
        except _NotApplicable as nothing:
            return Check(name, None, str(nothing), why, "")
        except (PipelitError, RedisUnusable) as error:
            return Check(name, False, str(error), why, _FIX_THE_ERROR)
        except Exception as error:
            # An unexpected error's message may contain a secret.
            found = f"the check failed ({type(error).__name__})"
            return Check(name, False, found, why, "see whether somebody changed it by hand")
        return Check(name, not fix, found, why, fix)

    # The key

    def _key(self) -> Finding:
        weak = self._installation.keyring().weak()
        if weak:
            return "; ".join(weak), "pipelit-agents keys generate, then: keys rotate"
        return _OK, ""

    def _opens(self) -> Finding:
        status = self._installation.keys._own(self._installation.keyring())
        if not status.unreadable:
            count = status.newest + sum(status.older.values())
            found = f"{count} encrypted values can be read" if count else "nothing is encrypted"
            return found, ""
        return (
            f"no key can decrypt {_some(status.unreadable)}",
            "put back the key that encrypted them, after the newest one; or set them again: "
            "pipelit-agents credentials put NAME …, agents rotate-totp NAME, mfa reset NAME",
        )

    def _newest_key(self) -> Finding:
        status = self._installation.keys._own(self._installation.keyring())
        if older := sum(status.older.values()):
            return f"{older} values are encrypted with an older key", "pipelit-agents keys rotate"
        return f"{status.newest} values are encrypted with the newest key", ""

    # Files

    def _env_file(self) -> Finding:
        file = self._folder / ".env"
        if self._readable and not file.exists():
            raise _NotApplicable("there is no .env")
        if not self._readable or not file.is_file():
            return "it can't be read, so its content is unknown", f"make {file} a UTF-8 text file"
        if os.name == "posix" and file.stat().st_mode & 0o077:
            mode = stat.filemode(file.stat().st_mode)
            return f"other accounts can read it ({mode})", f"chmod 600 {file}"
        return _OK, ""

    def _database_file(self) -> Finding:
        if not self._modes:
            raise _NotApplicable("there is no file" if self._missing else "a server is used")
        wide = [str(path) for path, mode in self._modes.items() if mode & 0o077]
        if wide:
            return (
                f"other accounts could read {_some(wide)}",
                f"chmod 600 {' '.join(wide)} (opening the database has just done this)",
            )
        return _OK, ""

    def _file_modes(self) -> dict[Path, int]:
        url = self._database.url
        if os.name != "posix" or url is None or not url.database:
            return {}
        if url.get_backend_name() != "sqlite":
            return {}
        paths = (Path(url.database + suffix) for suffix in ("", "-wal", "-shm"))
        modes = {}
        for path in paths:
            # If the folder can't be entered, opening the database reports that.
            with suppress(OSError):
                mode = path.stat().st_mode
                if stat.S_ISREG(mode):
                    modes[path] = mode
        return modes

    def _database_folder(self) -> list[Path]:
        url = self._database.url
        if url is None or url.get_backend_name() != "sqlite" or not url.database:
            return []
        return [Path(url.database).resolve().parent]

    def _folders(self) -> Finding:
        if os.name != "posix":
            raise _NotApplicable("this system has no POSIX permissions")
        if self._wide_folders:
            paths = " ".join(each.rpartition(" (")[0] for each in self._wide_folders)
            found = f"other accounts can put files into {_some(self._wide_folders)}"
            return found, f"chmod go-w {paths}"
        return _OK, ""

    def _copies(self) -> Finding:
        there, wide = open_copies(self._folder.resolve(), self._known_keys(), self._named_files())
        if wide:
            paths = " ".join(each.rpartition(" (")[0] for each in wide)
            return (
                f"other accounts can read secrets in {_some(wide)}",
                f"chmod 600 {paths}; or delete the files that aren't used",
            )
        if not there:
            raise _NotApplicable("there are no copies")
        return _OK, ""

    def _git(self) -> Finding:
        others = [*self._named_files(), *self._modes]
        found = git_problems(self._folder.resolve(), self._known_keys(), others)
        if found is None:
            raise _NotApplicable("the folder isn't in a repository")
        if not found:
            return _OK, ""
        if all(each.startswith("git would add") for each in found):
            names = [each.removeprefix("git would add ") for each in found]
            return (
                _some(found),
                f"add to .gitignore: {' '.join(names)}; in a Compose file, name a secret instead: "
                "${POSTGRES_PASSWORD}, with its value in .env",
            )
        return (
            _some(found),
            "replace the secrets, because every copy of the repository has them: pipelit-agents "
            "keys add, then keys rotate --purge, and new keys from the issuers of the others; then "
            "git rm --cached, and a line for the file in .gitignore",
        )

    def _known_keys(self) -> Keyring | None:
        try:
            return self._installation.keyring()
        except PipelitError:
            return None

    def _named_files(self) -> list[Path]:
        """Return the secret files that settings name: the server's ``env``, ``…_KEY_FILE``."""
        env = self._served_or_nothing().get("env")
        named = [self._folder / env] if isinstance(env, str) and env else []
        for name, value in sorted(self._env.items()):
            if _names_a_secret(name) and value.strip():
                # A relative path is relative to the working directory, which usually is the folder.
                there = Path(value.strip())
                named.append(there if there.is_file() else self._folder / there)
        return [each.parent.resolve() / each.name for each in named]

    # Database, ledger and servers

    def _tables(self) -> Finding:
        if not self._database.has_tables():
            found = "there are no tables"
            if self._modes:
                # A new SQLite database is in the log until the log is written back.
                found += "; a copy of an SQLite file without its -wal file has none either"
            return found, "pipelit-agents init; for a copy, run pipelit-agents backup again"
        if self._database.pending_migrations():
            return "the tables are older than this package", "pipelit-agents init"
        return _OK, ""

    def _ledger(self) -> Finding:
        where = self._installation.check_ledger()
        with self._database.reading() as connection:
            kernels = kernels_at(connection, ledger_now(self._database, connection, self._now))
        if kernels:
            return described(kernels), "use the file from only one of them, or use PostgreSQL"
        return f"attempts are counted in {where}", ""

    def _redis_password(self) -> Finding:
        url = self._installation.redis_url()
        if not url:
            raise _NotApplicable("no Redis is used")
        from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

        try:
            with named_errors(url):
                client = connect(without_password(url))
                try:
                    client.ping()
                except (AuthenticationError, NoPermissionError):
                    return "it asks for a password", ""
                except RedisError as error:
                    if "NOAUTH" in str(error):
                        return "it asks for a password", ""
                    raise
                finally:
                    client.close()
        except RedisUnusable as error:
            return f"it can't be reached: {error}", "make it reachable, and check again"
        return (
            f"{masked_address(url)} answers without a password",
            "set requirepass (or an ACL) in redis.conf, and the password in PIPELIT_REDIS_URL",
        )

    def _addresses(self) -> dict[str, str]:
        """Return the addresses of servers by the names of their settings."""
        found = {name: value for name, value in self._env.items() if "://" in value}
        url = self._database.url
        if url is not None:
            found["PIPELIT_DATABASE_URL"] = url.render_as_string(hide_password=False)
        if redis := self._installation.redis_url():
            found["PIPELIT_REDIS_URL"] = redis
        return found

    def _redis_tls(self) -> Finding:
        addresses = self._addresses()
        found, notes = clear_redis(addresses)
        if found:
            return (
                _some(found),
                "rediss://…, with TLS on the server (tls-port, or your provider's setting) and "
                "verification of its certificate; or a server on this machine",
            )
        if not any(re.match(r"(rediss?|valkeys?|unix)[:+-]", each) for each in addresses.values()):
            raise _NotApplicable("no Redis is used")
        return _noted(notes), ""

    def _postgres_tls(self) -> Finding:
        addresses = self._addresses()
        found, notes = clear_postgres(addresses, self._env)
        if found:
            return (
                _some(found),
                "…?sslmode=verify-full&sslrootcert=… in its address (sslmode=require encrypts, but "
                "doesn't verify the server's identity)",
            )
        if not any(each.startswith("postgres") for each in addresses.values()):
            raise _NotApplicable("no PostgreSQL is used")
        return _noted(notes), ""

    def _tracing(self) -> Finding:
        found, notes = clear_traces(self._env)
        if found:
            return f"{_some(found)}: traces are sent without TLS", f"{found[0]}=https://…"
        return _noted([f"{each} sends traces without TLS" for each in notes]), ""

    def _clock(self) -> Finding:
        url = self._installation.redis_url()
        if url:
            with named_errors(url):
                client = connect(url)
                try:
                    before = self._now()
                    seconds, micro = client.time()
                    there = seconds + micro / 1e6
                finally:
                    client.close()
        else:
            there_is = self._database.url
            if there_is is not None and there_is.get_backend_name() == "sqlite":
                raise _NotApplicable("there is only one clock")
            with self._database.reading() as connection:
                before = self._now()
                there = connection.scalar(text(f"SELECT {self._database.server_clock}")) or 0.0
        apart = there - (before + self._now()) / 2
        if abs(apart) > _MAX_CLOCK_DIFFERENCE:
            return f"the server's clock differs from this one by {apart:+.1f} s", _SET_CLOCK
        return f"{apart:+.2f} s apart", ""

    def _locked_lanes(self) -> Finding:
        now, rules = self._ledger_now(), Rules(self._installation.policy)
        rows = self._lanes(LedgerRow.locked_until > now)
        locked = [
            (row.peer, lane_name(row.scope, row.subject))
            for row, person in rows
            if rules.seen(
                Lane(row.in_a_row, (), row.locked_until), now, class_of(row.scope, person=person)
            ).locked_until
            > now
        ]
        if not locked:
            return _OK, ""
        name, lane = locked[0]
        if not any(rules.forgives(Lane(whole_at=row.whole_at), now) for row, _ in rows):
            return (
                f"{len(locked)} locked: {_some(f'{lane} about {name}' for name, lane in locked)}",
                "find out who is guessing: pipelit-agents audit --action lane.lock. A lane that "
                "has used up its wrong guesses for the year can't be unlocked: it unlocks by "
                f"itself, when pipelit-agents agents lanes {name} says",
            )
        return (
            f"{len(locked)} locked: {_some(f'{lane} about {name}' for name, lane in locked)}",
            "find out who is guessing: pipelit-agents audit --action lane.lock; when that is "
            f"settled: pipelit-agents agents unlock {name} --lane {lane}",
        )

    def _moments(self) -> Finding:
        now, rules = self._ledger_now(), Rules(self._installation.policy)
        if now < EARLIEST:
            return f"this clock shows {datetime.fromtimestamp(now, UTC):%Y-%m-%d}", _SET_CLOCK
        with self._database.reading() as connection:
            newest = connection.scalar(select(AuditRow.at).order_by(AuditRow.id.desc()).limit(1))
            changed_at = connection.scalar(select(EpochRow.changed_at))
            forever = select(UserRow.username).where(
                UserRow.active,
                UserRow.totp_previous.is_not(None),
                UserRow.totp_previous_until > now + YEAR,
            )
            kept = list(connection.scalars(forever.order_by(UserRow.username)))
        ahead = sorted(
            {
                row.peer
                for row, person in self._lanes()
                if clock_trouble(row, rules, now, person=person)
            }
        )
        if kept:
            return (
                f"the old TOTP secret of {_some(kept)} stays valid for more than a year",
                f"pipelit-agents agents rotate-totp {kept[0]}",
            )
        if changed_at is not None and changed_at > now + _MAX_TIME_AHEAD:
            return (
                "the clock was ahead when this machine was started; the next verification of a "
                "code repairs that, and no code is accepted for three periods",
                "pipelit-agents audit --action ledger.clock, to see whether it did",
            )
        if ahead:
            return (
                f"the clock was ahead, and failures from then still count for {_some(ahead)}",
                f"pipelit-agents agents unlock {ahead[0]}",
            )
        if newest is not None and newest > now + _MAX_TIME_AHEAD:
            return (
                f"the newest audit entry is {newest - now:.0f} s ahead of this clock: the clock is "
                "behind, or it was ahead",
                _SET_CLOCK,
            )
        return _OK, ""

    def _ledger_now(self) -> float:
        with self._database.reading() as connection:
            return ledger_now(self._database, connection, self._installation.clock)

    def _lanes(self, *where: Any) -> list[tuple[Any, bool]]:
        """Return the ledger rows of active accounts, and whether each is a person's."""
        query = (
            select(LedgerRow.__table__, UserRow.kind, UserRow.domain)
            .join(UserRow, UserRow.username == LedgerRow.peer)
            .where(UserRow.active, *where)
            .order_by(LedgerRow.peer, LedgerRow.scope, LedgerRow.subject)
        )
        with self._database.reading() as connection:
            return [(row, is_person(row)) for row in connection.execute(query)]

    # Addresses and switches

    def _public_url(self) -> Finding:
        named = {
            name: value
            for name, value in self._env.items()
            if _PUBLIC_URL.search(name) or (name.endswith("_URL") and self._is_set_here(name))
            if not _PAGE_URL.search(name)
        }
        open_ones, notes = clear_http(named)
        if open_ones:
            return f"http:// in {_some(open_ones)}", f"{open_ones[0]}=https://…"
        if not any("http" in value for value in named.values()):
            raise _NotApplicable("none is set")
        return _noted([f"http:// in {each}" for each in notes]), ""

    def _is_set_here(self, name: str) -> bool:
        return name in self._in_file or name in self._served_env

    def _child_urls(self) -> Finding:
        with self._database.reading() as connection:
            rows = connection.execute(select(CredentialRow.name, CredentialRow.public)).all()
        # The spaces separate addresses.
        open_ones, notes = clear_http({row.name: " ".join(_texts(row.public)) for row in rows})
        if open_ones:
            return (
                f"http:// in the public fields of {_some(open_ones)}",
                f"pipelit-agents credentials put {open_ones[0]} … --public base_url=https://…",
            )
        return _noted([f"http:// in the public fields of {each}" for each in notes]), ""

    def _secret_key(self) -> Finding:
        named = {n: v for n, v in sorted(self._env.items()) if re.search(r"(\A|_)SECRET_KEY\Z", n)}
        if not named:
            raise _NotApplicable("it isn't set; pipelit-agents itself doesn't need it")
        for name, secret in named.items():
            fix = f'{name}=$(python -c "import secrets; print(secrets.token_urlsafe(48))")'
            if _DEFAULT_SECRETS.fullmatch(secret):
                return f"{name} is a default", fix
            if len(secret) < _MIN_SECRET_LENGTH:
                return f"{name} has only {len(secret)} characters", fix
            if len(set(secret)) < _MIN_DISTINCT_CHARACTERS:
                return f"{name} has too few different characters", fix
        return _OK, ""

    def _debug(self) -> Finding:
        on = [
            name
            for name, value in sorted(self._env.items())
            if re.search(r"(\A|_)DEBUG(_MODE)?\Z", name) and value.strip().lower() not in _NO
        ]
        return (f"{_some(on)} is on", f"{on[0]}=false") if on else (_OK, "")

    def _cors(self) -> Finding:
        wide = [
            name
            for name, value in sorted(self._env.items())
            if _CORS.match(name) and (value.strip().lower() in _YES or re.search(r"\*|\.\+", value))
        ]
        if wide:
            return f"{_some(wide)} allows every site", f"{wide[0]}=https://your.site"
        return _OK, ""

    def _server_cors(self) -> Finding:
        cors = self._part(self._served(), "http", "cors")
        if named := self._env.get("CORS_CONFIG"):
            # It takes precedence over the file.
            cors = self._part({"CORS_CONFIG": _json_object("CORS_CONFIG", named)}, "CORS_CONFIG")
        if cors.get("allow_origins") is None and not cors.get("allow_origin_regex"):
            return (
                "langgraph.json names no origins, which allows every site",
                '"http": {"cors": {"allow_origins": []}} in langgraph.json',
            )
        if found := origin_problems(cors):
            return (
                f"langgraph.json {', '.join(found)}",
                '"http": {"cors": {"allow_origins": ["https://your.site"]}} in langgraph.json, '
                r"or an allow_origin_regex of your own names, with escaped dots: "
                r"https://\w+\.your\.site",
            )
        return _OK, ""

    def _server_auth(self) -> Finding:
        served = self._served()
        auth, http = self._part(served, "auth"), self._part(served, "http")
        problems = auth_problems(self._folder, auth, http)
        return "; ".join(each for each, _ in problems) or _OK, ", ".join(fix for _, fix in problems)

    def _server_secrets(self) -> Finding:
        if found := secrets_of_server(self._served()):
            return (
                f"langgraph.json holds secrets: {_some(found)}",
                "remove them, replace them, and set the new ones where the server runs: "
                '"env": ".env", or the platform\'s secrets',
            )
        return _OK, ""

    def _server_headers(self) -> Finding:
        served = self._served()
        found = header_problems(self._part(served, "http"))
        if found:
            return _some(found), '"excludes": ["authorization", "x-api-key", "cookie"]'
        return _OK, ""

    def _server_webhooks(self) -> Finding:
        if found := webhook_problems(self._part(self._served(), "webhooks")):
            return _some(found), '"webhooks": {"url": {"require_https": true}} and nothing else'
        return _OK, ""

    def _env_of_server(self) -> dict[str, str]:
        env = self._served_or_nothing().get("env")
        return {str(n): str(v) for n, v in env.items()} if isinstance(env, dict) else {}

    def _served_or_nothing(self) -> dict[str, Any]:
        try:
            return self._served()
        except (ConfigurationError, _NotApplicable):
            return {}

    def _served(self) -> dict[str, Any]:
        file = self._folder / "langgraph.json"
        if not file.is_file():
            raise _NotApplicable("there is no langgraph.json")
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = None
        if not isinstance(found, dict):
            raise ConfigurationError("langgraph.json can't be read as a JSON object")
        return found

    @staticmethod
    def _part(served: dict[str, Any], *names: str) -> dict[str, Any]:
        for name in names:
            found = served.get(name) or {}
            if not isinstance(found, dict):
                raise ConfigurationError(f"langgraph.json: {name!r} must be an object")
            served = found
        return served

    # People and keys

    def _second_factor(self) -> Finding:
        people = select(UserRow.username).where(
            UserRow.kind == "human", UserRow.domain == "", UserRow.active,
            UserRow.totp_secret.is_(None),
        )  # fmt: skip
        with self._database.reading() as connection:
            without = list(connection.scalars(people.order_by(UserRow.username)))
        if without:
            fix = f"pipelit-agents mfa enroll {without[0]}"
            return f"{_some(without)} have none", fix
        return _OK, ""

    def _key_expiry(self) -> Finding:
        forever = self._api_keys(lambda row: row.expires_at is None)
        if forever:
            return (
                f"{len(forever)} never expire: {_some(forever)}",
                _renewed(*forever[0].split(" of ")),
            )
        return _OK, ""

    def _key_use(self) -> Finding:
        since = self._now() - _MAX_UNUSED_TIME
        unused = self._api_keys(lambda row: (row.last_used_at or row.created_at) < since)
        if unused:
            return (
                f"{len(unused)} haven't been used for 90 days: {_some(unused)}",
                f"pipelit-agents users keys revoke {unused[0].split()[0]} --yes",
            )
        return _OK, ""

    def _api_keys(self, wanted: Callable[[Any], bool]) -> list[str]:
        query = (
            select(ApiKeyRow.__table__)
            .join(UserRow, UserRow.username == ApiKeyRow.username)
            .where(UserRow.active, ApiKeyRow.revoked_at.is_(None))
            .order_by(ApiKeyRow.created_at)
        )
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        now = self._now()
        living = [row for row in rows if row.expires_at is None or row.expires_at > now]
        return [f"{row.id} of {row.username}" for row in living if wanted(row)]

    def _audit(self) -> Finding:
        report = self._installation.audit.verify()
        if report.problems:
            return _some(report.problems), "see: pipelit-agents audit verify"
        head = self._installation.audit.head()
        if report.unsealed and not head.number:
            return f"none of the {report.unsealed} entries is sealed", "pipelit-agents audit seal"
        age = self._now() - datetime.fromisoformat(head.at).timestamp()
        if report.unsealed and age > _MAX_UNSEALED_TIME:
            return (
                f"{report.unsealed} entries aren't sealed; the last seal is {age / 3600:.0f} hours "
                "old",
                "run pipelit-agents audit seal from a timer",
            )
        return f"{report.sealed} entries sealed, {report.unsealed} not sealed yet", ""


def _without_repeated_errors(checks: Iterable[Check]) -> list[Check]:
    """Keep an error that several checks share only at the first, and refer the others to it."""
    first: dict[str, str] = {}
    found = []
    for check in checks:
        name = first.setdefault(check.found, check.name)
        if check.fix == _FIX_THE_ERROR and name != check.name:
            check = replace(check, found=f"the same as for {name!r}", fix=f"the fix for {name!r}")
        found.append(check)
    return found


def _names_a_secret(name: str) -> bool:
    """Whether a setting's value is the path of a file with a secret."""
    if name in _FILE_SETTINGS:
        return True
    held = re.sub(r"_?(FILE|PATH)\Z", "", name)
    return held != name and level_of(held) >= Level.LIKELY


def _json_object(name: str, text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ConfigurationError(f"{name} can't be read as a JSON object")
    return found


def _texts(public: str) -> Iterable[str]:
    level: list[Any] = [json.loads(public)]
    while level:
        found = level.pop()
        if isinstance(found, str):
            yield found
        elif isinstance(found, dict):
            level += found.values()
        elif isinstance(found, list):
            level += found


def _renewed(key: str, username: str) -> str:
    issue = f"pipelit-agents users keys issue {username} --name renewed --expires-in 90d"
    return (
        f"{issue}, put the new key where the old one is used (the key of an agent that an agent "
        f"created is in the credential agent-key.{username}), then: pipelit-agents users keys "
        f"revoke {key} --yes"
    )


def _noted(notes: list[str]) -> str:
    """Describe a passed check, with notes on hosts whose location is unknown."""
    if not notes:
        return _OK
    return (
        f"{_some(notes)}: this is fine if the host is on this machine, or in a private network of "
        "containers"
    )


def _some(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - _MAX_LISTED_NAMES} more" if len(every) > _MAX_LISTED_NAMES else ""
    return ", ".join(every[:_MAX_LISTED_NAMES]) + more


# The name of each check, its method, and why it matters.
_BASIC_CHECKS: Final = (
    ("key", Deployment._key, "nothing is protected without a key that only you know"),
    ("env file", Deployment._env_file, "anyone who can read it has the key"),
    (
        "database file",
        Deployment._database_file,
        "anyone who can read it has hashes, names and ciphertext",
    ),
    ("tables", Deployment._tables, "the code needs the tables of its own version"),
    ("key opens", Deployment._opens, "encrypted values can't be read without their key"),
    ("ledger", Deployment._ledger, "no code is accepted if attempts can't be counted"),
    ("clock", Deployment._clock, "a code is valid for half a minute"),
    (
        "moments",
        Deployment._moments,
        "after a time ahead of the clock, codes are refused until the clock reaches it",
    ),
    ("lanes", Deployment._locked_lanes, "somebody is guessing codes, or makes many mistakes"),
)
_PRODUCTION_CHECKS: Final = (
    ("newest key", Deployment._newest_key, "you can't remove an older key while it is in use"),
    ("git", Deployment._git, "every copy of a repository has all files of its history"),
    ("copies", Deployment._copies, "a copy of .env contains the key too"),
    (
        "folders",
        Deployment._folders,
        "anyone who can write there can replace .env or the database",
    ),
    (
        "redis password",
        Deployment._redis_password,
        "anyone who can connect can clear locks and counters",
    ),
    (
        "redis TLS",
        Deployment._redis_tls,
        "others on the network can read the password and the counters",
    ),
    (
        "PostgreSQL TLS",
        Deployment._postgres_tls,
        "others on the network can read the password and the data",
    ),
    (
        "tracing",
        Deployment._tracing,
        "traces contain states and prompts, and are sent with an API key",
    ),
    ("public URL", Deployment._public_url, "without TLS, others can read Bearer keys"),
    ("child URLs", Deployment._child_urls, "without TLS, others can read the child's API key"),
    ("SECRET_KEY", Deployment._secret_key, "anyone who knows it can sign sessions"),
    ("DEBUG", Deployment._debug, "error pages show settings and local variables"),
    ("CORS", Deployment._cors, "any site could send requests from a user's browser"),
    ("server CORS", Deployment._server_cors, "any site could send requests from a user's browser"),
    ("server auth", Deployment._server_auth, "every endpoint must require an API key"),
    ("server secrets", Deployment._server_secrets, "the file is in git, and in each image"),
    (
        "server headers",
        Deployment._server_headers,
        "headers with API keys would be stored or logged",
    ),
    (
        "server webhooks",
        Deployment._server_webhooks,
        "a caller chooses the address of its webhook",
    ),
    (
        "second factor",
        Deployment._second_factor,
        "without one, anyone who has the API key can act as this person",
    ),
    ("API keys expire", Deployment._key_expiry, "a forgotten key stays valid forever"),
    ("API keys used", Deployment._key_use, "nobody notices the theft of an unused key"),
    ("audit", Deployment._audit, "changes to unsealed entries can't be detected"),
)
# These fail with one message if there is no database.
_DATABASE_CHECKS: Final = frozenset(
    {
        "tables", "key opens", "ledger", "moments", "lanes", "newest key", "child URLs",
        "second factor", "API keys expire", "API keys used", "audit",
    }
)  # fmt: skip
