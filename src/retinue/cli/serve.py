"""`retinue serve`: the server, API and worker in one process."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from retinue import __version__
from retinue.cli.configuration import Data, load_settings
from retinue.cli.failures import Failure
from retinue.cli.opening import UntilStdinCloses, is_first_start, opened, run_until_stopped, watch
from retinue.cli.remote import default_server

if TYPE_CHECKING:
    from retinue.house import House
    from retinue.kernel import Settings

_REQUEST_SECONDS = 4
"""How long requests may go on after a stop was asked for; activations then hand over within 5 s."""


def serve(
    host: Annotated[str | None, typer.Option("--host", help="The address to listen on.")] = None,
    port: Annotated[int | None, typer.Option("--port", min=0, max=65535, help="0 picks a free one.")] = None,
    data: Data = None,
    no_worker: Annotated[bool, typer.Option("--no-worker", help="Only answer HTTP; see `retinue worker`.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Say that it is ready as one line of JSON.")] = False,
    until_stdin_closes: UntilStdinCloses = False,
) -> None:
    """Start the server. Ctrl-C stops it within 10 seconds; what was accepted goes on at the next start."""
    settings = load_settings(host=host, port=port, data=data)
    watch(settings)
    first = is_first_start(settings)
    if first and not as_json:
        sys.stderr.write(f"First start: setting up the database in {settings.data} (a few seconds)\n")

    async def main(stop: asyncio.Event) -> None:
        async with opened(settings, serve=True, work=not no_worker) as house:
            with listener(settings) as sock:
                await _answer(house, sock, stop, lambda: _announce(house, sock, first=first, as_json=as_json))

    run_until_stopped(main, until_stdin_closes=until_stdin_closes)


async def _answer(house: House, sock: socket.socket, stop: asyncio.Event, ready: Callable[[], None]) -> None:
    """Answer requests until SIGINT or SIGTERM."""
    from retinue.web import Server

    server = Server(house.app(), house.settings, graceful_seconds=_REQUEST_SECONDS)

    async def heed() -> None:
        # The server takes signals for itself, but one may have come before it did.
        await stop.wait()
        server.should_exit = True

    heeding = asyncio.create_task(heed())
    try:
        ready()
        await server.serve(sockets=[sock])
    finally:
        heeding.cancel()


def listener(settings: Settings) -> socket.socket:
    """Return a socket that listens where the settings say.

    Raises:
        Failure: the address is taken, not this machine's, or not allowed.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except OSError as error:
        where, why = f"{settings.host}:{settings.port}", os.strerror(error.errno) if error.errno else str(error)
        raise Failure(f"Cannot listen on {where}: {why}. Choose another --host or --port.") from None


def _announce(house: House, sock: socket.socket, *, first: bool, as_json: bool) -> None:
    about = _about(house, sock)
    if as_json:
        sys.stdout.write(json.dumps({"ready": True, **about, "pid": os.getpid()}) + "\n")
    else:
        width = max(len(name) for name in about)
        lines = [f"  {name.ljust(width)}  {value}" for name, value in about.items()]
        sys.stdout.write("\n".join([f"Retinue {__version__} is ready.", *lines, *_next_steps(about["url"], first), ""]))
    sys.stdout.flush()


def _about(house: House, sock: socket.socket) -> dict[str, str]:
    from retinue.dispatch import Dispatcher

    settings = house.settings
    works = house.services.get(Dispatcher).works
    return {
        "url": _url(sock),
        "data": str(settings.data),
        "database": _database(settings),
        "models": _models(house),
        "worker": "in this process" if works else "none here; start one with: retinue worker",
    }


def _url(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared with, not listened on
        host = socket.gethostname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _database(settings: Settings) -> str:
    if settings.database_url is None:
        return "embedded PostgreSQL in the data folder"
    parts = urlsplit(settings.database_url.get_secret_value())
    return f"PostgreSQL at {parts.hostname or 'a local socket'}{parts.path}"


def _models(house: House) -> str:
    from retinue.providers import Providers

    default = house.services.get(Providers).default_model
    if default.startswith("demo:"):
        return "demo only: scripted answers, labelled [demo]; set OPENAI_API_KEY, ANTHROPIC_API_KEY or GEMINI_API_KEY"
    return f"{default}, where an agent names none"


def _next_steps(url: str, first: bool) -> list[str]:
    if not first:
        return ["Stop it with Ctrl-C."]
    elsewhere = [] if url == default_server() else [f"  export RETINUE_SERVER={url}"]
    return [
        "Begin in another terminal:",
        *elsewhere,
        "  retinue sign-up",
        '  retinue agents create helper --tool files -i "Answer from the files."',
        '  retinue chat helper --file README.md "What is this about?"',
        "Stop it with Ctrl-C.",
    ]


def add_to(program: typer.Typer) -> None:
    """Hang the command into the program."""
    program.command(rich_help_panel="The server")(serve)
