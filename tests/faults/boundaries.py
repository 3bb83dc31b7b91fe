"""The boundaries of a step: before and after a model call, an effect, a write to the journal, a claim, a commit.

Those of a plan besides: before and after a look at it, and what it appends.

Installed in a process of the product, they are counted, and the process ends itself by SIGKILL at the chosen one.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any

from retinue.database.unit_of_work import Transaction
from retinue.dispatch import Dispatcher
from retinue.ledger.append import _Pending
from retinue.planning.advancing import Advance
from retinue.providers import Providers
from retinue.runs.journal import Journal
from retinue.tools import Tool


class Boundaries:
    """Counts passages; the fatal one is the last thing this process does.

    Args:
        fatal: says of a passage, by its number from 1 and its name, whether it is the one to die at.
        trace: a file that gets a line for each passage.
    """

    def __init__(self, fatal: Callable[[int, str], bool], trace: str | None = None) -> None:
        self.fatal = fatal
        self.passed = 0
        self.trace = trace

    def pass_(self, name: str) -> None:
        self.passed += 1
        if self.trace:
            with open(self.trace, "a", encoding="utf-8") as file:
                file.write(f"{self.passed} {name}\n")
        if self.fatal(self.passed, name):
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

    def install(self) -> None:
        """Watch this process; commits count when they bring events."""
        self.around(Providers, "ask", "model")
        self.around(Tool, "run", "tool")
        self.around(Journal, "_write", "journal")
        self.around(Transaction, "__aexit__", "commit", only=lambda this, *_: _Pending in this._attached)
        self.around(Dispatcher, "hold", "claim")
        self.around(Advance, "run", "plan")
        self.around(Advance, "_flush", "append", only=lambda this, *_: bool(this._facts))
