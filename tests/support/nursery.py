"""Processes of the product that start in a blink: a nursery imports the product once, then forks them.

Most of a start's time goes into imports, and a suite starts hundreds of servers and workers. A forked process is one
of its own in all else: it has its own session, environment, standard streams and files, is the same program with the
same arguments, and ends as that does. Tests of the program's own start run the program.

Run as a program, this file is the nursery: a line of JSON asks for a process, the answers are ``started PID``, and
``ended PID CODE`` whenever one has ended.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import selectors
import signal
import sys
import time
from typing import Any

_ALONE_SECONDS = 30


def main() -> None:
    """Fork what is asked for. When whoever asks has gone, kill what is left, and end."""
    _warm()
    gc.freeze()
    _until_alone()
    rung, bell = os.pipe()
    for end in (rung, bell):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(bell, warn_on_full_buffer=False)
    selector = selectors.DefaultSelector()
    selector.register(0, selectors.EVENT_READ)
    selector.register(rung, selectors.EVENT_READ)
    _say("ready")
    asked, alive = b"", set[int]()
    while True:
        for key, _ in selector.select():
            if key.fd == rung:
                os.read(rung, 4096)
                alive -= _report_the_ended()
                continue
            piece = os.read(0, 65_536)
            if not piece:
                for left in alive:
                    os.kill(left, signal.SIGKILL)
                return
            *lines, asked = (asked + piece).split(b"\n")
            for line in lines:
                pid = os.fork()
                if pid == 0:
                    signal.set_wakeup_fd(-1)
                    selector.close()
                    for end in (rung, bell):
                        os.close(end)
                    return _become(json.loads(line))
                alive.add(pid)
                _say(f"started {pid}")


def _warm() -> None:
    """Import what a server and a worker import, and the model client that they load when a model is first asked."""
    for module in ("retinue.cli.program", "retinue.cli.serve", "retinue.house", "retinue.providers.openai_chat"):
        importlib.import_module(module)


def _until_alone() -> None:
    """Wait for the end of the loop's threads: only a process without any may fork."""
    deadline = time.monotonic() + _ALONE_SECONDS
    while len(os.listdir("/proc/self/task")) > 1:
        if time.monotonic() > deadline:
            raise RuntimeError("a library has started a thread when it was imported")
        time.sleep(0.001)


def _say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def _report_the_ended() -> set[int]:
    """Report which processes have ended, and return their ids."""
    ended = set[int]()
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            ended.add(pid)
            with contextlib.suppress(BrokenPipeError):
                _say(f"ended {pid} {os.waitstatus_to_exitcode(status)}")
    return ended


def _become(asked: dict[str, Any]) -> None:
    """Be the process that was asked for."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(asked["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for found, standard in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(found, standard)
    for found in (nothing, log):
        os.close(found)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.path[:0] = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    importlib.invalidate_caches()
    sys.argv = asked["arguments"]
    module, _, function = asked["entry"].partition(":")
    getattr(importlib.import_module(module), function)()


if __name__ == "__main__":
    sys.path.pop(0)  # this file's folder
    main()
