"""A tenant's policy for plans: how long planning may take, when a person is asked, whether plans are used again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from retinue.kernel import BadInput, Scope, dollars
from retinue.ledger import Event, Policies, event
from retinue.planning.graph import OnFailure, Plan, Risk

AskFrom = Literal["low", "medium", "high", "never"]

_RANK: dict[str, int] = {"low": 0, "medium": 1, "high": 2, "never": 3}


class PlanRule(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Plans in which nobody but these agents works, up to this risk, need not ask for their risk."""

    agents: tuple[str, ...]
    risk: Risk


class PlanningPolicy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What holds for the plans of a tenant.

    Attributes:
        orchestrator: name of the agent that gets messages without a named agent.
        seconds: how long the model has to write a plan; then a plain sequence is taken.
        ask_from: a person is asked from this risk on.
        ask_cost: a person is asked from this estimate on, in nano-dollars; None: whatever it costs.
        confident: a plan below high risk need not ask when every task is planned with at least this confidence.
        approval_seconds: how long a person has; then the plan is declined.
        cache_seconds: how long a plan may be used again for the same request; 0: never.
        on_failure: what happens when a task fails for good, unless the plan says otherwise.
        most_tasks: how many tasks a model may plan.
        rules: plans that need not ask for their risk. They do not count for a plan whose maker has read untrusted text.
    """

    orchestrator: str = "orchestrator"
    seconds: float = 5.0
    ask_from: AskFrom = "medium"
    ask_cost: int | None = 1_000_000_000
    confident: float | None = None
    approval_seconds: float = 300.0
    cache_seconds: int = 0
    on_failure: OnFailure = "continue"
    most_tasks: int = 50
    rules: tuple[PlanRule, ...] = ()


@event("planning.policy_changed")
class PolicyChanged(Event, frozen=True, kw_only=True):
    """Somebody who may changed what holds for the tenant's plans."""

    policy: PlanningPolicy


EVENTS = (PolicyChanged,)

_policies = Policies(
    "planning-policy", "planning_policies", PlanningPolicy(), lambda policy: PolicyChanged(policy=policy)
)
PROJECTIONS = (_policies.projection,)
policy = _policies.of


async def change_policy(scope: Scope, wanted: PlanningPolicy, expected: int) -> int:
    """Let another policy hold from now on; return its version.

    Raises:
        PreconditionFailed: it is not at version ``expected`` any more.
        BadInput: a bound is exceeded.
    """
    if not 0.1 <= wanted.seconds <= 600:
        raise BadInput("seconds: from 0.1 to 600.", field="seconds")
    return await _policies.change(scope, wanted, expected)


def reasons_to_ask(holds: PlanningPolicy, plan: Plan, acting_alone: Sequence[str]) -> tuple[str, ...]:
    """Return why a person must see the plan before it begins; nothing: it may begin.

    Args:
        holds: the tenant's policy.
        plan: the plan.
        acting_alone: names of agents in it that may change or send something without asking. What a model thinks of
            the risk cannot make it less than medium where one of them is at work.
    """
    if holds.ask_from == "never" and holds.ask_cost is None:
        return ()
    risk = highest_risk(plan)
    if acting_alone and risk == "low":
        risk = "medium"
    reasons: list[str] = []
    if _RANK[risk] >= _RANK[holds.ask_from] and not (_confident(holds, plan, risk) or _ruled(holds, plan, risk)):
        why = f", because {', '.join(sorted(set(acting_alone)))} may act without asking" if acting_alone else ""
        reasons.append(f"its risk is {risk}{why}")
    cost = sum(task.cost or 0 for task in plan.tasks)
    if holds.ask_cost is not None and cost >= holds.ask_cost:
        reasons.append(f"it may cost {dollars(cost)} USD")
    return tuple(reasons)


def highest_risk(plan: Plan) -> Risk:
    """Return the highest risk of a plan's tasks."""
    return max((task.risk for task in plan.tasks), key=lambda risk: _RANK[risk], default="low")


def higher(one: Risk, other: Risk) -> Risk:
    """Return the higher of two risks."""
    return max(one, other, key=lambda risk: _RANK[risk])


def covers(rule: PlanRule, agents: Sequence[str], risk: Risk) -> bool:
    """Whether a rule holds for plans of these agents and this risk."""
    return set(agents) <= set(rule.agents) and _RANK[risk] <= _RANK[rule.risk]


def _ruled(holds: PlanningPolicy, plan: Plan, risk: Risk) -> bool:
    agents = [task.agent for task in plan.tasks if task.agent]
    return not plan.tainted_by and any(covers(rule, agents, risk) for rule in holds.rules)


def _confident(holds: PlanningPolicy, plan: Plan, risk: Risk) -> bool:
    if holds.confident is None or risk == "high":
        return False
    return all(task.confidence is not None and task.confidence >= holds.confident for task in plan.tasks)
