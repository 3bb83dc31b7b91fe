"""The scripted model server as its own process, steered over HTTP: for benches, and tests without a loop."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import msgspec
import orjson

from tests.support.model_server.script import Script, Step
from tests.support.model_server.server import environment_for

_ROOT = Path(__file__).resolve().parents[3]
_STOP_SECONDS = 5


class ModelServerProcess:
    """`ModelServer` in a subprocess that ends with its parent. A plain context manager."""

    def __init__(self, *, port: int = 0, keep: int = 10_000) -> None:
        self._command = [
            sys.executable,
            "-m",
            "tests.support.model_server",
            f"--port={port}",
            f"--keep={keep}",
            "--until-stdin-closes",
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self.port = port

    def __enter__(self) -> Self:
        # It ends when its standard input closes, so it cannot outlive this process even if that is killed.
        self._process = subprocess.Popen(self._command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the model server did not start; exit status {self._process.wait(_STOP_SECONDS)}")
        self.port = orjson.loads(line)["port"]
        self._client = httpx.Client(base_url=self.url, timeout=60, trust_env=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._client.close()
        self._process.terminate()
        self._process.communicate(timeout=_STOP_SECONDS)

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def url(self) -> str:
        """The root: the base URL for Anthropic and Google clients."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        """The base URL for OpenAI clients."""
        return f"{self.url}/v1"

    def environment(self, key: str = "stub-key") -> dict[str, str]:
        """Return the environment variables that point the usual clients at this server."""
        return environment_for(self.url, key)

    def script(self, *steps: Step, **conditions: Any) -> None:
        """Add a script; the conditions are those of `Script`."""
        body = msgspec.json.encode(Script(steps=steps, **conditions))
        self._client.post("/_script", content=body).raise_for_status()

    def release(self, hold: str) -> None:
        """Let the requests waiting for this hold, and all later ones, go on."""
        self._client.post("/_release", json={"hold": hold}).raise_for_status()

    def reset(self) -> None:
        """Forget scripts, holds and the log."""
        self._client.post("/_reset").raise_for_status()

    @property
    def requests(self) -> list[dict[str, Any]]:
        """The requests to a model so far, oldest first, with the fields of `Recorded`."""
        records: list[dict[str, Any]] = self._client.get("/_log").raise_for_status().json()
        return records

    def counts(self) -> dict[str, Any]:
        """Return totals: `requests`, `open`, `ends` by state, `repeated` fingerprints."""
        counts: dict[str, Any] = self._client.get("/_counts").raise_for_status().json()
        return counts

    def repeated(self) -> dict[str, int]:
        """Return the fingerprints of calls that were answered in full more than once, with how often."""
        repeated: dict[str, int] = self.counts()["repeated"]
        return repeated

    def wait_for_requests(self, count: int = 1, *, timeout: float = 60.0, **match: str) -> None:
        """Wait for `count` requests that match (state, contains, model); TimeoutError otherwise."""
        query: dict[str, str | float] = {"count": count, "timeout": timeout, **match}
        if self._client.get("/_wait", params=query, timeout=timeout + 5).status_code != httpx.codes.OK:
            raise TimeoutError(f"fewer than {count} requests ({match}) in {timeout} s")
