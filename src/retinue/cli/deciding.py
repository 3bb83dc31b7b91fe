"""Asks the person at the terminal to decide: approve, edit, reject, answer."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from retinue.cli.deciding_plans import as_text, describe_plan, from_text, show_instructions
from retinue.cli.screen import Json, Screen, moment

Decider = Callable[[Json], Json | None]
"""Takes an approval, returns what to send (``{"decision": ...}``), or None to leave it for somebody else.

Its ``edited_arguments`` are what this person wanted before and the server refused: editing goes on from them.
"""

_KEYS = "[a]pprove  [r]eject  [e]dit the arguments  [w]ait"
_ALWAYS = "  a[l]ways approve this tool"
_OF_A_PLAN = "[a]pprove  [r]eject  [e]dit the plan  [i]nstructions  [w]ait"
_OF_A_STEP = "[a]pprove  [r]eject  [w]ait"


def decider(screen: Screen, *, yes: bool = False, why: str = "because of --yes") -> Decider:
    """Return how to decide here: yes to everything (and why), by asking at the terminal, or by leaving it to others."""
    if yes:
        return lambda approval: _approve_unasked(screen, approval, why)
    if sys.stdin.isatty() and sys.stderr.isatty():
        return lambda approval: _ask(screen, approval)
    return lambda approval: _leave(screen, approval)


def describe(screen: Screen, approval: Json) -> None:
    """Show exactly what would be done, and why a person is asked."""
    match approval.get("kind"):
        case "question":
            screen.paragraph(f"? {approval.get('question')}", style="bold yellow", hang=2)
            for number, option in enumerate(approval.get("options") or [], 1):
                screen.note(f"    {number}. {option}")
            return
        case "plan":
            describe_plan(screen, approval)
        case "plan_step":
            screen.paragraph(f"? {approval.get('question')}", style="bold yellow", hang=2)
        case _:
            _describe_call(screen, approval)
    if approval.get("reason"):
        screen.paragraph(f"    why you are asked: {approval['reason']}", style="dim", hang=6)
    if approval.get("tainted_by"):
        words = f"    it has read text that nobody vouches for: {approval['tainted_by']}"
        screen.paragraph(words, style="yellow", hang=6)


def _describe_call(screen: Screen, approval: Json) -> None:
    who = approval.get("asked_by") or "The agent"
    screen.note(f"? {who} wants to use {approval.get('tool')} ({approval.get('effect')})", style="bold yellow")
    for name, value in (approval.get("arguments") or {}).items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        screen.note(f"    {name}: {_shortened(text)}")


def _shortened(text: str, limit: int = 1500) -> str:
    text = text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters; retinue approvals show has all)"
    return text.replace("\n", "\n      ")


def _approve_unasked(screen: Screen, approval: Json, why: str) -> Json:
    describe(screen, approval)
    if approval.get("kind") == "question":
        options = approval.get("options") or []
        answer = str(options[0]) if options else "Go on as you think best."
        screen.note(f"    answered {why}: {answer}", style="green")
        return {"decision": "approve", "answer": answer}
    screen.note(f"    approved {why}", style="green")
    return {"decision": "approve"}


def _leave(screen: Screen, approval: Json) -> None:
    describe(screen, approval)
    screen.note(f"    Decide it with: retinue approvals approve {approval['approval_id']}   (or reject)")
    if approval.get("expires_at"):
        screen.note(f"    Nobody is at a terminal here: it waits, and is declined at {moment(approval['expires_at'])}.")


def _ask(screen: Screen, approval: Json) -> Json | None:
    describe(screen, approval)
    if approval.get("kind") == "question":
        return _answer(approval)
    while True:
        choice = _typed(_keys(approval)).casefold()
        if choice in ("a", "approve", "y", "yes"):
            return {"decision": "approve"}
        if choice in ("l", "always") and approval.get("kind") == "tool":
            return {"decision": "approve", "remember": True}
        if choice in ("w", "wait"):
            return None
        if choice in ("r", "reject", "n", "no"):
            return _with_comment({"decision": "reject"})
        if choice in ("i", "instructions") and approval.get("kind") == "plan":
            show_instructions(screen, approval)
        if choice in ("e", "edit") and approval.get("kind") != "plan_step":
            edited = edit_plan(screen, approval) if approval.get("kind") == "plan" else edit(screen, approval)
            if edited is not None:
                return {"decision": "approve", "edited_arguments": edited}


def _typed(question: str, **options: Any) -> str:
    """Return the line that is typed. Ctrl-C is no answer: it means here what it means while the run is followed.

    Raises:
        KeyboardInterrupt: it was pressed.
    """
    try:
        return str(typer.prompt(f"    {question}", err=True, **options)).strip()
    except typer.Abort as abort:  # Click's word for Ctrl-C and for the end of input
        if isinstance(abort.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise


def _keys(approval: Json) -> str:
    match approval.get("kind"):
        case "plan":
            return _OF_A_PLAN
        case "plan_step":
            return _OF_A_STEP
        case _:  # no rule can be learnt from a run that has read untrusted text
            return _KEYS if approval.get("tainted_by") else _KEYS + _ALWAYS


def _answer(approval: Json) -> Json:
    options = [str(option) for option in approval.get("options") or []]
    text = _typed("your answer")
    if text.isdigit() and 1 <= int(text) <= len(options):
        text = options[int(text) - 1]
    return {"decision": "approve", "answer": text}


def _with_comment(body: Json) -> Json:
    comment = _typed("tell the agent why (may be empty)", default="", show_default=False)
    return {**body, "comment": comment} if comment else body


def edit(screen: Screen, approval: Json) -> Json | None:
    """Let the person change a call's arguments in their editor; None when they are no JSON object afterwards."""
    arguments = approval.get("edited_arguments") or approval.get("arguments") or {}
    text = edited_text(screen, json.dumps(arguments, ensure_ascii=False, indent=2), "arguments.json")
    if text is None:
        return None
    try:
        edited = json.loads(text)
    except ValueError as error:
        screen.note(f"    That is not valid JSON: {error}", style="red")
        return None
    if not isinstance(edited, dict):
        screen.note("    Arguments are a JSON object.", style="red")
        return None
    return edited


def edit_plan(screen: Screen, approval: Json) -> Json | None:
    """Let the person change a plan in their editor, as YAML; None when they change their mind or nothing."""
    before = as_text(approval)
    text = before
    while True:
        after = edited_text(screen, text, "plan.yaml")
        if after is None:
            return None
        if after == before and not approval.get("edited_arguments"):
            screen.note("    Nothing was changed.", style="yellow")
            return None
        if not after.strip():
            return None
        edited, mistake = from_text(after)
        if edited is not None:
            return edited
        screen.note(f"    {mistake}", style="red")
        if not typer.confirm("    edit it again?", default=True, err=True):
            return None
        text = after


def edited_text(screen: Screen, text: str, name: str) -> str | None:
    """Open a text in the person's editor, as a file of a name; None when the editor does not work."""
    command = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi")
    with tempfile.TemporaryDirectory(prefix="retinue-") as folder:
        file = Path(folder) / name
        file.write_text(text, encoding="utf-8")
        try:
            subprocess.run([*command, str(file)], check=True)
            return file.read_text(encoding="utf-8")
        except (OSError, subprocess.CalledProcessError, UnicodeDecodeError) as error:
            screen.note(f"    The editor did not work ({error}). Set EDITOR, or reject.", style="red")
            return None
