"""Peers: agents of another domain, and the peerings by which they are verified."""

from __future__ import annotations

import secrets

from pydantic import SecretStr
from sqlalchemy import Connection, delete, insert, select, update

from pipelit_agents._discretion import discreet
from pipelit_agents._twins import off_the_loop
from pipelit_agents.accounts.lookup import find_account, find_agent, storable
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
from pipelit_agents.protocol.usernames import OPERATOR, require_username
from pipelit_agents.sealing.keyring import Sealed
from pipelit_agents.sealing.purposes import holds, peering_purpose, totp_purpose

__all__ = ["Peers"]


class Peers(AccountService):
    """Peerings and peers; a part of :class:`Users`."""

    def issue_peering(self, agent: str, *, domain: str, by: str = OPERATOR) -> SecretStr:
        """Gives an agent a secret by which it proves itself to one other domain, and to no other.

        Another for the same domain replaces the one before, which is no longer used.

        Args:
            agent: The agent.
            domain: What the other domain is called here; it has the form of a username.
            by: Who asked for it, for the record.

        Returns:
            The ``otpauth://…`` URI that the other domain enrols, shown once.

        Raises:
            InvalidUsername: A name has another form.
            UserNotFound: There is no such account.
            NotLocalAgent: It is a person or a peer.
            UserInactive: It was deactivated.
            ConfigurationError: There is no key to seal the secret under.
        """
        require_username(agent, argument="agent")
        require_username(domain, argument="domain")
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

    aissue_peering = off_the_loop(issue_peering)

    @discreet
    def enroll_peer(
        self, uri: str | SecretStr, *, name: str, domain: str, by: str = OPERATOR
    ) -> User:
        """Makes the account of another domain's agent, which is verified here and not acted as.

        It gets no API key; see :meth:`issue_api_key`. A peer that was deactivated may be enrolled
        anew from the same domain: its secret is replaced, and all its API keys are revoked. Where
        it is the secret of before, codes that were spent stay spent, and locks go on.

        Args:
            uri: What that domain's ``issue_peering`` returned.
            name: The agent's name, here as there.
            domain: What that domain is called here; it has the form of a username.
            by: Who asked for it, for the record.

        Raises:
            InvalidUsername: A name has another form.
            ValueError: The URI is not of this account, has a secret that is too short, or asks
                for what isn't spoken here; or another account has this secret.
            UserExists: The name is taken by anybody but a deactivated peer of that domain.
            ConfigurationError: There is no key to seal the secret under.
        """
        uri = SecretStr(uri) if isinstance(uri, str) else uri
        require_username(name, argument="name")
        require_username(domain, argument="domain")
        peer = read_uri(uri, name=name)
        with self._database.writing(durable=True) as connection:
            sealed = self._seal(connection, peer.secret, totp_purpose(name))
            self._lock_accounts(connection, name)
            before = connection.execute(
                select(UserRow.__table__).where(UserRow.username == name)
            ).one_or_none()
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
                self._enroll_anew(connection, name, sealed, peer.secret, peer.relation, by)
            return user_of(find_account(connection, name))

    aenroll_peer = off_the_loop(enroll_peer)

    def _require_unshared(self, connection: Connection, name: str, peer: Enrolment) -> None:
        # Who knows the secret of two relations can play the one's part in the other; and a plain
        # code of an account here would be good for both.
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
                "secret: this database has it already, for another peer or as one that it issued "
                "itself; have the other domain issue one for this peer alone"
            )

    def _enroll_anew(
        self,
        connection: Connection,
        name: str,
        sealed: Sealed,
        secret: bytes,
        relation: str,
        by: str,
    ) -> None:
        now = self._clock()
        # What was spent of a secret stays spent when the same one is enrolled again.
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
            # Nor is it good again when it is enrolled after another one.
            self._begin_secret(connection, name, spent=True)
        self._core.record(connection, by, name, "peer.enroll", "anew; its keys revoked")
