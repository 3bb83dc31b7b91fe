"""Pure decisions about work items: what a field may hold, three-way merge, undo and redo, what an agent may do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Literal
from uuid import UUID

from retinue.board.events import (
    BoardPolicy,
    FieldChange,
    ItemChanged,
    ItemDeleted,
    ItemRestored,
)
from retinue.kernel import BadInput, Conflict
from retinue.ledger import Event, Recorded

State = Literal["open", "in_progress", "blocked", "review", "done", "cancelled"]
Priority = Literal["low", "normal", "high", "urgent"]

STATES: tuple[State, ...] = ("open", "in_progress", "blocked", "review", "done", "cancelled")
PRIORITIES: tuple[Priority, ...] = ("low", "normal", "high", "urgent")
CLOSED = frozenset({"done", "cancelled"})

DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "title": "",
        "description": "",
        "state": "open",
        "priority": "normal",
        "labels": [],
        "due": None,
        "team": None,
        "assignee": None,
        "parent": None,
    }
)
FIELDS = tuple(DEFAULTS)
DELETED = "deleted"
"""Stands for an item's being there or not where undo and redo look at it as a field."""

LONGEST_TITLE = 300
LONGEST_TEXT = 20_000
LONGEST_LABEL = 50
MOST_LABELS = 20
MOST_LINKS = 100
DEEPEST = 20
"""Items above one another."""

Fields = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Proposal:
    """What an agent would change."""

    changes: Fields
    reason: str
    agent_id: UUID
    run_id: UUID | None
    version: int


@dataclass(frozen=True, slots=True)
class Item:
    """A work item; ``fields`` holds JSON values by the names of :data:`FIELDS`.

    Attributes:
        assigned_by: who assigned it last; a run works in this user's name.
        run_due: a run of the assigned agent is still to be started.
        run_id: the newest run that worked on it.
        run_status: ``open`` while it does.
    """

    item_id: UUID
    version: int
    fields: Fields
    comments: int
    proposal: Proposal | None
    assigned_by: UUID | None
    run_due: bool
    run_id: UUID | None
    run_agent: UUID | None
    run_status: str | None
    created_by: str
    creator_id: UUID | None
    created_at: datetime
    changed_at: datetime
    deleted_at: datetime | None

    @property
    def team(self) -> UUID | None:
        """The team to which it belongs."""
        return as_uuid(self.fields["team"])

    @property
    def agent(self) -> UUID | None:
        """The agent it is assigned to."""
        return agent_of(self.fields["assignee"])


def as_uuid(text: str | None) -> UUID | None:
    """Read an id of a field."""
    return None if text is None else UUID(text)


def agent_of(assignee: str | None) -> UUID | None:
    """Return the agent that an assignee is, None for a person or nobody."""
    kind, _, name = (assignee or "").partition(":")
    return UUID(name) if kind == "agent" else None


def user_of(assignee: str | None) -> UUID | None:
    """Return the person that an assignee is, None for an agent or nobody."""
    kind, _, name = (assignee or "").partition(":")
    return UUID(name) if kind == "user" else None


# What a field may hold


def normalised(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return values of fields in their one form.

    Raises:
        BadInput: there is no such field, or it cannot hold the value; it is named.
    """
    found: dict[str, Any] = {}
    for name, value in wanted.items():
        if name not in DEFAULTS:
            raise BadInput(f"An item has no field {name[:50]!r}; it has {', '.join(FIELDS)}.", field=name[:50])
        found[name] = _FORMS[name](name, value)
    return found


def plain_text(name: str, value: Any, longest: int, *, shortest: int = 0) -> str:
    """Return a text that can be stored.

    Raises:
        BadInput: it is too long or too short, or holds NUL or half of a character.
    """
    if not isinstance(value, str) or not shortest <= len(value) <= longest:
        raise BadInput(f"{name}: a text of {shortest or 'at most'} to {longest:,} characters.", field=name)
    if "\x00" in value or any("\ud800" <= one <= "\udfff" for one in value):
        raise BadInput(f"{name}: holds a character that cannot be stored.", field=name)
    return value


def _title(name: str, value: Any) -> str:
    text = plain_text(name, value, LONGEST_TITLE, shortest=1)
    line = " ".join(text.split())
    if not line:
        raise BadInput("title: there must be something in it.", field=name)
    return line


def _one_of(allowed: Sequence[str]) -> Any:
    def check(name: str, value: Any) -> str:
        if value not in allowed:
            raise BadInput(f"{name}: one of {', '.join(allowed)}.", field=name)
        return str(value)

    return check


def _labels(name: str, value: Any) -> list[str]:
    if not isinstance(value, list | tuple | set | frozenset):
        raise BadInput("labels: a list of texts.", field=name)
    found = sorted({" ".join(plain_text(name, one, LONGEST_LABEL, shortest=1).split()) for one in value})
    if len(found) > MOST_LABELS or "" in found:
        raise BadInput(f"labels: at most {MOST_LABELS}, none of them empty.", field=name)
    return found


def _due(name: str, value: Any) -> str | None:
    if value is None:
        return None
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        if moment.tzinfo is None:
            raise ValueError("no zone")
        return moment.astimezone(UTC).isoformat()
    except (TypeError, ValueError, OverflowError):
        raise BadInput("due: a time with its zone, such as 2026-01-31T17:00:00Z, or null.", field=name) from None


def _id(name: str, value: Any) -> str | None:
    try:
        return None if value is None else str(UUID(str(value)))
    except ValueError:
        raise BadInput(f"{name}: an id, or null.", field=name) from None


def _assignee(name: str, value: Any) -> str | None:
    if value is None:
        return None
    kind, _, inner = str(value).partition(":")
    try:
        if kind in ("user", "agent"):
            return f"{kind}:{UUID(inner)}"
    except ValueError:
        pass
    raise BadInput("assignee: user:ID, agent:ID, or null.", field=name)


_FORMS: Mapping[str, Any] = {
    "title": _title,
    "description": lambda name, value: plain_text(name, value, LONGEST_TEXT),
    "state": _one_of(STATES),
    "priority": _one_of(PRIORITIES),
    "labels": _labels,
    "due": _due,
    "team": _id,
    "assignee": _assignee,
    "parent": _id,
}


# Changes and merging


def changes(current: Fields, wanted: Fields) -> dict[str, FieldChange]:
    """Return what is to change for ``current`` to hold ``wanted``."""
    return {name: FieldChange(current[name], value) for name, value in wanted.items() if current[name] != value}


def fields_before(current: Fields, later: Sequence[Recorded[Event]]) -> dict[str, Any]:
    """Return the fields as they were before ``later``, which is everything that came since, oldest first."""
    found = dict(current)
    for recorded in reversed(later):
        if isinstance(recorded.event, ItemChanged):
            found.update({name: change.before for name, change in recorded.event.changes.items()})
    return found


@dataclass(frozen=True, slots=True)
class Merge:
    """What comes of a change that was based on an older version.

    Attributes:
        wanted: what the fields are to hold, where nothing clashes.
        clashes: fields that both sides gave different values.
    """

    wanted: dict[str, Any] = field(default_factory=dict)
    clashes: tuple[str, ...] = ()


def merge(base: Fields, current: Fields, wanted: Fields) -> Merge:
    """Bring a change, made at ``base``, to ``current``. Labels are merged as a set and never clash."""
    merged: dict[str, Any] = {}
    clashes: list[str] = []
    for name, value in wanted.items():
        if value == base[name]:
            continue  # not changed by this side
        if current[name] in (base[name], value):
            merged[name] = value
        elif name == "labels":
            added, removed = set(value) - set(base[name]), set(base[name]) - set(value)
            merged[name] = sorted((set(current[name]) - removed) | added)
        else:
            clashes.append(name)
    return Merge(merged, tuple(clashes))


# Undo and redo


@dataclass(frozen=True, slots=True)
class Step:
    """One change of somebody's own: what undo takes back and redo does again."""

    version: int
    changes: Mapping[str, FieldChange]


@dataclass(frozen=True, slots=True)
class Steps:
    """Somebody's own changes of an item: those that hold, and those taken back, each with the newest last."""

    done: tuple[Step, ...]
    undone: tuple[Step, ...]


def own_steps(history: Sequence[Recorded[Event]], user_id: UUID) -> Steps:
    """Read from an item's stream what a user can undo and redo. A new change ends what could be redone."""
    done: list[Step] = []
    undone: list[Step] = []
    for recorded in history:
        fact = recorded.event
        if not isinstance(fact, ItemChanged | ItemDeleted | ItemRestored) or fact.by != user_id:
            continue
        if fact.undoes is not None:
            undone.append(done.pop())
        elif fact.redoes is not None:
            done.append(undone.pop())
        else:
            done.append(Step(recorded.version, _changes_of(fact)))
            undone.clear()
    return Steps(tuple(done), tuple(undone))


def _changes_of(fact: ItemChanged | ItemDeleted | ItemRestored) -> Mapping[str, FieldChange]:
    if isinstance(fact, ItemChanged):
        return fact.changes
    gone = isinstance(fact, ItemDeleted)
    return {DELETED: FieldChange(not gone, gone)}


@dataclass(frozen=True, slots=True)
class Reversal:
    """What is to be done, and the version of the change that it takes back or does again."""

    version: int
    changes: Mapping[str, FieldChange]


def undo(history: Sequence[Recorded[Event]], user_id: UUID, current: Fields) -> Reversal:
    """Return the inverse of a user's last change.

    Args:
        current: the fields of the item, with :data:`DELETED`.

    Raises:
        Conflict: there is nothing to undo, or a field was changed since; it is named.
    """
    steps = own_steps(history, user_id)
    if not steps.done:
        raise Conflict("You have changed nothing here that could be undone.")
    step = steps.done[-1]
    inverse = {name: FieldChange(change.after, change.before) for name, change in step.changes.items()}
    return _reversal(step.version, inverse, current, "undone")


def redo(history: Sequence[Recorded[Event]], user_id: UUID, current: Fields) -> Reversal:
    """Return what a user has undone last, to be done again.

    Raises:
        Conflict: there is nothing to redo, or a field was changed since; it is named.
    """
    steps = own_steps(history, user_id)
    if not steps.undone:
        raise Conflict("You have undone nothing here that could be done again.")
    step = steps.undone[-1]
    return _reversal(step.version, step.changes, current, "done again")


def _reversal(version: int, wanted: Mapping[str, FieldChange], current: Fields, what: str) -> Reversal:
    since = sorted(name for name, change in wanted.items() if current[name] != change.before)
    if since:
        raise Conflict(
            f"This cannot be {what}: {', '.join(since)} was changed since. Change it by hand.",
            extra={"fields": since, "version": version},
        )
    return Reversal(version, wanted)


# Who may


def may_delete(item: Item, user_id: UUID, role: str | None) -> bool:
    """Tell whether somebody whose role may delete items may delete this one: members their own, managers any."""
    return role in (None, "manager", "admin") or item.creator_id == user_id


def goes_directly(policy: BoardPolicy, wanted: Fields) -> bool:
    """Tell whether an agent's change needs nobody's word.

    Another assignee or team never does: whom work is given to, and who sees it, is for people.
    """
    if not policy.agents_change or {"assignee", "team", "parent"} & set(wanted):
        return False
    return policy.agents_close or wanted.get("state") not in CLOSED


def state_after_run(policy: BoardPolicy, item: Item, *, completed: bool) -> State | None:
    """Return the state of an item whose agent's run ended; None: it stays, the item is somebody else's by now."""
    if item.deleted_at is not None or item.agent is None or item.agent != item.run_agent:
        return None
    if item.fields["state"] in CLOSED:
        return None
    if not completed:
        return "blocked"
    return "done" if policy.agents_close else "review"
