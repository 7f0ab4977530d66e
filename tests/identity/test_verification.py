"""Short codes: who wins, what is refused, and that refusals can't be told apart."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import product
from threading import Barrier
from typing import Any, Literal, NamedTuple

import fresh
import pytest
from conftest import Clock
from internals import database_of
from sqlalchemy import text
from statements import statements

from pipelit_agents import Agent, Keyring, Pipelit, Verification, VerificationPolicy
from pipelit_agents.database.fast_path import Flag, Query
from pipelit_agents.errors import (
    AccountError,
    CodeRejected,
    ConfigurationError,
    InvalidUsername,
    MalformedCode,
    NotLocalAgent,
    UnsealError,
    UserInactive,
    UserNotFound,
    VerificationError,
)

BACKENDS = True

Kind = Literal["audience", "plain"]
KINDS: tuple[Kind, ...] = ("audience", "plain")


def code_for(peer: Agent, verifier: Agent, kind: Kind) -> str:
    """The peer's present code of that kind."""
    return peer.totp_code(audience=None if kind == "plain" else verifier.username).code


def other_code(code: str) -> str:
    """A code of the same length that isn't this one."""
    return f"{(int(code) + 1) % 10 ** len(code):0{len(code)}d}"


def race(attempts: list[Callable[[], Verification]]) -> list[Verification]:
    """Runs all attempts at once; those that won."""
    barrier = Barrier(len(attempts))

    def run(attempt: Callable[[], Verification]) -> Verification | None:
        barrier.wait()
        try:
            return attempt()
        except VerificationError:
            return None

    with ThreadPoolExecutor(len(attempts)) as pool:
        return [won for won in pool.map(run, attempts) if won is not None]


def last_reason(pipelit: Pipelit) -> str:
    """The true reason of the last decision."""
    return pipelit.audit.list(limit=1)[0].reason


def failures(pipelit: Pipelit) -> int:
    """All failures that are counted now."""
    with database_of(pipelit).reading() as connection:
        return connection.scalar(text("SELECT COALESCE(sum(in_a_row), 0) FROM pipelit_ledger")) or 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_code_verifies(pipelit: Pipelit, writer: Agent, editor: Agent, kind: Kind) -> None:
    """The first use on a fresh database is accepted at once, and the evidence says it all."""
    verified = editor.verify_peer("agent_writer", code_for(writer, editor, kind), kind=kind)
    assert verified == Verification(
        "agent_writer",
        "agent_editor",
        kind,
        60_000_000,
        datetime.fromtimestamp(1_800_000_000, UTC),
    )
    entry = pipelit.audit.list(limit=1)[0]
    assert (entry.actor, entry.subject, entry.action, entry.outcome, entry.reason) == (
        "agent_editor",
        "agent_writer",
        f"verify.{kind}",
        "ok",
        "",
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.backends
async def test_the_async_twins_do_the_same(writer: Agent, editor: Agent, kind: Kind) -> None:
    """``atotp_code`` and ``averify_peer`` make and spend codes like their twins."""
    audience = None if kind == "plain" else "agent_editor"
    code = (await writer.atotp_code(audience=audience)).code
    assert (await editor.averify_peer("agent_writer", code, kind=kind)).kind == kind
    with pytest.raises(CodeRejected):
        await editor.averify_peer("agent_writer", code, kind=kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_of_32_threads_with_one_code_one_wins(
    clock: Clock, writer: Agent, editor: Agent, kind: Kind
) -> None:
    """One code, 32 threads at once: exactly one is accepted, in every round."""
    for _ in range(5):
        code = code_for(writer, editor, kind)
        won = race([lambda c=code: editor.verify_peer("agent_writer", c, kind=kind)] * 32)
        assert len(won) == 1
        clock.advance(90)


@pytest.mark.slow
def test_of_many_verifiers_with_one_plain_code_one_wins(
    pipelit: Pipelit, clock: Clock, writer: Agent
) -> None:
    """A plain code is spent for everybody: of eight verifiers exactly one is told yes."""
    verifiers = []
    for number in range(8):
        pipelit.users.create_agent(f"agent_{number}", owner="alice", purpose="verifies")
        verifiers.append(pipelit.agent(f"agent_{number}"))
    for _ in range(5):
        code = writer.totp_code().code
        won = race(
            [lambda v=v, c=code: v.verify_peer("agent_writer", c, kind="plain") for v in verifiers]
        )
        assert len(won) == 1
        clock.advance(90)


def test_two_pipelits_on_one_file_share_what_is_spent(
    pipelit: Pipelit, database_url: str, key: str, clock: Clock, writer: Agent, editor: Agent
) -> None:
    """Engines of their own don't have a ledger of their own."""
    with Pipelit(database_url=database_url, encryption_keys=[key], clock=clock) as other:
        code = writer.totp_code().code
        agents = [editor, other.agent("agent_editor")] * 8
        won = race([lambda a=a: a.verify_peer("agent_writer", code, kind="plain") for a in agents])
    assert len(won) == 1


PROCESSES = """
import multiprocessing
import sys
from pipelit_agents import Pipelit
from pipelit_agents.errors import VerificationError

url, redis, key, kind, *codes = sys.argv[1:]
fork = multiprocessing.get_context("fork")
barrier, said = fork.Barrier(2), fork.SimpleQueue()

def verify():
    now = [1_800_000_000.0]
    settings = {"redis_url": redis or None, "encryption_keys": [key], "clock": lambda: now[0]}
    with Pipelit(database_url=url, **settings) as pipelit:
        editor = pipelit.agent("agent_editor")
        for number, code in enumerate(codes):
            barrier.wait(60)
            try:
                said.put((number, editor.verify_peer("agent_writer", code, kind=kind).kind))
            except VerificationError as error:
                said.put((number, f"refused {type(error).__name__}"))
            now[0] += 90

processes = [fork.Process(target=verify) for _ in range(2)]
for each in processes:
    each.start()
for each in processes:
    each.join()
while not said.empty():
    print(*said.get())
"""


@pytest.mark.process
@pytest.mark.parametrize("kind", KINDS)
def test_of_two_processes_with_one_code_one_wins(
    database_url: str,
    redis_url: str | None,
    key: str,
    clock: Clock,
    writer: Agent,
    editor: Agent,
    kind: Kind,
) -> None:
    """One code in two processes at once: exactly one is accepted, in every round."""
    codes = []
    for _ in range(5):
        codes.append(code_for(writer, editor, kind))
        clock.advance(90)
    done = fresh.run(PROCESSES, os.environ, database_url, redis_url or "", key, kind, *codes)
    assert sorted(done.stdout.splitlines()) == sorted(
        f"{number} {said}" for number in range(5) for said in (kind, "refused CodeRejected")
    ), done.stderr


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "change",
    [
        lambda code: code + " ",
        lambda code: " " + code,
        lambda code: code + "\n",
        lambda code: code[:3] + " " + code[3:],
        lambda code: code[:3] + "-" + code[3:],
        lambda code: code + "\0",
        lambda code: code.translate({ord("0") + n: 0xFF10 + n for n in range(10)}),
        lambda code: code.translate({ord("0") + n: 0x0660 + n for n in range(10)}),
        lambda code: code[:-1],
        lambda code: code + "0",
        lambda code: "+" + code[1:],
        lambda code: "",
        lambda code: int(code),
        lambda code: float(code),
        lambda code: code.encode(),
        lambda code: [code],
        lambda code: None,
        lambda code: True,
        lambda code: "\ud800" * len(code),
    ],
)
@pytest.mark.backends
def test_what_is_no_code_is_malformed_and_not_counted(
    pipelit: Pipelit, writer: Agent, editor: Agent, kind: Kind, change: Callable[[str], Any]
) -> None:
    """Anything but N ASCII digits is a MalformedCode, counts as no failure and spends nothing."""
    code = code_for(writer, editor, kind)
    for _ in range(12):
        with pytest.raises(MalformedCode) as caught:
            editor.verify_peer("agent_writer", change(code), kind=kind)
    assert isinstance(caught.value, CodeRejected)
    assert (caught.value.peer, caught.value.verifier) == ("agent_writer", "agent_editor")
    assert code not in str(caught.value)
    assert last_reason(pipelit) == "malformed"
    assert failures(pipelit) == 0
    editor.verify_peer("agent_writer", code, kind=kind)


@pytest.mark.parametrize(
    "name",
    [
        "Agent_Writer",
        "AGENT_WRITER",
        "agent_writer ",
        " agent_writer",
        "agent_writer\n",
        "agent_writer\0",
        "agent_wr\u0131ter",
        "\uff41gent_writer",
        "agent_writer/../x",
        "-agent_writer",
        "a" * 150,
        "",
        None,
        7,
        b"agent_writer",
        ["agent_writer"],
        "\ud800",
    ],
)
@pytest.mark.backends
def test_what_is_no_name_is_malformed_and_no_other_account(
    pipelit: Pipelit, writer: Agent, editor: Agent, name: Any
) -> None:
    """A name is compared as written: another spelling is refused, and counts for nobody."""
    code = code_for(writer, editor, "audience")
    for _ in range(12):
        with pytest.raises(MalformedCode, match=r"^username"):
            editor.verify_peer(name, code)
    assert last_reason(pipelit) == "malformed"
    with database_of(pipelit).reading() as connection:
        assert connection.scalar(text("SELECT count(*) FROM pipelit_ledger")) == 0
    editor.verify_peer("agent_writer", code)


@pytest.mark.backends
def test_an_agent_does_not_verify_itself(pipelit: Pipelit, writer: Agent) -> None:
    """Whoever verifies itself is refused, with a code that would be right."""
    with pytest.raises(MalformedCode, match="doesn't verify itself"):
        writer.verify_peer("agent_writer", writer.totp_code().code, kind="plain")
    with pytest.raises(InvalidUsername, match="doesn't verify itself"):
        writer.totp_code(audience="agent_writer")
    with pytest.raises(ValueError, match="doesn't verify itself"):
        writer.challenge("agent_writer")
    assert failures(pipelit) == 0


@pytest.mark.backends
def test_the_other_kind_of_code_is_not_accepted(writer: Agent, editor: Agent) -> None:
    """A plain code isn't taken for an audience code, nor the other way round."""
    with pytest.raises(MalformedCode):
        editor.verify_peer("agent_writer", writer.totp_code().code)
    with pytest.raises(MalformedCode):
        editor.verify_peer("agent_writer", code_for(writer, editor, "audience"), kind="plain")
    with pytest.raises(ValueError, match="kind must be"):
        editor.verify_peer("agent_writer", "123456", kind="any")  # type: ignore[arg-type]


@pytest.mark.backends
def test_a_code_made_for_another_is_not_accepted(
    pipelit: Pipelit, writer: Agent, editor: Agent
) -> None:
    """A code made for B isn't accepted by C, and C's trying doesn't spend it: B accepts it once."""
    pipelit.users.create_agent("agent_thief", owner="alice", purpose="relays")
    code = code_for(writer, editor, "audience")
    with pytest.raises(CodeRejected):
        pipelit.agent("agent_thief").verify_peer("agent_writer", code)
    editor.verify_peer("agent_writer", code)


@pytest.mark.parametrize(
    ("made_for", "given"),
    [
        ("pay bob 90", "pay bob 91"),
        ("pay bob 90", "pay bob 90 "),
        ("pay bob 90", "Pay bob 90"),
        ("pay bob 90", "pay bob 90\n"),
        ("pay bob 90", "pay b\u043eb 90"),
        ("caf\u00e9", "cafe\u0301"),
        ("pay bob 90", None),
        (None, "pay bob 90"),
        (None, "None"),
        ("x" * 4000, "x" * 3999),
    ],
)
@pytest.mark.backends
def test_a_code_is_good_with_its_own_message_alone(
    pipelit: Pipelit, writer: Agent, editor: Agent, made_for: str | None, given: str | None
) -> None:
    """With other words, or with none, it is a wrong code; then it is accepted with its own."""
    code = writer.totp_code(audience="agent_editor", message=made_for)
    assert code.message == made_for
    with pytest.raises(CodeRejected):
        editor.verify_peer("agent_writer", code.code, message=given)
    assert last_reason(pipelit) == "wrong code"
    found = editor.verify_peer("agent_writer", code.code, message=made_for)
    assert (found.message, found.kind) == (made_for, "audience")


@pytest.mark.backends
def test_a_wrong_message_looks_like_a_wrong_code(
    pipelit: Pipelit, writer: Agent, editor: Agent
) -> None:
    """Type, words and statements are those of any refusal, and the failure is counted."""
    code = writer.totp_code(audience="agent_editor", message="go").code
    wrong = refused(pipelit, editor, "agent_writer", other_code(code), "audience")
    before = failures(pipelit)
    with statements(pipelit) as sent, pytest.raises(CodeRejected) as caught:
        editor.verify_peer("agent_writer", code, message="stop")
    assert (str(caught.value), sent) == (wrong["words"], wrong["statements"])
    assert failures(pipelit) > before


def test_one_code_of_a_step_is_accepted_bound_or_not(
    clock: Clock, writer: Agent, editor: Agent
) -> None:
    """Whichever comes first spends the step; the other one is refused until the next step."""
    bound = writer.totp_code(audience="agent_editor", message="go").code
    bare = writer.totp_code(audience="agent_editor").code
    other = writer.totp_code(audience="agent_editor", message="stop").code
    assert len({bound, bare, other}) == 3
    editor.verify_peer("agent_writer", bound, message="go")
    for code, message in ((bare, None), (other, "stop"), (bound, "go")):
        with pytest.raises(CodeRejected):
            editor.verify_peer("agent_writer", code, message=message)
    clock.advance(30)
    fresh = writer.totp_code(audience="agent_editor", message="stop").code
    assert editor.verify_peer("agent_writer", fresh, message="stop").message == "stop"


def test_of_32_threads_with_one_bound_code_one_wins(writer: Agent, editor: Agent) -> None:
    """A message doesn't make a code good twice."""
    code = writer.totp_code(audience="agent_editor", message="go").code
    attempt = lambda: editor.verify_peer("agent_writer", code, message="go")  # noqa: E731
    assert [each.message for each in race([attempt] * 32)] == ["go"]


@pytest.mark.backends
async def test_the_async_twins_take_a_message(writer: Agent, editor: Agent) -> None:
    """``atotp_code`` and ``averify_peer`` bind and check like their twins."""
    code = (await writer.atotp_code(audience="agent_editor", message="go")).code
    with pytest.raises(CodeRejected):
        await editor.averify_peer("agent_writer", code, message="stop")
    assert (await editor.averify_peer("agent_writer", code, message="go")).message == "go"


@pytest.mark.backends
def test_a_plain_code_is_bound_to_nothing(pipelit: Pipelit, writer: Agent, editor: Agent) -> None:
    """A message beside a plain code is an error that says what to do, and spends nothing."""
    with pytest.raises(ValueError, match="name the audience"):
        writer.totp_code(message="go")
    code = writer.totp_code().code
    with pytest.raises(ValueError, match="can't be bound to a message"):
        editor.verify_peer("agent_writer", code, kind="plain", message="go")
    assert editor.verify_peer("agent_writer", code, kind="plain").message is None


class Shouting(str):
    """Text whose own methods lie, as a subclass of another's may."""

    def encode(self, *_: Any, **__: Any) -> bytes:
        return b"pay eve 90"

    def __str__(self) -> str:
        return "pay eve 90"


@pytest.mark.backends("sqlite")
def test_a_message_that_is_a_subclass_of_text_is_its_characters(
    writer: Agent, editor: Agent
) -> None:
    """LangChain's ``message.text`` is such a class; what counts are the characters."""
    code = writer.totp_code(audience="agent_editor", message=Shouting("pay bob 90"))
    assert type(code.message) is str
    found = editor.verify_peer("agent_writer", code.code, message="pay bob 90")
    assert found.message == "pay bob 90"


@pytest.mark.backends("sqlite")
@pytest.mark.parametrize(
    ("message", "says"),
    [
        ("", "message is empty"),
        ("x" * 4001, "4,001 characters, and 4,000 are allowed"),
        ("\ud800", "lone surrogate"),
        ("a\0", r"U\+0000 at position 1"),
        ("a\x1b[31m", r"U\+001B"),
        ("a\r\n", r"U\+000D"),
        ("\x85", r"U\+0085"),
        ("\u2028", r"U\+2028"),
        ("a\u202eb", r"U\+202E"),
        ("\u2066a", r"U\+2066"),
        ("\u200f", r"U\+200F"),
        ("\u200b", r"U\+200B"),
        ("\ufeff", r"U\+FEFF"),
        ("\u00ad", r"U\+00AD"),
        ("\U000e0041", r"U\+E0041"),
        ("\uffff", r"U\+FFFF"),
    ],
)
def test_a_message_that_can_not_be_read_is_not_bound(
    pipelit: Pipelit, writer: Agent, editor: Agent, message: str, says: str
) -> None:
    """It makes no code; beside a code it is malformed, counts as no failure and spends nothing."""
    with pytest.raises(ValueError, match=says):
        writer.totp_code(audience="agent_editor", message=message)
    code = code_for(writer, editor, "audience")
    with pytest.raises(MalformedCode, match=says):
        editor.verify_peer("agent_writer", code, message=message)
    assert (last_reason(pipelit), failures(pipelit)) == ("malformed", 0)
    editor.verify_peer("agent_writer", code)


@pytest.mark.backends("sqlite")
@pytest.mark.parametrize("message", [b"go", 7, ["go"], True])
def test_a_message_is_text(writer: Agent, editor: Agent, message: Any) -> None:
    """Anything else is a TypeError that names the argument."""
    with pytest.raises(TypeError, match=r"message must be text, not"):
        writer.totp_code(audience="agent_editor", message=message)
    with pytest.raises(TypeError, match=r"message must be text, not"):
        editor.verify_peer("agent_writer", "12345678", message=message)


def test_audience_codes_are_spent_for_each_verifier(
    pipelit: Pipelit, writer: Agent, editor: Agent
) -> None:
    """In one time step a peer can be verified by many, each by a code of its own."""
    pipelit.users.create_agent("agent_reader", owner="alice", purpose="reads")
    for verifier in (editor, pipelit.agent("agent_reader")):
        verifier.verify_peer("agent_writer", code_for(writer, verifier, "audience"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_spent_code_is_not_accepted_in_the_next_step(
    pipelit: Pipelit, clock: Clock, writer: Agent, editor: Agent, kind: Kind
) -> None:
    """A code accepted at step s is a replay at s, at s+1 and one second before it dies."""
    code = code_for(writer, editor, kind)
    editor.verify_peer("agent_writer", code, kind=kind)
    for seconds in (0, 30, 29):
        clock.advance(seconds)
        with pytest.raises(CodeRejected):
            editor.verify_peer("agent_writer", code, kind=kind)
        assert last_reason(pipelit) == "replay"


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_older_than_the_spent_one_is_refused(
    pipelit: Pipelit, clock: Clock, writer: Agent, editor: Agent, kind: Kind
) -> None:
    """Once step s is spent, the unused code of s-1 is refused, though the window reaches it."""
    older = code_for(writer, editor, kind)
    clock.advance(30)
    editor.verify_peer("agent_writer", code_for(writer, editor, kind), kind=kind)
    with pytest.raises(CodeRejected):
        editor.verify_peer("agent_writer", older, kind=kind)
    assert last_reason(pipelit) == "replay"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("steps", "good"), [(-2, False), (-1, True), (0, True), (1, True), (2, False)]
)
@pytest.mark.backends
def test_the_window_is_one_step_each_way(
    clock: Clock, writer: Agent, editor: Agent, kind: Kind, steps: int, good: bool
) -> None:
    """Codes of the step before and the step after are good, of two steps off they aren't."""
    clock.advance(30 * steps)
    code = code_for(writer, editor, kind)
    clock.advance(-30 * steps)
    if good:
        assert editor.verify_peer("agent_writer", code, kind=kind).step == 60_000_000 + steps
    else:
        with pytest.raises(CodeRejected):
            editor.verify_peer("agent_writer", code, kind=kind)


@pytest.mark.backends
def test_the_window_can_be_narrowed(
    pipelit: Pipelit, database_url: str, key: str, clock: Clock, writer: Agent, editor: Agent
) -> None:
    """With a window of 0 only the present step is good."""
    strict = VerificationPolicy(window=0)
    with Pipelit(
        database_url=database_url, encryption_keys=[key], clock=clock, policy=strict
    ) as other:
        code = code_for(writer, editor, "audience")
        clock.advance(30)
        with pytest.raises(CodeRejected):
            other.agent("agent_editor").verify_peer("agent_writer", code)
        fresh = code_for(writer, editor, "audience")
        assert other.agent("agent_editor").verify_peer("agent_writer", fresh)


def refused(pipelit: Pipelit, verifier: Agent, peer: str, code: str, kind: Kind) -> dict[str, Any]:
    """Everything that a caller may notice of a refusal."""
    with statements(pipelit) as sent, pytest.raises(VerificationError) as caught:
        verifier.verify_peer(peer, code, kind=kind)
    return {
        "type": type(caught.value),
        "words": str(caught.value),
        "evidence": set(vars(caught.value)),
        "statements": sent,
    }


@pytest.mark.parametrize("kind", KINDS)
def test_refusals_look_the_same(pipelit: Pipelit, writer: Agent, editor: Agent, kind: Kind) -> None:
    """Unknown peer, person, wrong code, replay, inactive: same type, words and statements."""
    users = pipelit.users
    users.create_agent("agent_gone", owner="alice", purpose="leaves")
    users.create_agent("agent_left", owner="alice", purpose="leaves too")
    gone, left = pipelit.agent("agent_gone"), pipelit.agent("agent_left")
    code, code_of_gone = code_for(writer, editor, kind), code_for(gone, editor, kind)
    code_for_left = code_for(gone, left, kind)
    users.deactivate("agent_gone")
    users.deactivate("agent_left")
    wrong = refused(pipelit, editor, "agent_writer", other_code(code), kind)
    assert last_reason(pipelit) == "wrong code"
    editor.verify_peer("agent_writer", code, kind=kind)
    cases = [
        (editor, "agent_writer", code, "replay"),
        (editor, "agent_nobody", code, "peer unknown"),
        (editor, "alice", code, "peer unknown"),
        (editor, "agent_gone", code_of_gone, "peer inactive"),
        (left, "agent_gone", code_for_left, "verifier unknown or inactive"),
        (pipelit.agent("agent_ghost"), "agent_writer", code, "verifier unknown or inactive"),
    ]
    for verifier, peer, given, reason in cases:
        assert refused(pipelit, verifier, peer, given, kind) == wrong, reason
        assert last_reason(pipelit) == reason
    assert wrong["type"] is CodeRejected


@pytest.mark.backends("sqlite", "postgres")
def test_success_sends_the_same_statements(pipelit: Pipelit, writer: Agent, editor: Agent) -> None:
    """An accepted code runs the same statements as a refused one."""
    code = code_for(writer, editor, "audience")
    wrong = refused(pipelit, editor, "agent_writer", other_code(code), "audience")
    with statements(pipelit) as sent:
        editor.verify_peer("agent_writer", code)
    assert sent == wrong["statements"]


def test_an_agent_of_a_deactivated_owner_is_refused(
    pipelit: Pipelit, writer: Agent, editor: Agent
) -> None:
    """When the owner goes, codes that were made before are worthless at once."""
    pipelit.users.create("bob")
    pipelit.users.create_agent("agent_judge", owner="bob", purpose="judges")
    judge = pipelit.agent("agent_judge")
    code = code_for(writer, judge, "audience")
    pipelit.users.deactivate("alice")
    with pytest.raises(CodeRejected):
        judge.verify_peer("agent_writer", code)
    assert last_reason(pipelit) == "peer inactive"
    with pytest.raises(UserInactive):
        writer.totp_code()


@pytest.mark.backends
def test_only_living_agents_make_codes(pipelit: Pipelit) -> None:
    """A handle for nobody, for a person or for a deactivated agent makes no code."""
    pipelit.users.create_agent("agent_gone", owner="alice", purpose="leaves")
    pipelit.users.deactivate("agent_gone")
    for name, error, words in (
        ("agent_nobody", UserNotFound, "'agent_nobody'; see all agents with: pipelit-agents"),
        ("alice", NotLocalAgent, "'alice' is a person"),
        ("agent_gone", UserInactive, "'agent_gone' was deactivated"),
    ):
        for act in (
            pipelit.agent(name).totp_code,
            lambda n=name: pipelit.agent(n).totp_code(audience="agent_editor"),
            lambda n=name: pipelit.agent(n).prove(b"c" * 32, b"", verifier="agent_editor"),
            pipelit.agent(name).require_active,
        ):
            with pytest.raises(error, match=words) as caught:
                act()
            assert isinstance(caught.value, AccountError)
    with pytest.raises(InvalidUsername):
        pipelit.agent("Agent_Writer")
    with pytest.raises(InvalidUsername):
        pipelit.agent("agent_nobody").totp_code(audience="Agent_Editor")


NOBODIES = {
    "operator": UserNotFound,
    "agent_nobody": UserNotFound,
    "alice": NotLocalAgent,
    "agent_gone": UserInactive,
    "agent_far": NotLocalAgent,
}


@pytest.fixture
def nobodies(pipelit: Pipelit) -> None:
    """A deactivated agent and a peer of another domain, beside alice."""
    pipelit.users.create_agent("agent_gone", owner="alice", purpose="leaves")
    pipelit.users.deactivate("agent_gone")
    pipelit.users.enroll_peer(
        "otpauth://totp/there:agent_far?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=there"
        f"&relation={'a' * 32}",
        name="agent_far",
        domain="there",
    )
    pipelit.users.create_agent("agent_writer", owner="alice", purpose="writes")
    pipelit.users.issue_peering("agent_writer", domain="there")


@pytest.mark.usefixtures("nobodies")
@pytest.mark.backends("sqlite")
@pytest.mark.parametrize("name", NOBODIES)
def test_a_handle_of_nobody_writes_nothing(pipelit: Pipelit, name: str) -> None:
    """Not the operator, an unknown name, a person, a deactivated agent or a peer."""
    before = pipelit.audit.list(limit=1000)
    reasons: tuple[Any, ...] = ("", " ", "really wrong", None)
    for reason, action in product(reasons, ("verify.proof", "user.deactivate", "approve", "")):
        with pytest.raises(NOBODIES[name]):
            pipelit.agent(name).note_refusal("agent_writer", action, reason)
    assert pipelit.audit.list(limit=1000) == before


@pytest.mark.usefixtures("nobodies")
@pytest.mark.parametrize("name", NOBODIES)
@pytest.mark.backends
def test_a_handle_of_nobody_gets_no_answer_and_no_ok(pipelit: Pipelit, name: str) -> None:
    """Whatever it calls is refused, and no row says ok or has the operator for an actor."""
    nobody, writer = pipelit.agent(name), pipelit.agent("agent_writer")
    for act in (
        lambda: nobody.note_refusal("agent_writer", "verify.proof", "wrong"),
        lambda: nobody.spend_request("agent_writer", b"c" * 32),
        lambda: nobody.relation_to("agent_writer"),
        lambda: nobody.totp_code(audience="agent_writer"),
        lambda: nobody.prove(b"c" * 32, b"", verifier="agent_writer"),
        lambda: nobody.prove_request(b"c" * 32, b"", verifier="agent_writer"),
        nobody.require_active,
    ):
        with pytest.raises(NOBODIES[name]):
            act()
    newest = pipelit.audit.list(limit=1)[0].id
    code = writer.totp_code(audience=name).code
    challenge = nobody.challenge("agent_writer")
    proof = writer.prove(challenge.value, b"", verifier=name)
    request = writer.prove_request(challenge.value, b"", verifier=name)
    for check in (
        lambda: nobody.verify_peer("agent_writer", code),
        lambda: nobody.verify_peer("agent_writer", writer.totp_code().code, kind="plain"),
        lambda: nobody.verify_peer("NO NAME", code),
        lambda: nobody.verify_peer("agent_writer", "12"),
        lambda: nobody.verify_proof(proof, challenge=challenge, payload=b""),
        lambda: nobody.verify_request(request, challenge=challenge, request=b""),
        lambda: nobody.verify_possession(proof, challenge=challenge),
    ):
        with pytest.raises((VerificationError, AccountError)):
            check()
    rows = pipelit.audit.list(after=newest)
    assert {each.outcome for each in rows} <= {"refused"}
    assert "operator" not in {each.actor for each in rows}


@pytest.mark.usefixtures("nobodies")
@pytest.mark.backends("sqlite")
@pytest.mark.parametrize("name", ["operator", "alice", "agent_nobody"])
def test_a_credential_opens_for_no_handle_of_nobody(pipelit: Pipelit, name: str) -> None:
    """The refusal is on record, and the operator isn't its actor."""
    pipelit.credentials.put("openai", "sk-abcdefgh", kind="llm", created_by="alice")
    newest = pipelit.audit.list(limit=1)[0].id

    @pipelit.credentials.inject(pipelit.agent(name), key="openai")
    def look(*, key: Any) -> None:
        raise AssertionError(key)

    with pytest.raises(AccountError):
        look()
    pipelit.credentials.note_refusal("openai", pipelit.agent(name), "")
    rows = pipelit.audit.list(after=newest)
    assert {each.outcome for each in rows} == {"refused"}
    assert "operator" not in {each.actor for each in rows}


@pytest.mark.backends("sqlite")
@pytest.mark.parametrize(
    "reason", ["", " ", " x", "x ", "a\nb", "\0", "x" * 65, "caf\u00e9", None, 7, b"no", ["no"]]
)
def test_a_refusal_says_why(pipelit: Pipelit, writer: Agent, reason: Any) -> None:
    """An empty or odd reason is a ValueError, and nothing is recorded: nothing becomes an ok."""
    before = pipelit.audit.list(limit=1000)
    with pytest.raises(ValueError, match="reason must be"):
        writer.note_refusal("agent_editor", "verify.proof", reason)
    assert pipelit.audit.list(limit=1000) == before


@pytest.mark.backends("sqlite")
@pytest.mark.parametrize(
    "action", ["", "user.deactivate", "approve", "agent.create", "verify.", "verify.ok", None, 7]
)
def test_a_refusal_is_of_a_check(pipelit: Pipelit, writer: Agent, action: Any) -> None:
    """No other action can be written by a handle."""
    before = pipelit.audit.list(limit=1000)
    with pytest.raises(ValueError, match=r"action must be one of verify, verify\.audience"):
        writer.note_refusal("agent_editor", action, "wrong")
    assert pipelit.audit.list(limit=1000) == before


@pytest.mark.backends
def test_a_refusal_is_recorded_as_one(pipelit: Pipelit, writer: Agent) -> None:
    """With a reason it is one row, refused, by the handle's own name."""
    writer.note_refusal("no name at all", "verify.request", "x" * 64)
    (entry,) = pipelit.audit.list(limit=1)
    assert (entry.actor, entry.subject, entry.action, entry.outcome, entry.reason) == (
        "agent_writer",
        "no name at all",
        "verify.request",
        "refused",
        "x" * 64,
    )
    with pytest.raises(TypeError, match="peer must be a username"):
        writer.note_refusal(None, "verify.request", "x")  # type: ignore[arg-type]


@pytest.mark.backends
def test_a_code_says_when_it_dies_and_hides_itself(clock: Clock, writer: Agent) -> None:
    """A TotpCode knows the end of its step, and its repr has no digits of the code."""
    clock.advance(7)
    code = writer.totp_code(audience="agent_editor")
    assert code.expires_at == datetime.fromtimestamp(1_800_000_030, UTC)
    assert (len(code.code), code.audience) == (8, "agent_editor")
    assert code.code not in repr(code)
    assert len(writer.totp_code().code) == 6


@pytest.mark.backends
def test_a_secret_that_does_not_open_verifies_nobody(
    pipelit: Pipelit, database_url: str, clock: Clock, writer: Agent, editor: Agent
) -> None:
    """Under another key every check is an UnsealError, and the audit says so."""
    other_key = Keyring.generate_key()
    code = code_for(writer, editor, "audience")
    with Pipelit(database_url=database_url, encryption_keys=[other_key], clock=clock) as other:
        with pytest.raises(UnsealError):
            other.agent("agent_editor").verify_peer("agent_writer", code)
        assert last_reason(pipelit) == "secret doesn't open"
    with Pipelit(database_url=database_url, encryption_keys=[], clock=clock) as other:
        for peer in ("agent_writer", "agent_nobody"):
            with pytest.raises(ConfigurationError, match="FIELD_ENCRYPTION_KEY"):
                other.agent("agent_editor").verify_peer(peer, code)
    editor.verify_peer("agent_writer", code)


@pytest.mark.parametrize("kind", KINDS)
def test_during_a_rotation_with_overlap_both_secrets_are_good(
    pipelit: Pipelit,
    database_url: str,
    key: str,
    clock: Clock,
    writer: Agent,
    editor: Agent,
    kind: Kind,
) -> None:
    """Old and new codes are accepted until the overlap ends, then only new ones."""
    before = []
    for _ in range(5):
        before.append(code_for(writer, editor, kind))
        clock.advance(30)
    clock.advance(-150)
    pipelit.users.rotate_totp("agent_writer", overlap=timedelta(seconds=90))
    editor.verify_peer("agent_writer", before[0], kind=kind)
    clock.advance(30)
    editor.verify_peer("agent_writer", code_for(writer, editor, kind), kind=kind)
    clock.advance(30)
    editor.verify_peer("agent_writer", before[2], kind=kind)
    clock.advance(30)
    with pytest.raises(CodeRejected):
        editor.verify_peer("agent_writer", before[3], kind=kind)
    assert last_reason(pipelit) == "wrong code"
    editor.verify_peer("agent_writer", code_for(writer, editor, kind), kind=kind)


@pytest.mark.all_cases
@pytest.mark.parametrize("order", ["old, new", "new, old", "old, old", "new, new"])
@pytest.mark.parametrize("kind", KINDS)
def test_during_an_overlap_each_step_is_good_once(
    pipelit: Pipelit, writer: Agent, editor: Agent, kind: Kind, order: str
) -> None:
    """Two secrets don't give two codes for one step: the second is a replay."""
    codes = {"old": code_for(writer, editor, kind)}
    pipelit.users.rotate_totp("agent_writer", overlap=timedelta(hours=1))
    codes["new"] = code_for(writer, editor, kind)
    first, second = (codes[each] for each in order.split(", "))
    editor.verify_peer("agent_writer", first, kind=kind)
    with pytest.raises(CodeRejected):
        editor.verify_peer("agent_writer", second, kind=kind)
    assert last_reason(pipelit) == "replay"


@pytest.mark.parametrize("kind", KINDS)
def test_a_rotation_without_overlap_ends_the_old_secret(
    pipelit: Pipelit, writer: Agent, editor: Agent, kind: Kind
) -> None:
    """Without an overlap the old code is refused at once, and the new one accepted."""
    old = code_for(writer, editor, kind)
    pipelit.users.rotate_totp("agent_writer")
    with pytest.raises(CodeRejected):
        editor.verify_peer("agent_writer", old, kind=kind)
    editor.verify_peer("agent_writer", code_for(writer, editor, kind), kind=kind)


def test_a_rotation_without_overlap_ends_an_overlap_too(
    pipelit: Pipelit, writer: Agent, editor: Agent
) -> None:
    """After a compromise neither of the two earlier secrets is good."""
    first = code_for(writer, editor, "audience")
    pipelit.users.rotate_totp("agent_writer", overlap=timedelta(hours=1))
    second = code_for(writer, editor, "audience")
    pipelit.users.rotate_totp("agent_writer")
    for code in (first, second):
        with pytest.raises(CodeRejected):
            editor.verify_peer("agent_writer", code)


@pytest.mark.backends
def test_a_plain_code_is_what_an_authenticator_shows(
    pipelit: Pipelit, clock: Clock, editor: Agent
) -> None:
    """The ``otpauth://`` URI in any authenticator app gives codes that are accepted."""
    import pyotp

    uri = pipelit.users.create_agent("agent_phone", owner="alice", purpose="p").provisioning_uri
    app = pyotp.parse_uri(uri.get_secret_value())
    assert isinstance(app, pyotp.TOTP)
    assert (app.name, app.issuer) == ("agent_phone", "pipelit-agents")
    code = app.generate_otp(int(clock.now) // 30)
    assert editor.verify_peer("agent_phone", code, kind="plain")


@pytest.mark.backends
def test_handles_show_and_give_away_nothing(writer: Agent) -> None:
    """An Agent prints its name only, and can't be pickled into a checkpoint."""
    import copy
    import pickle

    assert repr(writer) == "Agent('agent_writer')"
    for way in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="can act as the agent"):
            way(writer)


class Active(NamedTuple):
    """Whether an account is active."""

    active: Flag


@pytest.mark.backends("sqlite", "postgres")
def test_what_is_read_together_is_of_one_moment(pipelit: Pipelit, writer: Agent) -> None:
    """Accounts and peerings that a proof goes by are read in one transaction, by the driver too."""
    names = {"name0": "agent_writer"}
    read = Query("SELECT active FROM pipelit_users WHERE username IN (:name0)", Active)
    with database_of(pipelit).reading() as connection:
        ((before,),) = read.fetch(connection, names)
        pipelit.users.deactivate("agent_writer")
        assert read.fetch(connection, names) == [(before,)]
    assert database_of(pipelit).fetch(read, names) != [(before,)]
