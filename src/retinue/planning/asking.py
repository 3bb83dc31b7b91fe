"""Questions of plans to people: may it begin, as it is or edited; and those of its tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import msgspec

from retinue import approvals, identity, tenancy
from retinue.approvals import Approval, ApprovalRequest, Resume
from retinue.kernel import Scope, dollars
from retinue.ledger import read_stream
from retinue.planning.assigning import agents_of, with_agents
from retinue.planning.checks import Mistake, check_plan, refusal
from retinue.planning.events import PlanDrafted
from retinue.planning.graph import MOST_TASKS, Plan, Question, Task
from retinue.planning.powers import powers_of
from retinue.planning.state import fold
from retinue.tools import Toolbox

EDITABLE = ("title", "agent", "instructions", "depends_on", "expected")
"""What a person may change in a task; they may also drop tasks and put them in another order."""

_SHOWN = ("id", "title", "kind", "agent", "instructions", "depends_on", "expected", "risk", "confidence")


async def ask_for_plan(scope: Scope, plan_id: UUID, drafted: PlanDrafted, resume: str, seconds: float) -> UUID:
    """Ask whether a plan may begin; return the approval's id. The outcome wakes ``resume`` with the plan."""
    return await approvals.request(
        scope,
        ApprovalRequest(
            kind="plan",
            plan_id=plan_id,
            run_id=_waits(drafted),
            session_id=drafted.session_id,
            arguments=await _shown(scope, drafted.plan),
            reason="; ".join(drafted.ask),
            tainted_by="; ".join(drafted.plan.tainted_by) or None,
            seconds=seconds,
            resume=Resume(kind=resume, subject_id=plan_id),
            owner_id=drafted.owner_id,
        ),
    )


async def ask_for_task(
    scope: Scope, plan_id: UUID, drafted: PlanDrafted, task_id: str, question: Question, text: str, resume: str
) -> UUID:
    """Ask what a task asks; return the approval's id. With options it wants an answer, else a yes or a no."""
    return await approvals.request(
        scope,
        ApprovalRequest(
            kind="question" if question.options else "plan_step",
            plan_id=plan_id,
            task_id=task_id,
            run_id=_waits(drafted),
            session_id=drafted.session_id,
            question=text,
            options=question.options,
            assignees=[await _assignee(scope, one) for one in question.assignees],
            reason=f"a step of the plan {drafted.plan.title!r}"[:500],
            seconds=question.seconds,
            resume=Resume(kind=resume, subject_id=plan_id),
            owner_id=drafted.owner_id,
        ),
    )


def _waits(drafted: PlanDrafted) -> UUID | None:
    """Return the run that waits for the plan: what the plan asks shows on that run's stream."""
    return drafted.parent.id if drafted.parent is not None and drafted.parent.kind == "run" else None


async def _assignee(scope: Scope, named: str) -> str:
    """Return the id of a member who is named by e-mail address; ids, roles and strangers stay as they are."""
    if "@" not in named:
        return named
    user_id = await identity.find_by_email(scope.queries, named)
    is_member = user_id is not None and await tenancy.find_member(scope, user_id) is not None
    return str(user_id) if is_member else named


async def _shown(scope: Scope, plan: Plan) -> dict[str, Any]:
    """Return a plan as people decide about it and edit it."""
    found = await agents_of(scope, plan.tasks)
    toolbox = scope.service(Toolbox)
    tokens = [task.tokens for task in plan.tasks if task.tokens is not None]
    costs = [task.cost for task in plan.tasks if task.cost is not None]
    return {
        "title": plan.title,
        "tasks": [_task(task) for task in plan.tasks],
        "on_failure": plan.on_failure,
        "estimate": {
            "tasks": len(plan.tasks),
            "tokens": sum(tokens) if tokens else None,
            "cost": dollars(sum(costs)) if costs else None,
        },
        "agents": {
            agent.name: {
                "autonomy": str(agent.definition.autonomy),
                "model": agent.definition.model,
                "tools": dict(powers_of(toolbox, agent)),
            }
            for agent in found.values()
        },
    }


def _task(task: Task) -> dict[str, Any]:
    whole = msgspec.to_builtins(msgspec.structs.asdict(task))
    return {name: whole[name] for name in _SHOWN if whole[name] is not None}


# What people change


async def check_edit(scope: Scope, approval: Approval, edited: dict[str, Any]) -> None:
    """Refuse an edited plan that could not be carried out, in the transaction that decides.

    Raises:
        BadInput: ``errors`` names every mistake; the approval stays open.
    """
    assert approval.plan_id is not None
    plan = fold(await read_stream(scope, f"plan:{approval.plan_id}")).graph
    await edited_tasks(replace(scope, user_id=approval.owner_id), plan, edited, inside="edited_arguments.")


async def edited_tasks(scope: Scope, plan: Plan, edited: dict[str, Any], *, inside: str = "") -> tuple[Task, ...]:
    """Return a plan's tasks as a person wants them.

    Raises:
        BadInput: the person's plan cannot be carried out; ``errors`` names every mistake.
    """
    tasks, mistakes = read_edit(plan, edited)
    found = await agents_of(scope, tasks)
    if not mistakes:
        mistakes = check_plan(msgspec.structs.replace(plan, tasks=tuple(tasks)), agents=found, most=_most(plan))
    if mistakes:
        raise refusal(mistakes, inside=inside)
    return with_agents(tasks, found)


def _most(plan: Plan) -> int:
    return max(MOST_TASKS, len(plan.tasks))


def read_edit(plan: Plan, edited: dict[str, Any]) -> tuple[list[Task], list[Mistake]]:
    """Return a plan's tasks with a person's changes, and what is wrong with the form of these."""
    wanted = edited.get("tasks")
    if not isinstance(wanted, list):
        return [], [Mistake("tasks", "Send the tasks of the plan as a list.")]
    known = {task.id: task for task in plan.tasks}
    tasks: list[Task] = []
    mistakes: list[Mistake] = []
    for index, one in enumerate(wanted):
        here = f"tasks[{index}]"
        task = known.get(str(one.get("id"))) if isinstance(one, dict) else None
        if task is None:
            mistakes.append(Mistake(f"{here}.id", "The plan has no such task. Tasks can be dropped, not added."))
            continue
        found, wrong = _changed(task, one, here)
        mistakes += wrong
        tasks.append(found)
    return tasks, mistakes


def _changed(task: Task, wanted: dict[str, Any], here: str) -> tuple[Task, Sequence[Mistake]]:
    shown, whole = _task(task), msgspec.to_builtins(msgspec.structs.asdict(task))
    wrong = [
        Mistake(f"{here}.{name}", "This cannot be changed.")
        for name, value in wanted.items()
        if name not in EDITABLE and name != "id" and value != shown.get(name)
    ]
    changes = {name: wanted[name] for name in EDITABLE if name in wanted and wanted[name] != whole[name]}
    for name, value in changes.items():
        is_list = isinstance(value, list) and all(isinstance(one, str) for one in value)
        if not (is_list if name == "depends_on" else isinstance(value, str)):
            wrong.append(Mistake(f"{here}.{name}", "A list of ids." if name == "depends_on" else "A text."))
    if wrong:
        return task, wrong
    if "depends_on" in changes:
        changes["depends_on"] = tuple(changes["depends_on"])
    if "agent" in changes:
        changes["agent_id"] = None
    return msgspec.structs.replace(task, **changes), ()
