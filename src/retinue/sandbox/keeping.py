"""What a server notes about its jobs, so that another one can tell whether they are still held, and kill them."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
from pathlib import Path

from retinue.sandbox.jobs import Workspace

_PATIENCE = 10.0


class Keeper:
    """Holds a lock for each job of this server. The kernel lets go of them when the server dies."""

    def __init__(self) -> None:
        self._locks: dict[str, int] = {}

    def hold(self, workspace: Workspace) -> None:
        """Lock a job's folder."""
        number = os.open(_lock(workspace), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._locks[workspace.job_id] = number

    def let_go(self, job_id: str) -> None:
        """Unlock it, if it is this server's."""
        number = self._locks.pop(job_id, None)
        if number is not None:
            os.close(number)

    def held_elsewhere(self, workspace: Workspace) -> bool:
        """Tell whether another living server on this machine holds the job."""
        if workspace.job_id in self._locks:
            return False
        try:
            number = os.open(_lock(workspace), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return False
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return False
        except BlockingIOError:
            return True
        finally:
            os.close(number)


def note_process(workspace: Workspace, pid: int, by: signal.Signals = signal.SIGKILL) -> None:
    """Note the first process and the signal that ends it with all others. Its start time tells it from a later one."""
    note = json.dumps({"pid": pid, "started": _started(pid), "signal": int(by)})
    (workspace.folder / "process").write_text(note, encoding="ascii")


def kill_noted(workspace: Workspace) -> bool:
    """Kill the noted process, and with it everything in its namespace; return once it is dead, whether it was alive."""
    try:
        note = json.loads((workspace.folder / "process").read_text(encoding="ascii"))
        pid = int(note["pid"])
        handle = os.pidfd_open(pid)
    except (OSError, ValueError, KeyError, TypeError):
        return False
    try:
        if _started(pid) != note["started"]:
            return False
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.Signals(note.get("signal", signal.SIGKILL)))
        select.select([handle], [], [], _PATIENCE)
        return True
    finally:
        os.close(handle)


def _lock(workspace: Workspace) -> Path:
    return workspace.folder / "lock"


def _started(pid: int) -> int:
    """Return when a process began, in clock ticks since the machine did; 0 if there is none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[19])
    except OSError:
        return 0
