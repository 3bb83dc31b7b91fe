"""Faults 11 and 12: a client that hardly reads, and everybody coming back at once after a restart."""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import time
from datetime import datetime
from uuid import uuid4

import pytest

from tests.support.databases import Cluster
from tests.support.model_server import ModelServer
from tests.support.running import Person, RunningServer, running_server
from tests.support.waiting import holds

CLIENTS = 200
RETURNING = 1000
MESSAGES = 15


class Follower:
    """A live stream read on a bare socket: positions and how late each event was, in seconds."""

    def __init__(self, server: RunningServer, ada: Person) -> None:
        self.server = server
        self.token = ada.client.headers["Authorization"]
        self.positions: list[int] = []
        self.lags: list[float] = []
        self._writer: asyncio.StreamWriter | None = None

    async def open(self, *, after: int = 0, buffer: int = 1 << 16) -> asyncio.StreamReader:
        await self.close()
        reader, self._writer = await asyncio.open_connection("127.0.0.1", self.server.port, limit=buffer)
        request = (
            f"GET /v1/my/events/stream?after={after} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {self.token}\r\n\r\n"
        )
        self._writer.write(request.encode())
        assert b" 200 " in await asyncio.wait_for(reader.readline(), 30)
        return reader

    async def follow(self, after: int = 0) -> None:
        """Read until cancelled or cut."""
        reader = await self.open(after=after)
        position = 0
        while line := await reader.readline():
            if line.startswith(b"id: "):
                position = int(line[4:])
            elif line.startswith(b"data: ") and position:
                sent = datetime.fromisoformat(json.loads(line[6:])["timestamp"])
                self.lags.append(time.time() - sent.timestamp())
                self.positions.append(position)
                position = 0

    async def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def _speak(ada: Person, agent: dict[str, str], times: int) -> int:
    """Let an agent answer some messages; return the position of the last event."""
    session, last = str(uuid4()), 0
    for _ in range(times):
        answer = await ada.ask(agent, "hello", session)
        events = await ada.events(answer["run"]["run_id"])
        last = max(event["position"] for event in events)
    return last


async def _seen(followers: list[Follower], position: int, seconds: float) -> None:
    await holds(lambda: all(one.positions and one.positions[-1] >= position for one in followers), seconds=seconds)


def _p99(followers: list[Follower]) -> float:
    lags = sorted(lag for one in followers for lag in one.lags)
    return statistics.quantiles(lags, n=100)[98]


async def _stop(tasks: list[asyncio.Task[None]], followers: list[Follower]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for one in followers:
        await one.close()


@pytest.mark.fault
async def test_one_slow_reader_does_not_hold_up_the_others_and_misses_nothing(postgres: Cluster) -> None:
    async with ModelServer() as model, running_server(postgres, OPENAI_BASE_URL=model.base_url) as server:
        ada = await server.person()
        agent = await ada.agent(model="openai:stub-0ms")
        quick = [Follower(server, ada) for _ in range(CLIENTS)]
        tasks = [asyncio.create_task(one.follow()) for one in quick]
        await _seen(quick, await _speak(ada, agent, MESSAGES), 30)
        undisturbed = _p99(quick)
        for one in quick:
            one.lags.clear()

        slow = Follower(server, ada)
        reader = await slow.open(buffer=64)
        trickle = asyncio.create_task(_one_byte_a_second(reader))
        last = await _speak(ada, agent, MESSAGES)
        await _seen(quick, last, 30)
        disturbed = _p99(quick)
        trickle.cancel()
        await slow.close()
        catching_up = asyncio.create_task(slow.follow())
        await _seen([slow], last, 30)
        await _stop([*tasks, catching_up, trickle], [*quick, slow])
    assert disturbed < max(2 * undisturbed, undisturbed + 0.1), (undisturbed, disturbed)
    for one in [*quick, slow]:
        assert one.positions == sorted(set(one.positions)), "an event was shown twice or out of order"
    assert slow.positions == quick[0].positions


async def _one_byte_a_second(reader: asyncio.StreamReader) -> None:
    while await reader.read(1):  # noqa: ASYNC110 - the second between two bytes is the point
        await asyncio.sleep(1)


@pytest.mark.fault
async def test_everybody_comes_back_at_once_after_a_restart(postgres: Cluster) -> None:
    async with ModelServer() as model, running_server(postgres, OPENAI_BASE_URL=model.base_url) as server:
        ada = await server.person()
        agent = await ada.agent(model="openai:stub-0ms")
        followers = [Follower(server, ada) for _ in range(RETURNING)]
        tasks = [asyncio.create_task(one.follow()) for one in followers]
        first = await _speak(ada, agent, 3)
        await _seen(followers, first, 30)
        await asyncio.to_thread(server.kill)
        for task in tasks:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await task
        await server.start()
        second = await _speak(ada, agent, 3)
        tasks = [asyncio.create_task(one.follow(after=one.positions[-1])) for one in followers]
        began = time.monotonic()
        await _seen(followers, second, 30)
        took = time.monotonic() - began
        await _stop(tasks, followers)
    assert took < 30
    expected = followers[0].positions
    assert expected == sorted(set(expected))
    assert all(one.positions == expected for one in followers)
