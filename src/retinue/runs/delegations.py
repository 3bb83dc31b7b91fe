"""Tool calls that other work answers: a plan, or another agent's run. Rooms above bring the kinds of work.

Such a call has no handler. It is opened in the transaction that records it, the run waits without a worker, and the
end of the work is the call's result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from retinue.agents import AgentDefinition
from retinue.kernel import Scope
from retinue.runs.events import Child, RunRequested
from retinue.runs.rules import RunState


@dataclass(frozen=True, slots=True)
class DelegatedCall:
    """A call that is about to be handed on.

    Attributes:
        asked: what the run itself was asked.
        state: the run as its events tell it; not to be changed.
    """

    run_id: UUID
    call_id: str
    tool: str
    arguments: Mapping[str, Any]
    asked: str
    agent: AgentDefinition
    state: RunState

    @property
    def requested(self) -> RunRequested:
        """What the run was started with."""
        assert self.state.requested is not None
        return self.state.requested


@dataclass(frozen=True, slots=True)
class Declined:
    """The call is not handed on; the model is told why. ``final``: the run fails with it, as ``kind``."""

    text: str
    final: bool = False
    kind: str = "declined"


@dataclass(frozen=True, slots=True)
class ChildOutcome:
    """How the work ended.

    Attributes:
        content: what the model is told.
        tainted: it has read untrusted text; so has the run, from now on.
        addendum: what a person must learn with the answer, whatever the model makes of it.
        cost: nano-dollars of the work and of everything below it.
    """

    content: str
    failed: bool = False
    tainted: bool = False
    addendum: str = ""
    cost: int = 0


class Delegation(Protocol):
    """The work behind some tools."""

    async def describe(self, scope: Scope, requested: RunRequested) -> str:
        """Return what is added to the tools' descriptions for this run, such as who is in the team."""
        ...

    async def lanes(self, scope: Scope, call: DelegatedCall) -> Sequence[UUID]:
        """Return the agents whose lanes :meth:`open` will enter, so that they are locked in one order."""
        ...

    async def open(self, scope: Scope, call: DelegatedCall) -> Child | Declined:
        """Start the work. Its end must wake the run (``runs.ADVANCE``) in the transaction that ends it."""
        ...

    async def outcome(self, scope: Scope, child_id: UUID, *, lock: bool) -> ChildOutcome | None:
        """Return how the work ended, None while it goes on; ``lock``: nobody ends it before this scope commits."""
        ...

    async def cancel(self, scope: Scope, child_id: UUID, reason: str) -> None:
        """End the work, if it has not ended."""
        ...


class Opening(Protocol):
    """What bounds the first model call of a run that has a certain tool, and can answer in the model's place."""

    async def seconds(self, scope: Scope) -> float:
        """Return how long the model has for its first answer."""
        ...

    async def recall(self, scope: Scope, requested: RunRequested, asked: str) -> Mapping[str, Any] | None:
        """Return the arguments of a call that answers ``asked`` without a model; None: ask the model."""
        ...

    async def fallback(self, scope: Scope, requested: RunRequested, asked: str) -> Mapping[str, Any] | None:
        """Return the arguments of a call for when the time is up; None: wait for the model after all."""
        ...


class Delegations:
    """The delegations of this server; a service of the house that rooms add to when they start."""

    def __init__(self) -> None:
        self._by_tool: dict[str, Delegation] = {}
        self._by_kind: dict[str, Delegation] = {}
        self.openings: dict[str, Opening] = {}

    def add(self, kind: str, delegation: Delegation, *tools: str, opening: Opening | None = None) -> None:
        """Have ``delegation`` answer the calls of ``tools`` by work of ``kind``."""
        self._by_kind[kind] = delegation
        for tool in tools:
            self._by_tool[tool] = delegation
            if opening is not None:
                self.openings[tool] = opening

    def behind(self, tool: str) -> Delegation | None:
        """Return what answers the calls of a tool; None: its own handler does."""
        return self._by_tool.get(tool)

    async def outcome(self, scope: Scope, child: Child, *, lock: bool = False) -> ChildOutcome | None:
        """Return how the work behind a call ended; None while it goes on."""
        delegation = self._by_kind.get(child.kind)
        if delegation is None:
            return ChildOutcome(f"Nothing here carries out a {child.kind} any more.", failed=True)
        return await delegation.outcome(scope, child.id, lock=lock)

    async def cancel(self, scope: Scope, state: RunState, reason: str) -> None:
        """End all work that a run still waits for."""
        for call in state.open_calls:
            if call.child is not None and (delegation := self._by_kind.get(call.child.kind)) is not None:
                await delegation.cancel(scope, call.child.id, reason)
