"""What tests of operations share: asking for one, waiting for it, looking at what it left."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from tests.support.running import Person, RunningServer

ENDED = {"completed", "failed", "cancelled", "timed_out"}

Shown = dict[str, Any]


def shell(script: str) -> dict[str, Any]:
    """Return a request for a shell script."""
    return {
        "driver": "command",
        "goal": "Do what the script says.",
        "parameters": {"argv": ["/bin/sh", "-c", script]},
    }


async def operate(person: Person, script: str, answer: int = 202, **fields: Any) -> Shown:
    """Ask for a shell script to be carried out."""
    found: Shown = await person.call("POST", "/v1/operations", answer, json=shell(script) | fields)
    return found


async def shown(person: Person, operation: Shown) -> Shown:
    found: Shown = await person.call("GET", f"/v1/operations/{operation['operation_id']}")
    return found


async def until(
    person: Person, operation: Shown, wanted: Callable[[Shown], bool] | str | None = None, seconds: float = 30
) -> Shown:
    """Wait until an operation has ended, has a status, or satisfies a condition."""

    def is_there(found: Shown) -> bool:
        if wanted is None:
            return found["status"] in ENDED
        return found["status"] == wanted if isinstance(wanted, str) else wanted(found)

    deadline = time.monotonic() + seconds
    while not is_there(found := await shown(person, operation)):
        if time.monotonic() > deadline:
            raise AssertionError(f"still {found['status']} {found['phase']} after {seconds} s: {found['detail']}")
        await asyncio.sleep(0.02)
    return found


async def done(person: Person, script: str, **fields: Any) -> Shown:
    """Have a script carried out and return what came of it."""
    return await until(person, await operate(person, script, **fields))


async def types(person: Person, operation: Shown) -> list[str]:
    """Return the types of an operation's events, without ``operation.``."""
    page = await person.call("GET", f"/v1/operations/{operation['operation_id']}/events?limit=200")
    return [event["type"].removeprefix("operation.") for event in page["items"]]


async def content(person: Person, operation: Shown, name: str) -> bytes:
    """Return what is in an artifact of an operation, by its name."""
    answer = await person.client.get(f"/v1/operations/{operation['operation_id']}/artifacts/{name}")
    assert answer.status_code == 200, answer.text
    return answer.content


def names(operation: Shown) -> list[str]:
    return [one["name"] for one in operation["artifacts"]]


def workspaces(server: RunningServer, operation: Shown | None = None) -> list[Path]:
    """Return what is left of the workspaces of an operation, or of all."""
    folder = server.folder / "sandboxes"
    prefix = "" if operation is None else str(operation["operation_id"])
    return (
        [one for one in folder.iterdir() if one.name.startswith(prefix) and "-" in one.name] if folder.exists() else []
    )


def processes(mark: str) -> list[int]:
    """Return the living processes whose command line holds a mark."""
    found = []
    for one in psutil.process_iter(["pid", "cmdline", "status"]):
        if one.info["status"] != psutil.STATUS_ZOMBIE and any(mark in part for part in one.info["cmdline"] or []):
            found.append(int(one.info["pid"]))
    return found


async def gone(look: Callable[[], object], seconds: float = 10) -> None:
    """Wait until there is nothing to be seen any more."""
    deadline = time.monotonic() + seconds
    while found := look():
        if time.monotonic() > deadline:
            raise AssertionError(f"still there after {seconds} s: {found}")
        await asyncio.sleep(0.02)
