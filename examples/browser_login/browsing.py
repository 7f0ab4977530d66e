"""Two ways to fill in the login page: a browser, or the same requests without one."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import httpx


def find_browser() -> str | None:
    """Return the path of a Chromium that Playwright can drive, or None.

    It is the one that ``CHROMIUM`` names, Playwright's own, or one that is on the path.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        return None
    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    found = [shutil.which(os.environ.get("CHROMIUM") or "chromium"), own]
    found += [shutil.which(name) for name in ("chromium-browser", "google-chrome")]
    return next((each for each in found if each and Path(each).is_file()), None)


def log_in_by_browser(browser: str, url: str, fields: dict[str, str]) -> str:
    """Fill in the page in Chromium, and return the text of the page that follows."""
    from playwright.sync_api import sync_playwright

    # Chromium's sandbox doesn't work for root, whom Windows doesn't have.
    sandbox = os.name != "posix" or os.geteuid() != 0
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=browser, chromium_sandbox=sandbox) as chromium,
    ):
        page = chromium.new_page()
        page.goto(url)
        for name, value in fields.items():
            page.fill(f"[name={name}]", value)
        page.click("button")
        return page.inner_text("body")


def log_in_by_forms(url: str, fields: dict[str, str]) -> str:
    """Send what the browser would send, and return the text of the page that follows."""
    with httpx.Client(follow_redirects=True) as client:
        page = client.post(url, data=fields).text
    return re.sub(r"<title>.*?</title>|<[^>]*>", "", page).strip()
