"""Each service of `Pipelit` is a public name, and described where users look for it."""

from __future__ import annotations

import inspect

import pytest
from paths import ROOT
from services import services_of

import pipelit_agents
from pipelit_agents import Pipelit

SERVICES = services_of(Pipelit(database_url="sqlite://", encryption_keys=[]))
ATTRIBUTES = inspect.cleandoc(Pipelit.__doc__ or "").partition("Attributes:")[2]
PAGE = (ROOT / "docs" / "reference" / "pipelit.md").read_text()


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_public_and_described(name: str) -> None:
    """By its class or one that this derives from, in the docstring and in the reference."""
    public = {getattr(pipelit_agents, each) for each in pipelit_agents.__all__}
    assert public & set(inspect.getmro(type(SERVICES[name]))), "its class isn't in __all__"
    assert f"\n    {name}: " in ATTRIBUTES, "the docstring of Pipelit doesn't list it"
    assert f"`{name}`" in PAGE, "docs/reference/pipelit.md doesn't name it"
