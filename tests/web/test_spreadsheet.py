"""CSV as a stream: a page is read when it is wanted, and not before."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import uuid4

from retinue.database import Database
from retinue.kernel import Scope
from retinue.web import csv_of, defused
from retinue.web.spreadsheet import PAGE
from tests.support.scopes import ledger_services, scope_of


async def test_a_page_is_read_when_the_one_before_was_taken(database: Database) -> None:
    """A list that is gathered before it is sent would ask for every page at once, and hold them all."""
    asked: list[int | None] = []

    async def page(scope: Scope, after: int | None, limit: int) -> Sequence[int]:
        asked.append(after)
        start = 0 if after is None else after + 1
        return range(start, min(start + limit, 2 * PAGE + 1))

    async with scope_of(ledger_services(database), uuid4()) as scope:
        chunks = csv_of(scope, ["number"], page, row=lambda n: [str(n)], place=lambda n: n)
    assert await anext(chunks) == b"number\r\n"
    assert asked == []
    await anext(chunks)
    assert asked == [None]
    rest = b"".join([chunk async for chunk in chunks])
    assert asked == [None, PAGE - 1, 2 * PAGE - 1]
    assert rest == b"".join(b"%d\r\n" % n for n in range(PAGE, 2 * PAGE + 1))


async def test_every_cell_is_defused_and_the_columns_too(database: Database) -> None:
    async def page(scope: Scope, after: int | None, limit: int) -> Sequence[int]:
        return [1]

    async with scope_of(ledger_services(database), uuid4()) as scope:
        chunks = csv_of(scope, ["=a"], page, row=lambda n: ["@b", "c\n=d"], place=lambda n: n)
        assert [chunk async for chunk in chunks] == [b"'=a\r\n", b'\'@b,"c\n=d"\r\n']
    assert defused("a=1") == "a=1"
