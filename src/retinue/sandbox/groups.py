"""Control groups: the kernel counts memory, processes and processor time of a job, and holds them to a limit.

Version 2 (one tree) and version 1 (a tree for each controller) have the same few files under other names.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from retinue.sandbox.jobs import Limits
from retinue.sandbox.processes import family

PARENT = "retinue"
_PERIOD = 100_000  # microseconds over which processor time is divided
_CONTROLLERS = ("memory", "pids", "cpu")
_PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class Counted:
    """What a group counted: bytes now, the most bytes ever, CPU seconds, and processes that its limit killed."""

    memory: int
    peak: int
    cpu_seconds: float
    killed: int


class Group(ABC):
    """The control group of one job."""

    folders: tuple[Path, ...]

    @abstractmethod
    def limit(self, limits: Limits, processes: int) -> None:
        """Set the limits. OSError if the kernel refuses one."""

    @abstractmethod
    def read(self) -> Counted:
        """Read the counters."""

    def add(self, pid: int) -> None:
        """Put a process in; what it starts from now on is in, too."""
        for folder in self.folders:
            (folder / "cgroup.procs").write_text(str(pid), encoding="ascii")

    def members(self) -> set[int]:
        """Return the processes that are in it."""
        found: set[int] = set()
        for folder in self.folders:
            with contextlib.suppress(OSError):
                found |= {int(pid) for pid in (folder / "cgroup.procs").read_text(encoding="ascii").split()}
        return found - {0}

    def remove(self) -> None:
        """Kill what is in it, and remove it. OSError if something does not die."""
        until = time.monotonic() + _PATIENCE
        while True:
            for pid in self.members():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            try:
                for folder in self.folders:
                    with contextlib.suppress(FileNotFoundError):
                        folder.rmdir()
                return
            except OSError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.005)


class _One(Group):
    """Version 1: a folder in the tree of each controller."""

    def __init__(self, roots: dict[str, Path], name: str) -> None:
        self._at = {controller: root / PARENT / name for controller, root in roots.items()}
        self.folders = tuple(dict.fromkeys(self._at.values()))

    def limit(self, limits: Limits, processes: int) -> None:
        for folder in self.folders:
            folder.mkdir(parents=True, exist_ok=True)
        memory = self._at["memory"]
        _write(memory / "memory.limit_in_bytes", limits.memory)
        if (memory / "memory.memsw.limit_in_bytes").exists():
            _write(memory / "memory.memsw.limit_in_bytes", limits.memory)
        else:
            _write(memory / "memory.swappiness", 0)
        _write(self._at["pids"] / "pids.max", processes)
        _write(self._at["cpu"] / "cpu.cfs_period_us", _PERIOD)
        _write(self._at["cpu"] / "cpu.cfs_quota_us", max(1000, int(limits.cores * _PERIOD)))

    def read(self) -> Counted:
        memory = self._at["memory"]
        statistics = _table(memory / "memory.stat")
        return Counted(
            memory=_number(memory / "memory.usage_in_bytes") - statistics.get("total_inactive_file", 0),
            peak=_number(memory / "memory.max_usage_in_bytes"),
            cpu_seconds=_number(self._at["cpuacct"] / "cpuacct.usage") / 1e9,
            killed=_table(memory / "memory.oom_control").get("oom_kill", 0),
        )


class _Two(Group):
    """Version 2: one folder."""

    def __init__(self, parent: Path, name: str) -> None:
        self._folder = parent / name
        self.folders = (self._folder,)

    def limit(self, limits: Limits, processes: int) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        _write(self._folder / "memory.max", limits.memory)
        if (self._folder / "memory.swap.max").exists():
            _write(self._folder / "memory.swap.max", 0)
        _write(self._folder / "memory.oom.group", 1)
        _write(self._folder / "pids.max", processes)
        _write(self._folder / "cpu.max", f"{max(1000, int(limits.cores * _PERIOD))} {_PERIOD}")

    def read(self) -> Counted:
        memory = _number(self._folder / "memory.current")
        peak = self._folder / "memory.peak"  # Linux 5.19
        return Counted(
            memory=memory - _table(self._folder / "memory.stat").get("inactive_file", 0),
            peak=_number(peak) if peak.exists() else memory,
            cpu_seconds=_table(self._folder / "cpu.stat").get("usage_usec", 0) / 1e6,
            killed=_table(self._folder / "memory.events").get("oom_kill", 0),
        )


class Groups:
    """Makes groups, where this server may.

    Args:
        mounts: the content of ``/proc/self/mountinfo``.
        own: the content of ``/proc/self/cgroup``.
    """

    def __init__(self, mounts: str | None = None, own: str | None = None) -> None:
        self._missing = ""
        self._one: dict[str, Path] | None = None
        self._two: Path | None = None
        self._search(
            _text(Path("/proc/self/mountinfo")) if mounts is None else mounts,
            _text(Path("/proc/self/cgroup")) if own is None else own,
        )

    @property
    def missing(self) -> str:
        """Why there are none; empty if there are."""
        return self._missing

    @property
    def version(self) -> str:
        """Where groups are made, for people."""
        if self._two is not None:
            return f"version 2, below {self._two}"
        return f"version 1, below {PARENT} in each tree" if self._one is not None else "none"

    def group(self, name: str) -> Group | None:
        """Return the group of that name, which need not exist yet; None where groups cannot be made."""
        if self._two is not None:
            return _Two(self._two, name)
        return _One(self._one, name) if self._one is not None else None

    def _search(self, mounts: str, own: str) -> None:
        trees = dict(_trees(mounts))
        unified = trees.pop("", None)
        if unified is not None and self._take_two(unified, own):
            return
        roots = {name: trees[name] for name in (*_CONTROLLERS, "cpuacct") if name in trees}
        if len(roots) < 4:
            self._missing = self._missing or "no control groups with memory, pids and cpu are mounted"
        elif not all(os.access(root, os.W_OK) for root in roots.values()):
            self._missing = "this user may not make control groups"
        else:
            self._one, self._missing = roots, ""

    def _take_two(self, unified: Path, own: str) -> bool:
        offered = set(_words(unified / "cgroup.controllers"))
        if not offered.issuperset(_CONTROLLERS):
            return False  # a machine that has these controllers in version 1
        path = next((line[3:] for line in own.splitlines() if line.startswith("0::")), "/")
        mine = unified / path.lstrip("/")
        # Root makes a group at the top. A plain user may where its own group was handed to it (systemd: Delegate=yes).
        home = unified if os.geteuid() == 0 else mine
        if not os.access(home, os.W_OK) or not os.access(home / "cgroup.subtree_control", os.W_OK):
            self._missing = "this user may not make control groups (systemd: Delegate=yes)"
            return False
        try:
            if home == mine and home != unified:
                _step_down(home)
            parent = home / PARENT
            _enable(home)
            parent.mkdir(exist_ok=True)
            _enable(parent)
        except OSError as error:
            self._missing = f"the controllers cannot be handed on in {home}: {error.strerror}"
            return False
        self._two = parent
        return True


def _step_down(home: Path) -> None:
    """Move this server's processes one group down: a group with processes cannot hand controllers on.

    Raises OSError if there are others in the group: that of a login session is not ours to rearrange.
    """
    leaf = home / "server"
    if not {int(pid) for pid in _words(home / "cgroup.procs")} <= set(family(os.getpid())):
        raise OSError(errno.EBUSY, "other programs are in the same control group")
    leaf.mkdir(exist_ok=True)
    for pid in _words(home / "cgroup.procs"):
        with contextlib.suppress(ProcessLookupError):
            (leaf / "cgroup.procs").write_text(pid, encoding="ascii")


def _enable(folder: Path) -> None:
    if not set(_words(folder / "cgroup.subtree_control")).issuperset(_CONTROLLERS):
        (folder / "cgroup.subtree_control").write_text(" ".join(f"+{one}" for one in _CONTROLLERS), encoding="ascii")


def _trees(mounts: str) -> Iterator[tuple[str, Path]]:
    """Yield each controller and the root of its tree; "" for version 2."""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = [*after.split(" ", 2), "", ""][:3]
        place = Path(before.split(" ")[4].encode().decode("unicode_escape"))
        if kind == "cgroup2":
            yield "", place
        elif kind == "cgroup":
            for option in options.split(","):
                yield option, place


def _write(path: Path, value: int | str) -> None:
    path.write_text(str(value), encoding="ascii")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""


def _number(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").split()
    except OSError:
        return []


def _table(path: Path) -> dict[str, int]:
    pairs = (line.split() for line in path.read_text(encoding="ascii").splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}
