"""A tenant's policy for operations: what they get, the most they may ask for, and the least isolation that will do."""

from __future__ import annotations

import msgspec

from retinue.kernel import BadInput, Scope
from retinue.ledger import Event, Policies, event

MINUTE, HOUR, DAY = 60, 3_600, 86_400
KB, MB, GB = 10**3, 10**6, 10**9

LEVELS = ("D", "C", "B", "A")
"""Levels of isolation, from none to the best."""


class Limits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an operation may use. Bytes, seconds, and processor cores.

    Attributes:
        disk: what the workspace may hold, inputs and all.
        output: what it may write to its standard output and error.
        artifacts: how many files are kept of what it leaves.
        artifact_bytes: how large each of them may be.
    """

    seconds: float = 10.0 * MINUTE
    memory: int = 2 * GB
    disk: int = 1 * GB
    processes: int = 256
    cores: float = 1.0
    output: int = 10 * MB
    artifacts: int = 50
    artifact_bytes: int = 100 * MB


MOST = Limits(
    seconds=20.0 * HOUR,
    memory=1_000 * GB,
    disk=1_000 * GB,
    processes=10_000,
    cores=256.0,
    output=1 * GB,
    artifacts=1_000,
    artifact_bytes=100 * GB,
)
"""What no policy can go beyond."""

LEAST = Limits(
    seconds=0.1, memory=16 * MB, disk=1 * MB, processes=4, cores=0.01, output=1 * KB, artifacts=0, artifact_bytes=1
)


class OperationPolicy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What holds for the operations of a tenant. Events have some fields under an older name, which stays.

    Attributes:
        limits: what an operation gets that asks for nothing else.
        most: the most that it may ask for.
        min_level: operations start in no sandbox that is less closed than this.
        drivers: those that may be named; nothing: all that are installed.
        models: patterns of models (``provider:model``) that may be used; nothing: those the tenant can use at all.
        model: the model of operations that name none; None: the server's.
        at_once: how many operations go on at the same time.
        queue: how many may wait; more are refused.
        attempts: how often an operation is begun anew whose worker died.
        budget: what the model calls of one operation may cost at most, in nano-dollars; None: no bound of its own.
        user_storage: how many bytes of artifacts a user may keep.
        retention_seconds: how long outputs are kept.
        failed_retention_seconds: likewise, of operations that did not succeed.
    """

    limits: Limits = Limits()
    most: Limits = Limits(
        seconds=1.0 * HOUR, memory=8 * GB, disk=10 * GB, processes=1_024, cores=4.0, output=100 * MB, artifacts=200
    )
    min_level: str = "B"
    drivers: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    model: str | None = None
    at_once: int = 5
    queue: int = 100
    attempts: int = 3
    budget: int | None = None
    user_storage: int = 10 * GB
    retention_seconds: int = msgspec.field(default=7 * DAY, name="retention")
    failed_retention_seconds: int = msgspec.field(default=1 * DAY, name="failed_retention")


@event("operations.policy_changed")
class PolicyChanged(Event, frozen=True, kw_only=True):
    """Somebody who may changed what holds for the tenant's operations."""

    policy: OperationPolicy


_policies = Policies(
    "operations-policy", "operation_policies", OperationPolicy(), lambda policy: PolicyChanged(policy=policy)
)
PROJECTIONS = (_policies.projection,)
policy = _policies.of


async def record_policy(scope: Scope, wanted: OperationPolicy, expected: int) -> bool:
    """Let another policy hold from now on; return whether it is another one.

    Raises:
        PreconditionFailed: it is not at version ``expected`` any more.
        BadInput: a bound is exceeded, or a default is above its own most.
    """
    check_policy(wanted)
    return await _policies.change(scope, wanted, expected) != expected


def check_policy(wanted: OperationPolicy) -> None:
    """Refuse what contradicts itself.

    Raises:
        BadInput: the field is named.
    """
    for name in Limits.__struct_fields__:
        given, most = getattr(wanted.limits, name), getattr(wanted.most, name)
        if not getattr(LEAST, name) <= most <= getattr(MOST, name):
            text = f"most.{name}: from {getattr(LEAST, name):,} to {getattr(MOST, name):,}."
            raise BadInput(text, field=f"most.{name}")
        if not getattr(LEAST, name) <= given <= most:
            text = f"limits.{name}: from {getattr(LEAST, name):,} to {most:,}, which `most` says."
            raise BadInput(text, field=f"limits.{name}")
    if wanted.min_level not in LEVELS[1:]:
        raise BadInput("min_level: A, B or C. Nothing runs without a sandbox.", field="min_level")


def granted(holds: OperationPolicy, wanted: dict[str, float | int], *, seconds: int | None = None) -> Limits:
    """Return what an operation gets: the policy's limits, or what was asked for where that is within bounds.

    Args:
        holds: the tenant's policy.
        wanted: what was asked for.
        seconds: the most that a grant allows.

    Raises:
        BadInput: it is more than may be asked for, or too little to work with; the field is named.
    """
    for name, value in wanted.items():
        most = getattr(holds.most, name)
        if name == "seconds" and seconds is not None:
            most = min(most, seconds)
        if not getattr(LEAST, name) <= value <= most:
            raise BadInput(
                f"limits.{name}: from {getattr(LEAST, name):,} to {most:,}, which is the most that may be asked for.",
                field=f"limits.{name}",
            )
    found = msgspec.structs.replace(holds.limits, **wanted)
    if seconds is not None and found.seconds > seconds:
        found = msgspec.structs.replace(found, seconds=float(seconds))
    return found


def stricter(one: str, other: str | None) -> str:
    """Return the better closed of two levels."""
    return one if other is None else max(one, other, key=LEVELS.index)


def is_enough(level: str, least: str) -> bool:
    """Whether a sandbox of ``level`` will do where ``least`` is asked for."""
    return level in LEVELS and LEVELS.index(level) >= LEVELS.index(least)
