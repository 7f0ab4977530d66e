"""Reach into the private parts of pipelit-agents for which there is no public way.

Tests use public names. What is here lets them read and change a database as someone who has access
to it could, and put a fault where a test needs one. ``test_private_names.py`` lists the private
names that other files still use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langgraph_sdk import Auth

from pipelit_agents import Agent, Keyring, Pipelit

# What serves concurrent requests in batches.
from pipelit_agents._batching import Batching as Batching

# What calls a function for the encryption keys.
from pipelit_agents._key_source import KeySource as KeySource

# What reads the URIs and exports of authenticator apps; `credentials.put` names the credential too.
from pipelit_agents._otpauth import Authenticator as Authenticator
from pipelit_agents._otpauth import exported_accounts as exported_accounts
from pipelit_agents._otpauth import is_otpauth as is_otpauth
from pipelit_agents._otpauth import read_base32 as read_base32
from pipelit_agents._otpauth import read_otpauth as read_otpauth

# What runs blocking code for a task that may be cancelled.
from pipelit_agents._threads import handed_over as handed_over

# What judges whether a text may be a secret.
from pipelit_agents._words import PLAIN_NAME as PLAIN_NAME
from pipelit_agents._words import WITHHELD as WITHHELD
from pipelit_agents._words import has_secret_form as has_secret_form
from pipelit_agents._words import may_be_secret as may_be_secret
from pipelit_agents._words import quoted as quoted
from pipelit_agents._words import recordable as recordable
from pipelit_agents.database.engine import Database


def database_of(pipelit: Pipelit) -> Database:
    """Return the database: to read and change rows, and to count statements and connections."""
    return pipelit._database


def keyring_of(pipelit: Pipelit) -> Keyring:
    """Return the keyring: to encrypt what an older version or another process would have stored."""
    return pipelit._open_keyring()


def identity_of(owner: Pipelit | Agent) -> Any:
    """Return what verifies codes and proofs: to do something else between its steps."""
    return owner._identity


def ledger_of(pipelit: Pipelit) -> Any:
    """Return the ledger: to ask it directly, and to break its connection or its epoch."""
    return pipelit._ledger.open()


def stored_values_of(pipelit: Pipelit) -> Any:
    """Return the library's own encrypted values: to change them between a rotation's steps."""
    return pipelit.keys._values


def authentication_of(auth: Auth) -> Callable[..., Any]:
    """Return what a LangGraph server calls for each request; its SDK has no public name for it."""
    return auth._authenticate_handler


def clock_of(pipelit: Pipelit) -> Callable[[], float] | None:
    """Return the clock: another Pipelit on the same database has to have the same time."""
    return pipelit._clock


def verify_person(pipelit: Pipelit, username: str, code: str, *, own: bool) -> Any:
    """Verify a person's code: her own attempt, or one of a graph that anybody may resume."""
    return pipelit.mfa._verify(username, code, own=own)


def generated(model: Any, text: str) -> Any:
    """What a chat model answers to LangChain's own machinery."""
    return model._generate([HumanMessage(text)])


async def agenerated(model: Any, text: str) -> Any:
    """As `generated`."""
    return await model._agenerate([HumanMessage(text)])


def streamed(model: Any, text: str) -> Any:
    """As `generated`, in pieces."""
    return model._stream([HumanMessage(text)])


def astreamed(model: Any, text: str) -> Any:
    """As `streamed`."""
    return model._astream([HumanMessage(text)])


def type_and_tracing(model: Any) -> tuple[str, dict[str, Any]]:
    """What LangChain's middleware asks a chat model about itself."""
    return model._llm_type, model._get_ls_params(stop=["x"])


def shorter_clearing(monkeypatch: pytest.MonkeyPatch, wait: float, limit: float) -> None:
    """Give a remote child's thread less time to be deleted: before a result, and altogether."""
    for name, seconds in (("_CLEAR_UP_TIMEOUT", wait), ("_CLEAR_UP_LIMIT", limit)):
        monkeypatch.setattr(f"pipelit_agents.graphs.remote_run.{name}", seconds)


def few_guesses(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Let each address have so many API keys looked up, and no more; refuse without a delay."""
    monkeypatch.setattr("pipelit_agents.bearer._SOURCE_BUDGET", (most, 1e-6))
    monkeypatch.setattr("pipelit_agents.bearer._MAX_DELAY", 0.0)


def lasting_readiness(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the desk ask whether it is ready only once."""
    monkeypatch.setattr("pipelit_agents.desk.health._TTL", 1e9)


@contextmanager
def busy_desk() -> Iterator[Callable[[], bool]]:
    """Keep all threads of the desks of this event loop busy; yield whether a request waits."""
    from pipelit_agents.desk import routes

    limiters = [routes._limiter(each) for each in (routes._SHORT, routes._LONG)]
    with ExitStack() as busy:
        for limiter in limiters:
            for _ in range(int(limiter.total_tokens)):
                worker = object()
                limiter.acquire_on_behalf_of_nowait(worker)
                busy.callback(limiter.release_on_behalf_of, worker)
        yield lambda: any(each.statistics().tasks_waiting for each in limiters)
