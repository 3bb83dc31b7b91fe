"""`retinue operations` against a started server."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest

from retinue.cli.failures import ExitCode
from tests.support.command_line import CommandLine, signed_up
from tests.support.running import RunningServer


@pytest.fixture
def retinue(
    server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> CommandLine:
    """The command line of somebody who has just signed up."""
    return signed_up(server, tmp_path, monkeypatch, capfd)


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


def test_a_program_that_nobody_named_is_asked_for(retinue: CommandLine) -> None:
    ended = retinue("operations", "run", "command", "Sort it.")
    assert ended.code == ExitCode.USAGE
    assert "-- PROGRAM" in ended.err
    ended = retinue("operations", "run", "command", "Sort it.", "--", "no-such-program")
    assert ended.code == ExitCode.RUN_FAILED
    assert "a program was not found" in ended.out


def test_a_file_that_is_there_is_kept_and_the_end_is_told_all_the_same(retinue: CommandLine, tmp_path: Path) -> None:
    """Bug that this catches: the operation succeeded, and all that a person saw of it was that a file is in the way."""
    made = tmp_path / "made"
    made.mkdir()
    (made / "out.txt").write_text("mine")
    ended = retinue(
        "operations", "run", "command", "Write.", "--output", str(made), "--", "/bin/sh", "-c", "echo theirs > out.txt"
    )
    assert ended.code == ExitCode.FAILED
    assert "completed after" in ended.out
    assert "operations artifacts" in ended.err, "it says how to fetch what is kept"
    assert (made / "out.txt").read_text() == "mine"
    (made / "out.txt").unlink()
    retinue.ok("operations", "artifacts", "last", "--output", str(made))
    assert (made / "out.txt").read_text() == "theirs\n"


def test_artifacts_and_operations_are_found_by_name_and_as_the_last_one(retinue: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("one")
    retinue.ok("artifacts", "put", str(tmp_path / "in.txt"))
    retinue.ok("operations", "run", "command", "Copy.", "--input", "in.txt", "--", "/bin/cp", "in.txt", "out.txt")
    listed = retinue.json("artifacts", "list", "--operation", "last")["items"]
    assert [one["name"] for one in listed] == ["out.txt"]
    assert retinue("operations", "run", "command", "Copy.", "--input", "in.tx", "--", "/bin/true").code == (
        ExitCode.NOT_FOUND
    )
    assert "No such operations" in retinue("operations", "list", "--driver", "nobody").err


def test_who_joins_late_reads_everything_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bug that this catches: the text so far comes, then its last piece again, and both are shown."""
    from types import SimpleNamespace

    from retinue.cli import operations, stream
    from retinue.cli.remote import Remote

    def delta(attempt: int, offset: int, text: str) -> SimpleNamespace:
        return SimpleNamespace(name="message_delta", payload={"attempt": attempt, "offset": offset, "text": text})

    came = [delta(1, 0, "one two"), delta(1, 4, "two"), delta(1, 7, " three\n"), delta(2, 0, "one\n")]
    monkeypatch.setattr(stream, "live_events", lambda *_args, **_wanted: iter([*came, None]))
    cli = Remote.__new__(Remote)
    client = SimpleNamespace(get=lambda _path: {"status": "completed"})
    monkeypatch.setattr(cli, "client", client, raising=False)
    monkeypatch.setattr(Remote, "as_json", False, raising=False)
    operations._follow(cli, str(uuid4()))
    assert capsys.readouterr().out == "one two three\none\n"


def test_the_policy_is_shown_and_changed_by_the_same_names(retinue: CommandLine) -> None:
    before = retinue.json("operations", "policy", "show")
    assert retinue("operations", "policy", "set", "limits.memory=1.5GB", "most.seconds=2h", "drivers=command,qwen",
        "budget=$2.50", "at_once=3", "failed_retention_seconds=90m").code == 0  # fmt: skip
    shown = retinue.ok("operations", "policy", "show")
    for line in ("1500MB", "2h", "command,qwen", "$2.5", "90m"):
        assert line in shown
    after = retinue.json("operations", "policy", "show")
    limits, most = before["limits"] | {"memory": 1_500_000_000}, before["most"] | {"seconds": 7_200}
    assert after == before | {
        "limits": limits, "most": most, "drivers": ["command", "qwen"], "budget": "2.5", "at_once": 3,
        "failed_retention_seconds": 5_400, "version": 1,
    }  # fmt: skip
    again = retinue("operations", "policy", "set", "limits.memory=default", "most.seconds=1h", "drivers=none",
        "budget=none", "at_once=default", "failed_retention_seconds=1d", "--json").json()  # fmt: skip
    assert again == before | {"version": 2}


@pytest.mark.parametrize(
    "change, code, says",
    [
        ("limits.memory", ExitCode.USAGE, "NAME=VALUE"),
        ("limits.memroy=1GB", ExitCode.USAGE, "limits.memory"),
        ("version=5", ExitCode.USAGE, "no version"),
        ("limits.memory=much", ExitCode.USAGE, "500MB"),
        ("limits.memory=5m", ExitCode.USAGE, "500MB"),
        ("at_once=3GB", ExitCode.USAGE, "a number is needed"),
        ("limits.memory=100GB", ExitCode.FAILED, "limits.memory"),
        ("min_level=D", ExitCode.FAILED, "min_level"),
        ("drivers=nobody", ExitCode.FAILED, "There is no driver 'nobody'. There are: "),
        ("at_once=none", ExitCode.FAILED, "at_once"),
    ],
    ids=[
        "no value",
        "misspelt",
        "version",
        "no number",
        "wrong unit",
        "no unit",
        "too much",
        "level",
        "driver",
        "none",
    ],
)
def test_a_mistake_in_the_policy_is_named_and_changes_nothing(
    retinue: CommandLine, change: str, code: ExitCode, says: str
) -> None:
    ended = retinue("operations", "policy", "set", "queue=7", change)
    assert (ended.code, says in ended.err) == (code, True), ended.err
    assert retinue.json("operations", "policy", "show")["version"] == 0
