"""Google's Gemini API as a :class:`~retinue.providers.wires.Wire`: generateContent and its streamed twin."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from retinue.providers.wires import ASSUMED_ANSWER, Call, Json, Reader, Wire, objects, size, whole_number

# Not RESOURCE_EXHAUSTED: clients take that for a rate limit and try again.
_STATUS = {402: "FAILED_PRECONDITION", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 502: "UNAVAILABLE"}
_OWN_TOOLS = frozenset({"functionDeclarations", "function_declarations"})


class GeminiWire(Wire):
    """generateContent, streamGenerateContent (as server-sent events) and countTokens."""

    name = "gemini"
    provider = "google"
    address = "https://generativelanguage.googleapis.com"

    def headers(self, key: str, given: Mapping[str, str]) -> dict[str, str]:
        return {"x-goog-api-key": key}

    def query(self, call: Call, given: Mapping[str, str]) -> str:
        return "alt=sse" if call.streams else ""

    def body(self, call: Call, body: Json, model: str, *, streams: bool) -> Json:
        inner = body.get("generateContentRequest")
        if call.action == "count" and isinstance(inner, dict):
            return {**body, "generateContentRequest": {**inner, "model": f"models/{model}"}}
        return {name: value for name, value in body.items() if name != "model"}

    def reader(self, call: Call, body: Json) -> Reader:
        return _Generated()

    def longest_answer(self, call: Call, body: Json) -> int:
        config = body.get("generationConfig", body.get("generation_config"))
        if not isinstance(config, dict):
            return ASSUMED_ANSWER
        limit = whole_number(config.get("maxOutputTokens", config.get("max_output_tokens")))
        answers = whole_number(config.get("candidateCount", config.get("candidate_count")))
        return (limit or ASSUMED_ANSWER) * max(1, answers)

    def steering(self, body: Json) -> str | None:
        # What is kept at the provider belongs to its account, which tenants may share.
        return next((name for name in ("cachedContent", "cached_content") if body.get(name)), None)

    def reaching(self, body: Json) -> str | None:
        inner = body.get("generateContentRequest")
        if isinstance(inner, dict) and (found := self.reaching(inner)):
            return found
        for tool in objects(body.get("tools")):
            for name in tool:
                if name not in _OWN_TOOLS:
                    return f"the tool {name[:40]!r}"
        contents = body.get("contents")
        for content in [contents] if isinstance(contents, dict) else objects(contents):
            parts = content.get("parts")
            for part in [parts] if isinstance(parts, dict) else objects(parts):
                if "fileData" in part or "file_data" in part:
                    return "an address in place of content"
        return None

    def error(self, status: int, message: str, code: str) -> Json:
        name = _STATUS.get(status, "INTERNAL" if status >= 500 else "INVALID_ARGUMENT")
        return {"error": {"code": status, "message": message, "status": name}}

    def listing(self, models: Iterable[str]) -> Json:
        actions = ["generateContent", "countTokens"]
        found = [
            {"name": f"models/{name}", "displayName": name, "supportedGenerationMethods": actions} for name in models
        ]
        return {"models": found}


class _Generated(Reader):
    def part(self, document: Json) -> bool:
        tally = self.tally
        if isinstance(name := document.get("modelVersion"), str):
            tally.served_by = name
        for candidate in objects(document.get("candidates")):
            tally.written += size(candidate.get("content"))
        usage = document.get("usageMetadata")
        if isinstance(usage, dict):
            prompt = whole_number(usage.get("promptTokenCount")) + whole_number(usage.get("toolUsePromptTokenCount"))
            tally.input_tokens = prompt
            tally.cached_tokens = whole_number(usage.get("cachedContentTokenCount"))
            written = whole_number(usage.get("candidatesTokenCount")) + whole_number(usage.get("thoughtsTokenCount"))
            tally.output_tokens = written
            ended = any(candidate.get("finishReason") for candidate in objects(document.get("candidates")))
            tally.measured = bool(prompt) and (ended or tally.measured)
        return True

    def whole(self, document: Json) -> None:
        self.part(document)
        tally = self.tally
        tally.measured = bool(tally.input_tokens or tally.output_tokens)
