"""Fault 2: a worker is killed at every boundary of a run; the run ends as if nothing had happened."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest

from tests.faults.effects import TOOLS, effect_settings, effects, problems
from tests.support.databases import Cluster
from tests.support.model_server import ModelServer
from tests.support.running import ENDED, Person, RunningServer, running_server

TASK = """!tool note_once {"text": "a"}
!tool note_blindly {"text": "b"}
!tool files_write {"path": "c.txt", "content": "c"}
!say All is noted."""


class Zygote:
    """Forks workers; see ``zygote.py``."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def worker(self, fatal: int) -> int:
        """Start a worker that dies at a boundary (0: lives); return its process id."""
        return int(await self._ask(str(fatal)))

    async def stop(self, pid: int) -> None:
        await self._ask(f"stop {pid}")

    async def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\n".encode())
        await self._process.stdin.drain()
        return (await asyncio.wait_for(self._process.stdout.readline(), 30)).decode().strip()


@asynccontextmanager
async def zygote(server: RunningServer, trace: Path) -> AsyncIterator[Zygote]:
    environment = server.environment() | {
        "PYTHONPATH": os.pathsep.join([str(Path.cwd()), server.settings["PYTHONPATH"]]),
        "TEST_BOUNDARY_TRACE": str(trace),
    }
    log = (server.folder / "zygote.log").open("ab")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.faults.zygote",
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=log,
    )
    try:
        assert process.stdout is not None
        assert (await asyncio.wait_for(process.stdout.readline(), 60)).strip() == b"ready", server.log()
        yield Zygote(process)
    finally:
        process.kill()
        await process.wait()
        log.close()


def _is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def _journey(ada: Person, agent: dict[str, Any], forks: Zygote, fatal: int, file: Path) -> str:
    """Send the task to a worker that dies at a boundary, help as a person would, and return the ended run's id."""
    pid = await forks.worker(fatal)
    run_id: str = (await ada.send(agent, TASK, str(uuid4())))["run_id"]
    said: set[str] = set()
    while (run := await ada.run(run_id))["status"] not in ENDED:
        if not _is_alive(pid):
            pid = await forks.worker(0)
        for wait in run["waiting_on"]:
            if wait["kind"] == "approval":
                for approval in await ada.approvals():
                    await ada.decide(approval)
            elif wait["call_id"] not in said:
                said.add(wait["call_id"])
                happened = any(f"{run_id}:{wait['call_id']}" in line for line in effects(file))
                body = {"call_id": wait["call_id"], "outcome": "happened" if happened else "again", "result": "noted"}
                await ada.call("POST", f"/v1/my/runs/{run_id}/reconcile", json=body)
        await asyncio.sleep(0.02)
    if _is_alive(pid):
        await forks.stop(pid)
    return run_id


async def _end_state(ada: Person, run_id: str) -> dict[str, Any]:
    """Return what must not depend on where a worker died."""
    run = await ada.run(run_id)
    steps = (await ada.call("GET", f"/v1/my/runs/{run_id}/steps"))["items"]
    messages = await ada.call("GET", f"/v1/my/chat/{run['session_id']}/messages")
    return {
        "status": run["status"],
        "tokens": (run["input_tokens"] > 0, run["output_tokens"] > 0),
        "steps": [(step["kind"], step["name"], step["status"], step["arguments"], step["result"]) for step in steps],
        "messages": [(message["role"], message["status"], message["content"]) for message in messages["items"]],
    }


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_a_kill_at_every_boundary_changes_nothing(postgres: Cluster, tmp_path: Path) -> None:
    file, trace = tmp_path / "effects", tmp_path / "trace"
    async with ModelServer() as model:
        settings = effect_settings(file, OPENAI_BASE_URL=model.base_url, RETINUE_BEAT_SECONDS="0.2")
        async with running_server(postgres, worker=False, **settings) as server, zygote(server, trace) as forks:
            ada = await server.person()
            agent = await ada.agent(
                model="openai:stub-0ms",
                tools=[*TOOLS, "files"],
                tool_policy={"note_once": "allow", "note_blindly": "allow"},
            )
            undisturbed = await _journey(ada, agent, forks, 0, file)
            expected = await _end_state(ada, undisturbed)
            names = [line.split(maxsplit=1)[1] for line in trace.read_text().splitlines()]
            assert expected["status"] == "completed"
            assert {name.split()[1] for name in names} == {"model", "tool", "journal", "commit", "claim"}
            runs = [undisturbed]
            for boundary in range(1, len(names) + 1):
                run_id = await _journey(ada, agent, forks, boundary, file)
                assert await _end_state(ada, run_id) == expected, f"killed {names[boundary - 1]} ({boundary})"
                runs.append(run_id)
            events = {run_id: await ada.events(run_id) for run_id in runs}
    assert problems(file, events) == []
    assert Counter(line.split()[2] for line in effects(file)) == {"a": len(runs), "b": len(runs)}
