"""Pages of lists: at most so many items, and a cursor for the next ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Generic, Self, TypeVar

from fastapi import Query
from pydantic import BaseModel, Field

from pipelit_agents.paging import Page as LibraryPage

__all__ = ["After", "Limit", "Page"]

S = TypeVar("S")
T = TypeVar("T")


class Page(BaseModel, Generic[T]):
    """A part of a list."""

    items: list[T] = Field(description="The items, in the order of the list.")
    next: str | None = Field(
        description="Pass it as `after` for the items that follow; null at the end of the list."
    )

    @classmethod
    def of(cls, page: LibraryPage[S], answer: Callable[[S], T]) -> Self:
        """Return a page of the library with each item as the desk answers it."""
        return cls(items=[answer(each) for each in page], next=page.next)


Limit = Annotated[int, Query(ge=1, le=100, description="The maximum number of items.")]
After = Annotated[
    str | None,
    Query(min_length=1, max_length=512, description="`next` of the page before, as it is."),
]
