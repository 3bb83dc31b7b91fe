"""Opens the house for a command that runs in process, and ends it in good order."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retinue.cli.failures import ExitCode, Failure

if TYPE_CHECKING:
    from retinue.database import Database
    from retinue.house import House
    from retinue.kernel import Services, Settings

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

UntilStdinCloses = Annotated[
    bool,
    typer.Option("--until-stdin-closes", help="Stop when standard input ends, so when the parent does.", hidden=True),
]


def watch(settings: Settings) -> None:
    """Send the log, and traces where they are wanted, to where the settings say."""
    from retinue.kernel import configure_logging, configure_tracing

    configure_logging(settings)
    configure_tracing(settings)


def is_first_start(settings: Settings) -> bool:
    """Return whether the embedded database is wanted and the data folder holds none yet."""
    return settings.database_url is None and not (settings.data / "roles.ready").exists()


@asynccontextmanager
async def opened(settings: Settings, *, serve: bool, work: bool) -> AsyncIterator[House]:
    """Open the house, and close it at the end of the block.

    Raises:
        Failure: the data folder cannot be made, or the house cannot start; the message says why.
    """
    from asyncpg import PostgresError

    from retinue.database import FolderInUse
    from retinue.house import CannotStart, House
    from retinue.kernel import Fault, shutdown_tracing
    from retinue.vault import VaultLocked

    _make_folder(settings)
    house = House(settings)
    try:
        await house.open(serve=serve, work=work)
    except (FolderInUse, CannotStart, VaultLocked) as error:
        raise Failure(str(error)) from None
    except Fault as fault:
        raise Failure(fault.detail, ExitCode.UNAVAILABLE) from None
    except (OSError, PostgresError) as error:
        raise about_the_database(error) from None
    try:
        yield house
    finally:
        await house.close()
        shutdown_tracing()


def _make_folder(settings: Settings) -> None:
    try:
        settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        why = f"The data folder {settings.data} cannot be made: {error.strerror}."
        raise Failure(f"{why} Choose another with --data or RETINUE_DATA.") from None


@asynccontextmanager
async def opened_pool(settings: Settings) -> AsyncIterator[tuple[House, Database]]:
    """Open the server's database and nothing else, for a command of its operator.

    Raises:
        Failure: it cannot be reached, is not at this version, or holds what the vault's root key does not open.
    """
    from asyncpg import PostgresError

    from retinue.database import current_revision, expected_revision
    from retinue.house import House
    from retinue.kernel import Fault
    from retinue.vault import VaultLocked

    house = House(settings)
    try:
        dsn, _ = await house.open_database_server(serve=False)
        if await current_revision(dsn) != expected_revision():
            raise Failure("The database is not at this version. Run: retinue migrate")
        yield house, await house.open_pool(dsn)
    except VaultLocked as locked:
        raise Failure(str(locked)) from None
    except Fault as fault:
        raise Failure(fault.detail, ExitCode.UNAVAILABLE) from None
    except (OSError, PostgresError) as error:
        raise about_the_database(error) from None
    finally:
        await house.close()


@asynccontextmanager
async def opened_ledger(settings: Settings) -> AsyncIterator[Services]:
    """Open the server's database, and what appending events needs, for a command of its operator.

    Raises:
        Failure: see :func:`opened_pool`.
    """
    from retinue.house import ROOMS
    from retinue.kernel import Settings
    from retinue.ledger import Feed, Projections

    async with opened_pool(settings) as (house, database):
        house.services.add(Settings, settings)
        house.services.add(Projections, Projections(one for room in ROOMS for one in room.projections))
        feed = house.services.add(Feed, Feed(database))
        yield house.services
        await feed.tell_now()  # a server that believes to be alone looks for nothing


def about_the_database(error: Exception) -> Failure:
    """Return what an error means that came while the database was being reached."""
    from retinue.database import translated

    fault = translated(error)
    if fault is not None:
        return Failure(f"{fault.detail} ({error})", ExitCode.UNAVAILABLE)
    return Failure(f"The database refuses: {error}")


def run_until_stopped(
    main: Callable[[asyncio.Event], Coroutine[Any, Any, None]], *, until_stdin_closes: bool = False
) -> None:
    """Run ``main`` on uvloop; SIGINT and SIGTERM set the event it is given and do nothing else.

    So does the end of standard input, with ``until_stdin_closes``.

    The handlers are plain ones, so that a server that takes signals for itself and passes them on when it has ended
    finds them again instead of the default, which would end the process at once.
    """
    import uvloop

    async def body() -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()

        def wanted(*_: object) -> None:
            loop.call_soon_threadsafe(stop.set)

        for number in _SIGNALS:
            signal.signal(number, wanted)
        if until_stdin_closes:
            _at_end_of_stdin(loop, stop.set)
        await _unless(stop, main(stop))

    uvloop.run(body())


def _at_end_of_stdin(loop: asyncio.AbstractEventLoop, act: Callable[[], None]) -> None:
    descriptor = sys.stdin.fileno()

    def readable() -> None:
        if not os.read(descriptor, 4096):
            loop.remove_reader(descriptor)
            act()

    loop.add_reader(descriptor, readable)


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Run ``work``; it looks at ``stop`` itself once it is under way, and is cancelled when it does not within 15 s."""
    task = asyncio.create_task(work)
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            await asyncio.wait({task}, timeout=15)
            task.cancel()
        await task
    except asyncio.CancelledError:
        raise Failure("Stopped before it had ended.") from None
    finally:
        stopped.cancel()
