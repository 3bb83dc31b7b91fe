"""What the tests of approvals share: a tenant, its owner, and what waits in the queue."""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec

from retinue.approvals import ApprovalRequest, Resume, Ruling, commands, views
from retinue.approvals.events import ApprovalDecided
from retinue.approvals.rules import Approval
from retinue.kernel import Clock, ManualClock, Scope, Services, SystemClock
from retinue.ledger import read_stream
from tests.support.scopes import ledger_services, scope_of

SCHEMA = {
    "type": "object",
    "properties": {"path": {"type": "string"}, "content": {"type": "string"}},
    "required": ["path"],
    "additionalProperties": False,
}


class Tenant:
    """A tenant with one owner of runs, and a clock that tests move."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.tenant_id = uuid4()
        self.owner_id = uuid4()
        self.agent_id = uuid4()
        self.clock = ManualClock(SystemClock().now())
        services.add(Clock, self.clock)  # type: ignore[type-abstract]  # services are found by their protocol

    def scope(self, user_id: UUID | None = None, role: str = "member") -> AbstractAsyncContextManager[Scope]:
        return scope_of(self.services, self.tenant_id, user_id=user_id or self.owner_id, role=role, clock=self.clock)

    def system(self) -> AbstractAsyncContextManager[Scope]:
        return scope_of(self.services, self.tenant_id, clock=self.clock)

    def late(self, user_id: UUID | None = None) -> AbstractAsyncContextManager[Scope]:
        """Open a scope whose clock is past every deadline; as the system without a user."""
        clock = ManualClock(self.clock.now() + timedelta(days=1))
        return scope_of(self.services, self.tenant_id, user_id=user_id, role="member", clock=clock)

    async def ask(self, **fields: Any) -> UUID:
        """Ask a person, as a run of the owner does."""
        async with self.system() as scope:
            return await commands.request(scope, self.request(**fields))

    def request(self, **fields: Any) -> ApprovalRequest:
        run_id = fields.pop("run_id", None) or uuid4()
        defaults: dict[str, Any] = {
            "kind": "tool",
            "run_id": run_id,
            "session_id": uuid4(),
            "agent_id": self.agent_id,
            "tool": "files_write",
            "arguments": {"path": "a.md", "content": "x"},
            "parameters": SCHEMA,
            "effect": "write",
            "reason": "a supervised agent asks before a write call",
            "seconds": 300,
            "resume": Resume(kind="run.advance", subject_id=run_id),
            "owner_id": self.owner_id,
        }
        return ApprovalRequest(**{**defaults, **fields})

    async def decide(self, approval_id: UUID, decision: str = "approve", **fields: Any) -> Approval:
        """Decide, as the owner does."""
        async with self.scope() as scope:
            return await commands.decide(scope, approval_id, msgspec.convert({"decision": decision, **fields}, Ruling))

    async def read(self, approval_id: UUID) -> Approval:
        async with self.scope() as scope:
            return await commands.find(scope, approval_id)

    async def decisions(self, approval_id: UUID) -> list[str]:
        """Return every outcome in the ledger; there must never be more than one."""
        async with self.scope() as scope:
            recorded = await read_stream(scope, f"approval:{approval_id}")
        return [one.event.decision for one in recorded if isinstance(one.event, ApprovalDecided)]

    async def wake_ups(self, subject_id: UUID | None) -> Counter[str]:
        """Return how many wake-ups of each kind wait in the queue for a subject."""
        async with self.scope() as scope:
            rows = await scope.queries.fetch(
                "SELECT entrypoint FROM dispatch.pgqueuer WHERE convert_from(payload, 'UTF8') LIKE $1",
                f"%{subject_id}%",
            )
        return Counter(row["entrypoint"] for row in rows)

    def later(self, seconds: float) -> None:
        self.clock.advance(timedelta(seconds=seconds))


def tenant_on(database: Any) -> Tenant:
    """Return a fresh tenant on a database."""
    return Tenant(ledger_services(database, [views.projection]))
