"""What a notebook shows: escaped, readable in dark and light, and no secret unless it was asked."""

from __future__ import annotations

import io
import re
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest
import segno
import zxingcpp
from approving import People
from conftest import Clock
from PIL import Image

from pipelit_agents import (
    Agent,
    ApprovalDecision,
    ApprovalNotice,
    ApprovalRequest,
    Pipelit,
)
from pipelit_agents.display import Rows, qr_code, spawn_results, table

BACKENDS = False


def text_of(html: str) -> str:
    """What is read of a page; a tag that isn't closed is an error."""

    class Reader(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []
            self.text: list[str] = []

        def handle_starttag(self, tag: str, attrs: object) -> None:
            self.open.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

        def handle_data(self, data: str) -> None:
            self.text.append(data)

    reader = Reader()
    reader.feed(html)
    assert not reader.open
    return " ".join(reader.text)


def test_a_verification_is_a_table(writer: Agent, editor: Agent) -> None:
    """Who was verified, by whom, how and when."""
    found = editor.verify_peer("agent_writer", writer.totp_code(audience="agent_editor").code)
    text = text_of(found._repr_html_())
    assert "agent_writer" in text
    assert "audience" in text
    assert "Z" in text


def test_a_credential_shows_its_mask(pipelit: Pipelit) -> None:
    """By itself and in a list: the last four characters, and whatever is public, escaped."""
    pipelit.credentials.put(
        "x", "sk-1234567890abcdef", kind="llm", created_by="alice",
        public={"note": "<script>alert(1)</script>"},
    )  # fmt: skip
    shown = pipelit.credentials.list()
    for html in (shown._repr_html_(), pipelit.credentials.get("x")._repr_html_()):  # type: ignore[attr-defined]
        assert "cdef" in text_of(html)
        assert "1234567890" not in html
        assert "<script>" not in html


def test_a_question_is_shown_whole_and_exactly() -> None:
    """Nothing of what is asked is cut, hidden or reordered, and what misleads is named."""
    arguments = {"amount": "90", "memo": "x" * 3000, "to": "b\u202eo\u0430<b>"}
    shown = {"arguments": arguments, "tool": "send_money"}
    at = datetime(2027, 1, 15, tzinfo=UTC)
    asked = ApprovalRequest(
        "apr_1", "00", shown, ("alice",), "operator", "1", at, at, "pending", arguments=arguments
    )
    answered = ApprovalDecision(
        "apr_1", "00", "denied", "alice", "plain", at, at, ("alice",), "operator", "1", "b\u202ea"
    )
    notice = ApprovalNotice(
        "apr_1", "t", "", "1", "operator", ("alice",), 1, at, 1, "00", arguments=arguments
    )
    for each in (asked, answered, notice):
        text = text_of(each._repr_html_())
        assert "\u202e" not in text
        assert r"b\u202e" in text
        assert "U+202E RIGHT-TO-LEFT OVERRIDE" in text
    for each in (asked, notice):
        text = text_of(each._repr_html_())
        assert f'"{"x" * 3000}"' in text
        assert '"amount": "90"' in text
        assert "CYRILLIC SMALL LETTER A" in text


def test_the_audit_is_a_table_and_still_a_list(pipelit: Pipelit, editor: Agent) -> None:
    """It is counted, indexed, compared and looped over as before."""
    entries = pipelit.audit.list()
    assert entries[-1] in list(entries)
    assert entries == list(entries)
    assert len(entries[:2]) == 2
    assert repr(entries).startswith("[AuditEntry(")
    html = entries._repr_html_()  # type: ignore[attr-defined]
    assert "agent.create" in text_of(html)
    assert "agent.create" in text_of(entries[-2]._repr_html_() + entries[-1]._repr_html_())


def test_spawn_results_are_shown_with_what_they_are() -> None:
    """Status in colour, outputs cut, nothing of a child's drives the page."""
    results = [
        {"agent": "a", "status": "verified", "output": {"x": "<b>" + "y" * 9999}, "error": None},
        {"agent": "b", "status": "refused", "output": None, "error": "not proven", "bound": False},
    ]
    shown = spawn_results(results)
    html = shown._repr_html_()
    assert "not proven" in text_of(html)
    assert "<b>" not in html
    assert len(html) < 3000
    assert shown == results
    assert spawn_results(results[0]) == [results[0]]


def test_only_a_status_is_marked_as_one() -> None:
    """A child's answer, and its blank letters, don't look like what was verified of it."""
    result = {"agent": "a", "status": "refused", "output": "verified", "error": "o\u3164\u2800k"}
    html = spawn_results(result)._repr_html_()
    assert "✗ refused" in html
    assert "✓" not in html
    assert r"o\u3164\u2800k" in text_of(html)
    assert table(["status", "said"], [["ok", "ok"]])._repr_html_().count("✓") == 1


def test_a_qr_code_is_drawn_when_it_is_asked_for(pipelit: Pipelit, clock: Clock) -> None:
    """On white, so that a camera reads it in a dark notebook; as text it says nothing."""
    uri = pipelit.mfa.enroll("alice")
    drawn = qr_code(uri)
    assert "secret" not in repr(drawn)
    assert re.search(r'fill="(white|#fff)"', drawn._repr_html_())
    png = io.BytesIO()
    segno.make(uri.get_secret_value(), error="m", micro=False).save(png, kind="png", scale=4)
    (found,) = zxingcpp.read_barcodes(Image.open(png))
    assert found.text == uri.get_secret_value()
    assert qr_code(found.text)._repr_html_() == drawn._repr_html_()


def test_a_new_agent_shows_nothing_of_its_key(pipelit: Pipelit) -> None:
    """What holds secrets has no table: its text is masked, as everywhere."""
    new = pipelit.users.create_agent("agent_new", owner="alice", purpose="x")
    assert not hasattr(new, "_repr_html_")
    assert new.api_key.get_secret_value() not in repr(new)


def test_questions_are_a_table_and_still_a_list(pipelit: Pipelit, clock: Clock) -> None:
    """What is asked is whole and exact, with warnings; a status is marked, not only coloured."""
    assert pipelit.approvals.pending() == []
    People(pipelit, clock, ["alice"])
    asked = pipelit.approvals.request({"to": "b\u202eo\u0430<b>" + "x" * 3000}, approvers=["alice"])
    for found in (pipelit.approvals.pending("alice"), pipelit.approvals.register.list()):
        assert [each.id for each in found] == [asked.id]
        html = found._repr_html_()  # type: ignore[attr-defined]
        text = text_of(html)
        assert "x" * 3000 in text
        assert "\u202e" not in text
        assert "U+202E RIGHT-TO-LEFT OVERRIDE" in text
        assert "… pending" in text
        assert "<b>" not in html
        assert "agent" not in html.partition("<tbody>")[0]


def test_own_rows_are_a_table() -> None:
    """In a notebook and as aligned text; each value is escaped and cut."""
    found = table(
        ["name", "many_things"], [["<script>", 3], ["x" * 9999, True], ["a\x1b[31m\nb", None]]
    )
    html = found._repr_html_()
    assert "<script>" not in html
    assert "many things" in text_of(html)
    assert "yes" in text_of(html)
    assert "\x1b" not in html + repr(found)
    assert len(html) < 3000
    assert repr(table(["a", "b"], [["long", 1], ["x", 22]])) == "a     b\nlong  1\nx     22"
    assert len(repr(found).splitlines()) == 4
    assert repr(table(["a"], [])) == "a"
    with pytest.raises(ValueError, match="rows: each needs 2 values"):
        table(["a", "b"], [["only one"]])


def test_columns_without_values_are_left_out() -> None:
    """Where no row has one; an empty list keeps its heads."""
    entry = ApprovalNotice(
        "apr_1", "t", "", "1", "operator", (), 1, datetime(2027, 1, 15, tzinfo=UTC), 1, "00"
    )
    heads = ["id", "summary", "approvers", "at_least"]
    shown = text_of(Rows([entry], heads)._repr_html_())
    assert "approvers" not in shown
    assert "at least" in shown
    assert "approvers" in text_of(Rows([], heads)._repr_html_())


def test_colours_are_readable_on_white_and_on_black() -> None:
    """The contrast of each colour of a text is 4 or more with both, nearly what WCAG asks for."""
    results = [{"agent": "a", "status": each} for each in ("verified", "refused", "pending")]
    colours = re.findall(r"color:#(\w{6})", spawn_results(results)._repr_html_())
    assert len(colours) == 3

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for colour in colours:
        for background in ("ffffff", "111111"):
            darker, lighter = sorted((luminance(colour), luminance(background)))
            assert (lighter + 0.05) / (darker + 0.05) >= 4
