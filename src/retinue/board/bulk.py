"""Up to a thousand operations in one request and one transaction; each item gets events of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from retinue.board import commands, views
from retinue.board.checks import Checks
from retinue.board.rules import Item
from retinue.kernel import Fault, Forbidden, NotFound, Scope
from retinue.tenancy import may

MOST = 1000

Kind = Literal["create", "change", "delete"]


@dataclass(frozen=True, slots=True)
class Operation:
    """One of them. ``base``: the version a change was made at, or that is to be deleted; None: any."""

    kind: Kind
    item_id: UUID | None
    fields: Mapping[str, Any]
    base: int | None


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one operation: the item's new version, or why nothing did."""

    item_id: UUID | None
    version: int | None = None
    merged: bool = False
    fault: Fault | None = None


async def bulk(scope: Scope, operations: Sequence[Operation], *, all_or_nothing: bool) -> list[Result]:
    """Carry operations out in their order; return a result for each. Runs start and end after the commit.

    Raises:
        Fault: with ``all_or_nothing``, the first one; its document names the operation's number, from 0.
    """
    wanted = sorted({one.item_id for one in operations if one.item_id is not None})
    batch = _Batch(scope, await views.many_locked(scope, wanted))
    rows = views.rows_of(scope)
    rows.collecting = True
    results: list[Result] = []
    for number, operation in enumerate(operations):
        try:
            # All that can be refused is refused before anything is written: the others can go on.
            results.append(await batch.carry_out(operation))
        except Fault as fault:
            if all_or_nothing or fault.status >= 500:
                fault.extra["operation"] = number
                fault.detail = f"Operation {number}: {fault.detail} Nothing was changed."
                raise
            results.append(Result(operation.item_id, fault=fault))
    await rows.flush(scope)
    rows.collecting = False
    return results


class _Batch:
    """The items of one request, as they are by now."""

    def __init__(self, scope: Scope, items: dict[UUID, Item]) -> None:
        self._scope = scope
        self._items = items
        self._checks = Checks(scope)

    async def carry_out(self, operation: Operation) -> Result:
        """Do one operation. Raises Fault, before anything is written."""
        scope = self._scope
        if not may(scope, "items", operation.kind):
            raise Forbidden(f"You may not {operation.kind} items here.")
        if operation.kind == "create":
            item_id = await commands.create_one(scope, self._checks, operation.fields, later=True)
            return Result(item_id, 1)
        item = self._items.get(operation.item_id) if operation.item_id else None
        if item is None or item.deleted_at is not None:
            raise NotFound("item")
        merged = False
        if operation.kind == "delete":
            item = await commands.delete_one(scope, item, operation.base, later=True)
        else:
            item, merged = await commands.change_one(
                scope, self._checks, item, operation.fields, operation.base, later=True
            )
        self._items[item.item_id] = item
        return Result(item.item_id, item.version, merged)
