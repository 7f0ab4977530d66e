"""Webhooks: signed by the specification, to one address, bounded, and silent about secrets."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import re
import socket
import traceback
from typing import Any

import pytest
from conftest import Clock
from webhook_receiver import HOOK, SECRET, Received, Receiver

from pipelit_agents import Pipelit, Webhook
from pipelit_agents.credentials.scope import open_patterns
from pipelit_agents.errors import CredentialError
from pipelit_agents.operations.webhooks import Delivery, post, signature

BODY = b'{"type":"approval.requested"}'
OTHER = f"whsec_{base64.b64encode(bytes(range(32))).decode()}"


def store(pipelit: Pipelit, value: str | dict[str, str] = SECRET, name: str = HOOK) -> None:
    """Store a signing secret."""
    pipelit.credentials.put(name, value, kind="webhook", created_by="alice")


def sent(pipelit: Pipelit, receiver: Receiver, clock: Clock, **options: Any) -> Delivery:
    """Send once."""
    webhook = Webhook(options.pop("url", receiver.url), secret=HOOK, **options)
    return post(pipelit.credentials, webhook, "apr_1_1", clock(), BODY)


def accepts(secret: str, request: Received) -> bool:
    """Verify as the specification says, with nothing of the library's."""
    key = base64.b64decode(secret.split("_", 1)[1])
    named = [request.headers[f"webhook-{name}"].encode() for name in ("id", "timestamp")]
    mac = hmac.new(key, b".".join([*named, request.body]), hashlib.sha256).digest()
    found = [each.split(",") for each in request.headers["webhook-signature"].split(" ")]
    return ["v1", base64.b64encode(mac).decode()] in found


def test_a_signature_is_that_of_the_published_example() -> None:
    """Each library of Standard Webhooks is tested with this request."""
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    found = signature(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert found == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_receiver_verifies_what_arrives(
    pipelit: Pipelit, receiver: Receiver, clock: Clock
) -> None:
    """The headers and the bytes of the body fit; another secret or another body doesn't."""
    store(pipelit)
    assert sent(pipelit, receiver, clock).delivered
    (request,) = receiver.seen
    assert accepts(SECRET, request)
    assert not accepts(OTHER, request)
    assert not accepts(SECRET, request._replace(body=BODY + b" "))
    assert request.body == BODY
    assert request.headers["webhook-id"] == "apr_1_1"
    assert request.headers["webhook-timestamp"] == str(int(clock()))
    assert request.headers["content-type"] == "application/json"
    assert "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" not in repr(request)


def test_the_example_of_the_docstring_verifies(
    pipelit: Pipelit, receiver: Receiver, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A receiver can copy it: it refuses another secret, another body and an old request."""
    store(pipelit, {"old": OTHER, "new": SECRET})
    sent(pipelit, receiver, clock)
    (request,) = receiver.seen
    block = re.search(r"```python\n(.*?)```", Webhook.__doc__ or "", re.DOTALL)
    assert block is not None
    names: dict[str, Any] = {}
    source = "\n".join(line[8:] for line in block[1].splitlines())
    exec(source, names)  # noqa: S102 - our own docstring
    verified = names["verified"]
    monkeypatch.setattr(names["time"], "time", clock)
    assert verified(request.headers, request.body, SECRET) == json.loads(BODY)
    assert verified(request.headers, request.body, OTHER) == json.loads(BODY)
    third = f"whsec_{base64.b64encode(bytes(24)).decode()}"
    for headers, body, secret in (
        (request.headers, request.body, third),
        (request.headers, b"{}", SECRET),
        ({**request.headers, "webhook-id": "another"}, request.body, SECRET),
    ):
        with pytest.raises(ValueError, match="another sender"):
            verified(headers, body, secret)
    clock.advance(301)
    with pytest.raises(ValueError, match="old notice"):
        verified(request.headers, request.body, SECRET)


def test_while_a_secret_is_replaced_both_sign(
    pipelit: Pipelit, receiver: Receiver, clock: Clock
) -> None:
    """Each field of the credential signs, and a reference with a field names one."""
    store(pipelit, {"old": OTHER, "new": SECRET})
    sent(pipelit, receiver, clock)
    webhook = Webhook(receiver.url, secret=f"{HOOK}:new")
    post(pipelit.credentials, webhook, "apr_1_1", clock(), BODY)
    both, one = receiver.seen
    assert (accepts(SECRET, both), accepts(OTHER, both)) == (True, True)
    assert (accepts(SECRET, one), accepts(OTHER, one)) == (True, False)


@pytest.mark.parametrize(
    ("status", "says", "gone"),
    [
        (302, "redirects to another address", False),
        (400, "answers 400", False),
        (401, "signing secret", False),
        (404, "has nothing that receives notices", False),
        (410, "isn't sent to it again", True),
        (429, "sent again later", False),
        (500, "sent again later", False),
        (502, "sent again later", False),
    ],
)
def test_only_a_success_delivers(
    pipelit: Pipelit, receiver: Receiver, clock: Clock, status: int, says: str, gone: bool
) -> None:
    """Everything else is a failure, which says what to do and nothing of the answer."""
    store(pipelit)
    receiver.status = status
    receiver.headers = {"location": f"{receiver.url}/elsewhere", "x-said": SECRET}
    found = sent(pipelit, receiver, clock)
    assert not found.delivered
    assert found.reason == f"status {status}"
    assert says in found.words
    assert found.gone is gone
    # The redirect isn't followed.
    assert len(receiver.seen) == 1
    assert SECRET not in repr(found)
    assert "T0KEN" not in repr(found)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("90", 90.0), ("9" * 5000, 86_400.0), ("-5", 0.0), ("soon", 0.0), ("²", 0.0)],
    ids=["seconds", "forever", "negative", "words", "other-digits"],
)
def test_a_receiver_postpones_by_a_day_at_most(
    pipelit: Pipelit, receiver: Receiver, clock: Clock, value: str, seconds: float
) -> None:
    """Retry-After counts if it is a number of seconds."""
    store(pipelit)
    receiver.status, receiver.headers = 503, {"retry-after": value}
    assert sent(pipelit, receiver, clock).retry_after == seconds


@pytest.mark.parametrize("way", ["late", "drip"])
def test_a_slow_answer_is_given_up(
    pipelit: Pipelit, receiver: Receiver, clock: Clock, way: str
) -> None:
    """The time is that of the whole request, however often something arrives."""
    store(pipelit)
    receiver.way = way
    found = sent(pipelit, receiver, clock, timeout=0.05)
    assert found.reason == "no answer"
    assert "no answer within 0.05 s" in found.words


def test_an_endless_answer_is_not_read(pipelit: Pipelit, receiver: Receiver, clock: Clock) -> None:
    """The status alone counts."""
    store(pipelit)
    receiver.status, receiver.way = 200, "endless"
    assert sent(pipelit, receiver, clock).delivered


def test_an_endless_header_is_refused(pipelit: Pipelit, receiver: Receiver, clock: Clock) -> None:
    """It can't fill the memory."""
    store(pipelit)
    receiver.status, receiver.headers = 200, {"x-large": "a" * 2_000_000}
    assert sent(pipelit, receiver, clock).reason == "no answer"


def test_an_unknown_server_is_named(
    pipelit: Pipelit, receiver: Receiver, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that can't be resolved is a failure that says so, without the path."""
    store(pipelit)

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    found = sent(pipelit, receiver, clock, url="https://hooks.example/T0KEN")
    assert found == Delivery(
        "no answer",
        "https://hooks.example: the server's name can't be resolved: correct the webhook's URL, "
        "or this machine's DNS",
    )


def test_nothing_answers(pipelit: Pipelit, receiver: Receiver, clock: Clock) -> None:
    """A closed port is a failure, too."""
    store(pipelit)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    found = sent(pipelit, receiver, clock, url=f"http://127.0.0.1:{port}/")
    assert "nothing answers at this address" in found.words


@pytest.mark.parametrize(
    "value",
    [
        "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_c2hvcnQtc2VjcmV0",
        "whsec_not base64 at all, but a long sentence",
        f"whsec_{base64.b64encode(bytes(65)).decode()}",
        "sk-0123456789abcdef0123456789abcdef",
    ],
    ids=["no-prefix", "short", "no-base64", "long", "another-key"],
)
def test_another_secret_signs_nothing(
    pipelit: Pipelit, receiver: Receiver, clock: Clock, value: str
) -> None:
    """Only the form of a signing secret is accepted: nothing is sent, and it isn't repeated."""
    store(pipelit, value)
    found = sent(pipelit, receiver, clock)
    assert found.reason == "no signing secret"
    assert "whsec_ and the base64 of 24 to 64 random bytes" in found.words
    assert value not in repr(found)
    assert receiver.seen == []


def test_a_missing_secret_sends_nothing(pipelit: Pipelit, receiver: Receiver, clock: Clock) -> None:
    """No notice goes out unsigned."""
    found = sent(pipelit, receiver, clock)
    assert found.reason == "no signing secret"
    assert HOOK in found.words
    assert receiver.seen == []


def test_the_secret_is_closed_before_anything_is_sent(
    pipelit: Pipelit, receiver: Receiver, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the client and its frames have is the signature, also when it fails."""
    store(pipelit)
    held: list[str] = []

    def broken(url: object, *_: object) -> object:
        stack = traceback.StackSummary.extract(traceback.walk_stack(None), capture_locals=True)
        held.extend(repr(each.locals) for each in stack if "pipelit_agents" in each.filename)
        raise RuntimeError

    monkeypatch.setattr("pipelit_agents.operations.webhooks.bounded", broken)
    found = sent(pipelit, receiver, clock)
    assert found.reason == "no answer"
    assert held
    assert "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" not in "".join(held)


def test_the_leak_guard_holds_the_secret_while_it_signs(
    pipelit: Pipelit, receiver: Receiver, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What redacts logs and traces knows it then, and nothing is open when the request begins."""
    store(pipelit)
    known: list[bool] = []

    def signing(*arguments: Any) -> str:
        known.append(any(each.in_text(SECRET) for each in open_patterns()))
        return signature(*arguments)

    def sending(*_: object) -> tuple[int, str]:
        known.append(bool(open_patterns()))
        return 204, ""

    monkeypatch.setattr("pipelit_agents.operations.webhooks.signature", signing)
    monkeypatch.setattr("pipelit_agents.operations.webhooks.bounded", sending)
    assert sent(pipelit, receiver, clock).delivered
    assert known == [True, False]


def test_nothing_is_logged(
    pipelit: Pipelit, receiver: Receiver, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the token in the address, nor what the server says in its reason phrase."""
    store(pipelit)
    caplog.set_level(logging.DEBUG)
    receiver.status, receiver.headers = 200, {"x-said": SECRET}
    sent(pipelit, receiver, clock)
    assert "T0KEN" not in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"url": "http://hooks.example/x"}, ValueError, "would send the notice to hooks.example"),
        ({"url": "ftp://hooks.example/x"}, ValueError, "begin with https://"),
        ({"url": "https://user:pw@hooks.example/x"}, ValueError, "user or password"),
        ({"url": "https://"}, ValueError, "name a host"),
        ({"url": ""}, ValueError, "url is empty"),
        ({"url": f"https://hooks.example/{'x' * 2000}"}, ValueError, "at most 2,000"),
        ({"url": 5}, TypeError, "url must be a URL"),
        ({"secret": SECRET}, CredentialError, "secret"),
        ({"secret": None}, TypeError, "secret"),
        ({"include_arguments": "yes"}, TypeError, "include_arguments must be True or False"),
        ({"timeout": 0}, ValueError, "timeout must be more than 0"),
        ({"timeout": 601}, ValueError, "timeout must be at most 600"),
        ({"timeout": True}, TypeError, "timeout must be a number"),
    ],
    ids=[
        *(
            "unencrypted",
            "scheme",
            "userinfo",
            "no-host",
            "empty",
            "long",
            "no-text",
            "secret-itself",
        ),
        *("no-secret", "word", "zero", "too-long", "bool"),
    ],
)
def test_a_webhook_is_checked_when_it_is_made(
    arguments: dict[str, Any], error: type[Exception], says: str
) -> None:
    """Each error names the argument, and none repeats a secret."""
    with pytest.raises(error, match=re.escape(says)) as caught:
        Webhook(**{"url": "https://hooks.example/x", "secret": HOOK, **arguments})
    assert SECRET not in str(caught.value)


def test_a_webhook_does_not_display_its_address() -> None:
    """The path of a chat service's address is a token."""
    webhook = Webhook("https://hooks.example/services/T0KEN", secret=HOOK)
    assert repr(webhook) == f"Webhook('https://hooks.example', secret='{HOOK}')"
