"""Whatever dies at whatever step: no half file is seen, nothing is left for ever, the quota comes back."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest

from retinue import artifacts
from retinue.artifacts import uploads
from retinue.house import House
from retinue.kernel import Gone
from retinue.vault import SealBroken
from tests.artifacts.support import Place, opened_house, until
from tests.support.databases import Cluster

_CONTENT = bytes(range(256)) * 1200


@pytest.fixture(scope="module")
async def survivor(postgres: Cluster, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    """A house with a worker beside the processes that die."""
    async with opened_house(postgres, tmp_path_factory.mktemp("crashes"), artifact_unpublished_seconds=2) as found:
        yield found


async def deaths(house: House, scenario: str, planted: str = "") -> list[tuple[dict[str, Any], Place]]:
    """Let a scenario die at each of its steps; return what each had acknowledged, and where."""
    assert house.settings.database_url is not None
    dsn = house.settings.database_url.get_secret_value()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.artifacts.dying",
        *(scenario, dsn, str(house.settings.data), planted),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()[-4000:]
    found = [json.loads(line) for line in out.splitlines()]
    assert [one["died"] for one in found] == [True] * (len(found) - 1) + [False]
    return [
        (one, Place(house.services, house.settings.data, UUID(one["tenant_id"]), UUID(one["user_id"]))) for one in found
    ]


async def listed(place: Place) -> list[artifacts.Artifact]:
    async with place.scope() as scope:
        return await artifacts.list_artifacts(scope)


async def check_taken_in(all_of_them: list[tuple[dict[str, Any], Place]]) -> None:
    for one, place in all_of_them:
        seen = await listed(place)
        await place.settled()
        found = await listed(place)
        assert len(seen) in (0, 2), f"step {one['step']}: half of what belongs together was seen"
        assert len(found) == len(seen)
        if one.get("published"):
            assert len(found) == 2
        for artifact in found:
            assert await place.content(artifact) == _CONTENT
        assert await place.used() == len(found) * len(_CONTENT), f"step {one['step']}"


async def test_taking_in(survivor: House) -> None:
    all_of_them = await deaths(survivor, "taking_in")
    assert len(all_of_them) > 20
    await check_taken_in(all_of_them)


async def test_taking_away(survivor: House) -> None:
    """Either all of it is there, or neither key nor blob; a deletion that began is finished by somebody else."""
    all_of_them = await deaths(survivor, "taking_away")
    assert len(all_of_them) > 8
    for one, place in all_of_them:
        await place.settled()
        found = await listed(place)
        assert not (one.get("deleted") and found)
        for artifact in found:
            assert await place.content(artifact) == _CONTENT
        assert len(await place.blobs()) == await place.rows("artifact_keys") == len(found)


async def test_uploading(survivor: House) -> None:
    """What was acknowledged is there; a whole upload becomes an artifact, once."""
    all_of_them = await deaths(survivor, "uploading")
    assert len(all_of_them) > 30
    for one, place in all_of_them:
        if "upload_id" not in one:
            continue
        upload_id = UUID(one["upload_id"])
        state = await _resting(place, upload_id)
        assert state.received >= one["received"], f"step {one['step']}: acknowledged bytes are lost"
        assert (state.state == "stored") == (state.received == len(_CONTENT))
        await place.settled()
        found = await listed(place)
        assert len(found) == (state.state == "stored")
        for artifact in found:
            assert await place.content(artifact) == _CONTENT


async def _resting(place: Place, upload_id: UUID) -> uploads.Upload:
    async def look() -> uploads.Upload:
        async with place.scope() as scope:
            return await uploads.find(scope, upload_id)

    async def rests() -> bool:
        return (await look()).state != "finishing"

    await until(rests)
    return await look()


async def test_blobs_that_nobody_lists_are_noticed(survivor: House) -> None:
    """The planted bug of the list of loose blobs: without it, a blob whose writer died stays for ever."""
    with pytest.raises(AssertionError):
        await check_taken_in(await deaths(survivor, "taking_in", "blobs that nobody lists"))


async def test_publishing_one_by_one_is_noticed(survivor: House) -> None:
    """The planted bug of publishing in one transaction."""
    with pytest.raises(AssertionError, match="half of what belongs together"):
        await check_taken_in(await deaths(survivor, "taking_in", "publishing one by one"))


async def test_a_deletion_that_is_forgotten_is_noticed(survivor: House) -> None:
    """The planted bug of the removal after the commit: a process that dies in between leaves the blob."""
    all_of_them = await deaths(survivor, "taking_away", "forgetting before removing")
    left = [await place.blobs() for _, place in all_of_them]
    assert any(left)
    for one, place in all_of_them:
        if one.get("deleted") and await place.blobs():
            with pytest.raises(AssertionError):
                await place.settled(1)
            return
    raise AssertionError("nothing was left to be noticed")


async def test_a_cancelled_file_leaves_nothing(place: Place) -> None:
    begun = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield bytes(100_000)
        begun.set()
        await asyncio.Event().wait()

    incoming = artifacts.Incoming(owner_id=place.user_id, name="slow", size_hint=200_000)
    taking = asyncio.create_task(artifacts.receive(place.services, place.tenant_id, incoming, slow()))
    await begun.wait()
    assert await place.used() == 200_000
    taking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taking
    await place.settled()
    assert (await place.used(), await place.rows("incoming_artifacts")) == (0, 0)


async def test_damage_in_the_store_is_told_and_nothing_wrong_is_given(place: Place) -> None:
    stored = await place.store(bytes(200_000))
    (path,) = [one for one in place.folder.rglob(str(stored.artifact_id)) if one.is_file()]
    damaged = bytearray(path.read_bytes())
    damaged[100_000] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(artifacts.Damaged):
        await place.content(stored)
    path.unlink()
    with pytest.raises(artifacts.Damaged):
        await place.content(stored)
    async with place.scope() as scope:
        await artifacts.delete(scope, stored.artifact_id)
    await place.settled()
    with pytest.raises((Gone, SealBroken)):
        await place.content(stored)
