"""QR codes drawn with characters, for authenticator apps.

The code fits a terminal of 24 lines and 80 columns together with the question below it.
"""

from __future__ import annotations

from typing import Final, TextIO
from urllib.parse import parse_qs, urlsplit

from pipelit_agents.cli.output import has_colours

__all__ = ["drawn_for"]

# Modules of white on each side. Four are recommended; apps and zxing read two, and more wouldn't
# leave enough lines for the question.
_BORDER: Final = 2
# Modules a side of version 5: with the border, 21 lines.
_MAX_MODULES: Final = 37
# Characters of the scheme, the service and the account, so that version 5 is large enough for the
# secret too.
_MAX_LABEL: Final = 66
# Black on white in numbers that no colour scheme changes.
_COLOURS: Final = "\x1b[38;5;16;48;5;231m"
_RESET: Final = "\x1b[0m"
# By whether the upper and the lower module are black.
_BLACK_ON_WHITE: Final = {(0, 0): " ", (1, 0): "▀", (0, 1): "▄", (1, 1): "█"}
# Without colours: white is what is drawn, as most terminals are dark.
_WHITE_ON_BLACK: Final = {(0, 0): "█", (1, 0): "▄", (0, 1): "▀", (1, 1): " "}


def drawn_for(stream: TextIO, uri: str, columns: int) -> str:
    """Return the QR code of an ``otpauth://`` URI in lines of text.

    Args:
        stream: The terminal.
        uri: The URI.
        columns: The width of the terminal.

    Returns:
        The lines, or an empty string if the terminal can't show the code.
    """
    import segno

    for text in (compact(uri), _cut(compact(uri))):
        code = segno.make(text, error="l", micro=False, boost_error=False)
        if code.symbol_size(border=0)[0] <= _MAX_MODULES:
            break
    matrix = [list(row) for row in code.matrix_iter(border=_BORDER)]
    try:
        "▀▄█".encode(stream.encoding or "utf-8")
    except UnicodeEncodeError:
        return ""
    if len(matrix[0]) > columns:
        return ""
    coloured = has_colours()
    blocks = _BLACK_ON_WHITE if coloured else _WHITE_ON_BLACK
    # A module below the last row is white, if the number of rows is odd.
    below = [*matrix[1:], [0] * len(matrix[0])]
    lines = []
    for upper, lower in list(zip(matrix, below, strict=True))[::2]:
        line = "".join(
            blocks[bool(top), bool(bottom)] for top, bottom in zip(upper, lower, strict=True)
        )
        lines.append(f"{_COLOURS}{line}{_RESET}" if coloured else line)
    return "\n".join(lines)


def compact(uri: str) -> str:
    """Return an ``otpauth://`` URI of us without the issuer's second name, which apps don't need.

    The service is before the colon of the label, and the other parameters have their usual values.
    """
    parts = urlsplit(uri)
    (secret,) = parse_qs(parts.query)["secret"]
    return f"{parts.scheme}://{parts.netloc}{parts.path}?secret={secret}"


def _cut(uri: str) -> str:
    """Return a compact URI with the beginning of a long account name, which is only a label."""
    label, _, secret = uri.partition("?")
    return f"{label[:_MAX_LABEL]}?{secret}"
