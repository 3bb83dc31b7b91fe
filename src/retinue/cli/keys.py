"""`retinue keys`: API keys for programs."""

from __future__ import annotations

from typing import Annotated

import typer

from retinue.cli.finding import Finder
from retinue.cli.remote import Limit, Remote, remote
from retinue.cli.screen import Column, moment
from retinue.cli.times import expiry

keys = typer.Typer(name="keys", help="API keys for programs that act for you.", no_args_is_help=True)

COLUMNS: list[Column] = [
    ("NAME", "name"),
    ("SCOPES", lambda key: ", ".join(key.get("scopes") or []) or "(everything you may)"),
    ("CREATED", lambda key: moment(key.get("created_at"))),
    ("LAST USED", lambda key: moment(key.get("last_used_at"))),
    ("EXPIRES", lambda key: moment(key.get("expires_at"))),
    ("ID", "key_id"),
]


@keys.command("list")
@remote
def list_(cli: Remote, limit: Limit = 50) -> None:
    """List your API keys."""
    cli.show_all(cli.client.pages("/v1/my/keys", limit=limit), COLUMNS, empty="No API keys.")


@keys.command()
@remote
def create(
    cli: Remote,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is for.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(
            "--scope", help="Such as agents:read or runs:*; may be repeated. Without it the key may all you may."
        ),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option("--expires", help="When it ends, such as 2026-12-31T18:00, in local time.", metavar="TIME"),
    ] = None,
) -> None:
    """Make an API key. It is shown this once."""
    ends = {} if expires is None else {"expires_at": expiry(expires)}
    body = {"name": name, **({"scopes": scope} if scope else {}), **ends}
    item = cli.client.post("/v1/my/keys", body)
    cli.screen.note("Keep it now: it is not shown again.")
    cli.done(str(item["key"]), item)


@keys.command()
@remote
def revoke(cli: Remote, key: Annotated[str, typer.Argument(metavar="KEY", help="Name or id.")]) -> None:
    """End an API key at once."""
    cli.client.delete(f"/v1/my/keys/{Finder(cli.client).key(key)}")
    cli.done(f"Revoked {key}.")
