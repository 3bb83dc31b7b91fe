"""Ends a call at any point where it waits, and finds the connections it left behind."""

from __future__ import annotations

import asyncio
import os
import socket
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import closing, suppress
from typing import Any

SETTLED = 300
"""Turns of the loop after which a call waits for somebody else and for nothing in this process."""

Interruption = Callable[["Coroutine[Any, Any, str]"], Awaitable[str]]


@types.coroutine
def _interrupted(call: Coroutine[Any, Any, str], step: int, late: bool) -> Generator[Any, Any, str]:
    task = asyncio.current_task()
    assert task is not None
    go_on: Callable[[Any], Any] = call.send
    given: Any = None
    while True:
        try:
            waits_for = go_on(given)
        except StopIteration as end:
            return str(end.value)
        if step == 0:
            _cancel(task, waits_for, late)
        step -= 1
        try:
            given = yield waits_for
        except BaseException as error:
            go_on, given = call.throw, error
        else:
            go_on = call.send


def _cancel(task: asyncio.Task[Any], waits_for: asyncio.Future[Any] | None, late: bool) -> None:
    if not late:
        task.cancel()
    elif waits_for is None:  # a bare turn of the loop
        asyncio.get_running_loop().call_soon(task.cancel)
    else:
        waits_for.add_done_callback(lambda _: task.cancel())


def at_wait(step: int, *, late: bool) -> Interruption:
    """Cancel a call when it waits for the time with this number.

    Args:
        step: how often it has waited before.
        late: cancel when what it waits for has come, and it does not know yet; else as it begins to wait.
    """

    async def run(call: Coroutine[Any, Any, str]) -> str:
        return await _interrupted(call, step, late)

    return run


def after_turns(turns: int) -> Interruption:
    """Cancel a call after so many turns of the loop, whatever it does then."""

    async def run(call: Coroutine[Any, Any, str]) -> str:
        task = asyncio.current_task()
        assert task is not None
        waiting = asyncio.ensure_future(_turns(turns))
        waiting.add_done_callback(lambda _: task.cancel())
        try:
            return await call
        finally:
            waiting.cancel()

    return run


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def ended(call: Coroutine[Any, Any, str], interruption: Interruption, *, silent: bool) -> str:
    """Run a call until it is interrupted or done; return what it returned, or ``cancelled``.

    Args:
        call: the call.
        interruption: when it is cancelled.
        silent: whether it will never be done: then it is cancelled in the end, and that is ``settled``.
    """
    task = asyncio.ensure_future(interruption(call))
    settled = False
    if silent:
        await _turns(SETTLED)
        settled = task.cancel()
    try:
        return await task
    except asyncio.CancelledError:
        return "settled" if settled else "cancelled"
    finally:
        await _turns(5)  # a closed transport lets go of its socket in the next turn


def connections(port: int) -> set[str]:
    """Return the sockets of this process that were made to reach a port of this machine, connected or not.

    Those that have no other end count too: they are not connected yet, or not any more.
    """
    made: dict[str, tuple[int, int | None]] = {}
    listening = set()
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # it may be closed meanwhile, by a thread of the server
            name = os.readlink(f"/proc/self/fd/{descriptor}")
            if not name.startswith("socket:"):
                continue
            with closing(socket.socket(fileno=os.dup(int(descriptor)))) as copy:
                if copy.family != socket.AF_INET or copy.type != socket.SOCK_STREAM:
                    continue
                here = copy.getsockname()[1]
                if copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    listening.add(here)
                else:
                    made[name] = here, _other_end(copy)
    return {name for name, (here, there) in made.items() if there in (port, None) and here not in {*listening, port}}


def _other_end(connection: socket.socket) -> int | None:
    try:
        return int(connection.getpeername()[1])
    except OSError:
        return None
