"""A plan as a person decides about it: its graph, the estimate, what its agents may do; and as YAML, to edit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from retinue.cli.graph import of_draft
from retinue.cli.graph_view import GraphView
from retinue.cli.screen import Json, Screen, plain

_EDITABLE = ("id", "title", "agent", "instructions", "depends_on", "expected")
_MOST_BYTES = 1 << 20
_HEAD = """\
# This plan waits for you. Save the file and leave the editor, and the plan is
# approved as it stands here. You may drop tasks, put them in another order, and
# change title, agent, instructions, depends_on and expected. You cannot change
# an id, or add a task. Leave the file as it is, or empty, to go back.
#
# Agents in it: {agents}. You can name any other of yours.

"""
_ALONE = "alone"
_LOOKS = "read"


def describe_plan(screen: Screen, approval: Json) -> None:
    """Ask whether a plan may begin, and show it: tasks, estimate, and what each agent may do."""
    plan = approval.get("arguments") or {}
    screen.paragraph(f"? May your team carry out this plan: {plan.get('title')}", style="bold yellow", hang=2)
    _show(screen, plan)


def show_plan(screen: Screen, approval: Json) -> None:
    """Show all of a plan that a person is asked about, with what each agent would be told."""
    plan = approval.get("arguments") or {}
    screen.note(str(plan.get("title")), style="bold")
    _show(screen, plan)
    show_instructions(screen, approval)


def _show(screen: Screen, plan: Json) -> None:
    screen.draw(GraphView(of_draft(plan), headed=False, estimated=True, indent=4))
    screen.paragraph(f"    estimate: {_estimate(plan.get('estimate') or {})}; {_on_failure(plan)}", hang=6)
    for agent, powers in (plan.get("agents") or {}).items():
        tools = powers.get("tools") or {}
        screen.paragraph(f"    {agent} may {_powers(tools)}", style=_style(tools), hang=6)


def _estimate(estimate: Mapping[str, Any]) -> str:
    count, tokens, cost = estimate.get("tasks"), estimate.get("tokens"), estimate.get("cost")
    parts = [f"{count} task" if count == 1 else f"{count} tasks"]
    parts.append("tokens unknown" if tokens is None else f"about {tokens:,} tokens")
    parts.append("cost unknown" if cost is None else f"about ${cost}")
    return ", ".join(parts)


def _on_failure(plan: Json) -> str:
    ways = {
        "continue": "what does not depend on it is done",
        "replan": "the orchestrator plans anew, once",
        "stop": "the plan stops",
    }
    return f"if a task fails, {ways.get(str(plan.get('on_failure')), 'what does not depend on it is done')}"


def _powers(tools: Mapping[str, str]) -> str:
    by_verdict: dict[str, list[str]] = {}
    for name, power in tools.items():
        effect, _, verdict = power.partition(", ")
        # Of an MCP server nothing is known before it is called: `power` is then a sentence.
        label = name if effect == _LOOKS else f"{name} ({effect})"
        by_verdict.setdefault(verdict or "asks", []).append(label)
    said = {"alone": "use {} alone", "asks": "ask to use {}"}
    parts = [said[way].format(", ".join(by_verdict[way])) for way in said if way in by_verdict]
    return "; ".join(parts) or "use no tools"


def _style(tools: Mapping[str, str]) -> str:
    acts = any(power.endswith(f", {_ALONE}") and power.split(",")[0] in ("write", "egress") for power in tools.values())
    return "yellow" if acts else "dim"


def show_instructions(screen: Screen, approval: Json) -> None:
    """Show what each task's agent would be told."""
    for task in (approval.get("arguments") or {}).get("tasks") or []:
        screen.note(f"    {task.get('id')} ({task.get('agent') or task.get('kind')}):", style="bold")
        for line in _told(task):
            screen.paragraph(f"      {line}", hang=6)


def _told(task: Json) -> Iterator[str]:
    yield from str(task.get("instructions") or "").strip().splitlines()
    if task.get("expected"):
        yield f"Expected: {task['expected']}"


def as_text(approval: Json) -> str:
    """Return a plan as YAML that a person can edit: what they may change, and what that is for."""
    from retinue.kernel import write_yaml

    plan = approval.get("arguments") or {}
    shown = (approval.get("edited_arguments") or plan).get("tasks") or []
    tasks = [{name: task[name] for name in _EDITABLE if task.get(name) not in (None, "", [])} for task in shown]
    names = ", ".join(plan.get("agents") or {}) or "none"
    return _HEAD.format(agents=plain(names)) + write_yaml({"tasks": tasks})


def from_text(text: str) -> tuple[Json | None, str]:
    """Return an edited plan as the server takes it, and what is wrong with the text; one of them."""
    from retinue.kernel import BadInput, Fault, read_yaml

    try:
        document = read_yaml(text.encode(), what="a plan", most_bytes=_MOST_BYTES)
    except Fault as fault:
        line = fault.extra.get("line") if isinstance(fault, BadInput) else None
        return None, f"{fault.detail} (line {line})" if line else fault.detail
    tasks = document.content.get("tasks")
    if not isinstance(tasks, list) or not tasks:
        return None, "A plan has a list of tasks, at least one. To refuse it whole, reject it."
    # What was taken out of the file is taken out of the plan: fields that a task has no more are empty.
    emptied = {"title": "", "expected": "", "depends_on": []}
    return {"tasks": [{**emptied, **task} if isinstance(task, dict) else task for task in tasks]}, ""
