"""What a worker does with a run it has claimed: ask the model, carry out calls, until it ends or waits."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any
from uuid import UUID

import msgspec

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
from retinue.live import Frame, Live
from retinue.providers import (
    Credentials,
    Message,
    ModelAnswer,
    ModelFailed,
    ModelRequest,
    ProviderKey,
    Providers,
    Text,
    ToolCall,
    ToolSpec,
)
from retinue.runs import answers, lanes
from retinue.runs.claiming import claim
from retinue.runs.commands import ADVANCE
from retinue.runs.delegations import Delegations, Opening
from retinue.runs.events import (
    ModelResponded,
    RunFailed,
    RunInterrupted,
    RunProgressed,
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
from retinue.runs.rules import Call, CallStatus, RunState, conversation
from retinue.tools import OpenTools, Toolbox, ToolContext, Trust, Workspace
from retinue.vault import provider_secrets, tenant_secrets

log = logging.getLogger(__name__)

# What one activation of a run is numbered by in its frames: a new step, activation or try replaces the text so far.
_TRIES_A_STEP = 100
_NO_MODEL = "none"  # the provider of an answer that nobody was asked for
_EPOCHS = 1000


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
        self.specs: list[ToolSpec] = []
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
        self.specs = [
            ToolSpec(spec.name, spec.description + self._added.get(spec.name, ""), spec.parameters)
            for spec in self.tools.specs()
            if agent.tool_policy.get(spec.name) != "deny"  # what is never allowed is not offered
        ]
        self.journal.judgement = Judgement(self.run_id, requested.agent_id, agent, self.tools)

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
                await self._ask_model(step.step)
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

    # The model

    async def _ask_model(self, step: int) -> None:
        if self.broke is not None:
            await self.journal.record(RunFailed(kind="budget", detail=self.broke.detail, step=step))
            return
        request = self._request()
        if self.journal.agent.cache_seconds and await self._recall(step, request):
            return
        opening = self._opening(step)
        if opening is not None and await self._open_from_memory(step, *opening):
            return
        if self.journal.budgeted and not await self._reserve(step, request):
            return
        began = time.monotonic()
        try:
            answer = await self.activation.unless_stopped(
                self._ask_in_time(step, request, *opening) if opening else self._ask(step, request)
            )
        except ModelFailed as failed:
            await self.journal.record(RunFailed(kind=failed.kind, detail=failed.detail, step=step))
            return
        took = round((time.monotonic() - began) * 1000)
        if self.journal.agent.cache_seconds:
            async with self.journal.scope() as scope:
                await answers.remember(scope, request, answer, self.journal.agent.cache_seconds)
        unasked = answer.provider == _NO_MODEL
        await self.journal.record(ModelResponded(step=step, answer=answer, milliseconds=took, from_cache=unasked))

    def _opening(self, step: int) -> tuple[str, Opening] | None:
        """Return the tool whose first call is bounded in time and can be written without a model, if there is one."""
        if step != 1 or not self.history:
            return None
        openings = self.services.get(Delegations).openings
        return next(((tool, openings[tool]) for tool in self.journal.agent.tools if tool in openings), None)

    async def _open_from_memory(self, step: int, tool: str, opening: Opening) -> bool:
        async with self.journal.scope() as scope:
            found = await opening.recall(scope, self.journal.requested, self.journal.asked)
        if found is None:
            return False
        answer = _unasked(tool, found, "recalled")
        await self.journal.record(ModelResponded(step=step, answer=answer, from_cache=True))
        return True

    async def _ask_in_time(self, step: int, request: ModelRequest, tool: str, opening: Opening) -> ModelAnswer:
        """Ask the model; when its time is up, write the call without it."""
        async with self.journal.scope() as scope:
            seconds = await opening.seconds(scope)
        await self.journal.record(RunProgressed(phase="planning", seconds=seconds))
        asking = asyncio.ensure_future(self._ask(step, request))
        try:
            await asyncio.wait({asking}, timeout=seconds)
            if not asking.done():
                async with self.journal.scope() as scope:
                    found = await opening.fallback(scope, self.journal.requested, self.journal.asked)
                if found is not None:
                    return _unasked(tool, found, "fallback")
            return await asking
        finally:
            asking.cancel()

    def _request(self) -> ModelRequest:
        agent = self.journal.agent
        return ModelRequest(
            models=[agent.model or self.services.get(Providers).default_model, *agent.fallbacks],
            instructions=agent.instructions,
            messages=conversation(self.history, self.journal.state),
            tools=self.specs,
            output_schema=agent.output_schema,
            max_tokens=agent.max_tokens,
            temperature=agent.temperature,
        )

    async def _recall(self, step: int, request: ModelRequest) -> bool:
        async with self.journal.scope() as scope:
            answer = await answers.recall(scope, request)
        if answer is None:
            return False
        self._publisher(step)(answer.text, 1)
        await self.journal.record(ModelResponded(step=step, answer=answer, from_cache=True))
        return True

    async def _reserve(self, step: int, request: ModelRequest) -> bool:
        requested = self.journal.requested
        amount = self.services.get(Providers).estimate(request, self.credentials)
        refused: BudgetExhausted | None = None
        async with self.journal.scope() as scope:
            try:
                await metering.reserve(scope, agent_id=requested.agent_id, run_id=self.run_id, step=step, amount=amount)
            except BudgetExhausted as fault:
                refused = fault  # inside the scope, which commits: that the budget is used up is a fact to keep
        if refused is not None:
            await self.journal.record(RunFailed(kind="budget", detail=refused.detail, step=step))
        return refused is None

    async def _ask(self, step: int, request: ModelRequest) -> ModelAnswer:
        return await self.services.get(Providers).ask(
            request, on_text=self._publisher(step), credentials=self.credentials
        )

    def _publisher(self, step: int) -> Callable[[str, int], None]:
        """Return what takes pieces of text and sends them on as frames."""
        live = self.services.get(Live)  # type: ignore[type-abstract]  # services are found by their protocol
        requested = self.journal.requested
        base = (step * _EPOCHS + min(self.journal.state.epoch, _EPOCHS - 1)) * _TRIES_A_STEP
        sent = {"attempt": 0, "offset": 0}

        def publish(text: str, attempt: int) -> None:
            if attempt != sent["attempt"]:
                sent["attempt"], sent["offset"] = attempt, 0
            live.publish(
                Frame(
                    self.tenant_id,
                    self.run_id,
                    requested.session_id,
                    requested.owner_id,
                    requested.reply_id,
                    base + min(attempt, _TRIES_A_STEP - 1),
                    sent["offset"],
                    text,
                )
            )
            sent["offset"] += len(text)

        return publish

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


def _unasked(tool: str, arguments: Mapping[str, Any], why: str) -> ModelAnswer:
    """Return an answer that no model wrote, and that says so."""
    call = ToolCall(id=f"{tool}-{why}", name=tool, arguments=msgspec.json.encode(arguments).decode())
    return ModelAnswer(parts=[call], model=f"{_NO_MODEL}:{why}", provider=_NO_MODEL, cost=0, finish="tool_call")


def _last_text(messages: Sequence[Message]) -> str:
    return "".join(part.text for part in messages[-1].parts if isinstance(part, Text)) if messages else ""


async def _all(work: list[Coroutine[Any, Any, None]]) -> None:
    async with asyncio.TaskGroup() as group:
        for one in work:
            group.create_task(one)
