"""Look at the built documentation: ``python tests/support/site_pictures.py FOLDER [WORD ...]``.

Run `make docs` before. It takes a picture of each page at 1280 and at 400 pixels, light and dark.
With words, it looks only at pages that have one of them in their address. It prints each page that
is wider than the window, that writes an error to the console, or that asks another host for
something; then it ends with 1.
"""

from __future__ import annotations

import sys
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

from browser import Tab, chromium
from local_http import served
from paths import ROOT
from playwright.sync_api import Browser

SITE = ROOT / "build" / "site"
SIZES = {"desktop": (1280, 800), "phone": (400, 800)}
SCHEMES = ("light", "dark")
# What sticks out of a page that is too wide, without what scrolls within itself.
STICKING_OUT = """() => {
    const root = document.documentElement;
    if (root.scrollWidth <= root.clientWidth) return [];
    const scrolls = (each) => each && each !== document.body && (
        ['auto', 'scroll', 'hidden'].includes(getComputedStyle(each).overflowX)
        || scrolls(each.parentElement));
    return [...document.body.querySelectorAll('*')]
        .filter((each) => each.getBoundingClientRect().right > root.clientWidth + 1)
        .filter((each) => !scrolls(each.parentElement))
        .map((each) => `${each.tagName.toLowerCase()}.${each.className}: ${
            each.textContent.trim().slice(0, 60)}`);
}"""


class _Files(SimpleHTTPRequestHandler):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments, directory=str(SITE))


def pages(words: list[str]) -> list[str]:
    """The addresses of the site's pages that have one of the words, or of all."""
    found = sorted(str(file.relative_to(SITE)) for file in SITE.rglob("*.html"))
    assert found, f"nothing is in {SITE}: run `make docs` before"
    return [each for each in found if not words or any(word in each for word in words)]


def look(browser: Browser, url: str, wanted: list[str], folder: Path) -> list[str]:
    """Take the pictures of pages; what is wrong with them."""
    found = []
    for size, (width, height) in SIZES.items():
        for scheme in SCHEMES:
            viewport = {"width": width, "height": height}
            tab = Tab(browser, url, viewport=viewport, color_scheme=scheme)
            for page in wanted:
                tab.open(f"/{page}")
                tab.page.wait_for_load_state("networkidle")
                wide = tab.page.evaluate(
                    "document.documentElement.scrollWidth - document.documentElement.clientWidth"
                )
                if wide > 0 and scheme == SCHEMES[0]:
                    found.append(f"{page} is {wide} pixels too wide at {width}:")
                    found += [f"    {each}" for each in tab.page.evaluate(STICKING_OUT)[:5]]
                name = page.removesuffix(".html").removesuffix("/index").replace("/", "-")
                tab.page.screenshot(path=folder / f"{name}-{size}-{scheme}.png", full_page=True)
                found += [f"{page}: {each}" for each in tab.faults]
                tab.faults.clear()
            tab.close()
    return found


def main() -> int:
    """Look at the pages."""
    if len(sys.argv) < 2:
        print(__doc__)
        return 2
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)

    with served(_Files) as url, chromium() as browser:
        found = look(browser, url, pages(sys.argv[2:]), folder)
    print(*found or ["Every page fits, and asks no other host."], sep="\n")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
