"""Worker processes that start in a blink and kill themselves at a chosen boundary.

Run as a program: it imports the product once, then forks a worker for every line it reads. A line is the number of
the boundary to die at (0: none; see ``boundaries.py``), and the planted bug the worker has, if any (``mutants.py``).
The worker ends itself by SIGKILL at its boundary, wherever that is. The parent answers each line with the worker's
process id, and ``stop PID`` with its end.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from retinue.house import House
from retinue.kernel import Settings
from retinue.providers import Providers
from tests.faults.boundaries import Boundaries
from tests.faults.mutants import plant


def _install(fatal: int, mutants: list[str]) -> None:
    for mutant in mutants:
        plant(mutant)
    Boundaries(lambda number, _name: number == fatal, os.environ.get("TEST_BOUNDARY_TRACE")).install()


async def _load() -> None:
    """Import what a worker imports after its start: the model clients take a second."""
    providers = Providers(Settings())
    await providers.warm()
    await providers.close()


async def _work() -> None:
    house = House(Settings())
    await house.open(serve=False, work=True)
    await asyncio.Event().wait()


def main() -> None:
    asyncio.run(_load())
    print("ready", flush=True)
    for line in sys.stdin:
        if line.startswith("stop"):
            pid = int(line.split()[1])
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            print("stopped", flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            fatal, *mutants = line.split()
            _install(int(fatal), mutants)
            asyncio.run(_work())
        print(pid, flush=True)


if __name__ == "__main__":
    main()
