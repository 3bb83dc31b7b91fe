"""Starting an agent as its driver says: as a plain process, or in a sandbox, and hearing what it tells."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from retinue.kernel import Settings
from retinue.operations.driver import (
    Attempt,
    Driver,
    Finish,
    Interactive,
    Launch,
    Progress,
    Stream,
    Task,
    Verdict,
)
from retinue.sandbox import Ended, Level, Usage

MODELS = {"qwen": "openai:gpt-scripted", "gemini": "google:gemini-2.5-pro"}


@dataclass(frozen=True)
class Came:
    """What came of an attempt."""

    verdict: Verdict
    shown: list[Progress]
    ended: Ended
    stderr: str
    work: Path

    def text(self, kind: str) -> str:
        return "".join(one.text for one in self.shown if one.kind == kind)


def task(
    driver: Driver,
    settings: Settings,
    gateway: str,
    *,
    workspace: str,
    home: str,
    goal: str = "Write the report.",
    **parameters: Any,
) -> Task:
    return Task(
        goal=goal,
        parameters=parameters,
        model=MODELS[driver.name],
        workspace=workspace,
        home=home,
        gateway=gateway,
        seconds=60,
        inputs=[],
        settings=settings,
    )


class Plain:
    """Starts agents as plain processes of this machine, each in folders of its own."""

    def __init__(self, folder: Path, settings: Settings, gateway: str) -> None:
        self.folder = folder
        self.settings = settings
        self.gateway = gateway
        self.work = folder / "work"
        self.home = folder / "home"
        self.work.mkdir()
        self.home.mkdir()
        self.extra: Mapping[str, str] = {}
        self.change: Callable[[Launch], Launch] = lambda launch: launch

    async def carry(self, driver: Driver, goal: str = "Write the report.", **parameters: Any) -> Came:
        told = task(
            driver,
            self.settings,
            self.gateway,
            workspace=str(self.work),
            home=str(self.home),
            goal=goal,
            **parameters,
        )
        attempt = driver.attempt(told)
        launch = self.change(attempt.prepare())
        for name, content in launch.files.items():
            path = self.home / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        # Nothing of this machine's environment: what an agent needs, its driver says.
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(self.home), **launch.env, **self.extra}
        process = await asyncio.create_subprocess_exec(
            *launch.argv,
            env=environment,
            cwd=self.work,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        shown: list[Progress] = []
        tails: dict[Stream, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        try:
            await _listened(process, attempt, launch, shown, tails)
            code = await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        ended = Ended(
            exit_code=code if code >= 0 else 128 - code,
            reason="exited",
            usage=Usage(seconds=0, cpu_seconds=0, peak_memory=0, memory_byte_seconds=0),
            level=Level.D,
        )
        out, err = (bytes(tails[stream])[-65_536:].decode(errors="replace") for stream in ("stdout", "stderr"))
        changed = sorted(path.name for path in self.work.iterdir())
        verdict = attempt.judge(Finish(ended=ended, stdout=out, stderr=err, changed=changed))
        return Came(verdict, shown, ended, err, self.work)


async def _listened(
    process: asyncio.subprocess.Process,
    attempt: Attempt,
    launch: Launch,
    shown: list[Progress],
    tails: dict[Stream, bytearray],
) -> None:
    """Hear a process to its end, as an operation does."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    stdin = process.stdin

    async def pieces(stream: Stream) -> AsyncIterator[bytes]:
        reader = cast(asyncio.StreamReader, getattr(process, stream))
        while chunk := await reader.read(65_536):
            tails[stream] += chunk
            shown.extend(attempt.read(stream, chunk))
            yield chunk

    async def heard(stream: Stream) -> None:
        async for _ in pieces(stream):
            pass

    async def written(data: bytes) -> None:
        stdin.write(data)
        await stdin.drain()

    async def spoken(said: Awaitable[None]) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):
            await said
        stdin.close()
        # Whatever it still says is of no interest, but must not stop it.
        while await process.stdout.read(65_536):  # type: ignore[union-attr]
            pass

    if isinstance(attempt, Interactive):
        talk = attempt.converse(written, pieces("stdout"), shown.append)
        await asyncio.gather(spoken(talk), heard("stderr"))
    else:
        with suppress(BrokenPipeError, ConnectionResetError):
            await written(launch.stdin or b"")
        stdin.close()
        await asyncio.gather(heard("stdout"), heard("stderr"))
