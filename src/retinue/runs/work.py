"""What a worker does with a run it has claimed: take its steps and carry out calls, until it ends or waits."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Sequence
from typing import Any
from uuid import UUID

from retinue import metering
from retinue.agents import AgentDefinition, definition
from retinue.database import open_scope
from retinue.dispatch import Activation, Dispatcher, HandOver, Stopped
from retinue.kernel import (
    Actor,
    ActorKind,
    BudgetExhausted,
    Clock,
    NotFound,
    Scope,
    Services,
    Settings,
    Unavailable,
    span,
)
from retinue.providers import (
    Credentials,
    Message,
    ProviderKey,
    Text,
    ToolSpec,
)
from retinue.runs import lanes
from retinue.runs.asking import Asking
from retinue.runs.claiming import claim
from retinue.runs.commands import ADVANCE
from retinue.runs.delegations import Delegations
from retinue.runs.events import (
    RunInterrupted,
    RunQueued,
    RunRequested,
    RunTimedOut,
    RunWaiting,
    ToolCompleted,
    ToolUnknown,
    Wait,
)
from retinue.runs.journal import Journal
from retinue.runs.judgement import Judgement
from retinue.runs.next_step import CallModel, RunTools
from retinue.runs.parents import conversation_of
from retinue.runs.rules import Call, CallStatus, RunState
from retinue.tools import OpenTools, Toolbox, ToolContext, Trust, Workspace
from retinue.vault import provider_secrets, tenant_secrets

log = logging.getLogger(__name__)


async def advance(services: Services, tenant_id: UUID, run_id: UUID) -> None:
    """Answer a wake-up: claim the run if it can go on, and advance it in the background."""
    try:
        claimed = await claim(services, tenant_id, run_id)
    except NotFound:
        return
    if claimed is not None:
        _begin(services, tenant_id, run_id, claimed.state, claimed.trace_id)
        if claimed.closed:
            services.get(Dispatcher).stop_here(ADVANCE, run_id, "pause")


class RunStarter:
    """Begins runs in the process that accepted them; saves the way through the queue."""

    def begin(self, scope: Scope, run_id: UUID, state: RunState, *, budgeted: bool) -> None:
        """Advance a run once the scope that recorded its activation has committed."""
        services, tenant_id, trace_id = scope.services, scope.tenant_id, scope.trace_id
        scope.uow.after_commit(lambda: _begin(services, tenant_id, run_id, state, trace_id, budgeted))


def _begin(
    services: Services, tenant_id: UUID, run_id: UUID, state: RunState, trace_id: str, budgeted: bool | None = None
) -> None:
    """Advance a run in the background; ``budgeted`` None: it is not known whether a budget applies."""

    async def drive(activation: Activation) -> None:
        with span("invoke_agent", trace_id=trace_id, attributes={"gen_ai.operation.name": "invoke_agent"}):
            await _Drive(services, tenant_id, run_id, activation, budgeted).run(state, trace_id)

    services.get(Dispatcher).spawn(ADVANCE, tenant_id, run_id, drive)


class _Drive:
    """One activation of a run in this process."""

    def __init__(
        self, services: Services, tenant_id: UUID, run_id: UUID, activation: Activation, budgeted: bool | None
    ) -> None:
        self.services = services
        self.tenant_id = tenant_id
        self.run_id = run_id
        self.activation = activation
        self.settings = services.get(Settings)
        self.journal: Journal
        self.tools: OpenTools
        self.asking: Asking
        self.credentials: Credentials | None = None
        self.history: list[Message] = []
        self.budgeted = budgeted
        self.broke: BudgetExhausted | None = None
        self._secrets: dict[str, str] = {}
        self._added: dict[str, str] = {}

    async def run(self, state: RunState, trace_id: str) -> None:
        """Take steps until the run has left this worker.

        Raises:
            HandOver: this process is about to end.
            Stopped: another worker has the run.
        """
        try:
            await self._open(state, trace_id)
            async with asyncio.timeout(self._seconds_left()) as deadline:
                await self._steps()
        except TimeoutError:
            if not deadline.expired():
                raise
            await self.journal.record(RunTimedOut(seconds=self._seconds, step=self.journal.state.step))
        except Stopped as stopped:
            if stopped.reason != "cancel":
                raise
            await self.journal.refresh()
            await self.journal.record()
        except (HandOver, asyncio.CancelledError):
            if self.services.get(Dispatcher).closing:
                await self._hand_back()
            raise
        except Exception as error:
            await self._interrupted(error)
            raise

    async def _hand_back(self) -> None:
        """Say that this process ends, so that the next activation does not count as a second attempt."""
        try:
            async with asyncio.timeout(2):
                await self.journal.record(RunQueued(reason="handed over"))
        except Exception:
            log.info("run %s is taken over instead of handed over", self.run_id)

    async def _interrupted(self, error: Exception) -> None:
        """Note what took this activation down, so that the dead letter can say it."""
        if isinstance(error, Unavailable):
            return  # the database is away: nothing can be noted, and nothing is the run's fault
        cause = f"{type(error).__name__}: {error}"[:500]
        try:
            await self.journal.record(RunInterrupted(cause=cause))
        except Exception:
            log.info("the cause of an interruption could not be recorded: %s", cause)

    async def _open(self, state: RunState, trace_id: str) -> None:
        requested = state.requested
        assert requested is not None
        agent = await self._read_once(state)
        self.journal = Journal(self.services, self.tenant_id, self.run_id, state, agent)
        self.journal.asked = _last_text(self.history)
        self.journal.budgeted = self.budgeted is not False
        self.journal.trace_id = trace_id
        toolbox = self.services.get(Toolbox)
        servers = toolbox.check((), agent.mcp)
        self.tools = await self.activation.unless_stopped(
            toolbox.open(agent.tools, servers, tenant_id=self.tenant_id, secrets=self._secrets)
        )
        for problem in self.tools.problems:
            log.warning("run %s: %s", self.run_id, problem)
        specs = [
            ToolSpec(spec.name, spec.description + self._added.get(spec.name, ""), spec.parameters)
            for spec in self.tools.specs()
            if agent.tool_policy.get(spec.name) != "deny"  # what is never allowed is not offered
        ]
        self.journal.judgement = Judgement(self.run_id, requested.agent_id, agent, self.tools)
        self.asking = Asking(self.journal, self.activation, self.history, specs, self.credentials, self.broke)

    async def _read_once(self, state: RunState) -> AgentDefinition:
        """Read what does not change while the run goes on: definition, history, keys."""
        requested = state.requested
        assert requested is not None
        actor = Actor(ActorKind.AGENT, requested.agent_id)
        async with open_scope(self.services, self.tenant_id, actor, user_id=requested.owner_id) as scope:
            agent = await definition(scope, requested.agent_id, requested.agent_version)
            if self.budgeted is None:
                self.broke = await self._check_budget(scope, requested.agent_id)
            self.history = await self._read_history(scope, requested)
            self._added = await self._describe(scope, requested, agent)
            keys = await provider_secrets(scope)
            self._secrets = await tenant_secrets(scope) if agent.mcp else {}
        if keys:
            self.credentials = Credentials(
                keys={name: ProviderKey(api_key=key.api_key, base_url=key.base_url) for name, key in keys.items()}
            )
        return agent

    async def _read_history(self, scope: Scope, requested: RunRequested) -> list[Message]:
        if requested.parent is not None:
            return [Message(role="user", parts=[Text(requested.prompt or "")])]
        return list(await conversation_of(scope).history(scope, requested.session_id, requested.history))

    async def _describe(self, scope: Scope, requested: RunRequested, agent: AgentDefinition) -> dict[str, str]:
        """Say what can only be said now of tools that others carry out, such as who is in the team."""
        delegations = scope.service(Delegations)
        behind = {tool: one for tool in agent.tools if (one := delegations.behind(tool)) is not None}
        told = {one: await one.describe(scope, requested) for one in set(behind.values())}
        return {tool: told[one] for tool, one in behind.items()}

    async def _check_budget(self, scope: Scope, agent_id: UUID) -> BudgetExhausted | None:
        try:
            self.budgeted = await metering.check(scope, agent_id)
        except BudgetExhausted as fault:
            return fault
        return None

    @property
    def _seconds(self) -> float:
        """How long workers may have the run: its agent's limit, or less if it was asked for with less."""
        limit = self.journal.agent.limits.seconds
        return min(limit, self.journal.requested.seconds or limit)

    def _seconds_left(self) -> float:
        return max(0.001, self._seconds - self.journal.state.active_seconds)

    async def _steps(self) -> None:
        while not self.journal.left:
            if self.activation.stop == "pause":
                await self._pause()
                continue
            step = self.journal.step
            if isinstance(step, CallModel):
                await self.asking.ask(step.step)
            elif isinstance(step, RunTools):
                await self._carry_out(step.calls)
            else:
                await self.journal.record()

    async def _pause(self) -> None:
        """Leave at the end of a step: because this process ends, or because somebody stopped the agent or tenant."""
        if self.services.get(Dispatcher).closing:
            raise HandOver
        requested = self.journal.requested
        async with self.journal.scope() as scope:
            closed = await lanes.is_closed(scope, requested.agent_id)
        if closed:
            await self.journal.record(RunWaiting(on=[Wait(kind="stop")]))
        else:
            self.activation.stop = None  # resumed before it got here

    # Tools

    async def _carry_out(self, calls: Sequence[Call]) -> None:
        """Carry out the calls of an answer: those that only look, side by side; effects one after the other."""
        judgement = self.journal.judgement
        assert judgement is not None
        looks = [call for call in calls if not judgement.acts(call)]
        if looks:
            await self.activation.unless_stopped(_all([self._call(call) for call in looks]))
            return
        started = [call for call in calls if call.status is CallStatus.STARTED]
        if not started:
            await self.journal.record()
            return
        await self.activation.unless_stopped(self._call(started[0]))

    async def _call(self, call: Call) -> None:
        assert self.journal.judgement is not None
        refusal = self.journal.judgement.answer_without_acting(call) if call.decision else None
        if refusal is not None:
            content, failed = refusal
            await self.journal.record(
                ToolCompleted(call_id=call.call_id, tool=call.tool, content=content, failed=failed)
            )
            return
        tool = self.tools.get(call.tool)
        if tool is None:
            text = f"The tool {call.tool} is not there any more."
            await self.journal.record(ToolCompleted(call_id=call.call_id, tool=call.tool, content=text, failed=True))
            return
        began = time.monotonic()
        with span("execute_tool", attributes={"gen_ai.tool.name": tool.name, "gen_ai.tool.call.id": call.call_id}):
            outcome = await tool.run(self._context(call), call.parsed())
        if outcome.uncertain and not tool.labels.repeatable:
            await self.journal.record(ToolUnknown(call_id=call.call_id, tool=call.tool))
            return
        await self.journal.record(
            ToolCompleted(
                call_id=call.call_id,
                tool=call.tool,
                content=outcome.content,
                failed=outcome.failed,
                untrusted=tool.labels.output is Trust.UNTRUSTED and not outcome.failed,
                milliseconds=round((time.monotonic() - began) * 1000),
            )
        )

    def _context(self, call: Call) -> ToolContext:
        requested = self.journal.requested
        return ToolContext(
            tenant_id=self.tenant_id,
            user_id=requested.owner_id,
            session_id=requested.session_id,
            run_id=self.run_id,
            call_id=call.call_id,
            idempotency_key=call.key or f"{self.run_id}:{call.call_id}",
            workspace=Workspace.of_session(self.settings, self.tenant_id, requested.session_id).root,
            settings=self.settings,
            clock=self.services.get(Clock),  # type: ignore[type-abstract]  # services are found by their protocol
            secrets=self._secrets,
        )


def _last_text(messages: Sequence[Message]) -> str:
    return "".join(part.text for part in messages[-1].parts if isinstance(part, Text)) if messages else ""


async def _all(work: list[Coroutine[Any, Any, None]]) -> None:
    async with asyncio.TaskGroup() as group:
        for one in work:
            group.create_task(one)
