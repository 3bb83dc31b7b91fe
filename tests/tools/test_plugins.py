"""Plugins: the installable example, and broken ones that do not stop the server."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from retinue.kernel import Settings, new_id
from retinue.tools import UNLABELLED, Effect, Toolbox, ToolContext, Workspace, load_plugins
from retinue.tools.plugins import GROUP

EXAMPLE = Path(__file__).parents[2] / "examples" / "plugins" / "word-count"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, installed by pip into a folder, with its metadata."""
    target = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, *offline, "--target", str(target), str(EXAMPLE)], check=True)
    return target


async def test_the_example_is_found_and_works(
    installed: Path, context: ToolContext, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(installed))
    toolbox = Toolbox(settings)
    assert {"count_words", "count_file"} <= set(toolbox.names())
    assert toolbox.plugins.broken == {}
    tools = await toolbox.open(["count_file", "count_words"], tenant_id=new_id())
    assert [spec.name for spec in tools.specs()] == ["count_file", "count_words"]
    Workspace(context.workspace, 10_000).write("a.txt", b"one two\nthree\n")
    count_file, count_words = tools.get("count_file"), tools.get("count_words")
    assert count_file is not None
    assert count_words is not None
    assert count_file.labels.effect is Effect.READ
    assert (await count_file.run(context, {"path": "a.txt", "lines": True})).content == '{"words":3,"lines":2}'
    assert (await count_words.run(context, {"text": "a b"})).content == "2"
    assert (await count_file.run(context, {"path": "../secret"})).failed
    assert (await count_file.run(context, {})).content == "The arguments are not valid: 'path' is a required property"


SOURCE = '''
from collections.abc import Iterable
from retinue.tools import Effect, Labels, Tool, function_tool, tool

@tool(effect=Effect.READ)
def good(text: str) -> str:
    """Be good."""
    return text

def plain(text: str) -> str:
    """Be plain."""
    return text

@tool(name="renamed")
def original() -> str:
    """Have another name."""
    return ""

async def answer(context, arguments):
    return "made"

def made(name):
    return Tool(name=name, description="Made.", parameters={"type": "object"}, labels=Labels(), handler=answer)

whole = made("whole")

def one() -> Tool:
    return made("one")

def several() -> list[Tool]:
    return [made("first"), made("second"), good]

def lazily() -> Iterable[Tool]:
    yield made("lazy")

class Factory:
    def __call__(self):
        return made("from_class")

factory = Factory()

def not_tools() -> list[Tool]:
    return [3]

def raises() -> list[Tool]:
    raise RuntimeError("out of order")

def leaves() -> list[Tool]:
    raise SystemExit(1)

@tool(name="files_read")
def thief() -> str:
    """Pretend to be another."""
    return ""

@tool(name="two words")
def misnamed() -> str:
    """Have a bad name."""
    return ""

def undocumented(text: str) -> str:
    return text

number = 3
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module with all kinds of entries, importable."""
    name = f"plugins_{new_id().hex}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(SOURCE))
    (tmp_path / f"{name}_exits.py").write_text("raise SystemExit('bye')\n")
    (tmp_path / f"{name}_syntax.py").write_text("def (:\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


@pytest.mark.parametrize(
    "attribute, names",
    [
        ("good", ["good"]),
        ("plain", ["plain"]),
        ("original", ["renamed"]),
        ("whole", ["whole"]),
        ("one", ["one"]),
        ("several", ["first", "good", "second"]),
        ("lazily", ["lazy"]),
        ("factory", ["from_class"]),
        ("Factory", []),
    ],
)
def test_entries_that_load(module: str, attribute: str, names: list[str]) -> None:
    plugins = load_plugins([EntryPoint("entry", f"{module}:{attribute}", GROUP)])
    assert sorted(plugins.tools) == names
    assert bool(plugins.broken) is not bool(names)


def test_a_plain_function_is_unlabelled(module: str) -> None:
    plugins = load_plugins([EntryPoint("entry", f"{module}:plain", GROUP)])
    assert plugins.tools["plain"].labels == UNLABELLED


@pytest.mark.parametrize(
    "value, reason",
    [
        ("{}:not_tools", "TypeError"),
        ("{}:raises", "out of order"),
        ("{}:leaves", "SystemExit"),
        ("{}:thief", "files_read already"),
        ("{}:misnamed", "two words"),
        ("{}:undocumented", "docstring"),
        ("{}:number", "int"),
        ("{}:missing", "missing"),
        ("{}_exits:x", "bye"),
        ("{}_syntax:x", "SyntaxError"),
        ("no_such_module:x", "no_such_module"),
    ],
)
def test_broken_plugins_are_named_and_the_others_work(module: str, value: str, reason: str) -> None:
    entries = [
        EntryPoint("bad", value.format(module), GROUP),
        EntryPoint("fine", f"{module}:good", GROUP),
    ]
    plugins = load_plugins(entries, taken={"files_read"})
    assert list(plugins.tools) == ["good"]
    assert list(plugins.broken) == ["bad"]
    assert reason in plugins.broken["bad"]


def test_the_second_of_two_tools_with_one_name_is_broken(module: str) -> None:
    entries = [EntryPoint("first", f"{module}:good", GROUP), EntryPoint("second", f"{module}:several", GROUP)]
    plugins = load_plugins(entries)
    assert list(plugins.tools) == ["good"]
    assert list(plugins.broken) == ["second"]
