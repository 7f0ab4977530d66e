"""The error tree, as its docstring draws it, and what every module says it exports."""

from __future__ import annotations

import importlib
import pickle
import pkgutil
import re
from pathlib import Path
from types import ModuleType

import pytest

import pipelit_agents
from pipelit_agents import errors
from pipelit_agents.errors import PipelitError

CLASSES = {
    name: each
    for name, each in vars(errors).items()
    if isinstance(each, type) and issubclass(each, PipelitError)
}
BUILTIN_PARENTS = {"ValueError": ValueError, "LookupError": LookupError}


def modules() -> list[ModuleType]:
    """The package's modules, but for what runs when it is imported."""
    found = [pipelit_agents]
    for each in pkgutil.walk_packages(pipelit_agents.__path__, "pipelit_agents."):
        if not re.search(r"(\.env|\.__main__|versions\..*)$", each.name):
            found.append(importlib.import_module(each.name))
    return found


def drawn() -> dict[str, tuple[str, str]]:
    """Each class of the docstring's drawing, with its parent and its remark."""
    drawing = (errors.__doc__ or "").split("```")[1]
    tree: dict[str, tuple[str, str]] = {}
    above: list[str] = []
    for line in drawing.splitlines()[1:]:
        found = re.match(r"([│├└─ ]*)([A-Z]\w+)\s*(.*)", line)
        if found is None:
            continue
        depth = len(found[1]) // 4
        tree[found[2]] = (above[depth - 1] if depth else "Exception", found[3])
        above[depth:] = [found[2]]
    return tree


def build(kind: type[PipelitError]) -> PipelitError:
    """An exception of the class, with all evidence it can carry."""
    for evidence in (
        {"retry_after": 7.5, "peer": "a", "verifier": "b"},
        {"max_depth": 3},
        {"limit": 2, "username": "a"},
        {"path": "x[0]", "credential": "c"},
        {"peer": "a", "verifier": "b"},
        {"username": "a"},
        {"retry_after": 7.5, "credential": "c"},
        {"credential": "c"},
        {"results": [1]},
    ):
        try:
            return kind("words", **evidence)
        except TypeError:
            continue
    return kind("words")


def test_the_drawing_names_every_class_and_its_parent() -> None:
    """The tree in the docstring has the same classes and the same parents as the code."""
    assert {name: parent for name, (parent, _) in drawn().items()} == {
        name: each.__bases__[0].__name__ for name, each in CLASSES.items()
    }


def test_the_drawing_names_second_parents() -> None:
    """The remark "also a ValueError" stands where the class is one, and nowhere else."""
    for name, (_, remark) in drawn().items():
        for word, parent in BUILTIN_PARENTS.items():
            assert (f"also a {word}" in remark) == issubclass(CLASSES[name], parent), name


def test_the_drawing_names_the_evidence() -> None:
    """Attributes that the drawing gives a class are there."""
    for name, (_, remark) in drawn().items():
        for attribute in re.findall(r"\.([a-z_]+)", remark):
            assert hasattr(build(CLASSES[name]), attribute), (name, attribute)


def test_every_error_is_exported() -> None:
    """``errors.__all__`` is every class of the tree, and the warnings."""
    warnings = {
        "CommonSecretWarning",
        "LedgerWarning",
        "ShortSecretWarning",
        "UnguardedRevealWarning",
        "UnknownAccountWarning",
        "UnusedCredentialWarning",
        "WritableFileWarning",
    }
    assert set(errors.__all__) == {*CLASSES, *warnings}


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_an_error_survives_pickling(name: str) -> None:
    """An error that crosses processes keeps its class, its words and its evidence."""
    error = build(CLASSES[name])
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def test_exports_are_sorted_and_there() -> None:
    """``__all__`` of every module is sorted, without repeats, and names what is there."""
    for module in modules():
        names = getattr(module, "__all__", [])
        assert names == sorted(set(names)), module.__name__
        for name in names:
            assert hasattr(module, name), (module.__name__, name)


def test_modules_with_public_names_say_so() -> None:
    """A module that defines public classes or functions has an ``__all__``."""
    for module in modules():
        own = [
            name
            for name, each in vars(module).items()
            if not name.startswith("_")
            and callable(each)
            and getattr(each, "__module__", "") == module.__name__
            and isinstance(each, type)
        ]
        if own and Path(str(module.__file__)).parent.name != "cli":
            assert getattr(module, "__all__", None), (module.__name__, own)


def test_a_ledger_that_is_gone_is_no_failed_verification() -> None:
    """Whoever catches a failed check doesn't catch a dead database with it."""
    assert issubclass(errors.LedgerUnavailable, errors.StorageError)
    assert not issubclass(errors.LedgerUnavailable, errors.VerificationError)
