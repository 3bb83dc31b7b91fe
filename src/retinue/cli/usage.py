"""`retinue usage`: tokens and money, by agent and day."""

from __future__ import annotations

import typer

from retinue.cli.remote import Remote, remote
from retinue.cli.runs import step_list
from retinue.cli.screen import Column, money


@remote
def usage(cli: Remote) -> None:
    """Show what your agents used, by day."""
    answer = cli.client.get("/v1/my/usage")
    columns: list[Column] = [
        ("DAY", "day"),
        ("AGENT", lambda item: str(item.get("agent") or item.get("agent_id") or "-")),
        ("MODEL", "model"),
        ("CALLS", "calls"),
        ("TOKENS IN", "input_tokens"),
        ("TOKENS OUT", "output_tokens"),
        ("COST", lambda item: money(item.get("cost"))),
    ]
    if cli.as_json:
        cli.screen.document(answer)
    else:
        cli.screen.table(columns, step_list(answer), empty="Nothing was used yet.")


def add_to(program: typer.Typer) -> None:
    """Hang the command into the program."""
    program.command("usage", rich_help_panel="Your account")(usage)
