"""The composition root: the only file that knows every room. It builds the services and joins the rooms to them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from retinue import identity
from retinue.agents import find as find_agent
from retinue.agents import names as agent_names
from retinue.agents.room import ROOM as AGENTS
from retinue.approvals.room import ROOM as APPROVALS
from retinue.artifacts.room import ROOM as ARTIFACTS
from retinue.board.room import ROOM as BOARD
from retinue.chat.room import ROOM as CHAT
from retinue.database import Database, EmbeddedPostgres, current_revision, expected_revision, migrate, self_check
from retinue.dispatch import Dispatcher
from retinue.gateway.room import ROOM as GATEWAY
from retinue.grants.room import ROOM as GRANTS
from retinue.identity.room import ROOM as IDENTITY
from retinue.kernel import Clock, Fault, Room, Scope, Services, Settings, SystemClock, Unavailable
from retinue.ledger import Feed, Projections
from retinue.live import Live, MemoryLive, RedisLive
from retinue.metering import AgentDirectory
from retinue.metering.room import ROOM as METERING
from retinue.operations.room import ROOM as OPERATIONS
from retinue.planning.room import ROOM as PLANNING
from retinue.providers import Providers
from retinue.runs.room import ROOM as RUNS
from retinue.tenancy import DoorKeeper
from retinue.tenancy.room import ROOM as TENANCY
from retinue.tools import Toolbox
from retinue.vault import BlobStore, Vault, open_blobs
from retinue.vault.room import ROOM as VAULT
from retinue.web import Health, create_app
from retinue.workflows.room import ROOM as WORKFLOWS

log = logging.getLogger(__name__)

ROOMS: Sequence[Room] = (
    VAULT,
    IDENTITY,
    TENANCY,
    GRANTS,
    AGENTS,
    APPROVALS,
    METERING,
    ARTIFACTS,
    RUNS,
    GATEWAY,
    PLANNING,
    OPERATIONS,
    WORKFLOWS,
    CHAT,
    BOARD,
)

_WATCH_SECONDS = 0.5


async def _own_agent(scope: Scope, reference: str) -> UUID:
    return (await find_agent(scope, reference)).agent_id


class CannotStart(Exception):
    """The server refuses to start; the message says why, a line a finding."""


class House:
    """A server's services and their life: what ``serve``, ``worker`` and ``doctor`` share.

    Attributes:
        settings: the server's settings.
        services: every long-lived object, found by its class.
        embedded: the PostgreSQL in the data folder, unless a database was configured.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.services = Services()
        self.embedded: EmbeddedPostgres | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._closing: list[Any] = []

    # Opening

    async def open(self, *, serve: bool, work: bool) -> None:
        """Open everything.

        Args:
            serve: this process answers HTTP; it claims the data folder for itself.
            work: this process advances runs.

        Raises:
            FolderInUse: another server runs on the data folder.
            CannotStart: the database is not migrated, or would not keep tenants apart.
            VaultLocked: the root key is missing, readable by others, or another database's.
            Unavailable: the database cannot be reached.
        """
        try:
            await self._open(serve=serve, work=work)
        except BaseException:
            await self.close()
            raise

    async def _open(self, *, serve: bool, work: bool) -> None:
        dsn, owner_dsn = await self.open_database_server(serve=serve)
        await self._bring_up_to_date(dsn, owner_dsn)
        database = await self.open_pool(dsn)
        await self._refuse_unless_fenced(database)
        await self._add_services(database)
        for room in ROOMS:
            if room.start is not None:
                await room.start(self.services)
        await self._start(work=work)

    async def open_database_server(self, *, serve: bool) -> tuple[str, str | None]:
        """Start the embedded server unless another database is configured; return its DSN and its owner's."""
        if self.settings.database_url is not None:
            owner = self.settings.database_owner_url
            return self.settings.database_url.get_secret_value(), owner.get_secret_value() if owner else None
        self.settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.embedded = EmbeddedPostgres(self.settings.data)
        if serve:
            self.embedded.lock_folder()
        await self.embedded.start()
        return self.embedded.dsn(), self.embedded.dsn("retinue_owner")

    async def _bring_up_to_date(self, dsn: str, owner_dsn: str | None) -> None:
        if owner_dsn is not None:
            await migrate(owner_dsn)
            return
        found, expected = await current_revision(dsn), expected_revision()
        if found != expected:
            raise CannotStart(
                f"The database's schema is at {found or 'nothing'}, this version needs {expected}. "
                "Run `retinue migrate` with DATABASE_OWNER_URL set to the owner of the schema."
            )

    async def open_pool(self, dsn: str) -> Database:
        """Open the pool of connections as the application's role."""
        database = self.services.add(Database, Database(dsn, size=self.settings.pool_size))
        await database.open()
        self._closing.append(database)
        return database

    async def _refuse_unless_fenced(self, database: Database) -> None:
        async with database.routing() as queries:
            findings = await self_check(queries)
        if findings:
            raise CannotStart("The database does not keep tenants apart:\n" + "\n".join(f"  {one}" for one in findings))

    async def _add_services(self, database: Database) -> None:
        services, settings = self.services, self.settings
        services.add(Settings, settings)
        services.add(Clock, SystemClock())  # type: ignore[type-abstract]  # services are found by their protocol
        services.add(Projections, Projections(one for room in ROOMS for one in room.projections))
        feed = services.add(Feed, Feed(database))
        live = MemoryLive() if settings.redis_url is None else RedisLive(settings.redis_url.get_secret_value())
        services.add(Live, live)  # type: ignore[type-abstract]  # services are found by their base class
        services.add(Vault, await Vault.open(settings, database))
        try:
            blobs = services.add(BlobStore, open_blobs(settings))
            identity.install(services)
        except ValueError as error:
            raise CannotStart(str(error)) from None
        services.add(AgentDirectory, AgentDirectory(_own_agent, agent_names))
        providers = services.add(Providers, Providers(settings))
        toolbox = services.add(Toolbox, Toolbox(settings))
        dispatcher = services.add(Dispatcher, Dispatcher(database, settings, services))
        # Closed in the reverse order: work first, connections last.
        self._closing.extend([blobs, live, feed, providers, toolbox, dispatcher])

    async def _start(self, *, work: bool) -> None:
        services = self.services
        dispatcher = services.get(Dispatcher)
        for room in ROOMS:
            for kind, handler in room.work.items():
                dispatcher.register(kind, handler)
        await services.get(Live).open()  # type: ignore[type-abstract]  # services are found by their base class
        await services.get(Feed).open()
        await dispatcher.open(work=work)
        if work:
            # The model clients take a second to import: not at the start, and not at the first message.
            self._tasks.append(asyncio.create_task(services.get(Providers).warm(), name="warm-models"))
        if self.embedded is not None:
            self._tasks.append(asyncio.create_task(self._watch_embedded(), name="watch-database"))

    async def _watch_embedded(self) -> None:
        """Start the embedded database again whenever it dies under us."""
        assert self.embedded is not None
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            try:
                await self.embedded.ensure_running()
            except Exception:
                log.exception("the embedded database could not be started again")

    # Serving

    def app(self) -> Any:
        """Return the ASGI application; it opens the house at start-up and closes it at shutdown."""
        health = self.services.add(Health, Health())
        database = self.services.get(Database)

        async def database_answers() -> str | None:
            try:
                async with database.routing() as queries:
                    await queries.fetchval("SELECT 1")
            except Fault as fault:
                return fault.detail
            return None

        async def worker_beats() -> str | None:
            return self.services.get(Dispatcher).complaint()

        health.add("database", database_answers)
        health.add("worker", worker_beats)

        @asynccontextmanager
        async def lifespan(_app: Any) -> AsyncIterator[None]:
            health.started = True
            try:
                yield
            finally:
                health.started = False

        return create_app(self.settings, self.services, ROOMS, DoorKeeper(self.services), lifespan=lifespan)

    # Closing

    async def close(self) -> None:
        """Close everything that was opened, in the reverse order. Safe to repeat."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        while self._closing:
            with contextlib.suppress(Exception):
                await self._closing.pop().close()
        if self.embedded is not None:
            with contextlib.suppress(Exception):
                await self.embedded.stop()
            self.embedded.unlock_folder()
            self.embedded = None


__all__ = ["ROOMS", "CannotStart", "House", "Unavailable"]
