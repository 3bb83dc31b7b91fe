"""The tool ``operate``: an agent, or a step of a workflow, has a part of its work done by an operation."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

import msgspec

from retinue import artifacts
from retinue.kernel import Conflict, Fault, NotFound, Scope
from retinue.operations import crew
from retinue.operations.commands import KIND, Wanted, WantedInput, as_owner, begin, cancel, load
from retinue.operations.drivers import Drivers
from retinue.operations.events import (
    Caller,
    Expected,
    OperationCancelled,
    OperationCompleted,
    OperationFailed,
    OperationTimedOut,
)
from retinue.operations.views import find_operation
from retinue.runs import Child, ChildOutcome, Declined, DelegatedCall, Delegations, RunRequested
from retinue.tenancy import permits, role_of
from retinue.tools import Effect, Labels, Tool, ToolContext, ToolFault, Trust

TOOL = "operate"

MOST = 16
"""Calls that one run may hand on."""

LABELS = Labels(effect=Effect.EGRESS, output=Trust.UNTRUSTED, private=True, idempotent=True)
"""A program and a model of somebody else see the files: to start one is to send them out, and a careful agent asks."""


class _Input(msgspec.Struct, forbid_unknown_fields=True):
    artifact_id: UUID
    name: str | None = None
    size: int | None = None
    """Ignored. The result of another operation tells it, and what it tells is given on as it is."""


class _Asked(msgspec.Struct, forbid_unknown_fields=True):
    driver: str
    goal: str
    parameters: dict[str, Any] = msgspec.field(default_factory=dict)
    model: str | None = None
    inputs: list[_Input] = msgspec.field(default_factory=list)
    files: dict[str, str] = msgspec.field(default_factory=dict)
    expected: list[str] = msgspec.field(default_factory=list)
    seconds: float | None = None


class ByAnOperation:
    """Carries ``operate`` out: each call is an operation, and what it made is the result."""

    async def describe(self, scope: Scope, requested: RunRequested) -> str:
        """Say which drivers there are."""
        drivers = scope.service(Drivers)
        told = [f"- {name}: {driver.title}" for name in drivers.names() if (driver := drivers.get(name)) is not None]
        return "\n\nDrivers:\n" + "\n".join(told)

    async def lanes(self, scope: Scope, call: DelegatedCall) -> Sequence[UUID]:
        """Return the agent whose lane is entered; before the first operation there is none."""
        agent_id = await crew.agent_id(scope)
        return [] if agent_id is None else [agent_id]

    async def open(self, scope: Scope, call: DelegatedCall) -> Child | Declined:
        """Begin the operation."""
        try:
            asked = msgspec.convert(dict(call.arguments), _Asked)
        except msgspec.ValidationError as error:
            return Declined(f"The arguments are not valid: {error}")
        if sum(one.child is not None for turn in call.state.turns for one in turn.calls) >= MOST:
            return Declined(f"Not started: this run has handed on {MOST} calls, the most it may.")
        budget = _budget_left(scope, call)
        if budget == 0:
            return Declined("Not started: the money for this run is used up.")
        if not await _may_begin(scope, call.requested.owner_id):
            return Declined("Not started: you act for somebody who may not begin operations.")
        there = as_owner(scope, call.requested.owner_id)
        try:
            operation_id = await begin(there, _wanted(asked, call, budget))
        except Fault as fault:
            # Nothing is written then, but for one of the month's operations when the lane is full.
            return Declined(f"Not started: {fault.detail}")
        return Child(kind=KIND, id=operation_id)

    async def outcome(self, scope: Scope, child_id: UUID, *, lock: bool) -> ChildOutcome | None:
        """Return what came of the operation, None while it goes on."""
        row = await find_operation(scope, child_id, lock=lock)
        if not row.ended:
            return None
        state = await load(scope, child_id)
        fact = state.ending
        assert fact is not None
        kept = await artifacts.list_artifacts(as_owner(scope, row.owner_id), operation_id=child_id)
        told: dict[str, Any] = {
            "operation_id": str(child_id),
            "status": str(state.status),
            "artifacts": [
                {"artifact_id": str(one.artifact_id), "name": one.name, "size": one.size} for one in reversed(kept)
            ],
            "by_name": {one.name: str(one.artifact_id) for one in reversed(kept)},
        }
        match fact:
            case OperationCompleted():
                told["summary"] = fact.summary
            case OperationFailed():
                told |= {"kind": fact.kind, "detail": fact.detail}
            case OperationTimedOut():
                told |= {"kind": "timeout", "detail": f"It did not finish within {fact.seconds:g} s."}
            case OperationCancelled():
                told |= {"kind": "cancelled", "detail": fact.reason}
        text = msgspec.json.encode(told).decode()
        failed = not isinstance(fact, OperationCompleted)
        return ChildOutcome(text, failed=failed, tainted=True, cost=fact.usage.cost)

    async def cancel(self, scope: Scope, child_id: UUID, reason: str) -> None:
        """End the operation."""
        with suppress(Conflict, NotFound):
            await cancel(scope, child_id, reason)


async def _may_begin(scope: Scope, user_id: UUID) -> bool:
    """Whether a user may begin operations now: an agent never has more rights than its user."""
    role = await role_of(scope, user_id)
    return role is not None and permits(role, None, "operations", "create") == "allow"


def _budget_left(scope: Scope, call: DelegatedCall) -> int | None:
    """Return what a call may spend of what the run has left, in nano-dollars; None: the run has no bound of its own.

    Calls that are open at the same time share it: together they must not spend more than is there.
    """
    bounds = [one for one in (call.agent.limits.budget, call.requested.budget) if one is not None]
    if not bounds:
        return None
    left = min(bounds) - call.state.spent
    delegations = scope.service(Delegations)
    handed_on = sum(delegations.behind(one.tool) is not None for one in call.state.open_calls)
    return max(1, left // max(1, handed_on)) if left > 0 else 0


def _wanted(asked: _Asked, call: DelegatedCall, budget: int | None) -> Wanted:
    return Wanted(
        driver=asked.driver,
        goal=asked.goal,
        parameters=asked.parameters,
        model=asked.model,
        inputs=[WantedInput(one.artifact_id, one.name) for one in asked.inputs],
        files={name: text.encode() for name, text in asked.files.items()},
        expected=[Expected(name=one) for one in asked.expected],
        limits={} if asked.seconds is None else {"seconds": asked.seconds},
        budget=budget,
        caller=Caller(run_id=call.run_id, call_id=call.call_id),
        tainted_by=tuple(call.state.tainted_by),
    )


async def _handled_elsewhere(_context: ToolContext, _arguments: dict[str, Any]) -> str:
    """Stand in for the handler; the run loop never gets here."""
    raise ToolFault("The call was not handed on.")


def tool() -> Tool:
    """Return the tool."""
    return Tool(
        name=TOOL,
        description=(
            "Have a command-line agent or a program work on files in a sandbox, and get what it made. It sees the "
            "files that you name, and nothing else; what it leaves is stored as artifacts, which later calls may take "
            "as inputs by their ids."
        ),
        parameters={
            "type": "object",
            "properties": {
                "driver": {"type": "string", "maxLength": 100, "description": "which agent or program"},
                "goal": {"type": "string", "minLength": 1, "maxLength": 50_000, "description": "what is to be done"},
                "parameters": {"type": "object", "description": "the driver's own; for command: {argv: [...]}"},
                "model": {"type": "string", "maxLength": 200, "description": "provider:model, where it uses one"},
                "inputs": {
                    "type": "array",
                    "maxItems": 100,
                    "description": "artifacts to work on",
                    "items": {
                        "type": "object",
                        "properties": {
                            "artifact_id": {"type": "string", "format": "uuid"},
                            "name": {"type": "string", "maxLength": 255},
                            "size": {"type": "integer", "description": "ignored"},
                        },
                        "required": ["artifact_id"],
                        "additionalProperties": False,
                    },
                },
                "files": {
                    "type": "object",
                    "additionalProperties": {"type": "string", "maxLength": 200_000},
                    "maxProperties": 50,
                    "description": "small text files to work on, by name",
                },
                "expected": {
                    "type": "array",
                    "items": {"type": "string", "minLength": 1, "maxLength": 255},
                    "maxItems": 50,
                    "description": "names or patterns of files that it must leave",
                },
                "seconds": {"type": "number", "exclusiveMinimum": 0, "description": "how long it may take"},
            },
            "required": ["driver", "goal"],
            "additionalProperties": False,
        },
        labels=LABELS,
        handler=_handled_elsewhere,
    )
