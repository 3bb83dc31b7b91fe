"""Asking the model for a run: from memory, in time, within the budget; what is heard is sent on as it comes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from retinue import metering
from retinue.dispatch import Activation
from retinue.kernel import BudgetExhausted
from retinue.live import Frame, Live
from retinue.providers import (
    Credentials,
    Message,
    ModelAnswer,
    ModelFailed,
    ModelRequest,
    Providers,
    ToolCall,
    ToolSpec,
)
from retinue.runs import answers
from retinue.runs.delegations import Delegations, Opening
from retinue.runs.events import ModelResponded, RunFailed, RunProgressed
from retinue.runs.journal import Journal
from retinue.runs.rules import conversation

# What one activation of a run is numbered by in its frames: a new step, activation or try replaces the text so far.
_TRIES_A_STEP = 100
_NO_MODEL = "none"  # the provider of an answer that nobody was asked for
_EPOCHS = 1000


@dataclass(frozen=True, slots=True)
class Asking:
    """The model's part of an activation.

    Attributes:
        history: what was said in the session before, and the question.
        specs: the tools that the model is offered.
        credentials: the tenant's own keys, if it has any.
        broke: why the budget allows no call at all; None when it does.
    """

    journal: Journal
    activation: Activation
    history: Sequence[Message]
    specs: Sequence[ToolSpec]
    credentials: Credentials | None
    broke: BudgetExhausted | None

    async def ask(self, step: int) -> None:
        """Ask for step number ``step``, and record the answer; or why there is none."""
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
        openings = self.journal.services.get(Delegations).openings
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
            models=[agent.model or self.journal.services.get(Providers).default_model, *agent.fallbacks],
            instructions=agent.instructions,
            messages=conversation(self.history, self.journal.state),
            tools=list(self.specs),
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
        amount = self.journal.services.get(Providers).estimate(request, self.credentials)
        refused: BudgetExhausted | None = None
        async with self.journal.scope() as scope:
            try:
                await metering.reserve(
                    scope, agent_id=requested.agent_id, run_id=self.journal.run_id, step=step, amount=amount
                )
            except BudgetExhausted as fault:
                refused = fault  # inside the scope, which commits: that the budget is used up is a fact to keep
        if refused is not None:
            await self.journal.record(RunFailed(kind="budget", detail=refused.detail, step=step))
        return refused is None

    async def _ask(self, step: int, request: ModelRequest) -> ModelAnswer:
        return await self.journal.services.get(Providers).ask(
            request, on_text=self._publisher(step), credentials=self.credentials
        )

    def _publisher(self, step: int) -> Callable[[str, int], None]:
        """Return what takes pieces of text and sends them on as frames."""
        live = self.journal.services.get(Live)  # type: ignore[type-abstract]  # services are found by their protocol
        requested = self.journal.requested
        base = (step * _EPOCHS + min(self.journal.state.epoch, _EPOCHS - 1)) * _TRIES_A_STEP
        sent = {"attempt": 0, "offset": 0}

        def publish(text: str, attempt: int) -> None:
            if attempt != sent["attempt"]:
                sent["attempt"], sent["offset"] = attempt, 0
            live.publish(
                Frame(
                    self.journal.tenant_id,
                    self.journal.run_id,
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


def _unasked(tool: str, arguments: Mapping[str, Any], why: str) -> ModelAnswer:
    """Return an answer that no model wrote, and that says so."""
    call = ToolCall(id=f"{tool}-{why}", name=tool, arguments=msgspec.json.encode(arguments).decode())
    return ModelAnswer(parts=[call], model=f"{_NO_MODEL}:{why}", provider=_NO_MODEL, cost=0, finish="tool_call")
