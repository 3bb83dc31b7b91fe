"""What the tests of tools share: settings, a workspace, the context of a call."""

from __future__ import annotations

from pathlib import Path

import pytest

from retinue.kernel import Settings, SystemClock, new_id
from retinue.tools import ToolContext, Workspace


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with a data folder of this test's own."""
    return Settings(data=tmp_path / "data")


@pytest.fixture
def workspace(settings: Settings) -> Workspace:
    """An empty workspace."""
    return Workspace.of_session(settings, new_id(), new_id())


@pytest.fixture
def context(settings: Settings, workspace: Workspace) -> ToolContext:
    """The context of a call in that workspace."""
    return ToolContext(
        tenant_id=new_id(),
        user_id=new_id(),
        session_id=new_id(),
        run_id=new_id(),
        call_id="call_1",
        idempotency_key="run/3/call_1",
        workspace=workspace.root,
        settings=settings,
        clock=SystemClock(),
    )
