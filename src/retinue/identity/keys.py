"""Making, replacing and revoking API keys. A key acts for its user in one tenant, within that user's role."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from retinue.identity import views
from retinue.identity.events import KeyCreated, KeyRevoked
from retinue.identity.key_text import digest, hint, new_key_text
from retinue.identity.views import KeyInfo
from retinue.kernel import BadInput, Conflict, Forbidden, NotFound, Scope, Settings, new_id
from retinue.ledger import Event, append, stream_version
from retinue.vault import Vault

MOST_KEYS = 100
LONGEST_OVERLAP = timedelta(days=30)

known_scopes: set[str] = set()
"""Every ``resource:action`` and ``resource:*`` there is; ``tenancy``, which owns the permission table, fills it."""


class Pepper:
    """The secret under which keys are hashed, so that a copy of the database opens nothing; a service."""

    def __init__(self, vault: Vault) -> None:
        self._pepper = vault.derive("identity/api-key")

    def digest(self, text: str) -> bytes:
        """Return what is stored of a key's text."""
        return digest(text, self._pepper)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made, with its text: the only time it is seen."""

    info: KeyInfo
    text: str


async def create_key(
    scope: Scope,
    name: str,
    scopes: Sequence[str] | None = None,
    expires_at: datetime | None = None,
    *,
    replaces: UUID | None = None,
) -> NewKey:
    """Make a key for the scope's user in the scope's tenant.

    Args:
        scope: who makes it.
        name: what its owner calls it.
        scopes: what it is limited to, as ``resource:action`` or ``resource:*``; None for all its user may do.
        expires_at: when it stops; None for never.
        replaces: the key whose place it takes.

    Raises:
        BadInput: it would be expired already, or a scope does not exist.
        Forbidden: a key would make one that may do more than itself.
        Conflict: the user has too many live keys.
    """
    now = scope.clock.now()
    if expires_at is not None and expires_at <= now:
        raise BadInput("A key must expire in the future.", field="expires_at")
    for n, one in enumerate(scopes or ()):
        if one not in known_scopes:
            raise BadInput(f"There is no scope {one}. Scopes are such as agents:read or runs:*.", field=f"scopes.{n}")
    _check_not_wider(scope, scopes)
    await _check_room(scope, now)
    text = new_key_text(scope.service(Settings).key_environment)
    wanted = None if scopes is None else sorted(set(scopes))
    info = KeyInfo(new_id(), scope.owner(), name, hint(text), wanted, now, expires_at, None, None, None)
    await scope.queries.execute(
        "INSERT INTO api_keys (tenant_id, key_id, user_id, name, hint, digest, scopes, created_at, expires_at) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        scope.tenant_id,
        info.key_id,
        info.user_id,
        info.name,
        info.hint,
        scope.service(Pepper).digest(text),
        info.scopes,
        now,
        expires_at,
    )
    fact = KeyCreated(
        key_id=info.key_id, user_id=info.user_id, scopes=info.scopes, expires_at=expires_at, replaces=replaces
    )
    await _record(scope, info.key_id, fact)
    return NewKey(info, text)


async def replace_key(scope: Scope, key_id: UUID, overlap: timedelta) -> NewKey:
    """Make a key like another one, which goes on for a while: two live keys, to change over without a gap.

    Raises:
        NotFound: the user has no such key.
        Conflict: it is revoked, expired or replaced already.
    """
    former = await _live(scope, key_id)
    if former.replaced_by is not None:
        raise Conflict("This key was replaced already. Replace the newer one, or make another.")
    fresh = await create_key(scope, former.name, former.scopes, former.expires_at, replaces=key_id)
    end = scope.clock.now() + min(overlap, LONGEST_OVERLAP)
    await scope.queries.execute(
        "UPDATE api_keys SET replaced_by = $2, expires_at = least(expires_at, $3) WHERE key_id = $1",
        key_id,
        fresh.info.key_id,
        end,
    )
    return fresh


async def revoke_key(scope: Scope, key_id: UUID) -> None:
    """Take a key back; the next request with it is refused, wherever it arrives.

    Raises:
        NotFound: the user has no such key, or it is revoked already.
    """
    found = await views.find_key(scope, scope.owner(), key_id, for_change=True)
    if found is None or found.revoked_at is not None:
        raise NotFound("key")
    await _revoke(scope, key_id, found.user_id)


async def revoke_keys_of(scope: Scope, user_id: UUID) -> None:
    """Take back every key that a user has in this tenant, because the user leaves it."""
    rows = await scope.queries.fetch(
        "SELECT key_id FROM api_keys WHERE user_id = $1 AND revoked_at IS NULL FOR UPDATE", user_id
    )
    for row in rows:
        await _revoke(scope, row["key_id"], user_id)


async def _revoke(scope: Scope, key_id: UUID, user_id: UUID) -> None:
    await scope.queries.execute("UPDATE api_keys SET revoked_at = $2 WHERE key_id = $1", key_id, scope.clock.now())
    await _record(scope, key_id, KeyRevoked(key_id=key_id, user_id=user_id))


async def _live(scope: Scope, key_id: UUID) -> KeyInfo:
    found = await views.find_key(scope, scope.owner(), key_id, for_change=True)
    if found is None:
        raise NotFound("key")
    if found.revoked_at is not None or (found.expires_at is not None and found.expires_at <= scope.clock.now()):
        raise Conflict("This key does not work any more. Make a new one.")
    return found


async def _check_room(scope: Scope, now: datetime) -> None:
    live = await scope.queries.fetchval(
        "SELECT count(*) FROM api_keys WHERE user_id = $1 AND revoked_at IS NULL "
        "AND (expires_at IS NULL OR expires_at > $2)",
        scope.owner(),
        now,
    )
    if live >= MOST_KEYS:
        raise Conflict(f"You have {MOST_KEYS} live keys. Revoke some first.")


def _check_not_wider(scope: Scope, scopes: Sequence[str] | None) -> None:
    own = scope.scopes
    if own is None:
        return
    covered = scopes is not None and all(one in own or f"{one.partition(':')[0]}:*" in own for one in scopes)
    if not covered:
        raise Forbidden("A key cannot make one that may do more than itself. Name scopes that it has.")


async def _record(scope: Scope, key_id: UUID, fact: Event) -> None:
    stream = f"key:{key_id}"
    await append(scope, stream, await stream_version(scope, stream), [fact])
