"""The program: its commands, its help, its output for scripts and for people."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from retinue.cli.deciding import decider
from retinue.cli.failures import ExitCode
from retinue.cli.screen import Screen, compact, duration, moment, money, plain
from tests.cli.scripted_server import Answer, Request, ScriptedServer
from tests.support.command_line import CommandLine

AGENT = {
    "agent_id": "01890000-0000-7000-8000-0000000000aa",
    "name": "Writer",
    "version": 3,
    "instructions": "Write.",
    "model": None,
    "tools": ["files"],
    "limits": {"concurrency": 3, "seconds": 600},
    "tool_policy": {},
    "status": "ready",
    "running": 0,
    "queued": 0,
}

_HEAVY = ("asyncpg", "fastapi", "httpx", "pydantic", "pydantic_ai", "sqlalchemy", "uvicorn")


def test_help_loads_nothing_heavy() -> None:
    """Importing the server would take longer than answering."""
    code = f"""
import sys
sys.argv = ["retinue", "--help"]
from retinue.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
loaded = [name for name in {_HEAVY!r} if name in sys.modules]
assert not loaded, loaded
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    for name in ("serve", "worker", "migrate", "doctor", "demo", "bench", "chat", "agents", "runs", "approvals"):
        assert name in ended.stdout


def test_the_version_is_shown(retinue: CommandLine) -> None:
    ended = retinue("--version")
    assert (ended.code, ended.out.split()[0]) == (0, "retinue")


@pytest.mark.parametrize("arguments", [("chatt",), ("agents", "show"), ("runs", "list", "--limit", "-1")])
def test_wrong_usage_is_exit_code_2(retinue: CommandLine, arguments: tuple[str, ...]) -> None:
    assert retinue(*arguments).code == ExitCode.USAGE


def test_json_is_the_only_thing_on_standard_output(signed_in: ScriptedServer, retinue: CommandLine) -> None:
    signed_in.on("GET /v1/my/agents", Answer(200, {"items": [AGENT], "next_cursor": None}))
    ended = retinue("agents", "list", "--json")
    assert json.loads(ended.out) == {"items": [AGENT]}
    assert ended.err == ""


def test_a_person_gets_a_table(signed_in: ScriptedServer, retinue: CommandLine) -> None:
    signed_in.on("GET /v1/my/agents", Answer(200, {"items": [AGENT], "next_cursor": None}))
    heading, _, row = retinue("agents", "list").out.rstrip().split("\n")
    assert heading.split()[:2] == ["NAME", "STATUS"]
    assert row.split()[:2] == ["Writer", "ready"]


def test_an_empty_list_says_what_to_do(signed_in: ScriptedServer, retinue: CommandLine) -> None:
    signed_in.on("GET /v1/my/agents", Answer(200, {"items": [], "next_cursor": None}))
    ended = retinue("agents", "list")
    assert ended.out == ""
    assert "retinue agents create" in ended.err


@pytest.mark.parametrize("name", ["Writer", "writer", AGENT["agent_id"], "0000000000aa", "last"])
def test_names_and_ends_of_ids_are_accepted(signed_in: ScriptedServer, retinue: CommandLine, name: str) -> None:
    signed_in.on("GET /v1/my/agents", Answer(200, {"items": [AGENT], "next_cursor": None}))
    signed_in.on(f"GET /v1/my/agents/{AGENT['agent_id']}", Answer(200, AGENT))
    ended = retinue("agents", "show", name)
    assert ended.code == 0, ended.err
    assert "Writer" in ended.out


def test_an_unknown_name_is_not_found_and_a_near_one_is_named(signed_in: ScriptedServer, retinue: CommandLine) -> None:
    signed_in.on("GET /v1/my/agents", Answer(200, {"items": [AGENT], "next_cursor": None}))
    ended = retinue("agents", "show", "Wirter")
    assert ended.code == ExitCode.NOT_FOUND
    assert "Did you mean Writer?" in ended.err


def test_a_name_of_several_things_asks_for_the_id(signed_in: ScriptedServer, retinue: CommandLine) -> None:
    other = {**AGENT, "agent_id": "01890000-0000-7000-8000-0000000000bb"}
    signed_in.on("GET /v1/my/agents", Answer(200, {"items": [AGENT, other], "next_cursor": None}))
    ended = retinue("agents", "show", "Writer")
    assert ended.code == ExitCode.USAGE
    assert str(other["agent_id"]) in ended.err


def test_a_change_sends_the_whole_definition_and_the_version_it_was_made_from(
    signed_in: ScriptedServer, retinue: CommandLine
) -> None:
    path = f"/v1/my/agents/{AGENT['agent_id']}"
    signed_in.on("GET /v1/my/agents", Answer(200, {"items": [AGENT], "next_cursor": None}))
    signed_in.on(f"GET {path}", Answer(200, AGENT))

    def changed(request: Request) -> Answer:
        return Answer(200, {**AGENT, **request.body, "version": 4})

    signed_in.on(f"PUT {path}", changed)
    ended = retinue(
        "agents", "change", "Writer", "--set-limit", "seconds=60", "--policy", "files_write=allow", "--json"
    )
    assert json.loads(ended.out)["version"] == 4
    [request] = signed_in.asked(f"PUT {path}")
    assert request.headers["if-match"] == '"3"'
    assert request.body == {
        "name": "Writer",
        "instructions": "Write.",
        "tools": ["files"],
        "limits": {"concurrency": 3, "seconds": 60},
        "tool_policy": {"files_write": "allow"},
    }


@pytest.mark.parametrize(
    "arguments",
    [
        ("--mcp", "{"),
        ("--set-limit", "seconds=soon"),
        ("--set-limit", "seconds"),
        ("--instructions", "@/nowhere"),
        ("--output-schema", "@/nowhere"),
    ],
)
def test_an_option_that_makes_no_sense_is_wrong_usage(
    signed_in: ScriptedServer, retinue: CommandLine, arguments: tuple[str, str]
) -> None:
    ended = retinue("agents", "create", "x", *arguments)
    assert ended.code == ExitCode.USAGE
    assert signed_in.requests == []


def test_a_secret_never_goes_through_the_argument_list(signed_in: ScriptedServer, retinue: CommandLine) -> None:
    tenant = {"tenant_id": "01890000-0000-7000-8000-000000000001", "name": "Ann", "role": "admin", "personal": True}
    path = f"/v1/tenants/{tenant['tenant_id']}/secrets/openai"
    signed_in.on("GET /v1/my/profile", Answer(200, {"tenants": [tenant]}))
    signed_in.on(f"PUT {path}", Answer(204))
    ended = retinue("tenants", "set-secret", "personal", "openai", stdin="sk-secret\n")
    assert ended.code == 0, ended.err
    assert signed_in.requests[-1].body == {"api_key": "sk-secret"}
    assert "sk-secret" not in ended.out + ended.err


def test_a_new_key_is_printed_alone_for_scripts(signed_in: ScriptedServer, retinue: CommandLine) -> None:
    signed_in.on("POST /v1/my/keys", Answer(201, {"key_id": "k", "key": "rtn_live_abc"}))
    assert retinue("keys", "create", "ci", "--scope", "runs:read").out == "rtn_live_abc\n"
    assert signed_in.requests[-1].body == {"name": "ci", "scopes": ["runs:read"]}


def test_a_key_ends_at_a_time_of_the_place_where_it_is_made(
    signed_in: ScriptedServer, retinue: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed_in.on("POST /v1/my/keys", Answer(201, {"key_id": "k", "key": "rtn_live_abc"}))
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "XYZ+7")
        time.tzset()
        try:
            made = retinue("keys", "create", "ci", "--expires", "2099-12-31T18:00")
        finally:
            patch.undo()
            time.tzset()
    assert made.code == 0, made.err
    assert signed_in.requests[-1].body["expires_at"] == "2099-12-31T18:00:00-07:00"
    refused = retinue("keys", "create", "ci", "--expires", "tomorrow")
    assert refused.code == ExitCode.USAGE
    assert "such as 2026-12-31T18:00, not 'tomorrow'" in refused.err


def test_files_that_cannot_be_read_or_written_are_named_with_the_reason(
    signed_in: ScriptedServer, retinue: CommandLine, tmp_path: Path
) -> None:
    signed_in.on("GET /v1/my/agents", Answer(200, {"items": [AGENT], "next_cursor": None}))
    signed_in.on(f"GET /v1/my/agents/{AGENT['agent_id']}/export", Answer(200, {"name": "Writer"}))
    ended = retinue("agents", "export", "Writer", "--to", str(tmp_path / "none" / "a.yaml"))
    assert (ended.code, ended.err) == (
        ExitCode.USAGE,
        f"retinue: {tmp_path / 'none' / 'a.yaml'} cannot be written: No such file or directory.\n",
    )
    ended = retinue("agents", "import", str(tmp_path / "b.yaml"))
    assert ended.err == f"retinue: {tmp_path / 'b.yaml'} cannot be read: No such file or directory.\n"
    (tmp_path / "c.yaml").write_bytes(b"name: \xff\xfe")
    assert "no text in UTF-8" in retinue("agents", "import", str(tmp_path / "c.yaml")).err


@pytest.mark.parametrize("what", ["tenant", "agent"])
def test_a_message_that_does_not_begin_says_what_it_waits_for(
    signed_in: ScriptedServer, retinue: CommandLine, what: str
) -> None:
    stopped = {"stopped_at": "2026-11-21T20:00:00Z", "stop_reason": "looks odd"} if what == "tenant" else {}
    tenants = [{"tenant_id": "t-1", "name": "Personal", "personal": True, "stopped_at": None, **stopped}]
    paused = {**AGENT, "status": "paused" if what == "agent" else "ready"}
    signed_in.on("GET /v1/my/agents", Answer(200, {"items": [AGENT], "next_cursor": None}))
    signed_in.on(f"GET /v1/my/agents/{AGENT['agent_id']}", Answer(200, paused))
    signed_in.on("GET /v1/my/profile", Answer(200, {"tenants": tenants}))
    signed_in.on("POST /v1/my/chat", Answer(201, {"session_id": "s"}))
    signed_in.on("POST /v1/my/chat/s/messages", Answer(202, {"run_id": "r", "status": "queued"}))
    ended = retinue("chat", "Writer", "hello", "--detach")
    assert ended.code == 0
    says = {
        "tenant": "(the tenant is stopped: looks odd; what waits goes on after: retinue tenants resume personal)",
        "agent": "(Writer is paused; what waits goes on after: retinue agents resume Writer)",
    }
    assert says[what] in ended.err


def test_a_message_that_waits_for_its_turn_alone_says_nothing(signed_in: ScriptedServer, retinue: CommandLine) -> None:
    tenant = {"tenant_id": "t-1", "name": "Personal", "personal": True, "stopped_at": None, "stop_reason": None}
    signed_in.on("GET /v1/my/agents", Answer(200, {"items": [AGENT], "next_cursor": None}))
    signed_in.on(f"GET /v1/my/agents/{AGENT['agent_id']}", Answer(200, {**AGENT, "status": "busy"}))
    signed_in.on("GET /v1/my/profile", Answer(200, {"tenants": [tenant]}))
    signed_in.on("POST /v1/my/chat", Answer(201, {"session_id": "s"}))
    signed_in.on("POST /v1/my/chat/s/messages", Answer(202, {"run_id": "r", "status": "queued"}))
    assert retinue("chat", "Writer", "hello", "--detach").err == ""


def test_without_a_terminal_it_is_said_until_when_a_question_waits(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = {"kind": "tool", "tool": "files_write", "approval_id": "a-1", "expires_at": "2026-11-21T20:04:44Z"}
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert decider(Screen(False))(asked) is None
    err = capfd.readouterr().err
    assert "retinue approvals approve a-1" in err
    assert f"is declined at {moment('2026-11-21T20:04:44Z')}" in err


def test_text_for_people() -> None:
    assert plain("a\x00\x1b[31m\r\nb\tc\u202e") == "a\\x00\\x1b[31m\nb\tc\\u202e"
    assert compact({"a": "x" * 200}, 20) == '{"a": "xxxxxxxxxxxx…'
    assert [duration(value) for value in (None, 0.0123, 12.34, 600)] == ["-", "12 ms", "12.3 s", "10 min"]
    assert money({"amount": "0.5", "currency": "USD", "unpriced_calls": 2}) == "$0.5 + 2 unpriced"
