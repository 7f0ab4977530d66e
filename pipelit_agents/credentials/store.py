"""The credential store: seals secrets, shows them masked, opens them for a running node."""

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
from pipelit_agents.credentials.leak_guard.parts import VALUE, Described, described
from pipelit_agents.credentials.leak_guard.recognition import SHORTEST, is_common
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
_MASKED_FROM: Final = 12
_LONGEST_KIND: Final = 64
_REFUSALS: Final[dict[type[Exception], str]] = {
    ConfigurationError: "no key",
    CredentialNotFound: "not found",
    UnsealError: "doesn't open",
}


@dataclass(frozen=True, slots=True)
class CredentialInfo:
    """What may be shown of a credential; the secret isn't in it.

    Attributes:
        name: Its name.
        kind: What it is for, for example ``llm``.
        masked: The secret field, masked all but its last four characters; of several, each.
        public: The fields that are no secret.
        created_by: Who put it there first. It is no owner: credentials are for all.
        allow: The accounts that alone may open it, or None: any may.
        created_at: When it was put there first, UTC.
        updated_at: When it was last changed, UTC.
        searched: The parts that are searched for where something leaves a node, by name: ``value``
            or the names of the fields for a whole value, and ``password`` or ``db.password`` for
            what is within a connection string or a document.
        unsearched: The parts that aren't: too short, too common, or not known to be secrets. Both
            are empty for a credential that an earlier version stored.
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
        core: The database, and the keys that encrypt and decrypt them.
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
        """Seals a secret under a name; what stood there before is replaced.

        A secret may be a document: a connection string, a header, a key file, settings in JSON,
        YAML, INI or as in ``.env``. The passwords and keys in it are found by well-known forms and
        names, and each is searched for by itself. The result names the parts that are searched for
        and those that aren't; store a secret that isn't found as a field of its own.

        Args:
            name: Of the form of a username.
            value: The secret, or several named ones.
            kind: What it is for, for example ``llm``.
            created_by: Who puts it there, for the record.
            public: JSON fields that are no secret, for example ``{"base_url": …}``. They are
                bound to the secret: changed in the database, it doesn't open any more.
            allow: The accounts that alone may open it; by default any may.

        Warns:
            ShortSecretWarning: A secret, or a part of one, is too short to be searched for.
            CommonSecretWarning: A secret is a single ordinary word, or digits in a row. As a part
                it isn't searched for; as a whole it is, and honest text that has it is refused.

        Returns:
            What may be shown of it, with the names of the parts that are searched for.

        Raises:
            CredentialError: The name, the value or a public field is unusable; it says which.
            ConfigurationError: There is no key to seal it under, or it isn't this database's.
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
        """As :meth:`put`, in a transaction of the caller's on the same database."""
        if not is_username(name):
            raise CredentialError(
                f"name {name!r:.80} is no credential name: 1 to 149 of the characters "
                "a-z 0-9 _ . - and the first a letter or digit",
                credential=str(name)[:149],
            )
        if (
            not isinstance(kind, str)
            or not kind
            or len(kind) > _LONGEST_KIND
            or not kind.isprintable()
        ):
            raise CredentialError(
                f"credential {name!r}: kind {kind!r:.80} has to be 1 to {_LONGEST_KIND} printable "
                "characters",
                credential=name,
            )
        if not isinstance(created_by, str) or not 0 < len(created_by) < 150:
            raise CredentialError(
                f"credential {name!r}: created_by has to name who puts it there, in 1 to 149 "
                "characters",
                credential=name,
            )
        if isinstance(allow, str):
            raise CredentialError(
                f"credential {name!r}: allow is a list of names, not one name", credential=name
            )
        if public is not None and not isinstance(public, Mapping):
            raise CredentialError(
                f'credential {name!r}: public has to be fields by name, for example {{"base_url": '
                '"https://…"}',
                credential=name,
            )
        secrets = _secret_fields(name, value)
        found = described(secrets)
        for message, category in _warned(name, secrets, found):
            # Past put and the two wrappers, to the caller.
            warnings.warn(message, category, stacklevel=5)
        shown = _canonical(name, dict(public or {}))
        may = None
        if allow is not None:
            may = json.dumps(sorted({require_username(each, argument="allow") for each in allow}))
        now = self._clock()
        keyring = self._keyring()
        require_fitting(connection, keyring)
        place = credential_purpose(name, kind, shown, may)
        hint_place = credential_hint_purpose(name, kind, shown, may)
        values = {
            "kind": kind,
            "public": shown,
            "allow": may,
            "sealed": Sealed(keyring.seal(json.dumps(secrets), place), place),
            "hint": Sealed(keyring.seal(_hint(secrets, found), hint_place), hint_place),
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
        return _find(connection, name)

    def get(self, name: str) -> CredentialInfo:
        """What may be shown of a credential.

        Raises:
            CredentialNotFound: No credential has that name.
            UnsealError: It doesn't open under this keyring.
        """
        with self._database.reading() as connection:
            row = _find(connection, name)
        return self._info(row)

    aget = off_the_loop(get)

    def list(self, *, kind: str | None = None) -> Sequence[CredentialInfo]:
        """What may be shown of all credentials, by name, or of those of one kind.

        Raises:
            UnsealError: One of them doesn't open under this keyring.
        """
        query = select(CredentialRow.__table__).order_by(CredentialRow.name)
        if kind is not None:
            query = query.where(CredentialRow.kind == kind)
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        columns = ("name", "kind", "masked", "public", "created_by", "allow", "updated_at")
        return Rows([self._info(row) for row in rows], columns)

    alist = off_the_loop(list)  # noqa: A003 - the method is meant

    def delete(self, name: str, *, by: str = OPERATOR) -> None:
        """Deletes a credential.

        Raises:
            CredentialNotFound: No credential has that name.
        """
        with self._database.writing(durable=True) as connection:
            _find(connection, name)
            connection.execute(delete(CredentialRow).where(CredentialRow.name == name))
            self._core.record(connection, by, name, "credential.delete")

    adelete = off_the_loop(delete)

    def inject(
        self, agent: Agent | None = None, **references: str
    ) -> Callable[[Callable[P, R]], Callable[..., R]]:
        """Decorates a node or tool, so that each call gets secrets that die with it.

        Args:
            agent: Who opens them; needed for credentials that are kept for named accounts. By
                position or by name. So no secret goes to a parameter that is called ``agent``.
            references: Parameter names and credentials: ``api_key="openai"``, or
                ``password="database:password"`` for one of several fields. A public field
                (``host="database:host"``) is passed as it is; put what is no secret there, or it
                is searched for like one.

        Returns:
            A decorator. The parameters, keyword by nature, get a ``Secret`` (a ``SecretStr``) and
            vanish from the signature; neither LangGraph nor a model sees them. For a tool, see
            :meth:`tool`.

        Raises:
            TypeError: The function can't be wrapped, or has no such parameter.
            CredentialError: From the call: not found, not allowed, or a value was passed for it.
            UnsealError: From the call: it doesn't open under this keyring, or was tampered with.

        Example:
            ```python
            @pipelit.credentials.inject(api_key="openai")
            def call_model(state: State, *, api_key: SecretStr) -> dict: ...
            ```
        """
        if agent is not None and not isinstance(agent, Agent):
            raise TypeError(
                'agent has to be a handle, who opens the secrets: pipelit.agent("agent_lead"), '
                f"not {type(agent).__name__}. To inject a secret into a parameter that is called "
                "agent, rename the parameter"
            )
        if not references:
            raise TypeError(
                'inject needs a credential for a parameter, for example inject(api_key="openai")'
            )
        for parameter, reference in references.items():
            if not isinstance(reference, str):
                raise TypeError(
                    f"{parameter}: name a credential, as text, not {type(reference).__name__}"
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
        """Decorates a function to be a LangChain tool with secrets: ``inject`` under ``@tool``.

        And what the two alone don't do: a model that sends a value for a secret's parameter, or
        for any other that the tool hasn't, is refused instead of not listened to.

        Args:
            agent: As for :meth:`inject`.
            references: As for :meth:`inject`.

        Returns:
            A decorator that makes a tool, named and described after the function.

        Raises:
            TypeError: As for :meth:`inject`.
            ValueError: The function has no docstring, which is the tool's description.

        Example:
            ```python
            @pipelit.credentials.tool(api_key="serper")
            def search(query: str, *, api_key: SecretStr) -> str:
                "Searches the web."
            ```
        """
        inject = self.inject(agent, **references)

        def decorate(function: Callable[..., Any]) -> BaseTool:
            # Late, so that importing this package stays cheap.
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
        """Decorates a node or tool that opens secrets by :meth:`reveal`.

        What it returns or yields is searched for all that was revealed in it, as under
        :meth:`inject`; without it, only what happens inside the ``with`` block is.

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
        """Opens a secret inside a running node or tool, for the length of a ``with`` block.

        Decorate the node or tool with :meth:`guard`, or what it returns afterwards is not
        searched.

        Args:
            name: The credential, or ``credential:field``.
            agent: Who opens it; needed for credentials that are kept for named accounts.

        Raises:
            CredentialScopeError: No node or tool is running here.
            CredentialNotFound: There is no such credential or field.
            CredentialNotAllowed: It is kept for accounts, and this is none of them.
            UnsealError: It doesn't open under this keyring, or was tampered with.
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
        """Opens all secrets of a credential at once, in an open scope that they die with.

        Args:
            scope: Where they are read.
            name: The credential, or ``credential:field`` for that secret alone.
            agent: Who opens it; needed for credentials that are kept for named accounts.

        Returns:
            The secrets by their names (``value`` where there is one without a name), and the
            public fields that they are bound to.

        Raises:
            CredentialError: It isn't there, or isn't for this agent.
            UnsealError: It doesn't open under this keyring, or was tampered with.
        """
        name, _, wanted = name.partition(":")
        fields, public = self._unsealed(name, wanted, agent)
        return {
            key: scope.hold(Secret(value, credential=name if key == VALUE else f"{name}:{key}"))
            for key, value in fields.items()
            if wanted in ("", key)
        }, public

    def note_refusal(self, reference: str, agent: Agent | None, reason: str) -> None:
        """Records that a credential was refused before anybody looked for it.

        Args:
            reference: The credential, or ``credential:field``.
            agent: For whom, if it is known.
            reason: Why.
        """
        actor = agent.username if agent is not None else ""
        if actor == OPERATOR:
            # That is no account: a handle by this name is nobody's.
            actor = ""
        with self._database.deciding() as connection:
            name = reference.partition(":")[0]
            self._core.record(
                connection, actor, name, "credential.reveal", reason, outcome="refused"
            )

    @discreet
    def _open(self, reference: str, agent: Agent | None) -> Any:
        """A secret field of a credential, or a public one as it is."""
        name, _, wanted = reference.partition(":")
        fields, public = self._unsealed(name, wanted or None, agent)
        wanted = wanted or (next(iter(fields)) if len(fields) == 1 else VALUE)
        if wanted in fields:
            return Secret(fields[wanted], credential=reference)
        return public[wanted]

    def _open_secret(self, reference: str, agent: Agent | None) -> Secret:
        found = self._open(reference, agent)
        if not isinstance(found, Secret):
            raise CredentialNotFound(
                f"{reference!r} is a public field: credentials.get shows it",
                credential=reference.partition(":")[0],
            )
        return found

    def _unsealed(
        self, name: str, wanted: str | None, agent: Agent | None
    ) -> tuple[Mapping[str, str], Mapping[str, Any]]:
        # Wanted is a field, None for the only one, or empty for all.
        if agent is not None and not agent.is_of(self._database):
            raise CredentialError(
                f"credential {name!r}: {agent!r} belongs to another Pipelit", credential=name
            )
        actor = ""
        if agent is not None:
            actor = agent.username
            try:
                # An account that was deactivated opens nothing, whatever handle is left of it.
                agent.require_active()
            except (AccountError, ConfigurationError, UnsealError) as error:
                self.note_refusal(name, agent, _REFUSALS.get(type(error), "agent can't act"))
                raise
        fields, public, reason = dict[str, str](), dict[str, Any](), ""
        refused: Exception | None = None
        outcome = "refused"
        # Read, opened and written down in one transaction: what is told is what is on record.
        with self._database.deciding() as transaction:
            try:
                rows = _READ_SECRET.fetch(transaction, {"name": name})
                if not rows:
                    raise _not_found(name)
                (row,) = rows
                # It opens first: only then the allow-list beside it is to be believed.
                place = credential_purpose(name, row.kind, row.public, row.allow)
                fields = json.loads(self._keyring().unseal(row.sealed, place))
            except (ConfigurationError, CredentialNotFound, UnsealError) as error:
                refused, reason = error, _REFUSALS.get(type(error), "not opened")
            else:
                public = json.loads(row.public)
                if wanted is None:
                    wanted = next(iter(fields)) if len(fields) == 1 else VALUE
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
                f"{actor!r} is none of them"
                if actor
                else 'nobody was named: pass the agent, as pipelit.agent("agent_lead")'
            )
            raise CredentialNotAllowed(
                f"credential {name!r} is kept for named accounts, and {who}", credential=name
            )
        if reason and wanted == VALUE:
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
        # Bound as the secret is: a base_url that was changed is not shown as if it were right.
        place = credential_hint_purpose(row.name, row.kind, row.public, row.allow)
        hint = _Hint.read(self._keyring().unseal(row.hint.token, place).decode())
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
            f"credential {name!r} is revealed in a function without the guard: what it returns "
            "is not searched for the secret; decorate it with credentials.guard",
            UnguardedRevealWarning,
            # Past this helper, the generator and contextlib's __enter__: the with statement.
            stacklevel=4,
        )


def _find(connection: Connection, name: str) -> Row[Any]:
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
            f"{name!r:.80} is no credential's name"
            + (
                ": its fields are opened by inject and reveal"
                if field
                else ": see credentials.list"
            ),
            credential=str(name)[:149],
        )
    return CredentialNotFound(
        f"there is no credential {name!r:.80}; put it there with credentials.put or: "
        f"pipelit-agents credentials put {name:.80} --kind … --created-by …",
        credential=name,
    )


def _secret_fields(
    name: str, value: str | SecretStr | Mapping[str, str | SecretStr]
) -> dict[str, str]:
    given = value if isinstance(value, Mapping) else {VALUE: value}
    fields = {}
    for key, secret in given.items():
        if isinstance(secret, Secret):
            raise CredentialScopeError(
                f"credential {name!r}: a revealed secret is not stored again", credential=name
            )
        plain = secret.get_secret_value() if isinstance(secret, SecretStr) else secret
        if not isinstance(plain, str) or not plain or not isinstance(key, str):
            raise CredentialError(
                f"credential {name!r}: value has to be text, or text by field name, and not empty",
                credential=name,
            )
        fields[key] = plain
    if not fields:
        raise CredentialError(f"credential {name!r}: there is no value", credential=name)
    return fields


def _canonical(name: str, public: builtins.dict[str, Any]) -> str:
    try:
        return json.dumps(public, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CredentialError(
            f"credential {name!r}: public has to be JSON ({error})", credential=name
        ) from None


class _Hint(NamedTuple):
    """What is shown of the secrets of a credential, sealed beside them."""

    masked: str
    searched: tuple[str, ...] = ()
    unsearched: tuple[str, ...] = ()

    @classmethod
    def read(cls, text: str) -> _Hint:
        # Earlier versions sealed the mask alone, which is no JSON.
        try:
            masked, searched, unsearched = json.loads(text)
        except ValueError:
            return cls(text)
        return cls(masked, tuple(searched), tuple(unsearched))


def _hint(secrets: Mapping[str, str], found: Described) -> str:
    masks = {
        key: "…" + (secret[-4:] if len(secret) >= _MASKED_FROM else "")
        for key, secret in secrets.items()
    }
    masked = ", ".join(f"{key}={mask}" for key, mask in masks.items())
    if list(masks) == [VALUE]:
        masked = masks[VALUE]
    unsearched = (*found.short, *found.common, *found.public)
    return json.dumps(_Hint(masked, found.searched, unsearched))


def _warned(
    name: str, secrets: Mapping[str, str], found: Described
) -> Iterator[tuple[str, type[Warning]]]:
    """What is to be said of secrets that can't be searched for well."""
    unsearched = "it is sealed, and what a node returns or logs is not searched for it"
    if found.short:
        yield (
            f"credential {name!r} has a secret of less than {SHORTEST} characters "
            f"({', '.join(found.short)}): {unsearched}",
            ShortSecretWarning,
        )
    if found.common:
        yield (
            f"credential {name!r} has a secret that is an ordinary word or number "
            f"({', '.join(found.common)}): {unsearched}, as honest text may have it; use a "
            "generated secret",
            CommonSecretWarning,
        )
    words = [
        key for key, each in secrets.items() if len(each) >= SHORTEST and is_common(each.strip())
    ]
    if words:
        yield (
            f"credential {name!r} has a secret that is an ordinary word or number "
            f"({', '.join(words)}): what a node returns is searched for it, so honest text that "
            "has it is refused; use a generated secret, and store what is no secret in public",
            CommonSecretWarning,
        )
