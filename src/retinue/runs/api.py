"""The doors to runs and dead letters."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field

from retinue.kernel import NotFound, Scope, parse_id
from retinue.ledger import read_stream
from retinue.runs import commands
from retinue.runs.presenting import RunView, StepView, present, present_state, present_steps
from retinue.runs.rules import Status, fold
from retinue.runs.views import RunRow, find_run, list_runs
from retinue.web import EventView, Page, Router, WantedPage, history, problems, scoped

router = Router(prefix="/v1/my", tags=["runs"], responses=problems(404))


class Cancellation(BaseModel):
    """Why a run is cancelled."""

    model_config = ConfigDict(extra="forbid")
    reason: str = Field(default="", max_length=1000, examples=["asked the wrong thing"])


class Reconciliation(BaseModel):
    """What became of a call that a dead worker left behind."""

    model_config = ConfigDict(extra="forbid")
    call_id: str = Field(max_length=200)
    outcome: Literal["happened", "again", "give_up"]
    result: str | None = Field(default=None, max_length=100_000, description="what the agent is told")


class Steps(BaseModel):
    """All steps of a run."""

    items: list[StepView]


def own(scope: Scope, run: RunRow) -> RunRow:
    """Return a run the caller may see: an own one, or any for managers and admins; others do not exist for them."""
    if run.owner_id != scope.user_id and scope.role not in ("manager", "admin"):
        raise NotFound("run")
    return run


async def _own(scope: Scope, run_id: str) -> RunRow:
    return own(scope, await find_run(scope, parse_id(run_id, "run")))


@router.get("/runs")
async def list_all(
    scope: Annotated[Scope, scoped("runs", "list")],
    page: WantedPage,
    status: Annotated[Status | None, Query(description="only runs of this status")] = None,
    agent: Annotated[UUID | None, Query(description="only runs of this agent")] = None,
    session: Annotated[UUID | None, Query(description="only runs of this session")] = None,
) -> Page[RunView]:
    """List your runs, newest first."""
    before = page.after_one(UUID)
    rows = await list_runs(
        scope,
        scope.owner(),
        before=before,
        limit=page.limit + 1,
        status=status,
        agent_id=agent,
        session_id=session,
    )
    return page.page(rows, present, lambda run: (run.run_id,))


@router.get("/runs/{run_id}")
async def show(
    scope: Annotated[Scope, scoped("runs", "read")],
    run_id: str,
    at: Annotated[int | None, Query(ge=1, le=2**31 - 1, description="as of this version of its stream")] = None,
) -> RunView:
    """Show a run as it is, or as it was."""
    run = await _own(scope, run_id)
    if at is None:
        return present(run)
    state = fold(await read_stream(scope, commands.stream_of(run.run_id), upto=at))
    return present_state(run.run_id, state)


@router.get("/runs/{run_id}/events")
async def events(scope: Annotated[Scope, scoped("runs", "read")], run_id: str, page: WantedPage) -> Page[EventView]:
    """List everything that happened in a run, oldest first."""
    run = await _own(scope, run_id)
    return await history(scope, commands.stream_of(run.run_id), page)


@router.get("/runs/{run_id}/steps")
async def steps(scope: Annotated[Scope, scoped("runs", "read")], run_id: str) -> Steps:
    """List the model and tool calls of a run in order."""
    run = await _own(scope, run_id)
    return Steps(items=present_steps(await commands.load(scope, run.run_id)))


@router.post("/runs/{run_id}/cancel", status_code=202, responses=problems(409))
async def cancel(
    scope: Annotated[Scope, scoped("runs", "cancel")], run_id: str, body: Cancellation | None = None
) -> RunView:
    """End a run. One that a worker has ends within a second."""
    run = await _own(scope, run_id)
    await commands.cancel(scope, run.run_id, body.reason if body else "")
    return present(await find_run(scope, run.run_id))


@router.post("/runs/{run_id}/retry", status_code=202, responses=problems(402, 409, 429))
async def retry(scope: Annotated[Scope, scoped("runs", "retry")], run_id: str) -> RunView:
    """Let an ended run go on from the step it failed at; what is recorded is not done again."""
    run = await _own(scope, run_id)
    await commands.retry(scope, run.run_id)
    return present(await find_run(scope, run.run_id))


@router.post("/runs/{run_id}/reconcile", status_code=202, responses=problems(409))
async def reconcile(scope: Annotated[Scope, scoped("runs", "decide")], run_id: str, body: Reconciliation) -> RunView:
    """Say what became of a call whose outcome is unknown."""
    run = await _own(scope, run_id)
    await commands.reconcile(scope, run.run_id, body.call_id, body.outcome, body.result)
    return present(await find_run(scope, run.run_id))


@router.get("/deadletters", tags=["dead letters"])
async def dead_letters(scope: Annotated[Scope, scoped("deadletters", "list")], page: WantedPage) -> Page[RunView]:
    """List your runs that were put aside after activation upon activation was lost."""
    before = page.after_one(UUID)
    rows = await list_runs(
        scope,
        scope.owner(),
        before=before,
        limit=page.limit + 1,
        status=Status.DEAD_LETTERED,
    )
    return page.page(rows, present, lambda run: (run.run_id,))


@router.post("/deadletters/{run_id}/requeue", status_code=202, tags=["dead letters"], responses=problems(402, 409))
async def requeue(scope: Annotated[Scope, scoped("deadletters", "retry")], run_id: str) -> RunView:
    """Try a dead letter again, from its last recorded step."""
    run = await _own(scope, run_id)
    await commands.retry(scope, run.run_id)
    return present(await find_run(scope, run.run_id))


@router.delete("/deadletters/{run_id}", status_code=204, tags=["dead letters"], responses=problems(409))
async def drop(scope: Annotated[Scope, scoped("deadletters", "delete")], run_id: str) -> None:
    """Give a dead letter up; its events stay."""
    run = await _own(scope, run_id)
    await commands.drop(scope, run.run_id)
