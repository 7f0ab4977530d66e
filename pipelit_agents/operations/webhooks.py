"""Webhooks by the specification Standard Webhooks 1.0: signed, bounded, and not redirected.

https://www.standardwebhooks.com has the specification, and libraries for receivers.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Final, NamedTuple

import httpx

from pipelit_agents._bounds import require_flag, require_seconds
from pipelit_agents._discretion import discreet
from pipelit_agents._words import quoted
from pipelit_agents.credentials.bounded_http import MAX_TIME, bounded
from pipelit_agents.credentials.origins import origin_of
from pipelit_agents.credentials.rules import require_reference
from pipelit_agents.credentials.scope import Scope
from pipelit_agents.credentials.store import Credentials
from pipelit_agents.credentials.trial_words import by_error
from pipelit_agents.errors import CredentialError, PipelitError

__all__ = ["DELIVERED", "Delivery", "Webhook", "post", "signature"]

_PREFIX: Final = "whsec_"
# Bytes of a signing secret.
_SHORTEST: Final = 24
_LONGEST: Final = 64
# Secrets that sign one request, while they are replaced.
_MOST: Final = 5
_MAX_URL: Final = 2_000
_GONE: Final = 410
# Seconds. A server can't postpone the next attempt for longer.
_MAX_RETRY_AFTER: Final = 86_400
_ADDRESS: Final = "the webhook's URL"


@dataclass(frozen=True, slots=True, repr=False)
class Webhook:
    """An HTTP server that receives notices, each signed by a secret that it shares with you.

    Each notice is a POST with a JSON body and the headers ``webhook-id``, ``webhook-timestamp`` and
    ``webhook-signature``, as Standard Webhooks describes them. A retry has the same ``webhook-id``.
    A notice is delivered by an answer of 200 to 299. Redirects are refused, and the answer's body
    isn't read. With 410 the server ends this notice. It can postpone the next attempt by a day at
    most, with ``Retry-After`` in seconds.

    Args:
        url: An address with ``https://``; ``http://`` for this machine only. It isn't displayed or
            recorded, because addresses of chat services have a token in them.
        secret: The name of the credential with the signing secret, or ``credential:field``:
            ``whsec_`` and the base64 of 24 to 64 random bytes. If it has several fields, each of
            them signs, so you can replace the secret without a pause. It is opened to sign, and
            closed before anything is sent. It must have no ``allow`` list.
        include_arguments: Whether the body has the arguments, their summary and their digest.
            With the digest, the receiver could confirm a guess of the arguments.
        timeout: For the whole request, in seconds; at most 600.

    Raises:
        TypeError: An argument is of another type.
        ValueError: The URL can't be used, or the timeout is out of range.
        CredentialError: ``secret`` can't be the name of a credential.

    Example:
        The body is ``{"type": "approval.requested", "timestamp": "2027-01-15T08:00:00+00:00",
        "data": {…}}``; ``data`` has the fields of an ``ApprovalNotice``. A receiver verifies the
        signature before it reads the body, and ignores a ``webhook-id`` that it had before:

        ```python
        import base64, hmac, json, time


        def verified(headers, body: bytes, secret: str):
            at = headers["webhook-timestamp"]
            if abs(time.time() - int(at)) > 300:
                raise ValueError("an old notice was repeated, or a clock is wrong")
            key = base64.b64decode(secret.removeprefix("whsec_"))
            signed = f"{headers['webhook-id']}.{at}.".encode() + body
            mac = base64.b64encode(hmac.digest(key, signed, "sha256"))
            signatures = headers["webhook-signature"].encode().split(b" ")
            if not any(hmac.compare_digest(b"v1," + mac, each) for each in signatures):
                raise ValueError("this notice has another sender, or was changed")
            return json.loads(body)
        ```
    """

    url: str
    secret: str
    include_arguments: bool = False
    timeout: float = 10.0

    def __post_init__(self) -> None:
        if self.url == "":
            raise ValueError("url is empty: name the server, for example https://hooks.example.com")
        origin_of("url", self.url, sent="the notice")
        if len(self.url) > _MAX_URL:
            raise ValueError(f"url must be at most {_MAX_URL:,} characters")
        require_reference("secret", self.secret)
        require_flag(self.include_arguments, "include_arguments")
        require_seconds(self.timeout, "timeout", most=MAX_TIME)

    @property
    def origin(self) -> str:
        """The server, without the path."""
        return str(origin_of("url", self.url))

    @property
    def fingerprint(self) -> str:
        """A digest of the address, which reveals no token in it."""
        return sha256(b"pipelit-agents webhook\0" + self.url.encode()).hexdigest()

    def __repr__(self) -> str:
        return f"Webhook({self.origin!r}, secret={self.secret!r})"


class Delivery(NamedTuple):
    """What became of one attempt.

    Attributes:
        reason: Why it failed, for the audit log; empty if the notice was delivered.
        words: Why it failed and what to do, for people.
        gone: Whether the receiver refuses this notice for good.
        retry_after: The least number of seconds until the next attempt.
    """

    reason: str = ""
    words: str = ""
    gone: bool = False
    retry_after: float = 0.0

    @property
    def delivered(self) -> bool:
        """Whether the receiver has the notice."""
        return not self.reason


DELIVERED: Final = Delivery()


def post(
    credentials: Credentials, webhook: Webhook, identifier: str, at: float, body: bytes
) -> Delivery:
    """Sign a body and send it once.

    Args:
        credentials: Opens the signing secret.
        webhook: Who receives it.
        identifier: The same for each attempt to deliver this body.
        at: The time of the attempt, Unix seconds.
        body: JSON.
    """
    moment = int(at)
    try:
        signatures = _signatures(credentials, webhook.secret, identifier, moment, body)
    except PipelitError as error:
        return Delivery("no signing secret", str(error))
    headers = {
        "content-type": "application/json",
        "user-agent": "pipelit-agents",
        "webhook-id": identifier,
        "webhook-timestamp": str(moment),
        "webhook-signature": signatures,
    }
    try:
        status, after = bounded(
            httpx.URL(webhook.url),
            webhook.timeout,
            partial(_answer, webhook.url, headers, body),
        )
    except Exception as error:
        words = by_error(error, webhook.timeout, address=_ADDRESS, unsent="nothing was sent")
        return Delivery("no answer", f"{webhook.origin}: {words}")
    return _by_status(webhook.origin, status, after)


def signature(key: bytes, identifier: str, at: int, body: bytes) -> str:
    """Return one signature of a request, as the header has it.

    Args:
        key: The bytes of the signing secret.
        identifier: The header ``webhook-id``.
        at: The header ``webhook-timestamp``, Unix seconds.
        body: The body.
    """
    signed = b".".join([identifier.encode(), str(at).encode(), body])
    return f"v1,{base64.b64encode(hmac.digest(key, signed, 'sha256')).decode()}"


@discreet
def _signatures(
    credentials: Credentials, reference: str, identifier: str, at: int, body: bytes
) -> str:
    """Open the signing secrets, sign, and close them."""
    scope = Scope()
    try:
        held, _ = credentials.open_in(scope, reference, wait=False)
        if not 1 <= len(held) <= _MOST:
            raise _unusable(reference, f"it must have 1 to {_MOST} secrets")
        return " ".join(
            signature(_key(reference, each.get_secret_value()), identifier, at, body)
            for each in held.values()
        )
    finally:
        scope.close()


def _key(reference: str, text: str) -> bytes:
    encoded = text.removeprefix(_PREFIX)
    try:
        # The specification doesn't say whether the padding is written.
        key = base64.b64decode(f"{encoded}{'=' * (-len(encoded) % 4)}", validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if encoded == text or not _SHORTEST <= len(key) <= _LONGEST:
        raise _unusable(
            reference,
            f"store {_PREFIX} and the base64 of {_SHORTEST} to {_LONGEST} random bytes, and give "
            "it to the receiver too",
        )
    return key


def _unusable(reference: str, fix: str) -> CredentialError:
    name = reference.partition(":")[0]
    return CredentialError(f"credential {quoted(name)} can't sign webhooks: {fix}", credential=name)


async def _answer(
    url: str, headers: Mapping[str, str], body: bytes, client: httpx.AsyncClient
) -> tuple[int, str]:
    async with client.stream("POST", url, headers=headers, content=body) as response:
        return response.status_code, response.headers.get("retry-after", "")


def _by_status(origin: str, status: int, after: str) -> Delivery:
    if httpx.codes.is_success(status):
        return DELIVERED
    if status == _GONE:
        words = "the server answers 410, so this notice isn't sent to it again: correct"
        return Delivery("status 410", f"{origin}: {words} {_ADDRESS}", gone=True)
    if httpx.codes.is_redirect(status):
        words = f"redirects to another address, to which nothing is sent: correct {_ADDRESS}"
    elif status in (401, 403):
        words = f"refuses the request with {status}: look at the signing secret on both sides"
    elif status in (404, 405):
        words = f"has nothing that receives notices at this address ({status}): correct {_ADDRESS}"
    elif status == httpx.codes.TOO_MANY_REQUESTS or status >= httpx.codes.INTERNAL_SERVER_ERROR:
        words = f"can't take the notice now ({status}): it is sent again later"
    else:
        words = f"answers {status}, not 200 to 299: look at the receiver's log"
    wait = float(after) if after.isascii() and after.isdigit() else 0.0
    return Delivery(
        f"status {status}",
        f"{origin}: the server {words}",
        retry_after=min(wait, _MAX_RETRY_AFTER),
    )
