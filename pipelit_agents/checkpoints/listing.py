"""List checkpoints by metadata that the saver below can't read."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple

from pipelit_agents.checkpoints.cipher import as_json

__all__ = ["Listing", "Page"]

_FIRST_PAGE: Final = 16
_LARGEST_PAGE: Final = 1024


class Page(TypedDict):
    """The keyword arguments of ``list`` for the saver below."""

    filter: dict[str, object] | None
    before: RunnableConfig | None
    limit: int | None


class Listing:
    """One call of ``list``: what to request of the saver below, and which checkpoints match.

    The saver below filters by the metadata that is stored in clear. Everything is compared again
    with the decrypted metadata, as a copy in clear may be missing. If other metadata decides and
    there is a limit, the saver is asked for page after page, so that it doesn't load a whole thread
    for a few checkpoints.

    Args:
        config: As for ``list``.
        wanted: The filter.
        before: As for ``list``.
        limit: As for ``list``.
        clear: Names of metadata that are stored in clear.
    """

    def __init__(
        self,
        config: RunnableConfig | None,
        wanted: Mapping[str, object] | None,
        before: RunnableConfig | None,
        limit: int | None,
        clear: Collection[str],
    ) -> None:
        self._wanted = {name: as_json(value) for name, value in (wanted or {}).items()}
        below = {
            name: value
            for name, value in (wanted or {}).items()
            if name in clear and _is_comparable_in_clear(name, value)
        }
        self._page = Page(filter=below or None, before=before, limit=limit)
        # How many may still be listed, or None if the saver below sees to that.
        self._left: int | None = None
        # How many checkpoints the next page has at most, or 0 if there are no pages.
        self._size = self._read = 0
        self._last = before
        self._has_begun = False
        if limit is not None and len(below) < len(self._wanted):
            self._left = max(limit, 0)
            self._page["limit"] = None
            if config is not None and _is_ordered(config):
                self._size = max(_FIRST_PAGE, limit)

    def next_page(self) -> Page | None:
        """Return the next request for the saver below, or None after the last one."""
        if self.is_full or (self._has_begun and (not self._size or self._read < self._size)):
            return None
        if self._has_begun:
            self._size = max(self._size, min(2 * self._size, _LARGEST_PAGE))
        if self._size:
            self._page["before"], self._page["limit"] = self._last, self._size
        self._has_begun, self._read = True, 0
        return self._page

    def accepts(self, found: CheckpointTuple) -> bool:
        """Return whether a decrypted checkpoint of the page is listed, and count it.

        Args:
            found: The next checkpoint of the page.
        """
        self._read, self._last = self._read + 1, found.config
        metadata: Mapping[str, object] = {**found.metadata}
        if any(as_json(metadata.get(name)) != value for name, value in self._wanted.items()):
            return False
        if self._left is not None:
            self._left -= 1
        return True

    @property
    def is_full(self) -> bool:
        """Whether the limit is reached, so that nothing more has to be read."""
        return self._left == 0


def _is_comparable_in_clear(name: str, value: object) -> bool:
    # Savers differ in how they compare null, lists and objects, and names that are paths.
    return isinstance(value, str | int | float) and name.isidentifier()


def _is_ordered(config: RunnableConfig) -> bool:
    # Within a namespace checkpoints are listed by id, from the newest on, and an id occurs once.
    found = config["configurable"]
    return found.get("checkpoint_ns") is not None and not found.get("checkpoint_id")
