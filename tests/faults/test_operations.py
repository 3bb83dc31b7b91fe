"""Workers die, stop, and lose their store while they carry operations out: an operation ends once, and whole."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest

from tests.faults.mutants import planted
from tests.faults.operation_bugs import BOUNDARIES, DIE
from tests.operations.support import ENDED, Shown, gone, operate, processes, shown, types, until, workspaces
from tests.support.databases import Cluster
from tests.support.running import Person, Process, RunningServer, running_server
from tests.support.waiting import holds

pytestmark = pytest.mark.fault

BUGS = "tests.faults.operation_bugs"
SCRIPT = "cat in.txt in.txt > twice.txt; head -c 3000000 /dev/urandom > large.bin; echo done"
FILES = [{"name": "in.txt", "content": "once\n"}]


@dataclass
class Stage:
    """A server without a worker, somebody, and workers that die where a file says."""

    server: RunningServer
    ada: Person
    file: Path
    settings: dict[str, str]

    async def worker(self, *bugs: str) -> Process:
        """Start a worker with bugs and wait until it takes work."""
        mutant = ",".join(f"{BUGS}:{one}" for one in ("dies", *bugs))
        worker = self.server.start_worker(**(planted(mutant) | {DIE: str(self.file)}))
        await holds(lambda: "is ready" in worker.output() or not is_alive(worker), seconds=30)
        assert is_alive(worker), worker.output()[-3000:]
        return worker


def is_alive(worker: Process) -> bool:
    return worker.popen is not None and worker.popen.poll() is None


def _is_dead(worker: Process) -> bool:
    return not is_alive(worker)


@asynccontextmanager
async def stage_on(postgres: Cluster, file: Path) -> AsyncIterator[Stage]:
    settings = {"RETINUE_BEAT_SECONDS": "0.2", "RETINUE_DEAD_AFTER_SECONDS": "1"}
    async with running_server(postgres, worker=False, **settings) as server:
        yield Stage(server, await server.person(), file, settings)


@pytest.fixture(scope="module")
async def stage(postgres: Cluster, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with stage_on(postgres, tmp_path_factory.mktemp("operations") / "die-at") as found:
        yield found


@pytest.fixture(autouse=True)
async def afterwards(stage: Stage) -> AsyncIterator[None]:
    """Leave no worker to the next test: it would work on, or die in the place of another one."""
    yield
    stage.file.write_text("")
    await stage.server.kill_workers()


def blobs(server: RunningServer, tenant_id: str) -> list[Path]:
    folder = server.folder / "blobs" / tenant_id
    return [one for one in folder.rglob("*") if one.is_file()] if folder.exists() else []


async def wrong(stage: Stage, ada: Person, operation: Shown) -> list[str]:
    """Return what does not hold of an operation that has ended: it is whole or there is nothing, and once."""
    found = await shown(ada, operation)
    happened = Counter(await types(ada, operation))
    problems: list[str] = []
    endings = {name: happened[name] for name in ENDED if happened[name]}
    if sum(endings.values()) != 1:
        problems.append(f"it ended {endings}")
    page = await ada.call("GET", f"/v1/artifacts?operation_id={operation['operation_id']}&limit=200")
    there = Counter(one["name"] for one in page["items"])
    if found["status"] == "completed" and there != Counter({"twice.txt": 1, "large.bin": 1}):
        problems.append(f"its artifacts are {dict(there)}")
    if found["status"] != "completed" and found["kind"] in ("store", "grant") and there:
        problems.append(f"it failed, and shows {dict(there)}")
    for one in page["items"]:
        answer = await ada.client.get(f"/v1/artifacts/{one['artifact_id']}/content")
        if answer.status_code != 200 or len(answer.content) != one["size"]:
            problems.append(f"{one['name']} cannot be read: {answer.status_code}")
    run = await ada.run(found["run_id"])
    if run["status"] not in ("completed", "failed", "cancelled"):
        run = await ada.until(found["run_id"])
    if (run["status"] == "completed") != (found["status"] == "completed"):
        problems.append(f"it is {found['status']}, and its run {run['status']}")
    kept = sum(one["size"] for one in (await ada.call("GET", "/v1/artifacts?limit=200"))["items"])
    quota = await ada.call("GET", "/v1/my/quota")
    used = quota["storage"]["used_bytes"]
    if used != kept:
        problems.append(f"{used} bytes are counted, {kept} are kept")
    return problems


async def settled(stage: Stage, ada: Person, operation: Shown) -> None:
    """Wait until nothing of an operation is left but what it published."""
    await gone(lambda: workspaces(stage.server, operation))
    page = await ada.call("GET", "/v1/artifacts?limit=200")
    await holds(lambda: len(blobs(stage.server, ada.tenant_id)) == len(page["items"]))


# Death at each step


@pytest.mark.parametrize("boundary", BOUNDARIES, ids=lambda name: name.replace(" ", "-"))
async def test_a_worker_that_dies_at_a_step_leaves_an_operation_that_ends_once_and_whole(
    stage: Stage, boundary: str
) -> None:
    ada = await stage.server.person()
    operation, first = await _died_at(stage, ada, boundary)
    await stage.worker()
    found = await until(ada, operation)
    assert found["status"] == "completed", found["detail"]
    assert first is not None, f"it passed no boundary {boundary!r}"
    if boundary in ("after final", "after wipe"):
        assert found["attempt"] == 1
    elif boundary != "after prepare":  # to try the sandbox out is to prepare one, too
        wanted = 1 if boundary == "before begin" else 2
        # One more where a slow machine held the living worker up for a second: then it is taken for dead, too.
        assert found["attempt"] in (wanted, wanted + 1)
    assert await wrong(stage, ada, operation) == []
    await settled(stage, ada, operation)


async def _died_at(stage: Stage, ada: Person, boundary: str, *bugs: str) -> tuple[Shown, Process | None]:
    """Have a worker die at a boundary of an operation; return None for it when it did not pass there."""
    stage.file.write_text(boundary)
    first = await stage.worker(*bugs)
    operation = await operate(ada, SCRIPT, files=FILES)
    try:
        await holds(lambda: not is_alive(first), seconds=15)
    except TimeoutError:
        return operation, None
    finally:
        stage.file.write_text("")
    return operation, first


async def test_a_worker_killed_while_the_program_runs_takes_its_sandbox_along(stage: Stage) -> None:
    """Bug that this catches: the program of a dead worker goes on beside that of the next attempt."""
    ada, mark = await stage.server.person(), f"3600.{uuid4().int % 10**9}"
    first = await stage.worker()
    script = f"if [ -e again ]; then exit 0; fi; echo one > one.txt; sleep {mark}"
    operation = await operate(ada, script)
    await holds(lambda: bool(processes(mark)))
    before = set(processes(mark))
    await asyncio.to_thread(first.kill)
    await stage.worker()
    await until(ada, operation, lambda found: found["attempt"] == 2 and found["phase"] == "running")
    await holds(lambda: not before & set(processes(mark)))
    await holds(lambda: bool(processes(mark)))
    await ada.call("POST", f"/v1/operations/{operation['operation_id']}/cancel", 202)
    assert (await until(ada, operation))["status"] == "cancelled"
    await gone(lambda: processes(mark))
    await gone(lambda: workspaces(stage.server, operation))


async def test_an_operation_whose_workers_all_die_is_failed_by_policy(stage: Stage) -> None:
    """Bug that this catches: a poison operation takes one worker after the other down, for ever."""
    ada = await stage.server.person()
    await ada.call("PUT", f"/v1/tenants/{ada.tenant_id}/operations/policy", 200, json={"attempts": 2})
    stage.file.write_text("after program")
    operation = await operate(ada, SCRIPT, files=FILES)
    for _ in range(2):
        worker = await stage.worker()
        await holds(partial(_is_dead, worker))
    await stage.worker()
    found = await until(ada, operation)
    stage.file.write_text("")
    assert (found["status"], found["kind"], found["attempt"]) == ("failed", "worker_lost", 2)
    assert await wrong(stage, ada, operation) == []
    await settled(stage, ada, operation)


async def test_a_worker_that_ends_in_good_order_hands_over_and_costs_no_try(stage: Stage) -> None:
    """Bug that this catches: three updates of the server within an operation fail it."""
    ada, mark = await stage.server.person(), f"3600.{uuid4().int % 10**9}"
    await ada.call("PUT", f"/v1/tenants/{ada.tenant_id}/operations/policy", 200, json={"attempts": 1})
    operation = await operate(ada, f"sleep {mark}")
    for _ in range(2):
        worker = await stage.worker()
        await holds(lambda: bool(processes(mark)))
        await asyncio.to_thread(worker.stop)
        await gone(lambda: processes(mark))
    await stage.worker()
    await until(ada, operation, lambda found: found["attempt"] == 3)
    await ada.call("POST", f"/v1/operations/{operation['operation_id']}/cancel", 202)
    found = await until(ada, operation)
    assert found["status"] == "cancelled"
    assert (await types(ada, operation)).count("handed_over") == 2
    await settled(stage, ada, operation)


# The one that was taken for dead


async def _zombie(stage: Stage, *bugs: str) -> tuple[Person, Shown]:
    """Stop a worker in the middle, let another one do its work, and let the first one go on.

    It does not hear that it has lost the operation: nothing but the fence is in its way.
    """
    ada, mark = await stage.server.person(), f"2.{uuid4().int % 10**9}"
    stopped = await stage.worker("deaf", *bugs)
    operation = await operate(ada, f"sleep {mark}; {SCRIPT}", files=FILES)
    await holds(lambda: bool(processes(mark)))
    stopped.signal(signal.SIGSTOP)
    try:
        other = await stage.worker(*bugs)
        await until(ada, operation, lambda found: found["attempt"] == 2)
        await until(ada, operation)
    finally:
        stopped.signal(signal.SIGCONT)
    await holds(lambda: "declared dead" in stopped.output())
    # What it does when it wakes is done when it takes new work.
    await asyncio.to_thread(other.stop)
    after = await operate(ada, "true")
    await until(ada, after)
    await ada.call("DELETE", f"/v1/operations/{after['operation_id']}/artifacts")
    return ada, operation


async def test_a_worker_that_was_taken_for_dead_publishes_nothing(stage: Stage) -> None:
    ada, operation = await _zombie(stage)
    found = await shown(ada, operation)
    assert (found["status"], found["attempt"]) == ("completed", 2)
    assert await wrong(stage, ada, operation) == []
    await settled(stage, ada, operation)


# A store that does not do its work


@pytest.mark.parametrize("store", ["store_refuses", "store_half_writes", "store_fills_up"])
async def test_where_the_store_fails_the_operation_fails_and_shows_nothing(stage: Stage, store: str) -> None:
    ada = await stage.server.person()
    await stage.worker(store)
    operation = await operate(ada, SCRIPT, files=FILES)
    found = await until(ada, operation)
    assert (found["status"], found["kind"], found["artifacts"]) == ("failed", "store", [])
    assert await wrong(stage, ada, operation) == []
    await gone(lambda: workspaces(stage.server, operation))
    # And once the store is well again, another try succeeds.
    await stage.server.kill_workers()
    await stage.worker()
    await ada.call("POST", f"/v1/operations/{operation['operation_id']}/retry", 202)
    assert (await until(ada, operation))["status"] == "completed"
    await settled(stage, ada, operation)


async def test_a_user_without_room_gets_an_operation_that_failed_for_its_quota(stage: Stage) -> None:
    ada = await stage.server.person()
    await ada.call("PUT", f"/v1/tenants/{ada.tenant_id}/operations/policy", 200, json={"user_storage": 1_000_000})
    await stage.worker()
    operation = await operate(ada, SCRIPT, files=FILES)
    found = await until(ada, operation)
    assert (found["status"], found["kind"], found["artifacts"]) == ("failed", "quota", [])
    assert await wrong(stage, ada, operation) == []
    await settled(stage, ada, operation)


# Cancel at each step


@pytest.mark.parametrize("step", ["queued", "running", "collecting"])
async def test_cancel_at_a_step_leaves_nothing(stage: Stage, step: str) -> None:
    ada = await stage.server.person()
    script = {"queued": SCRIPT, "running": f"{SCRIPT}; sleep 30", "collecting": SCRIPT}[step]
    if step != "queued":
        await stage.worker(*(["slow_store"] if step == "collecting" else []))
    operation = await operate(ada, script, files=FILES)
    if step != "queued":
        await until(ada, operation, lambda found: found["phase"] == step)
    await ada.call("POST", f"/v1/operations/{operation['operation_id']}/cancel", 202)
    if step == "queued":
        await stage.worker()
    found = await until(ada, operation)
    assert (found["status"], found["artifacts"]) == ("cancelled", [])
    assert await wrong(stage, ada, operation) == []
    await settled(stage, ada, operation)


# Planted bugs: what is asked above would be noticed


async def test_an_operation_without_a_fence_is_noticed(stage: Stage) -> None:
    ada, operation = await _zombie(stage, "no_fence")
    assert await wrong(stage, ada, operation) != []


async def test_artifacts_published_apart_are_noticed(stage: Stage) -> None:
    ada = await stage.server.person()
    operation, first = await _died_at(stage, ada, "before its commit", "publishes_apart")
    assert first is not None
    await stage.worker("publishes_apart")
    await until(ada, operation)
    assert await wrong(stage, ada, operation) != []


async def test_a_sandbox_that_outlives_its_worker_is_noticed(stage: Stage) -> None:
    ada = await stage.server.person()
    operation, first = await _died_at(stage, ada, "after lay out", "leaves_the_sandbox")
    assert first is not None
    await stage.worker("leaves_the_sandbox")
    await until(ada, operation)
    with pytest.raises(AssertionError):
        await gone(lambda: workspaces(stage.server, operation), seconds=2)


async def test_a_workspace_that_stays_is_noticed(stage: Stage) -> None:
    ada = await stage.server.person()
    await stage.worker("wipes_nothing")
    operation = await operate(ada, SCRIPT, files=FILES)
    await until(ada, operation)
    with pytest.raises(AssertionError):
        await gone(lambda: workspaces(stage.server, operation), seconds=1)


async def test_an_operation_that_publishes_after_its_cancellation_is_noticed(stage: Stage) -> None:
    ada = await stage.server.person()
    await stage.worker("slow_store", "deaf", "publishes_after_cancel")
    operation = await operate(ada, SCRIPT, files=FILES)
    await until(ada, operation, lambda found: found["phase"] == "collecting")
    await ada.call("POST", f"/v1/operations/{operation['operation_id']}/cancel", 202)
    found = await until(ada, operation)
    assert found["status"] != "cancelled" or found["artifacts"]


async def test_a_worker_that_does_not_hear_of_a_cancellation_publishes_nothing_all_the_same(stage: Stage) -> None:
    """The run's cancel reaches the worker by its beat; the final transaction looks for itself."""
    ada = await stage.server.person()
    await stage.worker("slow_store", "deaf")
    operation = await operate(ada, SCRIPT, files=FILES)
    await until(ada, operation, lambda found: found["phase"] == "collecting")
    await ada.call("POST", f"/v1/operations/{operation['operation_id']}/cancel", 202)
    found = await until(ada, operation)
    assert (found["status"], found["artifacts"]) == ("cancelled", [])
