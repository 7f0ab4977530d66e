"""Functions are the same if their code and the values that they work with are."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial, wraps
from typing import Any

import pytest

from pipelit_agents import Agent, Pipelit
from pipelit_agents.graphs import created_agents
from pipelit_agents.graphs.spawn.same_functions import is_same_function

BACKENDS = False
LEAD: Agent = Pipelit(database_url="sqlite://", encryption_keys=["A" * 43 + "="]).agent("lead")


def find(tenant: Any, name: str) -> Any:
    """Find a tenant's child."""
    return tenant, name


class Tenant:
    """Has children, and says that it is equal to everything."""

    def __init__(self, tenant: Any) -> None:
        self.tenant = tenant

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0

    def __call__(self, name: str) -> Any:
        """Find a child."""
        return self.tenant, name

    def find(self, name: str) -> Any:
        """Find a child."""
        return self.tenant, name


def closure(tenant: Any) -> Callable[[str], Any]:
    """An inner function."""
    return lambda name: (tenant, name)


def defaulted(tenant: Any) -> Callable[[str], Any]:
    """A function with the tenant as a default."""
    return lambda name, tenant=tenant: (tenant, name)


def keyword_only(tenant: Any) -> Callable[[str], Any]:
    """A function with the tenant as the default of a keyword."""
    return lambda name, *, tenant=tenant: (tenant, name)


def wrapped(tenant: Any) -> Callable[[str], Any]:
    """A function in a decorator that has the tenant."""

    def plain(name: str) -> Any:
        return name

    @wraps(plain)
    def wrapper(name: str) -> Any:
        return tenant, plain(name)

    return wrapper


def recursive(tenant: Any) -> Callable[[str], Any]:
    """A function that refers to itself."""

    def again(name: str) -> Any:
        return again(name[1:]) if name else tenant

    return again


MAKERS: dict[str, Callable[[Any], Any]] = {
    "partial": lambda tenant: partial(find, tenant),
    "keyword of a partial": lambda tenant: partial(find, tenant=tenant),
    "partial of a closure": lambda tenant: partial(closure(tenant)),
    "closure": closure,
    "closure of a closure": lambda tenant: closure(closure(tenant)),
    "tuple in a closure": lambda tenant: closure((1, (tenant,))),
    "default": defaulted,
    "default of a keyword": keyword_only,
    "decorator": wrapped,
    "cache": lambda tenant: lru_cache(closure(tenant)),
    "recursive": recursive,
    "created_agents": lambda tenant: created_agents(LEAD, build=closure(tenant)),
    "globals": lambda tenant: eval("lambda name: (tenant, name)", tenant_globals(tenant)),  # noqa: S307
}
_GLOBALS: dict[str, dict[str, Any]] = {}


def tenant_globals(tenant: Any) -> dict[str, Any]:
    """The globals of a tenant's module."""
    return _GLOBALS.setdefault(repr(tenant), {"tenant": tenant})


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_equal_values_are_the_same_and_others_arent(make: Callable[[Any], Any]) -> None:
    """However the tenant gets into the function; two functions of one code are made each time."""
    assert is_same_function(make("a"), make("a"))
    assert not is_same_function(make("a"), make("b"))
    assert not is_same_function(make(1), make(True))


@pytest.mark.parametrize(
    "make",
    [
        lambda tenant: tenant,
        lambda tenant: tenant.find,
        lambda tenant: partial(find, tenant),
        closure,
    ],
    ids=["called", "bound method", "partial", "closure"],
)
def test_an_object_is_the_same_only_as_itself(make: Callable[[Any], Any]) -> None:
    """Whatever its ``==`` says."""
    one = Tenant("a")
    assert is_same_function(make(one), make(one))
    assert not is_same_function(make(one), make(Tenant("a")))


def test_other_code_is_another_function() -> None:
    """Also of another kind, or with other keywords."""
    assert not is_same_function(closure("a"), defaulted("a"))
    assert not is_same_function(closure("a"), partial(find, "a"))
    assert not is_same_function(partial(find, "a"), partial(find, "a", "b"))
    assert not is_same_function(partial(find, a=1), partial(find, b=1))
