"""`retinue workflows callbacks`: what became of the reports of ends to somebody outside."""

from __future__ import annotations

from typing import Annotated

import typer

from retinue.cli.failures import ExitCode, Failure
from retinue.cli.finding import Finder
from retinue.cli.remote import Limit, Remote, remote
from retinue.cli.screen import Column, Json, compact, moment

callbacks = typer.Typer(
    name="callbacks", help="Reports of ends to URLs outside; try dead ones again.", no_args_is_help=True
)

CallbackName = Annotated[str, typer.Argument(metavar="CALLBACK", help="Id, the end of one, or last.")]

_STATUSES = ("pending", "delivered", "dead")
_SHORT = 12
"""Of an id, how much of its end the list shows: enough to name the callback by."""


def _next_try(item: Json) -> str:
    return moment(item["due_at"]) if item["status"] == "pending" else "-"


COLUMNS: list[Column] = [
    ("CALLBACK", lambda item: str(item["callback_id"])[-_SHORT:]),
    ("STATUS", "status"),
    ("TRIES", "attempts"),
    ("URL", lambda item: compact(item["url"], 60)),
    ("NEXT TRY", _next_try),
    ("REASON", lambda item: compact(item.get("reason") or "-", 60)),
]
FIELDS: list[Column] = [
    ("callback", "callback_id"),
    ("status", "status"),
    ("url", "url"),
    ("tries", "attempts"),
    ("failed last", lambda item: item.get("reason") or "-"),
    ("next try", _next_try),
    ("plan", "plan_id"),
    ("workflow", "workflow_id"),
    ("created", lambda item: moment(item.get("created_at"))),
    ("ended", lambda item: moment(item.get("ended_at"))),
]


@callbacks.command("list")
@remote
def list_(
    cli: Remote,
    status: Annotated[str | None, typer.Option("--status", help="Only pending, delivered or dead ones.")] = None,
    limit: Limit = 50,
) -> None:
    """List callbacks, the newest first."""
    if status is not None and status not in _STATUSES:
        raise Failure(f"--status is one of {', '.join(_STATUSES)}.", ExitCode.USAGE)
    items = cli.client.pages("/v1/callbacks", limit=limit, status=status)
    cli.show_all(items, COLUMNS, empty="There are none. A run has one with: retinue workflows run NAME --callback URL")


@callbacks.command()
@remote
def show(cli: Remote, callback: CallbackName) -> None:
    """Show one callback: whom it tells of which plan, and why the last try failed."""
    cli.show(cli.client.get(f"/v1/callbacks/{Finder(cli.client).callback(callback)}"), FIELDS)


@callbacks.command()
@remote
def retry(cli: Remote, callback: CallbackName) -> None:
    """Have a dead callback tried again, at once and then with the same pauses as before."""
    item = cli.client.post(f"/v1/callbacks/{Finder(cli.client).callback(callback)}/requeue")
    cli.done(f"The callback is {item['status']} again.", item)
