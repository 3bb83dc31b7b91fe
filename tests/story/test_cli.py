"""The command line against a started server: what people do with it, from signing up to the record."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import pytest

from retinue.cli.failures import ExitCode
from tests.support.command_line import CommandLine, Terminal, fresh_home, signed_up
from tests.support.databases import Cluster
from tests.support.running import PASSWORD, RunningServer, running_server

T = TypeVar("T")

_AND_MORE = " and more" * 25  # the demo repeats the question, and slowly: two seconds and a half for these words

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
async def server(postgres: Cluster) -> AsyncIterator[RunningServer]:
    async with running_server(postgres) as found:
        yield found


@pytest.fixture
def retinue(
    server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> CommandLine:
    """The command line of somebody who has just signed up."""
    return signed_up(server, tmp_path, monkeypatch, capfd)


def test_from_signing_up_to_the_record(retinue: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "backups.txt").write_text("Backups run at night.\nRestoring takes an hour.\n")
    assert retinue.json("whoami")["tenants"][0]["personal"] is True
    retinue.ok("agents", "create", "Librarian", "--tool", "files", "-i", "Answer from the files.")

    ended = retinue("chat", "librarian", "--file", str(tmp_path / "backups.txt"), "What is said about backups?")
    assert ended.code == 0, ended.err
    assert ended.out.startswith("[demo]")
    assert "Backups run at night." in ended.out
    assert "files_read" in ended.err
    assert "files_read" not in ended.out

    [run] = retinue.json("runs", "list")["items"]
    assert run["status"] == "completed"
    assert "completed (demo)" in retinue.ok("runs", "show", "last")
    steps = retinue.json("runs", "steps", run["run_id"][-8:])["items"]
    assert [step["name"] for step in steps if step["kind"] == "tool"] == ["files_list", "files_read"]
    types = [event["type"] for event in retinue.json("runs", "events", "last")["items"]]
    assert types[0] == "run.requested"
    assert types[-1] == "run.completed"
    assert retinue.json("runs", "show", "last", "--at", "1")["status"] == "queued"
    [session] = retinue.json("sessions")["items"]
    assert (session["session_id"], session["title"]) == (run["session_id"], "What is said about backups?")
    assert "demo:assistant" in retinue.ok("usage")


def test_a_pipe_is_the_text_and_gets_the_answer_alone(retinue: CommandLine) -> None:
    retinue.ok("agents", "create", "echo")
    ended = retinue("chat", "echo", stdin="what is this?\n")
    assert ended.code == 0
    assert "what is this?" in ended.out
    answered = retinue.json("chat", "echo", "and this?")
    assert answered["run"]["status"] == "completed"
    assert answered["message"]["content"].startswith("[demo]")


def test_an_agent_whose_last_run_failed_says_why(retinue: CommandLine) -> None:
    retinue.ok("agents", "create", "lost", "--model", "anthropic:none")
    failed = retinue("chat", "lost", "hello")
    assert failed.code == ExitCode.RUN_FAILED
    [run] = retinue.json("runs", "list")["items"]
    shown = " ".join(retinue.ok("agents", "show", "lost").split())
    assert run["error"]["detail"] in shown
    assert f"retinue runs show {run['run_id']}" in shown


def test_a_session_goes_on_where_it_was(retinue: CommandLine) -> None:
    retinue.ok("agents", "create", "echo")
    first = retinue.json("chat", "echo", "one")["run"]["session_id"]
    second = retinue.json("chat", "echo", "two", "--session", "last")["run"]["session_id"]
    assert first == second
    assert retinue.json("chat", "echo", "three")["run"]["session_id"] != first


async def test_without_a_terminal_an_approval_waits_for_somebody(retinue: CommandLine, server: RunningServer) -> None:
    retinue.ok("agents", "create", "writer", "--tool", "files")
    accepted = retinue.json("chat", "writer", "write a summary to out.md", "--detach")
    approval = await _pending(retinue)
    assert approval["run_id"] == accepted["run_id"]
    assert "files_write" in retinue.ok("approvals", "list")
    assert "out.md" in retinue.ok("approvals", "show", approval["approval_id"][-10:])

    edited = json.dumps({"path": "other.md", "content": "By a person."})
    decided = retinue.json("approvals", "approve", "last", "--edit", edited, "--comment", "Not there.")
    assert decided["status"] == "approved"
    assert retinue("runs", "watch", accepted["run_id"]).code == 0
    again = retinue("approvals", "reject", approval["approval_id"])
    assert again.code == ExitCode.FAILED
    assert "approved" in again.err


async def _pending(retinue: CommandLine) -> dict[str, str]:
    for _ in range(400):
        items = retinue.json("approvals", "list")["items"]
        if items:
            found: dict[str, str] = items[0]
            return found
        await asyncio.sleep(0.05)
    raise AssertionError("nothing was asked")


def test_yes_approves_and_shows_what(retinue: CommandLine) -> None:
    retinue.ok("agents", "create", "writer", "--tool", "files")
    ended = retinue("chat", "writer", "-y", "write a summary to out.md")
    assert ended.code == 0, ended.err
    assert "out.md is written." in ended.out
    assert "files_write (write)" in ended.err


def test_at_a_terminal_approvals_are_asked_inline(retinue: CommandLine) -> None:
    retinue.ok("agents", "create", "writer", "--tool", "files")
    with Terminal("chat", "writer", "write a summary to out.md") as terminal:
        assert "out.md" in terminal.until(r"\[a\]pprove")
        terminal.type("r")
        terminal.until("tell the agent why")
        terminal.type("not today")
        terminal.until("out.md was not written")
        assert terminal.end() == 0
    [approval] = retinue.json("approvals", "list", "--status", "all")["items"]
    assert (approval["status"], approval["comment"]) == ("rejected", "not today")
    [refused] = [line for line in retinue.ok("runs", "steps", "last").splitlines() if "files_write" in line]
    assert "rejected" in refused


def test_arguments_are_edited_in_the_persons_editor(retinue: CommandLine, tmp_path: Path) -> None:
    retinue.ok("agents", "create", "writer", "--tool", "files")
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nsed -i 's/out.md/mine.md/' \"$1\"\n")
    editor.chmod(0o755)
    with Terminal("chat", "writer", "write a summary to out.md", environment={"VISUAL": str(editor)}) as terminal:
        terminal.until(r"\[a\]pprove")
        terminal.type("e")
        terminal.until(r"files_write\(path=mine\.md")
        assert terminal.end() == 0


def test_always_is_remembered_until_it_is_forgotten(retinue: CommandLine) -> None:
    retinue.ok("agents", "create", "host", "--tool", "clock", "--autonomy", "manual")
    with Terminal("chat", "host", "what time is it?") as terminal:
        terminal.until(r"wants to use clock")
        terminal.type("l")
        terminal.until("The clock says")
        assert terminal.end() == 0
    [rule] = retinue.json("approvals", "rules")["items"]
    assert rule["tool"] == "clock"
    asked = retinue("chat", "host", "what time is it?")
    assert asked.code == 0
    assert "wants to use" not in asked.err
    retinue.ok("approvals", "forget", "clock")
    assert retinue.json("approvals", "rules")["items"] == []


def test_a_conversation_in_the_terminal(retinue: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "tea.txt").write_text("Tea is at four.\n")
    retinue.ok("agents", "create", "host", "--tool", "files", "--tool", "ask_user")
    with Terminal("chat", "host") as terminal:
        terminal.until("you> ")
        terminal.type(f"/file {tmp_path / 'tea.txt'}")
        terminal.until("tea.txt .* is in the workspace")
        terminal.type("when is tea?")
        terminal.until("Tea is at four.")
        terminal.type("/file /no/such/file")
        terminal.until("cannot be read")
        terminal.type("ask me something")
        terminal.until(r"1\. go on")
        terminal.type("1")
        terminal.until("You answered: go on")
        terminal.type("/help")
        terminal.until("/new")
        terminal.type("/quit")
        assert terminal.end() == 0
    assert len(retinue.json("runs", "list")["items"]) == 2


def test_ctrl_c_stops_the_answer(retinue: CommandLine) -> None:
    retinue.ok("agents", "create", "slow", "--model", "demo:slow")
    with Terminal("chat", "slow", "tell me something long" + _AND_MORE * 4) as terminal:
        terminal.until(r"\[demo\]")
        terminal.interrupt("stopping")
        assert terminal.end() == ExitCode.RUN_FAILED
    assert retinue.json("runs", "list")["items"][0]["status"] == "cancelled"


def test_a_cancelled_run_is_retried(retinue: CommandLine) -> None:
    retinue.ok("agents", "create", "slow", "--model", "demo:slow")
    run = retinue.json("chat", "slow", "tell me something", "--detach")
    retinue.ok("runs", "cancel", run["run_id"], "--reason", "wrong question")
    watched = retinue("runs", "watch", "last")
    assert watched.code == ExitCode.RUN_FAILED
    assert "cancelled" in watched.err
    assert retinue("runs", "retry", "last", "--watch").code == 0


def test_agents_are_changed_exported_and_imported(retinue: CommandLine, tmp_path: Path) -> None:
    retinue.ok("agents", "create", "One", "-i", "First.", "--tool", "files", "--set-limit", "seconds=60")
    changed = retinue.json("agents", "change", "one", "--instructions", "Second.", "--set-limit", "budget=1.50")
    assert changed["version"] == 2
    assert (changed["limits"]["seconds"], changed["limits"]["budget"]) == (60, "1.5")
    assert changed["tools"] == ["files"]
    definitions = [item["definition"] for item in retinue.json("agents", "versions", "one")["items"]]
    assert sorted(definition["instructions"] for definition in definitions) == ["First.", "Second."]

    file = tmp_path / "one.yaml"
    retinue.ok("agents", "export", "one", "--to", str(file))
    retinue.ok("agents", "delete", "one")
    assert retinue("agents", "show", "one").code == ExitCode.NOT_FOUND
    assert retinue.json("agents", "import", str(file))["instructions"] == "Second."
    retinue.ok("agents", "pause", "One")
    assert retinue.json("agents", "show", "One")["status"] == "paused"
    retinue.ok("agents", "resume", "One")


def test_a_mistake_is_one_line_that_names_the_field(retinue: CommandLine) -> None:
    ended = retinue("agents", "create", "x", "--autonomy", "reckless")
    assert ended.code == ExitCode.FAILED
    assert ended.out == ""
    assert ended.err.count("\n") == 1
    assert "autonomy" in ended.err
    assert retinue("agents", "create", "x", "--tool", "no_such_tool").code == ExitCode.FAILED


def test_an_api_key_works_until_it_is_revoked(retinue: CommandLine) -> None:
    key = retinue.ok("keys", "create", "ci", "--scope", "agents:list").strip()
    assert retinue("agents", "list", RETINUE_API_KEY=key).code == 0
    assert retinue("agents", "create", "x", RETINUE_API_KEY=key).code == ExitCode.REFUSED
    retinue.ok("keys", "revoke", "ci")
    assert retinue("agents", "list", RETINUE_API_KEY=key).code == ExitCode.REFUSED


def test_after_logging_out_nobody_is_signed_in(retinue: CommandLine) -> None:
    email = retinue.json("whoami")["email"]
    retinue.ok("logout")
    ended = retinue("agents", "list")
    assert ended.code == ExitCode.REFUSED
    assert "retinue login" in ended.err
    wrong = retinue("login", "--email", email, "--password-stdin", stdin="not the password\n")
    assert wrong.code == ExitCode.REFUSED
    retinue.ok("login", "--email", email, "--password-stdin", stdin=f"{PASSWORD}\n")
    retinue.ok("agents", "list")


def test_a_new_password_is_the_only_one_and_ends_the_other_logins(
    retinue: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    email, here = retinue.json("whoami")["email"], str(tmp_path / "home")
    elsewhere = str(tmp_path / "elsewhere")
    monkeypatch.setenv("XDG_CONFIG_HOME", elsewhere)
    retinue.ok("login", "--email", email, "--password-stdin", stdin=f"{PASSWORD}\n")
    key = retinue.json("keys", "create", "script", "--scope", "runs:list")["key"]
    monkeypatch.setenv("XDG_CONFIG_HOME", here)
    wrong = retinue("password", "--password-stdin", stdin="not the password\nanother good one\n")
    assert (wrong.code, wrong.err) == (ExitCode.FAILED, "retinue: This is not the present password.\n")
    done = retinue.ok("password", "--password-stdin", stdin=f"{PASSWORD}\nanother good one\n")
    assert "has a new password" in done
    retinue.ok("agents", "list")
    monkeypatch.setenv("XDG_CONFIG_HOME", elsewhere)
    assert retinue("agents", "list").code == ExitCode.REFUSED
    assert retinue("login", "--email", email, "--password-stdin", stdin=f"{PASSWORD}\n").code == ExitCode.REFUSED
    retinue.ok("login", "--email", email, "--password-stdin", stdin="another good one\n")
    monkeypatch.setenv("RETINUE_API_KEY", key)
    retinue.ok("runs", "list")
    by_key = retinue("password", "--password-stdin", stdin="another good one\na third good one\n")
    assert by_key.code == ExitCode.FAILED
    assert "key" in by_key.err


def test_a_tenant_its_people_money_and_secrets(retinue: CommandLine) -> None:
    tenant = retinue.json("tenants", "create", "Acme")
    assert {item["name"] for item in retinue.json("tenants", "list")["items"]} >= {"Acme"}
    unknown = retinue("tenants", "add", "Acme", "nobody@example.com")
    assert unknown.code == ExitCode.NOT_FOUND
    assert retinue.json("tenants", "budget", "Acme", "--set", "12.50")["limit"] == "12.5"
    retinue.ok("tenants", "set-secret", "Acme", "openai", stdin="sk-very-secret\n")
    assert [item["name"] for item in retinue.json("tenants", "secrets", "Acme")["items"]] == ["openai"]
    assert "sk-very-secret" not in retinue.ok("tenants", "secrets", "Acme")
    retinue.ok("tenants", "drop-secret", "Acme", "openai")

    retinue.ok("agents", "create", "worker", "--tenant", "Acme")
    assert retinue("agents", "show", "worker").code == ExitCode.NOT_FOUND
    retinue.ok("tenants", "stop", "Acme", "--reason", "an agent runs wild")
    assert retinue.json("tenants", "list")["items"][-1]["stop_reason"] == "an agent runs wild"
    retinue.ok("tenants", "resume", tenant["tenant_id"])
    assert retinue.json("chat", "worker", "hello", "--tenant", "Acme")["run"]["status"] == "completed"


def test_there_are_no_dead_letters(retinue: CommandLine) -> None:
    assert retinue.json("deadletters", "list") == {"items": []}
    assert retinue("deadletters", "requeue", str(uuid4())).code == ExitCode.NOT_FOUND


def test_what_belongs_to_others_is_not_found(
    retinue: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    retinue.ok("agents", "create", "mine")
    agent = retinue.json("agents", "show", "mine")["agent_id"]
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "other"))
    email = f"bob-{uuid4().hex[:8]}@example.com"
    retinue.ok("sign-up", "--email", email, "--password-stdin", stdin=f"{PASSWORD}\n")
    for command in (("agents", "show"), ("agents", "delete"), ("runs", "show"), ("approvals", "show")):
        assert retinue(*command, agent).code == ExitCode.NOT_FOUND


async def test_a_conversation_survives_the_servers_death(
    postgres: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The server is killed while the answer is being written; the command waits and prints the whole answer."""
    async with running_server(postgres) as server:
        fresh_home(tmp_path / "home", monkeypatch)
        monkeypatch.setenv("RETINUE_SERVER", server.base_url)
        line = CommandLine(monkeypatch, capfd)
        line.ok("sign-up", "--email", "ann@example.com", "--password-stdin", stdin=f"{PASSWORD}\n")
        line.ok("agents", "create", "slow", "--model", "demo:slow")
        with Terminal("chat", "slow", "tell me something" + _AND_MORE) as terminal:
            await _in_thread(lambda: terminal.until(r"\[demo\]"))
            server.kill()
            await _in_thread(lambda: terminal.until("the connection is lost"))
            await server.start()
            await _in_thread(lambda: terminal.until("the server is back"))
            rest = await _in_thread(lambda: terminal.until("model calls"))
            assert await _in_thread(terminal.end) == 0
        assert rest.count("Set a provider's key to talk to a real model.") == 1
        [run] = line.json("runs", "list")["items"]
        assert run["status"] == "completed"


async def _in_thread(work: Callable[[], T]) -> T:
    return await asyncio.to_thread(work)
