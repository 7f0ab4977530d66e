"""The URIs and exports of authenticator apps: what is read, and what is refused."""

from __future__ import annotations

import base64
import hashlib
from urllib.parse import quote, unquote

import pyotp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from internals import Authenticator, exported_accounts, is_otpauth, read_base32, read_otpauth
from pydantic import SecretStr

from pipelit_agents.otp import migration_uris

# The seed of Google's documents, 80 bits, as many services issue it.
SEED = b"Hello!\xde\xad\xbe\xef"
TEXT = "JBSWY3DPEHPK3PXP"
# The example of public tools that read such exports.
EXPORT = (
    "otpauth-migration://offline?data="
    "CjEKCkhlbGxvId6tvu8SGEV4YW1wbGU6YWxpY2VAZ29vZ2xlLmNvbRoHRXhhbXBsZTAC"
)

READ = {
    "google": (
        f"otpauth://totp/Example:alice@google.com?secret={TEXT}&issuer=Example",
        Authenticator(SEED, "Example", "alice@google.com"),
    ),
    "no issuer": (f"otpauth://totp/alice?secret={TEXT}", Authenticator(SEED, "", "alice")),
    "no label": (f"otpauth://totp/?secret={TEXT}", Authenticator(SEED)),
    "no path": (f"otpauth://totp?secret={TEXT}", Authenticator(SEED)),
    "issuer in the label": (
        f"otpauth://totp/Big%20Corp%3A%20alice%2Btest?secret={TEXT}",
        Authenticator(SEED, "Big Corp", "alice+test"),
    ),
    "spaces in the secret": (
        "otpauth://totp/GitHub:alice?secret=jbsw+y3dp%20ehpk-3pxp&issuer=Git+Hub",
        Authenticator(SEED, "Git Hub", "alice"),
    ),
    "padding": (
        f"otpauth://totp/x?secret={base64.b32encode(b'12345678901').decode()}&digits=6",
        Authenticator(b"12345678901", "", "x"),
    ),
    "capitals and blanks": (
        f"  OTPAUTH://TOTP/x?SECRET={TEXT}&Algorithm=HmacSHA512&DIGITS=8&Period=60\n",
        Authenticator(SEED, "", "x", 8, 60, "sha512"),
    ),
    "other parameters": (
        f"otpauth://totp/x?secret={TEXT}&algorithm=SHA-256&image=https%3A%2F%2Fx%2Fy.png&lock=false"
        "&digits=7&period=1&counter=4&codeDisplay=3-3&encoder=",
        Authenticator(SEED, "", "x", 7, 1, "sha256"),
    ),
    "from HTML": (
        f"otpauth://totp/x?secret={TEXT}&amp;issuer=Shop&amp;period=300",
        Authenticator(SEED, "Shop", "x", period=300),
    ),
    "empty parameters": (
        f"otpauth://totp/x?secret={TEXT}&issuer=&algorithm=&digits=&period=",
        Authenticator(SEED, "", "x"),
    ),
    "control characters": (
        f"otpauth://totp/a%0a%00b?secret={TEXT}",
        Authenticator(SEED, "", "a b"),
    ),
}
REFUSED = {
    "counter": (f"otpauth://hotp/x?secret={TEXT}&counter=1", "hotp"),
    "steam": (f"otpauth://steam/Steam:x?secret={TEXT}", "type steam"),
    "encoder": (f"otpauth://totp/Steam:x?secret={TEXT}&encoder=steam", "type steam"),
    "yandex": (f"otpauth://yaotp/x?secret={TEXT}", "type yaotp"),
    "long type": (f"otpauth://{TEXT}/x?secret={TEXT}", "the type isn't supported"),
    "no secret": ("otpauth://totp/x?issuer=y", "no secret="),
    "no query": (f"otpauth://totp/x#secret={TEXT}", "no secret="),
    "two secrets": (f"otpauth://totp/x?secret={TEXT}&secret={TEXT}A", "twice"),
    "MD5": (f"otpauth://totp/x?secret={TEXT}&algorithm=MD5", "algorithm MD5"),
    "long algorithm": (f"otpauth://totp/x?secret={TEXT}&algorithm={TEXT}", "the algorithm isn't"),
    "five digits": (f"otpauth://totp/x?secret={TEXT}&digits=5", "digits must be .* 6 to 8"),
    "other digits": (f"otpauth://totp/x?secret={TEXT}&digits=٦", "digits must be"),
    "no period": (f"otpauth://totp/x?secret={TEXT}&period=0", "period must be .* 1 to 300"),
    "long period": (f"otpauth://totp/x?secret={TEXT}&period=301", "period must be"),
    "no Base32": (f"otpauth://totp/x?secret={TEXT}1", "character 17 of 17"),
    "cut off": (f"otpauth://totp/x?secret={TEXT}A", "17 characters don't make whole bytes"),
    "short": ("otpauth://totp/x?secret=JBSWY3DP", "8 to 512 bytes, and has 5"),
    "too long": (f"otpauth://totp/x?secret={TEXT}&image={'x' * 20_000}", "more than 16,384"),
    "a list": (
        f"otpauth://totp/x?secret={TEXT}&issuer=A\notpauth://totp/y?secret={TEXT}",
        "several otpauth:// URIs",
    ),
    "another scheme": (f"https://totp/x?secret={TEXT}", "otpauth://totp/"),
}


@pytest.mark.parametrize("case", READ)
def test_what_authenticator_apps_read_is_read(case: str) -> None:
    """Their spellings of a URI, and what they leave out or add."""
    uri, expected = READ[case]
    assert is_otpauth(uri)
    assert read_otpauth(uri) == expected


@pytest.mark.parametrize("case", REFUSED)
def test_what_gives_no_codes_is_refused_by_name(case: str) -> None:
    """The error says which part of the URI is wrong, and repeats no seed."""
    uri, message = REFUSED[case]
    with pytest.raises(ValueError, match=message) as caught:
        read_otpauth(uri)
    assert TEXT not in str(caught.value)


def test_a_seed_is_read_as_services_display_it() -> None:
    """In groups, in lower case, with padding or without; letters of other scripts are refused."""
    for text in (TEXT, "jbsw y3dp ehpk 3pxp", "JBSW-Y3DP-EHPK-3PXP\n", "JBSW\u00a0Y3DPEHPK3PXP"):
        assert read_base32(text) == SEED
    for text in ("JBSWY3DPEHPK3PXß", "JBSWY3DPEHPK3PX\u0131", ""):
        with pytest.raises(ValueError, match="the secret"):
            read_base32(text)


def test_what_pyotp_makes_is_read() -> None:
    """Each of its options comes back."""
    made = pyotp.TOTP(
        TEXT * 2, digits=8, digest=hashlib.sha512, name="al ice", issuer="A & B", interval=60
    )
    assert read_otpauth(made.provisioning_uri()) == Authenticator(
        SEED * 2, "A & B", "al ice", 8, 60, "sha512"
    )


# Exports of Google Authenticator


def field(number: int, value: int | bytes) -> bytes:
    """A field of a message of Protocol Buffers."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value: int) -> bytes:
    """A number of a message of Protocol Buffers."""
    return bytes([value & 0x7F | 0x80]) + varint(value >> 7) if value > 0x7F else bytes([value])


def account(name: str, issuer: str, *numbers: int, secret: bytes = SEED) -> bytes:
    """An account of an export: its algorithm, digits, type and counter."""
    texts = field(1, secret) + field(2, name.encode()) + field(3, issuer.encode())
    return texts + b"".join(field(4 + place, number) for place, number in enumerate(numbers))


def export(*accounts: bytes) -> str:
    """The text of the QR code of some accounts."""
    raw = b"".join(field(1, each) for each in accounts) + field(2, 1) + field(5, 2**63)
    return f"otpauth-migration://offline?data={quote(base64.b64encode(raw), safe='')}"


def test_an_export_of_the_app_is_read() -> None:
    """Its account comes with the label, and its URI is an ordinary one."""
    assert {label: each.get_secret_value() for label, each in migration_uris(EXPORT).items()} == {
        "Example:alice@google.com": "otpauth://totp/Example:alice%40google.com?"
        f"secret={TEXT}&issuer=Example"
    }


def test_an_export_gives_a_uri_for_each_account() -> None:
    """Also accounts with one label, with no algorithm, and those that give no codes here."""
    uris = migration_uris(
        SecretStr(
            export(
                account("alice", "Git Hub", 2, 2, 2),
                account("Git Hub:alice", "Git Hub", 0, 0, 2),
                account("Big:bob", "", 4, 1, 2),
                account("", "Counted", 1, 1, 1, 7),
            )
        )
    )
    assert list(uris) == ["Git Hub:alice", "Git Hub:alice (2)", "Big:bob", "Counted"]
    first, second, md5, counted = (each.get_secret_value() for each in uris.values())
    assert read_otpauth(first) == Authenticator(SEED, "Git Hub", "alice", 8, 30, "sha256")
    assert read_otpauth(second) == Authenticator(SEED, "Git Hub", "alice")
    assert counted.endswith("&digits=6&counter=7")
    for uri, message in ((md5, "algorithm MD5"), (counted, "hotp")):
        with pytest.raises(ValueError, match=message):
            read_otpauth(uri)


def test_a_form_that_made_spaces_of_plus_signs_is_undone() -> None:
    """So is Base64 of URLs, and missing padding."""
    whole = export(account("x", "y", 1, 1, 2, secret=b"\xfb\xf0" * 15))
    expected = exported_accounts(whole)
    start, _, data = whole.partition("=")
    plain = unquote(data).rstrip("=")
    assert {"+", "/"} < set(plain)
    for text in (plain, plain.replace("+", " "), plain.replace("+", "-").replace("/", "_")):
        assert exported_accounts(f"{start}={text}") == expected


BAD_EXPORTS = {
    "no data": "otpauth-migration://offline",
    "empty": "otpauth-migration://offline?data=",
    "no Base64": "otpauth-migration://offline?data=a*b",
    "no account": export(),
    "no message": export(b"\xff"),
    "no secret": export(account("x", "y", 1, 1, 2, secret=b"")),
    "unknown type": export(account("x", "y", 1, 1, 3)),
    "unknown algorithm": export(account("x", "y", 9, 1, 2)),
    "unknown digits": export(account("x", "y", 1, 9, 2)),
    "a number for a text": export(field(1, 1)),
    "a text for a number": export(account("x", "y") + field(6, b"totp")),
    "too many": export(*[account("x", "y", 1, 1, 2)] * 101),
    "a size beyond the end": export(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f"),
    "an endless number": export(b"\x80" * 40),
    "a group": export(b"\x0b"),
    "too long": "otpauth-migration://offline?data=" + "A" * 20_000,
    "another scheme": EXPORT.replace("-migration", ""),
}


@pytest.mark.parametrize("case", BAD_EXPORTS)
def test_what_is_no_export_is_refused(case: str) -> None:
    """The error names the fix, and repeats nothing."""
    with pytest.raises(ValueError, match="uri: it isn't an export") as caught:
        migration_uris(BAD_EXPORTS[case])
    assert TEXT not in str(caught.value)


@given(st.binary(max_size=60))
def test_no_bytes_do_harm(raw: bytes) -> None:
    """Whatever the message is, it is read or refused."""
    try:
        found = exported_accounts(export(raw))
    except ValueError:
        return
    assert len(found) == 1


def test_an_export_that_is_cut_off_gives_nothing_else() -> None:
    """However much of it is missing, no account with a part of its seed is made."""
    raw = field(1, account("x", "y", 1, 1, 2))
    for length in range(len(raw)):
        cut = base64.b64encode(raw[:length]).decode()
        with pytest.raises(ValueError, match="it isn't an export"):
            exported_accounts(f"otpauth-migration://offline?data={quote(cut, safe='')}")
