"""What people's decisions about plans suggest: rules that they may put into the policy. Nothing is learnt unasked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from retinue import approvals
from retinue.approvals import Approval
from retinue.kernel import Scope
from retinue.planning.graph import Risk
from retinue.planning.policy import PlanningPolicy, PlanRule, covers, higher

LOOKED_AT = 100
"""Newest decisions of the user that are looked at."""

ENOUGH = 3
"""Plans of a kind that were approved as they were, and none otherwise, before a rule is suggested."""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A rule, and how many plans it would have let pass were approved as they were."""

    rule: PlanRule
    approved: int


async def suggestions(scope: Scope, holds: PlanningPolicy) -> list[Suggestion]:
    """Return the rules that the user's own decisions suggest and the policy does not have."""
    decided = await approvals.decided(scope, "plan", LOOKED_AT)
    return [one for one in weigh(decided) if not any(_within(one.rule, rule) for rule in holds.rules)]


def weigh(decided: Iterable[Approval]) -> list[Suggestion]:
    """Return what decisions suggest: for teams and risks of which enough plans were approved and none refused."""
    approved: Counter[PlanRule] = Counter()
    refused: list[PlanRule] = []
    for approval in decided:
        kind = _kind_of(approval.arguments or {})
        if approval.status == "approved" and approval.edited_arguments is None and approval.tainted_by is None:
            approved[kind] += 1
        elif approval.status == "rejected" or approval.edited_arguments is not None:
            refused.append(kind)
    return [
        Suggestion(rule, count)
        for rule, count in approved.most_common()
        if count >= ENOUGH and not any(_within(one, rule) for one in refused)
    ]


def _kind_of(shown: dict[str, Any]) -> PlanRule:
    tasks: Sequence[dict[str, Any]] = shown.get("tasks", ())
    risk: Risk = "low"
    for task in tasks:
        risk = higher(risk, task.get("risk", "low"))
    return PlanRule(agents=tuple(sorted({str(task["agent"]) for task in tasks if task.get("agent")})), risk=risk)


def _within(one: PlanRule, rule: PlanRule) -> bool:
    return covers(rule, one.agents, one.risk)
