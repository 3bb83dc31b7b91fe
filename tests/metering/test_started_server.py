"""Budgets on a started server: warnings on the live stream, and a worker that dies in the middle of a call."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from tests.support.databases import Cluster
from tests.support.model_server import ModelServer
from tests.support.running import Person, running_server

PRICED = "openai:gpt-4o-mini"  # 0.15 and 0.60 dollars for a million tokens


async def budget(person: Person) -> dict[str, Any]:
    found: dict[str, Any] = await person.call("GET", f"/v1/tenants/{person.tenant_id}/budget")
    return found


@pytest.mark.fault
async def test_a_budget_is_right_after_a_worker_died_in_a_call_and_warns_on_the_stream(postgres: Cluster) -> None:
    async with (
        ModelServer() as model,
        running_server(postgres, worker=False, OPENAI_BASE_URL=model.base_url, OPENAI_API_KEY="stub-key") as server,
    ):
        first = server.start_worker()
        ada = await server.person()
        agent = await ada.agent(model=PRICED, max_tokens=1000)
        await ada.call(
            "PUT", f"/v1/tenants/{ada.tenant_id}/budget", json={"limit": "0.001", "period": "month"}
        )  # room for one call at a time: each reserves a little more than 0.0006
        hold = f"hold{uuid4().hex[:8]}"
        async with ada.stream("?types=budget_warning") as events:
            accepted = await ada.send(agent, f"!hold {hold}\n!usage 1000 1200\n!say after all")
            await model.wait_for_requests(1, timeout=60, contains=hold)
            reserved = Decimal((await budget(ada))["reserved"])
            assert reserved >= Decimal("0.0006")
            first.kill()
            server.start_worker()
            await model.wait_for_requests(2, timeout=60, contains=hold)
            assert Decimal((await budget(ada))["reserved"]) == reserved
            model.release(hold)
            assert (await ada.until(accepted["run_id"], seconds=60))["status"] == "completed"
            async with asyncio.timeout(20):
                warning = await anext(events)
        after = await budget(ada)
        assert (after["spent"], after["reserved"]) == ("0.00087", "0")
        assert warning["data"]["payload"] == {
            "notice": "warned",
            "subject": ada.tenant_id,
            "limit": "0.001",
            "spent": "0.00087",
            "period": "month",
        }


async def test_a_run_that_has_ended_leaves_no_row_of_what_it_held(postgres: Cluster) -> None:
    async with (
        ModelServer() as model,
        running_server(postgres, OPENAI_BASE_URL=model.base_url, OPENAI_API_KEY="stub-key") as server,
    ):
        ada = await server.person()
        agent = await ada.agent(model=PRICED, max_tokens=1000)
        limit = {"limit": "5", "period": "month"}
        hold = f"hold{uuid4().hex[:8]}"
        accepted = await ada.send(agent, f"!hold {hold}\n!usage 1000 1200\n!say one")
        await model.wait_for_requests(1, timeout=60, contains=hold)
        await ada.call("PUT", f"/v1/tenants/{ada.tenant_id}/budget", json=limit)  # while the call is under way
        model.release(hold)
        assert (await ada.until(accepted["run_id"], seconds=60))["status"] == "completed"
        assert (await ada.ask(agent, "!usage 1000 1200\n!say two"))["run"]["status"] == "completed"
        assert (await budget(ada))["spent"] == "0.00174"
        assert server.database is not None
        connection = await asyncpg.connect(postgres.dsn(server.database, "postgres"))
        try:
            left = await connection.fetch("SELECT run_id, step, amount, settled FROM reservations")
        finally:
            await connection.close()
        assert left == []
