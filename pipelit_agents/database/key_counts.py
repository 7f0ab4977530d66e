"""How many encrypted values are under which key."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipelit_agents.sealing.keyring import Keyring

__all__ = ["Counted"]


@dataclass(slots=True)
class Counted:
    """The result of counting.

    Attributes:
        newest: How many values are under the newest key.
        older: How many values are under an older key, by column.
        unreadable: Which values no key decrypts.
        not_counted: What couldn't be read, and why.
    """

    newest: int = 0
    older: dict[str, int] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)
    not_counted: list[str] = field(default_factory=list)

    def add(self, other: Counted) -> None:
        """Add the result of another count."""
        self.newest += other.newest
        for name, number in other.older.items():
            self.add_older(name, number)
        self.unreadable += other.unreadable
        self.not_counted += other.not_counted

    def add_older(self, name: str, number: int = 1) -> None:
        """Add values that are under an older key."""
        self.older[name] = self.older.get(name, 0) + number

    def add_value(self, origin: bytes, keyring: Keyring, name: str) -> None:
        """Add one value by the origin of its key.

        A value under a key that isn't in the keyring needs none of the older keys.
        """
        if origin in keyring.origins[1:]:
            self.add_older(name)
        else:
            self.newest += 1
