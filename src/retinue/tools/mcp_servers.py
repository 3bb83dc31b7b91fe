"""The MCP servers of an agent's definition: what they may say, and how their tools are named and labelled."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import Any

import httpx2
import msgspec
from msgspec import Struct, structs

from retinue.kernel import BadInput, Settings, address_refusal
from retinue.tools.labels import UNLABELLED, Labels

MOST_SERVERS = 10
"""MCP servers one agent may have."""

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,32}")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_SECRET = re.compile(r"\$\{secret:([A-Za-z0-9_.-]{1,100})\}")
_NOT_IN_A_NAME = re.compile(r"[^a-zA-Z0-9_-]")
_LONGEST_TEXT = 4000
_MOST_VALUES = 100
_LONGEST_TOOL_NAME = 64

# What belongs to the connection itself.
_OWN_HEADERS = frozenset({"host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer"})


class McpServer(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A server that speaks the Model Context Protocol, over streamable HTTP (``url``) or stdio (``command``).

    Attributes:
        name: the first part of its tools' names.
        url: where it is, https.
        command: a local program; it runs as this server does, in a folder of its own, with a clean environment.
        args: the program's arguments.
        env: what the program's environment holds besides PATH and the like.
        headers: sent with every request. In values of ``headers`` and ``env``, ``${secret:NAME}`` stands for one of
            the tenant's secrets.
        labels: tool -> labels; ``*`` for all that are not named. What has none is unlabelled: egress, untrusted.
            The hints a server gives about its own tools are not believed.
    """

    name: str
    url: str | None = None
    command: str | None = None
    args: list[str] = []
    env: dict[str, str] = {}
    headers: dict[str, str] = {}
    labels: dict[str, Labels] = {}

    def labels_of(self, tool: str) -> Labels:
        """Return the labels of one of its tools, by the name the server gives it."""
        return self.labels.get(tool) or self.labels.get("*") or UNLABELLED


def read_servers(given: Iterable[McpServer | Mapping[str, Any]], settings: Settings) -> list[McpServer]:
    """Read and check the servers of a definition.

    Raises:
        BadInput: one of them cannot be used; the field names it, as ``mcp[0].url``.
    """
    servers: list[McpServer] = []
    for index, item in enumerate(given):
        field = f"mcp[{index}]"
        if index >= MOST_SERVERS:
            raise BadInput(f"An agent has at most {MOST_SERVERS} MCP servers.", field="mcp")
        server = item if isinstance(item, McpServer) else _converted(item, field)
        _check(server, field, settings)
        if any(server.name == other.name for other in servers):
            raise BadInput(f"There are two MCP servers called {server.name}.", field=f"{field}.name")
        servers.append(server)
    return servers


def _converted(item: Mapping[str, Any], field: str) -> McpServer:
    try:
        return msgspec.convert(item, McpServer)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        raise BadInput(f"This MCP server is not valid: {message}.", field=field + path.rstrip("`")) from None


def _check(server: McpServer, field: str, settings: Settings) -> None:
    if not _NAME.fullmatch(server.name):
        raise BadInput("A name has letters, digits, _ and -, at most 32.", field=f"{field}.name")
    if (server.url is None) == (server.command is None):
        raise BadInput("An MCP server has either a url or a command.", field=field)
    for tool, labels in server.labels.items():
        if labels.waits or labels.assumed:
            raise BadInput("The labels waits and assumed cannot be given.", field=f"{field}.labels.{tool}")
    if server.url is not None:
        _check_url(server.url, f"{field}.url", settings)
        _check_headers(server.headers, f"{field}.headers")
    else:
        _check_program(server, field, settings)


def _check_url(text: str, field: str, settings: Settings) -> None:
    try:
        url = httpx2.URL(text)
    except (httpx2.InvalidURL, ValueError):
        raise BadInput("That is not a URL.", field=field) from None
    schemes = ("https", "http") if settings.allow_private_fetch else ("https",)
    if url.scheme not in schemes or not url.host or len(text) > _LONGEST_TEXT:
        raise BadInput("The URL of an MCP server begins with https:// and names a host.", field=field)
    if url.userinfo:
        raise BadInput("Credentials go into headers, not into the URL.", field=field)
    try:
        address = ip_address(url.host)
    except ValueError:
        return  # a name; it is resolved and checked when it is used
    if reason := address_refusal(address, allow_private=settings.allow_private_fetch):
        raise BadInput(f"This address cannot be used: {reason}.", field=field)


def _check_headers(headers: Mapping[str, str], field: str) -> None:
    if len(headers) > _MOST_VALUES:
        raise BadInput(f"At most {_MOST_VALUES} headers.", field=field)
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or name.lower() in _OWN_HEADERS:
            raise BadInput("This header cannot be set.", field=f"{field}.{name[:100]}")
        if len(value) > _LONGEST_TEXT or not (value.isascii() and value.isprintable()):
            raise BadInput("The value of a header is printable ASCII.", field=f"{field}.{name}")


def _check_program(server: McpServer, field: str, settings: Settings) -> None:
    if not settings.mcp_stdio:
        raise BadInput("MCP servers that run as local programs are switched off here.", field=f"{field}.command")
    if not server.command or max(len(server.args), len(server.env)) > _MOST_VALUES:
        raise BadInput(f"A program, at most {_MOST_VALUES} arguments and variables.", field=f"{field}.command")
    for name in server.env:
        if not _ENV_NAME.fullmatch(name):
            raise BadInput("This is not the name of a variable.", field=f"{field}.env.{name[:100]}")
    texts = {"command": [server.command], "args": server.args, "env": server.env.values()}
    for part, values in texts.items():
        if any("\0" in value or len(value) > _LONGEST_TEXT for value in values):
            raise BadInput("A text is too long or holds a NUL character.", field=f"{field}.{part}")


def with_secrets(server: McpServer, secrets: Mapping[str, str]) -> McpServer:
    """Put the tenant's secrets in their places.

    Raises:
        BadInput: one that is named does not exist.
    """

    def filled(values: Mapping[str, str]) -> dict[str, str]:
        return {name: _SECRET.sub(secret, value) for name, value in values.items()}

    def secret(match: re.Match[str]) -> str:
        if match[1] not in secrets:
            raise BadInput(f"There is no secret called {match[1]}.", field="mcp")
        return secrets[match[1]]

    return structs.replace(server, headers=filled(server.headers), env=filled(server.env))


def tool_names(server: str, tools: Iterable[str]) -> dict[str, str]:
    """Give the tools of a server names that models accept: ``<server>_<tool>``, unique, at most 64 characters."""
    names: dict[str, str] = {}
    for tool in sorted(set(tools)):
        name = f"{server}_{_NOT_IN_A_NAME.sub('_', tool)}"[:_LONGEST_TOOL_NAME]
        number = 1
        while name in names:
            number += 1
            ending = f"_{number}"
            name = name[: _LONGEST_TOOL_NAME - len(ending)].rstrip("_") + ending
        names[name] = tool
    return names
