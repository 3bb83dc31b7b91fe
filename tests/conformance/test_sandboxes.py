"""The sandboxes of this machine keep what the shipped suite asks, at every level that is offered."""

from __future__ import annotations

from pathlib import Path

import pytest

from retinue.sandbox import Level, Sandbox
from retinue.sandbox.conformance import SandboxConformance
from tests.support.sandboxes import LEVELS, ROOT, run_tests_as_plain_user, sandbox_of


class _Local(SandboxConformance):
    async def make_sandbox(self, folder: Path) -> Sandbox:
        return sandbox_of(self.level, folder)


if Level.A in LEVELS:

    class TestLevelA(_Local):
        level = Level.A


if Level.B in LEVELS:

    class TestLevelB(_Local):
        level = Level.B


if Level.C in LEVELS:

    class TestLevelC(_Local):
        level = Level.C
        reaches_gateway = False
        shows_files = False


if ROOT:

    @pytest.mark.timeout(600)
    @pytest.mark.slow
    def test_a_plain_user_s_sandboxes_keep_the_same() -> None:
        done = run_tests_as_plain_user("tests/conformance/test_sandboxes.py")
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
        assert "skipped" not in done.stdout
