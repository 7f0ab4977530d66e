"""The main class: accounts, agents, credentials and audit of one database."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NoReturn

from pipelit_agents._bounds import require_count, require_flag
from pipelit_agents._core import Core
from pipelit_agents._discretion import discreet
from pipelit_agents._key_source import keyring_maker
from pipelit_agents._twins import off_the_loop
from pipelit_agents.accounts.permissions import Permissions
from pipelit_agents.accounts.possible_approvers import require_possible
from pipelit_agents.accounts.provisioning import ProvisionedAgent, provision
from pipelit_agents.accounts.second_factor import Mfa
from pipelit_agents.accounts.users import Users
from pipelit_agents.approvals.people import People
from pipelit_agents.audit.trail import AuditTrail
from pipelit_agents.credentials.store import Credentials
from pipelit_agents.database import maintenance
from pipelit_agents.database.engine import POOL_SIZE, Database
from pipelit_agents.database.key_row import require_fitting
from pipelit_agents.errors import ConfigurationError
from pipelit_agents.identity import acting
from pipelit_agents.identity.agent import Agent, require_handle
from pipelit_agents.identity.services import Identity
from pipelit_agents.ledger.opening import (
    LedgerContext,
    LedgerFactory,
    OpenedLedger,
    require_factory,
)
from pipelit_agents.ledger.questions import QuestionLimit
from pipelit_agents.operations.approval_services import Approvals
from pipelit_agents.operations.key_check import check_key
from pipelit_agents.operations.key_rotation import Keys
from pipelit_agents.policy import VerificationPolicy
from pipelit_agents.sealing.keyring import Keyring
from pipelit_agents.settings import Settings

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver

    from pipelit_agents.checkpoints.saver import SealedSaver
    from pipelit_agents.checkpoints.serializer import SealedSerializer
    from pipelit_agents.operations.changes import Change
    from pipelit_agents.operations.deployment_checks import Check

__all__ = ["Pipelit", "home_of"]

# Connections.
_MAX_POOL_SIZE: Final = 10_000


class Pipelit:
    """Identity and credentials of one database with one keyring.

    Creating one opens no connection and reads no key, so you can do it at the top of a module.

    Args:
        database_url: An SQLAlchemy URL, ``sqlite:///…`` or ``postgresql+psycopg://…``.
        encryption_keys: Fernet keys, newest first; or a synchronous function that returns them, for
            example from a secrets manager. It is called when the first key is needed, after five
            minutes, at a rotation, and when a value can't be decrypted with the known keys; for
            that at most once a minute in the long run. One thread calls it at a time.
        redis_url: The Redis in which the ledger counts attempts, for many processes:
            ``redis://…``, ``rediss://…``, ``unix://…``,
            ``redis+sentinel://host:26379,host:26379/service/0`` or ``redis+cluster://host:6379``.
            Without it, the ledger counts in the SQL database. All processes of a database have to
            use the same.
        ledger: Makes a ledger of your own instead: a function that takes a
            ``pipelit_agents.ledger.LedgerContext`` and returns an object with the methods of
            ``pipelit_agents.ledger.Ledger``. It is called once, when a ledger is first
            needed. Let ``pipelit_agents.testing.LedgerSuite`` test such a ledger.
        policy: The limits of verification.
        pool_size: The maximum number of connections of this process to a PostgreSQL server.
        clock: A function that returns Unix seconds, for tests. By default each machine's clock, and
            for the ledger the clock of its server. If it has a method ``sleep``, as
            ``pipelit_agents.testing.Clock`` has, callers that wait for a code call that with
            the number of seconds instead of waiting.

    Raises:
        ConfigurationError: ``encryption_keys`` is one key or an async function, ``pool_size``
            isn't a whole number from 1 to 10,000, ``ledger`` isn't a synchronous function, or both
            ``ledger`` and ``redis_url`` are set. Errors in other settings are raised when they are
            first used; then also EncryptionKeysUnavailable, if the function of ``encryption_keys``
            failed.

    Attributes:
        users: The accounts.
        credentials: The encrypted secrets.
        permissions: What each role may do, for code that acts for others.
        mfa: The second factors of people.
        approvals: Questions to people, and their answers.
        keys: Which key encrypts what, and key rotation.
        audit: The audit trail.
        policy: The limits.

    Example:
        ```python
        pipelit = Pipelit.from_env()
        pipelit.create_schema()
        alice = pipelit.users.create("alice")
        new = pipelit.users.create_agent("agent_writer", owner="alice", purpose="writes")
        writer = pipelit.agent("agent_writer")
        ```
    """

    @discreet
    def __init__(
        self,
        *,
        database_url: str,
        encryption_keys: Sequence[str] | Callable[[], Sequence[str] | str],
        redis_url: str | None = None,
        ledger: LedgerFactory | None = None,
        policy: VerificationPolicy | None = None,
        pool_size: int = POOL_SIZE,
        clock: Callable[[], float] | None = None,
    ) -> None:
        if not isinstance(database_url, str):
            raise ConfigurationError(
                "database_url must be text, for example sqlite:///agents.db, not "
                f"{type(database_url).__name__}"
            )
        if redis_url is not None and not isinstance(redis_url, str):
            raise ConfigurationError(
                "redis_url must be text, for example redis://localhost:6379/0, not "
                f"{type(redis_url).__name__}"
            )
        if ledger is not None and redis_url:
            raise ConfigurationError(
                "ledger and redis_url name two ledgers, and a Pipelit has one: leave out either"
            )
        self._build(
            lambda: database_url,
            keyring_maker(encryption_keys),
            lambda: redis_url or "",
            ledger,
            policy,
            pool_size,
            clock,
        )

    @classmethod
    def from_env(
        cls,
        *,
        ledger: LedgerFactory | None = None,
        policy: VerificationPolicy | None = None,
        pool_size: int = POOL_SIZE,
        clock: Callable[[], float] | None = None,
    ) -> Pipelit:
        """Create one with settings from the environment, or from ``.env`` in the working directory.

        ``FIELD_ENCRYPTION_KEY`` has the keys, newest first, separated by commas.
        ``PIPELIT_DATABASE_URL`` has the database, by default ``sqlite:///.pipelit/agents.db``.
        ``PIPELIT_REDIS_URL`` has the ledger; by default it is in that database.
        With ``ledger``, it must be unset.
        """
        self = cls.__new__(cls)
        self._build(
            lambda: Settings.read().database_url,
            lambda: Settings.read().keyring(),
            lambda: Settings.read().redis_url.get_secret_value(),
            ledger,
            policy,
            pool_size,
            clock,
        )
        return self

    def _build(
        self,
        database_url: Callable[[], str],
        keyring: Callable[[], Keyring],
        redis_url: Callable[[], str],
        ledger: LedgerFactory | None,
        policy: VerificationPolicy | None,
        pool_size: int,
        clock: Callable[[], float] | None,
    ) -> None:
        try:
            require_count(pool_size, "pool_size", most=_MAX_POOL_SIZE)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(str(error)) from None
        if policy is not None and not isinstance(policy, VerificationPolicy):
            raise ConfigurationError(
                f"policy must be a VerificationPolicy, not {type(policy).__name__}"
            )
        if clock is not None and not callable(clock):
            raise ConfigurationError(
                f"clock must be a function that returns Unix seconds, not {type(clock).__name__}"
            )
        require_factory(ledger)
        self._make_keyring = keyring
        self._keyring: Keyring | None = None
        self._redis_url = redis_url
        self._clock = clock
        self.policy: VerificationPolicy = policy or VerificationPolicy()
        self._database = Database(database_url, pool_size=pool_size)
        context = LedgerContext(self._database, self.policy, clock)
        self._ledger = OpenedLedger(context, redis_url, ledger)
        core = Core(
            database=self._database,
            keyring=self._open_keyring,
            ledger=self._ledger.open,
            policy=self.policy,
            clock=clock or time.time,
            shared_clock=clock,
            sleep=getattr(clock, "sleep", None),
        )
        self._core = core
        self._identity = Identity(core)
        self.users: Users = Users(core)
        self.permissions: Permissions = Permissions(core)
        self.mfa: Mfa = Mfa(core, self._identity)
        people = People(
            require_active=self.mfa._require_active,
            require_possible=partial(require_possible, core),
            verify=self.mfa._verify,
        )
        self.credentials: Credentials = Credentials(core)
        self.audit: AuditTrail = AuditTrail(core.database, core.keyring, core.clock)
        self.approvals: Approvals = Approvals(core, people, self.credentials, self.audit)
        self.keys: Keys = Keys(core, self.audit, self.mfa)

    @property
    def database_url(self) -> str:
        """The database's URL, with the password masked."""
        return self._database.engine.url.render_as_string()

    def create_schema(self) -> None:
        """Create the tables, or migrate them to the newest version.

        Raises:
            ConfigurationError: The URL can't be used.
            StorageError: The database can't be reached or refuses.
        """
        maintenance.create_schema(self._database)

    acreate_schema: Final = off_the_loop(create_schema)

    def check_key(self) -> bool:
        """Check that the key and the database belong together.

        Returns:
            False if nothing was encrypted in the database yet.

        Raises:
            ConfigurationError: There is no key, or the newest one isn't the database's.
            StorageError: The database can't be reached or isn't migrated.
        """
        return check_key(self._core)

    acheck_key: Final = off_the_loop(check_key)

    def check_ledger(self) -> str:
        """Require that attempts can be counted.

        Returns:
            The ledger: ``the database``, the address of the Redis with its password masked, or
            what a ledger of your own returns.

        Raises:
            ConfigurationError: The address can't be used, or ``ledger`` made no ledger.
            LedgerUnavailable: The Redis can't be reached, or refuses.
        """
        return self._ledger.open().check()

    acheck_ledger: Final = off_the_loop(check_ledger)

    def check(
        self,
        *,
        deploy: bool = False,
        folder: str | Path = ".",
        environ: Mapping[str, str] | None = None,
    ) -> Sequence[Check]:
        """Check the deployment. This changes nothing.

        Args:
            deploy: Whether to include the checklist for production.
            folder: The folder of ``.env`` and ``langgraph.json``.
            environ: The environment; by default this process's.

        Returns:
            All checks, each with the result, why it matters, and the fix.
        """
        from pipelit_agents.operations.deployment_checks import Installation, check_deployment

        installation = Installation(
            database=self._database,
            keyring=self._open_keyring,
            redis_url=self._redis_url,
            check_ledger=self.check_ledger,
            count_values=self.keys._own,
            audit=self.audit,
            policy=self.policy,
            clock=self._clock,
        )
        environ = os.environ if environ is None else environ
        return check_deployment(installation, Path(folder), environ, deploy=deploy)

    acheck: Final = off_the_loop(check)

    def apply(
        self,
        path: str | Path,
        *,
        dry_run: bool = False,
        environ: Mapping[str, str] | None = None,
    ) -> Sequence[Change]:
        """Make the people, agents, API keys and credentials that a YAML file declares.

        What is there and fits is left alone, and so is what the file doesn't name. All changes are
        one transaction. New API keys and provisioning URIs are written to files of mode 0600, in
        the folder that the file names. A key whose file is missing is replaced and revoked. The
        operations page describes the file.

        Args:
            path: The file.
            dry_run: Whether to change nothing, and to return what would change.
            environ: The variables that credentials may name; by default this process's.

        Returns:
            The changes, in their order; empty if everything fits.

        Raises:
            ConfigurationError: The file is malformed, a secret can't be read or written, or
                something can't be changed, such as an owner. The message names each path.
            TypeError: ``path`` isn't a path, or ``dry_run`` isn't a bool.
            StorageError: The database can't be reached or isn't migrated.
        """
        from pipelit_agents.operations.applying import apply_accounts

        require_flag(dry_run, "dry_run")
        environ = os.environ if environ is None else environ
        return apply_accounts(
            self._core, self.users, self.credentials, path, environ, dry_run=dry_run
        )

    aapply: Final = off_the_loop(apply)

    def backup(self, path: str | Path) -> None:
        """Copy an SQLite database completely and consistently while it is in use.

        Only the file's owner can read the copy. To use it, you need the encryption key of that
        time, which isn't in the copy.

        Args:
            path: A file that doesn't exist yet.

        Raises:
            ConfigurationError: The file exists, or the database is PostgreSQL; use ``pg_dump``.
            StorageError: The copy failed.
        """
        maintenance.backup(self._database, Path(path))

    abackup: Final = off_the_loop(backup)

    def agent(self, username: str) -> Agent:
        """Return the handle by which code acts as one agent user.

        The account is looked up when the handle is used, and not here. A name that no account has
        raises ``UserNotFound`` at the first use.

        Raises:
            InvalidUsername: The name is not in its normal form.
        """
        return Agent(username, self._identity, self)

    def acting_for(self, username: str) -> AbstractContextManager[None]:
        """Return a context manager for code that acts for an authenticated person.

        Credentials that are opened per person are this person's inside the block. A person's own
        attempts are counted apart from those of strangers, so nobody else's wrong codes can prevent
        the person from using the second factor inside the block.

        It also applies to tasks that begin in the block, and to threads that get its context, as
        those of ``asyncio.to_thread`` and LangChain do, until the block ends: wait for them inside
        of it. It applies to no other process. A block within another one replaces it for its
        length. On a LangGraph Server with authentication it isn't needed, because the server's user
        is the person.

        Args:
            username: The person. Take it from your own authentication, never from a model, a
                graph's state or a client's input.

        Returns:
            A context manager. In a generator, the block ends with the generator, and its consumer
            runs inside of it: a generator must not wait at a ``yield`` in a block while another
            block begins in the same context.

        Raises:
            InvalidUsername: The name is not in its normal form.
            RuntimeError: At the beginning of the block: a generator with another block waits here,
                or the block is in a generator that is read inside another person's block.

        Example:
            ```python
            with pipelit.acting_for("alice"):
                graph.invoke(Command(resume={"username": "alice", "code": code}), config)
            ```
        """
        return acting.acting_for(self._database, username)

    def provision_agent(
        self,
        creator: Agent,
        *,
        purpose: str,
        username: str | None = None,
        prefix: str | None = None,
    ) -> ProvisionedAgent:
        """Create an agent that belongs to an agent, and store its API key for that owner only.

        Another call by the same creator with the same username creates nothing and returns the
        existing agent. Concurrent calls create one account.

        Args:
            creator: The agent that creates the new agent and will own it.
            purpose: What the new agent is for, in a few words.
            username: The new agent's name, 139 characters at most. Without one, a name is derived
                from the purpose, and each call creates another agent.
            prefix: A prefix for the name; it is added if the name doesn't begin with it. Use it if
                a model chooses the name, so that the model can't take any other name. The rest is
                1 or more of ``a-z 0-9 _ -``. By default the name is used unchanged.

        Returns:
            The agent's name, and the name of the credential that has its key.

        Raises:
            ValueError: The creator is an agent of another ``Pipelit``.
            InvalidUsername: The name or the prefix is malformed or too long.
            RateLimited: The creator was refused 20 times in the last minute.
            UserExists: The name is taken, and not by an active agent that this creator created
                here. Only the audit has the reason.
            UserInactive: The creator was deactivated.
            UserNotFound: There is no such creator.
            NotLocalAgent: The creator is a person.
            NotPermitted: The creator may not create agents.
            QuotaExceeded: The root owner, the creator, or an agent among its owners has as many
                active agents as the policy allows.
            CredentialError: The credential's name is taken.
            ConfigurationError: There is no key to encrypt secrets with.
        """
        require_handle(creator, "creator")
        if home_of(creator) is not self:
            raise ValueError(f"{creator!r} belongs to another Pipelit: it can't create agents here")
        return provision(
            self._core,
            self.users,
            self.credentials,
            self._identity.bad_input.questions,
            creator=creator,
            purpose=purpose,
            username=username,
            prefix=prefix,
        )

    aprovision_agent: Final = off_the_loop(provision_agent)

    def close(self) -> None:
        """Close all connections; the next use opens new ones."""
        self.users.refusals.try_to_flush()
        try:
            self._ledger.close()
        finally:
            self._database.close()

    aclose: Final = off_the_loop(close)

    def __enter__(self) -> Pipelit:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Pipelit:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def checkpoint_serializer(self) -> SealedSerializer:
        """Return a serializer for any checkpointer that encrypts with ``FIELD_ENCRYPTION_KEY``.

        Values that a checkpointer stores without its serializer are not encrypted: see
        ``sealed_saver``. The key is read when the first checkpoint is written or read.
        """
        from pipelit_agents.checkpoints.serializer import SealedSerializer

        return SealedSerializer(self._open_keyring, require_fitting=self._require_fitting)

    def sealed_saver(
        self, saver: BaseCheckpointSaver[Any], *, clear_metadata: Sequence[str] = ()
    ) -> SealedSaver:
        """Return a checkpointer that encrypts state and metadata and stores them in another one.

        It can do what the other one can, and copy threads.

        Args:
            saver: Any checkpointer; it isn't changed.
            clear_metadata: Metadata keys that are also stored in clear, so that the other
                checkpointer filters by them. ``list`` filters by all others after decrypting them.
        """
        from pipelit_agents.checkpoints.saver import SealedSaver

        return SealedSaver(
            saver,
            self._open_keyring,
            clear_metadata=clear_metadata,
            require_fitting=self._require_fitting,
        )

    def _require_fitting(self) -> None:
        # Checkpoints are in another database, so this can't be in the transaction of the write.
        require_fitting(self._database, self._open_keyring())

    def _open_keyring(self) -> Keyring:
        if self._keyring is None:
            self._keyring = self._make_keyring()
        # If a function returns the keys, this raises its failure before anything is begun.
        len(self._keyring)
        return self._keyring

    def __repr__(self) -> str:
        return "Pipelit()"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Pipelit can't be pickled: create it where it is used")


def home_of(agent: Agent) -> Pipelit:
    """Return the ``Pipelit`` that made a handle, for this package's own graphs and tools.

    A handle has no public attribute for it, so that access to one agent isn't access to all
    accounts.
    """
    home = agent._home
    if not isinstance(home, Pipelit):
        raise TypeError("an Agent must be made by a Pipelit: pipelit.agent(username)")
    return home


def questions_of(agent: Agent) -> QuestionLimit:
    """Return what limits the refused requests of the agents of a handle's ``Pipelit``."""
    return home_of(agent)._identity.bad_input.questions
