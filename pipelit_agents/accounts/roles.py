"""The roles of people: operators, who manage the others' accounts, and members."""

from __future__ import annotations

from typing import Final, get_args

from sqlalchemy import ColumnElement, Connection, and_, select, text, true, update

from pipelit_agents._twins import off_the_loop
from pipelit_agents._words import quoted
from pipelit_agents.accounts.lookup import AccountRow, find_account, require_active
from pipelit_agents.accounts.models import Role, User, role_of, user_of
from pipelit_agents.accounts.service import AccountService
from pipelit_agents.database.conditions import KINDS_OF_ACCOUNTS
from pipelit_agents.database.models import UserRow
from pipelit_agents.errors import LastOperator, NotPermitted
from pipelit_agents.protocol.usernames import OPERATOR, require_username

__all__ = ["Roles", "require_role"]

_ROLES: Final = get_args(Role)


class Roles(AccountService):
    """The roles of people; a base class of ``Users``."""

    def set_role(self, username: str, role: Role, *, by: str = OPERATOR) -> User:
        """Make a person an operator or a member.

        The table of what each role may do is for what asks it: the desk, and
        ``Permissions.require``. The other methods of the library ask for no role.

        Args:
            username: The person.
            role: ``operator`` or ``member``.
            by: The requester's name, for the audit. Only your own code, ``operator``, can make the
                last operator a member.

        Returns:
            The changed account.

        Raises:
            InvalidUsername: The username is malformed.
            UserNotFound: There is no such account.
            NotPermitted: It is an agent or a peer, which have no role.
            UserInactive: It was deactivated.
            LastOperator: No other operator would be left.
            ValueError: ``role`` is another word.
        """
        name, role = require_username(username), require_role(role)
        with self._database.writing(durable=True) as connection:
            return self.set_role_in(connection, name, role, by=by)

    aset_role: Final = off_the_loop(set_role)

    def set_role_in(
        self, connection: Connection, username: str, role: Role, *, by: str = OPERATOR
    ) -> User:
        """Set a role as ``set_role`` does, in the caller's transaction."""
        self._lock_operators(connection)
        row = find_account(connection, username)
        if not role_of(row):
            raise NotPermitted(
                f"{username!r} isn't a person of this database: only people have a role",
                username=username,
            )
        require_active(row)
        if role_of(row) != role:
            if role != "operator":
                self._require_another_operator(connection, row, by)
            connection.execute(
                update(UserRow).where(UserRow.username == row.username).values(role=role)
            )
            self._core.record(connection, by, row.username, "user.role", role)
        return user_of(find_account(connection, row.username))

    def require_another_operator(self, username: str, *, by: str = OPERATOR) -> None:
        """Require that an account isn't the last active operator, before a code is spent on it.

        ``set_role`` and ``deactivate`` decide again, when no other request can interfere.

        Args:
            username: The account that is to be made a member or deactivated.
            by: Who asks. Code in the process, ``operator``, needs no other operator.

        Raises:
            InvalidUsername: The username is malformed.
            UserNotFound: There is no such account.
            LastOperator: No other operator would be left.

        Example:
            ```python
            pipelit.users.require_another_operator("alice", by="alice")
            pipelit.mfa.verify("alice", code)
            pipelit.users.deactivate("alice", by="alice")
            ```
        """
        with self._database.reading() as connection:
            row = find_account(connection, require_username(username))
            self._require_another_operator(connection, row, by)

    arequire_another_operator: Final = off_the_loop(require_another_operator)

    def has_operator(self) -> bool:
        """Return whether there is an active operator."""
        with self._database.reading() as connection:
            return _is_any(connection)

    ahas_operator: Final = off_the_loop(has_operator)

    def _lock_operators(self, connection: Connection) -> None:
        # Before any other lock of the transaction, so that two operators who demote each other at
        # once do it one after the other.
        self._database.lock(connection, "operators:")

    def _role_of_new(self, connection: Connection, role: Role | None) -> Role:
        """Return the role of a new person; the operators are locked."""
        if role is not None:
            return role
        return "member" if _is_any(connection) else "operator"

    def _require_another_operator(self, connection: Connection, row: AccountRow, by: str) -> None:
        """Require that an active operator isn't the last one; the operators are locked.

        Raises:
            LastOperator: It is, and the requester isn't the process itself.
        """
        if by == OPERATOR or not row.active or role_of(row) != "operator":
            return
        if not _is_any(connection, UserRow.username != row.username):
            raise LastOperator(
                f"{row.username!r} is the last operator: make another person an operator first "
                "(pipelit-agents users role NAME operator)",
                username=row.username,
            )


def require_role(role: object) -> Role:
    """Return a role.

    Raises:
        ValueError: It is another word.
    """
    if role not in _ROLES:
        raise ValueError(f"role must be 'operator' or 'member', not {quoted(role)}")
    return role  # type: ignore[return-value]


def _is_any(connection: Connection, *where: ColumnElement[bool]) -> bool:
    operators = text(KINDS_OF_ACCOUNTS["operators"])
    active = and_(UserRow.active == true(), UserRow.kind == "human", UserRow.domain == "")
    query = select(UserRow.username).where(operators, active, *where)
    return connection.scalar(query.limit(1)) is not None
