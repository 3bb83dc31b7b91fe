"""Limits that the kernel keeps for each process, set on the first one before it begins; the others inherit them."""

from __future__ import annotations

import math
import os
import random
import resource

from retinue.sandbox.jobs import Job

_OPEN_FILES = 4096
_BRIDGE_THREADS = 16


def allowance(job: Job) -> int:
    """Return how many processes and threads may be alive, with the sandbox's own first process."""
    return job.limits.processes + (1 if job.socket is None else _BRIDGE_THREADS)


def bounds(job: Job, *, divided: bool) -> dict[int, int]:
    """Return what each process may use. ``divided``: a control group divides memory and processors among them."""
    limits = job.limits
    found = {
        # Counted for the user within its user namespace; for user 0 it means nothing, and no job is user 0.
        resource.RLIMIT_NPROC: allowance(job),
        resource.RLIMIT_NOFILE: _OPEN_FILES,
        resource.RLIMIT_FSIZE: limits.disk,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_RTPRIO: 0,
        resource.RLIMIT_CPU: math.ceil(limits.seconds * max(1, math.ceil(limits.cores))) + 1,
    }
    if not divided:
        # Data rather than address space: JavaScript engines reserve far more addresses than they use.
        found[resource.RLIMIT_DATA] = limits.memory
    return found


def processors(job: Job) -> list[int]:
    """Return the processors that a job runs on where no control group divides them."""
    mine = sorted(os.sched_getaffinity(0))
    return random.sample(mine, min(len(mine), max(1, math.ceil(job.limits.cores))))


def limit_process(pid: int, job: Job, *, divided: bool) -> None:
    """Set the limits on a process; its descendants inherit them. Raises OSError if the kernel refuses."""
    for which, bound in bounds(job, divided=divided).items():
        _, hardest = resource.prlimit(pid, which)
        allowed = bound if hardest == resource.RLIM_INFINITY else min(bound, hardest)
        resource.prlimit(pid, which, (allowed, allowed))
    if not divided:
        os.sched_setaffinity(pid, processors(job))
