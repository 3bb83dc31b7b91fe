"""The shipped suite for tools, on every built-in tool and on functions; and proof that it catches dishonest ones."""

from __future__ import annotations

import asyncio
import inspect
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from retinue.kernel import Settings, new_id
from retinue.tools import (
    Effect,
    Labels,
    McpServer,
    Plugins,
    Tool,
    Toolbox,
    ToolContext,
    ToolOutcome,
    Trust,
    function_tool,
    tool,
)
from retinue.tools.ask_user import ask_user_tool
from retinue.tools.clock import clock_tool
from retinue.tools.conformance import ToolConformance
from retinue.tools.fetch import HttpFetch, fetch_tool
from retinue.tools.files import file_tools
from tests.support.web import Page, WebServer

PROGRAM = Path(__file__).parents[1] / "tools" / "mcp_program.py"
BUILT_IN = {one.name: one for one in file_tools()}


class FileConformance(ToolConformance):
    """A workspace with a few files in it."""

    def prepare(self, workspace: Path) -> None:
        (workspace / "docs").mkdir()
        (workspace / "docs" / "a.md").write_text("# Title\nthe first line\n")
        (workspace / "b.txt").write_text("grüße\n")


class TestFilesList(FileConformance):
    arguments: ClassVar[dict[str, Any]] = {"path": "docs", "recursive": True}
    refused: ClassVar[list[dict[str, Any]]] = [{"path": ".."}, {"path": "/etc"}, {"unknown": 1}, {"path": "b.txt"}]

    def make_tool(self) -> Tool:
        return BUILT_IN["files_list"]


class TestFilesRead(FileConformance):
    arguments: ClassVar[dict[str, Any]] = {"path": "docs/a.md", "offset": 1, "limit": 5}
    refused: ClassVar[list[dict[str, Any]]] = [{"path": "../x"}, {"path": "docs"}, {"path": "b.txt", "offset": 0}]

    def make_tool(self) -> Tool:
        return BUILT_IN["files_read"]


class TestFilesSearch(FileConformance):
    arguments: ClassVar[dict[str, Any]] = {"query": "first", "regex": False, "ignore_case": True, "path": "."}
    refused: ClassVar[list[dict[str, Any]]] = [{"query": ""}, {"query": "(", "regex": True}]

    def make_tool(self) -> Tool:
        return BUILT_IN["files_search"]


class TestFilesWrite(FileConformance):
    arguments: ClassVar[dict[str, Any]] = {"path": "out/new.md", "content": "hello"}
    refused: ClassVar[list[dict[str, Any]]] = [
        {"path": "docs", "content": "x"},
        {"path": "a/../b", "content": "x"},
        {"path": "x", "content": "a\0b"},
        {"path": "b.txt/inside", "content": "x"},
    ]

    def make_tool(self) -> Tool:
        return BUILT_IN["files_write"]


class TestClock(ToolConformance):
    arguments: ClassVar[dict[str, Any]] = {"zone": "Europe/Berlin"}
    refused: ClassVar[list[dict[str, Any]]] = [{"zone": "Nowhere"}, {"zone": "../etc/passwd"}, {"zone": "Europe"}]

    def make_tool(self) -> Tool:
        return clock_tool()


class TestAskUser(ToolConformance):
    arguments: ClassVar[dict[str, Any]] = {"question": "Which one?", "options": ["a", "b"]}
    refused: ClassVar[list[dict[str, Any]]] = [{"question": ""}, {"question": "x", "options": [1]}]

    def make_tool(self) -> Tool:
        return ask_user_tool()


class TestHttpFetch(ToolConformance):
    refused: ClassVar[list[dict[str, Any]]] = [{"url": "ftp://example.org/"}, {"url": "not a url"}, {"url": ""}]

    @pytest.fixture(autouse=True)
    def _site(self) -> Any:
        with WebServer({"/": Page(b"<h1>Hello</h1>", "text/html")}) as site:
            self.arguments = {"url": site.url("/")}  # type: ignore[misc]  # the port is known only now
            self._fetch = HttpFetch(allow_private=True, tls=site.client_tls, seconds=5.0)
            yield

    def make_tool(self) -> Tool:
        return fetch_tool(self._fetch)


@tool(effect=Effect.READ, output=Trust.TRUSTED, idempotent=True)
def repeat(context: ToolContext, text: str, times: int = 2) -> list[str]:
    """Repeat a text.

    Args:
        text: What to repeat.
        times: How often.
    """
    assert context.workspace.is_dir()
    return [text] * min(times, 10)


class TestFunction(ToolConformance):
    arguments: ClassVar[dict[str, Any]] = {"text": "ho", "times": 3}

    def make_tool(self) -> Tool:
        return function_tool(repeat)


class TestMcpTool(ToolConformance):
    arguments: ClassVar[dict[str, Any]] = {"text": "hello"}

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Tool]:
        with tempfile.TemporaryDirectory() as folder:
            toolbox = Toolbox(Settings(data=Path(folder), mcp_stdio=True), Plugins())
            server = McpServer(
                name="by_hand",
                command=sys.executable,
                args=["-I", str(PROGRAM)],
                labels={"echo": Labels(effect=Effect.READ, output=Trust.UNTRUSTED)},
            )
            try:
                tool = (await toolbox.open([], [server], tenant_id=new_id())).get("by_hand_echo")
                assert tool is not None
                yield tool
            finally:
                await toolbox.close()


# Dishonest tools, and the tests of the suite that catch them.

Handler = Callable[[ToolContext, dict[str, Any]], Any]


async def _well_behaved(_context: ToolContext, arguments: dict[str, Any]) -> str:
    return str(arguments.get("text"))


async def _changes_the_workspace(context: ToolContext, arguments: dict[str, Any]) -> str:
    (context.workspace / "trace").write_text(str(arguments["text"]))
    return "ok"


async def _adds_each_time(context: ToolContext, _arguments: dict[str, Any]) -> str:
    (context.workspace / f"trace-{time.monotonic_ns()}").touch()
    return "ok"


async def _follows_links(context: ToolContext, arguments: dict[str, Any]) -> str:
    if "\0" not in arguments["text"] and "\ud800" not in arguments["text"] and len(arguments["text"]) < 100:
        (context.workspace / arguments["text"]).write_text("gone")
    return "ok"


async def _blocks(_context: ToolContext, _arguments: dict[str, Any]) -> str:
    time.sleep(1.2)  # noqa: ASYNC251  # blocking is what this one does wrong
    return "ok"


async def _always_fails(_context: ToolContext, _arguments: dict[str, Any]) -> ToolOutcome:
    return ToolOutcome("no", failed=True)


def _tool(handler: Handler, *, effect: Effect = Effect.WRITE, idempotent: bool = False, **changes: Any) -> Tool:
    made = Tool(
        name="suspect",
        description="Does something.",
        parameters={
            "type": "object",
            "properties": {"text": {"type": "string"}},
            "required": ["text"],
            "additionalProperties": False,
        },
        labels=Labels(effect=effect, output=Trust.TRUSTED, idempotent=idempotent),
        handler=handler,
    )
    return replace(made, **changes)


class _BlindTool(Tool):
    """A tool whose guard does not look at the arguments: what a broken guard would be like."""

    async def run(self, context: ToolContext, arguments: dict[str, Any]) -> ToolOutcome:
        return ToolOutcome(str(await self.handler(context, arguments)))


def _blind(handler: Handler) -> Tool:
    honest = _tool(handler)
    return _BlindTool(
        name=honest.name,
        description=honest.description,
        parameters=honest.parameters,
        labels=honest.labels,
        handler=handler,
    )


async def _cancel_proof(_context: ToolContext, _arguments: dict[str, Any]) -> str:
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        await asyncio.sleep(3600)
    return "never"


@pytest.mark.parametrize(
    "test, suspect",
    [
        ("test_a_model_can_be_told_about_it", _tool(_well_behaved, description=" ")),
        ("test_the_example_call_succeeds", _tool(_always_fails)),
        ("test_arguments_of_a_wrong_type_are_refused", _blind(_well_behaved)),
        ("test_missing_and_refused_arguments_fail", _blind(_well_behaved)),
        ("test_nasty_texts_never_raise", _blind(_well_behaved)),
        ("test_nothing_outside_the_workspace_changes", _tool(_follows_links)),
        ("test_the_effect_is_labelled_honestly", _tool(_changes_the_workspace, effect=Effect.READ)),
        ("test_the_effect_is_labelled_honestly", _tool(_changes_the_workspace, effect=Effect.FETCH)),
        ("test_idempotent_means_twice_is_once", _tool(_adds_each_time, idempotent=True)),
        ("test_the_time_limit_is_kept", _blind(_cancel_proof)),
        ("test_the_server_is_not_held_up", _tool(_blocks)),
        ("test_cancelling_ends_the_call", _blind(_cancel_proof)),
    ],
)
def test_the_suite_catches(test: str, suspect: Tool, tmp_path: Path) -> None:
    class Suite(ToolConformance):
        arguments: ClassVar[dict[str, Any]] = {"text": "hello"}
        patience: ClassVar[float] = 1.0

        def make_tool(self) -> Tool:
            return suspect

    suite = Suite()
    method = getattr(suite, test)
    arguments = [_context(tmp_path)] if "context" in inspect.signature(method).parameters else []
    with pytest.raises((AssertionError, UnicodeEncodeError)):
        method(*arguments)


def _context(folder: Path) -> ToolContext:
    fixture = ToolConformance.context
    made: ToolContext = inspect.unwrap(getattr(fixture, "__wrapped__", fixture))(ToolConformance(), folder)
    return made
