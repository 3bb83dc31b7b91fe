"""What a workflow's expressions and schemas may say, and how conditions are put together.

The first layer of the compiler: it notes mistakes, and knows nothing of steps.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from retinue.kernel import BadInput
from retinue.tools import ArgumentCheck
from retinue.workflows import document as doc
from retinue.workflows.naming import Names, Path, Use, may_set_off, uses_of
from retinue.workflows.reading import MOST_MISTAKES, Source, WorkflowMistake
from retinue.workflows.times import CronLine


class Expressions:
    """Looks at expressions and schemas of one document, and notes what is wrong with them."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.mistakes: list[WorkflowMistake] = []
        self.stack: list[str] = []
        self.inside: Path | None = None  # of the step that calls the sub-workflow which is being compiled

    def wrong(self, path: Path, message: str) -> None:
        """Note a mistake. Those of a sub-workflow are told at the step that calls it."""
        if len(self.mistakes) < MOST_MISTAKES:
            if self.inside is not None:
                message = f"in the workflow {self.stack[-1]!r}: {message}"
            self.mistakes.append(self.source.mistake(path if self.inside is None else self.inside, message))

    def schemas(self, workflow: doc.Workflow) -> None:
        """Check the schemas of a workflow's inputs and output."""
        for name, schema in (("inputs", {"type": "object", **workflow.inputs}), ("output_schema", None)):
            try:
                if schema is not None:
                    ArgumentCheck(schema)
                elif workflow.output_schema is not None:
                    ArgumentCheck({"type": "object", "properties": {"output": workflow.output_schema}})
            except (ValueError, RecursionError) as error:
                self.wrong((name,), str(error))

    def schema(self, schema: dict[str, Any], path: Path) -> None:
        """Check the schema of a step's output."""
        try:
            ArgumentCheck({"type": "object", "properties": {"output": schema}})
        except (ValueError, RecursionError) as error:
            self.wrong(path, str(error))

    def triggers(self, workflow: doc.Workflow) -> None:
        """Check what sets a workflow off, and the inputs that it gives."""
        seen: set[str] = set()
        declared = declared_inputs(workflow.inputs)
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


def declared_inputs(schema: Mapping[str, Any]) -> frozenset[str] | None:
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


def all_of(conditions: Sequence[str]) -> str | None:
    """Return the expression that holds when all of some do; None for none."""
    if len(conditions) < 2:
        return conditions[0] if conditions else None
    return " && ".join(f"({closed(one)})" for one in conditions)


def closed(expression: str) -> str:
    """Let a bracket be able to follow: a comment would swallow it."""
    return f"{expression}\n" if "//" in expression else expression


def quoted(text: str) -> str:
    """Return a text as CEL writes it."""
    return json.dumps(text, ensure_ascii=True)
