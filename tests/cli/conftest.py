"""The command line as a test calls it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from retinue.cli.credentials import CredentialFile, Login
from tests.cli.scripted_server import ScriptedServer, scripted_server
from tests.support.command_line import CommandLine, fresh_home


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine on which the command line was never used."""
    fresh_home(tmp_path, monkeypatch)
    return tmp_path


@pytest.fixture
def server(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    """A scripted server that the command line talks to."""
    with scripted_server() as found:
        monkeypatch.setenv("RETINUE_SERVER", found.url)
        yield found


@pytest.fixture
def retinue(home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> CommandLine:
    """Run a command in this process: ``retinue("agents", "list", stdin="...")``."""
    return CommandLine(monkeypatch, capfd)


def login(expires_at: float = 4e9, access: str = "access-1", refresh: str = "refresh-1") -> Login:
    """A login as sign-up would leave it."""
    return Login("ann@example.com", "u-1", "t-1", access, refresh, expires_at)


@pytest.fixture
def signed_in(server: ScriptedServer) -> ScriptedServer:
    """The scripted server, with a login kept for it."""
    CredentialFile().save(server.url, login())
    return server
