"""Display in notebooks: small tables, with all text escaped, and no secret unless requested."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from typing import TYPE_CHECKING, Any, Final, SupportsIndex, TypeVar, overload

from pydantic import SecretStr

from pipelit_agents._discretion import discreet
from pipelit_agents.exact import exact_json, warnings

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["Html", "QrCode", "Rows", "SpawnResults", "html_of", "qr_code", "spawn_results"]

T = TypeVar("T")

_CELL: Final = "text-align:left;padding:2px 12px 2px 0"
_GOOD: Final = "#1a7f37"
_BAD: Final = "#cf222e"
_COLOURS: Final = {"ok": _GOOD, "verified": _GOOD, "refused": _BAD, "failed": _BAD, "timeout": _BAD}
# Characters of a cell.
_MAX_CELL: Final = 500


class Html:
    """An object that a notebook displays as HTML and other programs as text.

    Args:
        html: The HTML; the caller has to escape it.
        text: The text.
    """

    def __init__(self, html: str, text: str) -> None:
        self._html = html
        self._text = text

    def _repr_html_(self) -> str:
        return self._html

    def __repr__(self) -> str:
        return self._text


class Rows(Sequence[T]):
    """A list that a notebook displays as a table.

    Args:
        rows: Instances of one dataclass.
        columns: The fields to display.
    """

    def __init__(self, rows: Iterable[T], columns: Sequence[str]) -> None:
        self._rows = list(rows)
        self._columns = columns

    @overload
    def __getitem__(self, index: SupportsIndex) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> T | list[T]:
        return self._rows[index]

    def __len__(self) -> int:
        return len(self._rows)

    def __eq__(self, other: object) -> bool:
        return self._rows == (other._rows if isinstance(other, Rows) else other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self._rows)

    def _repr_html_(self) -> str:
        cells = [[getattr(row, column) for column in self._columns] for row in self._rows]
        return _table(self._columns, cells)


class QrCode(Html):
    """A QR code for an authenticator app; returned by :func:`qr_code`."""


@discreet
def qr_code(uri: SecretStr | str) -> QrCode:
    """Draw an ``otpauth://`` URI. It contains the secret, so clear the output afterwards.

    Args:
        uri: The URI that ``mfa.enroll``, ``create_agent`` or ``issue_peering`` returned.
    """
    import segno

    text = uri.get_secret_value() if isinstance(uri, SecretStr) else uri
    drawn = segno.make(text, error="m", micro=False)
    # On white, also in dark notebooks: cameras can't read an inverted code.
    svg = drawn.svg_inline(scale=4, light="white")
    return QrCode(svg, "QrCode(****)")


class SpawnResults(list[Any]):
    """The results of ``spawn_and_await``: a list that a notebook displays as a table.

    A checkpoint returns them as a plain list; :func:`spawn_results` displays that too.
    """

    def _repr_html_(self) -> str:
        columns = ("agent", "status", "output", "error", "bound", "proved_at")
        return _table(columns, [[each.get(column) for column in columns] for each in self])


def spawn_results(results: Mapping[str, Any] | Iterable[Mapping[str, Any]]) -> SpawnResults:
    """Return results from a checkpoint, a server or several spawns as a table for notebooks.

    Args:
        results: Results of ``spawn_and_await``, or a single one.
    """
    return SpawnResults([results] if isinstance(results, Mapping) else results)


def html_of(value: DataclassInstance, *, exact: Collection[str] = ()) -> str:
    """Return a dataclass as an HTML table of its fields.

    Args:
        value: The dataclass.
        exact: The fields with values that a person has to see whole and exactly, as somebody else
            chose them: as JSON, with everything escaped that could mislead, and with warnings.
    """
    fields = [field.name for field in dataclasses.fields(value) if field.repr]
    rows: list[tuple[str, object]] = []
    for name in fields:
        found = getattr(value, name)
        rows.append((name, _exact(found) if name in exact and found is not None else found))
    found = [getattr(value, name) for name in exact]
    # Not cut, as other texts are.
    rows += [("WARNING", Html(escape(each), each)) for each in warnings(found)]
    return _table((), rows)


def _exact(value: object) -> Html:
    text = exact_json(dict(value) if isinstance(value, Mapping) else value)
    style = "margin:0;white-space:pre-wrap;overflow-wrap:anywhere"
    return Html(f"<pre style='{style}'>{escape(text)}</pre>", text)


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    head = "".join(f"<th style='{_CELL}'>{escape(name.replace('_', ' '))}</th>" for name in columns)
    body = "".join(
        "<tr>" + "".join(f"<td style='{_CELL}'>{_cell(value)}</td>" for value in row) + "</tr>"
        for row in rows
    )
    top = f"<thead><tr>{head}</tr></thead>" if columns else ""
    return f"<table>{top}<tbody>{body}</tbody></table>"


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, Html):
        return value._repr_html_()
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds").replace("+00:00", "Z")
    text = str(value)
    shown = escape(text if len(text) <= _MAX_CELL else f"{text[:_MAX_CELL]}…")
    colour = _COLOURS.get(text)
    return f"<span style='color:{colour}'>{shown}</span>" if colour else shown
