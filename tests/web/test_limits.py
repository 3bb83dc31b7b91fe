"""How many requests are too many."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from limits import parse
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from pydantic import SecretStr

from retinue.database import Database
from retinue.web import counters
from retinue.web.counters import Counters
from retinue.web.limits import Limits, _address
from tests.support.redis_server import free_port, need_redis, redis_port, start_redis
from tests.web.paper import House, Person, served, settings_for_tests
from tests.web.test_requests import NOTES, problem

__all__ = ["redis_port"]  # a fixture


@pytest.fixture
async def strict(database: Database) -> AsyncIterator[House]:
    settings = settings_for_tests()
    settings.rate_limit = "5/hour"
    settings.login_rate_limit = "3/hour"
    async with served(database, settings) as found:
        yield found


async def test_a_user_has_one_allowance_for_all_credentials(strict: House) -> None:
    ann = strict.gate.add()
    strict.gate.people["paper-key"] = Person(is_key=True, user_id=ann.user_id, tenant_id=ann.tenant_id)
    by_key = {"Authorization": "Bearer paper-key"}
    bob = strict.gate.add()
    async with strict.client() as client:
        left = []
        # The first request with the key counts for the address: whose it is is known only afterwards.
        for headers in (ann.headers, ann.headers, by_key, ann.headers):
            response = await client.get(NOTES, headers=headers)
            assert response.status_code == 200
            assert response.headers["ratelimit-policy"] == '"default";q=5;w=3600'
            left.append(response.headers["ratelimit"].split(";")[1])
        assert left == ["r=4", "r=3", "r=4", "r=2"]
        for expected in (1, 0):
            response = await client.get(NOTES, headers=by_key)
            assert f"r={expected};" in response.headers["ratelimit"]
        over = await client.get(NOTES, headers=ann.headers)
        problem(over, 429, "too-many-requests")
        assert int(over.headers["retry-after"]) >= 1
        assert over.headers["ratelimit"].startswith('"default";r=0;t=')
        assert (await client.get(NOTES, headers=bob.headers)).status_code == 200


async def test_strangers_and_guessed_keys_share_the_allowance_of_their_address(strict: House) -> None:
    async with strict.client() as client:
        for n in range(5):
            headers = {"Authorization": f"Bearer paper-guess-{n}"} if n % 2 else {}
            assert (await client.get(NOTES, headers=headers)).status_code == 401
        problem(await client.get(NOTES, headers={"Authorization": "Bearer paper-guess-6"}), 429, "too-many-requests")
        problem(await client.get("/v1/nothing"), 429, "too-many-requests")
        assert (await client.get("/health/live")).status_code == 200


async def test_signing_in_has_limits_of_its_own(strict: House) -> None:
    async with strict.client() as client:
        for n in range(3):
            response = await client.post("/v1/auth/login", json={"name": f"user{n}"})
            assert response.status_code == 200
            assert '"login";q=3' in response.headers["ratelimit-policy"]
        problem(await client.post("/v1/auth/login", json={"name": "user4"}), 429, "too-many-requests")
        assert (await client.get("/v1/nothing")).status_code == 404  # the other allowance is untouched


async def test_one_name_cannot_be_tried_from_many_addresses(database: Database) -> None:
    settings = settings_for_tests()
    settings.rate_limit, settings.login_rate_limit = "100/hour", "3/hour"
    async with served(database, settings) as house, house.client() as client:
        # Loopback is a trusted proxy, so the forwarded address counts.
        statuses = [
            (
                await client.post("/v1/auth/login", json={"name": "ann"}, headers={"x-forwarded-for": f"203.0.113.{n}"})
            ).status_code
            for n in range(4)
        ]
    assert statuses == [200, 200, 200, 429]


async def test_off_means_off(house: House) -> None:
    async with house.client(house.gate.add()) as client:
        for _ in range(150):
            response = await client.get(NOTES)
            assert response.status_code == 200
        assert "ratelimit" not in response.headers


@pytest.mark.parametrize(
    "client, name",
    [
        ("203.0.113.9", "address:203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "address:2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "address:2001:db8:1:2::/64"),
        ("::ffff:203.0.113.9", "address:203.0.113.9"),
        ("", "address:"),
    ],
)
def test_addresses(client: str, name: str) -> None:
    assert _address(client) == name


async def test_counters_count_as_the_library_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 6_000_000.0
    monkeypatch.setattr(time, "time", lambda: now)
    limiter = SlidingWindowCounterRateLimiter(Counters())
    item = parse("10/minute")
    assert [await limiter.hit(item, "ann") for _ in range(12)] == [True] * 10 + [False] * 2
    assert (await limiter.get_window_stats(item, "ann")).remaining == 0
    assert await limiter.hit(item, "bob")
    now += 60 + 30  # half of the next window: half of the last one still counts
    assert [await limiter.hit(item, "ann") for _ in range(6)] == [True] * 5 + [False]
    now += 120
    assert (await limiter.get_window_stats(item, "ann")).remaining == 10
    await limiter.hit(item, "ann")
    await limiter.clear(item, "ann")
    assert (await limiter.get_window_stats(item, "ann")).remaining == 10


async def test_counters_do_not_grow_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counters, "_MOST", 100)
    storage = Counters()
    limiter = SlidingWindowCounterRateLimiter(storage)
    for n in range(1000):
        await limiter.hit(parse("10/minute"), str(n))
    assert len(storage._counts) <= 101


# Across processes


async def test_processes_share_their_counts_through_redis(database: Database, redis_port: int) -> None:
    settings = settings_for_tests()
    settings.rate_limit = "5/hour"
    settings.redis_url = SecretStr(f"redis://127.0.0.1:{redis_port}/1")
    async with served(database, settings) as one, served(database, settings) as two:
        ann = one.gate.add()
        two.gate.people[ann.token] = ann
        async with one.client(ann) as first, two.client(ann) as second:
            answers = [await client.get(NOTES) for client in (first, second) * 3]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429]
    assert "r=2;" in answers[2].headers["ratelimit"]


async def test_a_dead_redis_stops_no_request(database: Database, tmp_path: Path) -> None:
    need_redis()
    settings = settings_for_tests()
    settings.rate_limit = "5/hour"
    port = free_port()
    settings.redis_url = SecretStr(f"redis://127.0.0.1:{port}/0")
    async with served(database, settings) as house:
        async with house.client(house.gate.add()) as client:
            answers = [await client.get(NOTES) for _ in range(6)]  # nothing there: counted in this process
        assert [answer.status_code for answer in answers] == [200] * 5 + [429]
        assert sum(answer.elapsed.total_seconds() for answer in answers) < 3  # it was not asked each time
        limits = house.services.get(Limits)
        redis = start_redis(port, tmp_path)
        try:
            limits._away_until = 0.0  # the pause is over
            async with house.client(house.gate.add()) as client:
                await eventually_counted_there(client, limits)
            redis.kill()
            redis.wait()
            async with house.client(house.gate.add()) as client:
                assert (await client.get(NOTES)).status_code == 200
        finally:
            redis.kill()
            redis.wait()


async def eventually_counted_there(client: httpx.AsyncClient, limits: Limits) -> None:
    """Ask until a request was counted in Redis, which takes a moment to start."""
    async with asyncio.timeout(10):
        while True:
            assert (await client.get("/health/live")).status_code == 200
            limits._away_until = 0.0
            await client.get("/v1/nothing", headers={"Authorization": ""})
            if limits._away_until == 0.0:
                return
