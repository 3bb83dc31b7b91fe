"""`retinue demo`: the main job on real files, from the first start to the bill; with --crash, while workers die.

With --team nobody is named: a plan is made, approved, and carried out by a team. With --operation an application that
a user granted something has an agent work in a sandbox.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from retinue.cli.failures import ExitCode, Failure
from retinue.cli.screen import Json, Screen, duration, money

if TYPE_CHECKING:
    from retinue.cli.deciding import Decider
    from retinue.cli.demo_crash import Crasher
    from retinue.cli.demo_files import DemoFile
    from retinue.cli.demo_stage import Stage
    from retinue.cli.demo_story import Told, Verdict
    from retinue.cli.demo_team_crash import TeamCrasher

_QUESTION = "What are these files about? Answer from the files and quote them, then write a summary to summary.md."


def demo(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[FOLDER]", help="Text files to ask about; by default the project's own.")
    ] = None,
    team: Annotated[
        bool, typer.Option("--team", help="Ask a team instead of one agent: it plans, you approve.")
    ] = False,
    operation: Annotated[
        bool, typer.Option("--operation", help="Let an application have a CLI agent work in a sandbox, under a grant.")
    ] = False,
    driver: Annotated[
        Literal["qwen", "command"], typer.Option("--driver", help="With --operation: which agent.")
    ] = "qwen",
    crash: Annotated[bool, typer.Option("--crash", help="Kill -9 the worker at several moments on the way.")] = False,
    question: Annotated[str, typer.Option("--question", "-q", help="What to ask about them.")] = _QUESTION,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Approve everything without asking you.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the demo's data folder behind.")] = False,
    data: Annotated[Path | None, typer.Option("--data", help="Use this data folder, and keep it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")] = False,
) -> None:
    """Show a whole journey on real files: server, user, agent, question, approval, answer, record, cost.

    With --team nobody is named: the orchestrator plans, you approve the plan, and agents carry it out side by side.
    With --operation an application signs its requests with a key of its own, the Qwen CLI works on your files in a
    sandbox, and the result comes back sealed to that key. The CLI is installed from npm the first time; where that
    does not work, a plain program takes its place.
    It runs on a data folder of its own and leaves nothing behind but that CLI. A model's key in the environment is
    used.
    """
    from retinue.cli.demo_files import chosen
    from retinue.cli.demo_stage import stage

    if operation and (team or crash):
        raise Failure("--operation plays alone: leave --team and --crash out.", ExitCode.USAGE)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C: in good order
    began = time.monotonic()
    screen = Screen(as_json, is_terminal=True, notes_on_stdout=True)
    source, files = chosen(folder)
    play, moments = (_play_team, "four") if team else (_play, "three")
    title = "Retinue demo" + (" with a team" if team else " of an operation" if operation else "")
    screen.note(title + (f": the worker is killed at {moments} moments" if crash else ""), style="bold")
    with stage(data, keep=keep) as on:
        if operation:
            show = _play_operation(on, screen, source, files, driver)
        else:
            show = play(on, screen, _decider(screen, yes or as_json), source, files, question, crash)
    result, problems = show(lambda: time.monotonic() - began)
    if keep or data is not None:
        screen.note(f"Look around with: retinue serve --data {on.data}", style="dim")
    if as_json:
        screen.document({"ok": not problems, **result})
    if problems:
        raise Failure("The demo did not end well: " + "; ".join(problems))


Ending = Callable[[Callable[[], float]], tuple[Json, list[str]]]
"""Shows what was recorded, when the processes have ended; takes a clock, returns the result and what was wrong."""


def _decider(screen: Screen, yes: bool) -> Decider:
    from retinue.cli.deciding import decider

    if yes or sys.stdin.isatty():
        return decider(screen, yes=yes)
    return decider(screen, yes=True, why="because there is nobody at a terminal")


def _play(
    on: Stage, screen: Screen, decide: Decider, source: str, files: list[DemoFile], question: str, crash: bool
) -> Ending:
    from retinue.cli.demo_crash import Crasher
    from retinue.cli.demo_story import Story

    crasher = Crasher(on, screen) if crash else None
    url, model = _start(on, screen, crasher)
    story = Story(on, url, screen, decide)
    story.prepare(files, source, model=model)
    told = story.ask(question, crasher.watch if crasher else lambda _: None)
    return lambda clock: _end(screen, told, crasher, clock)


def _play_team(
    on: Stage, screen: Screen, decide: Decider, source: str, files: list[DemoFile], question: str, crash: bool
) -> Ending:
    from retinue.cli.demo_team import TeamStory
    from retinue.cli.demo_team_crash import TeamCrasher
    from retinue.cli.demo_team_record import show_record

    crasher = TeamCrasher(on, screen) if crash else None
    url, model = _start(on, screen, crasher)
    story = TeamStory(on, url, screen, decide)
    story.prepare(files, source, model=model)
    told = story.ask(question, crasher.watch if crasher else lambda _: None)
    return lambda clock: show_record(screen, told, crasher, clock)


def _play_operation(on: Stage, screen: Screen, source: str, files: list[DemoFile], driver: str) -> Ending:
    from retinue.cli.demo_operation import OperationStory, install_qwen, show_operation

    if driver == "qwen" and not install_qwen(on.drivers, screen):
        driver = "command"
    url, model = _start(on, screen, None)
    told = OperationStory(on, url, screen).tell(files, source, driver=driver, model=model)
    return lambda clock: show_operation(screen, told, clock())


def _start(on: Stage, screen: Screen, crasher: Crasher | TeamCrasher | None) -> tuple[str, str | None]:
    """Start the server, and workers to be killed; return its URL and the model the agents shall have, if any."""
    with screen.working("Starting a server of its own, with a database of its own"):
        server = on.start("serve", "--port", "0", *(["--no-worker"] if crasher else []))
    if crasher is not None:
        with screen.working(f"Starting {crasher.workers} workers"):
            crasher.start_workers()
    scripted = str(server.said["models"]).startswith("demo")
    screen.note("  ! no model key: the answers are scripted, labelled [demo]" if scripted else "", style="yellow")
    # A script answers at once; the slow one leaves time to die in the middle of an answer.
    return str(server.said["url"]), "demo:slow" if scripted and crasher else None


def _end(screen: Screen, told: Told, crasher: Crasher | None, clock: Callable[[], float]) -> tuple[Json, list[str]]:
    from retinue.cli.demo_record import show_events, show_time_line
    from retinue.cli.demo_story import judge

    verdict = judge(told)
    show_events(screen, told)
    show_time_line(screen, told)
    _show_summary(screen, told, verdict, crasher, clock())
    missed = [f"nobody took over {moment}" for moment in (crasher.missed if crasher else [])]
    return _result(told, verdict, crasher), [*verdict.problems, *missed]


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


def _result(told: Told, verdict: Verdict, crasher: Crasher | None) -> Json:
    takeover = crasher.slowest() if crasher else None
    return {
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
