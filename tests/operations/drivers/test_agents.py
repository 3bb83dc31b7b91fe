"""The real agents as plain processes, with scripted models: what they do, and what their drivers make of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from retinue.kernel import Settings
from retinue.operations.driver import Driver
from retinue.operations.drivers.gemini import GeminiDriver
from retinue.operations.drivers.qwen import QwenDriver
from tests.operations.drivers.starting import Plain
from tests.support.aimock_server import Aimock, calls, says

DRIVERS = [QwenDriver(), GeminiDriver()]
BOTH = pytest.mark.parametrize("driver", DRIVERS, ids=lambda driver: driver.name)
MODES = pytest.mark.parametrize("mode", ["headless", "acp"])


@pytest.fixture
def plain(tmp_path: Path, installed: Settings, aimock: Aimock) -> Plain:
    return Plain(tmp_path, installed, aimock.url)


def writes_report(plain: Plain, driver: Driver) -> list[dict[str, object]]:
    """A model that has a report written, and then says so."""
    report = {"file_path": str(plain.work / "report.md"), "content": "# Report\n\nAll is well.\n"}
    return [
        calls("write_file", report, "I will write it.", hasToolResult=False),
        says("The report is in report.md.", hasToolResult=True),
    ]


@BOTH
@MODES
async def test_an_agent_writes_a_file_and_says_so(driver: Driver, mode: str, plain: Plain, aimock: Aimock) -> None:
    aimock.script(*writes_report(plain, driver))

    came = await plain.carry(driver, "Write the report.", mode=mode)

    assert came.verdict.ok, (came.verdict, came.stderr)
    assert came.verdict.summary == "The report is in report.md."
    assert (came.work / "report.md").read_text() == "# Report\n\nAll is well.\n"
    assert "I will write it." in came.text("text")
    assert "report.md" in came.text("tool")
    assert len(aimock.asked()) == 2, "one call for the tool, one for the answer, and none on the side"
