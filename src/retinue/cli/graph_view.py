"""Draws a plan in the terminal: a tree of tasks, a line for each, with what is said of it below."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from retinue.cli.graph import TASK_ENDED, Graph, TaskNode
from retinue.cli.screen import duration, moment, plain, seconds_between

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.text import Text

_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_SYMBOLS = {
    "drafted": ("·", "dim"),
    "waiting": ("·", "dim"),
    "running": ("◐", "cyan"),
    "retrying": ("↻", "yellow"),
    "completed": ("✓", "green"),
    "failed": ("✗", "red"),
    "cancelled": ("✗", "red"),
    "dead_lettered": ("✗", "red"),
    "skipped": ("-", "dim"),
}
_ASKS = ("?", "bold yellow")
_WHY_SKIPPED = {
    "condition": "not needed",
    "dependency": "left out: what it depends on failed",
    "stopped": "left out: the plan ended before",
}
_LONGEST_NAME = 28
_WIDEST = 120
_NARROW = 100
"""Below this width tokens are not shown."""


@dataclass(slots=True)
class _Row:
    """A line of the drawing: a task, or, without one, words about the task above it."""

    guide: str
    node: TaskNode | None = None
    name: str = ""
    words: str = ""
    style: str = ""


@dataclass(slots=True)
class GraphView:
    """Something rich can print: a plan as it is at that moment.

    Attributes:
        moving: it is drawn again and again: what runs turns, and every word stays on its line.
        most_lines: leave out what is done, then what waits, when there are more; None: show all.
        headed: whether a line about the whole plan comes first.
        estimated: show what is estimated instead of what was used.
        indent: columns to leave free on the left.
    """

    graph: Graph
    moving: bool = False
    most_lines: int | None = None
    headed: bool = True
    estimated: bool = False
    indent: int = 0

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        width = min(options.max_width, _WIDEST) - self.indent
        for line in self._lines(width):
            line.rstrip()
            yield Text(" " * self.indent, no_wrap=True, overflow="crop").append_text(line)

    def _lines(self, width: int) -> Iterator[Text]:
        rows = list(self._rows(None, ""))
        if self.headed:
            yield self._head(width)
        if self.most_lines is not None:
            rows = list(_bounded(rows, self.most_lines - self.headed))
        columns = _Columns(rows, self.estimated, width)
        for row in rows:
            if row.node is not None:
                yield columns.line(row, self._symbol(row.node))
            else:
                yield from _words(row, width, wrap=not self.moving)

    def _head(self, width: int) -> Text:
        graph = self.graph
        symbol, style = _SYMBOLS.get(graph.status, ("·", ""))
        top = [node for node in graph.nodes.values() if node.parent is None]
        count, done = len(top), sum(node.succeeded for node in top)
        facts = ["waits for approval" if graph.status == "waiting" else graph.status, f"{done} of {count} tasks"]
        if graph.started_at:
            facts.append(duration(seconds_between(graph.started_at, graph.ended_at)))
        if graph.cost:
            facts.append(f"${graph.cost}")
        return _two_sides(f"{symbol} {_in_a_line(graph.title)}", " · ".join(facts), width, f"bold {style}", "dim")

    def _rows(self, parent: str | None, guide: str) -> Iterator[_Row]:
        nodes = list(self.graph.in_order(parent))
        for node in nodes:
            last = node is nodes[-1]
            yield _Row(guide + ("└─ " if last else "├─ "), node, _in_a_line(self.graph.calls(node)).removeprefix("."))
            below = guide + ("   " if last else "│  ")
            for words, style in said_of(node, moving=self.moving):
                yield _Row(below, words=words, style=style)
            yield from self._rows(node.id, below)

    def _symbol(self, node: TaskNode) -> tuple[str, str]:
        if node.asks:
            return _ASKS
        symbol, style = _SYMBOLS.get(node.status, ("·", ""))
        if self.moving and node.status == "running":
            symbol = turning()
        return symbol, style


def turning() -> str:
    """Return a sign that turns with time."""
    return _SPINNER[int(time.monotonic() * 10) % len(_SPINNER)]


def said_of(node: TaskNode, *, moving: bool = False) -> Iterator[tuple[str, str]]:
    """Yield what there is to say of a task besides its line, each with a style; ``moving``: also that it works."""
    if node.asks:
        yield f"waits for your decision: {node.asks}", "yellow"
    elif node.status == "running" and node.doing:
        yield node.doing, "dim"
    elif node.status == "running" and (node.until or node.event):
        yield f"waits until {moment(node.until)}" if node.until else f"waits for the event {node.event}", "dim"
    elif node.status == "running" and node.run_id and moving:
        yield "thinks", "dim"  # its line keeps its place
    elif node.status == "retrying":
        yield f"try {node.attempt} failed: {node.detail}", "yellow"
        yield f"tried again at {moment(node.again_at)}", "dim"
    elif node.status == "failed":
        yield f"failed: {node.detail}", "red"
    elif node.status == "skipped":
        yield _WHY_SKIPPED.get(node.reason, "left out"), "dim"


class _Columns:
    """How wide each column is, and a task's line in them."""

    def __init__(self, rows: Sequence[_Row], estimated: bool, width: int) -> None:
        tasks = [(row, row.node) for row in rows if row.node is not None]
        self._width = width
        self._estimated = estimated
        self._name = min(_LONGEST_NAME, max((_cells(row.guide) + 2 + _cells(row.name) for row, _ in tasks), default=0))
        self._who = min(_LONGEST_NAME, max((_cells(_in_a_line(node.who)) for _, node in tasks), default=0))
        used = [self._used(node) for _, node in tasks]
        self._right = [max((_cells(one[place]) for one in used), default=0) for place in range(3)]

    def line(self, row: _Row, symbol: tuple[str, str]) -> Text:
        from rich.text import Text

        node = row.node
        assert node is not None
        right = self._aligned(self._used(node))
        room = self._width - self._name - self._who - _cells(right) - 6
        title, after = self._title(node, max(room, 0))
        dim = "dim" if node.status in ("waiting", "skipped") else ""
        name = _cut(row.name, self._name - _cells(row.guide) - 2)
        line = Text.assemble(
            (row.guide, "dim"),
            (symbol[0], symbol[1]),
            (f" {_filled(name, self._name - _cells(row.guide) - 2)}  ", "bold" if not dim else ""),
            (_filled(_cut(_in_a_line(node.who), self._who), self._who), "dim"),
            (f"  {title}", dim),
            (after, "dim"),
            no_wrap=True,
            overflow="crop",
        )
        risky = self._estimated and node.risk in ("medium", "high")
        line.append(" " * max(0, self._width - line.cell_len - _cells(right)) + right, "yellow" if risky else "dim")
        return line

    def _title(self, node: TaskNode, room: int) -> tuple[str, str]:
        """Share the room between a task's title and what it comes after."""
        title, after = _in_a_line(node.title), ""
        if node.depends_on:
            names = ", ".join(one.rpartition(".")[2] for one in node.depends_on)
            after = _cut(f"  ← {_in_a_line(names)}", room if not title else max(room // 2, room - _cells(title)))
        return _cut(title, room - _cells(after)), after

    def _used(self, node: TaskNode) -> tuple[str, str, str]:
        """Return how long it took, its tokens and its cost, or what is estimated."""
        if self._estimated:
            tokens = "" if node.estimate is None else f"~{node.estimate:,} tokens"
            return f"{node.risk} risk" if node.risk else "", tokens, "" if node.expense is None else f"~${node.expense}"
        took = seconds_between(node.started_at, node.ended_at) if node.started_at else None
        if node.status in ("waiting", "skipped") and not node.tokens:
            guess = "" if node.estimate is None or node.status == "skipped" else f"~{node.estimate:,} tokens"
            return "", guess, ""
        return (
            duration(took) if took is not None else "",
            f"{node.tokens:,} tokens" if node.tokens else "",
            _dollars(node),
        )

    def _aligned(self, used: Sequence[str]) -> str:
        shown = [place for place in range(3) if self._right[place] and (place != 1 or self._width >= _NARROW)]
        return "  ".join(used[place].rjust(self._right[place]) for place in shown)


def _dollars(node: TaskNode) -> str:
    """Return what a task cost; nothing where there is nothing to say yet, or nothing that costs."""
    is_known = node.status in TASK_ENDED and node.run_id is not None
    return f"${node.cost or 0}" if is_known or node.cost not in (None, "", "0") else ""


def _bounded(rows: Sequence[_Row], most: int) -> Iterator[_Row]:
    """Leave tasks out when there are too many lines: those that are done, from the top; then those that wait."""
    blocks: list[list[_Row]] = []  # a task's line and the words below it go together
    for row in rows:
        if row.node is not None:
            blocks.append([])
        blocks[-1].append(row)
    spare, hidden = len(rows) - most, set[int]()
    for place in sorted(range(len(blocks)), key=lambda place: _needed(blocks[place], place)):
        if spare <= 0:
            break
        spare -= len(blocks[place]) - (not hidden)  # the line that says so needs a place, too
        hidden.add(place)
    for place, block in enumerate(blocks):
        if place not in hidden:
            yield from block
    if hidden:
        done = sum(node.status in TASK_ENDED for place in hidden if (node := blocks[place][0].node) is not None)
        yield _Row("", words=f"… {done} more are done, {len(hidden) - done} more are to come", style="dim")


def _needed(block: Sequence[_Row], place: int) -> tuple[int, int]:
    """Rank a task by how much a person wants to see it, the least first."""
    node = block[0].node
    assert node is not None
    if node.status in TASK_ENDED and node.status != "failed":
        return 0, place
    return (1 if node.status == "waiting" and not node.asks else 2), -place


def _words(row: _Row, width: int, *, wrap: bool) -> Iterator[Text]:
    from rich.text import Text

    room = max(20, width - _cells(row.guide) - 2)
    text = _in_a_line(row.words)
    for line in _wrapped(text, room) if wrap else [_cut(text, room)]:
        yield Text.assemble((row.guide, "dim"), ("  " + line, row.style), no_wrap=True, overflow="crop")


def _in_a_line(text: str) -> str:
    """Write what somebody else has named so that it breaks no line of the drawing."""
    return " ".join(plain(text).split())


def _wrapped(text: str, room: int) -> list[str]:
    import textwrap

    return textwrap.wrap(text, room) or [""]


def _two_sides(left: str, right: str, width: int, style: str, right_style: str) -> Text:
    from rich.text import Text

    left = _cut(left, max(10, width - _cells(right) - 2))
    gap = " " * max(2, width - _cells(left) - _cells(right))
    return Text.assemble((left, style), gap, (right, right_style), no_wrap=True, overflow="crop")


def _cells(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)


def _cut(text: str, room: int) -> str:
    from rich.cells import set_cell_size

    if _cells(text) <= room:
        return text
    return set_cell_size(text, max(room - 1, 0)).rstrip() + "…" if room > 0 else ""


def _filled(text: str, room: int) -> str:
    return text + " " * max(0, room - _cells(text))
