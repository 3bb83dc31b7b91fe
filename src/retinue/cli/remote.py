"""What every command that talks to a server has: its options, a client and a screen."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterable, Sequence
from inspect import Parameter
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from retinue.cli.screen import Column, Json, Screen

if TYPE_CHECKING:
    from retinue.cli.client import Client

_PANEL = "Every command"
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.", rich_help_panel=_PANEL)]
Server = Annotated[
    str | None,
    typer.Option(
        "--server",
        envvar="RETINUE_SERVER",
        show_envvar=True,
        help="The server's URL. Without it: the one on this machine.",
        rich_help_panel=_PANEL,
    ),
]
Tenant = Annotated[
    str | None,
    typer.Option(
        "--tenant",
        envvar="RETINUE_TENANT",
        show_envvar=True,
        help="Work in this tenant (name or id). Without it: your personal one.",
        rich_help_panel=_PANEL,
    ),
]
Limit = Annotated[int, typer.Option("--limit", min=0, help="Show at most so many; 0 shows all.")]


class Remote:
    """One command's way to the server and to the person."""

    def __init__(self, client: Client, screen: Screen) -> None:
        self.client = client
        self.screen = screen

    @property
    def as_json(self) -> bool:
        """Whether the result is wanted as JSON."""
        return self.screen.as_json

    def show(self, item: Any, fields: Sequence[Column]) -> None:
        """Print one thing."""
        if self.as_json:
            self.screen.document(item)
        else:
            self.screen.record(fields, item)

    def show_all(self, items: Iterable[Json], columns: Sequence[Column], *, empty: str) -> None:
        """Print a list."""
        if self.as_json:
            self.screen.document({"items": list(items)})
        else:
            self.screen.table(columns, items, empty=empty)

    def done(self, text: str, item: object = None) -> None:
        """Say that it is done; with ``--json`` print what the server answered, if anything."""
        if self.as_json:
            self.screen.document(item if item is not None else {"ok": True})
        else:
            self.screen.line(text)


def remote(command: Callable[..., None]) -> Callable[..., None]:
    """Make a command of a function whose first parameter is a :class:`Remote`.

    Typer reads the signature, so the function is given one without that parameter and with the options every command
    has: ``--json``, ``--server`` and ``--tenant``.
    """
    inner = inspect.signature(command, eval_str=True)
    own = [parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in list(inner.parameters.values())[1:]]
    shared = [
        Parameter("every_json", Parameter.KEYWORD_ONLY, default=False, annotation=AsJson),
        Parameter("every_server", Parameter.KEYWORD_ONLY, default=None, annotation=Server),
        Parameter("every_tenant", Parameter.KEYWORD_ONLY, default=None, annotation=Tenant),
    ]

    @functools.wraps(command)
    def run(*, every_json: bool, every_server: str | None, every_tenant: str | None, **given: Any) -> None:
        screen = Screen(every_json)
        with connect(every_server, every_tenant, screen) as client:
            command(Remote(client, screen), **given)

    parameters = [*own, *shared]
    run.__dict__["__signature__"] = inspect.Signature(parameters, return_annotation=None)
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def connect(server: str | None, tenant: str | None, screen: Screen) -> Client:
    """Return a client with the caller's credentials: ``RETINUE_API_KEY``, or the login kept for the server."""
    from retinue.cli.client import Client

    url = server or default_server()
    client = Client(url, key=os.environ.get("RETINUE_API_KEY") or None)
    if urlsplit(url).scheme == "http" and not client.is_local:
        screen.note(f"Warning: {url} is not encrypted; your credentials can be read on the way.", style="yellow")
    if tenant:
        from retinue.cli.finding import Finder

        client.tenant = Finder(client).tenant(tenant)
    return client


def default_server() -> str:
    """Return the URL of the server on this machine."""
    return f"http://127.0.0.1:{os.environ.get('RETINUE_PORT') or 8700}"
