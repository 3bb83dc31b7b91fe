"""A request of any wire format, read into one shape."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

Wire = Literal["openai-chat", "openai-responses", "anthropic", "google"]
Json = dict[str, Any]


@dataclass(slots=True)
class Result:
    """What a tool answered, as the model is told."""

    name: str
    text: str


@dataclass(slots=True)
class Ask:
    """One request to a model.

    `texts` are the user's texts in order. `turn` counts the model's answers since the last of them, and
    `results` are the tool results since then. `history` is the conversation without instructions, which the
    fingerprint is of.
    """

    wire: Wire
    model: str
    stream: bool
    key: str | None = None
    texts: list[str] = field(default_factory=list)
    turn: int = 0
    results: list[Result] = field(default_factory=list)
    tools: list[str] = field(default_factory=list)
    wants_usage: bool = True
    wants_json: bool = False
    history: list[Any] = field(default_factory=list)
    size: int = 0

    @property
    def user(self) -> str:
        """The last text of the user, or an empty string."""
        return self.texts[-1] if self.texts else ""

    def said(self, text: str) -> None:
        """Note a text of the user: what the model did before belongs to an earlier question."""
        self.texts.append(text)
        self.turn = 0
        self.results = []

    def fingerprint(self) -> str:
        """Return the same short string for the same model and conversation; instructions do not count."""
        source = orjson.dumps([self.wire, self.model, self.history], option=orjson.OPT_SORT_KEYS)
        return hashlib.sha256(source).hexdigest()[:24]


def read_openai_chat(body: Json) -> Ask:
    """Read a body of POST /v1/chat/completions."""
    options = body.get("stream_options") or {}
    ask = Ask("openai-chat", str(body.get("model", "")), bool(body.get("stream")))
    ask.wants_usage = bool(options.get("include_usage")) or not ask.stream
    ask.wants_json = (body.get("response_format") or {}).get("type") in {"json_schema", "json_object"}
    ask.tools = [tool["function"]["name"] for tool in body.get("tools") or [] if "function" in tool]
    names: dict[str, str] = {}
    for message in body.get("messages") or []:
        role = message.get("role")
        if role in {"system", "developer"}:
            continue
        ask.history.append(message)
        if role == "user":
            ask.said(_joined(message.get("content")))
        elif role == "assistant":
            ask.turn += 1
            names |= {call["id"]: call["function"]["name"] for call in message.get("tool_calls") or []}
        elif role == "tool":
            name = names.get(message.get("tool_call_id", ""), "tool")
            ask.results.append(Result(name, _joined(message.get("content"))))
    return ask


def read_openai_responses(body: Json) -> Ask:
    """Read a body of POST /v1/responses."""
    ask = Ask("openai-responses", str(body.get("model", "")), bool(body.get("stream")))
    text_format = (body.get("text") or {}).get("format") or {}
    ask.wants_json = text_format.get("type") in {"json_schema", "json_object"}
    ask.tools = [tool["name"] for tool in body.get("tools") or [] if "name" in tool]
    items = body.get("input") or []
    if isinstance(items, str):
        items = [{"role": "user", "content": items}]
    names: dict[str, str] = {}
    answering = False
    for item in items:
        kind, role = item.get("type", "message"), item.get("role")
        if role in {"system", "developer"}:
            continue
        ask.history.append(item)
        if kind == "message" and role == "user":
            ask.said(_joined(item.get("content")))
            answering = False
        elif kind == "function_call_output":
            ask.results.append(Result(names.get(item["call_id"], "tool"), _joined(item.get("output"))))
            answering = False
        else:
            # One answer may be several items in a row (a message and calls): count it once.
            ask.turn += 0 if answering else 1
            answering = True
            if kind == "function_call":
                names[item["call_id"]] = item["name"]
    return ask


def read_anthropic(body: Json) -> Ask:
    """Read a body of POST /v1/messages."""
    ask = Ask("anthropic", str(body.get("model", "")), bool(body.get("stream")))
    ask.wants_json = "format" in (body.get("output_config") or {}) or "output_format" in body
    ask.tools = [tool["name"] for tool in body.get("tools") or [] if "name" in tool]
    names: dict[str, str] = {}
    for message in body.get("messages") or []:
        ask.history.append(message)
        content = message.get("content")
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
        if message.get("role") == "assistant":
            ask.turn += 1
            names |= {block["id"]: block["name"] for block in blocks if block.get("type") == "tool_use"}
            continue
        for block in blocks:
            if block.get("type") == "tool_result":
                ask.results.append(Result(names.get(block["tool_use_id"], "tool"), _joined(block.get("content"))))
        texts = [block["text"] for block in blocks if block.get("type") == "text"]
        if texts:
            ask.said("\n".join(texts))
    return ask


def read_google(body: Json, model: str, stream: bool) -> Ask:
    """Read a body of generateContent or streamGenerateContent; the model and the mode stand in the path."""
    ask = Ask("google", model, stream)
    config = body.get("generationConfig") or {}
    ask.wants_json = config.get("responseMimeType") == "application/json"
    for tool in body.get("tools") or []:
        ask.tools += [declared["name"] for declared in tool.get("functionDeclarations") or []]
    for content in body.get("contents") or []:
        ask.history.append(content)
        parts = content.get("parts") or []
        if content.get("role") == "model":
            ask.turn += 1
            continue
        for part in parts:
            if answer := part.get("functionResponse"):
                ask.results.append(Result(answer.get("name", "tool"), _google_result(answer.get("response"))))
        texts = [part["text"] for part in parts if "text" in part]
        if texts:
            ask.said("\n".join(texts))
    return ask


def _joined(content: Any) -> str:
    """The text of a content field: a string, or a list of parts of which some are text."""
    if isinstance(content, list):
        return "\n".join(str(part["text"]) for part in content if isinstance(part, dict) and "text" in part)
    return "" if content is None else str(content)


def _google_result(response: Any) -> str:
    """Google wants an object where the other wires take text; a lone value under one key is that text."""
    if isinstance(response, dict) and len(response) == 1:
        (response,) = response.values()
    return response if isinstance(response, str) else orjson.dumps(response).decode()
