"""What is wrong with a graph, said so that a model or a person can put it right. Pure."""

from __future__ import annotations

import graphlib
import re
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any

import msgspec

from retinue.kernel import BadInput
from retinue.planning.expressions import compile_expression, expressions_in
from retinue.planning.graph import MOST_TASKS, Each, Plan, Task

MOST_MISTAKES = 100
DEEPEST = 8
"""Bodies that may lie inside each other."""

LONGEST_TEXT = 100_000
LONGEST_WAIT = 366 * 86_400.0
MOST_TRIES = 20

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PARTS = {"tool": "call", "approval": "question", "wait": "wait", "each": "each"}


class Mistake(msgspec.Struct, frozen=True):
    """One thing that is wrong: where, as a path such as ``tasks[2].depends_on[0]``, and what."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


def check_plan(plan: Plan, *, agents: Container[str], most: int = MOST_TASKS) -> list[Mistake]:
    """Return everything that is wrong with a plan, in the order of its tasks; nothing: it can be carried out.

    Args:
        agents: the names (or ids) of agents that there are, as tasks may write them; see :func:`same_name`.
        most: how many tasks it may have, those of bodies included.
    """
    found = list(_checked(plan, agents, most))
    return found[:MOST_MISTAKES]


def same_name(name: str) -> str:
    """Return what all ways to write an agent's name have in common."""
    return " ".join(name.casefold().split())


def refusal(mistakes: Sequence[Mistake], *, inside: str = "") -> BadInput:
    """Return the refusal of a graph that names every mistake; ``inside`` is put before each path."""
    named = [{"field": f"{inside}{one.path}", "message": one.message} for one in mistakes]
    fault = BadInput("; ".join(f"{one['field']}: {one['message']}" for one in named), field=named[0]["field"])
    fault.extra["errors"] = named
    return fault


def _checked(plan: Plan, agents: Container[str], most: int) -> Iterator[Mistake]:
    count = _count(plan.tasks)
    if not plan.tasks:
        yield Mistake("tasks", "A plan has at least one task.")
    if count > most:
        yield Mistake("tasks", f"There are {count} tasks; a plan has at most {most}.")
        return
    yield from _body(plan.tasks, "tasks", agents, frozenset(plan.given), 0)
    if plan.output is not None:
        yield from _texts(plan.output, "output")


def _count(tasks: Sequence[Task]) -> int:
    return sum(1 + (_count(task.each.body) if task.each else 0) for task in tasks)


def _body(
    tasks: Sequence[Task], path: str, agents: Container[str], given: frozenset[str], depth: int
) -> Iterator[Mistake]:
    ids = [task.id for task in tasks]
    known = set(ids) | given
    seen: set[str] = set(given)
    for index, task in enumerate(tasks):
        here = f"{path}[{index}]"
        if not _ID.fullmatch(task.id):
            yield Mistake(f"{here}.id", "An id is 1 to 64 letters, digits, _ and -.")
        elif task.id in seen:
            yield Mistake(f"{here}.id", f"There is another task {task.id!r}.")
        seen.add(task.id)
        for place, other in enumerate(task.depends_on):
            if other not in known:
                yield Mistake(f"{here}.depends_on[{place}]", f"There is no task {other[:64]!r} here.")
        yield from _task(task, here, agents, depth)
    yield from _cycle(tasks, path)


def _cycle(tasks: Sequence[Task], path: str) -> Iterator[Mistake]:
    order = graphlib.TopologicalSorter({task.id: set(task.depends_on) for task in tasks})
    try:
        order.prepare()
    except graphlib.CycleError as error:
        round_trip = " -> ".join(reversed(error.args[1]))
        yield Mistake(path, f"These tasks wait for each other: {round_trip}.")


def _task(task: Task, here: str, agents: Container[str], depth: int) -> Iterator[Mistake]:
    if task.kind in ("agent", "tool"):
        if not task.agent:
            yield Mistake(f"{here}.agent", f"A task of the kind {task.kind} names its agent.")
        elif same_name(task.agent) not in agents:
            yield Mistake(f"{here}.agent", f"There is no agent {task.agent[:100]!r}.")
    if task.kind == "agent" and not task.instructions.strip():
        yield Mistake(f"{here}.instructions", "A task of the kind agent says what is to be done.")
    if len(task.instructions) > LONGEST_TEXT:
        yield Mistake(f"{here}.instructions", f"At most {LONGEST_TEXT} characters.")
    for kind, part in _PARTS.items():
        is_there = getattr(task, part) is not None
        if task.kind == kind and not is_there:
            yield Mistake(f"{here}.{part}", f"A task of the kind {kind} has a {part}.")
        elif is_there and task.kind != kind:
            yield Mistake(f"{here}.{part}", f"Only a task of the kind {kind} has a {part}; this is a {task.kind}.")
    yield from _bounds(task, here)
    if task.when is not None:
        yield from _expression(task.when, f"{here}.when")
    if task.template:
        yield from _texts(task.instructions, f"{here}.instructions")
        yield from _texts(task.value, f"{here}.value")
        yield from _texts(task.call.arguments if task.call else None, f"{here}.call.arguments")
        yield from _texts(task.question.text if task.question else None, f"{here}.question.text")
    if task.wait is not None:
        yield from _wait(task, here)
    if task.each is not None:
        yield from _each(task.each, f"{here}.each", agents, depth)


def _bounds(task: Task, here: str) -> Iterator[Mistake]:
    if not 1 <= task.retry.attempts <= MOST_TRIES:
        yield Mistake(f"{here}.retry.attempts", f"1 to {MOST_TRIES} tries.")
    if not 0 <= task.retry.seconds <= LONGEST_WAIT:
        yield Mistake(f"{here}.retry.seconds", "A pause is 0 seconds to a year.")
    if task.timeout is not None and not 0 < task.timeout <= LONGEST_WAIT:
        yield Mistake(f"{here}.timeout", "More than 0 seconds, and at most a year.")
    if task.confidence is not None and not 0 <= task.confidence <= 1:
        yield Mistake(f"{here}.confidence", "0 to 1.")
    if task.question is not None and not 0 < task.question.seconds <= LONGEST_WAIT:
        yield Mistake(f"{here}.question.seconds", "More than 0 seconds, and at most a year.")


def _wait(task: Task, here: str) -> Iterator[Mistake]:
    wait = task.wait
    assert wait is not None
    if sum(one is not None for one in (wait.seconds, wait.until, wait.event)) != 1:
        yield Mistake(f"{here}.wait", "Exactly one of seconds, until and event.")
    if wait.seconds is not None and not 0 <= wait.seconds <= LONGEST_WAIT:
        yield Mistake(f"{here}.wait.seconds", "0 seconds to a year.")
    if wait.until is not None:
        yield from _expression(wait.until, f"{here}.wait.until")
    if wait.match is not None:
        if wait.event is None:
            yield Mistake(f"{here}.wait.match", "Only with an event.")
        yield from _expression(wait.match, f"{here}.wait.match")


def _each(each: Each, here: str, agents: Container[str], depth: int) -> Iterator[Mistake]:
    yield from _expression(each.items, f"{here}.items")
    if not each.body:
        yield Mistake(f"{here}.body", "A body has at least one task.")
    if not 1 <= each.most <= 10_000:
        yield Mistake(f"{here}.most", "1 to 10000 items.")
    if not 1 <= each.at_once <= 1_000:
        yield Mistake(f"{here}.at_once", "1 to 1000 items at once.")
    for name in ("inputs", "output"):
        yield from _texts(getattr(each, name), f"{here}.{name}")
    if depth + 1 > DEEPEST:
        yield Mistake(f"{here}.body", f"Bodies lie inside each other more than {DEEPEST} times.")
        return
    yield from _body(each.body, f"{here}.body", agents, frozenset(), depth + 1)


def _expression(text: str, path: str) -> Iterator[Mistake]:
    yield from _tried(lambda: compile_expression(text), path)


def _texts(value: Any, path: str) -> Iterator[Mistake]:
    """Check every ``${ CEL }`` in the texts of a JSON value."""
    try:
        found = list(expressions_in(value, path))
    except BadInput as fault:
        yield Mistake(fault.field or path, fault.detail)
        return
    for where, text in found:
        yield from _expression(text, where)


def _tried(work: Callable[[], Any], path: str) -> Iterator[Mistake]:
    try:
        work()
    except BadInput as fault:
        yield Mistake(path, fault.detail)
