"""An export of the register of approvals: JSON Lines, with a seal in its last line.

The first line says when and from what it was made, and the last one has the number of lines before
it, their SHA-256, and a tag (HMAC) over both. So a file that was edited, or that ends too early, is
found with the key alone. The tags of the rows are in the file too.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple, NoReturn, Protocol

from pipelit_agents.operations.register_records import (
    Malformed,
    Record,
    name_of,
    record_of,
    to_json,
)
from pipelit_agents.protocol.payload import Json
from pipelit_agents.sealing.keyring import Keyring
from pipelit_agents.sealing.purposes import APPROVAL_REGISTER

__all__ = ["ExportedRegister", "Head", "write_register"]

_KIND: Final = "pipelit.approvals.register"
_VERSION: Final = 1
# Bytes of a line: a question may display 1 MiB, and JSON's escapes are up to six times as long.
_MAX_LINE: Final = 2**24
_BEYOND_FLOATS: Final = 2**63
# Who reads a file that never ends has to stop: after so many lines that have no record, so many
# empty ones after the last line, and so many records, of which each takes memory.
MAX_MALFORMED: Final = 1_000
MAX_EMPTY: Final = 100
MAX_RECORDS: Final = 2**24


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...


class Head(NamedTuple):
    """The first line of an export.

    Attributes:
        exported_at: Unix seconds.
        with_arguments: Whether displayed values and reasons are in the file.
        pruned_until: Entries of the audit up to then may have been pruned; Unix seconds, or 0.
        audit_unsealed: The number of entries of the audit that weren't sealed.
        audit_problems: The number of problems in the audit.
        key: The fingerprint of the key of the seal, as ``keys status`` shows it.
    """

    exported_at: float
    with_arguments: bool
    pruned_until: float
    audit_unsealed: int
    audit_problems: int
    key: str


def write_register(
    keyring: Keyring, head: Head, records: Iterable[Record], write: Callable[[str], object]
) -> int:
    """Write an export, line by line.

    Args:
        keyring: The keys; the newest seals the file.
        head: The first line.
        records: The records.
        write: Receives each line, with its line break.

    Returns:
        The number of records.
    """
    digest, lines = hashlib.sha256(), 0
    _put(write, digest, {"type": _KIND, "version": _VERSION, **head._asdict()})
    for record in records:
        _put(write, digest, to_json(record))
        lines += 1
    found = digest.hexdigest()
    mac = keyring.mac(APPROVAL_REGISTER, str(lines).encode(), found.encode())
    end = {"type": "end", "records": lines, "sha256": found, "mac": mac}
    write(f"{json.dumps(end)}\n")
    return lines


class ExportedRegister:
    """An export that is read once, line by line.

    Args:
        lines: Its lines, as bytes or as text; or a binary file.
        report: Receives each problem of its form.
    """

    def __init__(self, lines: Iterable[bytes | str], report: Callable[[str], object]) -> None:
        self._lines = enumerate(_bounded(lines), 1)
        self._report = report
        self._digest = hashlib.sha256()
        self._records = 0
        self._stopped = ""
        self._end: dict[str, Json] | None = None
        self.head: Head | None = self._read_head()

    def stop(self, why: str) -> None:
        """Read no more lines."""
        self._stopped = self._stopped or why

    def records(self) -> Iterator[Record]:
        """Return the records; a line that has none is reported."""
        malformed = 0
        for number, line in self._lines:
            if self._end is not None:
                if line.strip():
                    self._report(f"line {number} comes after the end of the export")
                if line.strip() or number > self._records + MAX_EMPTY:
                    return
                continue
            if malformed >= MAX_MALFORMED:
                self.stop(f"{malformed:,} lines have no record")
            if self._records >= MAX_RECORDS:
                self.stop(f"it has more than {MAX_RECORDS:,} records")
            if self._stopped:
                return
            try:
                fields = _parsed(line)
                if isinstance(fields, dict) and fields.get("type") == "end":
                    self._end = fields
                    continue
                self._digest.update(line)
                self._records += 1
                record = record_of(fields)
            except Malformed as error:
                self._report(f"line {number}: {error}")
                malformed += 1
                continue
            yield record

    def problem_of_seal(self, keyring: Keyring) -> str:
        """Return why the file isn't what a holder of one of the keys exported; or nothing.

        Call it after the last record.
        """
        if self._stopped:
            return f"the export wasn't read after {self._records:,} records: {self._stopped}"
        if self._end is None:
            return (
                f"the export ends after {self._records:,} records without its last line: it was "
                "cut, or the export was stopped"
            )
        found, mac = self._digest.hexdigest(), self._end.get("mac")
        tagged = str(self._records).encode(), found.encode()
        valid = isinstance(mac, str) and mac.isascii()
        if valid and any(
            hmac.compare_digest(each, str(mac)) for each in keyring.macs(APPROVAL_REGISTER, *tagged)
        ):
            return ""
        same = (found, self._records) == (self._end.get("sha256"), self._end.get("records"))
        if same:
            return (
                "the seal in its last line isn't of a key of FIELD_ENCRYPTION_KEY: add the key of "
                f"the time of the export, {self.head.key if self.head else ''} by its first line "
                "(compare: pipelit-agents keys status). If you have, the file was forged"
            )
        return "the file was changed after the export: lines were edited, added or removed"

    def _read_head(self) -> Head | None:
        _, line = next(self._lines, (0, b""))
        self._digest.update(line)
        try:
            fields = _parsed(line)
            if not isinstance(fields, dict) or fields.get("type") != _KIND:
                return None
            if fields.get("version") != _VERSION:
                return None
            return Head._make(_HEAD[name](fields.get(name)) for name in Head._fields)
        except Malformed:
            return None


def _put(write: Callable[[str], object], digest: _Digest, fields: Mapping[str, Json]) -> None:
    line = f"{json.dumps(fields, allow_nan=False)}\n"
    digest.update(line.encode())
    write(line)


def _bounded(lines: Iterable[bytes | str]) -> Iterator[bytes]:
    readline = getattr(lines, "readline", None)
    found = lines if readline is None else iter(lambda: readline(_MAX_LINE + 1), None)
    for each in found:
        if not each:
            return
        # A lone surrogate can't be in a file: as text it is as wrong as what isn't UTF-8.
        yield each if isinstance(each, bytes) else each.encode(errors="surrogatepass")


def _parsed(line: bytes) -> Json:
    if len(line) > _MAX_LINE:
        raise Malformed(f"it has more than {_MAX_LINE:,} bytes")
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise Malformed("it isn't UTF-8") from None
    try:
        parsed: Json = json.loads(text, object_pairs_hook=_object, parse_constant=_refused)
    except Malformed:
        raise
    except (RecursionError, ValueError):
        raise Malformed("it isn't JSON") from None
    return parsed


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        # Programs disagree which of the two counts.
        raise Malformed("an object in it has a key twice")
    return found


def _refused(constant: str) -> NoReturn:
    raise Malformed(f"it has {constant}, which isn't JSON")


def _number(value: Json) -> float:
    return float(value) if isinstance(value, int | float) and abs(value) < _BEYOND_FLOATS else 0.0


_HEAD: Final[dict[str, Callable[[Json], Any]]] = {
    "exported_at": _number,
    "with_arguments": bool,
    "pruned_until": _number,
    "audit_unsealed": lambda value: int(_number(value)),
    "audit_problems": lambda value: int(_number(value)),
    "key": name_of,
}
