"""What a plan is made of: tasks, and which waits for which. A model writes it, or a workflow is compiled to it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import msgspec

Risk = Literal["low", "medium", "high"]
OnFailure = Literal["continue", "replan", "stop"]
Kind = Literal["agent", "tool", "approval", "wait", "each", "value"]
RunsOn = Literal["success", "failure", "end"]

MOST_TASKS = 50
"""Tasks that a model may plan at once; workflows have their own bound."""


class Retry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How often a failed task is tried at most, and the seconds before the second try (doubled each time)."""

    attempts: int = 1
    seconds: float = 1.0


class Call(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A tool call without a model. Text in ``arguments`` may hold ``${ CEL }``."""

    tool: str
    arguments: dict[str, Any] = {}


class Waiting(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a ``wait`` task waits for; exactly one of these. ``until`` and ``match`` are CEL.

    Attributes:
        seconds: so long.
        until: a CEL expression that gives a time.
        event: the next event of this type in the tenant for which ``match`` (over ``event``) holds.
    """

    seconds: float | None = None
    until: str | None = None
    event: str | None = None
    match: str | None = None


class Question(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an ``approval`` task asks, and whom: user ids, e-mails or roles; nobody named: the plan's owner."""

    text: str
    assignees: tuple[str, ...] = ()
    seconds: float = 300.0
    options: tuple[str, ...] = ()


class Each(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A body of tasks, carried out for each item of a list; a sub-workflow is one with a single item.

    Attributes:
        items: CEL that gives the list.
        body: the tasks; they see ``item`` and ``index``, and each other's results, not those of other items.
        most: how many items there may be; more fail the task.
        at_once: how many items are worked on at the same time.
        inputs: for a sub-workflow, its inputs (text may hold ``${ CEL }``); the body then sees these only.
        output: what one item gives (text may hold ``${ CEL }``); None: the results of the body by task.
        single: the result is what the one item gives, not a list of it: a sub-workflow.
    """

    items: str
    body: tuple[Task, ...]
    most: int = 100
    at_once: int = 10
    inputs: dict[str, Any] | None = None
    output: Any = None
    single: bool = False


class Task(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One node of a plan.

    Attributes:
        id: unique in its plan (in its body, for tasks of an ``each``): letters, digits, ``_`` and ``-``.
        kind: ``agent`` (a run of an agent), ``tool`` (a call without a model, under an agent's policy), ``approval``
            (a question to people), ``wait``, ``each``, or ``value`` (computes ``value`` and does nothing else).
        agent: name of the agent that does it; for ``tool``, the agent whose policy and lane hold.
        agent_id: the same agent, as it was found when the plan was made.
        instructions: for the agent; may hold ``${ CEL }`` in workflows. Results of ``depends_on`` are added to it.
        depends_on: ids of tasks that must have ended before.
        runs_on: of what it depends on, all must have succeeded; or one must have failed; or all have ended.
        expected: what its result shall be, for the agent and for people.
        risk, confidence, tokens, cost: what the planner estimates; ``confidence`` is 0..1, ``cost`` in nano-dollars.
        when: CEL; the task is skipped when it is false.
        timeout: seconds a worker may have it; None: the agent's own limit.
        optional: its failure is no failure of the plan: those that wait for it go on.
        output_schema: JSON Schema that the result must fit; an agent's answer is then read as JSON.
        template: whether texts hold ``${ CEL }`` (workflows); a model's texts are taken as they are.
    """

    id: str
    title: str = ""
    kind: Kind = "agent"
    agent: str | None = None
    agent_id: UUID | None = None
    instructions: str = ""
    depends_on: tuple[str, ...] = ()
    runs_on: RunsOn = "success"
    expected: str = ""
    risk: Risk = "low"
    confidence: float | None = None
    tokens: int | None = None
    cost: int | None = None
    when: str | None = None
    retry: Retry = Retry()
    timeout: float | None = None
    optional: bool = False
    call: Call | None = None
    wait: Waiting | None = None
    question: Question | None = None
    each: Each | None = None
    value: Any = None
    output_schema: dict[str, Any] | None = None
    template: bool = False


class Origin(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a plan comes from: a model's, one without a model, an earlier one, a workflow, or a caller of the API."""

    kind: Literal["model", "fallback", "cache", "workflow", "api"]
    workflow_id: UUID | None = None
    name: str | None = None
    version: int | None = None
    trigger: str | None = None


class Plan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A graph and everything that holds for all of it.

    Attributes:
        title: for people; of a chat, the beginning of the request.
        request: what was asked for, as the agents are told; empty for workflows.
        on_failure: what happens when a task has failed for good.
        inputs: of a workflow; CEL sees them as ``inputs``.
        trigger: what set a workflow off, such as the event or the webhook's body; CEL sees it as ``trigger``.
        output: what the plan gives (text may hold ``${ CEL }``); None: the results by task.
        given: results of tasks of an earlier plan that this one goes on from, by id.
        depth: how many delegations lie above; bounded.
        tainted_by: what untrusted text whoever made the plan has read; its runs inherit it.
        budget: nano-dollars that all its runs together may cost; None: no bound of its own.
        deadline: when it must have ended; None: no bound.
    """

    title: str
    tasks: tuple[Task, ...]
    origin: Origin
    request: str = ""
    on_failure: OnFailure = "continue"
    inputs: dict[str, Any] = {}
    trigger: Any = None
    output: Any = None
    given: dict[str, Any] = {}
    depth: int = 0
    tainted_by: tuple[str, ...] = ()
    budget: int | None = None
    deadline: datetime | None = None
