"""Fail closed: where the sandbox is not as closed as the policy wants, nothing is started."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.faults.mutants import planted
from tests.operations.support import done, operate, types
from tests.support.databases import Cluster
from tests.support.running import Person, RunningServer, running_server


@pytest.fixture(scope="module")
async def open_server(postgres: Cluster) -> AsyncIterator[RunningServer]:
    """A server whose sandbox is of level C, and that would do with it."""
    async with running_server(postgres, **_of_level_c(), RETINUE_SANDBOX_MINIMUM="C") as found:
        yield found


def _of_level_c() -> dict[str, Any]:
    return dict(planted("tests.faults.operation_bugs:of_level_c"))


async def govern(person: Person, level: str) -> None:
    await person.call("PUT", f"/v1/tenants/{person.tenant_id}/operations/policy", 200, json={"min_level": level})


async def test_below_the_policys_level_nothing_is_started(open_server: RunningServer) -> None:
    """Bug that this catches: the level is recorded, and nobody looks at it before the program runs."""
    person = await open_server.person()
    found = await done(person, "echo ran > ran")
    assert (found["status"], found["kind"], found["artifacts"]) == ("failed", "sandbox_refused", [])
    assert "level C" in found["detail"]
    assert "started" not in await types(person, found)


async def test_a_request_may_ask_for_more_than_the_policy_and_not_for_less(open_server: RunningServer) -> None:
    person = await open_server.person()
    await govern(person, "C")
    found = await done(person, "echo ran > ran")
    assert (found["status"], found["isolation"]) == ("completed", "C")
    found = await done(person, "echo ran > ran", min_level="A")
    assert (found["status"], found["kind"]) == ("failed", "sandbox_refused")
    await govern(person, "B")
    found = await done(person, "true", min_level="C")
    assert (found["status"], found["kind"]) == ("failed", "sandbox_refused")


async def test_below_the_servers_own_level_no_policy_helps(postgres: Cluster) -> None:
    async with running_server(postgres, **_of_level_c(), RETINUE_SANDBOX_MINIMUM="B") as server:
        person = await server.person()
        await govern(person, "C")
        found = await done(person, "echo ran > ran")
        assert (found["status"], found["kind"]) == ("failed", "sandbox_refused")


async def test_without_money_nothing_is_begun(open_server: RunningServer) -> None:
    person = await open_server.person()
    await person.call("PUT", f"/v1/tenants/{person.tenant_id}/budget", json={"limit": "0.00"})
    await operate(person, "true", 402)
    assert (await person.call("GET", "/v1/operations"))["items"] == []
