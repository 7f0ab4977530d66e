"""Display in notebooks and terminals: tables, drawings of graphs, and the progress of a spawn.

All text is escaped, and no secret is displayed unless it is requested. Nothing needs the internet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pipelit_agents._late import late
from pipelit_agents.display.tables import (
    Html,
    QrCode,
    Rows,
    SpawnResults,
    html_of,
    qr_code,
    question_rows,
    spawn_results,
    table,
)

if TYPE_CHECKING:
    from pipelit_agents.display.drawing import Drawing, draw
    from pipelit_agents.display.progress import Progress, afollow, follow

__all__ = [
    "Drawing",
    "Html",
    "Progress",
    "QrCode",
    "Rows",
    "SpawnResults",
    "afollow",
    "draw",
    "follow",
    "html_of",
    "qr_code",
    "question_rows",
    "spawn_results",
    "table",
]

# Imported when they are first used: every process has tables in its results, and few draw a graph.
_MODULES: Final = {
    **dict.fromkeys(("Drawing", "draw"), "drawing"),
    **dict.fromkeys(("Progress", "afollow", "follow"), "progress"),
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = late(__name__, _MODULES)
