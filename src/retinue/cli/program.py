"""The whole program: every command in its place, and how it ends."""

from __future__ import annotations

import sys
import warnings
from typing import Annotated

import typer

from retinue import __version__
from retinue.cli import account, bench, chat, demo, doctor, migrate, serve, usage, worker
from retinue.cli.agents import agents
from retinue.cli.approvals import approvals
from retinue.cli.artifacts import artifacts
from retinue.cli.board import board
from retinue.cli.costs import costs
from retinue.cli.deadletters import deadletters
from retinue.cli.failures import ExitCode, Failure
from retinue.cli.grants import grants
from retinue.cli.keys import keys
from retinue.cli.operations import operations
from retinue.cli.plans import plans
from retinue.cli.runs import runs
from retinue.cli.screen import plain
from retinue.cli.teams import teams
from retinue.cli.tenants import tenants
from retinue.cli.vault import vault
from retinue.cli.workflows import workflows

_EPILOG = (
    "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 not allowed, 5 server unavailable, "
    "6 the run did not succeed."
)


def build() -> typer.Typer:
    """Put the program together."""
    program = typer.Typer(
        name="retinue",
        help="Run teams of AI agents on your own server, and work with them.",
        epilog=_EPILOG,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    program.callback()(_options)
    for command in (serve, worker, migrate, doctor, demo, bench, chat, account, usage):
        command.add_to(program)
    for noun in (agents, runs, plans, workflows, approvals, deadletters, board, operations, artifacts):
        program.add_typer(noun, rich_help_panel="Work")
    for noun in (keys, grants, tenants, teams, costs):
        program.add_typer(noun, rich_help_panel="Your account")
    program.add_typer(vault, rich_help_panel="The server")
    return program


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"retinue {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """The options of the program itself; `--version` ends it."""


def run() -> None:
    """Run the command line and end the process."""
    # A library of the embedded database says so on every bare login, where it does not matter.
    warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR is not set")
    try:
        build()()
    except Failure as failure:
        sys.stdout.flush()
        sys.stderr.write(f"retinue: {plain(failure)}\n")
        sys.exit(int(failure.code))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has gone; there is nobody left to tell.
        sys.stderr.close()
        sys.exit(int(ExitCode.FAILED))
