"""What the sandboxes of this machine share: folders of jobs, running, wiping, and finding what dead servers left."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from pathlib import Path

from retinue.sandbox import keeping, volumes, workspaces
from retinue.sandbox.conversing import Conversation
from retinue.sandbox.jobs import Ended, Interactive, Job, Limits, OnOutput, OnUsage, Sandbox, Workspace
from retinue.sandbox.means import Means
from retinue.sandbox.supervision import Supervision, pump


class FolderSandbox(Sandbox):
    """A sandbox whose jobs have their folders on the server's own machine, wherever they run.

    Args:
        folder: where the jobs' folders are made; only the server may look into it.
        means: what to use besides the walls; None: all that is found.
    """

    def __init__(self, folder: Path, means: Means | None = None) -> None:
        self._folder = folder
        self._means = means
        self._looking = asyncio.Lock()
        self._keeper = keeping.Keeper()

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


class LocalSandbox(FolderSandbox):
    """A sandbox whose jobs are children of the server."""

    @abstractmethod
    async def _start(self, job: Job, *, talking: bool = False) -> Supervision:
        """Start a job; ``talking``: the caller writes its standard input. Raises as :meth:`run`."""

    async def run(self, job: Job, on_output: OnOutput, on_usage: OnUsage | None = None) -> Ended:
        """Run a job to its end."""
        supervision = await self._start(job)
        child = supervision.child
        return await supervision.complete(
            asyncio.create_task(pump("stdout", child.stdout, on_output, supervision)),
            asyncio.create_task(pump("stderr", child.stderr, on_output, supervision)),
            on_usage=on_usage,
        )

    async def interactive(
        self, job: Job, on_error: OnOutput | None = None, on_usage: OnUsage | None = None
    ) -> Interactive:
        """Start a job that the caller talks to."""
        return Conversation(await self._start(job, talking=True), on_error, on_usage)
