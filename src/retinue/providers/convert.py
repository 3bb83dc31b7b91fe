"""Between Retinue's neutral messages and Pydantic AI's.

Only the backends that use the library import this module: the library takes a second to load.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from pydantic_ai import exceptions as library
from pydantic_ai.messages import (
    InstructionPart,
    ModelMessage,
    ModelRequestPart,
    ModelResponse,
    ModelResponsePart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.messages import ModelRequest as LibraryRequest
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.output import OutputObjectDefinition
from pydantic_ai.profiles import ModelProfile
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import ToolDefinition

from retinue.providers.backend import OUTPUT_TOOL
from retinue.providers.failures import Kind, ModelFailed, kind_of, provider_message
from retinue.providers.messages import (
    AnswerPart,
    Message,
    ModelRequest,
    Part,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    ToolSpec,
)

# The library stamps its messages with the time; nothing sends it on, so one stamp does.
_STAMP = datetime(2020, 1, 1, tzinfo=UTC)
_KEPT_TOOLS = 2000


def to_library(messages: Iterable[Message]) -> list[ModelMessage]:
    """Return the conversation as the library's messages."""
    return [
        LibraryRequest(parts=[_asked(part) for part in message.parts], timestamp=_STAMP)
        if message.role == "user"
        else _response(message.parts)
        for message in messages
    ]


def _asked(part: Part) -> ModelRequestPart:
    match part:
        case Text(text=text):
            return UserPromptPart(content=text, timestamp=_STAMP)
        case ToolResult():
            return ToolReturnPart(
                tool_name=part.name,
                content=part.content,
                tool_call_id=part.id,
                timestamp=_STAMP,
                outcome="failed" if part.failed else "success",
            )
        case _:
            raise ValueError(f"a user message cannot hold {type(part).__name__}")


def _response(parts: Sequence[Part]) -> ModelResponse:
    provider = next((part.provider for part in parts if not isinstance(part, ToolResult) and part.provider), None)
    return ModelResponse(parts=[_answered(part) for part in parts], timestamp=_STAMP, provider_name=provider)


def _answered(part: Part) -> ModelResponsePart:
    match part:
        case Text():
            return TextPart(part.text, provider_name=part.provider, provider_details=part.details)
        case Thinking():
            return ThinkingPart(
                part.text,
                id=part.id,
                signature=part.signature,
                provider_name=part.provider,
                provider_details=part.details,
            )
        case ToolCall():
            return ToolCallPart(
                part.name,
                part.arguments,
                tool_call_id=part.id,
                provider_name=part.provider,
                provider_details=part.details,
            )
        case _:
            raise ValueError(f"an assistant message cannot hold {type(part).__name__}")


def to_parts(parts: Iterable[ModelResponsePart]) -> list[AnswerPart]:
    """Return an answer of the library as neutral parts; a call of the output tool becomes the text it carries."""
    answer = [_neutral(part) for part in parts]
    return [part for part in answer if part is not None]


def _neutral(part: ModelResponsePart) -> AnswerPart | None:
    match part:
        case TextPart() if part.content or part.provider_details:
            details = plain(part.provider_details)
            return Text(part.content, part.provider_name if details else None, details)
        case ThinkingPart():
            return Thinking(part.content, part.signature, part.provider_name, part.id, plain(part.provider_details))
        case ToolCallPart(tool_name=name) if name == OUTPUT_TOOL:
            return Text(_arguments(part))
        case ToolCallPart():
            details = plain(part.provider_details)
            provider = part.provider_name if details else None
            return ToolCall(part.tool_call_id, part.tool_name, _arguments(part), provider, details)
        case _:
            # Files, and calls of tools that ran at the provider: none is asked for, so none can be missing.
            return None


def _arguments(call: ToolCallPart) -> str:
    # The library would read broken JSON as best it can; what the model wrote is kept. Nothing means no arguments.
    return call.args if isinstance(call.args, str) and call.args else call.args_as_json_str()


class Definitions:
    """Tool definitions by content, built once: agents send the same few tools with every request."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str, bytes], ToolDefinition] = OrderedDict()

    def of(self, spec: ToolSpec) -> ToolDefinition:
        """Return the definition of a tool; the same object for the same content."""
        key = (spec.name, spec.description, msgspec.json.encode(spec.parameters))
        found = self._kept.get(key)
        if found is None:
            found = ToolDefinition(name=spec.name, description=spec.description, parameters_json_schema=spec.parameters)
            self._kept[key] = found
            if len(self._kept) > _KEPT_TOOLS:
                self._kept.popitem(last=False)
        return found


_definitions = Definitions()


def parameters_of(request: ModelRequest, profile: ModelProfile) -> ModelRequestParameters:
    """Return the request's tools, instructions and output for a model with this profile."""
    parameters = ModelRequestParameters(
        function_tools=[_definitions.of(spec) for spec in request.tools],
        # Never None: the library would go and look for instructions in the messages.
        instruction_parts=[InstructionPart(request.instructions)] if request.instructions else [],
    )
    schema = request.output_schema
    if schema is None:
        return parameters
    if profile.get("supports_json_schema_output", False):
        parameters.output_mode = "native"
        parameters.output_object = OutputObjectDefinition(json_schema=schema, name="answer")
    elif profile.get("supports_tools", True):
        parameters.output_mode = "tool"
        parameters.allow_text_output = False
        parameters.output_tools = [
            ToolDefinition(
                name=OUTPUT_TOOL,
                description="Give the final answer.",
                parameters_json_schema=schema,
                kind="output",
            )
        ]
    else:
        parameters.output_mode = "prompted"
        parameters.output_object = OutputObjectDefinition(json_schema=schema, name="answer")
    return parameters


def settings_of(request: ModelRequest) -> ModelSettings:
    """Return the request's settings. Retries and time limits are the caller's, so the library gets none."""
    settings = ModelSettings()
    if request.max_tokens is not None:
        settings["max_tokens"] = request.max_tokens
    if request.temperature is not None:
        settings["temperature"] = request.temperature
    return settings


def failure_of(error: Exception) -> ModelFailed:
    """Translate an error of the library into a :class:`ModelFailed`."""
    match error:
        case ModelFailed():
            return error
        case library.ModelAPIError():
            return _of_api_error(error)
        case library.ContentFilterError():
            return ModelFailed("refused", "Its content filter stepped in.")
        case library.UserError():
            # The library will not send this request to this model at all: no tools, no structured output, ...
            return ModelFailed("refused", error.message)
        case _:
            return ModelFailed("bad_answer", f"({type(error).__name__})")


def _of_api_error(error: library.ModelAPIError) -> ModelFailed:
    status = error.status_code if isinstance(error, library.ModelHTTPError) else None
    # A used-up quota is worded like a rate limit, but waiting does not help.
    retryable = False if isinstance(error, library.ModelQuotaExceededError) else None
    said = provider_message(error.body) or ("" if status else f"({root_cause(error)})")
    return ModelFailed(
        _kind_of_api_error(error, status), said, status=status, retry_after=error.retry_after, retryable=retryable
    )


def _kind_of_api_error(error: library.ModelAPIError, status: int | None) -> Kind:
    match error:
        case library.ModelAuthenticationError():
            return "bad_key"
        case library.ModelNotFoundError():
            return "unknown_model"
        case library.ModelRequestRejectedError():
            return "refused"
        case library.ModelRateLimitError() | library.ModelQuotaExceededError():
            return "rate_limited"
        case library.ModelTimeoutError() | library.ModelRequestTimeout():
            return "timeout"
        case library.ModelConnectionError():
            return "unreachable"
        case library.ModelUnavailableError() | library.ModelServerError():
            return "overloaded"
        case _ if isinstance(error.__cause__, ValueError):
            # What the client could not decode (JSON and text errors are ValueErrors).
            return "bad_answer"
        case _:
            return kind_of(status, error.provider_error_code, error.provider_error_type)


def root_cause(error: BaseException) -> str:
    """Name the innermost cause by its class: its text may hold addresses and headers."""
    while error.__cause__ is not None:
        error = error.__cause__
    return type(error).__name__


def plain(details: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return details only if they are JSON: what is stored in events must be."""
    if not details:
        return None
    try:
        msgspec.json.encode(details)
    except (TypeError, UnicodeEncodeError):
        return None
    return details
