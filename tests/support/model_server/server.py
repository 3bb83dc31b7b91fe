"""The scripted model server, inside the process that uses it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

import msgspec
import orjson

from tests.support.model_server import builtin
from tests.support.model_server.ask import (
    Ask,
    read_anthropic,
    read_google,
    read_openai_chat,
    read_openai_responses,
)
from tests.support.model_server.control import Control
from tests.support.model_server.http import Connection, Exchange
from tests.support.model_server.log import Log, Recorded
from tests.support.model_server.script import Script, Scripts, Step, ToolCall, Usage
from tests.support.model_server.wire import Encoder, Reply, error_body
from tests.support.model_server.wire_anthropic import Messages
from tests.support.model_server.wire_google import GenerateContent
from tests.support.model_server.wire_openai import ChatCompletions, Responses

_ENCODERS: dict[str, type[Encoder]] = {
    "openai-chat": ChatCompletions,
    "openai-responses": Responses,
    "anthropic": Messages,
    "google": GenerateContent,
}
_READERS = {
    "/v1/chat/completions": read_openai_chat,
    "/v1/responses": read_openai_responses,
    "/v1/messages": read_anthropic,
}
_GOOGLE_PREFIXES = ("/v1beta/models/", "/v1/models/", "/v1alpha/models/")
_OUTPUT_TOOL = "final_result"
_CHARACTERS_A_TOKEN = 4


class ModelServer:
    """A model provider on a loopback port that answers as scripted, in four wire formats.

    Use it as an async context manager. Requests that no script takes get the answers described in `builtin`.
    """

    def __init__(self, port: int = 0, *, keep: int = 10_000) -> None:
        """`port` 0 picks a free one; `keep` is how many of the newest requests the log holds."""
        self.port = port
        self.log = Log(keep)
        self.scripts = Scripts()
        self._keep = keep
        self._holds: dict[str, asyncio.Event] = {}
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._control = Control(self)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen on 127.0.0.1. Raises OSError when the port is taken."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self._handle, self._connections), "127.0.0.1", self.port, backlog=2048
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and close every connection. Starting again takes the same port."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self._connections):
            connection.close()

    # Where it is.

    @property
    def url(self) -> str:
        """The root: the base URL for Anthropic and Google clients."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        """The base URL for OpenAI clients."""
        return f"{self.url}/v1"

    def environment(self, key: str = "stub-key") -> dict[str, str]:
        """Return the environment variables that point the usual clients at this server."""
        return environment_for(self.url, key)

    # What it is told.

    def script(self, *steps: Step, **conditions: Any) -> None:
        """Add a script; the conditions are those of `Script` (model, contains, key, by, then)."""
        self.add_script(Script(steps=steps, **conditions))

    def add_script(self, script: Script) -> None:
        """Add a script that was built elsewhere."""
        self.scripts.add(script)

    def release(self, hold: str) -> None:
        """Let the requests waiting for this hold, and all later ones, go on."""
        self._holds.setdefault(hold, asyncio.Event()).set()

    def reset(self) -> None:
        """Forget scripts, holds and the log. Requests under way stay under way."""
        self.scripts.clear()
        self._holds.clear()
        self.log.clear()

    # What it saw.

    @property
    def requests(self) -> list[Recorded]:
        """The requests to a model so far, oldest first."""
        return list(self.log.records)

    def repeated(self) -> dict[str, int]:
        """Return the fingerprints of calls that were answered in full more than once, with how often."""
        return self.log.repeated()

    async def wait_for_requests(
        self,
        count: int = 1,
        *,
        state: str | None = None,
        contains: str | None = None,
        model: str | None = None,
        timeout: float = 60.0,
    ) -> None:
        """Wait until `count` requests match. Raises TimeoutError after `timeout` seconds."""
        if not await self.log.wait(lambda: self.log.count(state, contains, model) >= count, timeout):
            raise TimeoutError(f"fewer than {count} requests ({state=}, {contains=}, {model=}) in {timeout} s")

    # How it answers.

    async def _handle(self, exchange: Exchange) -> None:
        if exchange.path.startswith("/_") or exchange.method == "GET":
            await self._control.handle(exchange)
            return
        try:
            body = orjson.loads(exchange.body)
            ask = _read(exchange.path, body)
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            exchange.answer(400, error_body("openai-chat", 400, f"cannot read the request: {error!r}", None))
            return
        if ask is None:
            exchange.answer(404, error_body("openai-chat", 404, f"no such path: {exchange.path}", None))
            return
        ask.key = _key(exchange.headers)
        ask.size = len(exchange.body)
        record = self._recorded(exchange, ask, body)
        seen = self.log.add(record)
        step = self.scripts.step(model=ask.model, texts=ask.texts, key=ask.key, turn=ask.turn)
        if step is None:
            step = builtin.step_for(ask, seen)
        elif not builtin.is_decided(step):
            step = builtin.answered(ask, step)
        try:
            await self._play(exchange, ask, step, record)
        except asyncio.CancelledError:
            self.log.end(record, "cut_by_client")

    def _recorded(self, exchange: Exchange, ask: Ask, body: Any) -> Recorded:
        return Recorded(
            number=self.log.total + 1,
            at=time.time(),
            method=exchange.method,
            path=exchange.path,
            headers=exchange.headers,
            body=body if self._keep else None,
            wire=ask.wire,
            model=ask.model,
            stream=ask.stream,
            key=ask.key,
            user=ask.user,
            turn=ask.turn,
            fingerprint=ask.fingerprint(),
            idempotency_key=exchange.headers.get("idempotency-key"),
        )

    async def _play(self, exchange: Exchange, ask: Ask, step: Step, record: Recorded) -> None:
        if step.hold is not None:
            await self._holds.setdefault(step.hold, asyncio.Event()).wait()
        if step.delay:
            await asyncio.sleep(step.delay)
        if step.hang:
            await asyncio.Event().wait()
        record.status = step.status
        if step.close:
            self.log.end(record, "cut_by_server")
            exchange.close()
        elif step.status != 200:
            headers = {} if step.retry_after is None else {"retry-after": f"{step.retry_after:g}"}
            message = step.message or f"HTTP {step.status}"
            self.log.end(record, "failed")
            exchange.answer(step.status, error_body(ask.wire, step.status, message, step.code), headers)
        elif ask.stream:
            await self._stream(exchange, ask, step, record)
        else:
            await self._whole(exchange, ask, step, record)

    async def _whole(self, exchange: Exchange, ask: Ask, step: Step, record: Recorded) -> None:
        reply = _reply(ask, step)
        reply.sent = [_stamp() if step.stamp else piece for piece in reply.pieces]
        body = _ENCODERS[ask.wire](ask, reply, record.number).whole()
        if step.gap:
            await asyncio.sleep(step.gap * len(reply.pieces))
        self.log.first_byte(record)
        half = len(body) // 2
        if step.cut_after is not None:
            self.log.end(record, "cut_by_server")
            exchange.answer_partly(200, body[:half], len(body) - half)
            return
        record.text, record.calls = "".join(reply.sent), [call.name for call in reply.calls]
        self.log.end(record, "cut_by_server" if step.broken else "answered")
        exchange.answer(200, body[:half] if step.broken else body)

    async def _stream(self, exchange: Exchange, ask: Ask, step: Step, record: Recorded) -> None:
        reply = _reply(ask, step)
        encoder = _ENCODERS[ask.wire](ask, reply, record.number)
        exchange.start_events()
        self.log.first_byte(record)
        pending = encoder.start()
        for position, piece in enumerate(reply.pieces):
            if step.gap and position:
                exchange.event(pending)
                pending = b""
                await asyncio.sleep(step.gap)
            if step.cut_after is not None and position >= step.cut_after:
                break
            text = _stamp() if step.stamp else piece
            reply.sent.append(text)
            record.deltas += 1
            pending += encoder.text(text)
        if step.cut_after is not None or step.broken:
            self.log.end(record, "cut_by_server")
            exchange.event(pending + (_BROKEN if step.broken else b""))
            exchange.end() if step.broken else exchange.close()
            return
        for index in range(len(reply.calls)):
            pending += b"".join(encoder.call(index))
        pending += encoder.finish()
        record.text, record.calls = "".join(reply.sent), [call.name for call in reply.calls]
        self.log.end(record, "answered")
        exchange.event(pending)
        exchange.end()


_BROKEN = b'data: {"id": "broken", "choices": [{"del\n\n'


def environment_for(url: str, key: str = "stub-key") -> dict[str, str]:
    """Return the environment variables that point the usual clients at the server with this root URL."""
    return {
        "OPENAI_BASE_URL": f"{url}/v1",
        "OPENAI_API_KEY": key,
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_API_KEY": key,
        "GOOGLE_GEMINI_BASE_URL": url,
        "GEMINI_API_KEY": key,
    }


def _read(path: str, body: Any) -> Ask | None:
    """Read the request, or return None when the path is not a model's."""
    if reader := _READERS.get(path):
        return reader(body)
    for prefix in _GOOGLE_PREFIXES:
        model, _, method = path.removeprefix(prefix).partition(":")
        if path.startswith(prefix) and method in {"generateContent", "streamGenerateContent"}:
            return read_google(body, model, method == "streamGenerateContent")
    return None


def _key(headers: dict[str, str]) -> str | None:
    bearer = headers.get("authorization", "").removeprefix("Bearer ")
    return bearer or headers.get("x-api-key") or headers.get("x-goog-api-key")


def _stamp() -> str:
    return f"{time.monotonic_ns()} "


def _reply(ask: Ask, step: Step) -> Reply:
    text, calls = step.text or "", list(step.tool_calls)
    if step.value is not msgspec.UNSET:
        tool = next((name for name in ask.tools if name.startswith(_OUTPUT_TOOL)), None)
        if tool is None:
            text = orjson.dumps(step.value).decode()
        else:
            value = step.value if isinstance(step.value, dict) else {"response": step.value}
            calls.append(ToolCall(tool, value))
    pieces = [""] * step.deltas if step.stamp else list(_pieces(text, step.deltas))
    usage = step.usage or Usage(
        input=max(1, ask.size // _CHARACTERS_A_TOKEN), output=max(1, len(text) // _CHARACTERS_A_TOKEN)
    )
    return Reply(pieces, calls, usage, step.finish)


def _pieces(text: str, count: int) -> Iterable[str]:
    """Cut the text into at most `count` pieces of nearly equal length; an empty text has none."""
    size = -(-len(text) // max(1, count))
    return (text[start : start + size] for start in range(0, len(text), size)) if text else ()
