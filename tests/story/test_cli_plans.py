"""Plans on the command line, against a started server: asking a team, deciding about its plan, steering it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from retinue.cli.failures import ExitCode
from tests.support.command_line import CommandLine, Terminal, signed_up
from tests.support.databases import Cluster
from tests.support.running import RunningServer, running_server

pytestmark = pytest.mark.timeout(240)

REQUEST = "What do the files say about backups? Write a summary to summary.md"
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture(scope="module")
async def server(postgres: Cluster) -> AsyncIterator[RunningServer]:
    async with running_server(postgres) as found:
        yield found


@pytest.fixture
def retinue(
    server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> CommandLine:
    """The command line of somebody who has just signed up and installed the team."""
    return somebody(server, tmp_path, monkeypatch, capfd)


def somebody(
    server: RunningServer, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> CommandLine:
    line = signed_up(server, folder, monkeypatch, capfd)
    line.ok("agents", "install-team")
    return line


@pytest.fixture
def backups(tmp_path: Path) -> str:
    file = tmp_path / "backups.txt"
    file.write_text("Backups run at night.\nRestoring takes an hour.\n")
    return str(file)


def editor(folder: Path, script: str) -> str:
    """Make an editor of a shell script that changes ``$1``; ``$N`` is how often it was opened before."""
    file = folder / "editor"
    count = folder / "opened"
    file.write_text(f"#!/bin/sh\nN=$(cat {count} 2>/dev/null || echo 0)\necho $((N+1)) > {count}\n{script}\n")
    file.chmod(0o755)
    return str(file)


def nodes(plan: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {node["id"]: node for node in plan["nodes"]}


# Asking the team


def test_a_request_to_nobody_by_name_is_planned_carried_out_and_answered(retinue: CommandLine, backups: str) -> None:
    ended = retinue("ask", "--yes", "--file", backups, REQUEST)
    assert ended.code == 0, ended.err
    assert "Backups run at night." in ended.out
    assert "summary.md is written." in ended.out
    assert "begins" not in ended.out, "standard output is for the answer"
    shown = ended.err
    for line in (
        "May your team carry out this plan",
        "writer may use files_list, files_read, files_search alone; ask to use files_write (write)",
        "why you are asked: its risk is medium",
        "find: begins (researcher)",
        "write (writer) wants to use files_write",
        "the team: 3 tasks",
    ):
        assert line in shown, line
    assert re.search(r"✓ write +writer +Write summary.md from what the others found {2}← find, check", shown)
    assert shown.index("find: done") < shown.index("write: begins")

    shown = retinue.ok("plans", "show", "last")
    assert "completed · 3 of 3 tasks" in shown
    assert retinue.json("plans", "list")["items"][0]["status"] == "completed"
    types = [event["type"] for event in retinue.json("plans", "events", "last")["items"]]
    assert types[0] == "plan.drafted"
    assert types.count("task.completed") == 3
    assert "Backups run at night." in retinue.ok("plans", "show", "last", "--results")
    assert "drafted" in retinue.ok("plans", "show", "last", "--at", "1")


def test_json_has_the_run_its_answer_and_its_plans(retinue: CommandLine, backups: str) -> None:
    answered = retinue.json("ask", "--yes", "--file", backups, REQUEST)
    assert answered["run"]["status"] == "completed"
    assert answered["message"]["content"].startswith("[demo]")
    [plan] = answered["plans"]
    assert {node["status"] for node in plan["nodes"]} == {"completed"}


def test_at_a_terminal_the_plan_is_edited_and_the_tools_are_asked_for(
    retinue: CommandLine, backups: str, tmp_path: Path
) -> None:
    change = editor(tmp_path, "sed -i 's/agent: reviewer/agent: architect/' \"$1\"")
    with Terminal("ask", "--file", backups, REQUEST, environment={"VISUAL": change}) as terminal:
        assert "· check  reviewer" in terminal.until(r"\[e\]dit the plan")
        terminal.type("i")
        terminal.until("Expected: summary.md")
        terminal.until(r"\[w\]ait")
        terminal.type("e")
        terminal.until(r"check: begins \(architect\)")
        terminal.until(r"write \(writer\) wants to use files_write")
        terminal.until(r"\[a\]pprove")
        terminal.type("a")
        terminal.until(r"summary.md is written")
        assert terminal.end() == 0
    plan = retinue.json("plans", "show", "last")
    assert nodes(plan)["check"]["agent"] == "architect"


def test_a_plan_that_is_edited_wrongly_is_asked_for_again_with_what_was_written(
    retinue: CommandLine, backups: str, tmp_path: Path
) -> None:
    steps = """case $N in
      0) printf 'tasks: [\\n  nonsense' > "$1";;
      1) grep -q nonsense "$1" && printf 'tasks:\\n- {id: find, agent: nobody}\\n' > "$1";;
      2) sed -i 's/nobody/researcher/' "$1";;
    esac"""
    with Terminal("ask", "--file", backups, REQUEST, environment={"VISUAL": editor(tmp_path, steps)}) as terminal:
        terminal.until(r"\[e\]dit the plan")
        terminal.type("e")
        assert re.search(r"line \d", terminal.until("edit it again"))
        terminal.type("y")
        terminal.until("There is no agent 'nobody'")
        terminal.until(r"\[e\]dit the plan")
        terminal.type("e")
        terminal.until(r"find: done")
        assert terminal.end() == 0
    plan = retinue.json("plans", "show", "last")
    assert list(nodes(plan)) == ["find"]


def test_a_plan_that_is_rejected_does_nothing_and_says_why(retinue: CommandLine, backups: str) -> None:
    with Terminal("ask", "--file", backups, REQUEST) as terminal:
        terminal.until(r"\[r\]eject")
        terminal.type("r")
        terminal.until("tell the agent why")
        terminal.type("not today")
        terminal.until("was not approved")
        assert terminal.end() == 0
    plan = retinue.json("plans", "show", "last")
    assert plan["status"] == "failed"
    assert {node["status"] for node in plan["nodes"]} == {"skipped"}


async def test_without_a_terminal_the_plan_waits_in_the_inbox(retinue: CommandLine, backups: str) -> None:
    accepted = retinue.json("ask", "--file", backups, "--detach", REQUEST)
    approval = await _pending(retinue, "plan")
    assert "plan of 3 tasks" in re.sub(r"\s+", " ", retinue.ok("approvals", "list"))
    assert f"retinue approvals show {approval['approval_id'][-12:]}" in retinue.ok("plans", "show", "last")
    shown = retinue.ok("approvals", "show", approval["approval_id"][-12:])
    assert "└─ · write" in shown
    assert "writer may use" in shown
    assert "Quote what matters" in shown
    dropped = [task for task in approval["arguments"]["tasks"] if task["id"] == "find"]
    retinue.ok("approvals", "approve", "last", "--edit", json.dumps({"tasks": dropped}))
    watched = retinue("runs", "watch", accepted["run_id"])
    assert watched.code == 0, watched.err
    assert list(nodes(retinue.json("plans", "show", "last"))) == ["find"]


async def test_what_a_task_asks_is_shown_with_the_plan(retinue: CommandLine, backups: str) -> None:
    retinue.ok("ask", "--file", backups, "--detach", REQUEST)
    await _pending(retinue, "plan")
    retinue.ok("approvals", "approve", "last")
    asked = await _pending(retinue, "tool")
    shown = re.sub(r"\s+", " ", retinue.ok("plans", "show", "last"))
    assert "? write writer" in shown
    assert "waits for your decision: files_write" in shown
    assert f"retinue approvals show {asked['approval_id'][-12:]}" in shown
    retinue.ok("approvals", "reject", "last", "--comment", "not now")
    assert retinue("plans", "watch", "last").code == 0
    assert "was not written" in retinue.ok("plans", "show", "last", "--results")


async def _pending(retinue: CommandLine, kind: str) -> dict[str, Any]:
    for _ in range(400):
        for item in retinue.json("approvals", "list")["items"]:
            if item["kind"] == kind:
                found: dict[str, Any] = item
                return found
        await asyncio.sleep(0.05)
    raise AssertionError("nothing was asked")


def test_a_moving_tree_is_drawn_in_place_and_stays_once(retinue: CommandLine, backups: str) -> None:
    environment = {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "30"}
    with Terminal("ask", "--yes", "--file", backups, REQUEST, environment=environment) as terminal:
        assert terminal.end() == 0
    assert "\x1b[1A" in terminal.text, "lines were drawn again in place"
    # What is drawn again is wiped first; what is left is what a person sees.
    lines = [ESCAPE.sub("", line) for line in terminal.text.replace("\r", "\n").split("\n")]
    assert sum("completed · 3 of 3 tasks" in line for line in lines) == 1
    trees = [line for line in lines if line[:3] in ("├─ ", "└─ ", "│  ")]
    assert trees
    assert max(map(len, trees)) <= 80


def test_ctrl_c_cancels_the_plan_and_everything_below_it(retinue: CommandLine, backups: str) -> None:
    for agent in ("researcher", "reviewer", "writer"):
        retinue.ok("agents", "change", agent, "--model", "demo:slow")
    with Terminal("ask", "--file", backups, REQUEST) as terminal:
        terminal.until(r"\[w\]ait:")
        terminal.type("a")
        terminal.until("find: begins")
        terminal.interrupt("stopping")  # on a slow machine the plan may have come to its next question
        assert terminal.end() == ExitCode.RUN_FAILED
    assert retinue.json("plans", "show", "last")["status"] == "cancelled"
    assert {run["status"] for run in retinue.json("runs", "list")["items"]} <= {"cancelled", "completed"}


def test_ctrl_c_at_a_question_cancels_the_plan_too(retinue: CommandLine, backups: str) -> None:
    with Terminal("ask", "--file", backups, REQUEST) as terminal:
        terminal.until(r"\[w\]ait:")
        terminal.interrupt("stopping")
        assert terminal.end() == ExitCode.RUN_FAILED
    assert "[w]ait" not in terminal.text.partition("stopping")[2], "it is not asked again"
    assert retinue.json("plans", "show", "last")["status"] == "cancelled"
    assert retinue.json("approvals", "list")["items"] == []


async def test_asking_goes_on_when_the_server_dies_while_two_tasks_run(
    postgres: Cluster, tmp_path: Path, backups: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    async with running_server(postgres) as server:
        line = somebody(server, tmp_path, monkeypatch, capfd)
        for agent in ("researcher", "reviewer"):
            line.ok("agents", "change", agent, "--model", "demo:slow")
        with Terminal("ask", "--yes", "--file", backups, REQUEST) as terminal:
            await asyncio.to_thread(terminal.until, "check: begins")
            server.kill()
            await asyncio.to_thread(terminal.until, "the connection is lost")
            await server.start()
            await asyncio.to_thread(terminal.until, "the server is back")
            await asyncio.to_thread(terminal.until, r"summary\.md is written")
            assert await asyncio.to_thread(terminal.end) == 0
        events = line.json("plans", "events", "last")["items"]
        started = [event["data"]["task_id"] for event in events if event["type"] == "task.started"]
        assert sorted(started) == ["check", "find", "write"], "no task began again"


# Plans that a person wrote


def _file(folder: Path, **changes: Any) -> str:
    read = {"tool": "files_read", "arguments": {"path": "late.txt"}}
    tasks = [
        {"id": "read", "title": "Read it", "kind": "tool", "agent": "researcher", "call": read},
        {"id": "say", "agent": "writer", "instructions": "Say what it says.", "depends_on": ["read"]},
        {"id": "other", "agent": "reviewer", "instructions": "Look around."},
    ]
    file = folder / "plan.json"
    file.write_text(json.dumps({"title": "Read a late file", "tasks": tasks, **changes}))
    return str(file)


def test_a_plan_from_a_file_fails_visibly_and_is_tried_again(retinue: CommandLine, tmp_path: Path) -> None:
    session = retinue.json("chat", "writer", "hello")["run"]["session_id"]
    ended = retinue("plans", "run", _file(tmp_path), "--session", session, "--watch")
    assert ended.code == ExitCode.RUN_FAILED
    assert re.search(r"✗ read +researcher +Read it", ended.err)
    assert "left out: what it depends on failed" in ended.err
    assert "✓ other" in ended.err
    assert "is done, but for: read, say" in ended.err
    assert "completed · 1 of 3 tasks" in ended.err
    shown = retinue.ok("plans", "show", "last")
    assert "failed: " in shown
    assert "late.txt" in shown
    assert "✗ read" in retinue("plans", "watch", "last").err

    (tmp_path / "late.txt").write_text("Here at last.\n")
    retinue.ok("chat", "writer", "thanks", "--session", session, "--file", str(tmp_path / "late.txt"))
    ended = retinue("plans", "retry", "last", "--watch", "--json")
    assert ended.code == 0, ended.err
    plan = json.loads(ended.out)
    assert plan["status"] == "completed"
    assert "Here at last." in json.dumps(nodes(plan)["read"]["output"])
    events = retinue.json("plans", "events", "last")["items"]
    began = [event["data"]["task_id"] for event in events if event["type"] == "task.started"]
    assert began.count("other") == 1, "what was done stays done"


def test_a_plan_is_asked_for_watched_and_cancelled(retinue: CommandLine, tmp_path: Path) -> None:
    tasks = [{"id": "rest", "kind": "wait", "wait": {"seconds": 600}}]
    plan = retinue.json("plans", "run", _file(tmp_path, title="A rest", tasks=tasks), "--ask")
    assert plan["status"] == "waiting"
    retinue.ok("approvals", "approve", "last")
    with Terminal("plans", "watch", "A rest") as terminal:
        terminal.until(r"waits until \d{4}")
        assert "cancelled" in retinue.ok("plans", "cancel", "A rest", "--reason", "rested enough")
        terminal.until("cancelled · 0 of 1 tasks")
        assert terminal.end() == ExitCode.RUN_FAILED
    assert retinue("plans", "cancel", "last").code == ExitCode.FAILED


def test_what_a_task_asks_is_asked_while_it_is_watched(retinue: CommandLine, tmp_path: Path) -> None:
    tasks = [
        {"id": "may", "kind": "approval", "question": {"text": "Shall it go on?"}},
        {"id": "which", "kind": "approval", "question": {"text": "Tea or coffee?", "options": ["tea", "coffee"]}},
    ]
    with Terminal("plans", "run", _file(tmp_path, title="Ask", tasks=tasks), "--watch") as terminal:
        for _ in tasks:
            asked = terminal.until(r"\[w\]ait:|your answer:")
            terminal.type("2" if "your answer" in asked else "a")
        assert terminal.end() == 0
    outputs = {name: node["output"] for name, node in nodes(retinue.json("plans", "show", "last")).items()}
    assert "coffee" in json.dumps(outputs["which"])


def test_what_is_wrong_with_a_plan_is_said_of_every_task(retinue: CommandLine, tmp_path: Path) -> None:
    tasks = [
        {"id": "a", "agent": "nobody", "instructions": "x"},
        {"id": "a", "agent": "writer", "instructions": "x", "depends_on": ["ghost"]},
    ]
    ended = retinue("plans", "run", _file(tmp_path, tasks=tasks))
    assert ended.code == ExitCode.FAILED
    for mistake in ("no agent 'nobody'", "another task 'a'", "no task 'ghost'"):
        assert mistake in ended.err
    assert retinue("plans", "run", str(tmp_path / "none.json")).code == ExitCode.USAGE
    assert retinue("plans", "run", "-", stdin="[]").code == ExitCode.USAGE


def test_plans_of_others_are_not_found(
    retinue: CommandLine,
    server: RunningServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    plan = retinue.json("plans", "run", _file(tmp_path))["plan_id"]
    other = somebody(server, tmp_path / "other", monkeypatch, capfd)
    assert other.json("plans", "list") == {"items": []}
    for command in ("show", "watch", "cancel", "retry", "events"):
        assert other("plans", command, plan).code == ExitCode.NOT_FOUND
