"""The call ``carry_out_operation``: one attempt at an operation, from its beginning to its one final transaction."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar
from uuid import UUID

from retinue.artifacts import Received
from retinue.database import open_scope
from retinue.dispatch import Dispatcher
from retinue.kernel import BadInput, Clock, Fault, NotFound, Services, StorageFull, Unavailable, to_its_end
from retinue.operations import ending, judging, storing
from retinue.operations.beginning import Begun, begin
from retinue.operations.commands import CALL, load, record
from retinue.operations.driver import DriverMissing, Finish
from retinue.operations.ending import Superseded
from retinue.operations.events import (
    Ending,
    OperationCompleted,
    OperationFailed,
    OperationProgressed,
    OperationTimedOut,
    Output,
    Skipped,
    Usage,
)
from retinue.operations.judging import Judged, ModelUse
from retinue.operations.running import Ran, Running, lay_out, sandbox_limits
from retinue.operations.storing import Gathered
from retinue.sandbox import SandboxFailed, SandboxRefused, Workspace
from retinue.sandbox import Usage as SandboxUsage
from retinue.tools import Effect, Labels, Tool, ToolContext, ToolFault, ToolOutcome, Trust

log = logging.getLogger(__name__)
T = TypeVar("T")

_LONGEST = 86_400.0
_TRIES = 12
_TRIES_OF_LEAVING = 4  # 0.7 s: the process may be about to end
_FILE_TOO_LARGE = 128 + signal.SIGXFSZ  # what a program ends with that writes a file larger than it may
_LONGEST_PAUSE = 5.0

LABELS = Labels(effect=Effect.WRITE, output=Trust.UNTRUSTED, private=True, idempotent=True)
"""It may be made again: each attempt has a number, and only the newest one can end the operation, once."""


def tool(services: Services) -> Tool:
    """Return the tool that the tenant's agent for operations has; nobody else's calls of it do anything."""

    async def carry_out(context: ToolContext, arguments: dict[str, Any]) -> ToolOutcome:
        operation_id = UUID(arguments["operation_id"])
        try:
            found = await steadfast(lambda: begin(services, context.tenant_id, operation_id, context.run_id))
        except NotFound:
            raise ToolFault("This call belongs to another run.") from None
        if isinstance(found, Begun):
            found = await Attempting(services, found).carry_out()
        return outcome_of(found)

    return Tool(
        name=CALL,
        description="Carry an operation out.",
        parameters={
            "type": "object",
            "properties": {"operation_id": {"type": "string", "format": "uuid"}},
            "required": ["operation_id"],
            "additionalProperties": False,
        },
        labels=LABELS,
        handler=carry_out,
        timeout=_LONGEST,
    )


def outcome_of(fact: Ending) -> ToolOutcome:
    """Return what the run is told of an operation's end."""
    match fact:
        case OperationCompleted():
            return ToolOutcome(fact.summary or "Done.")
        case OperationFailed():
            return ToolOutcome(f"{fact.kind}: {fact.detail}", failed=True)
        case OperationTimedOut():
            return ToolOutcome(f"timeout: it did not finish within {fact.seconds:g} s.", failed=True)
        case _:
            return ToolOutcome(f"It was cancelled. {fact.reason}".strip(), failed=True)


class Attempting:
    """One attempt.

    Attributes:
        received: what it stored and has not published.
    """

    def __init__(self, services: Services, begun: Begun) -> None:
        self._services = services
        self._begun = begun
        self._usage = Usage()
        self.received: list[Received] = []

    async def carry_out(self) -> Ending:
        """Carry the attempt out and record what came of it; leave nothing behind, whatever happens.

        Raises:
            ToolFault: another attempt has the operation.
        """
        workspace: Workspace | None = None
        try:
            workspace = await self._begun.sandbox.prepare(
                self._begun.job_id, sandbox_limits(self._begun.state.requested.limits)
            )
            wanted = await self._attempted(workspace)
            return await self._finish(wanted)
        except Superseded as fault:
            raise ToolFault(fault.detail) from None
        except asyncio.CancelledError:
            await self._left()
            raise
        finally:
            await to_its_end(self._wiped(workspace))

    async def _attempted(self, workspace: Workspace) -> OperationCompleted | OperationFailed | OperationTimedOut:
        try:
            return await self._worked(workspace)
        except DriverMissing as error:
            return self._failed("driver_missing", str(error))
        except SandboxRefused as fault:
            return self._failed("sandbox_refused", fault.detail)
        except SandboxFailed as fault:
            return self._failed("sandbox_failed", fault.detail)
        except StorageFull as fault:
            return self._failed("quota" if "limit" in fault.extra else "store", fault.detail)
        except BadInput as fault:
            return self._failed("input", fault.detail)
        except Superseded:
            raise
        except Unavailable as fault:
            return self._failed("store", fault.detail)
        except Fault as fault:
            return self._failed("internal", fault.detail)
        except TimeoutError:
            return self._failed("killed", "The sandbox did not end the program in time.")
        except Exception as error:
            log.exception("operation %s failed", self._begun.operation_id)
            return self._failed("internal", f"{type(error).__name__}: {error}"[:500])

    async def _worked(self, workspace: Workspace) -> OperationCompleted | OperationFailed | OperationTimedOut:
        begun = self._begun
        await lay_out(self._services, begun, workspace)
        seconds, by_grant = self._time()
        running = Running(self._services, begun, workspace, self._went_on, self._used)
        ran = await running.run(seconds, by_grant=by_grant)
        gathered = await storing.gather(begun, workspace, begun.state.requested.limits)
        try:
            judged = await self._judged(ran, gathered)
            if gathered.files:
                await self._note("collecting")
            made = await storing.store(self._services, begun, gathered, judged, self.received)
        finally:
            gathered.close()
        return self._wanted(judged, made.outputs, (*gathered.skipped, *made.skipped))

    def _used(self, used: SandboxUsage) -> None:
        """Note what the program used, however it ended. What its models did is on the bill."""
        self._usage = Usage(
            seconds=used.seconds,
            cpu_seconds=used.cpu_seconds,
            peak_memory=used.peak_memory,
            memory_byte_seconds=used.memory_byte_seconds,
        )

    def _time(self) -> tuple[float, bool]:
        """Return how long the program may take, and whether that is because its grant ends then."""
        seconds = self._begun.state.requested.limits.seconds
        terms = self._begun.terms
        if terms is None or terms.expires_at is None:
            return seconds, False
        clock = self._services.get(Clock)  # type: ignore[type-abstract]  # services are found by their protocol
        left = max(0.1, (terms.expires_at - clock.now()).total_seconds())
        return min(seconds, left), left < seconds

    async def _judged(self, ran: Ran, gathered: Gathered) -> Judged:
        begun = self._begun
        requested = begun.state.requested
        names = [one.name for one in gathered.files]
        finish = Finish(ended=ran.ended, stdout=ran.stdout, stderr=ran.stderr, changed=names, model_calls=ran.use.calls)
        judged = judging.by_its_end(finish, requested.limits, by_grant=ran.by_grant)
        if judged is not None:
            return judged
        models = ModelUse(
            calls=ran.use.calls,
            forbidden=tuple(ran.use.forbidden),
            used_up=ran.use.used_up > 0,
            budget=requested.budget,
        )
        expects = begun.driver.expects_outputs or bool(requested.expected)
        judged = judging.by_its_driver(finish, ran.attempt.judge(finish), models, expects_outputs=expects)
        judged = judging.by_what_was_expected(judged, requested.expected, names)
        judged = judging.by_schemas(judged, await storing.complaints(gathered, requested.expected) if judged.ok else ())
        is_full = gathered.full or ran.ended.exit_code == _FILE_TOO_LARGE
        return judging.by_a_full_disk(judged, requested.limits, is_full=is_full)

    def _wanted(
        self, judged: Judged, outputs: Sequence[Output], skipped: Sequence[Skipped]
    ) -> OperationCompleted | OperationFailed | OperationTimedOut:
        left: dict[str, Any] = {
            "attempt": self._begun.fence.attempt,
            "usage": self._usage,
            "outputs": tuple(outputs),
            "skipped": tuple(skipped),
        }
        if judged.ok:
            return OperationCompleted(summary=judged.text, **left)
        if judged.kind == judging.TIMEOUT:
            return OperationTimedOut(seconds=self._begun.state.requested.limits.seconds, **left)
        return OperationFailed(kind=judged.kind, detail=judged.text, **left)

    def _failed(self, kind: str, detail: str) -> OperationFailed:
        self.received.clear()  # nothing that was stored before it failed is shown
        return OperationFailed(attempt=self._begun.fence.attempt, kind=kind, detail=detail, usage=self._usage)

    # Recording

    async def _went_on(self) -> None:
        if self._begun.inputs:
            await self._note("running")

    async def _note(self, phase: Any) -> None:
        await steadfast(lambda: self._note_once(phase))

    async def _note_once(self, phase: Any) -> None:
        begun = self._begun
        async with open_scope(self._services, begun.tenant_id, cause=f"run:{begun.run_id}") as scope:
            row = await ending.locked_for(scope, begun.fence)
            await record(scope, row, OperationProgressed(attempt=begun.fence.attempt, phase=phase))

    async def _finish(self, wanted: OperationCompleted | OperationFailed | OperationTimedOut) -> Ending:
        """Take the one transaction that ends the operation.

        Raises:
            Superseded: another attempt has the operation, or it has ended.
            Unavailable: the database stayed away.
        """
        try:
            return await steadfast(lambda: self._finish_once(wanted))
        except Superseded:
            # A commit whose answer was lost shows here as our own end.
            async with open_scope(self._services, self._begun.tenant_id) as scope:
                found = (await load(scope, self._begun.operation_id)).ending
            if found is not None and found.attempt == self._begun.fence.attempt:
                return found
            raise

    async def _finish_once(self, wanted: OperationCompleted | OperationFailed | OperationTimedOut) -> Ending:
        begun = self._begun
        owner_id = begun.state.requested.owner_id
        async with open_scope(self._services, begun.tenant_id, user_id=owner_id, cause=f"run:{begun.run_id}") as scope:
            return await ending.finish(scope, begun.fence, wanted, self.received)

    async def _left(self) -> None:
        """Record the end at once when it was asked for; a look would do it a moment later, and not know the usage.

        Or that the attempt was left in the middle: its run has ended or is somebody else's now, or this process ends.
        """
        with suppress(Fault):
            await to_its_end(steadfast(self._left_once, tries=_TRIES_OF_LEAVING))

    async def _left_once(self) -> None:
        begun = self._begun
        async with open_scope(self._services, begun.tenant_id, user_id=begun.state.requested.owner_id) as scope:
            row = await ending.locked_for(scope, begun.fence)
            if row.cancel_cause is not None:
                # Which records the cancellation instead.
                await ending.finish(scope, begun.fence, self._failed("internal", "cancelled"), ())
            else:
                await ending.leave(scope, row, self._usage, handed_over=self._services.get(Dispatcher).closing)

    async def _wiped(self, workspace: Workspace | None) -> None:
        sandbox = self._begun.sandbox
        try:
            if workspace is None:  # it was given up while it was made
                await sandbox.reap(self._begun.job_id)
            else:
                await sandbox.wipe(workspace)
        except (Fault, OSError):
            log.exception("the workspace of %s could not be wiped", self._begun.job_id)


async def steadfast(work: Callable[[], Awaitable[T]], *, tries: int = _TRIES) -> T:
    """Do this, a transaction of its own; while the database is away, again and again for about half a minute."""
    for number in range(tries):
        try:
            return await work()
        except Unavailable:
            if number == tries - 1:
                raise
            await asyncio.sleep(min(0.1 * 2**number, _LONGEST_PAUSE))
    raise AssertionError("unreachable")
