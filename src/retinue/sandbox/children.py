"""Child processes, started and waited for in a way that tells what all of their descendants used."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

_CHUNK = 65536


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended: its code (negative: the signal), and the CPU seconds of it and all that it waited for."""

    code: int
    cpu_seconds: float


@dataclass(slots=True)
class Child:
    """A process of this server with its pipes. Made by :func:`spawn`."""

    pid: int
    stdin: asyncio.StreamWriter | None
    stdout: asyncio.StreamReader
    stderr: asyncio.StreamReader
    exit: asyncio.Future[Exit]
    _pidfd: int
    _transports: list[asyncio.BaseTransport] = field(default_factory=list)

    def kill(self) -> None:
        """Send SIGKILL, if it is still alive."""
        if not self.exit.done():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def close(self) -> None:
        """Close the pipes and the handle. The process must have ended."""
        if self.stdin is not None:
            self.stdin.close()
        for transport in self._transports:
            transport.close()
        if self._pidfd >= 0:
            with contextlib.suppress(RuntimeError):
                asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1


async def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    stdin: int | None,
    pass_fds: Sequence[int] = (),
) -> Child:
    """Start a program. ``stdin``: a file descriptor that it reads, or None for a pipe that the caller writes.

    It is started by the event loop's own thread: a parent-death signal is sent when the *thread* that forked ends, so
    a thread of a pool would not do. Raises OSError if the program cannot be started.
    """
    loop = asyncio.get_running_loop()
    process = subprocess.Popen(  # noqa: ASYNC220 - the thread of a pool would be the wrong parent
        list(argv),
        stdin=subprocess.PIPE if stdin is None else stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(env),
        pass_fds=tuple(pass_fds),
        cwd="/",
        start_new_session=True,
    )
    ended: asyncio.Future[Exit] = loop.create_future()
    pidfd = os.pidfd_open(process.pid)

    def reap() -> None:
        loop.remove_reader(pidfd)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if not ended.done():
            ended.set_result(Exit(process.returncode, used.ru_utime + used.ru_stime))

    loop.add_reader(pidfd, reap)
    transports: list[asyncio.BaseTransport] = []
    try:
        stdout = await _reader(loop, process.stdout, transports)
        stderr = await _reader(loop, process.stderr, transports)
        writer = None if stdin is not None else await _writer(loop, process.stdin)
    except BaseException:
        # Cancelled between two pipes: kill it, and let go of what there is once it has been waited for.
        process.kill()
        ended.add_done_callback(lambda _: os.close(pidfd))
        for held in (*transports, process.stdin, process.stdout, process.stderr):
            if held is not None:
                held.close()
        raise
    return Child(process.pid, writer, stdout, stderr, ended, pidfd, transports)


async def _reader(
    loop: asyncio.AbstractEventLoop, pipe: IO[bytes] | None, transports: list[asyncio.BaseTransport]
) -> asyncio.StreamReader:
    # The reader stops taking from the pipe at twice its limit: a consumer that is slow slows the program down.
    reader = asyncio.StreamReader(limit=_CHUNK, loop=loop)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader, loop=loop), _given(pipe))
    transports.append(transport)
    return reader


async def _writer(loop: asyncio.AbstractEventLoop, pipe: IO[bytes] | None) -> asyncio.StreamWriter:
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader(loop=loop), loop=loop), _given(pipe)
    )
    return asyncio.StreamWriter(transport, protocol, None, loop)


def _given(pipe: IO[bytes] | None) -> Any:
    assert pipe is not None
    return pipe


def memory_file(name: str, data: bytes) -> int:
    """Return a descriptor of a sealed file in memory that is read from its beginning."""
    import fcntl

    number = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(number, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(number, 0, os.SEEK_SET)
    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(number, fcntl.F_ADD_SEALS, seals)
    return number
