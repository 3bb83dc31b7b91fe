"""`retinue chat`: talk to an agent, in one line or in a conversation."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from retinue.cli.failures import ExitCode, Failure
from retinue.cli.remote import Remote, remote
from retinue.cli.screen import Column, moment


@remote
def chat(
    cli: Remote,
    agent: Annotated[str, typer.Argument(metavar="AGENT", help="Name or id.")],
    text: Annotated[list[str] | None, typer.Argument(metavar="TEXT", help="Without it a conversation begins.")] = None,
    session: Annotated[str | None, typer.Option("--session", "-s", help="Go on in it: id, title or last.")] = None,
    file: Annotated[
        list[Path] | None,
        typer.Option("--file", "-f", help="Put a file into the workspace first; may be repeated.", exists=True),
    ] = None,
    multitask: Annotated[
        str | None, typer.Option("--multitask", help="When the session is busy: enqueue, reject or interrupt.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Approve everything that is asked.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for the answer.")] = False,
) -> None:
    """Talk to an agent: the answer is streamed, approvals are asked for here.

    Without TEXT a conversation begins; with a pipe on standard input, that is the text.
    """
    from retinue.cli.conversation import Conversation
    from retinue.cli.deciding import decider
    from retinue.cli.following import finish

    words = " ".join(text or [])
    if not words and not sys.stdin.isatty():
        words = sys.stdin.read().strip()
        if not words:
            raise Failure("There is nothing to say; give a text.", ExitCode.USAGE)
    talk = Conversation(cli, agent, decider(cli.screen, yes=yes), session=session, multitask=multitask)
    for path in file or []:
        item = talk.upload(path)
        cli.screen.note(f"  · {item['path']} ({item['size']} bytes) is in the workspace", style="dim")
    if not words:
        talk.go_on_and_on()
    elif detach:
        accepted = talk.say(words)
        cli.done(f"Run {accepted['run_id']}. Follow it: retinue runs watch {accepted['run_id']}", accepted)
    else:
        run, follower = talk.ask(words)
        finish(cli, run, follower)


@remote
def sessions(cli: Remote, limit: Annotated[int, typer.Option("--limit", min=0)] = 20) -> None:
    """List your chat sessions, the newest first."""
    columns: list[Column] = [
        ("SESSION", "session_id"),
        ("TITLE", "title"),
        ("CREATED", lambda item: moment(item.get("created_at"))),
    ]
    cli.show_all(cli.client.pages("/v1/my/chat", limit=limit), columns, empty="No sessions.")


def add_to(program: typer.Typer) -> None:
    """Hang the commands into the program."""
    panel = "Work"
    program.command("chat", rich_help_panel=panel)(chat)
    program.command("sessions", rich_help_panel=panel)(sessions)
