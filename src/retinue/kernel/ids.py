"""Identifiers: UUID version 7 (RFC 9562, section 5.7), so that new rows land at the end of an index."""

from __future__ import annotations

import os
import threading
import time
from uuid import UUID

from retinue.kernel.faults import NotFound

_lock = threading.Lock()
_last_stamp = 0


def new_id() -> UUID:
    """Return a new UUIDv7, strictly increasing within this process.

    The 12 bits of ``rand_a`` hold the fraction of the millisecond (RFC 9562, section 6.2, method 3);
    a stamp that did not advance, because the clock stood still or went back, is raised by one.
    """
    global _last_stamp
    fresh = (time.time_ns() << 12) // 1_000_000
    with _lock:
        stamp = max(fresh, _last_stamp + 1)
        _last_stamp = stamp
    milliseconds, fraction = stamp >> 12, stamp & 0xFFF
    random = int.from_bytes(os.urandom(8), "big") & ((1 << 62) - 1)
    return UUID(int=(milliseconds << 80) | (0x7 << 76) | (fraction << 64) | (0b10 << 62) | random)


def parse_id(text: str, what: str) -> UUID:
    """Read an id from a path or a query.

    Raises:
        NotFound: the text is no UUID, so nothing can have it. The answer equals that for a missing thing.
    """
    try:
        return UUID(text)
    except ValueError:
        raise NotFound(what) from None
