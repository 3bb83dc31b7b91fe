"""The application with agents and approvals over HTTP, on a database of its own: its root key is its own, too."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from retinue.agents.room import ROOM as AGENTS
from retinue.approvals.room import ROOM as APPROVALS
from retinue.database import Database
from retinue.identity.room import ROOM as IDENTITY
from retinue.kernel import Settings
from retinue.tenancy.room import ROOM as TENANCY
from retinue.tools import Toolbox
from retinue.vault.room import ROOM as VAULT
from tests.support.databases import Cluster
from tests.support.site import Site, open_site


@asynccontextmanager
async def served(postgres: Cluster, data: Path) -> AsyncIterator[Site]:
    name = await postgres.clone()
    database = Database(postgres.dsn(name), size=8)
    await database.open()
    async with open_site(database, data, (VAULT, IDENTITY, TENANCY, AGENTS, APPROVALS)) as site:
        toolbox = site.services.add(Toolbox, Toolbox(site.services.get(Settings)))
        yield site
        await toolbox.close()
    await database.close()
    await postgres.drop(name)
