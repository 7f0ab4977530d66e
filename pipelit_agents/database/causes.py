"""Say what an error of the database means, and what to do about it."""

from __future__ import annotations

import re
from typing import Final

from sqlalchemy import URL

__all__ = ["LOST_PRIMARY", "hint"]

# SQLSTATE read_only_sql_transaction: a standby answers so to whatever writes.
LOST_PRIMARY: Final = "25006"
_TABLES: Final = "; make the tables with pipelit.create_schema() or: pipelit-agents init"
# SQLite's log has what isn't in the main file yet; of a new database that is everything.
_NO_TABLES: Final = (
    "; if this file is a copy, copy it again with `pipelit-agents backup`, or with the files that "
    "end in -wal and -shm, while nothing has it open. If it is new, make the tables with "
    "pipelit.create_schema() or: pipelit-agents init"
)
_TLS: Final = (
    "; the server accepts this user from here in another way: if it wants TLS, add "
    "?sslmode=require to the address; otherwise ask for a line in its pg_hba.conf"
)
_CONNECTIONS: Final = (
    "; each process opens up to 8 connections: lower Pipelit(pool_size=…), close other clients, "
    "raise the limit, or put PgBouncer between"
)
_ROOM: Final = "; free space on the disk of the database"
_READ_ONLY: Final = (
    "; a standby, or a server that is set to read only, has refused. Nothing was written. This "
    "process replaces its connections, so try again when the address leads to the primary"
)
_STANDBY: Final = (
    "; this is a standby, or a server that is set to read only: name the primary, or all servers "
    "(postgresql+psycopg://user@/database?host=a:5432&host=b:5432). To read from a standby only, "
    "add ?target_session_attrs=any to the address"
)
_LOGIN: Final = (
    "; set the right user and password in the address. In them write @ as %40, : as %3A, / as %2F "
    "and % as %25"
)
_ENCODING: Final = (
    "; the database isn't in UTF-8, and lacks a character of the text: create another with "
    "CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0, and move the data there"
)
_SCHEMA: Final = (
    "; since PostgreSQL 15 only the database's owner may create tables in the schema public. As "
    "the owner: GRANT USAGE, CREATE ON SCHEMA public TO {user}"
)
# The first that fits. Either the driver's words (for SQLite, and for what a server says before
# there is a connection, they are all there is) or the name of the driver's class of error.
_HINTS: Final = (
    (r"no such table", _NO_TABLES),
    (r"no such column|has no column named", _TABLES),
    (r"\AUndefined(Table|Column)\b", _TABLES),
    (r"no schema has been selected|permission denied for schema", _SCHEMA),
    (r"permission denied for database", "; as its owner: GRANT CONNECT ON DATABASE … TO {user}"),
    (
        r"permission denied for (table|sequence|relation)|must be owner of",
        "; these tables are another user's: use the address with which they were made, or let "
        "their owner give {user} the privileges",
    ),
    (r"readonly", "; SQLite writes files beside it, so the folder has to be writable too"),
    (r"is locked", "; wait, or stop the process that holds it"),
    (r"not a database", "; name another file, or move this one away"),
    (
        r"malformed|disk I/O error",
        "; the file or its disk is damaged: restore a copy (docs/operations.md, Copies)",
    ),
    (r"disk is full|No space left|\ADiskFull\b", _ROOM),
    (
        r"unable to open database file",
        "; the folder is gone, or SQLite may not write its files there",
    ),
    (r"pipelit_audit_pkey", "; somebody wrote an entry under the next number: see audit verify"),
    (r"\AReadOnlySqlTransaction\b", _READ_ONLY),
    (r"session is (not )?read-only|server is in hot standby", _STANDBY),
    (
        r"password authentication failed|no password supplied|SASL authentication failed",
        _LOGIN,
    ),
    (
        r"database \"?[^\n]*\" does not exist|no such database",
        "; name another database, or create this one (createdb)",
    ),
    (
        r"role \"?[^\n]*\" does not exist|no such user",
        "; name another user, or create this one (createuser)",
    ),
    (r"no pg_hba\.conf entry|SSL (connection is )?required|\(?requires? SSL", _TLS),
    (
        r"does not support SSL",
        "; turn TLS on in the server, or, on the same machine only, add ?sslmode=disable",
    ),
    (
        r"certificate verify failed|root certificate file|server certificate",
        "; name the file of the authority that signed the server's certificate: ?sslrootcert=…",
    ),
    (
        r"too many (clients|connections)|remaining connection slots|no more connections",
        _CONNECTIONS,
    ),
    (
        r"QueuePool limit|query_wait_timeout",
        "; all connections were in use: raise Pipelit(pool_size=…), or the pooler's limit",
    ),
    (r"\A(LockNotAvailable)\b", "; another transaction holds the lock: try again when it ended"),
    (
        r"\A(QueryCanceled)\b",
        "; the statement took longer than its limit, or an administrator ended it: try again",
    ),
    (r"\A(UntranslatableCharacter|CharacterNotInRepertoire)\b", _ENCODING),
    (
        r"(starting|shutting) up|shutting down|not yet accepting|in recovery mode",
        "; wait until the server is up",
    ),
    (
        r"failed to resolve host|Name or service not known|could not translate host name",
        "; write the host in the address as it is called in the network",
    ),
    (r"onnection refused", "; start the server, or correct the address"),
    (r"timeout expired", "; see whether the address is right, and whether a firewall is between"),
    (r"invalid (\w+ )*value", "; correct that option in the address"),
)
_COMPILED: Final = tuple((re.compile(words), what) for words, what in _HINTS)


def hint(cause: BaseException, address: URL) -> str:
    """Return what to do about a driver's error, to be added to its words; or nothing.

    Args:
        cause: The driver's error, or SQLAlchemy's where the driver had none.
        address: The database's.
    """
    said = f"{type(cause).__name__} {cause}"
    found = next((what for words, what in _COMPILED if words.search(said)), "")
    user = address.username or "this user"
    return found.replace("{user}", user)
