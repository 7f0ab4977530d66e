"""``pipelit-agents mfa enroll`` at a terminal: its QR code is read by another library."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from pathlib import Path

import pyotp
import pytest
import zxingcpp
from command_line import typed
from PIL import Image, ImageDraw
from terminal import Terminal

from pipelit_agents import Pipelit
from pipelit_agents.cli import mfa
from pipelit_agents.cli.qr_codes import drawn_for
from pipelit_agents.protocol.provisioning_uri import provisioning_uri

COLUMNS, LINES = 80, 24
DARK, LIGHT = ("black", "white"), ("white", "black")
CELL = 8
COLOURED = re.compile("\x1b\\[38;5;16;48;5;231m(.*?)\x1b\\[0m")


def picture(drawn: str, background: str, foreground: str) -> Image.Image:
    """What a terminal of these colours shows of the lines."""
    image = Image.new("RGB", (COLUMNS * CELL, LINES * 2 * CELL), background)
    pen = ImageDraw.Draw(image)
    for row, line in enumerate(drawn.splitlines()):
        coloured = COLOURED.fullmatch(line)
        back, front = ("white", "black") if coloured else (background, foreground)
        for column, character in enumerate(coloured[1] if coloured else line):
            x, y = column * CELL, row * 2 * CELL
            for at, full in enumerate(("█▀", "█▄")):
                box = (x, y + at * CELL, x + CELL - 1, y + (at + 1) * CELL - 1)
                pen.rectangle(box, fill=front if character in full else back)
    return image


@pytest.mark.parametrize("name", ["alice", "a" * 36, "a.very-long_name." * 8 + "x" * 13])
@pytest.mark.parametrize("colours", [DARK, LIGHT], ids=["dark", "light"])
def test_the_drawn_code_is_read_in_each_terminal(
    name: str, colours: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the question it fits in 24 lines of 80 characters; a long account's name is cut."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    uri = provisioning_uri(name, os.urandom(20)).get_secret_value()
    drawn = drawn_for(io.TextIOWrapper(io.BytesIO(), "utf-8"), uri, COLUMNS)
    # And two for the question.
    assert len(drawn.splitlines()) <= LINES - 2
    (found,) = zxingcpp.read_barcodes(picture(drawn, *colours))
    read, whole = pyotp.parse_uri(found.text), pyotp.parse_uri(uri)
    assert isinstance(read, pyotp.TOTP)
    assert (read.secret, read.issuer, read.digits) == (whole.secret, "pipelit-agents", 6)
    assert name.startswith(read.name)
    assert read.name == name or len(name) > len(read.name) > 30


def test_no_colours_are_drawn_where_none_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR: the code is drawn in the terminal's own colours, for a dark one."""
    monkeypatch.setenv("NO_COLOR", "1")
    uri = provisioning_uri("alice", b"x" * 20).get_secret_value()
    drawn = drawn_for(io.TextIOWrapper(io.BytesIO(), "utf-8"), uri, COLUMNS)
    assert "\x1b" not in drawn
    (found,) = zxingcpp.read_barcodes(picture(drawn, *DARK))
    assert "secret=" in found.text


def test_a_terminal_that_cannot_show_it_gets_none() -> None:
    """One without these characters, and one that is too narrow."""
    uri = provisioning_uri("alice", b"x" * 20).get_secret_value()
    assert drawn_for(io.TextIOWrapper(io.BytesIO(), "ascii"), uri, COLUMNS) == ""
    assert drawn_for(io.TextIOWrapper(io.BytesIO(), "utf-8"), uri, 36) == ""


# The dialogue


@pytest.fixture
def enrolling(
    pipelit: Pipelit, key: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Terminal]:
    """Begin the enrolment of alice in a terminal."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in (("TERM", "xterm"), ("COLUMNS", "80"), ("FIELD_ENCRYPTION_KEY", key)):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PIPELIT_DATABASE_URL", pipelit.database_url)
    return lambda *more: Terminal("mfa", "enroll", "alice", *more)


@pytest.mark.process
def test_a_wrong_code_is_asked_for_again(enrolling: Callable[..., Terminal]) -> None:
    """The QR code and its question are on one screen; then come ten numbered recovery codes."""
    terminal = enrolling()
    shown = terminal.until("Code: ")
    screen = shown[shown.index("\x1b[38;5;16") :].splitlines()
    assert len(screen) <= LINES
    assert all(len(re.sub("\x1b\\[[0-9;]*m", "", line)) <= COLUMNS for line in screen)
    (found,) = zxingcpp.read_barcodes(picture("\n".join(screen), *DARK))
    for wrong, said in (("", "no code was typed"), ("abc", "6 digits"), ("000000", "4 more wrong")):
        terminal.type(f"{wrong}\n")
        assert said in terminal.until("Code: ")
    app = pyotp.parse_uri(found.text)
    assert isinstance(app, pyotp.TOTP)
    terminal.type(f"{app.now()}\n")
    code, rest = terminal.end()
    assert code == 0, rest
    assert re.findall(r"^ +(\d+)\. (?:[A-Z0-9]{4}-){3}[A-Z0-9]{4}$", rest, re.M) == [
        str(number) for number in range(1, 11)
    ]
    assert "Each works once. Store them now: they aren't shown again." in rest


@pytest.mark.process
def test_a_stop_says_how_to_go_on(enrolling: Callable[..., Terminal], pipelit: Pipelit) -> None:
    """Ctrl-C leaves the enrolment pending; the commands that finish it and begin it are named."""
    terminal = enrolling()
    terminal.until("Code: ")
    terminal.type("\x03")
    code, rest = terminal.end()
    assert code == 1
    assert "The enrolment of alice stays pending" in " ".join(rest.split())
    # The lines fit, and none breaks a command.
    assert "pipelit-agents mfa confirm alice" in rest
    assert "pipelit-agents mfa enroll alice" in rest
    assert all(len(line) <= COLUMNS for line in rest.splitlines())
    assert pipelit.mfa.status("alice").pending


@pytest.mark.process
def test_a_picture_is_to_be_deleted(enrolling: Callable[..., Terminal], tmp_path: Path) -> None:
    """It contains the secret. Only its owner can read it, and the end says to delete it."""
    file = tmp_path / "alice.png"
    terminal = enrolling("--png", str(file))
    assert "otpauth://" not in terminal.until("Code: ")
    assert file.stat().st_mode & 0o777 == 0o600
    (found,) = zxingcpp.read_barcodes(Image.open(file))
    app = pyotp.parse_uri(found.text)
    assert isinstance(app, pyotp.TOTP)
    terminal.type(f"{app.now()}\n")
    code, rest = terminal.end()
    assert code == 0
    assert f"Delete {file}" in " ".join(rest.split())


def test_a_code_is_not_asked_for_again_without_a_terminal(
    pipelit: Pipelit, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody types another one, so a command that asked again would never end."""
    monkeypatch.setattr(mfa, "at_a_terminal", lambda: True)
    monkeypatch.setenv("FIELD_ENCRYPTION_KEY", key)
    monkeypatch.setenv("PIPELIT_DATABASE_URL", pipelit.database_url)
    ended = typed("mfa", "enroll", "alice")
    assert ended.exit_code == 1
    assert "the input is empty" in ended.stderr
