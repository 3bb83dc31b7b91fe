"""Decisions about agents, without a database: names, bounds, what a command leads to, what status to show."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from retinue.agents.events import (
    AgentChanged,
    AgentDefinition,
    AgentDeleted,
    AgentPaused,
    AgentResumed,
)
from retinue.kernel import BadInput, Conflict
from retinue.ledger import Event

NAME_LENGTH = 100
DESCRIPTION_LENGTH = 1_000
INSTRUCTIONS_LENGTH = 100_000
MODEL_LENGTH = 200
MAX_FALLBACKS = 5
MAX_TOOLS = 100
MAX_MCP_SERVERS = 10
MAX_CONCURRENCY = 100
MAX_QUEUE = 10_000
MAX_SECONDS = 86_400
MAX_APPROVAL_SECONDS = 7 * 86_400
MAX_TOKENS = 1_000_000_000
MAX_STEPS = 1_000
MAX_CACHE_SECONDS = 30 * 86_400
MAX_PRIORITY = 100
MAX_OUTPUT_TOKENS = 1_000_000

Status = Literal["ready", "busy", "error", "paused"]


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent as it is now.

    Attributes:
        version: the version of its definition, from 1.
        revision: the version of its stream in the ledger; what a command appends after.
    """

    agent_id: UUID
    owner_id: UUID
    version: int
    definition: AgentDefinition
    paused: bool
    created_at: datetime
    changed_at: datetime
    revision: int

    @property
    def name(self) -> str:
        """What people call it."""
        return self.definition.name


@dataclass(frozen=True, slots=True)
class Activity:
    """What the runs of an agent are doing.

    Attributes:
        running: runs that execute or wait for a person.
        queued: runs that wait for a place.
        last_failed: whether the run that ended last did not complete.
        active: ids of some running and queued runs, newest first, to name them in a refusal.
    """

    running: int = 0
    queued: int = 0
    last_failed: bool = False
    active: Sequence[UUID] = ()


IDLE = Activity()


def normalised(name: str) -> str:
    """Return what two names that look the same have in common: NFKC, without case, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold()).split())


def checked_name(name: str) -> str:
    """Return the name without spaces around it.

    Raises:
        BadInput: it is empty or too long, holds control characters, or could be taken for an id.
    """
    found = name.strip()
    if not 1 <= len(found) <= NAME_LENGTH or not normalised(found):
        raise BadInput(f"name: 1 to {NAME_LENGTH} characters, not only spaces.", field="name")
    if any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in found):
        raise BadInput("name: control characters and line ends are not allowed.", field="name")
    if as_id(found) is not None:
        raise BadInput("name: this is the form of an id. Choose a name that cannot be taken for one.", field="name")
    return found


def is_name(text: str) -> bool:
    """Return whether an agent can have this name; one that cannot need not be looked for."""
    try:
        checked_name(text)
    except BadInput:
        return False
    return True


def as_id(reference: str) -> UUID | None:
    """Return the id that ``reference`` is the text of; None when it must be a name."""
    try:
        return UUID(reference)
    except ValueError:
        return None


def change(agent: Agent, definition: AgentDefinition) -> list[Event]:
    """Decide on a new definition. An equal one leads to nothing."""
    if definition == agent.definition:
        return []
    return [AgentChanged(agent_id=agent.agent_id, version=agent.version + 1, definition=definition)]


def pause(agent: Agent, paused: bool) -> list[Event]:
    """Decide on pausing or resuming. What is so already leads to nothing."""
    if agent.paused == paused:
        return []
    return [AgentPaused(agent_id=agent.agent_id) if paused else AgentResumed(agent_id=agent.agent_id)]


def delete(agent: Agent, activity: Activity, force: bool) -> list[Event]:
    """Decide on deletion.

    Raises:
        Conflict: runs are under way and ``force`` is not given.
    """
    under_way = activity.running + activity.queued
    if under_way and not force:
        raise Conflict(
            f"The agent has {activity.running} running and {activity.queued} queued runs. Wait for them, cancel "
            "them, or delete with ?force=true, which cancels them.",
            extra={"runs": [str(run_id) for run_id in activity.active]},
        )
    return [AgentDeleted(agent_id=agent.agent_id)]


def status(paused: bool, activity: Activity) -> Status:
    """Return the one word that says how the agent is."""
    if paused:
        return "paused"
    if activity.running or activity.queued:
        return "busy"
    return "error" if activity.last_failed else "ready"
