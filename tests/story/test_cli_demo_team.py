"""The demo with a team: the whole journey, the workers that are killed on it, and the judge who reads the record."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from retinue.cli.demo_team import Part, TeamTold
from retinue.cli.demo_team_crash import MOMENTS
from retinue.cli.demo_team_verdict import judge_team
from tests.support.command_line import Terminal
from tests.support.running import RETINUE

pytestmark = pytest.mark.timeout(400)

KEYS = {
    "ok",
    "run_status",
    "plan_status",
    "tasks",
    "tasks_repeated",
    "events",
    "model_calls",
    "repeated_model_calls",
    "effects_once",
    "takeover_s",
    "cost",
}


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "tea.md").write_text("# Tea\n\nTea is at four, and there is cake on Sundays.\n")
    (folder / "bees.txt").write_text("The bees are moved in April.\n")
    return folder


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder outside pytest's own, which pytest closes to the user that PostgreSQL runs as when tests run as root."""
    with tempfile.TemporaryDirectory(prefix="retinue-test-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def processes_on(folder: Path) -> list[str]:
    found = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    return [" ".join(parts) for parts in found if any(str(folder) in part for part in parts)]


@pytest.mark.slow
def test_a_person_at_a_terminal_sees_the_team_at_work(texts: Path, open_folder: Path) -> None:
    data = open_folder / "stage"
    environment = {"COLUMNS": "100"}
    with Terminal("demo", "--team", str(texts), "--data", str(data), environment=environment) as terminal:
        terminal.until("Installing the team: seven agents")
        asked = terminal.until(r"\[e\]dit the plan")
        assert re.search(r"write +writer +Write summary.md", asked)
        assert "writer may use" in asked
        terminal.type("a")
        assert "Tea is at four" in terminal.until(r"\[e\]dit the arguments")
        terminal.type("a")
        assert "summary.md is written." in terminal.until("What the ledger recorded")
        record = terminal.until("The time line")
        for event in ("plan.drafted", "plan.decided", "task.completed", "tool.started", "run.completed"):
            assert event in record
        terminal.until(r"find and check ran side by side for|check and find ran side by side for")
        summary = terminal.until("the whole demo")
        assert "cost            $0" in summary
        assert "3, 0 repeated" in summary
        assert terminal.end() == 0
    assert processes_on(data) == []


@pytest.mark.slow
@pytest.mark.fault
def test_a_team_survives_kills_and_repeats_nothing(texts: Path, open_folder: Path) -> None:
    ended = subprocess.run(
        [str(RETINUE), "demo", str(texts), "--team", "--crash", "--json"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=300,
        env={**os.environ, "TMPDIR": str(open_folder)},
    )
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout)
    assert set(result) == KEYS
    assert result["ok"] is True
    assert (result["run_status"], result["plan_status"]) == ("completed", "completed")
    assert (result["tasks"], result["tasks_repeated"]) == (3, 0)
    assert (result["model_calls"], result["repeated_model_calls"], result["effects_once"]) == (10, 0, True)
    assert 0 < result["takeover_s"] < 30
    for moment in MOMENTS:
        assert f"the worker dies {moment}" in ended.stderr
    assert [entry.name for entry in open_folder.iterdir() if entry.name.startswith("retinue-")] == []
    assert processes_on(open_folder) == []


# The judge


def _event(version: int, kind: str, **data: Any) -> dict[str, Any]:
    return {"position": version, "version": version, "type": kind, "data": data}


def _numbered(*events: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**event, "version": number} for number, event in enumerate(events, 1)]


def _part(name: str, *events: dict[str, Any]) -> Part:
    cost = {"amount": "0", "currency": "USD", "unpriced_calls": 0}
    return Part(name, {"run_id": name, "status": "completed", "error": None, "cost": cost}, _numbered(*events), [])


def _told() -> TeamTold:
    model = [_event(0, "model.responded", step=1), _event(0, "run.completed")]
    arguments = {"path": "summary.md", "content": "Tea is at four."}
    effect = [
        _event(0, "tool.started", call_id="c", tool="files_write", arguments=arguments),
        _event(0, "tool.completed", call_id="c", tool="files_write"),
    ]
    plan = [_event(0, "plan.drafted")]
    for task in ("find", "check", "write"):
        plan += [_event(0, "task.started", task_id=task), _event(0, "task.completed", task_id=task)]
    at = {"started_at": "2026-11-21T12:00:00+00:00", "ended_at": "2026-11-21T12:00:05+00:00"}
    later = {"started_at": "2026-11-21T12:00:05+00:00", "ended_at": "2026-11-21T12:00:06+00:00"}
    nodes = [
        {"id": "find", "status": "completed", "run_id": "find", **at},
        {"id": "check", "status": "completed", "run_id": "check", **at},
        {"id": "write", "status": "completed", "run_id": "write", **later},
    ]
    return TeamTold(
        lead=_part("orchestrator", *model),
        plans=[{"plan_id": "p", "status": "completed", "nodes": nodes}],
        plan_events={"p": _numbered(*plan)},
        parts=[_part("find", *model), _part("check", *model), _part("write", *effect, *model)],
        written="Tea is at four.",
        files=["tea.md", "summary.md"],
        messages=[{"role": "user"}, {"role": "assistant"}],
    )


def test_the_judge_is_content_with_a_good_record() -> None:
    verdict = judge_team(_told())
    assert verdict.problems == []
    assert (verdict.model_calls, verdict.repeated_model_calls, verdict.effects_once) == (4, 0, True)
    assert (verdict.tasks, verdict.tasks_repeated) == (3, 0)
    assert verdict.side_by_side == ("find", "check", 5.0)


def _again(told: TeamTold, kind: str, **data: Any) -> None:
    events = told.plan_events["p"]
    events.append(_event(len(events) + 1, kind, **data))


PLANTED: dict[str, Callable[[TeamTold], None]] = {
    "a finished task began again": lambda told: _again(told, "task.started", task_id="find"),
    "a task is recorded twice": lambda told: _again(told, "task.completed", task_id="find"),
    "an answer is recorded twice": lambda told: told.parts[0].events.insert(1, _event(2, "model.responded", step=1)),
    "an effect is recorded twice": lambda told: told.parts[2].events.append(
        _event(5, "tool.completed", call_id="c", tool="files_write")
    ),
    "an effect has no result": lambda told: told.parts[2].events.__delitem__(1),
    "an event is missing": lambda told: told.plan_events["p"].__delitem__(2),
    "a run failed": lambda told: told.parts[1].run.update(status="failed", error={"detail": "no"}),
    "the plan failed": lambda told: told.plans[0].update(status="failed"),
    "a task was left out": lambda told: told.plans[0]["nodes"][1].update(status="skipped", skipped="dependency"),
    "nothing was planned": lambda told: told.plans.clear(),
    "the file is there twice": lambda told: told.files.append("summary.md"),
    "there are two answers": lambda told: told.messages.append({"role": "assistant"}),
}


@pytest.mark.parametrize("planted", list(PLANTED))
def test_the_judge_sees_what_is_wrong(planted: str) -> None:
    told = copy.deepcopy(_told())
    PLANTED[planted](told)
    assert judge_team(told).problems


def test_the_judge_sees_what_was_not_written_as_approved() -> None:
    good = _told()
    for written in (None, "Tea is at five."):
        told = TeamTold(good.lead, good.plans, good.plan_events, good.parts, written, good.files, good.messages)
        assert not judge_team(told).effects_once


def test_the_judge_counts_what_was_repeated() -> None:
    told = _told()
    PLANTED["a finished task began again"](told)
    PLANTED["a task is recorded twice"](told)
    PLANTED["an answer is recorded twice"](told)
    verdict = judge_team(told)
    assert (verdict.tasks_repeated, verdict.repeated_model_calls) == (2, 1)
