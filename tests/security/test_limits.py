"""The limits of a started server as it is configured by default: requests of a user, and guesses at a password."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.support.databases import Cluster
from tests.support.running import PASSWORD, RunningServer, running_server


@pytest.fixture(scope="module")
async def server(postgres: Cluster) -> AsyncIterator[RunningServer]:
    limits = {"RETINUE_RATE_LIMIT": "30/hour", "RETINUE_LOGIN_RATE_LIMIT": "5/hour"}
    async with running_server(postgres, worker=False, **limits) as found:
        yield found


def refused(response: httpx.Response, policy: str) -> None:
    assert response.status_code == 429, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["type"] == "urn:retinue:problem:too-many-requests"
    assert int(response.headers["retry-after"]) >= 1
    assert response.headers["ratelimit"].startswith(f'"{policy}";r=0;t=')


async def test_a_user_is_told_what_is_left_until_nothing_is(server: RunningServer) -> None:
    ada, bob = await server.person("ada"), await server.person("bob")
    key = await ada.call("POST", "/v1/my/keys", 201, json={"name": "k"})
    left = []
    while (response := await ada.client.get("/v1/my/profile")).status_code == 200:
        assert response.headers["ratelimit-policy"] == '"default";q=30;w=3600'
        left.append(int(response.headers["ratelimit"].split(";")[1].removeprefix("r=")))
        assert len(left) < 40
    assert left == sorted(left, reverse=True)
    assert (left[-1], len(left)) == (0, 29)  # making the key was the first of the thirty
    refused(response, "default")
    # Neither an API key of hers nor a stream is a way around it, and nobody else is held up.
    by_key = {"Authorization": f"Bearer {key['key']}"}
    await ada.client.get("/v1/my/profile", headers=by_key)  # whose the key is is known after its first use
    refused(await ada.client.get("/v1/my/profile", headers=by_key), "default")
    refused(await ada.client.get("/v1/my/events/stream"), "default")
    assert (await bob.client.get("/v1/my/profile")).status_code == 200
    assert (await ada.client.get("/health/live")).status_code == 200


async def test_guessing_a_password_ends_soon(server: RunningServer) -> None:
    """Sign-ups of the address count, too: two were made by the test above, or will be."""
    async with httpx.AsyncClient(base_url=server.base_url) as client:
        answers = []
        for n in range(7):
            body = {"email": "nobody@example.com", "password": f"{PASSWORD} {n}"}
            answers.append(await client.post("/v1/auth/login", json=body))
        statuses = [one.status_code for one in answers]
        assert statuses == sorted(statuses)
        assert set(statuses) == {401, 429}
        assert statuses.count(401) <= 5
        refused(answers[-1], "login")
        # A right password does not help any more either.
        body = {"email": "nobody@example.com", "password": PASSWORD}
        refused(await client.post("/v1/auth/login", json=body), "login")
