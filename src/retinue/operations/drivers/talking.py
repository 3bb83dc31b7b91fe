"""Talking with an agent by the Agent Client Protocol (ACP), JSON-RPC on its standard input and output.

The agent is offered no files and no terminal of ours: what it reads, writes and runs stays inside the sandbox. What it
asks leave for is answered by kind of tool. That is guidance for an agent that means well; what holds one that does not
is the sandbox. Whatever it sends is looked at loosely, because it may send anything.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from typing import Any

from acp import PROTOCOL_VERSION, RequestError
from acp.core import Connection

from retinue import __version__
from retinue.operations.driver import Progress
from retinue.operations.drivers.listening import Lines, as_object, inner, shortened
from retinue.operations.drivers.transcript import Transcript

Sender = Callable[[bytes], Awaitable[None]]
Say = Callable[[Progress], None]

_STOPS = {
    "max_turn_requests": ("turns", "It reached the number of turns that it may take."),
    "max_tokens": ("model_error", "The model's answer was cut off."),
    "refusal": ("refused", "It refused to do that."),
}


class Conversation:
    """One task, given to an agent, and all that is said until it is done.

    Args:
        transcript: where what was said is kept.
        folder: the workspace as the agent sees it.
        prompt: the task.
        allowed: the kinds of tools that it may use when it asks.
        turns: how often it may use a tool.
    """

    def __init__(
        self, transcript: Transcript, *, folder: str, prompt: str, allowed: Collection[str], turns: int
    ) -> None:
        self._transcript = transcript
        self._folder = folder
        self._prompt = prompt
        self._allowed = frozenset(allowed)
        self._turns = turns
        self._seen: set[str] = set()
        self._shown: set[str] = set()
        self._say: Say = lambda _progress: None
        self._stop: Callable[[], Awaitable[None]] | None = None

    async def hold(self, send: Sender, received: AsyncIterator[bytes], say: Say) -> None:
        """Talk until the agent says that it is done, or cannot go on."""
        self._say = say
        connection = Connection(self._hear, _Pipe(send, received))
        try:
            await self._talk(connection)
        except RequestError as error:
            self._show(self._transcript.erred(_error_text(error), fatal=True))
        except ConnectionError:
            pass  # it is gone; how it ended says the rest
        finally:
            await connection.close()

    async def _talk(self, connection: Connection) -> None:
        nothing_of_ours = {"fs": {"readTextFile": False, "writeTextFile": False}, "terminal": False}
        await connection.send_request(
            "initialize",
            {
                "protocolVersion": PROTOCOL_VERSION,
                "clientCapabilities": nothing_of_ours,
                "clientInfo": {"name": "retinue", "title": "Retinue", "version": __version__},
            },
        )
        opened = await connection.send_request("session/new", {"cwd": self._folder, "mcpServers": []})
        session = {"sessionId": inner(opened, "sessionId")}
        self._stop = lambda: connection.send_notification("session/cancel", session)
        prompt = [{"type": "text", "text": self._prompt}]
        ended = await connection.send_request("session/prompt", {**session, "prompt": prompt})
        self._ended(str(inner(ended, "stopReason")))

    def _ended(self, reason: str) -> None:
        if len(self._seen) > self._turns:
            reason = "max_turn_requests"
        if reason != "end_turn":
            kind, text = _STOPS.get(reason, ("agent_failed", f"It stopped: {shortened(reason, 100)}."))
            self._show(self._transcript.erred(text, fatal=True))
            self._transcript.kind = kind
        self._show(self._transcript.finished())

    async def _hear(self, method: str, params: Any, is_notification: bool) -> Any:
        """Answer what the agent asks, and take note of what it tells."""
        if method == "session/update":
            self._show(self._update(inner(params, "update")))
        elif method == "session/request_permission":
            return self._permission(params)
        elif not is_notification:
            raise RequestError.method_not_found(method)
        if self._stop is not None and len(self._seen) > self._turns:
            stop, self._stop = self._stop, None
            await stop()
        return None

    def _show(self, told: list[Progress]) -> None:
        for one in told:
            self._say(one)

    def _update(self, update: object) -> list[Progress]:
        match inner(update, "sessionUpdate"):
            case "agent_message_chunk":
                return self._transcript.said(_text(inner(update, "content", "text")))
            case "agent_thought_chunk":
                thought = _text(inner(update, "content", "text"))
                return [Progress(text=shortened(thought), kind="thought")] if thought else []
            case "tool_call" | "tool_call_update":
                told = self._tool(update, known=inner(update, "status") != "pending")
                if inner(update, "status") == "failed":
                    told += self._transcript.erred(_failure(update))
                return told
        return []

    def _tool(self, call: object, *, known: bool) -> list[Progress]:
        """Count a call of a tool once, and show it once, when it is known what it is about."""
        call_id = _text(inner(call, "toolCallId"))
        self._seen.add(call_id)
        if not known or call_id in self._shown:
            return []
        self._shown.add(call_id)
        title = " ".join(_text(inner(call, "title")).split())
        return self._transcript.used(shortened(f"{_text(inner(call, 'kind')) or 'tool'} {title}".strip(), 300), None)

    def _permission(self, params: object) -> dict[str, Any]:
        call = inner(params, "toolCall")
        self._show(self._tool(call, known=True))
        kind = _text(inner(call, "kind")) or "other"
        may = kind in self._allowed
        if not may:
            self._show(self._transcript.erred(f"It may not use tools of the kind {shortened(kind, 50)} here."))
        given = inner(params, "options")
        options = {
            _text(inner(one, "kind")): inner(one, "optionId") for one in (given if isinstance(given, list) else [])
        }
        # Leave for once only: a lasting one would change how the agent asks from then on.
        for wanted in ("allow_once", "allow_always") if may else ("reject_once", "reject_always"):
            if options.get(wanted) is not None:
                return {"outcome": {"outcome": "selected", "optionId": options[wanted]}}
        return {"outcome": {"outcome": "cancelled"}}


class _Pipe:
    """Messages over the agent's input and output, one to a line; other lines are not meant for us."""

    def __init__(self, send: Sender, received: AsyncIterator[bytes]) -> None:
        self._send = send
        self._messages = self._read(received)

    async def send(self, message: Mapping[str, Any]) -> None:
        await self._send(json.dumps(message).encode() + b"\n")

    async def receive(self) -> dict[str, Any] | None:
        return await anext(self._messages, None)

    async def close(self) -> None:
        return None

    @staticmethod
    async def _read(received: AsyncIterator[bytes]) -> AsyncIterator[dict[str, Any]]:
        lines = Lines()
        async for chunk in received:
            for line in lines.feed(chunk):
                message = as_object(line)
                if message is not None and _well_formed(message):
                    yield message


def _well_formed(message: Mapping[str, Any]) -> bool:
    return isinstance(message.get("method", ""), str) and isinstance(message.get("id"), int | str | None)


def _text(found: object) -> str:
    return found if isinstance(found, str) else ""


def _failure(update: object) -> str:
    content = inner(update, "content")
    texts = [_text(inner(one, "content", "text")) for one in (content if isinstance(content, list) else [])]
    return next((text for text in texts if text), "The tool failed.")


def _error_text(error: RequestError) -> str:
    """Return what went wrong; the details say it better than the message, where there are any."""
    details = inner(error.data, "details")
    return _text(details) or str(error)
