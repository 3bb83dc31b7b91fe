"""The model gateway by itself, in a process like a worker's: `python -m bench.product.gateway`."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import msgspec
from pydantic import SecretStr

from bench.load.program import Program
from retinue.database import Database
from retinue.gateway import Caller, Rules, listen
from retinue.kernel import Actor, ActorKind, Clock, Scope, Services, Settings, SystemClock
from retinue.ledger import Feed, Projections
from retinue.metering import commands, views
from retinue.providers import Providers
from retinue.vault import Vault

_DOLLAR = 1_000_000_000


class GatewayOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Serve on a socket until the end; with a budget in force or without one."""

    dsn: str
    data: str
    stub: str
    socket: str
    budget: bool


class Gateway(Program[GatewayOrder]):
    """Serves as soon as it is ready. There is no result: it is stopped."""

    order_type: ClassVar[type[msgspec.Struct]] = GatewayOrder

    async def prepare(self) -> None:
        order = self.order
        settings = Settings(
            data=Path(order.data), openai_base_url=order.stub, openai_api_key=SecretStr("sk-stub-0123456789")
        )
        services = Services()
        services.add(Settings, settings)
        services.add(Clock, SystemClock())  # type: ignore[type-abstract]  # services are found by their protocol
        database = services.add(Database, Database(order.dsn, size=8))
        await database.open()
        services.add(Feed, Feed(database))
        services.add(Projections, Projections([views.PROJECTION]))
        services.add(Vault, await Vault.open(settings, database))
        providers = services.add(Providers, Providers(settings))
        await providers.warm()
        tenant, user = uuid4(), uuid4()
        if order.budget:
            async with database.transaction(tenant) as uow:
                actor = Actor(ActorKind.USER, user)
                scope = Scope(tenant, actor, uow, SystemClock(), services, user_id=user, role="admin")
                await commands.set_budget(scope, tenant, 1000 * _DOLLAR, "total")
        caller = Caller(tenant_id=tenant, user_id=user, agent_id=uuid4(), run_id=uuid4())
        self._open = contextlib.AsyncExitStack()
        line = listen(services, Path(order.socket), caller, Rules(budget=1000 * _DOLLAR))
        await self._open.enter_async_context(line)

    async def work(self) -> dict[str, Any]:
        await self._open.aclose()
        return {}


if __name__ == "__main__":
    Gateway.main()
