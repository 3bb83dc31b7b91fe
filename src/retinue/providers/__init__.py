"""Models: one way to ask any of them, with fallbacks, retries, time limits and prices."""

from retinue.providers.backend import Backend, BackendFactory, Endpoint, Reply
from retinue.providers.failures import KINDS, Kind, ModelFailed
from retinue.providers.messages import (
    AnswerPart,
    Credentials,
    ListedModel,
    Message,
    ModelAnswer,
    ModelRequest,
    Part,
    ProviderKey,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    ToolSpec,
)
from retinue.providers.passing import Passage, Upstream
from retinue.providers.providers import OnText, Providers
from retinue.providers.registry import ModelName, parse_model
from retinue.providers.sse_reading import Events, TooLong
from retinue.providers.structured import check_schema
from retinue.providers.watch import count_tokens
from retinue.providers.wire_anthropic import AnthropicWire
from retinue.providers.wire_gemini import GeminiWire
from retinue.providers.wire_openai import OpenAIWire
from retinue.providers.wires import Call, Reader, Tally, Wire

__all__ = [
    "KINDS",
    "AnswerPart",
    "AnthropicWire",
    "Backend",
    "BackendFactory",
    "Call",
    "Credentials",
    "Endpoint",
    "Events",
    "GeminiWire",
    "Kind",
    "ListedModel",
    "Message",
    "ModelAnswer",
    "ModelFailed",
    "ModelName",
    "ModelRequest",
    "OnText",
    "OpenAIWire",
    "Part",
    "Passage",
    "ProviderKey",
    "Providers",
    "Reader",
    "Reply",
    "Tally",
    "Text",
    "Thinking",
    "TooLong",
    "ToolCall",
    "ToolResult",
    "ToolSpec",
    "Upstream",
    "Wire",
    "check_schema",
    "count_tokens",
    "parse_model",
]
