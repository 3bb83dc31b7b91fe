"""The demo's last pages: what was recorded, and when."""

from __future__ import annotations

from collections.abc import Iterator
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
    start = _time(told.events[0])
    for event in told.events:
        after = f"+{_time(event) - start:.2f} s"
        screen.note(f"  {event['position'] or '':>4}  {after:>9}  {event['type']:<18} {_about(event)}", style="dim")


def _about(event: Json) -> str:
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
        case _:
            return ""


@dataclass(frozen=True, slots=True)
class _Span:
    """Something that took time; start and end are seconds since 1970."""

    label: str
    start: float
    end: float


def show_time_line(screen: Screen, told: Told) -> None:
    """Print what took how long, one bar below the other."""
    if screen.as_json:
        return
    spans = sorted(_spans(told), key=lambda span: span.start)
    start = min(_time(told.events[0]), *(span.start for span in spans))
    whole = max(_time(told.events[-1]) - start, 0.001)
    width = max(len(span.label) for span in spans)
    screen.note()
    screen.note("The time line", style="bold")
    for span in spans:
        left = min(_BAR - 1, int((span.start - start) / whole * _BAR))
        length = max(1, round((span.end - span.start) / whole * _BAR))
        bar = (" " * left + "█" * length)[:_BAR].ljust(_BAR)
        screen.note(f"  {span.label:<{width}}  {bar} {duration(span.end - span.start):>8}", style="cyan")


def _spans(told: Told) -> Iterator[_Span]:
    arguments = {step.get("call_id"): step.get("arguments") for step in told.steps}
    asked: dict[str, float] = {}
    for event in told.events:
        data, at = event["data"], _time(event)
        call = str(data.get("call_id"))
        if event["type"] == "model.responded":
            yield _Span(f"model, step {data['step']}", at - data.get("milliseconds", 0) / 1000, at)
        elif event["type"] == "tool.asked":
            asked[call] = at
        elif event["type"] == "tool.decided" and call in asked:
            yield _Span("waits for approval (no worker needed)", asked[call], at)
        elif event["type"] == "tool.completed":
            path = (arguments.get(call) or {}).get("path", "")
            yield _Span(f"{data['tool']} {compact(path, 30)}".strip(), at - data.get("milliseconds", 0) / 1000, at)


def _time(event: Json) -> float:
    return datetime.fromisoformat(event["recorded_at"]).timestamp()
