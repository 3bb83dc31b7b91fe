"""The demo provider in OpenAI's format, as a transport: its answers look as if they had come over the network."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import msgspec

from retinue.providers.backend import Reply
from retinue.providers.demo import Demo, decide
from retinue.providers.messages import Message, ModelRequest, Part, Text, ToolCall, ToolResult, ToolSpec
from retinue.providers.wires import Json, objects


class DemoTransport(httpx2.AsyncBaseTransport):
    """Answers chat completions by the script; connects to nothing."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Answer a request."""
        if not request.url.path.endswith("/chat/completions"):
            error = {"error": {"message": "The demo only chats.", "type": "invalid_request_error", "code": "demo"}}
            return httpx2.Response(404, json=error)
        body: Json = msgspec.json.decode(await request.aread())
        model = str(body.get("model"))
        try:
            asked = request_of(body)
            decide(asked)
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
            # Providers check a body field by field. The script takes what it needs, and this stands for the rest.
            error = {"error": {"message": "The body cannot be used.", "type": "invalid_request_error", "code": "demo"}}
            return httpx2.Response(400, json=error)
        if body.get("stream"):
            headers = {"content-type": "text/event-stream"}
            return httpx2.Response(200, headers=headers, stream=_Spoken(model, asked))
        reply = await Demo().ask(model, asked, _ignore, _nothing)
        head = {**_head(model), "object": "chat.completion"}
        choice = {"index": 0, "message": _message(reply), "finish_reason": _finish(reply)}
        return httpx2.Response(200, json={**head, "choices": [choice], "usage": _usage(reply)})


def request_of(body: Json) -> ModelRequest:
    """Read the body of a chat completion."""
    instructions: list[str] = []
    messages: list[Message] = []
    names: dict[str, str] = {}
    for one in objects(body.get("messages")):
        text = _text(one.get("content"))
        match one.get("role"):
            case "system" | "developer":
                instructions.append(text)
            case "assistant":
                calls = [_call(call) for call in objects(one.get("tool_calls"))]
                names |= {call.id: call.name for call in calls}
                said: list[Part] = [Text(text)] if text else []
                messages.append(Message("assistant", [*said, *calls]))
            case "tool":
                ident = str(one.get("tool_call_id"))
                messages.append(Message("user", [ToolResult(ident, names.get(ident, ""), text)]))
            case _:
                messages.append(Message("user", [Text(text)]))
    return ModelRequest(
        instructions="\n".join(instructions),
        messages=messages,
        tools=[
            _tool(tool["function"]) for tool in objects(body.get("tools")) if isinstance(tool.get("function"), dict)
        ],
        output_schema=_schema(body.get("response_format")),
    )


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(str(part["text"]) for part in objects(content) if "text" in part)


def _call(call: Json) -> ToolCall:
    function = call.get("function")
    named = function if isinstance(function, dict) else {}
    return ToolCall(str(call.get("id")), str(named.get("name")), str(named.get("arguments") or "{}"))


def _tool(function: Json) -> ToolSpec:
    parameters = function.get("parameters")
    return ToolSpec(
        str(function.get("name")),
        str(function.get("description") or ""),
        parameters if isinstance(parameters, dict) else {"type": "object"},
    )


def _schema(wanted: Any) -> Json | None:
    named = wanted.get("json_schema") if isinstance(wanted, dict) else None
    schema = named.get("schema") if isinstance(named, dict) else None
    return schema if isinstance(schema, dict) else None


class _Spoken(httpx2.AsyncByteStream):
    """A streamed answer."""

    def __init__(self, model: str, request: ModelRequest) -> None:
        self._model = model
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        head = {**_head(self._model), "object": "chat.completion.chunk"}
        pieces: asyncio.Queue[str | None] = asyncio.Queue()

        def chunk(delta: Json, finish: str | None = None) -> bytes:
            return _event({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

        task = asyncio.create_task(Demo().ask(self._model, self._request, pieces.put_nowait, _nothing))
        task.add_done_callback(lambda _: pieces.put_nowait(None))
        try:
            yield chunk({"role": "assistant", "content": ""})
            while (piece := await pieces.get()) is not None:
                yield chunk({"content": piece})
            reply = await task
            for number, call in enumerate(_message(reply).get("tool_calls", ())):
                yield chunk({"tool_calls": [{"index": number, **call}]})
            yield chunk({}, _finish(reply))
            yield _event({**head, "choices": [], "usage": _usage(reply)}) + b"data: [DONE]\n\n"
        finally:
            task.cancel()


def _head(model: str) -> Json:
    return {"id": f"demo-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}


def _message(reply: Reply) -> Json:
    text = "".join(part.text for part in reply.parts if isinstance(part, Text))
    message: Json = {"role": "assistant", "content": text or None}
    calls = [
        {"id": part.id, "type": "function", "function": {"name": part.name, "arguments": part.arguments}}
        for part in reply.parts
        if isinstance(part, ToolCall)
    ]
    return message | ({"tool_calls": calls} if calls else {})


def _finish(reply: Reply) -> str:
    return "tool_calls" if reply.finish == "tool_call" else "stop"


def _usage(reply: Reply) -> Json:
    read, written = reply.input_tokens, reply.output_tokens
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _event(document: Json) -> bytes:
    return b"data: " + msgspec.json.encode(document) + b"\n\n"


def _ignore(_text: str) -> None:
    return


def _nothing() -> None:
    return
