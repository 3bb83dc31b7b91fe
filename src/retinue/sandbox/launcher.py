"""Holds a program by Landlock, seccomp and resource limits, where there are no namespaces (level C).

It is started by the server's interpreter, reads its orders as JSON from a descriptor, starts the program in a child
that can never widen what it may, and waits. Orphans fall to it; when the program ends, or the server does, it kills
every one of them before it ends itself. It knows the standard library only.

    python -I -S launcher.py DESCRIPTOR
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import stat
import sys
import time
from typing import Any

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every machine
_VERSION = 1
_PATH_BENEATH = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _IOCTL = 1 << 14, 1 << 15
_ALL_FILES = (1 << 16) - 1
_FOR_A_FILE = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL
_MAKE_DEVICES = 1 << 6 | 1 << 11  # character and block
_LOOK = _EXECUTE | _READ_FILE | _READ_DIR
_CHANGE = _ALL_FILES & ~_MAKE_DEVICES & ~_IOCTL
_NETWORK = 1 | 1 << 1  # bind and connect TCP: handled, and never allowed
_SCOPES = 1 | 1 << 1  # abstract unix sockets and signals stay within

_SET_DEATH_SIGNAL, _SET_SECCOMP, _SET_NO_NEW_PRIVILEGES, _SET_SUBREAPER, _SET_DUMPABLE = 1, 22, 38, 36, 4
_FILTER = 2

ABI_NEEDED = 6
"""The version of Landlock that keeps signals within (Linux 6.12)."""

_libc = ctypes.CDLL(None, use_errno=True)


def landlock_version() -> int:
    """Return the kernel's version of Landlock; 0 without it."""
    return max(0, int(_libc.syscall(_CREATE_RULESET, None, 0, _VERSION)))


def main(descriptor: int) -> int:
    """Run the program of the orders; return its exit code, 128 + n for signal n."""
    with open(descriptor, "rb") as file:
        orders: dict[str, Any] = json.load(file)
    _call(_libc.prctl(_SET_SUBREAPER, 1, 0, 0, 0))
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, _stop)
    # The server's end is told by a signal that can be caught: what was started must be killed first.
    _call(_libc.prctl(_SET_DEATH_SIGNAL, int(signal.SIGTERM), 0, 0, 0))
    if os.getppid() != orders["server"]:
        return 1  # the server ended before the signal was asked for
    program = os.fork()
    if program == 0:
        _become(orders)
    try:
        while True:
            pid, status = os.wait()
            if pid == program:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
    finally:
        _kill_all()


def _become(orders: dict[str, Any]) -> None:
    """Turn this child into the program. Never returns."""
    try:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        for which, bound in orders["limits"]:
            _, hardest = resource.getrlimit(which)
            allowed = bound if hardest == resource.RLIM_INFINITY else min(bound, hardest)
            resource.setrlimit(which, (allowed, allowed))
        os.sched_setaffinity(0, orders["processors"])
        os.chdir(orders["folder"])
        _call(_libc.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
        _fence(orders["readable"], orders["writable"], orders["devices"])
        _filter(bytes.fromhex(orders["filter"]))
        os.closerange(3, 4096)
    except BaseException as error:
        os.write(2, f"launcher: {type(error).__name__}: {error}\n".encode())
        os._exit(orders["failed"])
    try:
        os.execvpe(orders["argv"][0], orders["argv"], orders["env"])
    except OSError as error:
        os.write(2, f"{orders['argv'][0]}: {error.strerror}\n".encode())
        os._exit(126 if isinstance(error, PermissionError) else 127)


def _fence(readable: list[str], writable: list[str], devices: list[str]) -> None:
    """Allow what is listed, and nothing else, for this process and all that come of it."""
    attributes = (ctypes.c_uint64 * 3)(_ALL_FILES, _NETWORK, _SCOPES)
    rules = _call(_libc.syscall(_CREATE_RULESET, ctypes.byref(attributes), ctypes.sizeof(attributes), 0))
    for paths, rights in ((readable, _LOOK), (writable, _CHANGE), (devices, _READ_FILE | _WRITE_FILE | _IOCTL)):
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                _allow(rules, path, rights)
    _call(_libc.syscall(_RESTRICT_SELF, rules, 0))
    os.close(rules)


def _allow(rules: int, path: str, rights: int) -> None:
    number = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(number).st_mode):
            rights &= _FOR_A_FILE
        rule = rights.to_bytes(8, sys.byteorder) + number.to_bytes(4, sys.byteorder)
        _call(_libc.syscall(_ADD_RULE, rules, _PATH_BENEATH, rule, 0))
    finally:
        os.close(number)


class _Program(ctypes.Structure):
    """``struct sock_fprog``."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def _filter(instructions: bytes) -> None:
    program = _Program(len(instructions) // 8, instructions)
    _call(_libc.prctl(_SET_SECCOMP, _FILTER, ctypes.byref(program), 0, 0))


def _stop(_number: int, _frame: object) -> None:
    _kill_all()
    os._exit(128 + signal.SIGKILL)


def _kill_all() -> None:
    """Kill every descendant, and wait until none is left. One that is forked meanwhile is found in the next round."""
    while True:
        for pid in _descendants():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        except ChildProcessError:
            return
        time.sleep(0.005)


def _descendants() -> list[int]:
    found, waiting = [], [os.getpid()]
    while waiting:
        pid = waiting.pop()
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                    children = [int(child) for child in file.read().split()]
                found += children
                waiting += children
    return found


def _call(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


if __name__ == "__main__":
    os._exit(main(int(sys.argv[1])))
