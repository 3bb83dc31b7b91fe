"""The tool ``ask_user``: a question to the person, which the run waits for like an approval."""

from __future__ import annotations

from typing import Any

from retinue.tools.calls import Tool, ToolContext, ToolFault
from retinue.tools.labels import Effect, Labels, Trust


async def _nobody_asked(_context: ToolContext, _arguments: dict[str, Any]) -> str:
    # The run loop turns the call into an approval of kind "question" and records the answer as its result.
    raise ToolFault("The question was not put to anybody.")


def ask_user_tool() -> Tool:
    """Return the tool; the run loop reads its label ``waits`` and never runs it."""
    return Tool(
        name="ask_user",
        description=(
            "Ask the user a question and wait for the answer. Use it when something only they can decide or know "
            "is missing, not for what you can find out yourself."
        ),
        parameters={
            "type": "object",
            "properties": {
                "question": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 4000,
                    "description": "The question, complete in itself.",
                },
                "options": {
                    "type": "array",
                    "items": {"type": "string", "minLength": 1, "maxLength": 500},
                    "maxItems": 20,
                    "description": "Answers to choose from; leave it out for a free answer.",
                },
            },
            "required": ["question"],
            "additionalProperties": False,
        },
        labels=Labels(effect=Effect.READ, output=Trust.TRUSTED, private=True, idempotent=True, waits=True),
        handler=_nobody_asked,
    )
