"""What the kernel tells of processes in ``/proc``: descendants, memory, processor time, threads."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


def family(first: int) -> Iterator[int]:
    """Yield a process and all that came of it. Orphans inside fall to the first process of their namespace."""
    waiting = [first]
    seen = set()
    while waiting:
        pid = waiting.pop()
        if pid in seen:
            continue
        seen.add(pid)
        yield pid
        try:
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                    waiting += [int(child) for child in file.read().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue


def resident_bytes(pid: int) -> int:
    """RSS of a process; 0 if it has gone."""
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def fair_bytes(processes: list[int]) -> int:
    """PSS of processes together: each page counted once, however many have it."""
    total = 0
    for pid in processes:
        try:
            with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
                total += next(int(line.split()[1]) for line in file if line.startswith("Pss:")) * 1024
        except PermissionError:
            total += resident_bytes(pid)  # it made itself unreadable: the upper bound, then
        except (OSError, StopIteration):
            continue  # it has gone
    return total


def cpu_seconds(processes: Iterable[int]) -> float:
    """CPU time of processes and of those of their children that they have waited for."""
    ticks = 0
    for pid in processes:
        try:
            with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
                ticks += sum(int(field) for field in file.read().rpartition(")")[2].split()[11:15])
        except OSError:
            continue  # it has gone
    return ticks / _TICKS


def thread_count(pid: int) -> int:
    """Threads of a process; 0 if it has gone."""
    try:
        return os.stat(f"/proc/{pid}/task").st_nlink - 2
    except OSError:
        return 0
