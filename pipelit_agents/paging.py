"""Pages of long lists. Each page begins after a row that an index finds.

So every page takes the same time, however many rows there are. Rows that are added or deleted
meanwhile neither repeat nor hide others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from pipelit_agents._bounds import require_count

__all__ = [
    "DEFAULT_LIMIT",
    "LAST_MOMENT",
    "MAX_LIMIT",
    "Page",
    "not_a_cursor",
    "read_moment",
    "require_limit",
    "written_moment",
]

T = TypeVar("T")

DEFAULT_LIMIT: Final = 50
MAX_LIMIT: Final = 1000
# Unix seconds, later than every time. What somebody planted in a column of SQLite, as text, isn't
# earlier than this, so it is on no page.
LAST_MOMENT: Final = 1e300
_MOMENT: Final = re.compile(r"(\d{1,12}(?:\.\d{1,12})?),([a-z0-9_]{1,64})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a list.

    Attributes:
        items: The items of this page. A page can have fewer items than its limit, even none, while
            others follow.
        next: The argument ``after`` that returns the next page; None on the last page.

    Example:
        ```python
        page = pipelit.users.page()
        while page.next is not None:
            page = pipelit.users.page(after=page.next)
        ```
    """

    items: Sequence[T]
    next: str | None = None

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


def require_limit(limit: object) -> int:
    """Return the maximum number of items of a page.

    Raises:
        TypeError: It isn't a whole number.
        ValueError: It is less than 1, or more than 1,000.
    """
    return require_count(limit, "limit", most=MAX_LIMIT)


def written_moment(at: float, identifier: str) -> str:
    """Return the cursor of a row in a list that is ordered by a time and by id.

    Args:
        at: The time, Unix seconds.
        identifier: The id.

    Returns:
        The cursor; empty for a row that we didn't write.
    """
    written = f"{at!r},{identifier}"
    return written if _MOMENT.fullmatch(written) else ""


def read_moment(after: object) -> tuple[float, str]:
    """Return the time and the id of a cursor.

    Raises:
        TypeError: It isn't text.
        ValueError: It isn't the ``next`` of a page.
    """
    found = _MOMENT.fullmatch(after) if isinstance(after, str) else None
    if found is None:
        raise not_a_cursor(after)
    return float(found[1]), found[2]


def not_a_cursor(after: object) -> Exception:
    """Return the error for an argument ``after`` that no page had as its ``next``."""
    if isinstance(after, str):
        return ValueError("after must be the next of a page of this list")
    return TypeError(f"after must be text, the next of a page, not {type(after).__name__}")
