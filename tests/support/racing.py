"""A crowd of processes and threads that all act at one moment: the runners of ``test_races.py``."""

from __future__ import annotations

import multiprocessing
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import httpx

from pipelit_agents import Agent, Pipelit, VerificationPolicy
from pipelit_agents.credentials.scope import Scope
from pipelit_agents.errors import PipelitError

PROCESSES = 8
# What the library imports when it is used.
USED_LATER = ["psycopg", "redis", "sqlalchemy.dialects.postgresql.psycopg"]
THREADS = 25


@dataclass(frozen=True)
class Outcome:
    """What a runner was handed: ``ok`` and a value, or an exception's name and its words."""

    name: str
    value: Any


def outcome(call: Callable[[], Any]) -> Outcome:
    """What comes of a call; what the library doesn't raise on purpose comes with its traceback."""
    try:
        return Outcome("ok", call())
    except PipelitError as error:
        return Outcome(type(error).__name__, str(error))
    except BaseException:
        return Outcome("surprise", traceback.format_exc())


class Crowd:
    """Processes that wait for something to do; each has a ``Pipelit`` and threads of its own."""

    def __init__(self) -> None:
        # Forked from one that has imported the library, which takes seconds, and has done nothing
        # else.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__, *USED_LATER])
        # Kept, because its semaphores end with it.
        self._together = context.Barrier(PROCESSES)
        self._pipes = []
        self._processes = []
        for _ in range(PROCESSES):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there, self._together), daemon=True)
            process.start()
            there.close()
            self._pipes.append(here)
            self._processes.append(process)

    def race(
        self,
        settings: dict[str, Any],
        policy: VerificationPolicy,
        job: Callable[..., Any],
        arguments: Sequence[tuple[Any, ...]],
    ) -> list[Outcome]:
        """Runs a job of this module in as many threads as there are arguments, all at once."""
        for number, pipe in enumerate(self._pipes):
            pipe.send((settings, policy, job, arguments[number::PROCESSES]))
        return [each for pipe in self._pipes for each in pipe.recv()]

    def close(self) -> None:
        """Ends the processes."""
        for pipe in self._pipes:
            pipe.send(None)
            pipe.close()
        for process in self._processes:
            process.join()


def _serve(pipe: Any, together: Any) -> None:
    opened: tuple[Any, Any] = (None, None)
    pipelit: Any = None
    while (asked := pipe.recv()) is not None:
        settings, policy, job, arguments = asked
        if opened != (settings, policy):
            if pipelit is not None:
                pipelit.close()
            pipelit, opened = Pipelit(**settings, policy=policy), (settings, policy)
        pipe.send(_run(pipelit, job, arguments, together))
    if pipelit is not None:
        pipelit.close()


def _run(
    pipelit: Pipelit, job: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], together: Any
) -> list[Outcome]:
    go = threading.Event()
    found: list[Outcome] = []

    def run(mine: tuple[Any, ...]) -> None:
        go.wait()
        found.append(outcome(lambda: job(pipelit, *mine)))

    threads = [threading.Thread(target=run, args=(each,)) for each in arguments]
    for each in threads:
        each.start()
    together.wait()
    go.set()
    for each in threads:
        each.join()
    return found


# Jobs


def verify(pipelit: Pipelit, verifier: str, peer: str, code: str, kind: Any) -> int:
    """Verifies once; the step."""
    return pipelit.agent(verifier).verify_peer(peer, code, kind=kind).step


def log_in(pipelit: Pipelit, name: str) -> int:
    """Logs in to another service, and doesn't wait until its code is valid; the HTTP status."""
    scope = Scope()
    secrets, public = pipelit.credentials.open_in(scope, name)
    codes, _ = pipelit.credentials.open_in(scope, f"{name}:code", wait=False)
    form = {"password": secrets["password"], "code": codes["totp"]}
    sent = {key: each.get_secret_value() for key, each in form.items()}
    return httpx.post(public["url"], data=sent, trust_env=False, timeout=60).status_code


def create(pipelit: Pipelit, name: str, owner: str) -> str:
    """Makes an agent."""
    return pipelit.users.create_agent(name, owner=owner, purpose="takes part").username


def provision(pipelit: Pipelit, name: str, owner: str) -> tuple[str, bool]:
    """Lets an agent make an agent; whether it was made by this call."""
    made = pipelit.provision_agent(pipelit.agent(owner), purpose="takes part", username=name)
    return made.username, made.created


def come_and_go(pipelit: Pipelit, seed: int, times: int) -> Counter[str]:
    """Makes agents under anybody who may have some, and ends agents; what came of it."""
    random = Random(seed)  # noqa: S311 - repeatable, and nothing secret
    seen: Counter[str] = Counter()
    for number in range(times):
        name = f"agent_{seed}_{number}"
        living = [each for each in pipelit.users.list() if each.active]
        owner = random.choice([each for each in living if each.kind == "human"] + living).username
        agents = [each.username for each in living if each.kind == "agent"]
        gone = random.choice(agents or ["agent_nobody"])
        act: Callable[[], Any] = random.choice(
            [
                lambda name=name, owner=owner: create(pipelit, name, owner),
                lambda name=name, owner=owner: create(pipelit, name, owner),
                lambda name=name, owner=owner: provision(pipelit, name, owner),
                lambda owner=owner: provision(pipelit, f"{owner}_shared", owner),
                lambda gone=gone: pipelit.users.deactivate(gone),
            ]
        )
        done = outcome(act)
        seen[done.value if done.name == "surprise" else done.name] += 1
    return seen


def soak(
    pipelit: Pipelit, seed: int, names: Sequence[str], times: int
) -> tuple[Counter[tuple[str, ...]], list[tuple[str, ...]]]:
    """Verifies agents at random; what was handed out as (actor, subject, action, outcome).

    And each code that was accepted, named by who it can be spent by, and its step.
    """
    random = Random(seed)  # noqa: S311 - repeatable, and nothing secret
    handed: Counter[tuple[str, ...]] = Counter()
    accepted: list[tuple[str, ...]] = []
    for _ in range(times):
        verifier, peer = (pipelit.agent(each) for each in random.sample(names, 2))
        dice = random.random()
        if dice < 0.01:
            pipelit.users.unlock(peer.username)
            handed["operator", peer.username, "user.unlock", "ok"] += 1
        elif dice < 0.1:
            done = outcome(lambda v=verifier, p=peer: _prove(v, p))
            handed[verifier.username, peer.username, "verify.proof", _said(done)] += 1
        else:
            plain = random.random() < 0.3
            code = peer.totp_code(audience=None if plain else verifier.username).code
            if dice > 0.8:
                code = f"{(int(code) + 1) % 10 ** len(code):0{len(code)}d}"
            kind = "plain" if plain else "audience"
            who = (pipelit, verifier.username, peer.username, code, kind)
            done = outcome(lambda who=who: verify(*who))
            handed[verifier.username, peer.username, f"verify.{kind}", _said(done)] += 1
            if done.name == "ok":
                spender = "" if plain else verifier.username
                accepted.append((peer.username, spender, str(done.value)))
    return handed, accepted


def _prove(verifier: Agent, peer: Agent) -> None:
    challenge = verifier.challenge(peer.username)
    proof = peer.prove(challenge.value, b"answer", verifier=verifier.username)
    verifier.verify_proof(proof, challenge=challenge, payload=b"answer")


def _said(done: Outcome) -> str:
    # The words of what isn't expected shall be seen.
    expected = ("ok", "CodeRejected", "RateLimited", "PeerLocked")
    return done.name if done.name in expected else f"{done.name}: {done.value}"
