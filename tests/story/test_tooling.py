"""Tools in runs: the built-in ones, those of plugins and MCP servers, and those that go wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.story.support import Story, steps, until
from tests.support.running import Person, free_port

MCP_SERVER = Path(__file__).parent.parent / "tools" / "mcp_server.py"
READS: dict[str, Any] = {"echo": {"effect": "read", "output": "trusted"}}


async def _only_call(person: Person, run_id: str) -> dict[str, Any]:
    (call,) = [one for one in await steps(person, run_id) if one["kind"] == "tool"]
    return call


async def test_files_of_a_session_are_its_own(story: Story) -> None:
    ada = await story.server.person()
    agent = await ada.agent(tools=["files"], autonomy="autonomous")
    session = str(uuid4())
    written = await ada.ask(agent, '!tool files_write {"path": "deep/a.txt", "content": "needle here"}', session)
    assert (await _only_call(ada, written["run"]["run_id"]))["failed"] is False
    found = await ada.ask(agent, '!tool files_search {"query": "needle"}', session)
    assert "deep/a.txt" in found["message"]["content"]
    elsewhere = await ada.ask(agent, '!tool files_read {"path": "deep/a.txt"}')
    assert (await _only_call(ada, elsewhere["run"]["run_id"]))["failed"] is True
    for outside in ("../../root.key", "/etc/passwd"):
        answer = await ada.ask(agent, f'!tool files_read {{"path": "{outside}"}}', session)
        assert (await _only_call(ada, answer["run"]["run_id"]))["failed"] is True
        assert answer["run"]["status"] == "completed"


async def test_a_page_is_fetched_after_somebody_agreed_and_taints_the_run(story: Story) -> None:
    ada = await story.server.person()
    agent = await ada.agent(tools=["http_fetch"])
    url = f"http://127.0.0.1:{story.model.port}/v1/models"
    accepted = await ada.send(agent, f'!tool http_fetch {{"url": "{url}"}}')
    approval = await ada.approval(accepted["run_id"])
    assert approval["effect"] == "fetch"
    assert approval["arguments"]["url"] == url
    await ada.decide(approval)
    run = await ada.until(accepted["run_id"])
    assert (run["status"], run["tainted"]) == ("completed", True)
    assert "gpt-4o-mini" in (await _only_call(ada, run["run_id"]))["result"]


@pytest.mark.parametrize(
    "name, words",
    [
        ("raise_something", ["ZeroDivisionError"]),
        ("never_return", ["0.5", "second"]),
        ("no_such_tool", ["There is no tool no_such_tool"]),
    ],
)
async def test_a_tool_that_goes_wrong_is_said_to_the_agent_and_in_the_record(
    story: Story, tag: str, name: str, words: list[str]
) -> None:
    ada = await story.server.person()
    agent = await ada.agent(tools=["raise_something", "never_return"])
    answer = await ada.ask(agent, f"!tool {name} {{}}\n!say {tag} I see")
    assert (answer["run"]["status"], answer["message"]["content"]) == ("completed", f"{tag} I see")
    call = await _only_call(ada, answer["run"]["run_id"])
    assert call["failed"] is True
    told = story.asked(tag)[-1].body["messages"][-1]["content"]
    for word in words:
        assert word in call["result"]
        assert word in told


async def test_ten_megabytes_are_cut_and_the_cut_is_said(story: Story) -> None:
    ada = await story.server.person()
    agent = await ada.agent(tools=["say_ten_megabytes"])
    answer = await ada.ask(agent, "!tool say_ten_megabytes {}\n!say enough")
    assert answer["run"]["status"] == "completed"
    call = await _only_call(ada, answer["run"]["run_id"])
    assert 90_000 < len(call["result"]) < 110_000
    assert "[Cut: the result has 10,000,000 characters" in call["result"][-300:]


async def test_arguments_that_do_not_fit_never_reach_the_tool(story: Story) -> None:
    ada = await story.server.person()
    agent = await ada.agent(tools=["note_blindly"], autonomy="autonomous")
    answer = await ada.ask(agent, '!tool note_blindly {"text": {"not": "text"}}')
    assert answer["run"]["status"] == "completed"
    call = await _only_call(ada, answer["run"]["run_id"])
    assert call["failed"] is True
    assert "text" in call["result"]
    assert answer["run"]["run_id"] not in story.effects.read_text()


async def test_a_tool_that_is_denied_does_nothing(story: Story) -> None:
    ada = await story.server.person()
    agent = await ada.agent(tools=["note_once"], autonomy="autonomous", tool_policy={"note_once": "deny"})
    answer = await ada.ask(agent, '!tool note_once {"text": "x"}')
    assert (await _only_call(ada, answer["run"]["run_id"]))["result"].startswith("Not done:")
    assert answer["run"]["run_id"] not in story.effects.read_text()


@pytest.fixture(scope="module")
def mcp_url() -> Iterator[str]:
    port = free_port()
    process = subprocess.Popen([sys.executable, str(MCP_SERVER), "http", str(port)], stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.terminate()
        process.wait(10)


async def _listens(url: str) -> None:
    async def reach() -> bool:
        async with httpx.AsyncClient() as client:
            try:
                await client.get(url, timeout=2)
            except httpx.HTTPError:
                return False
            return True

    await until(reach, lambda reached: reached)


@pytest.mark.parametrize("over", ["stdio", "http"])
async def test_tools_of_an_mcp_server(story: Story, mcp_url: str, over: str) -> None:
    ada = await story.server.person()
    if over == "http":
        await _listens(mcp_url)
    reach = {"url": mcp_url} if over == "http" else {"command": sys.executable, "args": [str(MCP_SERVER), "stdio"]}
    agent = await ada.agent(mcp=[{"name": "far", "labels": READS, **reach}])
    answer = await ada.ask(agent, '!tool far_echo {"text": "hello over there"}')
    assert answer["run"]["status"] == "completed", answer
    assert "hello over there" in (await _only_call(ada, answer["run"]["run_id"]))["result"]
    # What nobody has labelled may do anything, so a person is asked.
    accepted = await ada.send(agent, '!tool far_add {"a": 40, "b": 2}')
    approval = await ada.approval(accepted["run_id"])
    assert approval["tool"] == "far_add"
    await ada.decide(approval)
    run = await ada.until(accepted["run_id"])
    assert run["tainted"] is True
    assert json.loads((await _only_call(ada, run["run_id"]))["result"])["sum"] == 42


async def test_an_mcp_server_that_is_away_does_not_take_the_run_along(story: Story, tag: str) -> None:
    ada = await story.server.person()
    away = {"name": "far", "url": f"http://127.0.0.1:{free_port()}/mcp"}
    agent = await ada.agent(mcp=[away], tools=["clock"])
    answer = await ada.ask(agent, f"!tool clock {{}}\n!say {tag} without it")
    assert answer["message"]["content"] == f"{tag} without it"
