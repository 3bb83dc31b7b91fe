"""Containers of an engine with Docker's API (Docker, Podman) on this machine; gVisor by its runtime.

The engine holds memory, processes and processors; this server limits the disk, by a volume where it can mount one. The
image needs a shell, and ``python3`` for jobs that use a model.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiodocker
from aiodocker.containers import DockerContainer
from aiodocker.exceptions import DockerError

from retinue.kernel import Settings, new_id
from retinue.sandbox import bridge, workspaces
from retinue.sandbox.bubblewrap_command import BRIDGE, SHARED, SOCKET, TEMPORARY, allowed, environment
from retinue.sandbox.identities import Identity, borrow
from retinue.sandbox.jobs import (
    GATEWAY_PORT,
    HOME,
    WORK,
    Ended,
    Finding,
    Interactive,
    Job,
    Limits,
    OnOutput,
    OnUsage,
    Probe,
    Reason,
    SandboxFailed,
    SandboxRefused,
    Stream,
)
from retinue.sandbox.levels import Level
from retinue.sandbox.limiting import allowance
from retinue.sandbox.local import FolderSandbox
from retinue.sandbox.means import Means
from retinue.sandbox.remote import Container, Gone, Tally, carry_out
from retinue.sandbox.volumes import inodes, limited
from retinue.sandbox.watching import Disk

_JOB, _PLACE = "dev.retinue.job", "dev.retinue.place"
_LOOK_SECONDS = 0.5
_SAMPLE_SECONDS = 0.05  # an engine takes a second for an answer anyway


class Docker(FolderSandbox):
    """Runs each job in a container of its own.

    Args:
        folder: where the jobs' folders are made, on the machine of the engine.
        image: the image of every container.
        runtime: the engine's runtime, such as ``runsc`` (gVisor); None: the engine's own choice.
        engine: the client; None: as ``DOCKER_HOST`` says.
        means: as :class:`FolderSandbox`.
    """

    name = "docker"

    def __init__(
        self,
        folder: Path,
        image: str,
        runtime: str | None = None,
        engine: aiodocker.Docker | None = None,
        means: Means | None = None,
    ) -> None:
        super().__init__(folder, means)
        self._image = image
        self._runtime = runtime
        self._engine = engine
        # Several servers may use one engine: each reaps what is its own.
        self._place = workspaces.place_of(folder)

    @classmethod
    def from_settings(cls, settings: Settings) -> Docker:
        """Return the sandbox that the settings describe."""
        return cls(settings.data / "sandboxes", settings.sandbox_image, settings.sandbox_runtime)

    async def probe(self) -> Probe:
        """Ask the engine, and run a program that looks for a network."""
        engine = self._docker()
        try:
            version = await engine.version()
            found = [
                Finding("engine", True, f"{version.get('Version', 'unknown')}, {self._runtime or 'its own runtime'}")
            ]
            job_id = f"probe-{new_id()}"
            workspace = await self.prepare(job_id, Limits())
            said: list[bytes] = []
            script = "sed 1,2d /proc/net/dev | grep -v ' lo:'; [ $(id -u) = 0 ] && echo root; ( : > /x ) 2>&-; exit 0"
            job = Job(job_id=job_id, argv=["/bin/sh", "-c", script], workspace=workspace, limits=Limits(seconds=60))
            try:
                ended = await self.run(job, lambda _stream, data: said.append(data))
            finally:
                await self.wipe(workspace)
        except (DockerError, OSError, SandboxFailed, SandboxRefused) as error:
            detail = getattr(error, "detail", None) or getattr(error, "message", None) or str(error)
            return Probe(Level.D, (Finding("engine", False, str(detail)),))
        if said or ended.exit_code != 0:
            text = b"".join(said).decode("utf-8", "replace").strip() or f"it ended with {ended.exit_code}"
            return Probe(Level.D, (*found, Finding("walls", False, text)))
        volume = Finding("volume", ended.level is Level.A, "of limited size" if ended.level is Level.A else "watched")
        return Probe(ended.level, (*found, Finding("walls", True, "no network, no root"), volume))

    async def run(self, job: Job, on_output: OnOutput, on_usage: OnUsage | None = None) -> Ended:
        """Run a job in a container."""
        identity = borrow()
        try:
            if not identity.private and identity.uid == 0:
                raise SandboxRefused("A container must not run as root.")
            level = Level.A if limited(job.workspace) and identity.private else Level.B
            if not level.reaches(job.minimum):
                raise SandboxRefused(f"Level {job.minimum} is asked for, and level {level} is what can be kept here.")
            if job.stdin is not None:
                await asyncio.to_thread((job.workspace.temporary / "stdin").write_bytes, job.stdin)
            await asyncio.to_thread(_furnish, job, identity)
            try:
                made = await self._docker().containers.create(self._configuration(job, identity))
            except DockerError as error:
                raise SandboxFailed(f"The engine did not make the container: {error.message}") from error
            return await carry_out(_Running(made, job), job.limits, on_output, level, on_usage)
        finally:
            identity.give_back()

    async def interactive(
        self, job: Job, on_error: OnOutput | None = None, on_usage: OnUsage | None = None
    ) -> Interactive:
        """Not offered: drivers use their other way."""
        raise SandboxRefused("Containers of an engine cannot be talked to; use a driver without a conversation.")

    async def reap(self, job_id: str) -> None:
        """Remove the job's containers, then its folders."""
        workspaces.workspace_of(self._folder, job_id)  # refuses what is no name
        labels = [f"{_JOB}={job_id}", f"{_PLACE}={self._place}"]
        for found in await self._docker().containers.list(all=True, filters={"label": labels}):
            await _delete(found)
        await super().reap(job_id)

    async def close(self) -> None:
        """Close the connection to the engine."""
        if self._engine is not None:
            await self._engine.close()
            self._engine = None

    def _docker(self) -> aiodocker.Docker:
        if self._engine is None:
            self._engine = aiodocker.Docker()
        return self._engine

    def _configuration(self, job: Job, identity: Identity) -> dict[str, Any]:
        """Return the container as the engine's API wants it (``POST /containers/create``)."""
        space, limits = job.workspace, job.limits
        binds = [
            f"{space.work}:{WORK}",
            f"{space.home}:{HOME}",
            f"{space.temporary}:{TEMPORARY}",
            f"{space.shared}:{SHARED}",
        ]
        binds += [f"{source}:{allowed(inside)}:ro" for source, inside in job.read_only.items()]
        argv = list(job.argv)
        if job.socket is not None:
            binds += [f"{bridge.__file__}:{BRIDGE}:ro", f"{job.socket}:{SOCKET}"]
            argv = ["python3", "-I", "-S", "-E", BRIDGE, SOCKET, str(GATEWAY_PORT), *argv]
        if job.stdin is not None:
            argv = ["/bin/sh", "-c", f'exec "$@" < {TEMPORARY}/stdin', "sh", *argv]
        host: dict[str, Any] = {
            "Binds": binds,
            "NetworkMode": "none",
            "Memory": limits.memory,
            "MemorySwap": limits.memory,
            "NanoCpus": int(limits.cores * 1_000_000_000),
            "PidsLimit": allowance(job) + 1,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges:true"],
            "ReadonlyRootfs": True,
            "Init": True,
            "IpcMode": "private",
            "LogConfig": {"Type": "none"},  # a log would fill the machine's disk
            "Ulimits": [
                {"Name": "fsize", "Soft": limits.disk, "Hard": limits.disk},
                {"Name": "core", "Soft": 0, "Hard": 0},
                {"Name": "nofile", "Soft": 4096, "Hard": 4096},
            ],
        }
        if self._runtime:
            host["Runtime"] = self._runtime
        return {
            "Image": self._image,
            "Entrypoint": [],
            "Cmd": argv,
            "Env": [f"{name}={value}" for name, value in environment(job).items()],
            "WorkingDir": WORK,
            "User": f"{identity.uid}:{identity.gid}",
            "Tty": False,
            "AttachStdout": True,
            "AttachStderr": True,
            "Labels": {_JOB: job.job_id, _PLACE: self._place},
            "HostConfig": host,
        }


def _furnish(job: Job, identity: Identity) -> None:
    if identity.private:
        workspaces.hand_over(job.workspace, identity.uid, identity.gid)
        if job.socket is not None:
            os.chown(job.socket, identity.uid, identity.gid)


class _Running(Container):
    def __init__(self, made: DockerContainer, job: Job) -> None:
        self._made = made
        self._job = job
        # Attached before the start, or what is written first would be lost.
        self._stream = made.attach(stdout=True, stderr=True)
        self._attached = asyncio.Event()

    async def start(self) -> None:
        await self._attached.wait()
        try:
            await self._made.start()
        except DockerError as error:
            raise SandboxFailed(f"The engine did not start the container: {error.message}") from error

    async def output(self) -> AsyncIterator[tuple[Stream, bytes]]:
        try:
            async with self._stream as stream:
                self._attached.set()
                while (message := await stream.read_out()) is not None:
                    yield ("stderr" if message.stream == 2 else "stdout"), message.data
        finally:
            self._attached.set()

    async def wait(self) -> Gone:
        answer = await self._made.wait()
        state = (await self._made.show())["State"]
        return Gone(int(answer["StatusCode"]), bool(state.get("OOMKilled")))

    async def watch(self, tally: Tally) -> Reason | None:
        looking = asyncio.create_task(self._look())
        try:
            while not looking.done():
                # One answer at a time: the client leaves a stream of them open when it is no longer listened to.
                (told,) = await self._made.stats(stream=False)
                memory, cpu = told.get("memory_stats") or {}, told.get("cpu_stats") or {}
                used = int((cpu.get("cpu_usage") or {}).get("total_usage") or 0)
                tally.add(int(memory.get("usage") or 0), int(memory.get("max_usage") or 0), used / 1e9)
                await asyncio.sleep(_SAMPLE_SECONDS)
            return await looking
        finally:
            looking.cancel()

    async def _look(self) -> Reason | None:
        """Watch the disk, where no volume holds it."""
        while not limited(self._job.workspace):
            disk = Disk(most_entries=inodes(self._job.limits))
            await asyncio.to_thread(disk.add_folder, self._job.workspace.volume)
            if disk.over(self._job.limits.disk):
                return "disk"
            await asyncio.sleep(_LOOK_SECONDS)
        await asyncio.Event().wait()
        return None

    async def remove(self) -> None:
        await _delete(self._made)


async def _delete(container: DockerContainer) -> None:
    """Kill and remove a container. 404: it has gone already; 409: it is being removed."""
    try:
        await container.delete(force=True, v=True)
    except DockerError as error:
        if error.status not in (404, 409):
            raise SandboxFailed(f"The engine did not remove a container: {error.message}") from error
