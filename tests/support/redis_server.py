"""A real Redis for tests, on a free loopback port."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


def need_redis() -> None:
    """Skip the test where there is no Redis."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")


def free_port() -> int:
    """Return a port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start_redis(port: int, folder: Path) -> subprocess.Popen[bytes]:
    """Start a server that keeps nothing on disk; it answers a moment later."""
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="session")
def redis_port() -> Iterator[int]:
    """The port of a Redis that lasts as long as the test run."""
    need_redis()
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        process = start_redis(port, Path(folder))
        yield port
        process.terminate()
        process.wait()
