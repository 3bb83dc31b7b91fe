"""Tries the walls: a job that looks around from inside, and says what it sees."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from retinue.kernel import new_id
from retinue.sandbox.jobs import Finding, Job, Limits, SandboxFailed, SandboxRefused, Stream
from retinue.sandbox.levels import Level

if TYPE_CHECKING:
    from retinue.sandbox.jobs import Sandbox

# Each line that is printed names a wall that does not stand.
_LOOK = r"""
say() { printf '%s\n' "$1"; }
[ "$(id -u)" = 0 ] && say "the program is root"
field() { sed -n "s/^$1:[[:space:]]*//p" /proc/self/status; }
[ "$(field CapEff)$(field CapBnd)" = 00000000000000000000000000000000 ] || say "it has capabilities"
[ "$(field NoNewPrivs)" = 1 ] || say "it can gain rights from files"
[ "$(field Seccomp)" = 2 ] || say "no filter of system calls"
[ -e "$MARK" ] && say "it sees the server's files"
[ -d "/proc/$SERVER/fd" ] && [ "$(cat "/proc/$SERVER/comm")" != sh ] && say "it sees the server's processes"
[ "$(sed 1,2d /proc/net/dev | cut -d : -f 1 | tr -d ' \n')" = lo ] || say "it has a network"
unshare -U true 2>/dev/null && say "it can make user namespaces"
for place in / /dev /etc /usr /run; do ( : > "$place/retinue-probe" ) 2>/dev/null && say "it can write to $place"; done
for place in /work /tmp "$HOME"; do ( : > "$place/probe" ) 2>/dev/null || say "it cannot write to $place"; done
exit 0
"""


# The same where there are no namespaces: what can be opened, and that there are no sockets.
_LOOK_OVER_THE_FENCE = r"""
say() { printf '%s\n' "$1"; }
[ "$(id -u)" = 0 ] && say "the program is root"
( : < "$MARK" ) 2>/dev/null && say "it reads the server's files"
( : < "/proc/$SERVER/environ" ) 2>/dev/null && say "it reads the server's processes"
kill -0 "$SERVER" 2>/dev/null && say "it can signal the server"
unshare -U true 2>/dev/null && say "it can make user namespaces"
for place in /tmp /dev/shm "$HOME/../.." "$(dirname "$MARK")"; do
    ( : > "$place/retinue-probe" ) 2>/dev/null && say "it can write to $place"
done
for place in . "$TMPDIR" "$HOME"; do ( : > "$place/probe" ) 2>/dev/null || say "it cannot write to $place"; done
exit 0
"""


async def probe_walls(sandbox: Sandbox, program: str, folder: Path) -> tuple[list[Finding], Level]:
    """Look around from inside; return what was found and the level that the job was held at, D if a wall is missing."""
    version = _version(program)
    if version is None:
        return [Finding("bubblewrap", False, "not installed (the package bubblewrap)")], Level.D
    found, level = await _look(
        sandbox, folder, _LOOK, "walls", "a program inside sees and reaches nothing of the server"
    )
    return [Finding("bubblewrap", True, version), *found], level


async def probe_fence(sandbox: Sandbox, folder: Path) -> tuple[list[Finding], Level]:
    """The same for Landlock."""
    well = "a program inside opens and signals nothing of the server"
    return await _look(sandbox, folder, _LOOK_OVER_THE_FENCE, "fence", well)


async def _look(sandbox: Sandbox, folder: Path, script: str, what: str, well: str) -> tuple[list[Finding], Level]:
    job_id = f"probe-{new_id()}"
    mark = folder / f"{job_id}.mark"
    said: list[bytes] = []

    def listen(_: Stream, data: bytes) -> None:
        said.append(data)

    limits = Limits(seconds=20, memory=256 << 20, disk=16 << 20, processes=32)
    try:
        workspace = await sandbox.prepare(job_id, limits)
        mark.touch(mode=0o644)
        environment = {"MARK": str(mark), "SERVER": str(os.getpid())}
        job = Job(job_id=job_id, argv=["/bin/sh", "-c", script], env=environment, workspace=workspace, limits=limits)
        try:
            ended = await sandbox.run(job, listen)
        finally:
            await sandbox.wipe(workspace)
    except (SandboxFailed, SandboxRefused, OSError) as error:
        return [Finding(what, False, getattr(error, "detail", str(error)))], Level.D
    finally:
        mark.unlink(missing_ok=True)
    missing = [line for line in b"".join(said).decode("utf-8", "replace").split("\n") if line]
    if ended.exit_code != 0:
        missing.append(f"the look around did not end well ({ended.reason}, {ended.exit_code})")
    if missing:
        return [Finding(what, False, line) for line in missing], Level.D
    return [Finding(what, True, well)], ended.level


def _version(program: str) -> str | None:
    try:
        result = subprocess.run([program, "--version"], capture_output=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.decode("utf-8", "replace").strip()
