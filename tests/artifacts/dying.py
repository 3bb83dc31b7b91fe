"""A process that dies at its n-th step, for each n: before and after every commit, and around the store's work.

Run as ``python -m tests.artifacts.dying SCENARIO DSN DATA_FOLDER [PLANTED]``. For each step it forks a child, which
does the scenario in a tenant of its own and ends itself at that step as SIGKILL would. It prints a line of JSON a
child: the tenant, and what was acknowledged before the end.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from retinue.artifacts import Incoming, lifetime, loose_blobs, pieces, receiving
from retinue.artifacts.finishing import finish
from retinue.database import Database
from retinue.database.unit_of_work import Transaction
from retinue.dispatch import Dispatcher
from retinue.house import ROOMS
from retinue.kernel import Clock, Scope, Services, Settings, SystemClock
from retinue.ledger import Feed, Projections
from retinue.vault import BlobStore, Vault, open_blobs
from tests.artifacts.support import Place
from tests.artifacts.support import pieces as chunks_of

MOST_STEPS = 80
_CONTENT = bytes(range(256)) * 1200


class Steps:
    """Counts steps, and ends the process at one of them."""

    def __init__(self, last: int, out: int) -> None:
        self.last = last
        self.out = out
        self.count = -1  # not yet counting
        self.acknowledged: dict[str, Any] = {}

    def tick(self) -> None:
        if self.count < 0:
            return
        self.count += 1
        if self.count == self.last:
            self.say(died=True)
            os._exit(9)

    def say(self, *, died: bool) -> None:
        os.write(self.out, json.dumps({**self.acknowledged, "died": died, "step": self.last}).encode() + b"\n")

    def around(self, kind: type[Any], name: str) -> None:
        """Have a method tick before and after."""
        method: Callable[..., Awaitable[Any]] = getattr(kind, name)

        async def stepped(*arguments: Any, **named: Any) -> Any:
            self.tick()
            found = await method(*arguments, **named)
            self.tick()
            return found

        setattr(kind, name, stepped)

    def in_the_middle(self, content: bytes) -> AsyncIterator[bytes]:
        """Yield content, with a step between its pieces."""

        async def ticking() -> AsyncIterator[bytes]:
            async for chunk in chunks_of(content, 100_000):
                yield chunk
                self.tick()

        return ticking()


@asynccontextmanager
async def _services(dsn: str, data: Path) -> AsyncIterator[Services]:
    services, settings = Services(), Settings(data=data, upload_part_bytes=100_000, artifact_unpublished_seconds=2)
    database = Database(dsn, size=4)
    await database.open()
    services.add(Settings, settings)
    services.add(Database, database)
    services.add(Clock, SystemClock())  # type: ignore[type-abstract]  # services are found by their protocol
    services.add(Projections, Projections(one for room in ROOMS for one in room.projections))
    services.add(Feed, Feed(database))
    services.add(Vault, await Vault.open(settings, database))
    services.add(BlobStore, open_blobs(settings))
    services.add(Dispatcher, Dispatcher(database, settings, services))  # not opened: others take its wake-ups
    yield services
    await database.close()


async def taking_in(steps: Steps, place: Place) -> None:
    """Two files are received, and published together."""
    steps.count = 0
    received = [
        await receiving.receive(
            place.services,
            place.tenant_id,
            Incoming(owner_id=place.user_id, name=name),
            steps.in_the_middle(_CONTENT),
        )
        for name in ("one", "other")
    ]
    async with place.scope() as scope:
        await receiving.publish(scope, received)
    steps.acknowledged["published"] = True


async def taking_away(steps: Steps, place: Place) -> None:
    """A file is deleted, and its blob removed."""
    stored = await place.store(_CONTENT)
    steps.acknowledged["artifact_id"] = str(stored.artifact_id)
    steps.count = 0
    async with place.scope() as scope:
        await lifetime.delete(scope, stored.artifact_id)
    steps.acknowledged["deleted"] = True
    await loose_blobs.sweep(place.services, place.tenant_id, stored.artifact_id)


async def uploading(steps: Steps, place: Place) -> None:
    """A file comes in two requests of two pieces each, and becomes an artifact."""
    steps.count = 0
    async with place.scope() as scope:
        upload = await pieces.create(scope, "up", len(_CONTENT))
    steps.acknowledged |= {"upload_id": str(upload.upload_id), "received": 0}

    @asynccontextmanager
    async def caller() -> AsyncIterator[Scope]:
        async with place.scope() as scope:
            yield scope

    async def check() -> None:
        return None

    for start, end in ((0, 150_000), (150_000, len(_CONTENT))):
        writing = pieces.Writing(place.services, place.tenant_id, caller, upload.upload_id, whole=False)
        upload = await writing.write(start, steps.in_the_middle(_CONTENT[start:end]), check)
        steps.acknowledged["received"] = upload.received
    await finish(place.services, place.tenant_id, upload.upload_id)
    steps.acknowledged["stored"] = True


SCENARIOS = {"taking_in": taking_in, "taking_away": taking_away, "uploading": uploading}


def plant(name: str) -> None:
    """Make a mistake, which the tests must notice."""
    if name == "blobs that nobody lists":

        async def announce(scope: Scope, blob_id: Any) -> None:
            return None

        loose_blobs.announce = announce
        loose_blobs.still_coming = announce
    elif name == "publishing one by one":
        publish = receiving.publish

        async def one_by_one(scope: Scope, received: Any) -> None:
            async with Place(scope.services, Path(), scope.tenant_id, scope.owner()).scope() as other:
                await publish(other, received[:1])
            await publish(scope, received[1:])

        receiving.publish = one_by_one
    elif name == "forgetting before removing":
        doom = loose_blobs.doom

        async def forgetful(scope: Scope, blob_id: Any, *, at_once: bool = True) -> None:
            await doom(scope, blob_id, at_once=at_once)
            await scope.queries.execute("DELETE FROM loose_blobs WHERE blob_id = $1", blob_id)

        loose_blobs.doom = forgetful


async def _child(scenario: str, dsn: str, data: Path, step: int, out: int) -> bool:
    steps = Steps(step, out)
    for kind, name in ((Transaction, "_commit"), (BlobStore, "put"), (BlobStore, "delete")):
        steps.around(kind, name)
    async with _services(dsn, data) as services:
        place = Place(services, data, uuid4(), uuid4())
        steps.acknowledged |= {"tenant_id": str(place.tenant_id), "user_id": str(place.user_id)}
        await SCENARIOS[scenario](steps, place)
    steps.say(died=False)
    return True


def main(scenario: str, dsn: str, data: str, planted: str = "") -> None:
    """Die at every step there is, once each."""
    plant(planted)
    for step in range(1, MOST_STEPS):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                asyncio.run(_child(scenario, dsn, Path(data), step, 1))
                code = 0
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        ended = os.waitstatus_to_exitcode(status)
        if ended == 0:
            return
        if ended != 9:
            sys.exit(ended)
    sys.exit("there are more steps than were looked at")


if __name__ == "__main__":
    main(*sys.argv[1:])
