"""Functions for the Alembic of an application that shares its database with pipelit-agents.

Use both functions in the application's ``env.py``. Without the first one, ``alembic revision
--autogenerate`` finds tables that aren't in the application's models, and generates their removal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from alembic.autogenerate.api import AutogenContext

__all__ = ["include_name", "render_item"]

# The prefix of all tables of this package, including Alembic's version table.
_PREFIX: Final = "pipelit_"


def include_name(
    name: str | None, type_: str, parent_names: Mapping[str, str | None] | None = None
) -> bool:
    """Make Alembic ignore the tables of pipelit-agents.

    Pass it to ``context.configure(include_name=include_name)``, or call it from a function of your
    own there.

    Args:
        name: The name that Alembic found in the database.
        type_: The kind of object: ``table``, ``column``, ``index`` and so on.
        parent_names: The names of the schema and table around it.

    Returns:
        False for the tables of pipelit-agents and their parts, True for everything else.
    """
    table = name if type_ == "table" else (parent_names or {}).get("table_name")
    return not (table or "").startswith(_PREFIX)


def render_item(type_: str, item: object, autogen_context: AutogenContext) -> str | Literal[False]:
    """Render an ``EncryptedString`` in a migration.

    Pass it to ``context.configure(render_item=render_item)``. It adds the import that the
    migration needs. The keyring is left out, because a migration encrypts nothing.

    Args:
        type_: The kind of object; only ``type`` is handled.
        item: The object, for example a column's type.
        autogen_context: Collects the imports of the migration.

    Returns:
        The expression, or False to let Alembic render the object.
    """
    if type_ != "type":
        return False
    # Imported here, so that importing this package doesn't load SQLAlchemy.
    from pipelit_agents.database.encrypted_string import EncryptedString

    if not isinstance(item, EncryptedString):
        return False
    autogen_context.imports.add("from pipelit_agents import EncryptedString")
    return "EncryptedString()"
