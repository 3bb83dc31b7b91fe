"""What changes agents, and how other rooms find them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import msgspec

from retinue.agents import rules, views
from retinue.agents.checks import check_definition
from retinue.agents.events import AgentCreated, AgentDefinition
from retinue.agents.rules import IDLE, Activity, Agent
from retinue.kernel import Conflict, Forbidden, NotFound, Scope, new_id
from retinue.ledger import Event, append
from retinue.tenancy import may


@dataclass(frozen=True, slots=True)
class AgentActivity:
    """How the agents room learns what runs do, though runs lie above it: a service that the runs room fills.

    Attributes:
        look: returns the activity of the agents that have any; the others are idle.
    """

    look: Callable[[Scope, Sequence[UUID]], Awaitable[Mapping[UUID, Activity]]]


on_pause: list[Callable[[Scope, UUID, bool], Awaitable[None]]] = []
"""Called inside the transaction with the agent's id and True when it is paused, False when it is resumed."""

on_delete: list[Callable[[Scope, UUID], Awaitable[None]]] = []
"""Called inside the transaction with the id of an agent that is being deleted: what runs is to be cancelled."""


async def activity(scope: Scope, agent_ids: Sequence[UUID]) -> Mapping[UUID, Activity]:
    """Return what the agents' runs are doing; agents that are missing are idle."""
    try:
        service = scope.service(AgentActivity)
    except LookupError:  # a server without the runs room
        return {}
    return await service.look(scope, agent_ids) if agent_ids else {}


async def find(scope: Scope, reference: UUID | str) -> Agent:
    """Return one of the user's own agents, by its id or its name (without regard to case).

    Raises:
        NotFound: the user has no such agent.
    """
    found: Agent | None = None
    agent_id = reference if isinstance(reference, UUID) else rules.as_id(reference)
    if agent_id is not None:
        found = await views.by_id(scope, scope.owner(), agent_id)
    elif rules.is_name(str(reference)):
        found = await views.by_name(scope, scope.owner(), str(reference))
    if found is None:
        raise NotFound("agent")
    return found


async def own(scope: Scope, limit: int) -> Sequence[Agent]:
    """Return the user's own agents, oldest first."""
    return await views.owned(scope, scope.owner(), None, limit)


async def names(scope: Scope, agent_ids: Sequence[UUID]) -> dict[UUID, str]:
    """Return what agents are called, also deleted ones: those that the scope sees, and the tenant's own."""
    found = await views.names(scope, agent_ids)
    return {one: name for one, owner, name in found if owner == scope.tenant_id or scope.sees(owner, None)}


async def definition(scope: Scope, agent_id: UUID, version: int) -> AgentDefinition:
    """Return one version of an agent, deleted or not. It never changes, so this process may remember it.

    Raises:
        NotFound: there is no such version.
    """
    found = await views.definition(scope, agent_id, version)
    if found is None:
        raise NotFound("version of the agent")
    return found


async def create(scope: Scope, wanted: AgentDefinition) -> Agent:
    """Make an agent of the scope's user.

    Raises:
        BadInput: a field of the definition is wrong; it is named.
        Conflict: the user has an agent of that name.
    """
    checked = _checked(scope, wanted)
    await _claim_name(scope, checked.name)
    agent_id = new_id()
    fact = AgentCreated(agent_id=agent_id, owner_id=scope.owner(), definition=checked)
    await append(scope, stream(agent_id), 0, [fact])
    return await find(scope, agent_id)


async def put(scope: Scope, wanted: AgentDefinition) -> tuple[Agent, bool]:
    """Make an agent of the scope's user, or :func:`change` the one of that name; return it, and whether it is new.

    Raises:
        BadInput: a field of the definition is wrong; it is named.
        Forbidden: there is one of that name, and the caller may not change agents.
    """
    found = await views.by_name(scope, scope.owner(), wanted.name) if rules.is_name(wanted.name) else None
    if found is None:
        return await create(scope, wanted), True
    if not may(scope, "agents", "change"):
        raise Forbidden(f"There is an agent called {found.name}, and you may not change agents here.")
    return await change(scope, await locked(scope, found.agent_id), wanted), False


async def locked(scope: Scope, reference: UUID | str) -> Agent:
    """Return one of the user's own agents that nobody else changes before this transaction ends.

    Raises:
        NotFound: the user has no such agent.
    """
    agent = await views.by_id(scope, scope.owner(), (await find(scope, reference)).agent_id, lock=True)
    if agent is None:  # deleted in between
        raise NotFound("agent")
    return agent


async def change(scope: Scope, agent: Agent, wanted: AgentDefinition) -> Agent:
    """Give a :func:`locked` agent a new definition, as its next version; an equal one changes nothing.

    Runs that were asked for before keep the version they have.

    Raises:
        BadInput: a field of the definition is wrong; it is named.
        Conflict: the user has another agent of that name.
    """
    checked = _checked(scope, wanted)
    events = rules.change(agent, checked)
    if rules.normalised(checked.name) != rules.normalised(agent.name):
        await _claim_name(scope, checked.name)
    return await _record(scope, agent, events)


async def pause(scope: Scope, agent: Agent) -> Agent:
    """Let a :func:`locked` agent start nothing until it is resumed. Once more changes nothing."""
    return await _set_paused(scope, agent, True)


async def resume(scope: Scope, agent: Agent) -> Agent:
    """Let a :func:`locked` agent go on. Once more changes nothing."""
    return await _set_paused(scope, agent, False)


async def delete(scope: Scope, agent: Agent, *, force: bool = False) -> None:
    """Delete a :func:`locked` agent; its versions stay for the runs that used them.

    Raises:
        Conflict: it has runs under way and ``force`` is not given; they are named.
    """
    under_way = (await activity(scope, [agent.agent_id])).get(agent.agent_id, IDLE)
    await append(scope, stream(agent.agent_id), agent.revision, rules.delete(agent, under_way, force))
    for hook in on_delete:
        await hook(scope, agent.agent_id)


def stream(agent_id: UUID) -> str:
    """Return the name of an agent's stream in the ledger."""
    return f"agent:{agent_id}"


def _checked(scope: Scope, wanted: AgentDefinition) -> AgentDefinition:
    return check_definition(scope, msgspec.structs.replace(wanted, name=rules.checked_name(wanted.name)))


async def _claim_name(scope: Scope, name: str) -> None:
    if await views.name_taken(scope, scope.owner(), name):
        raise Conflict(f"You already have an agent called {name!r}. Choose another name.")


async def _set_paused(scope: Scope, agent: Agent, paused: bool) -> Agent:
    events = rules.pause(agent, paused)
    changed = await _record(scope, agent, events)
    if events:
        for hook in on_pause:
            await hook(scope, agent.agent_id, paused)
    return changed


async def _record(scope: Scope, agent: Agent, events: Sequence[Event]) -> Agent:
    if not events:
        return agent
    await append(scope, stream(agent.agent_id), agent.revision, events)
    return await find(scope, agent.agent_id)
