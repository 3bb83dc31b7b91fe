"""`retinue bench`: measure this server against its floors; the programs live in the source checkout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from retinue.cli.failures import ExitCode, Failure


def bench(
    arguments: Annotated[list[str] | None, typer.Argument(metavar="[ARGUMENTS]", help="Such as --quick.")] = None,
) -> None:
    """Measure against the floors and print the table (from a source checkout)."""
    root = checkout()
    if root is None or not (root / "bench" / "__main__.py").exists():
        raise Failure(
            "The benches are part of the source checkout, which this is not. Clone the repository and run: make bench",
            ExitCode.FAILED,
        )
    sys.exit(subprocess.run([sys.executable, "-m", "bench", *(arguments or [])], cwd=root).returncode)


def checkout() -> Path | None:
    """Return the root of the source checkout this program runs from, if it does."""
    root = Path(__file__).resolve().parents[3]
    return root if (root / "pyproject.toml").exists() and (root / "src" / "retinue").is_dir() else None


def add_to(program: typer.Typer) -> None:
    """Hang the command into the program."""
    program.command(
        "bench",
        rich_help_panel="The server",
        context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    )(bench)
