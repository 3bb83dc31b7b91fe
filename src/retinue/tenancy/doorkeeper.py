"""Lets callers in: the web's :class:`~retinue.web.Gate`, on the credentials of ``identity`` and the members here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from retinue.database import Database
from retinue.identity import Credentials, grantee_id
from retinue.kernel import (
    Actor,
    ActorKind,
    Clock,
    Forbidden,
    NotFound,
    Queries,
    Services,
    Unauthenticated,
    UnitOfWork,
    to_the_second,
)
from retinue.tenancy import permissions
from retinue.tenancy.teams import sees_all_teams
from retinue.web import ALL, Asked, Credential, Entry, Permission

_ENTER_LOGIN = "SELECT * FROM tenancy_enter_login($1, $2, $3, $4, $5)"
_ENTER_EXTERNAL = "SELECT * FROM tenancy_enter_external($1, $2, $3)"
_ENTER_KEY = "SELECT * FROM tenancy_enter_key($1, $2, $3, true)"
_STANDING = "SELECT * FROM tenancy_standing($1, $2, $3, $4, $5, $6, $7, $8, $9)"
_STANDING_TEAMS = "SELECT * FROM tenancy_standing_teams($1, $2)"
_ENTER_GRANT = (
    "SELECT g.owner_id AS r_user, m.role AS r_role, g.revoked_at, g.expires_at FROM grants g "
    "LEFT JOIN members m ON m.tenant_id = g.tenant_id AND m.user_id = g.owner_id "
    "WHERE g.grant_id = $1 AND g.grantee = $2"
)
_STANDING_GRANTS = "SELECT * FROM tenancy_standing_grants($1, $2, $3, $4)"
_USE_UP = """
WITH old AS (
    DELETE FROM signature_nonces WHERE (grantee_id, nonce) IN (
        SELECT grantee_id, nonce FROM signature_nonces WHERE expires_at < $5 LIMIT 20 FOR UPDATE SKIP LOCKED))
INSERT INTO signature_nonces (tenant_id, grantee_id, nonce, expires_at) VALUES ($1, $2, $3, $4)
ON CONFLICT DO NOTHING RETURNING true
"""
_KEPT = timedelta(seconds=60)  # beyond a signature's end: the clocks of two servers differ
_OWN_TEAMS = "SELECT team_id FROM team_members WHERE user_id = $1"


class DoorKeeper:
    """Implements :class:`retinue.web.Gate`; ``identity.install`` must have run before."""

    def __init__(self, services: Services) -> None:
        self._credentials = services.get(Credentials)
        self._database = services.get(Database)
        self._clock = services.get(Clock)  # type: ignore[type-abstract]  # services are found by their protocol

    async def identify(self, asked: Asked) -> Credential | None:
        """Return what the headers prove; see :meth:`retinue.web.Gate.identify`."""
        return await self._credentials.identify(asked)

    async def home(self, credential: Credential) -> UUID:
        """Return the tenant to work in by default; see :meth:`retinue.web.Gate.home`."""
        return await self._credentials.home(credential)

    async def use_up(self, credential: Credential, tenant_id: UUID) -> None:
        """Take a signature's nonce out of use; see :meth:`retinue.web.Gate.use_up`."""
        claims = credential.claims
        async with self._database.transaction(tenant_id) as uow:
            is_first = await uow.queries.fetchval(
                _USE_UP,
                tenant_id,
                grantee_id(claims["grantee"]),
                claims["nonce"],
                datetime.fromisoformat(claims["until"]) + _KEPT,
                self._clock.now(),
            )
        if not is_first:
            raise Unauthenticated("The nonce of this signature was used before. Sign each request anew.")

    async def enter(self, credential: Credential, tenant_id: UUID, uow: UnitOfWork) -> Entry:
        """Let the caller into the tenant; see :meth:`retinue.web.Gate.enter`."""
        if credential.claims["kind"] == "grant":
            return await self._enter_grant(credential, uow)
        query, arguments = _question(credential, tenant_id, self._clock.now())
        row = await uow.queries.fetchrow(query, *arguments)
        if row is None or not row["r_alive"]:
            if credential.claims["kind"] == "external":
                raise NotFound("tenant")  # a user who is new here is a member of nothing yet
            raise Unauthenticated(_ENDED[credential.claims["kind"]])
        entry = _entry(row, is_key=credential.kind == "key")
        if entry is None:
            raise NotFound("tenant")
        return entry

    async def _enter_grant(self, credential: Credential, uow: UnitOfWork) -> Entry:
        grant_id, grantee = UUID(credential.claims["grant"]), credential.claims["grantee"]
        row = await uow.queries.fetchrow(_ENTER_GRANT, grant_id, grantee)
        if row is None:
            raise Unauthenticated("There is no such grant for the key that signed this request.")
        now, revoked_at, expires_at = self._clock.now(), row["revoked_at"], row["expires_at"]
        if revoked_at is not None:
            raise Forbidden(f"This grant was revoked at {to_the_second(revoked_at)}.")
        if expires_at is not None and expires_at <= now:
            raise Forbidden(f"This grant expired at {to_the_second(expires_at)}.")
        if row["r_role"] is None:
            raise Forbidden("The user who gave this grant is no member of the tenant any more.")
        return _grantee(row["r_user"], row["r_role"], grant_id, grantee)

    async def standing(self, holders: Sequence[tuple[Credential, UUID]]) -> Sequence[Entry | None]:
        """Ask again for many at once; see :meth:`retinue.web.Gate.standing`."""
        found: list[Entry | None] = [None] * len(holders)
        if not holders:
            return found
        async with self._database.routing() as queries:
            await self._standing_grants(queries, holders, found)
            rows = await queries.fetch(_STANDING, *_columns(holders), self._clock.now())
            tenants = [tenant_id for _, tenant_id in holders]
            users: list[UUID | None] = [None] * len(holders)
            for row in rows:
                users[row["r_n"] - 1] = row["r_user"]
            teams: dict[int, set[str]] = defaultdict(set)
            for row in await queries.fetch(_STANDING_TEAMS, tenants, users):
                teams[row["r_n"] - 1].add(f"team:{row['r_team']}")
        for row in rows:
            n = row["r_n"] - 1
            if row["r_alive"]:
                entry = _entry(row, is_key=holders[n][0].kind == "key")
                found[n] = entry and replace(entry, audiences=_audiences(entry.role, teams[n]))
        return found

    async def _standing_grants(
        self, queries: Queries, holders: Sequence[tuple[Credential, UUID]], found: list[Entry | None]
    ) -> None:
        places = [n for n, (credential, _) in enumerate(holders) if credential.claims["kind"] == "grant"]
        if not places:
            return
        grants = [UUID(holders[n][0].claims["grant"]) for n in places]
        grantees = [holders[n][0].claims["grantee"] for n in places]
        tenants = [holders[n][1] for n in places]
        for row in await queries.fetch(_STANDING_GRANTS, tenants, grants, grantees, self._clock.now()):
            n = row["r_n"] - 1
            found[places[n]] = _grantee(row["r_user"], row["r_role"], grants[n], grantees[n])

    async def audiences(self, entry: Entry, uow: UnitOfWork) -> frozenset[str]:
        """Return the teams whose events the caller sees; see :meth:`retinue.web.Gate.audiences`."""
        if sees_all_teams(entry.role) or entry.grant_id is not None:
            return _audiences(entry.role, ())
        rows = await uow.queries.fetch(_OWN_TEAMS, entry.user_id)
        return _audiences(entry.role, [f"team:{row[0]}" for row in rows])

    def permits(self, role: str, scopes: frozenset[str] | None, resource: str, action: str) -> Permission:
        """Look the cell up in the permission table."""
        return permissions.permits(role, scopes, resource, action)


def _audiences(role: str, teams: Iterable[str]) -> frozenset[str]:
    return frozenset({ALL}) if sees_all_teams(role) else frozenset(teams)


_ENDED = {
    "login": "This login has ended. Sign in again.",
    "key": "This API key does not exist, has expired or was revoked.",
}


def _question(credential: Credential, tenant_id: UUID, now: datetime) -> tuple[str, tuple[object, ...]]:
    claims = credential.claims
    if claims["kind"] == "login":
        login_id, version = UUID(claims["login"]), int(claims["version"])
        return _ENTER_LOGIN, (credential.user_id, login_id, version, tenant_id, now)
    if claims["kind"] == "external":
        return _ENTER_EXTERNAL, (claims["issuer"], claims["subject"], tenant_id)
    return _ENTER_KEY, (bytes.fromhex(claims["digest"]), tenant_id, now)


def _entry(row: Any, *, is_key: bool) -> Entry | None:
    """Return the entry of somebody whose credential is alive; None for no member of the tenant."""
    if row["r_role"] is None:
        return None
    if not is_key:
        return Entry(Actor(ActorKind.USER, row["r_user"]), row["r_user"], row["r_role"])
    scopes = None if row["r_scopes"] is None else frozenset(row["r_scopes"])
    return Entry(Actor(ActorKind.API_KEY, row["r_key"]), row["r_user"], row["r_role"], scopes)


def _grantee(user_id: UUID, role: str, grant_id: UUID, grantee: str) -> Entry:
    """Return the entry of an application: what grantees may do, and of that what the granting user may do."""
    actor = Actor(ActorKind.GRANTEE, grantee_id(grantee))
    return Entry(actor, user_id, permissions.GRANTEE, permissions.scopes_within(role), grant_id=grant_id)


def _columns(holders: Sequence[tuple[Credential, UUID]]) -> list[list[object]]:
    """Turn holders into the arrays that the function takes: one per column, one element per holder."""
    rows = []
    for credential, tenant_id in holders:
        claims = credential.claims
        login, version, digest = claims.get("login"), claims.get("version"), claims.get("digest")
        rows.append(
            (
                claims["kind"],
                tenant_id,
                credential.user_id,
                UUID(login) if login else None,
                int(version) if version else None,
                bytes.fromhex(digest) if digest else None,
                claims.get("issuer"),
                claims.get("subject"),
            )
        )
    return [list(column) for column in zip(*rows, strict=True)]
