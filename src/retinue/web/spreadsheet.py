"""Lists as CSV (RFC 4180): page by page, so that any number of rows needs the memory of one page."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from starlette.responses import StreamingResponse

from retinue.database import Database
from retinue.kernel import Scope

R = TypeVar("R")
P = TypeVar("P")

PAGE = 500

CSV: dict[int | str, dict[str, Any]] = {
    200: {"description": "the rows, streamed", "content": {"text/csv": {"schema": {"type": "string"}}}}
}
"""The ``responses`` that declare what :func:`csv_response` sends."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def defused(cell: str) -> str:
    """Return a cell that a spreadsheet shows and does not carry out: a formula gets an apostrophe before it."""
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


def written(rows: Iterable[Sequence[str]]) -> bytes:
    """Write rows as CSV, every cell defused."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows([defused(cell) for cell in row] for row in rows)
    return text.getvalue().encode()


async def csv_of(
    scope: Scope,
    columns: Sequence[str],
    page: Callable[[Scope, P | None, int], Awaitable[Sequence[R]]],
    *,
    row: Callable[[R], Sequence[str]],
    place: Callable[[R], P],
) -> AsyncIterator[bytes]:
    """Write a list as CSV, a page at a time.

    Each page is a transaction of its own, after the scope's: what changes meanwhile may show in one of both forms, and
    nothing comes twice.

    Args:
        scope: whose list it is.
        columns: the first row.
        page: returns so many things at most, from after a place on (None: from the beginning).
        row: the cells of a thing.
        place: where a thing stands in the list.
    """
    yield written([columns])
    after = None
    while True:
        async with scope.service(Database).transaction(scope.tenant_id) as uow:
            found = await page(replace(scope, uow=uow), after, PAGE)
        if found:
            yield written(row(one) for one in found)
            after = place(found[-1])
        if len(found) < PAGE:
            return


def csv_response(chunks: AsyncIterator[bytes], name: str) -> StreamingResponse:
    """Send CSV as a file called ``name``, which is ours and plain."""
    return StreamingResponse(
        chunks,
        media_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )
