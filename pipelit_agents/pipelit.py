"""The one noun that a user holds: accounts, agents, credentials and audit of one database."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from pydantic import SecretStr

from pipelit_agents._bounds import require_count
from pipelit_agents._core import Core
from pipelit_agents._discretion import discreet
from pipelit_agents._twins import off_the_loop
from pipelit_agents.accounts.provisioning import ProvisionedAgent, provision
from pipelit_agents.accounts.second_factor import Mfa
from pipelit_agents.accounts.users import Users
from pipelit_agents.approvals.register import Register
from pipelit_agents.approvals.service import Approvals, People
from pipelit_agents.audit.trail import AuditTrail
from pipelit_agents.credentials.store import Credentials
from pipelit_agents.database.engine import POOL_SIZE, Database
from pipelit_agents.database.key_match import newest_value
from pipelit_agents.errors import ConfigurationError, UnsealError
from pipelit_agents.identity import acting
from pipelit_agents.identity.agent import Agent, home_of
from pipelit_agents.identity.proofs import Verifier
from pipelit_agents.ledger.opening import (
    LedgerContext,
    LedgerFactory,
    OpenedLedger,
    require_factory,
)
from pipelit_agents.operations.key_rotation import Keys
from pipelit_agents.policy import VerificationPolicy
from pipelit_agents.sealing.key_source import KeySource, LiveKeyring
from pipelit_agents.sealing.keyring import Keyring
from pipelit_agents.settings import Settings

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver

    from pipelit_agents.checkpoints.saver import SealedSaver
    from pipelit_agents.checkpoints.serializer import SealedSerializer
    from pipelit_agents.operations.deployment_checks import Check

__all__ = ["Pipelit"]

_LARGEST_POOL: Final = 10_000


class Pipelit:
    """Identity and credentials of one database under one keyring.

    Making one opens nothing and reads no key, so that it can stand at the top of a graph's module.

    Args:
        database_url: An SQLAlchemy URL, ``sqlite:///…`` or ``postgresql+psycopg://…``.
        encryption_keys: Fernet keys, newest first; or a synchronous function that returns them, for
            example from a secrets manager. It is called when the first key is needed, after five
            minutes, at a rotation, and when something doesn't open under the keys that are known;
            for that at most once a minute in the long run. One thread calls it at a time.
        redis_url: Where the ledger counts attempts, for many processes: ``redis://…``,
            ``rediss://…``, ``unix://…``, ``redis+sentinel://host:26379,host:26379/service/0`` or
            ``redis+cluster://host:6379``. Without one it counts in the SQL database. All processes
            of a database name the same.
        ledger: Makes a ledger of your own instead: a function that takes a
            :class:`~pipelit_agents.ledger.LedgerContext` and returns an object with the methods of
            :class:`~pipelit_agents.ledger.Ledger`. It is called once, when a ledger is first
            needed. Let :class:`~pipelit_agents.testing.LedgerSuite` test such a ledger.
        policy: The limits of verification.
        pool_size: How many connections to a PostgreSQL server this process has at the most.
        clock: Unix seconds, for tests of time. By default each machine's own, and for the ledger
            that of its server.

    Raises:
        ConfigurationError: ``encryption_keys`` is one key or an async function, ``pool_size`` no
            whole number from 1 to 10,000, ``ledger`` no synchronous function, or there are both
            ``ledger`` and ``redis_url``. What is wrong with the other settings is said when they
            are first used; then also EncryptionKeysUnavailable, where the function of
            ``encryption_keys`` failed.

    Attributes:
        users: The accounts.
        credentials: The sealed secrets.
        mfa: The second factors of people.
        approvals: Questions to people, and their answers.
        keys: What stands under which key, and replacing a key.
        audit: What was decided.
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
        if ledger is not None and redis_url:
            raise ConfigurationError(
                "ledger and redis_url name two ledgers, and a Pipelit has one: leave out either"
            )
        if callable(encryption_keys):
            live = LiveKeyring(KeySource(encryption_keys))
            self._build(
                lambda: database_url,
                lambda: live,
                lambda: redis_url or "",
                ledger,
                policy,
                pool_size,
                clock,
            )
            return
        if isinstance(encryption_keys, str):
            raise ConfigurationError(
                "encryption_keys is a list of keys, newest first, or a function that returns one"
            )
        if isinstance(encryption_keys, Set):
            raise ConfigurationError(
                "encryption_keys is a set, which has no order: give a list of keys, newest first"
            )
        keys = tuple(encryption_keys)
        for position, key in enumerate(keys, 1):
            if not isinstance(key, str):
                raise ConfigurationError(
                    "encryption_keys has to be a list of text, newest first, and its item "
                    f"{position} is {type(key).__name__}"
                )
        # What is kept in closures is shown where they fail.
        hidden = tuple(map(SecretStr, keys))
        self._build(
            lambda: database_url,
            lambda: Keyring(*[each.get_secret_value() for each in hidden]),
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
        """Takes the settings from the environment, or from ``.env`` in the working directory.

        ``FIELD_ENCRYPTION_KEY`` holds the keys, newest first, comma-separated;
        ``PIPELIT_DATABASE_URL`` the database, by default ``sqlite:///.pipelit/agents.db``;
        ``PIPELIT_REDIS_URL`` the ledger, by default in that database; with ``ledger`` it has to be
        unset.
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
            require_count(pool_size, "pool_size", most=_LARGEST_POOL)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(str(error)) from None
        require_factory(ledger)
        self._make_keyring = keyring
        self._keyring: Keyring | None = None
        self._redis_url = redis_url
        self._clock = clock
        self.policy = policy or VerificationPolicy()
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
        )
        self._core = core
        self._verifier = Verifier(core)
        self.users = Users(core)
        register = Register(core)
        self.mfa = Mfa(core, self._verifier, register)
        people = People(
            require_active=self.mfa._require_active,
            has_factor=lambda username: self.mfa.status(username).on,
            verify=self.mfa._verify,
        )
        self.approvals = Approvals(register, people)
        self.credentials = Credentials(core)
        self.audit = AuditTrail(core.database, core.keyring, core.clock)
        self.keys = Keys(core, self.audit, register, self.mfa)

    @property
    def database_url(self) -> str:
        """Where the database is; a password in it is masked."""
        return self._database.engine.url.render_as_string()

    def create_schema(self) -> None:
        """Makes the tables, or brings them to the newest form.

        Raises:
            ConfigurationError: The URL can't be used.
            StorageError: The database can't be reached or refuses.
        """
        self._database.create_schema()

    acreate_schema = off_the_loop(create_schema)

    def check_key(self) -> bool:
        """Decrypt one value, to make sure that the key and the database belong together.

        Returns:
            False where nothing is encrypted yet.

        Raises:
            ConfigurationError: There is no key, or it doesn't decrypt the value.
            StorageError: The database can't be reached or isn't migrated.
        """
        with self._database.reading() as connection:
            value = newest_value(connection)
        if value is None:
            return False
        try:
            value.require_readable(self._open_keyring())
        except ConfigurationError as error:
            raise ConfigurationError(
                f"the database at {self.database_url} holds encrypted values, so put the key that "
                f"encrypted them back: {error}"
            ) from None
        except UnsealError:
            raise ConfigurationError(
                f"the database at {self.database_url} holds values that this FIELD_ENCRYPTION_KEY "
                "doesn't decrypt: put the key that encrypted them back (add it after a newer one, "
                "separated by a comma), or use another database"
            ) from None
        return True

    acheck_key = off_the_loop(check_key)

    def check_ledger(self) -> str:
        """Makes sure that attempts can be counted.

        Returns:
            Where: ``the database``, the address of the Redis, its password masked, or what a ledger
            of your own says.

        Raises:
            ConfigurationError: The address can't be used, or ``ledger`` made no ledger.
            LedgerUnavailable: The Redis can't be reached, or refuses.
        """
        return self._ledger.open().check()

    acheck_ledger = off_the_loop(check_ledger)

    def check(
        self,
        *,
        deploy: bool = False,
        folder: str | Path = ".",
        environ: Mapping[str, str] | None = None,
    ) -> Sequence[Check]:
        """Looks whether all is as it should be; changes nothing.

        Args:
            deploy: Go through the checklist for production too.
            folder: Where ``.env`` and ``langgraph.json`` are.
            environ: The environment; by default this process's.

        Returns:
            Each item, with what was found, why it matters, and what fixes it.
        """
        from pipelit_agents.operations.deployment_checks import Deployment, Installation

        installation = Installation(
            database=self._database,
            keyring=self._open_keyring,
            redis_url=self._redis_url,
            check_ledger=self.check_ledger,
            keys=self.keys,
            audit=self.audit,
            policy=self.policy,
            clock=self._clock,
        )
        environ = os.environ if environ is None else environ
        return Deployment(installation, Path(folder), environ).checks(deploy=deploy)

    acheck = off_the_loop(check)

    def backup(self, path: str | Path) -> None:
        """Copies an SQLite database, whole and consistent, while it is used.

        The copy is readable by its owner only. It opens with the key of its day, which isn't in it.

        Args:
            path: A file that isn't there yet.

        Raises:
            ConfigurationError: The file is there, or the database is a PostgreSQL, which is copied
                with ``pg_dump``.
            StorageError: The copy failed.
        """
        self._database.backup(Path(path))

    abackup = off_the_loop(backup)

    def agent(self, username: str) -> Agent:
        """The handle by which code acts as one agent user. It is looked up when it is used.

        Raises:
            InvalidUsername: The name is not in its normal form.
        """
        return Agent(username, self._verifier, self)

    def acting_for(self, username: str) -> AbstractContextManager[None]:
        """Say that the block acts for a person whom the application has authenticated.

        A person's own attempts are counted apart from those of strangers, so nobody else's wrong
        codes can keep her from using her second factor inside the block.

        Args:
            username: The person. Take it from your own authentication, never from a model, from a
                graph's state or from what a client sends.

        Returns:
            A context manager. It holds for the tasks and threads that take over the context.

        Raises:
            InvalidUsername: The name is not in its normal form.

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
        """Makes an agent that belongs to an agent, and seals its API key for that one alone.

        Called again by the same creator with the same username, it makes nothing and tells what
        is there; however many call at once, one account comes of it.

        Args:
            creator: Who makes it, and will own it.
            purpose: What it is for, in a few words.
            username: Its name, 139 characters at most. Without one, a name is made from the
                purpose, and each call makes another agent.
            prefix: What the name has to begin with, and is put before one that doesn't: of a name
                that a model chose, so that it takes no other. What follows it is 1 or more of
                ``a-z 0-9 _ -``. By default the name is taken as it is given.

        Returns:
            The agent's name, and the name of the credential that holds its key.

        Raises:
            ValueError: The creator is an agent of another ``Pipelit``.
            InvalidUsername: The name or the prefix has another form, or is too long.
            RateLimited: The creator was refused 20 times in the last minute.
            UserExists: The name is taken by anybody but a living agent that this creator made
                here; by whom is in the audit only.
            UserInactive: The creator was deactivated.
            UserNotFound: There is no such creator.
            NotLocalAgent: The creator is a person.
            NotPermitted: The creator may not make agents.
            QuotaExceeded: The root owner, the creator, or an agent above it has as many living
                agents as the policy allows.
            CredentialError: The credential's name is taken.
            ConfigurationError: There is no key to seal secrets under.
        """
        if not isinstance(creator, Agent):
            raise TypeError('creator has to be a handle: pipelit.agent("agent_lead")')
        if home_of(creator) is not self:
            raise ValueError(f"{creator!r} belongs to another Pipelit: it can't create agents here")
        return provision(
            self._core,
            self.users,
            self.credentials,
            self._verifier.questions,
            creator=creator,
            purpose=purpose,
            username=username,
            prefix=prefix,
        )

    aprovision_agent = off_the_loop(provision_agent)

    def close(self) -> None:
        """Closes all connections; the next use opens new ones."""
        self.users.refusals.try_to_flush()
        self._ledger.close()
        self._database.close()

    aclose = off_the_loop(close)

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
        """A serializer for any checkpointer, which encrypts under ``FIELD_ENCRYPTION_KEY``.

        What a checkpointer writes without its serializer stays in clear: see
        :meth:`sealed_saver`. The key is asked for when the first checkpoint is written or read.
        """
        from pipelit_agents.checkpoints.serializer import SealedSerializer

        return SealedSerializer(self._open_keyring)

    def sealed_saver(
        self, saver: BaseCheckpointSaver[Any], *, clear_metadata: Sequence[str] = ()
    ) -> SealedSaver:
        """A checkpointer that writes state and metadata encrypted, through another one.

        Args:
            saver: Any checkpointer; it isn't changed.
            clear_metadata: Metadata that may stand in clear, so that ``list`` can filter by it.
        """
        from pipelit_agents.checkpoints.saver import SealedSaver

        return SealedSaver(saver, self._open_keyring, clear_metadata=clear_metadata)

    def _open_keyring(self) -> Keyring:
        if self._keyring is None:
            self._keyring = self._make_keyring()
        # Where the keys are asked for, a failure is said here, before anything is begun.
        len(self._keyring)
        return self._keyring

    def __repr__(self) -> str:
        return "Pipelit()"

    def __reduce__(self) -> Any:
        raise TypeError("a Pipelit is not pickled: make it where it is used")
