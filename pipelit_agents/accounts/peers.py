"""Peers: agents of another domain, and the peerings by which they are verified."""

from __future__ import annotations

import secrets
from typing import Final

from pydantic import SecretStr
from sqlalchemy import Connection, delete, insert, select, update

from pipelit_agents._discretion import discreet
from pipelit_agents._twins import off_the_loop
from pipelit_agents.accounts.lookup import find_account, find_agent, read_account, storable
from pipelit_agents.accounts.models import (
    User,
    user_of,
)
from pipelit_agents.accounts.service import SECRET_BYTES, AccountService
from pipelit_agents.database.models import ApiKeyRow, PeeringRow, UserRow
from pipelit_agents.errors import (
    UserExists,
)
from pipelit_agents.protocol.peering_uri import Enrolment, read_uri
from pipelit_agents.protocol.provisioning_uri import provisioning_uri
from pipelit_agents.protocol.usernames import OPERATOR, require_new_username, require_username
from pipelit_agents.sealing.keyring import Sealed
from pipelit_agents.sealing.purposes import holds, peering_purpose, totp_purpose

__all__ = ["Peers"]


class Peers(AccountService):
    """Peerings and peers; a base class of ``Users``."""

    def issue_peering(self, agent: str, *, domain: str, by: str = OPERATOR) -> SecretStr:
        """Issue a secret with which an agent proves itself to exactly one other domain.

        Issuing another peering for the same domain replaces the previous one, which is no longer
        used.

        Args:
            agent: The agent.
            domain: The name of the other domain here; it has the form of a username.
            by: The requester's name, for the audit.

        Returns:
            The ``otpauth://…`` URI for the other domain to enrol. It can't be displayed again.

        Raises:
            InvalidUsername: A name is malformed.
            UserNotFound: There is no such account.
            NotLocalAgent: It is a person or a peer.
            UserInactive: It was deactivated.
            ConfigurationError: There is no key to encrypt the secret with.
        """
        require_username(agent, argument="agent")
        require_new_username(domain, argument="domain")
        secret, relation = secrets.token_bytes(SECRET_BYTES), secrets.token_hex(16)
        purpose = peering_purpose(relation)
        with self._database.writing(durable=True) as connection:
            self._lock_accounts(connection, agent)
            find_agent(connection, agent)
            connection.execute(
                delete(PeeringRow).where(PeeringRow.agent == agent, PeeringRow.domain == domain)
            )
            connection.execute(
                insert(PeeringRow).values(
                    relation=relation,
                    agent=agent,
                    domain=domain,
                    secret=self._seal(connection, secret, purpose),
                    created_at=self._clock(),
                    created_by=storable(by, "by")[:149],
                )
            )
            self._core.record(connection, by, agent, "peering.issue", domain)
        return provisioning_uri(agent, secret, relation)

    aissue_peering: Final = off_the_loop(issue_peering)

    @discreet
    def enroll_peer(
        self, uri: str | SecretStr, *, name: str, domain: str, by: str = OPERATOR
    ) -> User:
        """Create the account of another domain's agent. It can be verified here, but not acted as.

        It gets no API key; see ``issue_api_key``. A deactivated peer can be enrolled again from
        the same domain: its secret is replaced, and all its API keys are revoked. If the secret is
        the same as before, spent codes stay spent and locks stay in force.

        Args:
            uri: The URI that the other domain's ``issue_peering`` returned.
            name: The agent's name, the same in both domains.
            domain: The name of the other domain here; it has the form of a username.
            by: The requester's name, for the audit.

        Raises:
            InvalidUsername: A name is malformed.
            TypeError: The URI isn't text.
            ValueError: The URI is another account's, its secret is too short, or it has parameters
                that aren't supported. Or another account has this secret.
            UserExists: The name is taken, and not by a deactivated peer of that domain.
            ConfigurationError: There is no key to encrypt the secret with.
        """
        uri = SecretStr(uri) if isinstance(uri, str) else uri
        if not isinstance(uri, SecretStr):
            raise TypeError(
                f"uri must be what users.issue_peering returned, not {type(uri).__name__}"
            )
        require_new_username(name, argument="name")
        require_new_username(domain, argument="domain")
        peer = read_uri(uri, name=name)
        with self._database.writing(durable=True) as connection:
            sealed = self._seal(connection, peer.secret, totp_purpose(name))
            # Otherwise two enrolments at once, with one secret for two names, wouldn't see each
            # other's.
            self._database.lock(connection, "peers:")
            self._lock_accounts(connection, name)
            before = read_account(connection, name)
            if before is not None and (before.active or before.domain != domain):
                fix = "; deactivate it first" if before.domain == domain else ""
                raise UserExists(f"there is an account {name!r} already{fix}", username=name)
            self._require_unshared(connection, name, peer)
            if before is None:
                self._insert(
                    connection,
                    name,
                    kind="human",
                    root_owner=name,
                    totp_secret=sealed,
                    created_by=by,
                    domain=domain,
                    relation=peer.relation,
                )
            else:
                self._enroll_again(connection, name, sealed, peer.secret, peer.relation, by)
            return user_of(find_account(connection, name))

    aenroll_peer: Final = off_the_loop(enroll_peer)

    def _require_unshared(self, connection: Connection, name: str, peer: Enrolment) -> None:
        # With one secret for two relations, a party to one could impersonate the agent in the
        # other, and a plain code of an account here would be valid for both.
        peers = connection.execute(
            select(UserRow.username, UserRow.totp_secret, UserRow.relation).where(
                UserRow.username != name, UserRow.totp_secret.is_not(None)
            )
        ).all()
        issued = connection.execute(select(PeeringRow.relation, PeeringRow.secret)).all()
        sealed = [Sealed(each.totp_secret.token, totp_purpose(each.username)) for each in peers]
        sealed += [Sealed(each.secret.token, peering_purpose(each.relation)) for each in issued]
        relations = {each.relation for each in (*peers, *issued)} - {""}
        if peer.relation in relations or holds(self._keyring(), sealed, peer.secret):
            raise ValueError(
                "secret: this database has it already, for another peer or for a peering that it "
                "issued itself; have the other domain issue one for this peer only"
            )

    def _enroll_again(
        self,
        connection: Connection,
        name: str,
        sealed: Sealed,
        secret: bytes,
        relation: str,
        by: str,
    ) -> None:
        now = self._clock()
        # If the same secret is enrolled again, its spent codes stay spent.
        stored = connection.execute(
            select(UserRow.totp_secret, UserRow.totp_previous).where(UserRow.username == name)
        ).one()
        known = [each for each in stored if each is not None]
        tokens = [Sealed(each.token, totp_purpose(name)) for each in known]
        same = holds(self._keyring(), tokens, secret)
        connection.execute(
            update(UserRow)
            .where(UserRow.username == name)
            .values(
                active=True,
                relation=relation,
                totp_secret=sealed,
                totp_previous=None,
                totp_previous_until=0.0,
            )
        )
        connection.execute(
            update(ApiKeyRow)
            .where(ApiKeyRow.username == name, ApiKeyRow.revoked_at.is_(None))
            .values(revoked_at=now)
        )
        if not same:
            # They stay spent also if another secret was enrolled in between.
            self._begin_secret(connection, name, spent=True)
        self._core.record(connection, by, name, "peer.enroll", "enrolled again; its keys revoked")
