"""Waiting for the end of a run without holding a transaction: for ``?wait=true``."""

from __future__ import annotations

import asyncio
from uuid import UUID

from retinue.kernel import Services
from retinue.ledger import Feed

_ENDS = frozenset({"run.completed", "run.failed", "run.cancelled", "run.timed_out", "run.dead_lettered", "run.dropped"})


async def wait_for_end(services: Services, tenant_id: UUID, run_id: UUID, after: int, seconds: float) -> bool:
    """Follow the tenant's events until the run has ended; False when the time was up first."""
    subscription = await services.get(Feed).subscribe(tenant_id, after)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    try:
        while (left := deadline - loop.time()) > 0:
            for one in await subscription.next(timeout=left):
                if one.type in _ENDS and one.meta.run == run_id:
                    return True
        return False
    finally:
        subscription.close()
