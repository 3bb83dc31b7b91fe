"""What each kind of step becomes. The third layer of the compiler.

``if`` and ``switch`` become a value and a condition on each task of their branches: a task that is skipped by its
condition does not stop those that wait for it, so what follows the branches simply waits for the end of both.
``on_error`` steps wait for the failure of their step, and what follows waits for them. A sub-workflow and ``for_each``
have a body of their own.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from retinue.kernel import BadInput
from retinue.planning import Call, Each, Question, Retry, Waiting
from retinue.workflows import document as doc
from retinue.workflows.expressions import all_of, closed, quoted
from retinue.workflows.graph import Body, Draft, Entry, Graph
from retinue.workflows.naming import Path, Use, uses_of
from retinue.workflows.reading import Source


class Steps(Graph):
    """Lays out steps by their kind."""

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self.defaults = doc.DefaultsPart()

    @abstractmethod
    def called(self, step: doc.WorkflowStep, path: Path) -> Each | None:
        """Return the body that a sub-workflow is; None, with the mistake noted, when it cannot be called."""

    def step(self, step: Any, path: Path, body: Body, entry: Entry) -> tuple[str, ...]:
        return _STEPS[type(step)](self, step, path, body, entry)

    def task(self, step: Any, path: Path, body: Body, entry: Entry, kind: str, **fields: Any) -> tuple[str, ...]:
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
            "when": all_of((*entry.guards, *own)),
            "template": True,
            **self.trying(step, kind),
            **fields,
        }
        given = {name: value for name, value in known.items() if value is not None}
        body.drafts[step.id] = Draft(given, path, before, (*needs, *(step.needs or ())))
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

    def on_error(self, step: Any, path: Path, body: Body, entry: Entry) -> tuple[str, ...]:
        handler = getattr(step, "on_error", None)
        if not isinstance(handler, doc.ErrorPart) or not handler.steps:
            return (step.id,)
        failed = f'steps.{step.id}.status == "failed"'
        inner = Entry((step.id,), runs_on="failure", gate=(step.id,), guards=(*entry.guards, failed))
        return self.sequence(handler.steps, (*path, "on_error", "steps"), body, inner)

    def texts(self, step: Any, body: Body, value: Any, path: Path) -> None:
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

    def agent(self, step: doc.AgentStep, path: Path, body: Body, entry: Entry) -> tuple[str, ...]:
        self.texts(step, body, step.instructions, (*path, "instructions"))
        fields = {"instructions": step.instructions, "expected": step.expected, "output_schema": step.output_schema}
        if step.output_schema is not None:
            self.schema(step.output_schema, (*path, "output_schema"))
        return self.task(step, path, body, entry, "agent", agent=self.agent_of(step, path), **fields)

    def tool(self, step: doc.ToolStep, path: Path, body: Body, entry: Entry) -> tuple[str, ...]:
        self.texts(step, body, step.arguments, (*path, "arguments"))
        call = Call(tool=step.tool, arguments=step.arguments)
        return self.task(step, path, body, entry, "tool", agent=self.agent_of(step, path), call=call)

    def http(self, step: doc.HttpStep, path: Path, body: Body, entry: Entry) -> tuple[str, ...]:
        request = step.http
        if request.arguments and request.tool == "http_fetch":
            self.wrong((*path, "http", "arguments"), "http_fetch takes a url and nothing else; name another tool.")
        arguments = {**request.arguments, "url": request.url}
        self.texts(step, body, arguments, (*path, "http"))
        call = Call(tool=request.tool, arguments=arguments)
        return self.task(step, path, body, entry, "tool", agent=self.agent_of(step, path), call=call)

    def operation(self, step: doc.OperationStep, path: Path, body: Body, entry: Entry) -> tuple[str, ...]:
        arguments = step.operation.model_dump(exclude_defaults=True)
        self.texts(step, body, arguments, (*path, "operation"))
        call = Call(tool="operate", arguments=arguments)
        return self.task(step, path, body, entry, "tool", agent=self.agent_of(step, path), call=call)

    def value(self, step: doc.ValueStep, path: Path, body: Body, entry: Entry) -> tuple[str, ...]:
        self.texts(step, body, step.value, (*path, "value"))
        return self.task(step, path, body, entry, "value", value=step.value)

    def wait(self, step: doc.WaitStep, path: Path, body: Body, entry: Entry) -> tuple[str, ...]:
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

    def approval(self, step: doc.ApprovalStep, path: Path, body: Body, entry: Entry) -> tuple[str, ...]:
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

    def if_(self, step: doc.IfStep, path: Path, body: Body, entry: Entry) -> tuple[str, ...]:
        body.uses.append((step.id, Use((*path, "if"), step.if_)))
        ends = self.task(step, path, body, entry, "value", value=f"${{ ({closed(step.if_)}) ? true : false }}")
        done = f'steps.{step.id}.status == "completed" && steps.{step.id}.output == '
        branches = ((step.then, ("then",), done + "true"), (step.else_, ("else",), done + "false"))
        return self.branches(step, path, body, entry, ends, branches)

    def switch(self, step: doc.SwitchStep, path: Path, body: Body, entry: Entry) -> tuple[str, ...]:
        body.uses.append((step.id, Use((*path, "switch"), step.switch)))
        ends = self.task(step, path, body, entry, "value", value=f"${{ string(dyn({closed(step.switch)})) }}")
        done, output = f'steps.{step.id}.status == "completed"', f"steps.{step.id}.output"
        branches: list[tuple[Sequence[Any], Path, str]] = [
            (steps, ("cases", name), f"{done} && {output} == {quoted(name)}") for name, steps in step.cases.items()
        ]
        others = ", ".join(quoted(name) for name in step.cases)
        branches.append((step.default, ("default",), f"{done} && !({output} in [{others}])"))
        return self.branches(step, path, body, entry, ends, branches)

    def branches(
        self,
        step: Any,
        path: Path,
        body: Body,
        entry: Entry,
        ends: tuple[str, ...],
        branches: Sequence[tuple[Sequence[Any], Path, str]],
    ) -> tuple[str, ...]:
        found = list(ends)
        for steps, name, guard in branches:
            inner = Entry((step.id,), gate=(step.id,), guards=(*entry.guards, guard))
            found += self.sequence(steps, (*path, *name), body, inner)
        return tuple(dict.fromkeys(found))

    def parallel(self, step: doc.ParallelStep, path: Path, body: Body, entry: Entry) -> tuple[str, ...]:
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

    def for_each(self, step: doc.ForEachStep, path: Path, body: Body, entry: Entry) -> tuple[str, ...]:
        body.uses.append((step.id, Use((*path, "for_each"), step.for_each)))
        inner = Body(replace(body.names, item=True), around=body)
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

    def sub_workflow(self, step: doc.WorkflowStep, path: Path, body: Body, entry: Entry) -> tuple[str, ...]:
        self.texts(step, body, step.inputs, (*path, "inputs"))
        each = self.called(step, path)
        if each is None:
            return self.on_error(step, path, body, entry)
        return self.task(step, path, body, entry, "each", each=each)


_STEPS: Mapping[type[Any], Callable[..., tuple[str, ...]]] = {
    doc.AgentStep: Steps.agent,
    doc.ToolStep: Steps.tool,
    doc.HttpStep: Steps.http,
    doc.OperationStep: Steps.operation,
    doc.WorkflowStep: Steps.sub_workflow,
    doc.IfStep: Steps.if_,
    doc.SwitchStep: Steps.switch,
    doc.ParallelStep: Steps.parallel,
    doc.ForEachStep: Steps.for_each,
    doc.WaitStep: Steps.wait,
    doc.ApprovalStep: Steps.approval,
    doc.ValueStep: Steps.value,
}
