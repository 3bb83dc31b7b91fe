"""Processes of this machine: what their ids are unique in, and whether one is alive."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import psutil


def machine_id() -> str:
    """Name what process ids are unique in: host, boot and pid namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        boot, namespace = str(int(psutil.boot_time())), ""
    return f"{platform.node()} {boot} {namespace}"


def is_alive(pid: int, started: float) -> bool:
    """Whether the process of this machine that began at ``started`` (seconds since 1970) still runs."""
    try:
        process = psutil.Process(pid)
        return bool(abs(process.create_time() - started) < 1.0 and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
