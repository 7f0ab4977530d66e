"""The credentials of one database: store, replace, test and delete them.

`Credentials` also lists them (``lists.py``), and opens them for code (``access.py``).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from pydantic import SecretStr
from sqlalchemy import Connection

from pipelit_agents._discretion import discreet
from pipelit_agents._twins import off_the_loop
from pipelit_agents.credentials.access import CredentialAccess
from pipelit_agents.credentials.authenticator import separated
from pipelit_agents.credentials.described import described
from pipelit_agents.credentials.lists import CredentialLists
from pipelit_agents.credentials.rows import (
    CredentialInfo,
    StoredCredential,
    delete_credential,
    delete_credentials,
    is_stored,
    store,
)
from pipelit_agents.credentials.rules import (
    Fields,
    require_fields,
    require_reachable,
    secrets_in,
    unknown_accounts,
    warnings_about,
)
from pipelit_agents.credentials.whose import of_person
from pipelit_agents.errors import UnknownAccountWarning
from pipelit_agents.identity.agent import Agent
from pipelit_agents.protocol.usernames import OPERATOR, require_username

if TYPE_CHECKING:
    from pipelit_agents.credentials.trial import CredentialTest

__all__ = ["Credentials"]


class Credentials(CredentialLists, CredentialAccess):
    """The credentials of one database; ``pipelit.credentials``.

    Args:
        core: The database, and the encryption keys.
    """

    @discreet
    def put(
        self,
        name: str,
        value: str | SecretStr | Mapping[str, str | SecretStr],
        *,
        kind: str,
        created_by: str,
        public: Mapping[str, object] | None = None,
        allow: Sequence[str] | None = None,
        person: str | None = None,
        replace: bool = True,
        on_warning: Callable[[Warning], object] | None = None,
    ) -> CredentialInfo:
        """Encrypt and store a secret under a name; an existing credential is replaced.

        A secret may be a document: a connection string, a header, a key file, settings in JSON,
        YAML, INI or ``.env`` format. The passwords and keys in it are found by well-known formats
        and names, and each is searched for separately. The result names the parts that are
        searched for and those that aren't. Store a secret that isn't found as a separate field.

        The seed of an authenticator is stored too, and never opened: a secret whose whole text is
        an ``otpauth://totp/…`` URI, or an ``otpauth-migration://…`` export of one account, gives
        codes. For a single secret, ``NAME:code`` refers to its codes; for one of several by name,
        ``NAME:FIELD`` does, and ``NAME:code`` too if no other is an authenticator. Each code is
        handed out once in all processes, so a caller may have to wait for the next one: three
        periods at most, or for the seconds in the public field ``longest_wait``. The public fields
        ``issuer``, ``account``, ``digits``, ``period`` and ``algorithm`` are added; of several
        authenticators by name, in ``authenticators``.

        Args:
            name: The name, which follows the rules for usernames.
            value: The secret, or several secrets by name.
            kind: A label of your own, for example ``llm``. ``list`` can select by it. The kind
                ``totp`` is for codes: a single secret may be the seed in Base32, as services
                display it for those who can't scan, and something else is refused. Nothing else
                depends on the kind.
            created_by: The name of who stores it, for the audit log. It is only a record, and no
                account need have it. If a credential is replaced, its ``updated_by`` changes, and
                its ``created_by`` stays.
            public: JSON fields that are not secret, for example ``{"base_url": …}``. They are
                bound to the secret: if they are changed in the database, it can't be opened.
                They are stored in clear, so a field is refused if its name or form says that it
                is a secret.
            allow: The only accounts that may open it: agents, by the argument ``agent``, and
                persons for whom the code acts. By default any account may. A name that no account
                has is stored too, with a warning.
            person: Whose own credential it is, beside the shared one of the name. It opens with
                ``per_person=True``, and only while the code acts for this person.
            replace: Whether an existing credential is replaced; if not, it is left as it is.
            on_warning: What to call with each warning, to display it; by default, Python's
                ``warnings`` decide.

        Warns:
            ShortSecretWarning: A secret, or a part of one, is too short to be searched for.
            CommonSecretWarning: A secret is a single ordinary word, or digits in a row. A part
                like this isn't searched for. A whole secret is, so ordinary text that contains it
                is refused.
            UnknownAccountWarning: ``allow`` names something that isn't an account.

        Returns:
            The displayable description, with the names of the parts that are searched for.

        Raises:
            CredentialError: The name, the value or another argument is unusable. The error says
                which.
            CredentialExists: There is one of that name, and ``replace`` is False.
            AccountError: ``person`` isn't an active person of this database.
            ConfigurationError: There is no encryption key, or it isn't the key of this database.
        """
        with self._core.database.writing(durable=True) as connection:
            row = self.put_in(
                connection,
                name,
                value,
                kind=kind,
                created_by=created_by,
                public=public,
                allow=allow,
                person=person,
                replace=replace,
                on_warning=on_warning,
            )
            return row.info(self._core.keyring())

    aput: Final = off_the_loop(put)

    @discreet
    def put_in(
        self,
        connection: Connection,
        name: str,
        value: str | SecretStr | Mapping[str, str | SecretStr],
        *,
        kind: str,
        created_by: str,
        public: Mapping[str, object] | None = None,
        allow: Sequence[str] | None = None,
        person: str | None = None,
        replace: bool = True,
        on_warning: Callable[[Warning], object] | None = None,
    ) -> StoredCredential:
        """As ``put``, within a transaction of the caller on the same database."""
        require_fields(name, kind, created_by, public, allow)
        texts, secrets, public = separated(name, kind, secrets_in(name, value), public)
        found = described(texts)
        fields = Fields.of(name, kind, public, allow)
        whose = of_person(connection, person, active=True)
        require_reachable(connection, fields, whose)
        warned = [category(message) for message, category in warnings_about(name, texts, found)]
        warned += map(UnknownAccountWarning, unknown_accounts(connection, fields))
        for each in warned:
            if on_warning is not None:
                on_warning(each)
            else:
                # Report the line that called put: skip put itself and its two wrappers.
                warnings.warn(each, stacklevel=5)
        return store(
            self._core, connection, fields, secrets, found, created_by, whose, replace=replace
        )

    @discreet
    def has_in(
        self,
        connection: Connection,
        name: str,
        value: str | SecretStr | Mapping[str, str | SecretStr],
        *,
        kind: str,
        public: Mapping[str, object] | None = None,
        allow: Sequence[str] | None = None,
        person: str | None = None,
    ) -> bool:
        """Return whether ``put_in`` with these arguments would change nothing.

        The secrets are compared and not shown, so nothing is recorded.
        """
        _, secrets, public = separated(name, kind, secrets_in(name, value), public)
        fields = Fields.of(name, kind, public, allow)
        whose = of_person(connection, person)
        return is_stored(self._core, connection, fields, secrets, whose)

    def delete(self, name: str, *, person: str | None = None, by: str = OPERATOR) -> None:
        """Delete a credential.

        Args:
            name: The credential.
            person: Whose own credential it is; by default the shared one.
            by: The requester's name, for the audit.

        Raises:
            CredentialNotFound: No credential has that name.
            AccountError: ``person`` isn't a person of this database.
        """
        with self._core.database.writing(durable=True) as connection:
            whose = of_person(connection, person)
            delete_credential(self._core, connection, name, whose, by)

    adelete: Final = off_the_loop(delete)

    def delete_all(self, *, person: str, by: str = OPERATOR) -> int:
        """Delete all credentials that are one person's own; shared ones stay.

        Args:
            person: The person, who may be deactivated.
            by: The requester's name, for the audit.

        Returns:
            How many there were.

        Raises:
            AccountError: ``person`` isn't a person of this database.
        """
        # Not None either: that would be the shared ones.
        name = require_username(person)
        with self._core.database.writing(durable=True) as connection:
            return delete_credentials(self._core, connection, of_person(connection, name), by)

    adelete_all: Final = off_the_loop(delete_all)

    def test(
        self,
        name: str,
        *,
        agent: Agent | None = None,
        person: str | None = None,
        timeout: float = 10.0,
        by: str = "",
        public_only: bool = False,
    ) -> CredentialTest:
        """Test whether a credential is good, by asking its service once; on record as "test".

        A model's provider (public field ``model`` or ``model_provider``) lists its models. Another
        service answers a GET of the public field ``test_url``; its ``test_header`` and
        ``test_scheme`` are as for ``http_auth``. A database gets ``SELECT 1``. Of a TOTP seed
        no code is spent.

        Args:
            name: The credential, or ``credential:field`` for one of several secrets.
            agent: The agent that opens it. A credential with an ``allow`` list needs an agent or a
                person on the list.
            person: The person whose own credential is tested, for whom the test acts; by default
                the shared one is tested.
            timeout: The time limit of the test in seconds, at most 600.
            by: The requester's name for the audit, if no agent opens it.
            public_only: Whether to ask only a server with a public address, and no database. For
                people who may store a credential, but aren't to reach what this machine reaches.

        Raises:
            CredentialError: It is missing, or not allowed for this agent and person.
            NobodyAuthenticated: ``person`` isn't an active person of this database.
            NoPersonalCredential: ``person`` has none of that name.
            UnsealError: It can't be decrypted with this keyring, or was tampered with.
        """
        # Imported late: importing this package must stay fast.
        from pipelit_agents.credentials.trial import Trial

        return Trial(self._core, name, agent, person, timeout, by=by, public_only=public_only).run()

    async def atest(
        self,
        name: str,
        *,
        agent: Agent | None = None,
        person: str | None = None,
        timeout: float = 10.0,  # noqa: ASYNC109 - of the whole test, also in a thread
        by: str = "",
        public_only: bool = False,
    ) -> CredentialTest:
        """As ``test``, off the event loop."""
        from pipelit_agents.credentials.trial import Trial

        return await Trial(
            self._core, name, agent, person, timeout, by=by, public_only=public_only
        ).arun()
