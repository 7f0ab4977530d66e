"""Refuse malformed input and unknown audiences, and record why; few a minute are recorded."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Final, NoReturn

from pipelit_agents._core import Core
from pipelit_agents._wording import in_words
from pipelit_agents._words import quoted, recordable
from pipelit_agents.audit.records import recorded_name
from pipelit_agents.errors import (
    AccountError,
    MalformedCode,
    RateLimited,
    UserNotFound,
)
from pipelit_agents.identity.evidence import as_typed
from pipelit_agents.identity.lookup import (
    accounts_of,
    require_active_agent,
    require_local_agent,
    why_no_audience,
)
from pipelit_agents.ledger.questions import Admission, QuestionLimit
from pipelit_agents.protocol.usernames import type_of_name

__all__ = ["BadInput", "note_refusal"]

# Actions that can be refused before any verification.
_REFUSABLE_ACTIONS: Final = frozenset(
    {"verify", "verify.audience", "verify.plain", "verify.proof", "verify.request"}
)
_REASON: Final = re.compile(r"[!-~](?:[ -~]{0,62}[!-~])?\Z")
_MAKE_CODE: Final = "code.make"


class BadInput:
    """Refuse malformed inputs and unknown audiences of agents, 20 a minute for each agent.

    Args:
        core: The database, whose audit gets the refusals, and the clock.

    Attributes:
        questions: Limits the refused requests of each agent.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self.questions: QuestionLimit = QuestionLimit()

    def malformed(self, verifier: str, peer: str, message: str) -> NoReturn:
        """Refuse a malformed input to an agent. It is no attempt, and few of them are audited.

        After 20 a minute, further malformed inputs of this agent raise RateLimited. Well-formed
        codes are still verified, so sending nonsense to an agent doesn't stop it from verifying.
        """
        now = self._core.clock()
        admitted = self.questions.admit(verifier, "verify", now)
        if self._is_recorded(verifier, "verify", admitted, now):
            reason = "malformed; more of them are not recorded" if admitted.wait else "malformed"
            # A handle without an active account gets the same error, and records nothing.
            with self._core.database.deciding() as connection, suppress(AccountError):
                require_active_agent(connection, verifier)
                name = recorded_name(connection, peer)
                self._core.record(connection, verifier, name, "verify", reason, outcome="refused")
        peer = as_typed(peer)
        if admitted.wait:
            raise RateLimited(
                f"too many names, codes and messages that can't be right: wait "
                f"{in_words(admitted.wait)}",
                retry_after=admitted.wait,
                peer=peer,
                verifier=verifier,
            )
        raise MalformedCode(message, peer=peer, verifier=verifier)

    def require_audience(self, username: str, audience: str) -> None:
        """Require that an audience is an active agent here; see ``Agent.totp_code``."""
        now = self._core.clock()
        rows = accounts_of(self._core.database, username, audience)
        require_local_agent(username, rows.get(username))
        admitted = self.questions.admit(username, _MAKE_CODE, now)
        reason = why_no_audience(rows.get(audience))
        if not admitted.wait and not reason:
            return
        if self._is_recorded(username, _MAKE_CODE, admitted, now):
            note = "too many questions; more are not recorded" if admitted.wait else reason
            self._core.record_refusal(username, audience, _MAKE_CODE, note)
        if admitted.wait:
            raise RateLimited(
                f"too many questions about agents that aren't here: wait {in_words(admitted.wait)}",
                retry_after=admitted.wait,
            )
        # The same message for every reason, so that it doesn't reveal which accounts exist.
        raise UserNotFound(
            f"there is no agent {quoted(audience)}: check its name", username=recordable(audience)
        )

    def _is_recorded(self, username: str, action: str, admitted: Admission, now: float) -> bool:
        """Count a refusal, unless the agent has to wait; return whether the audit gets it."""
        if not admitted.wait:
            self.questions.count(username, action, now)
        return not admitted.wait or admitted.is_noted


def note_refusal(core: Core, verifier: str, peer: object, action: object, reason: object) -> None:
    """Record a refusal that other code decided; see ``Agent.note_refusal``."""
    with core.database.deciding() as connection:
        require_active_agent(connection, verifier)
        if not isinstance(peer, str):
            raise TypeError(f"peer must be a username, as text, not {type_of_name(peer)}")
        if type(action) is not str or action not in _REFUSABLE_ACTIONS:
            raise ValueError(
                f"action must be one of {', '.join(sorted(_REFUSABLE_ACTIONS))}, "
                f"not {quoted(action)}"
            )
        if type(reason) is not str or not _REASON.match(reason):
            raise ValueError(
                "reason must be 1 to 64 printable ASCII characters without a space at either end: "
                "say why it was refused"
            )
        name = recorded_name(connection, peer)
        core.record(connection, verifier, name, action, reason, outcome="refused")
