"""aimock (npm package ``@copilotkit/aimock``) as a process of its own: models that answer by a script.

It speaks OpenAI's, Anthropic's and Gemini's formats, and was not written by us: what it does not understand, the
providers would not understand either.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

Fixture = dict[str, Any]


class Aimock:
    """A running aimock; a plain context manager.

    Attributes:
        url: where it answers, without a path.
    """

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self.url = ""

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="aimock-")
        empty = Path(self._folder.name) / "empty.json"
        empty.write_text('{"fixtures": []}')
        self._process = subprocess.Popen(
            [*self._command, "-p", "0", "-f", str(empty), "--log-level", "info"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._process.stdout is not None
        heard = ""
        for line in self._process.stdout:
            heard += line
            found = re.search(r"listening on (http://[\d.]+:\d+)", line)
            if found:
                self.url = found[1]
                break
        else:
            raise RuntimeError(f"aimock did not start:\n{heard}")
        self._client = httpx.Client(base_url=self.url, timeout=30, trust_env=False)
        # It says a line for each call; nobody reads them, and a full pipe would stop it.
        self._drain = subprocess.Popen(["cat"], stdin=self._process.stdout, stdout=subprocess.DEVNULL)
        self._process.stdout.close()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()
        self._process.terminate()
        self._process.wait(10)
        self._drain.wait(10)
        self._folder.cleanup()

    def script(self, *fixtures: Fixture) -> None:
        """Answer by these from now on; the first that matches counts. What was asked before is forgotten."""
        self._client.post("/__aimock/reset").raise_for_status()
        answer = self._client.post("/__aimock/fixtures", json={"fixtures": list(fixtures)})
        assert answer.status_code == 200, answer.text

    def asked(self) -> list[dict[str, Any]]:
        """Return the calls so far, oldest first."""
        found: list[dict[str, Any]] = self._client.get("/__aimock/journal").raise_for_status().json()
        return found

    def statuses(self) -> list[int]:
        """Return how the calls so far were answered."""
        return [call["response"]["status"] for call in self.asked()]


def says(text: str, **match: Any) -> Fixture:
    """The model says this."""
    return {"match": match, "response": {"content": text}}


def calls(tool: str, arguments: dict[str, Any], text: str = "", **match: Any) -> Fixture:
    """The model says something and calls a tool."""
    response: dict[str, Any] = {"toolCalls": [{"name": tool, "arguments": arguments}]}
    return {"match": match, "response": response | ({"content": text} if text else {})}


def refuses(status: int, message: str, code: str, **match: Any) -> Fixture:
    """The model's address answers with an error."""
    return {"match": match, "response": {"error": {"message": message, "type": code, "code": code}, "status": status}}


def never_answers(**match: Any) -> Fixture:
    """The model keeps the connection open and says nothing."""
    return {"match": match, "response": {"content": "too late"}, "streamingProfile": {"ttft": 3_600_000, "tps": 1}}
