"""What happens to workers that carry operations out: death at a step, a store that fails, and planted bugs."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

DIE = "TEST_DIE_AT"
"""A file; while it holds the name of a boundary, the process dies there."""

BOUNDARIES = (
    "before begin",
    "after begin",
    "after prepare",
    "after lay out",
    "after program",
    "after gather",
    "before receive",
    "while encrypting",
    "before seal",
    "after seal",
    "after receive",
    "before final",
    "before its commit",
    "after final",
    "after wipe",
)


def dies() -> None:
    """Die at the boundary that the file names."""
    from retinue import artifacts
    from retinue.artifacts import receiving
    from retinue.operations import attempting, ending, storing
    from retinue.operations.running import Running
    from retinue.sandbox import Bubblewrap
    from retinue.vault import BlobStore

    file = Path(os.environ[DIE])

    def pass_(name: str) -> None:
        if file.exists() and file.read_text() == name:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(owner: Any, method: str, name: str) -> None:
        plain: Callable[..., Awaitable[Any]] = getattr(owner, method)

        async def watched(*args: Any, **kwargs: Any) -> Any:
            pass_(f"before {name}")
            result = await plain(*args, **kwargs)
            pass_(f"after {name}")
            return result

        setattr(owner, method, watched)

    around(attempting, "begin", "begin")
    around(Bubblewrap, "prepare", "prepare")
    around(attempting, "lay_out", "lay out")
    around(Running, "run", "program")
    around(storing, "gather", "gather")
    around(artifacts, "receive", "receive")
    around(receiving._Intake, "finish", "seal")
    around(attempting.Attempting, "_finish_once", "final")
    around(Bubblewrap, "wipe", "wipe")
    plain_end = ending.end

    async def end(*args: Any) -> Any:
        result = await plain_end(*args)
        pass_("before its commit")
        return result

    ending.end = end  # type: ignore[assignment]
    plain_put = BlobStore.put

    async def put(self: BlobStore, name: str, chunks: AsyncIterator[Any]) -> Any:
        async def pieces() -> AsyncIterator[Any]:
            async for piece in chunks:
                pass_("while encrypting")
                yield piece

        return await plain_put(self, name, pieces())

    BlobStore.put = put  # type: ignore[method-assign]


# A store that does not do its work


def _put(change: Callable[[Any, str, AsyncIterator[Any]], Awaitable[Any]]) -> None:
    from retinue.vault import BlobStore

    plain = BlobStore.put

    async def put(self: Any, name: str, chunks: AsyncIterator[Any]) -> Any:
        await change(self, name, chunks)
        return await plain(self, name, chunks)

    BlobStore.put = put  # type: ignore[method-assign]


def store_refuses() -> None:
    """The store takes nothing."""
    from retinue.kernel import Unavailable

    async def refuse(_self: Any, _name: str, _chunks: AsyncIterator[Any]) -> None:
        raise Unavailable("The store of files does not answer.")

    _put(refuse)


def store_half_writes() -> None:
    """The store takes the first piece of each file and fails then."""
    from retinue.kernel import Unavailable

    async def half(_self: Any, _name: str, chunks: AsyncIterator[Any]) -> None:
        async for _ in chunks:
            raise Unavailable("The connection to the store was lost.")

    _put(half)


def store_fills_up() -> None:
    """The first file fits on the disk; there is no room for the second."""
    from retinue.kernel import StorageFull

    seen: list[str] = []

    async def full(_self: Any, name: str, _chunks: AsyncIterator[Any]) -> None:
        seen.append(name)
        if len(seen) % 2 == 0:
            raise StorageFull("The disk is full.")

    _put(full)


# Bugs


def no_fence() -> None:
    """Whoever comes to the end of an attempt ends the operation, whether or not another attempt has it."""
    from retinue.operations import ending
    from retinue.operations.views import find_operation

    async def locked(scope: Any, fence: Any) -> Any:
        return await find_operation(scope, fence.operation_id, lock=True)

    ending.locked_for = locked


def publishes_apart() -> None:
    """The artifacts are published in a transaction of their own, before the one that completes the operation."""
    from retinue import artifacts
    from retinue.database import Database
    from retinue.kernel import Scope

    plain = artifacts.publish

    async def publish(scope: Scope, received: Sequence[Any]) -> None:
        async with scope.service(Database).transaction(scope.tenant_id) as uow:
            await plain(replace(scope, uow=uow), received)

    artifacts.publish = publish


def publishes_after_cancel() -> None:
    """The final transaction does not look whether somebody wants the operation cancelled, or its grant is over."""
    from retinue.operations import ending

    async def none(*_: Any) -> None:
        return None

    ending._refusal = none  # type: ignore[assignment]


def charges_again() -> None:
    """What an attempt used is charged by whoever comes by."""
    from retinue import metering
    from retinue.kernel import new_id

    plain = metering.charge

    async def charge(scope: Any, charges: Sequence[Any]) -> int:
        return await plain(scope, [replace(one, key=str(new_id())) for one in charges])

    metering.charge = charge


def tells_no_usage() -> None:
    """A sandbox that is cancelled does not tell what was used."""
    from retinue.operations.attempting import Attempting

    Attempting._used = lambda *_: None  # type: ignore[method-assign]


def leaves_the_sandbox() -> None:
    """Neither a new attempt nor a new worker ends what an earlier one left."""
    from retinue.operations import beginning
    from retinue.sandbox import Bubblewrap

    async def nothing(*_: Any) -> list[str]:
        return []

    beginning.end_earlier = nothing  # type: ignore[assignment]
    Bubblewrap.reap_all = nothing  # type: ignore[assignment, method-assign]


def wipes_nothing() -> None:
    """The workspace stays."""
    from retinue.operations.attempting import Attempting

    async def nothing(*_: Any) -> None:
        return None

    Attempting._wiped = nothing  # type: ignore[assignment, method-assign]


# Helps to meet a moment


def slow_store() -> None:
    """Each file takes a second and a half to be stored."""
    import asyncio

    async def wait(_self: Any, _name: str, _chunks: AsyncIterator[Any]) -> None:
        await asyncio.sleep(1.5)

    _put(wait)


def deaf() -> None:
    """This worker never hears that somebody wants it to stop, or that another one has what it had."""
    from retinue.dispatch import Activation

    Activation.ask_to_stop = lambda *_: None  # type: ignore[method-assign]


def of_level_c() -> None:
    """This machine offers a sandbox of level C and no better one."""
    from retinue.operations.workshop import Workshop
    from retinue.sandbox import Level

    plain = Workshop.probe

    async def probe(self: Workshop) -> Any:
        return replace(await plain(self), level=Level.C)

    Workshop.probe = probe  # type: ignore[method-assign]
