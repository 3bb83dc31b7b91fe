"""The toolbox: which tools there are, and those of one agent, ready to be called."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any
from uuid import UUID
from weakref import WeakKeyDictionary

from msgspec import Struct

from retinue.kernel import BadInput, Settings
from retinue.outbound import Resolve, resolve
from retinue.tools.ask_user import ask_user_tool
from retinue.tools.calls import Tool, ToolContext
from retinue.tools.clock import clock_tool
from retinue.tools.fetch import HttpFetch, fetch_tool
from retinue.tools.files import file_tools
from retinue.tools.labels import Labels
from retinue.tools.mcp_connection import McpConnection, McpUnavailable, RemoteTool
from retinue.tools.mcp_pool import McpPool
from retinue.tools.mcp_servers import McpServer, read_servers, tool_names, with_secrets
from retinue.tools.plugins import Plugins, load_plugins

_LONGEST_DESCRIPTION = 2000
_MOST_SELECTED = 100


class ToolSpec(Struct, frozen=True):
    """What a model is told about a tool; ``parameters`` is a JSON Schema."""

    name: str
    description: str
    parameters: dict[str, Any]


class OpenTools:
    """The tools of one agent.

    Attributes:
        problems: MCP servers or tools of theirs that cannot be had right now, one line each.
    """

    def __init__(self, tools: Iterable[Tool], problems: Sequence[str] = ()) -> None:
        self._tools = {tool.name: tool for tool in tools}
        self._specs = [ToolSpec(tool.name, tool.description, tool.parameters) for tool in self._tools.values()]
        self.problems = tuple(problems)

    def specs(self) -> list[ToolSpec]:
        """Return what the model is told, in the order of the selection."""
        return list(self._specs)

    def get(self, name: str) -> Tool | None:
        """Return the tool that a model calls by this name; None for a name it made up."""
        return self._tools.get(name)


class Toolbox:
    """All tools of this server. One for a process; :meth:`close` ends what it holds open.

    Args:
        settings: the server's settings.
        plugins: the tools of plugins; those of the installed packages when left out.
        resolve: finds the addresses of a host; replaced in tests.
        tls: how certificates are checked; the system's authorities when left out.
    """

    def __init__(
        self,
        settings: Settings,
        plugins: Plugins | None = None,
        *,
        resolve: Resolve = resolve,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._settings = settings
        fetch = HttpFetch(allow_private=settings.allow_private_fetch, resolve=resolve, tls=tls)
        self._groups: dict[str, list[Tool]] = {
            "files": file_tools(),
            "clock": [clock_tool()],
            "http_fetch": [fetch_tool(fetch)],
            "ask_user": [ask_user_tool()],
        }
        taken = {tool.name for group in self._groups.values() for tool in group} | set(self._groups)
        self.plugins = load_plugins(taken=taken) if plugins is None else plugins
        self._groups |= {name: [tool] for name, tool in self.plugins.tools.items()}
        self._pool = McpPool(settings, resolve=resolve, tls=tls)
        self._unlisted: set[str] = set()
        self._opened: dict[tuple[str, ...], OpenTools] = {}
        self._remote: WeakKeyDictionary[McpConnection, RemoteTools] = WeakKeyDictionary()

    def add(self, group: str, tools: Sequence[Tool], *, listed: bool = True) -> None:
        """Offer the tools of a room to agents, under one name of their ``tools``. For the start of the server.

        Args:
            group: the name.
            tools: what it stands for.
            listed: whether people are told of it; a tool that only a room's own agent can use need not be.

        Raises:
            ValueError: the name is taken.
        """
        taken = {tool.name for known in self._groups.values() for tool in known} | set(self._groups)
        if taken & {group, *(tool.name for tool in tools)}:
            raise ValueError(f"there are tools called {group} already")
        self._groups[group] = list(tools)
        if not listed:
            self._unlisted.add(group)

    def labels_of(self, selection: Sequence[str]) -> dict[str, Labels]:
        """Return what each tool of an agent's selection may cause, by the tool's name; MCP servers' are not known."""
        plain = self._plain(tuple(selection))
        return {spec.name: tool.labels for spec in plain.specs() if (tool := plain.get(spec.name)) is not None}

    def names(self) -> list[str]:
        """Return what an agent's ``tools`` may name."""
        return sorted(set(self._groups) - self._unlisted)

    def check(self, selection: Sequence[str], mcp: Iterable[McpServer | Mapping[str, Any]] = ()) -> list[McpServer]:
        """Check the tools of an agent's definition and return its MCP servers as they are stored.

        Raises:
            BadInput: an entry cannot be used; the field names it, as ``tools[2]`` or ``mcp[0].url``.
        """
        if len(selection) > _MOST_SELECTED:
            raise BadInput(f"An agent has at most {_MOST_SELECTED} tools.", field="tools")
        for index, name in enumerate(selection):
            if name not in self._groups:
                known = ", ".join(self.names())
                raise BadInput(f"There is no tool called '{name[:100]}'. There are: {known}.", field=f"tools[{index}]")
        return read_servers(mcp, self._settings)

    async def open(
        self,
        selection: Sequence[str],
        mcp: Sequence[McpServer] = (),
        *,
        tenant_id: UUID,
        secrets: Mapping[str, str] | None = None,
    ) -> OpenTools:
        """Return the tools of an agent, ready to be called.

        A name that is gone since the agent was defined, and an MCP server that does not answer, are left out and
        named in ``problems``: the agent goes on with what there is.

        Args:
            selection: names, checked when the agent was defined.
            mcp: its MCP servers, likewise.
            tenant_id: whose connections are used.
            secrets: the tenant's secrets, for the places in headers and environments that name them.
        """
        plain = self._plain(tuple(selection))
        if not mcp:
            return plain
        listings = await asyncio.gather(*(self._remote_tools(tenant_id, server, secrets or {}) for server in mcp))
        tools = {spec.name: tool for spec in plain.specs() if (tool := plain.get(spec.name))}
        problems = list(plain.problems)
        for remote in listings:
            if isinstance(remote, str):
                problems.append(remote)
                continue
            problems += remote.problems
            problems += [
                f"A second tool called {tool.name} is left out." for tool in remote.tools if tool.name in tools
            ]
            tools = {tool.name: tool for tool in remote.tools} | tools
        return OpenTools(tools.values(), problems)

    async def close(self) -> None:
        """Close the connections to MCP servers and end their programs."""
        await self._pool.close()

    def _plain(self, selection: tuple[str, ...]) -> OpenTools:
        found = self._opened.get(selection)
        if found is None:
            tools = [tool for name in dict.fromkeys(selection) for tool in self._groups.get(name, ())]
            missing = [f"The tool {name} is not installed any more." for name in selection if name not in self._groups]
            found = OpenTools(tools, missing)
            if len(self._opened) < 1000:  # selections come from users; a table of them must not grow for ever
                self._opened[selection] = found
        return found

    async def _remote_tools(self, tenant_id: UUID, server: McpServer, secrets: Mapping[str, str]) -> RemoteTools | str:
        """Return the tools of a server, or why there are none."""
        try:
            connection = await self._pool.connection(tenant_id, with_secrets(server, secrets))
            listing = await connection.tools()
        except McpUnavailable as error:
            return str(error)
        except BadInput as error:
            return f"The MCP server {server.name} is not available: {error.detail}"
        found = self._remote.get(connection)
        if found is None or found.listing is not listing or found.labels != server.labels:
            # Compiling a schema takes a millisecond; a server may have a hundred tools.
            found = self._remote[connection] = _remote_tools(connection, listing, server)
        return found


class RemoteTools(Struct, frozen=True):
    """The tools made of one listing of a server, under one set of labels."""

    listing: list[RemoteTool]
    labels: dict[str, Labels]
    tools: list[Tool]
    problems: list[str]


def _remote_tools(connection: McpConnection, listing: list[RemoteTool], server: McpServer) -> RemoteTools:
    made = RemoteTools(listing, server.labels, [], [])
    by_name = {remote.name: remote for remote in listing}
    for name, theirs in tool_names(server.name, by_name).items():
        try:
            made.tools.append(_remote_tool(name, by_name[theirs], server, connection))
        except ValueError as error:
            made.problems.append(f"The tool {theirs[:100]} of {server.name} is left out: {error!s:.200}")
    return made


def _remote_tool(name: str, remote: RemoteTool, server: McpServer, connection: McpConnection) -> Tool:
    labels = server.labels_of(remote.name)
    return Tool(
        name=name,
        description=remote.description[:_LONGEST_DESCRIPTION] or remote.name,
        parameters=remote.parameters,
        labels=labels,
        handler=partial(_call_remote, connection, remote.name, labels.repeatable),
    )


async def _call_remote(
    connection: McpConnection, tool: str, repeatable: bool, context: ToolContext, arguments: dict[str, Any]
) -> object:
    return await connection.call(tool, arguments, key=context.idempotency_key, repeatable=repeatable)
