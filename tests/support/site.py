"""The application with the rooms that know people, in this process: real database and rooms, no socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
from fastapi import FastAPI

from retinue import agents, artifacts, grants, identity, metering, tenancy
from retinue.database import Database
from retinue.identity.room import ROOM as IDENTITY
from retinue.kernel import Clock, ManualClock, Room, Services, Settings
from retinue.ledger import Feed, Projections
from retinue.live import Live, MemoryLive
from retinue.tenancy import DoorKeeper
from retinue.tenancy.room import ROOM as TENANCY
from retinue.vault import Vault
from retinue.vault.room import ROOM as VAULT
from retinue.web import create_app

PASSWORD = "correct horse battery"


@dataclass
class Account:
    """A user who signed up, and a client that is signed in as this user."""

    user_id: UUID
    tenant_id: UUID
    email: str
    tokens: dict[str, Any]
    client: httpx.AsyncClient

    def auth(self) -> dict[str, str]:
        return bearer(self.tokens["access_token"])


@dataclass
class Site:
    """A running application."""

    app: FastAPI
    services: Services
    clock: ManualClock
    client: httpx.AsyncClient

    async def sign_up(self, email: str | None = None, **fields: Any) -> Account:
        """Make a user with a fresh e-mail address."""
        address = email or f"user-{uuid4().hex[:12]}@example.com"
        response = await self.client.post("/v1/auth/sign-up", json={"email": address, "password": PASSWORD, **fields})
        assert response.status_code == 201, response.text
        tokens = response.json()
        client = self.new_client(bearer(tokens["access_token"]))
        return Account(UUID(tokens["user_id"]), UUID(tokens["tenant_id"]), address, tokens, client)

    def new_client(self, headers: dict[str, str] | None = None) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@contextmanager
def hooks_of(rooms: Sequence[Room]) -> Iterator[None]:
    """Leave out what other rooms hang in, once a test of this process has opened the whole house: it needs services."""
    ours = tuple(f"retinue.{room.name}." for room in rooms)
    lists: tuple[list[Any], ...] = (
        tenancy.leave_hooks,
        tenancy.stop_hooks,
        tenancy.team_hooks,
        grants.on_revoke,
        grants.grant_checks,
        agents.on_pause,
        agents.on_delete,
    )
    single: tuple[Any, ...] = (artifacts.hooks, metering.hooks)
    before = [list(hooks) for hooks in lists]
    filled = [(hooks, field.name, getattr(hooks, field.name)) for hooks in single for field in fields(hooks)]
    for hooks in lists:
        hooks[:] = [hook for hook in hooks if hook.__module__.startswith(ours)]
    for hooks, name, hook in filled:
        if hook is not None and not hook.__module__.startswith(ours):
            setattr(hooks, name, None)
    try:
        yield
    finally:
        for hooks, kept in zip(lists, before, strict=True):
            hooks[:] = kept
        for hooks, name, hook in filled:
            setattr(hooks, name, hook)


@asynccontextmanager
async def open_site(
    database: Database, data: Path, rooms: Sequence[Room] = (VAULT, IDENTITY, TENANCY), **settings: Any
) -> AsyncIterator[Site]:
    """Join the rooms to services on ``database``; the clock stands at the present until it is moved."""
    chosen = Settings(data=data, **({"rate_limit": "off", "login_rate_limit": "off"} | settings))
    services, clock = Services(), ManualClock(datetime.now(UTC))
    services.add(Settings, chosen)
    services.add(Database, database)
    services.add(Clock, clock)  # type: ignore[type-abstract]  # services are found by their protocol
    services.add(Feed, Feed(database))
    services.add(Live, MemoryLive())  # type: ignore[type-abstract]  # services are found by their base class
    services.add(Projections, Projections(one for room in rooms for one in room.projections))
    services.add(Vault, await Vault.open(chosen, database))
    identity.install(services)
    app = create_app(chosen, services, rooms, DoorKeeper(services), clock=clock)
    site = Site(app, services, clock, httpx.AsyncClient())
    site.client = site.new_client()
    with hooks_of(rooms):
        yield site
    await site.client.aclose()
