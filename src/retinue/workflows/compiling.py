"""From a workflow to a plan. Pure: sub-workflows come from a function.

Steps become tasks of one level, a sequence an order of dependencies. ``if`` and ``switch`` become a value and a
condition on each task of their branches: a task that is skipped by its condition does not stop those that wait for it,
so what follows the branches simply waits for the end of both. ``on_error`` steps wait for the failure of their step,
and what follows waits for them. A sub-workflow and ``for_each`` have a body of their own.
"""

from __future__ import annotations

import graphlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from retinue.kernel import BadInput
from retinue.planning import Call, Each, Origin, Plan, Question, Retry, Task, Waiting, check_plan, same_name
from retinue.tools import ArgumentCheck
from retinue.workflows import document as doc
from retinue.workflows.naming import Names, Use, may_set_off, need_not_have_ended, uses_of
from retinue.workflows.reading import MOST_MISTAKES, Source, WorkflowMistake, refusal
from retinue.workflows.times import CronLine

MOST_INSIDE = 5
"""Workflows that may call each other in a row."""

OUTPUT = "_output"
_INSIDE = "_in_"
Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Known:
    """A workflow that another one calls."""

    workflow: doc.Workflow
    version: int = 0


Resolve = Callable[[str], Known | None]


def no_others(_name: str) -> Known | None:
    """Resolve nothing: for a workflow that stands alone."""
    return None


@dataclass(frozen=True, slots=True)
class Compiled:
    """A workflow as a plan, without the inputs of a run.

    Attributes:
        used: the versions of the sub-workflows that are compiled in, by name.
        paths: where each task of the top level stands in the document.
    """

    plan: Plan
    used: Mapping[str, int]
    paths: Mapping[str, Path]


def compile_workflow(source: Source, resolve: Resolve = no_others) -> Compiled:
    """Compile a workflow that was read.

    Raises:
        BadInput: there are mistakes; ``errors`` names each with its path and line. Nothing else is raised.
    """
    if source.workflow is None:
        raise refusal(source.mistakes)
    compiler = _Compiler(source, resolve)
    compiled = compiler.compile(source.workflow)
    if compiler.mistakes:
        raise refusal(compiler.mistakes)
    return compiled


def mistakes_in(source: Source, resolve: Resolve = no_others) -> list[WorkflowMistake]:
    """Return everything that is wrong with a workflow; nothing: it compiles."""
    if source.workflow is None:
        return list(source.mistakes)
    compiler = _Compiler(source, resolve)
    compiler.compile(source.workflow)
    return compiler.mistakes[:MOST_MISTAKES]


def input_check(workflow: doc.Workflow) -> ArgumentCheck:
    """Return the check of a run's inputs.

    Raises:
        ValueError: ``inputs`` is not a JSON Schema of an object, or refers to another document.
    """
    return ArgumentCheck({"type": "object", **workflow.inputs})


def with_defaults(workflow: doc.Workflow, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's inputs, with the schema's defaults for what is missing."""
    properties = workflow.inputs.get("properties")
    named = properties.items() if isinstance(properties, Mapping) else ()
    defaults = {name: one["default"] for name, one in named if isinstance(one, Mapping) and "default" in one}
    return {**defaults, **inputs}


@dataclass(frozen=True, slots=True)
class _Entry:
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
class _Draft:
    fields: dict[str, Any]
    path: Path
    before: tuple[str, ...]
    needs: tuple[str, ...] = ()


@dataclass(slots=True)
class _Body:
    """The tasks of one level: the workflow's, or those of a ``for_each``."""

    names: Names
    drafts: dict[str, _Draft] = field(default_factory=dict)
    exits: dict[str, tuple[str, ...]] = field(default_factory=dict)
    places: dict[str, Path] = field(default_factory=dict)
    uses: list[tuple[str, Use]] = field(default_factory=list)
    around: _Body | None = None
    from_inside: list[tuple[str, Path, str]] = field(default_factory=list)


class _Compiler:
    def __init__(self, source: Source, resolve: Resolve) -> None:
        self.source = source
        self.resolve = resolve
        self.mistakes: list[WorkflowMistake] = []
        self.used: dict[str, int] = {}
        self.paths: dict[str, Path] = {}
        self.defaults = doc.DefaultsPart()
        self.stack: list[str] = []
        self.inside: Path | None = None  # of the step that calls the sub-workflow which is being compiled
        self.count = 0

    def wrong(self, path: Path, message: str) -> None:
        """Note a mistake. Those of a sub-workflow are told at the step that calls it."""
        if len(self.mistakes) < MOST_MISTAKES:
            if self.inside is not None:
                message = f"in the workflow {self.stack[-1]!r}: {message}"
            self.mistakes.append(self.source.mistake(path if self.inside is None else self.inside, message))

    def compile(self, workflow: doc.Workflow) -> Compiled:
        tasks, output = self.workflow(workflow)
        plan = Plan(
            title=workflow.name,
            tasks=tasks,
            origin=Origin(kind="workflow", name=workflow.name),
            on_failure=workflow.defaults.on_failure,
            output=output,
        )
        self.triggers(workflow)
        if not self.mistakes:
            self.check_graph(plan)
        return Compiled(plan, self.used, self.paths)

    def workflow(self, workflow: doc.Workflow) -> tuple[tuple[Task, ...], Any]:
        """Return the tasks and the output of a workflow, of this one or of one that it calls."""
        before, self.defaults = self.defaults, workflow.defaults
        self.stack.append(workflow.name)
        self.schemas(workflow)
        body = _Body(Names(inputs=_declared(workflow.inputs), trigger=len(self.stack) == 1))
        self.level(workflow.steps, ("steps",), body)
        output = workflow.output
        if workflow.output_schema is not None:
            ends = tuple(one for step in workflow.steps for one in body.exits.get(step.id, ()))
            fields = {"kind": "value", "value": output, "output_schema": workflow.output_schema, "template": True}
            body.drafts[OUTPUT] = _Draft({"id": OUTPUT, "title": "output", **fields}, ("output",), ends)
            output = f"${{ steps.{OUTPUT}.output }}"
        tasks = self.finish(body)
        if len(self.stack) == 1:
            self.paths = {task_id: draft.path for task_id, draft in body.drafts.items()}
        self.output(body, workflow.output, ("output",))
        self.stack.pop()
        self.defaults = before
        return tasks, output

    def schemas(self, workflow: doc.Workflow) -> None:
        for name, schema in (("inputs", {"type": "object", **workflow.inputs}), ("output_schema", None)):
            try:
                if schema is not None:
                    ArgumentCheck(schema)
                elif workflow.output_schema is not None:
                    ArgumentCheck({"type": "object", "properties": {"output": workflow.output_schema}})
            except (ValueError, RecursionError) as error:
                self.wrong((name,), str(error))

    # Levels

    def level(self, steps: Sequence[Any], path: Path, body: _Body) -> None:
        self.note_ids(steps, path, body)
        self.sequence(steps, path, body, _Entry())

    def note_ids(self, steps: Sequence[Any], path: Path, body: _Body) -> None:
        for index, step in enumerate(steps):
            here = (*path, index)
            if step.id in body.places:
                self.wrong((*here, "id"), f"There is another step {step.id!r}.")
            body.places.setdefault(step.id, here)
            for inner_path, inner in _branches(step, here):
                self.note_ids(inner, inner_path, body)

    def sequence(self, steps: Sequence[Any], path: Path, body: _Body, entry: _Entry) -> tuple[str, ...]:
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

    def finish(self, body: _Body) -> tuple[Task, ...]:
        """Turn what was laid out into tasks, now that everything that ``needs`` can name has its place."""
        depends: dict[str, tuple[str, ...]] = {}
        for task_id, draft in body.drafts.items():
            needed = [one for need in draft.needs for one in body.exits.get(need, ())]
            depends[task_id] = tuple(dict.fromkeys((*draft.before, *needed)))
        self.no_circles(depends, body)
        earlier = _Earlier(depends)
        for task_id, use in body.uses:
            self.use(body, use, earlier.of(task_id))
        for task_id, path, step in body.from_inside:
            if step in body.places and step not in earlier.of(task_id):
                self.wrong(path, need_not_have_ended(step))
        self.count += len(depends)
        if self.count > doc.MOST_STEPS:
            self.wrong(("steps",), f"There are more than {doc.MOST_STEPS} steps, those of sub-workflows included.")
        return tuple(Task(**draft.fields, depends_on=depends[task_id]) for task_id, draft in body.drafts.items())

    def no_circles(self, depends: dict[str, tuple[str, ...]], body: _Body) -> None:
        try:
            graphlib.TopologicalSorter(depends).prepare()
        except graphlib.CycleError as error:
            circle = list(reversed(error.args[1]))
            path = body.drafts[circle[0]].path
            self.wrong((*path, "needs"), f"These steps wait for each other: {' -> '.join(circle)}.")
            for task_id in circle:
                depends[task_id] = ()

    # Steps

    def step(self, step: Any, path: Path, body: _Body, entry: _Entry) -> tuple[str, ...]:
        return _STEPS[type(step)](self, step, path, body, entry)

    def task(self, step: Any, path: Path, body: _Body, entry: _Entry, kind: str, **fields: Any) -> tuple[str, ...]:
        """Lay out one task; return what must have ended for its step to be through."""
        own = (step.when,) if step.when is not None else ()
        if step.when is not None:
            body.uses.append((step.id, Use((*path, "when"), step.when)))
        before, needs = (entry.before, entry.needs) if step.needs is None else (entry.gate, entry.gate_needs)
        known: dict[str, Any] = {
            "id": step.id,
            "title": step.title or step.id,
            "kind": kind,
            "runs_on": entry.runs_on,
            "when": _all((*entry.guards, *own)),
            "template": True,
            **self.trying(step, kind),
            **fields,
        }
        given = {name: value for name, value in known.items() if value is not None}
        body.drafts[step.id] = _Draft(given, path, before, (*needs, *(step.needs or ())))
        return self.on_error(step, path, body, entry)

    def trying(self, step: Any, kind: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if getattr(step, "retry", None) is not None:
            found["retry"] = Retry(attempts=step.retry.attempts, seconds=doc.seconds_of(step.retry.pause))
        timeout = getattr(step, "timeout", None)
        if timeout is None and kind in ("agent", "tool"):
            timeout = self.defaults.timeout
        if timeout is not None and kind != "approval":
            found["timeout"] = doc.seconds_of(timeout)
        if getattr(step, "on_error", "fail") == "continue":
            found["optional"] = True
        return found

    def on_error(self, step: Any, path: Path, body: _Body, entry: _Entry) -> tuple[str, ...]:
        handler = getattr(step, "on_error", None)
        if not isinstance(handler, doc.ErrorPart) or not handler.steps:
            return (step.id,)
        failed = f'steps.{step.id}.status == "failed"'
        inner = _Entry((step.id,), runs_on="failure", gate=(step.id,), guards=(*entry.guards, failed))
        return self.sequence(handler.steps, (*path, "on_error", "steps"), body, inner)

    def texts(self, step: Any, body: _Body, value: Any, path: Path) -> None:
        """Note the expressions in a step's texts."""
        try:
            body.uses += [(step.id, use) for use in uses_of(value, path)]
        except BadInput as fault:
            self.wrong(path, fault.detail)

    def agent_of(self, step: Any, path: Path) -> str:
        name = step.agent or self.defaults.agent
        if name is None:
            self.wrong((*path, "agent"), "Name an agent here or in `defaults`.")
        return name or ""

    def agent(self, step: doc.AgentStep, path: Path, body: _Body, entry: _Entry) -> tuple[str, ...]:
        self.texts(step, body, step.instructions, (*path, "instructions"))
        fields = {"instructions": step.instructions, "expected": step.expected, "output_schema": step.output_schema}
        if step.output_schema is not None:
            self.schema(step.output_schema, (*path, "output_schema"))
        return self.task(step, path, body, entry, "agent", agent=self.agent_of(step, path), **fields)

    def schema(self, schema: dict[str, Any], path: Path) -> None:
        try:
            ArgumentCheck({"type": "object", "properties": {"output": schema}})
        except (ValueError, RecursionError) as error:
            self.wrong(path, str(error))

    def tool(self, step: doc.ToolStep, path: Path, body: _Body, entry: _Entry) -> tuple[str, ...]:
        self.texts(step, body, step.arguments, (*path, "arguments"))
        call = Call(tool=step.tool, arguments=step.arguments)
        return self.task(step, path, body, entry, "tool", agent=self.agent_of(step, path), call=call)

    def http(self, step: doc.HttpStep, path: Path, body: _Body, entry: _Entry) -> tuple[str, ...]:
        request = step.http
        if request.arguments and request.tool == "http_fetch":
            self.wrong((*path, "http", "arguments"), "http_fetch takes a url and nothing else; name another tool.")
        arguments = {**request.arguments, "url": request.url}
        self.texts(step, body, arguments, (*path, "http"))
        call = Call(tool=request.tool, arguments=arguments)
        return self.task(step, path, body, entry, "tool", agent=self.agent_of(step, path), call=call)

    def operation(self, step: doc.OperationStep, path: Path, body: _Body, entry: _Entry) -> tuple[str, ...]:
        arguments = step.operation.model_dump(exclude_defaults=True)
        self.texts(step, body, arguments, (*path, "operation"))
        call = Call(tool="operate", arguments=arguments)
        return self.task(step, path, body, entry, "tool", agent=self.agent_of(step, path), call=call)

    def value(self, step: doc.ValueStep, path: Path, body: _Body, entry: _Entry) -> tuple[str, ...]:
        self.texts(step, body, step.value, (*path, "value"))
        return self.task(step, path, body, entry, "value", value=step.value)

    def wait(self, step: doc.WaitStep, path: Path, body: _Body, entry: _Entry) -> tuple[str, ...]:
        wait = step.wait
        if sum(one is not None for one in (wait.duration, wait.until, wait.event)) != 1:
            self.wrong((*path, "wait"), "Give exactly one of duration, until and event.")
        if wait.until is not None:
            body.uses.append((step.id, Use((*path, "wait", "until"), wait.until)))
        event = wait.event
        if event is not None and event.match is not None:
            body.uses.append((step.id, Use((*path, "wait", "event", "match"), event.match, event=True)))
        waiting = Waiting(
            seconds=None if wait.duration is None else doc.seconds_of(wait.duration),
            until=wait.until,
            event=event.type if event else None,
            match=event.match if event else None,
        )
        return self.task(step, path, body, entry, "wait", wait=waiting)

    def approval(self, step: doc.ApprovalStep, path: Path, body: _Body, entry: _Entry) -> tuple[str, ...]:
        asked = step.approval
        self.texts(step, body, asked.text, (*path, "approval", "text"))
        seconds = doc.seconds_of(step.timeout)
        if seconds <= 0:
            self.wrong((*path, "timeout"), "People need more than 0 seconds.")
        question = Question(
            text=asked.text, assignees=tuple(asked.assignees), seconds=seconds, options=tuple(asked.options)
        )
        return self.task(step, path, body, entry, "approval", question=question)

    # Branches

    def if_(self, step: doc.IfStep, path: Path, body: _Body, entry: _Entry) -> tuple[str, ...]:
        body.uses.append((step.id, Use((*path, "if"), step.if_)))
        ends = self.task(step, path, body, entry, "value", value=f"${{ ({_closed(step.if_)}) ? true : false }}")
        done = f'steps.{step.id}.status == "completed" && steps.{step.id}.output == '
        branches = ((step.then, ("then",), done + "true"), (step.else_, ("else",), done + "false"))
        return self.branches(step, path, body, entry, ends, branches)

    def switch(self, step: doc.SwitchStep, path: Path, body: _Body, entry: _Entry) -> tuple[str, ...]:
        body.uses.append((step.id, Use((*path, "switch"), step.switch)))
        ends = self.task(step, path, body, entry, "value", value=f"${{ string(dyn({_closed(step.switch)})) }}")
        done, output = f'steps.{step.id}.status == "completed"', f"steps.{step.id}.output"
        branches: list[tuple[Sequence[Any], Path, str]] = [
            (steps, ("cases", name), f"{done} && {output} == {_quoted(name)}") for name, steps in step.cases.items()
        ]
        others = ", ".join(_quoted(name) for name in step.cases)
        branches.append((step.default, ("default",), f"{done} && !({output} in [{others}])"))
        return self.branches(step, path, body, entry, ends, branches)

    def branches(
        self,
        step: Any,
        path: Path,
        body: _Body,
        entry: _Entry,
        ends: tuple[str, ...],
        branches: Sequence[tuple[Sequence[Any], Path, str]],
    ) -> tuple[str, ...]:
        found = list(ends)
        for steps, name, guard in branches:
            inner = _Entry((step.id,), gate=(step.id,), guards=(*entry.guards, guard))
            found += self.sequence(steps, (*path, *name), body, inner)
        return tuple(dict.fromkeys(found))

    def parallel(self, step: doc.ParallelStep, path: Path, body: _Body, entry: _Entry) -> tuple[str, ...]:
        begin = entry
        if step.needs is not None:
            begin = replace(entry, before=entry.gate, needs=(*entry.gate_needs, *step.needs))
        guards = (*entry.guards, *((step.when,) if step.when is not None else ()))
        inner = replace(begin, gate=begin.before, gate_needs=begin.needs, guards=guards)
        ends: list[str] = []
        last: dict[str, str] = {}
        for name, steps in step.parallel.items():
            ends += self.sequence(steps, (*path, "parallel", name), body, inner)
            if steps:
                last[name] = f"${{ has(steps.{steps[-1].id}.output) ? steps.{steps[-1].id}.output : null }}"
        joined = replace(begin, before=tuple(dict.fromkeys(ends)), runs_on="success")
        whole = step.model_copy(update={"needs": None})
        return self.task(whole, path, body, joined, "value", value=last)

    def for_each(self, step: doc.ForEachStep, path: Path, body: _Body, entry: _Entry) -> tuple[str, ...]:
        body.uses.append((step.id, Use((*path, "for_each"), step.for_each)))
        inner = _Body(replace(body.names, item=True), around=body)
        self.level(step.steps, (*path, "steps"), inner)
        if not step.steps:
            self.wrong((*path, "steps"), "There is at least one step.")
        tasks = self.finish(inner)
        self.output(inner, step.output, (*path, "output"))
        outside = [(use.path, one) for _, use in inner.uses for one in use.steps() if one not in inner.places]
        outside += [(where, one) for _, where, one in inner.from_inside if one not in inner.places]
        body.from_inside += [(step.id, where, one) for where, one in outside]
        each = Each(items=step.for_each, body=tasks, most=step.most, at_once=step.at_once, output=step.output)
        return self.task(step, path, body, entry, "each", each=each)

    def sub_workflow(self, step: doc.WorkflowStep, path: Path, body: _Body, entry: _Entry) -> tuple[str, ...]:
        self.texts(step.model_copy(update={"id": f"{_INSIDE}{step.id}"}), body, step.inputs, (*path, "inputs"))
        each = self.called(step, path)
        if each is None:
            return (step.id,)
        # A body gives a list; the step is the one item in it.
        inside = step.model_copy(update={"id": f"{_INSIDE}{step.id}", "title": step.title or step.id})
        ends = self.task(inside, path, body, entry, "each", each=each)
        alone = step.model_copy(update={"needs": None, "when": None, "retry": None})
        guards = (*entry.guards, f'steps.{inside.id}.status == "completed"')
        joined = replace(entry, before=ends, needs=(), runs_on="success", guards=guards)
        return self.task(alone, path, body, joined, "value", value=f"${{ steps.{inside.id}.output[0] }}")

    def called(self, step: doc.WorkflowStep, path: Path) -> Each | None:
        name = step.workflow
        if name in self.stack:
            self.wrong((*path, "workflow"), f"Workflows call each other: {' -> '.join([*self.stack, name])}.")
            return None
        if len(self.stack) > MOST_INSIDE:
            self.wrong((*path, "workflow"), f"More than {MOST_INSIDE} workflows call each other in a row.")
            return None
        known = self.resolve(name)
        if known is None:
            self.wrong((*path, "workflow"), f"There is no workflow {name!r}.")
            return None
        inputs = with_defaults(known.workflow, step.inputs)
        self.inputs_fit(known.workflow, inputs, path)
        self.used[name] = known.version
        outside, self.inside = self.inside, path if self.inside is None else self.inside
        tasks, output = self.workflow(known.workflow)
        self.inside = outside
        return Each(items="[0]", body=tasks, most=1, at_once=1, inputs=inputs, output=output)

    def inputs_fit(self, workflow: doc.Workflow, inputs: Mapping[str, Any], path: Path) -> None:
        declared = _declared(workflow.inputs)
        for name in inputs:
            if declared is not None and name not in declared:
                self.wrong((*path, "inputs", name), f"The workflow {workflow.name!r} has no input {name!r}.")
        for name in workflow.inputs.get("required") or ():
            if name not in inputs:
                self.wrong((*path, "inputs"), f"The workflow {workflow.name!r} needs the input {name!r}.")

    # Checks

    def output(self, body: _Body, value: Any, path: Path) -> None:
        try:
            for use in uses_of(value, path):
                self.use(body, use, None)
        except BadInput as fault:
            self.wrong(path, fault.detail)

    def use(self, body: _Body, use: Use, earlier: frozenset[str] | None) -> None:
        """Check one expression; ``earlier``: the steps of its level that have ended when it is evaluated, None: all."""
        around: set[str] = set()
        level = body.around
        while level is not None:  # whether those have ended is looked at when their level is laid out
            around |= set(level.places)
            level = level.around
        known = None if earlier is None else earlier | (around - set(body.places))
        for path, message in body.names.mistakes(use, set(body.places) | around, known):
            self.wrong(path, message)

    def triggers(self, workflow: doc.Workflow) -> None:
        seen: set[str] = set()
        declared = _declared(workflow.inputs)
        names = Names(inputs=frozenset(), trigger=True)
        for index, trigger in enumerate(workflow.triggers):
            path: Path = ("triggers", index)
            if trigger.id in seen:
                self.wrong((*path, "id"), f"There is another trigger {trigger.id!r}.")
            seen.add(trigger.id)
            for name in trigger.inputs:
                if declared is not None and name not in declared:
                    self.wrong((*path, "inputs", name), f"The workflow has no input {name!r}.")
            try:
                found = list(uses_of(trigger.inputs, (*path, "inputs")))
                if isinstance(trigger, doc.CronTrigger):
                    CronLine(trigger.cron, trigger.timezone)
            except BadInput as fault:
                self.wrong((*path, fault.field) if fault.field in ("cron", "timezone") else path, fault.detail)
                continue
            if isinstance(trigger, doc.EventTrigger) and not may_set_off(trigger.event.type):
                self.wrong((*path, "event", "type"), "What runs and plans record sets off no workflow: it never ends.")
            if isinstance(trigger, doc.EventTrigger) and trigger.event.match is not None:
                found.append(Use((*path, "event", "match"), trigger.event.match, event=True))
            for use in found:
                for where, message in names.mistakes(use, set(), frozenset()):
                    self.wrong(where, message)

    def check_graph(self, plan: Plan) -> None:
        """Have the plan's own rules look at it too: what they find was not thought of here."""
        agents = {same_name(task.agent) for task in _all_tasks(plan.tasks) if task.agent}
        for mistake in check_plan(plan, agents=agents, most=doc.MOST_STEPS):
            self.wrong(("steps",), str(mistake))


def _branches(step: Any, path: Path) -> Iterator[tuple[Path, Sequence[Any]]]:
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


def _all_tasks(tasks: Sequence[Task]) -> Iterator[Task]:
    for task in tasks:
        yield task
        if task.each is not None:
            yield from _all_tasks(task.each.body)


def _declared(schema: Mapping[str, Any]) -> frozenset[str] | None:
    """Return the names of the inputs; None when there may be others."""
    properties = schema.get("properties", {})
    open_ended = schema.get("additionalProperties", False) is not False or set(schema) & {
        "patternProperties",
        "allOf",
        "anyOf",
        "oneOf",
        "$ref",
    }
    return None if open_ended or not isinstance(properties, Mapping) else frozenset(properties)


class _Earlier:
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


def _all(conditions: Sequence[str]) -> str | None:
    if len(conditions) < 2:
        return conditions[0] if conditions else None
    return " && ".join(f"({_closed(one)})" for one in conditions)


def _closed(expression: str) -> str:
    """Let a bracket be able to follow: a comment would swallow it."""
    return f"{expression}\n" if "//" in expression else expression


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=True)


_STEPS: Mapping[type[Any], Callable[..., tuple[str, ...]]] = {
    doc.AgentStep: _Compiler.agent,
    doc.ToolStep: _Compiler.tool,
    doc.HttpStep: _Compiler.http,
    doc.OperationStep: _Compiler.operation,
    doc.WorkflowStep: _Compiler.sub_workflow,
    doc.IfStep: _Compiler.if_,
    doc.SwitchStep: _Compiler.switch,
    doc.ParallelStep: _Compiler.parallel,
    doc.ForEachStep: _Compiler.for_each,
    doc.WaitStep: _Compiler.wait,
    doc.ApprovalStep: _Compiler.approval,
    doc.ValueStep: _Compiler.value,
}


def started(compiled: Compiled, inputs: Mapping[str, Any], origin: Origin, trigger: Any = None) -> Plan:
    """Return the plan of one run."""
    return msgspec.structs.replace(compiled.plan, inputs=dict(inputs), origin=origin, trigger=trigger)
