"""Tools that go wrong: they take their worker down, raise, answer far too much, or do not answer.

Those that kill do so while the file exists that TEST_DEADLY_FILE names.
"""

import asyncio
import os
import signal
from pathlib import Path

from retinue.tools import Effect, ToolContext, Trust, tool


def _die_if_deadly() -> None:
    if Path(os.environ["TEST_DEADLY_FILE"]).exists():
        os.kill(os.getpid(), signal.SIGKILL)


def _note(line: str) -> None:
    with Path(os.environ["TEST_EFFECTS_FILE"]).open("a") as file:
        file.write(f"{line}\n")


@tool(effect=Effect.READ, output=Trust.TRUSTED, idempotent=True)
async def look_and_die() -> str:
    """Look at something that takes the process down."""
    _die_if_deadly()
    return "seen"


@tool(effect=Effect.WRITE, output=Trust.TRUSTED)
async def act_and_die(context: ToolContext) -> str:
    """Do something once, and be gone before anybody knows."""
    _note(f"act {context.idempotency_key}")
    _die_if_deadly()
    return "acted"


@tool(effect=Effect.READ, output=Trust.TRUSTED)
async def raise_something() -> str:
    """Fail in a way nobody has thought of."""
    raise ZeroDivisionError("the tool divided by zero")


@tool(effect=Effect.READ, output=Trust.TRUSTED)
async def say_ten_megabytes() -> str:
    """Answer at length."""
    return "0123456789" * 1_000_000


@tool(effect=Effect.READ, output=Trust.TRUSTED, timeout=0.5)
async def never_return() -> str:
    """Think for ever."""
    await asyncio.Event().wait()
    return "never"
