"""How a load program talks to the harness.

It reads its order as one JSON line, gets ready, prints `ready`, waits for a line, does the measured work, and prints
its result as one JSON line. What lies before `ready` is set-up and is not measured.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import time
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic, TypeVar

import msgspec
import uvloop

Order = TypeVar("Order", bound=msgspec.Struct)


def _say(line: bytes) -> None:
    """Write a line to the harness, whole.

    `sys.stdout` does not try again after a short write when Python runs unbuffered, and a write to a pipe can be short
    here: the event loop's io_uring interrupts it.
    """
    rest = memoryview(line + b"\n")
    while rest:
        rest = rest[os.write(sys.stdout.fileno(), rest) :]


class Program(ABC, Generic[Order]):
    """A load program; subclasses name the type of their order."""

    order_type: ClassVar[type[msgspec.Struct]]

    def __init__(self, order: Order) -> None:
        self.order = order

    @abstractmethod
    async def prepare(self) -> None:
        """Do everything that is not to be measured."""

    @abstractmethod
    async def work(self) -> dict[str, Any]:
        """Do the measured work and return the result."""

    @classmethod
    def main(cls) -> None:
        """Run the program from start to end."""
        # Thousands of streams need as many descriptors; the hard limit is what the machine allows.
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        order: Any = msgspec.json.decode(sys.stdin.readline(), type=cls.order_type)
        result = uvloop.run(cls(order)._run())
        _say(msgspec.json.encode(result))

    async def _run(self) -> dict[str, Any]:
        await self.prepare()
        _say(b"ready")
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        cpu, started = time.process_time(), time.monotonic()
        result = await self.work()
        seconds = time.monotonic() - started
        return {"seconds": seconds, "client_cpu": time.process_time() - cpu, **result}
