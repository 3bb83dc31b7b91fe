"""Worker processes that start in a blink and kill themselves at a chosen boundary.

Run as a program: it imports the product once, then forks a worker for every line it reads. A line is the number of
the boundary to die at (0: none). The worker counts each passage of a boundary - before and after a model call, an
effect, a write to the journal, a commit - and ends itself by SIGKILL at the chosen one, wherever that is. The parent
answers each line with the worker's process id, and ``stop PID`` with its end.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from retinue.database.unit_of_work import Transaction
from retinue.dispatch import Dispatcher
from retinue.house import House
from retinue.kernel import Settings
from retinue.ledger.append import _Pending
from retinue.providers import Providers
from retinue.runs.journal import Journal
from retinue.tools import Tool

T = TypeVar("T")


class Boundaries:
    """Counts passages; the chosen one is the last thing this process does."""

    def __init__(self, fatal: int, trace: str | None) -> None:
        self.fatal = fatal
        self.passed = 0
        self.trace = trace

    def pass_(self, name: str) -> None:
        self.passed += 1
        if self.trace:
            with open(self.trace, "a", encoding="utf-8") as file:
                file.write(f"{self.passed} {name}\n")
        if self.passed == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, kind: type[Any], method: str, name: str, only: Callable[..., bool] | None = None) -> None:
        """Pass a boundary before and one after each call of a method."""
        plain: Callable[..., Awaitable[Any]] = getattr(kind, method)

        async def watched(this: Any, *args: Any, **kwargs: Any) -> Any:
            counts = only is None or only(this, *args)
            if counts:
                self.pass_(f"before {name}")
            result = await plain(this, *args, **kwargs)
            if counts:
                self.pass_(f"after {name}")
            return result

        setattr(kind, method, watched)


def _install(fatal: int, trace: str | None) -> None:
    boundaries = Boundaries(fatal, trace)
    boundaries.around(Providers, "ask", "model")
    boundaries.around(Tool, "run", "tool")
    boundaries.around(Journal, "_write", "journal")
    boundaries.around(Transaction, "__aexit__", "commit", only=lambda this, *_: _Pending in this._attached)
    boundaries.around(Dispatcher, "hold", "claim")


async def _work() -> None:
    house = House(Settings())
    await house.open(serve=False, work=True)
    await asyncio.Event().wait()


def main() -> None:
    children: set[int] = set()
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
            _install(int(line), os.environ.get("TEST_BOUNDARY_TRACE"))
            asyncio.run(_work())
        children.add(pid)
        print(pid, flush=True)


if __name__ == "__main__":
    main()
