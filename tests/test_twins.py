"""Async twins: every method that waits has one, and it does the same off the event loop."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from internals import database_of
from services import services_of, takes_transaction

from pipelit_agents import (
    Agent,
    ApprovalNotices,
    ApprovalRegister,
    AuditEntry,
    Credentials,
    Pipelit,
)
from pipelit_agents.approvals.calls import CallApprovals
from pipelit_agents.errors import CodeRejected, UserNotFound

BACKENDS = True
# What opens nothing, or is no single call; in these classes and those that they derive from.
ALONE = {
    Agent: {"challenge", "is_of", "now", "note_refusal"},
    Credentials: {
        "inject",
        "tool",
        "guard",
        "http_auth",
        "reveal",
        "areveal",
        "open_in",
        "note_refusal",
    },
    Pipelit: {"from_env", "agent", "acting_for", "checkpoint_serializer", "sealed_saver"},
}


def kinds() -> list[type]:
    """Every class with methods that users call, also those that a service derives from."""
    services = services_of(Pipelit(database_url="sqlite://", encryption_keys=[]))
    derived = [each for made in services.values() for each in inspect.getmro(type(made))[:-1]]
    more = [Agent, ApprovalNotices, ApprovalRegister, CallApprovals, Pipelit]
    return list(dict.fromkeys([*derived, *more]))


@pytest.mark.parametrize("kind", kinds())
def test_every_method_that_waits_has_a_twin(kind: type) -> None:
    """It has the same parameters, is a coroutine function, and says what it is the twin of."""
    public = {
        name: found
        for name, found in vars(kind).items()
        if inspect.isfunction(found) and not name.startswith("_")
    }
    waiting = {name for name, found in public.items() if not inspect.iscoroutinefunction(found)}
    waiting -= {name for name, found in public.items() if takes_transaction(found)}
    waiting -= {name for each, alone in ALONE.items() if issubclass(each, kind) for name in alone}
    for name in waiting:
        twin: Any = public[f"a{name}"]
        assert inspect.iscoroutinefunction(twin)
        assert inspect.signature(twin) == inspect.signature(public[name])
        assert twin.__doc__ == f"As ``{name}``, off the event loop."
        assert twin.__qualname__ == f"{kind.__name__}.a{name}"


async def test_the_twins_do_the_same(pipelit: Pipelit) -> None:
    """A life of accounts, codes, proofs and credentials, without blocking the loop."""
    users, credentials = pipelit.users, pipelit.credentials
    await pipelit.acreate_schema()
    bob = await users.acreate("bob")
    for name in ("agent_a", "agent_b"):
        await users.acreate_agent(name, owner="bob", purpose="takes part")
    assert await pipelit.acheck_key() is True
    assert (await users.aauthenticate(bob.api_key.get_secret_value())).username == "bob"
    key = await users.aissue_api_key("bob", name="second")
    await users.arevoke_api_key(key.id)
    assert {each.name for each in await users.alist_api_keys("bob")} == {"first key", "second"}
    a, b = pipelit.agent("agent_a"), pipelit.agent("agent_b")
    await a.arequire_active()
    code = (await a.atotp_code(audience="agent_b")).code
    await b.averify_peer("agent_a", code)
    with pytest.raises(CodeRejected):
        await b.averify_peer("agent_a", code)
    challenge = b.challenge("agent_a")
    proof = await a.aprove(challenge.value, b"answer", verifier="agent_b")
    await b.averify_proof(proof, challenge=challenge, payload=b"answer")
    asked = b.challenge("agent_a")
    request = await a.aprove_request(asked.value, b"do it", verifier="agent_b")
    await b.averify_request(request, challenge=asked, request=b"do it")
    assert (await pipelit.aprovision_agent(a, purpose="helps", username="agent_c")).created
    await users.arotate_totp("agent_b")
    await users.aunlock("agent_b")
    assert "agent_c" in await users.adeactivate("agent_a")
    assert (await users.aget("agent_a")).active is False
    assert len(await users.alist(owner="bob")) == 4
    await credentials.aput("openai", "sk-0123456789ab", kind="llm", created_by="bob")
    assert (await credentials.aget("openai")).masked == "…89ab"
    assert [each.name for each in await credentials.alist(kind="llm")] == ["openai"]
    await credentials.adelete("openai")
    entries = await pipelit.audit.alist(limit=1)
    assert [type(each) for each in entries] == [AuditEntry]
    with pytest.raises(UserNotFound):
        await users.aget("nobody")


async def test_a_pipelit_closes_at_the_end_of_a_block(settings: dict[str, Any]) -> None:
    """``async with`` closes the connections, also when the block fails."""
    kept: list[Pipelit] = []

    async def work() -> None:
        async with Pipelit(**settings) as pipelit:
            kept.append(pipelit)
            await pipelit.acreate_schema()
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await work()
    assert database_of(kept[0])._opened is None
