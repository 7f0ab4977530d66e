"""How code gets a secret: injected, for a ``with`` block, in an HTTP header, or in its own scope.

Every way opens by the one rule of ``opening.py``, for as long as one call or one request takes.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from pydantic import ConfigDict

from pipelit_agents._discretion import discreet
from pipelit_agents._threads import aside
from pipelit_agents._words import quoted
from pipelit_agents.credentials.choice import Fallback, Rule, rule
from pipelit_agents.credentials.inject import injecting
from pipelit_agents.credentials.opening import (
    decrypted,
    open_field,
    open_secret,
    record_refusal,
)
from pipelit_agents.credentials.rules import require_reference
from pipelit_agents.credentials.scope import Scope, current_scope, opened_scope, require_running
from pipelit_agents.credentials.secret import Secret
from pipelit_agents.credentials.service import CredentialService
from pipelit_agents.errors import CredentialScopeError, UnguardedRevealWarning
from pipelit_agents.identity.agent import Agent

if TYPE_CHECKING:
    import httpx
    from langchain_core.tools import BaseTool

__all__ = ["CredentialAccess"]

P = ParamSpec("P")
R = TypeVar("R")


class CredentialAccess(CredentialService):
    """Opens credentials for an application's code; a part of ``Credentials``."""

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
        _require_injectable(agent, references)
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
            if not (function.__doc__ or "").strip():
                name = getattr(function, "__qualname__", type(function).__name__)
                raise ValueError(
                    f"{name}() has no docstring: add one, because it becomes the description of "
                    "the tool, by which a model chooses it"
                )
            return _strict_tool(inject(function))

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


def _require_injectable(agent: object, references: Mapping[str, str]) -> None:
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


def _strict_tool(function: Callable[..., object]) -> BaseTool:
    """Return a tool that refuses parameters that the function doesn't have."""
    # Imported late: importing this package must stay fast.
    from langchain_core.tools import tool

    made = tool(function)
    schema: Any = made.args_schema
    made.args_schema = type(
        schema.__name__,
        (schema,),
        {"model_config": ConfigDict(extra="forbid"), "__doc__": schema.__doc__},
    )
    return made


def _warn_unguarded(name: str) -> None:
    if current_scope() is None:
        warnings.warn(
            f"credential {quoted(name)} is revealed in a function without the guard, so its return "
            "value is not searched for the secret: decorate the function with credentials.guard",
            UnguardedRevealWarning,
            # Report the with statement: skip this helper, the generator and __enter__.
            stacklevel=4,
        )
