"""What an application that shares its database with pipelit-agents tells its own Alembic.

Both functions go into the application's ``env.py``. Without the first one, ``alembic revision
--autogenerate`` finds tables that the application doesn't know, and plans to drop them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from alembic.autogenerate.api import AutogenContext

__all__ = ["include_name", "render_item"]

# All tables of this package begin with it, the one with the version of their migrations too.
_PREFIX: Final = "pipelit_"


def include_name(
    name: str | None, type_: str, parent_names: Mapping[str, str | None] | None = None
) -> bool:
    """Tell Alembic to leave the tables of pipelit-agents alone.

    Pass it to ``context.configure(include_name=include_name)``, or call it from a function of your
    own there.

    Args:
        name: The name that Alembic found in the database.
        type_: What has that name: ``table``, ``column``, ``index`` and so on.
        parent_names: The names of the schema and table around it.

    Returns:
        False for the tables of pipelit-agents and what belongs to them, True for all else.
    """
    table = name if type_ == "table" else (parent_names or {}).get("table_name")
    return not (table or "").startswith(_PREFIX)


def render_item(type_: str, item: Any, autogen_context: AutogenContext) -> str | Literal[False]:
    """Tell Alembic how to write an :class:`EncryptedString` into a migration.

    Pass it to ``context.configure(render_item=render_item)``. It adds the import that the
    migration needs. The keyring is left out, as a migration encrypts nothing.

    Args:
        type_: What is written; only ``type`` is of interest here.
        item: The column's type, where it is one.
        autogen_context: Collects the imports of the migration.

    Returns:
        The expression, or False to let Alembic write the item.
    """
    if type_ != "type":
        return False
    # Here, so that importing this package loads no SQLAlchemy.
    from pipelit_agents.database.encrypted_string import EncryptedString

    if not isinstance(item, EncryptedString):
        return False
    autogen_context.imports.add("from pipelit_agents import EncryptedString")
    return "EncryptedString()"
