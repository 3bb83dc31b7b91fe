"""What every sandbox must keep, as a pytest suite.

    class TestMySandbox(SandboxConformance):
        async def make_sandbox(self, folder: Path) -> Sandbox:
            return MySandbox(folder)

Programs inside need a shell with the usual small commands.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from abc import abstractmethod
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import pytest_asyncio

from retinue.kernel import BadInput, new_id
from retinue.sandbox.collecting import Taking, collect
from retinue.sandbox.jobs import GATEWAY_PORT, Ended, Job, Limits, Sandbox, SandboxRefused, Stream, Usage
from retinue.sandbox.levels import Level

_BUSY = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done"
_LIMITS = Limits(seconds=30, memory=256 << 20, disk=64 << 20, processes=64, output=1 << 20)


class SandboxConformance:
    """The suite. Subclasses make a sandbox whose jobs lie below ``folder``.

    Attributes:
        level: what its probe and its jobs must tell.
        reaches_gateway: whether a job may have a socket.
        shows_files: whether a file can be shown at another place than its own.
    """

    level: ClassVar[Level]
    reaches_gateway: ClassVar[bool] = True
    shows_files: ClassVar[bool] = True

    @abstractmethod
    async def make_sandbox(self, folder: Path) -> Sandbox:
        """Return the sandbox under test."""

    @pytest_asyncio.fixture
    async def sandbox(self, tmp_path: Path) -> AsyncIterator[Sandbox]:
        """The sandbox under test; every job of it is gone afterwards."""
        sandbox = await self.make_sandbox(tmp_path / "jobs")
        yield sandbox
        await sandbox.reap_all(set())
        await sandbox.close()

    async def job(self, sandbox: Sandbox, script: str, **changes: Any) -> Job:
        """Return a job that runs a shell script in an empty workspace."""
        limits = changes.pop("limits", _LIMITS)
        job_id = str(new_id())
        workspace = await sandbox.prepare(job_id, limits)
        return replace(
            Job(job_id=job_id, argv=["/bin/sh", "-c", script], workspace=workspace, limits=limits, minimum=self.level),
            **changes,
        )

    async def run(self, sandbox: Sandbox, job: Job) -> tuple[Ended, str, str]:
        """Run a job; return its end, its output and its errors."""
        written: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}

        def keep(stream: Stream, data: bytes) -> None:
            written[stream] += data

        ended = await sandbox.run(job, keep)
        return ended, written["stdout"].decode(), written["stderr"].decode()

    async def test_the_probe_and_the_job_tell_the_same_level(self, sandbox: Sandbox) -> None:
        probe = await sandbox.probe()
        ended, _, _ = await self.run(sandbox, await self.job(sandbox, "true"))
        assert (probe.level, ended.level) == (self.level, self.level), probe

    async def until_measured(self, sandbox: Sandbox) -> None:
        """Wait until what a job used up to now is known. Nothing to wait for where it is known at the end, to the byte.

        A sandbox that asks an engine now and then waits here until the engine has answered.
        """

    async def test_a_job_below_its_minimum_is_not_started(self, sandbox: Sandbox) -> None:
        if self.level is Level.A:
            return  # there is nothing above
        job = await self.job(sandbox, "echo ran > ran")
        told: list[Usage] = []
        with pytest.raises(SandboxRefused):
            await sandbox.run(replace(job, minimum=Level.A), lambda _stream, _data: None, told.append)
        assert os.listdir(job.workspace.work) == []
        assert told == []

    @pytest.mark.parametrize(
        "script, code", [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("no-such-program", 127)]
    )
    async def test_the_exit_code_is_the_program_s(self, sandbox: Sandbox, script: str, code: int) -> None:
        ended, _, _ = await self.run(sandbox, await self.job(sandbox, script))
        assert (ended.exit_code, ended.reason) == (code, "exited")

    async def test_a_program_is_not_taken_for_a_word_of_a_shell(self, sandbox: Sandbox) -> None:
        job = replace(await self.job(sandbox, ""), argv=["echo", "a\\nb", "$HOME", "* ;", "'"])
        ended, output, errors = await self.run(sandbox, job)
        assert (output, errors, ended.exit_code) == ("a\\nb $HOME * ; '\n", "", 0)

    async def test_output_and_errors_arrive_whole_and_apart(self, sandbox: Sandbox) -> None:
        job = await self.job(sandbox, "for i in $(seq 500); do echo out $i; echo err $i >&2; done")
        _, output, errors = await self.run(sandbox, job)
        assert output.splitlines() == [f"out {number}" for number in range(1, 501)]
        assert errors.splitlines() == [f"err {number}" for number in range(1, 501)]

    async def test_input_is_read_to_its_end(self, sandbox: Sandbox) -> None:
        sent = b"line\n" * 100_000
        _, output, _ = await self.run(sandbox, await self.job(sandbox, "sha256sum", stdin=sent))
        assert output.split()[0] == hashlib.sha256(sent).hexdigest()

    async def test_without_input_reading_ends_at_once(self, sandbox: Sandbox) -> None:
        ended, output, _ = await self.run(sandbox, await self.job(sandbox, "cat; echo end"))
        assert (ended.exit_code, output) == (0, "end\n")

    async def test_the_environment_is_what_was_given(self, sandbox: Sandbox) -> None:
        os.environ["RETINUE_SECRET_OF_THE_SERVER"] = "secret"
        try:
            job = await self.job(sandbox, "env", env={"GIVEN": "a b\n'c'", "LANG": "C"})
            _, output, _ = await self.run(sandbox, job)
        finally:
            del os.environ["RETINUE_SECRET_OF_THE_SERVER"]
        names = {line.partition("=")[0] for line in output.splitlines() if "=" in line}
        assert "GIVEN=a b\n'c'\n" in output
        assert names - {"_", "SHLVL", "OLDPWD"} == {"GIVEN", "HOME", "LANG", "PATH", "PWD", "TMPDIR", "USER"}

    @pytest.mark.parametrize(
        "broken",
        [
            {"env": {"A=B": "c"}},
            {"env": {"": "c"}},
            {"env": {"A": "b\0c"}},
            {"env": {"A": "\ud800"}},
            {"argv": []},
            {"argv": ["a\0b"]},
            {"argv": ["\udcff"]},
        ],
        ids=lambda broken: ascii(broken),
    )
    async def test_what_no_program_can_be_given_is_refused(self, sandbox: Sandbox, broken: dict[str, Any]) -> None:
        with pytest.raises(BadInput):
            await self.run(sandbox, await self.job(sandbox, "true", **broken))

    async def test_files_go_in_and_results_come_out(self, sandbox: Sandbox) -> None:
        job = await self.job(sandbox, "mkdir made; sort in.txt > made/out.txt; echo mine > $HOME/x; echo t > $TMPDIR/y")
        (job.workspace.work / "in.txt").write_text("b\na\n")
        (job.workspace.home / "settings").write_text("s")
        ended, _, errors = await self.run(sandbox, job)
        same = {"in.txt": hashlib.sha256(b"b\na\n").hexdigest()}
        with collect(job.workspace.work, unchanged=same, taking=Taking()) as collection:
            assert [(one.name, one.size) for one in collection.found] == [("made/out.txt", 4)], errors
            number = collection.open(collection.found[0])
            assert os.read(number, 100) == b"a\nb\n"
            os.close(number)
        assert ended.exit_code == 0

    async def test_a_file_that_is_shown_can_be_read_and_not_changed(self, sandbox: Sandbox, tmp_path: Path) -> None:
        shown = tmp_path / "shown"
        shown.mkdir()
        (shown / "file").write_text("shown")
        inside = "/opt/shown" if self.shows_files else str(shown)
        job = await self.job(
            sandbox, f"cat {inside}/file; echo x > {inside}/file; echo x > {inside}/new; rm {inside}/file"
        )
        _, output, _ = await self.run(sandbox, replace(job, read_only={shown: inside}))
        assert output == "shown"
        assert {path.name: path.read_text() for path in shown.iterdir()} == {"file": "shown"}

    async def test_time_ends_a_job(self, sandbox: Sandbox) -> None:
        job = await self.job(sandbox, "trap '' TERM INT HUP; sleep 60", limits=replace(_LIMITS, seconds=0.5))
        ended, _, _ = await asyncio.wait_for(self.run(sandbox, job), 10)
        assert (ended.exit_code, ended.reason) == (None, "timeout")

    async def test_a_flood_of_output_ends_a_job(self, sandbox: Sandbox) -> None:
        limits = replace(_LIMITS, output=200_000)
        ended, output, _ = await self.run(sandbox, await self.job(sandbox, "yes", limits=limits))
        assert (ended.exit_code, ended.reason) == (None, "output")
        assert len(output) <= 200_000

    async def test_too_much_output_is_told_though_the_program_is_gone(self, sandbox: Sandbox) -> None:
        limits = replace(_LIMITS, output=10_000)
        job = await self.job(sandbox, "head -c 20000 /dev/zero", limits=limits)
        received = 0

        async def listen(_stream: Stream, data: bytes) -> None:
            nonlocal received
            received += len(data)
            await asyncio.sleep(0.2)

        assert (await sandbox.run(job, listen)).reason == "output"
        assert received <= 10_000

    async def test_a_slow_listener_slows_the_program_down(self, sandbox: Sandbox) -> None:
        job = await self.job(sandbox, "for i in $(seq 400); do head -c 65536 /dev/zero; echo $i > count; done")
        job = replace(job, limits=replace(job.limits, output=32 << 20))
        counts: list[int] = []
        first = asyncio.Event()

        async def listen(_stream: Stream, _data: bytes) -> None:
            if not first.is_set():
                first.set()
                await asyncio.sleep(0.7)  # the program has all this time to run ahead
                with contextlib.suppress(FileNotFoundError, ValueError):
                    counts.append(int((job.workspace.work / "count").read_text()))

        await sandbox.run(job, listen)
        assert counts == [] or counts[0] < 250  # buffers on the way take some megabytes

    async def test_a_listener_that_fails_ends_the_job(self, sandbox: Sandbox) -> None:
        job = await self.job(sandbox, "echo x; sleep 60")

        def fail(_stream: Stream, _data: bytes) -> None:
            raise ZeroDivisionError

        told: list[Usage] = []
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(sandbox.run(job, fail, told.append), 10)
        assert len(told) == 1

    async def test_a_job_that_is_cancelled_is_dead_before_the_caller_goes_on(self, sandbox: Sandbox) -> None:
        beat = "while :; do echo x >> beat; sleep 0.02; done"
        script = f"trap '' TERM; echo x > beat; (trap '' TERM; {beat}) & echo ready; wait"
        job = await self.job(sandbox, script)
        ready = asyncio.Event()
        running = asyncio.create_task(sandbox.run(job, lambda _stream, _data: ready.set()))
        await asyncio.wait_for(ready.wait(), 20)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        size = (job.workspace.work / "beat").stat().st_size
        await asyncio.sleep(0.2)
        assert (job.workspace.work / "beat").stat().st_size == size

    async def test_a_job_that_is_cancelled_tells_once_what_it_used(self, sandbox: Sandbox) -> None:
        told: list[Usage] = []
        job = await self.job(sandbox, f"{_BUSY}; echo ready; sleep 60", limits=replace(_LIMITS, seconds=120))
        ready = asyncio.Event()
        running = asyncio.create_task(sandbox.run(job, lambda _stream, _data: ready.set(), told.append))
        await asyncio.wait_for(ready.wait(), 60)
        await self.until_measured(sandbox)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        (used,) = told
        assert used.cpu_seconds > 0.05
        assert used.seconds > 0
        if self.level is Level.A:  # elsewhere the memory is sampled
            assert used.peak_memory > 100_000
            assert used.memory_byte_seconds > 0

    async def test_what_is_left_behind_dies_with_the_program(self, sandbox: Sandbox) -> None:
        script = "(setsid sh -c 'while :; do echo x >> beat; sleep 0.02; done' >&- 2>&- <&- &) ; sleep 0.2"
        job = await self.job(sandbox, script)
        ended, _, _ = await asyncio.wait_for(self.run(sandbox, job), 20)
        size = (job.workspace.work / "beat").stat().st_size
        await asyncio.sleep(0.2)
        assert (job.workspace.work / "beat").stat().st_size == size > 0
        assert ended.exit_code == 0

    async def test_use_is_measured(self, sandbox: Sandbox) -> None:
        script = f"{_BUSY}; sleep 0.3"
        told: list[Usage] = []
        ended = await sandbox.run(await self.job(sandbox, script), lambda _stream, _data: None, told.append)
        used = ended.usage
        assert told == [used]
        assert 0.05 < used.cpu_seconds < 20
        assert used.cpu_seconds - 0.5 < used.seconds < 30
        assert 100_000 < used.peak_memory < 256 << 20
        assert 0 < used.memory_byte_seconds <= used.peak_memory * used.seconds * 1.5

    async def test_processor_time_of_children_that_are_gone_is_counted(self, sandbox: Sandbox) -> None:
        script = f"for n in 1 2 3 4; do sh -c '{_BUSY}'; done"
        ended, _, _ = await self.run(sandbox, await self.job(sandbox, script))
        assert ended.usage.cpu_seconds > 0.1  # the first process alone takes a few milliseconds

    async def test_a_program_can_be_talked_to(self, sandbox: Sandbox) -> None:
        job = await self.job(sandbox, "while read line; do echo got $line; done; echo end")
        async with await sandbox.interactive(job) as talk:
            for word in ("one", "two"):
                await talk.write(f"{word}\n".encode())
                assert await asyncio.wait_for(talk.readline(), 10) == f"got {word}\n".encode()
            await talk.close_input()
            assert await talk.readline() == b"end\n"
            assert await talk.read() == b""
            assert (await talk.ended()).exit_code == 0

    async def test_a_conversation_that_is_left_is_over(self, sandbox: Sandbox) -> None:
        job = await self.job(sandbox, "echo ready; trap '' TERM; while :; do sleep 1; done")
        told: list[Usage] = []
        async with await sandbox.interactive(job, on_usage=told.append) as talk:
            assert await talk.readline() == b"ready\n"
        assert [(await asyncio.wait_for(talk.ended(), 5)).usage] == told
        assert (await talk.ended()).reason == "killed"

    async def test_the_gateway_answers_on_loopback_and_nothing_else(self, sandbox: Sandbox, tmp_path: Path) -> None:
        asked: list[bytes] = []

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.append(await reader.readline())
            writer.write(b"pong " * 100_000 + b"\n")
            await writer.drain()
            writer.close()

        path = tmp_path / "g"
        server = await asyncio.start_unix_server(answer, path)
        script = (
            f"exec 3<>/dev/tcp/127.0.0.1/{GATEWAY_PORT}; echo ping >&3; wc -c <&3; "
            f"(exec 4<>/dev/tcp/127.0.0.1/{GATEWAY_PORT + 1}) 2>/dev/null && echo reached; exit 5"
        )
        job = replace(await self.job(sandbox, ""), argv=["/bin/bash", "-c", script], socket=path)
        try:
            if not self.reaches_gateway:
                with pytest.raises(SandboxRefused):
                    await self.run(sandbox, job)
                return
            ended, output, errors = await self.run(sandbox, job)
        finally:
            server.close()
        assert (asked, output.split(), ended.exit_code) == ([b"ping\n"], ["500001"], 5), errors

    @pytest.mark.parametrize("program", ["deep", "closed", "names"])
    async def test_any_workspace_can_be_wiped(self, sandbox: Sandbox, program: str) -> None:
        scripts = {
            "deep": "i=0; while [ $i -lt 1500 ]; do mkdir d && cd d || exit 0; i=$((i+1)); done",
            "closed": "mkdir -p a/b; echo x > a/b/c; chmod 000 a/b a; chmod 000 .",
            "names": "touch -- -rf '*' \"$(printf 'a\\nb')\" \"$(printf '\\377')\"; mkfifo pipe; ln -s / root",
        }
        job = await self.job(sandbox, scripts[program])
        await self.run(sandbox, job)
        await sandbox.wipe(job.workspace)
        assert not job.workspace.folder.exists()

    async def test_a_second_attempt_finds_nothing_of_the_first(self, sandbox: Sandbox) -> None:
        job = await self.job(sandbox, "ls -A . $TMPDIR; echo left > left; echo left > $TMPDIR/left")
        _, _, _ = await self.run(sandbox, job)
        workspace = await sandbox.prepare(job.job_id, job.limits)
        _, output, errors = await self.run(sandbox, replace(job, workspace=workspace))
        assert "left" not in output + errors

    @pytest.mark.parametrize("job_id", ["", ".", "..", "a/b", "../x", "a b", "ü", "a\0", "x" * 101])
    async def test_an_id_that_is_no_name_is_refused(self, sandbox: Sandbox, job_id: str) -> None:
        with pytest.raises(BadInput):
            await sandbox.prepare(job_id, _LIMITS)
        with pytest.raises(BadInput):
            await sandbox.reap(job_id)

    async def test_reaping_leaves_what_is_wanted(self, sandbox: Sandbox) -> None:
        wanted, other = await self.job(sandbox, "true"), await self.job(sandbox, "true")
        assert await sandbox.reap_all({wanted.job_id}) == [other.job_id]
        assert wanted.workspace.work.is_dir()
        assert not other.workspace.folder.exists()
