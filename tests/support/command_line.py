"""The command line as a test calls it: in this process, or as a program in a terminal of its own."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from retinue.cli.program import run
from tests.support.running import PASSWORD, RunningServer

OWN_SETTINGS = ("RETINUE_API_KEY", "RETINUE_SERVER", "RETINUE_TENANT", "RETINUE_PORT")
_SECONDS = 60.0


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Return the document on standard output of a command that succeeded."""
        assert self.code == 0, self.err
        return msgspec.json.decode(self.out)


class CommandLine:
    """Runs commands in this process: ``retinue("agents", "list", stdin="...")``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capfd = capfd

    def __call__(self, *arguments: str, stdin: str = "", **environment: str) -> Ended:
        with self._monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["retinue", *arguments])
            patch.setattr(sys, "stdin", io.StringIO(stdin))
            for name, value in environment.items():
                patch.setenv(name, value)
            self._capfd.readouterr()
            try:
                run()
                code = 0
            except SystemExit as end:
                code = int(end.code or 0)
        out, err = self._capfd.readouterr()
        return Ended(code, out, err)

    def ok(self, *arguments: str, stdin: str = "", **environment: str) -> str:
        """Run a command that must succeed and return what it printed."""
        ended = self(*arguments, stdin=stdin, **environment)
        assert ended.code == 0, f"{arguments}: {ended.code} {ended.err}"
        return ended.out

    def json(self, *arguments: str, stdin: str = "", **environment: str) -> Any:
        """Run a command with ``--json`` that must succeed and return its document."""
        return self(*arguments, "--json", stdin=stdin, **environment).json()


def fresh_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this a machine on which the command line was never used."""
    for name in OWN_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))


def signed_up(
    server: RunningServer, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> CommandLine:
    """Return the command line of somebody new who has just signed up at ``server``, with a home in ``folder``."""
    fresh_home(folder / "home", monkeypatch)
    monkeypatch.setenv("RETINUE_SERVER", server.base_url)
    line = CommandLine(monkeypatch, capfd)
    email = f"ann-{uuid4().hex[:8]}@example.com"
    line.ok("sign-up", "--email", email, "--password-stdin", stdin=f"{PASSWORD}\n")
    return line


def _hear_ctrl_c() -> None:
    """Whoever runs the tests in the background may have them ignore what a terminal's programs hear."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Terminal:
    """A command in a terminal, which a test reads and types into. A context manager."""

    def __init__(self, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        self._arguments = arguments
        self._environment = {**os.environ, "TERM": "dumb", "COLUMNS": "200", **(environment or {})}
        self.text = ""
        self._read_up_to = 0

    def __enter__(self) -> Terminal:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "retinue.cli", *self._arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=self._environment,
            start_new_session=True,
            preexec_fn=_hear_ctrl_c,
        )
        os.close(slave)
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)

    def until(self, pattern: str, seconds: float = _SECONDS) -> str:
        """Read until the text after what was last waited for matches ``pattern``; return what came up to its end."""
        deadline = time.monotonic() + seconds
        while True:
            found = re.compile(pattern).search(self.text, self._read_up_to)
            if found:
                began, self._read_up_to = self._read_up_to, found.end()
                return self.text[began : found.end()]
            if not self._more(deadline):
                raise AssertionError(f"no {pattern!r} in:\n{self.text[self._read_up_to :]}")

    def type(self, line: str) -> None:
        """Type a line."""
        os.write(self._master, f"{line}\n".encode())

    def interrupt(self, answer: str) -> str:
        """Press Ctrl-C, and read until ``answer``.

        Pressed again when nothing comes: between the words of a question and the reading of a line is a moment in
        which Python notes the signal and then waits for the line all the same.
        """
        for _ in range(3):
            self.process.send_signal(signal.SIGINT)
            with contextlib.suppress(AssertionError):
                return self.until(answer, 15)
        raise AssertionError(f"no {answer!r} after Ctrl-C in:\n{self.text[self._read_up_to :]}")

    def end(self) -> int:
        """Read to the end and return the exit code."""
        deadline = time.monotonic() + _SECONDS
        while self._more(deadline):
            pass
        return self.process.wait(10)

    def _more(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return False
        try:
            piece = os.read(self._master, 65_536)
        except OSError:  # Linux's way of saying that the other side has closed
            return False
        self.text += piece.decode(errors="replace").replace("\r\n", "\n")
        return bool(piece)
