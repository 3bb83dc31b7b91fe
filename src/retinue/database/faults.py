"""Translates the driver's errors into faults, so that a sick database is a 503 and never a stack."""

from __future__ import annotations

import errno

import asyncpg

from retinue.kernel import Conflict, Fault, StorageFull, Unavailable

# The connection is gone, the server starts or stops, or it ran out of something that comes back.
_PASSING = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a connection that was cut in the middle of an answer
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.QueryCanceledError,
    asyncpg.LockNotAvailableError,
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.OutOfMemoryError,
    asyncpg.InternalServerError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    ConnectionError,
    TimeoutError,
)


def translated(error: BaseException) -> Fault | None:
    """Return the fault that ``error`` means to a caller, or None when it is a mistake in the program."""
    if isinstance(error, asyncpg.DiskFullError):
        return StorageFull("The database's disk is full. Free some space; nothing accepted so far is lost.")
    if isinstance(error, asyncpg.PostgresError) and error.sqlstate == "RT409":
        stream = str(error).partition(": expected")[0]
        return Conflict(f"The {stream} was changed at the same time. Read it again and retry.")
    if isinstance(error, _PASSING):
        return Unavailable("The database does not answer. Try again in a moment.")
    if isinstance(error, asyncpg.PostgresIOError) or _is_disk_full(error):
        return StorageFull("The database cannot write to its disk.")
    if isinstance(error, OSError):
        return Unavailable("The database cannot be reached. Try again in a moment.")
    return None


def _is_disk_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
