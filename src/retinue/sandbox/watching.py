"""Measures a job by looking at its processes and its folder, where no control group counts for us."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from retinue.sandbox.groups import Group
from retinue.sandbox.jobs import Limits, Reason, Usage
from retinue.sandbox.processes import cpu_seconds, fair_bytes, family, resident_bytes, thread_count
from retinue.sandbox.volumes import inodes

_INTERVAL = 0.05
_MANY = 32
_SHARE = 0.1
"""The part of one processor that watching a job may take."""

DEEPEST = 200
"""Folders within folders beyond this are not walked: a job that makes them is ended as if its disk were full."""


class Watcher:
    """The meter of every level: what no control group and no volume holds for us, samples must see.

    Args:
        first: the first process inside.
        limits: what the job may use.
        processes: how many processes and threads may be alive, with those of the sandbox itself.
        group: counts memory and processor time, and holds memory and processes; None: they are sampled.
        folder: what the job may write to; None where a volume holds it.
    """

    def __init__(
        self, first: int, limits: Limits, processes: int, *, group: Group | None = None, folder: Path | None = None
    ) -> None:
        self.interval = _INTERVAL
        self._first = first
        self._limits = limits
        self._processes = processes
        self._group = group
        self._folder = folder
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

    def before_kill(self) -> None:
        """Read the CPU time while there is somebody to read it of: nobody waits for what dies with its namespace.

        A control group remembers it.
        """
        if self._group is None:
            self._cpu = max(self._cpu, cpu_seconds(family(self._first)))

    async def finish(self, told: float) -> Reason | None:
        """Look for the last time. The kernel told the CPU time of every process that was waited for."""
        self._cpu = max(self._cpu, told)
        return None if self._group is None else self._read(self._group)

    def usage(self, seconds: float) -> Usage:
        """What was used."""
        return Usage(
            seconds=seconds,
            cpu_seconds=self._cpu,
            peak_memory=self._peak,
            memory_byte_seconds=self._byte_seconds,
        )

    def _look(self) -> Reason | None:
        processes: list[int] = []
        if self._group is not None:
            reason = self._read(self._group)
        else:
            processes = list(family(self._first))
            reason = self._measure(processes)
        if reason is None and self._folder is not None:
            disk = Disk(most_entries=inodes(self._limits))
            disk.add_folder(self._folder)
            disk.add_unlinked(processes or list(family(self._first)))
            reason = "disk" if disk.over(self._limits.disk) else None
        return reason

    def _read(self, group: Group) -> Reason | None:
        counted = group.read()
        self._hold(counted.memory)
        self._peak = max(self._peak, counted.peak)
        self._cpu = max(self._cpu, counted.cpu_seconds)
        # The kernel has killed one process of the job; what is left of it must not go on as if nothing were.
        return "memory" if counted.killed else None

    def _measure(self, processes: list[int]) -> Reason | None:
        resident = sum(resident_bytes(pid) for pid in processes)
        # Shared pages are in the RSS of every process that has them, so the sum is an upper bound. PSS counts each
        # page once and takes far longer to read: with many processes it is read when the bound says nothing.
        many = len(processes) > _MANY
        memory = resident if many and resident <= self._limits.memory else fair_bytes(processes)
        self._hold(memory)
        self._peak = max(self._peak, memory)
        if memory > self._limits.memory:
            return "memory"
        return "processes" if sum(map(thread_count, processes)) > self._processes else None

    def _hold(self, memory: int) -> None:
        now = time.monotonic()
        self._byte_seconds += max(0, memory) * (now - self._last)
        self._last = now


@dataclass(slots=True)
class Disk:
    """What a job has on disk. Without a volume of its own it takes the machine's inodes, so they are counted, too."""

    most_entries: int
    allocated: int = 0
    entries: int = 0
    too_deep: bool = False

    def over(self, limit: int) -> bool:
        """Tell whether it is too much, in bytes, in files, or to look at."""
        return self.allocated > limit or self.entries > self.most_entries or self.too_deep

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
                self.too_deep = self.too_deep or error.errno == errno.ENAMETOOLONG  # deeper than a path can say
                continue
            with entries:
                for entry in entries:
                    self._add_entry(entry, depth, waiting)
                    if self.entries > self.most_entries:
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
