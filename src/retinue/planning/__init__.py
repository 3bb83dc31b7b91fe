"""Plans: a graph of tasks, carried out by runs, that survives like a run."""

from retinue.planning.assigning import checked_plan
from retinue.planning.checks import Mistake, check_plan, refusal, same_name
from retinue.planning.commands import (
    cancel_plan,
    end_hooks,
    load_plan,
    retry_plan,
    start_plan,
)
from retinue.planning.events import TaskStarted
from retinue.planning.expressions import compile_expression, evaluate, expressions_in, render
from retinue.planning.graph import Call, Each, Origin, Plan, Question, Retry, Task, Waiting
from retinue.planning.lead import find_orchestrator
from retinue.planning.matching import matches, offer
from retinue.planning.outputs import read_json
from retinue.planning.presenting import PlanGraph, PlanView, present, present_plan
from retinue.planning.state import PlanState, PlanStatus, TaskStatus
from retinue.planning.views import PlanRow, events_waited_for, find_plan, list_plans

__all__ = [
    "Call",
    "Each",
    "Mistake",
    "Origin",
    "Plan",
    "PlanGraph",
    "PlanRow",
    "PlanState",
    "PlanStatus",
    "PlanView",
    "Question",
    "Retry",
    "Task",
    "TaskStarted",
    "TaskStatus",
    "Waiting",
    "cancel_plan",
    "check_plan",
    "checked_plan",
    "compile_expression",
    "end_hooks",
    "evaluate",
    "events_waited_for",
    "expressions_in",
    "find_orchestrator",
    "find_plan",
    "list_plans",
    "load_plan",
    "matches",
    "offer",
    "present",
    "present_plan",
    "read_json",
    "refusal",
    "render",
    "retry_plan",
    "same_name",
    "start_plan",
]
