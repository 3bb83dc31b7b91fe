"""Money as whole nano-dollars (1e-9 USD).

One token of the cheapest models costs about 75 nano-dollars, so integers of this unit add up exactly; a signed
64-bit column holds nine billion dollars.
"""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

NANOS_PER_DOLLAR = 1_000_000_000


def nanos(amount: Decimal) -> int:
    """Convert dollars to whole nano-dollars, rounding half up."""
    return int((amount * NANOS_PER_DOLLAR).to_integral_value(rounding=ROUND_HALF_UP))


def dollars(amount: int) -> str:
    """Write nano-dollars as a plain decimal number of dollars, such as ``"0.000123"``."""
    text = f"{Decimal(amount) / NANOS_PER_DOLLAR:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
