"""The credential store: encrypt secrets, display them masked, open them for a running node."""

from __future__ import annotations

import builtins
import json
import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple, ParamSpec, TypeVar

from pydantic import ConfigDict, SecretStr
from sqlalchemy import Connection, Row, delete, insert, select, update

from pipelit_agents._core import Core
from pipelit_agents._discretion import discreet
from pipelit_agents._threads import aside
from pipelit_agents._twins import off_the_loop
from pipelit_agents.credentials.inject import injecting
from pipelit_agents.credentials.leak_guard.parts import DEFAULT_FIELD, Described, described
from pipelit_agents.credentials.leak_guard.recognition import MIN_LENGTH, is_common
from pipelit_agents.credentials.scope import Scope, current_scope, opened_scope, require_running
from pipelit_agents.credentials.secret import Secret
from pipelit_agents.database.fast_path import Statement
from pipelit_agents.database.key_match import require_fitting
from pipelit_agents.database.models import CredentialRow
from pipelit_agents.display import Rows, html_of
from pipelit_agents.errors import (
    AccountError,
    CommonSecretWarning,
    ConfigurationError,
    CredentialError,
    CredentialNotAllowed,
    CredentialNotFound,
    CredentialScopeError,
    ShortSecretWarning,
    UnguardedRevealWarning,
    UnsealError,
)
from pipelit_agents.identity.agent import Agent
from pipelit_agents.protocol.usernames import OPERATOR, is_username, require_username
from pipelit_agents.sealing.keyring import Sealed

if TYPE_CHECKING:
    from langchain_core.tools import BaseTool
from pipelit_agents.sealing.purposes import credential_hint_purpose, credential_purpose

__all__ = ["CredentialInfo", "Credentials"]

P = ParamSpec("P")
R = TypeVar("R")

_READ_SECRET: Final = Statement(
    "SELECT kind, public, allow, sealed FROM pipelit_credentials WHERE name = :name"
)
_MIN_MASKED_LENGTH: Final = 12
_MAX_KIND_LENGTH: Final = 64
_REFUSALS: Final[dict[type[Exception], str]] = {
    ConfigurationError: "no key",
    CredentialNotFound: "not found",
    UnsealError: "doesn't open",
}


@dataclass(frozen=True, slots=True)
class CredentialInfo:
    """The displayable description of a credential, without its secret.

    Attributes:
        name: The name.
        kind: What it is for, for example ``llm``.
        masked: The secret field, masked except for its last four characters; if there are several,
            each of them.
        public: The fields that are not secret.
        created_by: The account that created it. This is not an owner: by default, any account may
            open it.
        allow: The only accounts that may open it, or None if any account may.
        created_at: When it was created, UTC.
        updated_at: When it was last changed, UTC.
        searched: The names of the parts that are searched for in values that leave a node:
            ``value`` or the names of the fields for a whole value, and ``password`` or
            ``db.password`` for a part of a connection string or a document.
        unsearched: The names of the parts that are not searched for: too short, too common, or not
            known to be secrets. Both are empty for a credential that an earlier version stored.
    """

    name: str
    kind: str
    masked: str
    public: Mapping[str, Any] = field(hash=False)
    created_by: str
    allow: tuple[str, ...] | None
    created_at: datetime
    updated_at: datetime
    searched: tuple[str, ...] = ()
    unsearched: tuple[str, ...] = ()

    def _repr_html_(self) -> str:
        return html_of(self)


class Credentials:
    """The credentials of one database; ``pipelit.credentials``.

    Args:
        core: The database, and the encryption keys.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._database = core.database
        self._keyring = core.keyring
        self._clock = core.clock

    @discreet
    def put(
        self,
        name: str,
        value: str | SecretStr | Mapping[str, str | SecretStr],
        *,
        kind: str,
        created_by: str,
        public: Mapping[str, Any] | None = None,
        allow: Sequence[str] | None = None,
    ) -> CredentialInfo:
        """Encrypt and store a secret under a name; an existing credential is replaced.

        A secret may be a document: a connection string, a header, a key file, settings in JSON,
        YAML, INI or ``.env`` format. The passwords and keys in it are found by well-known formats
        and names, and each is searched for separately. The result names the parts that are
        searched for and those that aren't. Store a secret that isn't found as a separate field.

        Args:
            name: The name, which follows the rules for usernames.
            value: The secret, or several secrets by name.
            kind: What it is for, for example ``llm``.
            created_by: The account that stores it, for the audit log.
            public: JSON fields that are not secret, for example ``{"base_url": …}``. They are
                bound to the secret: if they are changed in the database, it can't be opened.
            allow: The only accounts that may open it; by default any account may.

        Warns:
            ShortSecretWarning: A secret, or a part of one, is too short to be searched for.
            CommonSecretWarning: A secret is a single ordinary word, or digits in a row. A part
                like this isn't searched for. A whole secret is, so ordinary text that contains it
                is refused.

        Returns:
            The displayable description, with the names of the parts that are searched for.

        Raises:
            CredentialError: The name, the value or another argument is unusable. The error says
                which.
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
            )
            return self._info(row)

    aput = off_the_loop(put)

    @discreet
    def put_in(
        self,
        connection: Connection,
        name: str,
        value: str | SecretStr | Mapping[str, str | SecretStr],
        *,
        kind: str,
        created_by: str,
        public: Mapping[str, Any] | None = None,
        allow: Sequence[str] | None = None,
    ) -> Row[Any]:
        """As :meth:`put`, within a transaction of the caller on the same database."""
        if not is_username(name):
            raise CredentialError(
                f"name {name!r:.80} is not a credential name: use 1 to 149 of the characters "
                "a-z 0-9 _ . - and begin with a letter or digit",
                credential=str(name)[:149],
            )
        if (
            not isinstance(kind, str)
            or not kind
            or len(kind) > _MAX_KIND_LENGTH
            or not kind.isprintable()
        ):
            raise CredentialError(
                f"credential {name!r}: kind must be 1 to {_MAX_KIND_LENGTH} printable "
                f"characters, not {kind!r:.80}",
                credential=name,
            )
        if not isinstance(created_by, str) or not 0 < len(created_by) < 150:
            raise CredentialError(
                f"credential {name!r}: created_by must be the name of the account that stores "
                "it, 1 to 149 characters",
                credential=name,
            )
        if isinstance(allow, str):
            raise CredentialError(
                f"credential {name!r}: allow must be a list of names, not a single name",
                credential=name,
            )
        if public is not None and not isinstance(public, Mapping):
            raise CredentialError(
                f"credential {name!r}: public must be a mapping of fields, for example "
                '{"base_url": "https://…"}',
                credential=name,
            )
        secrets = _secret_fields(name, value)
        found = described(secrets)
        for message, category in _warnings_for(name, secrets, found):
            # Report the line that called put: skip put itself and its two wrappers.
            warnings.warn(message, category, stacklevel=5)
        public_json = _canonical(name, dict(public or {}))
        allow_json = None
        if allow is not None:
            allow_json = json.dumps(
                sorted({require_username(each, argument="allow") for each in allow})
            )
        now = self._clock()
        keyring = self._keyring()
        require_fitting(connection, keyring)
        purpose = credential_purpose(name, kind, public_json, allow_json)
        hint_purpose = credential_hint_purpose(name, kind, public_json, allow_json)
        values = {
            "kind": kind,
            "public": public_json,
            "allow": allow_json,
            "sealed": Sealed(keyring.seal(json.dumps(secrets), purpose), purpose),
            "hint": Sealed(keyring.seal(_hint(secrets, found), hint_purpose), hint_purpose),
            "updated_at": now,
        }
        self._database.lock(connection, f"credential:{name}")
        changed = connection.execute(
            update(CredentialRow).where(CredentialRow.name == name).values(values)
        )
        if not changed.rowcount:
            first = {"name": name, "created_at": now, "created_by": created_by}
            connection.execute(insert(CredentialRow).values({**values, **first}))
        self._core.record(connection, created_by, name, "credential.put")
        return _row_named(connection, name)

    def get(self, name: str) -> CredentialInfo:
        """Return the displayable description of a credential.

        Raises:
            CredentialNotFound: No credential has that name.
            UnsealError: It can't be decrypted with this keyring.
        """
        with self._database.reading() as connection:
            row = _row_named(connection, name)
        return self._info(row)

    aget = off_the_loop(get)

    def list(self, *, kind: str | None = None) -> Sequence[CredentialInfo]:
        """Return the descriptions of all credentials, or of those of one kind, ordered by name.

        Raises:
            UnsealError: One of them can't be decrypted with this keyring.
        """
        query = select(CredentialRow.__table__).order_by(CredentialRow.name)
        if kind is not None:
            query = query.where(CredentialRow.kind == kind)
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        columns = ("name", "kind", "masked", "public", "created_by", "allow", "updated_at")
        return Rows([self._info(row) for row in rows], columns)

    alist = off_the_loop(list)  # noqa: A003 - refers to the method, not the builtin

    def delete(self, name: str, *, by: str = OPERATOR) -> None:
        """Delete a credential.

        Raises:
            CredentialNotFound: No credential has that name.
        """
        with self._database.writing(durable=True) as connection:
            _row_named(connection, name)
            connection.execute(delete(CredentialRow).where(CredentialRow.name == name))
            self._core.record(connection, by, name, "credential.delete")

    adelete = off_the_loop(delete)

    def inject(
        self, agent: Agent | None = None, **references: str
    ) -> Callable[[Callable[P, R]], Callable[..., R]]:
        """Decorate a node or tool, so that each call opens its own secrets.

        Args:
            agent: The agent that opens the secrets; required for credentials with an ``allow``
                list. Because of this argument, no secret can be injected into a parameter that is
                called ``agent``.
            references: Credentials by parameter name: ``api_key="openai"``, or
                ``password="database:password"`` for one of several fields. A public field
                (``host="database:host"``) is passed as a plain value. Store values that aren't
                secret as public fields; otherwise they are searched for like secrets.

        Returns:
            A decorator. The parameters get a ``Secret`` (a ``SecretStr``) by keyword, and are
            removed from the signature, so neither LangGraph nor a model sees them. For a tool, see
            :meth:`tool`.

        Raises:
            TypeError: The function can't be wrapped, or has no such parameter.
            CredentialError: From the call: the credential is missing or not allowed, or a value
                was passed for it.
            UnsealError: From the call: the credential can't be decrypted with this keyring, or was
                tampered with.

        Example:
            ```python
            @pipelit.credentials.inject(api_key="openai")
            def call_model(state: State, *, api_key: SecretStr) -> dict: ...
            ```
        """
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
            if not isinstance(reference, str):
                raise TypeError(
                    f"{parameter} must be the name of a credential, as text, not "
                    f"{type(reference).__name__}"
                )

        def decorate(function: Callable[P, R]) -> Callable[..., R]:
            return injecting(
                function,
                references,
                lambda reference: self._open(reference, agent),
                lambda reference: self.note_refusal(reference, agent, "value passed"),
            )

        return decorate

    def tool(
        self, agent: Agent | None = None, **references: str
    ) -> Callable[[Callable[..., Any]], BaseTool]:
        """Make a LangChain tool with secrets of a function: ``inject`` under ``@tool``.

        In addition, a model that sends a value for a secret's parameter, or for an unknown
        parameter, gets an error. With the two decorators alone, the value would be ignored.

        Args:
            agent: As for :meth:`inject`.
            references: As for :meth:`inject`.

        Returns:
            A decorator that makes a tool, named and described after the function.

        Raises:
            TypeError: As for :meth:`inject`.
            ValueError: The function has no docstring, which becomes the tool's description.

        Example:
            ```python
            @pipelit.credentials.tool(api_key="serper")
            def search(query: str, *, api_key: SecretStr) -> str:
                "Searches the web."
            ```
        """
        inject = self.inject(agent, **references)

        def decorate(function: Callable[..., Any]) -> BaseTool:
            # Imported late: importing this package must stay fast.
            from langchain_core.tools import tool

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
        """Decorate a node or tool that opens secrets with :meth:`reveal`.

        The values that it returns or yields are searched for all secrets that were opened in it,
        as with :meth:`inject`. Without this decorator, the search covers only the ``with`` block.

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
        return injecting(function, {}, lambda reference: self._open(reference, None))

    @contextmanager
    def reveal(self, name: str, *, agent: Agent | None = None) -> Iterator[Secret]:
        """Open a secret inside a running node or tool, for the duration of a ``with`` block.

        Decorate the node or tool with :meth:`guard`; otherwise its return value is not searched.

        Args:
            name: The credential, or ``credential:field``.
            agent: The agent that opens it; required for credentials with an ``allow`` list.

        Raises:
            CredentialScopeError: No node or tool is running here.
            CredentialNotFound: There is no such credential or field.
            CredentialNotAllowed: The credential's ``allow`` list doesn't contain the agent.
            UnsealError: It can't be decrypted with this keyring, or was tampered with.
        """
        try:
            require_running(name)
        except CredentialScopeError:
            self.note_refusal(name, agent, "outside a node")
            raise
        _warn_unguarded(name)
        with opened_scope() as scope:
            yield scope.hold(self._open_secret(name, agent))

    @asynccontextmanager
    async def areveal(self, name: str, *, agent: Agent | None = None) -> AsyncIterator[Secret]:
        """As :meth:`reveal`, for ``async with``; it opens the secret off the event loop."""
        try:
            require_running(name)
        except CredentialScopeError:
            await aside(self.note_refusal, name, agent, "outside a node")
            raise
        _warn_unguarded(name)
        with opened_scope() as scope:
            yield scope.hold(await aside(self._open_secret, name, agent))

    @discreet
    def open_in(
        self, scope: Scope, name: str, *, agent: Agent | None = None
    ) -> tuple[Mapping[str, Secret], Mapping[str, Any]]:
        """Open all secrets of a credential at once; they close with the scope.

        Args:
            scope: The open scope that holds them.
            name: The credential, or ``credential:field`` for that secret alone.
            agent: The agent that opens it; required for credentials with an ``allow`` list.

        Returns:
            The secrets by name (``value`` for a single unnamed one), and the public fields that
            they are bound to.

        Raises:
            CredentialError: The credential is missing, or not allowed for this agent.
            UnsealError: It can't be decrypted with this keyring, or was tampered with.
        """
        name, _, wanted = name.partition(":")
        fields, public = self._decrypted(name, wanted, agent)
        return {
            key: scope.hold(
                Secret(value, credential=name if key == DEFAULT_FIELD else f"{name}:{key}")
            )
            for key, value in fields.items()
            if wanted in ("", key)
        }, public

    def note_refusal(self, reference: str, agent: Agent | None, reason: str) -> None:
        """Record a refusal that was decided before the credential was read.

        Args:
            reference: The credential, or ``credential:field``.
            agent: The agent that was refused, if known.
            reason: The reason, for the audit log.
        """
        actor = agent.username if agent is not None else ""
        if actor == OPERATOR:
            # The operator is not an account, so no handle acts for it.
            actor = ""
        with self._database.deciding() as connection:
            name = reference.partition(":")[0]
            self._core.record(
                connection, actor, name, "credential.reveal", reason, outcome="refused"
            )

    @discreet
    def _open(self, reference: str, agent: Agent | None) -> Any:
        """Return a secret field of a credential as a Secret, or the value of a public field."""
        name, _, wanted = reference.partition(":")
        fields, public = self._decrypted(name, wanted or None, agent)
        wanted = wanted or (next(iter(fields)) if len(fields) == 1 else DEFAULT_FIELD)
        if wanted in fields:
            return Secret(fields[wanted], credential=reference)
        return public[wanted]

    def _open_secret(self, reference: str, agent: Agent | None) -> Secret:
        found = self._open(reference, agent)
        if not isinstance(found, Secret):
            raise CredentialNotFound(
                f"{reference!r} is a public field: read it with credentials.get",
                credential=reference.partition(":")[0],
            )
        return found

    def _decrypted(
        self, name: str, wanted: str | None, agent: Agent | None
    ) -> tuple[Mapping[str, str], Mapping[str, Any]]:
        # `wanted` is a field's name, None for the only field, or empty for all fields.
        if agent is not None and not agent.is_of(self._database):
            raise CredentialError(
                f"credential {name!r}: {agent!r} belongs to another Pipelit", credential=name
            )
        actor = ""
        if agent is not None:
            actor = agent.username
            try:
                # A handle outlives its account, but a deactivated account may not open anything.
                agent.require_active()
            except (AccountError, ConfigurationError, UnsealError) as error:
                self.note_refusal(name, agent, _REFUSALS.get(type(error), "agent can't act"))
                raise
        fields, public, reason = dict[str, str](), dict[str, Any](), ""
        refused: Exception | None = None
        outcome = "refused"
        # Read, decrypt and record in one transaction, so that every answer is in the audit log.
        with self._database.deciding() as transaction:
            try:
                rows = _READ_SECRET.fetch(transaction, {"name": name})
                if not rows:
                    raise _not_found(name)
                (row,) = rows
                # Decrypt first: this also verifies the allow list, which is bound to the secret.
                purpose = credential_purpose(name, row.kind, row.public, row.allow)
                fields = json.loads(self._keyring().unseal(row.sealed, purpose))
            except (ConfigurationError, CredentialNotFound, UnsealError) as error:
                refused, reason = error, _REFUSALS.get(type(error), "not opened")
            else:
                public = json.loads(row.public)
                if wanted is None:
                    wanted = next(iter(fields)) if len(fields) == 1 else DEFAULT_FIELD
                if row.allow is not None and actor not in json.loads(row.allow):
                    reason = "not allowed"
                elif wanted and wanted not in fields and wanted not in public:
                    reason = "no such field"
                else:
                    outcome = "ok"
            self._core.record(
                transaction, actor, name, "credential.reveal", reason, outcome=outcome
            )
        if refused is not None:
            raise refused
        if reason == "not allowed":
            who = (
                f"{actor!r} is not one of them"
                if actor
                else 'no agent was passed: pass one, such as agent=pipelit.agent("agent_lead")'
            )
            raise CredentialNotAllowed(
                f"credential {name!r} may be opened only by certain accounts, and {who}",
                credential=name,
            )
        if reason and wanted == DEFAULT_FIELD:
            raise CredentialNotFound(
                f"credential {name!r} has several secrets: name one, as "
                f"{name}:{next(iter(fields))}; there are {', '.join(fields)}",
                credential=name,
            )
        if reason:
            raise CredentialNotFound(
                f"credential {name!r} has no field {wanted!r}; it has {sorted({*fields, *public})}",
                credential=name,
            )
        return fields, public

    def _info(self, row: Row[Any]) -> CredentialInfo:
        # The hint is bound to the public fields like the secret, so that a base_url that was
        # changed in the database is never displayed.
        purpose = credential_hint_purpose(row.name, row.kind, row.public, row.allow)
        hint = _Hint.read(self._keyring().unseal(row.hint.token, purpose).decode())
        return CredentialInfo(
            row.name,
            row.kind,
            hint.masked,
            json.loads(row.public),
            row.created_by,
            None if row.allow is None else tuple(json.loads(row.allow)),
            datetime.fromtimestamp(row.created_at, UTC),
            datetime.fromtimestamp(row.updated_at, UTC),
            hint.searched,
            hint.unsearched,
        )


def _warn_unguarded(name: str) -> None:
    if current_scope() is None:
        warnings.warn(
            f"credential {name!r} is revealed in a function without the guard, so its return "
            "value is not searched for the secret: decorate the function with credentials.guard",
            UnguardedRevealWarning,
            # Report the with statement: skip this helper, the generator and __enter__.
            stacklevel=4,
        )


def _row_named(connection: Connection, name: str) -> Row[Any]:
    row = connection.execute(
        select(CredentialRow.__table__).where(CredentialRow.name == name)
    ).one_or_none()
    if row is None:
        raise _not_found(name)
    return row


def _not_found(name: str) -> CredentialError:
    if not is_username(name):
        field = isinstance(name, str) and is_username(name.partition(":")[0])
        return CredentialNotFound(
            f"{name!r:.80} is not the name of a credential"
            + (
                ": open its fields with inject or reveal"
                if field
                else ": credentials.list returns all names"
            ),
            credential=str(name)[:149],
        )
    return CredentialNotFound(
        f"there is no credential {name!r:.80}: store it with credentials.put or with the command "
        f"pipelit-agents credentials put {name:.80} --kind … --created-by …",
        credential=name,
    )


def _secret_fields(
    name: str, value: str | SecretStr | Mapping[str, str | SecretStr]
) -> dict[str, str]:
    values = value if isinstance(value, Mapping) else {DEFAULT_FIELD: value}
    fields = {}
    for key, secret in values.items():
        if isinstance(secret, Secret):
            raise CredentialScopeError(
                f"credential {name!r}: an open secret can't be stored again", credential=name
            )
        plain = secret.get_secret_value() if isinstance(secret, SecretStr) else secret
        if not isinstance(plain, str) or not plain or not isinstance(key, str):
            raise CredentialError(
                f"credential {name!r}: value must be text, or texts by field name, none empty",
                credential=name,
            )
        fields[key] = plain
    if not fields:
        raise CredentialError(f"credential {name!r}: value is empty", credential=name)
    return fields


def _canonical(name: str, public: builtins.dict[str, Any]) -> str:
    try:
        return json.dumps(public, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CredentialError(
            f"credential {name!r}: public must be valid JSON ({error})", credential=name
        ) from None


class _Hint(NamedTuple):
    """The displayable part of a credential's secrets, stored encrypted beside them."""

    masked: str
    searched: tuple[str, ...] = ()
    unsearched: tuple[str, ...] = ()

    @classmethod
    def read(cls, text: str) -> _Hint:
        # Earlier versions stored only the mask, which is not JSON.
        try:
            masked, searched, unsearched = json.loads(text)
        except ValueError:
            return cls(text)
        return cls(masked, tuple(searched), tuple(unsearched))


def _hint(secrets: Mapping[str, str], found: Described) -> str:
    masks = {
        key: "…" + (secret[-4:] if len(secret) >= _MIN_MASKED_LENGTH else "")
        for key, secret in secrets.items()
    }
    masked = ", ".join(f"{key}={mask}" for key, mask in masks.items())
    if list(masks) == [DEFAULT_FIELD]:
        masked = masks[DEFAULT_FIELD]
    unsearched = (*found.short, *found.common, *found.public)
    return json.dumps(_Hint(masked, found.searched, unsearched))


def _warnings_for(
    name: str, secrets: Mapping[str, str], found: Described
) -> Iterator[tuple[str, type[Warning]]]:
    """Yield warnings about secrets that can't be searched for well."""
    unsearched = "it is stored encrypted, but values that leave a node are not searched for it"
    if found.short:
        yield (
            f"credential {name!r} has a secret of fewer than {MIN_LENGTH} characters "
            f"({', '.join(found.short)}): {unsearched}",
            ShortSecretWarning,
        )
    if found.common:
        yield (
            f"credential {name!r} has a secret that is an ordinary word or number "
            f"({', '.join(found.common)}): {unsearched}, because ordinary text may contain it. "
            "Use a generated secret",
            CommonSecretWarning,
        )
    words = [
        key for key, each in secrets.items() if len(each) >= MIN_LENGTH and is_common(each.strip())
    ]
    if words:
        yield (
            f"credential {name!r} has a secret that is an ordinary word or number "
            f"({', '.join(words)}): values that leave a node are searched for it, so ordinary text "
            "that contains it is refused. Use a generated secret, and store values that aren't "
            "secret in public",
            CommonSecretWarning,
        )
