"""A chat model that gives replies that were written beforehand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from pydantic import PrivateAttr

__all__ = ["ScriptedModel", "tool_call"]


class ScriptedModel(BaseChatModel):
    """A chat model that gives its replies in order, for tests and first steps without a key.

    It accepts tools, as an agent's model must. Which tool it calls is in the replies.

    Example:
        ``ScriptedModel(tool_call("send_money", to="bob", amount=90), "Bob has his 90.")``

    Args:
        *replies: One for each call of the model: a text, or a message, such as ``tool_call`` makes.
        **options: Fields of every LangChain chat model, such as ``name``.

    Raises:
        TypeError: A reply is neither a text nor an ``AIMessage``.
    """

    replies: tuple[AIMessage, ...]
    _used: int = PrivateAttr(default=0)

    def __init__(self, *replies: str | AIMessage, **options: Any) -> None:
        for number, each in enumerate(replies, 1):
            if not isinstance(each, str | AIMessage):
                raise TypeError(f"reply {number} must be a text or an AIMessage, not {each!r}")
        messages = tuple(
            AIMessage(each) if isinstance(each, str) else each.model_copy() for each in replies
        )
        super().__init__(replies=messages, **options)

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[Any, AIMessage]:
        """Return this model: what it calls is in its replies."""
        return self

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        if self._used == len(self.replies):
            raise IndexError(
                f"there is no reply for call {self._used + 1} of this model: add one to its "
                "ScriptedModel(…)"
            )
        reply = self.replies[self._used]
        self._used += 1
        return ChatResult(generations=[ChatGeneration(message=reply)])


def tool_call(name: str, /, **arguments: Any) -> AIMessage:
    """Return the message of a model that calls a tool.

    Args:
        name: The tool's name.
        **arguments: What the tool is called with.
    """
    call = {"name": name, "args": arguments, "id": f"call_{uuid4().hex}", "type": "tool_call"}
    return AIMessage("", tool_calls=[call])
