"""Operations that are left in the middle, for whatever reason, are charged for what they used: all of it, and once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from tests.faults.test_operations import Stage, stage_on
from tests.operations.support import Shown, operate, processes, shell, shown, until
from tests.support.databases import Cluster
from tests.support.running import Person
from tests.support.signing import application_of
from tests.support.waiting import holds

pytestmark = pytest.mark.fault

BUSY = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"


@pytest.fixture(scope="module")
async def stage(postgres: Cluster, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with stage_on(postgres, tmp_path_factory.mktemp("left") / "die-at") as found:
        yield found


@pytest.fixture(autouse=True)
async def afterwards(stage: Stage) -> AsyncIterator[None]:
    """Leave no worker to the next test."""
    yield
    await stage.server.kill_workers()


def _busy() -> tuple[str, str]:
    """Return a script that works, then waits for ever, and what its waiting is known by."""
    first, second = f"3600.{uuid4().int % 10**9}", str(uuid4().int % 10**6)
    return f"{BUSY}; sleep {first}''{second}", first + second  # the shell's own command line does not hold it


async def told(ada: Person, operation: Shown) -> list[dict[str, Any]]:
    """Return what each attempt was said to have used, in the order of the events that say so."""
    page = await ada.call("GET", f"/v1/operations/{operation['operation_id']}/events?limit=200")
    return [
        one["data"]["usage"] | {"attempt": one["data"]["attempt"]} for one in page["items"] if "usage" in one["data"]
    ]


async def wrong(ada: Person, operation: Shown, attempts: int = 1) -> list[str]:
    """Return what does not hold of the bill of an operation that has ended after so many attempts."""
    found = await shown(ada, operation)
    by_attempt = {one["attempt"]: one for one in await told(ada, operation)}
    problems = []
    if sorted(by_attempt) != list(range(1, attempts + 1)):
        problems.append(f"of {attempts} attempts, {sorted(by_attempt)} told what they used")
    lines = {line["kind"]: Decimal(line["quantity"]) for line in found["bill"]["lines"]}
    used = sum(Decimal(str(one.get("cpu_seconds", 0))) for one in by_attempt.values())
    if abs(lines.get("cpu", Decimal(0)) - used) > Decimal("0.0001") or used < Decimal("0.02") * attempts:
        problems.append(f"{lines.get('cpu')} s of processor time on the bill, {used} s used")
    if not lines.get("memory"):
        problems.append("no memory on the bill")
    if found["usage"] is None or Decimal(found["usage"]["cost"]) != Decimal(found["bill"]["total"]):
        problems.append(f"{found['usage']} is not what the bill says: {found['bill']['total']}")
    report = await ada.call("GET", "/v1/my/costs")
    if Decimal(report["total"]["cost"]) != Decimal(found["bill"]["total"]):
        problems.append(f"{report['total']['cost']} in the report, {found['bill']['total']} on the bill")
    return problems


async def _cancelled(stage: Stage, *bugs: str) -> tuple[Person, Shown]:
    ada, (script, mark) = await stage.server.person(), _busy()
    await stage.worker(*bugs)
    operation = await operate(ada, script)
    await holds(lambda: bool(processes(mark)))
    await ada.call("POST", f"/v1/operations/{operation['operation_id']}/cancel", 202)
    assert (await until(ada, operation))["status"] == "cancelled"
    return ada, operation


async def _run_cancelled(stage: Stage, *bugs: str) -> tuple[Person, Shown]:
    """Cancel the run that carries an operation out, and not the operation: somebody else records its end."""
    ada, (script, mark) = await stage.server.person(), _busy()
    await stage.worker(*bugs)
    operation = await operate(ada, script)
    await holds(lambda: bool(processes(mark)))
    run_id = (await shown(ada, operation))["run_id"]
    await ada.call("POST", f"/v1/my/runs/{run_id}/cancel", 202)
    assert (await until(ada, operation))["status"] == "cancelled"
    return ada, operation


async def test_a_cancelled_operation_is_charged_for_what_it_used(stage: Stage) -> None:
    assert await wrong(*await _cancelled(stage)) == []


async def test_an_operation_whose_run_is_cancelled_is_charged_once(stage: Stage) -> None:
    """The attempt charges when it is left, and the end that somebody else records does not charge for it again."""
    assert await wrong(*await _run_cancelled(stage)) == []


async def test_an_operation_whose_grant_is_revoked_is_charged_to_the_grant(stage: Stage) -> None:
    ada, (script, mark) = await stage.server.person(), _busy()
    await stage.worker()
    async with application_of(ada, drivers=["command"], budget="5") as application:
        answer = await application.http.post("/v1/operations", json=shell(script))
        assert answer.status_code == 202, answer.text
        operation = answer.json()
        await holds(lambda: bool(processes(mark)))
        await ada.call("DELETE", f"/v1/my/grants/{application.grant_id}")
        found = await until(ada, operation)
        grant = await ada.call("GET", f"/v1/my/grants/{application.grant_id}")
    assert (found["status"], found["kind"]) == ("failed", "grant")
    assert await wrong(ada, operation) == []
    assert Decimal(grant["spent"]) == Decimal(found["bill"]["total"]) > 0


async def test_each_attempt_that_is_handed_over_is_charged(stage: Stage) -> None:
    """Two workers end in good order, a third one is told of a cancellation: three attempts, and all are paid for."""
    ada, (script, mark) = await stage.server.person(), _busy()
    operation = await operate(ada, script)
    for _ in range(2):
        worker = await stage.worker()
        await holds(lambda: bool(processes(mark)))
        await asyncio.to_thread(worker.stop)
        await holds(lambda: not processes(mark))
    await stage.worker()
    await until(ada, operation, lambda found: found["attempt"] == 3)
    await holds(lambda: bool(processes(mark)))
    await ada.call("POST", f"/v1/operations/{operation['operation_id']}/cancel", 202)
    await until(ada, operation)
    assert await wrong(ada, operation, attempts=3) == []


async def test_what_is_cancelled_between_two_attempts_is_charged_for_the_first(stage: Stage) -> None:
    ada, (script, mark) = await stage.server.person(), _busy()
    operation = await operate(ada, script)
    worker = await stage.worker()
    await holds(lambda: bool(processes(mark)))
    await asyncio.to_thread(worker.stop)
    await ada.call("POST", f"/v1/operations/{operation['operation_id']}/cancel", 202)
    await stage.worker()
    found = await until(ada, operation)
    assert (found["status"], found["attempt"]) == ("cancelled", 1)
    assert await wrong(ada, operation) == []


# Planted bugs: what is asked above would be noticed


async def test_a_sandbox_that_does_not_tell_is_noticed(stage: Stage) -> None:
    assert await wrong(*await _cancelled(stage, "tells_no_usage")) != []


async def test_an_attempt_that_is_charged_twice_is_noticed(stage: Stage) -> None:
    assert await wrong(*await _run_cancelled(stage, "charges_again")) != []
