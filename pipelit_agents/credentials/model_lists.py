"""The request by which a provider of models lists them, for those whose lists need a key."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from pipelit_agents._words import quoted
from pipelit_agents.credentials.trial_request import Request
from pipelit_agents.credentials.trial_words import Finding

__all__ = ["ADDRESSES", "is_model", "key_field", "models_request"]

# How the settings end that say where a model's server is: base_url, openai_api_base,
# azure_endpoint. A proxy isn't among them, because https goes through it encrypted.
ADDRESSES: Final = ("base", "endpoint", "url")
# How the names of variables begin, unless it is the provider's name.
_PREFIXES: Final[Mapping[str, str]] = {
    "cohere": "CO",
    "google_genai": "GOOGLE_GEMINI",
    "mistralai": "MISTRAL",
}
_KEY_FIELDS: Final = ("value", "api_key")


class _Provider(NamedTuple):
    """Where a provider lists its models, and how it takes the key.

    Attributes:
        base: The address that LangChain's class takes by default; empty if it takes none.
        path: What to GET below it.
        request: The header of the key, and others.
    """

    base: str
    path: str = "/models"
    request: Request = Request("")


# By the names of `init_chat_model`. Left out are those whose list everybody may read (NVIDIA, the
# router of Hugging Face) or that have none for a key.
_PROVIDERS: Final[Mapping[str, _Provider]] = {
    "anthropic": _Provider(
        "https://api.anthropic.com",
        "/v1/models",
        Request("", "x-api-key", None, {"anthropic-version": "2023-06-01"}),
    ),
    "azure_openai": _Provider(
        "", "/openai/models?api-version=2024-10-21", Request("", "api-key", None)
    ),
    "cohere": _Provider("https://api.cohere.com", "/v1/models"),
    "deepseek": _Provider("https://api.deepseek.com"),
    "fireworks": _Provider("https://api.fireworks.ai/inference/v1"),
    "google_genai": _Provider(
        "https://generativelanguage.googleapis.com",
        "/v1beta/models",
        # It answers a wrong key with 400.
        Request("", "x-goog-api-key", None, refusals=frozenset({400})),
    ),
    "groq": _Provider("https://api.groq.com", "/openai/v1/models"),
    "mistralai": _Provider("https://api.mistral.ai/v1"),
    "openai": _Provider("https://api.openai.com/v1"),
    # Everybody may read its list of models; this describes the key.
    "openrouter": _Provider("https://openrouter.ai/api/v1", "/key"),
    "together": _Provider("https://api.together.xyz/v1"),
    "xai": _Provider("https://api.x.ai/v1"),
}
# As `init_chat_model` reads a name without a provider; it has no public function for this.
_BY_BEGINNING: Final[Mapping[str, str]] = {
    "gpt-": "openai",
    "o1": "openai",
    "o3": "openai",
    "chatgpt": "openai",
    "text-davinci": "openai",
    "claude": "anthropic",
    "command": "cohere",
    "accounts/fireworks": "fireworks",
    "mistral": "mistralai",
    "mixtral": "mistralai",
    "deepseek": "deepseek",
    "grok": "xai",
}


def is_model(public: Mapping[str, Any]) -> bool:
    """Return whether the public fields say that a credential is for a model."""
    return "model" in public or "model_provider" in public


def models_request(public: Mapping[str, Any]) -> Request | Finding:
    """Return the request that lists the models of a credential's provider.

    Args:
        public: The public fields of the credential.

    Returns:
        The request, or that nothing is known about such a credential.
    """
    name = _provider_name(public)
    provider = _PROVIDERS.get(name)
    if provider is None:
        which = f"of the provider {quoted(name)}" if name else "of a model without its provider"
        return Finding(
            "untested",
            f"nothing is known about how to test a key {which}. These can be tested: "
            f"{', '.join(_PROVIDERS)}",
        )
    # A key that is for another server must not be sent to the provider's own.
    addresses = dict(_addresses(public))
    if not addresses and (variable := _address_in_environment(name)):
        return Finding(
            "untested",
            f"{variable} in the environment names another server for these models, and the key may "
            "be for that one: put its address into the public field base_url",
        )
    if len(addresses) > 1 or not (addresses or provider.base):
        fields = " and ".join(addresses) or "none"
        return Finding(
            "untested",
            f"the model's server isn't clear: its public fields name {fields}, and one is needed, "
            "such as base_url",
        )
    base = next(iter(addresses.values()), provider.base)
    if not isinstance(base, str):
        return Finding("untested", f"the public field {next(iter(addresses))} isn't a URL")
    return provider.request._replace(url=base.rstrip("/") + provider.path)


def key_field(secrets: Mapping[str, object], public: Mapping[str, Any]) -> str | None:
    """Return the name of the secret that is the model's key; None if that isn't clear."""
    if len(secrets) == 1:
        return next(iter(secrets))
    wanted = {*_KEY_FIELDS, f"{_provider_name(public)}_api_key"}
    found = [key for key in secrets if key in wanted]
    return found[0] if len(found) == 1 else None


def _provider_name(public: Mapping[str, Any]) -> str:
    given, model = public.get("model_provider"), public.get("model")
    if isinstance(given, str) and given:
        return given.replace("-", "_").lower()
    if not isinstance(model, str):
        return ""
    before, colon, _ = model.partition(":")
    name = before.replace("-", "_").lower()
    if colon and name in _PROVIDERS:
        return name
    found = [each for start, each in _BY_BEGINNING.items() if model.lower().startswith(start)]
    return found[0] if found else name if colon else ""


def _addresses(public: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Yield the fields that say where a server is, also within others: client_options."""
    for key, each in public.items():
        if key.endswith(ADDRESSES) and key != "test_url":
            yield key, each
        elif isinstance(each, Mapping):
            yield from ((f"{key}.{inner}", value) for inner, value in _addresses(each))


def _address_in_environment(provider: str) -> str:
    """Return the variable by which LangChain or the provider's client takes another server."""
    begin = f"{_PREFIXES.get(provider, provider.upper())}_"
    names = [key for key, each in os.environ.items() if each and key.startswith(begin)]
    return next((each for each in sorted(names) if each.lower().endswith(ADDRESSES)), "")
