"""Definitions as YAML, to keep in a repository or to hand on. How YAML is read: ``kernel/yaml_reading.py``."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from retinue.agents.events import AgentDefinition
from retinue.agents.shapes import NewAgent, shape_of
from retinue.kernel import BadInput, read_yaml, write_yaml

SPEC_VERSION = 1
MAX_BYTES = 512 * 1024


def written(definition: AgentDefinition) -> str:
    """Return a definition as YAML, with every field spelt out."""
    return write_yaml({"spec_version": SPEC_VERSION, **shape_of(definition).model_dump(mode="json")})


def described() -> dict[str, Any]:
    """Return the JSON schema of a document, for the API's description; it refers to schemas of the description."""
    schema = NewAgent.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    schema["title"] = "AgentDocument"
    schema["properties"] = {"spec_version": {"const": SPEC_VERSION, "type": "integer"}, **schema["properties"]}
    schema["required"] = ["spec_version", *schema["required"]]
    schema["examples"] = [{"spec_version": SPEC_VERSION, **example} for example in schema["examples"]]
    return schema


def read(raw: bytes) -> dict[str, Any]:
    """Return the fields of a definition in YAML; what they must be is for :class:`NewAgent` to say.

    Raises:
        PayloadTooLarge: it is longer than :data:`MAX_BYTES`.
        BadInput: it is not YAML, not plain data, not bounded, or not of a ``spec_version`` known here.
    """
    content = read_yaml(raw, what="an agent", most_bytes=MAX_BYTES).content
    version = content.pop("spec_version", None)
    if version != SPEC_VERSION or isinstance(version, bool):
        raise BadInput(
            f"spec_version: this server reads version {SPEC_VERSION}. Write 'spec_version: {SPEC_VERSION}'.",
            field="spec_version",
        )
    return content


def parsed(raw: bytes) -> NewAgent:
    """Return the definition in a YAML document.

    Raises:
        PayloadTooLarge: see :func:`read`.
        BadInput: see :func:`read`; or a field is missing, unknown or wrong, and named.
    """
    fields = read(raw)
    try:
        return NewAgent.model_validate(fields)
    except ValidationError as error:
        raise _refusal(error) from None


def _refusal(error: ValidationError) -> BadInput:
    found = [
        {"field": ".".join(str(part) for part in one["loc"]) or "body", "message": one["msg"]}
        for one in error.errors(include_input=False, include_url=False)[:100]
    ]
    refusal = BadInput(f"{found[0]['field']}: {found[0]['message']}", field=found[0]["field"])
    refusal.extra["errors"] = found
    return refusal
