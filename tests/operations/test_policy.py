"""What a tenant's policy, its emergency stop and its queue mean for operations."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from tests.operations.support import done, gone, operate, processes, shell, types, until
from tests.support.running import Person, RunningServer
from tests.support.waiting import holds
from tests.support.waiting import until as until_holds


async def govern(person: Person, **fields: Any) -> dict[str, Any]:
    """Let another policy hold in a person's tenant."""
    found: dict[str, Any] = await person.call(
        "PUT", f"/v1/tenants/{person.tenant_id}/operations/policy", 200, json=fields
    )
    return found


async def running_now(person: Person) -> int:
    return len((await person.call("GET", "/v1/operations?status=running"))["items"])


async def test_the_limits_of_the_mission_hold_by_default(person: Person) -> None:
    found = await person.call("GET", f"/v1/tenants/{person.tenant_id}/operations/policy")
    limits = found["limits"]
    assert (limits["seconds"], limits["memory"], limits["disk"]) == (600, 2_000_000_000, 1_000_000_000)
    assert (limits["processes"], limits["cores"]) == (256, 1.0)
    assert (limits["artifacts"], limits["artifact_bytes"]) == (50, 100_000_000)
    assert (found["at_once"], found["user_storage"]) == (5, 10_000_000_000)
    assert (found["retention_seconds"], found["failed_retention_seconds"]) == (7 * 86_400, 86_400)


async def test_a_request_may_ask_for_less_and_not_for_more_than_the_policy_says(person: Person) -> None:
    await govern(person, limits={"seconds": 5, "artifacts": 1}, most={"seconds": 10})
    found = await done(person, "echo a > a; echo b > b")
    assert found["limits"]["seconds"] == 5
    assert len(found["artifacts"]) == 1
    answer = await operate(person, "true", 422, limits={"seconds": 11})
    assert "10" in answer["detail"]
    await operate(person, "true", limits={"seconds": 10})


async def test_a_policy_that_contradicts_itself_is_refused(person: Person) -> None:
    path = f"/v1/tenants/{person.tenant_id}/operations/policy"
    for wrong in (
        {"limits": {"seconds": 20}, "most": {"seconds": 10}},
        {"most": {"seconds": 86_400}},
        {"min_level": "D"},
        {"drivers": ["nobody"]},
        {"at_once": 0},
    ):
        await person.call("PUT", path, 422, json=wrong)


async def test_a_changed_policy_wants_the_newest_etag(person: Person) -> None:
    path = f"/v1/tenants/{person.tenant_id}/operations/policy"
    first = await person.client.get(path)
    await person.call("PUT", path, 200, json={"at_once": 2}, headers={"If-Match": first.headers["ETag"]})
    await person.call("PUT", path, 412, json={"at_once": 3}, headers={"If-Match": first.headers["ETag"]})


async def test_no_more_operations_go_on_at_once_than_the_policy_says_and_a_change_holds_for_the_queue(
    person: Person,
) -> None:
    await govern(person, at_once=2)
    mark = f"3600.{uuid4().int % 10**9}"
    made = [await operate(person, f"sleep {mark}") for _ in range(5)]
    await holds(lambda: len(processes(mark)) >= 2)
    assert await running_now(person) == 2
    await govern(person, at_once=4)

    async def four_run() -> bool:
        return await running_now(person) == 4

    await until_holds(four_run)
    await govern(person, at_once=1)
    for one in made[:3]:
        await person.call("POST", f"/v1/operations/{one['operation_id']}/cancel", 202)
        await until(person, one)
    # Of four, three were ended; with one at a time none of the queue may have begun meanwhile.
    await asyncio.sleep(0.3)
    assert await running_now(person) == 1
    for one in made[3:]:
        await person.call("POST", f"/v1/operations/{one['operation_id']}/cancel", 202)
        await until(person, one)
    await gone(lambda: processes(mark))


async def test_files_of_a_request_are_forgotten_when_nobody_tries_it_again(person: Person) -> None:
    """Bug that this catches: what came with a request stays for ever, since its operation did not succeed."""
    await govern(person, failed_retention_seconds=1)
    operation = await operate(person, "exit 1", files=[{"name": "in.txt", "content": "secret"}])
    answer = None
    for _ in range(5):  # a busy machine may look late
        ended = datetime.fromisoformat((await until(person, operation))["ended_at"])
        await holds(lambda ended=ended: datetime.now(UTC) > ended + timedelta(seconds=2))  # type: ignore[misc]
        answer = await person.client.post(f"/v1/operations/{operation['operation_id']}/retry")
        if answer.status_code == 409:
            break
    assert answer is not None
    assert answer.status_code == 409, answer.text
    assert "not kept" in answer.json()["detail"]


async def test_a_full_queue_is_429_and_counts_nothing(person: Person) -> None:
    await govern(person, at_once=1, queue=1)
    running, waiting = await operate(person, "sleep 30"), await operate(person, "true")
    answer = await person.client.post("/v1/operations", json=shell("true"))
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) > 0
    assert len((await person.call("GET", "/v1/operations"))["items"]) == 2
    await person.call("POST", f"/v1/operations/{running['operation_id']}/cancel", 202)
    assert (await until(person, waiting))["status"] == "completed"  # who waits is not lost


async def test_cancelling_what_is_queued_ends_it_at_once(person: Person) -> None:
    await govern(person, at_once=1)
    running, waiting = await operate(person, "sleep 30"), await operate(person, "echo x > x")
    await person.call("POST", f"/v1/operations/{waiting['operation_id']}/cancel", 202, json={"reason": "not needed"})
    found = await until(person, waiting, seconds=3)
    assert (found["status"], found["attempt"]) == ("cancelled", 0)
    await person.call("POST", f"/v1/operations/{running['operation_id']}/cancel", 202)
    await until(person, running)


async def test_the_emergency_stop_ends_what_runs_and_keeps_what_waits(person: Person) -> None:
    organisation = await person.call("POST", "/v1/tenants", 201, json={"name": "Stop Ltd"})
    tenant = {"Retinue-Tenant": organisation["tenant_id"]}
    there = organisation["tenant_id"]
    mark = f"3600.{uuid4().int % 10**9}"
    await person.call("PUT", f"/v1/tenants/{there}/operations/policy", 200, json={"at_once": 1})
    running = await person.call("POST", "/v1/operations", 202, json=shell(f"sleep {mark}"), headers=tenant)
    waiting = await person.call("POST", "/v1/operations", 202, json=shell("true"), headers=tenant)
    await holds(lambda: bool(processes(mark)))

    async def status_of(one: dict[str, Any]) -> str:
        found = await person.call("GET", f"/v1/operations/{one['operation_id']}", headers=tenant)
        return str(found["status"])

    async def is_cancelled() -> bool:
        return await status_of(running) == "cancelled"

    async def is_completed() -> bool:
        return await status_of(waiting) == "completed"

    await person.call("POST", f"/v1/tenants/{there}/stop", json={"reason": "something is wrong"})
    await gone(lambda: processes(mark), seconds=3)
    await until_holds(is_cancelled, seconds=5)
    assert await status_of(waiting) == "queued"
    await person.call("POST", "/v1/operations", 409, json=shell("true"), headers=tenant)
    await person.call("POST", f"/v1/tenants/{there}/resume")
    await until_holds(is_completed, seconds=10)


async def test_a_sandbox_that_is_not_closed_enough_starts_nothing(server: RunningServer) -> None:
    """Fail closed. Bug that this catches: the level is recorded, and nobody looks at it."""
    person = await server.person()
    good = await done(person, "true")
    if good["isolation"] == "A":
        # Nothing is closed better than A, so the policy cannot ask for more than there is: see test_beginning.
        return
    await govern(person, min_level="A")
    found = await done(person, "echo ran > ran")
    assert (found["status"], found["kind"]) == ("failed", "sandbox_refused")
    assert found["artifacts"] == []
    assert "started" not in await types(person, found)


async def test_only_an_admin_changes_the_policy_and_sees_everybody(person: Person, server: RunningServer) -> None:
    organisation = await person.call("POST", "/v1/tenants", 201, json={"name": "Seen Ltd"})
    there = organisation["tenant_id"]
    tenant = {"Retinue-Tenant": there}
    member = await server.person("mem")
    await person.call("PUT", f"/v1/tenants/{there}/members", json={"email": member.account["email"], "role": "member"})
    theirs = await member.call("POST", "/v1/operations", 202, json=shell("echo x > x"), headers=tenant)
    await member.call("PUT", f"/v1/tenants/{there}/operations/policy", 403, json={})
    await member.call("GET", "/v1/operations?everybody=true", 422, headers=tenant)
    listed = await person.call("GET", "/v1/operations?everybody=true", headers=tenant)
    assert [one["operation_id"] for one in listed["items"]] == [theirs["operation_id"]]
    assert (await person.call("GET", "/v1/operations", headers=tenant))["items"] == []
    found = await person.call("GET", f"/v1/operations/{theirs['operation_id']}", headers=tenant)
    assert found["owner_id"] == member.account["user_id"]


async def test_the_agent_that_carries_operations_out_is_in_nobodys_way(person: Person) -> None:
    await done(person, "true")
    assert all(one["name"] != "operations" for one in (await person.call("GET", "/v1/my/agents"))["items"])
    made = await person.agent("operations")  # the name is free for everybody
    assert made["name"] == "operations"
    again = await done(person, "true")
    run = await person.run(again["run_id"])
    assert run["agent_id"] != made["agent_id"]
    assert run["parent"]["kind"] == "operation"
    await person.call("GET", f"/v1/my/agents/{run['agent_id']}", 404)
    await person.call("DELETE", f"/v1/my/agents/{run['agent_id']}", 404)


async def test_nobody_elses_agent_can_carry_an_operation_out(person: Person) -> None:
    """Bug that this catches: the tool trusts the id that it is given, and does a stranger's work anew."""
    operation = await operate(person, "sleep 3; echo x > x")
    await until(person, operation, "running")
    await person.agent("thief", tools=["carry_out_operation"], autonomy="autonomous")
    call = {"tool": "carry_out_operation", "arguments": {"operation_id": operation["operation_id"]}}
    plan = await person.call(
        "POST",
        "/v1/my/plans",
        202,
        json={"title": "steal", "tasks": [{"id": "a", "kind": "tool", "agent": "thief", "call": call}]},
    )

    async def has_failed() -> bool:
        return bool((await person.call("GET", f"/v1/my/plans/{plan['plan_id']}"))["status"] == "failed")

    await until_holds(has_failed)
    found = await person.call("GET", f"/v1/my/plans/{plan['plan_id']}")
    assert "another run" in str(found)
    ended = await until(person, operation)
    assert (ended["status"], ended["attempt"]) == ("completed", 1)


async def test_what_the_policy_does_not_allow_any_more_is_not_tried_again(person: Person) -> None:
    """Only the first request was held against the policy: what failed once could be begun for ever after."""
    found = await done(person, "exit 1", limits={"seconds": 20})
    path = f"/v1/operations/{found['operation_id']}/retry"
    await govern(person, drivers=["qwen"])
    assert "command" in (await person.call("POST", path, 403))["detail"]
    await govern(person, limits={"seconds": 5}, most={"seconds": 10})
    assert "limits.seconds" in (await person.call("POST", path, 403))["detail"]
    await govern(person)
    await person.call("POST", path, 202)
    assert (await until(person, found, lambda shown: shown["attempt"] == 2))["attempt"] == 2


async def test_operations_of_somebody_who_is_removed_end_and_publish_nothing(server: RunningServer) -> None:
    """They went on for hours, with the tenant's money, for somebody who was not to have it any more."""
    admin, member = await server.person("admin"), await server.person("member")
    there = (await admin.call("POST", "/v1/tenants", 201, json={"name": "Left Ltd"}))["tenant_id"]
    members = f"/v1/tenants/{there}/members"
    await admin.call("PUT", members, json={"email": member.account["email"], "role": "member"})
    for one in (admin, member):
        one.client.headers["Retinue-Tenant"] = there
    await govern(Person(admin.client, admin.account | {"tenant_id": there}), at_once=1)
    mark = f"3600.{uuid4().int % 10**9}"
    running = await operate(member, f"echo late > late.txt; sleep {mark}")
    queued = await operate(member, "true")
    await holds(lambda: bool(processes(mark)))
    await admin.call("DELETE", f"{members}/{member.account['user_id']}", 204)
    await gone(lambda: processes(mark), seconds=5)
    for asked in (running, queued):
        found = await until(admin, asked)
        assert (found["status"], found["artifacts"]) == ("cancelled", [])
        assert "left" in found["detail"]
