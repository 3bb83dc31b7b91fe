"""An activation: one subject that a worker is advancing, and how it is told to leave."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, TypeVar
from uuid import UUID

T = TypeVar("T")


class Stopped(Exception):
    """Somebody asked for this activation to stop; ``reason`` is ``cancel`` or ``lost``."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class HandOver(Exception):
    """This process is about to end: another one is to go on from the last recorded step."""


class Activation:
    """One subject that this process is advancing.

    Attributes:
        stop: ``None``; ``pause`` (leave at the next step), ``cancel`` (leave now) or ``lost`` (another worker has it).
    """

    def __init__(self, kind: str, tenant_id: UUID, subject_id: UUID) -> None:
        self.kind = kind
        self.tenant_id = tenant_id
        self.subject_id = subject_id
        self.stop: str | None = None
        self.task: asyncio.Task[None] | None = None
        self._leave_now: asyncio.Future[None] | None = None

    def ask_to_stop(self, reason: str) -> None:
        """Pass on a request to stop; ``lost`` outranks ``cancel``, which outranks ``pause``."""
        rank = {None: 0, "pause": 1, "cancel": 2, "lost": 3}
        if rank[reason] > rank[self.stop]:
            self.stop = reason
        if self.stop != "pause" and self._leave_now is not None and not self._leave_now.done():
            self._leave_now.set_result(None)

    async def unless_stopped(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work``; cancel it at once when this activation must leave now.

        Raises:
            Stopped: it was cancelled, and has ended.
        """
        if self.stop in ("cancel", "lost"):
            work.close()
            raise Stopped(self.stop)
        self._leave_now = asyncio.get_running_loop().create_future()
        task = asyncio.ensure_future(work)
        try:
            waited: set[asyncio.Future[Any]] = {task, self._leave_now}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise Stopped(self.stop or "cancel")
        finally:
            self._leave_now = None
            if not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task
