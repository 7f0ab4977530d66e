"""The credential store: encrypt secrets, display them masked, open them for a running node."""

from __future__ import annotations

import builtins
import inspect
import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from pydantic import ConfigDict, SecretStr
from sqlalchemy import Connection

from pipelit_agents._core import Core
from pipelit_agents._discretion import discreet
from pipelit_agents._threads import aside
from pipelit_agents._twins import off_the_loop
from pipelit_agents._words import quoted
from pipelit_agents.credentials.authenticator import separated
from pipelit_agents.credentials.choice import Fallback, Rule, rule
from pipelit_agents.credentials.inject import injecting
from pipelit_agents.credentials.leak_guard.parts import described
from pipelit_agents.credentials.opening import (
    decrypted,
    open_field,
    open_secret,
    record_refusal,
)
from pipelit_agents.credentials.rules import (
    Fields,
    require_fields,
    require_reachable,
    require_reference,
    secrets_in,
    unknown_accounts,
    warnings_about,
)
from pipelit_agents.credentials.scope import Scope, current_scope, opened_scope, require_running
from pipelit_agents.credentials.secret import Secret
from pipelit_agents.credentials.stored import (
    CredentialInfo,
    StoredCredential,
    count_credentials,
    count_owners,
    delete_credential,
    delete_credentials,
    is_stored,
    read_credential,
    read_credentials,
    store,
)
from pipelit_agents.credentials.whose import of_person
from pipelit_agents.database.key_row import check_fitting
from pipelit_agents.display import Rows
from pipelit_agents.errors import (
    CredentialScopeError,
    UnguardedRevealWarning,
    UnknownAccountWarning,
)
from pipelit_agents.identity.agent import Agent
from pipelit_agents.paging import DEFAULT_LIMIT, Page, not_a_cursor, require_limit
from pipelit_agents.protocol.usernames import OPERATOR, is_username, require_username

if TYPE_CHECKING:
    import httpx
    from langchain_core.tools import BaseTool

    from pipelit_agents.credentials.trial import CredentialTest

__all__ = ["Credentials"]

P = ParamSpec("P")
R = TypeVar("R")


class Credentials:
    """The credentials of one database; ``pipelit.credentials``.

    Args:
        core: The database, and the encryption keys.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._database = core.database
        self._keyring = core.keyring

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
                account need have it.
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
        with self._database.writing(durable=True) as connection:
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
            return row.info(self._keyring())

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

    def get(
        self, name: str, *, person: str | None = None, unreadable: bool = False
    ) -> CredentialInfo:
        """Return the displayable description of a credential.

        Args:
            name: The credential.
            person: Whose own credential it is; by default the shared one.
            unreadable: Whether to describe it also if no key decrypts it, with ``readable`` False.

        Raises:
            CredentialNotFound: No credential has that name.
            AccountError: ``person`` isn't a person of this database.
            UnsealError: It can't be decrypted with this keyring.
        """
        with self._database.reading() as connection:
            row = read_credential(connection, name, of_person(connection, person))
        return self._described([row], unreadable)[0]

    aget: Final = off_the_loop(get)

    def list(
        self, *, kind: str | None = None, person: str | None = None, unreadable: bool = False
    ) -> Sequence[CredentialInfo]:
        """Return the descriptions of the shared credentials, or of one person's, ordered by name.

        Args:
            kind: Only credentials of this kind.
            person: Whose own credentials to list, also if the person was deactivated; by default
                the shared ones.
            unreadable: Whether to list also those that no key decrypts, with ``readable`` False.

        Raises:
            AccountError: ``person`` isn't a person of this database.
            ConfigurationError: The keys are those of another database.
            UnsealError: One of them can't be decrypted with this keyring.
        """
        with self._database.reading() as connection:
            rows = read_credentials(connection, kind, of_person(connection, person))
        columns = ("name", "kind", "masked", "public", "created_by", "allow", "updated_at")
        return Rows(self._described(rows, unreadable), columns)

    alist: Final = off_the_loop(list)  # noqa: A003 - refers to the method, not the builtin

    def page(
        self,
        *,
        after: str | None = None,
        limit: int = DEFAULT_LIMIT,
        kind: str | None = None,
        person: str | None = None,
        unreadable: bool = False,
    ) -> Page[CredentialInfo]:
        """Return one page of what ``list`` returns, ordered by name.

        Args:
            after: The ``next`` of the page before; by default the first page.
            limit: The maximum number of credentials, 1 to 1,000.
            kind: Only credentials of this kind.
            person: Whose own credentials to list; by default the shared ones.
            unreadable: Whether to list also those that no key decrypts, with ``readable`` False.

        Raises:
            AccountError: ``person`` isn't a person of this database.
            ConfigurationError: The keys are those of another database.
            TypeError: ``limit`` isn't a whole number.
            UnsealError: One of them can't be decrypted with this keyring.
            ValueError: ``limit`` is out of range, or ``after`` isn't the ``next`` of a page.
        """
        require_limit(limit)
        if after is not None and not is_username(after):
            raise not_a_cursor(after)
        with self._database.reading() as connection:
            whose = of_person(connection, person)
            rows = read_credentials(connection, kind, whose, after=after, limit=limit + 1)
        some = self._described(rows[:limit], unreadable)
        return Page(some, some[-1].name if len(rows) > limit else None)

    apage: Final = off_the_loop(page)

    def _described(
        self, rows: Sequence[StoredCredential], unreadable: bool
    ) -> builtins.list[CredentialInfo]:
        if not rows:
            return []
        keyring = self._keyring()
        found = [row.info(keyring, unreadable=unreadable) for row in rows]
        if not all(each.readable for each in found):
            # With a wrong key none could be read, and the key is what has to be corrected.
            with self._database.reading() as connection:
                check_fitting(connection, keyring)
        return found

    def count(self, *, person: str | None = None) -> int:
        """Return how many shared credentials there are, or how many are one person's own.

        Raises:
            AccountError: ``person`` isn't a person of this database.
        """
        with self._database.reading() as connection:
            return count_credentials(connection, of_person(connection, person))

    acount: Final = off_the_loop(count)

    def count_owners(self) -> int:
        """Return how many people have own credentials, deactivated people included."""
        with self._database.reading() as connection:
            return count_owners(connection)

    acount_owners: Final = off_the_loop(count_owners)

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
        with self._database.writing(durable=True) as connection:
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
        with self._database.writing(durable=True) as connection:
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
        from pipelit_agents.credentials.trial import try_out

        return try_out(self._core, name, agent, person, timeout, by=by, public_only=public_only)

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
        from pipelit_agents.credentials.trial import atry_out

        return await atry_out(
            self._core, name, agent, person, timeout, by=by, public_only=public_only
        )

    def inject(
        self,
        agent: Agent | None = None,
        *,
        per_person: bool = False,
        fallback: Fallback = None,
        **references: str,
    ) -> Callable[[Callable[P, R]], Callable[..., R]]:
        """Decorate a node or tool, so that each call opens its own secrets.

        No secret can be injected into a parameter that is called ``agent``, ``per_person`` or
        ``fallback``, because these are arguments of this method.

        Args:
            agent: The agent that opens the secrets. A credential with an ``allow`` list needs an
                agent or a person on the list.
            per_person: Whether each call opens the own credentials of the person for whom it runs:
                of ``Pipelit.acting_for``, or the user whom a LangGraph Server has
                authenticated. Public fields are this person's too.
            fallback: What opens if nobody is authenticated, or if the person has no own credential
                of the name: ``"shared"`` for the shared one. By default that is an error.
            references: Credentials by parameter name: ``api_key="openai"``, or
                ``password="database:password"`` for one of several fields. A public field
                (``host="database:host"``) is passed as a plain value. Store values that aren't
                secret as public fields; otherwise they are searched for like secrets. Of an
                authenticator (``code="github-login:code"``, see ``put``) each call gets a
                fresh code, and starts when that is valid.

        Returns:
            A decorator. The parameters get a ``Secret`` (a ``SecretStr``) by keyword, and are
            removed from the signature, so neither LangGraph nor a model sees them. For a tool, see
            ``tool``.

        Raises:
            TypeError: The function can't be wrapped, or has no such parameter.
            CredentialError: A reference isn't the name of a credential. From the call: the
                credential is missing or not allowed, or a value was passed for it.
            CodeUnavailable: From the call: all codes are taken for too long.
            NobodyAuthenticated: From the call, with ``per_person``: it runs for no active person.
            NoPersonalCredential: From the call, with ``per_person``: the person has none.
            UnsealError: From the call: the credential can't be decrypted with this keyring, or was
                tampered with.

        Example:
            ```python
            @pipelit.credentials.inject(api_key="openai")
            def call_model(state: State, *, api_key: SecretStr) -> dict: ...

            @pipelit.credentials.inject(token="github", per_person=True)
            def open_issue(state: State, *, token: SecretStr) -> dict: ...

            with pipelit.acting_for("alice"):
                graph.invoke(request)
            ```
        """
        return self._inject(agent, per_person, fallback, references)

    def _inject(
        self,
        agent: Agent | None,
        per_person: bool,
        fallback: Fallback,
        references: Mapping[str, str],
        returned: str = "the node's return value",
    ) -> Callable[[Callable[P, R]], Callable[..., R]]:
        if inspect.isroutine(agent):
            raise TypeError(
                "the decorator needs parentheses, with a parameter and its credential, for example "
                '(api_key="openai")'
            )
        if agent is not None and not isinstance(agent, Agent):
            raise TypeError(
                "agent must be the handle of the agent that opens the secrets, such as "
                f'pipelit.agent("agent_lead"), not {type(agent).__name__}. To inject a secret '
                "into a parameter that is called agent, rename the parameter"
            )
        if not references:
            raise TypeError(
                "inject needs at least one parameter and its credential, for example "
                'inject(api_key="openai")'
            )
        for parameter, reference in references.items():
            require_reference(parameter, reference)
        which = rule(per_person, fallback)

        def decorate(function: Callable[P, R]) -> Callable[..., R]:
            return injecting(
                function,
                references,
                lambda reference: open_field(self._core, reference, agent, which),
                lambda reference: self.note_refusal(reference, agent, "value passed"),
                returned=returned,
            )

        return decorate

    def tool(
        self,
        agent: Agent | None = None,
        *,
        per_person: bool = False,
        fallback: Fallback = None,
        **references: str,
    ) -> Callable[[Callable[..., object]], BaseTool]:
        """Make a LangChain tool with secrets of a function: ``inject`` under ``@tool``.

        In addition, a model that sends a value for a secret's parameter, or for an unknown
        parameter, gets an error. With the two decorators alone, the value would be ignored.

        Args:
            agent: As for ``inject``.
            per_person: As for ``inject``.
            fallback: As for ``inject``.
            references: As for ``inject``.

        Returns:
            A decorator that makes a tool, named and described after the function.

        Raises:
            TypeError: As for ``inject``.
            ValueError: The function has no docstring, which becomes the tool's description.

        Example:
            ```python
            @pipelit.credentials.tool(api_key="serper")
            def search(query: str, *, api_key: SecretStr) -> str:
                "Searches the web."
            ```
        """
        returned = "the tool's return value"
        inject: Callable[[Callable[..., object]], Callable[..., object]] = self._inject(
            agent, per_person, fallback, references, returned
        )

        def decorate(function: Callable[..., object]) -> BaseTool:
            # Imported late: importing this package must stay fast.
            from langchain_core.tools import tool

            if not (function.__doc__ or "").strip():
                name = getattr(function, "__qualname__", type(function).__name__)
                raise ValueError(
                    f"{name}() has no docstring: add one, because it becomes the description of "
                    "the tool, by which a model chooses it"
                )
            made = tool(inject(function))
            schema: Any = made.args_schema
            made.args_schema = type(
                schema.__name__,
                (schema,),
                {"model_config": ConfigDict(extra="forbid"), "__doc__": schema.__doc__},
            )
            return made

        return decorate

    def guard(self, function: Callable[P, R]) -> Callable[P, R]:
        """Decorate a node or tool that opens secrets with ``reveal``.

        The values that it returns or yields are searched for all secrets that were opened in it,
        as with ``inject``. Without this decorator, the search covers only the ``with`` block.

        Raises:
            TypeError: The function can't be wrapped.

        Example:
            ```python
            @pipelit.credentials.guard
            def call_model(state: State) -> dict:
                with pipelit.credentials.reveal("openai") as api_key:
                    ...
            ```
        """
        return injecting(
            function, {}, lambda reference: open_field(self._core, reference, None, Rule())
        )

    @contextmanager
    def reveal(
        self,
        name: str,
        *,
        agent: Agent | None = None,
        per_person: bool = False,
        fallback: Fallback = None,
    ) -> Iterator[Secret]:
        """Open a secret inside a running node or tool, for the duration of a ``with`` block.

        Decorate the node or tool with ``guard``; otherwise its return value is not searched.

        Args:
            name: The credential, or ``credential:field``.
            agent: As for ``inject``.
            per_person: As for ``inject``.
            fallback: As for ``inject``.

        Raises:
            CredentialScopeError: No node or tool is running here.
            CredentialNotFound: There is no such credential or field.
            CredentialNotAllowed: The credential's ``allow`` list contains neither the agent nor the
                person for whom the code acts.
            CodeUnavailable: All codes are taken for too long.
            NobodyAuthenticated: With ``per_person``: the code acts for no active person.
            NoPersonalCredential: With ``per_person``: the person has none.
            UnsealError: It can't be decrypted with this keyring, or was tampered with.
        """
        which = rule(per_person, fallback)
        try:
            require_running(name)
        except CredentialScopeError:
            self.note_refusal(name, agent, "outside a node")
            raise
        _warn_unguarded(name)
        with opened_scope() as scope:
            secret = scope.hold(open_secret(self._core, name, agent, which))
            scope.settle()
            yield secret

    @asynccontextmanager
    async def areveal(
        self,
        name: str,
        *,
        agent: Agent | None = None,
        per_person: bool = False,
        fallback: Fallback = None,
    ) -> AsyncIterator[Secret]:
        """As ``reveal``, for ``async with``; it opens the secret off the event loop."""
        which = rule(per_person, fallback)
        try:
            require_running(name)
        except CredentialScopeError:
            await aside(self.note_refusal, name, agent, "outside a node")
            raise
        _warn_unguarded(name)
        with opened_scope() as scope:
            secret = scope.hold(await aside(open_secret, self._core, name, agent, which))
            await scope.asettle()
            yield secret

    def http_auth(
        self,
        name: str,
        *,
        agent: Agent | None = None,
        per_person: bool = False,
        fallback: Fallback = None,
        origins: Sequence[str] | None = None,
        header: str = "Authorization",
        scheme: str | None = "Bearer",
    ) -> httpx.Auth:
        """Make an object that fills the header of each HTTP request with a secret, and masks it.

        httpx, httpx2, MCP clients and the clients of OpenAI and Anthropic take it as ``auth``. The
        secret is opened for each request, on record, and is not kept. A request may be sent outside
        of a node or tool, because the secret goes into this header only, and to these servers only.
        After a 401 it is opened once more, and the request is repeated if it has changed.

        Args:
            name: The credential, or ``credential:field``.
            agent: As for ``inject``.
            per_person: As for ``inject``. The person is asked for at each request; outside of a
                run it is that of ``Pipelit.acting_for``. A client that sends from a task of its
                own, as an MCP session does, sends for the person for whom the session began.
            fallback: As for ``inject``.
            origins: The servers that may receive it, such as ``["https://crm.example.com"]``; by
                default that of the credential's public field ``base_url``. They have to use https,
                except on this machine. Other servers don't receive it, also not by a redirect.
            header: The header.
            scheme: The word before the secret; None for no word. With ``Basic`` the secret is a
                password, and the credential has the field ``username``.

        Raises:
            TypeError: An argument is of the wrong type.
            ValueError: An origin, the header or the scheme has another form.
            CredentialError: The name of a credential has another form. From the request: the
                credential is missing, not allowed, or not for this server.

        Example:
            ```python
            auth = pipelit.credentials.http_auth("crm", origins=["https://crm.example.com"])
            httpx.get("https://crm.example.com/contacts", auth=auth)
            ```
        """
        # Imported late: importing this package must stay fast.
        from pipelit_agents.credentials.http_auth import http_auth

        return http_auth(
            self,
            name,
            agent=agent,
            per_person=per_person,
            fallback=fallback,
            origins=origins,
            header=header,
            scheme=scheme,
        )

    @discreet
    def open_in(
        self,
        scope: Scope,
        name: str,
        *,
        agent: Agent | None = None,
        per_person: bool = False,
        fallback: Fallback = None,
        wait: bool = True,
    ) -> tuple[Mapping[str, Secret], Mapping[str, Any]]:
        """Open all secrets of a credential at once; they close with the scope.

        Args:
            scope: The open scope that holds them.
            name: The credential, or ``credential:field`` for that secret alone. A code of an
                authenticator is handed out for its field only, or if there is no other secret.
            agent: As for ``inject``.
            per_person: As for ``inject``.
            fallback: As for ``inject``.
            wait: Whether to wait until a code is valid. Otherwise call ``scope.settle()`` or
                ``await scope.asettle()`` before it is used.

        Returns:
            The secrets by name (``value`` for a single unnamed one), and the public fields that
            they are bound to.

        Raises:
            CredentialError: The credential is missing, or not allowed for this agent and person.
            NobodyAuthenticated: With ``per_person``: the code acts for no active person.
            NoPersonalCredential: With ``per_person``: the person has none.
            CodeUnavailable: All codes are taken for too long.
            UnsealError: It can't be decrypted with this keyring, or was tampered with.
        """
        name, _, wanted = name.partition(":")
        opened = decrypted(self._core, name, wanted, agent, rule(per_person, fallback))
        held = {key: scope.hold(each) for key, each in opened.held(name).items()}
        if wait:
            scope.settle()
        return held, opened.public

    def note_refusal(self, reference: str, agent: Agent | None, reason: str) -> None:
        """Record a refusal that was decided before the credential was read.

        Args:
            reference: The credential, or ``credential:field``.
            agent: The agent that was refused, if known.
            reason: The reason, for the audit log.
        """
        record_refusal(self._core, reference, agent, reason)


def _warn_unguarded(name: str) -> None:
    if current_scope() is None:
        warnings.warn(
            f"credential {quoted(name)} is revealed in a function without the guard, so its return "
            "value is not searched for the secret: decorate the function with credentials.guard",
            UnguardedRevealWarning,
            # Report the with statement: skip this helper, the generator and __enter__.
            stacklevel=4,
        )
