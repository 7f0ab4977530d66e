"""Secrets for `langchain.agents.create_agent`, each open for one model call or one tool call.

The chat model is built with its key for each call and dropped afterwards. Tools get their secrets
in addition to the arguments that the model chose. Needs the extra ``langchain``.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import ToolMessage
from langchain_core.tools import BaseTool
from langgraph.types import Command
from pydantic import BaseModel

from pipelit_agents._words import quoted, recordable
from pipelit_agents.credentials.choice import Fallback, rule
from pipelit_agents.credentials.inject import searching_input
from pipelit_agents.credentials.leak_guard.callbacks import guarded_callbacks
from pipelit_agents.credentials.leak_guard.langgraph_io import (
    guarded_argument,
    guarded_config,
    inputs_in,
    state_in,
)
from pipelit_agents.credentials.rules import require_reference
from pipelit_agents.credentials.scope import Scope, opened_scope
from pipelit_agents.credentials.secret import Secret
from pipelit_agents.credentials.store import Credentials
from pipelit_agents.errors import (
    ConfigurationError,
    CredentialError,
    CredentialScopeError,
    UnusedCredentialWarning,
)
from pipelit_agents.identity.agent import Agent, require_handle
from pipelit_agents.middleware.keyless_model import KeylessModel, keyless_model
from pipelit_agents.middleware.model_source import ModelSource, searched

try:
    from langchain.agents.middleware import (
        AgentMiddleware,
        ModelRequest,
        ModelResponse,
        ToolCallRequest,
    )
except ImportError as _error:  # pragma: no cover - the tests have it
    raise ImportError(
        "pipelit_agents.middleware needs LangChain: pip install 'pipelit-agents[langchain]'"
    ) from _error

__all__ = ["CredentialMiddleware"]

_Request: TypeAlias = ModelRequest[Any]
_ToolResult: TypeAlias = ToolMessage | Command[Any]
# The arguments of a call by name; LangGraph passes nothing else to a tool.
_ToolInput: TypeAlias = Mapping[str, object]


class CredentialMiddleware(AgentMiddleware[Any, Any, Any]):
    """Provide an agent's model and tools with their credentials for the duration of each call.

    The result of a call is searched for its secrets like a node's result. So are callbacks, streams
    and stores while it runs. Exceptions lose the secrets. Every call opens its credentials again,
    so a replaced credential is used from the next call on, and each opening is audited.

    Args:
        credentials: ``pipelit.credentials``.
        model: The model in the form that `init_chat_model` takes, for example ``openai:gpt-5``; by
            default the public field ``model`` of the credential. Without a credential, no model is
            built.
        credential: The model's credential. A single secret is passed as ``api_key``; several
            secrets, and the public fields (``base_url`` …), are passed under their own names.
        agent: The agent that opens the credentials. A credential with an ``allow`` list needs an
            agent or a person on the list.
        per_person: Whether each call opens the own credentials of the person for whom it runs, for
            the model and for tools; see `Credentials.inject`.
        fallback: What opens if nobody is authenticated, or if the person has none: ``"shared"`` for
            the shared credential. By default that is an error.
        tools: By tool name, a mapping of parameters to ``credential`` or ``credential:field``. The
            tool hides such a parameter from the model with
            ``Annotated[SecretStr, InjectedToolArg]``.
        model_options: Further keyword arguments for `init_chat_model`; they take precedence over
            public fields.

    Attributes:
        model: The model to pass to ``create_agent``, and to everything else that calls a model in
            a running node or tool: other middleware, sub-agents, supervisors, memory managers. It
            holds no key, and opens it for each call. Outside of a node or tool it can't be called.

    Raises:
        TypeError: An argument is of the wrong type, ``fallback`` is without ``per_person``, or
            neither a credential for the model nor a tool is named.
        ValueError: ``fallback`` is another word.
        CredentialError: The name of a credential has another form, such as a key's.

    Example:
        ```python
        secured = CredentialMiddleware(
            pipelit.credentials, model="openai:gpt-5", credential="openai",
            tools={"search": {"api_key": "serper"}},
        )
        agent = create_agent(secured.model, [search], middleware=[secured])
        ```
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        model: str | None = None,
        credential: str | None = None,
        agent: Agent | None = None,
        per_person: bool = False,
        fallback: Fallback = None,
        tools: Mapping[str, Mapping[str, str]] | None = None,
        model_options: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(credentials, Credentials):
            raise TypeError(
                f"credentials must be pipelit.credentials, not {type(credentials).__name__}"
            )
        if not isinstance(tools or {}, Mapping) or not all(
            isinstance(wanted, Mapping) for wanted in (tools or {}).values()
        ):
            raise TypeError(
                'tools has to map parameters to credentials: {"search": {"api_key": "serper"}}'
            )
        if credential is None and (model is not None or not tools):
            raise TypeError(
                "CredentialMiddleware needs a credential for its model, or credentials for tools"
            )
        if credential is not None:
            require_reference("credential", credential)
        for name, wanted in (tools or {}).items():
            for parameter, reference in wanted.items():
                require_reference(f"{parameter} of the tool {name!r}", reference)
        if agent is not None:
            require_handle(agent)
        self._credentials = credentials
        self._agent = agent
        self._which = rule(per_person, fallback)
        self._parameters = {name: dict(wanted) for name, wanted in (tools or {}).items()}
        self._source = (
            None
            if credential is None
            else ModelSource(
                credentials, model, credential, agent, dict(model_options or {}), self._which
            )
        )
        self._keyless = keyless_model(self._source)
        # Whether somebody has taken the model, and so may call it.
        self._taken = False

    @property
    def model(self) -> BaseChatModel:
        """The model without its key, for other code that runs in a node or a tool."""
        self._taken = True
        return self._keyless

    @property
    def name(self) -> str:
        """The unique name in the agent's graph: one agent may have several, for fallbacks."""
        source = self._source
        about = [*((source.model, source.credential) if source else ()), *self._parameters]
        return f"CredentialMiddleware({', '.join(filter(None, about))})"

    def wrap_model_call(
        self, request: _Request, handler: Callable[[_Request], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Call the model with its key.

        Raises:
            CredentialError: The credential is missing, not allowed for this agent, or doesn't fit
                the model. The error says which.
            SecretLeakError: The model's input or answer contains the secret.
        """
        self._require_tools(request.tools)
        source = self._source_of(request.model)
        if source is None:
            return handler(request)
        with opened_scope() as scope:
            scope.add_input(_inputs_in(request))
            built = request.override(model=source.build(scope))
            return searched(scope, handler(built), "the model's answer")

    async def awrap_model_call(
        self,
        request: _Request,
        handler: Callable[[_Request], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        """As ``wrap_model_call``; the credential is opened off the event loop."""
        self._require_tools(request.tools)
        source = self._source_of(request.model)
        if source is None:
            return await handler(request)
        with opened_scope() as scope:
            scope.add_input(_inputs_in(request))
            model = await asyncio.to_thread(source.build, scope)
            answer = handler(request.override(model=model))
            return searched(scope, await answer, "the model's answer")

    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], _ToolResult]
    ) -> _ToolResult:
        """Call a tool with its secrets in addition to the model's arguments.

        Raises:
            CredentialScopeError: The model sent a value for a secret's parameter.
            CredentialError: A credential is missing or not allowed for this agent, or the tool
                doesn't hide the parameter from the model.
            SecretLeakError: The tool's result contains a secret.
        """
        wanted = self._parameters.get(request.tool_call["name"])
        if not wanted:
            return handler(request)
        with opened_scope() as scope:
            scope.add_input(_inputs_in(request))
            filled = self._fill(request, wanted, scope)
            scope.settle()
            return searched(scope, handler(filled), "the tool's result")

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[_ToolResult]]
    ) -> _ToolResult:
        """As ``wrap_tool_call``; the credentials are opened off the event loop."""
        wanted = self._parameters.get(request.tool_call["name"])
        if not wanted:
            return await handler(request)
        with opened_scope() as scope:
            scope.add_input(_inputs_in(request))
            filled = await asyncio.to_thread(self._fill, request, wanted, scope)
            await scope.asettle()
            return searched(scope, await handler(filled), "the tool's result")

    def _source_of(self, model: BaseChatModel) -> ModelSource | None:
        """Return how to build a model, if it is the model of this middleware; else None."""
        source = self._source
        if source is None or (isinstance(model, KeylessModel) and model.source is source):
            return source
        # If somebody has taken the model, it is called elsewhere, or when another one fails.
        if not self._taken:
            warnings.warn(
                f"CredentialMiddleware has the credential {quoted(source.credential)} for its own "
                "model, but another model is called without it: use create_agent(secured.model, …, "
                "middleware=[secured])",
                UnusedCredentialWarning,
                stacklevel=3,
            )
        return None

    def _require_tools(self, tools: Sequence[object]) -> None:
        names = [getattr(tool, "name", "") for tool in tools]
        for name in self._parameters:
            # An agent may have no tools in a call that returns structured output.
            if names and name not in names:
                raise ConfigurationError(
                    f"CredentialMiddleware: tools names {name!r}, which is not a tool of this "
                    f"agent; its tools are {', '.join(filter(None, names))}"
                )

    def _fill(
        self, request: ToolCallRequest, wanted: Mapping[str, str], scope: Scope
    ) -> ToolCallRequest:
        tool, call = request.tool, request.tool_call
        for parameter, reference in wanted.items():
            if tool is not None and not _hides(tool, parameter):
                raise CredentialError(
                    f"the tool {call['name']!r} has to declare {parameter!r} as "
                    "Annotated[SecretStr, InjectedToolArg] in a pydantic schema, so that no model "
                    "sees it",
                    credential=recordable(reference),
                )
            if parameter in call["args"]:
                self._credentials.note_refusal(reference, self._agent, "value passed")
                raise CredentialScopeError(
                    f"the model sent a value for {parameter!r} of the tool {call['name']!r}, "
                    f"which only the credential {quoted(reference)} may fill",
                    credential=recordable(reference),
                )
        secrets = {}
        for parameter, reference in wanted.items():
            opened, _ = self._credentials.open_in(
                scope, reference, agent=self._agent, wait=False, **self._which.arguments
            )
            if not opened:
                raise CredentialError(
                    f"{reference!r} is a public field, not a secret: pass its value to the tool",
                    credential=reference,
                )
            if len(opened) != 1:
                raise CredentialError(
                    f"credential {reference!r} has several secrets: name one for {parameter!r}, as "
                    f"{reference}:{next(iter(opened))}",
                    credential=reference,
                )
            secrets[parameter] = next(iter(opened.values()))
        return (
            request if tool is None else request.override(tool=_with_secrets(tool, secrets, scope))
        )


def _with_secrets(tool: BaseTool, secrets: Mapping[str, Secret], scope: Scope) -> BaseTool:
    # LangGraph drops arguments that the tool hides from the model, so the secrets are added when
    # the tool runs. The runtime, store and callbacks are guarded there too, because LangGraph has
    # added them before any middleware could.
    made = tool.model_copy()

    def guarded(tool_input: _ToolInput, kwargs: dict[str, Any]) -> dict[str, object]:
        if kwargs.get("config") is not None:
            kwargs["config"] = guarded_config(kwargs["config"], scope)
        if kwargs.get("callbacks") is not None:
            kwargs["callbacks"] = guarded_callbacks(kwargs["callbacks"], scope)
        guarded_input = {
            key: guarded_argument(key, each, scope) for key, each in tool_input.items()
        }
        return {**guarded_input, **secrets}

    def stored_by_langgraph(tool_input: _ToolInput) -> list[object]:
        return [state_in(key, each) for key, each in tool_input.items()]

    def run(tool_input: _ToolInput, *args: Any, **kwargs: Any) -> object:
        with searching_input(scope, stored_by_langgraph(tool_input)):
            return tool.run(guarded(tool_input, kwargs), *args, **kwargs)

    async def arun(tool_input: _ToolInput, *args: Any, **kwargs: Any) -> object:
        with searching_input(scope, stored_by_langgraph(tool_input)):
            return await tool.arun(guarded(tool_input, kwargs), *args, **kwargs)

    vars(made).update(run=run, arun=arun)
    return made


def _inputs_in(request: object) -> list[object]:
    return [*inputs_in("request", request), state_in("request", request)]


def _hides(tool: BaseTool, parameter: str) -> bool:
    complete, visible = tool.get_input_schema(), tool.tool_call_schema
    return (
        issubclass(complete, BaseModel)
        and parameter in complete.model_fields
        # With another type it would be validated, and the model would receive the error text.
        and "SecretStr" in str(complete.model_fields[parameter].annotation)
        and isinstance(visible, type)
        and issubclass(visible, BaseModel)
        and parameter not in visible.model_fields
    )
