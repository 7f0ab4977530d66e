"""The demonstration's graphs for a LangGraph Server, as listed in ``langgraph.json``.

If ``READER_URL`` is set in the environment, the lead uses the reader on the server at that URL.
``docs/remote.md`` is a step-by-step guide.
"""

from __future__ import annotations

import os
from typing import Final

from pipelit_agents import Pipelit

from ..child import VerifiedChild, verified_child
from ..remote import remote_child
from ..spawn.results import Child
from ..types import AnyStateGraph
from .graphs import lead_graph, reader_graph

__all__ = ["lead", "reader"]

LEAD: Final = "agent_lead"
READER: Final = "agent_reader"
CREDENTIAL: Final = "reader-server"

_pipelit = Pipelit.from_env()
_url = os.environ.get("READER_URL")

reader: VerifiedChild = verified_child(reader_graph(), _pipelit.agent(READER), accept_from=[LEAD])
_child: Child = remote_child(READER, url=_url, credential=CREDENTIAL) if _url else reader
lead: AnyStateGraph = lead_graph(_pipelit, _pipelit.agent(LEAD), {READER: _child}).compile(
    name="lead"
)
