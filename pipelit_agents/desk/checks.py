"""The state of the installation: deployment checks, and which key encrypts what."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Final, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

from fastapi import APIRouter, Depends, Query
from pydantic import Field

from pipelit_agents.desk.at_once import AtOnce
from pipelit_agents.desk.callers import Caller, Home, permitted
from pipelit_agents.desk.fields import Answer
from pipelit_agents.desk.routes import DeskRoute, takes_long
from pipelit_agents.operations.deployment_checks import Check
from pipelit_agents.operations.key_rotation import KeyStatus
from pipelit_agents.pipelit import Pipelit

__all__ = ["CheckResult", "Latest", "latest_checks", "router"]

router: APIRouter = APIRouter(tags=["installation"], route_class=DeskRoute)

CheckReader = Annotated[Caller, Depends(permitted("checks.read"))]
KeyReader = Annotated[Caller, Depends(permitted("encryption_keys.read"))]
R = TypeVar("R")
# Seconds for which a result is given out again.
FRESH: Final = 5.0
# Seconds, while a newer one is being got.
_OLD: Final = 60.0
# How many requests may wait for a result that another one is getting: each holds a thread.
_WAITING: Final = 4


class CheckResult(Answer):
    """The result of one check."""

    name: str = Field(description="The check's short name.", examples=["second factor"])
    ok: bool | None = Field(description="Whether it passed; null if it doesn't apply.")
    found: str = Field(description="The finding.")
    why: str = Field(description="The reason why it matters; empty if the check couldn't run.")
    fix: str = Field(
        description="The command or setting that fixes it; empty if there is nothing to fix, "
        "or if `found` has the fix."
    )


class EncryptionKeys(Answer):
    """How many values are under which key of `FIELD_ENCRYPTION_KEY`."""

    keys: list[str] = Field(
        description="A name of each key, newest first. It reveals nothing about the key."
    )
    newest: int = Field(description="The number of values under the newest key.")
    older: int = Field(description="The number of values under an older key.")
    unreadable: list[str] = Field(description="The values that no key can decrypt; at most 100.")
    columns: dict[str, int] = Field(
        description="The number of values under an older key in columns "
        "that aren't this package's, by `table.column`."
    )
    not_counted: list[str] = Field(
        description="Data that may need an older key and wasn't counted, such as checkpoints."
    )
    older_can_go: bool | None = Field(
        description="Whether nothing needs the older keys. Null if no such value was "
        "found, but some data wasn't counted."
    )


class _Kept(NamedTuple):
    """A result, and when it was got, by a monotonic clock."""

    result: object
    at: float


class Latest:
    """Results that take long, each got by one request at a time and given out for a few seconds.

    Otherwise a page that asks every second, or an operator's script, would read the whole database
    all the time.

    Attributes:
        waiting: The requests that get a result or wait for it.
    """

    def __init__(self) -> None:
        self._one = threading.Lock()
        self.waiting: AtOnce = AtOnce(_WAITING, in_all=_WAITING, what="checks", retry_after=FRESH)
        # A Pipelit that is gone takes its results along.
        self._kept: WeakKeyDictionary[Pipelit, dict[str, _Kept]] = WeakKeyDictionary()

    def get(self, home: Pipelit, what: str, read: Callable[[], R]) -> R:
        """Return a result that is a few seconds old at most; a minute if others wait for it.

        Raises:
            Problem: 429, too many requests wait for it.
        """
        found = self._kept.get(home, {}).get(what)
        age = time.monotonic() - found.at if found else _OLD
        # While another request gets a newer one, the last one serves.
        if found and (age <= FRESH or (age < _OLD and self._one.locked())):
            return found.result  # type: ignore[return-value]
        with self.waiting.begin(), self._one:
            kept = self._kept.setdefault(home, {})
            newer = kept.get(what)
            if newer is None or newer is found:
                newer = kept[what] = _Kept(read(), time.monotonic())
            return newer.result  # type: ignore[return-value]


_LATEST: Final = Latest()


def latest_checks(home: Pipelit, *, deploy: bool) -> Sequence[Check]:
    """Return the checks of this server, a few seconds old at most.

    They look at the folder in which the server was started, as `Pipelit.from_env` does.
    """
    return _LATEST.get(home, f"deploy={deploy}", lambda: home.check(deploy=deploy))


@router.get("/checks", summary="Check the deployment")
@takes_long
def list_checks(
    home: Home,
    caller: CheckReader,
    deploy: Annotated[
        bool, Query(description="Whether to include the checklist for production.")
    ] = False,
) -> list[CheckResult]:
    """Return the checks of this server, each with its result and its fix.

    They look at the server's environment, and at `.env` and `langgraph.json` in the folder in which
    it was started. A result is up to five seconds old.
    """
    return [CheckResult.model_validate(each) for each in latest_checks(home, deploy=deploy)]


@router.get("/encryption-keys", summary="Count values by key")
@takes_long
def get_encryption_keys(home: Home, caller: KeyReader) -> EncryptionKeys:
    """Return the number of values under each encryption key, without the keys.

    It reads the whole database. A result is up to five seconds old.
    """
    found: KeyStatus = _LATEST.get(home, "keys", home.keys.status)
    return EncryptionKeys(
        keys=list(found.keys),
        newest=found.newest,
        older=found.older,
        unreadable=list(found.unreadable[:100]),
        columns=dict(found.columns),
        not_counted=list(found.not_counted),
        older_can_go=found.older_can_go,
    )
