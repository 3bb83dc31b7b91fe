"""Keeps what the server sends, such as a list as CSV: in a file, or on standard output."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from retinue.cli.failures import ExitCode, Failure
from retinue.cli.remote import Remote

Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Where to write; otherwise standard output.", metavar="FILE")
]


def save_csv(cli: Remote, path: str, params: dict[str, object], file: Path | None) -> None:
    """Fetch a list as CSV, piece by piece.

    Raises:
        Failure: JSON is wanted, and the CSV would stand between it.
    """
    if cli.as_json and file is None:
        raise Failure("Name a file with --output: the CSV itself is not JSON.", ExitCode.USAGE)
    if file is not None and not file.parent.is_dir():
        raise Failure(f"{file} cannot be written: there is no folder {file.parent}.", ExitCode.USAGE)
    count = 0
    with cli.client.streaming(path, params, {}) as response:
        out = file.open("wb") if file is not None else sys.stdout.buffer
        try:
            for piece in response.iter_bytes():
                count += out.write(piece)
        finally:
            out.flush()
            if file is not None:
                out.close()
    if file is not None:
        cli.done(f"Wrote {count:,} bytes to {file}.", {"file": str(file), "bytes": count})
