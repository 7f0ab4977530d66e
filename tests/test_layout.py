from __future__ import annotations

import ast
import importlib
import pickle
import pkgutil
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

import pipelit_agents

ROOT = Path(__file__).parent.parent
MODULES = [
    each.name
    for each in pkgutil.walk_packages(pipelit_agents.__path__, "pipelit_agents.")
    if "migrations" not in each.name and not each.name.endswith("__main__")
]
MODULES += ["pipelit_agents.tools", "pipelit_agents.graphs"]


@cache
def _imports(path: Path) -> list[str]:
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def test_the_core_imports_neither_tools_nor_graphs() -> None:
    """Data flows one way: only commands reach up, when typed, and middleware that adds a tool."""
    for path in (ROOT / "pipelit_agents").rglob("*.py"):
        found = [
            name
            for name in _imports(path)
            if name.startswith(("pipelit_agents.tools", "pipelit_agents.graphs"))
        ]
        adds_tools = path.parts[-2:] in (("middleware", "approval.py"), ("middleware", "spawn.py"))
        allowed = path.parent.name == "cli" or adds_tools
        assert not found or allowed, f"{path}: {found}"


def test_nothing_private_of_langgraph_is_used() -> None:
    """LangGraph's internals may change without a word, so nothing of ours stands on them."""
    for folder in ("pipelit_agents", "tools", "graphs"):
        for path in (ROOT / folder).rglob("*.py"):
            assert not [n for n in _imports(path) if n.startswith("langgraph._internal")], path


def test_all_is_sorted_and_true() -> None:
    """Each name of a module's `__all__` is there, and they are in order."""
    loaded = {module: importlib.import_module(module) for module in MODULES}
    names = {module: list(getattr(each, "__all__", [])) for module, each in loaded.items()}
    assert [module for module, each in names.items() if each != sorted(each)] == []
    missing = [
        f"{module}.{name}"
        for module, each in names.items()
        for name in each
        if not hasattr(loaded[module], name)
    ]
    assert missing == []


@pytest.mark.parametrize("package", ["", ".display", ".middleware", ".testing"])
def test_names_that_are_loaded_late_are_ordinary_names(package: str) -> None:
    """They are listed, kept and pickled, and another name is missing as in any module."""
    module = importlib.import_module(f"pipelit_agents{package}")
    assert {*module.__all__} <= {*dir(module)}
    for name in module.__all__:
        assert getattr(module, name) is vars(module)[name]
    loaded = [each for each in vars(module).values() if isinstance(each, type)]
    assert pickle.loads(pickle.dumps(loaded)) == loaded  # noqa: S301 - made here
    with pytest.raises(AttributeError, match=rf"'pipelit_agents{package}' has no .* 'Missing'"):
        _ = module.Missing


@pytest.mark.process
def test_importing_the_package_loads_no_engine() -> None:
    """`import pipelit_agents` loads neither LangGraph nor a driver nor Alembic nor FastAPI."""
    code = (
        "import sys, pipelit_agents; "
        "print([m for m in ('langgraph', 'langchain', 'alembic', 'sqlite3', 'psycopg', 'fastapi') "
        "if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.process
def test_importing_middleware_loads_no_graphs() -> None:
    """`CredentialMiddleware` comes without graphs and tools; `SpawnMiddleware` brings them."""
    code = (
        "import sys; from pipelit_agents.middleware import CredentialMiddleware; "
        "names = ('pipelit_agents.graphs', 'pipelit_agents.tools'); "
        "before = [name in sys.modules for name in names]; "
        "from pipelit_agents.middleware import SpawnMiddleware; "
        "print(before, [name in sys.modules for name in names])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[False, False] [True, True]"


def test_the_wheel_has_every_package_and_file() -> None:
    """A folder that ``pyproject.toml`` doesn't list would be missing in the wheel only."""
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    homes = {name: ROOT / path for name, path in setuptools["package-dir"].items()}
    for home in homes.values():
        name = next(name for name, path in homes.items() if path == home)
        for folder in {file.parent for file in home.rglob("*.py")}:
            assert ".".join([name, *folder.relative_to(home).parts]) in setuptools["packages"]
        others = {
            file.relative_to(home)
            for file in home.rglob("*")
            if file.is_file() and file.suffix != ".py" and "__pycache__" not in file.parts
        }
        for pattern in setuptools["package-data"].get(name, []):
            others -= {file for file in others if file.match(pattern)}
        assert others == set()
