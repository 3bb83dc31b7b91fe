"""The servers under measurement, each a real process: the floor's and the product's."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from bench.loading import ROOT

_START_SECONDS = 60.0
_STOP_SECONDS = 20.0
_POLL_SECONDS = 0.005
_READY = b"GET /health/ready HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n"


class StartFailed(Exception):
    """A server did not become ready; the message is the end of its log."""


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Server:
    """A server process on a port. `database` is the folder of its PostgreSQL cluster, if it has one."""

    command: list[str]
    port: int
    environment: dict[str, str]
    log: Path
    database: Path | None = None
    ready_seconds: float = 0.0
    _process: asyncio.subprocess.Process | None = field(default=None, init=False)

    @property
    def pid(self) -> int:
        """The process id. Raises LookupError when it was not started."""
        if self._process is None:
            raise LookupError("the server was not started")
        return self._process.pid

    def database_pid(self) -> int | None:
        """The postmaster's process id, or None when no database runs."""
        if self.database is None:
            return None
        try:
            line = (self.database / "postmaster.pid").read_text(encoding="utf-8").split("\n", 1)[0]
        except FileNotFoundError:
            return None
        return int(line)

    def pids(self) -> list[int]:
        """Return the heads of all its process families."""
        database = self.database_pid()
        return [self.pid] if database is None else [self.pid, database]

    async def start(self) -> float:
        """Start it; return the seconds until it was ready. Raises StartFailed."""
        started = time.monotonic()
        await self.spawn()
        while not await self._is_ready():
            if self._has_ended() or time.monotonic() - started > _START_SECONDS:
                await self.stop()
                raise StartFailed(self.last_words())
            await asyncio.sleep(_POLL_SECONDS)
        self.ready_seconds = time.monotonic() - started
        return self.ready_seconds

    def _has_ended(self) -> bool:
        return self._process is not None and self._process.returncode is not None

    async def spawn(self) -> None:
        """Start the process and do not wait for it to be ready."""
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self.command,
                cwd=ROOT,
                env={**os.environ, **self.environment},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    async def _is_ready(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        with contextlib.closing(writer):
            try:
                writer.write(_READY)
                status = await asyncio.wait_for(reader.readline(), 5)
            except (OSError, TimeoutError):
                return False
        return status.startswith(b"HTTP/1.1 200")

    def last_words(self) -> str:
        """Return the last line of its log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").split("\n") if self.log.exists() else []
        return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "it said nothing")

    async def kill(self) -> None:
        """End it at once, as `kill -9` does; its database stays."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def stop(self) -> None:
        """Ask it to end, insist after a while, and end its database too."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), _STOP_SECONDS)
            except TimeoutError:
                await self.kill()
        await asyncio.to_thread(self._stop_database)

    def _stop_database(self) -> None:
        """End a database that outlived its server, and wait for it."""
        pid = self.database_pid()
        if pid is None:
            return
        with contextlib.suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
            postmaster = psutil.Process(pid)
            if postmaster.name() == "postgres":
                postmaster.send_signal(signal.SIGINT)
                postmaster.wait(_STOP_SECONDS)


def floor_server(folder: Path, model_environment: dict[str, str]) -> Server:
    """Return the floor of a turn, with its data in the folder."""
    port, data = free_port(), folder / "floor"
    command = [sys.executable, "-m", "bench.floors.turn_server", f"--port={port}", f"--data={data}"]
    return Server(command, port, model_environment, folder / "floor.log", data)


def product_server(folder: Path, model_environment: dict[str, str], *options: str) -> Server:
    """Return the product as a user starts it, with its data in the folder and no limits of requests."""
    port, data = free_port(), folder / "product"
    environment = {
        **model_environment,
        "RETINUE_DATA": str(data),
        "RETINUE_HOST": "127.0.0.1",
        "RETINUE_PORT": str(port),
        "RETINUE_RATE_LIMIT": "off",
        "RETINUE_LOGIN_RATE_LIMIT": "off",
        "RETINUE_ACCESS_TOKEN_SECONDS": "86400",
        "RETINUE_LOG_LEVEL": "warning",
    }
    command = [str(Path(sys.executable).parent / "retinue"), "serve", *options]
    return Server(command, port, environment, folder / "product.log", data / "postgres")


def worker(server: Server, folder: Path) -> Server:
    """Return a worker beside a product server that was told to have none; it has no port to be ready on."""
    command = [server.command[0], "worker"]
    return Server(command, 0, server.environment, folder / "worker.log")


def sse_server(folder: Path, rate: float) -> Server:
    """Return the floor of fan-out."""
    port = free_port()
    command = [sys.executable, "-m", "bench.floors.sse_server", f"--port={port}", f"--rate={rate}"]
    return Server(command, port, {}, folder / "sse.log")


@contextlib.contextmanager
def without_proxies() -> Iterator[None]:
    """Take proxy settings out of the environment: everything here is on loopback."""
    names = [name for name in os.environ if name.lower().endswith("_proxy")]
    saved = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(saved)
