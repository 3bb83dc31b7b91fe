"""User ids that belong to one running job each, so that no two jobs, and no job and the server, are the same user."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

_COUNT = 4096
_FIRST = 1_900_000_000  # above what systemd, containers and distributions give out
_FIRST_IN_A_CONTAINER = 50_000  # where only 65,536 ids are mapped

_LOCKS = Path("/run/lock/retinue-sandbox")


def is_root() -> bool:
    """Tell whether this server may change to other users."""
    return os.geteuid() == 0


def first_id() -> int:
    """Return the first of the ids that jobs get on this machine."""
    try:
        with open("/proc/self/uid_map", encoding="ascii") as file:
            ranges = [tuple(int(number) for number in line.split()) for line in file]
    except OSError:
        return _FIRST
    for start, _, count in ranges:
        if start <= _FIRST and start + count >= _FIRST + _COUNT:
            return _FIRST
    return _FIRST_IN_A_CONTAINER


@dataclass(slots=True)
class Identity:
    """A user id lent to a job. ``lock`` is None where the server is a plain user: then it is the server's own."""

    uid: int
    gid: int
    lock: int | None

    @property
    def private(self) -> bool:
        """Tell whether nothing else on this machine has this id."""
        return self.lock is not None

    def give_back(self) -> None:
        """Let another job have it. Every process that has it must be dead."""
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None


def borrow(locks: Path = _LOCKS) -> Identity:
    """Lend an id that no other job on this machine has, also not one of another server. Raises OSError if none is free.

    The kernel gives the lock back when the server dies.
    """
    if not is_root():
        return Identity(os.getuid(), os.getgid(), None)
    locks.mkdir(mode=0o700, parents=True, exist_ok=True)
    first = first_id()
    for number in range(first, first + _COUNT):
        lock = os.open(locks / str(number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        return Identity(number, number, lock)
    raise OSError(f"all {_COUNT} user ids for sandboxes are in use")
