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
from retinue.sandbox.bubblewrap_command import INSIDE, command, options
from retinue.sandbox.groups import Group
from retinue.sandbox.identities import Identity, borrow
from retinue.sandbox.jobs import Job, Probe, SandboxFailed, SandboxRefused
from retinue.sandbox.levels import Level
from retinue.sandbox.limiting import allowance, limit_process
from retinue.sandbox.local import LocalSandbox
from retinue.sandbox.means import Means, level_of
from retinue.sandbox.probing import probe_walls
from retinue.sandbox.starting import Held, began, failure, start
from retinue.sandbox.supervision import Supervision
from retinue.sandbox.watching import Watcher


class Bubblewrap(LocalSandbox):
    """Runs jobs in namespaces of their own.

    Args:
        folder: where the jobs' folders are made; only the server may look into it.
        program: the path of ``bwrap``.
        means: what to use besides bubblewrap; None: all that is found.
    """

    name = "bubblewrap"

    def __init__(self, folder: Path, program: str | None = None, means: Means | None = None) -> None:
        super().__init__(folder, means)
        self._program = program or shutil.which("bwrap") or "bwrap"

    async def probe(self) -> Probe:
        """Run a job that looks around from inside, and say what holds it."""
        if not seccomp.supported():
            return Probe(Level.D, (seccomp.UNSUPPORTED,))
        means = await self._found()
        walls, level = await probe_walls(self, self._program, self._folder)
        return Probe(level, (*walls, *means.findings()))

    async def _start(self, job: Job, *, talking: bool = False) -> Supervision:
        means = await self._found()
        async with AsyncExitStack() as undo:
            identity = borrow()
            undo.callback(identity.give_back)
            etc, group = await asyncio.to_thread(_furnish, means, job, identity, undo)
            level = level_of(group=group, workspace=job.workspace, private=identity.private)
            if not level.reaches(job.minimum):
                raise SandboxRefused(f"Level {job.minimum} is asked for, and level {level} is what can be kept now.")
            held = await start(
                self._program,
                options(job, identity, etc),
                command(job, identity),
                job,
                filters=seccomp.build(counted=group is not None),
                talking=talking,
            )
            undo.push_async_callback(held.abandon)
            try:
                meter = _hold(held, job, group)
            except (ProcessLookupError, BrokenPipeError):  # a wall could not be built after all
                raise await failure(held.child) from None
            except OSError as error:
                raise SandboxFailed(f"The limits of the job could not be set: {error.strerror}.") from error
            undo.pop_all()
        return Supervision(
            held.child,
            held.inside,
            job.limits,
            meter,
            level,
            began=partial(began, held.told),
            clean_up=partial(_clean_up, identity, group, held.told),
        )


def _furnish(means: Means, job: Job, identity: Identity, undo: AsyncExitStack) -> tuple[Path, Group | None]:
    """Give the job's folders to its user, write what it finds in ``/etc``, and make its control group."""
    group = _group(means, job)
    if group is not None:
        undo.callback(group.remove)
    if not identity.private:
        return workspaces.write_etc(job.workspace, INSIDE, INSIDE), group
    workspaces.hand_over(job.workspace, identity.uid, identity.gid)
    if job.socket is not None:
        os.chown(job.socket, identity.uid, identity.gid)
    return workspaces.write_etc(job.workspace, identity.uid, identity.gid), group


def _group(means: Means, job: Job) -> Group | None:
    """Make the job's control group; None where it cannot be had now, which makes the level lower."""
    group = means.group(job.workspace)
    if group is not None:
        try:
            group.limit(job.limits, allowance(job))
        except OSError:
            with contextlib.suppress(OSError):
                group.remove()
            return None
    return group


def _hold(held: Held, job: Job, group: Group | None) -> Watcher:
    """Set the limits on the first process, which waits, and let it begin. OSError if the kernel refuses one."""
    pid = held.inside.pid
    if group is not None:
        group.add(pid)
    limit_process(pid, job, divided=group is not None)
    keeping.note_process(job.workspace, pid)
    folder = None if volumes.limited(job.workspace) else job.workspace.volume
    meter = Watcher(pid, job.limits, allowance(job), group=group, folder=folder)
    (job.workspace.folder / "etc" / workspaces.BEGIN).touch()
    held.release()
    return meter


async def _clean_up(identity: Identity, group: Group | None, told: int) -> None:
    """Everything inside is dead: remove what counted it, then let another job have its user."""
    os.close(told)
    try:
        if group is not None:
            await asyncio.to_thread(group.remove)
    finally:
        identity.give_back()
