"""A small MCP server over stdio, written against the protocol and not with a library, so that it starts at once.

It speaks the version 2025-06-18 (JSON-RPC 2.0, one message a line). It notes each call in $CALLS.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TEXT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
NONE: dict[str, Any] = {"type": "object", "properties": {}}
NUMBER = {"type": "object", "properties": {"number": {"type": "number"}}, "required": ["number"]}

Arguments = dict[str, Any]
TOOLS: dict[str, tuple[str, dict[str, Any], Callable[[Arguments, dict[str, Any]], Any]]] = {}
_writing = threading.Lock()


def tool(schema: dict[str, Any], name: str | None = None) -> Callable[[Any], Any]:
    def register(function: Any) -> Any:
        TOOLS[name or function.__name__] = (function.__doc__ or "", schema, function)
        return function

    return register


def note(what: str) -> None:
    """Write down that a call arrived, so that a test can count."""
    if path := os.environ.get("CALLS"):
        with Path(path).open("a") as file:
            file.write(f"{what} {os.getpid()}\n")


@tool(TEXT)
def echo(arguments: Arguments, _meta: dict[str, Any]) -> Any:
    """Say it again."""
    note("echo")
    return arguments["text"]


@tool(NONE)
def environment(_arguments: Arguments, _meta: dict[str, Any]) -> Any:
    """Show the environment, the folder and the process."""
    return json.dumps({"env": dict(os.environ), "cwd": str(Path.cwd()), "pid": os.getpid()})


@tool(NONE)
def key(_arguments: Arguments, meta: dict[str, Any]) -> Any:
    """Show the idempotency key."""
    return str(meta.get("retinue/idempotency-key"))


@tool(TEXT)
def fail(arguments: Arguments, _meta: dict[str, Any]) -> Any:
    """Fail."""
    raise ValueError(arguments["text"])


@tool(NUMBER)
def wait(arguments: Arguments, _meta: dict[str, Any]) -> Any:
    """Wait."""
    note("wait")
    time.sleep(arguments["number"])
    return "waited"


@tool(NUMBER)
def big(arguments: Arguments, _meta: dict[str, Any]) -> Any:
    """Return a lot."""
    return "x" * int(arguments["number"])


@tool(TEXT)
def die(arguments: Arguments, _meta: dict[str, Any]) -> Any:
    """Die in the middle of a call."""
    note("die")
    sys.stderr.write(f"dying of {arguments['text']}\n")
    sys.stderr.flush()
    os._exit(3)


@tool(NONE)
def nonsense(_arguments: Arguments, _meta: dict[str, Any]) -> Any:
    """Return what the protocol does not know."""
    return {"content": [{"type": "smell", "data": 7}]}


@tool(NONE)
def grow(_arguments: Arguments, _meta: dict[str, Any]) -> Any:
    """Get a new tool."""
    tool(NONE, "grown")(lambda _arguments, _meta: "fresh")
    send({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
    return "grown"


@tool(NONE)
def picture(_arguments: Arguments, _meta: dict[str, Any]) -> Any:
    """Return a picture, a word, a file and a link."""
    return {
        "content": [
            {"type": "text", "text": "look:"},
            {"type": "image", "data": "aGVsbG8=", "mimeType": "image/png"},
            {"type": "resource", "resource": {"uri": "file:///a.txt", "mimeType": "text/plain", "text": "inside"}},
            {"type": "resource", "resource": {"uri": "file:///a.bin", "blob": "aGVsbG8="}},
            {"type": "resource_link", "uri": "https://b.example/", "name": "b"},
        ]
    }


@tool(NONE)
def structured(_arguments: Arguments, _meta: dict[str, Any]) -> Any:
    """Return structure only."""
    return {"content": [], "structuredContent": {"sum": 3}}


tool(NONE, "odd name! (v2)")(lambda _arguments, _meta: "odd")
tool(NONE, "odd_name___v2_")(lambda _arguments, _meta: "even")
tool({"type": "object", "properties": {"x": {"$ref": "http://127.0.0.1:9/x"}}}, "far")(lambda _arguments, _meta: "far")


def send(message: dict[str, Any]) -> None:
    with _writing:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


def called(parameters: dict[str, Any]) -> dict[str, Any]:
    try:
        result = TOOLS[parameters["name"]][2](parameters.get("arguments") or {}, parameters.get("_meta") or {})
    except ValueError as error:
        return {"content": [{"type": "text", "text": str(error)}], "isError": True}
    return result if isinstance(result, dict) else {"content": [{"type": "text", "text": result}]}


def answer(method: str, parameters: dict[str, Any]) -> dict[str, Any] | None:
    if method == "initialize":
        information = {"name": "by hand", "version": "1"}
        capabilities = {"tools": {"listChanged": True}}
        return {"protocolVersion": "2025-06-18", "capabilities": capabilities, "serverInfo": information}
    if method == "tools/list":
        hints = {"readOnlyHint": True, "destructiveHint": False}
        tools = [
            {"name": name, "description": text, "inputSchema": schema, "annotations": hints}
            for name, (text, schema, _) in TOOLS.items()
        ]
        return {"tools": tools}
    return called(parameters) if method == "tools/call" else None


def respond(message: dict[str, Any]) -> None:
    result = answer(message["method"], message.get("params") or {})
    if result is None:
        send({"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32601, "message": "unknown method"}})
    else:
        send({"jsonrpc": "2.0", "id": message["id"], "result": result})


if __name__ == "__main__":
    if os.environ.get("BROKEN"):
        sys.stderr.write("no licence found\n")
        sys.exit(4)
    if os.environ.get("SILENT"):
        time.sleep(3600)
    for line in sys.stdin:
        request = json.loads(line)
        if "id" in request:
            # A thread each, so that a call that waits does not keep the others.
            threading.Thread(target=respond, args=(request,), daemon=True).start()
