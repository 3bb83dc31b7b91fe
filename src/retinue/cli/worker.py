"""`retinue worker`: a process that advances runs and answers no HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Annotated

import typer

from retinue.cli.configuration import Data, load_settings
from retinue.cli.opening import UntilStdinCloses, is_first_start, opened, run_until_stopped, watch


def worker(
    data: Data = None,
    as_json: Annotated[bool, typer.Option("--json", help="Say that it is ready as one line of JSON.")] = False,
    until_stdin_closes: UntilStdinCloses = False,
) -> None:
    """Start a worker beside a server, on this machine or another one that reaches the same database.

    Ctrl-C stops it within 10 seconds; another worker goes on with what it had.
    """
    settings = load_settings(data=data)
    watch(settings)
    if is_first_start(settings) and not as_json:
        sys.stderr.write(
            f"There is no database in {settings.data} yet: one is set up, and this worker serves it alone.\n"
        )
        sys.stderr.write("To work beside a server, give it that server's --data, or its DATABASE_URL.\n")

    async def main(stop: asyncio.Event) -> None:
        from retinue.dispatch import Dispatcher

        async with opened(settings, serve=False, work=True) as house:
            worker_id = house.services.get(Dispatcher).worker_id
            if as_json:
                sys.stdout.write(json.dumps({"ready": True, "worker_id": str(worker_id), "pid": os.getpid()}) + "\n")
            else:
                sys.stdout.write(f"Worker {worker_id} is ready. Stop it with Ctrl-C.\n")
            sys.stdout.flush()
            await stop.wait()

    run_until_stopped(main, until_stdin_closes=until_stdin_closes)


def add_to(program: typer.Typer) -> None:
    """Hang the command into the program."""
    program.command(rich_help_panel="The server")(worker)
