"""Keys for `langchain.agents.create_agent`: each lives inside one model call or one tool call.

The chat model is built with its key when it is called and dropped when it has answered; tools get
theirs beside the arguments that the model chose. Needs the extra ``langchain``.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.outputs import ChatResult
from langchain_core.tools import BaseTool
from pydantic import BaseModel

from pipelit_agents.credentials.inject import searching_input
from pipelit_agents.credentials.leak_guard.langgraph_io import (
    guarded_argument,
    guarded_config,
    inputs_in,
    state_in,
)
from pipelit_agents.credentials.leak_guard.search import holds
from pipelit_agents.credentials.scope import Scope, opened_scope
from pipelit_agents.credentials.secret import Secret
from pipelit_agents.credentials.store import Credentials
from pipelit_agents.errors import (
    ConfigurationError,
    CredentialError,
    CredentialScopeError,
    UnusedCredentialWarning,
)
from pipelit_agents.identity.agent import Agent

try:
    from langchain.agents.middleware import (
        AgentMiddleware,
        ExtendedModelResponse,
        ModelRequest,
        ModelResponse,
        ToolCallRequest,
    )
    from langchain.chat_models import init_chat_model
except ImportError as error:  # pragma: no cover - the tests have it
    raise ImportError(
        "pipelit_agents.middleware needs LangChain: pip install 'pipelit-agents[langchain]'"
    ) from error

__all__ = ["CredentialMiddleware"]


class _Keyless(BaseChatModel):
    """Stands where ``create_agent`` wants a model, until the middleware puts the real one there."""

    model_name: str = ""

    @property
    def _llm_type(self) -> str:
        return "pipelit-agents-keyless"

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        raise self._unusable()

    def bind_tools(self, *args: Any, **kwargs: Any) -> Any:
        raise self._unusable()

    def _unusable(self) -> CredentialScopeError:
        return CredentialScopeError(
            f"the model {self.model_name!r} has its key only where its CredentialMiddleware calls "
            "it: give create_agent that middleware too, in middleware=[…]; a middleware that calls "
            "models by itself needs one of its own"
        )


class CredentialMiddleware(AgentMiddleware[Any, Any, Any]):
    """Gives an agent's model and tools their credentials, for the length of each call.

    What a call returns is searched for its secrets as a node's result is, and so are callbacks,
    streams and stores while it runs; what it raises loses them. Every call opens its credentials
    anew: one that was replaced is used from the next call on, and each opening is audited.

    Args:
        credentials: ``pipelit.credentials``.
        model: As `init_chat_model` takes it, for example ``openai:gpt-5``; by default the public
            field ``model`` of the credential. Without a credential, no model is built.
        credential: The model's credential. A single secret is passed as ``api_key``, several by
            their names; the public fields (``base_url`` …) as they are called.
        agent: Who opens the credentials; needed for those kept for named accounts.
        tools: Tool name, parameter, and ``credential`` or ``credential:field``. The tool hides the
            parameter from the model by ``Annotated[SecretStr, InjectedToolArg]``.
        model_options: Further keyword arguments for `init_chat_model`; they go before public
            fields.

    Attributes:
        model: What to pass to ``create_agent`` as its model. It holds no key and can't be called.

    Raises:
        TypeError: There is neither a credential for a model nor one for a tool.

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
        tools: Mapping[str, Mapping[str, str]] | None = None,
        model_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(credentials, Credentials):
            raise TypeError(
                f"credentials has to be pipelit.credentials, not {type(credentials).__name__}"
            )
        if not isinstance(tools or {}, Mapping) or not all(
            isinstance(wanted, Mapping) for wanted in (tools or {}).values()
        ):
            raise TypeError(
                'tools has to name parameters and credentials: {"search": {"api_key": "serper"}}'
            )
        if credential is None and (model is not None or not tools):
            raise TypeError("CredentialMiddleware needs a credential for its model, or tools")
        if agent is not None and not isinstance(agent, Agent):
            raise TypeError('agent has to be a handle: pipelit.agent("agent_lead")')
        self.model: BaseChatModel = _Keyless(model_name=(model or "").partition(":")[2])
        self._credentials = credentials
        self._model = model
        self._credential = credential
        self._agent = agent
        self._parameters = {name: dict(wanted) for name, wanted in (tools or {}).items()}
        self._options = dict(model_options or {})

    @property
    def name(self) -> str:
        """Its name in the agent's graph: one agent may have several, for fallbacks."""
        about = [self._model, self._credential, *self._parameters]
        return f"CredentialMiddleware({', '.join(filter(None, about))})"

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any] | Any:
        """Calls the model with its key.

        Raises:
            CredentialError: The credential is missing, isn't for this agent, or doesn't fit the
                model; it says which.
            SecretLeakError: What the model is given or answers holds the secret.
        """
        self._require_tools(request.tools)
        if request.model is not self.model:
            self._warn_unused(request.model)
            return handler(request)
        with opened_scope() as scope:
            scope.add_input(inputs_in("request", request))
            built = request.override(model=self._built(scope))
            return _checked(scope, handler(built), "what the model answers")

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any] | ExtendedModelResponse[Any] | Any:
        """As :meth:`wrap_model_call`; the credential is opened off the event loop."""
        self._require_tools(request.tools)
        if request.model is not self.model:
            self._warn_unused(request.model)
            return await handler(request)
        with opened_scope() as scope:
            scope.add_input(inputs_in("request", request))
            model = await asyncio.to_thread(self._built, scope)
            answer = handler(request.override(model=model))
            return _checked(scope, await answer, "what the model answers")

    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Any]
    ) -> Any:
        """Calls a tool with its secrets beside the model's arguments.

        Raises:
            CredentialScopeError: The model sent a value for a secret's parameter.
            CredentialError: A credential is missing, isn't for this agent, or the tool doesn't
                hide the parameter from the model.
            SecretLeakError: What the tool returns holds a secret.
        """
        wanted = self._parameters.get(request.tool_call["name"])
        if not wanted:
            return handler(request)
        with opened_scope() as scope:
            scope.add_input(inputs_in("request", request))
            filled = self._filled(request, wanted, scope)
            return _checked(scope, handler(filled), "what the tool returns")

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[Any]]
    ) -> Any:
        """As :meth:`wrap_tool_call`; the credentials are opened off the event loop."""
        wanted = self._parameters.get(request.tool_call["name"])
        if not wanted:
            return await handler(request)
        with opened_scope() as scope:
            scope.add_input(inputs_in("request", request))
            filled = await asyncio.to_thread(self._filled, request, wanted, scope)
            return _checked(scope, await handler(filled), "what the tool returns")

    def _warn_unused(self, model: Any) -> None:
        # Another middleware's stands for a model of its own, as among fallbacks.
        if self._credential is not None and not isinstance(model, _Keyless):
            warnings.warn(
                f"CredentialMiddleware has the credential {self._credential!r} for its own model, "
                "and another is called, without it: create_agent(secured.model, …, "
                "middleware=[secured])",
                UnusedCredentialWarning,
                stacklevel=2,
            )

    def _require_tools(self, tools: Sequence[Any]) -> None:
        there = [getattr(tool, "name", "") for tool in tools]
        for name in self._parameters:
            # An agent may have none at the moment, where it answers in a form.
            if there and name not in there:
                raise ConfigurationError(
                    f"CredentialMiddleware: tools names {name!r}, which is no tool of this agent; "
                    f"its tools are {', '.join(filter(None, there))}"
                )

    def _built(self, scope: Scope) -> BaseChatModel:
        name = str(self._credential)
        secrets, public = self._credentials.open_in(scope, name, agent=self._agent)
        given = {"api_key" if key == "value" else key: each for key, each in secrets.items()}
        for key in sorted(given.keys() & (public.keys() | self._options.keys())):
            raise CredentialError(
                f"credential {name!r}: {key!r} is one of its secrets, and can't be a public field "
                "or a model option too",
                credential=name,
            )
        options: dict[str, Any] = {**public, **self._options, **given}
        stated = options.pop("model", None)
        model = self._model or stated
        if not model:
            raise CredentialError(
                f"credential {name!r} has no public field 'model': add it, or name the model in "
                "CredentialMiddleware(model=…)",
                credential=name,
            )
        built: BaseChatModel = init_chat_model(str(model), **options)
        for key, secret in given.items():
            if not _takes(built, key, secret):
                raise CredentialError(
                    f"credential {name!r}: {type(built).__name__} has no parameter {key!r}, so "
                    "this secret would be opened and never sent. Name the secret as the model "
                    "names its parameter. For ChatOllama, build the model in a node or tool with "
                    "credentials.inject, and send the key in client_kwargs={'headers': …}",
                    credential=name,
                )
        return built

    def _filled(
        self, request: ToolCallRequest, wanted: Mapping[str, str], scope: Scope
    ) -> ToolCallRequest:
        tool, call = request.tool, request.tool_call
        for parameter, reference in wanted.items():
            if tool is not None and not _hides(tool, parameter):
                raise CredentialError(
                    f"the tool {call['name']!r} has to declare {parameter!r} as "
                    "Annotated[SecretStr, InjectedToolArg] in a pydantic schema, so that no model "
                    "sees it",
                    credential=reference,
                )
            if parameter in call["args"]:
                self._credentials.note_refusal(reference, self._agent, "value passed")
                raise CredentialScopeError(
                    f"the model sent a value for {parameter!r} of the tool {call['name']!r}, "
                    f"which only the credential {reference!r} may fill",
                    credential=reference,
                )
        secrets = {}
        for parameter, reference in wanted.items():
            opened, _ = self._credentials.open_in(scope, reference, agent=self._agent)
            if not opened:
                raise CredentialError(
                    f"{reference!r} is a public field, and no secret: give the tool its value",
                    credential=reference,
                )
            if len(opened) != 1:
                raise CredentialError(
                    f"credential {reference!r} has several secrets: name one for {parameter!r}, as "
                    f"{reference}:{next(iter(opened))}",
                    credential=reference,
                )
            secrets[parameter] = next(iter(opened.values()))
        return request if tool is None else request.override(tool=_given(tool, secrets, scope))


def _checked(scope: Scope, result: Any, where: str) -> Any:
    try:
        scope.search(result, where)
        return result
    finally:
        # A leak is shown with the local variables of this frame.
        del result


def _takes(model: BaseChatModel, name: str, secret: Secret) -> bool:
    """Whether a chat model has taken a secret: many ignore what they don't know."""
    kind = type(model)
    if kind.model_config.get("extra") == "allow":
        return True
    for field, info in kind.model_fields.items():
        aliases = getattr(info.validation_alias, "choices", [info.validation_alias])
        if name in (field, info.alias, *aliases):
            return True
    # It may have been renamed on the way in.
    kept = list(vars(model).values())
    plain = {secret.get_secret_value(): name}
    return any(each is secret for each in kept) or holds(kept, plain, opened=False)


def _given(tool: BaseTool, secrets: Mapping[str, Secret], scope: Scope) -> BaseTool:
    # LangGraph drops from a call's arguments whatever the tool hides from the model: so they are
    # added behind it, where the tool runs. And it has put runtime, store and callbacks there before
    # any middleware could guard them.
    made = tool.model_copy()

    def guarded(tool_input: Any, kwargs: dict[str, Any]) -> Any:
        if kwargs.get("config") is not None:
            kwargs["config"] = guarded_config(kwargs["config"], scope)
        if kwargs.get("callbacks") is not None:
            callbacks = {"callbacks": kwargs["callbacks"]}
            kwargs["callbacks"] = guarded_config(callbacks, scope)["callbacks"]
        given = {key: guarded_argument(key, each, scope) for key, each in tool_input.items()}
        return {**given, **secrets}

    def kept(tool_input: Any) -> list[Any]:
        return [state_in(key, each) for key, each in tool_input.items()]

    def run(tool_input: Any, *args: Any, **kwargs: Any) -> Any:
        with searching_input(scope, kept(tool_input)):
            return tool.run(guarded(tool_input, kwargs), *args, **kwargs)

    async def arun(tool_input: Any, *args: Any, **kwargs: Any) -> Any:
        with searching_input(scope, kept(tool_input)):
            return await tool.arun(guarded(tool_input, kwargs), *args, **kwargs)

    vars(made).update(run=run, arun=arun)
    return made


def _hides(tool: BaseTool, parameter: str) -> bool:
    whole, shown = tool.get_input_schema(), tool.tool_call_schema
    return (
        issubclass(whole, BaseModel)
        and parameter in whole.model_fields
        # As any other type it would be validated, and the model told what is wrong with it.
        and "SecretStr" in str(whole.model_fields[parameter].annotation)
        and isinstance(shown, type)
        and issubclass(shown, BaseModel)
        and parameter not in shown.model_fields
    )
