"""What works for a run or a plan that is followed: plans, the runs of their tasks, runs that calls are handed on to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from retinue.cli.answering import Answering
from retinue.cli.approvals import what
from retinue.cli.client import Client
from retinue.cli.graph import Graph, TaskNode, of_created, of_plan
from retinue.cli.live_graphs import LiveGraphs
from retinue.cli.screen import Json, compact, duration, plain, seconds_between
from retinue.cli.stream import LiveEvent
from retinue.cli.transcript import Transcript, call_words, decision_words, result_words

_TAIL = 200


@dataclass(slots=True)
class _Run:
    """A run below: whose it is, for a person, and what it does."""

    name: str
    node: TaskNode | None = None
    text: str = ""


class Below:
    """Everything below what is followed; shows it, and puts what it asks to the person."""

    def __init__(self, client: Client, transcript: Transcript, graphs: LiveGraphs, answering: Answering) -> None:
        self._client = client
        self._transcript = transcript
        self._graphs = graphs
        self._answering = answering
        self._runs: dict[str, _Run] = {}
        self._announced: set[str] = set()
        self._decided: dict[str, str] = {}
        self.plans: dict[str, Graph] = {}

    # What is below

    def add_plan(self, plan_id: str) -> Graph:
        """Show a plan and all below it, as they are now."""
        graph = self._read(plan_id)
        if plan_id in self.plans:
            self._graphs.replace(self.plans[plan_id], graph)
        elif not graph.ended:
            self._graphs.begin(graph)
        self.plans[plan_id] = graph
        return graph

    def add_run(self, run_id: str, name: str, node: TaskNode | None = None) -> None:
        """Show a run that works for what is followed; ``node`` is its task, if it has one."""
        self._runs.setdefault(run_id, _Run(name)).node = node

    def ask_what_is_open(self) -> None:
        """Put to the person what is asked already: the stream told of it before."""
        if not self.plans and not self._runs:
            return
        for approval in self._client.pages("/v1/my/approvals", status="pending"):
            if self._is_below(approval.get("run_id"), approval.get("plan_id")):
                self._ask(approval)

    def _read(self, plan_id: str) -> Graph:
        graph = of_plan(self._client.get(f"/v1/my/plans/{plan_id}"))
        self._know(graph)
        return graph

    def _know(self, graph: Graph) -> None:
        for node in graph.nodes.values():
            if node.run_id is not None:
                self.add_run(node.run_id, graph.calls(node), node)

    def _is_below(self, run_id: object, plan_id: object) -> bool:
        return str(plan_id) in self.plans or str(run_id) in self._runs

    # What happens

    def take(self, event: LiveEvent, root: str = "") -> bool:
        """Show an event if it is of something below the run ``root``; return whether it was."""
        plan_id = event.payload.get("plan_id")
        if event.name in ("approval_required", "approval_decided"):
            return self._approval(event)
        if plan_id is not None:
            return self._plan_event(event, str(plan_id), root)
        if event.payload.get("child") is not None and self._follows(event.run_id, root):
            self._handed_on(event.payload)
        run = self._runs.get(str(event.run_id))
        if run is None:
            return False
        handle = self._of_runs.get(event.name)
        if handle is not None:
            handle(self, run, event.payload)
        return True

    def _follows(self, run_id: str | None, root: str) -> bool:
        return run_id is not None and (run_id == root or run_id in self._runs)

    def _handed_on(self, payload: Json) -> None:
        child = payload["child"]
        self._announced.add(str(payload.get("call_id")))
        if child.get("kind") == "run":
            self.add_run(str(child["id"]), str(payload.get("name")))

    def _plan_event(self, event: LiveEvent, plan_id: str, root: str) -> bool:
        graph = self.plans.get(plan_id)
        if graph is None:
            if event.name != "task_plan_created" or not self._follows(event.run_id, root):
                return False
            graph = self.plans[plan_id] = of_created(event.payload, event.at)
            # One that a person is asked about is shown with the question.
            self._graphs.begin(graph, drawn=not event.payload.get("asked"))
            return True
        graph.take(event)
        if graph.outdated:
            graph = self.add_plan(plan_id)
        node = graph.nodes.get(str(event.payload.get("task_id")))
        if node is not None and event.name == "task_started" and node.run_id is not None:
            self.add_run(node.run_id, graph.calls(node), node)
        if node is not None:
            self._graphs.step(_words(graph.calls(node), node, event))
        if graph.ended and event.name in ("run_completed", "run_failed"):
            self._graphs.end(graph)
        return True

    # What is asked

    def _approval(self, event: LiveEvent) -> bool:
        payload = event.payload
        if event.name == "approval_decided":
            return self._was_decided(event)
        if not self._is_below(event.run_id, payload.get("plan_id")):
            return False
        self._ask(payload)
        return True

    def _ask(self, approval: Json) -> None:
        approval_id, node = str(approval["approval_id"]), self._asker(approval)
        if node is not None:
            node.asks = what(approval)
        with self._graphs.paused():
            decided = self._answering.required(approval, by=f"{node.id} ({node.who})" if node else "")
        if node is not None and decided:
            node.asks = ""
        self._decided[approval_id] = node.id if node is not None else ""

    def _asker(self, approval: Json) -> TaskNode | None:
        graph = self.plans.get(str(approval.get("plan_id")))
        if graph is not None:
            return graph.nodes.get(str(approval.get("task_id")))
        run = self._runs.get(str(approval.get("run_id")))
        return run.node if run is not None else None

    def _was_decided(self, event: LiveEvent) -> bool:
        asker = self._decided.pop(str(event.payload.get("approval_id")), None)
        if asker is None:
            return False
        for graph in self.plans.values():
            if asker in graph.nodes:
                graph.nodes[asker].asks = ""
        self._transcript.step(": ".join(part for part in (asker, decision_words(event.payload)) if part))
        return True

    # What its runs do

    def _started(self, run: _Run, payload: Json) -> None:
        self._does(run, "asks the model")

    def _delta(self, run: _Run, payload: Json) -> None:
        text = str(payload.get("text") or "")
        run.text = (text if payload.get("offset") == 0 else run.text + text)[-_TAIL:]
        self._does(run, f"writes: {' '.join(plain(run.text).split())[-60:]}")

    def _tool(self, run: _Run, payload: Json) -> None:
        self._announced.add(str(payload.get("call_id")))
        self._step(run, call_words(payload))

    def _progress(self, run: _Run, payload: Json) -> None:
        if payload.get("kind") == "model":
            self._does(run, "")
        elif payload.get("kind") == "tool" and payload.get("child") is None:
            self._step(run, result_words(payload, announced=str(payload.get("call_id")) in self._announced))

    def _waiting(self, run: _Run, payload: Json) -> None:
        kinds = {str(item.get("kind")) for item in payload.get("on") or []}
        self._does(run, "waits: stopped" if "stop" in kinds else "waits for another agent" if "child" in kinds else "")
        if "reconcile" in kinds:
            self._transcript.note(
                f"({run.name}: a crash left an effect in doubt; see: retinue runs show)", style="yellow"
            )

    def _step(self, run: _Run, words: str) -> None:
        if words:
            self._does(run, words)
            self._graphs.step(f"{run.name}: {words}")

    def _does(self, run: _Run, words: str) -> None:
        if run.node is not None:
            run.node.doing = words

    _of_runs: ClassVar[dict[str, Callable[[Below, _Run, Json], None]]] = {
        "run_started": _started,
        "message_delta": _delta,
        "tool_request": _tool,
        "task_progress": _progress,
        "run_waiting": _waiting,
    }


def _words(name: str, node: TaskNode, event: LiveEvent) -> str:
    """Say in a line what happened to a task."""
    match node.status:
        case "running" if event.name == "task_started":
            again = f", try {node.attempt}" if node.attempt > 1 else ""
            return f"{name}: begins ({node.who}{again})"
        case "completed" if event.name == "task_completed":
            took = duration(seconds_between(node.started_at, node.ended_at))
            cost = f", ${node.cost}" if node.cost else ""
            return f"{name}: done ({took}, {node.tokens} tokens{cost})"
        case "failed":
            return f"{name}: failed: {compact(node.detail, 200)}"
        case "retrying":
            return f"{name}: failed, and is tried again: {compact(node.detail, 200)}"
        case "skipped":
            return f"{name}: left out"
        case _:
            return ""
