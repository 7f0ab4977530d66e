"""How a secret looks when it is used the way such secrets are used."""

from __future__ import annotations

import base64
import csv
import html
import io
import json
import shlex
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, quote_plus, unquote, urlencode, urlsplit
from xml.sax import saxutils

import markupsafe
import pytest
import requests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from pydantic import BaseModel
from sqlalchemy import URL

from pipelit_agents.credentials.leak_guard.masking import masked
from pipelit_agents.credentials.leak_guard.patterns import Patterns
from pipelit_agents.credentials.leak_guard.search import refuse_leak
from pipelit_agents.errors import SecretLeakError

PEM = (
    rsa.generate_private_key(public_exponent=65537, key_size=2048)
    .private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    .decode()
)
ESCAPED = PEM.replace("\n", "\\n")
MOUNTED = "sk-abcdefghijklmnop\n"
CLOUD = "wJalrXUtnFEMI/K7MDENGbPxRfiCY+=="
CERTIFICATE = "\n".join(
    [
        "-----BEGIN CERTIFICATE-----",
        *[f"{n}public" * 8 for n in range(5)],
        "-----END CERTIFICATE-----",
    ]
)
BUNDLE = f"{CERTIFICATE}\n{PEM}"
ADDRESS = "postgresql+psycopg://svc:p%2Fw0rd-of-the-service@db.example/app"
TOKENS = json.dumps({"tokens": ["tk-0123456789ab", "tk-ba9876543210"]})
LATIN = "clé-äöü-0123456789"
HARD = "päss\"wörd<&>'/ 7%x"
ACCOUNT = json.dumps(
    {
        "type": "service_account",
        "private_key_id": "0123456789abcdef0123456789abcdef01234567",
        "private_key": PEM,
        "client_email": "robot@project.iam.example.com",
        "token_uri": "https://oauth2.example.com/token",
        "nested": {"api_key": "nk-zyxwvutsrqponm"},
    }
)


def _csv(text: str) -> str:
    file = io.StringIO()
    csv.writer(file).writerow([1, text])
    return file.getvalue()


class Model(BaseModel):
    password: str


@pytest.mark.slow
@pytest.mark.parametrize(
    ("secret", "use"),
    [
        (MOUNTED, lambda s: f"Bearer {s.strip()}"),
        (MOUNTED, lambda s: base64.b64encode(s.strip().encode()).decode()),
        (PEM, str.strip),
        (PEM, lambda s: s.replace("\n", "")),
        (PEM, lambda s: s.replace("\n", "\r\n")),
        (PEM, lambda s: "\n".join(f"    {line}" for line in s.splitlines())),
        (PEM, lambda s: s.splitlines()[1]),
        (PEM, lambda s: base64.encodebytes(s.encode()).decode()),
        (PEM, lambda s: json.dumps(json.dumps({"key": s}))),
        (ESCAPED, lambda s: s.replace("\\n", "\n")),
        (ESCAPED, lambda s: json.dumps({"key": s.replace("\\n", "\n")})),
        (ACCOUNT, lambda s: json.loads(s)["private_key"]),
        (ACCOUNT, lambda s: json.dumps(json.loads(s), indent=2)),
        (ACCOUNT, lambda s: json.loads(s)["nested"]["api_key"]),
        (CLOUD, quote),
        (CLOUD, quote_plus),
        (
            CLOUD,
            lambda s: (
                quote(s, safe="").replace("%2F", "%2f").replace("%2B", "%2b").replace("%3D", "%3d")
            ),
        ),
        (CLOUD, lambda s: URL.create("postgresql", "me", s, "db").render_as_string(False)),
        (BUNDLE, lambda s: s[s.index("-----BEGIN PRIVATE") :].replace("\n", " ")),
        (ADDRESS, lambda s: f"password: {urlsplit(s).password}"),
        (ADDRESS, lambda s: f"password: {unquote(str(urlsplit(s).password))}"),
        (TOKENS, lambda s: json.loads(s)["tokens"][1]),
        (LATIN, lambda s: requests.auth._basic_auth_str("me", s)),
        (HARD, lambda s: str(markupsafe.escape(s))),
        (HARD, lambda s: saxutils.escape(s)),
        (HARD, lambda s: saxutils.quoteattr(s)),
        (HARD, lambda s: _csv(s)),
        (HARD, lambda s: html.escape(f"<b>{s}</b>")),
        (HARD, lambda s: json.dumps([s])),
        (HARD, lambda s: json.dumps([s], ensure_ascii=False)),
        (HARD, lambda s: json.dumps(json.dumps([s]))),
        (HARD, lambda s: Model(password=s).model_dump_json()),
        (HARD, lambda s: repr(s.encode())),
        (HARD, lambda s: urlencode({"k": s})),
        (HARD, lambda s: base64.urlsafe_b64encode(f"user:{s}".encode()).decode().rstrip("=")),
    ],
)
def test_a_secret_is_found_as_it_is_used(secret: str, use: Callable[[str], str]) -> None:
    """Stripped, by lines, out of a key file, in URLs, pages, JSON: it is found, and masked."""
    text = f"-- {use(secret)} --"
    with pytest.raises(SecretLeakError):
        refuse_leak({"x": text}, {secret: "service"})
    with pytest.raises(SecretLeakError):
        refuse_leak({"x": text.encode()}, {secret: "service"})
    refuse_leak({"x": masked(text, {secret: "service"})}, {secret: "service"})


@pytest.mark.parametrize(
    "honest",
    [
        "-----BEGIN PRIVATE KEY-----",
        "robot@project.iam.example.com",
        "https://oauth2.example.com/token",
        "service_account",
        CERTIFICATE,
        "postgresql+psycopg://svc",
        "db.example/app",
        {"type": "service_account", "private_key": None},
    ],
)
def test_what_a_key_file_shares_with_others_is_no_secret(honest: Any) -> None:
    """Headers, addresses and names in a key file may be said."""
    refuse_leak({"x": honest}, {ACCOUNT: "service", BUNDLE: "pem", ADDRESS: "sql"})


def test_a_short_secret_is_not_looked_for() -> None:
    """Under eight characters it would be found everywhere."""
    refuse_leak({"x": "hunter2"}, {"hunter2": "service"})


@pytest.mark.slow
@pytest.mark.parametrize("character", [*map(chr, range(0x21, 0x7F)), "é", "ß", "“", "字"])
def test_only_what_nothing_rewrites_is_left_as_it_is(character: str) -> None:
    """A character is looked for as written only where no library of ours writes it otherwise."""
    secret = f"key-with-{character}-in-it"
    written = {
        json.dumps(secret)[1:-1],
        quote(secret, safe=""),
        html.escape(secret),
        repr(secret)[1:-1],
        repr(secret.encode())[2:-1],
    }
    for each in written:
        with pytest.raises(SecretLeakError):
            refuse_leak({"a": [each]}, {secret: "openai"})


def _jwt(claims: str, signature: str) -> str:
    header = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9"
    body = base64.urlsafe_b64encode(f'{{"sub":"{claims}"}}'.encode()).decode().rstrip("=")
    return f"{header}.{body}.{signature}"


NOTE = "# Copy this file to .env and fill in the values.\n"
CONFIG = "apiVersion: v1\nkind: Config\nclusters:\n- cluster:\n    server: https://10.0.0.1\n"
USER = "users:\n- name: u\n  user:\n    token: "
FIRST, SECOND = "tR7pX2qLm9Zk4VbN8wYc", "Hd5Gs1Jf6Ua3Qe0Ti7Po"
ACCOUNTS = '{"type":"service_account","project_id":"example",'
# Secrets, and honest texts that begin and end as they do.
ALIKE = {
    "key file": (f'{ACCOUNTS}"private_key":{json.dumps(PEM)}}}', f'{ACCOUNTS}"note":"the form"}}'),
    "settings": (f"{NOTE}API_KEY=sk-{FIRST}{SECOND}\n", f"{NOTE}API_KEY=\nDEBUG=1\n"),
    "cluster": (f"{CONFIG}{USER}{FIRST}{SECOND}\n", CONFIG),
    "nested": (json.dumps({"config": f"{CONFIG}{USER}{FIRST}{SECOND}\n"}), CONFIG),
    "encoded": (base64.b64encode(f"{NOTE}API_KEY=sk-{FIRST}\n".encode()).decode(), NOTE),
    "token": (_jwt("service", FIRST + SECOND + "abc"), _jwt("anyone", SECOND + FIRST + "cba")),
    "bundle": (BUNDLE, CERTIFICATE),
    "certificate": (CERTIFICATE, CERTIFICATE.replace("public", "others")),
    "address": (f"postgresql://application:{FIRST}@db.example/app", "postgresql://application:x@h"),
}


@pytest.mark.parametrize("name", ALIKE)
def test_base64_of_a_document_is_refused_only_for_its_secrets(name: str) -> None:
    """Another of the same kind begins and ends alike, and may be encoded."""
    secret, honest = ALIKE[name]
    for text in (honest, base64.b64encode(honest.encode()).decode()):
        refuse_leak({"x": text}, {secret: "service"})
    for width in (64, 76):
        encoded = base64.b64encode(secret.encode()).decode()
        lines = "\n".join(encoded[i : i + width] for i in range(0, len(encoded), width))
        with pytest.raises(SecretLeakError):
            refuse_leak({"x": lines}, {secret: "service"})


@pytest.mark.slow
@pytest.mark.parametrize("place", range(57))
def test_a_line_break_hides_no_secret(place: int) -> None:
    """A long secret is found wherever it begins in a line, a short one where its document does."""
    token, address = f"sk-{FIRST}{SECOND}", f"https://{'u' * place}:x9K!{FIRST[:8]}@db.example/"
    for plain, secret in ((b"x" * place + token.encode(), token + FIRST), (None, address)):
        encoded = base64.b64encode(plain + FIRST.encode() if plain else secret.encode()).decode()
        for width in (64, 76):
            lines = "\n".join(encoded[i : i + width] for i in range(0, len(encoded), width))
            with pytest.raises(SecretLeakError):
                refuse_leak({"x": lines}, {secret: "service"})


@pytest.mark.parametrize("secret", ["p4ss/W+rd==xY&z'q\"9\\k", "abc<def>12345", "pässwörd-ключ-9"])
@pytest.mark.parametrize(
    "use",
    [
        lambda s: html.escape(s).replace("&#x27;", "&apos;"),
        lambda s: html.escape(s, quote=False).replace("'", "&apos;").replace('"', "&quot;"),
        lambda s: s.replace("\\", "\\\\").replace("'", "\\'").replace('"', '\\"'),
        lambda s: s.replace("\\", "\\\\").replace("'", "\\'"),
        ascii,
        lambda s: ascii({"t": s}),
        lambda s: ascii([s, "'", '"']),
        lambda s: s.encode("unicode_escape").decode(),
    ],
)
def test_a_secret_is_found_as_a_page_a_query_or_python_escapes_it(
    secret: str, use: Callable[[str], str]
) -> None:
    """Entities for apostrophes, backslashes before quotes, and escapes in ASCII."""
    with pytest.raises(SecretLeakError):
        refuse_leak({"x": use(secret)}, {secret: "service"})
    refuse_leak({"x": use(secret[1:])}, {secret: "service"})


@pytest.mark.parametrize(
    "use",
    [
        lambda s: quote(json.dumps({"t": s})),
        lambda s: urlencode({"q": json.dumps({"t": s})}),
        lambda s: quote("https://y.example/?t=" + quote(s, safe=""), safe=""),
        lambda s: urlencode({"next": f"https://y.example/?{urlencode({'t': s})}"}),
        lambda s: html.escape(json.dumps({"t": s})),
        lambda s: json.dumps(html.escape(s)),
        lambda s: quote(html.escape(s)),
        lambda s: repr(json.dumps({"t": s})),
        lambda s: json.dumps(repr({"t": s})),
        lambda s: _csv(json.dumps({"t": s})),
        lambda s: shlex.join(["curl", "-d", json.dumps({"t": s})]),
        lambda s: json.dumps({"cmd": shlex.join(["curl", "-H", f"X: {s}"])}),
        lambda s: repr(repr(s)),
        lambda s: repr([repr({"t": s})]),
        lambda s: repr({"error": repr({"t": [s, "'", '"']})}),
        lambda s: repr(ascii({"t": s})),
    ],
)
@pytest.mark.parametrize("secret", ["p4ss/W+rd==xY&z'q\"9\\k", "abc<def>12345", "pässwörd-ключ-9"])
def test_a_secret_in_a_document_within_a_document_is_found(
    secret: str, use: Callable[[str], str]
) -> None:
    """One encoding changes what another has made of it."""
    with pytest.raises(SecretLeakError):
        refuse_leak({"x": use(secret)}, {secret: "service"})


def test_an_ordinary_key_is_as_quick_to_look_for_as_before() -> None:
    """What no encoding changes has no further forms."""
    assert Patterns({f"sk-{FIRST}": "service"}).count == 9
    assert Patterns({f"{SECOND}/+'\"<&{FIRST}": "service"}).count < 80


@pytest.mark.parametrize("kind", [str, bytes])
def test_a_secret_is_found_wherever_it_begins_in_a_large_value(kind: type) -> None:
    """A large value is searched in pieces, and a secret may lie in two of them."""
    secret = "sk-abcdefghijklmnop"
    patterns = Patterns({secret: "openai"})
    for end in (2**16, 2**17):
        for start in range(end - len(secret) - 1, end + 2):
            text = f"{'.' * start}{secret}{'.' * 99}"
            assert patterns.in_text(text) if kind is str else patterns.in_bytes(text.encode())
    for least in (2**16 - 1, 2**16, 2**16 + 1, 2**17):
        text = f"{'.' * (least - 9)}{secret[:9]}"
        assert not (patterns.in_text(text) if kind is str else patterns.in_bytes(text.encode()))
