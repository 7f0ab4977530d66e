"""A real Chromium, and pages of it that report what a desk's page must never do.

Playwright drives the Chromium of this machine, never its own download. ``make chromium`` installs
one as root on Debian; ``CHROMIUM`` names another.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit

import pytest
import zxingcpp
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MISSING = (
    "Chromium isn't installed: run `make chromium` as root on Debian, or install it otherwise, or "
    "set CHROMIUM to its path"
)
FLAGS = [
    *("--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
# Milliseconds. On a busy machine a page takes a while; one that does what it should is never waited
# for so long.
PATIENCE = 20_000


def path_of_chromium() -> str | None:
    """Return where Chromium is, if it is installed.

    Raises:
        RuntimeError: ``CHROMIUM`` names something else.
    """
    named = os.environ.get("CHROMIUM")
    if named:
        found = shutil.which(named)
        if found is None:
            raise RuntimeError(f"CHROMIUM={named} can't be run")
        return found
    return next((found for each in NAMES if (found := shutil.which(each))), None)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start Chromium for the length of the block; skip the test if there is none.

    If there is one and it doesn't start, that is an error.
    """
    path = path_of_chromium()
    if path is None:
        pytest.skip(MISSING)
    with sync_playwright() as playwright:
        # As root it needs --no-sandbox.
        made = playwright.chromium.launch(
            executable_path=path, args=FLAGS, chromium_sandbox=os.geteuid() != 0
        )
        try:
            yield made
        finally:
            made.close()


class Tab:
    """A tab without a history, which notes what a page does wrong.

    Args:
        browser: The browser.
        url: The address of the desk.
        options: More options of the tab's context, for example ``color_scheme``.

    Attributes:
        page: Playwright's page.
        faults: Errors of the console and of scripts, and requests to other places.
    """

    def __init__(self, browser: Browser, url: str, **options: Any) -> None:
        self.url = url
        self.faults: list[str] = []
        # Refusals that a test provokes are written to the console by the browser itself.
        self.expected_statuses: set[int] = set()
        self.context = browser.new_context(
            **{"viewport": {"width": 1280, "height": 800}, **options}
        )
        self.context.set_default_timeout(PATIENCE)
        self.page: Page = self.context.new_page()
        self.page.on("console", self._note_console)
        self.page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        self.page.on("request", self._note_request)

    def _note_console(self, message: Any) -> None:
        text = message.text
        refused = any(f"status of {each} " in text for each in self.expected_statuses)
        if message.type in ("error", "warning") and not refused:
            self.faults.append(f"console: {text}")

    def _note_request(self, request: Any) -> None:
        wanted, here = urlsplit(request.url), urlsplit(self.url)
        if wanted.scheme not in ("data", "blob") and wanted.netloc != here.netloc:
            self.faults.append(f"request: {request.url}")
        if "plit_" in request.url:
            self.faults.append(f"a key in an address: {request.url}")

    def open(self, path: str = "/") -> None:
        """Go to a page of the desk."""
        self.page.goto(self.url + path)

    def stored(self) -> dict[str, Any]:
        """Return all that the page keeps in the browser, where anybody can find it later."""
        kept: dict[str, Any] = self.page.evaluate(
            """async () => ({
                cookie: document.cookie,
                local: Object.keys(localStorage),
                session: Object.keys(sessionStorage),
                databases: (await indexedDB.databases()).length,
                // On plain HTTP these are there for localhost only.
                caches: window.caches ? await caches.keys() : [],
                workers: navigator.serviceWorker
                    ? (await navigator.serviceWorker.getRegistrations()).length : 0,
                name: window.name,
                history: JSON.stringify(history.state),
            })"""
        )
        return kept | {"cookies": self.context.cookies()}

    def close(self) -> None:
        """Close it."""
        self.context.close()


KEEPS_NOTHING: dict[str, Any] = {
    "cookie": "",
    "local": [],
    "session": [],
    "databases": 0,
    "caches": [],
    "workers": 0,
    "name": "",
    "history": "null",
    "cookies": [],
}


def read_qr(shown: Locator) -> str:
    """Read a QR code from a picture of the screen, as a phone does."""
    with Image.open(BytesIO(shown.screenshot())) as picture:
        (found,) = zxingcpp.read_barcodes(picture)
    return str(found.text)
