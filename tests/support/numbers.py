"""Reading what ``/metrics`` writes."""

from __future__ import annotations

from typing import Any

from prometheus_client.openmetrics.parser import text_string_to_metric_families


def numbers(text: str, name: str) -> list[tuple[dict[str, str], float]]:
    """Return every sample of that name: its labels and its value."""
    families: Any = text_string_to_metric_families(text)  # type: ignore[no-untyped-call]  # the library leaves it so
    return [(one.labels, one.value) for family in families for one in family.samples if one.name == name]


def number(text: str, name: str, **labels: str) -> float:
    """Return the sample with these labels.

    Raises:
        LookupError: there is none.
    """
    for found, value in numbers(text, name):
        if found == labels:
            return value
    raise LookupError(f"{name} {labels} is not among the numbers")
