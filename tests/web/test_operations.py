"""What operators look at: health, metrics, the description of the API."""

from __future__ import annotations

import asyncio
import re
from typing import Annotated, Any

import pytest
import schemathesis
from fastapi import APIRouter
from hypothesis import HealthCheck, given, settings
from pydantic import SecretStr
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from retinue.database import Database
from retinue.kernel import Room, Scope, Services
from retinue.web import Health, Router, create_app, scoped
from retinue.web import health as health_module
from tests.web.paper import House, PaperGate, Person, served, settings_for_tests
from tests.web.test_requests import NOTES, problem

# Health


async def test_health_says_what_is_wrong(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(database, settings_for_tests()) as house, house.client() as client:
        health = house.services.get(Health)
        assert (await client.get("/health/live")).json() == {"status": "ok"}
        assert (await client.get("/health/startup")).status_code == 503
        assert (await client.get("/health/ready")).status_code == 503
        health.started = True
        assert (await client.get("/health/startup")).status_code == 200
        assert (await client.get("/health/ready")).json() == {"status": "ok", "checks": {}}

        states: dict[str, Any] = {"database": None}

        async def check() -> str | None:
            if isinstance(states["database"], Exception):
                raise states["database"]
            if states["database"] == "hangs":
                await asyncio.Event().wait()
            found: str | None = states["database"]
            return found

        async def fine() -> str | None:
            return None

        health.add("database", check)
        health.add("worker", fine)
        monkeypatch.setattr(health_module, "CHECK_SECONDS", 0.1)
        assert (await client.get("/health/ready")).status_code == 200
        for state, said in (
            ("is full", "is full"),
            (OSError("connect to 10.1.2.3 failed"), "failed: OSError"),
            ("hangs", "no answer within 0.1 s"),
        ):
            states["database"] = state
            response = await client.get("/health/ready")
            assert response.status_code == 503
            assert response.json()["checks"] == {"database": said, "worker": "ok"}
        assert (await client.get("/health/live")).status_code == 200


# Metrics


def value(text: str, sample: str) -> float:
    found = re.search(rf"^{re.escape(sample)} (\S+)", text, re.M)
    return float(found[1]) if found else 0.0


async def test_requests_are_counted_by_route(house: House, ann: Person) -> None:
    sample = 'retinue_http_request_duration_seconds_count{method="GET",route="/v1/my/notes/{note_id}",status="404"}'
    async with house.client(ann) as client:
        before = value((await client.get("/metrics")).text, sample)
        for n in range(3):
            await client.get(f"{NOTES}/{n}")
        await client.request("PROPFIND", NOTES)
        text = (await client.get("/metrics")).text
    assert value(text, sample) == before + 3
    assert 'method="(other)"' in text
    assert "PROPFIND" not in text
    assert "retinue_streams" in text


async def test_metrics_are_for_this_machine_or_the_token(database: Database) -> None:
    strict = settings_for_tests()
    async with served(database, strict) as house, house.client() as client:
        assert (await client.get("/metrics")).status_code == 200
        elsewhere = {"x-forwarded-for": "203.0.113.9"}
        problem(await client.get("/metrics", headers=elsewhere), 403, "forbidden")
        strict.metrics_token = SecretStr("watch")
        problem(await client.get("/metrics"), 401, "unauthenticated")
        problem(
            await client.get("/metrics", headers=[(b"Authorization", "Bearer wätch".encode())]), 401, "unauthenticated"
        )
        allowed = await client.get("/metrics", headers={**elsewhere, "Authorization": "Bearer watch"})
        assert allowed.status_code == 200


# Routes


def app_with(router: Any, database: Database) -> Any:
    from retinue.ledger import Feed
    from retinue.live import Live, MemoryLive

    services = Services()
    services.add(Database, database)
    services.add(Feed, Feed(database))
    services.add(Live, MemoryLive())  # type: ignore[type-abstract]  # services are found by their base class
    return create_app(settings_for_tests(), services, [Room("test", routers=[router])], PaperGate())


def test_a_route_without_a_cell_stops_the_start() -> None:
    router = Router(prefix="/v1/test")
    with pytest.raises(LookupError, match="/v1/test/open names no cell"):

        @router.get("/open")
        async def forgotten() -> None: ...


def test_a_foreign_router_stops_the_start(database: Database) -> None:
    foreign = APIRouter()

    @foreign.get("/v1/foreign")
    async def unchecked() -> None: ...

    with pytest.raises(LookupError, match="/v1/foreign"):
        app_with(foreign, database)
    nested = Router()
    nested.include_router(foreign)
    with pytest.raises(LookupError, match="router inside a router"):
        app_with(nested, database)


async def test_a_route_names_its_cell_in_the_description(database: Database) -> None:
    router = Router(prefix="/v1/test", tags=["test"])

    @router.get("/one")
    async def one(scope: Annotated[Scope, scoped("things", "read")]) -> None: ...

    app = app_with(router, database)
    from retinue.web.openapi import describe

    operation = describe(app)["paths"]["/v1/test/one"]["get"]
    assert operation["x-permission"] == "things:read"
    assert operation["operationId"] == "test_one"


# The description

# A cursor of the right form that no list gave out is refused, which no schema can say; and unknown query parameters
# are passed over, while a body over the limit is a 413, which the check does not count as a refusal.
JUDGED_ELSEWHERE = [positive_data_acceptance, negative_data_rejection]


async def test_the_description_is_whole(house: House) -> None:
    async with house.client() as client:
        response = await client.get("/v1/openapi.json")
    document = response.json()
    assert document["openapi"].startswith("3.1")
    assert "HTTPValidationError" not in str(document)
    names = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(names) == len(set(names))
    create = document["paths"][NOTES]["post"]
    assert set(create["responses"]) == {
        "201", "400", "401", "403", "404", "409", "413", "415", "422", "429", "500", "503", "507"
    }  # fmt: skip
    for status, answer in create["responses"].items():
        if status != "201":
            assert answer["content"]["application/problem+json"]["schema"] == {"$ref": "#/components/schemas/Problem"}
    assert {one["name"] for one in create["parameters"]} == {"Retinue-Tenant", "Idempotency-Key"}
    assert create["security"] == [{"bearer": []}]
    login = document["paths"]["/v1/auth/login"]["post"]
    assert login["security"] == []
    assert "401" not in login["responses"]
    assert "/v1/my/events/stream" in document["paths"]
    assert "/metrics" not in document["paths"]


async def test_the_server_keeps_its_description(house: House) -> None:
    """schemathesis sends what the description allows, and what it does not, and checks every answer against it."""
    bob = house.gate.add()
    house.services.get(Health).started = True
    async with house.client() as client:
        document = (await client.get("/v1/openapi.json")).json()
    # A live stream does not end, and a slow request waits for its test.
    for path in ("/v1/my/events/stream", f"{NOTES}/slowly", f"{NOTES}/failing", f"{NOTES}/refused"):
        del document["paths"][path]

    def attack(mode: GenerationMode) -> None:
        schema = schemathesis.openapi.from_dict(document)

        @given(case=schema.as_strategy(generation_mode=mode))
        @settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        def check(case: Any) -> None:
            case.call_and_validate(base_url=house.url, headers=bob.headers, excluded_checks=JUDGED_ELSEWHERE)

        check()

    await asyncio.to_thread(attack, GenerationMode.POSITIVE)
    del document["paths"][f"{NOTES}/upload"]  # any bytes are a file, so there is no wrong one
    await asyncio.to_thread(attack, GenerationMode.NEGATIVE)
