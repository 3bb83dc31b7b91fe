"""An attempt inside the sandbox: files laid out, the gateway listening, the program running, its output shown."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from retinue import artifacts, gateway
from retinue.gateway import Caller, Rules, Use
from retinue.kernel import BadInput, Services, Settings, StorageFull
from retinue.live import Live
from retinue.operations import files
from retinue.operations.beginning import Begun
from retinue.operations.driver import Attempt, Interactive, Launch, Stream, Task
from retinue.operations.policy import Limits
from retinue.operations.showing import Showing
from retinue.sandbox import GATEWAY_PORT, HOME, WORK, Ended, Job, Level, OnUsage, Sandbox, Workspace
from retinue.sandbox import Limits as SandboxLimits

TAIL = 64 * 1024

_MOST_HOME = 16 * 1024 * 1024
_GRACE = 30.0  # seconds beyond the limit after which not even the sandbox is believed


class Tail:
    """The last bytes of a stream."""

    def __init__(self) -> None:
        self._kept = bytearray()

    def add(self, chunk: bytes) -> None:
        """Take a piece."""
        self._kept += chunk
        if len(self._kept) > 2 * TAIL:
            del self._kept[:-TAIL]

    def text(self) -> str:
        """Return what is kept, as text."""
        return bytes(self._kept[-TAIL:]).decode("utf-8", "replace").replace("\x00", "\N{REPLACEMENT CHARACTER}")


@dataclass(frozen=True, slots=True)
class Ran:
    """A program that has ended: how, with which last words, and how it used its models."""

    ended: Ended
    stdout: str
    stderr: str
    use: Use
    attempt: Attempt
    by_grant: bool


class Running:
    """Runs one attempt.

    Args:
        begun: the attempt.
        workspace: its folders, empty.
        went_on: notes that the program is about to start.
        used: is told what the program used once it is dead, also when it was cancelled.
    """

    def __init__(
        self,
        services: Services,
        begun: Begun,
        workspace: Workspace,
        went_on: Callable[[], Awaitable[None]],
        used: OnUsage,
    ) -> None:
        self._services = services
        self._begun = begun
        self._workspace = workspace
        self._went_on = went_on
        self._used = used
        self._tails: dict[Stream, Tail] = {"stdout": Tail(), "stderr": Tail()}
        self._showing = Showing(
            services.get(Live),  # type: ignore[type-abstract]  # services are found by their base class
            begun.tenant_id,
            begun.state.requested.owner_id,
            begun.operation_id,
            begun.run_id,
            begun.fence.attempt,
        )

    async def run(self, seconds: float, *, by_grant: bool) -> Ran:
        """Run the program to its end; when this returns or raises, no process of it is alive.

        Args:
            seconds: how long it may take.
            by_grant: whether that is because its grant ends then.

        Raises:
            DriverMissing, BadInput: the driver cannot start it.
            SandboxRefused, SandboxFailed: the sandbox cannot hold it.
            TimeoutError: the sandbox did not end it in time.
        """
        async with AsyncExitStack() as stack:
            stack.callback(self._showing.close)
            socket, line = None, None
            if self._begun.driver.uses_model:
                socket = await stack.enter_async_context(_socket())
                line = await stack.enter_async_context(gateway.listen(self._services, socket, *self._line()))
            attempt = self._begun.driver.attempt(self._task(seconds))
            job = self._job(attempt.prepare(), socket, seconds)
            await self._went_on()
            async with asyncio.timeout(seconds + _GRACE):
                ended = await self._carried(attempt, job)
            use = line.usage if line is not None else Use()
        return Ran(ended, self._tails["stdout"].text(), self._tails["stderr"].text(), use, attempt, by_grant)

    def _line(self) -> tuple[Caller, Rules]:
        begun, wanted = self._begun, self._begun.state.requested
        caller = Caller(
            tenant_id=begun.tenant_id,
            user_id=wanted.owner_id,
            agent_id=begun.agent_id or begun.tenant_id,
            run_id=begun.run_id,
            operation_id=begun.operation_id,
            application=wanted.application,
        )
        left = None if wanted.budget is None else max(0, wanted.budget - begun.spent)
        return caller, Rules(models=_models(begun), default_model=wanted.model, budget=left)

    def _task(self, seconds: float) -> Task:
        begun, wanted = self._begun, self._begun.state.requested
        uses_model = begun.driver.uses_model
        return Task(
            goal=wanted.goal,
            parameters=wanted.parameters,
            model=wanted.model,
            workspace=WORK,
            home=HOME,
            gateway=f"http://127.0.0.1:{GATEWAY_PORT}" if uses_model else None,
            seconds=seconds,
            inputs=[one.name for one, _ in begun.inputs] + list(begun.files),
            settings=self._services.get(Settings),
        )

    def _job(self, launch: Launch, socket: Path | None, seconds: float) -> Job:
        write_home(self._workspace.home, launch.files)
        if not launch.argv or any("\x00" in one for one in (*launch.argv, *launch.env, *launch.env.values())):
            raise BadInput("The command is empty, or holds the character NUL.")
        return Job(
            job_id=self._begun.job_id,
            argv=tuple(launch.argv),
            env=dict(launch.env),
            workspace=self._workspace,
            read_only=launch.read_only,
            socket=socket,
            limits=sandbox_limits(self._begun.state.requested.limits, seconds),
            stdin=launch.stdin,
            minimum=Level(self._begun.least),
        )

    async def _carried(self, attempt: Attempt, job: Job) -> Ended:
        sandbox: Sandbox = self._begun.sandbox

        def heard(stream: Stream, chunk: bytes) -> None:
            self._tails[stream].add(chunk)
            for progress in attempt.read(stream, chunk):
                self._showing.add(progress)

        if not isinstance(attempt, Interactive):
            return await sandbox.run(job, heard, self._used)

        def erred(_stream: Stream, chunk: bytes) -> None:
            heard("stderr", chunk)

        async with await sandbox.interactive(job, erred, self._used) as process:

            async def received() -> AsyncIterator[bytes]:
                while chunk := await process.read():
                    heard("stdout", chunk)
                    yield chunk

            with suppress(BrokenPipeError, ConnectionResetError):
                await attempt.converse(process.write, received(), self._showing.add)
            with suppress(BrokenPipeError, ConnectionResetError):
                await process.close_input()
            return await process.ended()


def sandbox_limits(limits: Limits, seconds: float | None = None) -> SandboxLimits:
    """Return an operation's limits as the sandbox knows them; ``seconds``: those, where they are fewer."""
    return SandboxLimits(
        seconds=limits.seconds if seconds is None else seconds,
        memory=limits.memory,
        disk=limits.disk,
        processes=limits.processes,
        cores=limits.cores,
        output=limits.output,
    )


def _models(begun: Begun) -> tuple[str, ...]:
    """Return the patterns of models that the gateway lets through: those the policy and the grant both allow.

    Where both have patterns, only the model that was asked for is certain to fit both.
    """
    wanted = begun.state.requested
    by_policy, by_grant = begun.holds.models, begun.terms.models if begun.terms else ()
    if by_policy and by_grant:
        return (wanted.model,) if wanted.model else ()
    return tuple(by_policy or by_grant or ("*",))


@asynccontextmanager
async def _socket() -> AsyncIterator[Path]:
    """Make a folder for the gateway's socket: its path must be short, wherever the data folder is."""
    folder = await asyncio.to_thread(tempfile.mkdtemp, prefix="retinue-")
    try:
        yield Path(folder) / "s"
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def write_home(home: Path, files: Mapping[str, bytes]) -> None:
    """Write a driver's small files into the home.

    Raises:
        BadInput: a path leads out of it, or they are too large.
    """
    if sum(len(content) for content in files.values()) > _MOST_HOME:
        raise BadInput("The driver's files for the home are too large.")
    for name, content in files.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise BadInput(f"The driver would write {name!r}, which is not in the home.")
        place = home / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        place.chmod(0o600)


async def lay_out(services: Services, begun: Begun, workspace: Workspace) -> None:
    """Put the inputs into the workspace: artifacts, and the small files that came with the request.

    Raises:
        StorageFull: this machine's disk is full.
        SealBroken, NotFound, Gone, Unavailable: an artifact cannot be opened.
    """
    for name, content in begun.files.items():
        await _written(workspace.work / name, files.in_one_piece(content))
    for one, artifact in begun.inputs:
        whole = artifacts.open(services, begun.tenant_id, artifact, 0, artifact.size)
        await _written(workspace.work / one.name, whole)


async def _written(path: Path, chunks: AsyncIterator[bytes]) -> None:
    # Exclusive and without following: the folder is ours and empty, and stays that way if it is not.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        file = os.open(path, flags, stat.S_IRUSR | stat.S_IWUSR)
        try:
            async for chunk in chunks:
                await asyncio.to_thread(_write_all, file, chunk)
        finally:
            os.close(file)
    except OSError as error:
        raise StorageFull(f"An input could not be laid out: {error.strerror}.") from None


def _write_all(file: int, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(file, view) :]
