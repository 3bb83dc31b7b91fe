"""An MCP server for tests, made with the official library: `mcp_server.py stdio` or `mcp_server.py http PORT`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import anyio
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.types import ToolAnnotations

server = MCPServer("for tests")


def note(what: str) -> None:
    """Write down that a call arrived, so that a test can count."""
    if path := os.environ.get("CALLS"):
        with Path(path).open("a") as file:
            file.write(f"{what} {os.getpid()}\n")


@server.tool(annotations=ToolAnnotations(read_only_hint=True, destructive_hint=False, open_world_hint=False))
def echo(text: str) -> str:
    """Say it again."""
    note("echo")
    return text


@server.tool()
def add(a: int, b: int) -> dict[str, int]:
    """Add."""
    return {"sum": a + b}


@server.tool()
def key(context: Context[Any, Any]) -> str:
    """Show the idempotency key."""
    meta: Any = context.request_context.meta or {}
    return str(meta.get("retinue/idempotency-key"))


@server.tool()
def headers(context: Context[Any, Any]) -> str:
    """Show the HTTP headers of the call."""
    return json.dumps(dict(context.headers or {}))


@server.tool()
def fail() -> str:
    """Fail."""
    raise ValueError("out of cheese")


@server.tool()
async def wait(number: float) -> str:
    """Wait."""
    note("wait")
    await anyio.sleep(number)
    return "waited"


@server.tool()
def die(text: str) -> str:
    """Die in the middle of a call."""
    note("die")
    os._exit(3)


if __name__ == "__main__":
    if sys.argv[1] == "stdio":
        server.run("stdio")
    else:
        server.run("streamable-http", port=int(sys.argv[2]))
