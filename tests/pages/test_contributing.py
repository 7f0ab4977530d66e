"""The pages for contributors name only what is there, and draw the floors that a test holds."""

from __future__ import annotations

import ast
import configparser
import os
import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from paths import ROOT, TESTS
from test_architecture import BESIDE, FLOORS, HOMES

ARCHITECTURE = ROOT / "docs" / "architecture.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
PAGES = (ARCHITECTURE, CONTRIBUTING, ROOT / "docs" / "releasing.md")
CORE = ("protocol", "sealing", "ledger/rules.py", "identity", "approvals", "credentials/leak_guard")
TO_ADD = (
    *("a ledger", "a proof", "a command", "a deployment check", "an encrypted column"),
    *("a tool", "a way out for the leak guard", "an error"),
)
CODE = re.compile(r"`([^`\n]+)`")
FILE = re.compile(r"\.?[\w*./-]*(?:/|\.(?:py|md|toml|yml|yaml|lua|json|ts|js))\Z")
NAME = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*\Z")
# "`file`: `name`, `name`", "`name` (`file`)", "`name` in `file`", "(`file`: `name`)".
LISTED = re.compile(r"`([\w/.]+\.(?:py|js))`: ((?:`[\w.]+`(?:, )?)+)")
BESIDE_A_NAME = re.compile(r"`([\w.]+)`(?: \(| in )`([\w/.]+\.(?:py|js))`")
# The paragraph at the end of the steps.
TESTED = re.compile(r"\n\n(?:Tests that fail if a step is missing|No test fails by itself): ")
SCRIPTS = ROOT / "pipelit_agents" / "desk" / "static"
IN_A_SCRIPT = re.compile(r"^(?:export )?(?:async )?(?:function|const|class) (\w+)", re.MULTILINE)
# Words of a page that are typed, written or read, and defined nowhere.
TYPED = {"alice", "aname", "dist", "FLOORS", "main", "process", "slow", "typer.Typer", "vX.Y.Z"}
TYPED |= {"_in", "human.create", "test_how_to_"}


def section(page: str, title: str) -> str:
    """The part of a page below a heading of the second level."""
    return page.split(f"\n## {title}")[1].split("\n## ")[0]


def rows(part: str) -> list[list[str]]:
    """The cells of a part's tables, without their heads."""
    found = []
    for line in part.splitlines():
        cells = [each.strip() for each in line.strip().strip("|").split(" | ")]
        if line.startswith("|") and not set(line) <= set("|-: "):
            found.append(cells)
    return found


@cache
def page() -> str:
    """The architecture page."""
    return ARCHITECTURE.read_text()


def drawn() -> tuple[list[set[str]], set[tuple[str, str]], set[str]]:
    """The floors of the drawing from the bottom, the arrows on a floor, and the starred."""
    drawing = page().split("```text\n")[1].split("```")[0]
    floors, beside, starred = [], set(), set()
    for line in drawing.splitlines():
        names = re.findall(r"\w+", line)
        if not names:
            continue
        floors.insert(0, set(names))
        starred |= set(re.findall(r"(\w+)\*", line))
        for arrows in re.findall(r"\w+(?: ──▶ \w+)+", line):
            chain = arrows.split(" ──▶ ")
            beside |= {(a, b) for at, a in enumerate(chain) for b in chain[at + 1 :]}
    return floors, beside, starred


@cache
def resolve(path: str) -> list[Path]:
    """The files that a page means by a path, or by a file's bare name."""
    found = [each for home in (ROOT, ROOT / "pipelit_agents") for each in home.glob(path)]
    if not found and "/" not in path:
        homes = (*HOMES, "tests", "docs")
        found = [each for home in homes for each in (ROOT / home).rglob(path)]
    return found


@cache
def parsed(file: Path) -> ast.Module:
    """The syntax tree of a module."""
    return ast.parse(file.read_text())


@cache
def defined(file: Path) -> frozenset[str]:
    """What a module defines: names, and members as ``Class.member``."""
    found = set()
    if file.suffix == ".js":
        return frozenset(IN_A_SCRIPT.findall(file.read_text()))

    def look(nodes: list[ast.stmt], above: str) -> None:
        for node in nodes:
            match node:
                case ast.ClassDef(name=name, body=body):
                    found.add(above + name)
                    look(body, f"{above}{name}.")
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                    found.add(above + name)
                case ast.Assign(targets=targets):
                    found.update(above + each.id for each in targets if isinstance(each, ast.Name))
                case ast.AnnAssign(target=ast.Name(id=name)):
                    found.add(above + name)

    look(parsed(file).body, "")
    return frozenset(found)


@cache
def known() -> frozenset[str]:
    """Every name that our modules define, and the arguments, texts and modules beside them."""
    found: set[str] = set()
    for home, package in HOMES.items():
        for file in (ROOT / home).rglob("*.py"):
            found |= defined(file)
            found.add(".".join([package, *file.relative_to(ROOT / home).parent.parts]))
            for node in ast.walk(parsed(file)):
                if isinstance(node, ast.arg):
                    found.add(node.arg)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.add(node.value)
                elif isinstance(node, ast.alias):
                    found |= {node.name, node.name.partition(".")[0]}
                elif isinstance(node, ast.ImportFrom) and node.module:
                    found.add(node.module.partition(".")[0])
    for file in SCRIPTS.rglob("*.js"):
        found |= defined(file)
    for file in TESTS.rglob("*.py"):
        found |= {each for each in defined(file) if each.startswith("test_")}
        found |= defined(file) if file.name == "conftest.py" else set()
    return frozenset(found)


@cache
def targets() -> frozenset[str]:
    """The Makefile's targets."""
    found = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return frozenset(found)


def code(page: Path) -> list[str]:
    """What a page writes as code, outside of its blocks."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    return sorted(set(CODE.findall(text)))


def is_there(token: str) -> bool:
    """Whether there is such a file, such a command, or something of that name."""
    if token.startswith("make "):
        return token.split()[1] in targets()
    if FILE.match(token) and not token.startswith(".venv"):
        return bool(resolve(token.replace("….", "*.")))
    return not NAME.match(token) or token in known() | TYPED


def pairs() -> list[tuple[str, str]]:
    """Each name of the architecture page with the file that it is said to be in."""
    found = dict.fromkeys((file, name) for name, file in BESIDE_A_NAME.findall(page()))
    for file, names in LISTED.findall(page()):
        found |= dict.fromkeys((file, name) for name in CODE.findall(names))
    return sorted(found)


def test_the_drawing_is_the_order_that_is_held() -> None:
    """The page draws the floors of ``FLOORS``, and the arrows within one."""
    floors, beside, _ = drawn()
    assert floors == FLOORS
    assert beside == BESIDE


def test_every_building_is_described_in_two_sentences() -> None:
    """The table has each building once, in the order of the drawing from the top."""
    described = rows(section(page(), "The buildings"))[1:]
    names = [re.sub(r"/|\.py|`", "", name) for name, _ in described]
    levels = {name: level for level, floor in enumerate(FLOORS) for name in floor}
    assert sorted(names) == sorted(levels)
    assert names == sorted(names, key=lambda name: -levels[name])
    for name, purpose in described:
        assert len(re.findall(r"[.:](?: |\Z)", purpose)) >= 2, name


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.all_cases
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_only_what_is_there(page: Path) -> None:
    """A file, a command or a name that was moved or renamed fails here."""
    found = code(page)
    assert len(found) > 10
    # A test below looks for these in the file that the page names beside them.
    placed = {name for _, name in pairs()}
    assert [token for token in found if not is_there(token) and token not in placed] == []


@pytest.mark.slow
def test_every_module_has_a_place_on_the_page() -> None:
    """Readers can find every file on the page by its purpose."""
    named = {file for token in code(ARCHITECTURE) if FILE.match(token) for file in resolve(token)}
    there = {file for home in HOMES for file in (ROOT / home).rglob("*.py")}
    there |= {*SCRIPTS.rglob("*.js"), *(ROOT / "pipelit_agents").rglob("*.lua")}
    missing = {
        str(file.relative_to(ROOT))
        for file in there - named
        if not file.stem.startswith("__") and "migrations" not in file.parts
    }
    assert missing == set()


@pytest.mark.slow
def test_every_page_names_tests_that_are_there() -> None:
    """Readers who look for the test of a page find it."""
    # The change log tells what was there in its time.
    roots = {*ROOT.glob("*.md")} - {ROOT / "CHANGELOG.md"}
    for each in [*roots, *(ROOT / "docs").rglob("*.md")]:
        named = [token for token in code(each) if re.search(r"(\A|/)test_[\w/]*\.py\Z", token)]
        assert [token for token in named if not is_there(token)] == [], each.name


@pytest.mark.slow
@pytest.mark.all_cases
@pytest.mark.parametrize(
    "token",
    ["make nothing", "ledger/nowhere.py", "test_nothing.py", "Agent.forge", "record_nothing"],
)
def test_what_is_not_there_is_found(token: str) -> None:
    """A page that names it would fail."""
    assert not is_there(token)


@pytest.mark.slow
def test_a_name_is_in_the_file_that_the_page_says() -> None:
    """A function that moves to another module takes its line on the page with it."""
    found = pairs()
    assert len(found) > 60
    assert [
        (file, name) for file, name in found for each in resolve(file) if name not in defined(each)
    ] == []
    assert all(len(resolve(file)) == 1 for file, _ in found)


@pytest.mark.parametrize("walk", ["A code", "A credential", "A task", "An approval", "A request"])
def test_a_walk_has_a_function_at_each_step(walk: str) -> None:
    """The steps are numbered, and each begins in a file, at a name."""
    steps = rows(section(page(), walk))[1:]
    assert [step for step, *_ in steps] == [str(each + 1) for each in range(len(steps))]
    for step, where, happens in steps:
        assert LISTED.match(where), (walk, step)
        assert happens


@pytest.mark.parametrize("what", TO_ADD)
def test_where_it_is_added_is_said(what: str) -> None:
    """Each thing that a contributor may add has steps, and the tests that fail otherwise."""
    changes = section(page(), "Where a change belongs")
    titles = re.findall(r"^### (.+)$", changes, re.MULTILINE)
    assert what[0].upper() + what[1:] in titles
    for title, steps in zip(titles, changes.split("\n### ")[1:], strict=True):
        assert re.search(r"^(1\.|-) ", steps, re.MULTILINE), title
        assert len(TESTED.findall(steps)) == 1, title
        assert "is missing: none" not in steps, title
        # "No test fails" alone reads as if there were no test to write.
        for says in re.findall(r"[Nn]o test fails.*?[.:](?:\s|\Z)", steps, re.DOTALL):
            assert "by itself" in " ".join(says.split()), title
            assert says.rstrip().endswith(":"), title


def core_files() -> set[Path]:
    """The modules of the trusted core."""
    home = ROOT / "pipelit_agents"
    return {
        file
        for each in CORE
        for file in ([home / each] if each.endswith(".py") else (home / each).rglob("*.py"))
        if defined(file) - {"__all__"}
    }


@pytest.mark.slow
def test_a_row_that_touches_the_core_has_a_star() -> None:
    """A change of the trusted core is reviewed by itself, so a row says whether it is one."""
    core = core_files()
    found = 0
    for first, *others in rows(section(page(), "Where a change belongs")):
        named = CODE.findall(" ".join([first, *others]))
        touches = any(file in core for each in named if FILE.match(each) for file in resolve(each))
        assert first.endswith(" \\*") == touches, first
        found += touches
    assert found > 10


def test_an_auditor_reads_the_whole_core() -> None:
    """Each module of the trusted core is in the order of reading once, and its building starred."""
    order = rows(section(page(), "What an auditor reads"))[1:]
    listed: dict[Path, int] = defaultdict(int)
    for _, files, _ in order:
        for each in CODE.findall(files):
            for file in resolve(each):
                listed[file] += 1
    home, core = ROOT / "pipelit_agents", core_files()
    assert {str(each.relative_to(home)) for each in core - listed.keys()} == set()
    assert {str(each) for each in core if listed[each] != 1} == set()
    assert drawn()[2] == {each.split("/")[0] for each in CORE}


def test_the_innermost_core_imports_little() -> None:
    """The page says what `protocol/` and `sealing/` use that isn't in Python itself."""
    home = ROOT / "pipelit_agents"
    found = set()
    for file in [home / "otp.py", *(home / "protocol").iterdir(), *(home / "sealing").iterdir()]:
        if file.suffix == ".py":
            for node in ast.walk(parsed(file)):
                if isinstance(node, ast.Import):
                    found |= {each.name.partition(".")[0] for each in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module:
                    found.add(node.module.partition(".")[0])
    others = found - sys.stdlib_module_names - {"pipelit_agents"}
    assert others == {"cryptography", "pydantic", "pyotp"}


def test_the_first_line_is_the_one_command() -> None:
    """CONTRIBUTING.md begins with the command that continuous integration runs."""
    assert CONTRIBUTING.read_text().splitlines()[0] == "`make test`"
    run = ROOT / ".ci" / "run"
    assert run.read_text().splitlines()[-1] == "exec make test"
    assert os.access(run, os.X_OK)


def test_every_command_for_developers_is_described() -> None:
    """Each target of the Makefile is on the page, but those that `make test` runs by itself."""
    within = {"demo", "wheel", "smoke", "notebooks"}
    described = {token.split()[1] for token in code(CONTRIBUTING) if token.startswith("make ")}
    assert targets() - within <= described


def test_the_workflow_runs_what_a_developer_runs() -> None:
    """On each Python that the package claims; the oldest one, which runs all tests, comes last."""
    text = (ROOT / ".github" / "workflows" / "test.yml").read_text()
    job: dict[str, Any] = yaml.safe_load(text)["jobs"]["test"]
    assert [each["run"] for each in job["steps"] if "run" in each] == [".ci/run", "make smoke"]
    for each in job["steps"]:
        # A tag can be moved to another commit.
        assert "uses" not in each or re.search(r"@[0-9a-f]{40}\Z", each["uses"])
    (versions,) = [
        each["with"]["python-version"].split()
        for each in job["steps"]
        if "setup-python" in each.get("uses", "")
    ]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    claimed = re.findall(r"Python :: (3\.\d+)", " ".join(project["classifiers"]))
    assert sorted(versions) == sorted(claimed)
    assert project["requires-python"] == f">={versions[-1]}"


def test_hooks_run_the_makefiles_commands() -> None:
    """No hook has versions or options of its own."""
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    (repository,) = config["repos"]
    assert repository["repo"] == "local"
    for hook in repository["hooks"]:
        if hook["language"] == "pygrep":
            re.compile(hook["entry"])
        else:
            make, target = hook["entry"].split()
            assert (make, target in targets()) == ("make", True)


@pytest.mark.parametrize("form", ["bug", "proposal"])
def test_a_form_for_issues_is_one(form: str) -> None:
    """It has the keys that GitHub needs, an id for each field, and a field that is required."""
    folder = ROOT / ".github" / "ISSUE_TEMPLATE"
    found = yaml.safe_load((folder / f"{form}.yml").read_text())
    assert found["name"]
    assert found["description"]
    fields = [each for each in found["body"] if each["type"] != "markdown"]
    assert len({each["id"] for each in fields}) == len(fields)
    assert all(each["attributes"]["label"] for each in fields)
    assert any(each.get("validations", {}).get("required") for each in fields)


def test_a_weakness_is_not_reported_in_an_issue() -> None:
    """Both the form and the contributors' page point to SECURITY.md."""
    form = (ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text()
    for text in (form, CONTRIBUTING.read_text()):
        assert "Report" in text
        assert "SECURITY.md" in text


def test_every_page_is_in_the_navigation() -> None:
    """Each page below docs/ is listed in mkdocs.yml once, below a title that says its topic."""
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    listed = list(entries(nav))
    docs = ROOT / "docs"
    assert sorted(page for _, page in listed) == sorted(
        str(each.relative_to(docs)) for each in docs.rglob("*.md")
    )
    # The page of a section has the section's title.
    untitled = [page for title, page in listed if not title and not page.endswith("index.md")]
    assert untitled == []


def entries(nav: Any) -> Iterator[tuple[str, str]]:
    """The titles and pages of a navigation."""
    for each in nav:
        if isinstance(each, str):
            yield "", each
            continue
        ((title, inner),) = each.items()
        if isinstance(inner, str):
            yield title, inner
        else:
            yield from entries(inner)


def test_the_change_log_has_the_next_version() -> None:
    """The version of pyproject.toml is the first section of CHANGELOG.md."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    sections = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert sections[0] == version


def test_editors_and_ruff_agree() -> None:
    """The length of a line is the same in .editorconfig and in pyproject.toml."""
    parser = configparser.ConfigParser()
    parser.read_string("[top]\n" + (ROOT / ".editorconfig").read_text())
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]
    assert parser["top"]["root"] == "true"
    assert parser["*.py"]["max_line_length"] == str(ruff["line-length"])
