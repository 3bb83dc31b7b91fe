"""Bubblewrap: levels A and B."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from retinue.sandbox import keeping, seccomp, volumes, workspaces
from retinue.sandbox.bubblewrap_command import INSIDE, become, first_process, options
from retinue.sandbox.conversing import Conversation
from retinue.sandbox.groups import Group
from retinue.sandbox.identities import Identity, borrow
from retinue.sandbox.jobs import (
    Ended,
    Interactive,
    Job,
    Limits,
    OnOutput,
    Probe,
    Sandbox,
    SandboxFailed,
    SandboxRefused,
    Workspace,
)
from retinue.sandbox.levels import Level
from retinue.sandbox.limiting import allowance, limit_process
from retinue.sandbox.means import Means, level_of
from retinue.sandbox.probing import probe_walls
from retinue.sandbox.starting import Held, began, start
from retinue.sandbox.supervision import Supervision, pump
from retinue.sandbox.watching import Watcher


class Bubblewrap(Sandbox):
    """Runs jobs in namespaces of their own.

    Args:
        folder: where the jobs' folders are made; only the server may look into it.
        program: the path of ``bwrap``.
        means: what to use besides bubblewrap; None: all that is found.
    """

    name = "bubblewrap"

    def __init__(self, folder: Path, program: str | None = None, means: Means | None = None) -> None:
        self._folder = folder
        self._program = program or shutil.which("bwrap") or "bwrap"
        self._means = means
        self._looking = asyncio.Lock()
        self._keeper = keeping.Keeper()

    async def probe(self) -> Probe:
        """Run a job that looks around from inside, and say what holds it."""
        means = await self._found()
        if not seccomp.supported():
            return Probe(Level.D, (seccomp.UNSUPPORTED,))
        walls, level = await probe_walls(self, self._program, self._folder)
        return Probe(level, (*walls, *means.findings()))

    async def prepare(self, job_id: str, limits: Limits) -> Workspace:
        """Make the job's folders, empty, in a volume where there is one."""
        means = await self._found()
        await self.reap(job_id)
        return await asyncio.to_thread(self._prepare, job_id, limits, means.volume)

    def _prepare(self, job_id: str, limits: Limits, kind: volumes.Kind) -> Workspace:
        workspaces.open_folder(self._folder)
        workspace = workspaces.workspace_of(self._folder, job_id)
        workspace.folder.mkdir(mode=0o700)
        self._keeper.hold(workspace)
        volumes.make(workspace, limits, kind)
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
        await asyncio.to_thread(self._wipe, workspace)

    def _wipe(self, workspace: Workspace) -> None:
        volumes.release(workspace)
        workspaces.wipe_folder(workspace.folder)
        self._keeper.let_go(workspace.job_id)

    async def reap(self, job_id: str) -> None:
        """Kill and wipe what is left of a job."""
        means = await self._found()
        await asyncio.to_thread(self._reap, workspaces.workspace_of(self._folder, job_id), means)

    def _reap(self, workspace: Workspace, means: Means) -> None:
        keeping.kill_noted(workspace)
        group = means.group(workspace)
        if group is not None:
            group.remove()
        self._wipe(workspace)

    async def reap_all(self, alive: set[str]) -> list[str]:
        """Reap every job here that nobody wants and no other living server holds."""
        found = await asyncio.to_thread(self._abandoned, alive)
        for job_id in found:
            await self.reap(job_id)
        return found

    def _abandoned(self, alive: set[str]) -> list[str]:
        if not self._folder.is_dir():
            return []
        names = sorted(entry.name for entry in self._folder.iterdir() if entry.is_dir())
        return [
            name
            for name in names
            if name not in alive and not self._keeper.held_elsewhere(workspaces.workspace_of(self._folder, name))
        ]

    async def _found(self) -> Means:
        async with self._looking:
            if self._means is None:
                workspaces.open_folder(self._folder)
                self._means = await asyncio.to_thread(Means.find, self._folder)
            return self._means

    async def _start(self, job: Job, *, talking: bool = False) -> Supervision:
        means = await self._found()
        async with AsyncExitStack() as undo:
            identity = borrow()
            undo.callback(identity.give_back)
            group = await asyncio.to_thread(_group, means, job, undo)
            level = level_of(group=group, workspace=job.workspace, private=identity.private)
            if not level.reaches(job.minimum):
                raise SandboxRefused(f"Level {job.minimum} is asked for, and level {level} is what can be kept now.")
            etc = await asyncio.to_thread(_furnish, job, identity)
            held = await start(
                self._program,
                options(job, identity, etc),
                [*become(identity), *first_process(job)],
                job,
                filters=seccomp.build(counted=group is not None),
                talking=talking,
            )
            undo.push_async_callback(held.abandon)
            meter = _hold(held, job, group)
            undo.pop_all()
        return Supervision(
            held.child,
            held.inside,
            job.limits,
            meter,
            level,
            began=partial(began, held.told),
            clean_up=partial(_clean_up, identity, group),
        )


def _group(means: Means, job: Job, undo: AsyncExitStack) -> Group | None:
    """Make the job's control group; None where it cannot be had now, which makes the level lower."""
    group = means.group(job.workspace)
    if group is None:
        return None
    try:
        group.limit(job.limits, allowance(job))
    except OSError:
        with contextlib.suppress(OSError):
            group.remove()
        return None
    undo.callback(group.remove)
    return group


def _furnish(job: Job, identity: Identity) -> Path:
    """Give the job's folders to its user, and write what it finds in ``/etc``."""
    if not identity.private:
        return workspaces.write_etc(job.workspace, INSIDE, INSIDE)
    workspaces.hand_over(job.workspace, identity.uid, identity.gid)
    if job.socket is not None:
        os.chown(job.socket, identity.uid, identity.gid)
    return workspaces.write_etc(job.workspace, identity.uid, identity.gid)


def _hold(held: Held, job: Job, group: Group | None) -> Watcher:
    """Set the limits on the first process, which waits, and let it begin. Raises SandboxFailed."""
    pid = held.inside.pid
    try:
        if group is not None:
            group.add(pid)
        limit_process(pid, job, divided=group is not None)
        keeping.note_process(job.workspace, pid)
    except OSError as error:
        raise SandboxFailed(f"The limits of the job could not be set: {error.strerror}.") from error
    folder = None if volumes.limited(job.workspace) else job.workspace.volume
    meter = Watcher(pid, job.limits, allowance(job), group=group, folder=folder)
    held.release()
    return meter


def _clean_up(identity: Identity, group: Group | None) -> None:
    """Everything inside is dead: remove what counted it, then let another job have its user."""
    try:
        if group is not None:
            group.remove()
    finally:
        identity.give_back()
