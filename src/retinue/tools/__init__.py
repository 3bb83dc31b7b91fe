"""Tools: what agents can do. Built-in ones, functions of plugins, and those of MCP servers.

A tool carries labels; :func:`needs_approval` says by them whether a call runs, asks a person or is refused.
"""

from retinue.tools.arguments import ArgumentCheck
from retinue.tools.calls import Tool, ToolContext, ToolFault, ToolOutcome, read_arguments
from retinue.tools.files import Upload, save_upload
from retinue.tools.functions import function_tool, tool
from retinue.tools.labels import UNLABELLED, Effect, Labels, Trust
from retinue.tools.mcp_servers import McpServer
from retinue.tools.plugins import Plugins, load_plugins
from retinue.tools.rules import Autonomy, Decision, Verdict, needs_approval
from retinue.tools.toolbox import OpenTools, Toolbox, ToolSpec
from retinue.tools.workspace import Entry, Workspace

__all__ = [
    "UNLABELLED",
    "ArgumentCheck",
    "Autonomy",
    "Decision",
    "Effect",
    "Entry",
    "Labels",
    "McpServer",
    "OpenTools",
    "Plugins",
    "Tool",
    "ToolContext",
    "ToolFault",
    "ToolOutcome",
    "ToolSpec",
    "Toolbox",
    "Trust",
    "Upload",
    "Verdict",
    "Workspace",
    "function_tool",
    "load_plugins",
    "needs_approval",
    "read_arguments",
    "save_upload",
    "tool",
]
