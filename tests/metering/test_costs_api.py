"""Costs, rates and quotas over HTTP: reports in pages and as CSV, and who may see and set what."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from retinue import agents, metering
from retinue.agents import AgentDefinition
from retinue.agents.room import ROOM as AGENTS
from retinue.database import Database
from retinue.identity.room import ROOM as IDENTITY
from retinue.kernel import ManualClock, Scope, Settings, new_id
from retinue.metering import AgentDirectory, Charge, quotas
from retinue.metering.events import TierName
from retinue.metering.room import ROOM as METERING
from retinue.metering.tiers import Storage
from retinue.tenancy.room import ROOM as TENANCY
from retinue.tools import Toolbox
from retinue.vault.room import ROOM as VAULT
from tests.support.databases import Cluster
from tests.support.scopes import scope_of
from tests.support.site import Account, Site, open_site

GIB = 1 << 30
HOSTILE = [
    '=HYPERLINK("http://evil","x")',
    "+1",
    "-1+1",
    "@SUM(A1)",
    "\ttab",
    "\rreturn",
    "\nline",
    'quo"te, comma; semicolon',
    "two\r\nlines",
    "🐴" * 200,
    "名前",
]


@pytest.fixture(scope="module")
async def site(postgres: Cluster, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """The application with metering, on a database of its own."""
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
class Firm:
    """An organisation with somebody in each role; admin is who made it."""

    site: Site
    tenant: UUID
    people: dict[str, Account]
    clock: ManualClock = field(init=False)

    def __post_init__(self) -> None:
        self.clock = ManualClock(self.site.clock.now())

    @property
    def path(self) -> str:
        return f"/v1/tenants/{self.tenant}"

    async def call(self, role: str, method: str, path: str, expected: int = 200, **request: Any) -> Any:
        headers = {"Retinue-Tenant": str(self.tenant)} | request.pop("headers", {})
        response = await self.people[role].client.request(method, path, headers=headers, **request)
        assert response.status_code == expected, response.text
        if response.content and "json" in response.headers.get("content-type", ""):
            return response.json()
        return response.text

    async def use(self, role: str, seconds: float, **more: Any) -> None:
        user = self.people[role].user_id
        said: dict[str, Any] = {"kind": "cpu", "key": str(uuid4()), "user_id": user, "operation_id": new_id()}
        async with scope_of(self.site.services, self.tenant, user_id=user, clock=self.clock) as scope:
            await metering.charge(scope, [Charge(**said | {"quantity": seconds} | more)])

    async def agent(self, role: str, name: str) -> UUID:
        """Make an agent of somebody; ``tenant`` for the tenant's own."""
        owner = self.tenant if role == "tenant" else self.people[role].user_id
        async with scope_of(self.site.services, self.tenant, user_id=owner, clock=self.clock) as scope:
            return (await agents.create(scope, AgentDefinition(name=name))).agent_id

    async def put_into(self, tier: TierName) -> None:
        async with scope_of(self.site.services, self.tenant, clock=self.clock) as scope:
            await quotas.set_tier(scope, tier)

    async def begin(self, role: str, count: int = 1) -> None:
        user = self.people[role].user_id
        for _ in range(count):
            async with scope_of(self.site.services, self.tenant, user_id=user, clock=self.clock) as scope:
                await metering.count_operation(scope, user, new_id())

    async def table(self, role: str, path: str, **query: str) -> list[dict[str, str]]:
        text = await self.call(role, "GET", path, params=query)
        return list(csv.DictReader(io.StringIO(text, newline="")))


@pytest.fixture
async def firm(site: Site) -> Firm:
    people = {role: await site.sign_up() for role in ("admin", "manager", "member", "viewer", "stranger")}
    made = await people["admin"].client.post("/v1/tenants", json={"name": "Acme"})
    tenant = made.json()["tenant_id"]
    for role in ("manager", "member", "viewer"):
        body = {"user_id": str(people[role].user_id), "role": role}
        answer = await people["admin"].client.put(f"/v1/tenants/{tenant}/members", json=body)
        assert answer.status_code == 200, answer.text
    return Firm(site, UUID(tenant), people)


async def test_a_report_names_quantities_units_and_costs(firm: Firm) -> None:
    await firm.use("member", 10)
    await firm.use("member", 2 * GIB * 1800, kind="memory")
    await firm.use("member", GIB * 43_200, kind="storage")
    report = await firm.call("manager", "GET", f"{firm.path}/costs")
    today = str(firm.clock.now().date())
    spent = {
        "cpu": {"quantity": "10", "unit": "second", "cost": "0.0015"},
        "memory": {"quantity": "1", "unit": "GiB-hour", "cost": "0.03"},
        "storage": {"quantity": "0.5", "unit": "GiB-day", "cost": "0.0015"},
        "models": {"quantity": "0", "unit": "call", "cost": "0"},
        "unpriced_calls": 0,
        "cost": "0.033",
    }
    assert report["items"] == [{"key": today, "name": None, **spent}]
    assert report["total"] == spent
    assert (report["by"], report["last_day"], report["next_cursor"]) == ("day", today, None)


async def test_managers_see_everybodys_costs_and_everybody_their_own(firm: Firm) -> None:
    await firm.use("member", 10)
    await firm.use("viewer", 20)
    by_user = await firm.call("manager", "GET", f"{firm.path}/costs", params={"by": "user"})
    seen = {item["key"]: item["cpu"]["quantity"] for item in by_user["items"]}
    assert seen == {str(firm.people["member"].user_id): "10", str(firm.people["viewer"].user_id): "20"}
    for role, quantity in (("member", "10"), ("viewer", "20"), ("manager", "0")):
        own = await firm.call(role, "GET", "/v1/my/costs", params={"by": "user"})
        assert own["total"]["cpu"]["quantity"] == quantity
        assert [item["key"] for item in own["items"]] in ([], [str(firm.people[role].user_id)])
        rows = await firm.table(role, "/v1/my/costs/export", by="user")
        assert [row["cpu_seconds"] for row in rows] == ([] if quantity == "0" else [quantity])
    for path in ("/costs", "/costs/export", "/quota"):
        for role, status in (("member", 403), ("viewer", 403), ("stranger", 404), ("manager", 200), ("admin", 200)):
            await firm.call(role, "GET", firm.path + path, status)


async def test_pages_of_a_report_have_every_application_once_whatever_its_name(firm: Firm) -> None:
    for n, name in enumerate(HOSTILE):
        await firm.use("member", n + 1, application=name)
    await firm.use("member", 100)
    seen: dict[str, str] = {}
    query: dict[str, Any] = {"by": "application", "limit": 1}
    while True:
        page = await firm.call("admin", "GET", f"{firm.path}/costs", params=query)
        assert not seen.keys() & {item["key"] for item in page["items"]}
        seen |= {item["key"]: item["cpu"]["quantity"] for item in page["items"]}
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    assert seen == {name: str(n + 1) for n, name in enumerate(HOSTILE)} | {"": "100"}


async def test_csv_of_hostile_names_holds_no_formula_and_is_read_back_whole(firm: Firm) -> None:
    for n, name in enumerate(HOSTILE):
        await firm.use("member", n + 1, application=name)
    answer = await firm.people["admin"].client.get(f"{firm.path}/costs/export", params={"by": "application"})
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == 'attachment; filename="costs-by-application.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.text, newline="")))
    assert {row["application"].removeprefix("'"): row["cpu_seconds"] for row in rows} == {
        name: str(n + 1) for n, name in enumerate(HOSTILE)
    }
    cells = [cell for row in rows for cell in row.values()]
    assert not [cell for cell in cells if cell[:1] in ("=", "+", "-", "@", "\t", "\r", "\n")]
    assert sum(Decimal(row["cost"]) for row in rows) == Decimal("0.00015") * sum(range(len(HOSTILE) + 1))


async def test_csv_of_many_pages_has_every_row_once(firm: Firm) -> None:
    async with scope_of(firm.site.services, firm.tenant) as scope:
        await _many(scope, 1600)
    rows = await firm.table("manager", f"{firm.path}/costs/export", by="application")
    assert [row["application"] for row in rows] == [f"application {n:05}" for n in range(1600)]


async def _many(scope: Scope, count: int) -> None:
    await scope.queries.execute(
        "INSERT INTO charges (tenant_id, kind, key, operation_id, day, user_id, agent_id, application, quantity, cost) "
        "SELECT $1, 'cpu', n::text, NULL, $2, $1, NULL, 'application ' || lpad(n::text, 5, '0'), n, n "
        "FROM generate_series(0, $3 - 1) AS n",
        scope.tenant_id,
        scope.clock.now().date(),
        count,
    )


@pytest.mark.parametrize("path", ["/costs", "/costs/export"])
@pytest.mark.parametrize(
    "query",
    [
        {"by": "tenant"},
        {"by": "user; DROP TABLE charges"},
        {"from": "2026-02-01", "to": "2026-01-01"},
        {"from": "2024-01-01", "to": "2026-01-01"},
        {"from": "yesterday"},
    ],
    ids=str,
)
async def test_odd_reports_are_refused(firm: Firm, path: str, query: dict[str, str]) -> None:
    await firm.call("admin", "GET", firm.path + path, 422, params=query)


async def test_a_cursor_of_another_list_is_refused(firm: Firm) -> None:
    for cursor in ("nonsense", "WzFd", "WyJhIiwiYiJd"):
        await firm.call("admin", "GET", f"{firm.path}/costs", 422, params={"cursor": cursor})


# Names


async def _named(firm: Firm, role: str, by: str, path: str | None = None) -> dict[str, str | None]:
    """Return the names in a report, by their keys; the same ones are in its CSV."""
    path = path or f"{firm.path}/costs"
    report = await firm.call(role, "GET", path, params={"by": by})
    named = {item["key"]: item["name"] for item in report["items"]}
    rows = await firm.table(role, f"{path}/export", by=by)
    assert {row[by]: row[f"{by}_name"] or None for row in rows} == named
    return named


async def test_users_have_the_names_that_the_list_of_members_shows(firm: Firm) -> None:
    """Bug that this catches: an id, which everybody may add as a member, is a way to look up somebody's name."""
    people = {role: str(firm.people[role].user_id) for role in ("manager", "member", "viewer")}
    email = firm.people["viewer"].email
    await firm.call("admin", "PUT", f"{firm.path}/members", json={"email": email, "role": "viewer"})
    for role in people:
        await firm.use(role, 1)
    listed = (await firm.call("manager", "GET", f"{firm.path}/members"))["items"]
    seen = {one["user_id"]: one["name"] or None for one in listed if one["user_id"] in people.values()}
    assert {role: bool(seen[user]) for role, user in people.items()} == {
        "manager": True,
        "member": False,
        "viewer": True,
    }
    assert await _named(firm, "manager", "user") == seen
    await firm.call("admin", "DELETE", f"{firm.path}/members/{people['viewer']}", 204)
    assert await _named(firm, "manager", "user") == seen | {people["viewer"]: None}


async def test_agents_have_names_for_those_who_see_them(firm: Firm) -> None:
    ids = {name: await firm.agent(role, name) for role, name in (("member", "scribe"), ("manager", "clerk"))}
    ids["operations"] = await firm.agent("tenant", "operations")
    for one in ids.values():
        await firm.use("member", 1, agent_id=one)
    await firm.use("member", 1)
    keys = {name: str(one) for name, one in ids.items()}
    all_ = {"": None} | {key: name for name, key in keys.items()}
    assert await _named(firm, "admin", "agent") == all_
    assert await _named(firm, "manager", "agent") == all_ | {keys["scribe"]: None}
    assert await _named(firm, "member", "agent", "/v1/my/costs") == all_ | {keys["clerk"]: None}
    await firm.call("member", "DELETE", f"/v1/my/agents/{keys['scribe']}", 204)
    assert (await _named(firm, "member", "agent", "/v1/my/costs"))[keys["scribe"]] == "scribe"


async def test_names_are_no_formulas(firm: Firm) -> None:
    firm.people["hostile"] = await firm.site.sign_up(name="=1+1")
    body = {"email": firm.people["hostile"].email, "role": "member"}
    await firm.call("admin", "PUT", f"{firm.path}/members", json=body)
    await firm.use("hostile", 1)
    (row,) = await firm.table("manager", f"{firm.path}/costs/export", by="user")
    assert row["user_name"] == "'=1+1"


async def test_days_and_applications_are_called_what_their_key_is(firm: Firm) -> None:
    await firm.use("member", 1, application="Report writer")
    for by in ("day", "application"):
        report = await firm.call("manager", "GET", f"{firm.path}/costs", params={"by": by})
        assert [item["name"] for item in report["items"]] == [None]
        assert f"{by}_name" not in (await firm.table("manager", f"{firm.path}/costs/export", by=by))[0]


async def test_quotas_are_shown_with_names(firm: Firm) -> None:
    await firm.begin("manager")
    await firm.begin("member")
    page = await firm.call("manager", "GET", f"{firm.path}/quota")
    names = {item["user_id"]: item["name"] for item in page["items"]}
    assert names[str(firm.people["member"].user_id)] is None
    assert names[str(firm.people["manager"].user_id)]


# Rates


async def test_an_admin_sets_rates_and_everybody_sees_them(firm: Firm) -> None:
    rates = f"{firm.path}/rates"
    first = await firm.call("viewer", "GET", rates)
    assert first["cpu_second"] == {"rate": "0.00015", "own": False}
    body = {"cpu_second": "0.5", "model_call": "0"}
    for role, status in (("viewer", 403), ("member", 403), ("manager", 403), ("stranger", 404), ("admin", 200)):
        await firm.call(role, "PUT", rates, status, json=body)
    shown = await firm.call("member", "GET", rates)
    assert (shown["cpu_second"], shown["model_call"]) == ({"rate": "0.5", "own": True}, {"rate": "0", "own": True})
    assert shown["memory_gib_hour"] == {"rate": "0.03", "own": False}
    await firm.use("member", 3)
    assert (await firm.call("member", "GET", "/v1/my/costs"))["total"]["cost"] == "1.5"
    await firm.call("admin", "PUT", rates, json={})
    assert (await firm.call("member", "GET", rates)) == first
    assert (await firm.call("member", "GET", "/v1/my/costs"))["total"]["cost"] == "1.5"


async def test_rates_that_are_based_on_an_old_version_are_refused(firm: Firm) -> None:
    rates = f"{firm.path}/rates"
    etag = (await firm.people["admin"].client.get(rates)).headers["ETag"]
    await firm.call("admin", "PUT", rates, json={"cpu_second": "1"}, headers={"If-Match": etag})
    stale = await firm.call("admin", "PUT", rates, 412, json={"cpu_second": "2"}, headers={"If-Match": etag})
    assert stale["current"]["cpu_second"] == {"rate": "1", "own": True}


@pytest.mark.parametrize(
    "body",
    [
        {"cpu_second": "-1"},
        {"cpu_second": 1},
        {"cpu_second": "1e3"},
        {"cpu_second": "1000.1"},
        {"memory_gib_hour": "9999999999"},
        {"gpu_second": "1"},
    ],
    ids=str,
)
async def test_what_is_no_rate_is_refused(firm: Firm, body: dict[str, Any]) -> None:
    await firm.call("admin", "PUT", f"{firm.path}/rates", 422, json=body)


# Quotas


async def test_a_tenant_without_a_tier_has_its_own_and_no_limit_of_operations(firm: Firm) -> None:
    await firm.begin("member", 2)
    quota = await firm.call("member", "GET", "/v1/my/quota")
    assert (quota["tier"], quota["operations"]) == ("own", {"limit": None, "used": 2, "left": None})
    assert (quota["storage"]["limit_bytes"], quota["retention_days"]) == (None, None)


async def test_a_user_sees_the_tier_and_how_far_the_month_is_used(firm: Firm, monkeypatch: pytest.MonkeyPatch) -> None:
    async def storage(scope: Scope, user_id: UUID) -> Storage:
        return Storage(1_500_000_000 if user_id == firm.people["member"].user_id else 0, 10**9, 3 * 86_400)

    monkeypatch.setattr(quotas.hooks, "storage", storage)
    await firm.put_into("free")
    await firm.begin("member", 3)
    month = firm.clock.now().date().replace(day=1)
    quota = await firm.call("member", "GET", "/v1/my/quota")
    assert quota == {
        "tier": "free",
        "month": str(month),
        "begins_anew": str((month + timedelta(days=32)).replace(day=1)),
        "operations": {"limit": 10, "used": 3, "left": 7},
        "storage": {"limit_bytes": 10**9, "used_bytes": 1_500_000_000, "left_bytes": 0},
        "retention_days": 3,
    }
    assert (await firm.call("viewer", "GET", "/v1/my/quota"))["operations"]["used"] == 0


async def test_managers_see_the_quotas_of_all_users_in_pages(firm: Firm) -> None:
    await firm.put_into("pro")
    for n, role in enumerate(("admin", "member", "viewer"), 1):
        await firm.begin(role, n)
    seen: dict[str, int] = {}
    query: dict[str, Any] = {"limit": 2}
    for _ in range(2):
        page = await firm.call("manager", "GET", f"{firm.path}/quota", params=query)
        assert (page["tier"], page["operations"], page["retention_days"]) == ("pro", 100, 30)
        seen |= {item["user_id"]: item["operations"]["used"] for item in page["items"]}
        query["cursor"] = page["next_cursor"]
    assert query["cursor"] is None
    people = firm.people
    assert seen == {str(people[role].user_id): n for n, role in enumerate(("admin", "member", "viewer"), 1)}


async def test_nobody_sets_a_tier_over_http(firm: Firm) -> None:
    for method in ("PUT", "POST", "PATCH"):
        for path in (f"{firm.path}/quota", f"{firm.path}/tier"):
            response = await firm.people["admin"].client.request(method, path, json={"tier": "pro"})
            assert response.status_code in (404, 405)
