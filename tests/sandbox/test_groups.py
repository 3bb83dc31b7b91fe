"""Control groups of both versions. Version 2 is played by a folder where this machine has the controllers in 1."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from retinue.kernel import new_id
from retinue.sandbox import Limits
from retinue.sandbox.groups import Groups
from tests.support.sandboxes import ROOT

LIMITS = Limits(memory=100 << 20, cores=0.5)


def play_version_two(folder: Path) -> str:
    """Make what a kernel would show, and return the line of mountinfo."""
    for place in (folder, folder / "retinue", folder / "retinue" / "job"):
        place.mkdir(exist_ok=True)
        (place / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
        (place / "cgroup.subtree_control").write_text("")
        (place / "cgroup.procs").write_text("")
    job = folder / "retinue" / "job"
    (job / "memory.current").write_text("5000\n")
    (job / "memory.peak").write_text("7000\n")
    (job / "memory.swap.max").write_text("max\n")
    (job / "memory.stat").write_text("anon 3000\ninactive_file 1000\n")
    (job / "memory.events").write_text("low 0\noom 1\noom_kill 2\n")
    (job / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1000000\n")
    return f"30 23 0:26 / {folder} rw,nosuid - cgroup2 cgroup rw"


@pytest.mark.skipif(not ROOT, reason="root makes its groups at the top")
def test_version_two_is_limited_and_read(tmp_path: Path) -> None:
    groups = Groups(play_version_two(tmp_path), "0::/\n")
    assert groups.missing == ""
    assert set((tmp_path / "cgroup.subtree_control").read_text().split()) == {"+memory", "+pids", "+cpu"}
    group = groups.group("job")
    assert group is not None
    group.limit(LIMITS, 65)
    written = {name: (tmp_path / "retinue/job" / name).read_text() for name in ("memory.max", "pids.max", "cpu.max")}
    assert written == {"memory.max": str(100 << 20), "pids.max": "65", "cpu.max": "50000 100000"}
    assert (tmp_path / "retinue/job/memory.swap.max").read_text() == "0"
    assert (tmp_path / "retinue/job/memory.oom.group").read_text() == "1"
    counted = group.read()
    assert (counted.memory, counted.peak, counted.cpu_seconds, counted.killed) == (4000, 7000, 1.5, 2)


@pytest.mark.skipif(not ROOT, reason="as above")
def test_a_machine_without_the_controllers_says_so(tmp_path: Path) -> None:
    line = play_version_two(tmp_path)
    (tmp_path / "cgroup.controllers").write_text("hugetlb\n")
    groups = Groups(line, "0::/\n")
    assert groups.group("job") is None
    assert groups.missing == "no control groups with memory, pids and cpu are mounted"


def test_a_group_that_was_not_handed_over_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain user in a login session: the group has processes of others, which are not ours to move."""
    line = play_version_two(tmp_path)
    (tmp_path / "session").mkdir()
    (tmp_path / "session" / "cgroup.subtree_control").write_text("")
    (tmp_path / "session" / "cgroup.procs").write_text(f"{os.getpid()}\n1\n")
    monkeypatch.setattr("retinue.sandbox.groups.os.geteuid", lambda: 1000)
    groups = Groups(line, "0::/session\n")
    assert "other programs" in groups.missing
    assert (tmp_path / "session" / "cgroup.procs").read_text() == f"{os.getpid()}\n1\n"


def test_a_group_that_was_handed_over_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = play_version_two(tmp_path)
    own = tmp_path / "service"
    for place in (own, own / "retinue", own / "server"):
        place.mkdir()
        (place / "cgroup.subtree_control").write_text("")
        (place / "cgroup.procs").write_text("")
    (own / "cgroup.procs").write_text(f"{os.getpid()}\n")
    monkeypatch.setattr("retinue.sandbox.groups.os.geteuid", lambda: 1000)
    groups = Groups(line, "0::/service\n")
    assert groups.version == f"version 2, below {own / 'retinue'}"
    assert (own / "server" / "cgroup.procs").read_text() == str(os.getpid())


@pytest.mark.skipif(not ROOT, reason="only root makes groups of version 1")
def test_the_groups_of_this_machine_hold_what_they_say() -> None:
    group = Groups().group(f"test-{new_id()}")
    assert group is not None
    group.limit(LIMITS, 10)
    try:
        child = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
        group.add(child)
        assert group.members() == {child}
        assert group.read().memory < 10 << 20
    finally:
        group.remove()
    assert os.waitpid(child, 0)[1] == 9  # removing killed it
    assert not any(folder.exists() for folder in group.folders)
