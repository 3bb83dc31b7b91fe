"""Operations as their users see them: over HTTP, against a started server, in the real sandbox."""

from __future__ import annotations

import base64
import json
import time
from datetime import datetime
from typing import Any
from uuid import uuid4

import pytest

from tests.operations.support import (
    Shown,
    content,
    done,
    gone,
    names,
    operate,
    processes,
    shell,
    shown,
    types,
    until,
    workspaces,
)
from tests.support.running import Person, RunningServer
from tests.support.waiting import holds


async def test_a_program_works_on_files_and_hands_back_what_it_made(person: Person, server: RunningServer) -> None:
    found = await done(
        person,
        "sort in.txt > sorted.txt; mkdir deep; wc -l < in.txt > deep/lines; echo finished",
        files=[{"name": "in.txt", "content": "b\na\n"}],
        expected=[{"name": "sorted.txt"}, {"name": "deep/*"}],
    )
    assert found["status"] == "completed", found["detail"]
    assert sorted(names(found)) == ["deep/lines", "sorted.txt"]  # the input, unchanged, is none of them
    assert await content(person, found, "sorted.txt") == b"a\nb\n"
    assert await content(person, found, "deep/lines") == b"2\n"
    assert found["summary"] == "finished"
    assert found["isolation"] in ("A", "B", "C")
    assert found["limits"]["seconds"] == 600
    assert found["limits"]["memory"] == 2_000_000_000
    assert found["usage"]["cpu_seconds"] > 0
    assert float(found["cost"]) > 0
    assert {line["kind"] for line in found["bill"]["lines"]} >= {"cpu", "memory"}
    assert await types(person, found) == ["requested", "started", "progressed", "completed"]
    await gone(lambda: workspaces(server, found), seconds=2)  # the workspace goes at once


async def test_what_is_shown_of_an_operation_holds_no_content_of_files(person: Person) -> None:
    secret = f"secret-{uuid4()}"
    found = await done(
        person, f"cp in.txt copy.txt; echo {'x'} >> copy.txt", files=[{"name": "in.txt", "content": secret}]
    )
    assert found["status"] == "completed"
    for path in ("", "/events", "/artifacts"):
        answer = await person.client.get(f"/v1/operations/{found['operation_id']}{path}")
        assert answer.status_code == 200
        assert secret not in answer.text
    assert secret in (await content(person, found, "copy.txt")).decode()


async def test_small_files_come_in_base64_and_under_odd_names(person: Person) -> None:
    raw = bytes(range(256))
    odd = "naïve & ファイル (1).bin"
    found = await done(
        person,
        "cp na* out.bin; printf x >> out.bin",
        files=[{"name": odd, "content_base64": base64.b64encode(raw).decode()}],
    )
    assert await content(person, found, "out.bin") == raw + b"x"


@pytest.mark.parametrize("name", ["../out", "a/b", "..", ".", "", "a\\b", "x" * 256, "a\nb"])
async def test_names_that_could_be_paths_are_refused(person: Person, name: str) -> None:
    await operate(person, "true", 422, files=[{"name": name, "content": "x"}])


async def test_two_inputs_of_one_name_are_refused(person: Person) -> None:
    await operate(person, "true", 422, files=[{"name": "a", "content": "1"}, {"name": "a", "content": "2"}])
    await operate(person, "true", 422, files=[{"name": "a", "content": "1"}, {"name": "A", "content": "2"}])


async def test_an_operation_works_on_what_another_one_left(person: Person) -> None:
    first = await done(person, "echo one > made.txt")
    artifact = first["artifacts"][0]["artifact_id"]
    second = await done(
        person, "cat in.txt > out.txt; echo two >> out.txt", inputs=[{"artifact_id": artifact, "name": "in.txt"}]
    )
    assert await content(person, second, "out.txt") == b"one\ntwo\n"
    assert second["inputs"] == [{"name": "in.txt", "artifact_id": artifact}]


async def test_an_input_of_somebody_else_is_not_there(person: Person, server: RunningServer) -> None:
    theirs = await done(await server.person("bob"), "echo x > x.txt")
    await operate(person, "true", 404, inputs=[{"artifact_id": theirs["artifacts"][0]["artifact_id"]}])
    await operate(person, "true", 404, inputs=[{"artifact_id": str(uuid4())}])


# What goes wrong has a stable name


async def failed(person: Person, kind: str, script: str, **fields: Any) -> Shown:
    found = await done(person, script, **fields)
    assert (found["status"], found["kind"]) == ("failed", kind), found["detail"]
    return found


async def test_an_exit_code_fails_it_and_what_was_left_is_kept_for_a_day(person: Person) -> None:
    found = await failed(person, "exit_code", "echo half > half.txt; echo no such thing >&2; exit 7")
    assert "no such thing" in str(found["detail"])
    assert "7" in str(found["detail"])
    [artifact] = found["artifacts"]
    kept = _seconds(artifact["expires_at"]) - _seconds(artifact["stored_at"])
    assert 86_000 < kept <= 86_400


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


async def test_a_request_says_for_how_long_its_outputs_are_kept(person: Person) -> None:
    found = await done(person, "echo x > x.txt", retention_seconds=3600)
    assert found["retention_seconds"] == 3600
    [artifact] = found["artifacts"]
    kept = _seconds(artifact["expires_at"]) - _seconds(artifact["stored_at"])
    assert 3_200 < kept <= 3_600


async def test_exit_0_having_done_nothing_is_a_failure_when_outputs_were_expected(person: Person) -> None:
    await failed(person, "nothing_done", "true", expected=[{"name": "report.md"}])
    await failed(
        person,
        "nothing_done",
        "touch in.txt",
        files=[{"name": "in.txt", "content": "as it was"}],
        expected=[{"name": "in.txt"}],
    )


async def test_missing_and_misshapen_outputs_fail_it(person: Person) -> None:
    found = await failed(person, "expectations", "echo x > other.txt", expected=[{"name": "*.json", "at_least": 2}])
    assert "*.json" in str(found["detail"])
    schema = {"type": "object", "required": ["total"], "properties": {"total": {"type": "integer"}}}
    wanted = [{"name": "r.json", "schema": schema}]
    found = await failed(person, "expectations", """echo '{"total": "7"}' > r.json""", expected=wanted)
    assert "r.json" in str(found["detail"])
    await failed(person, "expectations", "echo '{' > r.json", expected=wanted)
    found = await done(person, """echo '{"total": 7}' > r.json""", expected=wanted)
    assert found["status"] == "completed"


async def test_a_program_that_hangs_is_ended_in_time(person: Person, server: RunningServer) -> None:
    mark = f"3600.{uuid4().int % 10**9}"
    began = time.monotonic()
    found = await done(person, f"echo begun > begun.txt; sleep {mark}", limits={"seconds": 1})
    assert (found["status"], found["kind"]) == ("timed_out", "timeout")
    assert time.monotonic() - began < 10
    assert names(found) == ["begun.txt"]  # what it left is kept for a day
    await gone(lambda: processes(mark))
    await gone(lambda: workspaces(server, found), seconds=2)


async def test_a_program_that_floods_its_output_is_ended(person: Person) -> None:
    found = await failed(person, "output", "yes", limits={"output": 100_000, "seconds": 20})
    assert len(str(found["detail"])) < 1_000


async def test_memory_and_disk_are_bounded(person: Person) -> None:
    eats = 'exec python3 -c "x=[bytearray(1<<20) for _ in range(900)]; import time; time.sleep(20)"'
    await failed(person, "memory", eats, limits={"memory": 100_000_000, "seconds": 30})
    await failed(
        person,
        "disk",
        "head -c 60000000 /dev/zero > big && sleep 20",
        limits={"disk": 20_000_000, "seconds": 30},
    )


async def test_too_many_and_too_large_outputs_are_left_out_and_named(person: Person) -> None:
    found = await done(
        person,
        "for n in 1 2 3 4; do echo $n > $n.txt; done; head -c 5000 /dev/zero > large; ln -s 1.txt link",
        limits={"artifacts": 2, "artifact_bytes": 1000},
    )
    assert found["status"] == "completed"
    assert len(names(found)) == 2
    why = {one["name"]: one["why"] for one in found["skipped"]}
    assert "large" in why
    assert "link" in why
    assert "4.txt" in why


async def test_a_driver_that_is_not_there_is_named(person: Person) -> None:
    answer = await person.call("POST", "/v1/operations", 422, json=shell("true") | {"driver": "nobody"})
    assert "command" in answer["detail"]


@pytest.mark.parametrize(
    "wrong, field",
    [
        ({"parameters": {}}, "parameters"),
        ({"parameters": {"argv": []}}, "parameters"),
        ({"parameters": {"argv": ["x"], "more": 1}}, "parameters"),
        ({"model": "openai:gpt"}, "model"),
        ({"limits": {"seconds": 10_000}}, "limits.seconds"),
        ({"limits": {"memory": 1}}, "limits.memory"),
        ({"expected": [{"name": "a", "schema": {"type": 7}}]}, "expected.0.schema"),
        ({"budget": "-1"}, "budget"),
        ({"goal": ""}, "goal"),
        ({"min_level": "D"}, "min_level"),
    ],
    ids=lambda value: value if isinstance(value, str) else "wrong",
)
async def test_bad_requests_name_the_field(person: Person, wrong: dict[str, object], field: str) -> None:
    answer = await person.call("POST", "/v1/operations", 422, json=shell("true") | wrong)
    assert field in json.dumps(answer)


# Cancel, retry, keys


async def test_cancel_ends_the_sandbox_within_a_second_and_publishes_nothing(
    person: Person, server: RunningServer
) -> None:
    mark = f"3600.{uuid4().int % 10**9}"
    operation = await operate(person, f"echo half > half.txt; sleep {mark}")
    await until(person, operation, lambda found: found["phase"] == "running")
    await holds(lambda: bool(processes(mark)))
    answer = await person.call(
        "POST", f"/v1/operations/{operation['operation_id']}/cancel", 202, json={"reason": "changed my mind"}
    )
    assert answer["cancelling"]
    began = time.monotonic()
    await gone(lambda: processes(mark), seconds=1.5)
    assert time.monotonic() - began < 1.5
    found = await until(person, operation)
    assert (found["status"], found["detail"], found["artifacts"]) == ("cancelled", "changed my mind", [])
    await gone(lambda: workspaces(server, operation))
    assert (await person.call("GET", "/v1/artifacts"))["items"] == []
    await person.call("POST", f"/v1/operations/{operation['operation_id']}/cancel", 409)
    run = await person.until(found["run_id"])
    assert run["status"] == "cancelled"


async def test_retry_begins_anew_what_did_not_succeed(person: Person) -> None:
    found = await done(person, "exit 1", files=[{"name": "in.txt", "content": "kept for another try"}])
    path = f"/v1/operations/{found['operation_id']}/retry"
    again = await person.call("POST", path, 202)
    assert again["status"] in ("queued", "running")
    second = await until(person, found)
    assert second["status"] == "failed"
    assert second["attempt"] == 2
    assert second["run_id"] != found["run_id"]
    assert (await types(person, found)).count("failed") == 2
    good = await done(person, "true")
    await person.call("POST", f"/v1/operations/{good['operation_id']}/retry", 409)


async def test_one_idempotency_key_begins_one_operation(person: Person) -> None:
    key, body = str(uuid4()), shell("true")
    first = await person.call("POST", "/v1/operations", 202, json=body, headers={"Idempotency-Key": key})
    again = await person.call("POST", "/v1/operations", 202, json=body, headers={"Idempotency-Key": key})
    assert first["operation_id"] == again["operation_id"]
    await person.call("POST", "/v1/operations", 422, json=shell("false"), headers={"Idempotency-Key": key})
    assert len((await person.call("GET", "/v1/operations"))["items"]) == 1


async def test_lists_are_in_pages_and_by_status(person: Person) -> None:
    made = [await done(person, script) for script in ("true", "true", "exit 1")]
    page = await person.call("GET", "/v1/operations?limit=2")
    rest = await person.call("GET", f"/v1/operations?limit=2&cursor={page['next_cursor']}")
    listed = [one["operation_id"] for one in page["items"] + rest["items"]]
    assert listed == [one["operation_id"] for one in reversed(made)]
    only = await person.call("GET", "/v1/operations?status=failed")
    assert [one["operation_id"] for one in only["items"]] == [made[2]["operation_id"]]


async def test_nobody_else_sees_it(person: Person, server: RunningServer) -> None:
    found = await done(person, "echo x > x.txt")
    other = await server.person("eve")
    for method, path in (("GET", ""), ("POST", "/cancel"), ("POST", "/retry"), ("GET", "/events"), ("GET", "/stream"),
                         ("GET", "/artifacts"), ("GET", "/artifacts/x.txt"), ("DELETE", "/artifacts")):  # fmt: skip
        answer = await other.client.request(method, f"/v1/operations/{found['operation_id']}{path}")
        assert answer.status_code == 404, (method, path, answer.text)
    assert (await other.call("GET", "/v1/operations"))["items"] == []


async def test_deleting_what_an_operation_left_leaves_the_operation(person: Person) -> None:
    found = await done(person, "echo a > a.txt; echo b > b.txt")
    path = f"/v1/operations/{found['operation_id']}"
    assert await person.call("DELETE", f"{path}/artifacts") == {"deleted": 2, "held": 0}
    assert (await shown(person, found))["artifacts"] == []
    assert (await person.client.get(f"{path}/artifacts/a.txt")).status_code in (404, 410)


# Watching


async def test_the_stream_shows_events_and_what_the_agent_writes(person: Person) -> None:
    operation = await operate(person, "echo first line; sleep 1; echo second line; echo x > x.txt")
    seen: list[str] = []
    said = ""
    request = person.client.stream("GET", f"/v1/operations/{operation['operation_id']}/stream?after=0", timeout=30)
    async with request as response:
        assert response.status_code == 200
        async for line in response.aiter_lines():
            if line.startswith("event:"):
                seen.append(line.partition(":")[2].strip())
            elif line.startswith("data:") and seen[-1] == "message_delta":
                said += json.loads(line[5:])["payload"]["text"]
            elif line.startswith("data:"):
                told = json.loads(line[5:])
                assert told["session_id"] == operation["operation_id"]
            if seen and seen[-1] == "task_completed" and line.startswith("data:"):
                break
    assert "first line" in said
    assert "second line" in said
    assert seen[0] == "task_progress"
    assert "task_started" in seen
    assert seen[-1] == "task_completed"
    found = await person.call("GET", f"/v1/operations/{operation['operation_id']}")
    assert told["payload"]["usage"]["cost"] == found["usage"]["cost"], "money is dollars as text, here too"


async def test_one_connection_sees_all_of_an_operation_that_takes_longer_than_rights_are_good_for(
    person: Person,
) -> None:
    """Bug that this catches: rights are asked for again with the teams, told without them, and said to have changed."""
    operation = await operate(person, "sleep 6")
    request = person.client.stream("GET", f"/v1/operations/{operation['operation_id']}/stream?after=0", timeout=30)
    async with request as response:
        names: list[str] = []
        async for line in response.aiter_lines():
            assert "rights changed" not in line
            names += [line.partition(":")[2].strip()] if line.startswith("event:") else []
            if "task_completed" in names:
                break
    assert "task_completed" in names


async def test_what_an_agent_writes_is_shown_up_to_a_bound(person: Person) -> None:
    operation = await operate(
        person, "sleep 0.3; head -c 3000000 /dev/zero | tr '\\0' x; sleep 0.5", limits={"output": 5_000_000}
    )
    said = 0
    request = person.client.stream("GET", f"/v1/operations/{operation['operation_id']}/stream?after=0", timeout=30)
    async with request as response:
        name = ""
        async for line in response.aiter_lines():
            name = line.partition(":")[2].strip() if line.startswith("event:") else name
            if line.startswith("data:") and name == "message_delta":
                said += len(json.loads(line[5:])["payload"]["text"])
            elif line.startswith("data:") and name == "task_completed":
                break
    assert 200_000 < said < 300_000
