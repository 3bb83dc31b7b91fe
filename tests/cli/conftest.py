"""The command line as a test calls it."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from retinue.cli.credentials import CredentialFile, Login
from retinue.cli.program import run
from tests.cli.scripted_server import ScriptedServer, scripted_server


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


Retinue = Callable[..., Ended]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine on which the command line was never used."""
    for name in ("RETINUE_API_KEY", "RETINUE_SERVER", "RETINUE_TENANT", "RETINUE_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def server(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    """A scripted server that the command line talks to."""
    with scripted_server() as found:
        monkeypatch.setenv("RETINUE_SERVER", found.url)
        yield found


@pytest.fixture
def retinue(home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Retinue:
    """Run a command in this process: ``retinue("agents", "list", stdin="...")``."""

    def call(*arguments: str, stdin: str = "") -> Ended:
        monkeypatch.setattr(sys, "argv", ["retinue", *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capfd.readouterr()
        try:
            run()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capfd.readouterr()
        return Ended(code, out, err)

    return call


def login(expires_at: float = 4e9, access: str = "access-1", refresh: str = "refresh-1") -> Login:
    """A login as sign-up would leave it."""
    return Login("ann@example.com", "u-1", "t-1", access, refresh, expires_at)


@pytest.fixture
def signed_in(server: ScriptedServer) -> ScriptedServer:
    """The scripted server, with a login kept for it."""
    CredentialFile().save(server.url, login())
    return server
