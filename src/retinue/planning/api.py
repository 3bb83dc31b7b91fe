"""The doors to plans: the graph with its live states, and plans that a caller gives."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import Query, Response

from retinue.kernel import Conflict, NotFound, Scope, parse_id
from retinue.planning import commands
from retinue.planning.assigning import checked_plan
from retinue.planning.giving_up import requeue_plan, state_if_readable
from retinue.planning.policy import change_policy, policy
from retinue.planning.policy_shapes import PolicyView, WantedPolicy
from retinue.planning.presenting import PlanGraph, PlanView, present, present_plan, present_unreadable
from retinue.planning.shapes import MOST_GIVEN, NewCancellation, NewPlan
from retinue.planning.state import PlanStatus
from retinue.planning.suggestions import suggestions
from retinue.planning.views import PlanRow, find_plan, list_plans
from retinue.runs import conversation_of
from retinue.web import EventView, IfMatch, Page, Router, WantedPage, check_match, history, problems, scoped, set_etag

router = Router(prefix="/v1/my/plans", tags=["plans"], responses=problems(404))
policy_router = Router(prefix="/v1/my/planning", tags=["plans"])


async def _own(scope: Scope, plan_id: str) -> PlanRow:
    """Return a plan the caller may see: an own one, or any for managers and admins; others do not exist for them."""
    plan = await find_plan(scope, parse_id(plan_id, "plan"))
    if plan.owner_id != scope.user_id and scope.role not in ("manager", "admin"):
        raise NotFound("plan")
    return plan


@router.get("")
async def list_all(
    scope: Annotated[Scope, scoped("plans", "list")],
    page: WantedPage,
    status: Annotated[PlanStatus | None, Query(description="only plans of this status")] = None,
    session: Annotated[UUID | None, Query(description="only plans of this session")] = None,
) -> Page[PlanView]:
    """List your plans, newest first."""
    before = page.after_one(UUID)
    rows = await list_plans(
        scope,
        scope.owner(),
        before=before,
        limit=page.limit + 1,
        status=status,
        session_id=session,
    )
    return page.page(rows, present, lambda plan: (plan.plan_id,))


@router.get("/{plan_id}")
async def show(
    scope: Annotated[Scope, scoped("plans", "read")],
    plan_id: str,
    at: Annotated[int | None, Query(ge=1, le=2**31 - 1, description="as of this version of its stream")] = None,
) -> PlanGraph:
    """Show a plan's graph as it is, or as it was: nodes and edges for drawing, with what became of each."""
    plan = await _own(scope, plan_id)
    if plan.status is PlanStatus.DEAD_LETTERED and await state_if_readable(scope, plan.plan_id) is None:
        return present_unreadable(plan)
    return present_plan(plan.plan_id, await commands.load_plan(scope, plan.plan_id, at))


@router.get("/{plan_id}/events")
async def events(scope: Annotated[Scope, scoped("plans", "read")], plan_id: str, page: WantedPage) -> Page[EventView]:
    """List everything that happened in a plan, oldest first."""
    plan = await _own(scope, plan_id)
    return await history(scope, commands.stream_of(plan.plan_id), page)


@router.post("", status_code=202)
async def create(scope: Annotated[Scope, scoped("plans", "create")], body: NewPlan) -> PlanView:
    """Have your agents carry out a graph of tasks. What is wrong with it is named for every task at once."""
    if body.session_id is not None:
        await conversation_of(scope).check_owner(scope, body.session_id)
    plan = await checked_plan(scope, body.plan(scope.clock.now()), most=MOST_GIVEN)
    ask = ("you asked to approve it first",) if body.approval else ()
    plan_id = await commands.start_plan(scope, plan, session_id=body.session_id, ask=ask)
    return present(await find_plan(scope, plan_id))


@router.post("/{plan_id}/cancel", status_code=202, responses=problems(409))
async def cancel(
    scope: Annotated[Scope, scoped("plans", "cancel")], plan_id: str, body: NewCancellation | None = None
) -> PlanView:
    """End a plan and everything below it: runs, questions and waits."""
    plan = await _own(scope, plan_id)
    if not await commands.cancel_plan(scope, plan.plan_id, body.reason if body else ""):
        raise Conflict("The plan has ended already.")
    return present(await find_plan(scope, plan.plan_id))


@router.post("/{plan_id}/retry", status_code=202, responses=problems(409))
async def retry(scope: Annotated[Scope, scoped("plans", "retry")], plan_id: str) -> PlanView:
    """Try again what failed in a plan that has ended, and what was left out because of it; the rest stays done."""
    plan = await _own(scope, plan_id)
    await commands.retry_plan(scope, plan.plan_id)
    return present(await find_plan(scope, plan.plan_id))


@router.post("/{plan_id}/requeue", status_code=202, responses=problems(409))
async def requeue(scope: Annotated[Scope, scoped("plans", "retry")], plan_id: str) -> PlanView:
    """Have a plan that was put aside, because look after look at it failed, go on from where it was."""
    plan = await _own(scope, plan_id)
    await requeue_plan(scope, plan.plan_id)
    return present(await find_plan(scope, plan.plan_id))


@policy_router.get("/policy")
async def show_policy(scope: Annotated[Scope, scoped("plans", "read")], response: Response) -> PolicyView:
    """What holds for the tenant's plans: the time for planning, and when a person is asked."""
    return await _shown(scope, response)


@policy_router.put("/policy", responses=problems(412))
async def put_policy(
    scope: Annotated[Scope, scoped("plans", "change")], if_match: IfMatch, response: Response, body: WantedPolicy
) -> PolicyView:
    """Let another policy hold for plans from now on; fields that are left out get their defaults."""
    found, version = await policy(scope)
    check_match(if_match, version, lambda: PolicyView.of(found, version).model_dump(mode="json"))
    await change_policy(scope, body.policy(), version)
    return await _shown(scope, response)


async def _shown(scope: Scope, response: Response) -> PolicyView:
    found, version = await policy(scope)
    set_etag(response, version)
    return PolicyView.of(found, version, await suggestions(scope, found))
