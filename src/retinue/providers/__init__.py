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
from retinue.providers.providers import OnText, Providers
from retinue.providers.registry import ModelName, parse_model
from retinue.providers.structured import check_schema

__all__ = [
    "KINDS",
    "AnswerPart",
    "Backend",
    "BackendFactory",
    "Credentials",
    "Endpoint",
    "Kind",
    "ListedModel",
    "Message",
    "ModelAnswer",
    "ModelFailed",
    "ModelName",
    "ModelRequest",
    "OnText",
    "Part",
    "ProviderKey",
    "Providers",
    "Reply",
    "Text",
    "Thinking",
    "ToolCall",
    "ToolResult",
    "ToolSpec",
    "check_schema",
    "parse_model",
]
