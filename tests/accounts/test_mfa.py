"""The second factor of people: enrolled, proven once before it is on, limited, recoverable."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pyotp
import pytest
from conftest import Clock
from hypothesis import given
from hypothesis import strategies as st
from internals import database_of
from pydantic import SecretStr
from sqlalchemy import text

from pipelit_agents import Agent, Pipelit
from pipelit_agents.accounts.typed_codes import read_code
from pipelit_agents.errors import (
    CodeRejected,
    LedgerUnavailable,
    MalformedCode,
    NotLocalAgent,
    NotPermitted,
    PeerLocked,
    RateLimited,
    SecondFactorError,
    UserInactive,
    UserNotFound,
    VerificationError,
)
from pipelit_agents.ledger import Attempt, Decision, LedgerContext, SqlLedger
from pipelit_agents.ledger.own import GuardedLedger

# The SQL is one; what else PostgreSQL may decide about is marked.
BACKENDS = ("sqlite", "redis")


def app_of(uri: SecretStr) -> pyotp.TOTP:
    """An authenticator app that has scanned the URI."""
    made = pyotp.parse_uri(uri.get_secret_value())
    assert isinstance(made, pyotp.TOTP)
    return made


@pytest.fixture
def app(pipelit: Pipelit, clock: Clock) -> pyotp.TOTP:
    """Alice's app; her second factor is on, and the code that turned it on is spent."""
    made = app_of(pipelit.mfa.enroll("alice"))
    pipelit.mfa.confirm("alice", made.at(clock()))
    clock.advance(30)
    return made


def wrong(app: pyotp.TOTP, clock: Clock) -> str:
    """Six digits that are no code of now."""
    good = {app.at(clock() + offset) for offset in (-60, -30, 0, 30, 60)}
    return next(code for code in map("{:06}".format, range(9)) if code not in good)


@pytest.mark.backends("sqlite", "postgres", "redis")
def test_it_is_on_after_a_first_code(pipelit: Pipelit, clock: Clock) -> None:
    """Enrolled it is pending; with a code of the app it is on, with ten recovery codes."""
    assert not pipelit.mfa.status("alice").on
    uri = pipelit.mfa.enroll("alice")
    assert (pipelit.mfa.status("alice").on, pipelit.mfa.status("alice").pending) == (False, True)
    with pytest.raises(CodeRejected):
        pipelit.mfa.verify("alice", app_of(uri).at(clock()))
    codes = pipelit.mfa.confirm("alice", app_of(uri).at(clock()))
    status = pipelit.mfa.status("alice")
    assert (status.on, status.pending, status.recovery_codes) == (True, False, 10)
    assert len({code.get_secret_value() for code in codes}) == 10


@pytest.mark.backends
def test_the_uri_is_one_that_apps_read(pipelit: Pipelit) -> None:
    """SHA-1, six digits, thirty seconds, 160 bits, and who it is for."""
    uri = pipelit.mfa.enroll("alice")
    app = app_of(uri)
    assert (app.digits, app.interval, app.name, app.issuer) == (6, 30, "alice", "pipelit-agents")
    assert len(parse_qs(urlsplit(uri.get_secret_value()).query)["secret"][0]) == 32


def test_a_code_is_good_once(pipelit: Pipelit, app: pyotp.TOTP, clock: Clock) -> None:
    """Spent for whoever asks: for the person herself and for an agent that verifies her."""
    found = pipelit.mfa.verify("alice", app.at(clock()))
    assert (found.peer, found.kind) == ("alice", "plain")
    with pytest.raises(CodeRejected):
        pipelit.mfa.verify("alice", app.at(clock()))


def test_the_code_that_turned_it_on_is_spent(pipelit: Pipelit, clock: Clock) -> None:
    """Who looked over her shoulder at the first code can't use it."""
    app = app_of(pipelit.mfa.enroll("alice"))
    pipelit.mfa.confirm("alice", app.at(clock()))
    with pytest.raises(CodeRejected):
        pipelit.mfa.verify("alice", app.at(clock()))


@pytest.mark.backends("sqlite", "postgres", "redis")
def test_of_twenty_at_once_one_is_accepted(pipelit: Pipelit, app: pyotp.TOTP, clock: Clock) -> None:
    """A code that is shown to many places at once opens one of them."""
    code = app.at(clock())

    def attempt(_: int) -> bool:
        try:
            pipelit.mfa.verify("alice", code)
        except VerificationError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(20))) == 1


def test_the_same_limits_hold(pipelit: Pipelit, app: pyotp.TOTP, clock: Clock) -> None:
    """Five failures a minute, ten in a row: it waits, then it is locked, also for a good code."""
    for _ in range(2):
        for _ in range(5):
            with pytest.raises(CodeRejected):
                pipelit.mfa.verify("alice", wrong(app, clock))
        clock.advance(1)
        with pytest.raises((RateLimited, PeerLocked)):
            pipelit.mfa.verify("alice", app.at(clock()))
        clock.advance(60)
    with pytest.raises(PeerLocked):
        pipelit.mfa.verify("alice", app.at(clock()))
    pipelit.users.unlock("alice")
    pipelit.mfa.verify("alice", app.at(clock()))


def test_an_agent_may_verify_a_person(
    pipelit: Pipelit, editor: Agent, app: pyotp.TOTP, clock: Clock
) -> None:
    """A plain code of hers, as of any peer; and she can't be acted as."""
    editor.verify_peer("alice", app.at(clock()), kind="plain")
    with pytest.raises(NotLocalAgent):
        pipelit.agent("alice").totp_code()


@pytest.mark.parametrize("code", ["", "12345", "1234567", "12 456", "abcdef", "AAAA-BBBB"])
@pytest.mark.backends
def test_what_cant_be_a_code_is_refused(pipelit: Pipelit, app: pyotp.TOTP, code: str) -> None:
    """It is said what a code looks like, and nothing is counted."""
    with pytest.raises(MalformedCode, match="6 digits"):
        pipelit.mfa.verify("alice", code)


# Recovery


def test_a_recovery_code_works_once(pipelit: Pipelit, clock: Clock) -> None:
    """In the place of a code, in any case, and then never again."""
    app = app_of(pipelit.mfa.enroll("alice"))
    first, second, *_ = pipelit.mfa.confirm("alice", app.at(clock()))
    assert pipelit.mfa.verify("alice", first.get_secret_value().lower()).kind == "recovery"
    with pytest.raises(CodeRejected):
        pipelit.mfa.verify("alice", first.get_secret_value())
    assert pipelit.mfa.status("alice").recovery_codes == 9
    pipelit.mfa.disable("alice", second.get_secret_value())
    assert pipelit.mfa.status("alice").recovery_codes == 0


@pytest.mark.backends
def test_a_recovery_code_is_one_persons(pipelit: Pipelit, clock: Clock) -> None:
    """Bob's don't open alice's account; they stand hashed in the database."""
    pipelit.users.create("bob")
    codes = {}
    for name in ("alice", "bob"):
        app = app_of(pipelit.mfa.enroll(name))
        codes[name] = [c.get_secret_value() for c in pipelit.mfa.confirm(name, app.at(clock()))]
    with pytest.raises(CodeRejected):
        pipelit.mfa.verify("alice", codes["bob"][0])
    with database_of(pipelit).reading() as connection:
        stored = str(connection.execute(text("SELECT * FROM pipelit_recovery_codes")).all())
    assert not any(code in stored for code in codes["alice"] + codes["bob"])


@pytest.mark.backends("sqlite", "postgres", "redis")
def test_of_twenty_uses_of_a_recovery_code_one_counts(pipelit: Pipelit, clock: Clock) -> None:
    """Two that have the same slip of paper: one of them gets in."""
    app = app_of(pipelit.mfa.enroll("alice"))
    code = pipelit.mfa.confirm("alice", app.at(clock()))[0].get_secret_value()

    def attempt(_: int) -> bool:
        try:
            pipelit.mfa.verify("alice", code)
        except CodeRejected:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(20))) == 1


@pytest.mark.backends("sqlite", "postgres")
def test_new_recovery_codes_end_the_old(pipelit: Pipelit, clock: Clock) -> None:
    """They need a code; afterwards the ten of before are worth nothing."""
    app = app_of(pipelit.mfa.enroll("alice"))
    old = pipelit.mfa.confirm("alice", app.at(clock()))
    clock.advance(30)
    with pytest.raises(CodeRejected):
        pipelit.mfa.renew_recovery_codes("alice", wrong(app, clock))
    new = pipelit.mfa.renew_recovery_codes("alice", app.at(clock()))
    with pytest.raises(CodeRejected):
        pipelit.mfa.verify("alice", old[0].get_secret_value())
    pipelit.mfa.verify("alice", new[0].get_secret_value())


# On and off


def test_turning_it_off_needs_a_code(pipelit: Pipelit, app: pyotp.TOTP, clock: Clock) -> None:
    """A wrong code leaves it on; a good one ends it, and it can be enrolled anew."""
    with pytest.raises(CodeRejected):
        pipelit.mfa.disable("alice", wrong(app, clock))
    assert pipelit.mfa.status("alice").on
    pipelit.mfa.disable("alice", app.at(clock()))
    assert not pipelit.mfa.status("alice").on
    pipelit.mfa.enroll("alice")


def test_one_that_is_on_is_not_replaced(pipelit: Pipelit, app: pyotp.TOTP, clock: Clock) -> None:
    """Who gets hold of a terminal can't put an app of his own in the place of hers."""
    with pytest.raises(SecondFactorError, match="mfa disable"):
        pipelit.mfa.enroll("alice")
    with pytest.raises(SecondFactorError, match="mfa disable"):
        pipelit.mfa.confirm("alice", app.at(clock()))


@pytest.mark.backends("sqlite", "postgres", "redis")
def test_five_wrong_first_codes_begin_anew(pipelit: Pipelit, clock: Clock) -> None:
    """The secret that was shown is dropped, and nothing is on."""
    app = app_of(pipelit.mfa.enroll("alice"))
    for _ in range(5):
        with pytest.raises(CodeRejected):
            pipelit.mfa.confirm("alice", wrong(app, clock))
    with pytest.raises(SecondFactorError, match="there is no enrolment"):
        pipelit.mfa.confirm("alice", app.at(clock()))


def test_the_last_enrolment_counts(pipelit: Pipelit, clock: Clock) -> None:
    """Enrolled again before it was on: the first secret is worth nothing."""
    first, second = (app_of(pipelit.mfa.enroll("alice")) for _ in range(2))
    with pytest.raises(CodeRejected):
        pipelit.mfa.confirm("alice", first.at(clock()))
    pipelit.mfa.confirm("alice", second.at(clock()))


@pytest.mark.backends
def test_who_can_have_one(pipelit: Pipelit, editor: Agent, app: pyotp.TOTP, clock: Clock) -> None:
    """People that are there and active: no agent, no stranger, nobody who left."""
    with pytest.raises(NotPermitted, match="isn't a person"):
        pipelit.mfa.enroll(editor.username)
    with pytest.raises(UserNotFound):
        pipelit.mfa.enroll("nobody")
    pipelit.users.deactivate("alice")
    with pytest.raises(UserInactive):
        pipelit.mfa.enroll("alice")
    with pytest.raises(CodeRejected):
        pipelit.mfa.verify("alice", app.at(clock()))


def test_a_code_that_cant_be_spent_turns_nothing_on(pipelit: Pipelit, clock: Clock) -> None:
    """Where attempts can't be counted nothing is on, and the enrolment stays pending."""
    fresh = app_of(pipelit.mfa.enroll("alice"))
    with database_of(pipelit).writing() as connection:
        connection.execute(text("ALTER TABLE pipelit_epoch RENAME TO gone"))
    with pytest.raises(LedgerUnavailable):
        pipelit.mfa.confirm("alice", fresh.at(clock()))
    with database_of(pipelit).writing() as connection:
        connection.execute(text("ALTER TABLE gone RENAME TO pipelit_epoch"))
    status = pipelit.mfa.status("alice")
    assert (status.on, status.pending, status.recovery_codes) == (False, True, 0)
    assert len(pipelit.mfa.confirm("alice", fresh.at(clock()))) == 10


@pytest.mark.slow
@pytest.mark.backends("sqlite", "postgres", "redis")
def test_what_was_guessed_before_keeps_nobody_from_turning_it_on(
    pipelit: Pipelit, app: pyotp.TOTP, clock: Clock
) -> None:
    """A hundred guesses at no secret, or at the one before, are worth nothing against a new one."""
    strangers = []
    for number in range(10):
        pipelit.users.create_agent(f"agent_{number}", owner="alice", purpose="guesses")
        strangers.append(pipelit.agent(f"agent_{number}"))

    def guess() -> None:
        for number in range(100):
            kind, code = ("plain", wrong(app, clock)) if number % 2 else ("audience", "00000000")
            for act in (
                lambda n=number, k=kind, c=code: strangers[n % 10].verify_peer("alice", c, kind=k),
                lambda c=code: pipelit.mfa.verify("alice", c),
            ):
                with pytest.raises((VerificationError, SecondFactorError)):
                    act()
            clock.advance(13)

    guess()
    pipelit.mfa.reset("alice")
    guess()
    fresh = app_of(pipelit.mfa.enroll("alice"))
    assert len(pipelit.mfa.confirm("alice", fresh.at(clock()))) == 10
    clock.advance(30)
    pipelit.mfa.verify("alice", fresh.at(clock()))


@pytest.mark.backends("sqlite", "postgres", "redis")
def test_an_approval_is_used_once_by_what_acts(
    pipelit: Pipelit, app: pyotp.TOTP, clock: Clock
) -> None:
    """The database is asked: what was approved, by whom, not long ago, and once."""
    digest = "d" * 64
    with pytest.raises(NotPermitted):
        pipelit.mfa.require_approved(digest, approvers=["alice"])
    pipelit.mfa.approve("alice", app.at(clock()), digest=digest)
    for wanted, names in (("e" * 64, ["alice"]), (digest, ["bob"])):
        with pytest.raises(NotPermitted):
            pipelit.mfa.require_approved(wanted, approvers=names)
    assert pipelit.mfa.require_approved(digest, approvers=["bob", "alice"]).actor == "alice"
    with pytest.raises(NotPermitted, match="ask again"):
        pipelit.mfa.require_approved(digest, approvers=["alice"])
    clock.advance(30)
    pipelit.mfa.approve("alice", app.at(clock()), digest=digest)
    clock.advance(3601)
    with pytest.raises(NotPermitted):
        pipelit.mfa.require_approved(digest, approvers=["alice"])


@pytest.mark.backends("sqlite", "postgres", "redis")
def test_of_many_that_act_at_once_one_may(pipelit: Pipelit, app: pyotp.TOTP, clock: Clock) -> None:
    """One approval, twenty that want to act on it."""
    pipelit.mfa.approve("alice", app.at(clock()), digest="d" * 64)

    def act(_: int) -> bool:
        try:
            pipelit.mfa.require_approved("d" * 64, approvers=["alice"])
        except NotPermitted:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(act, range(20))) == 1


@pytest.mark.backends
def test_nobody_denies_in_anothers_place(pipelit: Pipelit, editor: Agent) -> None:
    """An agent or a name that isn't there denies nothing, with a code or without."""
    with pytest.raises(NotPermitted):
        pipelit.mfa.deny(editor.username, None, digest="d" * 64)
    with pytest.raises(UserNotFound):
        pipelit.mfa.deny("nobody", None, digest="d" * 64)


@pytest.mark.parametrize("code", [123456, None, ["123456"]])
@pytest.mark.backends
def test_a_code_is_text(pipelit: Pipelit, app: pyotp.TOTP, code: Any) -> None:
    """A number isn't one: its zeros would be lost."""
    with pytest.raises(MalformedCode):
        pipelit.mfa.verify("alice", code)


@pytest.mark.backends("sqlite", "postgres", "redis")
def test_all_of_it_is_audited(pipelit: Pipelit, clock: Clock) -> None:
    """Who did what, without a code or a secret."""
    app = app_of(pipelit.mfa.enroll("alice", by="rita"))
    with pytest.raises(CodeRejected):
        pipelit.mfa.confirm("alice", wrong(app, clock))
    code = pipelit.mfa.confirm("alice", app.at(clock()))[0].get_secret_value()
    pipelit.mfa.disable("alice", code)
    told = [
        (e.actor, e.action, e.outcome, e.reason)
        for e in pipelit.audit.list()
        if e.action.startswith(("mfa", "verify"))
    ]
    assert told == [
        ("rita", "mfa.enroll", "ok", ""),
        ("alice", "mfa.confirm", "refused", "wrong code"),
        ("alice", "mfa.confirm", "ok", ""),
        ("alice", "verify.plain", "ok", ""),
        ("alice", "verify.recovery", "ok", ""),
        ("alice", "mfa.disable", "ok", ""),
    ]


# How people type codes


HABITS = [
    "{0} {1}",
    "{0}-{1}",
    " {0}{1}\n",
    "\t{0}\u202f{1}\r\n",
    "{0}\u2013{1}",
    "{0}\u2011{1}",
    "\u200e{0}\u00a0{1}\u200b",
    "{0}\u2212{1}",
]


def full_width(code: str) -> str:
    """As a Japanese or Chinese keyboard types it."""
    return "".join(chr(ord(c) + 0xFEE0) for c in code)


def arabic(code: str) -> str:
    """As an app in Arabic shows it."""
    return "".join(chr(0x0660 + int(c)) for c in code)


@pytest.mark.backends("sqlite")
@pytest.mark.parametrize("form", [*HABITS, full_width, arabic])
def test_a_code_is_the_same_however_people_type_it(
    pipelit: Pipelit, clock: Clock, form: Any
) -> None:
    """At its first use and later; and each spelling of a code that was spent is spent."""

    def typed(code: str) -> str:
        return str(form.format(code[:3], code[3:]) if isinstance(form, str) else form(code))

    app = app_of(pipelit.mfa.enroll("alice"))
    pipelit.mfa.confirm("alice", typed(app.at(clock())))
    clock.advance(30)
    code = app.at(clock())
    pipelit.mfa.verify("alice", typed(code))
    for again in (code, typed(code), f"{code} "):
        with pytest.raises(CodeRejected, match="not accepted"):
            pipelit.mfa.verify("alice", again)
    clock.advance(30)
    pipelit.mfa.approve("alice", typed(app.at(clock())), digest="d" * 64)
    clock.advance(30)
    pipelit.mfa.deny("alice", typed(app.at(clock())), digest="d" * 64)
    clock.advance(30)
    pipelit.mfa.renew_recovery_codes("alice", typed(app.at(clock())))
    clock.advance(30)
    pipelit.mfa.disable("alice", typed(app.at(clock())))


@pytest.mark.backends("sqlite")
@pytest.mark.parametrize(
    "typed",
    [
        lambda code: code.replace("-", ""),
        lambda code: code.replace("-", " ").lower(),
        lambda code: f"  {code}\n",
        lambda code: code.replace("-", "\u2014"),
        lambda code: full_width(code.replace("-", "")),
        lambda code: "\ufeff" + code.lower(),
    ],
)
def test_a_recovery_code_is_the_same_however_people_type_it(
    pipelit: Pipelit, clock: Clock, typed: Any
) -> None:
    """Without dashes, in lower case, pasted; it works once in all its spellings."""
    app = app_of(pipelit.mfa.enroll("alice"))
    code = pipelit.mfa.confirm("alice", app.at(clock()))[0].get_secret_value()
    assert pipelit.mfa.verify("alice", typed(code)).kind == "recovery"
    for again in (code, typed(code), code.lower()):
        with pytest.raises(CodeRejected, match="each can be used once"):
            pipelit.mfa.verify("alice", again)


@pytest.mark.backends("sqlite")
def test_an_agents_code_is_exact(pipelit: Pipelit, writer: Agent, editor: Agent) -> None:
    """What is a habit of people is a way around a cache or a limit for a program."""
    code = writer.totp_code(audience=editor.username).code
    for form in (f"{code} ", f"{code[:4]} {code[4:]}", full_width(code)):
        with pytest.raises(MalformedCode):
            editor.verify_peer(writer.username, form)
    plain = writer.totp_code().code
    with pytest.raises(MalformedCode):
        editor.verify_peer(writer.username, f"{plain[:3]} {plain[3:]}", kind="plain")
    editor.verify_peer(writer.username, code)


@pytest.mark.slow
@given(
    st.from_regex(r"[0-9]{6}", fullmatch=True) | st.from_regex(r"[A-Z2-7]{16}", fullmatch=True),
    st.data(),
)
def test_what_is_between_the_characters_makes_no_difference(code: str, data: Any) -> None:
    """Anywhere and any number; reading a code that was read changes nothing."""
    between = st.text(" -\t\n\u00a0\u2009\u202f\u2010\u2013\u200b\u2066\u3000", max_size=3)
    typed = "".join(data.draw(between) + each for each in code) + data.draw(between)
    assert read_code(typed) == read_code(code)
    kind, canonical = read_code(code)
    assert kind == ("plain" if len(code) == 6 else "recovery")
    assert read_code(canonical) == (kind, canonical)


@given(st.text(max_size=40))
def test_whatever_is_typed_is_one_code_or_none(typed: str) -> None:
    """Six ASCII digits, four groups of four, or nothing."""
    kind, code = read_code(typed)
    form = {"plain": r"[0-9]{6}", "recovery": r"([A-Z2-7]{4}-){3}[A-Z2-7]{4}", "": ""}[kind]
    assert re.fullmatch(form, code)


@pytest.mark.parametrize(
    "typed",
    ["12345", "1234567", "123.456", "12345a", "", "\U0001d7d9\U0001d7da", "1" * 4000, None, 123456],
)
@pytest.mark.backends("sqlite")
def test_what_cant_be_a_first_code_is_no_wrong_one(
    pipelit: Pipelit, clock: Clock, typed: Any
) -> None:
    """Ten times over, the enrolment is there still; nor does a recovery code's form count."""
    app = app_of(pipelit.mfa.enroll("alice"))
    for _ in range(10):
        with pytest.raises(MalformedCode, match="6 digits"):
            pipelit.mfa.confirm("alice", typed)
        with pytest.raises(MalformedCode):
            pipelit.mfa.confirm("alice", "ABCD-EFGH-IJKL-MNOP")
    assert len(pipelit.mfa.confirm("alice", app.at(clock()))) == 10


@pytest.mark.backends
def test_it_is_said_how_many_wrong_first_codes_are_left(pipelit: Pipelit, clock: Clock) -> None:
    """Each time, and at the end that it must be enrolled again."""
    app = app_of(pipelit.mfa.enroll("alice"))
    said = []
    for _ in range(5):
        with pytest.raises(CodeRejected) as caught:
            pipelit.mfa.confirm("alice", wrong(app, clock))
        said.append(str(caught.value))
    for words, left in zip(
        said, ("4 more wrong codes", "3 more", "2 more", "1 more wrong code "), strict=False
    ):
        assert left in words
    assert "mfa enroll alice" in said[4]


# A phone whose clock is off


@pytest.mark.parametrize(
    ("off", "said"),
    [
        (-600, "10 minutes behind"),
        (-120, "2 minutes behind"),
        (-60, "1 minute behind"),
        (60, "1 minute ahead"),
        (600, "10 minutes ahead"),
    ],
)
@pytest.mark.backends("sqlite")
def test_a_phone_whose_clock_is_off_uses_up_nothing(
    pipelit: Pipelit, clock: Clock, off: int, said: str
) -> None:
    """However often its codes are typed, it is told by how much, and the right clock confirms."""
    app = app_of(pipelit.mfa.enroll("alice"))
    for _ in range(12):
        with pytest.raises(CodeRejected, match=f"about {said}.*phone's clock"):
            pipelit.mfa.confirm("alice", app.at(clock() + off))
        assert not pipelit.mfa.status("alice").on
    clock.advance(1200)
    assert len(pipelit.mfa.confirm("alice", app.at(clock()))) == 10


@pytest.mark.parametrize("off", [-660, -630, 630, 660])
@pytest.mark.backends("sqlite")
def test_a_code_of_another_time_is_a_wrong_one(pipelit: Pipelit, clock: Clock, off: int) -> None:
    """Ten minutes are the most that is told, on either side."""
    app = app_of(pipelit.mfa.enroll("alice"))
    with pytest.raises(CodeRejected, match="4 more wrong codes"):
        pipelit.mfa.confirm("alice", app.at(clock() + off))


@pytest.mark.parametrize("later", [270, 300, 330])
@pytest.mark.backends("sqlite")
def test_a_code_that_was_told_to_be_of_a_later_moment_never_confirms(
    pipelit: Pipelit, clock: Clock, later: int
) -> None:
    """Whoever guessed it would only have to wait; other codes of that time are good."""
    app = app_of(pipelit.mfa.enroll("alice"))
    told = app.at(clock() + 300)
    with pytest.raises(CodeRejected, match="5 minutes ahead"):
        pipelit.mfa.confirm("alice", told)
    with pytest.raises(CodeRejected):
        pipelit.mfa.confirm("alice", app.at(clock() + 420))
    clock.advance(later)
    with pytest.raises(CodeRejected, match="typed too early"):
        pipelit.mfa.confirm("alice", told)
    assert not pipelit.mfa.status("alice").on
    good = {app.at(clock() + each) for each in (-30, 0, 30)} - {told}
    assert len(pipelit.mfa.confirm("alice", good.pop())) == 10


# Too many wrong first codes


def use_up_first_codes(pipelit: Pipelit, clock: Clock) -> None:
    """Somebody types wrong first codes in one enrolment after the other."""
    for _ in range(12):
        app = app_of(pipelit.mfa.enroll("alice"))
        for _ in range(5):
            try:
                pipelit.mfa.confirm("alice", wrong(app, clock))
            except PeerLocked:
                return
            except CodeRejected:
                pass
    raise AssertionError("first codes go on for ever")


@pytest.mark.backends("sqlite")
def test_who_was_shown_the_secret_enrols_whoever_used_up_first_codes(
    pipelit: Pipelit, clock: Clock
) -> None:
    """At the desk; the others are told to go there, and how long they would wait."""
    use_up_first_codes(pipelit, clock)
    uri = pipelit.mfa.enroll("alice")
    app = app_of(uri)
    with pytest.raises(PeerLocked, match=r"in \d+ days.*pipelit-agents mfa enroll alice"):
        pipelit.mfa.confirm("alice", app.at(clock()))
    with pytest.raises(CodeRejected, match="4 more wrong codes"):
        pipelit.mfa.confirm("alice", wrong(app, clock), enrolled=uri)
    with pytest.raises(CodeRejected, match="2 minutes behind"):
        pipelit.mfa.confirm("alice", app.at(clock() - 120), enrolled=uri)
    assert len(pipelit.mfa.confirm("alice", app.at(clock()), enrolled=uri)) == 10


@pytest.mark.slow
@pytest.mark.backends("sqlite")
def test_only_the_present_enrolment_proves_possession(pipelit: Pipelit, clock: Clock) -> None:
    """Neither that of before, nor another person's, nor any text; no secret is in the message."""
    pipelit.users.create("bob")
    before, other = pipelit.mfa.enroll("alice"), pipelit.mfa.enroll("bob")
    use_up_first_codes(pipelit, clock)
    app = app_of(pipelit.mfa.enroll("alice"))
    for each in (before, other, SecretStr(""), SecretStr("é\ud800")):
        with pytest.raises(SecondFactorError, match="is another one") as caught:
            pipelit.mfa.confirm("alice", app.at(clock()), enrolled=each)
        assert "secret=" not in str(caught.value)
    with pytest.raises(TypeError, match="enrolled"):
        pipelit.mfa.confirm("alice", app.at(clock()), enrolled="x")  # type: ignore[arg-type]
    assert not pipelit.mfa.status("alice").on


# Who asks learns nothing


def test_refusals_look_alike(pipelit: Pipelit, editor: Agent, clock: Clock) -> None:
    """Unknown, an agent, without a second factor, deactivated, a wrong code: one form of refusal.

    Also under the limits, which hold for names that can't be right as for those that can; the
    audit knows why.
    """
    for name in ("bob", "carol", "dave"):
        pipelit.users.create(name)
    apps = {}
    for name in ("alice", "dave"):
        apps[name] = app_of(pipelit.mfa.enroll(name))
        pipelit.mfa.confirm(name, apps[name].at(clock()))
    pipelit.users.deactivate("dave")
    pipelit.mfa.enroll("carol")
    clock.advance(30)
    names = ("alice", "nobody", editor.username, "bob", "carol", "dave")

    def answer(name: str, code: str, call: Any) -> tuple[Any, ...]:
        with pytest.raises(VerificationError) as caught:
            call(name, code)
        error = caught.value
        assert (error.peer, error.verifier) == (name, name)
        words = str(error).replace(repr(name), "NAME")
        return type(error), words, getattr(error, "retry_after", None)

    calls = (
        pipelit.mfa.verify,
        lambda name, code: pipelit.mfa.approve(name, code, digest="d" * 64),
        pipelit.mfa.disable,
        pipelit.mfa.renew_recovery_codes,
    )
    bad = wrong(apps["alice"], clock)
    for round_ in range(6):
        for call in calls[: 1 if round_ else 4]:
            said = {answer(name, bad, call) for name in names}
            assert len(said) == 1, said
    assert said.pop()[0] is RateLimited
    for code in ("ABCD-EFGH-IJKL-MNOP", "12345"):
        assert len({answer(name, code, pipelit.mfa.verify) for name in names}) == 1
    reasons = {}
    for entry in pipelit.audit.list():
        if entry.action == "verify.plain":
            reasons.setdefault(entry.actor, entry.reason)
    assert reasons == {
        "alice": "",
        "dave": "",
        "nobody": "unknown account",
        editor.username: "no person",
        "bob": "no second factor",
        "carol": "no second factor",
    }
    recovery = {e.actor: e.reason for e in pipelit.audit.list() if e.action == "verify.recovery"}
    assert recovery["alice"] == "wrong or used"
    assert recovery["dave"] == "inactive"


@pytest.mark.slow
@pytest.mark.parametrize("order", [("others", "self"), ("self", "others"), ("mixed", "self")])
def test_the_lanes_of_who_cant_be_right_look_alike(
    pipelit: Pipelit, clock: Clock, order: tuple[str, str]
) -> None:
    """Strangers' attempts and a person's own are counted apart, whether a factor is on or not.

    Also for names as long as a name can be.
    """
    long = "b" * 147
    names = ("alice", "carol", "dave", *(long + end for end in ("01", "02")))
    for name in names[1:]:
        pipelit.users.create(name)
    for name in ("alice", long + "01"):
        app = app_of(pipelit.mfa.enroll(name))
        pipelit.mfa.confirm(name, app.at(clock()))
    app = app_of(pipelit.mfa.enroll("dave"))
    pipelit.mfa.confirm("dave", app.at(clock()))
    clock.advance(600)
    question = pipelit.approvals.request("x", approvers=list(names)).id
    pipelit.users.deactivate("dave")

    def said(name: str, lane: str) -> tuple[Any, ...]:
        attempt = {
            "self": pipelit.mfa.verify,
            "others": lambda *given: pipelit.approvals.decide(question, *given),
        }[lane]
        with pytest.raises(VerificationError) as caught:
            attempt(name, "000000")
        return type(caught.value), getattr(caught.value, "retry_after", None)

    for number in range(7):
        lane = order[0] if order[0] != "mixed" else ("self", "others")[number % 2]
        answers = {said(name, lane) for name in names}
        assert len(answers) == 1, answers
    for _ in range(6):
        answers = {said(name, order[1]) for name in names}
        assert len(answers) == 1, answers


def test_guesses_about_who_cant_be_right_lock_nobody_out(
    pipelit: Pipelit, writer: Agent, editor: Agent, clock: Clock
) -> None:
    """A person before she enrols, and an agent: 40 wrong codes later both are verified at once.

    Nor is an agent's own code good there, or spent.
    """
    code = writer.totp_code().code
    for _ in range(20):
        for name in ("alice", writer.username):
            with pytest.raises(VerificationError):
                pipelit.mfa.verify(name, "000000")
    with pytest.raises(VerificationError):
        pipelit.mfa.verify(writer.username, code)
    editor.verify_peer(writer.username, code, kind="plain")
    app = app_of(pipelit.mfa.enroll("alice"))
    pipelit.mfa.confirm("alice", app.at(clock()))
    clock.advance(30)
    pipelit.mfa.verify("alice", app.at(clock()))


def test_a_recovery_code_of_who_was_deactivated_is_refused_and_kept(
    pipelit: Pipelit, clock: Clock
) -> None:
    """In the same words as a wrong one, and it isn't used up by that."""
    app = app_of(pipelit.mfa.enroll("alice"))
    code = pipelit.mfa.confirm("alice", app.at(clock()))[0].get_secret_value()
    pipelit.users.deactivate("alice")
    with pytest.raises(CodeRejected, match="each can be used once"):
        pipelit.mfa.verify("alice", code)
    assert pipelit.mfa.status("alice").recovery_codes == 10


class Interrupted:
    """The database's ledger, between whose decision and its caller something else happens."""

    def __init__(self, context: LedgerContext) -> None:
        self._ledger = SqlLedger(context.database, context.policy, context.clock)
        self.before: Callable[[], object] = bool
        self.after: Callable[[], object] = bool
        self.check, self.close = self._ledger.check, self._ledger.close

    def decide(self, attempt: Attempt) -> Decision:
        """Decide as it does."""
        self.before()
        decision = self._ledger.decide(attempt)
        self.after()
        return decision


@pytest.fixture
def slow(settings: dict[str, Any], clock: Clock, pipelit: Pipelit) -> Iterator[Pipelit]:
    """Another process on the same database, which pauses while it verifies a code."""
    with Pipelit(**settings, clock=clock, ledger=Interrupted) as made:
        yield made


def ledger_of(slow: Pipelit) -> Interrupted:
    """The ledger of the process that pauses."""
    guarded = slow._ledger.open()
    assert isinstance(guarded, GuardedLedger)
    assert isinstance(guarded.ledger, Interrupted)
    return guarded.ledger


def enrolled(pipelit: Pipelit, clock: Clock) -> tuple[pyotp.TOTP, str]:
    """Alice's app, and one of its recovery codes, after an operator has reset the one before."""
    pipelit.mfa.reset("alice")
    made = app_of(pipelit.mfa.enroll("alice"))
    code, *_ = pipelit.mfa.confirm("alice", made.at(clock()))
    clock.advance(60)
    return made, code.get_secret_value()


CHANGES = {
    "mfa.disable": lambda mfa, code: mfa.disable("alice", code),
    "mfa.recovery-codes": lambda mfa, code: mfa.renew_recovery_codes("alice", code),
}


@pytest.mark.backends("sqlite", "postgres")
@pytest.mark.parametrize("action", CHANGES)
@pytest.mark.parametrize("again", [True, False], ids=["enrolled again", "reset"])
def test_a_code_changes_only_the_factor_that_it_is_of(
    slow: Pipelit, pipelit: Pipelit, app: pyotp.TOTP, clock: Clock, action: str, again: bool
) -> None:
    """The lost phone can't end the factor that replaced it, nor get its recovery codes."""
    new: list[tuple[pyotp.TOTP, str]] = []

    def meanwhile() -> None:
        pipelit.mfa.reset("alice")
        new.extend([enrolled(pipelit, clock)] if again else [])

    ledger_of(slow).after = meanwhile
    expected = CodeRejected if again else SecondFactorError
    with pytest.raises(expected):
        CHANGES[action](slow.mfa, app.at(clock()))
    status = pipelit.mfa.status("alice")
    assert (status.on, status.recovery_codes) == ((True, 10) if again else (False, 0))
    for made, recovery in new:
        pipelit.mfa.verify("alice", recovery)
        (refused,) = pipelit.audit.list(action=action)
        assert (refused.outcome, refused.reason) == ("refused", "factor ended or replaced")
        CHANGES[action](pipelit.mfa, made.at(clock()))
        assert pipelit.audit.list(action=action)[-1].outcome == "ok"


@pytest.mark.backends("sqlite", "postgres")
@pytest.mark.parametrize("again", [True, False], ids=["enrolled again", "reset"])
def test_a_late_first_code_brings_no_enrolment_back(
    slow: Pipelit, pipelit: Pipelit, clock: Clock, again: bool
) -> None:
    """An operator has ended it: it isn't pending again, and ends none that began since."""
    late = app_of(slow.mfa.enroll("alice"))
    new: list[tuple[pyotp.TOTP, str]] = []

    def meanwhile() -> None:
        ledger_of(slow).before = bool
        pipelit.mfa.reset("alice")
        new.extend([enrolled(pipelit, clock)] if again else [])

    ledger_of(slow).before = meanwhile
    with pytest.raises(CodeRejected):
        slow.mfa.confirm("alice", late.at(clock()))
    status = pipelit.mfa.status("alice")
    assert (status.on, status.pending) == (again, False)
    for made, _ in new:
        pipelit.mfa.verify("alice", made.at(clock()))
