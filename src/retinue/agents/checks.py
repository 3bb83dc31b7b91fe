"""Checks of a definition that need other rooms: its models, its tools, its schema."""

from __future__ import annotations

import msgspec

from retinue.agents.events import AgentDefinition
from retinue.kernel import BadInput, Scope
from retinue.providers import check_schema, parse_model
from retinue.tools import Toolbox

SCHEMA_LENGTH = 50_000

# What this version can ask at all. Whether there is a key for it shows when a run asks: keys come and go.
_PROVIDERS = frozenset({"anthropic", "demo", "google", "openai"})


def check_definition(scope: Scope, wanted: AgentDefinition) -> AgentDefinition:
    """Return the definition as it is to be stored.

    Raises:
        BadInput: a model, a tool, an MCP server or the output schema could never be used; the field is named.
    """
    if wanted.model is not None:
        _check_model(wanted.model, "model")
    for index, model in enumerate(wanted.fallbacks):
        _check_model(model, f"fallbacks.{index}")
    if wanted.output_schema is not None:
        _check_schema(wanted.output_schema)
    servers = scope.service(Toolbox).check(wanted.tools, wanted.mcp)
    return msgspec.structs.replace(wanted, mcp=tuple(servers))


def _check_model(text: str, field: str) -> None:
    try:
        provider = parse_model(text).provider
    except BadInput as refusal:
        raise BadInput(f"{field}: {refusal.detail}", field=field) from None
    if provider not in _PROVIDERS:
        known = ", ".join(sorted(_PROVIDERS))
        raise BadInput(
            f"{field}: there is no provider {provider[:50]!r}; there are {known}. Servers that speak OpenAI's API are "
            "asked as openai, with their own base URL.",
            field=field,
        )


def _check_schema(schema: dict[str, object]) -> None:
    if len(msgspec.json.encode(schema)) > SCHEMA_LENGTH:
        raise BadInput(f"output_schema: at most {SCHEMA_LENGTH:,} bytes of JSON.", field="output_schema")
    check_schema(schema)
