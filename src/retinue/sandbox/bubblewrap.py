"""Bubblewrap: levels A and B."""

from __future__ import annotations

import asyncio
import os
import shutil
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from retinue.sandbox import seccomp, workspaces
from retinue.sandbox.bubblewrap_command import become, first_process, options
from retinue.sandbox.conversing import Conversation
from retinue.sandbox.identities import Identity, borrow
from retinue.sandbox.jobs import Ended, Interactive, Job, Limits, OnOutput, Probe, Sandbox, SandboxRefused, Workspace
from retinue.sandbox.levels import Level
from retinue.sandbox.limiting import limit_process
from retinue.sandbox.starting import Held, began, start
from retinue.sandbox.supervision import Supervision, pump
from retinue.sandbox.watching import Watcher


class Bubblewrap(Sandbox):
    """Runs jobs in namespaces of their own.

    Args:
        folder: where the jobs' folders are made; only the server may look into it.
        program: the path of ``bwrap``.
    """

    name = "bubblewrap"

    def __init__(self, folder: Path, program: str | None = None) -> None:
        self._folder = folder
        self._program = program or shutil.which("bwrap") or "bwrap"

    async def probe(self) -> Probe:
        """Try it."""
        return Probe(Level.B, ())

    async def prepare(self, job_id: str, limits: Limits) -> Workspace:
        """Make the job's folders, empty."""
        await self.reap(job_id)
        return await asyncio.to_thread(self._prepare, job_id)

    def _prepare(self, job_id: str) -> Workspace:
        workspaces.open_folder(self._folder)
        workspace = workspaces.workspace_of(self._folder, job_id)
        workspace.volume.mkdir(mode=0o700, parents=True)
        workspaces.make(workspace)
        return workspace

    async def run(self, job: Job, on_output: OnOutput) -> Ended:
        """Run a job to its end."""
        supervision = await self._start(job)
        child = supervision.child
        return await supervision.complete(
            asyncio.create_task(pump("stdout", child.stdout, on_output, supervision)),
            asyncio.create_task(pump("stderr", child.stderr, on_output, supervision)),
        )

    async def interactive(self, job: Job, on_error: OnOutput | None = None) -> Interactive:
        """Start a job that the caller talks to."""
        return Conversation(await self._start(job, talking=True), on_error)

    async def wipe(self, workspace: Workspace) -> None:
        """Remove a job's folders."""
        await asyncio.to_thread(workspaces.wipe_folder, workspace.folder)

    async def reap(self, job_id: str) -> None:
        """Kill and wipe what is left of a job."""
        await self.wipe(workspaces.workspace_of(self._folder, job_id))

    async def reap_all(self, alive: set[str]) -> list[str]:
        """Reap every job here that is not wanted any more."""
        found = [path.name for path in self._folder.iterdir()] if self._folder.is_dir() else []
        gone = [job_id for job_id in found if job_id not in alive]
        for job_id in gone:
            await self.reap(job_id)
        return gone

    async def _start(self, job: Job, *, talking: bool = False) -> Supervision:
        if not Level.B.reaches(job.minimum):
            raise SandboxRefused(f"Level {job.minimum} is asked for, and level {Level.B} is what can be kept here.")
        identity = borrow()
        async with AsyncExitStack() as undo:
            undo.callback(identity.give_back)
            etc = await asyncio.to_thread(_furnish, job, identity)
            held: Held = await start(
                self._program,
                options(job, identity, etc),
                [*become(identity), *first_process(job)],
                job,
                filters=seccomp.build(counted=False),
                talking=talking,
            )
            undo.push_async_callback(held.abandon)
            limit_process(held.inside.pid, job)
            meter = Watcher(held.inside.pid, job.workspace.volume, job.limits)
            held.release()
            undo.pop_all()
        return Supervision(
            held.child,
            held.inside,
            job.limits,
            meter,
            Level.B,
            began=partial(began, held.told),
            clean_up=identity.give_back,
        )


def _furnish(job: Job, identity: Identity) -> Path:
    """Give the job's folders to its user, and write what it finds in ``/etc``."""
    if not identity.private:
        return workspaces.write_etc(job.workspace, 1000, 1000)
    workspaces.hand_over(job.workspace, identity.uid, identity.gid)
    if job.socket is not None:
        os.chown(job.socket, identity.uid, identity.gid)
    return workspaces.write_etc(job.workspace, identity.uid, identity.gid)
