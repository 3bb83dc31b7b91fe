"""`retinue chat` and `retinue ask`: talk to an agent, or to the team, in one line or in a conversation."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from retinue.cli.failures import ExitCode, Failure
from retinue.cli.remote import Remote, remote
from retinue.cli.screen import Column, moment

Text = Annotated[list[str] | None, typer.Argument(metavar="TEXT", help="Without it a conversation begins.")]
Session = Annotated[str | None, typer.Option("--session", "-s", help="Go on in it: id, title or last.")]
Files = Annotated[
    list[Path] | None,
    typer.Option("--file", "-f", help="Put a file into the workspace first; may be repeated.", exists=True),
]
Multitask = Annotated[
    str | None, typer.Option("--multitask", help="When the session is busy: enqueue, reject or interrupt.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Approve everything that is asked.")]
Detach = Annotated[bool, typer.Option("--detach", help="Do not wait for the answer.")]


@remote
def chat(
    cli: Remote,
    agent: Annotated[str, typer.Argument(metavar="AGENT", help="Name or id.")],
    text: Text = None,
    session: Session = None,
    file: Files = None,
    multitask: Multitask = None,
    yes: Yes = False,
    detach: Detach = False,
) -> None:
    """Talk to an agent: the answer is streamed, approvals are asked for here.

    Without TEXT a conversation begins; with a pipe on standard input, that is the text.
    """
    _talk(cli, agent, text, session, file or [], multitask, yes=yes, detach=detach)


@remote
def ask(
    cli: Remote,
    text: Text = None,
    session: Session = None,
    file: Files = None,
    multitask: Multitask = None,
    yes: Yes = False,
    detach: Detach = False,
) -> None:
    """Ask your team: the orchestrator plans, agents carry the plan out, and the answer is streamed.

    What the plan and its agents ask is asked here; you may edit the plan before it begins.

    Without TEXT a conversation begins; with a pipe on standard input, that is the text.
    """
    _talk(cli, None, text, session, file or [], multitask, yes=yes, detach=detach)


def _talk(
    cli: Remote,
    agent: str | None,
    text: list[str] | None,
    session: str | None,
    files: list[Path],
    multitask: str | None,
    *,
    yes: bool,
    detach: bool,
) -> None:
    from retinue.cli.conversation import Conversation
    from retinue.cli.deciding import decider
    from retinue.cli.following import finish

    words = " ".join(text or [])
    if not words and not sys.stdin.isatty():
        words = sys.stdin.read().strip()
        if not words:
            raise Failure("There is nothing to say; give a text.", ExitCode.USAGE)
    talk = Conversation(cli, agent, decider(cli.screen, yes=yes), session=session, multitask=multitask)
    for path in files:
        item = talk.upload(path)
        cli.screen.note(f"  · {item['path']} ({item['size']} bytes) is in the workspace", style="dim")
    if not words:
        talk.go_on_and_on()
    elif detach:
        accepted = talk.say(words)
        held = talk.held(accepted)
        if held:
            cli.screen.note(f"({held})", style="yellow")
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
    program.command("ask", rich_help_panel=panel)(ask)
    program.command("chat", rich_help_panel=panel)(chat)
    program.command("sessions", rich_help_panel=panel)(sessions)
