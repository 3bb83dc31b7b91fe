"""Prints a document with its table of measurements as bench/results.json has them: `python -m scripts.measured FILE`.

The table stands between two comments. `make generate` writes it after `make bench`, `make check` tells when it is
stale.
"""

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results.json"
BEGIN = "<!-- measured: begin; written by `make generate` from bench/results.json -->"
END = "<!-- measured: end -->"


def filled(document: str, results: dict[str, Any] | None) -> str:
    """Return the document with its table written anew.

    Raises:
        ValueError: the document does not have both comments, once each.
    """
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in after:
        raise ValueError(f"the document needs {BEGIN!r} and {END!r}, once each, in this order")
    return f"{before}{BEGIN}\n\n{table(results)}\n\n{END}{after}"


def table(results: dict[str, Any] | None) -> str:
    """Return the table and what it was measured on, in Markdown."""
    if results is None:
        return "There are no results in this checkout; `make bench` writes them."
    rows = results["rows"]
    lines = ["| What | Unit | Floor | Measured | Goal | |", "|---|---|--:|--:|--:|---|"]
    lines += [_line(row) for row in rows]
    met = sum(bool(row["met"]) for row in rows)
    return "\n".join([_about(results), "", *lines, "", f"{met} of {len(rows)} goals met."])


def _line(row: dict[str, Any]) -> str:
    values = " | ".join(_number(row[key]) for key in ("floor", "measured", "goal"))
    verdict = "met" if row["met"] else "not measured" if row["measured"] is None else "**missed**"
    return f"| {row['name']} | {row['unit']} | {values} | {verdict} |"


def _about(results: dict[str, Any]) -> str:
    machine, versions = results["machine"], results["versions"]
    quick = " A quick run: a look, not a result." if results["quick"] else ""
    where = f"{machine['cores']} cores ({machine['processor']}), {machine['memory_gb']} GB, {machine['system']}"
    return f"Measured on {where}, Python {versions['python']}.{quick}"


def _number(value: float | None) -> str:
    """Write a value with as many digits as mean something."""
    if value is None:
        return "-"
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


if __name__ == "__main__":
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else None
    print(filled((ROOT / sys.argv[1]).read_text(encoding="utf-8"), found), end="")
