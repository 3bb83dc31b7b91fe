"""When a person is asked about a plan: plain functions."""

from __future__ import annotations

import pytest

from retinue.planning.drafting import meaning, sequence
from retinue.planning.graph import Origin, Plan, Risk, Task
from retinue.planning.policy import PlanningPolicy, PlanRule, reasons_to_ask

DOLLAR = 1_000_000_000


def plan(*risks: Risk, agent: str = "worker", tainted: bool = False, cost: int = 0, sure: float | None = None) -> Plan:
    tasks = tuple(
        Task(id=f"t{number}", agent=agent, risk=risk, cost=cost, confidence=sure) for number, risk in enumerate(risks)
    )
    return Plan(title="p", tasks=tasks, origin=Origin(kind="model"), tainted_by=("a page",) if tainted else ())


@pytest.mark.parametrize(
    "holds, drafted, alone, asks",
    [
        (PlanningPolicy(), plan("low"), [], False),
        (PlanningPolicy(), plan("low", "medium"), [], True),
        (PlanningPolicy(ask_from="high"), plan("medium"), [], False),
        (PlanningPolicy(ask_from="never"), plan("high"), [], False),
        (PlanningPolicy(ask_from="low"), plan("low"), [], True),
        (PlanningPolicy(), plan("low"), ["worker"], True),
        (PlanningPolicy(), plan("low", "low", cost=DOLLAR // 2), [], True),
        (PlanningPolicy(ask_cost=None), plan("low", cost=DOLLAR * 99), [], False),
        (PlanningPolicy(ask_from="never"), plan("low", cost=DOLLAR), [], True),
        (PlanningPolicy(confident=0.8), plan("medium", sure=0.8), [], False),
        (PlanningPolicy(confident=0.8), plan("medium", sure=0.7), [], True),
        (PlanningPolicy(confident=0.8), plan("medium"), [], True),
        (PlanningPolicy(confident=0.8), plan("high", sure=1.0), [], True),
        (PlanningPolicy(rules=(PlanRule(agents=("worker",), risk="medium"),)), plan("medium"), [], False),
        (PlanningPolicy(rules=(PlanRule(agents=("worker",), risk="medium"),)), plan("high"), [], True),
        (PlanningPolicy(rules=(PlanRule(agents=("worker",), risk="high"),)), plan("high", agent="other"), [], True),
        (PlanningPolicy(rules=(PlanRule(agents=("worker",), risk="high"),)), plan("high", tainted=True), [], True),
        (PlanningPolicy(rules=(PlanRule(agents=("worker",), risk="high"),)), plan("low", cost=DOLLAR), [], True),
    ],
)
def test_who_is_asked(holds: PlanningPolicy, drafted: Plan, alone: list[str], asks: bool) -> None:
    assert bool(reasons_to_ask(holds, drafted, alone)) is asks


def test_the_reasons_name_what_they_are_about() -> None:
    (risk, cost) = reasons_to_ask(PlanningPolicy(), plan("low", cost=2 * DOLLAR), ["worker"])
    assert "medium" in risk
    assert "worker" in risk
    assert "2" in cost


def test_words_that_matter() -> None:
    assert meaning("Please, copy a.md to b.md!") == ["copy", "a.md", "b.md"]
    assert meaning("copy a.md to b.md") != meaning("copy b.md to a.md")


def test_nobody_is_planned_for_without_a_team() -> None:
    assert sequence("do it", []) is None
