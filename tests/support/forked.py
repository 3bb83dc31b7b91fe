"""The test's side of ``nursery.py``: processes of the product that are forked instead of started."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

_START_SECONDS = 60.0
_RETINUE = "retinue.cli:main"


class Forked:
    """A forked process, with the part of ``subprocess.Popen`` that tests use."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ended = threading.Event()

    def ended(self, code: int) -> None:
        """Take note of its end; ``code`` as in ``subprocess``, a signal is negative."""
        self.returncode = code
        self._ended.set()

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired(f"forked {self.pid}", timeout or 0.0)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it has ended, and is about to be reported
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Nursery:
    """A process that has imported the product, and forks others. It and they end with this process."""

    def __init__(self) -> None:
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("nursery.py"))],
            env=kept,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._asking = threading.Lock()
        self._answered = threading.Event()
        self._newest: Forked | None = None
        self._children: dict[int, Forked] = {}
        self._listening = threading.Thread(target=self._listen, name="nursery", daemon=True)
        self._listening.start()
        atexit.register(self.close)
        self._await_answer()

    def start(
        self, arguments: Sequence[str], environment: Mapping[str, str], log: Path, entry: str = _RETINUE
    ) -> Forked:
        """Fork a process.

        Args:
            arguments: its ``sys.argv``.
            environment: all of its environment; what ``PYTHONPATH`` names, it finds modules in.
            log: the file that its standard output and error are appended to.
            entry: the function that it is, as ``module:function``.
        """
        asked = {
            "arguments": list(arguments),
            "environment": dict(environment),
            "log": str(log),
            "folder": str(Path.cwd()),
            "entry": entry,
        }
        with self._asking:
            self._answered.clear()
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(asked).encode() + b"\n")
            self._process.stdin.flush()
            self._await_answer()
            assert self._newest is not None
            return self._newest

    def close(self) -> None:
        """End the nursery, and what it has forked."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _await_answer(self) -> None:
        if not self._answered.wait(_START_SECONDS):
            raise AssertionError(f"the nursery does not answer ({self._process.poll()})")

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            what, *numbers = line.decode().split()
            if what == "ended":
                self._children.pop(int(numbers[0])).ended(int(numbers[1]))
                continue
            if what == "started":
                self._newest = self._children[int(numbers[0])] = Forked(int(numbers[0]))
            self._answered.set()


@functools.cache
def nursery() -> Nursery:
    """Return this process's nursery; the first call starts it, which takes two seconds."""
    return Nursery()


def can_fork(environment: Mapping[str, str]) -> bool:
    """Tell whether a process with this environment is the same when it is forked.

    What a process does before its first import is not: a library loaded ahead, or a ``sitecustomize`` that plants a
    bug in modules which others have not copied names from yet. TEST_COLD_STARTS=1 forks nothing.
    """
    own = {name for name in environment if name.startswith(("PYTHON", "LD_", "DYLD_"))}
    folders = [Path(one) for one in environment.get("PYTHONPATH", "").split(os.pathsep) if one]
    early = any((folder / "sitecustomize.py").exists() for folder in folders)
    wanted = sys.platform == "linux" and not os.environ.get("TEST_COLD_STARTS")
    return wanted and own <= {"PYTHONPATH"} and not early
