"""`python -m tests.support.model_server --port N`: prints `{"port": N}` and serves until it is stopped."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys

import uvloop

from tests.support.model_server.server import ModelServer


async def serve(port: int, keep: int, until_stdin_closes: bool) -> None:
    """Serve until SIGTERM or SIGINT, or until standard input closes."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if until_stdin_closes:
        loop.add_reader(sys.stdin.fileno(), stop.set)
    async with ModelServer(port, keep=keep) as server:
        sys.stdout.write(f'{{"port": {server.port}}}\n')
        sys.stdout.flush()
        await stop.wait()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(prog="model_server", description="A scripted model provider on loopback.")
    parser.add_argument("--port", type=int, default=0, help="0 picks a free port")
    parser.add_argument("--keep", type=int, default=10_000, help="how many requests the log holds")
    parser.add_argument("--until-stdin-closes", action="store_true")
    options = parser.parse_args()
    uvloop.run(serve(options.port, options.keep, options.until_stdin_closes))


if __name__ == "__main__":
    main()
