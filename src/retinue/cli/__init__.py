"""The command line, ``retinue``. Nothing heavy is imported before a command needs it."""

from __future__ import annotations


def main() -> None:
    """Run the command line and end the process with its exit code (see ``failures.ExitCode``)."""
    from retinue.cli.program import run

    run()


__all__ = ["main"]
