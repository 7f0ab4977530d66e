"""Describe the stored credentials: one, all, or a page of them; and count them."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import Final

from pipelit_agents._twins import off_the_loop
from pipelit_agents.credentials.rows import (
    CredentialInfo,
    StoredCredential,
    count_credentials,
    count_owners,
    read_credential,
    read_credentials,
)
from pipelit_agents.credentials.service import CredentialService
from pipelit_agents.credentials.whose import of_person
from pipelit_agents.database.key_row import check_fitting
from pipelit_agents.display import Rows
from pipelit_agents.paging import DEFAULT_LIMIT, Page, not_a_cursor, require_limit
from pipelit_agents.protocol.usernames import is_username

__all__ = ["CredentialLists"]


class CredentialLists(CredentialService):
    """Describes credentials and counts them, and opens none; a part of ``Credentials``."""

    def get(
        self, name: str, *, person: str | None = None, unreadable: bool = False
    ) -> CredentialInfo:
        """Return the displayable description of a credential.

        Args:
            name: The credential.
            person: Whose own credential it is; by default the shared one.
            unreadable: Whether to describe it also if no key decrypts it, with ``readable`` False.

        Raises:
            CredentialNotFound: No credential has that name.
            AccountError: ``person`` isn't a person of this database.
            UnsealError: It can't be decrypted with this keyring.
        """
        with self._core.database.reading() as connection:
            row = read_credential(connection, name, of_person(connection, person))
        return self._described([row], unreadable)[0]

    aget: Final = off_the_loop(get)

    def list(
        self, *, kind: str | None = None, person: str | None = None, unreadable: bool = False
    ) -> Sequence[CredentialInfo]:
        """Return the descriptions of the shared credentials, or of one person's, ordered by name.

        Args:
            kind: Only credentials of this kind.
            person: Whose own credentials to list, also if the person was deactivated; by default
                the shared ones.
            unreadable: Whether to list also those that no key decrypts, with ``readable`` False.

        Raises:
            AccountError: ``person`` isn't a person of this database.
            ConfigurationError: The keys are those of another database.
            UnsealError: One of them can't be decrypted with this keyring.
        """
        with self._core.database.reading() as connection:
            rows = read_credentials(connection, kind, of_person(connection, person))
        columns = ("name", "kind", "masked", "public", "created_by", "allow", "updated_at")
        return Rows(self._described(rows, unreadable), columns)

    alist: Final = off_the_loop(list)  # noqa: A003 - refers to the method, not the builtin

    def page(
        self,
        *,
        after: str | None = None,
        limit: int = DEFAULT_LIMIT,
        kind: str | None = None,
        person: str | None = None,
        unreadable: bool = False,
    ) -> Page[CredentialInfo]:
        """Return one page of what ``list`` returns, ordered by name.

        Args:
            after: The ``next`` of the page before; by default the first page.
            limit: The maximum number of credentials, 1 to 1,000.
            kind: Only credentials of this kind.
            person: Whose own credentials to list; by default the shared ones.
            unreadable: Whether to list also those that no key decrypts, with ``readable`` False.

        Raises:
            AccountError: ``person`` isn't a person of this database.
            ConfigurationError: The keys are those of another database.
            TypeError: ``limit`` isn't a whole number.
            UnsealError: One of them can't be decrypted with this keyring.
            ValueError: ``limit`` is out of range, or ``after`` isn't the ``next`` of a page.
        """
        require_limit(limit)
        if after is not None and not is_username(after):
            raise not_a_cursor(after)
        with self._core.database.reading() as connection:
            whose = of_person(connection, person)
            rows = read_credentials(connection, kind, whose, after=after, limit=limit + 1)
        some = self._described(rows[:limit], unreadable)
        return Page(some, some[-1].name if len(rows) > limit else None)

    apage: Final = off_the_loop(page)

    def count(self, *, person: str | None = None) -> int:
        """Return how many shared credentials there are, or how many are one person's own.

        Raises:
            AccountError: ``person`` isn't a person of this database.
        """
        with self._core.database.reading() as connection:
            return count_credentials(connection, of_person(connection, person))

    acount: Final = off_the_loop(count)

    def count_owners(self) -> int:
        """Return how many people have own credentials, deactivated people included."""
        with self._core.database.reading() as connection:
            return count_owners(connection)

    acount_owners: Final = off_the_loop(count_owners)

    def _described(
        self, rows: Sequence[StoredCredential], unreadable: bool
    ) -> builtins.list[CredentialInfo]:
        if not rows:
            return []
        keyring = self._core.keyring()
        found = [row.info(keyring, unreadable=unreadable) for row in rows]
        if not all(each.readable for each in found):
            # With a wrong key none could be read, and the key is what has to be corrected.
            with self._core.database.reading() as connection:
                check_fitting(connection, keyring)
        return found
