"""The log of the scripted model server: every request to a model, and how it ended."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

State = Literal["waiting", "streaming", "answered", "failed", "cut_by_server", "cut_by_client"]

_OPEN = {"waiting", "streaming"}


@dataclass(slots=True)
class Recorded:
    """One request to a model.

    at               wall clock time of arrival, seconds since the epoch (UTC)
    state            waiting -> streaming -> answered; failed is an error status; cut_* broke off
    fingerprint      equal for the same model and conversation, instructions left out
    idempotency_key  the header of that name, if the client sent it
    first_byte       seconds from arrival to the first byte of the answer, ended likewise to its end
    """

    number: int
    at: float
    method: str
    path: str
    headers: dict[str, str]
    body: Any
    wire: str
    model: str
    stream: bool
    key: str | None
    user: str
    turn: int
    fingerprint: str
    idempotency_key: str | None
    state: State = "waiting"
    status: int = 0
    deltas: int = 0
    text: str = ""
    calls: list[str] = field(default_factory=list)
    first_byte: float | None = None
    ended: float | None = None
    started: float = field(default_factory=time.monotonic)

    def as_json(self) -> dict[str, Any]:
        """Return the record as plain data."""
        return asdict(self)


class Log:
    """The newest records, counters of all of them, and a way to wait for a change."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._changed = asyncio.Event()
        self.clear()

    def clear(self) -> None:
        """Forget everything; numbers start again at 1."""
        self.records: deque[Recorded] = deque(maxlen=self._keep)
        self.total = 0
        self.ends: Counter[str] = Counter()
        self._seen: Counter[str] = Counter()
        self._answered: Counter[str] = Counter()
        self._changed.set()

    def add(self, record: Recorded) -> int:
        """Add a request that arrived; return how many with its fingerprint came before."""
        self.total += 1
        self.records.append(record)
        before = self._seen[record.fingerprint]
        self._seen[record.fingerprint] += 1
        self._changed.set()
        return before

    def first_byte(self, record: Recorded) -> None:
        """Note that the answer has begun."""
        record.state = "streaming"
        record.first_byte = time.monotonic() - record.started
        self._changed.set()

    def end(self, record: Recorded, state: State) -> None:
        """Note how the answer ended."""
        record.state = state
        record.ended = time.monotonic() - record.started
        self.ends[state] += 1
        if state == "answered":
            self._answered[record.fingerprint] += 1
        self._changed.set()

    def counts(self) -> dict[str, Any]:
        """Return totals: requests, open ones, ends by state, fingerprints answered more than once."""
        return {
            "requests": self.total,
            "open": self.total - sum(self.ends.values()),
            "ends": dict(self.ends),
            "repeated": self.repeated(),
        }

    def repeated(self) -> dict[str, int]:
        """Return the fingerprints answered in full more than once, with how often."""
        return {print_: count for print_, count in self._answered.items() if count > 1}

    async def wait(self, enough: Callable[[], bool], timeout: float) -> bool:
        """Wait until `enough()` is true; return whether it became so within `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while not enough():
            self._changed.clear()
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            try:
                await asyncio.wait_for(self._changed.wait(), left)
            except TimeoutError:
                return enough()
        return True

    def count(self, state: str | None, contains: str | None, model: str | None) -> int:
        """Count the kept records in a state (`open` means waiting or streaming; None is any) that match."""
        return sum(_matches(record, state, contains, model) for record in self.records)


def _matches(record: Recorded, state: str | None, contains: str | None, model: str | None) -> bool:
    if state == "open" and record.state not in _OPEN:
        return False
    if state not in {None, "open", record.state}:
        return False
    if contains is not None and contains not in record.user:
        return False
    return model is None or record.model == model
