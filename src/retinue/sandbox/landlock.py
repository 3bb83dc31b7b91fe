"""Landlock: level C, for a plain user on a machine without user namespaces.

No namespace keeps the program apart here: it sees the machine's paths, and its files are at their real place. What it
may open, whom it may signal and that it has no sockets is held by the kernel for all that comes of it.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from pathlib import Path

from retinue.kernel import BadInput
from retinue.sandbox import keeping, launcher, seccomp
from retinue.sandbox.bubblewrap_command import environment, interpreter
from retinue.sandbox.children import Child, memory_file, spawn
from retinue.sandbox.identities import is_root
from retinue.sandbox.jobs import Finding, Job, Probe, SandboxFailed, SandboxRefused, Workspace
from retinue.sandbox.levels import Level
from retinue.sandbox.limiting import bounds, processors
from retinue.sandbox.local import LocalSandbox
from retinue.sandbox.means import Means
from retinue.sandbox.probing import probe_fence
from retinue.sandbox.starting import job_input
from retinue.sandbox.supervision import Inside, Supervision
from retinue.sandbox.volumes import Kind
from retinue.sandbox.watching import Watcher

_READABLE = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc/ssl/certs", "/etc/pki/ca-trust"),
    *("/etc/ca-certificates", "/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime", "/etc/mime.types"),
    *("/etc/passwd", "/etc/group", "/etc/hosts", "/etc/nsswitch.conf"),
)
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_FAILED = 125


class Landlock(LocalSandbox):
    """Runs jobs behind a fence.

    Args:
        folder: where the jobs' folders are made; only the server may look into it.
    """

    name = "landlock"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, Means(None, Kind.FOLDER))

    def inside(self, workspace: Workspace) -> tuple[str, str]:
        """The real places: nothing can be shown elsewhere here."""
        return str(workspace.work), str(workspace.home)

    async def probe(self) -> Probe:
        """Run a job that looks around from inside."""
        complaint = self._complaint()
        if complaint is not None:
            return Probe(Level.D, (complaint,))
        version = Finding("landlock", True, f"version {launcher.landlock_version()}")
        fence, level = await probe_fence(self, self._folder)
        model = Finding("model gateway", False, "level C has no sockets: operations that need a model are refused")
        return Probe(level, (version, *fence, model))

    def _complaint(self) -> Finding | None:
        if not seccomp.supported():
            return seccomp.UNSUPPORTED
        if is_root():
            return Finding("landlock", False, "not for root, whose processes are not counted: bubblewrap is for that")
        found = launcher.landlock_version()
        if found < launcher.ABI_NEEDED:
            text = f"version {found or 'none'}, {launcher.ABI_NEEDED} is needed to keep signals within (Linux 6.12)"
            return Finding("landlock", False, text)
        return None

    async def _start(self, job: Job, *, talking: bool = False) -> Supervision:
        complaint = self._complaint()
        if complaint is not None or not Level.C.reaches(job.minimum):
            reason = complaint.detail if complaint is not None else f"level {Level.C} is what can be kept here"
            raise SandboxRefused(f"Level {job.minimum} is asked for: {reason}.")
        if job.socket is not None:
            raise SandboxRefused("Level C has no sockets, so nothing that needs a model can run.")
        async with AsyncExitStack() as undo:
            with ExitStack() as files:
                orders = memory_file("orders", json.dumps(_orders(job)).encode())
                files.callback(os.close, orders)
                stdin = None if talking else job_input(job)
                if stdin is not None:
                    files.callback(os.close, stdin)
                argv = [interpreter(), "-I", "-S", launcher.__file__, str(orders)]
                try:
                    child = await spawn(argv, env={}, stdin=stdin, pass_fds=[orders])
                except OSError as error:
                    raise SandboxFailed(f"The launcher could not be started: {error.strerror}.") from error
            # SIGTERM: the launcher kills everything first. Until it can, it has started nothing.
            inside = Inside.of(child.pid, signal.SIGTERM)
            undo.callback(child.kill)
            await asyncio.to_thread(keeping.note_process, job.workspace, child.pid, signal.SIGTERM)
            undo.pop_all()
        meter = Watcher(child.pid, job.limits, job.limits.processes + 1, folder=job.workspace.volume)
        return Supervision(child, inside, job.limits, meter, Level.C, began=partial(_began, child), clean_up=_nothing)


def _orders(job: Job) -> dict[str, object]:
    space = job.workspace
    for source, inside in job.read_only.items():
        if str(source) != inside:
            raise BadInput(f"Level C cannot show {source} at another place.", field="read_only")
    limits = bounds(job, divided=False)
    # Without a user namespace the kernel counts every process of this user, with those of the server.
    limits[_NPROC] += _threads_of_user()
    places = {"HOME": str(space.home), "TMPDIR": str(space.temporary)}
    return {
        "server": os.getpid(),
        "argv": list(job.argv),
        "env": environment(job) | places | dict(job.env),
        "folder": str(space.work),
        "limits": sorted(limits.items()),
        "processors": processors(job),
        "readable": [*_READABLE, *(str(source) for source in job.read_only)],
        "writable": [str(space.work), str(space.home), str(space.temporary)],
        "devices": _DEVICES,
        "filter": seccomp.build(counted=False, families=()).hex(),
        "failed": _FAILED,
    }


_NPROC = resource.RLIMIT_NPROC


def _threads_of_user() -> int:
    """Return how many threads this user has on the machine."""
    mine, count = os.getuid(), 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.stat(f"/proc/{name}").st_uid == mine:
                    count += os.stat(f"/proc/{name}/task").st_nlink - 2
            except OSError:
                continue
    return count


async def _nothing() -> None:
    return None


def _began(child: Child) -> bool:
    return not (child.exit.done() and child.exit.result().code == _FAILED)
