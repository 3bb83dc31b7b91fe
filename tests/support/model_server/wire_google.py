"""Google: generateContent and streamGenerateContent?alt=sse."""

from __future__ import annotations

from typing import Any

import orjson

from tests.support.model_server.script import ToolCall
from tests.support.model_server.wire import Encoder, data

_FINISH: dict[str | None, str] = {"length": "MAX_TOKENS", "content_filter": "SAFETY"}


class GenerateContent(Encoder):
    """POST /v1beta/models/{model}:generateContent. Calls come whole: this wire does not split arguments."""

    def _answer(self, parts: list[dict[str, Any]], *, last: bool) -> dict[str, Any]:
        candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}, "index": 0}
        answer: dict[str, Any] = {
            "candidates": [candidate],
            "modelVersion": self.ask.model,
            "responseId": f"response-{self.number}",
        }
        if last:
            usage = self.reply.usage
            candidate["finishReason"] = _FINISH.get(self.reply.finish, "STOP")
            answer["usageMetadata"] = {
                "promptTokenCount": usage.input,
                "cachedContentTokenCount": usage.cached,
                "candidatesTokenCount": usage.output,
                "totalTokenCount": usage.input + usage.output,
            }
        return answer

    def _part(self, index: int) -> dict[str, Any]:
        ident, call = self.calls[index]
        return {"functionCall": {"id": ident, "name": call.name, "args": _args(call)}}

    def start(self) -> bytes:
        return b""

    def text(self, piece: str) -> bytes:
        return data(self._answer([{"text": piece}], last=False))

    def call(self, index: int) -> list[bytes]:
        return [data(self._answer([self._part(index)], last=False))]

    def finish(self) -> bytes:
        return data(self._answer([{"text": ""}], last=True))

    def whole(self) -> bytes:
        text = "".join(self.reply.sent)
        parts: list[dict[str, Any]] = [{"text": text}] if text else []
        parts += [self._part(index) for index in range(len(self.calls))]
        return orjson.dumps(self._answer(parts, last=True))


def _args(call: ToolCall) -> Any:
    """The arguments as an object; a string is sent as it is, which no client expects."""
    return call.arguments
