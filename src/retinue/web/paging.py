"""Lists in pages: ``?limit=&cursor=`` in, ``{"items": [...], "next_cursor": ...}`` out.

A cursor says where the next page starts, as the values of the columns the list is ordered by. It is opaque to callers
and holds nothing they have not seen; row-level security decides what it can reach, so it needs no signature.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar, cast
from uuid import UUID

import orjson
from fastapi import Depends, Query
from pydantic import BaseModel, Field

from retinue.kernel import BadInput, base64url, from_base64url

T = TypeVar("T")
R = TypeVar("R")

DEFAULT_LIMIT = 50
MAX_LIMIT = 200
_MAX_CURSOR = 2000  # a name of 200 characters fits, whatever they are
_MAX_INTEGER = 2**63 - 1


class Page(BaseModel, Generic[T]):
    """A part of a list; ``next_cursor`` is null on the last page."""

    items: list[T]
    next_cursor: str | None = Field(default=None, description="send it as `cursor` to get the next page")


@dataclass(frozen=True, slots=True)
class Paging:
    """Which part of a list is wanted.

    Attributes:
        limit: how many items at most, 1 to 200.
        cursor: where to start, as the caller sent it; None for the beginning.
    """

    limit: int
    cursor: str | None

    def after(self, *kinds: type[Any]) -> tuple[Any, ...] | None:
        """Return the values the next page starts after, of the given types; None for the first page.

        Args:
            kinds: what the list's cursors hold: ``int``, ``str``, ``UUID`` or ``datetime``.

        Raises:
            BadInput: the cursor was not made for this list.
        """
        return None if self.cursor is None else read_cursor(self.cursor, *kinds)

    def after_one(self, kind: type[T]) -> T | None:
        """As :meth:`after`, for the cursor of a list that is ordered by one value."""
        found = self.after(kind)
        return None if found is None else cast(T, found[0])

    def page(self, rows: Sequence[R], show: Callable[[R], T], place: Callable[[R], Sequence[Any]]) -> Page[T]:
        """Return the page for ``rows``, of which the query fetched ``limit + 1``.

        Args:
            rows: what was found, one more than wanted when there is more.
            show: how an item is shown.
            place: the values a cursor holds for a row.
        """
        shown = rows[: self.limit]
        more = len(rows) > self.limit
        return Page[Any](items=[show(row) for row in shown], next_cursor=cursor(*place(shown[-1])) if more else None)


def cursor(*values: Any) -> str:
    """Return the cursor for the place after ``values``."""
    # The driver's UUIDs are of a subclass, which orjson leaves to `default`.
    return base64url(orjson.dumps(values, default=str))


def read_cursor(text: str, *kinds: type[Any]) -> tuple[Any, ...]:
    """Return what is in a cursor.

    Raises:
        BadInput: it was not made by :func:`cursor` from values of these types.
    """
    try:
        values = orjson.loads(from_base64url(text))
        if not isinstance(values, list) or len(values) != len(kinds):
            raise ValueError("another list's cursor")
        return tuple(_as(kind, value) for kind, value in zip(kinds, values, strict=True))
    except (ValueError, TypeError):
        raise BadInput("This cursor does not belong to this list. Start again without it.", field="cursor") from None


def _as(kind: type[Any], value: Any) -> Any:
    if kind is UUID:
        return UUID(value)
    if kind is datetime:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            raise ValueError("a time without a zone")
        return moment
    if type(value) is not kind or (kind is int and abs(value) > _MAX_INTEGER) or (kind is str and "\x00" in value):
        raise TypeError("another type")
    return value


async def _paging(
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT, description="how many items at most")] = DEFAULT_LIMIT,
    cursor: Annotated[str | None, Query(max_length=_MAX_CURSOR, description="`next_cursor` of the page before")] = None,
) -> Paging:
    return Paging(limit, cursor)


WantedPage = Annotated[Paging, Depends(_paging)]
"""A route's parameter for lists: ``page: WantedPage``."""
