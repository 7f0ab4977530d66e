"""Send many requests a second to a desk, right ones and wrong ones, and see what became of each.

``make load`` runs it as a program: a desk in a process of its own, 50 clients, 500 requests a
second for 20 seconds. It prints how long the valid ones took, each from the moment it was due.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from pipelit_agents import Pipelit

# Seconds. A request that isn't answered within it is lost.
PATIENCE = 30.0
# Of the clients, those that only try wrong keys.
GUESSERS = 5
PROBLEM = "application/problem+json"


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> object:
        """Return the body of a JSON answer."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Call:
    """A request, and what its answer has to be.

    Attributes:
        name: What it is, for messages.
        method: Its method.
        path: Its path, with the query. ``{}`` is replaced by the number of the request.
        headers: Its headers, without ``Host`` and ``Content-Length``.
        body: Its body; ``{}`` is replaced too.
        right: The statuses that are right.
        holds: What else has to hold of the answer.
        valid: Whether it is a request that should be served.
    """

    name: str
    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    right: tuple[int, ...] = (200,)
    holds: Callable[[Answer], bool] = lambda _: True
    valid: bool = True

    def bytes(self, host: str, number: int) -> bytes:
        """Return the request as it is sent."""
        body = self.body.replace("{}", str(number)).encode()
        named = {"Host": host} | dict(self.headers)
        if body:
            named |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
        lines = [f"{self.method} {self.path.replace('{}', str(number))} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in named.items()]
        return "\r\n".join([*lines, "", ""]).encode() + body

    def is_right(self, answer: Answer) -> bool:
        """Whether the answer is what it has to be."""
        return answer.status in self.right and self.holds(answer)


@dataclass
class Found:
    """What became of the requests.

    Attributes:
        sent: How many were sent.
        statuses: How many answers had each status.
        lost: What happened to those without an answer, and how often.
        wrong: Answers that aren't right: the request's name, the status and the body.
        took: How long each valid request took, seconds.
        refused: Whether a connection was refused: the desk is gone.
    """

    sent: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    wrong: list[tuple[str, int, bytes]] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    refused: bool = False

    def percentile(self, percent: float) -> float:
        """Return how long valid requests took, in seconds."""
        ordered = sorted(self.took)
        return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)] if ordered else math.nan


class _Connection:
    """A connection that is opened again when the server has closed it."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> Answer:
        """Send a request and read its answer.

        Raises:
            ConnectionError: The server closed the connection before it had answered.
        """
        if self._streams is not None and self._streams[0].at_eof():
            # A server may close an idle connection between two requests.
            self.close()
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        try:
            writer.write(request)
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError as error:
                raise ConnectionError(f"closed after {len(error.partial)} bytes") from None
            answer = await _read(head, reader)
        except BaseException:
            self.close()
            raise
        if answer.headers.get("connection", "").lower() == "close":
            self.close()
        return answer

    def close(self) -> None:
        """Close it."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def _read(head: bytes, reader: asyncio.StreamReader) -> Answer:
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    headers = {}
    for each in lines:
        name, _, value = each.partition(":")
        headers[name.lower()] = value.strip()
    status = int(first.split()[1])
    if "chunked" in headers.get("transfer-encoding", ""):
        body = b""
        while size := int((await reader.readline()).split(b";")[0], 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readexactly(2)
    else:
        try:
            body = await reader.readexactly(int(headers.get("content-length", "0")))
        except asyncio.IncompleteReadError as error:
            raise ConnectionError(f"closed after {len(error.partial)} bytes of a body") from None
    return Answer(status, headers, body)


async def send(
    url: str,
    calls: Sequence[Call],
    *,
    clients: int,
    seconds: float,
    rate: float = math.inf,
    first: int = 0,
    answered: Callable[[Call, int], object] = lambda _call, _number: None,
) -> Found:
    """Send requests in turn from clients that share them.

    Args:
        url: The desk's address.
        calls: The requests; the next client sends the next one.
        clients: How many clients there are, each with one connection.
        seconds: For how long requests are due.
        rate: How many are due each second. One that is late is still sent, and its time counts from
            when it was due. Infinite: each client sends when it has its answer.
        first: The number of the first request.
        answered: Called with each request that was answered as it should be, and its number.

    When a connection is refused, all end, because the desk is gone.
    """
    parts = urlsplit(url)
    host, port = str(parts.hostname), int(parts.port or 80)
    found = Found()
    turns = enumerate(cycle(calls), first)
    loop = asyncio.get_running_loop()
    begun = loop.time()

    async def client(number: int) -> None:
        connection = _Connection(host, port)
        each = clients / rate
        due = begun + each * number / clients if math.isfinite(rate) else begun
        try:
            while due < begun + seconds and not found.refused:
                await asyncio.sleep(max(0.0, due - loop.time()))
                at, call = next(turns)
                # Who sends without a rate is never late.
                begin = due if math.isfinite(rate) else loop.time()
                if await _one(connection, call, call.bytes(parts.netloc, at), begin, found):
                    answered(call, at)
                due = due + each if math.isfinite(rate) else loop.time()
        finally:
            connection.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    return found


async def _one(
    connection: _Connection, call: Call, request: bytes, due: float, found: Found
) -> bool:
    """Send one request, note what became of it, and return whether it was answered rightly."""
    found.sent += 1
    try:
        async with asyncio.timeout(PATIENCE):
            answer = await connection.ask(request)
    except (OSError, TimeoutError) as error:
        found.lost[f"{call.name}: {type(error).__name__}: {error}"] += 1
        found.refused |= isinstance(error, ConnectionRefusedError)
        return False
    found.statuses[answer.status] += 1
    if call.valid:
        found.took.append(asyncio.get_running_loop().time() - due)
    right = call.is_right(answer)
    if not right and len(found.wrong) < 100:
        found.wrong.append((call.name, answer.status, answer.body[:300]))
    return right


def bearer(key: str) -> dict[str, str]:
    """Return the header of a key."""
    return {"Authorization": f"Bearer {key}"}


def mixed(operator: str, member: str, name: str) -> list[Call]:
    """Return valid and invalid requests as they come to a desk, seven of ten valid.

    Args:
        operator: The key of an operator.
        member: The key of a member.
        name: The member's username.
    """
    api = "/api/v1"
    boss, hers = bearer(operator), bearer(member)
    bad = {"valid": False, "holds": _is_a_problem}
    value = '{"kind": "token", "value": "a value of request {}"}'
    whose = {"holds": lambda answer: answer.json()["username"] == name}
    return [
        Call("me", "GET", f"{api}/me", hers, **whose),
        Call("no key", "GET", f"{api}/me", right=(401,), **bad),
        Call("users", "GET", f"{api}/users?limit=20", boss),
        Call("put", "PUT", f"{api}/credentials/own/load-{{}}", hers, value, right=(200, 201)),
        Call("no host", "GET", f"{api}/me", hers | {"Host": "evil.example"}, right=(400,), **bad),
        Call("credentials", "GET", f"{api}/credentials?limit=20", hers),
        Call("approvals", "GET", f"{api}/approvals", hers),
        Call("forbidden", "GET", f"{api}/audit", hers, right=(403,), **bad),
        Call("overview", "GET", f"{api}/overview", hers),
        Call("health", "GET", "/health"),
        Call("me", "GET", f"{api}/me", hers, **whose),
        Call("no JSON", "POST", f"{api}/users", boss, "{", right=(400, 422), **bad),
        Call("audit", "GET", f"{api}/audit?limit=20", boss),
        Call("unknown", "GET", f"{api}/users/nobody-{{}}", boss, right=(404,), **bad),
        Call("user", "GET", f"{api}/users/{name}", boss, **whose),
        Call("page", "GET", "/", holds=lambda answer: b"<html" in answer.body),
        Call("no such path", "GET", f"{api}/none", boss, right=(404,), **bad),
        Call("me", "GET", f"{api}/me", hers, **whose),
        Call("keys", "GET", f"{api}/users/{name}/keys", hers),
        Call("users", "GET", f"{api}/users?limit=20", hers),
    ]


def guesses() -> list[Call]:
    """Return requests with wrong keys. The desk delays their refusals, and only theirs."""
    keys = [f"plit_{'0' * 12}_{'A' * 43}", "plit_4711", "x" * 300]
    wrong = {"right": (401, 429), "valid": False, "holds": _is_a_problem}
    return [Call("guess", "GET", "/api/v1/users", bearer(each), **wrong) for each in keys]


async def send_with_guessers(
    url: str, calls: Sequence[Call], *, clients: int, guessers: int, seconds: float, **options: Any
) -> tuple[Found, Found]:
    """Send requests while other clients of the same address try wrong keys.

    Returns:
        What became of the requests, and of the guesses.
    """
    async with asyncio.TaskGroup() as group:
        sent = group.create_task(send(url, calls, clients=clients, seconds=seconds, **options))
        guessed = group.create_task(send(url, guesses(), clients=guessers, seconds=seconds))
    return sent.result(), guessed.result()


def _is_a_problem(answer: Answer) -> bool:
    return answer.headers.get("content-type") == PROBLEM


def people(pipelit: Pipelit) -> list[Call]:
    """Create an operator, a member with some agents, and return their requests, mixed."""
    boss = pipelit.users.create("boss").api_key
    hers = pipelit.users.create("mary").api_key
    for number in range(20):
        pipelit.users.create_agent(f"agent_{number}", owner="mary", purpose="takes part")
    return mixed(boss.get_secret_value(), hers.get_secret_value(), "mary")


def _report(found: Found, seconds: float) -> list[str]:
    lines = [f"{found.sent} requests, {found.sent / seconds:.0f} a second"]
    statuses = (f"{status}: {count}" for status, count in sorted(found.statuses.items()))
    lines += [f"answers by status: {', '.join(statuses)}"]
    lines += [f"lost: {sum(found.lost.values())}", f"wrong: {len(found.wrong)}"]
    lines += [f"  {count} x {what}" for what, count in found.lost.most_common(5)]
    lines += [f"  {name}: {status} {body!r}" for name, status, body in found.wrong[:5]]
    numbers = ((each, found.percentile(each) * 1000) for each in (50, 90, 99, 100))
    times = ", ".join(f"p{each} {value:.1f} ms" for each, value in numbers)
    return [*lines, f"valid ones took: {times}"]


def main() -> None:
    """Start a desk, send, and print what became of it."""
    from desk_server import DeskServer
    from postgres import PostgresServer

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=500, help="requests a second")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--workers", type=int, default=2, help="processes of the desk")
    parser.add_argument("--postgres", action="store_true", help="the accounts in PostgreSQL")
    given = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="load-")))
        database_url = ""
        if given.postgres:
            files = stack.enter_context(tempfile.TemporaryDirectory(prefix="load-"))
            postgres = stack.enter_context(PostgresServer(Path(files)))
            postgres.start()
            database_url = postgres.url()
        desk = DeskServer(
            folder, database_url=database_url, PIPELIT_DESK_WORKERS=str(given.workers)
        )
        with desk.pipelit() as pipelit:
            pipelit.create_schema()
            calls = people(pipelit)
        stack.enter_context(desk)
        # Until each of its threads has what it keeps, such as the pages of SQLite.
        asyncio.run(send(desk.url, calls, clients=given.clients, seconds=5, rate=given.rate))
        start, cpu = desk.memory, desk.cpu
        sent, guessed = asyncio.run(
            send_with_guessers(
                desk.url,
                calls,
                clients=given.clients - GUESSERS,
                guessers=GUESSERS,
                seconds=given.seconds,
                rate=given.rate,
                first=1_000_000,
            )
        )
        print(*_report(sent, given.seconds), sep="\n")
        print("of clients that try wrong keys:", *_report(guessed, given.seconds)[:4], sep="\n  ")
        print(f"CPU time of the desk: {(desk.cpu - cpu) / given.seconds:.0%} of a core")
        print(f"memory: {start / 1e6:.1f} MB at the start, {desk.memory / 1e6:.1f} MB at the end")


if __name__ == "__main__":
    main()
