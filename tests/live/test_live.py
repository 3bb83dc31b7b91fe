"""The bus of frames: in memory, and across processes through Redis."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from redis import Redis

from retinue.live import Frame, Live, MemoryLive, RedisLive
from retinue.live import bus as bus_module
from retinue.live import redis as redis_module
from retinue.live.bus import DROPPED, Texts, TextsByTenant
from tests.support.redis_server import free_port, need_redis, redis_port, start_redis

__all__ = ["redis_port"]  # a fixture

TENANT = uuid4()


def frame(run: UUID, offset: int, text: str, *, tenant: UUID = TENANT, attempt: int = 1) -> Frame:
    return Frame(tenant, run, uuid4(), uuid4(), None, attempt, offset, text)


class Ear:
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []

    def __call__(self, frames: list[Frame]) -> None:
        self.frames.extend(frames)

    def texts(self) -> list[str]:
        return [one.text for one in self.frames]

    def whole(self) -> str:
        """Fold what was heard of one run, the text so far and the pieces after it, which may overlap."""
        texts = Texts()
        for one in self.frames:
            texts.add(one)
        return "".join(one.text for one in texts.frames())


async def eventually(condition: Any, seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # any condition, so nobody could set an event
            await asyncio.sleep(0.005)


# The text so far


def test_pieces_make_a_text() -> None:
    texts, run = Texts(), uuid4()
    assert [texts.add(frame(run, *piece)) for piece in ((0, "ä😀"), (2, "b"), (3, ""), (3, "c"))] == [True] * 4
    (whole,) = texts.frames()
    assert (whole.offset, whole.text) == (0, "ä😀bc")
    assert not texts.add(frame(run, 2, "b"))  # a repetition
    assert texts.frames()[0].text == "ä😀bc"


def test_a_new_attempt_starts_anew_and_the_old_one_is_over() -> None:
    texts, run = Texts(), uuid4()
    texts.add(frame(run, 0, "old"))
    assert texts.add(frame(run, 0, "n", attempt=2))
    assert not texts.add(frame(run, 3, "er", attempt=1))
    assert texts.add(frame(run, 1, "ew", attempt=2))
    assert texts.frames()[0].text == "new"
    assert texts.add(frame(run, 0, "next message", attempt=2))
    assert texts.frames()[0].text == "next message"


@pytest.mark.parametrize("later", [frame(uuid4(), 9, "x"), frame(uuid4(), 3, "x", attempt=2)])
def test_a_lost_piece_forgets_the_text(later: Frame) -> None:
    texts = Texts()
    texts.add(frame(later.run_id, 0, "abc"))
    assert texts.add(later)
    assert texts.frames() == []
    assert texts.add(frame(later.run_id, 10, "y"))
    assert texts.frames() == []


def test_texts_are_bounded_and_do_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bus_module, "MAX_TEXT", 10)
    texts, run = Texts(), uuid4()
    for n in range(30):
        texts.add(frame(run, n, "x"))
    assert texts.frames() == []
    by_tenant = TextsByTenant()
    by_tenant.add(frame(run, 0, "forgotten"))
    monkeypatch.setattr(bus_module, "PATIENCE_SECONDS", -1.0)
    by_tenant.add(frame(uuid4(), 0, "other", tenant=uuid4()))
    assert by_tenant.frames(TENANT) == []


# Any bus


@pytest.fixture(params=["memory", "redis"])
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Live, Live]]:
    """Two ends of a bus; the same one when it is in memory."""
    if request.param == "memory":
        live = MemoryLive()
        yield live, live
        return
    port = request.getfixturevalue("redis_port")
    ends = [RedisLive(f"redis://127.0.0.1:{port}/0") for _ in range(2)]
    for end in ends:
        await end.open()
    await eventually(lambda: all(end.connected for end in ends))
    yield ends[0], ends[1]
    for end in ends:
        await end.close()


async def test_frames_reach_the_listeners_of_their_tenant(pair: tuple[Live, Live]) -> None:
    here, there = pair
    tenant, run = uuid4(), uuid4()
    ears = [Ear(), Ear(), Ear()]
    subscriptions = [
        await here.subscribe(tenant, ears[0]),
        await there.subscribe(tenant, ears[1]),
        await there.subscribe(uuid4(), ears[2]),
    ]
    sent = [frame(run, 0, "Hel", tenant=tenant), frame(run, 3, "lo", tenant=tenant)]
    for one in sent:
        here.publish(one)
    assert ears[0].frames == sent  # in the same process at once
    await eventually(lambda: ears[1].frames == sent)
    assert ears[2].frames == []
    subscriptions[1].close()
    subscriptions[1].close()
    here.publish(frame(run, 5, "!", tenant=tenant))
    await eventually(lambda: len(ears[0].frames) == 3)
    again = Ear()
    await there.subscribe(tenant, again)
    await eventually(lambda: again.whole() == "Hello!")
    assert len(ears[1].frames) == 2


async def test_who_comes_late_gets_the_text_so_far(pair: tuple[Live, Live]) -> None:
    here, there = pair
    tenant, runs = uuid4(), [uuid4(), uuid4(), uuid4()]
    for n, run in enumerate(runs):
        here.publish(frame(run, 0, f"{n}ä", tenant=tenant))
        here.publish(frame(run, 2, "😀 rest", tenant=tenant))
    here.finish(tenant, runs[0])
    here.publish(frame(runs[1], 0, "second try", tenant=tenant, attempt=2))

    marker = Ear()
    await there.subscribe(tenant, marker)
    here.publish(frame(uuid4(), 7, "all sent", tenant=tenant))
    await eventually(lambda: "all sent" in marker.texts())
    assert {one.text for one in await there.so_far(tenant)} == {"second try", "2ä😀 rest"}
    late = Ear()
    await there.subscribe(tenant, late)
    assert sorted(late.texts()) == ["2ä😀 rest", "second try"]
    assert {one.offset for one in late.frames} == {0}
    assert await there.so_far(uuid4()) == []


async def test_a_failing_listener_harms_no_other(pair: tuple[Live, Live]) -> None:
    here, there = pair
    tenant = uuid4()

    def broken(frames: list[Frame]) -> None:
        raise RuntimeError("broken")

    ear = Ear()
    await there.subscribe(tenant, broken)
    await there.subscribe(tenant, ear)
    here.publish(frame(uuid4(), 0, "x", tenant=tenant))
    await eventually(lambda: ear.texts() == ["x"])


# Redis away


def subscribers(port: int) -> int:
    """Count the subscriptions at a Redis: connected is not yet listening. Each process has two here."""
    with Redis(port=port) as client:
        return sum(count for _, count in client.pubsub_numsub(*client.pubsub_channels()))


async def test_redis_being_away_does_not_matter_to_runs(tmp_path: Path) -> None:
    need_redis()
    port = free_port()
    here = RedisLive(f"redis://127.0.0.1:{port}/0")
    there = RedisLive(f"redis://127.0.0.1:{port}/0")
    await here.open()
    await there.open()
    tenant, run = uuid4(), uuid4()
    mine, other = Ear(), Ear()
    redis: subprocess.Popen[bytes] | None = None
    try:
        # Nothing there at all: subscribing and publishing work within the process, and fast.
        async with asyncio.timeout(2):
            await here.subscribe(tenant, mine)
            await there.subscribe(tenant, other)
        dropped = DROPPED.labels("redis")._value.get()
        for n in range(100):
            here.publish(frame(run, n, "x", tenant=tenant))
        assert len(mine.frames) == 100
        await eventually(lambda: DROPPED.labels("redis")._value.get() >= dropped + 100)
        assert other.frames == []

        redis = start_redis(port, tmp_path)
        await eventually(lambda: here.connected and there.connected and subscribers(port) >= 4)
        here.publish(frame(run, 0, "new", tenant=tenant, attempt=2))
        await eventually(lambda: other.texts() == ["new"])

        # Killed in the middle of an answer, and back: the rest arrives again, and the text so far closes the gap.
        redis.kill()
        redis.wait()
        here.publish(frame(run, 3, " lost", tenant=tenant, attempt=2))
        await eventually(lambda: not here.connected)
        redis = start_redis(port, tmp_path)
        await eventually(lambda: here.connected and there.connected and subscribers(port) >= 4, 20)
        here.publish(frame(run, 0, "newest", tenant=tenant, attempt=3))
        await eventually(lambda: other.texts()[-1] == "newest")
    finally:
        if redis is not None:
            redis.kill()
            redis.wait()
        await here.close()
        await there.close()


async def test_the_queue_to_redis_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_module, "_QUEUE", 10)
    live = RedisLive("redis://127.0.0.1:1/0")  # not opened: nothing empties the queue
    dropped = DROPPED.labels("queue full")._value.get()
    for n in range(25):
        live.publish(frame(uuid4(), 0, str(n)))
    assert len(live._queue) == 10
    assert DROPPED.labels("queue full")._value.get() == dropped + 15
    await live.close()


async def test_what_is_no_parcel_is_ignored(redis_port: int) -> None:
    from redis.asyncio import Redis

    live = RedisLive(f"redis://127.0.0.1:{redis_port}/0")
    await live.open()
    tenant, ear = uuid4(), Ear()
    await live.subscribe(tenant, ear)
    await eventually(lambda: live.connected)
    other = RedisLive(f"redis://127.0.0.1:{redis_port}/0")
    await other.open()
    redis = Redis(port=redis_port)
    await redis.publish(f"retinue:frames:{tenant}", b"\xffnonsense")
    await redis.aclose()
    other.publish(frame(uuid4(), 0, "real", tenant=tenant))
    await eventually(lambda: ear.texts() == ["real"])
    await live.close()
    await other.close()
