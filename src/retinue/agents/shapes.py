"""Agents as the HTTP API and YAML show them, and the way from there to definitions and back."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.config import JsonDict

from retinue.agents import rules
from retinue.agents.events import AgentDefinition, Autonomy, Limits, ToolDecision
from retinue.agents.rules import Activity, Agent, Status
from retinue.kernel import dollars
from retinue.web import Money, nanos_of

ModelName = Annotated[str, StringConstraints(min_length=1, max_length=rules.MODEL_LENGTH)]
ToolName = Annotated[str, StringConstraints(min_length=1, max_length=100)]
McpText = Annotated[str, StringConstraints(max_length=4_000)]


class _Shape(BaseModel):
    """What a caller sends. Nothing is passed over or bent to fit: an unknown field and ``"3"`` for 3 are mistakes."""

    model_config = ConfigDict(extra="forbid", strict=True)


class LimitsShape(_Shape):
    """How much an agent may use at once and in one run."""

    concurrency: int = Field(default=3, ge=1, le=rules.MAX_CONCURRENCY, description="runs at the same time")
    queue: int = Field(default=100, ge=0, le=rules.MAX_QUEUE, description="runs that wait; more are refused")
    seconds: int = Field(default=600, ge=1, le=rules.MAX_SECONDS, description="time of one run")
    approval_seconds: int = Field(
        default=300, ge=1, le=rules.MAX_APPROVAL_SECONDS, description="time to decide an approval; then it is declined"
    )
    tokens: int | None = Field(default=None, ge=1, le=rules.MAX_TOKENS, description="tokens of one run")
    steps: int = Field(default=50, ge=1, le=rules.MAX_STEPS, description="model calls of one run")
    budget: Money | None = Field(default=None, description="dollars of one run", examples=["1.50"])


class McpLabels(_Shape):
    """What a tool of an MCP server may cause. What is left out is taken to be the most it could be."""

    effect: Literal["read", "fetch", "write", "egress"] = "egress"
    output: Literal["trusted", "untrusted"] = "untrusted"
    private: bool = True
    idempotent: bool = False


class McpServerShape(_Shape):
    """An MCP server: reached by ``url`` over HTTP, or started as a program by ``command``.

    In values of ``headers`` and ``env``, ``${secret:NAME}`` stands for one of the tenant's secrets.
    """

    name: str = Field(min_length=1, max_length=32, pattern=r"^[a-zA-Z0-9_-]+$", description="starts its tools' names")
    url: str | None = Field(default=None, max_length=4_000, examples=["https://wiki.example/mcp"])
    command: str | None = Field(default=None, max_length=4_000)
    args: list[McpText] = Field(default=[], max_length=100)
    env: dict[str, McpText] = Field(default={}, max_length=100)
    headers: dict[str, McpText] = Field(default={}, max_length=100)
    labels: dict[str, McpLabels] = Field(
        default={}, max_length=200, description="by the server's name of the tool; `*` for the others"
    )


_EXAMPLE: JsonDict = {
    "name": "Librarian",
    "instructions": "Answer from the files of this session, and name the file.",
    "model": "openai:gpt-5-mini",
    "tools": ["files", "clock"],
    "tool_policy": {"files_write": "ask"},
    "limits": {"concurrency": 3, "budget": "1.50"},
}


class NewAgent(_Shape):
    """A definition of an agent."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    name: str = Field(min_length=1, max_length=rules.NAME_LENGTH, description="unique among your agents")
    description: str = Field(
        default="", max_length=rules.DESCRIPTION_LENGTH, description="what it is good at, for those who hand work on"
    )
    instructions: str = Field(default="", max_length=rules.INSTRUCTIONS_LENGTH, description="what it is told first")
    model: ModelName | None = Field(default=None, description="provider:model; null for the server's default")
    fallbacks: list[ModelName] = Field(default=[], max_length=rules.MAX_FALLBACKS, description="tried in order")
    tools: list[ToolName] = Field(default=[], max_length=rules.MAX_TOOLS, examples=[["files", "http_fetch"]])
    mcp: list[McpServerShape] = Field(default=[], max_length=rules.MAX_MCP_SERVERS)
    autonomy: Autonomy = Field(default="supervised", description="how often it asks a person")
    tool_policy: dict[ToolName, ToolDecision] = Field(default={}, max_length=200, description="for single tools")
    limits: LimitsShape = Field(default_factory=LimitsShape)
    cache_seconds: int = Field(default=0, ge=0, le=rules.MAX_CACHE_SECONDS, description="0: equal requests ask again")
    output_schema: dict[str, Any] | None = Field(default=None, description="JSON schema of the answer")
    priority: int = Field(default=0, ge=-rules.MAX_PRIORITY, le=rules.MAX_PRIORITY, description="higher goes first")
    temperature: float | None = Field(default=None, ge=0, le=2)
    max_tokens: int | None = Field(default=None, ge=1, le=rules.MAX_OUTPUT_TOKENS, description="of one model call")


class AgentView(NewAgent):
    """An agent as it is now."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    **_EXAMPLE,
                    "agent_id": "01939d2c-8a00-7b34-8d3c-2d4e5f607182",
                    "version": 1,
                    "owner_id": "01939d2c-8900-7c25-9e4d-3e5f60718293",
                    "status": "ready",
                    "running": 0,
                    "queued": 0,
                    "created_at": "2026-11-20T12:00:00Z",
                    "changed_at": "2026-11-20T12:00:00Z",
                }
            ]
        }
    )

    agent_id: UUID
    version: int = Field(description="of the definition; also the ETag")
    owner_id: UUID
    status: Status
    running: int = Field(description="runs that execute or wait for a person")
    queued: int = Field(description="runs that wait for a place")
    created_at: datetime
    changed_at: datetime


class AgentVersion(BaseModel):
    """One version of an agent."""

    version: int
    created_at: datetime
    definition: NewAgent


class Templates(BaseModel):
    """Definitions that come with the server."""

    items: list[NewAgent]


class WantedTemplates(_Shape):
    """Which templates are to be installed."""

    names: list[ToolName] | None = Field(
        default=None, max_length=100, description="null: all of them", examples=[["researcher", "writer"]]
    )


class InstalledAgent(BaseModel):
    """An agent of a template's name."""

    name: str
    agent_id: UUID
    installed: bool = Field(description="made just now; false: you had an agent of that name, and it stays as it is")


class Installed(BaseModel):
    """The agents of the templates that were asked for."""

    items: list[InstalledAgent]


def definition_of(shape: NewAgent) -> AgentDefinition:
    """Return the definition that a caller sent."""
    fields = shape.model_dump(include=set(NewAgent.model_fields) - {"limits", "mcp"})
    limits = shape.limits
    return msgspec.convert(
        {
            **fields,
            "limits": Limits(**{**limits.model_dump(), "budget": nanos_of(limits.budget)}),
            "mcp": [server.model_dump() for server in shape.mcp],
        },
        AgentDefinition,
    )


def shape_of(definition: AgentDefinition) -> NewAgent:
    """Return a definition as the API shows it."""
    return NewAgent.model_construct(**_fields(definition))


def view_of(agent: Agent, activity: Activity) -> AgentView:
    """Return an agent as the API shows it."""
    return AgentView.model_construct(
        **_fields(agent.definition),
        agent_id=agent.agent_id,
        version=agent.version,
        owner_id=agent.owner_id,
        status=rules.status(agent.paused, activity),
        running=activity.running,
        queued=activity.queued,
        created_at=agent.created_at,
        changed_at=agent.changed_at,
    )


def _fields(definition: AgentDefinition) -> Mapping[str, Any]:
    fields = {name: getattr(definition, name) for name in definition.__struct_fields__}
    limits = definition.limits
    budget = None if limits.budget is None else dollars(limits.budget)
    return {
        **fields,
        "fallbacks": list(definition.fallbacks),
        "tools": list(definition.tools),
        "limits": LimitsShape.model_construct(**{**msgspec.structs.asdict(limits), "budget": budget}),
        "mcp": [McpServerShape.model_validate(msgspec.to_builtins(server)) for server in definition.mcp],
    }
