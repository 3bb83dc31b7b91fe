"""Loads the tools of installed packages: the entry points of the group ``retinue.tools``.

An entry is a function (marked with :func:`retinue.tools.tool`, or unlabelled), a :class:`Tool`, or a callable
without parameters that returns Tools. A plugin that is broken is named with the reason; the server starts without it.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Any, get_args, get_type_hints

from msgspec import Struct, field

from retinue.tools.calls import Tool
from retinue.tools.functions import function_tool, is_marked

logger = logging.getLogger(__name__)

GROUP = "retinue.tools"


class Plugins(Struct):
    """What was found: tools by their name, and broken entries by theirs, with the reason."""

    tools: dict[str, Tool] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)


def load_plugins(entries: Iterable[EntryPoint] | None = None, *, taken: Iterable[str] = ()) -> Plugins:
    """Load the tools of all installed plugins.

    Args:
        entries: the entry points; those that are installed when left out.
        taken: names that plugins cannot have.
    """
    plugins, names = Plugins(), set(taken)
    for entry in entry_points(group=GROUP) if entries is None else entries:
        try:
            _add(plugins, names, _tools_of(entry.load()))
        # SystemExit: a module that ends the program when it is imported must not end the server.
        except (Exception, SystemExit) as error:
            plugins.broken[entry.name] = f"{type(error).__name__}: {error}"[:500]
            logger.warning("the plugin %s (%s) is broken", entry.name, entry.value, exc_info=error)
    return plugins


def _add(plugins: Plugins, names: set[str], tools: list[Tool]) -> None:
    for tool in tools:
        if tool.name in names:
            raise ValueError(f"there is a tool called {tool.name} already")
    for tool in tools:
        names.add(tool.name)
        plugins.tools[tool.name] = tool


def _tools_of(loaded: Any) -> list[Tool]:
    if isinstance(loaded, Tool):
        return [loaded]
    if not callable(loaded):
        raise TypeError(f"an entry is a function or a Tool, not a {type(loaded).__name__}")
    if is_marked(loaded) or (inspect.isroutine(loaded) and not _makes_tools(loaded)):
        return [function_tool(loaded)]
    made = loaded()
    tools = [made] if isinstance(made, Tool) else list(made)
    return [tool if isinstance(tool, Tool) else function_tool(tool) for tool in tools]


def _makes_tools(function: Any) -> bool:
    """Tell by its return annotation whether a function is a tool or makes tools."""
    if inspect.signature(function).parameters:
        return False
    returned = get_type_hints(function).get("return")
    return returned is Tool or Tool in get_args(returned)
