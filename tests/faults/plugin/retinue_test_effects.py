"""Two tools with an effect that tests can count: a line in the file that TEST_EFFECTS_FILE names.

``TEST_EFFECTS_PAUSE`` seconds lie between the effect and the return, so that a kill can hit the gap.
"""

import asyncio
import fcntl
import os
from pathlib import Path

from retinue.tools import Effect, ToolContext, Trust, tool


def _append(line: str, *, unless_there: bool) -> None:
    path = Path(os.environ["TEST_EFFECTS_FILE"])
    with path.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        if unless_there and f"{line}\n" in file.readlines():
            return
        file.write(f"{line}\n")
        file.flush()
        os.fsync(file.fileno())


async def _pause() -> None:
    await asyncio.sleep(float(os.environ.get("TEST_EFFECTS_PAUSE", "0")))


@tool(effect=Effect.WRITE, output=Trust.TRUSTED, idempotent=True)
async def note_once(context: ToolContext, text: str) -> str:
    """Note something; twice under one key is once."""
    _append(f"once {context.idempotency_key} {text}", unless_there=True)
    await _pause()
    return "noted"


@tool(effect=Effect.WRITE, output=Trust.TRUSTED)
async def note_blindly(context: ToolContext, text: str) -> str:
    """Note something; twice is twice."""
    _append(f"blind {context.idempotency_key} {text}", unless_there=False)
    await _pause()
    return "noted"
