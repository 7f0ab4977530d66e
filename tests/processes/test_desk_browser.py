"""The desk's pages in a real Chromium, before a real server: set-up, an agent, an approval.

The tests are one story in the order of the file: each begins where the one before has ended.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from threading import Thread
from typing import Any

import pyotp
import pytest
from browser import KEEPS_NOTHING, Tab, chromium, read_qr
from desk_server import DeskServer
from keeper import ends_with_us
from langchain.agents import create_agent
from langgraph.checkpoint.memory import InMemorySaver
from local_http import served
from paying import Payments, calling, model, run
from redis_server import until

from pipelit_agents import Approvers, Pipelit
from pipelit_agents.middleware import ApprovalMiddleware

SECRET = "crm-8f31c07a52-the-whole-key"


class Service(BaseHTTPRequestHandler):
    """A service that accepts one key."""

    def do_GET(self) -> None:
        """Answer whether the key is right."""
        right = self.headers.get("Authorization") == f"Bearer {SECRET}"
        self.send_response(200 if right else 401)
        self.send_header("Content-Length", "0")
        self.end_headers()


class Run(Thread):
    """An agent that pays, in a thread that waits for the answers to its questions.

    Args:
        pipelit: The library on the desk's database, in another process than the desk.
        calls: The arguments of the calls that its model makes.
    """

    def __init__(self, pipelit: Pipelit, *calls: dict[str, Any]) -> None:
        super().__init__()
        self._pipelit = pipelit
        self._calls = calls
        self.paid = Payments()
        self.messages: list[str] = []

    def run(self) -> None:
        """Run the agent until nothing is left to ask."""
        asking = ApprovalMiddleware(self._pipelit, {"send_money": Approvers(["alice"])})
        agent = create_agent(
            model(calling(*self._calls)),
            [self.paid.tool],
            middleware=[asking],
            checkpointer=InMemorySaver(),
        )
        state = run(agent, {"messages": [("user", "Pay bob.")]})
        while state.get("__interrupt__"):
            until(lambda: not self._pipelit.approvals.pending())
            state = run(agent, None)
        self.messages = [str(each.content) for each in state["messages"]]


@dataclass
class Story:
    """What is known so far.

    Attributes:
        key: Alice's API key.
        app: Her authenticator app.
        spare: Her recovery codes.
    """

    desk: DeskServer
    tab: Tab
    pipelit: Pipelit
    key: str = ""
    app: pyotp.TOTP | None = None
    spare: list[str] = field(default_factory=list)

    def code(self, ahead: int) -> str:
        """Return the code of a period. Each is accepted once, a period early or late too."""
        assert self.app
        return self.app.at(time.time() + 30 * ahead)

    def keep_secrets(self) -> list[str]:
        """Read what is shown once, and say that it is stored."""
        dialog = self.tab.page.get_by_role("dialog")
        stored = dialog.get_by_role("button", name="I have stored it")
        stored.wait_for()
        shown = [each.input_value() for each in dialog.locator("textarea").all()]
        stored.click()
        return shown

    def go(self, section: str) -> None:
        """Choose a page from the menu."""
        menu = self.tab.page.get_by_role("navigation", name="Pages")
        menu.get_by_role("link", name=section).click()

    def sign_in(self) -> None:
        """Paste alice's key."""
        self.tab.page.get_by_label("API key", exact=True).fill(self.key)
        self.tab.page.get_by_role("button", name="Sign in").click()
        self.tab.page.get_by_role("button", name="Sign out").wait_for()


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """A new desk, and a browser before it."""
    with chromium() as browser:
        desk = DeskServer(tmp_path_factory.mktemp("desk"), forked=True, started=ends_with_us)
        with desk.pipelit() as pipelit:
            pipelit.create_schema()
        with desk, desk.pipelit() as pipelit:
            tab = Tab(browser, desk.url)
            yield Story(desk, tab, pipelit)
            tab.close()


@pytest.fixture(autouse=True)
def blameless(story: Story) -> Iterator[None]:
    """After each test: no error in the console, no other host, and nothing kept in the browser."""
    yield
    assert story.tab.faults == []
    assert story.tab.stored() == KEEPS_NOTHING


def test_the_printed_token_makes_the_first_operator(story: Story) -> None:
    """Alice pastes it, chooses her name, and is signed in with the key that she is shown."""
    page = story.tab.page
    story.tab.open()
    page.get_by_label("API key", exact=True).fill(story.desk.token)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_label("Your username").fill("alice")
    page.get_by_role("button", name="Make the first operator").click()
    (story.key,) = story.keep_secrets()
    page.get_by_role("heading", name="Overview").wait_for()
    assert story.pipelit.users.authenticate(story.key).role == "operator"


def test_the_token_works_once(story: Story) -> None:
    """A second time it is refused; a reload signs out."""
    page = story.tab.page
    story.tab.expected_statuses = {401}
    page.reload()
    page.get_by_label("API key", exact=True).fill(story.desk.token)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_label("Your username").fill("mallory")
    page.get_by_role("button", name="Make the first operator").click()
    page.get_by_role("alert").filter(has_text="API key").wait_for()
    story.tab.expected_statuses = set()
    page.reload()
    story.sign_in()


def test_alice_makes_an_agent(story: Story) -> None:
    """Its key and its provisioning URI are shown once, and the QR code is that URI."""
    page = story.tab.page
    story.go("People and agents")
    page.get_by_role("link", name="New agent").first.click()
    page.get_by_label("Username", exact=True).fill("invoice-payer")
    page.get_by_label("Purpose").fill("pays invoices")
    page.get_by_role("button", name="Create the agent").click()
    qr = page.get_by_role("img", name="QR code of the provisioning URI")
    qr.wait_for()
    scanned = read_qr(qr)
    key, uri = story.keep_secrets()
    page.get_by_role("heading", name="invoice-payer").wait_for()
    assert scanned == uri
    assert pyotp.parse_uri(uri).name == "invoice-payer"
    assert story.pipelit.users.authenticate(key).username == "invoice-payer"
    assert key not in page.content()


def test_alice_stores_a_credential_and_tests_it(story: Story) -> None:
    """The service accepts it, and the page has only its last four characters."""
    page = story.tab.page
    story.tab.expected_statuses = {404}
    with served(Service) as url:
        story.go("Credentials")
        page.get_by_role("link", name="New credential").click()
        page.get_by_label("Name", exact=True).fill("crm")
        page.get_by_label("Kind").fill("api")
        page.get_by_label("Secret", exact=True).fill(SECRET)
        page.get_by_label("Public fields").fill(json.dumps({"test_url": f"{url}/me"}))
        page.get_by_role("button", name="Store the credential").click()
        page.get_by_role("heading", name="crm").wait_for()
        page.get_by_role("button", name="Test the credential").click()
        page.get_by_text("accepted", exact=True).wait_for()
    assert SECRET[-4:] in page.content()
    assert SECRET not in page.content()


def test_alice_enrols_her_second_factor_by_its_qr_code(story: Story) -> None:
    """A reader of QR codes is her app; its code turns the factor on."""
    page = story.tab.page
    story.go("Second factor")
    page.get_by_role("button", name="Set up a second factor").click()
    qr = page.get_by_role("img", name="QR code for your authenticator app")
    qr.wait_for()
    app = pyotp.parse_uri(read_qr(qr))
    assert isinstance(app, pyotp.TOTP)
    story.app = app
    # Those of the present and of the next period are for what she approves.
    page.get_by_label("Code").fill(story.code(-1))
    page.get_by_role("button", name="Turn it on").click()
    (codes,) = story.keep_secrets()
    story.spare = codes.split()
    page.get_by_text("Your second factor is on.").wait_for()
    assert story.pipelit.mfa.status("alice").on


def test_alice_approves_a_call_of_a_running_graph_and_sees_it_go_on(story: Story) -> None:
    """She sees the exact arguments; with her code the graph pays what she saw, and nothing else."""
    page = story.tab.page
    # The second name has a letter of another alphabet, and one that turns the text around.
    mischief = "b\u043eb\u202e"
    paying = Run(story.pipelit, {"amount": 90, "to": mischief})
    paying.start()
    until(lambda: bool(story.pipelit.approvals.pending("alice")))
    story.go("Approvals")
    page.get_by_role("link", name="Look and decide").click()
    exact = page.get_by_role("group", name="Exact arguments")
    exact.wait_for()
    assert "\u202e" not in exact.inner_text()
    assert "U+202E" in page.content()
    assert paying.paid == []
    page.get_by_label("Code", exact=False).first.fill(story.code(0))
    page.get_by_role("button", name="Approve", exact=True).click()
    page.get_by_text("You approved.").wait_for()
    paying.join()
    assert paying.paid == [(90, mischief)]
    story.go("Approvals")
    page.get_by_role("link", name="All questions").click()
    page.get_by_role("row", name="send_money").get_by_text("used").wait_for()


def test_alice_finds_her_approval_in_the_audit(story: Story) -> None:
    """The entry names her; the chain of seals is intact."""
    page = story.tab.page
    story.pipelit.audit.seal()
    story.go("Audit")
    page.get_by_role("cell", name="approve").first.wait_for()
    page.get_by_role("button", name="Verify").click()
    page.get_by_text("intact").first.wait_for()
    page.get_by_text("Filters", exact=True).click()
    page.get_by_label("Actor").fill("alice")
    with page.expect_response(lambda answer: "actor=alice" in answer.url):
        page.get_by_role("button", name="Filter").click()
    page.get_by_role("cell", name="operator", exact=True).first.wait_for(state="detached")
    page.get_by_role("cell", name="approve").first.wait_for()


def test_what_is_sensitive_asks_for_a_code(story: Story) -> None:
    """Alice deactivates the agent; a wrong code is refused, and a recovery code does."""
    page = story.tab.page
    story.tab.expected_statuses = {403}
    page.goto(f"{story.desk.url}/#/people/invoice-payer")
    page.get_by_role("button", name="Deactivate").click()
    page.get_by_role("dialog").get_by_role("button", name="Deactivate").click()
    asked = page.get_by_role("dialog").filter(has_text="Confirm that it's you")
    for code in ("000000", story.spare.pop()):
        asked.get_by_label("Code").fill(code)
        asked.get_by_role("button", name="Confirm").click()
        if code == "000000":
            asked.locator(".field-error").filter(has_text="code").wait_for()
    page.get_by_text("inactive").first.wait_for()
    assert not story.pipelit.users.get("invoice-payer").active


def test_the_keyboard_alone_signs_in_and_approves(story: Story) -> None:
    """Nothing is clicked: the tab key, return and letters are enough."""
    page = story.tab.page
    story.tab.open()
    paying = Run(story.pipelit, {"amount": 12, "to": "carol"})
    paying.start()
    until(lambda: bool(story.pipelit.approvals.pending("alice")))
    # The first field has the focus.
    page.get_by_label("API key", exact=True).wait_for()
    page.keyboard.type(story.key)
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Overview").wait_for()
    _tab_to(story, "Approvals")
    page.keyboard.press("Enter")
    page.get_by_role("link", name="Look and decide").wait_for()
    _tab_to(story, "Look and decide")
    page.keyboard.press("Enter")
    page.get_by_role("group", name="Exact arguments").wait_for()
    _tab_to(story, "Code")
    page.keyboard.type(story.code(1))
    page.keyboard.press("Enter")
    page.get_by_text("You approved.").wait_for()
    paying.join()
    assert paying.paid == [(12, "carol")]


def _tab_to(story: Story, name: str) -> None:
    """Press the tab key until what has the focus is called so, and see that it is visible."""
    seen = []
    for _ in range(60):
        story.tab.page.keyboard.press("Tab")
        found = story.tab.page.evaluate(
            """() => {
                const at = document.activeElement;
                const name = at.labels?.[0]?.textContent ?? at.textContent ?? "";
                const ring = getComputedStyle(at);
                return [name.trim(), ring.outlineStyle !== "none" || ring.boxShadow !== "none"];
            }"""
        )
        seen.append(found)
        if found[0].startswith(name):
            assert found[1], f"{name} has the focus, and nothing shows it"
            return
    raise AssertionError(f"the tab key never reaches {name!r}: {seen}")
