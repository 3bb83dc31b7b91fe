"""Operations by the real agents, as a user sees them: server, gateway and sandbox are real, the models are scripted.

There is no network in the sandbox but the gateway's socket, so an agent that wanted its makers would stall here.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from retinue.kernel import Settings
from tests.operations.support import content, gone, names, processes, until, workspaces
from tests.support.aimock_server import Aimock, calls, never_answers, says
from tests.support.databases import Cluster
from tests.support.installed_agents import DRIVERS
from tests.support.running import Person, RunningServer, running_server

MODELS = {"qwen": "openai:gpt-scripted", "gemini": "google:gemini-2.5-pro"}
BOTH = pytest.mark.parametrize("driver", ["qwen", "gemini"])
MODES = pytest.mark.parametrize("mode", ["headless", "acp"])

REPORT = "# Report\n\nThree lines, all well.\n"


@pytest.fixture(scope="module")
async def server_of_agents(postgres: Cluster, installed: Settings, _aimock: Aimock) -> AsyncIterator[RunningServer]:
    """A server on which both agents are installed, whose providers are the scripted models."""
    async with running_server(postgres, **with_agents(_aimock)) as server:
        yield server


def with_agents(models: Aimock) -> dict[str, Any]:
    """Return the settings of such a server."""
    return {
        "RETINUE_DRIVERS": str(DRIVERS),
        "OPENAI_BASE_URL": f"{models.url}/v1",
        "OPENAI_API_KEY": "the-real-key",
        "GEMINI_BASE_URL": models.url,
        "GEMINI_API_KEY": "the-real-key",
    }


@pytest.fixture
async def person(server_of_agents: RunningServer) -> Person:
    return await server_of_agents.person()


async def operate(person: Person, driver: str, goal: str = "Report on data.txt.", **fields: Any) -> dict[str, Any]:
    body = {
        "driver": driver,
        "goal": goal,
        "model": MODELS[driver],
        "files": [{"name": "data.txt", "content": "one\ntwo\nthree\n"}],
    }
    found: dict[str, Any] = await person.call("POST", "/v1/operations", 202, json=body | fields)
    return found


def reads_and_reports() -> list[dict[str, Any]]:
    """A model that counts the lines of a file by a command, writes a report, and says so."""
    count = {"command": "wc -l < data.txt > lines.txt", "description": "count the lines"}
    report = {"file_path": "/work/report.md", "content": REPORT}
    return [
        calls("run_shell_command", count, "I count the lines.", turnIndex=0),
        calls("write_file", report, turnIndex=1),
        says("The report is in report.md.", turnIndex=2),
    ]


@BOTH
@MODES
async def test_an_agent_works_on_files_in_the_sandbox(
    driver: str, mode: str, person: Person, aimock: Aimock, server_of_agents: RunningServer
) -> None:
    aimock.script(*reads_and_reports())

    found = await until(person, await operate(person, driver, parameters={"mode": mode}), seconds=90)

    assert found["status"] == "completed", found["detail"]
    assert found["summary"] == "The report is in report.md."
    assert sorted(names(found)) == ["lines.txt", "report.md"]
    assert await content(person, found, "report.md") == REPORT.encode()
    assert (await content(person, found, "lines.txt")).strip() == b"3"
    assert found["usage"]["model_calls"] == 3
    assert aimock.statuses() == [200, 200, 200]
    await gone(lambda: workspaces(server_of_agents, found))


@BOTH
async def test_a_used_up_budget_stops_an_agent_in_the_middle(driver: str, person: Person, aimock: Aimock) -> None:
    aimock.script(*reads_and_reports())

    # The first call fits in; what it used leaves nothing for the second.
    wanted = await operate(person, driver, budget="0.000001")
    found = await until(person, wanted, seconds=60)

    assert found["status"] == "failed"
    assert found["kind"] == "budget", found["detail"]
    assert len(aimock.asked()) <= 1, "the gateway asked no provider again, and the agent did not try for ever"


@BOTH
async def test_a_model_that_the_policy_forbids_is_not_asked(driver: str, person: Person, aimock: Aimock) -> None:
    """The planted fault is the first test: the same operation without this policy completes."""
    aimock.script(*reads_and_reports())
    path = f"/v1/tenants/{person.tenant_id}/operations/policy"
    await person.call("PUT", path, 200, json={"models": ["*:something-else"]})

    answer = await person.client.post(
        "/v1/operations", json={"driver": driver, "goal": "Report.", "model": MODELS[driver]}
    )

    assert answer.status_code == 403, answer.text
    assert aimock.asked() == []


@BOTH
async def test_an_agent_whose_model_never_answers_is_ended_in_time(
    driver: str, person: Person, aimock: Aimock, server_of_agents: RunningServer
) -> None:
    aimock.script(never_answers())

    began = time.monotonic()
    wanted = await operate(person, driver, limits={"seconds": 6})
    found = await until(person, wanted, seconds=60)

    assert found["status"] == "timed_out", (found["kind"], found["detail"])
    assert time.monotonic() - began < 30
    await gone(lambda: workspaces(server_of_agents, found))


@BOTH
async def test_an_agent_that_does_nothing_has_not_done_it(driver: str, person: Person, aimock: Aimock) -> None:
    """It ends with 0 and says that all is well."""
    aimock.script(says("All is well."))

    found = await until(person, await operate(person, driver), seconds=60)

    assert found["status"] == "failed"
    assert found["kind"] == "nothing_done"
    assert names(found) == []


@BOTH
async def test_a_cancelled_operation_leaves_no_agent_behind(
    driver: str, person: Person, aimock: Aimock, server_of_agents: RunningServer
) -> None:
    aimock.script(never_answers())
    wanted = await operate(person, driver)
    await until(person, wanted, lambda now: now["phase"] == "working" or bool(aimock.asked()))

    await person.call("POST", f"/v1/operations/{wanted['operation_id']}/cancel")
    found = await until(person, wanted, seconds=20)

    assert found["status"] == "cancelled"
    await gone(lambda: workspaces(server_of_agents, wanted))
    await gone(lambda: [pid for pid in processes(str(wanted["operation_id"]))])


async def test_one_agent_goes_on_with_what_another_made(person: Person, aimock: Aimock) -> None:
    """Qwen Code writes, Gemini CLI reads it and adds."""
    notes = {"file_path": "/work/notes.md", "content": "by qwen\n"}
    aimock.script(calls("write_file", notes, hasToolResult=False), says("Written.", hasToolResult=True))
    first = await until(person, await operate(person, "qwen"), seconds=60)
    assert first["status"] == "completed", first["detail"]

    join = {"command": "cat notes.md > both.md; echo by gemini >> both.md", "description": "add a line"}
    aimock.script(calls("run_shell_command", join, hasToolResult=False), says("Added.", hasToolResult=True))
    inputs = [{"artifact_id": one["artifact_id"]} for one in first["artifacts"]]
    second = await until(person, await operate(person, "gemini", inputs=inputs, files=[]), seconds=60)

    assert second["status"] == "completed", second["detail"]
    assert await content(person, second, "both.md") == b"by qwen\nby gemini\n"


async def test_an_agent_that_floods_its_output_is_ended(person: Person, aimock: Aimock) -> None:
    """Gemini CLI writes all that a command printed; Qwen Code shortens it by itself."""
    flood = {"command": "head -c 5000000 /dev/zero | tr '\\0' x", "description": "flood"}
    aimock.script(calls("run_shell_command", flood, hasToolResult=False), says("Done.", hasToolResult=True))

    found = await until(person, await operate(person, "gemini", limits={"output": 1_000_000}), seconds=60)

    assert (found["status"], found["kind"]) == ("failed", "output")
