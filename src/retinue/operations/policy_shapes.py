"""The policy for operations as the API shows it."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from retinue.kernel import dollars
from retinue.operations.policy import DAY, GB, OperationPolicy
from retinue.operations.presenting import LimitsView
from retinue.operations.shapes import GivenLimits, Level
from retinue.web import Money, nanos_of

_Pattern = Annotated[str, StringConstraints(min_length=1, max_length=200)]
_HOLDS = OperationPolicy()


class WantedOperationPolicy(BaseModel):
    """What shall hold for the tenant's operations. Bytes, seconds, processor cores."""

    model_config = ConfigDict(extra="forbid")

    limits: GivenLimits = Field(default_factory=GivenLimits, description="what an operation gets that asks for nothing")
    most: GivenLimits = Field(default_factory=GivenLimits, description="the most that it may ask for")
    min_level: Level = Field(default="B", description="operations start in no sandbox that is less closed than this")
    drivers: list[_Pattern] = Field(default=[], max_length=50, description="names; empty: all that there are")
    models: list[_Pattern] = Field(
        default=[], max_length=100, description="patterns of provider:model; empty: all that the tenant can use"
    )
    model: str | None = Field(
        default=None, max_length=200, description="of operations that name none; null: the server's"
    )
    at_once: int = Field(default=5, ge=1, le=100, description="operations that go on at the same time")
    queue: int = Field(default=100, ge=0, le=10_000, description="operations that may wait; more are refused")
    attempts: int = Field(default=3, ge=1, le=10, description="how often one is begun whose worker died")
    budget: Money | None = Field(default=None, description="US dollars of model calls of one operation, at most")
    user_storage: int = Field(default=10 * GB, ge=0, le=2**50, description="bytes of artifacts that a user may keep")
    retention_seconds: int = Field(default=7 * DAY, ge=1, le=10 * 366 * DAY, description="how long outputs are kept")
    failed_retention_seconds: int = Field(
        default=DAY, ge=1, le=366 * DAY, description="likewise, of operations that did not succeed"
    )

    def policy(self) -> OperationPolicy:
        """Return it as the ledger has it; limits that are left out get their defaults."""
        fields: dict[str, Any] = self.model_dump(exclude={"limits", "most", "budget", "drivers", "models"})
        return OperationPolicy(
            **fields,
            limits=msgspec.structs.replace(_HOLDS.limits, **self.limits.model_dump(exclude_none=True)),
            most=msgspec.structs.replace(_HOLDS.most, **self.most.model_dump(exclude_none=True)),
            budget=nanos_of(self.budget),
            drivers=tuple(dict.fromkeys(self.drivers)),
            models=tuple(dict.fromkeys(self.models)),
        )


class OperationPolicyView(BaseModel):
    """What holds for the tenant's operations. Bytes, seconds, processor cores."""

    limits: LimitsView
    most: LimitsView
    min_level: Level
    drivers: list[str]
    models: list[str]
    model: str | None
    at_once: int
    queue: int
    attempts: int
    budget: str | None
    user_storage: int
    retention_seconds: int
    failed_retention_seconds: int
    version: int = Field(description="also the ETag; 0: nobody has changed it")

    @classmethod
    def of(cls, policy: OperationPolicy, version: int) -> OperationPolicyView:
        """Show a policy."""
        fields = msgspec.structs.asdict(policy) | {
            "limits": LimitsView(**msgspec.structs.asdict(policy.limits)),
            "most": LimitsView(**msgspec.structs.asdict(policy.most)),
            "budget": None if policy.budget is None else dollars(policy.budget),
            "version": version,
        }
        return cls.model_validate(fields, from_attributes=True)
