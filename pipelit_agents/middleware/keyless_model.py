"""A chat model without a key, which opens its key for each call inside a running node or tool."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from langchain_core.callbacks import Callbacks
from langchain_core.language_models import BaseChatModel, LanguageModelInput, ModelProfile
from langchain_core.language_models.base import LangSmithParams
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult, LLMResult
from langchain_core.runnables import Runnable, RunnableBinding, RunnableConfig
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import BaseModel, PrivateAttr, model_validator

from pipelit_agents.credentials.leak_guard.callbacks import guarded_callbacks
from pipelit_agents.credentials.leak_guard.langgraph_io import guarded_config, inputs_in
from pipelit_agents.credentials.scope import Scope
from pipelit_agents.errors import CredentialScopeError
from pipelit_agents.middleware.model_source import ModelSource

__all__ = ["KeylessModel", "keyless_model"]

T = TypeVar("T")
Tool = dict[str, Any] | type | Callable[..., Any] | BaseTool


class KeylessModel(BaseChatModel):
    """A chat model that is built with its key for each call, and dropped afterwards.

    It works wherever a node, a tool or another runnable is running, and is called as the model
    itself: with ``invoke``, ``stream`` and ``batch``, after ``bind_tools``,
    ``with_structured_output``, ``with_retry`` and ``with_fallbacks``. Elsewhere it refuses with
    ``CredentialScopeError``. Its input and its answer are searched for the key, and so are the
    callbacks and streams while it runs. LangChain's cache of answers isn't used.

    `pickle` and LangGraph's serializer keep its name only: a model that was loaded can't be called.

    Attributes:
        model_name: The model's name, without the provider.
        profile: The capabilities of the model, if they are known without its key.
    """

    model_name: str = ""
    _source: ModelSource | None = PrivateAttr(None)

    @property
    def source(self) -> ModelSource | None:
        """How the model is built; None if it has no credential."""
        return self._source

    def invoke(
        self,
        input: LanguageModelInput,  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """Call the model with its key."""
        declared, rest = _declarations_in(kwargs)

        def run(model: BaseChatModel, scope: Scope) -> Any:
            return _declared(model, declared).invoke(input, _guarded(config, scope), **rest)

        # Any, and not a message: a declared schema has a result of its own.
        answer: Any = self._usable().call(run, _given(input, config))
        return answer  # type: ignore[no-any-return]

    async def ainvoke(
        self,
        input: LanguageModelInput,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """As ``invoke``."""
        declared, rest = _declarations_in(kwargs)

        async def run(model: BaseChatModel, scope: Scope) -> Any:
            return await _declared(model, declared).ainvoke(input, _guarded(config, scope), **rest)

        answer: Any = await self._usable().acall(run, _given(input, config))
        return answer  # type: ignore[no-any-return]

    def stream(
        self,
        input: LanguageModelInput,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Iterator[Any]:
        """As ``invoke``, in pieces. What may be the beginning of the key is held back."""
        declared, rest = _declarations_in(kwargs)

        def run(model: BaseChatModel, scope: Scope) -> Iterator[Any]:
            return _declared(model, declared).stream(input, _guarded(config, scope), **rest)

        yield from self._usable().stream(run, _given(input, config))

    async def astream(
        self,
        input: LanguageModelInput,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        """As ``stream``."""
        declared, rest = _declarations_in(kwargs)

        def run(model: BaseChatModel, scope: Scope) -> AsyncIterator[Any]:
            return _declared(model, declared).astream(input, _guarded(config, scope), **rest)

        pieces = self._usable().astream(run, _given(input, config))
        async for piece in pieces:
            yield piece

    def generate(self, messages: list[list[BaseMessage]], *args: Any, **kwargs: Any) -> LLMResult:
        """As ``invoke``, for several inputs."""

        def run(model: BaseChatModel, scope: Scope) -> LLMResult:
            guarded, more = _guarded_arguments(args, kwargs, scope)
            return model.generate(messages, *guarded, **more)

        return self._usable().call(run, messages)

    async def agenerate(
        self, messages: list[list[BaseMessage]], *args: Any, **kwargs: Any
    ) -> LLMResult:
        """As ``generate``."""

        async def run(model: BaseChatModel, scope: Scope) -> LLMResult:
            guarded, more = _guarded_arguments(args, kwargs, scope)
            return await model.agenerate(messages, *guarded, **more)

        return await self._usable().acall(run, messages)

    # The property has the signature of the model's own method: langgraph-supervisor looks there
    # for parallel_tool_calls.
    @property
    def bind_tools(self) -> Callable[..., Runnable[LanguageModelInput, AIMessage]]:
        """Bind tools: each call gives them to the model's own method."""

        def bind_tools(
            tools: Sequence[Tool], **kwargs: Any
        ) -> Runnable[LanguageModelInput, AIMessage]:
            return self.bind(tools=_Declaration("bind_tools", (tools,), kwargs, tools))

        signature = self._source.facts.bind_tools if self._source is not None else None
        if signature is not None:
            bind_tools.__signature__ = signature  # type: ignore[attr-defined]
        return bind_tools

    def with_structured_output(
        self, schema: dict[str, Any] | type, **kwargs: Any
    ) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:
        """Answer in a schema: each call gives it to the model's own method."""
        declaration = _Declaration("with_structured_output", (schema,), kwargs)
        bound: Any = self.bind(structured_output=declaration)
        return bound  # type: ignore[no-any-return]

    def configurable_fields(self, **kwargs: object) -> NoReturn:
        """Refuse: a caller's configuration must not choose where a key is sent.

        Raises:
            TypeError: Always.
        """
        raise TypeError(
            "a secured model has no configurable fields, because whoever calls the graph could "
            "then choose where the key is sent. Make one CredentialMiddleware for each model, and "
            "choose between their models with configurable_alternatives"
        )

    def get_token_ids(self, text: str) -> list[int]:
        """Count as the model does, which needs its key: inside a running node or tool only."""
        return self._usable().call(lambda model, _: model.get_token_ids(text), text)

    def get_num_tokens(self, text: str) -> int:
        """As ``get_token_ids``."""
        return self._usable().call(lambda model, _: model.get_num_tokens(text), text)

    def get_num_tokens_from_messages(
        self, messages: list[BaseMessage], tools: Sequence[Any] | None = None
    ) -> int:
        """As ``get_token_ids``."""
        return self._usable().call(
            lambda model, _: model.get_num_tokens_from_messages(messages, tools), messages
        )

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> ChatResult:
        def run(model: BaseChatModel, scope: Scope) -> ChatResult:
            own, more = _own(model, kwargs)
            manager = _guarded_manager(run_manager, scope)
            return own._generate(messages, stop, manager, **more)

        return self._usable().call(run, messages)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> ChatResult:
        async def run(model: BaseChatModel, scope: Scope) -> ChatResult:
            own, more = _own(model, kwargs)
            manager = _guarded_manager(run_manager, scope)
            return await own._agenerate(messages, stop, manager, **more)

        return await self._usable().acall(run, messages)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        def run(model: BaseChatModel, scope: Scope) -> Iterator[ChatGenerationChunk]:
            own, more = _own(model, kwargs)
            manager = _guarded_manager(run_manager, scope)
            return own._stream(messages, stop, manager, **more)

        yield from self._usable().stream(run, messages)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        def run(model: BaseChatModel, scope: Scope) -> AsyncIterator[ChatGenerationChunk]:
            own, more = _own(model, kwargs)
            manager = _guarded_manager(run_manager, scope)
            return own._astream(messages, stop, manager, **more)

        async for chunk in self._usable().astream(run, messages):
            yield chunk

    @property
    def _llm_type(self) -> str:
        return "pipelit-agents-keyless" if self._source is None else self._source.facts.kind

    @property
    def _identifying_params(self) -> dict[str, Any]:
        named = None if self._source is None else self._source.credential
        return {"model_name": self.model_name, "credential": named}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = LangSmithParams(ls_model_type="chat")
        if self._source is not None:
            params |= self._source.facts.tracing  # type: ignore[typeddict-item]
        if stop:
            params["ls_stop"] = stop
        if isinstance(kwargs.get("model"), str):
            params["ls_model_name"] = kwargs["model"]
        return params

    # LangChain would read the profile when the model is made. It takes a second, as the provider's
    # package is imported for it.
    @model_validator(mode="after")
    def _set_model_profile(self) -> KeylessModel:
        return self

    @model_validator(mode="after")
    def _check_profile_keys(self) -> KeylessModel:
        return self

    if not TYPE_CHECKING:
        # Hidden from type checkers, which would accept any name.
        def __getattr__(self, name: str) -> object:
            # Pydantic's own one finds private attributes. While a copy is made, there are none.
            source = None if name.startswith("_") else self._source
            if source is not None and name in source.facts.settings:
                return source.facts.settings[name]
            return super().__getattr__(name)

    def _usable(self) -> ModelSource:
        if self._source is None:
            raise CredentialScopeError(
                f"the model {self.model_name!r} has no credential: it belongs to a "
                "CredentialMiddleware without credential=…, or it was loaded from a file or a "
                "checkpoint. Use the attribute model of a CredentialMiddleware with a credential"
            )
        return self._source

    def __reduce__(self) -> tuple[Callable[[], KeylessModel], tuple[()]]:
        return partial(KeylessModel, model_name=self.model_name), ()

    def __deepcopy__(self, memo: object = None) -> KeylessModel:
        return self.model_copy()


def _profile(model: KeylessModel) -> ModelProfile | None:
    return None if model.source is None else model.source.facts.profile


# Not in the class: pydantic would make a field of it, with a default that is read at once.
setattr(KeylessModel, "profile", property(_profile))  # noqa: B010 - for mypy


def keyless_model(source: ModelSource | None) -> KeylessModel:
    """Return a model without a key.

    Args:
        source: How it is built for a call; None for a model that can't be called.
    """
    made = KeylessModel(model_name="" if source is None else source.model_name)
    made._source = source
    return made


class _Declaration(list[Any]):
    """A method of the real model to call before it is used, as it needs the model with its key.

    It is bound under the name that the method itself would bind, as others read it there:
    langgraph's `create_react_agent` compares the names of bound tools with those it knows.

    Args:
        method: The name of the method.
        args: Its positional arguments.
        options: Its keyword arguments.
        tools: Tools, as which the declaration is displayed.
    """

    def __init__(
        self,
        method: str,
        args: tuple[Any, ...],
        options: dict[str, Any],
        tools: Sequence[Tool] = (),
    ) -> None:
        super().__init__(
            each if isinstance(each, dict) else convert_to_openai_tool(each) for each in tools
        )
        self._method = method
        self._args = args
        self._options = options

    def on(self, model: Any) -> Any:
        """Call the method of a model, and return what it returns."""
        return getattr(model, self._method)(*self._args, **self._options)


def _declarations_in(kwargs: dict[str, Any]) -> tuple[list[_Declaration], dict[str, Any]]:
    """Return the declarations among the arguments of a call, and the other arguments."""
    found = [each for each in kwargs.values() if isinstance(each, _Declaration)]
    rest = {key: each for key, each in kwargs.items() if not isinstance(each, _Declaration)}
    return found, rest


def _declared(model: BaseChatModel, declarations: list[_Declaration]) -> Runnable[Any, Any]:
    made: Runnable[Any, Any] = model
    for each in declarations:
        made = each.on(made)
    return made


def _own(model: BaseChatModel, kwargs: dict[str, Any]) -> tuple[BaseChatModel, dict[str, Any]]:
    """Return the model and the arguments for its methods below ``invoke``."""
    declarations, rest = _declarations_in(kwargs)
    bound = _declared(model, declarations)
    if isinstance(bound, RunnableBinding):
        return model, {**bound.kwargs, **rest}
    return model, rest


def _given(value: object, config: RunnableConfig | None) -> list[object]:
    return [value, inputs_in("config", config or {})]


def _guarded(config: RunnableConfig | None, scope: Scope) -> RunnableConfig | None:
    # Without one, LangChain takes that of the context, which the scope has guarded.
    return None if config is None else guarded_config(config, scope)


def _guarded_arguments(
    args: tuple[Any, ...], kwargs: dict[str, Any], scope: Scope
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Guard the callbacks among the arguments of ``generate``: after ``stop``, or by name.

    Without any, LangChain still adds its tracers of the process, such as LangSmith's and that of
    ``collect_runs``, after those that it is given. So the gate is given, which comes first.
    """
    found: tuple[Callbacks, ...] = args[1:2] or (kwargs.get("callbacks"),)
    guarded = guarded_callbacks(found[0], scope)
    if len(args) > 1:
        return (args[0], guarded, *args[2:]), kwargs
    return args, {**kwargs, "callbacks": guarded}


def _guarded_manager(manager: T, scope: Scope) -> T:
    """Guard what receives the tokens of a run that somebody else has begun."""
    handlers = getattr(manager, "handlers", None)
    if handlers is None:
        return manager
    made: Any = copy(manager)
    made.handlers = guarded_callbacks(list(handlers), scope)
    guarded: T = made
    return guarded
