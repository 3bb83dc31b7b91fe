"""OpenAI: chat completions and the responses API."""

from __future__ import annotations

from typing import Any

import orjson

from tests.support.model_server.ask import Ask
from tests.support.model_server.wire import Encoder, Reply, arguments_of, data, halves, named


class ChatCompletions(Encoder):
    """POST /v1/chat/completions."""

    def __init__(self, ask: Ask, reply: Reply, number: int) -> None:
        super().__init__(ask, reply, number)
        self._head = {
            "id": f"chatcmpl-{number}",
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": ask.model,
        }

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> bytes:
        return data({**self._head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    def _reason(self) -> str:
        return self.reply.finish or ("tool_calls" if self.calls else "stop")

    def _usage(self) -> dict[str, Any]:
        usage = self.reply.usage
        return {
            "prompt_tokens": usage.input,
            "completion_tokens": usage.output,
            "total_tokens": usage.input + usage.output,
            "prompt_tokens_details": {"cached_tokens": usage.cached},
        }

    def start(self) -> bytes:
        return self._chunk({"role": "assistant", "content": ""})

    def text(self, piece: str) -> bytes:
        return self._chunk({"content": piece})

    def call(self, index: int) -> list[bytes]:
        ident, call = self.calls[index]
        first, second = halves(arguments_of(call))
        opening = {
            "index": index,
            "id": ident,
            "type": "function",
            "function": {"name": call.name, "arguments": first},
        }
        return [
            self._chunk({"tool_calls": [opening]}),
            self._chunk({"tool_calls": [{"index": index, "function": {"arguments": second}}]}),
        ]

    def finish(self) -> bytes:
        end = self._chunk({}, self._reason())
        if self.ask.wants_usage:
            end += data({**self._head, "choices": [], "usage": self._usage()})
        return end + b"data: [DONE]\n\n"

    def whole(self) -> bytes:
        message: dict[str, Any] = {"role": "assistant", "content": "".join(self.reply.sent) or None}
        if self.calls:
            message["tool_calls"] = [
                {
                    "id": ident,
                    "type": "function",
                    "function": {"name": call.name, "arguments": arguments_of(call)},
                }
                for ident, call in self.calls
            ]
        choice = {"index": 0, "message": message, "finish_reason": self._reason()}
        head = {**self._head, "object": "chat.completion"}
        return orjson.dumps({**head, "choices": [choice], "usage": self._usage()})


class Responses(Encoder):
    """POST /v1/responses. The text, if any, is output item 0; every call is an item of its own after it."""

    def __init__(self, ask: Ask, reply: Reply, number: int) -> None:
        super().__init__(ask, reply, number)
        self._sequence = 0
        self._message = f"msg_{number}"
        self._opened = False

    def _event(self, kind: str, **fields: Any) -> bytes:
        event = {"type": kind, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return named(event)

    def _message_item(self, status: str, text: str | None) -> dict[str, Any]:
        content = [] if text is None else [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
        return {
            "type": "message",
            "id": self._message,
            "status": status,
            "role": "assistant",
            "content": content,
        }

    def _call_item(self, index: int, status: str, arguments: str) -> dict[str, Any]:
        ident, call = self.calls[index]
        return {
            "type": "function_call",
            "id": f"fc_{ident}",
            "call_id": ident,
            "name": call.name,
            "arguments": arguments,
            "status": status,
        }

    def _response(self, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
        usage, done = self.reply.usage, status != "in_progress"
        return {
            "id": f"resp_{self.number}",
            "object": "response",
            "created_at": self.created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": _INCOMPLETE[self.reply.finish]} if status == "incomplete" else None,
            "instructions": None,
            "metadata": {},
            "model": self.ask.model,
            "output": output,
            "parallel_tool_calls": True,
            "temperature": 1.0,
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0,
            "usage": {
                "input_tokens": usage.input,
                "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": 0},
                "output_tokens": usage.output,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage.input + usage.output,
            }
            if done
            else None,
        }

    def _final(self) -> dict[str, Any]:
        text = "".join(self.reply.sent)
        output = [self._message_item("completed", text)] if text else []
        output += [
            self._call_item(index, "completed", arguments_of(call)) for index, (_, call) in enumerate(self.calls)
        ]
        return self._response("incomplete" if self.reply.finish else "completed", output)

    def start(self) -> bytes:
        response = self._response("in_progress", [])
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def text(self, piece: str) -> bytes:
        opening = b""
        if not self._opened:
            self._opened = True
            item = self._message_item("in_progress", None)
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            opening = self._event("response.output_item.added", output_index=0, item=item)
            opening += self._event(
                "response.content_part.added",
                item_id=self._message,
                output_index=0,
                content_index=0,
                part=part,
            )
        return opening + self._event(
            "response.output_text.delta",
            item_id=self._message,
            output_index=0,
            content_index=0,
            delta=piece,
            logprobs=[],
        )

    def _close_text(self) -> bytes:
        if not self._opened:
            return b""
        self._opened = False
        text = "".join(self.reply.sent)
        where = {"item_id": self._message, "output_index": 0, "content_index": 0}
        item = self._message_item("completed", text)
        return (
            self._event("response.output_text.done", **where, text=text, logprobs=[])
            + self._event("response.content_part.done", **where, part=item["content"][0])
            + self._event("response.output_item.done", output_index=0, item=item)
        )

    def call(self, index: int) -> list[bytes]:
        _, call = self.calls[index]
        arguments = arguments_of(call)
        output_index = index + (1 if self.reply.pieces else 0)
        item = self._call_item(index, "completed", arguments)
        where = {"item_id": item["id"], "output_index": output_index}
        first, second = halves(arguments)
        opening = self._close_text() + self._event(
            "response.output_item.added",
            output_index=output_index,
            item=self._call_item(index, "in_progress", ""),
        )
        return [
            opening + self._event("response.function_call_arguments.delta", **where, delta=first),
            self._event("response.function_call_arguments.delta", **where, delta=second)
            + self._event("response.function_call_arguments.done", **where, arguments=arguments, name=call.name)
            + self._event("response.output_item.done", output_index=output_index, item=item),
        ]

    def finish(self) -> bytes:
        kind = "response.incomplete" if self.reply.finish else "response.completed"
        return self._close_text() + self._event(kind, response=self._final())

    def whole(self) -> bytes:
        return orjson.dumps(self._final())


_INCOMPLETE: dict[str | None, str] = {"length": "max_output_tokens", "content_filter": "content_filter"}
