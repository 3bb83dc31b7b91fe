"""The demo's last pages: what was recorded, and when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from retinue.cli.demo_story import Told
from retinue.cli.screen import Json, Screen, compact, duration

_BAR = 32


def show_events(screen: Screen, told: Told) -> None:
    """Print every event of the run, as the ledger has it."""
    if screen.as_json:
        return
    screen.note()
    screen.note("What the ledger recorded", style="bold")
    start = time_of(told.events[0])
    for event in told.events:
        after = f"+{time_of(event) - start:.2f} s"
        screen.note(f"  {event['position'] or '':>4}  {after:>9}  {event['type']:<18} {about(event)}", style="dim")


def about(event: Json) -> str:
    """Say in a few words what is in an event."""
    data = event["data"]
    match event["type"]:
        case "run.activated":
            return f"by worker …{str(data['worker_id'])[-6:]}, activation {data['epoch']}"
        case "model.responded":
            return f"step {data['step']}, {data['answer']['model']}"
        case "tool.asked" | "tool.completed" | "tool.unknown":
            return str(data["tool"])
        case "tool.decided":
            return str(data["decision"])
        case "tool.started":
            return f"{data['tool']} under key {compact(data['key'], 24)}"
        case "run.waiting":
            return ", ".join(str(wait["kind"]) for wait in data["on"])
        case "tool.delegated":
            return f"{data['tool']} to {data['child']['kind']} …{str(data['child']['id'])[-6:]}"
        case "plan.drafted":
            return (
                f"{len(data['plan']['tasks'])} tasks; asks because {'; '.join(data.get('ask') or []) or 'of nothing'}"
            )
        case "plan.decided":
            return str(data["decision"])
        case "task.started" | "task.completed" | "task.failed" | "task.skipped":
            return str(data["task_id"])
        case _:
            return ""


@dataclass(frozen=True, slots=True)
class Span:
    """Something that took time; start and end are seconds since 1970."""

    label: str
    start: float
    end: float


def show_time_line(screen: Screen, told: Told) -> None:
    """Print what took how long, one bar below the other."""
    if not screen.as_json:
        draw_spans(screen, list(spans_of(told)), time_of(told.events[0]), time_of(told.events[-1]))


def draw_spans(screen: Screen, spans: Sequence[Span], begin: float, end: float) -> None:
    """Print bars between two times, in seconds since 1970, in the order of their starts."""
    start = min(begin, *(span.start for span in spans))
    whole = max(end - start, 0.001)
    width = max(len(span.label) for span in spans)
    screen.note()
    screen.note("The time line", style="bold")
    for span in sorted(spans, key=lambda span: span.start):
        left = min(_BAR - 1, int((span.start - start) / whole * _BAR))
        length = max(1, round((span.end - span.start) / whole * _BAR))
        bar = (" " * left + "█" * length)[:_BAR].ljust(_BAR)
        screen.note(f"  {span.label:<{width}}  {bar} {duration(span.end - span.start):>8}", style="cyan")


def spans_of(told: Told) -> Iterator[Span]:
    """Yield what took time in a run: model calls, tool calls, and waiting for a person."""
    arguments = {step.get("call_id"): step.get("arguments") for step in told.steps}
    asked: dict[str, float] = {}
    for event in told.events:
        data, at = event["data"], time_of(event)
        call = str(data.get("call_id"))
        if event["type"] == "model.responded":
            yield Span(f"model, step {data['step']}", at - data.get("milliseconds", 0) / 1000, at)
        elif event["type"] == "tool.asked":
            asked[call] = at
        elif event["type"] == "tool.decided" and call in asked:
            yield Span("waits for approval (no worker needed)", asked[call], at)
        elif event["type"] == "tool.completed":
            path = (arguments.get(call) or {}).get("path", "")
            yield Span(f"{data['tool']} {compact(path, 30)}".strip(), at - data.get("milliseconds", 0) / 1000, at)


def time_of(event: Json) -> float:
    """Return when an event was recorded, in seconds since 1970."""
    return datetime.fromisoformat(event["recorded_at"]).timestamp()
