"""The client: credentials, renewal, repeats, problem documents."""

from __future__ import annotations

import json
import multiprocessing
import stat
from pathlib import Path

import pytest

from retinue.cli.client import Client
from retinue.cli.credentials import CredentialFile
from retinue.cli.failures import ExitCode, Failure, Refusal, one_line
from tests.cli.conftest import login
from tests.cli.scripted_server import Answer, Request, ScriptedServer, problem, scripted_server
from tests.support.command_line import CommandLine

FRESH = {
    "user_id": "u-1",
    "tenant_id": "t-1",
    "access_token": "access-2",
    "refresh_token": "refresh-2",
    "token_type": "Bearer",
    "expires_in": 900,
}


def test_without_a_login_it_says_which_command_to_run(server: ScriptedServer, retinue: CommandLine) -> None:
    ended = retinue("agents", "list")
    assert ended.code == ExitCode.REFUSED
    assert "retinue sign-up" in ended.err
    assert "retinue login" in ended.err
    assert ended.out == ""
    assert server.requests == []


def test_without_a_server_it_says_how_to_start_one(home: Path, retinue: CommandLine) -> None:
    with scripted_server() as gone:
        url = gone.url
    CredentialFile().save(url, login())
    ended = retinue("agents", "list", "--server", url)
    assert ended.code == ExitCode.UNAVAILABLE
    assert "retinue serve" in ended.err


def test_sign_up_keeps_the_login_readable_by_its_owner_only(server: ScriptedServer, retinue: CommandLine) -> None:
    server.on("POST /v1/auth/sign-up", Answer(201, FRESH))
    ended = retinue("sign-up", "--email", "ann@example.com", "--password-stdin", stdin="correct horse\n")
    assert ended.code == 0, ended.err
    [request] = server.requests
    assert request.body == {"email": "ann@example.com", "password": "correct horse"}
    file = CredentialFile()
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    kept = file.find(server.url)
    assert kept is not None
    assert kept.access_token == "access-2"


def test_logging_out_forgets_the_login_also_when_it_had_ended(signed_in: ScriptedServer, retinue: CommandLine) -> None:
    signed_in.on("POST /v1/auth/logout", Answer(401, problem("unauthenticated", "Send a valid access token.")))
    signed_in.on("POST /v1/auth/refresh", Answer(401, problem("unauthenticated", "The login has ended.")))
    assert retinue("logout").code == 0
    assert CredentialFile().find(signed_in.url) is None


def test_an_expired_token_is_renewed_and_the_request_repeated(signed_in: ScriptedServer) -> None:
    def agents(request: Request) -> Answer:
        fresh = request.headers["authorization"] == "Bearer access-2"
        return Answer(200, {"items": []}) if fresh else Answer(401, problem("unauthenticated", "Expired."))

    signed_in.on("GET /v1/my/agents", agents)
    signed_in.on("POST /v1/auth/refresh", Answer(200, FRESH))
    with Client(signed_in.url) as client:
        assert client.get("/v1/my/agents") == {"items": []}
    assert [request.body for request in signed_in.asked("POST /v1/auth/refresh")] == [{"refresh_token": "refresh-1"}]
    kept = CredentialFile().find(signed_in.url)
    assert kept is not None
    assert kept.refresh_token == "refresh-2"


def test_an_ended_login_says_how_to_sign_in_again(signed_in: ScriptedServer, retinue: CommandLine) -> None:
    refused = Answer(401, problem("unauthenticated", "The login has ended."))
    signed_in.on("GET /v1/my/agents", refused)
    signed_in.on("POST /v1/auth/refresh", refused)
    ended = retinue("agents", "list")
    assert ended.code == ExitCode.REFUSED
    assert "retinue login" in ended.err
    assert len(signed_in.asked("POST /v1/auth/refresh")) == 1


def _list_agents(url: str, ready: multiprocessing.synchronize.Barrier) -> None:
    with Client(url) as client:
        ready.wait(20)
        client.get("/v1/my/agents")


def test_commands_at_the_same_time_use_a_refresh_token_once(server: ScriptedServer) -> None:
    """Using one twice would end the login: the server takes it for a stolen one."""
    CredentialFile().save(server.url, login(expires_at=0))
    server.on("POST /v1/auth/refresh", Answer(200, FRESH), Answer(401, problem("unauthenticated", "Used twice.")))
    server.on("GET /v1/my/agents", Answer(200, {"items": []}))
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(4)
    commands = [context.Process(target=_list_agents, args=(server.url, ready)) for _ in range(4)]
    for command in commands:
        command.start()
    for command in commands:
        command.join(60)
    assert [command.exitcode for command in commands] == [0, 0, 0, 0]
    assert len(server.asked("POST /v1/auth/refresh")) == 1


def test_a_damaged_credential_file_is_named(server: ScriptedServer, retinue: CommandLine) -> None:
    path = CredentialFile().path
    path.parent.mkdir(parents=True)
    path.write_text('{"servers": {"x": ')
    ended = retinue("agents", "list")
    assert ended.code == ExitCode.FAILED
    assert str(path) in ended.err


def test_an_api_key_goes_before_the_login(
    signed_in: ScriptedServer, retinue: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETINUE_API_KEY", "rtn_live_x")
    signed_in.on("GET /v1/my/agents", Answer(200, {"items": []}))
    assert retinue("agents", "list").code == 0
    assert signed_in.requests[0].headers["authorization"] == "Bearer rtn_live_x"


def test_a_lost_answer_is_asked_for_again_with_the_same_idempotency_key(signed_in: ScriptedServer) -> None:
    signed_in.on("GET /v1/my/profile", Answer(200, {}))
    signed_in.on("POST /v1/my/agents", Answer(drop=True), Answer(drop=True), Answer(201, {"agent_id": "a"}))
    with Client(signed_in.url) as client:
        client.get("/v1/my/profile")
        assert client.post("/v1/my/agents", {"name": "x"}) == {"agent_id": "a"}
    keys = [request.headers["idempotency-key"] for request in signed_in.asked("POST /v1/my/agents")]
    assert len(keys) == 3
    assert len(set(keys)) == 1


def test_patience_ends(signed_in: ScriptedServer) -> None:
    signed_in.on("GET /v1/my/profile", Answer(200, {}), Answer(drop=True))
    with Client(signed_in.url, patience=0.5) as client:
        client.get("/v1/my/profile")
        with pytest.raises(Failure) as failed:
            client.get("/v1/my/profile")
    assert failed.value.code is ExitCode.UNAVAILABLE
    assert len(signed_in.requests) > 2


def test_a_busy_server_is_asked_again_when_it_says(signed_in: ScriptedServer) -> None:
    busy = Answer(503, problem("unavailable", "Try again."), {"Retry-After": "0"})
    signed_in.on("GET /v1/my/profile", Answer(200, {}), busy, Answer(200, {"name": "Ann"}))
    with Client(signed_in.url) as client:
        client.get("/v1/my/profile")
        assert client.get("/v1/my/profile") == {"name": "Ann"}


@pytest.mark.parametrize(
    "status,code",
    [(401, 4), (403, 4), (404, 3), (409, 1), (410, 3), (412, 1), (422, 1), (429, 5), (500, 1), (503, 5), (507, 5)],
)
def test_problems_end_with_an_exit_code_and_one_line(
    signed_in: ScriptedServer, retinue: CommandLine, monkeypatch: pytest.MonkeyPatch, status: int, code: int
) -> None:
    monkeypatch.setenv("RETINUE_API_KEY", "rtn_live_x")
    signed_in.on("GET /v1/my/agents", Answer(status, problem("some", "What\nhappened."), {"Retry-After": "99"}))
    ended = retinue("agents", "list", "--json")
    assert (ended.code, ended.out, ended.err) == (code, "", "retinue: What happened.\n")


def test_a_problem_names_its_fields_and_the_trace_of_a_servers_error() -> None:
    document = {"detail": "It is not valid.", "errors": [{"field": "limits.tokens", "message": "too large"}]}
    assert one_line(422, document) == "It is not valid. (limits.tokens: too large)"
    assert one_line(500, {"title": "Broken", "trace_id": "abc"}) == "Broken (trace abc)"


def test_what_is_no_retinue_server_is_said(signed_in: ScriptedServer, retinue: CommandLine) -> None:
    signed_in.on("GET /v1/my/agents", Answer(502, b"<html>bad gateway</html>", {"Content-Type": "text/html"}))
    ended = retinue("agents", "list")
    assert ended.code == ExitCode.UNAVAILABLE
    assert "502" in ended.err


def test_all_pages_are_read_and_limits_kept(signed_in: ScriptedServer) -> None:
    def page(request: Request) -> Answer:
        start = int(request.query.get("cursor", "0"))
        size = min(int(request.query["limit"]), 3)
        items = [{"n": number} for number in range(start, min(start + size, 7))]
        return Answer(200, {"items": items, "next_cursor": str(start + size) if start + size < 7 else None})

    signed_in.on("GET /v1/my/runs", page)
    with Client(signed_in.url) as client:
        assert [item["n"] for item in client.pages("/v1/my/runs")] == list(range(7))
        assert [item["n"] for item in client.pages("/v1/my/runs", limit=5)] == list(range(5))
        assert [item["n"] for item in client.pages("/v1/my/runs", limit=2)] == [0, 1]


def test_the_tenant_is_named_in_every_request(signed_in: ScriptedServer, retinue: CommandLine) -> None:
    tenants = [
        {"tenant_id": "01890000-0000-7000-8000-000000000001", "name": "Ann", "role": "admin", "personal": True},
        {"tenant_id": "01890000-0000-7000-8000-000000000002", "name": "Acme", "role": "member", "personal": False},
    ]
    signed_in.on("GET /v1/my/profile", Answer(200, {"tenants": tenants}))
    signed_in.on("GET /v1/my/agents", Answer(200, {"items": []}))
    assert retinue("agents", "list", "--tenant", "acme").code == 0
    assert signed_in.requests[-1].headers["retinue-tenant"] == tenants[1]["tenant_id"]
    assert retinue("agents", "list", "--tenant", "acne").code == ExitCode.NOT_FOUND


def test_a_refusal_keeps_the_document() -> None:
    refusal = Refusal(409, json.loads(json.dumps(problem("conflict", "Decided already."))))
    assert (refusal.status, refusal.kind, refusal.code) == (409, "conflict", ExitCode.FAILED)
