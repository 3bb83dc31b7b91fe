"""Operations that an application asks for by a user's grant: within its terms, and for nobody else to see."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from retinue_client import Application, Refused
from tests.operations.support import done, gone, operate, processes, shell, types, until, workspaces
from tests.support.running import Person, RunningServer
from tests.support.signing import application_of
from tests.support.waiting import holds


@pytest.fixture
async def application(person: Person) -> AsyncIterator[Application]:
    async with application_of(person, drivers=["command"]) as found:
        yield found


def wanted(script: str, **fields: Any) -> dict[str, Any]:
    body = shell(script) | fields
    return {name: body[name] for name in body if name not in ("driver", "goal")}


async def asked(application: Application, script: str, **fields: Any) -> dict[str, Any]:
    return await application.operate("command", "Do what the script says.", **wanted(script, **fields))


async def test_an_application_goes_from_an_upload_to_an_artifact_that_it_opens(
    application: Application, person: Person, tmp_path: Path
) -> None:
    upload = await application.upload(b"b\na\n", "in.txt")
    operation = await asked(application, "sort in.txt > sorted.txt", inputs=[upload["artifact_id"]])
    found = await application.wait(operation["operation_id"], seconds=30)
    assert (found["status"], found["application"]) == ("completed", "Report writer"), found
    [artifact] = await application.artifacts(operation["operation_id"])
    await application.fetch(artifact["artifact_id"], tmp_path / "sorted.txt")
    assert (tmp_path / "sorted.txt").read_bytes() == b"a\nb\n"
    by_name = await application.http.get(f"/v1/operations/{operation['operation_id']}/artifacts/sorted.txt")
    assert by_name.content == b"a\nb\n"
    # The user sees it, with who asked for it.
    listed = await person.call("GET", "/v1/operations")
    assert [one["operation_id"] for one in listed["items"]] == [operation["operation_id"]]


async def test_operations_of_one_grant_are_a_pipeline(application: Application) -> None:
    first = await application.wait((await asked(application, "echo one > a.txt"))["operation_id"])
    artifact = first["artifacts"][0]["artifact_id"]
    second = await asked(application, "cat a.txt a.txt > b.txt", inputs=[artifact])
    found = await application.wait(second["operation_id"])
    assert await application.read(found["artifacts"][0]["artifact_id"]) == b"one\none\n"


async def test_what_the_grant_does_not_allow_is_403_and_counts_no_use(person: Person) -> None:
    ends = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    terms: dict[str, Any] = {
        "drivers": ["command"],
        "uses": 1,
        "limits": {"seconds": 5},
        "expires_at": ends,
        "parameters": {
            "type": "object",
            "properties": {"argv": {"type": "array", "prefixItems": [{"const": "/bin/sh"}]}},
            "required": ["argv"],
        },
    }
    async with application_of(person, **terms) as application:
        with pytest.raises(Refused) as refused:
            await application.operate("command", "x", parameters={"argv": ["/bin/cat", "/etc/passwd"]})
        assert refused.value.status == 403
        with pytest.raises(Refused) as refused:
            await asked(application, "true", limits={"seconds": 6})
        assert refused.value.status == 422
        found = await application.wait((await asked(application, "true"))["operation_id"])
        assert found["limits"]["seconds"] == 5
        assert (await application.grant())["used"] == 1
        with pytest.raises(Refused) as refused:
            await asked(application, "true")
        assert refused.value.status == 403
    async with application_of(person, drivers=["qwen"]) as application:
        with pytest.raises(Refused) as refused:
            await asked(application, "true")
        assert refused.value.status == 403


async def test_an_application_uses_those_files_of_the_user_that_its_grant_names(person: Person) -> None:
    named = await done(person, "echo named > n.txt")
    other = await done(person, "echo other > o.txt")
    one, two = named["artifacts"][0]["artifact_id"], other["artifacts"][0]["artifact_id"]
    async with application_of(person, drivers=["command"], files=[one]) as application:
        operation = await asked(application, "cat n.txt > out.txt", inputs=[one])
        found = await application.wait(operation["operation_id"])
        assert await application.read(found["artifacts"][0]["artifact_id"]) == b"named\n"
        with pytest.raises(Refused) as refused:
            await asked(application, "true", inputs=[two])
        assert refused.value.status == 404


async def test_outputs_live_no_longer_than_the_grant(person: Person) -> None:
    ends = datetime.now(UTC) + timedelta(minutes=10)
    async with application_of(person, drivers=["command"], expires_at=ends.isoformat()) as application:
        found = await application.wait((await asked(application, "echo x > x"))["operation_id"])
        until_ = datetime.fromisoformat(found["artifacts"][0]["expires_at"])
        assert abs((until_ - ends).total_seconds()) < 1


@pytest.mark.fault
async def test_a_grant_revoked_in_the_middle_ends_everything_of_it_within_5_seconds(
    application: Application, person: Person, server: RunningServer
) -> None:
    mark = f"3600.{uuid4().int % 10**9}"
    running = [await asked(application, f"echo half > half.txt; sleep {mark}") for _ in range(2)]
    own = await operate(person, f"sleep {mark}9")
    await holds(lambda: len(processes(f"{mark}9")) >= 1 and len(processes(mark)) >= 3)
    began = time.monotonic()
    await person.call("DELETE", f"/v1/my/grants/{application.grant_id}")
    await gone(lambda: [one for one in processes(mark) if one not in processes(f"{mark}9")], seconds=5)
    ended = [await until(person, one, seconds=5) for one in running]
    assert time.monotonic() - began < 5
    for one in ended:
        assert (one["status"], one["kind"], one["artifacts"]) == ("failed", "grant", [])
        await gone(partial(workspaces, server, one))
    assert len(processes(f"{mark}9")) >= 1, "what the user runs is not the grant's"
    answer = await application.http.get("/v1/operations")
    assert answer.status_code == 403
    await person.call("POST", f"/v1/operations/{own['operation_id']}/cancel", 202)
    await until(person, own)
    # The use of the grant is settled: nothing of its budget stays reserved.
    listed = await person.call("GET", f"/v1/my/grants/{application.grant_id}")
    assert listed["reserved"] in ("0", None)


async def test_the_stream_is_for_the_application_too_and_ends_with_its_grant(
    application: Application, person: Person
) -> None:
    operation = await asked(application, "echo hello from inside; sleep 30")
    said = ""
    path = f"/v1/operations/{operation['operation_id']}/stream?after=0"
    async with asyncio.timeout(40), application.http.stream("GET", path) as response:
        assert response.status_code == 200
        revoked = False
        async for line in response.aiter_lines():
            if line.startswith("data:") and '"message_delta"' in line:
                said += json.loads(line[5:])["payload"]["text"]
            if "hello" in said and not revoked:
                revoked = True
                await person.call("DELETE", f"/v1/my/grants/{application.grant_id}")
    assert "hello from inside" in said
    assert revoked  # and the server ended the stream
    assert (await until(person, operation))["kind"] == "grant"


# The access matrix of the mission


@pytest.fixture
async def organisation(server: RunningServer) -> tuple[Person, Person, dict[str, str]]:
    """An admin and a member of one tenant."""
    admin, member = await server.person("admin"), await server.person("owner")
    made = await admin.call("POST", "/v1/tenants", 201, json={"name": "Matrix Ltd"})
    there = made["tenant_id"]
    await admin.call("PUT", f"/v1/tenants/{there}/members", json={"email": member.account["email"], "role": "member"})
    for one in (admin, member):
        one.client.headers["Retinue-Tenant"] = there
    return admin, member, {"Retinue-Tenant": there}


async def test_the_access_matrix_of_the_mission(organisation: tuple[Person, Person, dict[str, str]]) -> None:
    """Grantee, another application, the tenant's admin x create, view, download, delete, cancel.

    Bug that this catches: a door that looks at the tenant alone, so that whoever knows an id sees everything.
    """
    admin, owner, _ = organisation
    async with (
        application_of(owner, drivers=["command"]) as grantee,
        application_of(owner, drivers=["command"]) as other,
    ):
        made = await asked(grantee, "echo a > a.txt; echo b > b.txt")
        made = await grantee.wait(made["operation_id"])
        ids = {one["name"]: one["artifact_id"] for one in made["artifacts"]}
        path = f"/v1/operations/{made['operation_id']}"
        sleeping = await asked(grantee, "sleep 60")
        again = await asked(grantee, "sleep 60")
        # What is asked, and how it is answered: grantee, another application, the admin.
        matrix = [
            ("create", "POST", "/v1/operations", shell("true"), (202, 202, 202)),
            ("view", "GET", path, None, (200, 404, 200)),
            ("view its events", "GET", f"{path}/events", None, (200, 404, 200)),
            ("list what it left", "GET", f"{path}/artifacts", None, (200, 404, 200)),
            ("view an artifact", "GET", f"/v1/artifacts/{ids['a.txt']}", None, (200, 404, 200)),
            ("download", "GET", f"/v1/artifacts/{ids['a.txt']}/content", None, (200, 404, 200)),
            ("download sealed", "GET", f"/v1/artifacts/{ids['a.txt']}/sealed", None, (200, 404, 200)),
            ("download by name", "GET", f"{path}/artifacts/a.txt", None, (200, 404, 200)),
        ]
        for what, method, where, body, statuses in matrix:
            found = [
                (await caller.request(method, where, json=body)).status_code
                for caller in (grantee.http, other.http, admin.client)
            ]
            assert tuple(found) == statuses, (what, found)
        # Each of these can be done once: the one who may not comes first.
        once: tuple[tuple[str, str, str, tuple[tuple[Application | Person, int], ...]], ...] = (
            ("delete an artifact", "DELETE", f"/v1/artifacts/{ids['a.txt']}", ((other, 404), (grantee, 204))),
            ("delete another", "DELETE", f"/v1/artifacts/{ids['b.txt']}", ((other, 404), (admin, 204))),
            ("delete all", "DELETE", f"{path}/artifacts", ((other, 404), (grantee, 200), (admin, 200))),
            ("cancel", "POST", f"/v1/operations/{sleeping['operation_id']}/cancel", ((other, 404), (grantee, 202))),
            ("cancel", "POST", f"/v1/operations/{again['operation_id']}/cancel", ((other, 404), (admin, 202))),
        )
        for what, method, where, callers in once:
            for caller, status in callers:
                client = caller.client if isinstance(caller, Person) else caller.http
                answer = await client.request(method, where)
                assert answer.status_code == status, (what, answer.text)
        # The other application lists nothing of it, and no list says that there is more.
        for where in ("/v1/operations", "/v1/artifacts"):
            theirs = (await other.http.get(where)).json()["items"]
            assert made["operation_id"] not in json.dumps(theirs)
        await until(owner, sleeping)
        await until(owner, again)


async def test_every_use_of_the_grant_is_in_its_history(application: Application, person: Person) -> None:
    found = await application.wait((await asked(application, "echo x > x.txt"))["operation_id"])
    await application.read(found["artifacts"][0]["artifact_id"])
    page = await person.call("GET", f"/v1/my/grants/{application.grant_id}/events?limit=200")
    uses = [(one["data"]["what"], one["data"]["subject"]) for one in page["items"] if one["type"] == "grant.used"]
    assert ("operation.started", found["operation_id"]) in uses
    assert any(what == "artifact.opened" for what, _ in uses)
    assert "requested" in await types(person, found)
