"""docs/reference/ has every public name, and says where to import it from."""

from __future__ import annotations

import inspect
import pkgutil
import re
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest
from paths import ROOT

import pipelit_agents

FOLDER = ROOT / "docs" / "reference"
PAGES = {file.name: file.read_text() for file in FOLDER.glob("*.md")}
# Each "::: name" of the pages, and the page that has it.
SHOWN = {
    name: page for page, text in PAGES.items() for name in re.findall(r"^::: (\S+)", text, re.M)
}
# The command has a page of its own, and `Page` and `Pipelit` are imported from the package.
NOT_FOR_USERS = {"pipelit_agents.cli", "pipelit_agents.paging", "pipelit_agents.pipelit"}
# The reference has them as well. They are imported from a module that re-exports nothing.
MORE = (
    "pipelit_agents.accounts.permissions.ACTIONS",
    "pipelit_agents.accounts.permissions.may",
    "pipelit_agents.operations.webhooks.signature",
    "pipelit_agents.protocol.binding.Binding",
    "pipelit_agents.protocol.payload.encode",
    "pipelit_agents.testing.fixtures.fake_credential",
)


def public_modules() -> list[ModuleType]:
    """The package, and each module at its top, or package below it, that lists its names."""
    names = [each.name for each in pkgutil.iter_modules(pipelit_agents.__path__)]
    found = [
        import_module(f"pipelit_agents.{name}")
        for name in [*names, "graphs", "tools"]
        if not name.startswith("_") and f"pipelit_agents.{name}" not in NOT_FOR_USERS
    ]
    return [each for each in (pipelit_agents, *found) if hasattr(each, "__all__")]


PUBLIC = [f"{module.__name__}.{name}" for module in public_modules() for name in module.__all__]


def resolved(name: str) -> Any:
    """What a dotted name means."""
    top, *parts = name.split(".")
    found: Any = import_module(top)
    for at, part in enumerate(parts):
        home = ".".join([top, *parts[:at]])
        # `graphs.verified_agent` is a function, and the module that it is in.
        if not hasattr(found, part):
            found = import_module(home)
        found = getattr(found, part) if hasattr(found, part) else import_module(f"{home}.{part}")
    return found


def displayed() -> list[Any]:
    """Every object that a page displays, by its own name or as a part of a module."""
    found = []
    for name in SHOWN:
        each = resolved(name)
        found.append(each)
        if isinstance(each, ModuleType):
            found += [getattr(each, part) for part in each.__all__]
    return found


def test_each_name_that_a_page_displays_is_there() -> None:
    """And each is displayed once."""
    written = re.findall(r"^::: (\S+)", "\n".join(PAGES.values()), re.MULTILINE)
    assert len(written) == len(SHOWN)
    for name in SHOWN:
        resolved(name)


def test_every_public_name_is_displayed() -> None:
    """A name that is added to an ``__all__`` has to be on a page."""
    ids = {id(each) for each in displayed()}
    assert len(PUBLIC) > 150
    assert [name for name in (*PUBLIC, *MORE) if id(resolved(name)) not in ids] == []


def test_a_class_displays_what_it_inherits() -> None:
    """A reader finds the methods of its parts, which are on no page, unless the page lists some."""
    written = "\n".join(PAGES.values())
    options = dict(re.findall(r"^::: (\S+)\n((?:    .*\n)*)", written, re.MULTILINE))
    classes = {name: resolved(name) for name in SHOWN if inspect.isclass(resolved(name))}
    on_a_page = {id(each) for each in displayed()}
    lacking = {
        name
        for name, each in classes.items()
        for base in each.__mro__
        if base.__module__.startswith("pipelit_agents.")
        and id(base) not in on_a_page
        and [method for method in vars(base) if not method.startswith("_")]
        and not re.search(r"inherited_members: true|\bmembers: \[", options[name])
    }
    assert lacking == set()


def test_no_module_hides_what_it_is_named_after() -> None:
    """Of a module and a function of one name, mkdocstrings takes the module."""
    for name in SHOWN:
        each = resolved(name)
        if isinstance(each, ModuleType) and hasattr(each, "__path__"):
            modules = {found.name for found in pkgutil.iter_modules(each.__path__)}
            assert not modules & {*each.__all__}, name


def test_the_index_has_a_line_for_each_page() -> None:
    """Its table links each page once, by the title that the navigation has too."""
    rows = re.findall(r"^\| \[(.+?)\]\((\S+)\) \| .+ \| .+ \|$", PAGES["index.md"], re.MULTILINE)
    titles = {page: text.partition("\n")[0] for page, text in PAGES.items() if page != "index.md"}
    assert {page: f"# {title}" for title, page in rows} == titles
    navigation = (ROOT / "mkdocs.yml").read_text()
    for title, page in rows:
        assert f"- {title}: reference/{page}\n" in navigation


@pytest.mark.parametrize("page", sorted({*PAGES} - {"index.md"}))
def test_a_page_says_what_it_has(page: str) -> None:
    """Before the names there is a sentence."""
    title, _, rest = PAGES[page].partition(":::")[0].partition("\n")
    assert title.startswith("# ")
    assert re.fullmatch(r"\n[A-Z`].*\.\n\n", rest, re.DOTALL)


def test_every_public_name_is_described() -> None:
    """Its docstring begins with one sentence in one line, and so do those of its methods."""
    found = {}
    for name in PUBLIC:
        each = resolved(name)
        if not (inspect.isclass(each) or inspect.isroutine(each)):
            continue
        found[name] = each
        if inspect.isclass(each):
            found |= {
                f"{name}.{method}": function
                for base in each.__mro__
                if base.__module__.startswith("pipelit_agents.")
                for method, function in vars(base).items()
                if not method.startswith("_")
                and inspect.isfunction(function)
                and not function.__name__.startswith("_")
            }
    lines = {name: (inspect.getdoc(each) or "").partition("\n")[0] for name, each in found.items()}
    assert [name for name, line in lines.items() if not line.endswith((".", ":", "?"))] == []
