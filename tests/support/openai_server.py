"""A server that speaks OpenAI's chat protocol and looks at the key, as the real one does."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

from local_http import served

# What the model says to a request: text, or tool calls by name and arguments.
Answer = str | list[tuple[str, dict[str, Any]]]


class ChatServer:
    """Answers whoever sends the right key.

    Args:
        answer: What the model says to a request's messages.
        keys: The keys that are accepted.
    """

    def __init__(self, answer: Callable[[list[Any]], Answer], keys: set[str]) -> None:
        self.answer = answer
        self.keys = keys
        self.shown: list[str] = []
        self.requests: list[dict[str, Any]] = []
        self.base_url = ""


def _message(said: Answer) -> tuple[dict[str, Any], str]:
    if isinstance(said, str):
        return {"role": "assistant", "content": said}, "stop"
    calls = [
        {
            "index": place,
            "id": f"call_{place}",
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(arguments)},
        }
        for place, (name, arguments) in enumerate(said)
    ]
    return {"role": "assistant", "content": None, "tool_calls": calls}, "tool_calls"


def _chunks(said: Answer) -> Iterator[dict[str, Any]]:
    message, reason = _message(said)
    if isinstance(said, str):
        for word in said.split(" "):
            yield {"index": 0, "delta": {"role": "assistant", "content": f"{word} "}}
    else:
        yield {"index": 0, "delta": message}
    yield {"index": 0, "delta": {}, "finish_reason": reason}


@contextmanager
def chat_server(answer: Callable[[list[Any]], Answer], *keys: str) -> Iterator[ChatServer]:
    """Serves on a port of this machine, for the length of the block."""
    chat = ChatServer(answer, set(keys))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            shown = str(self.headers["Authorization"]).removeprefix("Bearer ")
            chat.shown.append(shown)
            if shown not in chat.keys:
                message = f"Incorrect API key provided: {shown}."
                error = {"message": message, "type": "invalid_request_error", "code": "invalid"}
                self._send(401, "application/json", json.dumps({"error": error}).encode())
                return
            chat.requests.append(body)
            said = chat.answer(body["messages"])
            base = {"id": "chat-1", "created": 1, "model": body["model"]}
            if body.get("stream"):
                events = [
                    {**base, "object": "chat.completion.chunk", "choices": [chunk]}
                    for chunk in _chunks(said)
                ]
                lines = [f"data: {json.dumps(each)}\n\n" for each in events]
                text = "".join([*lines, "data: [DONE]\n\n"])
                self._send(200, "text/event-stream", text.encode())
                return
            message, reason = _message(said)
            choice = {"index": 0, "message": message, "finish_reason": reason}
            whole = {**base, "object": "chat.completion", "choices": [choice]}
            self._send(200, "application/json", json.dumps(whole).encode())

        def _send(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with served(Handler) as address:
        chat.base_url = f"{address}/v1"
        yield chat
