"""A year of guessing by everybody, on each ledger, with the clock turned on.

The guessers are as fast as the limits allow: after each refusal they come back in the moment in
which they may. What they are told is what counts, so the numbers hold for the ledger, not for the
arithmetic in the policy.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pyotp
import pytest
from conftest import Clock
from internals import verify_person
from redis import Redis
from test_mfa import app_of

from pipelit_agents import Pipelit, VerificationPolicy
from pipelit_agents.errors import CodeRejected, PeerLocked, RateLimited
from pipelit_agents.ledger import redis, rules
from pipelit_agents.policy import FIRST_CODES, YEAR

# The SQL ledger is one on both databases; with --everywhere, this runs on PostgreSQL as well.
BACKENDS = ("sqlite", "redis")
PROMISED = 1e-3
DAY = 86_400.0
HALF_A_YEAR = 180 * DAY
# A code is good in three steps.
CHANCES = {"plain": 3e-6, "audience": 3e-8}

Attempt = Callable[[], Any]


class Guessers:
    """Everybody who guesses at one account.

    Args:
        clock: The clock of the ledger.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        # Whether they stop before the tenth failure in a row, and wait for somebody's right code.
        self.sly = False
        self.began = clock.now
        self.evaluated: Counter[str] = Counter()
        self.accepted: Counter[str] = Counter()
        # Failures in a row, by lane, and the most of them in the first half of the year.
        self.in_a_row: Counter[str] = Counter()
        self.most_in_a_row = 0
        self.longest_wait = 0.0
        # With how many secrets the last code was compared.
        self.secrets = 1
        # Who waits for a right code, by lane.
        self._waiting: defaultdict[str, list[tuple[float, int, str, Attempt, float]]]
        self._waiting = defaultdict(list)
        self._number = 0
        self._queue: list[tuple[float, int, str, Attempt, float]] = []

    def add(self, lane: str, attempt: Attempt, *, every: float = 0.0) -> None:
        """Lets somebody try from now on: guesses without end, or once in so many seconds."""
        self._number += 1
        heapq.heappush(self._queue, (self.clock.now, self._number, lane, attempt, every))

    def run(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Runs a year, and does something else each week."""
        day = self.began
        while self._queue:
            at, _, lane, attempt, every = heapq.heappop(self._queue)
            if at >= self.began + YEAR:
                continue
            self._number += 1
            self.clock.now = max(self.clock.now, at)
            while self.clock.now >= day + 7 * DAY:
                day += 7 * DAY
                meanwhile()
            if self.sly and self.in_a_row[lane] >= 9 and not lane.startswith("right"):
                self._waiting[lane].append((at, self._number, lane, attempt, every))
                continue
            again = self.clock.now + self._told(lane, attempt) + every
            heapq.heappush(self._queue, (again, self._number, lane, attempt, every))

    def _told(self, lane: str, attempt: Attempt) -> float:
        try:
            attempt()
        except CodeRejected:
            if lane.startswith("right"):
                return 0.0
            self.evaluated[lane] += self.secrets
            self.in_a_row[lane] += 1
            if self.clock.now < self.began + HALF_A_YEAR:
                self.most_in_a_row = max(self.most_in_a_row, self.in_a_row[lane])
            return 0.0
        except (RateLimited, PeerLocked) as error:
            self.longest_wait = max(self.longest_wait, error.retry_after)
            return float(error.retry_after)
        lane = lane.removeprefix("right ")
        self.accepted[lane] += 1
        self.in_a_row[lane] = 0
        for each in self._waiting.pop(lane, ()):
            heapq.heappush(self._queue, each)
        return 0.0

    def chance(self) -> float:
        """The chance that one of the evaluated guesses was right."""
        return sum(
            count * CHANCES["audience" if lane.startswith("audience") else "plain"]
            for lane, count in self.evaluated.items()
        )


@pytest.fixture
def pipelit(
    settings: dict[str, Any], clock: Clock, pytestconfig: pytest.Config
) -> Iterator[Pipelit]:
    """Two owners and a crowd of agents, some for each lane; in a long run, many for each."""
    crowd = 20 if pytestconfig.getoption("everywhere") else 8
    policy = VerificationPolicy(agents_per_owner=1000)
    with Pipelit(**settings, clock=clock, policy=policy) as made:
        for owner in ("alice", "bob"):
            made.users.create(owner)
        for number in range(crowd):
            owner = ("alice", "bob")[number % 2]
            made.users.create_agent(f"agent_{number}", owner=owner, purpose="guesses")
        made.users.create_agent("agent_peer", owner="alice", purpose="is guessed at")
        yield made


@pytest.fixture
def app(pipelit: Pipelit, clock: Clock) -> pyotp.TOTP:
    """Alice's app."""
    made = app_of(pipelit.mfa.enroll("alice"))
    pipelit.mfa.confirm("alice", made.at(clock()))
    clock.advance(60)
    return made


def crowd_of(pipelit: Pipelit) -> int:
    """How many agents guess."""
    return sum(each.username.removeprefix("agent_").isdigit() for each in pipelit.users.list())


def wrong(code: str) -> str:
    """A code that is wrong now."""
    return f"{(int(code) + 1) % 10 ** len(code):0{len(code)}d}"


def at_alice(
    pipelit: Pipelit, app: pyotp.TOTP, clock: Clock, code: Any = None, agents: int = 0
) -> Guessers:
    """A thief of her API key, resumes of graphs, and every agent, all at once."""
    guessers = Guessers(clock)
    code = code or (lambda: wrong(app.at(clock())))
    guessers.add("self", lambda: pipelit.mfa.verify("alice", code()))
    guessers.add("others", lambda: verify_person(pipelit, "alice", code(), own=False))
    for number in range(agents or crowd_of(pipelit)):
        agent = pipelit.agent(f"agent_{number}")
        guessers.add("others", lambda a=agent: a.verify_peer("alice", code(), kind="plain"))
        guessers.add(f"nothing {number}", lambda a=agent: a.verify_peer("alice", "00000000"))
    return guessers


def plain_lane(pipelit: Pipelit, number: int) -> str:
    """In which lane the plain codes of the peer count that an agent with this number verifies."""
    if number % 2 == 0:
        return "family"
    return f"plain {number}" if number // 2 < pipelit.policy.own_lanes else "others"


def at_the_peer(pipelit: Pipelit, clock: Clock, agents: int = 0) -> Guessers:
    """The peer's family, verifiers of another owner, known and unknown, and audience codes."""
    guessers, peer = Guessers(clock), pipelit.agent("agent_peer")
    for number in range(agents or crowd_of(pipelit)):
        agent = pipelit.agent(f"agent_{number}")
        if plain_lane(pipelit, number).startswith("plain"):
            agent.verify_peer("agent_peer", peer.totp_code().code, kind="plain")
            clock.advance(30)
        guessers.add(
            plain_lane(pipelit, number),
            lambda a=agent: a.verify_peer("agent_peer", wrong(peer.totp_code().code), kind="plain"),
        )
        guessers.add(
            f"audience {number}",
            lambda a=agent: a.verify_peer(
                "agent_peer", wrong(peer.totp_code(audience=a.username).code)
            ),
        )
    return guessers


def judge(guessers: Guessers, policy: VerificationPolicy, *, people: bool) -> None:
    """A year's guesses keep the promise, and are as many as the policy says."""
    for lane in [each for each in guessers.evaluated if each.startswith("nothing")]:
        del guessers.evaluated[lane]
    print(f"{guessers.evaluated.total()} guesses, {guessers.chance():.1e}")
    assert 0 < guessers.chance() < PROMISED
    assert guessers.chance() <= policy.chance_of_guessing(people=people)
    # NIST SP 800-63B: no more than a hundred failures in a row.
    assert guessers.most_in_a_row < 100
    assert guessers.longest_wait <= 30 * DAY


@pytest.mark.slow
def test_a_year_of_guessing_at_a_person(pipelit: Pipelit, app: pyotp.TOTP, clock: Clock) -> None:
    """Her own lane and that of strangers: 32 guesses each, and afterwards she is let in."""
    guessers = at_alice(pipelit, app, clock)
    guessers.run()
    judge(guessers, pipelit.policy, people=True)
    most = pipelit.policy.tries_in_a_year()
    assert {*guessers.evaluated} == {"self", "others"}
    assert all(most - 3 <= count <= most for count in guessers.evaluated.values())


@pytest.mark.slow
def test_a_year_of_guessing_at_an_agent(pipelit: Pipelit, clock: Clock) -> None:
    """Own lanes, strangers and a crowd of verifiers of audience codes."""
    guessers = at_the_peer(pipelit, clock)
    guessers.run()
    judge(guessers, pipelit.policy, people=False)
    most = pipelit.policy.tries_in_a_year()
    assert len(guessers.evaluated) == pipelit.policy.own_lanes + 2 + crowd_of(pipelit)
    assert all(most - 3 <= count <= most for count in guessers.evaluated.values())


@pytest.mark.slow
def test_a_year_of_guessing_between_her_own_right_codes(
    pipelit: Pipelit, app: pyotp.TOTP, clock: Clock
) -> None:
    """She shows right codes all day, in each lane; they forgive only so many guesses a year."""
    guessers = at_alice(pipelit, app, clock)
    guessers.sly = True
    for number, lane in enumerate(("self", "others")):
        # The two lanes show codes of different steps, as each is good once.
        guessers.add(
            f"right {lane}",
            lambda n=number, own=lane == "self": verify_person(
                pipelit, "alice", app.at(clock() + 30 * n), own=own
            ),
            every=(11 + number) * 3600.0,
        )
    guessers.run()
    judge(guessers, pipelit.policy, people=True)
    forgiven = pipelit.policy.forgiven_in_a_year("people")
    for lane in ("self", "others"):
        assert guessers.accepted[lane] > 10
        assert forgiven * 0.75 < guessers.evaluated[lane] <= forgiven + 32


@pytest.mark.everywhere
def test_a_year_of_guessing_between_an_agents_right_codes(pipelit: Pipelit, clock: Clock) -> None:
    """Four verifiers are shown right codes all day, of both kinds."""
    guessers, peer = at_the_peer(pipelit, clock), pipelit.agent("agent_peer")
    guessers.sly = True
    for number in range(4):
        agent = pipelit.agent(f"agent_{number}")
        every = (11 + number) * 3600.0
        plain = plain_lane(pipelit, number)
        guessers.add(
            f"right {plain}",
            lambda a=agent: a.verify_peer("agent_peer", peer.totp_code().code, kind="plain"),
            every=every + 61,
        )
        guessers.add(
            f"right audience {number}",
            lambda a=agent: a.verify_peer("agent_peer", peer.totp_code(audience=a.username).code),
            every=every,
        )
    guessers.run()
    judge(guessers, pipelit.policy, people=False)
    for number in range(4):
        assert guessers.evaluated[f"audience {number}"] > 35


@pytest.mark.everywhere
@pytest.mark.backends("sqlite", "redis")
def test_a_year_of_guessing_by_ever_new_accounts(pipelit: Pipelit, clock: Clock) -> None:
    """New agents share the lane of strangers, and bring one lane each for audience codes."""
    guessers, peer = at_the_peer(pipelit, clock), pipelit.agent("agent_peer")
    made = weeks = 0

    def fresh(kind: Any) -> Attempt:
        nonlocal made
        made += 1
        name = f"agent_new_{made}"
        pipelit.users.create_agent(name, owner="bob", purpose="guesses")

        def guess() -> None:
            audience = name if kind == "audience" else None
            code = wrong(peer.totp_code(audience=audience).code)
            pipelit.agent(name).verify_peer("agent_peer", code, kind=kind)

        return guess

    def meanwhile() -> None:
        # Others come every three weeks, and those of before go on.
        nonlocal weeks
        weeks += 1
        if weeks % 3:
            return
        guessers.add("others", fresh("plain"))
        guessers.add(f"audience new {made}", fresh("audience"))

    guessers.run(meanwhile)
    judge(guessers, pipelit.policy, people=False)
    assert made > 30


@pytest.mark.backends("redis")
def test_a_year_of_guessing_at_a_person_who_is_unlocked_and_enrolled_again_and_again(
    pipelit: Pipelit, app: pyotp.TOTP, clock: Clock
) -> None:
    """Unlocks and new factors forgive what right codes may forgive, and no guess more."""
    apps, weeks = [app], 0

    def meanwhile() -> None:
        nonlocal weeks
        weeks += 1
        guessers.in_a_row.clear()
        if weeks % 2:
            pipelit.users.unlock("alice")
        else:
            pipelit.mfa.reset("alice")
            apps.append(app_of(pipelit.mfa.enroll("alice")))
            # Her locked lane doesn't keep her from turning it on.
            assert len(pipelit.mfa.confirm("alice", apps[-1].at(clock()))) == 10

    guessers = at_alice(pipelit, app, clock, lambda: wrong(apps[-1].at(clock())), agents=2)
    guessers.run(meanwhile)
    judge(guessers, pipelit.policy, people=True)
    assert len(apps) > 20
    for lane in ("self", "others"):
        assert guessers.evaluated[lane] > pipelit.policy.forgiven_in_a_year("people") * 0.75
    # A recovery code works in the place of a locked lane.
    with pytest.raises(PeerLocked):
        pipelit.mfa.verify("alice", apps[-1].at(clock()))
    pipelit.mfa.reset("alice")
    app = app_of(pipelit.mfa.enroll("alice"))
    codes = pipelit.mfa.confirm("alice", app.at(clock()))
    assert pipelit.mfa.verify("alice", codes[0].get_secret_value()).kind == "recovery"


@pytest.mark.slow
@pytest.mark.backends("sqlite")
def test_a_year_of_guessing_at_an_agent_that_is_unlocked_and_rotated_again_and_again(
    pipelit: Pipelit, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while an overlap never ends, in which a guess may hit the code of either secret."""
    guessers = at_the_peer(pipelit, clock, agents=6)

    compared = rules.compared

    def seen(*given: Any) -> Any:
        nonlocal both
        found = compared(*given)
        guessers.secrets = found[1]
        both += found[1] == 2
        return found

    both = 0
    for module in (rules, redis):
        monkeypatch.setattr(module, "compared", seen)

    def meanwhile() -> None:
        guessers.in_a_row.clear()
        pipelit.users.unlock("agent_peer")
        pipelit.users.rotate_totp("agent_peer", overlap=timedelta(days=7))

    guessers.run(meanwhile)
    judge(guessers, pipelit.policy, people=False)
    assert both
    for lane in ("family", "plain 1", "others"):
        assert guessers.evaluated[lane] > pipelit.policy.forgiven_in_a_year("plain") * 0.75


@pytest.mark.slow
@pytest.mark.backends("sqlite")
def test_a_year_of_guessing_at_first_codes(pipelit: Pipelit, clock: Clock) -> None:
    """She is enrolled again and again, and somebody types first codes; then she turns it on."""
    began, evaluated = clock(), 0
    for _ in range(int(YEAR / (14 * DAY)) + 1):
        app = app_of(pipelit.mfa.enroll("alice"))
        for _ in range(5):
            try:
                pipelit.mfa.confirm("alice", wrong(app.at(clock())))
            except CodeRejected:
                evaluated += 1
            except PeerLocked as error:
                wait = error.retry_after
                break
        clock.advance(14 * DAY)
        # Nor do these bring any back.
        pipelit.users.unlock("alice")
        pipelit.mfa.reset("alice")
    assert FIRST_CODES * 0.75 < evaluated <= FIRST_CODES
    assert clock() - began >= YEAR
    people = pipelit.policy.chance_of_guessing(people=True)
    lanes = 2 * (pipelit.policy.forgiven_in_a_year("people") + pipelit.policy.tries_in_a_year())
    assert people == pytest.approx((lanes + FIRST_CODES) * CHANCES["plain"])
    assert 0 < wait < 34 * DAY
    clock.advance(34 * DAY)
    app = app_of(pipelit.mfa.enroll("alice"))
    assert len(pipelit.mfa.confirm("alice", app.at(clock()))) == 10


@pytest.mark.everywhere
@pytest.mark.backends("redis")
def test_a_year_of_guessing_with_a_redis_that_is_flushed_each_week(
    pipelit: Pipelit, app: pyotp.TOTP, clock: Clock, redis_url: str
) -> None:
    """What Redis forgets, SQL knows: no lane gets more than a few guesses more."""
    with Redis.from_url(redis_url) as forgetting:
        for people in (True, False):
            guessers = at_alice(pipelit, app, clock) if people else at_the_peer(pipelit, clock)
            guessers.run(lambda: forgetting.flushall() and None)
            judge(guessers, pipelit.policy, people=people)
            most = pipelit.policy.tries_in_a_year()
            assert all(count <= most for count in guessers.evaluated.values())
