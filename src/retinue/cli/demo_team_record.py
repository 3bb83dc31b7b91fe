"""The last pages of the team's demo: what was recorded of the plan and of each run, and what ran beside what."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from retinue.cli.demo_record import Span, about, draw_spans, time_of
from retinue.cli.demo_team import ORCHESTRATOR, Part, TeamTold
from retinue.cli.demo_team_crash import TeamCrasher
from retinue.cli.demo_team_verdict import TeamVerdict, judge_team
from retinue.cli.screen import Json, Screen, duration, money


def show_record(
    screen: Screen, told: TeamTold, crasher: TeamCrasher | None, clock: Callable[[], float]
) -> tuple[Json, list[str]]:
    """Show what was recorded; return the result and what is not as it must be."""
    verdict = judge_team(told)
    missed = [f"nobody took over {moment}" for moment in (crasher.missed if crasher else [])]
    show_events(screen, told)
    show_time_line(screen, told, verdict)
    _show_summary(screen, told, verdict, crasher, clock())
    takeover = crasher.slowest() if crasher else None
    result = {
        "run_status": told.lead.run["status"],
        "plan_status": told.plans[-1]["status"] if told.plans else None,
        "tasks": verdict.tasks,
        "tasks_repeated": verdict.tasks_repeated,
        "events": len(list(told.recorded())),
        "model_calls": verdict.model_calls,
        "repeated_model_calls": verdict.repeated_model_calls,
        "effects_once": verdict.effects_once,
        "takeover_s": None if takeover is None else round(takeover, 3),
        "cost": told.cost,
    }
    return result, [*verdict.problems, *missed]


def _show_summary(
    screen: Screen, told: TeamTold, verdict: TeamVerdict, crasher: TeamCrasher | None, seconds: float
) -> None:
    run = told.lead.run
    tokens = [sum(int(part.run[name]) for part in told.runs) for name in ("input_tokens", "output_tokens")]
    lines = {
        "run": f"{run['status']}{' (demo: scripted answers)' if run.get('demo') else ''}",
        "plan": ", ".join(str(plan["status"]) for plan in told.plans) or "none",
        "tasks": f"{verdict.tasks}, {verdict.tasks_repeated} repeated",
        "events": f"{len(list(told.recorded()))} in {len(told.runs) + len(told.plans)} streams, without a gap",
        "model calls": f"{verdict.model_calls} recorded, {verdict.repeated_model_calls} repeated",
        "effects": "each once" if verdict.effects_once else "NOT each once",
        "tokens": f"{tokens[0]:,} in, {tokens[1]:,} out",
        "cost": money(told.cost),
    }
    if crasher is not None:
        lines["workers killed"] = f"{len(crasher.kills)}: {', '.join(kill.moment for kill in crasher.kills)}"
        lines["takeover"] = f"at most {duration(crasher.slowest())}"
    lines["the whole demo"] = duration(seconds)
    screen.note()
    screen.note("Summary", style="bold")
    for name, text in lines.items():
        screen.paragraph(f"  {name:<16}{text}", hang=18)
    for problem in verdict.problems:
        screen.note(f"  ✗ {problem}", style="bold red")


def show_events(screen: Screen, told: TeamTold) -> None:
    """Print every event of the plan and of the runs, in the one order that the ledger has them in."""
    if screen.as_json:
        return
    recorded = list(told.recorded())
    screen.note()
    screen.note("What the ledger recorded: the plan, and the run of each task", style="bold")
    start = time_of(recorded[0][1])
    width = max(len(name) for name, _ in recorded)
    longest = max(len(str(event["type"])) for _, event in recorded)
    for name, event in recorded:
        after = f"+{time_of(event) - start:.2f} s"
        line = f"  {event['position'] or '':>4}  {after:>9}  {name:<{width}}  {event['type']:<{longest}} {about(event)}"
        screen.note(_fitting(screen, line.rstrip()), style="cyan" if name == "plan" else "dim")


def _fitting(screen: Screen, line: str) -> str:
    room = screen.err.width if screen.err.is_terminal else len(line)
    return line if len(line) <= room else f"{line[: room - 1]}…"


def show_time_line(screen: Screen, told: TeamTold, verdict: TeamVerdict) -> None:
    """Print what took how long: the tasks, and around them the orchestrator and the people who were asked."""
    if screen.as_json:
        return
    recorded = list(told.recorded())
    draw_spans(screen, list(_spans(told)), time_of(recorded[0][1]), time_of(recorded[-1][1]))
    found = verdict.side_by_side
    if found is None:
        screen.note("  no two tasks ran at the same time", style="yellow")
    else:
        screen.note(f"  {found[0]} and {found[1]} ran side by side for {duration(found[2])}", style="bold cyan")


def _spans(told: TeamTold) -> Iterator[Span]:
    yield from _models(told.lead, f"{ORCHESTRATOR}: model")
    for events in told.plan_events.values():
        yield from _waits(events, "plan.approval_requested", "plan.decided", "a person reads the plan")
        began: dict[str, float] = {}
        for event in events:
            task = str(event["data"].get("task_id"))
            if event["type"] == "task.started":
                began.setdefault(task, time_of(event))
            elif event["type"] in ("task.completed", "task.failed") and task in began:
                yield Span(f"{task}", began[task], time_of(event))
    for part in told.parts:
        yield from _waits(part.events, "tool.asked", "tool.decided", f"{part.name}: a person decides")


def _models(part: Part, label: str) -> Iterator[Span]:
    for event in part.events:
        if event["type"] == "model.responded":
            at = time_of(event)
            yield Span(f"{label}, step {event['data']['step']}", at - event["data"].get("milliseconds", 0) / 1000, at)


def _waits(events: list[Json], asked: str, decided: str, label: str) -> Iterator[Span]:
    since: float | None = None
    for event in events:
        if event["type"] == asked:
            since = time_of(event)
        elif event["type"] == decided and since is not None:
            yield Span(label, since, time_of(event))
            since = None
