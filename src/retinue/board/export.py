"""CSV of the board (RFC 4180): page by page, so that any number of items needs the memory of one page."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from dataclasses import replace

from retinue.board.rules import Item
from retinue.board.views import Wanted, listed
from retinue.database import Database
from retinue.kernel import Scope

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
PAGE = 500

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def defused(cell: str) -> str:
    """Return a cell that a spreadsheet shows and does not carry out: a formula gets an apostrophe before it."""
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


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
    return [defused(values[name] or "") for name in COLUMNS]


def written(rows: list[list[str]]) -> bytes:
    """Write rows as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue().encode()


async def csv_of(scope: Scope, wanted: Wanted) -> AsyncIterator[bytes]:
    """Write the items that the scope's user may see, newest first, a page at a time.

    Each page is a transaction of its own, after the scope's: what changes meanwhile may show in one of both forms, and
    no item comes twice.
    """
    yield written([list(COLUMNS)])
    before = None
    while True:
        async with scope.service(Database).transaction(scope.tenant_id) as uow:
            items = await listed(replace(scope, uow=uow), wanted, before, PAGE)
        if items:
            yield written([row_of(item) for item in items])
            before = items[-1].item_id
        if len(items) < PAGE:
            return
