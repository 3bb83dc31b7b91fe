"""One-time tickets: how a browser, which cannot send headers with a stream, opens one without a token in its URL.

A ticket is good once, for half a minute, for live streams only. The database holds a digest of it; the first use
deletes the row, so that a copy in some log is worth nothing.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

import msgspec
import orjson

from retinue.database import Database
from retinue.kernel import Clock, Scope, Unauthenticated
from retinue.web.gate import Credential

SECONDS = 30


class Tickets:
    """Issues and redeems tickets; a service."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def issue(self, scope: Scope, credential: Credential) -> str:
        """Return a new ticket that opens a stream as ``credential``, in the scope's tenant."""
        secret = secrets.token_urlsafe(24)
        await scope.queries.execute(
            "WITH old AS (DELETE FROM stream_tickets WHERE expires_at < $4::timestamptz - interval '1 minute') "
            "INSERT INTO stream_tickets (tenant_id, ticket, credential, expires_at) "
            "VALUES ($1, $2, $3, $4::timestamptz + $5)",
            scope.tenant_id,
            _digest(secret),
            orjson.dumps(asdict(credential)).decode(),
            self._clock.now(),
            timedelta(seconds=SECONDS),
        )
        return f"{scope.tenant_id.hex}.{secret}"

    async def redeem(self, ticket: str) -> Credential:
        """Return the credential behind a ticket, which is used up by this.

        Raises:
            Unauthenticated: there is no such ticket, it was used before, or it is too old.
        """
        tenant, _, secret = ticket.partition(".")
        try:
            tenant_id = UUID(hex=tenant)
        except ValueError:
            raise Unauthenticated("This ticket is not valid.") from None
        async with self._database.transaction(tenant_id) as uow:
            found = await uow.queries.fetchrow(
                "DELETE FROM stream_tickets WHERE ticket = $1 RETURNING credential::text, expires_at", _digest(secret)
            )
        if found is None or found["expires_at"] < self._clock.now():
            raise Unauthenticated("This ticket was used before or is older than half a minute. Get a new one.")
        stored = msgspec.json.decode(found["credential"], type=_Stored)
        return Credential(stored.kind, stored.subject, stored.user_id, tenant_id, stored.expires_at, stored.claims)


class _Stored(msgspec.Struct):
    """A credential as it lies in the table; the tenant is the ticket's."""

    kind: Literal["token", "key"]
    subject: str
    user_id: UUID | None
    expires_at: datetime | None
    claims: dict[str, str]


def _digest(secret: str) -> bytes:
    return hashlib.sha256(b"retinue stream ticket\0" + secret.encode()).digest()
