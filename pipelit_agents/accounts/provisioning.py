"""Create agents for agents: the account and its encrypted key, in one transaction."""

from __future__ import annotations

import re
import secrets
import unicodedata
from dataclasses import dataclass
from typing import Final, NamedTuple

from sqlalchemy import Connection, select

from pipelit_agents._core import Core
from pipelit_agents._wording import in_words
from pipelit_agents._words import quoted, recordable
from pipelit_agents.accounts.lookup import AccountRow, read_account, require_active, storable
from pipelit_agents.accounts.users import Users
from pipelit_agents.credentials.store import Credentials
from pipelit_agents.database.models import CredentialRow
from pipelit_agents.errors import (
    AccountError,
    CredentialError,
    CredentialExists,
    InvalidUsername,
    NotLocalAgent,
    NotPermitted,
    QuotaExceeded,
    RateLimited,
    UserExists,
    UserInactive,
    UserNotFound,
)
from pipelit_agents.identity.agent import Agent
from pipelit_agents.ledger.questions import QuestionLimit
from pipelit_agents.protocol.usernames import OPERATOR, require_new_username

__all__ = ["ProvisionedAgent", "provision", "require_prefix"]

KEY_KIND: Final = "agent-key"
KEY_PREFIX: Final = "agent-key."
# Characters of a username, so that KEY_PREFIX and the username fit into a credential's name.
MAX_USERNAME: Final = 149 - len(KEY_PREFIX)
_MAX_SLUG: Final = 40
# An underscore and eight random hexadecimal digits.
_SUFFIX_LENGTH: Final = 9
_OWN_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]*\Z")
_ACTION: Final = "agent.create"
_REASONS: Final[dict[type[Exception], str]] = {
    CredentialError: "credential is there",
    CredentialExists: "credential is there",
    InvalidUsername: "malformed name",
    NotLocalAgent: "creator is no agent",
    NotPermitted: "not permitted",
    QuotaExceeded: "quota used up",
    UserExists: "name is taken",
    UserInactive: "creator inactive",
    UserNotFound: "creator unknown",
}


@dataclass(frozen=True, slots=True)
class ProvisionedAgent:
    """An agent that an agent created. Its API key is stored as a credential, not returned here.

    Attributes:
        username: The new agent's name.
        credential: The credential with its API key; only the creator may read it.
        last_four: The last four characters of that key, to identify it.
        created: False if the creator had created this agent before.
    """

    username: str
    credential: str
    last_four: str
    created: bool


def provision(
    core: Core,
    users: Users,
    credentials: Credentials,
    questions: QuestionLimit,
    *,
    creator: Agent,
    purpose: str,
    username: str | None,
    prefix: str | None = None,
) -> ProvisionedAgent:
    """Create an agent for an agent; see ``Pipelit.provision_agent``."""
    if creator.username == OPERATOR:
        creator.require_active()
    admitted = questions.admit(creator.username, _ACTION, creator.now())
    if admitted.wait:
        if admitted.is_noted:
            with core.database.writing(durable=True) as connection:
                reason = "too many refused; more are not recorded"
                core.record(connection, creator.username, "", _ACTION, reason, outcome="refused")
        raise RateLimited(
            f"too many agents were refused: wait {in_words(admitted.wait)}",
            retry_after=admitted.wait,
        )
    name = "" if username is None else username
    made = None
    taken = ""
    try:
        if username is not None:
            _require_short_name(username)
        with core.database.writing(durable=True) as connection:
            _require_creator(users, connection, creator)
            # An agent without the prefix was created before prefixes, or by the creator's own code.
            if username is None or not _is_own(connection, username, creator):
                name = _named(purpose, username, prefix)
            credential = f"{KEY_PREFIX}{name}"
            there, key = read_account(connection, name), _stored_key(connection, name)
            taken = _why_taken(there, key, creator)
            # A derived name is for a new agent. If it happens to be the name of one of the
            # creator's agents, creating it raises UserExists.
            if there is not None and not taken and username is not None:
                core.record(connection, creator.username, name, _ACTION, "was there")
            else:
                made = users.create_agent_in(
                    connection, name, owner=creator.username, purpose=purpose
                )
                _require_free(key)
                credentials.put_in(
                    connection,
                    credential,
                    made.api_key,
                    kind=KEY_KIND,
                    created_by=creator.username,
                    allow=[creator.username],
                    # Somebody may have stored one since it was read.
                    replace=False,
                )
    except (AccountError, CredentialError) as error:
        questions.count(creator.username, _ACTION, creator.now())
        exact = taken if isinstance(error, UserExists) else ""
        reason = exact or _REASONS.get(type(error), "refused")
        # The transaction was rolled back, so the refusal is recorded in another one.
        with core.database.writing(durable=True) as connection:
            subject = name if isinstance(error, UserExists) else recordable(name or "")
            core.record(connection, creator.username, subject, _ACTION, reason, outcome="refused")
        raise
    if made is None:
        return ProvisionedAgent(name, credential, credentials.get(credential).masked[-4:], False)
    return ProvisionedAgent(name, credential, made.api_key.get_secret_value()[-4:], True)


def require_prefix(prefix: str) -> str:
    """Return a prefix for names of created agents, unchanged.

    Raises:
        InvalidUsername: No username can begin with it, or it leaves no room for a name.
    """
    if len(require_new_username(prefix, argument="prefix")) > MAX_USERNAME - _SUFFIX_LENGTH:
        raise InvalidUsername(
            f"prefix {quoted(prefix)} is too long: {MAX_USERNAME - _SUFFIX_LENGTH} characters at "
            "most, so that there is room for a name after it",
            username=recordable(prefix),
        )
    return prefix


def _named(purpose: str, username: str | None, prefix: str | None) -> str:
    """Return the full name of the requested agent."""
    if not prefix:
        return _derived_name(purpose, "agent_") if username is None else username
    require_prefix(prefix)
    if username is None:
        return _derived_name(purpose, prefix)
    own = username.removeprefix(prefix)
    # Without a dot: the part before the last dot must be the creator's prefix.
    if not _OWN_NAME.match(own):
        raise InvalidUsername(
            f"username {quoted(username)} can't be used: use 1 or more of the characters a-z 0-9 _ "
            f"- and the first a letter or digit; it becomes {prefix}<username>",
            username=recordable(username),
        )
    _require_short_name(f"{prefix}{own}")
    return f"{prefix}{own}"


def _derived_name(purpose: str, prefix: str) -> str:
    # A key in the purpose must not become part of a name.
    said = storable(purpose, "purpose")
    plain = unicodedata.normalize("NFKD", said).encode("ascii", "ignore").decode().lower()
    room = min(_MAX_SLUG, MAX_USERNAME - len(prefix) - _SUFFIX_LENGTH)
    slug = re.sub(r"[^a-z0-9]+", "_", plain)[: max(0, room)].strip("_")
    return prefix + "_".join(filter(None, [slug, secrets.token_hex(4)]))


def _is_own(connection: Connection, username: str, creator: Agent) -> bool:
    """Return whether the creator created this agent here, and it is still active."""
    there = read_account(connection, username)
    key = _stored_key(connection, username)
    return there is not None and not _why_taken(there, key, creator)


def _require_short_name(name: str) -> None:
    if len(require_new_username(name)) > MAX_USERNAME:
        raise InvalidUsername(
            f"username {quoted(name)} is too long: {MAX_USERNAME} characters at most, so that its "
            f"key can be stored as {KEY_PREFIX}<username>",
            username=recordable(name),
        )


def _require_free(key: _StoredKey | None) -> None:
    if key is not None:
        raise CredentialError(
            f"there is a credential {key.name!r} already, which the new agent's key would "
            "replace: delete it, or choose another username",
            credential=key.name,
        )


def _require_creator(users: Users, connection: Connection, creator: Agent) -> None:
    name = creator.username
    row = users.find_in(connection, name)
    if row.kind != "agent":
        raise NotLocalAgent(f"{name!r} is a person, not an agent", username=name)
    require_active(row)


def _why_taken(there: AccountRow | None, key: _StoredKey | None, creator: Agent) -> str:
    """Return why an account can't be the creator's agent; empty if it is, or doesn't exist."""
    if there is None:
        return ""
    if there.kind != "agent":
        return "taken by a person"
    if there.owner != creator.username:
        return "taken by another owner's agent"
    if not there.active:
        return "taken by a deactivated agent"
    if key is None or key.kind != KEY_KIND or key.created_by != creator.username:
        return "taken by an agent without a sealed key"
    return ""


class _StoredKey(NamedTuple):
    """The credential with an agent's API key."""

    name: str
    kind: str
    created_by: str


def _stored_key(connection: Connection, username: str) -> _StoredKey | None:
    row = connection.execute(
        select(CredentialRow.name, CredentialRow.kind, CredentialRow.created_by).where(
            CredentialRow.name == f"{KEY_PREFIX}{username}"
        )
    ).one_or_none()
    return None if row is None else _StoredKey(*row)
