"""Make a copy of a tool that runs only what people approved.

Its ``run`` and ``arun`` are replaced, through which LangChain runs every tool.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial, wraps
from typing import Any, Final, NoReturn

from langchain_core.tools import BaseTool
from pydantic import BaseModel, ValidationError

from pipelit_agents.errors import ConfigurationError, PayloadError

from .call_arguments import exact_arguments
from .tool_gate import Admitted, Gate, error_message, undisplayable

__all__ = ["gated_tool", "is_gated"]

# An attribute that gated tools have, and so copies of them.
_GATED: Final = "pipelit_gated"


def gated_tool(tool: BaseTool, gate: Gate) -> BaseTool:
    """Return a copy of a tool that runs only what people approved.

    Args:
        tool: The tool.
        gate: Its gate.

    Raises:
        ConfigurationError: The tool has a gate already (two gates would use up one approval), has
            an ``invoke`` of its own, or a schema that is a class of ``pydantic.v1``.
    """
    if is_gated(tool):
        raise ConfigurationError(
            f"{tool.name} asks for approvals already: use either approved_tool or one "
            "ApprovalMiddleware for it"
        )
    for name in ("invoke", "ainvoke"):
        module = getattr(getattr(type(tool), name), "__module__", "")
        if name in vars(tool) or not module.startswith("langchain_core."):
            raise ConfigurationError(
                f"{tool.name} can't ask for approvals: its {name} isn't LangChain's, and could run "
                "it without the gate, which is in run and arun. Override _run and _arun instead"
            )
    if isinstance(tool.args_schema, type) and not issubclass(tool.args_schema, BaseModel):
        raise ConfigurationError(
            f"{tool.name} can't ask for approvals: its args_schema has to be a pydantic.BaseModel "
            "or a JSON Schema, not a class of pydantic.v1"
        )

    def prepared(
        tool_input: object, kwargs: Mapping[str, Any]
    ) -> tuple[Callable[[], Admitted], dict[str, object]]:
        if not isinstance(tool_input, Mapping):
            raise ConfigurationError(
                f"{tool.name} needs a person's approval, so its input has to be arguments by name"
            )
        call_id = kwargs.get("tool_call_id")
        try:
            exact = exact_arguments(tool, tool_input)
        except PayloadError as error:
            refused = undisplayable(tool.name, call_id, error)
            return lambda: refused, {}
        except ValidationError as error:
            # Nobody is asked about a call that the tool would refuse.
            if not tool.handle_validation_error:
                raise
            refused = _invalid(tool.name, call_id, error)
            return lambda: refused, {}
        return partial(gate.admit, tool.name, exact.shown, call_id), exact.passed

    def run(tool_input: object, *args: Any, **kwargs: Any) -> object:
        admit, passed = prepared(tool_input, kwargs)
        return gate.run(admit, lambda: tool.run(passed, *args, **kwargs))

    async def arun(tool_input: object, *args: Any, **kwargs: Any) -> object:
        admit, passed = prepared(tool_input, kwargs)
        return await gate.arun(admit, lambda: tool.arun(passed, *args, **kwargs))

    made = tool.model_copy()
    vars(made).update({"run": run, "arun": arun, _GATED: True})
    # Code that makes another tool of this one's functions would leave the gate out. A tool that is
    # a class has them as methods.
    for name in ("func", "coroutine", "_run", "_arun"):
        function = getattr(tool, name, None)
        if function is not None:
            vars(made)[name] = _unreachable(tool.name, function)
    return made


def _unreachable(tool: str, function: Callable[..., object]) -> Callable[..., NoReturn]:
    """Return a function with the same parameters that raises an error."""

    @wraps(function)
    def refuse(*_: object, **__: object) -> NoReturn:
        raise ConfigurationError(
            f"{tool} needs a person's approval, and its function was called without the gate: call "
            "the tool that approved_tool returned, or make the other tool first and its gate last"
        )

    return refuse


def is_gated(tool: object) -> bool:
    """Return whether a tool is a copy that ``gated_tool`` made, or a copy of one."""
    return isinstance(tool, BaseTool) and _GATED in vars(tool)


def _invalid(tool: str, call_id: str | None, error: ValidationError) -> Admitted:
    """Return the refusal of a call whose arguments the tool's schema refuses."""
    words = f"{tool} was not run, because its arguments are invalid: {error}"
    return Admitted(tool, None, error_message(tool, call_id, words))
