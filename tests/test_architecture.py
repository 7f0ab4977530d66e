from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HOMES = {"pipelit_agents": "pipelit_agents", "tools": "pipelit_agents.tools"}
HOMES |= {"graphs": "pipelit_agents.graphs"}

# Each floor may import from the floors above it in this list, and from itself.
FLOORS: list[set[str]] = [
    {
        *("errors", "_words", "_wording", "_bounds", "_discretion", "_forks", "_late"),
        *("_otpauth", "_run_context", "exact"),
    },
    {"_threads", "_in_place", "display", "paging", "policy", "otp"},
    {"_batching", "_twins"},
    {"protocol"},
    {"sealing"},
    {"_env_mistakes"},
    {"_key_source", "settings"},
    {"database"},
    {"audit"},
    {"ledger"},
    {"_core"},
    {"identity"},
    {"approvals"},
    {"credentials"},
    {"redaction", "checkpoints", "accounts"},
    {"operations"},
    {"pipelit"},
    {"bearer"},
    {"desk", "server"},
    {"graphs", "tools", "cli"},
    {"middleware", "__main__"},
    {"testing"},
]
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
# Within the building at the top, tools may use graphs; the commands name both only when typed.
BESIDE = {("tools", "graphs"), ("cli", "graphs"), ("cli", "tools")}


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the package by its dotted name."""
    for folder, package in HOMES.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            yield ".".join([package, *(each for each in parts if each != "__init__")]), path


MODULES = dict(modules())


def imports(name: str, path: Path, *, types: bool = False, late: bool = True) -> Iterator[str]:
    """The modules of ours that a module imports.

    Args:
        name: The module.
        path: Its file.
        types: With what is imported for the type checker alone.
        late: With what is imported inside functions.
    """
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]

    def of(nodes: list[ast.stmt]) -> Iterator[str]:
        for node in nodes:
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                if types:
                    yield from of(node.body)
            elif isinstance(node, ast.ImportFrom):
                parts = package.split(".")
                above = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
                base = ".".join(each for each in (above, node.module) if each)
                for alias in node.names:
                    whole = f"{base}.{alias.name}"
                    yield whole if whole in MODULES else _home(whole) or base
            elif isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif late or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for field in ("body", "orelse", "finalbody", "handlers"):
                    inner = getattr(node, field, [])
                    yield from of([x for x in inner if isinstance(x, ast.stmt)])
                    for handler in inner:
                        if isinstance(handler, ast.ExceptHandler):
                            yield from of(handler.body)

    yield from (each for each in of(parsed(path).body) if each in MODULES)


@cache
def parsed(path: Path) -> ast.Module:
    """The syntax tree of a file, which several tests read."""
    return ast.parse(path.read_text())


def _homes() -> Mapping[str, str]:
    """Where the names of the package's top live, which are loaded when they are first used."""
    found = {}
    for node in ast.walk(ast.parse(MODULES["pipelit_agents"].read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pipelit_agents."):
            found |= {f"pipelit_agents.{alias.name}": str(node.module) for alias in node.names}
    return found


HOME_OF = _homes()


def _home(name: str) -> str | None:
    return HOME_OF.get(name)


def building(name: str) -> str:
    """The folder or the single module at the top of the package that a module belongs to."""
    return [*name.split("."), ""][1]


def circles(arrows: Mapping[str, set[str]]) -> list[list[str]]:
    """The modules that import each other, by Tarjan's algorithm."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(arrows[name]):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            circle = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(circle) > 1:
                found.append(sorted(circle))

    for name in sorted(arrows):
        if name not in index:
            visit(name)
    return found


def test_every_module_stands_on_a_floor() -> None:
    """A new building must be given a floor before anything imports it."""
    found = {building(name) for name in MODULES} - {""}
    assert found == set(FLOOR)


def test_no_arrow_points_upwards() -> None:
    """A building imports only what is below it, also where a function or a type needs it."""
    upwards = [
        f"{name} imports {other}"
        for name, path in MODULES.items()
        for other in imports(name, path, types=True)
        if _is_upwards(building(name), building(other))
    ]
    assert upwards == []


def _is_upwards(here: str, there: str) -> bool:
    if not here or there in ("", here) or (here, there) in BESIDE:
        return False
    return FLOOR[there] >= FLOOR[here]


def test_an_arrow_upwards_is_found() -> None:
    """Neither the floor above nor another building on the same floor may be imported."""
    assert _is_upwards("protocol", "identity")
    assert _is_upwards("desk", "server")
    assert not _is_upwards("identity", "protocol")
    assert not _is_upwards("tools", "graphs")


def test_no_modules_import_each_other() -> None:
    """There is no circle, not even one of types alone, or in a function's imports."""
    arrows = {name: set(imports(name, path, types=True)) - {name} for name, path in MODULES.items()}
    assert circles(arrows) == []


def test_a_circle_is_found() -> None:
    """The search finds circles of two and of three, and no other modules with them."""
    arrows = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": {"e"}, "e": {"d"}, "f": {"a"}}
    assert circles(arrows) == [["d", "e"], ["a", "b", "c"]]


def test_a_hidden_import_is_found(tmp_path: Path) -> None:
    """Imports are seen in functions, in branches, in handlers, and by the package's top names."""
    path = tmp_path / "some.py"
    path.write_text(
        "try:\n    import pipelit_agents.otp\nexcept ImportError:\n"
        "    from pipelit_agents import policy\n"
        "def f():\n    if f:\n        from pipelit_agents import Keyring\n"
        "class C:\n    from pipelit_agents.errors import PipelitError\n"
    )
    found = {f"pipelit_agents.{each}" for each in ("otp", "policy", "sealing.keyring", "errors")}
    assert set(imports("pipelit_agents.some", path)) == found


def code_lines(path: Path) -> int:
    """How many lines hold code: no docstring, no comment, nothing empty."""
    text = path.read_text()
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            docstrings |= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    blank = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    found: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in blank:
            found |= set(range(token.start[0], token.end[0] + 1))
    return len(found - docstrings)


def test_lines_of_code_are_counted(tmp_path: Path) -> None:
    """Docstrings, comments and empty lines don't count; each line of a long statement does."""
    path = tmp_path / "some.py"
    path.write_text(
        '"""Text.\n\nMore.\n"""\n\n# Why.\ndef f(\n    a,  # b\n):\n    """T."""\n    return a\n'
    )
    assert code_lines(path) == 4


@pytest.mark.parametrize(
    ("most", "parts"),
    [
        (4_000, ["protocol", "sealing", "ledger/rules.py", "identity", "approvals"]),
        (3_500, ["credentials/leak_guard"]),
    ],
    ids=["decisions", "leak guard"],
)
def test_the_trusted_core_stays_readable(most: int, parts: list[str]) -> None:
    """What an auditor must read doesn't grow past what docs/architecture.md says."""
    home = ROOT / "pipelit_agents"
    files = [
        file
        for part in parts
        for file in ([home / part] if part.endswith(".py") else sorted((home / part).rglob("*.py")))
    ]
    assert len(files) >= len(parts)
    assert sum(map(code_lines, files)) < most
