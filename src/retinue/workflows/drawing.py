"""A compiled workflow as Mermaid or DOT text, for people and their tools. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from retinue.planning import Plan, Task

_MERMAID = {
    "agent": ("[", "]"),
    "tool": ("[[", "]]"),
    "approval": ("{{", "}}"),
    "wait": ("([", "])"),
    "value": ("(", ")"),
}
_DOT = {"agent": "box", "tool": "component", "approval": "hexagon", "wait": "ellipse", "value": "note"}
_MERMAID_UNSAFE = {ord(one): f"#{ord(one)};" for one in '"#<>[]{}()|`&;\\'} | {10: " ", 13: " "}


def mermaid(plan: Plan) -> str:
    """Return a flow chart in Mermaid."""
    lines = ["flowchart TD", *_mermaid(plan.tasks, "", "  ")]
    return "\n".join(lines) + "\n"


def dot(plan: Plan) -> str:
    """Return a graph in Graphviz's DOT."""
    title = _dot_text(plan.title)
    lines = [f"digraph {title} {{", "  compound=true; rankdir=TB;", *_dot(plan.tasks, "", "  "), "}"]
    return "\n".join(lines) + "\n"


def _mermaid(tasks: Sequence[Task], prefix: str, indent: str) -> Iterator[str]:
    for task in tasks:
        name = f"{prefix}{task.id}"
        label = _label(task).translate(_MERMAID_UNSAFE)
        if task.each is not None:
            yield f'{indent}subgraph n_{name}["{label}"]'
            yield from _mermaid(task.each.body, f"{name}__", indent + "  ")
            yield f"{indent}end"
        else:
            before, after = _MERMAID[task.kind]
            yield f'{indent}n_{name}{before}"{label}"{after}'
    for task in tasks:
        for other in task.depends_on:
            arrow = "-. failed .->" if task.runs_on == "failure" else "-->"
            yield f"{indent}n_{prefix}{other} {arrow} n_{prefix}{task.id}"


def _dot(tasks: Sequence[Task], prefix: str, indent: str) -> Iterator[str]:
    for task in tasks:
        name = f"{prefix}{task.id}"
        if task.each is not None:
            yield f"{indent}subgraph {_dot_text(f'cluster_{name}')} {{"
            yield f"{indent}  label={_dot_text(_label(task))};"
            yield f"{indent}  {_dot_text(name)} [shape=point];"
            yield from _dot(task.each.body, f"{name}/", indent + "  ")
            yield f"{indent}}}"
        else:
            yield f"{indent}{_dot_text(name)} [label={_dot_text(_label(task))}, shape={_DOT[task.kind]}];"
    for task in tasks:
        for other in task.depends_on:
            style = " [style=dashed, label=failed]" if task.runs_on == "failure" else ""
            yield f"{indent}{_dot_text(prefix + other)} -> {_dot_text(prefix + task.id)}{style};"


def _label(task: Task) -> str:
    what = {
        "agent": task.agent or "",
        "tool": task.call.tool if task.call else "",
        "approval": "approval",
        "wait": "wait",
        "each": "for each" if task.each and task.each.inputs is None else "workflow",
        "value": "",
    }[task.kind]
    title = (task.title or task.id)[:80]
    return f"{title}: {what}" if what else title


def _dot_text(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ").replace("\r", " ")
    return f'"{escaped}"'
