"""What the gateway reads and writes in the database: a tenant's keys, and the metering of calls."""

from __future__ import annotations

import time
from collections import OrderedDict
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from retinue import metering
from retinue.database import open_scope
from retinue.dispatch import wake
from retinue.kernel import Actor, ActorKind, BudgetExhausted, Scope, Services, Settings
from retinue.providers import Credentials, ProviderKey
from retinue.vault import provider_secrets

RELEASE = "gateway.release"
"""The kind of wake-up that gives back what the calls of a process that died had reserved."""

_KEPT_SECONDS = 1.0
_KEPT_CALLERS = 10_000


@dataclass(frozen=True, slots=True)
class Caller:
    """For whom calls are made and metered.

    Attributes:
        tenant_id: whose keys are used, and whose budget counts.
        user_id: the user for whom.
        agent_id: whose budget counts besides the tenant's.
        run_id: the run the calls belong to; when it ends, or its worker dies, what they reserved is given back.
        operation_id: the operation, when they belong to one.
        application: the application under which costs are reported; empty: none.
        actor: who acts; None: the agent.
        lasts: whether the run lasts longer than a call. Otherwise the run is the call, and the gateway ends it.
    """

    tenant_id: UUID
    user_id: UUID
    agent_id: UUID
    run_id: UUID
    operation_id: UUID | None = None
    application: str = ""
    actor: Actor | None = None
    lasts: bool = True


@dataclass(frozen=True, slots=True)
class Metered:
    """What one call used; ``cost`` in nano-dollars, None when the price is not known."""

    step: int
    model: str
    read: int
    written: int
    cost: int | None


@dataclass(frozen=True, slots=True)
class Known:
    """What holds for a caller's calls: its tenant's own keys, and whether a budget limits them."""

    credentials: Credentials
    budgeted: bool


class Knowledge:
    """What is known of callers, kept for a second; a service. What a tenant changes holds within that time."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[UUID, UUID], tuple[float, Known]] = OrderedDict()

    async def of(self, services: Services, caller: Caller) -> Known:
        """Return what holds for a caller."""
        name = (caller.tenant_id, caller.agent_id)
        kept = self._kept.get(name)
        if kept is not None and time.monotonic() < kept[0]:
            return kept[1]
        async with _scope_of(services, caller) as scope:
            secrets = await provider_secrets(scope)
            budgeted = await _is_budgeted(scope, caller)
        keys = {provider: ProviderKey(one.api_key, one.base_url) for provider, one in secrets.items()}
        known = Known(Credentials(keys), budgeted)
        self._kept[name] = (time.monotonic() + _KEPT_SECONDS, known)
        self._kept.move_to_end(name)
        if len(self._kept) > _KEPT_CALLERS:
            self._kept.popitem(last=False)
        return known


async def known(services: Services, caller: Caller) -> Known:
    """Return what holds for a caller, by the service; it is made with its first use."""
    try:
        knowledge = services.get(Knowledge)
    except LookupError:
        knowledge = services.add(Knowledge, Knowledge())
    return await knowledge.of(services, caller)


async def _is_budgeted(scope: Scope, caller: Caller) -> bool:
    try:
        return await metering.check(scope, caller.agent_id)
    except BudgetExhausted:
        return True  # each call will say so


def _scope_of(services: Services, caller: Caller) -> AbstractAsyncContextManager[Scope]:
    """Open a transaction in the caller's name."""
    actor = caller.actor or Actor(ActorKind.AGENT, caller.agent_id)
    return open_scope(services, caller.tenant_id, actor, user_id=caller.user_id, cause=f"run:{caller.run_id}")


async def reserve(services: Services, caller: Caller, step: int, amount: int | None) -> None:
    """Hold what a call may cost in the budgets that limit it.

    Raises:
        BudgetExhausted: there is no room for it.
    """
    refused: BudgetExhausted | None = None
    async with _scope_of(services, caller) as scope:
        # Nobody waits for the disk before a call: a reservation that a crash of the database loses has done its work,
        # and what the call costs is written by `settle`.
        await scope.queries.execute("SET LOCAL synchronous_commit TO off")
        try:
            await metering.reserve(scope, agent_id=caller.agent_id, run_id=caller.run_id, step=step, amount=amount)
        except BudgetExhausted as fault:
            refused = fault  # inside the scope, which commits: that the budget is used up is a fact to keep
            await scope.queries.execute("SET LOCAL synchronous_commit TO on")
        else:
            if not caller.lasts:
                # Nobody else would give it back if this process died now.
                seconds = 2 * services.get(Settings).gateway_timeout
                await wake(scope, RELEASE, caller.run_id, at=scope.clock.now() + timedelta(seconds=seconds))
    if refused is not None:
        raise refused


async def settle(services: Services, caller: Caller, used: Metered) -> None:
    """Count a call and turn what it reserved into what it cost."""
    async with _scope_of(services, caller) as scope:
        await metering.settle(
            scope,
            agent_id=caller.agent_id,
            user_id=caller.user_id,
            run_id=caller.run_id,
            step=used.step,
            model=used.model,
            input_tokens=used.read,
            output_tokens=used.written,
            cost=used.cost,
            application=caller.application,
            operation_id=caller.operation_id,
        )
        if not caller.lasts:
            await metering.release_run(scope, caller.run_id)


async def give_back(services: Services, caller: Caller, step: int, model: str) -> None:
    """Give back what a call reserved that came to nothing; call it only if something was reserved."""
    async with _scope_of(services, caller) as scope:
        if not caller.lasts:
            await metering.release_run(scope, caller.run_id)
            return
        await metering.settle(
            scope,
            agent_id=caller.agent_id,
            user_id=caller.user_id,
            run_id=caller.run_id,
            step=step,
            model=model,
            input_tokens=0,
            output_tokens=0,
            cost=0,
            calls=0,
        )


async def begin(services: Services, caller: Caller) -> bool:
    """Give back all that a run holds, and return whether a budget limits it."""
    async with _scope_of(services, caller) as scope:
        await metering.release_run(scope, caller.run_id)
        return await _is_budgeted(scope, caller)
