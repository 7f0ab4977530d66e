"""A keyring whose keys come from a source and may change while the system runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

from pipelit_agents.errors import UnsealError
from pipelit_agents.sealing.keyring import Keyring

__all__ = ["LiveKeyring", "Source"]

T = TypeVar("T")


class Source(Protocol):
    """Where the keys come from: ``KeySource``, which calls a function for them."""

    def current(self) -> Keyring:
        """Return the known keys."""

    def again(self, seen: Keyring) -> bool:
        """Read the keys again, because those in ``seen`` fail; return whether there are others."""

    def ask_again(self) -> None:
        """Read the keys now."""


class LiveKeyring(Keyring):
    """The current keys of a source, or keys derived from them.

    Args:
        source: The source of the keys.
        labels: What the keys are derived for, one derivation after the other.
    """

    __slots__ = ("_kept", "_labels", "_source")

    def __init__(self, source: Source, *labels: str) -> None:
        self._source = source
        self._labels = labels
        self._kept: tuple[Keyring, Keyring] | None = None

    def _now(self) -> tuple[Keyring, Keyring]:
        """Return the keys of the source, and those that are derived from them."""
        root = self._source.current()
        kept = self._kept
        if kept is None or kept[0] is not root:
            derived = root
            for label in self._labels:
                derived = derived.derive(label)
            kept = self._kept = (root, derived)
        return kept

    # The methods of Keyring read these attributes.
    _keys: Any = property(lambda self: self._now()[1]._keys)
    _fernet: Any = property(lambda self: self._now()[1]._fernet)
    _newest: Any = property(lambda self: self._now()[1]._newest)
    _origins: Any = property(lambda self: self._now()[1]._origins)

    def snapshot(self) -> Keyring:
        """Return a keyring of the keys that are known now."""
        return self._now()[1]

    def ask_again(self) -> None:
        """Call the function for the keys now."""
        self._source.ask_again()

    def reread(self) -> bool:
        """As ``Keyring.reread``."""
        root, _ = self._now()
        return self._source.again(root)

    def unseal(self, token: str, purpose: str) -> bytes:
        """As ``Keyring.unseal``; if the known keys fail, with new ones."""
        return self._tried(lambda ring: ring.unseal(token, purpose))

    def require_opening(self, token: str) -> None:
        """As ``Keyring.require_opening``, with new keys too."""
        self._tried(lambda ring: ring.require_opening(token))

    def renew(self, token: str) -> str:
        """As ``Keyring.renew``, with new keys too."""
        return self._tried(lambda ring: ring.renew(token))

    def is_newest(self, token: str) -> bool:
        """As ``Keyring.is_newest``, with new keys too."""
        _, ring = self._now()
        if ring.is_newest(token):
            return True
        try:
            self.require_opening(token)
        except UnsealError:
            return False
        return self._now()[1] is not ring and self._now()[1].is_newest(token)

    def macs(self, label: str, *parts: bytes) -> Iterator[str]:
        """As ``Keyring.macs``; tags under new keys follow those under the known ones."""
        root, ring = self._now()
        yield from ring.macs(label, *parts)
        # The caller goes on only if none of the known keys made the tag.
        if self._source.again(root):
            yield from self._now()[1].macs(label, *parts)

    def derive(self, label: str) -> Keyring:
        """As ``Keyring.derive``; the keys follow the source."""
        return LiveKeyring(self._source, *self._labels, label)

    def _tried(self, act: Callable[[Keyring], T]) -> T:
        root, ring = self._now()
        try:
            return act(ring)
        except UnsealError:
            if not self._source.again(root):
                raise
        return act(self._now()[1])

    def __repr__(self) -> str:
        # A debugger or an error tracker that shows it must not call the function.
        return "LiveKeyring()"
