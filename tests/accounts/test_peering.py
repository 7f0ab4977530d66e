"""Peerings: two domains, each with its own key and database, whose agents verify each other."""

from __future__ import annotations

import base64
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from command_line import typed
from conftest import Clock
from internals import database_of
from pydantic import SecretStr
from sqlalchemy import text

from pipelit_agents import Agent, Keyring, Pipelit
from pipelit_agents.errors import (
    AuthenticationError,
    CodeRejected,
    InvalidUsername,
    NotLocalAgent,
    NotPermitted,
    ProofRejected,
    UnsealError,
    UserExists,
    UserInactive,
    UserNotFound,
)
from pipelit_agents.otp import totp
from pipelit_agents.pipelit import home_of
from pipelit_agents.protocol.peering_uri import PeerRelation

# Where attempts are counted makes no difference here.
BACKENDS = ("sqlite",)
SQLITE = pytest.mark.backends("sqlite")
SECRET = base64.b32encode(b"0123456789abcdef0123").decode()
RELATION = "0123456789abcdef" * 2
GOOD = f"otpauth://totp/pipelit-agents:agent_remote?secret={SECRET}&issuer=pipelit-agents"


@pytest.fixture
def other(tmp_path: Path, clock: Clock) -> Iterator[Pipelit]:
    """Another domain, ``there``, whose agent_child works for others."""
    url = f"sqlite:///{tmp_path}/there/agents.db"
    with Pipelit(database_url=url, encryption_keys=[Keyring.generate_key()], clock=clock) as made:
        made.create_schema()
        made.users.create("bob")
        made.users.create_agent("agent_child", owner="bob", purpose="works")
        yield made


@pytest.fixture
def child(pipelit: Pipelit, lead: Agent, other: Pipelit) -> Agent:
    """The agent of the other domain; it and agent_lead are each other's peers."""
    peer(pipelit, "agent_lead", "here", other, "there")
    peer(other, "agent_child", "there", pipelit, "here")
    return other.agent("agent_child")


def peer(issuer: Pipelit, name: str, known_as: str, verifier: Pipelit, domain: str) -> str:
    """Lets one domain verify an agent of another, and returns the URI that went between them."""
    uri = issuer.users.issue_peering(name, domain=domain)
    verifier.users.enroll_peer(uri, name=name, domain=known_as)
    return uri.get_secret_value()


def secret_of(uri: str) -> str:
    """The secret in a URI."""
    return parse_qs(urlsplit(uri).query)["secret"][0]


def asks(parent: Agent, child: Agent, **options: Any) -> None:
    """A parent's request, proven to the child."""
    challenge = child.challenge(parent.username)
    proof = parent.prove_request(challenge.value, b"do", verifier=child.username, **options)
    child.verify_request(proof, challenge=challenge, request=b"do")


def answers(child: Agent, parent: Agent, **options: Any) -> None:
    """A child's answer, proven to the parent."""
    challenge = parent.challenge(child.username)
    proof = child.prove(
        challenge.value, b"done", verifier=parent.username, request=b"do", **options
    )
    parent.verify_proof(proof, challenge=challenge, payload=b"done", request=b"do")


def audited(pipelit: Pipelit) -> tuple[str, str, str]:
    """The last decision."""
    entry = pipelit.audit.list(limit=1)[0]
    return entry.action, entry.outcome, entry.reason


@pytest.mark.slow
@pytest.mark.backends("sqlite", "postgres")
def test_two_domains_prove_to_each_other(lead: Agent, child: Agent) -> None:
    """A request proves itself there and its answer here, each under its direction's secret."""
    asks(lead, child)
    answers(child, lead)
    known = lead.relation_to("agent_child")
    seen = child.relation_to("agent_lead")
    assert known is not None
    assert seen == PeerRelation("here", theirs=known.ours or "", ours=known.theirs)
    assert known.domain == "there"
    asks(lead, child, relation=known.ours)
    answers(child, lead, relation=seen.ours)


async def test_the_twins_do_the_same(pipelit: Pipelit, lead: Agent, other: Pipelit) -> None:
    """A peering is issued, enrolled, looked up and used without blocking the loop."""
    uri = await other.users.aissue_peering("agent_child", domain="here")
    made = await pipelit.users.aenroll_peer(uri, name="agent_child", domain="there")
    assert (made.kind, made.domain, made.owner) == ("peer", "there", None)
    assert await pipelit.users.aget("agent_child") == made
    found = await lead.arelation_to("agent_child")
    assert found is not None
    assert found.ours is None
    assert await lead.arelation_to("agent_lead") is None
    assert await lead.aspend_request("agent_child", b"c" * 32) is True
    assert await lead.aspend_request("agent_child", b"c" * 32) is False


@pytest.mark.parametrize("relation", ["", None, "other", "f" * 32])
@pytest.mark.backends("sqlite", "postgres")
def test_only_the_peering_of_the_relation_counts(
    pipelit: Pipelit, lead: Agent, child: Agent, relation: str | None
) -> None:
    """A proof under the agent's own secret, or another domain's peering, is refused there."""
    if relation == "other":
        uri = pipelit.users.issue_peering("agent_lead", domain="elsewhere")
        relation = parse_qs(urlsplit(uri.get_secret_value()).query)["relation"][0]
    if relation is None:
        asks(lead, child, relation=None)
    elif relation == "f" * 32:
        with pytest.raises(UserNotFound, match="no peering with the id"):
            asks(lead, child, relation=relation)
    else:
        with pytest.raises(ProofRejected):
            asks(lead, child, relation=relation)


def test_a_peering_of_another_agent_is_not_used(pipelit: Pipelit, lead: Agent) -> None:
    """An agent proves nothing by the id of a peering that another agent issued."""
    pipelit.users.create_agent("agent_second", owner="alice", purpose="p")
    uri = pipelit.users.issue_peering("agent_second", domain="there").get_secret_value()
    relation = parse_qs(urlsplit(uri).query)["relation"][0]
    with pytest.raises(UserNotFound):
        lead.prove(b"c" * 32, b"", verifier="agent_child", relation=relation)


def test_one_domain_cannot_play_the_agent_to_another(
    pipelit: Pipelit, lead: Agent, child: Agent, tmp_path: Path, clock: Clock
) -> None:
    """A domain that knows the child under its own peering can't answer for it to this one."""
    other = home_of(child)
    theirs = other.users.issue_peering("agent_child", domain="elsewhere").get_secret_value()
    assert secret_of(theirs) != secret_of(
        other.users.issue_peering("agent_child", domain="third").get_secret_value()
    )
    # The worst that it can do: hold the secret as an agent's own, or as a peering of its own.
    url = f"sqlite:///{tmp_path}/elsewhere/agents.db"
    key = Keyring.generate_key()
    with Pipelit(database_url=url, encryption_keys=[key], clock=clock) as elsewhere:
        elsewhere.create_schema()
        elsewhere.users.create("mallory")
        elsewhere.users.create_agent("agent_child", owner="mallory", purpose="plays")
        raw = base64.b32decode(secret_of(theirs) + "====")
        sealed = Keyring(key).seal(raw, "user:agent_child:totp")
        with database_of(elsewhere).writing() as connection:
            connection.execute(
                text("UPDATE pipelit_users SET totp_secret = :sealed WHERE kind = 'agent'"),
                {"sealed": sealed},
            )
        with pytest.raises(ProofRejected):
            answers(elsewhere.agent("agent_child"), lead, relation="")
        code = elsewhere.agent("agent_child").totp_code(audience="agent_lead").code
        with pytest.raises(CodeRejected):
            lead.verify_peer("agent_child", code)
    answers(child, lead)


def test_a_secret_is_good_for_one_direction(lead: Agent, child: Agent) -> None:
    """What proves the lead there doesn't prove the child here, though both know both secrets."""
    challenge = lead.challenge("agent_child")
    with pytest.raises(ProofRejected):
        lead.verify_proof(
            lead.prove(challenge.value, b"", verifier="agent_child"),
            challenge=challenge,
            payload=b"",
        )


def test_codes_of_a_peering_verify(pipelit: Pipelit, lead: Agent, child: Agent) -> None:
    """An audience code for the peer, and the plain code of an app that has the URI, both once."""
    code = child.totp_code(audience="agent_lead").code
    assert lead.verify_peer("agent_child", code).peer == "agent_child"
    with pytest.raises(CodeRejected):
        lead.verify_peer("agent_child", code)


def test_a_plain_code_of_a_peering_verifies(
    pipelit: Pipelit, lead: Agent, other: Pipelit, clock: Clock
) -> None:
    """RFC 6238 under the peering's secret; the agent's own code is another."""
    uri = peer(other, "agent_child", "there", pipelit, "here")
    key = base64.b32decode(secret_of(uri) + "====")
    with pytest.raises(CodeRejected):
        lead.verify_peer("agent_child", other.agent("agent_child").totp_code().code, kind="plain")
    lead.verify_peer("agent_child", totp(key, int(clock.now), digits=6), kind="plain")


def test_a_peer_without_a_relation_is_verified_by_its_secret(
    pipelit: Pipelit, lead: Agent, other: Pipelit
) -> None:
    """A URI that names no relation enrols an agent under its own secret there."""
    new = other.users.create_agent("agent_plain", owner="bob", purpose="p")
    pipelit.users.enroll_peer(new.provisioning_uri, name="agent_plain", domain="there")
    answers(other.agent("agent_plain"), lead)


def test_what_was_not_issued_is_said_with_the_mend(
    pipelit: Pipelit, lead: Agent, other: Pipelit
) -> None:
    """To a peer whose domain got no peering nothing is proven under the agent's own secret."""
    peer(other, "agent_child", "there", pipelit, "here")
    fix = r'users.issue_peering\("agent_lead", domain="there"\)'
    for use in (
        lambda: lead.prove(b"c" * 32, b"", verifier="agent_child"),
        lambda: lead.prove_request(b"c" * 32, b"", verifier="agent_child"),
        lambda: lead.totp_code(audience="agent_child"),
    ):
        with pytest.raises(UserNotFound, match=fix):
            use()


@pytest.mark.slow
@pytest.mark.backends("sqlite", "postgres")
def test_issuing_again_replaces_the_secret(pipelit: Pipelit, lead: Agent, child: Agent) -> None:
    """From then on the other domain refuses until it has enrolled the new one."""
    asks(lead, child)
    uri = pipelit.users.issue_peering("agent_lead", domain="there")
    assert audited(pipelit) == ("peering.issue", "ok", "there")
    with pytest.raises(ProofRejected):
        asks(lead, child)
    there = home_of(child).users
    with pytest.raises(UserExists, match="deactivate it first"):
        there.enroll_peer(uri, name="agent_lead", domain="here")
    there.deactivate("agent_lead")
    there.enroll_peer(uri, name="agent_lead", domain="here")
    asks(lead, child)


def test_who_can_be_issued_a_peering(pipelit: Pipelit, lead: Agent, other: Pipelit) -> None:
    """An active agent of this database, to a domain whose name has the form of a username."""
    peer(other, "agent_child", "there", pipelit, "here")
    issue = pipelit.users.issue_peering
    with pytest.raises(UserNotFound):
        issue("nobody", domain="there")
    with pytest.raises(NotLocalAgent, match="person"):
        issue("alice", domain="there")
    with pytest.raises(NotLocalAgent, match="peer of the domain 'there'"):
        issue("agent_child", domain="there")
    with pytest.raises(InvalidUsername, match="domain"):
        issue("agent_lead", domain="There")
    with pytest.raises(InvalidUsername):
        issue("agent_lead", domain="")
    pipelit.users.deactivate("agent_lead")
    with pytest.raises(UserInactive):
        issue("agent_lead", domain="there")


@SQLITE
@pytest.mark.parametrize(
    ("uri", "words"),
    [
        (GOOD.replace("totp", "hotp") + "&counter=0", "hotp uses counters"),
        (GOOD.replace("totp", "yotp"), "type must be totp"),
        (GOOD.replace("otpauth", "https"), "scheme"),
        (GOOD.replace(SECRET, base64.b32encode(b"0123456789abcde").decode()), "128 bits"),
        (GOOD.replace(SECRET, base64.b32encode(b"0" * 130).decode()), "128 bytes|16 to 128"),
        (GOOD.replace(SECRET, SECRET.lower()), "base32"),
        (GOOD.replace(SECRET, SECRET + "1"), "base32"),
        (GOOD.replace(SECRET, SECRET + "A"), "base32"),
        (GOOD.replace(SECRET, ""), "base32"),
        (GOOD.replace("secret=", "sekret="), "unknown parameter"),
        (GOOD + "&digits=8", "digits"),
        (GOOD + "&period=60", "period"),
        (GOOD + "&algorithm=SHA256", "algorithm"),
        (GOOD + "&relation=" + RELATION[1:], "relation"),
        (GOOD + "&relation=" + RELATION.upper(), "relation"),
        (GOOD + "&relation=", "relation"),
        (GOOD + f"&secret={SECRET}", "twice"),
        (GOOD + "&issuer=another", "twice"),
        (GOOD + "&digits", "can't be read"),
        (GOOD + "#x", "'#'"),
        (GOOD + " ", "one line"),
        (GOOD + "\n", "one line"),
        (GOOD + "é", "one line"),
        (GOOD.replace("agent_remote", "agent_else"), "'agent_else', not 'agent_remote'"),
        (GOOD.replace("agent_remote", SECRET), "no username, not 'agent_remote'"),
        (GOOD.replace("agent_remote", "%ff"), "can't be read"),
        (GOOD.replace("totp/", "[totp/"), "can't be read"),
        (GOOD.replace("totp/", f"{SECRET}@totp/"), "type must be totp"),
        (SECRET, "scheme"),
        ("", "one line"),
        (GOOD + "&issuer=" + "x" * 2048, "characters at most"),
    ],
)
def test_another_uri_is_refused_and_not_repeated(pipelit: Pipelit, uri: str, words: str) -> None:
    """The error names what is wrong, and neither it nor its traceback holds the secret."""
    with pytest.raises(ValueError, match=words) as caught:
        pipelit.users.enroll_peer(SecretStr(uri), name="agent_remote", domain="there")
    whole = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    # This test's own frame has the URI, which it made.
    del whole.stack[0]
    assert SECRET not in "".join(whole.format()).upper()
    assert caught.value.__context__ is None
    assert [each.username for each in pipelit.users.list()] == ["alice"]


@SQLITE
@pytest.mark.parametrize(
    "uri",
    [
        GOOD + "&algorithm=SHA1&digits=6&period=30",
        GOOD + f"&relation={RELATION}",
        GOOD.replace("pipelit-agents:", ""),
        GOOD.replace("pipelit-agents:", "Some%20One%3A"),
    ],
)
def test_a_uri_that_says_the_same_is_accepted(pipelit: Pipelit, uri: str) -> None:
    """What an authenticator app would read in the same way is read."""
    made = pipelit.users.enroll_peer(uri, name="agent_remote", domain="there")
    assert (made.username, made.kind) == ("agent_remote", "peer")
    assert audited(pipelit) == ("peer.enroll", "ok", "")


@pytest.mark.backends("sqlite", "postgres")
def test_nothing_is_overwritten(pipelit: Pipelit, lead: Agent, other: Pipelit) -> None:
    """A person, an agent, a peer, the operator: each name is taken, also when deactivated."""
    peer(other, "agent_child", "there", pipelit, "here")
    pipelit.users.create("carol")
    pipelit.users.deactivate("carol")
    for name in ("alice", "agent_lead", "agent_child", "carol", "operator"):
        uri = GOOD.replace("agent_remote", name)
        with pytest.raises(UserExists):
            pipelit.users.enroll_peer(uri, name=name, domain="there")
    pipelit.users.deactivate("agent_child")
    uri = GOOD.replace("agent_remote", "agent_child")
    with pytest.raises(UserExists):
        pipelit.users.enroll_peer(uri, name="agent_child", domain="elsewhere")
    for name in ("agent_child", "agent_lead", "alice"):
        with pytest.raises(UserExists):
            pipelit.users.create(name)
    answer = pipelit.users.get("agent_child")
    assert (answer.domain, answer.active) == ("there", False)


@pytest.mark.backends("sqlite", "postgres")
def test_one_secret_is_for_one_relation(pipelit: Pipelit, lead: Agent) -> None:
    """A secret, or a relation, that another peer has or that was issued here isn't enrolled."""
    pipelit.users.enroll_peer(GOOD, name="agent_remote", domain="there")
    again = GOOD.replace("agent_remote", "agent_more")
    with pytest.raises(ValueError, match="has it already"):
        pipelit.users.enroll_peer(again, name="agent_more", domain="elsewhere")
    issued = pipelit.users.issue_peering("agent_lead", domain="there").get_secret_value()
    mirrored = issued.replace("agent_lead", "agent_more")
    for uri in (mirrored, mirrored.partition("&")[0]):
        with pytest.raises(ValueError, match="has it already"):
            pipelit.users.enroll_peer(uri, name="agent_more", domain="there")


@pytest.mark.parametrize("between", [False, True])
@pytest.mark.backends("sqlite", "postgres")
def test_a_spent_code_stays_spent_when_its_secret_is_enrolled_again(
    pipelit: Pipelit, lead: Agent, child: Agent, other: Pipelit, between: bool
) -> None:
    """Also where another secret was enrolled between."""
    issued = other.users.issue_peering("agent_child", domain="here")
    pipelit.users.deactivate("agent_child")
    pipelit.users.enroll_peer(issued, name="agent_child", domain="there")
    code = child.totp_code(audience="agent_lead").code
    lead.verify_peer("agent_child", code)
    pipelit.users.deactivate("agent_child")
    if between:
        pipelit.users.enroll_peer(
            GOOD.replace("agent_remote", "agent_child"), name="agent_child", domain="there"
        )
        pipelit.users.deactivate("agent_child")
    pipelit.users.enroll_peer(issued, name="agent_child", domain="there")
    with pytest.raises(CodeRejected):
        lead.verify_peer("agent_child", code)
    assert pipelit.audit.list(limit=1)[0].reason == "replay"


@pytest.mark.slow
@pytest.mark.backends("sqlite", "postgres")
def test_a_peer_enrolled_anew_starts_without_keys(
    pipelit: Pipelit, lead: Agent, other: Pipelit
) -> None:
    """Its API keys are revoked and its old secret refused; the new one verifies."""
    peer(other, "agent_child", "there", pipelit, "here")
    key = pipelit.users.issue_api_key("agent_child", name="of the peer")
    token = key.api_key.get_secret_value()
    assert pipelit.users.authenticate(token).kind == "peer"
    challenge = lead.challenge("agent_child")
    old = other.agent("agent_child").prove(
        challenge.value, b"", verifier="agent_lead", relation=relation_of(other)
    )
    pipelit.users.deactivate("agent_child")
    peer(other, "agent_child", "there", pipelit, "here")
    assert audited(pipelit) == ("peer.enroll", "ok", "enrolled again; its keys revoked")
    assert pipelit.users.get("agent_child").active
    with pytest.raises(AuthenticationError):
        pipelit.users.authenticate(token)
    with pytest.raises(ProofRejected):
        lead.verify_proof(old, challenge=challenge, payload=b"")
    answers(other.agent("agent_child"), lead, relation=relation_of(other))


def relation_of(pipelit: Pipelit) -> str:
    """The id of the only peering that was issued in a database."""
    with database_of(pipelit).reading() as connection:
        return str(connection.scalar(text("SELECT relation FROM pipelit_peerings")))


def test_a_peer_can_only_be_verified(pipelit: Pipelit, lead: Agent, child: Agent) -> None:
    """It answers nothing here, owns no agents, and its secret isn't rotated here."""
    handle = pipelit.agent("agent_child")
    for use in (
        handle.totp_code,
        handle.require_active,
        lambda: handle.totp_code(audience="agent_lead"),
        lambda: handle.prove(b"c" * 32, b"", verifier="agent_lead"),
        lambda: handle.prove(b"c" * 32, b"", verifier="agent_lead", relation=""),
        lambda: handle.prove_request(b"c" * 32, b"", verifier="agent_lead"),
        lambda: pipelit.users.rotate_totp("agent_child"),
    ):
        with pytest.raises(NotLocalAgent, match="peer of the domain 'there'"):
            use()
    with pytest.raises(NotPermitted, match="peer of the domain 'there'"):
        pipelit.users.create_agent("agent_x", owner="agent_child", purpose="p")
    with pytest.raises(NotLocalAgent):
        pipelit.provision_agent(handle, purpose="p")
    assert pipelit.users.list(owner="agent_child") == [pipelit.users.get("agent_child")]


def test_a_peer_verifies_nobody_here(pipelit: Pipelit, lead: Agent, child: Agent) -> None:
    """A handle of its name spends no codes, checks no proof and no request."""
    handle = pipelit.agent("agent_child")
    pipelit.users.create_agent("agent_third", owner="alice", purpose="is verified")
    third = pipelit.agent("agent_third")
    with pytest.raises(CodeRejected):
        handle.verify_peer("agent_third", third.totp_code().code, kind="plain")
    lead.verify_peer("agent_third", third.totp_code().code, kind="plain")
    with pytest.raises(NotLocalAgent):
        handle.spend_request("agent_lead", bytes(32))


@pytest.mark.backends("sqlite", "postgres")
def test_a_deactivated_peer_is_refused_at_once(pipelit: Pipelit, lead: Agent, child: Agent) -> None:
    """Its proofs, its codes and its API key; what is known of its relation stays."""
    token = pipelit.users.issue_api_key("agent_child", name="k").api_key.get_secret_value()
    answers(child, lead)
    assert pipelit.users.deactivate("agent_child") == ["agent_child"]
    with pytest.raises(ProofRejected):
        answers(child, lead)
    assert audited(pipelit)[2] == "peer inactive"
    with pytest.raises(CodeRejected):
        lead.verify_peer("agent_child", child.totp_code(audience="agent_lead").code)
    with pytest.raises(AuthenticationError):
        pipelit.users.authenticate(token)
    assert lead.relation_to("agent_child") is not None


def test_a_deactivated_agent_proves_nothing_by_a_peering(
    pipelit: Pipelit, lead: Agent, child: Agent
) -> None:
    """Its peerings end with it."""
    pipelit.users.deactivate("agent_lead")
    with pytest.raises(UserInactive):
        lead.prove(b"c" * 32, b"", verifier="agent_child")


def test_a_ciphertext_opens_at_its_own_peering_only(
    pipelit: Pipelit, lead: Agent, child: Agent
) -> None:
    """Moved to another peering, or to an account, it is no secret; nor does the table hold one."""
    uri = pipelit.users.issue_peering("agent_lead", domain="elsewhere").get_secret_value()
    with database_of(pipelit).writing() as connection:
        stored = connection.execute(text("SELECT * FROM pipelit_peerings")).all()
        assert secret_of(uri) not in repr(stored)
        moved = text(
            "UPDATE pipelit_peerings SET secret = (SELECT secret FROM pipelit_peerings "
            "WHERE domain = 'elsewhere') WHERE domain = 'there'"
        )
        assert connection.execute(moved).rowcount == 1
    with pytest.raises(UnsealError):
        lead.prove(b"c" * 32, b"", verifier="agent_child")
    with database_of(pipelit).writing() as connection:
        moved = text(
            "UPDATE pipelit_users SET totp_secret = (SELECT secret FROM pipelit_peerings "
            "WHERE domain = 'elsewhere') WHERE username = 'agent_child'"
        )
        assert connection.execute(moved).rowcount == 1
    with pytest.raises(UnsealError):
        answers(child, lead)


@pytest.mark.backends("sqlite", "postgres")
def test_of_racing_requests_one_is_the_first(pipelit: Pipelit, lead: Agent, clock: Clock) -> None:
    """However many spend it at once, one is told True, and the rest are audited; also later."""
    with ThreadPoolExecutor(8) as threads:
        told = list(threads.map(lambda _: lead.spend_request("agent_child", b"c" * 32), range(24)))
    assert told.count(True) == 1
    refused = [each for each in pipelit.audit.list() if each.action == "verify.request"]
    assert len(refused) == 23
    assert {(e.actor, e.subject, e.outcome, e.reason) for e in refused} == {
        ("agent_lead", "agent_child", "refused", "request used before")
    }
    clock.advance(299)
    assert not lead.spend_request("agent_child", b"c" * 32)


def test_requests_differ_by_agent_parent_and_challenge(pipelit: Pipelit, writer: Agent) -> None:
    """None of them stands for another."""
    pipelit.users.create_agent("agent_second", owner="alice", purpose="p")
    second = pipelit.agent("agent_second")
    assert writer.spend_request("agent_a", b"c" * 32)
    assert writer.spend_request("agent_b", b"c" * 32)
    assert writer.spend_request("agent_a", b"d" * 32)
    assert second.spend_request("agent_a", b"c" * 32)
    assert not writer.spend_request("agent_a", b"c" * 32)


@pytest.mark.backends("sqlite", "postgres")
def test_expired_requests_are_forgotten(pipelit: Pipelit, lead: Agent, clock: Clock) -> None:
    """The table holds what could still be replayed, and no more."""
    for number in range(5):
        assert lead.spend_request("agent_child", bytes([number]) * 32, lifetime=60)
    clock.advance(60 + 3600)
    assert lead.spend_request("agent_child", b"c" * 32)
    with database_of(pipelit).reading() as connection:
        assert connection.scalar(text("SELECT count(*) FROM pipelit_spent_requests")) == 1


@pytest.mark.backends("sqlite", "postgres")
def test_a_used_request_stays_used_when_the_clock_is_set(
    pipelit: Pipelit, lead: Agent, clock: Clock
) -> None:
    """The clock was ahead for a while, or behind: what was used before is used."""
    for ahead in (600, -600):
        request = f"{ahead:32}".encode()
        assert lead.spend_request("agent_child", request, lifetime=60)
        clock.advance(ahead)
        assert lead.spend_request("agent_child", b"x" + request[1:], lifetime=60)
        clock.advance(10 - ahead)
        assert not lead.spend_request("agent_child", request, lifetime=60)


@SQLITE
def test_an_unfit_request_is_refused(lead: Agent) -> None:
    """A parent that is no name, or a lifetime that is none."""
    with pytest.raises(InvalidUsername, match="parent"):
        lead.spend_request("Agent", b"c" * 32)
    for lifetime in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="lifetime"):
            lead.spend_request("agent_child", b"c" * 32, lifetime=lifetime)


@SQLITE
def test_the_command_line_issues_and_enrols(
    pipelit: Pipelit,
    lead: Agent,
    other: Pipelit,
    database_url: str,
    key: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One command prints the URI once; the other reads it from standard input, unseen."""
    monkeypatch.setenv("PIPELIT_DATABASE_URL", database_url)
    monkeypatch.setenv("FIELD_ENCRYPTION_KEY", key)
    shown = typed("agents", "peering", "agent_lead", "--domain", "there")
    assert shown.exit_code == 0
    uri = next(word for word in shown.output.split() if word.startswith("otpauth://"))
    other.users.enroll_peer(uri, name="agent_lead", domain="here")
    theirs = other.users.issue_peering("agent_child", domain="here").get_secret_value()
    made = typed("agents", "enroll", "agent_child", "--domain", "there", stdin=theirs + "\n")
    assert made.exit_code == 0
    assert secret_of(theirs) not in made.output
    asks(lead, other.agent("agent_child"))
    answers(other.agent("agent_child"), lead)
