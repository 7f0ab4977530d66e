"""The row that names a database's encryption key, read before anything is encrypted or tagged.

The table ``pipelit_encryption_key`` has one row: the fingerprint of a key, the fingerprints of the
keys that it replaced, and a tag (MAC) under the key. Without the key nobody can make such a row,
and the row reveals nothing about the key. A process compares its keys with the row in the
transaction of each write. Below, A is the older key, B the newer one, and keys are listed as in
``FIELD_ENCRYPTION_KEY``, newest first.

=======================================  ==========  ===============================================
the row                                  the keys    what happens
=======================================  ==========  ===============================================
missing; nothing is encrypted or tagged  A           The row is written, and names A.
missing; all values that are looked at   A, or B,A   The row is written. It names the oldest key
can be decrypted                                     that one of them needs.
missing; anything else is stored         any         Refused, until ``keys rotate`` names the key.
names A                                  A           Encrypts under A.
names A: after ``keys add``              B,A         Encrypts under B. Processes with A alone go on.
names B: after ``keys rotate``           B, or B,A   Encrypts under B.
names B, which replaced A                A           Refused: restart the process with B.
names B, which replaced A                A,B         Refused: B belongs before A.
names another key, or was changed        any         Refused: set that key. If it is lost, or the
                                                     row was changed: ``keys forget``.
=======================================  ==========  ===============================================

Before a process is refused, it reads its keys again if they come from a function. ``keys rotate``
writes the row before it replaces the first value, and ``keys forget`` writes it before it deletes
the first one, if the keys don't fit it. Both wait for all transactions that have read it, and later
ones read the new row. So no writer that was paused after it read the row can leave a value under a
replaced key. ``keys forget`` ends if the row names none of its keys any more. SQLite has one
writer at a time, and PostgreSQL has a lock: shared to read the row, exclusive to write it.

Whoever can write to the database and kept an earlier row can put it back. A process that has only
the replaced key is then admitted again, and those that have only the current key are refused.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Sequence
from typing import Final, Literal, NamedTuple, TypeAlias
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, Text, Transaction, column, inspect, select, table

from pipelit_agents.database.engine import Database
from pipelit_agents.database.fast_path import Query, Statement
from pipelit_agents.database.locks import lock
from pipelit_agents.errors import ConfigurationError
from pipelit_agents.sealing.keyring import Keyring
from pipelit_agents.sealing.purposes import DATABASE_KEY

__all__ = [
    "KEY_TABLE",
    "KeyState",
    "check_fitting",
    "column_keyring",
    "fitting_keyring",
    "key_state",
    "name_newest_key",
    "needs_key",
    "require_fitting",
    "require_known",
]

KEY_TABLE: Final = "pipelit_encryption_key"
# Which key the row names. The newest of this process, an older one, or an older one that replaced
# the newest; one that isn't here and replaced the newest, or any other; or there is no row.
KeyState: TypeAlias = Literal["newest", "older", "behind", "replaced", "foreign", "missing"]
_LOCK: Final = "encryption-key"
# How many values of a column are decrypted before the row is written for the first time.
_SAMPLE: Final = 100
_REFUSED: Final = "refused to encrypt anything: "


class _KeyRow(NamedTuple):
    """The row. In the table it may hold values of any type."""

    fingerprint: str
    replaced: str
    mac: str


_READ: Final = Query(f"SELECT fingerprint, replaced, mac FROM {KEY_TABLE} WHERE id = 1", _KeyRow)  # noqa: S608
_INSERT: Final = (
    f"INSERT INTO {KEY_TABLE} (id, fingerprint, replaced, mac) "  # noqa: S608
    "VALUES (1, :fingerprint, :replaced, :mac) ON CONFLICT (id) DO "
)
_FIRST: Final = Statement(_INSERT + "NOTHING")
_SET: Final = Statement(
    _INSERT + "UPDATE SET fingerprint = excluded.fingerprint, replaced = excluded.replaced, "
    "mac = excluded.mac"
)
# Takes the write lock of SQLite, in a transaction that may have only read so far.
_HOLD: Final = Statement(f"UPDATE {KEY_TABLE} SET id = id WHERE id = 1")  # noqa: S608
# Whether an engine's database has our tables.
_OURS: Final = WeakKeyDictionary[Engine, bool]()
# The keys with which a transaction of an application may encrypt, and whether they were declared.
_ADMITTED: Final = WeakKeyDictionary[Transaction, list[tuple[bool, Keyring]]]()


def fitting_keyring(connection: Connection, keyring: Keyring) -> Keyring:
    """Return the keys to encrypt or tag with, in the transaction of the write.

    Args:
        connection: A transaction that holds SQLite's write lock.
        keyring: The keys of this process.

    Raises:
        ConfigurationError: The newest key doesn't fit the database.
    """
    lock(connection, _LOCK, shared=True)
    rows = _READ.fetch(connection, {})
    if not rows:
        ring = keyring.snapshot()
        _FIRST.write(connection, _signed(ring, _position_in_use(connection, ring), ()))
        # Another transaction may have been first.
        rows = _READ.fetch(connection, {})
    return _fitting(rows[0], keyring)


def require_fitting(database: Database, keyring: Keyring) -> None:
    """Require that the newest key fits a database, before something is written elsewhere.

    Raises:
        ConfigurationError: It doesn't.
        StorageError: The database can't be reached or isn't migrated.
    """
    if rows := database.fetch(_READ, {}):
        _fitting(rows[0], keyring)
        return
    with database.writing(durable=True) as connection:
        fitting_keyring(connection, keyring)


def column_keyring(connection: Connection, keyring: Keyring, *, is_declared: bool) -> Keyring:
    """Return the keys to encrypt a value of an application's column with.

    Args:
        connection: The application's transaction, of any database.
        keyring: The keys of the column.
        is_declared: Whether the column declares keys of its own. They may be others than this
            package's, so they are only refused if the newest one was replaced.

    Raises:
        ConfigurationError: The table is in a database of this package, and the newest key doesn't
            fit that.
    """
    if not _is_ours(connection):
        return keyring
    known = keyring.snapshot()
    # The row can't change until this transaction, or this savepoint, ends.
    begun = connection.get_nested_transaction() or connection.get_transaction()
    admitted = _ADMITTED.setdefault(begun, []) if begun is not None else []
    for declared, ring in admitted:
        if declared == is_declared and ring.has_the_keys_of(known):
            return ring
    if connection.dialect.name == "sqlite":
        _HOLD.write(connection, {})
    if is_declared:
        found = _unreplaced_keyring(connection, keyring)
    else:
        found = fitting_keyring(connection, keyring)
    admitted.append((is_declared, found))
    return found


def _unreplaced_keyring(connection: Connection, keyring: Keyring) -> Keyring:
    lock(connection, _LOCK, shared=True)
    for row in _READ.fetch(connection, {}):
        for ring in _readings(keyring):
            if ring.origins[0].hex()[:12] not in _replaced(row):
                return ring
        raise _refusal(row, "replaced")
    return keyring.snapshot()


def check_fitting(connection: Connection, keyring: Keyring) -> None:
    """Require that the newest key fits a database, without writing anything.

    Raises:
        ConfigurationError: It doesn't.
    """
    if rows := _READ.fetch(connection, {}):
        _fitting(rows[0], keyring)
    else:
        _position_in_use(connection, keyring.snapshot())


def needs_key(connection: Connection) -> bool:
    """Return whether a database has a key already: the row, or anything encrypted or tagged."""
    return bool(_READ.fetch(connection, {}) or any(_stored(connection)))


def key_state(connection: Connection, keyring: Keyring) -> KeyState:
    """Return what the row says about the keys of this process."""
    for row in _READ.fetch(connection, {}):
        return _state(row, keyring.snapshot())
    return "missing"


def require_known(connection: Connection, keyring: Keyring) -> None:
    """Require that the row names one of the keys, in the transaction of a deletion.

    Otherwise another process has begun to use another key, and a value that these keys don't
    decrypt isn't lost.

    Raises:
        ConfigurationError: It names none of them.
    """
    lock(connection, _LOCK, shared=True)
    for row in _READ.fetch(connection, {}):
        if _position(row, keyring.snapshot()) is None:
            raise ConfigurationError(
                f"nothing more was deleted: this database's key is {row.fingerprint!r:.20} since a "
                "moment ago, so a value that these keys don't decrypt isn't lost. See: "
                "pipelit-agents keys status"
            )


def name_newest_key(connection: Connection, keyring: Keyring, *, anyway: bool = False) -> None:
    """Let the row name the newest key; wait for all transactions that have read it.

    Args:
        connection: A transaction that hasn't read the row.
        keyring: The keys.
        anyway: Also if the row names none of the keys, or was changed.

    Raises:
        ConfigurationError: The row names none of the keys.
    """
    lock(connection, _LOCK)
    ring, rows = keyring.snapshot(), _READ.fetch(connection, {})
    older = [ring.fingerprint(position) for position in range(1, len(ring))]
    for row in rows:
        if _position(row, ring) is not None:
            older = [*_replaced(row), row.fingerprint, *older]
        elif not anyway:
            raise _refusal(row, _state(row, ring))
    _SET.write(connection, _signed(ring, 0, older))


def _signed(ring: Keyring, position: int, replaced: Sequence[str]) -> dict[str, object]:
    """Return the values of a row that names one of the keys."""
    fingerprint = ring.fingerprint(position)
    others = " ".join(each for each in dict.fromkeys(replaced) if each != fingerprint)
    return {
        "fingerprint": fingerprint,
        "replaced": others,
        "mac": list(_macs(ring, fingerprint, others))[position],
    }


def _macs(ring: Keyring, fingerprint: str, replaced: str) -> Iterator[str]:
    return ring.macs(DATABASE_KEY, fingerprint.encode(), replaced.encode())


def _position(row: _KeyRow, ring: Keyring) -> int | None:
    """Return which of the keys has made the row; None if it is none of them."""
    if not all(isinstance(each, str) and each.isascii() for each in row):
        return None
    for position, mac in enumerate(_macs(ring, row.fingerprint, row.replaced)):
        if row.fingerprint == ring.fingerprint(position) and hmac.compare_digest(mac, row.mac):
            return position
    return None


def _replaced(row: _KeyRow) -> list[str]:
    return row.replaced.split() if isinstance(row.replaced, str) else []


def _state(row: _KeyRow, ring: Keyring) -> KeyState:
    position = _position(row, ring)
    if position == 0:
        return "newest"
    was_replaced = ring.fingerprint() in _replaced(row)
    if position is None:
        # The row isn't authenticated here. This decides only which error is raised.
        return "replaced" if was_replaced else "foreign"
    return "behind" if was_replaced else "older"


def _readings(keyring: Keyring) -> Iterator[Keyring]:
    """Yield the known keys; then, if they come from a function, those that it returns now."""
    yield keyring.snapshot()
    if keyring.reread():
        yield keyring.snapshot()


def _fitting(row: _KeyRow, keyring: Keyring) -> Keyring:
    state: KeyState = "foreign"
    for ring in _readings(keyring):
        state = _state(row, ring)
        if state in ("newest", "older"):
            return ring
    raise _refusal(row, state)


def _refusal(row: _KeyRow, state: KeyState) -> ConfigurationError:
    if state in ("behind", "replaced"):
        return ConfigurationError(
            f"{_REFUSED}the newest key of FIELD_ENCRYPTION_KEY was replaced by `keys rotate`: put "
            f"the key {row.fingerprint!r:.20} first, and restart this process. See: pipelit-agents "
            "keys status"
        )
    return ConfigurationError(
        f"{_REFUSED}this database's key is {row.fingerprint!r:.20}, which isn't in "
        "FIELD_ENCRYPTION_KEY, so the key that is set is another one's, or was replaced since this "
        "process started. Is one set in the environment, before the one in .env? See: "
        "pipelit-agents check. For a key that is lost, or a row of pipelit_encryption_key that was "
        "changed: pipelit-agents keys forget"
    )


def _position_in_use(connection: Connection, ring: Keyring) -> int:
    """Return the position of the oldest key that the stored values need; 0 if there are none.

    Raises:
        ConfigurationError: The values don't say which key is this database's.
    """
    tokens, is_tagged = _stored(connection)
    origins = [ring.origin_of(token) for token in tokens]
    positions = [ring.origins.index(each) for each in origins if each is not None]
    if len(positions) == len(tokens) and (positions or not is_tagged):
        return max(positions, default=0)
    raise ConfigurationError(
        f"{_REFUSED}this database doesn't say which key is its own, and the FIELD_ENCRYPTION_KEY "
        "that is set doesn't decrypt everything in it. If it is this database's, run once: "
        "pipelit-agents keys rotate. If its key is lost: pipelit-agents keys forget"
    )


def _stored(connection: Connection) -> tuple[list[str], bool]:
    """Return some ciphertexts of this package's tables, and whether there are tags (MACs)."""
    # Found by what they look like, because the models can't be imported here: the type of their
    # columns imports this module.
    tokens: list[str] = []
    is_tagged = False
    inspector = inspect(connection)
    named = [each for each in inspector.get_table_names() if each.startswith("pipelit_")]
    ours = _with_rows(connection, [each for each in named if each != KEY_TABLE])
    # All tables at once: PostgreSQL's catalog takes milliseconds each time.
    columns = inspector.get_multi_columns(filter_names=ours) if ours else {}
    for (_, name), reflected in columns.items():
        for each in reflected:
            values = column(each["name"], Text)
            found = select(values).select_from(table(name, values))
            if each["name"] == "mac" or each["name"].endswith("_mac"):
                is_tagged |= connection.scalar(found.where(values != "").limit(1)) is not None
            elif isinstance(each["type"], Text):
                wanted = found.where(values.like("gAAAAA%")).limit(_SAMPLE)
                tokens += connection.scalars(wanted)
    return tokens, is_tagged


def _with_rows(connection: Connection, names: Sequence[str]) -> list[str]:
    """Return those of some tables that have rows. In a new database most have none."""
    quote = connection.dialect.identifier_preparer.quote
    # As text, because there is nothing to compile for each table.
    asked = " UNION ALL ".join(
        f"SELECT {number} WHERE EXISTS (SELECT 1 FROM {quote(name)})"  # noqa: S608
        for number, name in enumerate(names)
    )
    found = connection.exec_driver_sql(asked).scalars() if names else ()
    return [names[number] for number in found]


def _is_ours(connection: Connection) -> bool:
    found = _OURS.get(connection.engine)
    if found is None:
        found = _OURS[connection.engine] = inspect(connection).has_table(KEY_TABLE)
    return found
