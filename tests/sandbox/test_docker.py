"""The Docker sandbox against an engine of our own that speaks the API calls it uses: no real engine runs here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import aiodocker
import pytest
import pytest_asyncio

from retinue.sandbox import Level, Limits, Sandbox, SandboxFailed, SandboxRefused
from retinue.sandbox.conformance import SandboxConformance
from retinue.sandbox.docker import Docker
from retinue.sandbox.identities import borrow
from retinue.sandbox.means import Means
from retinue.sandbox.volumes import Kind
from tests.support.container_engine import Engine
from tests.support.sandboxes import make_job, run_job
from tests.support.waiting import holds


@pytest_asyncio.fixture
async def engine() -> AsyncIterator[Engine]:
    found = Engine()
    await found.open()
    yield found
    await found.close()


def docker(engine: Engine, folder: Path, image: str = "image", runtime: str | None = None) -> Docker:
    """A sandbox that speaks to the engine."""
    return Docker(folder, image, runtime, aiodocker.Docker(url=engine.url), Means(None, Kind.FOLDER))


class TestDocker(SandboxConformance):
    level = Level.B

    @pytest_asyncio.fixture(autouse=True)
    async def _engine(self, engine: Engine) -> None:
        self.engine = engine

    async def make_sandbox(self, folder: Path) -> Sandbox:
        return docker(self.engine, folder)

    async def until_measured(self, sandbox: Sandbox) -> None:
        """The engine is asked again and again: one answer that was asked for from now on, and that it has come."""

        def asked() -> int:
            return sum(one.endswith("/stats") for one in self.engine.asked)

        before = asked()
        await holds(lambda: asked() >= before + 2, seconds=60)

    async def test_a_program_can_be_talked_to(self, sandbox: Sandbox) -> None:
        with pytest.raises(SandboxRefused):
            await sandbox.interactive(await self.job(sandbox, "cat"))

    async def test_a_conversation_that_is_left_is_over(self, sandbox: Sandbox) -> None:
        """There are none."""


async def test_the_container_is_closed_on_every_side(engine: Engine, tmp_path: Path) -> None:
    sandbox = docker(engine, tmp_path, runtime="runsc")
    limits = Limits(seconds=20, memory=64 << 20, disk=1 << 20, processes=9, cores=0.5)
    ran = await run_job(sandbox, await make_job(sandbox, ["true"], limits=limits))
    (box,) = engine.boxes.values()
    host = box.configuration["HostConfig"]
    uid, _, gid = box.configuration["User"].partition(":")
    assert ran.ended.exit_code == 0
    assert "0" not in (uid, gid)
    assert {name: host[name] for name in ("NetworkMode", "ReadonlyRootfs", "CapDrop", "Runtime", "SecurityOpt")} == {
        "NetworkMode": "none",
        "ReadonlyRootfs": True,
        "CapDrop": ["ALL"],
        "Runtime": "runsc",
        "SecurityOpt": ["no-new-privileges:true"],
    }
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"]) == (64 << 20, 64 << 20, 500_000_000)
    assert host["PidsLimit"] < 20
    assert "Privileged" not in host
    assert box.removed
    await sandbox.close()


async def test_a_container_that_fills_the_disk_is_ended(engine: Engine, tmp_path: Path) -> None:
    sandbox = docker(engine, tmp_path)
    script = "for i in $(seq 40); do head -c 1000000 /dev/zero > f$i; sleep 0.05; done; sleep 60"
    limits = Limits(seconds=30, disk=4 << 20)
    ran = await run_job(sandbox, await make_job(sandbox, ["/bin/sh", "-c", script], limits=limits))
    assert ran.ended.reason == "disk"
    await sandbox.close()


async def test_an_engine_that_refuses_is_told_as_it_said(engine: Engine, tmp_path: Path) -> None:
    sandbox = docker(engine, tmp_path, image="missing")
    with pytest.raises(SandboxFailed, match="No such image"):
        await run_job(sandbox, await make_job(sandbox, ["true"]))
    assert (await sandbox.probe()).level is Level.D
    await sandbox.close()


async def test_an_engine_that_is_not_there_is_no_sandbox(engine: Engine, tmp_path: Path) -> None:
    sandbox = Docker(tmp_path, "image", None, aiodocker.Docker(url="http://127.0.0.1:9"), Means(None, Kind.FOLDER))
    probe = await sandbox.probe()
    assert probe.level is Level.D
    assert probe.missing
    await sandbox.close()


async def test_a_container_of_a_dead_worker_is_removed_and_another_server_s_is_not(
    engine: Engine, tmp_path: Path
) -> None:
    mine, other = docker(engine, tmp_path / "a"), docker(engine, tmp_path / "b")
    for sandbox in (mine, other):
        job = await make_job(sandbox, ["sleep", "60"])
        job = replace(job, workspace=await sandbox.prepare("same", job.limits), job_id="same")
        configuration = sandbox._configuration(job, borrow())
        await sandbox._docker().containers.create(configuration)
    await mine.reap("same")
    assert [box.removed for box in engine.boxes.values()] == [True, False]
    await mine.close()
    await other.close()
