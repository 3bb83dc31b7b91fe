"""The commands that run in process: serve, worker, migrate, doctor, demo, bench."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import psutil
import pytest

from retinue.cli.demo_files import MOST_BYTES, chosen
from retinue.cli.demo_story import Told, judge
from retinue.cli.failures import ExitCode, Failure
from retinue.database import expected_revision
from tests.support.command_line import CommandLine, fresh_home
from tests.support.databases import Cluster
from tests.support.running import RETINUE, Person, RunningServer, running_server

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine on which Retinue was never used, in a folder without settings."""
    fresh_home(tmp_path / "home", monkeypatch)
    for name in ("DATABASE_URL", "DATABASE_OWNER_URL", "REDIS_URL", "OPENAI_API_KEY", "RETINUE_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def retinue(home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(monkeypatch, capfd)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder outside pytest's own, which pytest closes to the user that PostgreSQL runs as when tests run as root."""
    with tempfile.TemporaryDirectory(prefix="retinue-test-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture
def embedded(home: Path, open_folder: Path) -> Iterator[Path]:
    """A data folder; whatever database is left in it is stopped afterwards."""
    folder = open_folder / "data"
    yield folder
    pid_file = folder / "postgres" / "postmaster.pid"
    if pid_file.exists():
        database = psutil.Process(int(pid_file.read_text().splitlines()[0]))
        database.send_signal(signal.SIGINT)
        database.wait(20)


def started(folder: Path, *arguments: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    """Start ``retinue serve --json`` on any free port and wait until it says that it is ready."""
    command = [str(RETINUE), *arguments, "--json", "--data", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise AssertionError(process.communicate(timeout=20)[1])
    return process, json.loads(line)


def stopped(process: subprocess.Popen[str]) -> tuple[int, float, str]:
    """End a process with SIGTERM; return its exit code, the seconds it took, and what it wrote."""
    began = time.monotonic()
    process.terminate()
    _, err = process.communicate(timeout=60)
    return process.returncode, time.monotonic() - began, err


# serve and worker


def test_a_server_starts_says_where_it_is_and_ends_with_its_database(embedded: Path) -> None:
    process, said = started(embedded, "serve", "--port", "0")
    try:
        assert said["url"].startswith("http://127.0.0.1:")
        assert said["pid"] == process.pid
        assert "embedded" in said["database"]
        assert "[demo]" in said["models"]
    finally:
        code, _, err = stopped(process)
    assert code == 0, err
    assert "Traceback" not in err
    assert not (embedded / "postgres" / "postmaster.pid").exists()


def test_a_second_server_on_the_folder_is_refused_with_the_reason(embedded: Path, retinue: CommandLine) -> None:
    process, _ = started(embedded, "serve", "--port", "0")
    try:
        ended = retinue("serve", "--port", "0", "--data", str(embedded))
        assert ended.code == ExitCode.FAILED
        assert f"process {process.pid}" in ended.err
        assert str(embedded) in ended.err
        worker, said = started(embedded, "worker")
        assert UUID(said["worker_id"]).version == 7
        assert stopped(worker)[0] == 0
    finally:
        assert stopped(process)[0] == 0


def test_a_taken_port_is_named(embedded: Path, retinue: CommandLine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = retinue("serve", "--port", port, "--data", str(embedded))
    assert ended.code == ExitCode.FAILED
    assert ended.err.count("retinue:") == 1
    assert port in ended.err


def test_wrong_settings_are_one_line_each(retinue: CommandLine, home: Path) -> None:
    (home / "retinue.toml").write_text("prot = 8000\n")
    ended = retinue("serve", RETINUE_POOL_SIZE="many", RETINUE_LOG_LEVEL="loud", RETINUE_PROT="1")
    assert ended.code == ExitCode.USAGE
    lines = ended.err.strip().splitlines()
    assert len(lines) == 4, lines
    for wanted in ("RETINUE_PROT is no setting", "prot in retinue.toml", "RETINUE_POOL_SIZE: ", "RETINUE_LOG_LEVEL: "):
        assert any(wanted in line for line in lines), (wanted, lines)
    assert "did you mean RETINUE_PORT" in ended.err


def test_an_unreachable_database_is_said(retinue: CommandLine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    ended = retinue("serve", DATABASE_URL=f"postgresql://retinue_app:secret@127.0.0.1:{port}/retinue")
    assert ended.code == ExitCode.UNAVAILABLE
    assert "secret" not in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("name", ["DATABASE_URL", "DATABASE_OWNER_URL"])
@pytest.mark.parametrize("command", ["serve", "worker", "migrate", "doctor"])
def test_what_is_no_url_of_a_database_is_said_without_showing_it(
    retinue: CommandLine, home: Path, command: str, name: str
) -> None:
    ended = retinue(command, "--data", str(home / "new"), **{name: "db.example.org/secret"})
    assert ended.code == ExitCode.USAGE
    assert ended.err == f"retinue: {name}: write it as postgresql://USER:PASSWORD@HOST/DATABASE\n"


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_a_data_folder_that_cannot_be_made_is_named(retinue: CommandLine, home: Path, command: str) -> None:
    (home / "file").write_text("")
    ended = retinue(command, "--data", str(home / "file" / "data"))
    assert ended.code == ExitCode.FAILED
    assert f"The data folder {home / 'file' / 'data'} cannot be made: Not a directory." in ended.err
    assert "--data" in ended.err


def test_a_worker_that_finds_no_database_says_that_it_serves_a_new_one(retinue: CommandLine, home: Path) -> None:
    (home / "file").write_text("")  # so that nothing is set up
    assert "There is no database in" in retinue("worker", "--data", str(home / "file" / "data")).err
    away = "postgresql://retinue_app:secret@127.0.0.1:1/retinue"
    assert "There is no database in" not in retinue("worker", "--data", str(home / "new"), DATABASE_URL=away).err


async def test_a_stop_takes_less_than_ten_seconds_and_the_run_goes_on_afterwards(postgres: Cluster) -> None:
    """A run in the middle of a model call and an open stream do not hold the server up."""
    async with running_server(postgres) as server:
        ada = await server.person()
        agent = await ada.agent(model="demo:slow")
        accepted = await ada.send(agent, "tell me something")
        async with ada.stream() as events:
            await ada.until(accepted["run_id"], "running")
            assert server.api is not None
            began = time.monotonic()
            server.api.signal(signal.SIGTERM)
            assert server.api.popen is not None
            code = await asyncio.to_thread(server.api.popen.wait, 30)
            assert time.monotonic() - began < 10
            assert code == 0
            async for _ in events:  # ends in good order; a stream that is cut off raises
                pass
        await server.start()
        run = await ada.until(accepted["run_id"])
        assert run["status"] == "completed"


# migrate


async def test_migrate_makes_roles_database_and_schema(retinue: CommandLine, postgres: Cluster) -> None:
    name = f"made_{uuid4().hex[:8]}"
    superuser = postgres.server.dsn("postgres", "postgres")
    # The roles are the cluster's own and shared with other tests: they keep their passwords.
    urls = {
        "DATABASE_URL": postgres.dsn(name),
        "DATABASE_OWNER_URL": postgres.dsn(name, "retinue_owner"),
        "DATABASE_SUPERUSER_URL": superuser,
    }
    without = {name: url for name, url in urls.items() if name != "DATABASE_SUPERUSER_URL"}
    plain = await asyncio.to_thread(retinue, "migrate", "--create-roles", **without)
    assert plain.code == ExitCode.USAGE
    try:
        made = await asyncio.to_thread(retinue.json, "migrate", "--create-roles", **urls)
        assert made == {"before": None, "after": expected_revision()}
        again = await asyncio.to_thread(retinue.ok, "migrate", **urls)
        assert "already" in again
    finally:
        await postgres.drop(name)


# doctor


@pytest.fixture
async def patient(postgres: Cluster) -> AsyncIterator[RunningServer]:
    async with running_server(postgres) as server:
        yield server


async def examined(retinue: CommandLine, server: RunningServer, *options: str) -> dict[str, tuple[str, str]]:
    """Run the doctor with the server's settings; return state and text by name."""
    settings = {name: value for name, value in server.environment().items() if name.isupper() and name != "PATH"}
    ended = await asyncio.to_thread(retinue, "doctor", "--json", *options, **settings)
    report = json.loads(ended.out)
    assert report["ok"] is (ended.code == 0), ended.err
    return {finding["name"]: (finding["state"], finding["text"]) for finding in report["findings"]}


async def as_superuser(server: RunningServer, statement: str, *values: object) -> str:
    assert server.cluster is not None
    assert server.database is not None
    connection = await asyncpg.connect(server.cluster.server.dsn("postgres", server.database))
    try:
        result: str = await connection.execute(statement, *values)
        return result
    finally:
        await connection.close()


async def test_a_healthy_server_has_no_findings(retinue: CommandLine, patient: RunningServer) -> None:
    found = await examined(retinue, patient)
    assert {name: state for name, (state, _) in found.items() if state in ("cannot", "repaired")} == {}
    assert found["schema"] == ("ok", f"at {expected_revision()}")
    assert found["lanes"][0] == "ok"
    assert "is ready" in found[f"port {patient.port}"][1]
    assert found["workers"][1].startswith("1 alive")


async def _running(server: RunningServer) -> tuple[Person, str]:
    """Return a run that is in the middle of a model call."""
    ada = await server.person()
    agent = await ada.agent(model="demo:slow")
    accepted = await ada.send(agent, "tell me something" + " and more" * 20)  # two seconds more
    await ada.until(accepted["run_id"], "running")
    return ada, str(accepted["run_id"])


async def test_an_activation_without_a_worker_is_found_and_repaired(
    retinue: CommandLine, patient: RunningServer
) -> None:
    ada, run_id = await _running(patient)
    patient.kill()
    await as_superuser(patient, "DELETE FROM dispatch.workers")
    assert (await examined(retinue, patient))["orphan activations"] == ("cannot", "1 found")
    assert (await examined(retinue, patient, "--fix"))["orphan activations"] == ("repaired", "1 put right")
    assert (await examined(retinue, patient))["orphan activations"][0] == "ok"
    await patient.start()
    assert (await ada.until(run_id))["status"] == "completed"


async def test_a_stuck_run_is_found_and_woken(retinue: CommandLine, patient: RunningServer) -> None:
    ada, run_id = await _running(patient)
    patient.kill()
    await as_superuser(patient, "DELETE FROM dispatch.activations")
    await as_superuser(patient, "DELETE FROM dispatch.workers")
    await as_superuser(patient, "DELETE FROM dispatch.pgqueuer")
    assert (await examined(retinue, patient))["stuck runs"] == ("cannot", "1 found")
    assert (await examined(retinue, patient, "--fix"))["stuck runs"] == ("repaired", "1 put right")
    assert (await examined(retinue, patient))["stuck runs"][0] == "ok"
    await patient.start()
    assert (await ada.until(run_id))["status"] == "completed"


async def test_a_run_whose_decided_approval_woke_nobody_is_found_and_woken(
    retinue: CommandLine, patient: RunningServer
) -> None:
    ada = await patient.person()
    agent = await ada.agent(tools=["files"])
    accepted = await ada.send(agent, "write a summary to out.md")
    approval = await ada.approval(accepted["run_id"])
    patient.kill()
    await as_superuser(
        patient, "UPDATE approvals SET status = 'approved' WHERE approval_id = $1", UUID(approval["approval_id"])
    )
    assert (await examined(retinue, patient))["stuck runs"] == ("cannot", "1 found")


async def test_a_miscounted_lane_is_found_and_repaired(retinue: CommandLine, patient: RunningServer) -> None:
    ada = await patient.person()
    agent = await ada.agent()
    await ada.ask(agent, "hello")
    assert (await examined(retinue, patient))["lanes"][0] == "ok"
    assert await as_superuser(patient, "UPDATE lanes SET running = 3, queued = 7") == "UPDATE 1"
    assert (await examined(retinue, patient))["lanes"] == ("cannot", "1 found")
    assert (await examined(retinue, patient, "--fix"))["lanes"] == ("repaired", "1 put right")
    view = await ada.call("GET", f"/v1/my/agents/{agent['agent_id']}")
    assert (view["running"], view["queued"]) == (0, 0)


async def test_a_lifted_fence_is_found(retinue: CommandLine, patient: RunningServer) -> None:
    await as_superuser(patient, "ALTER TABLE runs NO FORCE ROW LEVEL SECURITY")
    state, text = (await examined(retinue, patient))["tenants kept apart"]
    assert state == "cannot"
    assert "runs" in text


async def test_an_open_root_key_is_found_and_closed(retinue: CommandLine, patient: RunningServer) -> None:
    key = patient.folder / "root.key"
    key.chmod(0o644)
    assert (await examined(retinue, patient))["root key"][0] == "cannot"
    assert (await examined(retinue, patient, "--fix"))["root key"][0] == "repaired"
    assert key.stat().st_mode & 0o777 == 0o600
    assert (await examined(retinue, patient))["sealed secrets"][0] == "ok"


async def test_the_wrong_root_key_is_found(retinue: CommandLine, patient: RunningServer) -> None:
    (patient.folder / "root.key").unlink()
    state, text = (await examined(retinue, patient))["sealed secrets"]
    assert state == "cannot"
    assert "root.key" in text


def test_a_database_that_is_away_and_a_redis_that_does_not_answer_are_found(retinue: CommandLine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    ended = retinue(
        "doctor",
        "--json",
        DATABASE_URL=f"postgresql://retinue_app:secret@127.0.0.1:{port}/retinue",
        REDIS_URL=f"redis://127.0.0.1:{port}",
        RETINUE_PORT="0",
    )
    found = {finding["name"]: finding["state"] for finding in json.loads(ended.out)["findings"]}
    assert ended.code == ExitCode.FAILED
    assert (found["database"], found["redis"]) == ("cannot", "cannot")
    assert "secret" not in ended.out + ended.err


def test_before_the_first_start_there_is_nothing_to_repair(retinue: CommandLine, home: Path) -> None:
    report = retinue.json("doctor", "--data", str(home / "new"), RETINUE_PORT="0")
    assert {finding["state"] for finding in report["findings"]} == {"ok", "note"}
    assert not (home / "new").exists()


def test_settings_are_shown_without_secrets(retinue: CommandLine) -> None:
    out = retinue.ok("doctor", "--settings", OPENAI_API_KEY="sk-secret", RETINUE_PORT="9999")
    assert "sk-secret" not in out
    assert "9999" in out


# demo


def _text_folder(home: Path) -> Path:
    folder = home / "texts"
    (folder / "deep").mkdir(parents=True)
    (folder / "tea.md").write_text("# Tea\n\nTea is at four, and there is cake on Sundays.\n")
    (folder / "deep" / "bees.txt").write_text("The bees are moved in April.\n")
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n")
    (folder / "broken.txt").write_bytes(b"\xff\xfe\x00")
    return folder


def test_the_demo_reads_text_files_and_nothing_else(home: Path) -> None:
    folder = _text_folder(home)
    (folder / "link.md").symlink_to("/etc/hostname")
    (folder / ".hidden.md").write_text("no")
    (folder / "huge.log").write_bytes(b"x" * (MOST_BYTES + 1))
    for number in range(60):
        (folder / "deep" / f"{number:02}.txt").write_text("x")
    _, files = chosen(folder)
    names = [file.name for file in files]
    assert len(files) == 50
    assert names.index("tea.md") < names.index("deep/00.txt")
    assert not {"picture.png", "broken.txt", "link.md", ".hidden.md", "huge.log"} & set(names)
    with pytest.raises(Failure):
        chosen(home / "nowhere")


_KEYS = {
    "ok",
    "run_status",
    "events",
    "model_calls",
    "repeated_model_calls",
    "effects_once",
    "takeover_s",
    "cost",
}


def _processes_on(folder: Path) -> list[str]:
    return [
        " ".join(process.info["cmdline"])
        for process in psutil.process_iter(["cmdline"])
        if process.info["cmdline"] and any(str(folder) in part for part in process.info["cmdline"])
    ]


@pytest.mark.slow
def test_the_demo_shows_a_whole_journey(home: Path, open_folder: Path) -> None:
    data = open_folder / "stage"
    command = [str(RETINUE), "demo", str(_text_folder(home)), "--data", str(data)]
    ended = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=200)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for shown in ("Tea is at four", "files_write (write)", "summary.md is written", "run.completed", "The time line"):
        assert shown in ended.stdout
    assert "cost            $0" in ended.stdout
    assert _processes_on(data) == []


@pytest.mark.slow
@pytest.mark.fault
def test_the_crash_demo_proves_that_nothing_is_lost_or_repeated(home: Path, open_folder: Path) -> None:
    ended = subprocess.run(
        [str(RETINUE), "demo", str(_text_folder(home)), "--crash", "--json"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=200,
        env={**os.environ, "TMPDIR": str(open_folder)},
    )
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout)
    assert set(result) == _KEYS
    assert result["ok"] is True
    assert result["run_status"] == "completed"
    assert (result["model_calls"], result["repeated_model_calls"], result["effects_once"]) == (4, 0, True)
    assert 0 < result["takeover_s"] < 20
    assert ended.stderr.count("kill -9") >= 3
    assert [entry.name for entry in open_folder.iterdir() if entry.name.startswith("retinue-")] == []
    assert _processes_on(open_folder) == []


@pytest.mark.fault
def test_a_demo_that_is_killed_leaves_no_process_behind(home: Path, open_folder: Path) -> None:
    data = open_folder / "stage"
    command = [str(RETINUE), "demo", str(_text_folder(home)), "--data", str(data), "-q", "hello"]
    demo = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL)
    assert demo.stdout is not None
    assert any("Signing up" in line for line in demo.stdout)
    demo.kill()
    demo.communicate(timeout=20)
    deadline = time.monotonic() + 60
    while _processes_on(data) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert _processes_on(data) == []


def _told(**changes: Any) -> Told:
    arguments = {"path": "summary.md", "content": "Tea is at four."}
    events = [
        {"version": 1, "type": "run.requested", "data": {}},
        {"version": 2, "type": "model.responded", "data": {"step": 1}},
        {"version": 3, "type": "tool.started", "data": {"call_id": "c", "tool": "files_write", "arguments": arguments}},
        {"version": 4, "type": "tool.completed", "data": {"call_id": "c", "tool": "files_write"}},
        {"version": 5, "type": "model.responded", "data": {"step": 2}},
        {"version": 6, "type": "run.completed", "data": {}},
    ]
    told: dict[str, Any] = {
        "run": {"status": "completed", "error": None},
        "events": events,
        "steps": [],
        "written": "Tea is at four.",
        "files": ["tea.md", "summary.md"],
        "messages": [{"role": "user"}, {"role": "assistant"}],
    }
    return Told(**{**told, **changes})


def test_the_demos_judge_is_content_with_a_good_record() -> None:
    verdict = judge(_told())
    assert verdict.problems == []
    assert (verdict.model_calls, verdict.repeated_model_calls, verdict.effects_once) == (2, 0, True)


@pytest.mark.parametrize(
    "version,kind,data",
    [
        (7, "model.responded", {"step": 2}),
        (7, "tool.completed", {"call_id": "c", "tool": "files_write"}),
        (7, "tool.started", {"call_id": "d", "tool": "files_write", "arguments": {"path": "summary.md"}}),
        (8, "run.completed", {}),
    ],
)
def test_the_demos_judge_sees_what_was_lost_or_repeated(version: int, kind: str, data: dict[str, Any]) -> None:
    planted = {"version": version, "type": kind, "data": data}
    assert judge(_told(events=[*_told().events, planted])).problems


@pytest.mark.parametrize(
    "changes",
    [
        {"run": {"status": "failed", "error": {"detail": "no"}}},
        {"written": "Tea is at five."},
        {"written": None, "files": ["tea.md"]},
        {"files": ["summary.md", "summary.md"]},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "user"}, {"role": "assistant"}, {"role": "assistant"}]},
    ],
)
def test_the_demos_judge_sees_what_is_wrong_at_the_end(changes: dict[str, Any]) -> None:
    assert judge(_told(**changes)).problems


# bench


def test_bench_passes_its_arguments_on() -> None:
    ended = subprocess.run([sys.executable, "-m", "retinue.cli", "bench", "--help"], capture_output=True, text=True)
    assert ended.returncode == 0
