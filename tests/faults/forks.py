"""Workers that are forked in a blink and die at a boundary: the test's side of ``doomed.py``."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from tests.faults.mutants import ROOT
from tests.support.forked import Forked, nursery
from tests.support.running import RunningServer


class Forks:
    """Forks workers of a server.

    Args:
        trace: a file that gets a line for each boundary that one passes.
    """

    def __init__(self, server: RunningServer, trace: Path) -> None:
        self._environment = server.environment() | {
            "PYTHONPATH": os.pathsep.join([str(ROOT), server.settings["PYTHONPATH"]]),
            "TEST_BOUNDARY_TRACE": str(trace),
        }
        self._log = server.folder / "forks.log"

    def worker(self, fatal: int, mutant: str = "") -> Forked:
        """Start a worker that dies at a boundary (0: lives) and may have a bug."""
        arguments = ["doomed", str(fatal), *([mutant] if mutant else [])]
        return nursery().start(arguments, self._environment, self._log, "tests.faults.doomed:main")


async def stop(worker: Forked) -> None:
    """Kill a worker, if it is alive."""
    worker.kill()
    await asyncio.to_thread(worker.wait)


def is_alive(worker: Forked) -> bool:
    return worker.poll() is None
