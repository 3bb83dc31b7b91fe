"""Anthropic: the messages API."""

from __future__ import annotations

from typing import Any

import orjson

from tests.support.model_server.script import ToolCall
from tests.support.model_server.wire import Encoder, arguments_of, halves, named

_FINISH: dict[str | None, str] = {"length": "max_tokens", "content_filter": "refusal"}


class Messages(Encoder):
    """POST /v1/messages. The text, if any, is block 0; every call is a block after it."""

    _open = False

    def _message(self, content: list[dict[str, Any]], reason: str | None, output: int) -> dict[str, Any]:
        usage = self.reply.usage
        return {
            "id": f"msg_{self.number}",
            "type": "message",
            "role": "assistant",
            "model": self.ask.model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": None,
            "usage": {
                "input_tokens": usage.input - usage.cached,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": usage.cached,
                "output_tokens": output,
            },
        }

    def _reason(self) -> str:
        return _FINISH.get(self.reply.finish) or ("tool_use" if self.calls else "end_turn")

    def start(self) -> bytes:
        return named({"type": "message_start", "message": self._message([], None, 1)})

    def text(self, piece: str) -> bytes:
        opening = b""
        if not self._open:
            self._open = True
            block = {"type": "text", "text": ""}
            opening = named({"type": "content_block_start", "index": 0, "content_block": block})
        delta = {"type": "text_delta", "text": piece}
        return opening + named({"type": "content_block_delta", "index": 0, "delta": delta})

    def _close_text(self) -> bytes:
        if not self._open:
            return b""
        self._open = False
        return named({"type": "content_block_stop", "index": 0})

    def call(self, index: int) -> list[bytes]:
        ident, call = self.calls[index]
        place = index + (1 if self.reply.pieces else 0)
        first, second = halves(arguments_of(call))
        block = {"type": "tool_use", "id": ident, "name": call.name, "input": {}}
        pieces = [{"type": "input_json_delta", "partial_json": text} for text in (first, second)]
        return [
            self._close_text()
            + named({"type": "content_block_start", "index": place, "content_block": block})
            + named({"type": "content_block_delta", "index": place, "delta": pieces[0]}),
            named({"type": "content_block_delta", "index": place, "delta": pieces[1]})
            + named({"type": "content_block_stop", "index": place}),
        ]

    def finish(self) -> bytes:
        delta = {"stop_reason": self._reason(), "stop_sequence": None}
        usage = {"output_tokens": self.reply.usage.output}
        return (
            self._close_text()
            + named({"type": "message_delta", "delta": delta, "usage": usage})
            + named({"type": "message_stop"})
        )

    def whole(self) -> bytes:
        text = "".join(self.reply.sent)
        content: list[dict[str, Any]] = [{"type": "text", "text": text}] if text else []
        content += [
            {"type": "tool_use", "id": ident, "name": call.name, "input": _input(call)} for ident, call in self.calls
        ]
        return orjson.dumps(self._message(content, self._reason(), self.reply.usage.output))


def _input(call: ToolCall) -> Any:
    """The arguments as an object; outside a stream this wire cannot carry broken JSON, so that stays text."""
    return call.arguments
