"""What the record of a team's story proves: nothing lost, nothing done twice, no finished task done again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from retinue.cli.demo_story import TARGET
from retinue.cli.demo_team import Part, TeamTold
from retinue.cli.screen import Json, seconds_between


@dataclass(frozen=True, slots=True)
class TeamVerdict:
    """What the record proves.

    Attributes:
        problems: what is not as it must be; empty when all is well.
        repeated_model_calls: answers recorded more than once for the same step of a run.
        effects_once: whether every effect has exactly one start and one result, and the file is there as approved.
        tasks: how many tasks the plans had.
        tasks_repeated: starts of tasks that were done already, and results recorded a second time.
        side_by_side: two tasks that ran at the same time, and for how many seconds; None: none did.
    """

    problems: list[str]
    model_calls: int
    repeated_model_calls: int
    effects_once: bool
    tasks: int
    tasks_repeated: int
    side_by_side: tuple[str, str, float] | None


def judge_team(told: TeamTold) -> TeamVerdict:
    """Hold the record against what was promised."""
    calls = [_model_calls(part) for part in told.runs]
    answered = sum(sum(steps.values()) for steps in calls)
    repeated = answered - sum(len(steps) for steps in calls)
    tasks_repeated = sum(_repeated(events) for events in told.plan_events.values())
    effects = list(_effects(told))
    problems = [*_endings(told), *_gaps(told), *effects]
    if repeated:
        problems.append(f"{repeated} answers of the model are recorded twice")
    if tasks_repeated:
        problems.append(f"{tasks_repeated} times a task that was done was begun or recorded again")
    if [message["role"] for message in told.messages] != ["user", "assistant"]:
        problems.append("the session does not hold exactly the request and one answer")
    return TeamVerdict(
        problems,
        answered,
        repeated,
        not effects,
        sum(len(plan["nodes"]) for plan in told.plans),
        tasks_repeated,
        overlap(told),
    )


def _model_calls(part: Part) -> Counter[int]:
    return Counter(event["data"]["step"] for event in part.events if event["type"] == "model.responded")


def _repeated(events: list[Json]) -> int:
    """Count what happened to tasks of a plan after they were done."""
    done: set[str] = set()
    count = 0
    for event in events:
        task = str(event["data"].get("task_id"))
        if event["type"] in ("task.started", "task.completed") and task in done:
            count += 1
        if event["type"] == "task.completed":
            done.add(task)
    return count


def _endings(told: TeamTold) -> Iterator[str]:
    for part in told.runs:
        if part.run["status"] != "completed":
            error = part.run.get("error") or {}
            yield f"the run of {part.name} is {part.run['status']}: {error.get('detail', 'no cause is given')}"
    if not told.plans:
        yield "nothing was planned"
    for plan in told.plans:
        if plan["status"] != "completed":
            yield f"the plan is {plan['status']}: {(plan.get('error') or {}).get('detail', 'no cause is given')}"
        yield from (f"the task {node['id']} is {node['status']}" for node in plan["nodes"] if not _is_done(node))


def _is_done(node: Json) -> bool:
    return str(node["status"]) == "completed" or node.get("skipped") == "condition"


def _gaps(told: TeamTold) -> Iterator[str]:
    streams = [(f"the run of {part.name}", part.events) for part in told.runs]
    streams += [("the plan", events) for events in told.plan_events.values()]
    for name, events in streams:
        if [event["version"] for event in events] != list(range(1, len(events) + 1)):
            yield f"the events of {name} have a gap"


def _effects(told: TeamTold) -> Iterator[str]:
    """Say what is wrong with effects: a call has one start and one result; the file holds what was approved."""
    writes: list[Json] = []
    for part in told.runs:
        started = [event["data"] for event in part.events if event["type"] == "tool.started"]
        ended = Counter(str(event["data"]["call_id"]) for event in part.events if event["type"] == "tool.completed")
        yield from (f"the effect {call} of {part.name} is recorded {n} times" for call, n in ended.items() if n > 1)
        starts = {str(data["call_id"]) for data in started}
        yield from (f"the effect {call} of {part.name} has no result" for call in sorted(starts - set(ended)))
        writes += [data for data in started if data["tool"] == "files_write" and data["arguments"]["path"] == TARGET]
    if not writes:
        yield f"{TARGET} was not written"
    elif told.written != writes[-1]["arguments"].get("content"):
        yield f"{TARGET} does not hold what was approved"
    if told.files.count(TARGET) != 1:
        yield f"{TARGET} is there {told.files.count(TARGET)} times"


def overlap(told: TeamTold) -> tuple[str, str, float] | None:
    """Return the two tasks that ran at the same time for longest, and for how many seconds; None: none did."""
    nodes = [node for plan in told.plans for node in plan["nodes"] if node.get("run_id") and node.get("ended_at")]
    found: list[tuple[float, str, str]] = []
    for place, one in enumerate(nodes):
        for other in nodes[place + 1 :]:
            begin, end = max(one["started_at"], other["started_at"]), min(one["ended_at"], other["ended_at"])
            seconds = seconds_between(begin, end) or 0.0
            if seconds > 0:
                found.append((seconds, str(one["id"]), str(other["id"])))
    if not found:
        return None
    seconds, first, second = max(found)
    return first, second, seconds
