"""RFC 6238 and RFC 6287 as pure functions: the RFCs' vectors, and every refusal."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import hmac
import json
import string
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyotp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelit_agents import otp
from pipelit_agents.otp import OcraSuite, ocra, step_at, totp

VECTORS = Path(__file__).parent / "vectors"
RAW = b"12345678901234567890"
SECRET = base64.b32encode(RAW).decode()
KEY32 = b"12345678901234567890123456789012"
KEY64 = b"1234567890123456789012345678901234567890123456789012345678901234"
PROOF_SUITE = "OCRA-1:HOTP-SHA256-0:QH64-T30S"
QUESTION = hashlib.sha256(b"question").hexdigest()
NOW = 1_700_000_000
END_OF_TIME = 253_402_300_800

# RFC 6287 Appendix C.1 and C.3, the timed suites, at Mar 25 2008 12:06:30 GMT.
TIMED_AT = 0x132D0B6 * 60 + 30
TIMED = [
    ("OCRA-1:HOTP-SHA512-8:QN08-T1M", "00000000", "95209754"),
    ("OCRA-1:HOTP-SHA512-8:QN08-T1M", "11111111", "55907591"),
    ("OCRA-1:HOTP-SHA512-8:QN08-T1M", "22222222", "22048402"),
    ("OCRA-1:HOTP-SHA512-8:QN08-T1M", "33333333", "24218844"),
    ("OCRA-1:HOTP-SHA512-8:QN08-T1M", "44444444", "36209546"),
    ("OCRA-1:HOTP-SHA512-8:QA10-T1M", "SIG1000000", "77537423"),
    ("OCRA-1:HOTP-SHA512-8:QA10-T1M", "SIG1100000", "31970405"),
    ("OCRA-1:HOTP-SHA512-8:QA10-T1M", "SIG1200000", "10235557"),
    ("OCRA-1:HOTP-SHA512-8:QA10-T1M", "SIG1300000", "95213541"),
    ("OCRA-1:HOTP-SHA512-8:QA10-T1M", "SIG1400000", "65360607"),
]

raw_secrets = st.binary(min_size=14, max_size=64)
moments = st.one_of(
    st.integers(min_value=0, max_value=END_OF_TIME - 1),
    st.floats(min_value=0, max_value=END_OF_TIME, exclude_max=True),
)


def vectors(name: str) -> list[dict[str, Any]]:
    """Return the vectors of one file."""
    found: list[dict[str, Any]] = json.loads((VECTORS / name).read_text())["vectors"]
    return found


@pytest.fixture
def new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set the local time zone to one with daylight saving time, and put it back."""
    with monkeypatch.context() as patch:
        # A POSIX rule, so that the test doesn't need the machine's zone files.
        patch.setenv("TZ", "EST5EDT,M3.2.0,M11.1.0")
        time.tzset()
        yield
    time.tzset()


def test_public_names_are_sorted_and_complete():
    """The module offers these names."""
    assert otp.__all__ == [
        "OcraSuite",
        "migration_uris",
        "ocra",
        "ocra_each",
        "step_at",
        "totp",
    ]


@pytest.mark.parametrize("vector", vectors("rfc6238.json"))
def test_totp_matches_rfc_6238(vector):
    """Every vector of RFC 6238 Appendix B gives its code."""
    code = totp(
        vector["secret_base32"],
        vector["unix_time"],
        digits=vector["digits"],
        period=vector["period"],
        algorithm=vector["algorithm"],
    )
    assert code == vector["code"]


@pytest.mark.parametrize("vector", vectors("rfc6287.json"))
def test_ocra_matches_rfc_6287(vector):
    """Every one-way vector without time of RFC 6287 Appendix C gives its response."""
    key = bytes.fromhex(vector["key_hex"])
    assert ocra(key, vector["suite"], vector["question"]) == vector["response"]


@pytest.mark.parametrize(("suite", "question", "response"), TIMED)
def test_ocra_matches_rfc_6287_with_time(suite, question, response):
    """Every one-way vector with a time step of RFC 6287 Appendix C gives its response."""
    assert ocra(KEY64, suite, question, TIMED_AT) == response


# --- step_at


@pytest.mark.parametrize(
    ("at", "period", "step"),
    [
        (0, 30, 0),
        (-0.0, 30, 0),
        (29.999999, 30, 0),
        (30, 30, 1),
        (59, 30, 1),
        (59, 1, 59),
        (END_OF_TIME - 1, 86_400, 2_932_896),
        (10, 10**20, 0),
    ],
)
def test_step_counts_whole_periods(at, period, step):
    """A step changes exactly at a multiple of its period."""
    assert step_at(at, period) == step


@given(moments, st.integers(min_value=1, max_value=10**6))
def test_step_holds_its_moment(at, period):
    """A moment, to the second, lies in the step that is returned."""
    step = step_at(at, period)
    assert type(step) is int
    assert step * period <= int(at) < (step + 1) * period


@pytest.mark.parametrize(
    "at",
    [
        *(-1, -0.001, float("nan"), float("inf"), float("-inf"), END_OF_TIME, NOW * 1000),
        *(True, False, None, "59", 59j),
    ],
)
def test_time_that_is_not_unix_seconds_is_refused(at):
    """A negative, absent, endless, boolean, textual or millisecond time is refused by name."""
    with pytest.raises(ValueError, match=r"^at must be Unix seconds"):
        step_at(at)
    with pytest.raises(ValueError, match=r"^at must be Unix seconds"):
        totp(SECRET, at)


@pytest.mark.parametrize("at", [-1, float("nan"), True, "59", NOW * 1000])
def test_ocra_refuses_time_that_is_not_unix_seconds(at):
    """A timed suite has the same rules for its time as TOTP."""
    with pytest.raises(ValueError, match=r"^at must be Unix seconds"):
        ocra(KEY32, PROOF_SUITE, QUESTION, at)


@pytest.mark.parametrize("period", [0, -30, True, 30.0, "30", None])
def test_period_that_is_not_a_positive_int_is_refused(period):
    """A period is a whole number of seconds, 1 or more."""
    with pytest.raises(ValueError, match=r"^period must be"):
        step_at(NOW, period)
    with pytest.raises(ValueError, match=r"^period must be"):
        totp(SECRET, NOW, period=period)


# --- totp


@given(
    raw=raw_secrets,
    at=moments,
    digits=st.integers(min_value=6, max_value=8),
    period=st.integers(min_value=1, max_value=120),
    algorithm=st.sampled_from(["sha1", "sha256", "sha512"]),
)
def test_totp_agrees_with_pyotp(raw, at, digits, period, algorithm):
    """On random input, the code is pyotp's for the step worked out here."""
    theirs = pyotp.TOTP(
        base64.b32encode(raw).decode(),
        digits=digits,
        digest=getattr(hashlib, algorithm),
        interval=period,
    )
    code = totp(raw, at, digits=digits, period=period, algorithm=algorithm)
    assert code == theirs.generate_otp(int(at) // period)


@given(raw_secrets, moments)
def test_every_spelling_of_a_secret_gives_one_code(raw, at):
    """Raw bytes, padded, unpadded and lower-case base32 are the same secret."""
    padded = base64.b32encode(raw).decode()
    spellings = [raw, padded, padded.rstrip("="), padded.lower()]
    assert len({totp(spelling, at) for spelling in spellings}) == 1


def test_defaults_are_those_of_authenticator_apps():
    """Without options a code has 6 digits, SHA-1 and a period of 30 seconds."""
    assert totp(SECRET, 59) == "287082"
    assert totp(SECRET, 59) == totp(SECRET, 30.5) != totp(SECRET, 60)


def test_period_may_be_longer_than_pyotp_allows():
    """A period over two minutes works, although pyotp 2.12 refuses it."""
    assert totp(SECRET, 3600, period=3600) == totp(SECRET, 30)


@pytest.mark.usefixtures("new_york")
def test_totp_does_not_depend_on_local_time():
    """In the hour that occurs twice when DST ends, each occurrence has its own code."""
    first = 1_730_611_800  # 2024-11-03 01:30 EDT
    second = first + 3600  # 2024-11-03 01:30 EST: the same clock on the wall
    assert time.localtime(first)[:5] == time.localtime(second)[:5] == (2024, 11, 3, 1, 30)
    for at in (first, second):
        by_hand = pyotp.HOTP(SECRET).at(at // 30)
        assert totp(SECRET, at) == totp(SECRET, float(at)) == by_hand
    assert totp(SECRET, first) != totp(SECRET, second)


@pytest.mark.parametrize(
    "secret",
    [
        SECRET[:-1] + "1",
        SECRET[:-1] + "0",
        SECRET[:-1] + "!",
        SECRET + "\n",
        " " + SECRET,
        "GEZD GNBV GY3T QOJQ GEZD GNBV GY3T QOJQ",
        "GEZD-" + SECRET,
        "GE==" + SECRET,
        SECRET[:-1] + "\uff21",  # fullwidth A
        SECRET[:-1] + "\u017f",  # long s, whose upper case is S
    ],
)
def test_character_outside_base32_is_refused(secret):
    """A character that isn't base32 is refused by position, and the secret isn't shown."""
    with pytest.raises(ValueError, match=r"^secret isn't base32: character \d+ of \d+") as caught:
        totp(secret, NOW)
    assert SECRET[:8] not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    "secret",
    [
        *(SECRET + "A", SECRET + "AAA", SECRET + "AAAAAA", SECRET[:-1] * 2),
        *(SECRET + "=", SECRET + "========", SECRET + "GE=", SECRET + "GEZA====="),
    ],
)
def test_base32_that_is_not_whole_bytes_is_refused(secret):
    """A truncated secret, or padding neither left out nor complete, is refused."""
    with pytest.raises(ValueError, match=r"^secret isn't base32: .* whole bytes") as caught:
        totp(secret, NOW)
    assert SECRET[:8] not in str(caught.value)


@pytest.mark.parametrize("secret", ["", "====", b"", b"x" * 13, "JBSWY3DPEHPK3PXP"])
def test_short_secret_is_refused(secret):
    """A secret under 112 bits is refused, whatever pyotp is installed."""
    with pytest.raises(ValueError, match=r"^secret (must be at least 14 bytes|isn't base32)"):
        totp(secret, NOW)


@pytest.mark.parametrize("secret", [None, 7, bytearray(RAW), ["A"] * 32])
def test_secret_of_another_type_is_refused(secret):
    """A secret is text or bytes."""
    with pytest.raises(ValueError, match=r"^secret must be base32 text"):
        totp(secret, NOW)


@pytest.mark.parametrize("digits", [5, 9, 0, -6, True, 6.0, "6", None])
def test_totp_digits_out_of_range_are_refused(digits):
    """A code has 6 to 8 digits."""
    with pytest.raises(ValueError, match=r"^digits must be 6, 7 or 8"):
        totp(SECRET, NOW, digits=digits)


@pytest.mark.parametrize("algorithm", ["SHA1", "sha-1", "md5", "", None, hashlib.sha1, ["sha1"]])
def test_unknown_algorithm_is_refused(algorithm):
    """The algorithm is one of three names."""
    with pytest.raises(ValueError, match=r"^algorithm must be 'sha1', 'sha256' or 'sha512'"):
        totp(SECRET, NOW, algorithm=algorithm)


# --- OcraSuite


@pytest.mark.parametrize(
    ("text", "suite"),
    [
        ("OCRA-1:HOTP-SHA1-6:QN08", OcraSuite("sha1", 6, "N", 8, None)),
        ("OCRA-1:HOTP-SHA256-0:QH64-T30S", OcraSuite("sha256", 0, "H", 64, 30)),
        ("OCRA-1:HOTP-SHA512-10:QA04-T1S", OcraSuite("sha512", 10, "A", 4, 1)),
        ("OCRA-1:HOTP-SHA512-4:QN64-T59S", OcraSuite("sha512", 4, "N", 64, 59)),
        ("OCRA-1:HOTP-SHA1-8:QH04-T1M", OcraSuite("sha1", 8, "H", 4, 60)),
        ("OCRA-1:HOTP-SHA1-8:QH40-T59M", OcraSuite("sha1", 8, "H", 40, 59 * 60)),
        ("OCRA-1:HOTP-SHA1-8:QA05-T1H", OcraSuite("sha1", 8, "A", 5, 3600)),
        ("OCRA-1:HOTP-SHA1-8:QN10-T48H", OcraSuite("sha1", 8, "N", 10, 48 * 3600)),
    ],
)
def test_suite_is_parsed(text, suite):
    """Each part of a suite lands in its field, the time step in seconds."""
    assert OcraSuite.parse(text) == suite


def test_suite_is_frozen():
    """A parsed suite, which callers share, can't be changed."""
    suite = OcraSuite.parse(PROOF_SUITE)
    with pytest.raises(dataclasses.FrozenInstanceError):
        suite.digits = 4  # type: ignore[misc]


BAD_SUITES = [
    ("", "three parts"),
    ("OCRA-1:HOTP-SHA1-6", "three parts"),
    ("OCRA-1:HOTP-SHA1-6:QN08:T30S", "three parts"),
    ("OCRA-2:HOTP-SHA1-6:QN08", "version 'OCRA-2'"),
    ("ocra-1:HOTP-SHA1-6:QN08", "version 'ocra-1'"),
    (" OCRA-1:HOTP-SHA1-6:QN08", "version ' OCRA-1'"),
    ("OCRA-1:TOTP-SHA1-6:QN08", "function 'TOTP-SHA1-6'"),
    ("OCRA-1:HOTP-SHA1:QN08", "function 'HOTP-SHA1'"),
    ("OCRA-1:HOTP-SHA1-6-6:QN08", "function 'HOTP-SHA1-6-6'"),
    ("OCRA-1::QN08", "function ''"),
    ("OCRA-1:HOTP-MD5-6:QN08", "algorithm 'MD5'"),
    ("OCRA-1:HOTP-sha1-6:QN08", "algorithm 'sha1'"),
    ("OCRA-1:HOTP-SHA384-6:QN08", "algorithm 'SHA384'"),
    *[
        (f"OCRA-1:HOTP-SHA1-{digits}:QN08", f"digits '{digits}'")
        for digits in ("1", "3", "11", "06", "00", "", "x", "6 ")
    ],
    ("OCRA-1:HOTP-SHA1-6:C-QN08", "input 'C': a counter (C) isn't supported"),
    ("OCRA-1:HOTP-SHA1-6:QN08-PSHA1", "input 'PSHA1': a PIN (P) isn't supported"),
    ("OCRA-1:HOTP-SHA1-6:QN08-S064", "input 'S064': session data (S) isn't supported"),
    ("OCRA-1:HOTP-SHA1-6:QN08-S064-T1M", "input 'S064': session data (S) isn't supported"),
    *[
        (f"OCRA-1:HOTP-SHA1-6:{question}", f"question '{question}'")
        for question in ("", "QN", "QN8", "QN008", "QX08", "Qn08", "N08", "QN+8")
    ],
    ("OCRA-1:HOTP-SHA1-6:QN08\n", r"question 'QN08\n'"),
    ("OCRA-1:HOTP-SHA1-6:T30S", "question 'T30S'"),
    ("OCRA-1:HOTP-SHA1-6:T30S-QN08", "question 'T30S'"),
    ("OCRA-1:HOTP-SHA1-6:QN03", "question 'QN03' must have a length from 04 to 64"),
    ("OCRA-1:HOTP-SHA1-6:QA00", "question 'QA00' must have a length from 04 to 64"),
    ("OCRA-1:HOTP-SHA1-6:QH65", "question 'QH65' must have a length from 04 to 64"),
    ("OCRA-1:HOTP-SHA1-6:QH63", "question 'QH63' must have an even length"),
    *[
        (f"OCRA-1:HOTP-SHA1-6:QN08-{step}", f"time step '{step}'")
        for step in ("", "T", "T0S", "T0M", "T0H", "T00S", "T01S", "T60S", "T60M", "T49H", "T100S")
    ],
    *[
        (f"OCRA-1:HOTP-SHA1-6:QN08-{step}", f"time step '{step}'")
        for step in ("T30", "TS", "T30s", "T1D", "t30S", "T30S ", "QN08")
    ],
    ("OCRA-1:HOTP-SHA1-6:QN08-T1M-T30S", "input 'T30S' can't follow"),
    ("OCRA-1:HOTP-SHA1-6:QN08-T1M-", "input '' can't follow"),
]


@pytest.mark.parametrize(("text", "part"), BAD_SUITES)
def test_bad_suite_names_the_bad_part(text, part):
    """A suite that is malformed or not supported is refused, and the message names the part."""
    for refused in (lambda: OcraSuite.parse(text), lambda: ocra(KEY32, text, "12345678")):
        with pytest.raises(ValueError, match=r"^suite ") as caught:
            refused()
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "suite", [None, 1, b"OCRA-1:HOTP-SHA1-6:QN08", [], "OCRA-1:HOTP-SHA1-6:QN\uff10\uff18"]
)
def test_suite_that_is_not_ascii_text_is_refused(suite):
    """A suite is ASCII text, so that its bytes in the HMAC are beyond doubt."""
    with pytest.raises(ValueError, match=r"^suite must be ASCII text"):
        OcraSuite.parse(suite)


# --- ocra


@given(
    key=st.binary(min_size=1, max_size=100),
    question=st.binary(min_size=32, max_size=32),
    at=moments,
)
def test_untruncated_response_is_the_whole_hmac(key, question, at):
    """With 0 digits the response is the HMAC of suite, NUL, padded question and step, in hex."""
    data = PROOF_SUITE.encode() + b"\x00" + question + bytes(96) + (int(at) // 30).to_bytes(8)
    expected = hmac.new(key, data, hashlib.sha256).hexdigest()
    assert ocra(key, PROOF_SUITE, question.hex(), at) == expected


@pytest.mark.parametrize(("name", "size"), [("SHA1", 40), ("SHA256", 64), ("SHA512", 128)])
def test_untruncated_response_has_the_length_of_its_hash(name, size):
    """The suite's algorithm is the one used."""
    response = ocra(KEY32, f"OCRA-1:HOTP-{name}-0:QN08", "12345678")
    data = f"OCRA-1:HOTP-{name}-0:QN08".encode() + b"\x00" + bytes.fromhex("bc614e") + bytes(125)
    assert response == hmac.new(KEY32, data, name.lower()).hexdigest()
    assert len(response) == size


@given(
    digits=st.integers(min_value=4, max_value=10),
    question=st.text(alphabet=string.ascii_letters + string.digits, min_size=1, max_size=64),
)
def test_truncation_is_that_of_rfc_4226(digits, question):
    """A truncated response has exactly its digits, zero-filled, from 31 bits of the HMAC."""
    suite = f"OCRA-1:HOTP-SHA1-{digits}:QA64"
    data = suite.encode() + b"\x00" + question.encode() + bytes(128 - len(question))
    mac = hmac.new(RAW, data, hashlib.sha1).digest()
    start = mac[19] % 16
    bits = int(mac[start : start + 4].hex(), 16) % 2**31
    assert ocra(RAW, suite, question) == f"{bits:010d}"[-digits:]


@given(st.integers(min_value=0, max_value=10**64 - 1))
def test_decimal_question_becomes_hex_from_the_left(number):
    """A decimal question enters as its hex digits, zero-filled on the right to 256 of them."""
    suite = "OCRA-1:HOTP-SHA256-0:QN64"
    data = suite.encode() + b"\x00" + bytes.fromhex(hex(number)[2:].ljust(256, "0"))
    expected = hmac.new(KEY32, data, hashlib.sha256).hexdigest()
    assert ocra(KEY32, suite, str(number)) == expected


def test_decimal_questions_can_collide_as_the_rfc_has_it():
    """Decimal 1, 01 and 16 share a response: the ambiguity that the docstring tells of."""
    suite = "OCRA-1:HOTP-SHA1-6:QN08"
    assert len({ocra(RAW, suite, question) for question in ("1", "01", "16")}) == 1


def test_hex_question_may_have_either_case():
    """The case of hex digits isn't part of the question."""
    responses = {ocra(KEY32, PROOF_SUITE, digits * 64, NOW) for digits in "aA"}
    assert len(responses) == 1


def test_response_changes_with_key_suite_question_and_step():
    """Each input of the HMAC counts, and time counts by the step."""
    start = NOW // 30 * 30
    responses = {
        ocra(KEY32, PROOF_SUITE, QUESTION, start),
        ocra(KEY64, PROOF_SUITE, QUESTION, start),
        ocra(KEY32, "OCRA-1:HOTP-SHA256-0:QH64-T29S", QUESTION, start // 30 * 29),
        ocra(KEY32, PROOF_SUITE, QUESTION[::-1], start),
        ocra(KEY32, PROOF_SUITE, QUESTION, start + 30),
    }
    assert len(responses) == 5
    assert ocra(KEY32, PROOF_SUITE, QUESTION, start + 29.9) in responses


@pytest.mark.parametrize("length", [0, 1, 62, 63, 65, 66, 128])
def test_hex_question_of_another_length_is_refused(length):
    """A hex question has exactly the suite's length: odd, short or long, it is never padded."""
    with pytest.raises(ValueError, match=r"^question must be exactly 64 hex digits .*\(QH64\)"):
        ocra(KEY32, PROOF_SUITE, "a" * length, NOW)


@pytest.mark.parametrize("bad", ["g", " ", "\n", "\0", "-", "\uff11", "\u0661"])
def test_hex_question_with_another_character_is_refused(bad):
    """A hex question holds ASCII hex digits only, and the message doesn't show it."""
    with pytest.raises(ValueError, match=r"^question must hold only the hex digits") as caught:
        ocra(KEY32, PROOF_SUITE, QUESTION[:-1] + bad, NOW)
    assert QUESTION[:8] not in str(caught.value)


def test_hex_question_with_a_space_inside_is_refused():
    """Spaces, which bytes.fromhex skips, don't shorten a question unseen."""
    with pytest.raises(ValueError, match=r"^question must hold only the hex digits"):
        ocra(KEY32, PROOF_SUITE, QUESTION[:30] + "  " + QUESTION[32:], NOW)


@pytest.mark.parametrize("form", ["N", "A"])
@pytest.mark.parametrize("length", [0, 9])
def test_question_out_of_length_is_refused(form, length):
    """A decimal or alphanumeric question has 1 character to the suite's length."""
    with pytest.raises(ValueError, match=rf"^question must be 1 to 8 characters .*\(Q{form}08\)"):
        ocra(KEY32, f"OCRA-1:HOTP-SHA1-6:Q{form}08", "1" * length)


@pytest.mark.parametrize("form", ["N", "A"])
@pytest.mark.parametrize("length", [1, 3, 8])
def test_question_shorter_than_its_maximum_is_accepted(form, length):
    """The suite's length is a maximum for decimal and alphanumeric questions."""
    assert len(ocra(KEY32, f"OCRA-1:HOTP-SHA1-6:Q{form}08", "7" * length)) == 6


@pytest.mark.parametrize(
    "question", ["1234567a", "-1", "+1", "1_0", " 1", "1\n", "1.0", "\uff11\uff12", "\u0661", "²"]
)
def test_decimal_question_with_another_character_is_refused(question):
    """A decimal question holds 0-9 only, not what int() or str.isdigit would take."""
    with pytest.raises(ValueError, match=r"^question must hold only the digits 0-9 .*\(QN08\)"):
        ocra(KEY32, "OCRA-1:HOTP-SHA1-6:QN08", question)


@pytest.mark.parametrize("question", ["ab\0", "a b", "ab\n", "a-b", "é", "\uff41", "\U0001f600"])
def test_alphanumeric_question_with_another_character_is_refused(question):
    """An alphanumeric question holds ASCII letters and digits: no NUL to pass for padding."""
    with pytest.raises(ValueError, match=r"^question must hold only .*\(QA08\)"):
        ocra(KEY32, "OCRA-1:HOTP-SHA1-6:QA08", question)


@pytest.mark.parametrize("question", [None, 12345678, b"12345678", ["1"] * 8])
def test_question_that_is_not_text_is_refused(question):
    """A question is text."""
    with pytest.raises(ValueError, match=r"^question must be text"):
        ocra(KEY32, "OCRA-1:HOTP-SHA1-6:QN08", question)


def test_a_hex_question_may_be_given_as_its_bytes_to_many_moments():
    """The bytes that its digits write are the same question."""
    given = bytes.fromhex(QUESTION)
    assert otp.ocra_each(KEY32, PROOF_SUITE, given, [NOW]) == [
        ocra(KEY32, PROOF_SUITE, QUESTION, NOW)
    ]


@pytest.mark.parametrize(
    ("suite", "question"),
    [
        (PROOF_SUITE, bytes(31)),
        (PROOF_SUITE, bytes(33)),
        (PROOF_SUITE, b""),
        (PROOF_SUITE, None),
        ("OCRA-1:HOTP-SHA1-6:QN08", b"12345678"),
        ("OCRA-1:HOTP-SHA1-6:QA08", b"abcd"),
    ],
)
def test_other_bytes_are_no_question(suite, question):
    """Bytes stand for hex digits, exactly half as many, and for nothing else."""
    with pytest.raises(ValueError, match=r"^question must be text"):
        otp.ocra_each(KEY32, suite, question, [NOW])


@pytest.mark.parametrize("key", [b"", "12345678901234567890", None, bytearray(RAW)])
def test_key_that_is_not_bytes_is_refused(key):
    """A key is bytes, and not empty: base32 text isn't decoded here."""
    with pytest.raises(ValueError, match=r"^key must be bytes, and not empty"):
        ocra(key, "OCRA-1:HOTP-SHA1-6:QN08", "12345678")


def test_timed_suite_requires_a_time():
    """A suite with T and no time is refused, never answered for step 0."""
    with pytest.raises(ValueError, match=r"^at is required"):
        ocra(KEY32, PROOF_SUITE, QUESTION)


@pytest.mark.parametrize("at", [0, NOW, float("nan")])
def test_timeless_suite_refuses_a_time(at):
    """A suite without T refuses a time, which would count for nothing."""
    with pytest.raises(ValueError, match=r"^at must be left out"):
        ocra(KEY32, "OCRA-1:HOTP-SHA1-6:QN08", "12345678", at)
