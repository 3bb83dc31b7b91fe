"""MCP servers over stdio and HTTP: real programs, killed and restarted."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from msgspec import structs

from retinue.kernel import BadInput, Settings, new_id
from retinue.tools import (
    UNLABELLED,
    Effect,
    Labels,
    McpServer,
    OpenTools,
    Plugins,
    Toolbox,
    ToolContext,
    ToolOutcome,
    Trust,
)
from retinue.tools import mcp_connection as connection_module
from retinue.tools import mcp_pool as pool_module
from retinue.tools.mcp_connection import McpUnavailable
from retinue.tools.mcp_pool import McpPool
from retinue.tools.mcp_servers import tool_names, with_secrets
from tests.tools.test_fetch import Names

OFFICIAL = Path(__file__).with_name("mcp_server.py")
BY_HAND = Path(__file__).with_name("mcp_program.py")
READS = Labels(effect=Effect.READ, output=Trust.UNTRUSTED)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings that let HTTP servers be on this machine."""
    return Settings(data=tmp_path / "data", allow_private_fetch=True, mcp_stdio=True)


@pytest.fixture
async def toolbox(settings: Settings) -> AsyncIterator[Toolbox]:
    """A toolbox whose connections are closed at the end."""
    box = Toolbox(settings, Plugins())
    yield box
    await box.close()


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the servers of all tests note the calls they get."""
    return tmp_path_factory.mktemp("notes") / "calls"


@pytest.fixture
def calls(notes: Path) -> Path:
    """The same, empty."""
    notes.write_text("")
    return notes


def noted(calls: Path) -> Counter[str]:
    return Counter(line.split()[0] for line in calls.read_text().splitlines())


def program(calls: Path, name: str = "tests", **settings: Any) -> McpServer:
    env = {"CALLS": str(calls), **settings.pop("env", {})}
    return McpServer(name=name, command=sys.executable, args=["-I", str(BY_HAND)], env=env, **settings)


class Site:
    """An HTTP server on a port of its own that can be killed and started again."""

    def __init__(self, calls: Path) -> None:
        self._calls = calls
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    def start(self) -> None:
        env = {**os.environ, "CALLS": str(self._calls)}
        self._process = subprocess.Popen(
            [sys.executable, str(OFFICIAL), "http", str(self.port)],
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise TimeoutError("the HTTP server did not start")

    def revive(self) -> None:
        if self._process.poll() is not None:
            self.start()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def shared_site(notes: Path) -> Iterator[Site]:
    """One HTTP server for all tests: the official library takes seconds to start."""
    site = Site(notes)
    yield site
    site.kill()


@pytest.fixture
def site(shared_site: Site, calls: Path) -> Site:
    """The HTTP server, started again if the test before killed it."""
    shared_site.revive()
    return shared_site


async def call(context: ToolContext, tools: OpenTools, name: str, **arguments: Any) -> ToolOutcome:
    tool = tools.get(name)
    assert tool is not None, f"{name} is not among {[spec.name for spec in tools.specs()]}: {tools.problems}"
    return await tool.run(context, arguments)


@pytest.fixture(params=["by hand", "official over stdio", "official over http"])
def server(request: pytest.FixtureRequest, calls: Path) -> McpServer:
    """Servers of both kinds over both transports."""
    if request.param == "by hand":
        return program(calls)
    if request.param == "official over stdio":
        return structs.replace(program(calls), args=[str(OFFICIAL), "stdio"])
    site: Site = request.getfixturevalue("site")
    return McpServer(name="tests", url=site.url)


@pytest.fixture
async def pools() -> AsyncIterator[list[McpPool]]:
    """Pools that are closed at the end."""
    made: list[McpPool] = []
    yield made
    for pool in made:
        await pool.close()


async def test_tools_are_listed_and_called(context: ToolContext, toolbox: Toolbox, server: McpServer) -> None:
    tools = await toolbox.open(["clock"], [server], tenant_id=context.tenant_id)
    specs = {spec.name: spec for spec in tools.specs()}
    assert "clock" in specs
    assert specs["tests_echo"].description == "Say it again."
    assert specs["tests_echo"].parameters["properties"]["text"]["type"] == "string"
    assert await call(context, tools, "tests_echo", text="grüße \0 ✓") == ToolOutcome(
        "grüße \N{REPLACEMENT CHARACTER} ✓"
    )
    assert (await call(context, tools, "tests_key")).content == context.idempotency_key
    wrong = await call(context, tools, "tests_echo", text=["one"])
    assert wrong.failed
    assert "text:" in wrong.content


async def test_the_official_server(context: ToolContext, toolbox: Toolbox, site: Site) -> None:
    tools = await toolbox.open([], [McpServer(name="tests", url=site.url)], tenant_id=context.tenant_id)
    assert json.loads((await call(context, tools, "tests_add", a=1, b=2)).content) == {"sum": 3}
    failed = await call(context, tools, "tests_fail")
    assert failed.failed
    assert "fail" in failed.content


async def test_results_of_all_kinds(context: ToolContext, toolbox: Toolbox, calls: Path) -> None:
    tools = await toolbox.open([], [program(calls)], tenant_id=context.tenant_id)
    picture = await call(context, tools, "tests_picture")
    assert picture.content.splitlines() == [
        "look:",
        "[image image/png, 6 bytes, not shown]",
        "inside",
        "[a file that is not text: file:///a.bin]",
        "[b: https://b.example/]",
    ]
    assert (await call(context, tools, "tests_structured")).content == '{"sum": 3}'
    assert await call(context, tools, "tests_fail", text="out of cheese") == ToolOutcome("out of cheese", failed=True)
    nonsense = await call(context, tools, "tests_nonsense")
    assert nonsense.failed
    assert "cannot be understood" in nonsense.content


async def test_a_tool_whose_schema_points_elsewhere_is_left_out(toolbox: Toolbox, calls: Path) -> None:
    tools = await toolbox.open([], [program(calls)], tenant_id=new_id())
    assert tools.get("tests_far") is None
    (problem,) = tools.problems
    assert "far" in problem
    assert "another document" in problem


async def test_a_server_that_gets_a_new_tool(context: ToolContext, toolbox: Toolbox, calls: Path) -> None:
    async def reopened() -> OpenTools:
        return await toolbox.open([], [program(calls)], tenant_id=context.tenant_id)

    tools = await reopened()
    assert tools.get("tests_grown") is None
    assert (await call(context, tools, "tests_grow")).content == "grown"
    async with asyncio.timeout(15):
        while (await reopened()).get("tests_grown") is None:  # noqa: ASYNC110  # the server says when
            await asyncio.sleep(0.01)
    assert (await call(context, await reopened(), "tests_grown")).content == "fresh"


async def test_a_result_of_ten_megabytes_is_cut(context: ToolContext, toolbox: Toolbox, calls: Path) -> None:
    tools = await toolbox.open([], [program(calls)], tenant_id=context.tenant_id)
    outcome = await call(context, tools, "tests_big", number=10_000_000)
    assert "10,000,000 characters" in outcome.content
    assert len(outcome.content) < 101_000


async def test_a_call_that_takes_too_long(context: ToolContext, toolbox: Toolbox, server: McpServer) -> None:
    tools = await toolbox.open([], [server], tenant_id=context.tenant_id)
    wait = tools.get("tests_wait")
    assert wait is not None
    started = time.monotonic()
    outcome = await replace(wait, timeout=0.3).run(context, {"number": 60})
    assert time.monotonic() - started < 5
    assert outcome.failed
    assert outcome.uncertain
    assert not (await call(context, tools, "tests_echo", text="still there")).failed


async def test_cancelling_a_call_ends_it_at_once(context: ToolContext, toolbox: Toolbox, calls: Path) -> None:
    tools = await toolbox.open([], [program(calls)], tenant_id=context.tenant_id)
    waiting = asyncio.create_task(call(context, tools, "tests_wait", number=60))
    await _until(lambda: noted(calls)["wait"] == 1)
    started = time.monotonic()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert time.monotonic() - started < 1
    assert not (await call(context, tools, "tests_echo", text="still there")).failed


async def test_labels_are_the_definition_s_and_never_the_server_s_hints(toolbox: Toolbox, calls: Path) -> None:
    server = program(calls, labels={"echo": READS})
    tools = await toolbox.open([], [server], tenant_id=new_id())
    labels = {spec.name: tool.labels for spec in tools.specs() if (tool := tools.get(spec.name))}
    assert labels["tests_echo"] == READS
    assert labels["tests_fail"] == UNLABELLED
    assert labels["tests_die"] == UNLABELLED
    everything = program(calls, labels={"*": READS, "die": Labels(effect=Effect.WRITE)})
    tools = await toolbox.open([], [everything], tenant_id=new_id())
    labels = {spec.name: tool.labels for spec in tools.specs() if (tool := tools.get(spec.name))}
    assert labels["tests_fail"] == READS
    assert labels["tests_die"].effect is Effect.WRITE


async def test_names_are_made_fit_for_models(context: ToolContext, toolbox: Toolbox, calls: Path) -> None:
    tools = await toolbox.open([], [program(calls)], tenant_id=context.tenant_id)
    assert (await call(context, tools, "tests_odd_name___v2_")).content == "odd"
    assert (await call(context, tools, "tests_odd_name___v2_2")).content == "even"


def test_names_are_unique_short_and_the_same_every_time() -> None:
    theirs = ["a" * 100, "a" * 99, "b c", "b_c", "b-c", "ü", ""]
    names = tool_names("s", theirs)
    assert sorted(names.values()) == sorted(theirs)
    assert all(len(name) <= 64 and name.isascii() for name in names)
    assert tool_names("s", reversed(theirs)) == names


async def test_a_program_gets_a_clean_environment(
    context: ToolContext, toolbox: Toolbox, calls: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("DATABASE_URL", "postgresql://secret")
    server = program(calls, env={"TOKEN": "${secret:github}", "PLAIN": "yes"})
    tools = await toolbox.open([], [server], tenant_id=context.tenant_id, secrets={"github": "ghp_123"})
    shown = json.loads((await call(context, tools, "tests_environment")).content)
    folder = settings.data / "mcp" / str(context.tenant_id) / "tests"
    assert shown["cwd"] == shown["env"]["HOME"] == str(folder)
    assert (shown["env"]["TOKEN"], shown["env"]["PLAIN"]) == ("ghp_123", "yes")
    assert set(shown["env"]) <= {
        "CALLS",
        "HOME",
        "LC_CTYPE",
        "LOGNAME",
        "PATH",
        "PLAIN",
        "SHELL",
        "TERM",
        "TOKEN",
        "USER",
    }


async def test_headers_are_sent_with_secrets_in_place(context: ToolContext, toolbox: Toolbox, site: Site) -> None:
    server = McpServer(name="tests", url=site.url, headers={"Authorization": "Bearer ${secret:token}"})
    tools = await toolbox.open([], [server], tenant_id=context.tenant_id, secrets={"token": "abc"})
    headers = json.loads((await call(context, tools, "tests_headers")).content)
    assert headers["authorization"] == "Bearer abc"
    without = await toolbox.open([], [server], tenant_id=context.tenant_id)
    assert without.specs() == []
    assert "no secret called token" in without.problems[0]


async def test_one_connection_for_a_tenant_and_server(context: ToolContext, toolbox: Toolbox, calls: Path) -> None:
    async def pid(tenant: Any, server: McpServer) -> int:
        tools = await toolbox.open([], [server], tenant_id=tenant)
        return int(json.loads((await call(context, tools, "tests_environment")).content)["pid"])

    tenant = new_id()
    first = await pid(tenant, program(calls))
    assert await pid(tenant, program(calls)) == first
    assert await pid(tenant, program(calls, labels={"*": READS})) == first
    together = await asyncio.gather(*(pid(tenant, program(calls)) for _ in range(10)))
    assert set(together) == {first}
    assert await pid(new_id(), program(calls)) != first, "tenants must not share a program"
    assert await pid(tenant, program(calls, env={"OTHER": "1"})) != first


async def test_a_program_that_died_between_calls_is_started_again(
    context: ToolContext, toolbox: Toolbox, calls: Path
) -> None:
    tools = await toolbox.open([], [program(calls)], tenant_id=context.tenant_id)
    first = int(json.loads((await call(context, tools, "tests_environment")).content)["pid"])
    os.kill(first, signal.SIGKILL)
    await _until(lambda: _all_gone(toolbox))
    outcome = await call(context, tools, "tests_echo", text="again")
    assert outcome == ToolOutcome("again"), "an unlabelled call that was never sent may be made"
    assert noted(calls)["echo"] == 1


async def test_a_server_that_dies_during_a_call_is_not_called_again(
    context: ToolContext, toolbox: Toolbox, server: McpServer, calls: Path
) -> None:
    tools = await toolbox.open([], [server], tenant_id=context.tenant_id)
    outcome = await call(context, tools, "tests_die", text="curiosity")
    assert outcome.failed
    assert outcome.uncertain
    assert "not known whether it happened" in outcome.content
    assert noted(calls)["die"] == 1


async def test_a_repeatable_call_is_made_twice_at_most(context: ToolContext, toolbox: Toolbox, calls: Path) -> None:
    server = program(calls, labels={"*": READS})
    tools = await toolbox.open([], [server], tenant_id=context.tenant_id)
    outcome = await call(context, tools, "tests_die", text="boredom")
    assert outcome.failed
    assert not outcome.uncertain
    assert noted(calls)["die"] == 2


async def test_an_http_server_that_was_restarted(
    context: ToolContext, toolbox: Toolbox, site: Site, calls: Path
) -> None:
    tools = await toolbox.open([], [McpServer(name="tests", url=site.url)], tenant_id=context.tenant_id)
    assert not (await call(context, tools, "tests_echo", text="before")).failed
    site.kill()
    down = await call(context, tools, "tests_echo", text="while it is down")
    assert down.failed
    site.start()
    assert await call(context, tools, "tests_echo", text="after") == ToolOutcome("after")
    assert noted(calls)["echo"] == 2


async def test_a_program_that_cannot_start_is_a_problem_with_its_last_words(toolbox: Toolbox, calls: Path) -> None:
    broken = program(calls, "broken", env={"BROKEN": "1"})
    missing = McpServer(name="missing", command="/no/such/program")
    tools = await toolbox.open(["clock"], [broken, program(calls), missing], tenant_id=new_id())
    assert tools.get("clock")
    assert tools.get("tests_echo"), "the others work"
    first, second = (problem for problem in tools.problems if "is not available" in problem)
    assert "broken" in first
    assert "no licence found" in first
    assert "missing" in second
    assert "/no/such/program" in second


async def test_a_program_that_says_nothing_is_given_up_and_ended(
    settings: Settings, calls: Path, pools: list[McpPool]
) -> None:
    pool = McpPool(settings, connect_seconds=1.0)
    pools.append(pool)
    silent = program(calls, env={"SILENT": "1"})
    connection = await pool.connection(new_id(), silent)
    started = time.monotonic()
    with pytest.raises(McpUnavailable, match="no answer within 1 seconds"):
        await connection.tools()
    assert time.monotonic() - started < 10
    await _until(lambda: not _children())
    started = time.monotonic()
    with pytest.raises(McpUnavailable, match="no answer within 1 seconds"):
        await connection.tools()
    assert time.monotonic() - started < 0.5, "the next run waits for it again"


async def test_a_server_that_was_away_is_asked_again_after_a_while(
    settings: Settings, site: Site, pools: list[McpPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "RETRY_SECONDS", 0.1)
    pool = McpPool(settings)
    pools.append(pool)
    connection = await pool.connection(new_id(), McpServer(name="tests", url=site.url))
    site.kill()
    with pytest.raises(McpUnavailable):
        await connection.tools()
    site.start()
    await asyncio.sleep(0.1)
    assert "echo" in [tool.name for tool in await connection.tools()]


async def test_closing_ends_the_programs(context: ToolContext, settings: Settings, calls: Path) -> None:
    box = Toolbox(settings, Plugins())
    tools = await box.open([], [program(calls)], tenant_id=context.tenant_id)
    pid = int(json.loads((await call(context, tools, "tests_environment")).content)["pid"])
    await box.close()
    await _until(lambda: not psutil.pid_exists(pid))


async def test_a_connection_nobody_uses_is_closed_and_comes_back(
    settings: Settings, calls: Path, pools: list[McpPool]
) -> None:
    pool = McpPool(settings, idle_seconds=0.5)
    pools.append(pool)
    connection = await pool.connection(new_id(), program(calls))
    first = await connection.call("environment", {}, key="k", repeatable=False)
    pid = int(json.loads(first.content)["pid"])
    await _until(lambda: not psutil.pid_exists(pid))
    again = await connection.call("environment", {}, key="k", repeatable=False)
    assert int(json.loads(again.content)["pid"]) != pid


async def test_a_connection_in_use_is_not_idle(settings: Settings, calls: Path, pools: list[McpPool]) -> None:
    pool = McpPool(settings, idle_seconds=0.2)
    pools.append(pool)
    connection = await pool.connection(new_id(), program(calls))
    assert (await connection.call("wait", {"number": 1.5}, key="k", repeatable=False)).content == "waited"
    assert noted(calls)["wait"] == 1


async def test_room_is_made_for_new_connections(
    settings: Settings, calls: Path, pools: list[McpPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "MOST_OF_A_TENANT", 2)
    pool = McpPool(settings)
    pools.append(pool)
    tenant = new_id()
    oldest = await pool.connection(tenant, program(calls, "a"))
    busy = await pool.connection(tenant, program(calls, "b"))
    pid = int(json.loads((await oldest.call("environment", {}, key="k", repeatable=False)).content)["pid"])
    waiting = asyncio.create_task(busy.call("wait", {"number": 30}, key="k", repeatable=False))
    await _until(lambda: noted(calls)["wait"] == 1)
    third = await pool.connection(tenant, program(calls, "c"))
    await _until(lambda: not psutil.pid_exists(pid))
    also_waiting = asyncio.create_task(third.call("wait", {"number": 30}, key="k", repeatable=False))
    await _until(lambda: noted(calls)["wait"] == 2)
    with pytest.raises(McpUnavailable, match="Too many"):
        await pool.connection(tenant, program(calls, "d"))
    for task in (waiting, also_waiting):
        task.cancel()


async def test_programs_can_be_switched_off(settings: Settings, calls: Path) -> None:
    off = settings.model_copy(update={"mcp_stdio": False})
    box = Toolbox(off, Plugins())
    with pytest.raises(BadInput) as refused:
        box.check([], [program(calls)])
    assert refused.value.field == "mcp[0].command"
    tools = await box.open([], [program(calls)], tenant_id=new_id())
    assert tools.specs() == []
    assert "switched off" in tools.problems[0]
    assert not _children()


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "10.0.0.1", "::1"])
async def test_http_servers_pass_the_address_check(tmp_path: Path, address: str) -> None:
    names = Names(inside_example=[[address]])
    box = Toolbox(Settings(data=tmp_path), Plugins(), resolve=names)
    tools = await box.open([], [McpServer(name="x", url="https://inside.example/mcp")], tenant_id=new_id())
    assert tools.specs() == []
    assert "cannot be reached from here" in tools.problems[0]
    assert names.asked
    await box.close()


GOOD_URL = "https://tools.example/mcp"


@pytest.mark.parametrize(
    "entry, field",
    [
        ({}, "mcp[1]"),
        ({"name": "x"}, "mcp[1]"),
        ({"name": "x", "url": GOOD_URL, "command": "ls"}, "mcp[1]"),
        ({"name": "a b", "url": GOOD_URL}, "mcp[1].name"),
        ({"name": "x" * 33, "url": GOOD_URL}, "mcp[1].name"),
        ({"name": "first", "url": GOOD_URL}, "mcp[1].name"),
        ({"name": 5, "url": GOOD_URL}, "mcp[1].name"),
        ({"name": "x", "url": "ftp://tools.example/"}, "mcp[1].url"),
        ({"name": "x", "url": "http://tools.example/"}, "mcp[1].url"),
        ({"name": "x", "url": "https://"}, "mcp[1].url"),
        ({"name": "x", "url": "https://u:p@tools.example/"}, "mcp[1].url"),
        ({"name": "x", "url": "https://127.0.0.1/"}, "mcp[1].url"),
        ({"name": "x", "url": "https://[::ffff:10.0.0.1]/"}, "mcp[1].url"),
        ({"name": "x", "url": GOOD_URL, "headers": {"Host": "y"}}, "mcp[1].headers.Host"),
        ({"name": "x", "url": GOOD_URL, "headers": {"a b": "y"}}, "mcp[1].headers.a b"),
        ({"name": "x", "url": GOOD_URL, "headers": {"X": "a\r\nY: b"}}, "mcp[1].headers.X"),
        ({"name": "x", "url": GOOD_URL, "headers": {"X": 5}}, "mcp[1].headers[...]"),
        ({"name": "x", "url": GOOD_URL, "labels": {"t": {"effect": "magic"}}}, "mcp[1].labels[...].effect"),
        ({"name": "x", "url": GOOD_URL, "labels": {"t": {"waits": True}}}, "mcp[1].labels.t"),
        ({"name": "x", "url": GOOD_URL, "labels": {"t": {"unknown": 1}}}, "mcp[1].labels[...]"),
        ({"name": "x", "url": GOOD_URL, "more": 1}, "mcp[1]"),
        ({"name": "x", "command": ""}, "mcp[1].command"),
        ({"name": "x", "command": "a\0b"}, "mcp[1].command"),
        ({"name": "x", "command": "ls", "args": ["a\0b"]}, "mcp[1].args"),
        ({"name": "x", "command": "ls", "args": "-l"}, "mcp[1].args"),
        ({"name": "x", "command": "ls", "env": {"A=B": "c"}}, "mcp[1].env.A=B"),
        ({"name": "x", "command": "ls", "env": {"A": "x" * 5000}}, "mcp[1].env"),
    ],
)
def test_bad_servers_are_named(tmp_path: Path, entry: dict[str, Any], field: str) -> None:
    box = Toolbox(Settings(data=tmp_path, mcp_stdio=True), Plugins())
    with pytest.raises(BadInput) as refused:
        box.check([], [{"name": "first", "url": GOOD_URL}, entry])
    assert refused.value.field == field


def test_good_servers_come_back_as_they_are_stored(tmp_path: Path) -> None:
    box = Toolbox(Settings(data=tmp_path), Plugins())
    given = {"name": "x", "url": GOOD_URL, "labels": {"t": {"effect": "read", "output": "trusted"}}}
    (server,) = box.check(["clock"], [given])
    assert server.labels == {"t": Labels(effect=Effect.READ, output=Trust.TRUSTED)}
    assert box.check([], [server]) == [server]
    with pytest.raises(BadInput):
        box.check([], [{"name": f"s{number}", "url": GOOD_URL} for number in range(11)])


def test_secrets_are_put_in_their_places() -> None:
    server = McpServer(name="x", command="y", env={"A": "${secret:one}-${secret:two.b}", "B": "${other}"})
    assert with_secrets(server, {"one": "1", "two.b": "2"}).env == {"A": "1-2", "B": "${other}"}
    with pytest.raises(BadInput):
        with_secrets(server, {"one": "1"})


def _all_gone(toolbox: Toolbox) -> bool:
    """Whether the server has noticed that its programs have died: a moment after they did."""
    return all(connection._live is None or connection._live.gone for connection in toolbox._pool._connections.values())


def _children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if BY_HAND.name in " ".join(child.cmdline())]


async def _until(condition: Any) -> None:
    async with asyncio.timeout(15):
        while not condition():  # noqa: ASYNC110  # what is waited for happens in another process
            await asyncio.sleep(0.01)
