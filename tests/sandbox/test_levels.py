"""The level that is told is the one that holds: take a piece away and it drops."""

# ruff: noqa: ASYNC220, ASYNC221, ASYNC240 - these tests start and kill servers
from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from retinue.kernel import BadInput, Settings
from retinue.sandbox import (
    Bubblewrap,
    Landlock,
    Level,
    Limits,
    NoSandbox,
    SandboxFailed,
    SandboxRefused,
    bubblewrap,
    bubblewrap_command,
    choose,
    seccomp,
)
from retinue.sandbox.groups import Groups
from retinue.sandbox.means import Means
from retinue.sandbox.volumes import Kind
from tests.support.mounts import unmount_below
from tests.support.sandboxes import LEVELS, ROOT, alive, make_job, run_job, sandbox_of


@pytest.fixture(autouse=True)
def nothing_mounted(tmp_path: Path) -> Iterator[None]:
    """What one test leaves must not be seen by the next."""
    yield
    unmount_below(tmp_path)


if ROOT:

    @pytest.mark.parametrize(
        "groups, volume, level",
        [
            (True, Kind.IMAGE, Level.A),
            (True, Kind.MEMORY, Level.A),
            (False, Kind.IMAGE, Level.B),
            (True, Kind.FOLDER, Level.B),
            (False, Kind.FOLDER, Level.B),
        ],
    )
    async def test_without_a_piece_the_level_is_lower(groups: bool, volume: Kind, level: Level, tmp_path: Path) -> None:
        sandbox = Bubblewrap(tmp_path, means=Means(Groups() if groups else None, volume))
        assert (await sandbox.probe()).level is level
        job = await make_job(sandbox, ["true"])
        assert (await run_job(sandbox, job)).ended.level is level
        if level is not Level.A:
            with pytest.raises(SandboxRefused, match="level B is what can be kept"):
                await run_job(sandbox, replace(job, minimum=Level.A))
        await sandbox.wipe(job.workspace)

    async def test_a_group_that_cannot_be_made_now_lowers_the_level_of_this_job(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sandbox = Bubblewrap(tmp_path)
        job = await make_job(sandbox, ["true"])

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("retinue.sandbox.groups._One.limit", full)
        monkeypatch.setattr("retinue.sandbox.groups._Two.limit", full)
        assert (await run_job(sandbox, job)).ended.level is Level.B
        with pytest.raises(SandboxRefused):
            await run_job(sandbox, replace(job, minimum=Level.A))
        await sandbox.wipe(job.workspace)

    async def test_a_disk_that_is_full_is_the_job_s_own(tmp_path: Path) -> None:
        for kind in (Kind.IMAGE, Kind.MEMORY):
            sandbox = Bubblewrap(tmp_path, means=Means(Groups(), kind))
            limits = Limits(seconds=20, disk=32 << 20)
            script = "for i in 1 2 3; do head -c 12000000 /dev/zero > f$i || exit 9; done"
            job = await make_job(sandbox, ["/bin/sh", "-c", script], limits=limits)
            ran = await run_job(sandbox, job)
            assert (ran.ended.exit_code, b"No space left" in ran.errors) == (9, True), kind
            await sandbox.wipe(job.workspace)


# Root's files are kept by their modes, too: only a plain user's are seen when the wall is gone.
@pytest.mark.parametrize("left_out", ["filter", "network", "capabilities", *([] if ROOT else ["files"])])
async def test_a_wall_that_does_not_stand_is_found_and_nothing_is_run(
    left_out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = sandbox_of(Level.B, tmp_path)
    assert (await sandbox.probe()).level is Level.B
    original = bubblewrap_command.options
    if left_out == "filter":
        monkeypatch.setattr(seccomp, "build", lambda **_: bytes.fromhex("060000000000ff7f"))
    elif left_out == "network":
        monkeypatch.setattr(bubblewrap, "options", lambda *a: [one for one in original(*a) if one != "--unshare-net"])
    elif left_out == "files":
        place = str(tmp_path)

        def show(*arguments: object) -> list[str]:
            walls = original(*arguments)  # type: ignore[arg-type]
            at = walls.index("--remount-ro")
            return [*walls[:at], "--ro-bind", place, place, *walls[at:]]

        monkeypatch.setattr(bubblewrap, "options", show)
    else:
        monkeypatch.setattr(bubblewrap_command, "become", lambda _: [])
        if not ROOT:
            monkeypatch.setattr(bubblewrap, "options", lambda *a: [*original(*a), "--cap-add", "CAP_NET_RAW"])
    probe = await sandbox.probe()
    assert probe.level is Level.D, probe
    assert probe.missing


async def test_without_bubblewrap_there_is_no_level(tmp_path: Path) -> None:
    sandbox = Bubblewrap(tmp_path, program="/nonexistent/bwrap")
    probe = await sandbox.probe()
    assert (probe.level, "not installed" in probe.missing) == (Level.D, True)
    with pytest.raises(SandboxFailed):
        await run_job(sandbox, await make_job(sandbox, ["true"]))


async def test_what_cannot_be_shown_is_said_and_not_run(tmp_path: Path) -> None:
    sandbox = sandbox_of(Level.B, tmp_path)
    with pytest.raises(SandboxFailed, match="nowhere"):
        await run_job(sandbox, await make_job(sandbox, ["true"], read_only={Path("/nowhere"): "/opt/x"}))
    for place in ("/work", "/", "relative", "/opt/../work", "/proc/x", "/usr", "/home"):
        with pytest.raises(BadInput):
            await run_job(sandbox, await make_job(sandbox, ["true"], read_only={tmp_path: place}))


async def test_the_settings_choose(tmp_path: Path) -> None:
    def settings(**more: object) -> Settings:
        return Settings(data=tmp_path, **more)  # type: ignore[arg-type]

    assert isinstance(await choose(settings()), Bubblewrap)
    with pytest.raises(SandboxRefused, match="switched off"):
        await choose(settings(sandbox="none"))
    if ROOT:
        with pytest.raises(SandboxRefused, match=r"bubblewrap is for that.*retinue doctor sandbox"):
            await choose(settings(sandbox="landlock", sandbox_minimum="C"))
        assert isinstance(await choose(settings(sandbox_minimum="A")), Bubblewrap)
    else:
        assert isinstance(await choose(settings(sandbox="landlock", sandbox_minimum="C")), Landlock)
        with pytest.raises(SandboxRefused, match="only root can mount"):
            await choose(settings(sandbox_minimum="A"))


async def test_no_sandbox_runs_nothing(tmp_path: Path) -> None:
    nothing = NoSandbox("switched off")
    assert (await nothing.probe()).level is Level.D
    with pytest.raises(SandboxRefused, match="switched off"):
        await nothing.prepare("job", Limits())


SERVER = """
import sys
import uvloop  # as the server does
from pathlib import Path
from retinue.sandbox import *
from tests.support.mounts import unmount_below
from tests.support.sandboxes import sandbox_of

async def main():
    sandbox = sandbox_of(Level(sys.argv[1]), Path(sys.argv[2]))
    workspace = await sandbox.prepare("job", Limits())
    script = "trap '' TERM; (setsid sleep 300.125) & echo ready; sleep 300.125"
    job = Job(job_id="job", argv=["/bin/sh", "-c", script], workspace=workspace)
    await sandbox.run(job, lambda stream, data: print(data.decode(), flush=True))

uvloop.run(main())
"""


@pytest.mark.fault
@pytest.mark.parametrize("level", ["A", "B"] if ROOT else ["B", "C"])
async def test_a_server_that_is_killed_takes_its_sandboxes_along(level: str, tmp_path: Path) -> None:
    """kill -9 the server: the sandbox dies, and the next server finds the folder, wipes it, and unmounts the volume."""
    jobs = tmp_path / "jobs"
    token = "300.125"
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, level, str(jobs)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    sandbox = sandbox_of(Level(level), jobs)
    assert await sandbox.reap_all(set()) == []  # a living server holds it
    assert alive(token)
    server.kill()
    server.wait()
    server.stdout.close()
    for _ in range(200):
        if not alive(token):
            break
        await asyncio.sleep(0.02)
    assert alive(token) == []
    assert await sandbox.reap_all(set()) == ["job"]
    assert list(jobs.iterdir()) == []
    assert str(jobs) not in Path("/proc/self/mounts").read_text()


@pytest.mark.fault
@pytest.mark.parametrize("level", ["A", "B"] if ROOT else ["B"])
async def test_what_does_not_die_with_its_server_is_killed_at_the_takeover(
    level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted fault: nobody dies with a parent. Only the note of the first process can find it then."""
    source = SERVER.replace(
        "async def main",
        "from retinue.sandbox import bubblewrap as b\no = b.options\n"
        "b.options = lambda *a: [x for x in o(*a) if x != '--die-with-parent']\n\nasync def main",
        1,
    )
    jobs = tmp_path / "jobs"
    server = subprocess.Popen(
        [sys.executable, "-c", source, level, str(jobs)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    noted = json.loads((jobs / "job" / "process").read_text())["pid"]
    server.kill()
    server.wait()
    server.stdout.close()
    await asyncio.sleep(0.2)
    assert os.path.exists(f"/proc/{noted}")
    sandbox = sandbox_of(Level(level), jobs)
    await sandbox.reap("job")
    assert alive("300.125") == []
    assert list(jobs.iterdir()) == []


@pytest.mark.parametrize("level", LEVELS)
async def test_no_descriptor_and_no_user_id_stays_with_a_job_that_ended(level: Level, tmp_path: Path) -> None:
    sandbox = sandbox_of(level, tmp_path)

    async def each_way() -> None:
        await run_job(sandbox, await make_job(sandbox, ["true"]))
        for broken in (["sleep", "60"], ["sh", "-c", "echo x; sleep 60"]):
            job = await make_job(sandbox, broken)
            running = asyncio.create_task(run_job(sandbox, job))
            await asyncio.sleep(0.1)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
        if level is not Level.C:
            with pytest.raises(SandboxFailed):
                await run_job(sandbox, await make_job(sandbox, ["true"], read_only={Path("/nowhere"): "/opt/x"}))
        async with await sandbox.interactive(await make_job(sandbox, ["cat"])) as talk:
            await talk.write(b"x")
        await sandbox.reap_all(set())

    await each_way()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        await each_way()
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.fault
@pytest.mark.parametrize("level", LEVELS)
async def test_a_job_can_be_cancelled_at_any_moment_of_its_start(level: Level, tmp_path: Path) -> None:
    sandbox = sandbox_of(level, tmp_path)
    token = "300.625"

    async def cancelled_after(steps: int) -> None:
        running = asyncio.create_task(run_job(sandbox, await make_job(sandbox, ["sleep", token])))
        for _ in range(steps):
            await asyncio.sleep(0.001)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await sandbox.reap_all(set())

    await cancelled_after(10)
    before = len(os.listdir("/proc/self/fd"))
    for steps in range(30):
        await cancelled_after(steps)
    for _ in range(100):  # what was cancelled between two pipes is waited for a little later
        if len(os.listdir("/proc/self/fd")) <= before and not alive(token):
            break
        await asyncio.sleep(0.02)
    assert alive(token) == []
    assert len(os.listdir("/proc/self/fd")) <= before


HELD = """
import os, signal
from retinue.sandbox import bubblewrap
bubblewrap._hold = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.fault
@pytest.mark.parametrize("level", [level for level in LEVELS if level is not Level.C])
async def test_a_server_that_is_killed_before_the_limits_are_set_starts_nothing(level: Level, tmp_path: Path) -> None:
    """Bubblewrap lets the program begin when the server is gone: it took the closed pipe for the word to begin."""
    jobs = tmp_path / "jobs"
    source = HELD + SERVER.replace("echo ready", "echo ready > began; echo ready")
    server = subprocess.run(
        [sys.executable, "-c", source, level, str(jobs)], cwd=Path(__file__).parents[2], check=False
    )
    assert server.returncode == -signal.SIGKILL
    await asyncio.sleep(0.5)  # time enough for a program to begin
    for pid in alive("300.125"):
        # Killed between two words to its child, bubblewrap leaves it waiting for the second one; it runs nothing.
        assert Path(f"/proc/{pid}/comm").read_text() == "bwrap\n"
        os.kill(pid, signal.SIGKILL)
    assert not (jobs / "job" / "volume" / "work" / "began").exists()
    assert await sandbox_of(level, jobs).reap_all(set()) == ["job"]


@pytest.mark.fault
@pytest.mark.parametrize("level", LEVELS)
async def test_when_who_waits_is_killed_everything_is_dead_before_it_is_told(level: Level, tmp_path: Path) -> None:
    """An administrator kills bubblewrap, or ends the launcher: files are at rest when this returns all the same."""
    sandbox = sandbox_of(level, tmp_path)
    token = "300.375"
    beat = f"while :; do echo x >> beat; sleep 0.01; done & sleep {token}"
    job = await make_job(sandbox, ["/bin/sh", "-c", f"echo x > beat; echo ready; {beat}"])
    ready = asyncio.Event()
    running = asyncio.create_task(sandbox.run(job, lambda _stream, _data: ready.set()))
    await asyncio.wait_for(ready.wait(), 20)
    first = json.loads((job.workspace.folder / "process").read_text())["pid"]
    if level is Level.C:
        os.kill(first, signal.SIGTERM)
    else:
        stat = (Path("/proc") / str(first) / "stat").read_text().rpartition(")")[2].split()
        os.kill(int(stat[1]), signal.SIGKILL)  # its parent
    ended = await asyncio.wait_for(running, 20)
    size = (job.workspace.work / "beat").stat().st_size
    assert alive(token) == []
    await asyncio.sleep(0.1)
    assert (job.workspace.work / "beat").stat().st_size == size
    assert (ended.exit_code, ended.reason) in ((None, "killed"), (137, "exited"))
    await sandbox.wipe(job.workspace)


async def test_a_note_about_a_process_that_is_another_one_now_kills_nobody(tmp_path: Path) -> None:
    sandbox = sandbox_of(Level.B, tmp_path)
    workspace = await sandbox.prepare("job", Limits())
    bystander = subprocess.Popen(["sleep", "60"])
    (workspace.folder / "process").write_text(json.dumps({"pid": bystander.pid, "started": 1}))
    await sandbox.reap("job")
    assert bystander.poll() is None
    bystander.send_signal(signal.SIGKILL)
    bystander.wait()
