"""Waiting for what must not be broken off."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def to_its_end(work: Awaitable[T], *, patience: float | None = None) -> T:
    """Do something to its end, also when this task is cancelled meanwhile; the cancellation goes on after that.

    Args:
        patience: seconds that a cancellation waits at most; None: as long as it takes.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            await asyncio.wait({task}, timeout=patience)
        raise
