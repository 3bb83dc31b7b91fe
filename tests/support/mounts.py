"""Volumes of sandboxes whose server was killed: they stay mounted, and their folder cannot be removed."""

from __future__ import annotations

import subprocess
from pathlib import Path


def unmount_below(folder: Path) -> None:
    """Unmount everything below a test's folder. The programs in it must have ended."""
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return  # not Linux: nothing is mounted there
    for line in reversed(lines):
        place = line.split()[1].encode().decode("unicode_escape")
        if Path(place).is_relative_to(folder):
            subprocess.run(["umount", "--lazy", place], check=False, capture_output=True)
