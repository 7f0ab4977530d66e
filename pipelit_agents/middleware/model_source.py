"""Build a chat model with its key for one call, and say what is known about it without the key."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple, TypeVar

from langchain_core.language_models import BaseChatModel, ModelProfile

from pipelit_agents._threads import aside
from pipelit_agents.credentials.choice import Rule
from pipelit_agents.credentials.leak_guard.search import holds
from pipelit_agents.credentials.leak_guard.streams import Held
from pipelit_agents.credentials.model_lists import ADDRESSES
from pipelit_agents.credentials.origins import require_encrypted
from pipelit_agents.credentials.scope import (
    Scope,
    entered_scope,
    left_open,
    opened_scope,
    require_running,
)
from pipelit_agents.credentials.secret import Secret
from pipelit_agents.credentials.store import Credentials
from pipelit_agents.errors import ConfigurationError, CredentialError, CredentialScopeError
from pipelit_agents.identity.agent import Agent

try:
    from langchain.chat_models import init_chat_model
except ImportError as _error:  # pragma: no cover - the tests have it
    raise ImportError(
        "pipelit_agents.middleware needs LangChain: pip install 'pipelit-agents[langchain]'"
    ) from _error

__all__ = ["ModelFacts", "ModelSource", "searched", "takes"]

T = TypeVar("T")
# Opens nothing: a model that is built with it is asked for its description, and never called.
_NO_KEY: Final = "this-is-no-key"
_ANSWER: Final = "the model's answer"
# The settings that LangChain and deepagents read from a model.
_SETTINGS: Final = (
    "max_completion_tokens",
    "max_output_tokens",
    "max_tokens",
    "model",
    "model_id",
    "temperature",
    "use_responses_api",
)
_NO_MORE: Final = object()
_CONFIGURABLE: Final = frozenset({"config_prefix", "configurable_fields"})


class ModelFacts(NamedTuple):
    """What LangChain asks a chat model about itself.

    Attributes:
        kind: LangChain's name for the type of model, such as ``openai-chat``.
        profile: The capabilities of the model, such as its context window.
        tracing: The provider, the model's name and its settings, as LangSmith records them.
        settings: Its settings by name, such as ``max_tokens``.
        bind_tools: The parameters of its ``bind_tools``.
    """

    kind: str
    profile: ModelProfile | None
    tracing: Mapping[str, Any]
    settings: Mapping[str, object]
    bind_tools: inspect.Signature | None


@dataclass(frozen=True, eq=False)
class ModelSource:
    """How a chat model is built, and with which credential.

    Attributes:
        credentials: ``pipelit.credentials``.
        model: The model in the form that `init_chat_model` takes; None if the credential names it.
        credential: The model's credential.
        agent: The agent that opens it.
        options: Further keyword arguments for `init_chat_model`.
        which: The shared credential, or the own one of the person for whom the model is called.

    Raises:
        TypeError: The model isn't text.
    """

    credentials: Credentials
    model: str | None
    credential: str
    agent: Agent | None
    options: Mapping[str, Any]
    which: Rule

    def __post_init__(self) -> None:
        if self.model is not None and not isinstance(self.model, str):
            kind = self.model if isinstance(self.model, type) else type(self.model)
            raise TypeError(
                f'model must be a model\'s name, such as "openai:gpt-5-mini", not {kind.__name__}: '
                "the middleware builds the model with its key for each call"
            )

    @property
    def model_name(self) -> str:
        """The name without its provider; empty if only the credential has it."""
        model = self.model or ""
        if "model_provider" in self.options:
            return model
        return model.partition(":")[2] or model

    @cached_property
    def facts(self) -> ModelFacts:
        """What is known without a key: that of the same class, built with a key that is none."""
        if self.model is not None:
            # A package is missing, or the class needs more than the options. The call says which.
            with suppress(Exception):
                return _facts_of(
                    init_chat_model(self.model, **{**self.options, "api_key": _NO_KEY})
                )
        return ModelFacts("pipelit-agents-keyless", None, {"ls_model_type": "chat"}, {}, None)

    def build(self, scope: Scope) -> BaseChatModel:
        """Return the model with its key, which closes with the scope.

        Raises:
            CredentialError: The credential is missing, not allowed for this agent, or doesn't fit
                the model. The error says which.
            ConfigurationError: A public field or a model option would let others receive the key.
        """
        name = self.credential
        secrets, public = self.credentials.open_in(
            scope, name, agent=self.agent, **self.which.arguments
        )
        model_secrets = {
            "api_key" if key == "value" else key: each for key, each in secrets.items()
        }
        for key in sorted(model_secrets.keys() & (public.keys() | self.options.keys())):
            raise CredentialError(
                f"credential {name!r}: {key!r} is one of its secrets, and can't be a public field "
                "or a model option too",
                credential=name,
            )
        options: dict[str, Any] = {**public, **self.options, **model_secrets}
        model_field = options.pop("model", None)
        model = self.model or model_field
        if not model:
            raise CredentialError(
                f"credential {name!r} has no public field 'model': add it, or name the model in "
                "CredentialMiddleware(model=…)",
                credential=name,
            )
        _require_fixed(options)
        built: BaseChatModel = init_chat_model(str(model), **options)
        # LangChain's cache would keep an answer before anybody has searched it for the key, and
        # give it out when the key is closed.
        built.cache = False
        for key, secret in model_secrets.items():
            if not takes(built, key, secret):
                raise CredentialError(
                    f"credential {name!r}: {type(built).__name__} has no parameter {key!r}, so "
                    "this secret would be opened but never sent. Give the secret the name of the "
                    "model's parameter. For ChatOllama, build the model in a node or tool with "
                    "credentials.inject, and send the key in client_kwargs={'headers': …}",
                    credential=name,
                )
        return built

    def call(self, run: Callable[[BaseChatModel, Scope], T], given: object) -> T:
        """Call the model once, with its key.

        Args:
            run: Calls the model. Everything that it passes on has to be guarded with the scope.
            given: The input, which the answer may repeat.

        Raises:
            CredentialScopeError: No node or tool is running here.
            CredentialError: As for ``build``.
            SecretLeakError: The answer contains the key.
        """
        self._require_running()
        with opened_scope() as scope:
            scope.add_input(given)
            return searched(scope, run(self.build(scope), scope), _ANSWER)

    async def acall(self, run: Callable[[BaseChatModel, Scope], Awaitable[T]], given: object) -> T:
        """As ``call``; the credential is opened off the event loop."""
        await self._arequire_running()
        with opened_scope() as scope:
            scope.add_input(given)
            model = await asyncio.to_thread(self.build, scope)
            return searched(scope, await run(model, scope), _ANSWER)

    def stream(
        self, run: Callable[[BaseChatModel, Scope], Iterator[T]], given: object
    ) -> Iterator[T]:
        """As ``call``, piece by piece. The key is open until the stream ends or is closed.

        A stream that is kept after its node has ended is refused at the next piece.
        """
        self._require_running()
        scope, step = entered_scope()
        with left_open(scope):
            scope.add_input(given)
            held = Held[T](scope, _ANSWER)
            with step:
                pieces = run(self.build(scope), scope)
            try:
                while True:
                    require_running(self.credential)
                    with step:
                        piece = next(pieces, _NO_MORE)
                    if piece is _NO_MORE:
                        break
                    yield from _released(held, piece)
                yield from held.rest()
            finally:
                step.close(pieces)

    async def astream(
        self, run: Callable[[BaseChatModel, Scope], AsyncIterator[T]], given: object
    ) -> AsyncIterator[T]:
        """As ``stream``; the credential is opened off the event loop."""
        await self._arequire_running()
        scope, step = entered_scope()
        with left_open(scope):
            scope.add_input(given)
            held = Held[T](scope, _ANSWER)
            with step:
                pieces = run(await asyncio.to_thread(self.build, scope), scope)
            try:
                while True:
                    require_running(self.credential)
                    with step:
                        piece = await anext(pieces, _NO_MORE)
                    if piece is _NO_MORE:
                        break
                    for each in _released(held, piece):
                        yield each
                for each in held.rest():
                    yield each
            finally:
                with step:
                    await _aclose(pieces)

    async def _arequire_running(self) -> None:
        try:
            require_running(self.credential)
        except CredentialScopeError:
            await aside(
                self.credentials.note_refusal, self.credential, self.agent, "outside a node"
            )
            raise

    def _require_running(self) -> None:
        try:
            require_running(self.credential)
        except CredentialScopeError:
            self.credentials.note_refusal(self.credential, self.agent, "outside a node")
            raise


def _require_fixed(options: Mapping[str, object]) -> None:
    """Refuse settings by which others than the model's server could receive the key.

    Raises:
        ConfigurationError: There is one; the error names it.
    """
    for each in sorted(_CONFIGURABLE & options.keys()):
        raise ConfigurationError(
            f"{each} can't be a public field of a model's credential, nor in model_options: "
            "whoever calls the graph could then choose where the key is sent. Make one "
            "CredentialMiddleware for each model"
        )
    if options.get("cache"):
        raise ConfigurationError(
            "cache can't be a public field of a model's credential, nor in model_options: a cache "
            "keeps an answer before it is searched for the key. Cache the node instead, with "
            "add_node(cache_policy=…)"
        )
    for key, value in options.items():
        if key.endswith(ADDRESSES) and isinstance(value, str):
            require_encrypted(key, value)


def searched(scope: Scope, result: T, where: str) -> T:
    """Return a result that was searched for the secrets of a scope."""
    try:
        scope.search(result, where)
        return result
    finally:
        # Error trackers display the local variables of this frame with the leak error.
        del result


def takes(model: BaseChatModel, name: str, secret: Secret) -> bool:
    """Return whether a chat model uses a secret: many ignore unknown parameters."""
    kind = type(model)
    if kind.model_config.get("extra") == "allow":
        return True
    for field, info in kind.model_fields.items():
        aliases = getattr(info.validation_alias, "choices", [info.validation_alias])
        if name in (field, info.alias, *aliases):
            return True
    # The model may store it under another name.
    kept = list(vars(model).values())
    plain = {secret.get_secret_value(): name}
    return any(each is secret for each in kept) or holds(kept, plain, opened=False)


def _facts_of(model: BaseChatModel) -> ModelFacts:
    # Neither the type nor the parameters for tracing have a public name, but LangChain's own
    # middleware and deepagents read them.
    return ModelFacts(
        kind=model._llm_type,
        profile=model.profile,
        tracing=dict(model._get_ls_params()),
        settings={each: getattr(model, each) for each in _SETTINGS if hasattr(model, each)},
        bind_tools=inspect.signature(model.bind_tools),
    )


def _released(held: Held[T], piece: Any) -> list[T]:
    """Search a piece, and return those that may be passed on now."""
    try:
        held.search(piece)
        return held.add(piece, piece)
    finally:
        del piece


async def _aclose(pieces: object) -> None:
    close = getattr(pieces, "aclose", None)
    if close is not None:
        await close()
