"""Groups of rows, in the order of the table."""

from bench.groups import (
    approvals,
    artifacts,
    board,
    crash,
    crowd,
    feed,
    gateway,
    ledger,
    operations,
    plans,
    replay,
    sandbox,
    start,
    storage,
    streams,
    turns,
    wakeup,
)
from bench.rows import Group

GROUPS: tuple[Group, ...] = (
    turns.DIRECT,
    turns.TOOL,
    turns.DELTAS,
    crowd.GROUP,
    storage.GROUP,
    crash.GROUP,
    ledger.GROUP,
    feed.GROUP,
    replay.GROUP,
    streams.GROUP,
    wakeup.GROUP,
    start.GROUP,
    approvals.GROUP,
    plans.GROUP,
    board.GROUP,
    gateway.GROUP,
    artifacts.GROUP,
    sandbox.GROUP,
    operations.GROUP,
)

__all__ = ["GROUPS"]
