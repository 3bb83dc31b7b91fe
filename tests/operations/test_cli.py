"""`retinue operations` against a started server."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest

from retinue.cli.failures import ExitCode
from tests.support.command_line import CommandLine, fresh_home
from tests.support.running import PASSWORD, RunningServer


@pytest.fixture
def retinue(
    server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> CommandLine:
    """The command line of somebody who has just signed up."""
    fresh_home(tmp_path / "home", monkeypatch)
    monkeypatch.setenv("RETINUE_SERVER", server.base_url)
    line = CommandLine(monkeypatch, capfd)
    email = f"ann-{uuid4().hex[:8]}@example.com"
    line.ok("sign-up", "--email", email, "--password-stdin", stdin=f"{PASSWORD}\n")
    return line


def test_a_program_is_run_followed_and_what_it_made_is_fetched(retinue: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("b\na\n")
    script = "echo sorting; mkdir sub; sort in.txt > sub/out.txt"
    ended = retinue(
        "operations", "run", "command", "Sort it.", "--file", str(tmp_path / "in.txt"), "--expect", "sub/*",
        "--output", str(tmp_path / "made"), "--", "/bin/sh", "-c", script,
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert "sorting" in ended.out
    assert "completed after" in ended.out
    assert "sub/out.txt" in ended.out
    assert (tmp_path / "made" / "sub" / "out.txt").read_text() == "a\nb\n"
    [listed] = retinue.json("operations", "list")["items"]
    shown = retinue.json("operations", "show", "last")
    assert shown["operation_id"] == listed["operation_id"]
    assert "level" in retinue.ok("operations", "show", "last")
    assert retinue.json("operations", "artifacts", "last")["items"][0]["name"] == "sub/out.txt"
    assert "operation.completed" in retinue.ok("operations", "events", "last")


def test_what_does_not_succeed_is_told_by_the_exit_code(retinue: CommandLine) -> None:
    ended = retinue("operations", "run", "command", "Fail.", "--", "/bin/sh", "-c", "exit 3")
    assert ended.code == ExitCode.RUN_FAILED
    assert "exit_code" in ended.err
    retinue.ok("operations", "retry", "last")
    assert retinue("operations", "watch", "last").code == ExitCode.RUN_FAILED


def test_a_detached_operation_is_cancelled(retinue: CommandLine) -> None:
    made = retinue("operations", "run", "command", "Sleep.", "--detach", "--json", "--", "/bin/sleep", "60").json()
    retinue.ok("operations", "cancel", made["operation_id"], "--reason", "enough")
    ended = retinue("operations", "watch", made["operation_id"])
    assert ended.code == ExitCode.RUN_FAILED
    assert retinue.json("operations", "show", made["operation_id"])["status"] == "cancelled"


def test_what_a_program_writes_cannot_command_the_terminal(retinue: CommandLine) -> None:
    """Bug that this catches: an escape sequence from the sandbox reaches the terminal of who watches."""
    script = r"printf 'one\033]0;owned\007two\n'; sleep 0.3"
    ended = retinue("operations", "run", "command", "Escape.", "--", "/bin/sh", "-c", script)
    assert "\x1b]" not in ended.out
    assert "one" in ended.out
    assert "two" in ended.out


def test_names_that_lead_out_of_the_folder_are_not_written(
    retinue: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from retinue.cli import operations
    from retinue.cli.failures import Failure
    from retinue.cli.remote import Remote

    cli = Remote.__new__(Remote)
    item = {"artifacts": [{"name": "../outside.txt", "artifact_id": str(uuid4())}]}
    with pytest.raises(Failure, match="leads out"):
        operations._save(cli, item, tmp_path / "folder")
    assert not (tmp_path / "outside.txt").exists()
