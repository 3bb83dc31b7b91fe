"""Faults 4 and 5: the database is stopped at once, killed, and its backends are cut, under writers."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import psutil
import pytest

from retinue.database import Database
from retinue.kernel import Unavailable
from tests.faults.checks import conversation_gaps, views_that_differ
from tests.faults.mutants import planted
from tests.support.databases import Cluster
from tests.support.model_server import ModelServer
from tests.support.running import ENDED, Person, RunningServer, running_server
from tests.support.waiting import holds, until

WRITERS = 8


class Writers:
    """Clients that send message after message and remember what was acknowledged."""

    def __init__(self, ada: Person, agents: Sequence[str]) -> None:
        self.ada = ada
        self.agents = agents
        self.sessions = [str(uuid4()) for _ in range(WRITERS)]
        self.acknowledged: list[str] = []
        self.refused: list[int] = []
        self.stop = asyncio.Event()

    async def _write(self, session: str, agent: str) -> None:
        body = {"content": "hello", "target_agent": agent}
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
        await asyncio.gather(*map(self._write, self.sessions, itertools.cycle(self.agents)))


def _postmaster(server: RunningServer) -> int:
    return int((server.folder / "postgres" / "postmaster.pid").read_text().split()[0])


def _gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def _lost(server: RunningServer, ada: Person, kills: Sequence[int], *, agents: int) -> list[str]:
    """Kill the database under writers, once with each signal; return what was acknowledged and is not there or whole.

    Args:
        agents: how many the writers write to.
    """
    limits = {"concurrency": 8, "queue": 5000}
    made = [await ada.agent(model="openai:stub-0ms", limits=limits) for _ in range(agents)]
    writers = Writers(ada, [agent["agent_id"] for agent in made])
    writing = asyncio.create_task(writers.run())
    for kill in kills:
        await _some_more(writers)
        pid = _postmaster(server)
        os.kill(pid, kill)
        await holds(partial(_gone, pid))
        await server.until_ready(15)
    await _some_more(writers)
    writers.stop.set()
    await writing
    assert set(writers.refused) <= {503}, server.log()[-6000:]
    accepted = writers.acknowledged
    if lost := set(accepted) - set(await _runs(ada)):
        return [f"run {run_id} was acknowledged and is not there" for run_id in lost]
    runs: dict[str, str] = {}

    async def all_ended() -> bool:
        runs.update(await _runs(ada))
        return all(runs[run_id] in ENDED for run_id in accepted)

    with contextlib.suppress(TimeoutError):
        await until(all_ended, seconds=60)
    found = [f"run {run_id} is {runs[run_id]}" for run_id in accepted if runs[run_id] != "completed"]
    for session in writers.sessions:
        found += await conversation_gaps(ada, session)
    return found + await views_that_differ(ada, accepted[:: max(1, len(accepted) // 50)])


async def _runs(ada: Person) -> dict[str, str]:
    """Return the status of every run that is there, by its id."""
    found: dict[str, str] = {}
    query: dict[str, Any] = {"limit": 200}
    while True:
        page = await ada.call("GET", "/v1/my/runs", params=query)
        found |= {run["run_id"]: run["status"] for run in page["items"]}
        if page["next_cursor"] is None:
            return found
        query["cursor"] = page["next_cursor"]


async def _some_more(writers: Writers) -> None:
    """Wait until much more has been acknowledged, and for a second at least."""
    before = len(writers.acknowledged)
    await asyncio.sleep(1.0)
    await holds(lambda: len(writers.acknowledged) > before + WRITERS)


@pytest.fixture(scope="module")
async def embedded() -> AsyncIterator[tuple[RunningServer, Person]]:
    """A server with a database of its own, which can be killed, and somebody."""
    async with ModelServer() as model, running_server(None, OPENAI_BASE_URL=model.base_url) as server:
        yield server, await server.person()


@pytest.mark.fault
@pytest.mark.timeout(200)
async def test_a_database_that_dies_loses_nothing_acknowledged(embedded: tuple[RunningServer, Person]) -> None:
    assert await _lost(*embedded, [signal.SIGQUIT, signal.SIGKILL], agents=1) == []


@pytest.mark.fault
async def test_an_answer_before_the_commit_is_seen(embedded: tuple[RunningServer, Person]) -> None:
    server, ada = embedded
    sound = dict(server.settings)
    try:
        await server.stop()
        server.settings |= planted("answers_before_commit")
        await server.start()
        # Commits that are put off hold locks; writers to one agent would wait for each other.
        found = await _lost(server, ada, [signal.SIGQUIT], agents=WRITERS)
    finally:
        server.settings = sound
    assert any("was acknowledged and is not there" in one for one in found), found


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
