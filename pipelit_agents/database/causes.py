"""Turn errors of the database into ``StorageError``, with the setting and the fix."""

from __future__ import annotations

import re
from typing import Final

from sqlalchemy import URL, Engine
from sqlalchemy.exc import SQLAlchemyError

from pipelit_agents.database.server import URL_SETTING
from pipelit_agents.errors import StorageError

__all__ = ["NamedErrors", "hint", "storage_error"]

REFUSED: Final = (UnicodeEncodeError, SQLAlchemyError)

# SQLSTATE read_only_sql_transaction: a standby's answer to every write.
_LOST_PRIMARY: Final = "25006"
_TABLES: Final = "; create the tables with pipelit.create_schema() or: pipelit-agents init"
# SQLite's log has the data that isn't in the main file yet. For a new database, that is all data.
_NO_TABLES: Final = (
    "; if this file is a copy, copy it again with `pipelit-agents backup`, or with the files that "
    "end in -wal and -shm, while nothing has it open. If it is new, create the tables with "
    "pipelit.create_schema() or: pipelit-agents init"
)
_TLS: Final = (
    "; the server doesn't accept this kind of connection: if it requires TLS, add "
    "?sslmode=require to the address; otherwise ask for a line in its pg_hba.conf"
)
_CONNECTIONS: Final = (
    "; each process opens up to 8 connections: lower Pipelit(pool_size=…), close other clients, "
    "raise the limit, or use PgBouncer"
)
_ROOM: Final = "; free space on the disk of the database"
_READ_ONLY: Final = (
    "; a standby, or a read-only server, has refused. Nothing was written. This process replaces "
    "its connections, so try again when the address leads to the primary"
)
_STANDBY: Final = (
    "; this is a standby, or a read-only server: name the primary, or all servers "
    "(postgresql+psycopg://user@/database?host=a:5432&host=b:5432). To only read from a standby, "
    "add ?target_session_attrs=any to the address"
)
_LOGIN: Final = (
    "; correct the user and password in the address. In them, write @ as %40, : as %3A, / as %2F "
    "and % as %25"
)
_ENCODING: Final = (
    "; the database isn't in UTF-8, and its encoding lacks a character of the text: create another "
    "with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0, and move the data there"
)
_SCHEMA: Final = (
    "; since PostgreSQL 15 only the database's owner may create tables in the schema public. As "
    "the owner: GRANT USAGE, CREATE ON SCHEMA public TO {user}"
)
# The first match is used. A pattern matches the driver's message, or the class name of its error.
# SQLite's errors, and errors before a connection is established, have only the message.
_HINTS: Final = (
    (r"no such table", _NO_TABLES),
    (r"no such column|has no column named", _TABLES),
    (r"\AUndefined(Table|Column)\b", _TABLES),
    (r"no schema has been selected|permission denied for schema", _SCHEMA),
    (r"permission denied for database", "; as its owner: GRANT CONNECT ON DATABASE … TO {user}"),
    (
        r"permission denied for (table|sequence|relation)|must be owner of",
        "; these tables belong to another user: use the address that created them, or let their "
        "owner grant the privileges to {user}",
    ),
    (r"readonly", "; SQLite writes files beside the database, so make the folder writable too"),
    (r"is locked", "; wait, or stop the process that holds it"),
    (r"not a database", "; name another file, or move this one away"),
    (
        r"malformed|disk I/O error",
        "; the file or its disk is damaged: restore a copy (docs/operations.md, Backups)",
    ),
    (r"disk is full|No space left|\ADiskFull\b", _ROOM),
    (
        r"unable to open database file",
        "; the folder is gone, or SQLite may not write its files there",
    ),
    (r"pipelit_audit_pkey", "; somebody planted an entry with the next number: see audit verify"),
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
        "; enable TLS in the server, or, only for a server on this machine, add ?sslmode=disable",
    ),
    (
        r"certificate verify failed|root certificate file|server certificate",
        "; name the file with the certificate of the server's authority: ?sslrootcert=…",
    ),
    (
        r"too many (clients|connections)|remaining connection slots|no more connections",
        _CONNECTIONS,
    ),
    (
        r"QueuePool limit|query_wait_timeout",
        "; all connections were in use: raise Pipelit(pool_size=…), or the pooler's limit",
    ),
    (r"\A(LockNotAvailable)\b", "; another transaction holds the lock: try again after it ended"),
    (
        r"\A(QueryCanceled)\b",
        "; the statement exceeded its time limit, or an administrator canceled it: try again",
    ),
    (r"\A(UntranslatableCharacter|CharacterNotInRepertoire)\b", _ENCODING),
    (
        r"(starting|shutting) up|shutting down|not yet accepting|in recovery mode",
        "; wait until the server is up",
    ),
    (
        r"failed to resolve host|Name or service not known|could not translate host name",
        "; correct the host name in the address",
    ),
    (r"onnection refused", "; start the server, or correct the address"),
    (r"timeout expired", "; check the address, and whether a firewall blocks the connection"),
    (r"invalid (\w+ )*value", "; correct that option in the address"),
)
_COMPILED: Final = tuple((re.compile(words), what) for words, what in _HINTS)


def hint(cause: BaseException, address: URL) -> str:
    """Return the fix of a driver's error, to append to its message, or an empty string.

    Args:
        cause: The driver's error, or SQLAlchemy's if the driver raised none.
        address: The database's address.
    """
    message = f"{type(cause).__name__} {cause}"
    found = next((fix for pattern, fix in _COMPILED if pattern.search(message)), "")
    user = address.username or "this user"
    return found.replace("{user}", user)


class NamedErrors:
    """Convert database errors to ``StorageError`` with the name of the setting."""

    __slots__ = ("_engine",)

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, REFUSED):
            raise storage_error(self._engine, error) from None


def storage_error(engine: Engine, error: Exception) -> StorageError:
    """Return the error for one of ``REFUSED``."""
    address = engine.url.render_as_string()
    if isinstance(error, UnicodeEncodeError):
        # Leave out the text, which may be a secret.
        if error.reason == "surrogates not allowed":
            return StorageError("text with a lone surrogate can't be stored")
        return StorageError(
            f"the connection to the database at {address} has the encoding {error.encoding}, which "
            f"lacks a character of the text: use a database in UTF-8 (setting: {URL_SETTING})"
        )
    cause = getattr(error, "orig", None) or error
    if getattr(cause, "sqlstate", None) == _LOST_PRIMARY:
        engine.get_execution_options()["pipelit_replace"]()
    # Only the driver's message, because SQLAlchemy's repeats the statement's parameters.
    return StorageError(
        f"the database at {address} refused the request "
        f"({type(cause).__name__}: {cause}){hint(cause, engine.url)} (setting: {URL_SETTING})"
    )
