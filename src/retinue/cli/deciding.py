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

import typer

from retinue.cli.screen import Json, Screen

Decider = Callable[[Json], Json | None]
"""Takes an approval, returns what to send (``{"decision": ...}``), or None to leave it for somebody else."""

_KEYS = "[a]pprove  [r]eject  [e]dit the arguments  [w]ait"
_ALWAYS = "  a[l]ways approve this tool"


def decider(screen: Screen, *, yes: bool = False, why: str = "because of --yes") -> Decider:
    """Return how to decide here: yes to everything (and why), by asking at the terminal, or by leaving it to others."""
    if yes:
        return lambda approval: _approve_unasked(screen, approval, why)
    if sys.stdin.isatty() and sys.stderr.isatty():
        return lambda approval: _ask(screen, approval)
    return lambda approval: _leave(screen, approval)


def describe(screen: Screen, approval: Json) -> None:
    """Show exactly what would be done, and why a person is asked."""
    if approval.get("kind") == "question":
        screen.note(f"? {approval.get('question')}", style="bold yellow")
        for number, option in enumerate(approval.get("options") or [], 1):
            screen.note(f"    {number}. {option}")
        return
    screen.note(f"? The agent wants to use {approval.get('tool')} ({approval.get('effect')})", style="bold yellow")
    for name, value in (approval.get("arguments") or {}).items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        screen.note(f"    {name}: {_shortened(text)}")
    if approval.get("reason"):
        screen.note(f"    why you are asked: {approval['reason']}", style="dim")
    if approval.get("tainted_by"):
        screen.note(f"    it has read text that nobody vouches for: {approval['tainted_by']}", style="yellow")


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


def _ask(screen: Screen, approval: Json) -> Json | None:
    describe(screen, approval)
    if approval.get("kind") == "question":
        return _answer(approval)
    # No rule can be learnt from a run that has read untrusted text.
    keys = _KEYS if approval.get("tainted_by") else _KEYS + _ALWAYS
    while True:
        choice = str(typer.prompt(f"    {keys}", err=True)).strip().casefold()
        if choice in ("a", "approve", "y", "yes"):
            return {"decision": "approve"}
        if choice in ("l", "always"):
            return {"decision": "approve", "remember": True}
        if choice in ("w", "wait"):
            return None
        if choice in ("r", "reject", "n", "no"):
            return _with_comment({"decision": "reject"})
        if choice in ("e", "edit"):
            edited = edit(screen, approval.get("arguments") or {})
            if edited is not None:
                return {"decision": "approve", "edited_arguments": edited}


def _answer(approval: Json) -> Json:
    options = [str(option) for option in approval.get("options") or []]
    text = str(typer.prompt("    your answer", err=True)).strip()
    if text.isdigit() and 1 <= int(text) <= len(options):
        text = options[int(text) - 1]
    return {"decision": "approve", "answer": text}


def _with_comment(body: Json) -> Json:
    comment = str(typer.prompt("    tell the agent why (may be empty)", err=True, default="", show_default=False))
    return {**body, "comment": comment} if comment else body


def edit(screen: Screen, arguments: Json) -> Json | None:
    """Let the person change arguments in their editor; None when they are no JSON object afterwards."""
    command = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi")
    with tempfile.TemporaryDirectory(prefix="retinue-") as folder:
        file = Path(folder) / "arguments.json"
        file.write_text(json.dumps(arguments, ensure_ascii=False, indent=2), encoding="utf-8")
        try:
            subprocess.run([*command, str(file)], check=True)
            edited = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, subprocess.CalledProcessError) as error:
            screen.note(f"    The editor did not work ({error}). Set EDITOR, or reject.", style="red")
            return None
        except ValueError as error:
            screen.note(f"    That is not valid JSON: {error}", style="red")
            return None
    if not isinstance(edited, dict):
        screen.note("    Arguments are a JSON object.", style="red")
        return None
    return edited
