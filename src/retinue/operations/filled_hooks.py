"""What rooms ask of others that they do not know: quotas, charges, the terms of a grant, a user's files, drivers."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from retinue import artifacts, grants, metering
from retinue.artifacts import GrantTerms, Limits, Stored, grantee_label
from retinue.grants import Terms
from retinue.kernel import BadInput, Gone, NotFound, Scope, Settings, least, new_id
from retinue.metering import Charge, Storage
from retinue.operations.drivers import Drivers
from retinue.operations.policy import policy


def join_artifacts() -> None:
    """Fill the hooks of artifacts that nobody has filled."""
    hooks = artifacts.hooks
    hooks.limits = hooks.limits or limits
    hooks.charge = hooks.charge or charge
    hooks.grant_terms = hooks.grant_terms or grant_terms
    hooks.noted = hooks.noted or noted
    hooks.stored = hooks.stored or metering.note_storage
    metering.hooks.storage = metering.hooks.storage or storage
    if check_grant not in grants.grant_checks:
        grants.grant_checks.append(check_grant)


async def check_grant(scope: Scope, wanted: grants.Wanted) -> None:
    """Refuse a grant of drivers that are not there, or on files that its user does not have.

    Raises:
        BadInput: there is such a one.
    """
    scope.service(Drivers).check(wanted.drivers)
    own = replace(scope, role=None)
    for index, artifact_id in enumerate(wanted.files or ()):
        try:
            await artifacts.find(own, artifact_id)
        except (NotFound, Gone) as fault:
            raise BadInput(f"files.{index}: {fault.detail}", field=f"files.{index}") from None


async def limits(scope: Scope, user_id: UUID) -> Limits:
    """Return what a user may store: the least of what the policy, the tier and the server allow."""
    holds, _ = await policy(scope)
    tier = await metering.tier_of(scope)
    settings = scope.service(Settings)
    return Limits(  # on one's own server the tier says nothing
        user_bytes=least(holds.user_storage, settings.artifact_user_bytes, tier.storage_bytes),
        artifact_bytes=min(holds.most.artifact_bytes, settings.artifact_bytes),
        retention_seconds=least(holds.retention_seconds, tier.retention_seconds),
    )


async def storage(scope: Scope, user_id: UUID) -> Storage:
    """Return what a user has stored and may store."""
    may = await limits(scope, user_id)
    return Storage(await artifacts.storage_used(scope, user_id), may.user_bytes, may.retention_seconds)


async def charge(scope: Scope, used: list[Stored]) -> None:
    """Charge for what was stored. The time up to which it is counted moves in the same transaction: each is new."""
    await metering.charge(
        scope,
        [
            Charge(
                kind="storage",
                quantity=one.byte_seconds,
                key=str(new_id()),
                user_id=one.user_id,
                operation_id=one.operation_id,
                application=await _application(scope, one.grant_id),
            )
            for one in used
        ],
    )


async def _application(scope: Scope, grant_id: UUID | None) -> str:
    return "" if grant_id is None else (await grants.terms(scope, grant_id)).application


async def grant_terms(scope: Scope, grant_id: UUID) -> GrantTerms:
    """Return what a grant says about what its application uploads."""
    terms = await grants.terms(scope, grant_id)
    return GrantTerms(recipients(terms), terms.retention_seconds, terms.expires_at)


def recipients(terms: Terms) -> dict[str, bytes]:
    """Return the keys to which files of a grant are sealed besides the server's, by their labels."""
    return {} if terms.seal_to is None else {grantee_label(terms.grant_id): terms.seal_to}


async def noted(scope: Scope, what: str, artifact_id: UUID) -> None:
    """Keep the history of a grant: what its application did with an artifact."""
    if scope.grant_id is not None:
        await grants.note(scope, scope.grant_id, what, str(artifact_id))
