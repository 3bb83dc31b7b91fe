"""The graph: which task waits for which. The second layer of the compiler; it knows steps only by their places.

Steps become tasks of one level, a sequence an order of dependencies. What a kind of step becomes is in ``steps.py``.
"""

from __future__ import annotations

import graphlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from retinue.kernel import BadInput
from retinue.planning import Plan, Task, check_plan, same_name
from retinue.workflows import document as doc
from retinue.workflows.expressions import Expressions
from retinue.workflows.naming import Names, Path, Use, need_not_have_ended, uses_of
from retinue.workflows.reading import Source


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a step begins.

    Attributes:
        before, needs: the tasks and the steps that it waits for, where it does not say itself.
        runs_on: how those must have ended.
        gate, gate_needs: what it waits for whatever it says.
        guards: the conditions of the branches around it.
    """

    before: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    runs_on: str = "success"
    gate: tuple[str, ...] = ()
    gate_needs: tuple[str, ...] = ()
    guards: tuple[str, ...] = ()


@dataclass(slots=True)
class Draft:
    """A task without what it depends on: the ``before`` tasks, and the ends of the steps that it ``needs``."""

    fields: dict[str, Any]
    path: Path
    before: tuple[str, ...]
    needs: tuple[str, ...] = ()


@dataclass(slots=True)
class Body:
    """The tasks of one level: the workflow's, or those of a ``for_each``.

    Attributes:
        exits: for each step, the tasks that must have ended for it to be through.
        places: where each step stands in the document.
        uses: the expressions of each task.
        around: the level that a ``for_each`` stands in.
        from_inside: for each ``for_each``, the steps that are named in it, and where.
    """

    names: Names
    drafts: dict[str, Draft] = field(default_factory=dict)
    exits: dict[str, tuple[str, ...]] = field(default_factory=dict)
    places: dict[str, Path] = field(default_factory=dict)
    uses: list[tuple[str, Use]] = field(default_factory=list)
    around: Body | None = None
    from_inside: list[tuple[str, Path, str]] = field(default_factory=list)


class Graph(Expressions, ABC):
    """Lays out the steps of each level as tasks, and checks the order that comes of it."""

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self.count = 0

    @abstractmethod
    def step(self, step: Any, path: Path, body: Body, entry: Entry) -> tuple[str, ...]:
        """Lay out one step; return what must have ended for it to be through."""

    def level(self, steps: Sequence[Any], path: Path, body: Body) -> None:
        """Lay out the steps of one level."""
        self.note_ids(steps, path, body)
        self.sequence(steps, path, body, Entry())

    def note_ids(self, steps: Sequence[Any], path: Path, body: Body) -> None:
        """Note where the steps of a level stand, those in branches too: ``needs`` may name any of them."""
        for index, step in enumerate(steps):
            here = (*path, index)
            if step.id in body.places:
                self.wrong((*here, "id"), f"There is another step {step.id!r}.")
            body.places.setdefault(step.id, here)
            for inner_path, inner in branches_of(step, here):
                self.note_ids(inner, inner_path, body)

    def sequence(self, steps: Sequence[Any], path: Path, body: Body, entry: Entry) -> tuple[str, ...]:
        """Lay out steps one after the other; return what must have ended for the last of them to be through."""
        following = entry
        for index, step in enumerate(steps):
            here = (*path, index)
            if step.needs is not None:
                for place, other in enumerate(step.needs):
                    if other not in body.places:
                        self.wrong((*here, "needs", place), f"There is no step {other!r} here.")
            ends = self.step(step, here, body, following)
            body.exits[step.id] = ends
            following = replace(entry, before=ends, needs=(), runs_on="success")
        return following.before

    def finish(self, body: Body) -> tuple[Task, ...]:
        """Turn what was laid out into tasks, now that everything that ``needs`` can name has its place."""
        depends: dict[str, tuple[str, ...]] = {}
        for task_id, draft in body.drafts.items():
            needed = [one for need in draft.needs for one in body.exits.get(need, ())]
            depends[task_id] = tuple(dict.fromkeys((*draft.before, *needed)))
        self.no_circles(depends, body)
        earlier = Earlier(depends)
        for task_id, use in body.uses:
            self.use(body, use, earlier.of(task_id))
        for task_id, path, step in body.from_inside:
            if step in body.places and step not in earlier.of(task_id):
                self.wrong(path, need_not_have_ended(step))
        self.count += len(depends)
        if self.count > doc.MOST_STEPS:
            self.wrong(("steps",), f"There are more than {doc.MOST_STEPS} steps, those of sub-workflows included.")
        return tuple(Task(**draft.fields, depends_on=depends[task_id]) for task_id, draft in body.drafts.items())

    def no_circles(self, depends: dict[str, tuple[str, ...]], body: Body) -> None:
        try:
            graphlib.TopologicalSorter(depends).prepare()
        except graphlib.CycleError as error:
            circle = list(reversed(error.args[1]))
            path = body.drafts[circle[0]].path
            self.wrong((*path, "needs"), f"These steps wait for each other: {' -> '.join(circle)}.")
            for task_id in circle:
                depends[task_id] = ()

    # Checks

    def output(self, body: Body, value: Any, path: Path) -> None:
        try:
            for use in uses_of(value, path):
                self.use(body, use, None)
        except BadInput as fault:
            self.wrong(path, fault.detail)

    def use(self, body: Body, use: Use, earlier: frozenset[str] | None) -> None:
        """Check one expression; ``earlier``: the steps of its level that have ended when it is evaluated, None: all."""
        around: set[str] = set()
        level = body.around
        while level is not None:  # whether those have ended is looked at when their level is laid out
            around |= set(level.places)
            level = level.around
        known = None if earlier is None else earlier | (around - set(body.places))
        for path, message in body.names.mistakes(use, set(body.places) | around, known):
            self.wrong(path, message)

    def check_graph(self, plan: Plan) -> None:
        """Have the plan's own rules look at it too: what they find was not thought of here."""
        agents = {same_name(task.agent) for task in all_tasks(plan.tasks) if task.agent}
        for mistake in check_plan(plan, agents=agents, most=doc.MOST_STEPS):
            self.wrong(("steps",), str(mistake))


def branches_of(step: Any, path: Path) -> Iterator[tuple[Path, Sequence[Any]]]:
    """Yield the lists of steps inside of a step that are of the same level, and where they stand."""
    if isinstance(step, doc.IfStep):
        yield (*path, "then"), step.then
        yield (*path, "else"), step.else_
    elif isinstance(step, doc.SwitchStep):
        yield from (((*path, "cases", name), steps) for name, steps in step.cases.items())
        yield (*path, "default"), step.default
    elif isinstance(step, doc.ParallelStep):
        yield from (((*path, "parallel", name), steps) for name, steps in step.parallel.items())
    handler = getattr(step, "on_error", None)
    if isinstance(handler, doc.ErrorPart):
        yield (*path, "on_error", "steps"), handler.steps


def all_tasks(tasks: Sequence[Task]) -> Iterator[Task]:
    for task in tasks:
        yield task
        if task.each is not None:
            yield from all_tasks(task.each.body)


class Earlier:
    """Which tasks have ended for certain when another one begins."""

    def __init__(self, depends: Mapping[str, tuple[str, ...]]) -> None:
        self._depends = depends
        self._found: dict[str, frozenset[str]] = {}

    def of(self, task_id: str) -> frozenset[str]:
        if task_id in self._found:
            return self._found[task_id]
        found: set[str] = set()
        left = list(self._depends.get(task_id, ()))
        while left:
            one = left.pop()
            if one not in found:
                found.add(one)
                left += self._found.get(one) or self._depends.get(one, ())
        self._found[task_id] = frozenset(found)
        return self._found[task_id]
