"""`retinue deadletters`: runs that were given up, with the cause."""

from __future__ import annotations

from typing import Annotated

import typer

from retinue.cli.finding import Finder
from retinue.cli.remote import Limit, Remote, remote
from retinue.cli.screen import Column, compact, moment

deadletters = typer.Typer(
    name="deadletters", help="Runs that were given up. Plans: plans list --status dead_lettered.", no_args_is_help=True
)

LetterName = Annotated[str, typer.Argument(metavar="RUN", help="Id, the end of one, or last.")]

COLUMNS: list[Column] = [
    ("RUN", "run_id"),
    ("CAUSE", lambda letter: compact((letter.get("error") or {}).get("detail") or "", 80)),
    ("ATTEMPTS", "attempts"),
    ("SINCE", lambda letter: moment(letter.get("ended_at"))),
]


@deadletters.command("list")
@remote
def list_(cli: Remote, limit: Limit = 50) -> None:
    """List dead letters, the newest first."""
    cli.show_all(cli.client.pages("/v1/my/deadletters", limit=limit), COLUMNS, empty="No dead letters.")


@deadletters.command()
@remote
def requeue(cli: Remote, run: LetterName) -> None:
    """Try a dead run again, from the step where it died."""
    item = cli.client.post(f"/v1/my/deadletters/{Finder(cli.client).dead_letter(run)}/requeue")
    cli.done("The run is queued again.", item)


@deadletters.command()
@remote
def drop(cli: Remote, run: LetterName) -> None:
    """Take a dead letter off the list. What happened stays in the record."""
    cli.client.delete(f"/v1/my/deadletters/{Finder(cli.client).dead_letter(run)}")
    cli.done("Dropped.")
