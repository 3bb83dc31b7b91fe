"""Faults 4 and 5: the database is stopped at once, killed, and its backends are cut, under writers."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from functools import partial
from uuid import UUID, uuid4

import asyncpg
import httpx
import psutil
import pytest

from retinue.database import Database
from retinue.kernel import Unavailable
from tests.faults.checks import conversation_gaps, views_that_differ
from tests.support.databases import Cluster
from tests.support.model_server import ModelServer
from tests.support.running import Person, RunningServer, running_server
from tests.support.waiting import holds

WRITERS = 8


class Writers:
    """Clients that send message after message and remember what was acknowledged."""

    def __init__(self, ada: Person, agent: str) -> None:
        self.ada = ada
        self.agent = agent
        self.sessions = [str(uuid4()) for _ in range(WRITERS)]
        self.acknowledged: list[str] = []
        self.refused: list[int] = []
        self.stop = asyncio.Event()

    async def _write(self, session: str) -> None:
        body = {"content": "hello", "target_agent": self.agent}
        while not self.stop.is_set():
            try:
                answer = await self.ada.client.post(f"/v1/my/chat/{session}/messages", json=body, timeout=30)
            except httpx.TransportError:
                continue
            if answer.status_code == 202:
                self.acknowledged.append(answer.json()["run_id"])
            else:
                self.refused.append(answer.status_code)
                await asyncio.sleep(0.05)

    async def run(self) -> None:
        await asyncio.gather(*(self._write(session) for session in self.sessions))


def _postmaster(server: RunningServer) -> int:
    return int((server.folder / "postgres" / "postmaster.pid").read_text().split()[0])


def _gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.fault
@pytest.mark.timeout(200)
async def test_a_database_that_dies_loses_nothing_acknowledged() -> None:
    async with ModelServer() as model, running_server(None, OPENAI_BASE_URL=model.base_url) as server:
        ada = await server.person()
        agent = await ada.agent(model="openai:stub-0ms", limits={"concurrency": 8, "queue": 5000})
        writers = Writers(ada, agent["agent_id"])
        writing = asyncio.create_task(writers.run())
        for kill in (signal.SIGQUIT, signal.SIGKILL):
            await asyncio.sleep(1.0)
            pid = _postmaster(server)
            os.kill(pid, kill)
            await holds(partial(_gone, pid))
            began = time.monotonic()
            await server.until_ready(15)
            assert time.monotonic() - began < 15
        await asyncio.sleep(1.0)
        writers.stop.set()
        await writing
        assert set(writers.refused) <= {503}, server.log()[-6000:]
        assert len(writers.acknowledged) > WRITERS
        for run_id in writers.acknowledged:
            assert (await ada.until(run_id, seconds=60))["status"] == "completed"
        for session in writers.sessions:
            assert await conversation_gaps(ada, session) == []
        assert await views_that_differ(ada, writers.acknowledged[:: max(1, len(writers.acknowledged) // 50)]) == []


@pytest.mark.fault
async def test_cut_backends_give_retryable_refusals_and_leak_no_tenant(postgres: Cluster, database_name: str) -> None:
    database = Database(postgres.dsn(database_name), size=4)
    await database.open()
    killer = await asyncpg.connect(postgres.server.dsn("postgres", database_name))
    mine, theirs = uuid4(), uuid4()
    failures: list[Exception] = []

    async def read(tenant: UUID) -> None:
        for _ in range(150):
            try:
                async with database.transaction(tenant) as uow:
                    seen = await uow.queries.fetchval("SELECT current_setting('app.tenant_id')")
                    await asyncio.sleep(0.001)
                    assert seen == str(tenant)
                async with database.routing() as queries:
                    assert await queries.fetchval("SELECT current_setting('app.tenant_id', true)") in (None, "")
            except Unavailable as error:
                failures.append(error)

    async def cut() -> None:
        for _ in range(100):
            await killer.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'retinue_app' "
                "AND datname = current_database() ORDER BY random() LIMIT 1"
            )
            await asyncio.sleep(0.005)

    try:
        await asyncio.gather(cut(), *(read(tenant) for tenant in (mine, theirs, mine, theirs)))
        assert failures, "no cut hit anybody: the test shows nothing"
        async with asyncio.timeout(10):
            await asyncio.gather(*(_use(database) for _ in range(4)))
        assert database.in_use() == 0
    finally:
        await killer.close()
        await database.close()


async def _use(database: Database) -> None:
    for _ in range(5):
        try:
            async with database.routing() as queries:
                await queries.fetchval("SELECT pg_sleep(0.01)")
        except Unavailable:
            continue
