"""Fixtures of tests that replace the encryption key."""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

import pytest

from pipelit_agents import Keyring


@pytest.fixture(autouse=True)
def no_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the models of other tests, which this process knows too."""
    monkeypatch.setattr("pipelit_agents.database.encrypted_string._KNOWN", WeakSet())


@pytest.fixture
def old(settings: dict[str, Any]) -> Keyring:
    """The key that everything is encrypted under."""
    return Keyring(*settings["encryption_keys"])


@pytest.fixture
def newer() -> str:
    """The key that replaces it."""
    return Keyring.generate_key()
