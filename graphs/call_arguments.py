"""The arguments of a tool call that a person approves: what its function receives, as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import (
    Annotated,
    Final,
    NamedTuple,
    TypeGuard,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from langchain_core.tools import BaseTool, InjectedToolArg
from langgraph.prebuilt import ToolRuntime
from langgraph.store.base import BaseStore
from pydantic import BaseModel

from pipelit_agents.errors import PayloadError
from pipelit_agents.protocol.payload import decode, encode

from .read_arguments import read_arguments
from .types import Json

__all__ = ["ExactArguments", "exact_arguments", "json_object"]

_MAX_BYTES: Final = 2**20


class ExactArguments(NamedTuple):
    """The arguments of a tool call.

    Attributes:
        shown: What a person approves: the model's arguments as the tool's schema reads them, and
            the tool's own values for parameters that the model left out.
        passed: What the tool is called with: ``shown``, and the values that the tool hides from the
            model.
    """

    shown: dict[str, Json]
    passed: dict[str, object]


def exact_arguments(tool: BaseTool, tool_input: Mapping[str, object]) -> ExactArguments:
    """Separate the model's arguments from those that a tool hides from the model.

    A value that isn't known to be hidden is the model's. So a mistake here leads to a value that
    is displayed without need or can't be displayed, and never to one that isn't displayed.

    Args:
        tool: The tool.
        tool_input: The arguments of the call, with the values that LangGraph has injected.

    Raises:
        PayloadError: The model's arguments can't be represented as JSON, or are longer than 1 MiB;
            or what the tool reads from them can't be displayed.
        ValidationError: The tool's schema refuses them.
    """
    hidden = _hidden_parameters(tool)
    theirs = {
        name: value
        for name, value in tool_input.items()
        if name not in hidden and not isinstance(value, ToolRuntime | BaseStore)
    }
    # The tool gets what is read from these bytes, so code that runs beside it, and holds the
    # message with the call, can't change it after it was approved.
    shown = json_object(theirs)
    injected = {name: value for name, value in tool_input.items() if name not in theirs}
    schema = tool.args_schema
    if _is_model(schema):
        known = hidden & schema.model_fields.keys()
        shown = read_arguments(schema, shown, {name: injected.get(name) for name in known})
    return ExactArguments(shown, {**injected, **shown})


def json_object(arguments: Mapping[str, object]) -> dict[str, Json]:
    """Return a copy of arguments that holds nothing but JSON.

    Raises:
        PayloadError: They can't be represented as JSON, or are longer than 1 MiB.
    """
    copied = decode(encode(dict(arguments)), limit=_MAX_BYTES)
    if not isinstance(copied, dict):  # pragma: no cover - the encoding of a dict is one
        raise PayloadError("the arguments have to be an object")
    return cast("dict[str, Json]", copied)


def _hidden_parameters(tool: BaseTool) -> set[str]:
    hidden: set[str] = set()
    complete, visible = tool.get_input_schema(), tool.tool_call_schema
    if _is_model(complete) and _is_model(visible):
        hidden |= complete.model_fields.keys() - visible.model_fields.keys()
    # A schema that was written by hand has only the model's parameters.
    functions = (getattr(tool, "func", None), getattr(tool, "coroutine", None), tool._run)
    for function in functions:
        if callable(function):
            hidden |= _injected_parameters(function)
    return hidden


def _injected_parameters(function: Callable[..., object]) -> set[str]:
    # A name that exists only while types are checked: LangChain can't inject anything then.
    with suppress(NameError, TypeError, AttributeError):
        hints = get_type_hints(function, include_extras=True)
        return {name for name, hint in hints.items() if _is_injected(hint)}
    return set()


def _is_injected(hint: object) -> bool:
    if ToolRuntime in (hint, get_origin(hint)):
        return True
    marks = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    return any(
        isinstance(mark, InjectedToolArg)
        or (isinstance(mark, type) and issubclass(mark, InjectedToolArg))
        for mark in marks
    )


def _is_model(schema: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(schema, type) and issubclass(schema, BaseModel)
