"""Money: whole nano-dollars, which add up exactly."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue.kernel import NANOS_PER_DOLLAR, dollars, nanos

AMOUNTS = st.integers(-(2**63), 2**63 - 1)


@given(AMOUNTS)
def test_what_is_written_is_read_back_exactly(amount: int) -> None:
    assert nanos(Decimal(dollars(amount))) == amount


@given(AMOUNTS)
def test_dollars_are_plain_decimal_numbers(amount: int) -> None:
    text = dollars(amount)
    assert "e" not in text.lower()
    assert not ("." in text and text.endswith(("0", ".")))


@given(st.lists(st.decimals(0, 1000, places=9), max_size=30))
def test_amounts_of_whole_nano_dollars_add_up_exactly(amounts: list[Decimal]) -> None:
    assert sum(nanos(one) for one in amounts) == nanos(sum(amounts, Decimal(0)))


@pytest.mark.parametrize(
    "amount, text",
    [(0, "0"), (1, "0.000000001"), (75, "0.000000075"), (10 * NANOS_PER_DOLLAR, "10"), (-1_500_000_000, "-1.5")],
)
def test_how_amounts_are_written(amount: int, text: str) -> None:
    assert dollars(amount) == text


@pytest.mark.parametrize("amount, expected", [("0.0000000005", 1), ("0.00000000049", 0), ("1.5", 1_500_000_000)])
def test_what_is_smaller_is_rounded_half_up(amount: str, expected: int) -> None:
    assert nanos(Decimal(amount)) == expected
