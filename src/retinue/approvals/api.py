"""The doors to HTTP: the inbox, decisions, and the rules learnt from them."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Query, Response

from retinue.approvals import commands, rules, views
from retinue.approvals.rules import Approval, Status
from retinue.approvals.shapes import ApprovalView, NewRuling, RuleView, rule_view, view_of
from retinue.kernel import Fault, Forbidden, Scope, parse_id
from retinue.web import Exchange, Page, Problem, Router, WantedPage, exchange_here, problems, scoped

router = Router(prefix="/v1/my", tags=["approvals"])


@router.get("/approvals")
async def list_all(
    scope: Annotated[Scope, scoped("approvals", "list")],
    page: WantedPage,
    status: Annotated[Status | None, Query(description="only those with this status")] = None,
    run: Annotated[UUID | None, Query(description="only those of this run")] = None,
    plan: Annotated[UUID | None, Query(description="only those of this plan")] = None,
    everyone: Annotated[bool, Query(description="those of all members, for managers and admins")] = False,
) -> Page[ApprovalView]:
    """The inbox: what your runs and plans ask and asked, and what you are named to decide, newest first."""
    if everyone and not rules.sees_everybodys(scope.role):
        raise Forbidden("Only managers and admins see what other members' runs ask. Leave out everyone=true.")
    before = page.after_one(UUID)
    owner = None if everyone else scope.owner()
    found = await views.inbox(
        scope,
        owner,
        status,
        run,
        before,
        page.limit + 1,
        plan_id=plan,
        named=[str(scope.owner()), *rules.roles_of(scope.role)],
    )
    return page.page(found, view_of, lambda approval: (str(approval.approval_id),))


@router.get("/approvals/{approval_id}")
async def show(scope: Annotated[Scope, scoped("approvals", "read")], approval_id: str) -> ApprovalView:
    """One approval: your own, one you are to decide, or, for managers and admins, any of the tenant."""
    return view_of(await commands.find(scope, parse_id(approval_id, "approval")))


@router.post("/approvals/{approval_id}/confirm", responses=problems(409), response_model=ApprovalView)
async def confirm(
    scope: Annotated[Scope, scoped("approvals", "decide")],
    exchange: Annotated[Exchange, Depends(exchange_here)],
    approval_id: str,
    body: NewRuling,
) -> Any:
    """Decide. The first decision stands; a second one, or one that comes too late, is answered with 409."""
    decided: Approval = await commands.decide(scope, parse_id(approval_id, "approval"), body.ruling())
    if decided.status == "expired":
        # The refusal is returned, not raised: the expiry that this late ruling found is to be committed.
        return _refused(rules.already(decided), exchange.trace_id)
    return view_of(decided)


@router.get("/approval-rules")
async def list_rules(scope: Annotated[Scope, scoped("approvals", "list")], page: WantedPage) -> Page[RuleView]:
    """The tools that your agents need not ask for any more, newest first."""
    before = page.after_one(UUID)
    found = await views.learnt(scope, scope.owner(), before, page.limit + 1)
    return page.page(found, rule_view, lambda rule: (str(rule.rule_id),))


@router.delete("/approval-rules/{rule_id}", status_code=204)
async def remove_rule(scope: Annotated[Scope, scoped("approvals", "delete")], rule_id: str) -> Response:
    """Forget a rule: the agent asks again."""
    await commands.remove_rule(scope, parse_id(rule_id, "approval rule"))
    return Response(status_code=204)


def _refused(fault: Fault, trace_id: str) -> Response:
    """Return a fault as the problem document that raising it would make."""
    problem = Problem(
        type=f"urn:retinue:problem:{fault.kind}",
        title=fault.title,
        status=fault.status,
        detail=fault.detail,
        trace_id=trace_id,
        **fault.extra,
    )
    return Response(problem.model_dump_json(exclude_none=True), fault.status, media_type="application/problem+json")
