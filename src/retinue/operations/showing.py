"""What an agent says while it works, as frames on the live stream: gathered for a moment, and no more than so much."""

from __future__ import annotations

import asyncio
from uuid import UUID

from retinue.live import Frame, Live
from retinue.operations.driver import Progress

MOST = 256 * 1024
"""Characters of one attempt that are shown; the rest of it is not."""

_PAUSE = 0.05
_CUT = "\n[The agent writes on; no more of it is shown.]\n"


class Showing:
    """Shows one attempt to whoever watches. It never waits and never fails; what nobody watches is lost."""

    def __init__(
        self, live: Live, tenant_id: UUID, owner_id: UUID, operation_id: UUID, run_id: UUID, attempt: int
    ) -> None:
        self._live = live
        self._whose = (tenant_id, run_id, operation_id, owner_id)
        self._attempt = attempt
        self._pieces: list[str] = []
        self._shown = 0
        self._length = 0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, progress: Progress) -> None:
        """Show a piece, soon."""
        if self._length >= MOST or not progress.text:
            return
        text = progress.text[: MOST - self._length]
        self._length += len(text)
        self._pieces.append(text if self._length < MOST else text + _CUT)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_PAUSE, self._publish)

    def close(self) -> None:
        """Show what is left."""
        if self._timer is not None:
            self._timer.cancel()
            self._publish()

    def _publish(self) -> None:
        self._timer = None
        text = "".join(self._pieces)
        self._pieces.clear()
        tenant_id, run_id, operation_id, owner_id = self._whose
        self._live.publish(Frame(tenant_id, run_id, operation_id, owner_id, None, self._attempt, self._shown, text))
        self._shown += len(text)
