"""The words between Retinue and a model: neutral between providers, and small, because runs store them in events.

What is stored is a promise: fields may be added with a default, never renamed or taken away.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct, field

Details = dict[str, Any]
"""What a provider wants back unchanged with a part (Google's thought signatures, for one); JSON only."""


class Text(Struct, frozen=True, tag="text", omit_defaults=True):
    """Something said. ``provider`` and ``details`` are only there when the provider wants the details back."""

    text: str
    provider: str | None = None
    details: Details | None = None


class Thinking(Struct, frozen=True, tag="thinking", omit_defaults=True):
    """What a model thought before it answered.

    Attributes:
        text: the thought; empty where the provider keeps it to itself.
        signature: lets the same provider trust its own thought when it comes back.
        provider: who thought it; signatures go back to no one else.
        id: the provider's own name for the part.
        details: see :data:`Details`.
    """

    text: str
    signature: str | None = None
    provider: str | None = None
    id: str | None = None
    details: Details | None = None


class ToolCall(Struct, frozen=True, tag="tool_call", omit_defaults=True):
    """A call the model asks for.

    Attributes:
        id: unique within the conversation; the result carries it too.
        name: the tool.
        arguments: JSON text exactly as the model wrote it, so it may be broken.
        provider: who made the call, when there are details.
        details: see :data:`Details`.
    """

    id: str
    name: str
    arguments: str
    provider: str | None = None
    details: Details | None = None


class ToolResult(Struct, frozen=True, tag="tool_result", omit_defaults=True):
    """What a tool answered; travels to the model in a user message."""

    id: str
    name: str
    content: str
    failed: bool = False


AnswerPart = Text | Thinking | ToolCall
Part = Text | Thinking | ToolCall | ToolResult


class Message(Struct, frozen=True):
    """One turn of a conversation."""

    role: Literal["user", "assistant"]
    parts: list[Part]


class ToolSpec(Struct, frozen=True):
    """A tool as a model sees it; ``parameters`` is a JSON schema of type object."""

    name: str
    description: str
    parameters: dict[str, Any]


class ModelRequest(Struct, frozen=True, kw_only=True):
    """One question to a model.

    Attributes:
        models: names such as ``openai:gpt-5-mini``; the first is asked, the others are fallbacks in order. Empty: the
            server's default model.
        instructions: the system prompt.
        messages: the conversation so far, oldest first; the last one is the user's.
        tools: what the model may call.
        output_schema: a JSON schema that the answer must satisfy.
        max_tokens: the most tokens of an answer.
        temperature: randomness, where the model has such a setting.
        timeout: seconds one try may take; None: the server's setting.
    """

    models: list[str] = field(default_factory=list)
    instructions: str = ""
    messages: list[Message] = field(default_factory=list)
    tools: list[ToolSpec] = field(default_factory=list)
    output_schema: dict[str, Any] | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    timeout: float | None = None


class ModelAnswer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a model answered, and what it took.

    Attributes:
        parts: the answer. With an ``output_schema`` the structured answer is here too, as JSON text.
        model: the model that answered, as ``provider:name``.
        provider: the provider's name.
        input_tokens: tokens read, cached ones included, over all rounds of this answer.
        output_tokens: tokens written, thoughts included.
        cached_tokens: the part of ``input_tokens`` that the provider had cached.
        cost: nano-dollars; None when no price is known. Never zero for an unknown price.
        finish: why it ended: ``stop``, ``length``, ``tool_call``.
        attempts: tries made, over all models; 1 when the first one worked.
        demo: whether the demo provider wrote it.
        structured: the answer as data, when ``output_schema`` was given and no tool is called first.
        failures: the tries that failed, such as ``openai:gpt-5 rate_limited 429``.
    """

    parts: list[AnswerPart]
    model: str
    provider: str
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost: int | None = None
    finish: str = "stop"
    attempts: int = 1
    demo: bool = False
    structured: Any = None
    failures: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """Everything said, without thoughts and calls."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))

    @property
    def calls(self) -> list[ToolCall]:
        """The calls the model asks for, in order."""
        return [part for part in self.parts if isinstance(part, ToolCall)]


class ProviderKey(Struct, frozen=True):
    """A tenant's own access to a provider. ``repr`` shows no key, so that no log can."""

    api_key: str
    base_url: str | None = None

    def __repr__(self) -> str:
        return f"ProviderKey(base_url={self.base_url!r})"


class Credentials(Struct, frozen=True):
    """A tenant's keys by provider name; each goes before the server's own."""

    keys: dict[str, ProviderKey] = field(default_factory=dict)


class ListedModel(Struct, frozen=True, kw_only=True):
    """A model that can be asked.

    Attributes:
        model: its full name, such as ``openai:gpt-5-mini``.
        provider: the provider's name.
        priced: whether its price is known, so that budgets count it.
        context_window: tokens that fit in, where known.
    """

    model: str
    provider: str
    priced: bool
    context_window: int | None = None
