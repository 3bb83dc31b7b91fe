"""Facts about agents: the stream ``agent:<id>`` holds every version of its definition."""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

import msgspec

from retinue.ledger import Event, event
from retinue.tools import McpServer

Autonomy = Literal["manual", "supervised", "trusted", "autonomous"]
ToolDecision = Literal["allow", "ask", "deny"]


class Limits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How much an agent may use at once and in one run.

    Attributes:
        concurrency: runs that execute at the same time.
        queue: runs that wait for a place; more are refused.
        seconds: time of one run, waiting for people not counted.
        approval_seconds: time a person has for an approval; then it is declined.
        tokens: input and output tokens of one run; None for no limit.
        steps: model calls of one run.
        budget: nano-dollars of one run; None for no limit.
    """

    concurrency: int = 3
    queue: int = 100
    seconds: int = 600
    approval_seconds: int = 300
    tokens: int | None = None
    steps: int = 50
    budget: int | None = None


class AgentDefinition(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an agent is. One version of it never changes; treat it, and what it holds, as read-only.

    Attributes:
        name: what people call it; unique among its owner's agents, without regard to case.
        description: what it is good at, for people and for agents that hand work on.
        instructions: what the model is told first.
        model: ``provider:model``; None for the server's default.
        fallbacks: models tried, in order, when the one before fails.
        tools: selections of built-in tools and plugins.
        mcp: MCP servers whose tools it has.
        autonomy: how often the agent asks a person.
        tool_policy: what to do with single tools, over the autonomy.
        limits: how much it may use.
        cache_seconds: how long an equal model request may be answered from the cache; 0 switches it off.
        output_schema: JSON schema of the answer; None for free text.
        priority: higher goes first among waiting runs.
        temperature: the model's sampling temperature; None for its default.
        max_tokens: output tokens of one model call; None for the model's default.
    """

    name: str
    description: str = ""
    instructions: str = ""
    model: str | None = None
    fallbacks: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    mcp: tuple[McpServer, ...] = ()
    autonomy: Autonomy = "supervised"
    tool_policy: dict[str, ToolDecision] = {}
    limits: Limits = Limits()
    cache_seconds: int = 0
    output_schema: dict[str, Any] | None = None
    priority: int = 0
    temperature: float | None = None
    max_tokens: int | None = None


@event("agent.created", personal=("definition",))
class AgentCreated(Event, frozen=True, kw_only=True):
    """A user made an agent; this is version 1 of its definition."""

    agent_id: UUID
    owner_id: UUID
    definition: AgentDefinition


@event("agent.changed", personal=("definition",))
class AgentChanged(Event, frozen=True, kw_only=True):
    """The agent has a new definition. Runs that were asked for earlier keep theirs."""

    agent_id: UUID
    version: int
    definition: AgentDefinition


@event("agent.paused")
class AgentPaused(Event, frozen=True, kw_only=True):
    """The agent starts nothing until it is resumed."""

    agent_id: UUID


@event("agent.resumed")
class AgentResumed(Event, frozen=True, kw_only=True):
    """The agent goes on with what waits for it."""

    agent_id: UUID


@event("agent.deleted")
class AgentDeleted(Event, frozen=True, kw_only=True):
    """The agent is gone; its versions stay, because runs refer to them."""

    agent_id: UUID
