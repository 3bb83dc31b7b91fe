"""Rows: what is measured, the goal, and whether it was met."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.harness import Bench


@dataclass(frozen=True, slots=True)
class Goal:
    """A row before it is measured.

    `limit` turns the floor's value into the goal; a goal that does not depend on the floor ignores its argument.
    `says` is the goal in words. `higher` means that more is better.
    """

    name: str
    unit: str
    limit: Callable[[float], float]
    says: str
    higher: bool = False
    needs_floor: bool = True


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. A value that could not be measured is None, and `note` says why."""

    name: str
    floor: float | None
    measured: float | None
    goal: float | None
    unit: str
    met: bool
    says: str
    note: str = ""


def times(factor: float) -> Callable[[float], float]:
    """The goal is the floor's value times a factor."""
    return lambda floor: floor * factor


def plus(amount: float) -> Callable[[float], float]:
    """The goal is the floor's value and this much more."""
    return lambda floor: floor + amount


def fixed(value: float) -> Callable[[float], float]:
    """The goal is this value, whatever the floor is."""
    return lambda _floor: value


@dataclass(frozen=True, slots=True)
class Measured:
    """What a group measured for one row."""

    measured: float | None
    floor: float | None = None
    note: str = ""


Results = dict[str, Measured]
Measure = Callable[["Bench"], Awaitable[Results]]


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that are measured together; `--only` names groups."""

    name: str
    goals: tuple[Goal, ...]
    measure: Measure


def judged(goal: Goal, found: Measured | None, trouble: str) -> Row:
    """Return the row for a goal; `trouble` says why, when nothing was found."""
    if found is None or found.measured is None:
        note = (found.note if found else "") or trouble or "not measured"
        floor = found.floor if found else None
        limit = _limit(goal, floor)
        return Row(goal.name, floor, None, limit, goal.unit, False, goal.says, note)
    limit = _limit(goal, found.floor)
    if limit is None:
        note = found.note or "the floor could not be measured"
        return Row(goal.name, found.floor, found.measured, None, goal.unit, False, goal.says, note)
    met = found.measured >= limit if goal.higher else found.measured <= limit
    return Row(goal.name, found.floor, found.measured, limit, goal.unit, met, goal.says, found.note)


def _limit(goal: Goal, floor: float | None) -> float | None:
    if floor is None:
        return None if goal.needs_floor else goal.limit(0.0)
    return goal.limit(floor)
