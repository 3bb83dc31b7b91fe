"""The demo's stage: a server of its own as real processes on a data folder of its own, and who of them is killed."""

from __future__ import annotations

import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from retinue.cli.failures import Failure
from retinue.cli.screen import Json
from retinue.kernel import Settings

_START_SECONDS = 60.0
_STOP_SECONDS = 15.0
_ELSEWHERE = ("DATABASE_URL", "DATABASE_OWNER_URL", "REDIS_URL", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""What would lead the demo to somebody's real server, as the server's own settings would; models are welcome."""

_OF_MODELS = ("RETINUE_DEFAULT_MODEL", "RETINUE_MODEL_", "RETINUE_OPENAI_", "RETINUE_ANTHROPIC_", "RETINUE_GEMINI_")


@dataclass
class Process:
    """A process of the stage and what it said when it was ready."""

    process: subprocess.Popen[bytes]
    said: Json

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid


class Stage:
    """Processes of one demo. Nothing of it is left when its block ends, but the folder if it is to be kept.

    Attributes:
        data: the demo's data folder.
        drivers: where command-line agents are installed: for this user and not for this demo, since one takes minutes.
    """

    def __init__(self, data: Path) -> None:
        self.data = data
        self.log = data / "demo.log"
        self.drivers = _drivers()
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str) -> Process:
        """Start a command of this program and wait until it is ready.

        Raises:
            Failure: it ended instead, or was not ready in a minute; the end of its log is in the message.
        """
        return self.when_ready(self.begin(*arguments))

    def begin(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a command of this program; see :meth:`when_ready`."""
        options = ("--json", "--until-stdin-closes", "--data", str(self.data))
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "retinue.cli", *arguments, *options],
                stdin=subprocess.PIPE,  # ends with the demo, also when that is killed, and then they end
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=self.data,  # no .env and no retinue.toml of somebody else
                env=_environment(self.drivers),
                start_new_session=True,  # Ctrl-C is for the demo, which then stops them in good order
            )
        self._processes.append(process)
        return process

    def when_ready(self, process: subprocess.Popen[bytes]) -> Process:
        """Wait for the line that a process writes when it is ready."""
        assert process.stdout is not None
        line = _line(process.stdout, _START_SECONDS)
        if not line:
            raise Failure(f"A process of the demo did not start; the end of its log:\n{self._end_of_log()}")
        return Process(process, json.loads(line))

    def kill(self, process: Process) -> None:
        """End a process the hard way: SIGKILL, and nothing of it runs after this."""
        process.process.send_signal(signal.SIGKILL)
        process.process.wait(_STOP_SECONDS)

    def stop(self) -> None:
        """Stop every process in good order, the database last."""
        for process in self._processes:
            if process.poll() is None:
                process.terminate()
        until = time.monotonic() + _STOP_SECONDS
        for process in self._processes:
            try:
                process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(_STOP_SECONDS)
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        self._stop_database()

    def _stop_database(self) -> None:
        """Stop the embedded database if a killed process was the last that used it."""
        with suppress(OSError, ValueError, IndexError):
            pid = int((self.data / "postgres" / "postmaster.pid").read_text().splitlines()[0])
            os.kill(pid, signal.SIGINT)  # PostgreSQL's fast shutdown
            until = time.monotonic() + _STOP_SECONDS
            while time.monotonic() < until:
                os.kill(pid, 0)
                time.sleep(0.05)

    def _end_of_log(self) -> str:
        with suppress(OSError):
            return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        return ""


@contextmanager
def stage(folder: Path | None, *, keep: bool) -> Iterator[Stage]:
    """Build a stage in ``folder``, or in a new one that is removed at the end unless it is to be kept."""
    data = folder or Path(tempfile.mkdtemp(prefix="retinue-demo-"))
    data.mkdir(parents=True, exist_ok=True)
    built = Stage(data.resolve())
    try:
        yield built
    finally:
        built.stop()
        if folder is None and not keep:
            shutil.rmtree(built.data, ignore_errors=True)


def _drivers() -> Path:
    settings = Settings()
    return settings.drivers or settings.data / "drivers"


def _environment(drivers: Path) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(_OF_MODELS)
        or (not name.startswith("RETINUE_") and name.removesuffix("_FILE") not in _ELSEWHERE)
    }
    # One user asks a lot in a short time here. And a machine that is busy with other things is no reason to take a
    # worker for dead: on one machine it is seen at once that a process is gone.
    ours = {"RATE_LIMIT": "off", "LOGIN_RATE_LIMIT": "off", "DEAD_AFTER_SECONDS": "15", "DRIVERS": str(drivers)}
    return {**kept, **{f"RETINUE_{name}": value for name, value in ours.items()}, "PYTHONUNBUFFERED": "1"}


def _line(stream: IO[bytes], seconds: float) -> bytes:
    """Return the first line of ``stream``; empty when the stream ends or the time is up first."""
    until = time.monotonic() + seconds
    found = b""
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while b"\n" not in found:
            if not selector.select(max(0.0, until - time.monotonic())):
                return b""
            piece = os.read(stream.fileno(), 65_536)
            if not piece:
                return b""
            found += piece
    return found.partition(b"\n")[0]
