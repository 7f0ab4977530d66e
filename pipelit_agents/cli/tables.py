"""Tables of rows that fit the terminal.

Times are short, and blank values are words. A column that is blank in every row is left out. If a
table doesn't fit, each row becomes a block of lines. A value that another command takes, such as a
name or an id, is never cut or wrapped: one that is wider than the terminal has a line of its own.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import typer

from pipelit_agents.cli.output import beside_others, encodable, is_blank, plain, worded

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from rich.console import Console
    from rich.text import Text

__all__ = ["Column", "columns_of", "show_table", "style_of"]

_INDENT: Final = 2
# Between two columns, and between two fields of a block.
_GAP: Final = 2
# The narrowest column of wrapped text, and of text that is cut.
_MIN_TEXT: Final = 20
_MIN_CUT: Final = 12
# A word in a text may be as long as an id, and isn't broken then.
_MAX_WORD: Final = 40
# Lines of a block. Longer ones have an empty line between them.
_MAX_DENSE: Final = 2
_GOOD: Final = "green"
_BAD: Final = "red"
# By column, as in `pipelit-agents demo`.
_STYLES: Final[Mapping[str, Mapping[str, str]]] = {
    "outcome": {"ok": _GOOD, "refused": _BAD},
    "state": {"approved": _GOOD, "used": _GOOD, "denied": _BAD, "unfinished": _BAD},
    "delivered": {"yes": _GOOD, "no": _BAD},
    "active": {"no": _BAD},
    "action": {"revoked": _BAD, "closed": _BAD},
}

Row: TypeAlias = "DataclassInstance | Mapping[str, object]"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        name: The field of the rows.
        how: ``id`` for a value that another command takes, which is shown whole; ``text`` for
            words that may be wrapped; ``cut`` for a beginning of a longer value; ``time`` and
            ``date`` for moments.
        title: The heading; by default the field's name.
        blank: What a blank value means, in words; by default as :func:`worded` says it.
        usual: The value, in words, that needn't be shown if all rows have it.
        head: Whether the value is on the first line of a block.
    """

    name: str
    how: Literal["id", "text", "cut", "time", "date"] = "text"
    title: str = ""
    blank: str = ""
    usual: str = ""
    head: bool = False

    @property
    def heading(self) -> str:
        """The heading of the column."""
        return self.title or self.name.removesuffix("_at").replace("_", " ")

    @property
    def is_time(self) -> bool:
        """Whether the values are moments."""
        return self.how in ("time", "date")


def columns_of(*columns: Column | str) -> tuple[Column, ...]:
    """Return columns; of one that is passed as text, nothing but the name is special."""
    return tuple(Column(each) if isinstance(each, str) else each for each in columns)


def style_of(column: str, value: str) -> str:
    """Return the colour of a value, or an empty string."""
    return _STYLES.get(column, {}).get(value, "")


def show_table(
    rows: Sequence[Row],
    columns: Sequence[Column],
    *,
    as_json: bool,
    empty: str = "There are none.",
) -> None:
    """Print rows as a table, or as blocks of lines if a table would be wider than the terminal.

    Args:
        rows: Dataclasses or mappings.
        columns: The fields to show. JSON contains all fields.
        as_json: Print JSON.
        empty: What to print if there are no rows.
    """
    found = [row if isinstance(row, Mapping) else dataclasses.asdict(row) for row in rows]
    if as_json:
        every = [{key: plain(value) for key, value in row.items()} for row in found]
        typer.echo(json.dumps(every, indent=2))
        return
    if not found:
        typer.echo(empty)
        return
    from rich.console import Console

    # Values are data: markup and emoji codes in them mean nothing.
    console = Console(highlight=False, markup=False, emoji=False)
    shown = [each for each in columns if not all(_is_usual(row[each.name], each) for row in found)]
    cells = [[_cell(row[each.name], each, console) for each in shown] for row in found]
    widths = _widths(shown, cells, console.width - _INDENT)
    lines = (
        _blocks(shown, cells, console) if widths is None else _table(shown, cells, widths, console)
    )
    for line in lines:
        # The lines are made for this width. A name that is wider is wrapped by the terminal, so
        # that it is copied whole.
        line.rstrip()
        console.print(line, soft_wrap=True)
    if said := _said_of_all(columns, shown):
        for line in _wrapped(said, console.width):
            console.print(line, soft_wrap=True)


def _is_usual(value: object, column: Column) -> bool:
    return is_blank(value) or bool(column.usual and worded(column.name, value) == column.usual)


def _cell(value: object, column: Column, console: Console) -> str:
    if is_blank(value):
        return column.blank or worded(column.name, value)
    if column.is_time and isinstance(value, datetime):
        return _short(value, datetime.now(UTC).date(), with_time=column.how == "time")
    return encodable(beside_others(worded(column.name, value)), console.encoding)


def _short(moment: datetime, today: date, *, with_time: bool) -> str:
    at = moment.astimezone(UTC)
    day = "today" if at.date() == today else f"{at:%Y-%m-%d}"
    return f"{day} {at:%H:%M}" if with_time else day


def _said_of_all(columns: Iterable[Column], shown: Sequence[Column]) -> str:
    """Return what the columns that are left out would say in words, or an empty string."""
    told = []
    for column in columns:
        word = column.usual or column.blank or worded(column.name, None)
        if column not in shown and word != "none":
            told.append(f"{column.heading}: {word}")
    return f"In every row: {'; '.join(told)}." if told else ""


def _heading(column: Column) -> str:
    return f"{column.heading} (UTC)" if column.is_time else column.heading


def _widths(
    columns: Sequence[Column], cells: Sequence[Sequence[str]], width: int
) -> list[int] | None:
    """Return the width of each column, or None if the table doesn't fit."""
    from rich.cells import cell_len

    least, wanted = [], []
    for at, column in enumerate(columns):
        values = [row[at] for row in cells]
        heading = cell_len(_heading(column))
        longest = max(heading, *(cell_len(value) for value in values))
        if column.how == "text":
            words = [cell_len(word) for value in values for word in value.split()]
            narrow = max(heading, min(_MAX_WORD, max(words, default=0)), min(longest, _MIN_TEXT))
            least.append(min(longest, narrow))
        elif column.how == "cut":
            least.append(max(heading, min(longest, _MIN_CUT)))
        else:
            least.append(longest)
        wanted.append(longest)
    room = width - sum(least) - _GAP * (len(columns) - 1)
    if room < 0:
        return None
    open_columns = sorted(range(len(columns)), key=lambda at: wanted[at] - least[at])
    for done, at in enumerate(open_columns):
        more = min(wanted[at] - least[at], room // (len(columns) - done))
        least[at] += more
        room -= more
    return least


def _table(
    columns: Sequence[Column],
    cells: Sequence[Sequence[str]],
    widths: Sequence[int],
    console: Console,
) -> Iterator[Text]:
    from rich.text import Text

    total = sum(widths) + _GAP * (len(widths) - 1)
    yield _line([Text(_heading(each), "bold") for each in columns], widths)
    yield Text(" " * _INDENT + ("-" if console.options.ascii_only else "─") * total)
    for row in cells:
        parts = [
            _parts(value, column, width)
            for value, column, width in zip(row, columns, widths, strict=True)
        ]
        for at in range(max(map(len, parts))):
            yield _line([each[at] if at < len(each) else Text() for each in parts], widths)


def _parts(value: str, column: Column, width: int) -> list[Text]:
    """Return the lines of a cell."""
    from rich.text import Text

    style = style_of(column.name, value)
    if column.how == "text":
        return [Text(each, style) for each in wrap(value, width)]
    text = Text(value, style)
    if column.how == "cut":
        text.truncate(width, overflow="ellipsis")
    return [text]


def _line(parts: Sequence[Text], widths: Sequence[int]) -> Text:
    from rich.text import Text

    line = Text(" " * _INDENT)
    for part, width in zip(parts, widths, strict=True):
        line.append_text(part)
        line.append(" " * (width - part.cell_len + _GAP))
    return line


def _blocks(
    columns: Sequence[Column], cells: Sequence[Sequence[str]], console: Console
) -> Iterator[Text]:
    from rich.text import Text

    blocks = [list(_block(columns, row, console)) for row in cells]
    apart = max(map(len, blocks)) > _MAX_DENSE
    for number, lines in enumerate(blocks):
        if number and apart:
            yield Text()
        yield from lines


def _block(columns: Sequence[Column], row: Sequence[str], console: Console) -> Iterator[Text]:
    from rich.text import Text

    heads, fields = [], []
    for column, value in zip(columns, row, strict=True):
        told = f"{value} UTC" if column.is_time and value[-1:].isdigit() else value
        style = style_of(column.name, value)
        if column.head:
            heads.append(Text(told, style or "bold"))
        elif told != "none":
            fields.append((column, told, style))
    yield from _flow(heads, console.width, indent=0)
    yield from _fields(fields, console.width)


def _fields(fields: Iterable[tuple[Column, str, str]], width: int) -> Iterator[Text]:
    from rich.cells import cell_len
    from rich.text import Text

    flowing: list[Text] = []
    for column, value, style in fields:
        label = f"{column.heading}: "
        whole = Text.assemble((label, "dim"), (value, style))
        if whole.cell_len <= width - _INDENT:
            flowing.append(whole)
            continue
        yield from _flow(flowing, width, indent=_INDENT)
        flowing = []
        if column.how in ("text", "cut"):
            yield from _wrapped(f"{label}{value}", width, indent=_INDENT)
        else:
            # On a line of its own, whole.
            yield Text.assemble(" " * _INDENT, (label.rstrip(), "dim"))
            fits = cell_len(value) + 2 * _INDENT <= width
            yield Text.assemble(" " * (2 * _INDENT if fits else 0), (value, style))
    yield from _flow(flowing, width, indent=_INDENT)


def _flow(parts: Iterable[Text], width: int, *, indent: int) -> Iterator[Text]:
    """Return lines with as many parts as fit on each."""
    from rich.text import Text

    line = Text()
    for part in parts:
        if line and indent + line.cell_len + _GAP + part.cell_len > width:
            yield Text(" " * indent).append_text(line)
            line = Text()
        if line:
            line.append(" " * _GAP)
        line.append_text(part)
    if line:
        yield Text(" " * (indent if indent + line.cell_len <= width else 0)).append_text(line)


def _wrapped(text: str, width: int, *, indent: int = 0) -> Iterator[Text]:
    from rich.text import Text

    for number, each in enumerate(wrap(text, width - 2 * indent)):
        yield Text(" " * (indent if number == 0 else 2 * indent) + each)


def wrap(text: str, width: int) -> list[str]:
    """Return a text in lines of at most so many cells, broken between words where possible."""
    from rich.cells import cell_len, chop_cells

    # A terminal may be narrower than an indent.
    width = max(2, width)
    lines, line = [], ""
    for word in text.split(" "):
        if cell_len(line) + 1 + cell_len(word) <= width and line:
            line = f"{line} {word}"
            continue
        if line:
            lines.append(line)
        *whole, line = chop_cells(word, width) or [""]
        lines += whole
    return [*lines, line]
