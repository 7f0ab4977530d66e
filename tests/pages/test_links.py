"""No link of a page, of the README on PyPI or of a notebook is dead."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from html import unescape
from importlib import import_module
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from markdown.extensions.toc import slugify
from paths import ROOT
from readme_renderer.markdown import render

DOCS = ROOT / "docs"
HOMES = (
    *("*.md", "docs/**/*.md", "examples/**/*.md", "benchmarks/*.md", "notebooks/*.md"),
    "notebooks/*.ipynb",
)
PAGES = {str(file.relative_to(ROOT)): file for home in HOMES for file in sorted(ROOT.glob(home))}
REPOSITORY = "https://github.com/theuselessai/pipelit-agents"
# Pages of GitHub that have no file in the repository.
OF_GITHUB = (
    "/issues",
    "/discussions",
    "/releases",
    "/actions",
    "/security/advisories",
    "/archive/",
)
IN_REPOSITORY = re.compile(
    rf"{REPOSITORY}/(?P<kind>blob|tree|raw)/(?P<branch>[^/]+)/(?P<path>[^#?]*)"
    r"|https://raw\.githubusercontent\.com/theuselessai/pipelit-agents/(?P<raw>[^/]+)/(?P<file>[^#?]*)"
)
CODE = re.compile(r"^( *)```.*?^\1```$|``.+?``|`[^`\n]*`", re.DOTALL | re.MULTILINE)
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
LINK = re.compile(
    r"\]\(\s*<?(?P<inline>[^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)"
    r"|^\s{0,3}\[[^\]\n]+\]:\s*<?(?P<reference>\S+?)>?\s*$"
    r"|\b(?:href|src|srcset)=\"(?P<html>[^\"]+)\"",
    re.MULTILINE,
)
HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)
NAMED = re.compile(r"<a (?:id|name)=\"([^\"]+)\"|\bid=\"([^\"]+)\"|\{:? ?#([\w-]+)")
INCLUDED = re.compile(r"^--8<-- \"([^\":]+):?([^\"]*)\"", re.MULTILINE)


@cache
def text_of(file: Path) -> str:
    """The Markdown of a page, or of a notebook's cells."""
    text = file.read_text()
    if file.suffix != ".ipynb":
        return text
    cells = [each for each in json.loads(text)["cells"] if each["cell_type"] == "markdown"]
    return "\n\n".join("".join(each["source"]) for each in cells)


def links(text: str) -> Iterator[str]:
    """The targets of a page's links and images."""
    without_code = COMMENT.sub("", CODE.sub("`code`", text))
    for match in LINK.finditer(without_code):
        yield unescape(next(filter(None, match.groups())))


@cache
def anchors(file: Path, site: bool) -> frozenset[str]:
    """The anchors of a page on the site, or on GitHub."""
    text = text_of(file)
    for included, part in INCLUDED.findall(text):
        inside = (ROOT / included).read_text()
        if part:
            inside = inside.split(f"[start:{part}]")[1].split(f"[end:{part}]")[0]
        text += f"\n{inside}"
    found: list[str] = []
    for heading in HEADING.findall(re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.DOTALL | re.M)):
        words = re.sub(r"\]\([^)]*\)|[`*\[\]]|\{[^}]*\}", "", heading).strip()
        if site:
            made = slugify(words, "-")
        else:
            made = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
        before = found.count(made)
        found.append(made)
        if before:
            found.append(f"{made}_{before}" if site else f"{made}-{before}")
    named = {name for names in NAMED.findall(text) for name in names if name}
    return frozenset({*found, *named})


def problem(target: str, page: Path) -> str | None:
    """What is wrong with a link of a page, if anything is."""
    parts = urlsplit(target)
    if not parts.scheme and not parts.netloc:
        return _inside(unquote(parts.path), parts.fragment, page)
    if parts.scheme == "mailto":
        return None if re.fullmatch(r"[^@\s]+@[\w-]+(\.[\w-]+)+", parts.path) else "no address"
    if match := IN_REPOSITORY.match(target):
        return _in_repository(match, parts.fragment)
    if target.startswith(REPOSITORY):
        rest = target.removeprefix(REPOSITORY).removesuffix("/")
        return None if rest in ("", ".git") or rest.startswith(OF_GITHUB) else "no page of GitHub"
    return _external(target)


def _inside(path: str, fragment: str, page: Path) -> str | None:
    file = (page.parent / path).resolve() if path else page
    if path.startswith("/") or not file.is_relative_to(ROOT):
        return "outside of the repository"
    if not file.exists():
        return "no such file"
    in_site = page.is_relative_to(DOCS)
    if in_site and not (file.is_relative_to(DOCS) and file.is_file()):
        return "not on the site: link to the file on GitHub"
    return _anchor(file, fragment, site=in_site)


def _in_repository(match: re.Match[str], fragment: str) -> str | None:
    if (match["branch"] or match["raw"]) != "main":
        return "another branch than main"
    file = ROOT / unquote(match["path"] or match["file"] or "")
    if not file.exists():
        return "no such file"
    if (match["kind"] == "tree") != file.is_dir():
        return "tree is for folders, and blob is for files"
    return _anchor(file, fragment, site=False)


def _anchor(file: Path, fragment: str, *, site: bool) -> str | None:
    if not fragment or (file.suffix == ".md" and fragment in anchors(file, site)):
        return None
    is_reference = file.parent == DOCS / "reference" and site
    return None if is_reference and is_name(fragment) else "no such heading"


def is_name(name: str) -> bool:
    """Whether this is a name of ours, as the reference has it."""
    module, *members = re.match(r"([a-z_.]*)(.*)", name).groups()  # type: ignore[union-attr]
    try:
        found = import_module(module.strip("."))
        for each in filter(None, "".join(members).split(".")):
            found = getattr(found, each)
    except (ImportError, AttributeError, ValueError):
        return False
    return name.startswith("pipelit_agents")


def _external(target: str) -> str | None:
    parts = urlsplit(target)
    host = parts.hostname or ""
    if not re.fullmatch(r"[!-~]+", target) or "//" in parts.path:
        return "not a URL"
    if parts.scheme != "https":
        return "not HTTPS"
    try:
        ip_address(host)
    except ValueError:
        fits = re.fullmatch(r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+[a-z]{2,}", host)
        return None if fits else "no such host"
    return "an IP address"


@pytest.mark.all_cases
@pytest.mark.parametrize("page", PAGES)
def test_no_link_is_dead(page: str) -> None:
    """Files, folders and headings are there; URLs of others are URLs."""
    file = PAGES[page]
    found = {each: problem(each, file) for each in links(text_of(file))}
    assert {each: wrong for each, wrong in found.items() if wrong} == {}


def test_the_readme_has_no_relative_link_on_pypi() -> None:
    """PyPI has no other file of the repository, and no picture of it."""
    html = render((ROOT / "README.md").read_text())
    assert html is not None
    found = {unescape(each) for each in re.findall(r"\b(?:href|src|srcset)=\"([^\"]*)\"", html)}
    ids = {each.removeprefix("user-content-") for each in re.findall(r"\bid=\"([^\"]+)\"", html)}
    pictures = re.findall(r"<img\b[^>]*\bsrc=\"([^\"]*)\"", html)
    assert any(each.startswith(REPOSITORY) for each in found)
    for each in sorted(found):
        if each.startswith("#"):
            assert each.lstrip("#").removeprefix("user-content-") in ids, each
        else:
            assert each.startswith(("https://", "mailto:")), f"{each} is relative"
            assert problem(each, ROOT / "README.md") is None, each
    # A page of GitHub about a picture is no picture.
    assert [each for each in pictures if each.startswith(f"{REPOSITORY}/blob")] == []


@pytest.mark.parametrize(
    ("target", "page", "wrong"),
    [
        ("docs/nothing.md", "README.md", "no such file"),
        ("docs/protocol.md#nothing", "README.md", "no such heading"),
        ("#nothing", "docs/testing.md", "no such heading"),
        ("../README.md", "docs/testing.md", "not on the site"),
        ("images", "docs/testing.md", "not on the site"),
        ("../../x.md", "README.md", "outside"),
        ("reference/errors.md#pipelit_agents.errors.Nothing", "docs/testing.md", "no such heading"),
        (f"{REPOSITORY}/blob/main/docs/nothing.md", "README.md", "no such file"),
        (f"{REPOSITORY}/blob/main/docs", "README.md", "tree is for folders"),
        (f"{REPOSITORY}/tree/main/README.md", "README.md", "tree is for folders"),
        (f"{REPOSITORY}/blob/develop/README.md", "README.md", "another branch"),
        (f"{REPOSITORY}/blob/main/SECURITY.md#nothing", "README.md", "no such heading"),
        (f"{REPOSITORY}/wiki", "README.md", "no page of GitHub"),
        ("http://example.com/", "README.md", "not HTTPS"),
        ("https://example/", "README.md", "no such host"),
        ("https://127.0.0.1/", "README.md", "an IP address"),
        ("https://example.com//a", "README.md", "not a URL"),
        ("mailto:nobody", "README.md", "no address"),
        ("ftp://example.com/", "README.md", "not HTTPS"),
    ],
)
def test_a_dead_link_is_found(target: str, page: str, wrong: str) -> None:
    """Each kind of it."""
    found = problem(target, ROOT / page)
    assert found is not None
    assert wrong in found


@pytest.mark.parametrize(
    ("target", "page"),
    [
        ("SECURITY.md", "README.md"),
        ("CONTRIBUTING.md#how-a-change-is-reviewed", "README.md"),
        ("../reference/errors.md#pipelit_agents.errors.CodeRejected", "docs/integrations/a.md"),
        ("#a-ledger-of-your-own", "docs/testing.md"),
        (f"{REPOSITORY}/blob/main/docs/testing.md#a-ledger-of-your-own", "README.md"),
        (f"{REPOSITORY}/tree/main/notebooks", "README.md"),
        (f"{REPOSITORY}/issues/new", "README.md"),
        ("https://www.rfc-editor.org/rfc/rfc6238#section-4", "README.md"),
    ],
)
def test_a_link_that_is_alive_is_right(target: str, page: str) -> None:
    """Also one with an anchor, as GitHub and the site make them."""
    assert problem(target, ROOT / page) is None


def test_every_form_of_a_link_is_found() -> None:
    """And none in code."""
    text = (
        '[a](1.md) ![b](2.png "b") [c][d] <a href="3.md">e</a> [![f](4.svg)](5.md) [g](<6.md>)\n\n'
        "[d]: 7.md\n\n`[h](8.md)`\n\n```text\n[i](9.md)\n```\n<!-- [j](10.md) -->\n"
    )
    assert sorted(links(text)) == ["1.md", "2.png", "3.md", "4.svg", "5.md", "6.md", "7.md"]
