"""`retinue costs` and `retinue tenants tier` against a started server; and what the live stream shows of quotas."""

from __future__ import annotations

import asyncio
import csv
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import pytest

from retinue import metering
from retinue.cli.failures import ExitCode
from retinue.database import Database
from retinue.kernel import QuotaExhausted, Scope, new_id
from retinue.ledger import Feed
from retinue.metering import Charge
from tests.metering.support import metering_services, operator
from tests.support.command_line import CommandLine, signed_up
from tests.support.databases import Cluster
from tests.support.running import RunningServer, running_server
from tests.support.scopes import scope_of


@pytest.fixture(scope="module")
async def server(postgres: Cluster) -> AsyncIterator[RunningServer]:
    async with running_server(postgres, worker=False) as found:
        yield found


@pytest.fixture
def retinue(
    server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> CommandLine:
    """The command line of somebody who has just signed up."""
    return signed_up(server, tmp_path, monkeypatch, capfd)


@asynccontextmanager
async def inside(server: RunningServer, tenant: UUID, user: UUID) -> AsyncIterator[Scope]:
    """A scope on the server's database, as another process of the server has it."""
    assert server.cluster is not None
    assert server.database is not None
    database = Database(server.cluster.dsn(server.database), size=2)
    await database.open()
    try:
        services = metering_services(database)
        async with scope_of(services, tenant, user_id=user) as scope:
            yield scope
        await services.get(Feed).tell_now()
    finally:
        await database.close()


def tenant_and_user(retinue: CommandLine) -> tuple[UUID, UUID]:
    (tenant,) = retinue.json("tenants", "list")["items"]
    (member,) = retinue.json("tenants", "members", "personal")["items"]
    return UUID(tenant["tenant_id"]), UUID(member["user_id"])


def charge(server: RunningServer, tenant: UUID, user: UUID, name: str) -> None:
    async def run() -> None:
        async with inside(server, tenant, user) as scope:
            said = Charge(kind="cpu", quantity=10, key="1", user_id=user, operation_id=new_id(), application=name)
            await metering.charge(scope, [said])

    asyncio.run(run())


def test_costs_are_listed_and_written_as_csv(server: RunningServer, retinue: CommandLine, tmp_path: Path) -> None:
    tenant, user = tenant_and_user(retinue)
    assert "Nothing was charged" in retinue("costs", "list").err
    charge(server, tenant, user, "=cmd|' /C calc'!A1")
    charge(server, tenant, user, "plain")
    shown = retinue.ok("costs", "list", "--by", "application", COLUMNS="200")
    assert "=cmd|' /C calc'!A1" in shown
    assert "$0.0015" in shown
    (one,) = retinue.json("costs", "list", "--by", "user", "--everybody")["items"]
    (member,) = retinue.json("tenants", "members", "personal")["items"]
    assert (one["key"], one["name"]) == (str(user), member["name"])
    assert member["name"] in retinue.ok("costs", "list", "--by", "user", COLUMNS="250")
    file = tmp_path / "costs.csv"
    retinue.ok("costs", "export", "--by", "application", "--everybody", "--output", str(file))
    with file.open(encoding="utf-8", newline="") as text:
        rows = list(csv.DictReader(text))
    assert [(row["application"], row["cost"]) for row in rows] == [
        ("'=cmd|' /C calc'!A1", "0.0015"),
        ("plain", "0.0015"),
    ]
    assert retinue("costs", "list", "--by", "weather").code == ExitCode.FAILED


def test_rates_are_set_one_by_one(retinue: CommandLine) -> None:
    assert "$0.00015 (the server's)" in retinue.ok("costs", "rates")
    retinue.ok("costs", "rates", "--cpu-second", "0.5")
    shown = retinue.json("costs", "rates", "--model-call", "0.01")
    assert {name: rate["rate"] for name, rate in shown.items() if rate["own"]} == {
        "cpu_second": "0.5",
        "model_call": "0.01",
    }
    assert not retinue.json("costs", "rates", "--cpu-second", "server")["cpu_second"]["own"]


def test_the_operator_sets_a_tier_beside_a_running_server(server: RunningServer, retinue: CommandLine) -> None:
    tenant, _ = tenant_and_user(retinue)
    assert "no limit" in retinue.ok("costs", "quota")
    code, out, err = operator(server, "tenants", "tier", str(tenant), "free", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {"tenant_id": str(tenant), "tier": "free", "former": "own"}
    shown = retinue.ok("costs", "quota")
    assert "0 of 10" in shown
    assert "3 days" in shown
    assert retinue.json("costs", "quota", "--everybody")["items"] == []
    assert "before, it was in free" in operator(server, "tenants", "tier", str(tenant), "pro")[1]


@pytest.mark.parametrize(
    "arguments, code, says",
    [
        ((str(UUID(int=1)), "free"), ExitCode.NOT_FOUND, "no such tenant"),
        ((str(UUID(int=1)), "gold"), ExitCode.USAGE, "free, pro, own"),
        (("acme", "free"), ExitCode.USAGE, "by its id"),
    ],
    ids=["unknown", "gold", "name"],
)
def test_a_tier_that_cannot_be_set_says_why(
    server: RunningServer, arguments: tuple[str, ...], code: ExitCode, says: str
) -> None:
    ended = operator(server, "tenants", "tier", *arguments)
    assert (ended[0], ended[1]) == (code, "")
    assert says in ended[2]


@pytest.mark.timeout(300)
async def test_the_stream_tells_of_the_tier_and_of_quotas_used_up(server: RunningServer) -> None:
    """A notice that is not in the catalogue, or whose owner is not the user, never comes."""
    ada = await server.person()
    eve = await server.person("eve")
    tenant, user = UUID(ada.tenant_id), UUID(ada.account["user_id"])
    async with (
        ada.stream("?types=system_notice,quota_warning") as events,
        eve.stream("?types=system_notice,quota_warning") as foreign,
        asyncio.timeout(240),
    ):
        code, _, err = await asyncio.to_thread(operator, server, "tenants", "tier", str(tenant), "free")
        assert (code, err) == (0, "")
        notice = await anext(events)
        assert notice["data"]["payload"] == {"notice": "tier_changed", "tier": "free"}
        for _ in range(10):
            async with inside(server, tenant, user) as scope:
                await metering.count_operation(scope, user, new_id())
        told = [(await anext(events))["data"] for _ in range(2)]
        assert [(one["event_type"], one["payload"]["notice"], one["payload"]["used"]) for one in told] == [
            ("quota_warning", "warned", 8),
            ("quota_warning", "exhausted", 10),
        ]
        assert told[0]["payload"]["what"] == "operations"
        with pytest.raises(QuotaExhausted):
            async with inside(server, tenant, user) as scope:
                await metering.count_operation(scope, user, new_id())
        await asyncio.to_thread(operator, server, "tenants", "tier", eve.tenant_id, "pro")
        assert (await anext(foreign))["data"]["payload"]["tier"] == "pro"


def test_a_tier_is_not_set_in_a_database_that_was_made_for_it(
    retinue: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug that this catches: without --data, a second database is set up in the home, and the tenant is not there."""
    monkeypatch.delenv("DATABASE_URL", raising=False)
    ended = retinue("tenants", "tier", str(UUID(int=1)), "free", "--data", str(tmp_path / "nowhere"))
    assert ended.code == ExitCode.NOT_FOUND
    assert "--data" in ended.err
    assert not (tmp_path / "nowhere").exists()
