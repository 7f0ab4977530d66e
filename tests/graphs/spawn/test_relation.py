"""Under which peering a served child proves its answer: the one of whoever asks, and no other."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterator
from pathlib import Path
from shutil import copyfile
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from conftest import Clock
from spawning import NAME, Work, b64, graph_of

from pipelit_agents import Agent, Challenge, Keyring, Pipelit, Proof
from pipelit_agents.errors import InvalidUsername, ProofRejected, RequestRefused
from pipelit_agents.graphs import ANYONE, Envelope, VerifiedChild, verified_child
from pipelit_agents.graphs.codec import state_to_bytes

PAYLOAD = state_to_bytes({"q": "x"})


class World:
    """A child's domain, and two domains whose agents of one name are its parents' peers."""

    def __init__(self, research: Pipelit, acme: Pipelit, evil: Pipelit) -> None:
        self.research, self.acme, self.evil = research, acme, evil
        self.ran: list[Any] = []
        self.child = research.agent(NAME)
        self.relations = {}
        for domain, there, name in (
            ("acme", acme, "agent_lead"), ("evil", evil, "agent_boss")
        ):  # fmt: skip
            uri = research.users.issue_peering(NAME, domain=domain)
            there.users.enroll_peer(uri, name=NAME, domain="research")
            self.relations[domain] = parse_qs(urlsplit(uri.get_secret_value()).query)["relation"][0]
            asks = there.users.issue_peering(name, domain="research")
            research.users.enroll_peer(asks, name=name, domain=domain)

    def served(self, accept_from: Any = ("agent_lead", "agent_boss", "agent_own")) -> VerifiedChild:
        """The child, as a server has it."""

        def work(state: Work) -> Work:
            self.ran.append(state)
            return {"a": "done"}

        return verified_child(graph_of(work), self.child, accept_from=accept_from)


@pytest.fixture
def world(pipelit: Pipelit, migrated_file: Path, tmp_path: Path, clock: Clock) -> Iterator[World]:
    """Three domains."""
    pipelit.users.create_agent(NAME, owner="alice", purpose="works")
    pipelit.users.create_agent("agent_own", owner="alice", purpose="asks here")
    made = []
    for domain, name in (("acme", "agent_lead"), ("evil", "agent_boss")):
        file = tmp_path / domain / "agents.db"
        file.parent.mkdir(mode=0o700)
        copyfile(migrated_file, file)
        file.chmod(0o600)
        url = f"sqlite:///{file}"
        made.append(
            Pipelit(database_url=url, encryption_keys=[Keyring.generate_key()], clock=clock)
        )
        made[-1].users.create("owner")
        made[-1].users.create_agent(name, owner="owner", purpose="asks")
    yield World(pipelit, *made)
    for each in made:
        each.close()


def request(
    parent: Agent, relation: str, *, said: str | None = None, under: str | None = None
) -> dict[str, Any]:
    """A request that names a relation; it may say another on its way, and be proven under one."""
    challenge = secrets.token_bytes(32)
    made = parent.prove_request(
        challenge, PAYLOAD, verifier=NAME, depth=1, relation=under, answer_relation=relation
    )
    return {
        "parent": parent.username,
        "challenge": b64(challenge),
        "depth": 1,
        "payload": b64(PAYLOAD),
        "proof": {"step": made.step, "value": made.value},
        "relation": relation if said is None else said,
    }


async def ask(world: World, given: dict[str, Any], **child: Any) -> Envelope:
    """What the served child answers, asked sync and async in turn; both say the same."""
    served = world.served(**child)
    return Envelope.from_wire(await served.ainvoke({"request": given}))


async def refused(world: World, given: dict[str, Any], reason: str, **child: Any) -> None:
    """It is refused before any node runs, sync and async, and the audit says why."""
    served = world.served(**child)
    with pytest.raises(RequestRefused):
        served.invoke({"request": given})
    with pytest.raises(RequestRefused):
        await served.ainvoke({"request": given})
    assert not world.ran
    rows = world.research.audit.list(action="verify.request", outcome="refused")[-2:]
    assert [row.reason for row in rows] == [reason] * 2


@pytest.mark.backends("sqlite", "postgres")
async def test_a_parent_names_its_own_domains_relation(world: World) -> None:
    """Each peer's answer is proven under its own peering, and verifies there."""
    for pipelit, name, domain in (
        (world.acme, "agent_lead", "acme"), (world.evil, "agent_boss", "evil")
    ):  # fmt: skip
        lead = pipelit.agent(name)
        given = request(lead, world.relations[domain])
        envelope = await ask(world, given)
        challenge = Challenge(
            base64.urlsafe_b64decode(given["challenge"] + "="),
            prover=NAME,
            verifier=name,
            issued_at=lead.now(),
            expires_at=lead.now() + 60,
        )
        proof = Proof(NAME, name, envelope.step, envelope.proof)
        assert lead.verify_proof(
            proof, challenge=challenge, payload=envelope.payload, request=PAYLOAD, depth=1
        )


async def test_a_relation_that_was_swapped_on_its_way_is_refused(world: World) -> None:
    """A proxy can name no other, and none, in a request that somebody else proved."""
    lead = world.acme.agent("agent_lead")
    for said in (world.relations["evil"], "", "f" * 32):
        given = request(lead, world.relations["acme"], said=said)
        await refused(world, given, "wrong proof")
    own = world.research.agent("agent_own")
    await refused(world, request(own, "", said=world.relations["acme"]), "wrong proof")


async def test_a_peer_names_no_other_domains_relation(world: World) -> None:
    """However well it proves its request: another domain's, none at all, and one that isn't."""
    boss = world.evil.agent("agent_boss")
    for relation in (world.relations["acme"], "", "f" * 32):
        await refused(world, request(boss, relation), "relation of another domain")


async def test_a_parent_of_the_own_domain_names_none(world: World) -> None:
    """Its answers are proven under the child's own secret."""
    own = world.research.agent("agent_own")
    assert (await ask(world, request(own, ""))).kind == "result"
    world.ran.clear()
    for relation in world.relations.values():
        await refused(world, request(own, relation), "relation of another domain")


async def test_a_child_for_anyone_keeps_to_it_where_it_knows_the_parent(world: World) -> None:
    """A name that it knows is given that name's relation alone; a name that it doesn't, any."""
    boss, own = world.evil.agent("agent_boss"), world.research.agent("agent_own")
    for parent, relation in (
        (boss, world.relations["acme"]), (boss, ""), (own, world.relations["acme"])
    ):  # fmt: skip
        given = request(parent, relation)
        await refused(world, given, "relation of another domain", accept_from=ANYONE)
    world.acme.users.create_agent("agent_new", owner="owner", purpose="asks")
    new = request(world.acme.agent("agent_new"), world.relations["acme"], under="")
    assert (await ask(world, new, accept_from=ANYONE)).kind == "result"


async def test_a_peer_that_was_issued_nothing_names_none(world: World) -> None:
    """Enrolled by the child's own URI, its domain has the child's own secret to check with."""
    world.acme.users.create_agent("agent_plain", owner="owner", purpose="asks")
    uri = world.acme.users.issue_peering("agent_plain", domain="other")
    world.research.users.enroll_peer(uri, name="agent_plain", domain="plain")
    plain = world.acme.agent("agent_plain")
    issued = parse_qs(urlsplit(uri.get_secret_value()).query)["relation"][0]
    given = request(plain, "", under=issued)
    assert (await ask(world, given, accept_from=["agent_plain"])).kind == "result"
    world.ran.clear()
    given = request(plain, world.relations["acme"], under=issued)
    await refused(world, given, "relation of another domain", accept_from=["agent_plain"])


@pytest.mark.parametrize("relation", [None, 5, "x", "F" * 32, "f" * 31, "f" * 32 + "\n", b"f" * 32])
def test_a_relation_has_one_form(world: World, relation: Any) -> None:
    """What is no peering's id is refused where it is given."""
    lead = world.acme.agent("agent_lead")
    with pytest.raises(ValueError, match="answer_relation"):
        lead.prove_request(b"c" * 32, b"", verifier=NAME, answer_relation=relation)
    challenge = world.child.challenge("agent_lead")
    proof = Proof("agent_lead", NAME, 1, "0" * 64)
    with pytest.raises(ValueError, match="answer_relation"):
        world.child.verify_request(
            proof, challenge=challenge, request=b"", answer_relation=relation
        )
    assert challenge.spend()


@pytest.mark.slow
def test_a_request_for_one_relation_is_none_for_another(world: World) -> None:
    """The relation is part of the bytes under the MAC, by either call."""
    lead, named = world.acme.agent("agent_lead"), world.relations["acme"]
    for proven, checked in (("", named), (named, ""), (named, world.relations["evil"])):
        challenge = world.child.challenge("agent_lead")
        proof = lead.prove_request(challenge.value, b"do", verifier=NAME, answer_relation=proven)
        with pytest.raises(ProofRejected):
            world.child.verify_request(
                proof, challenge=challenge, request=b"do", answer_relation=checked
            )
    with pytest.raises(InvalidUsername):
        world.child.relation_to("Agent_Lead")
