"""Anthropic's messages as a :class:`~retinue.providers.wires.Wire`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from retinue.providers.wires import ASSUMED_ANSWER, Call, Json, Reader, Wire, objects, size, whole_number

_VERSION = "2023-06-01"
_PLAIN = re.compile(r"[a-zA-Z0-9,._ -]{1,400}")
# Tools that the caller itself carries out; the others run at the provider, and go out from there.
_OWN_TOOLS = ("custom", "bash_", "text_editor_", "computer_", "memory_")
_ERRORS = {402: "billing_error", 403: "permission_error", 404: "not_found_error", 413: "request_too_large"}


class AnthropicWire(Wire):
    """The messages API."""

    name = "anthropic"
    provider = "anthropic"
    address = "https://api.anthropic.com"

    def headers(self, key: str, given: Mapping[str, str]) -> dict[str, str]:
        headers = {"x-api-key": key, "anthropic-version": _VERSION}
        for name in ("anthropic-version", "anthropic-beta"):
            if (value := given.get(name)) and _PLAIN.fullmatch(value):
                headers[name] = value
        return headers

    def query(self, call: Call, given: Mapping[str, str]) -> str:
        return "beta=true" if given.get("beta") == "true" else ""

    def body(self, call: Call, body: Json, model: str, *, streams: bool) -> Json:
        return {**body, "model": model}

    def reader(self, call: Call, body: Json) -> Reader:
        return _Messages()

    def longest_answer(self, call: Call, body: Json) -> int:
        return whole_number(body.get("max_tokens")) or ASSUMED_ANSWER

    def steering(self, body: Json) -> str | None:
        # Only "auto" and "standard_only" exist besides what is paid for in advance; `container` and `fallbacks` name
        # what was kept at the provider, or another model.
        named = next((name for name in ("fallbacks", "container", "models") if body.get(name)), None)
        return named or ("speed" if body.get("speed") not in (None, "standard") else None)

    def reaching(self, body: Json) -> str | None:
        if body.get("mcp_servers"):
            return "mcp_servers"
        for tool in objects(body.get("tools")):
            kind = tool.get("type")
            if kind is not None and not str(kind).startswith(_OWN_TOOLS):
                return f"the tool {str(kind)[:40]!r}"
        if any(_is_remote(one) for message in objects(body.get("messages")) for one in objects(message.get("content"))):
            return "an address in place of content"
        return None

    def error(self, status: int, message: str, code: str) -> Json:
        kind = _ERRORS.get(status, "api_error" if status >= 500 else "invalid_request_error")
        return {"type": "error", "error": {"type": kind, "message": message}}

    def listing(self, models: Iterable[str]) -> Json:
        data = [
            {"type": "model", "id": name, "display_name": name, "created_at": "1970-01-01T00:00:00Z"} for name in models
        ]
        first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
        return {"data": data, "has_more": False, "first_id": first, "last_id": last}


def _is_remote(block: Json) -> bool:
    source = block.get("source")
    if isinstance(source, dict) and source.get("type") not in ("base64", "text", "content"):
        return True
    return any(_is_remote(inner) for inner in objects(block.get("content")))


class _Messages(Reader):
    def part(self, document: Json) -> bool:
        kind = document.get("type")
        if kind == "content_block_delta":
            self.tally.written += size(document.get("delta"))
        elif kind == "message_start" and isinstance(message := document.get("message"), dict):
            self._read(message)
            self.tally.output_tokens = 0  # a first guess; the end says what it came to
        elif kind == "message_delta":
            self._read(document)
            self.tally.measured = bool(self.tally.output_tokens or self.tally.input_tokens)
        return True

    def whole(self, document: Json) -> None:
        self.tally.written += size(document.get("content"))
        self._read(document)
        self.tally.measured = bool(self.tally.output_tokens or self.tally.input_tokens)

    def _read(self, message: Json) -> None:
        tally, usage = self.tally, message.get("usage")
        if isinstance(name := message.get("model"), str):
            tally.served_by = name
        if not isinstance(usage, dict):
            return
        if "input_tokens" in usage:
            tally.cached_tokens = whole_number(usage.get("cache_read_input_tokens"))
            tally.cache_written = whole_number(usage.get("cache_creation_input_tokens"))
            tally.input_tokens = whole_number(usage["input_tokens"]) + tally.cached_tokens + tally.cache_written
        tally.output_tokens = whole_number(usage.get("output_tokens")) or tally.output_tokens
