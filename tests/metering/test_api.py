"""Budgets and usage over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from retinue import agents
from retinue.agents.room import ROOM as AGENTS
from retinue.database import Database
from retinue.identity.room import ROOM as IDENTITY
from retinue.kernel import ManualClock, Scope, Settings, new_id
from retinue.metering import AgentDirectory
from retinue.metering.room import ROOM as METERING
from retinue.tenancy.room import ROOM as TENANCY
from retinue.tools import Toolbox
from retinue.vault.room import ROOM as VAULT
from tests.metering.support import DOLLAR, Spender
from tests.support.databases import Cluster
from tests.support.site import Account, Site, open_site


@pytest.fixture(scope="module")
async def site(postgres: Cluster, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """The application with agents and metering, on a database of its own."""
    name = await postgres.clone()
    database = Database(postgres.dsn(name), size=8)
    await database.open()
    data: Path = tmp_path_factory.mktemp("data")
    async with open_site(database, data, (VAULT, IDENTITY, TENANCY, AGENTS, METERING)) as found:
        toolbox = found.services.add(Toolbox, Toolbox(found.services.get(Settings)))
        found.services.add(AgentDirectory, AgentDirectory(_agent_id, agents.names))
        yield found
        await toolbox.close()
    await database.close()
    await postgres.drop(name)


async def _agent_id(scope: Scope, reference: str) -> UUID:
    return (await agents.find(scope, reference)).agent_id


@dataclass
class Owner:
    """Somebody who signed up, with one agent whose calls the test settles."""

    account: Account
    spender: Spender

    @property
    def tenant_budget(self) -> str:
        return f"/v1/tenants/{self.account.tenant_id}/budget"

    async def call(self, method: str, path: str, expected: int, **request: Any) -> Any:
        response = await self.account.client.request(method, path, **request)
        assert response.status_code == expected, response.text
        return response.json() if response.content else None


@pytest.fixture
async def owner(site: Site) -> Owner:
    account = await site.sign_up()
    made = await account.client.post("/v1/my/agents", json={"name": "Ada"})
    assert made.status_code == 201, made.text
    agent = UUID(made.json()["agent_id"])
    return Owner(account, Spender(site.services, site.clock, account.tenant_id, account.user_id, agent))


async def test_a_tenants_budget_is_set_shown_and_taken_away(owner: Owner) -> None:
    none = await owner.call("GET", owner.tenant_budget, 200)
    assert (none["limit"], none["spent"], none["left"]) == (None, "0", None)
    set_ = await owner.call("PUT", owner.tenant_budget, 200, json={"limit": "12.50", "period": "month"})
    assert (set_["limit"], set_["period"], set_["left"]) == ("12.5", "month", "12.5")
    await owner.spender.reserve(new_id(), 2 * DOLLAR)
    await owner.spender.settle(new_id(), DOLLAR)
    shown = await owner.call("GET", owner.tenant_budget, 200)
    assert (shown["spent"], shown["reserved"], shown["left"]) == ("1", "2", "9.5")
    gone = await owner.call("PUT", owner.tenant_budget, 200, json={"limit": None})
    assert (gone["limit"], gone["spent"], gone["reserved"]) == (None, "1", "0")


@pytest.mark.parametrize("reference", ["id", "Ada", "ada"])
async def test_an_agents_budget_is_named_by_id_or_name(owner: Owner, reference: str) -> None:
    path = f"/v1/my/agents/{owner.spender.agent if reference == 'id' else reference}/budget"
    await owner.call("PUT", path, 200, json={"limit": "0.000000001", "period": "total"})
    shown = await owner.call("GET", path, 200)
    assert (shown["limit"], shown["period"], shown["since"]) == ("0.000000001", "total", None)
    await owner.call("DELETE", path, 204)
    await owner.call("DELETE", path, 204)
    assert (await owner.call("GET", path, 200))["limit"] is None


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"limit": 5},
        {"limit": "-1"},
        {"limit": "1e3"},
        {"limit": "0.0000000001"},
        {"limit": "NaN"},
        {"limit": ""},
        {"limit": "1000000001"},
        {"limit": "1", "period": "week"},
        {"limit": "1", "more": 1},
    ],
    ids=str,
)
async def test_what_is_no_budget_is_refused(owner: Owner, body: dict[str, Any]) -> None:
    await owner.call("PUT", owner.tenant_budget, 422, json=body)
    assert (await owner.call("GET", owner.tenant_budget, 200))["limit"] is None


async def test_a_change_based_on_an_old_version_is_refused(owner: Owner) -> None:
    first = await owner.account.client.put(owner.tenant_budget, json={"limit": "1"})
    await owner.call("PUT", owner.tenant_budget, 200, json={"limit": "2"}, headers={"If-Match": first.headers["ETag"]})
    stale = await owner.call(
        "PUT", owner.tenant_budget, 412, json={"limit": "3"}, headers={"If-Match": first.headers["ETag"]}
    )
    assert stale["current"]["limit"] == "2"


async def test_strangers_see_and_change_nothing(owner: Owner, site: Site) -> None:
    stranger = await site.sign_up()
    for path in (owner.tenant_budget, f"/v1/my/agents/{owner.spender.agent}/budget"):
        assert (await stranger.client.get(path)).status_code == 404
        assert (await stranger.client.put(path, json={"limit": "0"})).status_code == 404
        assert (await site.client.get(path)).status_code == 401
    assert (await stranger.client.delete(f"/v1/my/agents/{owner.spender.agent}/budget")).status_code == 404
    await owner.spender.settle(new_id(), DOLLAR)
    usage = (await stranger.client.get("/v1/my/usage")).json()
    assert (usage["items"], usage["total"]["calls"]) == ([], 0)


async def test_members_see_the_tenants_budget_and_managers_set_it(owner: Owner, site: Site) -> None:
    made = await owner.call("POST", "/v1/tenants", 201, json={"name": "Acme"})
    path = f"/v1/tenants/{made['tenant_id']}"
    other = await site.sign_up()
    for role, status in (("viewer", 403), ("member", 403), ("manager", 200)):
        await owner.call("PUT", f"{path}/members", 200, json={"user_id": str(other.user_id), "role": role})
        assert (await other.client.get(f"{path}/budget")).status_code == 200
        assert (await other.client.put(f"{path}/budget", json={"limit": "1"})).status_code == status


async def test_usage_adds_up_by_day_agent_and_model(owner: Owner, site: Site) -> None:
    owner.spender.clock = ManualClock(site.clock.now() - timedelta(days=1))
    await owner.spender.settle(new_id(), DOLLAR, model="openai:a")
    await owner.spender.settle(new_id(), None, model="openai:b")
    owner.spender.clock = site.clock
    await owner.spender.settle(new_id(), DOLLAR // 2, model="openai:a")
    seen: list[dict[str, Any]] = []
    query: dict[str, Any] = {"limit": 1}
    while True:
        page = await owner.call("GET", "/v1/my/usage", 200, params=query)
        seen += page["items"]
        assert page["total"]["cost"] == {"amount": "1.5", "currency": "USD", "unpriced_calls": 1}
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    today, yesterday = site.clock.now().date(), site.clock.now().date() - timedelta(days=1)
    assert [(item["day"], item["model"], item["cost"]["amount"], item["cost"]["unpriced_calls"]) for item in seen] == [
        (str(today), "openai:a", "0.5", 0),
        (str(yesterday), "openai:b", "0", 1),
        (str(yesterday), "openai:a", "1", 0),
    ]
    assert {item["agent_id"] for item in seen} == {str(owner.spender.agent)}
    one_day = await owner.call("GET", "/v1/my/usage", 200, params={"from": str(today), "to": str(today)})
    assert (one_day["total"]["calls"], one_day["total"]["input_tokens"]) == (1, 100)


@pytest.mark.parametrize(
    "query, status",
    [
        ({"from": "2026-02-01", "to": "2026-01-01"}, 422),
        ({"from": "2024-01-01", "to": "2026-01-01"}, 422),
        ({"from": "yesterday"}, 422),
        ({"cursor": "bm9uc2Vuc2U"}, 422),
        ({"cursor": "WyJ4IiwiMDAwMDAwMDAtMDAwMC0wMDAwLTAwMDAtMDAwMDAwMDAwMDAwIiwibSJd"}, 422),
        ({"to": "0001-01-01"}, 200),
        ({"from": "9999-01-01", "to": "9999-12-31"}, 200),
        ({"from": "9999-12-31"}, 422),
    ],
    ids=str,
)
async def test_odd_spans_of_usage_never_break_the_server(owner: Owner, query: dict[str, str], status: int) -> None:
    await owner.call("GET", "/v1/my/usage", status, params=query)


async def test_an_unknown_agent_has_no_budget(owner: Owner) -> None:
    for reference in (uuid4(), "Nobody", "%20", "x" * 300):
        await owner.call("GET", f"/v1/my/agents/{reference}/budget", 404)
