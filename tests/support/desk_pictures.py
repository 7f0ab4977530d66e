"""Make the pictures of docs/desk.md: ``python tests/support/desk_pictures.py [FOLDER]``.

It starts a desk with sample data and Chromium, and takes a picture of each page at 1280 and at 400
pixels, light and dark. With a folder, all of them go there. Without one, the few that the page
shows are written to docs/images.
"""

from __future__ import annotations

import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import pyotp
from browser import Tab, chromium
from desk_server import DeskServer
from langchain.agents import create_agent
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from paths import ROOT
from PIL import Image
from playwright.sync_api import Browser

from pipelit_agents import Approvers, Pipelit
from pipelit_agents.middleware import ApprovalMiddleware

IMAGES = ROOT / "docs" / "images"
SIZES = {"desktop": (1280, 800), "phone": (400, 800)}
SCHEMES = ("light", "dark")
PAGES = {
    "sign-in": "",
    "overview": "#/overview",
    "people": "#/people",
    "agent": "#/people/invoice-payer",
    "credentials": "#/credentials/shared",
    "credential": "#/credentials/shared/crm",
    "approvals": "#/approvals",
    "approval": "#/approvals/{question}",
    "register": "#/register",
    "second-factor": "#/second-factor",
    "audit": "#/audit",
    "checks": "#/checks",
    "account": "#/account",
}
# What docs/desk.md shows, and the names of those files.
SHOWN = {
    ("overview", "desktop", "light"): "desk-overview.png",
    ("overview", "phone", "dark"): "desk-phone.png",
    ("approval", "desktop", "light"): "desk-approval.png",
}


class Scripted(GenericFakeChatModel):
    """A model that says what it was told to say."""

    def bind_tools(self, *_: Any, **__: Any) -> Any:
        """Return itself."""
        return self


@tool
def send_money(to: str, amount: int) -> str:
    """Pay somebody."""
    return f"paid {amount} to {to}"


def fill(pipelit: Pipelit) -> tuple[str, str]:
    """Store people, agents, credentials, and calls that wait; ada's key, and a question's id."""
    pipelit.create_schema()
    users = pipelit.users
    key = users.create("ada").api_key.get_secret_value()
    users.create("grace")
    for name, owner, purpose in (
        ("invoice-payer", "ada", "pays invoices that were approved"),
        ("invoice-reader", "ada", "reads invoices from the mailbox"),
        ("researcher", "grace", "looks things up"),
    ):
        users.create_agent(name, owner=owner, purpose=purpose)
    stored = pipelit.credentials
    stored.put("crm", "crm-8f31c07a52-4711", kind="api", created_by="ada")
    stored.put(
        "mailbox", "imap-9d20b1-0815", kind="imap", created_by="ada", allow=["invoice-reader"]
    )
    app = pyotp.parse_uri(pipelit.mfa.enroll("ada").get_secret_value())
    assert isinstance(app, pyotp.TOTP)
    pipelit.mfa.confirm("ada", app.at(time.time() - 30))
    asking = ApprovalMiddleware(pipelit, {"send_money": Approvers(["ada"])})
    for number, (amount, to) in enumerate(((1_250, "Bluebird Stationery"), (90, "bob"))):
        call = {"name": "send_money", "args": {"amount": amount, "to": to}, "id": "call_1"}
        agent: Any = create_agent(
            Scripted(messages=iter([AIMessage("", tool_calls=[call])])),
            [send_money],
            middleware=[asking],
            checkpointer=InMemorySaver(),
        )
        thread = {"configurable": {"thread_id": f"invoice-{number}"}}
        agent.invoke({"messages": [("user", "Pay the invoice.")]}, thread)
    pipelit.audit.seal()
    return key, next(
        each.id for each in pipelit.approvals.pending() if each.arguments["amount"] > 90
    )


def small(picture: bytes) -> bytes:
    """Return a picture with a palette, which is a third of the size."""
    with Image.open(BytesIO(picture)) as opened:
        reduced = opened.convert("RGB").quantize(64, dither=Image.Dither.NONE)
        out = BytesIO()
        reduced.save(out, "PNG", optimize=True)
    return out.getvalue()


def take(browser: Browser, url: str, key: str, question: str, folder: Path | None) -> None:
    """Take all pictures, or those that the page shows."""
    for size, (width, height) in SIZES.items():
        for scheme in SCHEMES:
            wanted = [name for name in PAGES if folder or (name, size, scheme) in SHOWN]
            if not wanted:
                continue
            # Two pixels for one on a phone, as it has them.
            tab = Tab(
                browser, url, viewport={"width": width, "height": height}, color_scheme=scheme
            )
            page = tab.page
            tab.open()
            if "sign-in" in wanted:
                save(page.screenshot(full_page=True), "sign-in", size, scheme, folder)
            page.get_by_label("API key", exact=True).fill(key)
            page.get_by_role("button", name="Sign in").click()
            page.get_by_role("heading", name="Overview").wait_for()
            for name in wanted:
                if name == "sign-in":
                    continue
                # The page before is displayed until the next one is there.
                page.locator("#view h1").evaluate("(old) => old.setAttribute('data-old', '')")
                page.goto(f"{url}/{PAGES[name].format(question=question)}")
                if name != "overview":
                    page.locator("#view h1:not([data-old])").wait_for()
                page.wait_for_load_state("networkidle")
                overflow = page.evaluate("document.documentElement.scrollWidth - innerWidth")
                if overflow > 0:
                    print(f"{name} is {overflow} pixels too wide at {width}")
                whole = folder is not None
                save(page.screenshot(full_page=whole), name, size, scheme, folder)
            print(*tab.faults, sep="\n", end="")
            tab.close()


def save(picture: bytes, name: str, size: str, scheme: str, folder: Path | None) -> None:
    """Write a picture."""
    if folder is None:
        (IMAGES / SHOWN[name, size, scheme]).write_bytes(small(picture))
    else:
        (folder / f"{name}-{size}-{scheme}.png").write_bytes(small(picture))


def main() -> None:
    """Make the pictures."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pictures-") as name, chromium() as browser:
        desk = DeskServer(Path(name))
        with desk.pipelit() as pipelit:
            key, question = fill(pipelit)
        with desk:
            take(browser, desk.url, key, question, folder)


if __name__ == "__main__":
    main()
