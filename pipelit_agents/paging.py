"""Pages of long lists: each one begins after a row, which an index finds.

So a page takes the same time wherever it is, and how many rows there are doesn't matter. Rows that
are added or deleted meanwhile neither repeat nor hide others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from pipelit_agents._bounds import require_count

__all__ = ["DEFAULT_LIMIT", "MAX_LIMIT", "Page", "require_limit"]

T = TypeVar("T")

DEFAULT_LIMIT: Final = 50
MAX_LIMIT: Final = 1000


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a list.

    Attributes:
        items: What is on this page. A page can have fewer items than its limit, even none, although
            others follow.
        next: What to pass as ``after`` for the next page; None on the last page.

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
