"""Tables for notebooks, with all text escaped, and no secret unless requested.

They are read on white and on black: text has the page's own colour, and the colours of a status
have enough contrast on both. A mark says the same as the colour.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from typing import TYPE_CHECKING, Any, ClassVar, Final, SupportsIndex, TypeVar, overload

from pydantic import SecretStr

from pipelit_agents._discretion import discreet
from pipelit_agents.display.text import printable
from pipelit_agents.exact import exact_json, warnings

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = [
    "Html",
    "QrCode",
    "Rows",
    "SpawnResults",
    "html_of",
    "qr_code",
    "question_rows",
    "spawn_results",
    "status_html",
    "table",
]

T = TypeVar("T")

_CELL: Final = "text-align:left;vertical-align:top;padding:3px 14px 3px 0"
# As wide as its text, up to a line that is easily read; on a narrow page the table is scrolled.
_SHORT: Final = 30
_BREAKS: Final = frozenset(" -")
_TEXT: Final = "width:max-content;max-width:min(36em,70vw);overflow-wrap:anywhere"
# Wide tables are scrolled by themselves, so that the page isn't.
_FRAME: Final = "overflow-x:auto;max-width:100%"
# The contrast of each is 4.1 to 4.6 on white, and as much on JupyterLab's black.
GOOD: Final = "#1f883d"
BAD: Final = "#d93f46"
_WAITING: Final = "#9a7200"
_STATUSES: Final = {
    **dict.fromkeys(("ok", "verified", "approved", "used"), ("✓", GOOD)),
    **dict.fromkeys(("refused", "failed", "timeout", "unreachable", "denied"), ("✗", BAD)),
    **dict.fromkeys(("expired", "suspended"), ("✗", BAD)),
    "pending": ("…", _WAITING),
}
# Only in these columns is a text a status. Elsewhere an agent or a stranger may have chosen it.
_STATUS_COLUMNS: Final = frozenset({"decision", "outcome", "state", "status"})
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

    Columns without any value aren't displayed.

    Args:
        rows: Instances of one dataclass.
        columns: The fields to display.
        exact: The fields with values that a person has to see whole and exactly; see
            ``html_of``.
    """

    def __init__(
        self, rows: Iterable[T], columns: Sequence[str], *, exact: Collection[str] = ()
    ) -> None:
        self._rows = list(rows)
        self._columns = columns
        self._exact = exact

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

    __hash__: ClassVar[None] = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self._rows)

    def _repr_html_(self) -> str:
        cells = [[self._value(row, column) for column in self._columns] for row in self._rows]
        return _filled(self._columns, cells)

    def _value(self, row: T, column: str) -> object:
        value = getattr(row, column)
        if column not in self._exact or value is None:
            return value
        found = _exact(value)
        warned = "".join(f"<div>⚠ {escape(each)}</div>" for each in warnings([value]))
        return Html(found._repr_html_() + warned, repr(found))


def question_rows(questions: Iterable[T]) -> Rows[T]:
    """Return questions to people as a list that a notebook displays as a table.

    Args:
        questions: Instances of ``ApprovalRequest``. What they ask is displayed whole and exactly.
    """
    columns = ("shown", "approvers", "asked_by", "agent", "expires_at", "state", "id")
    return Rows(questions, columns, exact=("shown",))


class QrCode(Html):
    """A QR code for an authenticator app; returned by ``qr_code``."""


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

    A checkpoint returns them as a plain list; ``spawn_results`` displays that too.
    """

    def _repr_html_(self) -> str:
        columns = ("agent", "status", "output", "error", "bound", "proved_at")
        return _filled(columns, [[_at(each.get(column)) for column in columns] for each in self])


def _at(value: object) -> object:
    """Return a time of a result, which is a text, as other times are displayed."""
    if type(value) is str and value.endswith("+00:00") and len(value) <= _SHORT:
        return f"{value.removesuffix('+00:00')}Z"
    return value


def spawn_results(results: Mapping[str, Any] | Iterable[Mapping[str, Any]]) -> SpawnResults:
    """Return results from a checkpoint, a server or several spawns as a table for notebooks.

    Args:
        results: Results of ``spawn_and_await``, or a single one.
    """
    return SpawnResults([results] if isinstance(results, Mapping) else results)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Html:
    """Return rows of your own as a table for notebooks, and as aligned text elsewhere.

    A text in a column ``status``, ``state``, ``outcome`` or ``decision`` gets its mark and colour.

    Args:
        columns: The heads of the columns.
        rows: The values of each row, in the order of the columns. They are displayed by their text.

    Example:
        ```python
        table(["agent", "codes"], [["agent_writer", 3], ["agent_editor", 1]])
        ```
    """
    values = [list(row) for row in rows]
    for row in values:
        if len(row) != len(columns):
            raise ValueError(f"rows: each needs {len(columns)} values, one for each column")
    texts = [list(columns), *([_shortened(value) for value in row] for row in values)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in texts]
    return Html(_table(columns, values), "\n".join(lines))


def status_html(status: str) -> str:
    """Return a status as HTML, with its mark and its colour; any other text is only escaped."""
    mark, colour = _STATUSES.get(status, ("", ""))
    text = escape(_shortened(status))
    if not mark:
        return text
    return f"<span style='color:{colour};font-weight:600;white-space:nowrap'>{mark} {text}</span>"


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
        if _is_empty(found):
            continue
        if name in exact:
            found = _exact(found)
        elif name in _STATUS_COLUMNS and type(found) is str:
            found = Html(status_html(found), found)
        rows.append((name, found))
    found = [getattr(value, name) for name in exact]
    # Not cut, as other texts are.
    rows += [("WARNING", Html(escape(each), each)) for each in warnings(found)]
    return _table((), rows)


def _exact(value: object) -> Html:
    text = exact_json(dict(value) if isinstance(value, Mapping) else value)
    style = "margin:0;background:none;white-space:pre-wrap;overflow-wrap:anywhere"
    return Html(f"<pre style='{style}'>{escape(text)}</pre>", text)


def _filled(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table without the columns in which no row has a value."""
    kept = [
        number
        for number, _ in enumerate(columns)
        if not rows or not all(_is_empty(row[number]) for row in rows)
    ]
    return _table(
        [columns[number] for number in kept], [[row[number] for number in kept] for row in rows]
    )


def _is_empty(value: object) -> bool:
    return value is None or (type(value) in (str, tuple, dict) and not value)


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    head = "".join(
        f"<th style='{_CELL}'>{_fitted(escape(_shortened(name.replace('_', ' '))))}</th>"
        for name in columns
    )
    body = "".join(
        "<tr>"
        + "".join(
            f"<td style='{_CELL}'>{_fitted(_cell(value, column))}</td>"
            for value, column in zip(row, columns or [""] * len(row), strict=True)
        )
        + "</tr>"
        for row in rows
    )
    top = f"<thead><tr>{head}</tr></thead>" if columns else ""
    return f"<div style='{_FRAME}'><table>{top}<tbody>{body}</tbody></table></div>"


def _fitted(html: str) -> str:
    if len(html) <= _SHORT:
        return f"<span style='white-space:nowrap'>{html}</span>" if _BREAKS & set(html) else html
    return html if html.startswith("<span") else f"<div style='{_TEXT}'>{html}</div>"


def _cell(value: object, column: str) -> str:
    if isinstance(value, Html):
        return value._repr_html_()
    if type(value) is dict and value:
        # A field a line. No value can make a line of its own.
        lines = "\n".join(f"{key}: {each}".replace("\n", " ") for key, each in value.items())
        return "<br>".join(map(escape, _cut(lines).split("\n")))
    if type(value) is str and column in _STATUS_COLUMNS:
        return status_html(value)
    return escape(_shortened(value))


def _shortened(value: object) -> str:
    """Return the text of a cell, with invisible characters escaped, and cut if it is long."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds").replace("+00:00", "Z")
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple) and all(type(each) is str for each in value):
        return _cut(", ".join(value))
    return _cut(str(value)).replace("\n", " ")


def _cut(text: str) -> str:
    shown = printable(text[:_MAX_CELL])
    return shown if len(text) <= _MAX_CELL else f"{shown}…"
