"""The doors to HTTP: budgets, usage, costs, rates and quotas, of a tenant and of your own."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date
from typing import Annotated
from uuid import UUID

from fastapi import Path, Query, Response
from fastapi.responses import StreamingResponse

from retinue.kernel import BadInput, Scope
from retinue.metering import commands, cost_shapes, naming, pricing, quotas, reports, shapes, views
from retinue.metering.commands import AgentDirectory
from retinue.metering.cost_shapes import (
    CostsView,
    CostView,
    NewRates,
    QuotaView,
    RatesView,
    TenantQuotaView,
    UserQuota,
)
from retinue.metering.reports import By, Span, Spent
from retinue.metering.rules import start_of
from retinue.metering.shapes import BudgetView, DayView, NewBudget, UsageView
from retinue.web import (
    CSV,
    IfMatch,
    Page,
    Paging,
    Router,
    WantedPage,
    check_match,
    csv_of,
    csv_response,
    problems,
    scoped,
    set_etag,
)

of_tenants = Router(prefix="/v1/tenants", tags=["metering"])
mine = Router(prefix="/v1/my", tags=["metering"])

TenantId = Annotated[UUID, Path(description="the tenant; the caller must be a member")]
Reference = Annotated[str, Path(description="the agent's id or name")]

First = Annotated[date | None, Query(alias="from", description="first day (UTC), 30 days ago by default")]
Last = Annotated[date | None, Query(alias="to", description="last day (UTC), today by default")]
Grouped = Annotated[By, Query(description="what to sum by")]

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
    first: First = None,
    last: Last = None,
) -> UsageView:
    """What your runs used, by day, agent and model, the newest first; and in all."""
    first, last = _days(scope, first, last)
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


# Costs


@of_tenants.get("/{tenant_id}/costs")
async def read_tenant_costs(
    scope: Annotated[Scope, scoped("costs", "list")],
    tenant_id: TenantId,
    page: WantedPage,
    by: Grouped = "day",
    first: First = None,
    last: Last = None,
) -> CostsView:
    """What everybody's work in the tenant cost, by user, agent, application or day."""
    return await _costs(scope, by, Span(*_days(scope, first, last)), page)


@of_tenants.get("/{tenant_id}/costs/export", response_class=StreamingResponse, responses=CSV)
async def export_tenant_costs(
    scope: Annotated[Scope, scoped("costs", "export")],
    tenant_id: TenantId,
    by: Grouped = "day",
    first: First = None,
    last: Last = None,
) -> StreamingResponse:
    """The tenant's costs as CSV. Cells that a spreadsheet would take for formulas get an apostrophe before them."""
    return _exported(scope, by, Span(*_days(scope, first, last)))


@mine.get("/costs")
async def read_costs(
    scope: Annotated[Scope, scoped("costs", "read")],
    page: WantedPage,
    by: Grouped = "day",
    first: First = None,
    last: Last = None,
) -> CostsView:
    """What your own work cost, by agent, application or day."""
    return await _costs(scope, by, Span(*_days(scope, first, last), scope.owner()), page)


@mine.get("/costs/export", response_class=StreamingResponse, responses=CSV)
async def export_costs(
    scope: Annotated[Scope, scoped("costs", "read")], by: Grouped = "day", first: First = None, last: Last = None
) -> StreamingResponse:
    """Your own costs as CSV. Cells that a spreadsheet would take for formulas get an apostrophe before them."""
    return _exported(scope, by, Span(*_days(scope, first, last), scope.owner()))


@of_tenants.get("/{tenant_id}/rates")
async def read_rates(
    scope: Annotated[Scope, scoped("costs", "read")], tenant_id: TenantId, response: Response
) -> RatesView:
    """Show what work costs in the tenant besides the models' own prices."""
    return await _rates(scope, response)


@of_tenants.put("/{tenant_id}/rates", responses=problems(409, 412))
async def set_rates(
    scope: Annotated[Scope, scoped("costs", "change")],
    tenant_id: TenantId,
    if_match: IfMatch,
    response: Response,
    body: NewRates,
) -> RatesView:
    """Set what work costs in the tenant from now on. A rate that is left out is the server's again."""
    wanted = body.own()
    if if_match is not None:
        present = await _rates(scope, response)
        check_match(if_match, (await pricing.own_rates(scope)).revision, lambda: present.model_dump(mode="json"))
    await pricing.set_rates(scope, wanted)
    return await _rates(scope, response)


@mine.get("/quota")
async def read_quota(scope: Annotated[Scope, scoped("costs", "read")]) -> QuotaView:
    """Show what the tenant's tier gives you, and how far you have used it this month."""
    owner = scope.owner()
    quota, tier = await quotas.quota_of(scope, owner), await quotas.tier_of(scope)
    return cost_shapes.quota_view(quota, tier, await quotas.storage_of(scope, owner))


@of_tenants.get("/{tenant_id}/quota")
async def read_tenant_quota(
    scope: Annotated[Scope, scoped("costs", "list")], tenant_id: TenantId, page: WantedPage
) -> TenantQuotaView:
    """Show the tenant's tier, what it gives each user, and how far users have used it this month, by user id."""
    after = page.after_one(UUID)
    tier = await quotas.tier_of(scope)
    rows = await quotas.quotas(scope, after, page.limit + 1)
    names = await naming.names_of(scope, "user", [str(quota.user_id) for quota in rows])
    found: Page[UserQuota] = page.page(
        rows,
        lambda quota: cost_shapes.user_quota(quota, tier, names.get(str(quota.user_id))),
        lambda quota: (quota.user_id,),
    )
    return cost_shapes.tenant_quota_view(tier, scope.clock.now(), found.items, found.next_cursor)


def _days(scope: Scope, first: date | None, last: date | None) -> tuple[date, date]:
    last = last or scope.clock.now().astimezone(UTC).date()
    first = first or date.fromordinal(max(1, last.toordinal() - _DEFAULT_DAYS))
    if not 0 <= (last - first).days < _MOST_DAYS:
        raise BadInput(f"from: at most {_MOST_DAYS} days, and not after `to`.", field="from")
    return first, last


async def _costs(scope: Scope, by: By, span: Span, page: Paging) -> CostsView:
    after = page.after_one(str)
    rows = await reports.spent_by(scope, by, span, after, page.limit + 1)
    names = await naming.names_of(scope, by, [spent.key for spent in rows])
    found: Page[CostView] = page.page(
        rows, lambda spent: cost_shapes.cost_view(spent, names.get(spent.key)), lambda spent: (spent.key,)
    )
    return CostsView(
        by=by,
        first_day=span.first,
        last_day=span.last,
        total=cost_shapes.spent_view(await reports.spent_in_all(scope, span)),
        items=found.items,
        next_cursor=found.next_cursor,
    )


def _exported(scope: Scope, by: By, span: Span) -> StreamingResponse:
    named = by in naming.NAMED

    async def page(within: Scope, after: str | None, limit: int) -> Sequence[tuple[Spent, str]]:
        rows = await reports.spent_by(within, by, span, after, limit)
        names = await naming.names_of(within, by, [spent.key for spent in rows])
        return [(spent, names.get(spent.key, "")) for spent in rows]

    def row(one: tuple[Spent, str]) -> list[str]:
        spent, name = one
        return [spent.key, *([name] if named else []), *cost_shapes.cells(spent)]

    keys = (by, f"{by}_name") if named else (by,)
    rows = csv_of(scope, (*keys, *cost_shapes.CSV_COLUMNS), page, row=row, place=lambda one: one[0].key)
    return csv_response(rows, f"costs-by-{by}.csv")


async def _rates(scope: Scope, response: Response) -> RatesView:
    own = await pricing.own_rates(scope)
    set_etag(response, own.revision)
    return cost_shapes.rates_view(own, pricing.server_rates(scope))


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
