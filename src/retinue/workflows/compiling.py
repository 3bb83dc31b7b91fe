"""From a workflow to a plan. Pure: sub-workflows come from a function.

The compiler has four layers, each in a file: what expressions and schemas may say (``expressions.py``), the graph of
tasks (``graph.py``), what each kind of step becomes (``steps.py``), and here the whole, with the workflows it calls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from retinue.planning import Each, Origin, Plan, Task
from retinue.tools import ArgumentCheck
from retinue.workflows import document as doc
from retinue.workflows.expressions import declared_inputs
from retinue.workflows.graph import Body, Draft
from retinue.workflows.naming import Names, Path
from retinue.workflows.reading import MOST_MISTAKES, Source, WorkflowMistake, refusal
from retinue.workflows.steps import Steps

MOST_INSIDE = 5
"""Workflows that may call each other in a row."""

OUTPUT = "_output"


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


class _Compiler(Steps):
    """A whole workflow, and those that it calls."""

    def __init__(self, source: Source, resolve: Resolve) -> None:
        super().__init__(source)
        self.resolve = resolve
        self.used: dict[str, int] = {}
        self.paths: dict[str, Path] = {}

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
        body = Body(Names(inputs=declared_inputs(workflow.inputs), trigger=len(self.stack) == 1))
        self.level(workflow.steps, ("steps",), body)
        output = workflow.output
        if workflow.output_schema is not None:
            ends = tuple(one for step in workflow.steps for one in body.exits.get(step.id, ()))
            fields = {"kind": "value", "value": output, "output_schema": workflow.output_schema, "template": True}
            body.drafts[OUTPUT] = Draft({"id": OUTPUT, "title": "output", **fields}, ("output",), ends)
            output = f"${{ steps.{OUTPUT}.output }}"
        tasks = self.finish(body)
        if len(self.stack) == 1:
            self.paths = {task_id: draft.path for task_id, draft in body.drafts.items()}
        self.output(body, workflow.output, ("output",))
        self.stack.pop()
        self.defaults = before
        return tasks, output

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
        return Each(items="[0]", body=tasks, most=1, at_once=1, inputs=inputs, output=output, single=True)

    def inputs_fit(self, workflow: doc.Workflow, inputs: Mapping[str, Any], path: Path) -> None:
        declared = declared_inputs(workflow.inputs)
        for name in inputs:
            if declared is not None and name not in declared:
                self.wrong((*path, "inputs", name), f"The workflow {workflow.name!r} has no input {name!r}.")
        for name in workflow.inputs.get("required") or ():
            if name not in inputs:
                self.wrong((*path, "inputs"), f"The workflow {workflow.name!r} needs the input {name!r}.")
