"""The files of the pages: what a strict policy forbids isn't in them, and none is left over."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from paths import ROOT

STATIC = ROOT / "pipelit_agents" / "desk" / "static"
SCRIPTS = sorted(STATIC.rglob("*.js"))
# Without the comments, whose types are written as imports.
TEXTS = {
    path.relative_to(STATIC).as_posix(): re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.S)
    for path in SCRIPTS
}
STYLE = (STATIC / "desk.css").read_text()
INDEX = (STATIC / "index.html").read_text()
# Sinks that read text as markup or code, storage that outlives the tab, and code from elsewhere.
FORBIDDEN = {
    "markup": r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|srcdoc"
    r"|createContextualFragment|parseHTMLUnsafe|setHTMLUnsafe",
    "code": r"\beval\b|new Function|\bimport\(|importScripts|createElement\(.script",
    "storage": r"localStorage|sessionStorage|indexedDB|document\.cookie|cookieStore|window\.name"
    r"|serviceWorker|caches\.",
    "styles": r"\.style\b|cssText|insertRule|adoptedStyleSheets",
    "windows": r"postMessage|window\.open|opener\.location",
}


class Tags(HTMLParser):
    """Collects the tags of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.mark.parametrize("what", FORBIDDEN)
def test_scripts_use_nothing_that_the_policy_forbids(what: str) -> None:
    """No script reads text as markup or code, stores anything, or sets styles."""
    found = {name: re.findall(FORBIDDEN[what], text) for name, text in TEXTS.items()}
    assert {name: each for name, each in found.items() if each} == {}


def test_page_has_nothing_inline() -> None:
    """The page has no script, style or handler of its own, which the policy would refuse."""
    tags = Tags(INDEX).found
    assert [each for each in tags if each[0] in ("style", "base", "form", "iframe")] == []
    assert [each for each in tags if each[0] == "script" and not each[1].get("src")] == []
    names = {name for _, attributes in tags for name in attributes}
    assert {each for each in names if each.startswith("on") or each == "style"} == set()


def test_page_loads_only_its_own_files_below_any_prefix() -> None:
    """All addresses of the page are relative, and name a file that is there."""
    addresses = {
        str(attributes[name])
        for _, attributes in Tags(INDEX).found
        for name in ("href", "src")
        if name in attributes
    }
    assert addresses == {"static/app.js", "static/desk.css", "static/icon.svg"}
    assert all((STATIC.parent / each).is_file() for each in addresses)


def test_style_sheet_loads_nothing() -> None:
    """The style sheet names no other file, so no font or picture comes from elsewhere."""
    assert re.findall(r"url\(|@import|@font-face", STYLE) == []


def test_every_script_is_reached_from_the_page() -> None:
    """Imports are static, relative and lead to every script, so none is missing or left over."""
    reached: set[str] = set()
    waiting = ["app.js"]
    while waiting:
        name = waiting.pop()
        if name in reached:
            continue
        reached.add(name)
        folder = (STATIC / name).parent
        imports = re.findall(r'^(?:import|export)\b[^;]*?from "([^"]+)";', TEXTS[name], re.M)
        assert all(each.startswith(("./", "../")) for each in imports)
        waiting += [(folder / each).resolve().relative_to(STATIC).as_posix() for each in imports]
    assert reached == set(TEXTS)


def test_imported_names_are_exported() -> None:
    """Each imported name is exported there, or the whole page would stay empty."""
    missing = []
    for path in SCRIPTS:
        text = path.read_text()
        for names, source in re.findall(r'^import \{([^}]*)\} from "([^"]+)";', text, re.M):
            exported = (path.parent / source).read_text()
            for name in filter(None, (each.strip() for each in names.split(","))):
                if not re.search(
                    rf"^export (?:async )?(?:function|class|const) {name}\b", exported, re.M
                ):
                    missing.append(f"{path.name}: {name}")
                if len(re.findall(rf"\b{name}\b", text)) < 2:
                    missing.append(f"{path.name}: {name} isn't used")
    assert missing == []


def test_whatever_is_approved_is_in_the_page_as_a_whole() -> None:
    """No rule hides a part of the exact text below or beside an edge, where nobody scrolls."""
    rules = re.findall(r"\.exact\b[^{}]*\{([^}]*)\}", STYLE)
    assert len(rules) >= 3
    clipping = re.compile(
        r"max-height|line-clamp|overflow(?:-y)?: hidden|text-overflow|[^-]height:"
    )
    assert [each for each in rules if clipping.search(each)] == []


def test_page_that_is_left_forgets_also_what_was_made_before_signing_in() -> None:
    """A browser brings it back from memory with all that it displayed: a new key, a pasted one."""
    assert re.search(r'"pagehide", \(\) => forget\(', TEXTS["app.js"])
    assert "if (key) forget(why)" in TEXTS["session.js"]


def test_address_of_a_request_has_no_part_that_leads_elsewhere() -> None:
    """A link to `#/approvals/..` asks no other endpoint: the dots of a path aren't escaped."""
    assert '["", ".", ".."].includes(each)' in TEXTS["api.js"]


def test_tool_is_never_displayed_unescaped() -> None:
    """Its name may be that of a foreign server, and is part of the question's title."""
    shown = re.findall(r"[^.\n]*question\.tool[^\n]*", TEXTS["views/approval.js"])
    assert shown
    assert [each for each in shown if "${question.tool" in each] == []
