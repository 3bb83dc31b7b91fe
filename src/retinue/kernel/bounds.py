"""Bounds that several have a say in."""

from __future__ import annotations

from typing import overload


@overload
def least(first: int, /, *others: int | None) -> int: ...
@overload
def least(*bounds: int | None) -> int | None: ...
def least(*bounds: int | None) -> int | None:
    """Return the least of bounds, some of which may be left out (None); None: nothing is bounded."""
    return min((one for one in bounds if one is not None), default=None)
