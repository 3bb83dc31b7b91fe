"""The real agents at every level of isolation that has a way to models, as root and as a plain user."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from retinue.kernel import Settings
from retinue.operations.driver import Driver, Finish, Task
from retinue.operations.drivers.gemini import GeminiDriver
from retinue.operations.drivers.qwen import QwenDriver
from retinue.sandbox import GATEWAY_PORT, HOME, WORK, Level, Limits
from tests.operations.drivers.starting import MODELS
from tests.support.aimock_server import Aimock, calls, says
from tests.support.sandboxes import LEVELS, ROOT, make_job, run_job, run_tests_as_plain_user, sandbox_of

BOTH = pytest.mark.parametrize("driver", [QwenDriver(), GeminiDriver()], ids=lambda driver: driver.name)
# Level C has no sockets, so nothing that needs a model runs there.
EVERYWHERE = pytest.mark.parametrize(
    "level", [level for level in LEVELS if level is not Level.C], ids=lambda level: level.value
)

LIMITS = Limits(seconds=60, memory=2_000_000_000, disk=1_000_000_000)


@asynccontextmanager
async def socket_to(models: Aimock) -> AsyncIterator[Path]:
    """A unix socket that leads to the models, in the place of the gateway's."""
    address = urlsplit(models.url)

    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65_536):
                target.write(data)
                await target.drain()
        except ConnectionError:
            pass
        target.close()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(address.hostname, address.port)
        await asyncio.gather(pump(reader, back), pump(there, writer))

    with tempfile.TemporaryDirectory(prefix="models-") as folder:
        path = Path(folder) / "s"
        async with await asyncio.start_unix_server(forward, path):
            await asyncio.to_thread(os.chmod, path, 0o777)
            await asyncio.to_thread(os.chmod, folder, 0o711)
            yield path


@BOTH
@EVERYWHERE
async def test_an_agent_works_at_this_level(
    driver: Driver, level: Level, tmp_path: Path, installed: Settings, aimock: Aimock
) -> None:
    count = {"command": "wc -l < data.txt > lines.txt", "description": "count the lines"}
    aimock.script(calls("run_shell_command", count, hasToolResult=False), says("Counted.", hasToolResult=True))
    sandbox = sandbox_of(level, tmp_path)
    job = await make_job(sandbox, ["true"], limits=LIMITS)
    attempt = driver.attempt(
        Task(
            goal="Count the lines of data.txt.",
            parameters={},
            model=MODELS[driver.name],
            workspace=WORK,
            home=HOME,
            gateway=f"http://127.0.0.1:{GATEWAY_PORT}",
            seconds=60,
            inputs=["data.txt"],
            settings=installed,
        )
    )
    launch = attempt.prepare()
    for name, content in launch.files.items():
        path = job.workspace.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (job.workspace.work / "data.txt").write_text("one\ntwo\nthree\n")

    async with socket_to(aimock) as socket:
        job = type(job)(
            job_id=job.job_id,
            argv=launch.argv,
            env=launch.env,
            workspace=job.workspace,
            read_only=launch.read_only,
            socket=socket,
            limits=LIMITS,
            stdin=launch.stdin,
            minimum=level,
        )
        ran = await run_job(sandbox, job)

    attempt.read("stdout", ran.output)
    tail = ran.errors.decode(errors="replace")
    verdict = attempt.judge(Finish(ended=ran.ended, stdout="", stderr=tail, changed=["lines.txt"]))
    usage = ran.ended.usage
    used = f"{usage.seconds:.2f} s, {usage.cpu_seconds:.2f} s of CPU, {usage.peak_memory / 1e6:.0f} MB"
    print(f"{driver.name} at level {level.value}: {used}")
    assert verdict.ok, (verdict, tail[-2000:])
    assert (job.workspace.work / "lines.txt").read_text().strip() == "3"
    assert ran.ended.level is level
    assert usage.peak_memory < 600e6, "it was 1,960 MB when Node optimized the parser of shell commands"
    await sandbox.wipe(job.workspace)


if ROOT:

    @pytest.mark.slow
    @pytest.mark.timeout(600)
    @pytest.mark.usefixtures("_aimock")
    def test_agents_work_for_a_plain_user() -> None:
        """Level B, by a server that is not root; what it uses was installed by somebody else."""
        done = run_tests_as_plain_user("tests/operations/drivers/test_every_level.py")
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
        assert "2 passed" in done.stdout
