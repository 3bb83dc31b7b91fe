"""Putting an answer together from the chunks of OpenAI's chat completions."""

from __future__ import annotations

import uuid
from typing import Any

import msgspec
from pydantic_ai.profiles import DEFAULT_THINKING_TAGS
from pydantic_ai.profiles.openai import OpenAIModelProfile

from retinue.providers.backend import OUTPUT_TOOL, OnDelta, Reply
from retinue.providers.failures import ModelFailed, kind_of
from retinue.providers.messages import AnswerPart, Text, Thinking, ToolCall

Json = dict[str, Any]

_FINISH = {"tool_calls": "tool_call", "function_call": "tool_call"}
_THINKING_FIELDS = ("reasoning", "reasoning_content")


class _Said:
    """Text or thought that is still growing; ``field`` is where a thought came in."""

    def __init__(self, field: str | None = None) -> None:
        self.field = field
        self.pieces: list[str] = []


class _Called:
    """A tool call that is still growing."""

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.pieces: list[str] = []
        self.extra: Json | None = None


class ChatAnswer:
    """Takes chunks as decoded JSON. Servers differ in small ways, so every field may be missing or null."""

    def __init__(self, profile: OpenAIModelProfile, provider: str, on_delta: OnDelta) -> None:
        self._on_delta = on_delta
        self._provider = provider
        self._open_tag, self._close_tag = profile.get("thinking_tags", DEFAULT_THINKING_TAGS)
        self._skip_leading_space = profile.get("ignore_streamed_leading_whitespace", False)
        custom = profile.get("openai_chat_thinking_field", None)
        self._thinking_fields = (custom, *_THINKING_FIELDS) if custom else _THINKING_FIELDS
        self._parts: list[_Said | _Called] = []
        self._calls: dict[object, _Called] = {}
        self._inside_tags = False
        self._refusal = ""
        self._finish: str | None = None
        self._usage: Json | None = None
        self._served_by = ""

    def add(self, chunk: Json) -> None:
        """Take the next chunk.

        Raises:
            ModelFailed: it is the report of an error.
        """
        if error := chunk.get("error"):
            raise _reported(error)
        if usage := chunk.get("usage"):
            # Servers that count along send running totals: the last one holds.
            self._usage = usage
        self._served_by = chunk.get("model") or self._served_by
        for choice in chunk.get("choices") or ():
            if choice.get("finish_reason"):
                self._finish = choice["finish_reason"]
            if delta := choice.get("delta"):
                self._add_delta(delta)
            break

    def _add_delta(self, delta: Json) -> None:
        for name in self._thinking_fields:
            if isinstance(thought := delta.get(name), str) and thought:
                self._think(thought, name)
                break
        if content := delta.get("content"):
            self._say(content if isinstance(content, str) else _joined(content))
        for call in delta.get("tool_calls") or ():
            self._call(call)
        if refusal := delta.get("refusal"):
            self._refusal += refusal

    def _think(self, thought: str, field: str) -> None:
        last = self._parts[-1] if self._parts else None
        if not isinstance(last, _Said) or last.field != field:
            last = _Said(field)
            self._parts.append(last)
        last.pieces.append(thought)

    def _say(self, piece: str) -> None:
        # Models that think in their text send each tag as one token, so as a delta of its own.
        if piece in (self._open_tag, self._close_tag):
            self._inside_tags = piece == self._open_tag
            return
        if self._inside_tags:
            self._think(piece, "content")
            return
        last = self._parts[-1] if self._parts else None
        if not isinstance(last, _Said) or last.field is not None:
            if self._skip_leading_space and piece.isspace():
                return
            last = _Said()
            self._parts.append(last)
        last.pieces.append(piece)
        self._on_delta(piece)

    def _call(self, delta: Json) -> None:
        # Some servers leave the index out; a new id then means a new call.
        key = delta.get("index")
        if key is None:
            key = delta.get("id") or next(reversed(self._calls), "")
        call = self._calls.get(key)
        if call is None:
            call = self._calls[key] = _Called()
            self._parts.append(call)
        call.id = call.id or delta.get("id") or ""
        call.extra = delta.get("extra_content") or call.extra
        function = delta.get("function") or {}
        call.name += function.get("name") or ""
        arguments = function.get("arguments") or ""
        call.pieces.append(arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode())

    def reply(self, *, complete: bool) -> Reply:
        """Return the answer. ``complete`` says that the stream was ended by its end mark.

        Raises:
            ModelFailed: the answer is cut, or the model refused.
        """
        if self._refusal:
            raise ModelFailed("refused", self._refusal)
        if self._finish is None and not complete:
            raise ModelFailed("bad_answer", "It ended in the middle.")
        usage = self._usage or {}
        details = usage.get("prompt_tokens_details") or {}
        return Reply(
            parts=[self._part(part) for part in self._parts],
            input_tokens=usage.get("prompt_tokens") or 0,
            output_tokens=usage.get("completion_tokens") or 0,
            cached_tokens=details.get("cached_tokens") or 0,
            measured=self._usage is not None,
            finish=_FINISH.get(self._finish or "", self._finish or "stop"),
            served_by=self._served_by,
        )

    def _part(self, part: _Said | _Called) -> AnswerPart:
        text = "".join(part.pieces)
        if isinstance(part, _Said):
            return Text(text) if part.field is None else Thinking(text, None, self._provider, part.field)
        if part.name == OUTPUT_TOOL:
            return Text(text)
        details = {"extra_content": part.extra} if part.extra else None
        provider = self._provider if details else None
        return ToolCall(part.id or f"call_{uuid.uuid4().hex}", part.name, text or "{}", provider, details)


def _joined(content: Any) -> str:
    """Return the text of a content that came as a list of parts."""
    parts = content if isinstance(content, list) else ()
    texts = (part.get("text") if isinstance(part, dict) else part for part in parts)
    return "".join(text for text in texts if isinstance(text, str))


def _reported(error: Any) -> ModelFailed:
    """Return the failure that an error object inside the stream reports."""
    if not isinstance(error, dict):
        return ModelFailed("overloaded", str(error))
    code, type_, message = error.get("code"), error.get("type"), error.get("message")
    # Gateways send the HTTP status as the code, as a number or in words.
    status = code if isinstance(code, int) else int(code) if isinstance(code, str) and code.isdecimal() else None
    return ModelFailed(kind_of(status, str(code or ""), str(type_ or "")), str(message or ""), status=status)
