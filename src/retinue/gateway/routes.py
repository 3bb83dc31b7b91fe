"""The calls that the gateway takes, by path: these and no others, for it is no general proxy."""

from __future__ import annotations

import re
from dataclasses import dataclass

from retinue.providers import AnthropicWire, Call, GeminiWire, OpenAIWire, Wire

OPENAI: Wire = OpenAIWire()
ANTHROPIC: Wire = AnthropicWire()
GEMINI: Wire = GeminiWire()


@dataclass(frozen=True, slots=True)
class Route:
    """One call as it was asked for.

    Attributes:
        wire: the provider's format.
        call: what is called; None: the list of models.
        model: the model named in the path, where the format has it there.
    """

    wire: Wire
    call: Call | None
    model: str | None = None


CHAT = Call("chat", "/chat/completions")
RESPONSES = Call("responses", "/responses")
EMBEDDINGS = Call("embeddings", "/embeddings")
MESSAGES = Call("messages", "/v1/messages")
COUNT_MESSAGES = Call("count", "/v1/messages/count_tokens", free=True)
GENERATE = Call("generate", "/v1beta/models/{model}:generateContent")
STREAM = Call("generate", "/v1beta/models/{model}:streamGenerateContent", streams=True)
COUNT = Call("count", "/v1beta/models/{model}:countTokens", free=True)

_FIXED: dict[str, tuple[Wire, Call]] = {
    "/v1/chat/completions": (OPENAI, CHAT),
    "/v1/responses": (OPENAI, RESPONSES),
    "/v1/embeddings": (OPENAI, EMBEDDINGS),
    "/v1/messages": (ANTHROPIC, MESSAGES),
    "/v1/messages/count_tokens": (ANTHROPIC, COUNT_MESSAGES),
}
GEMINI_CALLS = {"generateContent": GENERATE, "streamGenerateContent": STREAM, "countTokens": COUNT}
_GEMINI = re.compile(r"/v1beta/models/([^/]+):(\w+)")


def route_for(method: str, path: str, *, anthropic: bool = False) -> Route | None:
    """Return the call behind a path; None where there is none.

    ``anthropic`` says that the caller speaks Anthropic's format: its list of models has the path of OpenAI's.
    """
    if method == "GET":
        if path == "/v1/models":
            return Route(ANTHROPIC if anthropic else OPENAI, None)
        return Route(GEMINI, None) if path == "/v1beta/models" else None
    if method != "POST":
        return None
    if path in _FIXED:
        return Route(*_FIXED[path])
    found = _GEMINI.fullmatch(path)
    if found is None or found[2] not in GEMINI_CALLS:
        return None
    return Route(GEMINI, GEMINI_CALLS[found[2]], found[1])


def wire_of(path: str) -> Wire:
    """Return the format in which to refuse what is asked at a path that does not exist."""
    if path.startswith("/v1beta/"):
        return GEMINI
    return ANTHROPIC if path.startswith("/v1/messages") else OPENAI
