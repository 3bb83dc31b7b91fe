"""A worker that kills itself at a chosen boundary; ``forks.py`` starts it.

Its arguments are the number of the boundary to die at (0: none; see ``boundaries.py``), and the planted bug it has, if
any (``mutants.py``). It ends itself by SIGKILL at its boundary, wherever that is.
"""

from __future__ import annotations

import asyncio
import os
import sys

from retinue.house import House
from retinue.kernel import Settings
from tests.faults.boundaries import Boundaries
from tests.faults.mutants import plant


def main() -> None:
    """Be the worker."""
    _, fatal, *mutants = sys.argv
    for mutant in mutants:
        plant(mutant)
    number = int(fatal)
    Boundaries(lambda passed, _name: passed == number, os.environ.get("TEST_BOUNDARY_TRACE")).install()
    asyncio.run(_work())


async def _work() -> None:
    house = House(Settings())
    await house.open(serve=False, work=True)
    await asyncio.Event().wait()
