"""The real agents, and models that answer by a script. Missing ones are installed; if that fails, the tests fail."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from retinue.kernel import Settings
from tests.support.aimock_server import Aimock
from tests.support.installed_agents import agents_installed, aimock_command


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of a server on which both agents are installed."""
    return agents_installed(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def _aimock(installed: Settings) -> Iterator[Aimock]:
    with Aimock(aimock_command(installed)) as server:
        yield server


@pytest.fixture
def aimock(_aimock: Aimock) -> Aimock:
    """The scripted models, with nothing in their script."""
    _aimock.script()
    return _aimock
