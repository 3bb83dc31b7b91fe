"""OpenAI's formats as a :class:`~retinue.providers.wires.Wire`: chat completions, responses, embeddings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from retinue.providers.wires import ASSUMED_ANSWER, Call, Json, Reader, Wire, objects, size, whole_number

# What routers and proxies that speak this format take from a body instead of `model`, or besides it. None is OpenAI's.
_STEERING = (
    "models", "route", "provider", "fallbacks", "fallback_models", "model_list", "router", "plugins", "preset",
    "api_key", "api_base", "base_url", "api_version", "custom_llm_provider", "user_config", "extra_body",
    "extra_headers", "extra_query", "organization", "mock_response",
)  # fmt: skip
# An answer that comes later, or a state kept for another call: neither can be seen from here, and an account that
# tenants share would show them to each other.
_LATER = ("background", "previous_response_id", "conversation", "prompt")
_TIERS = (None, "auto", "default", "flex")
_OWN_TOOLS = ("function", "custom", None)


class OpenAIWire(Wire):
    """Chat completions, responses and embeddings, of OpenAI and of all who speak like it."""

    name = "openai"
    provider = "openai"
    address = "https://api.openai.com/v1"

    def headers(self, key: str, given: Mapping[str, str]) -> dict[str, str]:
        return {"authorization": f"Bearer {key}"}

    def body(self, call: Call, body: Json, model: str, *, streams: bool) -> Json:
        sent = {**body, "model": model}
        if call.action == "chat" and streams:
            options = body.get("stream_options")
            sent["stream_options"] = {**(options if isinstance(options, dict) else {}), "include_usage": True}
        return sent

    def reader(self, call: Call, body: Json) -> Reader:
        if call.action == "responses":
            return _Responses()
        options = body.get("stream_options")
        asked = isinstance(options, dict) and options.get("include_usage") is True
        return _Chat(drop_usage=not asked)

    def longest_answer(self, call: Call, body: Json) -> int:
        if call.action == "embeddings":
            return 0
        limits = (whole_number(body.get(name)) for name in ("max_completion_tokens", "max_output_tokens", "max_tokens"))
        return next((limit for limit in limits if limit), ASSUMED_ANSWER) * max(1, whole_number(body.get("n")))

    def steering(self, body: Json) -> str | None:
        named = next((name for name in (*_STEERING, *_LATER) if body.get(name)), None)
        if named is None and body.get("service_tier") not in _TIERS:
            return "service_tier"
        return named

    def reaching(self, body: Json) -> str | None:
        if body.get("web_search_options"):
            return "web_search_options"
        for tool in objects(body.get("tools")):
            if tool.get("type") not in _OWN_TOOLS:
                return f"the tool {str(tool.get('type'))[:40]!r}"
        for message in (*objects(body.get("messages")), *objects(body.get("input"))):
            for part in (*objects(message.get("content")), *objects(message.get("output"))):
                if _is_remote(part):
                    return "an address in place of content"
        return None

    def error(self, status: int, message: str, code: str) -> Json:
        kind = {402: "insufficient_quota", 403: "permission_error", 404: "invalid_request_error"}.get(
            status, "api_error" if status >= 500 else "invalid_request_error"
        )
        return {"error": {"message": message, "type": kind, "param": None, "code": code}}

    def listing(self, models: Iterable[str]) -> Json:
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "retinue"} for name in models]
        return {"object": "list", "data": data}


def _is_remote(part: Json) -> bool:
    """Whether a part of a message names what the provider is to fetch, or keeps for somebody."""
    inner = [value for value in part.values() if isinstance(value, dict)]
    for one in (part, *inner):
        if "file_id" in one or "file_url" in one:
            return True
        for name in ("image_url", "url"):
            address = one.get(name)
            if isinstance(address, str) and not address.startswith("data:"):
                return True
    return False


class _Chat(Reader):
    """Chat completions; embeddings, too, which have the same usage and no choices."""

    def __init__(self, *, drop_usage: bool) -> None:
        super().__init__()
        self._drop_usage = drop_usage

    def part(self, document: Json) -> bool:
        self._read(document, "delta")
        return not (self._drop_usage and document.get("choices") == [] and document.get("usage"))

    def whole(self, document: Json) -> None:
        self._read(document, "message")

    def _read(self, document: Json, text: str) -> None:
        tally = self.tally
        if isinstance(name := document.get("model"), str):
            tally.served_by = name
        for choice in objects(document.get("choices")):
            tally.written += size(choice.get(text))
        usage = document.get("usage")
        if isinstance(usage, dict):
            details = usage.get("prompt_tokens_details")
            tally.input_tokens = whole_number(usage.get("prompt_tokens"))
            tally.output_tokens = whole_number(usage.get("completion_tokens"))
            tally.cached_tokens = whole_number(details.get("cached_tokens")) if isinstance(details, dict) else 0
            tally.measured = bool(tally.input_tokens or tally.output_tokens)


class _Responses(Reader):
    def part(self, document: Json) -> bool:
        if isinstance(delta := document.get("delta"), str):
            self.tally.written += len(delta)
        if isinstance(response := document.get("response"), dict) and response.get("usage"):
            self._usage(response)
        return True

    def whole(self, document: Json) -> None:
        self.tally.written += size(document.get("output"))
        self._usage(document)

    def _usage(self, response: Json) -> None:
        tally, usage = self.tally, response.get("usage")
        if isinstance(name := response.get("model"), str):
            tally.served_by = name
        if isinstance(usage, dict):
            details = usage.get("input_tokens_details")
            tally.input_tokens = whole_number(usage.get("input_tokens"))
            tally.output_tokens = whole_number(usage.get("output_tokens"))
            tally.cached_tokens = whole_number(details.get("cached_tokens")) if isinstance(details, dict) else 0
            tally.measured = bool(tally.input_tokens or tally.output_tokens)
