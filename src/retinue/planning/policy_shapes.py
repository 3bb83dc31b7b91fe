"""The policy of plans as the API shows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from retinue.kernel import dollars
from retinue.planning.graph import MOST_TASKS, OnFailure, Risk
from retinue.planning.policy import AskFrom, PlanningPolicy
from retinue.planning.suggestions import Suggestion
from retinue.web import Money, nanos_of


class PlanRuleShape(BaseModel):
    """Plans in which nobody but these agents works, up to this risk, need not ask for their risk."""

    model_config = ConfigDict(extra="forbid")

    agents: list[Annotated[str, StringConstraints(min_length=1, max_length=100)]] = Field(
        min_length=1, max_length=60, examples=[["researcher", "writer"]]
    )
    risk: Risk = Field(description="the highest that is let pass")


class SuggestionView(PlanRuleShape):
    """A rule that your decisions suggest; put it into `rules` if you want it."""

    approved: int = Field(description="plans of this kind that you approved as they were")


class WantedPolicy(BaseModel):
    """What shall hold for the tenant's plans."""

    model_config = ConfigDict(extra="forbid")

    orchestrator: str = Field(
        default="orchestrator", min_length=1, max_length=100, description="who gets messages that name no agent"
    )
    seconds: float = Field(default=5, ge=0.1, le=600, description="for a model to write a plan")
    ask_from: AskFrom = Field(default="medium", description="a person is asked from this risk on")
    ask_cost: Money | None = Field(
        default="1.00", description="and from this estimate on, in US dollars; null: whatever it costs"
    )
    confident: float | None = Field(
        default=None, ge=0, le=1, description="below high risk, a plan of at least this confidence need not ask"
    )
    approval_seconds: float = Field(default=300, ge=1, le=7 * 86_400, description="for a person to decide")
    cache_seconds: int = Field(default=0, ge=0, le=30 * 86_400, description="how long a plan may be used again")
    on_failure: OnFailure = Field(default="continue", description="when a task fails, unless the plan says otherwise")
    most_tasks: int = Field(default=MOST_TASKS, ge=1, le=MOST_TASKS, description="tasks that a model may plan")

    rules: list[PlanRuleShape] = Field(default=[], max_length=100, description="what need not ask, whatever its risk")

    def policy(self) -> PlanningPolicy:
        """Return it as the ledger has it."""
        fields = self.model_dump() | {"ask_cost": nanos_of(self.ask_cost)}
        return msgspec.convert(fields, PlanningPolicy)


class PolicyView(WantedPolicy):
    """What holds for the tenant's plans."""

    version: int = Field(description="also the ETag; 0: nobody has changed it")
    suggestions: list[SuggestionView] = Field(description="rules that your decisions suggest")

    @classmethod
    def of(cls, policy: PlanningPolicy, version: int, suggested: Sequence[Suggestion] = ()) -> PolicyView:
        """Show a policy."""
        fields = msgspec.structs.asdict(policy)
        cost = None if policy.ask_cost is None else dollars(policy.ask_cost)
        shown = [SuggestionView(**msgspec.to_builtins(one.rule), approved=one.approved) for one in suggested]
        rules = [PlanRuleShape(**msgspec.to_builtins(one)) for one in policy.rules]
        return cls.model_construct(
            **fields | {"ask_cost": cost, "rules": rules, "version": version, "suggestions": shown}
        )
