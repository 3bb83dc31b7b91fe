"""`retinue operations install`: the command-line agents that operations can use. Works on files, without a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from retinue.cli.configuration import Data, load_settings
from retinue.cli.failures import ExitCode, Failure
from retinue.cli.remote import AsJson
from retinue.cli.screen import Screen, duration


def install(
    agents: Annotated[list[str], typer.Argument(metavar="AGENT...", help="Which: qwen, gemini.")],
    drivers: Annotated[
        Path | None,
        typer.Option(
            "--drivers",
            help="Where to. Without it: RETINUE_DRIVERS, or a folder in the data folder.",
            file_okay=False,
        ),
    ] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Install command-line agents, and the Node they run on.

    Pinned by hash; no script of a package is run. Do it on each machine with a worker, as the server's account.
    """
    from retinue.operations import AGENTS, InstallFailed
    from retinue.operations import install as install_agents

    unknown = [name for name in agents if name not in AGENTS]
    if unknown:
        raise Failure(f"There is no {unknown[0]}. There are: {', '.join(sorted(AGENTS))}.", ExitCode.USAGE)
    screen = Screen(as_json)
    settings = load_settings(data=data, drivers=drivers)
    try:
        done = install_agents(settings, agents, screen.note)
    except InstallFailed as failed:
        screen.note(failed.output)
        raise Failure(str(failed)) from None
    if as_json:
        screen.document(
            {
                "installed": [
                    {
                        "name": one.name,
                        "version": one.version,
                        "folder": str(one.folder),
                        "bytes": one.size,
                        "seconds": round(one.seconds, 3),
                        "fresh": one.fresh,
                        "repaired": one.repaired,
                    }
                    for one in done
                ]
            }
        )
    took = sum(one.seconds for one in done)
    size = sum(one.size for one in done) / 1e6
    said = f"Installed in {duration(took)}" if took else "Nothing to do"
    screen.line(f"{said}: {', '.join(f'{one.name} {one.version}' for one in done)} ({size:.0f} MB).")
