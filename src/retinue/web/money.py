"""Amounts of money in requests: US dollars as text, because a number in JSON is rounded by most who read it."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, overload

from pydantic import StringConstraints

from retinue.kernel import nanos

Money = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,7}(\.[0-9]{1,9})?$")]
"""US dollars, a decimal number below ten million, down to a nano-dollar."""


@overload
def nanos_of(amount: str) -> int: ...


@overload
def nanos_of(amount: str | None) -> int | None: ...


def nanos_of(amount: str | None) -> int | None:
    """Return an amount in nano-dollars, None for none."""
    return None if amount is None else nanos(Decimal(amount))
