"""The folders of jobs: made before, handed to the job's user, wiped after, whatever was left in them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

from retinue.sandbox.jobs import SandboxFailed, Workspace, check_job_id

_WRITABLE = ("work", "home", "tmp", "shm")


def workspace_of(folder: Path, job_id: str) -> Workspace:
    """Return where a job's folders are, or would be."""
    return Workspace(folder / check_job_id(job_id))


def place_of(folder: Path) -> str:
    """Return what tells the jobs in a folder from those of another server, where all have one engine or kernel."""
    return hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]


def open_folder(folder: Path) -> None:
    """Make the folder that all jobs' folders lie in. Nobody but the server may look into it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def make(workspace: Workspace) -> None:
    """Make the empty folders that the program may write to. The folder of the volume must exist."""
    for name in _WRITABLE:
        path = workspace.volume / name
        path.mkdir(mode=0o700)


def hand_over(workspace: Workspace, uid: int, gid: int) -> None:
    """Make everything in the job's folders belong to its user. Only root can, and only root needs to."""
    workspace.work.chmod(0o711)  # the sandbox's first process, root without rights, begins there
    for name in _WRITABLE:
        for path, folders, files in os.walk(workspace.volume / name):
            os.chown(path, uid, gid)
            for entry in (*folders, *files):
                os.chown(os.path.join(path, entry), uid, gid, follow_symlinks=False)


FOLDERS_OF_ETC = ("ssl/certs", "pki/ca-trust", "alternatives")
"""Folders of this machine's ``/etc`` that are shown as they are."""

BEGIN = "retinue-begin"
"""A file in the job's ``/etc`` without which nothing is started."""

_COPIED = ("ld.so.cache", "localtime", "mime.types")


def write_etc(workspace: Workspace, uid: int, gid: int) -> Path:
    """Write what programs look for in ``/etc``, and return its folder; nothing else of the machine's is there."""
    etc = workspace.folder / "etc"
    etc.mkdir(exist_ok=True)
    (etc / BEGIN).unlink(missing_ok=True)
    nobody = "" if uid == 65534 else "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    texts = {
        "passwd": f"root:x:0:0:root:/root:/usr/sbin/nologin\nagent:x:{uid}:{gid}:agent:/home/agent:/bin/sh\n{nobody}",
        "group": f"root:x:0:\nagent:x:{gid}:\n" + ("" if gid == 65534 else "nogroup:x:65534:\n"),
        "hosts": "127.0.0.1 localhost sandbox\n::1 localhost sandbox\n",
        "hostname": "sandbox\n",
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
        "resolv.conf": "",
    }
    for name, content in {**{name: text.encode() for name, text in texts.items()}, **_copied()}.items():
        (etc / name).write_bytes(content)
        (etc / name).chmod(0o644)
    for name in FOLDERS_OF_ETC:
        (etc / name).mkdir(parents=True, exist_ok=True)
        (etc / name).parent.chmod(0o755)  # whatever the server's umask is
    etc.chmod(0o755)
    return etc


@cache
def _copied() -> dict[str, bytes]:
    found = {}
    for name in _COPIED:
        with contextlib.suppress(OSError):
            found[name] = Path("/etc", name).read_bytes()
    return found


def wipe_folder(folder: Path) -> None:
    """Remove a folder whatever is in it: unreadable folders, trees deeper than a path can be, odd names.

    ``rm`` walks by descriptors, and so survives a depth at which a recursive walk in Python ends. Raises SandboxFailed.
    """
    if not os.path.lexists(folder):
        return
    if folder.is_symlink() or not folder.is_dir():
        folder.unlink()
        return
    if _remove(folder):
        return
    # A folder without permissions keeps a plain user out, even its owner; the owner may change that.
    subprocess.run(
        [_program("chmod"), "-R", "u+rwX", "--", str(folder)], check=False, capture_output=True, env={"LC_ALL": "C"}
    )
    if not _remove(folder):
        raise SandboxFailed(f"The folder of a job could not be removed: {folder}")


def _remove(folder: Path) -> bool:
    subprocess.run(
        [_program("rm"), "-rf", "--one-file-system", "--", str(folder)],
        check=False,
        capture_output=True,
        env={"LC_ALL": "C"},
    )
    return not folder.exists()


def _program(name: str) -> str:
    return shutil.which(name, path="/usr/bin:/bin") or name
