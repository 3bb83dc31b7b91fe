"""CSV of the board."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from uuid import UUID

from retinue.board.rules import Item
from retinue.board.views import Wanted, listed
from retinue.kernel import Scope
from retinue.web import csv_of

COLUMNS = (
    "item_id",
    "title",
    "state",
    "priority",
    "labels",
    "due",
    "team",
    "assignee",
    "parent",
    "created_at",
    "changed_at",
    "created_by",
    "description",
)


def row_of(item: Item) -> list[str]:
    """Return an item's cells, in the order of :data:`COLUMNS`."""
    values = {
        **item.fields,
        "item_id": str(item.item_id),
        "labels": ", ".join(item.fields["labels"]),
        "created_at": item.created_at.isoformat(),
        "changed_at": item.changed_at.isoformat(),
        "created_by": item.created_by,
    }
    return [values[name] or "" for name in COLUMNS]


def board_csv(scope: Scope, wanted: Wanted) -> AsyncIterator[bytes]:
    """Write the items that the scope's user may see, newest first."""

    async def page(within: Scope, before: UUID | None, limit: int) -> Sequence[Item]:
        return await listed(within, wanted, before, limit)

    return csv_of(scope, COLUMNS, page, row=row_of, place=lambda item: item.item_id)
