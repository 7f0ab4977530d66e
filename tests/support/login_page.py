"""A page of another service that asks for a password and a code, and accepts each code once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qsl

import pyotp
from local_http import served

# How many steps a code may be ahead: callers of a race don't wait until theirs begins.
_AHEAD = 120


class LoginPage:
    """What the page knows, and what it was sent.

    Attributes:
        url: Its address.
        password: The right password.
        uri: The seed of the codes, as the page shows it in a QR code.
    """

    def __init__(self) -> None:
        self.url = ""
        self.password = "opal-otter-4711"
        totp = pyotp.TOTP(pyotp.random_base32(), digits=8, name="bot", issuer="Shop")
        self.uri = totp.provisioning_uri()
        now = int(time.time())
        self._good = [totp.at(now + 30 * ahead) for ahead in range(-1, _AHEAD)]

    def lets_in(self, form: dict[str, str]) -> bool:
        """Whether the password and the code are right; the code isn't right any more."""
        if form.get("password") != self.password or form.get("code") not in self._good:
            return False
        self._good.remove(form["code"])
        return True


@contextmanager
def login_page() -> Iterator[LoginPage]:
    """Serves on a port of this machine, for the length of the block."""
    page = LoginPage()
    one_by_one = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            with one_by_one:
                welcome = page.lets_in(dict(parse_qsl(body)))
            self.send_response(200 if welcome else 403)
            self.end_headers()

    with served(Handler) as address:
        page.url = f"{address}/"
        yield page
