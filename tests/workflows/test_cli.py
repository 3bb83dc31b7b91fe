"""``retinue workflows``: the program itself, against a started server."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.mutants import planted
from tests.support.command_line import CommandLine, Ended, fresh_home
from tests.support.databases import Cluster
from tests.support.running import RETINUE, Person, RunningServer, running_server

EXAMPLES = Path(__file__).parents[2] / "examples" / "workflows"


async def retinue(person: Person | None, server: RunningServer | None, *words: object) -> tuple[int, str, str]:
    """Run the program; return its exit code, standard output and standard error."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "COLUMNS": "200"}
    if person is not None and server is not None:
        key = (await person.call("POST", "/v1/my/keys", 201, json={"name": "cli"}))["key"]
        environment |= {"RETINUE_SERVER": server.base_url, "RETINUE_API_KEY": key}
    command = [str(RETINUE), "workflows", *map(str, words)]
    done = await asyncio.to_thread(
        subprocess.run, command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout, done.stderr


async def test_files_are_checked_and_drawn_without_a_server(tmp_path: Path) -> None:
    assert await retinue(None, None, "validate", EXAMPLES) == (0, "3 workflows: nothing is wrong.\n", "")
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("spec_version: 1\nname: wrong\nsteps:\n  - {id: a, value: '${ steps.b.output }'}\n  - {id: c}\n")
    code, out, err = await retinue(None, None, "validate", wrong)
    assert (code, out) == (1, f"{wrong}:5: steps[1].instructions: Field required\n")
    assert err == "retinue: 1 mistake in 1 file.\n"
    wrong.write_text("spec_version: 1\nname: wrong\nsteps:\n  - {id: a, value: '${ steps.b.output }'}\n")
    code, out, _ = await retinue(None, None, "validate", wrong, "--json")
    assert json.loads(out)["mistakes"][0] == {
        "file": str(wrong),
        "line": 4,
        "path": "steps[0].value",
        "message": "There is no step 'b' at this level.",
    }
    code, out, _ = await retinue(None, None, "graph", EXAMPLES / "every-construct.yaml", "--format", "dot")
    assert code == 0
    assert out.startswith('digraph "every-construct" {')


@pytest.fixture
async def ada(server: RunningServer) -> Person:
    return await server.person()


async def test_apply_run_and_delete(server: RunningServer, ada: Person, tmp_path: Path) -> None:
    for name in ("greeting", "calls"):
        steps = "[{id: b, workflow: greeting, inputs: {who: '${ inputs.who }'}}]"
        text = f"spec_version: 1\nname: calls\ninputs: {{properties: {{who: {{}}}}}}\nsteps: {steps}\n"
        (tmp_path / f"{name}.yaml").write_text(
            (EXAMPLES / "greeting.yaml").read_text() if name == "greeting" else text + "output: ${ steps.b.output }\n"
        )
    code, out, err = await retinue(ada, server, "apply", tmp_path)
    assert (code, out) == (0, "greeting: made, version 1\ncalls: made, version 1\n"), err
    code, out, _ = await retinue(ada, server, "apply", tmp_path)
    assert out == "greeting: unchanged, version 1\ncalls: unchanged, version 1\n"
    code, out, err = await retinue(ada, server, "run", "calls", "--input", "who=you there", "--json")
    assert code == 0, err
    assert json.loads(out)["output"] == "Hello you there"
    code, out, err = await retinue(ada, server, "run", "calls", "-i", 'who={"a": 1}')
    assert code == 0, err
    code, out, _ = await retinue(ada, server, "runs", "calls", "--json")
    found: list[dict[str, Any]] = json.loads(out)["items"]
    assert [one["status"] for one in found] == ["completed", "completed"]
    (tmp_path / "greeting.yaml").write_text("spec_version: 1\nname: greeting\nsteps: []\n")
    code, out, err = await retinue(ada, server, "apply", tmp_path)
    assert (code, out) == (1, "")
    assert "greeting.yaml:3: steps: " in err
    assert (await retinue(ada, server, "delete", "calls"))[0] == 0
    assert (await retinue(ada, server, "show", "calls"))[0] == 3


async def test_applying_names_the_agents_that_are_missing(server: RunningServer, ada: Person, tmp_path: Path) -> None:
    await ada.agent("Here")
    asks = "spec_version: 1\nname: asks\nsteps:\n  - {id: a, agent: here, instructions: x}\n"
    file = tmp_path / "asks.yaml"
    file.write_text(asks + "  - {id: b, agent: gone, instructions: x}\n")
    code, out, err = await retinue(ada, server, "apply", file)
    assert (code, out, err) == (0, "asks: made, version 1\n", "  asks needs an agent called gone; you have none.\n")
    file.write_text(asks)
    assert await retinue(ada, server, "apply", file) == (0, "asks: changed, version 2\n", "")


async def test_a_run_that_fails_ends_with_its_own_code(server: RunningServer, ada: Person, tmp_path: Path) -> None:
    file = tmp_path / "fails.yaml"
    file.write_text("spec_version: 1\nname: fails\nsteps: [{id: a, value: '${ 1 / size([]) }'}]\n")
    assert (await retinue(ada, server, "apply", file))[0] == 0
    code, _, err = await retinue(ada, server, "run", "fails")
    assert code == 6
    assert "divide by zero" in err


async def test_a_dead_callback_is_listed_shown_and_tried_again(
    postgres: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    fresh_home(tmp_path, monkeypatch)
    program = CommandLine(monkeypatch, capfd)
    settings: dict[str, Any] = planted("tests.workflows.impatient:no_second_try")
    async with running_server(postgres, **settings) as server:

        async def callbacks_of(person: Person) -> Callable[..., Ended]:
            key = (await person.call("POST", "/v1/my/keys", 201, json={"name": "cli"}))["key"]
            access = {"RETINUE_SERVER": server.base_url, "RETINUE_API_KEY": key, "COLUMNS": "200"}
            return lambda *words: program("workflows", "callbacks", *words, **access)

        ada, eve = await server.person(), await server.person("eve")
        callbacks, hers = await callbacks_of(ada), await callbacks_of(eve)
        assert callbacks("list").err.startswith("There are none.")
        text = b"spec_version: 1\nname: told\nsteps: [{id: a, value: 5}]\n"
        await ada.call("PUT", "/v1/workflows/told", content=text, headers={"Content-Type": "text/yaml"})
        await ada.call("POST", "/v1/workflows/told/callback-secret", 201)
        url = "http://127.0.0.1:9/nobody"  # the port of discard: nobody listens
        await ada.call("POST", "/v1/workflows/told/runs", 202, json={"callback": url})
        await _until_dead(ada)

        [listed] = callbacks("list", "--status", "dead", "--json").json()["items"]
        assert (listed["url"], listed["attempts"]) == (url, 1)
        assert "dead" in callbacks("list").out
        shown = callbacks("show", listed["callback_id"][-8:])
        assert (shown.code, url in shown.out, "ConnectError" in shown.out) == (0, True, True), shown
        ended = callbacks("retry", "last")
        assert (ended.code, ended.out) == (0, "The callback is pending again.\n")
        await _until_dead(ada)  # nobody took it this time either

        ended = callbacks("list", "--status", "gone")
        assert (ended.code, ended.err) == (2, "retinue: --status is one of pending, delivered, dead.\n")
        assert callbacks("show", "last", "--json").json()["callback_id"] == listed["callback_id"]
        ended = hers("show", listed["callback_id"])
        assert (ended.code, "callback" in ended.err) == (3, True), "those of another tenant do not exist"


async def _until_dead(person: Person) -> None:
    async with asyncio.timeout(60):
        while True:
            found = await person.call("GET", "/v1/callbacks")
            if [one["status"] for one in found["items"]] == ["dead"]:
                return
            await asyncio.sleep(0.05)
