"""Costs and quotas of operations that are really carried out: bills, reports, the last one of a month, full storage."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from retinue.kernel import new_id
from retinue.operations.events import OperationFailed, OperationRequested, OperationRetried, Usage
from retinue.operations.policy import Limits, OperationPolicy
from retinue.operations.rules import fold
from retinue.operations.running import Running
from tests.metering.support import operator
from tests.operations.support import done, operate, shell, shown, until
from tests.support.databases import Cluster
from tests.support.running import RunningServer, running_server
from tests.support.signing import application_of

BUSY = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"
"""Uses CPU time for some milliseconds."""

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
async def server(postgres: Cluster) -> AsyncIterator[RunningServer]:
    async with running_server(postgres) as found:
        yield found


async def test_the_bills_of_operations_add_up_to_the_reports(server: RunningServer) -> None:
    ada = await server.person()
    operations = [
        await done(ada, f"echo {n} > out.txt; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done") for n in "ab"
    ]
    bills = [Decimal((await shown(ada, one))["bill"]["total"]) for one in operations]
    assert all(bill > 0 for bill in bills)
    for by in ("user", "agent", "application", "day"):
        for path in ("/v1/my/costs", f"/v1/tenants/{ada.tenant_id}/costs"):
            report = await ada.call("GET", path, params={"by": by})
            assert Decimal(report["total"]["cost"]) == sum(bills)
            assert sum(Decimal(item["cost"]) for item in report["items"]) == sum(bills)


async def test_the_bill_follows_the_tenants_own_rates(server: RunningServer) -> None:
    ada = await server.person()
    body = {"cpu_second": "10", "memory_gib_hour": "0", "storage_gib_day": "0"}
    await ada.call("PUT", f"/v1/tenants/{ada.tenant_id}/rates", json=body)
    found = await done(ada, BUSY)
    lines = {line["kind"]: line for line in found["bill"]["lines"]}
    assert Decimal(lines["cpu"]["cost"]) == 10 * Decimal(lines["cpu"]["quantity"])
    assert Decimal(found["bill"]["total"]) == Decimal(lines["cpu"]["cost"])


async def test_of_20_requests_at_once_against_one_left_one_is_accepted(server: RunningServer) -> None:
    ada = await server.person()
    assert (await asyncio.to_thread(operator, server, "tenants", "tier", ada.tenant_id, "free"))[0] == 0
    first = [await operate(ada, "true") for _ in range(9)]
    answers = await asyncio.gather(*(ada.client.post("/v1/operations", json=shell("true")) for _ in range(20)))
    assert sorted(answer.status_code for answer in answers) == [202] + [429] * 19
    refused: dict[str, Any] = next(answer for answer in answers if answer.status_code == 429).json()
    assert refused["type"] == "urn:retinue:problem:quota-exhausted"
    quota = await ada.call("GET", "/v1/my/quota")
    assert quota["operations"] == {"limit": 10, "used": 10, "left": 0}
    assert refused["begins_anew"] == quota["begins_anew"]
    assert refused["begins_anew"] in refused["detail"]
    # What was refused is not there, and what was accepted is carried out.
    listed = await ada.call("GET", "/v1/operations", params={"limit": 200})
    assert len(listed["items"]) == 10
    for one in first:
        await until(ada, one, seconds=60)


async def test_to_try_again_takes_nothing_more_of_the_month(server: RunningServer) -> None:
    ada = await server.person()
    assert (await asyncio.to_thread(operator, server, "tenants", "tier", ada.tenant_id, "free"))[0] == 0
    failed = await done(ada, "exit 1")
    await ada.call("POST", f"/v1/operations/{failed['operation_id']}/retry", 202)
    again = await until(ada, failed, lambda found: found["status"] == "failed" and found["attempt"] == 2)
    assert (await ada.call("GET", "/v1/my/quota"))["operations"]["used"] == 1
    # Both attempts are on the bill.
    assert Decimal(again["bill"]["total"]) > Decimal(failed["bill"]["total"])


async def test_to_try_again_and_again_is_one_more_of_the_months_operations_each_time(server: RunningServer) -> None:
    """It cost nothing: a program that ends with an error at its end could be run without end in the free tier."""
    ada = await server.person()
    assert (await asyncio.to_thread(operator, server, "tenants", "tier", ada.tenant_id, "free"))[0] == 0
    found = await done(ada, "exit 1")
    path = f"/v1/operations/{found['operation_id']}/retry"

    def ended(attempt: int) -> Callable[[dict[str, Any]], bool]:
        return lambda one: one["attempt"] == attempt and one["status"] == "failed"

    for attempt in range(2, 12):
        await ada.call("POST", path, 202)
        await until(ada, found, ended(attempt))
    refused = await ada.call("POST", path, 429)
    assert refused["type"] == "urn:retinue:problem:quota-exhausted"
    assert (await ada.call("GET", "/v1/my/quota"))["operations"]["used"] == 10
    assert (await shown(ada, found))["status"] == "failed"


async def test_storage_that_fills_is_warned_of_on_the_stream(server: RunningServer) -> None:
    ada = await server.person()
    path = f"/v1/tenants/{UUID(ada.tenant_id)}/operations/policy"
    await ada.call("PUT", path, json={"user_storage": 100_000})
    async with ada.stream("?types=quota_warning") as events, asyncio.timeout(60):
        found = await done(ada, "head -c 85000 /dev/zero > big")
        assert found["status"] == "completed", found["detail"]
        warning = (await anext(events))["data"]["payload"]
    assert (warning["notice"], warning["what"], warning["limit"]) == ("warned", "storage", 100_000)
    assert 85_000 <= warning["used"] < 100_000
    quota = await ada.call("GET", "/v1/my/quota")
    assert quota["storage"] == {
        "limit_bytes": 100_000,
        "used_bytes": warning["used"],
        "left_bytes": 100_000 - warning["used"],
    }


async def test_costs_under_a_grant_are_the_applications_and_counted_once_when_tried_again(
    server: RunningServer,
) -> None:
    """A grant whose tries are each charged with the whole bill has paid for the first one twice.

    Nobody named a budget: each try has what is left, or the second one would want more than there is.
    """
    ada = await server.person()
    async with application_of(ada, application='=SUM("A1")', budget="5", uses=3) as application:
        asked = await application.http.post("/v1/operations", json=shell(f"{BUSY}; exit 1"))
        assert asked.status_code == 202, asked.text
        failed = await until(ada, asked.json())
        await ada.call("POST", f"/v1/operations/{failed['operation_id']}/retry", 202)
        again = await until(ada, failed, lambda found: found["status"] == "failed" and found["attempt"] == 2)
        terms = (await application.http.get("/v1/grant")).json()
        assert (await application.http.get("/v1/my/costs")).status_code == 403
    assert Decimal(again["bill"]["total"]) > Decimal(failed["bill"]["total"]) > 0
    assert Decimal(terms["spent"]) == Decimal(again["bill"]["total"])
    report = await ada.call("GET", "/v1/my/costs", params={"by": "application"})
    assert [(item["key"], item["cost"]) for item in report["items"]] == [('=SUM("A1")', again["bill"]["total"])]
    text = (await ada.client.get("/v1/my/costs/export", params={"by": "application"})).text
    assert """"'=SUM(""A1"")",""" in text


@pytest.mark.parametrize("spent, left", [(0, 100), (30, 70), (100, 0), (130, 0)])
def test_an_attempt_that_takes_over_has_what_is_left_of_the_budget(spent: int, left: int) -> None:
    """With the whole budget for each attempt, a worker that dies twice lets an operation spend it three times."""
    requested = SimpleNamespace(budget=100, owner_id=new_id(), application="", model="demo:echo")
    ids = {name: new_id() for name in ("tenant_id", "agent_id", "run_id", "operation_id")}
    state = SimpleNamespace(requested=requested)
    begun = SimpleNamespace(spent=spent, state=state, terms=None, holds=OperationPolicy(), **ids)
    running: Any = SimpleNamespace(_begun=begun)
    _, rules = Running._line(running)
    assert rules.budget == left


def test_what_an_operation_cost_before_it_was_tried_again_is_remembered() -> None:
    def recorded(version: int, fact: Any) -> Any:
        return SimpleNamespace(event=fact, version=version, recorded_at=datetime(2026, 1, 1, tzinfo=UTC))

    requested = OperationRequested(owner_id=new_id(), run_id=new_id(), driver="command", goal="", limits=Limits())
    facts: list[Any] = [requested]
    for cost in (40, 90):
        usage = Usage(cost=cost, model_cost=cost - 10)
        facts.append(OperationFailed(attempt=1, kind="exit_code", detail="", usage=usage))
        facts.append(OperationRetried(run_id=new_id()))
    states = [fold(recorded(n, fact) for n, fact in enumerate(facts[:upto], 1)) for upto in range(1, 6)]
    assert [state.before.cost for state in states] == [0, 0, 40, 40, 90]
    assert [state.before.model_cost for state in states] == [0, 0, 30, 30, 80]
