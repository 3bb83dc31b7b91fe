"""The doors to HTTP: the tenant's budget, those of your agents, and what you used."""

from __future__ import annotations

from datetime import UTC, date
from typing import Annotated
from uuid import UUID

from fastapi import Path, Query, Response

from retinue.kernel import BadInput, Scope
from retinue.metering import commands, shapes, views
from retinue.metering.commands import AgentDirectory
from retinue.metering.rules import start_of
from retinue.metering.shapes import BudgetView, DayView, NewBudget, UsageView
from retinue.web import IfMatch, Page, Router, WantedPage, check_match, problems, scoped, set_etag

of_tenants = Router(prefix="/v1/tenants", tags=["metering"])
mine = Router(prefix="/v1/my", tags=["metering"])

TenantId = Annotated[UUID, Path(description="the tenant; the caller must be a member")]
Reference = Annotated[str, Path(description="the agent's id or name")]

_DEFAULT_DAYS = 30
_MOST_DAYS = 366


@of_tenants.get("/{tenant_id}/budget")
async def read_tenant_budget(
    scope: Annotated[Scope, scoped("budgets", "read")], tenant_id: TenantId, response: Response
) -> BudgetView:
    """Show the limit of all that the tenant's agents spend together, and what they spent."""
    return await _shown(scope, tenant_id, response)


@of_tenants.put("/{tenant_id}/budget", responses=problems(409, 412))
async def set_tenant_budget(
    scope: Annotated[Scope, scoped("budgets", "change")],
    tenant_id: TenantId,
    if_match: IfMatch,
    response: Response,
    body: NewBudget,
) -> BudgetView:
    """Limit what the tenant's agents spend together. Model calls that do not fit any more are refused with 402."""
    return await _changed(scope, tenant_id, if_match, body, response)


@mine.get("/agents/{agent}/budget")
async def read_agent_budget(
    scope: Annotated[Scope, scoped("agents", "read")], agent: Reference, response: Response
) -> BudgetView:
    """Show the limit of all that one of your agents spends, over all its runs, and what it spent."""
    return await _shown(scope, await _agent(scope, agent), response)


@mine.put("/agents/{agent}/budget", responses=problems(409, 412))
async def set_agent_budget(
    scope: Annotated[Scope, scoped("agents", "change")],
    agent: Reference,
    if_match: IfMatch,
    response: Response,
    body: NewBudget,
) -> BudgetView:
    """Limit what one of your agents spends over all its runs; the tenant's budget still holds besides."""
    return await _changed(scope, await _agent(scope, agent), if_match, body, response)


@mine.delete("/agents/{agent}/budget", status_code=204, responses=problems(409))
async def remove_agent_budget(scope: Annotated[Scope, scoped("agents", "change")], agent: Reference) -> None:
    """Take the agent's budget away, if it has one."""
    await commands.remove_budget(scope, await _agent(scope, agent))


@mine.get("/usage")
async def read_usage(
    scope: Annotated[Scope, scoped("metrics", "read")],
    page: WantedPage,
    first: Annotated[date | None, Query(alias="from", description="first day (UTC), 30 days ago by default")] = None,
    last: Annotated[date | None, Query(alias="to", description="last day (UTC), today by default")] = None,
) -> UsageView:
    """What your runs used, by day, agent and model, the newest first; and in all."""
    last = last or scope.clock.now().astimezone(UTC).date()
    first = first or date.fromordinal(max(1, last.toordinal() - _DEFAULT_DAYS))
    if not 0 <= (last - first).days < _MOST_DAYS:
        raise BadInput(f"from: at most {_MOST_DAYS} days, and not after `to`.", field="from")
    after = page.after(str, UUID, str)
    rows = await views.days_of_use(scope, scope.owner(), first, last, _place(after), page.limit + 1)
    found: Page[DayView] = page.page(
        rows, shapes.day_view, lambda row: (row.day.isoformat(), str(row.agent_id), row.model)
    )
    total = await views.used_by(scope, scope.owner(), first, last)
    return UsageView(
        first_day=first,
        last_day=last,
        total=shapes.totals(total),
        items=found.items,
        next_cursor=found.next_cursor,
    )


def _place(after: tuple[str, UUID, str] | None) -> tuple[date, UUID, str] | None:
    if after is None:
        return None
    try:
        return date.fromisoformat(after[0]), after[1], after[2]
    except ValueError:
        raise BadInput("This cursor does not belong to this list. Start again without it.", field="cursor") from None


async def _agent(scope: Scope, reference: str) -> UUID:
    return await scope.service(AgentDirectory).find(scope, reference)


async def _shown(scope: Scope, subject: UUID, response: Response) -> BudgetView:
    budget = await views.budget_for(scope, subject)
    set_etag(response, budget.revision if budget else await views.revision(scope, subject))
    if budget is not None:
        return shapes.budget_view(budget)
    month = start_of("month", scope.clock.now())
    used = await views.used_since(scope, subject, month)
    return shapes.unlimited_view(used, month, views.assumed_price(scope))


async def _changed(
    scope: Scope, subject: UUID, if_match: int | None, body: NewBudget, response: Response
) -> BudgetView:
    limit = body.limit_nanos()
    if if_match is not None:
        present = await _shown(scope, subject, response)
        check_match(if_match, await views.revision(scope, subject), lambda: present.model_dump(mode="json"))
    if limit is None:
        await commands.remove_budget(scope, subject)
    else:
        await commands.set_budget(scope, subject, limit, body.period)
    return await _shown(scope, subject, response)
