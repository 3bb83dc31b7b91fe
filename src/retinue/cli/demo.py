"""`retinue demo`: the main job on real files, from the first start to the bill; with --crash, while workers die."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retinue.cli.failures import Failure
from retinue.cli.screen import Json, Screen, duration, money

if TYPE_CHECKING:
    from retinue.cli.deciding import Decider
    from retinue.cli.demo_crash import Crasher
    from retinue.cli.demo_files import DemoFile
    from retinue.cli.demo_stage import Stage
    from retinue.cli.demo_story import Told, Verdict

_QUESTION = "What are these files about? Answer from the files and quote them, then write a summary to summary.md."


def demo(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[FOLDER]", help="Text files to ask about; by default the project's own.")
    ] = None,
    crash: Annotated[bool, typer.Option("--crash", help="Kill -9 the worker at three moments on the way.")] = False,
    question: Annotated[str, typer.Option("--question", "-q", help="What to ask about them.")] = _QUESTION,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Approve the write without asking you.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the demo's data folder behind.")] = False,
    data: Annotated[Path | None, typer.Option("--data", help="Use this data folder, and keep it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")] = False,
) -> None:
    """Show a whole journey on real files: server, user, agent, question, approval, answer, record, cost.

    It runs on a data folder of its own and leaves nothing behind. A model's key in the environment is used.
    """
    from retinue.cli.demo_files import chosen
    from retinue.cli.demo_record import show_events, show_time_line
    from retinue.cli.demo_stage import stage
    from retinue.cli.demo_story import judge

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C: in good order
    began = time.monotonic()
    screen = Screen(as_json, is_terminal=True, notes_on_stdout=True)
    source, files = chosen(folder)
    screen.note("Retinue demo" + (": the worker is killed at three moments" if crash else ""), style="bold")
    with stage(data, keep=keep) as on:
        told, crasher = _play(on, screen, _decider(screen, yes or as_json), source, files, question, crash)
    verdict = judge(told)
    problems = [*verdict.problems, *(f"nobody took over {moment}" for moment in (crasher.missed if crasher else []))]
    show_events(screen, told)
    show_time_line(screen, told)
    _show_summary(screen, told, verdict, crasher, time.monotonic() - began)
    if keep or data is not None:
        screen.note(f"Look around with: retinue serve --data {on.data}", style="dim")
    if as_json:
        screen.document(_result(told, verdict, crasher, ok=not problems))
    if problems:
        raise Failure("The demo did not end well: " + "; ".join(problems))


def _decider(screen: Screen, yes: bool) -> Decider:
    from retinue.cli.deciding import decider

    if yes or sys.stdin.isatty():
        return decider(screen, yes=yes)
    return decider(screen, yes=True, why="because there is nobody at a terminal")


def _play(
    on: Stage, screen: Screen, decide: Decider, source: str, files: list[DemoFile], question: str, crash: bool
) -> tuple[Told, Crasher | None]:
    from retinue.cli.demo_crash import Crasher
    from retinue.cli.demo_story import Story

    with screen.working("Starting a server of its own, with a database of its own"):
        server = on.start("serve", "--port", "0", *(["--no-worker"] if crash else []))
    crasher = Crasher(on, screen) if crash else None
    if crasher is not None:
        with screen.working("Starting two workers"):
            crasher.start_workers()
    scripted = str(server.said["models"]).startswith("demo")
    screen.note("  ! no model key: the answers are scripted, labelled [demo]" if scripted else "", style="yellow")
    story = Story(on, str(server.said["url"]), screen, decide)
    # A script answers at once; the slow one leaves time to die in the middle of an answer.
    story.prepare(files, source, model="demo:slow" if scripted and crash else None)
    return story.ask(question, crasher.watch if crasher else lambda _: None), crasher


def _show_summary(screen: Screen, told: Told, verdict: Verdict, crasher: Crasher | None, seconds: float) -> None:
    run = told.run
    screen.note()
    screen.note("Summary", style="bold")
    lines = {
        "run": f"{run['status']}{' (demo: scripted answers)' if run.get('demo') else ''}",
        "events": f"{len(told.events)}, without a gap",
        "model calls": f"{verdict.model_calls} recorded, {verdict.repeated_model_calls} repeated",
        "effects": "each once" if verdict.effects_once else "NOT each once",
        "tokens": f"{run['input_tokens']} in, {run['output_tokens']} out",
        "cost": money(run["cost"]),
    }
    if crasher is not None:
        lines["workers killed"] = f"{len(crasher.kills)}: {', '.join(kill.moment for kill in crasher.kills)}"
        lines["takeover"] = f"at most {duration(crasher.slowest())}"
    lines["the whole demo"] = duration(seconds)
    for name, text in lines.items():
        screen.note(f"  {name:<16}{text}")
    for problem in verdict.problems:
        screen.note(f"  ✗ {problem}", style="bold red")


def _result(told: Told, verdict: Verdict, crasher: Crasher | None, *, ok: bool) -> Json:
    takeover = crasher.slowest() if crasher else None
    return {
        "ok": ok,
        "run_status": told.run["status"],
        "events": len(told.events),
        "model_calls": verdict.model_calls,
        "repeated_model_calls": verdict.repeated_model_calls,
        "effects_once": verdict.effects_once,
        "takeover_s": None if takeover is None else round(takeover, 3),
        "cost": told.run["cost"],
    }


def add_to(program: typer.Typer) -> None:
    """Hang the command into the program."""
    program.command(rich_help_panel="The server")(demo)
