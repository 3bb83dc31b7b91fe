"""A planted bug for the processes of a test: looks at plans fail while a file exists."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any


def every_look_fails() -> None:
    """Let looks at plans fail, and follow each other quickly, while the file named by TEST_POISON is there."""
    from retinue.planning import giving_up
    from retinue.planning.advancing import Advance

    file, look = Path(os.environ["TEST_POISON"]), Advance.run

    async def poisoned(self: Advance) -> Any:
        if os.path.exists(file):  # noqa: ASYNC240 - a look at the file system is what a test can reach
            raise ArithmeticError("poison in the plan")
        return await look(self)

    Advance.run = poisoned  # type: ignore[method-assign]
    giving_up.PAUSES = (timedelta(seconds=0.05),) * len(giving_up.PAUSES)
