"""Check the types of the package, of files and of the pages' blocks: ``make types`` runs this.

One run of mypy does all, as the pages import what the package imports. A block is on the lines
that it has on its page. The package is checked as strictly as ``pyproject.toml`` says; on a page, a
function needs no types.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from symtable import symtable

from integration_pages import Block, blocks, pages_with_code
from paths import ROOT

FOLDER = ROOT / "build" / "pages"
PACKAGE = ("pipelit_agents", "tools", "graphs")
# The first line of each module, where a page has its title. An import that isn't found is the
# business of test_every_page.py.
_LENIENT = (
    "# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-any-generics, "
    "allow-untyped-decorators, allow-subclassing-any, implicit-reexport, no-warn-return-any, "
    "no-warn-unused-ignores, allow-redefinition, "
    'disable-error-code="import-untyped,import-not-found,no-redef,var-annotated"'
)
# Its block belongs into Alembic's env.py, which has the names that it uses.
_FRAGMENTS = {"docs/shared-database.md"}
# LangGraph's own pages pass dicts here too, as their types don't allow.
_DICTS = re.compile(r'No overload variant of "a?(invoke|stream)" of "Pregel"')
# In the repository these are beside the package.
_BESIDE = re.compile(r"\bpipelit_agents\.(tools|graphs)\b")


def modules_of(page: Path) -> dict[str, str]:
    """Return the modules of a page: names and code.

    A file of the page is a module. So is the page's program; a block that defines a class or a
    function again begins another one, which knows all other names of the blocks before it.
    """
    stem = _stem(page)
    found = [each for each in blocks(page.read_text()) if each.language.split()[:1] == ["python"]]
    files = {Path(each.path).stem: f"{stem}__{Path(each.path).stem}" for each in found if each.path}
    made: dict[str, list[str]] = {}
    program, names = f"{stem}_1", set[str]()
    for block in found:
        code = block.code
        for name, module in files.items():
            code = re.sub(rf"^(\s*from ){name}( import )", rf"\1{module}\2", code, flags=re.M)
            code = re.sub(rf"^(\s*import ){name}$", rf"\1{module} as {name}", code, flags=re.M)
        code = _BESIDE.sub(r"\1", code)
        if block.path:
            module = files[Path(block.path).stem]
            # The file may be on the page twice: first a part of it, or its next version.
            _add(made.setdefault(module + "_" * _count(made, module), []), block, code)
            continue
        code = code.replace("from __future__ import annotations\n", "\n")
        again = names & _defined(code)
        if again:
            names -= _bound(code)
            before, program = program, f"{stem}_{block.line}"
            made[program] = [_LENIENT, f"from {before} import {', '.join(sorted(names))}"]
        _add(made.setdefault(program, []), block, code)
        names |= _bound(code)
    return {name: "\n".join(lines) + "\n" for name, lines in made.items()}


def _stem(page: Path) -> str:
    inside = page.relative_to(ROOT) if page.is_relative_to(ROOT) else Path(page.name)
    return re.sub(r"\W", "_", str(inside.with_suffix("")))


def _count(made: Iterable[str], module: str) -> int:
    return sum(each.rstrip("_") == module for each in made)


def _add(lines: list[str], block: Block, code: str) -> None:
    lines[:0] = [] if lines else [_LENIENT]
    lines += [""] * (block.line - 1 - len(lines))
    lines += code.splitlines()


def _defined(code: str) -> set[str]:
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return {each.name for each in ast.parse(code).body if isinstance(each, kinds)}


def _bound(code: str) -> set[str]:
    symbols = symtable(code, "page", "exec").get_symbols()
    return {each.get_name() for each in symbols if each.is_assigned() or each.is_imported()}


def check(pages: Sequence[Path], *others: str, folder: Path = FOLDER) -> list[str]:
    """Check pages, and others with them; what mypy says, with the pages' lines and blocks.

    Args:
        pages: The pages.
        others: Packages and files.
        folder: Where the pages' modules are written.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    homes: dict[str, Path] = {}
    for page in pages:
        for name, code in modules_of(page).items():
            (folder / f"{name}.py").write_text(code)
            homes[name] = page
    command = [sys.executable, "-m", "mypy", "--no-error-summary", *others, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.stderr:
        raise RuntimeError(done.stderr)
    lines = (_on_page(line, homes) for line in done.stdout.splitlines())
    return [line for line in lines if not _is_left_out(line)]


def _is_left_out(line: str) -> bool:
    # Most notes list the ways to call a function, each in a thousand characters.
    if ": note: " in line or _DICTS.search(line):
        return True
    return line.split(":")[0] in _FRAGMENTS and line.endswith("[name-defined]")


def _on_page(line: str, homes: dict[str, Path]) -> str:
    match = re.match(r"(?P<file>[^:]+)\.py:(?P<line>\d+): (?P<text>.*)", line)
    page = homes.get(Path(match["file"]).name) if match else None
    if match is None or page is None:
        return line
    at = int(match["line"])
    above = [each for each in blocks(page.read_text()) if each.language.startswith("python")]
    number = sum(each.line <= at for each in above)
    shown = page.relative_to(ROOT) if page.is_relative_to(ROOT) else page.name
    return f"{shown}:{at}: block {number}: {match['text']}"


def main() -> int:
    """Check everything, and print what is wrong."""
    problems = check(pages_with_code(), *PACKAGE, *sys.argv[1:])
    print(*problems, sep="\n", end="\n" if problems else "")
    print("mypy has found errors." if problems else "mypy has found no errors.")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
