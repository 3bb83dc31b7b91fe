"""Volumes of limited size: a job that fills its disk fills its own, not the machine's."""

from __future__ import annotations

import os
import shutil
import subprocess
from enum import StrEnum
from pathlib import Path

from retinue.sandbox.jobs import Limits, SandboxFailed, Workspace

_INODE = 256
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


class Kind(StrEnum):
    """What holds a job's files."""

    IMAGE = "a file system in a file, mounted"
    MEMORY = "a file system in memory; its files count as memory, too"
    FOLDER = "a folder; its size is watched"


def make(workspace: Workspace, limits: Limits, kind: Kind) -> None:
    """Make the folder of a job's volume, empty, and mount what limits it. Raises SandboxFailed."""
    workspace.volume.mkdir(mode=0o700)
    if kind is Kind.IMAGE:
        image = workspace.folder / "volume.img"
        files = inodes(limits)
        # What the file system takes for itself comes on top: the job may write as much as its limit says.
        size = limits.disk + limits.disk // 50 + files * _INODE + (2 << 20)
        with open(image, "xb") as file:
            file.truncate(-(-size // 4096) * 4096)
        form = ["-q", "-F", "-b", "4096", "-m", "0", "-N", str(files), "-O", "^has_journal,^resize_inode"]
        _call("mkfs.ext4", *form, "-E", "lazy_itable_init=1,nodiscard", str(image))
        _call("mount", "-t", "ext4", "-o", "loop,nosuid,nodev,noatime", str(image), str(workspace.volume))
        shutil.rmtree(workspace.volume / "lost+found")
    elif kind is Kind.MEMORY:
        options = f"size={limits.disk},nr_inodes={inodes(limits)},mode=700,nosuid,nodev"
        _call("mount", "-t", "tmpfs", "-o", options, "retinue", str(workspace.volume))


def release(workspace: Workspace) -> None:
    """Unmount a job's volume, if one is mounted."""
    while workspace.volume.is_mount():
        try:
            _call("umount", str(workspace.volume))
        except SandboxFailed:
            _call("umount", "--lazy", str(workspace.volume))  # a reader still has a file open; it goes with the reader


def limited(workspace: Workspace) -> bool:
    """Tell whether the job's files lie in a volume of their own."""
    return os.path.ismount(workspace.volume)


def inodes(limits: Limits) -> int:
    """Return how many files a job may have."""
    return max(4096, min(131_072, limits.disk // 8192))


def find_kind(folder: Path) -> tuple[Kind, str]:
    """Try what works on this machine; return it, and why nothing better does."""
    if os.geteuid() != 0:
        return Kind.FOLDER, "only root can mount a volume"
    reason = ""
    for kind in (Kind.IMAGE, Kind.MEMORY):
        workspace = Workspace(folder / f"probe-{os.getpid()}-{kind.name.lower()}")
        workspace.folder.mkdir(mode=0o700, parents=True)
        try:
            make(workspace, Limits(disk=1 << 20), kind)
            return kind, ""
        except (SandboxFailed, OSError) as error:
            reason = str(error)
        finally:
            release(workspace)
            shutil.rmtree(workspace.folder, ignore_errors=True)
    return Kind.FOLDER, reason


def _call(program: str, *arguments: str) -> None:
    found = shutil.which(program, path=_PATH)
    if found is None:
        raise SandboxFailed(f"{program} is not installed.")
    result = subprocess.run(
        [found, *arguments], capture_output=True, check=False, env={"PATH": _PATH, "LC_ALL": "C"}, timeout=60
    )
    if result.returncode != 0:
        said = result.stderr.decode("utf-8", "replace").strip().splitlines()
        raise SandboxFailed(f"{program} failed: {said[-1] if said else result.returncode}")
