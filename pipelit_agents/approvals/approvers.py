"""The people who approve, as they are now: active or not, and with which second factor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from sqlalchemy import Connection, select, update

from pipelit_agents._core import Core
from pipelit_agents.database.models import ApprovalAnswerRow, ApprovalRow, ApprovalUseRow, UserRow
from pipelit_agents.database.planted import all_rows
from pipelit_agents.errors import UnsealError
from pipelit_agents.identity.factors import factor_id
from pipelit_agents.sealing.purposes import totp_purpose

__all__ = ["Approver", "current_factor", "read_approvers", "void_unused"]


class Approver(NamedTuple):
    """A person.

    Attributes:
        active: Whether the account is active.
        factor: The id of the current second factor; empty if there is none.
    """

    active: bool
    factor: str


NOBODY: Final = Approver(False, "")


def read_approvers(core: Core, connection: Connection, names: Iterable[str]) -> dict[str, Approver]:
    """Return people by name; a name that isn't a person's has no entry."""
    rows = all_rows(
        connection,
        select(UserRow.username, UserRow.totp_secret, UserRow.active).where(
            UserRow.username.in_(list(names)), UserRow.kind == "human", UserRow.domain == ""
        ),
    )
    found = {}
    for name, sealed, active in rows:
        factor = ""
        # Without the key there is no factor to compare.
        with suppress(UnsealError):
            if sealed is not None:
                secret = core.keyring().unseal(sealed.token, totp_purpose(name))
                factor = factor_id(name, secret)
        found[name] = Approver(bool(active), factor)
    return found


def current_factor(core: Core, username: str) -> str:
    """Return the id of a person's current second factor; empty if there is none."""
    with core.database.reading() as connection:
        return read_approvers(core, connection, [username]).get(username, NOBODY).factor


def void_unused(connection: Connection, usernames: Sequence[str]) -> None:
    """Void the unused approvals of people who were deactivated or have no second factor any more.

    The tags of their answers are erased, so that no other data in the database makes them valid
    again. This needs no key, because a second factor may be reset after the key was lost. So it
    ignores the state of the question: without the key, changes to the state can't be detected. One
    that says that a call was suspended is believed, because it can start again.
    """
    suspended = select(ApprovalRow.id).where(ApprovalRow.state == "suspended")
    used = select(ApprovalUseRow.approval_id).where(ApprovalUseRow.approval_id.not_in(suspended))
    connection.execute(
        update(ApprovalAnswerRow)
        .where(
            ApprovalAnswerRow.username.in_(usernames),
            ApprovalAnswerRow.verdict == "approved",
            ApprovalAnswerRow.approval_id.not_in(used),
        )
        .values(mac="")
    )
