"""Display in notebooks and terminals: tables, drawings of graphs, and the progress of a spawn.

All text is escaped, and no secret is displayed unless it is requested. Nothing needs the internet.
"""

from __future__ import annotations

from pipelit_agents.display.drawing import Drawing, draw
from pipelit_agents.display.progress import Progress, afollow, follow
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
