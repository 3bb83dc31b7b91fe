"""Measures a job by looking at its processes and its folder, where no control group counts for us."""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from retinue.sandbox.jobs import Limits, Reason, Usage

_INTERVAL = 0.05
_SHARE = 0.1
"""The part of one processor that watching a job may take."""

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")

DEEPEST = 200
"""Folders within folders beyond this are not walked: a job that makes them is ended as if its disk were full."""

MOST_ENTRIES = 200_000
"""Files and folders a job may have: without a volume of its own it takes the machine's inodes."""


class Watcher:
    """The meter of level B and C: samples processes and disk, and integrates."""

    interval = _INTERVAL

    def __init__(self, first: int, folder: Path, limits: Limits) -> None:
        self._first = first
        self._folder = folder
        self._limits = limits
        self._peak = 0
        self._byte_seconds = 0.0
        self._cpu = 0.0
        self._last = time.monotonic()

    async def sample(self) -> Reason | None:
        """Look once, in a thread; rest longer when looking takes long."""
        began = time.monotonic()
        reason = await asyncio.to_thread(self._look)
        self.interval = max(_INTERVAL, (time.monotonic() - began) / _SHARE)
        return reason

    async def finish(self, cpu_seconds: float) -> Reason | None:
        """Take the kernel's word for the CPU time: it counted every process that was waited for."""
        self._cpu = max(self._cpu, cpu_seconds)
        return None

    def usage(self, seconds: float) -> Usage:
        """What was used, as far as samples can tell."""
        return Usage(
            seconds=seconds,
            cpu_seconds=self._cpu,
            peak_memory=self._peak,
            memory_byte_seconds=self._byte_seconds,
        )

    def _look(self) -> Reason | None:
        processes = list(family(self._first))
        threads = memory = 0
        resident = sum(resident_bytes(pid) for pid in processes)
        # Shared pages are counted in every process that has them: the sum of RSS is an upper bound of the truth.
        memory = resident if resident <= self._limits.memory // 8 and len(processes) > 32 else fair_bytes(processes)
        now = time.monotonic()
        self._byte_seconds += memory * (now - self._last)
        self._last = now
        self._peak = max(self._peak, memory)
        if memory > self._limits.memory:
            return "memory"
        threads = sum(thread_count(pid) for pid in processes)
        if threads > self._limits.processes + 1:  # the first process is the sandbox's own
            return "processes"
        disk = Disk()
        disk.add_folder(self._folder)
        disk.add_unlinked(processes)
        return "disk" if disk.over(self._limits.disk) else None


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


def thread_count(pid: int) -> int:
    """Threads of a process; 0 if it has gone."""
    try:
        return os.stat(f"/proc/{pid}/task").st_nlink - 2
    except OSError:
        return 0


@dataclass(slots=True)
class Disk:
    """What a job has on disk."""

    allocated: int = 0
    entries: int = 0
    too_deep: bool = False

    def over(self, limit: int) -> bool:
        """Tell whether it is too much, in bytes, in files, or to look at."""
        return self.allocated > limit or self.entries > MOST_ENTRIES or self.too_deep

    def add_folder(self, folder: Path) -> None:
        """Walk a folder that changes while it is walked, never following a link."""
        waiting = [(str(folder), 0)]
        while waiting:
            path, depth = waiting.pop()
            if depth > DEEPEST:
                self.too_deep = True
                return
            try:
                entries = os.scandir(path)
            except OSError as error:
                self.too_deep = self.too_deep or error.errno == 36  # ENAMETOOLONG: deeper than a path can say
                continue
            with entries:
                for entry in entries:
                    self._add_entry(entry, depth, waiting)
                    if self.entries > MOST_ENTRIES:
                        return

    def _add_entry(self, entry: os.DirEntry[str], depth: int, waiting: list[tuple[str, int]]) -> None:
        try:
            found = entry.stat(follow_symlinks=False)
        except OSError:
            return
        self.entries += 1
        # A file with several names is counted once for each: too much rather than too little.
        self.allocated += found.st_blocks * 512
        if stat.S_ISDIR(found.st_mode):
            waiting.append((entry.path, depth + 1))

    def add_unlinked(self, processes: list[int]) -> None:
        """Count files that have no name any more and are still open: no walk finds them."""
        seen = set()
        for pid in processes:
            try:
                numbers = os.listdir(f"/proc/{pid}/fd")
            except OSError:
                continue
            for number in numbers:
                try:
                    found = os.stat(f"/proc/{pid}/fd/{number}")
                except OSError:
                    continue
                if stat.S_ISREG(found.st_mode) and found.st_nlink == 0 and (found.st_dev, found.st_ino) not in seen:
                    seen.add((found.st_dev, found.st_ino))
                    self.allocated += found.st_blocks * 512
                    self.entries += 1
