"""The wire formats: how an answer is written, as one body or as a stream of server-sent events."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import orjson

from tests.support.model_server.ask import Ask
from tests.support.model_server.script import ToolCall, Usage

_SPLIT_AT = 2


@dataclass(slots=True)
class Reply:
    """An answer as decided: text in pieces, calls, token counts, why it ended (None: naturally)."""

    pieces: list[str]
    calls: list[ToolCall]
    usage: Usage
    finish: str | None = None
    sent: list[str] = field(default_factory=list)


class Encoder(ABC):
    """Writes one reply. A stream is `start`, `text` for each piece, `call` for each call, then `finish`."""

    def __init__(self, ask: Ask, reply: Reply, number: int) -> None:
        self.ask = ask
        self.reply = reply
        self.number = number
        self.created = int(time.time())
        self.calls = [(call.id or f"call_{number}_{index}", call) for index, call in enumerate(reply.calls)]

    @abstractmethod
    def start(self) -> bytes:
        """Return what comes before the first piece."""

    @abstractmethod
    def text(self, piece: str) -> bytes:
        """Return the event of one piece of text."""

    @abstractmethod
    def call(self, index: int) -> list[bytes]:
        """Return the events of one tool call, in pieces that may be sent apart."""

    @abstractmethod
    def finish(self) -> bytes:
        """Return what ends the stream, token counts included."""

    @abstractmethod
    def whole(self) -> bytes:
        """Return the reply as one JSON body."""


def arguments_of(call: ToolCall) -> str:
    """Return the arguments as the text that goes over the wire."""
    return call.arguments if isinstance(call.arguments, str) else orjson.dumps(call.arguments).decode()


def data(payload: dict[str, Any]) -> bytes:
    """Return an unnamed server-sent event."""
    return b"data: " + orjson.dumps(payload) + b"\n\n"


def named(payload: dict[str, Any]) -> bytes:
    """Return a server-sent event named after the payload's type."""
    name: str = payload["type"]
    return b"event: " + name.encode() + b"\ndata: " + orjson.dumps(payload) + b"\n\n"


def halves(text: str) -> tuple[str, str]:
    """Return the text in two pieces, so that a client has to join arguments that come apart."""
    middle = len(text) // _SPLIT_AT
    return text[:middle], text[middle:]


def error_body(wire: str, status: int, message: str, code: str | None) -> bytes:
    """Return the error document of a wire format."""
    if wire == "anthropic":
        return orjson.dumps(
            {"type": "error", "error": {"type": _ANTHROPIC.get(status, "api_error"), "message": message}}
        )
    if wire == "google":
        name = _GOOGLE.get(status, "INTERNAL")
        return orjson.dumps({"error": {"code": status, "message": message, "status": name}})
    kind = _OPENAI.get(status, "server_error")
    return orjson.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}})


_OPENAI = {
    400: "invalid_request_error",
    401: "invalid_request_error",
    403: "invalid_request_error",
    404: "invalid_request_error",
    429: "requests",
}
_ANTHROPIC = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}
_GOOGLE = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
