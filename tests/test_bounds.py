"""Numbers that callers pass: each is in its range, or is refused by the name of its argument."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from command_line import typed
from spawning import NAME, graph_of

from pipelit_agents import Agent, Pipelit
from pipelit_agents._bounds import (
    require_count,
    require_duration,
    require_flag,
    require_moment,
    require_seconds,
    require_span,
)
from pipelit_agents.errors import ConfigurationError
from pipelit_agents.graphs import remote_child, spawn_and_await, verified_child
from pipelit_agents.tools import SpawnAndAwait

BACKENDS = ("sqlite",)
INFINITY = float("inf")
NAN = float("nan")


class OwnInt(int):
    """A number that answers comparisons by itself."""

    def __lt__(self, other: object) -> bool:
        return False

    __gt__ = __lt__


class OwnFloat(float):
    """Another."""


NO_SECONDS = [
    INFINITY, -INFINITY, NAN, -1, -0.5, 1e300, 10**400, 10**5000, -(10**5000), True, False, "5",
    Decimal(5), Fraction(5), timedelta(seconds=5), 5j, None, OwnInt(5), OwnFloat(5), [5],
]  # fmt: skip
NO_COUNTS = [
    INFINITY, NAN, 1.5, 1.0, 0, -1, 2**31, 10**400, 10**5000, True, "5", Decimal(5), OwnInt(5), [],
]  # fmt: skip


@pytest.fixture
def calls(pipelit: Pipelit, writer: Agent) -> dict[str, Callable[[Any], Any]]:
    """Everything that takes a number, by what the number is called; the first five are seconds."""
    pipelit.users.create_agent(NAME, owner="alice", purpose="p")
    children = {NAME: verified_child(graph_of(), pipelit.agent(NAME))}

    def spawn(**option: Any) -> Any:
        return spawn_and_await(writer, children, **option)

    def tool(**option: Any) -> Any:
        return SpawnAndAwait(agent=writer, children=children, **option)

    return {
        "timeout": lambda n: spawn(timeout=n),
        "timeout of the tool": lambda n: tool(timeout=n),
        "lifetime": lambda n: writer.challenge(NAME, lifetime=n),
        "lifetime of a request": lambda n: writer.spend_request(NAME, b"c" * 32, lifetime=n),
        "patience": lambda n: remote_child(
            NAME, url="https://a.example", credential=None, patience=n
        ),
        "max_concurrency": lambda n: spawn(max_concurrency=n),
        "max_depth": lambda n: spawn(max_depth=n),
        "max_answer_bytes": lambda n: spawn(max_answer_bytes=n),
        "max_concurrency of the tool": lambda n: tool(max_concurrency=n),
        "max_depth of the tool": lambda n: tool(max_depth=n),
        "max_answer_bytes of the tool": lambda n: tool(max_answer_bytes=n),
        "max_tasks": lambda n: tool(max_tasks=n),
        "limit": lambda n: pipelit.audit.list(limit=n),
        "batch": lambda n: pipelit.audit.seal(batch=n),
        "batch of a rotation": lambda n: pipelit.keys.rotate(batch=n),
        "pool_size": lambda n: Pipelit(
            database_url="sqlite:///x.db", encryption_keys=[], pool_size=n
        ),
    }


SECONDS = ("timeout", "timeout of the tool", "lifetime", "lifetime of a request", "patience")
COUNTS = (
    "max_concurrency", "max_depth", "max_answer_bytes", "max_concurrency of the tool",
    "max_depth of the tool", "max_answer_bytes of the tool", "max_tasks", "limit", "batch",
    "batch of a rotation", "pool_size",
)  # fmt: skip


@pytest.mark.parametrize("name", SECONDS)
def test_seconds_are_finite_and_in_range(calls: dict[str, Callable[[Any], Any]], name: str) -> None:
    """Each that isn't is refused by name, whatever it is, and what is in range is taken."""
    for number in NO_SECONDS:
        if number is None and name.startswith("timeout"):
            calls[name](None)
            continue
        with pytest.raises((TypeError, ValueError), match=f"^{name.split()[0]} must be "):
            calls[name](number)
    for number in (0.5, 60, 86_400.0):
        calls[name](number)


@pytest.mark.parametrize("name", COUNTS)
def test_counts_are_whole_and_in_range(calls: dict[str, Callable[[Any], Any]], name: str) -> None:
    """Each that isn't is refused by name; 1 and 100 are taken."""
    kinds = (TypeError, ValueError, ConfigurationError)
    for number in (*NO_COUNTS, None):
        if number is None and name.startswith("max_concurrency"):
            calls[name](None)
            continue
        with pytest.raises(kinds, match=f"^{name.split()[0]} must be "):
            calls[name](number)
    for number in (1, 100):
        calls[name](number)


def test_durations_and_moments_are_in_range(pipelit: Pipelit, writer: Agent) -> None:
    """An overlap of centuries and a moment that no calendar can show again are refused by name."""
    rotate = pipelit.users.rotate_totp
    for overlap in (timedelta(days=367), timedelta.max, timedelta.min, timedelta(seconds=-1)):
        with pytest.raises(ValueError, match=r"^overlap "):
            rotate("agent_writer", overlap=overlap)
    for number in (5, INFINITY, True):
        with pytest.raises(TypeError, match=r"^overlap "):
            rotate("agent_writer", overlap=number)  # type: ignore[arg-type]
    west = timezone(timedelta(hours=-12))
    issue = pipelit.users.issue_api_key
    for moment in (datetime.max.replace(tzinfo=west), datetime.min.replace(tzinfo=west)):
        with pytest.raises(ValueError, match=r"^expires_at must be from the year"):
            issue("alice", name="k", expires_at=moment)
        # It would delete everything, and then fail to write down that it did.
        with pytest.raises(ValueError, match=r"^before must be from the year"):
            pipelit.audit.prune(moment)
    assert issue("alice", name="k", expires_at=datetime(9998, 12, 1, tzinfo=UTC))
    assert pipelit.users.list_api_keys("alice")
    with pytest.raises(ValueError, match=r"^after must be"):
        pipelit.audit.list(after=2**63)


def test_a_command_that_repeats_pauses(
    pipelit: Pipelit, database_url: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--every 0s`` and a pause that no system can wait for are refused, and nothing is sealed."""
    monkeypatch.setenv("PIPELIT_DATABASE_URL", database_url)
    monkeypatch.setenv("FIELD_ENCRYPTION_KEY", key)
    for every in ("0s", "99999d"):
        found = typed("audit", "seal", "--every", every)
        assert found.exit_code != 0
        assert "--every must be" in found.output
    assert pipelit.audit.head().number == 0


def test_the_checks_return_plain_values() -> None:
    """The ends of each range are in it."""
    assert [require_seconds(n, "n") for n in (1e-9, 1, 366 * 86_400)] == [1e-9, 1.0, 366 * 86_400.0]
    assert require_seconds(0, "n", zero=True) == 0.0
    assert [require_count(n, "n") for n in (1, 2**31 - 1)] == [1, 2**31 - 1]
    assert require_duration(timedelta(0), "n") == timedelta(0)
    assert require_moment(datetime(1970, 1, 1, tzinfo=UTC), "n") == 0.0
    with pytest.raises(ValueError, match="time zone"):
        require_moment(datetime(2030, 1, 1), "n")  # noqa: DTZ001 - the mistake that is meant
    with pytest.raises(TypeError, match=r"total_seconds\(\)"):
        require_seconds(timedelta(seconds=5), "n")


NO_SPANS = [each for each in NO_SECONDS if not isinstance(each, timedelta | OwnInt | OwnFloat)]


@pytest.mark.parametrize("number", range(len(NO_SPANS)))
def test_a_span_is_seconds_or_a_timedelta(number: int) -> None:
    """An int that no float holds is too long, as every other long span is."""
    for most in (None, timedelta(days=1)):
        with pytest.raises((TypeError, ValueError), match="within must be "):
            require_span(NO_SPANS[number], "within", most=most)
    for span in (timedelta(seconds=5), 5, 5.0, OwnInt(5), OwnFloat(5)):
        assert require_span(span, "within") == 5.0


NO_FLAGS = [None, 0, 1, 1.0, "", "no", "False", b"", [], [False], OwnInt(1), object()]


@pytest.mark.parametrize("flag", NO_FLAGS, ids=range(len(NO_FLAGS)))
def test_a_flag_is_true_or_false(flag: Any) -> None:
    """A text that says no would count as yes."""
    assert (require_flag(True, "dry_run"), require_flag(False, "dry_run")) == (True, False)
    with pytest.raises(TypeError, match=r"^dry_run must be True or False, not \w+$"):
        require_flag(flag, "dry_run")
