"""Decisions about operations without a database or a sandbox: their state, names of files, what is expected."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from fnmatch import fnmatchcase
from uuid import UUID

import msgspec

from retinue.kernel import BadInput
from retinue.ledger import Event, Recorded
from retinue.operations.events import (
    ENDINGS,
    Ending,
    Expected,
    OperationCancelled,
    OperationCancelRequested,
    OperationCompleted,
    OperationFailed,
    OperationHandedOver,
    OperationInterrupted,
    OperationProgressed,
    OperationRequested,
    OperationRetried,
    OperationStarted,
    OperationTimedOut,
    Usage,
)
from retinue.tools import ArgumentCheck

LONGEST_NAME = 255  # bytes
LONGEST_SUMMARY = 4_000  # characters
_MOST_CHECKED = 4_000_000  # bytes of a file that is read to hold it against a schema
_CHECK_SECONDS = 5.0  # processor time of holding one against one


class OperationStatus(StrEnum):
    """What an operation is doing."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"


ENDED = frozenset(
    {OperationStatus.COMPLETED, OperationStatus.FAILED, OperationStatus.CANCELLED, OperationStatus.TIMED_OUT}
)

STATUS_OF: Mapping[type[Event], OperationStatus] = {
    OperationRequested: OperationStatus.QUEUED,
    OperationRetried: OperationStatus.QUEUED,
    OperationHandedOver: OperationStatus.QUEUED,
    OperationStarted: OperationStatus.RUNNING,
    OperationCompleted: OperationStatus.COMPLETED,
    OperationFailed: OperationStatus.FAILED,
    OperationTimedOut: OperationStatus.TIMED_OUT,
    OperationCancelled: OperationStatus.CANCELLED,
}


@dataclass(slots=True)
class OperationState:
    """An operation as its events tell it.

    Attributes:
        requested: what was wanted.
        run_id: the run that carries it out, the newest one.
        attempt: the number of the newest attempt, 0 before the first.
        cancel: why it shall end, once somebody wants that.
        ending: how it ended.
        used: what is known of the use of the newest attempt, if that was left in the middle.
        before: what it had taken when it was last asked for again.
        retries: how often it was asked for again.
    """

    requested: OperationRequested
    run_id: UUID
    created_at: datetime
    version: int = 0
    status: OperationStatus = OperationStatus.QUEUED
    attempt: int = 0
    phase: str = ""
    level: str | None = None
    sandbox: str | None = None
    cancel: OperationCancelRequested | None = None
    ending: Ending | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    used: Usage = field(default_factory=Usage)
    attempts_before: int = field(default=0)
    before: Usage = field(default_factory=Usage)
    retries: int = 0

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self.status in ENDED

    @property
    def tries(self) -> int:
        """How many attempts there were since it was asked for, or asked for again, but for those handed over."""
        return self.attempt - self.attempts_before


def fold(recorded: Iterable[Recorded[Event]]) -> OperationState:
    """Return the state that a stream's events tell.

    Raises:
        ValueError: the stream does not begin with a request.
    """
    state: OperationState | None = None
    for one in recorded:
        if state is None:
            if not isinstance(one.event, OperationRequested):
                raise ValueError("the stream of an operation begins with its request")
            state = OperationState(one.event, one.event.run_id, one.recorded_at)
        else:
            _apply(state, one.event, one.recorded_at)
        state.version = one.version
    if state is None:
        raise ValueError("there is no such stream")
    return state


def _apply(state: OperationState, fact: Event, at: datetime) -> None:
    state.status = STATUS_OF.get(type(fact), state.status)
    if isinstance(fact, OperationStarted):
        state.attempt, state.level, state.sandbox = fact.attempt, fact.level, fact.sandbox
        state.started_at = state.started_at or at
        state.phase, state.used = fact.phase, Usage()
    elif isinstance(fact, OperationProgressed):
        state.phase = fact.phase
    elif isinstance(fact, OperationInterrupted):
        state.used = fact.usage
    elif isinstance(fact, OperationHandedOver):
        state.attempts_before, state.phase = state.attempts_before + 1, ""
    elif isinstance(fact, OperationCancelRequested):
        state.cancel = fact
    elif isinstance(fact, ENDINGS):
        state.ending, state.ended_at, state.phase = fact, at, ""
    elif isinstance(fact, OperationRetried):
        state.run_id, state.attempts_before, state.retries = fact.run_id, state.attempt, state.retries + 1
        if fact.budget is not None:
            state.requested = msgspec.structs.replace(state.requested, budget=fact.budget)
        state.used = Usage()
        state.before = state.ending.usage if state.ending is not None else state.before
        state.cancel = state.ending = state.ended_at = state.started_at = None


# Names and expectations


def checked_name(name: str, where: str) -> str:
    """Return the name of a file in the workspace as it will be there.

    Names are data: letters of any script, spaces and dots are fine; what would make a path of it is not.

    Raises:
        BadInput: it cannot be the name of a file; ``where`` is the field.
    """
    found = unicodedata.normalize("NFC", name)
    if not found or len(found.encode("utf-8", "surrogatepass")) > LONGEST_NAME:
        raise BadInput(f"{where}: 1 to {LONGEST_NAME} bytes.", field=where)
    if found in (".", "..") or "/" in found or "\\" in found:
        raise BadInput(f"{where}: a plain name of a file, without folders.", field=where)
    if any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in found):
        raise BadInput(f"{where}: control characters and line ends are not allowed.", field=where)
    return found


def distinct(names: Sequence[str]) -> None:
    """Refuse two files of one name in a workspace.

    Raises:
        BadInput: there are such.
    """
    seen: set[str] = set()
    for name in names:
        if name.casefold() in seen:
            raise BadInput(f"There are two inputs called {name!r}. Give one of them another name.", field="inputs")
        seen.add(name.casefold())


def missing(expected: Sequence[Expected], names: Sequence[str]) -> list[str]:
    """Return what was expected and is not among the outputs, a sentence each."""
    found: list[str] = []
    for one in expected:
        there = sum(fits(one, name) for name in names)
        if there < one.at_least:
            if one.at_least == 1:
                found.append(
                    f"It left no file {'like ' if _is_pattern(one.name) else ''}{one.name!r}, which was expected."
                )
            else:
                found.append(f"It left {there} of at least {one.at_least} files like {one.name!r} that were expected.")
    return found


def fits(expected: Expected, name: str) -> bool:
    """Whether a file is one of those that are expected."""
    return name == expected.name or fnmatchcase(name, expected.name)


def _is_pattern(name: str) -> bool:
    return any(letter in name for letter in "*?[")


class Schemas:
    """The schemas that outputs must fit.

    Raises:
        BadInput: one is not a JSON Schema.
    """

    def __init__(self, expected: Sequence[Expected]) -> None:
        self._checks: list[tuple[Expected, ArgumentCheck]] = []
        for index, one in enumerate(expected):
            if one.schema is None:
                continue
            try:
                # The check is of objects; what is read from the file may be anything, so it is put into one.
                whole = {"type": "object", "properties": {"it": one.schema}, "required": ["it"]}
                check = ArgumentCheck(whole, seconds=_CHECK_SECONDS)
            except (ValueError, RecursionError) as error:
                field_name = f"expected.{index}.schema"
                raise BadInput(f"{field_name}: {error}"[:500], field=field_name) from None
            self._checks.append((one, check))

    def concern(self, name: str) -> bool:
        """Whether there is a schema for a file of this name."""
        return any(fits(one, name) for one, _ in self._checks)

    def complaint(self, name: str, content: bytes) -> str | None:
        """Say why a file does not fit what is expected of it; None: it does."""
        for one, check in self._checks:
            if fits(one, name) and (found := _complaint(check, content)):
                return f"{name}: {found}"
        return None


def readable(size: int) -> bool:
    """Whether a file is small enough to be held against a schema."""
    return size <= _MOST_CHECKED


def _complaint(check: ArgumentCheck, content: bytes) -> str | None:
    try:
        value = json.loads(content)
    except RecursionError:
        return "it is nested too deeply"
    except ValueError as error:
        return f"it is not JSON: {error}"
    try:
        found = check.complaint({"it": value})
    except Exception as error:  # a schema from elsewhere can defeat the validator, by recursion for one
        return f"it cannot be checked: {type(error).__name__}"
    return str(found).replace("it.", "", 1) if found else None
