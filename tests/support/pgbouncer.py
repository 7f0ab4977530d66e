"""A real PgBouncer for the tests, where its package is installed."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
from keeper import ends_with_us
from postgres import STARTS_WITHIN, PostgresServer, as_user, other_user

# Debian puts it where ordinary users don't look.
PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
MISSING = "PgBouncer isn't installed (Debian's package is pgbouncer)"

# In a release without `max_prepared_statements`, as Debian 12's is, the setting is unknown; in one
# with it, the default would hide what a pooler does to prepared statements.
_SETTINGS = """
[databases]
* = host={server} port=5432 user=postgres

[pgbouncer]
unix_socket_dir = {folder}
listen_port = 6432
auth_type = any
pool_mode = transaction
default_pool_size = {sessions}
max_client_conn = 100
query_wait_timeout = 30
logfile = {folder}/log
{more}
"""


@contextmanager
def pgbouncer(
    server: PostgresServer, folder: Path, sessions: int, more: str = ""
) -> Iterator[Path]:
    """Run it in transaction mode over a server; its socket is in the folder, port 6432.

    Args:
        server: The PostgreSQL server.
        folder: A folder for it alone; its path must be short.
        sessions: How many sessions of the server all clients of one database share.
        more: Lines of its configuration.
    """
    assert PROGRAM
    user = other_user()
    file = folder / "pgbouncer.ini"
    file.write_text(
        _SETTINGS.format(server=server.folder, folder=folder, sessions=sessions, more=more)
    )
    folder.chmod(0o700)
    if user:
        for each in (folder, file):
            shutil.chown(each, user.pw_uid, user.pw_gid)
    process = subprocess.Popen([PROGRAM, "--quiet", file], cwd=folder, **as_user(user))
    try:
        ends_with_us(process)
        patience = time.monotonic() + STARTS_WITHIN
        while True:
            with suppress(psycopg.OperationalError), psycopg.connect(_address(folder, "postgres")):
                break
            if process.poll() is not None or time.monotonic() > patience:
                raise RuntimeError((folder / "log").read_text(errors="replace")[-3000:])
            time.sleep(0.01)
        yield folder
    finally:
        process.kill()
        process.wait()


def _address(folder: Path, database: str) -> str:
    return f"postgresql://postgres:@/{database}?host={folder}&port=6432"


def pooled(url: str, folder: Path) -> str:
    """Return the address of a database through PgBouncer.

    Args:
        url: Its address at the server.
        folder: PgBouncer's.
    """
    return _address(folder, url.partition("?")[0].rpartition("/")[2])
