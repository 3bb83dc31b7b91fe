"""The demo of an operation: an application with a grant, the real Qwen CLI in the sandbox, a sealed result."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from retinue.cli.demo_operation import TARGET, OperationTold
from tests.support.installed_agents import agents_installed
from tests.support.running import RETINUE

pytestmark = pytest.mark.timeout(400)

REFUSALS = {"another key": "does not open", "another application": "404", "after the revocation": "403"}


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder outside pytest's own, which pytest closes to the user that PostgreSQL runs as when tests run as root."""
    with tempfile.TemporaryDirectory(prefix="retinue-test-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    (folder / "deep").mkdir(parents=True)
    (folder / "tea.md").write_text("# Tea\n\nTea is at four, and there is cake on Sundays.\n")
    (folder / "deep" / "bees.txt").write_text("The bees are moved in April.\n")
    return folder


def play(texts: Path, open_folder: Path, *options: str, drivers: str = "") -> tuple[int, dict[str, Any], str]:
    models = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY")
    environment = {name: value for name, value in os.environ.items() if name not in models}
    ended = subprocess.run(
        [str(RETINUE), "demo", str(texts), "--operation", "--json", *options],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=300,
        env={**environment, "TMPDIR": str(open_folder), **({"RETINUE_DRIVERS": drivers} if drivers else {})},
    )
    return ended.returncode, json.loads(ended.stdout or "{}"), ended.stderr


@pytest.mark.slow
def test_the_real_agent_works_in_the_sandbox_and_only_the_grantee_opens_the_result(
    texts: Path, open_folder: Path, tmp_path: Path
) -> None:
    drivers = agents_installed(tmp_path).drivers
    code, result, said = play(texts, open_folder, drivers=str(drivers))
    assert code == 0, said
    assert (result["ok"], result["driver"], result["status"]) == (True, "qwen", "completed")
    assert result["isolation"] in ("A", "B")
    assert result["model_calls"] >= 3
    assert result["artifact"]["name"] == TARGET
    assert result["opened_by_grantee"] is True
    assert result["refusals"] == REFUSALS


def test_without_the_agent_a_program_takes_its_place(texts: Path, open_folder: Path) -> None:
    code, result, said = play(texts, open_folder, drivers="/dev/null/nowhere")
    assert code == 0, said
    assert (result["ok"], result["driver"], result["status"]) == (True, "command", "completed")
    assert result["refusals"] == REFUSALS


def test_it_plays_alone(texts: Path, open_folder: Path) -> None:
    code, _, said = play(texts, open_folder, "--crash")
    assert code == 2
    assert "--operation plays alone" in said


GOOD = OperationTold(
    operation={"status": "completed"},
    events=[{"version": 1}, {"version": 2}],
    uses=[],
    opened=b"text",
    artifact={"sha256": "982d9e3eb996f559e633f4d194def3761d909f5a3b647d1a851fead67c32c9d1"},
    refusals=REFUSALS,
)


@pytest.mark.parametrize(
    "change, problem",
    [
        ({"operation": {"status": "failed", "detail": "no disk"}}, "no disk"),
        ({"events": [{"version": 1}, {"version": 3}]}, "gap"),
        ({"opened": None}, "did not come back"),
        ({"opened": b"texts"}, "not what was stored"),
        ({"refusals": REFUSALS | {"another key": "opens it"}}, "another key"),
        ({"refusals": REFUSALS | {"another application": "200"}}, "another application"),
        ({"refusals": REFUSALS | {"after the revocation": "200"}}, "after the revocation"),
    ],
    ids=["failed", "gap", "nothing", "other content", "another key", "another application", "revoked"],
)
def test_the_judge_sees_what_is_wrong(change: dict[str, Any], problem: str) -> None:
    assert GOOD.problems() == []
    assert problem in " ".join(replace(GOOD, **change).problems())
