"""Test whether a credential is good: open it, and ask its service once.

What to ask is found in the public fields, and in the form of the secret; the kind is a label only.
`HttpAuth` sends the secret, so the same rules hold as for an application's own requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Final

from pipelit_agents._bounds import require_seconds
from pipelit_agents._core import Core
from pipelit_agents._discretion import discreet
from pipelit_agents._threads import Apart, Stuck, aside
from pipelit_agents.credentials.bounded_http import MAX_TIME
from pipelit_agents.credentials.choice import Rule
from pipelit_agents.credentials.http_auth import http_auth
from pipelit_agents.credentials.model_lists import is_model, key_field, models_request
from pipelit_agents.credentials.opening import decrypted, record_refusal
from pipelit_agents.credentials.rules import require_reference
from pipelit_agents.credentials.scope import Scope
from pipelit_agents.credentials.secret import Secret
from pipelit_agents.credentials.trial_database import connect, database_url
from pipelit_agents.credentials.trial_request import Request, ask
from pipelit_agents.credentials.trial_words import Finding, Outcome, late
from pipelit_agents.display import html_of
from pipelit_agents.errors import CredentialError
from pipelit_agents.identity.acting import acting_for
from pipelit_agents.identity.agent import Agent, require_handle

__all__ = ["CredentialTest", "Trial"]

# Seconds, after which a test that doesn't keep its own time is given up.
GRACE: Final = 1.0
# A name's server, or a name server, may hang.
_APART: Final = Apart(4, in_all=64)
_URL: Final = "test_url"


@dataclass(frozen=True, slots=True)
class CredentialTest:
    """What a test of a credential found out. It contains neither the secret nor an answer's text.

    Attributes:
        name: The credential, or ``credential:field``.
        outcome: ``good``: its service accepts it. ``refused``: its service doesn't, or it can't
            be what it should be. ``unanswered``: the service couldn't be asked, or its answer says
            nothing about the credential. ``untested``: nothing is known about how to test it.
        reason: Why, and what to do.
        server: The server that was asked, such as ``https://api.openai.com``; empty if none was.
        status: The HTTP status of its answer; None if there was none.
    """

    name: str
    outcome: Outcome
    reason: str
    server: str = ""
    status: int | None = None

    @property
    def good(self) -> bool:
        """Whether the service accepts the credential."""
        return self.outcome == "good"

    def _repr_html_(self) -> str:
        return html_of(self)


class Trial:
    """A test of one credential, which is open until the test is over; see `Credentials.test`.

    Args:
        core: The database, and the encryption keys.
        reference: The credential, or ``credential:field``.
        agent: The agent that opens it.
        person: The person whose own credential it is; None for the shared one.
        timeout: For the whole test, in seconds.
        by: The requester's name for the audit, if no agent opens it.
        public_only: Whether to ask only a server with a public address, and no database.
    """

    def __init__(
        self,
        core: Core,
        reference: str,
        agent: Agent | None,
        person: str | None,
        timeout: float,
        *,
        by: str,
        public_only: bool,
    ) -> None:
        self._core = core
        self._reference = require_reference("name", reference)
        if agent is not None:
            require_handle(agent)
        self._agent = agent
        self._person = person
        self._timeout = require_seconds(timeout, "timeout", most=MAX_TIME)
        self._by = by
        self._public_only = public_only
        self._scope = Scope()
        self._secrets: Mapping[str, Secret] = {}
        self._public: Mapping[str, Any] = {}

    def run(self) -> CredentialTest:
        """Open the credential, and ask its service or its database whether it is good."""
        try:
            self._open()
            return _APART.run(self._asked, within=self._timeout + GRACE, of=self._counted_as)
        except Stuck:
            return self._report(Finding("unanswered", late(self._timeout)))
        finally:
            # Also for a test that still runs: the secrets become unreadable.
            self._scope.close()

    async def arun(self) -> CredentialTest:
        """As ``run``, off the event loop."""
        try:
            await aside(self._open)
            return await _APART.arun(self._asked, within=self._timeout + GRACE, of=self._counted_as)
        except Stuck:
            return self._report(Finding("unanswered", late(self._timeout)))
        finally:
            self._scope.close()

    @property
    def _counted_as(self) -> str:
        """The name under which tests that hang are counted; one person's don't stop another's."""
        return f"{self._person or ''}:{self._reference}"

    @discreet
    def _open(self) -> None:
        """Open the credential, on record."""
        name, _, wanted = self._reference.partition(":")
        which = Rule(self._person is not None)
        with _acting(self._core, self._person):
            opened = decrypted(self._core, name, wanted, self._agent, which, test=True, by=self._by)
        if wanted in opened.public and wanted not in opened.secrets:
            raise CredentialError(
                f"{self._reference!r} is a public field, which needs no test: name a secret",
                credential=name,
            )
        self._secrets = {key: self._scope.hold(each) for key, each in opened.held(name).items()}
        self._public = opened.public

    @discreet
    def _asked(self) -> CredentialTest:
        return self._report(self._finding())

    def _report(self, finding: Finding) -> CredentialTest:
        return CredentialTest(self._reference, *finding)

    def _finding(self) -> Finding:
        if not self._secrets:
            return Finding(
                "good", "codes can be made of its seed. None was made, so its service wasn't asked"
            )
        if is_model(self._public):
            return self._model()
        if _URL in self._public:
            return self._http()
        if len(self._secrets) > 1:
            return self._several()
        (secret,) = self._secrets.values()
        text = secret.get_secret_value()
        if (url := database_url(text)) is not None:
            if self._public_only:
                # The driver connects, so its address can't be seen from here; and the options of
                # drivers name files of this machine.
                return Finding(
                    "untested",
                    "it is a database's connection string, which isn't tried for members: let an "
                    "operator test it, or test it where it is used",
                )
            return url if isinstance(url, Finding) else connect(url, self._timeout)
        return Finding(
            "untested",
            "it can be opened, and nothing is known about how to test it. Store it with the public "
            'field model, such as "openai:gpt-5-mini", or test_url, an address of its service that '
            "answers only with the key",
        )

    def _model(self) -> Finding:
        request = models_request(self._public)
        if isinstance(request, Finding):
            return request
        key = key_field(self._secrets, self._public)
        if key is None:
            return self._several()
        return self._ask(request, {key: self._secrets[key]}, {"base_url": request.url})

    def _http(self) -> Finding:
        public = self._public
        request = Request(public[_URL], public.get("test_header", "Authorization"))
        request = request._replace(scheme=public.get("test_scheme", "Bearer") or None)
        if len(self._secrets) > 1 and str(request.scheme).lower() != "basic":
            return self._several()
        # If the public fields name the credential's server, HttpAuth refuses any other one.
        return self._ask(request, self._secrets, {"base_url": request.url, **public})

    def _ask(
        self, request: Request, secrets: Mapping[str, Secret], public: Mapping[str, Any]
    ) -> Finding:
        opened = _AlreadyOpen(self._core, self._person, secrets, public)
        try:
            auth = http_auth(
                opened,
                self._reference,
                agent=self._agent,
                per_person=False,
                fallback=None,
                origins=None,
                header=request.header,
                scheme=request.scheme,
            )
        except (TypeError, ValueError) as error:
            return Finding("unanswered", f"a public field can't be used: test_{error}")
        return ask(request, auth, self._timeout, public_only=self._public_only)

    def _several(self) -> Finding:
        name, first = self._reference.partition(":")[0], next(iter(self._secrets))
        return Finding(
            "untested", f"it has several secrets: name the one to test, for example {name}:{first}"
        )


def _acting(core: Core, person: str | None) -> AbstractContextManager[None]:
    """Return a block in which the audit names the person whose own credential is tested."""
    return nullcontext() if person is None else acting_for(core.database, person)


class _AlreadyOpen:
    """The `Opener` of a credential that is open already.

    So a test opens it once, and leaves one entry in the audit trail.
    """

    def __init__(
        self,
        core: Core,
        person: str | None,
        secrets: Mapping[str, Secret],
        public: Mapping[str, Any],
    ) -> None:
        self._core = core
        self._person = person
        self._opened = secrets, public

    def open_in(self, *_: object, **__: object) -> tuple[Mapping[str, Secret], Mapping[str, Any]]:
        """Return the open secrets, and the public fields."""
        return self._opened

    def note_refusal(self, reference: str, agent: Agent | None, reason: str) -> None:
        """Record that a server may not receive it."""
        with _acting(self._core, self._person):
            record_refusal(self._core, reference, agent, reason)
