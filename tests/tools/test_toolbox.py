"""The toolbox: what there is, what may be chosen, what is opened."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from retinue.kernel import BadInput, Settings, new_id
from retinue.tools import Effect, Plugins, Toolbox, ToolContext, function_tool, tool

FILES = ["files_list", "files_read", "files_search", "files_write"]


@tool(effect=Effect.READ)
def shout(text: str) -> str:
    """Say it loudly."""
    return text.upper()


@pytest.fixture
def toolbox(settings: Settings) -> Toolbox:
    """A toolbox with one plugin."""
    return Toolbox(settings, Plugins({"shout": function_tool(shout)}))


def test_names(toolbox: Toolbox) -> None:
    assert toolbox.names() == ["ask_user", "clock", "files", "http_fetch", "shout"]


async def test_open_gives_the_tools_in_order_and_once(toolbox: Toolbox) -> None:
    tools = await toolbox.open(["shout", "files", "clock", "files"], tenant_id=new_id())
    assert [spec.name for spec in tools.specs()] == ["shout", *FILES, "clock"]
    assert tools.problems == ()
    assert tools.get("files") is None, "the name of a group is not that of a tool"
    assert tools.get("http_fetch") is None, "what was not selected cannot be called"
    shouted = tools.get("shout")
    assert shouted is not None
    assert shouted.description == "Say it loudly."


async def test_an_agent_may_have_no_tools(toolbox: Toolbox) -> None:
    assert (await toolbox.open([], tenant_id=new_id())).specs() == []


async def test_a_plugin_that_is_gone_is_a_problem_and_not_the_end(toolbox: Toolbox, context: ToolContext) -> None:
    tools = await toolbox.open(["clock", "gone"], tenant_id=new_id())
    assert [spec.name for spec in tools.specs()] == ["clock"]
    assert tools.problems == ("The tool gone is not installed any more.",)


async def test_opening_changes_nothing_for_others(toolbox: Toolbox) -> None:
    tools = await toolbox.open(["files"], tenant_id=new_id())
    tools.specs().clear()
    assert len((await toolbox.open(["files"], tenant_id=new_id())).specs()) == 4


@pytest.mark.parametrize(
    "selection, field",
    [
        (["files", "nope"], "tools[1]"),
        (["files_read"], "tools[0]"),
        ([""], "tools[0]"),
        (["Clock"], "tools[0]"),
        (["clock"] * 101, "tools"),
    ],
)
def test_a_bad_selection_is_named(toolbox: Toolbox, selection: list[str], field: str) -> None:
    with pytest.raises(BadInput) as refused:
        toolbox.check(selection)
    assert refused.value.field == field


def test_a_good_selection(toolbox: Toolbox) -> None:
    assert toolbox.check(["files", "shout", "ask_user"]) == []


def test_what_is_heavy_is_imported_on_first_use() -> None:
    """A server whose agents neither fetch nor use MCP should not pay for it at its start."""
    program = (
        "import sys, retinue.tools as tools, retinue.kernel as kernel\n"
        "tools.Toolbox(kernel.Settings(), tools.Plugins())\n"
        "print([name for name in ('mcp', 'inscriptis', 'lxml', 'fastmcp', 'pydantic_ai') if name in sys.modules])\n"
    )
    done: Any = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
