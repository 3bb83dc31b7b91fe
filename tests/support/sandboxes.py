"""Sandboxes at every level that this machine offers, and ways to weaken them on purpose."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from retinue.kernel import new_id
from retinue.sandbox import Bubblewrap, Ended, Job, Landlock, Level, Limits, Sandbox, Stream, Workspace
from retinue.sandbox.means import Means
from retinue.sandbox.volumes import Kind

PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else os.path.realpath(sys.executable)

ROOT = os.geteuid() == 0
LEVELS = [Level.A, Level.B] if ROOT else [Level.B, Level.C]
"""What is promised here: root has everything, and never needs level C, which counts the processes of a user."""


def sandbox_of(level: Level, folder: Path) -> Sandbox:
    """A sandbox that reaches exactly this level, by leaving out pieces."""
    if level is Level.C:
        return Landlock(folder)
    return Bubblewrap(folder) if level is Level.A else Bubblewrap(folder, means=Means(None, Kind.FOLDER))


class Ran:
    """What came of a job: how it ended, and what it wrote."""

    def __init__(self, ended: Ended, output: bytes, errors: bytes, workspace: Workspace) -> None:
        self.ended = ended
        self.output = output
        self.errors = errors
        self.workspace = workspace


async def make_job(sandbox: Sandbox, argv: Sequence[str], *, limits: Limits | None = None, **more: object) -> Job:
    """A job with an empty workspace."""
    limits = limits or Limits(seconds=30, memory=256 << 20, disk=64 << 20, processes=64)
    job_id = str(new_id())
    workspace = await sandbox.prepare(job_id, limits)
    return replace(Job(job_id=job_id, argv=list(argv), workspace=workspace, limits=limits), **more)  # type: ignore[arg-type]


async def run_job(sandbox: Sandbox, job: Job) -> Ran:
    """Run it and keep what it wrote."""
    written: dict[str, list[bytes]] = {"stdout": [], "stderr": []}

    def keep(stream: Stream, data: bytes) -> None:
        written[stream].append(data)

    ended = await sandbox.run(job, keep)
    return Ran(ended, b"".join(written["stdout"]), b"".join(written["stderr"]), job.workspace)


def alive(token: str) -> list[int]:
    """Return the processes of this machine, but for the test's own, whose command line has the token."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                if token.encode() in file.read() and _state(int(name)) != "Z":
                    found.append(int(name))
        except OSError:
            continue
    return found


def _state(pid: int) -> str:
    with open(f"/proc/{pid}/stat", errors="replace") as file:
        return file.read().rpartition(")")[2].split()[0]


def as_plain_user(argv: Sequence[str], folder: Path, *, timeout: float) -> subprocess.CompletedProcess[str]:
    """Run a command of this repository as a plain user, who may read it and nothing of root's.

    The interpreter may lie in root's home, where nobody else may pass. In a mount namespace of its own the command
    finds folders there that can be passed, with nothing in them but the interpreter.
    """
    assert ROOT
    user = 60_123
    folder.mkdir(parents=True, exist_ok=True)
    os.chown(folder, user, user)
    base = os.path.realpath(sys.base_prefix)
    closed = next((str(path) for path in [*reversed(Path(base).parents)][1:] if not path.stat().st_mode & 1), None)
    script = "set -e\n"
    if closed is not None:
        # The interpreter is held by a second mount while the folder above it is covered.
        script += f"""
            mkdir -p "$1/interpreter"; mount --bind {base} "$1/interpreter"
            mount -t tmpfs -o mode=755 none {closed}; mkdir -p {base}
            mount --bind "$1/interpreter" {base}; umount "$1/interpreter"
        """
    script += f"""
        cd {Path(__file__).parents[2]}; home=$1; shift
        exec setpriv --reuid {user} --regid {user} --clear-groups env -i HOME="$home" TMPDIR="$home" \\
            PATH=/usr/local/bin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 "$@"
    """
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", str(folder), *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


def run_tests_as_plain_user(*tests: str) -> subprocess.CompletedProcess[str]:
    """Run test files of this repository as a plain user, in a folder that it can get to."""
    with tempfile.TemporaryDirectory(prefix="plain-") as name:
        os.chmod(name, 0o711)  # noqa: S103 - it must get through
        folder = Path(name) / "home"
        argv = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-x", "-p", "no:cacheprovider", *tests]
        return as_plain_user([*argv, "--basetemp", str(folder / "t")], folder, timeout=580)
