"""The board's decisions as plain functions, and what holds for any course of events."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue.board import rules
from retinue.board.events import BoardPolicy, FieldChange, ItemChanged, ItemEvent
from retinue.board.rules import DEFAULTS, DELETED, Item
from retinue.kernel import BadInput, Conflict
from retinue.ledger import Recorded
from retinue.ledger.event import Meta
from retinue.web import defused

ITEM = UUID(int=1)
ANN, BOB = UUID(int=10), UUID(int=11)
NOW = datetime(2026, 1, 1, tzinfo=UTC)

values: dict[str, st.SearchStrategy[Any]] = {
    "title": st.sampled_from(["one", "two", "three"]),
    "state": st.sampled_from(rules.STATES),
    "labels": st.lists(st.sampled_from("abcd"), unique=True).map(sorted),
    "due": st.sampled_from([None, "2026-01-01T00:00:00+00:00"]),
}
wishes = st.fixed_dictionaries({}, optional=values).filter(bool)


class Board:
    """One item, folded in memory the way the commands write it."""

    def __init__(self) -> None:
        self.fields: dict[str, Any] = {**DEFAULTS, "title": "start"}
        self.history: list[Recorded[Any]] = []

    @property
    def current(self) -> dict[str, Any]:
        return {**self.fields, DELETED: False}

    @property
    def version(self) -> int:
        return len(self.history) + 1

    def write(
        self, by: UUID, diff: dict[str, FieldChange], *, undoes: int | None = None, redoes: int | None = None
    ) -> None:
        fact: ItemEvent = ItemChanged(item_id=ITEM, by=by, changes=diff, undoes=undoes, redoes=redoes)
        version = self.version + 1
        self.history.append(Recorded(ITEM, None, "item:1", version, "item.changed", fact, Meta(), NOW))
        self.fields.update({name: change.after for name, change in diff.items()})

    def change(self, by: UUID, wanted: dict[str, Any]) -> bool:
        diff = rules.changes(self.fields, wanted)
        if diff:
            self.write(by, diff)
        return bool(diff)

    def undo(self, by: UUID) -> None:
        found = rules.undo(self.history, by, self.current)
        self.write(by, dict(found.changes), undoes=found.version)

    def redo(self, by: UUID) -> None:
        found = rules.redo(self.history, by, self.current)
        self.write(by, dict(found.changes), redoes=found.version)


@given(st.lists(wishes, min_size=1, max_size=8))
def test_undoing_everything_and_redoing_it_is_as_if_nothing_happened(wanted: list[dict[str, Any]]) -> None:
    board, seen = Board(), []
    for one in wanted:
        before = dict(board.fields)
        if board.change(ANN, one):
            seen.append(before)
    after = dict(board.fields)
    for before in reversed(seen):
        board.undo(ANN)
        assert board.fields == before
    with pytest.raises(Conflict):
        board.undo(ANN)
    for _ in seen:
        board.redo(ANN)
    assert board.fields == after
    with pytest.raises(Conflict):
        board.redo(ANN)


_acts = st.lists(
    st.tuples(st.sampled_from([ANN, BOB]), st.one_of(wishes, st.just("undo"), st.just("redo"))), max_size=25
)


@given(_acts)
def test_nobody_ever_undoes_what_somebody_else_did(acts: list[tuple[UUID, Any]]) -> None:
    """In any interleaving: undo and redo write only where the value is one's own, and only to what it was before."""
    board = Board()
    writer: dict[str, UUID | None] = dict.fromkeys(DEFAULTS)
    for who, what in acts:
        before = dict(board.fields)
        if isinstance(what, dict):
            board.change(who, what)
        else:
            try:
                board.undo(who) if what == "undo" else board.redo(who)
            except Conflict:
                assert board.fields == before
                continue
            step = board.history[-1].event
            for name, change in step.changes.items():
                assert before[name] == change.before
                if what == "undo" and writer[name] not in (who, None):
                    # Another wrote here since: allowed only where the value is again the one this person gave it.
                    own = [s for s in rules.own_steps(board.history, who).undone if s.version == step.undoes]
                    assert own[0].changes[name].after == change.before
        for name, value in board.fields.items():
            if value != before[name]:
                writer[name] = who
        # Whatever happened, the history leads back to the beginning.
        assert rules.fields_before(board.fields, board.history) == {**DEFAULTS, "title": "start"}


@given(wishes, wishes)
def test_merging_keeps_both_sides_or_names_the_clash(theirs: dict[str, Any], mine: dict[str, Any]) -> None:
    base = {**DEFAULTS, "title": "start"}
    current = {**base, **theirs}
    merge = rules.merge(base, current, mine)
    after = {**current, **merge.wanted}
    for name, value in mine.items():
        if name == "labels":
            assert set(value) - set(base[name]) <= set(after[name])
        elif name in merge.clashes:
            assert theirs.get(name, base[name]) not in (base[name], value)
            assert value != base[name]
            assert after[name] == current[name]
        elif value != base[name]:
            assert after[name] == value
    for name, value in theirs.items():
        if name not in mine or mine[name] == base[name]:
            assert after[name] == value  # what this side left alone stays theirs
    assert "labels" not in merge.clashes


@given(wishes, wishes)
def test_where_nothing_clashes_the_order_does_not_matter(one: dict[str, Any], two: dict[str, Any]) -> None:
    base = {**DEFAULTS, "title": "start"}
    first, second = rules.merge(base, {**base, **one}, two), rules.merge(base, {**base, **two}, one)
    assert set(first.clashes) == set(second.clashes)
    if not first.clashes:
        assert {**base, **one, **first.wanted} == {**base, **two, **second.wanted}


_anything = st.one_of(st.none(), st.text(), st.integers(), st.lists(st.text(max_size=3)), st.datetimes().map(str))


@given(st.dictionaries(st.one_of(st.sampled_from(rules.FIELDS), st.text(max_size=20)), _anything, max_size=3))
def test_any_value_is_taken_or_named(wanted: dict[str, Any]) -> None:
    try:
        found = rules.normalised(wanted)
    except BadInput as refusal:
        found = {} if refusal.field is not None else {"no field was named": wanted}
    assert rules.normalised(found) == found


def test_values_have_one_form() -> None:
    found = rules.normalised(
        {
            "title": " a \n b ",
            "labels": ["z", " a", "z"],
            "due": "2026-01-01T01:00:00+01:00",
            "assignee": f"user:{ANN.hex}",
        }
    )
    assert found == {
        "title": "a b",
        "labels": ["a", "z"],
        "due": "2026-01-01T00:00:00+00:00",
        "assignee": f"user:{ANN}",
    }
    for name, value in (
        ("due", "0001-01-01T00:00:00+14:00"),
        ("title", "\ud800"),
        ("labels", "ab"),
        ("assignee", f"robot:{ANN}"),
    ):
        with pytest.raises(BadInput):
            rules.normalised({name: value})


@pytest.mark.parametrize("cell", ["=1", "+1", "-1", "@x", "\tx", "\rx", "\n=x"])
def test_formulas_are_defused(cell: str) -> None:
    assert defused(cell) == f"'{cell}"
    assert defused(f"x{cell}") == f"x{cell}"


def _item(**more: Any) -> Item:
    fields = {**DEFAULTS, "title": "x", "assignee": f"agent:{BOB}", "state": "in_progress", **more.pop("fields", {})}
    given: dict[str, Any] = {
        "item_id": ITEM,
        "version": 1,
        "comments": 0,
        "proposal": None,
        "assigned_by": ANN,
        "run_due": False,
        "run_id": UUID(int=5),
        "run_agent": BOB,
        "run_status": "open",
        "created_by": f"user:{ANN}",
        "creator_id": ANN,
        "created_at": NOW,
        "changed_at": NOW,
        "deleted_at": None,
        **more,
    }
    return Item(fields=fields, **given)


def test_the_end_of_a_run_moves_the_item_unless_it_is_somebody_elses_by_now() -> None:
    plain, closing = BoardPolicy(), BoardPolicy(agents_close=True)
    assert rules.state_after_run(plain, _item(), completed=True) == "review"
    assert rules.state_after_run(closing, _item(), completed=True) == "done"
    assert rules.state_after_run(closing, _item(), completed=False) == "blocked"
    assert rules.state_after_run(plain, _item(fields={"assignee": f"user:{ANN}"}), completed=True) is None
    assert rules.state_after_run(plain, _item(run_agent=ANN), completed=True) is None
    assert rules.state_after_run(plain, _item(deleted_at=NOW), completed=True) is None
    assert rules.state_after_run(plain, _item(fields={"state": "cancelled"}), completed=False) is None


def test_what_an_agent_may_do_without_a_persons_word() -> None:
    propose, change, close = (
        BoardPolicy(),
        BoardPolicy(agents_change=True),
        BoardPolicy(agents_change=True, agents_close=True),
    )
    for wanted, expected in (
        ({"title": "x"}, (False, True, True)),
        ({"state": "review"}, (False, True, True)),
        ({"state": "done"}, (False, False, True)),
        ({"state": "cancelled", "title": "x"}, (False, False, True)),
        ({"assignee": None}, (False, False, False)),
        ({"team": None}, (False, False, False)),
    ):
        assert tuple(rules.goes_directly(one, wanted) for one in (propose, change, close)) == expected


def test_who_may_delete() -> None:
    assert rules.may_delete(_item(), ANN, "member")
    assert not rules.may_delete(_item(), BOB, "member")
    assert rules.may_delete(_item(), BOB, "manager")
