"""What every tool must keep, as a pytest suite that authors of tools run on theirs.

    class TestMyTool(ToolConformance):
        arguments = {"city": "Ulm"}

        def make_tool(self) -> Tool:
            return function_tool(weather)

Tools that need something around them (a server, a connection) override :meth:`ToolConformance.opened`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from uuid import UUID

import pytest
from jsonschema import Draft202012Validator

from retinue.kernel import Settings, SystemClock, new_id
from retinue.tools.calls import LONGEST_RESULT, NAME, Tool, ToolContext, ToolOutcome
from retinue.tools.labels import Effect

T = TypeVar("T")

_TENANT = UUID(int=1)
_STALL = 1.0
"""Seconds a tool may keep the server's event loop from everything else."""

_NASTY = (
    "\0",
    "a\0b",
    "\ud800",
    "\N{RIGHT-TO-LEFT OVERRIDE}txt.exe",
    "e\N{COMBINING ACUTE ACCENT}" * 500,
    "\N{FACE WITH TEARS OF JOY}" * 50,
    "../" * 20 + "etc/passwd",
    "x" * 100_000,
    "",
    "\n\r\t\x1b[2J",
    "${jndi:x}{{7*7}}%s%n`id`$(id)",
)


class ToolConformance:
    """The suite. Subclasses give a tool and the arguments of a call that succeeds.

    Attributes:
        arguments: a call that succeeds in a workspace as :meth:`prepare` leaves it.
        refused: further arguments that must be refused without doing anything.
        patience: seconds a call may take to end after its time is up.
    """

    arguments: ClassVar[dict[str, Any]] = {}
    refused: ClassVar[list[dict[str, Any]]] = []
    patience: ClassVar[float] = 5.0

    def make_tool(self) -> Tool:
        """Return the tool."""
        raise NotImplementedError("return the tool here, or override `opened`")

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Tool]:
        """Open the tool for one test."""
        yield self.make_tool()

    def prepare(self, workspace: Path) -> None:
        """Put into the workspace what the call needs."""

    @pytest.fixture
    def context(self, tmp_path: Path) -> ToolContext:
        """Return the context of a call, in a workspace of its own."""
        workspace = tmp_path / "workspace"
        workspace.mkdir()
        self.prepare(workspace)
        return ToolContext(
            tenant_id=_TENANT,
            user_id=new_id(),
            session_id=new_id(),
            run_id=new_id(),
            call_id="call_1",
            idempotency_key="run/1/call_1",
            workspace=workspace,
            settings=Settings(data=tmp_path),
            clock=SystemClock(),
        )

    def with_tool(self, work: Callable[[Tool], Awaitable[T]]) -> T:
        """Open the tool, do something with it, close it, in an event loop of its own."""

        async def opened() -> T:
            async with self.opened() as tool:
                return await work(tool)

        return asyncio.run(opened())

    async def run(self, tool: Tool, context: ToolContext, arguments: dict[str, Any]) -> ToolOutcome:
        """Call the tool and check what holds for every outcome."""
        outcome = await tool.run(context, arguments)
        assert isinstance(outcome, ToolOutcome)
        assert len(outcome.content) <= LONGEST_RESULT + 200, "a result is cut"
        assert "\0" not in outcome.content
        outcome.content.encode()
        return outcome

    def test_a_model_can_be_told_about_it(self) -> None:
        async def check(tool: Tool) -> None:
            assert NAME.fullmatch(tool.name)
            assert tool.description.strip(), "a tool needs a description: it is all the model knows"
            assert tool.parameters.get("type") == "object"
            Draft202012Validator.check_schema(tool.parameters)
            json.dumps(tool.parameters, allow_nan=False)
            assert tool.timeout > 0

        self.with_tool(check)

    def test_the_example_call_succeeds(self, context: ToolContext) -> None:
        async def check(tool: Tool) -> None:
            if not tool.labels.waits:
                outcome = await self.run(tool, context, self.arguments)
                assert not outcome.failed, outcome.content

        self.with_tool(check)

    def test_arguments_of_a_wrong_type_are_refused(self, context: ToolContext) -> None:
        async def check(tool: Tool) -> None:
            before = snapshot(context.workspace)
            for name, schema in tool.parameters.get("properties", {}).items():
                for wrong in _wrong_values(schema):
                    outcome = await self.run(tool, context, {**self.arguments, name: wrong})
                    assert outcome.failed, f"{name}={wrong!r} was taken"
                    assert name in outcome.content, f"the refusal does not name the field {name}"
            assert snapshot(context.workspace) == before, "a refused call changed the workspace"

        self.with_tool(check)

    def test_missing_and_refused_arguments_fail(self, context: ToolContext) -> None:
        async def check(tool: Tool) -> None:
            before = snapshot(context.workspace)
            for name in tool.parameters.get("required", []):
                fewer = {key: value for key, value in self.arguments.items() if key != name}
                outcome = await self.run(tool, context, fewer)
                assert outcome.failed, f"a call without {name} was taken"
                assert name in outcome.content, f"the refusal does not name the field {name}"
            for arguments in self.refused:
                assert (await self.run(tool, context, arguments)).failed, f"{arguments!r} was taken"
            assert snapshot(context.workspace) == before, "a refused call changed the workspace"

        self.with_tool(check)

    def test_nasty_texts_never_raise(self, context: ToolContext) -> None:
        async def check(tool: Tool) -> None:
            for name, schema in tool.parameters.get("properties", {}).items():
                if schema.get("type") == "string":
                    for text in _NASTY:
                        await self.run(replace(tool, timeout=5.0), context, {**self.arguments, name: text})

        self.with_tool(check)

    def test_nothing_outside_the_workspace_changes(self, context: ToolContext) -> None:
        async def check(tool: Tool) -> None:
            outside = context.workspace.parent / "outside.txt"
            outside.write_text("untouched")
            (context.workspace / "link").symlink_to(context.workspace.parent)
            for name, schema in tool.parameters.get("properties", {}).items():
                if schema.get("type") == "string":
                    for path in ("../outside.txt", str(outside), "link/outside.txt", "link/new.txt"):
                        await self.run(replace(tool, timeout=5.0), context, {**self.arguments, name: path})
            assert outside.read_text() == "untouched"
            assert not (outside.parent / "new.txt").exists()

        self.with_tool(check)

    def test_the_effect_is_labelled_honestly(self, context: ToolContext) -> None:
        async def check(tool: Tool) -> None:
            before = snapshot(context.workspace)
            await self.run(tool, context, self.arguments)
            if tool.labels.effect in (Effect.READ, Effect.FETCH):
                assert snapshot(context.workspace) == before, f"a {tool.labels.effect} tool changed the workspace"

        self.with_tool(check)

    def test_idempotent_means_twice_is_once(self, context: ToolContext) -> None:
        async def check(tool: Tool) -> None:
            if not tool.labels.idempotent or tool.labels.waits:
                return
            await self.run(tool, context, self.arguments)
            once = snapshot(context.workspace)
            assert not (await self.run(tool, context, self.arguments)).failed
            assert snapshot(context.workspace) == once, "the second call with the same key did something more"

        self.with_tool(check)

    def test_the_time_limit_is_kept(self, context: ToolContext) -> None:
        async def check(tool: Tool) -> None:
            call = asyncio.create_task(self.run(replace(tool, timeout=0.001), context, self.arguments))
            await asyncio.wait({call}, timeout=self.patience)
            assert _ended(call), "the call goes on after its time is up"

        self.with_tool(check)

    def test_the_server_is_not_held_up(self, context: ToolContext) -> None:
        async def check(tool: Tool) -> None:
            ticking = asyncio.create_task(_longest_stall())
            await asyncio.sleep(0)
            await self.run(tool, context, self.arguments)
            ticking.cancel()
            assert await ticking < _STALL, "the tool blocks the event loop; do the work in a thread"

        self.with_tool(check)

    def test_cancelling_ends_the_call(self, context: ToolContext) -> None:
        async def check(tool: Tool) -> None:
            call = asyncio.create_task(tool.run(context, self.arguments))
            await asyncio.sleep(0)
            call.cancel()
            await asyncio.wait({call}, timeout=self.patience)
            assert _ended(call), "the call goes on after it was cancelled"

        self.with_tool(check)


def _ended(call: asyncio.Task[ToolOutcome]) -> bool:
    """Tell whether a call has ended; one that has not is cancelled, so that the test ends too."""
    if not call.done():
        call.cancel()
    elif not call.cancelled():
        call.result()
    return call.done()


async def _longest_stall() -> float:
    """Measure the longest time in which the event loop did nothing else, until cancelled."""
    loop = asyncio.get_running_loop()
    longest, last = 0.0, loop.time()
    try:
        while True:
            await asyncio.sleep(0.01)
            now = loop.time()
            longest, last = max(longest, now - last), now
    except asyncio.CancelledError:
        return max(longest, loop.time() - last)


def snapshot(folder: Path) -> dict[str, str]:
    """Describe everything in a folder: the kind of each entry and the hash of its content."""
    return dict(_described(folder))


def _described(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            yield name, f"link {path.readlink()}"
        elif path.is_file():
            yield name, f"file {hashlib.sha256(path.read_bytes()).hexdigest()} {path.stat().st_mode}"
        else:
            yield name, "folder"


def _wrong_values(schema: dict[str, Any]) -> list[Any]:
    """Values that a property of a plain type cannot take."""
    wrong: dict[str, list[Any]] = {
        "string": [17, ["a"], {"a": 1}, True],
        "integer": ["x", 1.5, [1]],
        "number": ["x", [1]],
        "boolean": ["yes", 2],
        "array": ["x", 1],
        "object": ["x", 1],
    }
    kind = schema.get("type")
    return wrong.get(kind, []) if isinstance(kind, str) else []
